/* node.h: one replica as a deterministic event handler over wal/, raft/ and the session table. The
 * shell (server/, or a simulator) brings events, carries out the effects in order, and says when
 * they are done. No threads, no sockets, no clock here.
 * Hides: founding, admission, the memory tail that feeds followers, acknowledgement, read indexes,
 * checkpoints and truncation.
 *
 * Who owns what: calls come one at a time (the shell has a lock for them). The wal is written by
 * the shell (wal thread) as effects say; the node itself reads from it at node_open, and later one
 * block of it where a seq lies below what memory holds: a tail that is cut there, a peer's block.
 */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "node/apply.h"
#include "node/peer.h"
#include "raft/raft.h"
#include "wal/log.h"

struct node;

struct node_options {
    uint64_t self;
    struct config cluster; /* --cluster: ids and addresses, self among them; incarnations 0 */
    uint32_t heartbeat_ms; /* 0: 100 */
    uint32_t election_ms;  /* 0: 500 (drawn from one to two times this) */
    uint32_t stall_ms;     /* a leader whose write takes longer steps down; 0: 2000 */
    uint64_t seed;
    uint64_t peer_window_bytes; /* on the way to one follower; 0: 8 MiB */
    uint64_t tail_bytes;        /* recent blocks kept in memory for followers; 0: 8 MiB */
    uint64_t apply_given_bytes; /* blocks kept in memory until the store has taken them, and a run
                                   of up to 1 MiB; 0: 8 MiB */
    uint64_t
        pending_bytes; /* appended and not yet committed; 0: 16 MiB, beyond: RESOURCE_EXHAUSTED */
    uint64_t store_lag_bytes;         /* of log that the leader's store may be behind before
                                         acknowledgements wait for it a little; 0: 256 MiB */
    uint64_t checkpoint_bytes;        /* flush the store after so many bytes of log; 0: 64 MiB */
    uint64_t checkpoint_ms;           /* and after so long, if something was applied; 0: 60000 */
    uint64_t retain_bytes, retain_ms; /* truncate what is older by itself; 0: never */
    bool acks_are_durable;            /* false with --sync none: durable_on stays empty */
};

enum node_ack { NODE_ACK_QUORUM = 0, NODE_ACK_LEADER = 1, NODE_ACK_ALL = 2 }; /* as on the wire */

enum node_event_type {
    NODE_EV_TICK,         /* now_ms, wall_us: at least every 20 ms */
    NODE_EV_PEER_UP,      /* peer: our stream to it is open (a new one each time) */
    NODE_EV_PEER_DOWN,    /* peer: it broke; text (may be NULL): what the peer said */
    NODE_EV_PEER_MESSAGE, /* peer (0 while its stream has not said hello), stream, msg */

    /* done by the wal thread */
    NODE_EV_PERSISTED, /* seq, epoch: a WRITE (and all before it) is durable, or written with --sync
                          none */
    NODE_EV_SYNCED, /* seq, epoch: --sync none: what PERSISTED told up to there is durable by now */
    NODE_EV_VOTE_SAVED,  /* term, vote */
    NODE_EV_CUT_DONE,    /* seq, epoch */
    NODE_EV_FOUND_SAVED, /* founding */
    NODE_EV_TRUNCATED, /* seq: the `upto` of the effect; base: what lies below the first seq now */
    NODE_EV_SPACE,     /* low: the disk's free space fell below the reserve, or is back */
    /* done by the apply thread */
    NODE_EV_APPLIED, /* seq, bytes of log */
    NODE_EV_FLUSHED, /* seq: the store durably holds all up to it */
    /* done by the reader thread */
    NODE_EV_FED, /* peer, ticket, blocks (from the seq asked for; blob NULL: failed, text; damaged:
                    because of rot) */

    /* asked by clients; `token` comes back in exactly one REPLY each */
    NODE_EV_APPEND, /* append */
    NODE_EV_OPEN_SESSION,
    NODE_EV_READ_INDEX, /* wait_applied: answer once the store has applied it too */
    NODE_EV_CHECKPOINT,
    NODE_EV_TRUNCATE, /* seq: upto */
    NODE_EV_TRANSFER  /* peer or 0; no reply: a leader that shuts down */
};

struct node_append {
    struct blob *block; /* made by block_finish, for this append alone: sealed by the node, which
                           keeps a reference if it is large */
    uint32_t n_records;
    uint16_t flags;
    enum node_ack ack;
    uint64_t session, sequence, acked_below; /* session 0: none */
};

struct node_event {
    enum node_event_type type;
    uint64_t now_ms, wall_us;
    uint64_t peer, stream, token, seq, epoch, term, vote, bytes, ticket;
    uint64_t deadline_ms; /* of a client's request, 0: none; answered DEADLINE_EXCEEDED by then */
    enum wal_founding founding;
    bool low, wait_applied, damaged;
    const char *text;
    const struct peer_msg *msg; /* borrowed; the node takes its own references */
    struct node_bytes blocks;   /* NODE_EV_FED; borrowed */
    struct node_append append;
    struct wal_pos base;
};

enum node_effect_type {
    /* for the wal thread, strictly in this order among themselves */
    NODE_FX_WRITE,     /* blocks, seq (last), epoch: append, sync, then PERSISTED */
    NODE_FX_SYNC,      /* --sync none: sync what is written, then SYNCED */
    NODE_FX_SAVE_VOTE, /* term, vote: save, then VOTE_SAVED */
    NODE_FX_CUT,       /* seq, epoch: wal_cut, then CUT_DONE */
    NODE_FX_FOUND,     /* founding, cluster_id, config: wal_found, then FOUND_SAVED */
    NODE_FX_TRUNCATE,  /* seq, config: wal_truncate, then TRUNCATED; may overtake a WRITE that waits
                          for space */
    /* for the network */
    NODE_FX_SEND,    /* peer, msg: on our stream to it; dropped when there is none */
    NODE_FX_REFUSE,  /* stream, text: end that inbound stream with FAILED_PRECONDITION */
    NODE_FX_WELCOME, /* stream, peer: that inbound stream is from this member from now on */
    /* for the reader thread */
    NODE_FX_FEED, /* peer, ticket, seq: read blocks from seq on, up to limit_seq and about
                     `bytes`, then FED */
    /* for the apply thread */
    NODE_FX_APPLY, /* seq: apply up to there; a later one replaces it; then APPLIED as it goes on.
                      blocks, if any: some of what leads up to there, for apply_give */
    NODE_FX_FLUSH, /* flush the store, then FLUSHED */
    /* for clients */
    NODE_FX_REPLY,   /* token, status, text, reply */
    NODE_FX_PUBLISH, /* commit, role or leader changed: node_snapshot is worth copying */
    NODE_FX_FATAL    /* text: stop the process, acknowledge nothing more */
};

struct node_holder {
    uint64_t id, checkpoint_seq;
};
struct node_reply {
    uint64_t first_seq, last_seq, term, sequence; /* append, session (first_seq: its id) */
    uint64_t durable_on[RAFT_MAX_MEMBERS];
    unsigned n_durable_on;
    uint64_t seq, safe_seq; /* read index; checkpoint */
    uint64_t requested;     /* truncate; first_seq too */
    struct node_holder held_by[RAFT_MAX_MEMBERS];
    unsigned n_held_by;
    uint64_t leader; /* UNAVAILABLE: who leads, 0: unknown */
};

struct node_effect {
    enum node_effect_type type;
    uint64_t peer, stream, token, seq, epoch, term, vote, cluster_id, ticket, limit_seq, bytes;
    enum wal_founding founding;
    const struct config *config; /* FOUND, TRUNCATE: the node's own, copied by the shell at once */
    struct node_bytes blocks;    /* WRITE, APPLY: one reference that the shell releases */
    struct peer_msg msg;         /* SEND: its blocks likewise */
    replog_status status;
    struct node_reply reply;
    char text[240];
};

/* Effects in order; zero-initialised is empty. node_step and node_pump append to it; the shell
 * empties it with node_effects_clear once it has taken what it needs (references included). */
struct node_effects {
    struct node_effect *items;
    size_t n, capacity;
};
void node_effects_clear(struct node_effects *fx); /* n = 0; releases nothing in the items */
/* The shell may carry out the effects of several events together, in NODE_PASSES passes over all of
 * them, each effect in the pass that this says: who waits most goes first (disks and followers for
 * blocks, then clients for answers, then the rest, such as news of the commit). */
enum { NODE_PASSES = 3 };
unsigned node_effect_pass(const struct node_effect *fx);
void node_effects_free(struct node_effects *fx);

/* Loads state from wal and applier (sessions, CHECKPOINT, term runs; reads the headers of blocks
 * above the applied seq). Both are borrowed and must outlive the node. FAILED_PRECONDITION when the
 * directory does not fit --cluster (says how); DATA_LOSS. */
replog_status node_open(const struct node_options *options, struct wal *wal,
                        const struct applier *applier, uint64_t now_ms, struct node **node,
                        replog_error *err);
void node_close(struct node *node);

/* Takes one event. Cheap effects (writes to the log, messages with blocks) are gathered until
 * node_pump, which the shell calls after each bunch of events: that is the group commit. */
void node_step(struct node *node, const struct node_event *event, struct node_effects *fx);
void node_pump(struct node *node, struct node_effects *fx);
/* Whether something is held back for a moment: the next TICK and pump must come within 2 ms. */
bool node_wants_pump(const struct node *node);

/* What others may know of this node; copied by the shell for other threads. */
struct node_peer_view {
    uint64_t id, match_seq, checkpoint_seq, applied_seq, silence_ms;
    bool online; /* heard within two election timeouts (leader: by replies) */
    uint64_t lag_bytes;
};
struct node_snapshot {
    uint64_t self, term, leader, cluster_id;
    enum raft_role role;
    enum wal_founding founding;
    bool ready; /* leader: serves reads and admits appends */
    uint64_t first_seq, last_seq, durable_seq, commit_seq, applied_seq, checkpoint_seq;
    uint64_t safe_seq, drop_upto;
    struct config config; /* members with their addresses */
    struct node_peer_view
        peers[RAFT_MAX_MEMBERS]; /* in the order of config.members; self included */
    unsigned n_peers;
    struct node_holder held_by[RAFT_MAX_MEMBERS];
    unsigned n_held_by;
    uint64_t pending_bytes, tail_bytes, sessions, appends, bytes_appended, elections;
    bool space_low;
    bool cut_off; /* knows no leader, for several elections, or no cluster: others may have more */
    char refused[240]; /* why the others refuse this node; empty: they do not */
};
void node_snapshot(const struct node *node, struct node_snapshot *out);

#endif

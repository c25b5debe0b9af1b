/* node_impl.h: what the files of node/ share. Nobody outside node/ includes it.
 *
 *   node.c        opening, dispatch of events, pump, snapshot
 *   effects.c     the list of effects, replies
 *   founding.c    hello, founding, who is welcome
 *   lies.c        what no honest member says
 *   replicate.c   raft's events and effects; blocks in and out; feeding followers
 *   append.c      admission, sealing, waiting for acknowledgement
 *   reads.c       read indexes, and what else needs a proof that this node still leads
 *   checkpoint.c  flushes, CHECKPOINT records, truncation
 *   tail.c, session.c, apply.c   see their headers */
#ifndef NODE_NODE_IMPL_H
#define NODE_NODE_IMPL_H

#include "base/mutant.h"
#include "node/node.h"
#include "node/tail.h"
#include "node/window.h"

enum {
    NODE_MAX_PENDING = 65536,     /* appends that wait for their acknowledgement */
    NODE_MAX_READS = 4096,        /* read indexes asked for */
    NODE_MAX_ADMIN = 64,          /* checkpoint and truncate requests */
    NODE_MAX_MARKERS = 4096,      /* markers appended and not yet committed */
    NODE_GATHER_MESSAGES = 2,     /* on their way to a follower: then blocks are gathered */
    NODE_GATHER_BYTES = 64 << 10, /* up to so many */
    NODE_GATHER_MS = 2,           /* and for so long after the last one left */
    NODE_DEFAULT_DEADLINE_MS = 10000,
    NODE_ASK_AGAIN_MS = 150,
    NODE_RAFT_QUEUE = 8,
    NODE_APPLY_BYTES = 1 << 20,
    NODE_APPLY_RUN_BYTES = 1 << 20, /* of memory's blocks that go with one APPLY */
    NODE_APPLY_MS = 15,
    NODE_COMMIT_NEWS_MS = 2 /* how long a bare commit waits for blocks that carry it as well */
};

/* One other member. */
struct node_peer {
    uint64_t id;
    bool up;            /* our stream to it is open */
    uint64_t in_stream; /* its stream to us, welcomed; 0: none */
    bool heard;         /* `hello` is its newest */
    struct peer_hello hello;
    uint64_t heard_ms; /* last message from it */
    uint64_t checkpoint_seq, applied_seq;
    /* feeding it (leader) */
    bool streaming;
    uint64_t next_seq;      /* first seq of the next block to send */
    struct window inflight; /* messages with blocks that it has not acknowledged */
    uint64_t sent_ms;       /* the newest of them */
    bool gathering;         /* blocks wait for more to go with them */
    bool feed_pending;      /* the reader thread is at it */
    uint64_t ticket;        /* of the newest FEED; answers to older ones are dropped */
    bool heartbeat_held;    /* a heartbeat that the next blocks, or a pump, will carry */
    struct raft_msg heartbeat;
    uint64_t held_since_ms;
    uint64_t told_round; /* newest round that went out; an older one held only tells the commit */
};

/* An append (or session) that waits for its acknowledgement. Each queue is sorted by last_seq. */
struct pending {
    uint64_t token; /* 0: answered already */
    uint64_t first_seq, last_seq, term, sequence, deadline_ms;
    uint64_t not_before_ms; /* see append_tick */
};
struct pending_queue {
    struct pending *ring;
    size_t head, n, capacity;
};

/* A marker in the log above what is committed. */
struct log_marker {
    uint64_t seq, last_seq;
    replog_op op;
    struct checkpoint_marker checkpoint;
};

/* The blocks of the message in hand, each checked by itself and behind the one before. */
struct incoming {
    struct blob *blob;
    struct raft_entry *entries;
    struct block_header *headers;
    size_t *offsets; /* in the blob's data */
    size_t n;
};

/* Why a message cannot be true; goes behind "member N ". */
struct lie {
    char text[200];
};

/* Why an append's number is refused. */
struct refusal {
    enum session_verdict verdict; /* SESSION_ADMIT: none */
    uint64_t session, sequence, expected;
};

struct read_wait {
    uint64_t context;       /* ours, unique */
    uint64_t token;         /* a local caller's; 0: asked by a peer */
    struct refusal refusal; /* in place of an index: said when this node is known to lead still */
    uint64_t peer, peer_context;
    uint64_t deadline_ms, asked_ms; /* asked_ms 0: not asked yet */
    uint64_t asked;                 /* the member that was asked last; 0: the core here */
    uint64_t seq;                   /* the index, once known; 0: not yet */
    bool known, wait_applied;
};

/* A Checkpoint or Truncate call that waits. */
struct admin_wait {
    uint64_t token, deadline_ms, started_ms;
    bool truncate;
    uint64_t target;     /* stores must hold this durably; truncate: upto */
    uint64_t marker_seq; /* of the CHECKPOINT record that answers it; 0: not appended yet */
};

struct node {
    struct node_options options;
    struct wal *wal;
    uint64_t self, incarnation, cluster_id, map_id;
    enum wal_founding founding;
    bool founding_save_pending;
    struct config config; /* ids and addresses; incarnations once agreed */
    char refused[240];

    uint64_t now_ms, wall_us;
    uint64_t rng;

    struct raft *raft; /* NULL until founded */
    struct raft_effects raft_fx;
    bool in_step;                                  /* effects of the core are being carried out */
    struct raft_event raft_queue[NODE_RAFT_QUEUE]; /* what they caused; handled behind them */
    unsigned n_raft_queue;
    enum raft_role role;
    uint64_t leader, elections;

    struct tail tail;
    struct wal_pos base;     /* right below the first seq */
    uint64_t write_next;     /* first seq that no WRITE effect has carried yet */
    uint64_t write_since_ms; /* unpersisted writes are outstanding since; 0: none */
    struct session_table *sessions;
    uint64_t pending_bytes; /* of blocks above the commit */
    bool space_low;

    struct log_marker *markers;
    size_t n_markers, markers_capacity;

    struct node_peer peers[RAFT_MAX_MEMBERS];
    unsigned n_peers;

    struct pending_queue waiting[3]; /* by enum node_ack */
    struct read_wait *reads;
    size_t n_reads, reads_capacity;
    uint64_t next_context;
    uint64_t pace_ms, pace_told_ms; /* what acknowledgements wait beside; when that was logged */
    uint64_t leader_known_ms;       /* when a leader was last known; 0: before the first tick */
    struct admin_wait admin[NODE_MAX_ADMIN];
    unsigned n_admin;

    uint64_t applied_seq, apply_sent;
    struct window apply_given; /* what of it was given from memory, and is not applied */
    uint64_t unapplied_bytes;  /* committed since the last APPLY, about */
    uint64_t apply_sent_ms;
    uint64_t synced_seq, sync_asked; /* --sync none: durable for certain; asked to be */
    uint64_t checkpoint_seq;         /* the store here durably holds all up to it */
    bool flush_pending;
    uint64_t bytes_since_flush, last_flush_ms;
    uint64_t flush_wanted; /* flush until checkpoint_seq reaches it */
    struct checkpoint_marker committed_marker, logged_marker; /* last committed; last in the log */
    struct checkpoint_marker told_marker; /* what the leader says is committed */
    uint64_t drop_wanted;                 /* leader: asked for, perhaps not in the log yet */
    uint64_t truncate_sent, truncate_done;
    uint64_t last_retention_ms;

    uint64_t appends, bytes_appended;
    bool publish; /* the snapshot changed */
    bool fatal;
};

/* ---- effects.c */
struct node_effect *fx_add(struct node_effects *fx, enum node_effect_type type);
void fx_fatal(struct node *n, struct node_effects *fx, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Ends a client's request with a status and a sentence; token 0: nothing. */
void fx_fail(struct node *n, struct node_effects *fx, uint64_t token, replog_status status,
             const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Ends it with OK; *reply is filled by the caller. */
struct node_reply *fx_reply(struct node_effects *fx, uint64_t token);
void fx_send(struct node *n, struct node_effects *fx, struct node_peer *p, struct peer_msg *msg);

/* ---- node.c */
struct node_peer *node_find_peer(struct node *n, uint64_t id);
bool node_is_leader(const struct node *n);
/* Bytes of log above seq: exact in what memory holds, below that by the log's average bytes a
 * record. */
uint64_t node_bytes_above(const struct node *n, uint64_t seq);
bool node_peer_online(const struct node *n, const struct node_peer *p);
/* Fails a request that only the leader can take. */
void node_not_leader(struct node *n, struct node_effects *fx, uint64_t token);
/* Makes the raft core once the cluster is founded. */
replog_status node_start_raft(struct node *n, replog_error *err);

/* ---- founding.c */
void founding_peer_up(struct node *n, struct node_peer *p, struct node_effects *fx);
/* `bound`: the member whose stream it is, 0: not known before this. */
void founding_hello(struct node *n, const struct peer_hello *hello, uint64_t stream, uint64_t bound,
                    struct node_effects *fx);
/* Ends an inbound stream; nothing that comes on it counts any more. */
void founding_refuse(struct node *n, uint64_t stream, const char *text, struct node_effects *fx);
void founding_advance(struct node *n, struct node_effects *fx);
void founding_saved(struct node *n, enum wal_founding founding, struct node_effects *fx);

/* ---- lies.c: both true when there is one. `in` may be empty. */
bool lies_in_message(const struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                     struct lie *lie);
bool lies_in_blocks(const struct node *n, const struct raft_msg *m, const struct incoming *in,
                    struct lie *lie);

/* ---- replicate.c */
/* Feeds the raft core one event and carries out what follows; `in` is what came with a message. */
void replicate_event(struct node *n, const struct raft_event *event, const struct incoming *in,
                     struct node_effects *fx);
void replicate_message(struct node *n, struct node_peer *p, uint64_t stream,
                       const struct peer_msg *msg, struct node_effects *fx);
/* A block stands at the end of the tail: sessions and markers learn of it. */
bool replicate_note_block(struct node *n, const uint8_t *bytes, const struct block_header *h);
void replicate_writes(struct node *n, struct node_effects *fx);
void replicate_feed(struct node *n, struct node_effects *fx);
void replicate_fed(struct node *n, const struct node_event *event, struct node_effects *fx);
void replicate_peer_down(struct node *n, struct node_peer *p, struct node_effects *fx);

/* ---- append.c */
void append_request(struct node *n, const struct node_event *event, struct node_effects *fx);
void append_session(struct node *n, const struct node_event *event, struct node_effects *fx);
/* Seals `block` behind the tail as this leader's. Returns its last seq, 0 when memory is short. */
uint64_t append_block(struct node *n, struct blob *block, uint32_t n_records, uint16_t flags,
                      uint64_t session, uint64_t sequence, uint64_t acked_below,
                      struct node_effects *fx);
/* One marker as a block of its own, behind the tail. 0 when memory is short. */
uint64_t append_marker(struct node *n, replog_op op, struct slice value, struct node_effects *fx);
/* A term begins with a TERM record; the first of all has a CONFIG record behind it. */
void append_term(struct node *n, struct node_effects *fx);
void append_settle(struct node *n, struct node_effects *fx); /* answers what has become true */
/* Deadlines, and the pace: a store that cannot follow would be left ever further behind, and the
 * log, which waits for the stores, would fill the disk. So acknowledgements wait, the longer the
 * further the leader's own store is behind: clients bound what they have in flight. At most 200 ms:
 * a new leader whose store has much to do yet serves all the same. */
void append_tick(struct node *n, struct node_effects *fx);
void append_fail_all(struct node *n, struct node_effects *fx); /* leadership is lost */
void append_refuse(struct node *n, uint64_t token, const struct refusal *why,
                   struct node_effects *fx);
void append_free(struct node *n);

/* ---- reads.c */
void reads_request(struct node *n, const struct node_event *event, struct node_effects *fx);
/* Refuses an append once this node is known to lead: a deposed leader does not know what sessions
 * and numbers a later one's log holds. UNAVAILABLE if it does not lead any more. */
void reads_refuse(struct node *n, const struct node_event *event, const struct refusal *why,
                  struct node_effects *fx);
void reads_leader_lost(struct node *n, struct node_effects *fx);
void reads_asked(struct node *n, struct node_peer *p, uint64_t context, struct node_effects *fx);
void reads_answered(struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                    struct node_effects *fx);
void reads_known(struct node *n, uint64_t context, bool ok, uint64_t seq, struct node_effects *fx);
void reads_settle(struct node *n, struct node_effects *fx);
void reads_tick(struct node *n, struct node_effects *fx);
/* It has known no leader for several elections: it is cut off, or a majority is down; or no cluster
 * is founded yet. */
bool reads_cut_off(const struct node *n);

/* ---- checkpoint.c */
void checkpoint_request(struct node *n, const struct node_event *event, struct node_effects *fx);
void checkpoint_tick(struct node *n, struct node_effects *fx);
/* Advances everything that waits for checkpoints; after applied, flushed, reports, commits. */
void checkpoint_advance(struct node *n, struct node_effects *fx);
void checkpoint_fail_all(struct node *n, struct node_effects *fx);
void checkpoint_fill_holders(const struct node *n, uint64_t upto, struct node_holder *held_by,
                             unsigned *n_held_by);

#endif

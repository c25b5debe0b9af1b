/* raft.h: the replication core, a pure state machine: raft_step takes one event and returns the
 * effects that the caller must carry out. No I/O, no clock, no threads, no entries in memory: it
 * knows the log as a table of term runs and the positions of block ends.
 *
 * Follows D. Ongaro, "Consensus: Bridging Theory and Practice" (2014): 3.4-3.6 (election, log
 * matching, commitment), 3.10 (leadership transfer), 6.4 (read index), 9.6 (pre-vote); check-quorum
 * and the refusal of votes while a leader is heard: 4.2.3 and 6.2.
 * Hides: roles, terms, votes, progress of the peers.
 *
 * Differences from the paper, all of them on purpose:
 *  - An entry is a block of records; its index is the seq of its last record. A position (seq,
 *    term) always is the end of a block.
 *  - A block counts for a member once it is durable there; so it does for the leader itself.
 *  - The caller streams the bytes. This core says from where (STREAM), and is told how far (SENT).
 *  - Nothing that depends on a vote or term leaves before the caller said VOTE_SAVED: the core
 *    holds such messages back itself. */
#ifndef RAFT_RAFT_H
#define RAFT_RAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct raft;

enum { RAFT_MAX_MEMBERS = 15 };

struct raft_run { /* from first_seq on the log's term is `term` */
    uint64_t term, first_seq;
};

struct raft_entry { /* one block */
    uint64_t first_seq, last_seq, term;
};

struct raft_config {
    uint64_t self;
    uint64_t voters[RAFT_MAX_MEMBERS]; /* self among them, ascending */
    unsigned n_voters;
    uint32_t heartbeat_ms; /* a leader speaks at least so often */
    uint32_t election_ms;  /* timeouts are drawn from [election_ms, 2 * election_ms) */
    uint64_t seed;         /* of the timeouts */
};

/* What is on disk when the node starts. All of the log is durable then. */
struct raft_start {
    uint64_t term, voted_for;
    uint64_t base_seq, base_term; /* right below the first seq; committed by definition */
    uint64_t last_seq;            /* == base_seq when the log is empty */
    const struct raft_run *runs;  /* of base_seq + 1 .. last_seq, ascending; copied */
    size_t n_runs;
    uint64_t commit_seq; /* known committed (the store's applied seq), at least base_seq */
    uint64_t now_ms;
    bool may_stand; /* false: never becomes candidate (damaged, or not yet founded) */
};

enum raft_msg_type {
    RAFT_PREVOTE,
    RAFT_PREVOTE_REPLY,
    RAFT_VOTE,
    RAFT_VOTE_REPLY,
    RAFT_APPEND,
    RAFT_APPEND_REPLY,
    RAFT_TIMEOUT_NOW
};

struct raft_msg {
    enum raft_msg_type type;
    uint64_t from, to, term;
    /* PREVOTE, VOTE: the candidate's last position. APPEND: the position before the entries; in an
     * empty one (heartbeat, probe) the position up to which the follower should have the log. */
    uint64_t seq, seq_term;
    /* APPEND: the leader's commit; APPEND_REPLY: the follower's. */
    uint64_t commit_seq;
    /* APPEND: number of the leader's round, echoed in the reply (check-quorum, read index). An
     * empty APPEND of a round that was heard before is not answered when it matches. */
    uint64_t round;
    /* *_REPLY: granted / accepted. An APPEND_REPLY that accepts has seq = the last seq that is
     * durable there and known to match, and in seq_term (which is no term then) the last seq that
     * is known to match, durable or not. One that does not accept has (seq, seq_term) = the
     * follower's term at a seq at or below what was asked, such that nothing above it can match. */
    bool ok;
    /* VOTE and PREVOTE: asked for by the leader itself (leadership transfer): do not wait for its
     * silence. */
    bool transfer;
    /* APPEND on receipt only: the blocks that came with it, in order, continuing (seq, seq_term).
     * Borrowed for the call. */
    const struct raft_entry *entries;
    size_t n_entries;
};

enum raft_event_type {
    RAFT_EV_TICK,       /* now_ms: time has passed; at least every heartbeat_ms / 2 */
    RAFT_EV_MESSAGE,    /* msg: from a peer */
    RAFT_EV_APPENDED,   /* entry: this leader sealed a block behind its tail (LEAD included) */
    RAFT_EV_PERSISTED,  /* seq, epoch: all up to seq is durable here, written under that epoch (or
                           kept by the CUT that began it) */
    RAFT_EV_VOTE_SAVED, /* term, vote: what SAVE_VOTE asked for is durable */
    RAFT_EV_SENT,       /* peer, seq: blocks up to seq are on their way to the peer; an APPEND that
                           is sent later must not overtake them */
    RAFT_EV_LOST,       /* peer: the connection broke; what was on its way may be lost. A follower
                           that lost its leader asks for pre-votes soon */
    RAFT_EV_TRANSFER,   /* peer: hand leadership to it (0: to the one that is furthest) */
    RAFT_EV_READ,       /* context: a read index is wanted; READ_FAIL at once when this is not a
                           leader that is raft_ready, or 1024 reads wait already */
    RAFT_EV_STEP_DOWN,  /* give up leadership (a stalled disk) */
    RAFT_EV_MAY_STAND   /* from now on this member may stand for election */
};

struct raft_event {
    enum raft_event_type type;
    uint64_t now_ms;
    const struct raft_msg *msg;
    struct raft_entry entry;
    uint64_t seq, epoch;
    uint64_t term, vote;
    uint64_t peer;
    uint64_t context;
};

enum raft_role { RAFT_FOLLOWER, RAFT_PRECANDIDATE, RAFT_CANDIDATE, RAFT_LEADER };

enum raft_effect_type {
    RAFT_FX_SEND,      /* msg (no entries: heartbeats, probes, votes, replies) */
    RAFT_FX_SAVE_VOTE, /* term, vote: make durable, then VOTE_SAVED */
    RAFT_FX_ROLE,      /* role, term, leader (0: unknown) changed */
    RAFT_FX_LEAD,      /* became leader: seal and append the TERM record now, say APPENDED */
    RAFT_FX_STREAM,    /* peer, seq: it matches up to seq; send blocks from seq + 1 on, and whatever
                          is appended later, each message an APPEND made with raft_append_header.
                          Starts or restarts the stream (forget what was in flight) */
    RAFT_FX_UNSTREAM,  /* peer: stop streaming to it */
    RAFT_FX_ACKED,     /* peer, seq: durable there and matching up to seq. During a stream also when
                          that was known: what the stream sent may have been there already. May fall: a
                          late answer says less than one before */
    RAFT_FX_CUT,       /* seq, epoch: drop everything above seq; later writes carry the new epoch.
                          Once done, and all that is kept is durable: PERSISTED{seq, epoch} */
    RAFT_FX_ACCEPT,    /* first, n: write entries[first .. n) of the message in hand at the tail.
                          The leader gets its answer when they are PERSISTED */
    RAFT_FX_COMMIT,    /* seq: committed grew to seq */
    RAFT_FX_READ_OK,   /* context, seq: reads at seq are linearizable */
    RAFT_FX_READ_FAIL, /* context: not the leader (any more), not ready, or too many wait */
    RAFT_FX_FATAL      /* text (static): an invariant is broken (say, a committed entry would be
                          cut): stop. Every later step does nothing */
};

struct raft_effect {
    enum raft_effect_type type;
    struct raft_msg msg;
    uint64_t peer, seq, term, vote, epoch, leader, context;
    enum raft_role role;
    size_t first, n;
    const char *text;
};

/* A list of effects, in the order in which they must be carried out. Zero-initialised is empty;
 * raft_step clears it first. */
struct raft_effects {
    struct raft_effect *items;
    size_t n, capacity;
};
void raft_effects_free(struct raft_effects *fx);

/* NULL when memory is short. Copies what it is given. The epoch starts at 1. The caller has seen to
 * it (CHECKed) that the start is sound: commit_seq <= last_seq (below the base it counts as the
 * base), runs that cover (base_seq, last_seq] (the first may begin below) with ascending terms; and
 * that heartbeat_ms < election_ms. */
struct raft *raft_new(const struct raft_config *config, const struct raft_start *start);
void raft_free(struct raft *r);

/* Takes one event. event->now_ms is looked at for every type; 0 or a time in the past: as before.
 * Messages that are malformed, not for this member or not from a voter are ignored. Where memory
 * for the effects or the term runs cannot be had the process ends (CHECK). */
void raft_step(struct raft *r, const struct raft_event *event, struct raft_effects *fx);

/* ---- Queries */
enum raft_role raft_role(const struct raft *r);
uint64_t raft_term(const struct raft *r);
uint64_t raft_leader(const struct raft *r); /* 0: unknown */
uint64_t raft_commit(const struct raft *r);
uint64_t raft_last(const struct raft *r);      /* the tail, perhaps not durable */
uint64_t raft_persisted(const struct raft *r); /* durable here */
uint64_t raft_epoch(const struct raft *r);
/* Leader: what is durable there and matches; self: persisted; else 0. */
uint64_t raft_match(const struct raft *r, uint64_t peer);
/* The leader has committed an entry of its own term: it may serve reads and admit appends. */
bool raft_ready(const struct raft *r);
/* To whom leadership is being handed (admit nothing until it is 0 again, or the role is lost); 0:
 * nobody. Given up after election_ms. */
uint64_t raft_transferring(const struct raft *r);
/* Milliseconds since the leader last heard from the peer; UINT64_MAX: never in this term. On a
 * follower: since it heard from the leader; UINT64_MAX for every other. Self: 0. */
uint64_t raft_silence_ms(const struct raft *r, uint64_t peer);
/* The term at a seq in (base, last]; base_term at base; 0 outside. */
uint64_t raft_term_at(const struct raft *r, uint64_t seq);
/* Truncation moved the base: forget runs below. base_seq is the end of a block, committed. */
void raft_set_base(struct raft *r, uint64_t base_seq, uint64_t base_term);
/* The APPEND message for blocks that follow position `prev_seq` (at or above the base), to be sent
 * to `peer` with them. Make it when it is sent: it carries the commit and round of that moment. */
struct raft_msg raft_append_header(const struct raft *r, uint64_t peer, uint64_t prev_seq);

#endif

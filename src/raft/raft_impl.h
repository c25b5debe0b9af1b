/* raft_impl.h: what the parts of raft/ share. Hides (from everybody else): the table of term runs,
 * the progress of the peers, messages held back until a vote is saved, and the queue of reads.
 *   raft.c         construction, dispatch, time, queries, effects
 *   election.c     terms, votes, campaigns, who leads
 *   replication.c  matching, streams, acknowledgement, commit, transfer
 *   reads.c        read index
 *   runs.c         the log as a table of term runs */
#ifndef RAFT_RAFT_IMPL_H
#define RAFT_RAFT_IMPL_H

#include "base/mutant.h"
#include "raft/raft.h"

enum { RAFT_MAX_READS = 1024, RAFT_N_MSG_TYPES = RAFT_TIMEOUT_NOW + 1 };

/* ---- The log as runs of equal term (runs.c). Positions are ends of blocks. Run i ends where run
 * i + 1 begins, the last one at last_seq; the first one begins at base_seq + 1. */
struct position {
    uint64_t seq, term;
};

struct runs {
    struct raft_run *items; /* terms and seqs both strictly ascend */
    size_t n, capacity;
    uint64_t base_seq, base_term, last_seq;
};

/* False when memory is short. Runs that end at or below the base are left out. */
bool raft_runs_init(struct runs *runs, const struct raft_start *start);
void raft_runs_free(struct runs *runs);
/* `entry` continues the tail, with a term that does not fall. */
void raft_runs_append(struct runs *runs, const struct raft_entry *entry);
void raft_runs_cut(struct runs *runs, uint64_t seq);
void raft_runs_set_base(struct runs *runs, uint64_t base_seq, uint64_t base_term);
uint64_t raft_runs_term_at(const struct runs *runs, uint64_t seq); /* 0 outside [base, last] */
uint64_t raft_runs_last_term(const struct runs *runs);
/* Follower: `asked` does not match. The largest position at or below asked.seq whose term is not
 * above asked.term: no position above it can match. */
struct position raft_runs_hint(const struct runs *runs, struct position asked);
/* Leader: where to ask next after that hint; an end of a block of this log, below what was asked
 * unless that was the base. */
uint64_t raft_runs_ask_below(const struct runs *runs, struct position hint);

/* ---- A voter as the leader (match and the like) or candidate sees it */
struct peer {
    uint64_t id;
    uint64_t match;        /* durable there and matching */
    uint64_t sent;         /* streaming: on its way */
    uint64_t probe_seq;    /* probing: the position to ask about */
    uint64_t probe_round;  /* the round of the last probe: only its rejection counts */
    uint64_t stream_round; /* rejections of older rounds are about an older stream */
    uint64_t acked_round;  /* the highest round that it answered in this term */
    uint64_t heard_ms;     /* last reply in this term, if heard */
    bool heard, streaming;
};

struct read_request {
    uint64_t context, seq;
    uint64_t round; /* that must be answered by a majority; 0: none was started since it came */
};

struct raft {
    struct raft_config config;
    unsigned self_index;
    uint64_t rng, now_ms;
    bool may_stand, dead; /* dead: FATAL was said */

    uint64_t term, vote;
    uint64_t asked_term, asked_vote;                          /* what the last SAVE_VOTE said */
    uint64_t saved_term, saved_vote;                          /* what is durable */
    struct raft_msg held[RAFT_MAX_MEMBERS][RAFT_N_MSG_TYPES]; /* until (term, vote) is durable */
    bool is_held[RAFT_MAX_MEMBERS][RAFT_N_MSG_TYPES];

    enum raft_role role;
    uint64_t leader;
    enum raft_role told_role; /* by the last ROLE */
    uint64_t told_term, told_leader;
    uint32_t votes; /* candidates: bit i: voter i granted */
    uint64_t election_due_ms;

    struct runs runs;
    uint64_t commit, persisted, epoch;

    /* follower */
    uint64_t matched;         /* highest seq known to match the leader's log, durable or not */
    uint64_t leader_heard_ms; /* valid while leader is another member */
    uint64_t leader_round;    /* the highest round heard from it */
    unsigned hurry;           /* pre-votes that are still asked for soon: the leader was lost */

    /* leader */
    struct peer peers[RAFT_MAX_MEMBERS]; /* parallel to config.voters */
    uint64_t round, lead_since_ms, heartbeat_due_ms;
    uint64_t transfer_to, transfer_due_ms;
    struct read_request reads[RAFT_MAX_READS]; /* a ring, oldest at reads_head */
    size_t reads_head, n_reads;
    uint64_t read_round; /* the last round started for a read; 0: none is under way */
};

/* ---- raft.c */
struct raft_effect *raft_fx_push(struct raft_effects *fx, enum raft_effect_type type);
struct raft_msg raft_msg_to(const struct raft *r, enum raft_msg_type type, uint64_t to);
/* SEND, or held back while the term and vote that it depends on are not durable. */
void raft_send(struct raft *r, const struct raft_msg *msg, struct raft_effects *fx);
void raft_fail(struct raft *r, const char *text, struct raft_effects *fx);
int raft_voter_index(const struct raft *r, uint64_t id); /* -1: none */
static inline unsigned raft_majority(const struct raft *r) {
    return r->config.n_voters / 2 + (MUTANT(HALF_IS_MAJORITY) ? r->config.n_voters % 2 : 1);
}
/* The largest value that a majority of the `n` has reached. Reorders them. */
uint64_t raft_majority_value(const struct raft *r, uint64_t *values);

/* ---- election.c */
void raft_reset_election_timer(struct raft *r);
void raft_leader_lost(struct raft *r);
void raft_announce_role(struct raft *r, struct raft_effects *fx); /* ROLE, if anything changed */
void raft_save_vote(struct raft *r, struct raft_effects *fx); /* SAVE_VOTE, if anything changed */
bool raft_vote_is_saved(const struct raft *r);
bool raft_leader_is_alive(const struct raft *r);
void raft_raise_term(struct raft *r, uint64_t term, struct raft_effects *fx);
/* A follower of `leader` (0: unknown) in this term. */
void raft_become_follower(struct raft *r, uint64_t leader, struct raft_effects *fx);
void raft_election_tick(struct raft *r, struct raft_effects *fx);
void raft_campaign(struct raft *r, bool transfer, struct raft_effects *fx);
void raft_on_vote_saved(struct raft *r, uint64_t term, uint64_t vote, struct raft_effects *fx);
void raft_on_prevote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_prevote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_vote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_vote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_timeout_now(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_step_down(struct raft *r, struct raft_effects *fx);

/* ---- replication.c */
void raft_start_leading(struct raft *r, struct raft_effects *fx); /* probes to everybody */
void raft_stop_leading(struct raft *r, struct raft_effects *fx);
void raft_leader_tick(struct raft *r, struct raft_effects *fx);
void raft_broadcast_round(struct raft *r, struct raft_effects *fx); /* a new round to every peer */
void raft_on_append(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_refuse_append(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_append_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx);
void raft_on_appended(struct raft *r, const struct raft_entry *entry);
void raft_on_persisted(struct raft *r, uint64_t seq, uint64_t epoch, struct raft_effects *fx);
void raft_on_sent(struct raft *r, uint64_t peer, uint64_t seq);
void raft_on_lost(struct raft *r, uint64_t peer, struct raft_effects *fx);
void raft_on_transfer(struct raft *r, uint64_t peer, struct raft_effects *fx);

/* ---- reads.c */
void raft_on_read(struct raft *r, uint64_t context, struct raft_effects *fx);
void raft_reads_round_started(struct raft *r); /* by raft_broadcast_round, with the new round */
void raft_reads_confirm(struct raft *r, struct raft_effects *fx);
void raft_reads_fail(struct raft *r, struct raft_effects *fx);

#endif

/* election.c: terms, votes and campaigns. See raft_impl.h. */
#include "raft/raft_impl.h"

#include <string.h>

#include "base/check.h"
#include "base/clock.h"

enum { HURRIED_PREVOTES = 6 };

void raft_reset_election_timer(struct raft *r) {
    uint64_t election_ms = r->config.election_ms;
    r->election_due_ms = r->now_ms + rng_between(&r->rng, election_ms, 2 * election_ms - 1);
}

/* The time to the next pre-vote of a member that lost its leader. */
static void hurry(struct raft *r) {
    uint64_t heartbeat_ms = r->config.heartbeat_ms;
    uint64_t due_ms = r->now_ms + rng_between(&r->rng, heartbeat_ms / 4, 2 * heartbeat_ms);
    if (due_ms < r->election_due_ms) r->election_due_ms = due_ms;
}

/* The connection to the leader broke: most likely its process has ended. Asking for pre-votes soon
 * disturbs nobody if it has not, for the others still hear it and refuse. */
void raft_leader_lost(struct raft *r) {
    r->hurry = HURRIED_PREVOTES;
    hurry(r);
}

void raft_announce_role(struct raft *r, struct raft_effects *fx) {
    if (r->role == r->told_role && r->term == r->told_term && r->leader == r->told_leader) return;
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_ROLE);
    effect->role = r->told_role = r->role;
    effect->term = r->told_term = r->term;
    effect->leader = r->told_leader = r->leader;
}

void raft_save_vote(struct raft *r, struct raft_effects *fx) {
    if (r->term == r->asked_term && r->vote == r->asked_vote) return;
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_SAVE_VOTE);
    effect->term = r->asked_term = r->term;
    effect->vote = r->asked_vote = r->vote;
}

bool raft_vote_is_saved(const struct raft *r) {
    return r->saved_term == r->term && r->saved_vote == r->vote;
}

bool raft_leader_is_alive(const struct raft *r) {
    if (r->role == RAFT_LEADER) return true; /* check-quorum sees to it */
    if (r->hurry > 0) return false;
    return r->leader != 0 && r->now_ms - r->leader_heard_ms < r->config.election_ms;
}

static bool is_up_to_date(const struct raft *r, const struct raft_msg *candidate) {
    uint64_t last_term = raft_runs_last_term(&r->runs);
    if (candidate->seq_term != last_term) return candidate->seq_term > last_term;
    return candidate->seq >= r->runs.last_seq || MUTANT(VOTE_FOR_SHORTER_LOG);
}

void raft_become_follower(struct raft *r, uint64_t leader, struct raft_effects *fx) {
    if (r->role == RAFT_LEADER) {
        raft_stop_leading(r, fx);
        raft_reset_election_timer(r);
    }
    if (leader != r->leader) {
        /* every later leader holds what is committed */
        if (!MUTANT(MATCH_KEPT_OVER_LEADERS)) r->matched = r->commit;
        r->leader_round = 0;
    }
    r->role = RAFT_FOLLOWER;
    r->leader = leader;
    raft_announce_role(r, fx);
}

void raft_raise_term(struct raft *r, uint64_t term, struct raft_effects *fx) {
    r->term = term;
    r->vote = 0;
    memset(r->is_held, 0, sizeof r->is_held); /* all of them are of an older term */
    raft_become_follower(r, 0, fx);
}

static void ask_for_votes(struct raft *r, enum raft_msg_type type, uint64_t term, bool transfer,
                          struct raft_effects *fx) {
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        if (i == r->self_index) continue;
        struct raft_msg msg = raft_msg_to(r, type, r->config.voters[i]);
        msg.term = term;
        msg.seq = r->runs.last_seq;
        msg.seq_term = raft_runs_last_term(&r->runs);
        msg.transfer = transfer;
        raft_send(r, &msg, fx);
    }
}

static bool has_won(const struct raft *r) {
    unsigned n = 0;
    for (unsigned i = 0; i < r->config.n_voters; i++) n += r->votes >> i & 1;
    return n >= raft_majority(r);
}

void raft_campaign(struct raft *r, bool transfer, struct raft_effects *fx) {
    r->term++;
    r->vote = r->config.self;
    memset(r->is_held, 0, sizeof r->is_held);
    r->role = RAFT_CANDIDATE;
    r->leader = 0;
    r->votes = 0; /* one's own counts once it is saved */
    raft_reset_election_timer(r);
    raft_announce_role(r, fx);
    raft_save_vote(r, fx);
    ask_for_votes(r, RAFT_VOTE, r->term, transfer, fx);
}

static void pre_campaign(struct raft *r, struct raft_effects *fx) {
    r->votes = 1u << r->self_index;
    if (has_won(r)) { /* a single voter */
        raft_campaign(r, false, fx);
        return;
    }
    r->role = RAFT_PRECANDIDATE;
    r->leader = 0;
    raft_reset_election_timer(r);
    if (r->hurry > 0 && --r->hurry > 0) hurry(r);
    raft_announce_role(r, fx);
    ask_for_votes(r, RAFT_PREVOTE, r->term + 1, false, fx);
}

void raft_election_tick(struct raft *r, struct raft_effects *fx) {
    if (r->now_ms < r->election_due_ms) return;
    if (!r->may_stand) {
        raft_become_follower(r, 0, fx);
        raft_reset_election_timer(r);
    } else if (r->role == RAFT_CANDIDATE && !raft_vote_is_saved(r)) {
        raft_reset_election_timer(r); /* the disk is slow: another term would not help */
    } else {
        pre_campaign(r, fx);
    }
}

static void win(struct raft *r, struct raft_effects *fx) {
    CHECK(raft_vote_is_saved(r) && r->vote == r->config.self);
    r->role = RAFT_LEADER;
    r->leader = r->config.self;
    raft_announce_role(r, fx);
    raft_fx_push(fx, RAFT_FX_LEAD)->term = r->term;
    raft_start_leading(r, fx);
}

static void release_held(struct raft *r, struct raft_effects *fx) {
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        for (unsigned type = 0; type < RAFT_N_MSG_TYPES; type++) {
            if (r->is_held[i][type]) raft_send(r, &r->held[i][type], fx);
        }
    }
    memset(r->is_held, 0, sizeof r->is_held);
}

void raft_on_vote_saved(struct raft *r, uint64_t term, uint64_t vote, struct raft_effects *fx) {
    if (term < r->saved_term || (term == r->saved_term && vote == 0)) return;
    r->saved_term = term;
    r->saved_vote = vote;
    if (!raft_vote_is_saved(r)) return;
    release_held(r, fx);
    if (r->role != RAFT_CANDIDATE) return;
    r->votes |= 1u << r->self_index;
    if (has_won(r)) win(r, fx);
}

void raft_on_prevote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    struct raft_msg reply = raft_msg_to(r, RAFT_PREVOTE_REPLY, m->from);
    reply.ok =
        m->term > r->term && is_up_to_date(r, m) && (m->transfer || !raft_leader_is_alive(r));
    if (reply.ok) reply.term = m->term; /* of the question; a refusal tells our own */
    raft_send(r, &reply, fx);
}

void raft_on_prevote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role != RAFT_PRECANDIDATE || !m->ok || m->term != r->term + 1) return;
    r->votes |= 1u << raft_voter_index(r, m->from);
    if (has_won(r)) raft_campaign(r, false, fx);
}

/* The term of the message is ours by now, or below it, or above it and refused because of a leader.
 */
void raft_on_vote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    struct raft_msg reply = raft_msg_to(r, RAFT_VOTE_REPLY, m->from);
    reply.ok = m->term == r->term && r->leader == 0 &&
               (r->vote == 0 || r->vote == m->from || MUTANT(VOTE_TWICE)) && is_up_to_date(r, m);
    if (reply.ok) {
        r->vote = m->from;
        raft_become_follower(r, 0, fx);
        raft_reset_election_timer(r);
    }
    raft_save_vote(r, fx);
    raft_send(r, &reply, fx);
}

void raft_on_vote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role != RAFT_CANDIDATE || !m->ok || !raft_vote_is_saved(r)) return;
    r->votes |= 1u << raft_voter_index(r, m->from);
    if (has_won(r)) win(r, fx);
}

void raft_on_timeout_now(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role == RAFT_FOLLOWER && r->leader == m->from && r->may_stand)
        raft_campaign(r, true, fx);
}

void raft_on_step_down(struct raft *r, struct raft_effects *fx) {
    if (r->role != RAFT_LEADER) return;
    raft_become_follower(r, 0, fx);
    r->election_due_ms += 2 * (uint64_t)r->config.election_ms; /* let the others stand first */
}

/* election.c: terms, votes and campaigns. See raft_impl.h. */
#include "raft/raft_impl.h"

#include <string.h>

#include "base/check.h"
#include "base/clock.h"

void reset_election_timer(struct raft *r) {
    uint64_t election_ms = r->config.election_ms;
    r->election_due_ms = r->now_ms + rng_between(&r->rng, election_ms, 2 * election_ms - 1);
}

void announce_role(struct raft *r, struct raft_effects *fx) {
    if (r->role == r->told_role && r->term == r->told_term && r->leader == r->told_leader) return;
    struct raft_effect *effect = fx_push(fx, RAFT_FX_ROLE);
    effect->role = r->told_role = r->role;
    effect->term = r->told_term = r->term;
    effect->leader = r->told_leader = r->leader;
}

void save_vote(struct raft *r, struct raft_effects *fx) {
    if (r->term == r->asked_term && r->vote == r->asked_vote) return;
    struct raft_effect *effect = fx_push(fx, RAFT_FX_SAVE_VOTE);
    effect->term = r->asked_term = r->term;
    effect->vote = r->asked_vote = r->vote;
}

bool vote_is_saved(const struct raft *r) {
    return r->saved_term == r->term && r->saved_vote == r->vote;
}

bool leader_is_alive(const struct raft *r) {
    if (r->role == RAFT_LEADER) return true; /* check-quorum sees to it */
    return r->leader != 0 && r->now_ms - r->leader_heard_ms < r->config.election_ms;
}

static bool is_up_to_date(const struct raft *r, const struct raft_msg *candidate) {
    uint64_t last_term = runs_last_term(&r->runs);
    if (candidate->seq_term != last_term) return candidate->seq_term > last_term;
    return candidate->seq >= r->runs.last_seq;
}

void become_follower(struct raft *r, uint64_t leader, struct raft_effects *fx) {
    if (r->role == RAFT_LEADER) {
        stop_leading(r, fx);
        reset_election_timer(r);
    }
    if (leader != r->leader) {
        r->matched = r->commit; /* every later leader holds what is committed */
        r->leader_round = 0;
    }
    r->role = RAFT_FOLLOWER;
    r->leader = leader;
    announce_role(r, fx);
}

void raise_term(struct raft *r, uint64_t term, struct raft_effects *fx) {
    r->term = term;
    r->vote = 0;
    memset(r->is_held, 0, sizeof r->is_held); /* all of them are of an older term */
    become_follower(r, 0, fx);
}

static void ask_for_votes(struct raft *r, enum raft_msg_type type, uint64_t term, bool transfer,
                          struct raft_effects *fx) {
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        if (i == r->self_index) continue;
        struct raft_msg msg = msg_to(r, type, r->config.voters[i]);
        msg.term = term;
        msg.seq = r->runs.last_seq;
        msg.seq_term = runs_last_term(&r->runs);
        msg.transfer = transfer;
        send_msg(r, &msg, fx);
    }
}

static bool has_won(const struct raft *r) {
    unsigned n = 0;
    for (unsigned i = 0; i < r->config.n_voters; i++) n += r->votes >> i & 1;
    return n >= majority(r);
}

void campaign(struct raft *r, bool transfer, struct raft_effects *fx) {
    r->term++;
    r->vote = r->config.self;
    memset(r->is_held, 0, sizeof r->is_held);
    r->role = RAFT_CANDIDATE;
    r->leader = 0;
    r->votes = 0; /* one's own counts once it is saved */
    reset_election_timer(r);
    announce_role(r, fx);
    save_vote(r, fx);
    ask_for_votes(r, RAFT_VOTE, r->term, transfer, fx);
}

static void pre_campaign(struct raft *r, struct raft_effects *fx) {
    r->votes = 1u << r->self_index;
    if (has_won(r)) { /* a single voter */
        campaign(r, false, fx);
        return;
    }
    r->role = RAFT_PRECANDIDATE;
    r->leader = 0;
    reset_election_timer(r);
    announce_role(r, fx);
    ask_for_votes(r, RAFT_PREVOTE, r->term + 1, false, fx);
}

void election_tick(struct raft *r, struct raft_effects *fx) {
    if (r->now_ms < r->election_due_ms) return;
    if (!r->may_stand) {
        become_follower(r, 0, fx);
        reset_election_timer(r);
    } else if (r->role == RAFT_CANDIDATE && !vote_is_saved(r)) {
        reset_election_timer(r); /* the disk is slow: another term would not help */
    } else {
        pre_campaign(r, fx);
    }
}

static void win(struct raft *r, struct raft_effects *fx) {
    CHECK(vote_is_saved(r) && r->vote == r->config.self);
    r->role = RAFT_LEADER;
    r->leader = r->config.self;
    announce_role(r, fx);
    fx_push(fx, RAFT_FX_LEAD)->term = r->term;
    start_leading(r, fx);
}

static void release_held(struct raft *r, struct raft_effects *fx) {
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        for (unsigned type = 0; type < RAFT_N_MSG_TYPES; type++) {
            if (r->is_held[i][type]) send_msg(r, &r->held[i][type], fx);
        }
    }
    memset(r->is_held, 0, sizeof r->is_held);
}

void on_vote_saved(struct raft *r, uint64_t term, uint64_t vote, struct raft_effects *fx) {
    if (term < r->saved_term || (term == r->saved_term && vote == 0)) return;
    r->saved_term = term;
    r->saved_vote = vote;
    if (!vote_is_saved(r)) return;
    release_held(r, fx);
    if (r->role != RAFT_CANDIDATE) return;
    r->votes |= 1u << r->self_index;
    if (has_won(r)) win(r, fx);
}

void on_prevote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    struct raft_msg reply = msg_to(r, RAFT_PREVOTE_REPLY, m->from);
    reply.ok = m->term > r->term && is_up_to_date(r, m) && (m->transfer || !leader_is_alive(r));
    if (reply.ok) reply.term = m->term; /* of the question; a refusal tells our own */
    send_msg(r, &reply, fx);
}

void on_prevote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role != RAFT_PRECANDIDATE || !m->ok || m->term != r->term + 1) return;
    r->votes |= 1u << voter_index(r, m->from);
    if (has_won(r)) campaign(r, false, fx);
}

/* The term of the message is ours by now, or below it, or above it and refused because of a leader.
 */
void on_vote(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    struct raft_msg reply = msg_to(r, RAFT_VOTE_REPLY, m->from);
    reply.ok = m->term == r->term && r->leader == 0 && (r->vote == 0 || r->vote == m->from) &&
               is_up_to_date(r, m);
    if (reply.ok) {
        r->vote = m->from;
        become_follower(r, 0, fx);
        reset_election_timer(r);
    }
    save_vote(r, fx);
    send_msg(r, &reply, fx);
}

void on_vote_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role != RAFT_CANDIDATE || !m->ok || !vote_is_saved(r)) return;
    r->votes |= 1u << voter_index(r, m->from);
    if (has_won(r)) win(r, fx);
}

void on_timeout_now(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role == RAFT_FOLLOWER && r->leader == m->from && r->may_stand) campaign(r, true, fx);
}

void on_step_down(struct raft *r, struct raft_effects *fx) {
    if (r->role != RAFT_LEADER) return;
    become_follower(r, 0, fx);
    r->election_due_ms += 2 * (uint64_t)r->config.election_ms; /* let the others stand first */
}

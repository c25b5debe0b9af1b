/* raft.c: construction, dispatch, time and queries. See raft_impl.h. */
#include "raft/raft_impl.h"

#include <stdlib.h>

#include "base/check.h"

/* ---- Effects and messages */
struct raft_effect *raft_fx_push(struct raft_effects *fx, enum raft_effect_type type) {
    if (fx->n == fx->capacity) {
        size_t capacity = fx->capacity > 0 ? fx->capacity * 2 : 32;
        struct raft_effect *items = realloc(fx->items, capacity * sizeof *items);
        CHECK_MEMORY(items);
        fx->items = items;
        fx->capacity = capacity;
    }
    struct raft_effect *effect = &fx->items[fx->n++];
    *effect = (struct raft_effect){.type = type};
    return effect;
}

void raft_effects_free(struct raft_effects *fx) {
    free(fx->items);
    *fx = (struct raft_effects){0};
}

int raft_voter_index(const struct raft *r, uint64_t id) {
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        if (r->config.voters[i] == id) return (int)i;
    }
    return -1;
}

struct raft_msg raft_msg_to(const struct raft *r, enum raft_msg_type type, uint64_t to) {
    return (struct raft_msg){.type = type, .from = r->config.self, .to = to, .term = r->term};
}

void raft_send(struct raft *r, const struct raft_msg *msg, struct raft_effects *fx) {
    bool promises_nothing = msg->type == RAFT_PREVOTE || msg->type == RAFT_PREVOTE_REPLY;
    if (promises_nothing || raft_vote_is_saved(r) || MUTANT(ANSWER_BEFORE_VOTE_SAVED)) {
        raft_fx_push(fx, RAFT_FX_SEND)->msg = *msg;
        return;
    }
    int i = raft_voter_index(r, msg->to);
    r->held[i][msg->type] = *msg;
    r->is_held[i][msg->type] = true;
}

void raft_fail(struct raft *r, const char *text, struct raft_effects *fx) {
    r->dead = true;
    raft_fx_push(fx, RAFT_FX_FATAL)->text = text;
}

uint64_t raft_majority_value(const struct raft *r, uint64_t *values) {
    for (unsigned i = 1; i < r->config.n_voters; i++) { /* insertion sort, descending */
        uint64_t value = values[i];
        unsigned j = i;
        for (; j > 0 && values[j - 1] < value; j--) values[j] = values[j - 1];
        values[j] = value;
    }
    return values[raft_majority(r) - 1];
}

/* ---- Construction */
static void check_config(const struct raft_config *config) {
    CHECK(config->n_voters >= 1 && config->n_voters <= RAFT_MAX_MEMBERS);
    CHECK(config->heartbeat_ms > 0 && config->election_ms > config->heartbeat_ms);
    for (unsigned i = 0; i < config->n_voters; i++) {
        CHECK(config->voters[i] > (i > 0 ? config->voters[i - 1] : 0));
    }
}

struct raft *raft_new(const struct raft_config *config, const struct raft_start *start) {
    check_config(config);
    CHECK(start->last_seq >= start->base_seq && start->commit_seq <= start->last_seq);
    struct raft *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    if (!raft_runs_init(&r->runs, start)) {
        free(r);
        return NULL;
    }
    r->config = *config;
    int self_index = raft_voter_index(r, config->self);
    CHECK(self_index >= 0);
    r->self_index = (unsigned)self_index;
    r->rng = config->seed;
    r->now_ms = start->now_ms;
    r->may_stand = start->may_stand;
    r->term = r->asked_term = r->saved_term = start->term;
    r->vote = r->asked_vote = r->saved_vote = start->voted_for;
    if (raft_runs_last_term(&r->runs) > r->term) { /* entries may overtake the vote file */
        r->term = raft_runs_last_term(&r->runs);
        r->vote = 0; /* nothing of that term was said yet; the first step saves it */
    }
    r->commit = start->commit_seq > start->base_seq ? start->commit_seq : start->base_seq;
    r->matched = r->commit;
    r->persisted = start->last_seq;
    r->epoch = 1;
    for (unsigned i = 0; i < config->n_voters; i++) r->peers[i].id = config->voters[i];
    r->told_term = start->term;
    raft_reset_election_timer(r);
    if (config->n_voters == 1) r->election_due_ms = r->now_ms; /* nobody to wait for */
    return r;
}

void raft_free(struct raft *r) {
    if (!r) return;
    raft_runs_free(&r->runs);
    free(r);
}

/* ---- Dispatch */
static void on_lower_term(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    switch (m->type) { /* tell those that ask which term it is */
    case RAFT_PREVOTE:
        raft_on_prevote(r, m, fx);
        break;
    case RAFT_VOTE:
        raft_on_vote(r, m, fx);
        break;
    case RAFT_APPEND:
        raft_refuse_append(r, m, fx);
        break;
    case RAFT_PREVOTE_REPLY:
    case RAFT_VOTE_REPLY:
    case RAFT_APPEND_REPLY:
    case RAFT_TIMEOUT_NOW:
        break;
    }
}

/* Whether a message of a higher term makes that term ours. */
static bool raises_term(const struct raft *r, const struct raft_msg *m) {
    switch (m->type) {
    case RAFT_PREVOTE:
        return false; /* of a term that nobody has begun */
    case RAFT_PREVOTE_REPLY:
        return !m->ok; /* granted: the same; refused: the term of the other */
    case RAFT_VOTE:
        return m->transfer || !raft_leader_is_alive(r);
    case RAFT_VOTE_REPLY:
    case RAFT_APPEND:
    case RAFT_APPEND_REPLY:
    case RAFT_TIMEOUT_NOW:
        return true;
    }
    return false;
}

static void on_message(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (m->to != r->config.self || m->from == m->to || raft_voter_index(r, m->from) < 0) return;
    if (m->term < r->term) {
        on_lower_term(r, m, fx);
        return;
    }
    if (m->term > r->term && raises_term(r, m)) {
        raft_raise_term(r, m->term, fx);
        if (m->type != RAFT_VOTE)
            raft_save_vote(r, fx); /* a vote is saved with its term, at once */
    }
    switch (m->type) {
    case RAFT_PREVOTE:
        raft_on_prevote(r, m, fx);
        break;
    case RAFT_PREVOTE_REPLY:
        raft_on_prevote_reply(r, m, fx);
        break;
    case RAFT_VOTE:
        raft_on_vote(r, m, fx);
        break;
    case RAFT_VOTE_REPLY:
        raft_on_vote_reply(r, m, fx);
        break;
    case RAFT_APPEND:
        raft_on_append(r, m, fx);
        break;
    case RAFT_APPEND_REPLY:
        raft_on_append_reply(r, m, fx);
        break;
    case RAFT_TIMEOUT_NOW:
        raft_on_timeout_now(r, m, fx);
        break;
    }
}

static void on_tick(struct raft *r, struct raft_effects *fx) {
    if (r->role == RAFT_LEADER) {
        raft_leader_tick(r, fx);
    } else {
        raft_election_tick(r, fx);
    }
}

void raft_step(struct raft *r, const struct raft_event *event, struct raft_effects *fx) {
    fx->n = 0;
    if (r->dead) return;
    if (event->now_ms > r->now_ms) r->now_ms = event->now_ms;
    raft_announce_role(r, fx); /* only the first step after raft_new finds something to do here */
    raft_save_vote(r, fx);
    switch (event->type) {
    case RAFT_EV_TICK:
        on_tick(r, fx);
        break;
    case RAFT_EV_MESSAGE:
        on_message(r, event->msg, fx);
        break;
    case RAFT_EV_APPENDED:
        raft_on_appended(r, &event->entry);
        break;
    case RAFT_EV_PERSISTED:
        raft_on_persisted(r, event->seq, event->epoch, fx);
        break;
    case RAFT_EV_VOTE_SAVED:
        raft_on_vote_saved(r, event->term, event->vote, fx);
        break;
    case RAFT_EV_SENT:
        raft_on_sent(r, event->peer, event->seq);
        break;
    case RAFT_EV_LOST:
        raft_on_lost(r, event->peer, fx);
        break;
    case RAFT_EV_TRANSFER:
        raft_on_transfer(r, event->peer, fx);
        break;
    case RAFT_EV_READ:
        raft_on_read(r, event->context, fx);
        break;
    case RAFT_EV_STEP_DOWN:
        raft_on_step_down(r, fx);
        break;
    case RAFT_EV_MAY_STAND:
        r->may_stand = true;
        break;
    }
}

/* ---- Queries */
enum raft_role raft_role(const struct raft *r) {
    return r->role;
}
uint64_t raft_term(const struct raft *r) {
    return r->term;
}
uint64_t raft_leader(const struct raft *r) {
    return r->leader;
}
uint64_t raft_commit(const struct raft *r) {
    return r->commit;
}
uint64_t raft_last(const struct raft *r) {
    return r->runs.last_seq;
}
uint64_t raft_persisted(const struct raft *r) {
    return r->persisted;
}
uint64_t raft_epoch(const struct raft *r) {
    return r->epoch;
}
uint64_t raft_term_at(const struct raft *r, uint64_t seq) {
    return raft_runs_term_at(&r->runs, seq);
}

uint64_t raft_transferring(const struct raft *r) {
    return r->role == RAFT_LEADER ? r->transfer_to : 0;
}

uint64_t raft_match(const struct raft *r, uint64_t peer) {
    if (peer == r->config.self) return r->persisted;
    int i = raft_voter_index(r, peer);
    return i >= 0 && r->role == RAFT_LEADER ? r->peers[i].match : 0;
}

bool raft_ready(const struct raft *r) {
    return r->role == RAFT_LEADER && (raft_runs_term_at(&r->runs, r->commit) == r->term ||
                                      MUTANT(READY_BEFORE_TERM_COMMITTED));
}

uint64_t raft_silence_ms(const struct raft *r, uint64_t peer) {
    if (peer == r->config.self) return 0;
    if (r->role == RAFT_LEADER) {
        int i = raft_voter_index(r, peer);
        return i >= 0 && r->peers[i].heard ? r->now_ms - r->peers[i].heard_ms : UINT64_MAX;
    }
    return peer != 0 && peer == r->leader ? r->now_ms - r->leader_heard_ms : UINT64_MAX;
}

void raft_set_base(struct raft *r, uint64_t base_seq, uint64_t base_term) {
    CHECK(base_seq <= r->commit);
    raft_runs_set_base(&r->runs, base_seq, base_term);
}

struct raft_msg raft_append_header(const struct raft *r, uint64_t peer, uint64_t prev_seq) {
    struct raft_msg msg = raft_msg_to(r, RAFT_APPEND, peer);
    msg.seq = prev_seq;
    msg.seq_term = raft_runs_term_at(&r->runs, prev_seq);
    msg.commit_seq = r->commit;
    msg.round = r->round;
    return msg;
}

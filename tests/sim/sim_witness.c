#include "sim_witness.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "node/session.h"

enum {
    MAX_QUESTIONS = 4096,
    AGAIN_US = 10000, /* from one question to the next of the same member */
    PATIENCE_MS = 2000,
    FAR_OFF = 1000000 /* a number that no session comes to in a run */
};
#define WITNESS_TOKEN (UINT64_MAX - (UINT64_C(1) << 21)) /* below those of sim_watch.c */

struct question {
    uint64_t member, floor, session; /* session 0: about a read index */
};

struct sim_witness {
    struct question questions[MAX_QUESTIONS]; /* by token */
    unsigned n;
    uint64_t committed_seq;
    uint64_t opened_term; /* a session was asked for in this term */
    unsigned n_sessions;
    uint64_t asked_us[SIM_MAX_NODES + 1];
};

struct sim_witness *sim_witness_new(struct sim *sim) {
    (void)sim;
    struct sim_witness *w = calloc(1, sizeof *w);
    CHECK(w);
    return w;
}

void sim_witness_free(struct sim_witness *w) {
    free(w);
}

static uint64_t add(struct sim_witness *w, const struct question *q) {
    w->questions[w->n] = *q;
    return WITNESS_TOKEN + w->n++;
}

static void ask(struct sim *sim, struct sim_member *m) {
    struct sim_witness *w = sim->witness;
    bool early = w->asked_us[m->id] && sim->now_us - w->asked_us[m->id] < AGAIN_US;
    if (!m->running || early || w->n == MAX_QUESTIONS || w->committed_seq == 0) return;
    w->asked_us[m->id] = sim->now_us;
    struct question q = {.member = m->id, .floor = w->committed_seq};
    struct node_event ev = {.type = NODE_EV_READ_INDEX,
                            .token = add(w, &q),
                            .deadline_ms = sim_member_mono_ms(m) + PATIENCE_MS};
    sim_note(sim, (unsigned)m->id, "is asked for a read index; member, committed", m->id,
             w->committed_seq);
    sim_node_post(sim, m->id, &ev);
}

/* Appends far off in that session: it must be refused, and not as unknown. */
static void try_session(struct sim *sim, struct sim_member *m, uint64_t session) {
    struct sim_witness *w = sim->witness;
    struct block_builder b;
    replog_error err;
    if (w->n == MAX_QUESTIONS || sim->sync == SIM_SYNC_NONE ||
        w->n_sessions >= sim_max_sessions(sim))
        return;
    struct question q = {.member = m->id, .session = session};
    struct node_event ev = {.type = NODE_EV_APPEND,
                            .token = add(w, &q),
                            .deadline_ms = sim_member_mono_ms(m) + PATIENCE_MS};
    ev.append.ack = NODE_ACK_QUORUM;
    ev.append.session = session;
    ev.append.sequence = FAR_OFF;
    block_begin(&b);
    CHECK(block_add(&b, REPLOG_OP_PUT, (struct slice){0}, (struct slice){0}, &err) == REPLOG_OK);
    ev.append.block = block_finish(&b, &ev.append.n_records, &ev.append.flags);
    CHECK(ev.append.block);
    sim_note(sim, (unsigned)m->id, "is asked for a session; member, session", m->id, session);
    sim_node_post(sim, m->id, &ev);
    blob_unref(ev.append.block);
    block_builder_free(&b);
}

static void open_session(struct sim *sim, struct sim_member *m) {
    struct sim_witness *w = sim->witness;
    if (w->opened_term == m->leads_term || w->n == MAX_QUESTIONS) return;
    w->opened_term = m->leads_term;
    struct question q = {.member = m->id};
    struct node_event ev = {.type = NODE_EV_OPEN_SESSION,
                            .token = add(w, &q),
                            .deadline_ms = sim_member_mono_ms(m) + PATIENCE_MS};
    sim_node_post(sim, m->id, &ev);
}

void sim_witness_committed(struct sim *sim, uint64_t id, uint64_t seq, bool is_session) {
    if (!sim->witness) return;
    struct sim_member *leader = sim_member(sim, id);
    sim->witness->committed_seq = seq;
    sim->witness->n_sessions += is_session;
    for (uint64_t k = 1; k <= sim->n_nodes; k++) {
        struct sim_member *m = sim_member(sim, k);
        if (k == id || !m->leads_term || !m->running) continue;
        ask(sim, m);
        if (is_session) try_session(sim, m, seq);
        if (leader->leads_term > m->leads_term) open_session(sim, leader);
    }
}

void sim_witness_leader(struct sim *sim, uint64_t id) {
    if (sim->witness) ask(sim, sim_member(sim, id));
}

bool sim_witness_reply(struct sim *sim, const struct node_effect *fx) {
    const struct sim_witness *w = sim->witness;
    if (!w || fx->token < WITNESS_TOKEN || fx->token >= WITNESS_TOKEN + w->n) return false;
    const struct question *q = &w->questions[fx->token - WITNESS_TOKEN];
    if (q->session && strstr(fx->text, " is unknown"))
        sim_fail(sim,
                 "[session] member %" PRIu64 " says that it does not know session %" PRIu64
                 ", which was committed before it was asked",
                 q->member, q->session);
    if (fx->status != REPLOG_OK) return true;
    sim->figures.client_checks++;
    if (fx->reply.seq < q->floor && !sim_has_lost(sim))
        sim_fail(sim,
                 "[read-index] member %" PRIu64 " gives the read index %" PRIu64
                 ", and seq %" PRIu64 " was committed before it was asked",
                 q->member, fx->reply.seq, q->floor);
    return true;
}

#include "sim_witness.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"

enum {
    MAX_QUESTIONS = 4096,
    AGAIN_US = 10000, /* from one question to the next of the same member */
    PATIENCE_MS = 2000
};
#define WITNESS_TOKEN (UINT64_MAX - (UINT64_C(1) << 21)) /* below those of sim_watch.c */

struct question {
    uint64_t member, floor;
};

struct sim_witness {
    struct question questions[MAX_QUESTIONS]; /* by token */
    unsigned n;
    uint64_t committed_seq;
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

static void ask(struct sim *sim, struct sim_member *m) {
    struct sim_witness *w = sim->witness;
    bool early = w->asked_us[m->id] && sim->now_us - w->asked_us[m->id] < AGAIN_US;
    if (!m->running || early || w->n == MAX_QUESTIONS || w->committed_seq == 0) return;
    w->asked_us[m->id] = sim->now_us;
    w->questions[w->n] = (struct question){m->id, w->committed_seq};
    struct node_event ev = {.type = NODE_EV_READ_INDEX,
                            .token = WITNESS_TOKEN + w->n++,
                            .deadline_ms = sim_member_mono_ms(m) + PATIENCE_MS};
    sim_note(sim, (unsigned)m->id, "is asked for a read index; member, committed", m->id,
             w->committed_seq);
    sim_node_post(sim, m->id, &ev);
}

void sim_witness_committed(struct sim *sim, uint64_t id, uint64_t seq) {
    if (!sim->witness) return;
    sim->witness->committed_seq = seq;
    for (uint64_t k = 1; k <= sim->n_nodes; k++) {
        struct sim_member *m = sim_member(sim, k);
        if (k != id && m->leads_term) ask(sim, m);
    }
}

void sim_witness_leader(struct sim *sim, uint64_t id) {
    if (sim->witness) ask(sim, sim_member(sim, id));
}

bool sim_witness_reply(struct sim *sim, const struct node_effect *fx) {
    const struct sim_witness *w = sim->witness;
    if (!w || fx->token < WITNESS_TOKEN || fx->token >= WITNESS_TOKEN + w->n) return false;
    const struct question *q = &w->questions[fx->token - WITNESS_TOKEN];
    if (fx->status != REPLOG_OK) return true;
    sim->figures.client_checks++;
    if (fx->reply.seq < q->floor)
        sim_fail(sim,
                 "[read-index] member %" PRIu64 " gives the read index %" PRIu64
                 ", and seq %" PRIu64 " was committed before it was asked",
                 q->member, fx->reply.seq, q->floor);
    return true;
}

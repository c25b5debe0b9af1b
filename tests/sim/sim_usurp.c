#include "sim_usurp.h"

#include <inttypes.h>

#include "base/clock.h"
#include "sim_net.h"
#include "sim_node.h"

enum { BACK_TRIES = 12 };
enum {
    PLOT_STILL = 1, /* its process stands still, with answers on the way to it */
    PLOT_STALL,     /* what it wrote alone becomes durable late, when it is cut already */
    PLOT_BACK       /* it leads again, with the same clients */
};

static struct sim_member *who_leads(struct sim *sim) {
    struct sim_member *best = NULL;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        if (m->running && m->leads_term && (!best || m->leads_term > best->leads_term)) best = m;
    }
    return best;
}

static bool is_in(const struct sim_usurp *u, uint64_t id) {
    return u->side >> id & 1;
}

/* Between both sides; into the island and out of it. */
static void cut_off(struct sim *sim, const struct sim_usurp *u, enum sim_block how, bool in,
                    bool out, uint64_t us) {
    for (unsigned a = 1; a <= sim->n_nodes; a++) {
        for (unsigned b = 1; b <= sim->n_nodes; b++) {
            if (!is_in(u, a) || is_in(u, b)) continue;
            if (out) sim_net_block_for(sim, a, b, how, us);
            if (in) sim_net_block_for(sim, b, a, how, us);
        }
    }
}

/* Clients reach nobody but the deposed one. */
static void keep_clients(struct sim *sim, const struct sim_usurp *u, uint64_t us) {
    for (unsigned c = SIM_END_CLIENT; c < SIM_MAX_ENDS; c++) {
        for (unsigned k = 1; k <= sim->n_nodes; k++) {
            if (k == u->leader->id) continue;
            sim_net_block_for(sim, c, k, SIM_CUT, us);
            sim_net_block_for(sim, k, c, SIM_CUT, us);
        }
    }
}

static void resume(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    (void)sim;
    if (m->life == life) sim_member_resume(m);
}

static void pause_it(struct sim *sim, void *arg, uint64_t us) {
    struct sim_usurp *u = arg;
    struct sim_member *m = u->leader;
    if (sim->quiet || !m->running || m->life != u->life || m->paused) return;
    sim_member_pause(m, us);
    sim_after(sim, us, resume, m, m->life);
}

/* Whoever leads now hands over to it. */
static void bring_back(struct sim *sim, void *arg, uint64_t tries) {
    struct sim_usurp *u = arg;
    struct sim_member *now = who_leads(sim), *m = u->leader;
    if (sim->quiet || !m->running || now == m) return;
    if (now && !now->paused) {
        struct node_event ev = {.type = NODE_EV_TRANSFER, .peer = m->id};
        sim_node_post(sim, now->id, &ev);
    }
    if (tries > 0) sim_after(sim, rng_between(&u->dice, 5000, 200000), bring_back, u, tries - 1);
}

static void draw_side(struct sim *sim, struct sim_usurp *u) {
    uint64_t room = (sim->n_nodes - 1) / 2 - 1; /* a minority in all */
    uint64_t n = rng_between(&u->dice, 0, room);
    u->side = UINT64_C(1) << u->leader->id;
    for (; n > 0; n--) u->side |= UINT64_C(1) << rng_between(&u->dice, 1, sim->n_nodes);
}

/* It stands still, with answers of the others on the way. They arrive while it sleeps, behind the
 * questions that came meanwhile, and answer rounds that began before those. */
static void stand_still(struct sim *sim, struct sim_usurp *u, uint64_t us) {
    uint64_t heartbeat_us = 1000 * (uint64_t)sim->node_options.heartbeat_ms;
    uint64_t before_us = rng_between(&u->dice, 0, heartbeat_us + heartbeat_us / 2);
    cut_off(sim, u, SIM_CLOG, true, false, before_us + us - rng_between(&u->dice, 1, us / 8));
    sim_after(sim, before_us, pause_it, u, us);
}

static bool one_in(struct sim_usurp *u, uint64_t n) {
    return rng_between(&u->dice, 1, n) == 1;
}

bool sim_usurp(struct sim *sim, struct sim_usurp *u, uint64_t dice) {
    struct sim_member *m = who_leads(sim);
    if (!m || m->paused || sim->n_nodes < 3) return false;
    *u = (struct sim_usurp){.leader = m, .life = m->life, .dice = dice};
    uint64_t election_us = 1000 * (uint64_t)sim->node_options.election_ms;
    uint64_t away_us = rng_between(&u->dice, election_us, election_us * 3);
    draw_side(sim, u);
    sim_trace(sim, 0, "usurp: member %" PRIu64 " of %#" PRIx64 ", %" PRIu64 " ms", m->id, u->side,
              away_us / 1000);
    /* what it is after; the rest as it comes */
    uint64_t plot = rng_between(&u->dice, 1, 4);
    if (sim->sync == SIM_SYNC_BATCH && one_in(u, 2)) plot = PLOT_STALL; /* synced late anyway */
    bool stalls = plot == PLOT_STALL || one_in(u, 4);
    if (plot == PLOT_STILL)
        stand_still(sim, u, away_us);
    else
        cut_off(sim, u, one_in(u, 2) ? SIM_CUT : SIM_CLOG, true, !one_in(u, 6), away_us);
    if (plot == PLOT_STALL || plot == PLOT_BACK || one_in(u, 2))
        keep_clients(sim, u, away_us + rng_between(&u->dice, 0, 3 * election_us));
    if (stalls)
        m->disk.stalled_until_us = sim->now_us + away_us + rng_between(&u->dice, 0, election_us);
    if (plot == PLOT_BACK || one_in(u, 2))
        sim_after(sim, away_us + rng_between(&u->dice, 0, election_us / 2), bring_back, u,
                  BACK_TRIES);
    return true;
}

#include "sim_faults.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "sim_net.h"
#include "sim_node.h"
#include "sim_usurp.h"
#include "sim_watch_impl.h"

enum fault_kind {
    FAULT_PARTITION, /* two groups */
    FAULT_ONE_WAY,   /* an end is not heard, or does not hear */
    FAULT_LINK,      /* one direction between two ends, or both */
    FAULT_BRIDGE,    /* two groups, and one member that sees both */
    FAULT_FLAP,      /* a link comes and goes */
    FAULT_CLOG,      /* what is on its way waits */
    FAULT_BREAK,     /* connections break, what is on its way may come late */
    FAULT_DELAY,
    FAULT_DUPLICATE,
    FAULT_SLOW_DISK,
    FAULT_STALL,
    FAULT_FULL,
    FAULT_WRITE_ERROR,
    FAULT_SYNC_ERROR,
    FAULT_POWER,
    FAULT_POWER_AT_CALL,
    FAULT_POWER_ALL, /* the whole rack */
    FAULT_KILL,
    FAULT_STOP,
    FAULT_PAUSE,
    FAULT_CLOCK_JUMP,
    FAULT_CLOCK_DRIFT,
    FAULT_TRANSFER,
    FAULT_REGICIDE,   /* for a while, who becomes leader ends some milliseconds later */
    FAULT_ROT,        /* of a member's disk while it runs */
    FAULT_ROT_DOWN,   /* while it is down */
    FAULT_WIPE,       /* an empty directory under the old identity */
    FAULT_WIPE_STORE, /* the store alone */
    FAULT_USURP,      /* the leader is cut off, another one is elected, it comes back */
    N_FAULTS
};
_Static_assert((int)N_FAULTS <= (int)SIM_MAX_FAULT_KINDS, "room for their counts");

/* How often in twenty seconds when the kind is on, at most; and how many runs in a hundred have it.
 */
static const struct kind {
    const char *name;
    unsigned per_20_s, percent;
} kinds[N_FAULTS] = {
    [FAULT_PARTITION] = {"partition", 12, 40},
    [FAULT_ONE_WAY] = {"one-way", 12, 35},
    [FAULT_LINK] = {"link", 30, 35},
    [FAULT_BRIDGE] = {"bridge", 8, 25},
    [FAULT_FLAP] = {"flap", 8, 25},
    [FAULT_CLOG] = {"clog", 20, 35},
    [FAULT_BREAK] = {"break", 60, 40},
    [FAULT_DELAY] = {"delay", 20, 30},
    [FAULT_DUPLICATE] = {"duplicate", 15, 30},
    [FAULT_SLOW_DISK] = {"slow-disk", 10, 30},
    [FAULT_STALL] = {"stall", 20, 35},
    [FAULT_FULL] = {"full", 6, 20},
    [FAULT_WRITE_ERROR] = {"write-error", 10, 25},
    [FAULT_SYNC_ERROR] = {"sync-error", 10, 30},
    [FAULT_POWER] = {"power", 30, 50},
    [FAULT_POWER_AT_CALL] = {"power-at-call", 30, 50},
    [FAULT_POWER_ALL] = {"power-all", 4, 15},
    [FAULT_KILL] = {"kill", 30, 45},
    [FAULT_STOP] = {"stop", 10, 25},
    [FAULT_PAUSE] = {"pause", 20, 35},
    [FAULT_CLOCK_JUMP] = {"clock-jump", 20, 30},
    [FAULT_CLOCK_DRIFT] = {"clock-drift", 10, 30},
    [FAULT_TRANSFER] = {"transfer", 10, 25},
    [FAULT_REGICIDE] = {"regicide", 3, 25},
    [FAULT_ROT] = {"rot", 10, 28},
    [FAULT_ROT_DOWN] = {"rot-down", 10, 28},
    [FAULT_WIPE] = {"wipe", 4, 20},
    [FAULT_WIPE_STORE] = {"wipe-store", 4, 12},
    [FAULT_USURP] = {"usurp", 24, 100},
};

struct fault {
    uint64_t at_us, length_us, dice; /* dice: the seed of everything else about it */
    enum fault_kind kind;
    unsigned number, who;
    bool left_out;
    unsigned times;         /* of a flap */
    struct sim_usurp usurp; /* of that */
};

struct sim_faults {
    struct fault *items;
    size_t n;
    uint64_t counts[SIM_MAX_FAULT_KINDS];
    unsigned destroy_at_most;
    bool founded; /* the cluster was, on all members */
};

enum { ROT_TRIES = 4 }; /* not every kind finds something to damage */

static uint64_t dice(struct fault *f, uint64_t low, uint64_t high) {
    return rng_between(&f->dice, low, high);
}

static unsigned draw_node(struct sim *sim, struct fault *f) {
    return (unsigned)dice(f, 1, sim->n_nodes);
}

/* ---- The shape of the run -------------------------------------------------------------------- */

static void draw_options(struct sim *sim, uint64_t *rng) {
    struct node_options *o = &sim->node_options;
    uint32_t election_ms = (uint32_t)rng_between(rng, 200, 800);
    uint32_t heartbeat_ms = (uint32_t)rng_between(rng, 20, election_ms / 4);
    sim->segment_bytes = (uint32_t)rng_between(rng, 1, 3) * 65536;
    sim->pool_segments = (uint32_t)rng_between(rng, 0, 3);
    unsigned mode = (unsigned)rng_between(rng, 1, 100);
    sim->sync = mode <= 64 ? SIM_SYNC_ALWAYS : mode <= 90 ? SIM_SYNC_BATCH : SIM_SYNC_NONE;
    bool small = rng_between(rng, 0, 1);
    o->heartbeat_ms = heartbeat_ms;
    o->election_ms = election_ms;
    o->stall_ms = (uint32_t)rng_between(rng, 500, 3000);
    o->peer_window_bytes = small ? rng_between(rng, 4096, 65536) : 8u << 20;
    o->tail_bytes = rng_between(rng, 0, 1) ? rng_between(rng, 2048, 65536) : 8u << 20;
    o->apply_given_bytes = rng_between(rng, 0, 1) ? rng_between(rng, 1024, 65536) : 8u << 20;
    o->pending_bytes = rng_between(rng, 0, 3) ? 16u << 20 : rng_between(rng, 20000, 200000);
    o->checkpoint_bytes = rng_between(rng, 0, 1) ? rng_between(rng, 2000, 200000) : 64u << 20;
    o->checkpoint_ms = rng_between(rng, 0, 1) ? rng_between(rng, 100, 3000) : 60000;
    o->acks_are_durable = sim->sync != SIM_SYNC_NONE;
    if (rng_between(rng, 1, 100) <= 30) o->retain_bytes = rng_between(rng, 50000, 400000);
    if (rng_between(rng, 1, 100) <= 10) o->retain_ms = rng_between(rng, 500, 5000);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct config_member *c = &o->cluster.members[o->cluster.n_members++];
        c->id = id;
        snprintf(c->address, sizeof c->address, "node%u:7400", (unsigned)id);
    }
}

static unsigned draw_n_nodes(uint64_t *rng) {
    static const unsigned often[] = {3, 3, 3, 3, 5, 5, 5, 4, 2, 1, 7, 6};
    return often[rng_between(rng, 0, sizeof often / sizeof *often - 1)];
}

/* How spare segments come to be; some segments are so large that one takes several slices. */
static void draw_spares(struct sim *sim) {
    uint64_t rng = sim_fork_rng(sim, "spares");
    sim->fills_beside = rng_between(&rng, 1, 100) <= 80;
    if (rng_between(&rng, 1, 100) <= 10)
        sim->segment_bytes = (uint32_t)rng_between(&rng, 17, 32) * 65536;
}

/* A store that takes what comes in small slices lags behind a busy log, and may hold up its
 * acknowledgements. */
static void draw_slices(struct sim *sim) {
    uint64_t rng = sim_fork_rng(sim, "slices");
    if (rng_between(&rng, 1, 100) > 40) return;
    sim->slice_bytes = rng_between(&rng, 500, 8000);
    if (rng_next(&rng) & 1) sim->node_options.store_lag_bytes = rng_between(&rng, 1000, 100000);
}

/* Clients open far fewer sessions than are kept: in some runs only a few are. */
static void draw_sessions(struct sim *sim) {
    uint64_t rng = sim_fork_rng(sim, "sessions");
    if (rng_between(&rng, 1, 100) <= 20) sim->max_sessions = rng_between(&rng, 1, 6);
}

/* What a run may not have, that its promises are well defined. */
static bool allowed(const struct sim *sim, enum fault_kind kind) {
    bool destroys = kind == FAULT_ROT || kind == FAULT_ROT_DOWN || kind == FAULT_WIPE ||
                    kind == FAULT_WIPE_STORE;
    if (destroys && sim->faults->destroy_at_most == 0) return false;
    /* With --sync none, what was committed may be lost by them, and little is left to judge a run
     * by: only every other one has them. */
    bool power = kind == FAULT_POWER || kind == FAULT_POWER_AT_CALL || kind == FAULT_POWER_ALL ||
                 kind == FAULT_SYNC_ERROR;
    if (!power || sim->sync != SIM_SYNC_NONE) return true;
    uint64_t rng = sim->options.seed;
    return rng_next(&rng) & 1;
}

static int by_time(const void *a, const void *b) {
    const struct fault *x = a, *y = b;
    return (x->at_us > y->at_us) - (x->at_us < y->at_us);
}

static void draw_plan(struct sim *sim, uint64_t *rng) {
    struct sim_faults *f = sim->faults;
    uint64_t length_us = sim->quiet_us - sim->now_us;
    /* some runs have few kinds, some all */
    unsigned appetite = (unsigned)rng_between(rng, 0, 5), calm = (unsigned)rng_between(rng, 0, 2);
    size_t capacity = 0;
    for (unsigned kind = 0; kind < N_FAULTS; kind++) {
        unsigned percent = kinds[kind].percent * appetite / 2;
        bool on = rng_between(rng, 1, 100) <= percent;
        uint64_t most = kinds[kind].per_20_s * length_us / 20000000 + 1;
        uint64_t n = (rng_between(rng, 1, most) + calm) >> calm;
        uint64_t seed = rng_next(rng);
        if (!on || !allowed(sim, (enum fault_kind)kind)) continue;
        for (uint64_t i = 0; i < n; i++) {
            if (f->n == capacity) {
                capacity = capacity ? 2 * capacity : 64;
                f->items = realloc(f->items, capacity * sizeof *f->items);
                CHECK(f->items);
            }
            struct fault *item = &f->items[f->n++];
            *item = (struct fault){.kind = (enum fault_kind)kind};
            item->at_us = sim->now_us + rng_between(&seed, 0, length_us - 1);
            item->length_us = rng_between(&seed, 1, 4) == 1 ? rng_between(&seed, 100000, 5000000)
                                                            : rng_between(&seed, 5000, 1000000);
            item->dice = rng_next(&seed);
        }
    }
    if (f->n) qsort(f->items, f->n, sizeof *f->items, by_time);
    for (size_t i = 0; i < f->n; i++) f->items[i].number = (unsigned)i;
}

/* --only 3,7: the others are left out. */
static void leave_out(struct sim_faults *f, const char *only) {
    for (size_t i = 0; i < f->n; i++) f->items[i].left_out = true;
    for (const char *at = only; *at;) {
        char *end;
        unsigned long number = strtoul(at, &end, 10);
        if (end == at) break;
        if (number < f->n) f->items[number].left_out = false;
        at = *end ? end + 1 : end;
    }
}

/* Faults for so long; what follows has its own lengths. */
static void set_phases(struct sim *sim, uint64_t length_us) {
    sim->quiet_us = sim->now_us + length_us;
    sim->healed_us = sim->quiet_us + 4000000 + 8000 * (uint64_t)sim->node_options.election_ms;
    sim->last_call_us = sim->healed_us + 2000000;
    sim->end_us = sim->last_call_us + 6000000;
}

struct sim_faults *sim_faults_new(struct sim *sim) {
    struct sim_faults *f = calloc(1, sizeof *f);
    CHECK(f);
    sim->faults = f;
    uint64_t rng = sim_fork_rng(sim, "shape");
    unsigned n_nodes = draw_n_nodes(&rng);
    sim->n_nodes = sim->options.n_nodes ? sim->options.n_nodes : n_nodes;
    draw_options(sim, &rng);
    draw_spares(sim);
    draw_slices(sim);
    draw_sessions(sim);
    uint64_t length_us = rng_between(&rng, 5000000, 22000000);
    if (sim->options.length_us) length_us = sim->options.length_us;
    f->destroy_at_most = (sim->n_nodes - 1) / 2;
    set_phases(sim, length_us);
    uint64_t plan = sim_fork_rng(sim, "plan");
    draw_plan(sim, &plan);
    uint64_t stop_us = sim->options.stop_us;
    if (stop_us && stop_us < length_us) set_phases(sim, stop_us);
    if (sim->options.only) leave_out(f, sim->options.only);
    return f;
}

void sim_faults_free(struct sim_faults *f) {
    if (!f) return;
    free(f->items);
    free(f);
}

/* ---- Network --------------------------------------------------------------------------------- */

/* The clients that are there while faults come: the first one is not. */
static unsigned clients_end(const struct sim *sim) {
    return SIM_END_CLIENT + sim_clients_n(sim);
}

static unsigned draw_end(struct sim *sim, struct fault *f) {
    if (dice(f, 1, 4) > 1) return draw_node(sim, f);
    return (unsigned)dice(f, SIM_END_CLIENT + 1, clients_end(sim) - 1);
}

static bool is_there(const struct sim *sim, unsigned end) {
    return end <= sim->n_nodes || (end > SIM_END_CLIENT && end < clients_end(sim));
}

/* Two ends that may have a connection, in any order. */
static void draw_ends(struct sim *sim, struct fault *f, unsigned *a, unsigned *b) {
    do {
        *a = draw_end(sim, f);
        *b = draw_end(sim, f);
    } while (*a == *b || (*a >= SIM_END_CLIENT && *b >= SIM_END_CLIENT));
}

/* Each end, clients too, is put on one of two sides; `bridge`, if any, on both. */
static bool partition(struct sim *sim, struct fault *f, unsigned bridge) {
    uint64_t side = 0;
    for (unsigned end = 1; end < SIM_MAX_ENDS; end++) side |= dice(f, 0, 1) << end;
    unsigned last = dice(f, 0, 1) ? clients_end(sim) - 1 : sim->n_nodes;
    bool any = false;
    for (unsigned a = 1; a <= last; a++) {
        for (unsigned b = 1; b <= last; b++) {
            bool both_clients = a >= SIM_END_CLIENT && b >= SIM_END_CLIENT;
            bool same_side = (side >> a & 1) == (side >> b & 1);
            if (same_side || both_clients || a == bridge || b == bridge) continue;
            if (!is_there(sim, a) || !is_there(sim, b)) continue;
            sim_net_block_for(sim, a, b, SIM_CUT, f->length_us);
            any = true;
        }
    }
    return any;
}

/* An end is not heard, or hears nobody; every other time a member goes on with clients. */
static bool one_way(struct sim *sim, struct fault *f) {
    unsigned who = draw_end(sim, f);
    bool in = dice(f, 0, 1), clients_too = dice(f, 0, 1) && who < SIM_END_CLIENT;
    unsigned last = clients_too ? clients_end(sim) - 1 : sim->n_nodes;
    bool any = false;
    for (unsigned k = 1; k <= last; k++) {
        if (k == who || !is_there(sim, k)) continue;
        sim_net_block_for(sim, in ? k : who, in ? who : k, SIM_CUT, f->length_us);
        any = true;
    }
    return any;
}

static void one_link(struct sim *sim, struct fault *f, enum sim_block how) {
    unsigned a, b;
    draw_ends(sim, f, &a, &b);
    bool both = dice(f, 0, 1);
    sim_net_block_for(sim, a, b, how, f->length_us);
    if (both) sim_net_block_for(sim, b, a, how, f->length_us);
}

static void flap(struct sim *sim, void *arg, uint64_t tag) {
    struct fault *f = arg;
    if (sim->quiet || f->times == 0) return;
    f->times--;
    unsigned a = (unsigned)(tag >> 8), b = (unsigned)(tag & 0xff);
    uint64_t down_us = dice(f, 1000, 200000);
    sim_net_block_for(sim, a, b, SIM_CUT, down_us);
    sim_net_block_for(sim, b, a, SIM_CUT, down_us);
    if (dice(f, 0, 1)) (void)sim_net_break(sim, a, b);
    sim_after(sim, down_us + dice(f, 1000, 200000), flap, f, tag);
}

static bool break_some(struct sim *sim, struct fault *f) {
    unsigned a, b;
    draw_ends(sim, f, &a, &b);
    return sim_net_break(sim, a, dice(f, 0, 1) ? b : 0);
}

/* From one end to another, or to all members. */
static void delay(struct sim *sim, struct fault *f) {
    unsigned a, b;
    draw_ends(sim, f, &a, &b);
    bool all = dice(f, 0, 2) == 0;
    uint64_t us = dice(f, 1000, 200000);
    sim_net_delay_for(sim, a, b, us, f->length_us);
    for (unsigned k = 1; k <= sim->n_nodes && all; k++)
        if (k != a && k != b) sim_net_delay_for(sim, a, k, us, f->length_us);
}

static bool duplicate(struct sim *sim, struct fault *f) {
    if (sim->n_nodes < 2) return false;
    unsigned a = draw_node(sim, f), b = draw_node(sim, f), percent = (unsigned)dice(f, 5, 60);
    bool all = dice(f, 0, 2) == 0;
    if (a == b) b = a % sim->n_nodes + 1;
    for (unsigned k = 1; k <= sim->n_nodes; k++)
        if (k != a && (all || k == b)) sim_net_duplicate_for(sim, a, k, percent, f->length_us);
    return true;
}

/* ---- Members --------------------------------------------------------------------------------- */

static enum disk_mem_loss draw_loss(struct fault *f) {
    static const enum disk_mem_loss losses[] = {DISK_LOSE_RANDOM, DISK_LOSE_RANDOM, DISK_LOSE_ALL,
                                                DISK_LOSE_NONE};
    return losses[dice(f, 0, 3)];
}

static bool end_and_start(struct fault *f, struct sim_member *m, enum sim_death how) {
    if (!m->running) return false;
    sim_member_end(m, how, draw_loss(f));
    sim_member_start_after(m, dice(f, 0, 3) ? dice(f, 20000, 800000) : f->length_us * 2);
    return true;
}

static void resume(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    (void)sim;
    if (m->life == life) sim_member_resume(m);
}

static bool pause_member(struct sim *sim, struct fault *f, struct sim_member *m) {
    if (!m->running || m->paused) return false;
    sim_member_pause(m, f->length_us);
    sim_after(sim, f->length_us, resume, m, m->life);
    return true;
}

static void stop_member(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    (void)sim;
    if (!m->running || m->life != life || m->paused) return;
    sim_member_end(m, SIM_STOP, DISK_LOSE_NONE);
    sim_member_start_after(m, 300000);
}

static void kill_member(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    if (sim->quiet || !m->running || m->life != life) return;
    sim_member_end(m, SIM_KILL, DISK_LOSE_NONE);
    sim_member_start_after(m, 50000);
}

static void power_off(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_member *m = arg;
    (void)tag;
    if (sim->quiet || !m->running) return;
    sim_member_end(m, SIM_POWER, sim_chance(sim, 50) ? DISK_LOSE_ALL : DISK_LOSE_RANDOM);
    sim_member_start_after(m, sim_draw(sim, 20000, 800000));
}

static bool transfer(struct sim *sim, struct sim_member *m, uint64_t to) {
    struct node_event ev = {.type = NODE_EV_TRANSFER, .peer = to};
    if (m->running) sim_node_post(sim, m->id, &ev);
    return m->running;
}

static void undo_slow(struct sim *sim, void *arg, uint64_t by) {
    struct sim_member *m = arg;
    (void)sim;
    if (m->disk.slow > by) m->disk.slow -= (unsigned)by; /* not healed meanwhile */
}

static void undo_full(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_member *m = arg;
    (void)tag;
    /* a wiped disk may have been filled anew */
    bool due = sim->now_us >= m->disk.full_until_us;
    if (m->disk.full && due) sim_disk_set_full(sim, &m->disk, false);
}

static void clock_fault(struct fault *f, struct sim_member *m) {
    uint64_t rate = m->rate_ppm, ahead_us = 0;
    int64_t wall_us = 0;
    if (f->kind == FAULT_CLOCK_DRIFT) {
        rate = dice(f, 0, 3) ? dice(f, 700000, 1400000) : dice(f, 300000, 2500000);
    } else {
        if (dice(f, 0, 2) == 0) ahead_us = dice(f, 1000, 4000000);
        wall_us = (int64_t)dice(f, 0, 100000000) - 50000000;
    }
    sim_member_clock(m, ahead_us, wall_us, rate);
}

/* ---- Destruction: never of more than a minority, and never before the cluster is founded (a
 * member that is wiped in that very moment needs the operator: founding.c). */

static bool all_founded(struct sim *sim) {
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *m = sim_member(sim, id);
        if (m->excused) continue;
        if (watch_record(m)->founding != WAL_FOUNDED) return false;
    }
    return true;
}

static bool may_destroy(struct sim *sim, struct sim_member *m) {
    struct sim_faults *f = sim->faults;
    return m->excused || sim_n_destroyed(sim) < f->destroy_at_most;
}

static bool was_founded(struct sim *sim) {
    if (!sim->faults->founded) sim->faults->founded = all_founded(sim);
    return sim->faults->founded;
}

static bool rot(struct sim *sim, struct fault *f, struct sim_member *m) {
    if (!was_founded(sim) || !may_destroy(sim, m)) return false;
    bool down = f->kind == FAULT_ROT_DOWN;
    if (down && m->running)
        end_and_start(f, m, dice(f, 0, 1) && allowed(sim, FAULT_POWER) ? SIM_POWER : SIM_KILL);
    const char *done = NULL;
    enum sim_rot_file file = SIM_ROT_SEGMENT;
    for (int tries = 0; !done && tries < ROT_TRIES; tries++) {
        enum sim_rot_file most = dice(f, 0, 2) ? SIM_ROT_SEGMENT : SIM_ROT_FILES - 1;
        file = (enum sim_rot_file)dice(f, 0, most);
        enum sim_rot kind = (enum sim_rot)dice(f, 0, SIM_ROT_N - 1);
        done = sim_disk_rot(&m->disk, file, kind, &f->dice);
    }
    if (!done) return false;
    sim_trace(sim, (unsigned)m->id, "rot: %s", done);
    sim_member_damaged(m, file == SIM_ROT_VOTE_COPY ? SIM_VOTE_COPY_DAMAGED : SIM_DISK_DAMAGED);
    /* what a start makes of it */
    if (!down && dice(f, 0, 1)) sim_after(sim, dice(f, 0, 200000), kill_member, m, m->life);
    return true;
}

static bool wipe(struct sim *sim, struct fault *f, struct sim_member *m) {
    if (!was_founded(sim) || !may_destroy(sim, m)) return false;
    end_and_start(f, m, SIM_KILL);
    bool store_only = f->kind == FAULT_WIPE_STORE;
    bool log_only = !store_only && dice(f, 0, 3) == 0;
    sim_trace(sim, (unsigned)m->id, "wiped:%s%s", store_only ? "" : " log",
              log_only ? "" : " store");
    sim_disk_wipe(&m->disk, !store_only, !log_only);
    sim_member_damaged(m, store_only ? SIM_STORE_WIPED : SIM_DISK_WIPED);
    sim_member_start_after(m, f->length_us); /* should it have given up before */
    return true;
}

/* ---- Doing ----------------------------------------------------------------------------------- */

static bool power_all(struct sim *sim, struct fault *f) {
    bool any = false;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        if (!m->running) continue;
        sim_member_end(m, SIM_POWER, draw_loss(f));
        sim_member_start_after(m, dice(f, 100000, 1500000));
        any = true;
    }
    return any;
}

static void end_leader(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    if (sim->quiet || !m->running || m->life != life) return;
    sim_trace(sim, (unsigned)m->id, "regicide");
    bool power = allowed(sim, FAULT_POWER) && sim_chance(sim, 50);
    sim_member_end(m, power ? SIM_POWER : SIM_KILL, DISK_LOSE_RANDOM);
    sim_member_start_after(m, sim_draw(sim, 10000, 1000000));
}

static void new_leader(struct sim *sim, uint64_t id) {
    if (sim->now_us >= sim->regicide_until_us) return;
    struct sim_member *m = sim_member(sim, id);
    sim_after(sim, sim_draw(sim, 0, 50000), end_leader, m, m->life);
}

static bool disk_fault(struct sim *sim, struct fault *f, struct sim_member *m) {
    unsigned slower;
    switch (f->kind) {
    case FAULT_SLOW_DISK:
        slower = (unsigned)dice(f, 1, 59);
        m->disk.slow += slower;
        sim_after(sim, f->length_us * 2, undo_slow, m, slower);
        return true;
    case FAULT_STALL:
        if (m->disk.stalled_until_us >= sim->now_us + f->length_us) return false;
        m->disk.stalled_until_us = sim->now_us + f->length_us;
        return true;
    case FAULT_FULL:
        if (m->disk.full) return false;
        sim_disk_set_full(sim, &m->disk, true);
        m->disk.full_until_us = sim->now_us + f->length_us * 2;
        sim_after(sim, f->length_us * 2, undo_full, m, 0);
        return true;
    case FAULT_WRITE_ERROR:
        disk_mem_fail_writes(m->disk.mem, 1);
        return true;
    case FAULT_SYNC_ERROR:
        disk_mem_fail_syncs(m->disk.mem, 1);
        /* what the page cache only pretends to have is gone with the power */
        if (dice(f, 0, 1)) sim_after(sim, dice(f, 1000, 4000000), power_off, m, 0);
        return true;
    default:
        if (disk_mem_is_off(m->disk.mem)) return false;
        disk_mem_cut_at(m->disk.mem, disk_mem_calls(m->disk.mem) + dice(f, 1, 60));
        return true;
    }
}

static bool member_fault(struct sim *sim, struct fault *f, struct sim_member *m) {
    switch (f->kind) {
    case FAULT_POWER:
        return end_and_start(f, m, SIM_POWER);
    case FAULT_KILL:
        return end_and_start(f, m, SIM_KILL);
    case FAULT_STOP:
        sim_after(sim, dice(f, 0, 600000), stop_member, m, m->life);
        return transfer(sim, m, 0);
    case FAULT_PAUSE:
        return pause_member(sim, f, m);
    case FAULT_CLOCK_JUMP:
    case FAULT_CLOCK_DRIFT:
        clock_fault(f, m);
        return true;
    case FAULT_TRANSFER:
        return transfer(sim, m, dice(f, 0, sim->n_nodes));
    case FAULT_ROT:
    case FAULT_ROT_DOWN:
        return rot(sim, f, m);
    case FAULT_WIPE:
    case FAULT_WIPE_STORE:
        return wipe(sim, f, m);
    default:
        return disk_fault(sim, f, m);
    }
}

/* True: it was of the network, or of all, and *done says whether it happened. */
static bool wide_fault(struct sim *sim, struct fault *f, bool *done) {
    unsigned a, b;
    switch (f->kind) {
    case FAULT_PARTITION:
        *done = partition(sim, f, 0);
        return true;
    case FAULT_BRIDGE:
        *done = partition(sim, f, draw_node(sim, f));
        return true;
    case FAULT_ONE_WAY:
        *done = one_way(sim, f);
        return true;
    case FAULT_LINK:
        one_link(sim, f, SIM_CUT);
        return true;
    case FAULT_CLOG:
        one_link(sim, f, SIM_CLOG);
        return true;
    case FAULT_FLAP:
        f->times = (unsigned)dice(f, 2, 20);
        draw_ends(sim, f, &a, &b);
        flap(sim, f, (uint64_t)a << 8 | b);
        return true;
    case FAULT_BREAK:
        *done = break_some(sim, f);
        return true;
    case FAULT_DELAY:
        delay(sim, f);
        return true;
    case FAULT_DUPLICATE:
        *done = duplicate(sim, f);
        return true;
    case FAULT_POWER_ALL:
        *done = power_all(sim, f);
        return true;
    case FAULT_USURP:
        *done = sim_usurp(sim, &f->usurp, f->dice);
        return true;
    case FAULT_REGICIDE:
        sim->regicide_until_us = sim->now_us + 5 * f->length_us;
        return true;
    default:
        return false;
    }
}

static void happen(struct sim *sim, void *arg, uint64_t tag) {
    struct fault *f = arg;
    (void)tag;
    if (sim->quiet) return; /* --stop-ms */
    unsigned who = draw_node(sim, f);
    sim_trace(sim, 0, "fault %u: %s, member %u, %" PRIu64 " ms", f->number, kinds[f->kind].name,
              who, f->length_us / 1000);
    bool done = true;
    if (!wide_fault(sim, f, &done)) done = member_fault(sim, f, sim_member(sim, who));
    sim->faults->counts[f->kind] += done;
}

void sim_faults_start(struct sim *sim) {
    struct sim_faults *f = sim->faults;
    bool late = sim_chance(sim, 30);
    sim->on_new_leader = new_leader;
    for (uint64_t id = 1; id <= sim->n_nodes; id++)
        sim_member_start_after(sim_member(sim, id), sim_draw(sim, 0, late ? 2000000 : 200000));
    for (size_t i = 0; i < f->n; i++)
        if (!f->items[i].left_out)
            sim_after(sim, f->items[i].at_us - sim->now_us, happen, &f->items[i], 0);
}

void sim_faults_quiet(struct sim *sim) {
    sim->quiet = true;
    sim_trace(sim, 0, "all faults have ended");
    sim_net_heal(sim);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        m->disk.slow = 1;
        m->disk.stalled_until_us = 0;
        if (m->disk.full) sim_disk_set_full(sim, &m->disk, false);
        if (!disk_mem_is_off(m->disk.mem)) disk_mem_cut_at(m->disk.mem, 0);
        disk_mem_fail_syncs(m->disk.mem, 0);
        disk_mem_fail_writes(m->disk.mem, 0);
        sim_member_clock(m, 0, 0, 1000000);
        sim_member_resume(m);
        m->start_tries = 0;
        if (!m->running) sim_member_start_after(m, sim_draw(sim, 0, 300000));
    }
}

size_t sim_faults_n(const struct sim *sim) {
    return sim->faults->n;
}

bool sim_faults_left_out(const struct sim *sim, size_t number) {
    return sim->faults->items[number].left_out;
}

const uint64_t *sim_faults_counts(const struct sim *sim) {
    return sim->faults->counts;
}

const char *sim_faults_name(unsigned kind) {
    return kind < N_FAULTS ? kinds[kind].name : NULL;
}

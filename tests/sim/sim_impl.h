/* sim_impl.h: the run itself, shared by sim_sched.c and the parts that S1's headers name. Clients
 * and oracle see sim.h only. */
#ifndef SIM_IMPL_H
#define SIM_IMPL_H

#include "sim.h"

struct sim_net;
struct sim_member;
struct sim_watch;
struct sim_faults;
struct sim_witness;

struct sim_event {
    uint64_t at_us, order, tag;
    sim_event_fn *fn;
    void *arg;
};

struct sim {
    struct sim_options options;
    unsigned n_nodes;
    uint64_t now_us, rng, order;
    struct sim_event *heap;
    size_t n_heap, heap_capacity;
    uint64_t hash;
    struct sim_figures figures;
    uint64_t quiet_us, healed_us, last_call_us, end_us;
    bool quiet;                 /* all faults have ended */
    uint64_t regicide_until_us; /* who becomes leader before then does not live long */

    struct sim_member *members[SIM_MAX_NODES + 1]; /* by id */
    struct sim_net *net;
    struct sim_watch *watch;
    struct sim_faults *faults;
    struct sim_witness *witness; /* may be NULL */

    bool unwatched;    /* the checkers look away: somebody lies, as nobody in a cluster does */
    char refused[240]; /* what the last refusal of a stream said */
    void (*on_new_leader)(struct sim *sim, uint64_t id); /* may be NULL */

    /* drawn once for the run */
    enum sim_sync sync;
    struct node_options node_options; /* self and seed unset */
    uint32_t segment_bytes, pool_segments;
    size_t slice_bytes;  /* of the apply thread: small ones let stores lag; 0: as replogd */
    size_t max_sessions; /* few: some are evicted; 0: as replogd */
    bool fills_beside;   /* spares, as replogd; else as programs that use the log alone */
};

/* ---- sim_sched.c */
struct sim *sim_new(const struct sim_options *options);
void sim_free(struct sim *sim);
/* Runs events up to (not at) that moment. */
void sim_run_until(struct sim *sim, uint64_t at_us);
uint64_t sim_hash(const struct sim *sim);
bool sim_chance(struct sim *sim, unsigned percent);
/* Who says a log line (base/log.h) that comes now; returns who it was. */
unsigned sim_set_speaker(unsigned who);
/* Called with the text of a failure before the process ends. */
void sim_on_fail(void (*fn)(const struct sim *sim, const char *text));

#endif

/* sim_node.h: the shell of a node: what server/ does with threads, sockets and clocks is done here
 * with events of the simulator, around the same workers (node/log_worker.h, apply_worker.h,
 * feeder.h). A process lives from sim_member_start to its end by kill, power cut or its own word.
 * Hides: queues, turns, a member's clocks, how a process dies. */
#ifndef SIM_NODE_H
#define SIM_NODE_H

#include "node/apply_worker.h"
#include "node/feeder.h"
#include "node/log_worker.h"
#include "sim_disk.h"

enum sim_death {
    SIM_KILL,  /* the process; what it wrote stays in the page cache */
    SIM_POWER, /* the machine: unsynced writes go as the dice say */
    SIM_STOP   /* stopped in order: flushed and marked */
};

struct sim_item { /* an event for the node; owns what it points to */
    struct node_event ev;
    struct peer_msg msg;
    char *text;
};

/* The spare that is filled beside the log. */
struct sim_filler {
    struct wal_spare spare;
    bool busy, done; /* done: until the log worker takes it */
};

struct sim_member {
    struct sim *sim;
    uint64_t id, life;
    struct sim_disk disk;
    struct wal *wal;
    struct applier *applier;
    struct node *node;
    bool running, paused, stopping;
    uint64_t resume_us;
    unsigned damage;
    bool excused; /* damaged: it may refuse to start, or stop itself */
    uint64_t
        leads_term; /* it took itself for this term's leader when last looked at; 0: for none */
    uint64_t start_tries; /* without success, in a row */
    bool start_pending;
    uint64_t start_at_us, start_gen;
    uint64_t rng;

    /* about to die: once what is under way has ended */
    bool dying, dying_of_power;
    char last_words[400];
    uint64_t failed_before; /* disk_mem_n_failed at the start of the process */

    /* clocks: what they showed at true time `clock_at_us`, and how fast they run */
    uint64_t clock_at_us, mono_us, wall_us;
    uint64_t rate_ppm;

    /* node thread */
    struct sim_item *inbox;
    size_t n_inbox, inbox_capacity;
    bool turn_pending, in_turn;
    uint64_t turn_at_us, turn_gen, ticked_ms;
    struct node_effects fx;

    /* wal thread, apply thread, reader pool */
    struct log_worker *log;
    bool log_busy;
    uint64_t log_gen, log_pushed;
    struct sim_filler filler;
    struct apply_worker apply;
    bool apply_busy, apply_flush;
    uint64_t apply_target;
    struct feeder feeders[SIM_MAX_NODES + 1];
};

struct sim_member *sim_member_new(struct sim *sim, uint64_t id);
void sim_member_free(struct sim_member *m);
struct sim_member *sim_member(const struct sim *sim, uint64_t id);

/* Starts the process, or tries to; tried again as an operator would. */
void sim_member_start(struct sim_member *m);
void sim_member_start_after(struct sim_member *m, uint64_t delay_us);
/* Ends it now. Not from within its own calls. */
void sim_member_end(struct sim_member *m, enum sim_death how, enum disk_mem_loss loss);
void sim_member_pause(struct sim_member *m, uint64_t us);
void sim_member_resume(struct sim_member *m);
/* Clocks: monotonic time jumps ahead (the machine was suspended), wall time anywhere, and from now
 * on both run at `rate_ppm` of true time. */
void sim_member_clock(struct sim_member *m, uint64_t mono_ahead_us, int64_t wall_us,
                      uint64_t rate_ppm);
/* Its disk is marked as damaged. */
void sim_member_damaged(struct sim_member *m, enum sim_damage damage);
uint64_t sim_member_mono_ms(const struct sim_member *m);
/* Reads of a watcher: do not count as disk calls. */
void sim_member_observe(const struct sim_member *m, bool on);

#endif

/* sim_client_thread.h: the threads of the client library as coroutines, and the clock of whoever is
 * running. The library is the real one: its pthread_create, pthread_join and pthread_cond_* are led
 * here by the linker (--wrap), its clock is base/clock.h, defined here for the whole program. One
 * runs at a time, and only until it waits; so a mutex is never contended.
 * Hides: stacks and the switching between them. */
#ifndef SIM_CLIENT_THREAD_H
#define SIM_CLIENT_THREAD_H

#include "sim.h"

/* A process: its threads have one clock. */
struct sim_process {
    unsigned who;
    uint64_t clock_ahead_us; /* of the true time */
    unsigned n_threads;      /* that have not ended */
    bool dead;               /* killed: nothing of it reaches anybody any more */
};

void sim_threads_begin(struct sim *sim);
/* Frees what is left; no thread runs afterwards. */
void sim_threads_end(void);

/* A thread of that process; it runs soon. The process must outlive it. */
void sim_thread_start(struct sim_process *process, void (*fn)(void *arg), void *arg);
/* Within a thread: lets virtual time go by, also that of a clock that jumps. */
void sim_thread_sleep(uint64_t us);
/* The clock of a process jumps ahead: whoever waits for a time that is past now goes on. */
void sim_process_jump(struct sim_process *process, uint64_t us);

/* Whose clock clock_mono_ms() tells while code of theirs is called back outside of a thread. */
struct sim_clock {
    uint64_t node; /* 0: none */
    const struct sim_process *process;
};
struct sim_clock sim_clock_enter(struct sim_clock clock); /* returns what it was before */

#endif

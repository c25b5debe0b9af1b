#undef _FORTIFY_SOURCE /* its longjmp knows one stack only */
#include "sim_client_thread.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include "base/check.h"
#include "base/clock.h"

#if defined(__SANITIZE_ADDRESS__)
#define SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIM_ASAN 1
#endif
#endif
#ifdef SIM_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

enum {
    STACK_BYTES = 512 * 1024, /* touched as it is used */
    PROMPT_US = 30,           /* from being woken to running, mostly */
    LATE_US = 3000,           /* and seldom */
    LATE_ONE_IN = 50
};

enum state { WAITING, READY, RUNNING, DONE };

struct thread {
    struct thread *next; /* of all in the run */
    struct sim_process *process;
    void (*fn)(void *arg);
    void *(*main)(void *arg); /* of pthread_create; else fn */
    void *arg;
    pthread_t id;
    enum state state;
    bool begun, timed_out;
    const void *waits_on;
    uint64_t deadline_us; /* by the process's clock; UINT64_MAX: none */
    uint64_t ticket;      /* of the wait: events of an earlier one mean nothing */
    uint8_t *stack;
    jmp_buf at;
};

static struct {
    struct sim *sim;
    struct thread *all, **tail;
    struct thread *running; /* NULL: the simulator itself */
    jmp_buf scheduler;
    struct sim_clock clock;
    uint64_t rng, random;
    pthread_t next_id;
    uint8_t *stacks[64]; /* of threads that have ended, for reuse */
    unsigned n_stacks;
#ifdef SIM_ASAN
    const void *scheduler_stack;
    size_t scheduler_stack_bytes;
    void *fake_stack; /* of the sanitizer; not in use */
#endif
} threads;

/* ---- Clocks ---------------------------------------------------------------------------------- */

struct sim_clock sim_clock_enter(struct sim_clock clock) {
    struct sim_clock before = threads.clock;
    threads.clock = clock;
    return before;
}

static uint64_t process_us(const struct sim_process *process) {
    return sim_now_us(threads.sim) + (process ? process->clock_ahead_us : 0);
}

static uint64_t real_ns(clockid_t clock) {
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Outside of a run (options, progress of many seeds) time is real. */
uint64_t clock_mono_ns(void) {
    if (!threads.sim) return real_ns(CLOCK_MONOTONIC);
    uint64_t node = threads.clock.node;
    if (node) return sim_node_clock_ms(threads.sim, node) * 1000000;
    return process_us(threads.clock.process) * 1000;
}

uint64_t clock_mono_ms(void) {
    return clock_mono_ns() / 1000000;
}

uint64_t clock_wall_us(void) {
    if (!threads.sim) return real_ns(CLOCK_REALTIME) / 1000;
    uint64_t node = threads.clock.node;
    return node ? sim_node_wall_us(threads.sim, node) : sim_now_us(threads.sim);
}

uint64_t random_u64(void) {
    CHECK(threads.sim != NULL);
    return rng_next(&threads.random);
}

/* ---- Stacks ---------------------------------------------------------------------------------- */

static uint8_t *stack_new(void) {
    if (threads.n_stacks > 0) return threads.stacks[--threads.n_stacks];
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(stack != MAP_FAILED);
    return stack;
}

static void stack_free(uint8_t *stack) {
    if (!stack) return;
    if (threads.n_stacks < sizeof threads.stacks / sizeof threads.stacks[0]) {
        threads.stacks[threads.n_stacks++] = stack;
    } else {
        CHECK(munmap(stack, STACK_BYTES) == 0);
    }
}

static void wake_all_on(const void *what);

/* The sanitizer has to know which stack is in use. */
static void stack_entered(void) {
#ifdef SIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, &threads.scheduler_stack, &threads.scheduler_stack_bytes);
#endif
}

_Noreturn static void to_scheduler(struct thread *t) {
#ifdef SIM_ASAN
    __sanitizer_start_switch_fiber(t->state == DONE ? NULL : &threads.fake_stack,
                                   threads.scheduler_stack, threads.scheduler_stack_bytes);
#else
    (void)t;
#endif
    _longjmp(threads.scheduler, 1);
}

static void thread_main(void) {
    struct thread *t = threads.running;
    stack_entered();
    if (t->main) {
        (void)t->main(t->arg);
    } else {
        t->fn(t->arg);
    }
    t->state = DONE;
    t->process->n_threads--;
    wake_all_on(t);
    to_scheduler(t);
}

/* Its frame is left for good: nothing may be on it that the sanitizer guards. */
static void begin(struct thread *t) {
    static ucontext_t context;
    t->begun = true;
    CHECK(getcontext(&context) == 0);
    context.uc_stack.ss_sp = t->stack;
    context.uc_stack.ss_size = STACK_BYTES;
    context.uc_link = NULL;
    makecontext(&context, thread_main, 0);
    (void)setcontext(&context);
    abort();
}

/* Returns when the thread waits, or has ended. */
static void switch_to(struct thread *t) {
    if (_setjmp(threads.scheduler) == 0) {
#ifdef SIM_ASAN
        __sanitizer_start_switch_fiber(&threads.fake_stack, t->stack, STACK_BYTES);
#endif
        if (t->begun) _longjmp(t->at, 1);
        begin(t);
    }
#ifdef SIM_ASAN
    __sanitizer_finish_switch_fiber(NULL, NULL, NULL);
#endif
}

static void run(struct thread *t) {
    CHECK(!threads.running && t->state == READY);
    threads.running = t;
    t->state = RUNNING;
    struct sim_clock before = sim_clock_enter((struct sim_clock){.process = t->process});
    if (!t->stack) t->stack = stack_new();
    switch_to(t);
    threads.running = NULL;
    sim_clock_enter(before);
    if (t->state == DONE) {
        stack_free(t->stack);
        t->stack = NULL;
    }
}

/* ---- Waiting and waking ---------------------------------------------------------------------- */

static void on_ready(struct sim *sim, void *arg, uint64_t ticket) {
    (void)sim;
    struct thread *t = arg;
    if (t->state == READY && t->ticket == ticket) run(t);
}

static void make_ready(struct thread *t) {
    t->state = READY;
    t->waits_on = NULL;
    uint64_t most = rng_between(&threads.rng, 1, LATE_ONE_IN) == 1 ? LATE_US : PROMPT_US;
    sim_after(threads.sim, rng_between(&threads.rng, 0, most), on_ready, t, ++t->ticket);
}

static void on_deadline(struct sim *sim, void *arg, uint64_t ticket) {
    (void)sim;
    struct thread *t = arg;
    if (t->state != WAITING || t->ticket != ticket) return;
    t->timed_out = true;
    make_ready(t);
}

static void arm(struct thread *t) {
    if (t->deadline_us == UINT64_MAX) return;
    uint64_t now = process_us(t->process);
    uint64_t delay = t->deadline_us > now ? t->deadline_us - now : 0;
    sim_after(threads.sim, delay, on_deadline, t, t->ticket);
}

/* The running thread waits; false: the deadline came first. */
static bool wait_on(const void *what, uint64_t deadline_us) {
    struct thread *t = threads.running;
    CHECK(t != NULL); /* the simulator itself never waits */
    t->state = WAITING;
    t->waits_on = what;
    t->deadline_us = deadline_us;
    t->timed_out = false;
    t->ticket++;
    arm(t);
    if (_setjmp(t->at) == 0) to_scheduler(t);
    stack_entered();
    return !threads.running->timed_out;
}

static bool wake_one_on(const void *what) {
    for (struct thread *t = threads.all; t; t = t->next) {
        if (t->state != WAITING || t->waits_on != what) continue;
        make_ready(t);
        return true;
    }
    return false;
}

static void wake_all_on(const void *what) {
    while (wake_one_on(what)) continue;
}

void sim_thread_sleep(uint64_t us) {
    struct thread *t = threads.running;
    (void)wait_on(t, process_us(t->process) + us);
}

void sim_process_jump(struct sim_process *process, uint64_t us) {
    process->clock_ahead_us += us;
    for (struct thread *t = threads.all; t; t = t->next)
        if (t->state == WAITING && t->process == process) arm(t);
}

/* ---- Starting -------------------------------------------------------------------------------- */

static struct thread *thread_new(struct sim_process *process) {
    struct thread *t = calloc(1, sizeof *t);
    CHECK(t != NULL && process != NULL);
    t->process = process;
    t->id = ++threads.next_id;
    process->n_threads++;
    *threads.tail = t;
    threads.tail = &t->next;
    return t;
}

void sim_thread_start(struct sim_process *process, void (*fn)(void *arg), void *arg) {
    struct thread *t = thread_new(process);
    t->fn = fn;
    t->arg = arg;
    make_ready(t);
}

void sim_threads_begin(struct sim *sim) {
    CHECK(!threads.sim);
    threads.sim = sim;
    threads.all = NULL;
    threads.tail = &threads.all;
    threads.running = NULL;
    threads.clock = (struct sim_clock){0};
    threads.rng = sim_fork_rng(sim, "threads");
    threads.random = sim_fork_rng(sim, "random");
    threads.next_id = 0;
}

void sim_threads_end(void) {
    for (struct thread *t = threads.all, *next; t; t = next) {
        next = t->next;
        stack_free(t->stack);
        free(t);
    }
    threads.all = NULL;
    threads.running = NULL;
    threads.sim = NULL;
}

/* ---- What the linker leads here -------------------------------------------------------------- */

int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg);
int __wrap_pthread_join(pthread_t id, void **value);
pthread_t __wrap_pthread_self(void);
int __wrap_pthread_setschedparam(pthread_t id, int policy, const struct sched_param *param);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mu);
int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mu,
                                  const struct timespec *at);
int __wrap_pthread_cond_signal(pthread_cond_t *cond);
int __wrap_pthread_cond_broadcast(pthread_cond_t *cond);

/* A thread belongs to the process of the one that creates it. */
int __wrap_pthread_create(pthread_t *id, const pthread_attr_t *attr, void *(*main)(void *),
                          void *arg) {
    (void)attr;
    CHECK(threads.running != NULL);
    struct thread *t = thread_new(threads.running->process);
    t->main = main;
    t->arg = arg;
    *id = t->id;
    make_ready(t);
    return 0;
}

int __wrap_pthread_join(pthread_t id, void **value) {
    struct thread *t = threads.all;
    while (t && t->id != id) t = t->next;
    CHECK(t != NULL && value == NULL);
    while (t->state != DONE) (void)wait_on(t, UINT64_MAX);
    return 0;
}

pthread_t __wrap_pthread_self(void) {
    return threads.running ? threads.running->id : (pthread_t)-1;
}

int __wrap_pthread_setschedparam(pthread_t id, int policy, const struct sched_param *param) {
    (void)id;
    (void)policy;
    (void)param;
    return 0;
}

int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mu) {
    CHECK(pthread_mutex_unlock(mu) == 0);
    (void)wait_on(cond, UINT64_MAX);
    CHECK(pthread_mutex_lock(mu) == 0);
    return 0;
}

int __wrap_pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mu,
                                  const struct timespec *at) {
    CHECK(pthread_mutex_unlock(mu) == 0);
    uint64_t deadline_us = (uint64_t)at->tv_sec * 1000000 + (uint64_t)at->tv_nsec / 1000;
    bool in_time = wait_on(cond, deadline_us);
    CHECK(pthread_mutex_lock(mu) == 0);
    return in_time ? 0 : ETIMEDOUT;
}

int __wrap_pthread_cond_signal(pthread_cond_t *cond) {
    (void)wake_one_on(cond);
    return 0;
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *cond) {
    wake_all_on(cond);
    return 0;
}

#include "server/thread.h"

#include <signal.h>
#include <stddef.h>

#include "base/check.h"
#include "base/error.h"

void cond_init_mono(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    CHECK(pthread_condattr_init(&attr) == 0);
    CHECK(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    CHECK(pthread_cond_init(cond, &attr) == 0);
    (void)pthread_condattr_destroy(&attr);
}

void thread_sleep_ms(uint64_t ms) {
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000L};
    (void)nanosleep(&t, NULL);
}

static struct timespec after_ms(clockid_t clock, uint64_t ms) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0);
    t.tv_sec += (time_t)(ms / 1000);
    t.tv_nsec += (long)(ms % 1000) * 1000000L;
    if (t.tv_nsec >= 1000000000L) {
        t.tv_nsec -= 1000000000L;
        t.tv_sec++;
    }
    return t;
}

struct timespec deadline_after_ms(uint64_t ms) {
    return after_ms(CLOCK_MONOTONIC, ms);
}

replog_status thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg,
                           replog_error *err) {
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = pthread_create(thread, NULL, body, arg);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (rc != 0) return error_errno(err, rc, "cannot start the thread %s", name);
    (void)pthread_setname_np(*thread, name);
    return REPLOG_OK;
}

bool thread_join_within(pthread_t thread, uint64_t timeout_ms) {
    struct timespec until = after_ms(CLOCK_REALTIME, timeout_ms);
    return pthread_timedjoin_np(thread, NULL, &until) == 0;
}

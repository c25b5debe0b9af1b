/* thread.h: the few things about threads that every part of the server needs. Hides: clocks of
 * conditions, attributes of threads. */
#ifndef SERVER_THREAD_H
#define SERVER_THREAD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "replog/status.h"

/* A condition whose timed waits follow the monotonic clock. */
void cond_init_mono(pthread_cond_t *cond);
/* For pthread_cond_timedwait on such a condition. */
struct timespec deadline_after_ms(uint64_t ms);
void thread_sleep_ms(uint64_t ms);
/* Starts a thread with a name (at most 15 characters) and no signals. UNAVAILABLE. */
replog_status thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg,
                           replog_error *err);
/* Joins, but waits no longer than that. */
bool thread_join_within(pthread_t thread, uint64_t timeout_ms);

#endif

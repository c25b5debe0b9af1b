/* Waiting goes by a semaphore: a condition would take the lock again for each thread that it wakes,
 * as one that others wait for, and so cost a system call more when it is let go. */
#include "server/queue.h"

#include <errno.h>
#include <time.h>

#include "base/check.h"
#include "server/thread.h"

void queue_init(struct queue *q, size_t limit_bytes) {
    *q = (struct queue){.limit_bytes = limit_bytes};
    q->tail = &q->head;
    CHECK(pthread_mutex_init(&q->lock, NULL) == 0);
    CHECK(sem_init(&q->bell, 0, 0) == 0);
}

void queue_destroy(struct queue *q) {
    (void)sem_destroy(&q->bell);
    (void)pthread_mutex_destroy(&q->lock);
}

/* With the lock held. Whether the bell must be rung: one ring is enough. */
static bool rings(struct queue *q) {
    bool waiting = q->waiting;
    q->waiting = false;
    return waiting;
}

/* With the lock held. The same for a new item. */
static bool link_item(struct queue *q, struct queue_item *item) {
    item->next = NULL;
    *q->tail = item;
    q->tail = &item->next;
    q->size_bytes += item->cost_bytes;
    return !item->quiet && rings(q);
}

size_t queue_put(struct queue *q, struct queue_item *item) {
    (void)pthread_mutex_lock(&q->lock);
    bool wake = link_item(q, item);
    size_t now = q->size_bytes;
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)sem_post(&q->bell);
    return now;
}

bool queue_offer(struct queue *q, struct queue_item *item) {
    (void)pthread_mutex_lock(&q->lock);
    bool fits = !q->head || q->size_bytes + item->cost_bytes <= q->limit_bytes;
    bool wake = fits && link_item(q, item);
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)sem_post(&q->bell);
    return fits;
}

/* With the lock held; lets go of it meanwhile. */
static void wait_rung(struct queue *q, uint64_t timeout_ms, bool ends_when_filled) {
    if (timeout_ms == 0) return; /* a wake is for who waits */
    struct timespec until = deadline_after_ms(timeout_ms == UINT64_MAX ? 0 : timeout_ms);
    int rc = 0;
    q->waiting = true;
    while (q->waiting && !(q->head && ends_when_filled) && !q->woken && rc == 0) {
        (void)pthread_mutex_unlock(&q->lock);
        do
            rc = timeout_ms == UINT64_MAX ? sem_wait(&q->bell)
                                          : sem_clockwait(&q->bell, CLOCK_MONOTONIC, &until);
        while (rc != 0 && errno == EINTR);
        (void)pthread_mutex_lock(&q->lock);
    }
    q->waiting = false;
    q->woken = false;
}

void queue_wait(struct queue *q, uint64_t timeout_ms) {
    (void)pthread_mutex_lock(&q->lock);
    wait_rung(q, timeout_ms, true);
    (void)pthread_mutex_unlock(&q->lock);
}

void queue_wait_for_more(struct queue *q, uint64_t timeout_ms) {
    (void)pthread_mutex_lock(&q->lock);
    wait_rung(q, timeout_ms, false);
    (void)pthread_mutex_unlock(&q->lock);
}

struct queue_item *queue_take(struct queue *q, uint64_t timeout_ms) {
    (void)pthread_mutex_lock(&q->lock);
    wait_rung(q, timeout_ms, true);
    struct queue_item *all = q->head;
    q->head = NULL;
    q->tail = &q->head;
    q->size_bytes = 0;
    (void)pthread_mutex_unlock(&q->lock);
    return all;
}

void queue_wake(struct queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    q->woken = true;
    bool wake = rings(q);
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)sem_post(&q->bell);
}

void queue_poke(struct queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    bool wake = q->head && rings(q);
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)sem_post(&q->bell);
}

size_t queue_size_bytes(struct queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    size_t n = q->size_bytes;
    (void)pthread_mutex_unlock(&q->lock);
    return n;
}

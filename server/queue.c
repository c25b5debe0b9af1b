#include "server/queue.h"

#include <time.h>

#include "base/check.h"
#include "server/thread.h"

void queue_init(struct queue *q, size_t limit_bytes) {
    *q = (struct queue){.limit_bytes = limit_bytes};
    q->tail = &q->head;
    CHECK(pthread_mutex_init(&q->lock, NULL) == 0);
    cond_init_mono(&q->filled);
}

void queue_destroy(struct queue *q) {
    (void)pthread_cond_destroy(&q->filled);
    (void)pthread_mutex_destroy(&q->lock);
}

/* With the lock held. Whether somebody must be woken. */
static bool link_item(struct queue *q, struct queue_item *item) {
    item->next = NULL;
    *q->tail = item;
    q->tail = &item->next;
    q->size_bytes += item->cost_bytes;
    bool wake = q->waiting && !item->quiet;
    if (wake) q->waiting = false; /* one wake is enough */
    return wake;
}

size_t queue_put(struct queue *q, struct queue_item *item) {
    (void)pthread_mutex_lock(&q->lock);
    bool wake = link_item(q, item);
    size_t now = q->size_bytes;
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)pthread_cond_signal(&q->filled);
    return now;
}

bool queue_offer(struct queue *q, struct queue_item *item) {
    (void)pthread_mutex_lock(&q->lock);
    bool fits = !q->head || q->size_bytes + item->cost_bytes <= q->limit_bytes;
    bool wake = fits && link_item(q, item);
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)pthread_cond_signal(&q->filled);
    return fits;
}

/* With the lock held. */
static void wait_filled(struct queue *q, uint64_t timeout_ms) {
    if (timeout_ms == 0) return; /* a wake is for who waits */
    struct timespec until = deadline_after_ms(timeout_ms == UINT64_MAX ? 0 : timeout_ms);
    q->waiting = true;
    while (!q->head && !q->woken) {
        int rc = timeout_ms == UINT64_MAX ? pthread_cond_wait(&q->filled, &q->lock)
                                          : pthread_cond_timedwait(&q->filled, &q->lock, &until);
        if (rc != 0) break;
    }
    q->waiting = false;
    q->woken = false;
}

void queue_wait(struct queue *q, uint64_t timeout_ms) {
    (void)pthread_mutex_lock(&q->lock);
    wait_filled(q, timeout_ms);
    (void)pthread_mutex_unlock(&q->lock);
}

struct queue_item *queue_take(struct queue *q, uint64_t timeout_ms) {
    (void)pthread_mutex_lock(&q->lock);
    wait_filled(q, timeout_ms);
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
    (void)pthread_mutex_unlock(&q->lock);
    (void)pthread_cond_signal(&q->filled);
}

void queue_poke(struct queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    bool wake = q->head && q->waiting;
    if (wake) q->waiting = false;
    (void)pthread_mutex_unlock(&q->lock);
    if (wake) (void)pthread_cond_signal(&q->filled);
}

size_t queue_size_bytes(struct queue *q) {
    (void)pthread_mutex_lock(&q->lock);
    size_t n = q->size_bytes;
    (void)pthread_mutex_unlock(&q->lock);
    return n;
}

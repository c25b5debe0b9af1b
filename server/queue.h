/* queue.h: a queue from many threads to one, bounded in bytes, taken in one go.
 * Hides: the lock, the waiting, the accounting. */
#ifndef SERVER_QUEUE_H
#define SERVER_QUEUE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* First member of what is queued. */
struct queue_item {
    struct queue_item *next;
    size_t cost_bytes;
    bool quiet; /* wakes nobody: who puts it sees to it that it is taken */
};

struct queue {
    pthread_mutex_t lock;
    sem_t bell; /* rung once for each wait that has something to end it */
    struct queue_item *head, **tail;
    size_t size_bytes, limit_bytes;
    bool woken, waiting;
};

void queue_init(struct queue *q, size_t limit_bytes);
void queue_destroy(struct queue *q); /* empty, and nobody waits */

/* Always admitted, whatever the bound: what must not be lost. Returns the bytes in the queue now,
 * so that a source that can be held back is. */
size_t queue_put(struct queue *q, struct queue_item *item);
/* False, and nothing queued, when the bound would be passed (one item fits an empty queue always).
 */
bool queue_offer(struct queue *q, struct queue_item *item);
/* Waits up to timeout_ms (UINT64_MAX: for ever) while there is nothing, or until queue_wake. */
void queue_wait(struct queue *q, uint64_t timeout_ms);
/* The same, but what is there already does not count: somebody else takes that. */
void queue_wait_for_more(struct queue *q, uint64_t timeout_ms);
/* All that is queued, in order, as a list that belongs to the caller, after such a wait; NULL:
 * nothing. */
struct queue_item *queue_take(struct queue *q, uint64_t timeout_ms);
/* Ends one wait, now or the next. */
void queue_wake(struct queue *q);
/* Wakes who waits, if there is something (that came quietly). */
void queue_poke(struct queue *q);
size_t queue_size_bytes(struct queue *q);

#endif

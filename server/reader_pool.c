#include "server/reader_pool.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "node/feeder.h"
#include "server/thread.h"

enum { SWEEP_MS = 1000 };

/* The open reader of a follower that catches up. */
struct slot {
    uint64_t peer; /* 0: free */
    bool busy;
    struct feeder feeder;
    uint64_t used_ms;
};

struct feed {
    struct task task;
    struct server *s;
    uint64_t peer, ticket, seq, limit_seq, bytes;
};

struct reader_pool {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    struct task *head, **tail;
    unsigned n_tasks;
    bool stop;
    pthread_t threads[READER_THREADS];
    struct slot slots[RAFT_MAX_MEMBERS];
    uint64_t swept_ms;
};

static void push(struct reader_pool *pool, struct task *task) {
    task->next = NULL;
    *pool->tail = task;
    pool->tail = &task->next;
    pool->n_tasks++;
    (void)pthread_cond_signal(&pool->filled);
}

bool reader_pool_offer(struct server *s, struct task *task) {
    struct reader_pool *pool = s->readers;
    (void)pthread_mutex_lock(&pool->lock);
    bool fits = pool->n_tasks < READER_MAX_TASKS && !pool->stop;
    if (fits) push(pool, task);
    (void)pthread_mutex_unlock(&pool->lock);
    return fits;
}

void reader_pool_push(struct server *s, struct task *task) {
    struct reader_pool *pool = s->readers;
    (void)pthread_mutex_lock(&pool->lock);
    push(pool, task);
    (void)pthread_mutex_unlock(&pool->lock);
}

/* ---- Feeding followers */

/* The peer's slot, marked busy; `spare` when there is none to be had. */
static struct slot *slot_get(struct reader_pool *pool, uint64_t peer, struct slot *spare) {
    struct slot *found = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < RAFT_MAX_MEMBERS; i++) {
        struct slot *slot = &pool->slots[i];
        if (slot->peer == peer) {
            found = slot;
            break;
        }
        if (slot->peer == 0 && !found) found = slot;
    }
    if (found && found->busy) found = NULL;
    if (found) {
        found->peer = peer;
        found->busy = true;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return found ? found : spare;
}

static void slot_put(struct reader_pool *pool, struct slot *slot) {
    (void)pthread_mutex_lock(&pool->lock);
    slot->busy = false;
    slot->used_ms = clock_mono_ms();
    (void)pthread_mutex_unlock(&pool->lock);
}

static void feed_run(struct task *task) {
    struct feed *feed = (struct feed *)(void *)task;
    struct server *s = feed->s;
    struct slot spare = {0}, *slot = slot_get(s->readers, feed->peer, &spare);
    struct node_event ev = {.type = NODE_EV_FED, .peer = feed->peer, .ticket = feed->ticket};
    replog_error err = {.text = "nothing there yet"};
    replog_status st = feeder_read(&slot->feeder, s->wal, feed->seq, feed->limit_seq, feed->bytes,
                                   &ev.blocks, &err);
    if (st != REPLOG_OK) {
        ev.text = err.text;
        ev.damaged = st == REPLOG_DATA_LOSS;
        log_line(st == REPLOG_DATA_LOSS ? LOG_ERROR : LOG_INFO,
                 "peer=%" PRIu64 " cannot be fed from seq %" PRIu64 ": %s", feed->peer, feed->seq,
                 err.text);
        if (st == REPLOG_DATA_LOSS) atomic_store(&s->damaged, true);
    }
    stats_add(&s->stats.feeds, 1);
    stats_add(&s->stats.feed_bytes, ev.blocks.size_bytes);
    server_post(s, &ev);
    if (slot == &spare) {
        feeder_close(&slot->feeder);
    } else {
        slot_put(s->readers, slot);
    }
    free(feed);
}

void reader_pool_feed(struct server *s, const struct node_effect *fx) {
    struct feed *feed = malloc(sizeof *feed);
    if (!feed) server_fatal("memory is short");
    *feed = (struct feed){.task.run = feed_run,
                          .s = s,
                          .peer = fx->peer,
                          .ticket = fx->ticket,
                          .seq = fx->seq,
                          .limit_seq = fx->limit_seq,
                          .bytes = fx->bytes};
    reader_pool_push(s, &feed->task);
}

/* With the lock held: readers that were not used for long hold segments for nothing. */
static void sweep(struct reader_pool *pool) {
    uint64_t now_ms = clock_mono_ms();
    if (now_ms - pool->swept_ms < SWEEP_MS) return;
    pool->swept_ms = now_ms;
    for (unsigned i = 0; i < RAFT_MAX_MEMBERS; i++) {
        struct slot *slot = &pool->slots[i];
        if (!slot->busy && slot->feeder.reader && now_ms - slot->used_ms >= READER_IDLE_MS)
            feeder_close(&slot->feeder);
    }
}

/* ---- Threads */

static void *reader_main(void *arg) {
    struct reader_pool *pool = arg;
    (void)pthread_mutex_lock(&pool->lock);
    while (!pool->stop) {
        struct task *task = pool->head;
        if (!task) {
            struct timespec until = deadline_after_ms(SWEEP_MS);
            (void)pthread_cond_timedwait(&pool->filled, &pool->lock, &until);
            sweep(pool);
            continue;
        }
        pool->head = task->next;
        if (!pool->head) pool->tail = &pool->head;
        pool->n_tasks--;
        (void)pthread_mutex_unlock(&pool->lock);
        task->run(task);
        (void)pthread_mutex_lock(&pool->lock);
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return NULL;
}

replog_status reader_pool_start(struct server *s, replog_error *err) {
    struct reader_pool *pool = calloc(1, sizeof *pool);
    if (!pool) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    (void)pthread_mutex_init(&pool->lock, NULL);
    cond_init_mono(&pool->filled);
    pool->tail = &pool->head;
    s->readers = pool;
    for (unsigned i = 0; i < READER_THREADS; i++) {
        replog_status st = thread_start(&pool->threads[i], "reader", reader_main, pool, err);
        if (st != REPLOG_OK) return st;
    }
    return REPLOG_OK;
}

bool reader_pool_stop(struct server *s, uint64_t timeout_ms) {
    struct reader_pool *pool = s->readers;
    (void)pthread_mutex_lock(&pool->lock);
    pool->stop = true;
    (void)pthread_mutex_unlock(&pool->lock);
    (void)pthread_cond_broadcast(&pool->filled);
    bool ended = true;
    for (unsigned i = 0; i < READER_THREADS; i++) {
        if (!thread_join_within(pool->threads[i], timeout_ms)) ended = false;
    }
    return ended;
}

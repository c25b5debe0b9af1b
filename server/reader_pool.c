#include "server/reader_pool.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/thread.h"

enum { SWEEP_MS = 1000 };

/* The open reader of a follower that catches up; it usually goes on where it was. */
struct feeder {
    uint64_t peer; /* 0: free */
    bool busy;
    struct wal_reader *reader;
    uint64_t next_seq, used_ms;
    /* Read from the reader and not yet fed: did not fit. Holds until the reader's next call. */
    bool has_block;
    struct block_header header;
    const uint8_t *bytes;
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
    struct feeder feeders[RAFT_MAX_MEMBERS];
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

static void feeder_close(struct feeder *f) {
    wal_reader_close(f->reader);
    f->reader = NULL;
    f->has_block = false;
}

/* The peer's feeder, marked busy; `spare` when there is none to be had. */
static struct feeder *feeder_get(struct reader_pool *pool, uint64_t peer, struct feeder *spare) {
    struct feeder *found = NULL;
    (void)pthread_mutex_lock(&pool->lock);
    for (unsigned i = 0; i < RAFT_MAX_MEMBERS; i++) {
        struct feeder *f = &pool->feeders[i];
        if (f->peer == peer) {
            found = f;
            break;
        }
        if (f->peer == 0 && !found) found = f;
    }
    if (found && found->busy) found = NULL;
    if (found) {
        found->peer = peer;
        found->busy = true;
    }
    (void)pthread_mutex_unlock(&pool->lock);
    return found ? found : spare;
}

static void feeder_put(struct reader_pool *pool, struct feeder *f) {
    (void)pthread_mutex_lock(&pool->lock);
    f->busy = false;
    f->used_ms = clock_mono_ms();
    (void)pthread_mutex_unlock(&pool->lock);
}

/* The next block into f->header and f->bytes. NOT_FOUND: nothing more up to limit_seq. */
static replog_status feeder_next(struct feeder *f, uint64_t limit_seq, replog_error *err) {
    if (!f->has_block) {
        replog_status st = wal_reader_next(f->reader, limit_seq, &f->header, &f->bytes, err);
        if (st != REPLOG_OK) return st;
        f->has_block = true;
    }
    if (block_last_seq(&f->header) > limit_seq) return REPLOG_NOT_FOUND;
    if (f->header.first_seq == f->next_seq) return REPLOG_OK;
    return error_set(err, REPLOG_OUT_OF_RANGE, "no block begins at seq %" PRIu64, f->next_seq);
}

static replog_status feed_open(struct feeder *f, struct wal *wal, uint64_t seq, replog_error *err) {
    if (f->reader && f->next_seq == seq) return REPLOG_OK;
    feeder_close(f);
    f->next_seq = seq;
    return wal_reader_open(wal, seq, &f->reader, err);
}

/* Whole blocks from feed->seq on, about feed->bytes of them and at least one. *out is untouched
 * (blob NULL) when there is none. */
static replog_status feed_read(const struct feed *feed, struct feeder *f, struct node_bytes *out,
                               replog_error *err) {
    replog_status st = feed_open(f, feed->s->wal, feed->seq, err);
    if (st != REPLOG_OK) return st;
    struct blob *blob = NULL;
    size_t used = 0;
    while ((st = feeder_next(f, feed->limit_seq, err)) == REPLOG_OK) {
        size_t length = f->header.length;
        if (used > 0 && used + length > feed->bytes) break;
        if (!blob) {
            blob = blob_new(length > feed->bytes ? length : feed->bytes);
            if (!blob) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
        }
        memcpy(blob->data + used, f->bytes, length);
        used += length;
        f->next_seq = block_last_seq(&f->header) + 1;
        f->has_block = false;
    }
    if (used == 0) {
        blob_unref(blob);
        return st;
    }
    if (used < blob->capacity / 2) { /* small: do not hold the room for more in memory */
        struct blob *exact = blob_copy(blob->data, used);
        if (exact) {
            blob_unref(blob);
            blob = exact;
        }
    }
    blob->size_bytes = used;
    *out = (struct node_bytes){blob, 0, used};
    return REPLOG_OK;
}

static void feed_run(struct task *task) {
    struct feed *feed = (struct feed *)(void *)task;
    struct server *s = feed->s;
    struct feeder spare = {0}, *f = feeder_get(s->readers, feed->peer, &spare);
    struct node_event ev = {.type = NODE_EV_FED, .peer = feed->peer, .ticket = feed->ticket};
    replog_error err = {.text = "nothing there yet"};
    replog_status st = feed_read(feed, f, &ev.blocks, &err);
    if (st == REPLOG_ABORTED) { /* the log changed under the reader */
        feeder_close(f);
        st = feed_read(feed, f, &ev.blocks, &err);
    }
    if (st != REPLOG_OK) {
        feeder_close(f);
        ev.text = err.text;
        log_line(st == REPLOG_DATA_LOSS ? LOG_ERROR : LOG_INFO,
                 "peer=%" PRIu64 " cannot be fed from seq %" PRIu64 ": %s", feed->peer, feed->seq,
                 err.text);
        if (st == REPLOG_DATA_LOSS) atomic_store(&s->damaged, true);
    }
    stats_add(&s->stats.feeds, 1);
    stats_add(&s->stats.feed_bytes, ev.blocks.size_bytes);
    server_post(s, &ev);
    if (f == &spare) {
        feeder_close(f);
    } else {
        feeder_put(s->readers, f);
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
        struct feeder *f = &pool->feeders[i];
        if (!f->busy && f->reader && now_ms - f->used_ms >= READER_IDLE_MS) feeder_close(f);
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

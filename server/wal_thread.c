#include "server/wal_thread.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "node/log_worker.h"
#include "server/fill_thread.h"
#include "server/thread.h"

struct job {
    struct log_job job; /* first: the worker frees it */
    struct queue_item link;
};

struct wal_thread {
    struct server *s;
    pthread_t thread;
    struct queue queue;
    atomic_bool stop;
    /* below: this thread only */
    struct log_worker *worker;
    uint64_t sync_start_ns;
};

void wal_thread_push(struct server *s, struct node_effect *fx) {
    struct job *job = malloc(sizeof *job);
    size_t size_bytes = fx->blocks.size_bytes;
    if (!job || !log_job_init(&job->job, fx)) server_fatal("memory is short");
    job->link = (struct queue_item){.cost_bytes = sizeof *job + size_bytes};
    (void)queue_put(&s->wal_thread->queue, &job->link);
}

size_t wal_thread_queued_bytes(struct server *s) {
    return queue_size_bytes(&s->wal_thread->queue);
}

/* ---- What the worker asks for */

static void post(void *user, const struct node_event *ev) {
    struct wal_thread *w = user;
    /* A turn of the node would keep the next group waiting. */
    if (ev->type != NODE_EV_PERSISTED || queue_size_bytes(&w->queue) > 0) {
        server_post(w->s, ev);
        return;
    }
    server_post_urgent(w->s, ev);
    node_thread_help(w->s);
}

static void fatal(void *user, const char *text) {
    (void)user;
    server_fatal("%s", text);
}

static uint64_t now_ms(void *user) {
    (void)user;
    return clock_mono_ms();
}

static bool more(void *user) {
    struct wal_thread *w = user;
    return queue_size_bytes(&w->queue) > 0;
}

static void wrote(void *user, size_t n_writes, uint64_t bytes) {
    const struct wal_thread *w = user;
    struct stats *stats = &w->s->stats;
    stats_add(&stats->groups, 1);
    stats_add(&stats->group_writes, n_writes);
    stats_add(&stats->group_bytes, bytes);
}

static void syncing(void *user, bool begins) {
    struct wal_thread *w = user;
    uint64_t now_ns = clock_mono_ns();
    if (!begins) stats_sync(&w->s->stats, now_ns - w->sync_start_ns);
    w->sync_start_ns = now_ns;
}

static void fill(void *user, const struct wal_spare *spare) {
    const struct wal_thread *w = user;
    fill_thread_fill(w->s, spare);
}

static bool filled(void *user, struct wal_spare *spare) {
    const struct wal_thread *w = user;
    return fill_thread_filled(w->s, spare);
}

static const struct log_worker_ops ops = {.post = post,
                                          .fatal = fatal,
                                          .now_ms = now_ms,
                                          .more = more,
                                          .fill = fill,
                                          .filled = filled,
                                          .wrote = wrote,
                                          .syncing = syncing};

/* ---- The thread */

static void take_jobs(struct wal_thread *w, uint64_t wait_ms) {
    struct queue_item *item = queue_take(&w->queue, wait_ms);
    while (item) {
        struct queue_item *next = item->next;
        struct job *job = (struct job *)(void *)((char *)item - offsetof(struct job, link));
        log_worker_push(w->worker, &job->job);
        item = next;
    }
}

static void *wal_thread_main(void *arg) {
    struct wal_thread *w = arg;
    uint64_t wait_ms = 0;
    for (;;) {
        bool stop = atomic_load(&w->stop);
        take_jobs(w, stop ? 0 : wait_ms);
        wait_ms = log_worker_run(w->worker);
        /* what is stuck was not acknowledged */
        if (stop && (log_worker_stuck(w->worker) || !log_worker_busy(w->worker))) break;
    }
    log_worker_finish(w->worker);
    return NULL;
}

replog_status wal_thread_start(struct server *s, replog_error *err) {
    struct wal_thread *w = calloc(1, sizeof *w);
    if (!w) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    struct log_worker_options options = {.wal = s->wal,
                                         .disk = s->disk,
                                         .dir = s->options.dir,
                                         .sync = s->options.sync,
                                         .reserve_bytes = s->options.reserve_bytes,
                                         .ops = &ops,
                                         .user = w};
    w->s = s;
    w->worker = log_worker_new(&options);
    if (!w->worker) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    queue_init(&w->queue, SIZE_MAX); /* bounded by the node's pending_bytes and peer windows */
    s->wal_thread = w;
    return thread_start(&w->thread, "wal", wal_thread_main, w, err);
}

bool wal_thread_stop(struct server *s, uint64_t timeout_ms) {
    atomic_store(&s->wal_thread->stop, true);
    queue_wake(&s->wal_thread->queue);
    return thread_join_within(s->wal_thread->thread, timeout_ms);
}

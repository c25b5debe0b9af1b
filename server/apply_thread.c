#include "server/apply_thread.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "node/apply_worker.h"
#include "server/thread.h"

struct apply_thread {
    struct server *s;
    pthread_t thread;
    pthread_mutex_t lock; /* of all up to `stop` */
    pthread_cond_t wanted;
    uint64_t target_seq;
    struct node_bytes given[APPLY_MAX_GIVEN]; /* not yet with the applier */
    size_t n_given;
    bool flush, stop;
    struct apply_worker worker; /* this thread only */
};

static void post(void *user, const struct node_event *ev) {
    server_post(user, ev);
}

static void fatal(void *user, const char *text) {
    (void)user;
    server_fatal("%s", text);
}

static const struct apply_worker_ops ops = {.post = post, .fatal = fatal};

/* Waits for work, or on a full disk for a moment. */
static void wait_for_work(struct apply_thread *a, enum apply_worker_next next) {
    if (next == APPLY_WORKER_FULL) {
        struct timespec until = deadline_after_ms(APPLY_WORKER_SPACE_MS);
        while (!a->stop && pthread_cond_timedwait(&a->wanted, &a->lock, &until) == 0) continue;
    } else if (next == APPLY_WORKER_IDLE) {
        while (a->target_seq <= apply_seq(a->s->applier) && !a->flush && !a->stop)
            (void)pthread_cond_wait(&a->wanted, &a->lock);
    }
}

static void *apply_thread_main(void *arg) {
    struct apply_thread *a = arg;
    enum apply_worker_next next = APPLY_WORKER_IDLE;
    for (;;) {
        (void)pthread_mutex_lock(&a->lock);
        wait_for_work(a, next);
        uint64_t target_seq = a->target_seq;
        bool flush = a->flush, stop = a->stop;
        a->flush = false;
        for (size_t i = 0; i < a->n_given; i++) apply_give(a->s->applier, a->given[i]);
        a->n_given = 0;
        (void)pthread_mutex_unlock(&a->lock);
        if (stop) break;
        uint64_t read_bytes = apply_read_bytes(a->s->applier);
        next = apply_worker_run(&a->worker, target_seq, flush);
        stats_add(&a->s->stats.store_read_bytes, apply_read_bytes(a->s->applier) - read_bytes);
    }
    /* A last flush; what was not applied is at the next start. */
    (void)apply_worker_run(&a->worker, 0, true);
    return NULL;
}

void apply_thread_apply(struct server *s, struct node_effect *fx) {
    struct apply_thread *a = s->apply_thread;
    (void)pthread_mutex_lock(&a->lock);
    if (fx->seq > a->target_seq) a->target_seq = fx->seq;
    if (a->n_given < APPLY_MAX_GIVEN && fx->blocks.blob) {
        a->given[a->n_given++] = fx->blocks;
        fx->blocks.blob = NULL;
    }
    (void)pthread_mutex_unlock(&a->lock);
    blob_unref(fx->blocks.blob); /* no room: it is read from the log */
    fx->blocks.blob = NULL;
    (void)pthread_cond_signal(&a->wanted);
}

void apply_thread_flush(struct server *s) {
    struct apply_thread *a = s->apply_thread;
    (void)pthread_mutex_lock(&a->lock);
    a->flush = true;
    (void)pthread_mutex_unlock(&a->lock);
    (void)pthread_cond_signal(&a->wanted);
}

replog_status apply_thread_start(struct server *s, replog_error *err) {
    struct apply_thread *a = calloc(1, sizeof *a);
    if (!a) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    a->s = s;
    a->worker = (struct apply_worker){.applier = s->applier, .ops = &ops, .user = s};
    (void)pthread_mutex_init(&a->lock, NULL);
    cond_init_mono(&a->wanted);
    s->apply_thread = a;
    return thread_start(&a->thread, "apply", apply_thread_main, a, err);
}

bool apply_thread_stop(struct server *s, uint64_t timeout_ms) {
    struct apply_thread *a = s->apply_thread;
    (void)pthread_mutex_lock(&a->lock);
    a->stop = true;
    (void)pthread_mutex_unlock(&a->lock);
    (void)pthread_cond_signal(&a->wanted);
    return thread_join_within(a->thread, timeout_ms);
}

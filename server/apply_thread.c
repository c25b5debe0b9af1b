#include "server/apply_thread.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/thread.h"

enum { SLICE_BYTES = 1 << 20, SPACE_WAIT_MS = 250, SPACE_TOLD_EVERY = 240 };

struct apply_thread {
    struct server *s;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wanted;
    uint64_t target_seq;
    bool flush, stop;
    uint64_t counted_bytes; /* of apply_bytes, already told; this thread only */
};

/* Waits a moment after a failure. A full disk is waited for, however long it takes: RocksDB holds
 * what it has in memory, and goes on by itself a few seconds after there is space. Anything else
 * stops the process. False: the node is stopping. */
static bool wait_for_space(struct apply_thread *a, const char *what, uint64_t tries,
                           replog_status st, const replog_error *err) {
    if (st != REPLOG_RESOURCE_EXHAUSTED)
        server_fatal("%s: %s; start again to replay from the last checkpoint", what, err->text);
    if (tries % SPACE_TOLD_EVERY == 0) log_warn("%s: %s; waiting for space", what, err->text);
    struct timespec until = deadline_after_ms(SPACE_WAIT_MS);
    (void)pthread_mutex_lock(&a->lock);
    while (!a->stop && pthread_cond_timedwait(&a->wanted, &a->lock, &until) == 0) continue;
    bool go_on = !a->stop;
    (void)pthread_mutex_unlock(&a->lock);
    return go_on;
}

static void apply_slice(struct apply_thread *a, uint64_t target_seq) {
    replog_error err;
    uint64_t applied = 0;
    for (uint64_t tries = 0;; tries++) {
        replog_status st = apply_run(a->s->applier, target_seq, SLICE_BYTES, &applied, &err);
        if (st == REPLOG_OK) break;
        if (!wait_for_space(a, "replay", tries, st, &err)) return;
    }
    uint64_t bytes = apply_bytes(a->s->applier);
    server_post(a->s, &(struct node_event){.type = NODE_EV_APPLIED,
                                           .seq = applied,
                                           .bytes = bytes - a->counted_bytes});
    a->counted_bytes = bytes;
}

static void flush_store(struct apply_thread *a) {
    replog_error err;
    uint64_t checkpoint = 0, start_ms = clock_mono_ms();
    for (uint64_t tries = 0;; tries++) {
        replog_status st = apply_flush(a->s->applier, &checkpoint, &err);
        if (st == REPLOG_OK) break;
        if (!wait_for_space(a, "making the store durable", tries, st, &err)) return;
    }
    log_debug("store flushed checkpoint_seq=%" PRIu64 " ms=%" PRIu64, checkpoint,
              clock_mono_ms() - start_ms);
    server_post(a->s, &(struct node_event){.type = NODE_EV_FLUSHED, .seq = checkpoint});
}

static void *apply_thread_main(void *arg) {
    struct apply_thread *a = arg;
    bool stop = false;
    while (!stop) {
        (void)pthread_mutex_lock(&a->lock);
        while (a->target_seq <= apply_seq(a->s->applier) && !a->flush && !a->stop) {
            (void)pthread_cond_wait(&a->wanted, &a->lock);
        }
        uint64_t target_seq = a->target_seq;
        bool flush = a->flush;
        stop = a->stop;
        a->flush = false;
        (void)pthread_mutex_unlock(&a->lock);
        if (target_seq > apply_seq(a->s->applier) && !stop) apply_slice(a, target_seq);
        if (flush || stop) flush_store(a);
    }
    return NULL;
}

void apply_thread_apply(struct server *s, uint64_t upto_seq) {
    struct apply_thread *a = s->apply_thread;
    (void)pthread_mutex_lock(&a->lock);
    if (upto_seq > a->target_seq) a->target_seq = upto_seq;
    (void)pthread_mutex_unlock(&a->lock);
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

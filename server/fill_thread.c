#include "server/fill_thread.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/thread.h"

enum {
    LOOK_MS = 2,
    SLICE_MS = 50,               /* one slice (1 MiB) in such a time */
    SLICE_LOG_BYTES = 768 << 10, /* or while the log took so much: it must not run out of spares */
    LARGE_GROUP_BYTES = 256 << 10, /* with groups like these the disk's bandwidth is what is short:
                                      the log had better grow, and write every byte once */
};

enum filler_state { FILLER_IDLE, FILLER_BUSY, FILLER_DONE };

struct fill_thread {
    struct server *s;
    pthread_t thread;
    pthread_mutex_t lock; /* of the following */
    pthread_cond_t asked;
    enum filler_state state;
    struct wal_spare spare; /* this thread's while BUSY */
    atomic_bool stop;
};

/* Waits for the time of the next slice. */
static void pace(struct fill_thread *f) {
    const struct stats *stats = &f->s->stats;
    uint64_t from_ms = clock_mono_ms();
    uint64_t bytes_before = stats_get(&stats->group_bytes);
    uint64_t groups_before = stats_get(&stats->groups);
    while (!atomic_load(&f->stop)) {
        thread_sleep_ms(LOOK_MS);
        uint64_t now_ms = clock_mono_ms();
        uint64_t bytes = stats_get(&stats->group_bytes) - bytes_before;
        uint64_t groups = stats_get(&stats->groups) - groups_before;
        if (now_ms - from_ms < SLICE_MS && bytes < SLICE_LOG_BYTES) continue;
        if (groups == 0 || bytes / groups < LARGE_GROUP_BYTES) return;
        from_ms = now_ms; /* later, when groups are smaller again */
        bytes_before += bytes;
        groups_before += groups;
    }
}

/* What the reserve is for goes before speed. */
static bool has_room(const struct server *s) {
    uint64_t free_bytes, reserve = s->options.reserve_bytes;
    return s->disk->free_bytes(s->disk->ctx, s->options.dir, &free_bytes, NULL) == REPLOG_OK &&
           free_bytes > reserve + reserve / 2;
}

static void fill(struct fill_thread *f, struct wal_spare *spare) {
    replog_error err;
    replog_status st = REPLOG_OK;
    while (st == REPLOG_OK && !spare->full && !atomic_load(&f->stop)) {
        pace(f);
        if (!has_room(f->s)) return;
        st = wal_spare_fill(f->s->wal, spare, &err);
    }
    if (st != REPLOG_OK) log_warn("no spare segment could be filled: %s", err.text);
}

static void *fill_thread_main(void *arg) {
    struct fill_thread *f = arg;
    (void)pthread_mutex_lock(&f->lock);
    while (!atomic_load(&f->stop)) {
        if (f->state != FILLER_BUSY) {
            (void)pthread_cond_wait(&f->asked, &f->lock);
            continue;
        }
        (void)pthread_mutex_unlock(&f->lock);
        fill(f, &f->spare);
        (void)pthread_mutex_lock(&f->lock);
        f->state = FILLER_DONE;
    }
    (void)pthread_mutex_unlock(&f->lock);
    return NULL;
}

void fill_thread_fill(struct server *s, const struct wal_spare *spare) {
    struct fill_thread *f = s->fill_thread;
    (void)pthread_mutex_lock(&f->lock);
    f->spare = *spare;
    f->state = FILLER_BUSY;
    (void)pthread_mutex_unlock(&f->lock);
    (void)pthread_cond_signal(&f->asked);
}

bool fill_thread_filled(struct server *s, struct wal_spare *spare) {
    struct fill_thread *f = s->fill_thread;
    (void)pthread_mutex_lock(&f->lock);
    bool done = f->state == FILLER_DONE;
    if (done) {
        *spare = f->spare;
        f->state = FILLER_IDLE;
    }
    (void)pthread_mutex_unlock(&f->lock);
    return done;
}

replog_status fill_thread_start(struct server *s, replog_error *err) {
    struct fill_thread *f = calloc(1, sizeof *f);
    if (!f) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    f->s = s;
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_cond_init(&f->asked, NULL);
    s->fill_thread = f;
    return thread_start(&f->thread, "fill", fill_thread_main, f, err);
}

bool fill_thread_stop(struct server *s, uint64_t timeout_ms) {
    struct fill_thread *f = s->fill_thread;
    (void)pthread_mutex_lock(&f->lock);
    atomic_store(&f->stop, true);
    (void)pthread_mutex_unlock(&f->lock);
    (void)pthread_cond_signal(&f->asked);
    return thread_join_within(f->thread, timeout_ms);
}

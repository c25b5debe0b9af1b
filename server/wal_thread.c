#include "server/wal_thread.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/thread.h"

enum {
    GATHER_BYTES = 8 << 20, /* of one write+sync */
    GATHER_PIECES = 4096,
    BATCH_BYTES = 1 << 20,     /* --sync batch: synced after so much */
    BATCH_MS = 10,             /* or so long */
    BACKGROUND_SYNC_MS = 1000, /* --sync none */
    IDLE_MARK_MS = 100,
    PREPARE_EVERY_MS = 50,
    SPACE_EVERY_MS = 200 /* how often free space is looked at; and a full disk is tried again */
};

struct job {
    struct queue_item link;
    enum node_effect_type type;
    uint64_t seq, epoch, term, vote, cluster_id;
    enum wal_founding founding;
    struct config *config; /* FOUND, TRUNCATE; NULL: unchanged */
    struct node_bytes blocks;
};

struct wal_thread {
    struct server *s;
    pthread_t thread;
    struct queue queue;
    atomic_bool stop;
    /* below: this thread only */
    struct job *head, **tail; /* taken from the queue, not yet done */
    struct slice pieces[GATHER_PIECES];
    uint64_t unsynced_bytes, unsynced_since_ms; /* written; 0 bytes: all is synced */
    uint64_t written_seq, written_epoch;        /* of the last WRITE that is in */
    uint64_t wrote_ms, prepared_ms;
    uint64_t space_ms, since_look_bytes; /* when free space was looked at, and written since */
    bool unmarked, prepare_more, low;
};

static bool is_mode(const struct wal_thread *w, replog_sync_mode mode) {
    return w->s->options.sync == mode;
}

static void job_free(struct job *job) {
    blob_unref(job->blocks.blob);
    free(job->config);
    free(job);
}

void wal_thread_push(struct server *s, struct node_effect *fx) {
    struct job *job = calloc(1, sizeof *job);
    if (!job) server_fatal("memory is short");
    job->link.cost_bytes = sizeof *job + fx->blocks.size_bytes;
    job->type = fx->type;
    job->seq = fx->seq;
    job->epoch = fx->epoch;
    job->term = fx->term;
    job->vote = fx->vote;
    job->cluster_id = fx->cluster_id;
    job->founding = fx->founding;
    job->blocks = fx->blocks;
    fx->blocks.blob = NULL;
    bool has_config = fx->type == NODE_FX_FOUND || fx->type == NODE_FX_TRUNCATE;
    if (has_config && fx->config) {
        job->config = malloc(sizeof *job->config);
        if (!job->config) server_fatal("memory is short");
        *job->config = *fx->config;
    }
    (void)queue_put(&s->wal_thread->queue, &job->link);
}

size_t wal_thread_queued_bytes(struct server *s) {
    return queue_size_bytes(&s->wal_thread->queue);
}

/* ---- Space */

static void tell_space(struct wal_thread *w, bool low) {
    if (w->low == low) return;
    w->low = low;
    if (low) {
        log_warn("disk space is short in %s; appends are refused until there is more",
                 w->s->options.dir);
    } else {
        log_info("there is disk space again");
    }
    server_post(w->s, &(struct node_event){.type = NODE_EV_SPACE, .low = low});
}

static void look_at_space(struct wal_thread *w, uint64_t now_ms) {
    uint64_t free_bytes, reserve = w->s->options.reserve_bytes;
    bool due = now_ms - w->space_ms >= SPACE_EVERY_MS || w->since_look_bytes > reserve / 8;
    if (!due) return;
    w->space_ms = now_ms;
    w->since_look_bytes = 0;
    const struct disk *disk = w->s->disk;
    if (disk->free_bytes(disk->ctx, w->s->options.dir, &free_bytes, NULL) != REPLOG_OK) return;
    /* a gap between the two bounds, so that it does not flutter */
    if (free_bytes < reserve) tell_space(w, true);
    if (free_bytes >= reserve + reserve / 8) tell_space(w, false);
}

/* ---- Writing */

static void persisted(struct wal_thread *w) {
    server_post(w->s, &(struct node_event){.type = NODE_EV_PERSISTED,
                                           .seq = w->written_seq,
                                           .epoch = w->written_epoch});
}

/* Makes what was written durable, and says so unless that was said at the write. */
static void sync_now(struct wal_thread *w) {
    if (w->unsynced_bytes == 0) return;
    replog_error err;
    uint64_t start_ns = clock_mono_ns();
    if (wal_sync(w->s->wal, &err) != REPLOG_OK) {
        server_fatal("the log cannot be made durable: %s", err.text);
    }
    stats_sync(&w->s->stats, clock_mono_ns() - start_ns);
    w->unsynced_bytes = 0;
    if (!is_mode(w, REPLOG_SYNC_NONE)) persisted(w);
}

static void drop_head(struct wal_thread *w) {
    struct job *job = w->head;
    CHECK(job);
    w->head = (struct job *)(void *)job->link.next;
    if (!w->head) w->tail = &w->head;
    job_free(job);
}

/* The first n jobs are in the log. */
static void written(struct wal_thread *w, size_t n) {
    if (n == 0) return;
    uint64_t bytes = 0, now_ms = clock_mono_ms();
    for (size_t i = 0; i < n; i++) {
        const struct job *job = w->head;
        CHECK(job);
        bytes += job->blocks.size_bytes;
        w->written_seq = job->seq;
        w->written_epoch = job->epoch;
        drop_head(w);
    }
    struct stats *stats = &w->s->stats;
    stats_add(&stats->groups, 1);
    stats_add(&stats->group_writes, n);
    stats_add(&stats->group_bytes, bytes);
    if (w->unsynced_bytes == 0) w->unsynced_since_ms = now_ms;
    w->unsynced_bytes += bytes;
    w->since_look_bytes += bytes;
    w->unmarked = true;
    w->prepare_more = true;
    w->wrote_ms = now_ms;
    if (is_mode(w, REPLOG_SYNC_NONE)) persisted(w);
    if (is_mode(w, REPLOG_SYNC_ALWAYS)) sync_now(w);
    if (is_mode(w, REPLOG_SYNC_BATCH) && w->unsynced_bytes >= BATCH_BYTES) sync_now(w);
}

/* The group commit: all WRITEs that stand together, in one write. */
static replog_status write_group(struct wal_thread *w, replog_error *err) {
    size_t n = 0, bytes = 0, done = 0;
    for (struct job *job = w->head; job && job->type == NODE_FX_WRITE && n < GATHER_PIECES;
         job = (struct job *)(void *)job->link.next) {
        if (n > 0 && bytes + job->blocks.size_bytes > GATHER_BYTES) break;
        w->pieces[n++] =
            (struct slice){job->blocks.blob->data + job->blocks.offset, job->blocks.size_bytes};
        bytes += job->blocks.size_bytes;
    }
    replog_status st = wal_append(w->s->wal, w->pieces, n, &done, err);
    if (st == REPLOG_OK) done = n;
    if (st == REPLOG_OK || st == REPLOG_RESOURCE_EXHAUSTED) written(w, done);
    return st;
}

static replog_status truncate_log(struct wal_thread *w, const struct job *job, replog_error *err) {
    replog_status st = wal_truncate(w->s->wal, job->seq, job->config, err);
    if (st != REPLOG_OK) return st;
    struct wal_pos base = wal_base(w->s->wal);
    server_post(w->s,
                &(struct node_event){.type = NODE_EV_TRUNCATED, .seq = job->seq, .base = base});
    w->space_ms = 0;
    return st;
}

static replog_status run_other(struct wal_thread *w, const struct job *job, replog_error *err) {
    struct wal *wal = w->s->wal;
    struct node_event ev = {.seq = job->seq,
                            .epoch = job->epoch,
                            .term = job->term,
                            .vote = job->vote,
                            .founding = job->founding};
    replog_status st = REPLOG_OK;
    switch (job->type) {
    case NODE_FX_SAVE_VOTE:
        ev.type = NODE_EV_VOTE_SAVED;
        st = wal_save_vote(wal, (struct wal_vote){job->term, job->vote}, err);
        break;
    case NODE_FX_CUT:
        sync_now(w); /* what it keeps may still wait for its sync */
        ev.type = NODE_EV_CUT_DONE;
        st = wal_cut(wal, job->seq, err);
        if (st == REPLOG_OK) log_info("cut a conflicting tail last_seq=%" PRIu64, job->seq);
        break;
    case NODE_FX_FOUND:
        ev.type = NODE_EV_FOUND_SAVED;
        st = wal_found(wal, job->founding, job->cluster_id, job->config, err);
        break;
    case NODE_FX_TRUNCATE:
        return truncate_log(w, job, err);
    default:
        server_fatal("a job of kind %d for the log", (int)job->type);
    }
    if (st == REPLOG_OK) server_post(w->s, &ev);
    return st;
}

/* While the disk is full, what frees space goes first. */
static void run_truncates(struct wal_thread *w) {
    for (struct job **at = &w->head; *at;) {
        struct job *job = *at;
        replog_error err;
        if (job->type != NODE_FX_TRUNCATE) {
            at = (struct job **)(void *)&job->link.next;
            continue;
        }
        replog_status st = truncate_log(w, job, &err);
        if (st == REPLOG_RESOURCE_EXHAUSTED) return;
        if (st != REPLOG_OK) server_fatal("the log cannot be truncated: %s", err.text);
        *at = (struct job *)(void *)job->link.next;
        if (!*at) w->tail = at;
        job_free(job);
    }
}

static void take_jobs(struct wal_thread *w, uint64_t wait_ms) {
    struct queue_item *items = queue_take(&w->queue, wait_ms);
    if (!items) return;
    *w->tail = (struct job *)(void *)items;
    while (items->next) items = items->next;
    w->tail = (struct job **)(void *)&items->next;
}

static void wait_for_space(struct wal_thread *w, const char *why) {
    log_warn("the disk is full: %s", why);
    sync_now(w);
    tell_space(w, true);
    w->space_ms = clock_mono_ms(); /* not "enough again" before the next look */
    take_jobs(w, SPACE_EVERY_MS);
    run_truncates(w);
}

/* What is first in line, and with a WRITE all that stand behind it. False: it waits for space. */
static bool run_next(struct wal_thread *w) {
    replog_error err;
    bool is_write = w->head->type == NODE_FX_WRITE;
    replog_status st = is_write ? write_group(w, &err) : run_other(w, w->head, &err);
    if (st == REPLOG_RESOURCE_EXHAUSTED) {
        wait_for_space(w, err.text);
        return false;
    }
    if (st != REPLOG_OK) {
        server_fatal("the log failed, nothing more is acknowledged: %s", err.text);
    }
    if (!is_write) drop_head(w);
    return true;
}

/* ---- Between jobs */

static void mark_tail(struct wal_thread *w) {
    replog_error err;
    sync_now(w);
    replog_status st = wal_mark(w->s->wal, &err);
    if (st == REPLOG_OK) st = wal_sync(w->s->wal, &err);
    if (st != REPLOG_OK && st != REPLOG_RESOURCE_EXHAUSTED) {
        server_fatal("the log cannot be marked: %s", err.text);
    }
    w->unmarked = false;
}

static void prepare(struct wal_thread *w, uint64_t now_ms) {
    if (!w->prepare_more || w->low || now_ms - w->prepared_ms < PREPARE_EVERY_MS) return;
    replog_error err;
    w->prepared_ms = now_ms;
    replog_status st = wal_prepare(w->s->wal, &w->prepare_more, &err);
    if (st == REPLOG_OK) return;
    w->prepare_more = false;
    if (st != REPLOG_RESOURCE_EXHAUSTED) server_fatal("no segment can be prepared: %s", err.text);
}

static void between_jobs(struct wal_thread *w) {
    uint64_t now_ms = clock_mono_ms();
    uint64_t sync_ms = is_mode(w, REPLOG_SYNC_NONE) ? BACKGROUND_SYNC_MS : BATCH_MS;
    if (w->unsynced_bytes > 0 && now_ms - w->unsynced_since_ms >= sync_ms) sync_now(w);
    if (w->unmarked && now_ms - w->wrote_ms >= IDLE_MARK_MS) mark_tail(w);
    if (!w->head && queue_size_bytes(&w->queue) == 0) prepare(w, now_ms);
    look_at_space(w, now_ms);
}

static uint64_t wait_ms(const struct wal_thread *w) {
    uint64_t wait = SPACE_EVERY_MS;
    if (w->prepare_more && wait > PREPARE_EVERY_MS) wait = PREPARE_EVERY_MS;
    if (w->unmarked && wait > IDLE_MARK_MS) wait = IDLE_MARK_MS;
    if (w->unsynced_bytes > 0 && is_mode(w, REPLOG_SYNC_BATCH)) wait = BATCH_MS / 2;
    return wait;
}

static void *wal_thread_main(void *arg) {
    struct wal_thread *w = arg;
    for (;;) {
        bool stop = atomic_load(&w->stop);
        take_jobs(w, stop || w->head ? 0 : wait_ms(w));
        bool stuck = w->head && !run_next(w);
        if (stop && (stuck || !w->head)) break; /* what is stuck was not acknowledged */
        between_jobs(w);
    }
    mark_tail(w);
    return NULL;
}

replog_status wal_thread_start(struct server *s, replog_error *err) {
    struct wal_thread *w = calloc(1, sizeof *w);
    if (!w) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    w->s = s;
    w->tail = &w->head;
    w->prepare_more = true;
    queue_init(&w->queue, SIZE_MAX); /* bounded by the node's pending_bytes and peer windows */
    s->wal_thread = w;
    return thread_start(&w->thread, "wal", wal_thread_main, w, err);
}

bool wal_thread_stop(struct server *s, uint64_t timeout_ms) {
    atomic_store(&s->wal_thread->stop, true);
    queue_wake(&s->wal_thread->queue);
    return thread_join_within(s->wal_thread->thread, timeout_ms);
}

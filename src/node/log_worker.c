#include "node/log_worker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "base/mutant.h"

enum {
    GATHER_BYTES = 8 << 20, /* of one write+sync */
    GATHER_PIECES = 4096,
    BATCH_BYTES = 1 << 20,    /* --sync batch: synced after so much */
    BATCH_MS = 10,            /* or so long */
    BACKGROUND_SYNC_MS = 200, /* --sync none */
    IDLE_MARK_MS = 100,
    PREPARE_EVERY_MS = 50,
    FILL_AGAIN_MS = 5000, /* after a spare that could not be filled */
    FULL_TOLD_EVERY_MS = 5000,
    DEAD_WAIT_MS = 1000
};

struct log_worker {
    struct log_worker_options options;
    struct log_job *head, **tail; /* not yet done */
    struct slice pieces[GATHER_PIECES];
    uint64_t unsynced_bytes, unsynced_since_ms; /* written; 0 bytes: all is synced */
    uint64_t written_seq, written_epoch;        /* of the last WRITE that is in */
    uint64_t wrote_ms, prepared_ms;
    uint64_t space_ms, since_look_bytes; /* when free space was looked at, and written since */
    bool sync_due;                       /* at once, before anything else */
    uint64_t fill_again_ms;
    uint64_t full_told_ms;
    replog_error full; /* of a full disk: told last; text "": there was room since */
    bool stuck, unmarked, prepare_more, low, dead, filling;
};

static bool is_mode(const struct log_worker *w, replog_sync_mode mode) {
    return w->options.sync == mode;
}

static uint64_t now_ms(const struct log_worker *w) {
    return w->options.ops->now_ms(w->options.user);
}

static void post(struct log_worker *w, const struct node_event *ev) {
    w->options.ops->post(w->options.user, ev);
}

__attribute__((format(printf, 2, 3))) static void fatal(struct log_worker *w, const char *format,
                                                        ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    w->dead = true;
    w->options.ops->fatal(w->options.user, text);
}

/* ---- Jobs */

bool log_job_init(struct log_job *job, struct node_effect *fx) {
    *job = (struct log_job){.type = fx->type,
                            .seq = fx->seq,
                            .epoch = fx->epoch,
                            .term = fx->term,
                            .vote = fx->vote,
                            .cluster_id = fx->cluster_id,
                            .founding = fx->founding,
                            .blocks = fx->blocks};
    fx->blocks.blob = NULL;
    bool has_config = fx->type == NODE_FX_FOUND || fx->type == NODE_FX_TRUNCATE;
    if (!has_config || !fx->config) return true;
    job->config = malloc(sizeof *job->config);
    if (job->config) *job->config = *fx->config;
    return job->config != NULL;
}

static void job_free(struct log_job *job) {
    blob_unref(job->blocks.blob);
    free(job->config);
    free(job);
}

struct log_worker *log_worker_new(const struct log_worker_options *options) {
    struct log_worker *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->options = *options;
    w->tail = &w->head;
    w->prepare_more = true;
    return w;
}

static void drop_head(struct log_worker *w) {
    struct log_job *job = w->head;
    CHECK(job);
    w->head = job->next;
    if (!w->head) w->tail = &w->head;
    job_free(job);
}

void log_worker_free(struct log_worker *w) {
    if (!w) return;
    while (w->head) drop_head(w);
    free(w);
}

void log_worker_push(struct log_worker *w, struct log_job *job) {
    job->next = NULL;
    *w->tail = job;
    w->tail = &job->next;
}

/* ---- Space */

static void tell_space(struct log_worker *w, bool low) {
    if (w->low == low) return;
    w->low = low;
    if (low) {
        log_warn("disk space is short in %s; appends are refused until there is more",
                 w->options.dir);
    } else {
        w->full.text[0] = '\0';
        log_info("there is disk space again");
    }
    post(w, &(struct node_event){.type = NODE_EV_SPACE, .low = low});
}

static void look_at_space(struct log_worker *w, uint64_t at_ms) {
    uint64_t free_bytes, reserve = w->options.reserve_bytes;
    bool due = at_ms - w->space_ms >= LOG_WORKER_SPACE_MS || w->since_look_bytes > reserve / 8;
    if (!due) return;
    w->space_ms = at_ms;
    w->since_look_bytes = 0;
    const struct disk *disk = w->options.disk;
    if (disk->free_bytes(disk->ctx, w->options.dir, &free_bytes, NULL) != REPLOG_OK) return;
    /* a gap between the two bounds, so that it does not flutter */
    if (free_bytes < reserve) tell_space(w, true);
    if (free_bytes >= reserve + reserve / 8) tell_space(w, false);
}

/* ---- Writing */

static void tell(struct log_worker *w, enum node_event_type type) {
    post(w, &(struct node_event){.type = type, .seq = w->written_seq, .epoch = w->written_epoch});
}

/* Makes what was written durable, and says so. */
static void sync_now(struct log_worker *w) {
    w->sync_due = false;
    if (w->unsynced_bytes == 0) return;
    replog_error err;
    const struct log_worker_ops *ops = w->options.ops;
    if (ops->syncing) ops->syncing(w->options.user, true);
    if (wal_sync(w->options.wal, &err) != REPLOG_OK) {
        fatal(w, "the log cannot be made durable: %s", err.text);
        return;
    }
    if (ops->syncing) ops->syncing(w->options.user, false);
    w->unsynced_bytes = 0;
    tell(w, is_mode(w, REPLOG_SYNC_NONE) ? NODE_EV_SYNCED : NODE_EV_PERSISTED);
}

/* The first n jobs are in the log. */
static void written(struct log_worker *w, size_t n) {
    if (n == 0) return;
    uint64_t bytes = 0, at_ms = now_ms(w);
    for (size_t i = 0; i < n; i++) {
        const struct log_job *job = w->head;
        CHECK(job);
        bytes += job->blocks.size_bytes;
        w->written_seq = job->seq;
        w->written_epoch = job->epoch;
        drop_head(w);
    }
    if (w->options.ops->wrote) w->options.ops->wrote(w->options.user, n, bytes);
    if (w->unsynced_bytes == 0) w->unsynced_since_ms = at_ms;
    w->unsynced_bytes += bytes;
    w->since_look_bytes += bytes;
    w->unmarked = true;
    w->prepare_more = true;
    w->wrote_ms = at_ms;
    if (is_mode(w, REPLOG_SYNC_NONE) || MUTANT(PERSISTED_BEFORE_SYNC)) tell(w, NODE_EV_PERSISTED);
    bool batch_full = is_mode(w, REPLOG_SYNC_BATCH) && w->unsynced_bytes >= BATCH_BYTES;
    w->sync_due = is_mode(w, REPLOG_SYNC_ALWAYS) || batch_full;
}

/* The group commit: all WRITEs that stand together, in one write. */
static replog_status write_group(struct log_worker *w, replog_error *err) {
    size_t n = 0, bytes = 0, done = 0;
    for (struct log_job *job = w->head; job && job->type == NODE_FX_WRITE && n < GATHER_PIECES;
         job = job->next) {
        if (n > 0 && bytes + job->blocks.size_bytes > GATHER_BYTES) break;
        w->pieces[n++] =
            (struct slice){job->blocks.blob->data + job->blocks.offset, job->blocks.size_bytes};
        bytes += job->blocks.size_bytes;
    }
    replog_status st = wal_append(w->options.wal, w->pieces, n, &done, err);
    if (st == REPLOG_OK || MUTANT(FULL_DISK_IS_WRITTEN)) done = n;
    if (st == REPLOG_OK || st == REPLOG_RESOURCE_EXHAUSTED) written(w, done);
    return st;
}

static replog_status truncate_log(struct log_worker *w, const struct log_job *job,
                                  replog_error *err) {
    replog_status st = wal_truncate(w->options.wal, job->seq, job->config, err);
    if (st != REPLOG_OK) return st;
    struct wal_pos base = wal_base(w->options.wal);
    post(w, &(struct node_event){.type = NODE_EV_TRUNCATED, .seq = job->seq, .base = base});
    w->space_ms = 0;
    return st;
}

static replog_status run_other(struct log_worker *w, const struct log_job *job, replog_error *err) {
    struct wal *wal = w->options.wal;
    struct node_event ev = {.seq = job->seq,
                            .epoch = job->epoch,
                            .term = job->term,
                            .vote = job->vote,
                            .founding = job->founding};
    replog_status st = REPLOG_OK;
    switch (job->type) {
    case NODE_FX_SYNC:
        sync_now(w);
        return REPLOG_OK;
    case NODE_FX_SAVE_VOTE:
        ev.type = NODE_EV_VOTE_SAVED;
        st = wal_save_vote(wal, (struct wal_vote){job->term, job->vote}, err);
        break;
    case NODE_FX_CUT:
        sync_now(w); /* what it keeps may still wait for its sync */
        if (w->dead) return REPLOG_OK;
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
        fatal(w, "a job of kind %d for the log", (int)job->type);
        return REPLOG_OK;
    }
    if (st == REPLOG_OK) post(w, &ev);
    return st;
}

/* While the disk is full, what frees space goes first. */
static void run_truncates(struct log_worker *w) {
    for (struct log_job **at = &w->head; *at;) {
        struct log_job *job = *at;
        replog_error err;
        if (job->type != NODE_FX_TRUNCATE) {
            at = &job->next;
            continue;
        }
        replog_status st = truncate_log(w, job, &err);
        if (st == REPLOG_RESOURCE_EXHAUSTED) return;
        if (st != REPLOG_OK) {
            fatal(w, "the log cannot be truncated: %s", err.text);
            return;
        }
        *at = job->next;
        if (!*at) w->tail = at;
        job_free(job);
    }
}

/* A reason that is not the one told last, and every five seconds at most; anew when there was room.
 */
static void tell_full(struct log_worker *w, const replog_error *why) {
    uint64_t at_ms = now_ms(w);
    if (strcmp(why->text, w->full.text) == 0) return;
    if (w->full_told_ms && at_ms - w->full_told_ms < FULL_TOLD_EVERY_MS) return;
    w->full_told_ms = at_ms;
    w->full = *why;
    log_warn("the disk is full: %s", why->text);
}

static void wait_for_space(struct log_worker *w, const replog_error *why) {
    tell_full(w, why);
    sync_now(w);
    if (w->dead) return;
    tell_space(w, true);
    w->space_ms = now_ms(w); /* not "enough again" before the next look */
    w->stuck = true;
}

/* What is first in line, and with a WRITE all that stand behind it. */
static void run_next(struct log_worker *w) {
    replog_error err;
    bool is_write = w->head->type == NODE_FX_WRITE;
    replog_status st = is_write ? write_group(w, &err) : run_other(w, w->head, &err);
    if (st == REPLOG_RESOURCE_EXHAUSTED) {
        wait_for_space(w, &err);
    } else if (st != REPLOG_OK) {
        fatal(w, "the log failed, nothing more is acknowledged: %s", err.text);
    } else if (!is_write && !w->dead) {
        drop_head(w);
    }
}

/* ---- Between jobs */

static void mark_tail(struct log_worker *w) {
    replog_error err;
    sync_now(w);
    if (w->dead) return;
    replog_status st = wal_mark(w->options.wal, &err);
    if (st == REPLOG_OK) st = wal_sync(w->options.wal, &err);
    if (st != REPLOG_OK && st != REPLOG_RESOURCE_EXHAUSTED)
        fatal(w, "the log cannot be marked: %s", err.text);
    w->unmarked = false;
}

static void prepare(struct log_worker *w, uint64_t at_ms) {
    if (!w->prepare_more || w->low || at_ms - w->prepared_ms < PREPARE_EVERY_MS) return;
    replog_error err;
    w->prepared_ms = at_ms;
    replog_status st = w->options.ops->fill
                           ? wal_prepare_active(w->options.wal, &w->prepare_more, &err)
                           : wal_prepare(w->options.wal, &w->prepare_more, &err);
    if (st == REPLOG_OK) return;
    w->prepare_more = false;
    if (st != REPLOG_RESOURCE_EXHAUSTED) fatal(w, "no segment can be prepared: %s", err.text);
}

/* Takes what the filling thread has made, and has it make the next. */
static void spares(struct log_worker *w, uint64_t at_ms) {
    const struct log_worker_ops *ops = w->options.ops;
    struct wal_spare spare;
    if (w->filling && ops->filled(w->options.user, &spare)) {
        w->filling = false;
        if (!spare.full) w->fill_again_ms = at_ms + FILL_AGAIN_MS;
        wal_spare_end(w->options.wal, &spare);
    }
    if (w->filling || w->low || at_ms < w->fill_again_ms) return;
    if (!wal_spare_begin(w->options.wal, &spare)) return;
    w->filling = true;
    ops->fill(w->options.user, &spare);
}

static void between_jobs(struct log_worker *w) {
    uint64_t at_ms = now_ms(w);
    uint64_t sync_ms = is_mode(w, REPLOG_SYNC_NONE) ? BACKGROUND_SYNC_MS : BATCH_MS;
    if (w->unsynced_bytes > 0 && at_ms - w->unsynced_since_ms >= sync_ms) sync_now(w);
    if (!w->dead && w->unmarked && at_ms - w->wrote_ms >= IDLE_MARK_MS) mark_tail(w);
    if (!w->dead && !w->head && !w->options.ops->more(w->options.user)) prepare(w, at_ms);
    if (!w->dead && w->options.ops->fill) spares(w, at_ms);
    if (!w->dead) look_at_space(w, at_ms);
}

static uint64_t wait_ms(const struct log_worker *w) {
    uint64_t wait = LOG_WORKER_SPACE_MS;
    if (w->prepare_more && wait > PREPARE_EVERY_MS) wait = PREPARE_EVERY_MS;
    if (w->unmarked && wait > IDLE_MARK_MS) wait = IDLE_MARK_MS;
    if (w->unsynced_bytes > 0 && is_mode(w, REPLOG_SYNC_BATCH)) wait = BATCH_MS / 2;
    return wait;
}

uint64_t log_worker_run(struct log_worker *w) {
    if (w->dead) return DEAD_WAIT_MS;
    if (w->sync_due) {
        sync_now(w);
    } else {
        if (w->stuck) run_truncates(w);
        w->stuck = false;
        if (w->head && !w->dead) run_next(w);
    }
    if (w->dead) return DEAD_WAIT_MS;
    if (w->sync_due) return 0;
    between_jobs(w);
    if (w->dead) return DEAD_WAIT_MS;
    if (w->stuck) return LOG_WORKER_SPACE_MS;
    return w->head ? 0 : wait_ms(w);
}

bool log_worker_busy(const struct log_worker *w) {
    return w->head || w->sync_due;
}

bool log_worker_stuck(const struct log_worker *w) {
    return w->stuck;
}

void log_worker_finish(struct log_worker *w) {
    if (!w->dead) mark_tail(w);
}

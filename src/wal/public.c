/* replog/wal.h over wal/log.h: a mutex around the writing calls, and one thread for what must
 * happen without a call: the sync that REPLOG_SYNC_BATCH promises, and the mark behind the last
 * block once the log has been idle.
 *
 * Records of a log without a cluster are of term 1. Their blocks belong to no session, so the field
 * acked_below of the block's header is free: it holds the seq of the last CHECKPOINT (0: none), the
 * block's own if it is one. Thus the last block tells at open what the last checkpoint is, however
 * long the log. When truncation has dropped all blocks, no checkpoint is known after a restart;
 * none is needed, as everything that it covered is gone. */
#include "wal/public.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "wal/log.h"

enum { STANDALONE_TERM = 1, IDLE_MS = 100, DEFAULT_BATCH_BYTES = 1 << 20, DEFAULT_BATCH_MS = 10 };

struct replog_wal {
    struct wal *log;
    bool read_only;
    replog_sync_mode sync;
    uint64_t batch_bytes, batch_ms;
    _Atomic uint64_t checkpoint_seq;

    pthread_mutex_t mutex; /* around the writing calls of log.h and what follows */
    uint64_t unsynced_bytes;
    uint64_t sync_due_ms; /* monotonic; 0: no sync is due */
    uint64_t mark_due_ms; /* monotonic; 0: the mark is there, or cannot be written */
    pthread_cond_t changed;
    pthread_t thread; /* not if read_only */
    bool stopping;
};

/* ---- The thread */
/* Waits until `due_ms` (0: without end) or until something changed. Mutex held. */
static void wait_until(struct replog_wal *wal, uint64_t due_ms) {
    if (!due_ms) {
        pthread_cond_wait(&wal->changed, &wal->mutex);
        return;
    }
    struct timespec due = {.tv_sec = (time_t)(due_ms / 1000),
                           .tv_nsec = (long)(due_ms % 1000) * 1000000};
    pthread_cond_timedwait(&wal->changed, &wal->mutex, &due);
}

/* Makes the tail durable. Mutex held. */
static replog_status sync_now(struct replog_wal *wal, replog_error *err) {
    wal->unsynced_bytes = 0;
    wal->sync_due_ms = 0;
    return wal_sync(wal->log, err);
}

/* Nothing can be marked before all is durable, and that is not for the mark to bring about: with
 * REPLOG_SYNC_NONE a sync may keep appends waiting for as long as the disk needs for all of it. */
static void mark_end(struct replog_wal *wal) {
    if (wal_durable(wal->log).seq < wal_tail(wal->log).seq) return;
    if (wal_mark(wal->log, NULL) == REPLOG_OK) wal_sync(wal->log, NULL);
}

/* What is due at `now_ms`. A failure breaks the log, and the next call says so; a full disk only
 * leaves the mark for later. Mutex held. */
static void do_due(struct replog_wal *wal, uint64_t now_ms) {
    if (wal_broken(wal->log)) wal->sync_due_ms = wal->mark_due_ms = 0;
    if (wal->sync_due_ms && wal->sync_due_ms <= now_ms) sync_now(wal, NULL);
    if (!wal->mark_due_ms || wal->mark_due_ms > now_ms) return;
    wal->mark_due_ms = wal->sync_due_ms; /* behind that sync, if one is to come */
    if (!wal->mark_due_ms) mark_end(wal);
}

static void *run(void *arg) {
    struct replog_wal *wal = arg;
    pthread_mutex_lock(&wal->mutex);
    while (!wal->stopping) {
        do_due(wal, clock_mono_ms());
        uint64_t due_ms = wal->sync_due_ms;
        if (!due_ms || (wal->mark_due_ms && wal->mark_due_ms < due_ms)) due_ms = wal->mark_due_ms;
        wait_until(wal, due_ms);
    }
    pthread_mutex_unlock(&wal->mutex);
    return NULL;
}

static replog_status start_thread(struct replog_wal *wal, replog_error *err) {
    /* Signals are for the program's own threads. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int errnum = pthread_create(&wal->thread, NULL, run, wal);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return errnum ? error_errno(err, errnum, "start the log's thread") : REPLOG_OK;
}

/* ---- Opening and closing */
/* Initialises mutex and condition; returns an errno. */
static int init_waiting(struct replog_wal *wal) {
    pthread_condattr_t monotonic;
    int errnum = pthread_condattr_init(&monotonic);
    if (errnum) return errnum;
    errnum = pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    if (!errnum) errnum = pthread_cond_init(&wal->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (errnum) return errnum;
    errnum = pthread_mutex_init(&wal->mutex, NULL);
    if (errnum) pthread_cond_destroy(&wal->changed);
    return errnum;
}

/* NULL when memory is short. */
static struct replog_wal *make_handle(const replog_wal_options *options) {
    struct replog_wal *wal = calloc(1, sizeof *wal);
    if (!wal) return NULL;
    wal->read_only = options->read_only;
    wal->sync = options->sync;
    wal->batch_bytes = options->batch_bytes ? options->batch_bytes : DEFAULT_BATCH_BYTES;
    wal->batch_ms = options->batch_ms ? options->batch_ms : DEFAULT_BATCH_MS;
    if (init_waiting(wal) == 0) return wal;
    free(wal);
    return NULL;
}

static void free_handle(struct replog_wal *wal) {
    wal_close(wal->log);
    pthread_mutex_destroy(&wal->mutex);
    pthread_cond_destroy(&wal->changed);
    free(wal);
}

/* What the last block says about the last CHECKPOINT. */
static replog_status load_checkpoint(struct replog_wal *wal, const char *dir, replog_error *err) {
    struct wal_pos tail = wal_tail(wal->log);
    if (wal_identity(wal->log).founding != WAL_STANDALONE || tail.seq < wal_first_seq(wal->log))
        return REPLOG_OK;
    struct wal_reader *reader = NULL;
    struct block_header header;
    const uint8_t *bytes;
    replog_status status = wal_reader_open(wal->log, tail.seq, &reader, err);
    if (!status) status = wal_reader_next(reader, tail.seq, &header, &bytes, err);
    wal_reader_close(reader);
    if (status == REPLOG_NOT_FOUND || (!status && header.acked_below > tail.seq))
        status = error_set(err, REPLOG_DATA_LOSS,
                           "%s: the last block, of seq %" PRIu64 ", is not one of a log without "
                           "a cluster",
                           dir, tail.seq);
    if (!status) atomic_store(&wal->checkpoint_seq, header.acked_below);
    return status;
}

replog_status replog_wal_open_on(const struct disk *disk, const char *dir,
                                 const replog_wal_options *options, replog_wal **wal,
                                 replog_error *err) {
    static const replog_wal_options defaults = {.sync = REPLOG_SYNC_ALWAYS};
    if (!options) options = &defaults;
    if (!dir || !*dir)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a log needs the path of its directory");
    if ((int)options->sync < REPLOG_SYNC_ALWAYS || options->sync > REPLOG_SYNC_NONE)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "%d is not a sync mode", (int)options->sync);
    struct replog_wal *made = make_handle(options);
    if (!made) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a log");
    struct wal_options log_options = {
        .disk = disk,
        .dir = dir,
        .new_incarnation = random_u64() | 1,
        .segment_bytes = options->segment_bytes,
        .create = !options->must_exist && !options->read_only,
        .read_only = options->read_only,
        .buffered = options->sync != REPLOG_SYNC_ALWAYS,
    };
    replog_status status = wal_open(&log_options, &made->log, err);
    if (!status) status = load_checkpoint(made, dir, err);
    if (!status && !made->read_only) status = start_thread(made, err);
    if (status)
        free_handle(made);
    else
        *wal = made;
    return status;
}

replog_status replog_wal_open(const char *dir, const replog_wal_options *options, replog_wal **wal,
                              replog_error *err) {
    return replog_wal_open_on(disk_posix(), dir, options, wal, err);
}

/* The last sync, and a mark that proves to the next opener that nothing is missing. */
static replog_status finish(struct replog_wal *wal, replog_error *err) {
    if (wal_broken(wal->log))
        return error_set(err, REPLOG_UNAVAILABLE,
                         "the log was broken; what was not durable before may be lost");
    replog_status status = wal_sync(wal->log, err);
    if (status) return status;
    /* On a full disk there is no room for a mark, and nothing is lost without it. */
    if (wal_mark(wal->log, NULL) == REPLOG_OK) wal_sync(wal->log, NULL);
    return REPLOG_OK;
}

replog_status replog_wal_close(replog_wal *wal, replog_error *err) {
    if (!wal) return REPLOG_OK;
    replog_status status = REPLOG_OK;
    if (!wal->read_only) {
        pthread_mutex_lock(&wal->mutex);
        wal->stopping = true;
        pthread_cond_signal(&wal->changed);
        pthread_mutex_unlock(&wal->mutex);
        pthread_join(wal->thread, NULL);
        status = finish(wal, err);
    }
    free_handle(wal);
    return status;
}

/* ---- Writing */
static replog_status check_writable(const struct replog_wal *wal, replog_error *err) {
    if (!wal->read_only) return REPLOG_OK;
    return error_set(err, REPLOG_FAILED_PRECONDITION,
                     "the log is opened read-only; open it without read_only to change it");
}

static replog_status add_record(struct block_builder *b, const replog_write *record,
                                replog_error *err) {
    if (!record || (!record->key && record->key_bytes) || (!record->value && record->value_bytes))
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a record without its bytes (NULL)");
    struct slice key = {record->key, record->key_bytes};
    struct slice value = {record->value, record->value_bytes};
    return block_add(b, record->op, key, value, err);
}

/* Gives the block its place behind the tail and writes it. Mutex held. */
static replog_status place(struct replog_wal *wal, struct blob *blob, struct block_header *header,
                           bool checkpoint, replog_error *err) {
    struct wal_pos tail = wal_tail(wal->log);
    header->first_seq = tail.seq + 1;
    header->prev_chain = tail.chain;
    header->acked_below = checkpoint ? header->first_seq : atomic_load(&wal->checkpoint_seq);
    if (checkpoint) {
        struct checkpoint_marker marker = {.safe_seq = tail.seq};
        checkpoint_encode(&marker, blob->data + BLOCK_HEADER_BYTES + BLOCK_RECORD_HEADER_BYTES);
    }
    block_seal(blob->data, header);
    struct slice piece = {blob->data, blob->size_bytes};
    return wal_append(wal->log, &piece, 1, NULL, err);
}

/* Durable now, or when the sync mode says. Mutex held. */
static replog_status make_durable(struct replog_wal *wal, size_t size_bytes, bool durable,
                                  replog_error *err) {
    uint64_t now_ms = clock_mono_ms();
    wal->unsynced_bytes += size_bytes;
    if (durable || wal->sync == REPLOG_SYNC_ALWAYS ||
        (wal->sync == REPLOG_SYNC_BATCH && wal->unsynced_bytes >= wal->batch_bytes)) {
        replog_status status = sync_now(wal, err);
        if (status) return status;
    } else if (wal->sync == REPLOG_SYNC_BATCH && !wal->sync_due_ms) {
        wal->sync_due_ms = now_ms + wal->batch_ms;
        pthread_cond_signal(&wal->changed);
    }
    /* The thread that waits for an earlier mark finds the new time when it wakes. */
    if (!wal->mark_due_ms) pthread_cond_signal(&wal->changed);
    wal->mark_due_ms = now_ms + IDLE_MS;
    return REPLOG_OK;
}

/* Ends the builder, whatever comes of it. `durable`: before return, in every mode. */
static replog_status append_block(struct replog_wal *wal, struct block_builder *b, bool durable,
                                  bool checkpoint, struct block_header *header, replog_error *err) {
    *header = (struct block_header){.term = STANDALONE_TERM, .timestamp_us = clock_wall_us()};
    struct blob *blob = block_finish(b, &header->n_records, &header->flags);
    if (!blob) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a block");
    header->length = (uint32_t)blob->size_bytes;
    pthread_mutex_lock(&wal->mutex);
    replog_status status = place(wal, blob, header, checkpoint, err);
    if (!status) status = make_durable(wal, blob->size_bytes, durable, err);
    if (!status && checkpoint) atomic_store(&wal->checkpoint_seq, header->first_seq);
    pthread_mutex_unlock(&wal->mutex);
    blob_unref(blob);
    return status;
}

replog_status replog_wal_append(replog_wal *wal, const replog_write *record, uint64_t *seq,
                                replog_error *err) {
    replog_status status = check_writable(wal, err);
    if (status) return status;
    struct block_builder b;
    struct block_header header;
    block_begin(&b);
    status = add_record(&b, record, err);
    if (status) {
        block_builder_free(&b);
        return status;
    }
    status = append_block(wal, &b, false, false, &header, err);
    if (!status && seq) *seq = header.first_seq;
    return status;
}

replog_status replog_wal_append_batch(replog_wal *wal, const replog_write *records, size_t count,
                                      uint64_t *first_seq, uint64_t *last_seq, replog_error *err) {
    replog_status status = check_writable(wal, err);
    if (status) return status;
    if (!records || !count)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a batch needs at least one record");
    struct block_builder b;
    struct block_header header;
    block_begin(&b);
    for (size_t i = 0; i < count && !status; i++) status = add_record(&b, &records[i], err);
    if (status) {
        block_builder_free(&b);
        return status;
    }
    block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    status = append_block(wal, &b, true, false, &header, err);
    if (status) return status;
    if (first_seq) *first_seq = header.first_seq;
    if (last_seq) *last_seq = block_last_seq(&header);
    return REPLOG_OK;
}

replog_status replog_wal_checkpoint(replog_wal *wal, uint64_t *seq, replog_error *err) {
    replog_status status = check_writable(wal, err);
    if (status) return status;
    static const uint8_t room[16]; /* what it says is known once it has its place */
    struct block_builder b;
    struct block_header header;
    block_begin(&b);
    block_add_marker(&b, REPLOG_OP_CHECKPOINT, (struct slice){room, sizeof room});
    status = append_block(wal, &b, true, true, &header, err);
    if (!status && seq) *seq = header.first_seq;
    return status;
}

/* Whether `upto` may be dropped. */
static replog_status check_truncation(const struct replog_wal *wal, uint64_t upto, bool force,
                                      replog_error *err) {
    uint64_t last_seq = wal_tail(wal->log).seq, checkpoint = atomic_load(&wal->checkpoint_seq);
    if (upto > last_seq)
        return error_set(err, REPLOG_OUT_OF_RANGE,
                         "truncation up to %" PRIu64 "; the last seq is %" PRIu64, upto, last_seq);
    if (!force && upto > checkpoint)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "truncation up to %" PRIu64 " is above the last checkpoint (%" PRIu64
                         "); make the store durable and write a checkpoint first, or force it",
                         upto, checkpoint);
    return REPLOG_OK;
}

replog_status replog_wal_truncate(replog_wal *wal, uint64_t upto, bool force, uint64_t *first_seq,
                                  replog_error *err) {
    replog_status status = check_writable(wal, err);
    if (status) return status;
    pthread_mutex_lock(&wal->mutex);
    if (upto >= wal_first_seq(wal->log)) {
        status = check_truncation(wal, upto, force, err);
        /* What is not durable cannot be dropped: the manifest must name a position that stays. And
         * what waits for its sync in mode "batch" must not wait for files and directories, too. */
        bool waits = wal->sync == REPLOG_SYNC_BATCH && wal->unsynced_bytes > 0;
        bool dropped = upto > wal_durable(wal->log).seq;
        if (!status && (waits || dropped)) status = sync_now(wal, err);
        if (!status) status = wal_truncate(wal->log, upto, NULL, err);
    }
    if (!status && first_seq) *first_seq = wal_first_seq(wal->log);
    pthread_mutex_unlock(&wal->mutex);
    return status;
}

replog_status replog_wal_sync(replog_wal *wal, replog_error *err) {
    replog_status status = check_writable(wal, err);
    if (status) return status;
    pthread_mutex_lock(&wal->mutex);
    status = sync_now(wal, err);
    pthread_mutex_unlock(&wal->mutex);
    return status;
}

/* ---- Reading */
struct walk {
    uint64_t next_seq, limit_seq; /* records below and above are not shown */
    bool markers;
    replog_record_fn fn;
    void *user;
};

static replog_status show_block(struct walk *walk, const struct block_header *header,
                                const uint8_t *bytes, replog_error *err) {
    struct block_walk at = {0};
    replog_record record;
    while (block_next(bytes, header, &at, &record)) {
        if (record.seq < walk->next_seq) continue;
        if (!walk->markers && record.op != REPLOG_OP_PUT && record.op != REPLOG_OP_DELETE) continue;
        replog_status status = walk->fn(&record, walk->user);
        if (status)
            return error_set(err, status, "ended at seq %" PRIu64 " by the caller's function",
                             record.seq);
    }
    walk->next_seq = block_last_seq(header) + 1;
    return REPLOG_OK;
}

/* Shows blocks up to the limit, or until a truncation takes the file from under the reader. */
static replog_status show_blocks(struct replog_wal *wal, struct walk *walk, bool *disturbed,
                                 replog_error *err) {
    struct wal_reader *reader = NULL;
    replog_status status = wal_reader_open(wal->log, walk->next_seq, &reader, err);
    *disturbed = false;
    while (!status && walk->next_seq <= walk->limit_seq) {
        struct block_header header;
        const uint8_t *bytes;
        status = wal_reader_next(reader, walk->limit_seq, &header, &bytes, err);
        *disturbed = status == REPLOG_ABORTED;
        if (status == REPLOG_NOT_FOUND)
            status =
                error_set(err, REPLOG_DATA_LOSS,
                          "the log ends before seq %" PRIu64 ", which it held", walk->next_seq);
        if (!status) status = show_block(walk, &header, bytes, err);
    }
    wal_reader_close(reader);
    return status;
}

static replog_status show_all(struct replog_wal *wal, struct walk *walk, replog_error *err) {
    walk->limit_seq = wal_tail(wal->log).seq;
    bool disturbed;
    replog_status status;
    /* Ends: every disturbance is one more truncation by this program, and once the next record is
     * truncated away, the reader does not open. */
    do status = show_blocks(wal, walk, &disturbed, err);
    while (disturbed);
    return status;
}

replog_status replog_wal_replay(replog_wal *wal, uint64_t after, replog_record_fn fn, void *user,
                                replog_error *err) {
    if (after == UINT64_MAX)
        return error_set(err, REPLOG_OUT_OF_RANGE, "there is no record after seq %" PRIu64, after);
    struct walk walk = {.next_seq = after + 1, .fn = fn, .user = user};
    return show_all(wal, &walk, err);
}

replog_status replog_wal_iterate(replog_wal *wal, uint64_t from, replog_record_fn fn, void *user,
                                 replog_error *err) {
    struct walk walk = {.next_seq = from, .markers = true, .fn = fn, .user = user};
    if (!from) walk.next_seq = wal_first_seq(wal->log);
    return show_all(wal, &walk, err);
}

void replog_wal_stat(replog_wal *wal, replog_wal_info *info) {
    struct wal_pos tail = wal_tail(wal->log);
    *info = (replog_wal_info){
        .first_seq = wal_first_seq(wal->log),
        .last_seq = tail.seq,
        .durable_seq = wal_durable(wal->log).seq,
        .checkpoint_seq = atomic_load(&wal->checkpoint_seq),
        .chain = tail.chain,
        .size_bytes = wal_size_bytes(wal->log),
        .torn_bytes = wal_torn_bytes(wal->log),
        .segments = wal_n_segments(wal->log),
    };
}

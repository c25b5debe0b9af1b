/* replog/wal.h: a write-ahead log on disk, for one process, without a cluster.
 *
 * A log is a directory. Records carry a sequence number (seq) from 1 without gaps; markers count.
 * What is appended together is atomic: after a crash all of it is there or none.
 *
 * The order to follow when the log protects a store of yours:
 *   1. make the store durable (everything that replay gave it),
 *   2. replog_wal_checkpoint(): "my store holds everything before this record",
 *   3. replog_wal_truncate(): drop what the checkpoint covers.
 * A crash between any two steps costs repeated work (replay is idempotent), never data. After a
 * restart: replog_wal_replay() with what your store has, and go on.
 *
 * Threads: one log may be used by several threads; calls that write are serialised inside.
 * replay and iterate run beside writers and see what was appended before they began; what they call
 * may use the log. A log that is open for writing owns one thread, with all signals blocked: it
 * syncs what REPLOG_SYNC_BATCH promised, and once the log has been idle for 100 ms and is all
 * durable it marks the end, which lets the next opening tell damage from a torn write. A child of
 * fork() must not use the handle.
 *
 * Errors: after a failed write or fsync the log is *broken*: every later writing call returns
 * UNAVAILABLE, nothing more is acknowledged, and the only way on is to close and open again (a
 * later fsync that succeeds proves nothing). A full disk is not such an error: the append gets
 * RESOURCE_EXHAUSTED, leaves nothing behind, and works again when there is space. Checkpoint and
 * truncation need some KiB of space, too. */
#ifndef REPLOG_WAL_H
#define REPLOG_WAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "replog/limits.h"
#include "replog/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct replog_wal replog_wal;

/* When a plain append is durable. append_batch and checkpoint are durable before they return in
 * every mode. */
typedef enum replog_sync_mode {
    REPLOG_SYNC_ALWAYS = 0, /* "sync": before the call returns */
    REPLOG_SYNC_BATCH = 1,  /* "batch": the sync begins after batch_bytes or batch_ms */
    REPLOG_SYNC_NONE = 2    /* "none": when the operating system likes; replog_wal_sync at will */
} replog_sync_mode;

typedef struct replog_wal_options {
    replog_sync_mode sync;
    uint32_t segment_bytes; /* a new file after so many bytes; 0: 64 MiB; at least 64 KiB */
    uint32_t batch_bytes;   /* REPLOG_SYNC_BATCH; 0: 1 MiB */
    uint32_t batch_ms;      /* REPLOG_SYNC_BATCH; 0: 10 ms */
    bool read_only;         /* changes nothing, not even a torn tail; writing calls are refused */
    bool must_exist;        /* refuse to make a new log */
} replog_wal_options;

/* One record as it is read. The pointers belong to the log and hold during the callback only. */
typedef struct replog_record {
    uint64_t seq, term; /* term: 1 in a log without a cluster */
    replog_op op;
    const uint8_t *key;
    size_t key_bytes;
    const uint8_t *value; /* DELETE: NULL, 0 */
    size_t value_bytes;
} replog_record;

/* One record to write: PUT or DELETE. The bytes are copied before the call returns. */
typedef struct replog_write {
    replog_op op;
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
} replog_write;

/* Opens the log in directory `dir` (made if absent, unless must_exist), recovers it and locks it.
 * `options` may be NULL (all zero). On success *wal is owned by the caller: replog_wal_close.
 * Errors: FAILED_PRECONDITION (another process holds it; the directory belongs to a cluster
 * member and read_only is not set; the manifest or vote file is missing beside segments);
 * DATA_LOSS (damage that is not a torn tail: names file, offset and seq; nothing was changed);
 * INVALID_ARGUMENT; NOT_FOUND (must_exist, read_only); RESOURCE_EXHAUSTED; UNAVAILABLE (I/O). */
replog_status replog_wal_open(const char *dir, const replog_wal_options *options, replog_wal **wal,
                              replog_error *err);

/* Syncs what is not yet durable (not if the log is broken), releases everything and the lock.
 * The handle is gone whatever is returned; UNAVAILABLE says that the last sync failed or that the
 * log was broken: what was not durable may be lost. NULL: OK. */
replog_status replog_wal_close(replog_wal *wal, replog_error *err);

/* Appends one record, its own atomic unit without COMMIT. *seq (may be NULL) gets its number.
 * Durable as the sync mode says. Errors: INVALID_ARGUMENT (op, limits), RESOURCE_EXHAUSTED (disk
 * full or memory short; nothing appended), UNAVAILABLE (broken; whether this record survives is
 * unknown until the log is opened again), FAILED_PRECONDITION (opened read-only). */
replog_status replog_wal_append(replog_wal *wal, const replog_write *record, uint64_t *seq,
                                replog_error *err);

/* Appends `count` records and a COMMIT as one atomic batch, durable before return in every mode.
 * *first_seq is the first record's number and *last_seq the COMMIT's (each may be NULL).
 * Errors as replog_wal_append, INVALID_ARGUMENT for an empty or oversize batch included. */
replog_status replog_wal_append_batch(replog_wal *wal, const replog_write *records, size_t count,
                                      uint64_t *first_seq, uint64_t *last_seq, replog_error *err);

/* Writes a CHECKPOINT record: the caller's store durably holds everything before it. Durable
 * before return in every mode. *seq (may be NULL) gets its number. */
replog_status replog_wal_checkpoint(replog_wal *wal, uint64_t *seq, replog_error *err);

/* Drops records up to and including `upto`, rounded down to the end of a batch; whole segments go
 * back to the disk. Nothing is rewritten. *first_seq (may be NULL) gets the new first seq.
 * FAILED_PRECONDITION above the last checkpoint, unless `force`; OUT_OF_RANGE above the last seq.
 * Below the first seq: OK, nothing to do. */
replog_status replog_wal_truncate(replog_wal *wal, uint64_t upto, bool force, uint64_t *first_seq,
                                  replog_error *err);

/* Makes everything appended so far durable. */
replog_status replog_wal_sync(replog_wal *wal, replog_error *err);

/* Called for each record; a status other than OK ends the walk and is returned from it. */
typedef replog_status (*replog_record_fn)(const replog_record *record, void *user);

/* Walks PUT and DELETE records with seq > after, in order; of batches only whole ones.
 * OUT_OF_RANGE when after + 1 lies below the first seq (the sentence names it; also when a
 * truncation overtakes the walk) or `after` above the last; DATA_LOSS for damage met on the way
 * (file, offset). */
replog_status replog_wal_replay(replog_wal *wal, uint64_t after, replog_record_fn fn, void *user,
                                replog_error *err);

/* As replay, with every record, markers included, from seq `from` (0: the first there is). */
replog_status replog_wal_iterate(replog_wal *wal, uint64_t from, replog_record_fn fn, void *user,
                                 replog_error *err);

typedef struct replog_wal_info {
    uint64_t first_seq;      /* of an empty log: last_seq + 1 */
    uint64_t last_seq;       /* 0 when nothing was ever written */
    uint64_t durable_seq;    /* known durable */
    uint64_t checkpoint_seq; /* of the last CHECKPOINT record; 0: none, or opened when truncation
                                had dropped every record */
    uint64_t chain;          /* the chain value at last_seq */
    uint64_t size_bytes;     /* of the segments */
    uint64_t torn_bytes;     /* ignored behind the last valid group at open */
    uint32_t segments;
} replog_wal_info;
void replog_wal_stat(replog_wal *wal, replog_wal_info *info);

#ifdef __cplusplus
}
#endif
#endif

/* log.h: the log on disk as a cluster node uses it; replog/wal.h is the small door over it for
 * programs without a cluster. Hides: segments, groups, manifest, recovery, recycling.
 *
 * Who may call what: the calls under "Writing" by one thread at a time (the wal thread); readers
 * and queries by any thread beside it. */
#ifndef WAL_LOG_H
#define WAL_LOG_H

#include "wal/block.h"
#include "wal/disk.h"
#include "wal/marker.h"

struct wal;

/* The end of a block: its last seq, its term, and the chain value there. {0,0,0}: before all. */
struct wal_pos {
    uint64_t seq, term, chain;
};

/* From first_seq on (until the next run) the log's records are of `term`. */
struct wal_term_run {
    uint64_t term, first_seq;
};

enum wal_founding {
    WAL_STANDALONE = 0, /* no cluster (replog/wal.h) */
    WAL_EMPTY = 1,      /* a member's directory that belongs to no cluster yet */
    WAL_AGREED = 2,     /* `config` is the founding map that this member has fsynced */
    WAL_FOUNDED = 3     /* belongs to cluster_id */
};

struct wal_identity {
    uint64_t cluster_id, member_id, incarnation; /* incarnation: random, drawn with the directory */
    enum wal_founding founding;
};

struct wal_options {
    const struct disk *disk;
    const char *dir;
    uint64_t member_id;       /* 0: standalone. The directory of another member: FAILED_PRECONDITION
                              (unless read_only with 0) */
    uint64_t new_incarnation; /* for a directory that is made now: random, not 0 */
    uint32_t segment_bytes; /* where a segment ends: 64 KiB to 1 GiB, 0: 64 MiB; a file is longer by
                               a group when that does not fit an empty segment */
    /* files kept for reuse, up to 64: half of them are prepared, the others recycled; 0: 4 */
    uint32_t pool_segments;
    bool create;    /* an absent or empty directory becomes a new log */
    bool read_only; /* nothing is changed on disk; takes the lock all the same */
    bool buffered;  /* groups are written through the page cache, and reach the disk with wal_sync:
                       for a log that is synced seldom. Else they go past it, where the disk can,
                       from 4 MiB of memory (recent.h) */
};

/* Opens, locks, recovers (see replog_wal_open for errors). Unless read_only: bumps the epoch, and
 * rewrites and syncs everything above the last mark, so that on return all of the log is durable.
 * Term runs and the position of the tail are known afterwards. */
replog_status wal_open(const struct wal_options *options, struct wal **wal, replog_error *err);
/* Does not sync. NULL is ignored. Every reader must be closed before. */
void wal_close(struct wal *wal);

/* ---- Queries (any thread) */
struct wal_identity wal_identity(const struct wal *wal);
/* The CONFIG in force right below first_seq (from the manifest); n_members 0: none. */
void wal_base_config(const struct wal *wal, struct config *config);
struct wal_pos wal_base(const struct wal *wal); /* what lies right below first_seq */
uint64_t wal_first_seq(const struct wal *wal);
struct wal_pos wal_tail(const struct wal *wal);    /* written, perhaps not durable */
struct wal_pos wal_durable(const struct wal *wal); /* known durable */
uint64_t wal_size_bytes(const struct wal *wal);
uint64_t wal_torn_bytes(const struct wal *wal);
uint32_t wal_n_segments(const struct wal *wal);
bool wal_broken(const struct wal *wal);
/* What retention may drop: the largest seq S, the end of a sealed segment, so that the segments
 * above it hold at least `keep_bytes` and that segment's last block is older than `cutoff_us` (each
 * 0: no such bound). 0 when nothing may go. */
uint64_t wal_retention_seq(const struct wal *wal, uint64_t keep_bytes, uint64_t cutoff_us);
/* Copies up to `max` term runs, ascending, first one at or below first_seq; returns how many there
 * are (0 when the log is empty, also right after everything was truncated: wal_base has the term).
 */
size_t wal_term_runs(const struct wal *wal, struct wal_term_run *runs, size_t max);

/* ---- Writing (one thread) */
/* Writes sealed blocks behind the tail as one or more groups. Each piece holds one or more whole
 * blocks, at most 64 MiB (INVALID_ARGUMENT), and stands in one group; they must continue the tail:
 * first seq, chain, terms that do not fall: else DATA_LOSS and nothing is written. Not durable
 * before wal_sync. A full disk gives RESOURCE_EXHAUSTED, and the tail stands where it stood before
 * the group that did not fit (*written, may be NULL, says how many pieces are in). Any other
 * failure breaks the log. */
replog_status wal_append(struct wal *wal, const struct slice *pieces, size_t n, size_t *written,
                         replog_error *err);
/* Makes the tail durable, and a mark behind it. A failure breaks the log. */
replog_status wal_sync(struct wal *wal, replog_error *err);
/* Writes an empty group that marks the durable tail, unless the last mark covers it. Proves nothing
 * before the next wal_sync. To be called after 100 ms of idleness, and before a clean close. */
replog_status wal_mark(struct wal *wal, replog_error *err);
/* Drops everything above `keep_seq`: the cut of a conflicting tail. Bumps the epoch. On return all
 * that is kept is durable. OUT_OF_RANGE (below wal_base, above the tail), INVALID_ARGUMENT (not the
 * end of a block), DATA_LOSS (what is kept of its segment cannot be read) and RESOURCE_EXHAUSTED
 * change nothing; any other failure breaks the log. */
replog_status wal_cut(struct wal *wal, uint64_t keep_seq, replog_error *err);
/* Drops the head up to and including `upto`, rounded down to the end of a block and never past the
 * durable tail. `config` (may be NULL: unchanged) is the CONFIG in force there. Segments that a
 * reader holds are unlinked, others recycled. A failure before the manifest is renamed changes
 * nothing. */
replog_status wal_truncate(struct wal *wal, uint64_t upto, const struct config *config,
                           replog_error *err);
/* Founding: writes founding state and map into the manifest, durable on return. */
replog_status wal_found(struct wal *wal, enum wal_founding founding, uint64_t cluster_id,
                        const struct config *config, replog_error *err);
/* ---- Preparing: what is written over syncs twice as fast as what grows. Never needed for
 * correctness. */
/* Writes at most 1 MiB of zeros: to the active segment's rest where it had to grow, then to a
 * spare. *more: there is more to prepare. For who does it all on the writing thread, when idle. */
replog_status wal_prepare(struct wal *wal, bool *more, replog_error *err);
/* The same for the active segment only. */
replog_status wal_prepare_active(struct wal *wal, bool *more, replog_error *err);

/* A spare in the making, beside the writing thread: that one begins and ends it, any one thread
 * fills it. Zero-initialised is none. */
struct wal_spare {
    uint64_t number, size_bytes;
    struct disk_file *file;
    bool full;
};
/* false: the pool has what it takes. Touches no file. */
bool wal_spare_begin(struct wal *wal, struct wal_spare *spare);
/* One MiB more; the last one makes it durable. After an error it can only be ended. */
replog_status wal_spare_fill(const struct wal *wal, struct wal_spare *spare, replog_error *err);
/* Into the pool if it is full (and the pool is not), else away with it. */
void wal_spare_end(struct wal *wal, struct wal_spare *spare);

/* ---- Vote file (one thread; may be another than the writer) */
struct wal_vote {
    uint64_t term, voted_for; /* 0: nobody */
};
struct wal_vote wal_vote(const struct wal *wal);
/* Durable on return. A failure breaks the log. FAILED_PRECONDITION, nothing changed: the term would
 * fall, or a second vote in one term. */
replog_status wal_save_vote(struct wal *wal, struct wal_vote vote, replog_error *err);

/* ---- Readers (each used by one thread; any number) */
struct wal_reader;
/* A reader positioned at the block that holds `seq` (which may be tail + 1: what comes next).
 * OUT_OF_RANGE below first_seq (names it) or above tail + 1. */
replog_status wal_reader_open(struct wal *wal, uint64_t seq, struct wal_reader **reader,
                              replog_error *err);
void wal_reader_close(struct wal_reader *reader); /* NULL is ignored */
/* The next whole block with last seq <= limit_seq, checked (hash and chain). *bytes points into the
 * reader and holds until its next call. NOT_FOUND (without a sentence): nothing there yet;
 * try again later. DATA_LOSS: rot, with file, offset and seq. ABORTED: the log was cut or truncated
 * under the reader; open a new one. */
replog_status wal_reader_next(struct wal_reader *reader, uint64_t limit_seq,
                              struct block_header *header, const uint8_t **bytes,
                              replog_error *err);
/* Whether what the reader returned last is still in the log for certain: nothing was cut or
 * truncated since. */
bool wal_reader_current(const struct wal_reader *reader);
/* The position of the block that ends at or holds `seq`, read from disk; wal_base(seq) when seq is
 * right below first_seq. OUT_OF_RANGE, DATA_LOSS as above. */
replog_status wal_pos_at(struct wal *wal, uint64_t seq, struct wal_pos *pos, replog_error *err);

#endif

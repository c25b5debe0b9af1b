/* log_impl.h: the state of an open log, shared by the files that implement log.h: open.c and
 * recovery.c (how it comes to be), log.c (queries, appending), truncate.c (head, tail and pool),
 * reader.c. Nobody else includes it.
 *
 * Locking. `mutex` guards everything that readers and queries see. Such state is changed by the
 * writing thread only, with the mutex held; so the writing thread reads it without. Exceptions: a
 * segment's `users` and `file` change with readers, `broken`, `cause` and `vote.vote` with the
 * thread that votes, and are read with the mutex only. No disk call is made with the mutex held:
 * closing a file that was unlinked can take a second, and the node's turns ask for the mutex. */
#ifndef WAL_LOG_IMPL_H
#define WAL_LOG_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/mutant.h"
#include "wal/manifest.h"
#include "wal/recent.h"
#include "wal/segment.h"
#include "wal/vote.h"

enum {
    WAL_MIN_SEGMENT_BYTES = 64 << 10,
    WAL_MAX_SEGMENT_BYTES = 1 << 30,
    WAL_DEFAULT_SEGMENT_BYTES = 64 << 20,
    WAL_DEFAULT_POOL_SEGMENTS = 4,
    WAL_MAX_POOL_SEGMENTS = 64,
    WAL_GROW_BYTES = 1 << 20 /* a file grows in such steps; spares are filled in such slices */
};

struct wal_segment {
    struct segment_header header;
    struct wal_pos last; /* header.prev while it is empty */
    uint64_t data_end;   /* behind the last block */
    uint64_t write_end;  /* where the next group goes: nothing at or behind it is read */
    uint64_t last_us;
    uint64_t file_bytes;
    bool sealed;
    bool removed;           /* no longer in the table: freed with its last user */
    unsigned users;         /* readers, and the writer while it is active */
    struct disk_file *file; /* NULL until its first user has opened it, and without users */
};

struct wal {
    const struct disk *disk;
    char *dir;
    uint32_t segment_bytes, pool_segments;
    bool read_only, buffered;
    struct disk_lock *lock;

    pthread_mutex_t mutex;
    struct manifest manifest;      /* identity, epoch, base, last cut, base CONFIG */
    struct wal_segment **segments; /* ascending by number */
    size_t n_segments, segments_capacity;
    struct wal_pos tail, durable;
    struct term_runs runs;
    struct segment_index index; /* of the active segment */
    struct vote_file vote;
    uint64_t torn_bytes;
    uint64_t cuts; /* how many there were, and where the last one was */
    uint64_t last_cut_seq;
    bool broken;
    replog_error cause;        /* why it is broken */
    _Atomic uint64_t changes;  /* raised by every cut and truncation */
    _Atomic uint64_t tail_seq; /* tail.seq, for readers that wait */

    /* The writing thread's own */
    struct wal_segment *active; /* the last in the table and not sealed, or NULL */
    struct wal_pos marked;      /* what the last mark says */
    bool unsynced;              /* the active segment has groups, or a mark, that no sync covers */
    uint64_t next_number;       /* for the next segment or spare file */
    uint64_t *spares;           /* numbers of files ready for reuse */
    size_t n_spares;            /* room for WAL_MAX_POOL_SEGMENTS */
    struct wal_spare preparing; /* wal_prepare's */
    struct iovec *pieces;       /* of one group; writing it uses them up */
    size_t pieces_capacity;
    /* the next write fills the active file with zeros up to here; 0: it does not */
    uint64_t zero_to;

    struct recent recent; /* not used when buffered */
};

/* ---- log.c */
void wal_file_path(const struct wal *wal, const char *name, struct wal_path *path);
void wal_segment_path(const struct wal *wal, uint64_t number, struct wal_path *path);
void wal_spare_path(const struct wal *wal, uint64_t number, struct wal_path *path);
/* OK when the log may be written. */
replog_status wal_writable(struct wal *wal, replog_error *err);
/* Makes the log broken (the first cause stays) and returns UNAVAILABLE, naming err's sentence. */
replog_status wal_break(struct wal *wal, replog_error *err);
/* Ends the active segment: everything in it and its seal are durable on return. */
replog_status wal_seal_active(struct wal *wal, replog_error *err);
/* Writes the seal of a segment into its file; does not sync. */
replog_status wal_write_seal(struct wal *wal, const struct wal_segment *segment,
                             struct disk_file *file, const struct segment_index *index,
                             replog_error *err);
/* Room for one more in the table. false: memory is short. */
bool wal_reserve_segment(struct wal *wal);
/* Stores a changed manifest and, when it is durable, makes it the log's. RESOURCE_EXHAUSTED: as
 * before; any other failure breaks the log. */
replog_status wal_store_manifest(struct wal *wal, const struct manifest *manifest,
                                 replog_error *err);

/* ---- recovery.c */
struct rescan {
    struct wal_segment *segment;
    struct disk_file *file;
    const struct wal_pos *target; /* where the segment must end; NULL: wherever it ends */
    struct segment_index *index;  /* filled */
    struct term_runs *runs;       /* extended; NULL: not wanted */
    /* results, with segment->last, data_end, write_end and last_us */
    struct wal_pos marked; /* the last mark, at least header.prev */
    uint64_t rewrite_from; /* the groups below this offset are proved durable by a mark */
    uint64_t torn_bytes;
};
/* Reads a segment's groups from the front and checks all. DATA_LOSS: the target is not reached, or
 * a later mark covers what is not there (file, offset and seq named). Changes nothing on disk. */
replog_status wal_rescan(struct wal *wal, struct rescan *rescan, replog_error *err);

/* ---- truncate.c */
/* Unlinks or recycles segment files that are out of the table; ends with sync_dir. */
replog_status wal_drop_file(struct wal *wal, uint64_t number, bool recycle, replog_error *err);
/* A file with that header page, durable, under its .seg name, open for writing; from the pool if it
 * has one. RESOURCE_EXHAUSTED: nothing changed; any other failure breaks the log. */
replog_status wal_make_segment_file(struct wal *wal, const struct segment_header *header,
                                    const uint8_t page[WAL_PAGE_BYTES], struct disk_file **file,
                                    uint64_t *file_bytes, replog_error *err);

/* ---- reader.c */
/* The last segment that begins at or below seq, or NULL. Mutex held. */
struct wal_segment *wal_find_segment(const struct wal *wal, uint64_t seq);
/* One user less of a segment. Mutex held. Its file, for the caller to close without the mutex, if
 * that was the last one; NULL otherwise. */
struct disk_file *wal_release(struct wal_segment *segment);

#endif

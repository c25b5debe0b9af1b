/* manifest.h: the file MANIFEST, whose presence makes a directory a log. Hides: its layout, and how
 * it is replaced as a whole (MANIFEST.tmp, fdatasync, rename, fsync of the directory).
 *
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. length
 *     8     4  magic "RLM1"
 *    12     2  format version, 1
 *    14     2  zero
 *    16     4  length of the file
 *    20     4  founding: enum wal_founding
 *    24     8  cluster id, 0: none yet
 *    32     8  member id, 0: standalone
 *    40     8  incarnation
 *    48     8  epoch: raised at every open for writing and at every cut
 *    56     8  base: seq right below the first one that the log still shows
 *    64     8  base: its term
 *    72     8  base: its chain value
 *    80     8  the highest segment number there was when this was written, 0: none
 *    88     8  last cut: number of the segment that was cut, 0: never cut
 *    96     8  last cut: its epoch; segments behind the cut one that are older do not exist
 *   104     8  last cut: offset where the segment's data end
 *   112    24  last cut: seq, term, chain of what was kept
 *   136     4  length of the base CONFIG, 0: none
 *   140        base CONFIG (marker.h)
 * The file is valid when all of this fits its size exactly and the hash is right. It is never
 * repaired: it holds what nothing else holds. */
#ifndef WAL_MANIFEST_H
#define WAL_MANIFEST_H

#include "wal/log.h"

struct manifest_cut {
    uint64_t segment, epoch, end_offset;
    struct wal_pos last;
};

struct manifest {
    struct wal_identity identity;
    uint64_t epoch;
    struct wal_pos base;
    uint64_t last_segment;
    struct manifest_cut cut;
    struct config config; /* in force at base; n_members 0: none */
};

/* NOT_FOUND: no such file; DATA_LOSS: names file and offset; else I/O. */
replog_status manifest_load(const struct disk *disk, const char *dir, struct manifest *manifest,
                            replog_error *err);
/* Replaces the file, durable on return. *renamed (set in any case): false means that the old one
 * stands for certain. */
replog_status manifest_store(const struct disk *disk, const char *dir,
                             const struct manifest *manifest, bool *renamed, replog_error *err);

#endif

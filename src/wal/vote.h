/* vote.h: the file VOTE: term and vote. Hides: the two slots and how they are written.
 *
 * Two slots, at 0 and at 4 KiB, each:
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. 4096
 *     8     4  magic "RLV1"
 *    12     2  format version, 1
 *    14     2  zero
 *    16     8  counter, raised with every save
 *    24     8  incarnation of the directory
 *    32     8  term
 *    40     8  voted for, 0: nobody
 *    48        zeros
 * A save writes the same content into both, one after the other, each synced before the next step.
 * So whatever happens to one slot, torn by a crash or rotten later, the other alone holds a truth
 * that was never contradicted by an answer: during the first write the old vote, afterwards the
 * new one (the first to be written is one that is damaged or behind). With both valid the higher
 * counter counts. With none valid: DATA_LOSS, never a guess. An
 * open for writing saves what it found, which repairs a damaged slot and puts on the disk what
 * perhaps only the page cache had. */
#ifndef WAL_VOTE_H
#define WAL_VOTE_H

#include "wal/log.h"

struct vote_file {
    const struct disk *disk;
    struct disk_file *file; /* NULL: loaded read-only */
    uint64_t incarnation, counter;
    uint64_t first_slot; /* the one to write first */
    struct wal_vote vote;
};

/* Makes the file (or overwrites it, for a directory whose making was interrupted). */
replog_status vote_create(const struct disk *disk, const char *path, uint64_t incarnation,
                          replog_error *err);
/* Reads the file; keeps it open for saving unless read_only. NOT_FOUND, DATA_LOSS, I/O. */
replog_status vote_load(const struct disk *disk, const char *path, bool read_only,
                        struct vote_file *vote, replog_error *err);
/* Both slots, durable on return. After a failure only `vote->vote` is as before. */
replog_status vote_save(struct vote_file *vote, struct wal_vote value, replog_error *err);
void vote_close(struct vote_file *vote);

#endif

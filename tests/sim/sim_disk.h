/* sim_disk.h: a member's disk: the files of wal/disk_mem, and a store in memory that forgets what
 * was not flushed; how long its calls take, and what goes wrong with them.
 * Hides: speeds, where damage may be done. */
#ifndef SIM_DISK_H
#define SIM_DISK_H

#include "sim_impl.h"

#define SIM_DIR "d"

struct sim_disk {
    struct disk_mem *mem;
    struct store *store;      /* what the member uses: fails while the disk is full */
    uint64_t low_us, high_us; /* of one step of the log worker */
    unsigned slow;            /* times as long */
    uint64_t stalled_until_us;
    bool full;
    uint64_t full_until_us;
    /* of the store, in a hundred writes */
    unsigned flushes_itself; /* as RocksDB does when a buffer is full */
    unsigned fails_full;     /* while the disk is full */
    uint64_t rng;
};

void sim_disk_init(struct sim *sim, struct sim_disk *disk);
void sim_disk_free(struct sim_disk *disk);
/* Empty again: a new disk. */
void sim_disk_wipe(struct sim_disk *disk, bool log, bool store);
/* How long the next step takes. */
uint64_t sim_disk_latency_us(struct sim *sim, const struct sim_disk *disk);
void sim_disk_set_full(struct sim *sim, struct sim_disk *disk, bool full);
/* The store holds so much durably. */
uint64_t sim_disk_store_durable(const struct sim_disk *disk);
/* The process ends; with `power` everything that was not synced goes as `loss` says. */
void sim_disk_crash(struct sim *sim, struct sim_disk *disk, bool power, enum disk_mem_loss loss);

enum sim_rot {
    SIM_ROT_FLIP,      /* one bit */
    SIM_ROT_ZERO,      /* a sector reads as zeros */
    SIM_ROT_MISDIRECT, /* a sector of the same file, or of another, was written over this one */
    SIM_ROT_SHORT,     /* a file lost its end */
    SIM_ROT_N
};
enum sim_rot_file {
    SIM_ROT_SEGMENT,
    SIM_ROT_MANIFEST,
    SIM_ROT_VOTE, /* both copies */
    SIM_ROT_VOTE_COPY,
    SIM_ROT_FILES
};
/* Damages a file of the log where it can be told from a torn write (see the .c); returns what was
 * done, or NULL when there is nothing to damage yet, or nothing changed. */
const char *sim_disk_rot(const struct sim_disk *disk, enum sim_rot_file file, enum sim_rot rot,
                         uint64_t *rng);

#endif

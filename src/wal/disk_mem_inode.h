/* disk_mem_inode.h: one file of the disk in memory. Hides: sectors, and what a sync, a failed sync
 * and a crash do to them.
 *
 * A file has two images: what readers see (cached) and what the device has (durable), and a flag
 * for each 512-byte sector that differs and would still be written by a sync. A failed sync clears
 * the flags without writing. The size becomes durable with the next sync that works. */
#ifndef WAL_DISK_MEM_INODE_H
#define WAL_DISK_MEM_INODE_H

#include "wal/disk.h"

struct image {
    uint8_t *data; /* zero from size_bytes to capacity */
    uint64_t size_bytes, capacity;
};

struct inode {
    struct inode *next; /* the owner's list */
    struct image cached, durable;
    uint8_t *dirty;                /* one flag for each sector of cached.capacity */
    uint64_t dirty_from, dirty_to; /* all that are set lie in between; equal: none */
    bool in_use;                   /* the owner's mark */
};

/* Changes the cached size; new bytes read as zeros. */
void inode_resize(struct inode *inode, uint64_t size_bytes);
/* Cuts the file, cached and durable. */
void inode_shorten(struct inode *inode, uint64_t size_bytes);
/* Writes at most `limit` bytes of the pieces, growing the file if need be. */
void inode_write(struct inode *inode, const struct iovec *pieces, size_t n, uint64_t offset,
                 uint64_t limit);
/* What a sync writes: all, or (power cut) the first half of the dirty sectors. */
void inode_sync(struct inode *inode, bool half);
/* The page cache after a failed sync: clean, and the device does not have it. */
void inode_forget_dirty(struct inode *inode);
/* Applies the loss: afterwards both images are what survived. */
void inode_crash(struct inode *inode, enum disk_mem_loss loss, uint64_t *rng);
void inode_free(struct inode *inode);

/* Test equipment stops the process when memory is short: a disk that loses writes for that reason
 * would accuse the code under test. Returns its argument. */
void *disk_mem_must(void *memory);

#endif

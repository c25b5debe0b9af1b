#include "wal/disk_mem_inode.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"

enum { SECTOR = 512 };

void *disk_mem_must(void *memory) {
    CHECK(memory);
    return memory;
}

/* Makes room for size_bytes; new bytes are zero. Returns the new capacity. */
static uint64_t image_reserve(struct image *image, uint64_t size_bytes) {
    if (size_bytes <= image->capacity) return image->capacity;
    uint64_t capacity = image->capacity ? image->capacity : (uint64_t)8 * SECTOR;
    while (capacity < size_bytes) capacity *= 2;
    image->data = disk_mem_must(realloc(image->data, capacity));
    memset(image->data + image->capacity, 0, capacity - image->capacity);
    image->capacity = capacity;
    return capacity;
}

static void image_resize(struct image *image, uint64_t size_bytes) {
    image_reserve(image, size_bytes);
    if (size_bytes < image->size_bytes)
        memset(image->data + size_bytes, 0, image->size_bytes - size_bytes);
    image->size_bytes = size_bytes;
}

static void mark_dirty(struct inode *inode, uint64_t from, uint64_t to) {
    if (from >= to) return;
    uint64_t first = from / SECTOR, end = (to + SECTOR - 1) / SECTOR;
    memset(inode->dirty + first, 1, end - first);
    bool none = inode->dirty_from == inode->dirty_to;
    if (none || first < inode->dirty_from) inode->dirty_from = first;
    if (none || end > inode->dirty_to) inode->dirty_to = end;
}

void inode_resize(struct inode *inode, uint64_t size_bytes) {
    uint64_t old_size = inode->cached.size_bytes, old_capacity = inode->cached.capacity;
    uint64_t capacity = image_reserve(&inode->cached, size_bytes);
    if (capacity > old_capacity) {
        inode->dirty = disk_mem_must(realloc(inode->dirty, capacity / SECTOR));
        memset(inode->dirty + old_capacity / SECTOR, 0, (capacity - old_capacity) / SECTOR);
    }
    image_resize(&inode->cached, size_bytes);
    /* What grew reads as zeros, also where the device still has bytes from before a shrinking. */
    uint64_t stale_end =
        inode->durable.size_bytes < size_bytes ? inode->durable.size_bytes : size_bytes;
    if (stale_end > old_size) mark_dirty(inode, old_size, stale_end);
}

void inode_shorten(struct inode *inode, uint64_t size_bytes) {
    inode_resize(inode, size_bytes);
    if (size_bytes < inode->durable.size_bytes) image_resize(&inode->durable, size_bytes);
}

void inode_write(struct inode *inode, const struct iovec *pieces, size_t n, uint64_t offset,
                 uint64_t limit) {
    if (offset + limit > inode->cached.size_bytes) inode_resize(inode, offset + limit);
    for (size_t i = 0; i < n && limit; i++) {
        uint64_t size = pieces[i].iov_len < limit ? pieces[i].iov_len : limit;
        if (!size) continue;
        memcpy(inode->cached.data + offset, pieces[i].iov_base, size);
        mark_dirty(inode, offset, offset + size);
        offset += size;
        limit -= size;
    }
}

static void sectors_to_device(struct inode *inode, uint64_t sector, uint64_t n) {
    uint64_t at = sector * SECTOR;
    uint64_t size = inode->cached.size_bytes - at;
    if (size > n * SECTOR) size = n * SECTOR;
    if (at + size > inode->durable.size_bytes) image_resize(&inode->durable, at + size);
    memcpy(inode->durable.data + at, inode->cached.data + at, size);
}

static uint64_t n_sectors(const struct inode *inode) {
    return (inode->cached.size_bytes + SECTOR - 1) / SECTOR;
}

void inode_sync(struct inode *inode, bool half) {
    uint64_t n_dirty = 0,
             end = n_sectors(inode) < inode->dirty_to ? n_sectors(inode) : inode->dirty_to;
    for (uint64_t s = inode->dirty_from; s < end; s++) n_dirty += inode->dirty[s];
    uint64_t left = half ? n_dirty / 2 : n_dirty;
    for (uint64_t s = inode->dirty_from; s < end && left; s++) {
        uint64_t n = 0; /* in a row */
        while (n < left && s + n < end && inode->dirty[s + n]) inode->dirty[s + n++] = 0;
        if (n) sectors_to_device(inode, s, n);
        left -= n;
        s += n;
    }
    if (half) return;
    image_resize(&inode->durable, inode->cached.size_bytes);
    inode_forget_dirty(inode); /* those behind the end of a file that shrank */
}

void inode_forget_dirty(struct inode *inode) {
    if (inode->dirty_from < inode->dirty_to)
        memset(inode->dirty + inode->dirty_from, 0, inode->dirty_to - inode->dirty_from);
    inode->dirty_from = inode->dirty_to = 0;
}

void inode_crash(struct inode *inode, enum disk_mem_loss loss, uint64_t *rng) {
    if (loss == DISK_LOSE_NONE) {
        inode_sync(inode, false);
    } else if (loss == DISK_LOSE_RANDOM) {
        uint64_t low = inode->durable.size_bytes, high = inode->cached.size_bytes;
        if (low > high) {
            uint64_t swap = low;
            low = high;
            high = swap;
        }
        uint64_t size = rng_between(rng, low, high);
        if (rng_next(rng) & 1) size = rng_next(rng) & 1 ? low : high;
        for (uint64_t s = 0; s < n_sectors(inode); s++)
            if (inode->dirty[s] && rng_next(rng) & 1) sectors_to_device(inode, s, 1);
        image_resize(&inode->durable, size);
    }
    inode_resize(inode, 0);
    inode_resize(inode, inode->durable.size_bytes);
    if (inode->durable.size_bytes)
        memcpy(inode->cached.data, inode->durable.data, inode->durable.size_bytes);
    inode_forget_dirty(inode);
}

void inode_free(struct inode *inode) {
    free(inode->cached.data);
    free(inode->durable.data);
    free(inode->dirty);
    free(inode);
}

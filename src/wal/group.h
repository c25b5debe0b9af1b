/* group.h: groups, what this node wrote at once, and a scanner that reads them back. Hides: the
 * layout of the group header, the padding, and the window through which a file is read.
 *
 * A group starts on a 4 KiB boundary of a segment's data area:
 *
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. 88
 *     8     4  magic "RLG1"
 *    12     2  format version, 1
 *    14     2  zero
 *    16     4  length of the blocks that follow, in bytes
 *    20     4  number of blocks
 *    24     8  segment number
 *    32     8  own offset in the file
 *    40     8  epoch
 *    48     8  incarnation of the directory
 *    56     8  mark: seq of the last block known durable here before this group
 *    64     8  mark: its term
 *    72     8  mark: its chain value
 *    80     8  first seq of the blocks (of an empty group: of the block that comes next)
 *    88        blocks, then zeros up to the next 4 KiB boundary
 *
 * A group is valid when the hash is right; it names the segment, offset and incarnation where it
 * stands (a recycled file is full of others) and an epoch not below that of the group before it;
 * its first seq continues that group; every block passes block_check and continues the chain; and
 * the blocks fill the length exactly. Without blocks it only carries a mark. */
#ifndef WAL_GROUP_H
#define WAL_GROUP_H

#include "wal/log.h"
#include "wal/recent.h"

enum {
    WAL_PAGE_BYTES = 4096,
    GROUP_HEADER_BYTES = 88,
    GROUP_TARGET_BYTES = 4 << 20,    /* blocks of one group, unless a single piece is larger */
    GROUP_MAX_PIECE_BYTES = 64 << 20 /* what one piece of an append may hold */
};

struct group_header {
    uint32_t length, n_blocks;
    uint64_t segment, offset, epoch, incarnation;
    struct wal_pos mark;
    uint64_t first_seq;
};

static inline uint64_t page_align(uint64_t offset) {
    return (offset + WAL_PAGE_BYTES - 1) / WAL_PAGE_BYTES * WAL_PAGE_BYTES;
}
/* The bytes that a group takes in the file, padding included. */
static inline uint64_t group_padded_bytes(uint64_t length) {
    return page_align(GROUP_HEADER_BYTES + length);
}

void group_encode(const struct group_header *header, uint8_t out[GROUP_HEADER_BYTES]);
/* false unless magic, version and hash are right. */
bool group_decode(const uint8_t in[GROUP_HEADER_BYTES], struct group_header *header);

enum { WAL_PATH_BYTES = 4096 };
struct wal_path {
    char text[WAL_PATH_BYTES];
};

/* Reads the groups of one segment file from front to back. `disk`, `file` and `recent` are
 * borrowed. */
struct scan {
    const struct disk *disk;
    struct disk_file *file;
    struct recent *recent;         /* NULL: all is read from the file */
    struct wal_path path;          /* for sentences */
    uint64_t segment, incarnation; /* what groups must name */
    uint64_t epoch;                /* what their epoch must not lie below; follows the groups */
    uint64_t limit;                /* nothing at or behind it is read */
    uint64_t offset;               /* of the next group, or within a group of the next block */
    struct wal_pos pos;            /* the last block that was read; its successor must follow */
    bool chain_known;              /* false: pos.seq, term and chain come from the next block */
    struct group_header group;     /* the one under way */
    uint64_t group_offset;
    uint32_t blocks_left;
    uint8_t *window; /* bytes window_offset .. + window_bytes of the file */
    size_t window_capacity, window_bytes;
    uint64_t window_offset;
};

/* Positions at a group and forgets what was read ahead. The other fields are the caller's. */
void scan_seek(struct scan *scan, uint64_t offset);
void scan_free(struct scan *scan);
/* Bytes offset .. offset + n as long as they lie below the limit: valid until the next call. OK,
 * NOT_FOUND (without a sentence: beyond the limit or the file's end), RESOURCE_EXHAUSTED,
 * UNAVAILABLE. */
replog_status scan_bytes(struct scan *scan, uint64_t offset, size_t n, const uint8_t **bytes,
                         replog_error *err);
/* Steps into the group at `offset`. NOT_FOUND (without a sentence): the limit is reached.
 * DATA_LOSS: no valid group header here (file, offset and seq named). */
replog_status scan_group(struct scan *scan, replog_error *err);
/* The next block of the group under way; NOT_FOUND (without a sentence) when it is finished:
 * `offset` then is that of the next group. *bytes is valid until the next call. DATA_LOSS: named as
 * above. */
replog_status scan_block(struct scan *scan, struct block_header *header, const uint8_t **bytes,
                         replog_error *err);
/* Both: the next block, over the borders of groups; NOT_FOUND at the limit. */
replog_status scan_next(struct scan *scan, struct block_header *header, const uint8_t **bytes,
                        replog_error *err);

#endif

/* segment.h: the fixed parts of a segment file: header page, seal, and the sparse index. Hides:
 * their layout.
 *
 * A segment file is named by its running number, `%016x.seg`:
 *     0      header page (4 KiB), durable before the file gets its name
 *     4 KiB  seal slot (28 KiB), written and synced before the next segment is made
 *    32 KiB  groups (group.h)
 *
 * Header page
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. 4096
 *     8     4  magic "RLS1"
 *    12     2  format version, 1
 *    14     2  zero
 *    16     8  cluster id, 0: not founded when it was made
 *    24     8  incarnation of the directory
 *    32     8  epoch in which it was made
 *    40     8  segment number
 *    48     8  first seq
 *    56     8  term of the block before, 0: none
 *    64     8  chain value of the block before
 *    72     8  timestamp of the first block, microseconds since 1970
 *    80        zeros
 *
 * Seal slot. It is at a fixed place so that it costs no search. It can be derived from the groups.
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. 28672
 *     8     4  magic "RLF1"
 *    12     2  format version, 1
 *    14     2  flags: 1: the term runs did not fit, read the groups
 *    16     8  segment number
 *    24     8  hash of the header page (so that a recycled file's old seal says nothing)
 *    32     8  data end: the offset behind the last block
 *    40     8  last seq
 *    48     8  last term
 *    56     8  last chain
 *    64     8  timestamp of the last block
 *    72     4  number of index entries
 *    76     4  number of term runs
 *    80     8  bytes of groups between two index entries, at least
 *    88        index entries: first seq of a group - first seq of the segment (4), its offset (4)
 *              term runs: term (8), first seq - first seq of the segment (4)
 *              zeros
 * A seal is valid when the hash is right, number and header hash are this file's, and everything
 * ascends and lies within its bounds. */
#ifndef WAL_SEGMENT_H
#define WAL_SEGMENT_H

#include "wal/group.h"
#include "wal/runs.h"

enum {
    SEGMENT_SEAL_OFFSET = WAL_PAGE_BYTES,
    SEGMENT_SEAL_BYTES = 28672,
    SEGMENT_DATA_OFFSET = SEGMENT_SEAL_OFFSET + SEGMENT_SEAL_BYTES,
    SEGMENT_MAX_ENTRIES = 1024,
    SEGMENT_MAX_RUNS = 1696,
    SEGMENT_FIRST_STRIDE_BYTES = 16 << 10
};

struct segment_header {
    uint64_t cluster_id, incarnation, epoch, number;
    uint64_t first_seq;
    struct wal_pos prev; /* seq is first_seq - 1 */
    uint64_t first_us;
    uint64_t hash; /* of the page; filled by encode and decode */
};

struct index_entry {
    uint32_t seq_delta, offset;
};
/* Where to begin reading for a seq: a group now and then. */
struct segment_index {
    uint64_t stride_bytes;
    uint32_t n;
    struct index_entry entries[SEGMENT_MAX_ENTRIES];
};
void index_reset(struct segment_index *index);
/* A group that holds blocks was written behind all others. */
void index_add(struct segment_index *index, uint64_t seq_delta, uint64_t offset);
/* The offset of the last group in the index that begins at or below seq_delta. */
uint64_t index_find(const struct segment_index *index, uint64_t seq_delta);

struct segment_seal {
    uint64_t data_end;
    struct wal_pos last;
    uint64_t last_us;
    bool runs_incomplete;
    uint32_t n_runs;
};

void segment_header_encode(struct segment_header *header, uint8_t page[WAL_PAGE_BYTES]);
/* false: not a valid header page. */
bool segment_header_decode(const uint8_t page[WAL_PAGE_BYTES], struct segment_header *header);

/* Writes the seal into `slot`, with those of `runs` that the segment holds. */
void segment_seal_encode(const struct segment_header *header, const struct segment_seal *seal,
                         const struct segment_index *index, const struct term_runs *runs,
                         uint8_t slot[SEGMENT_SEAL_BYTES]);
/* false: not a valid seal of that segment. `index` and `runs` (room for SEGMENT_MAX_RUNS) may be
 * NULL. */
bool segment_seal_decode(const uint8_t slot[SEGMENT_SEAL_BYTES],
                         const struct segment_header *header, struct segment_seal *seal,
                         struct segment_index *index, struct wal_term_run *runs);

#endif

/* block.h: the block codec. A block is what was appended together: one batch with its COMMIT, or
 * one single record. It is one Raft entry, and its bytes are the same on every node, on the wire
 * and on disk. Hides: the byte layout.
 *
 *   offset size
 *     0     8  hash: XXH3-64 of bytes 8 .. length (so of the previous block's hash too: a chain)
 *     8     4  magic "RLB1"
 *    12     2  format version, 1
 *    14     2  flags: BLOCK_BATCH, BLOCK_KEYED, BLOCK_MARKER; the rest zero
 *    16     4  length in bytes, this header included
 *    20     4  number of records, markers included, at least 1
 *    24     8  first seq
 *    32     8  term
 *    40     8  timestamp, microseconds since 1970 on the leader that sealed it
 *    48     8  session id, 0: none
 *    56     8  sequence number within the session
 *    64     8  acked_below: the session's client has the answers to all sequences below. In a log
 *              without a cluster (replog/wal.h): seq of the last CHECKPOINT up to here, 0: none
 *    72     8  chain: the previous block's hash (0 before the first)
 *    80        records, each: op (1), key length (3), value length (4), key, value
 *
 * All integers little-endian. A block is valid when the magic, version and lengths fit, the records
 * fill it exactly and keep the limits, a COMMIT stands at the end of a BLOCK_BATCH and nowhere
 * else, the flags say what the records are, and the hash is right. */
#ifndef WAL_BLOCK_H
#define WAL_BLOCK_H

#include "base/bytes.h"
#include "replog/limits.h"
#include "replog/status.h"
#include "replog/wal.h"

enum {
    BLOCK_HEADER_BYTES = 80,
    BLOCK_RECORD_HEADER_BYTES = 8,
    /* the largest valid block: a full batch and its COMMIT */
    BLOCK_MAX_BYTES = BLOCK_HEADER_BYTES + (int)REPLOG_MAX_BATCH_BYTES + BLOCK_RECORD_HEADER_BYTES
};

enum block_flag {
    BLOCK_BATCH = 1, /* ends with COMMIT */
    BLOCK_KEYED = 2, /* holds a PUT or DELETE with a key: the store has work to do */
    BLOCK_MARKER = 4 /* holds a marker other than COMMIT: the node has work to do */
};

struct block_header {
    uint64_t hash; /* this block's chain value */
    uint32_t length, n_records;
    uint16_t flags;
    uint64_t first_seq, term, timestamp_us, session, session_seq, acked_below, prev_chain;
};

static inline uint64_t block_last_seq(const struct block_header *h) {
    return h->first_seq + h->n_records - 1;
}

/* ---- Writing: a blob is begun with room for the header, filled, and sealed once its place in the
 * log is known. */
struct block_builder {
    struct blob *blob; /* header space, then records; size_bytes: so far; NULL: memory failed */
    bool failed;
    uint32_t n_records;
    uint16_t flags;
    size_t payload_bytes; /* against REPLOG_MAX_BATCH_BYTES */
};
/* Initialises *b, whatever was in it (a builder in use is freed or finished first). */
void block_begin(struct block_builder *b);
/* The same with room for records of `expected_bytes`, their headers included; both grow. Begins in
 * `spare` (whose reference it takes; NULL: none) if nobody else holds that and it is large enough.
 */
void block_begin_sized(struct block_builder *b, size_t expected_bytes, struct blob *spare);
void block_builder_free(struct block_builder *b);
/* Appends a user's PUT or DELETE. INVALID_ARGUMENT (op, key, value, number of records, bytes of the
 * batch: the sentence names limit and value); RESOURCE_EXHAUSTED when memory is short. After an
 * error the builder is as before. A DELETE has a key and no value. */
replog_status block_add(struct block_builder *b, replog_op op, struct slice key, struct slice value,
                        replog_error *err);
/* Appends a marker (any op but PUT and DELETE; COMMIT sets BLOCK_BATCH). Limits are the caller's.
 */
void block_add_marker(struct block_builder *b, replog_op op, struct slice value);
/* Ends the building: the bytes as a blob (hash and header not yet sealed), or NULL when memory
 * failed. The builder, which must hold at least one record, is empty afterwards. */
struct blob *block_finish(struct block_builder *b, uint32_t *n_records, uint16_t *flags);
/* Writes the header into `bytes` (whose length is header->length) and computes the hash, which is
 * returned and stored in header->hash. */
uint64_t block_seal(uint8_t *bytes, struct block_header *header);

/* ---- Reading: bytes are hostile until block_check said OK. */
/* Decodes the header at `bytes` when at least BLOCK_HEADER_BYTES are there, and checks magic,
 * version and that the length lies within bounds; not the hash. DATA_LOSS otherwise. */
replog_status block_peek(const uint8_t *bytes, size_t available, struct block_header *header,
                         replog_error *err);
/* As block_peek, and the whole block is there, the hash is right and the records are well formed.
 */
replog_status block_check(const uint8_t *bytes, size_t available, struct block_header *header,
                          replog_error *err);

/* Walks the records of a block that block_check accepted. `at` starts as {0}. false at the end. */
struct block_walk {
    size_t offset;
    uint32_t index;
};
bool block_next(const uint8_t *bytes, const struct block_header *header, struct block_walk *at,
                replog_record *record);

#endif

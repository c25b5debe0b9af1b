/* tail.h: the newest blocks of the log, in memory: what is not durable yet, and as much of what is
 * durable as `limit_bytes` allows, so that followers that keep up are fed without reading files.
 * Bytes lie in shared blobs, many blocks in one, so that the disk and every follower take them from
 * where they lie. Hides: the ring of blocks and the blob that is being filled. Not thread-safe. */
#ifndef NODE_TAIL_H
#define NODE_TAIL_H

#include "node/peer.h"
#include "wal/log.h"

struct tail_block {
    uint64_t first_seq, last_seq, term, hash;
    struct blob *blob; /* one reference */
    uint32_t offset, length;
};

struct tail {
    struct tail_block *ring;
    size_t head, n, capacity; /* capacity is a power of two */
    struct wal_pos base;      /* what lies right below the oldest block */
    uint64_t size_bytes;      /* of the blocks */
    struct blob *open;        /* being filled by tail_add_new */
    size_t open_used;
};

/* Empty, behind position `end`. */
void tail_init(struct tail *t, struct wal_pos end);
void tail_free(struct tail *t);

/* The end of the log. */
struct wal_pos tail_end(const struct tail *t);

/* Adds a leader's block, not sealed yet: *bytes is where it lies now, for block_seal and
 * tail_set_hash. Small ones are copied behind each other, so that many of them make one run; large
 * ones stay where they are. false when memory is short; nothing changed then. */
bool tail_add_new(struct tail *t, struct blob *block, uint64_t first_seq, uint64_t last_seq,
                  uint64_t term, uint8_t **bytes);
void tail_set_hash(struct tail *t, uint64_t hash); /* of the newest block */
/* Adds a block that lies in `blob` (a follower's); takes a reference. */
bool tail_add_ref(struct tail *t, const struct block_header *h, struct blob *blob, size_t offset);

/* Drops blocks above keep_seq (the end of a block, not below t->base). */
void tail_cut(struct tail *t, uint64_t keep_seq);
/* Drops the oldest blocks, as long as there are more than limit_bytes, up to durable_seq. */
void tail_evict(struct tail *t, uint64_t limit_bytes, uint64_t durable_seq);

/* The longest run of bytes, at most max_bytes (but at least one block), that begins with the block
 * whose first seq is `seq`, ends at or below upto_seq and lies in one blob. *out gets a reference,
 * *last_seq the run's last seq. false when no such block begins there. */
bool tail_run(const struct tail *t, uint64_t seq, uint64_t upto_seq, size_t max_bytes,
              struct node_bytes *out, uint64_t *last_seq);
/* The position of the block end at `seq`: a block's in memory, or the base. false: neither. */
bool tail_pos(const struct tail *t, uint64_t seq, struct wal_pos *pos);
/* Bytes of the blocks above `seq` that are in memory. */
uint64_t tail_bytes_above(const struct tail *t, uint64_t seq);
/* Whether they are at least so many: looks at few blocks. */
bool tail_holds_above(const struct tail *t, uint64_t seq, uint64_t bytes);

#endif

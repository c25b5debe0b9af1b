#include "node/tail.h"

#include <stdlib.h>

#include "base/check.h"

enum {
    OPEN_BLOB_BYTES = 1 << 20,
    OWN_BLOB_BYTES = 32 << 10, /* a block from here up stays in its own blob */
    FIRST_CAPACITY = 256
};

static struct tail_block *at(const struct tail *t, size_t i) {
    return &t->ring[(t->head + i) & (t->capacity - 1)];
}

void tail_init(struct tail *t, struct wal_pos end) {
    *t = (struct tail){.base = end};
}

void tail_free(struct tail *t) {
    for (size_t i = 0; i < t->n; i++) blob_unref(at(t, i)->blob);
    free(t->ring);
    blob_unref(t->open);
    *t = (struct tail){0};
}

struct wal_pos tail_end(const struct tail *t) {
    if (t->n == 0) return t->base;
    const struct tail_block *b = at(t, t->n - 1);
    return (struct wal_pos){.seq = b->last_seq, .term = b->term, .chain = b->hash};
}

static bool reserve(struct tail *t) {
    if (t->n < t->capacity) return true;
    size_t capacity = t->capacity ? 2 * t->capacity : FIRST_CAPACITY;
    struct tail_block *ring = malloc(capacity * sizeof *ring);
    if (!ring) return false;
    for (size_t i = 0; i < t->n; i++) ring[i] = *at(t, i);
    free(t->ring);
    t->ring = ring;
    t->head = 0;
    t->capacity = capacity;
    return true;
}

static void push(struct tail *t, struct tail_block block) {
    t->n++;
    *at(t, t->n - 1) = block;
    t->size_bytes += block.length;
}

/* Room behind the newest copied block; its reference. NULL: memory is short. */
static struct blob *open_room(struct tail *t, size_t length, size_t *offset) {
    if (!t->open || t->open->capacity - t->open_used < length) {
        struct blob *open = blob_new(OPEN_BLOB_BYTES);
        if (!open) return NULL;
        blob_unref(t->open);
        t->open = open;
        t->open_used = 0;
    }
    *offset = t->open_used;
    t->open_used += length;
    return blob_ref(t->open);
}

bool tail_add_new(struct tail *t, struct blob *block, uint64_t first_seq, uint64_t last_seq,
                  uint64_t term, uint8_t **bytes) {
    size_t length = block->size_bytes, offset = 0;
    if (!reserve(t)) return false;
    struct blob *blob = length < OWN_BLOB_BYTES ? open_room(t, length, &offset) : blob_ref(block);
    if (!blob) return false;
    *bytes = blob->data + offset;
    if (blob != block) memcpy(*bytes, block->data, length);
    push(t, (struct tail_block){.first_seq = first_seq,
                                .last_seq = last_seq,
                                .term = term,
                                .blob = blob,
                                .offset = (uint32_t)offset,
                                .length = (uint32_t)length});
    return true;
}

void tail_set_hash(struct tail *t, uint64_t hash) {
    CHECK(t->n > 0);
    at(t, t->n - 1)->hash = hash;
}

bool tail_add_ref(struct tail *t, const struct block_header *h, struct blob *blob, size_t offset) {
    if (!reserve(t)) return false;
    push(t, (struct tail_block){.first_seq = h->first_seq,
                                .last_seq = block_last_seq(h),
                                .term = h->term,
                                .hash = h->hash,
                                .blob = blob_ref(blob),
                                .offset = (uint32_t)offset,
                                .length = h->length});
    return true;
}

void tail_cut(struct tail *t, uint64_t keep_seq) {
    while (t->n > 0 && at(t, t->n - 1)->last_seq > keep_seq) {
        struct tail_block *b = at(t, t->n - 1);
        t->size_bytes -= b->length;
        blob_unref(b->blob);
        t->n--;
    }
    /* Bytes behind the cut may be on their way to somebody: never write over them. */
    blob_unref(t->open);
    t->open = NULL;
}

void tail_evict(struct tail *t, uint64_t limit_bytes, uint64_t durable_seq) {
    while (t->n > 0 && t->size_bytes > limit_bytes && at(t, 0)->last_seq <= durable_seq) {
        struct tail_block *b = at(t, 0);
        t->base = (struct wal_pos){.seq = b->last_seq, .term = b->term, .chain = b->hash};
        t->size_bytes -= b->length;
        blob_unref(b->blob);
        t->head = (t->head + 1) & (t->capacity - 1);
        t->n--;
    }
}

/* The number of blocks whose last seq is below `seq`. */
static size_t below(const struct tail *t, uint64_t seq) {
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (at(t, middle)->last_seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool tail_run(const struct tail *t, uint64_t seq, uint64_t upto_seq, size_t max_bytes,
              struct node_bytes *out, uint64_t *last_seq) {
    size_t i = below(t, seq);
    if (i == t->n || at(t, i)->first_seq != seq || at(t, i)->last_seq > upto_seq) return false;
    const struct tail_block *b = at(t, i);
    struct node_bytes run = {.blob = b->blob, .offset = b->offset, .size_bytes = b->length};
    *last_seq = b->last_seq;
    for (i++; i < t->n; i++) {
        b = at(t, i);
        if (b->blob != run.blob || b->offset != run.offset + run.size_bytes ||
            run.size_bytes + b->length > max_bytes || b->last_seq > upto_seq)
            break;
        run.size_bytes += b->length;
        *last_seq = b->last_seq;
    }
    blob_ref(run.blob);
    *out = run;
    return true;
}

bool tail_pos(const struct tail *t, uint64_t seq, struct wal_pos *pos) {
    if (seq == t->base.seq) {
        *pos = t->base;
        return true;
    }
    size_t i = below(t, seq);
    if (seq < t->base.seq || i == t->n || at(t, i)->last_seq != seq) return false;
    *pos = (struct wal_pos){.seq = seq, .term = at(t, i)->term, .chain = at(t, i)->hash};
    return true;
}

bool tail_holds_above(const struct tail *t, uint64_t seq, uint64_t bytes) {
    uint64_t found = 0;
    for (size_t i = t->n; i-- > 0 && found < bytes && at(t, i)->first_seq > seq;)
        found += at(t, i)->length;
    return found >= bytes;
}

uint64_t tail_bytes_above(const struct tail *t, uint64_t seq) {
    uint64_t bytes = 0;
    size_t i = below(t, seq + 1);
    if (i > t->n / 2) {
        for (; i < t->n; i++) bytes += at(t, i)->length;
        return bytes;
    }
    bytes = t->size_bytes;
    while (i-- > 0) bytes -= at(t, i)->length;
    return bytes;
}

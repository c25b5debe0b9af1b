#include "wal/block.h"

#include <inttypes.h>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/mutant.h"

enum {
    AT_HASH = 0,
    AT_MAGIC = 8,
    AT_VERSION = 12,
    AT_FLAGS = 14,
    AT_LENGTH = 16,
    AT_RECORDS = 20,
    AT_FIRST_SEQ = 24,
    AT_TERM = 32,
    AT_TIMESTAMP = 40,
    AT_SESSION = 48,
    AT_SESSION_SEQ = 56,
    AT_ACKED_BELOW = 64,
    AT_CHAIN = 72,
    VERSION = 1,
    FIRST_BYTES = 176, /* of records, when nobody says */
    ALL_FLAGS = BLOCK_BATCH | BLOCK_KEYED | BLOCK_MARKER,
    MAX_RECORDS = REPLOG_MAX_BATCH_RECORDS + 1 /* and the COMMIT */
};

static const uint8_t magic[4] = {'R', 'L', 'B', '1'};

static void put_u24(uint8_t *p, uint32_t v) {
    put_u16(p, (uint16_t)v);
    p[2] = (uint8_t)(v >> 16);
}

static uint32_t get_u24(const uint8_t *p) {
    return get_u16(p) | (uint32_t)p[2] << 16;
}

static bool is_user_op(uint8_t op) {
    return op == REPLOG_OP_PUT || op == REPLOG_OP_DELETE;
}

static bool is_marker_op(uint8_t op) {
    return op >= REPLOG_OP_COMMIT && op <= REPLOG_OP_SESSION;
}

/* What a record contributes to its block's flags. */
static uint16_t flags_of(uint8_t op, size_t key_bytes) {
    if (op == REPLOG_OP_COMMIT) return BLOCK_BATCH;
    if (!is_user_op(op)) return BLOCK_MARKER;
    return key_bytes ? BLOCK_KEYED : 0;
}

/* ---- Writing */
void block_begin(struct block_builder *b) {
    block_begin_sized(b, FIRST_BYTES, NULL);
}

void block_begin_sized(struct block_builder *b, size_t expected_bytes, struct blob *spare) {
    size_t most = BLOCK_MAX_BYTES - BLOCK_HEADER_BYTES;
    if (expected_bytes > most) expected_bytes = most;
    size_t need = BLOCK_HEADER_BYTES + expected_bytes;
    bool fits = spare && spare->capacity >= need && blob_is_ours(spare);
    if (!fits) blob_unref(spare);
    *b = (struct block_builder){.blob = fits ? spare : blob_new(need)};
    b->failed = !b->blob;
    if (b->failed) return;
    memset(b->blob->data, 0, BLOCK_HEADER_BYTES);
    b->blob->size_bytes = BLOCK_HEADER_BYTES;
}

void block_builder_free(struct block_builder *b) {
    blob_unref(b->blob);
    *b = (struct block_builder){0};
}

static bool reserve(struct block_builder *b, size_t n) {
    if (b->failed) return false;
    size_t need = b->blob->size_bytes + n;
    if (need <= b->blob->capacity) return true;
    struct blob *more = blob_new(need > 2 * b->blob->capacity ? need : 2 * b->blob->capacity);
    if (!more) return false;
    more->size_bytes = b->blob->size_bytes;
    memcpy(more->data, b->blob->data, b->blob->size_bytes);
    blob_unref(b->blob);
    b->blob = more;
    return true;
}

static bool put_record(struct block_builder *b, uint8_t op, struct slice key, struct slice value) {
    size_t size = BLOCK_RECORD_HEADER_BYTES + key.size_bytes + value.size_bytes;
    if (!reserve(b, size)) return false;
    uint8_t *at = b->blob->data + b->blob->size_bytes;
    b->blob->size_bytes += size;
    at[0] = op;
    put_u24(at + 1, (uint32_t)key.size_bytes);
    put_u32(at + 4, (uint32_t)value.size_bytes);
    at += BLOCK_RECORD_HEADER_BYTES;
    if (key.size_bytes) memcpy(at, key.data, key.size_bytes);
    if (value.size_bytes) memcpy(at + key.size_bytes, value.data, value.size_bytes);
    b->n_records++;
    b->flags |= flags_of(op, key.size_bytes);
    return true;
}

static replog_status check_user_record(const struct block_builder *b, replog_op op,
                                       struct slice key, struct slice value, replog_error *err) {
    if (op != REPLOG_OP_PUT && op != REPLOG_OP_DELETE)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "operation %d: only PUT and DELETE can be appended", (int)op);
    if (key.size_bytes > REPLOG_MAX_KEY_BYTES)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a key of %zu bytes; the limit is %u",
                         key.size_bytes, REPLOG_MAX_KEY_BYTES);
    if (value.size_bytes > REPLOG_MAX_VALUE_BYTES)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a value of %zu bytes; the limit is %u",
                         value.size_bytes, REPLOG_MAX_VALUE_BYTES);
    if (op == REPLOG_OP_DELETE && value.size_bytes)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a DELETE with a value of %zu bytes; it must have none", value.size_bytes);
    if (op == REPLOG_OP_DELETE && !key.size_bytes)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a DELETE needs a key");
    if (b->n_records >= REPLOG_MAX_BATCH_RECORDS)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a batch of more than %u records; split it",
                         REPLOG_MAX_BATCH_RECORDS);
    size_t payload =
        b->payload_bytes + BLOCK_RECORD_HEADER_BYTES + key.size_bytes + value.size_bytes;
    if (payload > REPLOG_MAX_BATCH_BYTES)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a batch of at least %zu bytes; the limit is %u: split it", payload,
                         REPLOG_MAX_BATCH_BYTES);
    return REPLOG_OK;
}

replog_status block_add(struct block_builder *b, replog_op op, struct slice key, struct slice value,
                        replog_error *err) {
    replog_status status = check_user_record(b, op, key, value, err);
    if (status) return status;
    if (!put_record(b, (uint8_t)op, key, value))
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a record of %zu bytes",
                         key.size_bytes + value.size_bytes);
    b->payload_bytes += BLOCK_RECORD_HEADER_BYTES + key.size_bytes + value.size_bytes;
    return REPLOG_OK;
}

void block_add_marker(struct block_builder *b, replog_op op, struct slice value) {
    CHECK(is_marker_op((uint8_t)op));
    if (!put_record(b, (uint8_t)op, (struct slice){0}, value)) b->failed = true;
}

struct blob *block_finish(struct block_builder *b, uint32_t *n_records, uint16_t *flags) {
    struct blob *blob = NULL;
    if (!b->failed) {
        CHECK(b->n_records > 0);
        blob = b->blob;
        b->blob = NULL;
        *n_records = b->n_records;
        *flags = b->flags;
    }
    block_builder_free(b);
    return blob;
}

uint64_t block_seal(uint8_t *bytes, struct block_header *header) {
    memcpy(bytes + AT_MAGIC, magic, sizeof magic);
    put_u16(bytes + AT_VERSION, VERSION);
    put_u16(bytes + AT_FLAGS, header->flags);
    put_u32(bytes + AT_LENGTH, header->length);
    put_u32(bytes + AT_RECORDS, header->n_records);
    put_u64(bytes + AT_FIRST_SEQ, header->first_seq);
    put_u64(bytes + AT_TERM, header->term);
    put_u64(bytes + AT_TIMESTAMP, header->timestamp_us);
    put_u64(bytes + AT_SESSION, header->session);
    put_u64(bytes + AT_SESSION_SEQ, header->session_seq);
    put_u64(bytes + AT_ACKED_BELOW, header->acked_below);
    put_u64(bytes + AT_CHAIN, header->prev_chain);
    header->hash = hash64(bytes + AT_MAGIC, header->length - AT_MAGIC);
    put_u64(bytes + AT_HASH, header->hash);
    return header->hash;
}

/* ---- Reading */
static void read_header(const uint8_t *bytes, struct block_header *header) {
    *header = (struct block_header){
        .hash = get_u64(bytes + AT_HASH),
        .length = get_u32(bytes + AT_LENGTH),
        .n_records = get_u32(bytes + AT_RECORDS),
        .flags = get_u16(bytes + AT_FLAGS),
        .first_seq = get_u64(bytes + AT_FIRST_SEQ),
        .term = get_u64(bytes + AT_TERM),
        .timestamp_us = get_u64(bytes + AT_TIMESTAMP),
        .session = get_u64(bytes + AT_SESSION),
        .session_seq = get_u64(bytes + AT_SESSION_SEQ),
        .acked_below = get_u64(bytes + AT_ACKED_BELOW),
        .prev_chain = get_u64(bytes + AT_CHAIN),
    };
}

replog_status block_peek(const uint8_t *bytes, size_t available, struct block_header *header,
                         replog_error *err) {
    if (available < BLOCK_HEADER_BYTES)
        return error_set(err, REPLOG_DATA_LOSS, "a block header of %zu bytes, not %d", available,
                         (int)BLOCK_HEADER_BYTES);
    if (memcmp(bytes + AT_MAGIC, magic, sizeof magic) != 0)
        return error_set(err, REPLOG_DATA_LOSS, "no block magic");
    uint16_t version = get_u16(bytes + AT_VERSION);
    if (version != VERSION)
        return error_set(err, REPLOG_DATA_LOSS, "block format version %u, not %d",
                         (unsigned)version, (int)VERSION);
    struct block_header h;
    read_header(bytes, &h);
    if (h.flags & ~(unsigned)ALL_FLAGS)
        return error_set(err, REPLOG_DATA_LOSS, "unknown block flags %#x", (unsigned)h.flags);
    if (h.length < BLOCK_HEADER_BYTES + BLOCK_RECORD_HEADER_BYTES || h.length > BLOCK_MAX_BYTES)
        return error_set(err, REPLOG_DATA_LOSS,
                         "a block length of %" PRIu32 " bytes, outside %d to %d", h.length,
                         BLOCK_HEADER_BYTES + BLOCK_RECORD_HEADER_BYTES, (int)BLOCK_MAX_BYTES);
    uint32_t room = (h.length - BLOCK_HEADER_BYTES) / BLOCK_RECORD_HEADER_BYTES;
    if (h.n_records == 0 || h.n_records > MAX_RECORDS || h.n_records > room)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%" PRIu32 " records in a block of %" PRIu32 " bytes", h.n_records,
                         h.length);
    if (h.first_seq == 0 || h.first_seq > UINT64_MAX - h.n_records)
        return error_set(err, REPLOG_DATA_LOSS, "a block with first seq %" PRIu64, h.first_seq);
    *header = h;
    return REPLOG_OK;
}

/* The lengths of one record against the limits; true when a record may look like this. */
static bool record_is_sound(uint8_t op, uint32_t key_bytes, uint32_t value_bytes) {
    if (key_bytes > REPLOG_MAX_KEY_BYTES || value_bytes > REPLOG_MAX_VALUE_BYTES) return false;
    if (op == REPLOG_OP_PUT) return true;
    if (op == REPLOG_OP_DELETE) return key_bytes > 0 && value_bytes == 0;
    if (op == REPLOG_OP_COMMIT) return key_bytes == 0 && value_bytes == 0;
    return is_marker_op(op) && key_bytes == 0;
}

/* The records fill the block exactly, are sound, and the flags tell the truth about them. */
static replog_status check_records(const uint8_t *bytes, const struct block_header *h,
                                   replog_error *err) {
    struct cursor c = {.data = bytes, .size_bytes = h->length, .offset = BLOCK_HEADER_BYTES};
    uint16_t flags = 0;
    for (uint32_t i = 0; i < h->n_records; i++) {
        const uint8_t *head = cursor_bytes(&c, BLOCK_RECORD_HEADER_BYTES);
        uint8_t op = head ? head[0] : 0;
        uint32_t key_bytes = head ? get_u24(head + 1) : 0;
        uint32_t value_bytes = head ? get_u32(head + 4) : 0;
        if (head) cursor_bytes(&c, (size_t)key_bytes + value_bytes);
        if (c.failed || !record_is_sound(op, key_bytes, value_bytes))
            return error_set(err, REPLOG_DATA_LOSS,
                             "record %" PRIu32 " of %" PRIu32 " is malformed (op %u, key %" PRIu32
                             " bytes, value %" PRIu32 " bytes)",
                             i + 1, h->n_records, (unsigned)op, key_bytes, value_bytes);
        if (op == REPLOG_OP_COMMIT && (i == 0 || i != h->n_records - 1))
            return error_set(err, REPLOG_DATA_LOSS, "a COMMIT as record %" PRIu32 " of %" PRIu32,
                             i + 1, h->n_records);
        flags |= flags_of(op, key_bytes);
    }
    if (c.offset != c.size_bytes)
        return error_set(err, REPLOG_DATA_LOSS, "%zu bytes behind the last record of a block",
                         c.size_bytes - c.offset);
    if (flags != h->flags)
        return error_set(err, REPLOG_DATA_LOSS, "block flags %#x where the records say %#x",
                         (unsigned)h->flags, (unsigned)flags);
    if (h->n_records > 1 && !(flags & BLOCK_BATCH))
        return error_set(err, REPLOG_DATA_LOSS, "%" PRIu32 " records without a COMMIT",
                         h->n_records);
    return REPLOG_OK;
}

replog_status block_check(const uint8_t *bytes, size_t available, struct block_header *header,
                          replog_error *err) {
    struct block_header h = {0};
    replog_status status = block_peek(bytes, available, &h, err);
    if (status) return status;
    if (h.length > available)
        return error_set(err, REPLOG_DATA_LOSS, "a block of %" PRIu32 " bytes, %zu of them there",
                         h.length, available);
    uint64_t hash = hash64(bytes + AT_MAGIC, h.length - AT_MAGIC);
    if (hash != h.hash && !MUTANT(BLOCK_HASH_UNCHECKED))
        return error_set(err, REPLOG_DATA_LOSS,
                         "the block of seq %" PRIu64 " has hash %016" PRIx64
                         " where its bytes give %016" PRIx64,
                         h.first_seq, h.hash, hash);
    status = check_records(bytes, &h, err);
    if (status) return status;
    *header = h;
    return REPLOG_OK;
}

bool block_next(const uint8_t *bytes, const struct block_header *header, struct block_walk *at,
                replog_record *record) {
    if (at->index >= header->n_records) return false;
    if (at->offset == 0) at->offset = BLOCK_HEADER_BYTES;
    const uint8_t *head = bytes + at->offset;
    uint32_t key_bytes = get_u24(head + 1), value_bytes = get_u32(head + 4);
    const uint8_t *key = head + BLOCK_RECORD_HEADER_BYTES;
    *record = (replog_record){
        .seq = header->first_seq + at->index,
        .term = header->term,
        .op = (replog_op)head[0],
        .key = key,
        .key_bytes = key_bytes,
        .value = head[0] == REPLOG_OP_DELETE ? NULL : key + key_bytes,
        .value_bytes = value_bytes,
    };
    at->offset += BLOCK_RECORD_HEADER_BYTES + (size_t)key_bytes + value_bytes;
    at->index++;
    return true;
}

/* A batch keeps its records as they go over the wire: the `records` fields of an AppendRequest,
 * ready to be sent behind a few bytes of header. */
#include <stdlib.h>

#include "base/error.h"
#include "client/lib_internal.h"

struct replog_batch {
    struct buffer bytes;
    uint32_t count;
    size_t payload_bytes; /* against REPLOG_MAX_BATCH_BYTES */
};

enum { RECORD_OVERHEAD_BYTES = 8 }; /* what the limit counts for each record */

replog_batch *replog_batch_new(void) {
    return calloc(1, sizeof(replog_batch));
}

void replog_batch_free(replog_batch *batch) {
    if (!batch) return;
    buffer_free(&batch->bytes);
    free(batch);
}

void replog_batch_clear(replog_batch *batch) {
    buffer_clear(&batch->bytes);
    batch->bytes.failed = false;
    batch->count = 0;
    batch->payload_bytes = 0;
}

size_t replog_batch_count(const replog_batch *batch) {
    return batch->count;
}
size_t replog_batch_bytes(const replog_batch *batch) {
    return batch->payload_bytes;
}

static size_t varint_bytes(uint64_t v) {
    size_t n = 1;
    while (v >>= 7) n++;
    return n;
}

/* Of a bytes field with a one-byte tag; an empty one is left out. */
static size_t field_bytes(size_t size_bytes) {
    return size_bytes ? 1 + varint_bytes(size_bytes) + size_bytes : 0;
}

static replog_status check_limits(const replog_batch *b, size_t key_bytes, size_t value_bytes,
                                  replog_error *err) {
    if (key_bytes > REPLOG_MAX_KEY_BYTES) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a key of %zu bytes; at most %u", key_bytes,
                         REPLOG_MAX_KEY_BYTES);
    }
    if (value_bytes > REPLOG_MAX_VALUE_BYTES) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a value of %zu bytes; at most %u",
                         value_bytes, REPLOG_MAX_VALUE_BYTES);
    }
    if (b->count >= REPLOG_MAX_BATCH_RECORDS) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "more than %u records in a batch",
                         REPLOG_MAX_BATCH_RECORDS);
    }
    size_t bytes = b->payload_bytes + key_bytes + value_bytes + RECORD_OVERHEAD_BYTES;
    if (bytes > REPLOG_MAX_BATCH_BYTES) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a batch of %zu bytes (keys, values and %d a record); at most %u", bytes,
                         RECORD_OVERHEAD_BYTES, REPLOG_MAX_BATCH_BYTES);
    }
    return REPLOG_OK;
}

static replog_status add(replog_batch *b, replog_op op, const void *key, size_t key_bytes,
                         const void *value, size_t value_bytes, replog_error *err) {
    replog_status status = check_limits(b, key_bytes, value_bytes, err);
    if (status) return status;
    size_t before = b->bytes.size_bytes;
    size_t body = field_bytes(key_bytes) + field_bytes(value_bytes) + (op == REPLOG_OP_PUT ? 0 : 2);
    pb_put_bytes_header(&b->bytes, 6, body);
    if (op != REPLOG_OP_PUT) pb_put_varint(&b->bytes, 1, (uint64_t)op);
    if (key_bytes) pb_put_bytes(&b->bytes, 2, key, key_bytes);
    if (value_bytes) pb_put_bytes(&b->bytes, 3, value, value_bytes);
    if (b->bytes.failed) {
        b->bytes.failed = false;
        b->bytes.size_bytes = before;
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a batch of %zu bytes",
                         before + body);
    }
    b->count++;
    b->payload_bytes += key_bytes + value_bytes + RECORD_OVERHEAD_BYTES;
    return REPLOG_OK;
}

replog_status replog_batch_put(replog_batch *batch, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes, replog_error *err) {
    return add(batch, REPLOG_OP_PUT, key, key_bytes, value, value_bytes, err);
}

replog_status replog_batch_delete(replog_batch *batch, const void *key, size_t key_bytes,
                                  replog_error *err) {
    if (key_bytes == 0) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a DELETE without a key; only a PUT may have an empty one");
    }
    return add(batch, REPLOG_OP_DELETE, key, key_bytes, NULL, 0, err);
}

struct blob *client_batch_encode(const replog_batch *batch) {
    return blob_copy(batch->bytes.data, batch->bytes.size_bytes);
}

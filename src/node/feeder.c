#include "node/feeder.h"

#include <inttypes.h>

#include "base/error.h"

void feeder_close(struct feeder *f) {
    wal_reader_close(f->reader);
    f->reader = NULL;
    f->has_block = false;
}

/* The next block into f->header and f->bytes. NOT_FOUND: nothing more up to limit_seq. */
static replog_status next_block(struct feeder *f, uint64_t limit_seq, replog_error *err) {
    if (!f->has_block) {
        replog_status st = wal_reader_next(f->reader, limit_seq, &f->header, &f->bytes, err);
        if (st != REPLOG_OK) return st;
        f->has_block = true;
    }
    if (block_last_seq(&f->header) > limit_seq) return REPLOG_NOT_FOUND;
    if (f->header.first_seq == f->next_seq) return REPLOG_OK;
    return error_set(err, REPLOG_OUT_OF_RANGE, "no block begins at seq %" PRIu64, f->next_seq);
}

static replog_status open_at(struct feeder *f, struct wal *wal, uint64_t seq, replog_error *err) {
    /* A block that is held may have been cut meanwhile. */
    bool current = f->reader && (!f->has_block || wal_reader_current(f->reader));
    if (current && f->next_seq == seq) return REPLOG_OK;
    feeder_close(f);
    f->next_seq = seq;
    return wal_reader_open(wal, seq, &f->reader, err);
}

/* *out is untouched (blob NULL) when there is none. */
static replog_status read_blocks(struct feeder *f, struct wal *wal, uint64_t seq,
                                 uint64_t limit_seq, uint64_t bytes, struct node_bytes *out,
                                 replog_error *err) {
    replog_status st = open_at(f, wal, seq, err);
    if (st != REPLOG_OK) return st;
    struct blob *blob = NULL;
    size_t used = 0;
    while ((st = next_block(f, limit_seq, err)) == REPLOG_OK) {
        size_t length = f->header.length;
        if (used > 0 && used + length > bytes) break;
        if (!blob) {
            blob = blob_new(length > bytes ? length : bytes);
            if (!blob) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
        }
        memcpy(blob->data + used, f->bytes, length);
        used += length;
        f->next_seq = block_last_seq(&f->header) + 1;
        f->has_block = false;
    }
    if (used == 0) {
        blob_unref(blob);
        return st;
    }
    if (used < blob->capacity / 2) { /* small: do not hold the room for more in memory */
        struct blob *exact = blob_copy(blob->data, used);
        if (exact) {
            blob_unref(blob);
            blob = exact;
        }
    }
    blob->size_bytes = used;
    *out = (struct node_bytes){blob, 0, used};
    return REPLOG_OK;
}

replog_status feeder_read(struct feeder *f, struct wal *wal, uint64_t seq, uint64_t limit_seq,
                          uint64_t bytes, struct node_bytes *out, replog_error *err) {
    replog_status st = read_blocks(f, wal, seq, limit_seq, bytes, out, err);
    if (st == REPLOG_ABORTED) { /* the log changed under the reader */
        feeder_close(f);
        st = read_blocks(f, wal, seq, limit_seq, bytes, out, err);
    }
    if (st != REPLOG_OK) feeder_close(f);
    return st;
}

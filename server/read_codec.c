#include "server/read_codec.h"

#include <inttypes.h>

#include "base/error.h"
#include "rpc/rpc.h"
#include "wal/marker.h"

replog_status read_decode_request(const uint8_t *bytes, size_t size_bytes, struct read_request *ask,
                                  replog_error *err) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    *ask = (struct read_request){0};
    while (pb_next(&r, &f)) {
        if (f.number <= 5 && f.wire_type != 0) {
            return error_set(err, REPLOG_INVALID_ARGUMENT,
                             "field %u of the read has the wrong form", f.number);
        }
        switch (f.number) {
        case 1:
            ask->from_seq = f.value;
            break;
        case 2:
            ask->to_seq = f.value;
            break;
        case 3:
            ask->follow = f.value != 0;
            break;
        case 4:
            ask->markers = f.value != 0;
            break;
        case 5:
            ask->local = f.value != 0;
            break;
        default:
            break; /* of a later version */
        }
    }
    if (r.failed) return error_set(err, REPLOG_INVALID_ARGUMENT, "the read is malformed");
    if (ask->to_seq != 0 && ask->from_seq > ask->to_seq) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "from_seq %" PRIu64 " lies above to_seq %" PRIu64, ask->from_seq,
                         ask->to_seq);
    }
    return REPLOG_OK;
}

static size_t varint_bytes(uint64_t v) {
    size_t n = 1;
    while (v >= 0x80) v >>= 7, n++;
    return n;
}

static size_t varint_field_bytes(uint64_t v) {
    return v ? 1 + varint_bytes(v) : 0;
}
static size_t bytes_field_bytes(size_t n) {
    return n ? 1 + varint_bytes(n) + n : 0;
}

/* PUT, DELETE and COMMIT: the size is known before, so nothing is built twice. */
static void encode_plain(struct buffer *out, const replog_record *r) {
    size_t size_bytes = varint_field_bytes(r->seq) + varint_field_bytes(r->term) +
                        varint_field_bytes((uint64_t)r->op) + bytes_field_bytes(r->key_bytes) +
                        bytes_field_bytes(r->value_bytes);
    pb_put_bytes_header(out, 1, size_bytes);
    pb_put_varint(out, 1, r->seq);
    pb_put_varint(out, 2, r->term);
    pb_put_varint(out, 3, (uint64_t)r->op);
    if (r->key_bytes > 0) pb_put_bytes(out, 4, r->key, r->key_bytes);
    if (r->value_bytes > 0) pb_put_bytes(out, 5, r->value, r->value_bytes);
}

static void encode_members(struct buffer *out, struct slice value) {
    struct config config;
    if (config_decode(value, &config, NULL) != REPLOG_OK) return;
    struct buffer member = {0};
    for (uint32_t i = 0; i < config.n_members; i++) {
        const struct config_member *m = &config.members[i];
        buffer_clear(&member);
        pb_put_varint(&member, 1, m->id);
        pb_put_varint(&member, 2, m->incarnation);
        pb_put_bytes(&member, 3, m->address, strlen(m->address));
        pb_put_varint(&member, 4, m->role == MEMBER_LEARNER);
        pb_put_bytes(out, 8, member.data, member.size_bytes);
    }
    if (member.failed) out->failed = true;
    buffer_free(&member);
}

/* Rare ones, with fields of their own. */
static void encode_marker(struct buffer *out, const replog_record *r) {
    struct buffer record = {0};
    struct slice value = {r->value, r->value_bytes};
    struct checkpoint_marker checkpoint;
    pb_put_varint(&record, 1, r->seq);
    pb_put_varint(&record, 2, r->term);
    pb_put_varint(&record, 3, (uint64_t)r->op);
    if (r->op == REPLOG_OP_CHECKPOINT && checkpoint_decode(value, &checkpoint, NULL) == REPLOG_OK) {
        pb_put_varint(&record, 6, checkpoint.safe_seq);
        pb_put_varint(&record, 7, checkpoint.drop_upto);
    }
    if (r->op == REPLOG_OP_CONFIG) encode_members(&record, value);
    if (r->op == REPLOG_OP_SESSION) pb_put_varint(&record, 9, r->seq);
    pb_put_bytes(out, 1, record.data, record.size_bytes);
    if (record.failed) out->failed = true;
    buffer_free(&record);
}

size_t read_encode_block(struct buffer *out, const uint8_t *block,
                         const struct block_header *header, const struct read_request *ask,
                         uint64_t from_seq, uint64_t to_seq) {
    struct block_walk at = {0};
    replog_record record;
    size_t n = 0;
    while (block_next(block, header, &at, &record)) {
        bool plain = record.op == REPLOG_OP_PUT || record.op == REPLOG_OP_DELETE;
        if (record.seq < from_seq || record.seq > to_seq || (!plain && !ask->markers)) continue;
        if (plain || record.op == REPLOG_OP_COMMIT) {
            encode_plain(out, &record);
        } else {
            encode_marker(out, &record);
        }
        n++;
    }
    return n;
}

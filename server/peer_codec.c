#include "server/peer_codec.h"

#include "base/error.h"
#include "rpc/rpc.h"

/* The wire's `type`: 0 a hello, 1 to 7 a raft message, else a kind of node/peer.h. */
enum { WIRE_RAFT_FIRST = 1, WIRE_RAFT_LAST = RAFT_TIMEOUT_NOW + 1 };

static void encode_hello(const struct peer_hello *h, struct buffer *out) {
    struct buffer inner = {0};
    pb_put_varint(&inner, 1, h->from);
    pb_put_varint(&inner, 2, h->to);
    pb_put_fixed64(&inner, 3, h->incarnation);
    pb_put_fixed64(&inner, 4, h->cluster_id);
    pb_put_varint(&inner, 5, h->founding);
    pb_put_fixed64(&inner, 6, h->map_id);
    pb_put_varint(&inner, 7, h->version);
    pb_put_bytes(out, 1, inner.data, inner.size_bytes);
    if (inner.failed) out->failed = true;
    buffer_free(&inner);
}

void peer_encode(const struct peer_msg *msg, struct buffer *head) {
    const struct raft_msg *r = &msg->raft;
    uint64_t type = (uint64_t)msg->kind;
    if (msg->kind == PEER_HELLO) {
        encode_hello(&msg->hello, head);
        type = 0;
    } else if (msg->kind == PEER_RAFT) {
        type = (uint64_t)r->type + WIRE_RAFT_FIRST;
    }
    pb_put_varint(head, 2, type);
    pb_put_varint(head, 3, r->term);
    pb_put_varint(head, 4, r->seq);
    pb_put_varint(head, 5, r->seq_term);
    pb_put_varint(head, 6, r->commit_seq);
    pb_put_varint(head, 7, r->round);
    pb_put_varint(head, 8, r->ok);
    pb_put_varint(head, 9, r->transfer);
    pb_put_varint(head, 10, msg->safe_seq);
    pb_put_varint(head, 11, msg->drop_upto);
    pb_put_varint(head, 12, msg->flush_seq);
    pb_put_varint(head, 13, msg->checkpoint_seq);
    pb_put_varint(head, 14, msg->applied_seq);
    pb_put_fixed64(head, 15, msg->incarnation);
    pb_put_varint(head, 16, msg->context);
    if (msg->blocks.blob) pb_put_bytes_header(head, 20, msg->blocks.size_bytes);
}

static bool decode_hello(struct slice bytes, struct peer_hello *h) {
    struct pb_reader r = {.data = bytes.data, .end = bytes.data + bytes.size_bytes};
    struct pb_field f;
    while (pb_next(&r, &f)) {
        uint32_t wire = f.number == 3 || f.number == 4 || f.number == 6 ? 1 : 0;
        if (f.number >= 1 && f.number <= 7 && f.wire_type != wire) return false;
        switch (f.number) {
        case 1:
            h->from = f.value;
            break;
        case 2:
            h->to = f.value;
            break;
        case 3:
            h->incarnation = f.value;
            break;
        case 4:
            h->cluster_id = f.value;
            break;
        case 5:
            if (f.value > UINT32_MAX) return false;
            h->founding = (uint32_t)f.value;
            break;
        case 6:
            h->map_id = f.value;
            break;
        case 7:
            if (f.value > UINT32_MAX) return false;
            h->version = (uint32_t)f.value;
            break;
        default:
            break; /* of a later version */
        }
    }
    return !r.failed;
}

struct decoded {
    uint64_t type;
    bool has_hello;
    struct slice blocks;
};

static bool take_field(const struct pb_field *f, struct peer_msg *msg, struct decoded *d) {
    struct raft_msg *r = &msg->raft;
    uint32_t wire = f->number == 1 || f->number == 20 ? 2 : f->number == 15 ? 1 : 0;
    if ((f->number <= 16 || f->number == 20) && f->wire_type != wire) return false;
    switch (f->number) {
    case 1:
        d->has_hello = true;
        return decode_hello(f->bytes, &msg->hello);
    case 2:
        d->type = f->value;
        break;
    case 3:
        r->term = f->value;
        break;
    case 4:
        r->seq = f->value;
        break;
    case 5:
        r->seq_term = f->value;
        break;
    case 6:
        r->commit_seq = f->value;
        break;
    case 7:
        r->round = f->value;
        break;
    case 8:
        r->ok = f->value != 0;
        break;
    case 9:
        r->transfer = f->value != 0;
        break;
    case 10:
        msg->safe_seq = f->value;
        break;
    case 11:
        msg->drop_upto = f->value;
        break;
    case 12:
        msg->flush_seq = f->value;
        break;
    case 13:
        msg->checkpoint_seq = f->value;
        break;
    case 14:
        msg->applied_seq = f->value;
        break;
    case 15:
        msg->incarnation = f->value;
        break;
    case 16:
        msg->context = f->value;
        break;
    case 20:
        d->blocks = f->bytes;
        break;
    default:
        break; /* of a later version */
    }
    return true;
}

static bool set_kind(struct peer_msg *msg, const struct decoded *d) {
    if (d->type >= WIRE_RAFT_FIRST && d->type <= WIRE_RAFT_LAST) {
        msg->kind = PEER_RAFT;
        msg->raft.type = (enum raft_msg_type)(d->type - WIRE_RAFT_FIRST);
    } else if (d->type == PEER_READ_ASK) {
        msg->kind = PEER_READ_ASK;
    } else if (d->type == PEER_READ_ANSWER) {
        msg->kind = PEER_READ_ANSWER;
    } else if (d->type == 0 && d->has_hello) {
        msg->kind = PEER_HELLO;
    } else {
        return false;
    }
    bool is_append = msg->kind == PEER_RAFT && msg->raft.type == RAFT_APPEND;
    return d->blocks.size_bytes == 0 || is_append;
}

replog_status peer_decode(const uint8_t *bytes, size_t size_bytes, uint64_t self,
                          struct peer_msg *msg, replog_error *err) {
    struct peer_msg result = {0};
    struct decoded d = {0};
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    while (pb_next(&r, &f)) {
        if (!take_field(&f, &result, &d)) {
            return error_set(err, REPLOG_INVALID_ARGUMENT,
                             "malformed peer message: field %u has the wrong form", f.number);
        }
    }
    if (r.failed) return error_set(err, REPLOG_INVALID_ARGUMENT, "malformed peer message");
    if (!set_kind(&result, &d)) {
        return error_set(
            err, REPLOG_INVALID_ARGUMENT,
            "a peer message of type %llu with %zu bytes of blocks is not known; is the "
            "other member of a later version?",
            (unsigned long long)d.type, d.blocks.size_bytes);
    }
    result.raft.to = self;
    if (d.blocks.size_bytes > 0) {
        struct blob *blob = blob_copy(d.blocks.data, d.blocks.size_bytes);
        if (!blob) {
            return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short for %zu bytes",
                             d.blocks.size_bytes);
        }
        result.blocks = (struct node_bytes){blob, 0, d.blocks.size_bytes};
    }
    *msg = result;
    return REPLOG_OK;
}

/* out.c: outgoing messages as segments, and the send under way. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "rpc/internal.h"

enum { PIECES_MAX = 64 };

static bool is_big(size_t size_bytes) {
    return size_bytes >= PIECE_BIG_BYTES;
}

/* Into the message. What has an owner stays where it lies; as a small piece it is copied once, when
 * it goes out. */
static bool is_copied(const struct rpc_piece *piece) {
    return piece->owner ? piece->size_bytes == 0 : !is_big(piece->size_bytes);
}

static void put_prefix(uint8_t *p, size_t size_bytes) {
    p[0] = 0; /* not compressed */
    for (int i = 0; i < 4; i++) p[1 + i] = (uint8_t)(size_bytes >> (24 - 8 * i));
}

/* Room for n segments and `inline_bytes` behind them. */
static struct rpc_out *out_alloc(size_t n, size_t inline_bytes, uint8_t **inline_at) {
    size_t head = sizeof(struct rpc_out) + n * sizeof(struct rpc_segment);
    struct rpc_out *out = malloc(head + inline_bytes);
    if (!out) return NULL;
    *out = (struct rpc_out){0};
    *inline_at = (uint8_t *)out + head;
    return out;
}

static void add_segment(struct rpc_out *out, const uint8_t *data, size_t size_bytes,
                        struct blob *owner) {
    out->segments[out->n_segments++] = (struct rpc_segment){data, size_bytes, owner};
    out->left_bytes += size_bytes;
}

struct rpc_out *out_new(const struct rpc_piece *pieces, size_t n) {
    if (n > PIECES_MAX) return NULL;
    size_t copied = MESSAGE_PREFIX_BYTES, total = 0;
    for (size_t i = 0; i < n; i++) {
        total += pieces[i].size_bytes;
        if (is_copied(&pieces[i])) copied += pieces[i].size_bytes;
    }
    if (total > UINT32_MAX) return NULL;
    uint8_t *at;
    struct rpc_out *out = out_alloc(2 * n + 1, copied, &at);
    if (!out) return NULL;
    put_prefix(at, total);
    uint8_t *run = at; /* copied bytes not yet in a segment */
    at += MESSAGE_PREFIX_BYTES;
    for (size_t i = 0; i < n; i++) {
        const struct rpc_piece *piece = &pieces[i];
        if (is_copied(piece)) {
            if (piece->size_bytes) memcpy(at, piece->data, piece->size_bytes);
            at += piece->size_bytes;
            continue;
        }
        if (at > run) add_segment(out, run, (size_t)(at - run), NULL);
        run = at;
        struct blob *owner =
            piece->owner ? blob_ref(piece->owner) : blob_copy(piece->data, piece->size_bytes);
        if (!owner) {
            out_free(out);
            return NULL;
        }
        add_segment(out, piece->owner ? piece->data : owner->data, piece->size_bytes, owner);
    }
    if (at > run) add_segment(out, run, (size_t)(at - run), NULL);
    return out;
}

struct rpc_out *out_new_message(const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_get_packed_size(message);
    if (size > UINT32_MAX) return NULL;
    uint8_t *at;
    if (!is_big(size)) {
        struct rpc_out *out = out_alloc(1, MESSAGE_PREFIX_BYTES + size, &at);
        if (!out) return NULL;
        put_prefix(at, size);
        protobuf_c_message_pack(message, at + MESSAGE_PREFIX_BYTES);
        add_segment(out, at, MESSAGE_PREFIX_BYTES + size, NULL);
        return out;
    }
    struct blob *blob = blob_new(size);
    if (!blob) return NULL;
    protobuf_c_message_pack(message, blob->data);
    struct rpc_piece piece = {blob->data, size, blob};
    struct rpc_out *out = out_new(&piece, 1);
    blob_unref(blob);
    return out;
}

void out_free(struct rpc_out *out) {
    if (!out) return;
    for (uint32_t i = 0; i < out->n_segments; i++) blob_unref(out->segments[i].owner);
    free(out);
}

/* The part of a segment that a frame with `room` bytes left takes, and whether it is sent from
 * where it lies. out_plan and tx_take must come to the same answer: both ask here. */
static size_t segment_part(const struct rpc_out *out, uint32_t at, size_t at_byte, size_t room,
                           bool *big) {
    const struct rpc_segment *s = &out->segments[at];
    size_t part = s->size_bytes - at_byte;
    if (part > room) part = room;
    *big = s->owner && is_big(part);
    return part;
}

struct rpc_frame_plan out_plan(const struct rpc_out *head, size_t limit_bytes) {
    struct rpc_frame_plan plan = {0};
    for (const struct rpc_out *out = head; out; out = out->next) {
        size_t at_byte = out->at_byte;
        for (uint32_t at = out->at; at < out->n_segments; at++, at_byte = 0) {
            bool big;
            size_t part = segment_part(out, at, at_byte, limit_bytes - plan.size_bytes, &big);
            if (part == 0 || (big && plan.n_big == FRAME_BIG_MAX)) return plan;
            if (!big && part > FRAME_COPY_BYTES - plan.copied_bytes) {
                part = FRAME_COPY_BYTES - plan.copied_bytes;
                plan.copied_bytes += part;
                plan.size_bytes += part;
                return plan;
            }
            if (big)
                plan.n_big++;
            else
                plan.copied_bytes += part;
            plan.size_bytes += part;
        }
    }
    return plan;
}

/* ---- The send under way */

static bool continues_last(const struct rpc_tx *tx, const void *data) {
    if (!tx->n_iov) return false;
    const nng_iov *last = &tx->iov[tx->n_iov - 1];
    return (const uint8_t *)last->iov_buf + last->iov_len == data;
}

static bool add_iov(struct rpc_tx *tx, const uint8_t *data, size_t n) {
    if (continues_last(tx, data)) {
        tx->iov[tx->n_iov - 1].iov_len += n;
        return true;
    }
    if (tx->n_iov == TX_IOV_MAX) return false;
    /* nng only reads through it */
    tx->iov[tx->n_iov].iov_buf = (void *)data;
    tx->iov[tx->n_iov++].iov_len = n;
    return true;
}

size_t tx_room(const struct rpc_tx *tx) {
    bool free_iov = tx->n_iov < TX_IOV_MAX || continues_last(tx, tx->bytes + tx->size_bytes);
    return free_iov ? TX_BYTES - tx->size_bytes : 0;
}

bool tx_copy(struct rpc_tx *tx, const void *data, size_t n) {
    if (n > TX_BYTES - tx->size_bytes || !add_iov(tx, tx->bytes + tx->size_bytes, n)) return false;
    memcpy(tx->bytes + tx->size_bytes, data, n);
    tx->size_bytes += n;
    return true;
}

bool tx_fits(const struct rpc_tx *tx, const struct rpc_frame_plan *plan) {
    size_t frame_header_bytes = 9;
    return tx->n_iov + 1 + 2 * plan->n_big <= TX_IOV_MAX &&
           TX_BYTES - tx->size_bytes >= frame_header_bytes + plan->copied_bytes;
}

void tx_take(struct rpc_tx *tx, struct rpc_out **head, size_t size_bytes) {
    while (size_bytes) {
        struct rpc_out *out = *head;
        bool big;
        size_t part = segment_part(out, out->at, out->at_byte, size_bytes, &big);
        struct rpc_segment *s = &out->segments[out->at];
        if (big) {
            CHECK(add_iov(tx, s->data + out->at_byte, part));
            tx->owners[tx->n_owners++] = blob_ref(s->owner);
        } else {
            CHECK(tx_copy(tx, s->data + out->at_byte, part));
        }
        size_bytes -= part;
        out->left_bytes -= part;
        out->at_byte += part;
        if (out->at_byte == s->size_bytes) {
            out->at++;
            out->at_byte = 0;
        }
        if (!out->left_bytes) {
            *head = out->next;
            out_free(out);
        }
    }
}

void tx_clear(struct rpc_tx *tx) {
    for (uint32_t i = 0; i < tx->n_owners; i++) blob_unref(tx->owners[i]);
    tx->n_owners = tx->n_iov = 0;
    tx->size_bytes = 0;
}

bool tx_advance(struct rpc_tx *tx, size_t n) {
    uint32_t i = 0;
    while (i < tx->n_iov && n >= tx->iov[i].iov_len) n -= tx->iov[i++].iov_len;
    if (i == tx->n_iov) return true;
    memmove(tx->iov, tx->iov + i, (tx->n_iov - i) * sizeof tx->iov[0]);
    tx->n_iov -= i;
    tx->iov[0].iov_buf = (uint8_t *)tx->iov[0].iov_buf + n;
    tx->iov[0].iov_len -= n;
    return false;
}

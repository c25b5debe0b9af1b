/* pb.c: protobuf by hand, where bytes are hostile or the path is hot. */
#include <errno.h>
#include <stdlib.h>

#include "rpc/rpc.h"

/* ---- Reading */

static bool read_varint(struct pb_reader *r, uint64_t *value) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (r->data == r->end) return false;
        uint8_t byte = *r->data++;
        if (shift == 63 && byte > 1) return false; /* more than 64 bits */
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *value = v;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct pb_reader *r, size_t n, uint64_t *value) {
    if ((size_t)(r->end - r->data) < n) return false;
    *value = n == 8 ? get_u64(r->data) : get_u32(r->data);
    r->data += n;
    return true;
}

static bool read_bytes(struct pb_reader *r, struct slice *bytes) {
    uint64_t size;
    if (!read_varint(r, &size) || size > (uint64_t)(r->end - r->data)) return false;
    bytes->data = r->data;
    bytes->size_bytes = (size_t)size;
    r->data += size;
    return true;
}

bool pb_next(struct pb_reader *r, struct pb_field *field) {
    if (r->failed || r->data == r->end) return false;
    struct pb_field f = {0};
    uint64_t key;
    bool ok = read_varint(r, &key) && key >> 3 != 0 && key >> 3 < 1u << 29;
    if (ok) {
        f.number = (uint32_t)(key >> 3);
        f.wire_type = (uint32_t)(key & 7);
        switch (f.wire_type) {
        case 0:
            ok = read_varint(r, &f.value);
            break;
        case 1:
            ok = read_fixed(r, 8, &f.value);
            break;
        case 2:
            ok = read_bytes(r, &f.bytes);
            break;
        case 5:
            ok = read_fixed(r, 4, &f.value);
            break;
        default:
            ok = false; /* groups, which proto3 does not have */
        }
    }
    if (!ok) {
        r->failed = true;
        return false;
    }
    *field = f;
    return true;
}

/* ---- Writing */

static void put_varint(struct buffer *b, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7f) | (v > 0x7f ? 0x80 : 0));
        v >>= 7;
    } while (v);
    buffer_append(b, bytes, n);
}

void pb_put_varint(struct buffer *b, uint32_t number, uint64_t value) {
    if (!value) return;
    put_varint(b, (uint64_t)number << 3);
    put_varint(b, value);
}

void pb_put_fixed64(struct buffer *b, uint32_t number, uint64_t value) {
    if (!value) return;
    put_varint(b, (uint64_t)number << 3 | 1);
    buffer_u64(b, value);
}

void pb_put_bytes_header(struct buffer *b, uint32_t number, size_t size_bytes) {
    put_varint(b, (uint64_t)number << 3 | 2);
    put_varint(b, size_bytes);
}

void pb_put_bytes(struct buffer *b, uint32_t number, const void *data, size_t size_bytes) {
    pb_put_bytes_header(b, number, size_bytes);
    if (size_bytes) buffer_append(b, data, size_bytes);
}

/* ---- Unpacking with a budget. What protobuf-c frees meanwhile still counts: the bound is on the
 * work as well as on the memory. */

struct budget {
    size_t left_bytes;
    bool memory_is_short;
};

static void *budget_alloc(void *data, size_t size_bytes) {
    struct budget *budget = data;
    if (size_bytes > budget->left_bytes) return NULL;
    void *p = malloc(size_bytes ? size_bytes : 1);
    if (p)
        budget->left_bytes -= size_bytes;
    else
        budget->memory_is_short = true;
    return p;
}

static void budget_free(void *data, void *p) {
    (void)data;
    free(p);
}

ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                             size_t size_bytes, size_t budget_bytes) {
    struct budget budget = {budget_bytes, false};
    ProtobufCAllocator allocator = {budget_alloc, budget_free, &budget};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(descriptor, &allocator, size_bytes, bytes);
    if (!message) errno = budget.memory_is_short ? ENOMEM : EBADMSG;
    return message;
}

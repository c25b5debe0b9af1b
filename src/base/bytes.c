#include "base/bytes.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

enum { FIRST_CAPACITY = 256 };

/* ---- Blobs */
struct blob *blob_new(size_t capacity) {
    if (capacity > SIZE_MAX - sizeof(struct blob)) return NULL;
    struct blob *blob = malloc(sizeof *blob + capacity);
    if (!blob) return NULL;
    atomic_init(&blob->refs, 1);
    blob->reserved = 0;
    blob->size_bytes = capacity;
    blob->capacity = capacity;
    return blob;
}

struct blob *blob_copy(const void *data, size_t size_bytes) {
    struct blob *blob = blob_new(size_bytes);
    if (blob && size_bytes) memcpy(blob->data, data, size_bytes);
    return blob;
}

struct blob *blob_ref(struct blob *blob) {
    if (blob) {
        uint32_t before = atomic_fetch_add_explicit(&blob->refs, 1, memory_order_relaxed);
        CHECK(before > 0 && before < UINT32_MAX);
    }
    return blob;
}

void blob_unref(struct blob *blob) {
    if (!blob) return;
    /* Release: what other owners read of the blob happens before the last one frees it. */
    uint32_t before = atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel);
    CHECK(before > 0);
    if (before == 1) free(blob);
}

bool blob_is_ours(const struct blob *blob) {
    return blob && atomic_load_explicit(&blob->refs, memory_order_acquire) == 1;
}

/* ---- Buffer */
void buffer_free(struct buffer *b) {
    free(b->data);
    *b = (struct buffer){0};
}

static bool reserve(struct buffer *b, size_t n) {
    if (b->failed) return false;
    if (n <= b->capacity - b->size_bytes) return true;
    if (n > SIZE_MAX / 2 - b->size_bytes) {
        b->failed = true;
        return false;
    }
    size_t capacity = b->capacity ? b->capacity : FIRST_CAPACITY;
    while (capacity < b->size_bytes + n) capacity *= 2;
    uint8_t *data = realloc(b->data, capacity);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = capacity;
    return true;
}

uint8_t *buffer_extend(struct buffer *b, size_t n) {
    /* n = 0 of an empty buffer still needs an address: NULL means failure. */
    if (!reserve(b, n ? n : 1)) return NULL;
    uint8_t *at = b->data + b->size_bytes;
    b->size_bytes += n;
    return at;
}

void buffer_append(struct buffer *b, const void *data, size_t n) {
    if (!n) return;
    uint8_t *at = buffer_extend(b, n);
    if (at) memcpy(at, data, n);
}

void buffer_u8(struct buffer *b, uint8_t v) {
    uint8_t *at = buffer_extend(b, 1);
    if (at) *at = v;
}

void buffer_u32(struct buffer *b, uint32_t v) {
    uint8_t *at = buffer_extend(b, 4);
    if (at) put_u32(at, v);
}

void buffer_u64(struct buffer *b, uint64_t v) {
    uint8_t *at = buffer_extend(b, 8);
    if (at) put_u64(at, v);
}

void buffer_printf(struct buffer *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    /* Room for the NUL, which is written and not counted. */
    if (n < 0) {
        b->failed = true;
    } else if (reserve(b, (size_t)n + 1)) {
        vsnprintf((char *)b->data + b->size_bytes, (size_t)n + 1, format, again);
        b->size_bytes += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

/* ---- Cursor */
const uint8_t *cursor_bytes(struct cursor *c, size_t n) {
    static const uint8_t nothing[1];
    if (c->failed || n > c->size_bytes - c->offset) {
        c->failed = true;
        return NULL;
    }
    const uint8_t *at = c->data ? c->data + c->offset : nothing;
    c->offset += n;
    return at;
}

uint8_t cursor_u8(struct cursor *c) {
    const uint8_t *at = cursor_bytes(c, 1);
    return at ? *at : 0;
}

uint16_t cursor_u16(struct cursor *c) {
    const uint8_t *at = cursor_bytes(c, 2);
    return at ? get_u16(at) : 0;
}

uint32_t cursor_u32(struct cursor *c) {
    const uint8_t *at = cursor_bytes(c, 4);
    return at ? get_u32(at) : 0;
}

uint64_t cursor_u64(struct cursor *c) {
    const uint8_t *at = cursor_bytes(c, 8);
    return at ? get_u64(at) : 0;
}

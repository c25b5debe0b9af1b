/* bytes.h: little-endian loads and stores, shared immutable byte strings (blobs), and a growing
 * buffer. Hides: reference counting and growth. */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void put_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static inline void put_u32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline void put_u64(uint8_t *p, uint64_t v) {
    for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> (8 * i));
}
static inline uint16_t get_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}
static inline uint32_t get_u32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t get_u64(const uint8_t *p) {
    return (uint64_t)get_u32(p) | (uint64_t)get_u32(p + 4) << 32;
}

/* A view: bytes that belong to somebody else. */
struct slice {
    const uint8_t *data;
    size_t size_bytes;
};

/* Bytes with an owner count. The content is written by its maker before it is shared and never
 * afterwards. blob_ref and blob_unref are thread-safe; the last unref frees. */
struct blob {
    _Atomic uint32_t refs;
    uint32_t reserved;
    size_t size_bytes; /* bytes in use, at most capacity; the maker may lower it */
    size_t capacity;
    uint8_t data[];
};

/* A blob of `capacity` bytes, size_bytes = capacity, content undefined, one reference.
 * NULL when memory is short. */
struct blob *blob_new(size_t capacity);
struct blob *blob_copy(const void *data, size_t size_bytes);
struct blob *blob_ref(struct blob *blob); /* returns its argument; NULL passes through */
void blob_unref(struct blob *blob);       /* NULL is ignored */
/* Whether the caller's reference is the only one, so that the content may be made anew. */
bool blob_is_ours(const struct blob *blob);

/* A growing buffer. Zero-initialised is empty. A failed growth sets `failed` and drops what is
 * appended from then on: check once, at the end. Not thread-safe. */
struct buffer {
    uint8_t *data;
    size_t size_bytes, capacity;
    bool failed;
};
void buffer_free(struct buffer *b);
/* Room for n bytes at the end, counted as used; NULL (and failed) when memory is short. */
uint8_t *buffer_extend(struct buffer *b, size_t n);
void buffer_append(struct buffer *b, const void *data, size_t n);
void buffer_u8(struct buffer *b, uint8_t v);
void buffer_u32(struct buffer *b, uint32_t v);
void buffer_u64(struct buffer *b, uint64_t v);
void buffer_printf(struct buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Leaves `b` empty (capacity kept). */
static inline void buffer_clear(struct buffer *b) {
    b->size_bytes = 0;
}

/* Reads a byte string from front to back; every getter returns 0 and sets `failed` past the end. */
struct cursor {
    const uint8_t *data;
    size_t size_bytes, offset;
    bool failed;
};
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
/* A view of the next n bytes, or NULL and failed. */
const uint8_t *cursor_bytes(struct cursor *c, size_t n);

#endif

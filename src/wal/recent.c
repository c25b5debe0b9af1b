#include "wal/recent.h"

#include <string.h>

#include "base/check.h"
#include "wal/disk.h"

bool recent_init(struct recent *r) {
    *r = (struct recent){0};
    return pthread_mutex_init(&r->mutex, NULL) == 0;
}

void recent_free(struct recent *r) {
    disk_buffer_free(r->bytes);
    pthread_mutex_destroy(&r->mutex);
}

/* How much of `size_bytes` from an offset lies together, before the ring's end. */
static size_t together(uint64_t offset, size_t size_bytes) {
    size_t left = RECENT_BYTES - (size_t)(offset % RECENT_BYTES);
    return size_bytes < left ? size_bytes : left;
}

static uint8_t *place(const struct recent *r, uint64_t offset) {
    return r->bytes + offset % RECENT_BYTES;
}

bool recent_reserve(struct recent *r) {
    if (!r->bytes) r->bytes = disk_buffer_new(RECENT_BYTES);
    return r->bytes != NULL;
}

void recent_begin(struct recent *r, uint64_t segment, uint64_t offset, size_t size_bytes) {
    CHECK(r->bytes && size_bytes <= RECENT_WRITE_BYTES);
    pthread_mutex_lock(&r->mutex);
    if (r->segment != segment || r->to != offset) {
        r->segment = segment;
        r->from = r->to = offset;
    }
    uint64_t end = offset + size_bytes;
    if (end > RECENT_BYTES && r->from < end - RECENT_BYTES) r->from = end - RECENT_BYTES;
    pthread_mutex_unlock(&r->mutex);
    r->put = offset;
}

void recent_put(struct recent *r, const void *data, size_t size_bytes) {
    const uint8_t *from = data;
    while (size_bytes > 0) {
        size_t part = together(r->put, size_bytes);
        if (from)
            memcpy(place(r, r->put), from, part);
        else
            memset(place(r, r->put), 0, part);
        if (from) from += part;
        r->put += part;
        size_bytes -= part;
    }
}

size_t recent_pieces(const struct recent *r, uint64_t offset, struct iovec pieces[RECENT_PIECES]) {
    size_t n = 0;
    for (; offset < r->put; offset += pieces[n++].iov_len)
        pieces[n] = (struct iovec){place(r, offset), together(offset, (size_t)(r->put - offset))};
    return n;
}

void recent_end(struct recent *r) {
    pthread_mutex_lock(&r->mutex);
    r->to = r->put;
    pthread_mutex_unlock(&r->mutex);
}

static bool is_here(struct recent *r, uint64_t segment, uint64_t offset, size_t size_bytes) {
    pthread_mutex_lock(&r->mutex);
    bool here = r->segment == segment && offset >= r->from && offset + size_bytes <= r->to;
    pthread_mutex_unlock(&r->mutex);
    return here;
}

/* Copies without the mutex, which the writer takes twice a group: a reader that loses the processor
 * in the middle must not keep it. recent_begin raises `from` before a byte is overwritten, so what
 * is here before and after the copy did not change during it. */
bool recent_read(struct recent *r, uint64_t segment, uint64_t offset, void *out,
                 size_t size_bytes) {
    if (!is_here(r, segment, offset, size_bytes)) return false;
    size_t first = together(offset, size_bytes);
    memcpy(out, place(r, offset), first);
    memcpy((uint8_t *)out + first, r->bytes, size_bytes - first);
    return is_here(r, segment, offset, size_bytes);
}

/* recent.h: the newest bytes of the active segment, in memory. Groups are written from here, past
 * the page cache (disk.h), and readers close behind the tail find here what they would have found
 * there. What they find has been written. (Behind the tail it may be a group that failed: nobody
 * reads there.)
 *
 * Hides: where in memory a byte of the file lies (a ring: at its offset, modulo the size).
 *
 * The writing thread: recent_begin, recent_put, recent_pieces, write, recent_end. Any thread:
 * recent_read. */
#ifndef WAL_RECENT_H
#define WAL_RECENT_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    RECENT_BYTES = 4 << 20,
    RECENT_WRITE_BYTES = 256 << 10, /* at most so much in one write: whoever else wants the disk
                                       waits for all of it (with 2 MiB for milliseconds) */
    RECENT_PIECES = 2
};

struct recent {
    pthread_mutex_t mutex; /* of `segment`, `from` and `to` */
    uint8_t *bytes;        /* NULL: a log that writes nothing from here */
    uint64_t segment;      /* the number of the file */
    uint64_t from, to;     /* its bytes from .. to are here */
    uint64_t put;          /* the writer's: where the next byte of the write under way goes */
};

/* false: no mutex to be had, nothing to free. */
bool recent_init(struct recent *r);
/* The memory, before the first recent_begin. false: it is short. */
bool recent_reserve(struct recent *r);
void recent_free(struct recent *r);

/* Room for bytes offset .. offset + size_bytes of the file; both are multiples of a page,
 * size_bytes at most RECENT_WRITE_BYTES. What lies RECENT_BYTES below its end can be read no
 * longer. Without recent_end what was put is forgotten by the next recent_begin. */
void recent_begin(struct recent *r, uint64_t segment, uint64_t offset, size_t size_bytes);
/* The next bytes of it; data NULL: zeros. */
void recent_put(struct recent *r, const void *data, size_t size_bytes);
/* What was put, as pieces for one write; how many. */
size_t recent_pieces(const struct recent *r, uint64_t offset, struct iovec pieces[RECENT_PIECES]);
/* It is written: readers may have it. */
void recent_end(struct recent *r);

/* Copies bytes of that file, if all of them are here. false: *out holds anything. */
bool recent_read(struct recent *r, uint64_t segment, uint64_t offset, void *out, size_t size_bytes);

#endif

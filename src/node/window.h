/* window.h: what was handed over and is not acknowledged yet: runs of the log with their bytes, in
 * the log's order. For blocks on their way to a follower, and to the store. All zeros: empty. Holds
 * no references. */
#ifndef NODE_WINDOW_H
#define NODE_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"

enum { WINDOW_MAX_RUNS = 256 };

struct window {
    uint64_t bytes;
    unsigned n, head;
    struct {
        uint64_t last_seq, bytes;
    } runs[WINDOW_MAX_RUNS]; /* a ring */
};

static inline void window_clear(struct window *w) {
    w->bytes = 0;
    w->n = 0;
}

/* Whether one more run may be handed over; it may go beyond max_bytes. */
static inline bool window_open(const struct window *w, uint64_t max_bytes) {
    return w->bytes < max_bytes && w->n < WINDOW_MAX_RUNS;
}

/* One run behind those that are in. The window is open. */
static inline void window_add(struct window *w, uint64_t last_seq, uint64_t bytes) {
    CHECK(w->n < WINDOW_MAX_RUNS);
    unsigned at = (w->head + w->n++) % WINDOW_MAX_RUNS;
    w->runs[at].last_seq = last_seq;
    w->runs[at].bytes = bytes;
    w->bytes += bytes;
}

/* All up to seq is acknowledged. */
static inline void window_acked(struct window *w, uint64_t seq) {
    while (w->n > 0 && w->runs[w->head].last_seq <= seq) {
        w->bytes -= w->runs[w->head].bytes;
        w->head = (w->head + 1) % WINDOW_MAX_RUNS;
        w->n--;
    }
}

#endif

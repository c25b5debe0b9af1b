/* stats.h: what replogd counts, for /metrics. Any thread adds, any thread reads.
 * Hides: nothing but the bounds of the histogram. */
#ifndef SERVER_STATS_H
#define SERVER_STATS_H

#include <stdatomic.h>
#include <stdint.h>

enum { STATS_SYNC_BUCKETS = 14 };
/* Upper bounds of the buckets in microseconds; the last bucket has none. */
static const uint32_t stats_sync_bound_us[STATS_SYNC_BUCKETS - 1] = {
    50, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 204800, 819200};

struct stats {
    _Atomic uint64_t syncs, sync_ns, sync_bucket[STATS_SYNC_BUCKETS];
    _Atomic uint64_t groups, group_writes, group_bytes; /* what one write to the log carried */
    _Atomic uint64_t requests, requests_refused; /* refused: a full queue or too many calls */
    _Atomic uint64_t reads_open, read_bytes, feeds, feed_bytes;
    _Atomic uint64_t store_read_bytes; /* read back from the log for the store */
    _Atomic uint64_t peer_messages_in, peer_messages_out, peer_reconnects;
    _Atomic uint64_t scrubbed_bytes, scrub_errors;
};

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}
static inline uint64_t stats_get(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}
static inline void stats_sync(struct stats *s, uint64_t duration_ns) {
    unsigned i = 0;
    while (i < STATS_SYNC_BUCKETS - 1 && duration_ns > (uint64_t)stats_sync_bound_us[i] * 1000) i++;
    stats_add(&s->sync_bucket[i], 1);
    stats_add(&s->syncs, 1);
    stats_add(&s->sync_ns, duration_ns);
}

#endif

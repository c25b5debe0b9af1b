/* histogram.h: latencies in logarithmic buckets, exact to 1/64 (1.6 %), in fixed memory. Hides: the
 * buckets. Not thread-safe. */
#ifndef CLIENT_HISTOGRAM_H
#define CLIENT_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_SUB_BITS = 6, HISTOGRAM_BUCKETS = (64 - HISTOGRAM_SUB_BITS + 1) << 6 };

struct histogram {
    uint64_t count, max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Values below 64 have a bucket each; above, each power of two has 64. */
static inline unsigned histogram_bucket(uint64_t value) {
    if (value < 1u << HISTOGRAM_SUB_BITS) return (unsigned)value;
    unsigned top = 63u - (unsigned)__builtin_clzll(value);
    unsigned shift = top - HISTOGRAM_SUB_BITS;
    return ((shift + 1) << HISTOGRAM_SUB_BITS) +
           (unsigned)((value >> shift) & ((1u << HISTOGRAM_SUB_BITS) - 1));
}

/* The largest value that falls into the bucket; those that do are all above that of the one before.
 */
static inline uint64_t histogram_bucket_max(unsigned bucket) {
    if (bucket < 1u << HISTOGRAM_SUB_BITS) return bucket;
    unsigned shift = (bucket >> HISTOGRAM_SUB_BITS) - 1;
    uint64_t sub = (bucket & ((1u << HISTOGRAM_SUB_BITS) - 1)) + (1u << HISTOGRAM_SUB_BITS);
    return (sub << shift) + ((1ull << shift) - 1);
}

static inline void histogram_add_many(struct histogram *h, uint64_t value, uint64_t n) {
    h->buckets[histogram_bucket(value)] += n;
    h->count += n;
    if (n && value > h->max) h->max = value;
}

static inline void histogram_add(struct histogram *h, uint64_t value) {
    histogram_add_many(h, value, 1);
}

/* The value that `per_mille` of all lie at or below; 0 when there are none. */
static inline uint64_t histogram_at(const struct histogram *h, unsigned per_mille) {
    uint64_t want = (h->count * per_mille + 999) / 1000, seen = 0;
    for (unsigned i = 0; h->count && i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= want && seen) {
            uint64_t most = histogram_bucket_max(i);
            return most < h->max ? most : h->max;
        }
    }
    return 0;
}

#endif

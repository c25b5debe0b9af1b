/* clock.h: time and randomness of the operating system. Only what owns threads (server/,
 * client/, rpc/, replog/wal.h) calls these; raft/, node/ and wal/log.h are told the time and given
 * a seed. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

uint64_t clock_mono_ns(void);
uint64_t clock_mono_ms(void);
uint64_t clock_wall_us(void); /* since 1970, UTC */
uint64_t random_u64(void);    /* from getrandom(2); aborts if the system has none */

/* A small deterministic generator (splitmix64) for jitter and simulations. */
static inline uint64_t rng_next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}
/* Uniform in [low, high]. */
static inline uint64_t rng_between(uint64_t *state, uint64_t low, uint64_t high) {
    return low + rng_next(state) % (high - low + 1);
}

#endif

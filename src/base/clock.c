#include "base/clock.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

#include "base/check.h"

static uint64_t read_ns(clockid_t clock) {
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t clock_mono_ns(void) {
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t clock_mono_ms(void) {
    return clock_mono_ns() / 1000000u;
}

uint64_t clock_wall_us(void) {
    return read_ns(CLOCK_REALTIME) / 1000u;
}

uint64_t random_u64(void) {
    uint64_t value;
    ssize_t got;
    /* 8 bytes come whole, or the call was interrupted before the system's pool was seeded. */
    do got = getrandom(&value, sizeof value, 0);
    while (got < 0 && errno == EINTR);
    CHECK(got == (ssize_t)sizeof value);
    return value;
}

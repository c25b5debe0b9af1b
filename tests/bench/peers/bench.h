/* bench.h: what the load generators of the peers share: options, clock, what counts, and the line
 * of JSON at the end (the keys are those of `replog bench --json`).
 *
 * A load is closed: `inflight` requests of `batch` records are on the way, and each answer starts
 * the next. A latency runs from just before the call that sends to the answer. What is answered
 * after the warm-up and before the end counts; every answer is checked, and the first bad one ends
 * the program. At the end the generator asks the peer how many records it holds: "held" must be
 * at least "answered", which counts all, the warm-up too. "mean_inflight" is how many requests were
 * on the way on the average while it counted: much below the window, the generator was the limit.
 */
#ifndef BENCH_PEERS_BENCH_H
#define BENCH_PEERS_BENCH_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client/histogram.h"

enum { BENCH_PATIENCE_S = 30 }; /* until a peer is ready, and until the last answers are in */

struct bench {
    const char *target; /* where the peer is */
    unsigned inflight, batch;
    size_t size_bytes; /* of a record's value */
    double seconds, warmup_s;
    char *value;                /* size_bytes, not to be changed */
    uint64_t from_ns, end_ns;   /* from_ns to end_ns counts */
    uint64_t answered, counted; /* records */
    double busy_ns;             /* of all requests, the part in from_ns to end_ns */
    struct histogram latency;
};

static inline uint64_t bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline void bench_sleep_ms(long ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* Ends the program at once, also from a library's thread. */
__attribute__((format(printf, 1, 2), noreturn)) static inline void bench_die(const char *why, ...) {
    va_list args;
    va_start(args, why);
    vfprintf(stderr, why, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(NULL);
    _exit(1);
}

/* A file without a name in DIR that was written and synced before, so that writing over it changes
 * no metadata. */
static inline int bench_file(const char *dir, size_t size_bytes) {
    char path[4096], *bytes = malloc(size_bytes);
    snprintf(path, sizeof path, "%s/bench-XXXXXX", dir);
    int fd = mkstemp(path);
    if (fd < 0 || !bytes || unlink(path)) bench_die("no file in %s", dir);
    memset(bytes, 'y', size_bytes);
    if (pwrite(fd, bytes, size_bytes, 0) != (ssize_t)size_bytes || fsync(fd))
        bench_die("cannot write in %s", dir);
    free(bytes);
    return fd;
}

/* PROGRAM TARGET INFLIGHT BATCH SIZE SECONDS WARMUP. SIGALRM ends a program that hangs. */
static inline void bench_options(struct bench *b, int argc, char **argv) {
    if (argc != 7) bench_die("usage: %s TARGET INFLIGHT BATCH SIZE SECONDS WARMUP", argv[0]);
    b->target = argv[1];
    b->inflight = (unsigned)strtoul(argv[2], NULL, 10);
    b->batch = (unsigned)strtoul(argv[3], NULL, 10);
    b->size_bytes = strtoul(argv[4], NULL, 10);
    b->seconds = strtod(argv[5], NULL);
    b->warmup_s = strtod(argv[6], NULL);
    if (!b->inflight || !b->batch || !b->size_bytes || b->seconds <= 0)
        bench_die("%s: a number is missing", argv[0]);
    b->value = malloc(b->size_bytes);
    if (!b->value) bench_die("out of memory");
    uint32_t state = 1; /* letters as `replog bench` sends them, so that nobody gains by packing */
    for (size_t i = 0; i < b->size_bytes; i++) {
        state = state * 1664525u + 1013904223u;
        b->value[i] = (char)('a' + (state >> 16) % 26);
    }
    alarm((unsigned)(b->warmup_s + b->seconds) + 3 * BENCH_PATIENCE_S);
}

/* The clock starts: called when the peer is ready, just before the first request. */
static inline void bench_begin(struct bench *b) {
    b->from_ns = bench_now_ns() + (uint64_t)(b->warmup_s * 1e9);
    b->end_ns = b->from_ns + (uint64_t)(b->seconds * 1e9);
}

/* One request that was sent at `sent_ns` is answered well. False: send no more. */
static inline bool bench_answer(struct bench *b, uint64_t sent_ns) {
    uint64_t now_ns = bench_now_ns();
    uint64_t first_ns = sent_ns > b->from_ns ? sent_ns : b->from_ns;
    uint64_t last_ns = now_ns < b->end_ns ? now_ns : b->end_ns;
    b->answered += b->batch;
    if (last_ns > first_ns) b->busy_ns += (double)(last_ns - first_ns);
    if (now_ns >= b->from_ns && now_ns < b->end_ns) {
        b->counted += b->batch;
        histogram_add(&b->latency, now_ns - sent_ns);
    }
    return now_ns < b->end_ns;
}

static inline double bench_us(const struct bench *b, unsigned per_mille) {
    return (double)histogram_at(&b->latency, per_mille) / 1000.0;
}

static inline void bench_report(const struct bench *b, uint64_t held) {
    double rate = (double)b->counted / b->seconds;
    printf("{\"records_per_s\":%.1f,\"mib_per_s\":%.3f,\"p50_us\":%.1f,\"p90_us\":%.1f,"
           "\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f,\"errors\":0,\"mean_inflight\":%.2f,"
           "\"answered\":%" PRIu64 ",\"held\":%" PRIu64 "}\n",
           rate, rate * (double)b->size_bytes / (1 << 20), bench_us(b, 500), bench_us(b, 900),
           bench_us(b, 990), bench_us(b, 999), (double)b->latency.max / 1000.0,
           b->busy_ns / (b->seconds * 1e9), b->answered, held);
    fflush(stdout);
}

#endif

/* malloc_fail.h: lets every allocation of replog's own code fail once, and looks at what comes of
 * it. The linker sends malloc, calloc, realloc, aligned_alloc, strdup, strndup and free of all
 * objects of the program here (--wrap); what libc, nng, nghttp2 and protobuf-c allocate for
 * themselves does not come by. Hides: the table of what is allocated, the search for N. */
#ifndef TORTURE_MALLOC_FAIL_H
#define TORTURE_MALLOC_FAIL_H

#include <stdbool.h>
#include <stdint.h>

/* ---- Allocations (fail_alloc.c) */
/* From now on call number `at` and the repeat - 1 behind it fail; 0: none, they are counted. */
void fail_arm(uint64_t at, uint64_t repeat);
/* Nothing fails any more; how many were failed since fail_arm. */
uint64_t fail_disarm(void);
/* Counts from the beginning, as armed last. */
void fail_arm_again(void);
uint64_t fail_seen(void); /* calls since fail_arm */
/* The caller's own do not count and do not fail until it says false. For programs of one thread. */
void fail_hold(bool hold);
/* From now on a fork's calls count here, too. */
void fail_share(void);
/* Where the last failed one was asked for, as "function file:line". */
const char *fail_where(void);
/* How many allocations are outstanding. */
uint64_t fail_live(void);
/* What was allocated since the mark, is outstanding, and is not let go within the time. */
uint64_t fail_mark(void);
bool fail_leaks(uint64_t mark, uint64_t live_before, uint64_t within_ms, char *text, int room);

/* ---- Scenarios: run() plays one life, carries it to its end whatever fails on the way, and
 * reports what is wrong with EXPECT. */
struct scenario {
    const char *name;
    void (*before)(void); /* once; nothing fails yet; may be NULL */
    void (*run)(void);
    uint64_t leak_wait_ms; /* other threads may still be letting go */
    uint64_t patience_ms;  /* a run in which one allocation fails takes no longer; 0: any time */
};
extern const struct scenario wal_scenario, member_scenario, apply_scenario, client_scenario,
    rpc_scenario;
/* Those of the program, NULL behind them: malloc_fail and malloc_serve have each their own. */
extern const struct scenario *const scenarios[];

/* Notes a failure of the run under way; the run goes on. */
void expect_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define EXPECT(condition, ...)                                                                     \
    ((condition) ? (void)0 : expect_failed(__FILE__, __LINE__, __VA_ARGS__))

bool expect_held(void); /* nothing was noted in this run so far */
/* The run's process ended for want of memory, as it may. */
void note_stop(void);

/* A fresh directory of this program, removed at its end. */
const char *fresh_dir(void);

#endif

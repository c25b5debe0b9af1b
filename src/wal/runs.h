/* runs.h: the table of term runs: which terms the log's records have, as {term, first seq} pairs in
 * ascending order. Hides: coalescing and growth. Not thread-safe: the log's mutex guards it. */
#ifndef WAL_RUNS_H
#define WAL_RUNS_H

#include "wal/log.h"

struct term_runs {
    struct wal_term_run *items;
    size_t n, capacity;
};

void runs_free(struct term_runs *runs);
/* Room for `extra` more runs, so that as many runs_add cannot fail. false: memory is short. */
bool runs_reserve(struct term_runs *runs, size_t extra);
/* From first_seq on, records are of `term`; nothing is added when the last run has that term. The
 * room must have been reserved. */
void runs_add(struct term_runs *runs, uint64_t term, uint64_t first_seq);
/* Forgets what begins above last_seq. */
void runs_cut(struct term_runs *runs, uint64_t last_seq);
/* Forgets what ends below first_seq; all when nothing is left up to last_seq. */
void runs_trim(struct term_runs *runs, uint64_t first_seq, uint64_t last_seq);
/* The index of the run that holds seq, or SIZE_MAX. */
size_t runs_find(const struct term_runs *runs, uint64_t seq);
/* The term at seq, 0 if unknown. */
uint64_t runs_term_at(const struct term_runs *runs, uint64_t seq);

#endif

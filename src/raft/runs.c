/* runs.c: the log as a table of term runs. See raft_impl.h. */
#include "raft/raft_impl.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

bool raft_runs_init(struct runs *runs, const struct raft_start *start) {
    *runs = (struct runs){
        .base_seq = start->base_seq, .base_term = start->base_term, .last_seq = start->last_seq};
    runs->capacity = start->n_runs > 16 ? start->n_runs : 16;
    runs->items = calloc(runs->capacity, sizeof *runs->items);
    if (!runs->items) return false;
    for (size_t i = 0; i < start->n_runs; i++) {
        uint64_t end = i + 1 < start->n_runs ? start->runs[i + 1].first_seq - 1 : start->last_seq;
        if (end <= start->base_seq) continue;
        struct raft_run run = start->runs[i];
        if (runs->n == 0 && run.first_seq <= start->base_seq) run.first_seq = start->base_seq + 1;
        uint64_t term_before = runs->n > 0 ? runs->items[runs->n - 1].term : 0;
        CHECK(run.term > term_before && run.term >= start->base_term && run.first_seq <= end);
        runs->items[runs->n++] = run;
    }
    CHECK(runs->n > 0 ? runs->items[0].first_seq == start->base_seq + 1
                      : start->last_seq == start->base_seq);
    return true;
}

void raft_runs_free(struct runs *runs) {
    free(runs->items);
    runs->items = NULL;
}

uint64_t raft_runs_last_term(const struct runs *runs) {
    return runs->n > 0 ? runs->items[runs->n - 1].term : runs->base_term;
}

void raft_runs_append(struct runs *runs, const struct raft_entry *entry) {
    CHECK(entry->first_seq == runs->last_seq + 1 && entry->last_seq >= entry->first_seq);
    CHECK(entry->term >= raft_runs_last_term(runs) && entry->term > 0);
    if (runs->n == 0 || runs->items[runs->n - 1].term != entry->term) {
        if (runs->n == runs->capacity) {
            size_t capacity = runs->n + runs->n / 2 + 16;
            struct raft_run *items = realloc(runs->items, capacity * sizeof *items);
            CHECK_MEMORY(items);
            runs->items = items;
            runs->capacity = capacity;
        }
        runs->items[runs->n++] =
            (struct raft_run){.term = entry->term, .first_seq = entry->first_seq};
    }
    runs->last_seq = entry->last_seq;
}

void raft_runs_cut(struct runs *runs, uint64_t seq) {
    CHECK(seq >= runs->base_seq && seq <= runs->last_seq);
    while (runs->n > 0 && runs->items[runs->n - 1].first_seq > seq) runs->n--;
    runs->last_seq = seq;
}

/* Index of the last run that begins at or below seq; n if there is none. */
static size_t run_holding(const struct runs *runs, uint64_t seq) {
    size_t low = 0, high = runs->n; /* runs before low begin at or below seq, from high on above */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs->items[middle].first_seq <= seq) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? low - 1 : runs->n;
}

/* Index of the last run whose term is at most `term`; n if there is none. */
static size_t run_up_to_term(const struct runs *runs, uint64_t term) {
    size_t low = 0, high = runs->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs->items[middle].term <= term) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low > 0 ? low - 1 : runs->n;
}

static uint64_t run_end(const struct runs *runs, size_t i) {
    return i + 1 < runs->n ? runs->items[i + 1].first_seq - 1 : runs->last_seq;
}

void raft_runs_set_base(struct runs *runs, uint64_t base_seq, uint64_t base_term) {
    if (base_seq <= runs->base_seq) return;
    CHECK(base_seq <= runs->last_seq && raft_runs_term_at(runs, base_seq) == base_term);
    size_t n_gone = 0;
    while (n_gone < runs->n && run_end(runs, n_gone) <= base_seq) n_gone++;
    runs->n -= n_gone;
    memmove(runs->items, runs->items + n_gone, runs->n * sizeof *runs->items);
    if (runs->n > 0) runs->items[0].first_seq = base_seq + 1;
    runs->base_seq = base_seq;
    runs->base_term = base_term;
}

uint64_t raft_runs_term_at(const struct runs *runs, uint64_t seq) {
    if (seq == runs->base_seq) return runs->base_term;
    if (seq < runs->base_seq || seq > runs->last_seq) return 0;
    return runs->items[run_holding(runs, seq)].term;
}

struct position raft_runs_hint(const struct runs *runs, struct position asked) {
    size_t i = run_up_to_term(runs, asked.term);
    size_t at = run_holding(runs, asked.seq);
    if (at < runs->n && i < runs->n && at < i) i = at;
    if (i == runs->n || at == runs->n) {
        return (struct position){.seq = runs->base_seq, .term = runs->base_term};
    }
    uint64_t end = run_end(runs, i);
    return (struct position){.seq = end < asked.seq ? end : asked.seq, .term = runs->items[i].term};
}

/* A hint's term and that of a run here being equal, both hold the same blocks up to the shorter
 * end, which is the end of a block in both. Otherwise only ends of runs are known to be ends of
 * blocks; the end of a run of lower term lies below what was asked, for that had a term not below
 * the hint's, and the follower's next hint then is of a lower term. */
uint64_t raft_runs_ask_below(const struct runs *runs, struct position hint) {
    size_t i = run_up_to_term(runs, hint.term);
    if (i == runs->n) return runs->base_seq;
    uint64_t end = run_end(runs, i);
    if (runs->items[i].term != hint.term) return end;
    if (hint.seq < runs->items[i].first_seq) return runs->items[i].first_seq - 1;
    return hint.seq < end ? hint.seq : end;
}

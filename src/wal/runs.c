/* The table of term runs (runs.h). A log has few of them: one for each change of leader. */
#include "wal/runs.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

void runs_free(struct term_runs *runs) {
    free(runs->items);
    *runs = (struct term_runs){0};
}

bool runs_reserve(struct term_runs *runs, size_t extra) {
    if (runs->capacity - runs->n >= extra) return true;
    size_t capacity = runs->capacity * 2 + extra;
    struct wal_term_run *items = realloc(runs->items, capacity * sizeof *items);
    if (!items) return false;
    runs->items = items;
    runs->capacity = capacity;
    return true;
}

void runs_add(struct term_runs *runs, uint64_t term, uint64_t first_seq) {
    if (runs->n && runs->items[runs->n - 1].term == term) return;
    CHECK(runs->n < runs->capacity);
    runs->items[runs->n++] = (struct wal_term_run){term, first_seq};
}

void runs_cut(struct term_runs *runs, uint64_t last_seq) {
    while (runs->n && runs->items[runs->n - 1].first_seq > last_seq) runs->n--;
}

size_t runs_find(const struct term_runs *runs, uint64_t seq) {
    size_t low = 0, high = runs->n; /* the first run that begins above seq is in low .. high */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (runs->items[middle].first_seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? low - 1 : SIZE_MAX;
}

void runs_trim(struct term_runs *runs, uint64_t first_seq, uint64_t last_seq) {
    if (first_seq > last_seq) {
        runs->n = 0;
        return;
    }
    size_t keep_from = runs_find(runs, first_seq);
    if (keep_from == SIZE_MAX || keep_from == 0) return;
    runs->n -= keep_from;
    memmove(runs->items, runs->items + keep_from, runs->n * sizeof *runs->items);
}

uint64_t runs_term_at(const struct term_runs *runs, uint64_t seq) {
    size_t i = runs_find(runs, seq);
    return i == SIZE_MAX ? 0 : runs->items[i].term;
}

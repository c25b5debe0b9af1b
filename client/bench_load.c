#include "client/bench_load.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/cli.h"

enum { MAX_ERRORS_IN_A_ROW = 1000, LOOK_MS = 20, WAIT_MS = 100, DRAIN_MS = 60000 };

struct run;
struct slot { /* one append in flight */
    struct run *run;
    struct slot *next; /* free ones of an open load */
    replog_batch *batch;
    uint64_t due_ns, number;
};

struct run {
    const struct bench_load *load;
    struct bench_figures *figures;
    char *value;
    replog_batch *plain; /* shared by all slots without keys; never changed */
    struct slot *slots;
    uint64_t begin_ns, from_ns, end_ns; /* from_ns to end_ns counts */
    uint64_t n_sent;                    /* of the pacer, then of who joined it */
    atomic_bool ending;
    _Atomic uint64_t records, errors; /* so far; for the progress line too */
    pthread_mutex_t mu;               /* of what is below, and of first_error */
    pthread_cond_t room;
    struct slot *free;
    _Atomic uint64_t errors_in_a_row;
};

/* ---- Appends */

static bool fill(const struct run *r, replog_batch *batch, uint64_t number, replog_error *err) {
    const struct bench_load *load = r->load;
    replog_batch_clear(batch);
    for (uint64_t i = 0; i < load->batch; i++) {
        char key[40];
        size_t key_bytes = 0;
        if (load->keyed) {
            uint64_t state = number * load->batch + i;
            key_bytes = (size_t)snprintf(key, sizeof key, "bench-%016" PRIx64, rng_next(&state));
        }
        if (replog_batch_put(batch, key, key_bytes, r->value, load->size_bytes, err)) return false;
    }
    return true;
}

static void note_error(struct run *r, const replog_error *err) {
    atomic_fetch_add(&r->errors, 1);
    pthread_mutex_lock(&r->mu);
    if (!r->figures->first_error.status) r->figures->first_error = *err;
    pthread_mutex_unlock(&r->mu);
    if (atomic_fetch_add(&r->errors_in_a_row, 1) + 1 >= MAX_ERRORS_IN_A_ROW)
        atomic_store(&r->ending, true);
}

static void give_back(struct run *r, struct slot *slot) {
    pthread_mutex_lock(&r->mu);
    slot->next = r->free;
    r->free = slot;
    pthread_cond_signal(&r->room);
    pthread_mutex_unlock(&r->mu);
}

static void start(struct slot *slot, uint64_t due_ns);

/* Closed: what was answered while it counted; open: what was due then. */
static bool counts(const struct run *r, const struct slot *slot, uint64_t now_ns) {
    uint64_t at = r->load->rate ? slot->due_ns : now_ns;
    return at >= r->from_ns && at < r->end_ns;
}

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    struct slot *slot = user;
    struct run *r = slot->run;
    (void)result;
    uint64_t now_ns = clock_mono_ns();
    bool counted = counts(r, slot, now_ns);
    if (status) {
        note_error(r, error);
    } else {
        atomic_store_explicit(&r->errors_in_a_row, 0, memory_order_relaxed);
        if (counted) atomic_fetch_add_explicit(&r->records, r->load->batch, memory_order_relaxed);
    }
    /* of an open load also what failed: it was due, and its user waited so long at least */
    if (counted && (!status || r->load->rate))
        histogram_add(&r->figures->latency, now_ns - slot->due_ns);
    if (r->load->rate)
        give_back(r, slot);
    else if (!atomic_load(&r->ending))
        start(slot, now_ns);
}

static void start(struct slot *slot, uint64_t due_ns) {
    struct run *r = slot->run;
    replog_error err;
    slot->due_ns = due_ns;
    slot->number += r->load->inflight;
    bool ok = !r->load->keyed || fill(r, slot->batch, slot->number, &err);
    if (ok &&
        !replog_append_async(r->load->client, slot->batch, &r->load->append, on_answer, slot, &err))
        return;
    note_error(r, &err);
    if (r->load->rate) give_back(r, slot);
}

/* ---- Pacing: the thread of an open load */

static struct slot *take_slot(struct run *r) {
    pthread_mutex_lock(&r->mu);
    while (!r->free && !atomic_load(&r->ending) && clock_mono_ns() < r->end_ns) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += WAIT_MS * 1000000L;
        until.tv_sec += until.tv_nsec / 1000000000L;
        until.tv_nsec %= 1000000000L;
        pthread_cond_timedwait(&r->room, &r->mu, &until);
    }
    struct slot *slot = r->free;
    if (slot) r->free = slot->next;
    pthread_mutex_unlock(&r->mu);
    return slot;
}

static void sleep_until(uint64_t at_ns) {
    struct timespec t = {.tv_sec = (time_t)(at_ns / 1000000000u),
                         .tv_nsec = (long)(at_ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) continue;
}

static uint64_t due_at(const struct run *r, uint64_t n) {
    return r->begin_ns + (uint64_t)((double)n * 1e9 / (double)r->load->rate);
}

static void *pace(void *arg) {
    struct run *r = arg;
    (void)prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    while (!atomic_load(&r->ending) && due_at(r, r->n_sent) < r->end_ns) {
        uint64_t due_ns = due_at(r, r->n_sent);
        if (clock_mono_ns() < due_ns) sleep_until(due_ns);
        struct slot *slot = take_slot(r);
        if (!slot) break;
        start(slot, due_ns);
        r->n_sent++;
    }
    return NULL;
}

/* What was due and found no place: its latency is at least what it has waited. */
static void count_unsent(struct run *r) {
    uint64_t now_ns = clock_mono_ns(), last_ns = now_ns < r->end_ns ? now_ns : r->end_ns;
    for (uint64_t n = r->n_sent; due_at(r, n) < last_ns; n++) {
        uint64_t due_ns = due_at(r, n);
        if (due_ns < r->from_ns) continue;
        histogram_add(&r->figures->latency, last_ns - due_ns);
        r->figures->late++;
    }
}

/* ---- The whole */

static void discard(struct run *r) {
    for (uint64_t i = 0; r->slots && i < r->load->inflight; i++) {
        if (r->slots[i].batch != r->plain) replog_batch_free(r->slots[i].batch);
    }
    replog_batch_free(r->plain);
    free(r->slots);
    free(r->value);
    pthread_cond_destroy(&r->room);
    pthread_mutex_destroy(&r->mu);
}

static bool prepare(struct run *r, replog_error *err) {
    const struct bench_load *load = r->load;
    pthread_mutex_init(&r->mu, NULL);
    pthread_cond_init(&r->room, NULL);
    error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for the load");
    r->value = malloc(load->size_bytes + 1);
    r->slots = calloc(load->inflight, sizeof *r->slots);
    r->plain = replog_batch_new();
    if (!r->value || !r->slots || !r->plain) return false;
    uint64_t state = 1;
    for (uint64_t i = 0; i < load->size_bytes; i++)
        r->value[i] = (char)('a' + rng_next(&state) % 26);
    for (uint64_t i = 0; i < load->inflight; i++) {
        struct slot *slot = &r->slots[i];
        *slot = (struct slot){.run = r, .next = r->free, .batch = r->plain, .number = i};
        r->free = slot;
        if (!load->keyed) continue;
        slot->batch = replog_batch_new();
        if (!slot->batch) return false;
    }
    return fill(r, r->plain, 0, err);
}

static void show(struct run *r, struct progress *progress) {
    uint64_t now_ns = clock_mono_ns();
    if (!progress_due(progress)) return;
    if (now_ns < r->from_ns) {
        progress_line("warming up");
        return;
    }
    double s = (double)(now_ns - r->from_ns) / 1e9;
    progress_line("%4.1f s  %.0f records/s  %" PRIu64 " errors", s,
                  (double)atomic_load(&r->records) / s, atomic_load(&r->errors));
}

static void wait_for_end(struct run *r) {
    struct progress progress;
    progress_start(&progress);
    while (clock_mono_ns() < r->end_ns && !atomic_load(&r->ending) && !cli_interrupted()) {
        struct timespec t = {.tv_nsec = LOOK_MS * 1000000L};
        nanosleep(&t, NULL);
        show(r, &progress);
    }
    uint64_t now_ns = clock_mono_ns(), until_ns = now_ns < r->end_ns ? now_ns : r->end_ns;
    r->figures->counted_ns = until_ns > r->from_ns ? until_ns - r->from_ns : 0;
    progress_end(&progress);
}

uint64_t bench_append_bytes(const struct bench_load *load) {
    return load->batch * (load->size_bytes + 128);
}

replog_status bench_run(const struct bench_load *load, struct bench_figures *figures,
                        replog_error *err) {
    struct run r = {.load = load, .figures = figures};
    pthread_t pacer;
    memset(figures, 0, sizeof *figures);
    if (!prepare(&r, err)) {
        discard(&r);
        return err->status;
    }
    r.begin_ns = clock_mono_ns();
    r.from_ns = r.begin_ns + load->warmup_ms * 1000000u;
    r.end_ns = r.from_ns + load->count_ms * 1000000u;
    int failed = load->rate ? pthread_create(&pacer, NULL, pace, &r) : 0;
    if (failed) {
        discard(&r);
        return error_errno(err, failed, "no thread for the load");
    }
    for (uint64_t i = 0; !load->rate && i < load->inflight; i++)
        start(&r.slots[i], clock_mono_ns());
    wait_for_end(&r);
    bool cut_short = clock_mono_ns() < r.end_ns;
    if (!load->rate || cut_short) atomic_store(&r.ending, true);
    if (load->rate) pthread_join(pacer, NULL);
    atomic_store(&r.ending, true);
    while (replog_flush(load->client, DRAIN_MS, NULL)) continue;
    if (load->rate && !cut_short) count_unsent(&r);
    figures->records = r.records;
    figures->errors = r.errors;
    discard(&r);
    return REPLOG_OK;
}

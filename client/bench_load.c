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

enum { MAX_ERRORS_IN_A_ROW = 1000, LOOK_MS = 20, WAIT_MS = 100 };

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
    uint64_t first_key;                 /* where in 2^64 the keys begin */
    _Atomic uint64_t n_sent;            /* of an open load */
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
            uint64_t state = r->first_key + number * load->batch + i;
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

/* How many were due before `at_ns`. */
static uint64_t n_due(const struct run *r, uint64_t at_ns) {
    if (at_ns <= r->begin_ns) return 0;
    uint64_t n = (uint64_t)((double)(at_ns - r->begin_ns) * (double)r->load->rate / 1e9);
    while (n && due_at(r, n - 1) >= at_ns) n--;
    while (due_at(r, n) < at_ns) n++;
    return n;
}

static void *pace(void *arg) {
    struct run *r = arg;
    (void)prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
    for (;;) {
        uint64_t due_ns = due_at(r, atomic_load(&r->n_sent));
        if (atomic_load(&r->ending) || due_ns >= r->end_ns) break;
        if (clock_mono_ns() < due_ns) sleep_until(due_ns);
        struct slot *slot = take_slot(r);
        if (!slot) break;
        start(slot, due_ns);
        atomic_fetch_add(&r->n_sent, 1);
    }
    return NULL;
}

/* What was due before `end_ns` and found no place: its latency is at least what it has waited by
 * then. A bucket of the histogram at a time, for there may be billions. */
static void count_unsent(struct run *r, uint64_t end_ns) {
    uint64_t n = n_due(r, r->from_ns), end = n_due(r, end_ns);
    if (n < r->n_sent) n = r->n_sent;
    while (n < end) {
        uint64_t waited_ns = end_ns - due_at(r, n);
        unsigned bucket = histogram_bucket(waited_ns);
        uint64_t below_ns = bucket ? histogram_bucket_max(bucket - 1) : 0;
        uint64_t next = n_due(r, end_ns - below_ns); /* the first that waited no longer than that */
        if (next > end) next = end;
        histogram_add_many(&r->figures->latency, waited_ns, next - n);
        r->figures->late += next - n;
        n = next;
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

/* The rate since the line before: a stall shows while it lasts. */
struct shown {
    struct progress progress;
    uint64_t at_ns, records;
};

static void show(struct run *r, struct shown *last) {
    uint64_t now_ns = clock_mono_ns(), records = atomic_load(&r->records);
    uint64_t errors = atomic_load(&r->errors), sent = atomic_load(&r->n_sent), due = sent;
    if (!progress_due(&last->progress)) return;
    if (r->load->rate) due = n_due(r, now_ns < r->end_ns ? now_ns : r->end_ns);
    char behind[48] = "";
    if (due > sent) snprintf(behind, sizeof behind, "  %" PRIu64 " due and unsent", due - sent);
    if (now_ns < r->from_ns) {
        progress_line("warming up  %" PRIu64 " errors%s", errors, behind);
        last->at_ns = now_ns;
        return;
    }
    double s = (double)(now_ns - r->from_ns) / 1e9, since_s = (double)(now_ns - last->at_ns) / 1e9;
    progress_line("%4.1f s  %.0f records/s, now %.0f  %" PRIu64 " errors%s", s, (double)records / s,
                  (double)(records - last->records) / since_s, errors, behind);
    last->at_ns = now_ns;
    last->records = records;
}

/* Returns when it ended: end_ns, or earlier. */
static uint64_t wait_for_end(struct run *r) {
    struct shown shown = {.at_ns = r->begin_ns};
    progress_start(&shown.progress);
    while (clock_mono_ns() < r->end_ns && !atomic_load(&r->ending) && !cli_interrupted()) {
        struct timespec t = {.tv_nsec = LOOK_MS * 1000000L};
        nanosleep(&t, NULL);
        show(r, &shown);
    }
    uint64_t now_ns = clock_mono_ns(), until_ns = now_ns < r->end_ns ? now_ns : r->end_ns;
    struct bench_figures *f = r->figures;
    f->counted_ns = until_ns > r->from_ns ? until_ns - r->from_ns : 0;
    if (until_ns < r->end_ns)
        f->ended_early = cli_interrupted() ? "interrupted" : "1,000 appends in a row failed";
    progress_end(&shown.progress);
    return until_ns;
}

uint64_t bench_append_bytes(const struct bench_load *load) {
    return load->batch * (load->size_bytes + 128);
}

/* Each append has its answer when its timeout is over at the latest. */
static void drain(const struct run *r) {
    bool told = false;
    while (replog_flush(r->load->client, WAIT_MS, NULL)) {
        if (told || !cli_interrupted()) continue;
        told = true;
        cli_release_signals();
        fprintf(stderr, "replog: waiting for the appends in flight; again to quit at once\n");
    }
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
    uint64_t seed = r.begin_ns;
    r.first_key = rng_next(&seed);
    r.from_ns = r.begin_ns + load->warmup_ms * 1000000u;
    r.end_ns = r.from_ns + load->count_ms * 1000000u;
    int failed = load->rate ? pthread_create(&pacer, NULL, pace, &r) : 0;
    if (failed) {
        discard(&r);
        return error_errno(err, failed, "no thread for the load");
    }
    for (uint64_t i = 0; !load->rate && i < load->inflight; i++)
        start(&r.slots[i], clock_mono_ns());
    uint64_t until_ns = wait_for_end(&r);
    if (!load->rate || until_ns < r.end_ns) atomic_store(&r.ending, true);
    if (load->rate) pthread_join(pacer, NULL);
    atomic_store(&r.ending, true);
    drain(&r);
    if (load->rate) count_unsent(&r, until_ns);
    figures->records = r.records;
    figures->errors = r.errors;
    discard(&r);
    return REPLOG_OK;
}

/* Time, events, chance, the trace. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "node/session.h"
#include "sim_impl.h"

static struct sim *current;
static unsigned speaker;
static void (*fail_hook)(const struct sim *sim, const char *text);

/* ---- Chance */

uint64_t sim_draw(struct sim *sim, uint64_t low, uint64_t high) {
    return rng_between(&sim->rng, low, high);
}

bool sim_chance(struct sim *sim, unsigned percent) {
    return rng_between(&sim->rng, 1, 100) <= percent;
}

uint64_t sim_fork_rng(struct sim *sim, const char *name) {
    uint64_t state = hash64(name, strlen(name)) ^ sim->options.seed * 0x9e3779b97f4a7c15u;
    return rng_next(&state);
}

/* ---- The trace */

static void mix(struct sim *sim, uint64_t value) {
    uint64_t h = (sim->hash ^ value) * 0x9e3779b97f4a7c15u;
    sim->hash = h ^ (h >> 29);
}

static void print_line(const struct sim *sim, unsigned who, const char *text) {
    char name[24] = "world";
    if (who >= SIM_WHO_CLIENT)
        snprintf(name, sizeof name, "client %u", who);
    else if (who)
        snprintf(name, sizeof name, "node %u", who);
    printf("%4" PRIu64 ".%06" PRIu64 " %-10s %s\n", sim->now_us / 1000000, sim->now_us % 1000000,
           name, text);
}

void sim_trace(struct sim *sim, unsigned who, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t length = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    mix(sim, sim->now_us);
    mix(sim, who);
    mix(sim, hash64(text, length));
    if (sim->options.trace) print_line(sim, who, text);
}

void sim_note(struct sim *sim, unsigned who, const char *what, uint64_t a, uint64_t b) {
    mix(sim, (uint64_t)(unsigned char)what[0] << 56 ^ sim->now_us);
    mix(sim, who ^ a << 8);
    mix(sim, b);
    if (!sim->options.trace) return;
    char text[256];
    snprintf(text, sizeof text, "%s %" PRIu64 " %" PRIu64, what, a, b);
    print_line(sim, who, text);
}

bool sim_tracing(const struct sim *sim) {
    return sim->options.trace;
}

static void log_hook(enum log_level level, const char *text) {
    static const char *const names[] = {"debug", "info", "warn", "ERROR"};
    if (current) sim_trace(current, speaker, "log %s: %s", names[level], text);
}

unsigned sim_set_speaker(unsigned who) {
    unsigned before = speaker;
    speaker = who;
    return before;
}

void sim_on_fail(void (*fn)(const struct sim *sim, const char *text)) {
    fail_hook = fn;
}

void sim_fail(struct sim *sim, const char *format, ...) {
    char text[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (sim->options.trace) print_line(sim, 0, text);
    fflush(stdout);
    if (fail_hook) fail_hook(sim, text);
    fflush(stdout);
    _exit(1);
}

/* ---- Events: a heap by time, then by order */

static bool before(const struct sim_event *a, const struct sim_event *b) {
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

void sim_after(struct sim *sim, uint64_t delay_us, sim_event_fn *fn, void *arg, uint64_t tag) {
    if (sim->n_heap == sim->heap_capacity) {
        sim->heap_capacity = sim->heap_capacity ? 2 * sim->heap_capacity : 1024;
        sim->heap = realloc(sim->heap, sim->heap_capacity * sizeof *sim->heap);
        CHECK(sim->heap);
    }
    struct sim_event event = {sim->now_us + delay_us, ++sim->order, tag, fn, arg};
    size_t at = sim->n_heap++;
    while (at > 0 && before(&event, &sim->heap[(at - 1) / 2])) {
        sim->heap[at] = sim->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim->heap[at] = event;
}

static struct sim_event take(struct sim *sim) {
    struct sim_event first = sim->heap[0], last = sim->heap[--sim->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= sim->n_heap) break;
        if (child + 1 < sim->n_heap && before(&sim->heap[child + 1], &sim->heap[child])) child++;
        if (!before(&sim->heap[child], &last)) break;
        sim->heap[at] = sim->heap[child];
        at = child;
    }
    sim->heap[at] = last;
    return first;
}

enum { MAX_EVENTS = 30000000 };

void sim_run_until(struct sim *sim, uint64_t at_us) {
    while (sim->n_heap > 0 && sim->heap[0].at_us < at_us) {
        struct sim_event event = take(sim);
        sim->now_us = event.at_us;
        mix(sim, event.at_us ^ event.order << 32);
        if (++sim->figures.events > MAX_EVENTS)
            sim_fail(sim, "[liveness] no end: more than %d events", MAX_EVENTS);
        event.fn(sim, event.arg, event.tag);
    }
    sim->now_us = at_us;
}

/* ---- The run */

struct sim *sim_new(const struct sim_options *options) {
    struct sim *sim = calloc(1, sizeof *sim);
    CHECK(sim);
    sim->options = *options;
    sim->now_us = 1000000;
    sim->rng = sim_fork_rng(sim, "world");
    current = sim;
    speaker = 0;
    log_set_hook(log_hook);
    log_set_level(LOG_INFO);
    return sim;
}

void sim_free(struct sim *sim) {
    free(sim->heap);
    free(sim);
    current = NULL;
}

struct sim *sim_current(void) {
    CHECK(current);
    return current;
}

uint64_t sim_now_us(const struct sim *sim) {
    return sim->now_us;
}
uint64_t sim_hash(const struct sim *sim) {
    return sim->hash;
}
struct sim_figures *sim_figures(struct sim *sim) {
    return &sim->figures;
}
const struct sim_options *sim_options(const struct sim *sim) {
    return &sim->options;
}
uint64_t sim_quiet_us(const struct sim *sim) {
    return sim->quiet_us;
}
uint64_t sim_healed_us(const struct sim *sim) {
    return sim->healed_us;
}
uint64_t sim_last_call_us(const struct sim *sim) {
    return sim->last_call_us;
}
uint64_t sim_end_us(const struct sim *sim) {
    return sim->end_us;
}
unsigned sim_n_nodes(const struct sim *sim) {
    return sim->n_nodes;
}
enum sim_sync sim_sync_mode(const struct sim *sim) {
    return sim->sync;
}
size_t sim_max_sessions(const struct sim *sim) {
    return sim->max_sessions ? sim->max_sessions : SESSION_MAX;
}

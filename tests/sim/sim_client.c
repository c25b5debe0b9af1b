#include "sim_client.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "sim_impl.h"
#include "sim_rpc.h"

enum {
    MAX_CLIENTS = 6,
    LOOK_US = 5000,       /* how often a main thread looks whether its tasks have ended */
    DEAD_US = 2000000000, /* so far the clock of a killed process jumps: all its waits end */
    FINAL_TIMEOUT_MS = 10000,
    APPEND_BYTES = 20000 /* of the largest, but for those near the limits */
};

static struct {
    struct sim_client *clients[MAX_CLIENTS];
    unsigned n;
} all;

static uint64_t pick(struct sim_client *c, uint64_t low, uint64_t high) {
    return rng_between(&c->rng, low, high);
}

/* ---- A life ---------------------------------------------------------------------------------- */

static void draw_style(struct sim_client *c) {
    static const uint32_t timeouts[][2] = {{40, 400}, {500, 3000}, {500, 3000}, {8000, 12000}};
    static const uint32_t windows[] = {1, 4, 16, 256, 1024};
    static const uint32_t window_bytes[] = {64 << 10, 1 << 20, 16 << 20};
    static const uint32_t records[] = {1, 3, 3, 10, 100};
    static const uint32_t values[][2] = {{0, 60}, {16, 200}, {100, 1000}, {500, 9000}};
    static const uint64_t pauses[] = {150000, 500000, 500000, 1500000, 1500000};
    static const uint32_t bursts[] = {1, 5, 20, 60};
    static const uint64_t gets[] = {12000, 60000, 200000};
    struct sim_style *s = &c->style;
    uint64_t kind = pick(c, 0, 3), value = pick(c, 0, 3);
    memset(s, 0, sizeof *s);
    s->options.timeout_ms = (uint32_t)pick(c, timeouts[kind][0], timeouts[kind][1]);
    s->options.window = windows[pick(c, 0, 4)];
    s->options.window_bytes = window_bytes[pick(c, 0, 2)];
    s->options.no_session = pick(c, 1, 6) == 1;
    s->percent_leader = pick(c, 1, 3) == 1 ? (unsigned)pick(c, 1, 60) : 0;
    s->percent_all = pick(c, 1, 3) == 1 ? (unsigned)pick(c, 1, 40) : 0;
    s->percent_single = (unsigned)pick(c, 0, 30);
    s->percent_keyed = pick(c, 1, 4) == 1 ? 0 : (unsigned)pick(c, 20, 100);
    s->percent_deletes = (unsigned)pick(c, 0, 30);
    s->percent_sync = pick(c, 1, 3) == 1 ? 100 : pick(c, 1, 3) == 1 ? 20 : 0;
    s->percent_huge = pick(c, 1, 60) == 1 ? 2 : 0;
    s->most_records = records[pick(c, 0, 4)];
    s->value_min = values[value][0];
    s->value_max = values[value][1];
    if (s->most_records * s->value_max >
        APPEND_BYTES) { /* many small runs find more than few large */
        s->value_max = APPEND_BYTES / s->most_records;
        if (s->value_min > s->value_max) s->value_min = s->value_max;
    }
    s->pause_us = pauses[pick(c, 0, 4)];
    s->most_in_burst = bursts[pick(c, 0, 3)];
    s->appenders = pick(c, 1, 5) == 1 ? 2 : 1;
    s->readers = (unsigned)pick(c, 0, 3) / 2;
    s->getters = (unsigned)pick(c, 0, 1);
    s->get_us = gets[pick(c, 0, 2)];
    s->operates = pick(c, 1, 3) == 1;
    s->most_truncate_percent = (unsigned)pick(c, 10, 100);
}

bool sim_client_goes_on(const struct sim_client *c) {
    return !c->leaving && !c->process.dead && sim_now_us(c->sim) < sim_last_call_us(c->sim);
}

uint32_t sim_client_timeout_ms(const struct sim_client *c) {
    uint64_t left_ms = (sim_end_us(c->sim) - sim_now_us(c->sim)) / 1000;
    uint64_t most_ms = left_ms > 2 * SIM_LAST_MS ? left_ms - SIM_LAST_MS : SIM_LAST_MS;
    uint32_t timeout_ms = c->style.options.timeout_ms;
    return timeout_ms < most_ms ? timeout_ms : (uint32_t)most_ms;
}

/* Some nodes suffice: the library finds the others through them. */
static void endpoints(struct sim_client *c, char *text, size_t text_bytes) {
    unsigned n = sim_n_nodes(c->sim);
    bool whole = c->verifies || pick(c, 0, 1) == 1;
    c->knows_all = whole;
    text[0] = '\0';
    for (uint64_t id = 1; id <= n; id++) {
        if (!whole && pick(c, 1, 3) == 1 && !(text[0] == '\0' && id == n)) continue;
        size_t used = strlen(text);
        snprintf(text + used, text_bytes - used, "%s%s", used ? "," : "", sim_rpc_address(id));
    }
}

static void start_tasks(struct sim_client *c, unsigned n, void (*fn)(void *task)) {
    for (unsigned i = 0; i < n; i++) {
        struct sim_task *task = malloc(sizeof *task);
        CHECK(task != NULL);
        *task = (struct sim_task){c, i};
        c->n_tasks++;
        sim_thread_start(&c->process, fn, task);
    }
}

static void begin_life(struct sim_client *c) {
    char list[200];
    replog_error err = {.text = ""};
    c->life++;
    c->leaving = false;
    draw_style(c);
    endpoints(c, list, sizeof list);
    if (replog_client_open(list, &c->style.options, &c->lib, &err))
        sim_fail(c->sim, "[client] client %u cannot open: %s", c->process.who, err.text);
    sim_trace(c->sim, c->process.who, "life %" PRIu64 " at %s timeout=%u window=%u%s", c->life,
              list, c->style.options.timeout_ms, c->style.options.window,
              c->style.options.no_session ? " no session" : "");
    start_tasks(c, c->style.appenders, sim_appender);
    start_tasks(c, c->style.readers, sim_reader);
    start_tasks(c, c->style.getters, sim_getter);
    start_tasks(c, c->style.operates ? 1 : 0, sim_operator);
}

/* Nothing of the process reaches anybody from now on, as if it had never come back from a system
 * call. Its threads still run, in a clock where every wait is over, so that they end and free what
 * they hold; what they are told there is told to nobody. */
static void die(struct sim_client *c) {
    sim_trace(c->sim, c->process.who, "dies");
    sim_client_lose_appends(c);
    sim_rpc_kill(&c->process);
    sim_process_jump(&c->process, DEAD_US);
}

static void end_life(struct sim_client *c, bool dies) {
    replog_error err = {.text = ""};
    c->leaving = true;
    if (dies) die(c);
    c->doing = "waiting for its tasks";
    while (c->n_tasks > 0) sim_thread_sleep(LOOK_US);
    if (!dies && pick(c, 0, 2) > 0) {
        c->doing = "flushing";
        (void)replog_flush(c->lib, sim_client_timeout_ms(c), &err);
    }
    c->doing = "closing";
    replog_client_close(c->lib);
    c->lib = NULL;
    c->process.dead = false;
    if (c->open)
        sim_fail(c->sim, "[answered] client %u was closed, and appends of it have no answer",
                 c->process.who);
    sim_trace(c->sim, c->process.who, "closed");
}

static uint64_t life_us(struct sim_client *c) {
    return pick(c, 0, 2) == 0 ? pick(c, 200000, 4000000) : pick(c, 5000000, 60000000);
}

/* Now and then the whole process stands still, as after SIGSTOP: when it goes on, time has passed.
 */
static void live(struct sim_client *c, uint64_t until_us) {
    for (uint64_t now; (now = sim_now_us(c->sim)) < until_us;) {
        uint64_t us = pick(c, 500000, 8000000);
        sim_thread_sleep(until_us - now < us ? until_us - now : us);
        if (sim_now_us(c->sim) >= sim_quiet_us(c->sim) || pick(c, 0, 4) > 0) continue;
        us = pick(c, 20000, 3000000);
        sim_trace(c->sim, c->process.who, "its clock goes ahead by %" PRIu64 " us", us);
        sim_process_jump(&c->process, us);
    }
}

static void client_main(void *arg) {
    struct sim_client *c = arg;
    sim_thread_sleep(pick(c, 0, 1500000));
    while (sim_now_us(c->sim) < sim_last_call_us(c->sim)) {
        uint64_t until = sim_now_us(c->sim) + life_us(c);
        if (until > sim_last_call_us(c->sim)) until = sim_last_call_us(c->sim);
        begin_life(c);
        c->doing = "living";
        live(c, until);
        end_life(c, sim_now_us(c->sim) < sim_quiet_us(c->sim) && pick(c, 0, 2) > 0);
        sim_thread_sleep(pick(c, 0, 500000));
    }
    c->finished = true;
}

static void verifier_main(void *arg) {
    struct sim_client *c = arg;
    char list[200] = "";
    replog_error err = {.text = ""};
    uint64_t at = sim_healed_us(c->sim), now = sim_now_us(c->sim);
    c->doing = "waiting for all to be healed";
    if (at > now) sim_thread_sleep(at - now);
    c->life = 1;
    c->style.options.timeout_ms = FINAL_TIMEOUT_MS;
    endpoints(c, list, sizeof list);
    if (replog_client_open(list, &c->style.options, &c->lib, &err))
        sim_fail(c->sim, "[client] client %u cannot open: %s", c->process.who, err.text);
    sim_verify(c);
    end_life(c, false);
    c->finished = true;
}

/* ---- What sim.h asks ------------------------------------------------------------------------- */

static struct sim_client *client_new(struct sim *sim, bool verifies) {
    struct sim_client *c = calloc(1, sizeof *c);
    char name[32];
    CHECK(c != NULL && all.n < MAX_CLIENTS);
    c->sim = sim;
    c->process.who = SIM_WHO_CLIENT + all.n;
    c->verifies = verifies;
    snprintf(name, sizeof name, "client %u", all.n);
    c->rng = sim_fork_rng(sim, name);
    c->process.clock_ahead_us = pick(c, 0, 100000000);
    all.clients[all.n++] = c;
    return c;
}

void sim_clients_start(struct sim *sim) {
    sim_threads_begin(sim);
    sim_rpc_begin(sim);
    sim_services_begin(sim);
    sim_oracle_begin(sim, sim->node_options.retain_bytes || sim->node_options.retain_ms);
    all.n = 0;
    struct sim_client *verifier = client_new(sim, true);
    sim_thread_start(&verifier->process, verifier_main, verifier);
    uint64_t n = pick(verifier, 1, MAX_CLIENTS - 2);
    for (uint64_t i = 0; i < n; i++) {
        struct sim_client *c = client_new(sim, false);
        sim_thread_start(&c->process, client_main, c);
    }
}

unsigned sim_clients_n(const struct sim *sim) {
    (void)sim;
    return all.n;
}

void sim_clients_quiet(struct sim *sim) {
    (void)sim;
}

void sim_clients_finish(struct sim *sim) {
    for (unsigned i = 0; i < all.n; i++) {
        const struct sim_client *c = all.clients[i];
        if (!c->finished)
            sim_fail(sim, "[answered] client %u has not come to its end: %s, %u tasks",
                     c->process.who, c->doing, c->n_tasks);
    }
}

void sim_clients_free(struct sim *sim) {
    sim_services_end();
    sim_threads_end();
    sim_rpc_end();
    sim_oracle_end(sim);
    for (unsigned i = 0; i < all.n; i++) free(all.clients[i]);
    all.n = 0;
}

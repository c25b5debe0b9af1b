/* sim_client_work.c: what clients do: append, read, get, operate; and what must work at the end. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "node/session.h"
#include "sim_client.h"
#include "sim_rpc.h"

enum {
    US_PER_BYTE = 3, /* large appends are followed by longer pauses */
    MOST_REST_US = 1000000,
    NEXT_MS = 400, /* of one wait for a record */
    READ_RECORDS = 200,
    SLOW_US = 20000,
    IN_BURST_US = 600,
    CALLBACK_APPENDS_ONE_IN = 20,
    CALLBACK_NUMBER = 2, /* as a submitting thread */
    CATCHES_UP_MS = 300,
    SURE_MS = 3000 /* once healed, what may take so long must succeed */
};

static uint64_t pick(struct sim_client *c, uint64_t low, uint64_t high) {
    return rng_between(&c->rng, low, high);
}

static bool percent(struct sim_client *c, unsigned p) {
    return pick(c, 1, 100) <= p;
}

/* At most until nothing new is begun any more. */
static void nap(const struct sim_client *c, uint64_t us) {
    uint64_t now = sim_now_us(c->sim), end = sim_last_call_us(c->sim);
    if (!sim_client_goes_on(c)) return;
    sim_thread_sleep(end - now < us ? end - now : us);
}

static void rest(struct sim_client *c, uint64_t more_us) {
    uint64_t us = c->style.pause_us;
    nap(c, pick(c, us / 2, us + us / 2) + (more_us < MOST_REST_US ? more_us : MOST_REST_US));
}

static void task_over(struct sim_task *task) {
    task->client->n_tasks--;
    free(task);
}

/* Once all faults have ended and a majority is whole, what is asked with time enough succeeds. */
static bool must_succeed(const struct sim_client *c, uint64_t asked_us, uint64_t timeout_ms) {
    return c->knows_all && !c->process.dead && !c->leaving && asked_us >= sim_healed_us(c->sim) &&
           timeout_ms >= SURE_MS && sim_must_progress(c->sim);
}

static void check_progress(const struct sim_client *c, uint64_t asked_us, uint64_t timeout_ms,
                           const char *what, replog_status status, const char *text) {
    if (status == REPLOG_OK || !must_succeed(c, asked_us, timeout_ms)) return;
    if (status == REPLOG_RESOURCE_EXHAUSTED && !c->verifies) return; /* too large, too many */
    /* after a loss not every opening is known */
    bool few = sim_max_sessions(c->sim) < SESSION_MAX;
    bool evicts = sim_figures(c->sim)->evicted > 0 || (few && sim_has_lost(c->sim));
    if (evicts && status == REPLOG_FAILED_PRECONDITION && strcmp(what, "append") == 0)
        return; /* others' sessions drove out this one's */
    sim_fail(c->sim, "[progress] all is healed, and client %u cannot %s: %s: %s", c->process.who,
             what, replog_status_name(status), text);
}

/* ---- Appending ------------------------------------------------------------------------------- */

/* An append under way. */
struct sim_told {
    struct sim_told *next, **at;
    struct sim_client *client;
    uint32_t append;
    enum replog_ack ack;
    uint64_t asked_us;
    uint32_t timeout_ms;
    bool lost; /* its process is dead: nobody hears the answer */
};

void sim_client_lose_appends(struct sim_client *c) {
    for (struct sim_told *t = c->open; t; t = t->next) {
        if (!t->lost) sim_oracle_append_lost(c->sim, t->append);
        t->lost = true;
    }
}

static struct sim_told *told_new(struct sim_client *c, uint32_t append,
                                 const replog_append_options *options) {
    struct sim_told *t = calloc(1, sizeof *t);
    CHECK(t != NULL);
    t->client = c;
    t->append = append;
    t->ack = options->ack;
    t->timeout_ms = options->timeout_ms;
    t->asked_us = sim_now_us(c->sim);
    t->next = c->open;
    t->at = &c->open;
    if (t->next) t->next->at = &t->next;
    c->open = t;
    return t;
}

static void told_free(struct sim_told *t) {
    *t->at = t->next;
    if (t->next) t->next->at = t->at;
    free(t);
}

static void tell(struct sim_told *t, replog_status status, const replog_append_result *result,
                 const char *text) {
    struct sim_client *c = t->client;
    if (t->lost) return;
    if (status == REPLOG_OK) {
        sim_trace(c->sim, c->process.who,
                  "append %" PRIu32 ": %" PRIu64 "..%" PRIu64 " of term %" PRIu64, t->append,
                  result->first_seq, result->last_seq, result->term);
    } else {
        sim_trace(c->sim, c->process.who, "append %" PRIu32 ": %s: %s", t->append,
                  replog_status_name(status), text);
    }
    sim_oracle_append_told(c->sim, t->append, status, result, text);
    bool all_there = t->ack != REPLOG_ACK_ALL || sim_n_destroyed(c->sim) == 0;
    /* a session may be lost, or a leader change hands, once more: without one that is told */
    if (all_there && t->ack != REPLOG_ACK_LEADER && !c->style.options.no_session)
        check_progress(c, t->asked_us, t->timeout_ms, "append", status, text);
}

static uint32_t make_append(struct sim_client *c, unsigned thread, replog_batch *batch,
                            replog_append_options *options) {
    static const char *const names[] = {"QUORUM", "LEADER", "ALL"};
    const struct sim_style *s = &c->style;
    struct sim_append a = {.lane = {c->process.who, c->life, false, thread},
                           .ack = percent(c, s->percent_leader) ? REPLOG_ACK_LEADER
                                  : percent(c, s->percent_all)  ? REPLOG_ACK_ALL
                                                                : REPLOG_ACK_QUORUM,
                           .single = percent(c, s->percent_single),
                           .value_min = s->value_min,
                           .value_max = s->value_max,
                           .percent_keyed = s->percent_keyed,
                           .percent_deletes = s->percent_deletes};
    a.lane.all = a.ack == REPLOG_ACK_ALL;
    a.numbered = !s->options.no_session && a.ack != REPLOG_ACK_LEADER;
    a.n_records = a.single ? 1 : (uint32_t)pick(c, 1, s->most_records);
    if (!a.single && percent(c, s->percent_huge)) {
        static const uint32_t near[][2] = {{2, 1048576}, {65535, 40}, {3000, 900}};
        const uint32_t *shape = near[pick(c, 0, 2)];
        a.n_records = shape[0];
        a.value_min = a.value_max = shape[1];
        a.percent_keyed = 0;
    }
    *options = (replog_append_options){
        .ack = a.ack, .single = a.single, .timeout_ms = sim_client_timeout_ms(c)};
    uint32_t append = sim_oracle_append(c->sim, &a);
    sim_oracle_fill(c->sim, append, batch);
    sim_trace(c->sim, c->process.who,
              "append %" PRIu32 " begins: %s, %" PRIu32 " records, %zu bytes%s", append,
              names[a.ack], a.n_records, replog_batch_bytes(batch), a.single ? ", single" : "");
    return append;
}

static void append_async(struct sim_client *c, unsigned thread, replog_batch *batch);

static void on_append(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    struct sim_told *t = user;
    struct sim_client *c = t->client;
    tell(t, status, result, error->text);
    told_free(t);
    if (sim_client_goes_on(c) && pick(c, 1, CALLBACK_APPENDS_ONE_IN) == 1) {
        replog_batch *batch = replog_batch_new();
        CHECK(batch != NULL);
        append_async(c, CALLBACK_NUMBER, batch);
        replog_batch_free(batch);
    }
}

static void append_async(struct sim_client *c, unsigned thread, replog_batch *batch) {
    replog_append_options options;
    replog_error err = {.text = ""};
    uint32_t append = make_append(c, thread, batch, &options);
    struct sim_told *t = told_new(c, append, &options);
    replog_status status = replog_append_async(c->lib, batch, &options, on_append, t, &err);
    if (status == REPLOG_OK) return;
    if (status != REPLOG_RESOURCE_EXHAUSTED && status != REPLOG_CANCELLED)
        sim_fail(c->sim, "[client] append %" PRIu32 " is refused: %s", append, err.text);
    sim_trace(c->sim, c->process.who, "append %" PRIu32 " not taken: %s", append, err.text);
    if (!t->lost) sim_oracle_append_refused(c->sim, append);
    told_free(t);
}

static void append_sync(struct sim_client *c, unsigned thread, replog_batch *batch) {
    replog_append_options options;
    replog_append_result result;
    replog_error err = {.text = ""};
    uint32_t append = make_append(c, thread, batch, &options);
    struct sim_told *t = told_new(c, append, &options);
    replog_status status = replog_append(c->lib, batch, &options, &result, &err);
    tell(t, status, status ? NULL : &result, err.text);
    told_free(t);
}

void sim_appender(void *arg) {
    struct sim_task *task = arg;
    struct sim_client *c = task->client;
    replog_batch *batch = replog_batch_new();
    CHECK(batch != NULL);
    uint64_t left_of_burst = 0;
    while (sim_client_goes_on(c)) {
        replog_batch_clear(batch);
        if (left_of_burst == 0) left_of_burst = pick(c, 1, c->style.most_in_burst);
        if (percent(c, c->style.percent_sync)) {
            append_sync(c, task->number, batch);
        } else {
            append_async(c, task->number, batch);
        }
        if (--left_of_burst > 0)
            nap(c, pick(c, 0, IN_BURST_US));
        else
            rest(c, replog_batch_bytes(batch) * US_PER_BYTE);
    }
    replog_batch_free(batch);
    task_over(task);
}

/* ---- Reading the log ------------------------------------------------------------------------- */

/* Reads to the end of what was asked, or until enough was read. */
static replog_status read_all(struct sim_client *c, replog_reader *reader, struct sim_read *read,
                              uint32_t next_ms, uint64_t most, replog_error *err) {
    bool slow = !c->verifies && pick(c, 0, 5) == 0; /* holds the node back */
    for (uint64_t n = 0; n < most;) {
        replog_entry entry;
        if (slow) nap(c, pick(c, 0, SLOW_US));
        replog_status status = replog_reader_next(reader, next_ms, &entry, err);
        if (c->process.dead || c->leaving) return REPLOG_CANCELLED;
        if (status == REPLOG_DEADLINE_EXCEEDED || status == REPLOG_UNAVAILABLE) {
            if (c->verifies || !sim_client_goes_on(c)) return status;
            n += most / 8; /* not for ever */
            continue;
        }
        if (status != REPLOG_OK) {
            sim_trace(c->sim, c->process.who, "read behind %" PRIu64 " ends: %s: %s", read->last,
                      replog_status_name(status), err->text);
            sim_oracle_read_ended(c->sim, read, status, err->text);
            return status;
        }
        sim_oracle_read_record(c->sim, read, &entry);
        n++;
    }
    return REPLOG_OK;
}

static void draw_read(struct sim_client *c, struct sim_read *read, replog_read_options *o) {
    uint64_t end = sim_oracle_log_end(c->sim);
    o->follow = pick(c, 0, 1) == 1;
    o->markers = pick(c, 0, 1) == 1;
    if (pick(c, 0, 3) > 0) o->from_seq = pick(c, end > 200 ? end - 200 : 0, end + 1);
    if (pick(c, 0, 5) == 0) o->from_seq = pick(c, 0, end + 1);
    if (pick(c, 0, 3) == 0) o->to_seq = pick(c, o->from_seq ? o->from_seq : 1, end + 3);
    if (pick(c, 0, 3) == 0) o->only_endpoint = sim_rpc_address(pick(c, 1, sim_n_nodes(c->sim)));
    *read = (struct sim_read){.who = c->process.who,
                              .from = o->from_seq,
                              .to = o->to_seq,
                              .follow = o->follow,
                              .markers = o->markers,
                              .local = o->only_endpoint != NULL,
                              .floor = sim_oracle_floor(c->sim)};
}

void sim_reader(void *arg) {
    struct sim_task *task = arg;
    struct sim_client *c = task->client;
    while (sim_client_goes_on(c)) {
        replog_read_options options = {0};
        struct sim_read read;
        replog_reader *reader;
        replog_error err = {.text = ""};
        draw_read(c, &read, &options);
        if (replog_reader_open(c->lib, &options, &reader, &err)) {
            if (strstr(err.text, "knows 15 endpoints") == NULL)
                sim_fail(c->sim, "[client] client %u cannot read: %s", c->process.who, err.text);
        } else {
            sim_trace(c->sim, c->process.who, "reads %" PRIu64 "..%" PRIu64 "%s%s%s", read.from,
                      read.to, read.follow ? " follow" : "", read.markers ? " markers" : "",
                      read.local ? " local" : "");
            (void)read_all(c, reader, &read, NEXT_MS, READ_RECORDS, &err);
            replog_reader_close(reader);
        }
        rest(c, 0);
    }
    task_over(task);
}

/* ---- Gets ------------------------------------------------------------------------------------ */

static void get_one(struct sim_client *c, unsigned key, bool stale, uint32_t timeout_ms) {
    struct slice bytes = sim_oracle_key(c->sim, key);
    uint8_t *copy = malloc(bytes.size_bytes);
    void *value = NULL;
    size_t value_bytes = 0;
    replog_error err = {.text = ""};
    uint64_t asked_us = sim_now_us(c->sim);
    struct sim_get get = {
        .who = c->process.who, .key = key, .stale = stale, .floor = sim_oracle_floor(c->sim)};
    CHECK(copy != NULL);
    memcpy(copy, bytes.data, bytes.size_bytes);
    replog_status status = replog_get(c->lib, copy, bytes.size_bytes, stale, timeout_ms, &value,
                                      &value_bytes, &get.seq, &err);
    free(copy);
    if (!c->process.dead) {
        sim_trace(c->sim, c->process.who, "get %u%s: %s %" PRIu64, key, stale ? " stale" : "",
                  replog_status_name(status), get.seq);
        if (status == REPLOG_OK || status == REPLOG_NOT_FOUND) {
            get.found = status == REPLOG_OK;
            get.value = (struct slice){value, value_bytes};
            sim_oracle_get_told(c->sim, &get);
        } else {
            check_progress(c, asked_us, timeout_ms, "get", status, err.text);
        }
    }
    if (status == REPLOG_OK) free(value);
}

void sim_getter(void *arg) {
    struct sim_task *task = arg;
    struct sim_client *c = task->client;
    while (sim_client_goes_on(c)) {
        unsigned key = (unsigned)pick(c, 0, sim_oracle_n_keys(c->sim) - 1);
        get_one(c, key, pick(c, 0, 2) == 0, sim_client_timeout_ms(c));
        nap(c, pick(c, 0, c->style.get_us));
    }
    task_over(task);
}

/* ---- Operating ------------------------------------------------------------------------------- */

static replog_status truncate_one(struct sim_client *c, uint64_t upto, uint32_t timeout_ms) {
    replog_truncate_result result;
    replog_error err = {.text = ""};
    sim_oracle_truncate_asked(c->sim, upto);
    replog_status status = replog_truncate(c->lib, upto, timeout_ms, &result, &err);
    if (c->process.dead) return REPLOG_CANCELLED;
    sim_trace(c->sim, c->process.who, "truncate %" PRIu64 ": %s %" PRIu64, upto,
              replog_status_name(status), status ? 0 : result.first_seq);
    if (status == REPLOG_OK) sim_oracle_truncate_told(c->sim, &result);
    return status;
}

/* Gives the safe seq; 0: it is not told. */
static uint64_t checkpoint_one(struct sim_client *c, uint32_t timeout_ms) {
    uint64_t seq = 0, safe_seq = 0, asked_us = sim_now_us(c->sim);
    replog_error err = {.text = ""};
    replog_status status = replog_checkpoint(c->lib, timeout_ms, &seq, &safe_seq, &err);
    if (c->process.dead) return 0;
    sim_trace(c->sim, c->process.who, "checkpoint: %s %" PRIu64 " safe %" PRIu64,
              replog_status_name(status), seq, safe_seq);
    check_progress(c, asked_us, timeout_ms, "checkpoint", status, err.text);
    return status == REPLOG_OK ? safe_seq : 0;
}

static void ask_status(struct sim_client *c, uint32_t timeout_ms) {
    replog_cluster_status view;
    replog_error err = {.text = ""};
    uint64_t asked_us = sim_now_us(c->sim);
    replog_status status = replog_get_status(c->lib, timeout_ms, &view, &err);
    if (c->process.dead) return;
    check_progress(c, asked_us, timeout_ms, "ask for the status", status, err.text);
}

void sim_operator(void *arg) {
    struct sim_task *task = arg;
    struct sim_client *c = task->client;
    while (sim_client_goes_on(c)) {
        uint64_t end = sim_oracle_log_end(c->sim);
        nap(c, pick(c, 50000, 1500000));
        if (!sim_client_goes_on(c)) break;
        uint32_t timeout_ms = sim_client_timeout_ms(c);
        switch (pick(c, 0, 3)) {
        case 0:
            ask_status(c, timeout_ms);
            break;
        case 1:
            if (end > 0)
                (void)truncate_one(c, pick(c, 1, end * c->style.most_truncate_percent / 100 + 1),
                                   timeout_ms);
            break;
        default:
            (void)checkpoint_one(c, timeout_ms);
        }
    }
    task_over(task);
}

/* ---- The end --------------------------------------------------------------------------------- */

/* Too few are whole to answer, and what waited for them used up the time: what is begun now could
 * end after the run. */
static bool gives_up(const struct sim_client *c) {
    return !sim_must_progress(c->sim) &&
           sim_end_us(c->sim) - sim_now_us(c->sim) <= 2 * (uint64_t)SIM_LAST_MS * 1000;
}

static void verify_append(struct sim_client *c, enum replog_ack ack) {
    struct sim_style *s = &c->style;
    replog_batch *batch = replog_batch_new();
    CHECK(batch != NULL);
    s->most_records = 3;
    s->value_max = 100;
    s->percent_keyed = 0; /* a long key may be more than a leader of this run takes at once */
    s->percent_all = ack == REPLOG_ACK_ALL ? 100 : 0;
    append_sync(c, 0, batch);
    replog_batch_free(batch);
}

/* The whole log, from the first seq on, every record of it. */
static void verify_log(struct sim_client *c) {
    replog_read_options options = {.markers = true};
    struct sim_read read = {
        .who = c->process.who, .markers = true, .floor = sim_oracle_floor(c->sim)};
    replog_reader *reader;
    replog_error err = {.text = ""};
    uint64_t asked_us = sim_now_us(c->sim);
    uint32_t timeout_ms = sim_client_timeout_ms(c);
    CHECK(replog_reader_open(c->lib, &options, &reader, &err) == REPLOG_OK);
    replog_status status = read_all(c, reader, &read, timeout_ms, UINT64_MAX, &err);
    if (status == REPLOG_NOT_FOUND) status = REPLOG_OK;
    /* another client may truncate under it; rot is what a damaged disk is for */
    bool allowed = status == REPLOG_OUT_OF_RANGE || status == REPLOG_DATA_LOSS;
    if (!allowed) check_progress(c, asked_us, timeout_ms, "read the log", status, err.text);
    replog_reader_close(reader);
}

/* Reads on until that seq has come, for so long at most. */
static replog_status follow_to(struct sim_client *c, replog_reader *reader, struct sim_read *read,
                               uint64_t seq, uint32_t timeout_ms, replog_error *err) {
    replog_status status = REPLOG_OK;
    uint64_t until_us = sim_now_us(c->sim) + (uint64_t)timeout_ms * 1000;
    while (status == REPLOG_OK && read->last < seq && !c->process.dead) {
        replog_entry entry;
        uint64_t now_us = sim_now_us(c->sim);
        if (now_us >= until_us) return REPLOG_DEADLINE_EXCEEDED;
        status =
            replog_reader_next(reader, (uint32_t)((until_us - now_us + 999) / 1000), &entry, err);
        if (status == REPLOG_OK && !c->process.dead) sim_oracle_read_record(c->sim, read, &entry);
    }
    bool ended = status && status != REPLOG_DEADLINE_EXCEEDED && status != REPLOG_UNAVAILABLE;
    if (ended && !c->process.dead) sim_oracle_read_ended(c->sim, read, status, err->text);
    return status;
}

/* Who follows the log and has caught up gets what is appended then. */
static void verify_follow(struct sim_client *c) {
    uint64_t floor = sim_oracle_floor(c->sim);
    replog_read_options options = {.markers = true, .follow = true, .from_seq = floor + 1};
    struct sim_read read = {
        .who = c->process.who, .markers = true, .follow = true, .from = floor + 1, .floor = floor};
    replog_reader *reader;
    replog_error err = {.text = ""};
    CHECK(replog_reader_open(c->lib, &options, &reader, &err) == REPLOG_OK);
    (void)follow_to(c, reader, &read, UINT64_MAX, CATCHES_UP_MS, &err);
    verify_append(c, REPLOG_ACK_QUORUM);
    uint64_t asked_us = sim_now_us(c->sim);
    uint32_t timeout_ms = sim_client_timeout_ms(c);
    replog_status status = REPLOG_DEADLINE_EXCEEDED;
    if (!gives_up(c))
        status = follow_to(c, reader, &read, sim_oracle_floor(c->sim), timeout_ms, &err);
    /* as for the whole log */
    bool allowed = status == REPLOG_OUT_OF_RANGE || status == REPLOG_DATA_LOSS;
    if (!allowed) check_progress(c, asked_us, timeout_ms, "follow the log", status, err.text);
    replog_reader_close(reader);
}

/* What every store holds durably goes, on every member. */
static void verify_truncation(struct sim_client *c, uint64_t upto) {
    uint64_t asked_us = sim_now_us(c->sim);
    uint32_t timeout_ms = sim_client_timeout_ms(c);
    if (upto == 0) return;
    replog_status status = truncate_one(c, upto, timeout_ms);
    bool due = must_succeed(c, asked_us, timeout_ms) && sim_n_destroyed(c->sim) == 0 &&
               !sim_has_lost(c->sim);
    if (due) check_progress(c, asked_us, timeout_ms, "truncate", status, "");
    for (int i = 0; due && i < SURE_MS / 50 && !sim_oracle_is_truncated(c->sim, upto); i++)
        sim_thread_sleep(50000);
    if (due && !sim_oracle_is_truncated(c->sim, upto))
        sim_fail(c->sim, "[progress] all is healed, and the log is not truncated up to %" PRIu64,
                 upto);
}

static void verify_gets(struct sim_client *c) {
    for (unsigned key = 0; key < sim_oracle_n_keys(c->sim) && !gives_up(c); key++)
        get_one(c, key, false, sim_client_timeout_ms(c));
}

void sim_verify(struct sim_client *c) {
    c->doing = "verifying: append";
    for (int i = 0; i < 3 && !gives_up(c); i++) verify_append(c, REPLOG_ACK_QUORUM);
    c->doing = "verifying: follow";
    if (!gives_up(c)) verify_follow(c);
    c->doing = "verifying: get";
    verify_gets(c);
    c->doing = "verifying: read";
    if (!gives_up(c)) verify_log(c);
    c->doing = "verifying: checkpoint";
    uint64_t safe_seq = gives_up(c) ? 0 : checkpoint_one(c, sim_client_timeout_ms(c));
    c->doing = "verifying: truncate";
    if (!gives_up(c)) verify_truncation(c, safe_seq);
    c->doing = "verifying: append to all";
    if (sim_n_destroyed(c->sim) == 0) verify_append(c, REPLOG_ACK_ALL);
}

/* torture-load: appends numbered units through the client library, at a bounded pace, until its
 * standard input ends or it gets SIGTERM; writes down what it sent and what it was told:
 *
 *   S number time_us ACK UNIT                      before the call; ACK: q, l or a; UNIT: torture.h
 *   A number time_us first_seq last_seq term ids   acknowledged; ids: members, "1,3", or "-"
 *   R number time_us STATUS sentence               refused: nothing was appended, for sure
 *   U number time_us STATUS sentence               the outcome is unknown
 *   E time_us sent unanswered                      the end; nothing follows
 *
 * How a failure is read is written in replog/client.h. */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replog/client.h"
#include "torture.h"

static struct {
    const char *endpoints, *record, *name;
    uint64_t seed, rate, window, timeout_ms;
    struct torture_shape shape;
    char ack; /* q, l, a, or m: drawn */
} o = {.name = "a",
       .seed = 1,
       .rate = 500,
       .window = 64,
       .timeout_ms = 30000,
       .shape = {.batch = 8, .filler = 2000, .keyed = 30},
       .ack = 'q'};

static volatile sig_atomic_t told_to_end;
static _Atomic uint64_t unanswered;

static void on_signal(int number) {
    (void)number;
    told_to_end = 1;
}

static bool ended(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char bytes[64];
    if (told_to_end) return true;
    if (poll(&input, 1, 0) != 1) return false;
    return read(STDIN_FILENO, bytes, sizeof bytes) <= 0;
}

/* ---- Answers */

static bool outcome_unknown(replog_status status, const char *text) {
    switch (status) {
    case REPLOG_UNAVAILABLE:
    case REPLOG_DEADLINE_EXCEEDED:
    case REPLOG_FAILED_PRECONDITION:
    case REPLOG_CANCELLED:
        return strstr(text, "nothing was appended") == NULL;
    default:
        return false;
    }
}

static void note_failure(uint64_t number, const replog_error *error) {
    torture_line("%c %" PRIu64 " %" PRIu64 " %s %s",
                 outcome_unknown(error->status, error->text) ? 'U' : 'R', number, torture_now_us(),
                 replog_status_name(error->status), error->text);
}

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    uint64_t number = *(uint64_t *)user;
    free(user);
    if (status) {
        note_failure(number, error);
    } else {
        char ids[16 * 21 + 2] = "-";
        size_t n = 0;
        for (uint32_t i = 0; i < result->n_durable_on; i++) {
            n += (size_t)snprintf(ids + n, sizeof ids - n, "%s%" PRIu64, i ? "," : "",
                                  result->durable_on[i]);
        }
        torture_line("A %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %s", number,
                     torture_now_us(), result->first_seq, result->last_seq, result->term, ids);
    }
    atomic_fetch_sub(&unanswered, 1);
}

/* ---- Sending */

static void fill(replog_batch *batch, const struct torture_unit *unit) {
    static struct torture_bytes bytes;
    replog_batch_clear(batch);
    for (uint32_t i = 0; i < unit->count; i++) {
        replog_error err;
        torture_record(o.name, unit, i, &bytes);
        replog_status status = unit->records[i].kind == 'D'
                                   ? replog_batch_delete(batch, bytes.key, bytes.key_bytes, &err)
                                   : replog_batch_put(batch, bytes.key, bytes.key_bytes,
                                                      bytes.value, bytes.value_bytes, &err);
        if (!status) continue;
        fprintf(stderr, "torture-load: %s\n", err.text);
        exit(3);
    }
}

static char draw_ack(uint64_t *state) {
    if (o.ack != 'm') return o.ack;
    uint64_t drawn = torture_below(state, 20);
    return drawn == 0 ? 'a' : drawn == 1 ? 'l' : 'q';
}

static void send_unit(replog_client *client, replog_batch *batch, const struct torture_unit *unit,
                      char ack) {
    static char text[8192];
    replog_append_options options = {.ack = ack == 'q'   ? REPLOG_ACK_QUORUM
                                            : ack == 'l' ? REPLOG_ACK_LEADER
                                                         : REPLOG_ACK_ALL,
                                     .single = !unit->batch};
    replog_error err;
    uint64_t *number = malloc(sizeof *number);
    if (!number) abort();
    *number = unit->number;
    fill(batch, unit);
    torture_line("S %" PRIu64 " %" PRIu64 " %c %s", unit->number, torture_now_us(), ack,
                 torture_describe(unit, text, sizeof text));
    atomic_fetch_add(&unanswered, 1);
    if (replog_append_async(client, batch, &options, on_answer, number, &err)) {
        note_failure(unit->number, &err);
        free(number);
        atomic_fetch_sub(&unanswered, 1);
    }
}

/* At the given pace, with a burst now and then. Returns how many were sent. */
static uint64_t send_all(replog_client *client, replog_batch *batch) {
    uint64_t state = o.seed, number = 0, next_us = torture_now_us(), burst = 0;
    struct torture_unit unit;
    while (!ended()) {
        torture_draw(&state, &o.shape, ++number, &unit);
        send_unit(client, batch, &unit, draw_ack(&state));
        if (burst == 0 && torture_below(&state, 400) == 0) burst = o.window / 2;
        if (burst > 0) {
            burst--;
            continue;
        }
        uint64_t now_us = torture_now_us();
        next_us += 1000000 / o.rate;
        if (next_us + 50000 < now_us) next_us = now_us; /* what was held up is not made up for */
        if (next_us > now_us) torture_sleep_until_us(next_us);
    }
    return number;
}

static void usage(void) {
    fputs("usage: torture-load --endpoints LIST --record FILE [--name NAME] [--seed N] [--rate N]\n"
          "       [--window N] [--timeout-ms N] [--batch N] [--filler N] [--keyed PERCENT]\n"
          "       [--ack q|l|a|m]\n",
          stderr);
    exit(2);
}

static void options(int argc, char **argv) {
    static const struct option known[] = {
        {"endpoints", 1, NULL, 'e'}, {"record", 1, NULL, 'o'},     {"name", 1, NULL, 'n'},
        {"seed", 1, NULL, 's'},      {"rate", 1, NULL, 'r'},       {"window", 1, NULL, 'w'},
        {"batch", 1, NULL, 'b'},     {"timeout-ms", 1, NULL, 't'}, {"filler", 1, NULL, 'f'},
        {"keyed", 1, NULL, 'k'},     {"ack", 1, NULL, 'a'},        {0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'e') o.endpoints = optarg;
        if (c == 'o') o.record = optarg;
        if (c == 'n') o.name = optarg;
        if (c == 's') o.seed = torture_number("seed", optarg, 0, UINT64_MAX);
        if (c == 'r') o.rate = torture_number("rate", optarg, 1, 100000);
        if (c == 'w') o.window = torture_number("window", optarg, 1, REPLOG_MAX_INFLIGHT);
        if (c == 't') o.timeout_ms = torture_number("timeout-ms", optarg, 1, 3600000);
        if (c == 'b') o.shape.batch = torture_number("batch", optarg, 0, TORTURE_MAX_RECORDS);
        if (c == 'f') o.shape.filler = torture_number("filler", optarg, 0, TORTURE_MAX_FILLER);
        if (c == 'k') o.shape.keyed = torture_number("keyed", optarg, 0, 100);
        if (c == 'a') o.ack = optarg[0];
        if (c == '?') usage();
    }
    if (!o.endpoints || !o.record || optind != argc || strlen(o.name) > TORTURE_NAME_BYTES) usage();
    if (!strchr("qlam", o.ack)) usage();
}

int main(int argc, char **argv) {
    options(argc, argv);
    torture_open_record(o.record);
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: it ends a sleep */
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    replog_client_options how = {.timeout_ms = (uint32_t)o.timeout_ms,
                                 .window = (uint32_t)o.window};
    replog_client *client;
    replog_error err;
    replog_batch *batch = replog_batch_new();
    if (!batch || replog_client_open(o.endpoints, &how, &client, &err)) {
        fprintf(stderr, "torture-load: %s\n", batch ? err.text : "no memory");
        return 3;
    }
    uint64_t sent = send_all(client, batch);
    replog_flush(client, (uint32_t)o.timeout_ms, &err);
    replog_client_close(client); /* what is still in flight fails with CANCELLED: unknown */
    torture_line("E %" PRIu64 " %" PRIu64 " %" PRIu64, torture_now_us(), sent,
                 (uint64_t)atomic_load(&unanswered));
    replog_batch_free(batch);
    return 0;
}

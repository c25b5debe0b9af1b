/* torture-wal: appends numbered units to a log without a cluster (replog/wal.h) until it is killed
 * or the log fails, with checkpoints, syncs and truncations in between; writes down each call
 * before it is made and what came of it:
 *
 *   O time_us first_seq last_seq durable_seq checkpoint_seq torn_bytes     opened
 *   S number time_us UNIT        A number time_us first_seq last_seq      an append, and its
 * success c time_us                    C time_us seq                            a checkpoint y
 * time_us                    Y time_us                                a sync t time_us upto T
 * time_us first_seq                      a truncation F time_us CALL STATUS sentence a call that
 * failed E time_us                                                             closed
 *
 * After a failure every kind of call is tried again, some times: a broken log must refuse them. */
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "replog/wal.h"
#include "torture.h"

enum { TRIES_AFTER_A_FAILURE = 5, RECORDS_AT_ONCE = 16 };

static struct {
    const char *dir, *record, *name;
    uint64_t seed, rate, seconds, truncate;
    replog_wal_options wal;
    struct torture_shape shape;
    uint64_t first_number;
} o = {.name = "w",
       .seed = 1,
       .rate = 4000,
       .seconds = 60,
       .truncate = 1,
       .wal = {.segment_bytes = 256 << 10},
       .shape = {.batch = RECORDS_AT_ONCE, .filler = 3000, .keyed = 30},
       .first_number = 1};

static replog_wal *wal;
static uint64_t failures, last_seq, checkpoint_seq;

static bool ended(void) {
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char bytes[64];
    return poll(&input, 1, 0) == 1 && read(STDIN_FILENO, bytes, sizeof bytes) <= 0;
}

static void failed(const char *call, const replog_error *err) {
    torture_line("F %" PRIu64 " %s %s %s", torture_now_us(), call, replog_status_name(err->status),
                 err->text);
    failures++;
}

/* ---- The calls */

static void append_unit(const struct torture_unit *unit) {
    static struct torture_bytes bytes[RECORDS_AT_ONCE];
    static char text[8192];
    replog_write writes[RECORDS_AT_ONCE];
    for (uint32_t i = 0; i < unit->count; i++) {
        torture_record(o.name, unit, i, &bytes[i]);
        bool is_delete = unit->records[i].kind == 'D';
        writes[i] = (replog_write){.op = is_delete ? REPLOG_OP_DELETE : REPLOG_OP_PUT,
                                   .key = bytes[i].key,
                                   .key_bytes = bytes[i].key_bytes,
                                   .value = is_delete ? NULL : bytes[i].value,
                                   .value_bytes = bytes[i].value_bytes};
    }
    torture_line("S %" PRIu64 " %" PRIu64 " %s", unit->number, torture_now_us(),
                 torture_describe(unit, text, sizeof text));
    uint64_t first = 0, last = 0;
    replog_error err;
    replog_status status =
        unit->batch ? replog_wal_append_batch(wal, writes, unit->count, &first, &last, &err)
                    : replog_wal_append(wal, writes, &first, &err);
    if (status) {
        failed("append", &err);
        return;
    }
    if (!unit->batch) last = first;
    torture_line("A %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64, unit->number, torture_now_us(),
                 first, last);
    last_seq = last;
}

static void checkpoint(void) {
    uint64_t seq;
    replog_error err;
    torture_line("c %" PRIu64, torture_now_us());
    if (replog_wal_checkpoint(wal, &seq, &err)) {
        failed("checkpoint", &err);
        return;
    }
    torture_line("C %" PRIu64 " %" PRIu64, torture_now_us(), seq);
    last_seq = checkpoint_seq = seq;
}

static void sync_log(void) {
    replog_error err;
    torture_line("y %" PRIu64, torture_now_us());
    if (replog_wal_sync(wal, &err)) {
        failed("sync", &err);
    } else {
        torture_line("Y %" PRIu64, torture_now_us());
    }
}

/* Keeps the last `keep` records; what it drops is covered by a checkpoint, or it would be refused.
 */
static void truncate_log(uint64_t keep) {
    uint64_t first, upto = checkpoint_seq > keep ? checkpoint_seq - keep : 0;
    replog_error err;
    if (upto == 0) return;
    torture_line("t %" PRIu64 " %" PRIu64, torture_now_us(), upto);
    if (replog_wal_truncate(wal, upto, false, &first, &err)) {
        failed("truncate", &err);
    } else {
        torture_line("T %" PRIu64 " %" PRIu64, torture_now_us(), first);
    }
}

/* ---- The loop */

static void step(uint64_t *state, uint64_t number) {
    struct torture_unit unit;
    torture_draw(state, &o.shape, number, &unit);
    append_unit(&unit);
    uint64_t drawn = torture_below(state, 300);
    if (drawn < 3) checkpoint();
    if (drawn == 3) sync_log();
    if (drawn == 4 && o.truncate) truncate_log(torture_below(state, 2000));
}

/* Nothing may be acknowledged by a log that has failed. */
static void try_again(uint64_t *state, uint64_t number) {
    for (int i = 0; i < TRIES_AFTER_A_FAILURE; i++) {
        step(state, number + (uint64_t)i);
        sync_log();
        checkpoint();
    }
}

static void run(void) {
    uint64_t state = o.seed, number = o.first_number, next_us = torture_now_us();
    uint64_t end_us = next_us + o.seconds * 1000000, burst = 0;
    while (!ended() && torture_now_us() < end_us) {
        step(&state, number++);
        if (failures) {
            try_again(&state, number);
            return;
        }
        if (burst == 0 && torture_below(&state, 500) == 0) burst = torture_below(&state, 500);
        if (burst > 0) {
            burst--;
            continue;
        }
        next_us += 1000000 / o.rate;
        uint64_t now_us = torture_now_us();
        if (next_us + 20000 < now_us) next_us = now_us;
        if (next_us > now_us) torture_sleep_until_us(next_us);
    }
}

static void usage(void) {
    fputs("usage: torture-wal --dir DIR --record FILE [--name NAME] [--sync sync|batch|none]\n"
          "       [--first-number N] [--seed N] [--rate N] [--seconds N] [--segment-bytes N]\n"
          "       [--batch-ms N] [--batch N] [--filler N] [--truncate 0|1]\n",
          stderr);
    exit(2);
}

static replog_sync_mode sync_mode(const char *text) {
    if (strcmp(text, "sync") == 0) return REPLOG_SYNC_ALWAYS;
    if (strcmp(text, "batch") == 0) return REPLOG_SYNC_BATCH;
    if (strcmp(text, "none") != 0) usage();
    return REPLOG_SYNC_NONE;
}

static void options(int argc, char **argv) {
    static const struct option known[] = {
        {"dir", 1, NULL, 'd'},          {"record", 1, NULL, 'o'},
        {"name", 1, NULL, 'n'},         {"sync", 1, NULL, 'y'},
        {"seed", 1, NULL, 's'},         {"rate", 1, NULL, 'r'},
        {"seconds", 1, NULL, 'e'},      {"truncate", 1, NULL, 't'},
        {"batch-ms", 1, NULL, 'm'},     {"segment-bytes", 1, NULL, 'g'},
        {"batch", 1, NULL, 'b'},        {"filler", 1, NULL, 'f'},
        {"first-number", 1, NULL, 'i'}, {0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (c == 'd') o.dir = optarg;
        if (c == 'o') o.record = optarg;
        if (c == 'n') o.name = optarg;
        if (c == 'y') o.wal.sync = sync_mode(optarg);
        if (c == 's') o.seed = torture_number("seed", optarg, 0, UINT64_MAX);
        if (c == 'r') o.rate = torture_number("rate", optarg, 1, 1000000);
        if (c == 'e') o.seconds = torture_number("seconds", optarg, 1, 3600);
        if (c == 't') o.truncate = torture_number("truncate", optarg, 0, 1);
        if (c == 'm') o.wal.batch_ms = (uint32_t)torture_number("batch-ms", optarg, 1, 60000);
        if (c == 'g') {
            o.wal.segment_bytes =
                (uint32_t)torture_number("segment-bytes", optarg, 65536, 1u << 30);
        }
        if (c == 'b') o.shape.batch = torture_number("batch", optarg, 0, RECORDS_AT_ONCE);
        if (c == 'f') o.shape.filler = torture_number("filler", optarg, 0, TORTURE_MAX_FILLER);
        if (c == 'i') o.first_number = torture_number("first-number", optarg, 1, UINT64_MAX);
        if (c == '?') usage();
    }
    if (!o.dir || !o.record || optind != argc || strlen(o.name) > TORTURE_NAME_BYTES) usage();
}

int main(int argc, char **argv) {
    options(argc, argv);
    torture_open_record(o.record);
    replog_error err;
    replog_wal_info info;
    if (replog_wal_open(o.dir, &o.wal, &wal, &err)) {
        failed("open", &err);
        return 1;
    }
    replog_wal_stat(wal, &info);
    last_seq = info.last_seq;
    checkpoint_seq = info.checkpoint_seq;
    torture_line("O %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64,
                 torture_now_us(), info.first_seq, info.last_seq, info.durable_seq,
                 info.checkpoint_seq, info.torn_bytes);
    run();
    if (replog_wal_close(wal, &err)) failed("close", &err);
    torture_line("E %" PRIu64, torture_now_us());
    return failures ? 1 : 0;
}

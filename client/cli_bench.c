/* replog bench: a closed loop of appends over the asynchronous API, or a streaming read; beside it,
 * what the disk alone does in the same run. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/cli.h"
#include "client/histogram.h"

const char help_bench[] =
    "usage: replog bench [--size B] [--batch N] [--inflight N] [--seconds S] [--ack LEVEL]\n"
    "                    [--keyed] [--read] [--dir DIR]\n"
    "\n"
    "Appends as fast as the cluster takes it: N appends in flight, each answer starts the next.\n"
    "Beforehand, for a second, it measures overwrite+fdatasync of 1 KiB on this machine's disk. "
    "The\n"
    "first half second of the loop is not counted.\n"
    "\n"
    "      --size B      bytes of a record's value (default 1024)\n"
    "      --batch N     records in one append; more than 1: an atomic batch (default 1)\n"
    "      --inflight N  appends in flight, 1 to 1024 (default 64)\n"
    "      --seconds S   how long to count (default 5)\n"
    "      --ack LEVEL   leader, quorum (default) or all (which travels one at a time)\n"
    "      --keyed       records with keys, which every node's store takes in too; without it "
    "plain\n"
    "                    entries\n"
    "      --read        read the log from its first record, for at most S seconds, instead\n"
    "      --dir DIR     where to measure the disk (default: TMPDIR, else /tmp)\n"
    "      --json        "
    "{\"records_per_s\",\"mib_per_s\",\"p50_us\",\"p99_us\",\"p999_us\",\"errors\"} and\n"
    "                    the disk's \"disk_p50_us\"\n";

enum { WARM_UP_MS = 500, DISK_MS = 1000, DISK_FILE_BYTES = 8 << 20, DISK_STEP_BYTES = 4096 };
enum { MAX_ERRORS_IN_A_ROW = 1000 };

struct options {
    uint64_t size, batch, inflight, seconds;
    replog_append_options append;
    bool keyed, read;
    const char *dir;
};

struct bench;
struct slot { /* one append in flight */
    struct bench *bench;
    replog_batch *batch;
    uint64_t started_ns, number;
};

struct bench {
    struct cli *cli;
    struct options o;
    char *value;
    replog_batch *plain; /* shared by all slots; never changed */
    struct slot *slots;
    _Atomic bool counting, ending;
    _Atomic uint64_t records; /* counted so far; for the progress line too */
    _Atomic uint64_t errors;
    /* of the callbacks, which run one at a time; read after the last */
    struct histogram latency;
    uint64_t errors_in_a_row;
    replog_error first_error;
    pthread_mutex_t seed_mu; /* between the first appends and their callbacks: first_error */
};

/* ---- The disk alone
 * ------------------------------------------------------------------------------ */

static bool disk_loop(int fd, struct histogram *h) {
    static char block[1024];
    uint64_t end = clock_mono_ms() + DISK_MS;
    off_t at = 0;
    memset(block, 'x', sizeof block);
    while (clock_mono_ms() < end && !cli_interrupted()) {
        uint64_t start = clock_mono_ns();
        if (pwrite(fd, block, sizeof block, at) != (ssize_t)sizeof block || fdatasync(fd))
            return false;
        histogram_add(h, clock_mono_ns() - start);
        at = (at + DISK_STEP_BYTES) % DISK_FILE_BYTES;
    }
    return true;
}

static bool disk_baseline(const char *dir, struct histogram *h) {
    char path[4096];
    snprintf(path, sizeof path, "%s/replog-bench-XXXXXX", dir);
    int fd = mkstemp(path);
    char *zeros = calloc(1, DISK_FILE_BYTES);
    bool ok = fd >= 0 && zeros &&
              pwrite(fd, zeros, DISK_FILE_BYTES, 0) == (ssize_t)DISK_FILE_BYTES && fsync(fd) == 0 &&
              disk_loop(fd, h);
    if (!ok) fprintf(stderr, "replog: the disk at %s was not measured: %s\n", dir, strerror(errno));
    if (fd >= 0) {
        unlink(path);
        close(fd);
    }
    free(zeros);
    return ok;
}

/* ---- Appends
 * ------------------------------------------------------------------------------------- */

static void start(struct slot *slot);

static bool fill(struct bench *b, replog_batch *batch, uint64_t number, replog_error *err) {
    replog_batch_clear(batch);
    for (uint64_t i = 0; i < b->o.batch; i++) {
        char key[40];
        size_t key_bytes = 0;
        if (b->o.keyed) {
            uint64_t state = number * b->o.batch + i;
            key_bytes = (size_t)snprintf(key, sizeof key, "bench-%016" PRIx64, rng_next(&state));
        }
        if (replog_batch_put(batch, key, key_bytes, b->value, b->o.size, err)) return false;
    }
    return true;
}

static void note_error(struct bench *b, const replog_error *err) {
    atomic_fetch_add(&b->errors, 1);
    pthread_mutex_lock(&b->seed_mu);
    if (!b->first_error.status) b->first_error = *err;
    if (++b->errors_in_a_row >= MAX_ERRORS_IN_A_ROW) b->ending = true;
    pthread_mutex_unlock(&b->seed_mu);
}

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    struct slot *slot = user;
    struct bench *b = slot->bench;
    (void)result;
    if (status) {
        note_error(b, error);
    } else {
        b->errors_in_a_row = 0;
        if (b->counting) {
            histogram_add(&b->latency, clock_mono_ns() - slot->started_ns);
            atomic_fetch_add_explicit(&b->records, b->o.batch, memory_order_relaxed);
        }
    }
    if (!b->ending) start(slot);
}

static void start(struct slot *slot) {
    struct bench *b = slot->bench;
    replog_error err;
    slot->number += b->o.inflight;
    if (b->o.keyed && !fill(b, slot->batch, slot->number, &err)) {
        note_error(b, &err);
        return;
    }
    slot->started_ns = clock_mono_ns();
    if (replog_append_async(b->cli->client, slot->batch, &b->o.append, on_answer, slot, &err)) {
        note_error(b, &err);
    }
}

static bool prepare(struct bench *b, replog_error *err) {
    err->status = REPLOG_RESOURCE_EXHAUSTED;
    snprintf(err->text, sizeof err->text, "out of memory");
    b->value = malloc(b->o.size + 1);
    b->slots = calloc(b->o.inflight, sizeof *b->slots);
    b->plain = replog_batch_new();
    if (!b->value || !b->slots || !b->plain) return false;
    uint64_t state = 1;
    for (uint64_t i = 0; i < b->o.size; i++) b->value[i] = (char)('a' + rng_next(&state) % 26);
    for (uint64_t i = 0; i < b->o.inflight; i++) {
        struct slot *slot = &b->slots[i];
        *slot = (struct slot){.bench = b, .batch = b->plain, .number = i};
        if (!b->o.keyed) continue;
        slot->batch = replog_batch_new();
        if (!slot->batch) return false;
    }
    return fill(b, b->plain, 0, err);
}

static void discard(struct bench *b) {
    for (uint64_t i = 0; b->slots && i < b->o.inflight; i++) {
        if (b->slots[i].batch != b->plain) replog_batch_free(b->slots[i].batch);
    }
    replog_batch_free(b->plain);
    free(b->slots);
    free(b->value);
}

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* Lets the loop run; returns for how many ns it counted. */
static uint64_t count_appends(struct bench *b) {
    struct progress progress;
    uint64_t warm = clock_mono_ms() + WARM_UP_MS;
    for (uint64_t i = 0; i < b->o.inflight; i++) start(&b->slots[i]);
    while (clock_mono_ms() < warm && !b->ending) sleep_ms(10);
    uint64_t from = clock_mono_ns(), end = from + b->o.seconds * 1000000000u;
    b->counting = true;
    progress_start(&progress);
    while (clock_mono_ns() < end && !b->ending && !cli_interrupted()) {
        sleep_ms(20);
        if (progress_due(&progress)) {
            double s = (double)(clock_mono_ns() - from) / 1e9;
            progress_line("%4.1f s  %.0f records/s  %" PRIu64 " errors", s, (double)b->records / s,
                          (uint64_t)b->errors);
        }
    }
    b->counting = false;
    uint64_t counted = clock_mono_ns() - from;
    b->ending = true;
    progress_end(&progress);
    while (replog_flush(b->cli->client, 60000, NULL)) continue;
    return counted;
}

/* ---- Reads
 * --------------------------------------------------------------------------------------- */

static int count_reads(struct bench *b, uint64_t *ns, uint64_t *bytes) {
    replog_reader *reader;
    replog_entry e;
    replog_error err;
    replog_status status = replog_reader_open(b->cli->client, NULL, &reader, &err);
    if (status) return cli_failed(status, err.text);
    struct progress progress;
    progress_start(&progress);
    uint64_t from = clock_mono_ns(), end = from + b->o.seconds * 1000000000u, records = 0;
    while (!cli_interrupted()) {
        status = replog_reader_next(reader, 0, &e, &err);
        if (status) break;
        records++;
        *bytes += e.key_bytes + e.value_bytes;
        if (records % 256) continue;
        if (clock_mono_ns() >= end) break;
        if (progress_due(&progress)) progress_line("%" PRIu64 " records", records);
    }
    *ns = clock_mono_ns() - from;
    progress_end(&progress);
    replog_reader_close(reader);
    b->records = records;
    return status && status != REPLOG_NOT_FOUND ? cli_failed(status, err.text) : CLI_DONE;
}

/* ---- What comes out
 * ------------------------------------------------------------------------------- */

static double us(const struct histogram *h, unsigned per_mille) {
    return (double)histogram_at(h, per_mille) / 1000.0;
}

static void report(const struct bench *b, double seconds, double mib,
                   const struct histogram *disk) {
    double rate = seconds > 0 ? (double)b->records / seconds : 0;
    double mib_s = seconds > 0 ? mib / seconds : 0;
    const struct histogram *h = &b->latency;
    if (b->cli->json) {
        printf("{\"records_per_s\":%.1f,\"mib_per_s\":%.3f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
               "\"p999_us\":%.1f,\"errors\":%" PRIu64,
               rate, mib_s, us(h, 500), us(h, 990), us(h, 999), (uint64_t)b->errors);
        if (disk->count)
            printf(",\"disk_p50_us\":%.1f,\"disk_p99_us\":%.1f", us(disk, 500), us(disk, 990));
        puts("}");
        return;
    }
    printf("%.0f records/s, %.1f MiB/s, %" PRIu64 " errors\n", rate, mib_s, (uint64_t)b->errors);
    if (h->count) {
        printf("latency of an append: p50 %.0f us, p99 %.0f us, p99.9 %.0f us\n", us(h, 500),
               us(h, 990), us(h, 999));
    }
    if (disk->count) {
        printf("overwrite+fdatasync of 1 KiB at %s: p50 %.0f us, p99 %.0f us", b->o.dir,
               us(disk, 500), us(disk, 990));
        if (h->count) printf(" (an append: %.1f times that p50)", us(h, 500) / us(disk, 500));
        puts("");
    }
}

static int run_appends(struct bench *b) {
    static struct histogram disk;
    replog_error err;
    if (!prepare(b, &err)) {
        discard(b);
        return cli_failed(err.status, err.text);
    }
    uint64_t append_bytes = replog_batch_bytes(b->plain) + b->o.batch * 64;
    replog_client_options o = {.window = (uint32_t)b->o.inflight,
                               .window_bytes = (16u << 20) + b->o.inflight * append_bytes};
    int status = cli_connect(b->cli, &o);
    if (!status) {
        disk_baseline(b->o.dir, &disk);
        double seconds = (double)count_appends(b) / 1e9;
        double bytes = (double)b->records * (double)b->o.size;
        report(b, seconds, bytes / (1 << 20), &disk);
        if (b->first_error.status) {
            status = cli_failed(b->first_error.status, b->first_error.text);
            if (b->records) status = CLI_DONE;
        }
    }
    replog_client_close(b->cli->client);
    b->cli->client = NULL;
    discard(b);
    return status;
}

static int run_reads(struct bench *b) {
    static const struct histogram none;
    uint64_t ns = 0, bytes = 0;
    int status = cli_connect(b->cli, NULL);
    if (status) return status;
    status = count_reads(b, &ns, &bytes);
    if (status) return status;
    if (b->records == 0) fprintf(stderr, "replog: the log holds no records to read\n");
    report(b, (double)ns / 1e9, (double)bytes / (1 << 20), &none);
    return CLI_DONE;
}

static bool take_option(struct options *o, int option) {
    switch (option) {
    case 's':
        return cli_number("--size", optarg, 0, REPLOG_MAX_VALUE_BYTES, &o->size);
    case 'b':
        return cli_number("--batch", optarg, 1, REPLOG_MAX_BATCH_RECORDS, &o->batch);
    case 'i':
        return cli_number("--inflight", optarg, 1, REPLOG_MAX_INFLIGHT, &o->inflight);
    case 'S':
        return cli_number("--seconds", optarg, 1, 86400, &o->seconds);
    case 'a':
        return cli_ack(optarg, &o->append.ack);
    case 'k':
        return o->keyed = true;
    case 'r':
        return o->read = true;
    case 'd':
        o->dir = optarg;
        return true;
    default:
        return false;
    }
}

int cmd_bench(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"size", required_argument, NULL, 's'},
                                        {"batch", required_argument, NULL, 'b'},
                                        {"inflight", required_argument, NULL, 'i'},
                                        {"seconds", required_argument, NULL, 'S'},
                                        {"ack", required_argument, NULL, 'a'},
                                        {"keyed", no_argument, NULL, 'k'},
                                        {"read", no_argument, NULL, 'r'},
                                        {"dir", required_argument, NULL, 'd'},
                                        {0}};
    static struct bench b;
    const char *tmp = getenv("TMPDIR");
    b.cli = cli;
    b.o = (struct options){.size = 1024, .batch = 1, .inflight = 64, .seconds = 5};
    b.o.dir = tmp && *tmp ? tmp : "/tmp";
    pthread_mutex_init(&b.seed_mu, NULL);
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        if (!take_option(&b.o, option)) return CLI_USAGE;
    }
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage("bench", "unexpected '%s'", argv[optind]);
    b.o.append.single = b.o.batch == 1;
    cli_catch_signals();
    return b.o.read ? run_reads(&b) : run_appends(&b);
}

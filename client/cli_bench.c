/* replog bench: a load of appends over the asynchronous API (bench_load.h), or a streaming read;
 * beside it, what the disk alone does in the same run. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/clock.h"
#include "client/bench_load.h"
#include "client/cli.h"

const char help_bench[] =
    "usage: replog bench [--size B] [--batch N] [--inflight N] [--rate R] [--seconds S]\n"
    "                    [--warmup S] [--ack LEVEL] [--keyed] [--read] [--dir DIR]\n"
    "\n"
    "Appends as fast as the cluster takes it: N appends in flight, each answer starts the next. "
    "With\n"
    "--rate, R appends are due every second whatever the cluster does, and the latency of each "
    "counts\n"
    "from the time when it was due: that is what users of a service see who do not wait for each "
    "other.\n"
    "Beforehand, for a second, it measures overwrite+fdatasync of 1 KiB on this machine's disk.\n"
    "Exit status 1 when an append failed; the latency of a load without --rate leaves those out.\n"
    "\n"
    "      --size B      bytes of a record's value (default 1024)\n"
    "      --batch N     records in one append; more than 1: an atomic batch (default 1)\n"
    "      --inflight N  appends in flight, 1 to 1024 (default 64; with --rate: at most, 1024)\n"
    "      --rate R      appends due per second, 1 to 10000000\n"
    "      --seconds S   how long to count (default 5)\n"
    "      --warmup S    how long to run before that, 0 to 3600 (default 1)\n"
    "      --ack LEVEL   leader, quorum (default) or all (which travels one at a time)\n"
    "      --keyed       records with keys, which every node's store takes in too; without it "
    "plain\n"
    "                    entries\n"
    "      --read        append nothing: read the log from its first record, S seconds at most\n"
    "      --dir DIR     where to measure the disk (default: TMPDIR, else /tmp)\n"
    "      --json        "
    "{\"records_per_s\",\"mib_per_s\",\"seconds\",\"ended_early\",\"errors\",\"late\",\n"
    "                    \"count\"}; where appends were measured \"p50_us\", \"p90_us\", "
    "\"p99_us\",\n"
    "                    \"p999_us\", \"max_us\"; and the disk's \"disk_p50_us\", "
    "\"disk_p99_us\"\n";

enum { DISK_MS = 1000, DISK_FILE_BYTES = 8 << 20, DISK_STEP_BYTES = 4096 };

struct bench {
    struct cli *cli;
    struct bench_load load;
    uint64_t seconds, warmup_s;
    bool read;
    const char *for_appends; /* an option that --read does not know; NULL: none */
    const char *dir;
    struct bench_figures figures;
    uint64_t bytes; /* of the values (read: and keys) that were counted */
};

/* ---- The disk alone -------------------------------------------------------------------------- */

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
    struct statfs fs;
    if (statfs(dir, &fs) == 0 && fs.f_type == TMPFS_MAGIC) {
        fprintf(stderr, "replog: the disk was not measured: %s is in memory; --dir names another\n",
                dir);
        return false;
    }
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

/* ---- Reads ----------------------------------------------------------------------------------- */

static int count_reads(struct bench *b) {
    replog_reader *reader;
    replog_entry e;
    replog_error err;
    replog_status status = replog_reader_open(b->cli->client, NULL, &reader, &err);
    if (status) return cli_failed(status, err.text);
    struct progress progress;
    progress_start(&progress);
    uint64_t from = clock_mono_ns(), end = from + b->seconds * 1000000000u, records = 0;
    while (!cli_interrupted()) {
        status = replog_reader_next(reader, 0, &e, &err);
        if (status) break;
        records++;
        b->bytes += e.key_bytes + e.value_bytes;
        if (records % 256) continue;
        if (clock_mono_ns() >= end) break;
        if (progress_due(&progress)) progress_line("%" PRIu64 " records", records);
    }
    b->figures.counted_ns = clock_mono_ns() - from;
    progress_end(&progress);
    replog_reader_close(reader);
    b->figures.records = records;
    return status && status != REPLOG_NOT_FOUND ? cli_failed(status, err.text) : CLI_DONE;
}

/* ---- What comes out -------------------------------------------------------------------------- */

static double us(const struct histogram *h, unsigned per_mille) {
    return (double)histogram_at(h, per_mille) / 1000.0;
}

/* The latency and the disk are left out when nothing was measured of them. */
static void report_json(const struct bench *b, double rate, double mib_s,
                        const struct histogram *disk) {
    const struct bench_figures *f = &b->figures;
    const struct histogram *h = &f->latency;
    printf("{\"records_per_s\":%.1f,\"mib_per_s\":%.3f,\"seconds\":%.3f,\"ended_early\":%s,"
           "\"errors\":%" PRIu64 ",\"late\":%" PRIu64 ",\"count\":%" PRIu64,
           rate, mib_s, (double)f->counted_ns / 1e9, f->ended_early ? "true" : "false", f->errors,
           f->late, h->count);
    if (h->count) {
        printf(",\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
               us(h, 500), us(h, 900), us(h, 990), us(h, 999), (double)h->max / 1000.0);
    }
    if (disk->count)
        printf(",\"disk_p50_us\":%.1f,\"disk_p99_us\":%.1f", us(disk, 500), us(disk, 990));
    puts("}");
}

static void report_text(const struct bench *b, double rate, double mib_s,
                        const struct histogram *disk) {
    const struct bench_figures *f = &b->figures;
    const struct histogram *h = &f->latency;
    const struct bench_load *load = &b->load;
    if (f->ended_early)
        printf("ended after %.1f of %" PRIu64 " s: %s\n", (double)f->counted_ns / 1e9, b->seconds,
               f->ended_early);
    printf("%.0f records/s, %.1f MiB/s, %" PRIu64 " errors\n", rate, mib_s, f->errors);
    if (h->count) {
        printf("latency of %s%" PRIu64 " appends%s: p50 %.0f us, p90 %.0f us, p99 %.0f us, "
               "p99.9 %.0f us, max %.0f us\n",
               f->errors && !load->rate ? "the other " : "", h->count,
               load->rate ? ", from when they were due" : "", us(h, 500), us(h, 900), us(h, 990),
               us(h, 999), (double)h->max / 1000.0);
    }
    if (f->late)
        printf("the cluster did not keep up with %" PRIu64 " appends/s: %" PRIu64
               " that were due at the end had not been sent (%" PRIu64 " may be in flight)\n",
               load->rate, f->late, load->inflight);
    if (disk->count) {
        printf("overwrite+fdatasync of 1 KiB at %s: p50 %.0f us, p99 %.0f us", b->dir,
               us(disk, 500), us(disk, 990));
        /* what is larger, or waits for others, is not to be compared with one small write */
        if (h->count && load->inflight == 1 && load->batch == 1 && load->size_bytes <= 1024)
            printf(" (an append: %.1f times that p50)", us(h, 500) / us(disk, 500));
        puts("");
    }
}

static void report(const struct bench *b, const struct histogram *disk) {
    double seconds = (double)b->figures.counted_ns / 1e9;
    double rate = seconds > 0 ? (double)b->figures.records / seconds : 0;
    double mib_s = seconds > 0 ? (double)b->bytes / (1 << 20) / seconds : 0;
    (b->cli->json ? report_json : report_text)(b, rate, mib_s, disk);
}

static int run_appends(struct bench *b) {
    static struct histogram disk;
    replog_error err;
    replog_client_options o = {.window = (uint32_t)b->load.inflight,
                               .window_bytes =
                                   (16u << 20) + b->load.inflight * bench_append_bytes(&b->load)};
    int status = cli_connect(b->cli, &o);
    if (status) return status;
    b->load.client = b->cli->client;
    disk_baseline(b->dir, &disk);
    if (bench_run(&b->load, &b->figures, &err)) {
        status = cli_failed(err.status, err.text);
    } else {
        const replog_error *first = &b->figures.first_error;
        b->bytes = b->figures.records * b->load.size_bytes;
        report(b, &disk);
        if (first->status) status = cli_failed(first->status, first->text);
    }
    replog_client_close(b->cli->client);
    b->cli->client = NULL;
    return status;
}

static int run_reads(struct bench *b) {
    static const struct histogram none;
    int status = cli_connect(b->cli, NULL);
    if (!status) status = count_reads(b);
    if (status) return status;
    if (b->figures.records == 0) fprintf(stderr, "replog: the log holds no records to read\n");
    report(b, &none);
    return CLI_DONE;
}

static bool take_option(struct bench *b, int option, const char *name) {
    struct bench_load *load = &b->load;
    if (option != 'r' && option != 'S' && option != '?') b->for_appends = name;
    switch (option) {
    case 's':
        return cli_number("--size", optarg, 0, REPLOG_MAX_VALUE_BYTES, &load->size_bytes);
    case 'b':
        return cli_number("--batch", optarg, 1, REPLOG_MAX_BATCH_RECORDS, &load->batch);
    case 'i':
        return cli_number("--inflight", optarg, 1, REPLOG_MAX_INFLIGHT, &load->inflight);
    case 'R':
        return cli_number("--rate", optarg, 1, 10000000, &load->rate);
    case 'S':
        return cli_number("--seconds", optarg, 1, 86400, &b->seconds);
    case 'w':
        return cli_number("--warmup", optarg, 0, 3600, &b->warmup_s);
    case 'a':
        return cli_ack(optarg, &load->append.ack);
    case 'k':
        return load->keyed = true;
    case 'r':
        return b->read = true;
    case 'd':
        b->dir = optarg;
        return true;
    default:
        return false;
    }
}

int cmd_bench(struct cli *cli, int argc, char **argv) {
    static const struct option own[] = {{"size", required_argument, NULL, 's'},
                                        {"batch", required_argument, NULL, 'b'},
                                        {"inflight", required_argument, NULL, 'i'},
                                        {"rate", required_argument, NULL, 'R'},
                                        {"seconds", required_argument, NULL, 'S'},
                                        {"warmup", required_argument, NULL, 'w'},
                                        {"ack", required_argument, NULL, 'a'},
                                        {"keyed", no_argument, NULL, 'k'},
                                        {"read", no_argument, NULL, 'r'},
                                        {"dir", required_argument, NULL, 'd'},
                                        {0}};
    static struct bench b;
    const char *tmp = getenv("TMPDIR");
    b = (struct bench){.cli = cli,
                       .load = {.size_bytes = 1024, .batch = 1},
                       .seconds = 5,
                       .warmup_s = 1,
                       .dir = tmp && *tmp ? tmp : "/tmp"};
    for (int option; (option = cli_option(cli, argc, argv, own)) != -1;) {
        size_t at = 0;
        while (own[at].name && own[at].val != option) at++;
        if (!take_option(&b, option, own[at].name)) return CLI_USAGE;
    }
    if (cli->help) return CLI_DONE;
    if (optind < argc) return cli_usage("bench", "unexpected '%s'", argv[optind]);
    if (b.read && b.for_appends)
        return cli_usage("bench", "--%s is for appends, not for --read", b.for_appends);
    if (!b.load.inflight) b.load.inflight = b.load.rate ? REPLOG_MAX_INFLIGHT : 64;
    b.load.append.single = b.load.batch == 1;
    b.load.warmup_ms = 1000 * b.warmup_s;
    b.load.count_ms = 1000 * b.seconds;
    cli_catch_signals();
    return b.read ? run_reads(&b) : run_appends(&b);
}

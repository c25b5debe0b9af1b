/* replog-sim: runs seeds. */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/mutant.h"
#include "sim_faults.h"
#include "sim_net.h"
#include "sim_node.h"
#include "sim_watch.h"
#include "sim_witness.h"

static const char *program;

/* ---- One run --------------------------------------------------------------------------------- */

struct result {
    uint64_t seed, hash, virtual_us;
    unsigned n_nodes;
    struct sim_figures figures;
    uint64_t faults[SIM_MAX_FAULT_KINDS];
};

static void replay_command(const struct sim_options *o, char *out, size_t size) {
    int n = snprintf(out, size, "%s --seed %" PRIu64, program, o->seed);
    if (o->n_nodes) n += snprintf(out + n, size - (size_t)n, " --nodes %u", o->n_nodes);
    if (o->length_us)
        n += snprintf(out + n, size - (size_t)n, " --ms %" PRIu64, o->length_us / 1000);
    if (o->stop_us)
        n += snprintf(out + n, size - (size_t)n, " --stop-ms %" PRIu64, o->stop_us / 1000);
#ifdef REPLOG_MUTANT
    if (replog_mutant)
        n += snprintf(out + n, size - (size_t)n, " --mutant %s", mutant_name(replog_mutant));
#endif
    if (o->only) snprintf(out + n, size - (size_t)n, " --only %s", o->only[0] ? o->only : "none");
}

static void report_failure(const struct sim *sim, const char *text) {
    char command[4096];
    replay_command(sim_options(sim), command, sizeof command);
    printf("FAILED seed %" PRIu64 " at %" PRIu64 ".%06" PRIu64 " s: %s\n  replay: %s --trace\n",
           sim_options(sim)->seed, sim_now_us(sim) / 1000000, sim_now_us(sim) % 1000000, text,
           command);
}

static void run_one(const struct sim_options *options, struct result *result) {
    struct sim *sim = sim_new(options);
    sim_faults_new(sim);
    sim->net = sim_net_new(sim);
    sim->watch = sim_watch_new(sim);
    sim->witness = sim_witness_new(sim);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) sim->members[id] = sim_member_new(sim, id);
    static const char *const syncs[] = {"always", "batch", "none"};
    sim_trace(
        sim, 0,
        "seed %" PRIu64 ": %u nodes, sync %s, heartbeat %u ms, election %u ms, segments of %u "
        "bytes, %zu faults up to %" PRIu64 " ms",
        options->seed, sim->n_nodes, syncs[sim->sync], sim->node_options.heartbeat_ms,
        sim->node_options.election_ms, sim->segment_bytes, sim_faults_n(sim), sim->quiet_us / 1000);
    sim_faults_start(sim);
    sim_clients_start(sim);
    sim_run_until(sim, sim->quiet_us);
    sim_faults_quiet(sim);
    sim_clients_quiet(sim);
    sim_run_until(sim, sim->healed_us);
    sim_watch_healed(sim);
    sim_run_until(sim, sim->end_us);
    sim_clients_finish(sim);
    sim_watch_finish(sim);
    sim_oracle_finish(sim);
    *result = (struct result){.seed = options->seed,
                              .hash = sim_hash(sim),
                              .virtual_us = sim->end_us - 1000000,
                              .n_nodes = sim->n_nodes,
                              .figures = *sim_figures(sim)};
    memcpy(result->faults, sim_faults_counts(sim), sizeof result->faults);
    for (uint64_t id = 1; id <= sim->n_nodes; id++)
        if (sim->members[id]->running) sim_member_end(sim->members[id], SIM_KILL, DISK_LOSE_NONE);
    sim_clients_free(sim);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) sim_member_free(sim->members[id]);
    sim_net_free(sim->net);
    sim_watch_free(sim->watch);
    sim_witness_free(sim->witness);
    sim_faults_free(sim->faults);
    sim_free(sim);
}

static void print_faults(const uint64_t *counts) {
    const char *name;
    bool any = false;
    for (unsigned kind = 0; (name = sim_faults_name(kind)); kind++) {
        if (!counts[kind]) continue;
        printf("%s%s %" PRIu64, any ? ", " : "", name, counts[kind]);
        any = true;
    }
    if (!any) printf("none");
}

static void print_result(const struct result *r) {
    printf("seed %" PRIu64 ": %u nodes, %" PRIu64 " virtual s, %" PRIu64 " events, %" PRIu64
           " appends acknowledged, %" PRIu64 " leaders, faults: ",
           r->seed, r->n_nodes, r->virtual_us / 1000000, r->figures.events,
           r->figures.appends_acked, r->figures.leaders);
    print_faults(r->faults);
    printf("; trace %016" PRIx64 "\n", r->hash);
}

/* ---- Many: children run slices, and tell of each seed through a pipe. A seed that fails ends its
 * child; another goes on behind it. */

enum { HANG_S = 120 };

struct child {
    pid_t pid;
    int fd;
    uint64_t next, step; /* the seed it is at, or that comes next */
    bool done;
};

static void child_main(int fd, struct sim_options options, uint64_t from, uint64_t to,
                       uint64_t step) {
    for (uint64_t seed = from; seed <= to; seed += step) {
        struct result r;
        options.seed = seed;
        alarm(HANG_S);
        run_one(&options, &r);
        if (write(fd, &r, sizeof r) != (ssize_t)sizeof r) _exit(3);
    }
    fflush(stdout);
    _exit(0);
}

static void start_child(struct child *c, const struct sim_options *options, uint64_t to) {
    int fds[2];
    CHECK(pipe(fds) == 0);
    fflush(stdout);
    c->pid = fork();
    CHECK(c->pid >= 0);
    if (c->pid == 0) {
        close(fds[0]);
        child_main(fds[1], *options, c->next, to, c->step);
    }
    close(fds[1]);
    c->fd = fds[0];
}

struct total {
    uint64_t runs, failed, virtual_us;
    struct sim_figures figures;
    uint64_t faults[SIM_MAX_FAULT_KINDS];
};

static void add_up(struct total *t, const struct result *r) {
    t->runs++;
    t->virtual_us += r->virtual_us;
    const uint64_t *from = (const uint64_t *)&r->figures;
    uint64_t *to = (uint64_t *)&t->figures;
    for (size_t i = 0; i < sizeof r->figures / sizeof *to; i++) to[i] += from[i];
    for (size_t i = 0; i < SIM_MAX_FAULT_KINDS; i++) t->faults[i] += r->faults[i];
}

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void progress(const struct total *t, uint64_t n, double start_s, bool last) {
    static double shown_s;
    double now = now_s(), gone = now - start_s;
    if (!isatty(STDERR_FILENO) || (!last && now - shown_s < 0.2)) return;
    shown_s = now;
    uint64_t done = t->runs + t->failed;
    char bar[31];
    for (size_t i = 0; i < 30; i++) bar[i] = i * n < done * 30 ? '#' : '.';
    bar[30] = 0;
    fprintf(stderr, "\r[%s] %" PRIu64 "/%" PRIu64 " seeds, %.1f a second, %" PRIu64 " failed%s",
            bar, done, n, gone > 0 ? (double)done / gone : 0, t->failed, last ? "\n" : "");
}

static bool wants_results; /* a line for each seed that passes */

/* One result, or the end of the child; false: it has ended. */
static bool serve_child(struct child *c, const struct sim_options *options, uint64_t to,
                        struct total *t) {
    struct result r;
    ssize_t got;
    do got = read(c->fd, &r, sizeof r);
    while (got < 0 && errno == EINTR);
    if (got == (ssize_t)sizeof r) {
        add_up(t, &r);
        if (wants_results) print_result(&r);
        c->next = r.seed + c->step;
        return true;
    }
    int status;
    close(c->fd);
    CHECK(waitpid(c->pid, &status, 0) == c->pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return false;
    t->failed++;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) {
        struct sim_options at = *options;
        char command[4096];
        at.seed = c->next;
        replay_command(&at, command, sizeof command);
        printf("FAILED seed %" PRIu64 ": the process ended with %s %d\n  replay: %s --trace\n",
               c->next, WIFSIGNALED(status) ? "signal" : "status",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), command);
    }
    c->next += c->step;
    if (c->next > to) return false;
    start_child(c, options, to);
    return true;
}

static int run_many(const struct sim_options *options, uint64_t from, uint64_t to, unsigned jobs,
                    uint64_t max_failures) {
    struct total t = {0};
    struct child children[64];
    double start_s = now_s();
    uint64_t n = to - from + 1;
    if (jobs > n) jobs = (unsigned)n;
    for (unsigned i = 0; i < jobs; i++) {
        children[i] = (struct child){.next = from + i, .step = jobs};
        start_child(&children[i], options, to);
    }
    unsigned left = jobs;
    while (left > 0 && t.failed < max_failures) {
        fd_set set;
        int highest = 0;
        FD_ZERO(&set);
        for (unsigned i = 0; i < jobs; i++) {
            if (children[i].done) continue;
            FD_SET(children[i].fd, &set);
            if (children[i].fd > highest) highest = children[i].fd;
        }
        if (select(highest + 1, &set, NULL, NULL, NULL) < 0) continue;
        for (unsigned i = 0; i < jobs; i++) {
            if (children[i].done || !FD_ISSET(children[i].fd, &set)) continue;
            if (serve_child(&children[i], options, to, &t)) continue;
            children[i].done = true;
            left--;
        }
        progress(&t, n, start_s, false);
    }
    for (unsigned i = 0; i < jobs; i++) {
        if (children[i].done) continue;
        kill(children[i].pid, SIGKILL);
        waitpid(children[i].pid, NULL, 0);
    }
    progress(&t, n, start_s, true);
    double s = now_s() - start_s;
    printf("%" PRIu64 " seeds passed, %" PRIu64 " failed; %" PRIu64 " virtual s, %" PRIu64
           " events, %" PRIu64 " appends acknowledged, %" PRIu64 " unknown, %" PRIu64
           " reads, %" PRIu64 " gets, %" PRIu64 " truncations, %" PRIu64 " leaders, %" PRIu64
           " appends of evicted sessions refused; %.1f s, %.1f seeds a second\nfaults: ",
           t.runs, t.failed, t.virtual_us / 1000000, t.figures.events, t.figures.appends_acked,
           t.figures.appends_unknown, t.figures.reads, t.figures.gets, t.figures.truncations,
           t.figures.leaders, t.figures.evicted, s, (double)(t.runs + t.failed) / s);
    print_faults(t.faults);
    printf("\n");
    return t.failed ? 1 : 0;
}

/* ---- Shrinking: fewer faults, a shorter run, and the same promise broken --------------------- */

enum { TAG_BYTES = 160 };

struct shrinking {
    struct sim_options options; /* its `stop_us`: as early as was found */
    char tag[TAG_BYTES];        /* of the failure that is looked for */
    unsigned *list;             /* the faults that are left */
    size_t n;
    uint64_t length_ms; /* with faults, in the run as it was */
    unsigned n_tries;
};

/* In the child that tries a run. */
static void tell_failure(const struct sim *sim, const char *text) {
    (void)sim;
    fprintf(stderr, "%s\n", text);
}

/* The first line that was said, and of a promise's its name in brackets only. */
static void read_tag(int fd, char tag[TAG_BYTES]) {
    char rest[4096];
    size_t n = 0;
    ssize_t got;
    do {
        bool full = n == TAG_BYTES - 1;
        got = full ? read(fd, rest, sizeof rest) : read(fd, tag + n, TAG_BYTES - 1 - n);
        if (got > 0 && !full) n += (size_t)got;
    } while (got > 0 || (got < 0 && errno == EINTR));
    tag[n] = 0;
    tag[strcspn(tag, "\n")] = 0;
    char *end = strchr(tag, ']');
    if (tag[0] == '[' && end) end[1] = 0;
}

/* Runs it in a child. False: it does not fail. The tag is a promise's name, a broken invariant's
 * place, or how the process ended. */
static bool find_tag(const struct sim_options *options, char tag[TAG_BYTES]) {
    int fds[2], status;
    CHECK(pipe(fds) == 0);
    fflush(stdout);
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        struct result r;
        CHECK(freopen("/dev/null", "w", stdout) != NULL && dup2(fds[1], STDERR_FILENO) >= 0);
        close(fds[0]);
        close(fds[1]);
        sim_on_fail(tell_failure);
        alarm(HANG_S);
        run_one(options, &r);
        _exit(0);
    }
    close(fds[1]);
    read_tag(fds[0], tag);
    close(fds[0]);
    CHECK(waitpid(pid, &status, 0) == pid);
    if (!*tag) snprintf(tag, TAG_BYTES, "wait status %d", status);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void list_text(const unsigned *list, size_t n, char *out) {
    *out = 0;
    for (size_t i = 0; i < n; i++) out += sprintf(out, "%s%u", i ? "," : "", list[i]);
}

static bool still_fails(struct shrinking *s, const unsigned *list, size_t n, uint64_t stop_us) {
    struct sim_options options = s->options;
    char tag[TAG_BYTES], *text = malloc(12 * n + 1);
    CHECK(text);
    list_text(list, n, text);
    options.only = text;
    options.stop_us = stop_us;
    s->n_tries++;
    bool fails = find_tag(&options, tag) && strcmp(tag, s->tag) == 0;
    free(text);
    return fails;
}

/* Takes away ever smaller parts of the list while the run still fails. */
static bool thin_out(struct shrinking *s) {
    size_t n = s->n, before = n;
    unsigned *trial = malloc((n + 1) * sizeof *trial);
    CHECK(trial);
    for (size_t part = (n + 1) / 2; part >= 1 && n > 0; part /= 2) {
        for (size_t at = 0; at < n;) {
            size_t gone = n - at < part ? n - at : part;
            memcpy(trial, s->list, at * sizeof *trial);
            memcpy(trial + at, s->list + at + gone, (n - at - gone) * sizeof *trial);
            if (still_fails(s, trial, n - gone, s->options.stop_us)) {
                n -= gone;
                memcpy(s->list, trial, n * sizeof *trial);
            } else {
                at += gone;
            }
        }
    }
    free(trial);
    s->n = n;
    return n < before;
}

static uint64_t stop_ms(const struct shrinking *s) {
    return s->options.stop_us ? s->options.stop_us / 1000 : s->length_ms;
}

/* Lets faults end as early as the run still fails. */
static bool shorten(struct shrinking *s) {
    uint64_t low = 0, high = stop_ms(s), before = high;
    while (low + 1 < high) {
        uint64_t middle = low + (high - low) / 2;
        if (still_fails(s, s->list, s->n, middle * 1000))
            high = middle;
        else
            low = middle;
    }
    if (high < before) s->options.stop_us = high * 1000;
    return high < before;
}

static void shrink_begin(struct shrinking *s) {
    struct sim *sim = sim_new(&s->options);
    sim_faults_new(sim);
    size_t n = sim_faults_n(sim);
    s->length_ms = (sim->quiet_us - sim->now_us + 999) / 1000;
    s->list = malloc((n + 1) * sizeof *s->list);
    CHECK(s->list);
    for (size_t i = 0; i < n; i++)
        if (!sim_faults_left_out(sim, i)) s->list[s->n++] = (unsigned)i;
    sim_faults_free(sim->faults);
    sim_free(sim);
}

static int shrink(const struct sim_options *options) {
    struct shrinking s = {.options = *options};
    if (!find_tag(options, s.tag)) {
        printf("seed %" PRIu64 " does not fail\n", options->seed);
        return 0;
    }
    shrink_begin(&s);
    size_t n_before = s.n;
    bool smaller;
    do {
        smaller = shorten(&s);
        smaller |= thin_out(&s);
    } while (smaller);
    char *text = malloc(12 * s.n + 1), command[8192];
    CHECK(text);
    list_text(s.list, s.n, text);
    s.options.only = text;
    printf("%zu of %zu faults in %" PRIu64 " of %" PRIu64 " ms are left after %u tries\n", s.n,
           n_before, stop_ms(&s), s.length_ms, s.n_tries);
    replay_command(&s.options, command, sizeof command);
    printf("%s --trace\n", command);
    struct result r;
    fflush(stdout);
    run_one(&s.options, &r); /* says how it fails */
    return 1;
}

/* ---- Options --------------------------------------------------------------------------------- */

static const char help[] =
    "usage: replog-sim --seed N [--trace] [--shrink]\n"
    "       replog-sim --seeds A..B [--jobs N] [--max-failures N] [--results]\n"
    "Runs whole clusters of the real code in virtual time, with faults of every kind.\n"
    "  --nodes N    1 to 7 members; else drawn\n"
    "  --ms N       length of the time with faults, in virtual milliseconds; else drawn\n"
    "  --stop-ms N  faults and load end so early, after the plan was drawn: it stays what it is\n"
    "  --only LIST  of the plan's faults only those numbers (--shrink finds them); none: no fault\n"
    "  --trace      tells the story\n"
    "  --results    a line for each seed that passes\n"
    "  --shrink     looks for fewer faults and a shorter run that break the same promise\n"
    "  --mutant M   with that deliberate bug, by name or number (built with -DREPLOG_MUTANT=0)\n"
    "  --list-mutants\n";

static void refuse(const char *option, const char *needs) {
    fprintf(stderr, "replog-sim: %s needs %s (see --help)\n", option, needs);
    exit(2);
}

/* The range of seeds is run in steps of up to 64: it must not wrap. */
enum { MAX_JOBS = 64, MAX_MS = 3600 * 1000 };
#define MAX_SEED (UINT64_MAX - MAX_JOBS)

/* A decimal number up to `most`, and where it ends. */
static uint64_t digits(const char *option, const char *text, uint64_t most, const char **rest) {
    char *end = NULL, needs[60];
    errno = 0;
    uint64_t value = text && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
    snprintf(needs, sizeof needs, "a number up to %" PRIu64, most);
    if (!end || errno || value > most) refuse(option, needs);
    *rest = end;
    return value;
}

static uint64_t number(const char *option, const char *text, uint64_t least, uint64_t most) {
    const char *rest;
    char needs[60];
    uint64_t value = digits(option, text, most, &rest);
    snprintf(needs, sizeof needs, "a number from %" PRIu64 " to %" PRIu64, least, most);
    if (*rest || value < least) refuse(option, needs);
    return value;
}

static const char *list(const char *option, const char *text) {
    if (text && strcmp(text, "none") == 0) return "";
    if (!text || !*text || text[strspn(text, "0123456789,")])
        refuse(option, "numbers of faults, as 3,7, or none");
    return text;
}

/* Deliberate bugs exist in a build with REPLOG_MUTANT only. */
static void list_mutants(void) {
#ifdef REPLOG_MUTANT
    for (int i = 1; i < N_MUTANTS; i++) printf("%s  %s\n", mutant_name(i), mutant_sentence(i));
    exit(0);
#else
    refuse("--list-mutants", "a build with deliberate bugs (-DREPLOG_MUTANT=0)");
#endif
}

static void choose_mutant(const char *name) {
#ifdef REPLOG_MUTANT
    replog_mutant = name ? mutant_find(name) : -1;
    if (replog_mutant >= 0) return;
    fprintf(stderr, "replog-sim: no deliberate bug %s (see --list-mutants)\n", name ? name : "");
#else
    fprintf(stderr, "replog-sim: built without deliberate bugs (-DREPLOG_MUTANT=0): %s\n",
            name ? name : "");
#endif
    exit(2);
}

static void range(const char *text, uint64_t *from, uint64_t *to) {
    const char *rest;
    *from = digits("--seeds", text, MAX_SEED, &rest);
    if (strncmp(rest, "..", 2) != 0) refuse("--seeds", "A..B");
    *to = number("--seeds", rest + 2, *from, MAX_SEED);
}

int main(int argc, char **argv) {
    struct sim_options options = {0};
    uint64_t from = 1, to = 0, max_failures = UINT64_MAX;
    unsigned jobs = 1;
    bool one = false, many = false, wants_shrink = false;
    program = argv[0];
    /* what one run has freed the next one uses: giving it back costs a tenth of the time */
    (void)mallopt(M_MMAP_THRESHOLD, 64 << 20);
    (void)mallopt(M_TRIM_THRESHOLD, 512 << 20);
    setvbuf(stdout, NULL, _IOLBF, 1 << 16);
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool takes = true;
        if (strcmp(arg, "--seed") == 0) {
            options.seed = number(arg, value, 0, UINT64_MAX);
            one = true;
        } else if (strcmp(arg, "--seeds") == 0) {
            range(value, &from, &to);
            many = true;
        } else if (strcmp(arg, "--jobs") == 0) {
            jobs = (unsigned)number(arg, value, 1, MAX_JOBS);
        } else if (strcmp(arg, "--nodes") == 0) {
            options.n_nodes = (unsigned)number(arg, value, 1, SIM_MAX_NODES);
        } else if (strcmp(arg, "--ms") == 0) {
            options.length_us = number(arg, value, 1, MAX_MS) * 1000;
        } else if (strcmp(arg, "--stop-ms") == 0) {
            options.stop_us = number(arg, value, 1, MAX_MS) * 1000;
        } else if (strcmp(arg, "--only") == 0) {
            options.only = list(arg, value);
        } else if (strcmp(arg, "--mutant") == 0) {
            choose_mutant(value);
        } else if (strcmp(arg, "--max-failures") == 0) {
            max_failures = number(arg, value, 1, UINT64_MAX);
        } else {
            takes = false;
            if (strcmp(arg, "--trace") == 0) {
                options.trace = true;
            } else if (strcmp(arg, "--results") == 0) {
                wants_results = true;
            } else if (strcmp(arg, "--shrink") == 0) {
                wants_shrink = true;
            } else if (strcmp(arg, "--list-mutants") == 0) {
                list_mutants();
            } else if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
                fputs(help, stdout);
                return 0;
            } else {
                fprintf(stderr, "replog-sim: unknown option %s (see --help)\n", arg);
                return 2;
            }
        }
        i += takes;
    }
    if (one == many) refuse("the command", "either --seed or --seeds");
    if (many && wants_shrink) refuse("--shrink", "one --seed");
    sim_on_fail(report_failure);
    if (many) return run_many(&options, from, to, jobs, max_failures);
    if (wants_shrink) return shrink(&options);
    struct result r;
    run_one(&options, &r);
    print_result(&r);
    return 0;
}

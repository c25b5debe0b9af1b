/* malloc_fail, malloc_serve: every allocation of replog's own code fails once, N++ until a run in
 * which none did.
 *
 * usage: malloc_fail|malloc_serve [--sample N] [--seed N] [--repeat N] [--at N] [SCENARIO...]
 *   --sample N  so many failing runs of each scenario, spread over all; without: all
 *   --repeat N  not one allocation fails but so many in a row
 *   --at N      only the run in which the N-th fails
 * Prints "ok NAME (what was done)" or "FAILED NAME" for each scenario. Each runs in a process of
 * its own, so that a crash or a standstill is one more failure, with the N at which it came. */
#include <dirent.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "malloc_fail.h"

enum { STANDSTILL_S = 30, MAX_TOLD = 12, MAX_SCENARIOS = 8 };

/* Shared with the process that runs a scenario. */
struct progress {
    uint64_t at, total, runs, failed, stops, slowest_ms;
};
static struct progress *progress;

static struct { uint64_t sample, seed, repeat, only; } options = {.seed = 1, .repeat = 1};

static char work_dir[256];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

const char *fresh_dir(void) {
    static char path[300];
    snprintf(path, sizeof path, "%s/log", work_dir);
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return path;
}

/* ---- One run */
static bool run_failed;

void expect_failed(const char *file, int line, const char *format, ...) {
    const char *slash = strrchr(file, '/');
    va_list args;
    fail_disarm();
    run_failed = true;
    if (progress->failed >= MAX_TOLD) return;
    printf("  allocation %" PRIu64 " fails (%s): %s:%d: ", progress->at, fail_where(),
           slash ? slash + 1 : file, line);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
    fflush(stdout);
}

bool expect_held(void) {
    return !run_failed;
}

void note_stop(void) {
    progress->stops++;
}

/* One run, and how long it took; how many allocations failed in it. */
static uint64_t run_timed(const struct scenario *s, uint64_t at, uint64_t *took_ms) {
    char text[1500];
    uint64_t live = fail_live(), mark = fail_mark();
    uint64_t begin_ms = clock_mono_ms();
    fail_arm(at, options.repeat);
    s->run();
    uint64_t hits = fail_disarm();
    *took_ms = clock_mono_ms() - begin_ms;
    if (fail_leaks(mark, live, s->leak_wait_ms, text, sizeof text))
        expect_failed(__FILE__, __LINE__, "leaked: %s", text);
    return hits;
}

/* How many allocations failed in it. A run that takes too long is run again: the machine may have
 * stood still, but not three times. */
static uint64_t run_once(const struct scenario *s, uint64_t at) {
    uint64_t limit_ms = options.repeat == 1 && s->patience_ms ? s->patience_ms : UINT64_MAX;
    uint64_t hits, took_ms, tries = 0;
    progress->at = at;
    run_failed = false;
    do hits = run_timed(s, at, &took_ms);
    while (took_ms > limit_ms && ++tries < 3);
    if (took_ms > progress->slowest_ms) progress->slowest_ms = took_ms;
    if (took_ms > limit_ms) expect_failed(__FILE__, __LINE__, "it took %" PRIu64 " ms", took_ms);
    progress->runs++;
    progress->failed += run_failed;
    return hits;
}

static uint64_t draw(uint64_t *state, uint64_t low, uint64_t high) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return low + (*state >> 33) % (high - low + 1);
}

static void run_scenario(const struct scenario *s) {
    if (s->before) s->before();
    run_once(s, 0); /* what is made once and kept is made here */
    run_once(s, 0);
    uint64_t n = fail_seen(), state = options.seed;
    progress->total = n;
    if (options.only) {
        run_once(s, options.only);
    } else if (options.sample && options.sample < n) {
        for (uint64_t i = 0; i < options.sample; i++)
            run_once(s, draw(&state, 1 + n * i / options.sample, n * (i + 1) / options.sample));
    } else {
        /* Threads make each run a little different: past the end is past it three times. */
        for (uint64_t at = 1, clean = 0; clean < 3 && at < 100 * (n + 10); at++)
            clean = run_once(s, at) ? 0 : clean + 1;
    }
}

/* ---- A process for each */
static bool stands_still(pid_t child, int *status) {
    uint64_t runs = progress->runs;
    for (unsigned ms = 0; ms < STANDSTILL_S * 1000;) {
        if (waitpid(child, status, WNOHANG) == child) return false;
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        ms = progress->runs == runs ? ms + 5 : 0;
        runs = progress->runs;
    }
    return true;
}

static bool run_apart(const struct scenario *s) {
    *progress = (struct progress){0};
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        run_scenario(s);
        fflush(stdout);
        _exit(progress->failed ? 1 : 0);
    }
    int status = 0;
    bool still = stands_still(child, &status);
    if (still) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    bool crashed = !still && !WIFEXITED(status);
    bool ok = !still && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    printf("%s malloc_fail %s (%" PRIu64 " runs, %" PRIu64 " allocations in one",
           ok ? "ok" : "FAILED", s->name, progress->runs, progress->total);
    if (progress->slowest_ms) printf(", at most %" PRIu64 " ms", progress->slowest_ms);
    if (progress->stops) printf(", %" PRIu64 " ended and said why", progress->stops);
    if (progress->failed) printf(", %" PRIu64 " runs failed", progress->failed);
    if (still) printf(", standstill at allocation %" PRIu64, progress->at);
    if (crashed) printf(", signal %d at allocation %" PRIu64, WTERMSIG(status), progress->at);
    if (!ok && !still && !crashed && !progress->failed)
        printf(", status %d at allocation %" PRIu64, WEXITSTATUS(status), progress->at);
    printf(")\n");
    return ok;
}

static uint64_t number(int argc, char **argv, int *i) {
    if (*i + 1 >= argc) {
        fprintf(stderr, "malloc_fail: %s wants a number\n", argv[*i]);
        exit(2);
    }
    return strtoull(argv[++*i], NULL, 10);
}

static const struct scenario *named(const char *name) {
    for (int i = 0; scenarios[i]; i++)
        if (strcmp(scenarios[i]->name, name) == 0) return scenarios[i];
    fprintf(stderr, "malloc_fail: no scenario %s\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    const struct scenario *chosen[MAX_SCENARIOS + 1] = {NULL};
    int n = 0, failed = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--sample") == 0)
            options.sample = number(argc, argv, &i);
        else if (strcmp(argv[i], "--seed") == 0)
            options.seed = number(argc, argv, &i);
        else if (strcmp(argv[i], "--repeat") == 0)
            options.repeat = number(argc, argv, &i);
        else if (strcmp(argv[i], "--at") == 0)
            options.only = number(argc, argv, &i);
        else if (n < MAX_SCENARIOS)
            chosen[n++] = named(argv[i]);
    }
    const char *shm = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/var/tmp";
    snprintf(work_dir, sizeof work_dir, "%s/replog-malloc.XXXXXX", shm);
    progress =
        mmap(NULL, sizeof *progress, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (progress == MAP_FAILED || !mkdtemp(work_dir)) {
        perror("malloc_fail");
        return 2;
    }
    for (const struct scenario *const *s = n ? chosen : scenarios; *s; s++)
        failed += !run_apart(*s);
    nftw(work_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed ? 1 : 0;
}

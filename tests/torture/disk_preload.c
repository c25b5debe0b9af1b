/* torture-disk: for LD_PRELOAD. Another disk, by the environment's TORTURE_DISK:
 *   lies      fsync and fdatasync say "durable" and do nothing: what a log does that forgets to
 * sync. The torture must find the loss, or it could find nothing. slow:US   each takes up to so
 * many microseconds longer, before it begins. The disks of the tests are memory, and nothing would
 * ever be found half way between a write and its sync.
 *
 * TORTURE_PAGE_CACHE (and `lies`): nothing goes past the page cache. The disks of the tests have no
 * cache of their own: what is written directly over what was there is durable at once, sync or not,
 * and a power cut finds nothing to lose but what is in the page cache.
 *
 * TORTURE_SYNCS names a file of 32 bytes, four numbers in microseconds, of CLOCK_MONOTONIC where
 * they are times: when the newest sync began (of those of several threads that overlap: the first),
 * when the last ended; when a thread was awake last that sleeps WATCH_US at a time, and by how much
 * it overslept most. Who judges a loss wants to know whether a sync was under way, and whether the
 * machine stood still. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_open)(const char *, int, ...);
static int lies, page_cache;
static uint64_t sleep_us;
static _Atomic uint64_t state;
enum { WATCH_US = 5000 };
enum time_index { SYNC_BEGAN, SYNC_ENDED, AWAKE, OVERSLEPT, N_TIMES };
static _Atomic uint64_t *times; /* NULL: nobody asks */
static _Atomic int under_way;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void *watch(void *unused) {
    (void)unused;
    for (;;) {
        const uint64_t began_us = times[AWAKE];
        nanosleep(&(struct timespec){.tv_nsec = WATCH_US * 1000}, NULL);
        times[AWAKE] = now_us();
        const uint64_t slept_us = times[AWAKE] - began_us;
        if (slept_us > WATCH_US + times[OVERSLEPT]) times[OVERSLEPT] = slept_us - WATCH_US;
    }
    return NULL;
}

static void open_times(const char *path) {
    const size_t size_bytes = N_TIMES * sizeof *times;
    pthread_t thread;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0 || ftruncate(fd, (off_t)size_bytes) != 0) abort();
    void *map = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) abort();
    close(fd);
    times = map;
    for (int i = 0; i < N_TIMES; i++) times[i] = 0; /* of this life only */
    times[AWAKE] = now_us();
    if (pthread_create(&thread, NULL, watch, NULL) != 0) abort();
    pthread_detach(thread);
}

__attribute__((constructor)) static void begin(void) {
    const char *how = getenv("TORTURE_DISK");
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    state = (uint64_t)now.tv_nsec * 2654435761u + (uint64_t)getpid();
    *(void **)&real_fsync = dlsym(RTLD_NEXT, "fsync");
    *(void **)&real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    if (getenv("TORTURE_SYNCS")) open_times(getenv("TORTURE_SYNCS"));
    if (how && strcmp(how, "lies") == 0) lies = 1;
    page_cache = lies || getenv("TORTURE_PAGE_CACHE") != NULL;
    if (how && strncmp(how, "slow:", 5) == 0) sleep_us = strtoull(how + 5, NULL, 10);
}

static void wait_a_little(void) {
    if (sleep_us == 0) return;
    uint64_t z = atomic_fetch_add(&state, UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) % sleep_us;
    struct timespec t = {.tv_sec = (time_t)(z / 1000000), .tv_nsec = (long)(z % 1000000) * 1000};
    nanosleep(&t, NULL);
}

static int sync_with(int (*sync)(int), int fd) {
    if (lies) return 0;
    uint64_t began_us = now_us(); /* before it counts: another's end may come in between */
    if (times && atomic_fetch_add(&under_way, 1) == 0) times[SYNC_BEGAN] = began_us;
    wait_a_little();
    int rv = sync(fd);
    uint64_t ended_us = now_us(); /* so too: another may begin */
    if (times && atomic_fetch_sub(&under_way, 1) == 1) times[SYNC_ENDED] = ended_us;
    return rv;
}

int fsync(int fd) {
    return sync_with(real_fsync, fd);
}

int fdatasync(int fd) {
    return sync_with(real_fdatasync, fd);
}

static int open_it(const char *path, int flags, mode_t mode) {
    if (!real_open) *(void **)&real_open = dlsym(RTLD_NEXT, "open");
    if (page_cache && (flags & O_DIRECT)) {
        errno = EINVAL; /* as a file system says that does not have it */
        return -1;
    }
    return real_open(path, flags, mode);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_it(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_it(path, flags | O_LARGEFILE, mode);
}

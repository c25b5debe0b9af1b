/* limits: what the machine can do at best, one line of JSON.
 *
 *   limits disk DIR BYTES LOOPS SECONDS WARMUP
 *       overwrite+fdatasync of BYTES at a time, LOOPS side by side, each in a file of its own
 *
 *   limits loopback SECONDS
 *       one TCP connection over 127.0.0.1
 *
 *   limits hash SECONDS
 *       XXH3-64 over 1 MiB, one thread */
#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <xxhash.h>

#include "bench.h"

enum { DISK_FILE_BYTES = 16 << 20, PAGE_BYTES = 4096, PIECE_BYTES = 256 << 10, MAX_LOOPS = 16 };

static uint64_t end_ns(double seconds) {
    return bench_now_ns() + (uint64_t)(seconds * 1e9);
}

/* ---- The disk: each loop overwrites a file of its own that was written and synced before */

struct disk_loop {
    pthread_t thread;
    int fd;
    size_t bytes;
    uint64_t from_ns, end_ns; /* what begins in between counts */
    struct histogram latency;
};

static void *disk_loop(void *arg) {
    struct disk_loop *d = arg;
    char *piece = malloc(d->bytes);
    if (!piece) bench_die("out of memory");
    memset(piece, 'x', d->bytes);
    off_t at = 0, step = (off_t)((d->bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
    for (uint64_t begin; (begin = bench_now_ns()) < d->end_ns;) {
        if (pwrite(d->fd, piece, d->bytes, at) != (ssize_t)d->bytes || fdatasync(d->fd))
            bench_die("limits: a write failed");
        if (begin >= d->from_ns) histogram_add(&d->latency, bench_now_ns() - begin);
        at = at + 2 * step > DISK_FILE_BYTES ? 0 : at + step;
    }
    free(piece);
    return NULL;
}

static void measure_disk(const char *dir, size_t bytes, unsigned n, double seconds,
                         double warmup_s) {
    static struct disk_loop loops[MAX_LOOPS];
    static struct histogram all;
    if (!bytes || bytes > DISK_FILE_BYTES || !n || n > MAX_LOOPS) bench_die("limits: usage");
    for (unsigned i = 0; i < n; i++) {
        loops[i].bytes = bytes;
        loops[i].fd = bench_file(dir, DISK_FILE_BYTES);
    }
    uint64_t from_ns = end_ns(warmup_s);
    for (unsigned i = 0; i < n; i++) {
        loops[i].from_ns = from_ns;
        loops[i].end_ns = from_ns + (uint64_t)(seconds * 1e9);
        if (pthread_create(&loops[i].thread, NULL, disk_loop, &loops[i]))
            bench_die("limits: no thread");
    }
    for (unsigned i = 0; i < n; i++) {
        pthread_join(loops[i].thread, NULL);
        for (unsigned k = 0; k < HISTOGRAM_BUCKETS; k++)
            all.buckets[k] += loops[i].latency.buckets[k];
        all.count += loops[i].latency.count;
        if (loops[i].latency.max > all.max) all.max = loops[i].latency.max;
    }
    printf("{\"p50_us\":%.1f,\"p99_us\":%.1f,\"mib_per_s\":%.3f}\n",
           (double)histogram_at(&all, 500) / 1000.0, (double)histogram_at(&all, 990) / 1000.0,
           (double)all.count * (double)bytes / (1 << 20) / seconds);
}

/* ---- One connection over loopback */

static void *send_all(void *arg) {
    int fd = *(int *)arg;
    static char piece[PIECE_BYTES];
    while (send(fd, piece, sizeof piece, MSG_NOSIGNAL) > 0) continue;
    return NULL;
}

static void measure_loopback(double seconds) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t at_bytes = sizeof at;
    static char piece[PIECE_BYTES];
    int listener = socket(AF_INET, SOCK_STREAM, 0), out = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&at, &at_bytes) ||
        connect(out, (struct sockaddr *)&at, sizeof at))
        bench_die("limits: no connection over loopback");
    int in = accept(listener, NULL, NULL);
    pthread_t sender;
    if (in < 0 || pthread_create(&sender, NULL, send_all, &out)) bench_die("limits: loopback");
    uint64_t bytes = 0, end = end_ns(seconds);
    while (bench_now_ns() < end) {
        ssize_t n = recv(in, piece, sizeof piece, 0);
        if (n <= 0) bench_die("limits: the connection broke");
        bytes += (uint64_t)n;
    }
    shutdown(in, SHUT_RDWR);
    close(in);
    pthread_join(sender, NULL);
    printf("{\"mib_per_s\":%.1f}\n", (double)bytes / (1 << 20) / seconds);
}

/* ---- The hash */

static volatile XXH64_hash_t sink; /* or the compiler would leave the hashing out */

static void measure_hash(double seconds) {
    enum { BYTES = 1 << 20 };
    char *data = malloc(BYTES);
    if (!data) bench_die("out of memory");
    memset(data, 'x', BYTES);
    uint64_t n = 0, end = end_ns(seconds);
    for (; bench_now_ns() < end; n++) sink ^= XXH3_64bits_withSeed(data, BYTES, n);
    free(data);
    printf("{\"mib_per_s\":%.1f}\n", (double)n * BYTES / (1 << 20) / seconds);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "disk") == 0 && argc == 7)
        measure_disk(argv[2], strtoul(argv[3], NULL, 10), (unsigned)strtoul(argv[4], NULL, 10),
                     strtod(argv[5], NULL), strtod(argv[6], NULL));
    else if (strcmp(what, "loopback") == 0 && argc == 3)
        measure_loopback(strtod(argv[2], NULL));
    else if (strcmp(what, "hash") == 0 && argc == 3)
        measure_hash(strtod(argv[2], NULL));
    else
        bench_die("usage: limits disk DIR BYTES LOOPS SECONDS WARMUP | loopback SECONDS | "
                  "hash SECONDS");
    return 0;
}

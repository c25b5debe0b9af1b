/* store DIR SIZE SECONDS WARMUP: the limit of keyed records. Three processes, as three nodes would,
 * each feed a RocksDB store with replog's own options (src/store/store.h) with the same batches:
 * no log, no network, no fsync. Keys are drawn as `replog bench --keyed` draws them; a batch has as
 * many bytes as a node gathers under load before it writes to its store.
 * Prints the records per second of one store: what each of them took in, on the average. */
#include <sys/mman.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/error.h"
#include "bench.h"
#include "store/store.h"

enum { STORES = 3, BATCH_BYTES = 256 << 10, KEY_BYTES = 32, MAX_BATCH = 4096 };

struct feed {
    struct store *store;
    const char *value;
    size_t size_bytes;
    uint64_t number; /* of the next record */
    struct store_op ops[MAX_BATCH];
    char keys[MAX_BATCH][KEY_BYTES];
};

static void write_batch(struct feed *f, size_t n) {
    replog_error err;
    for (size_t i = 0; i < n; i++, f->number++) {
        uint64_t state = f->number;
        int key_bytes = snprintf(f->keys[i], KEY_BYTES, "bench-%016" PRIx64, rng_next(&state));
        f->ops[i] = (struct store_op){
            .type = STORE_PUT,
            .seq = f->number + 1,
            .key = {(const uint8_t *)f->keys[i], (size_t)key_bytes},
            .value = {(const uint8_t *)f->value, f->size_bytes},
        };
    }
    if (f->store->ops->write(f->store, f->ops, n, f->number, &err))
        bench_die("store: %s", err.text);
}

/* One of the three; *counted is shared with the parent. */
static void feed_store(const char *dir, const struct bench *b, uint64_t *counted) {
    static struct feed f;
    replog_error err;
    struct store_rocksdb_options options = {.dir = dir};
    if (store_rocksdb_open(&options, &f.store, &err)) bench_die("store: %s", err.text);
    f.value = b->value;
    f.size_bytes = b->size_bytes;
    size_t n = BATCH_BYTES / b->size_bytes;
    n = n < 1 ? 1 : n > MAX_BATCH ? MAX_BATCH : n;
    for (uint64_t now_ns; (now_ns = bench_now_ns()) < b->end_ns;) {
        write_batch(&f, n);
        if (now_ns >= b->from_ns) *counted += n;
    }
    store_close(f.store);
}

int main(int argc, char **argv) {
    static struct bench b;
    char *load[] = {argv[0], argv[1], "1", "1", argc == 5 ? argv[2] : NULL, argv[3], argv[4], NULL};
    if (argc != 5) bench_die("usage: store DIR SIZE SECONDS WARMUP");
    bench_options(&b, 7, load);
    uint64_t *counted = mmap(NULL, STORES * sizeof *counted, PROT_READ | PROT_WRITE,
                             MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counted == MAP_FAILED) bench_die("out of memory");
    bench_begin(&b);
    for (int i = 0; i < STORES; i++) {
        char dir[4096];
        snprintf(dir, sizeof dir, "%s/%d", b.target, i + 1);
        pid_t pid = fork();
        if (pid < 0) bench_die("store: fork");
        if (pid == 0) {
            feed_store(dir, &b, &counted[i]);
            fflush(NULL);
            _exit(0);
        }
    }
    uint64_t records = 0;
    for (int i = 0, status; i < STORES; i++) {
        if (wait(&status) < 0 || status) bench_die("store: one of the three failed");
    }
    for (int i = 0; i < STORES; i++) records += counted[i];
    double rate = (double)records / STORES / b.seconds;
    printf("{\"records_per_s\":%.1f,\"mib_per_s\":%.3f}\n", rate,
           rate * (double)b.size_bytes / (1 << 20));
    return 0;
}

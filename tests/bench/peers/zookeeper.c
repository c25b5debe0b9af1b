/* zookeeper HOST:PORT ...: creates sequential nodes under a fresh parent, over one connection to
 * the leader. A batch is one multi of that many creates: all of it or nothing. Answers come on the
 * library's thread, which then sends the next request. */
#define THREADED
#include <zookeeper/zookeeper.h>
#include <pthread.h>

#include "bench.h"

enum { SESSION_MS = 30000, PATH_BYTES = 64 };

struct request {
    struct load *load;
    uint64_t sent_ns;
    zoo_op_t *ops; /* of a batch */
    zoo_op_result_t *results;
    char (*paths)[PATH_BYTES]; /* where the library puts the names of what was made */
};

struct load {
    struct bench b;
    zhandle_t *zk;
    char parent[PATH_BYTES / 2], child[PATH_BYTES / 2 + 4];
    pthread_mutex_t mu; /* of what is below */
    pthread_cond_t done;
    unsigned n_busy;
};

static void send_request(struct request *r);

static void on_answer(struct request *r, int status) {
    struct load *l = r->load;
    if (status != ZOK) bench_die("zookeeper: %s", zerror(status));
    if (bench_answer(&l->b, r->sent_ns)) {
        send_request(r);
        return;
    }
    pthread_mutex_lock(&l->mu);
    if (--l->n_busy == 0) pthread_cond_signal(&l->done);
    pthread_mutex_unlock(&l->mu);
}

static void on_created(int status, const char *path, const void *request) {
    (void)path;
    on_answer((struct request *)(uintptr_t)request, status);
}

static void on_multi(int status, const void *request) {
    struct request *r = (struct request *)(uintptr_t)request;
    for (unsigned i = 0; status == ZOK && i < r->load->b.batch; i++) status = r->results[i].err;
    on_answer(r, status);
}

static void send_request(struct request *r) {
    struct load *l = r->load;
    int status, bytes = (int)l->b.size_bytes;
    r->sent_ns = bench_now_ns();
    if (l->b.batch == 1)
        status = zoo_acreate(l->zk, l->child, l->b.value, bytes, &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE,
                             on_created, r);
    else
        status = zoo_amulti(l->zk, (int)l->b.batch, r->ops, r->results, on_multi, r);
    if (status != ZOK) bench_die("zookeeper: send: %s", zerror(status));
}

static void prepare_batch(struct request *r) {
    struct load *l = r->load;
    r->ops = calloc(l->b.batch, sizeof *r->ops);
    r->results = calloc(l->b.batch, sizeof *r->results);
    r->paths = calloc(l->b.batch, sizeof *r->paths);
    if (!r->ops || !r->results || !r->paths) bench_die("out of memory");
    for (unsigned i = 0; i < l->b.batch; i++)
        zoo_create_op_init(&r->ops[i], l->child, l->b.value, (int)l->b.size_bytes,
                           &ZOO_OPEN_ACL_UNSAFE, ZOO_SEQUENCE, r->paths[i], PATH_BYTES);
}

static void wait_ready(struct load *l) {
    zoo_set_debug_level(ZOO_LOG_LEVEL_ERROR);
    l->zk = zookeeper_init(l->b.target, NULL, SESSION_MS, NULL, NULL, 0);
    if (!l->zk) bench_die("zookeeper: no handle");
    for (int tries = 0; zoo_state(l->zk) != ZOO_CONNECTED_STATE; tries++) {
        if (tries >= BENCH_PATIENCE_S * 100) bench_die("zookeeper: no connection");
        bench_sleep_ms(10);
    }
    snprintf(l->parent, sizeof l->parent, "/b%d", (int)getpid());
    snprintf(l->child, sizeof l->child, "%s/n", l->parent);
    int status = zoo_create(l->zk, l->parent, "", 0, &ZOO_OPEN_ACL_UNSAFE, 0, NULL, 0);
    if (status != ZOK) bench_die("zookeeper: create %s: %s", l->parent, zerror(status));
}

static uint64_t held(struct load *l) {
    struct Stat stat;
    int status = zoo_exists(l->zk, l->parent, 0, &stat);
    if (status != ZOK) bench_die("zookeeper: exists: %s", zerror(status));
    return (uint64_t)stat.numChildren;
}

int main(int argc, char **argv) {
    static struct load l;
    bench_options(&l.b, argc, argv);
    pthread_mutex_init(&l.mu, NULL);
    pthread_cond_init(&l.done, NULL);
    wait_ready(&l);
    struct request *requests = calloc(l.b.inflight, sizeof *requests);
    if (!requests) bench_die("out of memory");
    for (unsigned i = 0; i < l.b.inflight; i++) {
        requests[i].load = &l;
        if (l.b.batch > 1) prepare_batch(&requests[i]);
    }
    bench_begin(&l.b);
    l.n_busy = l.b.inflight;
    for (unsigned i = 0; i < l.b.inflight; i++) send_request(&requests[i]);
    pthread_mutex_lock(&l.mu);
    while (l.n_busy) pthread_cond_wait(&l.done, &l.mu);
    pthread_mutex_unlock(&l.mu);
    bench_report(&l.b, held(&l));
    fflush(NULL);
    _exit(0); /* without the library's goodbye */
}

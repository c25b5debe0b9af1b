/* libraft ID,PORT1,PORT2,PORT3,DIR ...: one node of three (C-Raft with its libuv engine). Whichever
 * is elected puts the load through raft_apply, in its own process: no call of a client is paid.
 * A batch is one raft_apply of that many entries. The other two serve until they are ended. */
#include <raft.h>
#include <raft/uv.h>

#include "bench.h"

enum { NODES = 3, LOOK_MS = 50, SNAPSHOT_EVERY = 8192, SNAPSHOT_TRAILING = 1024 };

struct request {
    struct raft_apply apply;
    uint64_t sent_ns;
};

static struct bench b;
static struct raft raft;
static uv_timer_t timer;
static uint64_t applied; /* entries, by the state machine of this node */
static unsigned n_busy;
static struct raft_buffer *buffers; /* of one request, while it is handed over */

/* ---- A state machine that counts */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *entry, void **result) {
    (void)fsm;
    *result = NULL;
    if (entry->len == b.size_bytes) applied++;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs) {
    (void)fsm;
    *n_bufs = 1;
    *bufs = raft_malloc(sizeof **bufs);
    if (!*bufs) return RAFT_NOMEM;
    (*bufs)[0].len = sizeof applied;
    (*bufs)[0].base = raft_malloc(sizeof applied);
    if (!(*bufs)[0].base) return RAFT_NOMEM;
    memcpy((*bufs)[0].base, &applied, sizeof applied);
    return 0;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf) {
    (void)fsm;
    memcpy(&applied, buf->base, sizeof applied);
    raft_free(buf->base);
    return 0;
}

/* ---- The load */

static void on_applied(struct raft_apply *apply, int status, void *result);
static void finish(uv_timer_t *t);

/* raft_apply takes the buffers over: they are made anew for each request. */
static void send_request(struct request *r) {
    r->sent_ns = bench_now_ns();
    for (unsigned i = 0; i < b.batch; i++) {
        buffers[i].len = b.size_bytes;
        buffers[i].base = raft_malloc(b.size_bytes);
        if (!buffers[i].base) bench_die("out of memory");
        memcpy(buffers[i].base, b.value, b.size_bytes);
    }
    int status = raft_apply(&raft, &r->apply, buffers, b.batch, on_applied);
    if (status) bench_die("libraft: raft_apply: %s", raft_strerror(status));
}

static void on_applied(struct raft_apply *apply, int status, void *result) {
    struct request *r = (struct request *)apply;
    (void)result;
    if (status) bench_die("libraft: %s", raft_strerror(status));
    if (bench_answer(&b, r->sent_ns))
        send_request(r);
    else if (--n_busy == 0)
        uv_timer_start(&timer, finish, LOOK_MS, LOOK_MS);
}

/* libraft calls back with the first entry of a batch; the others are applied in the same turn. */
static void finish(uv_timer_t *t) {
    (void)t;
    if (applied < b.answered) return;
    bench_report(&b, applied);
    _exit(0);
}

/* Followers look on until they are ended; SIGALRM is their limit. */
static void look(uv_timer_t *t) {
    if (raft_state(&raft) != RAFT_LEADER) return;
    uv_timer_stop(t);
    struct request *requests = calloc(b.inflight, sizeof *requests);
    buffers = calloc(b.batch, sizeof *buffers);
    if (!requests || !buffers) bench_die("out of memory");
    bench_begin(&b);
    for (n_busy = 0; n_busy < b.inflight; n_busy++) send_request(&requests[n_busy]);
}

static void check(int status, const char *what) {
    if (status) bench_die("libraft: %s: %s", what, raft_strerror(status));
}

int main(int argc, char **argv) {
    static struct uv_loop_s loop;
    static struct raft_uv_transport transport;
    static struct raft_io io;
    static struct raft_fsm fsm = {
        .version = 1, .apply = fsm_apply, .snapshot = fsm_snapshot, .restore = fsm_restore};
    unsigned id, ports[NODES];
    char dir[4096], address[NODES][32];
    bench_options(&b, argc, argv);
    if (sscanf(b.target, "%u,%u,%u,%u,%4095s", &id, &ports[0], &ports[1], &ports[2], dir) != 5)
        bench_die("libraft: not ID,PORT1,PORT2,PORT3,DIR: %s", b.target);
    struct raft_configuration members;
    raft_configuration_init(&members);
    for (unsigned i = 0; i < NODES; i++) {
        snprintf(address[i], sizeof address[i], "127.0.0.1:%u", ports[i]);
        check(raft_configuration_add(&members, i + 1, address[i], RAFT_VOTER), "configuration");
    }
    check(uv_loop_init(&loop), "loop");
    check(raft_uv_tcp_init(&transport, &loop), "transport");
    check(raft_uv_init(&io, &loop, dir, &transport), "engine");
    check(raft_init(&raft, &io, &fsm, id, address[id - 1]), "init");
    check(raft_bootstrap(&raft, &members), "bootstrap");
    raft_set_snapshot_threshold(&raft, SNAPSHOT_EVERY);
    raft_set_snapshot_trailing(&raft, SNAPSHOT_TRAILING);
    if (raft_start(&raft)) bench_die("libraft: %s", raft_errmsg(&raft));
    uv_timer_init(&loop, &timer);
    uv_timer_start(&timer, look, LOOK_MS, LOOK_MS);
    return uv_run(&loop, UV_RUN_DEFAULT);
}

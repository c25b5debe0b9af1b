#include "node_stage.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "fake_net.h"
#include "node/apply_worker.h"
#include "server/apply_thread.h"
#include "server/reader_pool.h"
#include "server/thread.h"
#include "server/wal_thread.h"
#include "services.h"

enum { TICK_MS = 15, FOUNDING_TICKS = 400, MAX_ROUNDS = 1000 };

static struct server *server;

/* ---- thread.h: a thread's main is kept, and called when it is its turn */

struct body {
    void *(*main)(void *);
    void *arg;
};
static struct body node_body, wal_body;

replog_status thread_start(pthread_t *thread, const char *name, void *(*body)(void *), void *arg,
                           replog_error *err) {
    (void)err;
    memset(thread, 0, sizeof *thread);
    if (strcmp(name, "node") == 0) node_body = (struct body){body, arg};
    if (strcmp(name, "wal") == 0) wal_body = (struct body){body, arg};
    return REPLOG_OK;
}
bool thread_join_within(pthread_t thread, uint64_t timeout_ms) {
    (void)thread;
    (void)timeout_ms;
    return true;
}
void thread_sleep_ms(uint64_t ms) {
    (void)ms;
    abort(); /* there is nobody else to wait for */
}
struct timespec deadline_after_ms(uint64_t ms) {
    (void)ms;
    return (struct timespec){0};
}
void cond_init_mono(pthread_cond_t *cond) {
    CHECK(pthread_cond_init(cond, NULL) == 0);
}

/* One turn: it finds that it shall end, and does what there is to do before. */
static void turn_node(void) {
    atomic_store(&server->node_running, false);
    (void)node_body.main(node_body.arg);
    atomic_store(&server->node_running, true); /* as node_thread_help wants it */
}

/* ---- The apply thread and the store */

static struct apply_worker applying;
static uint64_t apply_target_seq;
static bool flush_asked, apply_busy;
static uint64_t apply_again_ms; /* on a full disk, or without memory; 0: not waiting */

static void apply_post(void *user, const struct node_event *ev) {
    server_post(user, ev);
}
static void apply_fatal(void *user, const char *text) {
    (void)user;
    server_fatal("%s", text);
}

replog_status apply_thread_start(struct server *s, replog_error *err) {
    static const struct apply_worker_ops ops = {.post = apply_post, .fatal = apply_fatal};
    (void)err;
    applying = (struct apply_worker){.applier = s->applier, .ops = &ops, .user = s};
    return REPLOG_OK;
}
void apply_thread_apply(struct server *s, struct node_effect *fx) {
    if (fx->seq > apply_target_seq) apply_target_seq = fx->seq;
    if (fx->blocks.blob) apply_give(s->applier, fx->blocks);
    fx->blocks.blob = NULL;
    apply_busy = true;
}
void apply_thread_flush(struct server *s) {
    (void)s;
    flush_asked = apply_busy = true;
}
bool apply_thread_stop(struct server *s, uint64_t timeout_ms) {
    (void)s;
    (void)timeout_ms;
    return true;
}

static void run_apply(void) {
    if (apply_again_ms && clock_mono_ms() >= apply_again_ms) apply_busy = true;
    while (apply_busy) {
        bool flush = flush_asked;
        flush_asked = false;
        enum apply_worker_next next = apply_worker_run(&applying, apply_target_seq, flush);
        apply_again_ms = next == APPLY_WORKER_FULL ? clock_mono_ms() + APPLY_WORKER_SPACE_MS : 0;
        apply_busy = next == APPLY_WORKER_AGAIN || flush_asked;
    }
}

replog_status store_rocksdb_open(const struct store_rocksdb_options *options, struct store **store,
                                 replog_error *err) {
    (void)options;
    (void)err;
    *store = store_mem_new();
    CHECK(*store != NULL);
    return REPLOG_OK;
}

/* ---- Life */

void node_stage_run(void) {
    for (int rounds = 0;; rounds++) {
        CHECK(rounds < MAX_ROUNDS);
        fake_net_run();
        bool events = queue_size_bytes(&server->events) > 0;
        bool jobs = wal_thread_queued_bytes(server) > 0;
        if (events) turn_node();
        if (jobs) (void)wal_body.main(wal_body.arg); /* until the queue is empty */
        bool applies = apply_busy, reads = services_read(0);
        run_apply();
        (void)services_read(UINT32_MAX);
        if (!events && !jobs && !applies && !reads) return;
    }
}

void node_stage_pass(uint64_t ms) {
    fake_net_pass(ms);
    turn_node(); /* without an event it ticks */
    node_stage_run();
}

struct server *node_stage_begin(const char *dir) {
    static struct server s;
    char *argv[] = {"replogd",
                    "--dir",
                    NULL,
                    "--id",
                    "1",
                    "--cluster",
                    "1=127.0.0.1:7401",
                    "--scrub",
                    "off",
                    "--segment-bytes",
                    "1M",
                    "--reserve-bytes",
                    "64K",
                    NULL};
    replog_error err = {0};
    struct node_snapshot view = {0};
    argv[2] = (char *)(uintptr_t)dir;
    server = &s;
    fake_net_begin();
    CHECK(options_parse(sizeof argv / sizeof argv[0] - 1, argv, &s.options, &err) == OPTIONS_RUN);
    CHECK(!server_start(&s, &err));
    (void)wal_thread_stop(&s, 0); /* its main returns whenever its queue is empty */
    for (int i = 0; i < FOUNDING_TICKS && !(view.leader && view.ready); i++) {
        node_stage_pass(TICK_MS);
        server_view(&s, &view);
    }
    CHECK(view.leader && view.ready);
    return &s;
}

void node_stage_end(void) {
    fake_net_end_all();
    for (int i = 0; i < 20; i++) node_stage_pass(TICK_MS);
    CHECK(services_quiet(server));
    node_close(server->node);
    apply_close(server->applier);
    store_close(server->store);
    wal_close(server->wal);
    fake_net_begin(); /* lets go of the streams */
}

/* The nodes of malloc_server.h. */
#include "malloc_server.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "replog.desc.h"
#include "replog.pb-c.h"
#include "rpc/rpc.h"

enum { LOG = 4096, WAITING = 256, ANSWER_US = 300 };

char server_endpoints[2][32];

struct record {
    uint64_t session, sequence;
    char value[32];
};

/* An append that waits for its answer. */
struct waiting {
    struct rpc_call *call;
    uint64_t seq, sequence;
    bool unary;
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t filled = PTHREAD_COND_INITIALIZER;
static struct record log_[LOG];
static uint64_t last_seq, last_session;
static struct waiting waiting[WAITING];
static size_t n_waiting;
static char nodes[2]; /* a call's user pointer is one of these */

static int node_of(struct rpc_call *call) {
    return (int)((char *)rpc_call_user(call) - nodes);
}

static void refuse(struct rpc_call *call) {
    char hint[64];
    snprintf(hint, sizeof hint, "1 %s", server_endpoints[0]);
    rpc_finish_with(call, REPLOG_UNAVAILABLE, "not the leader", "replog-leader", hint);
}

/* Sends what was built, as server/append.c does. */
static void send_built(struct rpc_call *call, struct buffer *out, bool last) {
    if (out->failed) {
        rpc_finish(call, last ? REPLOG_RESOURCE_EXHAUSTED : REPLOG_UNAVAILABLE, "memory is short");
    } else {
        rpc_send(call, &(struct rpc_piece){out->data, out->size_bytes, NULL}, 1);
        if (last) rpc_finish(call, REPLOG_OK, NULL);
    }
    buffer_free(out);
}

/* ---- Appends */
static void answer(const struct waiting *w) {
    struct buffer out = {0};
    pb_put_varint(&out, 1, w->seq);
    pb_put_varint(&out, 2, w->seq);
    pb_put_varint(&out, 3, 7);
    pb_put_varint(&out, 5, w->sequence);
    if (out.failed) { /* it is in the log: not a refusal */
        rpc_finish(w->call, REPLOG_CANCELLED, "memory is short");
    } else {
        rpc_send(w->call, &(struct rpc_piece){out.data, out.size_bytes, NULL}, 1);
        if (w->unary) rpc_finish(w->call, REPLOG_OK, NULL);
    }
    buffer_free(&out);
    rpc_call_unref(w->call);
}

static void *answer_main(void *arg) {
    (void)arg;
    for (;;) {
        pthread_mutex_lock(&mu);
        while (n_waiting == 0) pthread_cond_wait(&filled, &mu);
        struct waiting first = waiting[0];
        memmove(waiting, waiting + 1, --n_waiting * sizeof waiting[0]);
        pthread_mutex_unlock(&mu);
        nanosleep(&(struct timespec){.tv_nsec = ANSWER_US * 1000L}, NULL);
        answer(&first);
    }
    return NULL;
}

struct append {
    uint64_t session, sequence;
    char value[32];
};

static bool decode(const uint8_t *bytes, size_t size_bytes, struct append *a) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f, g;
    *a = (struct append){0};
    while (pb_next(&r, &f)) {
        if (f.number == 1) a->session = f.value;
        if (f.number == 2) a->sequence = f.value;
        if (f.number != 6 || a->value[0]) continue;
        struct pb_reader inner = {.data = f.bytes.data, .end = f.bytes.data + f.bytes.size_bytes};
        while (pb_next(&inner, &g)) {
            if (g.number != 3) continue;
            size_t n = g.bytes.size_bytes < 31 ? g.bytes.size_bytes : 31;
            memcpy(a->value, g.bytes.data, n);
        }
    }
    return !r.failed;
}

/* Its place in the log, 0: refused with *why. */
static uint64_t admit(const struct append *a, const char **why) {
    uint64_t last = 0;
    *why = NULL;
    if (a->session > last_session) *why = "session unknown";
    for (uint64_t i = 0; a->session && i < last_seq; i++) {
        if (log_[i].session != a->session) continue;
        last = log_[i].sequence;
        if (last == a->sequence) return i + 1;
    }
    if (a->session && a->sequence != last + 1) *why = "numbers are missing";
    if (*why) return 0;
    CHECK(last_seq < LOG);
    struct record *r = &log_[last_seq++];
    r->session = a->session;
    r->sequence = a->sequence;
    snprintf(r->value, sizeof r->value, "%s", a->value);
    return last_seq;
}

static void take_append(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes,
                        bool unary) {
    struct append a;
    const char *why = NULL;
    if (node_of(call) != 0) {
        refuse(call);
        return;
    }
    pthread_mutex_lock(&mu);
    bool ok = rpc_call_is_open(call) && decode(bytes, size_bytes, &a) && n_waiting < WAITING;
    uint64_t seq = ok ? admit(&a, &why) : 0;
    if (seq) waiting[n_waiting++] = (struct waiting){rpc_call_ref(call), seq, a.sequence, unary};
    pthread_cond_signal(&filled);
    pthread_mutex_unlock(&mu);
    if (!ok)
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "busy");
    else if (!seq)
        rpc_finish(call, REPLOG_FAILED_PRECONDITION, why);
}

static void on_append(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    take_append(call, bytes, size_bytes, true);
}
static void on_stream(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    take_append(call, bytes, size_bytes, false);
}

static void on_stream_end(struct rpc_call *call) {
    rpc_finish(call, REPLOG_OK, NULL);
}

/* ---- The rest */
static void on_open(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct buffer out = {0};
    (void)bytes;
    (void)size_bytes;
    if (node_of(call) != 0) {
        refuse(call);
        return;
    }
    pthread_mutex_lock(&mu);
    pb_put_varint(&out, 1, ++last_session);
    pthread_mutex_unlock(&mu);
    send_built(call, &out, true);
}

static void put_text(struct buffer *b, uint32_t number, const char *text) {
    pb_put_bytes(b, number, text, strlen(text));
}

static void on_status(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct buffer out = {0}, member = {0};
    (void)bytes;
    (void)size_bytes;
    pb_put_varint(&out, 1, 1);
    for (int i = 0; i < 2; i++) {
        buffer_clear(&member);
        pb_put_varint(&member, 1, (uint64_t)i + 1);
        put_text(&member, 2, server_endpoints[i]);
        put_text(&member, 3, "voter");
        put_text(&member, 4, i ? "follower" : "leader");
        pb_put_bytes(&out, 6, member.data, member.size_bytes);
    }
    if (member.failed) out.failed = true;
    buffer_free(&member);
    pb_put_varint(&out, 10, (uint64_t)node_of(call) + 1);
    send_built(call, &out, true);
}

/* The key, and it again as the value. */
static void on_get(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    struct slice key = {0};
    struct buffer out = {0};
    while (pb_next(&r, &f))
        if (f.number == 1) key = f.bytes;
    pb_put_bytes(&out, 1, key.data, key.size_bytes);
    pb_put_bytes(&out, 2, key.data, key.size_bytes);
    pb_put_varint(&out, 3, 9);
    send_built(call, &out, true);
}

static void on_truncate(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct buffer out = {0};
    (void)bytes;
    (void)size_bytes;
    if (node_of(call) != 0) {
        refuse(call);
        return;
    }
    pb_put_varint(&out, 1, 5);
    pb_put_varint(&out, 2, 3);
    send_built(call, &out, true);
}

/* Never answers. */
static void on_checkpoint(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)call;
    (void)bytes;
    (void)size_bytes;
}

static void put_record(struct buffer *out, uint64_t seq) {
    struct buffer r = {0}, member = {0};
    char value[SERVED_VALUE_BYTES];
    memset(value, 'a' + (int)(seq % 26), sizeof value);
    pb_put_varint(&r, 1, seq);
    pb_put_varint(&r, 2, 7);
    pb_put_varint(&r, 3, seq == SERVED_CONFIG ? 19 : 1);
    if (seq != SERVED_CONFIG) pb_put_bytes(&r, 5, value, sizeof value);
    for (uint64_t id = 1; seq == SERVED_CONFIG && id <= 2; id++) {
        buffer_clear(&member);
        pb_put_varint(&member, 1, id);
        put_text(&member, 3, "127.0.0.1:7401");
        pb_put_bytes(&r, 8, member.data, member.size_bytes);
    }
    pb_put_bytes(out, 1, r.data, r.size_bytes);
    if (r.failed || member.failed) out->failed = true;
    buffer_free(&member);
    buffer_free(&r);
}

static void on_read(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    uint64_t seq = 1, to = SERVED_RECORDS;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.value) seq = f.value;
        if (f.number == 2 && f.value) to = f.value;
    }
    while (seq <= to) {
        struct buffer out = {0};
        uint64_t end = seq + 9 < to ? seq + 9 : to;
        for (uint64_t at = seq; at <= end; at++) put_record(&out, at);
        pb_put_varint(&out, 3, end + 1);
        seq = end + 1;
        if (out.failed) {
            buffer_free(&out);
            rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
            return;
        }
        rpc_send(call, &(struct rpc_piece){out.data, out.size_bytes, NULL}, 1);
        buffer_free(&out);
    }
    rpc_finish(call, REPLOG_OK, NULL);
}

/* ---- Starting */
static struct rpc_server *servers[2];

static void serve(int node) {
    static const struct rpc_method methods[] = {
        {"AppendStream", true, true, {.message = on_stream, .end = on_stream_end}},
        {"Append", false, false, {.message = on_append}},
        {"OpenSession", false, false, {.message = on_open}},
        {"Status", false, false, {.message = on_status}},
        {"Get", false, false, {.message = on_get}},
        {"Truncate", false, false, {.message = on_truncate}},
        {"Checkpoint", false, false, {.message = on_checkpoint}},
        {"Read", false, true, {.message = on_read}},
    };
    static struct rpc_service services[2];
    static const struct slice files[] = {{replog_descriptor_set, sizeof replog_descriptor_set}};
    services[node] = (struct rpc_service){.descriptor = &replog__v1__log__descriptor,
                                          .methods = methods,
                                          .n_methods = sizeof methods / sizeof methods[0],
                                          .user = &nodes[node]};
    struct rpc_server_options options = {
        .listen = "127.0.0.1:0", .descriptor_files = files, .n_descriptor_files = 1};
    replog_error err;
    if (rpc_server_start(&options, &services[node], 1, &servers[node], &err)) {
        fprintf(stderr, "malloc_fail: node %d: %s\n", node, err.text);
        abort();
    }
    rpc_server_set_serving(servers[node], true);
    snprintf(server_endpoints[node], sizeof server_endpoints[node], "127.0.0.1:%u",
             (unsigned)rpc_server_port(servers[node]));
}

void server_start(void) {
    pthread_t thread;
    for (int i = 0; i < 2; i++) serve(i);
    CHECK(pthread_create(&thread, NULL, answer_main, NULL) == 0);
    pthread_detach(thread);
}

void server_forget(void) {
    pthread_mutex_lock(&mu);
    last_seq = 0;
    pthread_mutex_unlock(&mu);
}

unsigned server_times(const char *value, uint64_t *seq) {
    unsigned n = 0;
    pthread_mutex_lock(&mu);
    for (uint64_t i = 0; i < last_seq; i++) {
        if (strcmp(log_[i].value, value) != 0) continue;
        n++;
        *seq = i + 1;
    }
    pthread_mutex_unlock(&mu);
    return n;
}

int server_quiet(void) {
    for (int ms = 0; ms < 1000; ms++) {
        uint64_t open = 0;
        for (int i = 0; i < 2; i++) {
            struct rpc_stats stats = {0};
            rpc_server_stats(servers[i], &stats);
            open += stats.calls_open + stats.connections;
        }
        if (open == 0) return 1;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return 0;
}

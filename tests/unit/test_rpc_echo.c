/* rpc/: our own client against our own server, in one process over loopback. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "health.pb-c.h"
#include "replog.pb-c.h"
#include "rpc/internal.h"
#include "rpc_echo.h"

#define PATH(name) "/replog.v1.Log/" name

static const ProtobufCServiceDescriptor *const LOG = &replog__v1__log__descriptor;

static struct rpc_server *server;
static struct rpc_channel *channel;
static char address[64];

static struct rpc_channel *open_channel(const char *to, uint32_t keepalive_ms) {
    struct rpc_channel_options o = {
        .address = to, .connect_ms = 1000, .keepalive_ms = keepalive_ms};
    struct rpc_channel *c = NULL;
    assert_int_equal(rpc_channel_open(&o, &c, NULL), REPLOG_OK);
    return c;
}

static int set_up(void **state) {
    (void)state;
    memset((void *)&echo_counters, 0, sizeof echo_counters);
    server = echo_start(NULL, address);
    assert_non_null(server);
    channel = open_channel(address, 0);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    rpc_channel_close(channel);
    rpc_server_drain(server, 1000);
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_int_equal(stats.connections, 0);
    assert_int_equal(stats.calls_open, 0);
    assert_int_equal(stats.buffered_bytes, 0);
    return 0;
}

static void sleep_ms(long ms) {
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static void wait_for(_Atomic uint64_t *counter, uint64_t value) {
    for (int i = 0; i < 1000 && atomic_load(counter) < value; i++) sleep_ms(5);
    assert_true(atomic_load(counter) >= value);
}

/* ---- A call that records what happens to it */

struct seen {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    uint64_t n_messages, bytes, next_number, n_writable;
    bool in_order, ended;
    uint32_t after_end, n_closed;
    replog_status status;
    char text[200], leader[100];
    _Atomic int inside; /* callbacks at this moment */
    bool overlapped;
    void (*on_message)(struct rpc_call *call, struct seen *seen);
};

static void seen_init(struct seen *s) {
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->mu, NULL);
    pthread_cond_init(&s->changed, NULL);
    s->in_order = true;
}

static void seen_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct seen *s = rpc_call_user(call);
    if (atomic_fetch_add(&s->inside, 1) != 0) s->overlapped = true;
    pthread_mutex_lock(&s->mu);
    uint64_t number = size_bytes >= 8 ? get_u64(bytes) : 0;
    if (size_bytes >= 8 && number != s->next_number++) s->in_order = false;
    s->n_messages++;
    s->bytes += size_bytes;
    if (s->n_closed) s->after_end++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
    if (s->on_message) s->on_message(call, s);
    atomic_fetch_sub(&s->inside, 1);
}

static void seen_writable(struct rpc_call *call) {
    struct seen *s = rpc_call_user(call);
    if (atomic_fetch_add(&s->inside, 1) != 0) s->overlapped = true;
    pthread_mutex_lock(&s->mu);
    s->n_writable++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
    atomic_fetch_sub(&s->inside, 1);
}

static void seen_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct seen *s = rpc_call_user(call);
    if (atomic_fetch_add(&s->inside, 1) != 0) s->overlapped = true;
    const char *leader = rpc_call_metadata(call, "replog-leader");
    pthread_mutex_lock(&s->mu);
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    snprintf(s->leader, sizeof s->leader, "%s", leader ? leader : "");
    atomic_fetch_sub(&s->inside, 1);
    s->n_closed++;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mu);
}

static const struct rpc_handlers seen_handlers = {seen_message, NULL, seen_writable, seen_closed};

static bool wait_cond(struct seen *s, uint64_t *what, uint64_t value) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += 20;
    int rv = 0;
    while (*what < value && rv == 0) rv = pthread_cond_timedwait(&s->changed, &s->mu, &ts);
    return *what >= value;
}

static void wait_messages(struct seen *s, uint64_t n) {
    pthread_mutex_lock(&s->mu);
    assert_true(wait_cond(s, &s->n_messages, n));
    pthread_mutex_unlock(&s->mu);
}

static void wait_closed(struct seen *s) {
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    ts.tv_sec += 20;
    int rv = 0;
    pthread_mutex_lock(&s->mu);
    while (!s->n_closed && rv == 0) rv = pthread_cond_timedwait(&s->changed, &s->mu, &ts);
    assert_int_equal(s->n_closed, 1);
    assert_int_equal(s->after_end, 0);
    assert_false(s->overlapped);
    pthread_mutex_unlock(&s->mu);
}

static replog_status send_bytes(struct rpc_call *call, const void *data, size_t size_bytes) {
    struct rpc_piece piece = {data, size_bytes, NULL};
    return rpc_send(call, &piece, 1);
}

static replog_status send_number(struct rpc_call *call, uint64_t number, size_t size_bytes) {
    uint8_t bytes[2048] = {0};
    put_u64(bytes, number);
    return send_bytes(call, bytes, size_bytes);
}

/* ---- Unary calls */

static replog_status status_call(struct rpc_channel *c, uint32_t timeout_ms, replog_error *err) {
    Replog__V1__StatusRequest q = REPLOG__V1__STATUS_REQUEST__INIT;
    Replog__V1__StatusReply *reply = NULL;
    replog_status status =
        rpc_unary(c, LOG, "Status", &q.base, timeout_ms, (ProtobufCMessage **)&reply, NULL, err);
    if (status == REPLOG_OK) {
        assert_int_equal(reply->answered_by, 7);
        replog__v1__status_reply__free_unpacked(reply, NULL);
    }
    return status;
}

static void test_unary(void **state) {
    (void)state;
    replog_error err;
    assert_int_equal(status_call(channel, 5000, &err), REPLOG_OK);
    assert_true(rpc_channel_connected(channel));
    Replog__V1__TruncateRequest q = REPLOG__V1__TRUNCATE_REQUEST__INIT;
    char leader[300];
    assert_int_equal(rpc_unary(channel, LOG, "Truncate", &q.base, 5000, NULL, leader, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_string_equal(err.text, "100 % \"so\" w\xc3\xa4hr\nline");
    assert_string_equal(leader, "2 127.0.0.1:7402");
    Replog__V1__OpenSessionRequest o = REPLOG__V1__OPEN_SESSION_REQUEST__INIT;
    assert_int_equal(rpc_unary(channel, LOG, "OpenSession", &o.base, 5000, NULL, leader, &err),
                     REPLOG_UNIMPLEMENTED);
    assert_string_equal(leader, "");
    assert_int_equal(rpc_unary(channel, LOG, "Nothing", &o.base, 5000, NULL, NULL, &err),
                     REPLOG_UNIMPLEMENTED);
}

static void test_health(void **state) {
    (void)state;
    Grpc__Health__V1__HealthCheckRequest q = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    for (int serving = 0; serving < 2; serving++) {
        rpc_server_set_serving(server, serving);
        Grpc__Health__V1__HealthCheckResponse *reply = NULL;
        assert_int_equal(rpc_unary(channel, &grpc__health__v1__health__descriptor, "Check", &q.base,
                                   5000, (ProtobufCMessage **)&reply, NULL, NULL),
                         REPLOG_OK);
        assert_int_equal(reply->status, serving ? 1 : 2);
        grpc__health__v1__health_check_response__free_unpacked(reply, NULL);
    }
}

static void test_large_messages(void **state) {
    (void)state;
    static const size_t sizes[] = {0,     1,      4095,    4096,    16384,
                                   65536, 262144, 1000003, 4194304, RPC_MAX_MESSAGE_BYTES};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct seen s;
        seen_init(&s);
        struct rpc_call *call = rpc_start(channel, PATH("Append"), 10000, &seen_handlers, &s);
        assert_non_null(call);
        uint8_t *bytes = calloc(1, sizes[i] + 1);
        send_bytes(call, bytes, sizes[i]);
        rpc_end(call);
        wait_closed(&s);
        assert_int_equal(s.status, REPLOG_OK);
        assert_int_equal(s.n_messages, 1);
        assert_int_equal(s.bytes, sizes[i]);
        rpc_call_unref(call);
        free(bytes);
    }
}

static void test_too_large(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 10000, &seen_handlers, &s);
    struct blob *blob = blob_new(RPC_MAX_MESSAGE_BYTES + 1);
    memset(blob->data, 0, blob->size_bytes);
    struct rpc_piece piece = {blob->data, blob->size_bytes, blob};
    (void)rpc_send(call, &piece, 1); /* full or not: some of it may have left at once */
    blob_unref(blob);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(s.text, "limit of 4259840 bytes"));
    assert_int_equal(rpc_send(call, &piece, 0), REPLOG_CANCELLED);
    rpc_call_unref(call);
}

/* Pieces of all kinds make one message. */
static void test_pieces(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("Append"), 10000, &seen_handlers, &s);
    struct rpc_piece pieces[64];
    struct blob *blob = blob_new(200000);
    memset(blob->data, 0, blob->size_bytes);
    size_t total = 0;
    for (size_t i = 0; i < 64; i++) {
        pieces[i] = (struct rpc_piece){blob->data, i % 3 ? i * 3000 : i, i % 2 ? blob : NULL};
        total += pieces[i].size_bytes;
    }
    /* the queue is full, unless the socket took all of it at once */
    replog_status status = rpc_send(call, pieces, 64);
    assert_true(status == REPLOG_RESOURCE_EXHAUSTED || status == REPLOG_OK);
    rpc_end(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    assert_int_equal(s.bytes, total);
    rpc_call_unref(call);
    assert_int_equal(blob->refs, 1);
    blob_unref(blob);
}

/* ---- Streams */

static void test_bidirectional(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    enum { N = 20000 };
    for (uint64_t i = 0; i < N; i++) {
        uint64_t writable = s.n_writable;
        if (send_number(call, i, 8 + i % 1500) != REPLOG_RESOURCE_EXHAUSTED) continue;
        pthread_mutex_lock(&s.mu);
        assert_true(wait_cond(&s, &s.n_writable, writable + 1));
        pthread_mutex_unlock(&s.mu);
    }
    wait_messages(&s, N);
    rpc_end(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    assert_true(s.in_order);
    wait_for(&echo_counters.closed_ok, 1);
    assert_int_equal(echo_counters.ends, 1);
    rpc_call_unref(call);
}

static void pause_at_10(struct rpc_call *call, struct seen *s) {
    if (s->n_messages == 10) rpc_pause(call);
}

static struct rpc_call *start_read_within(struct seen *s, uint64_t n, uint64_t size_bytes,
                                          uint32_t timeout_ms) {
    struct rpc_call *call = rpc_start(channel, PATH("Read"), timeout_ms, &seen_handlers, s);
    Replog__V1__ReadRequest q = REPLOG__V1__READ_REQUEST__INIT;
    q.from_seq = n;
    q.to_seq = size_bytes;
    rpc_send_message(call, &q.base);
    rpc_end(call);
    return call;
}

static struct rpc_call *start_read(struct seen *s, uint64_t n, uint64_t size_bytes) {
    return start_read_within(s, n, size_bytes, 0);
}

/* A reader that stops is not run over: the server holds back, and nothing is lost. */
static void test_server_stream_pressure(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    s.on_message = pause_at_10;
    s.in_order = false;
    struct rpc_call *call = start_read(&s, 2000, 20000);
    wait_messages(&s, 10);
    sleep_ms(200);
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_true(stats.bytes_out < 8u * 1024 * 1024);
    assert_int_equal(s.n_messages, 10);
    rpc_pause(call); /* counted */
    rpc_resume(call);
    sleep_ms(20);
    assert_int_equal(s.n_messages, 10);
    rpc_resume(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    assert_int_equal(s.n_messages, 2000);
    rpc_call_unref(call);
}

/* The outcome waits behind messages that the user has not taken yet. */
static void test_close_behind_pause(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    s.on_message = pause_at_10;
    struct rpc_call *call = start_read(&s, 100, 100);
    wait_messages(&s, 10);
    sleep_ms(100);
    assert_int_equal(s.n_closed, 0);
    rpc_resume(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    assert_int_equal(s.n_messages, 100);
    rpc_call_unref(call);
    /* ... and does not, when the user gives up */
    seen_init(&s);
    s.on_message = pause_at_10;
    call = start_read(&s, 100, 100);
    wait_messages(&s, 10);
    sleep_ms(100);
    rpc_cancel(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_CANCELLED);
    assert_int_equal(s.n_messages, 10);
    rpc_call_unref(call);
    /* ... or time is over */
    seen_init(&s);
    s.on_message = pause_at_10;
    call = start_read_within(&s, 100, 100, 1000);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_DEADLINE_EXCEEDED);
    assert_int_equal(s.n_messages, 10);
    rpc_call_unref(call);
}

static void test_server_pauses(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    echo_hold = true;
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    replog_status status = REPLOG_OK;
    uint64_t sent = 0;
    while (sent < 20000 && status == REPLOG_OK) status = send_number(call, sent++, 2000);
    wait_messages(&s, 1);
    sleep_ms(200);
    while (sent < 20000 && status == REPLOG_OK) status = send_number(call, sent++, 2000);
    assert_int_equal(status, REPLOG_RESOURCE_EXHAUSTED);
    while (!echo_held) sleep_ms(1);
    assert_int_equal(echo_counters.messages, 1);
    struct rpc_call *held = atomic_exchange(&echo_held, NULL);
    rpc_resume(held);
    rpc_call_unref(held);
    wait_messages(&s, sent);
    assert_true(s.in_order);
    rpc_end(call);
    wait_closed(&s);
    rpc_call_unref(call);
}

/* ---- Ends */

static void test_deadline(void **state) {
    (void)state;
    replog_error err;
    Replog__V1__GetRequest q = REPLOG__V1__GET_REQUEST__INIT;
    uint64_t begun = clock_mono_ms();
    assert_int_equal(rpc_unary(channel, LOG, "Get", &q.base, 200, NULL, NULL, &err),
                     REPLOG_DEADLINE_EXCEEDED);
    uint64_t took = clock_mono_ms() - begun;
    assert_in_range(took, 190, 20000);
    wait_for(&echo_counters.get_begun, 1);
    for (int i = 0; i < 500 && !echo_counters.closed_deadline && !echo_counters.closed_cancelled;
         i++)
        sleep_ms(5);
    assert_int_equal(echo_counters.closed_deadline + echo_counters.closed_cancelled, 1);
    assert_int_equal(status_call(channel, 5000, &err), REPLOG_OK);
}

static void test_cancel(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(call, 0, 8);
    wait_messages(&s, 1);
    rpc_cancel(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_CANCELLED);
    wait_for(&echo_counters.closed_cancelled, 1);
    rpc_cancel(call);
    rpc_end(call);
    rpc_resume(call);
    assert_false(rpc_call_is_open(call));
    assert_int_equal(send_number(call, 1, 8), REPLOG_CANCELLED);
    rpc_call_unref(call);
    /* before anything was sent */
    seen_init(&s);
    call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    rpc_cancel(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_CANCELLED);
    rpc_call_unref(call);
    assert_int_equal(status_call(channel, 5000, NULL), REPLOG_OK);
}

static void test_server_cancels(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    echo_hold = true;
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(call, 0, 8);
    wait_messages(&s, 1);
    while (!echo_held) sleep_ms(1);
    struct rpc_call *held = atomic_exchange(&echo_held, NULL);
    rpc_cancel(held);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_CANCELLED);
    assert_int_equal(rpc_send(held, NULL, 0), REPLOG_CANCELLED);
    rpc_call_unref(held);
    rpc_call_unref(call);
}

static void test_refused(void **state) {
    (void)state;
    struct rpc_channel *c = open_channel("127.0.0.1:1", 0);
    replog_error err;
    for (int i = 0; i < 4; i++) {
        assert_int_equal(status_call(c, 5000, &err), REPLOG_UNAVAILABLE);
        assert_non_null(strstr(err.text, "127.0.0.1:1"));
        assert_false(rpc_channel_connected(c));
    }
    rpc_channel_close(c);
    assert_int_equal(
        rpc_channel_open(&(struct rpc_channel_options){.address = "nowhere"}, &c, &err),
        REPLOG_INVALID_ARGUMENT);
    struct rpc_server *other = NULL;
    struct rpc_server_options o = {.listen = address};
    assert_int_equal(rpc_server_start(&o, NULL, 0, &other, &err), REPLOG_UNAVAILABLE);
    assert_non_null(strstr(err.text, address));
    o.listen = "127.0.0.1:70000";
    assert_int_equal(rpc_server_start(&o, NULL, 0, &other, &err), REPLOG_INVALID_ARGUMENT);
}

static void test_restart(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(call, 0, 8);
    wait_messages(&s, 1);
    rpc_server_drain(server, 50); /* the open stream does not end by itself */
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_UNAVAILABLE);
    rpc_call_unref(call);
    wait_for(&echo_counters.closed_unavailable, 1);
    replog_error err;
    assert_int_equal(status_call(channel, 20000, &err), REPLOG_UNAVAILABLE);
    struct rpc_server_options o = {.listen = address};
    server = echo_start(&o, NULL);
    assert_non_null(server);
    replog_status status = REPLOG_UNAVAILABLE;
    for (int i = 0; i < 20 && status; i++) status = status_call(channel, 5000, &err);
    assert_int_equal(status, REPLOG_OK);
}

/* A drain lets running calls finish, and tells newcomers to go elsewhere. */
static void *drain_thread(void *unused) {
    (void)unused;
    rpc_server_drain(server, 60000);
    return NULL;
}

static void test_drain(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(call, 0, 8);
    wait_messages(&s, 1);
    pthread_t thread;
    pthread_create(&thread, NULL, drain_thread, NULL);
    sleep_ms(100);
    send_number(call, 1, 8);
    wait_messages(&s, 2);
    assert_int_equal(status_call(channel, 20000, NULL), REPLOG_UNAVAILABLE);
    rpc_end(call);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    uint64_t begun = clock_mono_ms();
    pthread_join(thread, NULL);
    assert_true(clock_mono_ms() - begun < 20000); /* not at its deadline */
    rpc_call_unref(call);
}

static void test_close_with_open_calls(void **state) {
    (void)state;
    struct seen s[20];
    struct rpc_call *calls[20];
    for (int i = 0; i < 20; i++) {
        seen_init(&s[i]);
        s[i].on_message = pause_at_10;
        calls[i] = i % 2 ? start_read(&s[i], 100000, 1000)
                         : rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s[i]);
    }
    sleep_ms(50);
    rpc_channel_close(channel);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(s[i].n_closed, 1);
        assert_int_equal(s[i].status, REPLOG_CANCELLED);
        assert_int_equal(rpc_send(calls[i], NULL, 0), REPLOG_CANCELLED);
        rpc_call_unref(calls[i]);
    }
    channel = open_channel(address, 0);
}

/* ---- Many at once */

enum { THREADS = 4, CALLS = 500 };

static void *many_thread(void *failures) {
    for (int i = 0; i < CALLS; i++)
        if (status_call(channel, 10000, NULL) != REPLOG_OK)
            atomic_fetch_add((_Atomic int *)failures, 1);
    return NULL;
}

static void test_many_threads(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    _Atomic int failures = 0;
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, many_thread, &failures);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(failures, 0);
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_int_equal(stats.connections, 1);
    assert_int_equal(stats.calls_total, THREADS * CALLS);
}

/* More calls than the server admits at a time: the rest waits its turn. */
static void test_more_than_max_streams(void **state) {
    (void)state;
    enum { N = 3000 };
    static struct seen s[N];
    static struct rpc_call *calls[N];
    for (int i = 0; i < N; i++) {
        seen_init(&s[i]);
        calls[i] = rpc_start(channel, PATH("Append"), 20000, &seen_handlers, &s[i]);
        send_number(calls[i], 0, 8);
        rpc_end(calls[i]);
    }
    for (int i = 0; i < N; i++) {
        wait_closed(&s[i]);
        assert_int_equal(s[i].status, REPLOG_OK);
        assert_int_equal(s[i].n_messages, 1);
        rpc_call_unref(calls[i]);
    }
}

/* Calls begun, used and given up from callbacks of other calls. */
static void chain_closed(struct rpc_call *call, replog_status status, const char *text);
static const struct rpc_handlers chain_handlers = {seen_message, NULL, NULL, chain_closed};

struct chain {
    struct seen s;
    int left;
};

static void chain_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct chain *c = rpc_call_user(call);
    if (status == REPLOG_OK && --c->left > 0) {
        struct rpc_call *next = rpc_start(channel, PATH("Append"), 5000, &chain_handlers, c);
        send_bytes(next, "abc", 3);
        rpc_end(next);
        rpc_call_unref(next);
        return;
    }
    seen_closed(call, status, text);
}

static void test_calls_from_callbacks(void **state) {
    (void)state;
    struct chain chains[16];
    for (int i = 0; i < 16; i++) {
        seen_init(&chains[i].s);
        chains[i].left = 100;
        struct rpc_call *call =
            rpc_start(channel, PATH("Append"), 5000, &chain_handlers, &chains[i]);
        send_bytes(call, "abc", 3);
        rpc_end(call);
        rpc_call_unref(call);
    }
    for (int i = 0; i < 16; i++) {
        wait_closed(&chains[i].s);
        assert_int_equal(chains[i].s.status, REPLOG_OK);
        assert_int_equal(chains[i].s.n_messages, 100);
    }
}

/* Calls of all kinds, given up, paused and timed out at random from several threads: each ends
 * exactly once, its messages in order, and nothing stays behind (tear_down looks). */
static void random_call(uint64_t *seed) {
    struct seen s;
    seen_init(&s);
    uint32_t timeout_ms = rng_next(seed) % 4 == 0 ? 1 + (uint32_t)(rng_next(seed) % 20) : 0;
    bool reads = rng_next(seed) % 3 == 0;
    if (rng_next(seed) % 2) s.on_message = pause_at_10;
    struct rpc_call *call = rpc_start(channel, reads ? PATH("Read") : PATH("AppendStream"),
                                      timeout_ms, &seen_handlers, &s);
    if (reads) {
        Replog__V1__ReadRequest q = REPLOG__V1__READ_REQUEST__INIT;
        q.from_seq = rng_next(seed) % 200;
        q.to_seq = rng_next(seed) % 8; /* under 8 bytes: without a number */
        q.follow = rng_next(seed) % 4 == 0;
        rpc_send_message(call, &q.base);
    } else {
        uint64_t n = rng_next(seed) % 60;
        for (uint64_t i = 0; i < n; i++) send_number(call, i, 8 + rng_next(seed) % 1500);
    }
    if (rng_next(seed) % 4) rpc_end(call);
    if (rng_next(seed) % 2) sleep_ms((long)(rng_next(seed) % 4));
    if (rng_next(seed) % 2) rpc_resume(call);
    if (rng_next(seed) % 3) sleep_ms((long)(rng_next(seed) % 4));
    rpc_cancel(call);
    wait_closed(&s);
    assert_true(s.in_order);
    rpc_call_unref(call);
}

static void *random_thread(void *number) {
    uint64_t seed = *(uint64_t *)number;
    for (int i = 0; i < 300; i++) random_call(&seed);
    return NULL;
}

static void test_random(void **state) {
    (void)state;
    pthread_t threads[THREADS];
    uint64_t numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = 1000 + (uint64_t)i;
        pthread_create(&threads[i], NULL, random_thread, &numbers[i]);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(status_call(channel, 5000, NULL), REPLOG_OK);
    struct rpc_stats stats;
    for (int i = 0; i < 400; i++) { /* the last cancellations are on their way */
        rpc_server_stats(server, &stats);
        if (stats.calls_open == 0) break;
        sleep_ms(5);
    }
    assert_int_equal(stats.calls_open, 0);
    assert_int_equal(stats.connections, 1);
}

/* HTTP/2 has 2^30 stream ids for a connection; a channel goes on with a new one. */
static void test_stream_ids_run_out(void **state) {
    (void)state;
    struct seen s;
    seen_init(&s);
    struct rpc_call *old = rpc_start(channel, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(old, 0, 8);
    wait_messages(&s, 1);
    pthread_mutex_lock(&old->conn->mu);
    assert_int_equal(nghttp2_session_set_next_stream_id(old->conn->session, INT32_MAX - 6), 0);
    pthread_mutex_unlock(&old->conn->mu);
    for (int i = 0; i < 20; i++) assert_int_equal(status_call(channel, 5000, NULL), REPLOG_OK);
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_int_equal(stats.connections, 2);
    send_number(old, 1, 8); /* the old connection stays for the calls that it has */
    wait_messages(&s, 2);
    rpc_end(old);
    wait_closed(&s);
    assert_int_equal(s.status, REPLOG_OK);
    rpc_call_unref(old);
    for (int i = 0; i < 400 && stats.connections != 1; i++) {
        sleep_ms(5);
        rpc_server_stats(server, &stats);
    }
    assert_int_equal(stats.connections, 1);
}

/* Silence is not the end: keepalive asks, and the peer answers. */
static void test_keepalive(void **state) {
    (void)state;
    struct rpc_channel *c = open_channel(address, 200);
    struct seen s;
    seen_init(&s);
    struct rpc_call *call = rpc_start(c, PATH("AppendStream"), 0, &seen_handlers, &s);
    send_number(call, 0, 8);
    wait_messages(&s, 1);
    sleep_ms(700);
    assert_int_equal(s.n_closed, 0);
    send_number(call, 1, 8);
    wait_messages(&s, 2);
    rpc_channel_close(c);
    rpc_call_unref(call);
}

/* --nng-way: nng's own threads wait for bytes. */
int main(int argc, char **argv) {
    poll_off(argc > 1 && strcmp(argv[1], "--nng-way") == 0);
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {T(test_unary),
                                       T(test_health),
                                       T(test_large_messages),
                                       T(test_too_large),
                                       T(test_pieces),
                                       T(test_bidirectional),
                                       T(test_server_stream_pressure),
                                       T(test_close_behind_pause),
                                       T(test_server_pauses),
                                       T(test_deadline),
                                       T(test_cancel),
                                       T(test_server_cancels),
                                       T(test_refused),
                                       T(test_restart),
                                       T(test_drain),
                                       T(test_close_with_open_calls),
                                       T(test_many_threads),
                                       T(test_more_than_max_streams),
                                       T(test_calls_from_callbacks),
                                       T(test_random),
                                       T(test_stream_ids_run_out),
                                       T(test_keepalive)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fflush(NULL);
    _exit(failed != 0); /* nng's threads do not end */
}

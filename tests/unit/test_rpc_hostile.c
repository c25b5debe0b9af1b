/* rpc/: what strangers on raw sockets may do to a server: their connection is closed, the others go
 * on, memory stays bounded. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "replog.pb-c.h"
#include "rpc_echo.h"
#include "rpc_raw.h"

enum {
    PATIENT_MS = 20000, /* for a machine that is busy with other things */
    HANDSHAKE_MS = 300,
    KEEPALIVE_MS = 400,
    MAX_CONNECTIONS = 40,
    FLOOD_BYTES = 64 * 1024 * 1024, /* a flood that got so far was not stopped */
#ifdef __SANITIZE_THREAD__          /* which keeps a shadow of everything */
    GROWTH_BYTES = 512 * 1024 * 1024
#else
    GROWTH_BYTES = 64 * 1024 * 1024
#endif
};

static struct rpc_server *server;
static struct rpc_channel *channel;

/* ASan keeps freed memory back, which would drown what is measured here. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "quarantine_size_mb=4";
}

static uint64_t resident_bytes(void) {
    unsigned long all = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &all, &resident), 2);
    fclose(f);
    return (uint64_t)resident * 4096;
}

static void sleep_ms(long ms) {
    struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&ts, NULL);
}

static bool healthy(void) {
    Replog__V1__StatusRequest q = REPLOG__V1__STATUS_REQUEST__INIT;
    replog_error err = {0};
    replog_status status =
        rpc_unary(channel, &replog__v1__log__descriptor, "Status", &q.base, 5000, NULL, NULL, &err);
    if (status) fprintf(stderr, "healthy: %s\n", err.text);
    return status == REPLOG_OK;
}

static int dial(void) {
    return raw_dial(rpc_server_port(server));
}

/* Sends `once`, then `again` over and over; true when the server ended it. Replies are not read. */
static bool flood_is_stopped(const struct bytes *once, const struct bytes *again) {
    int fd = dial();
    bool stopped = !send_all(fd, once->data, once->size);
    for (size_t sent = 0; sent < FLOOD_BYTES && !stopped; sent += again->size)
        stopped = !send_all(fd, again->data, again->size);
    stopped = stopped && hung_up(fd, PATIENT_MS);
    close(fd);
    return stopped;
}

static struct bytes once, again;

static void begin_flood(void) {
    once.size = again.size = 0;
    put_preface(&once);
}

static void fill(void (*add)(uint32_t i)) {
    for (uint32_t i = 0; again.size < sizeof again.data - 4096; i++) add(i);
}

static int set_up(void **state) {
    (void)state;
    char address[64];
    struct rpc_server_options o = {.handshake_ms = HANDSHAKE_MS,
                                   .keepalive_ms = KEEPALIVE_MS,
                                   .max_connections = MAX_CONNECTIONS};
    server = echo_start(&o, address);
    struct rpc_channel_options c = {.address = address};
    assert_int_equal(rpc_channel_open(&c, &channel, NULL), REPLOG_OK);
    assert_true(healthy());
    return 0;
}

/* After every attack: the neighbour still works, and all that the stranger held is given back. */
static int tear_down(void **state) {
    (void)state;
    assert_true(healthy());
    struct rpc_stats stats;
    for (int i = 0; i < 400; i++) {
        rpc_server_stats(server, &stats);
        if (stats.connections == 1 && stats.calls_open == 0) break;
        sleep_ms(10);
    }
    assert_int_equal(stats.connections, 1);
    assert_int_equal(stats.calls_open, 0);
    assert_int_equal(stats.buffered_bytes, 0);
    rpc_channel_close(channel);
    rpc_server_drain(server, 1000);
    return 0;
}

/* ---- Garbage, silence, slowness */

static void test_garbage(void **state) {
    (void)state;
    uint64_t seed = 42;
    for (int round = 0; round < 60; round++) {
        int fd = dial();
        uint8_t junk[4096];
        for (size_t i = 0; i < sizeof junk; i++) junk[i] = (uint8_t)rng_next(&seed);
        static struct bytes b;
        b.size = 0;
        if (round % 3 == 1) put(&b, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
        if (round % 3 == 2) put_preface(&b); /* then frames of random types and lengths */
        put(&b, junk, 1 + rng_next(&seed) % sizeof junk);
        if (round % 3 == 2)
            for (size_t i = 33; i + 9 < b.size; i += 40) b.data[i] = b.data[i + 1] = 0;
        send_all(fd, b.data, b.size);
        if (round % 2) shutdown(fd, SHUT_WR);
        assert_true(hung_up(fd, PATIENT_MS));
        close(fd);
    }
}

static void test_half_open(void **state) {
    (void)state;
    static struct bytes b;
    b.size = 0;
    put_preface(&b);
    static const size_t cuts[] = {0, 1, 10, 24, 28, 32};
    int fds[6];
    uint64_t begun = clock_mono_ms();
    for (int i = 0; i < 6; i++) {
        fds[i] = dial();
        send_all(fds[i], b.data, cuts[i]);
    }
    for (int i = 0; i < 6; i++) {
        assert_true(hung_up(fds[i], PATIENT_MS));
        close(fds[i]);
    }
    assert_in_range(clock_mono_ms() - begun, HANDSHAKE_MS - 50, HANDSHAKE_MS + PATIENT_MS);
}

static void test_slow(void **state) {
    (void)state;
    static struct bytes b;
    b.size = 0;
    put_preface(&b);
    int fd = dial();
    uint64_t begun = clock_mono_ms();
    size_t sent = 0;
    for (; sent < b.size && send_all(fd, b.data + sent, 1); sent++) sleep_ms(60);
    assert_true(sent < b.size); /* it did not wait for all of it */
    assert_true(hung_up(fd, PATIENT_MS));
    assert_true(clock_mono_ms() - begun < HANDSHAKE_MS + PATIENT_MS);
    close(fd);
}

/* Speaks once and then never again, as a stopped process does. */
static void test_silent(void **state) {
    (void)state;
    static struct bytes b;
    b.size = 0;
    put_preface(&b);
    put_request(&b, 1, "/replog.v1.Log/AppendStream", END_HEADERS);
    int fd = dial();
    send_all(fd, b.data, b.size);
    uint64_t begun = clock_mono_ms();
    assert_true(hung_up(fd, PATIENT_MS));
    assert_in_range(clock_mono_ms() - begun, KEEPALIVE_MS, 4 * KEEPALIVE_MS + PATIENT_MS);
    close(fd);
}

static void test_too_many_connections(void **state) {
    (void)state;
    int fds[MAX_CONNECTIONS + 8];
    static struct bytes b;
    b.size = 0;
    put_preface(&b);
    for (int i = 0; i < MAX_CONNECTIONS + 8; i++) {
        fds[i] = dial();
        send_all(fds[i], b.data, b.size);
    }
    assert_true(hung_up(fds[MAX_CONNECTIONS + 7], PATIENT_MS));
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_true(stats.connections <= MAX_CONNECTIONS);
    assert_true(stats.connections_refused >= 8);
    assert_true(healthy());
    for (int i = 0; i < MAX_CONNECTIONS + 8; i++) close(fds[i]);
}

/* ---- Floods */

static void add_ping(uint32_t i) {
    (void)i;
    put_frame(&again, PING, 0, 0, "12345678", 8);
}
static void add_settings(uint32_t i) {
    (void)i;
    put_frame(&again, SETTINGS, 0, 0, NULL, 0);
}
static void add_priority(uint32_t i) {
    put_frame(&again, PRIORITY, 0, 2 * i + 1, "\0\0\0\0\1", 5);
}
static void add_unknown(uint32_t i) {
    (void)i;
    put_frame(&again, UNKNOWN, 0, 0, "x", 1);
}
static void add_empty_data(uint32_t i) {
    (void)i;
    put_frame(&again, DATA, 0, 1, NULL, 0);
}
static void add_continuation(uint32_t i) {
    (void)i;
    put_frame(&again, CONTINUATION, 0, 1, NULL, 0);
}

static void test_control_floods(void **state) {
    (void)state;
    uint64_t before = resident_bytes();
    static void (*const kinds[])(uint32_t) = {add_ping, add_settings, add_priority, add_unknown};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        begin_flood();
        fill(kinds[i]);
        if (!flood_is_stopped(&once, &again)) fail_msg("flood %zu was not stopped", i);
        assert_true(healthy());
    }
    begin_flood();
    put_request(&once, 1, "/replog.v1.Log/AppendStream", END_HEADERS);
    fill(add_empty_data);
    assert_true(flood_is_stopped(&once, &again));
    begin_flood();
    put_request(&once, 1, "/replog.v1.Log/AppendStream", 0);
    fill(add_continuation);
    assert_true(flood_is_stopped(&once, &again));
    assert_true(resident_bytes() < before + GROWTH_BYTES);
}

/* Stream after stream, begun and reset; and streams that provoke resets by the server. */
static bool stream_flood_is_stopped(void (*add)(struct bytes *, uint32_t)) {
    static struct bytes b;
    b.size = 0;
    put_preface(&b);
    int fd = dial();
    bool open = true;
    size_t sent = 0;
    for (uint32_t id = 1; open && sent < FLOOD_BYTES; id += 2) {
        add(&b, id);
        if (b.size < sizeof b.data - 1024) continue;
        open = send_all(fd, b.data, b.size);
        sent += b.size;
        b.size = 0;
    }
    bool stopped = !open && hung_up(fd, PATIENT_MS);
    close(fd);
    return stopped;
}

static void add_reset(struct bytes *b, uint32_t id) {
    put_request(b, id, "/replog.v1.Log/AppendStream", END_HEADERS);
    put_frame(b, RST_STREAM, 0, id, "\0\0\0\x8", 4);
}
static void add_bad_update(struct bytes *b, uint32_t id) {
    put_request(b, id, "/replog.v1.Log/AppendStream", END_HEADERS);
    put_frame(b, WINDOW_UPDATE, 0, id, "\0\0\0\0", 4);
}
static void add_bad_request(struct bytes *b, uint32_t id) {
    static struct bytes h;
    h.size = 0;
    put_field(&h, "Bad Name", "x");
    put_frame(b, HEADERS, END_HEADERS, id, h.data, h.size);
}

static void test_stream_floods(void **state) {
    (void)state;
    uint64_t before = resident_bytes();
    assert_true(stream_flood_is_stopped(add_reset));
    assert_true(healthy());
    assert_true(stream_flood_is_stopped(add_bad_update));
    assert_true(healthy());
    assert_true(stream_flood_is_stopped(add_bad_request));
    assert_true(resident_bytes() < before + GROWTH_BYTES);
}

static void test_large_headers(void **state) {
    (void)state;
    static struct bytes h;
    int fd = dial();
    once.size = 0;
    put_preface(&once);
    send_all(fd, once.data, once.size);
    for (uint32_t id = 1; id < 200; id += 2) {
        once.size = h.size = 0;
        char value[250];
        memset(value, 'v', sizeof value);
        value[249] = 0;
        while (h.size < 16000) put_field(&h, "x-filler", value);
        put_frame(&once, HEADERS, 0, id, h.data, h.size);
        put_frame(&once, CONTINUATION, END_HEADERS, id, h.data, h.size);
        if (!send_all(fd, once.data, once.size)) break;
    }
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    assert_true(stats.calls_open < 10);
    close(fd);
}

/* ---- Messages */

/* Empty messages whose replies nobody reads: the server stops to take them. */
static void add_empty_message(uint32_t i) {
    (void)i;
    put_frame(&again, DATA, 0, 1, "\0\0\0\0\0", 5);
}

static void test_empty_messages(void **state) {
    (void)state;
    uint64_t before = resident_bytes();
    begin_flood();
    put_request(&once, 1, "/replog.v1.Log/AppendStream", END_HEADERS);
    fill(add_empty_message);
    assert_true(flood_is_stopped(&once, &again));
    assert_true(resident_bytes() < before + GROWTH_BYTES);
}

/* Messages begun and never ended, on many streams of several connections at once: the budget of
 * all is kept however their threads interleave. */
enum { HALF_CONNECTIONS = 6, HALF_STREAMS = 60, HALF_FRAMES = 40 };
struct half_sender {
    pthread_t thread;
    int fd;
    _Atomic bool done;
};

static void *send_halves(void *arg) {
    struct half_sender *sender = arg;
    static const uint8_t zeros[16000];
    struct bytes b = {.size = 0};
    put_preface(&b);
    for (uint32_t s = 0; s < HALF_STREAMS; s++) {
        put_request(&b, 2 * s + 1, "/replog.v1.Log/Append", END_HEADERS);
        put_frame(&b, DATA, 0, 2 * s + 1, "\0\0\x3f\0\0", 5);
    }
    bool open = send_all(sender->fd, b.data, b.size);
    for (uint32_t i = 0; open && i < HALF_STREAMS * HALF_FRAMES; i++) {
        b.size = 0;
        put_frame(&b, DATA, 0, 2 * (i % HALF_STREAMS) + 1, zeros, sizeof zeros);
        open = send_all(sender->fd, b.data, b.size);
    }
    atomic_store(&sender->done, true);
    return NULL;
}

static void test_half_messages(void **state) {
    (void)state;
    uint64_t before = resident_bytes();
    struct half_sender senders[HALF_CONNECTIONS] = {0};
    for (int c = 0; c < HALF_CONNECTIONS; c++) {
        senders[c].fd = dial();
        assert_int_equal(pthread_create(&senders[c].thread, NULL, send_halves, &senders[c]), 0);
    }
    uint64_t most = 0;
    for (int c = 0; c < HALF_CONNECTIONS;) {
        struct rpc_stats stats;
        rpc_server_stats(server, &stats);
        if (stats.buffered_bytes > most) most = stats.buffered_bytes;
        if (atomic_load(&senders[c].done)) c++;
        sched_yield();
    }
    for (int c = 0; c < HALF_CONNECTIONS; c++) pthread_join(senders[c].thread, NULL);
    assert_true(healthy());
    assert_true(most > 1024 * 1024);
    assert_true(most <= 32u * 1024 * 1024 + HALF_CONNECTIONS * 65536);
    assert_true(resident_bytes() < before + GROWTH_BYTES);
    for (int c = 0; c < HALF_CONNECTIONS; c++) close(senders[c].fd);
}

/* The prefix announces 4 GiB: refused at once, with a sentence. */
static void test_oversize_message(void **state) {
    (void)state;
    int fd = dial();
    once.size = 0;
    put_preface(&once);
    put_request(&once, 1, "/replog.v1.Log/Append", END_HEADERS);
    put_frame(&once, DATA, 0, 1, "\0\xff\xff\xff\xff", 5);
    send_all(fd, once.data, once.size);
    uint8_t reply[4096];
    size_t n = 0;
    bool found = false;
    for (int i = 0; i < 20 && !found; i++) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        if (poll(&pfd, 1, PATIENT_MS) <= 0) break;
        ssize_t k = recv(fd, reply + n, sizeof reply - n, 0);
        if (k <= 0) break;
        n += (size_t)k;
        /* grpc-status 8 stands in HPACK, the name possibly Huffman-coded: look for a HEADERS frame
         */
        for (size_t at = 0; at + 9 <= n;) {
            size_t size = (size_t)reply[at] << 16 | (size_t)reply[at + 1] << 8 | reply[at + 2];
            found |= reply[at + 3] == HEADERS && (reply[at + 4] & END_STREAM);
            at += 9 + size;
        }
    }
    assert_true(found);
    close(fd);
}

/* Replies that nobody reads do not pile up. */
static void test_reader_that_stops(void **state) {
    (void)state;
    uint64_t before = resident_bytes();
    int fds[8];
    Replog__V1__ReadRequest q = REPLOG__V1__READ_REQUEST__INIT;
    q.from_seq = 1u << 30;
    q.to_seq = 60000;
    uint8_t message[64] = {0};
    size_t n = replog__v1__read_request__pack(&q, message + 5);
    message[4] = (uint8_t)n;
    for (int i = 0; i < 8; i++) {
        fds[i] = dial();
        once.size = 0;
        put_preface(&once);
        for (uint32_t s = 1; s < 40; s += 2) {
            put_request(&once, s, "/replog.v1.Log/Read", END_HEADERS);
            put_frame(&once, DATA, END_STREAM, s, message, n + 5);
            put_frame(&once, WINDOW_UPDATE, 0, s, "\x3f\0\0\0", 4);
        }
        put_frame(&once, WINDOW_UPDATE, 0, 0, "\x3f\0\0\0", 4);
        send_all(fds[i], once.data, once.size);
    }
    sleep_ms(300);
    assert_true(healthy());
    assert_true(resident_bytes() < before + GROWTH_BYTES);
    for (int i = 0; i < 8; i++) close(fds[i]);
}

/* Hanging up at every byte of an exchange. */
static void test_cut_anywhere(void **state) {
    (void)state;
    once.size = 0;
    put_preface(&once);
    put_request(&once, 1, "/replog.v1.Log/AppendStream", END_HEADERS);
    put_frame(&once, DATA, 0, 1, "\0\0\0\0\3abc", 8);
    put_frame(&once, DATA, END_STREAM, 1, "\0\0\0\0\1x", 6);
    for (size_t cut = 1; cut <= once.size; cut++) {
        int fd = dial();
        send_all(fd, once.data, cut);
        close(fd);
    }
}

/* ---- Clients that are answered by something else */

static _Atomic int outcome;

static void on_outcome(struct rpc_call *call, replog_status status, const char *text) {
    (void)call;
    (void)text;
    outcome = (int)status;
}

static int listen_anywhere(char to[64]) {
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof sa;
    assert_int_equal(bind(listener, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(listener, 8), 0);
    getsockname(listener, (struct sockaddr *)&sa, &size);
    snprintf(to, 64, "127.0.0.1:%u", (unsigned)ntohs(sa.sin_port));
    return listener;
}

enum { SHORT_MS = 200 }; /* for what is to be given up */

/* One call to a server that answers with `answer` and then says nothing, which the client bears for
 * `patience_ms`; the call's outcome. */
static int outcome_within(uint32_t patience_ms, const void *answer, size_t size_bytes) {
    char to[64];
    int listener = listen_anywhere(to);
    struct rpc_channel_options o = {
        .address = to, .connect_ms = patience_ms, .keepalive_ms = patience_ms};
    struct rpc_channel *c;
    assert_int_equal(rpc_channel_open(&o, &c, NULL), REPLOG_OK);
    struct rpc_handlers handlers = {.closed = on_outcome};
    outcome = -1;
    struct rpc_call *call = rpc_start(c, "/x.Y/Z", 0, &handlers, NULL);
    int fd = accept(listener, NULL, NULL);
    uint8_t request[4096];
    for (ssize_t n = 0; n < 110;) { /* preface, SETTINGS and the request's headers */
        ssize_t k = recv(fd, request + n, sizeof request - (size_t)n, 0);
        assert_true(k > 0);
        n += k;
    }
    send_all(fd, answer, size_bytes);
    uint64_t begun = clock_mono_ms();
    while (outcome < 0 && clock_mono_ms() - begun < PATIENT_MS) sleep_ms(5);
    rpc_call_unref(call);
    close(fd);
    close(listener);
    rpc_channel_close(c);
    return outcome;
}

/* The same with so much patience that giving up is no outcome. */
static int outcome_of(const void *answer, size_t size_bytes) {
    return outcome_within(10 * PATIENT_MS, answer, size_bytes);
}

static void test_false_server(void **state) {
    (void)state;
    static struct bytes b;
    assert_int_equal(outcome_of("HTTP/1.1 400 Bad Request\r\n\r\n", 28), REPLOG_UNAVAILABLE);
    assert_int_equal(outcome_within(SHORT_MS, "", 0), REPLOG_UNAVAILABLE);
    assert_int_equal(outcome_within(SHORT_MS, "\0\0\0", 3), REPLOG_UNAVAILABLE);
    b.size = 0;
    put_frame(&b, SETTINGS, 0, 0, NULL, 0); /* and silence: keepalive */
    assert_int_equal(outcome_within(SHORT_MS, b.data, b.size), REPLOG_UNAVAILABLE);
    /* an HTTP answer that is not gRPC: its :status counts */
    static const struct {
        const char *http;
        replog_status status;
    } cases[] = {{"503", REPLOG_UNAVAILABLE},
                 {"404", REPLOG_UNIMPLEMENTED},
                 {"403", REPLOG_PERMISSION_DENIED},
                 {"200", REPLOG_INTERNAL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static struct bytes h;
        h.size = 0;
        put(&h, "\x08\x03", 2);
        put(&h, cases[i].http, 3);
        b.size = 0;
        put_frame(&b, SETTINGS, 0, 0, NULL, 0);
        put_frame(&b, HEADERS, END_HEADERS | END_STREAM, 1, h.data, h.size);
        assert_int_equal(outcome_of(b.data, b.size), cases[i].status);
    }
    b.size = 0;
    put_frame(&b, SETTINGS, 0, 0, NULL, 0);
    put_frame(&b, RST_STREAM, 0, 1, "\0\0\0\x7", 4); /* REFUSED_STREAM */
    assert_int_equal(outcome_of(b.data, b.size), REPLOG_UNAVAILABLE);
    b.size = 0;
    put_frame(&b, SETTINGS, 0, 0, NULL, 0);
    put_frame(&b, GOAWAY, 0, 0, "\0\0\0\0\0\0\0\0", 8); /* nothing was processed */
    assert_int_equal(outcome_of(b.data, b.size), REPLOG_UNAVAILABLE);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_WARN);
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {T(test_garbage),
                                       T(test_half_open),
                                       T(test_slow),
                                       T(test_silent),
                                       T(test_too_many_connections),
                                       T(test_control_floods),
                                       T(test_stream_floods),
                                       T(test_large_headers),
                                       T(test_empty_messages),
                                       T(test_half_messages),
                                       T(test_oversize_message),
                                       T(test_reader_that_stops),
                                       T(test_cut_anywhere),
                                       T(test_false_server)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fflush(NULL);
    _exit(failed != 0); /* nng's threads do not end */
}

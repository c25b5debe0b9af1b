/* rpc/frames.c: RST_STREAM of a stream that was never opened disturbs nobody, however the bytes are
 * cut; everything else reaches nghttp2 as it came, and DATA from where it lies. */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "rpc/internal.h"
#include "rpc_echo.h"
#include "rpc_raw.h"

enum {
    PATIENT_MS = 20000, /* for a machine that is busy with other things */
    SOON_MS = 200,      /* for what is not expected to come */
    FLOOD_BYTES = 64 * 1024 * 1024,
    PADDED = 8
};

static const char cancel[] = "\0\0\0\x8", stream_path[] = "/replog.v1.Log/AppendStream";

/* ---- Over a socket */

static struct rpc_server *server;

static struct rpc_stats stats_now(void) {
    struct rpc_stats stats;
    rpc_server_stats(server, &stats);
    return stats;
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

static int set_up(void **state) {
    (void)state;
    char address[64];
    server = echo_start(NULL, address);
    return server ? 0 : -1;
}

static int tear_down(void **state) {
    (void)state;
    for (uint64_t begun = clock_mono_ms(); stats_now().connections > 0; nap())
        assert_true(clock_mono_ms() - begun < PATIENT_MS);
    assert_int_equal(stats_now().calls_open, 0);
    rpc_server_drain(server, 1000);
    return 0;
}

/* Sends in pieces, each when the one before it has been received. */
static void send_piece(int fd, const uint8_t *bytes, size_t n) {
    uint64_t until = stats_now().bytes_in + n, begun = clock_mono_ms();
    if (!send_all(fd, bytes, n)) return; /* it has hung up already: the caller will see */
    while (stats_now().bytes_in < until && clock_mono_ms() - begun < SOON_MS) nap();
}

static void send_in_bytes(int fd, const struct bytes *b) {
    for (size_t i = 0; i < b->size; i++) send_piece(fd, b->data + i, 1);
}

static bool receive_all(int fd, uint8_t *to, size_t n) {
    for (size_t at = 0; at < n;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        ssize_t k = poll(&pfd, 1, PATIENT_MS) > 0 ? recv(fd, to + at, n - at, 0) : 0;
        if (k <= 0) return false;
        at += (size_t)k;
    }
    return true;
}

/* Reads frames until `stream` has answered with so many bytes, and, with `size` 0, has ended.
 * False: GOAWAY, a reset, the end of the connection, or silence. */
static bool answers(int fd, uint32_t stream, const void *bytes, size_t size) {
    static uint8_t payload[65536];
    uint8_t head[9], got[64];
    size_t at = 0;
    while (at < size || size == 0) {
        if (!receive_all(fd, head, 9)) return false;
        size_t n = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
        if (n > sizeof payload || !receive_all(fd, payload, n)) return false;
        if (head[3] == GOAWAY || head[3] == RST_STREAM) return false;
        if (head[8] != stream) continue;
        if (head[3] == HEADERS && head[4] & END_STREAM) return size == 0;
        if (head[3] != DATA) continue;
        if (at + n > size) return false;
        memcpy(got + at, payload, n);
        at += n;
    }
    return memcmp(got, bytes, size) == 0;
}

/* A call with a message on it, resets of streams that were never opened, and its other message. */
static const char both[] = "\0\0\0\0\3abc\0\0\0\0\2xy";
enum { FIRST_BYTES = 8, BOTH_BYTES = 15 };

static void put_first(struct bytes *b) {
    b->size = 0;
    put_preface(b);
    put_request(b, 1, stream_path, END_HEADERS);
    put_frame(b, DATA, 0, 1, both, FIRST_BYTES);
}

static void put_rest(struct bytes *b) {
    put_frame(b, DATA, END_STREAM, 1, both + FIRST_BYTES, BOTH_BYTES - FIRST_BYTES);
}

static bool call_goes_on(int fd, uint64_t ok_before) {
    if (!answers(fd, 1, both, BOTH_BYTES) || !answers(fd, 1, NULL, 0)) return false;
    for (uint64_t begun = clock_mono_ms(); echo_counters.closed_ok == ok_before; nap())
        if (clock_mono_ms() - begun > PATIENT_MS) return false;
    return true;
}

static void test_live_call_goes_on(void **state) {
    (void)state;
    static struct bytes b;
    put_first(&b);
    int fd = raw_dial(rpc_server_port(server));
    assert_true(send_all(fd, b.data, b.size));
    assert_true(answers(fd, 1, both, FIRST_BYTES)); /* it is under way */
    b.size = 0;
    put_frame(&b, RST_STREAM, 0, 3, cancel, 4);
    put_frame(&b, RST_STREAM, 0, 3, cancel, 4);
    put_frame(&b, RST_STREAM, 0xff, 0x80000009, cancel, 4);
    put_rest(&b);
    assert_true(send_all(fd, b.data, b.size));
    assert_true(answers(fd, 1, both + FIRST_BYTES, BOTH_BYTES - FIRST_BYTES));
    assert_true(answers(fd, 1, NULL, 0));
    /* what was reset may be opened, or skipped, and a stream that is open may be reset */
    static const uint8_t later[] = {3, 7, 9, 21};
    for (size_t i = 0; i < sizeof later; i++) {
        b.size = 0;
        put_frame(&b, RST_STREAM, 0, later[i] + 2, cancel, 4);
        put_request(&b, later[i], stream_path, END_HEADERS);
        put_frame(&b, DATA, END_STREAM, later[i], both, BOTH_BYTES);
        assert_true(send_all(fd, b.data, b.size));
        assert_true(answers(fd, later[i], both, BOTH_BYTES));
        assert_true(answers(fd, later[i], NULL, 0));
    }
    uint64_t cancelled = echo_counters.closed_cancelled;
    b.size = 0;
    put_request(&b, 31, stream_path, END_HEADERS);
    put_frame(&b, DATA, 0, 31, both, FIRST_BYTES);
    assert_true(send_all(fd, b.data, b.size));
    assert_true(answers(fd, 31, both, FIRST_BYTES));
    b.size = 0;
    put_frame(&b, RST_STREAM, 0, 31, cancel, 4);
    assert_true(send_all(fd, b.data, b.size));
    for (uint64_t begun = clock_mono_ms(); echo_counters.closed_cancelled == cancelled; nap())
        assert_true(clock_mono_ms() - begun < PATIENT_MS);
    assert_false(hung_up(fd, SOON_MS));
    close(fd);
    assert_int_equal(stats_now().protocol_errors, 0);
}

static void test_cut_at_every_byte(void **state) {
    (void)state;
    static struct bytes b;
    put_first(&b);
    put_frame(&b, RST_STREAM, 0, 3, cancel, 4);
    put_frame(&b, PING, 0, 0, "12345678", 8);
    put_frame(&b, RST_STREAM, 0, 5, cancel, 4);
    put_frame(&b, RST_STREAM, 0, 3, cancel, 4);
    put_rest(&b);
    for (size_t cut = 1; cut <= b.size; cut++) {
        uint64_t ok_before = echo_counters.closed_ok;
        int fd = raw_dial(rpc_server_port(server));
        send_piece(fd, b.data, cut);
        send_all(fd, b.data + cut, b.size - cut);
        if (!call_goes_on(fd, ok_before)) fail_msg("cut at byte %zu of %zu", cut, b.size);
        close(fd);
    }
    uint64_t ok_before = echo_counters.closed_ok;
    int fd = raw_dial(rpc_server_port(server));
    send_in_bytes(fd, &b);
    assert_true(call_goes_on(fd, ok_before));
    close(fd);
    assert_int_equal(stats_now().protocol_errors, 0);
}

/* What else is wrong ends the connection as before. */
static void test_the_rest_is_strict(void **state) {
    (void)state;
    static const struct {
        const char *what;
        uint8_t type;
        uint32_t stream;
        size_t size;
        enum { AFTER_CALL, FIRST_OF_ALL, WITHIN_HEADERS, LATER_WITHIN_HEADERS } where;
    } cases[] = {{"RST_STREAM without a code", RST_STREAM, 3, 0, AFTER_CALL},
                 {"RST_STREAM of 3 bytes", RST_STREAM, 3, 3, AFTER_CALL},
                 {"RST_STREAM of 5 bytes", RST_STREAM, 3, 5, AFTER_CALL},
                 {"RST_STREAM of 260 bytes", RST_STREAM, 3, 260, AFTER_CALL},
                 {"RST_STREAM on stream 0", RST_STREAM, 0, 4, AFTER_CALL},
                 {"RST_STREAM on the server's stream", RST_STREAM, 2, 4, AFTER_CALL},
                 {"RST_STREAM before SETTINGS", RST_STREAM, 3, 4, FIRST_OF_ALL},
                 {"RST_STREAM within headers", RST_STREAM, 3, 4, WITHIN_HEADERS},
                 {"RST_STREAM after CONTINUATION", RST_STREAM, 3, 4, LATER_WITHIN_HEADERS},
                 {"WINDOW_UPDATE of an idle stream", WINDOW_UPDATE, 3, 4, AFTER_CALL},
                 {"DATA of an idle stream", DATA, 3, 4, AFTER_CALL}};
    static struct bytes b;
    static const uint8_t payload[260] = {0, 0, 0, 8};
    for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
        size_t c = i / 2;
        b.size = 0;
        if (cases[c].where == FIRST_OF_ALL)
            put(&b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        else
            put_preface(&b);
        if (cases[c].where != FIRST_OF_ALL)
            put_request(&b, 1, stream_path, cases[c].where == AFTER_CALL ? END_HEADERS : 0);
        if (cases[c].where == LATER_WITHIN_HEADERS) put_frame(&b, CONTINUATION, 0, 1, NULL, 0);
        put_frame(&b, cases[c].type, 0, cases[c].stream, payload, cases[c].size);
        uint64_t errors = stats_now().protocol_errors;
        int fd = raw_dial(rpc_server_port(server));
        if (i % 2)
            send_in_bytes(fd, &b);
        else
            send_all(fd, b.data, b.size);
        if (!hung_up(fd, PATIENT_MS) || stats_now().protocol_errors != errors + 1)
            fail_msg("%s: not ended", cases[c].what);
        close(fd);
    }
}

/* A burst costs nobody anything; a flood ends. */
static void test_flood(void **state) {
    (void)state;
    static struct bytes b, again;
    again.size = 0;
    while (again.size < sizeof again.data - 13) put_frame(&again, RST_STREAM, 0, 3, cancel, 4);
    uint64_t ok_before = echo_counters.closed_ok;
    put_first(&b);
    int fd = raw_dial(rpc_server_port(server));
    assert_true(send_all(fd, b.data, b.size));
    assert_true(send_all(fd, again.data, again.size)); /* half of FLOOD_BURST */
    b.size = 0;
    put_rest(&b);
    assert_true(send_all(fd, b.data, b.size));
    assert_true(call_goes_on(fd, ok_before));
    assert_int_equal(stats_now().protocol_errors, 0);
    bool stopped = false;
    for (size_t sent = 0; sent < FLOOD_BYTES && !stopped; sent += again.size)
        stopped = !send_all(fd, again.data, again.size);
    assert_true(stopped && hung_up(fd, PATIENT_MS));
    close(fd);
    assert_int_equal(stats_now().protocol_errors, 1);
}

/* ---- In front of an nghttp2 that tells what it sees */

struct seen {
    nghttp2_session *session;
    uint8_t log[256 * 1024]; /* frame headers and DATA, in order */
    size_t size;
    const uint8_t *bytes; /* what was received just now */
    size_t n;
};

static void see(struct seen *s, const void *data, size_t n) {
    assert_true(s->size + n <= sizeof s->log);
    memcpy(s->log + s->size, data, n);
    s->size += n;
}

static int on_begin(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user) {
    (void)session;
    uint32_t head[4] = {(uint32_t)hd->length, hd->type, hd->flags, (uint32_t)hd->stream_id};
    see(user, head, sizeof head);
    return 0;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                    size_t n, void *user) {
    (void)session;
    (void)flags;
    (void)stream;
    struct seen *s = user;
    /* calls keep such pointers until the receive buffer is used again */
    assert_true(!s->bytes || (data >= s->bytes && data + n <= s->bytes + s->n));
    see(s, data, n);
    return 0;
}

static void begin_seeing(struct seen *s) {
    nghttp2_session_callbacks *callbacks;
    assert_int_equal(nghttp2_session_callbacks_new(&callbacks), 0);
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
    assert_int_equal(nghttp2_session_server_new(&s->session, callbacks, s), 0);
    nghttp2_session_callbacks_del(callbacks);
    s->size = 0;
    s->bytes = NULL;
}

static uint64_t seed;
static uint32_t below(uint32_t n) {
    return (uint32_t)(rng_next(&seed) % n);
}

/* A frame to both; to `all` only, when it is one that nghttp2 must not see. */
static void put_random(struct bytes *all, struct bytes *passed, uint32_t *highest) {
    static struct bytes f;
    static uint8_t payload[600];
    f.size = 0;
    bool dropped = false;
    uint32_t open = 1 + 2 * below(*highest / 2 + 1);
    for (size_t i = 0; i < sizeof payload; i++) payload[i] = (uint8_t)rng_next(&seed);
    switch (below(8)) {
    case 0:
        put_frame(&f, RST_STREAM, (uint8_t)below(256), *highest + 2 + 2 * below(9), payload, 4);
        dropped = true;
        break;
    case 1:
        put_frame(&f, RST_STREAM, 0, open, payload, 4);
        break;
    case 2:
        *highest += 2 + 2 * below(3);
        put_request(&f, *highest, stream_path, END_HEADERS);
        break;
    case 3: /* headers in two pieces */
        *highest += 2;
        put_request(&f, *highest, stream_path, 0);
        put_frame(&f, CONTINUATION, END_HEADERS, *highest, "\0\1x\1y", below(2) ? 5 : 0);
        break;
    case 4:
        put_frame(&f, PING, 0, 0, payload, 8);
        break;
    case 5:
        put_frame(&f, UNKNOWN, payload[0], below(20), payload, below(20));
        break;
    default:
        payload[0] = (uint8_t)below(9);
        put_frame(&f, DATA, below(2) ? PADDED : 0, open, payload, 9 + below(sizeof payload - 9));
    }
    if (below(8) == 0) f.data[5] |= 0x80; /* has no meaning */
    put(all, f.data, f.size);
    if (!dropped) put(passed, f.data, f.size);
}

/* What a client says, and what of it nghttp2 is to see; some end badly. */
static void make_talk(struct bytes *all, struct bytes *passed) {
    uint32_t highest = 1;
    all->size = passed->size = 0;
    put_preface(all);
    put_request(all, 1, stream_path, END_HEADERS);
    if (below(20) == 0) all->data[below(24)] ^= 1; /* no preface */
    put(passed, all->data, all->size);
    for (uint32_t i = below(40); i > 0; i--) put_random(all, passed, &highest);
    if (below(4) > 0) return;
    uint32_t even = 2 * below(9);
    put_frame(all, RST_STREAM, 0, even, cancel, 4);
    put_frame(passed, RST_STREAM, 0, even, cancel, 4);
}

/* Gives it all in pieces; the first error. */
static int give_in_pieces(struct rpc_conn *conn, struct seen *s, const struct bytes *all) {
    const uint32_t sizes[] = {20, 2000, (uint32_t)all->size};
    uint32_t most = sizes[below(3)];
    int rv = 0;
    for (size_t at = 0, n; at < all->size && rv == 0; at += n) {
        n = most == all->size ? most : 1 + below(most);
        if (n > all->size - at) n = all->size - at;
        uint8_t *bytes = malloc(n); /* of its own, so that a sanitizer sees its end */
        assert_non_null(bytes);
        memcpy(bytes, all->data + at, n);
        s->bytes = bytes;
        s->n = n;
        rv = frames_give(conn, bytes, n);
        free(bytes);
    }
    return rv;
}

static void test_same_as_without(void **state) {
    (void)state;
    static struct bytes all, passed;
    static struct seen plain, filtered;
    static struct rpc_conn conn;
    unsigned bad = 0, with_drops = 0;
    for (seed = 0; seed < 2000; seed++) {
        uint64_t round = seed;
        make_talk(&all, &passed);
        begin_seeing(&plain);
        ssize_t rv = nghttp2_session_mem_recv(plain.session, passed.data, passed.size);
        begin_seeing(&filtered);
        conn.session = filtered.session;
        conn.flood_tokens = FLOOD_BURST;
        conn.flood_at_ms = clock_mono_ms();
        frames_begin(&conn.frames);
        assert_int_equal(give_in_pieces(&conn, &filtered, &all), rv < 0 ? rv : 0);
        assert_int_equal(filtered.size, plain.size);
        assert_memory_equal(filtered.log, plain.log, plain.size);
        nghttp2_session_del(plain.session);
        nghttp2_session_del(filtered.session);
        bad += rv < 0;
        with_drops += all.size > passed.size;
        seed = round;
    }
    assert_true(bad > 50 && with_drops > 1000);
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    log_set_level(LOG_WARN);
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {T(test_live_call_goes_on), T(test_cut_at_every_byte),
                                       T(test_the_rest_is_strict), T(test_flood),
                                       cmocka_unit_test(test_same_as_without)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fflush(NULL);
    _exit(failed != 0); /* nng's threads do not end */
}

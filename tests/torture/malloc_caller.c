#include "malloc_caller.h"

#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "fake_net.h"
#include "malloc_fail.h"
#include "node_stage.h"
#include "services.h"

enum {
    ROOM_BYTES = 30000, /* that a send is taken of at once; what is longer waits, as on a socket */
    STEP_MS = 5,
    TIMEOUT_MS = 2000,
    GIVE_UP_MS = 6000 /* also for what is only noticed by a keepalive */
};

static struct {
    nghttp2_session *session;
    nng_stream *stream;
    struct caller_answer *answer; /* of the call under way */
    int32_t id;
    const struct buffer *requests;
    size_t sent_bytes;
    bool ends; /* the client's side of it, behind the requests */
} client;

/* ---- The server's part of it: only this counts */

static void server_runs(void) {
    fail_hold(false);
    node_stage_run();
    fail_hold(true);
}
static void server_waits(uint64_t ms) {
    fail_hold(false);
    node_stage_pass(ms);
    fail_hold(true);
}
static size_t server_receives(const uint8_t *bytes, size_t n) {
    fail_hold(false);
    size_t used = fake_net_feed(client.stream, bytes, n);
    fail_hold(true);
    return used;
}
static size_t server_sends(uint8_t *bytes, size_t n) {
    fail_hold(false);
    size_t got = services_take(client.stream, 0, bytes, n);
    fail_hold(true);
    return got;
}
static nng_stream *server_accepts(void) {
    fail_hold(false);
    nng_stream *stream = fake_net_connect();
    fail_hold(true);
    return stream;
}

/* ---- HTTP/2 */

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t limit,
                        uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)session;
    (void)id;
    (void)source;
    (void)user;
    size_t n = client.requests->size_bytes - client.sent_bytes;
    if (n > limit) n = limit;
    if (n > 0) memcpy(bytes, client.requests->data + client.sent_bytes, n);
    client.sent_bytes += n;
    if (client.sent_bytes < client.requests->size_bytes) return (ssize_t)n;
    if (client.ends) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return n == 0 && !client.ends ? NGHTTP2_ERR_DEFERRED : (ssize_t)n;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_bytes, const uint8_t *value, size_t value_bytes, uint8_t flags,
                     void *user) {
    (void)session;
    (void)flags;
    (void)user;
    struct caller_answer *a = client.answer;
    if (!a || frame->hd.stream_id != client.id) return 0;
    if (name_bytes == 11 && memcmp(name, "grpc-status", 11) == 0) {
        a->status = (replog_status)strtol((const char *)value, NULL, 10);
        a->broken = false;
    }
    if (name_bytes == 12 && memcmp(name, "grpc-message", 12) == 0)
        (void)snprintf(a->text, sizeof a->text, "%.*s", (int)value_bytes, (const char *)value);
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t n, void *user) {
    (void)session;
    (void)flags;
    (void)user;
    if (client.answer && id == client.id) buffer_append(&client.answer->messages, bytes, n);
    return 0;
}

/* The trailers end a call, whatever becomes of the stream. */
static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    (void)session;
    (void)user;
    bool last = frame->hd.type == NGHTTP2_HEADERS && frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
    if (client.answer && frame->hd.stream_id == client.id && last) client.answer->ended = true;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
    (void)session;
    (void)error;
    (void)user;
    if (client.answer && id == client.id) client.answer->ended = true;
    return 0;
}

static void make_session(void) {
    nghttp2_session_callbacks *callbacks;
    CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    CHECK(nghttp2_session_client_new(&client.session, callbacks, NULL) == 0);
    nghttp2_session_callbacks_del(callbacks);
    CHECK(nghttp2_submit_settings(client.session, 0, NULL, 0) == 0);
}

static bool gone(void) {
    return !client.stream || fake_net_is_gone(client.stream);
}

/* Everything that either side wants to send now. */
static void exchange(void) {
    static uint8_t in[1 << 20];
    for (bool more = true; more && !gone();) {
        const uint8_t *bytes;
        ssize_t n = nghttp2_session_mem_send(client.session, &bytes);
        uint64_t deaf_ms = 0;
        for (ssize_t sent = 0; sent < n && !gone() && deaf_ms < GIVE_UP_MS;) {
            size_t used = server_receives(bytes + sent, (size_t)(n - sent));
            if (used == 0) {
                server_waits(STEP_MS);
                deaf_ms += STEP_MS;
            }
            sent += (ssize_t)used;
        }
        server_runs();
        size_t got = gone() ? 0 : server_sends(in, sizeof in);
        CHECK(got <= sizeof in);
        if (got > 0) CHECK(nghttp2_session_mem_recv(client.session, in, got) == (ssize_t)got);
        more = n > 0 || got > 0;
    }
}

void caller_close(void) {
    if (client.session) nghttp2_session_del(client.session);
    if (!gone()) {
        fail_hold(false);
        fake_net_hang_up(client.stream);
        fail_hold(true);
    }
    client.session = NULL;
    client.stream = NULL;
}

static bool connected(void) {
    if (client.stream && (gone() || !nghttp2_session_want_read(client.session))) caller_close();
    for (uint64_t ms = 0; !client.stream && ms < GIVE_UP_MS; ms += STEP_MS) {
        client.stream = server_accepts();
        if (client.stream) {
            fake_net_set_room(client.stream, ROOM_BYTES);
            make_session();
        } else {
            server_waits(STEP_MS);
        }
    }
    return client.stream != NULL;
}

/* ---- Calls */

void caller_add(struct buffer *requests, const struct buffer *message) {
    buffer_u8(requests, 0);
    for (int shift = 24; shift >= 0; shift -= 8)
        buffer_u8(requests, (uint8_t)(message->size_bytes >> shift));
    buffer_append(requests, message->data, message->size_bytes);
}

bool caller_next(const struct caller_answer *a, size_t *offset, struct slice *message) {
    const uint8_t *at = a->messages.data + *offset;
    if (a->messages.size_bytes - *offset < 5) return false;
    size_t n = (size_t)at[1] << 24 | (size_t)at[2] << 16 | (size_t)at[3] << 8 | at[4];
    if (a->messages.size_bytes - *offset - 5 < n) return false;
    *message = (struct slice){at + 5, n};
    *offset += 5 + n;
    return true;
}

static nghttp2_nv nv(const char *name, const char *value) {
    return (nghttp2_nv){(uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, strlen(name),
                        strlen(value), 0};
}

static void call(const char *path, const struct buffer *requests, bool ends,
                 struct caller_answer *out) {
    *out = (struct caller_answer){.broken = true, .status = REPLOG_UNAVAILABLE};
    if (!connected()) return;
    char timeout[16];
    (void)snprintf(timeout, sizeof timeout, "%dm", TIMEOUT_MS);
    nghttp2_nv headers[] = {nv(":method", "POST"),      nv(":scheme", "http"),
                            nv(":authority", "x"),      nv(":path", path),
                            nv("te", "trailers"),       nv("content-type", "application/grpc"),
                            nv("grpc-timeout", timeout)};
    nghttp2_data_provider provider = {.read_callback = read_out};
    client.answer = out;
    client.requests = requests;
    client.ends = ends;
    client.sent_bytes = 0;
    client.id = nghttp2_submit_request(client.session, NULL, headers,
                                       sizeof headers / sizeof headers[0], &provider, NULL);
    CHECK(client.id > 0);
    exchange();
    for (uint64_t ms = 0; !out->ended && !gone() && ms < GIVE_UP_MS; ms += STEP_MS) {
        server_waits(STEP_MS);
        exchange();
    }
    if (gone()) out->ended = true;
    client.answer = NULL;
}

void caller_call(const char *path, const struct buffer *requests, struct caller_answer *out) {
    call(path, requests, true, out);
}
void caller_call_open(const char *path, const struct buffer *requests, struct caller_answer *out) {
    call(path, requests, false, out);
}

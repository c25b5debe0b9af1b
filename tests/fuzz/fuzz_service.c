/* Calls of a correct HTTP/2 client with hostile messages in them, to every method of replogd: Log,
 * Peer, health and both reflections. The input is a program: begin a call, send bytes on it as one
 * message (or as raw bytes of the stream), end or cancel it, let time pass, stop reading. At the
 * end every call that was ended and read has been answered with trailers, and nothing is left. */
#include <nghttp2/nghttp2.h>

#include "fake_net.h"
#include "fuzz.h"
#include "server_stage.h"

enum { MAX_CALLS = 12, MAX_STREAM_BYTES = 64 << 10 };

static const char *const paths[] = {
    "/replog.v1.Log/OpenSession",
    "/replog.v1.Log/Append",
    "/replog.v1.Log/AppendStream",
    "/replog.v1.Log/Read",
    "/replog.v1.Log/Get",
    "/replog.v1.Log/Checkpoint",
    "/replog.v1.Log/Truncate",
    "/replog.v1.Log/Status",
    "/replog.v1.Peer/Exchange",
    "/replog.v1.Peer/Inspect",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/replog.v1.Log/Nothing"};
enum { N_PATHS = sizeof paths / sizeof paths[0] };

struct call {
    int32_t id;
    struct buffer out; /* from `at` on not sent yet */
    size_t at;
    bool ended, cancelled, closed, status_seen, ok, limited;
};

static struct {
    nghttp2_session *session;
    nng_stream *stream;
    struct call calls[MAX_CALLS];
    size_t n_calls;
    bool broken;
} client;

static struct call *call_of(int32_t id) {
    for (size_t i = 0; i < client.n_calls; i++)
        if (client.calls[i].id == id) return &client.calls[i];
    return NULL;
}

static ssize_t read_out(nghttp2_session *session, int32_t id, uint8_t *bytes, size_t limit,
                        uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)session;
    (void)source;
    (void)user;
    struct call *call = call_of(id);
    size_t n = call->out.size_bytes - call->at;
    if (n > limit) n = limit;
    if (n > 0) memcpy(bytes, call->out.data + call->at, n);
    call->at += n;
    bool all = call->at == call->out.size_bytes;
    if (all && call->ended) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return n == 0 && !call->ended ? NGHTTP2_ERR_DEFERRED : (ssize_t)n;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_bytes, const uint8_t *value, size_t value_bytes, uint8_t flags,
                     void *user) {
    (void)session;
    (void)flags;
    (void)user;
    struct call *call = call_of(frame->hd.stream_id);
    if (call && name_bytes == 11 && memcmp(name, "grpc-status", 11) == 0) {
        CHECK(!call->status_seen); /* once */
        call->status_seen = true;
        call->ok = value_bytes == 1 && value[0] == '0';
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t error, void *user) {
    (void)session;
    (void)user;
    struct call *call = call_of(id);
    if (call) call->closed = true;
    if (call && !call->cancelled && !call->limited)
        CHECK(call->status_seen || error != NGHTTP2_NO_ERROR);
    return 0;
}

static void exchange(void) {
    static uint8_t in[1 << 20];
    for (int i = 0; i < 64 && !client.broken; i++) {
        const uint8_t *bytes;
        ssize_t n = nghttp2_session_mem_send(client.session, &bytes);
        for (ssize_t sent = 0; sent < n && !fake_net_is_gone(client.stream);) {
            size_t used = fake_net_feed(client.stream, bytes + sent, (size_t)(n - sent));
            sent += (ssize_t)used;
            stage_step();
            if (used == 0) services_take(client.stream, 0, NULL, 0);
            if (used == 0) client.broken = true; /* what comes now is not looked at */
            if (client.broken) return;
        }
        client.broken = fake_net_is_gone(client.stream);
        if (client.broken) return;
        size_t got = services_take(client.stream, 0, in, sizeof in);
        if (got > sizeof in) client.broken = true;
        if (got > 0 && !client.broken)
            CHECK(nghttp2_session_mem_recv(client.session, in, got) == (ssize_t)got);
        if (n <= 0 && got == 0) return;
    }
}

static nghttp2_nv nv(const char *name, const char *value) {
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value), 0};
}

static void begin_call(struct fuzz *f) {
    if (client.n_calls == MAX_CALLS || client.broken) return;
    struct call *call = &client.calls[client.n_calls];
    uint8_t how = fuzz_u8(f);
    *call = (struct call){0};
    char timeout[12];
    snprintf(timeout, sizeof timeout, "%um", 1 + how / 16 * 50u);
    nghttp2_nv headers[] = {nv(":method", "POST"),
                            nv(":scheme", "http"),
                            nv(":authority", "x"),
                            nv(":path", paths[how % N_PATHS]),
                            nv("content-type", "application/grpc"),
                            nv("te", "trailers"),
                            nv("replog-test", "1"),
                            nv("grpc-timeout", timeout)};
    call->limited = how > 200;
    nghttp2_data_provider provider = {.read_callback = read_out};
    call->id = nghttp2_submit_request(client.session, NULL, headers, call->limited ? 8 : 7,
                                      &provider, NULL);
    if (call->id > 0) client.n_calls++;
}

static void send_bytes(struct call *call, struct fuzz *f, bool framed) {
    struct slice bytes = fuzz_bytes(f, fuzz_u16(f) % 2048);
    if (call->ended || call->out.size_bytes > MAX_STREAM_BYTES) return;
    if (framed) {
        buffer_u8(&call->out, 0);
        for (int shift = 24; shift >= 0; shift -= 8)
            buffer_u8(&call->out, (uint8_t)(bytes.size_bytes >> shift));
    }
    if (bytes.size_bytes) buffer_append(&call->out, bytes.data, bytes.size_bytes);
    nghttp2_session_resume_data(client.session, call->id);
}

static void one(struct fuzz *f) {
    uint8_t what = fuzz_u8(f);
    struct call *call = client.n_calls ? &client.calls[what / 8 % client.n_calls] : NULL;
    switch (what % 8) {
    case 0:
        begin_call(f);
        break;
    case 1:
    case 2:
        if (call) send_bytes(call, f, true);
        break;
    case 3:
        if (call) send_bytes(call, f, false);
        break;
    case 4:
        if (call && !call->ended) {
            call->ended = true;
            nghttp2_session_resume_data(client.session, call->id);
        }
        break;
    case 5:
        if (call && !call->closed) {
            call->cancelled = true;
            nghttp2_submit_rst_stream(client.session, 0, call->id, NGHTTP2_CANCEL);
        }
        break;
    case 6:
        exchange();
        break;
    default:
        fake_net_pass(what / 8 * 20u);
        client.broken = fake_net_is_gone(client.stream);
    }
}

static void make_session(uint8_t choices) {
    nghttp2_session_callbacks *callbacks;
    CHECK(nghttp2_session_callbacks_new(&callbacks) == 0);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    CHECK(nghttp2_session_client_new(&client.session, callbacks, NULL) == 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_settings_entry window = {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE,
                                     choices & 1 ? 100 : 1 << 20};
    CHECK(nghttp2_submit_settings(client.session, 0, &window, 1) == 0);
}

/* Watch and Read --follow never end, Exchange and the streams end when the client has. */
static bool must_be_answered(const struct call *call) {
    return call->ended && !call->cancelled && !client.broken;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    stage_start();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    uint8_t choices = fuzz_u8(&f);
    stage_begin(choices / 8);
    memset(&client, 0, sizeof client);
    client.stream = fake_net_connect();
    CHECK(client.stream != NULL);
    if (choices & 2) fake_net_set_room(client.stream, choices & 4 ? 1000 : SIZE_MAX);
    make_session(choices);
    while (f.left > 0 && !client.broken) one(&f);
    for (int i = 0; i < 20 && !client.broken; i++) {
        exchange();
        if (!client.broken) stage_step();
    }
    bool ok = client.n_calls > 0;
    for (size_t i = 0; i < client.n_calls; i++) {
        struct call *call = &client.calls[i];
        ok = ok && call->ok;
        if (call->closed && must_be_answered(call) && !call->limited) CHECK(call->status_seen);
        buffer_free(&call->out);
    }
    nghttp2_session_del(client.session);
    stage_end();
    fuzz_accepted(ok); /* every call was answered with OK */
    return 0;
}

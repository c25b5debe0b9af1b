/* The client's side of rpc/ against a server that sends the input: calls are started, sent on,
 * cancelled and paused as byte by byte the input says, the rest of each step is what the server
 * sends. Every call is closed exactly once, with a status; what `closed` says OK to had no fault in
 * it; nothing is left behind.
 *
 *   input: flags, then steps: what (1), length (1), bytes from the server */
#include "fake_net.h"
#include "fuzz.h"
#include "rpc/internal.h"

enum { MAX_CALLS = 16 };

struct call {
    struct rpc_call *call;
    unsigned closed, messages;
    bool paused;
    size_t bytes;
};
static struct call calls[MAX_CALLS];
static size_t n_calls;

static void on_message(struct rpc_call *call, const uint8_t *bytes, size_t n) {
    struct call *c = rpc_call_user(call);
    CHECK(c->closed == 0 && n <= RPC_MAX_MESSAGE_BYTES);
    c->messages++;
    for (size_t i = 0; i < n; i++) c->bytes += bytes[i]; /* all of it is there */
}

static void on_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct call *c = rpc_call_user(call);
    CHECK(c->closed++ == 0 && text != NULL && (int)status >= 0 && (int)status <= 16);
    const char *leader = rpc_call_metadata(call, "replog-leader");
    if (leader) c->bytes += strlen(leader);
}

static void on_writable(struct rpc_call *call) {
    struct call *c = rpc_call_user(call);
    CHECK(c->closed == 0);
}

static const struct rpc_handlers handlers = {
    .message = on_message, .writable = on_writable, .closed = on_closed};

static void start(struct rpc_channel *channel, uint8_t what) {
    if (n_calls == MAX_CALLS) return;
    struct call *c = &calls[n_calls];
    *c = (struct call){0};
    c->call = rpc_start(channel, what & 64 ? "/replog.v1.Log/AppendStream" : "/replog.v1.Log/Read",
                        what & 128 ? 300 : 0, &handlers, c);
    if (c->call) n_calls++;
}

static void use(struct call *c, uint8_t what) {
    struct rpc_piece piece = {"0123456789", 10, NULL};
    switch (what / 16 % 4) {
    case 0:
        rpc_send(c->call, &piece, 1);
        break;
    case 1:
        rpc_end(c->call);
        break;
    case 2:
        rpc_cancel(c->call);
        break;
    default:
        if (c->paused)
            rpc_resume(c->call);
        else
            rpc_pause(c->call);
        c->paused = !c->paused;
    }
}

static void step(struct rpc_channel *channel, nng_stream **stream, struct fuzz *f,
                 bool single_bytes) {
    static uint8_t sink[1 << 16];
    uint8_t what = fuzz_u8(f);
    struct slice bytes = fuzz_bytes(f, fuzz_u8(f));
    if (what % 4 == 0) start(channel, what);
    if (what % 4 == 1 && n_calls) use(&calls[what / 4 % n_calls], what);
    if (what % 4 == 2) fake_net_pass(what / 4 * (uint64_t)4);
    fake_net_run();
    if (*stream && fake_net_is_gone(*stream)) *stream = NULL;
    if (!*stream) {
        *stream = fake_net_answer_dial(what == 255 ? NNG_ECONNREFUSED : 0);
        if (*stream && what & 16) fake_net_set_room(*stream, what & 8 ? 50 : SIZE_MAX);
    }
    while (*stream && bytes.size_bytes > 0) {
        size_t n = fake_net_feed(*stream, bytes.data, single_bytes ? 1 : bytes.size_bytes);
        bytes.data += n;
        bytes.size_bytes -= n;
        if (fake_net_is_gone(*stream)) *stream = NULL;
        if (n == 0) break;
    }
    while (*stream && fake_net_take(*stream, sink, what & 32 ? 7 : sizeof sink) > 0)
        if (fake_net_is_gone(*stream)) *stream = NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    uint8_t flags = fuzz_u8(&f);
    fake_net_begin();
    n_calls = 0;
    struct rpc_channel *channel;
    struct rpc_channel_options options = {.address = "127.0.0.1:7401",
                                          .send_queue_bytes = flags & 2 ? 16 : 0};
    CHECK(!rpc_channel_open(&options, &channel, NULL));
    nng_stream *stream = NULL;
    start(channel, flags);
    while (f.left > 0) step(channel, &stream, &f, flags & 1);
    fake_net_pass(400);
    for (size_t i = 0; i < n_calls; i++)
        if (calls[i].paused) rpc_resume(calls[i].call);
    fake_net_end_all();
    rpc_channel_close(channel);
    for (size_t i = 0; i < n_calls; i++) {
        CHECK(calls[i].closed == 1);
        CHECK(!rpc_call_is_open(calls[i].call));
        rpc_call_unref(calls[i].call);
    }
    return 0;
}

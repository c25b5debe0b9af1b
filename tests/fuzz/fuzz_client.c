/* The client library (appends over lanes, sessions, redirections, deadlines) on servers that answer
 * as the input says: rpc/ is played here, and so is the clock; the worker's loop is the library's
 * own, and what happens next happens while it waits. Every append is answered exactly once, an OK
 * carries seqs; every call is left and freed; the window and the queues are as long as they say. */
#include <pthread.h>

#include "client/lib_internal.h"
#include "fuzz.h"

static int play_thread(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                       void *arg);
static int play_join(pthread_t thread, void **result);
static bool play_wait(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t deadline_ms);
#define pthread_create   play_thread
#define pthread_join     play_join
#define client_cond_wait play_wait
#include "client/lib_client.c"
#undef pthread_create
#undef pthread_join
#undef client_cond_wait

enum { MAX_CALLS = 24, MAX_APPENDS = 64, WINDOW = 16 };

/* ---- rpc/, as far as the library needs it */

struct rpc_channel {
    bool connected;
};
struct rpc_call {
    struct rpc_channel *channel;
    struct rpc_handlers handlers;
    void *user;
    unsigned refs;
    bool cancelled, full;
    char leader[64];
};

static struct rpc_call *calls[MAX_CALLS]; /* those that are not closed */
static size_t n_calls;
static uint64_t now_ms;

uint64_t clock_mono_ms(void) {
    return now_ms;
}
uint64_t clock_mono_ns(void) {
    return now_ms * 1000000;
}
uint64_t clock_wall_us(void) {
    return now_ms * 1000;
}
uint64_t random_u64(void) {
    return 4;
}

replog_status rpc_channel_open(const struct rpc_channel_options *options,
                               struct rpc_channel **channel, replog_error *err) {
    (void)err;
    CHECK(client_address_valid(options->address));
    *channel = calloc(1, sizeof **channel);
    CHECK(*channel != NULL);
    return REPLOG_OK;
}
bool rpc_channel_connected(const struct rpc_channel *channel) {
    return channel->connected;
}
struct rpc_call *rpc_start(struct rpc_channel *channel, const char *path, uint32_t timeout_ms,
                           const struct rpc_handlers *handlers, void *user) {
    (void)timeout_ms;
    CHECK(channel && strncmp(path, "/replog.v1.Log/", 15) == 0 && n_calls < MAX_CALLS);
    struct rpc_call *call = calloc(1, sizeof *call);
    CHECK(call != NULL);
    *call = (struct rpc_call){.channel = channel, .handlers = *handlers, .user = user, .refs = 2};
    return calls[n_calls++] = call;
}
void rpc_call_unref(struct rpc_call *call) {
    CHECK(call->refs > 0);
    if (--call->refs == 0) free(call);
}
void *rpc_call_user(const struct rpc_call *call) {
    return call->user;
}
const char *rpc_call_metadata(const struct rpc_call *call, const char *name) {
    CHECK(strcmp(name, "replog-leader") == 0);
    return call->leader[0] ? call->leader : NULL;
}
static bool is_open(const struct rpc_call *call) {
    for (size_t i = 0; i < n_calls; i++)
        if (calls[i] == call) return !call->cancelled;
    return false;
}
replog_status rpc_send(struct rpc_call *call, const struct rpc_piece *pieces, size_t n) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < pieces[i].size_bytes; k++)
            bytes += ((const uint8_t *)pieces[i].data)[k];
    if (!is_open(call)) return REPLOG_CANCELLED;
    return call->full || bytes == SIZE_MAX ? REPLOG_RESOURCE_EXHAUSTED : REPLOG_OK;
}
replog_status rpc_send_message(struct rpc_call *call, const ProtobufCMessage *message) {
    CHECK(protobuf_c_message_check(message));
    return is_open(call) ? REPLOG_OK : REPLOG_CANCELLED;
}
void rpc_end(struct rpc_call *call) {
    CHECK(call->refs > 0);
}
void rpc_cancel(struct rpc_call *call) {
    CHECK(call->refs > 0);
    call->cancelled = true;
}
void rpc_pause(struct rpc_call *call) {
    (void)call;
}
void rpc_resume(struct rpc_call *call) {
    (void)call;
}

static void close_call(size_t i, replog_status status, const char *text) {
    struct rpc_call *call = calls[i];
    calls[i] = calls[--n_calls];
    call->handlers.closed(call, call->cancelled ? REPLOG_CANCELLED : status, text);
    rpc_call_unref(call);
}
void rpc_channel_close(struct rpc_channel *channel) {
    for (size_t i = 0; channel && i < n_calls;)
        if (calls[i]->channel == channel)
            close_call(i, REPLOG_CANCELLED, "the channel was closed");
        else
            i++;
    free(channel);
}

/* ---- What the input says happens */

static struct fuzz input;
static replog_client *client;
static unsigned answers[MAX_APPENDS];
static size_t n_appends;

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    unsigned *count = user;
    CHECK(++*count == 1);
    if (status == REPLOG_OK)
        CHECK(result && result->first_seq > 0 && result->last_seq >= result->first_seq);
    else
        CHECK(!result && error->text[0] && error->status == status);
}

static void append(uint8_t how) {
    replog_append_options options = {
        .ack = (replog_ack)(how % 3), .timeout_ms = how & 4 ? 300 : 0, .single = true};
    replog_batch *batch = replog_batch_new();
    replog_error err;
    if (n_appends < MAX_APPENDS && batch) {
        CHECK(!replog_batch_put(batch, "k", 1, "value", how % 6, &err));
        replog_status status =
            replog_append_async(client, batch, &options, on_answer, &answers[n_appends], &err);
        CHECK(status == REPLOG_OK || status == REPLOG_RESOURCE_EXHAUSTED);
        n_appends += status == REPLOG_OK;
    }
    replog_batch_free(batch);
}

/* An answer that fits, more or less; or bytes. */
static void make_answer(struct buffer *out, uint8_t how) {
    const struct client_lane *lane = &client->lanes[how & 1];
    struct buffer member = {0};
    switch (how / 2 % 4) {
    case 0:
        pb_put_varint(out, 1, 1 + fuzz_u8(&input));
        pb_put_varint(out, 2, fuzz_u8(&input) + (uint64_t)200);
        pb_put_varint(out, 4, 3);
        if (lane->reply < lane->tail)
            pb_put_varint(out, 5, client_slot(lane, lane->reply)->sequence);
        break;
    case 1:
        pb_put_varint(out, 1, fuzz_u16(&input));
        break;
    case 2:
        pb_put_varint(out, 1, 1 + how / 8 % 3);
        pb_put_varint(&member, 1, 1 + fuzz_u8(&input) % 3);
        pb_put_bytes(&member, 2, "10.0.0.9:7401", 13);
        pb_put_bytes(out, 6, member.data, member.size_bytes);
        pb_put_varint(out, 10, fuzz_u8(&input) % 4);
        break;
    default: {
        struct slice bytes = fuzz_bytes(&input, fuzz_u8(&input));
        if (bytes.size_bytes) buffer_append(out, bytes.data, bytes.size_bytes);
    }
    }
    buffer_free(&member);
}

static void server_says(size_t i, uint8_t how) {
    struct rpc_call *call = calls[i];
    if (call->cancelled) {
        close_call(i, REPLOG_CANCELLED, "");
        return;
    }
    struct buffer out = {0};
    make_answer(&out, how);
    uint8_t *exact = fuzz_exact(out.data, out.size_bytes);
    call->channel->connected = true;
    call->handlers.message(call, exact, out.size_bytes);
    free(exact);
    buffer_free(&out);
}

static void server_ends(size_t i, uint8_t how) {
    static const char *const hints[] = {"",   "2 127.0.0.1:7402", "3 10.0.0.1:1", "nonsense",
                                        "7 ", "1 [::1]:80"};
    struct rpc_call *call = calls[i];
    uint8_t status = how % 18 == 17 ? 0 : how % 18 % 17;
    snprintf(call->leader, sizeof call->leader, "%s", hints[fuzz_u8(&input) % 6]);
    if (how & 128) call->channel->connected = !call->channel->connected;
    struct slice bytes = fuzz_bytes(&input, how & 64 ? 8 : 0);
    char *text = fuzz_text(bytes.data, bytes.size_bytes);
    close_call(i, (replog_status)status, text);
    free(text);
}

static void one(uint64_t deadline_ms) {
    uint8_t what = fuzz_u8(&input), how = fuzz_u8(&input);
    size_t i = n_calls ? what / 8 % n_calls : 0;
    switch (what % 8) {
    case 0:
        append(how);
        break;
    case 1:
    case 2:
    case 3:
        if (n_calls) server_says(i, how);
        break;
    case 4:
        if (n_calls) server_ends(i, how);
        break;
    case 5:
        if (n_calls && calls[i]->full && calls[i]->handlers.writable)
            calls[i]->handlers.writable(calls[i]);
        if (n_calls) calls[i]->full = !calls[i]->full;
        break;
    case 6:
        now_ms += how * (uint64_t)8;
        break;
    default:
        if (deadline_ms != UINT64_MAX && deadline_ms > now_ms) now_ms = deadline_ms;
    }
}

/* ---- The worker */

static int play_thread(pthread_t *thread, const pthread_attr_t *attr, void *(*main)(void *),
                       void *arg) {
    (void)attr;
    CHECK(main == worker_main && arg);
    *thread = pthread_self();
    return 0;
}
static int play_join(pthread_t thread, void **result) {
    (void)result;
    return pthread_equal(thread, pthread_self()) ? 0 : 1;
}

static void check_lanes(void) {
    uint32_t in_flight = 0;
    for (int i = 0; i < 2; i++) {
        const struct client_lane *lane = &client->lanes[i];
        CHECK(lane->head <= lane->reply && lane->reply <= lane->cursor &&
              lane->cursor <= lane->tail);
        in_flight += (uint32_t)(lane->tail - lane->head);
    }
    CHECK(in_flight == client->in_flight && in_flight <= WINDOW);
}

static bool play_wait(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t deadline_ms) {
    CHECK(mu == &client->mu);
    if (cond == &client->room) return false; /* who is to make room is this very thread */
    CHECK(cond == &client->work);
    check_lanes();
    if (input.left == 0) {
        client->stopping = true;
        return true;
    }
    pthread_mutex_unlock(mu);
    one(deadline_ms);
    pthread_mutex_lock(mu);
    return now_ms < deadline_ms;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    input = (struct fuzz){data, size_bytes};
    now_ms = 1000;
    n_appends = n_calls = 0;
    memset(answers, 0, sizeof answers);
    uint8_t choices = fuzz_u8(&input);
    replog_client_options options = {
        .window = WINDOW, .timeout_ms = 2000, .no_session = choices & 1};
    replog_error err;
    CHECK(!replog_client_open("127.0.0.1:7401,127.0.0.1:7402", &options, &client, &err));
    for (unsigned i = 0; i < choices / 2 % 4; i++) append((uint8_t)(choices / 8));
    worker_main(client);
    replog_client_close(client);
    CHECK(n_calls == 0);
    for (size_t i = 0; i < n_appends; i++) CHECK(answers[i] == 1);
    return 0;
}

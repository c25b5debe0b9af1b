/* The client library, and rpc beneath it on both sides, under failing allocations.
 *
 * What must hold: every append gets exactly one answer, and it is true: OK and it is in the log
 * once, at that place; "nothing was appended" and it is not there; unknown and it is there at most
 * once. What is read is whole and in order, or a failure says otherwise. When there is memory again
 * the same client works. No status blames the other side (a malformed answer, a bug). */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "health.pb-c.h"
#include "malloc_fail.h"
#include "malloc_server.h"
#include "replog.pb-c.h"
#include "replog/client.h"
#include "rpc/rpc.h"

enum { TIMEOUT_MS = 4000, ASYNC = 12, MAX_APPENDS = 32 };

/* ---- Appends, and what was said of them */
static struct told {
    char value[24];
    replog_ack ack;
    unsigned answers;
    replog_status status;
    uint64_t seq;
    char text[508];
} told[MAX_APPENDS];
static unsigned n_told;
static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;

static void note_answer(struct told *a, replog_status status, const replog_append_result *result,
                        const char *text) {
    pthread_mutex_lock(&told_lock);
    a->answers++;
    a->status = status;
    a->seq = result ? result->first_seq : 0;
    snprintf(a->text, sizeof a->text, "%s", text);
    pthread_mutex_unlock(&told_lock);
}

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    note_answer(user, status, result, error->text);
}

static void append(replog_client *c, const char *value, replog_ack ack, bool wait) {
    struct told *a = &told[n_told++];
    *a = (struct told){.ack = ack};
    snprintf(a->value, sizeof a->value, "%s", value);
    replog_batch *b = replog_batch_new();
    replog_error err = {0};
    replog_append_options options = {.ack = ack};
    replog_append_result result = {0};
    replog_status status = REPLOG_RESOURCE_EXHAUSTED;
    snprintf(err.text, sizeof err.text, "no batch");
    if (b) status = replog_batch_put(b, "k", 1, a->value, strlen(a->value), &err);
    if (!status) status = replog_batch_put(b, "", 0, "more", 4, &err);
    if (!status && wait) {
        status = replog_append(c, b, &options, &result, &err);
        note_answer(a, status, status ? NULL : &result, err.text);
    } else if (!status) {
        status = replog_append_async(c, b, &options, on_answer, a, &err);
        if (status) note_answer(a, status, NULL, err.text);
    } else {
        note_answer(a, status, NULL, err.text);
    }
    replog_batch_free(b);
}

static bool is_unknown(const struct told *a) {
    if (strstr(a->text, "nothing was appended")) return false;
    return a->status == REPLOG_UNAVAILABLE || a->status == REPLOG_DEADLINE_EXCEEDED ||
           a->status == REPLOG_FAILED_PRECONDITION || a->status == REPLOG_CANCELLED;
}

static void judge(const struct told *a) {
    uint64_t seq = 0;
    unsigned times = server_times(a->value, &seq);
    EXPECT(a->answers == 1, "%s has %u answers", a->value, a->answers);
    if (a->status == REPLOG_OK) {
        EXPECT(times == 1, "%s was acknowledged and is in the log %u times", a->value, times);
        EXPECT(a->seq == seq, "%s was said to be at %" PRIu64 ", is at %" PRIu64, a->value, a->seq,
               seq);
        return;
    }
    bool may_be_in = is_unknown(a);
    EXPECT(times <= (may_be_in ? 1u : 0u), "%s is in the log %u times; its answer was %s: %s",
           a->value, times, replog_status_name(a->status), a->text);
    EXPECT(a->status != REPLOG_INTERNAL && a->status != REPLOG_INVALID_ARGUMENT, "%s: %s: %s",
           a->value, replog_status_name(a->status), a->text);
}

/* ---- Other calls: OK, or a failure that memory can bring */
static void fair(const char *what, replog_status status, const char *text) {
    bool ok = status == REPLOG_OK || status == REPLOG_RESOURCE_EXHAUSTED ||
              status == REPLOG_UNAVAILABLE || status == REPLOG_DEADLINE_EXCEEDED;
    EXPECT(ok, "%s: %s: %s", what, replog_status_name(status), text);
    EXPECT(status == REPLOG_OK || text[0], "%s: %s without a sentence", what,
           replog_status_name(status));
}

static void calls(replog_client *c) {
    replog_error err = {0};
    void *value = NULL;
    size_t n = 0;
    uint64_t seq = 0;
    replog_status status = replog_get(c, "some key", 8, false, 0, &value, &n, &seq, &err);
    fair("get", status, err.text);
    if (!status)
        EXPECT(n == 8 && memcmp(value, "some key", 8) == 0 && seq == 9, "get: %zu bytes", n);
    free(value);
    static replog_cluster_status view;
    memset(&err, 0, sizeof err);
    status = replog_get_status(c, 0, &view, &err);
    fair("status", status, err.text);
    if (!status)
        EXPECT(view.leader == 1 && view.n_members == 2, "status: leader %d of %d", (int)view.leader,
               (int)view.n_members);
    replog_truncate_result cut;
    memset(&err, 0, sizeof err);
    status = replog_truncate(c, 5, 0, &cut, &err);
    fair("truncate", status, err.text);
    if (!status) EXPECT(cut.requested == 5 && cut.first_seq == 3, "truncate");
}

static void check_entry(const replog_entry *e, uint64_t want) {
    EXPECT(e->seq == want && e->term == 7, "read %" PRIu64 " instead of %" PRIu64, e->seq, want);
    if (e->op == REPLOG_OP_CONFIG) {
        const char *members = e->members ? e->members : "none";
        EXPECT(strcmp(members, "[{\"id\":1,\"address\":\"127.0.0.1:7401\"},"
                               "{\"id\":2,\"address\":\"127.0.0.1:7401\"}]") == 0,
               "a CONFIG's members: %s", members);
    } else {
        const char *v = e->value;
        bool right = e->value_bytes == SERVED_VALUE_BYTES && v[0] == 'a' + (int)(want % 26) &&
                     v[SERVED_VALUE_BYTES - 1] == v[0];
        EXPECT(right, "the value of %" PRIu64 ": %zu bytes", want, e->value_bytes);
    }
}

/* All records, by as many readers as it takes. */
static void read_all(replog_client *c) {
    replog_reader *r = NULL;
    uint64_t next = 1;
    replog_status status = REPLOG_OK;
    for (int tries = 0; tries < 300 && next <= SERVED_RECORDS; tries++) {
        replog_error err = {0};
        replog_read_options options = {.from_seq = next, .to_seq = SERVED_RECORDS, .markers = true};
        if (!r) {
            status = replog_reader_open(c, &options, &r, &err);
            fair("open a reader", status, err.text);
            if (status) continue;
        }
        replog_entry e;
        status = replog_reader_next(r, 0, &e, &err);
        if (!status) {
            check_entry(&e, next++);
            tries--;
            continue;
        }
        fair("read", status, err.text);
        if (status == REPLOG_UNAVAILABLE || status == REPLOG_DEADLINE_EXCEEDED) continue;
        replog_reader_close(r);
        r = NULL;
    }
    EXPECT(next == SERVED_RECORDS + 1, "read up to %" PRIu64 " only", next - 1);
    replog_reader_close(r);
}

static void client_run(void) {
    char both[80], value[24];
    replog_error err = {0};
    replog_client *c = NULL;
    server_forget();
    n_told = 0;
    /* the follower first, as often as not */
    static int turn;
    turn = !turn;
    snprintf(both, sizeof both, "%s,%s", server_endpoints[turn], server_endpoints[!turn]);
    replog_client_options options = {.timeout_ms = TIMEOUT_MS, .window = 16};
    replog_status status = replog_client_open(both, &options, &c, &err);
    if (status) {
        EXPECT(status == REPLOG_RESOURCE_EXHAUSTED, "open: %s", err.text);
        return;
    }
    for (int i = 0; i < ASYNC; i++) {
        snprintf(value, sizeof value, "a%d", i);
        append(c, value, i % 4 == 3 ? REPLOG_ACK_LEADER : REPLOG_ACK_QUORUM, false);
    }
    append(c, "all", REPLOG_ACK_ALL, true);
    append(c, "one", REPLOG_ACK_QUORUM, true);
    calls(c);
    read_all(c);
    status = replog_flush(c, 2 * TIMEOUT_MS, &err);
    EXPECT(!status, "flush: %s", err.text);
    fail_disarm();
    append(c, "last", REPLOG_ACK_QUORUM, true);
    append(c, "last of the leader", REPLOG_ACK_LEADER, true);
    for (unsigned i = n_told - 2; i < n_told; i++)
        EXPECT(!told[i].status, "with memory again: %s: %s", told[i].value, told[i].text);
    replog_client_close(c);
    for (unsigned i = 0; i < n_told; i++) judge(&told[i]);
    server_quiet();
}

const struct scenario client_scenario = {.name = "client",
                                         .before = server_start,
                                         .run = client_run,
                                         .leak_wait_ms = 3000,
                                         .patience_ms = 2500};

/* ---- rpc by itself */
struct stream {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    uint64_t bytes, messages;
    bool paused, over;
    replog_status status;
    char text[300];
};

static void stream_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct stream *s = rpc_call_user(call);
    (void)bytes;
    pthread_mutex_lock(&s->mu);
    s->bytes += size_bytes;
    if (s->messages++ == 1) {
        rpc_pause(call);
        s->paused = true;
        pthread_cond_signal(&s->cond);
    }
    pthread_mutex_unlock(&s->mu);
}

static void stream_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct stream *s = rpc_call_user(call);
    (void)call;
    pthread_mutex_lock(&s->mu);
    EXPECT(!s->over, "closed twice");
    s->over = true;
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    pthread_cond_signal(&s->cond);
    pthread_mutex_unlock(&s->mu);
}

/* A stream that is paused after its second message and goes on; `give_up`: or is cancelled. */
static void read_stream(struct rpc_channel *channel, bool give_up) {
    static const struct rpc_handlers handlers = {.message = stream_message,
                                                 .closed = stream_closed};
    struct stream s = {.mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct rpc_call *call = rpc_start(channel, "/replog.v1.Log/Read", TIMEOUT_MS, &handlers, &s);
    if (!call) return;
    uint8_t request[] = {0x10, SERVED_RECORDS}; /* to_seq */
    rpc_send(call, &(struct rpc_piece){request, sizeof request, NULL}, 1);
    rpc_end(call);
    pthread_mutex_lock(&s.mu);
    while (!s.paused && !s.over) pthread_cond_wait(&s.cond, &s.mu);
    pthread_mutex_unlock(&s.mu);
    if (give_up) rpc_cancel(call);
    rpc_resume(call);
    pthread_mutex_lock(&s.mu);
    while (!s.over) pthread_cond_wait(&s.cond, &s.mu);
    pthread_mutex_unlock(&s.mu);
    rpc_call_unref(call);
    if (give_up && s.status == REPLOG_CANCELLED) return;
    fair("a stream", s.status, s.text[0] ? s.text : "(no memory for the sentence)");
    uint64_t least = SERVED_RECORDS * SERVED_VALUE_BYTES;
    EXPECT(s.status || s.bytes > least - 300, "a stream of %" PRIu64 " bytes, and OK", s.bytes);
}

static replog_status unary(struct rpc_channel *channel, const char *method,
                           const ProtobufCMessage *request, uint32_t timeout_ms,
                           ProtobufCMessage **reply, char *leader, replog_error *err) {
    *err = (replog_error){0};
    *reply = NULL;
    return rpc_unary(channel, &replog__v1__log__descriptor, method, request, timeout_ms, reply,
                     leader, err);
}

static void get(struct rpc_channel *channel, size_t key_bytes) {
    static uint8_t key[300000];
    memset(key, 'x', sizeof key);
    Replog__V1__GetRequest request = REPLOG__V1__GET_REQUEST__INIT;
    request.key = (ProtobufCBinaryData){key_bytes, key};
    ProtobufCMessage *m;
    replog_error err;
    replog_status status = unary(channel, "Get", &request.base, TIMEOUT_MS, &m, NULL, &err);
    fair("Get", status, err.text);
    if (status) return;
    const Replog__V1__GetReply *reply = (const Replog__V1__GetReply *)m;
    bool right = reply->value.len == key_bytes && memcmp(reply->value.data, key, key_bytes) == 0;
    EXPECT(right, "Get: %zu of %zu bytes came back", reply->value.len, key_bytes);
    protobuf_c_message_free_unpacked(m, NULL);
}

static void refused(struct rpc_channel *channel) {
    Replog__V1__TruncateRequest request = REPLOG__V1__TRUNCATE_REQUEST__INIT;
    ProtobufCMessage *m;
    replog_error err;
    char leader[300];
    replog_status status = unary(channel, "Truncate", &request.base, TIMEOUT_MS, &m, leader, &err);
    bool honest = status == REPLOG_UNAVAILABLE || status == REPLOG_RESOURCE_EXHAUSTED;
    EXPECT(honest, "Truncate at a follower: %s: %s", replog_status_name(status), err.text);
    EXPECT(!leader[0] || strcmp(leader + 2, server_endpoints[0]) == 0, "the leader: %s", leader);
}

static void overdue(struct rpc_channel *channel) {
    Replog__V1__CheckpointRequest request = REPLOG__V1__CHECKPOINT_REQUEST__INIT;
    ProtobufCMessage *m;
    replog_error err;
    replog_status status = unary(channel, "Checkpoint", &request.base, 20, &m, NULL, &err);
    EXPECT(status, "Checkpoint was answered");
    fair("Checkpoint", status, err.text);
}

static void health(struct rpc_channel *channel) {
    Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
    char name[] = "replog.v1.Log";
    request.service = name;
    ProtobufCMessage *m = NULL;
    replog_error err = {0};
    replog_status status = rpc_unary(channel, &grpc__health__v1__health__descriptor, "Check",
                                     &request.base, TIMEOUT_MS, &m, NULL, &err);
    fair("health", status, err.text);
    if (status) return;
    EXPECT(((Grpc__Health__V1__HealthCheckResponse *)m)->status == 1, "not serving");
    protobuf_c_message_free_unpacked(m, NULL);
}

/* A server that cannot listen gives everything back. */
static void cannot_listen(void) {
    static const struct rpc_service service = {.descriptor = &replog__v1__log__descriptor};
    struct rpc_server_options options = {.listen = server_endpoints[0]};
    struct rpc_server *server = NULL;
    replog_error err = {0};
    replog_status status = rpc_server_start(&options, &service, 1, &server, &err);
    EXPECT(status, "a second server on %s", options.listen);
    fair("a server's start", status, err.text);
}

static void rpc_run(void) {
    for (int node = 0; node < 2; node++) {
        struct rpc_channel_options options = {.address = server_endpoints[node]};
        struct rpc_channel *channel = NULL;
        replog_error err = {0};
        replog_status status = rpc_channel_open(&options, &channel, &err);
        if (status) {
            EXPECT(status == REPLOG_RESOURCE_EXHAUSTED, "open a channel: %s", err.text);
            continue;
        }
        get(channel, 10);
        get(channel, sizeof(uint8_t[300000]));
        if (node == 1) refused(channel);
        if (node == 0) overdue(channel);
        read_stream(channel, false);
        read_stream(channel, true);
        health(channel);
        get(channel, 5000);
        rpc_channel_close(channel);
    }
    cannot_listen();
    server_quiet();
}

const struct scenario rpc_scenario = {.name = "rpc",
                                      .before = server_start,
                                      .run = rpc_run,
                                      .leak_wait_ms = 3000,
                                      .patience_ms = 2500};

const struct scenario *const scenarios[] = {&wal_scenario, &member_scenario, &apply_scenario,
                                            &rpc_scenario, &client_scenario, NULL};

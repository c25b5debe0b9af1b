/* channel.c: the client's side: connections on demand, backoff, starting calls, waiting for one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "rpc/internal.h"

enum {
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 1000,
    CLIENT_BYTES_MAX = 64 * 1024 * 1024, /* undelivered, of one connection */
    START_ATTEMPTS = 8
};

struct rpc_channel {
    char address[280];
    struct rpc_conn_limits limits;
    pthread_mutex_t mu;
    pthread_cond_t gone;
    struct rpc_conn *current; /* with a reference; may be dead or retired */
    struct rpc_conn *conns;   /* all that are not reaped */
    uint32_t failures;        /* connections in a row that never came to speak */
    uint64_t jitter;
    bool closing;
};

/* ---- Connections */

static uint64_t backoff_ms(struct rpc_channel *channel) {
    if (channel->failures == 0) return 0;
    uint64_t ms = BACKOFF_MAX_MS;
    if (channel->failures <= 4) ms = (uint64_t)BACKOFF_FIRST_MS << (channel->failures - 1);
    return rng_between(&channel->jitter, ms / 2 + 1, ms);
}

static bool takes_calls(const struct rpc_conn *conn) {
    return atomic_load(&conn->state) != CONN_DEAD && !atomic_load(&conn->retired);
}

/* A connection in place of the one that is no good any more. Locked: channel. */
static struct rpc_conn *replace(struct rpc_channel *channel) {
    struct rpc_conn *old = channel->current;
    if (old) channel->failures = atomic_load(&old->spoke) ? 0 : channel->failures + 1;
    struct rpc_conn *conn = conn_new(false, &channel->limits);
    if (!conn) return NULL;
    conn->channel = channel;
    memcpy(conn->peer, channel->address, sizeof conn->peer);
    conn->dial_at_ms = clock_mono_ms() + backoff_ms(channel);
    conn->owner_next = channel->conns;
    if (channel->conns) channel->conns->owner_prev = conn;
    channel->conns = conn;
    channel->current = conn; /* with the maker's reference */
    if (old) conn_unref(old);
    return conn;
}

/* The connection that new calls go to, with a reference; *is_new: it must be told to dial. */
static struct rpc_conn *current_conn(struct rpc_channel *channel, bool *is_new) {
    pthread_mutex_lock(&channel->mu);
    struct rpc_conn *conn = channel->closing ? NULL : channel->current;
    *is_new = !channel->closing && (!conn || !takes_calls(conn));
    if (*is_new) conn = replace(channel);
    if (conn) conn_ref(conn);
    pthread_mutex_unlock(&channel->mu);
    return conn;
}

void channel_conn_gone(struct rpc_channel *channel, struct rpc_conn *conn) {
    pthread_mutex_lock(&channel->mu);
    if (conn->owner_prev)
        conn->owner_prev->owner_next = conn->owner_next;
    else
        channel->conns = conn->owner_next;
    if (conn->owner_next) conn->owner_next->owner_prev = conn->owner_prev;
    pthread_cond_broadcast(&channel->gone);
    pthread_mutex_unlock(&channel->mu);
}

/* ---- Opening and closing */

replog_status rpc_channel_open(const struct rpc_channel_options *options,
                               struct rpc_channel **channel_out, replog_error *err) {
    char url[300];
    if (!address_url(options->address, url, sizeof url) ||
        strlen(options->address) >= sizeof(((struct rpc_channel *)0)->address))
        return error_set(err, REPLOG_INVALID_ARGUMENT, "address %s is not HOST:PORT",
                         options->address ? options->address : "(none)");
    struct rpc_channel *channel = calloc(1, sizeof *channel);
    if (!channel || !loop_start()) {
        free(channel);
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory or threads");
    }
    snprintf(channel->address, sizeof channel->address, "%s", options->address);
    channel->limits = (struct rpc_conn_limits){
        .send_queue_bytes = options->send_queue_bytes ? options->send_queue_bytes : (size_t)1 << 20,
        .max_bytes = CLIENT_BYTES_MAX,
        .handshake_ms = options->connect_ms ? options->connect_ms : 2000,
        .keepalive_ms = options->keepalive_ms ? options->keepalive_ms : 10000};
    channel->jitter = random_u64();
    pthread_mutex_init(&channel->mu, NULL);
    pthread_cond_init(&channel->gone, NULL);
    *channel_out = channel;
    return REPLOG_OK;
}

/* Ends every connection; called until none is left, as one may end while we look at another. */
static void fail_conns(struct rpc_channel *channel) {
    struct rpc_conn *conn = channel->conns;
    for (; conn; conn = conn->owner_next)
        if (atomic_load(&conn->state) != CONN_DEAD) break;
    if (!conn) {
        pthread_cond_wait(&channel->gone, &channel->mu);
        return;
    }
    conn_ref(conn);
    pthread_mutex_unlock(&channel->mu);
    pthread_mutex_lock(&conn->mu);
    conn_fail(conn, REPLOG_CANCELLED, "the channel was closed");
    pthread_mutex_unlock(&conn->mu);
    conn_unref(conn);
    pthread_mutex_lock(&channel->mu);
}

void rpc_channel_close(struct rpc_channel *channel) {
    if (!channel) return;
    pthread_mutex_lock(&channel->mu);
    channel->closing = true;
    while (channel->conns) fail_conns(channel);
    pthread_mutex_unlock(&channel->mu);
    if (channel->current) conn_unref(channel->current);
    pthread_cond_destroy(&channel->gone);
    pthread_mutex_destroy(&channel->mu);
    free(channel);
}

const char *rpc_channel_address(const struct rpc_channel *channel) {
    return channel->address;
}

bool rpc_channel_connected(const struct rpc_channel *channel) {
    /* the lock is no part of the channel's value */
    struct rpc_channel *c = (struct rpc_channel *)channel;
    pthread_mutex_lock(&c->mu);
    bool connected = c->current && atomic_load(&c->current->spoke) && takes_calls(c->current);
    pthread_mutex_unlock(&c->mu);
    return connected;
}

/* ---- Starting calls */

struct start {
    const char *path;
    uint32_t timeout_ms;
    const struct rpc_handlers *handlers;
    void *user;
    struct rpc_out *request; /* with the end behind it; NULL: rpc_send follows */
};

/* nghttp2 refused the request: takes the call back as if it had never been. Locked. */
static void forget(struct rpc_call *call) {
    call->stream_open = false;
    call->closed_done = true;
    call_unlist_if_done(call);
}

/* Locked: conn. NULL: this connection does not take the call. */
static struct rpc_call *start_on(struct rpc_conn *conn, struct start *start) {
    if (!takes_calls(conn)) return NULL;
    struct rpc_call *call = call_new(conn, false);
    if (!call) return NULL;
    call->handlers = *start->handlers;
    call->user = start->user;
    if (start->timeout_ms) call->deadline_ms = clock_mono_ms() + start->timeout_ms;
    int rv = session_request(call, start->path, start->timeout_ms);
    if (rv != 0) {
        /* All stream ids are used up, or memory is: a new connection has both. */
        atomic_store(&conn->retired, true);
        forget(call);
        conn_flush(conn); /* which ends it when no call is left */
        return NULL;
    }
    if (start->timeout_ms) conn_due(conn, call->deadline_ms);
    if (start->request) {
        call_queue(call, start->request);
        start->request = NULL;
        call->fin = true;
        conn_flush(conn);
    } else {
        conn_wake(conn); /* the headers go with the first message, or else soon */
    }
    return rpc_call_ref(call);
}

static struct rpc_call *start_call(struct rpc_channel *channel, struct start *start) {
    struct rpc_call *call = NULL;
    for (int attempt = 0; attempt < START_ATTEMPTS && !call; attempt++) {
        bool is_new;
        struct rpc_conn *conn = current_conn(channel, &is_new);
        if (!conn) break;
        pthread_mutex_lock(&conn->mu);
        call = start_on(conn, start);
        if (is_new) conn_start_dialling(conn);
        pthread_mutex_unlock(&conn->mu);
        conn_unref(conn);
    }
    return call;
}

struct rpc_call *rpc_start(struct rpc_channel *channel, const char *path, uint32_t timeout_ms,
                           const struct rpc_handlers *handlers, void *user) {
    struct start start = {path, timeout_ms, handlers, user, NULL};
    return start_call(channel, &start);
}

/* ---- One unary call */

enum { UNARY_BUDGET_BYTES = 32 * 1024 * 1024, LEADER_BYTES = 300 };

struct unary {
    pthread_mutex_t mu;
    pthread_cond_t done_cond;
    bool done;
    const ProtobufCMessageDescriptor *output;
    uint32_t n_replies;
    bool no_memory; /* for the reply that came */
    ProtobufCMessage *reply;
    char *leader;
    replog_status status;
    char text[508];
};

static void unary_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct unary *u = rpc_call_user(call);
    if (u->n_replies++ > 0) return;
    u->reply = rpc_unpack(u->output, bytes, size_bytes, UNARY_BUDGET_BYTES);
    u->no_memory = !u->reply && errno == ENOMEM;
}

static void unary_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct unary *u = rpc_call_user(call);
    if (status == REPLOG_OK && u->no_memory) {
        status = REPLOG_RESOURCE_EXHAUSTED;
        text = "out of memory for the answer";
    } else if (status == REPLOG_OK && (u->n_replies != 1 || !u->reply)) {
        status = REPLOG_INTERNAL;
        text = u->n_replies == 1 ? "the answer is malformed" : "not exactly one answer";
    }
    const char *leader = rpc_call_metadata(call, "replog-leader");
    pthread_mutex_lock(&u->mu);
    u->status = status;
    snprintf(u->text, sizeof u->text, "%s", text);
    if (u->leader) snprintf(u->leader, LEADER_BYTES, "%s", leader ? leader : "");
    u->done = true;
    pthread_cond_signal(&u->done_cond);
    pthread_mutex_unlock(&u->mu);
}

static void wait_unary(struct unary *u) {
    pthread_mutex_lock(&u->mu);
    while (!u->done) pthread_cond_wait(&u->done_cond, &u->mu);
    pthread_mutex_unlock(&u->mu);
}

replog_status rpc_unary(struct rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                        const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
                        ProtobufCMessage **reply, char *leader, replog_error *err) {
    const struct rpc_handlers handlers = {.message = unary_message, .closed = unary_closed};
    const ProtobufCMethodDescriptor *m =
        protobuf_c_service_descriptor_get_method_by_name(service, method);
    if (leader) leader[0] = 0;
    if (!m)
        return error_set(err, REPLOG_UNIMPLEMENTED, "service %s has no method %s", service->name,
                         method);
    char path[256];
    snprintf(path, sizeof path, "/%s/%s", service->name, method);
    struct unary u = {.output = m->output, .leader = leader};
    pthread_mutex_init(&u.mu, NULL);
    pthread_cond_init(&u.done_cond, NULL);
    struct start start = {path, timeout_ms, &handlers, &u, out_new_message(request)};
    struct rpc_call *call = start.request ? start_call(channel, &start) : NULL;
    if (call) {
        wait_unary(&u);
        rpc_call_unref(call);
    } else {
        u.status = REPLOG_RESOURCE_EXHAUSTED;
        snprintf(u.text, sizeof u.text, "out of memory, or the channel is closing");
    }
    out_free(start.request);
    pthread_cond_destroy(&u.done_cond);
    pthread_mutex_destroy(&u.mu);
    if (u.status == REPLOG_OK && reply)
        *reply = u.reply;
    else if (u.reply)
        protobuf_c_message_free_unpacked(u.reply, NULL);
    if (u.status != REPLOG_OK)
        return error_set(err, u.status, "%s", u.text[0] ? u.text : replog_status_text(u.status));
    return REPLOG_OK;
}

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "client/lib_internal.h"

static void unref_locked(struct client_call *call) {
    if (--call->refs) return;
    if (call->rpc) rpc_call_unref(call->rpc);
    blob_unref(call->reply);
    free(call);
}

void client_call_release_locked(struct client_call *call) {
    unref_locked(call);
}

static void on_message(struct rpc_call *rpc, const uint8_t *bytes, size_t size_bytes) {
    struct client_call *call = rpc_call_user(rpc);
    replog_client *c = call->client;
    if (call->kind == CALL_STREAM) {
        pthread_mutex_lock(&c->mu);
        client_stream_message_locked(call, bytes, size_bytes);
        pthread_mutex_unlock(&c->mu);
        return;
    }
    struct blob *copy = blob_copy(bytes, size_bytes);
    pthread_mutex_lock(&c->mu);
    blob_unref(call->reply);
    call->reply = copy;
    call->no_memory = !copy;
    pthread_mutex_unlock(&c->mu);
}

static void on_writable(struct rpc_call *rpc) {
    struct client_call *call = rpc_call_user(rpc);
    pthread_mutex_lock(&call->client->mu);
    call->blocked = false;
    client_wake_locked(call->client);
    pthread_mutex_unlock(&call->client->mu);
}

static void on_closed(struct rpc_call *rpc, replog_status status, const char *text) {
    struct client_call *call = rpc_call_user(rpc);
    replog_client *c = call->client;
    const char *leader = rpc_call_metadata(rpc, "replog-leader");
    pthread_mutex_lock(&c->mu);
    call->closed = true;
    call->status = status;
    snprintf(call->text, sizeof call->text, "%s",
             text && *text ? text : replog_status_text(status));
    snprintf(call->leader, sizeof call->leader, "%s", leader ? leader : "");
    if (call->lane) {
        client_wake_locked(c);
    } else {
        pthread_cond_broadcast(&c->changed);
    }
    unref_locked(call);
    pthread_mutex_unlock(&c->mu);
}

static const struct rpc_handlers handlers = {
    .message = on_message, .writable = on_writable, .closed = on_closed};

struct client_call *client_call_start(replog_client *c, struct client_lane *lane,
                                      enum client_call_kind kind, int endpoint, const char *method,
                                      uint32_t timeout_ms, const ProtobufCMessage *request) {
    struct client_call *call = calloc(1, sizeof *call);
    if (!call) return NULL;
    call->client = c;
    call->lane = lane;
    call->kind = kind;
    call->endpoint = endpoint;
    call->refs = 2;
    pthread_mutex_lock(&c->mu);
    struct rpc_channel *channel = client_channel_locked(c, endpoint, NULL);
    pthread_mutex_unlock(&c->mu);
    char path[96];
    snprintf(path, sizeof path, "/replog.v1.Log/%s", method);
    struct rpc_call *rpc = channel ? rpc_start(channel, path, timeout_ms, &handlers, call) : NULL;
    if (!rpc) {
        free(call);
        return NULL;
    }
    pthread_mutex_lock(&c->mu);
    call->rpc = rpc;
    pthread_mutex_unlock(&c->mu);
    if (request) {
        rpc_send_message(rpc, request);
        rpc_end(rpc);
    }
    return call;
}

void client_leave_locked(replog_client *c) {
    if (--c->callers == 0 && c->stopping) pthread_cond_broadcast(&c->changed);
}

/* Waits for the end of a call; a client that is closing cancels it. */
static void wait_closed_locked(replog_client *c, struct client_call *call) {
    bool cancelled = false;
    while (!call->closed) {
        if (c->stopping && !cancelled) {
            cancelled = true;
            pthread_mutex_unlock(&c->mu);
            rpc_cancel(call->rpc);
            pthread_mutex_lock(&c->mu);
            continue;
        }
        pthread_cond_wait(&c->changed, &c->mu);
    }
}

static replog_status unpack_reply(const struct client_call *call,
                                  const ProtobufCMessageDescriptor *type, ProtobufCMessage **reply,
                                  replog_error *err) {
    const struct blob *b = call->reply;
    ProtobufCMessage *m = b ? rpc_unpack(type, b->data, b->size_bytes, CLIENT_REPLY_BUDGET) : NULL;
    if (!m && (call->no_memory || (b && errno == ENOMEM))) {
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for the answer of %s",
                         call->client->endpoints[call->endpoint].address);
    }
    if (!m) {
        return error_set(err, REPLOG_INTERNAL, "%s sent a reply that is no %s",
                         call->client->endpoints[call->endpoint].address, type->name);
    }
    *reply = m;
    return REPLOG_OK;
}

/* Whether to try again, and when. */
static bool retry_at_locked(replog_client *c, struct client_call *call, bool anywhere,
                            struct client_backoff *backoff, unsigned *hops, uint64_t *at_ms) {
    if (call->status != REPLOG_UNAVAILABLE) return false;
    bool at_once = client_endpoint_failed_locked(c, call) || anywhere;
    *at_ms = client_now_ms();
    if (!at_once || ++*hops > CLIENT_MAX_HOPS) *at_ms += client_backoff_locked(c, backoff);
    return true;
}

replog_status client_unary(replog_client *c, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *reply_type, uint32_t timeout_ms,
                           bool anywhere, ProtobufCMessage **reply, replog_error *err) {
    if (timeout_ms == 0) timeout_ms = c->timeout_ms;
    uint64_t deadline = client_now_ms() + timeout_ms, at = 0;
    struct client_backoff backoff = {0};
    unsigned hops = 0;
    pthread_mutex_lock(&c->mu);
    replog_status status = client_may_wait_locked(c, method, err);
    c->callers++;
    while (!status) {
        while (!c->stopping && client_now_ms() < at && client_now_ms() < deadline) {
            client_cond_wait(&c->changed, &c->mu, at < deadline ? at : deadline);
        }
        uint64_t now = client_now_ms();
        if (c->stopping) {
            status = error_set(err, REPLOG_CANCELLED, "the client is being closed");
            break;
        }
        if (now >= deadline) {
            status = error_set(err, REPLOG_UNAVAILABLE, "no answer to %s within %u ms; last: %s",
                               method, timeout_ms, c->last_failure);
            break;
        }
        int endpoint = client_endpoint_pick_locked(c);
        pthread_mutex_unlock(&c->mu);
        struct client_call *call = client_call_start(c, NULL, CALL_UNARY, endpoint, method,
                                                     (uint32_t)(deadline - now), request);
        pthread_mutex_lock(&c->mu);
        if (!call) {
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a call");
            break;
        }
        wait_closed_locked(c, call);
        bool again = retry_at_locked(c, call, anywhere, &backoff, &hops, &at);
        if (!again && call->status) {
            bool tried = hops > 0 || backoff.ms > 0;
            status = error_set(err, call->status, "%s%s%s", call->text,
                               tried ? "; an earlier attempt: " : "", tried ? c->last_failure : "");
        } else if (!again) {
            status = unpack_reply(call, reply_type, reply, err);
        }
        client_call_release_locked(call);
        if (!again) break;
    }
    client_leave_locked(c);
    pthread_mutex_unlock(&c->mu);
    return status;
}

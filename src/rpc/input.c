/* input.c: from the bytes of a stream to messages, and the delivery of everything to a call's
 * handlers. Runs unlocked, for one connection on one thread at a time; that thread owns the
 * `pending` bytes of its calls.
 *
 * A message that lies whole in one piece of received bytes is delivered from there. Everything else
 * (halves; whatever comes while the call is paused or its reply queue is full) is gathered in
 * `pending`, which the budgets count. While input is stalled its bytes are held back from the
 * stream's window. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rpc/internal.h"

enum { PENDING_KEEP_BYTES = 16 * 1024, PENDING_FIRST_BYTES = 512 };

/* ---- Pending bytes */

static size_t pending_bytes(const struct rpc_call *call) {
    return call->pending_size - call->pending_at;
}

/* Takes `more` bytes out of the budgets, or nothing. Other threads take for their connections at
 * the same time, so that the check and the taking of the common one are a single step; that of the
 * connection belongs to this thread. */
static bool budget_take(struct rpc_call *call, size_t more) {
    struct rpc_conn *conn = call->conn;
    const struct rpc_conn_limits *limits = &conn->limits;
    uint64_t conn_bytes = atomic_load(&conn->buffered) + more;
    if (conn_bytes > limits->max_bytes) return false;
    if (limits->total && conn_bytes <= CONNECTION_RESERVE_BYTES) {
        atomic_fetch_add(limits->total, more);
    } else if (limits->total) {
        uint64_t total = atomic_load(limits->total);
        do {
            if (total + more > limits->max_total) return false;
        } while (!atomic_compare_exchange_weak(limits->total, &total, total + more));
    }
    atomic_fetch_add(&conn->buffered, more);
    return true;
}

static void budget_give_back(struct rpc_call *call, size_t less) {
    struct rpc_conn *conn = call->conn;
    atomic_fetch_sub(&conn->buffered, less);
    if (conn->limits.total) atomic_fetch_sub(conn->limits.total, less);
}

void input_drop(struct rpc_call *call) {
    budget_give_back(call, call->pending_capacity);
    free(call->pending);
    call->pending = NULL;
    call->pending_at = call->pending_size = call->pending_capacity = 0;
}

static void compact(struct rpc_call *call) {
    if (call->pending_at == 0) return;
    memmove(call->pending, call->pending + call->pending_at, pending_bytes(call));
    call->pending_size -= call->pending_at;
    call->pending_at = 0;
}

/* RESOURCE_EXHAUSTED: over budget; UNAVAILABLE: no memory. */
static replog_status append(struct rpc_call *call, const uint8_t *data, size_t n) {
    size_t need = pending_bytes(call) + n;
    if (call->pending_size + n > call->pending_capacity) compact(call);
    if (need > call->pending_capacity) {
        size_t capacity = call->pending_capacity ? call->pending_capacity : PENDING_FIRST_BYTES;
        while (capacity < need) capacity *= 2;
        size_t more = capacity - call->pending_capacity;
        if (!budget_take(call, more)) return REPLOG_RESOURCE_EXHAUSTED;
        uint8_t *bytes = realloc(call->pending, capacity);
        if (!bytes) {
            budget_give_back(call, more);
            return REPLOG_UNAVAILABLE;
        }
        call->pending = bytes;
        call->pending_capacity = capacity;
    }
    memcpy(call->pending + call->pending_size, data, n);
    call->pending_size += n;
    return REPLOG_OK;
}

/* ---- Ends that the input brings about */

static void fail(struct rpc_call *call, replog_status status, const char *text) {
    struct rpc_conn *conn = call->conn;
    pthread_mutex_lock(&conn->mu);
    if (call->is_server) {
        call_abort(call, status, text, REPLOG_CANCELLED);
    } else if (!call->closed_done) {
        /* Also when an outcome is noted already: it belongs to messages that are lost now. */
        session_reset(call, NGHTTP2_CANCEL);
        call->close_noted = call->close_stalled = false;
        call_close(call, status, text, true);
    }
    pthread_mutex_unlock(&conn->mu);
    input_drop(call);
}

/* No room for what came. What was delivered before may have had its effect, so that only a call
 * of which nobody has heard is refused. */
static void fail_for_room(struct rpc_call *call, replog_status status) {
    bool memory = status == REPLOG_UNAVAILABLE;
    if (call->n_messages > 0) status = REPLOG_UNAVAILABLE;
    fail(call, status,
         memory ? "out of memory" : "too many undelivered bytes on this connection or this server");
}

/* ---- Messages */

static size_t message_size(const uint8_t *p) {
    return (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
}

static bool is_blocked(const struct rpc_call *call) {
    return atomic_load(&call->paused) > 0 ||
           (call->is_server &&
            atomic_load(&call->queued_bytes) >= call->conn->limits.send_queue_bytes);
}

/* Blocked for good, until somebody resumes? Looks again under the lock that rpc_resume takes. */
static bool stall(struct rpc_call *call) {
    pthread_mutex_lock(&call->conn->mu);
    bool blocked = is_blocked(call);
    call->stalled = blocked;
    pthread_mutex_unlock(&call->conn->mu);
    return blocked;
}

/* A method that takes one message gets it when the client has ended: a second would be an error. */
static bool waits_for_end(const struct rpc_call *call) {
    return call->is_server && !call->route->client_stream && !call->end_seen;
}

/* The next message in [data, data + n): false when there is none (or a fault, which ends the call).
 */
static bool next_message(struct rpc_call *call, const uint8_t *data, size_t n, size_t *size) {
    if (n < MESSAGE_PREFIX_BYTES) return false;
    *size = message_size(data);
    if (data[0] != 0) {
        fail(call, REPLOG_UNIMPLEMENTED, "compressed messages are not supported");
        return false;
    }
    if (*size > RPC_MAX_MESSAGE_BYTES) {
        char text[120];
        snprintf(text, sizeof text, "a message of %zu bytes is over the limit of %d bytes", *size,
                 RPC_MAX_MESSAGE_BYTES);
        fail(call, REPLOG_RESOURCE_EXHAUSTED, text);
        return false;
    }
    return n - MESSAGE_PREFIX_BYTES >= *size;
}

static bool one_message_rule(struct rpc_call *call, size_t rest) {
    if (!call->is_server || call->route->client_stream) return true;
    if (call->n_messages == 0 && rest == 0) return true;
    fail(call, REPLOG_INTERNAL, "this method takes exactly one request message");
    return false;
}

/* Delivers whole messages from the front of [data, data + n); how many bytes they were. */
static size_t deliver_from(struct rpc_call *call, const uint8_t *data, size_t n) {
    size_t at = 0, size;
    call->held_up = false;
    while (!atomic_load(&call->drop_input) && !waits_for_end(call)) {
        if (n - at < MESSAGE_PREFIX_BYTES) break;
        call->held_up = is_blocked(call) && stall(call);
        if (call->held_up) break;
        if (!next_message(call, data + at, n - at, &size)) break;
        size_t next = at + MESSAGE_PREFIX_BYTES + size;
        if (!one_message_rule(call, n - next)) break;
        call->n_messages++;
        call->user_knows = true;
        if (call->handlers.message)
            call->handlers.message(call, data + at + MESSAGE_PREFIX_BYTES, size);
        at = next;
    }
    return at;
}

static void deliver_end(struct rpc_call *call) {
    if (!call->end_seen || call->end_done || atomic_load(&call->drop_input)) return;
    if (!call->held_up) call->held_up = is_blocked(call) && stall(call);
    if (call->held_up) return;
    if (pending_bytes(call) > 0 || (!call->route->client_stream && call->n_messages == 0)) {
        fail(call, REPLOG_INTERNAL,
             pending_bytes(call) > 0 ? "the request ended within a message"
                                     : "this method takes exactly one request message");
        return;
    }
    call->end_done = true;
    if (!call->handlers.end) return;
    call->user_knows = true;
    call->handlers.end(call);
}

static void deliver_pending(struct rpc_call *call) {
    call->held_up = false;
    if (pending_bytes(call) == 0) return;
    size_t used = deliver_from(call, call->pending + call->pending_at, pending_bytes(call));
    if (atomic_load(&call->drop_input)) {
        input_drop(call);
        return;
    }
    call->pending_at += used;
    if (pending_bytes(call) == 0) {
        call->pending_at = call->pending_size = 0;
        if (call->pending_capacity > PENDING_KEEP_BYTES) input_drop(call);
    }
}

/* A faulty beginning is refused before the rest of it is awaited; a unary request is otherwise not
 * looked at before its end. */
static void check_front(struct rpc_call *call) {
    size_t size;
    if (!waits_for_end(call) || pending_bytes(call) < MESSAGE_PREFIX_BYTES) return;
    if (next_message(call, call->pending + call->pending_at, pending_bytes(call), &size))
        one_message_rule(call, pending_bytes(call) - MESSAGE_PREFIX_BYTES - size);
}

static void give_back(struct rpc_call *call) {
    size_t keep = call->held_up && !atomic_load(&call->drop_input) ? pending_bytes(call) : 0;
    if (call->held_bytes <= keep) return;
    call->credit_bytes += call->held_bytes - keep;
    call->held_bytes = keep;
}

void input_deliver(const struct rpc_input *input) {
    struct rpc_call *call = input->call;
    const uint8_t *data = input->data;
    size_t n = input->size_bytes;
    call->held_bytes += n;
    call->end_seen |= input->last;
    if (!atomic_load(&call->drop_input) && n > 0 && pending_bytes(call) == 0) {
        size_t used = deliver_from(call, data, n);
        data += used;
        n -= used;
    }
    if (!atomic_load(&call->drop_input) && n > 0) {
        replog_status status = append(call, data, n);
        if (status) fail_for_room(call, status);
    }
    if (!atomic_load(&call->drop_input) && pending_bytes(call) > 0) {
        deliver_pending(call);
        check_front(call);
    }
    if (call->is_server) deliver_end(call);
    give_back(call);
}

void input_resume(struct rpc_call *call) {
    deliver_pending(call);
    if (call->is_server) deliver_end(call);
    give_back(call);
    pthread_mutex_lock(&call->conn->mu);
    bool closing = call->close_stalled && (!call->held_up || atomic_load(&call->drop_input));
    pthread_mutex_unlock(&call->conn->mu);
    if (closing) input_closed(call);
}

/* The outcome that the user is told; false when it still waits behind stalled messages. */
static bool take_outcome(struct rpc_call *call, replog_status *status, const char **text) {
    bool ready = true;
    pthread_mutex_lock(&call->conn->mu);
    bool waiting = call->held_up && !atomic_load(&call->drop_input) && pending_bytes(call) > 0;
    *status = call->close_status;
    *text = call->close_text ? call->close_text : "";
    if (call->closed_done) {
        ready = false;
    } else if (waiting && call->conn->state != CONN_DEAD) {
        call->close_stalled = true;
        ready = false;
    } else {
        if (waiting) { /* what it waited for goes down with the connection */
            *status = REPLOG_UNAVAILABLE;
            *text = "connection lost before all messages were read";
        }
        if (call->overtaken_by) {
            *status = call->overtaken_by;
            *text = "given up before all messages were read";
        }
        atomic_store(&call->drop_input, true);
        call->close_stalled = false;
    }
    pthread_mutex_unlock(&call->conn->mu);
    return ready;
}

void input_closed(struct rpc_call *call) {
    replog_status status;
    const char *text;
    if (!take_outcome(call, &status, &text)) return;
    input_drop(call);
    /* A server's user who never heard of the call need not hear of its end. */
    if (call->handlers.closed && (!call->is_server || call->user_knows))
        call->handlers.closed(call, status, text);
    pthread_mutex_lock(&call->conn->mu);
    call->closed_done = true;
    call_unlist_if_done(call);
    pthread_mutex_unlock(&call->conn->mu);
}

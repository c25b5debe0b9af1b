/* call.c: calls: life, queues, outcomes. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "rpc/internal.h"

/* ---- Life */

struct rpc_call *call_new(struct rpc_conn *conn, bool is_server) {
    struct rpc_call *call = calloc(1, sizeof *call);
    if (!call) return NULL;
    call->refs = 1;
    call->conn = conn;
    conn_ref(conn);
    call->is_server = is_server;
    call->deadline_ms = UINT64_MAX;
    atomic_store(&call->open, true);
    call->next = conn->calls;
    if (conn->calls) conn->calls->prev = call;
    conn->calls = call;
    call->listed = true;
    conn->n_calls++;
    if (conn->server) server_count(conn->server, COUNT_CALL_OPEN, 1);
    return call;
}

struct rpc_call *rpc_call_ref(struct rpc_call *call) {
    atomic_fetch_add_explicit(&call->refs, 1, memory_order_relaxed);
    return call;
}

void rpc_call_unref(struct rpc_call *call) {
    if (!call || atomic_fetch_sub(&call->refs, 1) != 1) return;
    struct rpc_conn *conn = call->conn;
    call_drop_queue(call);
    input_drop(call);
    for (uint32_t i = 0; i < call->n_metadata; i++) {
        free(call->metadata[i].name);
        free(call->metadata[i].value);
    }
    free(call->text);
    free(call->extra_name);
    free(call->extra_value);
    free(call->close_text);
    free(call);
    conn_unref(conn);
}

void call_unlist_if_done(struct rpc_call *call) {
    struct rpc_conn *conn = call->conn;
    if (!call->listed || call->stream_open || !call->closed_done) return;
    call->listed = false;
    if (call->prev)
        call->prev->next = call->next;
    else
        conn->calls = call->next;
    if (call->next) call->next->prev = call->prev;
    conn->n_calls--;
    if (conn->server) server_count(conn->server, COUNT_CALL_DONE, 1);
    if (conn->n_calls == 0 && conn->draining && conn->state == CONN_OPEN) {
        conn->close_at_ms = clock_mono_ms() + LINGER_MS;
        conn_due(conn, conn->close_at_ms);
    }
    rpc_call_unref(call);
}

/* ---- What users ask */

void rpc_call_set_user(struct rpc_call *call, void *user) {
    call->user = user;
}
void *rpc_call_user(const struct rpc_call *call) {
    return call->user;
}
uint64_t rpc_call_deadline_ms(const struct rpc_call *call) {
    return call->deadline_ms;
}
bool rpc_call_is_open(const struct rpc_call *call) {
    return atomic_load(&call->open);
}
const char *rpc_call_peer(const struct rpc_call *call) {
    return call->conn->peer;
}
size_t rpc_queued_bytes(struct rpc_call *call) {
    return atomic_load(&call->queued_bytes);
}

const char *rpc_call_metadata(const struct rpc_call *call, const char *name) {
    for (uint32_t i = 0; i < call->n_metadata; i++)
        if (strcmp(call->metadata[i].name, name) == 0) return call->metadata[i].value;
    return NULL;
}

bool call_keep_metadata(struct rpc_call *call, const uint8_t *name, size_t name_size,
                        const uint8_t *value, size_t value_size) {
    if (call->n_metadata == METADATA_MAX) return false;
    struct rpc_metadata m = {strndup((const char *)name, name_size),
                             strndup((const char *)value, value_size)};
    if (!m.name || !m.value) {
        free(m.name);
        free(m.value);
        return false;
    }
    call->metadata[call->n_metadata++] = m;
    return true;
}

/* ---- Sending */

void call_queue(struct rpc_call *call, struct rpc_out *out) {
    atomic_fetch_add(&call->queued_bytes, out->left_bytes);
    if (call->out_head)
        call->out_tail->next = out;
    else
        call->out_head = out;
    call->out_tail = out;
}

void call_drop_queue(struct rpc_call *call) {
    while (call->out_head) {
        struct rpc_out *out = call->out_head;
        call->out_head = out->next;
        out_free(out);
    }
    call->out_tail = NULL;
    atomic_store(&call->queued_bytes, 0);
}

void call_sent(struct rpc_call *call, size_t size_bytes) {
    struct rpc_conn *conn = call->conn;
    size_t left = atomic_fetch_sub(&call->queued_bytes, size_bytes) - size_bytes;
    if (left > conn->limits.send_queue_bytes / 2) return;
    uint8_t flags = 0;
    if (call->was_full) flags |= READY_WRITABLE;
    if (call->stalled) flags |= READY_RESUME;
    call->was_full = call->stalled = false;
    if (flags) conn_note_ready(conn, call, flags);
}

/* What this thread gathers between rpc_batch_begin and rpc_batch_end: connections that have
 * something to send, each with a reference. */
enum { BATCH_CONNS = 64 };
static _Thread_local struct {
    bool on, ending;
    size_t n;
    struct rpc_conn *conns[BATCH_CONNS];
} batch;

bool call_batch_ends(void) {
    return batch.ending;
}

void rpc_batch_begin(void) {
    CHECK(!batch.on);
    batch.on = true;
}

void rpc_batch_end(void) {
    CHECK(batch.on);
    batch.on = false;
    batch.ending = true;
    for (size_t i = 0; i < batch.n; i++) {
        struct rpc_conn *conn = batch.conns[i];
        pthread_mutex_lock(&conn->mu);
        conn_flush(conn);
        pthread_mutex_unlock(&conn->mu);
        conn_unref(conn);
    }
    batch.n = 0;
    batch.ending = false;
}

/* Sends what is queued on the connection, now or at the end of this thread's batch. */
static void flush(struct rpc_conn *conn) {
    for (size_t i = 0; batch.on && i < batch.n; i++)
        if (batch.conns[i] == conn) return;
    if (batch.on && batch.n < BATCH_CONNS) {
        conn_ref(conn);
        batch.conns[batch.n++] = conn;
    } else {
        conn_flush(conn);
    }
}

/* A unary answer goes out with its trailers: it waits for rpc_finish. */
static bool sends_at_once(const struct rpc_call *call) {
    return !call->is_server || !call->route || call->route->server_stream;
}

static replog_status send_out(struct rpc_call *call, struct rpc_out *out) {
    struct rpc_conn *conn = call->conn;
    replog_status status = REPLOG_OK;
    pthread_mutex_lock(&conn->mu);
    if (!atomic_load(&call->open) || !call->stream_open || call->fin) {
        status = REPLOG_CANCELLED;
    } else if (!out) {
        /* A message lost for want of memory would be a hole in the stream. What went before it may
         * have had its effect: no status that says "refused". */
        if (call->is_server) {
            call_abort(call, REPLOG_UNAVAILABLE, "out of memory", REPLOG_CANCELLED);
        } else {
            session_reset(call, NGHTTP2_CANCEL);
            call_close(call, REPLOG_UNAVAILABLE, "out of memory", true);
        }
        conn_wake(conn);
        status = REPLOG_CANCELLED;
    } else {
        call_queue(call, out);
        out = NULL;
        if (sends_at_once(call)) {
            session_send_queue(call);
            flush(conn);
        }
        if (atomic_load(&call->queued_bytes) >= conn->limits.send_queue_bytes) {
            call->was_full = true;
            status = REPLOG_RESOURCE_EXHAUSTED;
        }
    }
    pthread_mutex_unlock(&conn->mu);
    out_free(out);
    return status;
}

replog_status rpc_send(struct rpc_call *call, const struct rpc_piece *pieces, size_t n) {
    if (!atomic_load(&call->open)) return REPLOG_CANCELLED;
    return send_out(call, out_new(pieces, n));
}

replog_status rpc_send_message(struct rpc_call *call, const ProtobufCMessage *message) {
    if (!atomic_load(&call->open)) return REPLOG_CANCELLED;
    return send_out(call, out_new_message(message));
}

/* ---- Ends */

void call_close(struct rpc_call *call, replog_status status, const char *text, bool abort) {
    if (call->close_noted) return;
    call->close_noted = true;
    call->close_status = status;
    free(call->close_text);
    call->close_text = text[0] ? strdup(text) : NULL;
    atomic_store(&call->open, false);
    if (abort) {
        atomic_store(&call->drop_input, true);
        /* a server's trailers may still be on their way; a client has nothing left to say */
        if (!call->is_server) call_drop_queue(call);
    }
    conn_note_ready(call->conn, call, READY_CLOSED);
}

void call_give_up(struct rpc_call *call, replog_status status, const char *text) {
    if (!call->close_noted) {
        session_reset(call, NGHTTP2_CANCEL);
        call_close(call, status, text, true);
    } else if (!call->closed_done) {
        /* An outcome is there, and may wait behind messages that nobody wants now. */
        call->overtaken_by = status;
        atomic_store(&call->drop_input, true);
        if (call->close_stalled) conn_note_ready(call->conn, call, READY_RESUME);
    }
}

static void set_answer(struct rpc_call *call, replog_status status, const char *text,
                       const char *name, const char *value) {
    call->status = status;
    free(call->text);
    call->text = text && text[0] ? message_encode(text) : NULL;
    if (name && value) {
        free(call->extra_name);
        free(call->extra_value);
        call->extra_name = strdup(name);
        call->extra_value = strdup(value);
    }
}

void call_finish(struct rpc_call *call, replog_status status, const char *text, const char *name,
                 const char *value) {
    if (!atomic_load(&call->open) || call->fin) return;
    set_answer(call, status, text, name, value);
    call->fin = true;
    atomic_store(&call->open, false);
    atomic_store(&call->drop_input, true);
    session_send_queue(call);
}

void call_abort(struct rpc_call *call, replog_status status, const char *text,
                replog_status close_status) {
    if (call->close_noted) return;
    call_drop_queue(call);
    if (!call->trailers_done) {
        set_answer(call, status, text, NULL, NULL);
        call->fin = true;
        session_send_queue(call);
    }
    call_close(call, close_status, text, true);
}

void rpc_finish_with(struct rpc_call *call, replog_status status, const char *text,
                     const char *name, const char *value) {
    struct rpc_conn *conn = call->conn;
    if (!call->is_server) return;
    pthread_mutex_lock(&conn->mu);
    call_finish(call, status, text, name, value);
    flush(conn);
    pthread_mutex_unlock(&conn->mu);
}

void rpc_finish(struct rpc_call *call, replog_status status, const char *text) {
    rpc_finish_with(call, status, text, NULL, NULL);
}

void rpc_end(struct rpc_call *call) {
    struct rpc_conn *conn = call->conn;
    if (call->is_server) return;
    pthread_mutex_lock(&conn->mu);
    if (atomic_load(&call->open) && !call->fin) {
        call->fin = true;
        session_send_queue(call);
        conn_flush(conn);
    }
    pthread_mutex_unlock(&conn->mu);
}

void rpc_cancel(struct rpc_call *call) {
    if (call->is_server) {
        rpc_finish(call, REPLOG_CANCELLED, "cancelled by the server");
        return;
    }
    struct rpc_conn *conn = call->conn;
    pthread_mutex_lock(&conn->mu);
    call_give_up(call, REPLOG_CANCELLED, "cancelled by the caller");
    if (conn->state != CONN_DEAD) {
        conn_flush(conn);
        conn_wake(conn);
    }
    pthread_mutex_unlock(&conn->mu);
}

/* ---- Holding back */

void rpc_pause(struct rpc_call *call) {
    atomic_fetch_add(&call->paused, 1);
}

void rpc_resume(struct rpc_call *call) {
    struct rpc_conn *conn = call->conn;
    pthread_mutex_lock(&conn->mu);
    uint32_t before = atomic_load(&call->paused);
    if (before > 0) atomic_store(&call->paused, before - 1);
    if (before == 1 && call->stalled && conn->state != CONN_DEAD) {
        call->stalled = false;
        conn_note_ready(conn, call, READY_RESUME);
        conn_wake(conn);
    }
    pthread_mutex_unlock(&conn->mu);
}

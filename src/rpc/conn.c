/* conn.c: one connection: receiving, delivering, sending, time, and its end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "rpc/internal.h"

static void on_received(void *arg);
static void on_sent(void *arg);
static void on_dialled(void *arg);

/* ---- Life */

void conn_ref(struct rpc_conn *conn) {
    atomic_fetch_add(&conn->refs, 1);
}

void conn_unref(struct rpc_conn *conn) {
    if (atomic_fetch_sub(&conn->refs, 1) != 1) return;
    pthread_cond_destroy(&conn->quiet);
    pthread_mutex_destroy(&conn->mu);
    free(conn->inputs);
    free(conn->inputs_spare);
    free(conn);
}

static void free_transport(struct rpc_conn *conn) {
    if (conn->session) nghttp2_session_del(conn->session);
    conn->session = NULL;
    if (conn->rx) nng_aio_free(conn->rx);
    if (conn->tx) nng_aio_free(conn->tx);
    if (conn->tx_now) nng_aio_free(conn->tx_now);
    if (conn->rx_now) nng_aio_free(conn->rx_now);
    if (conn->dial) nng_aio_free(conn->dial);
    if (conn->stream) nng_stream_free(conn->stream);
    if (conn->dialer) nng_stream_dialer_free(conn->dialer);
    conn->rx = conn->tx = conn->tx_now = conn->rx_now = conn->dial = NULL;
    conn->stream = NULL;
    conn->dialer = NULL;
    tx_clear(&conn->sending);
    free(conn->sending.bytes);
    free(conn->rx_bytes);
    conn->sending.bytes = conn->rx_bytes = NULL;
}

struct rpc_conn *conn_new(bool is_server, const struct rpc_conn_limits *limits) {
    struct rpc_conn *conn = calloc(1, sizeof *conn);
    if (!conn) return NULL;
    conn->refs = 2;
    conn->fd = -1;
    conn->limits = *limits;
    atomic_store(&conn->due_ms, UINT64_MAX);
    conn->last_rx_ms = conn->flood_at_ms = clock_mono_ms();
    conn->flood_tokens = FLOOD_BURST;
    frames_begin(&conn->frames);
    conn->close_at_ms = UINT64_MAX;
    pthread_mutex_init(&conn->mu, NULL);
    pthread_cond_init(&conn->quiet, NULL);
    conn->rx_capacity = RX_BYTES_FIRST;
    conn->rx_bytes = malloc(conn->rx_capacity);
    conn->sending.bytes = malloc(TX_BYTES);
    bool ok = conn->rx_bytes && conn->sending.bytes &&
              nng_aio_alloc(&conn->rx, on_received, conn) == 0 &&
              nng_aio_alloc(&conn->tx, on_sent, conn) == 0 &&
              nng_aio_alloc(&conn->tx_now, NULL, NULL) == 0 &&
              nng_aio_alloc(&conn->rx_now, NULL, NULL) == 0 &&
              nng_aio_alloc(&conn->dial, on_dialled, conn) == 0 &&
              (conn->session = session_new(conn, is_server)) != NULL;
    if (!ok) {
        conn_discard(conn);
        return NULL;
    }
    nng_aio_set_timeout(conn->tx, TX_TIMEOUT_MS);
    return conn;
}

void conn_discard(struct rpc_conn *conn) {
    free_transport(conn);
    conn->refs = 1;
    conn_unref(conn);
}

static void end_call(struct rpc_call *call, replog_status status, const char *text) {
    if (call->closed_done) return;
    /* An outcome that waits behind undelivered messages is overtaken by the loss. */
    if (call->close_stalled) call->close_noted = call->close_stalled = false;
    call_close(call, status, text, true);
}

void conn_fail(struct rpc_conn *conn, replog_status status, const char *text) {
    if (conn->state == CONN_DEAD) return;
    conn->state = CONN_DEAD;
    log_debug("rpc connection with %s ends: %s", conn->peer, text);
    for (struct rpc_call *call = conn->calls, *next; call; call = next) {
        next = call->next;
        end_call(call, status, text);
    }
    loop_reap(conn);
}

void conn_reap(struct rpc_conn *conn) {
    /* No operation starts any more: all of them look at the state first. What nng still runs is
     * waited for here. */
    if (conn->dialer) nng_stream_dialer_close(conn->dialer);
    nng_aio_stop(conn->dial);
    if (conn->fd >= 0) poll_forget(conn, conn->fd);
    if (conn->stream) nng_stream_close(conn->stream);
    nng_aio_stop(conn->rx);
    nng_aio_stop(conn->tx);
    nng_aio_stop(conn->tx_now);
    nng_aio_stop(conn->rx_now);
    loop_remove(conn);
    pthread_mutex_lock(&conn->mu);
    conn_run(conn);
    while (conn->delivering) pthread_cond_wait(&conn->quiet, &conn->mu);
    free_transport(conn);
    while (conn->calls) {
        conn->calls->stream_open = false;
        CHECK(conn->calls->closed_done);
        call_unlist_if_done(conn->calls);
    }
    pthread_mutex_unlock(&conn->mu);
    if (conn->server) server_conn_gone(conn->server, conn);
    if (conn->channel) channel_conn_gone(conn->channel, conn);
    conn_unref(conn);
}

/* ---- Notes */

bool conn_note_input(struct rpc_conn *conn, struct rpc_call *call, const uint8_t *data,
                     size_t size_bytes, bool last) {
    if (conn->n_inputs == conn->inputs_capacity) {
        size_t capacity = conn->inputs_capacity ? 2 * conn->inputs_capacity : 64;
        struct rpc_input *inputs = realloc(conn->inputs, capacity * sizeof *inputs);
        if (!inputs) return false;
        conn->inputs = inputs;
        conn->inputs_capacity = capacity;
    }
    rpc_call_ref(call);
    conn->inputs[conn->n_inputs++] = (struct rpc_input){call, data, (uint32_t)size_bytes, last};
    return true;
}

void conn_note_ready(struct rpc_conn *conn, struct rpc_call *call, uint8_t flags) {
    if (!call->ready_flags) {
        rpc_call_ref(call);
        call->ready_next = NULL;
        if (conn->ready)
            conn->ready_tail->ready_next = call;
        else
            conn->ready = call;
        conn->ready_tail = call;
    }
    call->ready_flags |= flags;
}

static bool has_notes(const struct rpc_conn *conn) {
    return conn->n_inputs || conn->ready;
}

/* Gives delivered bytes back to the stream's window, so that the peer may send more. */
static void give_credit(struct rpc_conn *conn, struct rpc_call *call) {
    if (call->credit_bytes && call->stream_open && conn->state != CONN_DEAD)
        nghttp2_session_consume_stream(conn->session, call->stream_id, call->credit_bytes);
    call->credit_bytes = 0;
}

static void deliver_inputs(struct rpc_conn *conn) {
    struct rpc_input *inputs = conn->inputs;
    size_t n = conn->n_inputs, capacity = conn->inputs_capacity;
    conn->inputs = conn->inputs_spare;
    conn->inputs_capacity = conn->inputs_spare_capacity;
    conn->inputs_spare = NULL;
    conn->inputs_spare_capacity = conn->n_inputs = 0;
    pthread_mutex_unlock(&conn->mu);
    for (size_t i = 0; i < n; i++) input_deliver(&inputs[i]);
    if (conn->server) server_delivered(conn->server);
    pthread_mutex_lock(&conn->mu);
    for (size_t i = 0; i < n; i++) {
        give_credit(conn, inputs[i].call);
        rpc_call_unref(inputs[i].call);
    }
    conn->inputs_spare = inputs;
    conn->inputs_spare_capacity = capacity;
}

static void deliver_ready(struct rpc_conn *conn) {
    struct rpc_call *call = conn->ready;
    uint8_t flags = call->ready_flags;
    conn->ready = call->ready_next;
    call->ready_flags = 0;
    pthread_mutex_unlock(&conn->mu);
    if (flags & READY_RESUME) input_resume(call);
    if (flags & READY_WRITABLE && call->handlers.writable && atomic_load(&call->open))
        call->handlers.writable(call);
    if (flags & READY_CLOSED) input_closed(call);
    if (conn->server) server_delivered(conn->server);
    pthread_mutex_lock(&conn->mu);
    give_credit(conn, call);
    rpc_call_unref(call);
}

/* ---- Receiving. A TLS layer would stand here: bytes from nng go through it to nghttp2, and
 * nghttp2's bytes go through it to nng (conn_pump); nothing else knows the stream. */

static void grow_receive(struct rpc_conn *conn) {
    if (!conn->rx_full || conn->rx_capacity >= RX_BYTES_MAX) return;
    uint8_t *bytes = malloc(2 * conn->rx_capacity);
    if (!bytes) return;
    free(conn->rx_bytes);
    conn->rx_bytes = bytes;
    conn->rx_capacity *= 2;
}

static void arm_receive(struct rpc_conn *conn) {
    grow_receive(conn);
    nng_iov iov = {conn->rx_bytes, conn->rx_capacity};
    nng_aio_set_iov(conn->rx, 1, &iov);
    conn->rx_waiting = false;
    nng_stream_recv(conn->stream, conn->rx);
}

static void receive(struct rpc_conn *conn, size_t n) {
    conn->last_rx_ms = clock_mono_ms();
    conn->ping_out = false;
    conn->rx_waiting = true;
    conn->rx_full = n == conn->rx_capacity;
    conn->why[0] = 0;
    if (conn->server) server_count(conn->server, COUNT_IN, n);
    ssize_t used = conn->server ? frames_give(conn, conn->rx_bytes, n)
                                : nghttp2_session_mem_recv(conn->session, conn->rx_bytes, n);
    if (used >= 0) return;
    if (conn->server) server_count(conn->server, COUNT_PROTOCOL_ERROR, 1);
    char text[256];
    snprintf(text, sizeof text, "protocol error: %s",
             conn->why[0] ? conn->why : nghttp2_strerror((int)used));
    conn_fail(conn, REPLOG_UNAVAILABLE, text);
}

static void receive_failed(struct rpc_conn *conn, int rv) {
    char text[128];
    snprintf(text, sizeof text, "connection lost: %s",
             rv == NNG_ECONNSHUT || rv == NNG_ECLOSED ? "closed by peer" : nng_strerror(rv));
    conn_fail(conn, REPLOG_UNAVAILABLE, text);
}

/* Receives what is there, on this thread. False: nothing came of it. A buffer that was not filled
 * took all there was: what comes later is told anew. */
static bool receive_now(struct rpc_conn *conn) {
    if (!conn->readable || conn->state != CONN_OPEN) return false;
    grow_receive(conn);
    nng_iov iov = {conn->rx_bytes, conn->rx_capacity};
    nng_aio_set_iov(conn->rx_now, 1, &iov);
    nng_stream_recv(conn->stream, conn->rx_now);
    nng_aio_abort(conn->rx_now, NNG_EAGAIN);
    nng_aio_wait(conn->rx_now);
    int rv = nng_aio_result(conn->rx_now);
    size_t n = rv == 0 ? nng_aio_count(conn->rx_now) : 0;
    if (rv == NNG_EAGAIN || (rv == 0 && n < conn->rx_capacity && !conn->hung_up))
        conn->readable = false;
    if (rv == NNG_EAGAIN) return false;
    if (rv == 0)
        receive(conn, n);
    else
        receive_failed(conn, rv);
    return true;
}

void conn_readable(struct rpc_conn *conn, bool hung_up) {
    pthread_mutex_lock(&conn->mu);
    conn->readable = true;
    if (hung_up) conn->hung_up = true;
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

static void on_received(void *arg) {
    struct rpc_conn *conn = arg;
    pthread_mutex_lock(&conn->mu);
    int rv = nng_aio_result(conn->rx);
    if (rv != 0) {
        receive_failed(conn, rv);
    } else if (conn->state != CONN_DEAD) {
        receive(conn, nng_aio_count(conn->rx));
    }
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

/* ---- Sending: one send in flight; what gathers meanwhile goes with the next. */

static void send_failed(struct rpc_conn *conn, int rv) {
    char text[128];
    snprintf(text, sizeof text, "connection lost: %s", nng_strerror(rv));
    conn_fail(conn, REPLOG_UNAVAILABLE, text);
}

/* So many bytes left. True: all of `sending` did. */
static bool sent(struct rpc_conn *conn, size_t n) {
    if (conn->server) server_count(conn->server, COUNT_OUT, n);
    return tx_advance(&conn->sending, n);
}

/* What the socket takes at once leaves on this thread, without a completion that would wake
 * another: nng tries the write when it is given the operation, and finishes one that has no
 * callback in place. What the socket did not take is taken back whole (nng never holds a
 * half-written one). True: all has left. */
static bool send_now(struct rpc_conn *conn) {
    for (;;) {
        nng_aio_set_iov(conn->tx_now, conn->sending.n_iov, conn->sending.iov);
        nng_stream_send(conn->stream, conn->tx_now);
        nng_aio_abort(conn->tx_now, NNG_EAGAIN);
        nng_aio_wait(conn->tx_now);
        if (nng_aio_result(conn->tx_now) != 0) return false;
        if (sent(conn, nng_aio_count(conn->tx_now))) return true;
    }
}

/* A thread that delivers or ends a batch has gathered what it sends; from others a busy connection
 * had better gather while nng sends. */
static bool sends_now(struct rpc_conn *conn) {
    uint64_t now_ns = clock_mono_ns(), since_ns = now_ns - conn->sent_ns;
    conn->sent_ns = now_ns;
    return conn->delivering || call_batch_ends() || since_ns >= QUIET_NS;
}

static void start_send(struct rpc_conn *conn) {
    conn->tx_busy = true;
    nng_aio_set_iov(conn->tx, conn->sending.n_iov, conn->sending.iov);
    nng_stream_send(conn->stream, conn->tx);
}

/* Nothing is left to send: closes a connection that has nothing left to do. */
static void check_finished(struct rpc_conn *conn) {
    if (conn->draining) return; /* waits for the peer or for close_at_ms */
    if (conn->retired && conn->n_calls == 0)
        conn_fail(conn, REPLOG_UNAVAILABLE, "replaced");
    else if (!nghttp2_session_want_read(conn->session) &&
             !nghttp2_session_want_write(conn->session)) {
        if (conn->server && !conn->goaway_seen) server_count(conn->server, COUNT_PROTOCOL_ERROR, 1);
        char text[256];
        snprintf(text, sizeof text, "connection ended by an HTTP/2 error: %s",
                 conn->why[0] ? conn->why : "told by the peer");
        conn_fail(conn, REPLOG_UNAVAILABLE, text);
    }
}

static void conn_pump(struct rpc_conn *conn) {
    while (!conn->tx_busy && conn->state == CONN_OPEN) {
        tx_clear(&conn->sending);
        int rv = conn->unsaid ? NGHTTP2_ERR_NOMEM : nghttp2_session_send(conn->session);
        if (rv != 0) {
            conn_fail(conn, REPLOG_UNAVAILABLE, nghttp2_strerror(rv));
        } else if (conn->sending.n_iov == 0) {
            check_finished(conn);
            return;
        } else if (!(sends_now(conn) && send_now(conn))) {
            start_send(conn);
        }
    }
}

static void on_sent(void *arg) {
    struct rpc_conn *conn = arg;
    pthread_mutex_lock(&conn->mu);
    int rv = nng_aio_result(conn->tx);
    if (rv != 0) {
        send_failed(conn, rv);
    } else if (conn->state == CONN_OPEN) {
        if (sent(conn, nng_aio_count(conn->tx)))
            conn->tx_busy = false;
        else
            start_send(conn);
    }
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

/* ---- Working off */

void conn_run(struct rpc_conn *conn) {
    if (conn->delivering) return; /* that thread will see our notes */
    unsigned receives = 0;
    conn->delivering = true;
    do {
        while (has_notes(conn)) {
            if (conn->n_inputs)
                deliver_inputs(conn);
            else
                deliver_ready(conn);
        }
        conn_pump(conn);
    } while (has_notes(conn) || (receives++ < RECEIVES_AT_ONCE && receive_now(conn)));
    conn->delivering = false;
    if (conn->state == CONN_OPEN && conn->fd < 0 && conn->rx_waiting) arm_receive(conn);
    if (conn->state == CONN_OPEN && conn->fd >= 0) {
        conn->rx_waiting = false;
        if (conn->readable) poll_again(conn->fd);
    }
    if (conn->state == CONN_DEAD) pthread_cond_broadcast(&conn->quiet);
}

void conn_wake(struct rpc_conn *conn) {
    if (!conn->delivering && conn->state != CONN_DEAD) loop_kick(conn);
}

void conn_flush(struct rpc_conn *conn) {
    if (conn->delivering) return; /* it sends when it is through */
    conn_pump(conn);
    /* With a send in flight its completion works off the notes. */
    if (has_notes(conn) && !conn->tx_busy) conn_wake(conn);
}

/* ---- Connecting */

static void open_stream(struct rpc_conn *conn, uint64_t now) {
    conn->state = CONN_OPEN;
    conn->fd = poll_watch(conn);
    conn->last_rx_ms = now;
    conn->handshake_due_ms = now + conn->limits.handshake_ms;
    conn->rx_waiting = true;
    conn_due(conn, conn->handshake_due_ms);
}

void conn_start_accepted(struct rpc_conn *conn, nng_stream *stream) {
    pthread_mutex_lock(&conn->mu);
    conn->stream = stream;
    address_of_stream(stream, conn->peer, sizeof conn->peer);
    open_stream(conn, clock_mono_ms());
    loop_add(conn);
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

static void dial(struct rpc_conn *conn) {
    char url[300];
    int rv = NNG_EADDRINVAL;
    if (address_url(conn->peer, url, sizeof url)) rv = nng_stream_dialer_alloc(&conn->dialer, url);
    if (rv != 0) {
        conn_fail(conn, REPLOG_UNAVAILABLE, nng_strerror(rv));
        return;
    }
    nng_stream_dialer_set_bool(conn->dialer, NNG_OPT_TCP_NODELAY, true);
    conn->state = CONN_DIALLING;
    nng_aio_set_timeout(conn->dial, (nng_duration)conn->limits.handshake_ms);
    nng_stream_dialer_dial(conn->dialer, conn->dial);
}

void conn_start_dialling(struct rpc_conn *conn) {
    uint64_t now = clock_mono_ms();
    loop_add(conn);
    if (conn->dial_at_ms <= now)
        dial(conn);
    else
        conn_due(conn, conn->dial_at_ms);
}

static void on_dialled(void *arg) {
    struct rpc_conn *conn = arg;
    pthread_mutex_lock(&conn->mu);
    int rv = nng_aio_result(conn->dial);
    if (rv == 0) conn->stream = nng_aio_get_output(conn->dial, 0);
    if (conn->state == CONN_DIALLING) {
        if (rv == 0) {
            open_stream(conn, clock_mono_ms());
        } else {
            char text[420];
            snprintf(text, sizeof text, "cannot connect to %s: %s", conn->peer, nng_strerror(rv));
            conn_fail(conn, REPLOG_UNAVAILABLE, text);
        }
    }
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

/* ---- Time */

void conn_due(struct rpc_conn *conn, uint64_t at_ms) {
    if (at_ms >= atomic_load(&conn->due_ms)) return;
    atomic_store(&conn->due_ms, at_ms);
    loop_wake_at(at_ms);
}

static void expire(struct rpc_call *call) {
    if (call->is_server) {
        call_abort(call, REPLOG_DEADLINE_EXCEEDED, "the call's deadline passed",
                   REPLOG_DEADLINE_EXCEEDED);
        return;
    }
    call_give_up(call, REPLOG_DEADLINE_EXCEEDED, "no answer within the call's deadline");
}

static void check_calls(struct rpc_conn *conn, uint64_t now) {
    for (struct rpc_call *call = conn->calls, *next; call; call = next) {
        next = call->next;
        bool ends_itself = call->close_noted && !call->close_stalled;
        if (call->deadline_ms == UINT64_MAX || ends_itself) continue;
        if (call->deadline_ms <= now)
            expire(call);
        else
            conn_due(conn, call->deadline_ms);
    }
}

/* A peer that is stopped or gone without a word is noticed by its silence only. It has a whole
 * period to answer the PING; if this process itself stood still meanwhile, it has another. */
static void check_silence(struct rpc_conn *conn, uint64_t now, uint64_t late_ms) {
    uint32_t period_ms = conn->limits.keepalive_ms;
    if (conn->ping_out && late_ms > period_ms / 2) conn->ping_at_ms = now;
    uint64_t due_ms = (conn->ping_out ? conn->ping_at_ms : conn->last_rx_ms) + period_ms;
    if (now < due_ms) {
        conn_due(conn, due_ms);
    } else if (conn->rx_waiting) { /* what it sent is being worked off */
        conn_due(conn, now + period_ms);
    } else if (conn->ping_out) {
        conn_fail(conn, REPLOG_UNAVAILABLE, "the peer does not answer (keepalive)");
    } else {
        conn->ping_out = nghttp2_submit_ping(conn->session, NGHTTP2_FLAG_NONE, NULL) == 0;
        conn->ping_at_ms = now;
        conn_due(conn, now + period_ms);
    }
}

void conn_tick(struct rpc_conn *conn, uint64_t now_ms) {
    pthread_mutex_lock(&conn->mu);
    uint64_t due_ms = atomic_exchange(&conn->due_ms, UINT64_MAX);
    uint64_t late_ms = now_ms > due_ms ? now_ms - due_ms : 0;
    if (conn->state == CONN_WAITING) {
        if (conn->dial_at_ms <= now_ms)
            dial(conn);
        else
            conn_due(conn, conn->dial_at_ms);
    }
    if (conn->state == CONN_OPEN && !atomic_load(&conn->spoke)) {
        if (conn->handshake_due_ms <= now_ms)
            conn_fail(conn, REPLOG_UNAVAILABLE, "the peer does not speak HTTP/2 (no SETTINGS)");
        else
            conn_due(conn, conn->handshake_due_ms);
    } else if (conn->state == CONN_OPEN) {
        check_silence(conn, now_ms, late_ms);
    }
    if (conn->state == CONN_OPEN && conn->close_at_ms != UINT64_MAX) {
        if (conn->close_at_ms <= now_ms)
            conn_fail(conn, REPLOG_UNAVAILABLE, "the server is shutting down");
        else
            conn_due(conn, conn->close_at_ms);
    }
    if (conn->state != CONN_DEAD) check_calls(conn, now_ms);
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

void conn_drain(struct rpc_conn *conn) {
    if (conn->state != CONN_OPEN || conn->draining) return;
    conn->draining = true;
    nghttp2_submit_goaway(conn->session, NGHTTP2_FLAG_NONE,
                          nghttp2_session_get_last_proc_stream_id(conn->session), NGHTTP2_NO_ERROR,
                          NULL, 0);
    if (conn->n_calls == 0) {
        conn->close_at_ms = clock_mono_ms() + LINGER_MS;
        conn_due(conn, conn->close_at_ms);
    }
    conn_flush(conn);
}

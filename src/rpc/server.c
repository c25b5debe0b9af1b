/* server.c: the listener, its connections, draining, counters. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "rpc/internal.h"

static const size_t MIB = (size_t)1 << 20;

enum { ACCEPT_RETRY_MS = 50, WARN_MS = 5000 };

struct rpc_server {
    struct rpc_conn_limits limits;
    uint32_t max_connections;
    void (*delivered)(void *user);
    void *user;
    struct rpc_service *services; /* a copy of the user's list */
    size_t n_services;
    struct rpc_routes routes;
    struct rpc_health *health;
    struct rpc_reflection *reflection;
    nng_stream_listener *listener;
    nng_aio *accept, *retry;
    uint16_t port;

    pthread_mutex_t mu;
    pthread_cond_t gone;    /* a connection ended */
    struct rpc_conn *conns; /* alive until server_conn_gone */
    uint32_t n_conns;
    bool stopping;
    uint64_t warned_ms; /* of the accepting callbacks */

    _Atomic uint64_t buffered, refused, calls_open, calls_total, bytes_in, bytes_out,
        protocol_errors, accepted;
};

const struct rpc_routes *server_routes(const struct rpc_server *server) {
    return &server->routes;
}

void server_delivered(struct rpc_server *server) {
    if (server->delivered) server->delivered(server->user);
}

void server_count(struct rpc_server *server, enum server_count what, uint64_t n) {
    switch (what) {
    case COUNT_CALL_OPEN:
        atomic_fetch_add_explicit(&server->calls_open, n, memory_order_relaxed);
        atomic_fetch_add_explicit(&server->calls_total, n, memory_order_relaxed);
        break;
    case COUNT_CALL_DONE:
        atomic_fetch_sub_explicit(&server->calls_open, n, memory_order_relaxed);
        break;
    case COUNT_IN:
        atomic_fetch_add_explicit(&server->bytes_in, n, memory_order_relaxed);
        break;
    case COUNT_OUT:
        atomic_fetch_add_explicit(&server->bytes_out, n, memory_order_relaxed);
        break;
    case COUNT_PROTOCOL_ERROR:
        atomic_fetch_add(&server->protocol_errors, n);
        break;
    }
}

/* ---- Connections */

/* Takes a place for a connection; false when there is none. */
static bool add_conn(struct rpc_server *server, struct rpc_conn *conn) {
    pthread_mutex_lock(&server->mu);
    bool ok = !server->stopping && server->n_conns < server->max_connections;
    if (ok) {
        conn->owner_next = server->conns;
        if (server->conns) server->conns->owner_prev = conn;
        server->conns = conn;
        server->n_conns++;
    }
    pthread_mutex_unlock(&server->mu);
    return ok;
}

void server_conn_gone(struct rpc_server *server, struct rpc_conn *conn) {
    pthread_mutex_lock(&server->mu);
    if (conn->owner_prev)
        conn->owner_prev->owner_next = conn->owner_next;
    else
        server->conns = conn->owner_next;
    if (conn->owner_next) conn->owner_next->owner_prev = conn->owner_prev;
    server->n_conns--;
    pthread_cond_broadcast(&server->gone);
    pthread_mutex_unlock(&server->mu);
}

static void serve(struct rpc_server *server, nng_stream *stream) {
    pthread_mutex_lock(&server->mu);
    bool full = server->n_conns >= server->max_connections;
    pthread_mutex_unlock(&server->mu);
    struct rpc_conn *conn = full ? NULL : conn_new(true, &server->limits);
    if (conn) conn->server = server;
    /* Only this thread adds: a place that was free still is, unless the server stops. */
    if (!conn || !add_conn(server, conn)) {
        atomic_fetch_add(&server->refused, 1);
        nng_stream_free(stream);
        if (conn) conn_discard(conn);
        return;
    }
    atomic_fetch_add(&server->accepted, 1);
    conn_start_accepted(conn, stream);
    conn_unref(conn);
}

static void on_accepted(void *arg) {
    struct rpc_server *server = arg;
    int rv = nng_aio_result(server->accept);
    if (rv == 0) serve(server, nng_aio_get_output(server->accept, 0));
    if (rv == NNG_ECLOSED || rv == NNG_ECANCELED) return;
    if (rv != 0 && rv != NNG_ECONNABORTED) { /* no file descriptors, most likely */
        uint64_t now = clock_mono_ms();
        if (now >= server->warned_ms + WARN_MS || server->warned_ms == 0) {
            log_warn("rpc cannot accept connections: %s", nng_strerror(rv));
            server->warned_ms = now;
        }
        nng_sleep_aio(ACCEPT_RETRY_MS, server->retry);
        return;
    }
    nng_stream_listener_accept(server->listener, server->accept);
}

static void on_retry(void *arg) {
    struct rpc_server *server = arg;
    if (nng_aio_result(server->retry) == 0)
        nng_stream_listener_accept(server->listener, server->accept);
}

/* ---- Starting */

static void set_limits(struct rpc_server *server, const struct rpc_server_options *o) {
    server->max_connections = o->max_connections ? o->max_connections : 256;
    server->delivered = o->delivered;
    server->user = o->user;
    server->limits = (struct rpc_conn_limits){
        .send_queue_bytes = o->send_queue_bytes ? o->send_queue_bytes : MIB,
        .max_bytes = o->max_connection_bytes ? o->max_connection_bytes : 16 * MIB,
        .total = &server->buffered,
        .max_total = o->max_total_bytes ? o->max_total_bytes : 32 * MIB,
        .max_streams = o->max_streams ? o->max_streams : 1024,
        .handshake_ms = o->handshake_ms ? o->handshake_ms : 3000,
        .keepalive_ms = o->keepalive_ms ? o->keepalive_ms : 10000};
}

static replog_status add_services(struct rpc_server *server, const struct rpc_server_options *o,
                                  const struct rpc_service *services, size_t n, replog_error *err) {
    struct rpc_service built_in[3];
    server->services = calloc(n ? n : 1, sizeof *server->services);
    if (!server->services) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    if (n) memcpy(server->services, services, n * sizeof *services);
    server->n_services = n;
    server->health = health_new(server->services, n, &built_in[0]);
    errno = 0;
    server->reflection = reflection_new(server->services, n, o->descriptor_files,
                                        o->n_descriptor_files, &built_in[1]);
    if (!server->health || (!server->reflection && errno == ENOMEM))
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    if (!server->reflection)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "descriptor_files are no descriptor sets");
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < n && !status; i++)
        status = routes_add(&server->routes, &server->services[i], err);
    for (size_t i = 0; i < 3 && !status; i++)
        status = routes_add(&server->routes, &built_in[i], err);
    routes_sort(&server->routes);
    return status;
}

static replog_status start_listening(struct rpc_server *server, const char *address,
                                     replog_error *err) {
    char url[300];
    if (!address_url(address, url, sizeof url))
        return error_set(err, REPLOG_INVALID_ARGUMENT, "listen address %s is not HOST:PORT",
                         address ? address : "(none)");
    int rv = nng_stream_listener_alloc(&server->listener, url);
    if (rv != 0)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "listen address %s: %s", address,
                         nng_strerror(rv));
    nng_stream_listener_set_bool(server->listener, NNG_OPT_TCP_NODELAY, true);
    rv = nng_stream_listener_listen(server->listener);
    if (rv != 0)
        return error_set(err, rv == NNG_EADDRINVAL ? REPLOG_INVALID_ARGUMENT : REPLOG_UNAVAILABLE,
                         "cannot listen on %s: %s", address, nng_strerror(rv));
    int port = 0;
    nng_stream_listener_get_int(server->listener, NNG_OPT_TCP_BOUND_PORT, &port);
    server->port = (uint16_t)port;
    if (nng_aio_alloc(&server->accept, on_accepted, server) != 0 ||
        nng_aio_alloc(&server->retry, on_retry, server) != 0)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    return REPLOG_OK;
}

static void free_unstarted(struct rpc_server *server) {
    if (server->retry) nng_aio_free(server->retry);
    if (server->accept) nng_aio_free(server->accept);
    if (server->listener) nng_stream_listener_free(server->listener);
    routes_free(&server->routes);
    health_free(server->health);
    reflection_free(server->reflection);
    free(server->services);
    pthread_cond_destroy(&server->gone);
    pthread_mutex_destroy(&server->mu);
    free(server);
}

replog_status rpc_server_start(const struct rpc_server_options *options,
                               const struct rpc_service *services, size_t n_services,
                               struct rpc_server **server_out, replog_error *err) {
    struct rpc_server *server = calloc(1, sizeof *server);
    if (!server || !loop_start()) {
        free(server);
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory or threads");
    }
    pthread_mutex_init(&server->mu, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&server->gone, &attr);
    pthread_condattr_destroy(&attr);
    set_limits(server, options);
    replog_status status = add_services(server, options, services, n_services, err);
    if (!status) status = start_listening(server, options->listen, err);
    if (status) {
        free_unstarted(server);
        return status;
    }
    *server_out = server;
    nng_stream_listener_accept(server->listener, server->accept);
    return REPLOG_OK;
}

/* ---- Running */

void rpc_server_set_serving(struct rpc_server *server, bool serving) {
    health_set(server->health, serving);
}

uint16_t rpc_server_port(const struct rpc_server *server) {
    return server->port;
}

void rpc_server_stats(struct rpc_server *server, struct rpc_stats *stats) {
    pthread_mutex_lock(&server->mu);
    stats->connections = server->n_conns;
    pthread_mutex_unlock(&server->mu);
    stats->connections_refused = atomic_load(&server->refused);
    stats->calls_open = atomic_load(&server->calls_open);
    stats->calls_total = atomic_load(&server->calls_total);
    stats->bytes_in = atomic_load(&server->bytes_in);
    stats->bytes_out = atomic_load(&server->bytes_out);
    stats->buffered_bytes = atomic_load(&server->buffered);
    stats->protocol_errors = atomic_load(&server->protocol_errors);
}

/* ---- Draining */

/* Calls `visit` on every connection, locked; not with the server's lock held. */
static void visit_conns(struct rpc_server *server, void (*visit)(struct rpc_conn *)) {
    struct rpc_conn *list = NULL;
    pthread_mutex_lock(&server->mu);
    for (struct rpc_conn *conn = server->conns; conn; conn = conn->owner_next) {
        conn_ref(conn);
        conn->owner_visit = list;
        list = conn;
    }
    pthread_mutex_unlock(&server->mu);
    while (list) {
        struct rpc_conn *conn = list;
        list = conn->owner_visit;
        pthread_mutex_lock(&conn->mu);
        visit(conn);
        pthread_mutex_unlock(&conn->mu);
        conn_unref(conn);
    }
}

static void close_conn(struct rpc_conn *conn) {
    conn_fail(conn, REPLOG_UNAVAILABLE, "the server is shutting down");
}

/* Until every connection has ended; false when the time is over. */
static bool wait_until_empty(struct rpc_server *server, uint64_t until_ms) {
    struct timespec ts = {.tv_sec = (time_t)(until_ms / 1000),
                          .tv_nsec = (long)(until_ms % 1000) * 1000000};
    int rv = 0;
    pthread_mutex_lock(&server->mu);
    while (server->n_conns > 0 && rv == 0)
        rv = pthread_cond_timedwait(&server->gone, &server->mu, &ts);
    bool empty = server->n_conns == 0;
    pthread_mutex_unlock(&server->mu);
    return empty;
}

void rpc_server_drain(struct rpc_server *server, uint32_t timeout_ms) {
    uint64_t until_ms = clock_mono_ms() + timeout_ms;
    nng_stream_listener_close(server->listener);
    nng_aio_stop(server->accept);
    nng_aio_stop(server->retry);
    pthread_mutex_lock(&server->mu);
    server->stopping = true;
    pthread_mutex_unlock(&server->mu);
    health_end(server->health); /* watchers would hold the drain up to its end */
    visit_conns(server, conn_drain);
    if (wait_until_empty(server, until_ms)) return;
    visit_conns(server, close_conn);
    wait_until_empty(server, clock_mono_ms() + LINGER_MS);
}

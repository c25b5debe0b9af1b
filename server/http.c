#include "server/http.h"

#include <errno.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"

enum { MAX_CONNECTIONS = 64, TIMEOUT_S = 10, CONNECTION_BYTES = 32 << 10 };

struct http {
    struct MHD_Daemon *daemon;
};

static enum MHD_Result send_buffer(struct MHD_Connection *connection, unsigned status,
                                   const char *type, struct buffer *body) {
    if (body->failed) {
        buffer_free(body);
        return MHD_NO;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body->size_bytes, body->data, MHD_RESPMEM_MUST_COPY);
    buffer_free(body);
    if (!response) return MHD_NO;
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    (void)MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result send_health(struct server *s, struct MHD_Connection *connection) {
    struct node_snapshot view;
    struct buffer body = {0};
    server_view(s, &view);
    const char *why = atomic_load(&s->draining) ? "stopping" : server_not_serving(&view);
    if (why && view.refused[0]) {
        buffer_printf(&body, "not serving: %s: %s\n", why, view.refused);
    } else if (why) {
        buffer_printf(&body, "not serving: %s\n", why);
    } else {
        buffer_printf(&body, "serving leader=%" PRIu64 "\n", view.leader);
    }
    unsigned status = why ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK;
    return send_buffer(connection, status, "text/plain; charset=utf-8", &body);
}

/* Addresses come from --cluster or other members; not all of them need be harmless in HTML. */
static void put_escaped(struct buffer *out, const char *text) {
    for (; *text; text++) {
        switch (*text) {
        case '<':
            buffer_printf(out, "&lt;");
            break;
        case '>':
            buffer_printf(out, "&gt;");
            break;
        case '&':
            buffer_printf(out, "&amp;");
            break;
        default:
            buffer_u8(out, (uint8_t)*text);
            break;
        }
    }
}

static void put_members(struct buffer *out, const struct node_snapshot *v) {
    buffer_printf(out, "<table border=1 cellpadding=4>\n<tr><th>member<th>address<th>match"
                       "<th>applied<th>checkpoint<th>lag bytes<th>heard</tr>\n");
    for (uint32_t i = 0; i < v->config.n_members; i++) {
        const struct config_member *m = &v->config.members[i];
        buffer_printf(out, "<tr><td>%" PRIu64 "%s<td>", m->id, m->id == v->leader ? " leads" : "");
        put_escaped(out, m->address);
        const struct node_peer_view *p = NULL;
        for (unsigned k = 0; k < v->n_peers; k++) {
            if (v->peers[k].id == m->id) p = &v->peers[k];
        }
        if (p && v->role == RAFT_LEADER) {
            buffer_printf(out, "<td>%" PRIu64 "<td>%" PRIu64 "<td>%" PRIu64 "<td>%" PRIu64 "<td>%s",
                          p->match_seq, p->applied_seq, p->checkpoint_seq, p->lag_bytes,
                          m->id == v->self ? "this"
                          : p->online      ? "yes"
                                           : "no");
        } else {
            buffer_printf(out, "<td><td><td><td><td>%s", m->id == v->self ? "this" : "");
        }
        buffer_printf(out, "</tr>\n");
    }
    buffer_printf(out, "</table>\n");
}

static enum MHD_Result send_page(struct server *s, struct MHD_Connection *connection) {
    static const char *const roles[] = {"follower", "precandidate", "candidate", "leader"};
    struct node_snapshot v;
    struct buffer out = {0};
    server_view(s, &v);
    const char *why = server_not_serving(&v);
    buffer_printf(&out,
                  "<!doctype html><meta charset=utf-8><title>replog member %" PRIu64
                  "</title>\n<h1>replog member %" PRIu64 "</h1>\n<p>%s</p>\n<pre>\n",
                  v.self, v.self, why ? why : "serving");
    buffer_printf(&out,
                  "role        %s%s\nterm        %" PRIu64 "\nleader      %" PRIu64
                  "\ncluster     %016" PRIx64 "\n",
                  roles[v.role], v.ready ? ", ready" : "", v.term, v.leader, v.cluster_id);
    buffer_printf(&out,
                  "first seq   %" PRIu64 "\nlast seq    %" PRIu64 "\ndurable     %" PRIu64
                  "\ncommitted   %" PRIu64 "\napplied     %" PRIu64 "\ncheckpoint  %" PRIu64 "\n",
                  v.first_seq, v.last_seq, v.durable_seq, v.commit_seq, v.applied_seq,
                  v.checkpoint_seq);
    buffer_printf(&out,
                  "safe seq    %" PRIu64 "\ndrop up to  %" PRIu64 "\nsessions    %" PRIu64
                  "\nlog files   %u, %" PRIu64 " bytes\ndisk space  %s\n</pre>\n",
                  v.safe_seq, v.drop_upto, v.sessions, wal_n_segments(s->wal),
                  wal_size_bytes(s->wal), v.space_low ? "short" : "enough");
    put_members(&out, &v);
    if (v.n_held_by > 0) {
        buffer_printf(&out, "<p>Truncation waits for member");
        for (unsigned i = 0; i < v.n_held_by; i++) {
            buffer_printf(&out, " %" PRIu64 " (checkpoint %" PRIu64 ")", v.held_by[i].id,
                          v.held_by[i].checkpoint_seq);
        }
        buffer_printf(&out, "</p>\n");
    }
    buffer_printf(&out, "<p><a href=/metrics>metrics</a> <a href=/health>health</a></p>\n");
    return send_buffer(connection, MHD_HTTP_OK, "text/html; charset=utf-8", &out);
}

static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **state) {
    static int seen;
    struct server *s = user;
    (void)version;
    (void)upload;
    if (!*state) { /* the headers are there; the answer may be queued in the next call */
        *state = &seen;
        return MHD_YES;
    }
    *upload_bytes = 0; /* a body is taken and ignored */
    struct buffer body = {0};
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0) {
        buffer_printf(&body, "only GET\n");
        return send_buffer(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", &body);
    }
    if (strcmp(url, "/health") == 0) return send_health(s, connection);
    if (strcmp(url, "/") == 0) return send_page(s, connection);
    if (strcmp(url, "/metrics") == 0) {
        metrics_render(s, &body);
        return send_buffer(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                           &body);
    }
    buffer_printf(&body, "there are /, /health and /metrics\n");
    return send_buffer(connection, MHD_HTTP_NOT_FOUND, "text/plain", &body);
}

static void log_nothing(void *user, const char *format, va_list args) {
    (void)user; /* what strangers send is not worth a line each */
    (void)format;
    (void)args;
}

replog_status http_start(struct server *s, replog_error *err) {
    const char *address = s->options.http;
    if (address[0] == '\0') return REPLOG_OK;
    char host[OPTIONS_ADDRESS_BYTES], service[8];
    uint16_t port;
    if (!options_split_address(address, host, &port)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "--http %s is not HOST:PORT", address);
    }
    (void)snprintf(service, sizeof service, "%u", (unsigned)port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    int rc = getaddrinfo(host, service, &hints, &found);
    if (rc != 0) {
        return error_set(err, REPLOG_UNAVAILABLE, "--http %s: %s", address, gai_strerror(rc));
    }
    s->http = calloc(1, sizeof *s->http);
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO;
    if (found->ai_family == AF_INET6) flags |= MHD_USE_IPv6;
    if (s->http) {
        s->http->daemon = MHD_start_daemon(
            flags, port, NULL, NULL, handle, s, MHD_OPTION_EXTERNAL_LOGGER, log_nothing, NULL,
            MHD_OPTION_SOCK_ADDR, found->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
            (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)TIMEOUT_S,
            MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
    }
    int errnum = errno;
    freeaddrinfo(found);
    if (s->http && s->http->daemon) return REPLOG_OK;
    free(s->http);
    s->http = NULL;
    return error_set(err, REPLOG_UNAVAILABLE, "cannot listen on --http %s: %s", address,
                     strerror(errnum));
}

void http_stop(struct server *s) {
    if (s->http) MHD_stop_daemon(s->http->daemon);
}

/* session.c: nghttp2's callbacks. They run with the connection locked and only take notes. Hides:
 * HTTP/2 frames, headers, trailers, and how a call maps to a stream. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "rpc/internal.h"

#define NV_STATIC(n, v)                                                                            \
    {                                                                                              \
        (uint8_t *)(n), (uint8_t *)(v), sizeof(n) - 1, sizeof(v) - 1,                              \
            NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE                           \
    }

static nghttp2_nv nv_text(const char *name, const char *value) {
    return (nghttp2_nv){(uint8_t *)name, (uint8_t *)value, strlen(name), strlen(value),
                        NGHTTP2_NV_FLAG_NONE};
}

static struct rpc_call *call_of(nghttp2_session *session, int32_t stream_id) {
    return nghttp2_session_get_stream_user_data(session, stream_id);
}

/* ---- Floods: frames that bring nothing cost a token, DATA for a call that is over included. */

bool session_flood_token(struct rpc_conn *conn) {
    uint64_t now = clock_mono_ms();
    uint64_t gained = (now - conn->flood_at_ms) * FLOOD_PER_S / 1000;
    if (gained) {
        conn->flood_at_ms = now;
        conn->flood_tokens += gained;
        if (conn->flood_tokens > FLOOD_BURST) conn->flood_tokens = FLOOD_BURST;
    }
    if (conn->flood_tokens == 0) {
        snprintf(conn->why, sizeof conn->why, "flood of control frames");
        return false;
    }
    conn->flood_tokens--;
    return true;
}

static int on_begin_frame(nghttp2_session *session, const nghttp2_frame_hd *hd, void *user) {
    struct rpc_conn *conn = user;
    bool brings = hd->type == NGHTTP2_HEADERS || hd->type == NGHTTP2_CONTINUATION ||
                  hd->type == NGHTTP2_WINDOW_UPDATE || hd->type == NGHTTP2_GOAWAY;
    if (hd->type == NGHTTP2_DATA) {
        /* nghttp2 would reset the stream and go on reading what keeps coming for it */
        int32_t window = nghttp2_session_get_stream_local_window_size(session, hd->stream_id);
        if (window >= 0 && hd->length > (size_t)window) {
            snprintf(conn->why, sizeof conn->why, "flow control violated");
            return NGHTTP2_ERR_CALLBACK_FAILURE;
        }
        /* a server may be far ahead of a cancellation: its DATA is free */
        brings = (hd->length > 0 || (hd->flags & NGHTTP2_FLAG_END_STREAM)) &&
                 (!conn->server || call_of(session, hd->stream_id));
    }
    return brings || session_flood_token(conn) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* Frames of unknown types are only counted: on_begin_frame sees them because these two exist. */
static int on_unknown_chunk(nghttp2_session *session, const nghttp2_frame_hd *hd,
                            const uint8_t *data, size_t size_bytes, void *user) {
    (void)session;
    (void)hd;
    (void)data;
    (void)size_bytes;
    (void)user;
    return NGHTTP2_ERR_CANCEL;
}

static int on_unknown_frame(nghttp2_session *session, void **payload, const nghttp2_frame_hd *hd,
                            void *user) {
    (void)session;
    (void)payload;
    (void)hd;
    (void)user;
    return NGHTTP2_ERR_CANCEL;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error,
                            void *user) {
    (void)session;
    (void)frame;
    (void)error;
    return session_flood_token(user) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* ---- Headers */

static bool is(const uint8_t *name, size_t n, const char *what) {
    return n == strlen(what) && memcmp(name, what, n) == 0;
}

/* What cannot be said must not be silence: see conn_pump. */
static void submitted(struct rpc_conn *conn, int rv) {
    if (rv == NGHTTP2_ERR_NOMEM) conn->unsaid = true;
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct rpc_conn *conn = user;
    memset(&conn->head, 0, sizeof conn->head);
    conn->head.timeout_ms = UINT64_MAX;
    conn->head.bad_type = true;
    if (!conn->server || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct rpc_call *call = call_new(conn, true);
    if (!call) { /* "not processed": the client may try again */
        submitted(conn, nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                                  NGHTTP2_REFUSED_STREAM));
        return 0;
    }
    call->stream_id = frame->hd.stream_id;
    call->stream_open = true;
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, call);
    return 0;
}

static void request_header(struct rpc_conn *conn, const uint8_t *name, size_t n,
                           const uint8_t *value, size_t size) {
    if (is(name, n, ":path")) {
        conn->head.has_path = size < sizeof conn->head.path;
        if (conn->head.has_path) memcpy(conn->head.path, value, size);
    } else if (is(name, n, ":method")) {
        conn->head.post = is(value, size, "POST");
    } else if (is(name, n, "grpc-timeout")) {
        conn->head.bad_timeout = !timeout_parse(value, size, &conn->head.timeout_ms);
    }
}

static void reply_header(struct rpc_call *call, const uint8_t *name, size_t n, const uint8_t *value,
                         size_t size) {
    int code = 0;
    size_t digits = 0;
    while (digits < size && digits < 4 && value[digits] >= '0' && value[digits] <= '9')
        code = code * 10 + (value[digits++] - '0');
    bool number = digits > 0 && digits == size;
    if (is(name, n, ":status")) {
        call->http_status = number ? code : 0;
    } else if (is(name, n, "grpc-status")) {
        call->has_status = true;
        call->status =
            number && code <= REPLOG_UNAUTHENTICATED ? (replog_status)code : REPLOG_UNKNOWN;
    } else if (is(name, n, "grpc-message")) {
        free(call->text);
        call->text = message_decode(value, size);
    }
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t value_size, uint8_t flags,
                     void *user) {
    (void)flags;
    struct rpc_conn *conn = user;
    struct rpc_call *call = call_of(session, frame->hd.stream_id);
    if (!call) return 0;
    conn->head.bytes += name_size + value_size + 32;
    if (conn->head.bytes > HEADER_BYTES_MAX) { /* resets this stream */
        if (!session_flood_token(conn)) return NGHTTP2_ERR_CALLBACK_FAILURE;
        if (!call->is_server)
            call_close(call, REPLOG_RESOURCE_EXHAUSTED, "headers over the limit of 16384 bytes",
                       true);
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (is(name, name_size, "content-type"))
        conn->head.bad_type = value_size < 16 || memcmp(value, "application/grpc", 16) != 0 ||
                              (value_size > 16 && value[16] != '+' && value[16] != ';');
    else if (name_size > 7 && memcmp(name, "replog-", 7) == 0)
        call_keep_metadata(call, name, name_size, value, value_size);
    else if (call->is_server)
        request_header(conn, name, name_size, value, value_size);
    else
        reply_header(call, name, name_size, value, value_size);
    return 0;
}

/* A request's headers are whole: finds its method. */
static void begin_request(struct rpc_conn *conn, struct rpc_call *call) {
    if (!conn->head.post || conn->head.bad_type) {
        static const nghttp2_nv reply[] = {NV_STATIC(":status", "415")};
        atomic_store(&call->open, false);
        atomic_store(&call->drop_input, true);
        call->fin = call->response_begun = call->trailers_done = true;
        submitted(conn, nghttp2_submit_response(conn->session, call->stream_id, reply, 1, NULL));
        return;
    }
    if (conn->head.bad_timeout) {
        call_abort(call, REPLOG_INTERNAL, "malformed grpc-timeout", REPLOG_CANCELLED);
        return;
    }
    call->route = routes_find(server_routes(conn->server), (const uint8_t *)conn->head.path,
                              conn->head.has_path ? strlen(conn->head.path) : 0);
    if (!call->route) {
        char text[320];
        snprintf(text, sizeof text, "no method %s", conn->head.path);
        call_abort(call, REPLOG_UNIMPLEMENTED, text, REPLOG_CANCELLED);
        return;
    }
    call->handlers = call->route->handlers;
    call->user = call->route->user;
    if (conn->head.timeout_ms != UINT64_MAX) {
        call->deadline_ms = clock_mono_ms() + conn->head.timeout_ms;
        conn_due(conn, call->deadline_ms);
    }
}

/* The server has said all it will: ends our side too, so that the stream closes. */
static void end_own_side(struct rpc_call *call) {
    if (call->fin && !call->out_head) return;
    call_drop_queue(call);
    call->fin = true;
    session_send_queue(call);
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    struct rpc_conn *conn = user;
    struct rpc_call *call;
    switch (frame->hd.type) {
    case NGHTTP2_SETTINGS:
        atomic_store(&conn->spoke, true);
        conn_due(conn, conn->last_rx_ms + conn->limits.keepalive_ms);
        return 0;
    case NGHTTP2_GOAWAY:
        conn->goaway_seen = true;
        if (conn->channel) atomic_store(&conn->retired, true);
        return 0;
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        break;
    default:
        return 0;
    }
    call = call_of(session, frame->hd.stream_id);
    if (!call) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && call->is_server &&
        frame->headers.cat == NGHTTP2_HCAT_REQUEST)
        begin_request(conn, call);
    if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    if (!call->is_server) {
        end_own_side(call);
        return 0;
    }
    struct rpc_input *newest = conn->n_inputs ? &conn->inputs[conn->n_inputs - 1] : NULL;
    if (newest && newest->call == call)
        newest->last = true;
    else if (!conn_note_input(conn, call, NULL, 0, true))
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream_id, const uint8_t *data,
                   size_t size_bytes, void *user) {
    (void)flags;
    struct rpc_conn *conn = user;
    nghttp2_session_consume_connection(session, size_bytes);
    struct rpc_call *call = call_of(session, stream_id);
    if (!call || atomic_load(&call->drop_input)) {
        nghttp2_session_consume_stream(session, stream_id, size_bytes);
        return 0;
    }
    return conn_note_input(conn, call, data, size_bytes, false) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
}

/* ---- Ends of streams */

static void close_server_call(struct rpc_call *call) {
    if (call->fin && call->trailers_done)
        call_close(call, REPLOG_OK, "", false);
    else
        call_close(call, REPLOG_CANCELLED, "cancelled by the client", true);
}

static void close_client_call(struct rpc_call *call, uint32_t error_code) {
    char text[160];
    if (call->has_status) {
        call_close(call, call->status, call->text ? call->text : "", false);
    } else if (error_code != NGHTTP2_NO_ERROR) {
        snprintf(text, sizeof text, "the stream was reset: %s", nghttp2_http2_strerror(error_code));
        call_close(call, status_of_h2_error(error_code), text, true);
    } else if (call->http_status != 200) {
        snprintf(text, sizeof text, "HTTP status %d instead of a gRPC answer", call->http_status);
        call_close(call, status_of_http(call->http_status), text, true);
    } else {
        call_close(call, REPLOG_INTERNAL, "the server ended the call without a status", true);
    }
}

static int on_stream_close(nghttp2_session *session, int32_t stream_id, uint32_t error_code,
                           void *user) {
    (void)user;
    struct rpc_call *call = call_of(session, stream_id);
    if (!call) return 0;
    nghttp2_session_set_stream_user_data(session, stream_id, NULL);
    call->stream_open = false;
    if (call->is_server)
        close_server_call(call);
    else
        close_client_call(call, error_code);
    call_drop_queue(call);
    call_unlist_if_done(call);
    return 0;
}

static int on_not_sent(nghttp2_session *session, const nghttp2_frame *frame, int error,
                       void *user) {
    (void)user;
    if (frame->hd.type != NGHTTP2_HEADERS || frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    struct rpc_call *call = call_of(session, frame->hd.stream_id);
    if (call) call_close(call, REPLOG_UNAVAILABLE, nghttp2_strerror(error), true);
    return 0;
}

/* ---- Sending */

static ssize_t on_send(nghttp2_session *session, const uint8_t *data, size_t size_bytes, int flags,
                       void *user) {
    (void)session;
    (void)flags;
    struct rpc_conn *conn = user;
    size_t room = tx_room(&conn->sending);
    if (size_bytes > room) size_bytes = room;
    if (!size_bytes || !tx_copy(&conn->sending, data, size_bytes)) return NGHTTP2_ERR_WOULDBLOCK;
    return (ssize_t)size_bytes;
}

static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header,
                        size_t size_bytes, nghttp2_data_source *source, void *user) {
    (void)session;
    (void)frame;
    struct rpc_conn *conn = user;
    struct rpc_call *call = source->ptr;
    /* Nothing may be consumed before it is sure that the frame fits. */
    if (!tx_fits(&conn->sending, &call->plan)) return NGHTTP2_ERR_WOULDBLOCK;
    tx_copy(&conn->sending, header, 9);
    tx_take(&conn->sending, &call->out_head, size_bytes);
    if (!call->out_head) call->out_tail = NULL;
    call_sent(call, size_bytes);
    return 0;
}

static ssize_t frame_bytes(nghttp2_session *session, uint8_t type, int32_t stream_id,
                           int32_t connection_window, int32_t stream_window, uint32_t peer_max,
                           void *user) {
    (void)session;
    (void)type;
    (void)stream_id;
    (void)connection_window;
    (void)stream_window;
    (void)user;
    return peer_max < FRAME_BYTES_MAX ? (ssize_t)peer_max : FRAME_BYTES_MAX;
}

enum { TRAILERS_MAX = 3 };

static size_t make_trailers(struct rpc_call *call, nghttp2_nv *nv, char number[8]) {
    size_t n = 0;
    snprintf(number, 8, "%d", (int)call->status);
    nv[n++] = nv_text("grpc-status", number);
    if (call->text) nv[n++] = nv_text("grpc-message", call->text);
    if (call->extra_name && call->extra_value)
        nv[n++] = nv_text(call->extra_name, call->extra_value);
    return n;
}

static ssize_t read_queue(nghttp2_session *session, int32_t stream_id, uint8_t *bytes, size_t limit,
                          uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)bytes;
    (void)user;
    struct rpc_call *call = source->ptr;
    if (!call->out_head && !call->fin) {
        call->deferred = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    call->plan = out_plan(call->out_head, limit);
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (call->fin && call->plan.size_bytes == atomic_load(&call->queued_bytes)) {
        *flags |= NGHTTP2_DATA_FLAG_EOF;
        if (call->is_server) {
            nghttp2_nv nv[TRAILERS_MAX];
            char number[8];
            size_t n = make_trailers(call, nv, number);
            *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
            if (nghttp2_submit_trailer(session, stream_id, nv, n) != 0)
                return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        }
    }
    return (ssize_t)call->plan.size_bytes;
}

/* nghttp2 ends the connection for what the peer did, and says in a GOAWAY what that was. */
static void keep_reason(struct rpc_conn *conn, const nghttp2_goaway *goaway) {
    if (goaway->error_code == NGHTTP2_NO_ERROR || conn->why[0]) return;
    snprintf(conn->why, sizeof conn->why, "%s: %.*s", nghttp2_http2_strerror(goaway->error_code),
             (int)goaway->opaque_data_len, (const char *)goaway->opaque_data);
}

/* The end of our answer is out: a client that still sends is told to stop. */
static int on_frame_sent(nghttp2_session *session, const nghttp2_frame *frame, void *user) {
    if (frame->hd.type == NGHTTP2_GOAWAY) keep_reason(user, &frame->goaway);
    if (frame->hd.type != NGHTTP2_HEADERS || !(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) return 0;
    struct rpc_call *call = call_of(session, frame->hd.stream_id);
    if (!call || !call->is_server) return 0;
    call->trailers_done = true;
    if (!nghttp2_session_get_stream_remote_close(session, frame->hd.stream_id))
        submitted(call->conn, nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE,
                                                        frame->hd.stream_id, NGHTTP2_NO_ERROR));
    return 0;
}

static void begin_response(struct rpc_call *call) {
    static const nghttp2_nv head[] = {NV_STATIC(":status", "200"),
                                      NV_STATIC("content-type", "application/grpc")};
    nghttp2_session *session = call->conn->session;
    call->response_begun = true;
    if (call->out_head) {
        nghttp2_data_provider provider = {{.ptr = call}, read_queue};
        submitted(call->conn,
                  nghttp2_submit_response(session, call->stream_id, head, 2, &provider));
        return;
    }
    nghttp2_nv nv[2 + TRAILERS_MAX] = {head[0], head[1]};
    char number[8];
    size_t n = make_trailers(call, nv + 2, number);
    submitted(call->conn, nghttp2_submit_response(session, call->stream_id, nv, 2 + n, NULL));
}

void session_send_queue(struct rpc_call *call) {
    if (!call->stream_open || call->conn->state == CONN_DEAD) return;
    if (call->is_server && !call->response_begun) {
        if (call->out_head || call->fin) begin_response(call);
    } else if (call->deferred) {
        call->deferred = false;
        submitted(call->conn, nghttp2_session_resume_data(call->conn->session, call->stream_id));
    }
}

void session_reset(struct rpc_call *call, uint32_t error_code) {
    if (call->stream_open && call->conn->state != CONN_DEAD)
        submitted(call->conn, nghttp2_submit_rst_stream(call->conn->session, NGHTTP2_FLAG_NONE,
                                                        call->stream_id, error_code));
}

int session_request(struct rpc_call *call, const char *path, uint32_t timeout_ms) {
    char timeout[TIMEOUT_TEXT_BYTES];
    nghttp2_nv nv[8] = {NV_STATIC(":method", "POST"),
                        NV_STATIC(":scheme", "http"),
                        nv_text(":path", path),
                        nv_text(":authority", call->conn->peer),
                        NV_STATIC("te", "trailers"),
                        NV_STATIC("content-type", "application/grpc"),
                        NV_STATIC("user-agent", "replog-c/0.1")};
    size_t n = 7;
    if (timeout_ms) {
        timeout_format(timeout_ms, timeout);
        nv[n++] = nv_text("grpc-timeout", timeout);
    }
    nghttp2_data_provider provider = {{.ptr = call}, read_queue};
    int32_t id = nghttp2_submit_request(call->conn->session, NULL, nv, n, &provider, call);
    if (id < 0) return id;
    call->stream_id = id;
    call->stream_open = true;
    return 0;
}

/* ---- Making */

static void set_callbacks(nghttp2_session_callbacks *cb) {
    nghttp2_session_callbacks_set_send_callback(cb, on_send);
    nghttp2_session_callbacks_set_send_data_callback(cb, on_send_data);
    nghttp2_session_callbacks_set_data_source_read_length_callback(cb, frame_bytes);
    nghttp2_session_callbacks_set_on_begin_frame_callback(cb, on_begin_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(cb, on_invalid_frame);
    nghttp2_session_callbacks_set_on_extension_chunk_recv_callback(cb, on_unknown_chunk);
    nghttp2_session_callbacks_set_unpack_extension_callback(cb, on_unknown_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(cb, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback(cb, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(cb, on_frame);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(cb, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(cb, on_stream_close);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(cb, on_not_sent);
    nghttp2_session_callbacks_set_on_frame_send_callback(cb, on_frame_sent);
}

static bool send_settings(struct rpc_conn *conn, nghttp2_session *session, bool is_server) {
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES},
        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, FRAME_BYTES_MAX},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, HEADER_BYTES_MAX},
        {is_server ? NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS : NGHTTP2_SETTINGS_ENABLE_PUSH,
         is_server ? conn->limits.max_streams : 0}};
    return nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings, 4) == 0 &&
           nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0,
                                                 CONNECTION_WINDOW_BYTES) == 0;
}

nghttp2_session *session_new(struct rpc_conn *conn, bool is_server) {
    nghttp2_session *session = NULL;
    nghttp2_session_callbacks *callbacks = NULL;
    nghttp2_option *option = NULL;
    if (nghttp2_session_callbacks_new(&callbacks) != 0 || nghttp2_option_new(&option) != 0)
        goto out;
    set_callbacks(callbacks);
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_no_closed_streams(option, 1);
    nghttp2_option_set_max_outbound_ack(option, FLOOD_BURST);
    for (unsigned type = NGHTTP2_CONTINUATION + 1; type <= UINT8_MAX; type++)
        nghttp2_option_set_user_recv_extension_type(option, (uint8_t)type);
    nghttp2_option_set_stream_reset_rate_limit(option, FLOOD_BURST, FLOOD_PER_S);
    int rv = is_server ? nghttp2_session_server_new2(&session, callbacks, conn, option)
                       : nghttp2_session_client_new2(&session, callbacks, conn, option);
    if (rv != 0) {
        session = NULL;
    } else if (!send_settings(conn, session, is_server)) {
        nghttp2_session_del(session);
        session = NULL;
    }
out:
    if (option) nghttp2_option_del(option);
    if (callbacks) nghttp2_session_callbacks_del(callbacks);
    return session;
}

/* internal.h: what the files of rpc/ share and nobody else sees: connections, calls, routes.
 *
 * One connection is one nng stream and one nghttp2 session, guarded by `mu`. nghttp2 runs with the
 * lock held and only takes notes (inputs, ready calls); the notes are worked off by whoever finds
 * nobody else at it (`delivering`), with the lock released: so user callbacks of one connection run
 * one at a time and in order, and may call anything here.
 *
 *     nng receive -> nghttp2 (locked) -> inputs, ready -> callbacks (unlocked) -> pump (locked)
 *
 * The receive is armed again only when its notes are worked off: they point into the receive
 * buffer, and a slow user holds the sender back.
 *
 * Locks: conn->mu before the server's or channel's, before loop's. Never two connections' at once.
 * References: a connection has one until it is reaped, one for each call, one for each visit of the
 * loop. A call has one while it is in its connection's list, one for each note, and its users'. */
#ifndef RPC_INTERNAL_H
#define RPC_INTERNAL_H

#include <nghttp2/nghttp2.h>
#include <nng/nng.h>
#include <pthread.h>
#include <stdatomic.h>

#include "rpc/rpc.h"

enum {
    RX_BYTES_FIRST = 16 * 1024, /* the receive buffer grows when receives fill it */
    RX_BYTES_MAX = 256 * 1024,
    TX_BYTES = 256 * 1024,
    TX_IOV_MAX = 8,               /* nng refuses more */
    PIECE_BIG_BYTES = 4096,       /* pieces from here up are sent from where they lie */
    FRAME_BIG_MAX = 3,            /* such pieces in one DATA frame */
    FRAME_COPY_BYTES = 64 * 1024, /* copied bytes in one DATA frame */
    STREAM_WINDOW_BYTES = 4 * 1024 * 1024,
    CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024,
    FRAME_BYTES_MAX = 1024 * 1024,
    HEADER_BYTES_MAX = 16 * 1024,
    METADATA_MAX = 8,                     /* entries kept of one call */
    CONNECTION_RESERVE_BYTES = 64 * 1024, /* of each connection, whatever all of them hold */
    TX_TIMEOUT_MS = 20000,
    LINGER_MS = 500,
    QUIET_NS = 200000,     /* since the last send began */
    RECEIVES_AT_ONCE = 16, /* then other connections have their turn */
    MESSAGE_PREFIX_BYTES = 5,
    /* Frames that bring nothing (PING, SETTINGS, RST_STREAM, empty DATA, unknown): a token each. */
    FLOOD_BURST = 10000,
    FLOOD_PER_S = 2000
};

/* ---- Outgoing messages (out.c) -------------------------------------------------------------- */

struct rpc_segment {
    const uint8_t *data;
    size_t size_bytes;
    struct blob *owner; /* NULL: lies behind the segments of its message */
};
struct rpc_out {
    struct rpc_out *next;
    size_t left_bytes; /* not yet in a frame, prefix included */
    size_t at_byte;    /* in segment `at` */
    uint32_t at, n_segments;
    struct rpc_segment segments[];
};
/* One message with its gRPC prefix. NULL when memory is short or n is over 64. */
struct rpc_out *out_new(const struct rpc_piece *pieces, size_t n);
struct rpc_out *out_new_message(const ProtobufCMessage *message);
void out_free(struct rpc_out *out);

/* What the next DATA frame takes from a queue of messages. */
struct rpc_frame_plan {
    size_t size_bytes, copied_bytes;
    uint32_t n_big;
};
struct rpc_frame_plan out_plan(const struct rpc_out *head, size_t limit_bytes);

/* The send under way: copied bytes in `bytes`, and pieces where they lie. */
struct rpc_tx {
    uint8_t *bytes;
    size_t size_bytes;
    nng_iov iov[TX_IOV_MAX];
    uint32_t n_iov, n_owners;
    struct blob *owners[TX_IOV_MAX];
};
/* Copies n bytes; false (nothing done) when they do not fit. */
bool tx_copy(struct rpc_tx *tx, const void *data, size_t n);
size_t tx_room(const struct rpc_tx *tx);
bool tx_fits(const struct rpc_tx *tx, const struct rpc_frame_plan *plan);
/* Moves the planned bytes from the queue into the send; messages that are used up are freed. */
void tx_take(struct rpc_tx *tx, struct rpc_out **head, size_t size_bytes);
void tx_clear(struct rpc_tx *tx);
/* Drops n sent bytes from the front; true when all are gone. */
bool tx_advance(struct rpc_tx *tx, size_t n);

/* ---- Routes (service.c) --------------------------------------------------------------------- */

struct rpc_route {
    char *path; /* "/package.Service/Method" */
    size_t path_size;
    bool client_stream, server_stream;
    struct rpc_handlers handlers;
    void *user;
    /* Set for methods that are served through a generated stub. */
    ProtobufCService *stub;
    unsigned stub_index;
};
struct rpc_routes {
    struct rpc_route *list; /* sorted by path */
    size_t n, capacity;
};
replog_status routes_add(struct rpc_routes *routes, const struct rpc_service *service,
                         replog_error *err);
void routes_sort(struct rpc_routes *routes);
const struct rpc_route *routes_find(const struct rpc_routes *routes, const uint8_t *path,
                                    size_t size_bytes);
void routes_free(struct rpc_routes *routes);
/* The route's handlers.message for methods with a stub. */
void stub_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes);

/* ---- Connections (conn.c, frames.c, session.c) ---------------------------------------------- */

enum conn_state { CONN_WAITING, CONN_DIALLING, CONN_OPEN, CONN_DEAD };

/* One note: bytes of a DATA frame, or (size 0, last) the end of the peer's messages. */
struct rpc_input {
    struct rpc_call *call;
    const uint8_t *data;
    uint32_t size_bytes;
    bool last;
};

struct rpc_conn_limits {
    size_t send_queue_bytes;
    uint64_t max_bytes;      /* undelivered, of this connection */
    _Atomic uint64_t *total; /* undelivered, of all; NULL: not counted */
    uint64_t max_total;
    uint32_t max_streams, handshake_ms, keepalive_ms;
};

/* Where a server stands in what a client sends (frames.c). */
struct rpc_frames {
    uint32_t left;           /* bytes up to the next header: of the preface, or of a payload */
    uint32_t highest_stream; /* of which HEADERS came */
    uint8_t head[9], n_head; /* of a header that came in part: not given to nghttp2 yet */
    bool dropping;           /* `left` bytes are thrown away */
    bool strict; /* the first frame, or one within a block of headers: nothing is dropped there */
};

struct rpc_conn {
    _Atomic uint32_t refs;
    pthread_mutex_t mu;
    pthread_cond_t quiet;      /* nobody is delivering (only after death) */
    struct rpc_server *server; /* one of the two */
    struct rpc_channel *channel;
    struct rpc_conn_limits limits;
    char peer[280];

    _Atomic int state; /* written under mu */
    nng_stream *stream;
    nng_stream_dialer *dialer;
    nng_aio *rx, *tx, *dial;
    nng_aio *rx_now; /* without a callback: receives what is there */
    nng_aio *tx_now; /* without a callback: sends what the socket takes at once */
    nghttp2_session *session;
    struct rpc_frames frames; /* server */

    uint8_t *rx_bytes;
    size_t rx_capacity;
    bool rx_waiting; /* received bytes are being worked off; the receive is not armed */
    int fd;          /* of the stream, watched by poll.c; -1: nng's poller waits for bytes */
    bool readable;   /* bytes are there */
    bool hung_up;    /* and behind them the end */
    bool rx_full;    /* the last receive filled the buffer */
    struct rpc_tx sending;
    bool tx_busy;
    uint64_t sent_ns; /* when the last send began */

    struct rpc_call *calls;
    size_t n_calls;
    struct rpc_input *inputs, *inputs_spare;
    size_t n_inputs, inputs_capacity, inputs_spare_capacity;
    struct rpc_call *ready, *ready_tail;
    bool delivering, kicked;

    /* The header block that is being read; blocks never interleave. */
    struct {
        size_t bytes;
        char path[256];
        bool has_path, post, bad_type, bad_timeout;
        uint64_t timeout_ms;
    } head;

    bool draining, goaway_seen;
    bool unsaid; /* nghttp2 had no memory for what must be sent: the connection ends instead */
    _Atomic bool retired; /* a client's connection that takes no more calls */
    _Atomic bool spoke;   /* the peer's SETTINGS came */
    bool ping_out;
    uint64_t last_rx_ms, ping_at_ms, handshake_due_ms, dial_at_ms, close_at_ms;
    uint64_t flood_tokens, flood_at_ms;
    char why[160];             /* the reason of a failure inside an nghttp2 callback */
    _Atomic uint64_t buffered; /* undelivered bytes of its calls */
    _Atomic uint64_t due_ms;   /* when conn_tick wants to run; see loop.c */

    struct rpc_conn *owner_prev, *owner_next, *owner_visit; /* the server's or channel's list */
    struct rpc_conn *loop_prev, *loop_next, *visit;         /* loop.c's */
    struct rpc_conn *kick_next, *reap_next;
};

/* `server` or `channel` is set by the caller, with `stream` (server) or the dialler's address
 * (client). Two references: the reaper's and the caller's. NULL when memory is short. */
struct rpc_conn *conn_new(bool is_server, const struct rpc_conn_limits *limits);
void conn_discard(struct rpc_conn *conn); /* one that was never started: both references */
void conn_ref(struct rpc_conn *conn);
/* Bytes are there, or (hung_up) the end is. From poll.c's threads. */
void conn_readable(struct rpc_conn *conn, bool hung_up);
void conn_unref(struct rpc_conn *conn);
/* Starts to serve a stream that was accepted. Takes the stream. */
void conn_start_accepted(struct rpc_conn *conn, nng_stream *stream);
/* Dials at dial_at_ms. Locked. */
void conn_start_dialling(struct rpc_conn *conn);
/* Ends the connection: every open call closes with `status`, the reaper does the rest. Locked. */
void conn_fail(struct rpc_conn *conn, replog_status status, const char *text);
/* Works off the notes, sends, and arms the receive, unless another thread is at it. Locked;
 * unlocks while callbacks run. Not from a user's call. */
void conn_run(struct rpc_conn *conn);
/* After a user's call: sends at once; notes are left to a thread of this module. Locked. */
void conn_flush(struct rpc_conn *conn);
/* Notes are there that must be delivered soon. Locked. */
void conn_wake(struct rpc_conn *conn);
void conn_tick(struct rpc_conn *conn, uint64_t now_ms);
/* Wants conn_tick at t at the latest. Locked. */
void conn_due(struct rpc_conn *conn, uint64_t at_ms);
/* GOAWAY; closes when the calls are done and the peer has hung up, or at linger's end. Locked. */
void conn_drain(struct rpc_conn *conn);
/* The reaper's part: stops nng's operations, waits for callbacks, frees what the transport held. */
void conn_reap(struct rpc_conn *conn);
void conn_note_ready(struct rpc_conn *conn, struct rpc_call *call, uint8_t flags);
bool conn_note_input(struct rpc_conn *conn, struct rpc_call *call, const uint8_t *data,
                     size_t size_bytes, bool last);

void frames_begin(struct rpc_frames *frames);
/* Gives what a server received to nghttp2, but for RST_STREAM of streams that were never opened.
 * nghttp2's error code. Locked. */
int frames_give(struct rpc_conn *conn, const uint8_t *bytes, size_t n);

/* An nghttp2 session with our callbacks, settings and windows; NULL when memory is short. */
nghttp2_session *session_new(struct rpc_conn *conn, bool is_server);
/* Submits the request of a client's call. nghttp2's error code. Locked. */
int session_request(struct rpc_call *call, const char *path, uint32_t timeout_ms);
/* Starts or continues the sending of a call's queue. Locked. */
void session_send_queue(struct rpc_call *call);
void session_reset(struct rpc_call *call, uint32_t error_code);
/* For a frame that brings nothing; false (and `why`): it came once too often. Locked. */
bool session_flood_token(struct rpc_conn *conn);

/* ---- Calls (call.c, input.c) ---------------------------------------------------------------- */

enum { READY_RESUME = 1, READY_WRITABLE = 2, READY_CLOSED = 4 };

struct rpc_metadata {
    char *name, *value;
};

struct rpc_call {
    _Atomic uint32_t refs;
    struct rpc_conn *conn; /* never changes; holds a reference */
    bool is_server;
    const struct rpc_route *route; /* server */
    struct rpc_handlers handlers;
    void *user;
    uint64_t deadline_ms;
    struct rpc_metadata metadata[METADATA_MAX];
    uint32_t n_metadata;

    /* Read from any thread. */
    _Atomic bool open;       /* rpc_send and rpc_finish have an effect */
    _Atomic bool drop_input; /* nothing more is delivered but closed */
    _Atomic uint32_t paused;
    _Atomic size_t queued_bytes;

    /* Under conn->mu. */
    struct rpc_call *prev, *next;
    bool listed;
    int32_t stream_id;
    bool stream_open;    /* nghttp2 knows the stream */
    bool response_begun; /* server: headers submitted */
    bool deferred;       /* nghttp2 waits for session_send_queue */
    bool fin;            /* nothing more is queued: trailers (server) or END_STREAM follow */
    bool trailers_done;  /* server: they were sent */
    bool was_full;       /* `writable` is owed */
    bool stalled;        /* input waits: paused, or the reply queue is full */
    bool close_noted, close_stalled, closed_done;
    struct rpc_out *out_head, *out_tail;
    struct rpc_frame_plan plan;
    struct rpc_call *ready_next;
    uint8_t ready_flags;
    /* Server: what rpc_finish said. Client: what the peer said. */
    replog_status status;
    bool has_status;
    int http_status;
    char *text;
    char *extra_name, *extra_value;
    /* What `closed` will say. */
    replog_status close_status;
    char *close_text;
    replog_status overtaken_by; /* not OK: the user gave up before it was told */

    /* Of the thread that delivers. */
    uint8_t *pending; /* bytes that are not delivered yet: [pending_at, pending_size) */
    size_t pending_at, pending_size, pending_capacity;
    size_t held_bytes;   /* received and not given back to the stream's window */
    size_t credit_bytes; /* to be given back */
    uint32_t n_messages;
    bool held_up; /* delivery stopped because the call is blocked; see `stalled` */
    bool end_seen, end_done, user_knows;
};

/* One reference, the list's; in the list. Locked. */
struct rpc_call *call_new(struct rpc_conn *conn, bool is_server);
/* Notes the outcome for `closed`; `abort` drops what is not delivered. Locked. */
void call_close(struct rpc_call *call, replog_status status, const char *text, bool abort);
/* Client: resets the stream; an outcome that is not delivered yet gives way. Locked. */
void call_give_up(struct rpc_call *call, replog_status status, const char *text);
/* Server: the module itself ends the call with trailers; `closed` gets close_status. Locked. */
void call_abort(struct rpc_call *call, replog_status status, const char *text,
                replog_status close_status);
/* Server: rpc_finish with the lock held. */
void call_finish(struct rpc_call *call, replog_status status, const char *text, const char *name,
                 const char *value);
/* Puts a message behind the others; session_send_queue starts the sending. Locked. */
void call_queue(struct rpc_call *call, struct rpc_out *out);
/* Whether this thread is in rpc_batch_end. */
bool call_batch_ends(void);
void call_drop_queue(struct rpc_call *call);
/* After bytes of the queue went to the network. Locked. */
void call_sent(struct rpc_call *call, size_t size_bytes);
/* Leaves the connection's list when nothing needs it any more. Locked. */
void call_unlist_if_done(struct rpc_call *call);
bool call_keep_metadata(struct rpc_call *call, const uint8_t *name, size_t name_size,
                        const uint8_t *value, size_t value_size);
/* Delivery; unlocked, on the delivering thread. */
void input_deliver(const struct rpc_input *input);
void input_resume(struct rpc_call *call);
void input_closed(struct rpc_call *call);
void input_drop(struct rpc_call *call);

/* ---- Waiting for bytes (poll.c) ------------------------------------------------------------- */

/* From now on conn_readable is called when something has come on the connection's stream: edge-
 * triggered, so the first time perhaps at once. The stream's descriptor, for poll_forget; -1: it is
 * not watched. Locked. */
int poll_watch(struct rpc_conn *conn);
void poll_again(int fd); /* tells once more of what is there, behind other connections. Locked. */
void poll_forget(const struct rpc_conn *conn, int fd); /* before the stream is closed; not locked */
void poll_off(bool off);                               /* for tests: watches nothing new */

/* ---- The module's own threads (loop.c) ------------------------------------------------------ */

/* Starts them once; false when the system has no threads left. */
bool loop_start(void);
void loop_add(struct rpc_conn *conn); /* conn_tick from now on */
void loop_remove(struct rpc_conn *conn);
void loop_wake_at(uint64_t at_ms);
void loop_kick(struct rpc_conn *conn); /* conn_run soon; locked */
void loop_reap(struct rpc_conn *conn); /* conn_reap; takes the reaper's reference */

/* ---- gRPC's text forms (text.c) ------------------------------------------------------------- */

enum { TIMEOUT_TEXT_BYTES = 16, STATUS_TEXT_MAX = 1024 };
/* "100m" and the like; false when malformed. Saturates. */
bool timeout_parse(const uint8_t *text, size_t size_bytes, uint64_t *timeout_ms);
void timeout_format(uint32_t timeout_ms, char text[TIMEOUT_TEXT_BYTES]);
/* Percent encoding of grpc-message; malloc'd, NULL when memory is short. */
char *message_encode(const char *text);
char *message_decode(const uint8_t *text, size_t size_bytes);
replog_status status_of_http(int http_status);
replog_status status_of_h2_error(uint32_t error_code);
/* "HOST:PORT" or "[V6]:PORT" to "tcp://..."; false when malformed. */
bool address_url(const char *address, char *url, size_t url_size);
void address_of_stream(nng_stream *stream, char *text, size_t size_bytes);

/* ---- Owners (server.c, channel.c) ----------------------------------------------------------- */

/* From the reaper: the connection is gone. */
void server_conn_gone(struct rpc_server *server, struct rpc_conn *conn);
void channel_conn_gone(struct rpc_channel *channel, struct rpc_conn *conn);
const struct rpc_routes *server_routes(const struct rpc_server *server);
enum server_count { COUNT_CALL_OPEN, COUNT_CALL_DONE, COUNT_IN, COUNT_OUT, COUNT_PROTOCOL_ERROR };
void server_count(struct rpc_server *server, enum server_count what, uint64_t n);
void server_delivered(struct rpc_server *server);

/* ---- Built-in services (health.c, reflection.c) --------------------------------------------- */

struct rpc_health;
struct rpc_health *health_new(const struct rpc_service *services, size_t n_services,
                              struct rpc_service *service);
void health_set(struct rpc_health *health, bool serving);
/* Not serving any more: tells those who watch, and ends their calls. */
void health_end(struct rpc_health *health);
void health_free(struct rpc_health *health);

struct rpc_reflection;
/* Fills both services (v1 and v1alpha). */
struct rpc_reflection *reflection_new(const struct rpc_service *services, size_t n_services,
                                      const struct slice *files, size_t n_files,
                                      struct rpc_service out[2]);
void reflection_free(struct rpc_reflection *reflection);

#endif

/* rpc.h: gRPC over nng streams: servers, channels and calls. Clients and peers use the same stack.
 * Hides: nng, nghttp2, HTTP/2, gRPC's framing, deadlines, keepalive, flow control and its budgets.
 *
 * Threads. Every function here may be called from any thread unless it says otherwise. Callbacks
 * run on nng's or this module's threads, never inside a call of a function here: they must not
 * block (they queue work and return; all calls of one connection wait for them); for one call they
 * never run two at a time, and in the order message*, end, closed. A callback may call any function
 * on its own or another call, and may hold locks of its own that are also held around calls of
 * functions here: no lock of this module is held while a callback runs. (rpc_channel_close,
 * rpc_unary and rpc_server_drain wait for callbacks: hold no such lock around those.)
 *
 * Calls are counted. A callback may use its call without holding a reference; whoever keeps it for
 * later takes one with rpc_call_ref. After the call is over every function on it is a harmless
 * no-op that says so. */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "replog/status.h"

struct rpc_call;

enum {
    RPC_MAX_MESSAGE_BYTES = 4 * 1024 * 1024 + 65536 /* larger ones: RESOURCE_EXHAUSTED */
};

/* ---- Calls, both sides ---------------------------------------------------------------------- */

struct rpc_handlers {
    /* One whole message. The bytes hold during the callback. */
    void (*message)(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes);
    /* Server: the client will send no more. Client: never called. May be NULL. */
    void (*end)(struct rpc_call *call);
    /* The send queue fell below half its bound after rpc_send had said RESOURCE_EXHAUSTED. May be
     * NULL. */
    void (*writable)(struct rpc_call *call);
    /* The last callback, exactly once: finished, cancelled, deadline passed or connection lost. For
     * a client `status` and `text` are the outcome; for a server OK after rpc_finish, CANCELLED,
     * DEADLINE_EXCEEDED or UNAVAILABLE otherwise. A server's call that ends before `message` or
     * `end` was called for it ends without `closed` too: nobody has heard of it. A client's outcome
     * waits behind messages that a pause holds back, unless the call is cancelled, runs out of time
     * or loses its connection: those drop what was not delivered. May be NULL. */
    void (*closed)(struct rpc_call *call, replog_status status, const char *text);
};

struct rpc_call *rpc_call_ref(struct rpc_call *call);
void rpc_call_unref(struct rpc_call *call);

/* A pointer that belongs to the user of the call. Set it in the first callback (server) or pass it
 * to rpc_start (client); not locked. */
void rpc_call_set_user(struct rpc_call *call, void *user);
void *rpc_call_user(const struct rpc_call *call);

/* Milliseconds on clock_mono_ms() at which the call's deadline passes; UINT64_MAX: none. */
uint64_t rpc_call_deadline_ms(const struct rpc_call *call);
bool rpc_call_is_open(const struct rpc_call *call);
/* "HOST:PORT" of the other side, for logs; holds as long as the call. */
const char *rpc_call_peer(const struct rpc_call *call);
/* Value of a header (server: request metadata; client: trailing metadata, within closed). NULL when
 * absent or not kept; only names that begin with "replog-" are kept. Holds as long as the call. */
const char *rpc_call_metadata(const struct rpc_call *call, const char *name);

/* One piece of a message: `data` lies in `owner` (which is referenced until the bytes are sent), or
 * owner is NULL and the bytes are copied. */
struct rpc_piece {
    const void *data;
    size_t size_bytes;
    struct blob *owner;
};
/* Queues one message made of n pieces (at most 64). It is always queued while the call is open:
 * OK, or RESOURCE_EXHAUSTED when the call's send queue has now reached its bound (stop until
 * `writable`), or CANCELLED when the call is over (nothing queued; running out of memory ends the
 * call, on both sides, with UNAVAILABLE: what it had done or sent before stands). A server's unary
 * answer leaves with its rpc_finish. While a server's call has a full queue no more messages are
 * delivered to it. */
replog_status rpc_send(struct rpc_call *call, const struct rpc_piece *pieces, size_t n);
/* The same for a protobuf-c message. */
replog_status rpc_send_message(struct rpc_call *call, const ProtobufCMessage *message);
/* Bytes queued on the call and not yet handed to the network. */
size_t rpc_queued_bytes(struct rpc_call *call);

/* Between the two, what this thread sends and finishes is gathered, and each connection sends once,
 * at the end: for a thread that answers many calls in a row. Not nested; nothing in between may
 * block. */
void rpc_batch_begin(void);
void rpc_batch_end(void);

/* Server: ends the call with a status, behind what was sent. `text` may be NULL. */
void rpc_finish(struct rpc_call *call, replog_status status, const char *text);
/* The same with one more trailing metadata entry (name lower case, "replog-..."). */
void rpc_finish_with(struct rpc_call *call, replog_status status, const char *text,
                     const char *name, const char *value);
/* Client: no more messages from this side. */
void rpc_end(struct rpc_call *call);
/* Client: gives up (RST_STREAM); `closed` comes with CANCELLED. Server: as rpc_finish(CANCELLED).
 */
void rpc_cancel(struct rpc_call *call);

/* Stops, and lets go on, the delivery of messages to this call: flow control then holds the sender
 * back. Counted: every pause needs its resume. Takes effect after the message in hand. */
void rpc_pause(struct rpc_call *call);
void rpc_resume(struct rpc_call *call);

/* ---- Server --------------------------------------------------------------------------------- */

/* One method. Unary methods and streams are served alike: `message` is called for each request
 * message; a unary or server-streaming call that does not bring exactly one gets INTERNAL before
 * any handler runs; the handler answers with rpc_send... and rpc_finish. */
struct rpc_method {
    const char *name;                  /* as in the service's descriptor: "AppendStream" */
    bool client_stream, server_stream; /* protobuf-c loses the word `stream`; say it here */
    struct rpc_handlers handlers;
};
/* A service: its descriptor (for names, and for reflection) and its methods. A method of the
 * descriptor that is not listed is UNIMPLEMENTED. `user` is what rpc_call_user gives in the first
 * callback of each call. Borrowed for the server's life. */
struct rpc_service {
    const ProtobufCServiceDescriptor *descriptor;
    const struct rpc_method *methods;
    size_t n_methods;
    void *user;
    /* The generated stub of the same service, or NULL: methods that are not in `methods` but in
     * the stub are served through it as unary calls: closure_data is the struct rpc_call *, and
     * calling the closure sends the reply and finishes OK; a handler that must fail calls
     * rpc_finish on it instead. The request holds during the handler only; who answers later keeps
     * the call with rpc_call_ref. */
    ProtobufCService *stub;
};

struct rpc_server_options {
    const char *listen;            /* "HOST:PORT" */
    uint32_t max_connections;      /* 0: 256; more are closed at accept */
    uint32_t max_streams;          /* concurrent calls of one connection; 0: 1024 */
    uint64_t max_connection_bytes; /* undelivered request bytes of one connection; 0: 16 MiB */
    uint64_t max_total_bytes;      /* of all; 0: 32 MiB */
    size_t send_queue_bytes;       /* of one call; 0: 1 MiB */
    uint32_t handshake_ms;         /* preface and SETTINGS must be there by then; 0: 3000 */
    uint32_t keepalive_ms; /* PING after so much silence, closed after as much again; 0: 10000 */
    /* After each bunch of callbacks that one read of a connection brought, on the same thread; may
     * send and finish, must not block. NULL: nothing. */
    void (*delivered)(void *user);
    void *user;
    /* For reflection: serialised FileDescriptorSets, as in the generated NAME.desc.h
     * (NAME_descriptor_set). Borrowed for the server's life. */
    const struct slice *descriptor_files;
    size_t n_descriptor_files;
};
struct rpc_server;
/* Listens and serves. grpc.health.v1.Health and server reflection (v1alpha and v1) are added to the
 * services given. UNAVAILABLE (address in use: names it), INVALID_ARGUMENT (address). */
replog_status rpc_server_start(const struct rpc_server_options *options,
                               const struct rpc_service *services, size_t n_services,
                               struct rpc_server **server, replog_error *err);
/* The port that the server listens on (of use when `listen` says port 0: any). */
uint16_t rpc_server_port(const struct rpc_server *server);
/* Health as Check and Watch tell it: of "" and of every service name given. */
void rpc_server_set_serving(struct rpc_server *server, bool serving);
/* Health tells NOT_SERVING and ends its watchers; stops accepting, sends GOAWAY, waits until calls
 * are done and peers have hung up or timeout_ms passed, closes. Not from a callback. The process is
 * expected to end soon after (_exit); memory is not returned. */
void rpc_server_drain(struct rpc_server *server, uint32_t timeout_ms);

struct rpc_stats {
    uint64_t connections, connections_refused, calls_open, calls_total, bytes_in, bytes_out,
        buffered_bytes, protocol_errors;
};
void rpc_server_stats(struct rpc_server *server, struct rpc_stats *stats);

/* ---- Client --------------------------------------------------------------------------------- */

/* A channel speaks to one address. It connects when a call is started and it is not connected, at
 * most once per backoff (50 ms doubling to 1 s, with jitter; reset by success); calls that wait for
 * a connection fail with UNAVAILABLE when the attempt does. */
struct rpc_channel;
struct rpc_channel_options {
    const char *address;     /* "HOST:PORT" */
    uint32_t connect_ms;     /* 0: 2000 */
    uint32_t keepalive_ms;   /* 0: 10000 */
    size_t send_queue_bytes; /* of one call; 0: 1 MiB */
};
replog_status rpc_channel_open(const struct rpc_channel_options *options,
                               struct rpc_channel **channel, replog_error *err);
/* Every call still open is closed with CANCELLED; returns when all `closed` callbacks have run and
 * the channel's memory is released. Not from a callback. NULL is ignored. */
void rpc_channel_close(struct rpc_channel *channel);
const char *rpc_channel_address(const struct rpc_channel *channel);
bool rpc_channel_connected(const struct rpc_channel *channel);

/* Starts a call. `path` is "/package.Service/Method". timeout_ms: 0 means no deadline. The call is
 * returned with a reference of the caller's, or NULL when memory is short. All failures come
 * through `closed`. The handlers are copied. */
struct rpc_call *rpc_start(struct rpc_channel *channel, const char *path, uint32_t timeout_ms,
                           const struct rpc_handlers *handlers, void *user);

/* One unary call, waiting for its answer. On OK *reply (when not NULL) is an unpacked message of
 * the method's output type, freed with protobuf_c_message_free_unpacked. `leader` (may be NULL,
 * else 300 bytes) gets the trailing "replog-leader" metadata, or "". Not from a callback. */
replog_status rpc_unary(struct rpc_channel *channel, const ProtobufCServiceDescriptor *service,
                        const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
                        ProtobufCMessage **reply, char *leader, replog_error *err);

/* ---- Hostile bytes --------------------------------------------------------------------------- */

/* Unpacks with a budget on memory: 1 MiB of hostile input must not become 71 MB. NULL when
 * malformed or over budget_bytes (errno is EBADMSG), or when memory is short (ENOMEM). Freed with
 * protobuf_c_message_free_unpacked(message, NULL). */
ProtobufCMessage *rpc_unpack(const ProtobufCMessageDescriptor *descriptor, const uint8_t *bytes,
                             size_t size_bytes, size_t budget_bytes);

/* A reader of protobuf fields that points into the bytes: for the messages on the hot path
 * (AppendRequest, PeerMessage), which protobuf-c would copy piece by piece. */
struct pb_reader {
    const uint8_t *data, *end;
    bool failed;
};
struct pb_field {
    uint32_t number, wire_type; /* 0 varint, 1 64-bit, 2 bytes, 5 32-bit */
    uint64_t value;             /* varint and fixed */
    struct slice bytes;         /* wire type 2 */
};
/* false at the end or when malformed (then failed is set). */
bool pb_next(struct pb_reader *r, struct pb_field *field);

/* Hot-path writing: appends one field to a buffer. */
void pb_put_varint(struct buffer *b, uint32_t number, uint64_t value);  /* 0 is left out */
void pb_put_fixed64(struct buffer *b, uint32_t number, uint64_t value); /* 0 is left out */
void pb_put_bytes(struct buffer *b, uint32_t number, const void *data, size_t size_bytes);
/* Key and length of a bytes field whose content is sent as a piece of its own behind it. */
void pb_put_bytes_header(struct buffer *b, uint32_t number, size_t size_bytes);

#endif

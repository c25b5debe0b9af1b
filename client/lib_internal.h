/* lib_internal.h: the inside of libreplog. Hides from programs: endpoints and their channels, calls
 * under way, the lanes of appends, the worker thread.
 *
 * Locks. client->mu guards everything below that does not say otherwise. rpc's callbacks run on
 * threads that must not block: they take the lock, note what came, and wake the worker, except that
 * the callbacks of appends run right there when no other thread runs any (a hand-over less on the
 * way of every append; several answers that came together cost the worker nothing). rpc_start
 * and rpc_cancel are called without the lock, rpc_send with it (that keeps appends in order).
 * Functions whose name ends in _locked want the lock held.
 *
 * Lanes. A lane is a queue of appends with a session of its own:
 *
 *     head ......... reply ......... cursor ......... tail
 *       answered,      sent on the     not sent on the
 *       callback due   current call    current call
 *
 * The first lane sends over an AppendStream. The second is for ACK ALL: unary Append calls with a
 * deadline, one at a time, so that a member that is away holds up nothing else and the server's
 * sentence ("committed, not on 3") comes back.
 * Numbers are given when an append is sent: `base` is the number of the first unanswered numbered
 * append, the rest follow. What was sent on a call that ended without a definite refusal is
 * `maybe` in the log: it keeps its place, and so its number, until its outcome is known, even when
 * its caller was told DEADLINE_EXCEEDED. What is `maybe` is always a prefix of the lane's numbered
 * appends. */
#ifndef CLIENT_LIB_INTERNAL_H
#define CLIENT_LIB_INTERNAL_H

#include <pthread.h>

#include "base/bytes.h"
#include "replog.pb-c.h"
#include "replog/client.h"
#include "rpc/rpc.h"

enum {
    CLIENT_MAX_ENDPOINTS = 15,
    CLIENT_MAX_ADDRESS = 255,
    CLIENT_TIMEOUT_MS = 10000,
    CLIENT_WINDOW = 256,
    CLIENT_WINDOW_BYTES = 16 * 1024 * 1024,
    CLIENT_SEND_QUEUE_BYTES = 4 * 1024 * 1024, /* of one call */
    CLIENT_KEEPALIVE_MS = 1000,                /* a stopped node is noticed after twice this */
    CLIENT_CONNECT_MS = 1000,
    CLIENT_AVOID_MS = 1000, /* an endpoint that could not be reached is tried last so long */
    CLIENT_BACKOFF_MIN_MS = 20,
    CLIENT_BACKOFF_MAX_MS = 500,
    CLIENT_LAST_MOMENT_MS = 100, /* before its deadline, a refused append is not tried again */
    CLIENT_MAX_HOPS = 3,         /* redirections followed at once, without an answer between */
    CLIENT_MAX_RESETS = 3,       /* sessions in a row that the cluster forgot */
    CLIENT_OPEN_MS = 5000,       /* one attempt at OpenSession or leader discovery */
    CLIENT_REPLY_BUDGET = 16 * 1024 * 1024 /* memory of one unpacked reply */
};

/* ---- Endpoints (lib_cluster.c) */
struct client_endpoint {
    char address[CLIENT_MAX_ADDRESS + 1];
    struct rpc_channel *channel; /* made at first use, closed with the client */
    uint64_t avoid_until_ms;
};

struct client_backoff {
    uint32_t ms; /* 0: the first failure */
};

/* ---- One RPC under way (lib_call.c) */
enum client_call_kind {
    CALL_UNARY,    /* of a caller's thread */
    CALL_OPEN,     /* a lane's OpenSession */
    CALL_DISCOVER, /* a lane's Status: who leads? */
    CALL_STREAM,   /* a lane's AppendStream */
    CALL_APPEND    /* a lane's unary Append */
};
struct client_lane;
struct client_call {
    replog_client *client;
    struct client_lane *lane; /* NULL: CALL_UNARY */
    enum client_call_kind kind;
    unsigned refs; /* the owner, and rpc until `closed` came */
    int endpoint;
    struct rpc_call *rpc;
    bool blocked; /* the send queue is full */
    bool closed;
    struct blob *reply; /* the last message, not of a stream */
    bool no_memory;     /* for it */
    replog_status status;
    char text[400];
    char leader[300];
};

/* ---- Appends (lib_lane.c, lib_stream.c) */
struct client_wait { /* a thread in replog_append */
    pthread_cond_t cond;
    bool done;
    replog_status status;
    replog_append_result result;
    replog_error error;
};

struct client_append {
    replog_append_fn fn; /* NULL with `wait` */
    void *user;
    struct client_wait *wait;
    struct blob *records; /* the encoded `records` fields of an AppendRequest */
    char *text;           /* why it failed; owned */
    uint64_t deadline_ms, sequence;
    uint32_t timeout_ms;
    replog_ack ack;
    replog_status status;
    bool batch;
    bool numbered; /* exactly once: may be repeated */
    bool done;     /* status and result (or text) are there */
    bool answered; /* the caller was told already */
    bool maybe;    /* may stand in the log */
    bool full;     /* refused with RESOURCE_EXHAUSTED at the last attempt */
    bool dropped;  /* never to be sent; takes no number */
    replog_append_result result;
};

struct client_lane {
    replog_client *client;
    bool unary;
    struct client_append *ring; /* `capacity` slots, a power of two */
    uint64_t head, reply, cursor, tail;
    uint64_t session, base, next_sequence;
    struct client_call *call;
    struct client_backoff backoff;
    uint64_t retry_at_ms;
    unsigned hops, resets;
};

struct replog_client {
    pthread_mutex_t mu;
    pthread_cond_t work;    /* for the worker */
    pthread_cond_t room;    /* for threads that wait for a place in the window */
    pthread_cond_t changed; /* for other threads: a call has ended, nothing in flight, closing */
    pthread_t worker;
    bool woken; /* there is work since the worker last looked */
    bool stopping;
    bool delivering;     /* callbacks run: by `deliverer`, without the lock */
    bool worker_held_up; /* it found them running, and wants to look again */
    pthread_t deliverer;
    unsigned callers; /* threads inside the library */
    unsigned room_waiters;

    uint32_t timeout_ms, window;
    uint64_t window_bytes;
    bool no_session;

    struct client_endpoint endpoints[CLIENT_MAX_ENDPOINTS];
    int n_endpoints, next_endpoint;
    int leader;       /* the best guess; -1: none */
    bool leader_sure; /* it said so itself, and no call to it has failed since */
    uint64_t rng;
    replog_status last_failure_status;
    char last_failure[480]; /* for the sentence of a DEADLINE_EXCEEDED */

    struct client_lane lanes[2];
    uint32_t capacity;   /* slots of each ring */
    uint32_t in_flight;  /* places of the window that are taken */
    uint32_t unanswered; /* appends whose callback has not returned */
    uint64_t in_flight_bytes;
    uint64_t next_expiry_ms; /* no deadline passes before */
    struct buffer header;    /* of the AppendRequest being sent */
};

/* Fills c->endpoints. INVALID_ARGUMENT. */
replog_status client_endpoints_parse(replog_client *c, const char *list, replog_error *err);
/* HOST:PORT or [V6]:PORT, at most CLIENT_MAX_ADDRESS bytes. */
bool client_address_valid(const char *address);
/* The index of that address, added when there is room; -1 otherwise. */
int client_endpoint_find_locked(replog_client *c, const char *address);
/* Where to try next: the leader, else the endpoints in turn, those that failed just now last. */
int client_endpoint_pick_locked(replog_client *c);
/* The endpoints in turn, the leader not preferred; never `but`, if there is another. */
int client_endpoint_other_locked(replog_client *c, int but);
/* The channel, made at first use; NULL (with a sentence) when memory is short. */
struct rpc_channel *client_channel_locked(replog_client *c, int endpoint, replog_error *err);
/* A call has failed: remembers why, forgets or learns the leader. True: go there at once. */
bool client_endpoint_failed_locked(replog_client *c, const struct client_call *call);
uint32_t client_backoff_locked(replog_client *c, struct client_backoff *b);

/* Starts a call and, when there is a `request`, sends it and ends this side. Without the lock.
 * NULL: memory is short. Released with client_call_release_locked. */
struct client_call *client_call_start(replog_client *c, struct client_lane *lane,
                                      enum client_call_kind kind, int endpoint, const char *method,
                                      uint32_t timeout_ms, const ProtobufCMessage *request);
void client_call_release_locked(struct client_call *call);
/* A unary call with retries until the deadline, for a caller's thread. On OK *reply is to be freed
 * with protobuf_c_message_free_unpacked. `anywhere`: any node can answer it. */
replog_status client_unary(replog_client *c, const char *method, const ProtobufCMessage *request,
                           const ProtobufCMessageDescriptor *reply_type, uint32_t timeout_ms,
                           bool anywhere, ProtobufCMessage **reply, replog_error *err);
void client_leave_locked(replog_client *c); /* callers-- */

struct blob *client_batch_encode(const replog_batch *batch);

/* The slot of a position. */
static inline struct client_append *client_slot(const struct client_lane *lane, uint64_t position) {
    return &lane->ring[position & (lane->client->capacity - 1)];
}
static inline bool client_settled(const struct client_append *a) {
    return a->done || a->dropped;
}

/* lib_lane.c: what happens to appends whatever sends them. */
struct client_append *client_lane_push_locked(struct client_lane *lane);
/* Ends one append with a failure; its callback comes when it is delivered. */
void client_append_fail(struct client_append *a, replog_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Delivers what threads in replog_append wait for and no callback stands before. From any thread.
 */
void client_lane_pop_waits_locked(struct client_lane *lane);
/* Delivers what is answered (or what is overdue), with the lock released around callbacks. True: a
 * callback ran, so look again. False as well while another thread runs callbacks: they come one at
 * a time; the worker, which alone calls these two, is then woken when that thread is through. */
bool client_deliver_locked(replog_client *c);
bool client_expire_locked(replog_client *c, uint64_t now_ms);
/* Delivers all that is answered, from rpc's thread, unless another thread is at it. */
void client_deliver_here_locked(replog_client *c);
/* FAILED_PRECONDITION from a callback of this client, which must not wait: it may run on the thread
 * that would bring what it waits for. */
replog_status client_may_wait_locked(replog_client *c, const char *what, replog_error *err);
/* Fails everything with CANCELLED. The worker's last act. */
void client_cancel_all_locked(replog_client *c);

/* lib_stream.c: sending. */
void client_pump_locked(struct client_lane *lane);
/* One step of the lane's state: ends, starts, sends. May release the lock. The time at which it
 * wants the next one; UINT64_MAX: when something happens. */
uint64_t client_lane_step_locked(struct client_lane *lane, uint64_t now_ms);
/* From rpc's thread. */
void client_stream_message_locked(struct client_call *call, const uint8_t *bytes,
                                  size_t size_bytes);

void client_wake_locked(replog_client *c);
void client_cond_init(pthread_cond_t *cond);
/* False when deadline_ms (clock_mono_ms) has passed; UINT64_MAX: no deadline. */
bool client_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t deadline_ms);
uint64_t client_now_ms(void);

#endif

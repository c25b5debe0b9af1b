/* server.h: replogd's one object and the ways between its threads. main.c and the threads' own
 * files include it; nothing outside server/ does.
 *
 *   rpc callbacks --events--> node thread --jobs--> wal thread, apply thread, reader pool, peers
 *                                  ^------events (done)-------------'
 * Whoever turns `node` holds its lock: the node thread, or a thread that brings it events and helps
 * (node_thread.c). "In a turn" means with that lock. Others see `view`, a copy of its snapshot.
 * Hides: how events travel and how requests get their answers. */
#ifndef SERVER_SERVER_H
#define SERVER_SERVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "node/node.h"
#include "rpc/rpc.h"
#include "server/options.h"
#include "server/queue.h"
#include "server/stats.h"
#include "store/store.h"
#include "wal/log.h"

struct fill_thread;
struct wal_thread;
struct apply_thread;
struct reader_pool;
struct peers;
struct appends;
struct reads;
struct http;
struct node_loop;

/* What stands behind rpc_call_user: the server itself in a call's first callback, then what the
 * handler of that call put there. */
enum user_kind { USER_SERVER, USER_OF_CALL };

struct server {
    enum user_kind kind; /* first: USER_SERVER */
    struct options options;
    const struct disk *disk;
    struct wal *wal;
    struct store *store;
    struct applier *applier;
    struct node *node; /* with the node loop's lock */
    struct rpc_server *rpc;

    struct queue events; /* of struct event */
    struct node_loop *node_loop;
    pthread_t node_thread;
    atomic_bool node_running;

    struct fill_thread *fill_thread;
    struct wal_thread *wal_thread;
    struct apply_thread *apply_thread;
    struct reader_pool *readers;
    struct peers *peers;
    struct appends *appends;
    struct reads *reads;
    struct http *http;

    pthread_mutex_t view_lock;
    struct node_snapshot view;
    /* From the view, without its lock. readable_seq: committed, and durable here. */
    _Atomic uint64_t readable_seq, first_seq;
    atomic_bool cut_off;  /* as in the view */
    atomic_bool draining; /* new work is refused, streams are being ended */
    atomic_bool damaged;  /* the scrub found rot */
    struct stats stats;
};

/* ---- Events for the node thread */

struct event {
    struct queue_item link;
    struct node_event ev;
    struct peer_msg msg; /* where ev.msg points, if it does */
    char *text;          /* where ev.text points; freed with the event */
    bool embedded;       /* in something larger, which outlives it */
};
/* NULL when memory is short. Its references (append.block, msg.blocks, blocks) are its own. */
struct event *event_new(enum node_event_type type);
void event_free(struct event *e); /* of an embedded one only what it refers to */
/* What has been done: always admitted, and never fails (memory short: the process stops). Copies
 * `ev`, takes over the references in it. */
void server_post(struct server *s, const struct node_event *ev);
/* The same for what an append waits for, if this thread can call node_thread_help next. */
void server_post_urgent(struct server *s, const struct node_event *ev);

/* ---- Requests that wait for a REPLY of the node. Embedded in what the handler keeps. */

struct request {
    /* On a thread that turns the node, exactly once, with fx->status, text and reply. Owns the
     * request. */
    void (*done)(struct request *request, const struct node_effect *fx);
    struct event event; /* server_ask's */
};
/* Offers the event (token and deadline are set here; `block`, if any, is referenced) on behalf of
 * the request. RESOURCE_EXHAUSTED or UNAVAILABLE: not taken, done will not be called. */
replog_status server_ask(struct server *s, struct request *request, struct node_event *ev,
                         const struct rpc_call *call, replog_error *err);

/* ---- What everybody may know */

void server_view(struct server *s, struct node_snapshot *out);
/* "ID HOST:PORT" for the trailing metadata; false when that member is not known. */
bool server_leader_text(struct server *s, uint64_t leader, char *out, size_t out_bytes);
/* Ends a call with a refusal; tells where the leader is when that is why. */
void server_refuse(struct server *s, struct rpc_call *call, replog_status status, const char *text,
                   uint64_t leader);
/* NULL while this node can serve, else one sentence why not (static or thread-local storage). */
const char *server_not_serving(const struct node_snapshot *view);

/* Logs the sentence and ends the process with status 1 at once: nothing more is acknowledged. */
_Noreturn void server_fatal(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- The node thread. It turns the node when there are events, and ticks it. What an idle node
 * is brought (one append, one message of a leader, one finished write) does not wait for it to wake
 * up: the thread that brings it makes the turn itself. */
/* Turns the node now if nobody else does, else leaves the quiet events to who does; `user` is the
 * server. */
void node_thread_help(void *user);
replog_status node_thread_start(struct server *s, replog_error *err);
/* Takes what is queued and ends. */
void node_thread_stop(struct server *s, uint64_t timeout_ms);

/* ---- Life of the server */
/* Opens the directory and starts everything; the sentence says what stood in the way. What was
 * started before a failure is left to the end of the process. */
replog_status server_start(struct server *s, replog_error *err);
/* Hands leadership over, drains, flushes, closes the store, removes the pid file. */
void server_stop(struct server *s);

#endif

/* sim_rpc.h: rpc.h over the virtual network, both sides, and the services of a node. The client
 * library and the server's own handlers (server/append.c, log_service.c, read_service.c) run on it
 * as they are. What gRPC promises is kept: order, deadlines, flow control with bounded queues,
 * keepalive, backoff between connections; the bytes on the wire are simpler.
 * Only sim_rpc*.c and sim_client.c include this.
 *
 * On the wire: frames {type (1), call (4), length (4), payload}; what one side says in one moment
 * is one piece for the network. */
#ifndef SIM_RPC_H
#define SIM_RPC_H

#include "rpc/rpc.h"
#include "sim.h"
#include "sim_client_thread.h"

enum sim_frame {
    FRAME_START = 1, /* client: timeout in us (8), path */
    FRAME_DATA,      /* one message */
    FRAME_END,       /* client: no more messages */
    FRAME_CANCEL,    /* client */
    FRAME_FINISH,    /* server: status (4), length of text (4), text, leader */
    FRAME_CREDIT,    /* so many bytes were taken (4) */
    FRAME_PING,
    FRAME_PONG
};

struct sim_message {
    struct sim_message *next;
    size_t size_bytes;
    uint8_t data[];
};
struct sim_messages {
    struct sim_message *head, **tail;
    size_t size_bytes;
};

/* One side of a connection. */
struct sim_link {
    struct sim_link *all_next; /* of the run; freed at its end */
    struct sim_conn *conn;     /* NULL: not dialled yet, or gone */
    struct sim_clock clock;    /* of the side that it is */
    bool server, up, gone, spoke;
    struct buffer out;
    bool flushing;
    struct rpc_call *calls;
    uint32_t next_call;
    uint64_t begun_us, heard_us, keepalive_us, connect_us;
    bool pinged;
    struct rpc_channel *channel; /* client */
    struct sim_service *service; /* server */
};

struct rpc_call {
    struct rpc_call *next, **at; /* in link->calls while it is listed */
    struct rpc_call *all_next, **all_at;
    unsigned refs;
    struct sim_link *link;
    uint32_t id;
    bool server, unary_request;
    struct rpc_handlers handlers;
    void *user;
    uint64_t deadline_us; /* true time; UINT64_MAX: none */

    char path[80];           /* client */
    struct sim_messages out; /* not yet sent: flow control */
    int64_t credit;
    size_t out_limit;
    bool started, end_asked, end_sent, want_writable;
    bool finishing; /* server: rpc_finish was called */
    replog_status finish_status;
    char *finish_text, *finish_leader;

    struct sim_messages in; /* not yet delivered */
    unsigned paused;
    size_t taken; /* bytes delivered, credit not given back */
    bool in_ended, end_told, heard, kicked, delivering;

    bool over, closed_told; /* over: nothing is sent or taken in any more */
    replog_status status;
    char *text, *leader;

    uint8_t *get_key; /* server: what a Get asked for, for the oracle */
    size_t get_key_bytes;
    bool is_get, get_stale;
};

/* ---- sim_rpc.c */
void sim_rpc_begin(struct sim *sim);
void sim_rpc_end(void);
struct sim *sim_rpc_sim(void);
struct sim_link *sim_rpc_links(void); /* all of the run, by all_next */
struct sim_link *sim_link_new(struct sim_clock clock);
/* Puts frames on the way, all of a moment as one piece. */
void sim_link_say(struct sim_link *link, enum sim_frame type, uint32_t call, const void *payload,
                  size_t size_bytes);
/* A client's: time to connect, then keepalive. (A server has no need to hang up by itself here.) */
void sim_link_watch(struct sim_link *link);
/* What arrived. */
void sim_link_hear(struct sim_link *link, const uint8_t *data, size_t n);
/* The link is lost: its calls end with UNAVAILABLE. `conn` is no longer ours. */
void sim_link_lost(struct sim_link *link, const char *why);
struct rpc_call *sim_call_new(struct sim_link *link, uint32_t id, bool server);
/* The call has ended: `closed` follows, behind what is undelivered unless `drop`. */
void sim_call_over(struct rpc_call *call, replog_status status, const char *text, bool drop);
/* Sends what flow control allows. */
void sim_call_pump(struct rpc_call *call);
/* Delivers what can be, now. */
void sim_call_deliver(struct rpc_call *call);
void sim_call_arm_deadline(struct rpc_call *call);
struct sim_message *sim_messages_add(struct sim_messages *list, size_t size_bytes);

/* ---- sim_rpc_channel.c */
void sim_channel_link_lost(struct sim_link *link);
/* A process dies: its connections are cut, and it reaches nobody any more. */
void sim_rpc_kill(struct sim_process *process);
void sim_channels_end(void);
/* "node1:7400" and so on, as in --cluster. */
const char *sim_rpc_address(uint64_t node_id);

/* ---- sim_rpc_service.c */
void sim_services_begin(struct sim *sim);
void sim_services_end(void);
/* A START frame: the call, ready to take messages; NULL: refused already. */
struct rpc_call *sim_service_call(struct sim_link *link, uint32_t id, uint64_t timeout_us,
                                  const char *path);
/* A server's message is about to leave, or a call ends: the oracle looks at Gets. */
void sim_service_watch_get(struct rpc_call *call, replog_status status, const uint8_t *reply,
                           size_t size_bytes);
/* More may be committed somewhere: reads look again soon. */
void sim_services_commit(void);

#endif

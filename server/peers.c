#include "server/peers.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/peer_codec.h"

enum {
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 1000,
    SETTLED_MS = 1000, /* a stream that lasted so long makes the next back-off short again */
    MAX_INBOUND = 64
};

/* To one other member; only in a turn, but for `channel`. */
struct link {
    uint64_t id;
    struct rpc_channel *channel;
    struct rpc_call *call; /* NULL: none */
    uint64_t generation;   /* of the call, so that an old one's end is not taken for its */
    bool up;               /* the node knows of it */
    uint64_t up_ms, retry_ms;
    uint32_t backoff_ms;
    replog_status told; /* the failure that was logged last; not again and again */
};

/* What a call's end must know, when the link may have moved on. */
struct link_call {
    struct server *s;
    uint64_t peer, generation;
};

/* A stream from another member. In the list from its first message to its end. */
struct inbound {
    enum user_kind kind; /* first: USER_OF_CALL */
    struct server *s;
    struct rpc_call *call;
    struct inbound *next;
    uint64_t id, peer; /* peer 0: its hello was not accepted yet */
    bool greeted, paused;
    bool refused; /* what came before it was told is not looked at */
};

struct peers {
    struct link links[RAFT_MAX_MEMBERS];
    unsigned n_links;
    uint64_t seed;
    struct buffer head; /* of the message being sent; in a turn */
    pthread_mutex_t lock;
    struct inbound *inbound;
    unsigned n_inbound;
    uint64_t last_id;
    atomic_uint n_paused;
};

static struct link *find_link(struct peers *p, uint64_t id) {
    for (unsigned i = 0; i < p->n_links; i++) {
        if (p->links[i].id == id) return &p->links[i];
    }
    return NULL;
}

replog_status peers_start(struct server *s, replog_error *err) {
    struct peers *p = calloc(1, sizeof *p);
    if (!p) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    (void)pthread_mutex_init(&p->lock, NULL);
    p->seed = random_u64();
    s->peers = p;
    for (uint32_t i = 0; i < s->options.cluster.n_members; i++) {
        const struct config_member *m = &s->options.cluster.members[i];
        if (m->id == s->options.id) continue;
        struct rpc_channel_options options = {.address = m->address,
                                              .send_queue_bytes = s->options.peer_window_bytes};
        struct link *link = &p->links[p->n_links];
        replog_status st = rpc_channel_open(&options, &link->channel, err);
        if (st != REPLOG_OK) return st;
        link->id = m->id;
        link->backoff_ms = BACKOFF_FIRST_MS;
        p->n_links++;
    }
    return REPLOG_OK;
}

struct rpc_channel *peers_channel(struct server *s, uint64_t id) {
    struct link *link = find_link(s->peers, id);
    return link ? link->channel : NULL;
}

/* ---- Outgoing */

static void outgoing_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)call; /* a PeerAck carries nothing */
    (void)bytes;
    (void)size_bytes;
}

static void outgoing_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct link_call *of = rpc_call_user(call);
    struct node_event ev = {.type = NODE_EV_PEER_DOWN,
                            .peer = of->peer,
                            .stream = of->generation, /* peers_admit takes these two away */
                            .ticket = (uint64_t)status,
                            .text = text};
    server_post(of->s, &ev);
    free(of);
}

static const struct rpc_handlers outgoing_handlers = {.message = outgoing_message,
                                                      .closed = outgoing_closed};

static void back_off(struct peers *p, struct link *link, uint64_t now_ms) {
    link->retry_ms = now_ms + rng_between(&p->seed, link->backoff_ms / 2, link->backoff_ms);
    link->backoff_ms *= 2;
    if (link->backoff_ms > BACKOFF_MAX_MS) link->backoff_ms = BACKOFF_MAX_MS;
}

static void start_link(struct server *s, struct link *link, uint64_t now_ms) {
    struct link_call *of = malloc(sizeof *of);
    if (of) {
        *of = (struct link_call){s, link->id, ++link->generation};
        link->call =
            rpc_start(link->channel, "/replog.v1.Peer/Exchange", 0, &outgoing_handlers, of);
    }
    if (!link->call) {
        free(of);
        back_off(s->peers, link, now_ms);
    }
}

void peers_tick(struct server *s, uint64_t now_ms, struct node_effects *fx) {
    for (unsigned i = 0; i < s->peers->n_links; i++) {
        struct link *link = &s->peers->links[i];
        if (!link->call && now_ms >= link->retry_ms && !atomic_load(&s->draining)) {
            start_link(s, link, now_ms);
        }
        if (!link->call || link->up || !rpc_channel_connected(link->channel)) continue;
        link->up = true;
        link->up_ms = now_ms;
        stats_add(&s->stats.peer_reconnects, 1);
        struct node_event ev = {.type = NODE_EV_PEER_UP,
                                .peer = link->id,
                                .now_ms = now_ms,
                                .wall_us = clock_wall_us()};
        node_step(s->node, &ev, fx);
    }
}

/* A refusal comes again with each new stream; it is told once, like an address that is silent. */
static void tell_down(struct link *link, replog_status status, const char *text) {
    bool again = !link->up || status == REPLOG_FAILED_PRECONDITION;
    if (link->told == status && again) return;
    link->told = status;
    enum log_level level = status == REPLOG_UNAVAILABLE && !link->up ? LOG_INFO : LOG_WARN;
    log_line(level, "peer=%" PRIu64 " %s: %s %s", link->id, link->up ? "lost" : "not reached",
             replog_status_name(status), text ? text : "");
}

static bool admit_down(struct server *s, struct event *e) {
    struct link *link = find_link(s->peers, e->ev.peer);
    if (!link || !link->call || link->generation != e->ev.stream) return false;
    tell_down(link, (replog_status)e->ev.ticket, e->text);
    /* only what the member itself said against this one is a refusal */
    if (e->ev.ticket != REPLOG_FAILED_PRECONDITION) e->ev.text = NULL;
    e->ev.stream = e->ev.ticket = 0;
    rpc_call_unref(link->call);
    link->call = NULL;
    bool was_up = link->up;
    link->up = false;
    if (was_up && e->ev.now_ms - link->up_ms >= SETTLED_MS) link->backoff_ms = BACKOFF_FIRST_MS;
    back_off(s->peers, link, e->ev.now_ms);
    return was_up;
}

void peers_send(struct server *s, struct node_effect *fx) {
    struct peers *p = s->peers;
    struct link *link = find_link(p, fx->peer);
    struct node_bytes *blocks = &fx->msg.blocks;
    if (link && link->call) {
        buffer_clear(&p->head);
        peer_encode(&fx->msg, &p->head);
        struct rpc_piece pieces[2] = {{.data = p->head.data, .size_bytes = p->head.size_bytes}};
        size_t n = 1;
        if (blocks->blob) {
            pieces[n++] = (struct rpc_piece){blocks->blob->data + blocks->offset,
                                             blocks->size_bytes, blocks->blob};
        }
        replog_status st = p->head.failed ? REPLOG_INTERNAL : rpc_send(link->call, pieces, n);
        size_t bound = 2 * (size_t)s->options.peer_window_bytes + (4u << 20);
        bool stuck = st == REPLOG_RESOURCE_EXHAUSTED && rpc_queued_bytes(link->call) > bound;
        if (p->head.failed || stuck) {
            log_warn("peer=%" PRIu64 " takes nothing; starting its stream anew", link->id);
            p->head.failed = false;
            rpc_cancel(link->call);
        }
        stats_add(&s->stats.peer_messages_out, 1);
    }
    blob_unref(blocks->blob);
    blocks->blob = NULL;
}

/* ---- Incoming */

static struct inbound *add_inbound(struct server *s, struct rpc_call *call) {
    struct peers *p = s->peers;
    struct inbound *in = calloc(1, sizeof *in);
    if (!in) return NULL;
    in->kind = USER_OF_CALL;
    in->s = s;
    (void)pthread_mutex_lock(&p->lock);
    bool fits = p->n_inbound < MAX_INBOUND && !atomic_load(&s->draining);
    if (fits) {
        in->id = ++p->last_id;
        in->call = rpc_call_ref(call);
        in->next = p->inbound;
        p->inbound = in;
        p->n_inbound++;
    }
    (void)pthread_mutex_unlock(&p->lock);
    if (!fits) {
        free(in);
        return NULL;
    }
    rpc_call_set_user(call, in);
    return in;
}

/* The stream of a call; NULL before its first message. */
static struct inbound *inbound_of(struct rpc_call *call) {
    enum user_kind *user = rpc_call_user(call);
    return *user == USER_OF_CALL ? (struct inbound *)(void *)user : NULL;
}

static void hold_back(struct peers *p, struct inbound *in) {
    (void)pthread_mutex_lock(&p->lock);
    if (!in->paused) {
        in->paused = true;
        (void)atomic_fetch_add(&p->n_paused, 1);
        rpc_pause(in->call);
    }
    (void)pthread_mutex_unlock(&p->lock);
}

static void exchange_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct inbound *in = inbound_of(call);
    if (!in) in = add_inbound(rpc_call_user(call), call);
    if (!in) {
        rpc_finish(call, REPLOG_UNAVAILABLE, "no more streams from members are taken here now");
        return;
    }
    struct server *s = in->s;
    struct event *e = event_new(NODE_EV_PEER_MESSAGE);
    if (!e) {
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
        return;
    }
    replog_error err;
    replog_status st = peer_decode(bytes, size_bytes, s->options.id, &e->msg, &err);
    if (st == REPLOG_OK && !in->greeted && e->msg.kind != PEER_HELLO) {
        st = error_set(&err, REPLOG_INVALID_ARGUMENT, "the first message must be a hello");
    }
    if (st != REPLOG_OK) {
        log_warn("stream of %s ended: %s", rpc_call_peer(call), err.text);
        rpc_finish(call, st, err.text);
        event_free(e);
        return;
    }
    in->greeted = true;
    e->ev.stream = in->id;
    e->ev.msg = &e->msg;
    e->link.cost_bytes += e->msg.blocks.size_bytes;
    e->link.quiet = true;
    stats_add(&s->stats.peer_messages_in, 1);
    if (queue_put(&s->events, &e->link) > s->events.limit_bytes) hold_back(s->peers, in);
}

static void exchange_end(struct rpc_call *call) {
    rpc_finish(call, REPLOG_OK, NULL);
}

static void exchange_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status;
    (void)text;
    struct inbound *in = inbound_of(call);
    if (!in) return;
    struct peers *p = in->s->peers;
    (void)pthread_mutex_lock(&p->lock);
    for (struct inbound **at = &p->inbound; *at; at = &(*at)->next) {
        if (*at != in) continue;
        *at = in->next;
        p->n_inbound--;
        break;
    }
    if (in->paused) (void)atomic_fetch_sub(&p->n_paused, 1);
    (void)pthread_mutex_unlock(&p->lock);
    rpc_call_unref(in->call);
    free(in);
}

const struct rpc_handlers peers_exchange_handlers = {
    .message = exchange_message, .end = exchange_end, .closed = exchange_closed};

/* With the lock held. */
static struct inbound *find_inbound(struct peers *p, uint64_t id) {
    for (struct inbound *in = p->inbound; in; in = in->next) {
        if (in->id == id) return in;
    }
    return NULL;
}

bool peers_admit(struct server *s, struct event *e) {
    if (e->ev.type == NODE_EV_PEER_DOWN) return admit_down(s, e);
    struct peers *p = s->peers;
    (void)pthread_mutex_lock(&p->lock);
    const struct inbound *in = find_inbound(p, e->ev.stream);
    bool found = in != NULL && !in->refused;
    e->ev.peer = found ? in->peer : 0;
    (void)pthread_mutex_unlock(&p->lock);
    e->msg.raft.from = e->ev.peer;
    return found;
}

void peers_welcome(struct server *s, uint64_t stream, uint64_t peer) {
    struct peers *p = s->peers;
    struct rpc_call *replaced[MAX_INBOUND];
    unsigned n = 0;
    (void)pthread_mutex_lock(&p->lock);
    struct inbound *in = find_inbound(p, stream);
    if (in) in->peer = peer;
    for (struct inbound *other = p->inbound; in && other; other = other->next) {
        if (other == in || other->peer != peer) continue;
        other->peer = 0;
        replaced[n++] = rpc_call_ref(other->call);
    }
    (void)pthread_mutex_unlock(&p->lock);
    /* The node listens to one stream of a member, the last that said hello. That may be one that
     * the member had given up before and whose hello came late: then the one in use must be told
     * that nobody listens to it. */
    for (unsigned i = 0; i < n; i++) {
        rpc_finish(replaced[i], REPLOG_ABORTED, "another stream of this member took its place");
        rpc_call_unref(replaced[i]);
    }
    /* it is there: so try ours without waiting any longer */
    struct link *link = find_link(p, peer);
    if (link && !link->call) link->retry_ms = 0;
}

void peers_refuse(struct server *s, uint64_t stream, const char *text) {
    struct peers *p = s->peers;
    (void)pthread_mutex_lock(&p->lock);
    struct inbound *in = find_inbound(p, stream);
    struct rpc_call *call = in ? rpc_call_ref(in->call) : NULL;
    if (in) in->refused = true;
    (void)pthread_mutex_unlock(&p->lock);
    if (!call) return;
    log_warn("refused %s: %s", rpc_call_peer(call), text);
    rpc_finish(call, REPLOG_FAILED_PRECONDITION, text);
    rpc_call_unref(call);
}

void peers_resume(struct server *s) {
    struct peers *p = s->peers;
    if (atomic_load(&p->n_paused) == 0) return;
    (void)pthread_mutex_lock(&p->lock);
    for (struct inbound *in = p->inbound; in; in = in->next) {
        if (!in->paused) continue;
        in->paused = false;
        (void)atomic_fetch_sub(&p->n_paused, 1);
        rpc_resume(in->call);
    }
    (void)pthread_mutex_unlock(&p->lock);
}

void peers_drain(struct server *s) {
    struct peers *p = s->peers;
    struct rpc_call *calls[MAX_INBOUND];
    unsigned n = 0;
    (void)pthread_mutex_lock(&p->lock);
    for (struct inbound *in = p->inbound; in; in = in->next) calls[n++] = rpc_call_ref(in->call);
    (void)pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < n; i++) {
        rpc_finish(calls[i], REPLOG_UNAVAILABLE, "this member is stopping");
        rpc_call_unref(calls[i]);
    }
}

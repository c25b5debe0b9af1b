#include "sim_net.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "server/peer_codec.h"
#include "sim_node.h"

enum {
    DIAL_FIRST_US = 50000,
    DIAL_MAX_US = 1000000,
    SETTLED_US = 1000000,  /* a stream that lasted so long makes the next back-off short again */
    QUEUE_BYTES = 20 << 20 /* in one direction; beyond, the connection breaks */
};

enum packet_kind { PACKET_BYTES, PACKET_CLOSE };

struct packet {
    struct packet *next;
    struct sim_conn *conn; /* of a copy only */
    enum packet_kind kind;
    uint64_t due_us;
    size_t n;
    uint8_t data[];
};

/* One connection: a stream of member ends[0] to member ends[1], or a client's (ends[0]) to a
 * member. Side 0 opened it. */
struct sim_conn {
    struct sim *sim;
    struct sim_conn *next; /* all of them */
    uint64_t id;
    unsigned ends[2];
    uint64_t lives[2];
    bool is_stream;
    bool up;                           /* side 0 was told so */
    bool closed[2];                    /* that side has nothing to do with it any more */
    bool broken;                       /* only what is on its way is delivered */
    unsigned events;                   /* that will come */
    struct packet *head[2], **tail[2]; /* from side 0, from side 1 */
    uint64_t last_due_us[2];
    size_t pending_bytes[2];
    bool moving[2]; /* an event will deliver */
    uint64_t up_us; /* since when */
    uint64_t bound; /* stream: the member that was welcomed on it */
    bool greeted;   /* stream: its first message was sent, a hello */
    const struct sim_conn_ops *ops;
    void *user, *service;
};

/* What a member knows of its stream to another. */
struct dialer {
    struct sim_conn *conn;
    bool pending;
    uint64_t due_us, gen;
    uint64_t backoff_us;
};

struct sim_net {
    uint64_t rng, last_id;
    uint64_t low_us, high_us;
    unsigned spike_percent; /* in a thousand packets, one of ten times the delay and more */
    struct sim_conn *conns;
    struct sim_conn *recent[256]; /* by id: where most are found */
    unsigned blocks[SIM_MAX_ENDS][SIM_MAX_ENDS];
    uint64_t extra_us[SIM_MAX_ENDS][SIM_MAX_ENDS];
    uint64_t duplicate[SIM_MAX_ENDS][SIM_MAX_ENDS]; /* percent */
    struct dialer dialers[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
};

static uint64_t draw(struct sim *sim, uint64_t low, uint64_t high) {
    return rng_between(&sim->net->rng, low, high);
}

static bool chance(struct sim *sim, unsigned percent) {
    return draw(sim, 1, 100) <= percent;
}

struct sim_net *sim_net_new(struct sim *sim) {
    struct sim_net *net = calloc(1, sizeof *net);
    CHECK(net);
    net->rng = sim_fork_rng(sim, "net");
    net->low_us = rng_between(&net->rng, 20, 300);
    net->high_us = net->low_us + rng_between(&net->rng, 50, 2000);
    if (rng_between(&net->rng, 1, 100) <= 10) { /* far from each other */
        net->low_us += 5000;
        net->high_us += rng_between(&net->rng, 10000, 40000);
    }
    net->spike_percent = rng_between(&net->rng, 0, 2) == 0 ? 10 : 0;
    return net;
}

static void free_packets(struct sim_conn *c, int side) {
    while (c->head[side]) {
        struct packet *p = c->head[side];
        c->head[side] = p->next;
        free(p);
    }
    c->tail[side] = &c->head[side];
    c->pending_bytes[side] = 0;
}

static void conn_free(struct sim_net *net, struct sim_conn *c) {
    if (net->recent[c->id % 256] == c) net->recent[c->id % 256] = NULL;
    free_packets(c, 0);
    free_packets(c, 1);
    free(c);
}

void sim_net_free(struct sim_net *net) {
    while (net->conns) {
        struct sim_conn *c = net->conns;
        net->conns = c->next;
        conn_free(net, c);
    }
    free(net);
}

/* ---- Connections ----------------------------------------------------------------------------- */

static struct sim_conn *conn_new(struct sim *sim, unsigned from, unsigned to) {
    struct sim_conn *c = calloc(1, sizeof *c);
    CHECK(c);
    c->sim = sim;
    c->id = ++sim->net->last_id;
    c->ends[0] = from;
    c->ends[1] = to;
    for (int side = 0; side < 2; side++) {
        c->tail[side] = &c->head[side];
        if (c->ends[side] < SIM_END_CLIENT) c->lives[side] = sim_node_life(sim, c->ends[side]);
    }
    c->next = sim->net->conns;
    sim->net->conns = c;
    sim->net->recent[c->id % 256] = c;
    return c;
}

static bool is_over(const struct sim_conn *c) {
    return c->closed[0] && c->closed[1] && c->events == 0;
}

static void collect(struct sim_net *net) {
    for (struct sim_conn **at = &net->conns; *at;) {
        struct sim_conn *c = *at;
        if (is_over(c)) {
            *at = c->next;
            conn_free(net, c);
        } else {
            at = &c->next;
        }
    }
}

/* After an event of the connection. */
static void settle(struct sim_conn *c) {
    if (is_over(c)) collect(c->sim->net);
}

static void later(struct sim_conn *c, uint64_t delay_us, sim_event_fn *fn, uint64_t tag) {
    c->events++;
    sim_after(c->sim, delay_us, fn, c, tag);
}

static bool blocked(const struct sim *sim, unsigned from, unsigned to) {
    return sim->net->blocks[from][to] > 0;
}

static bool end_is_paused(const struct sim *sim, unsigned end) {
    return end < SIM_END_CLIENT && sim_node_paused(sim, end);
}

/* The process at that side is the one that had it. */
static bool side_lives(const struct sim_conn *c, int side) {
    unsigned end = c->ends[side];
    if (end >= SIM_END_CLIENT) return true;
    return sim_node_running(c->sim, end) && sim_node_life(c->sim, end) == c->lives[side];
}

static void dial_again(struct sim *sim, uint64_t from, uint64_t to, uint64_t delay_us);

/* The connection is over for that side, and it learns of it now. `text`: what the other said. */
static void side_down(struct sim_conn *c, int side, const char *why, const char *text) {
    if (c->closed[side]) return;
    c->closed[side] = true;
    struct sim *sim = c->sim;
    sim_note(sim, c->ends[side] < SIM_END_CLIENT ? c->ends[side] : 0, "connection lost", c->id,
             c->ends[1 - side]);
    if (!c->is_stream) {
        if (side == 0)
            c->ops->down(c->user, why);
        else
            sim_service_conn_down(sim, c->ends[1], c);
        return;
    }
    if (side == 1) return;
    struct dialer *d = &sim->net->dialers[c->ends[0]][c->ends[1]];
    if (d->conn != c) return;
    d->conn = NULL;
    if (!side_lives(c, 0)) return;
    struct node_event ev = {.type = NODE_EV_PEER_DOWN, .peer = c->ends[1], .text = text};
    if (c->up) sim_node_post(sim, c->ends[0], &ev);
    if (c->up && sim->now_us - c->up_us >= SETTLED_US) d->backoff_us = DIAL_FIRST_US;
    dial_again(sim, c->ends[0], c->ends[1], draw(sim, d->backoff_us / 2, d->backoff_us));
    d->backoff_us = 2 * d->backoff_us < DIAL_MAX_US ? 2 * d->backoff_us : DIAL_MAX_US;
}

/* ---- Packets --------------------------------------------------------------------------------- */

static void move(struct sim *sim, void *arg, uint64_t side);

static void schedule(struct sim_conn *c, int side) {
    if (c->moving[side] || !c->head[side]) return;
    if (blocked(c->sim, c->ends[side], c->ends[1 - side])) return;
    uint64_t due = c->head[side]->due_us, now = c->sim->now_us;
    c->moving[side] = true;
    later(c, due > now ? due - now : 0, move, (uint64_t)side);
}

static uint64_t delay_us(struct sim_conn *c, int side) {
    struct sim_net *net = c->sim->net;
    uint64_t us = draw(c->sim, net->low_us, net->high_us);
    if (net->spike_percent && draw(c->sim, 1, 1000) <= net->spike_percent)
        us = us * draw(c->sim, 10, 100);
    return us + net->extra_us[c->ends[side]][c->ends[1 - side]];
}

static uint64_t round_trip_us(struct sim_conn *c) {
    uint64_t there_us = delay_us(c, 0); /* drawn one behind the other: the order is the trace's */
    return there_us + delay_us(c, 1);
}

static void push(struct sim_conn *c, int side, enum packet_kind kind, const void *data, size_t n,
                 const void *more, size_t n_more) {
    struct packet *p = malloc(sizeof *p + n + n_more + 1);
    CHECK(p);
    p->next = NULL;
    p->kind = kind;
    p->n = n + n_more;
    if (n) memcpy(p->data, data, n);
    if (n_more) memcpy(p->data + n, more, n_more);
    p->data[p->n] = 0;
    p->due_us = c->sim->now_us + delay_us(c, side);
    if (p->due_us < c->last_due_us[side]) p->due_us = c->last_due_us[side];
    c->last_due_us[side] = p->due_us;
    *c->tail[side] = p;
    c->tail[side] = &p->next;
    c->pending_bytes[side] += p->n;
    schedule(c, side);
}

static void deliver_stream(struct sim_conn *c, const struct packet *p) {
    struct sim *sim = c->sim;
    struct peer_msg msg;
    replog_error err;
    if (peer_decode(p->data, p->n, c->ends[1], &msg, &err) != REPLOG_OK)
        sim_fail(sim, "[codec] a message of member %u cannot be decoded by member %u: %s",
                 c->ends[0], c->ends[1], err.text);
    struct node_event ev = {.type = NODE_EV_PEER_MESSAGE, .stream = c->id, .msg = &msg};
    sim_node_post(sim, c->ends[1], &ev);
    blob_unref(msg.blocks.blob);
}

static void deliver(struct sim_conn *c, int side, const struct packet *p) {
    int to = 1 - side;
    if (c->closed[to] || !side_lives(c, to)) return;
    if (p->kind == PACKET_CLOSE)
        side_down(c, to, "the other side closed the connection",
                  c->is_stream && p->n ? (const char *)p->data : NULL);
    else if (c->is_stream)
        deliver_stream(c, p);
    else if (to == 0)
        c->ops->bytes(c->user, p->data, p->n);
    else
        sim_service_bytes(c->sim, c->ends[1], c, p->data, p->n);
}

static void deliver_copy(struct sim *sim, void *arg, uint64_t tag) {
    struct packet *copy = arg;
    struct sim_conn *c = copy->conn;
    (void)tag;
    if (!blocked(sim, c->ends[0], c->ends[1])) deliver(c, 0, copy);
    free(copy);
    c->events--;
    settle(c);
}

/* Some of a stream's messages come twice, the second time behind others. */
static void duplicate(struct sim_conn *c, int side, const struct packet *p) {
    struct sim *sim = c->sim;
    uint64_t percent = sim->net->duplicate[c->ends[side]][c->ends[1 - side]];
    if (!percent || !c->is_stream || p->kind != PACKET_BYTES) return;
    if (!chance(sim, (unsigned)percent)) return;
    struct packet *copy = malloc(sizeof *copy + p->n + 1);
    CHECK(copy);
    memcpy(copy, p, sizeof *copy + p->n + 1);
    copy->conn = c;
    c->events++;
    sim_after(sim, draw(sim, 0, 100000), deliver_copy, copy, 0);
}

static void move(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_conn *c = arg;
    int side = (int)tag;
    c->events--;
    c->moving[side] = false;
    struct packet *p = c->head[side];
    bool waits = !p || blocked(sim, c->ends[side], c->ends[1 - side]) || p->due_us > sim->now_us;
    /* the process of a connection's end takes nothing while it is paused; see node_resumed */
    if (p && !c->is_stream && end_is_paused(sim, c->ends[1 - side])) waits = true;
    if (waits) {
        if (p && p->due_us > sim->now_us) schedule(c, side);
        settle(c);
        return;
    }
    c->head[side] = p->next;
    if (!c->head[side]) c->tail[side] = &c->head[side];
    c->pending_bytes[side] -= p->n;
    c->events++; /* keeps it while the other side is called */
    duplicate(c, side, p);
    deliver(c, side, p);
    free(p);
    c->events--;
    schedule(c, side);
    settle(c);
}

/* ---- Breaking -------------------------------------------------------------------------------- */

static void notice(struct sim *sim, void *arg, uint64_t side) {
    struct sim_conn *c = arg;
    (void)sim;
    if (side == 0 || !c->head[0]) {
        side_down(c, (int)side, "the connection broke", NULL);
    } else {
        push(c, 0, PACKET_CLOSE, NULL, 0, NULL, 0); /* behind what still comes */
    }
    c->events--;
    settle(c);
}

/* Each side learns of it some time; what is on its way is lost, or comes late. */
static bool break_conn(struct sim_conn *c) {
    if (c->broken) return false;
    struct sim *sim = c->sim;
    c->broken = true;
    bool late = chance(sim, 50);
    uint64_t behind_us = late ? draw(sim, 0, 400000) : 0;
    for (int side = 0; side < 2; side++) {
        if (!late) free_packets(c, side);
        for (struct packet *p = c->head[side]; p; p = p->next) p->due_us += behind_us;
        c->last_due_us[side] += behind_us;
        later(c, draw(sim, 0, side ? 500000 : 60000), notice, (uint64_t)side);
    }
    return true;
}

static bool between(const struct sim_conn *c, unsigned a, unsigned b) {
    if (b == 0) return c->ends[0] == a || c->ends[1] == a;
    return (c->ends[0] == a && c->ends[1] == b) || (c->ends[0] == b && c->ends[1] == a);
}

bool sim_net_break(struct sim *sim, unsigned a, unsigned b) {
    bool any = false;
    for (struct sim_conn *c = sim->net->conns; c; c = c->next)
        if (between(c, a, b)) any |= break_conn(c);
    return any;
}

/* Keepalive: blocked ever since? */
static void still_blocked(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_conn *c = arg;
    (void)tag;
    c->events--;
    bool dead = blocked(sim, c->ends[0], c->ends[1]) || blocked(sim, c->ends[1], c->ends[0]);
    if (dead) break_conn(c);
    settle(c);
}

void sim_net_block(struct sim *sim, unsigned from, unsigned to, enum sim_block how) {
    sim->net->blocks[from][to]++;
    if (how != SIM_CUT) return;
    for (struct sim_conn *c = sim->net->conns; c; c = c->next)
        if (between(c, from, to) && chance(sim, 60))
            later(c, draw(sim, 100000, 15000000), still_blocked, 0);
}

static void schedule_all(struct sim *sim) {
    for (struct sim_conn *c = sim->net->conns; c; c = c->next) {
        schedule(c, 0);
        schedule(c, 1);
    }
}

void sim_net_unblock(struct sim *sim, unsigned from, unsigned to) {
    if (sim->net->blocks[from][to] == 0) return; /* healed meanwhile */
    if (--sim->net->blocks[from][to] == 0) schedule_all(sim);
}

static void undo_block(struct sim *sim, void *arg, uint64_t ends) {
    (void)arg;
    sim_net_unblock(sim, (unsigned)(ends >> 8), (unsigned)(ends & 0xff));
}

void sim_net_block_for(struct sim *sim, unsigned from, unsigned to, enum sim_block how,
                       uint64_t length_us) {
    if (from == to) return;
    sim_net_block(sim, from, to, how);
    sim_after(sim, length_us, undo_block, NULL, (uint64_t)from << 8 | to);
}

void sim_net_delay(struct sim *sim, unsigned from, unsigned to, uint64_t extra_us) {
    sim->net->extra_us[from][to] = extra_us;
}

static uint64_t pack(unsigned from, unsigned to, uint64_t amount) {
    return amount << 16 | (uint64_t)from << 8 | to;
}

/* Takes the tag's amount away again, if it was not healed meanwhile. */
static void take_back(uint64_t amounts[SIM_MAX_ENDS][SIM_MAX_ENDS], uint64_t tag) {
    uint64_t *there = &amounts[tag >> 8 & 0xff][tag & 0xff], amount = tag >> 16;
    *there -= amount < *there ? amount : *there;
}

static void undo_delay(struct sim *sim, void *arg, uint64_t tag) {
    (void)arg;
    take_back(sim->net->extra_us, tag);
}

void sim_net_delay_for(struct sim *sim, unsigned from, unsigned to, uint64_t extra_us,
                       uint64_t length_us) {
    sim->net->extra_us[from][to] += extra_us;
    sim_after(sim, length_us, undo_delay, NULL, pack(from, to, extra_us));
}

static void undo_duplicate(struct sim *sim, void *arg, uint64_t tag) {
    (void)arg;
    take_back(sim->net->duplicate, tag);
}

void sim_net_duplicate_for(struct sim *sim, unsigned from, unsigned to, unsigned percent,
                           uint64_t length_us) {
    sim->net->duplicate[from][to] += percent;
    sim_after(sim, length_us, undo_duplicate, NULL, pack(from, to, percent));
}

void sim_net_heal(struct sim *sim) {
    struct sim_net *net = sim->net;
    memset(net->blocks, 0, sizeof net->blocks);
    memset(net->extra_us, 0, sizeof net->extra_us);
    memset(net->duplicate, 0, sizeof net->duplicate);
    net->spike_percent = 0;
    if (net->low_us > 2000) net->low_us = 2000;
    if (net->high_us > 10000) net->high_us = 10000;
    for (struct sim_conn *c = net->conns; c; c = c->next)
        if (!side_lives(c, 0) || !side_lives(c, 1)) break_conn(c);
    schedule_all(sim);
}

/* ---- Members dial each other ----------------------------------------------------------------- */

static void stream_up(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_conn *c = arg;
    (void)tag;
    c->events--;
    if (c->closed[0] || c->broken || !side_lives(c, 0)) {
        settle(c);
        return;
    }
    c->up = true;
    c->up_us = sim->now_us;
    struct node_event ev = {.type = NODE_EV_PEER_UP, .peer = c->ends[1]};
    sim_node_post(sim, c->ends[0], &ev);
}

static void dial(struct sim *sim, void *arg, uint64_t tag) {
    struct dialer *d = arg;
    uint64_t from = tag >> 8 & 0xff, to = tag & 0xff;
    if (tag >> 16 != d->gen) return;
    d->pending = false;
    if (d->conn || !sim_node_running(sim, from)) return;
    bool reached = sim_node_running(sim, to) && !sim_node_paused(sim, to) &&
                   !sim_node_paused(sim, from) && !blocked(sim, (unsigned)from, (unsigned)to) &&
                   !blocked(sim, (unsigned)to, (unsigned)from);
    if (!reached) {
        dial_again(sim, from, to, draw(sim, d->backoff_us / 2, d->backoff_us));
        d->backoff_us = 2 * d->backoff_us < DIAL_MAX_US ? 2 * d->backoff_us : DIAL_MAX_US;
        return;
    }
    struct sim_conn *c = conn_new(sim, (unsigned)from, (unsigned)to);
    c->is_stream = true;
    d->conn = c;
    later(c, round_trip_us(c), stream_up, 0);
}

static void dial_again(struct sim *sim, uint64_t from, uint64_t to, uint64_t after_us) {
    struct dialer *d = &sim->net->dialers[from][to];
    if (d->pending && d->due_us <= sim->now_us + after_us) return;
    d->pending = true;
    d->due_us = sim->now_us + after_us;
    sim_after(sim, after_us, dial, d, ++d->gen << 16 | from << 8 | to);
}

void sim_net_node_up(struct sim *sim, uint64_t id) {
    for (uint64_t k = 1; k <= sim->n_nodes; k++) {
        if (k == id) continue;
        sim->net->dialers[id][k].backoff_us = DIAL_FIRST_US;
        dial_again(sim, id, k, draw(sim, 0, 10000));
    }
    /* who still holds a connection to the process before learns of it with what it sends */
    for (struct sim_conn *c = sim->net->conns; c; c = c->next)
        for (int side = 0; side < 2; side++)
            if (c->ends[side] == id && !side_lives(c, side) && !c->closed[1 - side])
                later(c, draw(sim, 1000, 300000), notice, (uint64_t)(1 - side));
}

void sim_net_node_down(struct sim *sim, uint64_t id, bool power) {
    for (uint64_t k = 1; k <= sim->n_nodes; k++) sim->net->dialers[id][k].conn = NULL;
    for (struct sim_conn *c = sim->net->conns; c; c = c->next) {
        for (int side = 0; side < 2; side++) {
            if (c->ends[side] != id || c->closed[side]) continue;
            c->closed[side] = true;
            if (!c->is_stream) sim_service_conn_down(sim, id, c);
            bool silent = power && chance(sim, 50);
            if (power) free_packets(c, side);
            if (silent)
                later(c, draw(sim, 1000000, 12000000), notice, (uint64_t)(1 - side));
            else
                push(c, side, PACKET_CLOSE, NULL, 0, NULL, 0);
        }
    }
    collect(sim->net);
}

void sim_net_node_resumed(struct sim *sim, uint64_t id) {
    (void)id;
    schedule_all(sim);
}

bool sim_net_inject(struct sim *sim, uint64_t from, uint64_t to, struct peer_msg *msg) {
    static struct buffer head;
    struct sim_conn *c = sim->net->dialers[from][to].conn;
    struct node_bytes *blocks = &msg->blocks;
    bool there = c && c->up && !c->broken;
    if (there) {
        buffer_clear(&head);
        peer_encode(msg, &head);
        CHECK(!head.failed);
        if (!c->greeted && msg->kind != PEER_HELLO) /* server/peers.c would end the stream */
            sim_fail(sim,
                     "[hello] node %" PRIu64 " begins its stream to %" PRIu64 " without a hello",
                     from, to);
        c->greeted = true;
        push(c, 0, PACKET_BYTES, head.data, head.size_bytes,
             blocks->blob ? blocks->blob->data + blocks->offset : NULL,
             blocks->blob ? blocks->size_bytes : 0);
        if (c->pending_bytes[0] > QUEUE_BYTES) break_conn(c);
    }
    blob_unref(blocks->blob);
    blocks->blob = NULL;
    return there;
}

void sim_net_send(struct sim *sim, uint64_t from, struct node_effect *fx) {
    (void)sim_net_inject(sim, from, fx->peer, &fx->msg);
}

bool sim_net_welcomed(struct sim *sim, uint64_t from, uint64_t to) {
    const struct sim_conn *c = sim->net->dialers[from][to].conn;
    return c && c->up && !c->broken && c->bound == from;
}

void sim_net_drop_stream(struct sim *sim, uint64_t from, uint64_t to) {
    struct sim_conn *c = sim->net->dialers[from][to].conn;
    if (!c) return;
    c->broken = c->closed[1] = true;
    free_packets(c, 0);
    side_down(c, 0, "dropped", NULL);
}

void sim_net_latency(struct sim *sim, uint64_t low_us, uint64_t high_us) {
    sim->net->low_us = low_us;
    sim->net->high_us = high_us;
}

static struct sim_conn *find_stream(struct sim *sim, uint64_t id, uint64_t stream) {
    struct sim_conn *c = sim->net->recent[stream % 256];
    if (!c || c->id != stream)
        for (c = sim->net->conns; c && c->id != stream;) c = c->next;
    return c && c->is_stream && c->ends[1] == id && !c->closed[1] ? c : NULL;
}

void sim_net_refuse(struct sim *sim, uint64_t id, uint64_t stream, const char *text) {
    struct sim_conn *c = find_stream(sim, id, stream);
    if (!c) return;
    c->closed[1] = true;
    push(c, 1, PACKET_CLOSE, text, strlen(text), NULL, 0);
}

void sim_net_welcome(struct sim *sim, uint64_t id, uint64_t stream, uint64_t peer) {
    struct sim_conn *c = find_stream(sim, id, stream);
    if (c && !c->bound) sim_note(sim, (unsigned)id, "welcomes stream, of member", stream, peer);
    if (c) c->bound = peer;
    for (struct sim_conn *o = sim->net->conns; c && o; o = o->next) { /* as server/peers.c */
        bool other = o != c && o->is_stream && o->ends[1] == id && o->bound == peer;
        if (!other || o->closed[1]) continue;
        o->closed[1] = true;
        push(o, 1, PACKET_CLOSE, NULL, 0, NULL, 0);
    }
    /* it is there: so try ours without waiting any longer */
    struct dialer *d = &sim->net->dialers[id][peer];
    if (!d->conn && sim_node_running(sim, id)) dial_again(sim, id, peer, 0);
}

bool sim_net_admit(struct sim *sim, uint64_t id, uint64_t stream, uint64_t *peer) {
    const struct sim_conn *c = find_stream(sim, id, stream);
    *peer = c ? c->bound : 0;
    return c != NULL;
}

bool sim_net_opener_lives(struct sim *sim, uint64_t id, uint64_t stream) {
    const struct sim_conn *c = find_stream(sim, id, stream);
    return c && side_lives(c, 0);
}

/* ---- Clients --------------------------------------------------------------------------------- */

/* tag: how often it was tried before. */
static void conn_open(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_conn *c = arg;
    if (!c->closed[0] && !c->broken) {
        unsigned node = c->ends[1];
        bool passes = !blocked(sim, c->ends[0], node) && !blocked(sim, node, c->ends[0]);
        if (passes && !sim_node_running(sim, node)) {
            c->closed[1] = true;
            side_down(c, 0, "connection refused", NULL);
        } else if (!passes || sim_node_paused(sim, node)) {
            if (tag < 60) {
                later(c, 50000, conn_open, tag + 1);
            } else {
                c->closed[1] = true;
                side_down(c, 0, "no answer to the connection attempt", NULL);
            }
        } else {
            c->lives[1] = sim_node_life(sim, node);
            c->closed[1] = false;
            c->up = true;
            c->ops->opened(c->user);
        }
    }
    c->events--;
    settle(c);
}

struct sim_conn *sim_connect(struct sim *sim, unsigned client, uint64_t node_id,
                             const struct sim_conn_ops *ops, void *user) {
    unsigned end = SIM_END_CLIENT + (client - SIM_WHO_CLIENT);
    CHECK(client >= SIM_WHO_CLIENT && end < SIM_MAX_ENDS && node_id >= 1 &&
          node_id <= sim->n_nodes);
    struct sim_conn *c = conn_new(sim, end, (unsigned)node_id);
    c->ops = ops;
    c->user = user;
    c->closed[1] = true; /* until it is opened */
    later(c, round_trip_us(c), conn_open, 0);
    return c;
}

void sim_conn_send(struct sim_conn *conn, const void *data, size_t n) {
    CHECK(conn->up && !conn->closed[0]);
    if (!conn->broken) push(conn, 0, PACKET_BYTES, data, n, NULL, 0);
}

void sim_conn_answer(struct sim_conn *conn, const void *data, size_t n) {
    if (!conn->broken && !conn->closed[1]) push(conn, 1, PACKET_BYTES, data, n, NULL, 0);
}

void sim_conn_close(struct sim_conn *conn) {
    if (conn->closed[0]) return;
    conn->closed[0] = true;
    if (!conn->closed[1] && !conn->broken) push(conn, 0, PACKET_CLOSE, NULL, 0, NULL, 0);
}

uint64_t sim_conn_id(const struct sim_conn *conn) {
    return conn->id;
}
unsigned sim_conn_client(const struct sim_conn *conn) {
    return conn->ends[0] - SIM_END_CLIENT + SIM_WHO_CLIENT;
}
size_t sim_conn_pending_to_node(const struct sim_conn *conn) {
    return conn->pending_bytes[0];
}
size_t sim_conn_pending_to_client(const struct sim_conn *conn) {
    return conn->pending_bytes[1];
}
void sim_conn_set_service(struct sim_conn *conn, void *service) {
    conn->service = service;
}
void *sim_conn_service(const struct sim_conn *conn) {
    return conn->service;
}

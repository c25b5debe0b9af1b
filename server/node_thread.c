/* The node thread: takes all events, steps the node through them, pumps it (the group commit), and
 * carries out the effects. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "server/apply_thread.h"
#include "server/peers.h"
#include "server/reader_pool.h"
#include "server/services.h"
#include "server/thread.h"
#include "server/wal_thread.h"

enum { TICK_MS = 15, HELD_MS = 2, PUBLISH_MS = 200, IDLE_MS = 1000, HELP_TURNS = 8 };

struct node_loop {
    struct server *s;
    pthread_mutex_t lock;                 /* whoever turns the node holds it */
    atomic_uint_fast64_t sleeps_until_ms; /* the node thread */
    atomic_uint_fast64_t ticked_ms;
    atomic_bool traffic;    /* events came since it looked last */
    struct node_effects fx; /* from here on with the lock */
    uint64_t published_ms, idled_ms;
    bool publish;
};

struct event *event_new(enum node_event_type type) {
    struct event *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->link.cost_bytes = sizeof *e;
    e->ev.type = type;
    return e;
}

static void release_refs(struct event *e) {
    blob_unref(e->ev.append.block);
    blob_unref(e->ev.blocks.blob);
    blob_unref(e->msg.blocks.blob);
    free(e->text);
}

void event_free(struct event *e) {
    if (!e) return;
    release_refs(e);
    if (!e->embedded) free(e);
}

static void post(struct server *s, const struct node_event *ev, bool quiet) {
    struct event *e = event_new(ev->type);
    if (!e) server_fatal("memory is short");
    e->ev = *ev;
    if (ev->text) {
        e->text = strdup(ev->text);
        e->ev.text = e->text;
    }
    e->link.cost_bytes += ev->blocks.size_bytes;
    e->link.quiet = quiet;
    (void)queue_put(&s->events, &e->link);
}

void server_post(struct server *s, const struct node_event *ev) {
    post(s, ev, false);
}

void server_post_urgent(struct server *s, const struct node_event *ev) {
    post(s, ev, true);
}

/* So that the node's sentence reaches the client before its deadline does. */
static uint64_t node_deadline_ms(const struct rpc_call *call) {
    const uint64_t margin_ms = 30;
    uint64_t at = rpc_call_deadline_ms(call), now = clock_mono_ms();
    if (at == UINT64_MAX) return 0;
    if (at <= now) return now;
    return at - now > 2 * margin_ms ? at - margin_ms : now + (at - now) / 2;
}

replog_status server_ask(struct server *s, struct request *request, struct node_event *ev,
                         const struct rpc_call *call, replog_error *err) {
    if (atomic_load(&s->draining)) {
        return error_set(err, REPLOG_UNAVAILABLE, "this member is stopping; try another one");
    }
    struct event *e = &request->event;
    *e = (struct event){.link.cost_bytes = sizeof *e, .ev = *ev, .embedded = true};
    memcpy(&e->ev.token, &request, sizeof e->ev.token); /* a token is a request's address */
    e->ev.deadline_ms = node_deadline_ms(call);
    if (ev->append.block) {
        e->ev.append.block = blob_ref(ev->append.block);
        e->link.cost_bytes += ev->append.block->size_bytes;
        e->link.quiet = true;
    }
    if (!queue_offer(&s->events, &e->link)) {
        release_refs(e);
        stats_add(&s->stats.requests_refused, 1);
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED,
                         "more than %zu bytes of requests are waiting on this member; try again "
                         "later",
                         s->events.limit_bytes);
    }
    stats_add(&s->stats.requests, 1);
    return REPLOG_OK;
}

static void reply(const struct node_effect *fx) {
    struct request *request;
    _Static_assert(sizeof(void *) == sizeof fx->token, "a token holds an address");
    memcpy(&request, &fx->token, sizeof fx->token);
    request->done(request, fx);
}

static void carry_out(struct node_loop *l, struct node_effect *fx) {
    struct server *s = l->s;
    switch (fx->type) {
    case NODE_FX_WRITE:
    case NODE_FX_SYNC:
    case NODE_FX_SAVE_VOTE:
    case NODE_FX_CUT:
    case NODE_FX_FOUND:
    case NODE_FX_TRUNCATE:
        wal_thread_push(s, fx);
        break;
    case NODE_FX_SEND:
        peers_send(s, fx);
        break;
    case NODE_FX_REFUSE:
        peers_refuse(s, fx->stream, fx->text);
        break;
    case NODE_FX_WELCOME:
        peers_welcome(s, fx->stream, fx->peer);
        break;
    case NODE_FX_FEED:
        reader_pool_feed(s, fx);
        break;
    case NODE_FX_APPLY:
        apply_thread_apply(s, fx);
        break;
    case NODE_FX_FLUSH:
        apply_thread_flush(s);
        break;
    case NODE_FX_REPLY:
        reply(fx);
        break;
    case NODE_FX_PUBLISH:
        l->publish = true;
        break;
    case NODE_FX_FATAL:
        server_fatal("%s", fx->text);
    }
}

/* What goes to one connection goes at once. */
static void carry_out_all(struct node_loop *l) {
    for (unsigned pass = 0; pass < NODE_PASSES; pass++) {
        rpc_batch_begin();
        for (size_t i = 0; i < l->fx.n; i++)
            if (node_effect_pass(&l->fx.items[i]) == pass) carry_out(l, &l->fx.items[i]);
        rpc_batch_end();
    }
    node_effects_clear(&l->fx);
}

/* A stream is bound to its member as soon as its hello was stepped, so that what came right behind
 * it in the same bunch already counts as that member's. */
static void bind_stream(struct node_loop *l, size_t from) {
    for (size_t i = from; i < l->fx.n; i++) {
        const struct node_effect *fx = &l->fx.items[i];
        if (fx->type == NODE_FX_WELCOME) peers_welcome(l->s, fx->stream, fx->peer);
    }
}

static void step(struct node_loop *l, struct event *e, uint64_t now_ms, uint64_t wall_us) {
    bool of_peer = e->ev.type == NODE_EV_PEER_MESSAGE || e->ev.type == NODE_EV_PEER_DOWN;
    e->ev.now_ms = now_ms;
    e->ev.wall_us = wall_us;
    if (of_peer && !peers_admit(l->s, e)) return;
    if (e->ev.type == NODE_EV_PERSISTED) l->publish = true; /* readers wait for durability, too */
    size_t before = l->fx.n;
    node_step(l->s->node, &e->ev, &l->fx);
    if (e->ev.type == NODE_EV_PEER_MESSAGE && e->msg.kind == PEER_HELLO) bind_stream(l, before);
}

static void publish(struct node_loop *l, uint64_t now_ms) {
    struct server *s = l->s;
    struct node_snapshot fresh;
    node_snapshot(s->node, &fresh);
    (void)pthread_mutex_lock(&s->view_lock);
    const struct node_snapshot *old = &s->view;
    bool news = old->role != fresh.role || old->term != fresh.term || old->leader != fresh.leader ||
                old->founding != fresh.founding;
    bool was_serving = server_not_serving(&s->view) == NULL;
    s->view = fresh;
    (void)pthread_mutex_unlock(&s->view_lock);
    uint64_t readable = fresh.commit_seq < fresh.durable_seq ? fresh.commit_seq : fresh.durable_seq;
    bool grew = readable != atomic_load(&s->readable_seq);
    atomic_store(&s->readable_seq, readable);
    atomic_store(&s->first_seq, fresh.first_seq);
    atomic_store(&s->cut_off, fresh.cut_off);
    if (news) log_set_term(fresh.term);
    bool serving = server_not_serving(&fresh) == NULL && !atomic_load(&s->draining);
    if (s->rpc && (serving != was_serving || news)) rpc_server_set_serving(s->rpc, serving);
    if (grew || news) reads_wake(s);
    l->published_ms = now_ms;
    l->publish = false;
}

static void tick(struct node_loop *l) {
    struct node_event ev = {
        .type = NODE_EV_TICK, .now_ms = clock_mono_ms(), .wall_us = clock_wall_us()};
    node_step(l->s->node, &ev, &l->fx);
    peers_tick(l->s, ev.now_ms, &l->fx);
    l->ticked_ms = ev.now_ms;
}

/* One turn, with the lock held: all events, one pump, all effects. How long nobody needs to look
 * again unless something comes. */
static uint64_t turn(struct node_loop *l) {
    struct server *s = l->s;
    struct event *e = (struct event *)(void *)queue_take(&s->events, 0);
    bool nothing = e == NULL;
    if (!nothing && !atomic_load(&l->traffic)) atomic_store(&l->traffic, true);
    peers_resume(s);
    uint64_t now_ms = clock_mono_ms(), wall_us = clock_wall_us();
    while (e) {
        struct event *next = (struct event *)(void *)e->link.next;
        step(l, e, now_ms, wall_us);
        event_free(e);
        e = next;
    }
    if (nothing || now_ms - l->ticked_ms >= TICK_MS) tick(l);
    node_pump(s->node, &l->fx);
    carry_out_all(l);
    if (l->publish || now_ms - l->published_ms >= PUBLISH_MS) publish(l, now_ms);
    if (now_ms - l->idled_ms >= IDLE_MS) {
        l->idled_ms = now_ms;
        reads_idle(s);
    }
    return node_wants_pump(s->node) ? HELD_MS : TICK_MS;
}

/* False: somebody else is at it, and looks for new events once more when he is through. */
static bool try_turn(struct node_loop *l, uint64_t *wait_ms) {
    if (pthread_mutex_trylock(&l->lock) != 0) return false;
    *wait_ms = turn(l);
    (void)pthread_mutex_unlock(&l->lock);
    return true;
}

static void *node_thread_main(void *arg) {
    struct server *s = arg;
    struct node_loop *l = s->node_loop;
    bool stop = false;
    while (!stop) {
        stop = !atomic_load(&s->node_running);
        bool late = clock_mono_ms() - atomic_load(&l->ticked_ms) >= TICK_MS;
        uint64_t wait_ms;
        if (stop || late) {
            (void)pthread_mutex_lock(&l->lock);
            wait_ms = turn(l);
            (void)pthread_mutex_unlock(&l->lock);
        } else if (!try_turn(l, &wait_ms)) {
            queue_wait_for_more(&s->events, HELD_MS);
            continue;
        }
        /* With traffic there is nearly always something held back for a moment: to look for it in
         * time costs less than to be woken for each. */
        if (atomic_exchange(&l->traffic, false)) wait_ms = HELD_MS;
        atomic_store(&l->sleeps_until_ms, clock_mono_ms() + wait_ms);
        if (!stop) queue_wait(&s->events, wait_ms);
    }
    return NULL;
}

void node_thread_help(void *user) {
    struct server *s = user;
    struct node_loop *l = s->node_loop;
    for (unsigned i = 0; i < HELP_TURNS && queue_size_bytes(&s->events) > 0; i++) {
        if (!atomic_load(&s->node_running)) break;
        uint64_t wait_ms;
        if (!try_turn(l, &wait_ms)) return;
        bool sooner =
            wait_ms < TICK_MS && clock_mono_ms() + wait_ms < atomic_load(&l->sleeps_until_ms);
        if (sooner) queue_wake(&s->events);
    }
    queue_poke(&s->events);
}

replog_status node_thread_start(struct server *s, replog_error *err) {
    struct node_loop *l = calloc(1, sizeof *l);
    if (!l) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    l->s = s;
    (void)pthread_mutex_init(&l->lock, NULL);
    s->node_loop = l;
    atomic_store(&s->node_running, true);
    return thread_start(&s->node_thread, "node", node_thread_main, s, err);
}

void node_thread_stop(struct server *s, uint64_t timeout_ms) {
    atomic_store(&s->node_running, false);
    queue_wake(&s->events);
    if (!thread_join_within(s->node_thread, timeout_ms)) log_warn("the node thread did not end");
}

/* sim_rpc_service.c: the services of a node. The handlers are the server's own (server/append.c,
 * log_service.c, read_service.c); what they stand on in replogd - the node thread's queue, the
 * reader pool, refusals - is here, in virtual time. Status is a short one of ours: what the library
 * needs to find the leader; the real one asks all members. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "replog.pb-c.h"
#include "server/reader_pool.h"
#include "server/services.h"
#include "sim_oracle.h"
#include "sim_rpc.h"

enum {
    SEND_QUEUE_BYTES = 512 << 10, /* of one call, as in server.c */
    ASK_US = 40,                  /* from a handler to the node thread */
    TASK_PROMPT_US = 60,          /* a task of the reader pool, mostly */
    TASK_LATE_US = 20000,         /* and when its disk is busy */
    TASK_LATE_ONE_IN = 20,
    POLL_US = 20000, /* a commit that nobody told us of */
    COMMIT_US = 300, /* from a commit to the readers' wake */
    IDLE_US = 1000000,
    PAUSED_AGAIN_US = 2000,
    DEADLINE_MARGIN_MS = 30
};

/* A question to the node that has no answer yet. Tokens of a member are given in order. */
struct question {
    struct request *request; /* NULL: answered */
    enum node_event_type type;
    enum node_ack ack;
    uint64_t session;
};

/* On its way to the node thread. */
struct ask {
    struct ask *next;
    struct node_event event; /* with a reference to append.block */
};

struct sim_service {
    struct server server; /* first: server_ask() gets its address */
    struct sim *sim;
    uint64_t id, life;
    bool up, ending;
    struct question *questions; /* [token - first_token] */
    uint64_t first_token, next_token;
    size_t n_questions, capacity;
    struct ask *asks, **last_ask;
    struct task *tasks, **last_task;
    unsigned n_tasks;
    uint64_t generation; /* of timers: those of an earlier life end */
    uint64_t idle_us;
};

static struct {
    struct sim_service of[SIM_MAX_NODES + 1];
    uint64_t rng, pending_bytes;
    bool woken;
} services;

static struct sim_service *of_server(struct server *s) {
    return (struct sim_service *)(void *)s;
}

/* ---- What handlers call ---------------------------------------------------------------------- */

/* As in server/node_thread.c: so that the node's sentence comes before the call's deadline. */
static uint64_t node_deadline_ms(const struct rpc_call *call) {
    uint64_t at = rpc_call_deadline_ms(call), now = clock_mono_ms();
    if (at == UINT64_MAX) return 0;
    if (at <= now) return now;
    return at - now > 2 * DEADLINE_MARGIN_MS ? at - DEADLINE_MARGIN_MS : now + (at - now) / 2;
}

static uint64_t add_question(struct sim_service *v, struct request *request,
                             const struct node_event *ev) {
    if (v->n_questions == 0) v->first_token = v->next_token;
    if (v->n_questions == v->capacity) {
        v->capacity = v->capacity ? 2 * v->capacity : 64;
        v->questions = realloc(v->questions, v->capacity * sizeof *v->questions);
        CHECK(v->questions != NULL);
    }
    v->questions[v->n_questions++] = (struct question){
        .request = request, .type = ev->type, .ack = ev->append.ack, .session = ev->append.session};
    return v->next_token++;
}

static void forget_answered(struct sim_service *v) {
    size_t done = 0;
    while (done < v->n_questions && !v->questions[done].request) done++;
    if (done < v->n_questions && done < v->n_questions / 2) return;
    v->n_questions -= done;
    v->first_token += done;
    memmove(v->questions, v->questions + done, v->n_questions * sizeof *v->questions);
}

static void free_asks(struct sim_service *v) {
    for (struct ask *a = v->asks, *next; a; a = next) {
        next = a->next;
        blob_unref(a->event.append.block);
        free(a);
    }
    v->asks = NULL;
}

/* The node thread takes all that has come. A step may end the process. */
static void on_asks(struct sim *sim, void *arg, uint64_t generation) {
    struct sim_service *v = arg;
    while (v->up && v->generation == generation && v->asks) {
        struct ask *a = v->asks;
        v->asks = a->next;
        sim_node_post(sim, v->id, &a->event);
        blob_unref(a->event.append.block);
        free(a);
    }
}

replog_status server_ask(struct server *s, struct request *request, struct node_event *ev,
                         const struct rpc_call *call, replog_error *err) {
    struct sim_service *v = of_server(s);
    if (v->ending || !v->up) return error_set(err, REPLOG_UNAVAILABLE, "this member is stopping");
    struct ask *a = calloc(1, sizeof *a);
    CHECK(a != NULL);
    a->event = *ev;
    a->event.deadline_ms = node_deadline_ms(call);
    a->event.token = add_question(v, request, ev);
    if (ev->append.block) blob_ref(ev->append.block);
    if (!v->asks) {
        v->last_ask = &v->asks;
        sim_after(v->sim, rng_between(&services.rng, 0, ASK_US), on_asks, v, v->generation);
    }
    *v->last_ask = a;
    v->last_ask = &a->next;
    return REPLOG_OK;
}

bool server_leader_text(struct server *s, uint64_t leader, char *out, size_t out_bytes) {
    (void)s;
    snprintf(out, out_bytes, "%" PRIu64 " %s", leader, sim_rpc_address(leader));
    return true;
}

void server_refuse(struct server *s, struct rpc_call *call, replog_status status, const char *text,
                   uint64_t leader) {
    char where[64];
    if (leader != 0 && server_leader_text(s, leader, where, sizeof where)) {
        rpc_finish_with(call, status, text, "replog-leader", where);
    } else {
        rpc_finish(call, status, text);
    }
}

/* ---- The reader pool ------------------------------------------------------------------------- */

static void run_task(struct sim_service *v) {
    struct task *task = v->tasks;
    v->tasks = task->next;
    if (!v->tasks) v->last_task = &v->tasks;
    v->n_tasks--;
    task->run(task);
}

static uint64_t task_delay_us(void) {
    bool late = rng_between(&services.rng, 1, TASK_LATE_ONE_IN) == 1;
    return rng_between(&services.rng, 0, late ? TASK_LATE_US : TASK_PROMPT_US);
}

static void on_task(struct sim *sim, void *arg, uint64_t generation) {
    struct sim_service *v = arg;
    if (!v->up || v->generation != generation) return;
    if (sim_node_paused(sim, v->id)) {
        sim_after(sim, PAUSED_AGAIN_US, on_task, v, generation);
        return;
    }
    struct sim_clock before = sim_clock_enter((struct sim_clock){.node = v->id});
    if (v->tasks) run_task(v);
    sim_clock_enter(before);
}

void reader_pool_push(struct server *s, struct task *task) {
    struct sim_service *v = of_server(s);
    task->next = NULL;
    if (!v->tasks) v->last_task = &v->tasks;
    *v->last_task = task;
    v->last_task = &task->next;
    v->n_tasks++;
    if (!v->ending) sim_after(v->sim, task_delay_us(), on_task, v, v->generation);
}

bool reader_pool_offer(struct server *s, struct task *task) {
    if (of_server(s)->n_tasks >= READER_MAX_TASKS) return false;
    reader_pool_push(s, task);
    return true;
}

/* ---- Commits, for readers -------------------------------------------------------------------- */

static void look(struct sim_service *v) {
    if (!v->up || sim_node_paused(v->sim, v->id)) return;
    struct server *s = &v->server;
    uint64_t readable = sim_node_commit(v->sim, v->id);
    bool grew = readable != atomic_load(&s->readable_seq);
    atomic_store(&s->readable_seq, readable);
    struct sim_clock before = sim_clock_enter((struct sim_clock){.node = v->id});
    if (grew) reads_wake(s);
    if (sim_now_us(v->sim) - v->idle_us >= IDLE_US) {
        struct node_snapshot view;
        sim_node_snapshot(v->sim, v->id, &view);
        atomic_store(&s->cut_off, view.cut_off);
        v->idle_us = sim_now_us(v->sim);
        reads_idle(s);
    }
    sim_clock_enter(before);
}

static void on_poll(struct sim *sim, void *arg, uint64_t generation) {
    struct sim_service *v = arg;
    if (!v->up || v->generation != generation) return;
    look(v);
    sim_after(sim, POLL_US, on_poll, v, generation);
}

static void on_commit(struct sim *sim, void *arg, uint64_t tag) {
    (void)arg;
    (void)tag;
    services.woken = false;
    for (uint64_t id = 1; id <= sim_n_nodes(sim); id++) look(&services.of[id]);
}

void sim_services_commit(void) {
    if (services.woken || !sim_rpc_sim()) return;
    services.woken = true;
    sim_after(sim_rpc_sim(), COMMIT_US, on_commit, NULL, 0);
}

/* ---- Status ---------------------------------------------------------------------------------- */

static void status_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    struct sim_service *v = of_server(rpc_call_user(call));
    struct node_snapshot view;
    sim_node_snapshot(v->sim, v->id, &view);
    Replog__V1__StatusReply reply = REPLOG__V1__STATUS_REPLY__INIT;
    Replog__V1__MemberStatus members[SIM_MAX_NODES], *list[SIM_MAX_NODES];
    char addresses[SIM_MAX_NODES][32];
    for (unsigned i = 0; i < sim_n_nodes(v->sim); i++) {
        replog__v1__member_status__init(&members[i]);
        members[i].id = i + 1;
        snprintf(addresses[i], sizeof addresses[i], "%s", sim_rpc_address(i + 1));
        members[i].address = addresses[i];
        list[reply.n_members++] = &members[i];
    }
    reply.members = list;
    reply.leader = view.leader;
    reply.term = view.term;
    reply.first_seq = view.first_seq;
    reply.commit_seq = view.commit_seq;
    reply.last_seq = view.last_seq;
    reply.safe_seq = view.safe_seq;
    reply.drop_upto = view.drop_upto;
    reply.answered_by = v->id;
    reply.cluster_id = view.cluster_id;
    (void)rpc_send_message(call, &reply.base);
    rpc_finish(call, REPLOG_OK, NULL);
}

static const struct rpc_handlers short_status_handlers = {.message = status_message};

/* ---- Calls ----------------------------------------------------------------------------------- */

struct method {
    const char *path;
    const struct rpc_handlers *handlers;
    bool stream; /* of requests */
};
static const struct method methods[] = {
    {"/replog.v1.Log/OpenSession", &open_session_handlers, false},
    {"/replog.v1.Log/Append", &append_handlers, false},
    {"/replog.v1.Log/AppendStream", &append_stream_handlers, true},
    {"/replog.v1.Log/Read", &read_handlers, false},
    {"/replog.v1.Log/Get", &get_handlers, false},
    {"/replog.v1.Log/Checkpoint", &checkpoint_handlers, false},
    {"/replog.v1.Log/Truncate", &truncate_handlers, false},
    {"/replog.v1.Log/Status", &short_status_handlers, false},
};

/* What a Get asks for, before its handler sees it. */
static void get_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.wire_type == 2 && !call->get_key) {
            call->get_key = malloc(f.bytes.size_bytes + 1);
            CHECK(call->get_key != NULL);
            memcpy(call->get_key, f.bytes.data, f.bytes.size_bytes);
            call->get_key_bytes = f.bytes.size_bytes;
        }
        if (f.number == 2 && f.wire_type == 0) call->get_stale = f.value != 0;
    }
    call->is_get = true;
    get_handlers.message(call, bytes, size_bytes);
}

void sim_service_watch_get(struct rpc_call *call, replog_status status, const uint8_t *reply,
                           size_t size_bytes) {
    struct sim_service *v = call->link->service;
    if (!v->up || v->ending || (status != REPLOG_OK && status != REPLOG_NOT_FOUND)) return;
    struct sim_get_served served = {.node = v->id,
                                    .life = v->life,
                                    .stale = call->get_stale,
                                    .found = status == REPLOG_OK,
                                    .key = {call->get_key, call->get_key_bytes}};
    struct pb_reader r = {.data = reply, .end = reply + size_bytes};
    struct pb_field f;
    while (reply && pb_next(&r, &f)) {
        if (f.number == 2 && f.wire_type == 2) served.value = f.bytes;
        if (f.number == 3 && f.wire_type == 0) served.seq = f.value;
    }
    served.commit_seq = sim_node_commit(v->sim, v->id);
    sim_oracle_get_served(v->sim, &served);
}

struct rpc_call *sim_service_call(struct sim_link *link, uint32_t id, uint64_t timeout_us,
                                  const char *path) {
    struct sim_service *v = link->service;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
        const struct method *m = &methods[i];
        if (strcmp(m->path, path) != 0) continue;
        struct rpc_call *call = sim_call_new(link, id, true);
        call->handlers = *m->handlers;
        if (m->handlers == &get_handlers) call->handlers.message = get_message;
        call->unary_request = !m->stream;
        call->user = &v->server;
        call->out_limit = SEND_QUEUE_BYTES;
        if (timeout_us > 0) call->deadline_us = sim_now_us(v->sim) + timeout_us;
        return call;
    }
    sim_fail(v->sim, "[client] a call of %s, which no service here has", path);
}

/* ---- From the world -------------------------------------------------------------------------- */

void sim_service_reply(struct sim *sim, uint64_t id, const struct node_effect *fx) {
    struct sim_service *v = &services.of[id];
    size_t index = (size_t)(fx->token - v->first_token);
    if (!v->up) return;
    if (fx->token < v->first_token || index >= v->n_questions || !v->questions[index].request)
        sim_fail(sim,
                 "[one-answer] node %" PRIu64 " answered token %" PRIu64
                 ", which waits for no answer",
                 id, fx->token);
    /* the client's library says that, and knows of earlier attempts (seed 2420007206) */
    if (strstr(fx->text, "nothing was appended"))
        sim_fail(sim, "[not-taken] node %" PRIu64 " speaks for the attempts before this one: %s",
                 id, fx->text);
    struct question q = v->questions[index];
    v->questions[index].request = NULL;
    forget_answered(v);
    struct sim_clock before = sim_clock_enter((struct sim_clock){.node = id});
    if (fx->status == REPLOG_OK && (q.type == NODE_EV_APPEND || q.type == NODE_EV_OPEN_SESSION)) {
        enum node_ack ack = q.type == NODE_EV_APPEND ? q.ack : NODE_ACK_QUORUM;
        sim_oracle_node_acked(sim, id, ack, &fx->reply);
    } else if (fx->status == REPLOG_FAILED_PRECONDITION && q.session) {
        sim_oracle_node_refused(sim, id, q.session, fx->text);
    } else if (fx->status == REPLOG_OK && q.type == NODE_EV_CHECKPOINT) {
        sim_oracle_node_checkpoint(sim, id, &fx->reply);
    }
    q.request->done(q.request, fx);
    sim_clock_enter(before);
}

void sim_service_node_up(struct sim *sim, uint64_t id) {
    struct sim_service *v = &services.of[id];
    replog_error err;
    CHECK(!v->up);
    v->server = (struct server){.kind = USER_SERVER};
    v->server.options.pending_bytes = services.pending_bytes;
    v->server.wal = sim_node_wal(sim, id);
    v->server.store = sim_node_store(sim, id);
    CHECK(appends_start(&v->server, &err) == REPLOG_OK);
    CHECK(reads_start(&v->server, &err) == REPLOG_OK);
    v->sim = sim;
    v->id = id;
    v->life = sim_node_life(sim, id);
    v->tasks = NULL;
    v->last_task = &v->tasks;
    v->n_tasks = 0;
    v->up = true;
    v->ending = false;
    v->generation++;
    v->idle_us = sim_now_us(sim);
    struct node_snapshot view;
    sim_node_snapshot(sim, id, &view);
    const struct config_member *self = config_find(&view.config, id);
    if (self) CHECK(strcmp(self->address, sim_rpc_address(id)) == 0);
    sim_after(sim, POLL_US, on_poll, v, v->generation);
}

/* Handlers get back what they own; nothing that they say goes anywhere. */
static void end_process(struct sim_service *v) {
    v->ending = true;
    struct sim_clock before = sim_clock_enter((struct sim_clock){.node = v->id});
    struct node_effect gone = {.status = REPLOG_UNAVAILABLE, .text = "the process has died"};
    for (size_t i = 0; i < v->n_questions; i++) {
        struct request *request = v->questions[i].request;
        v->questions[i].request = NULL;
        if (request) request->done(request, &gone);
    }
    v->n_questions = 0;
    while (v->tasks) run_task(v);
    v->up = false;
    sim_clock_enter(before);
}

/* The calls of a member that died end before it is gone; also those whose connection was lost just
 * before. */
static void end_calls(struct sim_service *v) {
    for (struct sim_link *link = sim_rpc_links(); link; link = link->all_next) {
        if (link->service != v) continue;
        sim_link_lost(link, "the process has died");
        while (link->calls) {
            CHECK(link->calls->over);
            sim_call_deliver(link->calls);
        }
    }
}

static void service_end(struct sim_service *v) {
    if (!v->up) return;
    v->ending = true;
    end_calls(v);
    free_asks(v);
    end_process(v);
    free(v->server.appends);
    free(v->server.reads);
    v->server.appends = NULL;
    v->server.reads = NULL;
}

void sim_service_node_down(struct sim *sim, uint64_t id) {
    if (services.of[id].up) sim_oracle_node_down(sim, id);
    service_end(&services.of[id]);
}

void sim_service_bytes(struct sim *sim, uint64_t id, struct sim_conn *conn, const uint8_t *data,
                       size_t n) {
    (void)sim;
    struct sim_service *v = &services.of[id];
    struct sim_link *link = sim_conn_service(conn);
    if (!v->up) return;
    if (!link) {
        link = sim_link_new((struct sim_clock){.node = id});
        link->service = v;
        link->conn = conn;
        link->up = true;
        sim_conn_set_service(conn, link);
    }
    sim_link_hear(link, data, n);
}

void sim_service_conn_down(struct sim *sim, uint64_t id, struct sim_conn *conn) {
    (void)sim;
    (void)id;
    struct sim_link *link = sim_conn_service(conn);
    if (link) sim_link_lost(link, "the connection was lost");
}

/* ---- The run --------------------------------------------------------------------------------- */

void sim_services_begin(struct sim *sim) {
    static const uint64_t pending[] = {256 << 10, 2 << 20, 16 << 20, 16 << 20};
    memset(&services, 0, sizeof services);
    services.rng = sim_fork_rng(sim, "services");
    for (uint64_t id = 1; id <= SIM_MAX_NODES; id++)
        services.of[id].next_token = id << 40 | 1; /* unique over members and lives */
    services.pending_bytes = pending[rng_between(&services.rng, 0, 3)];
}

void sim_services_end(void) {
    for (uint64_t id = 1; id <= SIM_MAX_NODES; id++) {
        service_end(&services.of[id]);
        free(services.of[id].questions);
        services.of[id].questions = NULL;
    }
}

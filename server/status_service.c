/* Status and Inspect. Any node answers Status: it asks every member what that knows of itself, then
 * asks those that answered for their chain value at the largest seq that all of them hold. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "replog.pb-c.h"
#include "peer.pb-c.h"
#include "server/peers.h"
#include "server/reader_pool.h"
#include "server/services.h"

/* Both rounds must end well before a client gives up on this node and asks the next one. */
enum { ASK_MS = 400, MAX_STATUS_CALLS = 64, UNPACK_BUDGET = 64 << 10 };

/* What one member says of itself, and, when it leads, of the others. */
struct report {
    bool answered;
    char state[16];
    uint64_t id, term, leader, first_seq, last_seq, durable_seq, commit_seq, applied_seq,
        checkpoint_seq, chain_seq, chain, log_bytes, safe_seq, drop_upto, cluster_id, incarnation;
    unsigned n_views, n_held_by;
    struct node_peer_view views[RAFT_MAX_MEMBERS]; /* id, match, checkpoint, applied, lag */
    uint64_t held_by[RAFT_MAX_MEMBERS];
};

/* ---- This member's report */

static const char *state_text(struct server *s, const struct node_snapshot *v) {
    if (atomic_load(&s->damaged)) return "damaged";
    if (v->role == RAFT_LEADER) return "leader";
    return v->role == RAFT_FOLLOWER ? "follower" : "candidate";
}

static void report_self(struct server *s, struct report *out) {
    struct node_snapshot v;
    server_view(s, &v);
    struct wal_identity identity = wal_identity(s->wal);
    *out = (struct report){.answered = true,
                           .id = s->options.id,
                           .term = v.term,
                           .leader = v.leader,
                           .first_seq = v.first_seq,
                           .last_seq = v.last_seq,
                           .durable_seq = v.durable_seq,
                           .commit_seq = v.commit_seq,
                           .applied_seq = v.applied_seq,
                           .checkpoint_seq = v.checkpoint_seq,
                           .log_bytes = v.bytes_appended,
                           .safe_seq = v.safe_seq,
                           .drop_upto = v.drop_upto,
                           .cluster_id = identity.cluster_id,
                           .incarnation = identity.incarnation};
    (void)snprintf(out->state, sizeof out->state, "%s", state_text(s, &v));
    if (v.role != RAFT_LEADER) return;
    out->n_views = v.n_peers;
    memcpy(out->views, v.peers, v.n_peers * sizeof v.peers[0]);
    for (unsigned i = 0; i < v.n_held_by; i++) out->held_by[out->n_held_by++] = v.held_by[i].id;
}

/* May wait for the disk. */
static void add_chain(struct server *s, uint64_t seq, struct report *out) {
    struct wal_pos pos;
    if (seq == 0 || wal_pos_at(s->wal, seq, &pos, NULL) != REPLOG_OK || pos.seq != seq) return;
    out->chain_seq = seq;
    out->chain = pos.chain;
}

/* ---- Inspect */

struct inspect {
    struct task task; /* first */
    struct server *s;
    struct rpc_call *call;
    uint64_t chain_seq;
};

static void inspect_send(struct rpc_call *call, struct report *r) {
    Replog__V1__MemberView views[RAFT_MAX_MEMBERS], *pointers[RAFT_MAX_MEMBERS];
    uint64_t held_by[RAFT_MAX_MEMBERS];
    Replog__V1__InspectReply reply = REPLOG__V1__INSPECT_REPLY__INIT;
    reply.id = r->id;
    reply.state = r->state;
    reply.term = r->term;
    reply.leader = r->leader;
    reply.first_seq = r->first_seq;
    reply.last_seq = r->last_seq;
    reply.durable_seq = r->durable_seq;
    reply.commit_seq = r->commit_seq;
    reply.applied_seq = r->applied_seq;
    reply.checkpoint_seq = r->checkpoint_seq;
    reply.chain_seq = r->chain_seq;
    reply.chain = r->chain;
    reply.log_bytes = r->log_bytes;
    reply.safe_seq = r->safe_seq;
    reply.drop_upto = r->drop_upto;
    reply.cluster_id = r->cluster_id;
    reply.incarnation = r->incarnation;
    for (unsigned i = 0; i < r->n_views; i++) {
        Replog__V1__MemberView one = REPLOG__V1__MEMBER_VIEW__INIT;
        one.id = r->views[i].id;
        one.match_seq = r->views[i].match_seq;
        one.checkpoint_seq = r->views[i].checkpoint_seq;
        one.applied_seq = r->views[i].applied_seq;
        one.lag_bytes = r->views[i].lag_bytes;
        views[i] = one;
        pointers[i] = &views[i];
    }
    memcpy(held_by, r->held_by, sizeof held_by);
    reply.n_members = r->n_views;
    reply.members = pointers;
    reply.n_held_by = r->n_held_by;
    reply.held_by = held_by;
    (void)rpc_send_message(call, &reply.base);
    rpc_finish(call, REPLOG_OK, NULL);
}

static void inspect_run(struct task *task) {
    struct inspect *i = (struct inspect *)(void *)task;
    struct report report;
    report_self(i->s, &report);
    add_chain(i->s, i->chain_seq, &report);
    inspect_send(i->call, &report);
    rpc_call_unref(i->call);
    free(i);
}

static void inspect_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct server *s = rpc_call_user(call);
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    uint64_t chain_seq = 0;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.wire_type == 0) chain_seq = f.value;
    }
    if (chain_seq == 0) { /* nothing to wait for */
        struct report report;
        report_self(s, &report);
        inspect_send(call, &report);
        return;
    }
    struct inspect *i = malloc(sizeof *i);
    if (i) {
        *i = (struct inspect){
            .task.run = inspect_run, .s = s, .call = rpc_call_ref(call), .chain_seq = chain_seq};
        if (reader_pool_offer(s, &i->task)) return;
        rpc_call_unref(i->call);
        free(i);
    }
    rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "too many reads are waiting on this member");
}

const struct rpc_handlers inspect_handlers = {.message = inspect_message};

/* ---- Status */

/* One Status call. Whoever takes `waiting` to 0 goes on with it; until then only its own report is
 * written by each answer. */
struct status_op {
    struct task task; /* first */
    struct server *s;
    struct rpc_call *call;
    struct node_snapshot view;
    struct report reports[RAFT_MAX_MEMBERS]; /* in the order of `members` */
    struct config members;
    bool chains; /* the second round */
    uint64_t chain_seq;
    atomic_uint waiting;
};
struct status_ask {
    struct status_op *op;
    unsigned index;
};
static atomic_uint status_calls;

static void report_decode(const Replog__V1__InspectReply *m, struct report *out) {
    struct report r = {.answered = true,
                       .id = m->id,
                       .term = m->term,
                       .leader = m->leader,
                       .first_seq = m->first_seq,
                       .last_seq = m->last_seq,
                       .durable_seq = m->durable_seq,
                       .commit_seq = m->commit_seq,
                       .applied_seq = m->applied_seq,
                       .checkpoint_seq = m->checkpoint_seq,
                       .chain_seq = m->chain_seq,
                       .chain = m->chain,
                       .log_bytes = m->log_bytes,
                       .safe_seq = m->safe_seq,
                       .drop_upto = m->drop_upto,
                       .cluster_id = m->cluster_id,
                       .incarnation = m->incarnation};
    (void)snprintf(r.state, sizeof r.state, "%s", m->state);
    for (size_t i = 0; i < m->n_members && i < RAFT_MAX_MEMBERS; i++) {
        const Replog__V1__MemberView *v = m->members[i];
        r.views[r.n_views++] = (struct node_peer_view){.id = v->id,
                                                       .match_seq = v->match_seq,
                                                       .checkpoint_seq = v->checkpoint_seq,
                                                       .applied_seq = v->applied_seq,
                                                       .lag_bytes = v->lag_bytes};
    }
    for (size_t i = 0; i < m->n_held_by && i < RAFT_MAX_MEMBERS; i++) {
        r.held_by[r.n_held_by++] = m->held_by[i];
    }
    *out = r;
}

/* Did that member answer, as this node knows it? Not so: another one at its address, a directory
 * of another cluster, or one that was wiped and came back with another incarnation. Their figures
 * say nothing of this log. */
static bool is_of_member(const struct status_op *op, const struct config_member *member,
                         const struct report *r) {
    const struct node_snapshot *v = &op->view;
    if (r->id != member->id) return false;
    if (v->founding == WAL_FOUNDED && r->incarnation != member->incarnation) return false;
    /* a founding member may be a moment behind the others */
    uint64_t ours = v->founding == WAL_AGREED ? config_cluster_id(&v->config) : v->cluster_id;
    return r->cluster_id == 0 || r->cluster_id == ours;
}

static void status_step(struct status_op *op);

static void arrived(struct status_op *op) {
    if (atomic_fetch_sub(&op->waiting, 1) == 1) status_step(op);
}

static void ask_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct status_ask *ask = rpc_call_user(call);
    struct report *report = &ask->op->reports[ask->index];
    ProtobufCMessage *m =
        rpc_unpack(&replog__v1__inspect_reply__descriptor, bytes, size_bytes, UNPACK_BUDGET);
    if (!m) return;
    struct report fresh;
    report_decode((const Replog__V1__InspectReply *)(void *)m, &fresh);
    protobuf_c_message_free_unpacked(m, NULL);
    if (!is_of_member(ask->op, &ask->op->members.members[ask->index], &fresh)) return;
    if (ask->op->chains) { /* what was said at first stays; the chain belongs to it */
        report->chain_seq = fresh.chain_seq;
        report->chain = fresh.chain;
    } else {
        *report = fresh;
    }
}

static void ask_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status; /* no answer: unreachable */
    (void)text;
    struct status_ask *ask = rpc_call_user(call);
    struct status_op *op = ask->op;
    free(ask);
    arrived(op);
}

static const struct rpc_handlers ask_handlers = {.message = ask_message, .closed = ask_closed};

static void ask_member(struct status_op *op, unsigned index) {
    struct rpc_channel *channel = peers_channel(op->s, op->members.members[index].id);
    struct status_ask *ask = channel ? malloc(sizeof *ask) : NULL;
    if (!ask) return;
    *ask = (struct status_ask){op, index};
    (void)atomic_fetch_add(&op->waiting, 1);
    struct rpc_call *call =
        rpc_start(channel, "/replog.v1.Peer/Inspect", ASK_MS, &ask_handlers, ask);
    if (!call) {
        free(ask);
        (void)atomic_fetch_sub(&op->waiting, 1); /* never the last: the caller holds one */
        return;
    }
    struct buffer request = {0};
    pb_put_varint(&request, 1, op->chain_seq);
    (void)rpc_send(call, &(struct rpc_piece){request.data, request.size_bytes, NULL}, 1);
    buffer_free(&request);
    rpc_end(call);
    rpc_call_unref(call);
}

/* One round: `waiting` holds one for this function, so that it ends after all are asked. */
static void ask_all(struct status_op *op) {
    atomic_store(&op->waiting, 1);
    for (unsigned i = 0; i < op->members.n_members; i++) {
        if (op->members.members[i].id == op->s->options.id) {
            if (!op->chains) report_self(op->s, &op->reports[i]);
            if (op->chains) add_chain(op->s, op->chain_seq, &op->reports[i]);
        } else if (!op->chains || op->reports[i].answered) {
            ask_member(op, i);
        }
    }
    arrived(op);
}

/* The largest seq whose block all that answered hold, committed and durable; 0: none. */
static uint64_t common_seq(const struct status_op *op) {
    uint64_t low = UINT64_MAX, floor = 0;
    for (unsigned i = 0; i < op->members.n_members; i++) {
        const struct report *r = &op->reports[i];
        if (!r->answered) continue;
        uint64_t has = r->commit_seq < r->durable_seq ? r->commit_seq : r->durable_seq;
        if (has < low) low = has;
        if (r->first_seq > 0 && r->first_seq - 1 > floor) floor = r->first_seq - 1;
    }
    return low == UINT64_MAX || low < floor ? 0 : low;
}

/* ---- Composing the reply */

static const struct report *leader_report(const struct status_op *op) {
    const struct report *best = NULL;
    for (unsigned i = 0; i < op->members.n_members; i++) {
        const struct report *r = &op->reports[i];
        bool leads = r->answered && r->leader == r->id && r->n_views > 0;
        if (leads && (!best || r->term > best->term)) best = r;
    }
    return best;
}

static const struct node_peer_view *view_of(const struct report *leader, uint64_t id) {
    for (unsigned i = 0; leader && i < leader->n_views; i++) {
        if (leader->views[i].id == id) return &leader->views[i];
    }
    return NULL;
}

static void fill_member(Replog__V1__MemberStatus *m, struct config_member *member, struct report *r,
                        const struct node_peer_view *known) {
    static char unreachable[] = "unreachable", voter[] = "voter", learner[] = "learner";
    *m = (Replog__V1__MemberStatus)REPLOG__V1__MEMBER_STATUS__INIT;
    m->id = member->id;
    m->address = member->address;
    m->role = member->role == MEMBER_LEARNER ? learner : voter;
    m->online = r->answered;
    m->state = r->answered ? r->state : unreachable;
    m->commit_seq = r->commit_seq;
    m->match_seq = r->durable_seq;
    m->applied_seq = r->applied_seq;
    m->checkpoint_seq = r->checkpoint_seq;
    if (known) {
        m->match_seq = known->match_seq;
        m->lag_bytes = known->lag_bytes;
        if (known->applied_seq > m->applied_seq) m->applied_seq = known->applied_seq;
        if (known->checkpoint_seq > m->checkpoint_seq) m->checkpoint_seq = known->checkpoint_seq;
    }
    m->chain_seq = r->chain_seq;
    m->chain = r->chain;
}

static void fill_holders(Replog__V1__StatusReply *reply, const struct report *leader,
                         Replog__V1__Holder *holders, Replog__V1__Holder **pointers) {
    for (unsigned i = 0; leader && i < leader->n_held_by; i++) {
        const struct node_peer_view *view = view_of(leader, leader->held_by[i]);
        holders[i] = (Replog__V1__Holder)REPLOG__V1__HOLDER__INIT;
        holders[i].id = leader->held_by[i];
        holders[i].checkpoint_seq = view ? view->checkpoint_seq : 0;
        pointers[reply->n_held_by++] = &holders[i];
    }
    reply->held_by = pointers;
}

static void compose(struct status_op *op) {
    Replog__V1__MemberStatus members[RAFT_MAX_MEMBERS], *member_at[RAFT_MAX_MEMBERS];
    Replog__V1__Holder holders[RAFT_MAX_MEMBERS], *holder_at[RAFT_MAX_MEMBERS];
    Replog__V1__StatusReply reply = REPLOG__V1__STATUS_REPLY__INIT;
    const struct report *leader = leader_report(op), *base = leader;
    for (unsigned i = 0; i < op->members.n_members; i++) {
        struct report *r = &op->reports[i];
        if (!base && r->id == op->s->options.id) base = r;
        fill_member(&members[i], &op->members.members[i], r,
                    view_of(leader, op->members.members[i].id));
        member_at[reply.n_members++] = &members[i];
    }
    reply.members = member_at;
    reply.leader = leader ? leader->id : 0;
    if (base) {
        reply.term = base->term;
        reply.first_seq = base->first_seq;
        reply.commit_seq = base->commit_seq;
        reply.last_seq = base->last_seq;
        reply.safe_seq = base->safe_seq;
        reply.drop_upto = base->drop_upto;
    }
    fill_holders(&reply, leader, holders, holder_at);
    reply.answered_by = op->s->options.id;
    reply.cluster_id = op->view.cluster_id;
    (void)rpc_send_message(op->call, &reply.base);
    rpc_finish(op->call, REPLOG_OK, NULL);
    rpc_call_unref(op->call);
    free(op);
    (void)atomic_fetch_sub(&status_calls, 1);
}

static void chains_run(struct task *task) {
    ask_all((struct status_op *)(void *)task);
}

/* A round is complete. */
static void status_step(struct status_op *op) {
    if (!op->chains) {
        op->chains = true;
        op->chain_seq = common_seq(op);
        op->task.run = chains_run; /* own chain value comes from the disk */
        if (op->chain_seq != 0 && reader_pool_offer(op->s, &op->task)) return;
    }
    compose(op);
}

static void status_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    struct server *s = rpc_call_user(call);
    struct status_op *op = NULL;
    bool fits = atomic_fetch_add(&status_calls, 1) < MAX_STATUS_CALLS;
    if (fits) op = calloc(1, sizeof *op);
    if (!op) {
        (void)atomic_fetch_sub(&status_calls, 1);
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "too many status calls are open; try again");
        return;
    }
    op->s = s;
    op->call = rpc_call_ref(call);
    server_view(s, &op->view);
    op->members = op->view.config.n_members ? op->view.config : s->options.cluster;
    ask_all(op);
}

const struct rpc_handlers status_handlers = {.message = status_message};

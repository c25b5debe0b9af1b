#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "node/node_impl.h"

static uint64_t or_default(uint64_t value, uint64_t otherwise) {
    return value ? value : otherwise;
}

struct node_peer *node_find_peer(struct node *n, uint64_t id) {
    for (unsigned i = 0; i < n->n_peers; i++)
        if (n->peers[i].id == id) return &n->peers[i];
    return NULL;
}

bool node_is_leader(const struct node *n) {
    return n->raft && n->role == RAFT_LEADER;
}

bool node_peer_online(const struct node *n, const struct node_peer *p) {
    return p->up && p->heard_ms && n->now_ms - p->heard_ms < 2ull * n->options.election_ms + 200;
}

void node_not_leader(struct node *n, struct node_effects *fx, uint64_t token) {
    const struct config_member *m = n->leader ? config_find(&n->config, n->leader) : NULL;
    if (n->refused[0])
        fx_fail(n, fx, token, REPLOG_UNAVAILABLE, "%s", n->refused);
    else if (n->founding != WAL_FOUNDED)
        fx_fail(n, fx, token, REPLOG_UNAVAILABLE,
                "the cluster is not founded yet: a member named in --cluster has not been reached");
    else if (m)
        fx_fail(n, fx, token, REPLOG_UNAVAILABLE,
                "not the leader; the leader is member %" PRIu64 " at %s", m->id, m->address);
    else
        fx_fail(n, fx, token, REPLOG_UNAVAILABLE, "no leader is known; retry");
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* The founding map against --cluster: ids must agree, addresses are --cluster's. */
static replog_status adopt_config(struct node *n, const struct config *map, replog_error *err) {
    struct config config = *map;
    bool same = config.n_members == n->options.cluster.n_members;
    for (unsigned i = 0; same && i < config.n_members; i++) {
        same = config.members[i].id == n->options.cluster.members[i].id;
        if (same)
            snprintf(config.members[i].address, sizeof config.members[i].address, "%s",
                     n->options.cluster.members[i].address);
    }
    if (!same) {
        char ids[128] = "";
        size_t used = 0;
        for (unsigned i = 0; i < config.n_members && used < sizeof ids - 24; i++)
            used += (size_t)snprintf(ids + used, sizeof ids - used, "%s%" PRIu64, i ? "," : "",
                                     config.members[i].id);
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "this directory's cluster has the members %s; --cluster names others",
                         ids);
    }
    const struct config_member *self = config_find(&config, n->self);
    if (!self || self->incarnation != n->incarnation)
        return error_set(err, REPLOG_DATA_LOSS,
                         "the directory's founding map does not hold its own incarnation");
    n->config = config;
    return REPLOG_OK;
}

/* Sessions and markers of the blocks above what the store has applied. */
static replog_status load_headers(struct node *n, replog_error *err) {
    struct wal_reader *reader = NULL;
    replog_status status = wal_reader_open(n->wal, n->applied_seq + 1, &reader, err);
    while (status == REPLOG_OK) {
        struct block_header h;
        const uint8_t *bytes;
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, err);
        if (MUTANT(FORGET_UNAPPLIED_APPENDS) && status == REPLOG_OK && h.session) continue;
        if (status == REPLOG_OK && !replicate_note_block(n, bytes, &h))
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the session table");
    }
    wal_reader_close(reader);
    return status == REPLOG_NOT_FOUND ? REPLOG_OK : status;
}

replog_status node_start_raft(struct node *n, replog_error *err) {
    size_t n_runs = wal_term_runs(n->wal, NULL, 0);
    struct wal_term_run *from = calloc(n_runs + 1, sizeof *from);
    struct raft_run *runs = calloc(n_runs + 1, sizeof *runs);
    replog_status status = REPLOG_OK;
    if (!from || !runs) {
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the table of terms");
        goto out;
    }
    n_runs = wal_term_runs(n->wal, from, n_runs);
    for (size_t i = 0; i < n_runs; i++)
        runs[i] = (struct raft_run){from[i].term, from[i].first_seq};
    struct raft_config config = {.self = n->self,
                                 .n_voters = n->config.n_members,
                                 .heartbeat_ms = n->options.heartbeat_ms,
                                 .election_ms = n->options.election_ms,
                                 .seed = rng_next(&n->rng)};
    for (unsigned i = 0; i < n->config.n_members; i++) config.voters[i] = n->config.members[i].id;
    struct wal_vote vote = wal_vote(n->wal);
    struct raft_start start = {.term = vote.term,
                               .voted_for = vote.voted_for,
                               .base_seq = n->base.seq,
                               .base_term = n->base.term,
                               .last_seq = tail_end(&n->tail).seq,
                               .runs = runs,
                               .n_runs = n_runs,
                               .commit_seq = MUTANT(COMMITTED_AT_RESTART) ? tail_end(&n->tail).seq
                                                                          : n->applied_seq,
                               .now_ms = n->now_ms,
                               .may_stand = true};
    n->raft = raft_new(&config, &start);
    if (!n->raft) status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the raft core");
    n->synced_seq = start.last_seq; /* opening the log made it durable */
    log_set_term(vote.term);
    n->role = RAFT_FOLLOWER;
    n->publish = true;
out:
    free(from);
    free(runs);
    return status;
}

static void set_defaults(struct node_options *o) {
    o->heartbeat_ms = (uint32_t)or_default(o->heartbeat_ms, 100);
    o->election_ms = (uint32_t)or_default(o->election_ms, 500);
    o->stall_ms = (uint32_t)or_default(o->stall_ms, 2000);
    o->peer_window_bytes = or_default(o->peer_window_bytes, 8u << 20);
    o->tail_bytes = or_default(o->tail_bytes, 8u << 20);
    o->apply_given_bytes = or_default(o->apply_given_bytes, 8u << 20);
    o->pending_bytes = or_default(o->pending_bytes, 16u << 20);
    o->store_lag_bytes = or_default(o->store_lag_bytes, 256u << 20);
    o->checkpoint_bytes = or_default(o->checkpoint_bytes, 64u << 20);
    o->checkpoint_ms = or_default(o->checkpoint_ms, 60000);
}

static replog_status load(struct node *n, const struct applier *applier, replog_error *err) {
    struct wal_identity id = wal_identity(n->wal);
    n->incarnation = id.incarnation;
    n->founding = id.founding;
    n->cluster_id = id.cluster_id;
    n->base = wal_base(n->wal);
    n->sessions = MUTANT(SESSIONS_LOST_AT_RESTART) ? session_table_new(0)
                                                   : session_table_copy(apply_sessions(applier));
    if (!n->sessions)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the session table");
    n->applied_seq = n->apply_sent = apply_seq(applier);
    n->checkpoint_seq = n->applied_seq;
    n->committed_marker = n->logged_marker = apply_marker(applier);
    n->truncate_sent = n->truncate_done = n->base.seq;
    tail_init(&n->tail, wal_tail(n->wal));
    n->write_next = tail_end(&n->tail).seq + 1;
    n->config = n->options.cluster;
    if (n->founding == WAL_AGREED || n->founding == WAL_FOUNDED) {
        struct config map;
        wal_base_config(n->wal, &map);
        replog_status status = adopt_config(n, &map, err);
        if (status != REPLOG_OK) return status;
        n->map_id = config_cluster_id(&n->config);
    }
    if (MUTANT(SESSIONS_AS_APPLIED)) return REPLOG_OK;
    return load_headers(n, err);
}

replog_status node_open(const struct node_options *options, struct wal *wal,
                        const struct applier *applier, uint64_t now_ms, struct node **node,
                        replog_error *err) {
    if (!config_find(&options->cluster, options->self))
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "member %" PRIu64 " is not named in --cluster", options->self);
    struct node *n = calloc(1, sizeof *n);
    if (!n) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the node");
    n->options = *options;
    set_defaults(&n->options);
    n->self = options->self;
    n->wal = wal;
    n->now_ms = now_ms;
    n->last_flush_ms = now_ms;
    n->rng = options->seed;
    for (unsigned i = 0; i < options->cluster.n_members; i++)
        if (options->cluster.members[i].id != n->self)
            n->peers[n->n_peers++].id = options->cluster.members[i].id;
    replog_status status = load(n, applier, err);
    if (status == REPLOG_OK && n->founding == WAL_FOUNDED) status = node_start_raft(n, err);
    if (status == REPLOG_OK)
        *node = n;
    else
        node_close(n);
    return status;
}

void node_close(struct node *n) {
    if (!n) return;
    raft_free(n->raft);
    raft_effects_free(&n->raft_fx);
    tail_free(&n->tail);
    session_table_free(n->sessions);
    append_free(n);
    free(n->markers);
    free(n->reads);
    free(n);
}

/* ---- Events ---------------------------------------------------------------------------------- */

static void raft_simple(struct node *n, struct raft_event event, struct node_effects *fx) {
    if (n->raft) replicate_event(n, &event, NULL, fx);
}

/* A leader whose disk has taken nothing for stall_ms hands the cluster to somebody else. */
static void check_stall(struct node *n, struct node_effects *fx) {
    /* A write that waits for space is no stall: another leader would not free this disk. */
    if (!node_is_leader(n) || n->write_since_ms == 0 || n->space_low) return;
    if (n->now_ms - n->write_since_ms < n->options.stall_ms) return;
    log_warn("the disk has been busy with one write for %" PRIu64 " ms: stepping down",
             n->now_ms - n->write_since_ms);
    n->write_since_ms = n->now_ms;
    raft_simple(n, (struct raft_event){.type = RAFT_EV_STEP_DOWN}, fx);
}

static void tick(struct node *n, struct node_effects *fx) {
    founding_advance(n, fx);
    raft_simple(n, (struct raft_event){.type = RAFT_EV_TICK, .now_ms = n->now_ms}, fx);
    check_stall(n, fx);
    append_tick(n, fx);
    reads_tick(n, fx);
    checkpoint_tick(n, fx);
}

static void persisted(struct node *n, uint64_t seq, uint64_t epoch, struct node_effects *fx) {
    if (!n->raft) return;
    replicate_event(n, &(struct raft_event){.type = RAFT_EV_PERSISTED, .seq = seq, .epoch = epoch},
                    NULL, fx);
    bool all = raft_persisted(n->raft) + 1 >= n->write_next;
    n->write_since_ms = all ? 0 : n->now_ms;
    n->publish = true;
    append_settle(n, fx);
}

/* --sync none: what was told to be persisted is durable by now, unless it was cut meanwhile. */
static void synced(struct node *n, uint64_t seq, uint64_t epoch) {
    if (n->raft && epoch == raft_epoch(n->raft) && seq > n->synced_seq) n->synced_seq = seq;
}

static void truncated(struct node *n, const struct node_event *event, struct node_effects *fx) {
    n->truncate_done = n->truncate_sent;
    if (event->base.seq > n->base.seq) {
        n->base = event->base;
        if (n->raft) raft_set_base(n->raft, n->base.seq, n->base.term);
        log_info("truncated: the log begins at seq %" PRIu64, n->base.seq + 1);
    }
    n->publish = true;
    checkpoint_advance(n, fx);
}

static void peer_message(struct node *n, const struct node_event *event, struct node_effects *fx) {
    if (event->msg->kind == PEER_HELLO) {
        founding_hello(n, &event->msg->hello, event->stream, event->peer, fx);
        return;
    }
    struct node_peer *p = event->peer ? node_find_peer(n, event->peer) : NULL;
    if (p) replicate_message(n, p, event->stream, event->msg, fx);
    if (p && node_is_leader(n)) append_settle(n, fx);
}

static void peer_down(struct node *n, const struct node_event *event, struct node_effects *fx) {
    struct node_peer *p = node_find_peer(n, event->peer);
    if (!p) return;
    if (event->text && event->text[0]) {
        if (strncmp(event->text, n->refused, sizeof n->refused - 1) != 0)
            log_error("refused by member %" PRIu64 ": %s", p->id, event->text);
        snprintf(n->refused, sizeof n->refused, "%s", event->text);
        n->publish = true;
    }
    replicate_peer_down(n, p, fx);
}

static void peer_up(struct node *n, const struct node_event *event, struct node_effects *fx) {
    struct node_peer *p = node_find_peer(n, event->peer);
    if (!p) return;
    if (p->up) replicate_peer_down(n, p, fx);
    p->up = true;
    founding_peer_up(n, p, fx);
}

void node_step(struct node *n, const struct node_event *event, struct node_effects *fx) {
    if (n->fatal) return;
    if (event->now_ms > n->now_ms) n->now_ms = event->now_ms;
    if (event->wall_us) n->wall_us = event->wall_us;
    switch (event->type) {
    case NODE_EV_TICK:
        tick(n, fx);
        break;
    case NODE_EV_PEER_UP:
        peer_up(n, event, fx);
        break;
    case NODE_EV_PEER_DOWN:
        peer_down(n, event, fx);
        break;
    case NODE_EV_PEER_MESSAGE:
        peer_message(n, event, fx);
        break;
    case NODE_EV_CUT_DONE:
        synced(n, event->seq, event->epoch);
        persisted(n, event->seq, event->epoch, fx);
        break;
    case NODE_EV_PERSISTED:
        persisted(n, event->seq, event->epoch, fx);
        break;
    case NODE_EV_SYNCED:
        synced(n, event->seq, event->epoch);
        break;
    case NODE_EV_VOTE_SAVED:
        raft_simple(n,
                    (struct raft_event){
                        .type = RAFT_EV_VOTE_SAVED, .term = event->term, .vote = event->vote},
                    fx);
        break;
    case NODE_EV_FOUND_SAVED:
        founding_saved(n, event->founding, fx);
        break;
    case NODE_EV_TRUNCATED:
        truncated(n, event, fx);
        break;
    case NODE_EV_SPACE:
        n->space_low = event->low;
        n->publish = true;
        break;
    case NODE_EV_APPLIED:
        n->applied_seq = event->seq;
        window_acked(&n->apply_given, event->seq);
        n->bytes_since_flush += event->bytes;
        n->publish = true;
        reads_settle(n, fx);
        checkpoint_advance(n, fx);
        break;
    case NODE_EV_FLUSHED:
        n->flush_pending = false;
        if (event->seq > n->checkpoint_seq) n->checkpoint_seq = event->seq;
        n->publish = true;
        checkpoint_advance(n, fx);
        break;
    case NODE_EV_FED:
        replicate_fed(n, event, fx);
        break;
    case NODE_EV_APPEND:
        append_request(n, event, fx);
        break;
    case NODE_EV_OPEN_SESSION:
        append_session(n, event, fx);
        break;
    case NODE_EV_READ_INDEX:
        reads_request(n, event, fx);
        break;
    case NODE_EV_CHECKPOINT:
    case NODE_EV_TRUNCATE:
        checkpoint_request(n, event, fx);
        break;
    case NODE_EV_TRANSFER:
        raft_simple(n, (struct raft_event){.type = RAFT_EV_TRANSFER, .peer = event->peer}, fx);
        break;
    }
}

/* The store follows in slices: after a while, when much has gathered, or when a reader waits for
 * it. Nobody's acknowledgement does, and each slice costs the processor as much as an append. */
static bool apply_is_due(const struct node *n) {
    bool late = n->now_ms - n->apply_sent_ms >= NODE_APPLY_MS;
    return late || n->n_reads > 0 || n->unapplied_bytes >= NODE_APPLY_BYTES;
}

/* How far the store may go: to what is committed, and durable here. With --sync none PERSISTED
 * promises nothing: a store that outlived the log's tail could never be replayed on top of it. */
static uint64_t applicable(struct node *n, uint64_t safe, struct node_effects *fx) {
    if (n->options.acks_are_durable || safe <= n->synced_seq || MUTANT(APPLY_UNSYNCED)) return safe;
    if (n->n_reads > 0 && safe > n->sync_asked) {
        fx_add(fx, NODE_FX_SYNC);
        n->sync_asked = safe;
    }
    return n->synced_seq;
}

/* The store is given what memory holds, as long as what waits for it stays within bounds; what it
 * is not given it reads from the log. */
static void apply_upto(struct node *n, uint64_t safe, struct node_effects *fx) {
    uint64_t next = n->apply_sent + 1, last = n->apply_sent;
    struct node_bytes run;
    while (window_open(&n->apply_given, n->options.apply_given_bytes) &&
           tail_run(&n->tail, next, safe, NODE_APPLY_RUN_BYTES, &run, &last)) {
        struct node_effect *e = fx_add(fx, NODE_FX_APPLY);
        e->seq = last;
        e->blocks = run;
        window_add(&n->apply_given, last, run.size_bytes);
        next = last + 1;
    }
    if (last < safe) fx_add(fx, NODE_FX_APPLY)->seq = safe;
    n->apply_sent = safe;
    n->apply_sent_ms = n->now_ms;
    n->unapplied_bytes = 0;
}

void node_pump(struct node *n, struct node_effects *fx) {
    if (n->fatal) return;
    if (n->raft) {
        /* Followers first: their disks then work beside ours. */
        replicate_feed(n, fx);
        replicate_writes(n, fx);
        uint64_t commit = raft_commit(n->raft), durable = raft_persisted(n->raft);
        uint64_t safe = commit < durable ? commit : durable;
        if (MUTANT(APPLY_UNDURABLE)) safe = commit;
        if (MUTANT(APPLY_UNCOMMITTED)) safe = durable;
        uint64_t upto = applicable(n, safe, fx);
        if (upto > n->apply_sent && apply_is_due(n)) apply_upto(n, upto, fx);
        tail_evict(&n->tail, n->options.tail_bytes, safe);
    }
    if (n->publish) {
        fx_add(fx, NODE_FX_PUBLISH);
        n->publish = false;
    }
}

bool node_wants_pump(const struct node *n) {
    for (unsigned i = 0; i < n->n_peers; i++)
        if (n->peers[i].heartbeat_held || n->peers[i].gathering) return true;
    return false;
}

/* ---- What others may know -------------------------------------------------------------------- */

uint64_t node_bytes_above(const struct node *n, uint64_t seq) {
    uint64_t bytes = tail_bytes_above(&n->tail, seq);
    uint64_t held = tail_end(&n->tail).seq - n->base.seq;
    if (seq >= n->tail.base.seq || held == 0) return bytes;
    uint64_t per_record = wal_size_bytes(n->wal) / held;
    return bytes + (n->tail.base.seq - seq) * per_record;
}

static void snapshot_peers(const struct node *n, struct node_snapshot *out) {
    bool leader = node_is_leader(n);
    out->n_peers = n->config.n_members;
    for (unsigned i = 0; i < n->config.n_members; i++) {
        struct node_peer_view *v = &out->peers[i];
        v->id = n->config.members[i].id;
        if (v->id == n->self) {
            v->online = true;
            v->match_seq = out->durable_seq;
            v->checkpoint_seq = n->checkpoint_seq;
            v->applied_seq = n->applied_seq;
            continue;
        }
        for (unsigned k = 0; k < n->n_peers; k++) {
            const struct node_peer *p = &n->peers[k];
            if (p->id != v->id) continue;
            v->online = node_peer_online(n, p);
            v->checkpoint_seq = p->checkpoint_seq;
            v->applied_seq = p->applied_seq;
            v->silence_ms = p->heard_ms ? n->now_ms - p->heard_ms : UINT64_MAX;
            if (!leader) continue;
            v->match_seq = raft_match(n->raft, p->id);
            v->lag_bytes = node_bytes_above(n, v->match_seq);
        }
    }
}

void node_snapshot(const struct node *n, struct node_snapshot *out) {
    memset(out, 0, sizeof *out);
    out->self = n->self;
    out->leader = n->leader;
    out->cluster_id = n->cluster_id;
    out->role = n->role;
    out->founding = n->founding;
    out->config = n->config;
    out->first_seq = n->base.seq + 1;
    out->last_seq = tail_end(&n->tail).seq;
    out->commit_seq = out->durable_seq = n->base.seq;
    if (n->raft) {
        out->term = raft_term(n->raft);
        out->ready = raft_ready(n->raft);
        out->commit_seq = MUTANT(PUBLISH_UNCOMMITTED) ? raft_last(n->raft) : raft_commit(n->raft);
        out->durable_seq = raft_persisted(n->raft);
    }
    out->applied_seq = n->applied_seq;
    out->checkpoint_seq = n->checkpoint_seq;
    out->safe_seq = n->committed_marker.safe_seq;
    out->drop_upto = n->committed_marker.drop_upto;
    snapshot_peers(n, out);
    if (out->drop_upto > out->safe_seq)
        checkpoint_fill_holders(n, out->drop_upto, out->held_by, &out->n_held_by);
    out->pending_bytes = n->pending_bytes;
    out->tail_bytes = n->tail.size_bytes;
    out->sessions = session_table_count(n->sessions);
    out->appends = n->appends;
    out->bytes_appended = n->bytes_appended;
    out->elections = n->elections;
    out->space_low = n->space_low;
    out->cut_off = reads_cut_off(n);
    snprintf(out->refused, sizeof out->refused, "%s", n->refused);
}

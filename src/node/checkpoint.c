/* checkpoint.c: when the store is flushed, when a CHECKPOINT record is written, and what may be
 * truncated.
 *
 * A member's checkpoint is the seq up to which its store is durable; it travels with every message.
 * The least of all members' (an absent one keeps its last) is safe: a leader writes it down in a
 * CHECKPOINT record {safe_seq, drop_upto}. Once that is committed, every node drops its log up to
 * min(safe_seq, drop_upto) - now, after a restart, and under any later leader. */
#include <inttypes.h>

#include "base/log.h"
#include "node/node_impl.h"

enum { ADMIN_WAIT_MS = 5000, RETENTION_EVERY_MS = 1000 };

static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}
static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* What is known of a member's checkpoint: its own word, or what a committed record says of all. */
static uint64_t checkpoint_of(const struct node *n, const struct node_peer *p) {
    return max_u64(p->checkpoint_seq, n->committed_marker.safe_seq);
}

/* What more than half of the members hold, for the deliberate bug only. */
static uint64_t quorum_seq(const struct node *n) {
    uint64_t best = 0;
    for (unsigned i = 0; i <= n->n_peers; i++) {
        uint64_t seq = i < n->n_peers ? checkpoint_of(n, &n->peers[i]) : n->checkpoint_seq;
        unsigned holders = n->checkpoint_seq >= seq;
        for (unsigned k = 0; k < n->n_peers; k++) holders += checkpoint_of(n, &n->peers[k]) >= seq;
        if (2 * holders > n->n_peers + 1 && seq > best) best = seq;
    }
    return best;
}

static uint64_t safe_seq(const struct node *n) {
    uint64_t least = n->checkpoint_seq;
    if (MUTANT(TRUNCATE_BY_QUORUM)) return quorum_seq(n);
    for (unsigned i = 0; i < n->n_peers; i++) {
        if (MUTANT(TRUNCATE_WITHOUT_ABSENT) && !node_peer_online(n, &n->peers[i])) continue;
        least = min_u64(least, checkpoint_of(n, &n->peers[i]));
    }
    return least;
}

void checkpoint_fill_holders(const struct node *n, uint64_t upto, struct node_holder *held_by,
                             unsigned *n_held_by) {
    *n_held_by = 0;
    for (unsigned i = 0; i < n->config.n_members; i++) {
        uint64_t id = n->config.members[i].id, seq = n->checkpoint_seq;
        for (unsigned k = 0; k < n->n_peers; k++)
            if (n->peers[k].id == id) seq = checkpoint_of(n, &n->peers[k]);
        if (seq < upto) held_by[(*n_held_by)++] = (struct node_holder){id, seq};
    }
}

/* The least checkpoint of the members that are online. */
static uint64_t online_checkpoint(const struct node *n) {
    uint64_t least = n->checkpoint_seq;
    for (unsigned i = 0; i < n->n_peers; i++)
        if (node_peer_online(n, &n->peers[i]))
            least = min_u64(least, checkpoint_of(n, &n->peers[i]));
    return least;
}

/* ---- Records and truncation ------------------------------------------------------------------ */

static uint64_t write_marker(struct node *n, struct node_effects *fx) {
    struct checkpoint_marker m = {.safe_seq = max_u64(safe_seq(n), n->logged_marker.safe_seq),
                                  .drop_upto = max_u64(n->drop_wanted, n->logged_marker.drop_upto)};
    uint8_t value[16];
    checkpoint_encode(&m, value);
    return append_marker(n, REPLOG_OP_CHECKPOINT, (struct slice){value, sizeof value}, fx);
}

static bool marker_in_flight(const struct node *n) {
    for (size_t i = 0; i < n->n_markers; i++)
        if (n->markers[i].op == REPLOG_OP_CHECKPOINT) return true;
    return false;
}

/* Leader: a record, when it would let the log be truncated further or must remember a request. */
static void maybe_write_marker(struct node *n, struct node_effects *fx) {
    if (!node_is_leader(n) || !raft_ready(n->raft) || n->in_step || marker_in_flight(n)) return;
    const struct checkpoint_marker *old = &n->logged_marker;
    bool asked = n->drop_wanted > old->drop_upto;
    bool useful =
        safe_seq(n) > old->safe_seq && old->safe_seq < max_u64(old->drop_upto, n->drop_wanted);
    if (asked || useful) write_marker(n, fx);
}

static void maybe_truncate(struct node *n, struct node_effects *fx) {
    uint64_t own = min_u64(n->committed_marker.safe_seq, n->committed_marker.drop_upto);
    uint64_t told = min_u64(n->told_marker.safe_seq, n->told_marker.drop_upto);
    if (MUTANT(TRUNCATE_AS_ASKED)) own = n->committed_marker.drop_upto;
    uint64_t upto = min_u64(max_u64(own, told), n->checkpoint_seq);
    if (MUTANT(NEVER_TRUNCATES)) return;
    if (upto <= n->truncate_sent || upto <= n->base.seq || n->truncate_sent != n->truncate_done)
        return;
    struct node_effect *e = fx_add(fx, NODE_FX_TRUNCATE);
    e->seq = upto;
    e->config = &n->config;
    n->truncate_sent = upto;
}

static void maybe_flush(struct node *n, struct node_effects *fx) {
    if (n->flush_pending || n->applied_seq <= n->checkpoint_seq) return;
    uint64_t wanted = max_u64(n->flush_wanted, n->committed_marker.drop_upto);
    bool asked = wanted > n->checkpoint_seq && n->applied_seq >= wanted;
    bool bytes = n->bytes_since_flush >= n->options.checkpoint_bytes;
    bool time =
        n->bytes_since_flush > 0 && n->now_ms - n->last_flush_ms >= n->options.checkpoint_ms;
    if (!asked && !bytes && !time) return;
    fx_add(fx, NODE_FX_FLUSH);
    n->flush_pending = true;
    n->last_flush_ms = n->now_ms;
    n->bytes_since_flush = 0;
}

/* ---- Calls that wait ------------------------------------------------------------------------- */

static void answer_truncate(struct node *n, struct admin_wait *w, struct node_effects *fx) {
    struct node_reply *reply = fx_reply(fx, w->token);
    reply->requested = w->target;
    reply->first_seq = n->base.seq + 1;
    checkpoint_fill_holders(n, w->target, reply->held_by, &reply->n_held_by);
}

/* true: answered. */
static bool advance_checkpoint(struct node *n, struct admin_wait *w, struct node_effects *fx) {
    if (w->marker_seq == 0) {
        if (online_checkpoint(n) < w->target || n->in_step) return false;
        w->marker_seq = write_marker(n, fx);
        return false;
    }
    if (raft_commit(n->raft) < w->marker_seq) return false;
    struct node_reply *reply = fx_reply(fx, w->token);
    reply->seq = w->marker_seq;
    reply->safe_seq = n->committed_marker.safe_seq;
    return true;
}

static bool advance_truncate(struct node *n, struct admin_wait *w, bool overdue,
                             struct node_effects *fx) {
    const struct checkpoint_marker *m = &n->committed_marker;
    bool remembered = m->drop_upto >= w->target;
    if (!remembered) return false;
    /* Done, or as far as the members that are away let it be. */
    uint64_t possible = min_u64(safe_seq(n), w->target);
    bool flushed = online_checkpoint(n) >= w->target;
    bool dropped = m->safe_seq >= possible && n->truncate_done >= possible;
    if (!(flushed && dropped) && !overdue) return false;
    answer_truncate(n, w, fx);
    return true;
}

static void advance_waits(struct node *n, struct node_effects *fx) {
    for (unsigned i = 0; i < n->n_admin;) {
        struct admin_wait *w = &n->admin[i];
        if (w->deadline_ms <= n->now_ms) {
            fx_fail(n, fx, w->token, REPLOG_DEADLINE_EXCEEDED,
                    w->truncate ? "not done in time; the request may have been written down"
                                : "not every member that is online has flushed its store in time");
            *w = n->admin[--n->n_admin];
            continue;
        }
        bool overdue = n->now_ms - w->started_ms >= ADMIN_WAIT_MS;
        bool done =
            w->truncate ? advance_truncate(n, w, overdue, fx) : advance_checkpoint(n, w, fx);
        if (done)
            n->admin[i] = n->admin[--n->n_admin];
        else
            i++;
    }
}

void checkpoint_advance(struct node *n, struct node_effects *fx) {
    if (!n->raft) return;
    maybe_flush(n, fx);
    maybe_write_marker(n, fx);
    maybe_truncate(n, fx);
    advance_waits(n, fx);
}

void checkpoint_request(struct node *n, const struct node_event *event, struct node_effects *fx) {
    bool truncate = event->type == NODE_EV_TRUNCATE;
    if (!node_is_leader(n)) {
        node_not_leader(n, fx, event->token);
        return;
    }
    if (!raft_ready(n->raft) || n->n_admin == NODE_MAX_ADMIN) {
        fx_fail(n, fx, event->token,
                raft_ready(n->raft) ? REPLOG_RESOURCE_EXHAUSTED : REPLOG_UNAVAILABLE,
                "the leader is not ready, or has too many requests of this kind: retry");
        return;
    }
    uint64_t commit = raft_commit(n->raft);
    if (truncate && (event->seq == 0 || event->seq > commit)) {
        fx_fail(n, fx, event->token, REPLOG_OUT_OF_RANGE,
                "upto %" PRIu64 " is not in the log: it reaches from seq %" PRIu64 " to %" PRIu64
                " (committed)",
                event->seq, n->base.seq + 1, commit);
        return;
    }
    uint64_t limit = n->now_ms + 2ull * ADMIN_WAIT_MS;
    n->admin[n->n_admin++] =
        (struct admin_wait){.token = event->token,
                            .deadline_ms = event->deadline_ms ? event->deadline_ms : limit,
                            .started_ms = n->now_ms,
                            .truncate = truncate,
                            .target = truncate ? event->seq : commit};
    if (truncate) n->drop_wanted = max_u64(n->drop_wanted, event->seq);
    n->flush_wanted = max_u64(n->flush_wanted, truncate ? event->seq : commit);
    checkpoint_advance(n, fx);
}

void checkpoint_fail_all(struct node *n, struct node_effects *fx) {
    for (unsigned i = 0; i < n->n_admin; i++)
        fx_fail(n, fx, n->admin[i].token, REPLOG_UNAVAILABLE,
                "this node is not the leader any more; ask again");
    n->n_admin = 0;
}

void checkpoint_tick(struct node *n, struct node_effects *fx) {
    if (!n->raft) return;
    bool retention = n->options.retain_bytes > 0 || n->options.retain_ms > 0;
    if (retention && node_is_leader(n) && raft_ready(n->raft) &&
        n->now_ms - n->last_retention_ms >= RETENTION_EVERY_MS) {
        n->last_retention_ms = n->now_ms;
        uint64_t age_us = n->options.retain_ms * 1000;
        /* 0 would mean no bound by age: a clock that has not come so far yet makes nothing old. */
        uint64_t cutoff_us = age_us == 0 ? 0 : n->wall_us > age_us ? n->wall_us - age_us : 1;
        uint64_t upto = wal_retention_seq(n->wal, n->options.retain_bytes, cutoff_us);
        n->drop_wanted = max_u64(n->drop_wanted, min_u64(upto, raft_commit(n->raft)));
        n->flush_wanted = max_u64(n->flush_wanted, n->drop_wanted);
    }
    checkpoint_advance(n, fx);
}

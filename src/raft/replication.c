/* replication.c: matching logs, streams, acknowledgement, commit and transfer. See raft_impl.h.
 *
 * A peer is either probed or streamed to. A probe is an empty APPEND at a position; one is under
 * way at a time, repeated with every heartbeat, and a rejection is answered at once by the next
 * one, which lies strictly lower. The first one that matches starts the stream. A heartbeat to a
 * peer that is streamed to stands at the end of what was sent: if something got lost on the way it
 * is rejected, and the peer is probed again. */
#include "raft/raft_impl.h"

#include <string.h>

#include "base/check.h"

static uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}
static uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* ---- Leader: speaking */
static void send_position(struct raft *r, struct peer *p, struct raft_effects *fx) {
    uint64_t seq = max_u64(p->streaming ? p->sent : p->probe_seq, r->runs.base_seq);
    if (!p->streaming) {
        p->probe_seq = seq;
        p->probe_round = r->round;
    }
    struct raft_msg msg = raft_append_header(r, p->id, seq);
    raft_send(r, &msg, fx);
}

static void send_timeout_now(struct raft *r, struct raft_effects *fx) {
    int i = raft_voter_index(r, r->transfer_to);
    if (i < 0 || r->peers[i].match != r->runs.last_seq) return;
    struct raft_msg msg = raft_msg_to(r, RAFT_TIMEOUT_NOW, r->transfer_to);
    raft_send(r, &msg, fx);
}

void raft_broadcast_round(struct raft *r, struct raft_effects *fx) {
    r->round++;
    raft_reads_round_started(r);
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        if (i != r->self_index) send_position(r, &r->peers[i], fx);
    }
}

void raft_start_leading(struct raft *r, struct raft_effects *fx) {
    r->lead_since_ms = r->now_ms;
    r->heartbeat_due_ms = r->now_ms + r->config.heartbeat_ms;
    r->transfer_to = 0;
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        r->peers[i] = (struct peer){.id = r->config.voters[i], .probe_seq = r->runs.last_seq};
    }
    if (raft_majority(r) > 1) raft_broadcast_round(r, fx);
}

static void stop_stream(struct peer *p, struct raft_effects *fx) {
    if (!p->streaming) return;
    p->streaming = false;
    raft_fx_push(fx, RAFT_FX_UNSTREAM)->peer = p->id;
}

void raft_stop_leading(struct raft *r, struct raft_effects *fx) {
    for (unsigned i = 0; i < r->config.n_voters; i++) stop_stream(&r->peers[i], fx);
    raft_reads_fail(r, fx);
    r->transfer_to = 0;
}

static bool hears_majority(const struct raft *r) {
    uint64_t patience_ms = r->config.election_ms + r->config.election_ms / 2;
    unsigned n = 1;
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        if (i == r->self_index) continue;
        const struct peer *p = &r->peers[i];
        uint64_t since_ms = p->heard ? p->heard_ms : r->lead_since_ms;
        n += r->now_ms - since_ms <= patience_ms;
    }
    return n >= raft_majority(r) || MUTANT(NO_CHECK_QUORUM);
}

void raft_leader_tick(struct raft *r, struct raft_effects *fx) {
    if (!hears_majority(r)) {
        raft_become_follower(r, 0, fx);
        return;
    }
    if (r->transfer_to != 0 && r->now_ms >= r->transfer_due_ms) r->transfer_to = 0;
    if (r->now_ms < r->heartbeat_due_ms) return;
    r->heartbeat_due_ms = r->now_ms + r->config.heartbeat_ms;
    if (raft_majority(r) > 1) raft_broadcast_round(r, fx);
    send_timeout_now(r, fx);
}

/* ---- Leader: commit */

/* Only an entry of the leader's own term is committed by counting: an older one, even on a
 * majority, may still be overwritten by a log that ends in a higher term (figure 8). Those before
 * it follow. */
static void advance_commit(struct raft *r, struct raft_effects *fx) {
    uint64_t matches[RAFT_MAX_MEMBERS];
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        matches[i] = i == r->self_index ? r->persisted : r->peers[i].match;
    }
    if (MUTANT(COUNT_UNDURABLE_LEADER)) matches[r->self_index] = r->runs.last_seq;
    uint64_t seq = raft_majority_value(r, matches);
    if (seq <= r->commit) return;
    if (raft_runs_term_at(&r->runs, seq) != r->term && !MUTANT(COMMIT_OLD_TERM)) return;
    r->commit = seq;
    raft_fx_push(fx, RAFT_FX_COMMIT)->seq = seq;
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        struct peer *p = &r->peers[i];
        /* where blocks are still to be sent they carry the commit themselves */
        if (p->streaming && p->sent >= r->runs.last_seq) send_position(r, p, fx);
    }
}

void raft_on_appended(struct raft *r, const struct raft_entry *entry) {
    CHECK(r->role == RAFT_LEADER && entry->term == r->term);
    raft_runs_append(&r->runs, entry);
}

void raft_on_sent(struct raft *r, uint64_t peer, uint64_t seq) {
    int i = raft_voter_index(r, peer);
    if (i < 0 || r->role != RAFT_LEADER || !r->peers[i].streaming) return;
    r->peers[i].sent = max_u64(r->peers[i].sent, min_u64(seq, r->runs.last_seq));
}

void raft_on_lost(struct raft *r, uint64_t peer, struct raft_effects *fx) {
    int i = raft_voter_index(r, peer);
    if (r->role == RAFT_FOLLOWER && peer != 0 && peer == r->leader) raft_leader_lost(r);
    if (i < 0 || r->role != RAFT_LEADER || !r->peers[i].streaming) return;
    if (MUTANT(STREAM_NOT_RESTARTED)) return;
    stop_stream(&r->peers[i], fx);
    r->peers[i].probe_seq =
        r->peers[i].match; /* sure to match; the answer says how much more does */
}

/* ---- Leader: answers */
static void start_stream(struct raft *r, struct peer *p, uint64_t matched,
                         struct raft_effects *fx) {
    p->streaming = true;
    p->sent = matched;
    p->stream_round = ++r->round;
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_STREAM);
    effect->peer = p->id;
    effect->seq = matched;
}

static void on_rejected(struct raft *r, struct peer *p, const struct raft_msg *m,
                        struct raft_effects *fx) {
    bool about_now = p->streaming ? m->round >= p->stream_round : m->round == p->probe_round;
    if (!about_now) return;
    uint64_t asked = p->streaming ? UINT64_MAX : p->probe_seq;
    uint64_t ask =
        raft_runs_ask_below(&r->runs, (struct position){.seq = m->seq, .term = m->seq_term});
    if (m->commit_seq <= r->runs.last_seq) ask = max_u64(ask, m->commit_seq);
    stop_stream(p, fx);
    p->probe_seq = MUTANT(PROBE_STAYS) ? r->runs.last_seq : ask;
    if (ask >= asked) return; /* no progress: not before the next heartbeat */
    r->round++;
    send_position(r, p, fx);
}

static void on_accepted(struct raft *r, struct peer *p, const struct raft_msg *m,
                        struct raft_effects *fx) {
    uint64_t durable = min_u64(m->seq, r->runs.last_seq);
    uint64_t matched = min_u64(m->seq_term, r->runs.last_seq);
    if (!p->streaming && matched >= p->probe_seq) start_stream(r, p, matched, fx);
    if (p->streaming || durable > p->match) {
        struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_ACKED);
        effect->peer = p->id;
        effect->seq = durable;
    }
    if (durable <= p->match) return;
    p->match = durable;
    advance_commit(r, fx);
    if (r->transfer_to == p->id) send_timeout_now(r, fx);
}

void raft_on_append_reply(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role != RAFT_LEADER || m->round > r->round) return;
    struct peer *p = &r->peers[raft_voter_index(r, m->from)];
    p->heard = true;
    p->heard_ms = r->now_ms;
    p->acked_round = max_u64(p->acked_round, m->round);
    if (m->ok) {
        on_accepted(r, p, m, fx);
    } else {
        on_rejected(r, p, m, fx);
    }
    raft_reads_confirm(r, fx);
}

/* ---- Leader: transfer */
void raft_on_transfer(struct raft *r, uint64_t peer, struct raft_effects *fx) {
    if (r->role != RAFT_LEADER) return;
    const struct peer *target = NULL;
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        const struct peer *p = &r->peers[i];
        if (i == r->self_index || (peer != 0 && p->id != peer)) continue;
        if (peer == 0 && raft_silence_ms(r, p->id) >= r->config.election_ms) continue;
        if (!target || p->match > target->match) target = p;
    }
    if (!target) return;
    r->transfer_to = target->id;
    r->transfer_due_ms = r->now_ms + r->config.election_ms;
    send_timeout_now(r, fx);
}

/* ---- Follower */
static uint64_t durable_match(const struct raft *r) {
    return MUTANT(COUNT_UNDURABLE_FOLLOWER) ? r->matched : min_u64(r->persisted, r->matched);
}

static void send_accept(struct raft *r, uint64_t round, struct raft_effects *fx) {
    struct raft_msg reply = raft_msg_to(r, RAFT_APPEND_REPLY, r->leader);
    reply.ok = true;
    reply.seq = durable_match(r);
    reply.seq_term = r->matched;
    reply.commit_seq = r->commit;
    reply.round = round;
    raft_send(r, &reply, fx);
}

void raft_refuse_append(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    struct raft_msg reply = raft_msg_to(r, RAFT_APPEND_REPLY, m->from);
    struct position hint =
        raft_runs_hint(&r->runs, (struct position){.seq = m->seq, .term = m->seq_term});
    reply.seq = hint.seq;
    reply.seq_term = hint.term;
    reply.commit_seq = r->commit;
    reply.round = m->round;
    raft_send(r, &reply, fx);
}

void raft_on_persisted(struct raft *r, uint64_t seq, uint64_t epoch, struct raft_effects *fx) {
    /* of a tail that was cut since: says nothing about this one */
    if (epoch != r->epoch && !MUTANT(COUNT_LATE_PERSISTED)) return;
    uint64_t before = durable_match(r);
    r->persisted = max_u64(r->persisted, min_u64(seq, r->runs.last_seq));
    if (r->role == RAFT_LEADER) {
        advance_commit(r, fx);
    } else if (r->leader != 0 && durable_match(r) > before) {
        send_accept(r, r->leader_round, fx);
    }
}

/* Whether the blocks continue the message's position, with terms that do not fall. */
static bool entries_are_sound(const struct raft_msg *m) {
    uint64_t seq = m->seq, term = m->seq_term;
    for (size_t i = 0; i < m->n_entries; i++) {
        const struct raft_entry *e = &m->entries[i];
        if (e->first_seq != seq + 1 || e->last_seq < e->first_seq || e->term < term ||
            e->term > m->term || e->term == 0)
            return false;
        seq = e->last_seq;
        term = e->term;
    }
    return true;
}

static void cut_tail(struct raft *r, uint64_t seq, struct raft_effects *fx) {
    raft_runs_cut(&r->runs, seq);
    r->persisted = min_u64(r->persisted, seq);
    r->epoch++;
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_CUT);
    effect->seq = seq;
    effect->epoch = r->epoch;
}

/* What becomes of a block of the leader's: */
enum fate { ENTRY_PRESENT, ENTRY_NEW, ENTRY_CONFLICTS, ENTRY_IMPOSSIBLE };

static enum fate entry_fate(const struct raft *r, const struct raft_entry *e) {
    if (e->last_seq <= r->runs.base_seq) return ENTRY_PRESENT;
    if (e->first_seq <= r->runs.base_seq) return ENTRY_IMPOSSIBLE;
    if (e->first_seq > r->runs.last_seq) return ENTRY_NEW;
    if (raft_runs_term_at(&r->runs, e->first_seq) != e->term)
        return MUTANT(KEEP_OTHER_TERM) ? ENTRY_PRESENT : ENTRY_CONFLICTS;
    /* One leader made both, so they are the same block. */
    return raft_runs_term_at(&r->runs, e->last_seq) == e->term ? ENTRY_PRESENT : ENTRY_IMPOSSIBLE;
}

/* The blocks follow a position that matches. Skips what is there, cuts what conflicts, accepts the
 * rest. False after FATAL. */
static bool take_entries(struct raft *r, const struct raft_msg *m, bool *accepted,
                         struct raft_effects *fx) {
    *accepted = false;
    size_t i = 0;
    enum fate fate = ENTRY_PRESENT;
    while (i < m->n_entries && (fate = entry_fate(r, &m->entries[i])) == ENTRY_PRESENT) i++;
    if (i == m->n_entries) return true;
    if (fate == ENTRY_IMPOSSIBLE) {
        raft_fail(r, "the leader's block and ours are of one term and end differently", fx);
        return false;
    }
    if (fate == ENTRY_CONFLICTS) {
        if (m->entries[i].first_seq <= r->commit) {
            raft_fail(r, "the leader's log would cut what is committed here", fx);
            return false;
        }
        cut_tail(r, m->entries[i].first_seq - 1, fx);
    }
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_ACCEPT);
    effect->first = i;
    effect->n = m->n_entries;
    for (; i < m->n_entries; i++) raft_runs_append(&r->runs, &m->entries[i]);
    *accepted = true;
    return true;
}

static bool position_matches(const struct raft *r, const struct raft_msg *m) {
    if (m->seq <= r->runs.base_seq) return true; /* committed, so the leader's log holds the same */
    if (MUTANT(PREV_TERM_UNCHECKED)) return m->seq <= r->runs.last_seq;
    return m->seq <= r->runs.last_seq && raft_runs_term_at(&r->runs, m->seq) == m->seq_term;
}

void raft_on_append(struct raft *r, const struct raft_msg *m, struct raft_effects *fx) {
    if (r->role == RAFT_LEADER || (r->leader != 0 && r->leader != m->from)) {
        raft_fail(r, "two leaders in one term", fx);
        return;
    }
    if (!entries_are_sound(m)) return;
    raft_become_follower(r, m->from, fx);
    r->leader_heard_ms = r->now_ms;
    r->hurry = 0;
    bool repeats = m->n_entries == 0 && m->round <= r->leader_round;
    r->leader_round = max_u64(r->leader_round, m->round);
    raft_reset_election_timer(r);
    if (!position_matches(r, m)) {
        if (m->seq <= r->commit && m->seq_term != 0) {
            raft_fail(r, "the leader's log differs from what is committed here", fx);
        } else {
            raft_refuse_append(r, m, fx);
        }
        return;
    }
    bool accepted;
    if (!take_entries(r, m, &accepted, fx)) return;
    uint64_t end = m->n_entries > 0 ? m->entries[m->n_entries - 1].last_seq : m->seq;
    r->matched = max_u64(r->matched, end);
    uint64_t bound = MUTANT(COMMIT_BEYOND_MATCH) ? r->runs.last_seq : r->matched;
    uint64_t commit = min_u64(m->commit_seq, bound);
    if (commit > r->commit) {
        r->commit = commit;
        raft_fx_push(fx, RAFT_FX_COMMIT)->seq = commit;
    }
    /* Blocks are answered when they are durable. A message without any, of a round that was heard
     * before, only tells the commit: its round is answered already, or will be with the blocks. */
    if (!accepted && !repeats) send_accept(r, m->round, fx);
}

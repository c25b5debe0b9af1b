/* What members say and do, against what is known of the run (sim_watch_impl.h). */
#include "sim_watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "sim_net.h"
#include "sim_watch_impl.h"
#include "sim_witness.h"

enum {
    MOST_SLICES = 12, /* between the wish for a flush and the flush; the apply worker waits for 8 */
    PROBE_TOKENS = 1 << 20,
    PROBE_EVERY_US = 150000,
    LEADER_EVERY_MS = 60,
    SETTLE_US = 100000,
    SETTLE_NONE_US = 600000
};
#define PROBE_TOKEN (UINT64_MAX - PROBE_TOKENS)

struct sim_watch *sim_watch_new(struct sim *sim) {
    struct sim_watch *w = calloc(1, sizeof *w);
    CHECK(w);
    w->rng = sim_fork_rng(sim, "watch");
    return w;
}

void sim_watch_free(struct sim_watch *w) {
    if (!w) return;
    free(w->truth);
    free(w->leaders);
    free(w->votes);
    free(w->model);
    free(w);
}

struct record *watch_record(const struct sim_member *m) {
    return &m->sim->watch->records[m->id];
}

/* ---- The truth ------------------------------------------------------------------------------- */

size_t watch_truth_find(const struct sim_watch *w, uint64_t seq) {
    size_t low = 0, high = w->n_truth;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->truth[middle].end.seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint64_t truth_end(const struct sim_watch *w) {
    return w->n_truth ? w->truth[w->n_truth - 1].end.seq : 0;
}

uint64_t watch_durable_of(const struct sim_member *m) {
    const struct record *r = watch_record(m);
    uint64_t durable =
        m->sim->sync == SIM_SYNC_NONE ? wal_tail(m->wal).seq : wal_durable(m->wal).seq;
    return r->cuts && durable > r->cut_seq ? r->cut_seq : durable;
}

/* Whether the member's log has that very block, or had before it rotted; where it is running, with
 * each leader's first block, and now and then: it costs. */
static bool holds(struct sim_member *m, const struct block_header *h) {
    struct wal_pos pos = {0};
    uint64_t last = block_last_seq(h);
    const struct sim_watch *w = m->sim->watch;
    bool first = w->n_truth == 0 || w->truth[w->n_truth - 1].end.term != h->term;
    bool now = rng_between(&m->sim->watch->rng, 1, 16) == 1 || first;
    if (!m->running || wal_base(m->wal).seq >= last || !now) return true;
    sim_member_observe(m, true);
    replog_status st = wal_pos_at(m->wal, last, &pos, NULL);
    sim_member_observe(m, false);
    if (st == REPLOG_DATA_LOSS && m->damage & SIM_DISK_DAMAGED) return true;
    return st == REPLOG_OK && pos.chain == h->hash;
}

static void check_quorum(struct sim_member *m, const struct block_header *h) {
    struct sim *sim = m->sim;
    if (sim->sync == SIM_SYNC_NONE) return;
    unsigned n = 0;
    uint64_t last = block_last_seq(h);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *k = sim_member(sim, id);
        struct record *r = watch_record(k);
        if (k->running) r->durable_seq = watch_durable_of(k);
        n += r->wiped_seq >= last || (r->durable_seq >= last && holds(k, h));
    }
    if (n <= sim->n_nodes / 2)
        sim_fail(sim,
                 "[quorum] member %" PRIu64 " says that seq %" PRIu64
                 " is committed, and only %u of %u members hold it durably",
                 m->id, last, n, sim->n_nodes);
}

static bool is_session(const struct block_header *h, const uint8_t *bytes) {
    struct block_walk walk = {0};
    replog_record r;
    return (h->flags & BLOCK_MARKER) && block_next(bytes, h, &walk, &r) &&
           r.op == REPLOG_OP_SESSION;
}

static void truth_add(struct sim_member *m, const struct block_header *h, const uint8_t *bytes) {
    struct sim_watch *w = m->sim->watch;
    if (w->n_truth == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 1024;
        w->truth = realloc(w->truth, w->capacity * sizeof *w->truth);
        CHECK(w->truth);
    }
    check_quorum(m, h);
    watch_model_apply(w, h, bytes);
    w->truth[w->n_truth++] = (struct truth){.end = {block_last_seq(h), h->term, h->hash},
                                            .told_us = m->sim->now_us,
                                            .told_term = watch_record(m)->term,
                                            .content = w->content};
    sim_note(m->sim, (unsigned)m->id, "first to say committed: seq, chain", block_last_seq(h),
             h->hash);
    sim_oracle_committed(m->sim, h, bytes);
    sim_witness_committed(m->sim, m->id, block_last_seq(h), is_session(h, bytes));
}

/* A block that the member says is committed. */
static void compare(struct sim_member *m, const struct block_header *h, const uint8_t *bytes) {
    struct sim *sim = m->sim;
    struct sim_watch *w = sim->watch;
    uint64_t last = block_last_seq(h);
    if (last > truth_end(w)) {
        if (w->lost) return;
        bool follows = w->n_truth == 0 ? h->first_seq == 1
                                       : h->first_seq == truth_end(w) + 1 &&
                                             h->prev_chain == w->truth[w->n_truth - 1].end.chain;
        if (!follows)
            sim_fail(sim,
                     "[committed] member %" PRIu64 " says that seq %" PRIu64 " to %" PRIu64
                     " of term %" PRIu64 " are committed, which does not continue seq %" PRIu64
                     ", committed before",
                     m->id, h->first_seq, last, h->term, truth_end(w));
        truth_add(m, h, bytes);
        return;
    }
    const struct truth *t = &w->truth[watch_truth_find(w, last)];
    if (t->end.seq != last || t->end.chain != h->hash || t->end.term != h->term)
        sim_fail(sim,
                 "[committed] member %" PRIu64 " says that seq %" PRIu64 " of term %" PRIu64
                 ", chain %016" PRIx64 " is committed; before, it was seq %" PRIu64
                 " of term %" PRIu64 ", chain %016" PRIx64,
                 m->id, last, h->term, h->hash, t->end.seq, t->end.term, t->end.chain);
}

void watch_check_base(struct sim_member *m) {
    const struct sim_watch *w = m->sim->watch;
    struct wal_pos base = wal_base(m->wal);
    if (base.seq == 0) return;
    size_t at = watch_truth_find(w, base.seq);
    bool same = at < w->n_truth && w->truth[at].end.seq == base.seq &&
                w->truth[at].end.chain == base.chain && w->truth[at].end.term == base.term;
    /* what is committed by members whose logs cannot be read is told late; after a loss, never */
    bool untold = at == w->n_truth && (w->lost || m->damage & SIM_DISK_DAMAGED);
    if (!same && !untold)
        sim_fail(m->sim,
                 "[committed] the log of member %" PRIu64 " begins behind seq %" PRIu64
                 " of term %" PRIu64 ", which was never committed so",
                 m->id, base.seq, base.term);
}

/* Compares everything up to `upto` that was not yet. */
static void read_on(struct sim_member *m, uint64_t upto) {
    struct record *r = watch_record(m);
    struct sim *sim = m->sim;
    replog_error err = {0};
    unsigned tries = 0;
    sim_member_observe(m, true);
    while (r->read_seq < upto && !r->blind) {
        replog_status st = REPLOG_OK;
        uint64_t base = wal_base(m->wal).seq;
        if (!r->reader) {
            if (r->read_seq < base) r->read_seq = base;
            if (r->read_seq >= upto) break;
            st = wal_reader_open(m->wal, r->read_seq + 1, &r->reader, &err);
        }
        struct block_header h;
        const uint8_t *bytes;
        if (st == REPLOG_OK) st = wal_reader_next(r->reader, upto, &h, &bytes, &err);
        if (st == REPLOG_NOT_FOUND) break;
        if (st == REPLOG_OK) {
            compare(m, &h, bytes);
            r->read_seq = block_last_seq(&h);
            sim->figures.log_checks++;
            continue;
        }
        wal_reader_close(r->reader);
        r->reader = NULL;
        bool moved = (st == REPLOG_ABORTED || st == REPLOG_OUT_OF_RANGE) && tries++ < 3;
        if (moved) continue;
        if (disk_mem_is_off(m->disk.mem)) break; /* no fault of the log */
        if (st != REPLOG_DATA_LOSS || !(m->damage & SIM_DISK_DAMAGED))
            sim_fail(sim,
                     "[log] the log of member %" PRIu64 " cannot be read at seq %" PRIu64 ": %s %s",
                     m->id, r->read_seq + 1, replog_status_name(st), err.text);
        r->blind = true;
    }
    sim_member_observe(m, false);
    if (r->read_seq > r->claimed_seq) r->claimed_seq = r->read_seq;
}

/* ---- Terms ----------------------------------------------------------------------------------- */

static void reserve_term(struct sim *sim, uint64_t term) {
    struct sim_watch *w = sim->watch;
    if (term < w->n_terms) return;
    if (term > 1000000) sim_fail(sim, "term %" PRIu64, term);
    size_t n = (size_t)term + 64;
    w->leaders = realloc(w->leaders, n * sizeof *w->leaders);
    w->votes = realloc(w->votes, n * sizeof *w->votes);
    CHECK(w->leaders && w->votes);
    memset(w->leaders + w->n_terms, 0, (n - w->n_terms) * sizeof *w->leaders);
    memset(w->votes + w->n_terms, 0, (n - w->n_terms) * sizeof *w->votes);
    w->n_terms = n;
}

/* A leader's log holds all that was committed in terms before its own. (One that stood still while
 * its votes were on their way leads late; others may have led and committed in later terms.) */
static void check_complete(struct sim_member *m, const struct node_snapshot *s) {
    const struct sim_watch *w = m->sim->watch;
    size_t n = w->n_truth;
    while (n > 0 && w->truth[n - 1].told_term >= s->term) n--;
    if (n == 0) return;
    uint64_t end = w->truth[n - 1].end.seq;
    bool complete = s->last_seq >= end;
    struct wal_pos pos = {0};
    if (complete && wal_tail(m->wal).seq >= end && wal_base(m->wal).seq < end) {
        sim_member_observe(m, true);
        replog_status st = wal_pos_at(m->wal, end, &pos, NULL);
        sim_member_observe(m, false);
        bool rotten = st == REPLOG_DATA_LOSS && m->damage & SIM_DISK_DAMAGED;
        complete = rotten || (st == REPLOG_OK && pos.chain == w->truth[n - 1].end.chain);
    }
    if (!complete)
        sim_fail(m->sim,
                 "[leader-is-complete] member %" PRIu64 " leads term %" PRIu64
                 " with a log up to seq %" PRIu64 " that lacks seq %" PRIu64 ", which is committed",
                 m->id, s->term, s->last_seq, end);
}

/* Nobody leads for long without hearing from a majority, by its own clock. */
static void check_hears(struct sim_member *m, const struct node_snapshot *s) {
    const struct sim *sim = m->sim;
    const struct record *r = watch_record(m);
    uint64_t now_ms = sim_member_mono_ms(m), patience_ms = 3 * sim->node_options.election_ms;
    unsigned n = 1;
    if (now_ms - r->leader_since_ms <= patience_ms) return;
    for (uint64_t id = 1; id <= sim->n_nodes; id++)
        n += id != m->id && now_ms - r->heard_ms[id] <= patience_ms;
    if (n <= sim->n_nodes / 2)
        sim_fail(m->sim,
                 "[deaf-leader] member %" PRIu64 " leads term %" PRIu64 " and has heard %u of %u "
                 "members (itself counted) within %" PRIu64 " ms",
                 m->id, s->term, n, sim->n_nodes, patience_ms);
}

void sim_watch_heard(struct sim_member *m, uint64_t peer) {
    if (peer >= 1 && peer <= m->sim->n_nodes)
        watch_record(m)->heard_ms[peer] = sim_member_mono_ms(m);
}

static void check_leader(struct sim_member *m, const struct node_snapshot *s) {
    struct sim *sim = m->sim;
    struct record *r = watch_record(m);
    m->leads_term = s->role == RAFT_LEADER ? s->term : 0;
    if (s->role != RAFT_LEADER) return;
    reserve_term(sim, s->term);
    uint64_t *leader = &sim->watch->leaders[s->term];
    if (*leader == 0) sim->figures.leaders++;
    if (*leader && *leader != m->id)
        sim_fail(sim, "[leader] term %" PRIu64 " has two leaders: members %" PRIu64 " and %" PRIu64,
                 s->term, *leader, m->id);
    *leader = m->id;
    if (r->leader_term != s->term) {
        r->leader_term = s->term;
        r->leader_commit = s->commit_seq;
        r->leader_since_ms = sim_member_mono_ms(m);
        check_complete(m, s);
        if (sim->on_new_leader) sim->on_new_leader(sim, m->id);
        sim_witness_leader(sim, m->id);
    }
    check_hears(m, s);
    if (s->commit_seq <= r->leader_commit) return;
    r->leader_commit = s->commit_seq;
    const struct sim_watch *w = sim->watch;
    size_t at = watch_truth_find(w, s->commit_seq);
    if (at < w->n_truth && w->truth[at].end.term != s->term)
        sim_fail(sim,
                 "[leader] member %" PRIu64 ", leader of term %" PRIu64
                 ", commits up to seq %" PRIu64 " of term %" PRIu64 " by counting",
                 m->id, s->term, s->commit_seq, w->truth[at].end.term);
}

static void vote_is_given(struct sim_member *m, uint64_t term, uint64_t to) {
    struct sim *sim = m->sim;
    struct record *r = watch_record(m);
    struct wal_vote saved = wal_vote(m->wal);
    reserve_term(sim, term);
    uint64_t *vote = &sim->watch->votes[term][m->id];
    if (*vote && *vote != to)
        sim_fail(sim,
                 "[vote] member %" PRIu64 " votes twice in term %" PRIu64 ": for %" PRIu64
                 " and for %" PRIu64,
                 m->id, term, *vote, to);
    *vote = to;
    if (saved.term != term || saved.voted_for != to)
        sim_fail(sim,
                 "[vote] member %" PRIu64 " gives its vote of term %" PRIu64 " to %" PRIu64
                 ", and has saved term %" PRIu64 " and a vote for %" PRIu64,
                 m->id, term, to, saved.term, saved.voted_for);
    r->promised_vote = saved;
}

/* ---- What members say ------------------------------------------------------------------------ */

static void message_goes_out(struct sim_member *m, const struct peer_msg *msg) {
    struct record *r = watch_record(m);
    const struct raft_msg *raft = &msg->raft;
    if (msg->kind != PEER_RAFT) return;
    if (raft->type != RAFT_PREVOTE && raft->type != RAFT_PREVOTE_REPLY &&
        raft->term > r->promised_term)
        r->promised_term = raft->term;
    if (raft->type == RAFT_VOTE) vote_is_given(m, raft->term, m->id);
    if (raft->type == RAFT_VOTE_REPLY && raft->ok) vote_is_given(m, raft->term, raft->to);
    if (raft->type != RAFT_APPEND_REPLY || !raft->ok) return;
    uint64_t durable = watch_durable_of(m);
    if (raft->seq > durable)
        sim_fail(m->sim,
                 "[durable] member %" PRIu64 " tells %" PRIu64 " that seq %" PRIu64
                 " is durable, and it is durable up to %" PRIu64 "%s",
                 m->id, raft->to, raft->seq, durable, r->cuts ? "; a cut waits" : "");
    if (raft->seq > r->promised_seq) r->promised_seq = raft->seq;
}

/* There is one cluster in a run. */
static void check_cluster(struct sim_member *m) {
    uint64_t *cluster_id = &m->sim->watch->cluster_id, own = wal_identity(m->wal).cluster_id;
    if (*cluster_id == 0) *cluster_id = own;
    if (own != *cluster_id)
        sim_fail(m->sim,
                 "[one-cluster] member %" PRIu64 " founds cluster %016" PRIx64
                 ", and there is cluster %016" PRIx64,
                 m->id, own, *cluster_id);
}

/* A founded member welcomes nobody whose directory is another than the one it was founded with. */
static void check_welcome(struct sim_member *m, uint64_t peer, uint64_t stream) {
    const struct sim_member *k = sim_member(m->sim, peer);
    struct config config;
    if (!sim_net_opener_lives(m->sim, m->id, stream)) return;
    if (wal_identity(m->wal).founding != WAL_FOUNDED) return;
    wal_base_config(m->wal, &config);
    const struct config_member *c = config_find(&config, peer);
    if (!c || c->incarnation != wal_identity(k->wal).incarnation)
        sim_fail(m->sim,
                 "[wiped-is-refused] member %" PRIu64 " welcomes member %" PRIu64
                 ", whose directory is not the one that belongs to the cluster",
                 m->id, peer);
}

/* Members contradict each other only after a loss (--sync none): who has kept, and committed, more
 * than those who lead and follow now says so of the leader, or the leader says it of its answers.
 */
static void check_refusal(struct sim_member *m, const char *text) {
    uint64_t other = 0;
    bool kept_here = strstr(text, "is committed here") || strstr(text, ", and committed");
    bool kept_there = strstr(text, " holds seq ") || strstr(text, " has applied seq ");
    if (!kept_here && !kept_there) return;
    if (!sim_has_lost(m->sim))
        sim_fail(m->sim, "[refused] nothing was lost, and member %" PRIu64 " refuses a stream: %s",
                 m->id, text);
    CHECK(sscanf(text, "member %" SCNu64, &other) == 1 && other >= 1 && other <= m->sim->n_nodes);
    if (kept_here) watch_record(m)->apart = true;
    if (kept_there) watch_record(sim_member(m->sim, other))->apart = true;
}

/* What a leader acknowledged goes only at the word of a leader of a later term; so whoever is told
 * that its LEADER append may be lost with the leader loses it in no other way. */
static void check_cut(struct sim_member *m, uint64_t keep_seq) {
    struct wal_pos tail = wal_tail(m->wal);
    struct node_snapshot s;
    node_snapshot(m->node, &s);
    if (tail.seq > keep_seq && tail.term >= s.term)
        sim_fail(m->sim,
                 "[cut] member %" PRIu64 ", in term %" PRIu64 ", cuts its log at seq %" PRIu64
                 ", and what goes is of term %" PRIu64,
                 m->id, s.term, keep_seq, tail.term);
}

void sim_watch_effect(struct sim_member *m, const struct node_effect *fx) {
    if (m->sim->unwatched) return;
    if (fx->type == NODE_FX_PUBLISH) watch_record(m)->changed = true;
    if (fx->type == NODE_FX_REFUSE) check_refusal(m, fx->text);
    if (fx->type == NODE_FX_WELCOME) check_welcome(m, fx->peer, fx->stream);
    if (fx->type == NODE_FX_CUT) {
        struct record *r = watch_record(m);
        check_cut(m, fx->seq);
        if (r->cuts++ == 0 || fx->seq < r->cut_seq) r->cut_seq = fx->seq;
        /* from here on: the power may go when the cut is durable and nobody knows it yet */
        if (fx->seq < r->promised_seq) r->promised_seq = fx->seq;
    }
    if (fx->type == NODE_FX_FLUSH) {
        struct record *r = watch_record(m);
        if (!r->flushes) r->slices = 0;
        r->flushes = true;
    }
    if (fx->type == NODE_FX_SEND) {
        message_goes_out(m, &fx->msg);
        sim_note(m->sim, (unsigned)m->id, "sends to, kind", fx->peer,
                 fx->msg.kind == PEER_RAFT ? fx->msg.raft.type : 100u + fx->msg.kind);
    }
}

/* A store that lags has always more to apply: its flush must not wait for the end of that, for the
 * log waits for the flush. A full disk tries, and goes on applying. */
static void check_flush(struct sim_member *m) {
    struct record *r = watch_record(m);
    if (m->disk.full) r->slices = 0;
    if (r->flushes && ++r->slices > MOST_SLICES)
        sim_fail(m->sim,
                 "[flush] member %" PRIu64 " has applied %u slices since it was asked to make its "
                 "store durable, and has not",
                 m->id, r->slices);
}

static void check_truncation(struct sim_member *m, const struct wal_pos *base) {
    struct sim *sim = m->sim;
    watch_check_base(m);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *k = sim_member(sim, id);
        uint64_t durable = sim_disk_store_durable(&k->disk);
        if (base->seq > durable && !(k->damage & (SIM_DISK_WIPED | SIM_STORE_WIPED)))
            sim_fail(sim,
                     "[truncate] member %" PRIu64 " truncates up to seq %" PRIu64
                     ", and the store of member %" PRIu64 " is durable up to %" PRIu64 " only",
                     m->id, base->seq, id, durable);
    }
    sim->figures.truncations++;
}

void sim_watch_event(struct sim_member *m, const struct node_event *ev) {
    struct sim *sim = m->sim;
    struct record *r = watch_record(m);
    if (sim->unwatched) return;
    sim_note(sim, (unsigned)m->id, "worker done: type, seq", ev->type, ev->seq);
    switch (ev->type) {
    case NODE_EV_CUT_DONE:
        CHECK(r->cuts > 0);
        r->cuts--;
        if (ev->seq < r->claimed_seq)
            sim_fail(sim,
                     "[committed] member %" PRIu64 " cuts its log at seq %" PRIu64
                     ", and has said that %" PRIu64 " is committed",
                     m->id, ev->seq, r->claimed_seq);
        break;
    case NODE_EV_TRUNCATED:
        check_truncation(m, &ev->base);
        r->base_seq = ev->base.seq;
        break;
    case NODE_EV_FOUND_SAVED:
        r->founding = ev->founding;
        if (ev->founding == WAL_FOUNDED) check_cluster(m);
        break;
    case NODE_EV_APPLIED:
        if (ev->seq > truth_end(sim->watch) && !sim_has_lost(sim) &&
            !(m->damage & SIM_DISK_DAMAGED))
            sim_fail(sim,
                     "[apply] member %" PRIu64 " applies seq %" PRIu64
                     ", committed is up to %" PRIu64,
                     m->id, ev->seq, truth_end(sim->watch));
        if (ev->seq > wal_durable(m->wal).seq) /* whatever --sync is */
            sim_fail(sim,
                     "[apply] member %" PRIu64 " applies seq %" PRIu64
                     ", durable here is up to %" PRIu64,
                     m->id, ev->seq, wal_durable(m->wal).seq);
        check_flush(m);
        if (rng_between(&sim->watch->rng, 1, 20) == 1) watch_check_store(m);
        break;
    case NODE_EV_FLUSHED:
        r->flushes = false;
        if (ev->seq > sim_disk_store_durable(&m->disk))
            sim_fail(sim,
                     "[checkpoint] member %" PRIu64
                     " says that its store is durable up to seq %" PRIu64
                     ", and it is up to %" PRIu64,
                     m->id, ev->seq, sim_disk_store_durable(&m->disk));
        if (rng_between(&sim->watch->rng, 1, 10) == 1) watch_check_store(m);
        break;
    default:
        break;
    }
}

void sim_watch_turn(struct sim_member *m) {
    struct record *r = watch_record(m);
    if (m->sim->unwatched) return;
    /* a leader is looked at even when nothing changes */
    uint64_t now_ms = sim_member_mono_ms(m);
    bool look = r->leader_term != 0 && now_ms - r->looked_ms >= LEADER_EVERY_MS;
    if (!r->changed && !look) return;
    r->changed = false;
    r->looked_ms = now_ms;
    struct node_snapshot s;
    node_snapshot(m->node, &s);
    sim_note(m->sim, (unsigned)m->id, "commit, term", s.commit_seq, s.term);
    uint64_t durable = watch_durable_of(m);
    if (s.durable_seq > durable)
        sim_fail(m->sim,
                 "[durable-claim] member %" PRIu64 " counts seq %" PRIu64
                 " as durable, and its log is durable up to %" PRIu64,
                 m->id, s.durable_seq, durable);
    uint64_t readable = s.commit_seq < s.durable_seq ? s.commit_seq : s.durable_seq;
    watch_record(m)->term = s.term;
    read_on(m, readable);
    check_leader(m, &s);
}

/* ---- Liveness -------------------------------------------------------------------------------- */

static struct sim_member *find_leader(struct sim *sim) {
    struct sim_member *best = NULL;
    uint64_t term = 0;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        struct node_snapshot s;
        if (!m->running) continue;
        node_snapshot(m->node, &s);
        if (s.role != RAFT_LEADER || !s.ready || s.term < term) continue;
        best = m;
        term = s.term;
    }
    return best;
}

static void probe(struct sim *sim, void *arg, uint64_t tag) {
    struct sim_watch *w = sim->watch;
    (void)arg;
    (void)tag;
    struct sim_member *m = find_leader(sim);
    if (w->probe_seq) return;
    if (!m || w->probes >= PROBE_TOKENS) {
        sim_after(sim, PROBE_EVERY_US, probe, NULL, 0);
        return;
    }
    struct block_builder b;
    replog_error err;
    struct node_event ev = {.type = NODE_EV_APPEND, .token = PROBE_TOKEN + w->probes++};
    ev.append.ack = NODE_ACK_QUORUM;
    block_begin(&b);
    static const uint8_t text[] = "is there progress?";
    CHECK(block_add(&b, REPLOG_OP_PUT, (struct slice){0}, (struct slice){text, sizeof text},
                    &err) == REPLOG_OK);
    ev.append.block = block_finish(&b, &ev.append.n_records, &ev.append.flags);
    CHECK(ev.append.block);
    ev.deadline_ms = sim_member_mono_ms(m) + 1000;
    sim_node_post(sim, m->id, &ev);
    blob_unref(ev.append.block);
    block_builder_free(&b);
}

bool sim_watch_reply(struct sim *sim, const struct node_effect *fx) {
    if (fx->token < PROBE_TOKEN) return sim_witness_reply(sim, fx);
    struct sim_watch *w = sim->watch;
    sim_trace(sim, 0, "probe: %s %s", replog_status_name(fx->status), fx->text);
    if (fx->status == REPLOG_OK)
        w->probe_seq = fx->reply.last_seq;
    else
        sim_after(sim, PROBE_EVERY_US, probe, NULL, 0);
    return true;
}

static void still_there(struct sim *sim, const char *when) {
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *m = sim_member(sim, id);
        if (!m->running && !m->excused)
            sim_fail(sim, "[liveness] %s, member %" PRIu64 " is down, and its disk is not damaged",
                     when, id);
    }
}

/* Neither damaged nor apart. */
static bool is_majority_whole(const struct sim *sim) {
    return sim->n_nodes - sim_n_destroyed(sim) > sim->n_nodes / 2;
}

void sim_watch_healed(struct sim *sim) {
    still_there(sim, "after the faults");
    if (!find_leader(sim) && is_majority_whole(sim))
        sim_fail(sim,
                 "[liveness] no progress: %" PRIu64
                 " ms after the last fault no leader is ready, with %u of "
                 "%u members damaged",
                 (sim->healed_us - sim->quiet_us) / 1000, sim_n_destroyed(sim), sim->n_nodes);
    probe(sim, NULL, 0);
}

/* --sync none, after a loss: who runs, and has not said that it stays away, is of one mind. */
static void check_agree(struct sim *sim) {
    struct wal_pos first = {0}, pos;
    uint64_t end = sim->watch->probe_seq;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        struct node_snapshot s;
        if (!m->running || m->excused || sim_watch_is_apart(m)) continue;
        node_snapshot(m->node, &s);
        if (s.commit_seq < end)
            sim_fail(sim,
                     "[liveness] no progress: member %" PRIu64 " has committed %" PRIu64
                     " at the end, others %" PRIu64 ", and nobody refused it%s%s",
                     id, s.commit_seq, end, s.refused[0] ? "; refused: " : "", s.refused);
        if (wal_base(m->wal).seq > end || wal_pos_at(m->wal, end, &pos, NULL) != REPLOG_OK)
            continue;
        if (first.seq == 0) first = pos;
        if (pos.seq != first.seq || pos.chain != first.chain)
            sim_fail(sim,
                     "[committed] member %" PRIu64 " has committed seq %" PRIu64 " of term %" PRIu64
                     ", and another member that of term %" PRIu64,
                     id, pos.seq, pos.term, first.term);
    }
    watch_check_same_stores(sim);
}

void sim_watch_finish(struct sim *sim) {
    struct sim_watch *w = sim->watch;
    still_there(sim, "at the end");
    if (!is_majority_whole(sim)) return;
    if (!w->probe_seq)
        sim_fail(
            sim,
            "[liveness] no progress: nothing that was appended after the faults was committed");
    if (w->lost) {
        check_agree(sim);
        return;
    }
    /* but for what was committed just now: nodes write checkpoints by themselves, and --sync none
     * applies what was synced in the background */
    uint64_t settle_us = sim->sync == SIM_SYNC_NONE ? SETTLE_NONE_US : SETTLE_US;
    size_t n = w->n_truth;
    while (n > 0 && w->truth[n - 1].told_us + settle_us > sim->now_us) n--;
    uint64_t end = n ? w->truth[n - 1].end.seq : 0;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        if (!m->running || m->damage & (SIM_DISK_WIPED | SIM_DISK_DAMAGED)) continue;
        struct node_snapshot s;
        node_snapshot(m->node, &s);
        if (s.applied_seq < end || s.commit_seq < end)
            sim_fail(sim,
                     "[liveness] no progress: member %" PRIu64 " has seq %" PRIu64
                     " (committed %" PRIu64 ", applied %" PRIu64 ") at the end, and %" PRIu64
                     " are committed%s%s",
                     id, s.last_seq, s.commit_seq, s.applied_seq, end,
                     s.refused[0] ? "; refused: " : "", s.refused);
        watch_check_store(m);
    }
}

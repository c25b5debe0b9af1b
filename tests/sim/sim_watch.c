/* What is known of the run:
 *   truth      every committed block's end, in order, from the first member that claimed it; all
 *              others must say the same for ever. With it, what a store must hold after that block.
 *   records    of each member: what it has promised to others (durable positions, votes), which its
 *              log must still hold whenever it comes up again. */
#include "sim_watch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/hash.h"
#include "sim_net.h"
#include "sim_witness.h"

enum {
    PROBE_TOKENS = 1 << 20,
    PROBE_EVERY_US = 150000,
    LEADER_EVERY_MS = 60,
    SETTLE_US = 100000,
    SETTLE_NONE_US = 600000
};
#define PROBE_TOKEN (UINT64_MAX - PROBE_TOKENS)

struct truth {
    struct wal_pos end;
    uint64_t told_us,
        told_term;    /* when, and in which term of the member that was first to say it */
    uint64_t content; /* of the store, behind it */
    uint64_t meta; /* of its meta entries, as the first member that was looked at had it; 0: none */
};

struct record {
    struct wal_reader *reader;
    uint64_t read_seq;    /* compared up to here in this life */
    uint64_t claimed_seq; /* it said that this is committed, in any life */
    bool blind;           /* its log is damaged: cannot be compared in this life */
    bool changed;
    uint64_t promised_seq, promised_term;
    struct wal_vote promised_vote;
    uint64_t durable_seq; /* when it was last looked at */
    uint64_t term;        /* likewise */
    unsigned cuts;        /* asked for and not yet done */
    uint64_t cut_seq;     /* the least of them */
    uint64_t leader_term, leader_commit, leader_since_ms, looked_ms;
    uint64_t heard_ms[SIM_MAX_NODES + 1]; /* by its own clock */
    enum wal_founding founding;           /* told */
    uint64_t base_seq;                    /* told */
};

struct slot { /* a key of the model store */
    uint64_t key, content;
};

struct sim_watch {
    struct truth *truth;
    size_t n_truth, capacity;
    struct record records[SIM_MAX_NODES + 1];
    uint64_t *leaders; /* by term */
    uint64_t (*votes)[SIM_MAX_NODES + 1];
    size_t n_terms;
    struct slot *model;
    size_t model_capacity, n_model;
    uint64_t content, rng;
    uint64_t cluster_id;        /* the only one */
    uint64_t probes, probe_seq; /* appends of the watcher itself; the one that was acknowledged */
};

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

static struct record *record_of(const struct sim_member *m) {
    return &m->sim->watch->records[m->id];
}

/* ---- The model store --------------------------------------------------------------------------
 */

static uint64_t content_of(struct slice key, uint64_t seq, struct slice value) {
    uint64_t parts[3] = {hash64(key.data, key.size_bytes), seq,
                         hash64(value.data, value.size_bytes)};
    return hash64(parts, sizeof parts);
}

static void model_grow(struct sim_watch *w);

static struct slot *model_find(struct sim_watch *w, uint64_t key) {
    size_t at = key & (w->model_capacity - 1);
    while (w->model[at].key && w->model[at].key != key) at = (at + 1) & (w->model_capacity - 1);
    return &w->model[at];
}

static void model_set(struct sim_watch *w, uint64_t key, uint64_t content) {
    if (2 * (w->n_model + 1) > w->model_capacity) model_grow(w);
    struct slot *slot = model_find(w, key);
    if (!slot->key) w->n_model++;
    slot->key = key;
    w->content += content - slot->content;
    slot->content = content;
}

static void model_grow(struct sim_watch *w) {
    struct slot *old = w->model;
    size_t n = w->model_capacity;
    w->model_capacity = n ? 2 * n : 256;
    w->model = calloc(w->model_capacity, sizeof *w->model);
    CHECK(w->model);
    for (size_t i = 0; i < n; i++)
        if (old[i].key) *model_find(w, old[i].key) = old[i];
    free(old);
}

static void model_apply(struct sim_watch *w, const struct block_header *h, const uint8_t *bytes) {
    if (!(h->flags & BLOCK_KEYED)) return;
    struct block_walk walk = {0};
    replog_record r;
    while (block_next(bytes, h, &walk, &r)) {
        if (r.key_bytes == 0 || (r.op != REPLOG_OP_PUT && r.op != REPLOG_OP_DELETE)) continue;
        struct slice key = {r.key, r.key_bytes}, value = {r.value, r.value_bytes};
        model_set(w, hash64(key.data, key.size_bytes) | 1,
                  r.op == REPLOG_OP_PUT ? content_of(key, r.seq, value) : 0);
    }
}

/* ---- The truth --------------------------------------------------------------------------------
 */

/* The first that ends at or behind seq; n_truth: none. */
static size_t truth_find(const struct sim_watch *w, uint64_t seq) {
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

/* What of the node's log is durable. While a cut waits for the disk, what lies there above it is
 * of the old tail: nothing of the new one can be durable. */
static uint64_t durable_of(const struct sim_member *m) {
    const struct record *r = record_of(m);
    uint64_t durable =
        m->sim->sync == SIM_SYNC_NONE ? wal_tail(m->wal).seq : wal_durable(m->wal).seq;
    return r->cuts && durable > r->cut_seq ? r->cut_seq : durable;
}

/* Whether the member's log has that very block; where it is running, with each leader's first
 * block, and now and then: it costs. */
static bool holds(struct sim_member *m, const struct block_header *h) {
    struct wal_pos pos = {0};
    uint64_t last = block_last_seq(h);
    const struct sim_watch *w = m->sim->watch;
    bool first = w->n_truth == 0 || w->truth[w->n_truth - 1].end.term != h->term;
    bool now = rng_between(&m->sim->watch->rng, 1, 16) == 1 || first;
    if (!m->running || wal_base(m->wal).seq >= last || !now) return true;
    sim_member_observe(m, true);
    bool same = wal_pos_at(m->wal, last, &pos, NULL) == REPLOG_OK && pos.chain == h->hash;
    sim_member_observe(m, false);
    return same;
}

static void check_quorum(struct sim_member *m, const struct block_header *h) {
    struct sim *sim = m->sim;
    if (sim->sync == SIM_SYNC_NONE) return;
    unsigned n = 0;
    uint64_t last = block_last_seq(h);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *k = sim_member(sim, id);
        struct record *r = record_of(k);
        if (k->running) r->durable_seq = durable_of(k);
        n += k->excused || (r->durable_seq >= last && holds(k, h));
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
    model_apply(w, h, bytes);
    w->truth[w->n_truth++] = (struct truth){.end = {block_last_seq(h), h->term, h->hash},
                                            .told_us = m->sim->now_us,
                                            .told_term = record_of(m)->term,
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
    const struct truth *t = &w->truth[truth_find(w, last)];
    if (t->end.seq != last || t->end.chain != h->hash || t->end.term != h->term)
        sim_fail(sim,
                 "[committed] member %" PRIu64 " says that seq %" PRIu64 " of term %" PRIu64
                 ", chain %016" PRIx64 " is committed; before, it was seq %" PRIu64
                 " of term %" PRIu64 ", chain %016" PRIx64,
                 m->id, last, h->term, h->hash, t->end.seq, t->end.term, t->end.chain);
}

/* The log's beginning must be a block's end of the truth. */
static void check_base(struct sim_member *m) {
    const struct sim_watch *w = m->sim->watch;
    struct wal_pos base = wal_base(m->wal);
    if (base.seq == 0) return;
    size_t at = truth_find(w, base.seq);
    bool same = at < w->n_truth && w->truth[at].end.seq == base.seq &&
                w->truth[at].end.chain == base.chain && w->truth[at].end.term == base.term;
    if (!same && !m->excused)
        sim_fail(m->sim,
                 "[committed] the log of member %" PRIu64 " begins behind seq %" PRIu64
                 " of term %" PRIu64 ", which was never committed so",
                 m->id, base.seq, base.term);
}

/* Compares everything up to `upto` that was not yet. */
static void read_on(struct sim_member *m, uint64_t upto) {
    struct record *r = record_of(m);
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
        if (!m->excused)
            sim_fail(sim,
                     "[log] the log of member %" PRIu64 " cannot be read at seq %" PRIu64 ": %s %s",
                     m->id, r->read_seq + 1, replog_status_name(st), err.text);
        r->blind = true;
    }
    sim_member_observe(m, false);
    if (r->read_seq > r->claimed_seq) r->claimed_seq = r->read_seq;
}

/* ---- Terms ------------------------------------------------------------------------------------
 */

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
    if (n == 0 || m->excused) return;
    uint64_t end = w->truth[n - 1].end.seq;
    bool complete = s->last_seq >= end;
    struct wal_pos pos = {0};
    if (complete && wal_tail(m->wal).seq >= end && wal_base(m->wal).seq < end) {
        sim_member_observe(m, true);
        complete = wal_pos_at(m->wal, end, &pos, NULL) == REPLOG_OK &&
                   pos.chain == w->truth[n - 1].end.chain;
        sim_member_observe(m, false);
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
    const struct record *r = record_of(m);
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
    if (peer >= 1 && peer <= m->sim->n_nodes) record_of(m)->heard_ms[peer] = sim_member_mono_ms(m);
}

static void check_leader(struct sim_member *m, const struct node_snapshot *s) {
    struct sim *sim = m->sim;
    struct record *r = record_of(m);
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
    size_t at = truth_find(w, s->commit_seq);
    if (at < w->n_truth && w->truth[at].end.term != s->term)
        sim_fail(sim,
                 "[leader] member %" PRIu64 ", leader of term %" PRIu64
                 ", commits up to seq %" PRIu64 " of term %" PRIu64 " by counting",
                 m->id, s->term, s->commit_seq, w->truth[at].end.term);
}

static void vote_is_given(struct sim_member *m, uint64_t term, uint64_t to) {
    struct sim *sim = m->sim;
    struct record *r = record_of(m);
    struct wal_vote saved = wal_vote(m->wal);
    reserve_term(sim, term);
    uint64_t *vote = &sim->watch->votes[term][m->id];
    if (*vote && *vote != to && !m->excused)
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

/* ---- What members say -------------------------------------------------------------------------
 */

static void message_goes_out(struct sim_member *m, const struct peer_msg *msg) {
    struct record *r = record_of(m);
    const struct raft_msg *raft = &msg->raft;
    if (msg->kind != PEER_RAFT) return;
    if (raft->type != RAFT_PREVOTE && raft->type != RAFT_PREVOTE_REPLY &&
        raft->term > r->promised_term)
        r->promised_term = raft->term;
    if (raft->type == RAFT_VOTE) vote_is_given(m, raft->term, m->id);
    if (raft->type == RAFT_VOTE_REPLY && raft->ok) vote_is_given(m, raft->term, raft->to);
    if (raft->type != RAFT_APPEND_REPLY || !raft->ok) return;
    uint64_t durable = durable_of(m);
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
    if (m->excused || !sim_net_opener_lives(m->sim, m->id, stream)) return;
    if (wal_identity(m->wal).founding != WAL_FOUNDED) return;
    wal_base_config(m->wal, &config);
    const struct config_member *c = config_find(&config, peer);
    if (!c || c->incarnation != wal_identity(k->wal).incarnation)
        sim_fail(m->sim,
                 "[wiped-is-refused] member %" PRIu64 " welcomes member %" PRIu64
                 ", whose directory is not the one that belongs to the cluster",
                 m->id, peer);
}

void sim_watch_effect(struct sim_member *m, const struct node_effect *fx) {
    if (m->sim->unwatched) return;
    if (fx->type == NODE_FX_PUBLISH) record_of(m)->changed = true;
    if (fx->type == NODE_FX_WELCOME) check_welcome(m, fx->peer, fx->stream);
    if (fx->type == NODE_FX_CUT) {
        struct record *r = record_of(m);
        if (r->cuts++ == 0 || fx->seq < r->cut_seq) r->cut_seq = fx->seq;
        /* from here on: the power may go when the cut is durable and nobody knows it yet */
        if (fx->seq < r->promised_seq) r->promised_seq = fx->seq;
    }
    if (fx->type == NODE_FX_SEND) {
        message_goes_out(m, &fx->msg);
        sim_note(m->sim, (unsigned)m->id, "sends to, kind", fx->peer,
                 fx->msg.kind == PEER_RAFT ? fx->msg.raft.type : 100u + fx->msg.kind);
    }
}

struct hashing {
    uint64_t sum;
    size_t n;
};

static void add_user(struct slice key, uint64_t seq, struct slice value, void *user) {
    struct hashing *h = user;
    h->sum += content_of(key, seq, value);
    h->n++;
}

static void add_meta(struct slice key, struct slice value, void *user) {
    struct hashing *h = user;
    h->sum += content_of(key, 1, value);
}

/* The store must be what the truth up to its applied seq makes. */
static void check_store(struct sim_member *m) {
    struct sim *sim = m->sim;
    struct sim_watch *w = sim->watch;
    struct store *store = m->disk.store;
    uint64_t applied = store->ops->applied(store);
    if (applied == 0) return;
    size_t at = truth_find(w, applied);
    if (at == w->n_truth && m->excused) return; /* its log cannot be read; others will say it */
    if (at == w->n_truth || w->truth[at].end.seq != applied)
        sim_fail(sim,
                 "[store] member %" PRIu64 " has applied up to seq %" PRIu64
                 ", which is not the end of a committed block",
                 m->id, applied);
    struct hashing user = {0}, meta = {0};
    replog_error err;
    CHECK(store->ops->each(store, add_user, &user, &err) == REPLOG_OK);
    CHECK(store->ops->meta_each(store, add_meta, &meta, &err) == REPLOG_OK);
    if (user.sum != w->truth[at].content)
        sim_fail(sim,
                 "[store] the store of member %" PRIu64 " at seq %" PRIu64
                 " (%zu keys) is not what the log makes",
                 m->id, applied, user.n);
    if (w->truth[at].meta && w->truth[at].meta != (meta.sum | 1))
        sim_fail(sim,
                 "[store] the meta entries (sessions, checkpoint) of member %" PRIu64
                 " at seq %" PRIu64 " are not those of another member",
                 m->id, applied);
    w->truth[at].meta = meta.sum | 1;
    sim->figures.log_checks++;
}

static void check_truncation(struct sim_member *m, const struct wal_pos *base) {
    struct sim *sim = m->sim;
    check_base(m);
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *k = sim_member(sim, id);
        uint64_t durable = sim_disk_store_durable(&k->disk);
        if (base->seq > durable && !k->excused)
            sim_fail(sim,
                     "[truncate] member %" PRIu64 " truncates up to seq %" PRIu64
                     ", and the store of member %" PRIu64 " is durable up to %" PRIu64 " only",
                     m->id, base->seq, id, durable);
    }
    sim->figures.truncations++;
}

void sim_watch_event(struct sim_member *m, const struct node_event *ev) {
    struct sim *sim = m->sim;
    struct record *r = record_of(m);
    if (sim->unwatched) return;
    sim_note(sim, (unsigned)m->id, "worker done: type, seq", ev->type, ev->seq);
    switch (ev->type) {
    case NODE_EV_CUT_DONE:
        CHECK(r->cuts > 0);
        r->cuts--;
        if (ev->seq < r->claimed_seq && !m->excused)
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
        if (ev->seq > truth_end(sim->watch) && !m->excused)
            sim_fail(sim,
                     "[apply] member %" PRIu64 " applies seq %" PRIu64
                     ", committed is up to %" PRIu64,
                     m->id, ev->seq, truth_end(sim->watch));
        if (ev->seq > wal_durable(m->wal).seq && sim->sync != SIM_SYNC_NONE)
            sim_fail(sim,
                     "[apply] member %" PRIu64 " applies seq %" PRIu64
                     ", durable here is up to %" PRIu64,
                     m->id, ev->seq, wal_durable(m->wal).seq);
        if (rng_between(&sim->watch->rng, 1, 20) == 1) check_store(m);
        break;
    case NODE_EV_FLUSHED:
        if (ev->seq > sim_disk_store_durable(&m->disk))
            sim_fail(sim,
                     "[checkpoint] member %" PRIu64
                     " says that its store is durable up to seq %" PRIu64
                     ", and it is up to %" PRIu64,
                     m->id, ev->seq, sim_disk_store_durable(&m->disk));
        if (rng_between(&sim->watch->rng, 1, 10) == 1) check_store(m);
        break;
    default:
        break;
    }
}

void sim_watch_turn(struct sim_member *m) {
    struct record *r = record_of(m);
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
    uint64_t durable = durable_of(m);
    if (s.durable_seq > durable)
        sim_fail(m->sim,
                 "[durable-claim] member %" PRIu64 " counts seq %" PRIu64
                 " as durable, and its log is durable up to %" PRIu64,
                 m->id, s.durable_seq, durable);
    uint64_t readable = s.commit_seq < s.durable_seq ? s.commit_seq : s.durable_seq;
    record_of(m)->term = s.term;
    read_on(m, readable);
    check_leader(m, &s);
}

/* ---- Lives ------------------------------------------------------------------------------------
 */

void sim_watch_up(struct sim_member *m) {
    struct record *r = record_of(m);
    struct wal_pos tail = wal_tail(m->wal);
    struct wal_vote vote = wal_vote(m->wal);
    if (m->sim->unwatched) return;
    r->read_seq = 0;
    r->blind = false;
    r->changed = true;
    r->leader_term = 0;
    r->cuts = 0;
    memset(r->heard_ms, 0, sizeof r->heard_ms);
    uint64_t known_term = vote.term > tail.term ? vote.term : tail.term;
    /* A damaged log may refuse to be opened; what is opened is whole. */
    if (m->excused && tail.seq < r->promised_seq)
        sim_fail(m->sim,
                 "[damage] member %" PRIu64 " opens its damaged log, up to seq %" PRIu64
                 ", and had acknowledged %" PRIu64,
                 m->id, tail.seq, r->promised_seq);
    if (!m->excused) {
        if (tail.seq < r->promised_seq)
            sim_fail(m->sim,
                     "[lost] member %" PRIu64 " comes back with a log up to seq %" PRIu64
                     ", and had acknowledged %" PRIu64,
                     m->id, tail.seq, r->promised_seq);
        if (tail.seq < r->claimed_seq)
            sim_fail(m->sim,
                     "[lost] member %" PRIu64 " comes back with a log up to seq %" PRIu64
                     ", and had said that %" PRIu64 " is committed",
                     m->id, tail.seq, r->claimed_seq);
        bool forgot =
            vote.term < r->promised_vote.term ||
            (vote.term == r->promised_vote.term && vote.voted_for != r->promised_vote.voted_for);
        if (forgot)
            sim_fail(m->sim,
                     "[vote] member %" PRIu64 " comes back with term %" PRIu64 ", vote %" PRIu64
                     ", and had voted in term %" PRIu64 " for %" PRIu64,
                     m->id, vote.term, vote.voted_for, r->promised_vote.term,
                     r->promised_vote.voted_for);
        if (known_term < r->promised_term)
            sim_fail(m->sim,
                     "[vote] member %" PRIu64 " comes back with term %" PRIu64
                     ", and has spoken in term %" PRIu64,
                     m->id, known_term, r->promised_term);
        enum wal_founding founding = wal_identity(m->wal).founding;
        if (founding < r->founding || wal_base(m->wal).seq < r->base_seq)
            sim_fail(m->sim,
                     "[restart-remembers] member %" PRIu64
                     " comes back with founding state %d and a log from behind seq %" PRIu64
                     ", and had saved %d and %" PRIu64,
                     m->id, (int)founding, wal_base(m->wal).seq, (int)r->founding, r->base_seq);
        check_store(m);
    }
    check_base(m);
}

void sim_watch_down(struct sim_member *m) {
    struct record *r = record_of(m);
    wal_reader_close(r->reader);
    r->reader = NULL;
    r->durable_seq = durable_of(m);
    m->leads_term = 0;
}

void sim_watch_destroyed(struct sim_member *m) {
    struct record *r = record_of(m);
    r->promised_seq = r->promised_term = r->claimed_seq = 0;
    r->promised_vote = (struct wal_vote){0};
    r->founding = WAL_STANDALONE;
    r->base_seq = 0;
}

/* ---- Liveness ---------------------------------------------------------------------------------
 */

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

void sim_watch_healed(struct sim *sim) {
    still_there(sim, "after the faults");
    if (!find_leader(sim))
        sim_fail(sim,
                 "[liveness] no progress: %" PRIu64
                 " ms after the last fault no leader is ready, with %u of "
                 "%u members damaged",
                 (sim->healed_us - sim->quiet_us) / 1000, sim_n_destroyed(sim), sim->n_nodes);
    probe(sim, NULL, 0);
}

void sim_watch_finish(struct sim *sim) {
    struct sim_watch *w = sim->watch;
    still_there(sim, "at the end");
    if (!w->probe_seq)
        sim_fail(
            sim,
            "[liveness] no progress: nothing that was appended after the faults was committed");
    /* but for what was committed just now: nodes write checkpoints by themselves, and --sync none
     * applies what was synced in the background */
    uint64_t settle_us = sim->sync == SIM_SYNC_NONE ? SETTLE_NONE_US : SETTLE_US;
    size_t n = w->n_truth;
    while (n > 0 && w->truth[n - 1].told_us + settle_us > sim->now_us) n--;
    uint64_t end = n ? w->truth[n - 1].end.seq : 0;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        struct sim_member *m = sim_member(sim, id);
        if (!m->running || m->excused) continue;
        struct node_snapshot s;
        node_snapshot(m->node, &s);
        if (s.applied_seq < end || s.commit_seq < end)
            sim_fail(sim,
                     "[liveness] no progress: member %" PRIu64 " has seq %" PRIu64
                     " (committed %" PRIu64 ", applied %" PRIu64 ") at the end, and %" PRIu64
                     " are committed%s%s",
                     id, s.last_seq, s.commit_seq, s.applied_seq, end,
                     s.refused[0] ? "; refused: " : "", s.refused);
        check_store(m);
    }
}

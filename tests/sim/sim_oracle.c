/* sim_oracle.c: appends, the committed log, and the end of a run. */
#include "sim_oracle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "node/session.h"
#include "sim_oracle_impl.h"
#include "wal/log.h"

static struct oracle the_oracle;

struct oracle *oracle_of(struct sim *sim) {
    CHECK(the_oracle.sim == sim);
    return &the_oracle;
}

void *oracle_grow(void *items, size_t n, size_t *capacity, size_t item_bytes) {
    if (n < *capacity) return items;
    *capacity = *capacity ? 2 * *capacity : 64;
    items = realloc(items, *capacity * item_bytes);
    CHECK(items != NULL);
    return items;
}

void sim_oracle_begin(struct sim *sim, bool retains) {
    struct oracle *o = &the_oracle;
    memset(o, 0, sizeof *o);
    o->sim = sim;
    if (retains) o->most_truncated = UINT64_MAX - 1; /* anything may be asked for */
    o->rng = sim_fork_rng(sim, "oracle");
    static const unsigned n_keys[] = {1, 3, 8, ORACLE_MAX_KEYS};
    o->n_keys = n_keys[rng_between(&o->rng, 0, 3)];
    bool long_keys = rng_between(&o->rng, 1, 4) == 1;
    if (long_keys) o->long_key_bytes = (uint32_t)rng_between(&o->rng, 100, REPLOG_MAX_KEY_BYTES);
}

void sim_oracle_end(struct sim *sim) {
    struct oracle *o = oracle_of(sim);
    free(o->appends);
    free(o->blocks);
    free(o->sessions);
    free(o->doubts);
    free(o->expected);
    for (unsigned i = 0; i < ORACLE_MAX_KEYS; i++) free(o->keys[i].writes);
    memset(o, 0, sizeof *o);
}

uint64_t sim_oracle_floor(struct sim *sim) {
    return oracle_of(sim)->floor;
}

uint64_t sim_oracle_log_end(struct sim *sim) {
    return oracle_of(sim)->end_seq;
}

static const char *ack_name(enum replog_ack ack) {
    return ack == REPLOG_ACK_ALL ? "ALL" : ack == REPLOG_ACK_LEADER ? "LEADER" : "QUORUM";
}

/* ---- What clients are told ------------------------------------------------------------------- */

uint32_t sim_oracle_append(struct sim *sim, const struct sim_append *append) {
    struct oracle *o = oracle_of(sim);
    o->appends = oracle_grow(o->appends, o->n_appends, &o->appends_capacity, sizeof *o->appends);
    o->appends[o->n_appends] =
        (struct oracle_append){.plan = *append, .seed = rng_next(&o->rng), .after_seq = o->floor};
    return o->n_appends++;
}

static void not_taken(struct oracle *o, uint32_t number, const char *why) {
    struct oracle_append *a = &o->appends[number];
    a->state = APPEND_NOT_TAKEN;
    if (a->log_first_seq && !sim_has_lost(o->sim))
        sim_fail(o->sim,
                 "[not-taken] append %" PRIu32 " stands in the log at %" PRIu64
                 ", and its client was told that nothing was appended: %s",
                 number, a->log_first_seq, why);
}

void sim_oracle_append_refused(struct sim *sim, uint32_t append) {
    not_taken(oracle_of(sim), append, "replog_append_async refused it");
}

void sim_oracle_append_lost(struct sim *sim, uint32_t append) {
    struct oracle *o = oracle_of(sim);
    CHECK(o->appends[append].state == APPEND_OPEN);
    o->appends[append].state = APPEND_UNKNOWN;
    sim_figures(sim)->appends_unknown++;
}

/* Where it stands in the log is where its client was told that it stands. */
static void check_place(struct oracle *o, uint32_t number) {
    const struct oracle_append *a = &o->appends[number];
    if (a->log_first_seq != a->first_seq || a->log_last_seq != a->last_seq ||
        a->log_term != a->term)
        sim_fail(o->sim,
                 "[acked] append %" PRIu32 " was acknowledged (%s) at %" PRIu64 "..%" PRIu64
                 " of term %" PRIu64 " and stands at %" PRIu64 "..%" PRIu64 " of term %" PRIu64,
                 number, ack_name(a->plan.ack), a->first_seq, a->last_seq, a->term,
                 a->log_first_seq, a->log_last_seq, a->log_term);
}

/* The log is there already, and something else stands in its place. */
static void check_lost(struct oracle *o, uint32_t number) {
    const struct oracle_append *a = &o->appends[number];
    const struct oracle_block *b = oracle_block_at(o, a->first_seq, NULL);
    if (!b) return;
    /* "may be lost with the leader": only when a later term has taken its place. That its own log
     * loses it only by such a leader's cut, never over a restart, is sim_watch's to see. */
    if (a->plan.ack == REPLOG_ACK_LEADER && b->term > a->term) return;
    if (sim_has_lost(o->sim)) return;
    sim_fail(o->sim,
             "[acked] append %" PRIu32 " was acknowledged (%s) at %" PRIu64 "..%" PRIu64
             " of term %" PRIu64 ", where the committed log has another block (%" PRIu64
             "..%" PRIu64 " of term %" PRIu64 "): acknowledged and lost",
             number, ack_name(a->plan.ack), a->first_seq, a->last_seq, a->term, b->first_seq,
             b->last_seq, b->term);
}

static void expect(struct oracle *o, uint32_t number) {
    o->expected =
        oracle_grow(o->expected, o->n_expected, &o->expected_capacity, sizeof *o->expected);
    o->expected[o->n_expected++] = number;
}

static void acked(struct oracle *o, uint32_t number, const replog_append_result *r) {
    struct oracle_append *a = &o->appends[number];
    const struct sim_append *p = &a->plan;
    a->state = APPEND_ACKED;
    a->first_seq = r->first_seq;
    a->last_seq = r->last_seq;
    a->term = r->term;
    if (r->last_seq - r->first_seq + 1 != p->n_records + (p->single ? 0 : 1))
        sim_fail(o->sim,
                 "[acked] append %" PRIu32 " has %u records, and was told %" PRIu64 "..%" PRIu64,
                 number, p->n_records, r->first_seq, r->last_seq);
    if (p->ack == REPLOG_ACK_ALL && sim_sync_mode(o->sim) != SIM_SYNC_NONE &&
        r->n_durable_on != sim_n_nodes(o->sim))
        sim_fail(o->sim, "[acked] append %" PRIu32 " was acknowledged by ALL, durable on %u of %u",
                 number, r->n_durable_on, sim_n_nodes(o->sim));
    if (p->ack != REPLOG_ACK_LEADER && r->last_seq > o->floor) o->floor = r->last_seq;
    sim_figures(o->sim)->appends_acked++;
    sim_figures(o->sim)->records_acked += p->n_records;
    if (sim_has_lost(o->sim)) return;
    if (a->log_first_seq) {
        check_place(o, number);
    } else {
        check_lost(o, number);
        expect(o, number);
    }
}

/* Which failures leave the outcome open: replog/client.h, "What a failed append means". */
static bool outcome_open(const struct sim_append *p, replog_status status, const char *text) {
    if (strstr(text, "nothing was appended")) return false;
    switch (status) {
    case REPLOG_UNAVAILABLE:
        return !p->numbered;
    case REPLOG_DEADLINE_EXCEEDED:
    case REPLOG_FAILED_PRECONDITION:
    case REPLOG_CANCELLED:
        return true;
    default:
        return false;
    }
}

void sim_oracle_append_told(struct sim *sim, uint32_t append, replog_status status,
                            const replog_append_result *result, const char *text) {
    struct oracle *o = oracle_of(sim);
    struct oracle_append *a = &o->appends[append];
    if (a->state != APPEND_OPEN)
        sim_fail(sim, "[acked] append %" PRIu32 " was answered twice", append);
    sim_figures(sim)->client_checks++;
    if (status == REPLOG_OK) {
        acked(o, append, result);
        return;
    }
    if (!outcome_open(&a->plan, status, text)) {
        not_taken(o, append, text);
        sim_figures(sim)->appends_failed++;
        return;
    }
    a->state = APPEND_UNKNOWN;
    sim_figures(sim)->appends_unknown++;
    /* ACK ALL that came to its deadline tells where it was committed; that is a promise too */
    const char *at = strstr(text, "committed at seq ");
    if (!at) return;
    a->last_seq = strtoull(at + strlen("committed at seq "), NULL, 10);
    a->first_seq = a->last_seq - a->plan.n_records + (a->plan.single ? 1 : 0);
    if (a->last_seq > o->floor) o->floor = a->last_seq;
    if (sim_has_lost(sim)) return;
    if (!a->log_last_seq) expect(o, append);
    if (a->log_last_seq && a->log_last_seq != a->last_seq)
        sim_fail(sim, "[acked] append %" PRIu32 " stands at %" PRIu64 ", and was told: %s", append,
                 a->log_last_seq, text);
}

/* ---- The committed log ----------------------------------------------------------------------- */

static struct oracle_session *find_session(struct oracle *o, uint64_t id) {
    size_t low = 0, high = o->n_sessions;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (o->sessions[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < o->n_sessions && o->sessions[low].id == id ? &o->sessions[low] : NULL;
}

static void add_session(struct oracle *o, uint64_t id) {
    o->sessions =
        oracle_grow(o->sessions, o->n_sessions, &o->sessions_capacity, sizeof *o->sessions);
    o->sessions[o->n_sessions++] = (struct oracle_session){.id = id};
}

/* With one session, whichever threads. */
static bool same_lane(const struct sim_lane *a, const struct sim_lane *b) {
    return a->who == b->who && a->life == b->life && a->all == b->all;
}

/* In the session: numbers 1, 2, 3, ... without gaps, and of appends as they were submitted. */
static void check_session(struct oracle *o, const struct block_header *h, uint32_t number) {
    const struct sim_append *p = &o->appends[number].plan;
    if (!p->numbered) {
        if (h->session)
            sim_fail(o->sim,
                     "[session] append %" PRIu32
                     " has no session and stands in the log with %" PRIu64,
                     number, h->session);
        return;
    }
    struct oracle_session *s = find_session(o, h->session);
    if (!s)
        sim_fail(o->sim,
                 "[session] append %" PRIu32 " is of session %" PRIu64
                 ", which the log never opened",
                 number, h->session);
    if (s->used && !same_lane(&s->lane, &p->lane))
        sim_fail(o->sim,
                 "[session] session %" PRIu64 " is used by two clients (append %" PRIu32 ")", s->id,
                 number);
    if (h->session_seq != s->last_sequence + 1)
        sim_fail(o->sim,
                 "[session] append %" PRIu32 " at %" PRIu64 " is number %" PRIu64
                 " of session %" PRIu64 ", which had come to %" PRIu64,
                 number, h->first_seq, h->session_seq, s->id, s->last_sequence);
    uint32_t *last = &s->last_append[p->lane.thread];
    if (number < *last)
        sim_fail(o->sim,
                 "[session] append %" PRIu32 " stands behind append %" PRIu32 " of its session",
                 number, *last - 1);
    s->used = true;
    s->lane = p->lane;
    s->last_sequence = h->session_seq;
    *last = number + 1;
}

static void write_key(struct oracle *o, unsigned key, const struct oracle_write *write) {
    struct oracle_key *k = &o->keys[key];
    k->writes = oracle_grow(k->writes, k->n, &k->capacity, sizeof *k->writes);
    k->writes[k->n++] = *write;
}

/* Whole: every record as it was appended, and a COMMIT behind them. */
static void check_content(struct oracle *o, const struct block_header *h, const uint8_t *bytes,
                          uint32_t number) {
    const struct sim_append *p = &o->appends[number].plan;
    struct block_walk walk = {0};
    replog_record r;
    uint32_t index = 0;
    bool commit = false;
    while (block_next(bytes, h, &walk, &r)) {
        struct slice key = {r.key, r.key_bytes}, value = {r.value, r.value_bytes};
        if (index == p->n_records) {
            commit = r.op == REPLOG_OP_COMMIT;
        } else if (index > p->n_records || !oracle_same(o, number, index, r.op, key, value)) {
            sim_fail(o->sim,
                     "[whole-batch] record %" PRIu64 " in the log is not record %" PRIu32
                     " of append %" PRIu32,
                     r.seq, index, number);
        } else if (r.key_bytes > 0) {
            write_key(o, oracle_key_number(o, key),
                      &(struct oracle_write){.seq = r.seq,
                                             .block_last_seq = block_last_seq(h),
                                             .append = number,
                                             .index = index,
                                             .deleted = r.op == REPLOG_OP_DELETE});
        }
        index++;
    }
    if (commit == p->single || index != p->n_records + (p->single ? 0 : 1))
        sim_fail(o->sim,
                 "[whole-batch] append %" PRIu32 " of %u records stands in the log with %" PRIu32
                 "%s: not whole",
                 number, p->n_records, index, commit ? " and COMMIT" : "");
}

/* Something stands where an acknowledged append should. */
static void check_expected(struct oracle *o, const struct oracle_block *b) {
    for (size_t i = 0; i < o->n_expected;) {
        uint32_t number = o->expected[i];
        struct oracle_append *a = &o->appends[number];
        if (a->last_seq > b->last_seq && !a->log_first_seq) {
            i++;
            continue;
        }
        if (!a->log_first_seq && a->state == APPEND_ACKED) check_lost(o, number);
        if (a->state == APPEND_UNKNOWN && a->log_last_seq != a->last_seq && !sim_has_lost(o->sim))
            sim_fail(o->sim,
                     "[acked] append %" PRIu32 " was said to be committed at %" PRIu64
                     ", and is not there",
                     number, a->last_seq);
        o->expected[i] = o->expected[--o->n_expected];
    }
}

static void add_append(struct oracle *o, const struct block_header *h, const uint8_t *bytes,
                       const replog_record *first, struct oracle_block *b) {
    b->append = oracle_which(o, first->value, first->value_bytes);
    if (b->append == ORACLE_NO_APPEND)
        sim_fail(o->sim, "[exactly-once] record %" PRIu64 " in the log was appended by nobody",
                 h->first_seq);
    if (b->append == ORACLE_PROBE) return;
    struct oracle_append *a = &o->appends[b->append];
    if (a->log_first_seq)
        sim_fail(o->sim,
                 "[exactly-once] append %" PRIu32 " (%s%s) stands in the log twice, at %" PRIu64
                 " and %" PRIu64,
                 b->append, ack_name(a->plan.ack), a->plan.numbered ? "" : ", without a session",
                 a->log_first_seq, h->first_seq);
    check_content(o, h, bytes, b->append);
    check_session(o, h, b->append);
    if (b->first_seq <= a->after_seq)
        sim_fail(o->sim,
                 "[exactly-once] append %" PRIu32 " stands at %" PRIu64 ", and %" PRIu64
                 " was told to somebody before it was asked for",
                 b->append, b->first_seq, a->after_seq);
    a->log_first_seq = b->first_seq;
    a->log_last_seq = b->last_seq;
    a->log_term = b->term;
    if (a->state == APPEND_NOT_TAKEN) not_taken(o, b->append, "it came later");
    if (a->state == APPEND_ACKED) check_place(o, b->append);
}

void sim_oracle_committed(struct sim *sim, const struct block_header *header,
                          const uint8_t *bytes) {
    struct oracle *o = oracle_of(sim);
    struct block_walk walk = {0};
    replog_record first;
    CHECK(block_next(bytes, header, &walk, &first));
    if (header->first_seq != o->end_seq + 1 || header->prev_chain != o->end_chain)
        sim_fail(sim,
                 "[log] block %" PRIu64
                 " does not continue the committed log, which ends at %" PRIu64,
                 header->first_seq, o->end_seq);
    struct oracle_block b = {.first_seq = header->first_seq,
                             .last_seq = block_last_seq(header),
                             .term = header->term,
                             .chain = header->hash,
                             .append = ORACLE_NO_APPEND,
                             .marker = first.op};
    if (first.op == REPLOG_OP_PUT || first.op == REPLOG_OP_DELETE) {
        add_append(o, header, bytes, &first, &b);
    } else if (first.op == REPLOG_OP_SESSION) {
        add_session(o, b.first_seq);
    }
    o->blocks = oracle_grow(o->blocks, o->n_blocks, &o->blocks_capacity, sizeof *o->blocks);
    o->blocks[o->n_blocks++] = b;
    o->end_seq = b.last_seq;
    o->end_chain = b.chain;
    sim_figures(sim)->client_checks++;
    if (o->n_expected > 0) check_expected(o, &b);
    if (o->n_doubts > 0) oracle_settle_doubts(o);
}

const struct oracle_block *oracle_block_at(const struct oracle *o, uint64_t seq, size_t *hint) {
    if (seq > o->end_seq || seq == 0) return NULL;
    size_t low = 0, high = o->n_blocks;
    if (hint) { /* the same or the next, mostly */
        for (size_t i = *hint; i < o->n_blocks && i < *hint + 3; i++) {
            if (o->blocks[i].first_seq > seq || o->blocks[i].last_seq < seq) continue;
            *hint = i;
            return &o->blocks[i];
        }
    }
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (o->blocks[middle].first_seq <= seq)
            low = middle;
        else
            high = middle;
    }
    if (hint) *hint = low;
    return &o->blocks[low];
}

/* ---- What nodes say, as they say it ---------------------------------------------------------- */

static uint64_t durable_seq(struct oracle *o, uint64_t id) {
    if (!sim_node_running(o->sim, id)) return o->nodes[id].down_durable_seq;
    struct wal *wal = sim_node_wal(o->sim, id);
    return wal ? wal_durable(wal).seq : o->nodes[id].down_durable_seq;
}

/* A member of a later term may have cut a tail that its old leader still counts: what only LEADER
 * was asked for. */
static bool may_have_cut(const struct oracle *o, enum node_ack ack, uint64_t seq) {
    return ack == NODE_ACK_LEADER && seq > o->end_seq;
}

void sim_oracle_node_acked(struct sim *sim, uint64_t id, enum node_ack ack,
                           const struct node_reply *reply) {
    struct oracle *o = oracle_of(sim);
    bool self = false;
    sim_figures(sim)->client_checks++;
    for (unsigned i = 0; i < reply->n_durable_on; i++) {
        uint64_t member = reply->durable_on[i];
        if (member == id) self = true;
        /* it was destroyed since; rot leaves the position, and what the leader knows of it */
        if (sim_node_wiped_seq(sim, member) >= reply->last_seq) continue;
        if (member != id && may_have_cut(o, ack, reply->last_seq)) continue;
        uint64_t durable = durable_seq(o, member);
        if (durable < reply->last_seq)
            sim_fail(sim,
                     "[durable-on] node %" PRIu64 " says that %" PRIu64 " is durable on %" PRIu64
                     ", which has %" PRIu64,
                     id, reply->last_seq, member, durable);
    }
    if (sim_sync_mode(sim) == SIM_SYNC_NONE) {
        if (reply->n_durable_on > 0)
            sim_fail(sim, "[durable-on] node %" PRIu64 " says durable_on, with --sync none", id);
        return;
    }
    if (ack == NODE_ACK_LEADER && !self)
        sim_fail(sim,
                 "[durable-on] node %" PRIu64 " acknowledged %" PRIu64
                 " (LEADER), not durable there",
                 id, reply->last_seq);
    if (ack == NODE_ACK_ALL && reply->n_durable_on != sim_n_nodes(sim))
        sim_fail(sim,
                 "[durable-on] node %" PRIu64 " acknowledged %" PRIu64
                 " (ALL), durable on %u of %u",
                 id, reply->last_seq, reply->n_durable_on, sim_n_nodes(sim));
    if (ack == NODE_ACK_LEADER) return;
    unsigned holders = 0;
    for (uint64_t k = 1; k <= sim_n_nodes(sim); k++)
        if (sim_node_wiped_seq(sim, k) >= reply->last_seq || durable_seq(o, k) >= reply->last_seq)
            holders++;
    if (2 * holders <= sim_n_nodes(sim))
        sim_fail(sim,
                 "[durable-on] node %" PRIu64 " acknowledged %" PRIu64
                 " (QUORUM), durable on %u of %u members",
                 id, reply->last_seq, holders, sim_n_nodes(sim));
}

/* A bounded number of sessions is kept. Whoever does not know one, and the log opened no more than
 * that, has not looked whether a later leader opened it (seed 2087337554). */
void sim_oracle_node_refused(struct sim *sim, uint64_t id, uint64_t session, const char *text) {
    struct oracle *o = oracle_of(sim);
    if (!strstr(text, " is unknown")) return;
    if (o->n_sessions > sim_max_sessions(sim)) {
        sim_figures(sim)->evicted++;
        return;
    }
    if (!find_session(o, session) || sim_sync_mode(sim) == SIM_SYNC_NONE) return;
    sim_fail(sim,
             "[session] node %" PRIu64 " says that it does not know session %" PRIu64
             ", which the log opened, with %zu sessions in all",
             id, session, o->n_sessions);
}

void sim_oracle_node_checkpoint(struct sim *sim, uint64_t id, const struct node_reply *reply) {
    struct oracle *o = oracle_of(sim);
    for (uint64_t k = 1; k <= sim_n_nodes(sim); k++) {
        uint64_t checkpoint = o->nodes[k].down_checkpoint_seq;
        if (sim_node_damage(sim, k) & (SIM_DISK_WIPED | SIM_STORE_WIPED)) continue;
        if (sim_node_running(sim, k)) {
            struct node_snapshot view;
            sim_node_snapshot(sim, k, &view);
            checkpoint = view.checkpoint_seq;
        }
        if (checkpoint < reply->safe_seq)
            sim_fail(sim,
                     "[checkpoint] node %" PRIu64 " answers a checkpoint: safe up to %" PRIu64
                     ", but the store of %" PRIu64 " holds durably up to %" PRIu64,
                     id, reply->safe_seq, k, checkpoint);
    }
    sim_figures(sim)->checkpoints++;
}

void sim_oracle_node_down(struct sim *sim, uint64_t id) {
    struct oracle *o = oracle_of(sim);
    struct node_snapshot view;
    struct wal *wal = sim_node_wal(sim, id);
    oracle_note_first_seqs(o);
    sim_node_snapshot(sim, id, &view);
    o->nodes[id].down_durable_seq = wal ? wal_durable(wal).seq : 0;
    o->nodes[id].down_checkpoint_seq = view.checkpoint_seq;
}

/* ---- The end --------------------------------------------------------------------------------- */

/* What was acknowledged is in the log; a LEADER's may be lost only with its term. */
static void check_all_there(struct oracle *o) {
    uint64_t last_term = o->n_blocks ? o->blocks[o->n_blocks - 1].term : 0;
    for (uint32_t i = 0; i < o->n_appends; i++) {
        const struct oracle_append *a = &o->appends[i];
        if (a->log_first_seq || sim_has_lost(o->sim)) continue;
        bool promised = a->state == APPEND_ACKED || (a->state == APPEND_UNKNOWN && a->last_seq);
        if (!promised) continue;
        if (a->plan.ack == REPLOG_ACK_LEADER && last_term > a->term) continue;
        sim_fail(o->sim,
                 "[acked] append %" PRIu32 " was acknowledged (%s) at %" PRIu64 "..%" PRIu64
                 " and is not in the log, which ends at %" PRIu64,
                 i, ack_name(a->plan.ack), a->first_seq, a->last_seq, o->end_seq);
    }
}

static size_t lane_slot(const struct sim_lane *l, size_t n_slots) {
    return (size_t)((l->who * 1000003ull + l->life) * 8 + l->all * 4 + l->thread) % n_slots;
}

/* What a lane was acknowledged stands in the order in which it was submitted; without a number what
 * is refused for a moment, and tried again, may come behind. */
static void check_lane_order(struct oracle *o) {
    enum { SLOTS = 4096 };
    struct slot {
        struct sim_lane lane;
        uint32_t last; /* append + 1 */
    } *slots = calloc(SLOTS, sizeof *slots);
    CHECK(slots != NULL);
    for (uint32_t i = 0; i < o->n_appends; i++) {
        const struct oracle_append *a = &o->appends[i];
        if (a->state != APPEND_ACKED || !a->log_first_seq || !a->plan.numbered) continue;
        size_t at = lane_slot(&a->plan.lane, SLOTS);
        while (slots[at].last && (!same_lane(&slots[at].lane, &a->plan.lane) ||
                                  slots[at].lane.thread != a->plan.lane.thread))
            at = (at + 1) % SLOTS;
        if (slots[at].last && o->appends[slots[at].last - 1].log_first_seq > a->log_first_seq)
            sim_fail(o->sim,
                     "[order] append %" PRIu32 " stands at %" PRIu64 ", before append %" PRIu32
                     " that its client submitted and was acknowledged before",
                     i, a->log_first_seq, slots[at].last - 1);
        slots[at].lane = a->plan.lane;
        slots[at].last = i + 1;
    }
    free(slots);
}

static void check_log_of(struct oracle *o, uint64_t id) {
    struct wal *wal = sim_node_wal(o->sim, id);
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    replog_error err = {.text = ""};
    uint64_t at = wal_first_seq(wal), end = sim_node_commit(o->sim, id);
    size_t hint = 0;
    replog_status status = wal_reader_open(wal, at, &reader, &err);
    while (status == REPLOG_OK) {
        status = wal_reader_next(reader, end, &h, &bytes, &err);
        if (status != REPLOG_OK) break;
        const struct oracle_block *b = oracle_block_at(o, at, &hint);
        if (!b || b->first_seq != at || h.first_seq != at || b->chain != h.hash)
            sim_fail(o->sim,
                     "[log] the log of node %" PRIu64 " differs at %" PRIu64 " from what was "
                     "committed",
                     id, at);
        at = b->last_seq + 1;
    }
    wal_reader_close(reader);
    if (status == REPLOG_DATA_LOSS && sim_node_damage(o->sim, id) & SIM_DISK_DAMAGED) return;
    if (status != REPLOG_NOT_FOUND || at != end + 1)
        sim_fail(o->sim, "[log] the log of node %" PRIu64 " ends at %" PRIu64 " of %" PRIu64 ": %s",
                 id, at - 1, end, err.text);
}

struct walk_store {
    struct oracle *o;
    uint64_t applied, n;
    bool wrong; /* the first entry that is */
    unsigned wrong_key;
    uint64_t wrong_seq, right_seq;
};

/* The last write up to the applied seq, NULL: none or a DELETE. */
static const struct oracle_write *value_at(const struct oracle_key *k, uint64_t applied) {
    const struct oracle_write *last = NULL;
    for (size_t i = k->n; i-- > 0 && !last;)
        if (k->writes[i].seq <= applied) last = &k->writes[i];
    return last && !last->deleted ? last : NULL;
}

static void check_entry(struct slice key, uint64_t seq, struct slice value, void *user) {
    struct walk_store *w = user;
    unsigned number = oracle_key_number(w->o, key);
    const struct oracle_write *last =
        number < ORACLE_MAX_KEYS ? value_at(&w->o->keys[number], w->applied) : NULL;
    bool right = last && last->seq == seq &&
                 oracle_same(w->o, last->append, last->index, REPLOG_OP_PUT, key, value);
    w->n++;
    if (right || w->wrong) return;
    w->wrong = true;
    w->wrong_key = number;
    w->wrong_seq = seq;
    w->right_seq = last ? last->seq : 0;
}

static void check_store_of(struct oracle *o, uint64_t id) {
    struct store *store = sim_node_store(o->sim, id);
    struct walk_store w = {.o = o, .applied = store->ops->applied(store)};
    replog_error err;
    if (w.applied > o->end_seq)
        sim_fail(o->sim, "[store] the store of node %" PRIu64 " is ahead of the log", id);
    CHECK(store->ops->each(store, check_entry, &w, &err) == REPLOG_OK);
    if (w.wrong)
        sim_fail(o->sim,
                 "[store] the store of node %" PRIu64 " has key %u of seq %" PRIu64
                 " or another value; the "
                 "log up to %" PRIu64 " says seq %" PRIu64,
                 id, w.wrong_key, w.wrong_seq, w.applied, w.right_seq);
    uint64_t n = 0;
    for (unsigned k = 0; k < o->n_keys; k++) n += value_at(&o->keys[k], w.applied) != NULL;
    if (n != w.n)
        sim_fail(o->sim, "[store] the store of node %" PRIu64 " has %" PRIu64 " keys of %" PRIu64,
                 id, w.n, n);
}

void sim_oracle_finish(struct sim *sim) {
    struct oracle *o = oracle_of(sim);
    oracle_note_first_seqs(o);
    for (uint32_t i = 0; i < o->n_appends; i++)
        if (o->appends[i].state == APPEND_OPEN)
            sim_fail(sim, "[answered] append %" PRIu32 " (%s) of client %u was never answered", i,
                     ack_name(o->appends[i].plan.ack), o->appends[i].plan.lane.who);
    if (sim_has_lost(sim)) return;
    if (sim_must_progress(sim)) {
        check_all_there(o);
        if (o->n_doubts > 0)
            sim_fail(sim,
                     "[uncommitted] %zu answers tell of seq %" PRIu64
                     " and such, the log ends at %" PRIu64,
                     o->n_doubts, o->doubts[0].needs_seq, o->end_seq);
    }
    check_lane_order(o);
    for (uint64_t id = 1; id <= sim_n_nodes(sim); id++) {
        if (!sim_node_running(sim, id)) continue;
        check_log_of(o, id);
        check_store_of(o, id);
    }
}

/* sim_oracle_read.c: Gets, reads of the log, truncation. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "sim_oracle_impl.h"
#include "wal/log.h"

/* ---- The store, as the log makes it ---------------------------------------------------------- */

/* How many writes to the key stand at or below a seq. */
static size_t writes_upto(const struct oracle_key *k, uint64_t seq) {
    size_t low = 0, high = k->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (k->writes[middle].seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The first of the writes from number n on that deletes the key, and shows that: n of all: none. */
static size_t next_delete(const struct oracle_key *k, size_t n) {
    for (; n < k->n; n++) {
        bool shown = n + 1 == k->n || k->writes[n + 1].seq > k->writes[n].block_last_seq;
        if (k->writes[n].deleted && shown) break;
    }
    return n;
}

/* What a store has applied at least that has not got that key, where it holds all up to `floor`. */
static uint64_t absent_since(struct oracle *o, unsigned key, uint64_t floor) {
    const struct oracle_key *k = &o->keys[key];
    size_t n = writes_upto(k, floor);
    if (n == 0 || k->writes[n - 1].deleted) return floor;
    n = next_delete(k, n);
    return n < k->n ? k->writes[n].seq : floor;
}

/* NULL when some store that has applied at least `floor` shows that key so; else why not. A store
 * applies whole blocks. */
static const char *impossible(struct oracle *o, unsigned key, bool found, uint64_t seq,
                              uint64_t floor) {
    const struct oracle_key *k = &o->keys[key];
    size_t n = writes_upto(k, found ? seq : floor);
    if (!found) {
        if (n == 0 || k->writes[n - 1].deleted || next_delete(k, n) < k->n) return NULL;
        return "the key was there all the time";
    }
    if (n == 0 || k->writes[n - 1].seq != seq || k->writes[n - 1].deleted)
        return "no such value is in the committed log";
    if (n == k->n) return NULL;
    const struct oracle_write *next = &k->writes[n];
    if (next->seq <= k->writes[n - 1].block_last_seq) return "half of a batch shows";
    return next->seq <= floor ? "a newer one was acknowledged, or seen, before" : NULL;
}

static bool same_value(struct oracle *o, unsigned key, uint64_t seq, struct slice value,
                       uint64_t hash) {
    const struct oracle_key *k = &o->keys[key];
    size_t n = writes_upto(k, seq);
    struct oracle_record r;
    if (n == 0) return false;
    oracle_record(o, k->writes[n - 1].append, k->writes[n - 1].index, &r);
    if (!value.data) return hash64(r.value.data, r.value.size_bytes) == hash;
    return r.value.size_bytes == value.size_bytes &&
           memcmp(r.value.data, value.data, value.size_bytes) == 0;
}

static void judge_get(struct oracle *o, const struct sim_get *g, uint64_t hash) {
    const char *why = impossible(o, g->key, g->found, g->seq, g->stale ? 0 : g->floor);
    if (!why && g->found && !same_value(o, g->key, g->seq, g->value, hash))
        why = "the value is another";
    if (why)
        sim_fail(o->sim,
                 "[get] client %u got key %u%s: %s, seq %" PRIu64
                 "; it had to see all up to %" PRIu64 ": %s",
                 g->who, g->key, g->stale ? " (stale)" : "", g->found ? "found" : "not found",
                 g->seq, g->stale ? 0 : g->floor, why);
}

/* ---- What cannot be judged yet --------------------------------------------------------------- */

static bool any_rot(const struct oracle *o) {
    for (uint64_t id = 1; id <= sim_n_nodes(o->sim); id++)
        if (sim_node_damage(o->sim, id) & SIM_DISK_DAMAGED) return true;
    return false;
}

/* Whoever tells a seq knows it committed, and sim_watch heard of it; but not from a member whose
 * log it cannot read, as long as no other says so. (What a wiped one knew it had told before.) */
static void check_committed(struct oracle *o, unsigned who, uint64_t seq) {
    if (seq <= o->end_seq || any_rot(o)) return;
    sim_fail(o->sim,
             "[uncommitted] client %u is told of seq %" PRIu64
             ", and nobody has committed more than %" PRIu64,
             who, seq, o->end_seq);
}

/* What a running member knows to be committed: where a leader's damaged log cannot be read, that is
 * more than the watcher could tell of so far. */
static uint64_t untold(const struct oracle *o) {
    uint64_t most = 0;
    for (uint64_t id = 1; any_rot(o) && id <= sim_n_nodes(o->sim); id++) {
        uint64_t seq = sim_node_running(o->sim, id) ? sim_node_commit(o->sim, id) : 0;
        if (seq > most) most = seq;
    }
    return most;
}

/* After a loss (sim_has_lost) the log that is told is not known. What is told must still be what
 * somebody appended: a value says whose it is. */
static void check_genuine(struct oracle *o, unsigned who, uint64_t seq, unsigned key,
                          struct slice value) {
    struct oracle_record r;
    if (value.size_bytes < ORACLE_ID_BYTES) return;
    uint32_t append = oracle_which(o, value.data, value.size_bytes);
    uint32_t index = get_u32(value.data + 8);
    bool genuine = append == ORACLE_PROBE;
    if (append < o->n_appends && index < o->appends[append].plan.n_records) {
        oracle_record(o, append, index, &r);
        genuine = r.key_number == key && r.value.size_bytes == value.size_bytes &&
                  memcmp(r.value.data, value.data, value.size_bytes) == 0;
    }
    if (!genuine)
        sim_fail(o->sim,
                 "[exactly-once] client %u is told of a value at seq %" PRIu64
                 " that nobody has appended",
                 who, seq);
}

/* Who asks from now on must see all up to there. */
static void raise_floor(struct oracle *o, uint64_t seq) {
    if (seq > o->floor) o->floor = seq;
}

static struct oracle_doubt *doubt(struct oracle *o, uint64_t needs_seq) {
    o->doubts = oracle_grow(o->doubts, o->n_doubts, &o->doubts_capacity, sizeof *o->doubts);
    struct oracle_doubt *d = &o->doubts[o->n_doubts++];
    *d = (struct oracle_doubt){.needs_seq = needs_seq};
    return d;
}

void sim_oracle_get_told(struct sim *sim, const struct sim_get *get) {
    struct oracle *o = oracle_of(sim);
    uint64_t needs = get->stale ? 0 : get->floor;
    sim_figures(sim)->gets++;
    sim_figures(sim)->client_checks++;
    if (sim_has_lost(sim)) {
        if (get->found) check_genuine(o, get->who, get->seq, get->key, get->value);
        return;
    }
    if (get->found && get->seq > needs) needs = get->seq;
    check_committed(o, get->who, needs);
    if (!get->found && untold(o) > needs) needs = untold(o); /* it may be deleted there */
    if (needs <= o->end_seq) {
        judge_get(o, get, 0);
        if (!get->found && !get->stale) raise_floor(o, absent_since(o, get->key, get->floor));
    } else {
        struct oracle_doubt *d = doubt(o, needs);
        d->is_get = true;
        d->get = *get;
        d->hash = hash64(get->value.data, get->value.size_bytes);
        d->get.value = (struct slice){0};
    }
    /* a later one must not go back */
    if (!get->stale && get->found) raise_floor(o, get->seq);
}

void sim_oracle_get_served(struct sim *sim, const struct sim_get_served *g) {
    struct oracle *o = oracle_of(sim);
    struct oracle_node *n = &o->nodes[g->node];
    unsigned key = oracle_key_number(o, g->key);
    CHECK(key < ORACLE_MAX_KEYS);
    if (n->life != g->life) n->served_seq = 0;
    n->life = g->life;
    if (g->found && g->seq > g->commit_seq)
        sim_fail(sim,
                 "[get] node %" PRIu64 " serves seq %" PRIu64 " of key %u, committed is %" PRIu64,
                 g->node, g->seq, key, g->commit_seq);
    if (sim_has_lost(sim)) return;
    if (g->found && g->seq > o->end_seq && !any_rot(o))
        sim_fail(sim,
                 "[get] node %" PRIu64 " serves seq %" PRIu64 " of key %u, nobody has committed it",
                 g->node, g->seq, key);
    if ((g->found && g->seq > o->end_seq) || n->served_seq > o->end_seq) return;
    /* a leader whose log cannot be read by the watcher has deleted it in blocks not yet told */
    if (!g->found && g->commit_seq > o->end_seq && any_rot(o)) return;
    const char *why = impossible(o, key, g->found, g->seq, n->served_seq);
    if (why)
        sim_fail(sim,
                 "[get] node %" PRIu64 " serves key %u: %s, seq %" PRIu64
                 "; in this life it had shown seq %" PRIu64 ": %s",
                 g->node, key, g->found ? "found" : "not found", g->seq, n->served_seq, why);
    uint64_t shows = g->found ? g->seq : absent_since(o, key, n->served_seq);
    if (shows > n->served_seq) n->served_seq = shows;
}

/* ---- Reads of the log ------------------------------------------------------------------------ */

/* Whether a read shows that record: all with markers, else what users appended. */
static bool shown(struct oracle *o, const struct oracle_block *b, uint64_t seq, bool markers) {
    if (markers) return true;
    if (b->append == ORACLE_NO_APPEND) return false;
    if (b->append == ORACLE_PROBE) return true;
    return seq < b->first_seq + o->appends[b->append].plan.n_records;
}

/* The first seq behind `seq` that a read shows; 0: none up to the end. */
static uint64_t next_shown(struct oracle *o, uint64_t seq, bool markers, size_t *hint) {
    for (uint64_t at = seq + 1; at <= o->end_seq; at++) {
        const struct oracle_block *b = oracle_block_at(o, at, hint);
        if (shown(o, b, at, markers)) return at;
        if (b->append == ORACLE_NO_APPEND) at = b->last_seq; /* nothing more in this block */
    }
    return 0;
}

static uint64_t entry_hash(const replog_entry *e) {
    uint64_t parts[3] = {(uint64_t)e->op, hash64(e->key, e->key_bytes),
                         hash64(e->value ? e->value : "", e->value_bytes)};
    return hash64(parts, sizeof parts);
}

/* A read from the beginning that has got nothing yet: where that is lies with the node. */
static bool begins(const struct sim_read *read) {
    return read->last == 0 && read->from == 0;
}

/* What such a read may have behind it, at the most: what some member had truncated. */
static uint64_t behind(struct oracle *o, const struct sim_read *read) {
    if (!begins(read)) return read->last ? read->last : read->from - 1;
    oracle_note_first_seqs(o);
    return o->highest_first_seq ? o->highest_first_seq - 1 : 0;
}

static void judge_record(struct oracle *o, struct sim_read *read, uint64_t seq, uint64_t term,
                         uint64_t hash) {
    uint64_t after = behind(o, read), due = next_shown(o, after, read->markers, &read->hint);
    if (begins(read) ? due && seq > due : due != seq)
        sim_fail(o->sim,
                 "[read] client %u, who reads on behind %" PRIu64 ", gets %" PRIu64
                 " where %" PRIu64 " is next",
                 read->who, after, seq, due);
    const struct oracle_block *b = oracle_block_at(o, seq, &read->hint);
    replog_entry e = {.op = b->marker, .key = "", .value = ""};
    uint64_t index = seq - b->first_seq;
    struct oracle_record r;
    bool of_user = b->append < o->n_appends;
    if (b->append == ORACLE_PROBE) {
        e.value = ORACLE_PROBE_TEXT;
        e.value_bytes = sizeof ORACLE_PROBE_TEXT;
    } else if (of_user && index < o->appends[b->append].plan.n_records) {
        oracle_record(o, b->append, (uint32_t)index, &r);
        e.op = r.op;
        e.key = r.key.data;
        e.key_bytes = r.key.size_bytes;
        e.value = r.value.data;
        e.value_bytes = r.value.size_bytes;
    } else if (of_user) {
        e.op = REPLOG_OP_COMMIT;
    }
    if (entry_hash(&e) != hash || term != b->term)
        sim_fail(o->sim,
                 "[read] client %u reads %" PRIu64 " as %s of term %" PRIu64
                 " or with another content than what was committed (%s of term %" PRIu64 ")",
                 read->who, seq, "a record", term, replog_op_name(e.op), b->term);
}

void sim_oracle_read_record(struct sim *sim, struct sim_read *read, const replog_entry *entry) {
    struct oracle *o = oracle_of(sim);
    sim_figures(sim)->reads++;
    if (entry->seq <= read->last || entry->seq < read->from)
        sim_fail(sim,
                 "[read] client %u, who read up to %" PRIu64 " from %" PRIu64 ", gets %" PRIu64,
                 read->who, read->last, read->from, entry->seq);
    if (read->to && entry->seq > read->to)
        sim_fail(sim, "[read] client %u, who reads up to %" PRIu64 ", gets %" PRIu64, read->who,
                 read->to, entry->seq);
    if (sim_has_lost(sim)) {
        unsigned key = oracle_key_number(o, (struct slice){entry->key, entry->key_bytes});
        struct slice value = {entry->value, entry->value_bytes};
        if (entry->op == REPLOG_OP_PUT) check_genuine(o, read->who, entry->seq, key, value);
        read->last = entry->seq;
        return;
    }
    uint64_t hash = entry_hash(entry);
    check_committed(o, read->who, entry->seq);
    if (entry->seq <= o->end_seq) {
        judge_record(o, read, entry->seq, entry->term, hash);
    } else {
        struct oracle_doubt *d = doubt(o, entry->seq);
        d->read = *read;
        d->seq = entry->seq;
        d->hash = hash;
        d->get.floor = entry->term;
    }
    read->last = entry->seq;
    raise_floor(o, entry->seq);
}

void oracle_settle_doubts(struct oracle *o) {
    for (size_t i = 0; i < o->n_doubts;) {
        struct oracle_doubt *d = &o->doubts[i];
        if (d->needs_seq > o->end_seq) {
            i++;
            continue;
        }
        if (d->is_get) {
            judge_get(o, &d->get, d->hash);
        } else {
            judge_record(o, &d->read, d->seq, d->get.floor, d->hash);
        }
        *d = o->doubts[--o->n_doubts];
    }
}

void oracle_note_first_seqs(struct oracle *o) {
    for (uint64_t id = 1; id <= sim_n_nodes(o->sim); id++) {
        struct wal *wal = sim_node_running(o->sim, id) ? sim_node_wal(o->sim, id) : NULL;
        uint64_t first = wal ? wal_first_seq(wal) : 0;
        if (first <= o->highest_first_seq) continue;
        o->highest_first_seq = first;
        if (first > 1 && first - 1 > o->most_truncated)
            sim_fail(o->sim,
                     "[truncation] the log of node %" PRIu64 " begins at %" PRIu64
                     "; the most that was asked to be dropped is %" PRIu64,
                     id, first, o->most_truncated);
    }
}

static void end_of_read(struct oracle *o, const struct sim_read *read) {
    uint64_t upto = read->to ? read->to : read->local ? 0 : read->floor;
    uint64_t after = behind(o, read);
    size_t hint = 0;
    if (read->follow && !read->to)
        sim_fail(o->sim, "[read] client %u follows the log and was told that it ends", read->who);
    if (upto > o->end_seq) return;
    uint64_t due = next_shown(o, after, read->markers, &hint);
    if (due && due <= upto)
        sim_fail(o->sim,
                 "[read] client %u was told that its read ends behind %" PRIu64 "; %" PRIu64
                 " was due, up to %" PRIu64,
                 read->who, after, due, upto);
}

void sim_oracle_read_ended(struct sim *sim, const struct sim_read *read, replog_status status,
                           const char *text) {
    struct oracle *o = oracle_of(sim);
    uint64_t next = read->last ? read->last + 1 : read->from;
    sim_figures(sim)->client_checks++;
    oracle_note_first_seqs(o);
    if (status == REPLOG_NOT_FOUND && !sim_has_lost(sim)) {
        end_of_read(o, read);
    } else if (status == REPLOG_OUT_OF_RANGE && !sim_has_lost(sim)) {
        bool truncated = next < o->highest_first_seq;
        bool above = !read->follow && !truncated &&
                     (read->local || next > read->floor + 1 || read->to > read->floor);
        if (!truncated && !above)
            sim_fail(sim,
                     "[read] client %u, who reads from %" PRIu64 " to %" PRIu64 ", now at %" PRIu64
                     ", was told that it is out of range: %s; the log begins at %" PRIu64
                     " or below everywhere, %" PRIu64 " was committed before",
                     read->who, read->from, read->to, next, text, o->highest_first_seq,
                     read->floor);
    } else if (status == REPLOG_DATA_LOSS) {
        if (!any_rot(o)) sim_fail(sim, "[read] client %u was told of damage: %s", read->who, text);
    }
}

/* ---- Truncation ------------------------------------------------------------------------------ */

void sim_oracle_truncate_asked(struct sim *sim, uint64_t upto) {
    struct oracle *o = oracle_of(sim);
    if (upto > o->most_truncated) o->most_truncated = upto;
}

bool sim_oracle_is_truncated(struct sim *sim, uint64_t upto) {
    const struct oracle_block *b = oracle_block_at(oracle_of(sim), upto, NULL);
    if (!b) return false;
    uint64_t first_seq = b->last_seq == upto ? upto + 1 : b->first_seq;
    for (uint64_t id = 1; id <= sim_n_nodes(sim); id++) {
        struct wal *wal = sim_node_running(sim, id) ? sim_node_wal(sim, id) : NULL;
        if (!wal || wal_first_seq(wal) < first_seq) return false;
    }
    return true;
}

void sim_oracle_truncate_told(struct sim *sim, const replog_truncate_result *result) {
    struct oracle *o = oracle_of(sim);
    sim_figures(sim)->truncations++;
    if (result->requested > o->most_truncated)
        sim_fail(sim,
                 "[truncation] a truncation up to %" PRIu64
                 " is told, the most asked for is %" PRIu64,
                 result->requested, o->most_truncated);
    if (result->first_seq > o->most_truncated + 1)
        sim_fail(sim,
                 "[truncation] the log begins at %" PRIu64
                 ", the most asked to be dropped is %" PRIu64,
                 result->first_seq, o->most_truncated);
    if (result->first_seq > o->highest_first_seq) o->highest_first_seq = result->first_seq;
}

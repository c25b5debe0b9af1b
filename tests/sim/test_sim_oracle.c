/* The oracle itself: an honest history passes, and each false one is found, by the sentence that is
 * meant for it. The rest of the simulator is a few lines here. */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "must_fail.h"
#include "sim_oracle_impl.h"
#include "wal/disk.h"
#include "wal/log.h"

/* ---- The world ------------------------------------------------------------------------------- */

struct sim {
    struct sim_figures figures;
    unsigned n_nodes, damage[SIM_MAX_NODES + 1];
    bool running[SIM_MAX_NODES + 1];
    struct wal *wal[SIM_MAX_NODES + 1];
    struct store *store[SIM_MAX_NODES + 1];
    struct node_snapshot view[SIM_MAX_NODES + 1];
    enum sim_sync sync;
    size_t max_sessions;
    bool has_lost;
    uint64_t commit_seq;
    /* the log that the test writes */
    uint64_t end_seq, end_chain, term;
};
static struct sim world;

/* A failure leaves its function by longjmp, and what that held. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0";
}

uint64_t sim_now_us(const struct sim *sim) {
    (void)sim;
    return 1000000;
}
uint64_t sim_fork_rng(struct sim *sim, const char *name) {
    (void)sim;
    return strlen(name);
}
void sim_fail(struct sim *sim, const char *format, ...) {
    va_list args;
    (void)sim;
    va_start(args, format);
    vsnprintf(must_fail_text, sizeof must_fail_text, format, args);
    va_end(args);
    longjmp(must_fail_jump, 1);
}
struct sim_figures *sim_figures(struct sim *sim) {
    return &sim->figures;
}
unsigned sim_n_nodes(const struct sim *sim) {
    return sim->n_nodes;
}
bool sim_node_running(const struct sim *sim, uint64_t id) {
    return sim->running[id];
}
unsigned sim_node_damage(const struct sim *sim, uint64_t id) {
    return sim->damage[id];
}
enum sim_sync sim_sync_mode(const struct sim *sim) {
    return sim->sync;
}
size_t sim_max_sessions(const struct sim *sim) {
    return sim->max_sessions;
}
bool sim_has_lost(const struct sim *sim) {
    return sim->has_lost;
}
bool sim_must_progress(const struct sim *sim) {
    (void)sim;
    return true;
}
struct wal *sim_node_wal(struct sim *sim, uint64_t id) {
    return sim->wal[id];
}
struct store *sim_node_store(struct sim *sim, uint64_t id) {
    return sim->store[id];
}
uint64_t sim_node_commit(struct sim *sim, uint64_t id) {
    (void)id;
    return sim->commit_seq;
}
void sim_node_snapshot(struct sim *sim, uint64_t id, struct node_snapshot *out) {
    *out = sim->view[id];
}

/* The library's batches are not needed here. */
replog_status replog_batch_put(replog_batch *batch, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes, replog_error *err) {
    (void)batch, (void)key, (void)key_bytes, (void)value, (void)value_bytes, (void)err;
    return REPLOG_OK;
}
replog_status replog_batch_delete(replog_batch *batch, const void *key, size_t key_bytes,
                                  replog_error *err) {
    (void)batch, (void)key, (void)key_bytes, (void)err;
    return REPLOG_OK;
}

static int setup(void **state) {
    (void)state;
    memset(&world, 0, sizeof world);
    world.n_nodes = 3;
    world.term = 1;
    world.max_sessions = 1;
    sim_oracle_begin(&world, false);
    struct oracle *o = oracle_of(&world);
    o->n_keys = 1;
    for (unsigned id = 1; id <= 3; id++) o->nodes[id].down_durable_seq = 1000;
    return 0;
}

static int teardown(void **state) {
    (void)state;
    sim_oracle_end(&world);
    return 0;
}

/* ---- Making history -------------------------------------------------------------------------- */

enum lie { TRUTH, LESS_RECORDS, NO_COMMIT, OTHER_VALUE, OTHER_APPEND };

static struct blob *last_block;
static struct block_header last_header;

static void seal(struct block_builder *b, uint64_t session, uint64_t sequence) {
    struct block_header *h = &last_header;
    blob_unref(last_block);
    *h = (struct block_header){.first_seq = world.end_seq + 1,
                               .term = world.term,
                               .session = session,
                               .session_seq = sequence,
                               .prev_chain = world.end_chain};
    last_block = block_finish(b, &h->n_records, &h->flags);
    assert_non_null(last_block);
    h->length = (uint32_t)last_block->size_bytes;
    world.end_chain = block_seal(last_block->data, h);
    world.end_seq = block_last_seq(h);
    sim_oracle_committed(&world, h, last_block->data);
}

static uint64_t commit_marker(replog_op op) {
    struct block_builder b;
    block_begin(&b);
    block_add_marker(&b, op, (struct slice){0});
    seal(&b, 0, 0);
    return world.end_seq;
}

static void commit(uint32_t append, uint64_t session, uint64_t sequence, enum lie lie) {
    struct oracle *o = oracle_of(&world);
    const struct sim_append *p = &o->appends[append].plan;
    struct block_builder b;
    replog_error err;
    block_begin(&b);
    for (uint32_t i = 0; i < p->n_records - (lie == LESS_RECORDS); i++) {
        struct oracle_record r;
        oracle_record(o, append, i, &r);
        uint8_t *bytes = (uint8_t *)(uintptr_t)r.value.data;
        if (lie == OTHER_VALUE && i == p->n_records - 1) bytes[r.value.size_bytes - 1] ^= 1;
        if (lie == OTHER_APPEND && i == 0) put_u32(bytes + 4, 4000000);
        assert_int_equal(block_add(&b, r.op, r.key, r.value, &err), REPLOG_OK);
    }
    if (!p->single && lie != NO_COMMIT) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    seal(&b, session, sequence);
}

static const struct sim_append model = {.lane = {.who = 101, .life = 1},
                                        .ack = REPLOG_ACK_QUORUM,
                                        .numbered = true,
                                        .n_records = 2,
                                        .value_min = 20,
                                        .value_max = 40,
                                        .percent_keyed = 100};

static uint32_t begin(enum replog_ack ack) {
    struct sim_append a = model;
    a.ack = ack;
    a.numbered = ack != REPLOG_ACK_LEADER;
    a.lane.all = ack == REPLOG_ACK_ALL;
    return sim_oracle_append(&world, &a);
}

static void told(uint32_t append, uint64_t first, uint64_t last) {
    replog_append_result r = {
        .first_seq = first, .last_seq = last, .term = world.term, .n_durable_on = 3};
    sim_oracle_append_told(&world, append, REPLOG_OK, &r, "");
}

static void told_error(uint32_t append, replog_status status, const char *text) {
    sim_oracle_append_told(&world, append, status, NULL, text);
}

/* A session and an append in it that is acknowledged and there. */
static uint32_t honest_append(uint64_t *session) {
    *session = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    commit(a, *session, 1, TRUTH);
    told(a, world.end_seq - 2, world.end_seq);
    return a;
}

/* ---- Appends --------------------------------------------------------------------------------- */

static void honest_history(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s); uint32_t a = begin(REPLOG_ACK_LEADER);
              uint32_t b = begin(REPLOG_ACK_QUORUM); told(a, 5, 7); world.term++;
              commit(b, s, 2, TRUTH); told_error(b, REPLOG_DEADLINE_EXCEEDED, "outcome unknown");
              uint32_t c = begin(REPLOG_ACK_QUORUM);
              told_error(c, REPLOG_RESOURCE_EXHAUSTED, "the disk is full");
              sim_oracle_finish(&world));
}

static void acknowledged_and_lost(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM), b = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told(a, 2, 4));
    MUST_FAIL("acknowledged and lost", commit(b, s, 1, TRUTH));
}

static void acknowledged_when_it_is_lost_already(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s));
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_FAIL("acknowledged and lost", told(a, 2, 4));
}

static void acknowledged_and_not_there_at_the_end(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s); told(begin(REPLOG_ACK_QUORUM), 5, 7));
    MUST_FAIL("and is not in the log", sim_oracle_finish(&world));
}

static void leader_may_lose_with_its_term_only(void **state) {
    (void)state;
    commit_marker(REPLOG_OP_TERM);
    uint32_t a = begin(REPLOG_ACK_LEADER);
    MUST_PASS(told(a, 2, 4));
    MUST_FAIL("and is not in the log", sim_oracle_finish(&world));
    MUST_PASS(world.term = 2; commit_marker(REPLOG_OP_TERM); sim_oracle_finish(&world));
}

static void leader_lost_in_its_own_term(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_LEADER), b = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told(a, 2, 4));
    MUST_FAIL("acknowledged and lost", commit(b, s, 1, TRUTH));
}

static void told_another_place(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(commit(a, s, 1, TRUTH));
    MUST_FAIL("and stands at", told(a, 3, 5));
}

static void told_another_length(void **state) {
    (void)state;
    MUST_FAIL("has 2 records, and was told", told(begin(REPLOG_ACK_QUORUM), 3, 4));
}

static void twice_in_the_log(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s);
    MUST_FAIL("twice", commit(a, s, 2, TRUTH));
}

static void unknown_at_most_once(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told_error(a, REPLOG_DEADLINE_EXCEEDED, "outcome unknown"); commit(a, s, 1, TRUTH));
    MUST_FAIL("twice", commit(a, s, 2, TRUTH));
}

static void refused_and_there(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told_error(a, REPLOG_RESOURCE_EXHAUSTED, "the disk is full"));
    MUST_FAIL("nothing was appended", commit(a, s, 1, TRUTH));
}

static void refused_too_late_and_there(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told_error(a, REPLOG_DEADLINE_EXCEEDED, "late, nothing was appended"));
    MUST_FAIL("nothing was appended", commit(a, s, 1, TRUTH));
}

static void there_and_refused(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(commit(a, s, 1, TRUTH));
    MUST_FAIL("nothing was appended", told_error(a, REPLOG_UNAVAILABLE, "no leader"));
}

static void never_taken_and_there(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(sim_oracle_append_refused(&world, a));
    MUST_FAIL("nothing was appended", commit(a, s, 1, TRUTH));
}

static void answered_twice_or_never(void **state) {
    (void)state;
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_FAIL("was never answered", sim_oracle_finish(&world));
    MUST_PASS(told_error(a, REPLOG_DEADLINE_EXCEEDED, "outcome unknown"));
    MUST_FAIL("answered twice", told_error(a, REPLOG_DEADLINE_EXCEEDED, "outcome unknown"));
}

static void said_to_be_committed(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_ALL), b = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(told_error(a, REPLOG_DEADLINE_EXCEEDED, "committed at seq 4, not on member 3"));
    MUST_FAIL("was said to be committed", commit(b, s, 1, TRUTH));
}

static void not_whole(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_FAIL("not whole", commit(begin(REPLOG_ACK_QUORUM), s, 1, NO_COMMIT));
}

static void records_are_missing(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_FAIL("is not record 1 of append", commit(begin(REPLOG_ACK_QUORUM), s, 1, LESS_RECORDS));
}

static void records_are_changed(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_FAIL("is not record 1 of append", commit(begin(REPLOG_ACK_QUORUM), s, 1, OTHER_VALUE));
}

static void appended_by_nobody(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_FAIL("appended by nobody", commit(begin(REPLOG_ACK_QUORUM), s, 1, OTHER_APPEND));
}

static void sessions_in_order(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION), t = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM), b = begin(REPLOG_ACK_QUORUM);
    MUST_FAIL("which had come to 0", commit(a, s, 2, TRUTH));
    (void)teardown(NULL), (void)setup(NULL);
    s = commit_marker(REPLOG_OP_SESSION), t = commit_marker(REPLOG_OP_SESSION);
    a = begin(REPLOG_ACK_QUORUM), b = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(commit(b, s, 1, TRUTH));
    MUST_FAIL("stands behind append", commit(a, s, 2, TRUTH));
    (void)t;
}

static void sessions_of_one_client(void **state) {
    (void)state;
    uint64_t s;
    struct sim_append other = model;
    other.lane.who = 102;
    MUST_PASS(honest_append(&s));
    MUST_FAIL("used by two clients", commit(sim_oracle_append(&world, &other), s, 2, TRUTH));
}

static void sessions_that_nobody_opened(void **state) {
    (void)state;
    commit_marker(REPLOG_OP_TERM);
    MUST_FAIL("which the log never opened", commit(begin(REPLOG_ACK_QUORUM), 1, 1, TRUTH));
}

/* Over the border of sessions too. */
static void a_lane_in_order(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION), t = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM), b = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(commit(b, s, 1, TRUTH); commit(a, t, 1, TRUTH); told(a, 6, 8); told(b, 3, 5));
    MUST_FAIL("submitted and was acknowledged before", sim_oracle_finish(&world));
}

static void behind_what_was_acknowledged(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_PASS(told(begin(REPLOG_ACK_QUORUM), 5, 7));
    MUST_FAIL("was told to somebody before it was asked for",
              commit(begin(REPLOG_ACK_QUORUM), s, 1, TRUTH));
}

static void a_log_with_a_hole(void **state) {
    (void)state;
    commit_marker(REPLOG_OP_TERM);
    world.end_seq++;
    MUST_FAIL("does not continue", commit_marker(REPLOG_OP_TERM));
}

/* ---- What nodes say -------------------------------------------------------------------------- */

static void durable_where_it_says(void **state) {
    (void)state;
    struct oracle *o = oracle_of(&world);
    struct node_reply r = {.first_seq = 5, .last_seq = 7, .durable_on = {1, 2}, .n_durable_on = 2};
    MUST_PASS(sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    o->nodes[2].down_durable_seq = 6;
    MUST_FAIL("is durable on 2", sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    world.damage[2] = SIM_DISK_DAMAGED;
    MUST_FAIL("is durable on 2", sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    world.damage[2] = SIM_DISK_WIPED;
    MUST_PASS(sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    world.damage[2] = 0;
    r.n_durable_on = 1;
    o->nodes[3].down_durable_seq = 6;
    MUST_FAIL("durable on 1 of 3", sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    MUST_FAIL("(ALL), durable on 1 of 3", sim_oracle_node_acked(&world, 1, NODE_ACK_ALL, &r));
    MUST_FAIL("not durable there", sim_oracle_node_acked(&world, 2, NODE_ACK_LEADER, &r));
    world.sync = SIM_SYNC_NONE;
    MUST_FAIL("with --sync none", sim_oracle_node_acked(&world, 1, NODE_ACK_LEADER, &r));
}

static void all_members_for_all(void **state) {
    (void)state;
    replog_append_result r = {.first_seq = 2, .last_seq = 4, .term = 1, .n_durable_on = 2};
    MUST_FAIL("acknowledged by ALL, durable on 2 of 3",
              sim_oracle_append_told(&world, begin(REPLOG_ACK_ALL), REPLOG_OK, &r, ""));
}

static void sessions_are_known(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    MUST_FAIL("does not know session 1",
              sim_oracle_node_refused(&world, 2, s, "session 1 is unknown (evicted, or ...)"));
    MUST_PASS(sim_oracle_node_refused(&world, 2, s, "sequence 3 does not follow: session 1 ...");
              sim_oracle_node_refused(&world, 2, s + 1, "session 2 is unknown (evicted, or ...)"));
    commit_marker(REPLOG_OP_SESSION); /* more than are kept */
    MUST_PASS(sim_oracle_node_refused(&world, 2, s, "session 1 is unknown (evicted, or ...)"));
    assert_int_equal(world.figures.evicted, 1);
}

static void safe_where_it_says(void **state) {
    (void)state;
    struct node_reply r = {.seq = 9, .safe_seq = 7};
    world.running[1] = world.running[2] = true;
    world.view[1].checkpoint_seq = world.view[2].checkpoint_seq = 7;
    oracle_of(&world)->nodes[3].down_checkpoint_seq = 6;
    MUST_FAIL("the store of 3", sim_oracle_node_checkpoint(&world, 1, &r));
    oracle_of(&world)->nodes[3].down_checkpoint_seq = 7;
    MUST_PASS(sim_oracle_node_checkpoint(&world, 1, &r));
    world.view[2].checkpoint_seq = 6;
    MUST_FAIL("the store of 2", sim_oracle_node_checkpoint(&world, 1, &r));
}

/* ---- Gets ------------------------------------------------------------------------------------ */

static struct sim_get get_of(uint32_t append, uint32_t index) {
    struct oracle *o = oracle_of(&world);
    struct oracle_record r;
    oracle_record(o, append, index, &r);
    return (struct sim_get){.who = 101,
                            .found = true,
                            .floor = sim_oracle_floor(&world),
                            .seq = o->appends[append].log_first_seq + index,
                            .value = r.value};
}

static void gets_see_what_was_acknowledged(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s), b = begin(REPLOG_ACK_QUORUM);
    struct sim_get g = get_of(a, 1);
    MUST_PASS(sim_oracle_get_told(&world, &g));
    MUST_PASS(commit(b, s, 2, TRUTH));
    MUST_PASS(g = get_of(a, 1); sim_oracle_get_told(&world, &g)); /* not acknowledged yet */
    MUST_PASS(told(b, world.end_seq - 2, world.end_seq));
    MUST_FAIL("a newer one was acknowledged", g = get_of(a, 1); sim_oracle_get_told(&world, &g));
    MUST_PASS(g.stale = true; sim_oracle_get_told(&world, &g));
    g = (struct sim_get){.who = 101, .floor = sim_oracle_floor(&world)};
    MUST_FAIL("the key was there all the time", sim_oracle_get_told(&world, &g));
}

static void gets_never_go_back(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s), b = begin(REPLOG_ACK_QUORUM);
    struct sim_get g;
    MUST_PASS(commit(b, s, 2, TRUTH); g = get_of(b, 1); sim_oracle_get_told(&world, &g));
    MUST_FAIL("a newer one was acknowledged, or seen", g = get_of(a, 1);
              sim_oracle_get_told(&world, &g));
}

static void gets_of_what_was_committed(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s), b = begin(REPLOG_ACK_QUORUM);
    struct sim_get g = get_of(a, 1);
    uint8_t other[64];
    memcpy(other, g.value.data, g.value.size_bytes);
    other[g.value.size_bytes - 1] ^= 1;
    g.value.data = other;
    MUST_FAIL("the value is another", sim_oracle_get_told(&world, &g));
    MUST_FAIL("half of a batch", g = get_of(a, 0); sim_oracle_get_told(&world, &g));
    g = get_of(b, 1);
    g.seq = world.end_seq + 2; /* not committed, and it never is */
    MUST_FAIL("nobody has committed more", sim_oracle_get_told(&world, &g));
    world.damage[3] = SIM_DISK_WIPED;
    MUST_FAIL("nobody has committed more", sim_oracle_get_told(&world, &g));
    world.damage[3] = SIM_DISK_DAMAGED; /* it may know more than all the others */
    MUST_PASS(sim_oracle_get_told(&world, &g));
    MUST_FAIL("no such value", commit_marker(REPLOG_OP_TERM), commit_marker(REPLOG_OP_TERM));
}

static void gets_of_the_future(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s));
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    world.damage[3] = SIM_DISK_DAMAGED;
    MUST_PASS(struct sim_get g = get_of(a, 1); g.seq = 6; sim_oracle_get_told(&world, &g);
              told_error(a, REPLOG_DEADLINE_EXCEEDED, "unknown"));
    MUST_FAIL("answers tell of seq 6", sim_oracle_finish(&world));
}

static void lost_but_never_invented(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s), b = begin(REPLOG_ACK_QUORUM);
    uint8_t other[64] = {0};
    struct sim_get g = get_of(a, 1);
    world.has_lost = true; /* --sync none, and a power cut */
    MUST_PASS(told(b, 900, 902); g.seq = 1000; sim_oracle_get_told(&world, &g));
    memcpy(other, g.value.data, g.value.size_bytes);
    other[g.value.size_bytes - 1] ^= 1;
    g.value.data = other;
    MUST_FAIL("nobody has appended", sim_oracle_get_told(&world, &g));
    MUST_FAIL("never answered", (void)begin(REPLOG_ACK_QUORUM); sim_oracle_finish(&world));
}

static void nodes_never_go_back(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s), b = begin(REPLOG_ACK_QUORUM);
    commit(b, s, 2, TRUTH);
    struct sim_get_served g = {.node = 2, .life = 1, .found = true, .commit_seq = world.end_seq};
    struct sim_get of_a = get_of(a, 1), of_b = get_of(b, 1);
    g.key = (struct slice){(const uint8_t *)"k00", 3};
    g.seq = of_b.seq;
    MUST_PASS(sim_oracle_get_served(&world, &g));
    g.seq = of_a.seq;
    MUST_FAIL("in this life it had shown", sim_oracle_get_served(&world, &g));
    g.life = 2; /* it was started again, and its store is behind */
    MUST_PASS(sim_oracle_get_served(&world, &g));
    g.commit_seq = of_a.seq - 1;
    MUST_FAIL("committed is", sim_oracle_get_served(&world, &g));
    g.seq = g.commit_seq = world.end_seq + 2;
    MUST_FAIL("nobody has committed it", sim_oracle_get_served(&world, &g));
}

/* ---- Reads of the log ------------------------------------------------------------------------ */

static replog_entry entry_of(uint32_t append, uint32_t index) {
    static uint8_t value[64];
    struct oracle *o = oracle_of(&world);
    struct oracle_record r;
    oracle_record(o, append, index, &r);
    memcpy(value, r.value.data, r.value.size_bytes);
    return (replog_entry){.seq = o->appends[append].log_first_seq + index,
                          .term = o->appends[append].log_term,
                          .op = r.op,
                          .key = "k00",
                          .key_bytes = 3,
                          .value = value,
                          .value_bytes = r.value.size_bytes};
}

static void reads_in_order(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s);
    struct sim_read r = {.who = 101, .from = 1}, before;
    replog_entry e;
    MUST_PASS(e = entry_of(a, 0); sim_oracle_read_record(&world, &r, &e));
    before = r;
    MUST_PASS(e = entry_of(a, 1); sim_oracle_read_record(&world, &r, &e));
    MUST_FAIL("who read up to", sim_oracle_read_record(&world, &r, &e)); /* again */
    r = before;
    ((uint8_t *)(uintptr_t)e.value)[e.value_bytes - 1] ^= 1;
    MUST_FAIL("with another content", sim_oracle_read_record(&world, &r, &e));
    r = (struct sim_read){.who = 101, .from = 1};
    MUST_FAIL("is next", e = entry_of(a, 1); sim_oracle_read_record(&world, &r, &e));
    r = (struct sim_read){.who = 101, .from = 1, .markers = true};
    MUST_FAIL("where 1 is next", e = entry_of(a, 0); sim_oracle_read_record(&world, &r, &e));
    r = (struct sim_read){.who = 101, .from = 1, .to = 2};
    MUST_FAIL("who reads up to 2", e = entry_of(a, 1); sim_oracle_read_record(&world, &r, &e));
    r = (struct sim_read){.who = 101, .from = 1};
    MUST_FAIL("of term 7", e = entry_of(a, 0); e.term = 7; sim_oracle_read_record(&world, &r, &e));
}

static void reads_ahead_are_judged_later(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s));
    struct sim_read r = {.who = 101, .from = world.end_seq + 1};
    replog_entry e = {
        .seq = world.end_seq + 1, .term = 1, .op = REPLOG_OP_PUT, .key = "", .value = "lie"};
    MUST_FAIL("nobody has committed more", sim_oracle_read_record(&world, &r, &e));
    world.damage[3] = SIM_DISK_DAMAGED;
    MUST_PASS(sim_oracle_read_record(&world, &r, &e));
    MUST_FAIL("with another content", commit(begin(REPLOG_ACK_QUORUM), s, 2, TRUTH));
}

static void reads_end_where_they_should(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s));
    struct sim_read r = {.who = 101, .from = 1, .floor = sim_oracle_floor(&world)};
    MUST_FAIL("was due", sim_oracle_read_ended(&world, &r, REPLOG_NOT_FOUND, ""));
    r.last = 3;
    MUST_PASS(sim_oracle_read_ended(&world, &r, REPLOG_NOT_FOUND, ""));
    r.follow = true;
    MUST_FAIL("told that it ends", sim_oracle_read_ended(&world, &r, REPLOG_NOT_FOUND, ""));
    MUST_FAIL("out of range", sim_oracle_read_ended(&world, &r, REPLOG_OUT_OF_RANGE, ""));
    MUST_FAIL("told of damage", sim_oracle_read_ended(&world, &r, REPLOG_DATA_LOSS, ""));
    world.damage[1] = SIM_DISK_WIPED;
    MUST_FAIL("told of damage", sim_oracle_read_ended(&world, &r, REPLOG_DATA_LOSS, ""));
    oracle_of(&world)->highest_first_seq = 5;
    world.damage[1] = SIM_DISK_DAMAGED;
    MUST_PASS(sim_oracle_read_ended(&world, &r, REPLOG_OUT_OF_RANGE, "");
              sim_oracle_read_ended(&world, &r, REPLOG_DATA_LOSS, ""));
}

static void truncation_as_asked(void **state) {
    (void)state;
    replog_truncate_result r = {.requested = 10, .first_seq = 4};
    MUST_FAIL("the most asked for is 0", sim_oracle_truncate_told(&world, &r));
    sim_oracle_truncate_asked(&world, 10);
    MUST_PASS(sim_oracle_truncate_told(&world, &r));
    r.first_seq = 12;
    MUST_FAIL("the log begins at 12", sim_oracle_truncate_told(&world, &r));
}

/* ---- A node's log and store at the end ------------------------------------------------------- */

static struct disk_mem *disk;

static void open_node_1(void) {
    replog_error err;
    disk = disk_mem_new(0);
    struct wal_options options = {.disk = disk_mem_table(disk),
                                  .dir = "d",
                                  .member_id = 1,
                                  .new_incarnation = 1,
                                  .segment_bytes = 65536,
                                  .create = true};
    assert_int_equal(wal_open(&options, &world.wal[1], &err), REPLOG_OK);
    world.store[1] = store_mem_new();
    world.running[1] = true;
}

static void close_node_1(void) {
    wal_close(world.wal[1]);
    store_close(world.store[1]);
    disk_mem_free(disk);
}

static void keep_in_wal(void) {
    replog_error err;
    struct slice piece = {last_block->data, last_block->size_bytes};
    assert_int_equal(wal_append(world.wal[1], &piece, 1, NULL, &err), REPLOG_OK);
    assert_int_equal(wal_sync(world.wal[1], &err), REPLOG_OK);
}

static void store_write(uint32_t append, uint32_t index, uint64_t seq, uint64_t applied) {
    struct oracle_record r;
    replog_error err;
    oracle_record(oracle_of(&world), append, index, &r);
    struct store_op op = {.type = STORE_PUT, .seq = seq, .key = r.key, .value = r.value};
    assert_int_equal(world.store[1]->ops->write(world.store[1], &op, 1, applied, &err), REPLOG_OK);
}

static void logs_and_stores_agree(void **state) {
    (void)state;
    open_node_1();
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    keep_in_wal();
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    commit(a, s, 1, TRUTH);
    keep_in_wal();
    told(a, 2, 4);
    world.commit_seq = 4;
    MUST_PASS(store_write(a, 1, 3, 4); sim_oracle_finish(&world));
    MUST_FAIL("the store of node 1 has key 0 of seq 2", store_write(a, 0, 2, 4);
              sim_oracle_finish(&world));
    MUST_PASS(store_write(a, 1, 3, 4));
    world.commit_seq = 5;
    MUST_FAIL("the log of node 1 ends at 4 of 5", sim_oracle_finish(&world));
    world.commit_seq = 4;
    oracle_of(&world)->blocks[1].chain ^= 1;
    MUST_FAIL("the log of node 1 differs at 2", sim_oracle_finish(&world));
    oracle_of(&world)->blocks[1].chain ^= 1;
    MUST_FAIL("ahead of the log", store_write(a, 1, 3, 5); sim_oracle_finish(&world));
    close_node_1();
}

static void a_key_is_missing(void **state) {
    (void)state;
    open_node_1();
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    keep_in_wal();
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    commit(a, s, 1, TRUTH);
    keep_in_wal();
    told(a, 2, 4);
    world.commit_seq = 4;
    replog_error err;
    assert_int_equal(world.store[1]->ops->write(world.store[1], NULL, 0, 4, &err), REPLOG_OK);
    MUST_FAIL("has 0 keys of 1", sim_oracle_finish(&world));
    close_node_1();
}

static void truncated_further_than_asked(void **state) {
    (void)state;
    replog_error err;
    open_node_1();
    for (int i = 0; i < 3; i++) {
        commit_marker(REPLOG_OP_SESSION);
        keep_in_wal();
    }
    assert_int_equal(wal_truncate(world.wal[1], 2, NULL, &err), REPLOG_OK);
    sim_oracle_truncate_asked(&world, 1);
    MUST_FAIL("the most that was asked to be dropped is 1",
              oracle_note_first_seqs(oracle_of(&world)));
    close_node_1();
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(honest_history),
        TEST(acknowledged_and_lost),
        TEST(acknowledged_when_it_is_lost_already),
        TEST(acknowledged_and_not_there_at_the_end),
        TEST(leader_may_lose_with_its_term_only),
        TEST(leader_lost_in_its_own_term),
        TEST(told_another_place),
        TEST(told_another_length),
        TEST(twice_in_the_log),
        TEST(unknown_at_most_once),
        TEST(refused_and_there),
        TEST(refused_too_late_and_there),
        TEST(there_and_refused),
        TEST(never_taken_and_there),
        TEST(answered_twice_or_never),
        TEST(said_to_be_committed),
        TEST(not_whole),
        TEST(records_are_missing),
        TEST(records_are_changed),
        TEST(appended_by_nobody),
        TEST(sessions_in_order),
        TEST(sessions_of_one_client),
        TEST(sessions_that_nobody_opened),
        TEST(a_lane_in_order),
        TEST(behind_what_was_acknowledged),
        TEST(a_log_with_a_hole),
        TEST(durable_where_it_says),
        TEST(all_members_for_all),
        TEST(sessions_are_known),
        TEST(safe_where_it_says),
        TEST(gets_see_what_was_acknowledged),
        TEST(gets_never_go_back),
        TEST(gets_of_what_was_committed),
        TEST(gets_of_the_future),
        TEST(lost_but_never_invented),
        TEST(nodes_never_go_back),
        TEST(reads_in_order),
        TEST(reads_ahead_are_judged_later),
        TEST(reads_end_where_they_should),
        TEST(truncation_as_asked),
        TEST(logs_and_stores_agree),
        TEST(a_key_is_missing),
        TEST(truncated_further_than_asked),
    };
    int n = cmocka_run_group_tests(tests, NULL, NULL);
    blob_unref(last_block);
    return n;
}

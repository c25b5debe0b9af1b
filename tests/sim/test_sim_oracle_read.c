/* The oracle itself: Gets, reads of the log, truncation, and what members hold at the end. */
#include "oracle_world.h"

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

static void reads_begin_at_the_beginning(void **state) {
    (void)state;
    uint64_t s;
    uint32_t a = honest_append(&s);
    struct sim_read r = {.who = 101, .floor = sim_oracle_floor(&world)};
    replog_entry e;
    MUST_FAIL("gets 3 where 2 is next", e = entry_of(a, 1); sim_oracle_read_record(&world, &r, &e));
    MUST_FAIL("2 was due", sim_oracle_read_ended(&world, &r, REPLOG_NOT_FOUND, ""));
    oracle_of(&world)->highest_first_seq = 3; /* some member has truncated so much, others not */
    MUST_PASS(e = entry_of(a, 1); sim_oracle_read_record(&world, &r, &e));
    r.last = 0;
    MUST_PASS(e = entry_of(a, 0); sim_oracle_read_record(&world, &r, &e));
}

/* Whatever was told is a floor for those who ask later: what was read, and that a key is gone. */
static void what_was_read_is_a_floor(void **state) {
    (void)state;
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    MUST_PASS(commit(a, s, 1, TRUTH));
    struct sim_read r = {.who = 101};
    replog_entry e;
    assert_int_equal(sim_oracle_floor(&world), 0);
    MUST_PASS(e = entry_of(a, 0); sim_oracle_read_record(&world, &r, &e));
    assert_int_equal(sim_oracle_floor(&world), 2);
}

static void what_is_gone_stays_gone(void **state) {
    (void)state;
    struct oracle *o = oracle_of(&world);
    struct oracle_write writes[] = {{.seq = 2, .block_last_seq = 2},
                                    {.seq = 5, .block_last_seq = 5, .deleted = true}};
    struct sim_get g = {.who = 101, .floor = 2};
    struct sim_get_served at = {.node = 1, .life = 1, .key = sim_oracle_key(&world, 0)};
    for (int i = 0; i < 5; i++) commit_marker(REPLOG_OP_SESSION);
    o->keys[0].writes = writes;
    o->keys[0].n = 2;
    at.commit_seq = o->nodes[1].served_seq = 2;
    o->nodes[1].life = 1;
    MUST_PASS(sim_oracle_get_told(&world, &g); sim_oracle_get_served(&world, &at));
    assert_int_equal(sim_oracle_floor(&world), 5);
    assert_int_equal(o->nodes[1].served_seq, 5);
    o->keys[0].writes = NULL;
}

static void reads_ahead_are_judged_later(void **state) {
    (void)state;
    uint64_t s;
    MUST_PASS(honest_append(&s));
    uint32_t late = begin(REPLOG_ACK_QUORUM);
    struct sim_read r = {.who = 101, .from = world.end_seq + 1};
    replog_entry e = {
        .seq = world.end_seq + 1, .term = 1, .op = REPLOG_OP_PUT, .key = "", .value = "lie"};
    MUST_FAIL("nobody has committed more", sim_oracle_read_record(&world, &r, &e));
    world.damage[3] = SIM_DISK_DAMAGED;
    MUST_PASS(sim_oracle_read_record(&world, &r, &e));
    MUST_FAIL("with another content", commit(late, s, 2, TRUTH));
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

/* A node that holds a session and an append in it, 2 to 4. */
static uint32_t open_node_1_with_an_append(void) {
    open_node_1();
    uint64_t s = commit_marker(REPLOG_OP_SESSION);
    keep_in_wal();
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    commit(a, s, 1, TRUTH);
    keep_in_wal();
    told(a, 2, 4);
    world.commit_seq = 4;
    return a;
}

static void logs_and_stores_agree(void **state) {
    (void)state;
    uint32_t a = open_node_1_with_an_append();
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
    (void)open_node_1_with_an_append();
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
        TEST(gets_see_what_was_acknowledged),
        TEST(gets_never_go_back),
        TEST(gets_of_what_was_committed),
        TEST(gets_of_the_future),
        TEST(lost_but_never_invented),
        TEST(nodes_never_go_back),
        TEST(reads_in_order),
        TEST(reads_begin_at_the_beginning),
        TEST(what_was_read_is_a_floor),
        TEST(what_is_gone_stays_gone),
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

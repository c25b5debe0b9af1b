/* The oracle itself: an honest history passes, and each false one is found, by the sentence that is
 * meant for it. Appends, and what nodes say; reads: test_sim_oracle_read.c. */
#include "oracle_world.h"

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
    world.wiped_seq[2] = 6;
    MUST_FAIL("is durable on 2", sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    world.wiped_seq[2] = 7;
    MUST_PASS(sim_oracle_node_acked(&world, 1, NODE_ACK_QUORUM, &r));
    world.damage[2] = 0;
    world.wiped_seq[2] = 0;
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
    assert_int_equal(commit_marker(REPLOG_OP_SESSION), 1);
    MUST_FAIL("does not know session 1",
              sim_oracle_node_refused(&world, 2, 1, "session 1 is unknown (evicted, or ...)"));
    MUST_PASS(sim_oracle_node_refused(&world, 2, 1, "sequence 3 does not follow: session 1 ...");
              sim_oracle_node_refused(&world, 2, 2, "session 2 is unknown (evicted, or ...)"));
    commit_marker(REPLOG_OP_SESSION); /* more than are kept */
    MUST_PASS(sim_oracle_node_refused(&world, 2, 1, "session 1 is unknown (evicted, or ...)"));
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
    };
    int n = cmocka_run_group_tests(tests, NULL, NULL);
    blob_unref(last_block);
    return n;
}

/* test_raft_figures.c: the examples of the Raft paper, told again with the core. Letters of the
 * paper's followers are members 2 (a) to 7 (f); its servers S1 to S5 are members 1 to 5. */
#include "raft_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- Figure 6: a leader, its entries, what is committed */
static void figure_6(void **state) {
    (void)state;
    struct world *w = world_new(5, 6, true);
    world_say(w, "Figure 6: logs are made of entries, numbered, each with the term of its leader.");
    log_of(w, 1, 3, "1 1 1 2 3 3 3 3");
    log_of(w, 2, 3, "1 1 1 2 3");
    log_of(w, 3, 3, "1 1 1 2 3 3 3 3");
    log_of(w, 4, 3, "1 1");
    log_of(w, 5, 3, "1 1 1 2 3 3 3");
    world_say(w, "The leader brings everybody to its own log and commits it with its first entry.");
    elect(w, 1);
    append(w, 1, 3);
    deliver_all(w);
    for (uint64_t id = 1; id <= 5; id++) {
        expect_log(w, id, "1 1 1 2 3 3 3 3 4 4");
        expect_commit(w, id, 12);
    }
    world_end(w, "figure_6");
}

/* ---- Figure 7: the logs that a new leader may meet */
static const char *const figure_7_logs[] = {
    "",
    "1 1 1 4 4 5 5 6 6 6",     /* 1: the leader for term 8 */
    "1 1 1 4 4 5 5 6 6",       /* a */
    "1 1 1 4",                 /* b */
    "1 1 1 4 4 5 5 6 6 6 6",   /* c */
    "1 1 1 4 4 5 5 6 6 6 7 7", /* d */
    "1 1 1 4 4 4 4",           /* e */
    "1 1 1 2 2 2 3 3 3 3 3",   /* f */
};

static struct world *figure_7(bool traced) {
    struct world *w = world_new(7, 7, traced);
    for (uint64_t id = 1; id <= 7; id++) log_of(w, id, 7, figure_7_logs[id]);
    return w;
}

static void figure_7_repair(void **state) {
    (void)state;
    struct world *w = figure_7(true);
    world_say(
        w, "Figure 7: the leader for term 8 meets followers that miss entries (a, b), have more");
    world_say(
        w, "(c, d) or both (e, f). c and d are ahead and refuse their vote; four others give it.");
    elect(w, 1);
    assert_int_equal(raft_term(w->members[1].raft), 8);
    for (uint64_t id = 1; id <= 7; id++) {
        expect_log(w, id, "1 1 1 4 4 5 5 6 6 6 8");
        expect_commit(w, id, 11);
    }
    world_say(w, "Only those with entries that conflict have cut.");
    for (uint64_t id = 1; id <= 7; id++) {
        bool had_more = id == 4 || id == 5 || id == 6 || id == 7;
        assert_int_equal(raft_epoch(w->members[id].raft), had_more ? 2 : 1);
    }
    world_end(w, "figure_7_repair");
}

static void figure_7_elections(void **state) {
    (void)state;
    static const bool may_win[] = {false, true, true, false, true, true, false, false};
    struct world *told = world_new(7, 7, true);
    world_say(told,
              "Figure 7: who may become leader? A log needs the votes of four that have no more.");
    for (uint64_t id = 1; id <= 7; id++) {
        struct world *w = figure_7(false);
        stand(w, id);
        bool won = raft_role(w->members[id].raft) == RAFT_LEADER;
        world_say(told, "%c, %s: %s", id == 1 ? 'L' : (int)('a' + id - 2), figure_7_logs[id],
                  won ? "wins" : "does not win");
        assert_int_equal(won, may_win[id]);
        assert_int_equal(raft_term(w->members[id].raft), won ? 8 : 7); /* pre-vote costs no term */
        for (uint64_t other = 1; won && other <= 7; other++) {
            assert_int_equal(raft_last(w->members[other].raft), raft_last(w->members[id].raft));
        }
        check_logs(w);
        world_free(w);
    }
    world_end(told, "figure_7_elections");
}

/* ---- Figure 8: an entry of an old term on a majority is not committed */

/* Up to (c): S1, leader of term 4, has brought its entry of term 2 to a majority. */
static struct world *figure_8_abc(void) {
    struct world *w = world_new(5, 8, true);
    w->packet_blocks = 1;
    for (uint64_t id = 1; id <= 5; id++) log_of(w, id, 1, "1");
    world_say(w, "(a) S1 leads term 2 and brings its entry at 2 to S2 only.");
    w->lose_term = 2;
    elect(w, 1);
    w->lose_term = 0;
    w->cut[1][3] = w->cut[1][4] = w->cut[1][5] = true;
    run_ms(w, 300);
    expect_log(w, 2, "1 2");
    expect_log(w, 3, "1");
    world_say(
        w, "(b) S1 crashes; S5 leads term 3 with the votes of S3 and S4. Nobody gets its entry.");
    crash(w, 1);
    w->cut[1][3] = w->cut[1][4] = w->cut[1][5] = false;
    w->lose_term = 3;
    elect(w, 5);
    expect_log(w, 5, "1 3");
    w->lose_term = 0;
    world_say(w, "(c) S5 crashes; S1 leads term 4 and goes on: its entry of term 2 reaches S3.");
    crash(w, 5);
    restart(w, 1);
    w->lose_term = 4;
    stand(w, 1); /* learns that there was a term 3 */
    elect(w, 1);
    assert_int_equal(raft_term(w->members[1].raft), 4);
    for (uint64_t id = 1; id <= 3; id++) assert_int_equal(raft_term_at(w->members[id].raft, 2), 2);
    assert_true(raft_match(w->members[1].raft, 2) >= 2 && raft_match(w->members[1].raft, 3) >= 2);
    world_say(w,
              "It is durable on S1, S2 and S3, and not committed: counting is for one's own term.");
    expect_commit(w, 1, 0);
    assert_false(raft_ready(w->members[1].raft));
    return w;
}

static void figure_8_overwritten(void **state) {
    (void)state;
    struct world *w = figure_8_abc();
    world_say(
        w,
        "(d) S1 crashes; S5, whose log ends in term 3, wins and overwrites the entry of term 2.");
    crash(w, 1);
    w->lose_term = 0;
    restart(w, 5);
    stand(w, 5); /* learns of term 4 */
    elect(w, 5);
    restart(w, 1);
    run_ms(w, 200);
    for (uint64_t id = 1; id <= 5; id++) expect_log(w, id, "1 3 5");
    expect_commit(w, 1, 3);
    world_end(w, "figure_8_overwritten");
}

static void figure_8_committed(void **state) {
    (void)state;
    struct world *w = figure_8_abc();
    world_say(w,
              "(e) S1's entry of term 4 reaches a majority: it is committed, and all before it.");
    w->lose_term = 0;
    w->cut[1][4] = true;
    lost_connection(w, 1, 2);
    lost_connection(w, 1, 3);
    run_ms(w, 200);
    expect_commit(w, 1, 3);
    expect_log(w, 3, "1 2 4");
    world_say(w, "S5 cannot win any more.");
    crash(w, 1);
    w->cut[1][4] = false;
    restart(w, 5);
    for (int i = 0; i < 3; i++) {
        stand(w, 5);
        assert_int_not_equal(raft_role(w->members[5].raft), RAFT_LEADER);
    }
    elect(w, 3);
    restart(w, 1);
    run_ms(w, 200);
    for (uint64_t id = 1; id <= 5; id++) assert_int_equal(raft_term_at(w->members[id].raft, 3), 4);
    world_end(w, "figure_8_committed");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(figure_6),           cmocka_unit_test(figure_7_repair),
        cmocka_unit_test(figure_7_elections), cmocka_unit_test(figure_8_overwritten),
        cmocka_unit_test(figure_8_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

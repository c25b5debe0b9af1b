/* Sessions: which appends are admitted, repeated or refused, what a cut undoes, what the store
 * keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "node/session.h"

static void open_session(struct session_table *t, uint64_t seq) {
    struct block_header h = {.first_seq = seq, .n_records = 1, .term = 1};
    assert_int_equal(session_append(t, &h, true), REPLOG_OK);
}

static void append(struct session_table *t, uint64_t session, uint64_t number, uint64_t first,
                   uint32_t count, uint64_t acked_below) {
    struct block_header h = {.first_seq = first,
                             .n_records = count,
                             .term = 3,
                             .session = session,
                             .session_seq = number,
                             .acked_below = acked_below};
    assert_int_equal(session_append(t, &h, false), REPLOG_OK);
}

static enum session_verdict check(struct session_table *t, uint64_t session, uint64_t number,
                                  struct session_answer *answer) {
    struct session_answer unused;
    uint64_t expected;
    return session_check(t, session, number, 0, answer ? answer : &unused, &expected);
}

static void only_the_next_number_is_admitted(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    assert_int_equal(check(t, 5, 1, NULL), SESSION_UNKNOWN);
    open_session(t, 5);
    assert_int_equal(check(t, 5, 1, NULL), SESSION_ADMIT);
    assert_int_equal(check(t, 5, 2, NULL), SESSION_GAP);
    assert_int_equal(check(t, 5, 0, NULL), SESSION_GAP);
    append(t, 5, 1, 6, 3, 1);
    struct session_answer answer;
    assert_int_equal(check(t, 5, 1, &answer), SESSION_REPEAT);
    assert_int_equal(answer.first_seq, 6);
    assert_int_equal(answer.last_seq, 8);
    assert_int_equal(answer.term, 3);
    assert_int_equal(check(t, 5, 2, NULL), SESSION_ADMIT);
    session_table_free(t);
}

static void acknowledged_answers_are_forgotten(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    open_session(t, 1);
    for (uint64_t i = 1; i <= 10; i++) append(t, 1, i, 1 + i, 1, 1);
    append(t, 1, 11, 12, 1, 8);
    assert_int_equal(check(t, 1, 7, NULL), SESSION_GONE);
    assert_int_equal(check(t, 1, 8, NULL), SESSION_REPEAT);
    assert_int_equal(check(t, 1, 12, NULL), SESSION_ADMIT);
    session_table_free(t);
}

static void the_window_is_bounded(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    open_session(t, 1);
    for (uint64_t i = 1; i <= SESSION_WINDOW; i++) append(t, 1, i, 1 + i, 1, 1);
    struct session_answer answer;
    uint64_t expected;
    assert_int_equal(session_check(t, 1, SESSION_WINDOW + 1, 1, &answer, &expected), SESSION_FULL);
    assert_int_equal(session_check(t, 1, SESSION_WINDOW + 1, 2, &answer, &expected), SESSION_ADMIT);
    session_table_free(t);
}

static void a_cut_undoes_what_it_drops(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    open_session(t, 1);
    append(t, 1, 1, 2, 1, 1);
    append(t, 1, 2, 3, 4, 1);
    open_session(t, 7);
    append(t, 1, 3, 8, 1, 1);
    session_cut(t, 6);
    assert_int_equal(check(t, 7, 1, NULL), SESSION_UNKNOWN);
    assert_int_equal(check(t, 1, 3, NULL), SESSION_ADMIT);
    assert_int_equal(check(t, 1, 2, NULL), SESSION_REPEAT);
    session_cut(t, 2);
    assert_int_equal(check(t, 1, 2, NULL), SESSION_ADMIT);
    session_table_free(t);
}

static void replay_of_known_blocks_changes_nothing(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    open_session(t, 1);
    append(t, 1, 1, 2, 1, 1);
    open_session(t, 1);
    append(t, 1, 1, 2, 1, 1);
    assert_int_equal(check(t, 1, 2, NULL), SESSION_ADMIT);
    assert_int_equal(session_table_count(t), 1);
    session_table_free(t);
}

static void count_evicted(uint64_t session, void *user) {
    *(uint64_t *)user += session;
}

static void the_longest_unused_is_evicted(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0);
    for (uint64_t i = 1; i <= SESSION_MAX + 1; i++) open_session(t, i);
    append(t, 1, 1, SESSION_MAX + 2, 1, 1);
    uint64_t gone = 0;
    session_evict(t, SESSION_MAX + 2, count_evicted, &gone);
    assert_int_equal(gone, 2);
    assert_int_equal(session_table_count(t), SESSION_MAX);
    assert_int_equal(check(t, 1, 2, NULL), SESSION_ADMIT);
    session_table_free(t);
}

/* One that a cut may still undo drives out nobody (the simulator's seed 2300001123). */
static void only_what_is_committed_counts(void **state) {
    (void)state;
    struct session_table *t = session_table_new(2);
    uint64_t gone = 0;
    for (uint64_t i = 1; i <= 3; i++) open_session(t, i);
    session_evict(t, 2, count_evicted, &gone);
    assert_int_equal(gone, 0);
    session_cut(t, 2);
    assert_int_equal(session_table_count(t), 2);
    open_session(t, 3);
    append(t, 1, 1, 4, 1, 1);
    session_evict(t, 3, count_evicted, &gone);
    assert_int_equal(gone, 2);
    session_table_free(t);
}

static void the_store_gets_back_what_it_kept(void **state) {
    (void)state;
    struct session_table *t = session_table_new(0), *u = session_table_new(0);
    struct buffer stored = {0};
    replog_error err;
    open_session(t, 9);
    for (uint64_t i = 1; i <= 5; i++) append(t, 9, i, 10 + 2 * i, 2, i > 2 ? 3 : 1);
    assert_true(session_encode(t, 9, &stored));
    assert_false(session_encode(t, 8, &stored));
    struct slice value = {stored.data, stored.size_bytes};
    assert_int_equal(session_decode(u, 9, value, &err), REPLOG_OK);
    struct session_answer a, b;
    assert_int_equal(check(t, 9, 4, &a), SESSION_REPEAT);
    assert_int_equal(check(u, 9, 4, &b), SESSION_REPEAT);
    assert_int_equal(a.last_seq, b.last_seq);
    assert_int_equal(check(u, 9, 2, NULL), SESSION_GONE);
    assert_int_equal(check(u, 9, 6, NULL), SESSION_ADMIT);
    for (size_t n = 0; n < value.size_bytes; n++) {
        struct slice part = {stored.data, n};
        assert_int_equal(session_decode(u, 10 + n, part, &err), REPLOG_DATA_LOSS);
    }
    struct session_table *copy = session_table_copy(u);
    assert_int_equal(check(copy, 9, 4, &b), SESSION_REPEAT);
    assert_int_equal(a.first_seq, b.first_seq);
    buffer_free(&stored);
    session_table_free(t);
    session_table_free(u);
    session_table_free(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_next_number_is_admitted),
        cmocka_unit_test(acknowledged_answers_are_forgotten),
        cmocka_unit_test(the_window_is_bounded),
        cmocka_unit_test(a_cut_undoes_what_it_drops),
        cmocka_unit_test(replay_of_known_blocks_changes_nothing),
        cmocka_unit_test(the_longest_unused_is_evicted),
        cmocka_unit_test(only_what_is_committed_counts),
        cmocka_unit_test(the_store_gets_back_what_it_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

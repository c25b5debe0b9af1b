/* Readers and unary calls against a scripted cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "client_fake.h"

static replog_client *client;

static int before_all(void **state) {
    (void)state;
    return fake_start(10);
}

static int before_each(void **state) {
    (void)state;
    replog_client_options o = {.timeout_ms = 3000};
    fake_reset();
    return replog_client_open(fake.endpoints, &o, &client, NULL) ? -1 : 0;
}

static int after_each(void **state) {
    (void)state;
    replog_client_close(client);
    return 0;
}

static replog_reader *open_reader(replog_read_options o) {
    replog_reader *r = NULL;
    replog_error err;
    assert_int_equal(replog_reader_open(client, &o, &r, &err), REPLOG_OK);
    return r;
}

/* Reads to the end and checks that every record comes once, with its own value. */
static void expect_range(replog_read_options o, uint64_t from, uint64_t to) {
    replog_reader *r = open_reader(o);
    replog_error err;
    replog_entry e;
    for (uint64_t seq = from; seq <= to; seq++) {
        char value[24];
        if (seq % 10 == 0 && !o.markers) continue;
        replog_status status = replog_reader_next(r, 0, &e, &err);
        if (status) fail_msg("seq %d: %s", (int)seq, err.text);
        assert_int_equal(e.seq, seq);
        assert_int_equal(e.term, 7);
        assert_int_equal(e.op, seq % 10 ? REPLOG_OP_PUT : REPLOG_OP_COMMIT);
        int n = sprintf(value, "v%d", (int)seq);
        assert_int_equal(e.value_bytes, n);
        assert_memory_equal(e.value, value, (size_t)n);
    }
    assert_int_equal(replog_reader_next(r, 0, &e, &err), REPLOG_NOT_FOUND);
    assert_int_equal(replog_reader_next(r, 0, &e, &err), REPLOG_NOT_FOUND);
    replog_reader_close(r);
}

static void test_ranges(void **state) {
    (void)state;
    expect_range((replog_read_options){0}, 1, 1000);
    expect_range((replog_read_options){.markers = true}, 1, 1000);
    expect_range((replog_read_options){.from_seq = 37, .to_seq = 59}, 37, 59);
    expect_range((replog_read_options){.from_seq = 40, .to_seq = 40}, 41, 40);
    expect_range((replog_read_options){.from_seq = 40, .to_seq = 40, .markers = true}, 40, 40);
    expect_range((replog_read_options){.only_endpoint = fake_address(2)}, 1, 1000);
}

/* Streams break all the time; the reader goes on where it was. */
static void test_breaks(void **state) {
    (void)state;
    fake.break_after = 130;
    expect_range((replog_read_options){0}, 1, 1000);
    assert_true(fake.reads >= 7);
    expect_range((replog_read_options){.markers = true, .from_seq = 5}, 5, 1000);
    fake.break_after = 300;
    expect_range((replog_read_options){.only_endpoint = fake_address(1)}, 1, 1000);
}

static void test_follow(void **state) {
    (void)state;
    replog_reader *r = open_reader((replog_read_options){.follow = true, .from_seq = 991});
    replog_entry e;
    for (uint64_t seq = 991; seq < 1000; seq++) {
        assert_int_equal(replog_reader_next(r, 0, &e, NULL), REPLOG_OK);
        assert_int_equal(e.seq, seq);
    }
    replog_error err;
    uint64_t start = clock_mono_ms();
    assert_int_equal(replog_reader_next(r, 100, &e, &err), REPLOG_DEADLINE_EXCEEDED);
    assert_in_range(clock_mono_ms() - start, 95, 20000);
    assert_int_equal(replog_reader_next(r, 50, &e, &err), REPLOG_DEADLINE_EXCEEDED);
    replog_reader_close(r);
}

/* A node that is cut off says so; the other one has more. */
static void test_follow_elsewhere(void **state) {
    (void)state;
    replog_entry e;
    fake.read_status = REPLOG_UNAVAILABLE;
    for (int i = 0; i < 3; i++) {
        replog_reader *r = open_reader((replog_read_options){.follow = true, .from_seq = 991});
        assert_int_equal(replog_reader_next(r, 0, &e, NULL), REPLOG_OK);
        assert_int_equal(e.seq, 991);
        replog_reader_close(r);
    }
}

/* Damage is the end when every node has said so, not one of them again and again. */
static void test_damage_everywhere(void **state) {
    (void)state;
    replog_error err;
    replog_entry e;
    fake.read_status = REPLOG_DATA_LOSS;
    fake.other_read_status = REPLOG_UNAVAILABLE;
    replog_reader *r = open_reader((replog_read_options){.follow = true});
    for (int i = 0; i < 6; i++) {
        replog_status st = replog_reader_next(r, 100, &e, &err);
        assert_true(st == REPLOG_UNAVAILABLE || st == REPLOG_DEADLINE_EXCEEDED);
    }
    fake.other_read_status = REPLOG_DATA_LOSS;
    assert_int_equal(replog_reader_next(r, 60000, &e, &err), REPLOG_DATA_LOSS);
    replog_reader_close(r);
}

static void test_refused(void **state) {
    (void)state;
    replog_reader *r = NULL;
    replog_error err;
    replog_entry e;
    replog_read_options o = {.from_seq = 5, .to_seq = 4};
    assert_int_equal(replog_reader_open(client, &o, &r, &err), REPLOG_INVALID_ARGUMENT);
    o = (replog_read_options){.only_endpoint = "nowhere"};
    assert_int_equal(replog_reader_open(client, &o, &r, &err), REPLOG_INVALID_ARGUMENT);
    fake.read_status = REPLOG_OUT_OF_RANGE;
    r = open_reader((replog_read_options){.only_endpoint = fake_address(0)});
    for (int i = 0; i < 2; i++) {
        assert_int_equal(replog_reader_next(r, 0, &e, &err), REPLOG_OUT_OF_RANGE);
        assert_string_equal(err.text, "below the first seq, which is 12");
    }
    replog_reader_close(r);
    /* damage on one node is that node's; another has the records */
    fake.read_status = REPLOG_DATA_LOSS;
    for (int i = 0; i < 3; i++) expect_range((replog_read_options){.to_seq = 30}, 1, 30);
    r = open_reader((replog_read_options){.only_endpoint = fake_address(0)});
    assert_int_equal(replog_reader_next(r, 0, &e, &err), REPLOG_DATA_LOSS);
    replog_reader_close(r);
    r = open_reader((replog_read_options){.only_endpoint = "127.0.0.1:1"});
    assert_int_equal(replog_reader_next(r, 150, &e, &err), REPLOG_UNAVAILABLE);
    assert_non_null(strstr(err.text, "127.0.0.1:1"));
    replog_reader_close(r);
}

static void test_close_early(void **state) {
    (void)state;
    replog_entry e;
    for (int i = 0; i < 20; i++) {
        replog_reader *r = open_reader((replog_read_options){0});
        if (i % 2) assert_int_equal(replog_reader_next(r, 0, &e, NULL), REPLOG_OK);
        replog_reader_close(r);
    }
}

static void test_unary(void **state) {
    (void)state;
    replog_error err;
    replog_cluster_status s;
    fake.unavailable = 5; /* and then they answer */
    fake.leader = 1;
    assert_int_equal(replog_get_status(client, 0, &s, &err), REPLOG_OK);
    assert_int_equal(s.leader, 2);
    assert_int_equal(s.n_members, 3);
    assert_string_equal(s.members[2].address, fake_address(2));
    assert_int_equal(s.members[2].chain, 0x0123456789abcdefull);
    assert_int_equal(s.n_held_by, 1);
    assert_int_equal(s.held_by[0].id, 3);
    replog_truncate_result t;
    assert_int_equal(replog_truncate(client, 5, 0, &t, &err), REPLOG_OK);
    assert_int_equal(t.first_seq, 3);
    assert_int_equal(t.n_held_by, 0);
    void *value = NULL;
    size_t value_bytes;
    uint64_t seq;
    assert_int_equal(replog_get(client, "k", 1, false, 0, &value, &value_bytes, &seq, &err),
                     REPLOG_OK);
    assert_int_equal(value_bytes, 5);
    assert_memory_equal(value, "found", 5);
    assert_int_equal(seq, 9);
    free(value);
    assert_int_equal(replog_get(client, "", 0, false, 0, &value, &value_bytes, &seq, &err),
                     REPLOG_INVALID_ARGUMENT);
    /* not in this fake: UNIMPLEMENTED is an answer, not a reason to go on trying */
    assert_int_equal(replog_checkpoint(client, 0, &seq, &seq, &err), REPLOG_UNIMPLEMENTED);
}

static void test_unary_deadline(void **state) {
    (void)state;
    replog_error err;
    replog_truncate_result t;
    fake.leader = -1;
    uint64_t start = clock_mono_ms();
    assert_int_equal(replog_truncate(client, 5, 500, &t, &err), REPLOG_UNAVAILABLE);
    assert_non_null(strstr(err.text, "not the leader"));
    assert_in_range(clock_mono_ms() - start, 495, 20000);
    fake.silent = true;
    assert_int_equal(replog_truncate(client, 5, 500, &t, &err), REPLOG_DEADLINE_EXCEEDED);
}

struct thread {
    replog_client *client;
    replog_status status;
};

static void *get_in_thread(void *arg) {
    struct thread *t = arg;
    void *value;
    size_t n;
    t->status = replog_get(t->client, "k", 1, false, 20000, &value, &n, NULL, NULL);
    return NULL;
}

static void test_close_in_flight(void **state) {
    (void)state;
    pthread_t id;
    fake.silent = true;
    replog_client *c = NULL;
    assert_int_equal(replog_client_open(fake.endpoints, NULL, &c, NULL), REPLOG_OK);
    struct thread thread = {.client = c};
    pthread_create(&id, NULL, get_in_thread, &thread);
    fake_pause_ms(100);
    uint64_t start = clock_mono_ms();
    replog_client_close(c);
    assert_true(clock_mono_ms() - start < 10000);
    pthread_join(id, NULL);
    assert_int_equal(thread.status, REPLOG_CANCELLED);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_ranges, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_breaks, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_follow, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_follow_elsewhere, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_damage_everywhere, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_refused, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_close_early, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_unary, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_unary_deadline, before_each, after_each),
        cmocka_unit_test_setup_teardown(test_close_in_flight, before_each, after_each),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    fake_finish(cmocka_run_group_tests(tests, before_all, NULL));
}

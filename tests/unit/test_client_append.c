/* Appends against a scripted cluster: leaders that move, replies that are lost, numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>

#include <cmocka.h>

#include "client_fake.h"

static int before_all(void **state) {
    (void)state;
    return fake_start(0);
}

/* The deadline of what must be done before it, also on a machine with a hundred other things to do;
 * whoever must not wait for it has ended within half of it. */
enum { PATIENT_MS = 60000 };

static int before_each(void **state) {
    (void)state;
    fake_reset();
    return 0;
}

static replog_client *open_client(const char *endpoints, replog_client_options o) {
    replog_client *c = NULL;
    replog_error err;
    if (!o.timeout_ms) o.timeout_ms = PATIENT_MS;
    assert_int_equal(replog_client_open(endpoints, &o, &c, &err), REPLOG_OK);
    return c;
}

static const replog_client_options defaults;

static replog_batch *one(const char *value) {
    replog_batch *b = replog_batch_new();
    assert_int_equal(replog_batch_put(b, "", 0, value, strlen(value), NULL), REPLOG_OK);
    return b;
}

static replog_status append(replog_client *c, const char *value, replog_append_options o,
                            replog_append_result *result, replog_error *err) {
    replog_batch *b = one(value);
    o.single = true;
    replog_status status = replog_append(c, b, &o, result, err);
    replog_batch_free(b);
    return status;
}

/* ---- Many in flight: what each was told */
enum { MANY = 300 };
struct many {
    replog_status status[MANY];
    uint64_t seq[MANY];
    int answered[MANY];
    int order[MANY], n;
    char text[MANY][200];
};
static struct many many;

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    int i = (int)((int *)user - many.answered);
    assert_true(i >= 0 && i < MANY);
    many.status[i] = status;
    many.seq[i] = result ? result->first_seq : 0;
    many.answered[i]++;
    snprintf(many.text[i], sizeof many.text[i], "%.199s", error->text);
    many.order[many.n++] = i;
}

static void append_many(replog_client *c, int n, int bad, replog_append_options o) {
    memset(&many, 0, sizeof many);
    o.single = true;
    for (int i = 0; i < n; i++) {
        char value[24];
        sprintf(value, "m%d", i);
        replog_batch *b = one(i == bad ? "bad" : value);
        replog_error err;
        assert_int_equal(replog_append_async(c, b, &o, on_answer, &many.answered[i], &err),
                         REPLOG_OK);
        replog_batch_free(b);
    }
}

/* How often the value stands in the log. */
static int times(const char *value) {
    int n = 0;
    fake_lock();
    for (uint64_t i = 0; i < fake.last_seq; i++) n += strcmp(fake.log[i].value, value) == 0;
    fake_unlock();
    return n;
}

static void check_exactly_once(int n, int bad) {
    for (int i = 0; i < n; i++) {
        char value[24];
        sprintf(value, "m%d", i);
        assert_int_equal(many.answered[i], 1);
        if (i == bad) continue;
        if (many.status[i]) fail_msg("append %d: %s", i, many.text[i]);
        assert_int_equal(times(value), 1);
        fake_lock();
        assert_string_equal(fake.log[many.seq[i] - 1].value, value);
        fake_unlock();
        assert_int_equal(many.order[i], i);
    }
}

static void test_one(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    replog_append_result r;
    replog_batch *b = replog_batch_new();
    replog_batch_put(b, "k", 1, "first", 5, NULL);
    replog_batch_delete(b, "other", 5, NULL);
    assert_int_equal(replog_append(c, b, NULL, &r, NULL), REPLOG_OK);
    assert_int_equal(r.first_seq, 1);
    assert_int_equal(r.term, 7);
    assert_int_equal(r.n_durable_on, 2);
    assert_int_equal(r.durable_on[1], 200);
    assert_int_equal(fake.log[0].n_records, 2);
    assert_int_equal(append(c, "second", (replog_append_options){0}, &r, NULL), REPLOG_OK);
    assert_int_equal(r.first_seq, 2);
    assert_int_equal(fake.log[1].sequence, 2);
    assert_int_equal(fake.opened, 1);
    replog_batch_free(b);
    replog_client_close(c);
}

static void test_bad_arguments(void **state) {
    (void)state;
    replog_client *c;
    replog_error err;
    const char *wrong[] = {"",        ",",   "host",  "host:", ":7",   "a:b",
                           "a:70000", "a:0", "a:1,b", "::1:7", "a b:1"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_int_equal(replog_client_open(wrong[i], NULL, &c, &err), REPLOG_INVALID_ARGUMENT);
    }
    replog_client_options o = {.window = REPLOG_MAX_INFLIGHT + 1};
    assert_int_equal(replog_client_open("a:1", &o, &c, &err), REPLOG_INVALID_ARGUMENT);
    c = open_client("[::1]:7,localhost:65535", defaults);
    replog_batch *b = replog_batch_new();
    assert_int_equal(replog_append(c, b, NULL, NULL, &err), REPLOG_INVALID_ARGUMENT);
    replog_append_options single = {.single = true};
    replog_batch_put(b, "", 0, "", 0, NULL);
    replog_batch_put(b, "", 0, "", 0, NULL);
    assert_int_equal(replog_append(c, b, &single, NULL, &err), REPLOG_INVALID_ARGUMENT);
    replog_batch_free(b);
    replog_client_close(c);
}

static void test_wrong_leader(void **state) {
    (void)state;
    fake.leader = 2;
    replog_client *c = open_client(fake_address(0), defaults); /* knows the first node only */
    assert_int_equal(append(c, "x", (replog_append_options){0}, NULL, NULL), REPLOG_OK);
    assert_true(fake.refused >= 1);
    replog_client_close(c);
    fake_reset();
    fake.leader = 1;
    fake.no_hint = true; /* found by trying */
    c = open_client(fake.endpoints, defaults);
    assert_int_equal(append(c, "x", (replog_append_options){0}, NULL, NULL), REPLOG_OK);
    replog_client_close(c);
}

static void test_dead_endpoints(void **state) {
    (void)state;
    char endpoints[100];
    replog_error err;
    sprintf(endpoints, "127.0.0.1:1,127.0.0.1:2,%s", fake_address(0));
    replog_client *c = open_client(endpoints, defaults);
    assert_int_equal(append(c, "x", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    replog_client_close(c);
    c = open_client("127.0.0.1:1", (replog_client_options){.timeout_ms = 200});
    uint64_t start = clock_mono_ms();
    assert_int_equal(append(c, "x", (replog_append_options){0}, NULL, &err),
                     REPLOG_DEADLINE_EXCEEDED);
    assert_non_null(strstr(err.text, "127.0.0.1:1"));
    assert_non_null(strstr(err.text, "nothing was appended"));
    assert_in_range(clock_mono_ms() - start, 190, PATIENT_MS / 2);
    replog_client_close(c);
}

/* The leader goes in mid-window, with replies lost: every append once, in order. */
static void test_moves(void **state) {
    (void)state;
    for (int round = 0; round < 4; round++) {
        fake_reset();
        fake.move_after = 20 + 17 * round;
        fake.no_hint = round % 2;
        replog_client *c = open_client(fake.endpoints, (replog_client_options){.window = 64});
        append_many(c, MANY, -1, (replog_append_options){0});
        assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
        check_exactly_once(MANY, -1);
        assert_int_equal(fake.last_seq, MANY);
        assert_int_equal(fake.opened, 1);
        assert_true(fake.streams >= 2);
        replog_client_close(c);
    }
}

/* A refused append takes no number; those behind it go on with theirs shifted. */
static void test_refused(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    append_many(c, 100, 40, (replog_append_options){0});
    assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
    check_exactly_once(100, 40);
    assert_int_equal(many.status[40], REPLOG_INVALID_ARGUMENT);
    assert_string_equal(many.text[40], "a bad record");
    assert_int_equal(fake.last_seq, 99);
    assert_int_equal(fake.log[98].sequence, 99);
    assert_int_equal(fake.opened, 1);
    replog_client_close(c);
}

static void test_full(void **state) {
    (void)state;
    replog_error err;
    fake.full = 3; /* and then there is room */
    replog_client *c = open_client(fake.endpoints, defaults);
    append_many(c, 20, -1, (replog_append_options){0});
    assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
    check_exactly_once(20, -1);
    fake.full = 1000000;
    replog_append_options o = {.timeout_ms = 1000};
    assert_int_equal(append(c, "y", o, NULL, &err), REPLOG_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "the disk is full"));
    fake.full = 0;
    assert_int_equal(append(c, "z", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    assert_int_equal(times("y"), 0);
    assert_int_equal(fake.opened, 1);
    replog_client_close(c);
}

/* An append whose caller gave up keeps its number until its outcome is known. */
static void test_deadline(void **state) {
    (void)state;
    replog_error err;
    replog_client *c = open_client(fake.endpoints, defaults);
    assert_int_equal(append(c, "a", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    fake.silent = true;
    /* enough time to be sent in, even here */
    replog_append_options o = {.timeout_ms = 1500};
    assert_int_equal(append(c, "late", o, NULL, &err), REPLOG_DEADLINE_EXCEEDED);
    assert_non_null(strstr(err.text, "outcome unknown"));
    append_many(c, 5, -1, (replog_append_options){0});
    fake_pause_ms(50);
    fake_lock();
    fake.silent = false;
    fake.leader = 1; /* the silent stream is useless: the next message on it is refused */
    fake_unlock();
    assert_int_equal(append(c, "b", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
    check_exactly_once(5, -1);
    assert_int_equal(times("late"), 1);
    assert_int_equal(fake.opened, 1);
    replog_client_close(c);
}

/* The cluster has forgotten the session: what was sent once goes out again under a new one, of
 * what was sent before the outcome is unknown. */
static void test_session_unknown(void **state) {
    (void)state;
    replog_error err;
    replog_client *c = open_client(fake.endpoints, defaults);
    assert_int_equal(append(c, "a", (replog_append_options){0}, NULL, NULL), REPLOG_OK);
    fake_lock();
    fake.known_session = fake.last_session + 1;
    fake_unlock();
    assert_int_equal(append(c, "b", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    assert_int_equal(times("b"), 1);
    assert_int_equal(fake.opened, 2);
    /* sent on a stream that ended ambiguously, then forgotten */
    fake_lock();
    fake.known_session = fake.last_session + 1;
    fake.last_seq = 0; /* so that no answer is kept either */
    fake.leader = 1;
    fake_unlock();
    assert_int_equal(append(c, "c", (replog_append_options){0}, NULL, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, "outcome unknown"));
    assert_int_equal(append(c, "d", (replog_append_options){0}, NULL, &err), REPLOG_OK);
    assert_int_equal(fake.opened, 3);
    replog_client_close(c);
}

/* Without exactly-once nothing that may have been sent is sent again. */
static void test_not_repeated(void **state) {
    (void)state;
    for (int no_session = 0; no_session < 2; no_session++) {
        fake_reset();
        replog_client_options co = {.no_session = no_session};
        replog_append_options ao = {.ack = no_session ? REPLOG_ACK_QUORUM : REPLOG_ACK_LEADER};
        replog_client *c = open_client(fake_address(2), co);
        fake.move_after = 30;
        append_many(c, 100, -1, ao);
        assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
        int failed = 0;
        for (int i = 0; i < 100; i++) {
            char value[24];
            sprintf(value, "m%d", i);
            assert_int_equal(many.answered[i], 1);
            assert_int_equal(many.order[i], i);
            if (many.status[i]) {
                assert_int_equal(many.status[i], REPLOG_UNAVAILABLE);
                failed++;
                assert_true(times(value) <= 1);
            } else {
                assert_int_equal(times(value), 1);
            }
        }
        assert_true(failed >= FAKE_LOST);
        assert_int_equal(many.status[0], REPLOG_OK);
        replog_client_close(c);
    }
}

static void test_mixed_levels(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    memset(&many, 0, sizeof many);
    for (int i = 0; i < 60; i++) {
        char value[24];
        sprintf(value, "m%d", i);
        replog_batch *b = one(value);
        replog_append_options o = {.single = true, .ack = (replog_ack)(i % 3)};
        assert_int_equal(replog_append_async(c, b, &o, on_answer, &many.answered[i], NULL),
                         REPLOG_OK);
        replog_batch_free(b);
    }
    assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
    for (int i = 0; i < 60; i++) {
        char value[24];
        sprintf(value, "m%d", i);
        assert_int_equal(many.answered[i], 1);
        if (many.status[i]) fail_msg("append %d: %s", i, many.text[i]);
        assert_int_equal(times(value), 1);
    }
    assert_int_equal(fake.opened, 2); /* one for ALL */
    replog_client_close(c);
}

static void test_all_away(void **state) {
    (void)state;
    replog_error err;
    replog_append_options all = {.ack = REPLOG_ACK_ALL};
    uint64_t start = clock_mono_ms();
    replog_client *c = open_client(fake.endpoints, defaults);
    assert_int_equal(append(c, "a", all, NULL, &err), REPLOG_OK);
    fake.all_away = 1;
    assert_int_equal(append(c, "b", all, NULL, &err), REPLOG_DEADLINE_EXCEEDED);
    assert_string_equal(err.text, "committed, not on 3");
    assert_int_equal(append(c, "c", all, NULL, &err), REPLOG_OK);
    assert_int_equal(times("b"), 1);
    fake.move_after = 1; /* admitted, the reply lost: repeated at the next leader */
    assert_int_equal(append(c, "d", all, NULL, &err), REPLOG_OK);
    assert_int_equal(times("d"), 1);
    /* no answer waits for a deadline to be seen */
    assert_true(clock_mono_ms() - start < PATIENT_MS / 2);
    replog_client_close(c);
}

struct thread {
    pthread_t id;
    replog_client *client;
    atomic_bool begun;
    replog_status status;
};

static void *append_in_thread(void *arg) {
    struct thread *t = arg;
    t->begun = true;
    t->status = append(t->client, "thread", (replog_append_options){0}, NULL, NULL);
    return NULL;
}

/* A refused append without a number holds back nothing that stands behind it: that may be in the
 * log, so its number is not given to another. */
static void test_behind_unnumbered(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    replog_append_options quorum = {0};
    replog_append_options leader = {.ack = REPLOG_ACK_LEADER, .timeout_ms = 800, .single = true};
    replog_append_result r;
    replog_error err;
    assert_int_equal(append(c, "before", quorum, &r, &err), REPLOG_OK);
    fake_lock();
    fake.behind = true;
    fake_unlock();
    replog_batch *b = one("too much");
    memset(&many, 0, sizeof many);
    assert_int_equal(replog_append_async(c, b, &leader, on_answer, &many.answered[0], &err),
                     REPLOG_OK);
    replog_batch_free(b);
    quorum.timeout_ms = 400;
    assert_int_equal(append(c, "a", quorum, &r, &err), REPLOG_DEADLINE_EXCEEDED);
    assert_int_equal(times("a"), 1);
    assert_null(strstr(err.text, "nothing was appended"));
    fake_lock();
    fake.behind = false;
    fake_unlock();
    quorum.timeout_ms = 0;
    assert_int_equal(append(c, "b", quorum, &r, &err), REPLOG_OK);
    assert_int_equal(times("a"), 1);
    assert_int_equal(times("b"), 1);
    assert_string_equal(fake.log[r.first_seq - 1].value, "b");
    assert_int_not_equal(many.status[0], REPLOG_OK);
    assert_int_equal(times("too much"), 0);
    replog_client_close(c);
}

/* Until an append has met silence. */
static void fake_wait_held(void) {
    bool held = false;
    for (int i = 0; i < 30000 && !held; i++) {
        fake_lock();
        held = fake.held != NULL;
        fake_unlock();
        if (!held) fake_pause_ms(1);
    }
}

/* The deadline of an ACK ALL whose call was under way while another append's passed, and that then
 * is refused until long after. True when it was seen in time: on a busy machine a pause of 5 ms
 * tells how late "in time" may be. */
static bool all_deadline(void) {
    fake_reset();
    replog_client *c = open_client(fake.endpoints, defaults);
    replog_append_options all = {.ack = REPLOG_ACK_ALL};
    assert_int_equal(append(c, "before", all, NULL, NULL), REPLOG_OK);
    all.timeout_ms = 800;
    fake_lock();
    fake.silent = true;
    fake_unlock();
    uint64_t start = clock_mono_ms();
    append_many(c, 1, -1, all);
    fake_wait_held();
    replog_error err;
    assert_int_equal(append(c, "short", (replog_append_options){.timeout_ms = 100}, NULL, &err),
                     REPLOG_DEADLINE_EXCEEDED);
    fake_lock();
    assert_non_null(fake.held);
    fake.leader = -1;
    fake.silent = false;
    rpc_finish(fake.held, REPLOG_UNAVAILABLE, "stepped down");
    fake_unlock();
    uint64_t now = clock_mono_ms(), late = 0;
    while (many.n == 0 && now < start + PATIENT_MS / 2) {
        uint64_t before = now;
        fake_pause_ms(5);
        now = clock_mono_ms();
        if (now - before > 6 + late) late = now - before - 6;
    }
    assert_int_equal(many.n, 1);
    assert_int_equal(many.status[0], REPLOG_DEADLINE_EXCEEDED);
    assert_true(now - start >= 750);
    replog_client_close(c);
    return now - start < 950 + 4 * late;
}

static void test_all_deadline(void **state) {
    (void)state;
    bool in_time = false;
    for (int i = 0; i < 3 && !in_time; i++) in_time = all_deadline();
    assert_true(in_time);
}

static void test_threads(void **state) {
    (void)state;
    struct thread threads[8];
    replog_client *c = open_client(fake.endpoints, (replog_client_options){.window = 6});
    fake.move_after = 7;
    for (int i = 0; i < 8; i++) {
        threads[i].client = c;
        pthread_create(&threads[i].id, NULL, append_in_thread, &threads[i]);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i].id, NULL);
        assert_int_equal(threads[i].status, REPLOG_OK);
    }
    assert_int_equal(times("thread"), 8);
    replog_client_close(c);
}

static void test_close_in_flight(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    assert_int_equal(append(c, "a", (replog_append_options){0}, NULL, NULL), REPLOG_OK);
    fake.silent = true;
    append_many(c, 50, -1, (replog_append_options){0});
    struct thread thread = {.client = c};
    pthread_create(&thread.id, NULL, append_in_thread, &thread);
    while (!thread.begun) fake_pause_ms(1);
    fake_pause_ms(100);
    uint64_t start = clock_mono_ms();
    replog_client_close(c);
    assert_true(clock_mono_ms() - start < PATIENT_MS / 2);
    pthread_join(thread.id, NULL);
    assert_int_equal(thread.status, REPLOG_CANCELLED);
    for (int i = 0; i < 50; i++) {
        assert_int_equal(many.answered[i], 1);
        assert_int_equal(many.status[i], REPLOG_CANCELLED);
    }
}

static void test_window(void **state) {
    (void)state;
    replog_error err;
    replog_client *c = open_client(fake.endpoints, (replog_client_options){.window = 4});
    fake.silent = true;
    append_many(c, 4, -1, (replog_append_options){0});
    replog_append_options o = {.timeout_ms = 100};
    assert_int_equal(append(c, "x", o, NULL, &err), REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(replog_flush(c, 50, &err), REPLOG_DEADLINE_EXCEEDED);
    replog_client_close(c);
    assert_int_equal(many.n, 4);
}

/* From a callback: appends again, never waits. */
struct chain {
    replog_client *c;
    int left;
    replog_status waiting, getting, flushing;
};
static void on_chain(void *user, replog_status status, const replog_append_result *result,
                     const replog_error *error) {
    struct chain *chain = user;
    (void)result;
    (void)error;
    assert_int_equal(status, REPLOG_OK);
    if (chain->left-- == 0) return;
    replog_batch *b = one("chain");
    chain->waiting = replog_append(chain->c, b, NULL, NULL, NULL);
    chain->flushing = replog_flush(chain->c, 0, NULL);
    void *value;
    size_t value_bytes;
    chain->getting = replog_get(chain->c, "k", 1, false, 0, &value, &value_bytes, NULL, NULL);
    replog_append_options o = {.single = true};
    assert_int_equal(replog_append_async(chain->c, b, &o, on_chain, chain, NULL), REPLOG_OK);
    replog_batch_free(b);
}

static void test_callback(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, (replog_client_options){.window = 1});
    struct chain chain = {.c = c, .left = 20};
    replog_batch *b = one("chain");
    assert_int_equal(replog_append_async(c, b, NULL, on_chain, &chain, NULL), REPLOG_OK);
    assert_int_equal(replog_flush(c, PATIENT_MS, NULL), REPLOG_OK);
    assert_int_equal(times("chain"), 21);
    assert_int_equal(chain.waiting, REPLOG_FAILED_PRECONDITION);
    assert_int_equal(chain.flushing, REPLOG_FAILED_PRECONDITION);
    assert_int_equal(chain.getting, REPLOG_FAILED_PRECONDITION);
    replog_batch_free(b);
    replog_client_close(c);
}

/* A callback that takes its time, on the thread that brings answers, while another append's
 * deadline passes. */
static void on_slow(void *user, replog_status status, const replog_append_result *result,
                    const replog_error *error) {
    atomic_int *slow = user;
    (void)result;
    (void)error;
    assert_int_equal(status, REPLOG_OK);
    atomic_store(slow, 1);
    fake_pause_ms(300);
    atomic_store(slow, 2);
}

static void test_slow_callback(void **state) {
    (void)state;
    replog_client *c = open_client(fake.endpoints, defaults);
    atomic_int slow = 0;
    replog_batch *b = one("slow");
    assert_int_equal(replog_append_async(c, b, NULL, on_slow, &slow, NULL), REPLOG_OK);
    while (atomic_load(&slow) == 0) fake_pause_ms(1);
    fake_lock();
    fake.silent = true;
    fake_unlock();
    replog_error err;
    replog_append_options o = {.timeout_ms = 100};
    assert_int_equal(append(c, "late", o, NULL, &err), REPLOG_DEADLINE_EXCEEDED);
    assert_int_equal(atomic_load(&slow), 2); /* one at a time */
    replog_batch_free(b);
    replog_client_close(c);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_one, before_each),
        cmocka_unit_test_setup(test_bad_arguments, before_each),
        cmocka_unit_test_setup(test_wrong_leader, before_each),
        cmocka_unit_test_setup(test_dead_endpoints, before_each),
        cmocka_unit_test_setup(test_moves, before_each),
        cmocka_unit_test_setup(test_refused, before_each),
        cmocka_unit_test_setup(test_full, before_each),
        cmocka_unit_test_setup(test_deadline, before_each),
        cmocka_unit_test_setup(test_session_unknown, before_each),
        cmocka_unit_test_setup(test_not_repeated, before_each),
        cmocka_unit_test_setup(test_mixed_levels, before_each),
        cmocka_unit_test_setup(test_all_away, before_each),
        cmocka_unit_test_setup(test_all_deadline, before_each),
        cmocka_unit_test_setup(test_behind_unnumbered, before_each),
        cmocka_unit_test_setup(test_threads, before_each),
        cmocka_unit_test_setup(test_close_in_flight, before_each),
        cmocka_unit_test_setup(test_window, before_each),
        cmocka_unit_test_setup(test_callback, before_each),
        cmocka_unit_test_setup(test_slow_callback, before_each),
    };
    fake_finish(cmocka_run_group_tests(tests, before_all, NULL));
}

/* The apply worker: a flush that is asked for is done though the store lags behind a log that
 * grows, and on a full disk the store goes on between two tries. */
#include "wal_world.h"

#include "node/apply.h"
#include "node/apply_worker.h"
#include "store/store.h"

enum { N_BLOCKS = 300, VALUE_BYTES = 100 << 10, SLICES_AT_MOST = 10 };

struct fixture {
    struct world *world;
    struct store *store;
    const struct store_ops *plain;
    struct store_ops ops; /* of a store that fails to flush so many times */
    struct applier *applier;
    struct apply_worker worker;
    uint64_t applied_seq, checkpoint_seq;
    unsigned n_applied, n_flushed;
};

static unsigned flushes_to_fail, flushes_tried;
static const struct store_ops *plain;

static replog_status flush_or_fail(struct store *s, uint64_t *applied, replog_error *err) {
    flushes_tried++;
    if (flushes_to_fail == 0) return plain->flush(s, applied, err);
    flushes_to_fail--;
    snprintf(err->text, sizeof err->text, "no space");
    return REPLOG_RESOURCE_EXHAUSTED;
}

static void post(void *user, const struct node_event *ev) {
    struct fixture *f = user;
    if (ev->type == NODE_EV_APPLIED) {
        f->n_applied++;
        f->applied_seq = ev->seq;
    } else {
        assert_int_equal(ev->type, NODE_EV_FLUSHED);
        f->n_flushed++;
        f->checkpoint_seq = ev->seq;
    }
}

static void fatal(void *user, const char *text) {
    (void)user;
    fail_msg("%s", text);
}

static int setup(void **state) {
    static const struct apply_worker_ops worker_ops = {.post = post, .fatal = fatal};
    struct fixture *f = calloc(1, sizeof *f);
    assert_non_null(f);
    f->world = world_new();
    f->world->options.segment_bytes = 4 << 20;
    world_ok(f->world, world_open(f->world));
    for (int i = 0; i < N_BLOCKS; i++)
        world_ok(f->world, world_append(f->world, 1, 1, VALUE_BYTES));
    world_ok(f->world, world_sync(f->world));
    f->store = store_mem_new();
    assert_non_null(f->store);
    plain = f->plain = f->store->ops;
    f->ops = *plain;
    f->ops.flush = flush_or_fail;
    f->store->ops = &f->ops;
    flushes_to_fail = flushes_tried = 0;
    world_ok(f->world, apply_open(f->world->wal, f->store, 0, &f->applier, &f->world->err));
    f->worker = (struct apply_worker){.applier = f->applier, .ops = &worker_ops, .user = f};
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    apply_close(f->applier);
    f->store->ops = f->plain;
    f->store->ops->close(f->store);
    world_free(f->world);
    free(f);
    return 0;
}

/* A target that the store never reaches, as under a load that it cannot follow: without the flush
 * the log would never be truncated, and fill the disk. */
static void a_store_that_lags_is_flushed(void **state) {
    struct fixture *f = *state;
    bool flush = true;
    while (f->n_flushed == 0) {
        assert_int_equal(apply_worker_run(&f->worker, N_BLOCKS, flush), APPLY_WORKER_AGAIN);
        flush = false;
        assert_in_range(f->n_applied, 0, SLICES_AT_MOST);
    }
    assert_true(f->applied_seq < N_BLOCKS);
    assert_int_equal(f->checkpoint_seq, f->applied_seq);
    assert_int_equal(store_mem_durable(f->store), f->applied_seq);
    /* What nobody asked for is not flushed: the rest is applied, and that is all. */
    while (apply_worker_run(&f->worker, N_BLOCKS, false) == APPLY_WORKER_AGAIN) continue;
    assert_int_equal(f->applied_seq, N_BLOCKS);
    assert_int_equal(f->n_flushed, 1);
}

static void on_a_full_disk_the_store_goes_on_between_two_tries(void **state) {
    struct fixture *f = *state;
    flushes_to_fail = 2;
    unsigned full = 0, applied_at_try = 0;
    enum apply_worker_next next = apply_worker_run(&f->worker, N_BLOCKS, true);
    for (; next != APPLY_WORKER_IDLE; next = apply_worker_run(&f->worker, N_BLOCKS, false)) {
        if (next != APPLY_WORKER_FULL) continue;
        full++;
        assert_true(f->n_applied > applied_at_try);
        applied_at_try = f->n_applied;
    }
    assert_int_equal(full, 2);
    assert_int_equal(flushes_tried, 3);
    assert_int_equal(f->n_flushed, 1);
    assert_int_equal(f->applied_seq, N_BLOCKS);
}

static void what_is_applied_is_flushed_at_once(void **state) {
    struct fixture *f = *state;
    while (apply_worker_run(&f->worker, 5, false) == APPLY_WORKER_AGAIN) continue;
    assert_int_equal(apply_worker_run(&f->worker, 5, true), APPLY_WORKER_AGAIN);
    assert_int_equal(f->checkpoint_seq, 5);
    assert_int_equal(apply_worker_run(&f->worker, 5, false), APPLY_WORKER_IDLE);
}

/* A reader that looks away while the tail is cut twice is turned away, wherever it stands. What is
 * committed was not cut: the worker reads it with a new one. */
static void cuts_above_what_is_committed_do_not_end_it(void **state) {
    struct fixture *f = *state;
    struct world *w = f->world;
    for (uint64_t committed = 5; committed <= 8; committed++) {
        while (apply_worker_run(&f->worker, committed, false) == APPLY_WORKER_AGAIN) continue;
        assert_int_equal(f->applied_seq, committed);
        for (uint64_t term = 2 * committed; term < 2 * committed + 2; term++) {
            world_ok(w, wal_cut(w->wal, world_pos(w, N_BLOCKS - committed).seq, &w->err));
            world_forget(w, N_BLOCKS - committed);
            world_ok(w, world_append(w, term, 1, 100));
            world_ok(w, world_sync(w));
        }
    }
    uint64_t tail_seq = wal_tail(w->wal).seq;
    while (apply_worker_run(&f->worker, tail_seq, false) == APPLY_WORKER_AGAIN) continue;
    assert_int_equal(f->applied_seq, tail_seq);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_store_that_lags_is_flushed, setup, teardown),
        cmocka_unit_test_setup_teardown(on_a_full_disk_the_store_goes_on_between_two_tries, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_is_applied_is_flushed_at_once, setup, teardown),
        cmocka_unit_test_setup_teardown(cuts_above_what_is_committed_do_not_end_it, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The memory tail: runs of bytes that lie together, cuts, eviction. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "node/tail.h"

/* Adds a block of `count` records and n bytes behind the end; its hash is its first seq * 10. */
static void add(struct tail *t, uint32_t count, size_t n, uint64_t term) {
    struct blob *block = blob_new(n);
    memset(block->data, (int)count, n);
    uint64_t first = tail_end(t).seq + 1;
    uint8_t *bytes;
    assert_true(tail_add_new(t, block, first, first + count - 1, term, &bytes));
    tail_set_hash(t, first * 10);
    blob_unref(block);
}

static void runs_are_contiguous(void **state) {
    (void)state;
    struct tail t;
    struct node_bytes run;
    uint64_t last;
    tail_init(&t, (struct wal_pos){7, 1, 70});
    assert_false(tail_run(&t, 8, UINT64_MAX, 1000, &run, &last));
    add(&t, 1, 100, 1);
    add(&t, 3, 200, 1);
    add(&t, 1, 300, 2);
    assert_int_equal(tail_end(&t).seq, 12);
    assert_int_equal(tail_end(&t).chain, 120);
    assert_true(tail_run(&t, 8, UINT64_MAX, 300, &run, &last));
    assert_int_equal(run.size_bytes, 300);
    assert_int_equal(last, 11);
    assert_int_equal(run.blob->data[run.offset + 100], 3);
    blob_unref(run.blob);
    assert_true(tail_run(&t, 8, 10, 1000, &run, &last)); /* not into the block that ends at 11 */
    assert_int_equal(last, 8);
    blob_unref(run.blob);
    assert_false(tail_run(&t, 9, 10, 1000, &run, &last));
    assert_true(tail_run(&t, 9, UINT64_MAX, 1, &run, &last)); /* one block always fits */
    assert_int_equal(run.size_bytes, 200);
    blob_unref(run.blob);
    assert_false(tail_run(&t, 10, UINT64_MAX, 1000, &run, &last)); /* inside a block */
    assert_false(tail_run(&t, 13, UINT64_MAX, 1000, &run, &last));
    add(&t, 1, 2 << 20, 2); /* a blob of its own */
    assert_true(tail_run(&t, 12, UINT64_MAX, 4 << 20, &run, &last));
    assert_int_equal(last, 12);
    blob_unref(run.blob);
    tail_free(&t);
}

static void positions_are_block_ends(void **state) {
    (void)state;
    struct tail t;
    struct wal_pos pos;
    tail_init(&t, (struct wal_pos){7, 1, 70});
    add(&t, 3, 100, 2);
    assert_true(tail_pos(&t, 7, &pos));
    assert_int_equal(pos.chain, 70);
    assert_true(tail_pos(&t, 10, &pos));
    assert_int_equal(pos.term, 2);
    assert_false(tail_pos(&t, 9, &pos));
    assert_false(tail_pos(&t, 6, &pos));
    assert_false(tail_pos(&t, 11, &pos));
    tail_free(&t);
}

static void a_cut_never_writes_over_bytes_in_flight(void **state) {
    (void)state;
    struct tail t;
    struct node_bytes run;
    uint64_t last;
    tail_init(&t, (struct wal_pos){0});
    add(&t, 1, 100, 1);
    add(&t, 2, 100, 1);
    assert_true(tail_run(&t, 2, UINT64_MAX, 1000, &run, &last));
    tail_cut(&t, 1);
    assert_int_equal(tail_end(&t).seq, 1);
    assert_int_equal(t.size_bytes, 100);
    add(&t, 5, 100, 2);
    assert_int_equal(run.blob->data[run.offset], 2);
    assert_int_equal(tail_end(&t).seq, 6);
    blob_unref(run.blob);
    tail_free(&t);
}

static void only_what_is_durable_is_evicted(void **state) {
    (void)state;
    struct tail t;
    tail_init(&t, (struct wal_pos){0});
    for (int i = 0; i < 1000; i++) add(&t, 1, 100, 1);
    tail_evict(&t, 5000, 300);
    assert_int_equal(t.base.seq, 300);
    assert_int_equal(t.size_bytes, 70000);
    tail_evict(&t, 5000, 1000);
    assert_int_equal(t.size_bytes, 5000);
    assert_int_equal(t.base.seq, 950);
    assert_int_equal(t.base.chain, 9500);
    assert_int_equal(tail_bytes_above(&t, 960), 4000);
    assert_int_equal(tail_bytes_above(&t, 999), 100);
    assert_int_equal(tail_bytes_above(&t, 1000), 0);
    assert_int_equal(tail_bytes_above(&t, 0), 5000);
    tail_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_are_contiguous),
        cmocka_unit_test(positions_are_block_ends),
        cmocka_unit_test(a_cut_never_writes_over_bytes_in_flight),
        cmocka_unit_test(only_what_is_durable_is_evicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

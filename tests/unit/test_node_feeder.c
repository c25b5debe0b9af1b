/* What a follower is fed is what the log holds now, whatever the reader held before. */
#include "node/feeder.h"
#include "wal_world.h"

static struct blob *make_block(struct wal_pos prev, uint64_t term, const char *value,
                               struct wal_pos *end) {
    struct block_builder b;
    struct block_header h = {.first_seq = prev.seq + 1, .term = term, .prev_chain = prev.chain};
    block_begin(&b);
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, (struct slice){0},
                               (struct slice){(const uint8_t *)value, strlen(value)}, NULL),
                     REPLOG_OK);
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    block_builder_free(&b);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    *end = (struct wal_pos){block_last_seq(&h), term, h.hash};
    return blob;
}

/* Appends a block and makes it durable; its length. */
static size_t put(struct world *w, uint64_t term, const char *value) {
    struct wal_pos end;
    struct blob *blob = make_block(wal_tail(w->wal), term, value, &end);
    struct slice piece = {blob->data, blob->size_bytes};
    world_ok(w, wal_append(w->wal, &piece, 1, NULL, &w->err));
    world_ok(w, wal_sync(w->wal, &w->err));
    size_t length = blob->size_bytes;
    blob_unref(blob);
    return length;
}

static void a_block_that_was_held_and_cut_is_not_fed(void **state) {
    (void)state;
    struct world *w = world_new();
    struct feeder f = {0};
    struct node_bytes out = {0};
    world_ok(w, world_open(w));
    size_t length = put(w, 1, "one");
    put(w, 1, "two");
    put(w, 1, "three");
    /* the second block is read, does not fit, and is held */
    world_ok(w, feeder_read(&f, w->wal, 1, 3, length, &out, &w->err));
    assert_int_equal(out.size_bytes, length);
    blob_unref(out.blob);
    world_ok(w, wal_cut(w->wal, 1, &w->err));
    put(w, 2, "another");
    world_ok(w, feeder_read(&f, w->wal, 2, 2, 1 << 20, &out, &w->err));
    struct block_header h;
    assert_int_equal(block_check(out.blob->data, out.size_bytes, &h, NULL), REPLOG_OK);
    assert_int_equal(h.term, 2);
    assert_int_equal(h.hash, wal_tail(w->wal).chain);
    blob_unref(out.blob);
    feeder_close(&f);
    world_free(w);
}

static void it_goes_on_where_it_was(void **state) {
    (void)state;
    struct world *w = world_new();
    struct feeder f = {0};
    world_ok(w, world_open(w));
    size_t length = 0;
    for (int i = 0; i < 20; i++) length = put(w, 1, "value");
    for (uint64_t seq = 1; seq <= 20; seq += 3) {
        struct node_bytes out = {0};
        world_ok(w, feeder_read(&f, w->wal, seq, 20, 3 * length, &out, &w->err));
        assert_int_equal(out.size_bytes, (seq + 2 <= 20 ? 3 : 21 - seq) * length);
        blob_unref(out.blob);
    }
    struct node_bytes none = {0};
    assert_int_equal(feeder_read(&f, w->wal, 21, 20, length, &none, &w->err), REPLOG_NOT_FOUND);
    assert_null(none.blob);
    assert_null(f.reader);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_that_was_held_and_cut_is_not_fed),
        cmocka_unit_test(it_goes_on_where_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

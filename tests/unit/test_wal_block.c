/* The block codec: round trips, every limit, and a refusal for every damaged byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/hash.h"
#include "wal/block.h"

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct blob *seal(struct block_builder *b, struct block_header *h) {
    struct blob *blob = block_finish(b, &h->n_records, &h->flags);
    assert_non_null(blob);
    h->length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, h);
    return blob;
}

static struct block_header place(void) {
    return (struct block_header){.first_seq = 41,
                                 .term = 3,
                                 .timestamp_us = 1700000000000000,
                                 .session = 9,
                                 .session_seq = 12,
                                 .acked_below = 11,
                                 .prev_chain = 0xfeedfacecafebeefu};
}

/* A batch of PUT k=v, plain PUT, DELETE d, empty value, COMMIT. */
static struct blob *sample_batch(struct block_header *h) {
    struct block_builder b;
    block_begin(&b);
    *h = place();
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, text("k"), text("v"), NULL), REPLOG_OK);
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, text(""), text("plain"), NULL), REPLOG_OK);
    assert_int_equal(block_add(&b, REPLOG_OP_DELETE, text("d"), text(""), NULL), REPLOG_OK);
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, text("empty"), text(""), NULL), REPLOG_OK);
    block_add_marker(&b, REPLOG_OP_COMMIT, text(""));
    return seal(&b, h);
}

static void assert_record(const replog_record *r, uint64_t seq, replog_op op, const char *key,
                          const char *value) {
    assert_true(r->seq == seq);
    assert_true(r->term == 3);
    assert_int_equal(r->op, op);
    assert_int_equal(r->key_bytes, strlen(key));
    assert_memory_equal(r->key, key, strlen(key));
    assert_int_equal(r->value_bytes, strlen(value));
    if (*value) assert_memory_equal(r->value, value, strlen(value));
}

static void a_batch_goes_round(void **state) {
    (void)state;
    struct block_header written, h;
    struct blob *blob = sample_batch(&written);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    assert_true(h.hash == written.hash && h.first_seq == 41 && h.term == 3 && h.session == 9);
    assert_true(h.session_seq == 12 && h.acked_below == 11 && h.prev_chain == written.prev_chain);
    assert_true(h.timestamp_us == written.timestamp_us);
    assert_int_equal(h.flags, BLOCK_BATCH | BLOCK_KEYED);
    assert_int_equal(h.n_records, 5);
    assert_true(block_last_seq(&h) == 45);
    struct block_walk at = {0};
    replog_record r;
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 41, REPLOG_OP_PUT, "k", "v");
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 42, REPLOG_OP_PUT, "", "plain");
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 43, REPLOG_OP_DELETE, "d", "");
    assert_null(r.value);
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 44, REPLOG_OP_PUT, "empty", "");
    assert_non_null(r.value);
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 45, REPLOG_OP_COMMIT, "", "");
    assert_false(block_next(blob->data, &h, &at, &r));
    blob_unref(blob);
}

/* The layout is a promise to logs that exist: offsets as the header's head says. */
static void the_layout_stands(void **state) {
    (void)state;
    struct block_header h;
    struct blob *blob = sample_batch(&h);
    const uint8_t *p = blob->data;
    assert_true(get_u64(p) == hash64(p + 8, blob->size_bytes - 8));
    assert_memory_equal(p + 8, "RLB1", 4);
    assert_int_equal(get_u16(p + 12), 1);
    assert_int_equal(get_u16(p + 14), 3);
    assert_int_equal(get_u32(p + 16), blob->size_bytes);
    assert_int_equal(get_u32(p + 20), 5);
    assert_int_equal(get_u64(p + 24), 41);
    assert_int_equal(get_u64(p + 32), 3);
    assert_true(get_u64(p + 40) == 1700000000000000u);
    assert_int_equal(get_u64(p + 48), 9);
    assert_int_equal(get_u64(p + 56), 12);
    assert_int_equal(get_u64(p + 64), 11);
    assert_true(get_u64(p + 72) == 0xfeedfacecafebeefu);
    const uint8_t first[] = {1, 1, 0, 0, 1, 0, 0, 0, 'k', 'v'};
    assert_memory_equal(p + 80, first, sizeof first);
    blob_unref(blob);
}

static void every_damaged_byte_is_refused(void **state) {
    (void)state;
    struct block_header h, untouched;
    struct blob *blob = sample_batch(&h);
    for (size_t i = 0; i < blob->size_bytes; i++) {
        for (unsigned mask = 1; mask < 256; mask <<= 1) {
            memset(&untouched, 0xab, sizeof untouched);
            replog_error err = {0};
            blob->data[i] ^= (uint8_t)mask;
            assert_int_equal(block_check(blob->data, blob->size_bytes, &untouched, &err),
                             REPLOG_DATA_LOSS);
            assert_int_equal(err.status, REPLOG_DATA_LOSS);
            assert_true(strlen(err.text) > 0);
            assert_int_equal(untouched.flags, 0xabab);
            blob->data[i] ^= (uint8_t)mask;
        }
    }
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    blob_unref(blob);
}

static void every_cut_off_block_is_refused(void **state) {
    (void)state;
    struct block_header h;
    struct blob *blob = sample_batch(&h);
    for (size_t n = 0; n < blob->size_bytes; n++) {
        uint8_t *exact = malloc(n ? n : 1);
        assert_non_null(exact);
        memcpy(exact, blob->data, n);
        assert_int_equal(block_check(exact, n, &h, NULL), REPLOG_DATA_LOSS);
        assert_int_equal(block_peek(exact, n, &h, NULL),
                         n < BLOCK_HEADER_BYTES ? REPLOG_DATA_LOSS : REPLOG_OK);
        free(exact);
    }
    blob_unref(blob);
}

/* Seals whatever stands in the blob, with the right hash, so that only the content is wrong. */
static replog_status check_as(struct blob *blob, struct block_header h) {
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    return block_check(blob->data, blob->size_bytes, &h, NULL);
}

static void lies_with_a_right_hash_are_refused(void **state) {
    (void)state;
    struct block_header h, wrong;
    struct blob *blob = sample_batch(&h);
    assert_int_equal(check_as(blob, h), REPLOG_OK);
    for (unsigned flags = 0; flags < 32; flags++) {
        wrong = h;
        wrong.flags = (uint16_t)flags;
        assert_int_equal(check_as(blob, wrong),
                         flags == (BLOCK_BATCH | BLOCK_KEYED) ? REPLOG_OK : REPLOG_DATA_LOSS);
    }
    for (uint32_t n = 0; n < 12; n++) {
        wrong = h;
        wrong.n_records = n;
        assert_int_equal(check_as(blob, wrong), n == 5 ? REPLOG_OK : REPLOG_DATA_LOSS);
    }
    wrong = h;
    wrong.first_seq = 0;
    assert_int_equal(check_as(blob, wrong), REPLOG_DATA_LOSS);
    wrong.first_seq = UINT64_MAX - 3;
    assert_int_equal(check_as(blob, wrong), REPLOG_DATA_LOSS);
    for (unsigned op = 0; op < 256; op++) { /* of the first record, PUT k=v */
        blob->data[80] = (uint8_t)op;
        assert_int_equal(check_as(blob, h), op == REPLOG_OP_PUT ? REPLOG_OK : REPLOG_DATA_LOSS);
    }
    blob->data[80] = REPLOG_OP_PUT;
    for (unsigned length = 0; length < 4; length++) { /* and its key length */
        blob->data[81] = (uint8_t)length;
        if (length != 1) assert_int_equal(check_as(blob, h), REPLOG_DATA_LOSS);
    }
    blob_unref(blob);
}

static void a_single_record_needs_no_commit(void **state) {
    (void)state;
    struct block_builder b;
    struct block_header h = place();
    block_begin(&b);
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, text(""), text("x"), NULL), REPLOG_OK);
    struct blob *blob = seal(&b, &h);
    assert_int_equal(h.flags, 0);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    blob_unref(blob);
    /* two records without a COMMIT, and a COMMIT alone: no batch */
    block_begin(&b);
    block_add(&b, REPLOG_OP_PUT, text(""), text("x"), NULL);
    block_add(&b, REPLOG_OP_PUT, text(""), text("y"), NULL);
    blob = seal(&b, &h);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_DATA_LOSS);
    blob_unref(blob);
    block_begin(&b);
    block_add_marker(&b, REPLOG_OP_COMMIT, text(""));
    blob = seal(&b, &h);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_DATA_LOSS);
    blob_unref(blob);
}

static void markers_set_their_flag(void **state) {
    (void)state;
    struct block_builder b;
    struct block_header h = place();
    block_begin(&b);
    block_add_marker(&b, REPLOG_OP_CHECKPOINT, text("0123456789abcdef"));
    struct blob *blob = seal(&b, &h);
    assert_int_equal(h.flags, BLOCK_MARKER);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    struct block_walk at = {0};
    replog_record r;
    assert_true(block_next(blob->data, &h, &at, &r));
    assert_record(&r, 41, REPLOG_OP_CHECKPOINT, "", "0123456789abcdef");
    blob_unref(blob);
}

static void assert_not_added(struct block_builder *b, replog_op op, struct slice key,
                             struct slice value, const char *limit) {
    replog_error err = {0};
    struct block_builder before = *b;
    assert_int_equal(block_add(b, op, key, value, &err), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(err.status, REPLOG_INVALID_ARGUMENT);
    if (!strstr(err.text, limit)) fail_msg("\"%s\" does not name %s", err.text, limit);
    assert_memory_equal(b, &before, sizeof before);
}

static void limits_of_a_record(void **state) {
    (void)state;
    struct slice key = {calloc(1, REPLOG_MAX_KEY_BYTES + 1), REPLOG_MAX_KEY_BYTES + 1};
    struct slice value = {calloc(1, REPLOG_MAX_VALUE_BYTES + 1), REPLOG_MAX_VALUE_BYTES + 1};
    assert_true(key.data && value.data);
    struct block_builder b;
    block_begin(&b);
    assert_not_added(&b, REPLOG_OP_PUT, key, text(""), "65536");
    assert_not_added(&b, REPLOG_OP_PUT, text("k"), value, "1048576");
    assert_not_added(&b, REPLOG_OP_DELETE, text("k"), text("v"), "DELETE");
    assert_not_added(&b, REPLOG_OP_DELETE, text(""), text(""), "key");
    assert_not_added(&b, REPLOG_OP_COMMIT, text(""), text(""), "16");
    assert_not_added(&b, (replog_op)0, text(""), text(""), "0");
    key.size_bytes--;
    value.size_bytes--;
    assert_int_equal(block_add(&b, REPLOG_OP_PUT, key, value, NULL), REPLOG_OK);
    struct block_header h = place();
    struct blob *blob = seal(&b, &h);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    blob_unref(blob);
    free((void *)key.data);
    free((void *)value.data);
}

static void limits_of_a_batch(void **state) {
    (void)state;
    struct block_builder b;
    block_begin(&b);
    for (uint32_t i = 0; i < REPLOG_MAX_BATCH_RECORDS; i++)
        assert_int_equal(block_add(&b, REPLOG_OP_PUT, text(""), text("x"), NULL), REPLOG_OK);
    assert_not_added(&b, REPLOG_OP_PUT, text(""), text(""), "65535");
    block_add_marker(&b, REPLOG_OP_COMMIT, text(""));
    struct block_header h = place();
    struct blob *blob = seal(&b, &h);
    assert_int_equal(h.n_records, REPLOG_MAX_BATCH_RECORDS + 1);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    blob_unref(blob);

    struct slice value = {calloc(1, REPLOG_MAX_VALUE_BYTES), REPLOG_MAX_VALUE_BYTES - 8};
    assert_non_null(value.data);
    block_begin(&b);
    for (int i = 0; i < 3; i++)
        assert_int_equal(block_add(&b, REPLOG_OP_PUT, text(""), value, NULL), REPLOG_OK);
    assert_not_added(&b, REPLOG_OP_PUT, text(""), text(""), "3145728");
    block_add_marker(&b, REPLOG_OP_COMMIT, text(""));
    h = place();
    blob = seal(&b, &h);
    assert_int_equal(blob->size_bytes, BLOCK_MAX_BYTES);
    assert_int_equal(block_check(blob->data, blob->size_bytes, &h, NULL), REPLOG_OK);
    blob_unref(blob);
    free((void *)value.data);
}

/* A record longer than its limits, in a block whose hash is right: from a hostile peer. */
static void oversize_records_from_outside_are_refused(void **state) {
    (void)state;
    struct block_header h = place();
    uint32_t value_bytes = REPLOG_MAX_VALUE_BYTES + 1;
    struct blob *blob = blob_new(BLOCK_HEADER_BYTES + BLOCK_RECORD_HEADER_BYTES + value_bytes);
    assert_non_null(blob);
    memset(blob->data, 0, blob->size_bytes);
    blob->data[80] = REPLOG_OP_PUT;
    put_u32(blob->data + 84, value_bytes);
    h.n_records = 1;
    assert_int_equal(check_as(blob, h), REPLOG_DATA_LOSS);
    blob->size_bytes--;
    put_u32(blob->data + 84, value_bytes - 1);
    assert_int_equal(check_as(blob, h), REPLOG_OK);
    blob->data[80] = REPLOG_OP_DELETE;
    assert_int_equal(check_as(blob, h), REPLOG_DATA_LOSS);
    blob_unref(blob);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_goes_round),
        cmocka_unit_test(the_layout_stands),
        cmocka_unit_test(every_damaged_byte_is_refused),
        cmocka_unit_test(every_cut_off_block_is_refused),
        cmocka_unit_test(lies_with_a_right_hash_are_refused),
        cmocka_unit_test(a_single_record_needs_no_commit),
        cmocka_unit_test(markers_set_their_flag),
        cmocka_unit_test(limits_of_a_record),
        cmocka_unit_test(limits_of_a_batch),
        cmocka_unit_test(oversize_records_from_outside_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

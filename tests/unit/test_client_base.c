/* What needs no cluster: batches and their limits, JSON, the histogram. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "client/histogram.h"
#include "client/json.h"
#include "client/lib_internal.h"

static void test_batch_bytes(void **state) {
    (void)state;
    replog_batch *b = replog_batch_new();
    assert_int_equal(replog_batch_put(b, "k", 1, "value", 5, NULL), REPLOG_OK);
    assert_int_equal(replog_batch_delete(b, "gone", 4, NULL), REPLOG_OK);
    assert_int_equal(replog_batch_put(b, NULL, 0, NULL, 0, NULL), REPLOG_OK);
    assert_int_equal(replog_batch_count(b), 3);
    assert_int_equal(replog_batch_bytes(b), 10 + 3 * 8);
    struct blob *blob = client_batch_encode(b);
    Replog__V1__AppendRequest *m =
        replog__v1__append_request__unpack(NULL, blob->size_bytes, blob->data);
    assert_non_null(m);
    assert_int_equal(m->n_records, 3);
    assert_int_equal(m->records[0]->value.len, 5);
    assert_memory_equal(m->records[0]->key.data, "k", 1);
    assert_int_equal(m->records[1]->op, REPLOG__V1__OP__DELETE);
    assert_int_equal(m->records[1]->key.len, 4);
    assert_int_equal(m->records[2]->key.len + m->records[2]->value.len, 0);
    replog__v1__append_request__free_unpacked(m, NULL);
    blob_unref(blob);
    replog_batch_clear(b);
    assert_int_equal(replog_batch_count(b), 0);
    replog_batch_free(b);
}

static void test_batch_limits(void **state) {
    (void)state;
    replog_error err;
    replog_batch *b = replog_batch_new();
    char *big = calloc(1, REPLOG_MAX_VALUE_BYTES + 1);
    assert_int_equal(replog_batch_put(b, big, REPLOG_MAX_KEY_BYTES + 1, "", 0, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "65536"));
    assert_int_equal(replog_batch_put(b, "", 0, big, REPLOG_MAX_VALUE_BYTES + 1, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "1048576"));
    assert_int_equal(replog_batch_delete(b, "", 0, &err), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(replog_batch_count(b), 0);
    assert_int_equal(
        replog_batch_put(b, big, REPLOG_MAX_KEY_BYTES, big, REPLOG_MAX_VALUE_BYTES, &err),
        REPLOG_OK);
    assert_int_equal(replog_batch_put(b, "", 0, big, REPLOG_MAX_VALUE_BYTES, &err), REPLOG_OK);
    size_t left = REPLOG_MAX_BATCH_BYTES - replog_batch_bytes(b) - 8;
    assert_int_equal(replog_batch_put(b, "", 0, big, left + 1, &err), REPLOG_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "3145728"));
    assert_int_equal(replog_batch_put(b, "", 0, big, left, &err), REPLOG_OK);
    replog_batch_clear(b);
    for (unsigned i = 0; i < REPLOG_MAX_BATCH_RECORDS; i++) {
        assert_int_equal(replog_batch_put(b, "", 0, "", 0, &err), REPLOG_OK);
    }
    assert_int_equal(replog_batch_put(b, "", 0, "", 0, &err), REPLOG_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "65535"));
    free(big);
    replog_batch_free(b);
}

static void check_string(const char *bytes, size_t n, const char *expected) {
    struct buffer b = {0};
    json_string(&b, bytes, n);
    buffer_u8(&b, 0);
    assert_string_equal((char *)b.data, expected);
    buffer_free(&b);
}

static void check_base64(const char *bytes, const char *expected) {
    struct buffer b = {0};
    json_base64(&b, bytes, strlen(bytes));
    buffer_u8(&b, 0);
    assert_string_equal((char *)b.data, expected);
    buffer_free(&b);
}

static void test_json(void **state) {
    (void)state;
    check_string("plain", 5, "\"plain\"");
    check_string("", 0, "\"\"");
    check_string("a\"b\\c\n\t\x01\x7f\0z", 11, "\"a\\\"b\\\\c\\n\\t\\u0001\\u007f\\u0000z\"");
    check_string("\xc3\xa9\xe2\x82\xac", 5, "\"\xc3\xa9\xe2\x82\xac\"");
    check_base64("", "\"\"");
    check_base64("f", "\"Zg==\"");
    check_base64("fo", "\"Zm8=\"");
    check_base64("foo", "\"Zm9v\"");
    check_base64("\xff\xfe\xfd", "\"//79\"");
    struct buffer b = {0};
    buffer_u8(&b, '{');
    json_bytes_member(&b, "k", "k_b64", "ok", 2);
    json_bytes_member(&b, "v", "v_b64", "\xff", 1);
    json_member(&b, "n");
    json_number(&b, UINT64_MAX);
    buffer_append(&b, "}", 2);
    assert_string_equal((char *)b.data,
                        "{\"k\":\"ok\",\"v_b64\":\"/w==\",\"n\":18446744073709551615}");
    buffer_free(&b);
}

static void test_utf8(void **state) {
    (void)state;
    const char *good[] = {"",
                          "a",
                          "\xc2\x80",
                          "\xdf\xbf",
                          "\xe0\xa0\x80",
                          "\xed\x9f\xbf",
                          "\xee\x80\x80",
                          "\xf0\x90\x80\x80",
                          "\xf4\x8f\xbf\xbf"};
    const char *bad[] = {"\x80",
                         "\xc0\x80",
                         "\xc1\xbf",
                         "\xc2",
                         "\xe0\x9f\xbf",
                         "\xed\xa0\x80",
                         "\xe2\x82",
                         "\xf0\x8f\xbf\xbf",
                         "\xf4\x90\x80\x80",
                         "\xf5\x80\x80\x80",
                         "\xff",
                         "\xc3(",
                         "\xf0\x90\x80"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_true(json_is_utf8(good[i], strlen(good[i])));
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(json_is_utf8(bad[i], strlen(bad[i])));
    }
}

static void test_histogram(void **state) {
    (void)state;
    static struct histogram h;
    assert_int_equal(histogram_at(&h, 500), 0);
    const uint64_t edges[] = {0, 1, 63, 64, 65, 127, 128, 1000, 123456789, 1ull << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++) {
        unsigned bucket = histogram_bucket(edges[i]);
        assert_true(bucket < HISTOGRAM_BUCKETS);
        assert_true(histogram_bucket_max(bucket) >= edges[i]);
        assert_true(bucket == 0 || histogram_bucket_max(bucket - 1) < edges[i]);
    }
    for (uint64_t v = 1; v <= 10000; v++) histogram_add(&h, v);
    assert_in_range(histogram_at(&h, 500), 5000, 5100);
    assert_in_range(histogram_at(&h, 999), 9990, 10000);
    assert_int_equal(histogram_at(&h, 1000), 10000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_batch_bytes), cmocka_unit_test(test_batch_limits),
        cmocka_unit_test(test_json),        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_histogram),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

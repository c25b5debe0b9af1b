/* What everything stands on: integers in bytes, blobs, buffers, cursors, errors, names, hash, log.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "replog/limits.h"

static void integers_are_little_endian(void **state) {
    (void)state;
    uint8_t bytes[8];
    put_u16(bytes, 0xfedc);
    assert_int_equal(bytes[0], 0xdc);
    assert_int_equal(bytes[1], 0xfe);
    assert_int_equal(get_u16(bytes), 0xfedc);
    put_u32(bytes, 0xfedcba98u);
    assert_int_equal(bytes[0], 0x98);
    assert_int_equal(get_u32(bytes), 0xfedcba98u);
    put_u64(bytes, 0xfedcba9876543210ull);
    assert_int_equal(bytes[0], 0x10);
    assert_int_equal(bytes[7], 0xfe);
    assert_true(get_u64(bytes) == 0xfedcba9876543210ull);
}

static void *ref_and_unref(void *arg) {
    for (int i = 0; i < 10000; i++) blob_unref(blob_ref(arg));
    return NULL;
}

static void blobs_count_their_owners(void **state) {
    (void)state;
    struct blob *blob = blob_copy("hello", 5);
    assert_non_null(blob);
    assert_int_equal(blob->size_bytes, 5);
    assert_memory_equal(blob->data, "hello", 5);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, ref_and_unref, blob), 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    assert_int_equal(blob->refs, 1);
    assert_ptr_equal(blob_ref(blob), blob);
    blob_unref(blob);
    assert_memory_equal(blob->data, "hello", 5);
    blob_unref(blob);
    blob_unref(NULL);
    assert_null(blob_ref(NULL));
    assert_null(blob_new(SIZE_MAX - 4));
    blob = blob_copy(NULL, 0);
    assert_non_null(blob);
    blob_unref(blob);
}

static void buffers_grow(void **state) {
    (void)state;
    struct buffer b = {0};
    for (uint32_t i = 0; i < 1000; i++) buffer_u32(&b, i);
    assert_int_equal(b.size_bytes, 4000);
    for (uint32_t i = 0; i < 1000; i++) assert_int_equal(get_u32(b.data + (size_t)i * 4), i);
    buffer_clear(&b);
    buffer_u8(&b, 7);
    buffer_u64(&b, 1);
    buffer_append(&b, "abc", 3);
    buffer_append(&b, NULL, 0);
    assert_int_equal(b.size_bytes, 12);
    buffer_clear(&b);
    for (int i = 0; i < 200; i++) buffer_printf(&b, "%d-%s ", i, "text");
    assert_int_equal(b.size_bytes, 10 * 7 + 90 * 8 + 100 * 9);
    assert_memory_equal(b.data + b.size_bytes - 9, "199-text ", 9);
    assert_false(b.failed);
    buffer_free(&b);
    assert_int_equal(b.capacity, 0);
}

static void a_failed_buffer_drops_the_rest(void **state) {
    (void)state;
    struct buffer b = {0};
    buffer_u8(&b, 1);
    assert_null(buffer_extend(&b, SIZE_MAX - 8));
    assert_true(b.failed);
    buffer_u8(&b, 2);
    buffer_printf(&b, "x");
    assert_int_equal(b.size_bytes, 1);
    buffer_free(&b);
    assert_non_null(buffer_extend(&b, 0));
    buffer_free(&b);
}

static void cursors_stop_at_the_end(void **state) {
    (void)state;
    const uint8_t bytes[] = {1, 2, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 'x', 'y'};
    struct cursor c = {.data = bytes, .size_bytes = sizeof bytes};
    assert_int_equal(cursor_u8(&c), 1);
    assert_int_equal(cursor_u16(&c), 2);
    assert_int_equal(cursor_u32(&c), 3);
    assert_int_equal(cursor_u64(&c), 4);
    const uint8_t *rest = cursor_bytes(&c, 2);
    assert_memory_equal(rest, "xy", 2);
    assert_non_null(cursor_bytes(&c, 0));
    assert_false(c.failed);
    assert_int_equal(cursor_u8(&c), 0);
    assert_true(c.failed);
    struct cursor short_one = {.data = bytes, .size_bytes = 3};
    assert_int_equal(cursor_u32(&short_one), 0);
    assert_true(short_one.failed);
    assert_null(cursor_bytes(&short_one, 1));
    struct cursor empty = {0};
    assert_non_null(cursor_bytes(&empty, 0));
    assert_null(cursor_bytes(&empty, SIZE_MAX));
}

static void errors_carry_status_and_sentence(void **state) {
    (void)state;
    replog_error err;
    assert_int_equal(error_set(&err, REPLOG_ABORTED, "value %d", 7), REPLOG_ABORTED);
    assert_int_equal(err.status, REPLOG_ABORTED);
    assert_string_equal(err.text, "value 7");
    error_set(&err, REPLOG_ABORTED, "again: %s", err.text);
    assert_string_equal(err.text, "again: value 7");
    assert_int_equal(error_set(NULL, REPLOG_ABORTED, "x"), REPLOG_ABORTED);
    assert_int_equal(error_errno(&err, ENOSPC, "write %s", "f"), REPLOG_RESOURCE_EXHAUSTED);
    assert_string_equal(err.text, "write f: No space left on device");
    assert_int_equal(error_errno(NULL, EDQUOT, "x"), REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(error_errno(NULL, ENOENT, "x"), REPLOG_NOT_FOUND);
    assert_int_equal(error_errno(NULL, EACCES, "x"), REPLOG_PERMISSION_DENIED);
    assert_int_equal(error_errno(NULL, EIO, "x"), REPLOG_UNAVAILABLE);
    error_set(&err, REPLOG_ABORTED, "%2000d", 1);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
}

static void names_of_numbers(void **state) {
    (void)state;
    assert_string_equal(replog_status_name(REPLOG_OK), "OK");
    assert_string_equal(replog_status_name(REPLOG_DATA_LOSS), "DATA_LOSS");
    assert_string_equal(replog_status_name((replog_status)99), "UNKNOWN");
    assert_string_equal(replog_status_text(REPLOG_DATA_LOSS), "stored bytes are damaged");
    assert_non_null(replog_status_text((replog_status)99));
    assert_string_equal(replog_op_name(REPLOG_OP_PUT), "PUT");
    assert_string_equal(replog_op_name(REPLOG_OP_SESSION), "SESSION");
    assert_string_equal(replog_op_name((replog_op)3), "?");
}

/* The hash stands on disk: another one would make every log unreadable. */
static void the_hash_is_xxh3(void **state) {
    (void)state;
    assert_true(hash64("", 0) == 0x2d06800538d394c2ull);
    assert_true(hash64("a", 1) == 0xe6c632b61e964e1full);
}

static void clocks_and_dice(void **state) {
    (void)state;
    uint64_t before = clock_mono_ns();
    assert_true(clock_mono_ns() >= before);
    assert_true(clock_wall_us() > 1577836800000000ull); /* 2020 */
    assert_true(random_u64() != random_u64());
    uint64_t a = 5, b = 5;
    for (int i = 0; i < 100; i++) {
        uint64_t drawn = rng_between(&a, 3, 9);
        assert_true(drawn >= 3 && drawn <= 9);
        assert_true(drawn == rng_between(&b, 3, 9));
    }
}

/* What log_line wrote to stderr, as a string. */
static void capture_log(char *text, size_t size_bytes, void (*write_log)(void)) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    int saved = dup(STDERR_FILENO);
    dup2(ends[1], STDERR_FILENO);
    write_log();
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    ssize_t n = read(ends[0], text, size_bytes - 1);
    close(ends[0]);
    assert_true(n >= 0);
    text[n] = '\0';
}

static void write_some_lines(void) {
    log_info("plain %d", 1);
    log_debug("not shown");
    log_set_member(2);
    log_set_term(7);
    log_warn("two\nlines");
    log_set_member(0);
    log_set_term(0);
    log_set_level(LOG_ERROR);
    log_warn("not shown either");
    log_error("%3000d", 5);
    log_set_level(LOG_INFO);
}

static void a_log_line_is_one_line(void **state) {
    (void)state;
    char text[8192];
    capture_log(text, sizeof text, write_some_lines);
    assert_non_null(strstr(text, "Z INFO plain 1\n"));
    assert_non_null(strstr(text, "Z WARN member=2 term=7 two lines\n"));
    assert_null(strstr(text, "not shown"));
    size_t n_lines = 0;
    for (const char *p = text; *p; p++) n_lines += *p == '\n';
    assert_int_equal(n_lines, 3);
    assert_true(text[strlen(text) - 1] == '\n' && text[4] == '-' && text[10] == 'T');
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_little_endian),
        cmocka_unit_test(blobs_count_their_owners),
        cmocka_unit_test(buffers_grow),
        cmocka_unit_test(a_failed_buffer_drops_the_rest),
        cmocka_unit_test(cursors_stop_at_the_end),
        cmocka_unit_test(errors_carry_status_and_sentence),
        cmocka_unit_test(names_of_numbers),
        cmocka_unit_test(the_hash_is_xxh3),
        cmocka_unit_test(clocks_and_dice),
        cmocka_unit_test(a_log_line_is_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

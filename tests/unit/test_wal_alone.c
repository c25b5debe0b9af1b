/* A program that wants a write-ahead log and no cluster: it includes replog/wal.h and nothing else
 * of the project, links the library of the log only, and works on real files. */
#include <replog/wal.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tmp_dir.h"

/* A small store: the last value of eight keys, and what it has seen of the log. */
struct toy {
    char values[8][32];
    uint64_t applied;
};

static replog_status apply(const replog_record *r, void *user) {
    struct toy *toy = user;
    int i = ((const char *)r->key)[0] - 'a';
    if (r->op == REPLOG_OP_PUT)
        snprintf(toy->values[i], sizeof toy->values[i], "%.*s", (int)r->value_bytes,
                 (const char *)r->value);
    else
        toy->values[i][0] = '\0';
    toy->applied = r->seq;
    return REPLOG_OK;
}

static replog_write put(const char *key, const char *value) {
    return (replog_write){REPLOG_OP_PUT, key, strlen(key), value, strlen(value)};
}

static void assert_ok(replog_status status, const replog_error *err) {
    if (status) fail_msg("%s: %s", replog_status_name(status), err->text);
}

static replog_wal *open_log(const char *dir, replog_sync_mode sync) {
    replog_wal_options options = {.sync = sync, .segment_bytes = 64u << 10};
    replog_wal *wal = NULL;
    replog_error err;
    assert_ok(replog_wal_open(dir, &options, &wal, &err), &err);
    return wal;
}

/* Appends, a batch, the whole order of checkpoint and truncation, a restart, and a replay. */
static void use_it(const char *dir, replog_sync_mode sync) {
    replog_error err;
    replog_wal *wal = open_log(dir, sync);
    char text[32];
    for (int i = 0; i < 120; i++) {
        char key[2] = {(char)('a' + i % 8), '\0'};
        snprintf(text, sizeof text, "value %d", i);
        replog_write record = put(key, text);
        assert_ok(replog_wal_append(wal, &record, NULL, &err), &err);
    }
    replog_write batch[] = {put("a", "batched"), {REPLOG_OP_DELETE, "b", 1, NULL, 0}};
    uint64_t first = 0, last = 0, checkpoint = 0, new_first = 0;
    assert_ok(replog_wal_append_batch(wal, batch, 2, &first, &last, &err), &err);
    assert_true(first == 121 && last == 123);

    struct toy toy = {0};
    assert_ok(replog_wal_replay(wal, 0, apply, &toy, &err), &err);
    assert_true(toy.applied == 122);
    assert_ok(replog_wal_checkpoint(wal, &checkpoint, &err), &err);
    assert_ok(replog_wal_truncate(wal, 80, false, &new_first, &err), &err);
    assert_true(checkpoint == 124 && new_first == 81);
    replog_write record = put("c", "after");
    assert_ok(replog_wal_append(wal, &record, NULL, &err), &err);
    assert_ok(replog_wal_sync(wal, &err), &err);
    assert_ok(replog_wal_close(wal, &err), &err);

    wal = open_log(dir, sync);
    assert_ok(replog_wal_replay(wal, toy.applied, apply, &toy, &err), &err);
    assert_string_equal(toy.values[0], "batched");
    assert_string_equal(toy.values[1], "");
    assert_string_equal(toy.values[2], "after");
    assert_string_equal(toy.values[3], "value 115");
    assert_true(toy.applied == 125);
    assert_int_equal(replog_wal_replay(wal, 50, apply, &toy, &err), REPLOG_OUT_OF_RANGE);
    replog_wal_info info;
    replog_wal_stat(wal, &info);
    assert_true(info.first_seq == 81 && info.last_seq == 125 && info.checkpoint_seq == 124);
    assert_true(info.torn_bytes == 0 && info.size_bytes > 0);
    assert_ok(replog_wal_close(wal, &err), &err);
}

static void in_mode(replog_sync_mode sync) {
    char dir[TMP_DIR_BYTES], path[TMP_PATH_BYTES];
    tmp_dir_make(dir);
    use_it(tmp_dir_path(path, dir, "log"), sync);
    tmp_dir_remove(dir);
}

static void sync_always(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_ALWAYS);
}

static void sync_batch(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_BATCH);
}

static void sync_none(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_NONE);
}

/* A process that ends without a word loses nothing that an append returned, in any mode. */
static void a_killed_process_loses_nothing(void **state) {
    (void)state;
    for (int sync = REPLOG_SYNC_ALWAYS; sync <= REPLOG_SYNC_NONE; sync++) {
        char dir[TMP_DIR_BYTES], path[TMP_PATH_BYTES];
        tmp_dir_make(dir);
        tmp_dir_path(path, dir, "log");
        pid_t child = fork();
        if (child == 0) {
            replog_wal *wal = open_log(path, (replog_sync_mode)sync);
            replog_write record = put("a", "from a child");
            for (int i = 0; i < 20; i++)
                if (replog_wal_append(wal, &record, NULL, NULL)) _exit(1);
            _exit(0);
        }
        int result = -1;
        assert_int_equal(waitpid(child, &result, 0), child);
        assert_int_equal(result, 0);
        replog_wal *wal = open_log(path, (replog_sync_mode)sync);
        struct toy toy = {0};
        replog_error err;
        assert_ok(replog_wal_replay(wal, 0, apply, &toy, &err), &err);
        assert_true(toy.applied == 20);
        assert_string_equal(toy.values[0], "from a child");
        assert_ok(replog_wal_close(wal, &err), &err);
        tmp_dir_remove(dir);
    }
}

static void one_process_at_a_time(void **state) {
    (void)state;
    char dir[TMP_DIR_BYTES], path[TMP_PATH_BYTES];
    tmp_dir_make(dir);
    tmp_dir_path(path, dir, "log");
    replog_wal *wal = open_log(path, REPLOG_SYNC_ALWAYS), *second = NULL;
    replog_error err;
    assert_int_equal(replog_wal_open(path, NULL, &second, &err), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, path));
    assert_ok(replog_wal_close(wal, &err), &err);
    wal = open_log(path, REPLOG_SYNC_ALWAYS);
    assert_ok(replog_wal_close(wal, &err), &err);
    replog_wal_options options = {.must_exist = true};
    assert_int_equal(replog_wal_open(tmp_dir_path(path, dir, "none"), &options, &second, &err),
                     REPLOG_NOT_FOUND);
    tmp_dir_remove(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync_always),
        cmocka_unit_test(sync_batch),
        cmocka_unit_test(sync_none),
        cmocka_unit_test(a_killed_process_loses_nothing),
        cmocka_unit_test(one_process_at_a_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

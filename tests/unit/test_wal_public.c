/* replog/wal.h, call by call, on the disk in memory (so that power cuts and faults can be had). */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "wal/log.h"
#include "wal/public.h"

/* The error of a call that must succeed. */
static _Thread_local replog_error failure;
#define ERR (&failure)

#define assert_ok(call)                                                                            \
    do {                                                                                           \
        if (call) fail_msg("%s: %s", #call, failure.text);                                         \
    } while (0)

struct fixture {
    struct disk_mem *mem;
    replog_wal *wal;
};

static int setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->mem = disk_mem_new(0);
    *state = f;
    return 0;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    replog_wal_close(f->wal, NULL);
    disk_mem_free(f->mem);
    free(f);
    return 0;
}

/* ---- Shorthands */
static replog_status open_with(struct fixture *f, replog_wal_options options, replog_error *err) {
    assert_null(f->wal);
    if (!options.segment_bytes) options.segment_bytes = 64u << 10;
    return replog_wal_open_on(disk_mem_table(f->mem), "log", &options, &f->wal, err);
}

static void open_log(struct fixture *f, replog_sync_mode sync) {
    assert_ok(open_with(f, (replog_wal_options){.sync = sync}, ERR));
}

static void close_log(struct fixture *f) {
    assert_ok(replog_wal_close(f->wal, ERR));
    f->wal = NULL;
}

/* Power off and on. What the old handle does when it is closed reaches no disk any more. */
static void crash(struct fixture *f, enum disk_mem_loss loss) {
    disk_mem_crash(f->mem, loss, 1);
    replog_wal_close(f->wal, NULL);
    f->wal = NULL;
}

static replog_write put(const char *key, const char *value) {
    return (replog_write){REPLOG_OP_PUT, key, strlen(key), value, strlen(value)};
}

static uint64_t append(struct fixture *f, const char *key, const char *value) {
    replog_write record = put(key, value);
    uint64_t seq = 0;
    assert_ok(replog_wal_append(f->wal, &record, &seq, ERR));
    return seq;
}

/* Appends `n` records of 1,000 bytes. */
static void append_many(struct fixture *f, int n) {
    char value[1001];
    memset(value, 'v', 1000);
    value[1000] = '\0';
    for (int i = 0; i < n; i++) append(f, "many", value);
}

static replog_wal_info stat_of(struct fixture *f) {
    replog_wal_info info;
    replog_wal_stat(f->wal, &info);
    return info;
}

static replog_status print(const replog_record *r, void *user) {
    buffer_printf(user, "%d:%s", (int)r->seq, replog_op_name(r->op));
    if (r->op == REPLOG_OP_PUT || r->op == REPLOG_OP_DELETE)
        buffer_printf(user, "(%.*s=%.*s)", (int)r->key_bytes, (const char *)r->key,
                      (int)r->value_bytes, r->value ? (const char *)r->value : "");
    buffer_printf(user, " ");
    return r->term == 1 ? REPLOG_OK : REPLOG_INTERNAL;
}

static void assert_replay(struct fixture *f, uint64_t after, const char *expected) {
    struct buffer text = {0};
    assert_ok(replog_wal_replay(f->wal, after, print, &text, ERR));
    buffer_u8(&text, 0);
    assert_string_equal((const char *)text.data, expected);
    buffer_free(&text);
}

static void assert_iterate(struct fixture *f, uint64_t from, const char *expected) {
    struct buffer text = {0};
    assert_ok(replog_wal_iterate(f->wal, from, print, &text, ERR));
    buffer_u8(&text, 0);
    assert_string_equal((const char *)text.data, expected);
    buffer_free(&text);
}

static void assert_error(const replog_error *err, replog_status status, const char *text) {
    assert_int_equal(err->status, status);
    if (!strstr(err->text, text)) fail_msg("\"%s\" does not say \"%s\"", err->text, text);
}

static replog_status count(const replog_record *r, void *user) {
    (void)r;
    ++*(uint64_t *)user;
    return REPLOG_OK;
}

static void sleep_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* ---- Appending and reading */
static void a_new_log_is_empty(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    replog_wal_info info = stat_of(f);
    assert_true(info.first_seq == 1 && info.last_seq == 0 && info.checkpoint_seq == 0);
    assert_true(info.chain == 0 && info.torn_bytes == 0);
    assert_replay(f, 0, "");
    assert_iterate(f, 0, "");
    close_log(f);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_true(append(f, "a", "1") == 1);
}

static void records_come_back_in_order(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_true(append(f, "a", "1") == 1);
    replog_write batch[] = {put("b", "2"), {REPLOG_OP_DELETE, "a", 1, NULL, 0}, put("", "plain")};
    uint64_t first = 0, last = 0, seq = 0;
    assert_ok(replog_wal_append_batch(f->wal, batch, 3, &first, &last, ERR));
    assert_true(first == 2 && last == 5);
    assert_ok(replog_wal_checkpoint(f->wal, &seq, ERR));
    assert_true(seq == 6);
    assert_true(append(f, "c", "") == 7);
    for (int i = 0; i < 2; i++) { /* and again after a restart */
        assert_replay(f, 0, "1:PUT(a=1) 2:PUT(b=2) 3:DELETE(a=) 4:PUT(=plain) 7:PUT(c=) ");
        assert_replay(f, 2, "3:DELETE(a=) 4:PUT(=plain) 7:PUT(c=) ");
        assert_replay(f, 7, "");
        assert_iterate(f, 4, "4:PUT(=plain) 5:COMMIT 6:CHECKPOINT 7:PUT(c=) ");
        replog_wal_info info = stat_of(f);
        assert_true(info.first_seq == 1 && info.last_seq == 7 && info.durable_seq == 7);
        assert_true(info.checkpoint_seq == 6 && info.segments == 1 && info.chain != 0);
        close_log(f);
        open_log(f, REPLOG_SYNC_ALWAYS);
    }
}

static void what_cannot_be_appended(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    append(f, "a", "1");
    replog_error err;
    replog_write bad[] = {put("k", "v"), put("k", "v")};
    assert_int_equal(replog_wal_append_batch(f->wal, bad, 0, NULL, NULL, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_error(&err, REPLOG_INVALID_ARGUMENT, "at least one");
    bad[1].op = REPLOG_OP_COMMIT;
    assert_int_equal(replog_wal_append(f->wal, &bad[1], NULL, &err), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(replog_wal_append_batch(f->wal, bad, 2, NULL, NULL, &err),
                     REPLOG_INVALID_ARGUMENT);
    bad[1] = put("k", "v");
    bad[1].key_bytes = REPLOG_MAX_KEY_BYTES + 1;
    assert_int_equal(replog_wal_append(f->wal, &bad[1], NULL, &err), REPLOG_INVALID_ARGUMENT);
    assert_error(&err, REPLOG_INVALID_ARGUMENT, "65536");
    bad[1] = put("k", "v");
    bad[1].value_bytes = REPLOG_MAX_VALUE_BYTES + 1;
    assert_int_equal(replog_wal_append(f->wal, &bad[1], NULL, &err), REPLOG_INVALID_ARGUMENT);
    assert_error(&err, REPLOG_INVALID_ARGUMENT, "1048576");
    bad[1].value = NULL;
    assert_int_equal(replog_wal_append(f->wal, &bad[1], NULL, &err), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(replog_wal_append(f->wal, NULL, NULL, &err), REPLOG_INVALID_ARGUMENT);
    replog_write *many = calloc(REPLOG_MAX_BATCH_RECORDS + 1, sizeof *many);
    assert_non_null(many);
    for (size_t i = 0; i <= REPLOG_MAX_BATCH_RECORDS; i++) many[i] = put("", "");
    assert_int_equal(
        replog_wal_append_batch(f->wal, many, REPLOG_MAX_BATCH_RECORDS + 1, NULL, NULL, &err),
        REPLOG_INVALID_ARGUMENT);
    assert_error(&err, REPLOG_INVALID_ARGUMENT, "65535");
    uint64_t last = 0; /* but the largest batch is taken */
    assert_ok(replog_wal_append_batch(f->wal, many, REPLOG_MAX_BATCH_RECORDS, NULL, &last, ERR));
    assert_true(last == 1 + REPLOG_MAX_BATCH_RECORDS + 1);
    free(many);
}

static replog_status stop_at_three(const replog_record *r, void *user) {
    (void)user;
    return r->seq == 3 ? REPLOG_CANCELLED : REPLOG_OK;
}

/* replog/status.h promises it. */
static void success_leaves_the_error_alone(void **state) {
    struct fixture *f = *state;
    replog_error err = {REPLOG_ABORTED, "before"};
    for (int i = 0; i < 2; i++) {
        replog_write record = put("k", "v");
        uint64_t n = 0;
        assert_int_equal(open_with(f, (replog_wal_options){0}, &err), REPLOG_OK);
        assert_string_equal(err.text, "before");
        assert_int_equal(replog_wal_append(f->wal, &record, NULL, &err), REPLOG_OK);
        assert_int_equal(replog_wal_append_batch(f->wal, &record, 1, NULL, NULL, &err), REPLOG_OK);
        assert_int_equal(replog_wal_checkpoint(f->wal, NULL, &err), REPLOG_OK);
        assert_int_equal(replog_wal_truncate(f->wal, 1, false, NULL, &err), REPLOG_OK);
        assert_int_equal(replog_wal_sync(f->wal, &err), REPLOG_OK);
        assert_int_equal(replog_wal_replay(f->wal, 1, count, &n, &err), REPLOG_OK);
        assert_int_equal(replog_wal_close(f->wal, &err), REPLOG_OK);
        f->wal = NULL;
        assert_string_equal(err.text, "before");
        assert_int_equal(err.status, REPLOG_ABORTED);
    }
}

static void ranges_and_callbacks(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    for (int i = 0; i < 4; i++) append(f, "k", "v");
    replog_error err;
    uint64_t n = 0;
    assert_int_equal(replog_wal_replay(f->wal, 5, count, &n, &err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(err.status, REPLOG_OUT_OF_RANGE);
    assert_int_equal(replog_wal_replay(f->wal, UINT64_MAX, count, &n, &err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(replog_wal_iterate(f->wal, 6, count, &n, &err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(replog_wal_replay(f->wal, 0, stop_at_three, NULL, &err), REPLOG_CANCELLED);
    assert_error(&err, REPLOG_CANCELLED, "seq 3");
    assert_int_equal(n, 0);
}

/* ---- Opening */
static void what_cannot_be_opened(void **state) {
    struct fixture *f = *state;
    replog_error err;
    assert_int_equal(open_with(f, (replog_wal_options){.must_exist = true}, &err),
                     REPLOG_NOT_FOUND);
    assert_int_equal(open_with(f, (replog_wal_options){.read_only = true}, &err), REPLOG_NOT_FOUND);
    assert_int_equal(open_with(f, (replog_wal_options){.segment_bytes = 65535}, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_error(&err, REPLOG_INVALID_ARGUMENT, "65536");
    assert_int_equal(open_with(f, (replog_wal_options){.sync = (replog_sync_mode)3}, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_int_equal(replog_wal_open_on(disk_mem_table(f->mem), "", NULL, &f->wal, &err),
                     REPLOG_INVALID_ARGUMENT);
    open_log(f, REPLOG_SYNC_ALWAYS);
    replog_wal *second = NULL;
    assert_int_equal(replog_wal_open_on(disk_mem_table(f->mem), "log", NULL, &second, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_null(second);
    close_log(f);
    assert_ok(open_with(f, (replog_wal_options){.must_exist = true}, ERR));
    assert_int_equal(replog_wal_close(NULL, &err), REPLOG_OK);
}

static void read_only_changes_nothing(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    append(f, "a", "1");
    assert_ok(replog_wal_checkpoint(f->wal, NULL, ERR));
    close_log(f);
    assert_ok(open_with(f, (replog_wal_options){.read_only = true}, ERR));
    replog_error err;
    replog_write record = put("b", "2");
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, &err), REPLOG_FAILED_PRECONDITION);
    assert_error(&err, REPLOG_FAILED_PRECONDITION, "read-only");
    assert_int_equal(replog_wal_append_batch(f->wal, &record, 1, NULL, NULL, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_int_equal(replog_wal_checkpoint(f->wal, NULL, &err), REPLOG_FAILED_PRECONDITION);
    assert_int_equal(replog_wal_truncate(f->wal, 1, true, NULL, &err), REPLOG_FAILED_PRECONDITION);
    assert_int_equal(replog_wal_sync(f->wal, &err), REPLOG_FAILED_PRECONDITION);
    assert_iterate(f, 0, "1:PUT(a=1) 2:CHECKPOINT ");
    assert_true(stat_of(f).checkpoint_seq == 2);
    close_log(f);
}

static void a_members_directory_is_for_reading_only(void **state) {
    struct fixture *f = *state;
    struct wal *log = NULL;
    struct wal_options options = {.disk = disk_mem_table(f->mem),
                                  .dir = "log",
                                  .member_id = 3,
                                  .new_incarnation = 77,
                                  .create = true};
    assert_ok(wal_open(&options, &log, ERR));
    struct block_builder b;
    struct block_header h = {.first_seq = 1, .term = 1};
    block_begin(&b);
    assert_ok(block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)"k", 1},
                        (struct slice){0}, ERR));
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    assert_non_null(blob);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    struct slice piece = {blob->data, blob->size_bytes};
    assert_ok(wal_append(log, &piece, 1, NULL, ERR));
    assert_ok(wal_sync(log, ERR));
    blob_unref(blob);
    wal_close(log);
    replog_error err;
    assert_int_equal(open_with(f, (replog_wal_options){0}, &err), REPLOG_FAILED_PRECONDITION);
    assert_error(&err, REPLOG_FAILED_PRECONDITION, "3");
    assert_ok(open_with(f, (replog_wal_options){.read_only = true}, ERR));
    assert_iterate(f, 0, "1:PUT(k=) ");
}

/* ---- Checkpoint and truncation */
static void truncation_needs_a_checkpoint(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    replog_error err;
    uint64_t first = 0;
    for (int i = 0; i < 3; i++) append(f, "k", "v");
    assert_int_equal(replog_wal_truncate(f->wal, 1, false, &first, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_error(&err, REPLOG_FAILED_PRECONDITION, "checkpoint (0)");
    assert_int_equal(replog_wal_truncate(f->wal, 4, true, &first, &err), REPLOG_OUT_OF_RANGE);
    assert_error(&err, REPLOG_OUT_OF_RANGE, "3");
    assert_ok(replog_wal_checkpoint(f->wal, NULL, ERR)); /* 4 */
    append(f, "k", "5");
    assert_int_equal(replog_wal_truncate(f->wal, 5, false, &first, &err),
                     REPLOG_FAILED_PRECONDITION);
    assert_int_equal(first, 0);
    assert_ok(replog_wal_truncate(f->wal, 2, false, &first, ERR));
    assert_int_equal(first, 3);
    assert_ok(replog_wal_truncate(f->wal, 1, false, &first, ERR)); /* is gone */
    assert_int_equal(first, 3);
    uint64_t n = 0;
    assert_int_equal(replog_wal_replay(f->wal, 1, count, &n, &err), REPLOG_OUT_OF_RANGE);
    assert_error(&err, REPLOG_OUT_OF_RANGE, "3");
    assert_int_equal(replog_wal_iterate(f->wal, 2, count, &n, &err), REPLOG_OUT_OF_RANGE);
    close_log(f);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_iterate(f, 0, "3:PUT(k=v) 4:CHECKPOINT 5:PUT(k=5) ");
    assert_replay(f, 2, "3:PUT(k=v) 5:PUT(k=5) ");
    assert_ok(replog_wal_truncate(f->wal, 5, true, &first, ERR)); /* forced: all of it */
    assert_int_equal(first, 6);
    assert_iterate(f, 0, "");
    close_log(f);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_true(stat_of(f).first_seq == 6 && stat_of(f).last_seq == 5);
    assert_true(append(f, "k", "6") == 6);
}

static void truncation_rounds_down_to_a_batch(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    replog_write batch[] = {put("a", "1"), put("b", "2")};
    assert_ok(replog_wal_append_batch(f->wal, batch, 2, NULL, NULL, ERR)); /* 1 to 3 */
    assert_ok(replog_wal_append_batch(f->wal, batch, 2, NULL, NULL, ERR)); /* 4 to 6 */
    uint64_t first = 0;
    assert_ok(replog_wal_truncate(f->wal, 2, true, &first, ERR));
    assert_int_equal(first, 1);
    assert_ok(replog_wal_truncate(f->wal, 5, true, &first, ERR));
    assert_int_equal(first, 4);
    assert_replay(f, 3, "4:PUT(a=1) 5:PUT(b=2) ");
}

static void the_last_checkpoint_is_found_again(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_NONE);
    append_many(f, 200); /* several segments */
    assert_ok(replog_wal_checkpoint(f->wal, NULL, ERR));
    assert_true(stat_of(f).checkpoint_seq == 201);
    append_many(f, 200);
    assert_true(stat_of(f).segments > 4);
    close_log(f);
    open_log(f, REPLOG_SYNC_NONE);
    assert_true(stat_of(f).checkpoint_seq == 201);
    replog_error err;
    assert_int_equal(replog_wal_truncate(f->wal, 202, false, NULL, &err),
                     REPLOG_FAILED_PRECONDITION);
    uint32_t segments = stat_of(f).segments;
    uint64_t size = stat_of(f).size_bytes;
    assert_ok(replog_wal_truncate(f->wal, 201, false, NULL, ERR));
    assert_true(stat_of(f).segments < segments && stat_of(f).size_bytes < size);
    uint64_t n = 0;
    assert_ok(replog_wal_replay(f->wal, 201, count, &n, ERR));
    assert_int_equal(n, 200);
}

struct truncating {
    struct fixture *f;
    uint64_t at, upto, n, last;
};

static replog_status truncate_when_there(const replog_record *r, void *user) {
    struct truncating *t = user;
    assert_true(r->seq == t->last + 1);
    t->last = r->seq;
    t->n++;
    if (r->seq == t->at) assert_ok(replog_wal_truncate(t->f->wal, t->upto, true, NULL, ERR));
    return REPLOG_OK;
}

static void truncation_under_a_reader(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_NONE);
    append_many(f, 400);
    struct truncating t = {.f = f, .at = 200, .upto = 150};
    assert_ok(replog_wal_replay(f->wal, 0, truncate_when_there, &t, ERR));
    assert_int_equal(t.n, 400);
    t = (struct truncating){.f = f, .at = 200, .upto = 390, .last = 150};
    replog_error err;
    assert_int_equal(replog_wal_replay(f->wal, 150, truncate_when_there, &t, &err),
                     REPLOG_OUT_OF_RANGE); /* the rest is gone, and it says so */
    assert_error(&err, REPLOG_OUT_OF_RANGE, "391");
    assert_true(t.last >= 200 && t.last < 390);
}

/* ---- When records are durable */
static void always_is_durable_before_return(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    append(f, "a", "1");
    append(f, "b", "2");
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_replay(f, 0, "1:PUT(a=1) 2:PUT(b=2) ");
}

static void none_is_durable_when_asked(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_NONE);
    append(f, "a", "1");
    assert_ok(replog_wal_sync(f->wal, ERR));
    append(f, "b", "2");
    assert_true(stat_of(f).durable_seq == 1 && stat_of(f).last_seq == 2);
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_NONE);
    assert_replay(f, 0, "1:PUT(a=1) ");
    replog_write batch[] = {put("c", "3")};
    append(f, "b", "2");
    assert_ok(replog_wal_append_batch(f->wal, batch, 1, NULL, NULL, ERR));
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_NONE);
    assert_replay(f, 0, "1:PUT(a=1) 2:PUT(b=2) 3:PUT(c=3) ");
    append(f, "d", "4");
    assert_ok(replog_wal_checkpoint(f->wal, NULL, ERR));
    append(f, "e", "5");
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_NONE);
    assert_iterate(f, 4, "4:COMMIT 5:PUT(d=4) 6:CHECKPOINT ");
    assert_true(stat_of(f).checkpoint_seq == 6);
    append(f, "f", "7");
    close_log(f); /* syncs */
    disk_mem_crash(f->mem, DISK_LOSE_ALL, 0);
    open_log(f, REPLOG_SYNC_NONE);
    assert_replay(f, 6, "7:PUT(f=7) ");
}

/* Idleness marks what is durable; it makes nothing durable. */
static void nothing_is_synced_unasked(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_NONE);
    append(f, "a", "1");
    sleep_ms(400); /* the idle mark would be due four times */
    assert_int_equal(stat_of(f).durable_seq, 0);
}

static void batch_is_durable_within_its_bounds(void **state) {
    struct fixture *f = *state;
    assert_ok(open_with(
        f, (replog_wal_options){.sync = REPLOG_SYNC_BATCH, .batch_ms = 30, .batch_bytes = 4000},
        ERR));
    uint64_t begin_ms = clock_mono_ms();
    append(f, "a", "1");
    while (stat_of(f).durable_seq == 0 && clock_mono_ms() - begin_ms < 5000) sleep_ms(1);
    assert_true(stat_of(f).durable_seq == 1); /* without a further call */
    assert_true(clock_mono_ms() - begin_ms >= 30);
    crash(f, DISK_LOSE_ALL);
    assert_ok(open_with(
        f, (replog_wal_options){.sync = REPLOG_SYNC_BATCH, .batch_ms = 60000, .batch_bytes = 4000},
        ERR));
    append_many(f, 3);
    assert_true(stat_of(f).durable_seq == 1);
    append_many(f, 1); /* 4,000 bytes are full */
    assert_true(stat_of(f).durable_seq == 5);
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_BATCH);
    assert_true(stat_of(f).last_seq == 5);
}

/* Its files and directories may take long, and the sync that is due cannot come in between. */
static void truncation_keeps_no_batch_waiting(void **state) {
    struct fixture *f = *state;
    assert_ok(open_with(
        f,
        (replog_wal_options){.sync = REPLOG_SYNC_BATCH, .batch_ms = 60000, .batch_bytes = 1 << 20},
        ERR));
    append_many(f, 3);
    assert_ok(replog_wal_checkpoint(f->wal, NULL, ERR));
    append(f, "a", "1");
    assert_true(stat_of(f).durable_seq < stat_of(f).last_seq);
    assert_ok(replog_wal_truncate(f->wal, 2, false, NULL, ERR));
    assert_true(stat_of(f).durable_seq == stat_of(f).last_seq);
}

/* Where in the log's files the text stands. */
struct search {
    struct fixture *f;
    const char *text;
    char path[256];
    uint64_t offset;
};

static void search_file(const char *name, void *user) {
    struct search *s = user;
    const struct disk *disk = disk_mem_table(s->f->mem);
    static uint8_t bytes[256 << 10];
    char path[256];
    size_t n = 0, length = strlen(s->text);
    struct disk_file *file = NULL;
    snprintf(path, sizeof path, "log/%s", name);
    assert_ok(disk->open(disk->ctx, path, DISK_READ, &file, ERR));
    assert_ok(disk->read(file, bytes, sizeof bytes, 0, &n, ERR));
    disk->close(file);
    for (size_t i = 0; i + length <= n; i++) {
        if (memcmp(bytes + i, s->text, length) != 0) continue;
        snprintf(s->path, sizeof s->path, "%s", path);
        s->offset = i;
    }
}

static void damage(struct fixture *f, const char *text) {
    const struct disk *disk = disk_mem_table(f->mem);
    struct search s = {.f = f, .text = text};
    assert_ok(disk->list(disk->ctx, "log", search_file, &s, ERR));
    assert_true(s.path[0] != '\0');
    assert_int_equal(disk_mem_damage(f->mem, s.path, s.offset, 1), REPLOG_OK);
}

/* A log whose last record is "needle", crashed before the mark could come that 100 ms of idleness
 * give; again and again, should the machine stand still meanwhile. */
static void crash_before_the_mark(struct fixture *f) {
    for (uint64_t took_ms = 100, tries = 0; took_ms >= 90; tries++) {
        assert_true(tries < 100);
        disk_mem_free(f->mem);
        f->mem = disk_mem_new(0);
        open_log(f, REPLOG_SYNC_ALWAYS);
        append(f, "a", "first");
        uint64_t begin_ms = clock_mono_ms();
        append(f, "b", "needle");
        crash(f, DISK_LOSE_NONE);
        took_ms = clock_mono_ms() - begin_ms;
    }
}

/* The mark after 100 ms of idleness turns a damaged last record from "torn" into "rot". */
static void an_idle_log_proves_its_tail(void **state) {
    struct fixture *f = *state;
    crash_before_the_mark(f);
    damage(f, "needle");
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_replay(f, 0, "1:PUT(a=first) ");
    append(f, "c", "needle");
    sleep_ms(1000);
    crash(f, DISK_LOSE_ALL); /* the mark is synced, too */
    damage(f, "needle");
    replog_error err;
    assert_int_equal(open_with(f, (replog_wal_options){0}, &err), REPLOG_DATA_LOSS);
    assert_error(&err, REPLOG_DATA_LOSS, "log/");
    damage(f, "oeedle"); /* repaired */
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_replay(f, 0, "1:PUT(a=first) 2:PUT(c=needle) ");
    close_log(f); /* writes a mark, too */
    damage(f, "needle");
    assert_int_equal(open_with(f, (replog_wal_options){0}, &err), REPLOG_DATA_LOSS);
}

/* Also when the sync that comes first comes later than that. */
static void an_idle_batch_proves_its_tail(void **state) {
    struct fixture *f = *state;
    assert_ok(open_with(f, (replog_wal_options){.sync = REPLOG_SYNC_BATCH, .batch_ms = 250}, ERR));
    uint64_t begin_ms = clock_mono_ms();
    append(f, "a", "first");
    append(f, "b", "needle");
    sleep_ms(150);
    uint64_t durable_seq = stat_of(f).durable_seq;
    if (clock_mono_ms() - begin_ms < 250) assert_int_equal(durable_seq, 0); /* the mark waits */
    while (stat_of(f).durable_seq < 2 && clock_mono_ms() - begin_ms < 20000) sleep_ms(5);
    sleep_ms(1000);
    crash(f, DISK_LOSE_ALL);
    damage(f, "needle");
    replog_error err;
    assert_int_equal(open_with(f, (replog_wal_options){0}, &err), REPLOG_DATA_LOSS);
}

/* ---- Faults */
static void a_failed_sync_breaks_the_log(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    append(f, "a", "1");
    disk_mem_fail_syncs(f->mem, 1);
    replog_write record = put("b", "2");
    replog_error err;
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, &err), REPLOG_UNAVAILABLE);
    assert_int_equal(err.status, REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, &err), REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_append_batch(f->wal, &record, 1, NULL, NULL, &err),
                     REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_checkpoint(f->wal, NULL, &err), REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_sync(f->wal, &err), REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_truncate(f->wal, 1, true, NULL, &err), REPLOG_UNAVAILABLE);
    assert_true(stat_of(f).durable_seq == 1);
    uint64_t n = 0;
    assert_ok(replog_wal_replay(f->wal, 0, count, &n, ERR)); /* reads go on */
    assert_int_equal(replog_wal_close(f->wal, &err), REPLOG_UNAVAILABLE);
    f->wal = NULL;
    open_log(f, REPLOG_SYNC_ALWAYS); /* what the page cache still serves is written again */
    uint64_t last = stat_of(f).last_seq;
    assert_true(last == 1 || last == 2);
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_true(stat_of(f).last_seq == last);
}

static void a_failed_write_breaks_the_log(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_NONE);
    append(f, "a", "1");
    append(f, "a", "2"); /* grows the file, so that the next write is the group alone */
    disk_mem_fail_writes(f->mem, 1);
    char value[8000]; /* so that the half which stands is not a whole record */
    memset(value, 'v', sizeof value);
    replog_write record = {REPLOG_OP_PUT, "b", 1, value, sizeof value};
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, NULL), REPLOG_UNAVAILABLE);
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, NULL), REPLOG_UNAVAILABLE);
    replog_wal_close(f->wal, NULL);
    f->wal = NULL;
    open_log(f, REPLOG_SYNC_NONE);
    assert_replay(f, 0, "1:PUT(a=1) 2:PUT(a=2) ");
    assert_true(append(f, "b", "2") == 3);
}

static void a_full_disk_passes(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_ALWAYS);
    append(f, "a", "1");
    disk_mem_set_capacity(f->mem, 1); /* not a byte more */
    char value[1000];
    memset(value, 'x', sizeof value);
    replog_write record = {REPLOG_OP_PUT, "k", 1, value, sizeof value};
    replog_error err = {0};
    uint64_t n_taken = 0;
    replog_status status;
    while (!(status = replog_wal_append(f->wal, &record, NULL, &err))) /* what is reserved */
        assert_true(++n_taken < 2000);
    assert_int_equal(status, REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(replog_wal_append(f->wal, &record, NULL, &err), REPLOG_RESOURCE_EXHAUSTED);
    assert_error(&err, REPLOG_RESOURCE_EXHAUSTED, "space");
    uint64_t n = 0;
    assert_ok(replog_wal_replay(f->wal, 0, count, &n, ERR));
    assert_true(n == n_taken + 1 && stat_of(f).last_seq == n);
    disk_mem_set_capacity(f->mem, 0);
    uint64_t seq = 0;
    assert_ok(replog_wal_append(f->wal, &record, &seq, ERR)); /* by itself */
    assert_true(seq == n_taken + 2);
    crash(f, DISK_LOSE_ALL);
    open_log(f, REPLOG_SYNC_ALWAYS);
    assert_true(stat_of(f).last_seq == n_taken + 2);
}

/* ---- Threads */
/* In a thread, where cmocka cannot fail a test. */
static void must(bool good) {
    if (!good) abort();
}

static void *write_some(void *arg) {
    struct fixture *f = arg;
    replog_write batch[] = {put("b", "1"), put("b", "2")};
    for (int i = 0; i < 50; i++) {
        uint64_t first = 0, last = 0;
        must(replog_wal_append(f->wal, batch, NULL, NULL) == REPLOG_OK);
        must(replog_wal_append_batch(f->wal, batch, 2, &first, &last, NULL) == REPLOG_OK);
        must(last == first + 2);
    }
    return NULL;
}

struct reading {
    uint64_t last, n_batches;
};

static replog_status check_order(const replog_record *r, void *user) {
    struct reading *reading = user;
    must(r->seq == reading->last + 1);
    reading->last = r->seq;
    reading->n_batches += r->op == REPLOG_OP_COMMIT;
    return REPLOG_OK;
}

static void *read_some(void *arg) {
    struct fixture *f = arg;
    for (int i = 0; i < 20; i++) {
        struct reading reading = {0};
        must(replog_wal_iterate(f->wal, 1, check_order, &reading, NULL) == REPLOG_OK);
        sleep_ms(1);
    }
    return NULL;
}

static void threads_share_a_log(void **state) {
    struct fixture *f = *state;
    open_log(f, REPLOG_SYNC_BATCH);
    pthread_t threads[3];
    void *(*work[])(void *) = {write_some, write_some, read_some};
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, work[i], f), 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    struct reading reading = {0};
    assert_ok(replog_wal_iterate(f->wal, 0, check_order, &reading, ERR));
    assert_true(reading.last == 400 && reading.n_batches == 100);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_new_log_is_empty),
        TEST(records_come_back_in_order),
        TEST(what_cannot_be_appended),
        TEST(success_leaves_the_error_alone),
        TEST(ranges_and_callbacks),
        TEST(what_cannot_be_opened),
        TEST(read_only_changes_nothing),
        TEST(a_members_directory_is_for_reading_only),
        TEST(truncation_needs_a_checkpoint),
        TEST(truncation_keeps_no_batch_waiting),
        TEST(truncation_rounds_down_to_a_batch),
        TEST(the_last_checkpoint_is_found_again),
        TEST(truncation_under_a_reader),
        TEST(always_is_durable_before_return),
        TEST(none_is_durable_when_asked),
        TEST(nothing_is_synced_unasked),
        TEST(batch_is_durable_within_its_bounds),
        TEST(an_idle_log_proves_its_tail),
        TEST(an_idle_batch_proves_its_tail),
        TEST(a_failed_sync_breaks_the_log),
        TEST(a_failed_write_breaks_the_log),
        TEST(a_full_disk_passes),
        TEST(threads_share_a_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

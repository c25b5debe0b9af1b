/* The log of wal/log.h in good weather: append, read, roll, reopen, mark, prepare, a full disk,
 * real files, readers beside a writer. */
#include "base/error.h"
#include "wal/recent.h"
#include "wal_world.h"

#include <pthread.h>
#include <time.h>

#include "tmp_dir.h"

static void test_empty(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    assert_int_equal(wal_first_seq(w->wal), 1);
    assert_int_equal(wal_tail(w->wal).seq, 0);
    assert_int_equal(wal_term_runs(w->wal, NULL, 0), 0);
    assert_int_equal(wal_identity(w->wal).incarnation, 77);
    assert_int_equal(wal_identity(w->wal).founding, WAL_STANDALONE);
    world_check(w);
    world_ok(w, wal_mark(w->wal, &w->err));
    world_ok(w, wal_sync(w->wal, &w->err));
    world_ok(w, wal_cut(w->wal, 0, &w->err));
    world_ok(w, wal_truncate(w->wal, 10, NULL, &w->err));
    world_reopen(w);
    world_check(w);
    struct wal *second;
    assert_int_equal(wal_open(&w->options, &second, &w->err), REPLOG_FAILED_PRECONDITION);
    world_free(w);
}

static void test_append_roll_reopen(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    for (int round = 0; round < 4; round++) {
        for (size_t i = 0; i < 40; i++)
            world_ok(w, world_append(w, (uint64_t)(round + 1), 1 + i % 4, (i * 37) % 2500));
        assert_true(wal_durable(w->wal).seq < wal_tail(w->wal).seq);
        world_ok(w, world_sync(w));
        world_assert_pos(wal_durable(w->wal), wal_tail(w->wal));
        world_check(w);
        world_reopen(w);
        assert_int_equal(wal_torn_bytes(w->wal), 0);
        world_check(w);
    }
    assert_true(wal_n_segments(w->wal) > 5);
    assert_true(wal_size_bytes(w->wal) > UINT64_C(160) * 4096);
    world_free(w);
}

/* Several pieces in one append, pieces of several blocks, blocks larger than a segment. */
static void test_pieces(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    struct slice pieces[40];
    for (size_t i = 0; i < 40; i++) pieces[i] = world_make(w, 1, 1, i == 20 ? 300000 : 100 * i);
    size_t written = 0;
    world_ok(w, wal_append(w->wal, pieces, 40, &written, &w->err));
    assert_int_equal(written, 40);
    w->n = 40;
    world_ok(w, world_sync(w));
    struct buffer joined = {0};
    for (size_t i = 0; i < 10; i++) {
        struct slice s = world_make(w, 2 + i / 3, 2, 700);
        buffer_append(&joined, s.data, s.size_bytes);
    }
    struct slice piece = {joined.data, joined.size_bytes};
    world_ok(w, wal_append(w->wal, &piece, 1, &written, &w->err));
    buffer_free(&joined);
    w->n = 50;
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_free(w);
}

/* More changes of term than a seal has room for: the groups are read at open instead. */
static void test_many_terms(void **state) {
    (void)state;
    enum { N = 2500 };
    struct world *w = world_new();
    world_ok(w, world_open(w));
    struct buffer joined = {0};
    for (size_t i = 0; i < N; i++) {
        struct slice s = world_make(w, i + 1, 1, 3);
        buffer_append(&joined, s.data, s.size_bytes);
    }
    struct slice piece = {joined.data, joined.size_bytes};
    world_ok(w, wal_append(w->wal, &piece, 1, NULL, &w->err));
    buffer_free(&joined);
    w->n = N;
    world_fill(w, N + 1, 3, 5000);
    assert_true(wal_n_segments(w->wal) > 1);
    struct wal_term_run *runs = calloc(N + 1, sizeof *runs);
    assert_non_null(runs);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(wal_term_runs(w->wal, runs, N + 1), N + 1);
        for (size_t k = 0; k <= N; k++) {
            assert_int_equal(runs[k].term, k + 1);
            assert_int_equal(runs[k].first_seq, k + 1);
        }
        world_reopen(w);
    }
    free(runs);
    world_read(w, 1, 0, w->n);
    world_free(w);
}

static void test_refused_appends(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 3, 2, 10);
    size_t written = 9;
    struct slice good = world_make(w, 3, 1, 50);
    uint8_t copy[4096];
    memcpy(copy, good.data, good.size_bytes);
    copy[good.size_bytes - 1] ^= 1;
    struct slice bad = {copy, good.size_bytes};
    assert_int_equal(wal_append(w->wal, &bad, 1, &written, &w->err), REPLOG_DATA_LOSS);
    assert_int_equal(written, 0);
    struct slice twice[2] = {good, good};
    assert_int_equal(wal_append(w->wal, twice, 2, &written, &w->err), REPLOG_DATA_LOSS);
    assert_int_equal(written, 0);
    world_forget(w, w->n);
    assert_int_equal(world_append(w, 2, 1, 5), REPLOG_DATA_LOSS); /* a lower term */
    world_forget(w, w->n);
    struct slice empty = {copy, 0};
    assert_int_equal(wal_append(w->wal, &empty, 1, NULL, &w->err), REPLOG_INVALID_ARGUMENT);
    world_check(w);
    world_ok(w, world_append(w, 3, 1, 5));
    assert_false(wal_broken(w->wal));
    world_free(w);
}

static void test_read_bounds(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 30, 900);
    struct wal_reader *reader;
    uint64_t tail = wal_tail(w->wal).seq;
    assert_int_equal(wal_reader_open(w->wal, 0, &reader, &w->err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(wal_reader_open(w->wal, tail + 2, &reader, &w->err), REPLOG_OUT_OF_RANGE);
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, 2, &reader, &w->err));
    assert_int_equal(wal_reader_next(reader, 1, &h, &bytes, NULL), REPLOG_NOT_FOUND);
    assert_int_equal(wal_reader_next(reader, 3, &h, &bytes, NULL), REPLOG_NOT_FOUND);
    assert_int_equal(wal_reader_next(reader, 4, &h, &bytes, NULL), REPLOG_OK);
    assert_int_equal(h.first_seq, 2); /* seqs 2 and 3 and a COMMIT */
    wal_reader_close(reader);
    /* A reader at the end follows what comes, over the borders of segments. */
    world_ok(w, wal_reader_open(w->wal, tail + 1, &reader, &w->err));
    for (int i = 0; i < 60; i++) {
        assert_int_equal(wal_reader_next(reader, UINT64_MAX, &h, &bytes, NULL), REPLOG_NOT_FOUND);
        world_ok(w, world_append(w, 1, 1, 2000));
        if (i % 7 == 0) world_ok(w, world_sync(w));
        if (i % 14 == 0) world_ok(w, wal_mark(w->wal, &w->err));
        assert_int_equal(wal_reader_next(reader, UINT64_MAX, &h, &bytes, NULL), REPLOG_OK);
        assert_int_equal(h.hash, w->blocks[w->n - 1].h.hash);
    }
    wal_reader_close(reader);
    world_free(w);
}

/* Five megabytes that are appended as one group, which takes several writes. */
static replog_status append_large(struct world *w) {
    struct buffer piece = {0};
    size_t before = w->n_tried;
    for (size_t i = 0; i < 5; i++) {
        struct slice block = world_make(w, 1, 1, 1000000 + i);
        buffer_append(&piece, block.data, block.size_bytes);
    }
    assert_true(!piece.failed && piece.size_bytes > (size_t)2 * RECENT_WRITE_BYTES);
    struct slice whole = {piece.data, piece.size_bytes};
    replog_status status = wal_append(w->wal, &whole, 1, NULL, &w->err);
    if (!status) w->n = w->n_tried;
    if (status == REPLOG_RESOURCE_EXHAUSTED) world_forget(w, before);
    buffer_free(&piece);
    return status;
}

static struct world *large_world(bool buffered) {
    struct world *w = world_new();
    w->options.segment_bytes = 16 << 20;
    w->options.buffered = buffered;
    world_ok(w, world_open(w));
    world_fill(w, 1, 2, 100);
    return w;
}

static void large_group(bool buffered) {
    struct world *w = large_world(buffered);
    world_ok(w, append_large(w));
    world_check(w);
    world_ok(w, world_sync(w));
    world_fill(w, 1, 3, 100);
    world_check(w);
    world_crash(w, DISK_LOSE_ALL, 1);
    world_check(w);
    world_free(w);
}

static void test_large_group(void **state) {
    (void)state;
    large_group(false);
    large_group(true);
}

/* The power goes at each of its writes, or at the sync. */
static void test_large_group_cut(void **state) {
    (void)state;
    unsigned n_cut = 0;
    for (unsigned call = 1; call <= 8; call++) {
        for (int loss = DISK_LOSE_ALL; loss <= DISK_LOSE_RANDOM; loss++) {
            struct world *w = large_world(false);
            disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + call);
            replog_status status = append_large(w);
            if (!status) status = world_sync(w);
            n_cut += status != REPLOG_OK;
            world_crash(w, (enum disk_mem_loss)loss, call);
            world_check(w);
            world_fill(w, 1, 3, 100);
            world_check(w);
            world_free(w);
        }
    }
    assert_true(n_cut >= 3 * 3);
}

static const struct disk *full_disk_under;
static unsigned n_direct, full_at;

static replog_status write_or_full(struct disk_file *file, const struct iovec *pieces, size_t n,
                                   uint64_t offset, replog_error *err) {
    if (++n_direct == full_at) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "the disk is full");
    return full_disk_under->write_direct(file, pieces, n, offset, err);
}

/* The disk is full at the second of its writes, and has room again. */
static void test_large_group_full(void **state) {
    (void)state;
    struct world *w = large_world(false);
    struct disk disk = *w->options.disk;
    full_disk_under = w->options.disk;
    disk.write_direct = write_or_full;
    w->options.disk = &disk;
    world_reopen(w);
    n_direct = 0;
    full_at = 2;
    assert_int_equal(append_large(w), REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(n_direct, 2);
    world_check(w);
    world_ok(w, append_large(w));
    world_check(w);
    world_ok(w, world_sync(w));
    world_crash(w, DISK_LOSE_ALL, 1);
    world_check(w);
    world_free(w);
}

static void test_mark_and_prepare(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 3, 100);
    uint64_t size = wal_size_bytes(w->wal);
    world_ok(w, wal_mark(w->wal, &w->err));
    assert_int_equal(wal_size_bytes(w->wal), size + 4096);
    world_ok(w, wal_mark(w->wal, &w->err)); /* covered already */
    assert_int_equal(wal_size_bytes(w->wal), size + 4096);
    bool more = true;
    for (int i = 0; more && i < 10; i++) world_ok(w, wal_prepare(w->wal, &more, &w->err));
    assert_false(more);
    world_fill(w, 1, 60, 1500);
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_free(w);
}

static void full_disk(uint64_t capacity_bytes) {
    struct world *w = world_new();
    world_ok(w, world_open(w));
    disk_mem_set_capacity(w->mem, capacity_bytes);
    replog_status status = REPLOG_OK;
    while (!status) {
        status = world_append(w, 1, 1, 5000);
        if (!status) status = world_sync(w);
    }
    assert_int_equal(status, REPLOG_RESOURCE_EXHAUSTED);
    assert_false(wal_broken(w->wal));
    world_forget(w, w->n);
    world_check(w);
    assert_int_equal(world_append(w, 1, 1, 5000), REPLOG_RESOURCE_EXHAUSTED);
    world_forget(w, w->n);
    disk_mem_set_capacity(w->mem, 0);
    world_fill(w, 1, 20, 5000);
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_free(w);
}

/* The space ends at every page of a segment, its roll included. */
static void test_full_disk(void **state) {
    (void)state;
    for (uint64_t pages = 50; pages < 70; pages++) full_disk(pages * 4096 + 100);
}

static void test_broken(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world *w = world_new();
        world_ok(w, world_open(w));
        world_fill(w, 1, 5, 100);
        if (i) disk_mem_fail_writes(w->mem, 1);
        replog_status status = world_append(w, 1, 1, 100);
        if (!i) {
            disk_mem_fail_syncs(w->mem, 1);
            status = world_sync(w);
        }
        assert_int_equal(status, REPLOG_UNAVAILABLE);
        assert_true(wal_broken(w->wal));
        struct slice piece = {w->blocks[0].blob->data, w->blocks[0].blob->size_bytes};
        assert_int_equal(wal_append(w->wal, &piece, 1, NULL, &w->err), REPLOG_UNAVAILABLE);
        assert_non_null(strstr(w->err.text, i ? "write" : "fdatasync"));
        assert_int_equal(wal_sync(w->wal, &w->err), REPLOG_UNAVAILABLE);
        assert_int_equal(wal_cut(w->wal, 0, &w->err), REPLOG_UNAVAILABLE);
        assert_int_equal(wal_truncate(w->wal, 1, NULL, &w->err), REPLOG_UNAVAILABLE);
        struct wal_vote vote = {5, 1};
        assert_int_equal(wal_save_vote(w->wal, vote, &w->err), REPLOG_UNAVAILABLE);
        world_read(w, 1, 0, w->n); /* reads go on */
        world_crash(w, DISK_LOSE_ALL, 1);
        world_check(w);
        world_free(w);
    }
}

/* After a failed fdatasync the cache has what the disk lacks: an open must write it again. */
static void test_failed_sync_then_reopen(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 5, 100);
    world_ok(w, world_append(w, 1, 1, 6000));
    disk_mem_fail_syncs(w->mem, 1);
    assert_int_equal(world_sync(w), REPLOG_UNAVAILABLE);
    world_reopen(w); /* without a crash: the page cache serves the block */
    w->n_durable = w->n;
    world_check(w);
    world_crash(w, DISK_LOSE_ALL, 1); /* asserts that n_durable is there */
    world_check(w);
    world_free(w);
}

static void test_retention(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    assert_int_equal(wal_retention_seq(w->wal, 0, 0), 0);
    world_fill(w, 1, 40, 3000);
    assert_true(wal_n_segments(w->wal) >= 5);
    uint64_t all = wal_retention_seq(w->wal, 0, 0);
    uint64_t some = wal_retention_seq(w->wal, 64 << 10, 0);
    assert_true(all > some && some > 0);
    assert_int_equal(wal_retention_seq(w->wal, 1 << 30, 0), 0);
    assert_int_equal(wal_retention_seq(w->wal, 0, 1), 0); /* nothing is that old */
    size_t last = world_index(w, some + 1) - 1;
    uint64_t by_age = wal_retention_seq(w->wal, 0, w->blocks[last].h.timestamp_us);
    assert_true(by_age < some); /* a segment whose last block is that young stays */
    world_ok(w, wal_truncate(w->wal, some, NULL, &w->err));
    assert_int_equal(wal_first_seq(w->wal), some + 1);
    assert_int_equal(wal_retention_seq(w->wal, 64 << 10, 0), 0);
    world_free(w);
}

/* ---- Real files, and a reader thread beside the writer */
static void test_real_files(void **state) {
    (void)state;
    char dir[TMP_DIR_BYTES], path[TMP_PATH_BYTES];
    tmp_dir_make(dir);
    struct world *w = world_new();
    w->options.disk = disk_posix();
    w->options.dir = tmp_dir_path(path, dir, "log");
    world_ok(w, world_open(w));
    world_fill(w, 1, 60, 2500);
    bool more;
    world_ok(w, wal_prepare(w->wal, &more, &w->err));
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_ok(w, wal_cut(w->wal, world_pos(w, 50).seq, &w->err));
    world_forget(w, 50);
    world_ok(w, wal_truncate(w->wal, world_pos(w, 30).seq, NULL, &w->err));
    world_fill(w, 2, 30, 2500);
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_free(w);
    tmp_dir_remove(dir);
}

struct follower {
    struct world *w;
    uint64_t until;
    uint64_t seen;
    replog_status status;
};

static void *follow(void *user) {
    struct follower *f = user;
    struct wal_reader *reader = NULL;
    f->status = wal_reader_open(f->w->wal, 1, &reader, NULL);
    while (!f->status && f->seen < f->until) {
        struct block_header h;
        const uint8_t *bytes;
        replog_status status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, NULL);
        if (status == REPLOG_NOT_FOUND) {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        } else if (status || h.first_seq != f->seen + 1) {
            f->status = status ? status : REPLOG_INTERNAL;
        } else {
            f->seen = block_last_seq(&h);
        }
    }
    wal_reader_close(reader);
    return NULL;
}

static void test_reader_thread(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    struct follower f[2] = {{.w = w, .until = 500}, {.w = w, .until = 500}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, follow, &f[i]), 0);
    for (int i = 0; i < 500; i++) {
        world_ok(w, world_append(w, 1, 1, (size_t)(i % 50) * 40));
        if (i % 5 == 0) world_ok(w, world_sync(w));
        if (i % 25 == 0) world_ok(w, wal_mark(w->wal, &w->err));
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(f[i].status, REPLOG_OK);
        assert_int_equal(f[i].seen, 500);
    }
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_append_roll_reopen),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_many_terms),
        cmocka_unit_test(test_refused_appends),
        cmocka_unit_test(test_read_bounds),
        cmocka_unit_test(test_large_group),
        cmocka_unit_test(test_large_group_cut),
        cmocka_unit_test(test_large_group_full),
        cmocka_unit_test(test_mark_and_prepare),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_failed_sync_then_reopen),
        cmocka_unit_test(test_retention),
        cmocka_unit_test(test_real_files),
        cmocka_unit_test(test_reader_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

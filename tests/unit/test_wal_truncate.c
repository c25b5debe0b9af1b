/* What makes a log shorter: wal_truncate, wal_cut, the pool, and readers that stand in the way. */
#include "wal_world.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>

static uint32_t n_files;
static void count_name(const char *name, void *user) {
    if (strstr(name, user)) n_files++;
}

static uint32_t count_files(struct world *w, char *part) {
    n_files = 0;
    const struct disk *disk = w->options.disk;
    world_ok(w, disk->list(disk->ctx, w->options.dir, count_name, part, &w->err));
    return n_files;
}

static struct world *filled(size_t n, size_t bytes) {
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, n / 2, bytes);
    world_fill(w, 2, n - n / 2, bytes);
    return w;
}

/* ---- Head */
static void test_truncate_everywhere(void **state) {
    (void)state;
    for (size_t keep = 0; keep <= 14; keep++) {
        struct world *w = filled(14, 5000);
        uint32_t before = wal_n_segments(w->wal);
        world_ok(w, wal_truncate(w->wal, world_pos(w, keep).seq, NULL, &w->err));
        assert_int_equal(wal_first_seq(w->wal), world_pos(w, keep).seq + 1);
        world_check(w);
        assert_int_equal(count_files(w, ".seg"), wal_n_segments(w->wal));
        if (keep == 14) assert_int_equal(wal_n_segments(w->wal), 1);
        if (keep == 0) assert_int_equal(wal_n_segments(w->wal), before);
        struct wal_reader *reader;
        if (keep) {
            assert_int_equal(wal_reader_open(w->wal, world_pos(w, keep).seq, &reader, &w->err),
                             REPLOG_OUT_OF_RANGE);
            char first[32];
            snprintf(first, sizeof first, "%" PRIu64, wal_first_seq(w->wal));
            assert_non_null(strstr(w->err.text, first));
        }
        world_reopen(w);
        assert_int_equal(wal_first_seq(w->wal), world_pos(w, keep).seq + 1);
        world_check(w);
        world_fill(w, 3, 10, 5000);
        world_check(w);
        world_reopen(w);
        world_check(w);
        world_free(w);
    }
}

static void test_truncate_rounds_down(void **state) {
    (void)state;
    struct world *w = filled(12, 3000);
    struct config config = {.n_members = 1, .members = {{.id = 4, .incarnation = 9}}};
    snprintf(config.members[0].address, sizeof config.members[0].address, "a:1");
    /* The third block is two records and a COMMIT, from seq 5 on. */
    assert_int_equal(w->blocks[2].h.first_seq, 5);
    world_ok(w, wal_truncate(w->wal, 6, &config, &w->err));
    world_assert_pos(wal_base(w->wal), world_pos(w, 2));
    struct config got;
    wal_base_config(w->wal, &got);
    assert_int_equal(got.n_members, 1);
    assert_int_equal(got.members[0].incarnation, 9);
    world_ok(w, wal_truncate(w->wal, 5, NULL, &w->err)); /* nothing to drop */
    world_ok(w, wal_truncate(w->wal, 1, NULL, &w->err));
    world_assert_pos(wal_base(w->wal), world_pos(w, 2));
    world_check(w);
    world_reopen(w);
    world_check(w);
    wal_base_config(w->wal, &got);
    assert_int_equal(got.members[0].id, 4);
    /* Never past what is durable. */
    world_ok(w, world_append(w, 2, 1, 10));
    world_ok(w, wal_truncate(w->wal, UINT64_MAX, NULL, &w->err));
    world_assert_pos(wal_base(w->wal), world_pos(w, 12));
    world_check(w);
    world_free(w);
}

static void test_recycling(void **state) {
    (void)state;
    struct world *w = filled(40, 5000);
    uint32_t segments = wal_n_segments(w->wal);
    assert_true(segments > 8);
    world_ok(w, wal_truncate(w->wal, world_pos(w, 30).seq, NULL, &w->err));
    assert_int_equal(count_files(w, "spare-"), 4); /* the pool; the others are unlinked */
    assert_true(wal_n_segments(w->wal) < segments - 4);
    world_fill(w, 3, 20, 5000); /* into files full of old groups */
    assert_int_equal(count_files(w, "spare-"), 0);
    world_check(w);
    world_reopen(w);
    assert_int_equal(wal_torn_bytes(w->wal), 0);
    world_check(w);
    world_free(w);
}

/* A log that is truncated as it grows takes what it gives back: nothing is made ahead for it, and
 * nothing that was made is thrown away. */
static void test_a_steady_log_prepares_nothing(void **state) {
    (void)state;
    struct world *w = filled(40, 5000);
    size_t base = 0;
    uint32_t fewest = UINT32_MAX;
    for (int i = 0; i < 30; i++) {
        size_t keep = w->n - 16;
        if (keep > base) world_ok(w, wal_truncate(w->wal, world_pos(w, keep).seq, NULL, &w->err));
        base = keep;
        world_fill(w, 3, 5, 5000);
        struct wal_spare spare = {0};
        assert_false(wal_spare_begin(w->wal, &spare)); /* also while the pool is not full */
        fewest = count_files(w, "spare-") < fewest ? count_files(w, "spare-") : fewest;
    }
    assert_int_equal(fewest, 2);
    world_check(w);
    world_free(w);
}

/* ---- Tail */
static void test_cut_everywhere(void **state) {
    (void)state;
    for (size_t base = 0; base <= 6; base += 3) {
        for (size_t keep = base; keep <= 14; keep++) {
            struct world *w = filled(14, 5000);
            world_ok(w, world_append(w, 2, 1, 10)); /* not synced */
            world_ok(w, wal_truncate(w->wal, world_pos(w, base).seq, NULL, &w->err));
            world_ok(w, wal_cut(w->wal, world_pos(w, keep).seq, &w->err));
            world_forget(w, keep);
            world_assert_pos(wal_durable(w->wal), world_pos(w, keep));
            world_check(w);
            if (keep % 2) world_reopen(w);
            world_fill(w, 3, 6, 5000);
            world_check(w);
            world_reopen(w);
            world_check(w);
            world_crash(w, DISK_LOSE_ALL, 1);
            world_check(w);
            world_free(w);
        }
    }
}

/* Within a group of several blocks. */
static void test_cut_within_a_group(void **state) {
    (void)state;
    for (size_t keep = 1; keep < 8; keep++) {
        struct world *w = world_new();
        world_ok(w, world_open(w));
        struct slice pieces[8];
        for (size_t i = 0; i < 8; i++) pieces[i] = world_make(w, 1, 2, 900);
        world_ok(w, wal_append(w->wal, pieces, 8, NULL, &w->err));
        w->n = 8;
        assert_int_equal(wal_cut(w->wal, world_pos(w, keep).seq - 1, &w->err),
                         REPLOG_INVALID_ARGUMENT);
        world_ok(w, wal_cut(w->wal, world_pos(w, keep).seq, &w->err));
        world_forget(w, keep);
        world_check(w);
        world_fill(w, 2, 3, 900);
        world_check(w);
        world_reopen(w);
        world_check(w);
        world_ok(w, wal_cut(w->wal, world_pos(w, 1).seq, &w->err)); /* and once more below */
        world_forget(w, 1);
        world_reopen(w);
        world_fill(w, 3, 2, 900);
        world_reopen(w);
        world_check(w);
        world_free(w);
    }
}

static void test_cut_bounds(void **state) {
    (void)state;
    struct world *w = filled(6, 100);
    world_ok(w, wal_truncate(w->wal, world_pos(w, 3).seq, NULL, &w->err));
    assert_int_equal(wal_cut(w->wal, world_pos(w, 2).seq, &w->err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(wal_cut(w->wal, world_pos(w, 6).seq + 1, &w->err), REPLOG_OUT_OF_RANGE);
    assert_int_equal(wal_cut(w->wal, world_pos(w, 5).seq - 1, &w->err), REPLOG_INVALID_ARGUMENT);
    assert_false(wal_broken(w->wal));
    world_check(w);
    world_free(w);
}

/* ---- Files that come back */
struct kept_file {
    char path[64];
    uint8_t *data;
    size_t size_bytes;
};

static struct kept_file keep_file(struct world *w, uint64_t number) {
    struct kept_file kept = {.data = malloc(1 << 20)};
    const struct disk *disk = w->options.disk;
    struct disk_file *file;
    assert_non_null(kept.data);
    snprintf(kept.path, sizeof kept.path, "log/%016" PRIx64 ".seg", number);
    world_ok(w, disk->open(disk->ctx, kept.path, DISK_READ, &file, &w->err));
    world_ok(w, disk->read(file, kept.data, 1 << 20, 0, &kept.size_bytes, &w->err));
    disk->close(file);
    return kept;
}

static void bring_back(struct world *w, struct kept_file *kept) {
    const struct disk *disk = w->options.disk;
    struct disk_file *file;
    struct iovec piece = {kept->data, kept->size_bytes};
    world_ok(w, disk->open(disk->ctx, kept->path, DISK_CREATE, &file, &w->err));
    world_ok(w, disk->write(file, &piece, 1, 0, &w->err));
    disk->close(file);
    free(kept->data);
}

/* Whether their removal was lost in a crash, or they are put there: they are dropped again. */
static void test_reappearing_segments(void **state) {
    (void)state;
    for (int cut = 0; cut < 2; cut++) {
        struct world *w = filled(20, 5000);
        uint32_t n = wal_n_segments(w->wal);
        assert_true(n > 4);
        struct kept_file kept = keep_file(w, cut ? n - 1 : 2);
        if (cut) {
            world_ok(w, wal_cut(w->wal, world_pos(w, 3).seq, &w->err));
            world_forget(w, 3);
        } else {
            world_ok(w, wal_truncate(w->wal, world_pos(w, 18).seq, NULL, &w->err));
        }
        wal_close(w->wal);
        bring_back(w, &kept);
        world_ok(w, world_open(w));
        world_check(w);
        assert_int_equal(count_files(w, ".seg"), wal_n_segments(w->wal));
        world_fill(w, 3, 10, 5000);
        world_reopen(w);
        world_check(w);
        world_free(w);
    }
}

/* ---- Readers in the way */
static void test_readers_and_cut(void **state) {
    (void)state;
    struct world *w = filled(14, 5000);
    struct wal_reader *above, *below, *at;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, w->blocks[11].h.first_seq, &above, &w->err));
    world_ok(w, wal_reader_next(above, UINT64_MAX, &h, &bytes, &w->err));
    world_ok(w, wal_reader_open(w->wal, w->blocks[8].h.first_seq, &at, &w->err));
    world_ok(w, wal_reader_next(at, UINT64_MAX, &h, &bytes, &w->err));
    world_ok(w, wal_reader_open(w->wal, 1, &below, &w->err));
    for (int i = 0; i < 3; i++)
        world_ok(w, wal_reader_next(below, UINT64_MAX, &h, &bytes, &w->err));
    world_ok(w, wal_cut(w->wal, world_pos(w, 9).seq, &w->err));
    world_forget(w, 9);
    assert_int_equal(wal_reader_next(above, UINT64_MAX, &h, &bytes, &w->err), REPLOG_ABORTED);
    assert_int_equal(wal_reader_next(at, UINT64_MAX, &h, &bytes, &w->err), REPLOG_NOT_FOUND);
    world_fill(w, 3, 5, 5000);
    world_ok(w, wal_reader_next(at, UINT64_MAX, &h, &bytes, &w->err));
    assert_int_equal(h.hash, w->blocks[9].h.hash);
    for (size_t i = 3; i < w->n; i++) {
        world_ok(w, wal_reader_next(below, UINT64_MAX, &h, &bytes, &w->err));
        assert_int_equal(h.hash, w->blocks[i].h.hash);
    }
    /* Two cuts behind a reader's back: the second hides the first. */
    world_ok(w, wal_cut(w->wal, world_pos(w, 5).seq, &w->err));
    world_forget(w, 5);
    world_fill(w, 4, 20, 100);
    world_ok(w, wal_cut(w->wal, world_pos(w, 24).seq, &w->err));
    world_forget(w, 24);
    assert_int_equal(wal_reader_next(at, UINT64_MAX, &h, &bytes, &w->err), REPLOG_ABORTED);
    wal_reader_close(above);
    wal_reader_close(at);
    wal_reader_close(below);
    world_check(w);
    world_free(w);
}

static void test_readers_and_truncation(void **state) {
    (void)state;
    struct world *w = filled(30, 5000);
    struct wal_reader *low, *high;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, 1, &low, &w->err));
    world_ok(w, wal_reader_next(low, UINT64_MAX, &h, &bytes, &w->err));
    world_ok(w, wal_reader_open(w->wal, w->blocks[20].h.first_seq, &high, &w->err));
    world_ok(w, wal_truncate(w->wal, world_pos(w, 20).seq, NULL, &w->err));
    /* The bytes given out before hold. */
    assert_memory_equal(bytes, w->blocks[0].blob->data, h.length);
    assert_int_equal(wal_reader_next(low, UINT64_MAX, &h, &bytes, &w->err), REPLOG_ABORTED);
    for (size_t i = 20; i < 30; i++) {
        world_ok(w, wal_reader_next(high, UINT64_MAX, &h, &bytes, &w->err));
        assert_int_equal(h.hash, w->blocks[i].h.hash);
    }
    wal_reader_close(low);
    wal_reader_close(high);
    world_fill(w, 3, 10, 5000);
    world_check(w);
    world_free(w);
}

/* A segment that is being read is unlinked, not recycled. */
static void test_no_recycling_under_a_reader(void **state) {
    (void)state;
    struct world *w = filled(12, 5000);
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, 1, &reader, &w->err));
    world_ok(w, wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err));
    uint32_t segments = wal_n_segments(w->wal);
    world_ok(w, wal_truncate(w->wal, world_pos(w, 2).seq, NULL, &w->err));
    assert_int_equal(wal_n_segments(w->wal), segments - 1);
    assert_int_equal(count_files(w, "spare-"), 0);
    wal_reader_close(reader);
    world_free(w);
}

/* ---- Calls of the disk that take long, above all the one that closes an unlinked file: its space
 * is given back then, which keeps some file systems busy for a second. */
static const struct disk *disk_under;
static struct wal *asked;
static unsigned n_asked, n_held;

static void *ask(void *user) {
    (void)user;
    wal_retention_seq(asked, 0, 0);
    return NULL;
}

/* Does another thread get an answer meanwhile? */
static void ask_meanwhile(void) {
    if (!asked) return;
    pthread_t thread;
    struct timespec until;
    assert_int_equal(pthread_create(&thread, NULL, ask, NULL), 0);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += 10;
    n_asked++;
    if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &until) == 0) return;
    n_held++;
    pthread_detach(thread);
}

static replog_status open_and_ask(void *ctx, const char *path, enum disk_open how,
                                  struct disk_file **file, replog_error *err) {
    ask_meanwhile();
    return disk_under->open(ctx, path, how, file, err);
}

static void close_and_ask(struct disk_file *file) {
    ask_meanwhile();
    disk_under->close(file);
}

static void test_nobody_waits_for_a_file(void **state) {
    (void)state;
    struct world *w = filled(12, 5000);
    struct disk disk = *w->options.disk;
    disk_under = w->options.disk;
    disk.open = open_and_ask;
    disk.close = close_and_ask;
    w->options.disk = &disk;
    world_reopen(w);
    n_asked = n_held = 0;
    asked = w->wal;
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, 1, &reader, &w->err));
    world_ok(w, wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err));
    assert_true(n_asked > 0);
    world_ok(w, wal_truncate(w->wal, world_pos(w, 8).seq, NULL, &w->err));
    unsigned before = n_asked;
    wal_reader_close(reader); /* the last user of an unlinked file */
    assert_int_equal(n_asked, before + 1);
    world_fill(w, 3, 12, 5000); /* segments are sealed */
    world_ok(w, wal_cut(w->wal, world_pos(w, 14).seq, &w->err));
    world_forget(w, 14);
    assert_int_equal(n_held, 0);
    asked = NULL;
    world_check(w);
    world_free(w);
}

/* Readers on threads of their own, while the log is cut and truncated under them: what they get is
 * a chain without gaps, or ABORTED. */
struct beside {
    struct world *w;
    _Atomic bool stop;
    uint64_t n_blocks, n_aborted;
    replog_status status;
    replog_error err;
};

static replog_status read_once(struct beside *b) {
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    uint64_t seq = 0, chain = 0;
    replog_status status = wal_reader_open(b->w->wal, wal_first_seq(b->w->wal), &reader, &b->err);
    while (!status) {
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &b->err);
        if (status) break;
        if (seq && (h.first_seq != seq + 1 || h.prev_chain != chain)) status = REPLOG_INTERNAL;
        if (block_check(bytes, h.length, &h, &b->err)) status = REPLOG_INTERNAL;
        seq = block_last_seq(&h);
        chain = h.hash;
        b->n_blocks++;
    }
    wal_reader_close(reader);
    return status;
}

static void *read_beside(void *user) {
    struct beside *b = user;
    while (!atomic_load(&b->stop) && !b->status) {
        replog_status status = read_once(b);
        if (status == REPLOG_ABORTED) b->n_aborted++;
        if (status != REPLOG_NOT_FOUND && status != REPLOG_ABORTED && status != REPLOG_OUT_OF_RANGE)
            b->status = status;
    }
    return NULL;
}

static void test_readers_beside(void **state) {
    (void)state;
    struct world *w = filled(10, 3000);
    struct beside b[2] = {{.w = w}, {.w = w}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_beside, &b[i]), 0);
    uint64_t rng = 3;
    for (int i = 0; i < 150; i++) {
        world_fill(w, (uint64_t)i / 10 + 3, 1 + rng_next(&rng) % 6, 3000);
        size_t from = world_index(w, wal_first_seq(w->wal));
        size_t keep = w->n - rng_next(&rng) % 8;
        if (keep < from) keep = from;
        if (i % 3 == 0) {
            world_ok(w, wal_cut(w->wal, world_pos(w, keep).seq, &w->err));
            world_forget(w, keep);
        }
        if (i % 7 == 0)
            world_ok(w, wal_truncate(w->wal, world_pos(w, (from + w->n) / 2).seq, NULL, &w->err));
    }
    for (int i = 0; i < 2; i++) {
        atomic_store(&b[i].stop, true);
        pthread_join(threads[i], NULL);
        if (b[i].status) fail_msg("%d: %s", (int)b[i].status, b[i].err.text);
        assert_true(b[i].n_blocks > 0);
    }
    world_check(w);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncate_everywhere),
        cmocka_unit_test(test_truncate_rounds_down),
        cmocka_unit_test(test_recycling),
        cmocka_unit_test(test_a_steady_log_prepares_nothing),
        cmocka_unit_test(test_cut_everywhere),
        cmocka_unit_test(test_cut_within_a_group),
        cmocka_unit_test(test_cut_bounds),
        cmocka_unit_test(test_reappearing_segments),
        cmocka_unit_test(test_no_recycling_under_a_reader),
        cmocka_unit_test(test_readers_and_cut),
        cmocka_unit_test(test_readers_and_truncation),
        cmocka_unit_test(test_nobody_waits_for_a_file),
        cmocka_unit_test(test_readers_beside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

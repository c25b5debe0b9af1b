/* Recovery of wal/log.h: a crash at every disk call of a script, failing writes and syncs at every
 * step, torn tails against rot, and damage byte by byte. */
#include "wal_world.h"

#include <inttypes.h>

#include "wal/segment.h"

/* ---- The script: what may happen to a log */
struct script {
    struct world *w;
    uint64_t base_done, base_tried; /* seq right below the first one */
    uint64_t vote_done, vote_tried; /* terms */
    size_t step;
    size_t fail_at; /* the step before which a failure is armed; SIZE_MAX: never */
    bool fail_write;
};

static bool step(struct script *s) {
    if (s->step++ == s->fail_at) {
        if (s->fail_write)
            disk_mem_fail_writes(s->w->mem, 1);
        else
            disk_mem_fail_syncs(s->w->mem, 1);
    }
    return true;
}

static bool do_append(struct script *s, uint64_t term, uint32_t n_records, size_t bytes) {
    return step(s) && !world_append(s->w, term, n_records, bytes);
}

static bool do_sync(struct script *s) {
    return step(s) && !world_sync(s->w);
}

static bool do_mark(struct script *s) {
    return step(s) && !wal_mark(s->w->wal, &s->w->err);
}

static bool do_truncate(struct script *s, size_t n) {
    s->base_tried = world_pos(s->w, n).seq;
    if (!step(s) || wal_truncate(s->w->wal, s->base_tried, NULL, &s->w->err)) return false;
    s->base_done = s->base_tried;
    return true;
}

static bool do_cut(struct script *s, size_t n) {
    if (s->w->n_durable > n) s->w->n_durable = n;
    if (!step(s) || wal_cut(s->w->wal, world_pos(s->w, n).seq, &s->w->err)) return false;
    world_forget(s->w, n);
    s->w->n_durable = n;
    return true;
}

static bool do_vote(struct script *s, uint64_t term) {
    s->vote_tried = term;
    struct wal_vote vote = {term, 1};
    if (!step(s) || wal_save_vote(s->w->wal, vote, &s->w->err)) return false;
    s->vote_done = term;
    return true;
}

static bool do_prepare(struct script *s) {
    bool more;
    return step(s) && !wal_prepare(s->w->wal, &more, &s->w->err);
}

/* false: a call failed, and what was in flight is noted in the script. */
static bool run_script(struct script *s) {
    return do_append(s, 1, 1, 100) && do_sync(s) && do_vote(s, 2) && do_append(s, 1, 3, 3000) &&
           do_append(s, 2, 1, 9000) && do_sync(s) && do_append(s, 2, 2, 6000) && do_sync(s) &&
           do_mark(s) && do_append(s, 2, 1, 10) && do_prepare(s) && do_append(s, 2, 1, 12000) &&
           do_sync(s) && do_truncate(s, 4) && do_append(s, 3, 1, 9000) &&
           do_append(s, 3, 1, 20000) && do_sync(s) && do_cut(s, 6) && do_append(s, 4, 1, 5000) &&
           do_append(s, 4, 1, 24000) && do_sync(s) && do_append(s, 4, 1, 15000) &&
           do_append(s, 4, 1, 10) && do_cut(s, 9) && do_cut(s, 7) && do_vote(s, 5) &&
           do_append(s, 5, 2, 4000) && do_sync(s) && do_truncate(s, 8) && do_append(s, 5, 1, 1) &&
           do_mark(s);
}

static void check_script(struct script *s) {
    struct world *w = s->w;
    world_check(w);
    uint64_t base = wal_base(w->wal).seq, vote = wal_vote(w->wal).term;
    assert_true(base == s->base_done || base == s->base_tried);
    assert_true(vote == s->vote_done || vote == s->vote_tried);
    s->base_done = s->base_tried = base;
    s->vote_done = s->vote_tried = vote;
}

/* The log was opened after a failure: the model follows what it holds. */
static void settle(struct script *s) {
    struct world *w = s->w;
    uint64_t tail = wal_tail(w->wal).seq;
    size_t n = 0;
    while (n < w->n_tried && block_last_seq(&w->blocks[n].h) <= tail) n++;
    assert_true(n >= w->n_durable);
    world_forget(w, n);
    w->n = w->n_durable = n;
    check_script(s);
}

/* After whatever happened: the log takes more, and keeps it through a crash. */
static void go_on(struct script *s) {
    struct world *w = s->w;
    world_fill(w, 9, 3, 4000);
    world_crash(w, DISK_LOSE_ALL, 1);
    check_script(s);
}

static void crash_at(uint64_t call, enum disk_mem_loss loss, uint64_t seed, bool *completed) {
    struct world *w = world_new();
    struct script s = {.w = w, .fail_at = SIZE_MAX};
    disk_mem_cut_at(w->mem, call);
    *completed = world_open(w) == REPLOG_OK && run_script(&s);
    if (*completed) disk_mem_cut_at(w->mem, 0);
    wal_close(w->wal);
    w->wal = NULL;
    disk_mem_crash(w->mem, loss, seed);
    /* The power may go again while the log is being opened. */
    disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + 1 + (call * 7 + seed) % 60);
    if (world_open(w) != REPLOG_OK && strstr(w->err.text, "power is off") == NULL)
        fail_msg("call %" PRIu64 ", loss %d, seed %" PRIu64 ": %s", call, (int)loss, seed,
                 w->err.text);
    wal_close(w->wal);
    w->wal = NULL;
    disk_mem_cut_at(w->mem, 0);
    world_crash(w, loss, seed + 1);
    check_script(&s);
    go_on(&s);
    world_free(w);
}

static void test_crash_at_every_call(void **state) {
    (void)state;
    bool completed = false;
    uint64_t call = 1;
    for (; !completed; call++) {
        bool ignored;
        crash_at(call, DISK_LOSE_ALL, 1, &completed);
        crash_at(call, DISK_LOSE_NONE, 1, &ignored);
        crash_at(call, DISK_LOSE_RANDOM, call, &ignored);
        crash_at(call, DISK_LOSE_RANDOM, call + 1000, &ignored);
    }
    assert_true(call > 100);
}

/* A write or sync fails before each step; the log is closed and opened without a crash, so that the
 * page cache serves what the disk lacks; what it then shows must survive a crash. */
static void test_failure_at_every_step(void **state) {
    (void)state;
    for (int fail_write = 0; fail_write < 2; fail_write++) {
        bool completed = false;
        for (size_t at = 0; !completed; at++) {
            struct world *w = world_new();
            struct script s = {.w = w, .fail_at = at, .fail_write = fail_write};
            world_ok(w, world_open(w));
            completed = run_script(&s) && s.step <= at;
            disk_mem_fail_syncs(w->mem, 0);
            disk_mem_fail_writes(w->mem, 0);
            wal_close(w->wal);
            world_ok(w, world_open(w));
            settle(&s);
            world_crash(w, DISK_LOSE_ALL, 1);
            check_script(&s);
            go_on(&s);
            world_free(w);
        }
    }
}

/* ---- A long random life */
static size_t pick(uint64_t *rng, size_t low, size_t high) {
    return (size_t)rng_between(rng, low, high);
}

/* One step; false: it failed. */
static bool live(struct script *s, uint64_t *rng, uint64_t *term) {
    struct world *w = s->w;
    size_t from = world_index(w, wal_first_seq(w->wal));
    switch (rng_next(rng) % 16) {
    case 0:
        return do_mark(s);
    case 1:
        return do_prepare(s);
    case 2:
        return do_truncate(s, pick(rng, from, w->n_durable > from ? w->n_durable : from));
    case 3:
    case 4:
        return do_cut(s, pick(rng, from > w->n - w->n / 4 ? from : w->n - w->n / 4, w->n));
    case 5:
        return do_vote(s, s->vote_done + 1);
    case 6:
    case 7:
    case 8:
        return do_sync(s);
    case 9:
        ++*term;
        return do_append(s, *term, 1, 30000);
    default:
        return do_append(s, *term, (uint32_t)pick(rng, 1, 3), pick(rng, 0, 6000));
    }
}

static void test_random_lives(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        struct world *w = world_new();
        struct script s = {.w = w, .fail_at = SIZE_MAX};
        uint64_t rng = seed, term = 1;
        world_ok(w, world_open(w));
        for (int day = 0; day < 12; day++) {
            size_t n_steps = pick(&rng, 1, 30);
            if (rng_next(&rng) % 2)
                disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + pick(&rng, 1, 80));
            s.fail_at = rng_next(&rng) % 3 ? SIZE_MAX : s.step + pick(&rng, 0, n_steps);
            s.fail_write = rng_next(&rng) % 2;
            for (size_t i = 0; i < n_steps && live(&s, &rng, &term); i++) {}
            disk_mem_fail_syncs(w->mem, 0);
            disk_mem_fail_writes(w->mem, 0);
            wal_close(w->wal);
            w->wal = NULL;
            if (rng_next(&rng) % 3) {
                disk_mem_crash(w->mem, (enum disk_mem_loss)(rng_next(&rng) % 3), rng_next(&rng));
            } else {
                disk_mem_cut_at(w->mem, 0); /* the process ended, the machine did not */
            }
            world_ok(w, world_open(w));
            settle(&s);
        }
        world_free(w);
    }
}

/* ---- Torn or rotten */
static void damage(struct world *w, uint64_t segment, uint64_t offset) {
    char path[64];
    snprintf(path, sizeof path, "log/%016" PRIx64 ".seg", segment);
    assert_int_equal(disk_mem_damage(w->mem, path, offset, 0x10), REPLOG_OK);
}

static void expect_loss(struct world *w, const char *file, uint64_t offset, uint64_t seq) {
    char where[64];
    wal_close(w->wal);
    assert_int_equal(world_open(w), REPLOG_DATA_LOSS);
    snprintf(where, sizeof where, "offset %" PRIu64 ", seq %" PRIu64, offset, seq);
    if (!strstr(w->err.text, file) || !strstr(w->err.text, where))
        fail_msg("not %s, %s: %s", file, where, w->err.text);
}

static const char *first_file = "log/0000000000000001.seg";

static void test_torn_tail(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    for (int i = 0; i < 4; i++) world_ok(w, world_append(w, 1, 1, 100));
    damage(w, 1, SEGMENT_DATA_OFFSET + 2 * 4096 + 150); /* nothing of it was ever synced */
    world_reopen(w);
    assert_int_equal(wal_torn_bytes(w->wal), 2 * 4096);
    world_forget(w, 2);
    world_check(w);
    /* What was torn is overwritten; the rest of it is of an earlier epoch and says nothing. */
    world_fill(w, 2, 1, 100);
    world_check(w);
    world_reopen(w);
    world_check(w);
    world_free(w);
}

/* The file's size was torn such that only padding is missing: the block is there, and stays. */
static void test_torn_padding(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 1, 5000);
    wal_close(w->wal);
    const struct disk *disk = w->options.disk;
    struct disk_file *file;
    world_ok(w, disk->open(disk->ctx, first_file, DISK_WRITE, &file, &w->err));
    world_ok(w, disk->resize(file, SEGMENT_DATA_OFFSET + 5500, &w->err));
    disk->close(file);
    w->options.read_only = true;
    world_ok(w, world_open(w));
    world_check(w);
    w->options.read_only = false;
    world_reopen(w);
    world_check(w);
    world_fill(w, 1, 2, 5000);
    world_crash(w, DISK_LOSE_ALL, 1);
    world_check(w);
    world_free(w);
}

/* A group that follows the torn one, and would continue what is written over that: it is of an
 * earlier epoch, and does not come back. */
static void test_stale_group(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 1, 100);
    world_ok(w, wal_mark(w->wal, &w->err));
    world_ok(w, world_append(w, 1, 1, 100));
    world_ok(w, world_append(w, 1, 1, 100));
    damage(w, 1, SEGMENT_DATA_OFFSET + 2 * 4096 + 150);
    world_reopen(w);
    assert_int_equal(wal_tail(w->wal).seq, 1);
    struct slice same = {w->blocks[1].blob->data, w->blocks[1].blob->size_bytes};
    world_ok(w, wal_append(w->wal, &same, 1, NULL, &w->err));
    world_forget(w, 2);
    world_ok(w, world_sync(w));
    world_reopen(w);
    world_check(w); /* two blocks, not three */
    world_free(w);
}

static void test_rot(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 5, 100); /* seqs 1, 2-4, 5-8, 9, 10-12 */
    damage(w, 1, SEGMENT_DATA_OFFSET + 2 * 4096 + 150);
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET + 2 * 4096 + GROUP_HEADER_BYTES, 5);
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET + 2 * 4096 + GROUP_HEADER_BYTES, 5);
    damage(w, 1, SEGMENT_DATA_OFFSET + 2 * 4096 + 150); /* flipped back */
    damage(w, 1, SEGMENT_DATA_OFFSET + 30);             /* a group header */
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET, 1);
    damage(w, 1, SEGMENT_DATA_OFFSET + 30);
    world_ok(w, world_open(w)); /* refusals changed nothing */
    world_check(w);
    world_free(w);
}

static void test_rot_under_a_mark(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 2, 100);
    world_ok(w, wal_mark(w->wal, &w->err));
    damage(w, 1, SEGMENT_DATA_OFFSET + 4096 + 150);
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET + 4096 + GROUP_HEADER_BYTES, 2);
    world_free(w);
}

/* A mark that is only in the page cache goes with the power, and rot looks like a torn write. */
static void test_mark_is_synced(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 2, 100);
    world_ok(w, wal_mark(w->wal, &w->err));
    world_ok(w, wal_sync(w->wal, &w->err));
    wal_close(w->wal);
    w->wal = NULL;
    disk_mem_crash(w->mem, DISK_LOSE_ALL, 1);
    damage(w, 1, SEGMENT_DATA_OFFSET + 4096 + 150);
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET + 4096 + GROUP_HEADER_BYTES, 2);
    world_free(w);
}

/* The records of an open for writing are marked: rot in the last group is found from then on. */
static void test_open_marks(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 2, 100);
    world_reopen(w);
    damage(w, 1, SEGMENT_DATA_OFFSET + 4096 + 150);
    expect_loss(w, first_file, SEGMENT_DATA_OFFSET + 4096 + GROUP_HEADER_BYTES, 2);
    world_free(w);
}

static void test_rot_in_sealed(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 12, 6000);
    assert_true(wal_n_segments(w->wal) > 2);
    damage(w, 1, SEGMENT_DATA_OFFSET + 8192 + 5000);
    world_reopen(w); /* not read at open */
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, 1, &reader, &w->err));
    world_ok(w, wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err));
    assert_int_equal(wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err), REPLOG_DATA_LOSS);
    assert_non_null(strstr(w->err.text, first_file));
    if (!strstr(w->err.text, "offset 41048, seq 2")) fail_msg("%s", w->err.text);
    assert_int_equal(wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err), REPLOG_DATA_LOSS);
    wal_reader_close(reader);
    assert_int_equal(wal_reader_open(w->wal, 2, &reader, &w->err), REPLOG_DATA_LOSS);
    world_read(w, w->blocks[9].h.first_seq, 9, 12);
    world_free(w);
}

static void test_damaged_seal(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 6, 6000);
    world_fill(w, 2, 6, 6000);
    damage(w, 1, SEGMENT_SEAL_OFFSET + 40);
    wal_close(w->wal);
    w->options.read_only = true;
    world_ok(w, world_open(w));
    world_check(w);
    w->options.read_only = false;
    world_reopen(w); /* written again */
    world_check(w);
    damage(w, 1, SEGMENT_DATA_OFFSET + 4096);
    world_reopen(w); /* so the groups need not be read */
    damage(w, 1, SEGMENT_SEAL_OFFSET + 40);
    wal_close(w->wal);
    assert_int_equal(world_open(w), REPLOG_DATA_LOSS); /* neither seal nor groups */
    world_free(w);
}

static void test_missing_files(void **state) {
    (void)state;
    for (uint64_t number = 1; number <= 3; number++) {
        struct world *w = world_new();
        world_ok(w, world_open(w));
        world_fill(w, 1, 8, 10000);
        uint32_t n = wal_n_segments(w->wal);
        assert_true(n > 3);
        world_reopen(w);
        wal_close(w->wal);
        w->wal = NULL;
        char path[64];
        snprintf(path, sizeof path, "log/%016" PRIx64 ".seg", number == 3 ? (uint64_t)n : number);
        const struct disk *disk = w->options.disk;
        assert_int_equal(disk->unlink(disk->ctx, path, NULL), REPLOG_OK);
        assert_int_equal(world_open(w), REPLOG_DATA_LOSS);
        assert_non_null(strstr(w->err.text, "offset"));
        world_free(w);
    }
}

/* ---- Every byte */
struct sweep {
    struct world *w;
    size_t n_refused, n_found, n_harmless;
    size_t n_marked; /* the blocks that a mark or a seal proves */
};

/* What a reader gets is right, up to the end or to a loss that is named. */
static bool read_all(struct world *w) {
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    replog_status status = wal_reader_open(w->wal, 1, &reader, &w->err);
    for (size_t i = 0; !status; i++) {
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err);
        if (status) break;
        assert_true(i < w->n);
        assert_int_equal(h.length, w->blocks[i].h.length);
        assert_memory_equal(bytes, w->blocks[i].blob->data, h.length);
    }
    wal_reader_close(reader);
    if (status == REPLOG_NOT_FOUND) return true;
    assert_int_equal(status, REPLOG_DATA_LOSS);
    assert_non_null(strstr(w->err.text, ".seg: offset"));
    return false;
}

static void flip(struct sweep *s, const char *path, uint64_t offset) {
    struct world *w = s->w;
    uint8_t mask = (uint8_t)(1u << (offset % 8));
    assert_int_equal(disk_mem_damage(w->mem, path, offset, mask), REPLOG_OK);
    replog_status status = world_open(w);
    if (status) {
        assert_true(status == REPLOG_DATA_LOSS || status == REPLOG_FAILED_PRECONDITION);
        assert_non_null(strstr(w->err.text, path));
        if (status == REPLOG_DATA_LOSS) assert_non_null(strstr(w->err.text, "offset"));
        s->n_refused++;
    } else {
        assert_true(wal_tail(w->wal).seq >= world_pos(w, s->n_marked).seq);
        if (read_all(w))
            s->n_harmless++;
        else
            s->n_found++;
    }
    wal_close(w->wal);
    w->wal = NULL;
    assert_int_equal(disk_mem_damage(w->mem, path, offset, mask), REPLOG_OK);
}

static void sweep_range(struct sweep *s, const char *path, uint64_t from, uint64_t to,
                        uint64_t stride) {
    for (uint64_t at = from; at < to; at += stride) flip(s, path, at);
}

static void test_every_byte(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 3, 50);
    world_ok(w, world_append(w, 1, 1, 20));
    world_ok(w, wal_cut(w->wal, world_pos(w, 3).seq, &w->err)); /* seals the first segment */
    world_forget(w, 3);
    world_fill(w, 2, 3, 50);
    w->n_durable = 6;
    wal_close(w->wal);
    w->options.read_only = true;
    struct sweep s = {.w = w, .n_marked = 5};
    const char *second_file = "log/0000000000000003.seg";
    const struct disk *disk = w->options.disk;
    struct disk_file *file;
    if (disk->open(disk->ctx, second_file, DISK_READ, &file, NULL))
        second_file = "log/0000000000000002.seg";
    else
        disk->close(file);
    const char *files[] = {first_file, second_file};
    for (int i = 0; i < 2; i++) {
        sweep_range(&s, files[i], 0, 160, 1);
        sweep_range(&s, files[i], 160, SEGMENT_SEAL_OFFSET, 61);
        assert_int_equal(s.n_found + s.n_harmless, i ? s.n_found + s.n_harmless : 0);
        sweep_range(&s, files[i], SEGMENT_SEAL_OFFSET, SEGMENT_SEAL_OFFSET + 160, 1);
        sweep_range(&s, files[i], SEGMENT_SEAL_OFFSET + 160, SEGMENT_DATA_OFFSET, 301);
        for (uint64_t group = 0; group < 3; group++) {
            uint64_t at = SEGMENT_DATA_OFFSET + group * 4096;
            sweep_range(&s, files[i], at, at + 420, 1);
            sweep_range(&s, files[i], at + 420, at + 4096, 61);
        }
    }
    assert_true(s.n_refused > 300 && s.n_found > 300 && s.n_harmless > 100);
    size_t refused = s.n_refused;
    sweep_range(&s, "log/MANIFEST", 0, 140, 1);
    assert_int_equal(s.n_refused, refused + 140);
    size_t harmless = s.n_harmless;
    sweep_range(&s, "log/VOTE", 0, 100, 1);
    sweep_range(&s, "log/VOTE", 100, 8192, 61);
    assert_int_equal(s.n_harmless, harmless + 100 + (8192 - 100 + 60) / 61);
    w->options.read_only = false;
    world_ok(w, world_open(w));
    world_check(w);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_at_every_call),
        cmocka_unit_test(test_failure_at_every_step),
        cmocka_unit_test(test_random_lives),
        cmocka_unit_test(test_torn_tail),
        cmocka_unit_test(test_torn_padding),
        cmocka_unit_test(test_stale_group),
        cmocka_unit_test(test_rot),
        cmocka_unit_test(test_rot_under_a_mark),
        cmocka_unit_test(test_mark_is_synced),
        cmocka_unit_test(test_open_marks),
        cmocka_unit_test(test_rot_in_sealed),
        cmocka_unit_test(test_damaged_seal),
        cmocka_unit_test(test_missing_files),
        cmocka_unit_test(test_every_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Names are durable before anything relies on them, also when they were made by a process that
 * ended before they were: that of the log's own directory, and those of segments. */
#include "wal_world.h"

static replog_status open_as(struct world *w, uint64_t incarnation) {
    w->options.new_incarnation = incarnation;
    return world_open(w);
}

/* After the first opening was stopped, by a failed sync or by its process's end: the second makes
 * the log, and a power cut leaves it. */
static void check_second(struct world *w) {
    world_ok(w, open_as(w, 2));
    uint64_t incarnation = wal_identity(w->wal).incarnation;
    wal_close(w->wal);
    disk_mem_crash(w->mem, DISK_LOSE_ALL, 1);
    world_ok(w, open_as(w, 3));
    assert_int_equal(wal_identity(w->wal).incarnation, incarnation);
}

static void the_first_opening_fails_at_a_sync(void **state) {
    (void)state;
    bool made = false;
    for (unsigned good = 0; !made; good++) {
        struct world *w = world_new();
        disk_mem_fail_syncs_after(w->mem, good, 1);
        made = open_as(w, 1) == REPLOG_OK;
        wal_close(w->wal);
        disk_mem_fail_syncs(w->mem, 0);
        check_second(w);
        world_free(w);
        assert_true(good < 40);
    }
}

/* A log whose next append begins a segment: the first, or the second. */
static struct world *before_a_new_segment(bool rolls) {
    struct world *w = world_new();
    world_ok(w, open_as(w, 1));
    if (rolls) world_fill(w, 1, 1, 20000);
    return w;
}

/* The process ends at that disk call of the append; true when the append was done before. The power
 * goes at call `cut` of the next opening; true in *opened when that was done before. */
static bool end_and_cut(bool rolls, uint64_t end, uint64_t cut, uint64_t seed, bool *opened) {
    struct world *w = before_a_new_segment(rolls);
    disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + end);
    bool done = world_append(w, 1, 1, rolls ? 50000 : 100) == REPLOG_OK;
    if (done) assert_int_equal(wal_n_segments(w->wal), rolls ? 2 : 1);
    wal_close(w->wal);
    disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + cut);
    *opened = world_open(w) == REPLOG_OK;
    uint64_t shown_seq = *opened ? wal_tail(w->wal).seq : world_pos(w, w->n_durable).seq;
    wal_close(w->wal);
    disk_mem_crash(w->mem, DISK_LOSE_RANDOM, seed);
    if (world_open(w))
        fail_msg("ended at call %d, power cut at call %d, seed %d: %s", (int)end, (int)cut,
                 (int)seed, w->err.text);
    assert_true(wal_tail(w->wal).seq >= shown_seq); /* what an opening shows is durable */
    world_free(w);
    return done;
}

/* The name of a new segment was given, and not synced. The next opening finds the segment and names
 * it in the manifest as one that must be there: a power cut may leave the manifest and take the
 * segment (the simulator, seed 2480004866). */
static void a_process_ends_before_a_segments_name_is_durable(void **state) {
    (void)state;
    enum { SEEDS = 12, MOST_CALLS = 60 };
    for (int rolls = 0; rolls < 2; rolls++) {
        bool done = false;
        for (uint64_t end = 1; !done; end++) {
            bool opened = false;
            assert_true(end < MOST_CALLS);
            for (uint64_t cut = 1; !opened; cut++) {
                assert_true(cut < MOST_CALLS);
                for (uint64_t seed = 0; seed < SEEDS; seed++)
                    done = end_and_cut(rolls, end, cut, 1000 * end + 20 * cut + seed, &opened);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_opening_fails_at_a_sync),
        cmocka_unit_test(a_process_ends_before_a_segments_name_is_durable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

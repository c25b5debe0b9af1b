/* The name of the log's own directory is durable before anything relies on it, also when an earlier
 * opening made the directory and failed before it was. */
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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_first_opening_fails_at_a_sync)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The pace of acknowledgements: they wait for a leader's store that is far behind the log, not for
 * long, not for ever, and for nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "node_world.h"
#include "sim_watch.h"

enum { LIMIT_BYTES = 20000, VALUE_BYTES = 2000, SLOWEST_MS = 240 /* 200, and ticks */ };

static struct world *w;
static uint64_t leader;
static char value[VALUE_BYTES + 1];

static int setup(void **state) {
    (void)state;
    memset(value, 'v', VALUE_BYTES);
    w = world_new(3, 11);
    w->options->store_lag_bytes = LIMIT_BYTES;
    world_start_all(w);
    leader = world_leader(w, 20000);
    return leader ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    world_free(w);
    return 0;
}

/* Its store takes nothing; set free, it goes on with the next append. */
static void stop_store(uint64_t id) {
    sim_member(w->sim, id)->apply_busy = true;
}

static uint64_t now_ms(void) {
    return sim_now_us(w->sim) / 1000;
}

/* How long the acknowledgement of one append takes. */
static uint64_t append_ms(uint64_t deadline_in_ms) {
    uint64_t from_ms = now_ms();
    uint64_t token = world_append(w, leader, "k", value, 1, NODE_ACK_QUORUM, 0, 0, deadline_in_ms);
    assert_int_equal(world_wait(w, token, 5000), REPLOG_OK);
    return now_ms() - from_ms;
}

static uint64_t append_many(unsigned n) {
    uint64_t slowest_ms = 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t ms = append_ms(0);
        if (ms > slowest_ms) slowest_ms = ms;
    }
    return slowest_ms;
}

static void acknowledgements_wait_for_a_store_that_is_far_behind(void **state) {
    (void)state;
    uint64_t usual_ms = append_many(20);
    assert_in_range(usual_ms, 0, 50);
    stop_store(leader);
    assert_in_range(append_many(8), 0, 50); /* not yet beyond the limit */
    uint64_t slow_ms = append_many(30);
    assert_in_range(slow_ms, 180, SLOWEST_MS); /* and never longer, however far */
    assert_true(world_snapshot(w, leader).applied_seq + 30 < world_snapshot(w, leader).commit_seq);
    /* A deadline that is short is kept. */
    assert_in_range(append_ms(120), 50, 110);
    sim_member(w->sim, leader)->apply_busy = false;
    append_many(1);
    assert_true(world_settle(w, 5000));
    world_run(w, 50);
    assert_in_range(append_many(20), 0, 50);
}

static void nobody_waits_for_the_store_of_another_member(void **state) {
    (void)state;
    stop_store(leader % 3 + 1);
    assert_in_range(append_many(40), 0, 50);
    sim_member(w->sim, leader % 3 + 1)->apply_busy = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(acknowledgements_wait_for_a_store_that_is_far_behind, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(nobody_waits_for_the_store_of_another_member, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

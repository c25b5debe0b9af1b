/* What is handed over and not acknowledged: bounds in bytes and runs, and the ring's end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/clock.h"
#include "node/window.h"

static void bounds(void **state) {
    (void)state;
    static struct window w;
    assert_true(window_open(&w, 1));
    window_add(&w, 10, 100);
    assert_false(window_open(&w, 100));
    assert_true(window_open(&w, 101)); /* and the next run may go beyond */
    window_add(&w, 20, 5000);
    assert_int_equal(w.bytes, 5100);
    window_acked(&w, 9);
    window_acked(&w, 0); /* late */
    assert_int_equal(w.n, 2);
    window_acked(&w, 19); /* of the second one only a part */
    assert_int_equal(w.n, 1);
    assert_int_equal(w.bytes, 5000);
    window_acked(&w, 1000);
    assert_int_equal(w.n, 0);
    assert_int_equal(w.bytes, 0);
    for (unsigned i = 0; i < WINDOW_MAX_RUNS; i++) {
        assert_true(window_open(&w, 1000));
        window_add(&w, 2000 + i, 1);
    }
    assert_false(window_open(&w, 1000)); /* as many as there may be */
    window_acked(&w, 2000);
    assert_true(window_open(&w, 1000));
    window_clear(&w);
    assert_int_equal(w.n, 0);
    assert_int_equal(w.bytes, 0);
}

static void around_the_ring(void **state) {
    (void)state;
    static struct window w;
    uint64_t rng = 3, sent = 0, acked = 0, bytes[4096];
    while (sent < 4096) {
        if (window_open(&w, UINT64_MAX) && rng_between(&rng, 0, 1)) {
            bytes[sent] = rng_between(&rng, 1, 1000);
            window_add(&w, sent, bytes[sent]);
            sent++;
        } else if (acked < sent) {
            acked = rng_between(&rng, acked, sent - 1);
            window_acked(&w, acked++);
        }
        uint64_t sum = 0;
        for (uint64_t i = acked; i < sent; i++) sum += bytes[i];
        assert_int_equal(w.bytes, sum);
        assert_int_equal(w.n, sent - acked);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds),
        cmocka_unit_test(around_the_ring),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

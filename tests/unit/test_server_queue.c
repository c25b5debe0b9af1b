/* The event queue: order, its bound in bytes, waiting, and many threads at once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "server/queue.h"
#include "server/thread.h"

struct number {
    struct queue_item item;
    unsigned maker, value;
};

static void taken_in_order_and_all_at_once(void **state) {
    (void)state;
    struct queue q;
    struct number n[3] = {
        {{NULL, 10, false}, 0, 0}, {{NULL, 10, false}, 0, 1}, {{NULL, 10, false}, 0, 2}};
    queue_init(&q, 100);
    for (int i = 0; i < 3; i++) assert_int_equal(queue_put(&q, &n[i].item), 10 * (i + 1));
    struct queue_item *all = queue_take(&q, 0);
    for (int i = 0; i < 3; i++, all = all->next) assert_ptr_equal(all, &n[i].item);
    assert_null(all);
    assert_int_equal(queue_size_bytes(&q), 0);
    assert_null(queue_take(&q, 0));
    assert_true(queue_offer(&q, &n[0].item)); /* the tail was reset */
    assert_ptr_equal(queue_take(&q, 0), &n[0].item);
    queue_destroy(&q);
}

static void the_bound_holds_for_offers_only(void **state) {
    (void)state;
    struct queue q;
    struct number n[4] = {
        {{NULL, 60, false}, 0, 0}, {{NULL, 50, false}, 0, 0}, {{NULL, 40, false}, 0, 0}};
    n[3].item.cost_bytes = 500;
    queue_init(&q, 100);
    assert_true(queue_offer(&q, &n[0].item));
    assert_false(queue_offer(&q, &n[1].item)); /* 110 */
    assert_true(queue_offer(&q, &n[2].item));  /* 100 */
    assert_int_equal(queue_put(&q, &n[1].item), 150);
    assert_ptr_equal(queue_take(&q, 0), &n[0].item);
    assert_true(queue_offer(&q, &n[3].item)); /* larger than the bound, but alone */
    assert_false(queue_offer(&q, &n[0].item));
    assert_non_null(queue_take(&q, 0));
    queue_destroy(&q);
}

static void waiting_ends_by_time_or_wake(void **state) {
    (void)state;
    struct queue q;
    queue_init(&q, 100);
    uint64_t start_ms = clock_mono_ms();
    assert_null(queue_take(&q, 30));
    assert_true(clock_mono_ms() - start_ms >= 25);
    queue_wake(&q);
    assert_null(queue_take(&q, UINT64_MAX)); /* returns at once: woken before it waited */
    queue_destroy(&q);
}

enum { MAKERS = 4, EACH = 5000 };
struct maker {
    struct queue *q;
    unsigned index;
};

static void *make(void *arg) {
    const struct maker *m = arg;
    for (unsigned i = 0; i < EACH;) {
        struct number *n = malloc(sizeof *n);
        *n = (struct number){{NULL, sizeof *n, false}, m->index, i};
        if (queue_offer(m->q, &n->item)) {
            i++;
        } else {
            free(n);
            (void)nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        }
    }
    return NULL;
}

static void many_threads_lose_nothing_and_keep_their_order(void **state) {
    (void)state;
    struct queue q;
    pthread_t threads[MAKERS];
    struct maker makers[MAKERS];
    unsigned next[MAKERS] = {0}, total = 0;
    queue_init(&q, 64 * sizeof(struct number));
    for (unsigned i = 0; i < MAKERS; i++) {
        makers[i] = (struct maker){&q, i};
        assert_int_equal(thread_start(&threads[i], "maker", make, &makers[i], NULL), REPLOG_OK);
    }
    while (total < MAKERS * EACH) {
        struct queue_item *all = queue_take(&q, 5000);
        assert_non_null(all);
        unsigned bunch = 0;
        while (all) {
            struct number *n = (struct number *)(void *)all;
            all = all->next;
            assert_int_equal(n->value, next[n->maker]++);
            free(n);
            total++;
            bunch++;
        }
        assert_true(bunch <= 64);
    }
    for (unsigned i = 0; i < MAKERS; i++) assert_true(thread_join_within(threads[i], 5000));
    queue_destroy(&q);
}

struct waiter {
    struct queue *q;
    _Atomic bool woke;
};

static void *wait_once(void *arg) {
    struct waiter *w = arg;
    queue_wait(w->q, 5000);
    w->woke = true;
    return NULL;
}

static void what_comes_quietly_wakes_nobody(void **state) {
    (void)state;
    struct queue q;
    struct number n = {{NULL, 10, true}, 0, 0};
    struct waiter w = {.q = &q};
    pthread_t thread;
    queue_init(&q, 100);
    queue_poke(&q); /* nothing there: nobody is woken, now or later */
    queue_wait(&q, 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_once, &w), 0);
    const struct timespec moment = {.tv_nsec = 30000000};
    for (bool waits = false; !waits; (void)nanosleep(&moment, NULL)) {
        pthread_mutex_lock(&q.lock);
        waits = q.waiting;
        pthread_mutex_unlock(&q.lock);
    }
    assert_int_equal(queue_put(&q, &n.item), 10);
    (void)nanosleep(&moment, NULL);
    assert_false(w.woke);
    queue_poke(&q);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(w.woke);
    assert_ptr_equal(queue_take(&q, 0), &n.item);
    queue_destroy(&q);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(taken_in_order_and_all_at_once),
        cmocka_unit_test(the_bound_holds_for_offers_only),
        cmocka_unit_test(waiting_ends_by_time_or_wake),
        cmocka_unit_test(many_threads_lose_nothing_and_keep_their_order),
        cmocka_unit_test(what_comes_quietly_wakes_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

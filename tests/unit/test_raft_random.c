/* test_raft_random.c: random schedules. Messages are lost, repeated and reordered, disks and their
 * completions lag, members crash and come back with what was durable, links break, heads are
 * truncated. raft_world.c judges every step; when the faults stop the cluster must agree and
 * commit.
 *
 * Seeds are fixed, so a failure comes back: RAFT_SEED=N runs one seed (with RAFT_MEMBERS=3 or 5)
 * and prints its trace; RAFT_SEEDS=N runs more than usual. */
#include "raft_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clock.h"

enum { SEEDS = 100, STEPS_PER_MEMBER = 1500, N_OLD = 16 };

struct totals {
    uint64_t elections, blocks, reads_ok, cuts, crashes;
};

/* How bad it is in this schedule. */
static struct {
    uint64_t loss, disorder;   /* of 100 messages */
    uint64_t usurpers, faults; /* of 1000 steps */
    uint64_t disks;            /* of 1000 steps; the fewer, the longer is what a crash loses */
} weather;
static struct packet old_packets[N_OLD]; /* of this schedule */

static uint64_t pick(struct world *w, uint64_t n) {
    return n > 0 ? rng_next(&w->seed) % n : 0;
}
static uint64_t any_member(struct world *w) {
    return 1 + pick(w, w->n);
}

static uint64_t any_leader(struct world *w) {
    uint64_t start = any_member(w);
    for (uint64_t i = 0; i < w->n; i++) {
        uint64_t id = 1 + (start + i) % w->n;
        if (w->members[id].up && raft_role(w->members[id].raft) == RAFT_LEADER) return id;
    }
    return 0;
}

/* Messages of long ago come once more: old terms, old rounds, old logs. */
static void some_old_message(struct world *w) {
    struct packet *old = &old_packets[pick(w, N_OLD)];
    if (old->msg.to != 0 && w->n_packets < WORLD_PACKETS) w->packets[w->n_packets++] = *old;
    if (w->n_packets > 0) *old = w->packets[pick(w, w->n_packets)];
}

static void some_message(struct world *w) {
    if (w->n_packets == 0) return;
    /* mostly the oldest, or nothing would ever get anywhere */
    size_t i = pick(w, 100) < weather.disorder ? pick(w, w->n_packets) : 0;
    uint64_t luck = pick(w, 100);
    if (luck < weather.loss) {
        lose(w, i);
    } else {
        struct packet again = w->packets[i];
        deliver(w, i);
        if (luck >= 94 && w->n_packets < WORLD_PACKETS) w->packets[w->n_packets++] = again;
    }
}

/* Everybody drops what all have absorbed. */
static void truncate_heads(struct world *w) {
    uint64_t seq = UINT64_MAX;
    for (uint64_t id = 1; id <= w->n; id++) {
        if (w->members[id].applied < seq) seq = w->members[id].applied;
    }
    uint64_t id = any_member(w);
    if (w->members[id].up && raft_commit(w->members[id].raft) >= seq) set_base(w, id, seq);
}

static void some_fault(struct world *w, struct totals *totals) {
    uint64_t id = any_member(w);
    switch (pick(w, 8)) {
    case 0:
    case 1:
        /* the disk may have got further than the core knew */
        for (uint64_t n = pick(w, 3); n > 0; n--) disk_step(w, id);
        if (pick(w, 2) == 0) vote_step(w, id);
        totals->crashes += w->members[id].up;
        crash(w, id);
        break;
    case 2:
        isolate(w, id, true);
        break;
    case 3:
        w->cut[id][any_member(w)] = true;
        break;
    case 4:
        lost_connection(w, any_member(w), id);
        break;
    case 5:
        w->members[id].disk_held = !w->members[id].disk_held;
        break;
    case 6:
        hand_over(w, id, any_member(w));
        break;
    case 7:
        world_event(w, id, &(struct raft_event){.type = RAFT_EV_STEP_DOWN});
        break;
    }
}

static void some_repair(struct world *w) {
    uint64_t id = any_member(w);
    restart(w, id);
    w->members[id].disk_held = false;
    isolate(w, id, false);
}

static void some_request(struct world *w) {
    uint64_t leader = any_leader(w);
    if (leader == 0) return;
    if (pick(w, 4) == 0 && w->n_reads + 1 < WORLD_READS) {
        ask_read(w, leader);
    } else {
        append(w, leader, 1 + (unsigned)pick(w, 4));
    }
}

static void some_disk(struct world *w, uint64_t id) {
    if (w->members[id].disk_held || pick(w, 2) == 0) return;
    if (pick(w, 2) == 0) vote_step(w, id);
    if (pick(w, 2) == 0) vote_complete_step(w, id);
    for (uint64_t n = pick(w, 4); n > 0; n--) disk_step(w, id);
    for (uint64_t n = pick(w, 4); n > 0; n--) complete_step(w, id);
}

static void some_time(struct world *w) {
    pass_ms(w, 10 + pick(w, 120));
    for (uint64_t id = 1; id <= w->n; id++) {
        if (pick(w, 4) != 0) tick(w, id);
    }
}

/* All is quiet for long, and one member notices first. */
static void some_usurper(struct world *w) {
    pass_ms(w, WORLD_ELECTION_MS + pick(w, WORLD_ELECTION_MS));
    tick(w, any_member(w));
}

static void random_step(struct world *w, struct totals *totals) {
    uint64_t luck = pick(w, 1000);
    if (luck < weather.usurpers) {
        some_usurper(w);
    } else if (luck < weather.usurpers + weather.faults) {
        some_fault(w, totals);
    } else if (luck < 60) {
        some_repair(w);
    } else if (luck < 65) {
        truncate_heads(w);
    } else if (luck < 80) {
        some_old_message(w);
    } else if (luck < 130) {
        some_request(w);
    } else if (luck < 190) {
        some_time(w);
    } else if (luck < 280) {
        for (uint64_t id = 1; id <= w->n; id++) {
            if (pick(w, 2) == 0) pump(w, id);
        }
    } else if (luck < 280 + weather.disks) {
        for (uint64_t id = 1; id <= w->n; id++) some_disk(w, id);
    } else {
        for (uint64_t n = pick(w, (uint64_t)2 * w->n); n > 0; n--) some_message(w);
    }
}

static void draw_weather(struct world *w) {
    weather.loss = pick(w, 10);
    weather.disorder = pick(w, 40);
    weather.usurpers = pick(w, 30);
    weather.faults = pick(w, 25);
    weather.disks = 30 + pick(w, 200);
}

static void heal(struct world *w) {
    w->lazy = false;
    memset(w->cut, 0, sizeof w->cut);
    for (uint64_t id = 1; id <= w->n; id++) {
        restart(w, id);
        w->members[id].disk_held = false;
    }
}

static void check_agreement(struct world *w) {
    uint64_t leader = only_leader(w);
    assert_int_not_equal(leader, 0);
    assert_true(raft_ready(w->members[leader].raft));
    append(w, leader, 2);
    deliver_all(w);
    ask_read(w, leader);
    deliver_all(w);
    assert_int_equal(w->last_read_ok, w->n_reads);
    for (uint64_t id = 1; id <= w->n; id++) {
        const struct raft *r = w->members[id].raft;
        assert_int_equal(raft_leader(r), leader);
        assert_int_equal(raft_last(r), raft_last(w->members[leader].raft));
        assert_int_equal(raft_commit(r), raft_last(r));
        assert_int_equal(raft_persisted(r), raft_last(r));
    }
}

static void run_seed(unsigned n, uint64_t seed, bool traced, struct totals *totals) {
    struct world *w = world_new(n, seed, traced);
    if (traced) { /* straight out: a failed assertion does not come back here */
        fclose(w->trace);
        free(w->trace_text);
        w->trace_text = NULL;
        w->trace = fopen("/dev/stderr", "w");
    }
    memset(old_packets, 0, sizeof old_packets);
    w->lazy = true;
    draw_weather(w);
    w->packet_blocks = 1 + pick(w, 4);
    w->one_at_a_time = pick(w, 2);
    for (unsigned i = 0; i < STEPS_PER_MEMBER * n; i++) {
        random_step(w, totals);
        if (i % 64 == 0) check_logs(w);
    }
    heal(w);
    run_ms(w, 8000);
    check_agreement(w);
    check_logs(w);
    totals->elections += w->elections;
    totals->blocks += w->n_committed;
    totals->reads_ok += w->reads_ok;
    totals->cuts += w->cuts;
    world_free(w);
}

static void run_seeds(unsigned n) {
    const char *one = getenv("RAFT_SEED"), *members = getenv("RAFT_MEMBERS");
    const char *more = getenv("RAFT_SEEDS");
    struct totals totals = {0};
    if (one) {
        if (!members || strtoul(members, NULL, 10) == n) {
            run_seed(n, strtoull(one, NULL, 10), true, &totals);
        }
        return;
    }
    uint64_t seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        char line[64]; /* says which seed, if this one fails */
        snprintf(line, sizeof line, "members %u, seed %llu\n", n, (unsigned long long)seed);
        setenv("RAFT_RUNNING", line, 1);
        run_seed(n, seed, false, &totals);
    }
    print_message("%u members, %llu schedules: %llu elections, %llu blocks committed, %llu reads, "
                  "%llu crashes, %llu cuts\n",
                  n, (unsigned long long)seeds, (unsigned long long)totals.elections,
                  (unsigned long long)totals.blocks, (unsigned long long)totals.reads_ok,
                  (unsigned long long)totals.crashes, (unsigned long long)totals.cuts);
    /* a schedule in which nothing happens proves nothing */
    assert_true(totals.elections > 2 * seeds && totals.blocks > 10 * seeds);
    assert_true(totals.reads_ok > seeds && totals.crashes > seeds && totals.cuts > seeds);
}

static int say_seed(void **state) {
    (void)state;
    print_message("last: %s", getenv("RAFT_RUNNING") ? getenv("RAFT_RUNNING") : "none\n");
    return 0;
}

static void random_three(void **state) {
    (void)state;
    run_seeds(3);
}

static void random_five(void **state) {
    (void)state;
    run_seeds(5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(random_three, say_seed),
        cmocka_unit_test_teardown(random_five, say_seed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

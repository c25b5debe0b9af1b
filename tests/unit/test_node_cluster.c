/* Whole clusters in virtual time: founding, appends at every level, catch-up, reads, checkpoints
 * and truncation, sessions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "node_world.h"
#include "sim_net.h"

static struct world *founded(unsigned n, uint64_t seed, uint64_t *leader) {
    struct world *w = world_new(n, seed);
    world_start_all(w);
    *leader = world_leader(w, 10000);
    assert_true(*leader > 0);
    return w;
}

static uint64_t other(const struct world *w, uint64_t leader, unsigned k) {
    for (uint64_t id = 1; id <= w->n; id++)
        if (id != leader && k-- == 0) return id;
    return 0;
}

static uint64_t open_session(struct world *w, uint64_t leader) {
    uint64_t t = world_ask(w, leader, NODE_EV_OPEN_SESSION, 0, false);
    assert_int_equal(world_wait(w, t, 300), REPLOG_OK);
    return world_request(w, t)->reply.first_seq;
}

static void clusters_of_every_size_take_appends(void **state) {
    (void)state;
    static const unsigned sizes[] = {1, 2, 3, 5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t leader;
        struct world *w = founded(sizes[i], 10 + i, &leader);
        uint64_t t = world_append(w, leader, "k", "v", 3, NODE_ACK_ALL, 0, 0, 0);
        assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
        struct world_request *r = world_request(w, t);
        assert_int_equal(r->reply.n_durable_on, sizes[i]);
        assert_int_equal(r->reply.last_seq - r->reply.first_seq, 3);
        assert_true(world_settle(w, 3000));
        world_free(w);
    }
}

static void two_empty_directories_beside_a_silent_one_form_nothing(void **state) {
    (void)state;
    struct world *w = world_new(3, 3);
    world_start(w, 1);
    world_start(w, 2);
    world_run(w, 20000);
    assert_int_equal(world_snapshot(w, 1).founding, WAL_EMPTY);
    assert_int_equal(world_snapshot(w, 2).founding, WAL_EMPTY);
    uint64_t t = world_append(w, 1, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 100), REPLOG_UNAVAILABLE);
    world_start(w, 3);
    assert_true(world_leader(w, 10000) > 0);
    world_free(w);
}

static void founding_survives_crashes(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct world *w = world_new(3, seed);
        world_start_all(w);
        for (int i = 0; i < 6; i++) {
            world_run(w, rng_between(&w->rng, 1, 40));
            uint64_t id = rng_between(&w->rng, 1, 3);
            world_crash(w, id);
            world_run(w, rng_between(&w->rng, 1, 40));
            world_start(w, id);
        }
        assert_true(world_leader(w, 20000) > 0);
        uint64_t cluster = world_snapshot(w, 1).cluster_id;
        assert_true(world_settle(w, 5000));
        for (uint64_t id = 1; id <= 3; id++)
            assert_int_equal(world_snapshot(w, id).cluster_id, cluster);
        world_free(w);
    }
}

static void a_wiped_directory_is_refused_by_name(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 4, &leader);
    uint64_t victim = other(w, leader, 0);
    world_crash(w, victim);
    world_wipe(w, victim);
    world_start(w, victim);
    world_run(w, 3000);
    struct node_snapshot s = world_snapshot(w, victim);
    assert_int_equal(s.founding, WAL_EMPTY);
    assert_non_null(strstr(s.refused, "wiped"));
    uint64_t t = world_append(w, world_leader(w, 3000), "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
    world_free(w);
}

/* One follower is down while much is appended: more than the leader's memory holds. */
static struct world *one_is_away(uint64_t seed, int appends, uint64_t *leader, uint64_t *away) {
    struct world *w = world_new(3, seed);
    char value[2000];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = 0;
    w->options->tail_bytes = 65536;
    world_start_all(w);
    *leader = world_leader(w, 10000);
    *away = other(w, *leader, 1);
    world_crash(w, *away);
    for (int i = 0; i < appends; i++) {
        uint64_t t = world_append(w, *leader, "key", value, 2, NODE_ACK_QUORUM, 0, 0, 0);
        if (i % 20 == 0) assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
    }
    return w;
}

static void a_follower_that_was_away_catches_up_from_files(void **state) {
    (void)state;
    uint64_t leader, away;
    struct world *w = one_is_away(5, 300, &leader, &away);
    world_run(w, 200);
    assert_true(world_snapshot(w, leader).tail_bytes < 200000);
    world_start(w, away);
    assert_true(world_settle(w, 10000));
    assert_int_equal(world_snapshot(w, away).commit_seq, world_snapshot(w, leader).commit_seq);
    world_free(w);
}

/* What becomes durable at once may be more than the tail may keep: the store has it from memory
 * all the same. */
static void catch_up_from_memory(uint64_t disk_delay_ms) {
    uint64_t leader, away;
    struct world *w = one_is_away(26, 600, &leader, &away);
    world_start(w, away);
    world_disk_delay(w, away, disk_delay_ms);
    assert_true(world_settle(w, 10000));
    const struct applier *applier = sim_member(w->sim, away)->applier;
    assert_true(apply_bytes(applier) > 2000000);
    assert_true(apply_read_bytes(applier) < 100000);
    world_free(w);
}

static void what_catches_up_is_not_read_back_for_the_store(void **state) {
    (void)state;
    for (uint64_t delay_ms = 1; delay_ms < 60; delay_ms += 7) catch_up_from_memory(delay_ms);
}

static void the_levels_mean_what_they_say(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 6, &leader);
    world_crash(w, other(w, leader, 0));
    uint64_t all = world_append(w, leader, "a", "v", 1, NODE_ACK_ALL, 0, 0, 500);
    uint64_t quorum = world_append(w, leader, "q", "v", 1, NODE_ACK_QUORUM, 0, 0, 500);
    assert_int_equal(world_wait(w, quorum, 1000), REPLOG_OK);
    assert_int_equal(world_request(w, quorum)->reply.n_durable_on, 2);
    assert_int_equal(world_wait(w, all, 1000), REPLOG_DEADLINE_EXCEEDED);
    assert_non_null(strstr(world_request(w, all)->text, "committed"));
    world_crash(w, other(w, leader, 1));
    uint64_t local = world_append(w, leader, "l", "v", 1, NODE_ACK_LEADER, 0, 0, 500);
    uint64_t lost = world_append(w, leader, "m", "v", 1, NODE_ACK_QUORUM, 0, 0, 300);
    assert_int_equal(world_wait(w, local, 1000), REPLOG_OK);
    assert_int_equal(world_request(w, local)->reply.n_durable_on, 1);
    assert_int_equal(world_wait(w, lost, 1000), REPLOG_DEADLINE_EXCEEDED);
    world_free(w);
}

static void a_leader_alone_steps_down_and_says_so(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 7, &leader);
    world_isolate(w, leader, true);
    uint64_t t = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 5000), REPLOG_UNAVAILABLE);
    assert_non_null(strstr(world_request(w, t)->text, "unknown"));
    uint64_t next = world_leader(w, 10000);
    assert_true(next != leader);
    t = world_append(w, next, "k", "w", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
    world_isolate(w, leader, false);
    assert_true(world_settle(w, 10000));
    world_free(w);
}

static void read_indexes_on_every_node(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 8, &leader);
    uint64_t t = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
    uint64_t seq = world_request(w, t)->reply.last_seq;
    for (uint64_t id = 1; id <= 3; id++) {
        uint64_t r = world_ask(w, id, NODE_EV_READ_INDEX, 0, true);
        assert_int_equal(world_wait(w, r, 3000), REPLOG_OK);
        assert_true(world_request(w, r)->reply.seq >= seq);
        assert_true(world_snapshot(w, id).applied_seq >= seq);
    }
    /* Cut off, it refuses after some elections, long before the deadline; the others answer. */
    world_isolate(w, leader, true);
    uint64_t there = world_ask(w, leader, NODE_EV_READ_INDEX, 0, false);
    uint64_t here = world_ask(w, other(w, leader, 0), NODE_EV_READ_INDEX, 0, false);
    assert_int_equal(world_wait(w, there, 4000), REPLOG_UNAVAILABLE);
    assert_non_null(strstr(world_request(w, there)->text, "ask another member"));
    assert_int_equal(world_wait(w, here, 4000), REPLOG_OK);
    uint64_t later = world_ask(w, leader, NODE_EV_READ_INDEX, 0, false);
    assert_int_equal(world_wait(w, later, 200), REPLOG_UNAVAILABLE);
    world_isolate(w, leader, false);
    world_run(w, 2000);
    later = world_ask(w, leader, NODE_EV_READ_INDEX, 0, false);
    assert_int_equal(world_wait(w, later, 3000), REPLOG_OK);
    world_free(w);
}

static void truncation_waits_for_every_replica(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 9, &leader);
    for (int i = 0; i < 50; i++)
        world_append(w, leader, "key", "value", 4, NODE_ACK_QUORUM, 0, 0, 0);
    world_run(w, 500);
    uint64_t away = other(w, leader, 0);
    world_crash(w, away);
    world_run(w, 2000);
    uint64_t upto = world_snapshot(w, leader).commit_seq;
    uint64_t t = world_ask(w, leader, NODE_EV_TRUNCATE, upto, false);
    assert_int_equal(world_wait(w, t, 12000), REPLOG_OK);
    struct world_request *r = world_request(w, t);
    assert_int_equal(r->reply.n_held_by, 1);
    assert_int_equal(r->reply.held_by[0].id, away);
    assert_int_equal(r->reply.first_seq, 1);
    struct node_snapshot s = world_snapshot(w, leader);
    assert_int_equal(s.n_held_by, 1);
    assert_int_equal(s.held_by[0].id, away);
    /* The request persists: under a later leader, and when the member is back. */
    world_crash(w, leader);
    world_start(w, leader);
    leader = world_leader(w, 10000);
    world_start(w, away);
    world_run(w, 8000);
    for (uint64_t id = 1; id <= 3; id++)
        assert_int_equal(world_snapshot(w, id).first_seq, upto + 1);
    assert_true(world_settle(w, 5000));
    t = world_ask(w, leader, NODE_EV_TRUNCATE, upto + 1000, false);
    assert_int_equal(world_wait(w, t, 3000), REPLOG_OUT_OF_RANGE);
    /* And once more with everybody there: done before it is answered. */
    for (int i = 0; i < 5; i++)
        world_append(w, leader, "key", "value", 4, NODE_ACK_QUORUM, 0, 0, 0);
    world_run(w, 500);
    upto = world_snapshot(w, leader).commit_seq;
    t = world_ask(w, leader, NODE_EV_TRUNCATE, upto, false);
    assert_int_equal(world_wait(w, t, 8000), REPLOG_OK);
    assert_int_equal(world_request(w, t)->reply.n_held_by, 0);
    assert_int_equal(world_request(w, t)->reply.first_seq, upto + 1);
    world_free(w);
}

static void a_checkpoint_names_what_all_stores_hold(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 12, &leader);
    for (int i = 0; i < 20; i++)
        world_append(w, leader, "key", "value", 4, NODE_ACK_QUORUM, 0, 0, 0);
    world_run(w, 300);
    uint64_t commit = world_snapshot(w, leader).commit_seq;
    uint64_t t = world_ask(w, leader, NODE_EV_CHECKPOINT, 0, false);
    assert_int_equal(world_wait(w, t, 8000), REPLOG_OK);
    assert_true(world_request(w, t)->reply.safe_seq >= commit);
    assert_true(world_request(w, t)->reply.seq > commit);
    world_free(w);
}

/* The first seq after a log of several segments under a retention. */
static uint64_t first_seq_under_retention(uint64_t retain_bytes, uint64_t retain_ms) {
    struct world *w = world_new(3, 15);
    char value[2000];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = 0;
    w->options->retain_bytes = retain_bytes;
    w->options->retain_ms = retain_ms;
    w->options->checkpoint_ms = 200;
    world_start_all(w);
    uint64_t leader = world_leader(w, 10000);
    for (int i = 0; i < 200; i++) {
        world_append(w, leader, "key", value, 2, NODE_ACK_QUORUM, 0, 0, 0);
        world_run(w, 5);
    }
    world_run(w, 6000);
    uint64_t first = world_snapshot(w, leader).first_seq;
    world_free(w);
    return first;
}

static void retention_drops_what_is_beyond_it_and_nothing_else(void **state) {
    (void)state;
    assert_true(first_seq_under_retention(200000, 0) > 1);
    assert_true(first_seq_under_retention(0, 1000) > 1);
    assert_int_equal(first_seq_under_retention(1u << 30, 0), 1);
    assert_int_equal(first_seq_under_retention(0, 60000), 1); /* the clock has not come so far */
}

static void a_repeated_append_gets_its_first_answer(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 13, &leader);
    uint64_t t = world_ask(w, leader, NODE_EV_OPEN_SESSION, 0, false);
    assert_int_equal(world_wait(w, t, 3000), REPLOG_OK);
    uint64_t session = world_request(w, t)->reply.first_seq;
    uint64_t a = world_append(w, leader, "k", "v", 2, NODE_ACK_QUORUM, session, 1, 0);
    uint64_t b = world_append(w, leader, "k", "v", 2, NODE_ACK_QUORUM, session, 1, 0);
    assert_int_equal(world_wait(w, a, 3000), REPLOG_OK);
    assert_int_equal(world_wait(w, b, 3000), REPLOG_OK);
    uint64_t first = world_request(w, a)->reply.first_seq;
    assert_int_equal(world_request(w, b)->reply.first_seq, first);
    uint64_t gap = world_append(w, leader, "k", "v", 2, NODE_ACK_QUORUM, session, 5, 0);
    assert_int_equal(world_wait(w, gap, 3000), REPLOG_FAILED_PRECONDITION);
    world_crash(w, leader);
    uint64_t next = world_leader(w, 10000);
    uint64_t c = world_append(w, next, "k", "v", 2, NODE_ACK_QUORUM, session, 1, 0);
    assert_int_equal(world_wait(w, c, 3000), REPLOG_OK);
    assert_int_equal(world_request(w, c)->reply.first_seq, first);
    uint64_t d = world_append(w, next, "k", "v", 2, NODE_ACK_QUORUM, session, 2, 0);
    assert_int_equal(world_wait(w, d, 3000), REPLOG_OK);
    uint64_t u = world_append(w, next, "k", "v", 2, NODE_ACK_QUORUM, 999999, 1, 0);
    assert_int_equal(world_wait(w, u, 3000), REPLOG_FAILED_PRECONDITION);
    world_free(w);
}

/* What a later leader's log holds, one that was deposed and does not know it cannot deny. */
static void a_deposed_leader_denies_no_session(void **state) {
    (void)state;
    uint64_t old;
    struct world *w = founded(3, 18, &old);
    world_isolate(w, old, true);
    uint64_t next = old;
    for (int i = 0; i < 100 && next == old; i++) {
        world_run(w, 10);
        for (uint64_t id = 1; id <= 3; id++) {
            if (id != old && world_snapshot(w, id).ready) next = id;
        }
    }
    assert_true(next != old);
    uint64_t session = open_session(w, next);
    uint64_t first = world_append(w, next, "k", "v", 1, NODE_ACK_QUORUM, session, 1, 0);
    assert_int_equal(world_wait(w, first, 300), REPLOG_OK);
    assert_int_equal(world_snapshot(w, old).role, RAFT_LEADER); /* it has not heard of it */
    uint64_t a = world_append(w, old, "k", "v", 1, NODE_ACK_QUORUM, session, 2, 0);
    assert_int_equal(world_wait(w, a, 5000), REPLOG_UNAVAILABLE);
    world_isolate(w, old, false);
    assert_true(world_settle(w, 10000));
    uint64_t b =
        world_append(w, world_leader(w, 5000), "k", "v", 1, NODE_ACK_QUORUM, session, 2, 0);
    assert_int_equal(world_wait(w, b, 3000), REPLOG_OK);
    world_free(w);
}

static void low_space_and_stalls(void **state) {
    (void)state;
    uint64_t leader;
    struct world *w = founded(3, 14, &leader);
    struct node_event low = {.type = NODE_EV_SPACE, .low = true};
    sim_node_post(w->sim, leader, &low);
    uint64_t t = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 100), REPLOG_RESOURCE_EXHAUSTED);
    low.low = false;
    sim_node_post(w->sim, leader, &low);
    t = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 1000), REPLOG_OK);
    world_disk_delay(w, leader, 6000);
    world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    world_run(w, 4500);
    uint64_t next = 0;
    for (uint64_t id = 1; id <= 3; id++)
        if (id != leader && world_snapshot(w, id).role == RAFT_LEADER) next = id;
    assert_true(next != 0);
    world_free(w);
}

/* A block of the leader's rots that a follower needs: somebody else must lead. */
static void a_leader_that_cannot_feed_a_follower_steps_down(void **state) {
    (void)state;
    uint64_t leader, away;
    struct world *w = one_is_away(21, 200, &leader, &away);
    world_run(w, 500);
    struct sim_member *m = sim_member(w->sim, leader);
    unsigned found = 0; /* the second segment that there is */
    for (unsigned number = 1; number < 50 && found < 2; number++) {
        char path[40];
        snprintf(path, sizeof path, "d/%016x.seg", number);
        found += disk_mem_damage(m->disk.mem, path, 40000, found ? 1 : 0) == REPLOG_OK;
    }
    assert_int_equal(found, 2);
    sim_member_damaged(m, SIM_DISK_DAMAGED);
    world_start(w, away);
    world_run(w, 5000);
    uint64_t next = world_leader(w, 10000);
    assert_true(next != 0 && next != leader);
    assert_int_equal(world_snapshot(w, away).commit_seq, world_snapshot(w, next).commit_seq);
    world_free(w);
}

/* The leader begins a stream with an answer that came late, while its own connection is down, and
 * truncates beyond that position before it is up again. */
static void a_stream_from_below_the_first_seq_begins_anew(void **state) {
    (void)state;
    struct world *w = world_new(3, 22);
    w->options->checkpoint_ms = 100;
    w->options->tail_bytes = 1000;
    world_start_all(w);
    uint64_t leader = world_leader(w, 10000), late = other(w, leader, 0);
    assert_true(world_settle(w, 3000));
    sim_net_delay(w->sim, (unsigned)late, (unsigned)leader, 300000);
    for (int i = 0; i < 40; i++) {
        world_append(w, leader, "key", "value", 4, NODE_ACK_QUORUM, 0, 0, 0);
        world_run(w, 10);
    }
    world_cut(w, leader, late, true);
    world_run(w, 700);
    uint64_t t = world_ask(w, leader, NODE_EV_TRUNCATE, world_snapshot(w, late).commit_seq, false);
    assert_int_equal(world_wait(w, t, 12000), REPLOG_OK);
    assert_true(world_snapshot(w, leader).first_seq > 100);
    world_append(w, leader, "key", "value", 4, NODE_ACK_QUORUM, 0, 0, 0);
    sim_net_delay(w->sim, (unsigned)late, (unsigned)leader, 0);
    world_cut(w, leader, late, false);
    assert_true(world_settle(w, 5000));
    world_free(w);
}

/* A repeat needs no room. Were it refused, its client would take the number behind it for refused
 * too, and that one would be the next that the session expects. */
static void a_repeat_is_not_refused_for_want_of_room(void **state) {
    (void)state;
    struct world *w = world_new(3, 24);
    char value[900];
    memset(value, 'v', sizeof value - 1);
    value[sizeof value - 1] = 0;
    w->options->pending_bytes = 1500;
    world_start_all(w);
    uint64_t leader = world_leader(w, 10000);
    assert_true(world_settle(w, 3000));
    uint64_t session = open_session(w, leader);
    assert_true(world_settle(w, 3000));
    for (unsigned i = 0; i < 2; i++) world_cut(w, leader, other(w, leader, i), true);
    uint64_t first = world_append(w, leader, "a", value, 1, NODE_ACK_QUORUM, session, 1, 0);
    world_run(w, 20);
    uint64_t repeat = world_append(w, leader, "a", value, 1, NODE_ACK_QUORUM, session, 1, 0);
    uint64_t next = world_append(w, leader, "b", value, 1, NODE_ACK_QUORUM, session, 2, 0);
    world_run(w, 20);
    assert_false(world_request(w, first)->done);
    assert_false(world_request(w, repeat)->done);
    assert_true(world_request(w, next)->done);
    assert_int_equal(world_request(w, next)->status, REPLOG_RESOURCE_EXHAUSTED);
    world_heal(w);
    world_free(w);
}

/* Blocks gather for a follower that has messages on their way to it, but not for as long as those
 * take: over a long way every append costs one round trip, also the third in a row. */
static void over_a_long_way_nothing_waits_for_an_answer(void **state) {
    (void)state;
    enum { ONE_WAY_MS = 50, N = 6 };
    struct world *w = world_new(3, 23);
    world_start_all(w);
    uint64_t leader = world_leader(w, 10000), tokens[N];
    assert_true(world_settle(w, 3000));
    for (unsigned i = 0; i < 2; i++) {
        unsigned follower = (unsigned)other(w, leader, i);
        sim_net_delay(w->sim, (unsigned)leader, follower, ONE_WAY_MS * 1000ULL);
        sim_net_delay(w->sim, follower, (unsigned)leader, ONE_WAY_MS * 1000ULL);
    }
    world_run(w, 300);
    for (int i = 0; i < N; i++) {
        tokens[i] = world_append(w, leader, "key", "value", 1, NODE_ACK_QUORUM, 0, 0, 0);
        world_run(w, 1);
    }
    world_run(w, 2 * ONE_WAY_MS + 30);
    for (int i = 0; i < N; i++) assert_true(world_request(w, tokens[i])->done);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_repeat_is_not_refused_for_want_of_room),
        cmocka_unit_test(over_a_long_way_nothing_waits_for_an_answer),
        cmocka_unit_test(clusters_of_every_size_take_appends),
        cmocka_unit_test(two_empty_directories_beside_a_silent_one_form_nothing),
        cmocka_unit_test(founding_survives_crashes),
        cmocka_unit_test(a_wiped_directory_is_refused_by_name),
        cmocka_unit_test(a_follower_that_was_away_catches_up_from_files),
        cmocka_unit_test(what_catches_up_is_not_read_back_for_the_store),
        cmocka_unit_test(the_levels_mean_what_they_say),
        cmocka_unit_test(a_leader_alone_steps_down_and_says_so),
        cmocka_unit_test(read_indexes_on_every_node),
        cmocka_unit_test(truncation_waits_for_every_replica),
        cmocka_unit_test(a_checkpoint_names_what_all_stores_hold),
        cmocka_unit_test(retention_drops_what_is_beyond_it_and_nothing_else),
        cmocka_unit_test(a_repeated_append_gets_its_first_answer),
        cmocka_unit_test(a_deposed_leader_denies_no_session),
        cmocka_unit_test(low_space_and_stalls),
        cmocka_unit_test(a_leader_that_cannot_feed_a_follower_steps_down),
        cmocka_unit_test(a_stream_from_below_the_first_seq_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The watcher of the simulator (tests/sim/sim_watch*.c) by itself: what happens to a small cluster
 * is tampered with where no member would, and each checker finds its own. */
#include <stdlib.h>

#include "must_fail.h"
#include "node_world.h"
#include "sim_watch_impl.h"
#include "wal/vote.h"

/* A failure leaves its function by longjmp, and what that held. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0";
}

static struct world *w;
static uint64_t leader, follower;

static void note(const struct sim *sim, const char *text) {
    (void)sim;
    snprintf(must_fail_text, sizeof must_fail_text, "%s", text);
    longjmp(must_fail_jump, 1);
}

static int begin(enum sim_sync sync) {
    w = world_new(3, 1);
    sim_on_fail(note);
    w->sim->sync = sync;
    w->options->acks_are_durable = sync != SIM_SYNC_NONE;
    world_start_all(w);
    leader = world_leader(w, 20000);
    assert_int_not_equal(leader, 0);
    follower = leader % 3 + 1;
    uint64_t token = world_append(w, leader, "k", "v", 3, NODE_ACK_ALL, 0, 0, 0);
    return world_wait(w, token, 5000) == REPLOG_OK && world_settle(w, 5000) ? 0 : -1;
}

static int setup(void **state) {
    (void)state;
    return begin(SIM_SYNC_ALWAYS);
}

static int setup_none(void **state) {
    (void)state;
    return begin(SIM_SYNC_NONE);
}

static int teardown(void **state) {
    (void)state;
    world_free(w);
    return 0;
}

static struct sim_member *member(uint64_t id) {
    return sim_member(w->sim, id);
}

/* ---- What is done behind a member's back, while it is down */

static void cut_log_to(uint64_t id, uint64_t keep_seq) {
    struct wal *wal;
    replog_error err;
    struct wal_options options = {
        .disk = disk_mem_table(member(id)->disk.mem), .dir = SIM_DIR, .member_id = id};
    assert_int_equal(wal_open(&options, &wal, &err), REPLOG_OK);
    assert_int_equal(wal_cut(wal, keep_seq, &err), REPLOG_OK);
    wal_close(wal);
}

static void forget_vote(uint64_t id) {
    const struct disk *disk = disk_mem_table(member(id)->disk.mem);
    struct vote_file vote;
    assert_int_equal(vote_load(disk, SIM_DIR "/VOTE", true, &vote, NULL), REPLOG_OK);
    assert_int_equal(vote_create(disk, SIM_DIR "/VOTE", vote.incarnation, NULL), REPLOG_OK);
}

static void damage_vote(uint64_t id, unsigned copies) {
    for (unsigned i = 0; i < copies; i++)
        (void)disk_mem_damage(member(id)->disk.mem, SIM_DIR "/VOTE", i * 4096 + 40, 1);
}

static void kill(uint64_t id) {
    sim_member_end(member(id), SIM_KILL, DISK_LOSE_NONE);
}

/* ---- Lives */

static void honest_lives(void **state) {
    (void)state;
    MUST_PASS(for (uint64_t id = 1; id <= 3; id++) world_crash(w, id); world_start_all(w);
              world_run(w, 3000); kill(follower); sim_member_start(member(follower));
              world_run(w, 1000));
}

static void forgets_what_it_acknowledged(void **state) {
    (void)state;
    uint64_t last = wal_tail(member(follower)->wal).seq;
    world_crash(w, follower);
    cut_log_to(follower, last - 4);
    MUST_FAIL("[lost]", sim_member_start(member(follower)));
}

/* The tail of a leader that nobody else has: durable there, acknowledged (LEADER), not committed.
 */
static void forgets_what_nobody_knows(void **state) {
    (void)state;
    uint64_t committed = wal_tail(member(leader)->wal).seq;
    world_isolate(w, leader, true);
    uint64_t token = world_append(w, leader, "k", "v", 1, NODE_ACK_LEADER, 0, 0, 0);
    assert_int_equal(world_wait(w, token, 300), REPLOG_OK);
    world_crash(w, leader);
    MUST_PASS(sim_member_start(member(leader)));
    world_crash(w, leader);
    cut_log_to(leader, committed);
    MUST_FAIL("it was durable up to", sim_member_start(member(leader)));
}

static void forgets_its_vote(void **state) {
    (void)state;
    world_crash(w, follower);
    forget_vote(follower);
    MUST_FAIL("[vote]", sim_member_start(member(follower)));
}

/* That its disk was damaged, or its store lost, allows it to stay down, and nothing else. */
static void damaged_and_forgetful(void **state) {
    (void)state;
    uint64_t last = wal_tail(member(follower)->wal).seq, other = follower % 3 + 1;
    world_crash(w, follower);
    sim_member_damaged(member(follower), SIM_DISK_DAMAGED);
    forget_vote(follower);
    MUST_FAIL("[vote]", sim_member_start(member(follower)));
    world_crash(w, other);
    sim_member_damaged(member(other), SIM_STORE_WIPED);
    cut_log_to(other, last - 4);
    MUST_FAIL("[lost]", sim_member_start(member(other)));
}

static void wiped_and_forgetful(void **state) {
    (void)state;
    world_crash(w, follower);
    world_wipe(w, follower);
    MUST_PASS(sim_member_start(member(follower)));
}

static void refuses_with_and_without_reason(void **state) {
    (void)state;
    world_crash(w, follower);
    damage_vote(follower, 1);
    sim_member_damaged(member(follower), SIM_VOTE_COPY_DAMAGED);
    MUST_PASS(sim_member_start(member(follower)));
    assert_true(member(follower)->running);
    assert_false(member(follower)->excused);
    world_crash(w, follower);
    damage_vote(follower, 2);
    MUST_PASS(sim_member_start(member(follower))); /* both are gone: it may stay down */
    assert_false(member(follower)->running);
    uint64_t other = follower % 3 + 1;
    world_crash(w, other);
    damage_vote(other, 2);
    MUST_FAIL("[start]", sim_member_start(member(other)));
}

static void another_store(void **state) {
    (void)state;
    struct store *store = member(follower)->disk.store;
    struct store_op op = {.key = {(const uint8_t *)"x", 1}, .value = {(const uint8_t *)"y", 1}};
    replog_error err;
    uint64_t applied = store->ops->applied(store), durable;
    assert_int_equal(store->ops->write(store, &op, 1, applied, &err), REPLOG_OK);
    assert_int_equal(store->ops->flush(store, &durable, &err), REPLOG_OK);
    kill(follower);
    MUST_FAIL("is not what the log makes", sim_member_start(member(follower)));
}

/* ---- What members say and do */

static void sends(uint64_t id, struct raft_msg raft) {
    struct node_effect fx = {.type = NODE_FX_SEND, .peer = raft.to};
    fx.msg.kind = PEER_RAFT;
    fx.msg.raft = raft;
    sim_watch_effect(member(id), &fx);
}

static void says_what_is_not_so(void **state) {
    (void)state;
    const struct wal_vote vote = wal_vote(member(follower)->wal);
    struct raft_msg m = {.type = RAFT_APPEND_REPLY, .to = leader, .term = vote.term, .ok = true};
    m.seq = wal_tail(member(follower)->wal).seq;
    MUST_PASS(sends(follower, m));
    m.seq++;
    MUST_FAIL("[durable]", sends(follower, m));
    assert_int_not_equal(vote.voted_for, 0);
    m = (struct raft_msg){
        .type = RAFT_VOTE_REPLY, .to = vote.voted_for, .term = vote.term, .ok = true};
    MUST_PASS(sends(follower, m));
    m.to = vote.voted_for % 3 + 1;
    MUST_FAIL("[vote]", sends(follower, m));
    sim_member_damaged(member(follower), SIM_DISK_DAMAGED);
    MUST_FAIL("[vote]", sends(follower, m));
}

static void cuts_and_refuses_what_it_must_not(void **state) {
    (void)state;
    struct node_effect fx = {.type = NODE_FX_CUT};
    fx.seq = wal_tail(member(follower)->wal).seq - 4;
    MUST_FAIL("[cut]", sim_watch_effect(member(follower), &fx));
    fx = (struct node_effect){.type = NODE_FX_REFUSE};
    snprintf(fx.text, sizeof fx.text,
             "member 1 has term 5 at seq 4, where term 4 is committed here");
    MUST_FAIL("[refused]", sim_watch_effect(member(follower), &fx));
}

static void workers_say_too_much(void **state) {
    (void)state;
    struct sim_member *m = member(follower);
    struct node_event ev = {.type = NODE_EV_APPLIED, .seq = wal_tail(m->wal).seq + 1};
    MUST_FAIL("[apply]", sim_watch_event(m, &ev));
    ev.type = NODE_EV_FLUSHED;
    MUST_FAIL("[checkpoint]", sim_watch_event(m, &ev));
    ev.type = NODE_EV_TRUNCATED;
    ev.base.seq = ev.seq;
    MUST_FAIL("[truncate]", sim_watch_event(m, &ev));
}

static void flushes_too_late(void **state) {
    (void)state;
    struct sim_member *m = member(follower);
    struct node_effect fx = {.type = NODE_FX_FLUSH};
    struct node_event ev = {.type = NODE_EV_APPLIED, .seq = 1};
    sim_watch_effect(m, &fx);
    for (int i = 0; i < 12; i++) MUST_PASS(sim_watch_event(m, &ev));
    MUST_FAIL("[flush]", sim_watch_event(m, &ev));
    MUST_PASS(sim_watch_event(m, &(struct node_event){.type = NODE_EV_FLUSHED}));
    MUST_PASS(sim_watch_event(m, &ev));
}

static void a_second_cluster(void **state) {
    (void)state;
    struct node_event ev = {.type = NODE_EV_FOUND_SAVED, .founding = WAL_FOUNDED};
    MUST_PASS(sim_watch_event(member(follower), &ev));
    w->sim->watch->cluster_id++;
    MUST_FAIL("[one-cluster]", sim_watch_event(member(follower), &ev));
}

/* Once all is healed a member that is whole runs, a leader is there, and what is asked for is done,
 * everywhere. */
static void no_progress(void **state) {
    (void)state;
    MUST_FAIL("nothing that was appended after the faults", sim_watch_finish(w->sim));
    MUST_PASS(sim_watch_healed(w->sim); world_run(w, 2000); sim_watch_finish(w->sim));
    kill(follower);
    MUST_FAIL("is down, and its disk is not damaged", sim_watch_healed(w->sim));
    MUST_FAIL("is down, and its disk is not damaged", sim_watch_finish(w->sim));
    MUST_PASS(sim_member_start(member(follower)); world_run(w, 2000); sim_watch_finish(w->sim));
    world_isolate(w, follower, true);
    uint64_t token = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, token, 5000), REPLOG_OK);
    world_run(w, 2000);
    MUST_FAIL("are committed", sim_watch_finish(w->sim));
    world_isolate(w, leader, true);
    world_run(w, 10000);
    MUST_FAIL("no leader is ready", sim_watch_healed(w->sim));
}

/* ---- --sync none */

static void none_loses_by_power_only(void **state) {
    (void)state;
    world_run(w, 500); /* synced */
    uint64_t synced = wal_durable(member(leader)->wal).seq;
    uint64_t token = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, token, 100), REPLOG_OK);
    assert_true(wal_tail(member(leader)->wal).seq > synced);
    assert_int_equal(wal_durable(member(leader)->wal).seq, synced);
    kill(follower);
    cut_log_to(follower, synced);
    MUST_FAIL("[lost]", sim_member_start(member(follower)));
    assert_false(sim_has_lost(w->sim));
    sim_member_end(member(leader), SIM_POWER, DISK_LOSE_ALL);
    assert_true(sim_has_lost(w->sim));
    MUST_PASS(sim_member_start(member(leader)));
    world_crash(w, leader);
    cut_log_to(leader, synced - 4);
    MUST_FAIL("[lost]", sim_member_start(member(leader)));
}

static void none_applies_what_is_synced(void **state) {
    (void)state;
    world_run(w, 500);
    uint64_t token = world_append(w, leader, "k", "v", 1, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, token, 100), REPLOG_OK);
    struct node_event ev = {.type = NODE_EV_APPLIED, .seq = wal_tail(member(leader)->wal).seq};
    MUST_FAIL("[apply]", sim_watch_event(member(leader), &ev));
}

#define TEST(f)      cmocka_unit_test_setup_teardown(f, setup, teardown)
#define TEST_NONE(f) cmocka_unit_test_setup_teardown(f, setup_none, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(honest_lives),
        TEST(forgets_what_it_acknowledged),
        TEST(forgets_what_nobody_knows),
        TEST(forgets_its_vote),
        TEST(damaged_and_forgetful),
        TEST(wiped_and_forgetful),
        TEST(refuses_with_and_without_reason),
        TEST(another_store),
        TEST(says_what_is_not_so),
        TEST(cuts_and_refuses_what_it_must_not),
        TEST(workers_say_too_much),
        TEST(flushes_too_late),
        TEST(a_second_cluster),
        TEST(no_progress),
        TEST_NONE(none_loses_by_power_only),
        TEST_NONE(none_applies_what_is_synced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

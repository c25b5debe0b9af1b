/* test_raft_scenarios.c: scripted scenarios of the replication core, each with a golden trace. */
#include "raft_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static struct raft *core(struct world *w, uint64_t id) {
    return w->members[id].raft;
}

static struct packet first_answer(struct world *w, enum raft_msg_type type) {
    for (int i = 0; i < 100; i++) {
        for (size_t k = 0; k < w->n_packets; k++) {
            if (w->packets[k].msg.type == type) return w->packets[k];
        }
        assert_true(deliver_one(w));
    }
    fail_msg("no such answer");
    return (struct packet){0};
}

static void deliver_late(struct world *w, const struct packet *packet) {
    w->packets[w->n_packets++] = *packet;
    deliver(w, w->n_packets - 1);
}

/* ---- Sizes */
static void one_member(void **state) {
    (void)state;
    struct world *w = world_new(1, 1, true);
    world_say(w, "A single voter leads at its first tick, once its vote is durable.");
    w->members[1].votes_held = true;
    tick(w, 1);
    assert_int_equal(raft_role(core(w, 1)), RAFT_CANDIDATE);
    w->members[1].votes_held = false;
    deliver_all(w);
    expect_leader(w, 1);
    expect_commit(w, 1, 1);
    world_say(w, "Its own disk is the majority; reads wait for nobody.");
    w->members[1].disk_held = true;
    append(w, 1, 4);
    deliver_all(w);
    expect_commit(w, 1, 1);
    w->members[1].disk_held = false;
    deliver_all(w);
    expect_commit(w, 1, 5);
    ask_read(w, 1);
    assert_int_equal(w->reads_ok, 1);
    run_ms(w, 5000);
    expect_leader(w, 1);
    world_end(w, "one_member");
}

static void two_members(void **state) {
    (void)state;
    struct world *w = world_new(2, 2, true);
    world_say(w, "Of two, both are the majority.");
    elect(w, 1);
    expect_commit(w, 2, 1);
    crash(w, 2);
    append(w, 1, 1);
    deliver_all(w);
    expect_commit(w, 1, 1);
    world_say(w, "Back in time, the other one gets what it missed.");
    restart(w, 2);
    run_ms(w, 200);
    expect_leader(w, 1);
    expect_commit(w, 1, 2);
    expect_commit(w, 2, 2);
    world_end(w, "two_members");
}

static void five_members(void **state) {
    (void)state;
    struct world *w = world_new(5, 5, true);
    world_say(w, "Five members bear the loss of two, and not of three.");
    elect(w, 3);
    crash(w, 1);
    crash(w, 5);
    append(w, 3, 1);
    deliver_all(w);
    expect_commit(w, 3, 2);
    crash(w, 2);
    append(w, 3, 1);
    deliver_all(w);
    expect_commit(w, 3, 2);
    restart(w, 2);
    run_ms(w, 200);
    expect_commit(w, 3, 3);
    world_end(w, "five_members");
}

/* ---- Replication */
static void basic_replication(void **state) {
    (void)state;
    struct world *w = world_new(3, 3, true);
    elect(w, 1);
    world_say(w, "Blocks of several records; positions are their ends.");
    append(w, 1, 5);
    append(w, 1, 1);
    append(w, 1, 100);
    deliver_all(w);
    for (uint64_t id = 1; id <= 3; id++) expect_commit(w, id, 107);
    world_say(w, "A leader whose own disk is slow commits with the disks of the others.");
    w->members[1].disk_held = true;
    append(w, 1, 2);
    deliver_all(w);
    expect_commit(w, 1, 109);
    assert_int_equal(raft_persisted(core(w, 1)), 107);
    w->members[1].disk_held = false;
    world_say(w, "A follower's word counts when its disk has the block, not before.");
    w->members[2].disk_held = w->members[3].disk_held = true;
    append(w, 1, 1);
    deliver_all(w);
    expect_commit(w, 1, 109);
    assert_int_equal(raft_last(core(w, 2)), 110);
    assert_int_equal(raft_match(core(w, 1), 2), 109);
    w->members[2].disk_held = false;
    deliver_all(w);
    expect_commit(w, 1, 110);
    expect_commit(w, 3, 110);
    world_end(w, "basic_replication");
}

static void repeated_and_reordered(void **state) {
    (void)state;
    struct world *w = world_new(3, 4, true);
    elect(w, 1);
    crash(w, 3);
    w->packet_blocks = 1;
    world_say(w, "Three blocks are on their way to 2, one message each; the second comes first.");
    for (int i = 0; i < 3; i++) append(w, 1, 2);
    size_t n = count_packets(w, 1, RAFT_APPEND);
    assert_int_equal(n, 3);
    struct packet first = w->packets[0], third = w->packets[2];
    deliver(w, 1);
    world_say(w, "There is a gap: 2 refuses it and names its end. What was refused does no harm.");
    assert_int_equal(raft_last(core(w, 2)), 1);
    deliver_all(w);
    for (uint64_t id = 1; id <= 2; id++) expect_commit(w, id, 7);
    world_say(w, "The third and then the first once more: nothing is written, nothing is cut.");
    uint64_t epoch = raft_epoch(core(w, 2));
    w->packets[w->n_packets++] = third;
    w->packets[w->n_packets++] = first;
    deliver(w, 0);
    deliver(w, 0);
    assert_int_equal(w->members[2].to_disk.n, 0);
    assert_int_equal(raft_epoch(core(w, 2)), epoch);
    assert_int_equal(raft_last(core(w, 2)), 7);
    deliver_all(w);
    world_say(w, "The first with a new block behind it: only the new one is written.");
    crash(w, 3);
    append(w, 1, 1);
    struct packet both = w->packets[w->n_packets - 1];
    lose(w, w->n_packets - 1);
    both.blocks[1] = both.blocks[0];
    both.blocks[0] = third.blocks[0];
    both.n_blocks = 2;
    both.msg.seq = third.msg.seq;
    w->packets[w->n_packets++] = both;
    deliver(w, w->n_packets - 1);
    assert_int_equal(w->members[2].to_disk.n, 1);
    deliver_all(w);
    expect_commit(w, 1, 8);
    world_end(w, "repeated_and_reordered");
}

static void lost_blocks_are_noticed(void **state) {
    (void)state;
    struct world *w = world_new(3, 9, true);
    elect(w, 1);
    world_say(w, "A block to 3 is lost and nobody says so: the next heartbeat finds the gap.");
    isolate(w, 3, true);
    append(w, 1, 1);
    deliver_all(w);
    isolate(w, 3, false);
    assert_int_equal(raft_last(core(w, 3)), 1);
    run_ms(w, 150);
    expect_log(w, 3, "1 1");
    expect_commit(w, 3, 2);
    world_end(w, "lost_blocks_are_noticed");
}

static void restarted_follower(void **state) {
    (void)state;
    struct world *w = world_new(3, 10, true);
    elect(w, 1);
    append(w, 1, 1);
    deliver_all(w);
    world_say(w, "3 has a block in memory only when it crashes; it comes back and gets it again.");
    w->members[3].disk_held = true;
    append(w, 1, 1);
    deliver_all(w);
    assert_int_equal(raft_last(core(w, 3)), 3);
    crash(w, 3);
    w->members[3].disk_held = false;
    append(w, 1, 1);
    deliver_all(w);
    restart(w, 3);
    assert_int_equal(raft_last(core(w, 3)), 2);
    run_ms(w, 200);
    expect_leader(w, 1);
    expect_log(w, 3, "1 1 1 1");
    expect_commit(w, 3, 4);
    world_end(w, "restarted_follower");
}

/* A window that is used by what nobody acknowledges would stay closed for ever. */
static void sent_though_it_was_there(void **state) {
    (void)state;
    struct world *w = world_new(3, 13, true);
    elect(w, 1);
    isolate(w, 3, true);
    pass_ms(w, WORLD_HEARTBEAT_MS);
    tick(w, 1);
    struct packet early = first_answer(w, RAFT_APPEND_REPLY);
    deliver_all(w);
    world_say(w,
              "2 has blocks 2 and 3 durably, but its answers are slow, and 1 is cut off from it.");
    append(w, 1, 1);
    append(w, 1, 1);
    struct packet late = {0};
    while (late.msg.seq != 3) {
        late = first_answer(w, RAFT_APPEND_REPLY);
        for (size_t i = 0; i < w->n_packets;) {
            if (w->packets[i].msg.type == RAFT_APPEND_REPLY)
                lose(w, i);
            else
                i++;
        }
    }
    assert_int_equal(raft_match(core(w, 1), 2), 1);
    w->lazy = true;
    lost_connection(w, 1, 2);
    world_say(w, "An answer of before that starts the stream at 2. Then 1 hears of 2 and 3.");
    deliver_late(w, &early);
    assert_int_equal(w->members[1].streams[2].next_after, 1);
    deliver_late(w, &late);
    assert_int_equal(raft_match(core(w, 1), 2), 3);
    world_say(w, "They are sent again, and acknowledged again.");
    w->lazy = false;
    pump(w, 1);
    assert_int_equal(w->members[1].streams[2].owed, 3);
    deliver_all(w);
    assert_int_equal(w->members[1].streams[2].owed, 0);
    world_end(w, "sent_though_it_was_there");
}

static void truncated_logs(void **state) {
    (void)state;
    struct world *w = world_new(3, 11, true);
    elect(w, 1);
    for (int i = 0; i < 5; i++) append(w, 1, 3);
    deliver_all(w);
    run_ms(w, 200);
    world_say(
        w, "All have absorbed 10 and drop it; leadership moves, and one restarts from its base.");
    for (uint64_t id = 1; id <= 3; id++) {
        w->members[id].applied = 10;
        set_base(w, id, 10);
        assert_int_equal(raft_term_at(core(w, id), 9), 0);
        assert_int_equal(raft_term_at(core(w, id), 10), 1);
        assert_int_equal(raft_term_at(core(w, id), 11), 1);
    }
    crash(w, 3);
    restart(w, 3);
    elect(w, 2);
    append(w, 2, 1);
    deliver_all(w);
    for (uint64_t id = 1; id <= 3; id++) expect_commit(w, id, 18);
    world_say(w, "A base at the tail leaves a log of no blocks, whose end still has a term.");
    set_base(w, 2, 18);
    assert_int_equal(raft_term_at(core(w, 2), 18), 2);
    append(w, 2, 1);
    deliver_all(w);
    expect_commit(w, 1, 19);
    world_end(w, "truncated_logs");
}

/* A tail that is cut while its write is under way: the late "persisted" is not about what is there.
 */
static void late_persisted(void **state) {
    (void)state;
    struct world *w = world_new(3, 12, true);
    world_say(w, "1 leads term 2 alone: its blocks 2 to 5 reach nobody.");
    for (uint64_t id = 1; id <= 3; id++) log_of(w, id, 1, "1");
    w->lose_term = 2;
    elect(w, 1);
    isolate(w, 1, true);
    for (int i = 0; i < 3; i++) append(w, 1, 1);
    w->lose_term = 0;
    world_say(w, "They are durable, and the core of 1 has not heard of it.");
    while (disk_step(w, 1)) {}
    assert_int_equal(raft_persisted(core(w, 1)), 2);
    w->members[1].disk_held = true;
    world_say(w, "2 leads term 3 with other blocks from 2 on. 1 cuts, and its disk is busy.");
    elect(w, 2);
    for (int i = 0; i < 3; i++) append(w, 2, 1);
    deliver_all(w);
    isolate(w, 1, false);
    run_ms(w, 100);
    expect_log(w, 1, "1 3 3 3 3");
    assert_int_equal(raft_epoch(core(w, 1)), 2);
    world_say(w,
              "Now the core of 1 hears that its disk has all up to 5: of the tail that is gone.");
    while (complete_step(w, 1)) {}
    assert_int_equal(raft_persisted(core(w, 1)), 1);
    run_ms(w, 100);
    assert_int_equal(raft_match(core(w, 2), 1), 1);
    w->members[1].disk_held = false;
    deliver_all(w);
    assert_int_equal(raft_match(core(w, 2), 1), 5);
    world_end(w, "late_persisted");
}

/* ---- Elections */
static void vote_is_saved_first(void **state) {
    (void)state;
    struct world *w = world_new(3, 13, true);
    world_say(w,
              "1 wins the pre-vote. While its disk is busy it asks for no vote, nor has its own.");
    w->members[1].votes_held = w->members[2].votes_held = true;
    stand(w, 1);
    assert_int_equal(raft_role(core(w, 1)), RAFT_CANDIDATE);
    assert_int_equal(count_packets(w, 1, RAFT_VOTE), 0);
    assert_int_equal(raft_term(core(w, 2)), 0);
    w->members[1].votes_held = false;
    isolate(w, 3, true);
    world_say(w, "Now it asks; 2 has granted, and does not say so before its own disk has it.");
    deliver_all(w);
    assert_int_equal(raft_term(core(w, 2)), 1);
    assert_int_equal(raft_role(core(w, 1)), RAFT_CANDIDATE);
    assert_int_equal(count_packets(w, 2, RAFT_VOTE_REPLY), 0);
    w->members[2].votes_held = false;
    deliver_all(w);
    expect_leader(w, 1);
    world_end(w, "vote_is_saved_first");
}

static void blocks_before_the_vote(void **state) {
    (void)state;
    struct world *w = world_new(3, 14, true);
    world_say(
        w, "A new leader's blocks reach 3 while the new term is not on its disk: it writes them");
    world_say(w, "and answers when the term is durable.");
    w->members[3].votes_held = true;
    elect(w, 1);
    deliver_all(w);
    assert_int_equal(w->members[3].disk_term, 0);
    run_ms(w, 200);
    assert_int_equal(raft_match(core(w, 1), 3), 0);
    w->members[3].votes_held = false;
    deliver_all(w);
    run_ms(w, 100);
    assert_int_equal(raft_match(core(w, 1), 3), 1);
    world_end(w, "blocks_before_the_vote");
}

static void pre_vote(void **state) {
    (void)state;
    struct world *w = world_new(3, 15, true);
    elect(w, 1);
    world_say(w, "3 is cut off for long. It stands and stands, and its term stays.");
    isolate(w, 3, true);
    run_ms(w, 8000);
    assert_int_equal(raft_role(core(w, 3)), RAFT_PRECANDIDATE);
    assert_int_equal(raft_term(core(w, 3)), 1);
    world_say(w, "Back again it disturbs nobody, even if it asks first.");
    isolate(w, 3, false);
    pass_ms(w, 10);
    world_event(w, 3, &(struct raft_event){.type = RAFT_EV_MAY_STAND});
    run_ms(w, 3000);
    expect_leader(w, 1);
    assert_int_equal(raft_term(core(w, 1)), 1);
    assert_int_equal(raft_leader(core(w, 3)), 1);
    world_end(w, "pre_vote");
}

/* A killed leader's connections break at once: nobody has to wait for its silence to grow long. */
static void lost_leader(void **state) {
    (void)state;
    struct world *w = world_new(3, 26, true);
    elect(w, 1);
    run_ms(w, 100);
    world_say(w, "Only 3 loses its connection to the leader. It asks, and is refused: 2 hears 1.");
    lost_connection(w, 3, 1);
    run_ms(w, 400);
    expect_leader(w, 1);
    assert_int_equal(raft_term(core(w, 1)), 1);
    world_say(w, "The leader is killed, both notice: a new one within a fraction of the timeout.");
    crash(w, 1);
    lost_connection(w, 2, 1);
    lost_connection(w, 3, 1);
    run_ms(w, WORLD_ELECTION_MS / 2);
    assert_true(raft_role(core(w, 2)) == RAFT_LEADER || raft_role(core(w, 3)) == RAFT_LEADER);
    world_end(w, "lost_leader");
}

static void votes_refused_while_led(void **state) {
    (void)state;
    struct world *w = world_new(3, 16, true);
    elect(w, 1);
    run_ms(w, 100);
    world_say(
        w, "A vote of a far term is asked for while the leader is heard: refused, the term stays.");
    struct packet vote = {
        .msg = {.type = RAFT_VOTE, .from = 3, .to = 2, .term = 9, .seq = 1, .seq_term = 1}};
    w->packets[w->n_packets++] = vote;
    vote.msg.to = 1;
    w->packets[w->n_packets++] = vote;
    deliver_all(w);
    expect_leader(w, 1);
    assert_int_equal(raft_term(core(w, 1)), 1);
    assert_int_equal(raft_term(core(w, 2)), 1);
    world_say(w, "One that may not stand votes, and never asks.");
    w->members[2].may_stand = false;
    crash(w, 2);
    restart(w, 2);
    crash(w, 1);
    pass_ms(w, 5000);
    tick(w, 2);
    deliver_all(w);
    assert_int_equal(raft_role(core(w, 2)), RAFT_FOLLOWER);
    elect(w, 3);
    world_end(w, "votes_refused_while_led");
}

static void check_quorum(void **state) {
    (void)state;
    struct world *w = world_new(3, 17, true);
    elect(w, 1);
    run_ms(w, 100);
    world_say(w, "1 hears nobody any more and steps down by itself; the others elect one of them.");
    isolate(w, 1, true);
    append(w, 1, 1);
    run_ms(w, 2000);
    assert_int_not_equal(raft_role(core(w, 1)), RAFT_LEADER);
    run_ms(w, 4000);
    uint64_t leader = only_leader(w);
    assert_true(leader == 2 || leader == 3);
    world_say(w, "Its block was never committed, and is overwritten when it is back.");
    isolate(w, 1, false);
    run_ms(w, 300);
    expect_log(w, 1, "1 2");
    world_end(w, "check_quorum");
}

static void transfer(void **state) {
    (void)state;
    struct world *w = world_new(3, 18, true);
    elect(w, 1);
    run_ms(w, 100);
    world_say(w, "1 hands over to 2, which first has to have everything.");
    w->members[2].disk_held = true;
    append(w, 1, 1);
    deliver_all(w);
    hand_over(w, 1, 2);
    assert_int_equal(raft_transferring(core(w, 1)), 2);
    deliver_all(w);
    expect_leader(w, 1);
    w->members[2].disk_held = false;
    deliver_all(w);
    expect_leader(w, 2);
    assert_int_equal(raft_role(core(w, 1)), RAFT_FOLLOWER);
    assert_int_equal(raft_transferring(core(w, 1)), 0);
    world_say(w, "To nobody in particular: to one that has most. A dead one gets nothing.");
    crash(w, 1);
    run_ms(w, 1100);
    hand_over(w, 2, 0);
    deliver_all(w);
    expect_leader(w, 3);
    world_say(w, "A handover that does not come about is given up.");
    hand_over(w, 3, 1);
    assert_int_equal(raft_transferring(core(w, 3)), 1);
    run_ms(w, 1100);
    assert_int_equal(raft_transferring(core(w, 3)), 0);
    expect_leader(w, 3);
    world_say(w, "A leader whose disk stalls gives up, and lets the others stand first.");
    world_event(w, 3, &(struct raft_event){.type = RAFT_EV_STEP_DOWN});
    assert_int_equal(raft_role(core(w, 3)), RAFT_FOLLOWER);
    run_ms(w, 2100);
    expect_leader(w, 2);
    world_end(w, "transfer");
}

/* Answers that come when the one who asked is in a later term. */
static void deliver_until(struct world *w, uint64_t id, enum raft_role role) {
    for (int i = 0; i < 100 && raft_role(core(w, id)) != role; i++) assert_true(deliver_one(w));
    assert_int_equal(raft_role(core(w, id)), role);
}

static void answers_of_old_terms(void **state) {
    (void)state;
    struct world *w = world_new(3, 26, true);
    world_say(w, "1 leads term 1; copies of the answers that it gets are kept.");
    isolate(w, 3, true);
    pass_ms(w, 2000);
    tick(w, 1);
    struct packet prevote = first_answer(w, RAFT_PREVOTE_REPLY);
    struct packet vote = first_answer(w, RAFT_VOTE_REPLY);
    deliver_until(w, 1, RAFT_LEADER);
    for (int i = 0; i < 3; i++) append(w, 1, 1);
    deliver_all(w);
    pass_ms(w, 100);
    tick(w, 1);
    struct packet ack = first_answer(w, RAFT_APPEND_REPLY);
    assert_true(ack.msg.ok && ack.msg.seq == 4);
    deliver_all(w);
    world_say(w, "Deposed, it stands again: an old pre-vote does not make it a candidate,");
    world_event(w, 1, &(struct raft_event){.type = RAFT_EV_STEP_DOWN});
    pass_ms(w, 5000);
    tick(w, 1);
    deliver_late(w, &prevote);
    assert_int_equal(raft_role(core(w, 1)), RAFT_PRECANDIDATE);
    world_say(w, "an old vote does not make it the leader,");
    deliver_until(w, 1, RAFT_CANDIDATE);
    while (count_packets(w, 1, RAFT_VOTE) == 0) assert_true(deliver_one(w));
    deliver_late(w, &vote);
    assert_int_equal(raft_role(core(w, 1)), RAFT_CANDIDATE);
    world_say(w, "and what was durable elsewhere in term 1 has to be said again in term 2.");
    deliver_until(w, 1, RAFT_LEADER);
    assert_int_equal(raft_match(core(w, 1), 2), 0);
    deliver_late(w, &ack);
    assert_int_equal(raft_match(core(w, 1), 2), 0);
    deliver_all(w);
    assert_int_equal(raft_match(core(w, 1), 2), 5);
    world_end(w, "answers_of_old_terms");
}

/* ---- Reads */
static void read_index(void **state) {
    (void)state;
    struct world *w = world_new(3, 19, true);
    world_say(w,
              "No read before the leader has committed an entry of its own term, nor elsewhere.");
    w->lose_term = 1;
    elect(w, 2);
    ask_read(w, 2);
    ask_read(w, 1);
    assert_int_equal(w->reads_failed, 2);
    w->lose_term = 0;
    run_ms(w, 200);
    assert_true(raft_ready(core(w, 2)));
    world_say(w, "A read starts a round. Later ones share the next round, not the one under way.");
    ask_read(w, 2);
    assert_int_equal(count_packets(w, 2, RAFT_APPEND), 2);
    ask_read(w, 2);
    ask_read(w, 2);
    assert_int_equal(count_packets(w, 2, RAFT_APPEND), 2);
    assert_int_equal(w->reads_ok, 0);
    deliver(w, 0);
    deliver(w, 1);
    assert_int_equal(w->reads_ok, 1);
    deliver_all(w);
    assert_int_equal(w->reads_ok, 3);
    world_end(w, "read_index");
}

static void read_of_a_deposed_leader(void **state) {
    (void)state;
    struct world *w = world_new(3, 20, true);
    elect(w, 1);
    world_say(w, "An answer to an older round is under way to 1 when 1 is cut off.");
    pass_ms(w, 100);
    tick(w, 1);
    deliver(w, 0);
    assert_int_equal(count_packets(w, 2, RAFT_APPEND_REPLY), 1);
    struct packet old = w->packets[w->n_packets - 1];
    while (w->n_packets > 0) lose(w, 0);
    isolate(w, 1, true);
    world_say(w, "3 leads, and commits what 1 has never seen.");
    elect(w, 3);
    append(w, 3, 1);
    deliver_all(w);
    expect_commit(w, 3, 3);
    world_say(w, "1 still thinks that it leads. It must not confirm a read, and the old answer "
                 "does not count.");
    expect_leader(w, 1);
    ask_read(w, 1);
    isolate(w, 1, false);
    while (w->n_packets > 0) lose(w, 0);
    w->packets[w->n_packets++] = old;
    deliver(w, 0);
    assert_int_equal(w->reads_ok, 0);
    run_ms(w, 100);
    assert_int_equal(w->reads_ok, 0);
    assert_int_equal(w->reads_failed, 1);
    assert_int_equal(raft_leader(core(w, 1)), 3);
    world_end(w, "read_of_a_deposed_leader");
}

static void reads_are_bounded(void **state) {
    (void)state;
    struct world *w = world_new(3, 21, false);
    elect(w, 1);
    isolate(w, 1, true);
    for (int i = 0; i < 1024; i++) ask_read(w, 1);
    assert_int_equal(w->reads_failed, 0);
    ask_read(w, 1);
    assert_int_equal(w->reads_failed, 1);
    isolate(w, 1, false);
    run_ms(w, 200);
    assert_int_equal(w->reads_ok, 1024);
    world_free(w);
}

/* ---- Hostile or impossible input */
static void malformed_messages(void **state) {
    (void)state;
    struct world *w = world_new(3, 22, false);
    elect(w, 1);
    const struct raft_entry gap = {.first_seq = 9, .last_seq = 9, .term = 1};
    const struct raft_entry backwards = {.first_seq = 2, .last_seq = 1, .term = 1};
    const struct raft_entry future = {.first_seq = 2, .last_seq = 2, .term = 2};
    const struct raft_entry *bad[] = {&gap, &backwards, &future};
    struct raft_effects fx = {0};
    for (size_t i = 0; i < 3; i++) {
        struct raft_msg m = {.type = RAFT_APPEND,
                             .from = 1,
                             .to = 2,
                             .term = 1,
                             .seq = 1,
                             .seq_term = 1,
                             .entries = bad[i],
                             .n_entries = 1};
        raft_step(core(w, 2), &(struct raft_event){.type = RAFT_EV_MESSAGE, .msg = &m}, &fx);
        assert_int_equal(fx.n, 0);
        assert_int_equal(raft_last(core(w, 2)), 1);
    }
    const uint64_t strangers[] = {0, 2, 4, UINT64_MAX};
    for (size_t i = 0; i < 4; i++) {
        struct raft_msg m = {.type = RAFT_APPEND_REPLY, .from = strangers[i], .to = 2, .term = 99};
        raft_step(core(w, 2), &(struct raft_event){.type = RAFT_EV_MESSAGE, .msg = &m}, &fx);
        assert_int_equal(fx.n, 0);
        assert_int_equal(raft_term(core(w, 2)), 1);
    }
    raft_effects_free(&fx);
    world_free(w);
}

static void impossible_messages_are_fatal(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct world *w = world_new(3, 23, false);
        log_of(w, 2, 1, "1 1 1 1");
        w->members[2].applied = 3;
        crash(w, 2);
        restart(w, 2);
        struct raft_entry other = {.first_seq = 3, .last_seq = 3, .term = 2}; /* cuts committed 3 */
        struct raft_msg m = {.type = RAFT_APPEND,
                             .from = 1,
                             .to = 2,
                             .term = 2,
                             .seq = 2,
                             .seq_term = 1,
                             .entries = &other,
                             .n_entries = 1};
        if (i == 1) { /* one term, one beginning, two ends */
            other = (struct raft_entry){.first_seq = 4, .last_seq = 6, .term = 1};
            m.seq = 3;
        } else if (i == 2) { /* another term at a committed position */
            m.seq = 3;
            m.seq_term = 2;
            m.n_entries = 0;
        }
        struct raft_effects fx = {0};
        raft_step(core(w, 2), &(struct raft_event){.type = RAFT_EV_MESSAGE, .msg = &m}, &fx);
        assert_true(fx.n > 0);
        assert_int_equal(fx.items[fx.n - 1].type, RAFT_FX_FATAL);
        assert_non_null(fx.items[fx.n - 1].text);
        raft_step(core(w, 2), &(struct raft_event){.type = RAFT_EV_TICK, .now_ms = 99999}, &fx);
        assert_int_equal(fx.n, 0);
        raft_effects_free(&fx);
        world_free(w);
    }
}

/* A crash between the write of a new term's blocks and that of the vote file. */
static void log_ahead_of_the_vote(void **state) {
    (void)state;
    struct world *w = world_new(3, 24, true);
    world_say(w, "2 comes back with blocks of term 5 and a vote file of term 4: the term is 5.");
    log_of(w, 2, 4, "1 5");
    log_of(w, 1, 4, "1");
    log_of(w, 3, 4, "1");
    assert_int_equal(raft_term(core(w, 2)), 5);
    elect(w, 2);
    assert_int_equal(raft_term(core(w, 2)), 6);
    expect_log(w, 1, "1 5 6");
    world_end(w, "log_ahead_of_the_vote");
}

static void silence(void **state) {
    (void)state;
    struct world *w = world_new(3, 25, false);
    assert_true(raft_silence_ms(core(w, 1), 2) == UINT64_MAX);
    elect(w, 1);
    crash(w, 3);
    run_ms(w, 500);
    assert_int_equal(raft_silence_ms(core(w, 1), 1), 0);
    assert_true(raft_silence_ms(core(w, 1), 2) <= 150);
    assert_true(raft_silence_ms(core(w, 1), 3) >= 500);
    assert_true(raft_silence_ms(core(w, 2), 1) <= 150);
    assert_true(raft_silence_ms(core(w, 2), 3) == UINT64_MAX);
    assert_int_equal(raft_match(core(w, 1), 1), raft_persisted(core(w, 1)));
    assert_int_equal(raft_match(core(w, 2), 1), 0);
    world_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_member),
        cmocka_unit_test(two_members),
        cmocka_unit_test(five_members),
        cmocka_unit_test(basic_replication),
        cmocka_unit_test(repeated_and_reordered),
        cmocka_unit_test(lost_blocks_are_noticed),
        cmocka_unit_test(restarted_follower),
        cmocka_unit_test(sent_though_it_was_there),
        cmocka_unit_test(truncated_logs),
        cmocka_unit_test(late_persisted),
        cmocka_unit_test(vote_is_saved_first),
        cmocka_unit_test(blocks_before_the_vote),
        cmocka_unit_test(pre_vote),
        cmocka_unit_test(lost_leader),
        cmocka_unit_test(votes_refused_while_led),
        cmocka_unit_test(check_quorum),
        cmocka_unit_test(transfer),
        cmocka_unit_test(answers_of_old_terms),
        cmocka_unit_test(read_index),
        cmocka_unit_test(read_of_a_deposed_leader),
        cmocka_unit_test(reads_are_bounded),
        cmocka_unit_test(malformed_messages),
        cmocka_unit_test(impossible_messages_are_fatal),
        cmocka_unit_test(log_ahead_of_the_vote),
        cmocka_unit_test(silence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

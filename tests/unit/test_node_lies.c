/* A member that tells well-formed lies: its stream is refused by name, nothing of what it said
 * reaches the log, the node that heard it goes on, and so does the cluster. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "node_liar.h"

/* A leader, a follower that lies, a follower that listens; all hold the same log. */
struct stage {
    struct world *w;
    uint64_t leader, liar, listener, term;
    struct wal_pos tail; /* of all */
};

static struct wal_pos tail_of(const struct stage *s, uint64_t id) {
    return wal_tail(sim_node_wal(s->w->sim, id));
}

static void fill(struct stage *s, unsigned n) {
    for (unsigned i = 0; i < n; i++) {
        uint64_t t =
            world_append(s->w, s->leader, "key", "value", 1 + i % 4, NODE_ACK_ALL, 0, 0, 0);
        assert_int_equal(world_wait(s->w, t, 3000), REPLOG_OK);
    }
    assert_true(world_settle(s->w, 5000));
    s->tail = tail_of(s, s->leader);
}

static void look(struct stage *s) {
    s->leader = world_leader(s->w, 10000);
    assert_true(s->leader > 0);
    s->liar = s->leader % 3 + 1;
    s->listener = s->liar % 3 + 1;
    s->term = world_snapshot(s->w, s->leader).term;
}

static void set_stage(struct stage *s) {
    *s = (struct stage){.w = world_new(3, 77)};
    world_start_all(s->w);
    look(s);
    fill(s, 12);
}

/* What is true after every lie. */
static void check_stage(struct stage *s) {
    struct world *w = s->w;
    for (uint64_t id = 1; id <= 3; id++) {
        assert_false(liar_is_in_the_log(w, id));
    }
    look(s);
    uint64_t t = world_append(w, s->leader, "key", "after", 3, NODE_ACK_ALL, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 10000), REPLOG_OK);
    assert_true(world_settle(w, 10000));
    world_check_logs(w);
    for (uint64_t id = 1; id <= 3; id++) assert_false(liar_is_in_the_log(w, id));
}

/* `from` says it to `to`: refused, naming `from` and `why`; the log of `to` ends as before. */
static void lie(struct stage *s, uint64_t from, uint64_t to, struct peer_msg msg, const char *why) {
    char name[32];
    /* the stream comes back some time after it was refused */
    for (int i = 0; i < 300 && !sim_net_welcomed(s->w->sim, from, to); i++) world_run(s->w, 10);
    struct wal_pos before = tail_of(s, to);
    world_refused(s->w)[0] = 0;
    assert_true(liar_say(s->w, from, to, msg));
    world_run(s->w, 5);
    snprintf(name, sizeof name, "member %d", (int)from);
    if (!strstr(world_refused(s->w), name) || !strstr(world_refused(s->w), why))
        fail_msg("not refused by name (\"%s\", %s): \"%s\"", name, why, world_refused(s->w));
    struct wal_pos after = tail_of(s, to);
    assert_true(after.seq >= before.seq);
    if (after.seq == before.seq) assert_int_equal(after.chain, before.chain);
    assert_int_equal(world_snapshot(s->w, to).term, s->term);
    check_stage(s);
}

static struct peer_msg blocks_after(const struct stage *s, struct wal_pos prev, uint64_t term,
                                    unsigned n_records) {
    struct buffer out = {0};
    liar_block(&out, prev, term, n_records);
    return liar_append(s->term, prev, s->tail.seq, &out);
}

/* ---- Who leads */

static void a_second_leader_of_the_term(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer none = {0};
    lie(&s, s.liar, s.listener, liar_append(s.term, s.tail, s.tail.seq, &none), "leader");
    lie(&s, s.liar, s.listener, blocks_after(&s, s.tail, s.term, 1), "leader");
    world_free(s.w);
}

static void a_second_leader_to_the_leader_itself(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer none = {0};
    lie(&s, s.liar, s.leader, liar_append(s.term, s.tail, s.tail.seq, &none), "leader");
    lie(&s, s.liar, s.leader, blocks_after(&s, s.tail, s.term, 3), "leader");
    world_free(s.w);
}

/* ---- Terms */

static void a_term_from_the_future(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    static const enum raft_msg_type types[] = {
        RAFT_APPEND,       RAFT_VOTE,    RAFT_VOTE_REPLY, RAFT_PREVOTE_REPLY,
        RAFT_APPEND_REPLY, RAFT_PREVOTE, RAFT_TIMEOUT_NOW};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        struct peer_msg msg = {.kind = PEER_RAFT};
        msg.raft.type = types[i];
        msg.raft.term = i % 2 ? UINT64_MAX : UINT64_MAX / 2;
        msg.raft.transfer = true;
        lie(&s, s.liar, i % 3 ? s.listener : s.leader, msg, "term");
    }
    world_free(s.w);
}

static void a_candidate_whose_log_ends_in_a_later_term(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    for (int i = 0; i < 2; i++) {
        struct peer_msg msg = {.kind = PEER_RAFT};
        msg.raft.type = i ? RAFT_VOTE : RAFT_PREVOTE;
        msg.raft.term = s.term + 1;
        msg.raft.seq = s.tail.seq + 100;
        msg.raft.seq_term = s.term + 7;
        lie(&s, s.liar, s.listener, msg, "term");
    }
    world_free(s.w);
}

static void a_block_of_a_later_term_than_its_leader(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    lie(&s, s.leader, s.listener, blocks_after(&s, s.tail, s.term + 1, 1), "term");
    world_free(s.w);
}

static void terms_that_fall(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    world_crash(s.w, s.leader); /* another term */
    world_run(s.w, 100);
    world_start(s.w, s.leader);
    look(&s);
    fill(&s, 3);
    assert_true(s.tail.term > 1);
    struct buffer out = {0};
    struct wal_pos pos = liar_block(&out, s.tail, s.term, 1);
    liar_block(&out, pos, s.term - 1, 1);
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "term");
    lie(&s, s.leader, s.listener, blocks_after(&s, s.tail, s.term - 1, 1), "term");
    lie(&s, s.leader, s.listener, blocks_after(&s, s.tail, 0, 1), "term");
    world_free(s.w);
}

/* ---- Blocks that do not fit */

static struct peer_msg with_bytes(const struct stage *s, const void *data, size_t n) {
    struct buffer out = {0};
    buffer_append(&out, data, n);
    return liar_append(s->term, s->tail, s->tail.seq, &out);
}

static void what_is_no_block(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer whole = {0};
    liar_block(&whole, s.tail, s.term, 2);
    lie(&s, s.leader, s.listener, with_bytes(&s, "these are no blocks", 19), "block");
    lie(&s, s.leader, s.listener, with_bytes(&s, whole.data, whole.size_bytes - 1), "block");
    whole.data[90] ^= 1; /* a record; the hash is that of before */
    lie(&s, s.leader, s.listener, with_bytes(&s, whole.data, whole.size_bytes), "hash");
    buffer_free(&whole);
    world_free(s.w);
}

static void seqs_with_a_gap(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct wal_pos ahead = s.tail;
    ahead.seq += 5;
    struct buffer out = {0};
    liar_block(&out, ahead, s.term, 1); /* and the message says that they follow the tail */
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "seq");
    struct wal_pos pos = liar_block(&out, s.tail, s.term, 2);
    pos.seq++;
    liar_block(&out, pos, s.term, 1);
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "seq");
    world_free(s.w);
}

static void seqs_at_the_end_of_numbers(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct wal_pos end = s.tail;
    end.seq = UINT64_MAX - 2;
    lie(&s, s.leader, s.listener, blocks_after(&s, end, s.term, 1), "seq");
    world_free(s.w);
}

static void a_chain_that_breaks_within_the_message(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer out = {0};
    struct wal_pos pos = liar_block(&out, s.tail, s.term, 2);
    pos.chain ^= 1;
    liar_block(&out, pos, s.term, 1);
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "chain");
    world_free(s.w);
}

static void a_chain_that_does_not_continue_ours(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct wal_pos other = s.tail;
    other.chain ^= 1;
    lie(&s, s.leader, s.listener, blocks_after(&s, other, s.term, 1), "chain");
    world_free(s.w);
}

static void markers_that_say_nothing(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer out = {0};
    struct slice value = {(const uint8_t *)LIE_VALUE, sizeof LIE_VALUE - 1};
    liar_marker(&out, s.tail, s.term, REPLOG_OP_CHECKPOINT, value);
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "CHECKPOINT");
    liar_marker(&out, s.tail, s.term, REPLOG_OP_CONFIG, value);
    lie(&s, s.leader, s.listener, liar_append(s.term, s.tail, s.tail.seq, &out), "CONFIG");
    world_free(s.w);
}

/* ---- What is there already */

/* Where the n-th block from the end of the listener's log begins: what stands right below it. */
static struct wal_pos below_block(const struct stage *s, unsigned from_end,
                                  struct block_header *block) {
    struct wal *wal = sim_node_wal(s->w->sim, s->listener);
    struct wal_pos pos = wal_tail(wal);
    struct wal_reader *reader;
    const uint8_t *bytes;
    replog_error err;
    uint64_t seq = pos.seq;
    for (unsigned i = 0; i <= from_end; i++) {
        assert_int_equal(wal_reader_open(wal, seq, &reader, &err), REPLOG_OK);
        assert_int_equal(wal_reader_next(reader, UINT64_MAX, block, &bytes, &err), REPLOG_OK);
        wal_reader_close(reader);
        seq = block->first_seq - 1;
    }
    assert_int_equal(wal_pos_at(wal, seq, &pos, &err), REPLOG_OK);
    return pos;
}

/* A new term, and its first block stands where a committed one is. */
static void what_is_committed_written_over(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct block_header h;
    struct wal_pos prev = below_block(&s, 3, &h);
    struct buffer out = {0};
    liar_block(&out, prev, s.term + 1, 1);
    lie(&s, s.liar, s.listener, liar_append(s.term + 1, prev, s.tail.seq, &out), "committed");
    world_free(s.w);
}

/* Of the same term, and of another length. */
static void a_committed_block_of_another_length(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct block_header h;
    struct wal_pos prev = below_block(&s, 0, &h);
    struct buffer out = {0};
    liar_block(&out, prev, s.term, 40);
    lie(&s, s.leader, s.listener, liar_append(s.term, prev, s.tail.seq, &out), "committed");
    world_free(s.w);
}

static void another_term_where_something_is_committed(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer none = {0};
    struct wal_pos pos = s.tail;
    pos.seq -= 2;
    pos.term += 1;
    lie(&s, s.liar, s.listener, liar_append(s.term + 1, pos, pos.seq, &none), "committed");
    world_free(s.w);
}

/* Leaves blocks of several records in the listener's log that are not committed: it hears the
 * leader, the leader does not hear the others. */
static void leave_uncommitted(struct stage *s) {
    struct world *w = s->w;
    world_cut(w, s->listener, s->leader, true);
    world_cut(w, s->liar, s->leader, true);
    world_cut(w, s->leader, s->liar, true);
    world_run(w, 60);
    uint64_t commit = world_snapshot(w, s->listener).commit_seq;
    for (int i = 0; i < 3; i++)
        world_append(w, s->leader, "key", "uncommitted", 5, NODE_ACK_QUORUM, 0, 0, 0);
    world_run(w, 60);
    s->tail = tail_of(s, s->listener);
    assert_true(s->tail.seq > commit + 10);
    assert_int_equal(world_snapshot(w, s->listener).commit_seq, commit);
}

static void heal(struct stage *s) {
    world_heal(s->w);
    world_run(s->w, 3000);
}

/* A position within a block of ours, and a block of a new term behind it. */
static void a_position_within_a_block(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    leave_uncommitted(&s);
    struct block_header h;
    struct wal_pos prev = below_block(&s, 1, &h);
    prev.seq += 2;
    prev.term = h.term;
    struct buffer out = {0};
    struct wal_pos before = tail_of(&s, s.listener);
    liar_block(&out, prev, s.term + 1, 1);
    world_refused(s.w)[0] = 0;
    assert_true(liar_say(s.w, s.liar, s.listener, liar_append(s.term + 1, prev, prev.seq, &out)));
    world_run(s.w, 30);
    assert_non_null(strstr(world_refused(s.w), "block"));
    assert_int_equal(tail_of(&s, s.listener).chain, before.chain); /* nothing was cut */
    heal(&s);
    check_stage(&s);
    world_free(s.w);
}

/* A wrong chain behind a position that would cut the tail: found before the cut. */
static void a_wrong_chain_cuts_nothing(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    leave_uncommitted(&s);
    struct block_header h;
    struct wal_pos prev = below_block(&s, 1, &h);
    prev.chain ^= 4;
    struct buffer out = {0};
    struct wal_pos before = tail_of(&s, s.listener);
    liar_block(&out, prev, s.term + 1, 1);
    world_refused(s.w)[0] = 0;
    assert_true(liar_say(s.w, s.liar, s.listener, liar_append(s.term + 1, prev, prev.seq, &out)));
    world_run(s.w, 30);
    assert_non_null(strstr(world_refused(s.w), "chain"));
    assert_int_equal(tail_of(&s, s.listener).chain, before.chain);
    heal(&s);
    check_stage(&s);
    world_free(s.w);
}

/* The log begins above seq 1; blocks from below it lead over its edge with a term that has long
 * passed. */
static void terms_that_fall_at_the_edge_of_truncation(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    for (int i = 0; i < 2; i++) { /* the edge lies in a term above 1 */
        uint64_t was = s.leader;
        world_crash(s.w, was);
        world_run(s.w, 100);
        world_start(s.w, was);
        look(&s);
        fill(&s, 3);
    }
    uint64_t t = world_ask(s.w, s.leader, NODE_EV_TRUNCATE, s.tail.seq, false);
    assert_int_equal(world_wait(s.w, t, 12000), REPLOG_OK);
    assert_true(world_settle(s.w, 5000));
    world_run(s.w, 500);
    struct wal_pos base = wal_base(sim_node_wal(s.w->sim, s.listener));
    assert_true(base.seq > 0 && base.term > 1);
    s.tail = tail_of(&s, s.listener);
    struct wal_pos below = {base.seq, 0, base.chain};
    struct buffer out = {0};
    liar_block(&out, below, 1, 1);
    lie(&s, s.liar, s.listener, liar_append(s.term + 1, below, base.seq, &out), "term");
    world_free(s.w);
}

/* ---- Answers to the leader */

static struct peer_msg accepted(const struct stage *s, uint64_t seq) {
    struct peer_msg msg = {.kind = PEER_RAFT};
    msg.raft.type = RAFT_APPEND_REPLY;
    msg.raft.term = s->term;
    msg.raft.ok = true;
    msg.raft.seq = msg.raft.seq_term = seq;
    msg.raft.commit_seq = s->tail.seq;
    msg.raft.round = 1;
    return msg;
}

static void a_follower_that_holds_what_is_not_written(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    lie(&s, s.liar, s.leader, accepted(&s, s.tail.seq + 1), "seq");
    struct peer_msg msg = accepted(&s, s.tail.seq);
    msg.raft.seq_term = UINT64_MAX;
    lie(&s, s.liar, s.leader, msg, "seq");
    msg = accepted(&s, s.tail.seq);
    msg.raft.commit_seq = s.tail.seq + 50;
    lie(&s, s.liar, s.leader, msg, "seq");
    world_free(s.w);
}

static void a_checkpoint_of_what_is_not_applied(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct peer_msg msg = accepted(&s, s.tail.seq);
    msg.applied_seq = s.tail.seq;
    msg.checkpoint_seq = s.tail.seq + 1;
    lie(&s, s.liar, s.leader, msg, "checkpoint");
    msg = accepted(&s, s.tail.seq);
    msg.applied_seq = msg.checkpoint_seq = s.tail.seq + 1000;
    lie(&s, s.liar, s.leader, msg, "applied");
    world_free(s.w);
}

/* ---- Truncation */

static void a_checkpoint_record_above_the_commit(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer none = {0};
    struct peer_msg msg = liar_append(s.term, s.tail, s.tail.seq, &none);
    msg.safe_seq = s.tail.seq + 1;
    lie(&s, s.leader, s.listener, msg, "safe");
    msg = liar_append(s.term, s.tail, s.tail.seq, &none);
    msg.drop_upto = UINT64_MAX;
    lie(&s, s.leader, s.listener, msg, "drop");
    world_free(s.w);
}

/* ---- Reads */

/* A read index waits for the leader's answer; a member that does not lead answers. */
static void a_read_index_from_somebody_else(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    uint64_t t = world_ask(s.w, s.listener, NODE_EV_READ_INDEX, 0, false);
    for (uint64_t context = 1; context < 40; context++) {
        struct peer_msg msg = {.kind = PEER_READ_ANSWER, .context = context};
        msg.raft.ok = true;
        msg.raft.seq = 1;
        if (!liar_say(s.w, s.liar, s.listener, msg)) break;
    }
    assert_int_equal(world_wait(s.w, t, 5000), REPLOG_OK);
    assert_true(world_request(s.w, t)->reply.seq >= s.tail.seq);
    check_stage(&s);
    world_free(s.w);
}

/* ---- Windows */

enum { WINDOW_MESSAGE_BYTES = 1 << 20, WINDOW_MESSAGES = 600 };

/* A message of a good MiB: blocks that fit, one behind the other. *pos: where they begin, and end.
 */
static struct peer_msg much(const struct stage *s, struct wal_pos *pos) {
    static const char value[4000] = "more and more";
    struct buffer out = {0};
    struct wal_pos prev = *pos;
    while (out.size_bytes < WINDOW_MESSAGE_BYTES) {
        struct block_builder b;
        struct block_header h = {
            .first_seq = pos->seq + 1, .term = s->term, .prev_chain = pos->chain};
        block_begin(&b);
        for (int i = 0; i < 100; i++)
            block_add(&b, REPLOG_OP_PUT, (struct slice){0},
                      (struct slice){(const uint8_t *)value, sizeof value}, NULL);
        block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
        struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
        assert_non_null(blob);
        h.length = (uint32_t)blob->size_bytes;
        block_seal(blob->data, &h);
        buffer_append(&out, blob->data, blob->size_bytes);
        blob_unref(blob);
        *pos = (struct wal_pos){block_last_seq(&h), s->term, h.hash};
    }
    return liar_append(s->term, prev, s->tail.seq, &out);
}

/* A leader that sends on while nothing of what it sent is durable here: cut off by name, long
 * before memory is a matter, and nothing of what exceeds the bound gets into the log. What came
 * before that is no lie: blocks of the term's leader, within the window that it may have. They are
 * written, and stay until another leader commits them or has something else in their place, as any
 * uncommitted tail does. */
static void a_window_that_is_not_honoured(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct world *w = s.w;
    const uint64_t liar = s.leader, listener = s.listener;
    static struct wal_pos ends[WINDOW_MESSAGES + 1]; /* of what was said so far */
    world_disk_delay(w, listener, 60000);
    world_cut(w, listener, liar, true); /* or the leader would hear what it has not written */
    world_run(w, 5);
    world_refused(w)[0] = 0;
    struct wal_pos pos = ends[0] = s.tail;
    uint64_t most = 0;
    unsigned said = 0;
    while (said < WINDOW_MESSAGES && !world_refused(w)[0]) {
        if (!liar_say(w, liar, listener, much(&s, &pos))) break;
        ends[++said] = pos;
        world_run(w, 1);
        uint64_t held = world_snapshot(w, listener).tail_bytes;
        if (held > most) most = held;
    }
    char name[32];
    snprintf(name, sizeof name, "member %d", (int)liar);
    if (!strstr(world_refused(w), name) || !strstr(world_refused(w), "window"))
        fail_msg("not refused after %u MiB (%llu held): \"%s\"", said, (unsigned long long)most,
                 world_refused(w));
    assert_true(most > (uint64_t)256 << 20); /* the largest window that can be configured */
    assert_true(most < (uint64_t)300 << 20);

    /* It is cut off: its stream ends, as it hears once something comes through to it, and what it
     * says until then is not looked at. */
    bool open = true;
    for (int i = 0; i < 20 && open; i++) {
        if (i == 10) world_cut(w, listener, liar, false);
        struct wal_pos behind = pos;
        open = liar_say(w, liar, listener, much(&s, &behind));
        if (open) world_run(w, 1);
    }
    assert_false(open);
    world_isolate(w, listener, true);
    world_run(w, 5);
    struct node_snapshot v = world_snapshot(w, listener);
    assert_int_equal(v.term, s.term);
    assert_int_equal(v.commit_seq, s.tail.seq);
    unsigned taken = 0;
    while (taken < said && ends[taken].seq < v.last_seq) taken++;
    assert_int_equal(ends[taken].seq, v.last_seq); /* whole messages */
    assert_true(taken < said);                     /* and not the one that was refused */

    /* The disk is as fast as before: what was taken is written, and nothing behind it. */
    world_disk_delay(w, listener, 0);
    for (int i = 0; i < 2000 && world_snapshot(w, listener).durable_seq < v.last_seq; i++)
        world_run(w, 100);
    world_run(w, 1000);
    struct wal_pos written = tail_of(&s, listener);
    assert_int_equal(written.seq, ends[taken].seq);
    assert_int_equal(written.chain, ends[taken].chain);

    /* The others go on, in another term: a leader that says what is not in its own log cannot lead
     * whom it said it to. That one comes back to them. */
    world_crash(w, liar);
    world_run(w, 100);
    world_start(w, liar);
    s.leader = world_leader(w, 10000);
    assert_true(s.leader != 0 && s.leader != listener);
    uint64_t t = world_append(w, s.leader, "key", "without it", 2, NODE_ACK_QUORUM, 0, 0, 0);
    assert_int_equal(world_wait(w, t, 10000), REPLOG_OK);
    world_refused(w)[0] = 0;
    heal(&s);
    check_stage(&s); /* all agree, and append */
    assert_string_equal(world_refused(w), "");
    for (uint64_t id = 1; id <= 3; id++) assert_true(tail_of(&s, id).seq < ends[taken].seq);
    world_free(w);
}

/* ---- Names */

static void a_stream_that_changes_its_name(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct node_snapshot v = world_snapshot(s.w, s.leader);
    struct peer_msg msg = {.kind = PEER_HELLO};
    msg.hello = (struct peer_hello){.from = s.leader,
                                    .to = s.listener,
                                    .incarnation = config_find(&v.config, s.leader)->incarnation,
                                    .cluster_id = v.cluster_id,
                                    .map_id = v.cluster_id,
                                    .founding = WAL_FOUNDED,
                                    .version = PEER_VERSION};
    lie(&s, s.liar, s.listener, msg, "hello");
    world_free(s.w);
}

static void a_hello_of_somebody_else(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct node_snapshot v = world_snapshot(s.w, s.leader);
    struct peer_hello good = {.from = s.liar,
                              .to = s.listener,
                              .incarnation = config_find(&v.config, s.liar)->incarnation,
                              .cluster_id = v.cluster_id,
                              .map_id = v.cluster_id,
                              .founding = WAL_FOUNDED,
                              .version = PEER_VERSION};
    struct peer_msg msg = {.kind = PEER_HELLO, .hello = good};
    msg.hello.incarnation ^= 1;
    lie(&s, s.liar, s.listener, msg, "incarnation");
    msg.hello = good;
    msg.hello.cluster_id ^= 1;
    lie(&s, s.liar, s.listener, msg, "cluster");
    msg.hello = good;
    msg.hello.version = 9;
    lie(&s, s.liar, s.listener, msg, "protocol");
    msg.hello = good;
    msg.hello.founding = 77;
    lie(&s, s.liar, s.listener, msg, "found");
    world_free(s.w);
}

/* ---- Not lies: what an honest member may say is not refused. */

static void what_is_honest_is_not_refused(void **state) {
    (void)state;
    struct stage s;
    set_stage(&s);
    struct buffer none = {0};
    world_refused(s.w)[0] = 0;
    /* a heartbeat of the leader for blocks that got lost on the way, and one from the past */
    struct wal_pos ahead = {s.tail.seq + 10, s.term, 0};
    assert_true(liar_say(s.w, s.leader, s.listener, liar_append(s.term, ahead, s.tail.seq, &none)));
    assert_true(liar_say(s.w, s.leader, s.listener, liar_append(s.term, s.tail, 0, &none)));
    /* a leader of a term that has passed */
    struct wal_pos start = {0, 0, 0};
    assert_true(liar_say(s.w, s.liar, s.listener, liar_append(s.term - 1, start, 0, &none)));
    /* a candidate of the next term */
    struct peer_msg msg = {.kind = PEER_RAFT};
    msg.raft.type = RAFT_PREVOTE;
    msg.raft.term = s.term + 1;
    msg.raft.seq = s.tail.seq;
    msg.raft.seq_term = s.tail.term;
    assert_true(liar_say(s.w, s.liar, s.listener, msg));
    world_run(s.w, 20);
    if (world_refused(s.w)[0]) fail_msg("refused: %s", world_refused(s.w));
    check_stage(&s);
    assert_string_equal(world_refused(s.w), "");
    world_free(s.w);
}

int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]); /* one case, or a pattern */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_second_leader_of_the_term),
        cmocka_unit_test(a_second_leader_to_the_leader_itself),
        cmocka_unit_test(a_term_from_the_future),
        cmocka_unit_test(a_candidate_whose_log_ends_in_a_later_term),
        cmocka_unit_test(a_block_of_a_later_term_than_its_leader),
        cmocka_unit_test(terms_that_fall),
        cmocka_unit_test(what_is_no_block),
        cmocka_unit_test(seqs_with_a_gap),
        cmocka_unit_test(seqs_at_the_end_of_numbers),
        cmocka_unit_test(a_chain_that_breaks_within_the_message),
        cmocka_unit_test(a_chain_that_does_not_continue_ours),
        cmocka_unit_test(markers_that_say_nothing),
        cmocka_unit_test(what_is_committed_written_over),
        cmocka_unit_test(a_committed_block_of_another_length),
        cmocka_unit_test(another_term_where_something_is_committed),
        cmocka_unit_test(a_position_within_a_block),
        cmocka_unit_test(a_wrong_chain_cuts_nothing),
        cmocka_unit_test(terms_that_fall_at_the_edge_of_truncation),
        cmocka_unit_test(a_follower_that_holds_what_is_not_written),
        cmocka_unit_test(a_checkpoint_of_what_is_not_applied),
        cmocka_unit_test(a_checkpoint_record_above_the_commit),
        cmocka_unit_test(a_read_index_from_somebody_else),
        cmocka_unit_test(a_window_that_is_not_honoured),
        cmocka_unit_test(a_stream_that_changes_its_name),
        cmocka_unit_test(a_hello_of_somebody_else),
        cmocka_unit_test(what_is_honest_is_not_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

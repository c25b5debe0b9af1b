/* A cluster of three real nodes in memory, one of which has a liar on its stream: messages made
 * from the input (well formed, wrong in what they say), or decoded from its bytes as from the wire.
 *
 * Always: no crash, no node stops; every log reads to its end; every node opens again. What
 * contradicts itself (a broken hash, seq or chain within a message, a term that cannot be) is found
 * in no log. When nothing else was told, the cluster goes on. */
#include "fuzz.h"
#include "node_liar.h"
#include "server/peer_codec.h"

enum { MAX_OPS = 24, MAX_WIRE_BYTES = 4096 };
#define PLAUSIBLE_VALUE "may be" /* of a block that a leader could have sent */

struct stage {
    struct world *w;
    uint64_t leader, liar, listener, to;
    struct wal_pos tail; /* of the listener, when the lies began */
    uint64_t term;
    bool plausible; /* something was told that nobody can know for a lie */
};

static void start_again(struct stage *s) {
    for (uint64_t id = 1; id <= 3; id++) {
        if (sim_node_running(s->w->sim, id)) world_crash(s->w, id);
        world_start(s->w, id);
    }
}

static void look(struct stage *s) {
    s->leader = world_leader(s->w, 20000);
    CHECK(s->leader > 0);
    s->liar = s->leader % 3 + 1;
    s->listener = s->liar % 3 + 1;
}

static void append(struct stage *s, unsigned count) {
    if (s->w->n_requests < 200)
        world_append(s->w, s->leader, "key", "value", count, NODE_ACK_QUORUM, 0, 0, 0);
}

/* Blocks at the listener that are not committed: nobody hears it, the leader hears nobody. */
static void leave_uncommitted(struct stage *s) {
    world_cut(s->w, s->listener, s->leader, true);
    world_cut(s->w, s->liar, s->leader, true);
    world_cut(s->w, s->leader, s->liar, true);
    world_run(s->w, 20);
    append(s, 4);
    append(s, 3);
    world_run(s->w, 8);
}

static void set_stage(struct stage *s, uint8_t choices) {
    *s = (struct stage){.w = world_new(3, 1 + (choices & 3))};
    s->w->options->election_ms = 60;
    s->w->options->heartbeat_ms = 15;
    if (choices & 4) s->w->options->tail_bytes = 200; /* little in memory */
    world_start_all(s->w);
    look(s);
    for (unsigned i = 0; i < 5; i++) append(s, 1 + i % 4);
    CHECK(world_settle(s->w, 20000));
    if (choices & 8) {
        start_again(s);
        look(s);
        append(s, 2);
        CHECK(world_settle(s->w, 20000));
    }
    if (choices & 16) {
        uint64_t upto = world_snapshot(s->w, s->leader).commit_seq;
        world_ask(s->w, s->leader, NODE_EV_TRUNCATE, upto, false);
        world_run(s->w, 300);
    }
    if (choices & 32) leave_uncommitted(s);
    s->to = choices & 64 ? s->leader : s->listener;
    s->tail = wal_tail(sim_node_wal(s->w->sim, s->listener));
    s->term = world_snapshot(s->w, s->to).term;
}

/* A number near `around`, or one from the ends. */
static uint64_t near(struct fuzz *f, uint64_t around) {
    uint8_t how = fuzz_u8(f);
    if (how < 128) return around;
    if (how < 240) return around + (uint64_t)(int64_t)(int8_t)fuzz_u8(f);
    if (how < 250) return fuzz_u64(f);
    return how & 1 ? 0 : UINT64_MAX - (how & 6);
}

/* ---- Messages */

static void add_record(struct block_builder *b, struct fuzz *f, bool lie) {
    uint8_t kind = fuzz_u8(f);
    if (kind < 200) {
        struct slice value = {(const uint8_t *)(lie ? LIE_VALUE : PLAUSIBLE_VALUE),
                              lie ? sizeof LIE_VALUE - 1 : sizeof PLAUSIBLE_VALUE - 1};
        struct slice key = {(const uint8_t *)"k", kind & 1};
        CHECK(block_add(b, REPLOG_OP_PUT, key, value, NULL) == REPLOG_OK);
        return;
    }
    static const replog_op markers[] = {REPLOG_OP_CHECKPOINT, REPLOG_OP_CONFIG, REPLOG_OP_SESSION,
                                        REPLOG_OP_TERM};
    block_add_marker(b, markers[kind % 4],
                     fuzz_bytes(f, kind % 4 == 0 && kind & 8 ? 16 : kind & 31));
}

/* One block behind `prev`; `lie`: something in it is known to be wrong. */
static struct wal_pos add_block(struct buffer *out, struct fuzz *f, struct wal_pos prev,
                                uint64_t term, uint8_t wrong, bool lie) {
    struct block_builder b;
    unsigned n = fuzz_u8(f) % 6;
    block_begin(&b);
    for (unsigned i = 0; i <= n; i++) add_record(&b, f, lie);
    if (n > 0) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    struct block_header h = {.first_seq = prev.seq + 1 + (wrong & 1),
                             .term = term,
                             .prev_chain = prev.chain ^ (wrong & 2)};
    h.session = fuzz_u8(f) % 4;
    h.session_seq = h.session ? near(f, 1) : 0;
    h.acked_below = h.session ? near(f, 0) : 0;
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    CHECK(blob != NULL);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    if (wrong & 4) blob->data[fuzz_u16(f) % blob->size_bytes] ^= 0x40;
    buffer_append(out, blob->data, blob->size_bytes);
    blob_unref(blob);
    return (struct wal_pos){block_last_seq(&h), term, h.hash};
}

/* Where the blocks are said to follow: the end of a block of the listener's, or nearly so. */
static struct wal_pos position(struct stage *s, struct fuzz *f) {
    struct wal *wal = sim_node_wal(s->w->sim, s->to);
    struct wal_pos pos = wal_tail(wal), base = wal_base(wal);
    uint8_t how = fuzz_u8(f);
    if (how >= 64) {
        uint64_t seq =
            how >= 128 && pos.seq > base.seq ? pos.seq - how % (pos.seq - base.seq) : base.seq;
        replog_error err;
        if (wal_pos_at(wal, seq, &pos, &err) != REPLOG_OK) pos = base;
        if (how & 1) pos.seq = seq; /* perhaps within a block */
    }
    pos.seq = near(f, pos.seq);
    pos.term = near(f, pos.term);
    if (fuzz_u8(f) > 224) pos.chain ^= 1;
    return pos;
}

static struct peer_msg leaders_message(struct stage *s, struct fuzz *f) {
    struct wal_pos prev = position(s, f), pos = prev;
    uint64_t term = near(f, s->term), last_term = near(f, prev.term ? prev.term : 1);
    unsigned n = fuzz_u8(f) % 4;
    /* What is wrong is wrong with the last block, and known for a lie but for the chain of a single
     * one, which depends on what lies below. */
    uint8_t wrong = fuzz_u8(f) > 160 ? 1 + fuzz_u8(f) % 7 : 0;
    bool lie = prev.term > term;
    if (n > 0) lie |= last_term < prev.term || last_term > term || last_term == 0 || wrong & 5;
    if (n > 1) lie |= prev.term == 0 || wrong & 2;
    struct buffer out = {0};
    for (unsigned i = 0; i < n; i++)
        pos = add_block(&out, f, pos, i + 1 == n ? last_term : prev.term, i + 1 == n ? wrong : 0,
                        lie);
    struct peer_msg msg = liar_append(term, prev, near(f, s->tail.seq), &out);
    msg.raft.round = near(f, 1);
    msg.safe_seq = near(f, 0);
    msg.drop_upto = near(f, 0);
    msg.flush_seq = near(f, 0);
    s->plausible |= !lie;
    return msg;
}

static struct peer_msg other_message(struct stage *s, struct fuzz *f) {
    struct peer_msg msg = {.kind = PEER_RAFT};
    uint8_t kind = fuzz_u8(f) % 10;
    s->plausible = true;
    msg.raft.type = (enum raft_msg_type)(kind % (RAFT_TIMEOUT_NOW + 1));
    if (kind == 8) msg.kind = PEER_READ_ASK;
    if (kind == 9) msg.kind = PEER_READ_ANSWER;
    msg.raft.term = near(f, s->term);
    msg.raft.seq = near(f, s->tail.seq);
    msg.raft.seq_term = near(f, s->tail.term);
    msg.raft.commit_seq = near(f, s->tail.seq);
    msg.raft.round = near(f, 1);
    uint8_t bits = fuzz_u8(f);
    msg.raft.ok = bits & 1;
    msg.raft.transfer = bits & 2;
    msg.checkpoint_seq = near(f, 0);
    msg.applied_seq = near(f, s->tail.seq);
    msg.safe_seq = near(f, 0);
    msg.drop_upto = near(f, 0);
    msg.context = near(f, 1);
    return msg;
}

static struct peer_msg hello_message(struct stage *s, struct fuzz *f) {
    struct node_snapshot v = world_snapshot(s->w, s->leader);
    const struct config_member *m = config_find(&v.config, s->liar);
    struct peer_msg msg = {.kind = PEER_HELLO};
    msg.hello = (struct peer_hello){.from = near(f, s->liar),
                                    .to = near(f, s->to),
                                    .incarnation = near(f, m ? m->incarnation : 0),
                                    .cluster_id = near(f, v.cluster_id),
                                    .map_id = near(f, v.cluster_id),
                                    .founding = (uint32_t)near(f, WAL_FOUNDED),
                                    .version = (uint32_t)near(f, PEER_VERSION)};
    return msg;
}

/* Bytes as they come on the wire. */
static bool wire_message(struct stage *s, struct fuzz *f, struct peer_msg *msg) {
    struct slice bytes = fuzz_bytes(f, fuzz_u16(f) % MAX_WIRE_BYTES);
    uint8_t *exact = fuzz_exact(bytes.data, bytes.size_bytes);
    replog_error err;
    replog_status status = peer_decode(exact, bytes.size_bytes, s->to, msg, &err);
    free(exact);
    s->plausible |= status == REPLOG_OK;
    return status == REPLOG_OK;
}

static void one(struct stage *s, struct fuzz *f) {
    struct peer_msg msg = {0};
    switch (fuzz_u8(f) % 8) {
    case 0:
    case 1:
    case 2:
        msg = leaders_message(s, f);
        break;
    case 3:
        msg = other_message(s, f);
        break;
    case 4:
        msg = hello_message(s, f);
        break;
    case 5:
        if (!wire_message(s, f, &msg)) return;
        break;
    case 6:
        append(s, 1 + fuzz_u8(f) % 4);
        return;
    default:
        world_run(s->w, fuzz_u8(f) % 64);
        return;
    }
    uint64_t from = fuzz_u8(f) > 200 && s->to != s->leader ? s->leader : s->liar;
    if (!sim_net_welcomed(s->w->sim, from, s->to)) world_run(s->w, 40); /* perhaps it comes back */
    liar_say(s->w, from, s->to, msg);
    world_run(s->w, fuzz_u8(f) % 8);
}

/* ---- What must be true afterwards */

static void check_node(struct stage *s, uint64_t id) {
    struct wal *wal = sim_node_wal(s->w->sim, id);
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    replog_error err = {0};
    struct wal_pos pos = wal_base(wal), tail = wal_tail(wal);
    replog_status status = wal_reader_open(wal, pos.seq + 1, &reader, &err);
    while (status == REPLOG_OK) {
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &err);
        if (status != REPLOG_OK) break;
        CHECK(h.first_seq == pos.seq + 1 && h.prev_chain == pos.chain && h.term >= pos.term);
        pos = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
    }
    wal_reader_close(reader);
    if (status != REPLOG_NOT_FOUND) fprintf(stderr, "member %d: %s\n", (int)id, err.text);
    CHECK(status == REPLOG_NOT_FOUND && pos.seq == tail.seq && pos.chain == tail.chain);
    CHECK(!liar_is_in_the_log(s->w, id));
}

static void check_all(struct stage *s) {
    for (uint64_t id = 1; id <= 3; id++) check_node(s, id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    struct stage s;
    uint8_t choices = fuzz_u8(&f);
    set_stage(&s, choices);
    for (int i = 0; i < MAX_OPS && f.left > 0; i++) one(&s, &f);
    world_run(s.w, 10);
    check_all(&s);
    world_heal(s.w);
    world_run(s.w, 150);
    check_all(&s);
    if (choices & 128) {
        start_again(&s);
        world_run(s.w, 150);
        check_all(&s);
    }
    if (!s.plausible) {
        look(&s);
        append(&s, 3);
        CHECK(world_settle(s.w, 20000));
        world_check_logs(s.w);
    }
    /* what is under way in the world ends with its members */
    for (uint64_t id = 1; id <= 3; id++) world_crash(s.w, id);
    world_run(s.w, 100);
    world_free(s.w);
    return 0;
}

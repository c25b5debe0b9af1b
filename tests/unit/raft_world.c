/* raft_world.c: see raft_world.h. What every step is checked for:
 *   election safety      one leader a term
 *   leader completeness  a leader holds every committed block when it is elected
 *   committed is final   every member commits the same blocks in the same order
 *   durability           what is committed is on the disks of a majority at that moment
 *   votes                no answer leaves before the term and vote that it depends on are on disk
 *   honest answers       what a follower says is durable is on its disk
 *   reads                a confirmed read index covers what was committed when the read arrived
 *   no FATAL
 * and by check_logs: log matching, and that cores and logs agree. */
#include "raft_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const msg_names[] = {"PREVOTE", "PREVOTE_REPLY", "VOTE",       "VOTE_REPLY",
                                        "APPEND",  "APPEND_REPLY",  "TIMEOUT_NOW"};
static const char *const role_names[] = {"follower", "precandidate", "candidate", "leader"};

typedef unsigned long long ull;

/* ---- Trace */
static void trace(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void trace(struct world *w, const char *format, ...) {
    if (!w->trace) return;
    va_list args;
    va_start(args, format);
    vfprintf(w->trace, format, args);
    va_end(args);
    fputc('\n', w->trace);
}

void world_say(struct world *w, const char *format, ...) {
    if (!w->trace) return;
    va_list args;
    va_start(args, format);
    fputs("# ", w->trace);
    vfprintf(w->trace, format, args);
    va_end(args);
    fputc('\n', w->trace);
}

static void trace_packet(struct world *w, const struct packet *p, const char *arrow) {
    if (!w->trace) return;
    const struct raft_msg *m = &p->msg;
    fprintf(w->trace, "%llu %s %llu  %s term %llu", (ull)m->from, arrow, (ull)m->to,
            msg_names[m->type], (ull)m->term);
    switch (m->type) {
    case RAFT_PREVOTE:
    case RAFT_VOTE:
        fprintf(w->trace, ", last %llu/%llu%s", (ull)m->seq, (ull)m->seq_term,
                m->transfer ? ", transfer" : "");
        break;
    case RAFT_PREVOTE_REPLY:
    case RAFT_VOTE_REPLY:
        fprintf(w->trace, ", %s", m->ok ? "granted" : "refused");
        break;
    case RAFT_APPEND:
        fprintf(w->trace, ", after %llu/%llu, commit %llu, round %llu", (ull)m->seq,
                (ull)m->seq_term, (ull)m->commit_seq, (ull)m->round);
        for (size_t i = 0; i < p->n_blocks; i++) {
            const struct raft_entry *e = &p->blocks[i].at;
            fprintf(w->trace, " [%llu..%llu/%llu]", (ull)e->first_seq, (ull)e->last_seq,
                    (ull)e->term);
        }
        break;
    case RAFT_APPEND_REPLY:
        if (m->ok) {
            fprintf(w->trace, ", durable %llu, matching %llu", (ull)m->seq, (ull)m->seq_term);
        } else {
            fprintf(w->trace, ", refused, look at %llu/%llu", (ull)m->seq, (ull)m->seq_term);
        }
        fprintf(w->trace, ", commit %llu, round %llu", (ull)m->commit_seq, (ull)m->round);
        break;
    case RAFT_TIMEOUT_NOW:
        break;
    }
    fputc('\n', w->trace);
}

/* ---- Logs */
static uint64_t log_last(const struct block_log *log) {
    return log->n > 0 ? log->items[log->n - 1].at.last_seq : 0;
}

static void log_push(struct block_log *log, const struct block *block) {
    assert_true(log->n < WORLD_BLOCKS);
    assert_int_equal(block->at.first_seq, log_last(log) + 1);
    log->items[log->n++] = *block;
}

static void log_cut(struct block_log *log, uint64_t seq) {
    while (log->n > 0 && log->items[log->n - 1].at.last_seq > seq) log->n--;
    assert_int_equal(log_last(log), seq); /* a cut is at the end of a block */
}

/* How many blocks end at or below seq; seq must be the end of one (or 0). */
static size_t blocks_upto(const struct block_log *log, uint64_t seq) {
    size_t n = 0;
    while (n < log->n && log->items[n].at.last_seq <= seq) n++;
    assert_int_equal(n > 0 ? log->items[n - 1].at.last_seq : 0, seq);
    return n;
}

/* ---- Judging */
static void judge_role(struct world *w, const struct member *m, const struct raft_effect *e) {
    if (e->role != RAFT_LEADER) return;
    assert_true(e->term < WORLD_TERMS);
    assert_int_equal(w->leader_of_term[e->term], 0); /* election safety */
    w->leader_of_term[e->term] = m->id;
    w->elections++;
    assert_true(m->log.n >= w->n_committed); /* leader completeness */
    for (size_t i = 0; i < w->n_committed; i++) {
        assert_int_equal(m->log.items[i].id, w->committed[i].id);
    }
}

static void judge_commit(struct world *w, const struct member *m, uint64_t seq) {
    size_t n = blocks_upto(&m->log, seq);
    for (size_t i = 0; i < n && i < w->n_committed; i++) {
        assert_int_equal(m->log.items[i].id, w->committed[i].id); /* committed is final */
    }
    for (size_t i = w->n_committed; i < n; i++) {
        unsigned holders = 0;
        for (uint64_t id = 1; id <= w->n; id++) {
            const struct block_log *disk = &w->members[id].disk;
            holders += i < disk->n && disk->items[i].id == m->log.items[i].id;
        }
        assert_true(holders >= w->n / 2 + 1); /* durability */
        w->committed[i] = m->log.items[i];
    }
    if (n > w->n_committed) w->n_committed = n;
}

static uint64_t committed_seq(const struct world *w) {
    return w->n_committed > 0 ? w->committed[w->n_committed - 1].at.last_seq : 0;
}

static void judge_send(const struct member *m, const struct raft_msg *msg) {
    switch (msg->type) {
    case RAFT_PREVOTE:
    case RAFT_PREVOTE_REPLY:
        break;
    case RAFT_VOTE:
        assert_int_equal(m->disk_term, msg->term);
        assert_int_equal(m->disk_vote, m->id);
        break;
    case RAFT_VOTE_REPLY:
        assert_true(m->disk_term >= msg->term);
        if (msg->ok) assert_int_equal(m->disk_vote, msg->to);
        break;
    case RAFT_APPEND_REPLY:
        assert_int_equal(m->disk_term, msg->term);
        if (!msg->ok) break;
        assert_true(msg->seq <= log_last(&m->disk)); /* honest answers */
        size_t n = blocks_upto(&m->disk, msg->seq);
        assert_true(m->log.n >= n);
        for (size_t i = 0; i < n; i++) assert_int_equal(m->disk.items[i].id, m->log.items[i].id);
        break;
    case RAFT_APPEND:
    case RAFT_TIMEOUT_NOW:
        assert_int_equal(m->disk_term, msg->term);
        break;
    }
}

/* ---- Carrying out effects */
static void push_op(struct op_queue *queue, const struct op *op) {
    assert_true(queue->n < WORLD_OPS);
    queue->items[queue->n++] = *op;
}

static struct op pop_op(struct op_queue *queue) {
    struct op op = queue->items[0];
    queue->n--;
    memmove(queue->items, queue->items + 1, queue->n * sizeof op);
    return op;
}

static void write_block(struct member *m, const struct block *block) {
    log_push(&m->log, block);
    push_op(&m->to_disk, &(struct op){.type = OP_WRITE, .block = *block, .epoch = m->epoch});
}

static void send_packet(struct world *w, const struct packet *packet) {
    judge_send(&w->members[packet->msg.from], &packet->msg);
    if (w->n_packets == WORLD_PACKETS) lose(w, 0);
    w->packets[w->n_packets++] = *packet;
}

static void accept_blocks(struct world *w, struct member *m, const struct raft_effect *e,
                          const struct packet *in_hand) {
    if (!in_hand) {
        fail_msg("ACCEPT without a message");
        return;
    }
    assert_true(e->first < e->n && e->n <= in_hand->n_blocks);
    for (size_t i = e->first; i < e->n; i++) write_block(m, &in_hand->blocks[i]);
    trace(w, "    %llu writes %llu..%llu", (ull)m->id, (ull)in_hand->blocks[e->first].at.first_seq,
          (ull)log_last(&m->log));
}

static void carry_out_log(struct world *w, struct member *m, const struct raft_effect *e,
                          const struct packet *in_hand) {
    switch (e->type) {
    case RAFT_FX_SAVE_VOTE:
        trace(w, "    %llu saves term %llu, vote %llu", (ull)m->id, (ull)e->term, (ull)e->vote);
        push_op(&m->votes, &(struct op){.type = OP_VOTE, .term = e->term, .vote = e->vote});
        break;
    case RAFT_FX_CUT:
        trace(w, "    %llu cuts above %llu, epoch %llu", (ull)m->id, (ull)e->seq, (ull)e->epoch);
        w->cuts++;
        log_cut(&m->log, e->seq);
        m->epoch = e->epoch;
        push_op(&m->to_disk, &(struct op){.type = OP_CUT, .seq = e->seq, .epoch = e->epoch});
        break;
    case RAFT_FX_ACCEPT:
        accept_blocks(w, m, e, in_hand);
        break;
    case RAFT_FX_COMMIT:
        trace(w, "    %llu commits %llu", (ull)m->id, (ull)e->seq);
        judge_commit(w, m, e->seq);
        break;
    default:
        fail_msg("not an effect on the log: %d", (int)e->type);
    }
}

static void acked(struct world *w, struct member *m, uint64_t peer, uint64_t seq) {
    if (seq >= m->streams[peer].owed) m->streams[peer].owed = 0;
    if (seq <= m->known[peer]) return;
    m->known[peer] = seq;
    trace(w, "    %llu knows %llu durable on %llu", (ull)m->id, (ull)seq, (ull)peer);
}

static void carry_out(struct world *w, struct member *m, const struct raft_effect *e,
                      const struct packet *in_hand) {
    switch (e->type) {
    case RAFT_FX_SEND:
        send_packet(w, &(struct packet){.msg = e->msg});
        break;
    case RAFT_FX_ROLE:
        trace(w, "    %llu is %s in term %llu, leader %llu", (ull)m->id, role_names[e->role],
              (ull)e->term, (ull)e->leader);
        memset(m->known, 0, sizeof m->known);
        judge_role(w, m, e);
        break;
    case RAFT_FX_LEAD:
        append(w, m->id, 1);
        break;
    case RAFT_FX_STREAM:
        trace(w, "    %llu streams to %llu from %llu", (ull)m->id, (ull)e->peer, (ull)e->seq + 1);
        m->streams[e->peer] = (struct stream){.on = true, .next_after = e->seq};
        break;
    case RAFT_FX_UNSTREAM:
        trace(w, "    %llu stops streaming to %llu", (ull)m->id, (ull)e->peer);
        m->streams[e->peer].on = false;
        break;
    case RAFT_FX_ACKED:
        acked(w, m, e->peer, e->seq);
        break;
    case RAFT_FX_READ_OK:
        trace(w, "    %llu confirms read %llu at %llu", (ull)m->id, (ull)e->context, (ull)e->seq);
        assert_true(e->seq >= w->read_floor[e->context]);
        w->last_read_ok = e->context;
        w->reads_ok++;
        break;
    case RAFT_FX_READ_FAIL:
        trace(w, "    %llu fails read %llu", (ull)m->id, (ull)e->context);
        w->reads_failed++;
        break;
    case RAFT_FX_FATAL:
        fail_msg("FATAL on %llu: %s", (ull)m->id, e->text);
        break;
    case RAFT_FX_SAVE_VOTE:
    case RAFT_FX_CUT:
    case RAFT_FX_ACCEPT:
    case RAFT_FX_COMMIT:
        carry_out_log(w, m, e, in_hand);
        break;
    }
}

static void step(struct world *w, struct member *m, struct raft_event event,
                 const struct packet *in_hand) {
    if (!m->up) return;
    struct raft_effects fx = {0};
    event.now_ms = m->now_ms;
    raft_step(m->raft, &event, &fx);
    for (size_t i = 0; i < fx.n; i++) carry_out(w, m, &fx.items[i], in_hand);
    raft_effects_free(&fx);
    assert_int_equal(raft_last(m->raft), log_last(&m->log));
    if (!w->lazy) pump(w, m->id);
}

void world_event(struct world *w, uint64_t id, const struct raft_event *event) {
    step(w, &w->members[id], *event, NULL);
}

/* ---- One thing at a time */
void tick(struct world *w, uint64_t id) {
    world_event(w, id, &(struct raft_event){.type = RAFT_EV_TICK});
}

void pass_ms(struct world *w, uint64_t ms) {
    w->now_ms += ms;
    for (uint64_t id = 1; id <= w->n; id++) w->members[id].now_ms = w->now_ms;
}

void append(struct world *w, uint64_t leader, unsigned n_records) {
    struct member *m = &w->members[leader];
    if (m->log.n == WORLD_BLOCKS) return;
    uint64_t first_seq = log_last(&m->log) + 1;
    struct block block = {.at = {.first_seq = first_seq,
                                 .last_seq = first_seq + n_records - 1,
                                 .term = raft_term(m->raft)},
                          .id = w->next_id++};
    write_block(m, &block);
    trace(w, "    %llu appends %llu..%llu", (ull)m->id, (ull)block.at.first_seq,
          (ull)block.at.last_seq);
    step(w, m, (struct raft_event){.type = RAFT_EV_APPENDED, .entry = block.at}, NULL);
}

void ask_read(struct world *w, uint64_t id) {
    uint64_t context = ++w->n_reads;
    assert_true(context < WORLD_READS);
    w->read_floor[context] = committed_seq(w);
    trace(w, "  read %llu is asked of %llu", (ull)context, (ull)id);
    world_event(w, id, &(struct raft_event){.type = RAFT_EV_READ, .context = context});
}

void hand_over(struct world *w, uint64_t leader, uint64_t to) {
    trace(w, "  %llu is told to hand over to %llu", (ull)leader, (ull)to);
    world_event(w, leader, &(struct raft_event){.type = RAFT_EV_TRANSFER, .peer = to});
}

static void do_op(struct member *m, const struct op *op) {
    switch (op->type) {
    case OP_WRITE:
        log_push(&m->disk, &op->block);
        break;
    case OP_CUT:
        log_cut(&m->disk, op->seq);
        break;
    case OP_VOTE:
        m->disk_term = op->term;
        m->disk_vote = op->vote;
        break;
    }
}

static bool make_durable(struct member *m, struct op_queue *from, struct op_queue *to) {
    if (!m->up || from->n == 0) return false;
    struct op op = pop_op(from);
    do_op(m, &op);
    push_op(to, &op);
    return true;
}

bool disk_step(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    return make_durable(m, &m->to_disk, &m->done);
}

bool vote_step(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    return make_durable(m, &m->votes, &m->votes_done);
}

bool complete_step(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    if (!m->up || m->done.n == 0) return false;
    struct op op = pop_op(&m->done);
    struct raft_event event = {.type = RAFT_EV_PERSISTED, .epoch = op.epoch};
    event.seq = op.type == OP_WRITE ? op.block.at.last_seq : op.seq;
    trace(w, "  %llu's log is durable up to %llu, epoch %llu", (ull)id, (ull)event.seq,
          (ull)event.epoch);
    world_event(w, id, &event);
    return true;
}

bool vote_complete_step(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    if (!m->up || m->votes_done.n == 0) return false;
    struct op op = pop_op(&m->votes_done);
    trace(w, "  %llu's vote for %llu in term %llu is durable", (ull)id, (ull)op.vote, (ull)op.term);
    world_event(w, id,
                &(struct raft_event){.type = RAFT_EV_VOTE_SAVED, .term = op.term, .vote = op.vote});
    return true;
}

static bool pump_one(struct world *w, struct member *m, uint64_t peer) {
    struct stream *s = &m->streams[peer];
    struct packet packet = {.msg = raft_append_header(m->raft, peer, s->next_after)};
    size_t i = blocks_upto(&m->log, s->next_after);
    if (w->one_at_a_time && s->owed) return false;
    while (i < m->log.n && packet.n_blocks < w->packet_blocks) {
        packet.blocks[packet.n_blocks++] = m->log.items[i++];
    }
    if (packet.n_blocks == 0) return false;
    s->next_after = s->owed = packet.blocks[packet.n_blocks - 1].at.last_seq;
    send_packet(w, &packet);
    struct raft_event sent = {.type = RAFT_EV_SENT, .peer = peer, .seq = s->next_after};
    bool lazy = w->lazy;
    w->lazy = true; /* no pumping inside */
    world_event(w, m->id, &sent);
    w->lazy = lazy;
    return true;
}

void pump(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    if (!m->up) return;
    for (uint64_t peer = 1; peer <= w->n; peer++) {
        while (m->streams[peer].on && pump_one(w, m, peer)) {}
    }
}

static struct packet take_packet(struct world *w, size_t i) {
    assert_true(i < w->n_packets);
    struct packet packet = w->packets[i];
    w->n_packets--;
    memmove(&w->packets[i], &w->packets[i + 1], (w->n_packets - i) * sizeof packet);
    return packet;
}

void lose(struct world *w, size_t i) {
    struct packet packet = take_packet(w, i);
    trace_packet(w, &packet, "x");
}

void deliver(struct world *w, size_t i) {
    const struct packet *peek = &w->packets[i];
    struct member *to = &w->members[peek->msg.to];
    bool lost = !to->up || w->cut[peek->msg.from][peek->msg.to];
    for (size_t k = 0; k < peek->n_blocks; k++) {
        if (w->lose_term != 0 && peek->blocks[k].at.term == w->lose_term) lost = true;
    }
    if (lost) {
        lose(w, i);
        return;
    }
    struct packet packet = take_packet(w, i);
    trace_packet(w, &packet, ">");
    struct raft_entry entries[WORLD_PACKET_BLOCKS];
    for (size_t k = 0; k < packet.n_blocks; k++) entries[k] = packet.blocks[k].at;
    packet.msg.entries = entries;
    packet.msg.n_entries = packet.n_blocks;
    step(w, to, (struct raft_event){.type = RAFT_EV_MESSAGE, .msg = &packet.msg}, &packet);
}

void lost_connection(struct world *w, uint64_t id, uint64_t peer) {
    trace(w, "  %llu loses its connection to %llu", (ull)id, (ull)peer);
    world_event(w, id, &(struct raft_event){.type = RAFT_EV_LOST, .peer = peer});
}

void set_base(struct world *w, uint64_t id, uint64_t seq) {
    struct member *m = &w->members[id];
    if (seq <= m->base_seq) return;
    m->base_seq = seq;
    m->base_term = raft_term_at(m->raft, seq);
    raft_set_base(m->raft, m->base_seq, m->base_term);
}

/* ---- Ends and beginnings */
void crash(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    if (!m->up) return;
    trace(w, "  %llu crashes", (ull)id);
    /* now and then its store has flushed what it applied */
    uint64_t applied = raft_commit(m->raft);
    if (applied > raft_persisted(m->raft)) applied = raft_persisted(m->raft);
    if (applied > m->applied && (id + w->now_ms) % 2 == 0) m->applied = applied;
    raft_free(m->raft);
    m->raft = NULL;
    m->up = false;
    m->to_disk.n = m->done.n = m->votes.n = m->votes_done.n = 0;
    m->log = m->disk;
    memset(m->streams, 0, sizeof m->streams);
    for (uint64_t peer = 1; peer <= w->n; peer++) {
        if (w->members[peer].up) lost_connection(w, peer, id);
    }
}

void restart(struct world *w, uint64_t id) {
    struct member *m = &w->members[id];
    if (m->up) return;
    struct raft_config config = {.self = id,
                                 .n_voters = w->n,
                                 .heartbeat_ms = WORLD_HEARTBEAT_MS,
                                 .election_ms = WORLD_ELECTION_MS,
                                 .seed = w->seed * 31 + id * 7919 + w->now_ms};
    for (unsigned i = 0; i < w->n; i++) config.voters[i] = i + 1;
    struct raft_run runs[WORLD_BLOCKS];
    size_t n_runs = 0;
    for (size_t i = 0; i < m->disk.n; i++) {
        const struct raft_entry *e = &m->disk.items[i].at;
        if (n_runs > 0 && runs[n_runs - 1].term == e->term) continue;
        runs[n_runs++] = (struct raft_run){.term = e->term, .first_seq = e->first_seq};
    }
    struct raft_start start = {.term = m->disk_term,
                               .voted_for = m->disk_vote,
                               .base_seq = m->base_seq,
                               .base_term = m->base_term,
                               .last_seq = log_last(&m->disk),
                               .runs = runs,
                               .n_runs = n_runs,
                               .commit_seq = m->applied,
                               .now_ms = m->now_ms,
                               .may_stand = m->may_stand};
    m->raft = raft_new(&config, &start);
    assert_non_null(m->raft);
    m->up = true;
    m->log = m->disk;
    m->epoch = raft_epoch(m->raft);
}

struct world *world_new(unsigned n, uint64_t seed, bool traced) {
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->n = n;
    w->seed = seed;
    w->next_id = 1ull << 62; /* log_of's blocks are below */
    w->now_ms = 10000;
    w->packet_blocks = WORLD_PACKET_BLOCKS;
    if (traced) w->trace = open_memstream(&w->trace_text, &w->trace_bytes);
    for (uint64_t id = 1; id <= n; id++) {
        w->members[id] = (struct member){.id = id, .may_stand = true, .now_ms = w->now_ms};
        restart(w, id);
    }
    return w;
}

void world_free(struct world *w) {
    for (uint64_t id = 1; id <= w->n; id++) raft_free(w->members[id].raft);
    if (w->trace) fclose(w->trace);
    free(w->trace_text);
    free(w);
}

void log_of(struct world *w, uint64_t id, uint64_t term, const char *terms) {
    struct member *m = &w->members[id];
    trace(w, "  %llu has term %llu and the log %s", (ull)id, (ull)term, terms);
    raft_free(m->raft);
    m->raft = NULL;
    m->up = false;
    m->disk.n = 0;
    m->disk_term = term;
    m->disk_vote = 0;
    char *end;
    for (const char *p = terms; *p; p = end) {
        uint64_t block_term = strtoull(p, &end, 10);
        uint64_t seq = m->disk.n + 1;
        struct block block = {.at = {.first_seq = seq, .last_seq = seq, .term = block_term},
                              .id = block_term << 32 | seq};
        log_push(&m->disk, &block);
    }
    restart(w, id);
}

/* ---- Much at once */
static bool all_disks(struct world *w) {
    bool any = false;
    for (uint64_t id = 1; id <= w->n; id++) {
        while (!w->members[id].votes_held && vote_step(w, id)) any = true;
        while (!w->members[id].votes_held && vote_complete_step(w, id)) any = true;
        while (!w->members[id].disk_held && disk_step(w, id)) any = true;
        while (!w->members[id].disk_held && complete_step(w, id)) any = true;
    }
    return any;
}

bool deliver_one(struct world *w) {
    if (all_disks(w)) return true;
    if (w->n_packets == 0) return false;
    deliver(w, 0);
    return true;
}

void deliver_all(struct world *w) {
    unsigned n = 0;
    while (deliver_one(w)) assert_true(n++ < 20000); /* else the cluster does not come to rest */
}

void stand(struct world *w, uint64_t id) {
    pass_ms(w, (uint64_t)2 * WORLD_ELECTION_MS);
    tick(w, id);
    deliver_all(w);
}

void elect(struct world *w, uint64_t id) {
    stand(w, id);
    expect_leader(w, id);
}

void run_ms(struct world *w, uint64_t ms) {
    for (uint64_t t = 0; t < ms; t += WORLD_HEARTBEAT_MS / 2) {
        pass_ms(w, WORLD_HEARTBEAT_MS / 2);
        for (uint64_t id = 1; id <= w->n; id++) tick(w, id);
        deliver_all(w);
    }
}

void isolate(struct world *w, uint64_t id, bool isolated) {
    trace(w, "  %llu is %s", (ull)id, isolated ? "cut off" : "reachable again");
    for (uint64_t peer = 1; peer <= w->n; peer++) {
        if (peer != id) w->cut[id][peer] = w->cut[peer][id] = isolated;
    }
}

/* ---- What must hold */
void expect_log(struct world *w, uint64_t id, const char *terms) {
    char text[WORLD_BLOCKS * 4] = "";
    size_t n = 0;
    const struct block_log *log = &w->members[id].log;
    for (size_t i = 0; i < log->n; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%llu", i > 0 ? " " : "",
                              (ull)log->items[i].at.term);
    }
    trace(w, "  %llu holds %s", (ull)id, text);
    assert_string_equal(text, terms);
}

void expect_leader(struct world *w, uint64_t id) {
    assert_int_equal(raft_role(w->members[id].raft), RAFT_LEADER);
    assert_int_equal(raft_leader(w->members[id].raft), id);
}

void expect_commit(struct world *w, uint64_t id, uint64_t seq) {
    assert_int_equal(raft_commit(w->members[id].raft), seq);
}

size_t count_packets(const struct world *w, uint64_t from, enum raft_msg_type type) {
    size_t n = 0;
    for (size_t i = 0; i < w->n_packets; i++) {
        n += w->packets[i].msg.from == from && w->packets[i].msg.type == type;
    }
    return n;
}

uint64_t only_leader(const struct world *w) {
    uint64_t leader = 0;
    for (uint64_t id = 1; id <= w->n; id++) {
        if (!w->members[id].up || raft_role(w->members[id].raft) != RAFT_LEADER) continue;
        if (leader != 0) return 0;
        leader = id;
    }
    return leader;
}

static void check_matching(const struct block_log *a, const struct block_log *b) {
    size_t n = a->n < b->n ? a->n : b->n;
    bool matched = false;
    for (size_t i = n; i > 0; i--) { /* from the largest common position down all is the same */
        const struct block *x = &a->items[i - 1], *y = &b->items[i - 1];
        if (x->at.last_seq == y->at.last_seq && x->at.term == y->at.term) matched = true;
        if (matched) assert_int_equal(x->id, y->id);
    }
}

void check_logs(struct world *w) {
    for (uint64_t id = 1; id <= w->n; id++) {
        const struct member *m = &w->members[id];
        for (uint64_t other = id + 1; other <= w->n; other++) {
            check_matching(&m->log, &w->members[other].log);
        }
        if (!m->up) continue;
        for (size_t i = 0; i < m->log.n; i++) {
            const struct raft_entry *e = &m->log.items[i].at;
            uint64_t term = e->last_seq >= m->base_seq ? e->term : 0;
            assert_int_equal(raft_term_at(m->raft, e->last_seq), term);
        }
    }
}

/* ---- Golden traces */
static void write_golden(const char *path, const struct world *w) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(w->trace_text, 1, w->trace_bytes, f), w->trace_bytes);
    assert_int_equal(fclose(f), 0);
}

/* Line and text of the first difference, for the person who has to judge it. */
static void compare_golden(const char *path, const struct world *w) {
    FILE *f = fopen(path, "r");
    if (!f)
        fail_msg("no golden trace %s: look at the new one, made with RAFT_GOLDEN_UPDATE=1", path);
    const char *p = w->trace_text;
    char expected[512];
    for (unsigned line = 1; fgets(expected, sizeof expected, f); line++) {
        size_t n = strlen(expected);
        if (strncmp(p, expected, n) != 0) {
            fail_msg("%s:%u: expected %sgot %.*s", path, line, expected, (int)strcspn(p, "\n"), p);
        }
        p += n;
    }
    if (*p) fail_msg("%s ends before: %.*s", path, (int)strcspn(p, "\n"), p);
    fclose(f);
}

void world_end(struct world *w, const char *name) {
    check_logs(w);
    fflush(w->trace);
    char path[512];
    snprintf(path, sizeof path, "%s/raft/%s.trace", TEST_DATA_DIR, name);
    const char *update = getenv("RAFT_GOLDEN_UPDATE");
    if (update && strcmp(update, "1") == 0) {
        write_golden(path, w);
    } else {
        compare_golden(path, w);
    }
    world_free(w);
}

/* reads.c: read index (6.4). A read is linearizable at the commit of its arrival once a majority
 * has answered a round that was started afterwards: then no newer leader had been elected at
 * arrival. At most one round for reads is under way at a time; reads that arrive meanwhile share
 * the next one, which starts when that one is confirmed or with the next heartbeat. */
#include "raft/raft_impl.h"

static struct read_request *read_at(struct raft *r, size_t i) {
    return &r->reads[(r->reads_head + i) % RAFT_MAX_READS];
}

static void read_fail(uint64_t context, struct raft_effects *fx) {
    raft_fx_push(fx, RAFT_FX_READ_FAIL)->context = context;
}

static void read_ok(uint64_t context, uint64_t seq, struct raft_effects *fx) {
    struct raft_effect *effect = raft_fx_push(fx, RAFT_FX_READ_OK);
    effect->context = context;
    effect->seq = seq;
}

void raft_on_read(struct raft *r, uint64_t context, struct raft_effects *fx) {
    if (!raft_ready(r) || r->n_reads == RAFT_MAX_READS) {
        read_fail(context, fx);
        return;
    }
    if (raft_majority(r) == 1 || MUTANT(READ_WITHOUT_ROUND)) {
        read_ok(context, r->commit, fx);
        return;
    }
    *read_at(r, r->n_reads++) = (struct read_request){.context = context, .seq = r->commit};
    if (MUTANT(READ_BY_AN_OLD_ROUND)) read_at(r, r->n_reads - 1)->round = r->round;
    if (r->read_round == 0) raft_broadcast_round(r, fx);
}

void raft_reads_round_started(struct raft *r) {
    for (size_t i = r->n_reads; i > 0; i--) {
        struct read_request *read = read_at(r, i - 1);
        if (read->round != 0) break;
        read->round = r->round;
        r->read_round = r->round;
    }
}

void raft_reads_confirm(struct raft *r, struct raft_effects *fx) {
    if (r->n_reads == 0) return;
    uint64_t rounds[RAFT_MAX_MEMBERS];
    for (unsigned i = 0; i < r->config.n_voters; i++) {
        rounds[i] = i == r->self_index ? r->round : r->peers[i].acked_round;
    }
    uint64_t confirmed = raft_majority_value(r, rounds);
    while (r->n_reads > 0) {
        const struct read_request *read = read_at(r, 0);
        if (read->round == 0 || read->round > confirmed) break;
        read_ok(read->context, read->seq, fx);
        r->reads_head = (r->reads_head + 1) % RAFT_MAX_READS;
        r->n_reads--;
    }
    if (r->read_round > confirmed) return;
    r->read_round = 0;
    if (r->n_reads > 0) raft_broadcast_round(r, fx);
}

void raft_reads_fail(struct raft *r, struct raft_effects *fx) {
    for (size_t i = 0; i < r->n_reads; i++) read_fail(read_at(r, i)->context, fx);
    r->n_reads = 0;
    r->read_round = 0;
}

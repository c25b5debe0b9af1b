/* lies.c: what no honest member of this cluster says. A message is looked at before anything of it
 * takes effect; one that contradicts itself, or what this node knows for certain (its own commit
 * and tail, who leads its term), ends its stream by name. Without this the core would take such a
 * message for a broken invariant and stop, so that one member could stop all others.
 *
 * A liar that contradicts nothing (a leader that claims a commit, a follower that claims to hold
 * what it was sent) cannot be found: Raft trusts its members. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "node/node_impl.h"

enum {
    /* Unpersisted blocks of a leader: more than the largest window that can be configured. */
    MAX_WINDOW_BYTES = (256 << 20) + PEER_MAX_BLOCK_BYTES + BLOCK_MAX_BYTES
};
/* What this node can have missed: elections in a row, and records. */
static const uint64_t MAX_TERMS_AHEAD = (uint64_t)1 << 32, MAX_SEQS_AHEAD = (uint64_t)1 << 48;

__attribute__((format(printf, 2, 3))) static bool found(struct lie *lie, const char *format, ...) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(lie->text, sizeof lie->text, format, ap);
    va_end(ap);
    return true;
}

static bool in_reply(const struct node *n, const struct peer_msg *msg, struct lie *lie) {
    const struct raft_msg *m = &msg->raft;
    uint64_t last = raft_last(n->raft);
    if (!node_is_leader(n) || m->term != raft_term(n->raft)) return false;
    uint64_t most = m->commit_seq;
    if (m->ok && m->seq > most) most = m->seq;
    if (m->ok && m->seq_term > most) most = m->seq_term;
    if (most > last)
        return found(lie,
                     "holds seq %" PRIu64 " of term %" PRIu64 ", whose leader has written %" PRIu64,
                     most, m->term, last);
    if (msg->applied_seq > last)
        return found(lie,
                     "has applied seq %" PRIu64 " in term %" PRIu64 ", whose leader has written "
                     "seq %" PRIu64,
                     msg->applied_seq, m->term, last);
    return false;
}

static bool in_append(const struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                      struct lie *lie) {
    const struct raft_msg *m = &msg->raft;
    if (m->seq_term > m->term)
        return found(lie, "leads term %" PRIu64 " with a record of term %" PRIu64, m->term,
                     m->seq_term);
    if (m->seq > raft_last(n->raft) && m->seq - raft_last(n->raft) > MAX_SEQS_AHEAD)
        return found(lie, "speaks of seq %" PRIu64 "; the last one here is %" PRIu64, m->seq,
                     raft_last(n->raft));
    if (m->term < raft_term(n->raft)) return false; /* a leader that has been replaced */
    uint64_t leader = raft_leader(n->raft);
    if (m->term == raft_term(n->raft) && leader != 0 && leader != p->id)
        return found(lie, "says that it leads term %" PRIu64 ", whose leader is member %" PRIu64,
                     m->term, leader);
    uint64_t last = raft_last(n->raft), known = m->commit_seq > last ? m->commit_seq : last;
    if (msg->safe_seq > known || msg->drop_upto > known)
        return found(lie,
                     "would drop the log up to seq %" PRIu64 " (safe: %" PRIu64
                     "), and has committed %" PRIu64,
                     msg->drop_upto, msg->safe_seq, m->commit_seq);
    if (n->tail.size_bytes > MAX_WINDOW_BYTES &&
        tail_bytes_above(&n->tail, raft_persisted(n->raft)) > MAX_WINDOW_BYTES)
        return found(lie, "honours no window: more than %d bytes are not durable here yet",
                     MAX_WINDOW_BYTES);
    return false;
}

bool lies_in_message(const struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                     struct lie *lie) {
    const struct raft_msg *m = &msg->raft;
    uint64_t term = raft_term(n->raft);
    if (msg->checkpoint_seq > msg->applied_seq)
        return found(lie, "has a checkpoint at seq %" PRIu64 ", and has applied %" PRIu64,
                     msg->checkpoint_seq, msg->applied_seq);
    if (msg->kind != PEER_RAFT) return false;
    if (m->term > term && m->term - term > MAX_TERMS_AHEAD)
        return found(lie, "speaks of term %" PRIu64 "; the term here is %" PRIu64, m->term, term);
    bool stands = m->type == RAFT_PREVOTE || m->type == RAFT_VOTE;
    if (stands && m->seq_term >= m->term)
        return found(lie, "stands for term %" PRIu64 " with a record of term %" PRIu64, m->term,
                     m->seq_term);
    if (m->type == RAFT_APPEND) return in_append(n, p, msg, lie);
    return m->type == RAFT_APPEND_REPLY && in_reply(n, msg, lie);
}

/* ---- Blocks, and the position that they follow */

static bool markers_decode(const uint8_t *bytes, const struct block_header *h, replog_error *err) {
    struct block_walk walk = {0};
    replog_record r;
    struct checkpoint_marker checkpoint;
    struct config config;
    while ((h->flags & BLOCK_MARKER) && block_next(bytes, h, &walk, &r)) {
        struct slice value = {r.value, r.value_bytes};
        if (r.op == REPLOG_OP_CHECKPOINT && checkpoint_decode(value, &checkpoint, err))
            return false;
        if (r.op == REPLOG_OP_CONFIG && config_decode(value, &config, err)) return false;
    }
    return true;
}

/* In themselves: terms that do not fall, markers that say something. Hash, seq and chain are
 * checked. */
static bool in_each_block(const struct incoming *in, const struct raft_msg *m, struct lie *lie) {
    uint64_t term = m->seq_term;
    for (size_t i = 0; i < in->n; i++) {
        const struct block_header *h = &in->headers[i];
        replog_error err;
        if (h->term < term || h->term == 0 || h->term > m->term)
            return found(lie,
                         "the block of seq %" PRIu64 " is of term %" PRIu64 ", behind term %" PRIu64
                         " in a message of term %" PRIu64,
                         h->first_seq, h->term, term, m->term);
        if (!markers_decode(in->blob->data + in->offsets[i], h, &err))
            return found(lie, "the block of seq %" PRIu64 " holds %s", h->first_seq, err.text);
        term = h->term;
    }
    return false;
}

/* Where a block of ours ends at that seq; false: it does not, or that is not known (*known). */
static bool own_end(const struct node *n, uint64_t seq, struct wal_pos *pos, bool *known) {
    *known = true;
    if (tail_pos(&n->tail, seq, pos)) return true;
    if (seq > n->tail.base.seq) return false;
    replog_error err;
    *known = wal_pos_at(n->wal, seq, pos, &err) == REPLOG_OK;
    return *known && pos->seq == seq;
}

/* The first block that is new here, or would take the place of ours: it must stand behind the end
 * of a block, and continue its chain. */
static bool does_not_continue(const struct node *n, const struct block_header *h, struct lie *lie) {
    struct wal_pos pos;
    bool known;
    if (!own_end(n, h->first_seq - 1, &pos, &known))
        return known &&
               found(lie, "the block of seq %" PRIu64 " begins within a block that is here",
                     h->first_seq);
    if (h->term < pos.term)
        return found(lie,
                     "the block of seq %" PRIu64 " is of term %" PRIu64 ", behind term %" PRIu64
                     " here",
                     h->first_seq, h->term, pos.term);
    if (pos.chain == h->prev_chain) return false;
    return found(lie,
                 "the block of seq %" PRIu64 " does not continue the chain (%016" PRIx64
                 " here, %016" PRIx64 " there)",
                 h->first_seq, pos.chain, h->prev_chain);
}

static bool in_overlap(const struct node *n, const struct incoming *in, struct lie *lie) {
    uint64_t last = raft_last(n->raft), commit = raft_commit(n->raft), base = n->base.seq;
    for (size_t i = 0; i < in->n; i++) {
        const struct block_header *h = &in->headers[i];
        uint64_t end = block_last_seq(h);
        if (end <= base) continue;
        if (h->first_seq > last) return does_not_continue(n, h, lie);
        bool same = h->first_seq > base && raft_term_at(n->raft, h->first_seq) == h->term;
        if (!same && h->first_seq <= commit)
            return found(lie,
                         "the block of seq %" PRIu64 " and term %" PRIu64
                         " would replace what is committed here",
                         h->first_seq, h->term);
        if (!same) return does_not_continue(n, h, lie);
        struct wal_pos pos;
        bool here = end <= last && raft_term_at(n->raft, end) == h->term;
        bool differs = here && end > n->tail.base.seq &&
                       (!tail_pos(&n->tail, end, &pos) || pos.chain != h->hash);
        if (!here || differs)
            return found(lie,
                         "the block of seq %" PRIu64 " and term %" PRIu64 " is another one here%s",
                         h->first_seq, h->term, h->first_seq <= commit ? ", and committed" : "");
    }
    return false;
}

bool lies_in_blocks(const struct node *n, const struct raft_msg *m, const struct incoming *in,
                    struct lie *lie) {
    if (in_each_block(in, m, lie)) return true;
    if (m->type != RAFT_APPEND || m->term < raft_term(n->raft)) return false;
    uint64_t base = n->base.seq, last = raft_last(n->raft);
    bool here = m->seq >= base && m->seq <= last;
    bool same = here && raft_term_at(n->raft, m->seq) == m->seq_term;
    if (here && !same && m->seq <= raft_commit(n->raft) && m->seq_term != 0)
        return found(lie,
                     "has term %" PRIu64 " at seq %" PRIu64 ", where term %" PRIu64
                     " is committed here",
                     m->seq_term, m->seq, raft_term_at(n->raft, m->seq));
    bool matches = m->seq <= base || same;
    if (!matches) return false; /* the core says so, and is asked about an earlier position */
    struct wal_pos pos;
    if (here && m->seq > n->tail.base.seq && !tail_pos(&n->tail, m->seq, &pos))
        return found(lie, "the position of seq %" PRIu64 " lies within a block that is here",
                     m->seq);
    bool in_reach = m->commit_seq <= m->seq && m->commit_seq > n->tail.base.seq;
    if (here && in_reach && !tail_pos(&n->tail, m->commit_seq, &pos))
        return found(lie, "has committed a part of a block, up to seq %" PRIu64, m->commit_seq);
    return in_overlap(n, in, lie);
}

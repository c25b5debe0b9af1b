/* append.c: what a leader does with appends: admission (is it ready, is there space, does the
 * session expect this number), sealing behind the tail, and answering each at its own level. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "node/node_impl.h"

enum { PACE_MAX_MS = 200, PACE_TOLD_EVERY_MS = 60000 };

/* ---- Queues of appends that wait, sorted by last_seq ----------------------------------------- */

static struct pending *pending_at(const struct pending_queue *q, size_t i) {
    return &q->ring[(q->head + i) & (q->capacity - 1)];
}

static bool pending_insert(struct pending_queue *q, const struct pending *p) {
    if (q->n == q->capacity) {
        size_t capacity = q->capacity ? 2 * q->capacity : 256;
        struct pending *ring = malloc(capacity * sizeof *ring);
        if (!ring) return false;
        for (size_t i = 0; i < q->n; i++) ring[i] = *pending_at(q, i);
        free(q->ring);
        q->ring = ring;
        q->head = 0;
        q->capacity = capacity;
    }
    size_t i = q->n++;
    for (; i > 0 && pending_at(q, i - 1)->last_seq > p->last_seq; i--)
        *pending_at(q, i) = *pending_at(q, i - 1);
    *pending_at(q, i) = *p;
    return true;
}

static size_t n_pending(const struct node *n) {
    return n->waiting[0].n + n->waiting[1].n + n->waiting[2].n;
}

void append_free(struct node *n) {
    for (int i = 0; i < 3; i++) free(n->waiting[i].ring);
}

/* ---- Answers --------------------------------------------------------------------------------- */

static void answer(struct node *n, const struct pending *p, struct node_effects *fx) {
    if (p->token == 0) return;
    struct node_reply *reply = fx_reply(fx, p->token);
    reply->first_seq = p->first_seq;
    reply->last_seq = p->last_seq;
    reply->term = p->term;
    reply->sequence = p->sequence;
    if (!n->options.acks_are_durable) return;
    for (unsigned i = 0; i < n->config.n_members; i++) {
        uint64_t id = n->config.members[i].id;
        if (raft_match(n->raft, id) >= p->last_seq) reply->durable_on[reply->n_durable_on++] = id;
    }
}

static uint64_t all_match(const struct node *n) {
    uint64_t least = raft_commit(n->raft);
    for (unsigned i = 0; i < n->config.n_members; i++) {
        uint64_t match = raft_match(n->raft, n->config.members[i].id);
        if (match < least) least = match;
    }
    return least;
}

void append_settle(struct node *n, struct node_effects *fx) {
    if (!node_is_leader(n)) return;
    uint64_t reached[3];
    reached[NODE_ACK_QUORUM] = raft_commit(n->raft);
    reached[NODE_ACK_LEADER] = raft_persisted(n->raft);
    reached[NODE_ACK_ALL] = MUTANT(ALL_ACK_ON_QUORUM) ? raft_commit(n->raft) : all_match(n);
    if (MUTANT(QUORUM_ACK_ON_ONE_DISK)) reached[NODE_ACK_QUORUM] = raft_persisted(n->raft);
    if (MUTANT(LEADER_ACK_BEFORE_SYNC)) reached[NODE_ACK_LEADER] = raft_last(n->raft);
    for (int level = 0; level < 3; level++) {
        struct pending_queue *q = &n->waiting[level];
        while (q->n > 0 && pending_at(q, 0)->last_seq <= reached[level] &&
               pending_at(q, 0)->not_before_ms <= n->now_ms) {
            answer(n, pending_at(q, 0), fx);
            q->head = (q->head + 1) & (q->capacity - 1);
            q->n--;
        }
    }
}

static void expired(struct node *n, int level, struct pending *p, struct node_effects *fx) {
    uint64_t token = p->token;
    p->token = 0;
    if (level != NODE_ACK_ALL || p->last_seq > raft_commit(n->raft)) {
        fx_fail(
            n, fx, token, REPLOG_DEADLINE_EXCEEDED,
            "seq %" PRIu64
            " was not acknowledged in time; the outcome is unknown, retry with the same sequence",
            p->last_seq);
        return;
    }
    char missing[128] = "";
    size_t used = 0;
    for (unsigned i = 0; i < n->config.n_members && used < sizeof missing - 24; i++) {
        uint64_t id = n->config.members[i].id;
        if (raft_match(n->raft, id) < p->last_seq)
            used += (size_t)snprintf(missing + used, sizeof missing - used, "%s%" PRIu64,
                                     used ? ", " : "", id);
    }
    fx_fail(n, fx, token, REPLOG_DEADLINE_EXCEEDED,
            "committed at seq %" PRIu64 ", not on member %s", p->last_seq, missing);
}

static void expire(struct node *n, struct node_effects *fx) {
    for (int level = 0; level < 3; level++) {
        struct pending_queue *q = &n->waiting[level];
        for (size_t i = 0; i < q->n; i++) {
            struct pending *p = pending_at(q, i);
            if (p->token && p->deadline_ms && p->deadline_ms <= n->now_ms) expired(n, level, p, fx);
        }
    }
}

static void set_pace(struct node *n) {
    uint64_t limit = n->options.store_lag_bytes;
    uint64_t lag = node_is_leader(n) ? node_bytes_above(n, n->applied_seq) : 0;
    uint64_t over = lag > limit ? lag - limit : 0, before_ms = n->pace_ms;
    n->pace_ms = over >= limit ? PACE_MAX_MS : over * PACE_MAX_MS / limit;
    bool told = n->pace_told_ms && n->now_ms - n->pace_told_ms < PACE_TOLD_EVERY_MS;
    if (before_ms > 0 || n->pace_ms == 0 || told) return;
    n->pace_told_ms = n->now_ms;
    log_info("the store is %" PRIu64
             " MiB behind the log: acknowledgements wait for it, up to %d ms",
             lag >> 20, PACE_MAX_MS);
}

/* An acknowledgement that comes too late would be none. */
static uint64_t not_before_ms(const struct node *n, uint64_t deadline_ms) {
    uint64_t pace_ms = n->pace_ms;
    if (deadline_ms) {
        uint64_t left_ms = deadline_ms > n->now_ms ? deadline_ms - n->now_ms : 0;
        if (pace_ms > left_ms / 2) pace_ms = left_ms / 2;
    }
    return n->now_ms + pace_ms;
}

void append_tick(struct node *n, struct node_effects *fx) {
    set_pace(n);
    append_settle(n, fx);
    expire(n, fx);
}

void append_fail_all(struct node *n, struct node_effects *fx) {
    for (int level = 0; level < 3; level++) {
        struct pending_queue *q = &n->waiting[level];
        for (size_t i = 0; i < q->n; i++)
            fx_fail(n, fx, pending_at(q, i)->token, REPLOG_UNAVAILABLE,
                    "this node is not the leader any more; the outcome of seq %" PRIu64
                    " is unknown, retry with the same sequence",
                    pending_at(q, i)->last_seq);
        q->n = 0;
    }
}

/* ---- Sealing --------------------------------------------------------------------------------- */

uint64_t append_block(struct node *n, struct blob *block, uint32_t n_records, uint16_t flags,
                      uint64_t session, uint64_t sequence, uint64_t acked_below,
                      struct node_effects *fx) {
    struct wal_pos end = tail_end(&n->tail);
    struct block_header h = {.length = (uint32_t)block->size_bytes,
                             .n_records = n_records,
                             .flags = flags,
                             .first_seq = end.seq + 1,
                             .term = raft_term(n->raft),
                             .timestamp_us = n->wall_us,
                             .session = session,
                             .session_seq = sequence,
                             .acked_below = acked_below,
                             .prev_chain = end.chain};
    uint64_t last = block_last_seq(&h);
    uint8_t *bytes;
    if (!tail_add_new(&n->tail, block, h.first_seq, last, h.term, &bytes)) return 0;
    tail_set_hash(&n->tail, block_seal(bytes, &h));
    if (!replicate_note_block(n, bytes, &h)) {
        fx_fatal(n, fx, "no memory for the session table");
        return 0;
    }
    n->pending_bytes += h.length;
    n->appends++;
    n->bytes_appended += h.length;
    struct raft_event event = {.type = RAFT_EV_APPENDED, .entry = {h.first_seq, last, h.term}};
    replicate_event(n, &event, NULL, fx);
    return last;
}

uint64_t append_marker(struct node *n, replog_op op, struct slice value, struct node_effects *fx) {
    struct block_builder b;
    uint32_t n_records;
    uint16_t flags;
    block_begin(&b);
    block_add_marker(&b, op, value);
    struct blob *block = block_finish(&b, &n_records, &flags);
    uint64_t last = block ? append_block(n, block, n_records, flags, 0, 0, 0, fx) : 0;
    blob_unref(block);
    block_builder_free(&b);
    return last;
}

void append_term(struct node *n, struct node_effects *fx) {
    bool first = tail_end(&n->tail).seq == 0;
    uint64_t last = append_marker(n, REPLOG_OP_TERM, (struct slice){0}, fx);
    if (last && first) {
        struct buffer config = {0};
        config_encode(&n->config, &config);
        struct slice value = {config.data, config.size_bytes};
        last = config.failed ? 0 : append_marker(n, REPLOG_OP_CONFIG, value, fx);
        buffer_free(&config);
    }
    if (last == 0) fx_fatal(n, fx, "no memory for the TERM record");
}

/* ---- Admission ------------------------------------------------------------------------------- */

/* Whether this node leads and may take anything at all; if not, the request is answered. */
static bool leads(struct node *n, uint64_t token, struct node_effects *fx) {
    if (!node_is_leader(n)) {
        node_not_leader(n, fx, token);
        return false;
    }
    if (!raft_ready(n->raft) || raft_transferring(n->raft)) {
        fx_fail(n, fx, token, REPLOG_UNAVAILABLE, "%s",
                raft_ready(n->raft) ? "the leader is handing over; retry"
                                    : "the leader has just been elected and is not ready; retry");
        if (raft_transferring(n->raft))
            fx->items[fx->n - 1].reply.leader = raft_transferring(n->raft);
        return false;
    }
    return true;
}

/* Whether there is room for so much more in the log; if not, the request is answered, and was not
 * taken. Asked after the session, never before: what is a repeat is in the log and needs no room,
 * and if it were refused, the number behind it would be the one that the session expects, and be
 * taken, while its client holds that a refused number keeps out all behind it. */
static bool has_room(struct node *n, uint64_t token, uint64_t size_bytes, struct node_effects *fx) {
    if (n->space_low) {
        fx_fail(
            n, fx, token, REPLOG_RESOURCE_EXHAUSTED,
            "the leader's disk is nearly full: appends go on when there is space (free some, or "
            "truncate the log); reads go on");
        return false;
    }
    if (n_pending(n) >= NODE_MAX_PENDING ||
        n->pending_bytes + size_bytes > n->options.pending_bytes) {
        fx_fail(n, fx, token, REPLOG_RESOURCE_EXHAUSTED,
                "%" PRIu64 " bytes of appends wait for their commit (limit %" PRIu64
                "): retry later",
                n->pending_bytes, n->options.pending_bytes);
        return false;
    }
    return true;
}

void append_refuse(struct node *n, uint64_t token, const struct refusal *why,
                   struct node_effects *fx) {
    switch (why->verdict) {
    case SESSION_UNKNOWN:
        fx_fail(n, fx, token, REPLOG_FAILED_PRECONDITION,
                "session %" PRIu64
                " is unknown (evicted, or of another cluster): open a new one; what "
                "was in flight may or may not be in the log",
                why->session);
        break;
    case SESSION_GAP:
        fx_fail(n, fx, token, REPLOG_FAILED_PRECONDITION,
                "sequence %" PRIu64 " does not follow: session %" PRIu64 " expects %" PRIu64,
                why->sequence, why->session, why->expected);
        break;
    case SESSION_GONE:
        fx_fail(n, fx, token, REPLOG_FAILED_PRECONDITION,
                "sequence %" PRIu64 " of session %" PRIu64 " is in the log, and its answer was "
                "acknowledged before: it is not kept any more",
                why->sequence, why->session);
        break;
    default:
        fx_fail(n, fx, token, REPLOG_RESOURCE_EXHAUSTED,
                "session %" PRIu64
                " has %u answers unacknowledged, which is the limit: raise acked_below",
                why->session, (unsigned)SESSION_WINDOW);
    }
}

static bool wait_for(struct node *n, enum node_ack ack, const struct pending *p,
                     struct node_effects *fx) {
    /* twice the bound on new ones: repeats, which has_room does not see, have an end too */
    if (n_pending(n) < (size_t)2 * NODE_MAX_PENDING && pending_insert(&n->waiting[ack], p))
        return true;
    fx_fail(
        n, fx, p->token, REPLOG_UNAVAILABLE,
        "too many appends wait, or memory is short; the outcome is unknown, retry with the same "
        "sequence");
    return false;
}

void append_request(struct node *n, const struct node_event *event, struct node_effects *fx) {
    const struct node_append *a = &event->append;
    if (!leads(n, event->token, fx)) return;
    struct pending p = {
        .token = event->token, .sequence = a->sequence, .deadline_ms = event->deadline_ms};
    if (a->session) {
        struct session_answer before = {0};
        struct refusal why = {.session = a->session, .sequence = a->sequence};
        why.verdict = session_check(n->sessions, a->session, a->sequence, a->acked_below, &before,
                                    &why.expected);
        if (why.verdict == SESSION_REPEAT) {
            p.first_seq = before.first_seq;
            p.last_seq = before.last_seq;
            p.term = before.term;
            if (MUTANT(REPEAT_ANSWERED_AT_ONCE))
                answer(n, &p, fx);
            else if (wait_for(n, a->ack, &p, fx))
                append_settle(n, fx);
            return;
        }
        if (why.verdict != SESSION_ADMIT) {
            if (MUTANT(REFUSED_WITHOUT_ROUND))
                append_refuse(n, event->token, &why, fx);
            else
                reads_refuse(n, event, &why, fx);
            return;
        }
    }
    if (!has_room(n, event->token, a->block->size_bytes, fx)) return;
    p.term = raft_term(n->raft);
    p.first_seq = tail_end(&n->tail).seq + 1;
    p.last_seq = append_block(n, a->block, a->n_records, a->flags, a->session, a->sequence,
                              a->acked_below, fx);
    if (p.last_seq == 0) {
        fx_fail(n, fx, event->token, REPLOG_RESOURCE_EXHAUSTED, "no memory for the append");
        return;
    }
    p.not_before_ms = not_before_ms(n, event->deadline_ms);
    wait_for(n, a->ack, &p, fx);
}

void append_session(struct node *n, const struct node_event *event, struct node_effects *fx) {
    if (!leads(n, event->token, fx) || !has_room(n, event->token, BLOCK_HEADER_BYTES, fx)) return;
    struct pending p = {
        .token = event->token, .term = raft_term(n->raft), .deadline_ms = event->deadline_ms};
    p.last_seq = append_marker(n, REPLOG_OP_SESSION, (struct slice){0}, fx);
    p.first_seq = p.last_seq;
    if (p.last_seq == 0) {
        fx_fail(n, fx, event->token, REPLOG_RESOURCE_EXHAUSTED, "no memory for the session");
        return;
    }
    wait_for(n, NODE_ACK_QUORUM, &p, fx);
}

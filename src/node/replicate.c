/* replicate.c: between raft's decisions and the bytes. A follower's blocks are verified, kept in
 * the memory tail and written; a leader's are fed to every follower from the tail, or, where it is
 * behind that, from segment files by the reader thread. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/log.h"
#include "node/node_impl.h"

enum { MAX_MESSAGE_BLOCKS = 16384, WRITE_BYTES = 4 << 20 };

static void incoming_free(struct incoming *in) {
    free(in->entries);
    free(in->headers);
    free(in->offsets);
}

static bool incoming_reserve(struct incoming *in, size_t capacity) {
    struct raft_entry *entries = realloc(in->entries, capacity * sizeof *entries);
    if (entries) in->entries = entries;
    struct block_header *headers = realloc(in->headers, capacity * sizeof *headers);
    if (headers) in->headers = headers;
    size_t *offsets = realloc(in->offsets, capacity * sizeof *offsets);
    if (offsets) in->offsets = offsets;
    return entries && headers && offsets;
}

/* Checks every block of the message by itself and behind the one before. False: a lie, or (without
 * a text) no memory. */
static bool incoming_parse(struct incoming *in, const struct node_bytes *blocks,
                           const struct raft_msg *msg, struct lie *lie) {
    const uint8_t *data = blocks->blob->data + blocks->offset;
    size_t left = blocks->size_bytes, capacity = 0;
    uint64_t last = msg->seq;
    in->blob = blocks->blob;
    while (left > 0) {
        if (in->n == capacity) {
            capacity = capacity ? 2 * capacity : 64;
            if (capacity > MAX_MESSAGE_BLOCKS) {
                snprintf(lie->text, sizeof lie->text, "sent more than %d blocks at once",
                         MAX_MESSAGE_BLOCKS);
                return false;
            }
            if (!incoming_reserve(in, capacity)) return false;
        }
        struct block_header *h = &in->headers[in->n];
        replog_error err;
        if (block_check(data, left, h, &err) != REPLOG_OK) {
            snprintf(lie->text, sizeof lie->text, "sent what is no block: %.150s", err.text);
            return false;
        }
        bool chained = in->n == 0 || h->prev_chain == in->headers[in->n - 1].hash;
        if (h->first_seq != last + 1 || !chained) {
            snprintf(lie->text, sizeof lie->text,
                     "sent a block of seq %" PRIu64 " that does not continue %s of seq %" PRIu64,
                     h->first_seq, chained ? "that" : "the chain", last);
            return false;
        }
        last = block_last_seq(h);
        in->entries[in->n] = (struct raft_entry){h->first_seq, last, h->term};
        in->offsets[in->n] = (size_t)(data - blocks->blob->data);
        in->n++;
        data += h->length;
        left -= h->length;
    }
    return true;
}

bool replicate_note_block(struct node *n, const uint8_t *bytes, const struct block_header *h) {
    bool is_session = false;
    if (h->flags & BLOCK_MARKER) {
        struct block_walk walk = {0};
        replog_record record;
        while (block_next(bytes, h, &walk, &record)) {
            struct log_marker m = {
                .seq = record.seq, .last_seq = block_last_seq(h), .op = record.op};
            if (record.op == REPLOG_OP_SESSION) is_session = true;
            if (record.op != REPLOG_OP_CHECKPOINT && record.op != REPLOG_OP_SESSION) continue;
            if (record.op == REPLOG_OP_CHECKPOINT) {
                struct slice value = {record.value, record.value_bytes};
                if (checkpoint_decode(value, &m.checkpoint, NULL) != REPLOG_OK) return false;
                n->logged_marker = m.checkpoint;
            }
            if (n->n_markers == n->markers_capacity) {
                size_t capacity = n->markers_capacity ? 2 * n->markers_capacity : 16;
                struct log_marker *markers = realloc(n->markers, capacity * sizeof *markers);
                if (!markers) return false;
                n->markers = markers;
                n->markers_capacity = capacity;
            }
            n->markers[n->n_markers++] = m;
        }
    }
    return session_append(n->sessions, h, is_session) == REPLOG_OK;
}

/* ---- Effects of the raft core ---------------------------------------------------------------- */

static void accept(struct node *n, const struct raft_effect *e, const struct incoming *in,
                   struct node_effects *fx) {
    CHECK(in != NULL && e->n <= in->n && in->headers != NULL);
    for (size_t i = e->first; i < e->n; i++) {
        const struct block_header *h = &in->headers[i];
        struct wal_pos end = tail_end(&n->tail);
        if (h->first_seq != end.seq + 1 || h->prev_chain != end.chain) {
            fx_fatal(n, fx,
                     "DATA_LOSS: seq %" PRIu64 " of term %" PRIu64
                     " is the leader's too, but what lies "
                     "below it differs (chain %016" PRIx64 " here, %016" PRIx64 " there)",
                     end.seq, end.term, end.chain, h->prev_chain);
            return;
        }
        if (!tail_add_ref(&n->tail, h, in->blob, in->offsets[i]) ||
            !replicate_note_block(n, in->blob->data + in->offsets[i], h)) {
            fx_fatal(n, fx, "no memory for the log's tail");
            return;
        }
        n->pending_bytes += h->length;
    }
}

static void cut(struct node *n, const struct raft_effect *e, struct node_effects *fx) {
    struct wal_pos pos;
    log_info("cutting the log's tail above seq %" PRIu64 " (it ended at %" PRIu64 ")", e->seq,
             tail_end(&n->tail).seq);
    if (tail_pos(&n->tail, e->seq, &pos)) {
        tail_cut(&n->tail, e->seq);
    } else {
        /* Below what memory holds: all of it is on disk. */
        replog_error err;
        if (wal_pos_at(n->wal, e->seq, &pos, &err) != REPLOG_OK) {
            fx_fatal(n, fx, "cannot cut the log at seq %" PRIu64 ": %s", e->seq, err.text);
            return;
        }
        tail_free(&n->tail);
        tail_init(&n->tail, pos);
    }
    if (n->write_next > e->seq + 1) n->write_next = e->seq + 1;
    if (n->synced_seq > e->seq) n->synced_seq = e->seq;
    if (n->sync_asked > e->seq) n->sync_asked = e->seq;
    if (!MUTANT(SESSIONS_SURVIVE_CUT)) session_cut(n->sessions, e->seq);
    while (n->n_markers > 0 && n->markers[n->n_markers - 1].seq > e->seq) n->n_markers--;
    n->logged_marker = n->committed_marker;
    for (size_t i = 0; i < n->n_markers; i++)
        if (n->markers[i].op == REPLOG_OP_CHECKPOINT) n->logged_marker = n->markers[i].checkpoint;
    n->pending_bytes = tail_bytes_above(&n->tail, raft_commit(n->raft));
    replicate_writes(n, fx);
    struct node_effect *out = fx_add(fx, NODE_FX_CUT);
    out->seq = e->seq;
    out->epoch = e->epoch;
}

static void committed(struct node *n, uint64_t seq, struct node_effects *fx) {
    size_t done = 0;
    while (done < n->n_markers && n->markers[done].last_seq <= seq) {
        const struct log_marker *m = &n->markers[done++];
        if (m->op == REPLOG_OP_CHECKPOINT) n->committed_marker = m->checkpoint;
        if (m->op == REPLOG_OP_SESSION) session_evict(n->sessions, m->last_seq, NULL, NULL);
    }
    if (done) {
        n->n_markers -= done;
        memmove(n->markers, n->markers + done, n->n_markers * sizeof *n->markers);
    }
    uint64_t still_pending = tail_bytes_above(&n->tail, seq);
    if (still_pending < n->pending_bytes) n->unapplied_bytes += n->pending_bytes - still_pending;
    n->pending_bytes = still_pending;
    n->publish = true;
    append_settle(n, fx);
    reads_settle(n, fx);
    if (done) checkpoint_advance(n, fx);
}

static void role_changed(struct node *n, const struct raft_effect *e, struct node_effects *fx) {
    bool was_leader = n->role == RAFT_LEADER;
    if (e->role != n->role || e->leader != n->leader) {
        static const char *const names[] = {"follower", "pre-candidate", "candidate", "leader"};
        log_set_term(e->term);
        log_info("role=%s leader=%" PRIu64 " last_seq=%" PRIu64 " commit_seq=%" PRIu64,
                 names[e->role], e->leader, tail_end(&n->tail).seq, raft_commit(n->raft));
    }
    if (e->role == RAFT_CANDIDATE && n->role != RAFT_CANDIDATE) n->elections++;
    if (n->leader && !e->leader)
        n->leader_known_ms = n->now_ms; /* this node may have stood still */
    n->role = e->role;
    n->leader = e->leader;
    n->publish = true;
    if (was_leader && e->role != RAFT_LEADER) {
        if (!MUTANT(PENDING_SURVIVES_OFFICE)) append_fail_all(n, fx);
        reads_leader_lost(n, fx);
        checkpoint_fail_all(n, fx);
        for (unsigned i = 0; i < n->n_peers; i++) {
            n->peers[i].streaming = false;
            n->peers[i].heartbeat_held = false;
        }
        n->flush_wanted = 0;
        n->drop_wanted = 0;
    }
}

static void stream(struct node *n, uint64_t peer, uint64_t match_seq) {
    struct node_peer *p = node_find_peer(n, peer);
    CHECK(p != NULL);
    p->streaming = true;
    p->next_seq = match_seq + 1;
    window_clear(&p->inflight);
    p->feed_pending = false;
    p->ticket++;
}

static void acked(struct node *n, uint64_t peer, uint64_t seq) {
    struct node_peer *p = node_find_peer(n, peer);
    if (p && !MUTANT(WINDOW_LEAKS)) window_acked(&p->inflight, seq);
}

static void send(struct node *n, const struct raft_msg *msg, struct node_effects *fx) {
    struct node_peer *p = node_find_peer(n, msg->to);
    if (!p) return;
    if (msg->type == RAFT_APPEND && p->streaming) {
        /* Blocks that go out soon carry commit and round as well. */
        if (!p->heartbeat_held) p->held_since_ms = n->now_ms;
        p->heartbeat = *msg;
        p->heartbeat_held = true;
        return;
    }
    struct peer_msg out = {.kind = PEER_RAFT, .raft = *msg};
    fx_send(n, fx, p, &out);
}

static void carry_out(struct node *n, const struct raft_effect *e, const struct incoming *in,
                      struct node_effects *fx) {
    struct node_effect *out;
    struct node_peer *p;
    switch (e->type) {
    case RAFT_FX_SEND:
        send(n, &e->msg, fx);
        break;
    case RAFT_FX_SAVE_VOTE:
        out = fx_add(fx, NODE_FX_SAVE_VOTE);
        out->term = e->term;
        out->vote = e->vote;
        break;
    case RAFT_FX_ROLE:
        role_changed(n, e, fx);
        break;
    case RAFT_FX_LEAD:
        append_term(n, fx);
        break;
    case RAFT_FX_STREAM:
        stream(n, e->peer, e->seq);
        break;
    case RAFT_FX_UNSTREAM:
        p = node_find_peer(n, e->peer);
        if (p) p->streaming = false;
        break;
    case RAFT_FX_ACKED:
        acked(n, e->peer, e->seq);
        break;
    case RAFT_FX_CUT:
        cut(n, e, fx);
        break;
    case RAFT_FX_ACCEPT:
        accept(n, e, in, fx);
        break;
    case RAFT_FX_COMMIT:
        committed(n, e->seq, fx);
        break;
    case RAFT_FX_READ_OK:
        reads_known(n, e->context, true, e->seq, fx);
        break;
    case RAFT_FX_READ_FAIL:
        reads_known(n, e->context, false, 0, fx);
        break;
    case RAFT_FX_FATAL:
        fx_fatal(n, fx, "%s", e->text);
        break;
    }
}

/* One step of the core and its effects. What they cause in turn (an append while LEAD is carried
 * out) is queued by replicate_event and handled behind them. */
static void step(struct node *n, const struct raft_event *event, const struct incoming *in,
                 struct node_effects *fx) {
    n->in_step = true;
    raft_step(n->raft, event, &n->raft_fx);
    for (size_t i = 0; i < n->raft_fx.n && !n->fatal; i++)
        carry_out(n, &n->raft_fx.items[i], in, fx);
    n->in_step = false;
}

void replicate_event(struct node *n, const struct raft_event *event, const struct incoming *in,
                     struct node_effects *fx) {
    if (n->in_step) {
        CHECK(event->msg == NULL && n->n_raft_queue < NODE_RAFT_QUEUE);
        n->raft_queue[n->n_raft_queue++] = *event;
        return;
    }
    struct raft_event whole = *event;
    whole.now_ms = n->now_ms;
    step(n, &whole, in, fx);
    while (n->n_raft_queue > 0 && !n->fatal) {
        whole = n->raft_queue[0];
        n->n_raft_queue--;
        memmove(n->raft_queue, n->raft_queue + 1, n->n_raft_queue * sizeof whole);
        step(n, &whole, NULL, fx);
    }
}

/* ---- Messages in ----------------------------------------------------------------------------- */

static void refuse(struct node *n, const struct node_peer *p, const struct lie *lie,
                   struct node_effects *fx) {
    char text[240];
    snprintf(text, sizeof text, "member %" PRIu64 " %s", p->id, lie->text);
    log_error("refused: %s", text);
    founding_refuse(n, p->in_stream, text, fx);
}

/* A raft message with its blocks; false: a lie. Without memory for it, it is as good as lost. */
static bool raft_message(struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                         struct lie *lie, struct node_effects *fx) {
    struct incoming in = {0};
    struct raft_msg raft = msg->raft;
    raft.from = p->id;
    raft.to = n->self;
    bool parsed = !msg->blocks.blob || incoming_parse(&in, &msg->blocks, &raft, lie);
    bool honest = (parsed || !lie->text[0]) && !(parsed && lies_in_blocks(n, &raft, &in, lie));
    raft.entries = in.entries;
    raft.n_entries = in.n;
    if (parsed && honest)
        replicate_event(n, &(struct raft_event){.type = RAFT_EV_MESSAGE, .msg = &raft}, &in, fx);
    incoming_free(&in);
    return honest;
}

void replicate_message(struct node *n, struct node_peer *p, uint64_t stream_id,
                       const struct peer_msg *msg, struct node_effects *fx) {
    struct lie lie = {""};
    if (p->in_stream != stream_id || !n->raft) return;
    if (lies_in_message(n, p, msg, &lie)) {
        refuse(n, p, &lie, fx);
        return;
    }
    p->heard_ms = n->now_ms;
    if (msg->kind == PEER_RAFT && !raft_message(n, p, msg, &lie, fx)) {
        refuse(n, p, &lie, fx);
        return;
    }
    if (msg->checkpoint_seq > p->checkpoint_seq || msg->applied_seq > p->applied_seq) {
        p->checkpoint_seq = msg->checkpoint_seq;
        p->applied_seq = msg->applied_seq;
        checkpoint_advance(n, fx);
    }
    if (msg->kind == PEER_READ_ASK) reads_asked(n, p, msg->context, fx);
    if (msg->kind == PEER_READ_ANSWER) reads_answered(n, p, msg, fx);
    const struct raft_msg *raft = &msg->raft;
    if (msg->kind == PEER_RAFT && raft->type == RAFT_APPEND && n->leader == p->id &&
        raft->term == raft_term(n->raft)) {
        n->told_marker = (struct checkpoint_marker){msg->safe_seq, msg->drop_upto};
        n->flush_wanted = msg->flush_seq;
        checkpoint_advance(n, fx);
    }
}

void replicate_peer_down(struct node *n, struct node_peer *p, struct node_effects *fx) {
    p->up = false;
    p->streaming = false;
    p->heartbeat_held = false;
    if (n->raft)
        replicate_event(n, &(struct raft_event){.type = RAFT_EV_LOST, .peer = p->id}, NULL, fx);
}

/* ---- Bytes out ------------------------------------------------------------------------------- */

void replicate_writes(struct node *n, struct node_effects *fx) {
    struct node_bytes run;
    uint64_t last;
    while (tail_run(&n->tail, n->write_next, UINT64_MAX, WRITE_BYTES, &run, &last)) {
        struct node_effect *e = fx_add(fx, NODE_FX_WRITE);
        e->blocks = run;
        e->seq = last;
        e->epoch = raft_epoch(n->raft);
        n->write_next = last + 1;
        if (n->write_since_ms == 0) n->write_since_ms = n->now_ms ? n->now_ms : 1;
    }
}

static void send_blocks(struct node *n, struct node_peer *p, struct node_bytes blocks,
                        uint64_t last_seq, struct node_effects *fx) {
    struct peer_msg msg = {.kind = PEER_RAFT, .blocks = blocks};
    msg.raft = raft_append_header(n->raft, p->id, p->next_seq - 1);
    window_add(&p->inflight, last_seq, blocks.size_bytes);
    p->sent_ms = n->now_ms;
    p->next_seq = last_seq + 1;
    p->heartbeat_held = false;
    p->told_round = msg.raft.round;
    fx_send(n, fx, p, &msg);
    struct raft_event sent = {.type = RAFT_EV_SENT, .peer = p->id, .seq = last_seq};
    replicate_event(n, &sent, NULL, fx);
}

/* With messages on their way to it, a follower is better served by few large ones: each is a write
 * and a sync there, and a few thread switches on the way. The first and the second go at once, so
 * that one travels while the other is being written. Over a long way nobody waits for the answer:
 * what was gathered goes after a moment. */
static bool gathers(const struct node *n, const struct node_peer *p) {
    return p->inflight.n >= NODE_GATHER_MESSAGES && n->now_ms - p->sent_ms < NODE_GATHER_MS &&
           !tail_holds_above(&n->tail, p->next_seq - 1, NODE_GATHER_BYTES);
}

/* Sends what the window allows. */
static void feed(struct node *n, struct node_peer *p, struct node_effects *fx) {
    p->gathering = false;
    while (p->streaming && p->up && !p->feed_pending &&
           window_open(&p->inflight, n->options.peer_window_bytes)) {
        struct node_bytes run;
        uint64_t last;
        bool in_memory = p->next_seq > n->tail.base.seq && p->next_seq <= tail_end(&n->tail).seq;
        p->gathering = in_memory && gathers(n, p);
        if (p->gathering) break;
        if (tail_run(&n->tail, p->next_seq, UINT64_MAX, PEER_MAX_BLOCK_BYTES, &run, &last)) {
            send_blocks(n, p, run, last, fx);
            continue;
        }
        if (p->next_seq > n->tail.base.seq || p->next_seq > raft_persisted(n->raft)) break;
        if (p->next_seq <= n->base.seq) {
            /* Truncated since the stream began: all up to the base is durable in the member's
             * store, so a probe at the base finds out where to go on. */
            log_info("member %" PRIu64 " needs seq %" PRIu64 ", which is truncated: asking it anew",
                     p->id, p->next_seq);
            replicate_event(n, &(struct raft_event){.type = RAFT_EV_LOST, .peer = p->id}, NULL, fx);
            break;
        }
        struct node_effect *e = fx_add(fx, NODE_FX_FEED);
        e->peer = p->id;
        e->ticket = ++p->ticket;
        e->seq = p->next_seq;
        e->limit_seq = raft_persisted(n->raft);
        e->bytes = PEER_MAX_BLOCK_BYTES;
        p->feed_pending = true;
    }
}

void replicate_feed(struct node *n, struct node_effects *fx) {
    if (!node_is_leader(n)) return;
    for (unsigned i = 0; i < n->n_peers; i++) {
        struct node_peer *p = &n->peers[i];
        feed(n, p, fx);
        if (!p->heartbeat_held) continue;
        bool only_commit = p->heartbeat.round == p->told_round;
        if (only_commit && n->now_ms - p->held_since_ms < NODE_COMMIT_NEWS_MS) continue;
        p->heartbeat_held = false;
        p->told_round = p->heartbeat.round;
        struct peer_msg msg = {.kind = PEER_RAFT, .raft = p->heartbeat};
        fx_send(n, fx, p, &msg);
    }
}

void replicate_fed(struct node *n, const struct node_event *event, struct node_effects *fx) {
    struct node_peer *p = node_find_peer(n, event->peer);
    if (!p || !p->feed_pending || event->ticket != p->ticket) return;
    p->feed_pending = false;
    if (!node_is_leader(n) || !p->streaming) return;
    if (event->damaged) {
        /* Another leader can feed it; this one goes on as a follower. */
        log_error("member %" PRIu64 " cannot be fed: %s: stepping down", p->id,
                  event->text ? event->text : "the log is damaged");
        replicate_event(n, &(struct raft_event){.type = RAFT_EV_STEP_DOWN}, NULL, fx);
        return;
    }
    struct block_header h;
    uint64_t last = 0;
    for (size_t at = 0; event->blocks.blob && at < event->blocks.size_bytes; at += h.length) {
        const uint8_t *data = event->blocks.blob->data + event->blocks.offset + at;
        replog_error err;
        if (block_peek(data, event->blocks.size_bytes - at, &h, &err) != REPLOG_OK) break;
        if (at == 0 && h.first_seq != p->next_seq) break;
        last = block_last_seq(&h);
    }
    if (last == 0) {
        log_warn("feeding member %" PRIu64 " from seq %" PRIu64 ": %s", p->id, p->next_seq,
                 event->text ? event->text : "nothing read");
        replicate_event(n, &(struct raft_event){.type = RAFT_EV_LOST, .peer = p->id}, NULL, fx);
        return;
    }
    struct node_bytes blocks = event->blocks;
    blob_ref(blocks.blob);
    send_blocks(n, p, blocks, last, fx);
}

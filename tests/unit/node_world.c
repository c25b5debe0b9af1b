#include "node_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"

#define DIR_NAME "d"

struct world *world_new(unsigned n_nodes, uint64_t seed) {
    CHECK(n_nodes <= WORLD_MAX_NODES);
    struct world *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    w->n = n_nodes;
    w->rng = seed * 7919 + 1;
    w->now_ms = 1000;
    w->next_stream = 1;
    w->segment_bytes = 65536;
    w->requests = calloc(WORLD_MAX_REQUESTS, sizeof *w->requests);
    CHECK(w->requests != NULL);
    w->n_requests = 1; /* token 0 is none */
    w->options.acks_are_durable = true;
    for (uint64_t id = 1; id <= n_nodes; id++) {
        struct config_member *m = &w->options.cluster.members[w->options.cluster.n_members++];
        m->id = id;
        snprintf(m->address, sizeof m->address, "127.0.0.1:%u", (unsigned)(7400 + id));
        struct world_node *x = &w->nodes[id];
        x->id = id;
        x->disk = disk_mem_new(0);
        x->store = store_mem_new();
        x->incarnation_seed = rng_next(&w->rng);
    }
    log_set_level(LOG_ERROR + 1);
    return w;
}

static void effects_done(struct node_effect *e) {
    if (e->type == NODE_FX_WRITE) blob_unref(e->blocks.blob);
    if (e->type == NODE_FX_SEND) blob_unref(e->msg.blocks.blob);
}

static void stop(struct world *w, uint64_t id) {
    struct world_node *x = &w->nodes[id];
    for (size_t i = 0; i < x->n_wal_queue; i++) effects_done(&x->wal_queue[i]);
    x->n_wal_queue = 0;
    node_close(x->node);
    apply_close(x->applier);
    wal_close(x->wal);
    x->node = NULL;
    x->applier = NULL;
    x->wal = NULL;
    x->running = false;
    x->life++;
    x->flush_due = 0;
    x->apply_upto = 0;
    x->space_low = false;
    for (uint64_t k = 1; k <= w->n; k++) {
        w->stream[id][k] = 0;
        w->bound[id][k] = 0;
    }
}

void world_free(struct world *w) {
    for (uint64_t id = 1; id <= w->n; id++) {
        if (w->nodes[id].running) stop(w, id);
        store_close(w->nodes[id].store);
        disk_mem_free(w->nodes[id].disk);
        free(w->nodes[id].wal_queue);
    }
    for (size_t i = 0; i < w->n_messages; i++) blob_unref(w->messages[i].msg.blocks.blob);
    free(w->messages);
    free(w->requests);
    free(w);
}

void world_start(struct world *w, uint64_t id) {
    struct world_node *x = &w->nodes[id];
    replog_error err = {0};
    CHECK(!x->running);
    x->fatal = false;
    struct wal_options wo = {.disk = disk_mem_table(x->disk),
                             .dir = DIR_NAME,
                             .member_id = id,
                             .new_incarnation = x->incarnation_seed | 1,
                             .segment_bytes = w->segment_bytes,
                             .create = true};
    struct node_options no = w->options;
    no.self = id;
    no.seed = rng_next(&w->rng);
    replog_status status = wal_open(&wo, &x->wal, &err);
    if (status == REPLOG_OK) status = apply_open(x->wal, x->store, &x->applier, &err);
    if (status == REPLOG_OK) status = node_open(&no, x->wal, x->applier, w->now_ms, &x->node, &err);
    if (status != REPLOG_OK) fprintf(stderr, "node %d: %s\n", (int)id, err.text);
    CHECK(status == REPLOG_OK);
    x->running = true;
}

void world_start_all(struct world *w) {
    for (uint64_t id = 1; id <= w->n; id++)
        if (!w->nodes[id].running) world_start(w, id);
}

void world_wipe(struct world *w, uint64_t id) {
    struct world_node *x = &w->nodes[id];
    CHECK(!x->running);
    disk_mem_free(x->disk);
    store_close(x->store);
    x->disk = disk_mem_new(0);
    x->store = store_mem_new();
    x->incarnation_seed = rng_next(&w->rng);
}

void world_isolate(struct world *w, uint64_t id, bool isolated) {
    for (uint64_t k = 1; k <= w->n; k++) w->cut[id][k] = w->cut[k][id] = isolated;
}

/* ---- Effects --------------------------------------------------------------------------------- */

static void carry_out(struct world *w, struct world_node *x, struct node_effects *fx);

static void step(struct world *w, struct world_node *x, struct node_event event) {
    struct node_effects fx = {0};
    if (!x->running || x->fatal) return;
    event.now_ms = w->now_ms;
    event.wall_us = w->now_ms * 1000;
    node_step(x->node, &event, &fx);
    node_pump(x->node, &fx);
    carry_out(w, x, &fx);
    node_effects_free(&fx);
}

static void queue_wal(struct world *w, struct world_node *x, const struct node_effect *e) {
    if (x->n_wal_queue == x->wal_capacity) {
        x->wal_capacity = x->wal_capacity ? 2 * x->wal_capacity : 16;
        x->wal_queue = realloc(x->wal_queue, x->wal_capacity * sizeof *x->wal_queue);
        CHECK(x->wal_queue != NULL);
    }
    if (x->n_wal_queue == 0 && x->wal_busy_until <= w->now_ms)
        x->wal_busy_until = w->now_ms + x->disk_delay_ms + rng_between(&w->rng, 0, 2);
    x->wal_queue[x->n_wal_queue++] = *e;
}

static void send(struct world *w, struct world_node *x, const struct node_effect *e) {
    uint64_t from = x->id, to = e->peer;
    if (w->stream[from][to] == 0 || w->cut[from][to]) {
        blob_unref(e->msg.blocks.blob);
        return;
    }
    if (w->n_messages == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 64;
        w->messages = realloc(w->messages, w->capacity * sizeof *w->messages);
        CHECK(w->messages != NULL);
    }
    uint64_t due = w->now_ms + rng_between(&w->rng, 0, 3);
    if (due < w->stream_last_due[from][to]) due = w->stream_last_due[from][to];
    w->stream_last_due[from][to] = due;
    w->messages[w->n_messages++] = (struct world_message){.due_ms = due,
                                                          .order = ++w->order,
                                                          .from = from,
                                                          .to = to,
                                                          .from_life = x->life,
                                                          .to_life = w->nodes[to].life,
                                                          .stream = w->stream[from][to],
                                                          .msg = e->msg};
}

static void feed(struct world *w, struct world_node *x, const struct node_effect *e) {
    struct wal_reader *reader = NULL;
    replog_error err = {0};
    struct buffer bytes = {0};
    replog_status status = wal_reader_open(x->wal, e->seq, &reader, &err);
    while (status == REPLOG_OK && bytes.size_bytes < e->bytes) {
        struct block_header h;
        const uint8_t *data;
        status = wal_reader_next(reader, e->limit_seq, &h, &data, &err);
        if (status == REPLOG_OK) buffer_append(&bytes, data, h.length);
    }
    wal_reader_close(reader);
    struct node_event event = {.type = NODE_EV_FED, .peer = e->peer, .ticket = e->ticket};
    event.text = err.text;
    if (bytes.size_bytes) event.blocks.blob = blob_copy(bytes.data, bytes.size_bytes);
    event.blocks.size_bytes = bytes.size_bytes;
    buffer_free(&bytes);
    step(w, x, event);
    blob_unref(event.blocks.blob);
}

static void refuse(struct world *w, struct world_node *x, const struct node_effect *e) {
    snprintf(w->refused, sizeof w->refused, "%s", e->text);
    for (uint64_t k = 1; k <= w->n; k++) {
        if (w->stream[k][x->id] != e->stream) continue;
        w->stream[k][x->id] = 0;
        w->stream_due[k][x->id] = w->now_ms + 200;
        step(w, &w->nodes[k],
             (struct node_event){.type = NODE_EV_PEER_DOWN, .peer = x->id, .text = e->text});
    }
}

static void carry_out(struct world *w, struct world_node *x, struct node_effects *fx) {
    for (size_t i = 0; i < fx->n; i++) {
        struct node_effect *e = &fx->items[i];
        switch (e->type) {
        case NODE_FX_WRITE:
        case NODE_FX_SAVE_VOTE:
        case NODE_FX_CUT:
        case NODE_FX_FOUND:
        case NODE_FX_TRUNCATE:
            queue_wal(w, x, e);
            break;
        case NODE_FX_SEND:
            send(w, x, e);
            break;
        case NODE_FX_REFUSE:
            refuse(w, x, e);
            break;
        case NODE_FX_WELCOME:
            w->bound[x->id][e->peer] = e->stream;
            break;
        case NODE_FX_FEED:
            feed(w, x, e);
            break;
        case NODE_FX_APPLY:
            x->apply_upto = e->seq;
            break;
        case NODE_FX_FLUSH:
            x->flush_due = w->now_ms + rng_between(&w->rng, 1, 20);
            break;
        case NODE_FX_REPLY: {
            struct world_request *r = world_request(w, e->token);
            CHECK(!r->done);
            r->done = true;
            r->status = e->status;
            r->reply = e->reply;
            snprintf(r->text, sizeof r->text, "%s", e->text);
            break;
        }
        case NODE_FX_PUBLISH:
            break;
        case NODE_FX_FATAL:
            x->fatal = true;
            snprintf(x->fatal_text, sizeof x->fatal_text, "%s", e->text);
            fprintf(stderr, "node %d FATAL: %s\n", (int)x->id, e->text);
            break;
        }
    }
}

/* ---- What threads do in a real node -----------------------------------------------------------
 */

static struct node_event wal_do(struct world_node *x, struct node_effect *e) {
    replog_error err = {0};
    replog_status status = REPLOG_OK;
    struct node_event done = {.seq = e->seq, .epoch = e->epoch};
    switch (e->type) {
    case NODE_FX_WRITE: {
        struct slice piece = {e->blocks.blob->data + e->blocks.offset, e->blocks.size_bytes};
        status = wal_append(x->wal, &piece, 1, NULL, &err);
        done.type = NODE_EV_PERSISTED;
        break;
    }
    case NODE_FX_SAVE_VOTE:
        status = wal_save_vote(x->wal, (struct wal_vote){e->term, e->vote}, &err);
        done = (struct node_event){.type = NODE_EV_VOTE_SAVED, .term = e->term, .vote = e->vote};
        break;
    case NODE_FX_CUT:
        status = wal_cut(x->wal, e->seq, &err);
        done.type = NODE_EV_CUT_DONE;
        break;
    case NODE_FX_FOUND:
        status = wal_found(x->wal, e->founding, e->cluster_id, e->config, &err);
        done = (struct node_event){.type = NODE_EV_FOUND_SAVED, .founding = e->founding};
        break;
    default:
        status = wal_truncate(x->wal, e->seq, e->config, &err);
        done.type = NODE_EV_TRUNCATED;
        done.base = wal_base(x->wal);
    }
    if (status != REPLOG_OK) fprintf(stderr, "node %d wal: %s\n", (int)x->id, err.text);
    CHECK(status == REPLOG_OK);
    return done;
}

static void wal_thread(struct world *w, struct world_node *x) {
    if (x->n_wal_queue == 0 || x->wal_busy_until > w->now_ms) return;
    struct node_effect *queue = x->wal_queue;
    size_t n = x->n_wal_queue;
    x->wal_queue = NULL;
    x->n_wal_queue = x->wal_capacity = 0;
    struct node_event *events = calloc(n, sizeof *events);
    CHECK(events != NULL);
    for (size_t i = 0; i < n; i++) {
        events[i] = wal_do(x, &queue[i]);
        effects_done(&queue[i]);
    }
    replog_error err;
    CHECK(wal_sync(x->wal, &err) == REPLOG_OK);
    for (size_t i = 0; i < n; i++) step(w, x, events[i]);
    free(events);
    free(queue);
}

static void apply_thread(struct world *w, struct world_node *x) {
    replog_error err = {0};
    if (x->apply_upto > apply_seq(x->applier)) {
        uint64_t applied = 0;
        replog_status status = apply_run(x->applier, x->apply_upto, 1 << 20, &applied, &err);
        if (status != REPLOG_OK) fprintf(stderr, "node %d apply: %s\n", (int)x->id, err.text);
        CHECK(status == REPLOG_OK);
        step(w, x, (struct node_event){.type = NODE_EV_APPLIED, .seq = applied, .bytes = 100});
    }
    if (x->running && x->flush_due && x->flush_due <= w->now_ms) {
        uint64_t seq;
        x->flush_due = 0;
        CHECK(apply_flush(x->applier, &seq, &err) == REPLOG_OK);
        step(w, x, (struct node_event){.type = NODE_EV_FLUSHED, .seq = seq});
    }
}

void world_crash(struct world *w, uint64_t id) {
    struct world_node *x = &w->nodes[id];
    stop(w, id);
    for (uint64_t k = 1; k <= w->n; k++) {
        if (w->stream[k][id] == 0) continue;
        w->stream[k][id] = 0;
        w->stream_due[k][id] = w->now_ms + rng_between(&w->rng, 5, 60);
        step(w, &w->nodes[k], (struct node_event){.type = NODE_EV_PEER_DOWN, .peer = id});
    }
    disk_mem_crash(x->disk, DISK_LOSE_RANDOM, rng_next(&w->rng));
    store_mem_crash(x->store);
}

static void streams(struct world *w, uint64_t from, uint64_t to) {
    bool possible = w->nodes[from].running && w->nodes[to].running && !w->cut[from][to];
    if (w->stream[from][to] && !possible) {
        w->stream[from][to] = 0;
        w->stream_due[from][to] = w->now_ms + rng_between(&w->rng, 5, 60);
        step(w, &w->nodes[from], (struct node_event){.type = NODE_EV_PEER_DOWN, .peer = to});
    } else if (!w->stream[from][to] && possible && w->stream_due[from][to] <= w->now_ms) {
        w->stream[from][to] = w->next_stream++;
        step(w, &w->nodes[from], (struct node_event){.type = NODE_EV_PEER_UP, .peer = to});
    }
}

static void deliver(struct world *w) {
    for (;;) {
        size_t best = w->n_messages;
        for (size_t i = 0; i < w->n_messages; i++) {
            if (w->messages[i].due_ms > w->now_ms) continue;
            if (best == w->n_messages || w->messages[i].order < w->messages[best].order) best = i;
        }
        if (best == w->n_messages) return;
        struct world_message m = w->messages[best];
        w->messages[best] = w->messages[--w->n_messages];
        struct world_node *x = &w->nodes[m.to];
        bool alive = x->running && x->life == m.to_life && w->stream[m.from][m.to] == m.stream &&
                     w->nodes[m.from].life == m.from_life && !w->cut[m.from][m.to];
        if (alive) {
            bool bound = w->bound[m.to][m.from] == m.stream;
            step(w, x,
                 (struct node_event){.type = NODE_EV_PEER_MESSAGE,
                                     .peer = bound ? m.from : 0,
                                     .stream = m.stream,
                                     .msg = &m.msg});
        }
        blob_unref(m.msg.blocks.blob);
    }
}

static void one_ms(struct world *w) {
    w->now_ms++;
    for (uint64_t a = 1; a <= w->n; a++)
        for (uint64_t b = 1; b <= w->n; b++)
            if (a != b) streams(w, a, b);
    deliver(w);
    for (uint64_t id = 1; id <= w->n; id++) {
        struct world_node *x = &w->nodes[id];
        if (!x->running) continue;
        wal_thread(w, x);
        if (x->running) apply_thread(w, x);
        if (w->now_ms % 10 == id) step(w, x, (struct node_event){.type = NODE_EV_TICK});
    }
}

void world_run(struct world *w, uint64_t ms) {
    for (uint64_t end = w->now_ms + ms; w->now_ms < end;) one_ms(w);
}

struct node_snapshot world_snapshot(struct world *w, uint64_t id) {
    struct node_snapshot s;
    node_snapshot(w->nodes[id].node, &s);
    return s;
}

uint64_t world_leader(struct world *w, uint64_t max_ms) {
    for (uint64_t end = w->now_ms + max_ms; w->now_ms < end; one_ms(w)) {
        for (uint64_t id = 1; id <= w->n; id++) {
            if (!w->nodes[id].running) continue;
            struct node_snapshot s = world_snapshot(w, id);
            if (s.role == RAFT_LEADER && s.ready) return id;
        }
    }
    return 0;
}

static bool settled(struct world *w) {
    uint64_t seq = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t id = 1; id <= w->n; id++) {
            if (!w->nodes[id].running) continue;
            struct node_snapshot s = world_snapshot(w, id);
            if (s.last_seq > seq) {
                if (pass) return false;
                seq = s.last_seq;
            }
            if (pass && (s.applied_seq != seq || s.commit_seq != seq)) return false;
        }
    }
    return true;
}

bool world_settle(struct world *w, uint64_t max_ms) {
    for (uint64_t end = w->now_ms + max_ms; w->now_ms < end; world_run(w, 20))
        if (world_leader(w, 1) && settled(w)) return true;
    return false;
}

/* ---- Requests -------------------------------------------------------------------------------- */

static uint64_t new_token(struct world *w) {
    CHECK(w->n_requests < WORLD_MAX_REQUESTS);
    return w->n_requests++;
}

uint64_t world_append(struct world *w, uint64_t id, const char *key, const char *value,
                      unsigned count, enum node_ack ack, uint64_t session, uint64_t sequence,
                      uint64_t deadline_ms) {
    struct block_builder b;
    replog_error err;
    block_begin(&b);
    for (unsigned i = 0; i < count; i++) {
        char k[64] = "";
        if (key) snprintf(k, sizeof k, count > 1 ? "%s%u" : "%s", key, i);
        CHECK(block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)k, strlen(k)},
                        (struct slice){(const uint8_t *)value, strlen(value)}, &err) == REPLOG_OK);
    }
    if (count > 1) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    struct node_event event = {.type = NODE_EV_APPEND, .token = new_token(w)};
    event.deadline_ms = deadline_ms ? w->now_ms + deadline_ms : 0;
    event.append = (struct node_append){
        .ack = ack, .session = session, .sequence = sequence, .acked_below = w->acked_below};
    event.append.block = block_finish(&b, &event.append.n_records, &event.append.flags);
    block_builder_free(&b);
    step(w, &w->nodes[id], event);
    blob_unref(event.append.block);
    return event.token;
}

uint64_t world_ask(struct world *w, uint64_t id, enum node_event_type type, uint64_t seq,
                   bool wait_applied) {
    struct node_event event = {
        .type = type, .token = new_token(w), .seq = seq, .wait_applied = wait_applied};
    step(w, &w->nodes[id], event);
    return event.token;
}

struct world_request *world_request(struct world *w, uint64_t token) {
    CHECK(token > 0 && token < w->n_requests);
    return &w->requests[token];
}

replog_status world_wait(struct world *w, uint64_t token, uint64_t max_ms) {
    struct world_request *r = world_request(w, token);
    for (uint64_t end = w->now_ms + max_ms; w->now_ms < end && !r->done;) one_ms(w);
    return r->done ? r->status : REPLOG_UNKNOWN;
}

/* ---- Checks ---------------------------------------------------------------------------------- */

void world_check_logs(struct world *w) {
    for (uint64_t a = 1; a <= w->n; a++) {
        for (uint64_t b = a + 1; b <= w->n; b++) {
            if (!w->nodes[a].running || !w->nodes[b].running) continue;
            struct node_snapshot sa = world_snapshot(w, a), sb = world_snapshot(w, b);
            uint64_t seq = sa.commit_seq < sb.commit_seq ? sa.commit_seq : sb.commit_seq;
            if (seq < sa.first_seq || seq < sb.first_seq || seq == 0) continue;
            if (seq > sa.durable_seq || seq > sb.durable_seq) continue;
            struct wal_pos pa, pb;
            replog_error err;
            CHECK(wal_pos_at(w->nodes[a].wal, seq, &pa, &err) == REPLOG_OK);
            CHECK(wal_pos_at(w->nodes[b].wal, seq, &pb, &err) == REPLOG_OK);
            CHECK(pa.chain == pb.chain && pa.term == pb.term && pa.seq == pb.seq);
        }
    }
}

void world_each_record(struct world *w, uint64_t id, void (*fn)(const replog_record *r, void *user),
                       void *user) {
    struct node_snapshot s = world_snapshot(w, id);
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    replog_error err = {0};
    CHECK(wal_reader_open(w->nodes[id].wal, s.first_seq, &reader, &err) == REPLOG_OK);
    replog_status status;
    while ((status = wal_reader_next(reader, s.commit_seq, &h, &bytes, &err)) == REPLOG_OK) {
        struct block_walk walk = {0};
        replog_record r;
        while (block_next(bytes, &h, &walk, &r)) fn(&r, user);
    }
    CHECK(status == REPLOG_NOT_FOUND);
    wal_reader_close(reader);
}

#include "node_world.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "sim_net.h"
#include "sim_watch.h"

static struct world *current;

static void failed(const struct sim *sim, const char *text) {
    fprintf(stderr, "seed %llu: %s\n", (unsigned long long)sim_options(sim)->seed, text);
    abort(); /* so that a fuzzer keeps its input */
}

struct world *world_new(unsigned n_nodes, uint64_t seed) {
    CHECK(n_nodes <= SIM_MAX_NODES && !current);
    struct world *w = calloc(1, sizeof *w);
    CHECK(w != NULL);
    current = w;
    struct sim_options options = {.seed = seed, .trace = getenv("WORLD_TRACE") != NULL};
    struct sim *sim = w->sim = sim_new(&options);
    sim_on_fail(failed);
    w->n = sim->n_nodes = n_nodes;
    w->rng = sim_fork_rng(sim, "world of a test");
    w->options = &sim->node_options;
    w->options->acks_are_durable = true;
    w->options->heartbeat_ms = 100;
    w->options->election_ms = 500;
    sim->segment_bytes = 65536;
    sim->quiet_us = sim->healed_us = sim->last_call_us = sim->end_us = UINT64_MAX;
    w->requests = calloc(WORLD_MAX_REQUESTS, sizeof *w->requests);
    CHECK(w->requests != NULL);
    w->n_requests = 1; /* token 0 is none */
    sim->net = sim_net_new(sim);
    sim->watch = sim_watch_new(sim);
    for (uint64_t id = 1; id <= n_nodes; id++) {
        struct config_member *c = &w->options->cluster.members[w->options->cluster.n_members++];
        c->id = id;
        snprintf(c->address, sizeof c->address, "127.0.0.1:%u", (unsigned)(7400 + id));
        sim->members[id] = sim_member_new(sim, id);
        sim->members[id]->wall_us = 1000000; /* a young clock */
    }
    sim_net_heal(sim);
    sim_net_latency(sim, 50, 1500);
    return w;
}

void world_free(struct world *w) {
    struct sim *sim = w->sim;
    for (uint64_t id = 1; id <= w->n; id++) {
        sim_member_end(sim->members[id], SIM_KILL, DISK_LOSE_NONE);
        sim_member_free(sim->members[id]);
    }
    sim_net_free(sim->net);
    sim_watch_free(sim->watch);
    sim_free(sim);
    free(w->requests);
    free(w);
    current = NULL;
}

void world_start(struct world *w, uint64_t id) {
    sim_member_start(sim_member(w->sim, id));
    CHECK(sim_node_running(w->sim, id));
}

void world_start_all(struct world *w) {
    for (uint64_t id = 1; id <= w->n; id++)
        if (!sim_node_running(w->sim, id)) world_start(w, id);
}

void world_crash(struct world *w, uint64_t id) {
    sim_member_end(sim_member(w->sim, id), SIM_POWER, DISK_LOSE_RANDOM);
}

void world_wipe(struct world *w, uint64_t id) {
    struct sim_member *m = sim_member(w->sim, id);
    CHECK(!m->running);
    sim_disk_wipe(&m->disk, true, true);
    sim_member_damaged(m, SIM_DISK_WIPED);
}

void world_cut(struct world *w, uint64_t from, uint64_t to, bool cut) {
    if (from == to || w->cut[from][to] == cut) return;
    w->cut[from][to] = cut;
    if (cut) {
        sim_net_block(w->sim, (unsigned)from, (unsigned)to, SIM_CLOG);
        sim_net_drop_stream(w->sim, from, to);
    } else {
        sim_net_unblock(w->sim, (unsigned)from, (unsigned)to);
    }
}

void world_heal(struct world *w) {
    for (uint64_t a = 1; a <= w->n; a++)
        for (uint64_t b = 1; b <= w->n; b++) world_cut(w, a, b, false);
}

void world_isolate(struct world *w, uint64_t id, bool isolated) {
    for (uint64_t k = 1; k <= w->n; k++) {
        world_cut(w, id, k, isolated);
        world_cut(w, k, id, isolated);
    }
}

bool world_say(struct world *w, uint64_t from, uint64_t to, struct peer_msg *msg) {
    w->sim->unwatched = true;
    return sim_net_inject(w->sim, from, to, msg);
}

char *world_refused(struct world *w) {
    return w->sim->refused;
}

void world_disk_delay(struct world *w, uint64_t id, uint64_t ms) {
    struct sim_disk *disk = &sim_member(w->sim, id)->disk;
    disk->low_us = 100 + ms * 1000;
    disk->high_us = 2000 + ms * 1000;
}

void world_run(struct world *w, uint64_t ms) {
    sim_run_until(w->sim, sim_now_us(w->sim) + ms * 1000);
}

struct node_snapshot world_snapshot(struct world *w, uint64_t id) {
    struct node_snapshot s;
    sim_node_snapshot(w->sim, id, &s);
    return s;
}

uint64_t world_leader(struct world *w, uint64_t max_ms) {
    for (uint64_t i = 0; i < max_ms; i++, world_run(w, 1)) {
        for (uint64_t id = 1; id <= w->n; id++) {
            if (!sim_node_running(w->sim, id)) continue;
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
            if (!sim_node_running(w->sim, id)) continue;
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
    for (uint64_t i = 0; i < max_ms; i += 20, world_run(w, 20))
        if (world_leader(w, 1) && settled(w)) return true;
    return false;
}

void world_check_logs(struct world *w) {
    for (uint64_t a = 1; a <= w->n; a++) {
        for (uint64_t b = a + 1; b <= w->n; b++) {
            if (!sim_node_running(w->sim, a) || !sim_node_running(w->sim, b)) continue;
            struct node_snapshot sa = world_snapshot(w, a), sb = world_snapshot(w, b);
            uint64_t seq = sa.commit_seq < sb.commit_seq ? sa.commit_seq : sb.commit_seq;
            if (seq < sa.first_seq || seq < sb.first_seq || seq == 0) continue;
            if (seq > sa.durable_seq || seq > sb.durable_seq) continue;
            struct wal_pos pa, pb;
            CHECK(wal_pos_at(sim_node_wal(w->sim, a), seq, &pa, NULL) == REPLOG_OK);
            CHECK(wal_pos_at(sim_node_wal(w->sim, b), seq, &pb, NULL) == REPLOG_OK);
            CHECK(pa.chain == pb.chain && pa.term == pb.term && pa.seq == pb.seq);
        }
    }
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
    event.deadline_ms = deadline_ms ? sim_node_clock_ms(w->sim, id) + deadline_ms : 0;
    event.append = (struct node_append){
        .ack = ack, .session = session, .sequence = sequence, .acked_below = w->acked_below};
    event.append.block = block_finish(&b, &event.append.n_records, &event.append.flags);
    block_builder_free(&b);
    sim_node_post(w->sim, id, &event);
    blob_unref(event.append.block);
    return event.token;
}

uint64_t world_ask(struct world *w, uint64_t id, enum node_event_type type, uint64_t seq,
                   bool wait_applied) {
    struct node_event event = {
        .type = type, .token = new_token(w), .seq = seq, .wait_applied = wait_applied};
    sim_node_post(w->sim, id, &event);
    return event.token;
}

struct world_request *world_request(struct world *w, uint64_t token) {
    CHECK(token > 0 && token < w->n_requests);
    return &w->requests[token];
}

replog_status world_wait(struct world *w, uint64_t token, uint64_t max_ms) {
    struct world_request *r = world_request(w, token);
    for (uint64_t i = 0; i < max_ms && !r->done; i++) world_run(w, 1);
    return r->done ? r->status : REPLOG_UNKNOWN;
}

void world_each_record(struct world *w, uint64_t id, void (*fn)(const replog_record *r, void *user),
                       void *user) {
    struct node_snapshot s = world_snapshot(w, id);
    struct wal_reader *reader;
    struct block_header h;
    const uint8_t *bytes;
    replog_error err = {0};
    CHECK(wal_reader_open(sim_node_wal(w->sim, id), s.first_seq, &reader, &err) == REPLOG_OK);
    replog_status status;
    while ((status = wal_reader_next(reader, s.commit_seq, &h, &bytes, &err)) == REPLOG_OK) {
        struct block_walk walk = {0};
        replog_record r;
        while (block_next(bytes, &h, &walk, &r)) fn(&r, user);
    }
    CHECK(status == REPLOG_NOT_FOUND);
    wal_reader_close(reader);
}

/* ---- What clients and their oracle provide in the simulator ---------------------------------- */

void sim_service_reply(struct sim *sim, uint64_t id, const struct node_effect *fx) {
    struct world_request *r = world_request(current, fx->token);
    (void)sim;
    (void)id;
    CHECK(!r->done);
    r->done = true;
    r->status = fx->status;
    r->reply = fx->reply;
    snprintf(r->text, sizeof r->text, "%s", fx->text);
}

void sim_service_node_down(struct sim *sim, uint64_t id) {
    (void)sim;
    (void)id;
}
void sim_service_node_up(struct sim *sim, uint64_t id) {
    (void)sim;
    (void)id;
}
void sim_service_bytes(struct sim *sim, uint64_t id, struct sim_conn *conn, const uint8_t *data,
                       size_t n) {
    (void)sim;
    (void)id;
    (void)conn;
    (void)data;
    (void)n;
}
void sim_service_conn_down(struct sim *sim, uint64_t id, struct sim_conn *conn) {
    (void)sim;
    (void)id;
    (void)conn;
}
void sim_oracle_committed(struct sim *sim, const struct block_header *header,
                          const uint8_t *bytes) {
    (void)sim;
    (void)header;
    (void)bytes;
}

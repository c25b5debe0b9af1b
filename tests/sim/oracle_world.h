/* oracle_world.h: for the oracle's own tests, one file each: the few lines that stand for the rest
 * of the simulator, and helpers that write a history, true or false. */
#ifndef ORACLE_WORLD_H
#define ORACLE_WORLD_H

#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "must_fail.h"
#include "sim_oracle_impl.h"
#include "wal/disk.h"
#include "wal/log.h"

/* ---- The world ------------------------------------------------------------------------------- */

struct sim {
    struct sim_figures figures;
    unsigned n_nodes, damage[SIM_MAX_NODES + 1];
    bool running[SIM_MAX_NODES + 1];
    uint64_t wiped_seq[SIM_MAX_NODES + 1];
    struct wal *wal[SIM_MAX_NODES + 1];
    struct store *store[SIM_MAX_NODES + 1];
    struct node_snapshot view[SIM_MAX_NODES + 1];
    enum sim_sync sync;
    size_t max_sessions;
    bool has_lost;
    uint64_t commit_seq;
    /* the log that the test writes */
    uint64_t end_seq, end_chain, term;
};
static struct sim world;

/* A failure leaves its function by longjmp, and what that held. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "detect_leaks=0";
}

uint64_t sim_now_us(const struct sim *sim) {
    (void)sim;
    return 1000000;
}
uint64_t sim_fork_rng(struct sim *sim, const char *name) {
    (void)sim;
    return strlen(name);
}
void sim_fail(struct sim *sim, const char *format, ...) {
    va_list args;
    (void)sim;
    va_start(args, format);
    vsnprintf(must_fail_text, sizeof must_fail_text, format, args);
    va_end(args);
    longjmp(must_fail_jump, 1);
}
struct sim_figures *sim_figures(struct sim *sim) {
    return &sim->figures;
}
unsigned sim_n_nodes(const struct sim *sim) {
    return sim->n_nodes;
}
bool sim_node_running(const struct sim *sim, uint64_t id) {
    return sim->running[id];
}
unsigned sim_node_damage(const struct sim *sim, uint64_t id) {
    return sim->damage[id];
}
enum sim_sync sim_sync_mode(const struct sim *sim) {
    return sim->sync;
}
size_t sim_max_sessions(const struct sim *sim) {
    return sim->max_sessions;
}
bool sim_has_lost(const struct sim *sim) {
    return sim->has_lost;
}
bool sim_must_progress(const struct sim *sim) {
    (void)sim;
    return true;
}
struct wal *sim_node_wal(struct sim *sim, uint64_t id) {
    return sim->wal[id];
}
struct store *sim_node_store(struct sim *sim, uint64_t id) {
    return sim->store[id];
}
uint64_t sim_node_wiped_seq(const struct sim *sim, uint64_t id) {
    return sim->wiped_seq[id];
}
uint64_t sim_node_commit(struct sim *sim, uint64_t id) {
    (void)id;
    return sim->commit_seq;
}
void sim_node_snapshot(struct sim *sim, uint64_t id, struct node_snapshot *out) {
    *out = sim->view[id];
}

/* The library's batches are not needed here. */
replog_status replog_batch_put(replog_batch *batch, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes, replog_error *err) {
    (void)batch, (void)key, (void)key_bytes, (void)value, (void)value_bytes, (void)err;
    return REPLOG_OK;
}
replog_status replog_batch_delete(replog_batch *batch, const void *key, size_t key_bytes,
                                  replog_error *err) {
    (void)batch, (void)key, (void)key_bytes, (void)err;
    return REPLOG_OK;
}

static inline int setup(void **state) {
    (void)state;
    memset(&world, 0, sizeof world);
    world.n_nodes = 3;
    world.term = 1;
    world.max_sessions = 1;
    sim_oracle_begin(&world, false);
    struct oracle *o = oracle_of(&world);
    o->n_keys = 1;
    for (unsigned id = 1; id <= 3; id++) o->nodes[id].down_durable_seq = 1000;
    return 0;
}

static inline int teardown(void **state) {
    (void)state;
    sim_oracle_end(&world);
    return 0;
}

/* ---- Making history -------------------------------------------------------------------------- */

enum lie { TRUTH, LESS_RECORDS, NO_COMMIT, OTHER_VALUE, OTHER_APPEND };

static struct blob *last_block;
static struct block_header last_header;

static inline void seal(struct block_builder *b, uint64_t session, uint64_t sequence) {
    struct block_header *h = &last_header;
    blob_unref(last_block);
    *h = (struct block_header){.first_seq = world.end_seq + 1,
                               .term = world.term,
                               .session = session,
                               .session_seq = sequence,
                               .prev_chain = world.end_chain};
    last_block = block_finish(b, &h->n_records, &h->flags);
    assert_non_null(last_block);
    h->length = (uint32_t)last_block->size_bytes;
    world.end_chain = block_seal(last_block->data, h);
    world.end_seq = block_last_seq(h);
    sim_oracle_committed(&world, h, last_block->data);
}

static inline uint64_t commit_marker(replog_op op) {
    struct block_builder b;
    block_begin(&b);
    block_add_marker(&b, op, (struct slice){0});
    seal(&b, 0, 0);
    return world.end_seq;
}

static inline void commit(uint32_t append, uint64_t session, uint64_t sequence, enum lie lie) {
    struct oracle *o = oracle_of(&world);
    const struct sim_append *p = &o->appends[append].plan;
    struct block_builder b;
    replog_error err;
    block_begin(&b);
    for (uint32_t i = 0; i < p->n_records - (lie == LESS_RECORDS); i++) {
        struct oracle_record r;
        oracle_record(o, append, i, &r);
        uint8_t *bytes = (uint8_t *)(uintptr_t)r.value.data;
        if (lie == OTHER_VALUE && i == p->n_records - 1) bytes[r.value.size_bytes - 1] ^= 1;
        if (lie == OTHER_APPEND && i == 0) put_u32(bytes + 4, 4000000);
        assert_int_equal(block_add(&b, r.op, r.key, r.value, &err), REPLOG_OK);
    }
    if (!p->single && lie != NO_COMMIT) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    seal(&b, session, sequence);
}

static const struct sim_append model = {.lane = {.who = 101, .life = 1},
                                        .ack = REPLOG_ACK_QUORUM,
                                        .numbered = true,
                                        .n_records = 2,
                                        .value_min = 20,
                                        .value_max = 40,
                                        .percent_keyed = 100};

static inline uint32_t begin(enum replog_ack ack) {
    struct sim_append a = model;
    a.ack = ack;
    a.numbered = ack != REPLOG_ACK_LEADER;
    a.lane.all = ack == REPLOG_ACK_ALL;
    return sim_oracle_append(&world, &a);
}

static inline void told(uint32_t append, uint64_t first, uint64_t last) {
    replog_append_result r = {
        .first_seq = first, .last_seq = last, .term = world.term, .n_durable_on = 3};
    sim_oracle_append_told(&world, append, REPLOG_OK, &r, "");
}

static inline void told_error(uint32_t append, replog_status status, const char *text) {
    sim_oracle_append_told(&world, append, status, NULL, text);
}

/* A session and an append in it that is acknowledged and there. */
static inline uint32_t honest_append(uint64_t *session) {
    *session = commit_marker(REPLOG_OP_SESSION);
    uint32_t a = begin(REPLOG_ACK_QUORUM);
    commit(a, *session, 1, TRUTH);
    told(a, world.end_seq - 2, world.end_seq);
    return a;
}

#endif

/* wal_world.h: a log on a disk in memory beside a model of what it must hold: the blocks from seq 1
 * on that were written or tried. For the tests of wal/log.h. */
#ifndef TESTS_UNIT_WAL_WORLD_H
#define TESTS_UNIT_WAL_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "wal/log.h"

enum { WORLD_MAX_BLOCKS = 4096 };

struct world_block {
    struct blob *blob;
    struct block_header h;
};

struct world {
    struct disk_mem *mem; /* NULL: real files */
    struct wal_options options;
    struct wal *wal;
    struct world_block blocks[WORLD_MAX_BLOCKS];
    size_t n;       /* written */
    size_t n_tried; /* written or in flight when the power went */
    size_t n_durable;
    uint64_t rng;
    replog_error err;
};

#define world_ok(w, call)                                                                          \
    do {                                                                                           \
        if ((call) != REPLOG_OK) fail_msg("%s: %s", #call, (w)->err.text);                         \
    } while (0)

static inline struct world *world_new(void) {
    struct world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->mem = disk_mem_new(0);
    w->options = (struct wal_options){.disk = disk_mem_table(w->mem),
                                      .dir = "log",
                                      .new_incarnation = 77,
                                      .segment_bytes = 64 << 10,
                                      .create = true};
    w->rng = 1;
    return w;
}

static inline void world_forget(struct world *w, size_t from) {
    for (size_t i = from; i < w->n_tried; i++) blob_unref(w->blocks[i].blob);
    if (w->n_tried > from) w->n_tried = from;
    if (w->n > from) w->n = from;
    if (w->n_durable > from) w->n_durable = from;
}

static inline void world_free(struct world *w) {
    wal_close(w->wal);
    world_forget(w, 0);
    if (w->mem) disk_mem_free(w->mem);
    free(w);
}

static inline replog_status world_open(struct world *w) {
    w->wal = NULL;
    return wal_open(&w->options, &w->wal, &w->err);
}

static inline void world_reopen(struct world *w) {
    wal_close(w->wal);
    world_ok(w, world_open(w));
}

static inline struct wal_pos world_pos(const struct world *w, size_t n) {
    if (!n) return (struct wal_pos){0};
    const struct block_header *h = &w->blocks[n - 1].h;
    return (struct wal_pos){block_last_seq(h), h->term, h->hash};
}

/* Makes the model's next block: n_records (a batch with COMMIT if more than one) of value_bytes. */
static inline struct slice world_make(struct world *w, uint64_t term, uint32_t n_records,
                                      size_t value_bytes) {
    struct block_builder b;
    uint8_t *value = malloc(value_bytes + 1);
    assert_non_null(value);
    for (size_t i = 0; i < value_bytes; i++) value[i] = (uint8_t)rng_next(&w->rng);
    block_begin(&b);
    for (uint32_t i = 0; i < n_records; i++)
        assert_int_equal(block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)"k", 1},
                                   (struct slice){value, value_bytes}, &w->err),
                         REPLOG_OK);
    if (n_records > 1) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    free(value);
    struct world_block *made = &w->blocks[w->n_tried];
    assert_true(w->n_tried < WORLD_MAX_BLOCKS);
    struct wal_pos prev = world_pos(w, w->n_tried);
    made->h = (struct block_header){.first_seq = prev.seq + 1,
                                    .term = term,
                                    .timestamp_us = 1000 * (prev.seq + 1),
                                    .prev_chain = prev.chain};
    made->blob = block_finish(&b, &made->h.n_records, &made->h.flags);
    assert_non_null(made->blob);
    made->h.length = (uint32_t)made->blob->size_bytes;
    block_seal(made->blob->data, &made->h);
    w->n_tried++;
    return (struct slice){made->blob->data, made->blob->size_bytes};
}

/* Appends one block as one group. */
static inline replog_status world_append(struct world *w, uint64_t term, uint32_t n_records,
                                         size_t value_bytes) {
    struct slice piece = world_make(w, term, n_records, value_bytes);
    replog_status status = wal_append(w->wal, &piece, 1, NULL, &w->err);
    if (status == REPLOG_OK) w->n = w->n_tried;
    return status;
}

static inline replog_status world_sync(struct world *w) {
    replog_status status = wal_sync(w->wal, &w->err);
    if (status == REPLOG_OK) w->n_durable = w->n;
    return status;
}

static inline void world_fill(struct world *w, uint64_t term, size_t n, size_t value_bytes) {
    for (size_t i = 0; i < n; i++) {
        world_ok(w, world_append(w, term, 1 + (uint32_t)(i % 3), value_bytes));
        world_ok(w, world_sync(w));
    }
}

static inline void world_assert_pos(struct wal_pos a, struct wal_pos b) {
    assert_int_equal(a.seq, b.seq);
    assert_int_equal(a.term, b.term);
    assert_int_equal(a.chain, b.chain);
}

/* Reads all from the block index `from` on and compares with the model up to n blocks. */
static inline void world_read(struct world *w, uint64_t seq, size_t from, size_t n) {
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    world_ok(w, wal_reader_open(w->wal, seq, &reader, &w->err));
    for (size_t i = from; i < n; i++) {
        world_ok(w, wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err));
        assert_int_equal(h.first_seq, w->blocks[i].h.first_seq);
        assert_int_equal(h.hash, w->blocks[i].h.hash);
        assert_int_equal(h.length, w->blocks[i].h.length);
        assert_memory_equal(bytes, w->blocks[i].blob->data, h.length);
    }
    assert_int_equal(wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err), REPLOG_NOT_FOUND);
    wal_reader_close(reader);
}

/* The index of the block whose first seq is `seq` (or of the one that would come next). */
static inline size_t world_index(const struct world *w, uint64_t seq) {
    size_t i = 0;
    while (i < w->n_tried && w->blocks[i].h.first_seq < seq) i++;
    return i;
}

static inline void world_check_runs(struct world *w) {
    struct wal_term_run runs[64];
    size_t n = wal_term_runs(w->wal, runs, 64);
    uint64_t first = wal_first_seq(w->wal);
    assert_true(n <= 64);
    for (size_t i = world_index(w, first); i < w->n; i++) {
        size_t r = 0;
        while (r + 1 < n && runs[r + 1].first_seq <= w->blocks[i].h.first_seq) r++;
        assert_true(n > 0 && runs[r].first_seq <= w->blocks[i].h.first_seq);
        assert_int_equal(runs[r].term, w->blocks[i].h.term);
    }
}

/* The log holds exactly the model's n blocks, from its own first seq on. */
static inline void world_check(struct world *w) {
    uint64_t first = wal_first_seq(w->wal);
    size_t from = world_index(w, first);
    world_assert_pos(wal_tail(w->wal), world_pos(w, w->n));
    world_assert_pos(wal_base(w->wal), world_pos(w, from));
    world_read(w, first, from, w->n);
    world_check_runs(w);
    for (size_t i = from; i < w->n; i += 1 + w->n / 50) {
        struct wal_pos pos;
        world_ok(w, wal_pos_at(w->wal, w->blocks[i].h.first_seq, &pos, &w->err));
        world_assert_pos(pos, world_pos(w, i + 1));
        world_read(w, block_last_seq(&w->blocks[i].h), i, w->n);
    }
}

/* Power off, lose, power on, open; the model follows what is there. */
static inline void world_crash(struct world *w, enum disk_mem_loss loss, uint64_t seed) {
    wal_close(w->wal);
    w->wal = NULL;
    disk_mem_crash(w->mem, loss, seed);
    world_ok(w, world_open(w));
    uint64_t tail = wal_tail(w->wal).seq;
    size_t n = 0;
    while (n < w->n_tried && block_last_seq(&w->blocks[n].h) <= tail) n++;
    assert_true(n >= w->n_durable);
    world_assert_pos(wal_tail(w->wal), world_pos(w, n));
    world_forget(w, n);
    w->n = w->n_durable = n;
}

#endif

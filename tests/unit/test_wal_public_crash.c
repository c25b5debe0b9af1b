/* The crash test of replog/wal.h: a program's life with its log (appends, batches, checkpoints,
 * truncations, restarts, several segments), in each sync mode, with the power cut at every disk
 * call. What was promised must be there: see test_wal_crash.c for the same below this interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/bytes.h"
#include "wal/public.h"

enum { MAX_SEQ = 256, VALUE_BYTES = 15000 };

/* The record of a seq is always the same: a failed call ends the life, so none is given twice. */
enum kind { NOTHING, RECORD, COMMIT, CHECKPOINT };

struct world {
    struct disk_mem *mem;
    replog_wal *wal;
    replog_sync_mode sync;
    enum disk_mem_loss loss;
    uint64_t k;
    bool made;
    enum kind kinds[MAX_SEQ];
    uint64_t commit_of[MAX_SEQ]; /* the COMMIT of the record's batch; 0: no batch */
    uint64_t last;               /* tried */
    uint64_t acked;              /* durable for sure */
    uint64_t first, first_tried;
};

static replog_error failure;

#define expect(w, condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("%s: cut at call %d, sync mode %d, loss %d: %s", #condition, (int)(w)->k,     \
                     (int)(w)->sync, (int)(w)->loss, failure.text);                                \
    } while (0)

/* ---- What is written where */
static size_t value_of(uint64_t seq, uint8_t *value) {
    size_t size = seq % 3 == 0 ? VALUE_BYTES : 8;
    memset(value, (int)(seq & 0xff), size);
    put_u64(value, seq);
    return size;
}

static replog_status check_record(const replog_record *r, void *user) {
    struct world *w = user;
    static uint8_t value[VALUE_BYTES];
    expect(w, r->seq <= w->last);
    enum kind kind = w->kinds[r->seq];
    if (r->op == REPLOG_OP_COMMIT) {
        expect(w, kind == COMMIT);
    } else if (r->op == REPLOG_OP_CHECKPOINT) {
        expect(w, kind == CHECKPOINT);
    } else {
        expect(w, kind == RECORD && r->op == REPLOG_OP_PUT);
        expect(w, r->value_bytes == value_of(r->seq, value));
        expect(w, memcmp(r->value, value, r->value_bytes) == 0);
    }
    return REPLOG_OK;
}

static replog_status count_records(const replog_record *r, void *user) {
    uint64_t *n = user;
    ++*n;
    return r->op == REPLOG_OP_PUT ? REPLOG_OK : REPLOG_INTERNAL;
}

/* ---- A life */
static replog_status open_log(struct world *w) {
    replog_wal_options options = {.sync = w->sync,
                                  .segment_bytes = 64u << 10,
                                  .batch_bytes = 20000,
                                  .batch_ms = 60000,
                                  .must_exist = w->made};
    w->wal = NULL;
    replog_status status =
        replog_wal_open_on(disk_mem_table(w->mem), "log", &options, &w->wal, &failure);
    if (!status) w->made = true;
    return status;
}

static replog_status close_log(struct world *w) {
    replog_status status = replog_wal_close(w->wal, &failure);
    w->wal = NULL;
    if (!status) w->acked = w->last;
    return status;
}

static replog_status append(struct world *w) {
    static uint8_t value[VALUE_BYTES];
    uint64_t seq = ++w->last, got = 0;
    w->kinds[seq] = RECORD;
    replog_write record = {REPLOG_OP_PUT, "k", 1, value, value_of(seq, value)};
    replog_status status = replog_wal_append(w->wal, &record, &got, &failure);
    if (status) return status;
    expect(w, got == seq);
    if (w->sync == REPLOG_SYNC_ALWAYS) w->acked = seq;
    return REPLOG_OK;
}

static replog_status append_batch(struct world *w) {
    static uint8_t values[3][VALUE_BYTES];
    replog_write records[3];
    uint64_t seq = w->last + 1, first = 0, last = 0;
    for (uint64_t i = 0; i < 3; i++) {
        records[i] = (replog_write){REPLOG_OP_PUT, "k", 1, values[i], value_of(seq + i, values[i])};
        w->kinds[seq + i] = RECORD;
        w->commit_of[seq + i] = seq + 3;
    }
    w->kinds[seq + 3] = COMMIT;
    w->last = seq + 3;
    replog_status status = replog_wal_append_batch(w->wal, records, 3, &first, &last, &failure);
    if (status) return status;
    expect(w, first == seq && last == w->last);
    w->acked = w->last;
    return REPLOG_OK;
}

static replog_status checkpoint(struct world *w) {
    uint64_t seq = 0;
    w->kinds[++w->last] = CHECKPOINT;
    replog_status status = replog_wal_checkpoint(w->wal, &seq, &failure);
    if (status) return status;
    expect(w, seq == w->last);
    w->acked = seq;
    return REPLOG_OK;
}

/* Up to a checkpoint: the end of a block for sure. */
static replog_status truncate_log(struct world *w, uint64_t upto) {
    w->first_tried = upto + 1;
    replog_status status = replog_wal_truncate(w->wal, upto, false, NULL, &failure);
    if (!status) w->first = w->first_tried;
    return status;
}

/* True when it went to its end. */
static bool live(struct world *w) {
    if (open_log(w)) return false;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 5; i++)
            if (append(w)) return false;
        if (append_batch(w) || append(w) || checkpoint(w)) return false;
        uint64_t upto = w->last;
        if (append(w) || append(w) || truncate_log(w, upto)) return false;
        if (round == 1 && (close_log(w) || open_log(w))) return false;
        if (append_batch(w) || append(w)) return false;
        if (round == 0 && replog_wal_sync(w->wal, &failure)) return false;
        if (round == 0) w->acked = w->last;
    }
    return close_log(w) == REPLOG_OK;
}

/* ---- After the crash */
static void check(struct world *w) {
    replog_wal_info info;
    replog_wal_stat(w->wal, &info);
    expect(w, info.last_seq >= w->acked && info.last_seq <= w->last);
    expect(w, info.durable_seq == info.last_seq);
    expect(w, info.first_seq == w->first || info.first_seq == w->first_tried);
    for (uint64_t seq = 1; seq <= info.last_seq; seq++) /* no half batch */
        expect(w, w->commit_of[seq] <= info.last_seq);
    expect(w, replog_wal_iterate(w->wal, 0, check_record, w, &failure) == REPLOG_OK);
    uint64_t n = 0, n_expected = 0, checkpoint_seq = 0;
    for (uint64_t seq = 1; seq <= info.last_seq; seq++) {
        n_expected += seq >= info.first_seq && w->kinds[seq] == RECORD;
        if (w->kinds[seq] == CHECKPOINT) checkpoint_seq = seq;
    }
    expect(w,
           replog_wal_replay(w->wal, info.first_seq - 1, count_records, &n, &failure) == REPLOG_OK);
    expect(w, n == n_expected);
    if (info.first_seq <= info.last_seq) expect(w, info.checkpoint_seq == checkpoint_seq);
    for (uint64_t seq = info.last_seq + 1; seq <= w->last; seq++) w->commit_of[seq] = 0;
    w->last = w->acked = info.last_seq;
    w->first = w->first_tried = info.first_seq;
}

static void cut_and_check(struct world *w) {
    w->mem = disk_mem_new(0);
    w->first = w->first_tried = 1;
    disk_mem_cut_at(w->mem, w->k);
    live(w);
    disk_mem_crash(w->mem, w->loss, w->k);
    replog_wal_close(w->wal, NULL);
    expect(w, open_log(w) == REPLOG_OK);
    check(w);
    expect(w, append(w) == REPLOG_OK && append_batch(w) == REPLOG_OK);
    expect(w, checkpoint(w) == REPLOG_OK && truncate_log(w, w->last) == REPLOG_OK);
    expect(w, append(w) == REPLOG_OK);
    expect(w, close_log(w) == REPLOG_OK);
    disk_mem_crash(w->mem, DISK_LOSE_ALL, 0);
    expect(w, open_log(w) == REPLOG_OK);
    check(w);
    replog_wal_close(w->wal, NULL);
    disk_mem_free(w->mem);
}

static void in_mode(replog_sync_mode sync) {
    struct world w = {.sync = sync};
    w.mem = disk_mem_new(0);
    w.first = w.first_tried = 1;
    expect(&w, live(&w));
    uint64_t calls = disk_mem_calls(w.mem);
    expect(&w, open_log(&w) == REPLOG_OK);
    check(&w);
    replog_wal_close(w.wal, NULL);
    disk_mem_free(w.mem);
    for (uint64_t k = 1; k <= calls; k++) {
        struct world all = {.sync = sync, .k = k, .loss = DISK_LOSE_ALL};
        struct world some = {.sync = sync, .k = k, .loss = DISK_LOSE_RANDOM};
        cut_and_check(&all);
        cut_and_check(&some);
    }
}

static void sync_always(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_ALWAYS);
}

static void sync_batch(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_BATCH);
}

static void sync_none(void **state) {
    (void)state;
    in_mode(REPLOG_SYNC_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sync_always),
        cmocka_unit_test(sync_batch),
        cmocka_unit_test(sync_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

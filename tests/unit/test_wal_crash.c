/* The crash test: a scripted life of a log on the disk in memory, with the power cut, or the
 * process ended, at every single disk call of it, and every way in which unsynced writes and names
 * can be lost. After each crash the log must open, hold every block that was acknowledged as
 * durable, byte for byte and as one chain, show no part of a block, bring nothing back that was
 * truncated or cut off, lose nothing in a second crash right after opening, and go on working.
 *
 * The script runs against a model: the blocks that were ever handed to the log and not cut off
 * again, and between which bounds the log's ends may lie while an operation is under way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "wal/log.h"

enum { MAX_BLOCKS = 128, SEGMENT_BYTES = 64 << 10, PIECES = 4 };

struct model {
    struct blob *blocks[MAX_BLOCKS];
    struct block_header headers[MAX_BLOCKS];
    size_t n;
    unsigned version;                 /* no two blocks ever made are the same */
    bool made;                        /* the first opening returned OK */
    uint64_t acked;                   /* the last seq that must be there */
    uint64_t first, first_tried;      /* between these the first seq lies */
    struct wal_vote vote, vote_tried; /* it is one of these */
};

struct world {
    struct disk_mem *mem;
    struct wal *wal;
    struct model model;
    const char *when; /* for the sentences of failures */
    uint64_t k, j, seed;
    size_t step;
    enum disk_mem_loss loss;
};

static replog_error failure;

#define expect(w, condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("%s (%s): cut at call %d (then %d), step %d, loss %d, seed %d: %s",           \
                     #condition, (w)->when, (int)(w)->k, (int)(w)->j, (int)(w)->step,              \
                     (int)(w)->loss, (int)(w)->seed, failure.text);                                \
    } while (0)

/* ---- The model */
static struct wal_pos model_end(const struct model *m, size_t n_blocks) {
    if (!n_blocks) return (struct wal_pos){0};
    const struct block_header *h = &m->headers[n_blocks - 1];
    return (struct wal_pos){block_last_seq(h), h->term, h->hash};
}

static uint64_t model_last(const struct model *m) {
    return model_end(m, m->n).seq;
}

static void model_drop_above(struct model *m, uint64_t seq) {
    while (m->n && model_last(m) > seq) blob_unref(m->blocks[--m->n]);
}

/* How many blocks end at or below seq. */
static size_t model_blocks_upto(const struct model *m, uint64_t seq) {
    size_t n = m->n;
    while (n && block_last_seq(&m->headers[n - 1]) > seq) n--;
    return n;
}

/* Adds a block of `n_records` (more than one: a batch) with about `size_bytes` of values. */
static const struct blob *model_add(struct model *m, unsigned n_records, unsigned size_bytes,
                                    uint64_t term) {
    static uint8_t value[64 << 10];
    struct block_builder b;
    struct wal_pos end = model_end(m, m->n);
    struct block_header h = {.first_seq = end.seq + 1, .term = term, .prev_chain = end.chain};
    assert_true(m->n < MAX_BLOCKS);
    m->version++;
    memset(value, (int)(m->version & 0xff), size_bytes);
    put_u32(value, m->version);
    block_begin(&b);
    for (unsigned i = 0; i < n_records; i++)
        assert_int_equal(block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)"key", 3},
                                   (struct slice){value, size_bytes / n_records}, NULL),
                         REPLOG_OK);
    if (n_records > 1) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    assert_non_null(blob);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    m->blocks[m->n] = blob;
    m->headers[m->n++] = h;
    return blob;
}

/* ---- Operations: each tells the model what may happen, does it, and tells what has happened */
static replog_status open_log(struct world *w) {
    struct wal_options options = {.disk = disk_mem_table(w->mem),
                                  .dir = "log",
                                  .member_id = 1,
                                  .new_incarnation = 4711,
                                  .segment_bytes = SEGMENT_BYTES,
                                  .create = !w->model.made};
    replog_status status = wal_open(&options, &w->wal, &failure);
    if (status)
        w->wal = NULL;
    else
        w->model.made = true;
    return status;
}

static void close_log(struct world *w) {
    wal_close(w->wal);
    w->wal = NULL;
}

static replog_status append(struct world *w, unsigned n_blocks, unsigned n_records,
                            unsigned size_bytes, uint64_t term) {
    struct slice pieces[PIECES];
    for (unsigned i = 0; i < n_blocks; i++) {
        const struct blob *blob = model_add(&w->model, n_records, size_bytes, term);
        pieces[i] = (struct slice){blob->data, blob->size_bytes};
    }
    size_t before = w->model.n - n_blocks, written = 0;
    replog_status status = wal_append(w->wal, pieces, n_blocks, &written, &failure);
    if (status == REPLOG_RESOURCE_EXHAUSTED) /* the rest was not even begun */
        model_drop_above(&w->model, model_end(&w->model, before + written).seq);
    return status;
}

static replog_status sync_log(struct world *w) {
    replog_status status = wal_sync(w->wal, &failure);
    if (!status) w->model.acked = model_last(&w->model);
    return status;
}

static replog_status cut(struct world *w, uint64_t keep_seq) {
    uint64_t acked = w->model.acked;
    if (acked > keep_seq) w->model.acked = keep_seq;
    replog_status status = wal_cut(w->wal, keep_seq, &failure);
    if (status == REPLOG_RESOURCE_EXHAUSTED) w->model.acked = acked;
    if (status) return status;
    model_drop_above(&w->model, keep_seq);
    w->model.acked = keep_seq;
    return REPLOG_OK;
}

static replog_status truncate_log(struct world *w, uint64_t upto) {
    struct model *m = &w->model;
    m->first_tried = model_end(m, model_blocks_upto(m, upto)).seq + 1;
    replog_status status = wal_truncate(w->wal, upto, NULL, &failure);
    if (!status) m->first = m->first_tried;
    if (status == REPLOG_RESOURCE_EXHAUSTED) m->first_tried = m->first;
    return status;
}

static replog_status vote(struct world *w, uint64_t term, uint64_t voted_for) {
    w->model.vote_tried = (struct wal_vote){term, voted_for};
    replog_status status = wal_save_vote(w->wal, w->model.vote_tried, &failure);
    if (!status) w->model.vote = w->model.vote_tried;
    return status;
}

static replog_status reopen(struct world *w) {
    close_log(w);
    replog_status status = open_log(w);
    if (status) return status;
    expect(w, wal_tail(w->wal).seq == model_last(&w->model)); /* nothing was lost: no crash */
    w->model.acked = model_last(&w->model);
    return REPLOG_OK;
}

/* ---- The script */
enum op { OPEN, APPEND, SYNC, MARK, PREPARE, CUT, TRUNCATE, VOTE, REOPEN };

/* a, b, c, d: APPEND: blocks, records in each, bytes in each, term. CUT, TRUNCATE: how many blocks
 * behind the tail. VOTE: term, member. */
struct step {
    enum op op;
    unsigned a, b, c, d;
};

/* clang-format off */
static const struct step script[] = {
    {OPEN, 0, 0, 0, 0},
    {APPEND, 1, 1, 10, 1},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 1, 3, 100, 1},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 1, 1, 0, 1},
    {APPEND, 1, 2, 16000, 1},
    {SYNC, 0, 0, 0, 0},
    {MARK, 0, 0, 0, 0},
    {PREPARE, 0, 0, 0, 0},
    {APPEND, 1, 1, 20000, 1},
    {APPEND, 1, 1, 20000, 1}, /* rolls */
    {SYNC, 0, 0, 0, 0},
    {VOTE, 2, 1, 0, 0},
    {APPEND, 3, 2, 3000, 2},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 2, 1, 30000, 2}, /* rolls between its blocks */
    {SYNC, 0, 0, 0, 0},
    {TRUNCATE, 6, 0, 0, 0},
    {APPEND, 1, 4, 8000, 2},
    {REOPEN, 0, 0, 0, 0},
    {APPEND, 1, 1, 50, 2},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 2, 1, 2000, 2},
    {CUT, 3, 0, 0, 0}, /* one that was durable and two that were not */
    {APPEND, 1, 1, 60, 3},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 1, 1, 40000, 3},
    {SYNC, 0, 0, 0, 0},
    {APPEND, 2, 1, 40000, 3}, /* rolls */
    {CUT, 3, 0, 0, 0}, /* and back over the roll */
    {APPEND, 1, 3, 70, 4},
    {APPEND, 1, 1, 90, 4},
    {CUT, 1, 0, 0, 0}, /* what stays was not durable before */
    {TRUNCATE, 1, 0, 0, 0},
    {PREPARE, 0, 0, 0, 0},
    {APPEND, 2, 1, 30000, 4},
    {SYNC, 0, 0, 0, 0},
    {MARK, 0, 0, 0, 0},
    {VOTE, 5, 0, 0, 0},
    {REOPEN, 0, 0, 0, 0},
    {TRUNCATE, 0, 0, 0, 0}, /* everything */
    {APPEND, 1, 2, 80, 5},
    {SYNC, 0, 0, 0, 0},
};
/* clang-format on */
enum { N_STEPS = sizeof script / sizeof *script };

static replog_status do_step(struct world *w, const struct step *step) {
    const struct model *m = &w->model;
    bool more;
    switch (step->op) {
    case OPEN:
        return open_log(w);
    case APPEND:
        return append(w, step->a, step->b, step->c, step->d);
    case SYNC:
        return sync_log(w);
    case MARK:
        return wal_mark(w->wal, &failure);
    case PREPARE:
        return wal_prepare(w->wal, &more, &failure);
    case CUT:
        return cut(w, model_end(m, m->n - step->a).seq);
    case TRUNCATE:
        return truncate_log(w, model_end(m, m->n - step->a).seq);
    case VOTE:
        return vote(w, step->a, step->b);
    case REOPEN:
        return reopen(w);
    }
    return REPLOG_INTERNAL;
}

static void world_begin(struct world *w) {
    w->mem = disk_mem_new(0);
    w->wal = NULL;
    w->model = (struct model){.first = 1, .first_tried = 1};
    w->when = "script";
}

static void world_end(struct world *w) {
    close_log(w);
    model_drop_above(&w->model, 0);
    disk_mem_free(w->mem);
}

/* Runs the script until a step fails; true when none did. */
static bool run_script(struct world *w) {
    for (w->step = 0; w->step < N_STEPS; w->step++)
        if (do_step(w, &script[w->step])) return false;
    return true;
}

/* ---- What must hold of an open log */
static void check_blocks(struct world *w) {
    const struct model *m = &w->model;
    struct wal_pos tail = wal_tail(w->wal);
    uint64_t next = wal_first_seq(w->wal);
    size_t i = model_blocks_upto(m, next - 1);
    struct wal_reader *reader = NULL;
    expect(w, wal_reader_open(w->wal, next, &reader, &failure) == REPLOG_OK);
    while (next <= tail.seq) {
        struct block_header h;
        const uint8_t *bytes;
        expect(w, wal_reader_next(reader, tail.seq, &h, &bytes, &failure) == REPLOG_OK);
        expect(w, h.first_seq == next && i < m->n);
        expect(w, h.length == m->blocks[i]->size_bytes);
        expect(w, memcmp(bytes, m->blocks[i]->data, h.length) == 0);
        next = block_last_seq(&h) + 1;
        i++;
    }
    wal_reader_close(reader);
    expect(w, tail.seq == next - 1); /* so the log ends with a whole block */
}

/* Then the model forgets what did not survive. */
static void check(struct world *w, const char *when) {
    struct model *m = &w->model;
    w->when = when;
    struct wal_pos tail = wal_tail(w->wal), durable = wal_durable(w->wal), base = wal_base(w->wal);
    expect(w, tail.seq >= m->acked && tail.seq <= model_last(m));
    expect(w, durable.seq == tail.seq);
    struct wal_pos end = model_end(m, model_blocks_upto(m, tail.seq));
    expect(w, tail.seq == end.seq && tail.term == end.term && tail.chain == end.chain);
    uint64_t first = wal_first_seq(w->wal);
    expect(w, first == m->first || first == m->first_tried);
    end = model_end(m, model_blocks_upto(m, first - 1));
    expect(w, base.seq == first - 1);
    expect(w, base.seq == end.seq && base.term == end.term && base.chain == end.chain);
    struct wal_vote got = wal_vote(w->wal);
    expect(w, (got.term == m->vote.term && got.voted_for == m->vote.voted_for) ||
                  (got.term == m->vote_tried.term && got.voted_for == m->vote_tried.voted_for));
    expect(w, wal_identity(w->wal).member_id == 1 && wal_identity(w->wal).incarnation == 4711);
    check_blocks(w);
    m->first = m->first_tried = first;
    m->vote = m->vote_tried = got;
    m->acked = tail.seq;
    model_drop_above(m, tail.seq);
}

static void crash(struct world *w, enum disk_mem_loss loss, uint64_t seed) {
    disk_mem_crash(w->mem, loss, seed);
    close_log(w);
}

/* A log that was just opened after a crash: what it shows stays. */
static void check_survivor(struct world *w) {
    check(w, "opened after the crash");
    crash(w, DISK_LOSE_ALL, 0);
    expect(w, open_log(w) == REPLOG_OK);
    check(w, "opened after a second crash");
}

/* And it goes on. */
static void check_life_after(struct world *w) {
    check_survivor(w);
    uint64_t term = model_end(&w->model, w->model.n).term + 1;
    expect(w, append(w, 2, 2, 5000, term) == REPLOG_OK);
    expect(w, sync_log(w) == REPLOG_OK);
    expect(w, append(w, 1, 1, 45000, term) == REPLOG_OK);
    expect(w, sync_log(w) == REPLOG_OK);
    crash(w, DISK_LOSE_ALL, 0);
    expect(w, open_log(w) == REPLOG_OK);
    check(w, "opened after it went on");
    expect(w, append(w, 1, 1, 10, term) == REPLOG_OK);
    expect(w, sync_log(w) == REPLOG_OK);
    expect(w, reopen(w) == REPLOG_OK);
    check(w, "opened after an orderly end");
}

/* ---- Tests */
static uint64_t count_calls(void) {
    struct world w = {0};
    world_begin(&w);
    expect(&w, run_script(&w));
    uint64_t calls = disk_mem_calls(w.mem);
    expect(&w, wal_n_segments(w.wal) >= 1);
    world_end(&w);
    return calls;
}

/* The script with a cut at call k, and the crash. */
static void run_and_crash(struct world *w) {
    world_begin(w);
    disk_mem_cut_at(w->mem, w->k);
    expect(w, !run_script(w));
    crash(w, w->loss, w->seed);
}

static void the_script_does_what_it_should(void **state) {
    (void)state;
    struct world w = {0};
    uint64_t most_segments = 0;
    world_begin(&w);
    for (w.step = 0; w.step < N_STEPS; w.step++) {
        expect(&w, do_step(&w, &script[w.step]) == REPLOG_OK);
        if (wal_n_segments(w.wal) > most_segments) most_segments = wal_n_segments(w.wal);
    }
    expect(&w, most_segments >= 3); /* at least two rolls in one log */
    check(&w, "end of the script");
    expect(&w, w.model.first > 20);
    print_message("%d disk calls\n", (int)disk_mem_calls(w.mem));
    world_end(&w);
}

static void power_cut_at_every_call(void **state) {
    (void)state;
    static const struct {
        enum disk_mem_loss loss;
        uint64_t seed;
    } losses[] = {
        {DISK_LOSE_ALL, 0}, {DISK_LOSE_NONE, 0}, {DISK_LOSE_RANDOM, 1}, {DISK_LOSE_RANDOM, 2}};
    enum { N_LOSSES = sizeof losses / sizeof *losses };
    uint64_t calls = count_calls();
    for (uint64_t k = 1; k <= calls; k++) {
        for (size_t i = 0; i < N_LOSSES; i++) {
            struct world w = {.k = k, .loss = losses[i].loss, .seed = losses[i].seed * 1000 + k};
            run_and_crash(&w);
            expect(&w, open_log(&w) == REPLOG_OK);
            if (k % N_LOSSES == i)
                check_life_after(&w); /* all of them would take long */
            else
                check_survivor(&w);
            world_end(&w);
        }
    }
}

static void power_cut_again_during_recovery(void **state) {
    (void)state;
    uint64_t calls = count_calls();
    for (uint64_t k = 3; k <= calls; k += 19) {
        bool opened = false;
        for (uint64_t j = 1; !opened; j++) {
            struct world w = {.k = k, .j = j, .loss = DISK_LOSE_RANDOM, .seed = k};
            run_and_crash(&w);
            disk_mem_cut_at(w.mem, disk_mem_calls(w.mem) + j);
            opened = open_log(&w) == REPLOG_OK;
            crash(&w, j % 3 ? DISK_LOSE_RANDOM : DISK_LOSE_ALL, k + j);
            expect(&w, open_log(&w) == REPLOG_OK);
            check_life_after(&w);
            world_end(&w);
        }
    }
}

/* The process alone ends at a disk call, so that the next opening sees what it left undurable, and
 * the power goes during that. A sample; test_wal_name.c has all of it where names are at stake. */
static void killed_at_every_call_and_power_cut_in_the_opening(void **state) {
    (void)state;
    uint64_t calls = count_calls();
    for (uint64_t k = 1; k <= calls; k++) {
        bool opened = false;
        for (uint64_t j = 1 + k % 11; !opened; j += 11) {
            struct world w = {.k = k, .j = j, .loss = DISK_LOSE_RANDOM, .seed = 1000 * k + j};
            world_begin(&w);
            disk_mem_cut_at(w.mem, k);
            expect(&w, !run_script(&w));
            close_log(&w);
            disk_mem_cut_at(w.mem, disk_mem_calls(w.mem) + j);
            opened = open_log(&w) == REPLOG_OK;
            crash(&w, w.loss, w.seed);
            expect(&w, open_log(&w) == REPLOG_OK);
            check_survivor(&w);
            world_end(&w);
        }
    }
}

/* A failed fsync, then no crash but a new opening: what the page cache serves may be on no device.
 * The log must be broken, and what it shows after opening must survive a crash. */
static void a_failed_sync_before_every_step(void **state) {
    (void)state;
    for (size_t at = 1; at < N_STEPS; at++) {
        for (unsigned n = 1; n <= 2; n++) {
            struct world w = {.k = at, .j = n};
            world_begin(&w);
            bool failed = false;
            for (w.step = 0; w.step < N_STEPS && !failed; w.step++) {
                if (w.step == at) disk_mem_fail_syncs(w.mem, n);
                replog_status status = do_step(&w, &script[w.step]);
                failed = status != REPLOG_OK;
                if (failed && w.wal) {
                    expect(&w, wal_broken(w.wal));
                    expect(&w, wal_sync(w.wal, &failure) == REPLOG_UNAVAILABLE);
                }
            }
            disk_mem_fail_syncs(w.mem, 0);
            close_log(&w);
            expect(&w, open_log(&w) == REPLOG_OK);
            check_life_after(&w);
            world_end(&w);
        }
    }
}

/* A disk that is full for one step: the step fails as a whole or not at all, and works later. */
static void a_full_disk_at_every_step(void **state) {
    (void)state;
    unsigned n_full = 0;
    for (size_t at = 1; at < N_STEPS; at++) {
        struct world w = {.k = at};
        world_begin(&w);
        for (w.step = 0; w.step < N_STEPS; w.step++) {
            if (w.step == at) disk_mem_set_capacity(w.mem, 1);
            replog_status status = do_step(&w, &script[w.step]);
            disk_mem_set_capacity(w.mem, 0);
            if (status == REPLOG_RESOURCE_EXHAUSTED) {
                n_full++;
                if (w.wal) expect(&w, wal_tail(w.wal).seq == model_last(&w.model));
                enum op op = script[w.step].op;
                status = op == REOPEN ? open_log(&w) : do_step(&w, &script[w.step]);
                if (!status && op == REOPEN) w.model.acked = model_last(&w.model);
            }
            expect(&w, status == REPLOG_OK);
        }
        check(&w, "end of the script");
        crash(&w, DISK_LOSE_ALL, 0);
        expect(&w, open_log(&w) == REPLOG_OK);
        check_life_after(&w);
        world_end(&w);
    }
    assert_true(n_full > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_script_does_what_it_should),
        cmocka_unit_test(power_cut_at_every_call),
        cmocka_unit_test(power_cut_again_during_recovery),
        cmocka_unit_test(killed_at_every_call_and_power_cut_in_the_opening),
        cmocka_unit_test(a_failed_sync_before_every_step),
        cmocka_unit_test(a_full_disk_at_every_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

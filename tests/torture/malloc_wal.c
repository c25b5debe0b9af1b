/* The log under failing allocations: a program's (replog/wal.h) and a cluster member's (wal/log.h).
 *
 * What a call says must be true: RESOURCE_EXHAUSTED changes nothing, and the call works when there
 * is memory; UNAVAILABLE says that the log is broken; and what was said to be in is there after the
 * next opening, once. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "malloc_fail.h"
#include "replog/wal.h"
#include "wal/log.h"

enum { ATTEMPTS = 300, MAX_UNITS = 400 };

static char value[9000];
static const char *dir;

/* ---- What the log ought to hold */
enum state { NOT_IN, IN, MAYBE };
static struct unit {
    enum state state;
    uint64_t first_seq;
    unsigned count;
    unsigned found;
} units[MAX_UNITS];
static unsigned n_units;
static uint64_t dropped; /* truncated up to here */

static struct replog_wal *wal;
static const replog_wal_options small = {.segment_bytes = 64 << 10};

/* A unit's record: key "u<unit>.<i>". */
static replog_status see(const replog_record *r, void *user) {
    unsigned u, i;
    char key[40] = "";
    (void)user;
    if (r->op != REPLOG_OP_PUT) return REPLOG_OK;
    memcpy(key, r->key, r->key_bytes < sizeof key ? r->key_bytes : sizeof key - 1);
    bool known = sscanf(key, "u%u.%u", &u, &i) == 2 && u < n_units && i < units[u].count;
    EXPECT(known, "record %" PRIu64 " was never appended: %s", r->seq, key);
    if (!known) return REPLOG_OK;
    units[u].found++;
    bool right = units[u].state != IN || units[u].first_seq + i == r->seq;
    EXPECT(right, "%s is at %" PRIu64 ", was said to be at %" PRIu64, key, r->seq,
           units[u].first_seq + i);
    EXPECT(units[u].state != NOT_IN, "%s is in the log, and was refused", key);
    bool whole = r->value_bytes == sizeof value && memcmp(r->value, value, sizeof value) == 0;
    EXPECT(whole, "the value of %s differs", key);
    return REPLOG_OK;
}

static void compare(void) {
    replog_error err = {0};
    replog_status status = REPLOG_OK;
    for (int i = 0; i < ATTEMPTS; i++) {
        for (unsigned u = 0; u < n_units; u++) units[u].found = 0;
        status = replog_wal_iterate(wal, 0, see, NULL, &err);
        if (status != REPLOG_RESOURCE_EXHAUSTED) break;
    }
    EXPECT(!status, "iterate: %s", err.text);
    for (unsigned u = 0; u < n_units && !status; u++) {
        const struct unit *x = &units[u];
        bool may_be_gone = x->state != IN || x->first_seq <= dropped;
        bool right = x->found == x->count || (x->found == 0 && may_be_gone);
        EXPECT(right, "unit %u, state %d at %" PRIu64 ": %u of its %u records are there", u,
               (int)x->state, x->first_seq, x->found, x->count);
    }
}

/* ---- Calls that go on until there is memory */
static void open_log(replog_wal_options how) {
    replog_error err;
    replog_status status = REPLOG_OK;
    for (int i = 0; i < ATTEMPTS; i++) {
        memset(&err, 0, sizeof err);
        status = replog_wal_open(dir, &how, &wal, &err);
        if (!status) return;
        bool honest = status == REPLOG_RESOURCE_EXHAUSTED || status == REPLOG_UNAVAILABLE;
        EXPECT(honest, "open: %d %s", (int)status, err.text);
        EXPECT(err.text[0], "open failed without a sentence");
    }
    EXPECT(false, "the log cannot be opened: %d %s", (int)status, err.text);
    wal = NULL;
}

static void close_log(bool broken) {
    replog_error err = {0};
    replog_status status = replog_wal_close(wal, &err);
    EXPECT(!status || broken, "close: %d %s", (int)status, err.text);
    wal = NULL;
}

/* After a call that failed: whether to try again. */
static bool again(const char *what, replog_status status, const replog_error *err) {
    EXPECT(err->text[0] && err->status == status, "%s: %d without its sentence", what, (int)status);
    if (status == REPLOG_RESOURCE_EXHAUSTED) return true;
    EXPECT(status == REPLOG_UNAVAILABLE, "%s: %d %s", what, (int)status, err->text);
    close_log(true);
    open_log(small);
    return wal != NULL;
}

static void append(unsigned count) {
    static char keys[8][40];
    replog_write writes[8];
    for (int i = 0; i < ATTEMPTS && wal; i++) {
        unsigned u = n_units++;
        units[u] = (struct unit){.count = count};
        for (unsigned k = 0; k < count; k++) {
            snprintf(keys[k], sizeof keys[k], "u%u.%u", u, k);
            writes[k] =
                (replog_write){REPLOG_OP_PUT, keys[k], strlen(keys[k]), value, sizeof value};
        }
        replog_error err = {0};
        uint64_t last;
        replog_status status =
            count == 1
                ? replog_wal_append(wal, &writes[0], &units[u].first_seq, &err)
                : replog_wal_append_batch(wal, writes, count, &units[u].first_seq, &last, &err);
        units[u].state = !status ? IN : status == REPLOG_UNAVAILABLE ? MAYBE : NOT_IN;
        if (!status) return;
        if (n_units == MAX_UNITS || !again("append", status, &err)) break;
    }
    EXPECT(false, "an append that never succeeds");
}

static uint64_t checkpoint(void) {
    for (int i = 0; i < ATTEMPTS && wal; i++) {
        replog_error err = {0};
        uint64_t seq = 0;
        replog_status status = replog_wal_checkpoint(wal, &seq, &err);
        if (!status) return seq;
        if (!again("checkpoint", status, &err)) break;
    }
    EXPECT(false, "a checkpoint that never succeeds");
    return 0;
}

static void truncate_to(uint64_t upto) {
    if (upto > dropped) dropped = upto;
    for (int i = 0; i < ATTEMPTS && wal; i++) {
        replog_error err = {0};
        uint64_t first = 0;
        replog_status status = replog_wal_truncate(wal, upto, false, &first, &err);
        EXPECT(status || first <= upto + 1, "truncated up to %" PRIu64 " instead of %" PRIu64,
               first - 1, upto);
        if (!status) return;
        if (!again("truncate", status, &err)) break;
    }
    EXPECT(false, "a truncation that never succeeds");
}

/* Damages the seal of the first segment: it has to be made again. */
static void damage_seal(void) {
    char path[400] = "";
    for (unsigned number = 1; number < 64 && !path[0]; number++) {
        snprintf(path, sizeof path, "%s/%016x.seg", dir, number);
        if (access(path, F_OK) != 0) path[0] = 0;
    }
    int fd = open(path, O_RDWR | O_CLOEXEC);
    EXPECT(fd >= 0 && pwrite(fd, "no seal any more", 16, 4096) == 16, "cannot damage %s", path);
    if (fd >= 0) close(fd);
}

static void wal_run(void) {
    dir = fresh_dir();
    memset(value, 'v', sizeof value);
    n_units = 0;
    dropped = 0;
    open_log(small);
    for (int i = 0; i < 6 && wal; i++) append(1);
    for (int i = 0; i < 4 && wal; i++) append(3);
    uint64_t seq = checkpoint();
    for (int i = 0; i < 2 && wal; i++) append(2);
    if (wal && seq > 10) truncate_to(seq - 8);
    if (!wal) return;
    compare();
    close_log(false);
    damage_seal();
    open_log(small);
    if (!wal) return;
    append(1);
    compare();
    close_log(false);
    open_log((replog_wal_options){.read_only = true});
    if (!wal) return;
    compare();
    close_log(false);
    open_log((replog_wal_options){.segment_bytes = 64 << 10, .sync = REPLOG_SYNC_BATCH});
    if (!wal) return;
    for (int i = 0; i < 4 && wal; i++) append(1);
    if (wal) truncate_to(checkpoint());
    if (wal) compare();
    if (wal) close_log(false);
}

const struct scenario wal_scenario = {.name = "wal", .run = wal_run};

/* ---- A member's log */
static struct wal *log_;
static struct wal_pos tail; /* as this program has it */
static struct config config = {.n_members = 2,
                               .members = {{.id = 1, .incarnation = 7, .address = "127.0.0.1:1"},
                                           {.id = 2, .incarnation = 9, .address = "127.0.0.1:2"}}};

static void open_member(void) {
    struct wal_options how = {.disk = disk_posix(),
                              .dir = dir,
                              .member_id = 1,
                              .new_incarnation = 7,
                              .segment_bytes = 64 << 10,
                              .pool_segments = 1,
                              .create = true};
    replog_error err = {0};
    replog_status status = REPLOG_OK;
    for (int i = 0; i < ATTEMPTS; i++) {
        status = wal_open(&how, &log_, &err);
        if (!status) return;
        bool honest = status == REPLOG_RESOURCE_EXHAUSTED || status == REPLOG_UNAVAILABLE;
        EXPECT(honest, "open: %d %s", (int)status, err.text);
    }
    EXPECT(false, "the log cannot be opened: %d %s", (int)status, err.text);
    log_ = NULL;
}

static bool same(struct wal_pos a, struct wal_pos b) {
    return a.seq == b.seq && a.term == b.term && a.chain == b.chain;
}

/* After a failed call: as it was, or broken and opened again. False: give up. */
static bool as_before(const char *what, replog_status status, const replog_error *err) {
    EXPECT(err->text[0], "%s: %d without a sentence", what, (int)status);
    if (status == REPLOG_RESOURCE_EXHAUSTED) {
        EXPECT(!wal_broken(log_), "%s: RESOURCE_EXHAUSTED, and broken", what);
        EXPECT(same(wal_tail(log_), tail), "%s: RESOURCE_EXHAUSTED, and the tail moved to %" PRIu64,
               what, wal_tail(log_).seq);
        return true;
    }
    EXPECT(status == REPLOG_UNAVAILABLE && wal_broken(log_), "%s: %d %s", what, (int)status,
           err->text);
    wal_close(log_);
    open_member();
    return log_ != NULL;
}

/* Seals a block behind `tail`; its bytes hold until the next call. */
static struct slice block(uint64_t term, unsigned records, struct wal_pos *end) {
    static uint8_t bytes[64 << 10];
    struct block_header h = {.n_records = records + (records > 1),
                             .flags = BLOCK_KEYED | (records > 1 ? BLOCK_BATCH : 0),
                             .first_seq = tail.seq + 1,
                             .term = term,
                             .timestamp_us = 5,
                             .prev_chain = tail.chain};
    uint8_t *at = bytes + BLOCK_HEADER_BYTES;
    for (unsigned i = 0; i < records; i++, at += BLOCK_RECORD_HEADER_BYTES + 1 + sizeof value) {
        memset(at, 0, BLOCK_RECORD_HEADER_BYTES);
        at[0] = REPLOG_OP_PUT;
        at[1] = 1;
        put_u32(at + 4, sizeof value);
        at[8] = 'k';
        memcpy(at + 9, value, sizeof value);
    }
    if (records > 1) {
        memset(at, 0, BLOCK_RECORD_HEADER_BYTES);
        at[0] = REPLOG_OP_COMMIT;
        at += BLOCK_RECORD_HEADER_BYTES;
    }
    h.length = (uint32_t)(at - bytes);
    uint64_t chain = block_seal(bytes, &h);
    *end = (struct wal_pos){block_last_seq(&h), term, chain};
    return (struct slice){bytes, h.length};
}

static void put(uint64_t term, unsigned records) {
    for (int i = 0; i < ATTEMPTS && log_; i++) {
        struct wal_pos end;
        struct slice piece = block(term, records, &end);
        replog_error err = {0};
        size_t written = 0;
        replog_status status = wal_append(log_, &piece, 1, &written, &err);
        if (!status) {
            EXPECT(written == 1 && same(wal_tail(log_), end),
                   "appended, and the tail is elsewhere");
            tail = end;
            return;
        }
        if (!as_before("append", status, &err)) return;
        tail = wal_tail(log_); /* of a broken one it may have gone in */
        if (same(tail, end)) return;
    }
    EXPECT(false, "an append that never succeeds");
}

enum what { SYNC, MARK, PREPARE, VOTE, FOUND, CUT, TRUNCATE };

static replog_status call(enum what what, uint64_t arg, replog_error *err) {
    bool more;
    switch (what) {
    case SYNC:
        return wal_sync(log_, err);
    case MARK:
        return wal_mark(log_, err);
    case PREPARE:
        return wal_prepare(log_, &more, err);
    case VOTE:
        return wal_save_vote(log_, (struct wal_vote){arg, 2}, err);
    case FOUND:
        return wal_found(log_, WAL_FOUNDED, arg, &config, err);
    case CUT:
        return wal_cut(log_, arg, err);
    default:
        return wal_truncate(log_, arg, &config, err);
    }
}

static void must(enum what what, uint64_t arg) {
    static const char *const names[] = {"sync",  "mark", "prepare", "vote",
                                        "found", "cut",  "truncate"};
    for (int i = 0; i < ATTEMPTS && log_; i++) {
        replog_error err = {0};
        replog_status status = call(what, arg, &err);
        if (!status) {
            tail = wal_tail(log_);
            return;
        }
        if (!as_before(names[what], status, &err)) return;
        tail = wal_tail(log_);
    }
    EXPECT(false, "a %s that never succeeds", names[what]);
}

/* Reads all there is: as many blocks, in their chain, up to the tail. */
static void read_all(void) {
    for (int i = 0; i < ATTEMPTS && log_; i++) {
        struct wal_reader *reader = NULL;
        struct block_header h;
        const uint8_t *bytes;
        replog_error err = {0};
        struct wal_pos at = wal_base(log_), want = wal_tail(log_);
        replog_status status = wal_reader_open(log_, at.seq + 1, &reader, &err);
        while (!status) {
            status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &err);
            if (status) break;
            EXPECT(h.prev_chain == at.chain && h.first_seq == at.seq + 1, "read out of the chain");
            at = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
        }
        wal_reader_close(reader);
        if (status == REPLOG_RESOURCE_EXHAUSTED) continue;
        EXPECT(status == REPLOG_NOT_FOUND, "read: %d %s", (int)status, err.text);
        EXPECT(same(at, want), "read up to %" PRIu64 " of %" PRIu64, at.seq, want.seq);
        return;
    }
    EXPECT(false, "a read that never succeeds");
}

static void check_pos(uint64_t seq) {
    struct wal_pos pos = {0};
    replog_error err = {0};
    replog_status status = REPLOG_RESOURCE_EXHAUSTED;
    for (int i = 0; i < ATTEMPTS && status == REPLOG_RESOURCE_EXHAUSTED; i++)
        status = wal_pos_at(log_, seq, &pos, &err);
    EXPECT(!status && pos.seq >= seq, "position of %" PRIu64 ": %d %s", seq, (int)status, err.text);
}

static void reopen(void) {
    struct wal_pos before = tail;
    struct wal_vote vote = wal_vote(log_);
    wal_close(log_);
    open_member();
    if (!log_) return;
    tail = wal_tail(log_);
    EXPECT(same(tail, before), "opened again at %" PRIu64 " of %" PRIu64, tail.seq, before.seq);
    EXPECT(wal_vote(log_).term == vote.term, "the vote's term is %" PRIu64, wal_vote(log_).term);
}

static void member_run(void) {
    dir = fresh_dir();
    memset(value, 'v', sizeof value);
    tail = (struct wal_pos){0};
    open_member();
    if (log_) must(VOTE, 1);
    if (log_) must(FOUND, 77);
    for (uint64_t i = 0; i < 8 && log_; i++) put(1 + i / 3, i % 2 ? 3 : 1);
    if (log_) must(SYNC, 0);
    if (log_) must(MARK, 0);
    if (log_) must(VOTE, 4);
    uint64_t keep = tail.seq;
    for (uint64_t i = 0; i < 5 && log_; i++) put(4, 2);
    if (log_) must(SYNC, 0);
    if (log_) must(PREPARE, 0);
    if (log_) read_all();
    if (log_) check_pos(keep);
    if (log_) must(CUT, keep);
    if (log_)
        EXPECT(tail.seq == keep, "cut above %" PRIu64 ", the tail is %" PRIu64, keep, tail.seq);
    for (uint64_t i = 0; i < 4 && log_; i++) put(5 + i, 1);
    if (log_) must(SYNC, 0);
    if (log_) reopen();
    if (log_) must(TRUNCATE, keep - 3);
    if (log_) must(CUT, tail.seq);
    if (log_) read_all();
    if (log_) reopen();
    if (log_) EXPECT(wal_identity(log_).cluster_id == 77, "the cluster's id is lost");
    if (log_) wal_close(log_);
    log_ = NULL;
}

const struct scenario member_scenario = {.name = "member", .run = member_run};

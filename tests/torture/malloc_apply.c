/* Replay under failing allocations: whatever fails on the way, and is tried again, the store holds
 * in the end what an undisturbed replay of the same log gives it: data, sessions (more than are
 * kept, so that some are evicted), checkpoint. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "malloc_fail.h"
#include "node/apply.h"

enum { ATTEMPTS = 50, SESSIONS = SESSION_MAX + 6, APPENDS = 40 };

static struct wal *wal;
static struct wal_pos tail;
static uint64_t wanted;

static void put(struct block_builder *b, uint64_t session, uint64_t sequence) {
    static uint8_t bytes[1 << 16];
    struct block_header h = {.first_seq = tail.seq + 1,
                             .term = 1,
                             .session = session,
                             .session_seq = sequence,
                             .prev_chain = tail.chain};
    replog_error err = {0};
    struct blob *blob = block_finish(b, &h.n_records, &h.flags);
    h.length = (uint32_t)blob->size_bytes;
    memcpy(bytes, blob->data, blob->size_bytes);
    blob_unref(blob);
    tail = (struct wal_pos){block_last_seq(&h), 1, block_seal(bytes, &h)};
    struct slice piece = {bytes, h.length};
    if (wal_append(wal, &piece, 1, NULL, &err)) {
        fprintf(stderr, "malloc_fail: %s\n", err.text);
        abort();
    }
}

static void put_marker(replog_op op, const void *value, size_t n) {
    struct block_builder b;
    block_begin(&b);
    block_add_marker(&b, op, (struct slice){value, n});
    put(&b, 0, 0);
}

static void put_records(uint64_t session, uint64_t sequence, unsigned n) {
    char key[24], value[400];
    struct block_builder b;
    replog_error err;
    memset(value, 'v', sizeof value);
    block_begin(&b);
    for (unsigned i = 0; i < n; i++) {
        snprintf(key, sizeof key, "key %u", (unsigned)(tail.seq * 7 + i) % 50);
        struct slice k = {(const uint8_t *)key, strlen(key)};
        block_add(&b, i % 5 == 4 ? REPLOG_OP_DELETE : REPLOG_OP_PUT, k,
                  (struct slice){(const uint8_t *)value, i % 5 == 4 ? 0 : sizeof value}, &err);
    }
    if (n > 1) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    put(&b, session, sequence);
}

/* ---- What a store holds, as one number */
static uint64_t sum;

static void add(struct slice s) {
    sum = sum * 31 + hash64(s.data, s.size_bytes);
}
static void add_meta(struct slice key, struct slice value, void *user) {
    (void)user;
    add(key);
    add(value);
}
static void add_user(struct slice key, uint64_t seq, struct slice value, void *user) {
    (void)user;
    sum += seq;
    add(key);
    add(value);
}

static uint64_t content(struct store *store) {
    replog_error err;
    sum = store->ops->applied(store);
    store->ops->each(store, add_user, NULL, &err);
    store->ops->meta_each(store, add_meta, NULL, &err);
    return sum;
}

/* ---- One replay; in slices, so that a failure finds something done */
static uint64_t replay(void) {
    replog_error err = {0};
    struct store *store = NULL;
    struct applier *a = NULL;
    uint64_t applied = 0, checkpoint = 0;
    replog_status status = REPLOG_RESOURCE_EXHAUSTED;
    for (int i = 0; i < ATTEMPTS && !store; i++) store = store_mem_new();
    if (!store) return 0;
    for (int i = 0; i < ATTEMPTS && status; i++) {
        status = apply_open(wal, store, 0, &a, &err);
        EXPECT(!status || status == REPLOG_RESOURCE_EXHAUSTED, "open: %s", err.text);
    }
    for (int failures = 0; a && applied < tail.seq && failures < ATTEMPTS;) {
        status = apply_run(a, tail.seq, 20000, &applied, &err);
        failures += status != REPLOG_OK;
        EXPECT(!status || status == REPLOG_RESOURCE_EXHAUSTED, "apply: %d %s", (int)status,
               err.text);
    }
    EXPECT(applied == tail.seq, "replayed up to %" PRIu64 " of %" PRIu64 ": %s", applied, tail.seq,
           err.text);
    if (a) {
        status = apply_flush(a, &checkpoint, &err);
        EXPECT(!status && checkpoint == tail.seq, "flushed up to %" PRIu64, checkpoint);
        EXPECT(session_table_count(apply_sessions(a)) == SESSION_MAX, "%zu sessions",
               session_table_count(apply_sessions(a)));
        EXPECT(apply_marker(a).safe_seq == 5, "the checkpoint is %" PRIu64,
               apply_marker(a).safe_seq);
        struct session_table *copy = session_table_copy(apply_sessions(a));
        session_table_free(copy);
    }
    apply_close(a);
    uint64_t got = content(store);
    store_close(store);
    return got;
}

/* The log is made once. */
static void before(void) {
    static uint64_t ids[SESSIONS];
    struct wal_options how = {.disk = disk_posix(),
                              .dir = fresh_dir(),
                              .member_id = 1,
                              .new_incarnation = 3,
                              .segment_bytes = 64 << 10,
                              .create = true};
    replog_error err;
    struct checkpoint_marker marker = {.safe_seq = 5, .drop_upto = 2};
    uint8_t value[16];
    if (wal_open(&how, &wal, &err)) {
        fprintf(stderr, "malloc_fail: %s\n", err.text);
        abort();
    }
    checkpoint_encode(&marker, value);
    for (int i = 0; i < SESSIONS; i++) {
        put_marker(REPLOG_OP_SESSION, NULL, 0);
        ids[i] = tail.seq;
        if (i == SESSIONS / 2) put_marker(REPLOG_OP_CHECKPOINT, value, sizeof value);
    }
    for (uint64_t i = 0; i < APPENDS; i++)
        put_records(ids[20 + i % 6], 1 + i / 6, (unsigned)(1 + i % 7));
    wal_sync(wal, &err);
    wanted = replay();
}

static void apply_scenario_run(void) {
    uint64_t got = replay();
    EXPECT(got == wanted, "the store differs from that of an undisturbed replay");
}

const struct scenario apply_scenario = {
    .name = "apply", .before = before, .run = apply_scenario_run};

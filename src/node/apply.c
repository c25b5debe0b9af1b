/* apply.c: replay into the store.
 *
 * Meta entries of the store, all written in the same batch as the data they belong to:
 *   "checkpoint"           the last CHECKPOINT applied: safe_seq, drop_upto (16 bytes)
 *   "session/" + id (8, big-endian, so that they come in order)   see session.c */
#include "node/apply.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/mutant.h"

#define SESSION_PREFIX   "session/"
#define CHECKPOINT_ENTRY "checkpoint"
enum {
    SESSION_PREFIX_BYTES = 8,
    SESSION_KEY_BYTES = 16,
    MAX_TOUCHED = 256,
    BATCH_BYTES = 1 << 20,
    READER_TRIES = 10
};

struct applier {
    struct wal *wal;
    struct store *store;
    struct session_table *sessions;
    size_t max_sessions;
    struct checkpoint_marker marker;
    uint64_t applied, gone_bytes, read_bytes;
    struct wal_reader *reader;
    uint64_t reader_seq;                      /* that the reader comes to next */
    struct node_bytes given[APPLY_MAX_GIVEN]; /* a ring; the first may be gone through already */
    size_t given_head, n_given;
    /* One store batch in the making: what the operations point to is in `bytes`, which may move
     * while it grows, so that until the batch is written they are offsets. */
    struct draft *drafts;
    struct store_op *ops;
    size_t n_ops, capacity;
    struct buffer bytes;
    uint64_t touched[MAX_TOUCHED]; /* sessions to be written */
    size_t n_touched;
    bool marker_touched;
    bool ahead; /* a batch failed: sessions and marker know blocks that the store does not */
};

struct part {
    size_t offset, size_bytes;
};
struct draft {
    enum store_op_type type;
    uint64_t seq;
    struct part key, value;
};

static struct part keep(struct applier *a, const void *data, size_t n) {
    struct part part = {a->bytes.size_bytes, n};
    buffer_append(&a->bytes, data, n);
    return part;
}

static bool push(struct applier *a, struct draft draft) {
    if (a->n_ops == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 64;
        struct draft *drafts = realloc(a->drafts, capacity * sizeof *drafts);
        if (drafts) a->drafts = drafts;
        struct store_op *ops = realloc(a->ops, capacity * sizeof *ops);
        if (ops) a->ops = ops;
        if (!drafts || !ops) return false;
        a->capacity = capacity;
    }
    a->drafts[a->n_ops++] = draft;
    return true;
}

static void session_key(uint64_t session, uint8_t key[SESSION_KEY_BYTES]) {
    memcpy(key, SESSION_PREFIX, SESSION_PREFIX_BYTES);
    for (int i = 0; i < 8; i++) key[8 + i] = (uint8_t)(session >> (56 - 8 * i));
}

static replog_status no_memory(replog_error *err) {
    return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a store batch");
}

/* ---- What the store knows beside the data --------------------------------------------------- */

struct load {
    struct applier *a;
    replog_status status;
    replog_error *err;
};

static void load_entry(struct slice key, struct slice value, void *user) {
    struct load *load = user;
    if (load->status != REPLOG_OK) return;
    if (key.size_bytes == SESSION_KEY_BYTES &&
        memcmp(key.data, SESSION_PREFIX, SESSION_PREFIX_BYTES) == 0) {
        uint64_t id = 0;
        for (int i = 0; i < 8; i++) id = id << 8 | key.data[8 + i];
        load->status = session_decode(load->a->sessions, id, value, load->err);
    } else if (key.size_bytes == sizeof CHECKPOINT_ENTRY - 1 &&
               memcmp(key.data, CHECKPOINT_ENTRY, key.size_bytes) == 0) {
        load->status = checkpoint_decode(value, &load->a->marker, load->err);
    }
}

/* Sessions and marker as the store has them. */
static replog_status load_meta(struct applier *a, replog_error *err) {
    struct session_table *before = a->sessions;
    struct checkpoint_marker marker = a->marker;
    struct load load = {.a = a, .status = REPLOG_OK, .err = err};
    a->sessions = session_table_new(a->max_sessions);
    a->marker = (struct checkpoint_marker){0};
    replog_status status =
        a->sessions ? a->store->ops->meta_each(a->store, load_entry, &load, err) : no_memory(err);
    if (status == REPLOG_OK) status = load.status;
    if (status != REPLOG_OK) {
        session_table_free(a->sessions);
        a->sessions = before;
        a->marker = marker;
    } else {
        session_table_free(before);
    }
    return status;
}

/* ---- One block ------------------------------------------------------------------------------ */

static void touch(struct applier *a, uint64_t session) {
    for (size_t i = a->n_touched; i-- > 0;)
        if (a->touched[i] == session) return;
    a->touched[a->n_touched++] = session;
}

static void evicted(uint64_t session, void *user) {
    struct applier *a = user;
    uint8_t key[SESSION_KEY_BYTES];
    if (MUTANT(EVICTED_STAYS_STORED)) return;
    session_key(session, key);
    struct draft op = {.type = STORE_META_DELETE, .key = keep(a, key, sizeof key)};
    if (!push(a, op)) a->bytes.failed = true;
}

static replog_status apply_record(struct applier *a, const replog_record *r, replog_error *err) {
    struct draft op = {.seq = r->seq};
    switch (r->op) {
    case REPLOG_OP_PUT:
    case REPLOG_OP_DELETE:
        if (r->key_bytes == 0) return REPLOG_OK;
        op.type = r->op == REPLOG_OP_PUT ? STORE_PUT : STORE_DELETE;
        op.key = keep(a, r->key, r->key_bytes);
        op.value = keep(a, r->value, r->value_bytes);
        return push(a, op) ? REPLOG_OK : no_memory(err);
    case REPLOG_OP_CHECKPOINT:
        a->marker_touched = true;
        return checkpoint_decode((struct slice){r->value, r->value_bytes}, &a->marker, err);
    default:
        return REPLOG_OK;
    }
}

static replog_status apply_block(struct applier *a, const struct block_header *h,
                                 const uint8_t *bytes, replog_error *err) {
    bool is_session = false;
    if (h->flags & (BLOCK_KEYED | BLOCK_MARKER)) {
        struct block_walk walk = {0};
        replog_record record;
        while (block_next(bytes, h, &walk, &record)) {
            if (record.op == REPLOG_OP_SESSION) is_session = true;
            replog_status status = apply_record(a, &record, err);
            if (status != REPLOG_OK) return status;
        }
    }
    if (!is_session && h->session == 0) return REPLOG_OK;
    if (session_append(a->sessions, h, is_session) != REPLOG_OK) return no_memory(err);
    touch(a, is_session ? h->first_seq : h->session);
    if (is_session) session_evict(a->sessions, h->first_seq, evicted, a);
    return REPLOG_OK;
}

/* ---- One batch ------------------------------------------------------------------------------ */

/* A batch that failed is made anew, from the log. */
static void drop_batch(struct applier *a) {
    a->n_ops = 0;
    a->n_touched = 0;
    a->marker_touched = false;
    buffer_clear(&a->bytes);
    a->bytes.failed = false;
}

static replog_status write_batch(struct applier *a, uint64_t applied, replog_error *err) {
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < a->n_touched && !MUTANT(SESSIONS_NOT_STORED); i++) {
        uint8_t key[SESSION_KEY_BYTES];
        session_key(a->touched[i], key);
        struct draft op = {.type = STORE_META_PUT, .key = keep(a, key, sizeof key)};
        size_t start = a->bytes.size_bytes;
        if (!session_encode(a->sessions, a->touched[i], &a->bytes)) continue; /* evicted since */
        op.value = (struct part){start, a->bytes.size_bytes - start};
        if (!push(a, op)) status = no_memory(err);
    }
    if (a->marker_touched) {
        uint8_t value[16];
        checkpoint_encode(&a->marker, value);
        struct draft op = {.type = STORE_META_PUT};
        op.key = keep(a, CHECKPOINT_ENTRY, sizeof CHECKPOINT_ENTRY - 1);
        op.value = keep(a, value, sizeof value);
        if (!push(a, op)) status = no_memory(err);
    }
    if (a->bytes.failed) status = no_memory(err);
    if (status == REPLOG_OK) {
        for (size_t i = 0; i < a->n_ops; i++) {
            const struct draft *d = &a->drafts[i];
            a->ops[i] =
                (struct store_op){.type = d->type,
                                  .seq = d->seq,
                                  .key = {a->bytes.data + d->key.offset, d->key.size_bytes},
                                  .value = {a->bytes.data + d->value.offset, d->value.size_bytes}};
        }
        if (MUTANT(APPLIED_SEQ_APART)) a->store->ops->write(a->store, NULL, 0, applied, err);
        status = a->store->ops->write(a->store, a->ops, a->n_ops, applied, err);
    }
    if (status == REPLOG_OK) a->applied = applied;
    a->ahead = status != REPLOG_OK;
    drop_batch(a);
    return status;
}

/* ---- Where blocks come from ----------------------------------------------------------------- */

static struct node_bytes *first_given(struct applier *a) {
    return &a->given[a->given_head];
}

static void drop_given(struct applier *a) {
    blob_unref(first_given(a)->blob);
    a->given_head = (a->given_head + 1) % APPLY_MAX_GIVEN;
    a->n_given--;
}

void apply_give(struct applier *a, struct node_bytes blocks) {
    if (a->n_given == APPLY_MAX_GIVEN)
        blob_unref(blocks.blob);
    else
        a->given[(a->given_head + a->n_given++) % APPLY_MAX_GIVEN] = blocks;
}

/* The block with that first seq, if it was given. Those before it are passed. */
static bool next_given(struct applier *a, uint64_t seq, struct block_header *h,
                       const uint8_t **bytes) {
    while (a->n_given > 0) {
        struct node_bytes *g = first_given(a);
        if (g->size_bytes == 0) { /* not before now: *bytes pointed into it */
            drop_given(a);
            continue;
        }
        *bytes = g->blob->data + g->offset;
        CHECK(block_peek(*bytes, g->size_bytes, h, NULL) == REPLOG_OK);
        if (h->first_seq > seq) return false;
        g->offset += h->length;
        g->size_bytes -= h->length;
        if (h->first_seq == seq) return true;
    }
    return false;
}

static void close_reader(struct applier *a) {
    wal_reader_close(a->reader);
    a->reader = NULL;
}

/* The block with that first seq: from memory, or from the log. *bytes hold until the next call. The
 * tail may be cut under the reader (twice, and it is turned away wherever it stands); what is to be
 * applied is committed, and stays: a new reader has it. */
static replog_status next_block(struct applier *a, uint64_t seq, uint64_t upto,
                                struct block_header *h, const uint8_t **bytes, replog_error *err) {
    if (next_given(a, seq, h, bytes)) {
        CHECK(block_last_seq(h) <= upto);
        return REPLOG_OK;
    }
    if (a->reader && a->reader_seq != seq) close_reader(a);
    replog_status status = REPLOG_ABORTED;
    for (int tries = 0; tries < READER_TRIES && status == REPLOG_ABORTED; tries++) {
        if (tries > 0) close_reader(a);
        status = a->reader ? REPLOG_OK : wal_reader_open(a->wal, seq, &a->reader, err);
        if (status == REPLOG_OK) status = wal_reader_next(a->reader, upto, h, bytes, err);
    }
    if (status == REPLOG_OK) a->read_bytes += h->length;
    a->reader_seq = status == REPLOG_OK ? block_last_seq(h) + 1 : seq;
    return status;
}

static bool batch_full(const struct applier *a) {
    return a->n_touched >= MAX_TOUCHED - 1 || a->bytes.size_bytes >= BATCH_BYTES;
}

replog_status apply_run(struct applier *a, uint64_t upto, size_t max_bytes, uint64_t *applied,
                        replog_error *err) {
    replog_status status = REPLOG_OK;
    uint64_t reached = a->applied;
    size_t done_bytes = 0;
    if (a->ahead) status = load_meta(a, err);
    if (status != REPLOG_OK) return status;
    a->ahead = false;
    while (reached < upto && done_bytes < max_bytes && !batch_full(a)) {
        struct block_header h;
        const uint8_t *bytes;
        status = next_block(a, reached + 1, upto, &h, &bytes, err);
        if (status == REPLOG_NOT_FOUND) break;
        if (status == REPLOG_OK) status = apply_block(a, &h, bytes, err);
        if (status != REPLOG_OK) {
            a->ahead = true;
            drop_batch(a);
            goto out;
        }
        reached = block_last_seq(&h);
        done_bytes += h.length;
    }
    status = reached > a->applied ? write_batch(a, reached, err) : REPLOG_OK;
    if (status != REPLOG_OK && MUTANT(FAILED_BATCH_SKIPPED)) a->applied = reached;
    a->gone_bytes += done_bytes;
    if (status == REPLOG_OK) *applied = a->applied;
out:
    if (status != REPLOG_OK) close_reader(a);
    return status;
}

replog_status apply_flush(struct applier *a, uint64_t *checkpoint, replog_error *err) {
    /* A reader that stays on an old segment would keep it from being recycled. */
    close_reader(a);
    return a->store->ops->flush(a->store, checkpoint, err);
}

/* ---- Opening -------------------------------------------------------------------------------- */

replog_status apply_open(struct wal *wal, struct store *store, size_t max_sessions,
                         struct applier **applier, replog_error *err) {
    struct applier *a = calloc(1, sizeof *a);
    if (!a) return no_memory(err);
    replog_status status = REPLOG_OK;
    a->wal = wal;
    a->store = store;
    a->max_sessions = max_sessions;
    a->applied = store->ops->applied(store);
    uint64_t base = wal_base(wal).seq, tail = wal_tail(wal).seq;
    if (a->applied < base) {
        status = error_set(err, REPLOG_DATA_LOSS,
                           "the store holds records up to %llu only, but the log begins at %llu: "
                           "the store was lost, and members cannot be replaced yet",
                           (unsigned long long)a->applied, (unsigned long long)base + 1);
        goto out;
    }
    if (a->applied > tail) {
        status = error_set(err, REPLOG_DATA_LOSS,
                           "the store has applied records up to %llu, but the log ends at %llu: "
                           "the log was lost or replaced",
                           (unsigned long long)a->applied, (unsigned long long)tail);
        goto out;
    }
    status = load_meta(a, err);
out:
    if (status == REPLOG_OK)
        *applier = a;
    else
        apply_close(a);
    return status;
}

void apply_close(struct applier *a) {
    if (!a) return;
    while (a->n_given > 0) drop_given(a);
    close_reader(a);
    session_table_free(a->sessions);
    free(a->drafts);
    free(a->ops);
    buffer_free(&a->bytes);
    free(a);
}

uint64_t apply_seq(const struct applier *a) {
    return a->applied;
}

uint64_t apply_bytes(const struct applier *a) {
    return a->gone_bytes;
}

uint64_t apply_read_bytes(const struct applier *a) {
    return a->read_bytes;
}

const struct session_table *apply_sessions(const struct applier *a) {
    return a->sessions;
}

struct checkpoint_marker apply_marker(const struct applier *a) {
    return a->marker;
}

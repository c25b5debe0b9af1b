/* The store in memory: two sorted tables (user keys, meta entries) and a journal of what to undo,
 * reaching back to the last flush. A crash undoes the journal, a flush forgets it. */
#include "store/store.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"

struct entry {
    uint64_t seq;
    size_t key_bytes, value_bytes;
    uint8_t bytes[]; /* key, value */
};

struct table {
    struct entry **entries; /* ascending by key */
    size_t n, capacity;
};

/* What stood under the key of `after` or `before` until a write. */
struct undo {
    struct table *table;
    struct entry *before; /* owned by the journal; NULL: nothing stood there */
    struct entry *after;  /* in the table, or NULL: deleted */
};

struct store_mem {
    struct store base;
    pthread_mutex_t mutex;
    struct table user, meta;
    struct undo *journal;
    size_t n_journal, journal_capacity;
    uint64_t applied, durable;
};

static struct store_mem *mem_of(const struct store *s) {
    return (struct store_mem *)s;
}

static int compare(const struct entry *entry, struct slice key) {
    size_t common = entry->key_bytes < key.size_bytes ? entry->key_bytes : key.size_bytes;
    int order = common ? memcmp(entry->bytes, key.data, common) : 0;
    if (order) return order;
    return (entry->key_bytes > key.size_bytes) - (entry->key_bytes < key.size_bytes);
}

/* The place of the key, or where it would stand. */
static size_t find(const struct table *table, struct slice key, bool *there) {
    size_t low = 0, high = table->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(table->entries[middle], key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *there = low < table->n && compare(table->entries[low], key) == 0;
    return low;
}

/* Grows an array for one more item; false when memory is short. */
static bool grow(void **items, size_t n, size_t *capacity, size_t item_bytes) {
    if (n < *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    void *grown = realloc(*items, wanted * item_bytes);
    if (!grown) return false;
    *items = grown;
    *capacity = wanted;
    return true;
}

static struct slice key_of(const struct entry *entry) {
    return (struct slice){entry->bytes, entry->key_bytes};
}

static struct slice value_of(const struct entry *entry) {
    return (struct slice){entry->bytes + entry->key_bytes, entry->value_bytes};
}

/* Puts `entry` (or with NULL: nothing) where `key` belongs; returns what stood there. The table has
 * room for one more. */
static struct entry *replace(struct table *table, struct slice key, struct entry *entry) {
    bool there;
    size_t at = find(table, key, &there);
    struct entry *before = there ? table->entries[at] : NULL;
    CHECK(table->entries);
    struct entry **place = table->entries + at;
    if (there && entry) {
        *place = entry;
    } else if (there) {
        memmove(place, place + 1, (table->n - at - 1) * sizeof(void *));
        table->n--;
    } else if (entry) {
        memmove(place + 1, place, (table->n - at) * sizeof(void *));
        *place = entry;
        table->n++;
    }
    return before;
}

static struct entry *entry_new(const struct store_op *op) {
    struct entry *entry = malloc(sizeof *entry + op->key.size_bytes + op->value.size_bytes);
    if (!entry) return NULL;
    entry->seq = op->seq;
    entry->key_bytes = op->key.size_bytes;
    entry->value_bytes = op->value.size_bytes;
    if (op->key.size_bytes) memcpy(entry->bytes, op->key.data, op->key.size_bytes);
    if (op->value.size_bytes)
        memcpy(entry->bytes + op->key.size_bytes, op->value.data, op->value.size_bytes);
    return entry;
}

static bool apply(struct store_mem *m, const struct store_op *op) {
    bool meta = op->type == STORE_META_PUT || op->type == STORE_META_DELETE;
    bool put = op->type == STORE_PUT || op->type == STORE_META_PUT;
    struct table *table = meta ? &m->meta : &m->user;
    if (!grow((void **)&m->journal, m->n_journal, &m->journal_capacity, sizeof *m->journal) ||
        !grow((void **)&table->entries, table->n, &table->capacity, sizeof(void *)))
        return false;
    struct entry *after = put ? entry_new(op) : NULL;
    if (put && !after) return false;
    struct entry *before = replace(table, op->key, after);
    if (before || after) m->journal[m->n_journal++] = (struct undo){table, before, after};
    return true;
}

static void undo_to(struct store_mem *m, size_t n_journal) {
    while (m->n_journal > n_journal) {
        const struct undo *undo = &m->journal[--m->n_journal];
        struct entry *known = undo->after ? undo->after : undo->before;
        struct entry *was = replace(undo->table, key_of(known), undo->before);
        CHECK(was == undo->after);
        free(was);
    }
}

/* ---- store_ops */
static replog_status mem_write(struct store *s, const struct store_op *ops, size_t n,
                               uint64_t applied_seq, replog_error *err) {
    struct store_mem *m = mem_of(s);
    replog_status status = REPLOG_OK;
    pthread_mutex_lock(&m->mutex);
    size_t mark = m->n_journal;
    for (size_t i = 0; i < n && !status; i++)
        if (!apply(m, &ops[i]))
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the store's entry");
    if (status)
        undo_to(m, mark);
    else
        m->applied = applied_seq;
    pthread_mutex_unlock(&m->mutex);
    return status;
}

static replog_status mem_get(struct store *s, struct slice key, struct buffer *value, uint64_t *seq,
                             replog_error *err) {
    struct store_mem *m = mem_of(s);
    replog_status status = REPLOG_OK;
    bool there;
    pthread_mutex_lock(&m->mutex);
    size_t at = find(&m->user, key, &there);
    if (!there) {
        status = error_set(err, REPLOG_NOT_FOUND, "no such key");
    } else {
        const struct entry *entry = m->user.entries[at];
        struct slice found = value_of(entry);
        buffer_append(value, found.data, found.size_bytes);
        if (value->failed)
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a value of %zu bytes",
                               found.size_bytes);
        else
            *seq = entry->seq;
    }
    pthread_mutex_unlock(&m->mutex);
    return status;
}

static replog_status mem_meta_each(struct store *s,
                                   void (*fn)(struct slice key, struct slice value, void *user),
                                   void *user, replog_error *err) {
    (void)err;
    struct store_mem *m = mem_of(s);
    pthread_mutex_lock(&m->mutex);
    for (size_t i = 0; i < m->meta.n; i++)
        fn(key_of(m->meta.entries[i]), value_of(m->meta.entries[i]), user);
    pthread_mutex_unlock(&m->mutex);
    return REPLOG_OK;
}

static replog_status mem_each(struct store *s,
                              void (*fn)(struct slice key, uint64_t seq, struct slice value,
                                         void *user),
                              void *user, replog_error *err) {
    (void)err;
    struct store_mem *m = mem_of(s);
    pthread_mutex_lock(&m->mutex);
    for (size_t i = 0; i < m->user.n; i++) {
        const struct entry *entry = m->user.entries[i];
        fn(key_of(entry), entry->seq, value_of(entry), user);
    }
    pthread_mutex_unlock(&m->mutex);
    return REPLOG_OK;
}

static replog_status mem_flush(struct store *s, uint64_t *durable_seq, replog_error *err) {
    (void)err;
    struct store_mem *m = mem_of(s);
    pthread_mutex_lock(&m->mutex);
    while (m->n_journal) free(m->journal[--m->n_journal].before);
    m->durable = m->applied;
    *durable_seq = m->durable;
    pthread_mutex_unlock(&m->mutex);
    return REPLOG_OK;
}

static uint64_t mem_applied(const struct store *s) {
    struct store_mem *m = mem_of(s);
    pthread_mutex_lock(&m->mutex);
    uint64_t applied = m->applied;
    pthread_mutex_unlock(&m->mutex);
    return applied;
}

static uint64_t mem_memory_bytes(const struct store *s) {
    (void)s;
    return 0;
}

static void table_free(struct table *table) {
    for (size_t i = 0; i < table->n; i++) free(table->entries[i]);
    free(table->entries);
}

static void mem_close(struct store *s) {
    struct store_mem *m = mem_of(s);
    while (m->n_journal) free(m->journal[--m->n_journal].before);
    free(m->journal);
    table_free(&m->user);
    table_free(&m->meta);
    pthread_mutex_destroy(&m->mutex);
    free(m);
}

struct store *store_mem_new(void) {
    static const struct store_ops ops = {
        .write = mem_write,
        .get = mem_get,
        .meta_each = mem_meta_each,
        .flush = mem_flush,
        .applied = mem_applied,
        .each = mem_each,
        .memory_bytes = mem_memory_bytes,
        .close = mem_close,
    };
    struct store_mem *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    if (pthread_mutex_init(&m->mutex, NULL) != 0) {
        free(m);
        return NULL;
    }
    m->base.ops = &ops;
    return &m->base;
}

void store_mem_crash(struct store *store) {
    struct store_mem *m = mem_of(store);
    pthread_mutex_lock(&m->mutex);
    undo_to(m, 0);
    m->applied = m->durable;
    pthread_mutex_unlock(&m->mutex);
}

uint64_t store_mem_durable(const struct store *store) {
    struct store_mem *m = mem_of(store);
    pthread_mutex_lock(&m->mutex);
    uint64_t durable = m->durable;
    pthread_mutex_unlock(&m->mutex);
    return durable;
}

/* The store on RocksDB. One column family holds, by the first byte of the key:
 *
 *   'a'        the applied seq (8 bytes, little-endian)
 *   'd' KEY    a user's key: seq of the record that wrote it (8 bytes), value
 *   'm' KEY    a meta entry
 *
 * RocksDB's own log is off: the replicated log is the log. What a crash leaves is then what some
 * flush wrote, and since a write batch goes into one memtable and memtables are flushed in order,
 * that is always the state after some whole batch, with the applied seq that belongs to it.
 * Closing flushes too (RocksDB's default), so that an orderly restart has nothing to replay. */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <rocksdb/c.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

enum {
    PREFIX_USER = 'd',
    PREFIX_META = 'm',
    SEQ_BYTES = 8,
    DEFAULT_WRITE_BUFFER_BYTES = 16 << 20,
    DEFAULT_BLOCK_CACHE_BYTES = 16 << 20,
    WRITE_BUFFERS = 2,
    BACKGROUND_THREADS = 2, /* one flush beside one compaction */
    OPEN_FILES = 64,
    INFO_LOG_FILES = 2,
    INFO_LOG_BYTES = 1 << 20,
    MANIFEST_BYTES = 4 << 20,
    SMALL_KEY_BYTES = 512,
    LEVEL_WARN = 2 /* RocksDB's InfoLogLevel::WARN_LEVEL */
};

static const char applied_key[1] = {'a'};

struct store_rocksdb {
    struct store base;
    rocksdb_t *db;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *write_options;
    rocksdb_readoptions_t *read_options, *scan_options;
    rocksdb_flushoptions_t *flush_options;
    uint64_t memory_bytes;
    _Atomic uint64_t applied;
};

static struct store_rocksdb *rocks_of(const struct store *s) {
    return (struct store_rocksdb *)s;
}

/* RocksDB's sentence as a status; frees `text`. */
static replog_status fail(replog_error *err, char *text, const char *what) {
    replog_status status = REPLOG_UNAVAILABLE;
    if (strncmp(text, "Corruption", 10) == 0) status = REPLOG_DATA_LOSS;
    if (strstr(text, "No space left") || strstr(text, "quota exceeded") || strstr(text, "NoSpace"))
        status = REPLOG_RESOURCE_EXHAUSTED;
    error_set(err, status, "store: %s: %s", what, text);
    rocksdb_free(text);
    return status;
}

/* ---- Writing */
static void add_op(rocksdb_writebatch_t *batch, const struct store_op *op) {
    bool meta = op->type == STORE_META_PUT || op->type == STORE_META_DELETE;
    const char prefix = meta ? PREFIX_META : PREFIX_USER;
    const char *key[2] = {&prefix, (const char *)op->key.data};
    size_t key_bytes[2] = {1, op->key.size_bytes};
    int key_parts = op->key.size_bytes ? 2 : 1;
    if (op->type == STORE_DELETE || op->type == STORE_META_DELETE) {
        rocksdb_writebatch_deletev(batch, key_parts, key, key_bytes);
        return;
    }
    uint8_t seq[SEQ_BYTES];
    put_u64(seq, op->seq);
    const char *value[2] = {(const char *)seq, (const char *)op->value.data};
    size_t value_bytes[2] = {SEQ_BYTES, op->value.size_bytes};
    /* Meta entries are kept as they are, without a seq. */
    int skip = meta ? 1 : 0, value_parts = (op->value.size_bytes ? 2 : 1) - skip;
    rocksdb_writebatch_putv(batch, key_parts, key, key_bytes, value_parts, value + skip,
                            value_bytes + skip);
}

static replog_status rocks_write(struct store *s, const struct store_op *ops, size_t n,
                                 uint64_t applied_seq, replog_error *err) {
    struct store_rocksdb *r = rocks_of(s);
    rocksdb_writebatch_t *batch = rocksdb_writebatch_create();
    for (size_t i = 0; i < n; i++) add_op(batch, &ops[i]);
    uint8_t applied[SEQ_BYTES];
    put_u64(applied, applied_seq);
    rocksdb_writebatch_put(batch, applied_key, sizeof applied_key, (const char *)applied,
                           sizeof applied);
    char *text = NULL;
    rocksdb_write(r->db, r->write_options, batch, &text);
    rocksdb_writebatch_destroy(batch);
    if (text) return fail(err, text, "write");
    atomic_store(&r->applied, applied_seq);
    return REPLOG_OK;
}

static replog_status rocks_flush(struct store *s, uint64_t *durable_seq, replog_error *err) {
    struct store_rocksdb *r = rocks_of(s);
    /* Before the flush: what is written while it runs may miss it. */
    uint64_t sample = atomic_load(&r->applied);
    char *text = NULL;
    rocksdb_flush(r->db, r->flush_options, &text);
    if (text) return fail(err, text, "flush");
    *durable_seq = sample;
    return REPLOG_OK;
}

/* ---- Reading */
static replog_status read_value(const char *bytes, size_t size_bytes, struct buffer *value,
                                uint64_t *seq, replog_error *err) {
    if (size_bytes < SEQ_BYTES)
        return error_set(err, REPLOG_DATA_LOSS, "store: an entry of %zu bytes, without its seq",
                         size_bytes);
    buffer_append(value, bytes + SEQ_BYTES, size_bytes - SEQ_BYTES);
    if (value->failed)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a value of %zu bytes",
                         size_bytes - SEQ_BYTES);
    *seq = get_u64((const uint8_t *)bytes);
    return REPLOG_OK;
}

static replog_status rocks_get(struct store *s, struct slice key, struct buffer *value,
                               uint64_t *seq, replog_error *err) {
    struct store_rocksdb *r = rocks_of(s);
    char small[SMALL_KEY_BYTES], *prefixed = small;
    if (key.size_bytes >= sizeof small) prefixed = malloc(key.size_bytes + 1);
    if (!prefixed)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a key of %zu bytes",
                         key.size_bytes);
    prefixed[0] = PREFIX_USER;
    if (key.size_bytes) memcpy(prefixed + 1, key.data, key.size_bytes);
    char *text = NULL;
    rocksdb_pinnableslice_t *found =
        rocksdb_get_pinned(r->db, r->read_options, prefixed, key.size_bytes + 1, &text);
    if (prefixed != small) free(prefixed);
    if (text) return fail(err, text, "get");
    if (!found) return error_set(err, REPLOG_NOT_FOUND, "no such key");
    size_t size_bytes = 0;
    const char *bytes = rocksdb_pinnableslice_value(found, &size_bytes);
    replog_status status = read_value(bytes, size_bytes, value, seq, err);
    rocksdb_pinnableslice_destroy(found);
    return status;
}

typedef replog_status (*entry_fn)(struct slice key, struct slice value, void *user,
                                  replog_error *err);

/* Walks the entries of one prefix, in key order; keys come without it. */
static replog_status walk(struct store_rocksdb *r, char prefix, entry_fn fn, void *user,
                          replog_error *err) {
    rocksdb_iterator_t *it = rocksdb_create_iterator(r->db, r->scan_options);
    replog_status status = REPLOG_OK;
    for (rocksdb_iter_seek(it, &prefix, 1); !status && rocksdb_iter_valid(it);
         rocksdb_iter_next(it)) {
        size_t key_bytes, value_bytes;
        const char *key = rocksdb_iter_key(it, &key_bytes);
        const char *value = rocksdb_iter_value(it, &value_bytes);
        if (!key_bytes || key[0] != prefix) break;
        status = fn((struct slice){(const uint8_t *)key + 1, key_bytes - 1},
                    (struct slice){(const uint8_t *)value, value_bytes}, user, err);
    }
    char *text = NULL;
    rocksdb_iter_get_error(it, &text);
    rocksdb_iter_destroy(it);
    if (text && !status) return fail(err, text, "scan");
    if (text) rocksdb_free(text);
    return status;
}

struct meta_call {
    void (*fn)(struct slice key, struct slice value, void *user);
    void *user;
};

static replog_status on_meta(struct slice key, struct slice value, void *user, replog_error *err) {
    (void)err;
    const struct meta_call *call = user;
    call->fn(key, value, call->user);
    return REPLOG_OK;
}

static replog_status rocks_meta_each(struct store *s,
                                     void (*fn)(struct slice key, struct slice value, void *user),
                                     void *user, replog_error *err) {
    struct meta_call call = {fn, user};
    return walk(rocks_of(s), PREFIX_META, on_meta, &call, err);
}

struct user_call {
    void (*fn)(struct slice key, uint64_t seq, struct slice value, void *user);
    void *user;
};

static replog_status on_user(struct slice key, struct slice value, void *user, replog_error *err) {
    const struct user_call *call = user;
    if (value.size_bytes < SEQ_BYTES)
        return error_set(err, REPLOG_DATA_LOSS, "store: an entry of %zu bytes, without its seq",
                         value.size_bytes);
    struct slice rest = {value.data + SEQ_BYTES, value.size_bytes - SEQ_BYTES};
    call->fn(key, get_u64(value.data), rest, call->user);
    return REPLOG_OK;
}

static replog_status rocks_each(struct store *s,
                                void (*fn)(struct slice key, uint64_t seq, struct slice value,
                                           void *user),
                                void *user, replog_error *err) {
    struct user_call call = {fn, user};
    return walk(rocks_of(s), PREFIX_USER, on_user, &call, err);
}

static uint64_t rocks_applied(const struct store *s) {
    return atomic_load(&rocks_of(s)->applied);
}

static uint64_t rocks_memory_bytes(const struct store *s) {
    return rocks_of(s)->memory_bytes;
}

/* ---- Opening and closing */
static void rocks_close(struct store *s) {
    struct store_rocksdb *r = rocks_of(s);
    if (r->db) rocksdb_close(r->db);
    if (r->flush_options) rocksdb_flushoptions_destroy(r->flush_options);
    if (r->scan_options) rocksdb_readoptions_destroy(r->scan_options);
    if (r->read_options) rocksdb_readoptions_destroy(r->read_options);
    if (r->write_options) rocksdb_writeoptions_destroy(r->write_options);
    if (r->options) rocksdb_options_destroy(r->options);
    free(r);
}

/* Makes the directory; its name is durable on return, or a crash would take the whole store. Also
 * when it was there already: who made it may have died, or failed, before it was. */
static replog_status make_dir(const char *dir, replog_error *err) {
    bool made = mkdir(dir, 0750) == 0, was_there = !made && errno == EEXIST;
    if (!made && !was_there) return error_errno(err, errno, "make directory %s", dir);
    size_t length = strlen(dir);
    while (length > 1 && dir[length - 1] == '/') length--;
    while (length && dir[length - 1] != '/') length--;
    char *parent = length ? strndup(dir, length) : strdup(".");
    if (!parent) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to open %s", dir);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    replog_status status = REPLOG_OK;
    bool not_ours = fd < 0 && errno == EACCES && was_there; /* made for us by somebody else */
    if (!not_ours && (fd < 0 || fsync(fd) < 0))
        status = error_errno(err, errno, "fsync directory %s", parent);
    if (fd >= 0) close(fd);
    free(parent);
    return status;
}

static void set_block_cache(rocksdb_options_t *options, uint64_t cache_bytes) {
    rocksdb_block_based_table_options_t *table = rocksdb_block_based_options_create();
    rocksdb_cache_t *cache = rocksdb_cache_create_lru(cache_bytes);
    rocksdb_block_based_options_set_block_cache(table, cache);
    /* Index and filter blocks count against the cache: else memory grows with the store. */
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(table, 1);
    rocksdb_block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1);
    rocksdb_block_based_options_set_filter_policy(table,
                                                  rocksdb_filterpolicy_create_bloom_full(10));
    rocksdb_options_set_block_based_table_factory(options, table);
    /* The options keep their own references. */
    rocksdb_block_based_options_destroy(table);
    rocksdb_cache_destroy(cache);
}

static rocksdb_options_t *make_options(uint64_t write_buffer_bytes, uint64_t cache_bytes) {
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_options_set_create_if_missing(o, 1);
    rocksdb_options_set_write_buffer_size(o, write_buffer_bytes);
    rocksdb_options_set_max_write_buffer_number(o, WRITE_BUFFERS);
    rocksdb_options_set_max_background_jobs(o, BACKGROUND_THREADS);
    rocksdb_options_set_max_open_files(o, OPEN_FILES);
    rocksdb_options_set_keep_log_file_num(o, INFO_LOG_FILES);
    rocksdb_options_set_max_log_file_size(o, INFO_LOG_BYTES);
    rocksdb_options_set_info_log_level(o, LEVEL_WARN);
    rocksdb_options_set_max_manifest_file_size(o, MANIFEST_BYTES);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_stats_persist_period_sec(o, 0);
    rocksdb_options_set_bytes_per_sync(o, 1 << 20); /* spreads write-back beside the log's syncs */
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    set_block_cache(o, cache_bytes);
    return o;
}

static replog_status load_applied(struct store_rocksdb *r, replog_error *err) {
    char *text = NULL;
    size_t size_bytes = 0;
    char *bytes =
        rocksdb_get(r->db, r->read_options, applied_key, sizeof applied_key, &size_bytes, &text);
    if (text) return fail(err, text, "get the applied seq");
    if (!bytes) return REPLOG_OK; /* nothing was ever applied */
    replog_status status = REPLOG_OK;
    if (size_bytes == SEQ_BYTES)
        atomic_store(&r->applied, get_u64((const uint8_t *)bytes));
    else
        status = error_set(err, REPLOG_DATA_LOSS, "store: an applied seq of %zu bytes, not %d",
                           size_bytes, (int)SEQ_BYTES);
    rocksdb_free(bytes);
    return status;
}

replog_status store_rocksdb_open(const struct store_rocksdb_options *options, struct store **store,
                                 replog_error *err) {
    static const struct store_ops ops = {
        .write = rocks_write,
        .get = rocks_get,
        .meta_each = rocks_meta_each,
        .flush = rocks_flush,
        .applied = rocks_applied,
        .each = rocks_each,
        .memory_bytes = rocks_memory_bytes,
        .close = rocks_close,
    };
    uint64_t write_buffer_bytes =
        options->write_buffer_bytes ? options->write_buffer_bytes : DEFAULT_WRITE_BUFFER_BYTES;
    uint64_t cache_bytes =
        options->block_cache_bytes ? options->block_cache_bytes : DEFAULT_BLOCK_CACHE_BYTES;
    replog_status status = make_dir(options->dir, err);
    if (status) return status;
    struct store_rocksdb *r = calloc(1, sizeof *r);
    if (!r) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to open %s", options->dir);
    r->base.ops = &ops;
    r->memory_bytes = WRITE_BUFFERS * write_buffer_bytes + cache_bytes;
    r->options = make_options(write_buffer_bytes, cache_bytes);
    r->write_options = rocksdb_writeoptions_create();
    rocksdb_writeoptions_disable_WAL(r->write_options, 1);
    r->read_options = rocksdb_readoptions_create();
    r->scan_options = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(r->scan_options, 0);
    r->flush_options = rocksdb_flushoptions_create();
    rocksdb_flushoptions_set_wait(r->flush_options, 1);
    char *text = NULL;
    r->db = rocksdb_open(r->options, options->dir, &text);
    if (text) status = fail(err, text, "open");
    if (!status) status = load_applied(r, err);
    if (status)
        rocks_close(&r->base);
    else
        *store = &r->base;
    return status;
}

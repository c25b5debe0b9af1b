/* store.h: the state that replay builds: keys and values, the applied seq, and the node's meta
 * entries (sessions, last CHECKPOINT, CONFIG), all written atomically together. A table of
 * functions, so that a simulator can put a store behind it that forgets all after its last flush.
 * Hides: RocksDB.
 *
 * A store is written by one thread (the apply thread); flush, get and the walks may be called by
 * any thread beside it. The callbacks of the walks do not call the store. */
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include "base/bytes.h"
#include "replog/status.h"

struct store;

/* What one batch does; `key` and `value` are borrowed until store_write returns. */
enum store_op_type { STORE_PUT, STORE_DELETE, STORE_META_PUT, STORE_META_DELETE };
struct store_op {
    enum store_op_type type;
    uint64_t seq; /* STORE_PUT: the record's seq, kept with the value */
    struct slice key, value;
};

struct store_ops {
    /* Writes the operations in order and sets applied_seq, all atomically. Not durable yet. */
    replog_status (*write)(struct store *s, const struct store_op *ops, size_t n,
                           uint64_t applied_seq, replog_error *err);
    /* NOT_FOUND when the key is not there. *value is appended to (the caller's buffer). */
    replog_status (*get)(struct store *s, struct slice key, struct buffer *value, uint64_t *seq,
                         replog_error *err);
    /* Calls fn for every meta entry, in key order. */
    replog_status (*meta_each)(struct store *s,
                               void (*fn)(struct slice key, struct slice value, void *user),
                               void *user, replog_error *err);
    /* Makes everything written before this call durable; *durable_seq is the applied seq sampled
     * before the flush began. RESOURCE_EXHAUSTED on a full disk: the store must be reopened. */
    replog_status (*flush)(struct store *s, uint64_t *durable_seq, replog_error *err);
    /* The applied seq: of what is durable at open, then as written. */
    uint64_t (*applied)(const struct store *s);
    /* Calls fn for every user key in key order (hashing the content in tests and simulations). */
    replog_status (*each)(struct store *s,
                          void (*fn)(struct slice key, uint64_t seq, struct slice value,
                                     void *user),
                          void *user, replog_error *err);
    /* Bytes of caches and write buffers that the store was configured to use at most. */
    uint64_t (*memory_bytes)(const struct store *s);
    void (*close)(struct store *s);
};

struct store {
    const struct store_ops *ops;
};

struct store_rocksdb_options {
    const char *dir;             /* made if absent */
    uint64_t write_buffer_bytes; /* 0: 16 MiB; two of them at most */
    uint64_t block_cache_bytes;  /* 0: 16 MiB */
};
/* RocksDB, one column family, its own WAL off. UNAVAILABLE, DATA_LOSS with RocksDB's sentence. */
replog_status store_rocksdb_open(const struct store_rocksdb_options *options, struct store **store,
                                 replog_error *err);

/* In memory (a sorted table), for tests and the simulator. store_mem_crash forgets all that was
 * written after the last flush. */
struct store *store_mem_new(void);
void store_mem_crash(struct store *store);
/* The applied seq that a crash now would go back to. */
uint64_t store_mem_durable(const struct store *store);

static inline void store_close(struct store *s) {
    if (s) s->ops->close(s);
}

#endif

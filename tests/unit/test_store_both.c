/* One suite over both stores: the table of functions means the same on RocksDB and in memory. A
 * crash of RocksDB is a copy of its directory, taken while it is open, that is opened instead. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include "base/hash.h"
#include "store/store.h"
#include "tmp_dir.h"

struct fixture {
    struct store *store;
    bool rocks;
    unsigned generation; /* of the copies */
    char root[TMP_DIR_BYTES];
};

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static void data_dir(const struct fixture *f, char path[TMP_PATH_BYTES]) {
    char name[32];
    snprintf(name, sizeof name, "store%u", f->generation);
    tmp_dir_path(path, f->root, name);
}

static void open_rocks(struct fixture *f) {
    char path[TMP_PATH_BYTES];
    data_dir(f, path);
    struct store_rocksdb_options options = {.dir = path, .write_buffer_bytes = 1u << 20};
    replog_error err = {0};
    if (store_rocksdb_open(&options, &f->store, &err)) fail_msg("%s", err.text);
}

static int rocks_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->rocks = true;
    tmp_dir_make(f->root);
    open_rocks(f);
    *state = f;
    return 0;
}

static int mem_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->store = store_mem_new();
    *state = f;
    return f->store ? 0 : -1;
}

static int teardown(void **state) {
    struct fixture *f = *state;
    store_close(f->store);
    if (f->rocks) tmp_dir_remove(f->root);
    free(f);
    return 0;
}

/* false: it is not there (any more). */
static bool copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb");
    if (!in) return false;
    FILE *out = fopen(to, "wb");
    assert_non_null(out);
    char bytes[65536];
    size_t n;
    while ((n = fread(bytes, 1, sizeof bytes, in)) > 0)
        assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(in);
    assert_int_equal(fclose(out), 0);
    return true;
}

/* Copies the files of `from` to `to` (NULL: only looks). A sum over their names and sizes; 0: one
 * went. */
static uint64_t walk_files(const char *from, const char *to) {
    uint64_t sum = 1;
    DIR *dir = opendir(from);
    assert_non_null(dir);
    for (const struct dirent *entry; sum && (entry = readdir(dir));) {
        char a[2 * TMP_PATH_BYTES], b[2 * TMP_PATH_BYTES];
        if (entry->d_type != DT_REG || strcmp(entry->d_name, "LOCK") == 0) continue;
        snprintf(a, sizeof a, "%s/%s", from, entry->d_name);
        struct stat st;
        if (stat(a, &st)) {
            sum = 0;
            continue;
        }
        sum += (hash64(entry->d_name, strlen(entry->d_name)) ^ (uint64_t)st.st_size << 16) >> 8;
        if (!to) continue;
        snprintf(b, sizeof b, "%s/%s", to, entry->d_name);
        if (!copy_file(a, b)) sum = 0;
    }
    closedir(dir);
    return sum;
}

static void crash(struct fixture *f) {
    if (!f->rocks) {
        store_mem_crash(f->store);
        return;
    }
    char from[TMP_PATH_BYTES], to[TMP_PATH_BYTES];
    data_dir(f, from);
    /* RocksDB writes and removes files behind our back: what a crash leaves is a copy during which
     * none came, went or grew. */
    bool whole = false;
    for (int tries = 0; tries < 100 && !whole; tries++) {
        if (tries) nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        f->generation++;
        data_dir(f, to);
        assert_int_equal(mkdir(to, 0700), 0);
        uint64_t before = walk_files(from, NULL);
        whole = before != 0 && walk_files(from, to) == before && walk_files(from, NULL) == before;
    }
    assert_true(whole);
    store_close(f->store);
    f->store = NULL;
    open_rocks(f);
}

/* ---- Shorthands */
static struct store_op op(enum store_op_type type, const char *key, const char *value,
                          uint64_t seq) {
    return (struct store_op){.type = type, .seq = seq, .key = text(key), .value = text(value)};
}

static void write_ops(struct fixture *f, const struct store_op *ops, size_t n, uint64_t applied) {
    replog_error err = {0};
    if (f->store->ops->write(f->store, ops, n, applied, &err)) fail_msg("%s", err.text);
}

static void write_one(struct fixture *f, enum store_op_type type, const char *key,
                      const char *value, uint64_t seq) {
    struct store_op one = op(type, key, value, seq);
    write_ops(f, &one, 1, seq);
}

static void assert_value(struct fixture *f, const char *key, const char *value, uint64_t seq) {
    struct buffer got = {0};
    uint64_t got_seq = 0;
    assert_int_equal(f->store->ops->get(f->store, text(key), &got, &got_seq, NULL), REPLOG_OK);
    assert_int_equal(got.size_bytes, strlen(value));
    if (*value) assert_memory_equal(got.data, value, strlen(value));
    assert_true(got_seq == seq);
    buffer_free(&got);
}

static void assert_absent(struct fixture *f, const char *key) {
    struct buffer got = {0};
    uint64_t seq = 77;
    replog_error err = {0};
    assert_int_equal(f->store->ops->get(f->store, text(key), &got, &seq, &err), REPLOG_NOT_FOUND);
    assert_int_equal(err.status, REPLOG_NOT_FOUND);
    assert_true(seq == 77 && got.size_bytes == 0);
    buffer_free(&got);
}

static void flush(struct fixture *f, uint64_t expected) {
    uint64_t durable = 0;
    assert_int_equal(f->store->ops->flush(f->store, &durable, NULL), REPLOG_OK);
    assert_true(durable == expected);
}

static void add_user(struct slice key, uint64_t seq, struct slice value, void *user) {
    buffer_printf(user, "%.*s=%.*s@%d ", (int)key.size_bytes, (const char *)key.data,
                  (int)value.size_bytes, (const char *)value.data, (int)seq);
}

static void add_meta(struct slice key, struct slice value, void *user) {
    buffer_printf(user, "%.*s=%.*s ", (int)key.size_bytes, (const char *)key.data,
                  (int)value.size_bytes, (const char *)value.data);
}

/* Every user key, then every meta entry, in order. */
static void assert_all(struct fixture *f, const char *expected) {
    struct buffer all = {0};
    assert_int_equal(f->store->ops->each(f->store, add_user, &all, NULL), REPLOG_OK);
    buffer_printf(&all, "| ");
    assert_int_equal(f->store->ops->meta_each(f->store, add_meta, &all, NULL), REPLOG_OK);
    buffer_u8(&all, 0);
    assert_string_equal((const char *)all.data, expected);
    buffer_free(&all);
}

/* ---- The suite */
static void an_empty_store(void **state) {
    struct fixture *f = *state;
    assert_true(f->store->ops->applied(f->store) == 0);
    assert_absent(f, "a");
    assert_all(f, "| ");
    flush(f, 0);
}

static void keys_are_put_and_deleted(void **state) {
    struct fixture *f = *state;
    write_one(f, STORE_PUT, "b", "2", 1);
    write_one(f, STORE_PUT, "a", "1", 2);
    write_one(f, STORE_PUT, "ab", "", 3);
    assert_value(f, "a", "1", 2);
    assert_value(f, "ab", "", 3);
    assert_all(f, "a=1@2 ab=@3 b=2@1 | ");
    write_one(f, STORE_PUT, "a", "other", 4);
    write_one(f, STORE_DELETE, "b", "", 5);
    write_one(f, STORE_DELETE, "never there", "", 6);
    assert_absent(f, "b");
    assert_all(f, "a=other@4 ab=@3 | ");
    assert_true(f->store->ops->applied(f->store) == 6);
}

static void get_appends_to_the_buffer(void **state) {
    struct fixture *f = *state;
    struct buffer got = {0};
    uint64_t seq;
    write_one(f, STORE_PUT, "a", "value", 1);
    buffer_append(&got, "x=", 2);
    assert_int_equal(f->store->ops->get(f->store, text("a"), &got, &seq, NULL), REPLOG_OK);
    assert_int_equal(got.size_bytes, 7);
    assert_memory_equal(got.data, "x=value", 7);
    buffer_free(&got);
}

static void one_batch_in_order(void **state) {
    struct fixture *f = *state;
    struct store_op ops[] = {
        op(STORE_PUT, "a", "1", 1),
        op(STORE_PUT, "a", "2", 2),
        op(STORE_DELETE, "a", "", 3),
        op(STORE_PUT, "b", "1", 4),
        op(STORE_DELETE, "c", "", 5),
        op(STORE_PUT, "c", "1", 6),
        op(STORE_META_PUT, "session", "s", 0),
        op(STORE_META_PUT, "gone", "s", 0),
        op(STORE_META_DELETE, "gone", "", 0),
    };
    write_ops(f, ops, sizeof ops / sizeof *ops, 9);
    assert_all(f, "b=1@4 c=1@6 | session=s ");
    assert_true(f->store->ops->applied(f->store) == 9);
    write_ops(f, NULL, 0, 12); /* a block without keyed records still advances */
    assert_true(f->store->ops->applied(f->store) == 12);
}

static void meta_and_user_keys_do_not_meet(void **state) {
    struct fixture *f = *state;
    struct store_op ops[] = {op(STORE_PUT, "x", "user", 1), op(STORE_META_PUT, "x", "meta", 0),
                             op(STORE_META_PUT, "empty", "", 0),
                             op(STORE_PUT, "a", "not applied", 2)};
    write_ops(f, ops, 4, 2);
    assert_all(f, "a=not applied@2 x=user@1 | empty= x=meta ");
    struct store_op drop = op(STORE_META_DELETE, "x", "", 0);
    write_ops(f, &drop, 1, 3);
    assert_value(f, "x", "user", 1);
    assert_all(f, "a=not applied@2 x=user@1 | empty= ");
}

/* Every byte may stand in a key, and a long key is a key like any other. */
static void keys_of_any_bytes_and_length(void **state) {
    struct fixture *f = *state;
    static uint8_t long_key[65536];
    memset(long_key, 0xff, sizeof long_key);
    struct slice keys[] = {{(const uint8_t *)"\0", 1},
                           {(const uint8_t *)"\0\0", 2},
                           {(const uint8_t *)"\xff", 1},
                           {long_key, 510},
                           {long_key, 511},
                           {long_key, 512},
                           {long_key, sizeof long_key}};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct store_op one = {STORE_PUT, i + 1, keys[i], text("v")};
        write_ops(f, &one, 1, i + 1);
    }
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct buffer got = {0};
        uint64_t seq = 0;
        assert_int_equal(f->store->ops->get(f->store, keys[i], &got, &seq, NULL), REPLOG_OK);
        assert_true(seq == i + 1);
        buffer_free(&got);
    }
}

static void a_crash_keeps_what_was_flushed(void **state) {
    struct fixture *f = *state;
    struct store_op first[] = {op(STORE_PUT, "a", "1", 1), op(STORE_PUT, "b", "1", 2),
                               op(STORE_META_PUT, "m", "1", 0)};
    write_ops(f, first, 3, 2);
    flush(f, 2);
    struct store_op second[] = {op(STORE_PUT, "a", "2", 3), op(STORE_DELETE, "b", "", 4),
                                op(STORE_PUT, "c", "2", 5), op(STORE_META_PUT, "m", "2", 0),
                                op(STORE_META_PUT, "n", "2", 0)};
    write_ops(f, second, 5, 5);
    write_one(f, STORE_PUT, "a", "3", 6);
    crash(f);
    assert_true(f->store->ops->applied(f->store) == 2);
    assert_all(f, "a=1@1 b=1@2 | m=1 ");
    write_ops(f, second, 5, 5); /* replay, then the crash finds it flushed */
    flush(f, 5);
    crash(f);
    assert_true(f->store->ops->applied(f->store) == 5);
    assert_all(f, "a=2@3 c=2@5 | m=2 n=2 ");
    crash(f);
    assert_all(f, "a=2@3 c=2@5 | m=2 n=2 ");
}

static void a_crash_before_any_flush_leaves_nothing(void **state) {
    struct fixture *f = *state;
    write_one(f, STORE_PUT, "a", "1", 1);
    crash(f);
    assert_true(f->store->ops->applied(f->store) == 0);
    assert_all(f, "| ");
}

/* What stands after a crash is the state after some whole batch: here each batch writes the same
 * number everywhere. Enough for RocksDB to flush memtables by itself. */
struct all_same {
    uint64_t seq;
    unsigned n;
    bool differ;
};

static void see_same(struct slice key, uint64_t seq, struct slice value, void *user) {
    (void)key;
    struct all_same *seen = user;
    if (seen->n++ && seq != seen->seq) seen->differ = true;
    if (get_u64(value.data) != seq) seen->differ = true;
    seen->seq = seq;
}

static void write_numbered(struct fixture *f, uint64_t number) {
    enum { KEYS = 8 };
    static uint8_t value[16384];
    struct store_op ops[KEYS];
    char keys[KEYS][16];
    put_u64(value, number);
    for (int i = 0; i < KEYS; i++) {
        snprintf(keys[i], sizeof keys[i], "key%d", i);
        ops[i] = (struct store_op){STORE_PUT, number, text(keys[i]), {value, sizeof value}};
    }
    write_ops(f, ops, KEYS, number);
}

static void a_crash_never_halves_a_batch(void **state) {
    struct fixture *f = *state;
    for (uint64_t number = 1; number <= 20; number++) write_numbered(f, number);
    flush(f, 20);
    for (int round = 0; round < 3; round++) {
        uint64_t before = f->store->ops->applied(f->store), number = before;
        for (int i = 0; i < 30; i++) write_numbered(f, ++number);
        crash(f);
        struct all_same seen = {0};
        assert_int_equal(f->store->ops->each(f->store, see_same, &seen, NULL), REPLOG_OK);
        assert_false(seen.differ);
        assert_int_equal(seen.n, 8);
        assert_true(seen.seq == f->store->ops->applied(f->store));
        assert_true(seen.seq >= before && seen.seq <= number);
    }
}

/* ---- RocksDB only */
static void an_orderly_close_keeps_everything(void **state) {
    struct fixture *f = *state;
    write_one(f, STORE_PUT, "a", "1", 1);
    store_close(f->store);
    open_rocks(f);
    assert_true(f->store->ops->applied(f->store) == 1);
    assert_value(f, "a", "1", 1);
    assert_true(f->store->ops->memory_bytes(f->store) == (2u << 20) + (16u << 20));
}

static void what_cannot_be_opened(void **state) {
    struct fixture *f = *state;
    char path[TMP_PATH_BYTES];
    struct store *second = NULL;
    replog_error err = {0};
    data_dir(f, path);
    struct store_rocksdb_options options = {.dir = path};
    assert_int_equal(store_rocksdb_open(&options, &second, &err), REPLOG_UNAVAILABLE); /* locked */
    assert_null(second);
    assert_non_null(strstr(err.text, path));
    options.dir = tmp_dir_path(path, f->root, "no/such");
    assert_int_equal(store_rocksdb_open(&options, &second, &err), REPLOG_NOT_FOUND);
    assert_non_null(strstr(err.text, path));
}

static void damage_is_data_loss(void **state) {
    struct fixture *f = *state;
    char dir[TMP_PATH_BYTES], path[2 * TMP_PATH_BYTES] = "";
    write_one(f, STORE_PUT, "a", "a value that will be damaged", 1);
    flush(f, 1);
    store_close(f->store);
    f->store = NULL;
    data_dir(f, dir);
    DIR *stream = opendir(dir);
    assert_non_null(stream);
    for (const struct dirent *entry; (entry = readdir(stream));)
        if (strstr(entry->d_name, ".sst")) snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
    closedir(stream);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, 12, SEEK_SET), 0);
    assert_int_equal(fwrite("!!!!", 1, 4, file), 4);
    assert_int_equal(fclose(file), 0);
    struct store_rocksdb_options options = {.dir = dir};
    replog_error err = {0};
    replog_status status = store_rocksdb_open(&options, &f->store, &err);
    assert_int_equal(status, REPLOG_DATA_LOSS); /* met when the applied seq is read */
    assert_non_null(strstr(err.text, "orruption"));
}

#define ON_ROCKS(test)                                                                             \
    { "rocksdb: " #test, test, rocks_setup, teardown, NULL }
#define ON_MEM(test)                                                                               \
    { "memory: " #test, test, mem_setup, teardown, NULL }
#define ON_BOTH(test) ON_ROCKS(test), ON_MEM(test)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_BOTH(an_empty_store),
        ON_BOTH(keys_are_put_and_deleted),
        ON_BOTH(get_appends_to_the_buffer),
        ON_BOTH(one_batch_in_order),
        ON_BOTH(meta_and_user_keys_do_not_meet),
        ON_BOTH(keys_of_any_bytes_and_length),
        ON_BOTH(a_crash_keeps_what_was_flushed),
        ON_BOTH(a_crash_before_any_flush_leaves_nothing),
        ON_BOTH(a_crash_never_halves_a_batch),
        ON_ROCKS(an_orderly_close_keeps_everything),
        ON_ROCKS(what_cannot_be_opened),
        ON_ROCKS(damage_is_data_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

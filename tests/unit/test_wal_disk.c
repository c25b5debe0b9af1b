/* The door to files: one suite over both disks, then what only the disk in memory can show: what a
 * power cut and a crash leave. */
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "tmp_dir.h"
#include "wal/disk.h"

enum { SECTOR = 512 };

struct fixture {
    const struct disk *disk;
    struct disk_mem *mem; /* NULL: POSIX */
    char dir[TMP_DIR_BYTES];
};

static int posix_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->disk = disk_posix();
    tmp_dir_make(f->dir);
    *state = f;
    return 0;
}

static int mem_setup(void **state) {
    struct fixture *f = calloc(1, sizeof *f);
    if (!f) return -1;
    f->mem = disk_mem_new(0);
    f->disk = disk_mem_table(f->mem);
    strcpy(f->dir, "dir");
    *state = f;
    return f->disk->make_dir(f->disk->ctx, "dir", NULL) ||
           f->disk->sync_dir(f->disk->ctx, ".", NULL);
}

static int teardown(void **state) {
    struct fixture *f = *state;
    if (f->mem)
        disk_mem_free(f->mem);
    else
        tmp_dir_remove(f->dir);
    free(f);
    return 0;
}

/* ---- Shorthands */
static struct disk_file *open_file(struct fixture *f, const char *name, enum disk_open how) {
    char path[TMP_PATH_BYTES];
    struct disk_file *file = NULL;
    replog_error err = {0};
    if (f->disk->open(f->disk->ctx, tmp_dir_path(path, f->dir, name), how, &file, &err))
        fail_msg("%s", err.text);
    return file;
}

static replog_status try_open(struct fixture *f, const char *name, enum disk_open how) {
    char path[TMP_PATH_BYTES];
    struct disk_file *file = NULL;
    replog_error err = {0};
    tmp_dir_path(path, f->dir, name);
    replog_status status = f->disk->open(f->disk->ctx, path, how, &file, &err);
    assert_int_equal(err.status, status);
    if (status) {
        assert_null(file);
        assert_non_null(strstr(err.text, name));
    } else {
        f->disk->close(file);
    }
    return status;
}

static replog_status put(struct fixture *f, struct disk_file *file, const char *text,
                         uint64_t offset) {
    struct iovec piece = {(void *)text, strlen(text)};
    return f->disk->write(file, &piece, 1, offset, NULL);
}

static void assert_content(struct fixture *f, struct disk_file *file, const char *text,
                           uint64_t offset) {
    char got[4096] = {0};
    size_t n = 0;
    assert_true(strlen(text) < sizeof got);
    assert_int_equal(f->disk->read(file, got, strlen(text), offset, &n, NULL), REPLOG_OK);
    assert_int_equal(n, strlen(text));
    assert_memory_equal(got, text, n);
}

static uint64_t size_of(struct fixture *f, struct disk_file *file) {
    uint64_t size = 0;
    assert_int_equal(f->disk->size(file, &size, NULL), REPLOG_OK);
    return size;
}

static replog_status move(struct fixture *f, const char *from, const char *to) {
    char a[TMP_PATH_BYTES], b[TMP_PATH_BYTES];
    tmp_dir_path(a, f->dir, from);
    tmp_dir_path(b, f->dir, to);
    return f->disk->rename(f->disk->ctx, a, b, NULL);
}

static replog_status drop(struct fixture *f, const char *name) {
    char path[TMP_PATH_BYTES];
    tmp_dir_path(path, f->dir, name);
    return f->disk->unlink(f->disk->ctx, path, NULL);
}

static void sync_names(struct fixture *f) {
    assert_int_equal(f->disk->sync_dir(f->disk->ctx, f->dir, NULL), REPLOG_OK);
}

/* ---- Both disks */
static void files_open_as_asked(void **state) {
    struct fixture *f = *state;
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(try_open(f, "a", DISK_WRITE), REPLOG_NOT_FOUND);
    assert_int_equal(try_open(f, "a", DISK_CREATE), REPLOG_OK);
    assert_int_equal(try_open(f, "a", DISK_CREATE), REPLOG_ALREADY_EXISTS);
    assert_int_equal(try_open(f, "nowhere/a", DISK_CREATE), REPLOG_NOT_FOUND);
    struct disk_file *file = open_file(f, "a", DISK_READ);
    assert_int_equal(put(f, file, "x", 0), REPLOG_UNAVAILABLE);
    f->disk->close(file);
    f->disk->close(NULL);
}

static void what_is_written_is_read(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    assert_int_equal(put(f, file, "hello", 0), REPLOG_OK);
    assert_int_equal(put(f, file, "world", 600), REPLOG_OK);
    assert_int_equal(size_of(f, file), 605);
    assert_content(f, file, "hello", 0);
    assert_content(f, file, "world", 600);
    char tail[10];
    size_t n = 99;
    assert_int_equal(f->disk->read(file, tail, sizeof tail, 603, &n, NULL), REPLOG_OK);
    assert_int_equal(n, 2);
    assert_int_equal(f->disk->read(file, tail, sizeof tail, 900, &n, NULL), REPLOG_OK);
    assert_int_equal(n, 0);
    assert_int_equal(f->disk->read(file, tail, 1, 300, &n, NULL), REPLOG_OK);
    assert_int_equal(tail[0], 0);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ);
    assert_content(f, file, "hello", 0);
    f->disk->close(file);
}

/* Two ways to write: whatever the order, all handles see what was written last. */
static void writes_of_all_sizes_mix(void **state) {
    enum { FILE_BYTES = 4 << 20, MOST_BYTES = 3 << 19, N_WRITES = 60 };
    struct fixture *f = *state;
    uint64_t rng = 7;
    uint8_t *model = calloc(1, FILE_BYTES), *data = disk_buffer_new(MOST_BYTES),
            *got = malloc(FILE_BYTES);
    assert_true(model && data && got);
    struct disk_file *file = open_file(f, "before", DISK_CREATE);
    assert_int_equal(f->disk->allocate(file, FILE_BYTES, NULL), REPLOG_OK);
    assert_int_equal(move(f, "before", "after"), REPLOG_OK);
    struct disk_file *reader = open_file(f, "after", DISK_READ);
    for (int i = 0; i < N_WRITES; i++) {
        bool direct = rng_between(&rng, 0, 3) != 0;
        size_t unit = direct ? 4096 : 1;
        size_t size = rng_between(&rng, 1, MOST_BYTES / unit) * unit;
        size_t at = rng_between(&rng, 0, (FILE_BYTES - size) / unit) * unit;
        size_t first = rng_between(&rng, 0, size / unit) * unit;
        memset(data, i + 1, size);
        data[first ? first - 1 : 0] = 0xff;
        struct iovec pieces[2] = {{data, first}, {data + first, size - first}};
        assert_int_equal(
            (direct ? f->disk->write_direct : f->disk->write)(file, pieces, 2, at, NULL),
            REPLOG_OK);
        memcpy(model + at, data, size);
        if (i % 3 == 0 || !direct) assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
        size_t n = 0;
        assert_int_equal(f->disk->read(reader, got, FILE_BYTES, 0, &n, NULL), REPLOG_OK);
        assert_int_equal(n, FILE_BYTES);
        assert_memory_equal(got, model, FILE_BYTES);
    }
    f->disk->close(reader);
    f->disk->close(file);
    free(model);
    disk_buffer_free(data);
    free(got);
}

/* Whether this process has the file open for going past the page cache. */
static bool is_open_direct(const char *path) {
    bool found = false;
    for (int fd = 0; fd < 64; fd++) {
        char self[32], name[TMP_PATH_BYTES] = "";
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        if (readlink(self, name, sizeof name - 1) < 0 || strcmp(name, path) != 0) continue;
        int flags = fcntl(fd, F_GETFL);
        found |= flags >= 0 && (flags & O_DIRECT);
    }
    return found;
}

static void direct_writes_are_direct(void **state) {
    struct fixture *f = *state;
    char path[TMP_PATH_BYTES], real[PATH_MAX];
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    assert_non_null(realpath(tmp_dir_path(path, f->dir, "a"), real));
    int probe = open(real, O_RDWR | O_DIRECT);
    if (probe >= 0) close(probe);
    uint8_t *page = disk_buffer_new(4096);
    assert_non_null(page);
    memset(page, 'x', 4096);
    struct iovec piece = {page, 4096};
    assert_int_equal(f->disk->write(file, &piece, 1, 0, NULL), REPLOG_OK);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    assert_false(is_open_direct(real));
    assert_int_equal(f->disk->write_direct(file, &piece, 1, 4096, NULL), REPLOG_OK);
    assert_int_equal(is_open_direct(real), probe >= 0); /* a file system need not have it */
    /* What the system does not take that way goes the other. */
    piece.iov_len = 100;
    assert_int_equal(f->disk->write_direct(file, &piece, 1, 8192, NULL), REPLOG_OK);
    assert_int_equal(f->disk->write_direct(file, &piece, 1, 8292, NULL), REPLOG_OK);
    assert_int_equal(size_of(f, file), 8392);
    assert_content(f, file, "xxxx", 8388);
    f->disk->close(file);
    disk_buffer_free(page);
}

/* More pieces than one system call takes, empty ones among them. */
static void many_pieces_are_one_write(void **state) {
    struct fixture *f = *state;
    enum { N = 3000 };
    struct iovec *pieces = calloc(N, sizeof *pieces);
    uint8_t *bytes = malloc((size_t)N * 7), *got = malloc((size_t)N * 7);
    assert_true(pieces && bytes && got);
    size_t total = 0;
    for (size_t i = 0; i < N; i++) {
        pieces[i] = (struct iovec){bytes + total, i % 8};
        for (size_t k = 0; k < i % 8; k++) bytes[total + k] = (uint8_t)(i + k);
        total += i % 8;
    }
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    assert_int_equal(f->disk->write(file, pieces, N, 1000, NULL), REPLOG_OK);
    assert_int_equal(size_of(f, file), 1000 + total);
    size_t n = 0;
    assert_int_equal(f->disk->read(file, got, total, 1000, &n, NULL), REPLOG_OK);
    assert_int_equal(n, total);
    assert_memory_equal(got, bytes, total);
    assert_int_equal(f->disk->write(file, NULL, 0, 1u << 20, NULL), REPLOG_OK);
    assert_int_equal(size_of(f, file), 1000 + total);
    f->disk->close(file);
    free(pieces);
    free(bytes);
    free(got);
}

static void sizes_change_as_asked(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    assert_int_equal(f->disk->allocate(file, 0, NULL), REPLOG_OK);
    assert_int_equal(f->disk->allocate(file, 8192, NULL), REPLOG_OK);
    assert_int_equal(size_of(f, file), 8192);
    assert_int_equal(put(f, file, "abcdef", 4), REPLOG_OK);
    assert_int_equal(f->disk->allocate(file, 4096, NULL), REPLOG_OK); /* never shrinks */
    assert_int_equal(size_of(f, file), 8192);
    assert_content(f, file, "abcdef", 4);
    assert_int_equal(f->disk->resize(file, 6, NULL), REPLOG_OK);
    assert_int_equal(size_of(f, file), 6);
    assert_int_equal(f->disk->resize(file, 10, NULL), REPLOG_OK);
    char got[10];
    size_t n;
    assert_int_equal(f->disk->read(file, got, 10, 0, &n, NULL), REPLOG_OK);
    assert_memory_equal(got, "\0\0\0\0ab\0\0\0\0", 10);
    f->disk->close(file);
}

static void names_change_as_asked(void **state) {
    struct fixture *f = *state;
    struct disk_file *a = open_file(f, "a", DISK_CREATE), *b = open_file(f, "b", DISK_CREATE);
    put(f, a, "from a", 0);
    put(f, b, "from b", 0);
    assert_int_equal(move(f, "a", "b"), REPLOG_OK);
    assert_int_equal(move(f, "a", "b"), REPLOG_NOT_FOUND);
    assert_content(f, b, "from b", 0); /* an open file outlives its name */
    f->disk->close(b);
    f->disk->close(a);
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_NOT_FOUND);
    b = open_file(f, "b", DISK_WRITE);
    assert_content(f, b, "from a", 0);
    assert_int_equal(drop(f, "b"), REPLOG_OK);
    assert_int_equal(drop(f, "b"), REPLOG_NOT_FOUND);
    assert_content(f, b, "from a", 0);
    f->disk->close(b);
    sync_names(f);
}

struct found {
    size_t n;
    char names[8][64];
};

static void on_name(const char *name, void *user) {
    struct found *found = user;
    if (found->n < 8) snprintf(found->names[found->n], sizeof found->names[0], "%s", name);
    found->n++;
}

static void directories(void **state) {
    struct fixture *f = *state;
    char path[TMP_PATH_BYTES];
    replog_error err;
    struct found found = {0};
    tmp_dir_path(path, f->dir, "sub");
    assert_int_equal(f->disk->list(f->disk->ctx, path, on_name, &found, &err), REPLOG_NOT_FOUND);
    assert_int_equal(f->disk->sync_dir(f->disk->ctx, path, &err), REPLOG_NOT_FOUND);
    assert_int_equal(f->disk->make_dir(f->disk->ctx, path, &err), REPLOG_OK);
    assert_int_equal(f->disk->make_dir(f->disk->ctx, path, &err), REPLOG_OK);
    assert_int_equal(try_open(f, "sub/inner", DISK_CREATE), REPLOG_OK);
    assert_int_equal(try_open(f, "outer", DISK_CREATE), REPLOG_OK);
    assert_int_equal(f->disk->list(f->disk->ctx, path, on_name, &found, &err), REPLOG_OK);
    assert_int_equal(found.n, 1);
    assert_string_equal(found.names[0], "inner");
    found.n = 0;
    assert_int_equal(f->disk->list(f->disk->ctx, f->dir, on_name, &found, &err), REPLOG_OK);
    assert_int_equal(found.n, 1); /* regular files only */
    assert_string_equal(found.names[0], "outer");
    tmp_dir_path(path, f->dir, "no/such");
    assert_int_equal(f->disk->make_dir(f->disk->ctx, path, &err), REPLOG_NOT_FOUND);
    tmp_dir_path(path, f->dir, "outer");
    assert_int_equal(f->disk->make_dir(f->disk->ctx, path, &err), REPLOG_UNAVAILABLE);
    uint64_t bytes = 0;
    assert_int_equal(f->disk->free_bytes(f->disk->ctx, f->dir, &bytes, &err), REPLOG_OK);
    assert_true(bytes > 0);
}

static void a_lock_excludes_this_process_too(void **state) {
    struct fixture *f = *state;
    char path[TMP_PATH_BYTES];
    struct disk_lock *first = NULL, *second = NULL;
    replog_error err;
    tmp_dir_path(path, f->dir, "lock");
    assert_int_equal(f->disk->lock(f->disk->ctx, path, &first, &err), REPLOG_OK);
    assert_int_equal(f->disk->lock(f->disk->ctx, path, &second, &err), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(err.text, path));
    assert_null(second);
    f->disk->unlock(first);
    assert_int_equal(f->disk->lock(f->disk->ctx, path, &second, &err), REPLOG_OK);
    f->disk->unlock(second);
    f->disk->unlock(NULL);
}

static void a_lock_excludes_another_process(void **state) {
    struct fixture *f = *state;
    char path[TMP_PATH_BYTES];
    struct disk_lock *lock = NULL, *second = NULL;
    tmp_dir_path(path, f->dir, "lock");
    assert_int_equal(f->disk->lock(f->disk->ctx, path, &lock, NULL), REPLOG_OK);
    pid_t child = fork();
    if (child == 0)
        _exit(f->disk->lock(f->disk->ctx, path, &second, NULL) == REPLOG_FAILED_PRECONDITION ? 0
                                                                                             : 1);
    int result = -1;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(result, 0);
    f->disk->unlock(lock);
}

/* ---- POSIX only: what the system refuses */
static void no_space_is_resource_exhausted(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = NULL;
    struct iovec piece = {"x", 1};
    replog_error err;
    assert_int_equal(f->disk->open(f->disk->ctx, "/dev/full", DISK_WRITE, &file, &err), REPLOG_OK);
    assert_int_equal(f->disk->write(file, &piece, 1, 0, &err), REPLOG_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "/dev/full"));
    f->disk->close(file);
}

/* The system takes a part, then refuses the rest. */
static void a_partial_write_is_an_error(void **state) {
    struct fixture *f = *state;
    static char bytes[600];
    memset(bytes, 'x', sizeof bytes);
    struct iovec pieces[3] = {{bytes, 600}, {bytes, 600}, {bytes, 600}};
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    replog_status status = f->disk->write(file, pieces, 3, 0, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, REPLOG_UNAVAILABLE);
    assert_int_equal(size_of(f, file), 1000);
    f->disk->close(file);
}

/* ---- The disk in memory: what a crash leaves */
static void crash(struct fixture *f, enum disk_mem_loss loss, uint64_t seed) {
    disk_mem_crash(f->mem, loss, seed);
}

static void unsynced_content_is_lost(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    sync_names(f);
    put(f, file, "synced", 0);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    put(f, file, "later!", 0);
    put(f, file, "more", 6);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(put(f, file, "x", 0), REPLOG_UNAVAILABLE); /* the handle is dead */
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ);
    assert_int_equal(size_of(f, file), 6);
    assert_content(f, file, "synced", 0);
    f->disk->close(file);
}

static void a_lucky_crash_loses_nothing(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    put(f, file, "never synced", 0);
    assert_int_equal(move(f, "a", "b"), REPLOG_OK);
    crash(f, DISK_LOSE_NONE, 0);
    f->disk->close(file);
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_NOT_FOUND);
    file = open_file(f, "b", DISK_READ);
    assert_content(f, file, "never synced", 0);
    f->disk->close(file);
}

static void names_need_their_directory_synced(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    put(f, file, "old", 0);
    f->disk->sync(file, NULL);
    f->disk->close(file);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(try_open(f, "a", DISK_CREATE), REPLOG_OK);
    assert_int_equal(try_open(f, "b", DISK_CREATE), REPLOG_OK);
    sync_names(f);
    assert_int_equal(move(f, "a", "c"), REPLOG_OK);
    assert_int_equal(drop(f, "b"), REPLOG_OK);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_OK);
    assert_int_equal(try_open(f, "b", DISK_READ), REPLOG_OK);
    assert_int_equal(try_open(f, "c", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(move(f, "a", "c"), REPLOG_OK);
    sync_names(f);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(try_open(f, "a", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(try_open(f, "c", DISK_READ), REPLOG_OK);
}

static void a_directory_needs_its_parent_synced(void **state) {
    struct fixture *f = *state;
    assert_int_equal(f->disk->make_dir(f->disk->ctx, "dir/sub", NULL), REPLOG_OK);
    assert_int_equal(try_open(f, "sub/a", DISK_CREATE), REPLOG_OK);
    assert_int_equal(f->disk->sync_dir(f->disk->ctx, "dir/sub", NULL), REPLOG_OK);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(try_open(f, "sub/a", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(f->disk->make_dir(f->disk->ctx, "dir/sub", NULL), REPLOG_OK);
    assert_int_equal(try_open(f, "sub/a", DISK_READ), REPLOG_NOT_FOUND);
    assert_int_equal(try_open(f, "sub/a", DISK_CREATE), REPLOG_OK);
    assert_int_equal(f->disk->sync_dir(f->disk->ctx, "dir/sub/", NULL), REPLOG_OK);
    sync_names(f);
    crash(f, DISK_LOSE_ALL, 0);
    assert_int_equal(try_open(f, "sub/a", DISK_READ), REPLOG_OK);
}

/* Over many seeds: each sector is whole, old or new; both happen; neighbours differ. */
static void a_random_crash_tears_at_sectors(void **state) {
    (void)state;
    unsigned n_old = 0, n_new = 0, n_torn = 0;
    for (uint64_t seed = 0; seed < 50; seed++) {
        void *inner = NULL;
        assert_int_equal(mem_setup(&inner), 0);
        struct fixture *f = inner;
        struct disk_file *file = open_file(f, "a", DISK_CREATE);
        sync_names(f);
        uint8_t block[4 * SECTOR];
        struct iovec piece = {block, sizeof block};
        memset(block, 'o', sizeof block);
        assert_int_equal(f->disk->write(file, &piece, 1, 0, NULL), REPLOG_OK);
        f->disk->sync(file, NULL);
        memset(block, 'n', sizeof block);
        assert_int_equal(f->disk->write(file, &piece, 1, 0, NULL), REPLOG_OK);
        crash(f, DISK_LOSE_RANDOM, seed);
        f->disk->close(file);
        file = open_file(f, "a", DISK_READ);
        size_t n = 0;
        assert_int_equal(f->disk->read(file, block, sizeof block, 0, &n, NULL), REPLOG_OK);
        assert_int_equal(n, sizeof block);
        unsigned news = 0;
        for (size_t s = 0; s < 4; s++) {
            assert_true(block[s * SECTOR] == 'o' || block[s * SECTOR] == 'n');
            for (size_t i = 1; i < SECTOR; i++)
                assert_int_equal(block[s * SECTOR + i], block[s * SECTOR]);
            news += block[s * SECTOR] == 'n';
        }
        n_old += news == 0;
        n_new += news == 4;
        n_torn += news > 0 && news < 4;
        f->disk->close(file);
        teardown(&inner);
    }
    assert_true(n_old > 0 && n_new > 0 && n_torn > 10);
}

/* A later change of a name is never there without the earlier one. */
static void a_random_crash_keeps_the_order_of_a_name(void **state) {
    (void)state;
    unsigned seen[4] = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        void *inner = NULL;
        assert_int_equal(mem_setup(&inner), 0);
        struct fixture *f = inner;
        assert_int_equal(try_open(f, "manifest", DISK_CREATE), REPLOG_OK);
        sync_names(f);
        struct disk_file *tmp = open_file(f, "tmp", DISK_CREATE);
        put(f, tmp, "new", 0);
        f->disk->sync(tmp, NULL);
        f->disk->close(tmp);
        assert_int_equal(move(f, "tmp", "manifest"), REPLOG_OK);
        crash(f, DISK_LOSE_RANDOM, seed);
        struct disk_file *file = open_file(f, "manifest", DISK_READ); /* always one of them */
        bool renamed = size_of(f, file) == 3;
        if (renamed)
            assert_content(f, file, "new", 0);
        else
            assert_int_equal(size_of(f, file), 0);
        bool left = try_open(f, "tmp", DISK_READ) == REPLOG_OK;
        assert_false(renamed && left);
        seen[(renamed ? 2 : 0) + (left ? 1 : 0)]++;
        f->disk->close(file);
        teardown(&inner);
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
}

static void a_random_crash_skips_what_follows(void **state) {
    (void)state;
    unsigned n_none = 0, n_renamed = 0, n_both = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        void *inner = NULL;
        assert_int_equal(mem_setup(&inner), 0);
        struct fixture *f = inner;
        assert_int_equal(try_open(f, "a", DISK_CREATE), REPLOG_OK);
        assert_int_equal(try_open(f, "b", DISK_CREATE), REPLOG_OK);
        sync_names(f);
        assert_int_equal(move(f, "a", "b"), REPLOG_OK);
        assert_int_equal(drop(f, "b"), REPLOG_OK);
        crash(f, DISK_LOSE_RANDOM, seed);
        bool a = try_open(f, "a", DISK_READ) == REPLOG_OK;
        bool b = try_open(f, "b", DISK_READ) == REPLOG_OK;
        assert_false(a && !b); /* the unlink without the rename before it */
        n_none += a && b;
        n_renamed += !a && b;
        n_both += !a && !b;
        teardown(&inner);
    }
    assert_true(n_none > 0 && n_renamed > 0 && n_both > 0);
}

/* The lesson of the page cache: a failed sync leaves data that reads see and no sync will write. */
static void a_failed_sync_is_final(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    sync_names(f);
    put(f, file, "AAAA", 0);
    put(f, file, "keep", SECTOR);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    put(f, file, "BBBB", 0);
    disk_mem_fail_syncs(f->mem, 1);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_UNAVAILABLE);
    assert_content(f, file, "BBBB", 0);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    crash(f, DISK_LOSE_NONE, 0);
    f->disk->close(file);
    file = open_file(f, "a", DISK_WRITE);
    assert_content(f, file, "AAAA", 0);
    put(f, file, "CCCC", 0);
    disk_mem_fail_syncs(f->mem, 1);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_UNAVAILABLE);
    put(f, file, "CCCC", 0); /* written again, it is dirty again */
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    crash(f, DISK_LOSE_ALL, 0);
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ);
    assert_content(f, file, "CCCC", 0);
    assert_content(f, file, "keep", SECTOR);
    f->disk->close(file);
}

static void a_failed_write_says_so(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    disk_mem_fail_writes(f->mem, 1);
    assert_int_equal(put(f, file, "abcd", 0), REPLOG_UNAVAILABLE);
    assert_int_equal(size_of(f, file), 2); /* half of it stands */
    assert_int_equal(put(f, file, "abcd", 0), REPLOG_OK);
    f->disk->close(file);
}

static void a_cut_ends_all_calls(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE), *other = NULL;
    sync_names(f);
    uint64_t calls = disk_mem_calls(f->mem);
    assert_int_equal(put(f, file, "12345678", 0), REPLOG_OK);
    assert_int_equal(disk_mem_calls(f->mem), calls + 1);
    disk_mem_cut_at(f->mem, calls + 3);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_OK);
    assert_int_equal(put(f, file, "ABCDEFGH", 0), REPLOG_UNAVAILABLE);
    assert_int_equal(f->disk->sync(file, NULL), REPLOG_UNAVAILABLE);
    assert_int_equal(f->disk->open(f->disk->ctx, "dir/b", DISK_CREATE, &other, NULL),
                     REPLOG_UNAVAILABLE);
    crash(f, DISK_LOSE_NONE, 0);
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ); /* power is back */
    assert_content(f, file, "ABCD5678", 0);
    assert_int_equal(try_open(f, "b", DISK_READ), REPLOG_NOT_FOUND);
    f->disk->close(file);
}

static void a_crash_releases_locks(void **state) {
    struct fixture *f = *state;
    struct disk_lock *before = NULL, *after = NULL;
    assert_int_equal(f->disk->lock(f->disk->ctx, "dir/lock", &before, NULL), REPLOG_OK);
    crash(f, DISK_LOSE_NONE, 0);
    assert_int_equal(f->disk->lock(f->disk->ctx, "dir/lock", &after, NULL), REPLOG_OK);
    f->disk->unlock(before);
    f->disk->unlock(after);
}

static void a_full_disk_takes_overwrites(void **state) {
    struct fixture *f = *state;
    disk_mem_set_capacity(f->mem, 1024);
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    assert_int_equal(f->disk->allocate(file, 1000, NULL), REPLOG_OK);
    assert_int_equal(f->disk->allocate(file, 1025, NULL), REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(put(f, file, "0123456789", 1020), REPLOG_RESOURCE_EXHAUSTED);
    assert_int_equal(size_of(f, file), 1000);
    assert_int_equal(put(f, file, "0123456789", 990), REPLOG_OK);
    uint64_t bytes = 0;
    assert_int_equal(f->disk->free_bytes(f->disk->ctx, "dir", &bytes, NULL), REPLOG_OK);
    assert_int_equal(bytes, 24);
    f->disk->close(file);
    assert_int_equal(drop(f, "a"), REPLOG_OK);
    assert_int_equal(f->disk->free_bytes(f->disk->ctx, "dir", &bytes, NULL), REPLOG_OK);
    assert_int_equal(bytes, 1024);
}

static void a_shrunk_file_does_not_show_old_bytes(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    sync_names(f);
    put(f, file, "old bytes", 0);
    f->disk->sync(file, NULL);
    assert_int_equal(f->disk->resize(file, 0, NULL), REPLOG_OK);
    assert_int_equal(f->disk->resize(file, 9, NULL), REPLOG_OK);
    f->disk->sync(file, NULL);
    crash(f, DISK_LOSE_ALL, 0);
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ);
    char got[9];
    size_t n;
    assert_int_equal(f->disk->read(file, got, 9, 0, &n, NULL), REPLOG_OK);
    assert_memory_equal(got, "\0\0\0\0\0\0\0\0\0", 9);
    f->disk->close(file);
}

static void damage_is_for_good(void **state) {
    struct fixture *f = *state;
    struct disk_file *file = open_file(f, "a", DISK_CREATE);
    sync_names(f);
    put(f, file, "abc", 0);
    f->disk->sync(file, NULL);
    assert_int_equal(disk_mem_damage(f->mem, "dir/a", 1, 0x20), REPLOG_OK);
    assert_int_equal(disk_mem_damage(f->mem, "dir/a", 3, 1), REPLOG_OUT_OF_RANGE);
    assert_int_equal(disk_mem_damage(f->mem, "dir/b", 0, 1), REPLOG_NOT_FOUND);
    assert_content(f, file, "aBc", 0);
    crash(f, DISK_LOSE_ALL, 0);
    f->disk->close(file);
    file = open_file(f, "a", DISK_READ);
    assert_content(f, file, "aBc", 0);
    f->disk->close(file);
}

#define ON_POSIX(test)                                                                             \
    { "posix: " #test, test, posix_setup, teardown, NULL }
#define ON_MEM(test)                                                                               \
    { "memory: " #test, test, mem_setup, teardown, NULL }
#define ON_BOTH(test) ON_POSIX(test), ON_MEM(test)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_BOTH(files_open_as_asked),
        ON_BOTH(what_is_written_is_read),
        ON_BOTH(writes_of_all_sizes_mix),
        cmocka_unit_test_setup_teardown(direct_writes_are_direct, posix_setup, teardown),
        ON_BOTH(many_pieces_are_one_write),
        ON_BOTH(sizes_change_as_asked),
        ON_BOTH(names_change_as_asked),
        ON_BOTH(directories),
        ON_BOTH(a_lock_excludes_this_process_too),
        ON_POSIX(a_lock_excludes_another_process),
        ON_POSIX(no_space_is_resource_exhausted),
        ON_POSIX(a_partial_write_is_an_error),
        ON_MEM(unsynced_content_is_lost),
        ON_MEM(a_lucky_crash_loses_nothing),
        ON_MEM(names_need_their_directory_synced),
        ON_MEM(a_directory_needs_its_parent_synced),
        ON_MEM(a_random_crash_tears_at_sectors),
        ON_MEM(a_random_crash_keeps_the_order_of_a_name),
        ON_MEM(a_random_crash_skips_what_follows),
        ON_MEM(a_failed_sync_is_final),
        ON_MEM(a_failed_write_says_so),
        ON_MEM(a_cut_ends_all_calls),
        ON_MEM(a_crash_releases_locks),
        ON_MEM(a_full_disk_takes_overwrites),
        ON_MEM(a_shrunk_file_does_not_show_old_bytes),
        ON_MEM(damage_is_for_good),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

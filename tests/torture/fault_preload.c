/* fault_preload.c: a library for LD_PRELOAD that lets system calls on files and allocations fail at
 * call N, on purpose and at a chosen moment. REPLOG_FAULT names a file of `struct control`, which
 * the test maps as well: what it writes there holds at once (tests/torture/faults.py has the same
 * layout). Without REPLOG_FAULT nothing fails.
 *
 * Files: calls of the kinds in `disk_ops` whose path holds `disk_path` are counted, and call number
 * disk_at and the disk_repeat - 1 behind it suffer `disk_action`.
 * Memory: allocations asked for by the objects in `mem_who` are counted, and call number mem_at and
 * the mem_repeat - 1 behind it return NULL. Who asks is told by the return address, so that what
 * nng, RocksDB or libc allocate for themselves can be left alone. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    OP_OPEN = 1,
    OP_WRITE = 2, /* write, pwrite, pwritev */
    OP_FDATASYNC = 4,
    OP_FSYNC = 8,
    OP_ALLOCATE = 16, /* posix_fallocate, fallocate */
    OP_TRUNCATE = 32,
    OP_RENAME = 64,
    OP_UNLINK = 128,
    OP_READ = 256 /* pread; read goes through */
};

enum {
    DO_NOTHING = 0, /* count only */
    DO_ERRNO = 1,   /* fail, nothing done */
    DO_SHORT = 2,   /* of a write only half */
    DO_KILL_BEFORE = 3,
    DO_KILL_AFTER = 4,
    DO_THEN_ERRNO = 5, /* done, and reported as failed */
    DO_LOSE = 6,       /* fdatasync: fails, and what was written since the last one is gone */
    DO_LIE = 7         /* the same, and reports success: for tests of the tests */
};

enum { WHO_PROGRAM = 1, WHO_NGHTTP2 = 2, WHO_NNG = 4, WHO_PROTOBUF = 8, WHO_OTHERS = 16 };

struct control {
    _Atomic uint32_t magic; /* written by the library when it is in */
    _Atomic uint32_t disk_ops, disk_action, disk_errno;
    _Atomic uint64_t disk_at, disk_repeat, disk_seen, disk_hits, disk_hit_ns;
    char disk_path[128];
    char disk_last[256]; /* the call that suffered last: "fdatasync /path" */
    _Atomic uint32_t mem_who, reserved;
    _Atomic uint64_t mem_at, mem_repeat, mem_seen, mem_hits, mem_where;
};

enum { MAGIC = 0x52504c46, MAX_FD = 1024, MAX_DIRTY = 512, MAX_OBJECTS = 64 };

static struct control *control; /* NULL: nothing fails */

/* ---- Who asks for memory */
struct object {
    uintptr_t from, to; /* its text */
    uint32_t who;
};
static struct object objects[MAX_OBJECTS];
static size_t n_objects;
static uintptr_t program_base;

static int note_object(struct dl_phdr_info *info, size_t size, void *first) {
    (void)size;
    bool *is_first = first;
    uint32_t who = WHO_OTHERS;
    if (*is_first) {
        who = WHO_PROGRAM;
        program_base = info->dlpi_addr;
    } else if (strstr(info->dlpi_name, "libnghttp2")) {
        who = WHO_NGHTTP2;
    } else if (strstr(info->dlpi_name, "libnng")) {
        who = WHO_NNG;
    } else if (strstr(info->dlpi_name, "libprotobuf-c")) {
        who = WHO_PROTOBUF;
    }
    *is_first = false;
    for (int i = 0; i < info->dlpi_phnum && n_objects < MAX_OBJECTS; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X)) continue;
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        objects[n_objects++] = (struct object){from, from + p->p_memsz, who};
    }
    return 0;
}

static uint32_t who_is(uintptr_t address) {
    for (size_t i = 0; i < n_objects; i++)
        if (address >= objects[i].from && address < objects[i].to) return objects[i].who;
    return WHO_OTHERS;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("REPLOG_FAULT");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return;
    bool first = true;
    dl_iterate_phdr(note_object, &first);
    struct control *c = map;
    atomic_store(&c->magic, MAGIC);
    control = c;
}

/* ---- Memory */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static bool memory_fails(void *caller) {
    struct control *c = control;
    if (!c || !atomic_load_explicit(&c->mem_who, memory_order_relaxed)) return false;
    if (!(who_is((uintptr_t)caller) & atomic_load(&c->mem_who))) return false;
    uint64_t n = atomic_fetch_add(&c->mem_seen, 1) + 1, at = atomic_load(&c->mem_at);
    if (!at || n < at || n - at >= atomic_load(&c->mem_repeat)) return false;
    atomic_fetch_add(&c->mem_hits, 1);
    atomic_store(&c->mem_where, (uintptr_t)caller - program_base);
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
    return memory_fails(__builtin_return_address(0)) ? NULL : __libc_memalign(alignment, size);
}

static char *copy_text(const char *text, size_t n) {
    char *copy = __libc_malloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, text, n);
    copy[n] = 0;
    return copy;
}

char *strdup(const char *text) {
    return memory_fails(__builtin_return_address(0)) ? NULL : copy_text(text, strlen(text));
}

char *strndup(const char *text, size_t n) {
    return memory_fails(__builtin_return_address(0)) ? NULL : copy_text(text, strnlen(text, n));
}

/* ---- What was written since the last fdatasync, for DO_LOSE */
struct dirty {
    dev_t device; /* a file may be written through one descriptor and synced through another */
    ino_t inode;
    uint64_t offset, size_bytes;
};
static struct dirty dirty[MAX_DIRTY];
static size_t n_dirty;
static atomic_flag dirty_lock = ATOMIC_FLAG_INIT;

static void lock_dirty(void) {
    while (atomic_flag_test_and_set(&dirty_lock)) continue;
}
static void unlock_dirty(void) {
    atomic_flag_clear(&dirty_lock);
}

static void note_dirty(int fd, uint64_t offset, uint64_t size_bytes) {
    struct stat st;
    if (fstat(fd, &st) < 0) return;
    lock_dirty();
    if (n_dirty < MAX_DIRTY)
        dirty[n_dirty++] = (struct dirty){st.st_dev, st.st_ino, offset, size_bytes};
    unlock_dirty();
}

/* `lose`: through fd. */
static void forget_inode(const struct stat *st, int fd, bool lose) {
    static const char zeros[4096];
    lock_dirty();
    for (size_t i = 0; i < n_dirty;) {
        struct dirty *d = &dirty[i];
        if (d->device != st->st_dev || d->inode != st->st_ino) {
            i++;
            continue;
        }
        static ssize_t (*write_at)(int, const void *, size_t, off_t);
        if (!write_at) *(void **)&write_at = dlsym(RTLD_NEXT, "pwrite");
        for (uint64_t at = 0; lose && at < d->size_bytes; at += sizeof zeros) {
            uint64_t n = d->size_bytes - at < sizeof zeros ? d->size_bytes - at : sizeof zeros;
            if (write_at(fd, zeros, n, (off_t)(d->offset + at)) < 0) break;
        }
        *d = dirty[--n_dirty];
    }
    unlock_dirty();
}

static void forget_dirty(int fd, bool lose) {
    struct stat st;
    if (fstat(fd, &st) == 0) forget_inode(&st, fd, lose);
}

/* ---- Files */
static __thread char path_of_fd[256];

static const char *fd_path(int fd) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path_of_fd, sizeof path_of_fd - 1);
    path_of_fd[n > 0 ? n : 0] = 0;
    return path_of_fd;
}

/* What is to happen to this call. `path` NULL: that of fd. */
static uint32_t judge(uint32_t op, const char *name, int fd, const char *path) {
    struct control *c = control;
    if (!c || !(atomic_load_explicit(&c->disk_ops, memory_order_relaxed) & op)) return DO_NOTHING;
    int errnum = errno;
    if (!path) path = fd_path(fd);
    bool counts = strstr(path, c->disk_path) != NULL;
    errno = errnum;
    if (!counts) return DO_NOTHING;
    uint64_t n = atomic_fetch_add(&c->disk_seen, 1) + 1, at = atomic_load(&c->disk_at);
    if (!at || n < at || n - at >= atomic_load(&c->disk_repeat)) return DO_NOTHING;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    atomic_store(&c->disk_hit_ns, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
    atomic_fetch_add(&c->disk_hits, 1);
    snprintf(c->disk_last, sizeof c->disk_last, "%s %.200s", name, path);
    uint32_t action = atomic_load(&c->disk_action);
    if (action == DO_KILL_BEFORE) kill(getpid(), SIGKILL);
    return action;
}

static int fails(void) {
    errno = (int)atomic_load(&control->disk_errno);
    return -1;
}

/* The result of a call that was made. */
static int settle(uint32_t action, int result) {
    if (action == DO_KILL_AFTER) kill(getpid(), SIGKILL);
    return action == DO_THEN_ERRNO && result == 0 ? fails() : result;
}

#define NEXT(type, name, ...)                                                                      \
    static type (*next)(__VA_ARGS__);                                                              \
    if (!next) *(void **)&next = dlsym(RTLD_NEXT, name)

static bool refuses(uint32_t action) {
    return action == DO_ERRNO;
}

static int open_it(const char *path, int flags, mode_t mode) {
    NEXT(int, "open", const char *, int, ...);
    uint32_t action = judge(OP_OPEN, "open", -1, path);
    if (refuses(action)) return fails();
    int fd = next(path, flags, mode);
    if (action == DO_KILL_AFTER) kill(getpid(), SIGKILL);
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_it(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return open_it(path, flags | O_LARGEFILE, mode);
}

static size_t total(const struct iovec *pieces, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += pieces[i].iov_len;
    return sum;
}

/* The first half of the pieces, in `out`; how many. */
static int half_of(const struct iovec *pieces, int n, struct iovec *out) {
    size_t left = total(pieces, n) / 2;
    int count = 0;
    for (int i = 0; i < n && left; i++) {
        out[count] = pieces[i];
        if (out[count].iov_len > left) out[count].iov_len = left;
        left -= out[count++].iov_len;
    }
    return count;
}

static ssize_t written(uint32_t action, int fd, uint64_t offset, ssize_t n) {
    if (n > 0) note_dirty(fd, offset, (uint64_t)n);
    if (action == DO_KILL_AFTER) kill(getpid(), SIGKILL);
    return action == DO_THEN_ERRNO && n > 0 ? fails() : n;
}

static ssize_t write_pieces(int fd, const struct iovec *pieces, int n, off_t offset) {
    NEXT(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    uint32_t action = judge(OP_WRITE, "pwritev", fd, NULL);
    if (refuses(action)) return fails();
    struct iovec half[1024];
    if (action == DO_SHORT && n <= 1024) {
        int count = half_of(pieces, n, half);
        if (count) return written(action, fd, (uint64_t)offset, next(fd, half, count, offset));
    }
    return written(action, fd, (uint64_t)offset, next(fd, pieces, n, offset));
}

ssize_t pwritev(int fd, const struct iovec *pieces, int n, off_t offset) {
    return write_pieces(fd, pieces, n, offset);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int n, off64_t offset) {
    return write_pieces(fd, pieces, n, offset);
}

static ssize_t write_at(int fd, const void *data, size_t n, off_t offset) {
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t);
    uint32_t action = judge(OP_WRITE, "pwrite", fd, NULL);
    if (refuses(action)) return fails();
    if (action == DO_SHORT && n > 1) n /= 2;
    return written(action, fd, (uint64_t)offset, next(fd, data, n, offset));
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t offset) {
    return write_at(fd, data, n, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t n, off64_t offset) {
    return write_at(fd, data, n, offset);
}

ssize_t write(int fd, const void *data, size_t n) {
    NEXT(ssize_t, "write", int, const void *, size_t);
    uint32_t action = judge(OP_WRITE, "write", fd, NULL);
    if (refuses(action)) return fails();
    if (action == DO_SHORT && n > 1) n /= 2;
    ssize_t done = next(fd, data, n);
    if (action == DO_KILL_AFTER) kill(getpid(), SIGKILL);
    return action == DO_THEN_ERRNO && done > 0 ? fails() : done;
}

int fdatasync(int fd) {
    NEXT(int, "fdatasync", int);
    uint32_t action = judge(OP_FDATASYNC, "fdatasync", fd, NULL);
    bool lose = action == DO_LOSE || action == DO_LIE;
    if (refuses(action) || lose) {
        if (lose) forget_dirty(fd, true);
        return action == DO_LIE ? 0 : fails();
    }
    int result = next(fd);
    if (result == 0) forget_dirty(fd, false);
    return settle(action, result);
}

int fsync(int fd) {
    NEXT(int, "fsync", int);
    uint32_t action = judge(OP_FSYNC, "fsync", fd, NULL);
    return refuses(action) ? fails() : settle(action, next(fd));
}

static int allocate(int fd, off_t offset, off_t size) {
    NEXT(int, "posix_fallocate", int, off_t, off_t);
    uint32_t action = judge(OP_ALLOCATE, "posix_fallocate", fd, NULL);
    if (refuses(action)) return (int)atomic_load(&control->disk_errno);
    int result = next(fd, offset, size);
    if (action == DO_KILL_AFTER) kill(getpid(), SIGKILL);
    return action == DO_THEN_ERRNO && !result ? (int)atomic_load(&control->disk_errno) : result;
}

int posix_fallocate(int fd, off_t offset, off_t size) {
    return allocate(fd, offset, size);
}
int posix_fallocate64(int fd, off64_t offset, off64_t size) {
    return allocate(fd, offset, size);
}

static int resize(int fd, off_t size) {
    NEXT(int, "ftruncate", int, off_t);
    uint32_t action = judge(OP_TRUNCATE, "ftruncate", fd, NULL);
    return refuses(action) ? fails() : settle(action, next(fd, size));
}

int ftruncate(int fd, off_t size) {
    return resize(fd, size);
}
int ftruncate64(int fd, off64_t size) {
    return resize(fd, size);
}

int rename(const char *from, const char *to) {
    NEXT(int, "rename", const char *, const char *);
    uint32_t action = judge(OP_RENAME, "rename", -1, from);
    return refuses(action) ? fails() : settle(action, next(from, to));
}

int unlink(const char *path) {
    NEXT(int, "unlink", const char *);
    uint32_t action = judge(OP_UNLINK, "unlink", -1, path);
    struct stat st; /* the number of its inode will be free */
    if (control && !refuses(action) && stat(path, &st) == 0) forget_inode(&st, -1, false);
    return refuses(action) ? fails() : settle(action, next(path));
}

static ssize_t read_at(int fd, void *data, size_t n, off_t offset) {
    NEXT(ssize_t, "pread", int, void *, size_t, off_t);
    uint32_t action = judge(OP_READ, "pread", fd, NULL);
    if (refuses(action)) return fails();
    if (action == DO_SHORT && n > 1) n /= 2;
    return next(fd, data, n, offset);
}

ssize_t pread(int fd, void *data, size_t n, off_t offset) {
    return read_at(fd, data, n, offset);
}
ssize_t pread64(int fd, void *data, size_t n, off64_t offset) {
    return read_at(fd, data, n, offset);
}

/* The operating system's files behind disk.h.
 *
 * A file that is written past the page cache has two descriptors; the second one (O_DIRECT) is
 * opened when it is first wanted. The kernel keeps both in step as long as no page of a direct
 * write is dirty in the cache. A file system that does not have it takes all through the first.
 *
 * A disk serves one request after the other, and a sync that somebody waits for stands behind what
 * nobody waits for. So zeros are written in pieces of DISK_PIECE_BYTES, as the log does with large
 * groups (recent.h), and files that are only read do not leave it to the system how far ahead it
 * reads (as far as the device is set to, which may be 8 MiB): each large read asks for as much
 * again behind it. */
#include "wal/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/error.h"

enum {
    PIECES_AT_ONCE = 256, /* below IOV_MAX, and 4 KiB of stack */
    FILE_MODE = 0640,
    DIR_MODE = 0750,
    DISK_PIECE_BYTES = 256 << 10,
    AHEAD_FROM_BYTES = 64 << 10, /* smaller reads are not those of somebody who reads on */
    DIRECT_NOT_YET = -1,         /* values of direct_fd */
    DIRECT_NEVER = -2
};

struct disk_file {
    int fd;
    int direct_fd;
    bool reads_ahead;
    char path[]; /* for the sentences of errors */
};

struct disk_lock {
    int fd;
};

/* As error_errno, within the few statuses that disk.h promises. */
static replog_status disk_errno(replog_error *err, int errnum, const char *operation,
                                const char *path) {
    replog_status status = error_errno(err, errnum, "%s %s", operation, path);
    if (status != REPLOG_PERMISSION_DENIED) return status;
    if (err) err->status = REPLOG_UNAVAILABLE;
    return REPLOG_UNAVAILABLE;
}

/* ---- Files */

/* What was interrupted was not done, and is asked for again. */
static int open_again(const char *path, int flags) {
    int fd;
    do fd = open(path, flags | O_CLOEXEC, FILE_MODE);
    while (fd < 0 && errno == EINTR);
    return fd;
}

static replog_status posix_open(void *ctx, const char *path, enum disk_open how,
                                struct disk_file **file, replog_error *err) {
    (void)ctx;
    size_t path_bytes = strlen(path) + 1;
    struct disk_file *made = malloc(sizeof *made + path_bytes);
    if (!made) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to open %s", path);
    memcpy(made->path, path, path_bytes);
    made->direct_fd = how == DISK_READ ? DIRECT_NEVER : DIRECT_NOT_YET;
    int flags = how == DISK_READ ? O_RDONLY : O_RDWR;
    if (how == DISK_CREATE) flags |= O_CREAT | O_EXCL;
    made->fd = open_again(path, flags);
    if (made->fd < 0) {
        int errnum = errno;
        free(made);
        if (errnum == EEXIST)
            return error_set(err, REPLOG_ALREADY_EXISTS, "create %s: it is there already", path);
        return disk_errno(err, errnum, how == DISK_CREATE ? "create" : "open", path);
    }
    made->reads_ahead = how == DISK_READ && posix_fadvise(made->fd, 0, 0, POSIX_FADV_RANDOM) == 0;
    *file = made;
    return REPLOG_OK;
}

static void posix_close(struct disk_file *file) {
    if (!file) return;
    close(file->fd);
    if (file->direct_fd >= 0) close(file->direct_fd);
    free(file);
}

static replog_status posix_read(struct disk_file *file, void *data, size_t size_bytes,
                                uint64_t offset, size_t *got, replog_error *err) {
    size_t done = 0;
    while (done < size_bytes) {
        ssize_t n =
            pread(file->fd, (uint8_t *)data + done, size_bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return disk_errno(err, errno, "read", file->path);
        if (n == 0) break;
        done += (size_t)n;
    }
    if (file->reads_ahead && done == size_bytes && done >= AHEAD_FROM_BYTES) {
        size_t more = done < DISK_PIECE_BYTES ? done : DISK_PIECE_BYTES;
        (void)posix_fadvise(file->fd, (off_t)(offset + done), (off_t)more, POSIX_FADV_WILLNEED);
    }
    *got = done;
    return REPLOG_OK;
}

/* Fills `out` with what of the pieces lies behind `skip` bytes of the first; returns how many. */
static int next_pieces(const struct iovec *pieces, size_t n, size_t skip, struct iovec *out) {
    int count = 0;
    for (size_t i = 0; i < n && count < PIECES_AT_ONCE; i++) {
        struct iovec piece = pieces[i];
        if (i == 0) {
            piece.iov_base = (uint8_t *)piece.iov_base + skip;
            piece.iov_len -= skip;
        }
        if (piece.iov_len) out[count++] = piece;
    }
    return count;
}

/* The descriptor for a direct write: the other one where there is none. */
static int fd_direct(struct disk_file *file) {
    if (file->direct_fd == DIRECT_NOT_YET) {
        char self[32]; /* the file may have been renamed */
        snprintf(self, sizeof self, "/proc/self/fd/%d", file->fd);
        file->direct_fd = open_again(self, O_RDWR | O_DIRECT);
        bool may_come = errno == EMFILE || errno == ENFILE || errno == ENOMEM;
        if (file->direct_fd < 0) file->direct_fd = may_come ? DIRECT_NOT_YET : DIRECT_NEVER;
    }
    return file->direct_fd >= 0 ? file->direct_fd : file->fd;
}

/* It opens, and does not write: another alignment is wanted. */
static void no_direct(struct disk_file *file) {
    close(file->direct_fd);
    file->direct_fd = DIRECT_NEVER;
}

static replog_status write_through(struct disk_file *file, int fd, const struct iovec *pieces,
                                   size_t n, uint64_t offset, replog_error *err) {
    struct iovec batch[PIECES_AT_ONCE];
    size_t skip = 0; /* bytes of pieces[0] that are written */
    for (;;) {
        while (n && skip == pieces[0].iov_len) {
            pieces++;
            n--;
            skip = 0;
        }
        if (!n) return REPLOG_OK;
        int count = next_pieces(pieces, n, skip, batch);
        ssize_t written = pwritev(fd, batch, count, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0 && errno == EINVAL && fd != file->fd) {
            no_direct(file);
            fd = file->fd;
            continue;
        }
        if (written < 0) return disk_errno(err, errno, "write", file->path);
        if (written == 0)
            return error_set(err, REPLOG_UNAVAILABLE,
                             "write %s: the system took no byte at offset %" PRIu64, file->path,
                             offset);
        offset += (uint64_t)written;
        size_t left = (size_t)written;
        while (left && n) {
            size_t rest = pieces[0].iov_len - skip;
            size_t step = left < rest ? left : rest;
            skip += step;
            left -= step;
            if (skip == pieces[0].iov_len) {
                pieces++;
                n--;
                skip = 0;
            }
        }
    }
}

static replog_status posix_write(struct disk_file *file, const struct iovec *pieces, size_t n,
                                 uint64_t offset, replog_error *err) {
    return write_through(file, file->fd, pieces, n, offset, err);
}

static replog_status posix_write_direct(struct disk_file *file, const struct iovec *pieces,
                                        size_t n, uint64_t offset, replog_error *err) {
    return write_through(file, fd_direct(file), pieces, n, offset, err);
}

static replog_status posix_sync(struct disk_file *file, replog_error *err) {
    int result;
    do result = fdatasync(file->fd);
    while (result < 0 && errno == EINTR);
    if (result == 0) return REPLOG_OK;
    /* Even ENOSPC: the bytes were taken and are lost, which is no "try again later". */
    disk_errno(err, errno, "fdatasync", file->path);
    if (err) err->status = REPLOG_UNAVAILABLE;
    return REPLOG_UNAVAILABLE;
}

/* Where they cannot go past the page cache each call ends with a sync: else all of it would reach
 * the disk at once, with the sync at the end. */
static replog_status posix_write_zeros(struct disk_file *file, uint64_t offset, uint64_t size_bytes,
                                       replog_error *err) {
    static _Alignas(4096) uint8_t zeros[DISK_PIECE_BYTES]; /* only read */
    while (size_bytes > 0) {
        size_t part = size_bytes < DISK_PIECE_BYTES ? (size_t)size_bytes : DISK_PIECE_BYTES;
        struct iovec piece = {zeros, part};
        replog_status status = posix_write_direct(file, &piece, 1, offset, err);
        if (status) return status;
        offset += part;
        size_bytes -= part;
    }
    return file->direct_fd >= 0 ? REPLOG_OK : posix_sync(file, err);
}

static replog_status posix_size(struct disk_file *file, uint64_t *size_bytes, replog_error *err) {
    struct stat st;
    if (fstat(file->fd, &st) < 0) return disk_errno(err, errno, "stat", file->path);
    *size_bytes = (uint64_t)st.st_size;
    return REPLOG_OK;
}

/* Files of the log are never sparse, so that only what lies behind the end is new: asking for the
 * whole range costs a walk over all of it. */
static replog_status posix_allocate(struct disk_file *file, uint64_t size_bytes,
                                    replog_error *err) {
    uint64_t have = 0;
    replog_status status = posix_size(file, &have, err);
    if (status || size_bytes <= have) return status;
    int errnum;
    do errnum = posix_fallocate(file->fd, (off_t)have, (off_t)(size_bytes - have));
    while (errnum == EINTR);
    return errnum ? disk_errno(err, errnum, "allocate", file->path) : REPLOG_OK;
}

static replog_status posix_resize(struct disk_file *file, uint64_t size_bytes, replog_error *err) {
    int result;
    do result = ftruncate(file->fd, (off_t)size_bytes);
    while (result < 0 && errno == EINTR);
    return result < 0 ? disk_errno(err, errno, "resize", file->path) : REPLOG_OK;
}

/* ---- Names */
static replog_status posix_rename(void *ctx, const char *from, const char *to, replog_error *err) {
    (void)ctx;
    if (rename(from, to) == 0) return REPLOG_OK;
    return disk_errno(err, errno, "rename", from);
}

static replog_status posix_unlink(void *ctx, const char *path, replog_error *err) {
    (void)ctx;
    return unlink(path) < 0 ? disk_errno(err, errno, "unlink", path) : REPLOG_OK;
}

static replog_status posix_sync_dir(void *ctx, const char *dir, replog_error *err) {
    (void)ctx;
    int fd = open_again(dir, O_RDONLY | O_DIRECTORY);
    if (fd < 0) return disk_errno(err, errno, "open directory", dir);
    int result;
    do result = fsync(fd);
    while (result < 0 && errno == EINTR);
    int errnum = errno;
    close(fd);
    if (result == 0) return REPLOG_OK;
    disk_errno(err, errnum, "fsync directory", dir);
    if (err) err->status = REPLOG_UNAVAILABLE;
    return REPLOG_UNAVAILABLE;
}

static replog_status posix_make_dir(void *ctx, const char *dir, replog_error *err) {
    (void)ctx;
    if (mkdir(dir, DIR_MODE) == 0) return REPLOG_OK;
    int errnum = errno;
    struct stat st;
    if (errnum == EEXIST && stat(dir, &st) == 0 && S_ISDIR(st.st_mode)) return REPLOG_OK;
    return disk_errno(err, errnum, "make directory", dir);
}

static bool is_regular(int dir_fd, const struct dirent *entry) {
    if (entry->d_type != DT_UNKNOWN) return entry->d_type == DT_REG;
    struct stat st;
    return fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

static replog_status posix_list(void *ctx, const char *dir,
                                void (*fn)(const char *name, void *user), void *user,
                                replog_error *err) {
    (void)ctx;
    DIR *stream = opendir(dir);
    if (!stream) return disk_errno(err, errno, "list", dir);
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(stream);
        if (!entry) break;
        if (is_regular(dirfd(stream), entry)) fn(entry->d_name, user);
    }
    int errnum = errno;
    closedir(stream);
    return errnum ? disk_errno(err, errnum, "list", dir) : REPLOG_OK;
}

static replog_status posix_free_bytes(void *ctx, const char *dir, uint64_t *bytes,
                                      replog_error *err) {
    (void)ctx;
    struct statvfs st;
    if (statvfs(dir, &st) < 0) return disk_errno(err, errno, "statvfs", dir);
    *bytes = (uint64_t)st.f_bavail * st.f_frsize;
    return REPLOG_OK;
}

/* flock belongs to the open file description: it also keeps a second opener of the same process
 * out, it needs no write permission, and closing some other descriptor does not drop it. */
static replog_status posix_lock(void *ctx, const char *path, struct disk_lock **lock,
                                replog_error *err) {
    (void)ctx;
    struct disk_lock *made = malloc(sizeof *made);
    if (!made) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to lock %s", path);
    made->fd = open_again(path, O_RDONLY | O_CREAT);
    int result = -1;
    if (made->fd >= 0) {
        do result = flock(made->fd, LOCK_EX | LOCK_NB);
        while (result < 0 && errno == EINTR);
    }
    if (result == 0) {
        *lock = made;
        return REPLOG_OK;
    }
    int errnum = errno;
    if (made->fd >= 0) close(made->fd);
    free(made);
    if (errnum == EWOULDBLOCK)
        return error_set(err, REPLOG_FAILED_PRECONDITION, "%s is locked: another process holds it",
                         path);
    return disk_errno(err, errnum, "lock", path);
}

static void posix_unlock(struct disk_lock *lock) {
    if (!lock) return;
    close(lock->fd);
    free(lock);
}

const struct disk *disk_posix(void) {
    static const struct disk table = {
        .ctx = NULL,
        .open = posix_open,
        .close = posix_close,
        .read = posix_read,
        .write = posix_write,
        .write_direct = posix_write_direct,
        .write_zeros = posix_write_zeros,
        .sync = posix_sync,
        .allocate = posix_allocate,
        .resize = posix_resize,
        .size = posix_size,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .sync_dir = posix_sync_dir,
        .make_dir = posix_make_dir,
        .list = posix_list,
        .free_bytes = posix_free_bytes,
        .lock = posix_lock,
        .unlock = posix_unlock,
    };
    return &table;
}

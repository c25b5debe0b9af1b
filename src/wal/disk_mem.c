/* The disk in memory of disk.h: what a machine with a page cache keeps, loses and tears. Files are
 * inodes (disk_mem_inode.h); here are the names, the calls, the power cut and the faults.
 *
 * Names are kept twice, as readers see them (cached) and as the device has them (durable), with the
 * list of changes in between, in order; sync_dir moves the changes of one directory from the list
 * to the durable names. A directory is a name without a file; it needs the sync_dir of its parent
 * ("." for a path without '/') like any other. */
#include "wal/disk.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "wal/disk_mem_inode.h"

struct name {
    char *path;
    struct inode *inode; /* NULL: a directory */
};

struct names {
    struct name *items;
    size_t n;
};

enum change_type { CHANGE_ADD, CHANGE_RENAME, CHANGE_REMOVE };

struct change {
    enum change_type type;
    char *path, *to;     /* `to` of CHANGE_RENAME, else NULL */
    struct inode *inode; /* CHANGE_ADD */
};

struct disk_file {
    struct disk_mem *mem;
    struct disk_file *next;
    struct inode *inode; /* NULL after a crash: the handle is dead */
    bool writable;
    char *path;
};

struct disk_lock {
    struct disk_mem *mem;
    struct disk_lock *next;
    char *path;
    bool held; /* false after a crash */
};

struct disk_mem {
    pthread_mutex_t mutex;
    struct disk table;
    struct inode *inodes;
    struct names cached, durable;
    struct change *changes;
    size_t n_changes;
    struct disk_file *files;
    struct disk_lock *locks;
    uint64_t calls, cut_at, capacity_bytes, n_failed;
    unsigned good_syncs, fail_syncs, fail_writes; /* good ones come first */
    bool observed;
    bool litter; /* some inode may have lost its last name */
};

static struct inode *inode_new(struct disk_mem *mem) {
    struct inode *inode = disk_mem_must(calloc(1, sizeof *inode));
    inode->next = mem->inodes;
    mem->inodes = inode;
    return inode;
}

/* ---- Names */
static struct name *find_name(const struct names *names, const char *path) {
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->items[i].path, path) == 0) return &names->items[i];
    return NULL;
}

static void add_name(struct names *names, const char *path, struct inode *inode) {
    names->items = disk_mem_must(realloc(names->items, (names->n + 1) * sizeof *names->items));
    names->items[names->n++] = (struct name){disk_mem_must(strdup(path)), inode};
}

static void remove_name(struct names *names, struct name *name) {
    free(name->path);
    *name = names->items[--names->n];
}

static void clear_names(struct names *names) {
    while (names->n) remove_name(names, &names->items[0]);
    free(names->items);
    *names = (struct names){0};
}

/* The directory of a path: what stands before the last '/'. The caller frees. */
static char *parent_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return disk_mem_must(strdup("."));
    if (slash == path) return disk_mem_must(strdup("/"));
    return disk_mem_must(strndup(path, (size_t)(slash - path)));
}

/* A directory's path without '/' at its end. The caller frees. */
static char *dir_path(const char *dir) {
    size_t length = strlen(dir);
    while (length > 1 && dir[length - 1] == '/') length--;
    return disk_mem_must(strndup(dir, length));
}

static bool is_dir(const struct names *names, const char *path) {
    if (strcmp(path, ".") == 0 || strcmp(path, "/") == 0) return true;
    const struct name *name = find_name(names, path);
    return name && !name->inode;
}

static bool has_parent(const struct names *names, const char *path) {
    char *parent = parent_of(path);
    bool there = is_dir(names, parent);
    free(parent);
    return there;
}

static bool lies_in(const char *path, const char *dir) {
    char *parent = parent_of(path);
    bool same = strcmp(parent, dir) == 0;
    free(parent);
    return same;
}

static void apply_change(struct names *names, const struct change *change) {
    struct name *name = find_name(names, change->path);
    if (change->type == CHANGE_ADD) {
        if (!name) add_name(names, change->path, change->inode);
        return;
    }
    if (!name) return;
    struct inode *inode = name->inode;
    remove_name(names, name);
    if (change->type == CHANGE_REMOVE) return;
    struct name *target = find_name(names, change->to);
    if (target)
        target->inode = inode;
    else
        add_name(names, change->to, inode);
}

/* Makes the change visible and remembers that it is not durable. */
static void make_change(struct disk_mem *mem, enum change_type type, const char *path,
                        const char *to, struct inode *inode) {
    struct change change = {type, disk_mem_must(strdup(path)),
                            to ? disk_mem_must(strdup(to)) : NULL, inode};
    apply_change(&mem->cached, &change);
    mem->changes =
        disk_mem_must(realloc(mem->changes, (mem->n_changes + 1) * sizeof *mem->changes));
    mem->changes[mem->n_changes++] = change;
    if (type != CHANGE_ADD) mem->litter = true;
}

static void drop_change(struct disk_mem *mem, size_t index) {
    free(mem->changes[index].path);
    free(mem->changes[index].to);
    mem->n_changes--;
    memmove(&mem->changes[index], &mem->changes[index + 1],
            (mem->n_changes - index) * sizeof *mem->changes);
}

/* Makes up to `limit` changes of the directory durable, oldest first. */
static void changes_to_device(struct disk_mem *mem, const char *dir, size_t limit) {
    for (size_t i = 0; i < mem->n_changes && limit;) {
        if (lies_in(mem->changes[i].path, dir)) {
            apply_change(&mem->durable, &mem->changes[i]);
            if (mem->changes[i].type != CHANGE_ADD) mem->litter = true;
            drop_change(mem, i);
            limit--;
        } else {
            i++;
        }
    }
}

static bool touches(const struct change *change, const struct change *earlier) {
    const char *mine[] = {change->path, change->to}, *theirs[] = {earlier->path, earlier->to};
    for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++)
            if (mine[i] && theirs[k] && strcmp(mine[i], theirs[k]) == 0) return true;
    return false;
}

/* Which of the pending changes happened after all. What follows a change that did not, on the same
 * name, did not either. */
static void crash_changes(struct disk_mem *mem, enum disk_mem_loss loss, uint64_t *rng) {
    bool *skipped = disk_mem_must(calloc(mem->n_changes + 1, sizeof *skipped));
    for (size_t i = 0; i < mem->n_changes; i++) {
        skipped[i] = loss == DISK_LOSE_ALL || (loss == DISK_LOSE_RANDOM && rng_next(rng) & 1);
        for (size_t k = 0; k < i && !skipped[i]; k++)
            skipped[i] = skipped[k] && touches(&mem->changes[i], &mem->changes[k]);
        if (!skipped[i]) apply_change(&mem->durable, &mem->changes[i]);
    }
    free(skipped);
    while (mem->n_changes) drop_change(mem, mem->n_changes - 1);
}

/* Frees the inodes that no name, pending change or open file leads to. */
static void collect(struct disk_mem *mem) {
    if (!mem->litter) return;
    mem->litter = false;
    for (struct inode *i = mem->inodes; i; i = i->next) i->in_use = false;
    const struct names *both[] = {&mem->cached, &mem->durable};
    for (int b = 0; b < 2; b++)
        for (size_t i = 0; i < both[b]->n; i++)
            if (both[b]->items[i].inode) both[b]->items[i].inode->in_use = true;
    for (size_t i = 0; i < mem->n_changes; i++)
        if (mem->changes[i].inode) mem->changes[i].inode->in_use = true;
    for (struct disk_file *f = mem->files; f; f = f->next) {
        if (!f->inode) continue;
        if (!f->inode->in_use) mem->litter = true; /* only this file holds it */
        f->inode->in_use = true;
    }
    for (struct inode **at = &mem->inodes; *at;) {
        struct inode *inode = *at;
        if (inode->in_use) {
            at = &inode->next;
        } else {
            *at = inode->next;
            inode_free(inode);
        }
    }
}

/* Bytes of all files that a name or an open file leads to. */
static uint64_t used_bytes(const struct disk_mem *mem) {
    uint64_t used = 0;
    for (const struct inode *i = mem->inodes; i; i = i->next) {
        bool there = false;
        for (size_t k = 0; k < mem->cached.n && !there; k++)
            there = mem->cached.items[k].inode == i;
        for (const struct disk_file *f = mem->files; f && !there; f = f->next)
            there = f->inode == i;
        if (there) used += i->cached.size_bytes;
    }
    return used;
}

/* ---- Calls: each begins with enter(), which counts it, and ends with leave(). */
enum power { POWER_ON, POWER_CUT /* by this very call */, POWER_OFF };

static enum power enter(struct disk_mem *mem) {
    pthread_mutex_lock(&mem->mutex);
    if (mem->observed) return POWER_ON;
    mem->calls++;
    if (!mem->cut_at || mem->calls < mem->cut_at) return POWER_ON;
    return mem->calls == mem->cut_at ? POWER_CUT : POWER_OFF;
}

static replog_status leave(struct disk_mem *mem, replog_status status) {
    pthread_mutex_unlock(&mem->mutex);
    return status;
}

static replog_status power_is_off(replog_error *err, const char *operation, const char *path) {
    return error_set(err, REPLOG_UNAVAILABLE, "%s %s: power is off", operation, path);
}

/* A call on an open file. REPLOG_OK when it may go on. */
static replog_status enter_file(struct disk_file *file, enum power *power, const char *operation,
                                replog_error *err) {
    *power = enter(file->mem);
    if (*power == POWER_OFF || !file->inode) return power_is_off(err, operation, file->path);
    return REPLOG_OK;
}

/* A name change that the power cut hits happened for every other call number. */
static bool cut_change_stands(const struct disk_mem *mem, enum power power) {
    return power == POWER_ON || (power == POWER_CUT && (mem->calls & 1));
}

/* ---- Files */
static replog_status find_or_create(struct disk_mem *mem, const char *path, enum disk_open how,
                                    enum power power, struct inode **inode, replog_error *err) {
    struct name *name = find_name(&mem->cached, path);
    if (how != DISK_CREATE) {
        if (!name) return error_set(err, REPLOG_NOT_FOUND, "open %s: no such file", path);
        if (!name->inode)
            return error_set(err, REPLOG_UNAVAILABLE, "open %s: it is a directory", path);
        *inode = name->inode;
        return REPLOG_OK;
    }
    if (name) return error_set(err, REPLOG_ALREADY_EXISTS, "create %s: it is there already", path);
    if (!has_parent(&mem->cached, path))
        return error_set(err, REPLOG_NOT_FOUND, "create %s: no such directory", path);
    if (cut_change_stands(mem, power)) {
        *inode = inode_new(mem);
        make_change(mem, CHANGE_ADD, path, NULL, *inode);
    }
    return REPLOG_OK;
}

static replog_status mem_open(void *ctx, const char *path, enum disk_open how,
                              struct disk_file **file, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "open", path));
    struct inode *inode = NULL;
    replog_status status = find_or_create(mem, path, how, power, &inode, err);
    if (!status && power == POWER_CUT) status = power_is_off(err, "open", path);
    if (!status) {
        struct disk_file *made = disk_mem_must(calloc(1, sizeof *made));
        made->mem = mem;
        made->inode = inode;
        made->writable = how != DISK_READ;
        made->path = disk_mem_must(strdup(path));
        made->next = mem->files;
        mem->files = made;
        *file = made;
    }
    return leave(mem, status);
}

static void free_file(struct disk_file *file) {
    free(file->path);
    free(file);
}

static void mem_close(struct disk_file *file) {
    if (!file) return;
    struct disk_mem *mem = file->mem;
    pthread_mutex_lock(&mem->mutex);
    struct disk_file **at = &mem->files;
    while (*at != file) at = &(*at)->next;
    *at = file->next;
    free_file(file);
    collect(mem);
    pthread_mutex_unlock(&mem->mutex);
}

static replog_status mem_read(struct disk_file *file, void *data, size_t size_bytes,
                              uint64_t offset, size_t *got, replog_error *err) {
    enum power power;
    replog_status status = enter_file(file, &power, "read", err);
    if (!status && power == POWER_CUT) status = power_is_off(err, "read", file->path);
    if (!status) {
        const struct image *image = &file->inode->cached;
        size_t n = 0;
        if (offset < image->size_bytes) {
            uint64_t rest = image->size_bytes - offset;
            n = size_bytes < rest ? size_bytes : (size_t)rest;
            if (n) memcpy(data, image->data + offset, n);
        }
        *got = n;
    }
    return leave(file->mem, status);
}

static replog_status check_space(const struct disk_mem *mem, const struct disk_file *file,
                                 uint64_t end, const char *operation, replog_error *err) {
    uint64_t size = file->inode->cached.size_bytes;
    if (!mem->capacity_bytes || end <= size) return REPLOG_OK;
    uint64_t used = used_bytes(mem);
    if (used <= mem->capacity_bytes && end - size <= mem->capacity_bytes - used) return REPLOG_OK;
    return error_set(err, REPLOG_RESOURCE_EXHAUSTED,
                     "%s %s: no space left (%" PRIu64 " of %" PRIu64 " bytes are in use)",
                     operation, file->path, used, mem->capacity_bytes);
}

static replog_status check_writable(const struct disk_file *file, const char *operation,
                                    replog_error *err) {
    if (file->writable) return REPLOG_OK;
    return error_set(err, REPLOG_UNAVAILABLE, "%s %s: opened for reading", operation, file->path);
}

static replog_status mem_write(struct disk_file *file, const struct iovec *pieces, size_t n,
                               uint64_t offset, replog_error *err) {
    struct disk_mem *mem = file->mem;
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) total += pieces[i].iov_len;
    enum power power;
    replog_status status = enter_file(file, &power, "write", err);
    if (!status) status = check_writable(file, "write", err);
    if (!status && total) status = check_space(mem, file, offset + total, "write", err);
    if (!status && power == POWER_CUT) {
        inode_write(file->inode, pieces, n, offset, total / 2);
        status = power_is_off(err, "write", file->path);
    } else if (!status && mem->fail_writes) {
        mem->fail_writes--;
        mem->n_failed++;
        inode_write(file->inode, pieces, n, offset, total / 2);
        status = error_set(err, REPLOG_UNAVAILABLE, "write %s: input/output error", file->path);
    } else if (!status && total) {
        inode_write(file->inode, pieces, n, offset, total);
    }
    return leave(mem, status);
}

/* Whether a sync that comes now fails. */
static bool sync_fails(struct disk_mem *mem) {
    if (!mem->fail_syncs || mem->good_syncs) {
        if (mem->good_syncs) mem->good_syncs--;
        return false;
    }
    mem->fail_syncs--;
    mem->n_failed++;
    return true;
}

static replog_status mem_sync(struct disk_file *file, replog_error *err) {
    struct disk_mem *mem = file->mem;
    enum power power;
    replog_status status = enter_file(file, &power, "fdatasync", err);
    if (!status && power == POWER_CUT) {
        inode_sync(file->inode, true);
        status = power_is_off(err, "fdatasync", file->path);
    } else if (!status && sync_fails(mem)) {
        inode_forget_dirty(file->inode);
        status = error_set(err, REPLOG_UNAVAILABLE, "fdatasync %s: input/output error", file->path);
    } else if (!status) {
        inode_sync(file->inode, false);
    }
    return leave(mem, status);
}

static replog_status set_size(struct disk_file *file, uint64_t size_bytes, bool may_shrink,
                              const char *operation, replog_error *err) {
    struct disk_mem *mem = file->mem;
    enum power power;
    replog_status status = enter_file(file, &power, operation, err);
    if (!status) status = check_writable(file, operation, err);
    if (!status) status = check_space(mem, file, size_bytes, operation, err);
    if (!status) {
        bool wanted = may_shrink || size_bytes > file->inode->cached.size_bytes;
        if (wanted && cut_change_stands(mem, power)) inode_resize(file->inode, size_bytes);
        if (power == POWER_CUT) status = power_is_off(err, operation, file->path);
    }
    return leave(mem, status);
}

static replog_status mem_allocate(struct disk_file *file, uint64_t size_bytes, replog_error *err) {
    return set_size(file, size_bytes, false, "allocate", err);
}

static replog_status mem_resize(struct disk_file *file, uint64_t size_bytes, replog_error *err) {
    return set_size(file, size_bytes, true, "resize", err);
}

static replog_status mem_size(struct disk_file *file, uint64_t *size_bytes, replog_error *err) {
    enum power power;
    replog_status status = enter_file(file, &power, "stat", err);
    if (!status && power == POWER_CUT) status = power_is_off(err, "stat", file->path);
    if (!status) *size_bytes = file->inode->cached.size_bytes;
    return leave(file->mem, status);
}

/* ---- Names */
static replog_status mem_rename(void *ctx, const char *from, const char *to, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "rename", from));
    char *parent = parent_of(from);
    replog_status status = REPLOG_OK;
    const struct name *name = find_name(&mem->cached, from);
    if (!name || !name->inode)
        status = error_set(err, REPLOG_NOT_FOUND, "rename %s to %s: no such file", from, to);
    else if (!lies_in(to, parent) || is_dir(&mem->cached, to))
        status = error_set(err, REPLOG_UNAVAILABLE,
                           "rename %s to %s: only to a file of the same directory", from, to);
    else if (strcmp(from, to) != 0 && cut_change_stands(mem, power))
        make_change(mem, CHANGE_RENAME, from, to, NULL);
    free(parent);
    if (!status && power == POWER_CUT) status = power_is_off(err, "rename", from);
    return leave(mem, status);
}

static replog_status mem_unlink(void *ctx, const char *path, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "unlink", path));
    const struct name *name = find_name(&mem->cached, path);
    replog_status status = REPLOG_OK;
    if (!name || !name->inode)
        status = error_set(err, REPLOG_NOT_FOUND, "unlink %s: no such file", path);
    else if (cut_change_stands(mem, power))
        make_change(mem, CHANGE_REMOVE, path, NULL, NULL);
    if (!status && power == POWER_CUT) status = power_is_off(err, "unlink", path);
    return leave(mem, status);
}

static replog_status mem_sync_dir(void *ctx, const char *dir, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "fsync directory", dir));
    char *path = dir_path(dir);
    replog_status status = REPLOG_OK;
    if (!is_dir(&mem->cached, path)) {
        status = error_set(err, REPLOG_NOT_FOUND, "fsync directory %s: no such directory", dir);
    } else if (power == POWER_CUT) {
        size_t n = 0;
        for (size_t i = 0; i < mem->n_changes; i++) n += lies_in(mem->changes[i].path, path);
        changes_to_device(mem, path, n / 2);
        status = power_is_off(err, "fsync directory", dir);
    } else if (sync_fails(mem)) {
        status = error_set(err, REPLOG_UNAVAILABLE, "fsync directory %s: input/output error", dir);
    } else {
        changes_to_device(mem, path, SIZE_MAX);
        collect(mem);
    }
    free(path);
    return leave(mem, status);
}

static replog_status mem_make_dir(void *ctx, const char *dir, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "make directory", dir));
    char *path = dir_path(dir);
    replog_status status = REPLOG_OK;
    const struct name *name = find_name(&mem->cached, path);
    if (name && name->inode)
        status = error_set(err, REPLOG_UNAVAILABLE, "make directory %s: it is a file", dir);
    else if (!has_parent(&mem->cached, path))
        status = error_set(err, REPLOG_NOT_FOUND, "make directory %s: no such directory", dir);
    else if (!is_dir(&mem->cached, path) && cut_change_stands(mem, power))
        make_change(mem, CHANGE_ADD, path, NULL, NULL);
    free(path);
    if (!status && power == POWER_CUT) status = power_is_off(err, "make directory", dir);
    return leave(mem, status);
}

static replog_status mem_list(void *ctx, const char *dir, void (*fn)(const char *name, void *user),
                              void *user, replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power != POWER_ON) return leave(mem, power_is_off(err, "list", dir));
    char *path = dir_path(dir);
    replog_status status = REPLOG_OK;
    if (!is_dir(&mem->cached, path))
        status = error_set(err, REPLOG_NOT_FOUND, "list %s: no such directory", dir);
    struct names found = {0};
    for (size_t i = 0; i < mem->cached.n && !status; i++) {
        const struct name *name = &mem->cached.items[i];
        if (name->inode && lies_in(name->path, path)) add_name(&found, name->path, NULL);
    }
    free(path);
    leave(mem, status);
    /* Outside the mutex: fn may call the disk. */
    for (size_t i = 0; i < found.n; i++) {
        const char *slash = strrchr(found.items[i].path, '/');
        fn(slash ? slash + 1 : found.items[i].path, user);
    }
    clear_names(&found);
    return status;
}

static replog_status mem_free_bytes(void *ctx, const char *dir, uint64_t *bytes,
                                    replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power != POWER_ON) return leave(mem, power_is_off(err, "statvfs", dir));
    uint64_t used = mem->capacity_bytes ? used_bytes(mem) : 0;
    if (!mem->capacity_bytes)
        *bytes = UINT64_C(1) << 40;
    else
        *bytes = used < mem->capacity_bytes ? mem->capacity_bytes - used : 0;
    return leave(mem, REPLOG_OK);
}

static replog_status mem_lock(void *ctx, const char *path, struct disk_lock **lock,
                              replog_error *err) {
    struct disk_mem *mem = ctx;
    enum power power = enter(mem);
    if (power == POWER_OFF) return leave(mem, power_is_off(err, "lock", path));
    replog_status status = REPLOG_OK;
    for (const struct disk_lock *l = mem->locks; l && !status; l = l->next)
        if (l->held && strcmp(l->path, path) == 0)
            status = error_set(err, REPLOG_FAILED_PRECONDITION,
                               "%s is locked: another process holds it", path);
    if (!status && !find_name(&mem->cached, path)) {
        struct inode *inode;
        status = find_or_create(mem, path, DISK_CREATE, power, &inode, err);
    }
    if (!status && power == POWER_CUT) status = power_is_off(err, "lock", path);
    if (!status) {
        struct disk_lock *made = disk_mem_must(calloc(1, sizeof *made));
        *made = (struct disk_lock){mem, mem->locks, disk_mem_must(strdup(path)), true};
        mem->locks = made;
        *lock = made;
    }
    return leave(mem, status);
}

static void mem_unlock(struct disk_lock *lock) {
    if (!lock) return;
    struct disk_mem *mem = lock->mem;
    pthread_mutex_lock(&mem->mutex);
    struct disk_lock **at = &mem->locks;
    while (*at != lock) at = &(*at)->next;
    *at = lock->next;
    free(lock->path);
    free(lock);
    pthread_mutex_unlock(&mem->mutex);
}

static replog_status mem_write_zeros(struct disk_file *file, uint64_t offset, uint64_t size_bytes,
                                     replog_error *err) {
    uint8_t *zeros = disk_mem_must(calloc(1, size_bytes));
    struct iovec piece = {zeros, size_bytes};
    replog_status status = mem_write(file, &piece, 1, offset, err);
    free(zeros);
    return status;
}

/* ---- The machine around it */
struct disk_mem *disk_mem_new(uint64_t capacity_bytes) {
    struct disk_mem *mem = disk_mem_must(calloc(1, sizeof *mem));
    CHECK(pthread_mutex_init(&mem->mutex, NULL) == 0);
    mem->capacity_bytes = capacity_bytes;
    mem->table = (struct disk){
        .ctx = mem,
        .open = mem_open,
        .close = mem_close,
        .read = mem_read,
        .write = mem_write,
        .write_direct = mem_write,
        .write_zeros = mem_write_zeros,
        .sync = mem_sync,
        .allocate = mem_allocate,
        .resize = mem_resize,
        .size = mem_size,
        .rename = mem_rename,
        .unlink = mem_unlink,
        .sync_dir = mem_sync_dir,
        .make_dir = mem_make_dir,
        .list = mem_list,
        .free_bytes = mem_free_bytes,
        .lock = mem_lock,
        .unlock = mem_unlock,
    };
    return mem;
}

void disk_mem_free(struct disk_mem *mem) {
    if (!mem) return;
    while (mem->files) {
        struct disk_file *file = mem->files;
        mem->files = file->next;
        free_file(file);
    }
    while (mem->locks) {
        struct disk_lock *lock = mem->locks;
        mem->locks = lock->next;
        free(lock->path);
        free(lock);
    }
    while (mem->n_changes) drop_change(mem, mem->n_changes - 1);
    free(mem->changes);
    clear_names(&mem->cached);
    clear_names(&mem->durable);
    mem->litter = true;
    collect(mem);
    pthread_mutex_destroy(&mem->mutex);
    free(mem);
}

const struct disk *disk_mem_table(struct disk_mem *mem) {
    return &mem->table;
}

uint64_t disk_mem_calls(const struct disk_mem *mem) {
    pthread_mutex_t *mutex = (pthread_mutex_t *)&mem->mutex;
    pthread_mutex_lock(mutex);
    uint64_t calls = mem->calls;
    pthread_mutex_unlock(mutex);
    return calls;
}

void disk_mem_cut_at(struct disk_mem *mem, uint64_t call_number) {
    pthread_mutex_lock(&mem->mutex);
    mem->cut_at = call_number;
    pthread_mutex_unlock(&mem->mutex);
}

/* A lost directory takes with it what was in it. */
static void drop_orphans(struct names *names) {
    for (size_t i = 0; i < names->n;) {
        if (has_parent(names, names->items[i].path)) {
            i++;
        } else {
            remove_name(names, &names->items[i]);
            i = 0; /* it may have been a directory itself */
        }
    }
}

void disk_mem_crash(struct disk_mem *mem, enum disk_mem_loss loss, uint64_t seed) {
    pthread_mutex_lock(&mem->mutex);
    uint64_t rng = seed;
    for (struct inode *i = mem->inodes; i; i = i->next) inode_crash(i, loss, &rng);
    crash_changes(mem, loss, &rng);
    drop_orphans(&mem->durable);
    clear_names(&mem->cached);
    for (size_t i = 0; i < mem->durable.n; i++)
        add_name(&mem->cached, mem->durable.items[i].path, mem->durable.items[i].inode);
    for (struct disk_file *f = mem->files; f; f = f->next) f->inode = NULL;
    for (struct disk_lock *l = mem->locks; l; l = l->next) l->held = false;
    mem->litter = true;
    mem->cut_at = 0;
    mem->good_syncs = mem->fail_syncs = mem->fail_writes = 0;
    collect(mem);
    pthread_mutex_unlock(&mem->mutex);
}

void disk_mem_fail_syncs(struct disk_mem *mem, unsigned n) {
    disk_mem_fail_syncs_after(mem, 0, n);
}

void disk_mem_fail_syncs_after(struct disk_mem *mem, unsigned good, unsigned n) {
    pthread_mutex_lock(&mem->mutex);
    mem->good_syncs = good;
    mem->fail_syncs = n;
    pthread_mutex_unlock(&mem->mutex);
}

void disk_mem_fail_writes(struct disk_mem *mem, unsigned n) {
    pthread_mutex_lock(&mem->mutex);
    mem->fail_writes = n;
    pthread_mutex_unlock(&mem->mutex);
}

void disk_mem_set_capacity(struct disk_mem *mem, uint64_t capacity_bytes) {
    pthread_mutex_lock(&mem->mutex);
    mem->capacity_bytes = capacity_bytes;
    pthread_mutex_unlock(&mem->mutex);
}

bool disk_mem_is_off(const struct disk_mem *mem) {
    pthread_mutex_t *mutex = (pthread_mutex_t *)&mem->mutex;
    pthread_mutex_lock(mutex);
    bool off = mem->cut_at && mem->calls >= mem->cut_at;
    pthread_mutex_unlock(mutex);
    return off;
}

uint64_t disk_mem_n_failed(const struct disk_mem *mem) {
    pthread_mutex_t *mutex = (pthread_mutex_t *)&mem->mutex;
    pthread_mutex_lock(mutex);
    uint64_t n = mem->n_failed;
    pthread_mutex_unlock(mutex);
    return n;
}

void disk_mem_observe(struct disk_mem *mem, bool on) {
    pthread_mutex_lock(&mem->mutex);
    mem->observed = on;
    pthread_mutex_unlock(&mem->mutex);
}

/* The file that holds those bytes. */
static replog_status find_bytes(struct disk_mem *mem, const char *path, uint64_t offset,
                                size_t size_bytes, struct inode **found) {
    const struct name *name = find_name(&mem->cached, path);
    if (!name || !name->inode) return REPLOG_NOT_FOUND;
    *found = name->inode;
    uint64_t size = name->inode->cached.size_bytes;
    return offset > size || size_bytes > size - offset ? REPLOG_OUT_OF_RANGE : REPLOG_OK;
}

replog_status disk_mem_overwrite(struct disk_mem *mem, const char *path, uint64_t offset,
                                 const void *data, size_t size_bytes) {
    pthread_mutex_lock(&mem->mutex);
    struct inode *inode;
    replog_status status = find_bytes(mem, path, offset, size_bytes, &inode);
    for (size_t i = 0; i < size_bytes && !status; i++) {
        uint8_t byte = ((const uint8_t *)data)[i];
        inode->cached.data[offset + i] = byte;
        if (offset + i < inode->durable.size_bytes) inode->durable.data[offset + i] = byte;
    }
    return leave(mem, status);
}

replog_status disk_mem_shorten(struct disk_mem *mem, const char *path, uint64_t size_bytes) {
    pthread_mutex_lock(&mem->mutex);
    struct inode *inode;
    replog_status status = find_bytes(mem, path, size_bytes, 0, &inode);
    if (!status) inode_shorten(inode, size_bytes);
    return leave(mem, status);
}

replog_status disk_mem_damage(struct disk_mem *mem, const char *path, uint64_t offset,
                              uint8_t xor_mask) {
    pthread_mutex_lock(&mem->mutex);
    struct inode *inode;
    replog_status status = find_bytes(mem, path, offset, 1, &inode);
    if (!status) {
        inode->cached.data[offset] ^= xor_mask;
        if (offset < inode->durable.size_bytes) inode->durable.data[offset] ^= xor_mask;
    }
    return leave(mem, status);
}

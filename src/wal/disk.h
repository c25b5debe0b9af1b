/* disk.h: the one door from replog to files. wal/ and store metadata reach the disk only through
 * this table, so that a simulator can stand behind it. Hides: POSIX, and in tests a disk in memory
 * that forgets or tears what was not synced.
 *
 * Paths are the caller's strings ("DIR/NAME"). Every function returns a status and, on failure,
 * fills `err` (which may be NULL) with operation, path and reason. ENOSPC is RESOURCE_EXHAUSTED
 * (of sync and sync_dir it is UNAVAILABLE: those bytes were taken and are lost), a missing file or
 * directory NOT_FOUND, everything else that the system refuses UNAVAILABLE.
 * Thread-safe as the system calls are: different files freely, one file's reads beside a write. */
#ifndef WAL_DISK_H
#define WAL_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "replog/status.h"

struct disk_file; /* owned by the disk; from open to close */
struct disk_lock;

enum disk_open {
    DISK_READ,  /* must exist, read only */
    DISK_WRITE, /* must exist, read and write */
    DISK_CREATE /* must not exist (ALREADY_EXISTS), read and write */
};

struct disk {
    void *ctx; /* first argument of the functions that take a path */

    replog_status (*open)(void *ctx, const char *path, enum disk_open how, struct disk_file **file,
                          replog_error *err);
    void (*close)(struct disk_file *file);
    /* Reads up to size_bytes at offset; *got < size_bytes only at the end of the file. */
    replog_status (*read)(struct disk_file *file, void *data, size_t size_bytes, uint64_t offset,
                          size_t *got, replog_error *err);
    /* Writes all the pieces at offset, extending the file if need be: all or an error (then any
     * part may have been written). n is any number. */
    replog_status (*write)(struct disk_file *file, const struct iovec *pieces, size_t n,
                           uint64_t offset, replog_error *err);
    /* The same past the page cache, where the system can: a page that is new to the cache has to be
     * made room for, which may cost more than the write. Offset, pieces and their sizes lie on
     * 4 KiB, and no page of it was written the other way since the last sync. */
    replog_status (*write_direct)(struct disk_file *file, const struct iovec *pieces, size_t n,
                                  uint64_t offset, replog_error *err);
    /* Writes zeros, past the page cache where the system can, so that syncs of other files are not
     * kept waiting by them. Offset and size are multiples of 4 KiB. Durable with sync. */
    replog_status (*write_zeros)(struct disk_file *file, uint64_t offset, uint64_t size_bytes,
                                 replog_error *err);
    /* fdatasync: content and size are durable on OK. */
    replog_status (*sync)(struct disk_file *file, replog_error *err);
    /* Reserves space up to size_bytes (the file's size grows to it, reading as zeros). */
    replog_status (*allocate)(struct disk_file *file, uint64_t size_bytes, replog_error *err);
    replog_status (*resize)(struct disk_file *file, uint64_t size_bytes, replog_error *err);
    replog_status (*size)(struct disk_file *file, uint64_t *size_bytes, replog_error *err);

    /* Names become durable with sync_dir of their directory, not before. */
    replog_status (*rename)(void *ctx, const char *from, const char *to, replog_error *err);
    replog_status (*unlink)(void *ctx, const char *path, replog_error *err);
    replog_status (*sync_dir)(void *ctx, const char *dir, replog_error *err);
    /* Makes one directory; OK if it is there. Its name becomes durable with sync_dir of its parent
     * ("." for a path without '/'). */
    replog_status (*make_dir)(void *ctx, const char *dir, replog_error *err);
    /* Calls fn with the name of every regular file in dir (no order). */
    replog_status (*list)(void *ctx, const char *dir, void (*fn)(const char *name, void *user),
                          void *user, replog_error *err);
    replog_status (*free_bytes)(void *ctx, const char *dir, uint64_t *bytes, replog_error *err);
    /* An exclusive lock on a file, made if absent; released with unlock or the process.
     * FAILED_PRECONDITION, naming the path, when another holds it. */
    replog_status (*lock)(void *ctx, const char *path, struct disk_lock **lock, replog_error *err);
    void (*unlock)(struct disk_lock *lock);
};

/* Makes a directory's own name durable: sync_dir of its parent. Also for one that was there
 * already: who made it may have died, or failed, before it was. OK for a parent that may not be
 * read: it belongs to somebody who made the directory for us. */
replog_status disk_sync_name(const struct disk *disk, const char *dir, replog_error *err);

/* Memory for write_direct: on a page boundary, in huge pages where there are any.
 * NULL: memory is short. */
uint8_t *disk_buffer_new(size_t size_bytes);
void disk_buffer_free(uint8_t *buffer);

/* The operating system's files. Static storage. */
const struct disk *disk_posix(void);

/* ---- A disk in memory, for tests -------------------------------------------------------------
 * Every call that returns a status counts, from 1. A cut is armed with disk_mem_cut_at (0 disarms):
 * the call with that number, and all after it, fail with UNAVAILABLE ("power is off"); half of what
 * the cut call would have written may stand. disk_mem_crash then turns what was on the "device"
 * into what survives. Handles from before a crash are dead (UNAVAILABLE) but can be closed and
 * unlocked; disk_mem_free frees those that were not. The directories "." and "/" are always there,
 * any other is made with make_dir. rename works within one directory. Thread-safe. */
struct disk_mem;
struct disk_mem *disk_mem_new(uint64_t capacity_bytes); /* 0: without a bound */
void disk_mem_free(struct disk_mem *mem);
const struct disk *disk_mem_table(struct disk_mem *mem); /* lives as long as mem */

enum disk_mem_loss {
    DISK_LOSE_ALL,    /* every unsynced write, new name, rename and unlink is undone */
    DISK_LOSE_NONE,   /* all of them happened after all */
    DISK_LOSE_RANDOM, /* each unsynced 512-byte sector, and each name change, by the dice; a name
                         may be durable while content is not, never a later change of the same name
                         without the earlier */
};
uint64_t disk_mem_calls(const struct disk_mem *mem); /* calls so far */
void disk_mem_cut_at(struct disk_mem *mem, uint64_t call_number);
/* Power off and on: drops every open file and lock, applies the loss, disarms the cut. */
void disk_mem_crash(struct disk_mem *mem, enum disk_mem_loss loss, uint64_t seed);
/* The next n sync and sync_dir calls (or writes, of which half stands) fail with UNAVAILABLE; after
 * a failed sync, the data count as clean though the device does not have them (as a page cache
 * does): reads still see them, a later sync succeeds without making them durable, a crash loses
 * them, unless they are written again. */
void disk_mem_fail_syncs(struct disk_mem *mem, unsigned n);
void disk_mem_fail_syncs_after(struct disk_mem *mem, unsigned good, unsigned n); /* not at once */
void disk_mem_fail_writes(struct disk_mem *mem, unsigned n);
void disk_mem_set_capacity(struct disk_mem *mem, uint64_t capacity_bytes);
/* The armed cut was reached: nothing works until disk_mem_crash. */
bool disk_mem_is_off(const struct disk_mem *mem);
/* How many calls the faults armed above have failed so far. */
uint64_t disk_mem_n_failed(const struct disk_mem *mem);
/* While on, calls neither count nor fail: for a watcher that reads between the calls of others. */
void disk_mem_observe(struct disk_mem *mem, bool on);
/* Flips bits of a file, cached and durable: rot. NOT_FOUND; OUT_OF_RANGE behind its end. */
replog_status disk_mem_damage(struct disk_mem *mem, const char *path, uint64_t offset,
                              uint8_t xor_mask);
/* Other kinds of it: bytes of a file replaced, a file cut short. As above. */
replog_status disk_mem_overwrite(struct disk_mem *mem, const char *path, uint64_t offset,
                                 const void *data, size_t size_bytes);
replog_status disk_mem_shorten(struct disk_mem *mem, const char *path, uint64_t size_bytes);

#endif

/* A member's disk.
 *
 * What damage is done, and where. The log says of itself what it cannot tell: rot in the last
 * group before any mark followed looks like a torn write, and so does a last segment that lost
 * the end of its groups. A voter that forgets what it has acknowledged is no case that any majority
 * protocol survives, so such damage is left out, and everything else is in: any byte of a segment
 * that a mark in a later, undamaged group covers; any byte and any end of a segment that has a
 * successor; of the last one the zeros behind its groups; headers and seals; any byte and any end
 * of the manifest and of the vote's file, in one of its copies or in both. */
#include "sim_disk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "wal/group.h"
#include "wal/segment.h"

enum {
    SECTOR = 512,
    MAX_FILES = 256,
    VOTE_COPY_BYTES = 4096,
    VOTE_USED_BYTES = 48 /* of a copy; zeros follow */
};

/* ---- The store: another that fails while the disk is full */

struct full_store {
    struct store base;
    struct store *inner;
    struct sim_disk *disk;
};

static struct store *inner(const struct store *s) {
    return ((const struct full_store *)(const void *)s)->inner;
}

static replog_status store_write(struct store *s, const struct store_op *ops, size_t n,
                                 uint64_t applied_seq, replog_error *err) {
    struct sim_disk *disk = ((struct full_store *)(void *)s)->disk;
    if (disk->full && rng_between(&disk->rng, 1, 100) <= disk->fails_full)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no space left for the store");
    replog_status st = inner(s)->ops->write(inner(s), ops, n, applied_seq, err);
    uint64_t unused;
    if (st == REPLOG_OK && rng_between(&disk->rng, 1, 100) <= disk->flushes_itself)
        st = inner(s)->ops->flush(inner(s), &unused, err);
    return st;
}
static replog_status store_get(struct store *s, struct slice key, struct buffer *value,
                               uint64_t *seq, replog_error *err) {
    return inner(s)->ops->get(inner(s), key, value, seq, err);
}
static replog_status store_meta_each(struct store *s,
                                     void (*fn)(struct slice key, struct slice value, void *user),
                                     void *user, replog_error *err) {
    return inner(s)->ops->meta_each(inner(s), fn, user, err);
}
static replog_status store_flush(struct store *s, uint64_t *durable_seq, replog_error *err) {
    if (((const struct full_store *)(const void *)s)->disk->full)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no space left for the store");
    return inner(s)->ops->flush(inner(s), durable_seq, err);
}
static uint64_t store_applied(const struct store *s) {
    return inner(s)->ops->applied(inner(s));
}
static replog_status store_each(struct store *s,
                                void (*fn)(struct slice key, uint64_t seq, struct slice value,
                                           void *user),
                                void *user, replog_error *err) {
    return inner(s)->ops->each(inner(s), fn, user, err);
}
static uint64_t store_memory_bytes(const struct store *s) {
    (void)s;
    return 0;
}
static void store_end(struct store *s) {
    store_close(inner(s));
    free(s);
}

static struct store *full_store_new(struct sim_disk *disk) {
    static const struct store_ops ops = {.write = store_write,
                                         .get = store_get,
                                         .meta_each = store_meta_each,
                                         .flush = store_flush,
                                         .applied = store_applied,
                                         .each = store_each,
                                         .memory_bytes = store_memory_bytes,
                                         .close = store_end};
    struct full_store *s = calloc(1, sizeof *s);
    CHECK(s);
    s->base.ops = &ops;
    s->inner = store_mem_new();
    s->disk = disk;
    CHECK(s->inner);
    return &s->base;
}

/* ---- Life */

void sim_disk_init(struct sim *sim, struct sim_disk *disk) {
    disk->mem = disk_mem_new(0);
    disk->store = full_store_new(disk);
    disk->low_us = sim_draw(sim, 10, 200);
    disk->high_us = disk->low_us + sim_draw(sim, 50, 3000);
    disk->slow = 1;
    disk->rng = sim_draw(sim, 0, UINT64_MAX - 1);
    disk->fails_full = (unsigned)sim_draw(sim, 0, 60);
    disk->flushes_itself = sim_draw(sim, 0, 1) ? 0 : (unsigned)sim_draw(sim, 1, 10);
}

void sim_disk_free(struct sim_disk *disk) {
    disk_mem_free(disk->mem);
    store_close(disk->store);
}

void sim_disk_wipe(struct sim_disk *disk, bool log, bool store) {
    if (log) {
        disk_mem_free(disk->mem);
        disk->mem = disk_mem_new(0);
        disk->full = false;
    }
    if (store) {
        store_close(disk->store);
        disk->store = full_store_new(disk);
    }
}

uint64_t sim_disk_latency_us(struct sim *sim, const struct sim_disk *disk) {
    uint64_t us = sim_draw(sim, disk->low_us, disk->high_us) * disk->slow;
    if (disk->stalled_until_us > sim->now_us + us) us = disk->stalled_until_us - sim->now_us;
    return us;
}

void sim_disk_set_full(struct sim *sim, struct sim_disk *disk, bool full) {
    disk->full = full;
    uint64_t capacity = 0;
    if (full) {
        uint64_t free_bytes = 0;
        disk_mem_observe(disk->mem, true);
        disk_mem_set_capacity(disk->mem, UINT64_C(1) << 40);
        const struct disk *table = disk_mem_table(disk->mem);
        (void)table->free_bytes(table->ctx, SIM_DIR, &free_bytes, NULL);
        disk_mem_observe(disk->mem, false);
        uint64_t used = (UINT64_C(1) << 40) - free_bytes;
        /* sometimes enough for the log's reserve, and not for a spare's next slice beside it */
        uint64_t most = sim_draw(sim, 0, 1) ? 200000 : 1 << 20;
        uint64_t rest = sim_draw(sim, 0, 2) ? sim_draw(sim, 0, most) : 0;
        capacity = used + rest + 1;
    }
    disk_mem_set_capacity(disk->mem, capacity);
}

uint64_t sim_disk_store_durable(const struct sim_disk *disk) {
    return store_mem_durable(inner(disk->store));
}

void sim_disk_crash(struct sim *sim, struct sim_disk *disk, bool power, enum disk_mem_loss loss) {
    store_mem_crash(inner(disk->store)); /* its own journal is off: memory goes with the process */
    if (power) disk_mem_crash(disk->mem, loss, sim_draw(sim, 0, UINT64_MAX - 1));
}

/* ---- Damage */

struct file_list {
    char names[MAX_FILES][40];
    size_t n;
};

static void note_segment(const char *name, void *user) {
    struct file_list *list = user;
    size_t length = strlen(name);
    if (length != 20 || strcmp(name + 16, ".seg") != 0 || list->n == MAX_FILES) return;
    size_t at = list->n++; /* ascending */
    for (; at > 0 && strcmp(list->names[at - 1], name) > 0; at--)
        memcpy(list->names[at], list->names[at - 1], sizeof list->names[at]);
    snprintf(list->names[at], sizeof list->names[at], "%s", name);
}

static bool load(const struct sim_disk *disk, const char *path, struct buffer *content) {
    const struct disk *table = disk_mem_table(disk->mem);
    struct disk_file *file = NULL;
    replog_error err;
    uint64_t size = 0;
    size_t got = 0;
    if (table->open(table->ctx, path, DISK_READ, &file, &err) != REPLOG_OK) return false;
    bool ok = table->size(file, &size, &err) == REPLOG_OK && size > 0;
    if (ok) {
        buffer_clear(content);
        uint8_t *data = buffer_extend(content, size);
        CHECK(data);
        ok = table->read(file, data, size, 0, &got, &err) == REPLOG_OK && got == size;
    }
    table->close(file);
    return ok;
}

/* A file, and where it may be damaged. */
struct target {
    char path[64];
    struct buffer content;
    uint64_t low, end;   /* bytes that may be others */
    uint64_t short_from; /* where it may be cut: there or behind */
};

/* Up to where the last segment may be damaged: below the last but one of the groups whose mark
 * covers all that stands before it, so that two are left to tell. Behind its groups it may be cut.
 */
static void find_covered(struct target *t) {
    const struct buffer *content = &t->content;
    struct segment_header header;
    t->end = 0;
    t->short_from = content->size_bytes;
    if (content->size_bytes < SEGMENT_DATA_OFFSET) return;
    if (!segment_header_decode(content->data, &header)) return;
    uint64_t last = 0, epoch = header.epoch;
    t->short_from = SEGMENT_DATA_OFFSET;
    for (uint64_t at = SEGMENT_DATA_OFFSET; at + WAL_PAGE_BYTES <= content->size_bytes;
         at += WAL_PAGE_BYTES) {
        struct group_header group;
        if (!group_decode(content->data + at, &group) || group.segment != header.number ||
            group.offset != at || group.incarnation != header.incarnation || group.epoch < epoch)
            continue;
        epoch = group.epoch;
        t->short_from = at + group_padded_bytes(group.length);
        if (group.mark.seq + 1 < group.first_seq) continue;
        t->end = last;
        last = at;
    }
}

static size_t list_segments(const struct sim_disk *disk, struct file_list *list) {
    const struct disk *table = disk_mem_table(disk->mem);
    list->n = 0;
    bool ok = table->list(table->ctx, SIM_DIR, note_segment, list, NULL) == REPLOG_OK;
    return ok ? list->n : 0;
}

/* The content of some sector of that file or of another one. */
static void draw_sector(const struct sim_disk *disk, const struct target *t, uint64_t *rng,
                        uint8_t sector[SECTOR]) {
    static struct file_list list;
    struct buffer other = {0};
    const struct buffer *from = &t->content;
    char path[64] = SIM_DIR "/VOTE";
    uint64_t end = t->end;
    size_t n = list_segments(disk, &list), which = rng_between(rng, 0, 2);
    if (which == 1 && n > 0)
        snprintf(path, sizeof path, "%s/%s", SIM_DIR, list.names[rng_between(rng, 0, n - 1)]);
    if (which > 0 && load(disk, path, &other)) {
        from = &other;
        end = other.size_bytes;
    }
    uint64_t at = rng_between(rng, 0, (end - 1) / SECTOR) * SECTOR;
    uint64_t size = end - at < SECTOR ? end - at : SECTOR;
    memset(sector, 0, SECTOR);
    memcpy(sector, from->data + at, size);
    buffer_free(&other);
}

/* Damages what stands at that byte. False: it is as it was. */
static bool damage(const struct sim_disk *disk, const struct target *t, enum sim_rot rot,
                   uint64_t at, uint64_t *rng) {
    uint64_t sector = at / SECTOR * SECTOR, size = t->content.size_bytes - sector;
    uint8_t bytes[SECTOR] = {0};
    if (size > SECTOR) size = SECTOR;
    if (rot == SIM_ROT_SHORT) return disk_mem_shorten(disk->mem, t->path, at) == REPLOG_OK;
    if (rot == SIM_ROT_FLIP)
        return disk_mem_damage(disk->mem, t->path, at, (uint8_t)(1u << rng_between(rng, 0, 7))) ==
               REPLOG_OK;
    if (rot == SIM_ROT_MISDIRECT) draw_sector(disk, t, rng, bytes);
    if (memcmp(bytes, t->content.data + sector, size) == 0) return false;
    return disk_mem_overwrite(disk->mem, t->path, sector, bytes, size) == REPLOG_OK;
}

static bool rot_segment(const struct sim_disk *disk, struct target *t, enum sim_rot rot,
                        uint64_t *rng, uint64_t *at) {
    static struct file_list list;
    size_t n = list_segments(disk, &list);
    if (n == 0) return false;
    size_t which = rng_between(rng, 0, n - 1);
    if (rng_between(rng, 0, 1)) which = n - 1; /* the only one that is scanned */
    snprintf(t->path, sizeof t->path, "%s/%s", SIM_DIR, list.names[which]);
    if (!load(disk, t->path, &t->content)) return false;
    t->end = t->content.size_bytes;
    /* where there are data, mostly; sometimes the header page or the seal */
    t->low = t->short_from = rng_between(rng, 1, 100) <= 80 ? SEGMENT_DATA_OFFSET : 0;
    if (which == n - 1) find_covered(t);
    uint64_t low = rot == SIM_ROT_SHORT ? t->short_from : t->low;
    uint64_t end = rot == SIM_ROT_SHORT ? t->content.size_bytes : t->end;
    if (low >= end) return false;
    *at = rng_between(rng, low, end - 1);
    return damage(disk, t, rot, *at, rng);
}

static bool rot_manifest(const struct sim_disk *disk, struct target *t, enum sim_rot rot,
                         uint64_t *rng, uint64_t *at) {
    snprintf(t->path, sizeof t->path, "%s/MANIFEST", SIM_DIR);
    if (!load(disk, t->path, &t->content)) return false;
    t->end = t->content.size_bytes;
    *at = rng_between(rng, 0, t->end - 1);
    return damage(disk, t, rot, *at, rng);
}

/* In one copy, or in both: then *at is in the second one. */
static bool rot_vote(const struct sim_disk *disk, struct target *t, enum sim_rot rot, bool both,
                     uint64_t *rng, uint64_t *at) {
    snprintf(t->path, sizeof t->path, "%s/VOTE", SIM_DIR);
    if (!load(disk, t->path, &t->content)) return false;
    t->end = t->content.size_bytes;
    uint64_t first = both ? 0 : rng_between(rng, 0, 1), last = both ? 1 : first;
    bool done = false;
    if (rot == SIM_ROT_SHORT) first = last = !both;
    for (uint64_t copy = first; copy <= last; copy++) {
        bool used = rot == SIM_ROT_ZERO || rng_between(rng, 0, 1);
        *at = copy * VOTE_COPY_BYTES +
              rng_between(rng, 0, (used ? VOTE_USED_BYTES : VOTE_COPY_BYTES) - 1);
        if (*at < t->end) done |= damage(disk, t, rot, *at, rng);
    }
    return done;
}

const char *sim_disk_rot(const struct sim_disk *disk, enum sim_rot_file file, enum sim_rot rot,
                         uint64_t *rng) {
    static const char *const rots[] = {"a flipped bit", "zeros", "a misdirected write", "cut"};
    static char text[200];
    struct target t = {.low = 0};
    uint64_t at = 0;
    bool done;
    disk_mem_observe(disk->mem, true);
    if (file == SIM_ROT_SEGMENT)
        done = rot_segment(disk, &t, rot, rng, &at);
    else if (file == SIM_ROT_MANIFEST)
        done = rot_manifest(disk, &t, rot, rng, &at);
    else
        done = rot_vote(disk, &t, rot, file == SIM_ROT_VOTE, rng, &at);
    disk_mem_observe(disk->mem, false);
    snprintf(text, sizeof text, "%s of %zu bytes, %sat %" PRIu64 ": %s", t.path,
             t.content.size_bytes, file == SIM_ROT_VOTE ? "both copies, " : "", at, rots[rot]);
    buffer_free(&t.content);
    return done ? text : NULL;
}

/* A log lives for a while (appends, syncs, marks, cuts, truncations, crashes, as the input says),
 * is closed, and then its files are damaged in places that the input picks. Nothing is forged: what
 * still passes its hash is what was written. So
 *  - a refused open names a file and changes nothing; opened read-only or not, the outcome is the
 * same;
 *  - what can be read is the model's blocks, byte for byte, up to the tail or to a loss that is
 * named;
 *  - an open does not lose what an undamaged mark, seal, cut or successor proves, nor anything
 *    below the first damaged group of the last segment;
 *  - an opened log takes more, and shows it after the next open. */
#include "fuzz.h"

#include "wal_world.h"

#include "base/hash.h"
#include "wal/log_impl.h"

enum { MAX_OPS = 40, MAX_DAMAGES = 6, MAX_GROUPS = 512, MAX_FILES = 64, MAX_BLOCKS = 200 };

/* ---- Life */

static void settle(struct world *w, bool crashed) {
    uint64_t tail = wal_tail(w->wal).seq;
    size_t n = 0;
    while (n < w->n_tried && block_last_seq(&w->blocks[n].h) <= tail) n++;
    CHECK(n >= w->n_durable);
    world_forget(w, n);
    w->n = n;
    if (crashed) w->n_durable = n;
}

static void reopen(struct world *w, struct fuzz *f) {
    uint8_t how = fuzz_u8(f);
    wal_close(w->wal);
    w->wal = NULL;
    if (how & 4) disk_mem_crash(w->mem, (enum disk_mem_loss)(how % 3), how);
    world_ok(w, world_open(w));
    settle(w, true);
}

static void live_once(struct world *w, struct fuzz *f, uint64_t *term) {
    size_t from = world_index(w, wal_first_seq(w->wal)), to;
    uint8_t arg = fuzz_u8(f);
    switch (arg % 8) {
    case 0:
        world_ok(w, wal_mark(w->wal, &w->err));
        break;
    case 1:
        if (w->n_durable <= from) break;
        to = from + arg / 8 % (w->n_durable - from + 1);
        world_ok(w, wal_truncate(w->wal, world_pos(w, to).seq, NULL, &w->err));
        break;
    case 2:
        to = w->n - arg / 8 % (w->n - from + 1);
        world_ok(w, wal_cut(w->wal, world_pos(w, to).seq, &w->err));
        world_forget(w, to);
        w->n_durable = to;
        break;
    case 3:
        reopen(w, f);
        break;
    case 4:
        world_ok(w, world_sync(w));
        break;
    default:
        *term += arg / 8 % 4 == 3;
        if (w->n_tried < MAX_BLOCKS)
            world_ok(w, world_append(w, *term, 1 + arg / 32 % 3,
                                     (size_t)fuzz_u8(f) * (arg & 128 ? 90 : 7)));
    }
}

/* ---- What is on the disk, before the damage */

struct file {
    char path[64];
    uint8_t *data;
    size_t size_bytes;
    bool segment;
    struct segment_header header;
    bool header_hurt, seal_hurt, gone, hurt;
};
struct group_at {
    size_t file;
    uint64_t offset, end; /* of its blocks, padding left out */
    struct group_header header;
    bool header_hurt, hurt;
};
struct image {
    struct file files[MAX_FILES];
    size_t n_files;
    struct group_at groups[MAX_GROUPS];
    size_t n_groups;
    struct manifest manifest;
};

static void note_file(const char *name, void *user) {
    struct image *im = user;
    if (strcmp(name, "LOCK") == 0) return;
    CHECK(im->n_files < MAX_FILES);
    struct file *file = &im->files[im->n_files++];
    snprintf(file->path, sizeof file->path, "log/%s", name);
    file->segment = strlen(name) == 20 && strcmp(name + 16, ".seg") == 0;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const struct file *)a)->path, ((const struct file *)b)->path);
}

static void load_file(const struct disk *disk, struct file *file) {
    struct disk_file *handle;
    uint64_t size;
    CHECK(!disk->open(disk->ctx, file->path, DISK_READ, &handle, NULL));
    CHECK(!disk->size(handle, &size, NULL));
    file->data = malloc(size ? size : 1);
    CHECK(file->data && !disk->read(handle, file->data, size, 0, &file->size_bytes, NULL));
    disk->close(handle);
}

static struct image *load_image(const struct disk *disk) {
    struct image *im = calloc(1, sizeof *im);
    CHECK(im && !disk->list(disk->ctx, "log", note_file, im, NULL));
    qsort(im->files, im->n_files, sizeof im->files[0], by_path);
    for (size_t i = 0; i < im->n_files; i++) load_file(disk, &im->files[i]);
    return im;
}

static void free_image(struct image *im) {
    for (size_t i = 0; i < im->n_files; i++) free(im->files[i].data);
    free(im);
}

static uint64_t digest(const struct disk *disk) {
    struct image *im = load_image(disk);
    uint64_t sum = 0;
    for (size_t i = 0; i < im->n_files; i++)
        sum = sum * 31 + hash64(im->files[i].data, im->files[i].size_bytes) +
              hash64(im->files[i].path, strlen(im->files[i].path));
    free_image(im);
    return sum;
}

/* The groups of one segment up to the seq where it ends. */
static void find_groups(struct image *im, size_t at, uint64_t last_seq) {
    struct file *file = &im->files[at];
    uint64_t seq = file->header.prev.seq, offset = SEGMENT_DATA_OFFSET;
    while (seq <= last_seq && offset + WAL_PAGE_BYTES <= file->size_bytes) {
        struct group_at g = {.file = at, .offset = offset};
        if (!group_decode(file->data + offset, &g.header) || g.header.first_seq != seq + 1 ||
            g.header.offset != offset || g.header.segment != file->header.number)
            break;
        if (seq == last_seq && g.header.n_blocks) break; /* cut off */
        g.end = offset + GROUP_HEADER_BYTES;
        for (uint32_t i = 0; i < g.header.n_blocks && seq < last_seq; i++) {
            struct block_header h;
            CHECK(!block_peek(file->data + g.end, file->size_bytes - g.end, &h, NULL));
            seq = block_last_seq(&h);
            g.end += h.length;
        }
        CHECK(im->n_groups < MAX_GROUPS);
        im->groups[im->n_groups++] = g;
        offset += group_padded_bytes(g.header.length);
    }
    CHECK(seq == last_seq);
}

static void understand(struct image *im, const struct world *w) {
    size_t last = SIZE_MAX;
    for (size_t i = 0; i < im->n_files; i++) {
        struct file *file = &im->files[i];
        if (!file->segment) continue;
        CHECK(segment_header_decode(file->data, &file->header));
        if (last != SIZE_MAX) find_groups(im, last, file->header.prev.seq);
        last = i;
    }
    if (last != SIZE_MAX) find_groups(im, last, world_pos(w, w->n).seq);
    CHECK(!manifest_load(w->options.disk, "log", &im->manifest, NULL));
}

/* ---- Damage */

static bool overlap(uint64_t a, uint64_t a_end, uint64_t b, uint64_t b_end) {
    return a < b_end && b < a_end;
}

static void note_damage(struct image *im, size_t at, uint64_t from, uint64_t to) {
    struct file *file = &im->files[at];
    file->hurt = true;
    if (!file->segment) return;
    file->header_hurt |= overlap(from, to, 0, WAL_PAGE_BYTES);
    file->seal_hurt |= overlap(from, to, SEGMENT_SEAL_OFFSET, SEGMENT_DATA_OFFSET);
    for (size_t i = 0; i < im->n_groups; i++) {
        struct group_at *g = &im->groups[i];
        if (g->file != at) continue;
        g->header_hurt |= overlap(from, to, g->offset, g->offset + GROUP_HEADER_BYTES);
        g->hurt |= overlap(from, to, g->offset, g->end);
        /* a file that ends within the page of a header hides it, and all of the group */
        if (to == UINT64_MAX && from < g->offset + WAL_PAGE_BYTES) g->header_hurt = g->hurt = true;
    }
}

static void write_file(const struct disk *disk, const char *path, uint64_t offset, const void *data,
                       size_t n) {
    struct disk_file *handle;
    struct iovec piece = {(void *)data, n};
    CHECK(!disk->open(disk->ctx, path, DISK_WRITE, &handle, NULL));
    CHECK(!disk->write(handle, &piece, 1, offset, NULL) && !disk->sync(handle, NULL));
    disk->close(handle);
}

/* Somewhere in the file, mostly where something is. */
static uint64_t pick_offset(const struct image *im, size_t at, struct fuzz *f) {
    const struct file *file = &im->files[at];
    uint8_t how = fuzz_u8(f);
    uint16_t arg = fuzz_u16(f);
    uint64_t offset = arg;
    if (file->segment && how < 160) {
        size_t n = 0, pick = 0;
        for (size_t i = 0; i < im->n_groups; i++)
            if (im->groups[i].file == at && n++ <= (size_t)how % 16) pick = i;
        if (n)
            offset = im->groups[pick].offset + (how & 16 ? arg % GROUP_HEADER_BYTES : arg % 8192);
    } else if (file->segment && how < 200) {
        offset = (how & 1 ? SEGMENT_SEAL_OFFSET : 0) + arg % 120;
    } else if (how & 1) {
        offset = (uint64_t)arg * 512;
    }
    return file->size_bytes ? offset % file->size_bytes : 0;
}

static void damage(struct image *im, const struct disk *disk, struct fuzz *f) {
    size_t at = fuzz_u8(f) % im->n_files, other;
    struct file *file = &im->files[at];
    uint8_t kind = fuzz_u8(f), bytes[4096];
    uint64_t offset = pick_offset(im, at, f), end;
    size_t n;
    struct disk_file *handle;
    if (file->gone || !file->size_bytes) return;
    switch (kind % 8) {
    default: /* bits */
        n = 1 + kind / 8 % 4;
        if (n > file->size_bytes - offset) n = file->size_bytes - offset;
        for (size_t i = 0; i < n; i++) {
            uint8_t mask = fuzz_u8(f);
            file->data[offset + i] ^= mask ? mask : 1;
        }
        write_file(disk, file->path, offset, file->data + offset, n);
        note_damage(im, at, offset, offset + n);
        break;
    case 4: /* zeroed sectors */
        offset -= offset % 512;
        n = (size_t)512 << (kind / 8 % 4);
        if (n > file->size_bytes - offset) n = file->size_bytes - offset;
        memset(bytes, 0, sizeof bytes);
        memset(file->data + offset, 0, n);
        write_file(disk, file->path, offset, bytes, n);
        note_damage(im, at, offset, offset + n);
        break;
    case 5: /* a sector or page that was meant for another place */
        other = kind / 8 % im->n_files;
        n = kind & 128 ? 4096 : 512;
        offset -= offset % n;
        end = im->files[other].size_bytes;
        if (n > file->size_bytes - offset || end < n) return;
        memcpy(bytes, im->files[other].data + fuzz_u8(f) % (end / n) * n, n);
        if (memcmp(bytes, file->data + offset, n) == 0) return;
        memcpy(file->data + offset, bytes, n);
        write_file(disk, file->path, offset, bytes, n);
        note_damage(im, at, offset, offset + n);
        break;
    case 6: /* cut short */
        CHECK(!disk->open(disk->ctx, file->path, DISK_WRITE, &handle, NULL));
        CHECK(!disk->resize(handle, offset, NULL) && !disk->sync(handle, NULL));
        disk->close(handle);
        file->size_bytes = offset;
        note_damage(im, at, offset, UINT64_MAX);
        break;
    case 7: /* lost */
        CHECK(!disk->unlink(disk->ctx, file->path, NULL));
        file->gone = file->hurt = file->header_hurt = file->seal_hurt = true;
        file->size_bytes = 0;
        note_damage(im, at, 0, UINT64_MAX);
    }
}

/* ---- What must be true */

static const struct image *told; /* what a failure is explained with */

static void expect(bool truth, const char *what, const struct world *w, replog_status status) {
    if (truth) return;
    fprintf(stderr, "%s (status %d: %s); the model ends with seq %llu, the log with %llu\n", what,
            (int)status, status ? w->err.text : "", (unsigned long long)world_pos(w, w->n).seq,
            (unsigned long long)(w->wal ? wal_tail(w->wal).seq : 0));
    for (size_t i = 0; i < told->n_files; i++) {
        const struct file *file = &told->files[i];
        fprintf(stderr, "  %s: %zu bytes, first seq %llu%s%s%s%s\n", file->path, file->size_bytes,
                (unsigned long long)file->header.first_seq, file->hurt ? ", hurt" : "",
                file->header_hurt ? ", header hurt" : "", file->seal_hurt ? ", seal hurt" : "",
                file->gone ? ", gone" : "");
    }
    for (size_t i = 0; i < told->n_groups; i++) {
        const struct group_at *g = &told->groups[i];
        fprintf(stderr, "  group of file %zu at %llu: seq %llu, mark %llu, epoch %llu%s%s\n",
                g->file, (unsigned long long)g->offset, (unsigned long long)g->header.first_seq,
                (unsigned long long)g->header.mark.seq, (unsigned long long)g->header.epoch,
                g->hurt ? ", hurt" : "", g->header_hurt ? ", header hurt" : "");
    }
    abort();
}

/* The seq up to which the open must not lose anything. Whole files at the end that the manifest has
 * not heard of leave no trace when they are lost. */
static uint64_t proven(const struct image *im, const struct world *w) {
    const struct file *last = NULL;
    uint64_t low = world_pos(w, w->n).seq;
    size_t at = 0;
    for (size_t i = im->n_files; i-- > 0 && !last;) {
        const struct file *file = &im->files[i];
        if (!file->segment) continue;
        if (file->gone && file->header.number > im->manifest.last_segment)
            low = file->header.prev.seq;
        else
            last = &im->files[at = i];
    }
    if (!last) return im->manifest.base.seq;
    uint64_t end = low, seq = last->header.prev.seq;
    struct segment_seal seal;
    for (size_t i = 0; i < im->n_groups; i++) {
        const struct group_at *g = &im->groups[i];
        if (g->file != at) continue;
        if (g->hurt && g->header.first_seq - 1 < low) low = g->header.first_seq - 1;
        if (!g->header_hurt && g->header.mark.seq > seq) seq = g->header.mark.seq;
    }
    bool sealed =
        !last->seal_hurt && !last->header_hurt && last->size_bytes >= SEGMENT_DATA_OFFSET &&
        segment_seal_decode(last->data + SEGMENT_SEAL_OFFSET, &last->header, &seal, NULL, NULL);
    if (sealed || last->header.number == im->manifest.cut.segment) low = end;
    return low > seq ? low : seq;
}

/* Reads from the first seq on. */
static void check_read(struct image *im, struct world *w, size_t n) {
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    size_t i = world_index(w, wal_first_seq(w->wal)), from = i;
    replog_status status = wal_reader_open(w->wal, wal_first_seq(w->wal), &reader, &w->err);
    for (; !status; i++) {
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &w->err);
        if (status) break;
        expect(i < n, "more blocks than there are", w, status);
        expect(h.length == w->blocks[i].h.length &&
                   memcmp(bytes, w->blocks[i].blob->data, h.length) == 0,
               "another block than was written", w, status);
    }
    wal_reader_close(reader);
    if (status == REPLOG_NOT_FOUND) {
        expect(i == n, "the end comes too early", w, status);
        return;
    }
    expect(status == REPLOG_DATA_LOSS && strstr(w->err.text, ".seg: offset"),
           "a loss that is not named", w, status);
    for (size_t k = 0; k < im->n_groups; k++) {
        const struct group_at *g = &im->groups[k];
        if (!g->hurt && !im->files[g->file].hurt) continue;
        expect(world_pos(w, i).seq + 1 >= g->header.first_seq || i > from ||
                   g->header.first_seq <= wal_first_seq(w->wal),
               "lost before the damage", w, status);
        break;
    }
}

static void check_opened(struct image *im, struct world *w, size_t *n) {
    struct wal_pos tail = wal_tail(w->wal);
    *n = 0;
    while (*n < w->n && block_last_seq(&w->blocks[*n].h) <= tail.seq) ++*n;
    struct wal_pos want = world_pos(w, *n);
    expect(tail.seq == want.seq && tail.chain == want.chain && tail.term == want.term,
           "the tail is not the end of a block of the model", w, REPLOG_OK);
    expect(tail.seq >= proven(im, w), "lost what was proven", w, REPLOG_OK);
    check_read(im, w, *n);
}

static void go_on(struct world *w, size_t n) {
    world_forget(w, n);
    for (int i = 0; i < 2; i++) {
        world_ok(w, world_append(w, 1000, 1 + (uint32_t)i, 500));
        world_ok(w, world_sync(w));
    }
    wal_close(w->wal);
    w->wal = NULL;
    disk_mem_crash(w->mem, DISK_LOSE_ALL, 1);
    world_ok(w, world_open(w));
    world_assert_pos(wal_tail(w->wal), world_pos(w, w->n));
    world_read(w, w->blocks[n].h.first_seq, n, w->n);
}

static void check(struct image *im, struct world *w) {
    const struct disk *disk = w->options.disk;
    uint64_t before = digest(disk);
    w->options.create = false;
    w->options.read_only = true;
    replog_status status = world_open(w), again;
    size_t n = 0, n_again = 0;
    if (!status) check_opened(im, w, &n);
    wal_close(w->wal);
    expect(digest(disk) == before, "a read-only open changed something", w, status);
    w->options.read_only = false;
    again = world_open(w);
    expect(again == status, "read-only says otherwise", w, again);
    if (again) {
        bool by_name = strstr(w->err.text, "log") != NULL;
        bool known = again == REPLOG_DATA_LOSS || again == REPLOG_FAILED_PRECONDITION ||
                     again == REPLOG_NOT_FOUND;
        expect(by_name && known, "refused without a name", w, again);
        expect(digest(disk) == before, "a refusal changed something", w, again);
        return;
    }
    check_opened(im, w, &n_again);
    expect(n == n_again, "read-only shows something else", w, again);
    go_on(w, n);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    return setenv("CMOCKA_TEST_ABORT", "1", 1); /* a failed assert_* aborts */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    struct world *w = world_new();
    uint64_t term = 1;
    world_ok(w, world_open(w));
    uint8_t n_ops = fuzz_u8(&f) % MAX_OPS, n_damages = 1 + fuzz_u8(&f) % MAX_DAMAGES;
    for (uint8_t i = 0; i < n_ops && f.left; i++) live_once(w, &f, &term);
    world_check(w);
    wal_close(w->wal);
    w->wal = NULL;
    struct image *im = load_image(w->options.disk);
    told = im;
    understand(im, w);
    for (uint8_t i = 0; i < n_damages && (i == 0 || f.left); i++) damage(im, w->options.disk, &f);
    check(im, w);
    free_image(im);
    world_free(w);
    return 0;
}

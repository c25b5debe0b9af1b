/* A log's directory made of the input's bytes: pieces of MANIFEST, VOTE and segment files, in which
 * the harness can set every hash right, so that what is read behind the hashes is reached. Anything
 * may be refused. What opens is a log: from its first seq to its tail whole blocks that continue
 * seq, chain and term; it can be read from every block; it shows the same after another open, takes
 * more, and can be cut and truncated.
 *
 *   input: flags (1), then pieces: file (1), offset / 16 (2), length (1), bytes
 *   file: 0 MANIFEST, 1 VOTE, 2 + k: the k-th of 6 segments, 8: a spare */
#include "fuzz.h"

#include "base/hash.h"
#include "wal/log_impl.h"

enum { N_FILES = 9, MAX_FILE_BYTES = 128 << 10, MAX_BLOCKS = 4096 };
enum {
    FIX_MANIFEST = 1,
    FIX_VOTE = 2,
    FIX_HEADERS = 4,
    FIX_SEALS = 8,
    FIX_GROUPS = 16,
    FIX_BLOCKS = 32
};

struct image {
    uint8_t *data[N_FILES];
    size_t size_bytes[N_FILES];
};

static void put_piece(struct image *im, struct fuzz *f) {
    size_t at = fuzz_u8(f) % N_FILES, offset = (size_t)fuzz_u16(f) * 16 % MAX_FILE_BYTES;
    struct slice bytes = fuzz_bytes(f, fuzz_u8(f));
    if (offset + bytes.size_bytes > MAX_FILE_BYTES) return;
    if (!im->data[at]) {
        im->data[at] = calloc(1, MAX_FILE_BYTES);
        CHECK(im->data[at] != NULL);
    }
    if (bytes.size_bytes) memcpy(im->data[at] + offset, bytes.data, bytes.size_bytes);
    if (offset + bytes.size_bytes > im->size_bytes[at])
        im->size_bytes[at] = offset + bytes.size_bytes;
}

static void fix(uint8_t *data, size_t from, size_t size_bytes) {
    put_u64(data + from, hash64(data + from + 8, size_bytes - 8));
}

/* Blocks of a group, in order; each hash, and with the next block's chain. */
static uint64_t fix_blocks(uint8_t *data, size_t at, size_t end, uint64_t chain) {
    while (at + BLOCK_HEADER_BYTES <= end) {
        uint32_t length = get_u32(data + at + 16);
        if (memcmp(data + at + 8, "RLB1", 4) != 0 || length < BLOCK_HEADER_BYTES ||
            length > end - at)
            break;
        put_u64(data + at + 72, chain);
        fix(data, at, length);
        chain = get_u64(data + at);
        at += length;
    }
    return chain;
}

static void fix_segment(uint8_t *data, size_t size_bytes, uint8_t flags) {
    if (size_bytes < SEGMENT_DATA_OFFSET) return;
    if (flags & FIX_HEADERS) fix(data, 0, WAL_PAGE_BYTES);
    if (flags & FIX_SEALS) {
        put_u64(data + SEGMENT_SEAL_OFFSET + 24, get_u64(data));
        fix(data, SEGMENT_SEAL_OFFSET, SEGMENT_SEAL_BYTES);
    }
    uint64_t chain = get_u64(data + 64);
    for (size_t at = SEGMENT_DATA_OFFSET; at + WAL_PAGE_BYTES <= size_bytes; at += WAL_PAGE_BYTES) {
        if (memcmp(data + at + 8, "RLG1", 4) != 0) continue;
        uint64_t length = get_u32(data + at + 16), end = at + GROUP_HEADER_BYTES + length;
        if (end > size_bytes) end = size_bytes;
        if (flags & FIX_BLOCKS) chain = fix_blocks(data, at + GROUP_HEADER_BYTES, end, chain);
        if (flags & FIX_GROUPS) fix(data, at, GROUP_HEADER_BYTES);
    }
}

static void fix_all(struct image *im, uint8_t flags) {
    for (size_t i = 0; i < N_FILES; i++) {
        uint8_t *data = im->data[i];
        size_t n = im->size_bytes[i];
        if (!data) continue;
        if (i == 0 && flags & FIX_MANIFEST && n >= 20) {
            put_u32(data + 16, (uint32_t)n);
            fix(data, 0, n);
        }
        for (size_t slot = 0; i == 1 && flags & FIX_VOTE && slot + 4096 <= n; slot += 4096)
            fix(data, slot, 4096);
        if (i >= 2 && i < 8) fix_segment(data, n, flags);
    }
}

static void write_image(const struct disk *disk, struct image *im) {
    CHECK(!disk->make_dir(disk->ctx, "log", NULL));
    for (size_t i = 0; i < N_FILES; i++) {
        char path[64];
        struct disk_file *file;
        if (!im->data[i]) continue;
        snprintf(path, sizeof path,
                 i == 0   ? "log/MANIFEST"
                 : i == 1 ? "log/VOTE"
                 : i == 8 ? "log/spare-%016zx"
                          : "log/%016zx.seg",
                 i - 1);
        struct iovec piece = {im->data[i], im->size_bytes[i]};
        CHECK(!disk->open(disk->ctx, path, DISK_CREATE, &file, NULL));
        CHECK(!disk->write(file, &piece, 1, 0, NULL) && !disk->sync(file, NULL));
        disk->close(file);
        free(im->data[i]);
    }
}

/* ---- What opens is a log */

static bool loss(replog_status status, const replog_error *err) {
    if (status != REPLOG_DATA_LOSS) fprintf(stderr, "status %d: %s\n", (int)status, err->text);
    CHECK(status == REPLOG_DATA_LOSS); /* a sealed segment's groups are not read at open */
    return true;
}

static uint64_t ends[MAX_BLOCKS]; /* of the blocks that were read last */
static size_t n_ends;

/* Reads from `seq` to the tail; false: damage was found on the way. */
static bool read_from(struct wal *wal, uint64_t seq, size_t max, bool note) {
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    replog_error err = {0};
    struct wal_pos pos = {0}, tail = wal_tail(wal), base = wal_base(wal);
    replog_status status = wal_reader_open(wal, seq, &reader, &err);
    if (status != REPLOG_OK) return !loss(status, &err);
    size_t n = 0;
    for (; n < max; n++) {
        status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, &err);
        if (status != REPLOG_OK) break;
        struct block_header again;
        CHECK(!block_check(bytes, h.length, &again, NULL) && again.hash == h.hash);
        if (n == 0) CHECK(h.first_seq <= seq && block_last_seq(&h) >= seq);
        if (n == 0 && seq == base.seq + 1)
            CHECK(h.prev_chain == base.chain || base.seq != h.first_seq - 1);
        if (n > 0)
            CHECK(h.first_seq == pos.seq + 1 && h.prev_chain == pos.chain && h.term >= pos.term);
        pos = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
        if (note && n_ends < MAX_BLOCKS) ends[n_ends++] = pos.seq;
    }
    wal_reader_close(reader);
    if (n == max) return true;
    if (status != REPLOG_NOT_FOUND) return !loss(status, &err);
    CHECK(n == 0 ? seq == tail.seq + 1
                 : pos.seq == tail.seq && pos.chain == tail.chain && pos.term == tail.term);
    return true;
}

static bool is_log(struct wal *wal) {
    struct wal_pos base = wal_base(wal), tail = wal_tail(wal);
    struct wal_term_run runs[64];
    CHECK(tail.seq >= base.seq && wal_first_seq(wal) == base.seq + 1);
    size_t n_runs = wal_term_runs(wal, runs, 64);
    for (size_t i = 1; i < n_runs && i < 64; i++)
        CHECK(runs[i].first_seq > runs[i - 1].first_seq && runs[i].term > runs[i - 1].term);
    n_ends = 0;
    if (!read_from(wal, base.seq + 1, SIZE_MAX, true)) return false;
    bool whole = true;
    for (size_t i = 0; i < n_ends; i += 1 + i / 4) {
        struct wal_pos pos;
        whole = read_from(wal, ends[i], 2, false) && whole;
        if (wal_pos_at(wal, ends[i], &pos, NULL) == REPLOG_OK) CHECK(pos.seq == ends[i]);
    }
    return whole;
}

static struct wal_pos add_block(struct wal *wal, uint64_t term) {
    struct block_builder b;
    struct wal_pos tail = wal_tail(wal);
    struct block_header h = {.first_seq = tail.seq + 1, .term = term, .prev_chain = tail.chain};
    block_begin(&b);
    CHECK(!block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)"k", 1}, (struct slice){0},
                     NULL));
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    struct slice piece = {blob->data, h.length};
    replog_error err;
    replog_status status = wal_append(wal, &piece, 1, NULL, &err);
    if (status == REPLOG_OK) status = wal_sync(wal, &err);
    /* a seq at the end of numbers is no block */
    if (status != REPLOG_OK && h.first_seq < UINT64_MAX - 1)
        fprintf(stderr, "append: %s\n", err.text);
    CHECK(status == REPLOG_OK || h.first_seq >= UINT64_MAX - 1);
    blob_unref(blob);
    return status == REPLOG_OK ? (struct wal_pos){h.first_seq, term, h.hash} : tail;
}

static void same(struct wal_pos a, struct wal_pos b) {
    CHECK(a.seq == b.seq && a.term == b.term && a.chain == b.chain);
}

static struct wal *must_open(const struct wal_options *options) {
    struct wal *wal = NULL;
    replog_error err;
    replog_status status = wal_open(options, &wal, &err);
    if (status != REPLOG_OK) fprintf(stderr, "opened before, and now: %s\n", err.text);
    CHECK(status == REPLOG_OK);
    return wal;
}

static void use(const struct wal_options *options, struct wal *wal, uint8_t flags) {
    struct wal_pos tail = wal_tail(wal), durable = wal_durable(wal);
    bool whole = is_log(wal);
    same(tail, durable);
    tail = add_block(wal, tail.term < UINT64_MAX ? tail.term + 1 : tail.term);
    wal_close(wal);
    wal = must_open(options);
    same(tail, wal_tail(wal));
    if (whole) CHECK(is_log(wal));
    replog_error err;
    if (whole && n_ends && flags & 64) {
        same(wal_tail(wal), tail);
        CHECK(!wal_cut(wal, ends[0], &err));
        tail = wal_tail(wal);
        CHECK(tail.seq == ends[0]);
    }
    if (whole && flags & 128) {
        replog_status status = wal_truncate(wal, wal_tail(wal).seq, NULL, &err);
        CHECK(status == REPLOG_OK && wal_base(wal).seq == wal_tail(wal).seq);
    }
    wal_close(wal);
    wal = must_open(options);
    same(tail, wal_tail(wal));
    if (whole) CHECK(is_log(wal));
    wal_close(wal);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    struct image im = {0};
    uint8_t flags = fuzz_u8(&f);
    while (f.left > 4) put_piece(&im, &f);
    fix_all(&im, flags);
    uint64_t member = im.data[0] && im.size_bytes[0] >= 40 ? get_u64(im.data[0] + 32) : 0;
    struct disk_mem *mem = disk_mem_new(0);
    write_image(disk_mem_table(mem), &im);
    struct wal_options options = {.disk = disk_mem_table(mem),
                                  .dir = "log",
                                  .member_id = member,
                                  .segment_bytes = 64 << 10,
                                  .read_only = true};
    struct wal *wal = NULL;
    replog_error err;
    replog_status status = wal_open(&options, &wal, &err);
    if (status == REPLOG_OK) is_log(wal);
    wal_close(wal);
    options.read_only = false;
    struct wal *again = NULL;
    replog_status write_status = wal_open(&options, &again, &err);
    if (write_status != REPLOG_OK && status == REPLOG_OK)
        fprintf(stderr, "for writing: %s\n", err.text);
    CHECK((write_status == REPLOG_OK) == (status == REPLOG_OK));
    if (write_status == REPLOG_OK) use(&options, again, flags);
    disk_mem_free(mem);
    fuzz_accepted(status == REPLOG_OK);
    return 0;
}

/* MANIFEST and VOTE, and the markers that they and the log hold, and the store's entries of
 * sessions. Byte 0: which one; byte 1: whether hash and length are set right.
 *
 * What is accepted is stored again, read again, and says the same; the directory opens with the
 * identity that the manifest names, or is refused by name. */
#include "base/hash.h"
#include "fuzz.h"
#include "node/session.h"
#include "wal/manifest.h"
#include "wal/vote.h"

static void write_file(const struct disk *disk, const char *path, const void *data, size_t n) {
    struct disk_file *file;
    struct iovec piece = {(void *)data, n};
    CHECK(!disk->open(disk->ctx, path, DISK_CREATE, &file, NULL));
    CHECK(!disk->write(file, &piece, 1, 0, NULL) && !disk->sync(file, NULL));
    disk->close(file);
}

static void same_manifest(const struct manifest *a, const struct manifest *b) {
    CHECK(memcmp(&a->identity, &b->identity, sizeof a->identity) == 0 && a->epoch == b->epoch);
    CHECK(memcmp(&a->base, &b->base, sizeof a->base) == 0 && a->last_segment == b->last_segment);
    CHECK(memcmp(&a->cut, &b->cut, sizeof a->cut) == 0);
    CHECK(a->config.n_members == b->config.n_members);
    for (uint32_t i = 0; i < a->config.n_members; i++) {
        const struct config_member *x = &a->config.members[i], *y = &b->config.members[i];
        CHECK(x->id == y->id && x->incarnation == y->incarnation && x->role == y->role);
        CHECK(strcmp(x->address, y->address) == 0);
    }
}

/* Each returns whether what it was given was accepted. */

static bool manifest(const struct disk *disk, uint8_t *bytes, size_t n, bool fix) {
    struct manifest m, again;
    replog_error err;
    bool renamed;
    if (fix && n >= 20) {
        put_u32(bytes + 16, (uint32_t)n);
        put_u64(bytes, hash64(bytes + 8, n - 8));
    }
    CHECK(!disk->make_dir(disk->ctx, "log", NULL));
    write_file(disk, "log/MANIFEST", bytes, n);
    replog_status status = manifest_load(disk, "log", &m, &err);
    CHECK(status == REPLOG_OK ||
          (status == REPLOG_DATA_LOSS && strstr(err.text, "log/MANIFEST: offset")));
    uint8_t vote[8192] = {0};
    for (size_t at = 0; at < sizeof vote; at += 4096) {
        memcpy(vote + at + 8, "RLV1", 4);
        put_u16(vote + at + 12, 1);
        put_u64(vote + at + 24, status ? 1 : m.identity.incarnation);
        put_u64(vote + at, hash64(vote + at + 8, 4088));
    }
    write_file(disk, "log/VOTE", vote, sizeof vote);
    struct wal_options options = {.disk = disk,
                                  .dir = "log",
                                  .member_id = status ? 7 : m.identity.member_id,
                                  .segment_bytes = 65536};
    struct wal *wal = NULL;
    replog_status open_status = wal_open(&options, &wal, &err);
    if (open_status != REPLOG_OK) {
        CHECK(strstr(err.text, "log") != NULL);
        CHECK(status == REPLOG_OK || open_status == status);
        return false;
    }
    CHECK(status == REPLOG_OK);
    struct wal_identity id = wal_identity(wal);
    CHECK(memcmp(&id, &m.identity, sizeof id) == 0);
    CHECK(wal_tail(wal).seq == m.base.seq && wal_base(wal).chain == m.base.chain);
    wal_close(wal);
    CHECK(!manifest_store(disk, "log", &m, &renamed, &err) && renamed);
    CHECK(!manifest_load(disk, "log", &again, &err));
    same_manifest(&m, &again);
    return true;
}

static bool vote(const struct disk *disk, uint8_t *bytes, size_t n, bool fix) {
    struct vote_file v = {0}, again = {0};
    replog_error err;
    for (size_t at = 0; fix && at + 4096 <= n; at += 4096)
        put_u64(bytes + at, hash64(bytes + at + 8, 4088));
    write_file(disk, "VOTE", bytes, n);
    replog_status status = vote_load(disk, "VOTE", false, &v, &err);
    CHECK(status == REPLOG_OK || status == REPLOG_DATA_LOSS);
    if (status == REPLOG_OK) {
        struct wal_vote next = {v.vote.term + 1, 3};
        CHECK(!vote_save(&v, v.vote, &err) && !vote_save(&v, next, &err));
        CHECK(!vote_load(disk, "VOTE", true, &again, &err));
        /* a counter that begins anew is no vote of this program's */
        CHECK((again.vote.term == next.term && again.vote.voted_for == 3) || v.counter < 2);
    }
    vote_close(&v);
    return status == REPLOG_OK;
}

static bool markers(const uint8_t *bytes, size_t n) {
    struct slice value = {bytes, n};
    struct checkpoint_marker checkpoint;
    static struct config config, again;
    replog_error err;
    bool is_checkpoint = !checkpoint_decode(value, &checkpoint, &err);
    if (is_checkpoint) {
        uint8_t out[16];
        checkpoint_encode(&checkpoint, out);
        CHECK(n == 16 && memcmp(out, bytes, 16) == 0);
    }
    bool is_config = !config_decode(value, &config, &err);
    if (is_config) {
        struct buffer out = {0};
        config_encode(&config, &out);
        CHECK(out.size_bytes == n && (n == 0 || memcmp(out.data, bytes, n) == 0));
        CHECK(!config_decode((struct slice){out.data, out.size_bytes}, &again, &err));
        CHECK(config_cluster_id(&config) == config_cluster_id(&again));
        buffer_free(&out);
    }
    return is_checkpoint || is_config;
}

static bool session(struct fuzz *f) {
    struct session_table *t = session_table_new(0);
    replog_error err;
    CHECK(t != NULL);
    bool accepted = false;
    for (int i = 0; i < 8 && f->left > 0; i++) {
        uint64_t id = fuzz_u8(f) % 4;
        struct slice value = fuzz_bytes(f, (size_t)24 * (fuzz_u8(f) % 8));
        size_t before = session_table_count(t);
        replog_status status = session_decode(t, id, value, &err);
        CHECK(session_table_count(t) == before + (status == REPLOG_OK));
        accepted |= status == REPLOG_OK;
        struct buffer out = {0};
        if (status == REPLOG_OK && session_encode(t, id, &out)) CHECK(out.size_bytes % 24 == 0);
        buffer_free(&out);
        struct session_answer answer;
        uint64_t expected;
        session_check(t, id, fuzz_u64(f), fuzz_u64(f), &answer, &expected);
        struct block_header h = {
            .first_seq = 1 + fuzz_u8(f), .n_records = 1, .session = id, .session_seq = expected};
        if (status == REPLOG_OK) session_append(t, &h, false);
        session_cut(t, fuzz_u8(f));
        session_evict(t, UINT64_MAX, NULL, NULL);
    }
    struct session_table *copy = session_table_copy(t);
    CHECK(copy && session_table_count(copy) == session_table_count(t));
    session_table_free(copy);
    session_table_free(t);
    return accepted;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    uint8_t kind = fuzz_u8(&f);
    bool fix = fuzz_u8(&f) & 1, accepted = false;
    struct disk_mem *mem = disk_mem_new(0);
    uint8_t *bytes = fuzz_exact(f.data, f.left);
    if (kind % 4 == 0) accepted = manifest(disk_mem_table(mem), bytes, f.left, fix);
    if (kind % 4 == 1) {
        /* two pages, so that short inputs say something: what is given stands in both */
        uint8_t pages[8192] = {0};
        size_t n = f.left < 4096 ? f.left : 4096;
        if (n) memcpy(pages, bytes, n);
        if (n) memcpy(pages + 4096, bytes + (f.left - n), n);
        accepted = vote(disk_mem_table(mem), pages, kind & 8 ? 4096 : 8192, fix);
    }
    if (kind % 4 == 2) accepted = markers(bytes, f.left);
    if (kind % 4 == 3) accepted = session(&f);
    free(bytes);
    disk_mem_free(mem);
    fuzz_accepted(accepted);
    return 0;
}

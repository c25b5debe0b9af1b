/* The file VOTE (vote.h). */
#include "wal/vote.h"

#include "base/error.h"
#include "base/hash.h"
#include "base/mutant.h"

enum { SLOT_BYTES = 4096 };

static const uint8_t magic[4] = {'R', 'L', 'V', '1'};

struct slot {
    uint64_t counter, incarnation;
    struct wal_vote vote;
};

static void encode(const struct slot *slot, uint8_t page[SLOT_BYTES]) {
    memset(page, 0, SLOT_BYTES);
    memcpy(page + 8, magic, 4);
    put_u16(page + 12, 1);
    put_u64(page + 16, slot->counter);
    put_u64(page + 24, slot->incarnation);
    put_u64(page + 32, slot->vote.term);
    put_u64(page + 40, slot->vote.voted_for);
    put_u64(page, hash64(page + 8, SLOT_BYTES - 8));
}

static bool decode(const uint8_t page[SLOT_BYTES], struct slot *slot) {
    if (memcmp(page + 8, magic, 4) != 0 || get_u16(page + 12) != 1) return false;
    if (get_u64(page) != hash64(page + 8, SLOT_BYTES - 8)) return false;
    *slot = (struct slot){
        get_u64(page + 16), get_u64(page + 24), {get_u64(page + 32), get_u64(page + 40)}};
    return true;
}

static replog_status write_slots(const struct disk *disk, struct disk_file *file,
                                 uint64_t first_slot, const struct slot *slot, replog_error *err) {
    uint8_t page[SLOT_BYTES];
    encode(slot, page);
    replog_status status = REPLOG_OK;
    for (uint64_t i = 0; i < 2 && !status; i++) {
        struct iovec piece = {page, SLOT_BYTES};
        status = disk->write(file, &piece, 1, (i ^ first_slot) * SLOT_BYTES, err);
        if (!status && !MUTANT(VOTE_NOT_SYNCED)) status = disk->sync(file, err);
    }
    return status;
}

replog_status vote_create(const struct disk *disk, const char *path, uint64_t incarnation,
                          replog_error *err) {
    struct disk_file *file = NULL;
    replog_error why;
    replog_status status = disk->open(disk->ctx, path, DISK_CREATE, &file, &why);
    if (status == REPLOG_ALREADY_EXISTS)
        status = disk->open(disk->ctx, path, DISK_WRITE, &file, &why);
    if (status) return error_set(err, status, "%s", why.text);
    struct slot slot = {.counter = 1, .incarnation = incarnation};
    status = disk->resize(file, 0, err);
    if (!status) status = write_slots(disk, file, 0, &slot, err);
    disk->close(file);
    return status;
}

replog_status vote_load(const struct disk *disk, const char *path, bool read_only,
                        struct vote_file *vote, replog_error *err) {
    struct disk_file *file = NULL;
    uint8_t pages[2 * SLOT_BYTES];
    size_t got = 0;
    replog_status status =
        disk->open(disk->ctx, path, read_only ? DISK_READ : DISK_WRITE, &file, err);
    if (status) return status;
    struct slot slots[2];
    status = disk->read(file, pages, sizeof pages, 0, &got, err);
    if (status) goto out;
    bool valid[2];
    for (size_t i = 0; i < 2; i++)
        valid[i] = got >= (i + 1) * SLOT_BYTES && decode(pages + i * SLOT_BYTES, &slots[i]);
    if (!valid[0] && !valid[1]) {
        status = error_set(err, REPLOG_DATA_LOSS,
                           "%s: offset 0 and offset %d: both copies of term and vote are damaged; "
                           "they are not guessed, and this member must not vote again",
                           path, SLOT_BYTES);
        goto out;
    }
    size_t best = valid[1] && (!valid[0] || slots[1].counter > slots[0].counter);
    *vote = (struct vote_file){
        disk, NULL, slots[best].incarnation, slots[best].counter, 1 - best, slots[best].vote};
    if (!read_only) {
        vote->file = file;
        file = NULL;
    }
out:
    if (file) disk->close(file);
    return status;
}

replog_status vote_save(struct vote_file *vote, struct wal_vote value, replog_error *err) {
    struct slot slot = {++vote->counter, vote->incarnation, value};
    return write_slots(vote->disk, vote->file, vote->first_slot, &slot, err);
}

void vote_close(struct vote_file *vote) {
    if (vote->file) vote->disk->close(vote->file);
    vote->file = NULL;
}

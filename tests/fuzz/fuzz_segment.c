/* The fixed parts of segment files: group header, header page, seal. Byte 0: which one, and whether
 * its hash is set right. What is accepted is what the encoder writes: encoded again it says the
 * same. */
#include "base/hash.h"
#include "fuzz.h"
#include "wal/segment.h"

static void group(uint8_t *page, bool fix) {
    struct group_header h, again;
    uint8_t out[GROUP_HEADER_BYTES];
    if (fix) put_u64(page, hash64(page + 8, GROUP_HEADER_BYTES - 8));
    if (!group_decode(page, &h)) return;
    group_encode(&h, out);
    CHECK(group_decode(out, &again) && memcmp(&h, &again, sizeof h) == 0);
}

static bool header_page(uint8_t *page, bool fix, struct segment_header *h) {
    uint8_t out[WAL_PAGE_BYTES];
    if (fix) put_u64(page, hash64(page + 8, WAL_PAGE_BYTES - 8));
    if (!segment_header_decode(page, h)) return false;
    struct segment_header made = *h, again;
    segment_header_encode(&made, out);
    CHECK(segment_header_decode(out, &again));
    CHECK(again.first_seq == h->first_seq && again.prev.seq == h->prev.seq &&
          again.prev.chain == h->prev.chain && again.number == h->number &&
          again.epoch == h->epoch);
    return true;
}

static struct segment_index index_of;
static struct wal_term_run runs[SEGMENT_MAX_RUNS];

static void seal(uint8_t *slot, bool fix) {
    struct segment_header h = {
        .number = get_u64(slot + 16), .first_seq = 100, .hash = get_u64(slot + 24)};
    struct segment_seal s, without;
    if (fix) put_u64(slot, hash64(slot + 8, SEGMENT_SEAL_BYTES - 8));
    bool valid = segment_seal_decode(slot, &h, &s, &index_of, runs);
    CHECK(segment_seal_decode(slot, &h, &without, NULL, NULL) == valid);
    if (!valid) return;
    CHECK(s.data_end == without.data_end && s.last.seq == without.last.seq &&
          s.n_runs <= SEGMENT_MAX_RUNS);
    CHECK(s.data_end >= SEGMENT_DATA_OFFSET && s.last.seq + 1 >= h.first_seq);
    for (uint64_t delta = 0; delta < 64; delta++) {
        uint64_t at = index_find(&index_of, delta * delta * delta);
        CHECK(at >= SEGMENT_DATA_OFFSET && at % WAL_PAGE_BYTES == 0);
        CHECK(at == SEGMENT_DATA_OFFSET || at < s.data_end);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    static uint8_t zeros[SEGMENT_SEAL_BYTES];
    struct fuzz f = {data, size_bytes};
    uint8_t kind = fuzz_u8(&f);
    bool fix = kind & 1;
    uint8_t *bytes = fuzz_exact(zeros, SEGMENT_SEAL_BYTES);
    /* behind what the input says: entries that are in order, as many as one likes to count */
    for (size_t at = 88; kind & 8 && at + 8 <= SEGMENT_SEAL_BYTES; at += 8)
        put_u32(bytes + at + 4, SEGMENT_DATA_OFFSET);
    if (f.left > 0)
        memcpy(bytes, f.data, f.left < SEGMENT_SEAL_BYTES ? f.left : SEGMENT_SEAL_BYTES);
    struct segment_header h;
    if (kind % 8 / 2 % 3 == 0) group(bytes, fix);
    if (kind % 8 / 2 % 3 == 1) header_page(bytes, fix, &h);
    if (kind % 8 / 2 % 3 == 2) seal(bytes, fix);
    free(bytes);
    return 0;
}

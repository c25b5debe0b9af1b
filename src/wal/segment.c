/* Header page, seal and sparse index of a segment file (segment.h). */
#include "wal/segment.h"

#include <string.h>

#include "base/hash.h"

enum { SEAL_HEADER_BYTES = 88, ENTRY_BYTES = 8, RUN_BYTES = 12, RUNS_INCOMPLETE = 1 };

_Static_assert(SEAL_HEADER_BYTES + SEGMENT_MAX_ENTRIES * ENTRY_BYTES +
                       SEGMENT_MAX_RUNS * RUN_BYTES <=
                   SEGMENT_SEAL_BYTES,
               "a full seal fits its slot");

static const uint8_t header_magic[4] = {'R', 'L', 'S', '1'};
static const uint8_t seal_magic[4] = {'R', 'L', 'F', '1'};

/* ---- Sparse index */
void index_reset(struct segment_index *index) {
    index->n = 0;
    index->stride_bytes = SEGMENT_FIRST_STRIDE_BYTES;
}

/* Every other entry goes, so that twice as many groups find room. */
static void index_thin(struct segment_index *index) {
    for (uint32_t i = 0; i < index->n / 2; i++) index->entries[i] = index->entries[(size_t)2 * i];
    index->n /= 2;
    index->stride_bytes *= 2;
}

void index_add(struct segment_index *index, uint64_t seq_delta, uint64_t offset) {
    if (seq_delta > UINT32_MAX || offset > UINT32_MAX) return;
    if (index->n && offset - index->entries[index->n - 1].offset < index->stride_bytes) return;
    if (index->n == SEGMENT_MAX_ENTRIES) index_thin(index);
    if (index->n && offset - index->entries[index->n - 1].offset < index->stride_bytes) return;
    index->entries[index->n++] = (struct index_entry){(uint32_t)seq_delta, (uint32_t)offset};
}

uint64_t index_find(const struct segment_index *index, uint64_t seq_delta) {
    uint32_t low = 0, high = index->n;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (index->entries[middle].seq_delta <= seq_delta)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? index->entries[low - 1].offset : SEGMENT_DATA_OFFSET;
}

/* ---- Header page */
void segment_header_encode(struct segment_header *h, uint8_t page[WAL_PAGE_BYTES]) {
    memset(page, 0, WAL_PAGE_BYTES);
    memcpy(page + 8, header_magic, 4);
    put_u16(page + 12, 1);
    put_u64(page + 16, h->cluster_id);
    put_u64(page + 24, h->incarnation);
    put_u64(page + 32, h->epoch);
    put_u64(page + 40, h->number);
    put_u64(page + 48, h->first_seq);
    put_u64(page + 56, h->prev.term);
    put_u64(page + 64, h->prev.chain);
    put_u64(page + 72, h->first_us);
    h->hash = hash64(page + 8, WAL_PAGE_BYTES - 8);
    put_u64(page, h->hash);
}

bool segment_header_decode(const uint8_t page[WAL_PAGE_BYTES], struct segment_header *h) {
    if (memcmp(page + 8, header_magic, 4) != 0 || get_u16(page + 12) != 1) return false;
    uint64_t hash = hash64(page + 8, WAL_PAGE_BYTES - 8);
    uint64_t first_seq = get_u64(page + 48);
    if (get_u64(page) != hash || first_seq == 0) return false;
    *h = (struct segment_header){.cluster_id = get_u64(page + 16),
                                 .incarnation = get_u64(page + 24),
                                 .epoch = get_u64(page + 32),
                                 .number = get_u64(page + 40),
                                 .first_seq = first_seq,
                                 .prev = {first_seq - 1, get_u64(page + 56), get_u64(page + 64)},
                                 .first_us = get_u64(page + 72),
                                 .hash = hash};
    return true;
}

/* ---- Seal */
/* Writes the runs that overlap the segment; more than fit: none, and *incomplete. */
static uint32_t put_runs(const struct term_runs *runs, uint64_t first_seq, uint64_t last_seq,
                         uint8_t *at, bool *incomplete) {
    size_t from = runs_find(runs, first_seq);
    if (from == SIZE_MAX) from = 0;
    uint32_t n = 0;
    for (size_t i = from; i < runs->n && runs->items[i].first_seq <= last_seq; i++) {
        if (n == SEGMENT_MAX_RUNS) {
            memset(at, 0, (size_t)n * RUN_BYTES);
            *incomplete = true;
            return 0;
        }
        uint64_t begin = runs->items[i].first_seq;
        put_u64(at + (size_t)n * RUN_BYTES, runs->items[i].term);
        put_u32(at + (size_t)n * RUN_BYTES + 8,
                begin > first_seq ? (uint32_t)(begin - first_seq) : 0);
        n++;
    }
    return n;
}

void segment_seal_encode(const struct segment_header *header, const struct segment_seal *seal,
                         const struct segment_index *index, const struct term_runs *runs,
                         uint8_t slot[SEGMENT_SEAL_BYTES]) {
    memset(slot, 0, SEGMENT_SEAL_BYTES);
    uint8_t *at = slot + SEAL_HEADER_BYTES;
    uint32_t n_entries = 0;
    for (uint32_t i = 0; i < index->n && index->entries[i].offset < seal->data_end; i++) {
        put_u32(at, index->entries[i].seq_delta);
        put_u32(at + 4, index->entries[i].offset);
        at += ENTRY_BYTES;
        n_entries++;
    }
    bool incomplete = false;
    uint32_t n_runs = put_runs(runs, header->first_seq, seal->last.seq, at, &incomplete);
    memcpy(slot + 8, seal_magic, 4);
    put_u16(slot + 12, 1);
    put_u16(slot + 14, incomplete ? RUNS_INCOMPLETE : 0);
    put_u64(slot + 16, header->number);
    put_u64(slot + 24, header->hash);
    put_u64(slot + 32, seal->data_end);
    put_u64(slot + 40, seal->last.seq);
    put_u64(slot + 48, seal->last.term);
    put_u64(slot + 56, seal->last.chain);
    put_u64(slot + 64, seal->last_us);
    put_u32(slot + 72, n_entries);
    put_u32(slot + 76, n_runs);
    put_u64(slot + 80, index->stride_bytes);
    put_u64(slot, hash64(slot + 8, SEGMENT_SEAL_BYTES - 8));
}

static bool get_entries(const uint8_t *at, uint32_t n, uint64_t data_end,
                        struct segment_index *index) {
    for (uint32_t i = 0; i < n; i++, at += ENTRY_BYTES) {
        struct index_entry e = {get_u32(at), get_u32(at + 4)};
        if (e.offset < SEGMENT_DATA_OFFSET || e.offset % WAL_PAGE_BYTES || e.offset >= data_end)
            return false;
        if (index) index->entries[i] = e;
    }
    return true;
}

/* Terms and seqs rise from where the segment begins to where it ends; no runs only where there is
 * no block. A seal that says otherwise is not believed, and the blocks are read. */
static bool runs_rise(const struct segment_header *header, const struct segment_seal *seal,
                      const uint8_t *at) {
    uint64_t term = header->prev.term, delta = 0, n_seqs = seal->last.seq + 1 - header->first_seq;
    if (seal->runs_incomplete) return seal->n_runs == 0;
    if (seal->n_runs == 0) return n_seqs == 0;
    for (uint32_t i = 0; i < seal->n_runs; i++, at += RUN_BYTES) {
        uint64_t next_term = get_u64(at), next_delta = get_u32(at + 8);
        if (next_term < term || (i > 0 && (next_term == term || next_delta <= delta))) return false;
        if (next_delta > 0 && next_delta >= n_seqs) return false;
        term = next_term;
        delta = next_delta;
    }
    return term == seal->last.term;
}

bool segment_seal_decode(const uint8_t slot[SEGMENT_SEAL_BYTES],
                         const struct segment_header *header, struct segment_seal *seal,
                         struct segment_index *index, struct wal_term_run *runs) {
    if (memcmp(slot + 8, seal_magic, 4) != 0 || get_u16(slot + 12) != 1) return false;
    if (get_u64(slot + 16) != header->number || get_u64(slot + 24) != header->hash) return false;
    if (get_u64(slot) != hash64(slot + 8, SEGMENT_SEAL_BYTES - 8)) return false;
    struct segment_seal s = {.data_end = get_u64(slot + 32),
                             .last = {get_u64(slot + 40), get_u64(slot + 48), get_u64(slot + 56)},
                             .last_us = get_u64(slot + 64),
                             .runs_incomplete = get_u16(slot + 14) & RUNS_INCOMPLETE,
                             .n_runs = get_u32(slot + 76)};
    uint32_t n_entries = get_u32(slot + 72);
    if (n_entries > SEGMENT_MAX_ENTRIES || s.n_runs > SEGMENT_MAX_RUNS) return false;
    if (s.data_end < SEGMENT_DATA_OFFSET || s.last.seq + 1 < header->first_seq) return false;
    const uint8_t *at = slot + SEAL_HEADER_BYTES;
    if (!get_entries(at, n_entries, s.data_end, index)) return false;
    if (index) {
        index->n = n_entries;
        index->stride_bytes = get_u64(slot + 80);
    }
    at += (size_t)n_entries * ENTRY_BYTES;
    if (!runs_rise(header, &s, at)) return false;
    for (uint32_t i = 0; runs && i < s.n_runs; i++, at += RUN_BYTES)
        runs[i] = (struct wal_term_run){get_u64(at), header->first_seq + get_u32(at + 8)};
    *seal = s;
    return true;
}

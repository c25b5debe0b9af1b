/* Group headers and the scanner (group.h). */
#include "wal/group.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/hash.h"

enum { SCAN_WINDOW_BYTES = 256 << 10 };

static const uint8_t group_magic[4] = {'R', 'L', 'G', '1'};

void group_encode(const struct group_header *h, uint8_t out[GROUP_HEADER_BYTES]) {
    memcpy(out + 8, group_magic, 4);
    put_u16(out + 12, 1);
    put_u16(out + 14, 0);
    put_u32(out + 16, h->length);
    put_u32(out + 20, h->n_blocks);
    put_u64(out + 24, h->segment);
    put_u64(out + 32, h->offset);
    put_u64(out + 40, h->epoch);
    put_u64(out + 48, h->incarnation);
    put_u64(out + 56, h->mark.seq);
    put_u64(out + 64, h->mark.term);
    put_u64(out + 72, h->mark.chain);
    put_u64(out + 80, h->first_seq);
    put_u64(out, hash64(out + 8, GROUP_HEADER_BYTES - 8));
}

bool group_decode(const uint8_t in[GROUP_HEADER_BYTES], struct group_header *h) {
    if (memcmp(in + 8, group_magic, 4) != 0 || get_u16(in + 12) != 1) return false;
    if (get_u64(in) != hash64(in + 8, GROUP_HEADER_BYTES - 8)) return false;
    *h = (struct group_header){.length = get_u32(in + 16),
                               .n_blocks = get_u32(in + 20),
                               .segment = get_u64(in + 24),
                               .offset = get_u64(in + 32),
                               .epoch = get_u64(in + 40),
                               .incarnation = get_u64(in + 48),
                               .mark = {get_u64(in + 56), get_u64(in + 64), get_u64(in + 72)},
                               .first_seq = get_u64(in + 80)};
    return true;
}

void scan_seek(struct scan *scan, uint64_t offset) {
    scan->offset = offset;
    scan->blocks_left = 0;
    scan->window_bytes = 0;
    scan->group = (struct group_header){0};
}

void scan_free(struct scan *scan) {
    free(scan->window);
    scan->window = NULL;
    scan->window_capacity = scan->window_bytes = 0;
}

static replog_status grow_window(struct scan *scan, size_t n, replog_error *err) {
    size_t capacity = n < SCAN_WINDOW_BYTES ? SCAN_WINDOW_BYTES : page_align(n);
    if (capacity <= scan->window_capacity) return REPLOG_OK;
    uint8_t *window = realloc(scan->window, capacity);
    if (!window)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED,
                         "no memory for %zu bytes to read %s through", capacity, scan->path.text);
    scan->window = window;
    scan->window_capacity = capacity;
    return REPLOG_OK;
}

replog_status scan_bytes(struct scan *scan, uint64_t offset, size_t n, const uint8_t **bytes,
                         replog_error *err) {
    if (offset > scan->limit || scan->limit - offset < n) return REPLOG_NOT_FOUND;
    uint64_t have_end = scan->window_offset + scan->window_bytes;
    bool inside = offset >= scan->window_offset && offset <= have_end;
    if (!inside || have_end - offset < n) {
        replog_status status = grow_window(scan, n, err);
        if (status) return status;
        size_t kept = inside ? (size_t)(have_end - offset) : 0;
        if (kept) memmove(scan->window, scan->window + (offset - scan->window_offset), kept);
        scan->window_offset = offset;
        scan->window_bytes = kept;
        uint64_t want = scan->limit - offset;
        if (want > scan->window_capacity) want = scan->window_capacity;
        size_t got = (size_t)want - kept;
        if (!scan->recent ||
            !recent_read(scan->recent, scan->segment, offset + kept, scan->window + kept, got))
            status =
                scan->disk->read(scan->file, scan->window + kept, got, offset + kept, &got, err);
        if (status) return status;
        scan->window_bytes += got;
        if (scan->window_bytes < n) return REPLOG_NOT_FOUND;
    }
    *bytes = scan->window + (offset - scan->window_offset);
    return REPLOG_OK;
}

static replog_status damaged(const struct scan *scan, uint64_t offset, const char *what,
                             replog_error *err) {
    return error_set(err, REPLOG_DATA_LOSS, "%s: offset %" PRIu64 ", seq %" PRIu64 ": %s",
                     scan->path.text, offset, scan->pos.seq + 1, what);
}

static const char *group_fault(const struct scan *scan, const struct group_header *h) {
    if (h->segment != scan->segment || h->offset != scan->offset) return "a group of another place";
    if (h->incarnation != scan->incarnation) return "a group of another directory";
    if (h->epoch < scan->epoch) return "a group of an earlier epoch";
    if (scan->chain_known && h->first_seq != scan->pos.seq + 1)
        return "the group does not continue the one before";
    return NULL;
}

replog_status scan_group(struct scan *scan, replog_error *err) {
    const uint8_t *bytes;
    replog_status status = scan_bytes(scan, scan->offset, WAL_PAGE_BYTES, &bytes, err);
    if (status) return status;
    struct group_header header;
    if (!group_decode(bytes, &header))
        return damaged(scan, scan->offset, "no valid group header", err);
    const char *fault = group_fault(scan, &header);
    if (fault) return damaged(scan, scan->offset, fault, err);
    scan->group = header;
    scan->group_offset = scan->offset;
    scan->epoch = header.epoch;
    scan->blocks_left = header.n_blocks;
    if (!scan->chain_known) scan->pos.seq = header.first_seq - 1;
    scan->offset += header.n_blocks ? GROUP_HEADER_BYTES : WAL_PAGE_BYTES;
    if (!header.n_blocks && header.length)
        return damaged(scan, scan->group_offset, "a group without blocks has a length", err);
    return REPLOG_OK;
}

/* The block at scan->offset in full, checked by itself. */
static replog_status load_block(struct scan *scan, struct block_header *header,
                                const uint8_t **bytes, replog_error *err) {
    replog_error why = {REPLOG_OK, ""};
    uint64_t end = scan->group_offset + GROUP_HEADER_BYTES + scan->group.length;
    replog_status status = scan_bytes(scan, scan->offset, BLOCK_HEADER_BYTES, bytes, err);
    if (!status) {
        if (block_peek(*bytes, BLOCK_HEADER_BYTES, header, &why))
            return damaged(scan, scan->offset, why.text, err);
        if (header->length > end - scan->offset)
            return damaged(scan, scan->offset, "the block is longer than its group", err);
        status = scan_bytes(scan, scan->offset, header->length, bytes, err);
    }
    if (status == REPLOG_NOT_FOUND)
        return damaged(scan, scan->offset, "the file ends within a block", err);
    if (status) return status;
    if (block_check(*bytes, header->length, header, &why))
        return damaged(scan, scan->offset, why.text, err);
    return REPLOG_OK;
}

replog_status scan_block(struct scan *scan, struct block_header *header, const uint8_t **bytes,
                         replog_error *err) {
    if (!scan->blocks_left) return REPLOG_NOT_FOUND;
    struct block_header h = {0};
    const uint8_t *found = NULL;
    replog_status status = load_block(scan, &h, &found, err);
    if (status) return status;
    if (h.first_seq != scan->pos.seq + 1)
        return damaged(scan, scan->offset, "the block does not continue the seq", err);
    if (scan->chain_known && (h.prev_chain != scan->pos.chain || h.term < scan->pos.term))
        return damaged(scan, scan->offset, "the block does not continue the chain", err);
    uint64_t end = scan->group_offset + GROUP_HEADER_BYTES + scan->group.length;
    uint64_t next = scan->offset + h.length;
    if (scan->blocks_left == 1 && next != end)
        return damaged(scan, scan->offset, "the blocks do not fill their group", err);
    scan->blocks_left--;
    scan->offset = scan->blocks_left ? next : page_align(next);
    scan->pos = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
    scan->chain_known = true;
    *header = h;
    *bytes = found;
    return REPLOG_OK;
}

replog_status scan_next(struct scan *scan, struct block_header *header, const uint8_t **bytes,
                        replog_error *err) {
    for (;;) {
        replog_status status = scan_block(scan, header, bytes, err);
        if (status != REPLOG_NOT_FOUND) return status;
        status = scan_group(scan, err);
        if (status) return status;
    }
}

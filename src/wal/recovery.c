/* Reading a segment's groups at open and before a cut: where it ends, and whether what is missing
 * behind the end is a torn write or rot.
 *
 * A group is taken as a whole or not at all. What stands behind the last valid group was never
 * acknowledged unless a later group proves otherwise: its mark is a block that was durable when the
 * later group was written. Such a group counts as evidence when its header is valid for this
 * segment, offset and incarnation, and its epoch is not below that of the last valid group (a lower
 * one is a leftover from before an earlier recovery or of a recycled file). Groups lie on page
 * boundaries, so looking at every page finds them whatever happened in between. */
#include <inttypes.h>

#include "base/error.h"
#include "wal/log_impl.h"

static replog_status note_block(struct rescan *rescan, const struct block_header *header,
                                replog_error *err) {
    if (!rescan->runs) return REPLOG_OK;
    if (!runs_reserve(rescan->runs, 1))
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the table of term runs");
    runs_add(rescan->runs, header->term, header->first_seq);
    return REPLOG_OK;
}

static void note_group(struct rescan *rescan, const struct scan *scan, const struct wal_pos *before,
                       uint64_t block_end, uint64_t last_us) {
    struct wal_segment *segment = rescan->segment;
    const struct group_header *group = &scan->group;
    if (group->mark.seq > rescan->marked.seq) rescan->marked = group->mark;
    /* Empty groups behind the last marked block are not proved by the mark. */
    if (group->mark.seq >= before->seq) rescan->rewrite_from = page_align(segment->data_end);
    if (group->n_blocks) {
        index_add(rescan->index, before->seq + 1 - segment->header.first_seq, scan->group_offset);
        segment->last = scan->pos;
        segment->data_end = block_end;
        segment->last_us = last_us;
    }
    segment->write_end = page_align(block_end);
    if (!group->n_blocks) segment->write_end = scan->group_offset + WAL_PAGE_BYTES;
}

/* The blocks of the group under way. *reached: the target was met (and the rest is not read). */
static replog_status read_group(struct rescan *rescan, struct scan *scan, bool *reached,
                                replog_error *err) {
    struct wal_pos before = scan->pos;
    uint64_t block_end = scan->group_offset, last_us = 0;
    for (;;) {
        struct block_header header;
        const uint8_t *bytes;
        uint64_t at = scan->offset;
        replog_status status = scan_block(scan, &header, &bytes, err);
        if (status == REPLOG_NOT_FOUND) break;
        if (!status) status = note_block(rescan, &header, err);
        if (status) return status;
        block_end = at + header.length;
        last_us = header.timestamp_us;
        if (rescan->target && scan->pos.seq >= rescan->target->seq) {
            *reached = true;
            break;
        }
    }
    note_group(rescan, scan, &before, block_end, last_us);
    return REPLOG_OK;
}

static replog_status check_target(const struct rescan *rescan, const struct scan *scan,
                                  replog_error *err) {
    const struct wal_pos *want = rescan->target, *have = &rescan->segment->last;
    if (have->seq == want->seq && have->term == want->term && have->chain == want->chain)
        return REPLOG_OK;
    return error_set(err, REPLOG_DATA_LOSS,
                     "%s: offset %" PRIu64 ", seq %" PRIu64
                     ": the segment should end with seq %" PRIu64 ", term %" PRIu64
                     " and chain %016" PRIx64 ", and has seq %" PRIu64 ", term %" PRIu64
                     " and chain %016" PRIx64,
                     scan->path.text, rescan->segment->data_end, have->seq, want->seq, want->term,
                     want->chain, have->seq, have->term, have->chain);
}

static replog_status old_manifest(const struct wal *wal, const struct scan *scan, uint64_t epoch,
                                  replog_error *err) {
    return error_set(err, REPLOG_DATA_LOSS,
                     "%s: offset %" PRIu64 ", seq %" PRIu64 ": a group of epoch %" PRIu64
                     " beside a manifest of epoch %" PRIu64 ": the manifest is an old copy",
                     scan->path.text, scan->group_offset, scan->pos.seq, epoch,
                     wal->manifest.epoch);
}

/* Looks at every page from the end of what is valid: DATA_LOSS if a mark covers more. */
static replog_status look_behind(struct wal *wal, struct rescan *rescan, struct scan *scan,
                                 uint64_t epoch, const replog_error *fault, replog_error *err) {
    struct wal_segment *segment = rescan->segment;
    uint64_t torn_end = segment->write_end;
    for (uint64_t at = segment->write_end;; at += WAL_PAGE_BYTES) {
        const uint8_t *bytes;
        replog_status status = scan_bytes(scan, at, WAL_PAGE_BYTES, &bytes, err);
        if (status == REPLOG_NOT_FOUND) break;
        if (status) return status;
        struct group_header group;
        if (!group_decode(bytes, &group)) {
            bool header_torn = at == segment->write_end && memcmp(bytes + 8, "RLG1", 4) == 0;
            if (header_torn && at + WAL_PAGE_BYTES > torn_end) torn_end = at + WAL_PAGE_BYTES;
            continue;
        }
        if (group.segment != scan->segment || group.offset != at ||
            group.incarnation != scan->incarnation || group.epoch < epoch)
            continue;
        if (group.epoch > wal->manifest.epoch) return old_manifest(wal, scan, group.epoch, err);
        if (group.mark.seq > segment->last.seq && !MUTANT(ROT_AS_TORN_TAIL))
            return error_set(err, REPLOG_DATA_LOSS,
                             "%s; the group at offset %" PRIu64 " proves that seq %" PRIu64
                             " was durable: this is damage, not a torn write",
                             fault->text, at, group.mark.seq);
        uint64_t end = at + group_padded_bytes(group.length);
        if (end > torn_end) torn_end = end;
    }
    rescan->torn_bytes = torn_end - segment->write_end;
    return REPLOG_OK;
}

static replog_status end_of_log(struct wal *wal, struct rescan *rescan, struct scan *scan,
                                uint64_t epoch, replog_error *fault, replog_error *err) {
    if (fault->status == REPLOG_OK)
        error_set(fault, REPLOG_DATA_LOSS, "%s: offset %" PRIu64 ", seq %" PRIu64 ": the file ends",
                  scan->path.text, rescan->segment->write_end, rescan->segment->last.seq + 1);
    if (rescan->target) return error_set(err, REPLOG_DATA_LOSS, "%s", fault->text);
    return look_behind(wal, rescan, scan, epoch, fault, err);
}

static void rescan_begin(struct wal *wal, struct rescan *rescan, struct scan *scan) {
    struct wal_segment *segment = rescan->segment;
    segment->last = segment->header.prev;
    segment->data_end = segment->write_end = SEGMENT_DATA_OFFSET;
    segment->last_us = segment->header.first_us;
    rescan->marked = segment->header.prev;
    rescan->rewrite_from = SEGMENT_DATA_OFFSET;
    rescan->torn_bytes = 0;
    index_reset(rescan->index);
    *scan = (struct scan){.disk = wal->disk,
                          .file = rescan->file,
                          .segment = segment->header.number,
                          .incarnation = segment->header.incarnation,
                          .epoch = segment->header.epoch,
                          .limit = segment->file_bytes,
                          .pos = segment->header.prev,
                          .chain_known = true};
    wal_segment_path(wal, segment->header.number, &scan->path);
    scan_seek(scan, SEGMENT_DATA_OFFSET);
}

replog_status wal_rescan(struct wal *wal, struct rescan *rescan, replog_error *err) {
    struct scan scan;
    rescan_begin(wal, rescan, &scan);
    replog_status status = REPLOG_OK;
    replog_error fault = {REPLOG_OK, ""};
    bool reached = rescan->target && rescan->target->seq <= scan.pos.seq;
    uint64_t epoch = scan.epoch; /* of the last valid group */
    while (!status && !reached) {
        size_t n_runs = rescan->runs ? rescan->runs->n : 0;
        status = scan_group(&scan, &fault);
        if (!status) status = read_group(rescan, &scan, &reached, &fault);
        if (!status) {
            epoch = scan.epoch;
        } else if (status == REPLOG_NOT_FOUND || status == REPLOG_DATA_LOSS) {
            if (rescan->runs) rescan->runs->n = n_runs;
            status = end_of_log(wal, rescan, &scan, epoch, &fault, err);
            break;
        } else if (err) {
            *err = fault;
        }
    }
    if (!status && epoch > wal->manifest.epoch) status = old_manifest(wal, &scan, epoch, err);
    if (!status && rescan->target) status = check_target(rescan, &scan, err);
    scan_free(&scan);
    return status;
}

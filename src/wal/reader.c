/* Readers. A reader holds one segment's file and walks its groups through a window, which close
 * behind the tail is filled from memory (recent.h); what it may read is bounded by the written
 * tail, which it takes from the log under the mutex. Cuts and truncations raise a counter that
 * every call looks at. A segment file that is being read stays open until its last reader leaves
 * it, even if it is unlinked meanwhile; it is not recycled. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "wal/log_impl.h"

struct wal_reader {
    struct wal *wal;
    struct wal_segment *segment; /* NULL: to be found again from pos */
    struct scan scan;
    struct wal_pos pos;     /* the last block that was given out; the next one follows it */
    bool chain_known;       /* false until the first block was read */
    uint64_t segment_last;  /* last seq of the segment when its bounds were taken */
    uint64_t changes, cuts; /* of the log, when they were last looked at */
    bool held;              /* a block was read and not yet given out */
    struct block_header block;
    const uint8_t *bytes;
};

/* ---- Segments' users */
struct wal_segment *wal_find_segment(const struct wal *wal, uint64_t seq) {
    size_t low = 0, high = wal->n_segments;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (wal->segments[middle]->header.first_seq <= seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? wal->segments[low - 1] : NULL;
}

struct disk_file *wal_release(struct wal_segment *segment) {
    if (--segment->users) return NULL;
    struct disk_file *file = segment->file;
    segment->file = NULL;
    if (segment->removed) free(segment);
    return file;
}

/* Opens the file of a segment that has this user, unless another one did meanwhile. */
static replog_status open_file(struct wal *wal, struct wal_segment *segment,
                               struct disk_file **file, replog_error *err) {
    struct wal_path path;
    struct disk_file *opened = NULL, *unused = NULL;
    wal_segment_path(wal, segment->header.number, &path);
    replog_status status = wal->disk->open(wal->disk->ctx, path.text, DISK_READ, &opened, err);
    pthread_mutex_lock(&wal->mutex);
    bool removed = segment->removed;
    if (!status && segment->file) unused = opened;
    if (!status && !segment->file) segment->file = opened;
    if (!status) *file = segment->file;
    pthread_mutex_unlock(&wal->mutex);
    if (unused) wal->disk->close(unused);
    if (status != REPLOG_NOT_FOUND) return status;
    if (removed)
        return error_set(err, REPLOG_ABORTED, "seq %" PRIu64 " was dropped under the reader",
                         segment->header.first_seq);
    return error_set(err, REPLOG_DATA_LOSS, "%s: offset 0, seq %" PRIu64 ": the file is missing",
                     path.text, segment->header.first_seq);
}

static void leave_segment(struct wal_reader *reader) {
    if (!reader->segment) return;
    pthread_mutex_lock(&reader->wal->mutex);
    struct disk_file *unused = wal_release(reader->segment);
    pthread_mutex_unlock(&reader->wal->mutex);
    if (unused) reader->wal->disk->close(unused);
    reader->segment = NULL;
}

/* ---- Positioning */
static void take_bounds(struct wal_reader *reader) {
    reader->segment_last = reader->segment->last.seq;
    reader->scan.limit = reader->segment->write_end;
}

/* The offset to begin at for seq, from a sealed segment's file. A seal that cannot be read costs
 * time only: the groups are all there is to it. */
static uint64_t sealed_offset(struct wal_reader *reader, uint64_t seq) {
    struct wal *wal = reader->wal;
    uint64_t offset = SEGMENT_DATA_OFFSET;
    uint8_t *slot = malloc(SEGMENT_SEAL_BYTES);
    struct segment_index *index = malloc(sizeof *index);
    struct segment_seal seal;
    size_t got = 0;
    replog_error ignored;
    if (slot && index &&
        !wal->disk->read(reader->scan.file, slot, SEGMENT_SEAL_BYTES, SEGMENT_SEAL_OFFSET, &got,
                         &ignored) &&
        got == SEGMENT_SEAL_BYTES &&
        segment_seal_decode(slot, &reader->segment->header, &seal, index, NULL))
        offset = index_find(index, seq - reader->segment->header.first_seq);
    free(slot);
    free(index);
    return offset;
}

/* Enters the segment that holds seq, at a group at or below it. */
static replog_status enter_segment(struct wal_reader *reader, uint64_t seq, replog_error *err) {
    struct wal *wal = reader->wal;
    uint64_t offset = SEGMENT_DATA_OFFSET;
    struct disk_file *file = NULL;
    bool sealed = false;
    pthread_mutex_lock(&wal->mutex);
    struct wal_segment *segment = wal_find_segment(wal, seq);
    if (segment) {
        segment->users++;
        file = segment->file;
        sealed = segment->sealed;
        reader->segment = segment;
        take_bounds(reader);
        if (!sealed) offset = index_find(&wal->index, seq - segment->header.first_seq);
    }
    pthread_mutex_unlock(&wal->mutex);
    if (!segment)
        return error_set(err, REPLOG_ABORTED, "seq %" PRIu64 " was truncated under the reader",
                         seq);
    replog_status status = file ? REPLOG_OK : open_file(wal, segment, &file, err);
    if (status) {
        leave_segment(reader);
        return status;
    }
    reader->scan.file = file;
    if (sealed && seq > segment->header.first_seq) offset = sealed_offset(reader, seq);
    struct scan *scan = &reader->scan;
    scan->segment = segment->header.number;
    scan->incarnation = segment->header.incarnation;
    scan->epoch = segment->header.epoch;
    scan->pos = segment->header.prev;
    scan->chain_known = offset == SEGMENT_DATA_OFFSET;
    wal_segment_path(wal, scan->segment, &scan->path);
    scan_seek(scan, offset);
    return REPLOG_OK;
}

/* After a cut or truncation: may the reader go on where it is? */
static replog_status look_at_changes(struct wal_reader *reader, replog_error *err) {
    struct wal *wal = reader->wal;
    pthread_mutex_lock(&wal->mutex);
    uint64_t cuts = wal->cuts - reader->cuts;
    bool cut = cuts > 1 || (cuts == 1 && reader->pos.seq > wal->last_cut_seq);
    bool truncated = reader->pos.seq < wal->manifest.base.seq;
    reader->cuts = wal->cuts;
    reader->changes = atomic_load(&wal->changes);
    pthread_mutex_unlock(&wal->mutex);
    if (cut || truncated)
        return error_set(err, REPLOG_ABORTED, "the log was %s under a reader at seq %" PRIu64,
                         cut ? "cut" : "truncated", reader->pos.seq + 1);
    leave_segment(reader);
    reader->held = false;
    return REPLOG_OK;
}

/* The segment ended, or the tail moved: takes the bounds anew, or leaves the segment. */
static void look_at_segment(struct wal_reader *reader) {
    struct wal *wal = reader->wal;
    pthread_mutex_lock(&wal->mutex);
    take_bounds(reader);
    bool ended = reader->pos.seq >= reader->segment_last;
    pthread_mutex_unlock(&wal->mutex);
    if (ended) leave_segment(reader);
}

static replog_status lost(const struct wal_reader *reader, const char *what, replog_error *err) {
    return error_set(err, REPLOG_DATA_LOSS, "%s: offset %" PRIu64 ", seq %" PRIu64 ": %s",
                     reader->scan.path.text, reader->scan.offset, reader->pos.seq + 1, what);
}

/* Reads the block that holds pos.seq + 1 and holds it. NOT_FOUND: the tail is reached. */
static replog_status hold_next(struct wal_reader *reader, replog_error *err) {
    uint64_t want = reader->pos.seq + 1;
    while (!reader->held) {
        if (reader->pos.seq >= atomic_load(&reader->wal->tail_seq)) return REPLOG_NOT_FOUND;
        if (reader->segment && reader->pos.seq >= reader->segment_last) look_at_segment(reader);
        replog_status status = REPLOG_OK;
        if (!reader->segment) status = enter_segment(reader, want, err);
        if (status) return status;
        struct block_header h;
        const uint8_t *bytes;
        status = scan_next(&reader->scan, &h, &bytes, err);
        if (!status && block_last_seq(&h) < want) continue;
        if (status == REPLOG_NOT_FOUND)
            status = lost(reader, "the segment's groups end too early", err);
        else if (!status && reader->chain_known &&
                 (h.first_seq != want || h.prev_chain != reader->pos.chain))
            status = lost(reader, "the block does not continue the chain", err);
        if (status == REPLOG_DATA_LOSS && atomic_load(&reader->wal->changes) != reader->changes) {
            status = look_at_changes(reader, err); /* a cut overtook what was looked at above */
            if (!status) continue;
        }
        if (status) return status;
        reader->block = h;
        reader->bytes = bytes;
        reader->held = true;
    }
    return REPLOG_OK;
}

/* ---- Interface */
replog_status wal_reader_open(struct wal *wal, uint64_t seq, struct wal_reader **reader,
                              replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    struct wal_reader *made = calloc(1, sizeof *made);
    if (!made) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a reader");
    made->wal = wal;
    made->scan.disk = wal->disk;
    if (!wal->buffered) made->scan.recent = &wal->recent;
    replog_status status = REPLOG_OK;
    pthread_mutex_lock(&wal->mutex);
    struct wal_pos base = wal->manifest.base, tail = wal->tail;
    made->changes = atomic_load(&wal->changes);
    made->cuts = wal->cuts;
    pthread_mutex_unlock(&wal->mutex);
    if (seq <= base.seq)
        status = error_set(err, REPLOG_OUT_OF_RANGE,
                           "seq %" PRIu64 " lies below the first seq of the log, %" PRIu64, seq,
                           base.seq + 1);
    else if (seq > tail.seq + 1)
        status = error_set(err, REPLOG_OUT_OF_RANGE,
                           "seq %" PRIu64 " lies above the last seq of the log, %" PRIu64, seq,
                           tail.seq);
    if (!status) {
        bool at_tail = seq == tail.seq + 1, at_base = seq == base.seq + 1;
        made->pos = at_tail ? tail : base;
        made->chain_known = at_tail || at_base;
        if (!made->chain_known) {
            made->pos.seq = seq - 1;
            status = hold_next(made, err);
            if (status == REPLOG_NOT_FOUND)
                status = error_set(err, REPLOG_ABORTED, "the log was cut below seq %" PRIu64, seq);
        }
        if (!status && !made->chain_known) {
            made->pos = (struct wal_pos){made->block.first_seq - 1, 0, made->block.prev_chain};
            made->chain_known = true;
        }
    }
    if (status) {
        wal_reader_close(made);
        return status;
    }
    *reader = made;
    return REPLOG_OK;
}

void wal_reader_close(struct wal_reader *reader) {
    if (!reader) return;
    leave_segment(reader);
    scan_free(&reader->scan);
    free(reader);
}

replog_status wal_reader_next(struct wal_reader *reader, uint64_t limit_seq,
                              struct block_header *header, const uint8_t **bytes,
                              replog_error *err) {
    CHECK(reader);
    replog_error local;
    if (!err) err = &local;
    replog_status status = REPLOG_OK;
    if (atomic_load(&reader->wal->changes) != reader->changes)
        status = look_at_changes(reader, err);
    if (!status && reader->pos.seq >= limit_seq) return REPLOG_NOT_FOUND;
    if (!status) status = hold_next(reader, err);
    if (status) return status;
    if (block_last_seq(&reader->block) > limit_seq) return REPLOG_NOT_FOUND;
    reader->held = false;
    reader->pos =
        (struct wal_pos){block_last_seq(&reader->block), reader->block.term, reader->block.hash};
    *header = reader->block;
    *bytes = reader->bytes;
    return REPLOG_OK;
}

bool wal_reader_current(const struct wal_reader *reader) {
    return atomic_load(&reader->wal->changes) == reader->changes;
}

replog_status wal_pos_at(struct wal *wal, uint64_t seq, struct wal_pos *pos, replog_error *err) {
    struct wal_pos base = wal_base(wal), tail = wal_tail(wal);
    if (seq == base.seq || seq == tail.seq) {
        *pos = seq == base.seq ? base : tail;
        return REPLOG_OK;
    }
    replog_error local;
    if (!err) err = &local;
    if (seq > tail.seq)
        return error_set(err, REPLOG_OUT_OF_RANGE,
                         "seq %" PRIu64 " lies above the last seq of the log, %" PRIu64, seq,
                         tail.seq);
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    replog_status status = wal_reader_open(wal, seq, &reader, err);
    if (!status) status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, err);
    wal_reader_close(reader);
    if (!status) *pos = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
    return status;
}

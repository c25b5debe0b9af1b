/* What makes a log shorter, and where the files go: the head (wal_truncate), the tail (wal_cut) and
 * the pool of spare files.
 *
 * Both say in the manifest first what no longer exists, and remove files afterwards: an open after
 * a crash in between removes the rest. A segment file that becomes a spare is renamed, and the
 * directory is synced before anything else is written into it, so it can never come back under
 * its old name with new content. Spare files: `spare-%016x`. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "wal/log_impl.h"

/* ---- Files */
replog_status wal_drop_file(struct wal *wal, uint64_t number, bool recycle, replog_error *err) {
    struct wal_path path, spare;
    wal_segment_path(wal, number, &path);
    if (!recycle || wal->n_spares >= wal->pool_segments)
        return wal->disk->unlink(wal->disk->ctx, path.text, err);
    wal_spare_path(wal, number, &spare);
    replog_status status = wal->disk->rename(wal->disk->ctx, path.text, spare.text, err);
    if (!status) wal->spares[wal->n_spares++] = number;
    return status;
}

/* The spare to be used: from the pool, or a new file. */
static replog_status take_spare(struct wal *wal, uint64_t new_number, uint64_t *number,
                                struct wal_path *path, struct disk_file **file, replog_error *err) {
    const struct disk *disk = wal->disk;
    if (wal->n_spares) {
        *number = wal->spares[wal->n_spares - 1];
        wal_spare_path(wal, *number, path);
        return disk->open(disk->ctx, path->text, DISK_WRITE, file, err);
    }
    *number = new_number;
    wal_spare_path(wal, new_number, path);
    replog_status status = disk->open(disk->ctx, path->text, DISK_CREATE, file, err);
    if (status) return status;
    status = disk->allocate(*file, SEGMENT_DATA_OFFSET + WAL_PAGE_BYTES, err);
    if (!status) return REPLOG_OK;
    disk->close(*file);
    *file = NULL;
    replog_error ignored;
    if (disk->unlink(disk->ctx, path->text, &ignored)) return REPLOG_UNAVAILABLE;
    return status;
}

replog_status wal_make_segment_file(struct wal *wal, const struct segment_header *header,
                                    const uint8_t page[WAL_PAGE_BYTES], struct disk_file **file,
                                    uint64_t *file_bytes, replog_error *err) {
    const struct disk *disk = wal->disk;
    struct wal_path spare, path;
    struct disk_file *made = NULL;
    uint64_t number, size = 0;
    bool from_pool = wal->n_spares > 0;
    replog_status status = take_spare(wal, header->number, &number, &spare, &made, err);
    struct iovec piece = {(void *)page, WAL_PAGE_BYTES};
    if (!status) status = disk->size(made, &size, err);
    if (!status) status = disk->write(made, &piece, 1, 0, err);
    if (!status) status = disk->sync(made, err);
    wal_segment_path(wal, header->number, &path);
    if (!status) status = disk->rename(disk->ctx, spare.text, path.text, err);
    if (status == REPLOG_RESOURCE_EXHAUSTED) { /* no space, so it was not renamed */
        replog_error ignored;
        if (made) disk->close(made);
        if (made && !from_pool) disk->unlink(disk->ctx, spare.text, &ignored);
        return status;
    }
    if (!status && !MUTANT(SEGMENT_NAME_NOT_SYNCED))
        status = disk->sync_dir(disk->ctx, wal->dir, err);
    if (status) {
        if (made) disk->close(made);
        return wal_break(wal, err);
    }
    if (from_pool) wal->n_spares--;
    *file = made;
    *file_bytes = size;
    return REPLOG_OK;
}

/* ---- The table */
/* Takes segments from .. to out of the table; those that nobody reads are freed. The mutex is held.
 */
static void forget_segments(struct wal *wal, size_t from, size_t to) {
    for (size_t i = from; i < to; i++) {
        struct wal_segment *segment = wal->segments[i];
        segment->removed = true;
        if (!segment->users) free(segment);
    }
    memmove(wal->segments + from, wal->segments + to, (wal->n_segments - to) * sizeof(void *));
    wal->n_segments -= to - from;
}

/* What remains to be done with a segment's file after it left the table. */
struct leaving {
    uint64_t number;
    bool recycle;
};

static bool worth_recycling(const struct wal *wal, const struct wal_segment *segment) {
    return !segment->users && segment->file_bytes >= wal->segment_bytes / 2 &&
           segment->file_bytes <= 2 * (uint64_t)wal->segment_bytes;
}

/* ---- Head */
/* The end of the block at or below upto; *base is untouched when that is right below first_seq. */
static replog_status round_down(struct wal *wal, uint64_t upto, struct wal_pos *base,
                                replog_error *err) {
    if (upto == wal->tail.seq) {
        *base = wal->tail;
        return REPLOG_OK;
    }
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    replog_status status = wal_reader_open(wal, upto, &reader, err);
    if (!status) status = wal_reader_next(reader, UINT64_MAX, &h, &bytes, err);
    wal_reader_close(reader);
    if (status) return status;
    if (block_last_seq(&h) == upto)
        *base = (struct wal_pos){upto, h.term, h.hash};
    else if (h.first_seq > wal->manifest.base.seq + 1)
        *base = (struct wal_pos){h.first_seq - 1, runs_term_at(&wal->runs, h.first_seq - 1),
                                 h.prev_chain};
    return REPLOG_OK;
}

/* Takes the segments that lie below the base out of the table. */
static size_t leave_head(struct wal *wal, struct leaving *leaving) {
    const struct wal_pos *base = &wal->manifest.base;
    size_t n = 0;
    pthread_mutex_lock(&wal->mutex);
    while (n + 1 < wal->n_segments && wal->segments[n + 1]->header.first_seq <= base->seq + 1) {
        leaving[n].number = wal->segments[n]->header.number;
        leaving[n].recycle = worth_recycling(wal, wal->segments[n]);
        n++;
    }
    forget_segments(wal, 0, n);
    runs_trim(&wal->runs, base->seq + 1, wal->tail.seq);
    atomic_fetch_add(&wal->changes, 1);
    pthread_mutex_unlock(&wal->mutex);
    return n;
}

replog_status wal_truncate(struct wal *wal, uint64_t upto, const struct config *config,
                           replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status) return status;
    struct manifest manifest = wal->manifest;
    if (upto > wal->durable.seq) upto = wal->durable.seq;
    if (upto <= manifest.base.seq) return REPLOG_OK;
    status = round_down(wal, upto, &manifest.base, err);
    if (status || manifest.base.seq == wal->manifest.base.seq) return status;
    if (config) manifest.config = *config;
    struct leaving *leaving = calloc(wal->n_segments + 1, sizeof *leaving);
    if (!leaving) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to truncate");
    if (wal->n_segments) manifest.last_segment = wal->segments[wal->n_segments - 1]->header.number;
    status = wal_store_manifest(wal, &manifest, err);
    if (!status) {
        size_t n = leave_head(wal, leaving);
        for (size_t i = 0; i < n && !status; i++)
            status = wal_drop_file(wal, leaving[i].number, leaving[i].recycle, err);
        if (!status && n) status = wal->disk->sync_dir(wal->disk->ctx, wal->dir, err);
        if (status) status = wal_break(wal, err);
    }
    free(leaving);
    return status;
}

/* ---- Tail */
struct cut {
    struct wal_pos keep;
    size_t at;               /* the segment that is cut */
    struct wal_segment copy; /* of it, as it will be */
    struct disk_file *file;
    struct segment_index index;
    uint64_t *numbers; /* of the segments behind it */
    size_t n_numbers;
};

/* The segment whose end keep_seq will be. */
static size_t find_cut(const struct wal *wal, uint64_t keep_seq) {
    size_t at = wal->n_segments - 1;
    while (at > 0 && wal->segments[at]->header.prev.seq >= keep_seq) at--;
    return at;
}

/* Reads the segment up to keep_seq; changes nothing. */
static replog_status prepare_cut(struct wal *wal, uint64_t keep_seq, struct cut *cut,
                                 replog_error *err) {
    cut->at = find_cut(wal, keep_seq);
    cut->copy.header = wal->segments[cut->at]->header;
    cut->copy.file_bytes = wal->segments[cut->at]->file_bytes;
    cut->numbers = calloc(wal->n_segments, sizeof *cut->numbers);
    if (!cut->numbers) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to cut");
    struct wal_path path;
    wal_segment_path(wal, cut->copy.header.number, &path);
    replog_status status = wal->disk->open(wal->disk->ctx, path.text, DISK_WRITE, &cut->file, err);
    if (status) return status;
    status = wal_pos_at(wal, keep_seq, &cut->keep, err);
    if (status) return status;
    if (cut->keep.seq != keep_seq)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "cut above seq %" PRIu64 ": it is within a block that ends with %" PRIu64,
                         keep_seq, cut->keep.seq);
    struct rescan rescan = {
        .segment = &cut->copy, .file = cut->file, .target = &cut->keep, .index = &cut->index};
    return wal_rescan(wal, &rescan, err);
}

/* The log's state in memory after the cut; files follow. */
static void apply_cut(struct wal *wal, struct cut *cut) {
    struct wal_segment *segment = wal->segments[cut->at], *active = wal->active;
    struct disk_file *unused = NULL;
    pthread_mutex_lock(&wal->mutex);
    for (size_t i = cut->at + 1; i < wal->n_segments; i++)
        cut->numbers[cut->n_numbers++] = wal->segments[i]->header.number;
    wal->active = NULL;
    if (active) unused = wal_release(active);
    forget_segments(wal, cut->at + 1, wal->n_segments);
    segment->last = cut->copy.last;
    segment->data_end = cut->copy.data_end;
    segment->write_end = cut->copy.write_end;
    segment->last_us = cut->copy.last_us;
    segment->sealed = true;
    wal->tail = wal->durable = cut->keep;
    runs_cut(&wal->runs, cut->keep.seq);
    runs_trim(&wal->runs, wal->manifest.base.seq + 1, cut->keep.seq);
    wal->cuts++;
    wal->last_cut_seq = cut->keep.seq;
    atomic_store(&wal->tail_seq, cut->keep.seq);
    atomic_fetch_add(&wal->changes, 1);
    pthread_mutex_unlock(&wal->mutex);
    if (unused) wal->disk->close(unused);
    wal->marked = cut->keep;
    wal->unsynced = false; /* finish_cut syncs what is left */
}

static replog_status finish_cut(struct wal *wal, struct cut *cut, replog_error *err) {
    replog_status status = REPLOG_OK;
    for (size_t i = cut->n_numbers; i-- > 0 && !status;)
        status = wal_drop_file(wal, cut->numbers[i], false, err);
    if (!status && cut->n_numbers) status = wal->disk->sync_dir(wal->disk->ctx, wal->dir, err);
    if (!status) status = wal_write_seal(wal, wal->segments[cut->at], cut->file, &cut->index, err);
    if (!status) status = wal->disk->sync(cut->file, err);
    return status ? wal_break(wal, err) : REPLOG_OK;
}

/* Nothing lies above keep_seq: the rest of what wal_cut promises. */
static replog_status raise_epoch(struct wal *wal, replog_error *err) {
    replog_status status = wal_sync(wal, err);
    if (status) return status;
    struct manifest manifest = wal->manifest;
    manifest.epoch++;
    return wal_store_manifest(wal, &manifest, err);
}

replog_status wal_cut(struct wal *wal, uint64_t keep_seq, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status) return status;
    if (keep_seq < wal->manifest.base.seq || keep_seq > wal->tail.seq)
        return error_set(err, REPLOG_OUT_OF_RANGE,
                         "cut above seq %" PRIu64 ": the log holds %" PRIu64 " to %" PRIu64,
                         keep_seq, wal->manifest.base.seq + 1, wal->tail.seq);
    if (keep_seq == wal->tail.seq) return raise_epoch(wal, err);
    struct cut *cut = calloc(1, sizeof *cut);
    if (!cut) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to cut");
    status = prepare_cut(wal, keep_seq, cut, err);
    if (!status && wal->durable.seq < keep_seq) status = wal_sync(wal, err);
    if (!status) {
        struct manifest manifest = wal->manifest;
        manifest.epoch++;
        manifest.last_segment = cut->copy.header.number;
        manifest.cut = (struct manifest_cut){cut->copy.header.number, manifest.epoch,
                                             cut->copy.data_end, cut->keep};
        status = wal_store_manifest(wal, &manifest, err);
    }
    if (!status) {
        apply_cut(wal, cut);
        status = finish_cut(wal, cut, err);
    }
    if (cut->file) wal->disk->close(cut->file);
    free(cut->numbers);
    free(cut);
    return status;
}

/* ---- Pool */
/* Half of the pool is for what truncation gives back: were it all filled ahead, a log that is
 * truncated as it grows would write zeros and unlink files for ever, where renaming is enough. */
static bool wants_spare(const struct wal *wal) {
    return wal->n_spares < (wal->pool_segments + 1) / 2;
}

bool wal_spare_begin(struct wal *wal, struct wal_spare *spare) {
    if (!wants_spare(wal)) return false;
    *spare = (struct wal_spare){.number = wal->next_number++};
    return true;
}

replog_status wal_spare_fill(const struct wal *wal, struct wal_spare *spare, replog_error *err) {
    const struct disk *disk = wal->disk;
    uint64_t left = wal->segment_bytes - spare->size_bytes;
    if (left > WAL_GROW_BYTES) left = WAL_GROW_BYTES;
    replog_status status = REPLOG_OK;
    if (!spare->file) {
        struct wal_path path;
        wal_spare_path(wal, spare->number, &path);
        status = disk->open(disk->ctx, path.text, DISK_CREATE, &spare->file, err);
    }
    if (!status) status = disk->write_zeros(spare->file, spare->size_bytes, left, err);
    if (status) return status;
    spare->size_bytes += left;
    if (spare->size_bytes < wal->segment_bytes) return REPLOG_OK;
    status = disk->sync(spare->file, err);
    spare->full = !status;
    return status;
}

void wal_spare_end(struct wal *wal, struct wal_spare *spare) {
    struct wal_path path;
    if (spare->file) wal->disk->close(spare->file);
    if (spare->full && wal->n_spares < wal->pool_segments) {
        wal->spares[wal->n_spares++] = spare->number;
    } else if (spare->file) {
        replog_error ignored; /* a leftover goes at the next open */
        wal_spare_path(wal, spare->number, &path);
        wal->disk->unlink(wal->disk->ctx, path.text, &ignored);
    }
    *spare = (struct wal_spare){0};
}

/* The rest of the segment that is being written, which had to be made in haste. */
static replog_status fill_active(struct wal *wal, replog_error *err) {
    struct wal_segment *segment = wal->active;
    uint64_t left = wal->segment_bytes - segment->file_bytes;
    if (left > WAL_GROW_BYTES) left = WAL_GROW_BYTES;
    replog_status status = wal->disk->write_zeros(segment->file, segment->file_bytes, left, err);
    if (!status) status = wal->disk->sync(segment->file, err);
    if (!status) segment->file_bytes += left;
    return status && status != REPLOG_RESOURCE_EXHAUSTED ? wal_break(wal, err) : status;
}

replog_status wal_prepare_active(struct wal *wal, bool *more, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    *more = false;
    replog_status status = wal_writable(wal, err);
    if (status || !wal->active || wal->active->file_bytes >= wal->segment_bytes) return status;
    *more = true;
    return fill_active(wal, err);
}

replog_status wal_prepare(struct wal *wal, bool *more, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_prepare_active(wal, more, err);
    if (status || *more) return status;
    if (!wal->preparing.number && !wal_spare_begin(wal, &wal->preparing)) return REPLOG_OK;
    status = wal_spare_fill(wal, &wal->preparing, err);
    if (status || wal->preparing.full) wal_spare_end(wal, &wal->preparing);
    if (status == REPLOG_RESOURCE_EXHAUSTED) return status;
    if (status) return wal_break(wal, err);
    *more = wal->preparing.number || wants_spare(wal);
    return REPLOG_OK;
}

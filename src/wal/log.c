/* The open log: queries, appending, syncing, sealing a full segment, founding, votes.
 *
 * The way of an append: all pieces are checked against the tail; then group by group: the segment
 * is rolled if the group does not fit, the file is grown (so that a full disk shows before anything
 * is written), header, blocks and padding are written (past the page cache, in writes of
 * RECENT_WRITE_BYTES at most; or, buffered, in one), and the new tail is published under the mutex.
 * wal_sync makes the published tail the durable one. */
#include "wal/log.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "wal/log_impl.h"

static void lock(const struct wal *wal) {
    pthread_mutex_lock((pthread_mutex_t *)&wal->mutex);
}
static void unlock(const struct wal *wal) {
    pthread_mutex_unlock((pthread_mutex_t *)&wal->mutex);
}

/* ---- Paths */
void wal_file_path(const struct wal *wal, const char *name, struct wal_path *path) {
    int n = snprintf(path->text, sizeof path->text, "%s/%s", wal->dir, name);
    CHECK(n > 0 && (size_t)n < sizeof path->text);
}

void wal_segment_path(const struct wal *wal, uint64_t number, struct wal_path *path) {
    char name[32];
    snprintf(name, sizeof name, "%016" PRIx64 ".seg", number);
    wal_file_path(wal, name, path);
}

void wal_spare_path(const struct wal *wal, uint64_t number, struct wal_path *path) {
    char name[32];
    snprintf(name, sizeof name, "spare-%016" PRIx64, number);
    wal_file_path(wal, name, path);
}

/* ---- State */
replog_status wal_break(struct wal *wal, replog_error *err) {
    lock(wal);
    if (!wal->broken) {
        wal->broken = true;
        wal->cause = *err;
    }
    unlock(wal);
    err->status = REPLOG_UNAVAILABLE;
    return REPLOG_UNAVAILABLE;
}

replog_status wal_writable(struct wal *wal, replog_error *err) {
    if (wal->read_only)
        return error_set(err, REPLOG_FAILED_PRECONDITION, "%s is open for reading only", wal->dir);
    lock(wal);
    replog_status status = REPLOG_OK;
    if (wal->broken)
        status = error_set(err, REPLOG_UNAVAILABLE,
                           "the log is broken since a write or sync failed (%.300s); close it and "
                           "open it again",
                           wal->cause.text);
    unlock(wal);
    return status;
}

bool wal_reserve_segment(struct wal *wal) {
    if (wal->n_segments < wal->segments_capacity) return true;
    size_t capacity = wal->segments_capacity * 2 + 16;
    struct wal_segment **segments = malloc(capacity * sizeof(void *));
    if (!segments) return false;
    lock(wal);
    struct wal_segment **old = wal->segments;
    if (wal->n_segments) memcpy(segments, old, wal->n_segments * sizeof(void *));
    wal->segments = segments;
    wal->segments_capacity = capacity;
    unlock(wal);
    free(old);
    return true;
}

replog_status wal_store_manifest(struct wal *wal, const struct manifest *manifest,
                                 replog_error *err) {
    bool renamed;
    replog_status status = manifest_store(wal->disk, wal->dir, manifest, &renamed, err);
    if (status == REPLOG_RESOURCE_EXHAUSTED && !renamed) return status;
    if (status) return wal_break(wal, err);
    lock(wal);
    wal->manifest = *manifest;
    unlock(wal);
    return REPLOG_OK;
}

void wal_close(struct wal *wal) {
    if (!wal) return;
    for (size_t i = 0; i < wal->n_segments; i++) {
        if (wal->segments[i]->file) wal->disk->close(wal->segments[i]->file);
        free(wal->segments[i]);
    }
    if (wal->preparing.file) wal->disk->close(wal->preparing.file);
    vote_close(&wal->vote);
    if (wal->lock) wal->disk->unlock(wal->lock);
    runs_free(&wal->runs);
    free(wal->segments);
    free(wal->spares);
    free(wal->pieces);
    free(wal->dir);
    recent_free(&wal->recent);
    pthread_mutex_destroy(&wal->mutex);
    free(wal);
}

/* ---- Queries */
struct wal_identity wal_identity(const struct wal *wal) {
    lock(wal);
    struct wal_identity identity = wal->manifest.identity;
    unlock(wal);
    return identity;
}

void wal_base_config(const struct wal *wal, struct config *config) {
    lock(wal);
    *config = wal->manifest.config;
    unlock(wal);
}

static struct wal_pos get_pos(const struct wal *wal, const struct wal_pos *pos) {
    lock(wal);
    struct wal_pos copy = *pos;
    unlock(wal);
    return copy;
}

struct wal_pos wal_base(const struct wal *wal) {
    return get_pos(wal, &wal->manifest.base);
}
uint64_t wal_first_seq(const struct wal *wal) {
    return get_pos(wal, &wal->manifest.base).seq + 1;
}
struct wal_pos wal_tail(const struct wal *wal) {
    return get_pos(wal, &wal->tail);
}
struct wal_pos wal_durable(const struct wal *wal) {
    return get_pos(wal, &wal->durable);
}

uint64_t wal_size_bytes(const struct wal *wal) {
    uint64_t sum = 0;
    lock(wal);
    for (size_t i = 0; i < wal->n_segments; i++) sum += wal->segments[i]->write_end;
    unlock(wal);
    return sum;
}

uint64_t wal_torn_bytes(const struct wal *wal) {
    return wal->torn_bytes; /* never changes after open */
}

uint32_t wal_n_segments(const struct wal *wal) {
    lock(wal);
    uint32_t n = (uint32_t)wal->n_segments;
    unlock(wal);
    return n;
}

bool wal_broken(const struct wal *wal) {
    lock(wal);
    bool broken = wal->broken;
    unlock(wal);
    return broken;
}

uint64_t wal_retention_seq(const struct wal *wal, uint64_t keep_bytes, uint64_t cutoff_us) {
    uint64_t seq = 0, bytes_above = 0;
    lock(wal);
    for (size_t i = wal->n_segments; i-- > 1;) {
        const struct wal_segment *candidate = wal->segments[i - 1];
        bytes_above += wal->segments[i]->write_end - SEGMENT_DATA_OFFSET;
        if (!candidate->sealed || bytes_above < keep_bytes) continue;
        if (cutoff_us && candidate->last_us >= cutoff_us) continue;
        seq = candidate->last.seq;
        break;
    }
    if (seq <= wal->manifest.base.seq) seq = 0;
    unlock(wal);
    return seq;
}

size_t wal_term_runs(const struct wal *wal, struct wal_term_run *runs, size_t max) {
    lock(wal);
    size_t n = wal->runs.n;
    size_t copied = n < max ? n : max;
    if (copied) memcpy(runs, wal->runs.items, copied * sizeof *runs);
    unlock(wal);
    return n;
}

/* ---- Sealing and rolling */
replog_status wal_write_seal(struct wal *wal, const struct wal_segment *segment,
                             struct disk_file *file, const struct segment_index *index,
                             replog_error *err) {
    uint8_t *slot = malloc(SEGMENT_SEAL_BYTES);
    if (!slot)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the seal of a segment");
    struct segment_seal seal = {
        .data_end = segment->data_end, .last = segment->last, .last_us = segment->last_us};
    segment_seal_encode(&segment->header, &seal, index, &wal->runs, slot);
    struct iovec piece = {slot, SEGMENT_SEAL_BYTES};
    replog_status status = wal->disk->write(file, &piece, 1, SEGMENT_SEAL_OFFSET, err);
    free(slot);
    return status;
}

replog_status wal_seal_active(struct wal *wal, replog_error *err) {
    struct wal_segment *segment = wal->active;
    replog_status status = MUTANT(ROLL_WITHOUT_SYNC) ? REPLOG_OK : wal_sync(wal, err);
    if (status) return status;
    status = wal_write_seal(wal, segment, segment->file, &wal->index, err);
    if (status == REPLOG_RESOURCE_EXHAUSTED) return status;
    if (!status && !MUTANT(ROLL_WITHOUT_SYNC)) status = wal->disk->sync(segment->file, err);
    if (status) return wal_break(wal, err);
    lock(wal);
    segment->sealed = true;
    wal->active = NULL;
    struct disk_file *unused = wal_release(segment);
    unlock(wal);
    if (unused) wal->disk->close(unused);
    wal->unsynced = false; /* that it is already, but for a mutant */
    wal->marked = wal->tail;
    return REPLOG_OK;
}

/* The term runs that the active segment has so far. */
static size_t active_runs(const struct wal *wal) {
    size_t first = runs_find(&wal->runs, wal->active->header.first_seq);
    return first == SIZE_MAX ? wal->runs.n : wal->runs.n - first;
}

static replog_status begin_segment(struct wal *wal, uint64_t first_us, replog_error *err) {
    struct wal_segment *segment = calloc(1, sizeof *segment);
    if (!segment || !wal_reserve_segment(wal)) {
        free(segment);
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a segment");
    }
    segment->header = (struct segment_header){.cluster_id = wal->manifest.identity.cluster_id,
                                              .incarnation = wal->manifest.identity.incarnation,
                                              .epoch = wal->manifest.epoch,
                                              .number = wal->next_number,
                                              .first_seq = wal->tail.seq + 1,
                                              .prev = wal->tail,
                                              .first_us = first_us};
    uint8_t page[WAL_PAGE_BYTES];
    segment_header_encode(&segment->header, page);
    replog_status status = wal_make_segment_file(wal, &segment->header, page, &segment->file,
                                                 &segment->file_bytes, err);
    if (status) {
        free(segment);
        return status;
    }
    segment->last = wal->tail;
    segment->data_end = segment->write_end = SEGMENT_DATA_OFFSET;
    segment->last_us = first_us;
    segment->users = 1;
    wal->next_number++;
    wal->marked = wal->tail;
    lock(wal);
    index_reset(&wal->index);
    wal->segments[wal->n_segments++] = segment;
    wal->active = segment;
    unlock(wal);
    return REPLOG_OK;
}

enum { SMALL_GROUP_BYTES = 16 << 10 };

/* Makes the active segment one that takes `bytes` more (a group with its padding). A file that
 * has to grow for a small group is written with zeros a good way ahead: groups that overwrite sync
 * twice as fast. For large ones the disk would write so much more that nothing is gained. */
static replog_status make_room(struct wal *wal, uint64_t bytes, uint64_t first_us,
                               replog_error *err) {
    struct wal_segment *segment = wal->active;
    replog_status status = REPLOG_OK;
    if (segment && segment->last.seq >= segment->header.first_seq &&
        (segment->write_end + bytes > wal->segment_bytes || active_runs(wal) >= SEGMENT_MAX_RUNS)) {
        status = wal_seal_active(wal, err);
        if (status) return status;
    }
    if (!wal->active) status = begin_segment(wal, first_us, err);
    if (status) return status;
    segment = wal->active;
    CHECK(segment);
    uint64_t need = segment->write_end + bytes;
    if (need <= segment->file_bytes) return REPLOG_OK;
    uint64_t size = (need + WAL_GROW_BYTES - 1) / WAL_GROW_BYTES * WAL_GROW_BYTES;
    if (size > wal->segment_bytes) size = need > wal->segment_bytes ? need : wal->segment_bytes;
    size = page_align(size);
    replog_error why;
    status = wal->disk->allocate(segment->file, size, &why);
    if (status == REPLOG_RESOURCE_EXHAUSTED && size > need) {
        size = need;
        status = wal->disk->allocate(segment->file, size, &why);
    }
    if (!status) segment->file_bytes = size;
    if (!status && bytes <= SMALL_GROUP_BYTES) wal->zero_to = size;
    if (!status) return REPLOG_OK;
    *err = why;
    return status == REPLOG_RESOURCE_EXHAUSTED ? status : wal_break(wal, err);
}

/* ---- Appending */
/* The blocks of a group, walked once more when they are in. */
static void publish(struct wal *wal, const struct slice *pieces, size_t n,
                    const struct group_header *group) {
    struct wal_segment *segment = wal->active;
    struct wal_pos tail = wal->tail;
    uint64_t last_us = segment->last_us;
    lock(wal);
    for (size_t i = 0; i < n; i++) {
        struct block_header h;
        for (size_t at = 0; at < pieces[i].size_bytes; at += h.length) {
            CHECK(!block_peek(pieces[i].data + at, pieces[i].size_bytes - at, &h, NULL));
            runs_add(&wal->runs, h.term, h.first_seq);
            tail = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
            last_us = h.timestamp_us;
        }
    }
    if (n) index_add(&wal->index, group->first_seq - segment->header.first_seq, group->offset);
    if (n) segment->data_end = group->offset + GROUP_HEADER_BYTES + group->length;
    segment->write_end += group_padded_bytes(group->length);
    segment->last = wal->tail = tail;
    segment->last_us = last_us;
    unlock(wal);
    wal->marked = group->mark;
    atomic_store(&wal->tail_seq, tail.seq);
}

static _Alignas(WAL_PAGE_BYTES) const uint8_t zeros[64 << 10];
enum { GROUP_MORE_PIECES = 2 + WAL_GROW_BYTES / sizeof zeros + 1 }; /* header, padding, and zeros */

/* Pieces of zeros, so many bytes in all; how many pieces. */
static size_t zero_pieces(struct iovec *pieces, uint64_t size_bytes) {
    size_t n = 0;
    for (; size_bytes > 0; size_bytes -= pieces[n++].iov_len)
        pieces[n] = (struct iovec){(void *)zeros,
                                   size_bytes < sizeof zeros ? (size_t)size_bytes : sizeof zeros};
    return n;
}

/* A write that found no space may have left a part: no valid group may stand there. */
static replog_status erase_group(struct wal *wal, replog_error *err) {
    struct iovec piece = {(void *)zeros, WAL_PAGE_BYTES};
    replog_error local;
    if (wal->disk->write(wal->active->file, &piece, 1, wal->active->write_end, &local))
        return wal_break(wal, err);
    return REPLOG_RESOURCE_EXHAUSTED;
}

/* How many zeros the next write puts behind a group that ends there. */
static uint64_t zeros_ahead(const struct wal *wal, uint64_t group_end) {
    return wal->zero_to > group_end ? wal->zero_to - group_end : 0;
}

/* The n pieces of a group, which have size_bytes, its padding, and zeros ahead: in one write. */
static replog_status write_buffered(struct wal *wal, size_t n, uint64_t size_bytes,
                                    uint64_t padded_bytes, replog_error *err) {
    const struct wal_segment *segment = wal->active;
    uint64_t more = padded_bytes - size_bytes + zeros_ahead(wal, segment->write_end + padded_bytes);
    n += zero_pieces(wal->pieces + n, more);
    return wal->disk->write(segment->file, wal->pieces, n, segment->write_end, err);
}

/* Puts the next size_bytes of the pieces up to `end`, which are used up, and zeros behind them. */
static void put_pieces(struct recent *recent, struct iovec **pieces, const struct iovec *end,
                       size_t size_bytes) {
    while (size_bytes > 0 && *pieces < end) {
        struct iovec *piece = *pieces;
        size_t part = piece->iov_len < size_bytes ? piece->iov_len : size_bytes;
        recent_put(recent, piece->iov_base, part);
        size_bytes -= part;
        piece->iov_base = (uint8_t *)piece->iov_base + part;
        piece->iov_len -= part;
        if (piece->iov_len == 0) ++*pieces;
    }
    recent_put(recent, NULL, size_bytes);
}

/* The same through memory, from page boundaries; in several writes if the group is large. */
static replog_status write_recent(struct wal *wal, size_t n, uint64_t padded_bytes,
                                  replog_error *err) {
    const struct wal_segment *segment = wal->active;
    struct recent *recent = &wal->recent;
    struct iovec out[RECENT_PIECES + GROUP_MORE_PIECES], *piece = wal->pieces;
    const struct iovec *pieces_end = piece + n;
    uint64_t offset = segment->write_end, end = offset + padded_bytes;
    replog_status status = REPLOG_OK;
    while (offset < end && !status) {
        uint64_t left = end - offset;
        size_t size = left < RECENT_WRITE_BYTES ? (size_t)left : RECENT_WRITE_BYTES;
        recent_begin(recent, segment->header.number, offset, size);
        put_pieces(recent, &piece, pieces_end, size);
        size_t n_out = recent_pieces(recent, offset, out);
        if (left == size) n_out += zero_pieces(out + n_out, zeros_ahead(wal, end));
        status = wal->disk->write_direct(segment->file, out, n_out, offset, err);
        if (!status) recent_end(recent);
        offset += size;
    }
    return status;
}

/* Writes one group of n pieces (0: only a mark) at the end of the active segment. */
static replog_status write_group(struct wal *wal, const struct slice *pieces, size_t n,
                                 uint64_t length, uint32_t n_blocks, replog_error *err) {
    struct wal_segment *segment = wal->active;
    struct group_header group = {.length = (uint32_t)length,
                                 .n_blocks = n_blocks,
                                 .segment = segment->header.number,
                                 .offset = segment->write_end,
                                 .epoch = wal->manifest.epoch,
                                 .incarnation = segment->header.incarnation,
                                 .mark = MUTANT(MARK_AHEAD) ? wal->tail : wal->durable,
                                 .first_seq = wal->tail.seq + 1};
    uint8_t header[GROUP_HEADER_BYTES];
    group_encode(&group, header);
    wal->pieces[0] = (struct iovec){header, GROUP_HEADER_BYTES};
    for (size_t i = 0; i < n; i++)
        wal->pieces[i + 1] = (struct iovec){(void *)pieces[i].data, pieces[i].size_bytes};
    uint64_t padded_bytes = group_padded_bytes(length);
    replog_status status =
        wal->buffered ? write_buffered(wal, n + 1, GROUP_HEADER_BYTES + length, padded_bytes, err)
                      : write_recent(wal, n + 1, padded_bytes, err);
    wal->zero_to = 0;
    if (status == REPLOG_RESOURCE_EXHAUSTED) return erase_group(wal, err);
    if (status) return wal_break(wal, err);
    wal->unsynced = true;
    publish(wal, pieces, n, &group);
    return REPLOG_OK;
}

static bool reserve_pieces(struct wal *wal, size_t n) {
    if (wal->pieces_capacity >= n + GROUP_MORE_PIECES) return true;
    struct iovec *pieces = realloc(wal->pieces, (n + GROUP_MORE_PIECES) * sizeof *pieces);
    if (!pieces) return false;
    wal->pieces = pieces;
    wal->pieces_capacity = n + GROUP_MORE_PIECES;
    return true;
}

/* What an append adds, found while its pieces are checked. */
struct append_check {
    struct wal_pos pos; /* behind what was checked */
    size_t n_runs;      /* changes of term */
};

static replog_status check_piece(const struct wal *wal, const struct slice *piece,
                                 struct append_check *check, replog_error *err) {
    if (piece->size_bytes == 0 || piece->size_bytes > GROUP_MAX_PIECE_BYTES)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a piece of %zu bytes; 1 to %d are possible",
                         piece->size_bytes, GROUP_MAX_PIECE_BYTES);
    struct block_header h;
    replog_error why;
    for (size_t at = 0; at < piece->size_bytes; at += h.length) {
        if (block_check(piece->data + at, piece->size_bytes - at, &h, &why))
            return error_set(err, REPLOG_DATA_LOSS, "a block for seq %" PRIu64 " of %s: %s",
                             check->pos.seq + 1, wal->dir, why.text);
        if (h.first_seq != check->pos.seq + 1 || h.prev_chain != check->pos.chain ||
            h.term < check->pos.term)
            return error_set(err, REPLOG_DATA_LOSS,
                             "a block of seq %" PRIu64 ", term %" PRIu64 ", on chain %016" PRIx64
                             " does not continue seq %" PRIu64 ", term %" PRIu64
                             ", chain %016" PRIx64 " of %s",
                             h.first_seq, h.term, h.prev_chain, check->pos.seq, check->pos.term,
                             check->pos.chain, wal->dir);
        check->n_runs += h.term != check->pos.term || check->pos.seq == wal->tail.seq;
        check->pos = (struct wal_pos){block_last_seq(&h), h.term, h.hash};
    }
    return REPLOG_OK;
}

/* How many of the pieces make the next group; their length and number of blocks. */
static size_t plan_group(const struct slice *pieces, size_t n, uint64_t *length,
                         uint32_t *n_blocks) {
    size_t i = 0;
    *length = 0;
    *n_blocks = 0;
    for (; i < n && (i == 0 || *length + pieces[i].size_bytes <= GROUP_TARGET_BYTES); i++) {
        *length += pieces[i].size_bytes;
        struct block_header h;
        for (size_t at = 0; at < pieces[i].size_bytes; at += h.length) {
            CHECK(!block_peek(pieces[i].data + at, pieces[i].size_bytes - at, &h, NULL));
            ++*n_blocks;
        }
    }
    return i;
}

static replog_status append_groups(struct wal *wal, const struct slice *pieces, size_t n,
                                   size_t *written, replog_error *err) {
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < n && !status;) {
        uint64_t length;
        uint32_t n_blocks;
        size_t count = plan_group(pieces + i, n - i, &length, &n_blocks);
        struct block_header first;
        CHECK(!block_peek(pieces[i].data, pieces[i].size_bytes, &first, NULL));
        status = make_room(wal, group_padded_bytes(length), first.timestamp_us, err);
        if (!status) status = write_group(wal, pieces + i, count, length, n_blocks, err);
        if (!status) i += count;
        *written = i;
    }
    return status;
}

replog_status wal_append(struct wal *wal, const struct slice *pieces, size_t n, size_t *written,
                         replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    size_t in = 0;
    struct append_check check = {.pos = wal->tail};
    replog_status status = wal_writable(wal, err);
    for (size_t i = 0; i < n && !status; i++) status = check_piece(wal, &pieces[i], &check, err);
    if (!status) {
        lock(wal); /* the tables may move */
        bool room = runs_reserve(&wal->runs, check.n_runs);
        unlock(wal);
        if (!room || !reserve_pieces(wal, n))
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to append %zu pieces", n);
    }
    if (!status) status = append_groups(wal, pieces, n, &in, err);
    if (written) *written = in;
    return status;
}

replog_status wal_sync(struct wal *wal, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status || !wal->unsynced) return status;
    if (wal->disk->sync(wal->active->file, err) && !MUTANT(SYNC_FAILURE_IGNORED))
        return wal_break(wal, err);
    wal->unsynced = false;
    lock(wal);
    wal->durable = wal->tail;
    unlock(wal);
    return REPLOG_OK;
}

replog_status wal_mark(struct wal *wal, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status || !wal->active || wal->marked.seq >= wal->durable.seq) return status;
    if (!reserve_pieces(wal, 0))
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a mark");
    struct wal_segment *segment = wal->active;
    if (segment->write_end + WAL_PAGE_BYTES > segment->file_bytes) {
        uint64_t size = segment->write_end + WAL_PAGE_BYTES;
        status = wal->disk->allocate(segment->file, size, err);
        if (status == REPLOG_RESOURCE_EXHAUSTED) return status;
        if (status) return wal_break(wal, err);
        segment->file_bytes = size;
    }
    return write_group(wal, NULL, 0, 0, 0, err);
}

/* ---- Founding and votes */
replog_status wal_found(struct wal *wal, enum wal_founding founding, uint64_t cluster_id,
                        const struct config *config, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status) return status;
    struct manifest manifest = wal->manifest;
    manifest.identity.founding = founding;
    manifest.identity.cluster_id = cluster_id;
    if (config) manifest.config = *config;
    return wal_store_manifest(wal, &manifest, err);
}

struct wal_vote wal_vote(const struct wal *wal) {
    lock(wal);
    struct wal_vote vote = wal->vote.vote;
    unlock(wal);
    return vote;
}

replog_status wal_save_vote(struct wal *wal, struct wal_vote vote, replog_error *err) {
    replog_error local;
    if (!err) err = &local;
    replog_status status = wal_writable(wal, err);
    if (status) return status;
    struct wal_vote old = wal_vote(wal);
    bool other = vote.term == old.term && old.voted_for && vote.voted_for != old.voted_for;
    if (vote.term < old.term || (other && !MUTANT(VOTE_TWICE)))
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "term %" PRIu64 ", vote for %" PRIu64 ", after term %" PRIu64
                         ", vote for %" PRIu64 ": a term never falls, and has one vote",
                         vote.term, vote.voted_for, old.term, old.voted_for);
    if (vote_save(&wal->vote, vote, err)) return wal_break(wal, err);
    lock(wal);
    wal->vote.vote = vote;
    unlock(wal);
    return REPLOG_OK;
}

/* Opening a log. First everything is read and judged, and nothing is changed; a refusal leaves the
 * directory as it was. Then, unless read_only:
 *   1. the directory is synced: a process that ended before it synced a segment's new name left
 *      that to us, and the manifest is about to name the last segment,
 *   2. the manifest with the next epoch,
 *   3. term and vote again (vote.h says why),
 *   4. files that a cut or a truncation had dropped go, highest first,
 *   5. seals that were damaged are written again,
 *   6. what no mark proves durable is written again, byte for byte, and synced: after a failed
 *      fdatasync the page cache may hold what the disk never took. A mark
 *      follows if there is a block above the last one.
 *
 * Which segments exist: those behind the cut segment whose epoch is below that of the last cut do
 * not; of the others the last one that begins at or below the first seq, and what follows it. Each
 * must begin where the one before ends. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "wal/log_impl.h"

/* ---- What is in the directory */
struct numbers {
    uint64_t *items;
    size_t n, capacity;
};

struct listing {
    bool manifest, vote, failed;
    struct numbers segments, spares;
};

static void listing_free(struct listing *listing) {
    free(listing->segments.items);
    free(listing->spares.items);
}

static bool add_number(struct numbers *numbers, uint64_t number) {
    if (numbers->n == numbers->capacity) {
        size_t capacity = numbers->capacity * 2 + 16;
        uint64_t *items = realloc(numbers->items, capacity * sizeof *items);
        if (!items) return false;
        numbers->items = items;
        numbers->capacity = capacity;
    }
    numbers->items[numbers->n++] = number;
    return true;
}

/* Sixteen lower-case hexadecimal digits. */
static bool parse_number(const char *text, uint64_t *number) {
    static const char digits[] = "0123456789abcdef";
    uint64_t value = 0;
    for (int i = 0; i < 16; i++) {
        const char *digit = text[i] ? strchr(digits, text[i]) : NULL;
        if (!digit) return false;
        value = value << 4 | (uint64_t)(digit - digits);
    }
    *number = value;
    return true;
}

static void note_name(const char *name, void *user) {
    struct listing *listing = user;
    uint64_t number;
    if (strcmp(name, "MANIFEST") == 0) listing->manifest = true;
    if (strcmp(name, "VOTE") == 0) listing->vote = true;
    size_t length = strlen(name);
    if (length == 20 && strcmp(name + 16, ".seg") == 0 && parse_number(name, &number))
        listing->failed |= !add_number(&listing->segments, number);
    if (length == 22 && memcmp(name, "spare-", 6) == 0 && parse_number(name + 6, &number))
        listing->failed |= !add_number(&listing->spares, number);
}

static int compare_numbers(const void *a, const void *b) {
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static replog_status list(const struct wal *wal, struct listing *listing, replog_error *err) {
    *listing = (struct listing){0};
    replog_status status = wal->disk->list(wal->disk->ctx, wal->dir, note_name, listing, err);
    if (!status && listing->failed)
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to list %s", wal->dir);
    if (!status && listing->segments.n)
        qsort(listing->segments.items, listing->segments.n, sizeof(uint64_t), compare_numbers);
    return status;
}

/* ---- A new directory */
static replog_status make_dir(const struct wal *wal, const struct wal_options *options,
                              replog_error *err) {
    if (!options->create || options->read_only)
        return error_set(err, REPLOG_NOT_FOUND, "%s: no such directory", wal->dir);
    return wal->disk->make_dir(wal->disk->ctx, wal->dir, err);
}

/* A vote without a manifest: left by a making that was interrupted, unless somebody voted. */
static replog_status check_stray_vote(const struct wal *wal, replog_error *err) {
    struct wal_path path;
    struct vote_file vote = {0};
    wal_file_path(wal, "VOTE", &path);
    replog_status status = vote_load(wal->disk, path.text, true, &vote, err);
    if (status == REPLOG_DATA_LOSS) return REPLOG_OK;
    if (!status && vote.vote.term)
        status = error_set(err, REPLOG_FAILED_PRECONDITION,
                           "%s holds a vote of term %" PRIu64 ", and MANIFEST is missing: this is "
                           "not a new directory, and not a whole one",
                           path.text, vote.vote.term);
    return status;
}

static replog_status make_log(struct wal *wal, const struct wal_options *options,
                              const struct listing *found, replog_error *err) {
    if (found->segments.n)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "%s holds %zu segment files, and MANIFEST is missing: restore it; it "
                         "is not guessed",
                         wal->dir, found->segments.n);
    if (!options->create || options->read_only)
        return error_set(err, REPLOG_NOT_FOUND, "%s: there is no log (no MANIFEST)", wal->dir);
    if (!options->new_incarnation)
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a new directory needs an incarnation");
    replog_status status = found->vote ? check_stray_vote(wal, err) : REPLOG_OK;
    struct wal_path path;
    wal_file_path(wal, "VOTE", &path);
    if (!status) status = disk_sync_name(wal->disk, wal->dir, err);
    if (!status) status = vote_create(wal->disk, path.text, options->new_incarnation, err);
    /* VOTE must have its name before MANIFEST has its own: without it the directory is refused. */
    if (!status) status = wal->disk->sync_dir(wal->disk->ctx, wal->dir, err);
    if (status) return status;
    struct manifest manifest = {
        .identity = {.member_id = options->member_id,
                     .incarnation = options->new_incarnation,
                     .founding = options->member_id ? WAL_EMPTY : WAL_STANDALONE}};
    bool renamed;
    return manifest_store(wal->disk, wal->dir, &manifest, &renamed, err);
}

/* ---- Identity */
static replog_status load_identity(struct wal *wal, const struct wal_options *options,
                                   const struct listing *found, replog_error *err) {
    replog_status status = manifest_load(wal->disk, wal->dir, &wal->manifest, err);
    if (status) return status;
    const struct wal_identity *identity = &wal->manifest.identity;
    bool offline = options->read_only && !options->member_id;
    if (identity->member_id != options->member_id && !offline)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "%s belongs to member %" PRIu64 ", not to member %" PRIu64
                         " (0: a log without a cluster)",
                         wal->dir, identity->member_id, options->member_id);
    if (!found->vote)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "%s/VOTE is missing: term and vote are not guessed, and this member must "
                         "not vote without them",
                         wal->dir);
    struct wal_path path;
    wal_file_path(wal, "VOTE", &path);
    status = vote_load(wal->disk, path.text, options->read_only, &wal->vote, err);
    if (MUTANT(DAMAGED_VOTE_REPLACED) && status == REPLOG_DATA_LOSS &&
        vote_create(wal->disk, path.text, identity->incarnation, err) == REPLOG_OK)
        status = vote_load(wal->disk, path.text, false, &wal->vote, err);
    if (!status && wal->vote.incarnation != identity->incarnation)
        status = error_set(err, REPLOG_FAILED_PRECONDITION,
                           "%s is of incarnation %016" PRIx64 ", the manifest of %016" PRIx64
                           ": files of two directories are mixed",
                           path.text, wal->vote.incarnation, identity->incarnation);
    return status;
}

/* ---- Segments: judged */
struct candidate {
    uint64_t number;
    bool valid; /* the header page is */
    bool gone;  /* dropped by a cut or a truncation: to be unlinked */
    struct segment_header header;
    uint64_t file_bytes;
};

struct opening {
    struct wal *wal;
    struct listing found;
    struct candidate *candidates;
    size_t n;
    size_t first;   /* the first candidate that exists for the log; n: none */
    size_t *reseal; /* of wal->segments: those whose seal must be written again */
    size_t n_reseal;
    struct disk_file *last_file; /* of the last segment, while it is judged */
    struct rescan last;
    struct segment_index scratch;
    uint8_t slot[SEGMENT_SEAL_BYTES];
    struct wal_term_run slot_runs[SEGMENT_MAX_RUNS];
};

static replog_status load_header(struct opening *o, struct candidate *c, replog_error *err) {
    struct wal_path path;
    uint8_t page[WAL_PAGE_BYTES];
    const struct disk *disk = o->wal->disk;
    struct disk_file *file = NULL;
    size_t got = 0;
    wal_segment_path(o->wal, c->number, &path);
    replog_status status = disk->open(disk->ctx, path.text, DISK_READ, &file, err);
    if (status) return status;
    status = disk->size(file, &c->file_bytes, err);
    if (!status) status = disk->read(file, page, sizeof page, 0, &got, err);
    disk->close(file);
    if (status) return status;
    c->valid = got == sizeof page && segment_header_decode(page, &c->header);
    return REPLOG_OK;
}

static replog_status load_headers(struct opening *o, replog_error *err) {
    o->n = o->first = o->found.segments.n;
    o->candidates = calloc(o->n + 1, sizeof *o->candidates);
    if (!o->candidates)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for %zu segments", o->n);
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < o->n && !status; i++) {
        o->candidates[i].number = o->found.segments.items[i];
        status = load_header(o, &o->candidates[i], err);
    }
    return status;
}

/* Marks what is gone, and finds the first that counts. */
static void drop_candidates(struct opening *o) {
    const struct manifest *m = &o->wal->manifest;
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < o->n; i++) {
        struct candidate *c = &o->candidates[i];
        if (c->valid && c->number > m->cut.segment && c->header.epoch < m->cut.epoch)
            c->gone = true;
        else if (c->valid && c->header.first_seq <= m->base.seq + 1)
            first = i;
    }
    for (size_t i = 0; first != SIZE_MAX && i < first; i++) o->candidates[i].gone = true;
    if (first != SIZE_MAX) o->first = first;
}

static replog_status judge_header(const struct opening *o, const struct candidate *c,
                                  uint64_t expected_seq, replog_error *err) {
    struct wal_path path;
    const struct manifest *m = &o->wal->manifest;
    wal_segment_path(o->wal, c->number, &path);
    if (!c->valid || c->header.number != c->number)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset 0, seq %" PRIu64 ": the segment's header is damaged",
                         path.text, expected_seq);
    if (c->header.incarnation != m->identity.incarnation)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "%s is of incarnation %016" PRIx64 ", this directory is %016" PRIx64,
                         path.text, c->header.incarnation, m->identity.incarnation);
    if (c->header.cluster_id && c->header.cluster_id != m->identity.cluster_id)
        return error_set(err, REPLOG_FAILED_PRECONDITION,
                         "%s belongs to cluster %016" PRIx64 ", this directory to %016" PRIx64,
                         path.text, c->header.cluster_id, m->identity.cluster_id);
    if (c->header.epoch > m->epoch)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset 0, seq %" PRIu64 ": of epoch %" PRIu64
                         " beside a manifest of epoch %" PRIu64 ": the manifest is an old copy",
                         path.text, c->header.first_seq, c->header.epoch, m->epoch);
    return REPLOG_OK;
}

static replog_status judge_candidates(const struct opening *o, replog_error *err) {
    const struct manifest *m = &o->wal->manifest;
    uint64_t expected_seq = m->base.seq + 1, highest = 0;
    for (size_t i = 0; i < o->n; i++) {
        const struct candidate *c = &o->candidates[i];
        if (c->gone) continue;
        replog_status status = judge_header(o, c, expected_seq, err);
        if (status) return status;
        if (i < o->first) /* none begins low enough */
            return error_set(err, REPLOG_DATA_LOSS,
                             "%s: offset 0, seq %" PRIu64 ": the segment that begins at or below "
                             "seq %" PRIu64 " is missing",
                             o->wal->dir, expected_seq, expected_seq);
        expected_seq = c->header.first_seq;
        highest = c->number;
    }
    if (highest < m->last_segment)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s/%016" PRIx64 ".seg: offset 0, seq %" PRIu64 ": the file is missing",
                         o->wal->dir, m->last_segment, expected_seq);
    return REPLOG_OK;
}

static replog_status add_segment(struct wal *wal, const struct candidate *c, replog_error *err) {
    struct wal_segment *segment = calloc(1, sizeof *segment);
    if (!segment || !wal_reserve_segment(wal)) {
        free(segment);
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for a segment");
    }
    segment->header = c->header;
    segment->file_bytes = c->file_bytes;
    wal->segments[wal->n_segments++] = segment;
    return REPLOG_OK;
}

static bool same_pos(const struct wal_pos *a, const struct wal_pos *b) {
    return a->seq == b->seq && a->term == b->term && a->chain == b->chain;
}

/* Takes over what a valid seal says, unless it contradicts `target`. */
static bool use_seal(struct opening *o, struct wal_segment *segment, const struct wal_pos *target) {
    struct wal *wal = o->wal;
    struct segment_seal seal;
    if (!segment_seal_decode(o->slot, &segment->header, &seal, NULL, o->slot_runs)) return false;
    if (target && !same_pos(&seal.last, target)) return false;
    if (seal.runs_incomplete || seal.data_end > segment->file_bytes) return false;
    if (!runs_reserve(&wal->runs, seal.n_runs)) return false;
    for (uint32_t i = 0; i < seal.n_runs; i++)
        runs_add(&wal->runs, o->slot_runs[i].term, o->slot_runs[i].first_seq);
    segment->last = seal.last;
    segment->data_end = seal.data_end;
    segment->write_end = page_align(seal.data_end);
    segment->last_us = seal.last_us;
    segment->sealed = true;
    return true;
}

static replog_status open_segment(struct opening *o, const struct wal_segment *segment,
                                  bool for_writing, struct disk_file **file, replog_error *err) {
    struct wal_path path;
    size_t got = 0;
    const struct disk *disk = o->wal->disk;
    wal_segment_path(o->wal, segment->header.number, &path);
    replog_status status =
        disk->open(disk->ctx, path.text, for_writing ? DISK_WRITE : DISK_READ, file, err);
    if (status) return status;
    status = disk->read(*file, o->slot, sizeof o->slot, SEGMENT_SEAL_OFFSET, &got, err);
    if (got < sizeof o->slot) memset(o->slot + got, 0, sizeof o->slot - got);
    if (status) {
        disk->close(*file);
        *file = NULL;
    }
    return status;
}

/* A segment with a successor: it ends where the successor begins. */
static replog_status judge_inner(struct opening *o, size_t index, replog_error *err) {
    struct wal_segment *segment = o->wal->segments[index];
    const struct wal_pos *target = &o->wal->segments[index + 1]->header.prev;
    struct disk_file *file = NULL;
    replog_status status = open_segment(o, segment, false, &file, err);
    if (status) return status;
    if (!use_seal(o, segment, target)) {
        struct rescan rescan = {.segment = segment,
                                .file = file,
                                .target = target,
                                .index = &o->scratch,
                                .runs = &o->wal->runs};
        status = wal_rescan(o->wal, &rescan, err);
        segment->sealed = true;
        if (!status) o->reseal[o->n_reseal++] = index;
    }
    o->wal->disk->close(file);
    return status;
}

/* The last segment. It ends where the last cut says, or its seal, or wherever it ends. A seal is
 * written when all groups are durable, so it proves them like a mark; they are read all the
 * same. */
static replog_status judge_last(struct opening *o, struct wal_segment *segment, replog_error *err) {
    struct wal *wal = o->wal;
    const struct manifest_cut *cut = &wal->manifest.cut;
    replog_status status = open_segment(o, segment, !wal->read_only, &o->last_file, err);
    if (status) return status;
    struct segment_seal seal;
    struct wal_pos target;
    bool has_target = true;
    if (segment->header.number == cut->segment)
        target = cut->last;
    else if (segment_seal_decode(o->slot, &segment->header, &seal, NULL, NULL))
        target = seal.last;
    else
        has_target = false;
    o->last = (struct rescan){.segment = segment,
                              .file = o->last_file,
                              .target = has_target ? &target : NULL,
                              .index = &wal->index,
                              .runs = &wal->runs};
    status = wal_rescan(wal, &o->last, err);
    o->last.target = NULL;
    segment->sealed = has_target;
    wal->torn_bytes = o->last.torn_bytes;
    return status;
}

static replog_status judge_segments(struct opening *o, replog_error *err) {
    struct wal *wal = o->wal;
    const struct wal_pos *base = &wal->manifest.base;
    o->reseal = calloc(o->n + 1, sizeof *o->reseal);
    if (!o->reseal)
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for %zu segments", o->n);
    replog_status status = REPLOG_OK;
    for (size_t i = o->first; i < o->n && !status; i++)
        if (!o->candidates[i].gone) status = add_segment(wal, &o->candidates[i], err);
    for (size_t i = 0; i + 1 < wal->n_segments && !status; i++) status = judge_inner(o, i, err);
    if (!status && wal->n_segments) status = judge_last(o, wal->segments[wal->n_segments - 1], err);
    if (status) return status;
    wal->tail = wal->n_segments ? wal->segments[wal->n_segments - 1]->last : *base;
    struct wal_pos begin = wal->n_segments ? wal->segments[0]->header.prev : *base;
    bool wrong_base = (begin.seq == base->seq && !same_pos(&begin, base)) ||
                      (wal->tail.seq == base->seq && !same_pos(&wal->tail, base));
    if (wal->tail.seq < base->seq || wrong_base)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset 56, seq %" PRIu64 ": the manifest says that the log continues "
                         "seq %" PRIu64 ", chain %016" PRIx64
                         "; the segments do not (they end with "
                         "seq %" PRIu64 ")",
                         wal->dir, base->seq + 1, base->seq, base->chain, wal->tail.seq);
    runs_trim(&wal->runs, base->seq + 1, wal->tail.seq);
    return REPLOG_OK;
}

/* ---- Changes */
static replog_status remove_gone(struct opening *o, replog_error *err) {
    struct wal *wal = o->wal;
    bool any = false;
    replog_status status = REPLOG_OK;
    for (size_t i = o->n; i-- > 0 && !status;) {
        if (!o->candidates[i].gone) continue;
        status = wal_drop_file(wal, o->candidates[i].number, false, err);
        any = true;
    }
    if (!status && any) status = wal->disk->sync_dir(wal->disk->ctx, wal->dir, err);
    return status;
}

/* Keeps whole spare files up to the pool's size; the others go. */
static replog_status adopt_spares(struct opening *o, replog_error *err) {
    struct wal *wal = o->wal;
    const struct disk *disk = wal->disk;
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < o->found.spares.n && !status; i++) {
        uint64_t number = o->found.spares.items[i], size = 0;
        struct wal_path path;
        struct disk_file *file = NULL;
        wal_spare_path(wal, number, &path);
        status = disk->open(disk->ctx, path.text, DISK_READ, &file, err);
        if (!status) status = disk->size(file, &size, err);
        if (file) disk->close(file);
        if (status) break;
        if (number >= wal->next_number) wal->next_number = number + 1;
        if (size >= wal->segment_bytes && wal->n_spares < wal->pool_segments)
            wal->spares[wal->n_spares++] = number;
        else
            status = disk->unlink(disk->ctx, path.text, err);
    }
    return status;
}

static replog_status write_again(struct opening *o, replog_error *err) {
    const struct disk *disk = o->wal->disk;
    struct wal_segment *segment = o->last.segment;
    uint8_t *data = malloc(WAL_GROW_BYTES);
    if (!data) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to rewrite the tail");
    replog_status status = REPLOG_OK;
    uint64_t end = segment->write_end;
    for (uint64_t at = o->last.rewrite_from; at < end && !status;) {
        size_t want = end - at < WAL_GROW_BYTES ? (size_t)(end - at) : WAL_GROW_BYTES, got = 0;
        status = disk->read(o->last_file, data, want, at, &got, err);
        /* A torn file size may have taken the last group's padding, and nothing else of it. */
        if (!status) memset(data + got, 0, want - got);
        struct iovec piece = {data, want};
        if (!status) status = disk->write(o->last_file, &piece, 1, at, err);
        at += want;
    }
    free(data);
    if (segment->file_bytes < end) segment->file_bytes = end;
    return status ? status : disk->sync(o->last_file, err);
}

static replog_status settle_last(struct opening *o, replog_error *err) {
    struct wal *wal = o->wal;
    struct wal_segment *segment = o->last.segment; /* NULL: the log has none */
    if (!segment) return REPLOG_OK;
    replog_status status = REPLOG_OK;
    bool above_mark = o->last.marked.seq < segment->last.seq;
    if (o->last.rewrite_from < segment->write_end && !MUTANT(TRUST_PAGE_CACHE))
        status = write_again(o, err);
    if (!status && segment->sealed)
        status = wal_write_seal(wal, segment, o->last_file, &wal->index, err);
    if (!status && segment->sealed) status = wal->disk->sync(o->last_file, err);
    if (status) return status;
    wal->durable = wal->marked = wal->tail;
    if (segment->sealed) return REPLOG_OK;
    wal->active = segment;
    segment->file = o->last_file;
    segment->users = 1;
    o->last_file = NULL;
    if (!above_mark) return REPLOG_OK;
    wal->marked = o->last.marked;
    replog_error why;
    status = wal_mark(wal, &why);
    if (status == REPLOG_RESOURCE_EXHAUSTED)
        return REPLOG_OK; /* a full disk; the next one will do */
    return status ? error_set(err, status, "%s", why.text) : wal_sync(wal, err);
}

static replog_status reseal(struct opening *o, replog_error *err) {
    const struct disk *disk = o->wal->disk;
    replog_status status = REPLOG_OK;
    for (size_t i = 0; i < o->n_reseal && !status; i++) {
        struct wal_segment *segment = o->wal->segments[o->reseal[i]];
        struct disk_file *file = NULL;
        struct rescan rescan = {.segment = segment, .index = &o->scratch};
        struct wal_pos target = segment->last;
        rescan.target = &target;
        status = open_segment(o, segment, true, &file, err);
        if (status) break;
        rescan.file = file;
        status = wal_rescan(o->wal, &rescan, err);
        if (!status) status = wal_write_seal(o->wal, segment, file, &o->scratch, err);
        if (!status) status = disk->sync(file, err);
        disk->close(file);
    }
    return status;
}

static replog_status make_changes(struct opening *o, replog_error *err) {
    struct wal *wal = o->wal;
    bool renamed;
    struct manifest manifest = wal->manifest;
    manifest.epoch++;
    manifest.last_segment = 0;
    if (wal->n_segments) manifest.last_segment = wal->segments[wal->n_segments - 1]->header.number;
    wal->next_number = o->n ? o->candidates[o->n - 1].number + 1 : 1;
    if (wal->next_number <= manifest.cut.segment) wal->next_number = manifest.cut.segment + 1;
    replog_status status = wal->disk->sync_dir(wal->disk->ctx, wal->dir, err);
    if (!status) status = manifest_store(wal->disk, wal->dir, &manifest, &renamed, err);
    if (status) return status;
    wal->manifest = manifest;
    status = vote_save(&wal->vote, wal->vote.vote, err);
    if (!status) status = remove_gone(o, err);
    if (!status) status = adopt_spares(o, err);
    if (!status) status = reseal(o, err);
    wal->durable = wal->tail;
    if (!status) status = settle_last(o, err);
    return status;
}

/* ---- The whole */
static replog_status check_options(const struct wal_options *options, replog_error *err) {
    uint32_t segment_bytes = options->segment_bytes;
    if (segment_bytes &&
        (segment_bytes < WAL_MIN_SEGMENT_BYTES || segment_bytes > WAL_MAX_SEGMENT_BYTES))
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "segments of %" PRIu32 " bytes; the limits are %d and %d", segment_bytes,
                         WAL_MIN_SEGMENT_BYTES, WAL_MAX_SEGMENT_BYTES);
    if (options->pool_segments > WAL_MAX_POOL_SEGMENTS)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a pool of %" PRIu32 " segments; the limit is %d", options->pool_segments,
                         WAL_MAX_POOL_SEGMENTS);
    size_t length = strlen(options->dir);
    if (!length || length > WAL_PATH_BYTES - 64)
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a directory's path of %zu bytes; 1 to %d are possible", length,
                         WAL_PATH_BYTES - 64);
    return REPLOG_OK;
}

static struct wal *new_wal(const struct wal_options *options) {
    struct wal *wal = calloc(1, sizeof *wal);
    if (!wal) return NULL;
    wal->disk = options->disk;
    wal->read_only = options->read_only;
    wal->buffered = options->buffered;
    wal->segment_bytes =
        options->segment_bytes ? options->segment_bytes : WAL_DEFAULT_SEGMENT_BYTES;
    wal->pool_segments =
        options->pool_segments ? options->pool_segments : WAL_DEFAULT_POOL_SEGMENTS;
    wal->dir = malloc(strlen(options->dir) + 1);
    wal->spares = calloc(WAL_MAX_POOL_SEGMENTS, sizeof *wal->spares);
    if (!wal->dir || !wal->spares || !recent_init(&wal->recent)) goto failed;
    bool from_memory = !wal->buffered && !wal->read_only;
    if ((from_memory && !recent_reserve(&wal->recent)) || pthread_mutex_init(&wal->mutex, NULL)) {
        recent_free(&wal->recent);
        goto failed;
    }
    memcpy(wal->dir, options->dir, strlen(options->dir) + 1);
    index_reset(&wal->index);
    return wal;
failed:
    free(wal->dir);
    free(wal->spares);
    free(wal);
    return NULL;
}

/* The directory, its lock, and what is in it. */
static replog_status enter(struct wal *wal, const struct wal_options *options,
                           struct listing *found, replog_error *err) {
    replog_status status = list(wal, found, err);
    if (status == REPLOG_NOT_FOUND) {
        status = make_dir(wal, options, err);
    } else if (!status && !found->manifest && !options->create) {
        /* Before the lock: a directory that is none of ours stays as it is. */
        status = make_log(wal, options, found, err);
    }
    if (status) return status;
    struct wal_path path;
    wal_file_path(wal, "LOCK", &path);
    status = wal->disk->lock(wal->disk->ctx, path.text, &wal->lock, err);
    if (status) return status;
    listing_free(found);
    status = list(wal, found, err);
    if (!status && !found->manifest) {
        status = make_log(wal, options, found, err);
        found->vote = true;
    }
    return status;
}

replog_status wal_open(const struct wal_options *options, struct wal **wal, replog_error *caller) {
    /* What is tried and tolerated on the way leaves its sentence here, not with the caller. */
    replog_error own, *err = &own;
    replog_status status = check_options(options, err);
    if (status) return error_set(caller, status, "%s", own.text);
    struct opening *o = calloc(1, sizeof *o);
    struct wal *made = new_wal(options);
    if (!o || !made) {
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to open %s", options->dir);
        goto out;
    }
    o->wal = made;
    status = enter(made, options, &o->found, err);
    if (!status) status = load_identity(made, options, &o->found, err);
    if (!status) status = load_headers(o, err);
    if (!status) drop_candidates(o);
    if (!status) status = judge_candidates(o, err);
    if (!status) status = judge_segments(o, err);
    if (!status && !made->read_only) status = make_changes(o, err);
    if (!status && made->read_only) made->durable = made->tail;
    if (!status && MUTANT(OWN_TAIL_FORGOTTEN) && made->vote.vote.voted_for == options->member_id &&
        o->last.marked.seq > made->manifest.base.seq)
        status = wal_cut(made, o->last.marked.seq, err);
    if (status) goto out;
    atomic_store(&made->tail_seq, made->tail.seq);
    *wal = made;
    made = NULL;
out:
    if (o) {
        if (o->last_file) options->disk->close(o->last_file);
        free(o->candidates);
        free(o->reseal);
        listing_free(&o->found);
        free(o);
    }
    wal_close(made);
    return status ? error_set(caller, status, "%s", own.text) : REPLOG_OK;
}

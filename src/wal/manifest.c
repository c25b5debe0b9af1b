/* The file MANIFEST (manifest.h). */
#include "wal/manifest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/mutant.h"
#include "wal/group.h"

enum { FIXED_BYTES = 140, MAX_BYTES = 16384 };

static const uint8_t magic[4] = {'R', 'L', 'M', '1'};

static void name_path(const char *dir, const char *name, struct wal_path *path) {
    snprintf(path->text, sizeof path->text, "%s/%s", dir, name);
}

static void put_pos(struct buffer *out, struct wal_pos pos) {
    buffer_u64(out, pos.seq);
    buffer_u64(out, pos.term);
    buffer_u64(out, pos.chain);
}

static void encode(const struct manifest *m, struct buffer *out) {
    buffer_u64(out, 0); /* the hash, below */
    buffer_append(out, magic, 4);
    buffer_u32(out, 1); /* version and the zero behind it */
    buffer_u32(out, 0); /* the length, below */
    buffer_u32(out, (uint32_t)m->identity.founding);
    buffer_u64(out, m->identity.cluster_id);
    buffer_u64(out, m->identity.member_id);
    buffer_u64(out, m->identity.incarnation);
    buffer_u64(out, m->epoch);
    put_pos(out, m->base);
    buffer_u64(out, m->last_segment);
    buffer_u64(out, m->cut.segment);
    buffer_u64(out, m->cut.epoch);
    buffer_u64(out, m->cut.end_offset);
    put_pos(out, m->cut.last);
    size_t at = out->size_bytes;
    buffer_u32(out, 0);
    if (m->config.n_members) config_encode(&m->config, out);
    if (out->failed || !out->data) return;
    put_u32(out->data + at, (uint32_t)(out->size_bytes - at - 4));
    put_u32(out->data + 16, (uint32_t)out->size_bytes);
    put_u64(out->data, hash64(out->data + 8, out->size_bytes - 8));
}

static struct wal_pos get_pos(struct cursor *c) {
    struct wal_pos pos;
    pos.seq = cursor_u64(c);
    pos.term = cursor_u64(c);
    pos.chain = cursor_u64(c);
    return pos;
}

static replog_status decode_config(struct cursor *c, const char *path, struct manifest *m,
                                   replog_error *err) {
    uint32_t length = cursor_u32(c);
    if (c->failed || length != c->size_bytes - c->offset)
        return error_set(err, REPLOG_DATA_LOSS, "%s: offset %d: the CONFIG's length is wrong", path,
                         FIXED_BYTES - 4);
    if (!length) return REPLOG_OK;
    replog_error why;
    if (config_decode((struct slice){c->data + c->offset, length}, &m->config, &why))
        return error_set(err, REPLOG_DATA_LOSS, "%s: offset %d: %s", path, FIXED_BYTES, why.text);
    return REPLOG_OK;
}

static replog_status decode(const uint8_t *data, size_t size, const char *path,
                            struct manifest *manifest, replog_error *err) {
    if (size < FIXED_BYTES)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset %zu: the file ends within the fixed part", path, size);
    if (memcmp(data + 8, magic, 4) != 0 || get_u32(data + 12) != 1)
        return error_set(err, REPLOG_DATA_LOSS, "%s: offset 8: not a manifest of version 1", path);
    if (get_u32(data + 16) != size)
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset 16: a length of %" PRIu32 " in a file of %zu bytes", path,
                         get_u32(data + 16), size);
    if (get_u64(data) != hash64(data + 8, size - 8))
        return error_set(err, REPLOG_DATA_LOSS,
                         "%s: offset 0: the hash does not fit the content; it is not "
                         "repaired, for it holds what nothing else holds",
                         path);
    struct cursor c = {data, size, 20, false};
    struct manifest m = {0};
    uint32_t founding = cursor_u32(&c);
    if (founding > WAL_FOUNDED)
        return error_set(err, REPLOG_DATA_LOSS, "%s: offset 20: founding state %" PRIu32, path,
                         founding);
    m.identity.founding = (enum wal_founding)founding;
    m.identity.cluster_id = cursor_u64(&c);
    m.identity.member_id = cursor_u64(&c);
    m.identity.incarnation = cursor_u64(&c);
    m.epoch = cursor_u64(&c);
    m.base = get_pos(&c);
    if (m.base.seq == UINT64_MAX)
        return error_set(err, REPLOG_DATA_LOSS, "%s: offset 56: no seq can follow the last of all",
                         path);
    m.last_segment = cursor_u64(&c);
    m.cut.segment = cursor_u64(&c);
    m.cut.epoch = cursor_u64(&c);
    m.cut.end_offset = cursor_u64(&c);
    m.cut.last = get_pos(&c);
    replog_status status = decode_config(&c, path, &m, err);
    if (!status) *manifest = m;
    return status;
}

replog_status manifest_load(const struct disk *disk, const char *dir, struct manifest *manifest,
                            replog_error *err) {
    struct wal_path path;
    name_path(dir, "MANIFEST", &path);
    struct disk_file *file = NULL;
    replog_status status = disk->open(disk->ctx, path.text, DISK_READ, &file, err);
    if (status) return status;
    size_t got = 0;
    uint8_t *data = malloc(MAX_BYTES + 1);
    if (!data) {
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to read %s", path.text);
        goto out;
    }
    status = disk->read(file, data, MAX_BYTES + 1, 0, &got, err);
    if (!status && got > MAX_BYTES)
        status = error_set(err, REPLOG_DATA_LOSS, "%s: offset %d: the file is too long", path.text,
                           MAX_BYTES);
    if (!status) status = decode(data, got, path.text, manifest, err);
out:
    free(data);
    disk->close(file);
    return status;
}

static replog_status write_new(const struct disk *disk, const char *path,
                               const struct buffer *content, replog_error *err) {
    replog_error gone;
    replog_status status = disk->unlink(disk->ctx, path, &gone);
    if (status && status != REPLOG_NOT_FOUND) return error_set(err, status, "%s", gone.text);
    struct disk_file *file = NULL;
    status = disk->open(disk->ctx, path, DISK_CREATE, &file, err);
    if (status) return status;
    struct iovec piece = {content->data, content->size_bytes};
    status = disk->write(file, &piece, 1, 0, err);
    if (!status) status = disk->sync(file, err);
    disk->close(file);
    return status;
}

replog_status manifest_store(const struct disk *disk, const char *dir,
                             const struct manifest *manifest, bool *renamed, replog_error *err) {
    struct wal_path path, temporary;
    name_path(dir, "MANIFEST", &path);
    name_path(dir, "MANIFEST.tmp", &temporary);
    struct buffer content = {0};
    *renamed = false;
    encode(manifest, &content);
    replog_status status = REPLOG_OK;
    if (content.failed || !content.data)
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to write %s", path.text);
    if (!status) status = write_new(disk, temporary.text, &content, err);
    if (!status) {
        status = disk->rename(disk->ctx, temporary.text, path.text, err);
        *renamed = status != REPLOG_RESOURCE_EXHAUSTED; /* another failure leaves it open */
    }
    if (!status && !MUTANT(RENAME_NOT_SYNCED)) status = disk->sync_dir(disk->ctx, dir, err);
    buffer_free(&content);
    return status;
}

#include "wal/disk.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"

uint8_t *disk_buffer_new(size_t size_bytes) {
    enum { HUGE_PAGE_BYTES = 2 << 20 };
    size_t whole = (size_bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    uint8_t *buffer = aligned_alloc(HUGE_PAGE_BYTES, whole);
    if (buffer) (void)madvise(buffer, whole, MADV_HUGEPAGE);
    return buffer;
}

void disk_buffer_free(uint8_t *buffer) {
    free(buffer);
}

replog_status disk_sync_name(const struct disk *disk, const char *dir, replog_error *err) {
    size_t length = strlen(dir);
    while (length > 1 && dir[length - 1] == '/') length--;
    while (length > 0 && dir[length - 1] != '/') length--;
    while (length > 1 && dir[length - 1] == '/') length--;
    char *parent = length ? strndup(dir, length) : strdup(".");
    if (!parent) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory to sync %s", dir);
    replog_error why;
    replog_status status = disk->sync_dir(disk->ctx, parent, &why);
    free(parent);
    if (status == REPLOG_OK || status == REPLOG_PERMISSION_DENIED) return REPLOG_OK;
    return error_set(err, status, "%s", why.text);
}

/* error.h: filling a replog_error. Hides: the format of the sentence. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include "replog/status.h"

/* Writes `status` and the formatted sentence into *err (if err is not NULL) and returns `status`,
 * so that `return error_set(err, REPLOG_DATA_LOSS, "...")` is the whole failure path. */
replog_status error_set(replog_error *err, replog_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As error_set, with ": strerror(errnum)" behind the sentence. The status follows the errno:
 * ENOSPC and EDQUOT: RESOURCE_EXHAUSTED; ENOENT: NOT_FOUND; EACCES, EPERM: PERMISSION_DENIED;
 * anything else: UNAVAILABLE. */
replog_status error_errno(replog_error *err, int errnum, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif

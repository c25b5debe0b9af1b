#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

replog_status error_set(replog_error *err, replog_status status, const char *format, ...) {
    if (!err) return status;
    /* The text is built aside: an argument may point into *err. */
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0) text[0] = '\0';
    err->status = status;
    memcpy(err->text, text, sizeof text);
    return status;
}

static replog_status status_of_errno(int errnum) {
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return REPLOG_RESOURCE_EXHAUSTED;
    case ENOENT:
        return REPLOG_NOT_FOUND;
    case EACCES:
    case EPERM:
        return REPLOG_PERMISSION_DENIED;
    default:
        return REPLOG_UNAVAILABLE;
    }
}

replog_status error_errno(replog_error *err, int errnum, const char *format, ...) {
    replog_status status = status_of_errno(errnum);
    if (!err) return status;
    char text[sizeof err->text];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0) text[0] = '\0';
    char reason[128];
    return error_set(err, status, "%s: %s", text, strerror_r(errnum, reason, sizeof reason));
}

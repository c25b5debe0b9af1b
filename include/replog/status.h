/* replog/status.h: the outcome of every call, in the library and on the wire.
 *
 * The values are gRPC's canonical status codes, so that a status travels unchanged from the place
 * where it arose to a client in any language. Every function that can fail returns a
 * replog_status; most also take a `replog_error *`, which may be NULL, and on failure write the
 * status and one sentence into it: what was wrong, which limit, what to do. On success the error
 * is left untouched. */
#ifndef REPLOG_STATUS_H
#define REPLOG_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/* name, gRPC code, what it means in replog */
#define REPLOG_STATUS_TABLE(X)                                                                     \
    X(OK, 0, "done")                                                                               \
    X(CANCELLED, 1, "the caller gave up")                                                          \
    X(UNKNOWN, 2, "an error without a code")                                                       \
    X(INVALID_ARGUMENT, 3, "the request can never succeed as it is")                               \
    X(DEADLINE_EXCEEDED, 4, "no answer in time; the outcome may be unknown")                       \
    X(NOT_FOUND, 5, "no such key or file")                                                         \
    X(ALREADY_EXISTS, 6, "it is there already")                                                    \
    X(PERMISSION_DENIED, 7, "not allowed")                                                         \
    X(RESOURCE_EXHAUSTED, 8, "a limit, a queue or the disk is full; try again later")              \
    X(FAILED_PRECONDITION, 9, "the state forbids it; change the state first")                      \
    X(ABORTED, 10, "overtaken by a concurrent change; start over")                                 \
    X(OUT_OF_RANGE, 11, "outside what the log holds")                                              \
    X(UNIMPLEMENTED, 12, "no such method")                                                         \
    X(INTERNAL, 13, "an invariant is broken; a bug")                                               \
    X(UNAVAILABLE, 14, "not possible at this moment; retry with the same sequence")                \
    X(DATA_LOSS, 15, "stored bytes are damaged")                                                   \
    X(UNAUTHENTICATED, 16, "no valid credentials")

typedef enum replog_status {
#define REPLOG_STATUS_ENUM(name, code, text) REPLOG_##name = code,
    REPLOG_STATUS_TABLE(REPLOG_STATUS_ENUM)
#undef REPLOG_STATUS_ENUM
} replog_status;

/* One failure, told to a person. `text` is a NUL-terminated sentence (UTF-8, may be cut off). */
typedef struct replog_error {
    replog_status status;
    char text[508];
} replog_error;

/* The name of a status ("UNAVAILABLE"), or "UNKNOWN" for a number that is none. Static storage. */
const char *replog_status_name(replog_status status);

/* What the status means, as in the table above. Static storage. */
const char *replog_status_text(replog_status status);

#ifdef __cplusplus
}
#endif
#endif

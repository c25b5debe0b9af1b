/* replog/limits.h: what one request may hold, and the record operations. Exceeding a limit gets
 * INVALID_ARGUMENT with a sentence that names it. */
#ifndef REPLOG_LIMITS_H
#define REPLOG_LIMITS_H

#define REPLOG_MAX_KEY_BYTES     65536u   /* 64 KiB; a key may be empty (a plain log entry) */
#define REPLOG_MAX_VALUE_BYTES   1048576u /* 1 MiB */
#define REPLOG_MAX_BATCH_RECORDS 65535u   /* records of one atomic batch, without its COMMIT */
#define REPLOG_MAX_BATCH_BYTES                                                                     \
    3145728u                      /* 3 MiB: keys + values + 8 bytes a record; so that the          \
                                     reply to a read of one batch stays below the 4 MiB            \
                                     that stock gRPC clients accept */
#define REPLOG_MAX_INFLIGHT 1024u /* appends of one session that are not answered yet */

/* What a record does. PUT and DELETE are written by users; the others are markers, written by
 * replog. The numbers stand on disk and on the wire. */
typedef enum replog_op {
    REPLOG_OP_PUT = 1,
    REPLOG_OP_DELETE = 2,
    REPLOG_OP_COMMIT = 16,     /* seals a batch */
    REPLOG_OP_CHECKPOINT = 17, /* every store holds all up to safe_seq; the log may be dropped up
                                  to min(safe_seq, drop_upto) */
    REPLOG_OP_TERM = 18,       /* a leader's first record */
    REPLOG_OP_CONFIG = 19,     /* the members */
    REPLOG_OP_SESSION = 20     /* a client's registration; its seq is the session's id */
} replog_op;

/* "PUT", "DELETE", "COMMIT", ...; "?" for a number that is none. Static storage. */
const char *replog_op_name(replog_op op);

#endif

/* malloc_caller.h: a gRPC client of tests/stage/node_stage.h, in the same thread and in virtual
 * time. What it does itself never fails; what the server does because of it is what fail_alloc.c
 * counts. Hides: HTTP/2, reconnecting. */
#ifndef TORTURE_MALLOC_CALLER_H
#define TORTURE_MALLOC_CALLER_H

#include "base/bytes.h"
#include "replog/status.h"

struct caller_answer {
    bool ended; /* false: neither an answer nor an end of the connection, long after its deadline */
    bool broken;          /* the connection ended before it */
    replog_status status; /* UNAVAILABLE when broken */
    char text[300];
    struct buffer messages; /* framed, as they came; the caller frees */
};

/* Appends a message to a call's requests, with its frame. */
void caller_add(struct buffer *requests, const struct buffer *message);
/* Takes the next message out of an answer; false: there is none. *offset begins at 0. */
bool caller_next(const struct caller_answer *a, size_t *offset, struct slice *message);

/* One call, "/service/Method", with all its requests at once; connects when it is not connected. */
void caller_call(const char *path, const struct buffer *requests, struct caller_answer *out);
/* The same, but the client does not end its side: only the server can end it before its deadline.
 */
void caller_call_open(const char *path, const struct buffer *requests, struct caller_answer *out);
/* Hangs up. */
void caller_close(void);

#endif

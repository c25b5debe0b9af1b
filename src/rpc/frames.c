/* frames.c: follows the frames that a client sends on their way to nghttp2, and keeps one kind
 * back: RST_STREAM of a stream that was never opened. Stock clients send it when a call is
 * cancelled after it got its stream id and before its HEADERS left. To HTTP/2 that is an error of
 * the connection, and nghttp2 would end it with all calls of others on it.
 *
 * Everything else is nghttp2's to judge, and goes there from where it lies in the receive buffer:
 * notes of DATA point into it. Of a header that is cut by the buffer's end the beginning is held
 * here until the rest has come. */
#include <string.h>

#include "rpc/internal.h"

/* The preface goes before the first frame's header. */
void frames_begin(struct rpc_frames *frames) {
    *frames = (struct rpc_frames){.left = NGHTTP2_CLIENT_MAGIC_LEN, .strict = true};
}

/* The header that n bytes more belong to; NULL: the rest of it comes later. */
static const uint8_t *take_head(struct rpc_frames *f, const uint8_t *bytes, size_t n) {
    if (n == sizeof f->head) return bytes;
    memcpy(f->head + f->n_head, bytes, n);
    f->n_head = (uint8_t)(f->n_head + n);
    return f->n_head == sizeof f->head ? f->head : NULL;
}

/* A header is whole: what it says, and whether its frame is dropped. */
static void begin_frame(struct rpc_frames *f, const uint8_t *head) {
    uint8_t type = head[3], flags = head[4];
    uint32_t id =
        (head[5] & 0x7fU) << 24 | (uint32_t)head[6] << 16 | (uint32_t)head[7] << 8 | head[8];
    f->n_head = 0;
    f->left = (uint32_t)head[0] << 16 | (uint32_t)head[1] << 8 | head[2];
    f->dropping = type == NGHTTP2_RST_STREAM && f->left == 4 && id % 2 == 1 &&
                  id > f->highest_stream && !f->strict;
    if (type == NGHTTP2_HEADERS && id > f->highest_stream) f->highest_stream = id;
    f->strict = (type == NGHTTP2_HEADERS || type == NGHTTP2_CONTINUATION) &&
                !(flags & NGHTTP2_FLAG_END_HEADERS);
}

static int give(struct rpc_conn *conn, const uint8_t *bytes, size_t n) {
    ssize_t used = n ? nghttp2_session_mem_recv(conn->session, bytes, n) : 0;
    return used < 0 ? (int)used : 0;
}

int frames_give(struct rpc_conn *conn, const uint8_t *bytes, size_t n) {
    struct rpc_frames *f = &conn->frames;
    size_t from = 0, at = 0; /* [from, at): looked at, and to be given */
    int rv = 0;
    while (rv == 0 && at < n) {
        size_t held = f->n_head, want = f->left ? f->left : sizeof f->head - held;
        size_t got = want < n - at ? want : n - at;
        if (f->left) {
            f->left -= (uint32_t)got;
            at += got;
            if (f->dropping) from = at;
            continue;
        }
        const uint8_t *head = take_head(f, bytes + at, got);
        if (!head) break;
        begin_frame(f, head);
        if (f->dropping) {
            rv = give(conn, bytes + from, at - from);
            from = at + got;
            if (rv == 0 && !session_flood_token(conn)) rv = NGHTTP2_ERR_CALLBACK_FAILURE;
        } else {
            rv = give(conn, f->head, held);
        }
        at += got;
    }
    return rv ? rv : give(conn, bytes + from, at - from);
}

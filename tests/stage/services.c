#include "services.h"

/* For start_rpc, so that what is served here is what replogd serves. */
#include "server/server.c"

#include "base/check.h"
#include "fake_net.h"

/* ---- The pool of readers, in this thread */

enum { MAX_TASKS = 256 };

static struct task *tasks, **tasks_tail = &tasks;
static size_t n_tasks;

replog_status reader_pool_start(struct server *s, replog_error *err) {
    (void)s;
    (void)err;
    return REPLOG_OK;
}
bool reader_pool_stop(struct server *s, uint64_t timeout_ms) {
    (void)s;
    (void)timeout_ms;
    return true;
}
void reader_pool_push(struct server *s, struct task *task) {
    (void)s;
    task->next = NULL;
    *tasks_tail = task;
    tasks_tail = &task->next;
    n_tasks++;
}
bool reader_pool_offer(struct server *s, struct task *task) {
    if (n_tasks >= MAX_TASKS) return false;
    reader_pool_push(s, task);
    return true;
}
void reader_pool_feed(struct server *s, const struct node_effect *fx) {
    (void)s;
    (void)fx;
    abort();
}

bool services_read(unsigned most) {
    while (tasks && most-- > 0) {
        struct task *task = tasks;
        tasks = task->next;
        if (!tasks) tasks_tail = &tasks;
        n_tasks--;
        task->run(task);
    }
    return tasks != NULL;
}

/* ---- Starting and ending */

replog_status services_start(struct server *s, replog_error *err) {
    replog_status st = appends_start(s, err);
    if (st == REPLOG_OK) st = reads_start(s, err);
    if (st == REPLOG_OK) st = peers_start(s, err);
    return st == REPLOG_OK ? start_rpc(s, err) : st;
}

bool services_quiet(struct server *s) {
    struct rpc_stats stats;
    rpc_server_stats(s->rpc, &stats);
    return stats.connections == 0 && stats.calls_open == 0 && stats.buffered_bytes == 0 &&
           appends_inflight_bytes(s) == 0 && stats_get(&s->stats.reads_open) == 0 &&
           queue_size_bytes(&s->events) == 0 && tasks == NULL;
}

/* ---- What it sends */

static struct {
    const nng_stream *stream;
    uint8_t header[9];
    size_t header_bytes, payload_left;
} frames;

static void look_at_frames(const nng_stream *stream, const uint8_t *data, size_t n) {
    if (frames.stream != stream) memset(&frames, 0, sizeof frames);
    frames.stream = stream;
    while (n > 0) {
        if (frames.payload_left > 0) {
            size_t part = n < frames.payload_left ? n : frames.payload_left;
            frames.payload_left -= part;
            data += part;
            n -= part;
            continue;
        }
        frames.header[frames.header_bytes++] = *data++;
        n--;
        if (frames.header_bytes < 9) continue;
        frames.header_bytes = 0;
        frames.payload_left =
            (size_t)frames.header[0] << 16 | (size_t)frames.header[1] << 8 | frames.header[2];
        CHECK(frames.header[3] <= 9 &&
              !(frames.header[5] & 0x80)); /* a known type; the reserved bit */
        CHECK(frames.payload_left <= 1 << 20);
    }
}

size_t services_take(nng_stream *stream, size_t max, uint8_t *out, size_t out_bytes) {
    static uint8_t bytes[512 << 10];
    size_t total = 0, n;
    if (max == 0 || max > sizeof bytes) max = sizeof bytes;
    while (!fake_net_is_gone(stream) && (n = fake_net_take(stream, bytes, max)) > 0) {
        look_at_frames(stream, bytes, n);
        size_t room = out_bytes > total ? out_bytes - total : 0;
        if (out && room) memcpy(out + total, bytes, n < room ? n : room);
        total += n;
    }
    return total;
}

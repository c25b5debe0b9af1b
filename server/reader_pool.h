/* reader_pool.h: threads for what may wait for the disk and is not the log's writing: catching up
 * of followers, reads, gets, chain values, scrubbing. A task runs for a slice and is queued again.
 * Hides: the threads, the readers kept open for followers that catch up. */
#ifndef SERVER_READER_POOL_H
#define SERVER_READER_POOL_H

#include "server/server.h"

enum {
    READER_THREADS = 2,
    READER_MAX_TASKS = 4096, /* queued; beyond, new work is refused */
    READER_IDLE_MS = 5000    /* a log reader unused for so long is closed: its segment can go */
};

/* Embedded in what it works for. Queued at most once at a time. */
struct task {
    struct task *next;
    void (*run)(struct task *task);
};

replog_status reader_pool_start(struct server *s, replog_error *err);
/* False, and not queued: too many tasks. */
bool reader_pool_offer(struct server *s, struct task *task);
/* Always: the next slice of work that was admitted. */
void reader_pool_push(struct server *s, struct task *task);
/* The node's FEED effect: reads blocks for a follower, posts FED. */
void reader_pool_feed(struct server *s, const struct node_effect *fx);
/* Ends once the tasks in hand have. False: not within that time. */
bool reader_pool_stop(struct server *s, uint64_t timeout_ms);

#endif

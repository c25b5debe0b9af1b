/* log_worker.h: the one writer of the log, without its thread: takes the node's WRITE, CUT,
 * SAVE_VOTE, FOUND and TRUNCATE effects in order, one step at a time, and says when they are done.
 * The server runs it on the wal thread, the simulator in virtual time.
 * Hides: group commit, sync modes, waiting for disk space, marks, preparing of segments.
 *
 * Used by one thread. */
#ifndef NODE_LOG_WORKER_H
#define NODE_LOG_WORKER_H

#include "node/node.h"
#include "replog/wal.h"
#include "wal/log.h"

enum { LOG_WORKER_SPACE_MS = 200 /* how often free space is looked at; a full disk tried again */ };

/* What the worker's owner does for it. `user` comes first in every call. */
struct log_worker_ops {
    /* Something is done: PERSISTED, VOTE_SAVED, CUT_DONE, FOUND_SAVED, TRUNCATED, SPACE. */
    void (*post)(void *user, const struct node_event *ev);
    /* The log failed: nothing more may be acknowledged. When it returns, the worker is dead. */
    void (*fatal)(void *user, const char *text);
    uint64_t (*now_ms)(void *user);
    /* Whether jobs wait that were not pushed yet: what can wait then does. */
    bool (*more)(void *user);
    /* Fills spare segments beside all this, on another thread: `fill` begins one, `filled` says
     * whether it has ended, and how far it came. Both NULL: the worker does it, when idle. */
    void (*fill)(void *user, const struct wal_spare *spare);
    bool (*filled)(void *user, struct wal_spare *spare);
    /* For figures; each may be NULL. */
    void (*wrote)(void *user, size_t n_writes, uint64_t bytes); /* one group */
    void (*syncing)(void *user, bool begins); /* before and after, but for a mark's */
};

struct log_worker_options {
    struct wal *wal; /* borrowed */
    const struct disk *disk;
    const char *dir; /* whose free space is looked at; borrowed */
    replog_sync_mode sync;
    uint64_t reserve_bytes; /* less free space than this: SPACE low */
    const struct log_worker_ops *ops;
    void *user;
};

/* One effect. May be the beginning of something larger that came from malloc: it is freed with
 * free(). */
struct log_job {
    struct log_job *next;
    enum node_effect_type type;
    uint64_t seq, epoch, term, vote, cluster_id;
    enum wal_founding founding;
    struct config *config; /* FOUND, TRUNCATE; NULL: unchanged */
    struct node_bytes blocks;
};
/* Takes over the references in the effect. false: memory is short. */
bool log_job_init(struct log_job *job, struct node_effect *fx);

struct log_worker;
struct log_worker *log_worker_new(const struct log_worker_options *options); /* NULL: no memory */
/* Jobs that were not done are dropped. */
void log_worker_free(struct log_worker *w);
/* Behind all others. */
void log_worker_push(struct log_worker *w, struct log_job *job);
/* One step: the next write, sync or other job, and what is due between jobs. Returns how long to
 * wait for jobs before the next one; 0: there is more to do at once. */
uint64_t log_worker_run(struct log_worker *w);
/* There is something to do, or to wait for. */
bool log_worker_busy(const struct log_worker *w);
/* The job in front waits for disk space. */
bool log_worker_stuck(const struct log_worker *w);
/* Before the end: syncs and marks the tail. */
void log_worker_finish(struct log_worker *w);

#endif

/* apply_worker.h: replays committed blocks into the store and flushes it, without its thread: the
 * server runs it on the apply thread, the simulator in virtual time.
 * Hides: slices, what is told of them, waiting for space.
 *
 * Used by one thread. */
#ifndef NODE_APPLY_WORKER_H
#define NODE_APPLY_WORKER_H

#include "node/node.h"

enum { APPLY_WORKER_SPACE_MS = 250 /* between two tries on a full disk */ };

struct apply_worker_ops {
    void (*post)(void *user, const struct node_event *ev); /* APPLIED, FLUSHED */
    /* Nothing more can be applied. When it returns, the worker is dead. */
    void (*fatal)(void *user, const char *text);
};

/* Zero-initialised but for the first three. */
struct apply_worker {
    struct applier *applier; /* borrowed */
    const struct apply_worker_ops *ops;
    void *user;
    size_t slice_bytes;     /* 0: 1 MiB */
    uint64_t counted_bytes; /* of apply_bytes, already told */
    uint64_t tries;         /* of the step under way, on a full disk */
    unsigned slices;        /* since a flush was asked for, or tried */
    bool flush, dead;
};

enum apply_worker_next {
    APPLY_WORKER_IDLE,  /* nothing left to do */
    APPLY_WORKER_AGAIN, /* more to do */
    APPLY_WORKER_FULL   /* the disk is full: again in APPLY_WORKER_SPACE_MS */
};
/* One step: a slice of what leads up to target_seq, or a flush when one was asked for (it is
 * remembered until it is done): when nothing leads there, or some slices later. */
enum apply_worker_next apply_worker_run(struct apply_worker *a, uint64_t target_seq, bool flush);

#endif

#include "node/apply_worker.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/mutant.h"

enum { SLICE_BYTES = 1 << 20, FLUSH_WITHIN_SLICES = 8, SPACE_TOLD_EVERY = 240 };

/* A full disk is waited for, however long it takes: RocksDB holds what it has in memory, and goes
 * on by itself a few seconds after there is space. Anything else stops the process. */
static enum apply_worker_next failed(struct apply_worker *a, const char *what, replog_status st,
                                     const replog_error *err) {
    if (st == REPLOG_RESOURCE_EXHAUSTED) {
        if (a->tries++ % SPACE_TOLD_EVERY == 0)
            log_warn("%s: %s; waiting for space", what, err->text);
        return APPLY_WORKER_FULL;
    }
    char text[600];
    (void)snprintf(text, sizeof text, "%s: %.480s; start again to replay from the last checkpoint",
                   what, err->text);
    a->dead = true;
    a->ops->fatal(a->user, text);
    return APPLY_WORKER_IDLE;
}

static enum apply_worker_next apply_slice(struct apply_worker *a, uint64_t target_seq) {
    replog_error err;
    uint64_t applied = 0;
    size_t slice_bytes = a->slice_bytes ? a->slice_bytes : SLICE_BYTES;
    replog_status st = apply_run(a->applier, target_seq, slice_bytes, &applied, &err);
    if (st != REPLOG_OK) return failed(a, "replay", st, &err);
    uint64_t bytes = apply_bytes(a->applier);
    a->slices++;
    a->tries = 0;
    a->ops->post(a->user, &(struct node_event){.type = NODE_EV_APPLIED,
                                               .seq = applied,
                                               .bytes = bytes - a->counted_bytes});
    a->counted_bytes = bytes;
    return APPLY_WORKER_AGAIN;
}

static enum apply_worker_next flush_store(struct apply_worker *a) {
    replog_error err;
    uint64_t checkpoint = 0;
    replog_status st = REPLOG_OK;
    a->slices = 0;
    if (MUTANT(CHECKPOINT_AFTER_FLUSH))
        checkpoint = apply_seq(a->applier);
    else
        st = apply_flush(a->applier, &checkpoint, &err);
    if (st != REPLOG_OK) return failed(a, "making the store durable", st, &err);
    a->tries = 0;
    a->flush = false;
    log_debug("store flushed checkpoint_seq=%" PRIu64, checkpoint);
    a->ops->post(a->user, &(struct node_event){.type = NODE_EV_FLUSHED, .seq = checkpoint});
    return APPLY_WORKER_AGAIN;
}

/* A flush waits for the slices before it, but not for many: a store that lags behind a growing log
 * always has another, and the log is not truncated before what it holds is flushed. */
enum apply_worker_next apply_worker_run(struct apply_worker *a, uint64_t target_seq, bool flush) {
    if (a->dead) return APPLY_WORKER_IDLE;
    if (flush && !a->flush) a->slices = 0;
    if (flush) a->flush = true;
    if (flush && MUTANT(CHECKPOINT_AFTER_FLUSH)) apply_flush(a->applier, &(uint64_t){0}, NULL);
    bool is_due = a->flush && a->slices >= FLUSH_WITHIN_SLICES && !MUTANT(FLUSH_BEHIND_ALL_SLICES);
    if (target_seq > apply_seq(a->applier) && !is_due) return apply_slice(a, target_seq);
    return a->flush ? flush_store(a) : APPLY_WORKER_IDLE;
}

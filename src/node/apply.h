/* apply.h: replay. Reads committed blocks from the log and builds the store from them, with the
 * session table, the last CHECKPOINT and the applied seq written atomically in the same store
 * batch. Hides: the names of the meta entries.
 *
 * Used by one thread (the apply thread) after apply_open; the node reads what was loaded before. */
#ifndef NODE_APPLY_H
#define NODE_APPLY_H

#include "node/peer.h"
#include "node/session.h"
#include "node/window.h"
#include "store/store.h"
#include "wal/log.h"

struct applier;

/* Those that the node counts as under way, and the one that was gone through last (apply.c). */
enum { APPLY_MAX_GIVEN = WINDOW_MAX_RUNS + 1 };

/* Loads the meta entries from the store. DATA_LOSS when store and log do not fit together: the
 * store is behind the log's first seq (its directory was removed) or ahead of the log's end.
 * max_sessions: session_table_new. Borrows wal and store. */
replog_status apply_open(struct wal *wal, struct store *store, size_t max_sessions,
                         struct applier **applier, replog_error *err);
void apply_close(struct applier *a);

/* Hands over blocks that apply_run will come to, in the log's order (the reference with them): what
 * lies here is not read from the log again. What finds no room, or comes too late, is released, and
 * read from there. Of a node's own memory, so that they count as checked. */
void apply_give(struct applier *a, struct node_bytes blocks);
/* Applies blocks up to `upto` (committed and durable here), at most about max_bytes of them.
 * *applied is the new applied seq. Errors stop the node: DATA_LOSS (rot), or what the store says.
 */
replog_status apply_run(struct applier *a, uint64_t upto, size_t max_bytes, uint64_t *applied,
                        replog_error *err);
/* Makes the store durable: *checkpoint is the seq up to which it is (sampled before the flush). */
replog_status apply_flush(struct applier *a, uint64_t *checkpoint, replog_error *err);

uint64_t apply_seq(const struct applier *a);
/* Bytes of log that apply_run has gone through since apply_open: what NODE_EV_APPLIED counts. */
uint64_t apply_bytes(const struct applier *a);
/* Bytes of log that it read back from the log, because they had not been given to it. */
uint64_t apply_read_bytes(const struct applier *a);
/* As of the applied seq: for the node, at start. */
const struct session_table *apply_sessions(const struct applier *a);
struct checkpoint_marker apply_marker(const struct applier *a);

#endif

/* apply_thread.h: replays committed blocks into the store and flushes it.
 * Hides: slices, coalescing of requests, waiting for space. */
#ifndef SERVER_APPLY_THREAD_H
#define SERVER_APPLY_THREAD_H

#include "server/server.h"

replog_status apply_thread_start(struct server *s, replog_error *err);
/* NODE_FX_APPLY: takes the reference of its blocks. */
void apply_thread_apply(struct server *s, struct node_effect *fx);
void apply_thread_flush(struct server *s);
/* Ends, with a last flush. False: not within that time. */
bool apply_thread_stop(struct server *s, uint64_t timeout_ms);

#endif

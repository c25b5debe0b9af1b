/* fill_thread.h: fills spare segments with zeros beside the writing of the log, so that it writes
 * over what is there already, which syncs in half the time.
 * Hides: its thread, and how it keeps out of the log's way. */
#ifndef SERVER_FILL_THREAD_H
#define SERVER_FILL_THREAD_H

#include "server/server.h"
#include "wal/log.h"

replog_status fill_thread_start(struct server *s, replog_error *err);
/* One at a time: begins with `spare`. */
void fill_thread_fill(struct server *s, const struct wal_spare *spare);
/* Whether it has ended; then *spare is the caller's again, and says how far it came. */
bool fill_thread_filled(struct server *s, struct wal_spare *spare);
/* Ends; a spare that was not full is left for the next start to remove. False: not within that
 * time. */
bool fill_thread_stop(struct server *s, uint64_t timeout_ms);

#endif

/* wal_thread.h: the one writer of the log. Takes the node's WRITE, CUT, SAVE_VOTE, FOUND and
 * TRUNCATE effects in order and says when they are done.
 * Hides: group commit, sync modes, waiting for disk space, marks, preparing of segments. */
#ifndef SERVER_WAL_THREAD_H
#define SERVER_WAL_THREAD_H

#include "server/server.h"

replog_status wal_thread_start(struct server *s, replog_error *err);
/* Takes over the references in the effect. Never blocks. */
void wal_thread_push(struct server *s, struct node_effect *fx);
/* Carries out what is queued, marks and syncs the tail, and ends. False: not within that time. */
bool wal_thread_stop(struct server *s, uint64_t timeout_ms);
size_t wal_thread_queued_bytes(struct server *s);

#endif

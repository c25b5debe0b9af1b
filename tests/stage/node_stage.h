/* node_stage.h: all of replogd but sockets, threads and RocksDB, in the caller's thread and in
 * virtual time: server_start itself, the services of services.h, the real node over a real log, the
 * code of the node thread and of the wal thread; the store is the one in memory. A cluster of one,
 * which leads. One life a process.
 * Hides: whose turn it is. */
#ifndef TESTS_STAGE_NODE_STAGE_H
#define TESTS_STAGE_NODE_STAGE_H

#include "server/server.h"

/* Opens or makes the directory, and returns when the member leads and serves. */
struct server *node_stage_begin(const char *dir);
/* Everybody does what there is to do now. */
void node_stage_run(void);
/* So much later, with all that becomes due. */
void node_stage_pass(uint64_t ms);
/* Ends every connection and closes the node, its log and its store. */
void node_stage_end(void);

#endif

/* services.h: the handlers of the gRPC services, as server.c registers them. They run on rpc's
 * threads and never block: appends go to the node as they are decoded, what reads from the
 * disk goes to the reader pool.
 * Hides: requests, streams and their order. */
#ifndef SERVER_SERVICES_H
#define SERVER_SERVICES_H

#include "server/server.h"

/* log_service.c, append.c */
replog_status appends_start(struct server *s, replog_error *err);
/* Ends every append stream behind what it has in flight. */
void appends_drain(struct server *s);
uint64_t appends_inflight_bytes(struct server *s);
extern const struct rpc_handlers append_handlers, append_stream_handlers;
extern const struct rpc_handlers open_session_handlers, get_handlers, checkpoint_handlers,
    truncate_handlers;

/* read_service.c */
replog_status reads_start(struct server *s, replog_error *err);
/* The log's readable end grew, or the node's view changed. Node thread. */
void reads_wake(struct server *s);
/* Lets streams that wait close what they hold open, and leave a member that is cut off; about once
 * a second. */
void reads_idle(struct server *s);
void reads_drain(struct server *s);
extern const struct rpc_handlers read_handlers;

/* status_service.c */
extern const struct rpc_handlers status_handlers, inspect_handlers;

#endif

/* services.h: replogd's services, all of them, on the connections of fake_net.h: real rpc/ and real
 * handlers of server/, in the caller's thread. The node behind them is whoever takes the server's
 * events: the fuzz targets' (tests/fuzz/server_stage.h) or the real one (node_stage.h).
 * Link it in front of replog_server. */
#ifndef TESTS_STAGE_SERVICES_H
#define TESTS_STAGE_SERVICES_H

#include <nng/nng.h>

#include "server/services.h"

/* Of a server whose options, log, store, view and queue of events are there. server_start does the
 * same, and all the rest. */
replog_status services_start(struct server *s, replog_error *err);
/* Runs so many tasks of the reader pool; whether more are waiting. */
bool services_read(unsigned most);
/* No connection, call, append, read or event is left. */
bool services_quiet(struct server *s);

/* What the server sends on a stream: taken in pieces of at most `max` bytes (0: as many as there
 * are), and checked to be frames. Returns how many bytes came; `out` (may be NULL) gets them, up to
 * out_bytes. */
size_t services_take(nng_stream *stream, size_t max, uint8_t *out, size_t out_bytes);

#endif

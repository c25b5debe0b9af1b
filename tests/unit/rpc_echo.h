/* rpc_echo.h: a server for the tests of rpc/. It borrows the methods of replog.v1.Log:
 *   Append        unary: the request's bytes come back
 *   AppendStream  bidirectional: every message comes back; the end is answered with OK
 *   Read          server streaming: from_seq messages of to_seq bytes each, as fast as flow control
 *                 lets them; with `follow` it never ends
 *   Get           unary: never answers; tells when it ends
 *   Truncate      unary: fails with FAILED_PRECONDITION, a text with odd characters, and
 *                 "replog-leader"
 *   Status        unary, through a generated stub: answered_by 7
 *   OpenSession   listed in no table, NULL in the stub
 *   Checkpoint    AppendStream's shape is refused here: see ECHO_HOLD */
#ifndef RPC_ECHO_H
#define RPC_ECHO_H

#include <stdatomic.h>

#include "rpc/rpc.h"

struct echo_counters {
    _Atomic uint64_t messages, ends, closed_ok, closed_cancelled, closed_deadline,
        closed_unavailable, get_begun;
};
extern struct echo_counters echo_counters;
/* While true, AppendStream's handler pauses its calls after the first message. */
extern _Atomic bool echo_hold;
/* The paused call, with a reference, or NULL. */
extern struct rpc_call *_Atomic echo_held;

/* Starts the server on 127.0.0.1 and a port of the system's choice, or on options->listen. */
struct rpc_server *echo_start(const struct rpc_server_options *options, char address[64]);

#endif

/* peers.h: the streams between members: one outgoing Exchange stream to each other member, on which
 * all of this node's messages travel, and theirs coming in.
 * Hides: reconnecting, back-off, flow control, which inbound stream is whose. */
#ifndef SERVER_PEERS_H
#define SERVER_PEERS_H

#include "server/server.h"

replog_status peers_start(struct server *s, replog_error *err);

/* ---- In a turn (server.h) */
/* Starts streams that are due, and steps what came of it into the node. */
void peers_tick(struct server *s, uint64_t now_ms, struct node_effects *fx);
/* An event of a peer is about to be stepped: keeps the links' states in step with the node's, and
 * fills in who sent a message. False: an event of a stream that is gone; not to be stepped. */
bool peers_admit(struct server *s, struct event *e);
/* The node's SEND; takes over the reference to the blocks. */
void peers_send(struct server *s, struct node_effect *fx);
void peers_welcome(struct server *s, uint64_t stream, uint64_t peer);
void peers_refuse(struct server *s, uint64_t stream, const char *text);
/* Lets inbound streams go on that were held back while the queue was full. */
void peers_resume(struct server *s);

/* ---- Any thread */
/* The channel to a member, for other calls to it; NULL: itself or unknown. Lives as long as s. */
struct rpc_channel *peers_channel(struct server *s, uint64_t id);
/* Ends every inbound stream. */
void peers_drain(struct server *s);
/* The handlers of Peer.Exchange. */
extern const struct rpc_handlers peers_exchange_handlers;

#endif

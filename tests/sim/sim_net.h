/* sim_net.h: the network: streams between members, connections of clients (sim.h), and what goes
 * wrong with both. Bytes of one direction arrive in order; a connection that breaks may lose what
 * is on its way, or deliver it late, beside the next connection. A message is lost in no other way:
 * under replog is TCP, where whatever is not delivered ends the connection.
 * Hides: connections, dialling, packets. */
#ifndef SIM_NET_H
#define SIM_NET_H

#include "sim_impl.h"

/* Ends of connections: members by id, clients from SIM_END_CLIENT on. */
enum { SIM_END_CLIENT = SIM_MAX_NODES + 1, SIM_MAX_CLIENTS = 24 };
enum { SIM_MAX_ENDS = SIM_END_CLIENT + SIM_MAX_CLIENTS };

struct sim_net *sim_net_new(struct sim *sim);
void sim_net_free(struct sim_net *net);

/* ---- For members */
void sim_net_node_up(struct sim *sim, uint64_t id);
/* With the power gone nobody says goodbye. */
void sim_net_node_down(struct sim *sim, uint64_t id, bool power);
void sim_net_node_resumed(struct sim *sim, uint64_t id);
/* NODE_FX_SEND; dropped when there is no stream. Takes over the reference. */
void sim_net_send(struct sim *sim, uint64_t from, struct node_effect *fx);
void sim_net_refuse(struct sim *sim, uint64_t id, uint64_t stream, const char *text);
void sim_net_welcome(struct sim *sim, uint64_t id, uint64_t stream, uint64_t peer);
/* Whether that inbound stream is still there; *peer: whose it is, 0: not welcomed yet. */
bool sim_net_admit(struct sim *sim, uint64_t id, uint64_t stream, uint64_t *peer);
/* Whether whoever opened it still runs: what it said may arrive long after its end. */
bool sim_net_opener_lives(struct sim *sim, uint64_t id, uint64_t stream);

/* ---- For tests that lie. */
/* Puts a message on the stream, as if `from` had said it; takes over the reference to its blocks.
 * False: there is no stream. */
bool sim_net_inject(struct sim *sim, uint64_t from, uint64_t to, struct peer_msg *msg);
bool sim_net_welcomed(struct sim *sim, uint64_t from, uint64_t to);
/* The stream ends at once, and what is on its way is lost. */
void sim_net_drop_stream(struct sim *sim, uint64_t from, uint64_t to);
void sim_net_latency(struct sim *sim, uint64_t low_us, uint64_t high_us);

/* ---- Faults. From and to are ends. */
enum sim_block { SIM_CLOG, SIM_CUT /* connections may break of it */ };
/* Nothing passes that way; counted, so that faults may overlap. */
void sim_net_block(struct sim *sim, unsigned from, unsigned to, enum sim_block how);
void sim_net_unblock(struct sim *sim, unsigned from, unsigned to);
void sim_net_block_for(struct sim *sim, unsigned from, unsigned to, enum sim_block how,
                       uint64_t length_us);
void sim_net_delay(struct sim *sim, unsigned from, unsigned to, uint64_t extra_us);
/* On top of what others add. */
void sim_net_delay_for(struct sim *sim, unsigned from, unsigned to, uint64_t extra_us,
                       uint64_t length_us);
/* Messages of streams only: of a client's connection the bytes are TCP's. */
void sim_net_duplicate_for(struct sim *sim, unsigned from, unsigned to, unsigned percent,
                           uint64_t length_us);
/* Breaks the connections between both; 0 for `b`: all of a's. False: there is none. */
bool sim_net_break(struct sim *sim, unsigned a, unsigned b);
/* All is well again. */
void sim_net_heal(struct sim *sim);

#endif

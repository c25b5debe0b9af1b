/* sim_witness.h: asks for read indexes where a wrong one is likeliest: of a member that has just
 * become the leader, and of one that still takes itself for the leader when another has committed
 * something. Such a reader stands beside the member: its question comes whatever the network does.
 * What was committed before it asked must be below the index it is given.
 * Hides: the questions under way. */
#ifndef SIM_WITNESS_H
#define SIM_WITNESS_H

#include "sim_node.h"

struct sim_witness *sim_witness_new(struct sim *sim);
void sim_witness_free(struct sim_witness *witness);

/* Up to `seq` all is committed, as `id` says; it leads, or follows. */
void sim_witness_committed(struct sim *sim, uint64_t id, uint64_t seq);
void sim_witness_leader(struct sim *sim, uint64_t id);
/* True: it was an answer to one of these. */
bool sim_witness_reply(struct sim *sim, const struct node_effect *fx);

#endif

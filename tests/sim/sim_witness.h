/* sim_witness.h: asks where a wrong answer is likeliest: a member that has just become the leader,
 * and one that still takes itself for the leader when another has committed something. Such a
 * client stands beside the member: its question comes whatever the network does.
 *   A read index must not lie below what was committed before it was asked for.
 *   Nobody may say that it does not know a session that was committed before; appends to one come
 *   with a number that is far off, so that none gets into the log.
 * Hides: the questions under way. */
#ifndef SIM_WITNESS_H
#define SIM_WITNESS_H

#include "sim_node.h"

struct sim_witness *sim_witness_new(struct sim *sim);
void sim_witness_free(struct sim_witness *witness);

/* Up to `seq` all is committed, as `id` says; it leads, or follows. The last of it made a session.
 */
void sim_witness_committed(struct sim *sim, uint64_t id, uint64_t seq, bool is_session);
void sim_witness_leader(struct sim *sim, uint64_t id);
/* True: it was an answer to one of these. */
bool sim_witness_reply(struct sim *sim, const struct node_effect *fx);

#endif

/* sim_usurp.h: one fault of several steps: the leader, alone or with few, is cut off from the
 * others; clients may be left with it; another one is elected and goes on; then it comes back, and
 * may be made the leader again. What a deposed leader says, keeps or forgets shows here.
 * Hides: the steps. */
#ifndef SIM_USURP_H
#define SIM_USURP_H

#include "sim_impl.h"

struct sim_usurp {
    struct sim_member *leader;
    uint64_t life; /* of its process */
    uint64_t side; /* who is cut off with it, bit by id; itself too */
    uint64_t dice;
};

/* Begins; everything about it is drawn from `dice`. False: there is nobody to depose. `u` stays
 * where it is until the end of the run. */
bool sim_usurp(struct sim *sim, struct sim_usurp *u, uint64_t dice);

#endif

/* sim_watch.h: checkers of what members do, all the time. Each fails the run with a sentence.
 * Hides: what is known to be committed, and what each member has promised. */
#ifndef SIM_WATCH_H
#define SIM_WATCH_H

#include "sim_node.h"

struct sim_watch *sim_watch_new(struct sim *sim);
void sim_watch_free(struct sim_watch *watch);

/* The process is up: is what it promised before still there? */
void sim_watch_up(struct sim_member *m);
/* Before its log is closed. */
void sim_watch_down(struct sim_member *m);
/* While it is down its machine loses power. */
void sim_watch_power_lost(struct sim_member *m);
/* --sync none: it has kept and committed more than those who lead and follow, and said so. */
bool sim_watch_is_apart(const struct sim_member *m);
/* After a turn of the node in which something changed. */
void sim_watch_turn(struct sim_member *m);
/* The node carries out an effect. */
void sim_watch_effect(struct sim_member *m, const struct node_effect *fx);
/* A message of that member was taken from its stream. */
void sim_watch_heard(struct sim_member *m, uint64_t peer);
/* One of its workers said that something is done. */
void sim_watch_event(struct sim_member *m, const struct node_event *ev);
/* It was wiped: it may have lost what it had. */
void sim_watch_destroyed(struct sim_member *m);
/* All faults have ended; the cluster must have healed; the run is over. */
void sim_watch_healed(struct sim *sim);
void sim_watch_finish(struct sim *sim);
/* Of a call of the watcher itself; true: it was. */
bool sim_watch_reply(struct sim *sim, const struct node_effect *fx);

#endif

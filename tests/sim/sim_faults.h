/* sim_faults.h: what goes wrong in a run. The plan is drawn at the beginning, before anything
 * happens, so that any part of it can be left out (--shrink, --only, --stop-ms): which kinds of
 * fault this run has at all, how often each, and then the list of faults: when, whom, how long.
 * Hides: the kinds, and how each is done and undone. */
#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

#include "sim_impl.h"

struct sim_faults *sim_faults_new(struct sim *sim); /* draws the run's shape and its plan */
void sim_faults_free(struct sim_faults *f);
void sim_faults_start(struct sim *sim); /* members and plan; once, before the first event */
/* All faults end, members that are down are started. */
void sim_faults_quiet(struct sim *sim);

size_t sim_faults_n(const struct sim *sim);
bool sim_faults_left_out(const struct sim *sim, size_t number); /* --only */
enum { SIM_MAX_FAULT_KINDS = 40 };
/* How often each kind happened, by number; their names. */
const uint64_t *sim_faults_counts(const struct sim *sim);
const char *sim_faults_name(unsigned kind); /* NULL: none any more */

#endif

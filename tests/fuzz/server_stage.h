/* server_stage.h: replogd's services (tests/stage/services.h) over a real log and a store in
 * memory. Where the node would be, a harness answers what the handlers ask, well, badly or late, as
 * a seed says. */
#ifndef TESTS_FUZZ_SERVER_STAGE_H
#define TESTS_FUZZ_SERVER_STAGE_H

#include "services.h"

/* Once for all inputs. */
void stage_start(void);
/* Before each input. The seed says how the node answers; 0: always well and at once. */
void stage_begin(uint64_t seed);
/* Lets the node and the readers do what was asked of them. */
void stage_step(void);
/* After each input: every connection ends; CHECKs that nothing is left of them. */
void stage_end(void);

#endif

/* scrub.h: reads the log in the background, paced, and checks every block again, so that rot in a
 * sealed segment is found before its bytes are needed. Hides: pace and rounds. */
#ifndef SERVER_SCRUB_H
#define SERVER_SCRUB_H

#include "server/server.h"

/* Starts a thread of its own. Never stops the node: damage is logged with file and offset, counted,
 * and shown as the state "damaged". */
replog_status scrub_start(struct server *s, replog_error *err);

#endif

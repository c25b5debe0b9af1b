/* malloc_server.h: two nodes of a cluster in this program, on rpc's own server: the first leads,
 * the second knows it. Appends are answered by a thread of their own a moment later, as a real
 * node's are, so that many are in flight. They use memory as replogd's handlers do, and say so when
 * they cannot. */
#ifndef TORTURE_MALLOC_SERVER_H
#define TORTURE_MALLOC_SERVER_H

#include <stddef.h>
#include <stdint.h>

enum {
    SERVED_RECORDS = 60,     /* the log that readers see: seq 1 to 60 */
    SERVED_CONFIG = 7,       /* this one is a CONFIG with two members */
    SERVED_VALUE_BYTES = 300 /* of each */
};

extern char server_endpoints[2][32];

void server_start(void);  /* once */
void server_forget(void); /* an empty log of appends */
/* How often a value was appended; *seq: where (the last time). */
unsigned server_times(const char *value, uint64_t *seq);
/* No call is open and no connection is left to reap; false when it takes longer than a second. */
int server_quiet(void);

#endif

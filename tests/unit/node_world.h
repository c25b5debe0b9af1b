/* node_world.h: the simulator (tests/sim) as a small world for tests of node/: whole clusters of
 * the real node, raft and wal code, without faults but those that the test asks for, and without
 * clients but the test itself. The checkers of the simulator run all the time. One world at a time.
 */
#ifndef NODE_WORLD_H
#define NODE_WORLD_H

#include "sim_node.h"

enum { WORLD_MAX_REQUESTS = 20000 };

struct world_request {
    bool done;
    replog_status status;
    struct node_reply reply;
    char text[240];
};

struct world {
    struct sim *sim;
    unsigned n;
    uint64_t rng;
    bool cut[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1]; /* from, to; see world_cut */
    struct world_request *requests;                 /* by token */
    uint64_t n_requests;
    struct node_options *options; /* for nodes that start */
    uint64_t acked_below;         /* what the appends say */
};

struct world *world_new(unsigned n_nodes, uint64_t seed);
void world_free(struct world *w);
void world_start(struct world *w, uint64_t id); /* from its directory */
void world_start_all(struct world *w);
/* Power cut: unsynced writes are lost by the dice, the store forgets after its last flush. */
void world_crash(struct world *w, uint64_t id);
/* An empty directory and store under the same id. */
void world_wipe(struct world *w, uint64_t id);
void world_isolate(struct world *w, uint64_t id, bool isolated);
/* One direction: streams that way end, and nothing passes. */
void world_cut(struct world *w, uint64_t from, uint64_t to, bool cut);
void world_heal(struct world *w); /* nothing is cut */
/* Every step of its log worker takes so much longer. */
void world_disk_delay(struct world *w, uint64_t id, uint64_t ms);
void world_run(struct world *w, uint64_t ms);
/* Runs until a leader is ready; its id, or 0 after max_ms. */
uint64_t world_leader(struct world *w, uint64_t max_ms);
/* Runs until every node has applied what the leader has committed. false after max_ms. */
bool world_settle(struct world *w, uint64_t max_ms);

/* Posts an append of `count` records KEYi=VALUE (key NULL: plain entries); returns the token. */
uint64_t world_append(struct world *w, uint64_t id, const char *key, const char *value,
                      unsigned count, enum node_ack ack, uint64_t session, uint64_t sequence,
                      uint64_t deadline_ms);
uint64_t world_ask(struct world *w, uint64_t id, enum node_event_type type, uint64_t seq,
                   bool wait_applied);
struct world_request *world_request(struct world *w, uint64_t token);
/* Runs until the request is answered (at most max_ms); its status, or UNKNOWN. */
replog_status world_wait(struct world *w, uint64_t token, uint64_t max_ms);

/* Puts a message on the stream, as if `from` had said it, and takes over its reference; from the
 * first on the simulator's checkers look away. False: there is no stream. */
bool world_say(struct world *w, uint64_t from, uint64_t to, struct peer_msg *msg);
char *world_refused(struct world *w); /* what the last refusal said; the caller may empty it */

/* CHECKs that the logs agree wherever both are committed, by chain. */
void world_check_logs(struct world *w);
struct node_snapshot world_snapshot(struct world *w, uint64_t id);
/* Calls fn for every committed record of a node's log. */
void world_each_record(struct world *w, uint64_t id, void (*fn)(const replog_record *r, void *user),
                       void *user);

#endif

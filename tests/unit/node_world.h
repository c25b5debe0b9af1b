/* node_world.h: a small world for tests of node/: whole clusters in one thread on the real node,
 * raft and wal code, with disks and stores in memory and a virtual network and clock. Everything
 * that a shell does (wal thread, apply thread, reader thread, streams between nodes) is done here
 * in virtual time, with delays drawn from a seed. */
#ifndef NODE_WORLD_H
#define NODE_WORLD_H

#include "node/node.h"

enum { WORLD_MAX_NODES = 5, WORLD_MAX_REQUESTS = 20000 };

struct world_request {
    bool done;
    replog_status status;
    struct node_reply reply;
    char text[240];
};

struct world_node {
    struct disk_mem *disk;
    struct store *store;
    struct wal *wal;
    struct applier *applier;
    struct node *node;
    uint64_t id, incarnation_seed;
    bool running, fatal;
    char fatal_text[240];
    uint64_t life; /* counts restarts: messages of an earlier life are dropped */
    uint64_t wal_busy_until, apply_upto, flush_due, disk_delay_ms;
    struct node_effect *wal_queue;
    size_t n_wal_queue, wal_capacity;
    bool space_low;
};

struct world_message {
    uint64_t due_ms, order, from, to, from_life, to_life, stream;
    struct peer_msg msg;
};

struct world {
    unsigned n;
    uint64_t now_ms, rng, order;
    struct world_node nodes[WORLD_MAX_NODES + 1];              /* by id */
    bool cut[WORLD_MAX_NODES + 1][WORLD_MAX_NODES + 1];        /* from, to */
    uint64_t stream[WORLD_MAX_NODES + 1][WORLD_MAX_NODES + 1]; /* 0: our stream is down */
    uint64_t bound[WORLD_MAX_NODES + 1]
                  [WORLD_MAX_NODES + 1]; /* stream id -> welcomed peer: [to][from] */
    uint64_t next_stream, stream_due[WORLD_MAX_NODES + 1][WORLD_MAX_NODES + 1];
    uint64_t stream_last_due[WORLD_MAX_NODES + 1][WORLD_MAX_NODES + 1];
    struct world_message *messages;
    size_t n_messages, capacity;
    struct world_request *requests; /* by token */
    uint64_t n_requests;
    struct node_options options; /* for nodes that start */
    uint32_t segment_bytes;
    uint64_t acked_below; /* what the appends say */
    char refused[240];    /* the last refusal */
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

struct node_snapshot world_snapshot(struct world *w, uint64_t id);
/* CHECKs that the logs agree wherever both are committed, by chain. */
void world_check_logs(struct world *w);
/* Calls fn for every committed record of a node's log. */
void world_each_record(struct world *w, uint64_t id, void (*fn)(const replog_record *r, void *user),
                       void *user);

#endif

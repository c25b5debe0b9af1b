/* sim_oracle.h: what clients were told, against what the committed log says. Every append is made
 * up by the oracle, which so knows any record of any log by its content. sim_watch tells it the
 * committed blocks, once each, in order; clients tell it what they asked and what was answered;
 * services tell it what a node answers, at that moment. What cannot be judged yet (the log is not
 * there) is judged when it is; a broken promise is sim_fail. What is promised stands in
 * replog/client.h and ARCHITECTURE.md; each check quotes it in its failure.
 * Hides: the model of the log, of the store, of sessions. */
#ifndef SIM_ORACLE_H
#define SIM_ORACLE_H

#include "replog/client.h"
#include "sim.h"

/* retains: nodes truncate by themselves what is old or too much. */
void sim_oracle_begin(struct sim *sim, bool retains);
void sim_oracle_end(struct sim *sim);

/* ---- Appends */

/* Who appends. What one thread submitted to one lane stands in the log in that order. */
enum { SIM_LANE_THREADS = 3 };
struct sim_lane {
    unsigned who;
    uint64_t life;
    bool all; /* ACK ALL travels apart */
    unsigned thread;
};

struct sim_append {
    struct sim_lane lane;
    enum replog_ack ack;
    bool numbered; /* exactly once: with a session, not ACK LEADER */
    bool single;
    uint32_t n_records;
    uint32_t value_min, value_max; /* bytes of a value; the first has at least 16 */
    unsigned percent_keyed, percent_deletes;
};
/* A new append; its number. To be called in the order in which a lane's appends are submitted. */
uint32_t sim_oracle_append(struct sim *sim, const struct sim_append *append);
/* Its records, into an empty batch. */
void sim_oracle_fill(struct sim *sim, uint32_t append, replog_batch *batch);
/* The library did not take it: replog_append_async said no. */
void sim_oracle_append_refused(struct sim *sim, uint32_t append);
void sim_oracle_append_told(struct sim *sim, uint32_t append, replog_status status,
                            const replog_append_result *result, const char *text);
/* Its process died before it was told anything. */
void sim_oracle_append_lost(struct sim *sim, uint32_t append);

/* ---- Gets */

unsigned sim_oracle_n_keys(struct sim *sim);
struct slice sim_oracle_key(struct sim *sim, unsigned number); /* holds until the next call */
/* All that a linearizable read that begins now must see: give it back with the answer. */
uint64_t sim_oracle_floor(struct sim *sim);
struct sim_get {
    unsigned who, key;
    bool stale, found;
    uint64_t floor, seq;
    struct slice value;
};
void sim_oracle_get_told(struct sim *sim, const struct sim_get *get);

/* ---- Reads of the log */

struct sim_read {
    unsigned who;
    uint64_t from, to; /* as asked; 0: first, end */
    bool follow, markers, local;
    uint64_t floor;
    uint64_t last; /* the last record told; 0: none */
    size_t hint;
};
void sim_oracle_read_record(struct sim *sim, struct sim_read *read, const replog_entry *entry);
/* NOT_FOUND (the end), OUT_OF_RANGE, DATA_LOSS: are they true? Others are not judged here. */
void sim_oracle_read_ended(struct sim *sim, const struct sim_read *read, replog_status status,
                           const char *text);

/* ---- Administration */

void sim_oracle_truncate_asked(struct sim *sim, uint64_t upto);
void sim_oracle_truncate_told(struct sim *sim, const replog_truncate_result *result);
uint64_t sim_oracle_log_end(struct sim *sim); /* the last committed seq that is known */

/* ---- What nodes say, as they say it (sim_rpc_service.c) */

void sim_oracle_node_acked(struct sim *sim, uint64_t id, enum node_ack ack,
                           const struct node_reply *reply);
/* Whether every member has truncated its log up to `upto`, but for the block that it lies in. */
bool sim_oracle_is_truncated(struct sim *sim, uint64_t upto);
/* An append of that session was refused with FAILED_PRECONDITION. */
void sim_oracle_node_refused(struct sim *sim, uint64_t id, uint64_t session, const char *text);
void sim_oracle_node_checkpoint(struct sim *sim, uint64_t id, const struct node_reply *reply);
void sim_oracle_node_down(struct sim *sim, uint64_t id); /* its wal and store are still open */
struct sim_get_served {
    uint64_t node, life, commit_seq, seq;
    bool stale, found;
    struct slice key, value;
};
void sim_oracle_get_served(struct sim *sim, const struct sim_get_served *get);

#endif

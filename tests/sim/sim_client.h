/* sim_client.h: the clients of a run, each a process with the real library in it: appenders,
 * readers, getters, operators; they die and are born again. What sim.h asks of them is in
 * sim_client.c, what they do all day in sim_client_work.c. Only sim_client*.c include this. */
#ifndef SIM_CLIENT_H
#define SIM_CLIENT_H

#include "replog/client.h"
#include "sim.h"
#include "sim_client_thread.h"
#include "sim_oracle.h"

enum { SIM_LAST_MS = 800 }; /* between the end of the last call and that of the run */

/* How a life is lived; drawn when it begins. */
struct sim_style {
    replog_client_options options;
    unsigned percent_leader, percent_all, percent_single, percent_keyed, percent_deletes;
    unsigned percent_sync, percent_huge;
    uint32_t most_records, value_min, value_max;
    uint64_t pause_us;      /* between two things, or two bursts of appends; about */
    uint32_t most_in_burst; /* appends in a row */
    uint64_t get_us;        /* at most between two Gets */
    unsigned appenders, readers, getters;
    bool operates;
    unsigned most_truncate_percent; /* of the log */
};

struct sim_told;

struct sim_client {
    struct sim_process process;
    struct sim *sim;
    uint64_t rng, life;
    replog_client *lib;
    struct sim_style style;
    bool leaving;          /* this life ends: begin nothing new */
    unsigned n_tasks;      /* threads of this life, without its main */
    struct sim_told *open; /* appends that have no answer */
    bool finished, verifies;
    bool knows_all;    /* members, and not only some: it can do without those that are lost */
    const char *doing; /* of the main thread, for the failure of one that never ends */
};

/* A task of a life, run in a thread of its own. */
struct sim_task {
    struct sim_client *client;
    unsigned number; /* among those of its kind */
};
void sim_appender(void *task);
void sim_reader(void *task);
void sim_getter(void *task);
void sim_operator(void *task);
/* What must work once all is healed. */
void sim_verify(struct sim_client *c);
/* The appends without an answer are lost with their process. */
void sim_client_lose_appends(struct sim_client *c);
/* What the client gives a call that begins now: the end of the run is not to come first. */
uint32_t sim_client_timeout_ms(const struct sim_client *c);
/* Whether the client should begin something now. */
bool sim_client_goes_on(const struct sim_client *c);

#endif

/* sim.h: one run of the simulator: virtual time, events, the trace, and what the parts of the
 * simulator may ask of each other. One thread; nothing here depends on a clock, on an address or on
 * what another run left behind: the same seed gives the same trace, to the byte.
 *
 *   sim_sched.c   time, events, random streams, the trace and its hash, failing
 *   sim_net.*     streams between members, connections of clients, faults of the network
 *   sim_disk.*    a member's disk (wal/disk_mem): slow, full, failing, damaged
 *   sim_node.*    the shell of a node: what server/ does with threads is done here with events
 *   sim_faults.*  the plan of a run: which faults, when; --shrink thins it out
 *   sim_watch.*   checkers of what the members do
 *   sim_rpc.*     rpc.h for the client library over sim_net; the services of a node
 *   sim_client.*  clients, readers, operators
 *   sim_oracle.*  checkers of what clients were told
 *   sim_main.c    options, many seeds, shrinking */
#ifndef SIM_H
#define SIM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "node/node.h"
#include "store/store.h"

enum { SIM_MAX_NODES = 7, SIM_WHO_WORLD = 0, SIM_WHO_CLIENT = 101 /* the first client */ };

struct sim;

/* ---- Time and chance ------------------------------------------------------------------------- */

uint64_t sim_now_us(const struct sim *sim); /* true time; begins at 1,000,000 */
/* Uniform in [low, high], from the run's own stream. */
uint64_t sim_draw(struct sim *sim, uint64_t low, uint64_t high);
/* A stream of one's own (the state for rng_next and rng_between of base/clock.h): what one module
 * draws does not change what another gets. The same `name` gives the same stream in a run. */
uint64_t sim_fork_rng(struct sim *sim, const char *name);

/* Calls fn(sim, arg, tag) after the delay. Events of the same moment come in the order in which
 * they were asked for. They cannot be taken back: let `tag` say whether it is still wanted. What
 * `arg` points to must live to the end of the run, or to the call. */
typedef void sim_event_fn(struct sim *sim, void *arg, uint64_t tag);
void sim_after(struct sim *sim, uint64_t delay_us, sim_event_fn *fn, void *arg, uint64_t tag);

/* ---- The story ------------------------------------------------------------------------------- */

/* One line of the trace: always hashed, printed with --trace. `who`: a node 1..7, a client from
 * SIM_WHO_CLIENT on, 0 the world. No addresses, no padding bytes, no real time in it. */
void sim_trace(struct sim *sim, unsigned who, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for what happens often: hashed without being formatted; printed as "what a b". */
void sim_note(struct sim *sim, unsigned who, const char *what, uint64_t a, uint64_t b);
/* Whether lines are printed: for what is dear to format and adds nothing to the hash. */
bool sim_tracing(const struct sim *sim);
/* A promise was broken: the run has failed. Does not return: it says what and how to replay it, and
 * ends the process (each seed of many runs in a child). Callable from anywhere within a run. */
_Noreturn void sim_fail(struct sim *sim, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* The run that is under way, for code that is called back without a pointer. */
struct sim *sim_current(void);
/* Figures for the last line of a run; summed over many. */
struct sim_figures {
    uint64_t events, appends_acked, records_acked, appends_failed, appends_unknown, reads, gets,
        checkpoints, truncations, leaders, log_checks, client_checks, evicted;
};
struct sim_figures *sim_figures(struct sim *sim);

/* ---- The run --------------------------------------------------------------------------------- */

struct sim_options {
    uint64_t seed;
    unsigned n_nodes;   /* 0: drawn */
    uint64_t length_us; /* with faults; 0: drawn around 15 s. Then comes the quiet time */
    uint64_t stop_us;   /* the quiet time comes so early, with the plan as it was; 0: it does not */
    bool trace;
    const char *only; /* the numbers of the faults of the plan that happen, "3,7"; NULL: all */
};
const struct sim_options *sim_options(const struct sim *sim);

/* The phases: faults come until sim_quiet_us; then all of them end, members that are down are
 * started, and from sim_healed_us on (a bounded time later) whatever a client asks must succeed if
 * sim_must_progress(). Clients begin nothing new from sim_last_call_us on; the run ends at
 * sim_end_us, and what was begun must have ended. */
uint64_t sim_quiet_us(const struct sim *sim);
uint64_t sim_healed_us(const struct sim *sim);
uint64_t sim_last_call_us(const struct sim *sim);
uint64_t sim_end_us(const struct sim *sim);
/* What clients ask must succeed: a majority of members is undamaged (what is damaged may refuse to
 * start), and none stays away for what it has kept more than the others. */
bool sim_must_progress(const struct sim *sim);

/* ---- Members (sim_node.c) -------------------------------------------------------------------- */

unsigned sim_n_nodes(const struct sim *sim);
/* The process is there; it may be paused, see sim_node_paused. */
bool sim_node_running(const struct sim *sim, uint64_t id);
bool sim_node_paused(const struct sim *sim, uint64_t id);
uint64_t sim_node_life(const struct sim *sim, uint64_t id); /* raised by every start */
/* What this member's disk went through so far in this run. */
enum sim_damage {
    SIM_DISK_WIPED = 1,   /* an empty directory under the old id */
    SIM_DISK_DAMAGED = 2, /* bytes were changed: rot, misdirected writes, a cut file ... */
    SIM_STORE_WIPED = 4,  /* the store alone: it is replayed, or the member refuses to start where
                             the log does not reach back; log, term and vote are as they were */
    SIM_VOTE_COPY_DAMAGED = 8 /* one slot of VOTE: the other alone holds the truth */
};
/* Without VOTE_COPY_DAMAGED, which excuses nothing; neither does a failed sync, which is not even
 * noted: the log stops at it, and what it had told before must be there. */
unsigned sim_node_damage(const struct sim *sim, uint64_t id);
/* What a member's log held durably as it was wiped last: others count on that. */
uint64_t sim_node_wiped_seq(const struct sim *sim, uint64_t id);
/* Members whose disk was wiped or damaged: never more than a minority in a run; and with --sync
 * none those that stay away. */
unsigned sim_n_destroyed(const struct sim *sim);
/* --sync of all members in this run. BATCH: "durable" is said after the sync as well, but late;
 * NONE: before it, and power cuts may lose what was acknowledged: of a majority, or of one member
 * while others that hold it are away. */
enum sim_sync { SIM_SYNC_ALWAYS, SIM_SYNC_BATCH, SIM_SYNC_NONE };
enum sim_sync sim_sync_mode(const struct sim *sim);
size_t sim_max_sessions(const struct sim *sim); /* how many a member keeps */
/* NONE: a power cut took from a member what was written and not synced. From then on what was
 * committed may be gone, and something else in its place; what clients were told is not judged any
 * more, but for whether somebody ever appended it. */
bool sim_has_lost(const struct sim *sim);

/* Steps the node now (now_ms, wall_us are filled in by its own clock; deadline_ms is by that clock
 * too: see sim_node_clock_ms). Ignored when it is not running; held back while it is paused (then
 * `append.block` and `text` are copied). The events of a bunch are pumped together within 0.1 ms.
 * REPLYs come through sim_service_reply, from within this call or later. */
void sim_node_post(struct sim *sim, uint64_t id, struct node_event *event);
uint64_t sim_node_clock_ms(const struct sim *sim, uint64_t id); /* mono; jumps and drifts */
uint64_t sim_node_wall_us(const struct sim *sim, uint64_t id);
/* Of a running member; what a service thread of the server may look at. */
struct wal *sim_node_wal(struct sim *sim, uint64_t id);
struct store *sim_node_store(struct sim *sim, uint64_t id);
void sim_node_snapshot(struct sim *sim, uint64_t id, struct node_snapshot *out);
/* Committed and durable there, as far as it knows: what a Read may serve. */
uint64_t sim_node_commit(struct sim *sim, uint64_t id);
/* A reader of a service found rot (DATA_LOSS): traced, and fails the run unless that member's disk
 * was damaged. */
void sim_node_found_rot(struct sim *sim, uint64_t id, const char *text);

/* ---- Connections of clients (sim_net.c) ------------------------------------------------------ */

/* Ordered bytes both ways, delayed; may break, clog, or never open. */
struct sim_conn;
struct sim_conn_ops {
    void (*opened)(void *user);
    void (*bytes)(void *user, const uint8_t *data,
                  size_t n);                   /* whole messages, as they were sent */
    void (*down)(void *user, const char *why); /* last call; also when it never opened */
};
/* From client `client` (its who number) to a member. Nothing is called from within. */
struct sim_conn *sim_connect(struct sim *sim, unsigned client, uint64_t node_id,
                             const struct sim_conn_ops *ops, void *user);
/* Each send arrives as one piece, in order, or not at all when it breaks before. From the client.
 */
void sim_conn_send(struct sim_conn *conn, const void *data, size_t n);
/* From the client's side: no call to ops any more; the member's side learns of it. What was sent
 * before may or may not arrive. */
void sim_conn_close(struct sim_conn *conn);
/* From the member's side. */
void sim_conn_answer(struct sim_conn *conn, const void *data, size_t n);
uint64_t sim_conn_id(const struct sim_conn *conn); /* unique in a run, never 0 */
unsigned sim_conn_client(const struct sim_conn *conn);
/* Bytes sent by either side and not yet delivered to the other: for flow control. */
size_t sim_conn_pending_to_node(const struct sim_conn *conn);
size_t sim_conn_pending_to_client(const struct sim_conn *conn);
/* The member's side may keep something with it; NULL at first. */
void sim_conn_set_service(struct sim_conn *conn, void *service);
void *sim_conn_service(const struct sim_conn *conn);

/* ---- Provided by sim_rpc.c and its kin ------------------------------------------------------- */

/* A REPLY effect of the member; copied by the callee. The token is its own, made so that it is
 * unique over lives. */
void sim_service_reply(struct sim *sim, uint64_t id, const struct node_effect *fx);
/* The process died: nothing of its calls will be answered. Connections to it: see below. */
void sim_service_node_down(struct sim *sim, uint64_t id);
/* The process is up. */
void sim_service_node_up(struct sim *sim, uint64_t id);
/* A client's bytes arrived. */
void sim_service_bytes(struct sim *sim, uint64_t id, struct sim_conn *conn, const uint8_t *data,
                       size_t n);
/* The connection is gone (the client's end, the network, or the process: then after
 * sim_service_node_down). conn is freed when this returns. */
void sim_service_conn_down(struct sim *sim, uint64_t id, struct sim_conn *conn);

/* ---- Provided by sim_client.c ---------------------------------------------------------------- */

/* Makes the clients of a run; called once, before the first event. */
void sim_clients_start(struct sim *sim);
/* How many there are, by SIM_WHO_CLIENT and on. The first one connects when all is healed. */
unsigned sim_clients_n(const struct sim *sim);
/* All faults have ended (at sim_quiet_us). */
void sim_clients_quiet(struct sim *sim);
/* At sim_end_us: checks what must be true at the end (what was begun has ended, and so on). */
void sim_clients_finish(struct sim *sim);
/* Frees everything; no event comes any more. */
void sim_clients_free(struct sim *sim);

/* ---- Told to sim_oracle.c by sim_watch.c ----------------------------------------------------- */

/* A committed block, told once, in order of seq, from the first member that claims it committed
 * and holds it durably; sim_watch checks that no member ever says otherwise. The bytes hold for the
 * call. */
void sim_oracle_committed(struct sim *sim, const struct block_header *header, const uint8_t *bytes);
/* At the end of the run, after the last of them. */
void sim_oracle_finish(struct sim *sim);

#endif

/* raft_world.h: a few raft cores with virtual logs, disks, clocks and a network, for tests. Nothing
 * happens by itself: the test says which message arrives, which disk finishes, whose clock ticks.
 * Every step checks what Raft promises (the list is at the top of raft_world.c), and a world can
 * write a trace, one line a message or effect.
 *
 * Hides: how effects are carried out. */
#ifndef RAFT_WORLD_H
#define RAFT_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "raft/raft.h"

enum {
    WORLD_MEMBERS = 7,
    WORLD_BLOCKS = 512,
    WORLD_PACKETS = 512,
    WORLD_PACKET_BLOCKS = 8,
    WORLD_OPS = 512,
    WORLD_TERMS = 4096,
    WORLD_READS = 2048,
    WORLD_HEARTBEAT_MS = 100,
    WORLD_ELECTION_MS = 1000
};

struct block { /* a raft entry with an identity: no two blocks ever made share one */
    struct raft_entry at;
    uint64_t id;
};

struct block_log {
    struct block items[WORLD_BLOCKS];
    size_t n;
};

struct packet {
    struct raft_msg msg;
    struct block blocks[WORLD_PACKET_BLOCKS];
    size_t n_blocks;
};

enum op_type { OP_WRITE, OP_CUT, OP_VOTE };
struct op { /* WRITE: one block; CUT: keep up to seq; VOTE: term, vote */
    enum op_type type;
    struct block block;
    uint64_t seq, epoch, term, vote;
};
struct op_queue {
    struct op items[WORLD_OPS];
    size_t n;
};

struct stream {
    bool on;
    uint64_t next_after; /* blocks up to here were sent */
    uint64_t owed;       /* ACKED was not heard of this one since it was sent; 0: of all */
};

struct member {
    uint64_t id;
    bool up, may_stand;
    bool disk_held, votes_held; /* deliver_all leaves the log's disk, the vote file alone */
    struct raft *raft;          /* NULL while down */
    uint64_t now_ms;
    struct block_log log;  /* what the core was told or told us, durable or not */
    struct block_log disk; /* what a crash leaves */
    uint64_t disk_term, disk_vote;
    uint64_t base_seq, base_term;     /* blocks stay in the arrays: the base only tells the core */
    uint64_t applied;                 /* durably: the commit after a restart */
    struct op_queue to_disk, votes;   /* not durable yet; votes may overtake the log */
    struct op_queue done, votes_done; /* durable, and the core does not know yet */
    struct stream streams[WORLD_MEMBERS + 1];
    uint64_t known[WORLD_MEMBERS + 1]; /* what ACKED said in this term, for the trace */
    uint64_t epoch;
};

struct world {
    unsigned n;
    struct member members[WORLD_MEMBERS + 1]; /* by id, from 1 */
    struct packet packets[WORLD_PACKETS];
    size_t n_packets;
    bool cut[WORLD_MEMBERS + 1][WORLD_MEMBERS + 1]; /* [from][to]: messages are lost */
    uint64_t lose_term;   /* not 0: messages with a block of this term are lost */
    size_t packet_blocks; /* at most so many in one message */
    bool one_at_a_time;   /* nothing is streamed to a peer that owes an acknowledgement */
    bool lazy;            /* streams are pumped by the test, not by themselves */
    uint64_t seed, next_id, now_ms;

    /* what Raft promises is judged by these */
    uint64_t leader_of_term[WORLD_TERMS];
    struct block committed[WORLD_BLOCKS];
    size_t n_committed;
    uint64_t read_floor[WORLD_READS]; /* committed when the read with this context arrived */
    unsigned reads_ok, reads_failed, n_reads, elections, cuts;
    uint64_t last_read_ok;

    FILE *trace; /* NULL: none */
    char *trace_text;
    size_t trace_bytes;
};

/* ---- Making one */
struct world *world_new(unsigned n, uint64_t seed, bool traced);
void world_free(struct world *w);
/* Compares the trace with tests/unit/data/raft/NAME.trace (RAFT_GOLDEN_UPDATE=1: writes it), and
 * frees the world. */
void world_end(struct world *w, const char *name);
void world_say(struct world *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Gives a member (which restarts with it) a durable log, a block of one record for every term in
 * `terms`, and a current term. Blocks of equal seq and term are the same on all members. */
void log_of(struct world *w, uint64_t id, uint64_t term, const char *terms);

/* ---- One thing at a time */
void world_event(struct world *w, uint64_t id, const struct raft_event *event);
void tick(struct world *w, uint64_t id);
void pass_ms(struct world *w, uint64_t ms); /* every clock; nobody is told yet */
void append(struct world *w, uint64_t leader, unsigned n_records);
void ask_read(struct world *w, uint64_t id);
void hand_over(struct world *w, uint64_t leader, uint64_t to);
/* The oldest write (vote) becomes durable; the core is told of the oldest such. False: none. */
bool disk_step(struct world *w, uint64_t id);
bool complete_step(struct world *w, uint64_t id);
bool vote_step(struct world *w, uint64_t id);
bool vote_complete_step(struct world *w, uint64_t id);
void pump(struct world *w, uint64_t id);      /* streams send what there is */
void deliver(struct world *w, size_t packet); /* and take it from the network */
void lose(struct world *w, size_t packet);
void lost_connection(struct world *w, uint64_t id, uint64_t peer);
void crash(struct world *w, uint64_t id); /* loses what is not durable */
void restart(struct world *w, uint64_t id);
void set_base(struct world *w, uint64_t id, uint64_t seq);

/* ---- Much at once */
/* All disks (unless held), or else the oldest message. False: nothing is left. */
bool deliver_one(struct world *w);
/* Disks (unless held) and messages, oldest first, until nothing is left. */
void deliver_all(struct world *w);
/* Everybody has been silent for long; this member alone notices, and stands. Then deliver_all. */
void stand(struct world *w, uint64_t id);
void elect(struct world *w, uint64_t id); /* stand, and it must win */
/* `ms` of everybody's time in steps of half a heartbeat, with deliver_all after each. */
void run_ms(struct world *w, uint64_t ms);
void isolate(struct world *w, uint64_t id, bool isolated);

/* ---- What must hold */
void expect_log(struct world *w, uint64_t id, const char *terms); /* one term a block */
void expect_leader(struct world *w, uint64_t id);
void expect_commit(struct world *w, uint64_t id, uint64_t seq);
size_t count_packets(const struct world *w, uint64_t from, enum raft_msg_type type);
uint64_t only_leader(const struct world *w); /* 0: none, or several */
void check_logs(struct world *w);            /* log matching, and cores against logs */

#endif

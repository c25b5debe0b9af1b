/* sim_watch_impl.h: the inside of the watcher. Only sim_watch*.c and their test include it.
 *   truth      every committed block's end, in order, from the first member that claimed it; all
 *              others must say the same for ever. With it, what a store must hold after that block.
 *   records    of each member: what it has promised to others (durable positions, votes), which its
 *              log must still hold whenever it comes up again. */
#ifndef SIM_WATCH_IMPL_H
#define SIM_WATCH_IMPL_H

#include "sim_watch.h"

struct truth {
    struct wal_pos end;
    uint64_t told_us,
        told_term;    /* when, and in which term of the member that was first to say it */
    uint64_t content; /* of the store, behind it */
    uint64_t meta; /* of its meta entries, as the first member that was looked at had it; 0: none */
};

struct record {
    struct wal_reader *reader;
    uint64_t read_seq;    /* compared up to here in this life */
    uint64_t claimed_seq; /* it said that this is committed, in any life */
    bool blind;           /* its log is damaged: cannot be compared in this life */
    bool changed;
    uint64_t promised_seq, promised_term;
    struct wal_vote promised_vote;
    uint64_t durable_seq; /* when it was last looked at; down: as it ended, whoever knew of it */
    uint64_t wiped_seq;   /* and as it was wiped: others count on that */
    uint64_t synced_seq;  /* as it ended: what a power cut leaves with --sync none */
    bool apart;           /* in this life: sim_watch_is_apart */
    uint64_t term;        /* when it was last looked at */
    unsigned cuts;        /* asked for and not yet done */
    uint64_t cut_seq;     /* the least of them */
    bool flushes;         /* was asked to, and has not */
    unsigned slices;      /* applied since */
    uint64_t leader_term, leader_commit, leader_since_ms, looked_ms;
    uint64_t heard_ms[SIM_MAX_NODES + 1]; /* by its own clock */
    enum wal_founding founding;           /* told */
    uint64_t base_seq;                    /* told */
};

struct slot { /* a key of the model store */
    uint64_t key, content;
};

struct sim_watch {
    struct truth *truth;
    size_t n_truth, capacity;
    struct record records[SIM_MAX_NODES + 1];
    uint64_t *leaders; /* by term */
    uint64_t (*votes)[SIM_MAX_NODES + 1];
    size_t n_terms;
    struct slot *model;
    size_t model_capacity, n_model;
    uint64_t content, rng;
    uint64_t cluster_id;        /* the only one */
    bool lost;                  /* sim_has_lost; the truth ends where it is certain */
    uint64_t probes, probe_seq; /* appends of the watcher itself; the one that was acknowledged */
};

struct record *watch_record(const struct sim_member *m);
/* The first that ends at or behind seq; n_truth: none. */
size_t watch_truth_find(const struct sim_watch *w, uint64_t seq);
/* What of the node's log is durable. While a cut waits for the disk, what lies there above it is
 * of the old tail: nothing of the new one can be durable. */
uint64_t watch_durable_of(const struct sim_member *m);
/* The log's beginning must be a block's end of the truth. */
void watch_check_base(struct sim_member *m);

/* ---- sim_watch_store.c */
void watch_model_apply(struct sim_watch *w, const struct block_header *h, const uint8_t *bytes);
/* The store must be what the truth up to its applied seq makes. */
void watch_check_store(struct sim_member *m);
/* Two stores that have applied equally far must hold the same: where the truth is not known. */
void watch_check_same_stores(struct sim *sim);

#endif

/* sim_oracle_impl.h: the inside of the oracle. Only sim_oracle*.c and its test include it. */
#ifndef SIM_ORACLE_IMPL_H
#define SIM_ORACLE_IMPL_H

#include "base/check.h"
#include "base/clock.h"
#include "sim_oracle.h"

enum { ORACLE_MAX_KEYS = 64, ORACLE_ID_BYTES = 16 };
#define ORACLE_NO_APPEND  UINT32_MAX           /* a marker */
#define ORACLE_PROBE      (UINT32_MAX - 1)     /* what sim_watch appends to see whether it can */
#define ORACLE_PROBE_TEXT "is there progress?" /* with its zero byte; no key */

enum append_state {
    APPEND_OPEN,      /* nothing was told yet */
    APPEND_ACKED,     /* first_seq, last_seq and term were told */
    APPEND_NOT_TAKEN, /* an error that says so */
    APPEND_UNKNOWN
};

struct oracle_append {
    struct sim_append plan;
    uint64_t seed;
    uint64_t after_seq; /* told to somebody before it was asked for: it stands behind */
    enum append_state state;
    uint64_t first_seq, last_seq, term; /* ACKED; with UNKNOWN: last_seq as a sentence said, or 0 */
    uint64_t log_first_seq, log_last_seq, log_term; /* in the committed log; 0: not there */
};

/* A block of the committed log. */
struct oracle_block {
    uint64_t first_seq, last_seq, term, chain;
    uint32_t append; /* or ORACLE_NO_APPEND, ORACLE_PROBE */
    replog_op marker;
};

/* A write to a key, in the order of the log. */
struct oracle_write {
    uint64_t seq, block_last_seq;
    uint32_t append, index;
    bool deleted;
};
struct oracle_key {
    struct oracle_write *writes;
    size_t n, capacity;
};

struct oracle_session {
    uint64_t id, last_sequence;
    struct sim_lane lane;
    uint32_t last_append[SIM_LANE_THREADS]; /* + 1 */
    bool used;
};

/* A judgement that waits for more of the log. */
struct oracle_doubt {
    uint64_t needs_seq;
    bool is_get;
    struct sim_get get; /* value: NULL, its hash in `hash` */
    struct sim_read read;
    uint64_t seq, hash;
};

struct oracle_node {
    uint64_t down_durable_seq, down_checkpoint_seq; /* as it died last */
    uint64_t life, served_seq;                      /* its store had applied so much in that life */
};

struct oracle {
    struct sim *sim;
    uint64_t rng;
    struct oracle_append *appends;
    uint32_t n_appends;
    size_t appends_capacity;
    struct oracle_block *blocks;
    size_t n_blocks, blocks_capacity;
    uint64_t end_seq, end_chain;
    struct oracle_session *sessions;
    size_t n_sessions, sessions_capacity;
    struct oracle_key keys[ORACLE_MAX_KEYS];
    unsigned n_keys;
    uint32_t long_key_bytes; /* every eighth key is so long */
    struct oracle_doubt *doubts;
    size_t n_doubts, doubts_capacity;
    uint32_t *expected; /* acknowledged and not seen in the log yet */
    size_t n_expected, expected_capacity;
    uint64_t floor; /* told to somebody: reads that begin now show it, appends stand behind it */
    uint64_t most_truncated; /* the highest `upto` that anybody asked for */
    uint64_t highest_first_seq;
    struct oracle_node nodes[SIM_MAX_NODES + 1];
};

struct oracle *oracle_of(struct sim *sim);
/* Room for one more at the end of an array. */
void *oracle_grow(void *items, size_t n, size_t *capacity, size_t item_bytes);

/* sim_oracle_content.c: what an append holds */
struct oracle_record {
    replog_op op;
    unsigned key_number;
    struct slice key, value; /* hold until the next call */
};
void oracle_record(struct oracle *o, uint32_t append, uint32_t index, struct oracle_record *out);
/* The number of an append from its first record's value; ORACLE_PROBE; ORACLE_NO_APPEND. */
uint32_t oracle_which(struct oracle *o, const void *value, size_t value_bytes);
/* The number of a key; ORACLE_MAX_KEYS: none of ours. */
unsigned oracle_key_number(struct oracle *o, struct slice key);
/* Whether that record is record `index` of the append, exactly. */
bool oracle_same(struct oracle *o, uint32_t append, uint32_t index, replog_op op, struct slice key,
                 struct slice value);

/* sim_oracle_read.c */
void oracle_settle_doubts(struct oracle *o);
void oracle_note_first_seqs(struct oracle *o);
/* The block that holds a seq, NULL above the end; *hint speeds up walking on. */
const struct oracle_block *oracle_block_at(const struct oracle *o, uint64_t seq, size_t *hint);

#endif

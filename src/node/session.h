/* session.h: the table of client sessions, for exactly-once appends. A session is born by a SESSION
 * record (its seq is the id) and numbers its appends 1, 2, 3, ...; the table knows the last number
 * in the log and the answers to those that the client may still ask for again.
 *
 * Two instances live in a node: one follows the log's tail (the leader admits by it; a cut undoes
 * it), one follows what the store has applied (saved atomically with the applied seq).
 * Hides: lookup, the windows of answers, eviction. Not thread-safe. */
#ifndef NODE_SESSION_H
#define NODE_SESSION_H

#include "base/bytes.h"
#include "replog/status.h"
#include "wal/block.h"

enum { SESSION_MAX = 1024, SESSION_WINDOW = REPLOG_MAX_INFLIGHT };

struct session_table;
struct session_answer {
    uint64_t first_seq, last_seq, term;
};

/* For so many sessions (0: SESSION_MAX; the simulator keeps fewer). NULL when memory is short. */
struct session_table *session_table_new(size_t max_sessions);
void session_table_free(struct session_table *t);
struct session_table *session_table_copy(const struct session_table *t);
size_t session_table_count(const struct session_table *t);

enum session_verdict {
    SESSION_ADMIT,   /* it is the next: append it */
    SESSION_REPEAT,  /* it is in the log: *answer says where */
    SESSION_UNKNOWN, /* no such session: FAILED_PRECONDITION */
    SESSION_GAP,     /* numbers before it are missing (*expected): FAILED_PRECONDITION */
    SESSION_GONE,    /* in the log, but its client had said that it has the answer */
    SESSION_FULL     /* more than SESSION_WINDOW answers would be kept */
};
/* What to do with an append of that number. Changes nothing. */
enum session_verdict session_check(const struct session_table *t, uint64_t session,
                                   uint64_t sequence, uint64_t acked_below,
                                   struct session_answer *answer, uint64_t *expected);

/* A block stands at the tail (or is applied): a SESSION record makes a session, a numbered append
 * is remembered. Blocks come in order; one that the table has seen (after a restart) changes
 * nothing. `is_session`: the block is a SESSION record. RESOURCE_EXHAUSTED when memory is short. */
replog_status session_append(struct session_table *t, const struct block_header *h,
                             bool is_session);
/* Everything above keep_seq is gone from the log. */
void session_cut(struct session_table *t, uint64_t keep_seq);
/* Committed up to `commit_seq`: of the sessions up to there, evicts those beyond the table's bound,
 * the longest unused (by seq) first. One that is used above commit_seq stays. Calls fn (may be
 * NULL) with each id that goes.
 *
 * So the table at the log's tail may keep another one than the table of what is applied, which
 * knows no use above. Whoever knows a session knows all of it, so nothing is taken twice; the
 * client of one that a later leader does not know is told so. */
void session_evict(struct session_table *t, uint64_t commit_seq,
                   void (*fn)(uint64_t session, void *user), void *user);

/* One session as the store keeps it. encode: false when there is no such session. */
bool session_encode(const struct session_table *t, uint64_t session, struct buffer *out);
replog_status session_decode(struct session_table *t, uint64_t session, struct slice value,
                             replog_error *err);

#endif

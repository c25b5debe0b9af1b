/* replog/client.h: the client library.
 *
 * A replog_client speaks to a cluster: it connects to any of the endpoints, finds the leader and
 * follows it. Appends are exactly-once: the client registers a session and numbers its appends, and
 * whatever it has to repeat after a lost connection or a change of leader gets its first answer.
 *
 *     replog_client *c;
 *     replog_error err;
 *     if (replog_client_open("127.0.0.1:7401,127.0.0.1:7402", NULL, &c, &err)) die(err.text);
 *     replog_batch *b = replog_batch_new();
 *     replog_batch_put(b, "k", 1, "v", 1, NULL);
 *     replog_append_result r;
 *     replog_append(c, b, NULL, &r, &err);
 *     replog_batch_free(b);
 *     replog_client_close(c);
 *
 * Threads: a client may be used by any number of threads at a time; appends are sent in the order
 * in which the calls found their place in the window (of one thread: in the order of its calls).
 * Appends with REPLOG_ACK_ALL travel apart, one at a time, so that a member that is away holds up
 * nothing else: they are in order among themselves only. An append without exactly-once that is
 * refused for want of space is tried again, and may then stand behind later ones of the same
 * thread. A batch and a reader belong to one thread at a time.
 * Callbacks run on threads of the library, one at a time for one client, in the order of the
 * appends (one whose deadline passes is answered then, before others that still wait). They must
 * not block, as nothing else is heard of meanwhile, and may call replog_append_async (which then
 * never waits: RESOURCE_EXHAUSTED when the window is full). Whatever waits for the cluster is
 * refused there (FAILED_PRECONDITION).
 *
 * Deadlines: every call has one (its timeout_ms, or the client's); until then it looks for a node
 * that can answer, with growing pauses between attempts (20 to 500 ms).
 *
 * What a failed append means. The outcome is unknown after UNAVAILABLE (only without exactly-once:
 * REPLOG_ACK_LEADER, no_session), DEADLINE_EXCEEDED, FAILED_PRECONDITION (the cluster has forgotten
 * the session after the append was sent: it keeps a bounded number of sessions) and CANCELLED (the
 * client was closed), unless the sentence says "nothing was appended". Every other failure means
 * that nothing was appended. An append whose deadline has passed is still brought to an end behind
 * the scenes, as those that follow carry on from its number: until then it keeps its place in the
 * window. A new client is a new session: what it appends has no tie to what another one began. */
#ifndef REPLOG_CLIENT_H
#define REPLOG_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "replog/limits.h"
#include "replog/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct replog_client replog_client;
typedef struct replog_batch replog_batch;
typedef struct replog_reader replog_reader;

typedef enum replog_ack {
    REPLOG_ACK_QUORUM = 0, /* durable on a majority and committed */
    REPLOG_ACK_LEADER = 1, /* durable on the leader; may be lost with it; no exactly-once */
    REPLOG_ACK_ALL = 2     /* durable on every member */
} replog_ack;

typedef struct replog_client_options {
    uint32_t timeout_ms;   /* of a call, its retries included; 0: 10000 */
    uint32_t window;       /* appends in flight; 0: 256; at most REPLOG_MAX_INFLIGHT */
    uint64_t window_bytes; /* bytes in flight; 0: 16 MiB */
    bool no_session;       /* appends without a session: not deduplicated, never repeated */
} replog_client_options;

/* `endpoints`: "HOST:PORT,HOST:PORT,...", copied. Does not wait for a connection: INVALID_ARGUMENT
 * for malformed endpoints, RESOURCE_EXHAUSTED when memory is short. *client is the caller's until
 * replog_client_close. `options` may be NULL. */
replog_status replog_client_open(const char *endpoints, const replog_client_options *options,
                                 replog_client **client, replog_error *err);
/* Fails what is in flight with CANCELLED (callbacks run; threads inside a call of this client
 * return with CANCELLED, and no new call may begin), ends threads, frees. Readers must be closed
 * before. replog_flush first, if nothing is to be lost. Not from a callback. NULL is ignored. */
void replog_client_close(replog_client *client);

/* ---- Batches: what is appended at once, all or nothing */
replog_batch *replog_batch_new(void); /* NULL when memory is short */
void replog_batch_free(replog_batch *batch);
void replog_batch_clear(replog_batch *batch); /* for reuse */
/* Copies key and value. An empty key makes a plain log entry. INVALID_ARGUMENT names the limit and
 * leaves the batch as it was; so does RESOURCE_EXHAUSTED (memory). A DELETE needs a key. */
replog_status replog_batch_put(replog_batch *batch, const void *key, size_t key_bytes,
                               const void *value, size_t value_bytes, replog_error *err);
replog_status replog_batch_delete(replog_batch *batch, const void *key, size_t key_bytes,
                                  replog_error *err);
size_t replog_batch_count(const replog_batch *batch);
size_t replog_batch_bytes(const replog_batch *batch); /* against REPLOG_MAX_BATCH_BYTES */

/* ---- Appending */
typedef struct replog_append_options {
    replog_ack ack;
    uint32_t timeout_ms; /* 0: the client's */
    bool single; /* one record, its own unit without COMMIT; the batch must hold exactly one */
} replog_append_options;

typedef struct replog_append_result {
    uint64_t first_seq, last_seq; /* last_seq is the COMMIT's, unless single */
    uint64_t term;
    uint64_t durable_on[16]; /* members that held it durably when it was answered */
    uint32_t n_durable_on;
} replog_append_result;

/* Appends and waits for the answer. `options` and `result` may be NULL. The batch stays the
 * caller's. INVALID_ARGUMENT (an empty batch, a limit), RESOURCE_EXHAUSTED (the disk, a queue or
 * the window stayed full until the deadline; nothing was appended); REPLOG_ACK_ALL with a member
 * away: DEADLINE_EXCEEDED, and the sentence says where it was committed and who lacks it. */
replog_status replog_append(replog_client *client, const replog_batch *batch,
                            const replog_append_options *options, replog_append_result *result,
                            replog_error *err);

/* result is NULL unless status is OK; error is never NULL. Both hold during the call. */
typedef void (*replog_append_fn)(void *user, replog_status status,
                                 const replog_append_result *result, const replog_error *error);
/* Sends and returns; `fn` is called exactly once if OK was returned, and never otherwise. Waits for
 * a place in the window at most timeout_ms (RESOURCE_EXHAUSTED then). The batch is copied. */
replog_status replog_append_async(replog_client *client, const replog_batch *batch,
                                  const replog_append_options *options, replog_append_fn fn,
                                  void *user, replog_error *err);
/* Waits until every append has its answer and its callback has returned. DEADLINE_EXCEEDED after
 * timeout_ms (0: the client's); the appends go on. */
replog_status replog_flush(replog_client *client, uint32_t timeout_ms, replog_error *err);

/* ---- Reading the store */
/* *value (malloc'd, the caller frees it; never NULL on OK) and *seq (may be NULL), the number of
 * the record that wrote it. NOT_FOUND. Not stale: linearizable; stale: as the node that is asked
 * has it. */
replog_status replog_get(replog_client *client, const void *key, size_t key_bytes, bool stale,
                         uint32_t timeout_ms, void **value, size_t *value_bytes, uint64_t *seq,
                         replog_error *err);

/* ---- Reading the log */
typedef struct replog_read_options {
    uint64_t from_seq;         /* 0: the first there is */
    uint64_t to_seq;           /* 0: what is committed now (or no end, with follow) */
    bool follow;               /* wait for more; from a node that is cut off the reader moves on
                                  after some seconds, to another that the client knows */
    bool markers;              /* every record, markers included */
    const char *only_endpoint; /* read from exactly this node, what it knows; NULL: any node, and
                                  the reader moves on to another when it fails */
} replog_read_options;

typedef struct replog_entry {
    uint64_t seq, term;
    replog_op op;
    const void *key;
    size_t key_bytes;
    const void *value;
    size_t value_bytes;
    uint64_t safe_seq, drop_upto; /* CHECKPOINT */
    uint64_t session;             /* SESSION */
    const char *members;          /* CONFIG: a JSON array [{"id":1,"address":"..."}]; else NULL */
} replog_entry;

/* `options` may be NULL (all zero), and is copied. Does not wait for a node. INVALID_ARGUMENT
 * (from_seq behind to_seq, a malformed endpoint). *reader is the caller's until
 * replog_reader_close. */
replog_status replog_reader_open(replog_client *client, const replog_read_options *options,
                                 replog_reader **reader, replog_error *err);
/* The next record; its pointers hold until the next call on this reader. Every record comes once,
 * in order, whatever node it comes from. NOT_FOUND: the end (bounded reads); DEADLINE_EXCEEDED:
 * nothing new within timeout_ms (0: the client's; the reader stays usable); OUT_OF_RANGE: truncated
 * away (the sentence names the first seq); DATA_LOSS (on every node that was asked); UNAVAILABLE:
 * no node could be reached in time, or none that knows a leader (the reader stays usable). After
 * any other failure the reader has ended. A reader that is not read from holds about 2 MiB and then
 * the node back. */
replog_status replog_reader_next(replog_reader *reader, uint32_t timeout_ms, replog_entry *entry,
                                 replog_error *err);
void replog_reader_close(replog_reader *reader); /* NULL is ignored */

/* ---- Administration. UNAVAILABLE: no leader (for the status: no node) answered in time. */
/* *seq: of the CHECKPOINT record; *safe_seq: what every member's store holds (each may be NULL). */
replog_status replog_checkpoint(replog_client *client, uint32_t timeout_ms, uint64_t *seq,
                                uint64_t *safe_seq, replog_error *err);

typedef struct replog_holder {
    uint64_t id, checkpoint_seq;
} replog_holder;
typedef struct replog_truncate_result {
    uint64_t requested, first_seq;
    replog_holder held_by[16];
    uint32_t n_held_by;
} replog_truncate_result;
/* Asks for the log to be dropped up to and including `upto`; the request persists. held_by: members
 * whose store has not absorbed it yet. `result` may be NULL. */
replog_status replog_truncate(replog_client *client, uint64_t upto, uint32_t timeout_ms,
                              replog_truncate_result *result, replog_error *err);

typedef struct replog_member_status {
    uint64_t id;
    char address[256], role[16], state[16];
    bool online;
    uint64_t match_seq, commit_seq, applied_seq, checkpoint_seq, lag_bytes, chain_seq, chain;
} replog_member_status;
typedef struct replog_cluster_status {
    uint64_t leader, term, first_seq, commit_seq, last_seq, cluster_id;
    replog_member_status members[16];
    uint32_t n_members;
    uint64_t safe_seq, drop_upto;
    replog_holder held_by[16];
    uint32_t n_held_by;
} replog_cluster_status;
/* leader is 0 where none is known. */
replog_status replog_get_status(replog_client *client, uint32_t timeout_ms,
                                replog_cluster_status *status, replog_error *err);

#ifdef __cplusplus
}
#endif
#endif

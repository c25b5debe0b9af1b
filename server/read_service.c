/* Read: committed records in order of seq. Each stream is a task of the reader pool that runs while
 * it has something to send, and is parked otherwise: until more is committed, until its client has
 * taken what was sent, or until its call ends. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/mutant.h"
#include "server/reader_pool.h"
#include "server/read_codec.h"
#include "server/services.h"

enum { MAX_READS = 256, CHUNK_BYTES = 256 << 10, CHUNKS_A_RUN = 4 };

enum run_state { PARKED, QUEUED, RUNNING, RUNNING_AGAIN };
enum run_result { RUN_PARK, RUN_AGAIN };

struct read {
    enum user_kind kind; /* first: USER_OF_CALL */
    struct task task;
    struct server *s;
    struct rpc_call *call;
    struct read *next; /* in reads.all; its lock */
    struct read_request ask;

    pthread_mutex_t lock; /* of the states and refs */
    enum run_state state;
    unsigned refs; /* the call's, and one while the node is asked for a read index */
    bool blocked;  /* the client must take what was sent before there is more */
    bool closed, indexed;
    replog_status index_status; /* the read index could not be had */
    uint64_t index_leader;
    char index_text[240];

    /* of the pool's thread that runs it */
    struct wal_reader *reader;
    bool started, over;
    uint64_t next_seq; /* what comes next */
    uint64_t to_seq;   /* where it ends; UINT64_MAX: never */
    uint64_t told_seq; /* next_seq as the client knows it */
    uint64_t moved_ms;
    struct buffer chunk;
};

/* The question for a read index; lives until its reply. */
struct index_request {
    struct request request; /* first */
    struct read *read;
};

struct reads {
    pthread_mutex_t lock; /* taken before a read's */
    struct read *all;
    unsigned n;
};

replog_status reads_start(struct server *s, replog_error *err) {
    s->reads = calloc(1, sizeof *s->reads);
    if (!s->reads) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    (void)pthread_mutex_init(&s->reads->lock, NULL);
    return REPLOG_OK;
}

/* ---- Waking and parking */

/* With the read's lock held. */
static void wake_locked(struct read *r) {
    if (r->state == PARKED) {
        r->state = QUEUED;
        reader_pool_push(r->s, &r->task);
    } else if (r->state == RUNNING) {
        r->state = RUNNING_AGAIN;
    }
}

static void wake(struct read *r) {
    (void)pthread_mutex_lock(&r->lock);
    wake_locked(r);
    (void)pthread_mutex_unlock(&r->lock);
}

static void wake_all(struct server *s) {
    struct reads *all = s->reads;
    (void)pthread_mutex_lock(&all->lock);
    for (struct read *r = all->all; r; r = r->next) {
        (void)pthread_mutex_lock(&r->lock);
        if (!r->blocked) wake_locked(r);
        (void)pthread_mutex_unlock(&r->lock);
    }
    (void)pthread_mutex_unlock(&all->lock);
}

void reads_wake(struct server *s) {
    if (stats_get(&s->stats.reads_open) > 0) wake_all(s);
}

void reads_idle(struct server *s) {
    struct reads *all = s->reads;
    if (stats_get(&s->stats.reads_open) == 0) return;
    (void)pthread_mutex_lock(&all->lock);
    for (struct read *r = all->all; r; r = r->next) wake(r);
    (void)pthread_mutex_unlock(&all->lock);
}

void reads_drain(struct server *s) {
    reads_idle(s);
}

static void read_release(struct read *r) {
    (void)pthread_mutex_lock(&r->lock);
    bool last = --r->refs == 0;
    (void)pthread_mutex_unlock(&r->lock);
    if (!last) return;
    rpc_call_unref(r->call);
    buffer_free(&r->chunk);
    (void)pthread_mutex_destroy(&r->lock);
    free(r);
}

static void leave(struct read *r) {
    struct reads *all = r->s->reads;
    (void)pthread_mutex_lock(&all->lock);
    for (struct read **at = &all->all; *at; at = &(*at)->next) {
        if (*at != r) continue;
        *at = r->next;
        all->n--;
        break;
    }
    (void)pthread_mutex_unlock(&all->lock);
    atomic_fetch_sub(&r->s->stats.reads_open, 1);
    wal_reader_close(r->reader);
    r->reader = NULL;
}

/* ---- One run */

static enum run_result finish(struct read *r, replog_status status, const char *text) {
    r->over = true;
    wal_reader_close(r->reader);
    r->reader = NULL;
    server_refuse(r->s, r->call, status, text, 0);
    return RUN_PARK; /* until the call's end */
}

static enum run_result out_of_range(struct read *r, const char *what, uint64_t asked,
                                    const char *bound, uint64_t seq) {
    char text[200];
    (void)snprintf(text, sizeof text, "%s %" PRIu64 " lies %s %" PRIu64, what, asked, bound, seq);
    return finish(r, REPLOG_OUT_OF_RANGE, text);
}

/* The request against the log as it is now. True when the stream may go on. */
static bool start(struct read *r, uint64_t readable) {
    uint64_t first_seq = wal_first_seq(r->s->wal), index = r->to_seq;
    r->started = true;
    r->next_seq = r->told_seq = r->ask.from_seq ? r->ask.from_seq : first_seq;
    r->to_seq = r->ask.to_seq ? r->ask.to_seq : UINT64_MAX;
    if (MUTANT(READ_BEGINS_LATER) && !r->ask.from_seq && readable > first_seq)
        r->next_seq = r->told_seq = first_seq + (readable - first_seq) / 2;
    if (r->next_seq < first_seq) {
        (void)out_of_range(r, "from_seq", r->next_seq, "below the first seq of the log,",
                           first_seq);
        return false;
    }
    if (r->ask.follow) return true;
    if (r->ask.local) index = readable;
    if (r->next_seq > index + 1) {
        (void)out_of_range(r, "from_seq", r->next_seq, "above what is committed, up to", index);
        return false;
    }
    if (r->ask.to_seq > index) {
        (void)out_of_range(r, "to_seq", r->ask.to_seq, "above what is committed, up to", index);
        return false;
    }
    if (!r->ask.to_seq) r->to_seq = index;
    return true;
}

static replog_status open_reader(struct read *r, replog_error *err) {
    if (r->reader) return REPLOG_OK;
    return wal_reader_open(r->s->wal, r->next_seq, &r->reader, err);
}

/* Gathers whole blocks into r->chunk. OK: something may be there; NOT_FOUND: nothing more now. */
static replog_status gather(struct read *r, uint64_t readable, size_t *records, replog_error *err) {
    replog_status st = open_reader(r, err);
    while (st == REPLOG_OK && r->next_seq <= r->to_seq && r->chunk.size_bytes < CHUNK_BYTES) {
        struct block_header header;
        const uint8_t *block;
        st = wal_reader_next(r->reader, readable, &header, &block, err);
        if (st != REPLOG_OK) break;
        *records += read_encode_block(&r->chunk, block, &header, &r->ask, r->next_seq, r->to_seq);
        r->next_seq = block_last_seq(&header) + 1;
        r->moved_ms = clock_mono_ms();
        if (*records > 0 && r->chunk.size_bytes >= CHUNK_BYTES) break;
    }
    return st;
}

/* Sends the chunk and where the reader stands; false when the client must take it first. */
static bool send_chunk(struct read *r, uint64_t readable) {
    pb_put_varint(&r->chunk, 2, readable);
    pb_put_varint(&r->chunk, 3, r->next_seq);
    if (r->chunk.failed) {
        (void)finish(r, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
        return false;
    }
    (void)pthread_mutex_lock(&r->lock);
    r->blocked = true; /* before the send: `writable` may come within it */
    (void)pthread_mutex_unlock(&r->lock);
    size_t bytes = r->chunk.size_bytes;
    replog_status st = rpc_send(r->call, &(struct rpc_piece){r->chunk.data, bytes, NULL}, 1);
    stats_add(&r->s->stats.read_bytes, bytes);
    buffer_clear(&r->chunk);
    if (r->chunk.capacity > 4 * (size_t)CHUNK_BYTES)
        buffer_free(&r->chunk); /* a large one is rare */
    r->told_seq = r->next_seq;
    if (st != REPLOG_OK) return false;
    (void)pthread_mutex_lock(&r->lock);
    r->blocked = false;
    (void)pthread_mutex_unlock(&r->lock);
    return true;
}

static enum run_result failed(struct read *r, replog_status st, const replog_error *err) {
    if (st == REPLOG_ABORTED) { /* cut or truncated under the reader: look anew */
        wal_reader_close(r->reader);
        r->reader = NULL;
        return RUN_AGAIN;
    }
    uint64_t first_seq = wal_first_seq(r->s->wal);
    if (st == REPLOG_OUT_OF_RANGE && r->next_seq < first_seq) {
        return out_of_range(r, "seq", r->next_seq, "below the first seq of the log,", first_seq);
    }
    if (st == REPLOG_DATA_LOSS) {
        log_error("a read found damage: %s", err->text);
        atomic_store(&r->s->damaged, true);
    }
    return finish(r, st, err->text);
}

static enum run_result wait_for_more(struct read *r) {
    if (clock_mono_ms() - r->moved_ms >= READER_IDLE_MS) { /* hold neither segment nor memory */
        wal_reader_close(r->reader);
        r->reader = NULL;
        buffer_free(&r->chunk);
    }
    return RUN_PARK;
}

/* There is nothing more here. Who follows the log goes on at another member when this one is cut
 * off from the others; who wants to know what this one has stays. */
static enum run_result caught_up(struct read *r) {
    if (r->ask.local || !atomic_load(&r->s->cut_off)) return wait_for_more(r);
    return finish(r, REPLOG_UNAVAILABLE,
                  "this member knows no leader, or its cluster is not founded yet; others may have "
                  "more: go on at another one");
}

static enum run_result send_more(struct read *r) {
    for (unsigned chunks = 0; chunks < CHUNKS_A_RUN; chunks++) {
        uint64_t readable = atomic_load(&r->s->readable_seq);
        replog_status st = REPLOG_NOT_FOUND;
        replog_error err = {.text = ""};
        size_t records = 0;
        if (r->next_seq <= r->to_seq && r->next_seq <= readable) {
            st = gather(r, readable, &records, &err);
        }
        bool at_end = st == REPLOG_NOT_FOUND || r->next_seq > r->to_seq;
        /* markers alone are told only when nothing follows them, so that a lost stream goes on
         * behind */
        bool tell = records > 0 || (at_end && r->told_seq != r->next_seq);
        if (tell && !send_chunk(r, readable)) return RUN_PARK;
        if (r->next_seq > r->to_seq) return finish(r, REPLOG_OK, NULL);
        if (MUTANT(FOLLOWER_SLEEPS_ON) && st == REPLOG_NOT_FOUND) r->over = true;
        if (st == REPLOG_NOT_FOUND) return caught_up(r);
        if (st != REPLOG_OK) return failed(r, st, &err);
    }
    return RUN_AGAIN;
}

static enum run_result run_once(struct read *r, bool blocked, bool indexed) {
    if (r->over) return RUN_PARK;
    if (atomic_load(&r->s->draining)) {
        return finish(r, REPLOG_UNAVAILABLE, "this member is stopping; go on at another one");
    }
    if (!indexed) return RUN_PARK;
    if (r->index_status != REPLOG_OK) {
        r->over = true;
        server_refuse(r->s, r->call, r->index_status, r->index_text, r->index_leader);
        return RUN_PARK;
    }
    if (blocked) return wait_for_more(r);
    if (!r->started && !start(r, atomic_load(&r->s->readable_seq))) return RUN_PARK;
    return send_more(r);
}

static void read_run(struct task *task) {
    struct read *r = (struct read *)(void *)((char *)task - offsetof(struct read, task));
    (void)pthread_mutex_lock(&r->lock);
    r->state = RUNNING;
    bool closed = r->closed, blocked = r->blocked, indexed = r->indexed;
    (void)pthread_mutex_unlock(&r->lock);
    if (closed) {
        leave(r);
        read_release(r);
        return;
    }
    enum run_result result = run_once(r, blocked, indexed);
    (void)pthread_mutex_lock(&r->lock);
    bool again = result == RUN_AGAIN || r->state == RUNNING_AGAIN;
    r->state = again ? QUEUED : PARKED;
    if (again) reader_pool_push(r->s, &r->task);
    (void)pthread_mutex_unlock(&r->lock);
}

/* ---- The call */

static void index_done(struct request *request, const struct node_effect *fx) {
    struct index_request *q = (struct index_request *)(void *)request;
    struct read *r = q->read;
    free(q);
    (void)pthread_mutex_lock(&r->lock);
    r->indexed = true;
    r->index_status = fx->status;
    if (fx->status == REPLOG_OK) {
        r->to_seq = fx->reply.seq; /* start() reads it before it settles the end */
    } else {
        r->index_leader = fx->reply.leader;
        (void)snprintf(r->index_text, sizeof r->index_text, "%s", fx->text);
    }
    if (!r->closed) wake_locked(r);
    (void)pthread_mutex_unlock(&r->lock);
    read_release(r);
}

static void ask_index(struct read *r) {
    replog_error err;
    struct index_request *q = malloc(sizeof *q);
    if (!q) {
        rpc_finish(r->call, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
        return;
    }
    q->request.done = index_done;
    q->read = r;
    r->refs++; /* nobody else knows of it yet */
    struct node_event ev = {.type = NODE_EV_READ_INDEX};
    replog_status st = server_ask(r->s, &q->request, &ev, r->call, &err);
    if (st == REPLOG_OK) return;
    free(q);
    server_refuse(r->s, r->call, st, err.text, 0);
    read_release(r);
}

static struct read *read_new(struct server *s, struct rpc_call *call,
                             const struct read_request *ask) {
    struct read *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->kind = USER_OF_CALL;
    r->task.run = read_run;
    r->s = s;
    r->ask = *ask;
    r->refs = 1;
    r->moved_ms = clock_mono_ms();
    r->indexed = ask->local || ask->follow;
    (void)pthread_mutex_init(&r->lock, NULL);
    struct reads *all = s->reads;
    (void)pthread_mutex_lock(&all->lock);
    bool fits = all->n < MAX_READS;
    if (fits) {
        r->call = rpc_call_ref(call);
        r->next = all->all;
        all->all = r;
        all->n++;
    }
    (void)pthread_mutex_unlock(&all->lock);
    if (!fits) {
        (void)pthread_mutex_destroy(&r->lock);
        free(r);
        return NULL;
    }
    stats_add(&s->stats.reads_open, 1);
    rpc_call_set_user(call, r);
    return r;
}

static void read_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct server *s = rpc_call_user(call);
    struct read_request ask;
    replog_error err;
    replog_status st = read_decode_request(bytes, size_bytes, &ask, &err);
    if (st != REPLOG_OK) {
        rpc_finish(call, st, err.text);
        return;
    }
    struct read *r = read_new(s, call, &ask);
    if (!r) {
        stats_add(&s->stats.requests_refused, 1);
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED,
                   "more than 256 reads are open on this member, or memory is short; try again "
                   "later, or another one");
        return;
    }
    stats_add(&s->stats.requests, 1);
    if (r->indexed) {
        wake(r);
    } else {
        ask_index(r);
    }
}

/* The read of a call; NULL before its message. */
static struct read *read_of(struct rpc_call *call) {
    enum user_kind *user = rpc_call_user(call);
    return *user == USER_OF_CALL ? (struct read *)(void *)user : NULL;
}

static void read_writable(struct rpc_call *call) {
    struct read *r = read_of(call);
    if (!r) return;
    (void)pthread_mutex_lock(&r->lock);
    r->blocked = false;
    wake_locked(r);
    (void)pthread_mutex_unlock(&r->lock);
}

static void read_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status;
    (void)text;
    struct read *r = read_of(call);
    if (!r) return;
    (void)pthread_mutex_lock(&r->lock);
    r->closed = true;
    wake_locked(r); /* its last run */
    (void)pthread_mutex_unlock(&r->lock);
}

const struct rpc_handlers read_handlers = {
    .message = read_message, .writable = read_writable, .closed = read_closed};

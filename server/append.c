/* Append and AppendStream: requests are decoded straight from the received bytes into a block, go
 * to the node at once, and are answered in the order in which they came. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/log.h"
#include "server/services.h"

enum {
    STREAM_MAX_INFLIGHT = 4096,
    MAX_STREAMS = 1024,
    MAX_SPARE = 256, /* of a stream */
    SPARE_BLOCK_BYTES = 4096
};

/* Why a stream is held back; any of them suffices. */
enum pause { PAUSE_GATE = 1, PAUSE_COUNT = 2, PAUSE_REPLIES = 4 };

/* Where replies are encoded, kept from one to the next. */
struct reply_bytes {
    struct buffer message, ids;
};

struct append_stream {
    enum user_kind kind; /* first: USER_OF_CALL */
    struct server *s;
    struct rpc_call *call;
    struct append_stream *next; /* in appends.streams; its lock */
    bool gated;                 /* counted in appends.n_gated; its lock */
    pthread_mutex_t lock;       /* of all below */
    unsigned refs;              /* the call's, and one for each request in flight */
    struct append *head, **tail;
    struct append *spare; /* answered, for use again */
    unsigned n_spare;
    struct reply_bytes reply;
    unsigned n_inflight, paused;
    bool ended;   /* the client will send no more */
    bool refused; /* a request was refused here: what comes behind it is not looked at */
    bool over;    /* finished, or the call is gone: answers go nowhere */
};

/* One request, from its message to its reply. */
struct append {
    struct request request; /* first */
    struct server *s;
    struct append_stream *stream; /* NULL: unary */
    struct rpc_call *call;        /* unary */
    struct append *next;          /* in the stream's order, or among its spare ones */
    struct blob *block;           /* its bytes; kept for the next one when they are few */
    uint64_t bytes;
    bool done;
    replog_status status;
    char *text;
    uint64_t first_seq, last_seq, term, sequence, leader;
    uint64_t durable_on[RAFT_MAX_MEMBERS];
    unsigned n_durable_on;
};

struct appends {
    uint64_t limit_bytes;
    _Atomic uint64_t inflight_bytes;
    atomic_uint n_gated;
    pthread_mutex_t lock; /* taken before a stream's */
    struct append_stream *streams;
    unsigned n_streams;
};

replog_status appends_start(struct server *s, replog_error *err) {
    s->appends = calloc(1, sizeof *s->appends);
    if (!s->appends) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    /* below the node's own bound, so that streams are held back and not refused */
    s->appends->limit_bytes = s->options.pending_bytes / 2;
    (void)pthread_mutex_init(&s->appends->lock, NULL);
    return REPLOG_OK;
}

uint64_t appends_inflight_bytes(struct server *s) {
    return atomic_load(&s->appends->inflight_bytes);
}

/* ---- Decoding */

static replog_status wrong_form(replog_error *err, const char *message, uint32_t number) {
    return error_set(err, REPLOG_INVALID_ARGUMENT, "field %u of the %s has the wrong form", number,
                     message);
}

static replog_status decode_record(struct slice bytes, struct block_builder *b, replog_error *err) {
    struct pb_reader r = {.data = bytes.data, .end = bytes.data + bytes.size_bytes};
    struct pb_field f;
    uint64_t op = REPLOG_OP_PUT;
    struct slice key = {0}, value = {0};
    while (pb_next(&r, &f)) {
        if (f.number <= 3 && f.wire_type != (f.number == 1 ? 0u : 2u)) {
            return wrong_form(err, "record", f.number);
        }
        if (f.number == 1 && f.value != 0) op = f.value;
        if (f.number == 2) key = f.bytes;
        if (f.number == 3) value = f.bytes;
    }
    if (r.failed) return error_set(err, REPLOG_INVALID_ARGUMENT, "the record is malformed");
    if (op != REPLOG_OP_PUT && op != REPLOG_OP_DELETE) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "op %" PRIu64 " cannot be appended; it must be PUT or DELETE", op);
    }
    return block_add(b, (replog_op)op, key, value, err);
}

static replog_status take_field(const struct pb_field *f, struct block_builder *b,
                                struct node_append *out, bool *batch, replog_error *err) {
    if (f->number <= 6 && f->wire_type != (f->number == 6 ? 2u : 0u)) {
        return wrong_form(err, "append", f->number);
    }
    switch (f->number) {
    case 1:
        out->session = f->value;
        break;
    case 2:
        out->sequence = f->value;
        break;
    case 3:
        out->acked_below = f->value;
        break;
    case 4:
        if (f->value > NODE_ACK_ALL) {
            return error_set(err, REPLOG_INVALID_ARGUMENT,
                             "ack %" PRIu64 " is none of QUORUM (0), LEADER (1), ALL (2)",
                             f->value);
        }
        out->ack = (enum node_ack)f->value;
        break;
    case 5:
        *batch = f->value != 0;
        break;
    case 6:
        return decode_record(f->bytes, b, err);
    default:
        break; /* of a later version */
    }
    return REPLOG_OK;
}

static replog_status decode_fields(const uint8_t *bytes, size_t size_bytes, struct block_builder *b,
                                   struct node_append *out, replog_error *err) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    bool batch = false;
    while (pb_next(&r, &f)) {
        replog_status st = take_field(&f, b, out, &batch, err);
        if (st != REPLOG_OK) return st;
    }
    if (r.failed) return error_set(err, REPLOG_INVALID_ARGUMENT, "the append is malformed");
    if (b->n_records == 0) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "the append is empty; it must hold at least one record");
    }
    if ((out->session == 0) != (out->sequence == 0)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "session %" PRIu64 " with sequence %" PRIu64
                         ": either both are given (sequences begin at 1) or neither",
                         out->session, out->sequence);
    }
    if (batch || b->n_records > 1) block_add_marker(b, REPLOG_OP_COMMIT, (struct slice){0});
    return REPLOG_OK;
}

/* Into out->block, in the bytes of *block if they are free; *block is that block then, or NULL. */
static replog_status decode_append(const uint8_t *bytes, size_t size_bytes, struct blob **block,
                                   struct node_append *out, replog_error *err) {
    struct block_builder builder;
    *out = (struct node_append){0};
    /* a record's framing is a little longer in the block: only the shortest ones need more room */
    block_begin_sized(&builder, size_bytes + size_bytes / 8 + 64, *block);
    *block = NULL;
    replog_status st = decode_fields(bytes, size_bytes, &builder, out, err);
    if (st != REPLOG_OK) {
        block_builder_free(&builder);
        return st;
    }
    out->block = block_finish(&builder, &out->n_records, &out->flags);
    if (!out->block) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    *block = out->block;
    return REPLOG_OK;
}

/* ---- Answering */

static void append_free(struct append *a) {
    if (a->call) rpc_call_unref(a->call);
    blob_unref(a->block);
    free(a->text);
    free(a);
}

static void reply_bytes_free(struct reply_bytes *bytes) {
    buffer_free(&bytes->message);
    buffer_free(&bytes->ids);
}

static replog_status send_reply(struct rpc_call *call, const struct append *a,
                                struct reply_bytes *bytes) {
    struct buffer *out = &bytes->message, *ids = &bytes->ids;
    buffer_clear(out);
    buffer_clear(ids);
    pb_put_varint(out, 1, a->first_seq);
    pb_put_varint(out, 2, a->last_seq);
    pb_put_varint(out, 3, a->term);
    for (unsigned i = 0; i < a->n_durable_on; i++) {
        uint64_t v = a->durable_on[i];
        for (; v >= 0x80; v >>= 7) buffer_u8(ids, (uint8_t)(v | 0x80));
        buffer_u8(ids, (uint8_t)v);
    }
    if (ids->size_bytes > 0) pb_put_bytes(out, 4, ids->data, ids->size_bytes);
    pb_put_varint(out, 5, a->sequence);
    if (!out->failed && !ids->failed)
        return rpc_send(call, &(struct rpc_piece){out->data, out->size_bytes, NULL}, 1);
    rpc_cancel(call);
    return REPLOG_CANCELLED;
}

static void keep_outcome(struct append *a, const struct node_effect *fx) {
    const struct node_reply *r = &fx->reply;
    a->status = fx->status;
    a->leader = r->leader;
    if (fx->status != REPLOG_OK) {
        a->text = strdup(fx->text);
        return;
    }
    a->first_seq = r->first_seq;
    a->last_seq = r->last_seq;
    a->term = r->term;
    a->sequence = r->sequence;
    a->n_durable_on = r->n_durable_on;
    memcpy(a->durable_on, r->durable_on, r->n_durable_on * sizeof r->durable_on[0]);
}

/* ---- The bound on what all appends together have in flight */

/* Counted before the request goes out: its answer may come at once. */
static void gate_enter(struct append *a) {
    (void)atomic_fetch_add(&a->s->appends->inflight_bytes, a->bytes);
}

static void clear_pause(struct append_stream *st, unsigned why) {
    if (st->paused == 0) return;
    st->paused &= ~why;
    if (st->paused == 0) rpc_resume(st->call);
}

static void set_pause(struct append_stream *st, unsigned why) {
    if (st->paused == 0) rpc_pause(st->call);
    st->paused |= why;
}

static void ungate(struct appends *all, struct append_stream *st) {
    if (!st->gated) return;
    st->gated = false;
    (void)atomic_fetch_sub(&all->n_gated, 1);
    (void)pthread_mutex_lock(&st->lock);
    clear_pause(st, PAUSE_GATE);
    (void)pthread_mutex_unlock(&st->lock);
}

static void gate_leave(struct append *a) {
    struct appends *all = a->s->appends;
    uint64_t left = atomic_fetch_sub(&all->inflight_bytes, a->bytes) - a->bytes;
    if (left > all->limit_bytes / 2 || atomic_load(&all->n_gated) == 0) return;
    (void)pthread_mutex_lock(&all->lock);
    for (struct append_stream *st = all->streams; st; st = st->next) ungate(all, st);
    (void)pthread_mutex_unlock(&all->lock);
}

static void gate_hold(struct append_stream *st) {
    struct appends *all = st->s->appends;
    if (atomic_load(&all->inflight_bytes) <= all->limit_bytes) return;
    (void)pthread_mutex_lock(&all->lock);
    if (!st->gated) {
        st->gated = true;
        (void)atomic_fetch_add(&all->n_gated, 1);
        (void)pthread_mutex_lock(&st->lock);
        set_pause(st, PAUSE_GATE);
        (void)pthread_mutex_unlock(&st->lock);
        /* looked at again after n_gated grew: else the last answer might have missed it */
        if (atomic_load(&all->inflight_bytes) <= all->limit_bytes / 2) ungate(all, st);
    }
    (void)pthread_mutex_unlock(&all->lock);
}

/* ---- Append */

static void unary_done(struct request *request, const struct node_effect *fx) {
    struct append *a = (struct append *)(void *)request;
    gate_leave(a);
    if (fx->status == REPLOG_OK) {
        keep_outcome(a, fx);
        struct reply_bytes bytes = {0};
        (void)send_reply(a->call, a, &bytes);
        reply_bytes_free(&bytes);
        rpc_finish(a->call, REPLOG_OK, NULL);
    } else {
        server_refuse(a->s, a->call, fx->status, fx->text, fx->reply.leader);
    }
    append_free(a);
}

static replog_status ask(struct append *a, const uint8_t *bytes, size_t size_bytes,
                         struct rpc_call *call, replog_error *err) {
    struct node_event ev = {.type = NODE_EV_APPEND};
    replog_status st = decode_append(bytes, size_bytes, &a->block, &ev.append, err);
    if (st != REPLOG_OK) return st;
    CHECK(a->block);
    a->bytes = a->block->size_bytes;
    gate_enter(a);
    st = server_ask(a->s, &a->request, &ev, call, err);
    if (st != REPLOG_OK) gate_leave(a);
    return st;
}

static void append_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct server *s = rpc_call_user(call);
    replog_error err;
    replog_status st;
    struct append *a = calloc(1, sizeof *a);
    if (a) {
        a->request.done = unary_done;
        a->s = s;
        a->call = rpc_call_ref(call);
        st = ask(a, bytes, size_bytes, call, &err);
    } else {
        st = error_set(&err, REPLOG_RESOURCE_EXHAUSTED, "memory is short");
    }
    if (st == REPLOG_OK) return; /* a may be gone already */
    server_refuse(s, call, st, err.text, 0);
    if (a) append_free(a);
}

const struct rpc_handlers append_handlers = {.message = append_message};

/* ---- AppendStream */

static void stream_release(struct append_stream *st, unsigned n) {
    (void)pthread_mutex_lock(&st->lock);
    st->refs -= n;
    bool last = st->refs == 0;
    (void)pthread_mutex_unlock(&st->lock);
    if (!last) return;
    (void)pthread_mutex_destroy(&st->lock);
    rpc_call_unref(st->call);
    reply_bytes_free(&st->reply);
    for (struct append *a = st->spare, *next; a; a = next) {
        next = a->next;
        append_free(a);
    }
    free(st);
}

static void answer(struct append_stream *st, const struct append *a) {
    if (st->over) return;
    if (a->status != REPLOG_OK) {
        st->over = true;
        server_refuse(st->s, st->call, a->status, a->text ? a->text : "memory is short", a->leader);
    } else if (send_reply(st->call, a, &st->reply) == REPLOG_RESOURCE_EXHAUSTED) {
        set_pause(st, PAUSE_REPLIES);
    }
}

/* ---- Appends come and go with the stream's lock held: taking them from the stream costs less than
 * memory that one thread asks for and another gives back. */

static struct append *take_spare(struct append_stream *st) {
    struct append *a = st->spare;
    if (!a) return calloc(1, sizeof *a);
    struct blob *block = a->block;
    st->spare = a->next;
    st->n_spare--;
    memset(a, 0, sizeof *a);
    a->block = block;
    return a;
}

static void put_spare(struct append_stream *st, struct append *a) {
    if (st->n_spare == MAX_SPARE || a->text || a->bytes > SPARE_BLOCK_BYTES) {
        append_free(a);
        return;
    }
    a->next = st->spare;
    st->spare = a;
    st->n_spare++;
}

/* Sends what is next in order and done. */
static void stream_flush(struct append_stream *st) {
    unsigned released = 0;
    (void)pthread_mutex_lock(&st->lock);
    while (st->head && st->head->done) {
        struct append *a = st->head;
        st->head = a->next;
        if (!st->head) st->tail = &st->head;
        st->n_inflight--;
        answer(st, a);
        put_spare(st, a);
        released++;
    }
    if (st->n_inflight <= STREAM_MAX_INFLIGHT / 2) clear_pause(st, PAUSE_COUNT);
    if (st->ended && !st->head && !st->over) {
        st->over = true;
        rpc_finish(st->call, REPLOG_OK, NULL);
    }
    (void)pthread_mutex_unlock(&st->lock);
    if (released > 0) stream_release(st, released);
}

static void stream_done(struct request *request, const struct node_effect *fx) {
    struct append *a = (struct append *)(void *)request;
    struct append_stream *st = a->stream;
    gate_leave(a);
    keep_outcome(a, fx);
    (void)pthread_mutex_lock(&st->lock);
    a->done = true;
    bool first = st->head == a;
    if (first) st->refs++; /* another thread's flush may release a's at any moment */
    (void)pthread_mutex_unlock(&st->lock);
    if (!first) return;
    stream_flush(st);
    stream_release(st, 1);
}

/* Fails in its turn, behind what was asked before it. */
static void stream_fail(struct append_stream *st, struct append *a, replog_status status,
                        const char *text) {
    (void)pthread_mutex_lock(&st->lock);
    a->status = status;
    a->text = strdup(text);
    a->done = true;
    st->refused = true;
    (void)pthread_mutex_unlock(&st->lock);
    stream_flush(st);
}

/* A place in the stream's order, before the request goes out; NULL: not wanted any more. The caller
 * holds a reference of the stream while the request has one. */
static struct append *stream_enqueue(struct append_stream *st) {
    (void)pthread_mutex_lock(&st->lock);
    struct append *a = st->over || st->refused ? NULL : take_spare(st);
    bool short_of_memory = !a && !st->over && !st->refused;
    if (a) {
        a->request.done = stream_done;
        a->s = st->s;
        a->stream = st;
        *st->tail = a;
        st->tail = &a->next;
        st->n_inflight++;
        st->refs++;
        if (st->n_inflight >= STREAM_MAX_INFLIGHT) set_pause(st, PAUSE_COUNT);
    }
    (void)pthread_mutex_unlock(&st->lock);
    if (short_of_memory) rpc_cancel(st->call);
    return a;
}

static struct append_stream *stream_new(struct server *s, struct rpc_call *call) {
    struct append_stream *st = calloc(1, sizeof *st);
    if (!st) return NULL;
    st->kind = USER_OF_CALL;
    st->s = s;
    st->refs = 1;
    st->tail = &st->head;
    (void)pthread_mutex_init(&st->lock, NULL);
    struct appends *all = s->appends;
    (void)pthread_mutex_lock(&all->lock);
    bool fits = all->n_streams < MAX_STREAMS;
    if (fits) {
        st->call = rpc_call_ref(call);
        st->next = all->streams;
        all->streams = st;
        all->n_streams++;
    }
    (void)pthread_mutex_unlock(&all->lock);
    if (!fits) {
        (void)pthread_mutex_destroy(&st->lock);
        free(st);
        return NULL;
    }
    rpc_call_set_user(call, st);
    return st;
}

/* The stream of a call; NULL before its first message. */
static struct append_stream *stream_of(struct rpc_call *call) {
    enum user_kind *user = rpc_call_user(call);
    return *user == USER_OF_CALL ? (struct append_stream *)(void *)user : NULL;
}

static void stream_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct append_stream *st = stream_of(call);
    if (!st) st = stream_new(rpc_call_user(call), call);
    if (!st) {
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED,
                   "more than 1024 append streams are open, or memory is short");
        return;
    }
    struct append *a = stream_enqueue(st);
    if (!a) return;
    replog_error err;
    replog_status status = ask(a, bytes, size_bytes, call, &err);
    if (status != REPLOG_OK) {
        stream_fail(st, a, status, err.text);
        return;
    }
    gate_hold(st);
}

static void stream_end(struct rpc_call *call) {
    struct append_stream *st = stream_of(call);
    if (!st) {
        rpc_finish(call, REPLOG_OK, NULL);
        return;
    }
    (void)pthread_mutex_lock(&st->lock);
    st->ended = true;
    (void)pthread_mutex_unlock(&st->lock);
    stream_flush(st);
}

static void stream_writable(struct rpc_call *call) {
    struct append_stream *st = stream_of(call);
    if (!st) return;
    (void)pthread_mutex_lock(&st->lock);
    clear_pause(st, PAUSE_REPLIES);
    (void)pthread_mutex_unlock(&st->lock);
}

static void stream_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status;
    (void)text;
    struct append_stream *st = stream_of(call);
    if (!st) return;
    struct appends *all = st->s->appends;
    (void)pthread_mutex_lock(&all->lock);
    ungate(all, st);
    for (struct append_stream **at = &all->streams; *at; at = &(*at)->next) {
        if (*at != st) continue;
        *at = st->next;
        all->n_streams--;
        break;
    }
    (void)pthread_mutex_unlock(&all->lock);
    (void)pthread_mutex_lock(&st->lock);
    st->over = true;
    (void)pthread_mutex_unlock(&st->lock);
    stream_release(st, 1);
}

const struct rpc_handlers append_stream_handlers = {.message = stream_message,
                                                    .end = stream_end,
                                                    .writable = stream_writable,
                                                    .closed = stream_closed};

void appends_drain(struct server *s) {
    struct appends *all = s->appends;
    (void)pthread_mutex_lock(&all->lock);
    for (struct append_stream *st = all->streams, *next; st; st = next) {
        next = st->next;
        struct append *a = stream_enqueue(st);
        if (a) stream_fail(st, a, REPLOG_UNAVAILABLE, "this member is stopping; try another one");
    }
    (void)pthread_mutex_unlock(&all->lock);
}

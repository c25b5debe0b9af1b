/* A reader: one Read stream at a time, on any node, and a bounded queue of the chunks that it
 * brought. Records are handed out from where they lie in a chunk. When a stream breaks, another
 * goes on, elsewhere, behind the last record. The client's lock guards what rpc's threads touch. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "client/json.h"
#include "client/lib_internal.h"

enum {
    QUEUE_HIGH_BYTES = 2 * 1024 * 1024, /* the stream is paused above */
    QUEUE_LOW_BYTES = 512 * 1024        /* and goes on below */
};

struct chunk {
    struct chunk *next;
    size_t size_bytes;
    uint8_t data[];
};

/* One Read stream. Outlives the reader until `closed` came. */
struct read_call {
    replog_client *client;
    replog_reader *reader; /* NULL: given up */
    struct rpc_call *rpc;
    unsigned refs;
    int endpoint;
    bool paused, closed;
    replog_status status;
    char text[400];
};

struct replog_reader {
    replog_client *client;
    replog_read_options options;
    int only; /* that endpoint; -1: any */

    /* guarded by the client's lock */
    pthread_cond_t cond;
    struct read_call *call;
    struct chunk *first, *last;
    size_t queued_bytes;

    /* of the thread that reads */
    struct chunk *current;
    struct pb_reader at;
    uint64_t chunk_next; /* where the chunk says to go on */
    uint64_t next_seq;   /* 0: the first there is */
    struct client_backoff backoff;
    uint64_t retry_at_ms;
    int last_endpoint;
    uint32_t damaged; /* a bit for each endpoint that has said so since the last chunk */
    struct buffer members;
    replog_status ended; /* OK: not yet */
    replog_error end;
};

/* ---- rpc's threads --------------------------------------------------------------------------- */

static void unref_locked(struct read_call *call) {
    if (--call->refs) return;
    if (call->rpc) rpc_call_unref(call->rpc);
    free(call);
}

static void end_call_locked(struct read_call *call, replog_status status, const char *text) {
    call->closed = true;
    call->status = status;
    snprintf(call->text, sizeof call->text, "%s",
             text && *text ? text : replog_status_text(status));
    if (call->reader) pthread_cond_signal(&call->reader->cond);
}

static void on_message(struct rpc_call *rpc, const uint8_t *bytes, size_t size_bytes) {
    struct read_call *call = rpc_call_user(rpc);
    replog_client *c = call->client;
    struct chunk *chunk = malloc(sizeof *chunk + size_bytes);
    if (chunk) {
        chunk->next = NULL;
        chunk->size_bytes = size_bytes;
        memcpy(chunk->data, bytes, size_bytes);
    }
    pthread_mutex_lock(&c->mu);
    replog_reader *r = call->reader;
    if (!r || call->closed) {
        free(chunk);
    } else if (!chunk) {
        end_call_locked(call, REPLOG_RESOURCE_EXHAUSTED, "out of memory for what was read");
    } else {
        if (r->last) r->last->next = chunk;
        if (!r->first) r->first = chunk;
        r->last = chunk;
        r->queued_bytes += size_bytes;
        if (r->queued_bytes > QUEUE_HIGH_BYTES && !call->paused) {
            call->paused = true;
            rpc_pause(rpc);
        }
        pthread_cond_signal(&r->cond);
    }
    pthread_mutex_unlock(&c->mu);
}

static void on_closed(struct rpc_call *rpc, replog_status status, const char *text) {
    struct read_call *call = rpc_call_user(rpc);
    replog_client *c = call->client;
    pthread_mutex_lock(&c->mu);
    if (!call->closed) end_call_locked(call, status, text);
    unref_locked(call);
    pthread_mutex_unlock(&c->mu);
}

static const struct rpc_handlers handlers = {.message = on_message, .closed = on_closed};

/* ---- The stream ------------------------------------------------------------------------------ */

static void give_up_locked(replog_reader *r) {
    struct read_call *call = r->call;
    if (!call) return;
    r->call = NULL;
    call->reader = NULL;
    pthread_mutex_unlock(&r->client->mu);
    rpc_cancel(call->rpc);
    pthread_mutex_lock(&r->client->mu);
    unref_locked(call);
}

static void later_locked(replog_reader *r) {
    bool first = r->backoff.ms == 0 && r->client->n_endpoints > 1;
    uint32_t delay_ms = client_backoff_locked(r->client, &r->backoff);
    r->retry_at_ms = client_now_ms() + (first ? 0 : delay_ms);
}

static void start_locked(replog_reader *r) {
    replog_client *c = r->client;
    int endpoint = r->only >= 0 ? r->only : client_endpoint_other_locked(c, r->last_endpoint);
    struct rpc_channel *channel = client_channel_locked(c, endpoint, NULL);
    struct read_call *call = calloc(1, sizeof *call);
    Replog__V1__ReadRequest request = REPLOG__V1__READ_REQUEST__INIT;
    request.from_seq = r->next_seq;
    request.to_seq = r->options.to_seq;
    request.follow = r->options.follow;
    request.markers = r->options.markers;
    request.local = r->only >= 0;
    struct rpc_call *rpc = NULL;
    if (call && channel) {
        *call = (struct read_call){.client = c, .reader = r, .refs = 2, .endpoint = endpoint};
        pthread_mutex_unlock(&c->mu);
        rpc = rpc_start(channel, "/replog.v1.Log/Read", 0, &handlers, call);
        if (rpc) {
            rpc_send_message(rpc, &request.base);
            rpc_end(rpc);
        }
        pthread_mutex_lock(&c->mu);
    }
    if (!rpc) {
        free(call);
        snprintf(c->last_failure, sizeof c->last_failure, "out of memory for a call");
        later_locked(r);
        return;
    }
    call->rpc = rpc;
    r->call = call;
    r->last_endpoint = endpoint;
}

static replog_status finish(replog_reader *r, replog_status status, const char *text) {
    r->ended = status;
    r->end.status = status;
    snprintf(r->end.text, sizeof r->end.text, "%s", text);
    return status;
}

/* What the end of a stream means: the end of reading (true), or going on elsewhere. */
static bool is_final(replog_reader *r, const struct read_call *call) {
    switch (call->status) {
    case REPLOG_OK:
        if (r->options.follow && !r->options.to_seq) return false;
        finish(r, REPLOG_NOT_FOUND, "the end of what was asked for");
        return true;
    case REPLOG_DATA_LOSS:
        r->damaged |= UINT32_C(1) << call->endpoint;
        if (r->only < 0 && r->damaged != (UINT32_C(1) << r->client->n_endpoints) - 1) return false;
        break;
    case REPLOG_INVALID_ARGUMENT:
    case REPLOG_NOT_FOUND:
    case REPLOG_OUT_OF_RANGE:
    case REPLOG_FAILED_PRECONDITION:
    case REPLOG_PERMISSION_DENIED:
    case REPLOG_UNAUTHENTICATED:
    case REPLOG_UNIMPLEMENTED:
        break;
    default:
        return false;
    }
    finish(r, call->status, call->text);
    return true;
}

static void ended_locked(replog_reader *r) {
    replog_client *c = r->client;
    struct read_call *call = r->call;
    if (!is_final(r, call)) {
        struct client_endpoint *e = &c->endpoints[call->endpoint];
        snprintf(c->last_failure, sizeof c->last_failure, "%.200s: %s: %.200s", e->address,
                 replog_status_name(call->status), call->text);
        if (!rpc_channel_connected(e->channel)) {
            e->avoid_until_ms = client_now_ms() + CLIENT_AVOID_MS;
        }
        later_locked(r);
    }
    give_up_locked(r);
}

/* ---- Chunks and records ---------------------------------------------------------------------- */

static void drop_current(replog_reader *r) {
    free(r->current);
    r->current = NULL;
}

static void take_chunk_locked(replog_reader *r) {
    struct chunk *chunk = r->first;
    r->first = chunk->next;
    if (!r->first) r->last = NULL;
    r->queued_bytes -= chunk->size_bytes;
    r->current = chunk;
    r->at = (struct pb_reader){.data = chunk->data, .end = chunk->data + chunk->size_bytes};
    r->chunk_next = 0;
    r->backoff.ms = 0;
    r->damaged = 0;
    struct read_call *call = r->call;
    if (call && call->paused && r->queued_bytes < QUEUE_LOW_BYTES) {
        call->paused = false;
        pthread_mutex_unlock(&r->client->mu);
        rpc_resume(call->rpc);
        pthread_mutex_lock(&r->client->mu);
    }
}

static void add_member(replog_reader *r, struct slice bytes) {
    struct pb_reader at = {.data = bytes.data, .end = bytes.data + bytes.size_bytes};
    struct pb_field f;
    uint64_t id = 0;
    struct slice address = {(const uint8_t *)"", 0};
    while (pb_next(&at, &f)) {
        if (f.number == 1 && f.wire_type == 0) id = f.value;
        if (f.number == 3 && f.wire_type == 2) address = f.bytes;
    }
    struct buffer *b = &r->members;
    buffer_append(b, b->size_bytes ? ",{" : "[{", 2);
    json_member(b, "id");
    json_number(b, id);
    json_member(b, "address");
    bool text = json_is_utf8(address.data, address.size_bytes);
    json_string(b, address.data, text ? address.size_bytes : 0);
    buffer_u8(b, '}');
}

/* The JSON array that an entry shows, as a string; NULL when memory is short. */
static const char *members_text(replog_reader *r) {
    struct buffer *b = &r->members;
    if (b->size_bytes == 0) buffer_u8(b, '[');
    buffer_append(b, "]", 2);
    return b->failed ? NULL : (const char *)b->data;
}

static void record_number(replog_entry *e, const struct pb_field *f) {
    switch (f->number) {
    case 1:
        e->seq = f->value;
        break;
    case 2:
        e->term = f->value;
        break;
    case 3:
        e->op = (replog_op)f->value;
        break;
    case 6:
        e->safe_seq = f->value;
        break;
    case 7:
        e->drop_upto = f->value;
        break;
    case 9:
        e->session = f->value;
        break;
    default:
        break;
    }
}

static bool decode_record(replog_reader *r, struct slice bytes, replog_entry *e) {
    struct pb_reader at = {.data = bytes.data, .end = bytes.data + bytes.size_bytes};
    struct pb_field f;
    *e = (replog_entry){.key = "", .value = ""};
    buffer_clear(&r->members);
    r->members.failed = false;
    while (pb_next(&at, &f)) {
        if (f.wire_type == 0) {
            record_number(e, &f);
        } else if (f.wire_type != 2) {
            continue;
        } else if (f.number == 4) {
            e->key = f.bytes.data;
            e->key_bytes = f.bytes.size_bytes;
        } else if (f.number == 5) {
            e->value = f.bytes.data;
            e->value_bytes = f.bytes.size_bytes;
        } else if (f.number == 8) {
            add_member(r, f.bytes);
        }
    }
    if (e->op == REPLOG_OP_CONFIG) e->members = members_text(r);
    if (e->op == REPLOG_OP_DELETE) { /* has none, whatever a node says */
        e->value = NULL;
        e->value_bytes = 0;
    }
    return !at.failed && e->seq > 0;
}

/* The next record of the chunk in hand. False: the chunk is used up, or the reader has ended. */
static bool next_in_chunk(replog_reader *r, replog_entry *entry) {
    struct pb_field f;
    while (pb_next(&r->at, &f)) {
        if (f.number == 3 && f.wire_type == 0) r->chunk_next = f.value;
        if (f.number != 1 || f.wire_type != 2) continue;
        if (!decode_record(r, f.bytes, entry)) {
            finish(r, REPLOG_INTERNAL, "a node sent a malformed record");
            return false;
        }
        if (entry->op == REPLOG_OP_CONFIG && !entry->members) {
            finish(r, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a record");
            return false;
        }
        if (entry->seq < r->next_seq) continue; /* seen before the stream broke */
        if (r->options.to_seq && entry->seq > r->options.to_seq) continue;
        if (r->options.markers && r->next_seq && entry->seq != r->next_seq) {
            char text[120];
            snprintf(text, sizeof text, "record %llu came where %llu was due",
                     (unsigned long long)entry->seq, (unsigned long long)r->next_seq);
            finish(r, REPLOG_DATA_LOSS, text);
            return false;
        }
        r->next_seq = entry->seq + 1;
        return true;
    }
    if (r->at.failed) finish(r, REPLOG_INTERNAL, "a node sent a malformed message");
    if (r->chunk_next > r->next_seq) r->next_seq = r->chunk_next;
    return false;
}

/* ---- The reader ------------------------------------------------------------------------------ */

replog_status replog_reader_open(replog_client *client, const replog_read_options *options,
                                 replog_reader **reader, replog_error *err) {
    static const replog_read_options none;
    const replog_read_options *o = options ? options : &none;
    if (o->to_seq && o->from_seq > o->to_seq) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "from seq %llu lies behind to seq %llu",
                         (unsigned long long)o->from_seq, (unsigned long long)o->to_seq);
    }
    if (o->only_endpoint && !client_address_valid(o->only_endpoint)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "endpoint \"%.200s\" is not HOST:PORT",
                         o->only_endpoint);
    }
    replog_reader *r = calloc(1, sizeof *r);
    if (!r) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a reader");
    r->client = client;
    r->options = *o;
    r->next_seq = o->from_seq;
    r->only = r->last_endpoint = -1;
    client_cond_init(&r->cond);
    if (o->only_endpoint) {
        pthread_mutex_lock(&client->mu);
        r->only = client_endpoint_find_locked(client, o->only_endpoint);
        pthread_mutex_unlock(&client->mu);
        r->options.only_endpoint = NULL;
        if (r->only < 0) {
            replog_reader_close(r);
            return error_set(err, REPLOG_RESOURCE_EXHAUSTED,
                             "the client knows %d endpoints, which is its limit",
                             CLIENT_MAX_ENDPOINTS);
        }
    }
    *reader = r;
    return REPLOG_OK;
}

/* Nothing came in time. */
static replog_status overdue_locked(replog_reader *r, uint32_t limit_ms, replog_error *err) {
    replog_client *c = r->client;
    if (r->call && rpc_channel_connected(c->endpoints[r->call->endpoint].channel)) {
        return error_set(err, REPLOG_DEADLINE_EXCEEDED, "nothing to read within %u ms", limit_ms);
    }
    return error_set(err, REPLOG_UNAVAILABLE, "no node could be read from within %u ms%s%s",
                     limit_ms, c->last_failure[0] ? "; last failure: " : "", c->last_failure);
}

/* Waits for a chunk. OK with one in hand, or with `ended` set. */
static replog_status fetch(replog_reader *r, uint32_t limit_ms, uint64_t deadline_ms,
                           replog_error *err) {
    replog_client *c = r->client;
    replog_status status = REPLOG_OK;
    pthread_mutex_lock(&c->mu);
    for (;;) {
        if (r->first) {
            take_chunk_locked(r);
            break;
        }
        if (r->call && r->call->closed) ended_locked(r);
        if (r->ended) break;
        uint64_t now = client_now_ms(), wake = deadline_ms;
        if (now >= deadline_ms) {
            status = overdue_locked(r, limit_ms, err);
            break;
        }
        if (!r->call && now >= r->retry_at_ms) {
            start_locked(r);
            continue;
        }
        if (!r->call && r->retry_at_ms < wake) wake = r->retry_at_ms;
        status = client_may_wait_locked(c, "replog_reader_next", err);
        if (status) break;
        client_cond_wait(&r->cond, &c->mu, wake);
    }
    pthread_mutex_unlock(&c->mu);
    return status;
}

replog_status replog_reader_next(replog_reader *r, uint32_t timeout_ms, replog_entry *entry,
                                 replog_error *err) {
    uint32_t limit_ms = timeout_ms ? timeout_ms : r->client->timeout_ms;
    uint64_t deadline_ms = 0; /* asked for when there is something to wait for */
    while (!r->ended) {
        replog_entry e;
        if (r->current && next_in_chunk(r, &e)) {
            *entry = e;
            return REPLOG_OK;
        }
        drop_current(r);
        if (r->ended) break;
        if (r->options.to_seq && r->next_seq > r->options.to_seq) {
            finish(r, REPLOG_NOT_FOUND, "the end of what was asked for");
            break;
        }
        if (!deadline_ms) deadline_ms = client_now_ms() + limit_ms;
        replog_status status = fetch(r, limit_ms, deadline_ms, err);
        if (status) return status;
    }
    if (err) *err = r->end;
    return r->ended;
}

void replog_reader_close(replog_reader *r) {
    if (!r) return;
    pthread_mutex_lock(&r->client->mu);
    give_up_locked(r);
    pthread_mutex_unlock(&r->client->mu);
    while (r->first) {
        struct chunk *chunk = r->first;
        r->first = chunk->next;
        free(chunk);
    }
    drop_current(r);
    buffer_free(&r->members);
    pthread_cond_destroy(&r->cond);
    free(r);
}

/* Sending appends: the steps of a lane. A lane has at most one call at a time:
 *
 *   no session, numbered append waits  -> OpenSession -> session, leader known
 *   unnumbered append, leader not sure -> Status      -> leader known
 *   otherwise                          -> AppendStream (or Append), everything unanswered again
 *
 * A call that ended with a definite refusal says that its first unanswered append was not
 * taken, nor, if that one is numbered, the numbered ones behind it. Any other end leaves open what
 * happened to what was sent: numbered appends are sent again with the same numbers, others fail
 * with UNAVAILABLE. */
#include <stdio.h>
#include <string.h>

#include "client/lib_internal.h"

/* ---- Answers --------------------------------------------------------------------------------- */

static void packed_ids(struct slice bytes, replog_append_result *r) {
    uint64_t value = 0;
    unsigned shift = 0;
    for (size_t i = 0; i < bytes.size_bytes && r->n_durable_on < 16; i++) {
        uint8_t byte = bytes.data[i];
        if (shift < 64) value |= (uint64_t)(byte & 0x7f) << shift;
        shift += 7;
        if (byte & 0x80) continue;
        r->durable_on[r->n_durable_on++] = value;
        value = 0;
        shift = 0;
    }
}

/* AppendReply, without unpacking it into allocated memory. False when malformed. */
static bool decode_reply(const uint8_t *bytes, size_t size_bytes, replog_append_result *r,
                         uint64_t *sequence) {
    struct pb_reader reader = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    memset(r, 0, sizeof *r);
    *sequence = 0;
    while (pb_next(&reader, &f)) {
        if (f.number == 4 && f.wire_type == 2) {
            packed_ids(f.bytes, r);
        } else if (f.wire_type != 0) {
            continue;
        } else if (f.number == 1) {
            r->first_seq = f.value;
        } else if (f.number == 2) {
            r->last_seq = f.value;
        } else if (f.number == 3) {
            r->term = f.value;
        } else if (f.number == 4 && r->n_durable_on < 16) {
            r->durable_on[r->n_durable_on++] = f.value;
        } else if (f.number == 5) {
            *sequence = f.value;
        }
    }
    return !reader.failed && r->first_seq > 0 && r->last_seq >= r->first_seq;
}

/* The first append on the call that has no answer, or NULL. */
static struct client_append *first_unanswered_locked(struct client_lane *lane) {
    while (lane->reply < lane->cursor) {
        struct client_append *a = client_slot(lane, lane->reply);
        if (!client_settled(a)) return a;
        lane->reply++;
    }
    return NULL;
}

/* Takes one answer. False when it is none that fits. */
static bool answer_locked(struct client_lane *lane, const uint8_t *bytes, size_t size_bytes) {
    struct client_append *a = first_unanswered_locked(lane);
    uint64_t sequence;
    if (!a || !decode_reply(bytes, size_bytes, &a->result, &sequence)) return false;
    if (sequence != (a->numbered ? a->sequence : 0)) return false;
    a->done = true;
    a->status = REPLOG_OK;
    lane->reply++;
    if (a->numbered) lane->base++;
    lane->backoff.ms = 0;
    lane->hops = lane->resets = 0;
    return true;
}

void client_stream_message_locked(struct client_call *call, const uint8_t *bytes,
                                  size_t size_bytes) {
    struct client_lane *lane = call->lane;
    replog_client *c = call->client;
    if (lane->call != call || call->closed) return;
    if (!answer_locked(lane, bytes, size_bytes)) {
        /* Not the protocol that we speak: as if the connection were lost. */
        call->closed = true;
        call->status = REPLOG_INTERNAL;
        snprintf(call->text, sizeof call->text, "an answer that fits no append in flight");
        client_wake_locked(c);
        return;
    }
    bool sure = c->leader_sure && c->leader == call->endpoint;
    if (!sure) {
        c->leader = call->endpoint;
        c->leader_sure = true;
    }
    client_lane_pop_waits_locked(lane);
    client_deliver_here_locked(c);
    bool idle = lane->reply == lane->cursor && lane->cursor < lane->tail;
    if (!sure || idle || lane->head < lane->reply) {
        client_wake_locked(c);
    }
}

/* ---- Sending --------------------------------------------------------------------------------- */

static struct rpc_piece encode_header_locked(struct client_lane *lane,
                                             const struct client_append *a) {
    struct buffer *b = &lane->client->header;
    buffer_clear(b);
    b->failed = false;
    if (a->numbered) {
        pb_put_varint(b, 1, lane->session);
        pb_put_varint(b, 2, a->sequence);
        pb_put_varint(b, 3, lane->base);
    }
    pb_put_varint(b, 4, (uint64_t)a->ack);
    pb_put_varint(b, 5, a->batch);
    return (struct rpc_piece){.data = b->data, .size_bytes = b->size_bytes};
}

/* Whether the append must wait for a session, or for certainty about who leads. */
static bool held_back_locked(const struct client_lane *lane, const struct client_append *a,
                             int endpoint) {
    const replog_client *c = lane->client;
    if (a->numbered) return lane->session == 0;
    return !c->leader_sure || (endpoint >= 0 && c->leader != endpoint);
}

/* Queues one append on the call. False: out of memory, try later. */
static bool send_locked(struct client_lane *lane, struct client_append *a) {
    if (a->numbered) a->sequence = lane->next_sequence;
    struct rpc_piece pieces[2] = {
        encode_header_locked(lane, a),
        {.data = a->records->data, .size_bytes = a->records->size_bytes, .owner = a->records}};
    if (lane->client->header.failed) return false;
    replog_status status = rpc_send(lane->call->rpc, pieces, 2);
    if (status == REPLOG_CANCELLED) return false; /* `closed` is on its way */
    if (status == REPLOG_RESOURCE_EXHAUSTED) lane->call->blocked = true;
    a->full = false;
    if (a->numbered) lane->next_sequence++;
    lane->cursor++;
    return true;
}

void client_pump_locked(struct client_lane *lane) {
    struct client_call *call = lane->call;
    if (!call || call->kind != CALL_STREAM) return;
    while (!call->closed && !call->blocked && lane->cursor < lane->tail) {
        struct client_append *a = client_slot(lane, lane->cursor);
        if (client_settled(a)) {
            lane->cursor++;
        } else if (held_back_locked(lane, a, call->endpoint) || !send_locked(lane, a)) {
            return;
        }
    }
}

/* ---- The end of a call ----------------------------------------------------------------------- */

static void retry_locked(struct client_lane *lane, bool at_once) {
    uint64_t now = client_now_ms();
    if (at_once && ++lane->hops <= CLIENT_MAX_HOPS) {
        lane->retry_at_ms = now;
    } else {
        lane->retry_at_ms = now + client_backoff_locked(lane->client, &lane->backoff);
    }
}

/* What was sent may be in the log or not. */
static void lost_locked(struct client_lane *lane, const struct client_call *call, uint64_t from) {
    const char *address = lane->client->endpoints[call->endpoint].address;
    for (uint64_t at = from; at < lane->cursor; at++) {
        struct client_append *a = client_slot(lane, at);
        if (client_settled(a)) continue;
        if (a->numbered) {
            a->maybe = true;
        } else {
            client_append_fail(a, REPLOG_UNAVAILABLE, "%s: %s; outcome unknown, not repeated",
                               address, call->text);
        }
    }
}

/* The cluster does not know the session (or not its numbers). What was sent on this call
 * only was not taken and goes out again under a new session; of the rest nobody knows. */
static void session_lost_locked(struct client_lane *lane, struct client_append *first,
                                const struct client_call *call) {
    uint64_t session = lane->session;
    if (++lane->resets > CLIENT_MAX_RESETS && !first->maybe) {
        client_append_fail(first, call->status, "%s", call->text);
    }
    for (uint64_t at = lane->reply; at < lane->tail; at++) {
        struct client_append *a = client_slot(lane, at);
        if (client_settled(a) || !a->maybe) continue;
        client_append_fail(a, REPLOG_FAILED_PRECONDITION,
                           "session %llu was forgotten by the cluster; outcome unknown: %s",
                           (unsigned long long)session, call->text);
    }
    lane->session = 0;
}

enum verdict { AMBIGUOUS, REFUSED, FULL, SESSION_LOST };

static enum verdict judge(const struct client_append *first, replog_status status) {
    switch (status) {
    case REPLOG_INVALID_ARGUMENT:
    case REPLOG_OUT_OF_RANGE:
    case REPLOG_NOT_FOUND:
    case REPLOG_ALREADY_EXISTS:
    case REPLOG_PERMISSION_DENIED:
    case REPLOG_UNAUTHENTICATED:
    case REPLOG_UNIMPLEMENTED:
        return REFUSED;
    case REPLOG_RESOURCE_EXHAUSTED:
        return FULL;
    case REPLOG_FAILED_PRECONDITION:
        return first->numbered ? SESSION_LOST : REFUSED;
    default:
        return AMBIGUOUS;
    }
}

/* Only a number holds back what stands behind it, and only other numbers: of the rest the outcome
 * is open. */
static void behind_refused_locked(struct client_lane *lane, const struct client_append *first,
                                  const struct client_call *call) {
    for (uint64_t at = lane->reply + 1; at < lane->cursor; at++) {
        struct client_append *a = client_slot(lane, at);
        if (client_settled(a)) continue;
        if (!a->numbered) {
            client_append_fail(a, REPLOG_UNAVAILABLE,
                               "stood behind an append that was refused (%s); outcome unknown",
                               call->text);
        } else if (!first->numbered) {
            a->maybe = true;
        }
    }
}

/* A stream or an Append has ended without answers to all that was sent. */
static void refused_locked(struct client_lane *lane, const struct client_call *call) {
    struct client_append *first = first_unanswered_locked(lane);
    enum verdict verdict = first ? judge(first, call->status) : AMBIGUOUS;
    bool at_once = false;
    switch (verdict) {
    case AMBIGUOUS:
        at_once = client_endpoint_failed_locked(lane->client, call);
        lost_locked(lane, call, lane->reply);
        break;
    case REFUSED:
        client_append_fail(first, call->status, "%s", call->text);
        at_once = true;
        break;
    case FULL:
        first->full = true;
        snprintf(lane->client->last_failure, sizeof lane->client->last_failure,
                 "%.200s: %s: %.200s", lane->client->endpoints[call->endpoint].address,
                 replog_status_name(call->status), call->text);
        break;
    case SESSION_LOST:
        session_lost_locked(lane, first, call);
        at_once = lane->resets == 1;
        break;
    }
    if (verdict != AMBIGUOUS) behind_refused_locked(lane, first, call);
    retry_locked(lane, at_once);
}

static void append_ended_locked(struct client_lane *lane, struct client_call *call) {
    const struct blob *b = call->reply;
    struct client_append *a = first_unanswered_locked(lane);
    if (call->status == REPLOG_OK && b && answer_locked(lane, b->data, b->size_bytes)) return;
    if (a && call->status == REPLOG_DEADLINE_EXCEEDED) {
        /* The number may be used up or not: leave the session rather than find out. */
        client_append_fail(a, call->status, "%s", call->text);
        if (a->numbered) lane->session = 0;
        lane->reply++;
        return;
    }
    if (call->status == REPLOG_OK) call->status = REPLOG_INTERNAL;
    refused_locked(lane, call);
}

static void open_ended_locked(struct client_lane *lane, const struct client_call *call) {
    replog_client *c = lane->client;
    uint64_t session = 0;
    if (call->status == REPLOG_OK && call->reply) {
        struct pb_reader reader = {.data = call->reply->data,
                                   .end = call->reply->data + call->reply->size_bytes};
        struct pb_field f;
        while (pb_next(&reader, &f)) {
            if (f.number == 1 && f.wire_type == 0) session = f.value;
        }
        if (reader.failed) session = 0;
    }
    if (session == 0) {
        retry_locked(lane, client_endpoint_failed_locked(c, call));
        return;
    }
    lane->client->last_failure_status = REPLOG_OK; /* of before the session: it is over */
    lane->session = session;
    lane->base = 1;
    c->leader = call->endpoint;
    c->leader_sure = true;
}

static void discover_ended_locked(struct client_lane *lane, struct client_call *call) {
    replog_client *c = lane->client;
    Replog__V1__StatusReply *m = NULL;
    int found = -1;
    if (call->status == REPLOG_OK && call->reply) {
        m = (Replog__V1__StatusReply *)rpc_unpack(&replog__v1__status_reply__descriptor,
                                                  call->reply->data, call->reply->size_bytes,
                                                  CLIENT_REPLY_BUDGET);
    }
    for (size_t i = 0; m && m->leader && i < m->n_members; i++) {
        if (m->members[i]->id != m->leader) continue;
        /* The node that answered may be known by another name than the cluster's. */
        found = m->answered_by == m->leader
                    ? call->endpoint
                    : client_endpoint_find_locked(c, m->members[i]->address);
    }
    if (m) protobuf_c_message_free_unpacked(&m->base, NULL);
    if (found >= 0) {
        c->leader = found;
        c->leader_sure = true;
    } else {
        if (call->status == REPLOG_OK) {
            call->status = REPLOG_UNAVAILABLE;
            snprintf(call->text, sizeof call->text, "no leader is known there");
        }
        client_endpoint_failed_locked(c, call);
        retry_locked(lane, false);
    }
}

/* Leaves the call behind, and what was sent on it unsent. */
static void drop_call_locked(struct client_lane *lane) {
    struct client_call *call = lane->call;
    lane->call = NULL;
    lane->cursor = lane->reply;
    lane->next_sequence = lane->base;
    pthread_mutex_unlock(&lane->client->mu);
    rpc_cancel(call->rpc); /* a stream that we gave up is still open */
    pthread_mutex_lock(&lane->client->mu);
    client_call_release_locked(call);
}

static void end_locked(struct client_lane *lane) {
    struct client_call *call = lane->call;
    switch (call->kind) {
    case CALL_OPEN:
        open_ended_locked(lane, call);
        break;
    case CALL_DISCOVER:
        discover_ended_locked(lane, call);
        break;
    case CALL_APPEND:
        append_ended_locked(lane, call);
        lane->client->next_expiry_ms = 0; /* passed over while the call was under way */
        break;
    case CALL_STREAM:
    case CALL_UNARY:
        refused_locked(lane, call);
        break;
    }
    drop_call_locked(lane);
}

/* ---- Starting -------------------------------------------------------------------------------- */

static void start_locked(struct client_lane *lane, enum client_call_kind kind, uint64_t now_ms) {
    replog_client *c = lane->client;
    Replog__V1__OpenSessionRequest open = REPLOG__V1__OPEN_SESSION_REQUEST__INIT;
    Replog__V1__StatusRequest ask = REPLOG__V1__STATUS_REQUEST__INIT;
    const ProtobufCMessage *request = NULL;
    const char *method = "AppendStream";
    uint32_t timeout_ms = 0;
    int endpoint = client_endpoint_pick_locked(c);
    if (kind == CALL_OPEN) {
        method = "OpenSession";
        request = &open.base;
        timeout_ms = CLIENT_OPEN_MS;
    } else if (kind == CALL_DISCOVER) {
        method = "Status";
        request = &ask.base;
        timeout_ms = CLIENT_OPEN_MS;
    } else if (kind == CALL_APPEND) {
        uint64_t deadline = client_slot(lane, lane->cursor)->deadline_ms;
        method = "Append";
        timeout_ms = deadline > now_ms ? (uint32_t)(deadline - now_ms) : 1;
    }
    pthread_mutex_unlock(&c->mu);
    struct client_call *call =
        client_call_start(c, lane, kind, endpoint, method, timeout_ms, request);
    pthread_mutex_lock(&c->mu);
    if (!call) {
        snprintf(c->last_failure, sizeof c->last_failure, "out of memory for a call");
        retry_locked(lane, false);
        return;
    }
    lane->call = call;
    if (kind != CALL_APPEND) return;
    if (send_locked(lane, client_slot(lane, lane->cursor))) {
        pthread_mutex_unlock(&c->mu);
        rpc_end(call->rpc);
        pthread_mutex_lock(&c->mu);
    } else if (c->header.failed) { /* nothing would ever come of this call */
        drop_call_locked(lane);
        retry_locked(lane, false);
    }
}

/* The next append that has to be sent, with the cursor on it; NULL: none. */
static struct client_append *next_locked(struct client_lane *lane) {
    while (lane->cursor < lane->tail) {
        struct client_append *a = client_slot(lane, lane->cursor);
        if (!client_settled(a)) return a;
        if (lane->reply == lane->cursor) lane->reply++;
        lane->cursor++;
    }
    return NULL;
}

/* A stream: sends what it can. Ends it when nothing on it can bring what the next append waits for
 * (a session, certainty about the leader). */
static uint64_t step_stream_locked(struct client_lane *lane, uint64_t now_ms) {
    client_pump_locked(lane);
    const struct client_call *call = lane->call;
    struct client_append *a = next_locked(lane);
    if (!a || call->closed || call->blocked) return UINT64_MAX;
    /* what nothing holds back could not be sent for want of memory */
    if (!held_back_locked(lane, a, call->endpoint)) return now_ms + CLIENT_BACKOFF_MIN_MS;
    if (first_unanswered_locked(lane)) return UINT64_MAX;
    drop_call_locked(lane);
    return 0;
}

uint64_t client_lane_step_locked(struct client_lane *lane, uint64_t now_ms) {
    if (lane->call && lane->call->closed) {
        end_locked(lane);
        return 0; /* what was settled has to be delivered first */
    }
    if (lane->call && lane->call->kind != CALL_STREAM) return UINT64_MAX;
    if (lane->call) return step_stream_locked(lane, now_ms);
    struct client_append *a = next_locked(lane);
    if (!a) return UINT64_MAX;
    if (now_ms < lane->retry_at_ms) return lane->retry_at_ms;
    /* Better a plain RESOURCE_EXHAUSTED now than a last attempt whose outcome nobody will see. */
    bool last_moment = a->full && !a->answered && a->deadline_ms < now_ms + CLIENT_LAST_MOMENT_MS;
    if (last_moment) return UINT64_MAX;
    if (held_back_locked(lane, a, -1)) {
        start_locked(lane, a->numbered ? CALL_OPEN : CALL_DISCOVER, now_ms);
    } else {
        start_locked(lane, lane->unary ? CALL_APPEND : CALL_STREAM, now_ms);
        if (lane->call && !lane->unary) return step_stream_locked(lane, now_ms);
    }
    return lane->call ? UINT64_MAX : lane->retry_at_ms;
}

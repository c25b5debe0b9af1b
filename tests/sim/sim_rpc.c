#include "sim_rpc.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"

enum { FRAME_HEADER_BYTES = 9, PAUSED_AGAIN_US = 2000 };

static struct {
    struct sim *sim;
    struct sim_link *links;
    struct rpc_call *calls;
    int64_t window_bytes; /* of each direction of a call */
} rpc;

struct sim *sim_rpc_sim(void) {
    return rpc.sim;
}

struct sim_link *sim_rpc_links(void) {
    return rpc.links;
}

void sim_rpc_begin(struct sim *sim) {
    static const int64_t windows[] = {16 << 10, 64 << 10, 64 << 10, 1 << 20};
    uint64_t rng = sim_fork_rng(sim, "rpc");
    rpc.sim = sim;
    rpc.links = NULL;
    rpc.calls = NULL;
    rpc.window_bytes = windows[rng_between(&rng, 0, 3)];
}

/* ---- Messages -------------------------------------------------------------------------------- */

struct sim_message *sim_messages_add(struct sim_messages *list, size_t size_bytes) {
    struct sim_message *m = malloc(sizeof *m + size_bytes);
    CHECK(m != NULL);
    m->next = NULL;
    m->size_bytes = size_bytes;
    if (!list->head) list->tail = &list->head;
    *list->tail = m;
    list->tail = &m->next;
    list->size_bytes += size_bytes;
    return m;
}

static struct sim_message *take(struct sim_messages *list) {
    struct sim_message *m = list->head;
    if (!m) return NULL;
    list->head = m->next;
    list->size_bytes -= m->size_bytes;
    return m;
}

static void drop_all(struct sim_messages *list) {
    for (struct sim_message *m; (m = take(list)) != NULL;) free(m);
}

/* ---- Links ----------------------------------------------------------------------------------- */

struct sim_link *sim_link_new(struct sim_clock clock) {
    struct sim_link *link = calloc(1, sizeof *link);
    CHECK(link != NULL);
    link->clock = clock;
    link->server = clock.node != 0;
    link->begun_us = link->heard_us = sim_now_us(rpc.sim);
    link->all_next = rpc.links;
    rpc.links = link;
    return link;
}

static void on_flush(struct sim *sim, void *arg, uint64_t tag) {
    (void)sim;
    (void)tag;
    struct sim_link *link = arg;
    link->flushing = false;
    if (link->gone || !link->conn) return;
    if (link->server) {
        sim_conn_answer(link->conn, link->out.data, link->out.size_bytes);
    } else {
        sim_conn_send(link->conn, link->out.data, link->out.size_bytes);
    }
    buffer_clear(&link->out);
    if (link->out.capacity > 1 << 20) {
        buffer_free(&link->out);
        link->out = (struct buffer){0};
    }
}

void sim_link_say(struct sim_link *link, enum sim_frame type, uint32_t call, const void *payload,
                  size_t size_bytes) {
    if (link->gone) return;
    buffer_u8(&link->out, (uint8_t)type);
    buffer_u32(&link->out, call);
    buffer_u32(&link->out, (uint32_t)size_bytes);
    if (size_bytes > 0) buffer_append(&link->out, payload, size_bytes);
    CHECK(!link->out.failed);
    if (link->flushing) return;
    link->flushing = true;
    sim_after(rpc.sim, 0, on_flush, link, 0);
}

static void give_up(struct sim_link *link, const char *why) {
    if (link->conn) sim_conn_close(link->conn);
    sim_link_lost(link, why);
}

static void on_watch(struct sim *sim, void *arg, uint64_t tag) {
    (void)tag;
    struct sim_link *link = arg;
    if (link->gone) return;
    uint64_t now = sim_now_us(sim);
    if (!link->up) {
        if (now - link->begun_us >= link->connect_us) {
            give_up(link, "no connection in time");
            return;
        }
        sim_after(sim, link->begun_us + link->connect_us - now, on_watch, link, 0);
        return;
    }
    uint64_t silent = now - link->heard_us;
    if (silent >= 2 * link->keepalive_us) {
        give_up(link, "the peer does not answer (keepalive)");
        return;
    }
    if (silent >= link->keepalive_us && !link->pinged) {
        link->pinged = true;
        sim_link_say(link, FRAME_PING, 0, NULL, 0);
    }
    uint64_t next = link->heard_us + link->keepalive_us * (link->pinged ? 2 : 1);
    sim_after(sim, next > now ? next - now : 1, on_watch, link, 0);
}

void sim_link_watch(struct sim_link *link) {
    on_watch(rpc.sim, link, 0);
}

void sim_link_lost(struct sim_link *link, const char *why) {
    if (link->gone) return;
    link->gone = true;
    link->up = false;
    link->conn = NULL;
    buffer_free(&link->out);
    link->out = (struct buffer){0};
    for (struct rpc_call *call = link->calls; call; call = call->next)
        sim_call_over(call, REPLOG_UNAVAILABLE, why, true);
    if (link->channel) sim_channel_link_lost(link);
}

static struct rpc_call *find_call(struct sim_link *link, uint32_t id) {
    struct rpc_call *call = link->calls;
    while (call && call->id != id) call = call->next;
    return call;
}

static void hear_finish(struct rpc_call *call, const uint8_t *payload, size_t n) {
    size_t text_bytes = get_u32(payload + 4), leader_bytes = n - 8 - text_bytes;
    CHECK(n >= 8 + text_bytes);
    call->in_ended = true;
    call->finish_status = (replog_status)get_u32(payload);
    call->finish_text = strndup((const char *)payload + 8, text_bytes);
    call->finish_leader =
        leader_bytes ? strndup((const char *)payload + 8 + text_bytes, leader_bytes) : NULL;
    sim_call_deliver(call);
}

static void hear_call(struct rpc_call *call, enum sim_frame type, const uint8_t *payload,
                      size_t n) {
    switch (type) {
    case FRAME_DATA:
        if (call->over) return;
        memcpy(sim_messages_add(&call->in, n)->data, payload, n);
        sim_call_deliver(call);
        break;
    case FRAME_END:
        call->in_ended = true;
        sim_call_deliver(call);
        break;
    case FRAME_CANCEL:
        sim_call_over(call, REPLOG_CANCELLED, "the client gave up", true);
        break;
    case FRAME_CREDIT:
        call->credit += get_u32(payload);
        sim_call_pump(call);
        break;
    case FRAME_FINISH:
        if (!call->over) hear_finish(call, payload, n);
        break;
    default:
        CHECK(false);
    }
}

static void hear_start(struct sim_link *link, uint32_t id, const uint8_t *payload, size_t n) {
    char path[96] = "";
    CHECK(n > 8 && n - 8 < sizeof path);
    memcpy(path, payload + 8, n - 8);
    struct rpc_call *call = sim_service_call(link, id, get_u64(payload), path);
    if (call) sim_call_arm_deadline(call);
}

void sim_link_hear(struct sim_link *link, const uint8_t *data, size_t n) {
    link->heard_us = sim_now_us(rpc.sim);
    link->pinged = false;
    link->spoke = true;
    for (size_t at = 0; at < n && !link->gone;) {
        CHECK(n - at >= FRAME_HEADER_BYTES);
        enum sim_frame type = (enum sim_frame)data[at];
        uint32_t id = get_u32(data + at + 1), size_bytes = get_u32(data + at + 5);
        const uint8_t *payload = data + at + FRAME_HEADER_BYTES;
        at += FRAME_HEADER_BYTES + size_bytes;
        CHECK(at <= n);
        if (type == FRAME_PING) {
            sim_link_say(link, FRAME_PONG, 0, NULL, 0);
        } else if (type == FRAME_START) {
            hear_start(link, id, payload, size_bytes);
        } else if (type != FRAME_PONG) {
            struct rpc_call *call = find_call(link, id);
            if (call) hear_call(call, type, payload, size_bytes);
        }
    }
}

/* ---- Calls ----------------------------------------------------------------------------------- */

struct rpc_call *sim_call_new(struct sim_link *link, uint32_t id, bool server) {
    struct rpc_call *call = calloc(1, sizeof *call);
    CHECK(call != NULL);
    call->refs = 1; /* the link's, until `closed` was told */
    call->link = link;
    call->id = id;
    call->server = server;
    call->credit = rpc.window_bytes;
    call->deadline_us = UINT64_MAX;
    call->next = link->calls;
    call->at = &link->calls;
    if (call->next) call->next->at = &call->next;
    link->calls = call;
    call->all_next = rpc.calls;
    call->all_at = &rpc.calls;
    if (call->all_next) call->all_next->all_at = &call->all_next;
    rpc.calls = call;
    return call;
}

static void call_free(struct rpc_call *call) {
    *call->all_at = call->all_next;
    if (call->all_next) call->all_next->all_at = call->all_at;
    drop_all(&call->in);
    drop_all(&call->out);
    free(call->text);
    free(call->leader);
    free(call->finish_text);
    free(call->finish_leader);
    free(call->get_key);
    free(call);
}

struct rpc_call *rpc_call_ref(struct rpc_call *call) {
    call->refs++;
    return call;
}

void rpc_call_unref(struct rpc_call *call) {
    CHECK(call->refs > 0);
    if (--call->refs == 0) call_free(call);
}

static void on_kick(struct sim *sim, void *arg, uint64_t tag) {
    (void)tag;
    struct rpc_call *call = arg;
    call->kicked = false;
    uint64_t node = call->link->clock.node;
    if (node && sim_node_running(sim, node) && sim_node_paused(sim, node)) {
        call->kicked = true;
        sim_after(sim, PAUSED_AGAIN_US, on_kick, call, 0);
        return;
    }
    sim_call_deliver(call);
    rpc_call_unref(call);
}

/* Callbacks never come from within a call of a function here. */
static void kick(struct rpc_call *call) {
    if (call->kicked) return;
    call->kicked = true;
    sim_after(rpc.sim, 0, on_kick, rpc_call_ref(call), 0);
}

void sim_call_over(struct rpc_call *call, replog_status status, const char *text, bool drop) {
    if (call->over) return;
    call->over = true;
    call->status = status;
    call->text = text ? strdup(text) : NULL;
    if (drop) drop_all(&call->in);
    drop_all(&call->out);
    kick(call);
}

static void on_deadline(struct sim *sim, void *arg, uint64_t tag) {
    (void)tag;
    struct rpc_call *call = arg;
    uint64_t node = call->link->clock.node;
    if (!call->over && node && sim_node_running(sim, node) && sim_node_paused(sim, node)) {
        sim_after(sim, PAUSED_AGAIN_US, on_deadline, call, 0);
        return;
    }
    if (!call->over) {
        if (!call->server && call->started)
            sim_link_say(call->link, FRAME_CANCEL, call->id, NULL, 0);
        sim_call_over(call, REPLOG_DEADLINE_EXCEEDED, "the deadline has passed", true);
    }
    rpc_call_unref(call);
}

void sim_call_arm_deadline(struct rpc_call *call) {
    if (call->deadline_us == UINT64_MAX) return;
    uint64_t now = sim_now_us(rpc.sim);
    sim_after(rpc.sim, call->deadline_us > now ? call->deadline_us - now : 0, on_deadline,
              rpc_call_ref(call), 0);
}

/* ---- Delivering ------------------------------------------------------------------------------ */

static void give_credit(struct rpc_call *call, size_t n) {
    call->taken += n;
    if ((int64_t)call->taken < rpc.window_bytes / 4) return;
    uint8_t bytes[4];
    put_u32(bytes, (uint32_t)call->taken);
    call->taken = 0;
    sim_link_say(call->link, FRAME_CREDIT, call->id, bytes, sizeof bytes);
}

static bool may_deliver(const struct rpc_call *call) {
    if (!call->in.head || call->paused > 0) return false;
    if (call->unary_request && !call->in_ended) return false; /* exactly one, and it is whole */
    return !call->server || (!call->over && !call->finishing &&
                             (call->out.size_bytes == 0 || call->out.size_bytes < call->out_limit));
}

static void tell_closed(struct rpc_call *call) {
    call->closed_told = true;
    *call->at = call->next;
    if (call->next) call->next->at = call->at;
    bool told = !call->server || call->heard;
    if (told && call->handlers.closed)
        call->handlers.closed(call, call->status, call->text ? call->text : "");
    rpc_call_unref(call);
}

/* A server drops what comes behind its rpc_finish; a client hears all that was sent to it. */
static void deliver(struct rpc_call *call) {
    while (may_deliver(call)) {
        struct sim_message *m = take(&call->in);
        call->heard = true;
        call->handlers.message(call, m->data, m->size_bytes);
        if (!call->over) give_credit(call, m->size_bytes);
        free(m);
    }
    if (call->server && call->in_ended && !call->in.head && !call->end_told && !call->over &&
        !call->finishing && call->paused == 0) {
        call->end_told = true;
        call->heard = true;
        if (call->handlers.end) call->handlers.end(call);
    }
    if (!call->server && call->in_ended && !call->in.head && !call->over && call->paused == 0) {
        call->over = true;
        call->status = call->finish_status;
        call->text = call->finish_text;
        call->leader = call->finish_leader;
        call->finish_text = call->finish_leader = NULL;
        drop_all(&call->out);
    }
    bool held = !call->server && call->in.head && call->paused > 0;
    if (call->over && !call->closed_told && !held) tell_closed(call);
}

void sim_call_deliver(struct rpc_call *call) {
    if (call->delivering) return; /* the loop further up sees it */
    struct sim_clock before = sim_clock_enter(call->link->clock);
    rpc_call_ref(call);
    call->delivering = true;
    deliver(call);
    call->delivering = false;
    rpc_call_unref(call);
    sim_clock_enter(before);
}

/* ---- Sending --------------------------------------------------------------------------------- */

static void say_finish(struct rpc_call *call) {
    struct buffer b = {0};
    const char *text = call->finish_text ? call->finish_text : "";
    buffer_u32(&b, (uint32_t)call->finish_status);
    buffer_u32(&b, (uint32_t)strlen(text));
    buffer_append(&b, text, strlen(text));
    if (call->finish_leader) buffer_append(&b, call->finish_leader, strlen(call->finish_leader));
    CHECK(!b.failed);
    sim_link_say(call->link, FRAME_FINISH, call->id, b.data, b.size_bytes);
    buffer_free(&b);
    sim_call_over(call, REPLOG_OK, NULL, true);
}

static void say_start(struct rpc_call *call) {
    uint8_t bytes[8 + sizeof call->path];
    uint64_t now = sim_now_us(rpc.sim);
    uint64_t left = call->deadline_us == UINT64_MAX ? 0 : 1;
    if (left && call->deadline_us > now) left = call->deadline_us - now;
    put_u64(bytes, left);
    size_t n = strlen(call->path);
    memcpy(bytes + 8, call->path, n);
    sim_link_say(call->link, FRAME_START, call->id, bytes, 8 + n);
    call->started = true;
}

static void on_writable(struct sim *sim, void *arg, uint64_t tag) {
    (void)sim;
    (void)tag;
    struct rpc_call *call = arg;
    struct sim_clock before = sim_clock_enter(call->link->clock);
    if (!call->over && call->handlers.writable) call->handlers.writable(call);
    sim_clock_enter(before);
    sim_call_deliver(call);
    rpc_call_unref(call);
}

void sim_call_pump(struct rpc_call *call) {
    if (call->over || !call->link->up) return;
    if (!call->server && !call->started) say_start(call);
    while (call->out.head && call->credit > 0) {
        struct sim_message *m = take(&call->out);
        call->credit -= (int64_t)m->size_bytes;
        sim_link_say(call->link, FRAME_DATA, call->id, m->data, m->size_bytes);
        free(m);
    }
    if (!call->out.head && call->end_asked && !call->end_sent) {
        call->end_sent = true;
        sim_link_say(call->link, FRAME_END, call->id, NULL, 0);
    }
    if (!call->out.head && call->finishing) say_finish(call);
    if (call->want_writable && call->out.size_bytes < call->out_limit / 2) {
        call->want_writable = false;
        sim_after(rpc.sim, 0, on_writable, rpc_call_ref(call), 0);
    }
}

replog_status rpc_send(struct rpc_call *call, const struct rpc_piece *pieces, size_t n) {
    if (call->over || call->finishing || call->end_asked) return REPLOG_CANCELLED;
    size_t size_bytes = 0, at = 0;
    for (size_t i = 0; i < n; i++) size_bytes += pieces[i].size_bytes;
    struct sim_message *m = sim_messages_add(&call->out, size_bytes);
    for (size_t i = 0; i < n; i++) {
        if (pieces[i].size_bytes > 0) memcpy(m->data + at, pieces[i].data, pieces[i].size_bytes);
        at += pieces[i].size_bytes;
    }
    if (call->is_get) sim_service_watch_get(call, REPLOG_OK, m->data, size_bytes);
    sim_call_pump(call);
    if (call->out.size_bytes < call->out_limit) return REPLOG_OK;
    call->want_writable = true;
    return REPLOG_RESOURCE_EXHAUSTED;
}

replog_status rpc_send_message(struct rpc_call *call, const ProtobufCMessage *message) {
    size_t n = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(n ? n : 1);
    CHECK(bytes != NULL);
    protobuf_c_message_pack(message, bytes);
    replog_status status = rpc_send(call, &(struct rpc_piece){bytes, n, NULL}, 1);
    free(bytes);
    return status;
}

void rpc_finish_with(struct rpc_call *call, replog_status status, const char *text,
                     const char *name, const char *value) {
    if (call->over || call->finishing) return;
    CHECK(!name || strcmp(name, "replog-leader") == 0);
    if (call->is_get && status != REPLOG_OK) sim_service_watch_get(call, status, NULL, 0);
    call->finishing = true;
    call->finish_status = status;
    call->finish_text = text ? strdup(text) : NULL;
    call->finish_leader = value ? strdup(value) : NULL;
    sim_call_pump(call);
}

void rpc_finish(struct rpc_call *call, replog_status status, const char *text) {
    rpc_finish_with(call, status, text, NULL, NULL);
}

void rpc_end(struct rpc_call *call) {
    if (call->over || call->end_asked) return;
    call->end_asked = true;
    sim_call_pump(call);
}

void rpc_cancel(struct rpc_call *call) {
    if (call->over) return;
    if (call->server) {
        rpc_finish(call, REPLOG_CANCELLED, "cancelled");
        return;
    }
    if (call->started) sim_link_say(call->link, FRAME_CANCEL, call->id, NULL, 0);
    sim_call_over(call, REPLOG_CANCELLED, "cancelled", true);
}

/* ---- The small ones -------------------------------------------------------------------------- */

void rpc_pause(struct rpc_call *call) {
    call->paused++;
}

void rpc_resume(struct rpc_call *call) {
    CHECK(call->paused > 0);
    if (--call->paused == 0 && !call->closed_told) kick(call);
}

void rpc_call_set_user(struct rpc_call *call, void *user) {
    call->user = user;
}
void *rpc_call_user(const struct rpc_call *call) {
    return call->user;
}
bool rpc_call_is_open(const struct rpc_call *call) {
    return !call->over && !call->finishing;
}
const char *rpc_call_metadata(const struct rpc_call *call, const char *name) {
    return strcmp(name, "replog-leader") == 0 ? call->leader : NULL;
}
size_t rpc_queued_bytes(struct rpc_call *call) {
    return call->out.size_bytes;
}

/* By the clock of the side that asks. */
uint64_t rpc_call_deadline_ms(const struct rpc_call *call) {
    if (call->deadline_us == UINT64_MAX) return UINT64_MAX;
    struct sim_clock before = sim_clock_enter(call->link->clock);
    uint64_t now_us = sim_now_us(rpc.sim), own_ms = clock_mono_ms();
    sim_clock_enter(before);
    return call->deadline_us > now_us ? own_ms + (call->deadline_us - now_us) / 1000 : own_ms;
}

void rpc_batch_begin(void) {}
void rpc_batch_end(void) {}

void sim_rpc_end(void) {
    sim_channels_end();
    while (rpc.calls) call_free(rpc.calls);
    for (struct sim_link *link = rpc.links, *next; link; link = next) {
        next = link->all_next;
        buffer_free(&link->out);
        free(link);
    }
    rpc.links = NULL;
    rpc.sim = NULL;
}

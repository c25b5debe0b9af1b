/* OpenSession, Get, Checkpoint and Truncate: one question to the node each, and for Get then one to
 * the store. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/error.h"
#include "server/reader_pool.h"
#include "server/services.h"

/* A unary call that waits for the node, or for a thread that may wait for the disk. */
struct unary {
    struct request request; /* first */
    struct task task;
    struct server *s;
    struct rpc_call *call;
    size_t key_bytes;
    uint8_t key[]; /* Get */
};

static struct unary *unary_new(struct rpc_call *call, struct slice key,
                               void (*done)(struct request *, const struct node_effect *)) {
    struct server *s = rpc_call_user(call);
    struct unary *u = calloc(1, sizeof *u + key.size_bytes);
    if (!u) {
        server_refuse(s, call, REPLOG_RESOURCE_EXHAUSTED, "memory is short", 0);
        return NULL;
    }
    u->request.done = done;
    u->s = s;
    u->call = rpc_call_ref(call);
    u->key_bytes = key.size_bytes;
    if (key.size_bytes > 0) memcpy(u->key, key.data, key.size_bytes);
    return u;
}

static void unary_free(struct unary *u) {
    rpc_call_unref(u->call);
    free(u);
}

static void unary_ask(struct unary *u, struct node_event *ev) {
    replog_error err;
    replog_status st = server_ask(u->s, &u->request, ev, u->call, &err);
    if (st == REPLOG_OK) return;
    server_refuse(u->s, u->call, st, err.text, 0);
    unary_free(u);
}

/* Sends the message, ends the call, and is done with it. */
static void unary_answer(struct unary *u, struct buffer *out) {
    if (out->failed) {
        server_refuse(u->s, u->call, REPLOG_RESOURCE_EXHAUSTED, "memory is short", 0);
    } else {
        (void)rpc_send(u->call, &(struct rpc_piece){out->data, out->size_bytes, NULL}, 1);
        rpc_finish(u->call, REPLOG_OK, NULL);
    }
    buffer_free(out);
    unary_free(u);
}

/* True when the node refused, and all is done. */
static bool refused(struct unary *u, const struct node_effect *fx) {
    if (fx->status == REPLOG_OK) return false;
    server_refuse(u->s, u->call, fx->status, fx->text, fx->reply.leader);
    unary_free(u);
    return true;
}

/* ---- OpenSession */

static void open_session_done(struct request *request, const struct node_effect *fx) {
    struct unary *u = (struct unary *)(void *)request;
    if (refused(u, fx)) return;
    struct buffer out = {0};
    pb_put_varint(&out, 1, fx->reply.first_seq);
    unary_answer(u, &out);
}

static void open_session_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    struct unary *u = unary_new(call, (struct slice){0}, open_session_done);
    if (u) unary_ask(u, &(struct node_event){.type = NODE_EV_OPEN_SESSION});
}

const struct rpc_handlers open_session_handlers = {.message = open_session_message};

/* ---- Get */

static void get_run(struct task *task) {
    struct unary *u = (struct unary *)(void *)((char *)task - offsetof(struct unary, task));
    struct buffer value = {0}, out = {0};
    uint64_t seq = 0;
    replog_error err;
    struct slice key = {u->key, u->key_bytes};
    replog_status st = u->s->store->ops->get(u->s->store, key, &value, &seq, &err);
    if (st != REPLOG_OK) {
        const char *text = st == REPLOG_NOT_FOUND ? "the key is not in the store" : err.text;
        server_refuse(u->s, u->call, st, text, 0);
        unary_free(u);
    } else {
        pb_put_bytes(&out, 1, u->key, u->key_bytes);
        if (value.size_bytes > 0) pb_put_bytes(&out, 2, value.data, value.size_bytes);
        pb_put_varint(&out, 3, seq);
        if (value.failed) out.failed = true;
        unary_answer(u, &out);
    }
    buffer_free(&value);
}

static void get_from_store(struct unary *u) {
    u->task.run = get_run;
    if (reader_pool_offer(u->s, &u->task)) return;
    server_refuse(u->s, u->call, REPLOG_RESOURCE_EXHAUSTED,
                  "too many reads are waiting on this member; try again later", 0);
    unary_free(u);
}

static void get_done(struct request *request, const struct node_effect *fx) {
    struct unary *u = (struct unary *)(void *)request;
    if (!refused(u, fx)) get_from_store(u);
}

static void get_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    struct slice key = {0};
    bool stale = false;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.wire_type == 2) key = f.bytes;
        if (f.number == 2 && f.wire_type == 0) stale = f.value != 0;
    }
    if (r.failed || key.size_bytes == 0 || key.size_bytes > REPLOG_MAX_KEY_BYTES) {
        char text[120];
        (void)snprintf(text, sizeof text,
                       "a get needs a key of 1 to %u bytes; entries with an empty key are not kept",
                       REPLOG_MAX_KEY_BYTES);
        rpc_finish(call, REPLOG_INVALID_ARGUMENT, text);
        return;
    }
    struct unary *u = unary_new(call, key, get_done);
    if (!u) return;
    if (stale) {
        get_from_store(u);
    } else {
        unary_ask(u, &(struct node_event){.type = NODE_EV_READ_INDEX, .wait_applied = true});
    }
}

const struct rpc_handlers get_handlers = {.message = get_message};

/* ---- Checkpoint */

static void checkpoint_done(struct request *request, const struct node_effect *fx) {
    struct unary *u = (struct unary *)(void *)request;
    if (refused(u, fx)) return;
    struct buffer out = {0};
    pb_put_varint(&out, 1, fx->reply.seq);
    pb_put_varint(&out, 2, fx->reply.safe_seq);
    unary_answer(u, &out);
}

static void checkpoint_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    struct unary *u = unary_new(call, (struct slice){0}, checkpoint_done);
    if (u) unary_ask(u, &(struct node_event){.type = NODE_EV_CHECKPOINT});
}

const struct rpc_handlers checkpoint_handlers = {.message = checkpoint_message};

/* ---- Truncate */

static void truncate_done(struct request *request, const struct node_effect *fx) {
    struct unary *u = (struct unary *)(void *)request;
    if (refused(u, fx)) return;
    struct buffer out = {0}, holder = {0};
    pb_put_varint(&out, 1, fx->reply.requested);
    pb_put_varint(&out, 2, fx->reply.first_seq);
    for (unsigned i = 0; i < fx->reply.n_held_by; i++) {
        buffer_clear(&holder);
        pb_put_varint(&holder, 1, fx->reply.held_by[i].id);
        pb_put_varint(&holder, 2, fx->reply.held_by[i].checkpoint_seq);
        pb_put_bytes(&out, 3, holder.data, holder.size_bytes);
    }
    if (holder.failed) out.failed = true;
    buffer_free(&holder);
    unary_answer(u, &out);
}

static void truncate_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct pb_reader r = {.data = bytes, .end = bytes + size_bytes};
    struct pb_field f;
    uint64_t upto = 0;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.wire_type == 0) upto = f.value;
    }
    if (r.failed || upto == 0) {
        rpc_finish(call, REPLOG_INVALID_ARGUMENT, "a truncation needs `upto`, a seq from 1 on");
        return;
    }
    struct unary *u = unary_new(call, (struct slice){0}, truncate_done);
    if (u) unary_ask(u, &(struct node_event){.type = NODE_EV_TRUNCATE, .seq = upto});
}

const struct rpc_handlers truncate_handlers = {.message = truncate_message};

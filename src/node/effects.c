#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "node/node_impl.h"

struct node_effect *fx_add(struct node_effects *fx, enum node_effect_type type) {
    if (fx->n == fx->capacity) {
        size_t capacity = fx->capacity ? 2 * fx->capacity : 64;
        struct node_effect *items = realloc(fx->items, capacity * sizeof *items);
        CHECK_MEMORY(items);
        fx->items = items;
        fx->capacity = capacity;
    }
    struct node_effect *e = &fx->items[fx->n++];
    memset(e, 0, sizeof *e);
    e->type = type;
    return e;
}

void node_effects_clear(struct node_effects *fx) {
    fx->n = 0;
}

unsigned node_effect_pass(const struct node_effect *fx) {
    if (fx->type == NODE_FX_REPLY) return 1;
    if (fx->type != NODE_FX_SEND || fx->msg.blocks.size_bytes > 0) return 0;
    return fx->msg.kind == PEER_HELLO ? 0 : 2; /* nothing goes before a hello */
}

void node_effects_free(struct node_effects *fx) {
    free(fx->items);
    *fx = (struct node_effects){0};
}

void fx_fatal(struct node *n, struct node_effects *fx, const char *format, ...) {
    struct node_effect *e = fx_add(fx, NODE_FX_FATAL);
    va_list ap;
    va_start(ap, format);
    vsnprintf(e->text, sizeof e->text, format, ap);
    va_end(ap);
    n->fatal = true;
}

void fx_fail(struct node *n, struct node_effects *fx, uint64_t token, replog_status status,
             const char *format, ...) {
    if (token == 0) return;
    struct node_effect *e = fx_add(fx, NODE_FX_REPLY);
    e->token = token;
    e->status = status;
    e->reply.leader = n->leader;
    va_list ap;
    va_start(ap, format);
    vsnprintf(e->text, sizeof e->text, format, ap);
    va_end(ap);
}

struct node_reply *fx_reply(struct node_effects *fx, uint64_t token) {
    struct node_effect *e = fx_add(fx, NODE_FX_REPLY);
    e->token = token;
    e->status = REPLOG_OK;
    return &e->reply;
}

void fx_send(struct node *n, struct node_effects *fx, struct node_peer *p, struct peer_msg *msg) {
    if (!p->up) {
        blob_unref(msg->blocks.blob);
        return;
    }
    msg->incarnation = n->incarnation;
    msg->checkpoint_seq = MUTANT(APPLIED_AS_CHECKPOINT) ? n->applied_seq : n->checkpoint_seq;
    msg->applied_seq = n->applied_seq;
    if (node_is_leader(n)) {
        msg->safe_seq = n->committed_marker.safe_seq;
        msg->drop_upto = n->committed_marker.drop_upto;
        msg->flush_seq = n->flush_wanted;
    }
    struct node_effect *e = fx_add(fx, NODE_FX_SEND);
    e->peer = p->id;
    e->msg = *msg;
}

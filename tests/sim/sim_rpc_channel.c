/* sim_rpc_channel.c: the client's side: connections on demand, with backoff, as src/rpc/channel.c
 * has them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/error.h"
#include "sim_rpc.h"

enum {
    BACKOFF_FIRST_MS = 50,
    BACKOFF_MAX_MS = 1000,
    DEAD_PROCESS_US = 1000 /* a call of a process that is dying fails after this */
};

struct rpc_channel {
    struct rpc_channel *next;
    struct rpc_channel_options options;
    char address[64];
    uint64_t node_id;
    const struct sim_process *process;
    struct sim_link *link; /* NULL: none yet, or lost */
    bool last_spoke, tried;
    unsigned failures;
};

static struct { struct rpc_channel *all; } channels;

const char *sim_rpc_address(uint64_t node_id) {
    static char text[SIM_MAX_NODES + 1][32];
    CHECK(node_id >= 1 && node_id <= SIM_MAX_NODES);
    snprintf(text[node_id], sizeof text[node_id], "node%u:7400", (unsigned)node_id);
    return text[node_id];
}

replog_status rpc_channel_open(const struct rpc_channel_options *options,
                               struct rpc_channel **channel, replog_error *err) {
    (void)err;
    struct rpc_channel *c = calloc(1, sizeof *c);
    CHECK(c != NULL);
    for (uint64_t id = 1; id <= SIM_MAX_NODES; id++)
        if (strcmp(sim_rpc_address(id), options->address) == 0) c->node_id = id;
    CHECK(c->node_id != 0);
    c->options = *options;
    snprintf(c->address, sizeof c->address, "%s", options->address);
    struct sim_clock clock = sim_clock_enter((struct sim_clock){0});
    sim_clock_enter(clock);
    CHECK(clock.process != NULL);
    c->process = clock.process;
    c->next = channels.all;
    channels.all = c;
    *channel = c;
    return REPLOG_OK;
}

static void cut(struct rpc_channel *c, const char *why) {
    struct sim_link *link = c->link;
    if (!link) return;
    if (link->conn) sim_conn_close(link->conn);
    sim_link_lost(link, why);
}

void rpc_channel_close(struct rpc_channel *c) {
    if (!c) return;
    struct sim_link *link = c->link;
    if (link) {
        for (struct rpc_call *call = link->calls; call; call = call->next)
            sim_call_over(call, REPLOG_CANCELLED, "the channel was closed", true);
        while (link->calls) sim_call_deliver(link->calls); /* tells `closed`, and unlists it */
        cut(c, "the channel was closed");
    }
    for (struct rpc_channel **at = &channels.all; *at; at = &(*at)->next) {
        if (*at != c) continue;
        *at = c->next;
        break;
    }
    free(c);
}

const char *rpc_channel_address(const struct rpc_channel *channel) {
    return channel->address;
}

bool rpc_channel_connected(const struct rpc_channel *channel) {
    return channel->link && channel->link->spoke;
}

/* ---- Connecting ------------------------------------------------------------------------------ */

static void on_opened(void *user) {
    struct sim_link *link = user;
    if (link->gone) return;
    link->up = true;
    link->spoke = true; /* the other side's SETTINGS */
    link->heard_us = sim_now_us(sim_rpc_sim());
    for (struct rpc_call *call = link->calls; call; call = call->next) sim_call_pump(call);
}

static void on_bytes(void *user, const uint8_t *data, size_t n) {
    sim_link_hear(user, data, n);
}

static void on_down(void *user, const char *why) {
    struct sim_link *link = user;
    link->conn = NULL;
    sim_link_lost(link, why);
}

static const struct sim_conn_ops ops = {.opened = on_opened, .bytes = on_bytes, .down = on_down};

static void on_dial(struct sim *sim, void *arg, uint64_t tag) {
    (void)tag;
    struct sim_link *link = arg;
    if (link->gone) return;
    const struct rpc_channel *c = link->channel;
    if (c->process->dead) {
        sim_link_lost(link, "the process is dying");
        return;
    }
    link->begun_us = sim_now_us(sim);
    link->conn = sim_connect(sim, c->process->who, c->node_id, &ops, link);
    sim_link_watch(link);
}

static uint64_t backoff_us(const struct rpc_channel *c) {
    if (c->process->dead) return DEAD_PROCESS_US;
    if (c->failures == 0) return 0;
    uint64_t ms = BACKOFF_MAX_MS;
    if (c->failures <= 4) ms = (uint64_t)BACKOFF_FIRST_MS << (c->failures - 1);
    return sim_draw(sim_rpc_sim(), ms / 2 + 1, ms) * 1000;
}

static struct sim_link *connect_again(struct rpc_channel *c) {
    if (c->tried) c->failures = c->last_spoke ? 0 : c->failures + 1;
    c->tried = true;
    struct sim_link *link = sim_link_new((struct sim_clock){.process = c->process});
    link->channel = c;
    link->keepalive_us = (uint64_t)c->options.keepalive_ms * 1000;
    link->connect_us = (uint64_t)c->options.connect_ms * 1000;
    c->link = link;
    sim_after(sim_rpc_sim(), backoff_us(c), on_dial, link, 0);
    return link;
}

void sim_channel_link_lost(struct sim_link *link) {
    struct rpc_channel *c = link->channel;
    link->channel = NULL;
    if (c->link != link) return;
    c->last_spoke = link->spoke;
    c->link = NULL;
}

struct rpc_call *rpc_start(struct rpc_channel *c, const char *path, uint32_t timeout_ms,
                           const struct rpc_handlers *handlers, void *user) {
    struct sim_link *link = c->link ? c->link : connect_again(c);
    struct rpc_call *call = sim_call_new(link, ++link->next_call, false);
    CHECK(strlen(path) < sizeof call->path);
    snprintf(call->path, sizeof call->path, "%s", path);
    call->handlers = *handlers;
    call->user = user;
    call->out_limit = c->options.send_queue_bytes ? c->options.send_queue_bytes : 1 << 20;
    if (timeout_ms > 0) {
        call->deadline_us = sim_now_us(sim_rpc_sim()) + (uint64_t)timeout_ms * 1000;
        sim_call_arm_deadline(call);
    }
    sim_call_pump(call);
    return rpc_call_ref(call);
}

void sim_rpc_kill(struct sim_process *process) {
    process->dead = true;
    for (struct rpc_channel *c = channels.all; c; c = c->next)
        if (c->process == process) cut(c, "the process is dying");
}

void sim_channels_end(void) {
    for (struct rpc_channel *c = channels.all, *next; c; c = next) {
        next = c->next;
        free(c);
    }
    channels.all = NULL;
}

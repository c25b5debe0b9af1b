#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/lib_internal.h"

void client_cond_init(pthread_cond_t *cond) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

bool client_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mu, uint64_t deadline_ms) {
    if (deadline_ms == UINT64_MAX) {
        pthread_cond_wait(cond, mu);
        return true;
    }
    struct timespec at = {.tv_sec = (time_t)(deadline_ms / 1000),
                          .tv_nsec = (long)(deadline_ms % 1000) * 1000000};
    return pthread_cond_timedwait(cond, mu, &at) != ETIMEDOUT;
}

uint64_t client_now_ms(void) {
    return clock_mono_ms();
}

bool client_address_valid(const char *address) {
    size_t length = strlen(address);
    const char *colon = strrchr(address, ':');
    if (length > CLIENT_MAX_ADDRESS || !colon || colon == address) return false;
    if (address[0] == '[') {
        if (colon[-1] != ']' || colon - address < 4) return false;
    } else if (memchr(address, ':', (size_t)(colon - address))) {
        return false; /* a bare IPv6 address: which colon is the port's? */
    }
    char *end;
    unsigned long port = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end || port == 0 || port > 65535) return false;
    return strpbrk(address, " \t\r\n,") == NULL;
}

static int find(const replog_client *c, const char *address) {
    for (int i = 0; i < c->n_endpoints; i++) {
        if (strcmp(c->endpoints[i].address, address) == 0) return i;
    }
    return -1;
}

replog_status client_endpoints_parse(replog_client *c, const char *list, replog_error *err) {
    const char *at = list;
    while (at && *at) {
        size_t length = strcspn(at, ",");
        const char *next = at[length] == ',' ? at + length + 1 : at + length;
        char address[CLIENT_MAX_ADDRESS + 1];
        if (length > CLIENT_MAX_ADDRESS) length = CLIENT_MAX_ADDRESS;
        memcpy(address, at, length);
        address[length] = '\0';
        if (!client_address_valid(address)) {
            return error_set(err, REPLOG_INVALID_ARGUMENT,
                             "endpoint \"%s\" is not HOST:PORT (or [IPV6]:PORT)", address);
        }
        if (find(c, address) < 0) {
            if (c->n_endpoints == CLIENT_MAX_ENDPOINTS) {
                return error_set(err, REPLOG_INVALID_ARGUMENT, "more than %d endpoints",
                                 CLIENT_MAX_ENDPOINTS);
            }
            memcpy(c->endpoints[c->n_endpoints++].address, address, length + 1);
        }
        at = next;
    }
    if (c->n_endpoints == 0) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "no endpoints: give HOST:PORT, several separated by commas");
    }
    return REPLOG_OK;
}

int client_endpoint_find_locked(replog_client *c, const char *address) {
    int i = find(c, address);
    if (i >= 0) return i;
    if (c->n_endpoints == CLIENT_MAX_ENDPOINTS || !client_address_valid(address)) return -1;
    i = c->n_endpoints++;
    memcpy(c->endpoints[i].address, address, strlen(address) + 1);
    return i;
}

int client_endpoint_other_locked(replog_client *c, int but) {
    uint64_t now = client_now_ms();
    int fallback = -1;
    for (int k = 0; k < c->n_endpoints; k++) {
        int i = (c->next_endpoint + k) % c->n_endpoints;
        if (i == but && c->n_endpoints > 1) continue;
        if (now >= c->endpoints[i].avoid_until_ms) {
            c->next_endpoint = (i + 1) % c->n_endpoints;
            return i;
        }
        if (fallback < 0) fallback = i;
    }
    c->next_endpoint = (fallback + 1) % c->n_endpoints;
    return fallback;
}

int client_endpoint_pick_locked(replog_client *c) {
    return c->leader >= 0 ? c->leader : client_endpoint_other_locked(c, -1);
}

struct rpc_channel *client_channel_locked(replog_client *c, int endpoint, replog_error *err) {
    struct client_endpoint *e = &c->endpoints[endpoint];
    if (!e->channel) {
        struct rpc_channel_options options = {.address = e->address,
                                              .connect_ms = CLIENT_CONNECT_MS,
                                              .keepalive_ms = CLIENT_KEEPALIVE_MS,
                                              .send_queue_bytes = CLIENT_SEND_QUEUE_BYTES};
        if (rpc_channel_open(&options, &e->channel, err)) e->channel = NULL;
    }
    return e->channel;
}

bool client_endpoint_failed_locked(replog_client *c, const struct client_call *call) {
    struct client_endpoint *e = &c->endpoints[call->endpoint];
    c->last_failure_status = call->status;
    snprintf(c->last_failure, sizeof c->last_failure, "%.200s: %s: %.200s", e->address,
             replog_status_name(call->status), call->text);
    if (call->status == REPLOG_UNAVAILABLE && (!e->channel || !rpc_channel_connected(e->channel))) {
        e->avoid_until_ms = client_now_ms() + CLIENT_AVOID_MS;
    }
    if (c->leader == call->endpoint) {
        c->leader = -1;
        c->leader_sure = false;
    }
    const char *space = strchr(call->leader, ' ');
    int hinted = space ? client_endpoint_find_locked(c, space + 1) : -1;
    if (hinted < 0 || hinted == call->endpoint) return false;
    if (c->leader != hinted) c->leader_sure = false;
    c->leader = hinted;
    return true;
}

uint32_t client_backoff_locked(replog_client *c, struct client_backoff *b) {
    b->ms = b->ms ? b->ms * 2 : CLIENT_BACKOFF_MIN_MS;
    if (b->ms > CLIENT_BACKOFF_MAX_MS) b->ms = CLIENT_BACKOFF_MAX_MS;
    return (uint32_t)rng_between(&c->rng, b->ms / 2, b->ms);
}

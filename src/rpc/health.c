/* health.c: grpc.health.v1.Health. Hides: who watches. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "health.pb-c.h"
#include "rpc/internal.h"

enum { HEALTH_BUDGET_BYTES = 64 * 1024, WATCHERS_MAX = 1024 };

struct watcher {
    struct watcher *prev, *next;
    struct rpc_health *health;
    struct rpc_call *call; /* a reference */
    bool known;            /* the service has a status of its own */
};
struct rpc_health {
    pthread_mutex_t mu;
    bool serving;
    const struct rpc_service *services;
    size_t n_services;
    struct watcher *watchers;
    size_t n_watchers;
    struct rpc_method methods[2];
};

static void send_status(struct rpc_call *call,
                        Grpc__Health__V1__HealthCheckResponse__ServingStatus s) {
    Grpc__Health__V1__HealthCheckResponse reply = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    reply.status = s;
    rpc_send_message(call, &reply.base);
}

static Grpc__Health__V1__HealthCheckResponse__ServingStatus status_of(bool serving) {
    return serving ? GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
                   : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING;
}

static bool knows(const struct rpc_health *health, const char *name) {
    if (name[0] == 0) return true;
    for (size_t i = 0; i < health->n_services; i++)
        if (strcmp(health->services[i].descriptor->name, name) == 0) return true;
    return false;
}

/* Finishes the call and returns false when the request is malformed. */
static bool read_request(struct rpc_call *call, const struct rpc_health *health,
                         const uint8_t *bytes, size_t size_bytes, bool *known) {
    ProtobufCMessage *m = rpc_unpack(&grpc__health__v1__health_check_request__descriptor, bytes,
                                     size_bytes, HEALTH_BUDGET_BYTES);
    if (!m) {
        if (errno == ENOMEM)
            rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
        else
            rpc_finish(call, REPLOG_INVALID_ARGUMENT, "malformed HealthCheckRequest");
        return false;
    }
    *known = knows(health, ((Grpc__Health__V1__HealthCheckRequest *)m)->service);
    protobuf_c_message_free_unpacked(m, NULL);
    return true;
}

static void on_check(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct rpc_health *health = rpc_call_user(call);
    bool known;
    if (!read_request(call, health, bytes, size_bytes, &known)) return;
    if (!known) {
        rpc_finish(call, REPLOG_NOT_FOUND, "unknown service");
        return;
    }
    pthread_mutex_lock(&health->mu);
    bool serving = health->serving;
    pthread_mutex_unlock(&health->mu);
    send_status(call, status_of(serving));
    rpc_finish(call, REPLOG_OK, NULL);
}

/* The first answer and every later one are sent with the lock held, so that they keep their order;
 * rpc_send calls nobody back. */
static void on_watch(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    struct rpc_health *health = rpc_call_user(call);
    bool known;
    rpc_call_set_user(call, NULL); /* what on_watch_closed shall find */
    if (!read_request(call, health, bytes, size_bytes, &known)) return;
    struct watcher *w = calloc(1, sizeof *w);
    pthread_mutex_lock(&health->mu);
    if (!w || health->n_watchers == WATCHERS_MAX) {
        pthread_mutex_unlock(&health->mu);
        free(w);
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED,
                   "over the limit of 1024 health watchers, or out of memory");
        return;
    }
    *w = (struct watcher){NULL, health->watchers, health, rpc_call_ref(call), known};
    if (health->watchers) health->watchers->prev = w;
    health->watchers = w;
    health->n_watchers++;
    rpc_call_set_user(call, w);
    send_status(call,
                known ? status_of(health->serving)
                      : GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN);
    pthread_mutex_unlock(&health->mu);
}

static void on_watch_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status;
    (void)text;
    struct watcher *w = rpc_call_user(call);
    if (!w) return;
    struct rpc_health *health = w->health;
    pthread_mutex_lock(&health->mu);
    if (w->prev)
        w->prev->next = w->next;
    else
        health->watchers = w->next;
    if (w->next) w->next->prev = w->prev;
    health->n_watchers--;
    pthread_mutex_unlock(&health->mu);
    rpc_call_unref(w->call);
    free(w);
}

void health_set(struct rpc_health *health, bool serving) {
    pthread_mutex_lock(&health->mu);
    bool changed = health->serving != serving;
    health->serving = serving;
    for (struct watcher *w = health->watchers; w && changed; w = w->next)
        if (w->known) send_status(w->call, status_of(serving));
    pthread_mutex_unlock(&health->mu);
}

void health_end(struct rpc_health *health) {
    health_set(health, false);
    pthread_mutex_lock(&health->mu);
    for (struct watcher *w = health->watchers; w; w = w->next)
        rpc_finish(w->call, REPLOG_UNAVAILABLE, "the server is shutting down");
    pthread_mutex_unlock(&health->mu);
}

struct rpc_health *health_new(const struct rpc_service *services, size_t n_services,
                              struct rpc_service *service) {
    struct rpc_health *health = calloc(1, sizeof *health);
    if (!health) return NULL;
    pthread_mutex_init(&health->mu, NULL);
    health->services = services;
    health->n_services = n_services;
    health->methods[0] = (struct rpc_method){.name = "Check", .handlers = {.message = on_check}};
    health->methods[1] =
        (struct rpc_method){.name = "Watch",
                            .server_stream = true,
                            .handlers = {.message = on_watch, .closed = on_watch_closed}};
    *service = (struct rpc_service){.descriptor = &grpc__health__v1__health__descriptor,
                                    .methods = health->methods,
                                    .n_methods = 2,
                                    .user = health};
    return health;
}

void health_free(struct rpc_health *health) {
    if (!health) return;
    pthread_mutex_destroy(&health->mu);
    free(health);
}

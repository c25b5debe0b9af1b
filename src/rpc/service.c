/* service.c: which path is served by what, and dispatch through protobuf-c's generated stubs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "rpc/internal.h"

static bool stub_has(const ProtobufCService *stub, unsigned index) {
    if (index >= stub->descriptor->n_methods) return false;
    /* Generated stubs keep their handlers behind the base; an empty one would be called blindly. */
    if (stub->invoke != protobuf_c_service_invoke_internal) return true;
    void (*handler)(void);
    const char *handlers = (const char *)(stub + 1);
    memcpy(&handler, handlers + index * sizeof handler, sizeof handler);
    return handler != NULL;
}

static const struct rpc_method *find_method(const struct rpc_service *service, const char *name) {
    for (size_t i = 0; i < service->n_methods; i++)
        if (strcmp(service->methods[i].name, name) == 0) return &service->methods[i];
    return NULL;
}

static bool append_route(struct rpc_routes *routes, struct rpc_route route) {
    if (routes->n == routes->capacity) {
        size_t capacity = routes->capacity ? 2 * routes->capacity : 16;
        struct rpc_route *list = realloc(routes->list, capacity * sizeof *list);
        if (!list) return false;
        routes->list = list;
        routes->capacity = capacity;
    }
    routes->list[routes->n++] = route;
    return true;
}

replog_status routes_add(struct rpc_routes *routes, const struct rpc_service *service,
                         replog_error *err) {
    const ProtobufCServiceDescriptor *d = service->descriptor;
    for (unsigned i = 0; i < d->n_methods; i++) {
        const struct rpc_method *method = find_method(service, d->methods[i].name);
        struct rpc_route route = {.user = service->user};
        if (method) {
            route.client_stream = method->client_stream;
            route.server_stream = method->server_stream;
            route.handlers = method->handlers;
        } else if (service->stub && stub_has(service->stub, i)) {
            route.stub = service->stub;
            route.stub_index = i;
            route.handlers.message = stub_message;
        } else {
            continue;
        }
        size_t size = strlen(d->name) + strlen(d->methods[i].name) + 3;
        route.path = malloc(size);
        if (route.path) snprintf(route.path, size, "/%s/%s", d->name, d->methods[i].name);
        route.path_size = size - 1;
        if (!route.path || !append_route(routes, route)) {
            free(route.path);
            return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
        }
    }
    for (size_t i = 0; i < service->n_methods; i++)
        if (!protobuf_c_service_descriptor_get_method_by_name(d, service->methods[i].name))
            return error_set(err, REPLOG_INVALID_ARGUMENT, "service %s has no method %s", d->name,
                             service->methods[i].name);
    return REPLOG_OK;
}

static int compare_paths(const void *data, size_t n, const struct rpc_route *route) {
    size_t common = n < route->path_size ? n : route->path_size;
    int order = common ? memcmp(data, route->path, common) : 0;
    return order ? order : (n > route->path_size) - (n < route->path_size);
}

static int compare_routes(const void *a, const void *b) {
    const struct rpc_route *left = a;
    return compare_paths(left->path, left->path_size, b);
}

void routes_sort(struct rpc_routes *routes) {
    if (routes->n) qsort(routes->list, routes->n, sizeof routes->list[0], compare_routes);
}

const struct rpc_route *routes_find(const struct rpc_routes *routes, const uint8_t *path,
                                    size_t size_bytes) {
    size_t low = 0, high = routes->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare_paths(path, size_bytes, &routes->list[middle]);
        if (order == 0) return &routes->list[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

void routes_free(struct rpc_routes *routes) {
    for (size_t i = 0; i < routes->n; i++) free(routes->list[i].path);
    free(routes->list);
    *routes = (struct rpc_routes){0};
}

/* ---- Stubs */

enum { STUB_BUDGET_BYTES = 16 * 1024 * 1024 };

static void stub_reply(const ProtobufCMessage *reply, void *data) {
    struct rpc_call *call = data;
    if (!reply) {
        rpc_finish(call, REPLOG_INTERNAL, "the method gave no answer");
        return;
    }
    rpc_send_message(call, reply);
    rpc_finish(call, REPLOG_OK, NULL);
}

void stub_message(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    ProtobufCService *stub = call->route->stub;
    unsigned index = call->route->stub_index;
    ProtobufCMessage *request =
        rpc_unpack(stub->descriptor->methods[index].input, bytes, size_bytes, STUB_BUDGET_BYTES);
    if (!request) {
        if (errno == ENOMEM)
            rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
        else
            rpc_finish(call, REPLOG_INVALID_ARGUMENT, "the request message is malformed");
        return;
    }
    stub->invoke(stub, index, request, stub_reply, call);
    protobuf_c_message_free_unpacked(request, NULL);
}

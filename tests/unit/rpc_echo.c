#include "rpc_echo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "replog.desc.h"
#include "replog.pb-c.h"

struct echo_counters echo_counters;
_Atomic bool echo_hold;
struct rpc_call *_Atomic echo_held;

static void count_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)call;
    (void)text;
    if (status == REPLOG_OK) echo_counters.closed_ok++;
    if (status == REPLOG_CANCELLED) echo_counters.closed_cancelled++;
    if (status == REPLOG_DEADLINE_EXCEEDED) echo_counters.closed_deadline++;
    if (status == REPLOG_UNAVAILABLE) echo_counters.closed_unavailable++;
}

static void on_append(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    echo_counters.messages++;
    struct rpc_piece piece = {bytes, size_bytes, NULL};
    rpc_send(call, &piece, 1);
    rpc_finish(call, REPLOG_OK, NULL);
}

static void on_stream(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    echo_counters.messages++;
    struct rpc_piece piece = {bytes, size_bytes, NULL};
    rpc_send(call, &piece, 1);
    if (atomic_exchange(&echo_hold, false)) {
        rpc_pause(call);
        echo_held = rpc_call_ref(call);
    }
}

static void on_stream_end(struct rpc_call *call) {
    echo_counters.ends++;
    rpc_finish(call, REPLOG_OK, NULL);
}

struct reading {
    uint64_t left, size_bytes;
    struct blob *blob;
    bool follow;
};

static void feed(struct rpc_call *call) {
    struct reading *r = rpc_call_user(call);
    while (r->left) {
        r->left--;
        struct rpc_piece piece = {r->blob->data, r->size_bytes, r->blob};
        if (rpc_send(call, &piece, 1) != REPLOG_OK) break;
    }
    if (r->left == 0 && !r->follow) rpc_finish(call, REPLOG_OK, NULL);
}

static void on_read(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    Replog__V1__ReadRequest *q = replog__v1__read_request__unpack(NULL, size_bytes, bytes);
    struct reading *r = calloc(1, sizeof *r);
    CHECK(q && r);
    *r = (struct reading){q->from_seq, q->to_seq, blob_new(q->to_seq ? q->to_seq : 1), q->follow};
    CHECK(r->blob);
    memset(r->blob->data, 'r', r->blob->size_bytes);
    replog__v1__read_request__free_unpacked(q, NULL);
    rpc_call_set_user(call, r);
    feed(call);
}

static void on_read_closed(struct rpc_call *call, replog_status status, const char *text) {
    struct reading *r = rpc_call_user(call);
    count_closed(call, status, text);
    blob_unref(r->blob);
    free(r);
}

static void on_get(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)call;
    (void)bytes;
    (void)size_bytes;
    echo_counters.get_begun++;
}

static void on_truncate(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    rpc_finish_with(call, REPLOG_FAILED_PRECONDITION, "100 % \"so\" w\xc3\xa4hr\nline",
                    "replog-leader", "2 127.0.0.1:7402");
}

static void on_status(Replog__V1__Log_Service *service, const Replog__V1__StatusRequest *request,
                      Replog__V1__StatusReply_Closure closure, void *data) {
    (void)service;
    (void)request;
    Replog__V1__StatusReply reply = REPLOG__V1__STATUS_REPLY__INIT;
    reply.answered_by = 7;
    closure(&reply, data);
}

static Replog__V1__Log_Service stub = {.base = {.descriptor = &replog__v1__log__descriptor,
                                                .invoke = protobuf_c_service_invoke_internal},
                                       .status = on_status};

static const struct rpc_method methods[] = {
    {"Append", false, false, {on_append, NULL, NULL, count_closed}},
    {"AppendStream", true, true, {on_stream, on_stream_end, NULL, count_closed}},
    {"Read", false, true, {on_read, NULL, feed, on_read_closed}},
    {"Get", false, false, {on_get, NULL, NULL, count_closed}},
    {"Truncate", false, false, {on_truncate, NULL, NULL, count_closed}}};
static const struct rpc_service service = {.descriptor = &replog__v1__log__descriptor,
                                           .methods = methods,
                                           .n_methods = sizeof methods / sizeof methods[0],
                                           .stub = &stub.base};
static const struct slice files[] = {{replog_descriptor_set, sizeof replog_descriptor_set}};

struct rpc_server *echo_start(const struct rpc_server_options *options, char address[64]) {
    struct rpc_server_options o = {0};
    if (options) o = *options;
    if (!o.listen) o.listen = "127.0.0.1:0";
    o.descriptor_files = files;
    o.n_descriptor_files = 1;
    struct rpc_server *server = NULL;
    replog_error err;
    if (rpc_server_start(&o, &service, 1, &server, &err) != REPLOG_OK) {
        fprintf(stderr, "%s\n", err.text);
        return NULL;
    }
    rpc_server_set_serving(server, true);
    if (address) snprintf(address, 64, "127.0.0.1:%u", (unsigned)rpc_server_port(server));
    return server;
}

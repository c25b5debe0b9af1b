/* reflection.c: server reflection, v1 and v1alpha (the same messages under two names), over the
 * serialised descriptors that protoc made. Hides: how descriptors are searched. */
#include <stdlib.h>
#include <string.h>

#include "health.desc.h"
#include "reflection.desc.h"
#include "reflection.pb-c.h"
#include "reflection_v1alpha.desc.h"
#include "reflection_v1alpha.pb-c.h"
#include "rpc/internal.h"

enum { NAME_MAX_BYTES = 512, NEST_MAX = 16 };

struct rpc_reflection {
    struct slice *files; /* FileDescriptorProtos, within the sets */
    size_t n_files;
    const struct rpc_service *services; /* the user's */
    size_t n_services;
    struct rpc_method method;
};

/* ---- Descriptors: the few fields of google.protobuf.FileDescriptorProto that are needed */

enum {
    SET_FILE = 1,
    FILE_NAME = 1,
    FILE_PACKAGE = 2,
    FILE_MESSAGE = 4,
    FILE_ENUM = 5,
    FILE_SERVICE = 6,
    ANY_NAME = 1, /* of messages, enums, services, methods */
    MESSAGE_NESTED = 3,
    MESSAGE_ENUM = 4,
    SERVICE_METHOD = 2
};

static struct pb_reader reader_of(struct slice s) {
    return (struct pb_reader){s.data, s.data + s.size_bytes, false};
}

static struct slice field_of(struct slice message, uint32_t number) {
    struct pb_reader r = reader_of(message);
    struct pb_field f;
    while (pb_next(&r, &f))
        if (f.number == number && f.wire_type == 2) return f.bytes;
    return (struct slice){NULL, 0};
}

static bool same(struct slice a, struct slice b) {
    return a.size_bytes == b.size_bytes &&
           (a.size_bytes == 0 || memcmp(a.data, b.data, a.size_bytes) == 0);
}

/* Takes "head." (or all of it) off the front of a dotted name; false when it does not begin so. */
static bool strip(struct slice *name, struct slice head) {
    if (head.size_bytes == 0) return true;
    if (name->size_bytes < head.size_bytes || memcmp(name->data, head.data, head.size_bytes) != 0)
        return false;
    if (name->size_bytes > head.size_bytes && name->data[head.size_bytes] != '.') return false;
    size_t n = head.size_bytes + (name->size_bytes > head.size_bytes);
    name->data += n;
    name->size_bytes -= n;
    return true;
}

/* Is `name` the thing that `definition` defines, or something inside it? */
static bool defines(struct slice definition, uint32_t kind, struct slice name, int depth) {
    if (depth == NEST_MAX || !strip(&name, field_of(definition, ANY_NAME))) return false;
    if (name.size_bytes == 0) return true;
    struct pb_reader r = reader_of(definition);
    struct pb_field f;
    while (pb_next(&r, &f)) {
        if (f.wire_type != 2) continue;
        if (kind == FILE_SERVICE && f.number == SERVICE_METHOD &&
            same(field_of(f.bytes, ANY_NAME), name))
            return true;
        if (kind == FILE_MESSAGE && f.number == MESSAGE_NESTED &&
            defines(f.bytes, FILE_MESSAGE, name, depth + 1))
            return true;
        if (kind == FILE_MESSAGE && f.number == MESSAGE_ENUM &&
            defines(f.bytes, FILE_ENUM, name, depth + 1))
            return true;
    }
    return false;
}

static bool file_has_symbol(struct slice file, struct slice name) {
    if (!strip(&name, field_of(file, FILE_PACKAGE)) || name.size_bytes == 0) return false;
    struct pb_reader r = reader_of(file);
    struct pb_field f;
    while (pb_next(&r, &f)) {
        bool definition =
            f.number == FILE_MESSAGE || f.number == FILE_ENUM || f.number == FILE_SERVICE;
        if (f.wire_type == 2 && definition && defines(f.bytes, f.number, name, 0)) return true;
    }
    return false;
}

/* ---- Answers: fields of ServerReflectionResponse */

enum {
    REQUEST_BY_FILENAME = 3,
    REQUEST_BY_SYMBOL = 4,
    REQUEST_LIST = 7,
    RESPONSE_HOST = 1,
    RESPONSE_REQUEST = 2,
    RESPONSE_FILES = 4,
    RESPONSE_SERVICES = 6,
    RESPONSE_ERROR = 7
};

static void put_error(struct buffer *b, replog_status code, const char *text) {
    struct buffer error = {0};
    pb_put_varint(&error, 1, (uint64_t)code);
    pb_put_bytes(&error, 2, text, strlen(text));
    pb_put_bytes(b, RESPONSE_ERROR, error.data, error.size_bytes);
    b->failed |= error.failed;
    buffer_free(&error);
}

static void put_file(struct buffer *b, struct slice file) {
    struct buffer files = {0};
    pb_put_bytes(&files, 1, file.data, file.size_bytes);
    pb_put_bytes(b, RESPONSE_FILES, files.data, files.size_bytes);
    b->failed |= files.failed;
    buffer_free(&files);
}

static void put_service_name(struct buffer *list, const char *name) {
    size_t n = strlen(name);
    pb_put_bytes_header(list, 1, n + 2); /* key and length: one byte each, names are short */
    pb_put_bytes(list, 1, name, n);
}

static void put_services(struct buffer *b, const struct rpc_reflection *reflection) {
    struct buffer list = {0};
    for (size_t i = 0; i < reflection->n_services; i++)
        put_service_name(&list, reflection->services[i].descriptor->name);
    put_service_name(&list, "grpc.health.v1.Health");
    put_service_name(&list, grpc__reflection__v1__server_reflection__descriptor.name);
    put_service_name(&list, grpc__reflection__v1alpha__server_reflection__descriptor.name);
    pb_put_bytes(b, RESPONSE_SERVICES, list.data, list.size_bytes);
    b->failed |= list.failed;
    buffer_free(&list);
}

static void answer(const struct rpc_reflection *reflection, const struct pb_field *asked,
                   struct buffer *b) {
    if (asked->number == REQUEST_LIST) {
        put_services(b, reflection);
        return;
    }
    bool by_name = asked->number == REQUEST_BY_FILENAME;
    if (!by_name && asked->number != REQUEST_BY_SYMBOL) {
        put_error(b, asked->number ? REPLOG_NOT_FOUND : REPLOG_INVALID_ARGUMENT,
                  asked->number ? "there are no extensions here" : "an empty request");
        return;
    }
    for (size_t i = 0; i < reflection->n_files; i++) {
        struct slice file = reflection->files[i];
        if (by_name ? same(field_of(file, FILE_NAME), asked->bytes)
                    : file_has_symbol(file, asked->bytes)) {
            put_file(b, file);
            return;
        }
    }
    put_error(b, REPLOG_NOT_FOUND, by_name ? "no such file" : "no such symbol");
}

static void on_request(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    const struct rpc_reflection *reflection = rpc_call_user(call);
    struct slice request = {bytes, size_bytes};
    struct pb_reader r = reader_of(request);
    struct pb_field f, asked = {0};
    while (pb_next(&r, &f))
        if (f.number >= REQUEST_BY_FILENAME && f.number <= REQUEST_LIST && f.wire_type == 2)
            asked = f;
    if (r.failed || asked.bytes.size_bytes > NAME_MAX_BYTES) {
        rpc_finish(call, REPLOG_INVALID_ARGUMENT, "malformed ServerReflectionRequest");
        return;
    }
    struct buffer reply = {0};
    struct slice host = field_of(request, 1);
    if (host.size_bytes) pb_put_bytes(&reply, RESPONSE_HOST, host.data, host.size_bytes);
    pb_put_bytes(&reply, RESPONSE_REQUEST, bytes, size_bytes);
    answer(reflection, &asked, &reply);
    if (reply.failed) {
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "out of memory");
    } else {
        struct rpc_piece piece = {reply.data, reply.size_bytes, NULL};
        rpc_send(call, &piece, 1);
    }
    buffer_free(&reply);
}

static void on_end(struct rpc_call *call) {
    rpc_finish(call, REPLOG_OK, NULL);
}

/* ---- Making */

static bool add_set(struct rpc_reflection *reflection, struct slice set) {
    struct pb_reader r = reader_of(set);
    struct pb_field f;
    while (pb_next(&r, &f)) {
        if (f.number != SET_FILE || f.wire_type != 2) continue;
        struct slice *files = realloc(reflection->files, (reflection->n_files + 1) * sizeof *files);
        if (!files) return false;
        files[reflection->n_files++] = f.bytes;
        reflection->files = files;
    }
    return !r.failed;
}

struct rpc_reflection *reflection_new(const struct rpc_service *services, size_t n_services,
                                      const struct slice *files, size_t n_files,
                                      struct rpc_service out[2]) {
    static const struct slice own[] = {
        {health_descriptor_set, sizeof health_descriptor_set},
        {reflection_descriptor_set, sizeof reflection_descriptor_set},
        {reflection_v1alpha_descriptor_set, sizeof reflection_v1alpha_descriptor_set}};
    struct rpc_reflection *reflection = calloc(1, sizeof *reflection);
    if (!reflection) return NULL;
    reflection->services = services;
    reflection->n_services = n_services;
    bool ok = true;
    for (size_t i = 0; i < n_files; i++) ok = ok && add_set(reflection, files[i]);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) ok = ok && add_set(reflection, own[i]);
    if (!ok) {
        reflection_free(reflection);
        return NULL;
    }
    reflection->method = (struct rpc_method){.name = "ServerReflectionInfo",
                                             .client_stream = true,
                                             .server_stream = true,
                                             .handlers = {.message = on_request, .end = on_end}};
    out[0] =
        (struct rpc_service){.descriptor = &grpc__reflection__v1__server_reflection__descriptor,
                             .methods = &reflection->method,
                             .n_methods = 1,
                             .user = reflection};
    out[1] = out[0];
    out[1].descriptor = &grpc__reflection__v1alpha__server_reflection__descriptor;
    return reflection;
}

void reflection_free(struct rpc_reflection *reflection) {
    if (!reflection) return;
    free(reflection->files);
    free(reflection);
}

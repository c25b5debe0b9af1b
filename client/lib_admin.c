#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "client/lib_internal.h"

enum { MAX_MEMBERS = 16 };

static void holders(Replog__V1__Holder **from, size_t n, replog_holder *to, uint32_t *n_to) {
    *n_to = 0;
    for (size_t i = 0; i < n && i < MAX_MEMBERS; i++) {
        to[(*n_to)++] =
            (replog_holder){.id = from[i]->id, .checkpoint_seq = from[i]->checkpoint_seq};
    }
}

replog_status replog_get(replog_client *client, const void *key, size_t key_bytes, bool stale,
                         uint32_t timeout_ms, void **value, size_t *value_bytes, uint64_t *seq,
                         replog_error *err) {
    if (key_bytes == 0 || key_bytes > REPLOG_MAX_KEY_BYTES) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a key of %zu bytes; from 1 to %u",
                         key_bytes, REPLOG_MAX_KEY_BYTES);
    }
    Replog__V1__GetRequest request = REPLOG__V1__GET_REQUEST__INIT;
    request.key.len = key_bytes;
    memcpy(&request.key.data, &key, sizeof key); /* only read, though its type does not say so */
    request.stale = stale;
    ProtobufCMessage *m = NULL;
    replog_status status =
        client_unary(client, "Get", &request.base, &replog__v1__get_reply__descriptor, timeout_ms,
                     true, &m, err);
    if (status) return status;
    const Replog__V1__GetReply *reply = (const Replog__V1__GetReply *)m;
    void *copy = malloc(reply->value.len + 1);
    if (copy) {
        if (reply->value.len) memcpy(copy, reply->value.data, reply->value.len);
        *value = copy;
        *value_bytes = reply->value.len;
        if (seq) *seq = reply->seq;
    } else {
        status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a value");
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return status;
}

replog_status replog_checkpoint(replog_client *client, uint32_t timeout_ms, uint64_t *seq,
                                uint64_t *safe_seq, replog_error *err) {
    Replog__V1__CheckpointRequest request = REPLOG__V1__CHECKPOINT_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    replog_status status =
        client_unary(client, "Checkpoint", &request.base, &replog__v1__checkpoint_reply__descriptor,
                     timeout_ms, false, &m, err);
    if (status) return status;
    const Replog__V1__CheckpointReply *reply = (const Replog__V1__CheckpointReply *)m;
    if (seq) *seq = reply->seq;
    if (safe_seq) *safe_seq = reply->safe_seq;
    protobuf_c_message_free_unpacked(m, NULL);
    return REPLOG_OK;
}

replog_status replog_truncate(replog_client *client, uint64_t upto, uint32_t timeout_ms,
                              replog_truncate_result *result, replog_error *err) {
    Replog__V1__TruncateRequest request = REPLOG__V1__TRUNCATE_REQUEST__INIT;
    request.upto = upto;
    ProtobufCMessage *m = NULL;
    replog_status status =
        client_unary(client, "Truncate", &request.base, &replog__v1__truncate_reply__descriptor,
                     timeout_ms, false, &m, err);
    if (status) return status;
    const Replog__V1__TruncateReply *reply = (const Replog__V1__TruncateReply *)m;
    if (result) {
        result->requested = reply->requested;
        result->first_seq = reply->first_seq;
        holders(reply->held_by, reply->n_held_by, result->held_by, &result->n_held_by);
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return REPLOG_OK;
}

static void member_status(const Replog__V1__MemberStatus *from, replog_member_status *to) {
    to->id = from->id;
    snprintf(to->address, sizeof to->address, "%s", from->address);
    snprintf(to->role, sizeof to->role, "%s", from->role);
    snprintf(to->state, sizeof to->state, "%s", from->state);
    to->online = from->online;
    to->match_seq = from->match_seq;
    to->commit_seq = from->commit_seq;
    to->applied_seq = from->applied_seq;
    to->checkpoint_seq = from->checkpoint_seq;
    to->lag_bytes = from->lag_bytes;
    to->chain_seq = from->chain_seq;
    to->chain = from->chain;
}

replog_status replog_get_status(replog_client *client, uint32_t timeout_ms,
                                replog_cluster_status *status, replog_error *err) {
    Replog__V1__StatusRequest request = REPLOG__V1__STATUS_REQUEST__INIT;
    ProtobufCMessage *m = NULL;
    replog_status outcome =
        client_unary(client, "Status", &request.base, &replog__v1__status_reply__descriptor,
                     timeout_ms, true, &m, err);
    if (outcome) return outcome;
    const Replog__V1__StatusReply *reply = (const Replog__V1__StatusReply *)m;
    memset(status, 0, sizeof *status);
    status->leader = reply->leader;
    status->term = reply->term;
    status->first_seq = reply->first_seq;
    status->commit_seq = reply->commit_seq;
    status->last_seq = reply->last_seq;
    status->cluster_id = reply->cluster_id;
    status->safe_seq = reply->safe_seq;
    status->drop_upto = reply->drop_upto;
    for (size_t i = 0; i < reply->n_members && i < MAX_MEMBERS; i++) {
        member_status(reply->members[i], &status->members[status->n_members++]);
    }
    holders(reply->held_by, reply->n_held_by, status->held_by, &status->n_held_by);
    protobuf_c_message_free_unpacked(m, NULL);
    return REPLOG_OK;
}

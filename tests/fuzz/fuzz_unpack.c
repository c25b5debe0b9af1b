/* Every message of replog's protocols through rpc_unpack, with a budget: byte 0 says which message,
 * byte 1 how large the budget is. What is unpacked can be packed, and unpacked to the same bytes.
 */
#include "fuzz.h"
#include "health.pb-c.h"
#include "peer.pb-c.h"
#include "reflection.pb-c.h"
#include "replog.pb-c.h"
#include "rpc/rpc.h"

static const ProtobufCMessageDescriptor *const messages[] = {
    &replog__v1__status_reply__descriptor,
    &replog__v1__inspect_reply__descriptor,
    &replog__v1__append_request__descriptor,
    &replog__v1__append_reply__descriptor,
    &replog__v1__read_reply__descriptor,
    &replog__v1__get_reply__descriptor,
    &replog__v1__truncate_reply__descriptor,
    &replog__v1__checkpoint_reply__descriptor,
    &replog__v1__open_session_reply__descriptor,
    &replog__v1__peer_message__descriptor,
    &replog__v1__status_request__descriptor,
    &replog__v1__truncate_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
    &grpc__reflection__v1__server_reflection_request__descriptor,
    &grpc__reflection__v1__server_reflection_response__descriptor};
enum { N_MESSAGES = sizeof messages / sizeof messages[0] };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    const ProtobufCMessageDescriptor *type = messages[fuzz_u8(&f) % N_MESSAGES];
    size_t budget = (size_t)64 << (fuzz_u8(&f) % 16);
    uint8_t *bytes = fuzz_exact(f.data, f.left);
    ProtobufCMessage *m = rpc_unpack(type, bytes, f.left, budget);
    free(bytes); /* what was unpacked is a copy */
    if (!m) return 0;
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = malloc(n + 1), *again_packed = malloc(n + 1);
    CHECK(packed && again_packed && protobuf_c_message_pack(m, packed) == n);
    /* protobuf-c keeps fields with the number 0, which it does not read again */
    ProtobufCMessage *again = rpc_unpack(type, packed, n, (size_t)1 << 30);
    if (again) {
        CHECK(protobuf_c_message_get_packed_size(again) == n);
        CHECK(protobuf_c_message_pack(again, again_packed) == n &&
              !memcmp(packed, again_packed, n));
        protobuf_c_message_free_unpacked(again, NULL);
    }
    protobuf_c_message_free_unpacked(m, NULL);
    free(packed);
    free(again_packed);
    return 0;
}

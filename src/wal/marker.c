#include "wal/marker.h"

#include <inttypes.h>

#include "base/error.h"
#include "base/hash.h"

enum { CHECKPOINT_BYTES = 16 };

void checkpoint_encode(const struct checkpoint_marker *m, uint8_t out[16]) {
    put_u64(out, m->safe_seq);
    put_u64(out + 8, m->drop_upto);
}

replog_status checkpoint_decode(struct slice value, struct checkpoint_marker *m,
                                replog_error *err) {
    if (value.size_bytes != CHECKPOINT_BYTES)
        return error_set(err, REPLOG_DATA_LOSS, "a CHECKPOINT of %zu bytes, not %d",
                         value.size_bytes, (int)CHECKPOINT_BYTES);
    m->safe_seq = get_u64(value.data);
    m->drop_upto = get_u64(value.data + 8);
    return REPLOG_OK;
}

void config_encode(const struct config *config, struct buffer *out) {
    buffer_u32(out, config->n_members);
    for (uint32_t i = 0; i < config->n_members; i++) {
        const struct config_member *member = &config->members[i];
        size_t length = strnlen(member->address, CONFIG_MAX_ADDRESS);
        buffer_u64(out, member->id);
        buffer_u64(out, member->incarnation);
        buffer_u8(out, (uint8_t)member->role);
        buffer_u8(out, (uint8_t)length);
        buffer_append(out, member->address, length);
    }
}

/* One member; false when the bytes end early or say what no encoder writes. */
static bool decode_member(struct cursor *c, uint64_t above_id, struct config_member *member) {
    member->id = cursor_u64(c);
    member->incarnation = cursor_u64(c);
    uint8_t role = cursor_u8(c);
    uint8_t length = cursor_u8(c);
    const uint8_t *address = cursor_bytes(c, length);
    if (!address || member->id <= above_id || role > MEMBER_LEARNER) return false;
    /* A NUL would end the address early, and another map would pass for this one. */
    if (memchr(address, 0, length)) return false;
    member->role = (enum member_role)role;
    memcpy(member->address, address, length);
    member->address[length] = '\0';
    return true;
}

replog_status config_decode(struct slice value, struct config *config, replog_error *err) {
    struct cursor c = {.data = value.data, .size_bytes = value.size_bytes};
    struct config decoded = {.n_members = cursor_u32(&c)};
    if (c.failed || decoded.n_members > CONFIG_MAX_MEMBERS)
        return error_set(err, REPLOG_DATA_LOSS,
                         "a CONFIG of %zu bytes with %" PRIu32 " members (at most %d)",
                         value.size_bytes, decoded.n_members, (int)CONFIG_MAX_MEMBERS);
    uint64_t last_id = 0;
    for (uint32_t i = 0; i < decoded.n_members; i++) {
        if (!decode_member(&c, last_id, &decoded.members[i]))
            return error_set(err, REPLOG_DATA_LOSS,
                             "a CONFIG whose member number %" PRIu32 " (of %" PRIu32
                             ") is malformed",
                             i + 1, decoded.n_members);
        last_id = decoded.members[i].id;
    }
    if (c.offset != c.size_bytes)
        return error_set(err, REPLOG_DATA_LOSS, "a CONFIG with %zu bytes behind its last member",
                         c.size_bytes - c.offset);
    *config = decoded;
    return REPLOG_OK;
}

uint64_t config_cluster_id(const struct config *config) {
    uint8_t bytes[CONFIG_MAX_MEMBERS * 16];
    for (uint32_t i = 0; i < config->n_members; i++) {
        put_u64(bytes + 16 * (size_t)i, config->members[i].id);
        put_u64(bytes + 16 * (size_t)i + 8, config->members[i].incarnation);
    }
    uint64_t id = hash64(bytes, 16 * (size_t)config->n_members);
    return id ? id : 1;
}

const struct config_member *config_find(const struct config *config, uint64_t id) {
    for (uint32_t i = 0; i < config->n_members; i++)
        if (config->members[i].id == id) return &config->members[i];
    return NULL;
}

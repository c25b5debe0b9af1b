/* marker.h: what the markers carry as their value. Hides: the byte layout of CHECKPOINT and CONFIG.
 *
 *   CHECKPOINT  safe_seq (8), drop_upto (8)
 *   CONFIG      count (4), then per member: id (8), incarnation (8), role (1), address length (1),
 *               address ("HOST:PORT")
 *   COMMIT, TERM, SESSION  nothing */
#ifndef WAL_MARKER_H
#define WAL_MARKER_H

#include "base/bytes.h"
#include "replog/status.h"

enum { CONFIG_MAX_MEMBERS = 15, CONFIG_MAX_ADDRESS = 255 };

struct checkpoint_marker {
    uint64_t safe_seq, drop_upto;
};

enum member_role { MEMBER_VOTER = 0, MEMBER_LEARNER = 1 };

struct config_member {
    uint64_t id, incarnation;
    enum member_role role;
    char address[CONFIG_MAX_ADDRESS + 1];
};
struct config {
    uint32_t n_members;
    struct config_member members[CONFIG_MAX_MEMBERS]; /* ascending by id, ids not 0 */
};

void checkpoint_encode(const struct checkpoint_marker *m, uint8_t out[16]);
replog_status checkpoint_decode(struct slice value, struct checkpoint_marker *m, replog_error *err);
void config_encode(const struct config *config, struct buffer *out);
/* DATA_LOSS for anything malformed (order, count, lengths, trailing bytes). */
replog_status config_decode(struct slice value, struct config *config, replog_error *err);
/* The cluster's identity: hash of ids and incarnations (addresses may change, roles too). Not 0. */
uint64_t config_cluster_id(const struct config *config);
/* The member with that id, or NULL. */
const struct config_member *config_find(const struct config *config, uint64_t id);

#endif

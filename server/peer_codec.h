/* peer_codec.h: struct peer_msg <-> the bytes of a PeerMessage (proto/peer.proto).
 * Hides: field numbers, and that the blocks stand last so that they are sent from where they lie.
 */
#ifndef SERVER_PEER_CODEC_H
#define SERVER_PEER_CODEC_H

#include "node/peer.h"
#include "replog/status.h"

/* Appends all of the message but the content of its blocks, which the caller sends right behind. */
void peer_encode(const struct peer_msg *msg, struct buffer *head);

/* Hostile bytes into a message; the blocks, if any, are copied once into a blob of which
 * msg->blocks holds the reference (their content is not looked at). `from` of the raft message is
 * unset, `to` is `self`. INVALID_ARGUMENT: malformed, or a kind that is not known;
 * RESOURCE_EXHAUSTED. */
replog_status peer_decode(const uint8_t *bytes, size_t size_bytes, uint64_t self,
                          struct peer_msg *msg, replog_error *err);

#endif

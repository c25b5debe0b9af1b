/* read_codec.h: ReadRequest and ReadReply on the wire (proto/replog.proto), without protobuf-c's
 * copies. Hides: field numbers. */
#ifndef SERVER_READ_CODEC_H
#define SERVER_READ_CODEC_H

#include "base/bytes.h"
#include "replog/status.h"
#include "wal/block.h"

struct read_request {
    uint64_t from_seq, to_seq; /* 0: the first there is; the read index */
    bool follow, markers, local;
};

/* INVALID_ARGUMENT: malformed, or from above to. */
replog_status read_decode_request(const uint8_t *bytes, size_t size_bytes, struct read_request *ask,
                                  replog_error *err);

/* Appends the block's records in [from_seq, to_seq], markers only if they were asked for, as
 * `records` of a ReadReply. How many they are. The block was checked. */
size_t read_encode_block(struct buffer *out, const uint8_t *block,
                         const struct block_header *header, const struct read_request *ask,
                         uint64_t from_seq, uint64_t to_seq);

#endif

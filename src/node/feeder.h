/* feeder.h: reads the blocks of the log's files that a follower has to be fed (the node's FEED
 * effect). The reader stays open in between: a follower that catches up goes on where it was.
 *
 * Used by one thread at a time. */
#ifndef NODE_FEEDER_H
#define NODE_FEEDER_H

#include "node/node.h"

/* Zero-initialised is closed. */
struct feeder {
    struct wal_reader *reader;
    uint64_t next_seq;
    /* Read from the reader and not yet fed: did not fit. Holds until the reader's next call. */
    bool has_block;
    struct block_header header;
    const uint8_t *bytes;
};

/* Whole blocks from seq on (a block begins there) up to limit_seq, about `bytes` of them and at
 * least one. On failure *out is untouched and the feeder is closed; NOT_FOUND: nothing there yet.
 */
replog_status feeder_read(struct feeder *f, struct wal *wal, uint64_t seq, uint64_t limit_seq,
                          uint64_t bytes, struct node_bytes *out, replog_error *err);
void feeder_close(struct feeder *f);

#endif

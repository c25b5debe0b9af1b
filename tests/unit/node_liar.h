/* node_liar.h: a member that lies: messages that are well formed and that no honest member of the
 * cluster would send, put on its stream in a world of node_world.h. For test_node_lies.c and the
 * fuzz target of the same name. */
#ifndef NODE_LIAR_H
#define NODE_LIAR_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "node_world.h"
#include "sim_net.h"

#define LIE_VALUE "a lie" /* what the liar's records hold; never to be found in a log */

/* Puts a message on the stream from -> to, as if that member had sent it; it is delivered within
 * two milliseconds. Takes over the reference in msg->blocks. False: there is no such stream. */
static inline bool liar_say(struct world *w, uint64_t from, uint64_t to, struct peer_msg msg) {
    msg.raft.from = from;
    msg.raft.to = to;
    return world_say(w, from, to, &msg);
}

/* Appends one sealed block to `out`: n_records plain entries with LIE_VALUE (and their COMMIT when
 * there are several). Returns where it ends. */
static inline struct wal_pos liar_block(struct buffer *out, struct wal_pos prev, uint64_t term,
                                        unsigned n_records) {
    struct block_builder b;
    struct block_header h = {.first_seq = prev.seq + 1, .term = term, .prev_chain = prev.chain};
    struct slice value = {(const uint8_t *)LIE_VALUE, sizeof LIE_VALUE - 1};
    block_begin(&b);
    for (unsigned i = 0; i < n_records; i++)
        CHECK(block_add(&b, REPLOG_OP_PUT, (struct slice){0}, value, NULL) == REPLOG_OK);
    if (n_records > 1) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    CHECK(blob != NULL);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    buffer_append(out, blob->data, blob->size_bytes);
    blob_unref(blob);
    return (struct wal_pos){block_last_seq(&h), term, h.hash};
}

/* The same with one marker that holds `value`. */
static inline struct wal_pos liar_marker(struct buffer *out, struct wal_pos prev, uint64_t term,
                                         replog_op op, struct slice value) {
    struct block_builder b;
    struct block_header h = {.first_seq = prev.seq + 1, .term = term, .prev_chain = prev.chain};
    block_begin(&b);
    block_add_marker(&b, op, value);
    struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
    CHECK(blob != NULL);
    h.length = (uint32_t)blob->size_bytes;
    block_seal(blob->data, &h);
    buffer_append(out, blob->data, blob->size_bytes);
    blob_unref(blob);
    return (struct wal_pos){block_last_seq(&h), term, h.hash};
}

/* A leader's message with these blocks (may be empty), which it says follow `prev`. Empties `out`.
 */
static inline struct peer_msg liar_append(uint64_t term, struct wal_pos prev, uint64_t commit_seq,
                                          struct buffer *out) {
    struct peer_msg msg = {.kind = PEER_RAFT};
    msg.raft.type = RAFT_APPEND;
    msg.raft.term = term;
    msg.raft.seq = prev.seq;
    msg.raft.seq_term = prev.term;
    msg.raft.commit_seq = commit_seq;
    msg.raft.round = 1;
    CHECK(!out->failed);
    if (out->size_bytes > 0) {
        msg.blocks = (struct node_bytes){.blob = blob_copy(out->data, out->size_bytes),
                                         .size_bytes = out->size_bytes};
        CHECK(msg.blocks.blob != NULL);
    }
    buffer_free(out);
    return msg;
}

/* Whether the log of a node holds a record of the liar's. */
static inline bool liar_is_in_the_log(struct world *w, uint64_t id) {
    struct wal *wal = sim_node_wal(w->sim, id);
    struct wal_reader *reader = NULL;
    struct block_header h;
    const uint8_t *bytes;
    bool found = false;
    if (wal_tail(wal).seq < wal_first_seq(wal)) return false;
    CHECK(wal_reader_open(wal, wal_first_seq(wal), &reader, NULL) == REPLOG_OK);
    while (wal_reader_next(reader, UINT64_MAX, &h, &bytes, NULL) == REPLOG_OK) {
        struct block_walk walk = {0};
        replog_record r;
        while (block_next(bytes, &h, &walk, &r))
            if (r.value_bytes == sizeof LIE_VALUE - 1 &&
                memcmp(r.value, LIE_VALUE, r.value_bytes) == 0)
                found = true;
    }
    wal_reader_close(reader);
    return found;
}

#endif

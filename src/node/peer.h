/* peer.h: what nodes say to each other, as structs; server/ puts them on the wire (peer.proto). */
#ifndef NODE_PEER_H
#define NODE_PEER_H

#include "base/bytes.h"
#include "raft/raft.h"

enum {
    PEER_VERSION = 1,
    PEER_MAX_BLOCK_BYTES = 1 << 20 /* of one message, but one block always fits */
};

enum peer_kind {
    PEER_HELLO = 100, /* first on every stream, and again when founding goes on */
    PEER_RAFT,        /* raft, with blocks */
    PEER_READ_ASK,    /* context: a read index, please */
    PEER_READ_ANSWER  /* context, raft.ok, raft.seq */
};

struct peer_hello {
    uint64_t from, to, incarnation, cluster_id, map_id;
    uint32_t founding; /* enum wal_founding */
    uint32_t version;
};

/* A piece of the log's bytes with one reference to the blob that holds it. */
struct node_bytes {
    struct blob *blob;
    size_t offset, size_bytes;
};

struct peer_msg {
    enum peer_kind kind;
    struct peer_hello hello;      /* PEER_HELLO */
    struct raft_msg raft;         /* PEER_RAFT; entries unset: they are made from the blocks */
    uint64_t safe_seq, drop_upto; /* leader: the last committed CHECKPOINT */
    uint64_t flush_seq;           /* leader: flush your store until it holds this durably */
    uint64_t checkpoint_seq, applied_seq, incarnation; /* of the sender */
    uint64_t context;
    struct node_bytes blocks; /* whole blocks; blob NULL: none */
};

#endif

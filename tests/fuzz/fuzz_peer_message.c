/* What members say to each other on the wire (server/peer_codec.c). What is accepted makes the
 * round trip, and protobuf-c, where it takes the bytes too, reads the same. */
#include "fuzz.h"
#include "peer.pb-c.h"
#include "rpc/rpc.h"
#include "server/peer_codec.h"

static struct buffer encode(const struct peer_msg *m) {
    struct buffer out = {0};
    peer_encode(m, &out);
    if (m->blocks.blob)
        buffer_append(&out, m->blocks.blob->data + m->blocks.offset, m->blocks.size_bytes);
    CHECK(!out.failed);
    return out;
}

static void same(const struct peer_msg *a, const struct peer_msg *b) {
    const struct raft_msg *x = &a->raft, *y = &b->raft;
    CHECK(a->kind == b->kind);
    if (a->kind == PEER_HELLO) CHECK(memcmp(&a->hello, &b->hello, sizeof a->hello) == 0);
    CHECK(x->type == y->type && x->term == y->term && x->seq == y->seq &&
          x->seq_term == y->seq_term);
    CHECK(x->commit_seq == y->commit_seq && x->round == y->round && x->ok == y->ok &&
          x->transfer == y->transfer);
    CHECK(a->safe_seq == b->safe_seq && a->drop_upto == b->drop_upto &&
          a->flush_seq == b->flush_seq);
    CHECK(a->checkpoint_seq == b->checkpoint_seq && a->applied_seq == b->applied_seq);
    CHECK(a->incarnation == b->incarnation && a->context == b->context);
    CHECK(a->blocks.size_bytes == b->blocks.size_bytes);
    if (a->blocks.size_bytes)
        CHECK(memcmp(a->blocks.blob->data, b->blocks.blob->data, a->blocks.size_bytes) == 0);
}

/* Of a hello given twice protobuf-c keeps something of both. */
static bool one_hello(const uint8_t *bytes, size_t n) {
    struct pb_reader r = {.data = bytes, .end = bytes + n};
    struct pb_field f;
    unsigned hellos = 0;
    while (pb_next(&r, &f)) hellos += f.number == 1;
    return hellos == 1;
}

static void same_as_protobuf_c(const struct peer_msg *m, const uint8_t *bytes, size_t n) {
    Replog__V1__PeerMessage *p = replog__v1__peer_message__unpack(NULL, n, bytes);
    if (!p) return;
    const struct raft_msg *r = &m->raft;
    CHECK(p->term == r->term && p->seq == r->seq && p->seq_term == r->seq_term);
    CHECK(p->commit_seq == r->commit_seq && p->round == r->round);
    CHECK(!!p->ok == r->ok && !!p->transfer == r->transfer);
    CHECK(p->safe_seq == m->safe_seq && p->drop_upto == m->drop_upto &&
          p->flush_seq == m->flush_seq);
    CHECK(p->checkpoint_seq == m->checkpoint_seq && p->applied_seq == m->applied_seq);
    CHECK(p->incarnation == m->incarnation && p->context == m->context);
    CHECK(p->blocks.len == m->blocks.size_bytes);
    if (m->kind == PEER_HELLO && one_hello(bytes, n)) {
        CHECK(p->hello && p->hello->from == m->hello.from && p->hello->to == m->hello.to);
        CHECK(p->hello->incarnation == m->hello.incarnation && p->hello->map_id == m->hello.map_id);
        CHECK(p->hello->founding == m->hello.founding && p->hello->version == m->hello.version);
    }
    replog__v1__peer_message__free_unpacked(p, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    uint8_t *bytes = fuzz_exact(data, size_bytes);
    struct peer_msg msg = {0}, again = {0};
    replog_error err;
    replog_status status = peer_decode(bytes, size_bytes, 3, &msg, &err);
    CHECK(status == REPLOG_OK || (status == REPLOG_INVALID_ARGUMENT && err.text[0]));
    if (status == REPLOG_OK) {
        struct buffer out = encode(&msg);
        CHECK(msg.raft.to == 3 &&
              peer_decode(out.data, out.size_bytes, 3, &again, &err) == REPLOG_OK);
        same(&msg, &again);
        same_as_protobuf_c(&msg, bytes, size_bytes);
        buffer_free(&out);
        blob_unref(msg.blocks.blob);
        blob_unref(again.blocks.blob);
    }
    free(bytes);
    return 0;
}

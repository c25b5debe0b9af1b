/* What members and readers say on the wire: round trips, agreement with protobuf-c, hostile bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "peer.pb-c.h"
#include "replog.pb-c.h"
#include "server/peer_codec.h"
#include "server/read_codec.h"
#include "wal/marker.h"

static replog_error err;

/* As it travels: the head, and the blocks right behind it. */
static struct buffer wire(const struct peer_msg *msg) {
    struct buffer out = {0};
    peer_encode(msg, &out);
    if (msg->blocks.blob) {
        buffer_append(&out, msg->blocks.blob->data + msg->blocks.offset, msg->blocks.size_bytes);
    }
    assert_false(out.failed);
    return out;
}

static struct peer_msg append_message(struct blob *blob) {
    struct peer_msg m = {.kind = PEER_RAFT};
    m.raft = (struct raft_msg){.type = RAFT_APPEND,
                               .term = 7,
                               .seq = UINT64_MAX,
                               .seq_term = 6,
                               .commit_seq = 1ull << 40,
                               .round = 300,
                               .ok = true,
                               .transfer = true};
    m.safe_seq = 11;
    m.drop_upto = 12;
    m.flush_seq = 13;
    m.checkpoint_seq = 14;
    m.applied_seq = 15;
    m.incarnation = 0xfedcba9876543210ull;
    m.context = 16;
    if (blob) m.blocks = (struct node_bytes){blob, 5, blob->size_bytes - 5};
    return m;
}

static void a_raft_message_comes_back_as_it_was(void **state) {
    (void)state;
    struct blob *blob = blob_new(5000);
    for (size_t i = 0; i < 5000; i++) blob->data[i] = (uint8_t)(i * 7);
    struct peer_msg m = append_message(blob), got;
    struct buffer b = wire(&m);
    assert_int_equal(peer_decode(b.data, b.size_bytes, 3, &got, &err), REPLOG_OK);
    assert_int_equal(got.kind, PEER_RAFT);
    assert_int_equal(got.raft.type, RAFT_APPEND);
    assert_int_equal(got.raft.to, 3);
    assert_int_equal(got.raft.seq, UINT64_MAX);
    assert_int_equal(got.raft.commit_seq, 1ull << 40);
    assert_true(got.raft.ok && got.raft.transfer);
    assert_int_equal(got.incarnation, m.incarnation);
    assert_int_equal(got.context, 16);
    assert_int_equal(got.blocks.size_bytes, 4995);
    assert_memory_equal(got.blocks.blob->data + got.blocks.offset, blob->data + 5, 4995);
    blob_unref(got.blocks.blob);
    blob_unref(blob);
    buffer_free(&b);
}

static void protobuf_c_reads_the_same(void **state) {
    (void)state;
    struct blob *blob = blob_copy("12345blocks", 11);
    struct peer_msg m = append_message(blob);
    struct buffer b = wire(&m);
    Replog__V1__PeerMessage *p = replog__v1__peer_message__unpack(NULL, b.size_bytes, b.data);
    assert_non_null(p);
    assert_int_equal(p->type, RAFT_APPEND + 1);
    assert_int_equal(p->term, 7);
    assert_int_equal(p->seq_term, 6);
    assert_int_equal(p->round, 300);
    assert_int_equal(p->safe_seq, 11);
    assert_int_equal(p->drop_upto, 12);
    assert_int_equal(p->flush_seq, 13);
    assert_int_equal(p->checkpoint_seq, 14);
    assert_int_equal(p->applied_seq, 15);
    assert_int_equal(p->incarnation, m.incarnation);
    assert_int_equal(p->blocks.len, 6);
    assert_memory_equal(p->blocks.data, "blocks", 6);
    replog__v1__peer_message__free_unpacked(p, NULL);
    blob_unref(blob);
    buffer_free(&b);
}

static void every_kind_makes_the_round_trip(void **state) {
    (void)state;
    struct peer_msg got, hello = {.kind = PEER_HELLO};
    hello.hello = (struct peer_hello){1, 2, 3, 4, 5, 3, PEER_VERSION};
    struct buffer b = wire(&hello);
    assert_int_equal(peer_decode(b.data, b.size_bytes, 2, &got, &err), REPLOG_OK);
    assert_int_equal(got.kind, PEER_HELLO);
    assert_memory_equal(&got.hello, &hello.hello, sizeof hello.hello);
    buffer_free(&b);
    for (int type = RAFT_PREVOTE; type <= RAFT_TIMEOUT_NOW; type++) {
        struct peer_msg m = {.kind = PEER_RAFT, .raft.type = (enum raft_msg_type)type};
        b = wire(&m);
        assert_int_equal(peer_decode(b.data, b.size_bytes, 2, &got, &err), REPLOG_OK);
        assert_int_equal(got.kind, PEER_RAFT);
        assert_int_equal(got.raft.type, type);
        buffer_free(&b);
    }
    for (int kind = PEER_READ_ASK; kind <= PEER_READ_ANSWER; kind++) {
        struct peer_msg m = {.kind = (enum peer_kind)kind, .context = 9};
        b = wire(&m);
        assert_int_equal(peer_decode(b.data, b.size_bytes, 2, &got, &err), REPLOG_OK);
        assert_int_equal(got.kind, kind);
        assert_int_equal(got.context, 9);
        buffer_free(&b);
    }
}

static void what_is_no_message_is_refused(void **state) {
    (void)state;
    struct peer_msg got;
    const struct {
        const char *bytes;
        size_t size_bytes;
    } cases[] = {
        {"", 0},                       /* neither hello nor type */
        {"\x10\x08", 2},               /* type 8 */
        {"\x10\x63", 2},               /* type 99 */
        {"\x12\x01x", 3},              /* field 2 as bytes */
        {"\x10\x01\xa2\x01\x02zz", 7}, /* a prevote with blocks */
        {"\x10\x05\xa2\x01\x09zz", 7}, /* blocks longer than the message */
        {"\x10\x05\xa0\x01\x02", 5},   /* blocks as a number */
        {"\x0a\x02\x08", 3},           /* a hello that is cut off */
        {"\x0a\x02\x09\x01", 4},       /* a fixed64 that is cut off */
        {"\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        replog_status st =
            peer_decode((const uint8_t *)cases[i].bytes, cases[i].size_bytes, 1, &got, &err);
        if (st != REPLOG_INVALID_ARGUMENT) fail_msg("case %zu: %d", i, (int)st);
    }
}

static void broken_messages_never_crash(void **state) {
    (void)state;
    uint64_t seed = 42;
    struct blob *blob = blob_copy("12345some bytes of blocks", 25);
    struct peer_msg m = append_message(blob), got;
    struct buffer b = wire(&m);
    for (unsigned round = 0; round < 20000; round++) {
        size_t n = (size_t)rng_between(&seed, 0, b.size_bytes);
        uint8_t *copy = malloc(n ? n : 1); /* its own block: a read past the end is seen */
        assert_non_null(copy);
        memcpy(copy, b.data, n);
        for (unsigned flips = 0; n > 0 && flips < 3; flips++) {
            copy[rng_next(&seed) % n] ^= (uint8_t)(1u << (rng_next(&seed) % 8));
        }
        if (peer_decode(copy, n, 1, &got, &err) == REPLOG_OK) {
            assert_true(got.blocks.size_bytes <= n);
            blob_unref(got.blocks.blob);
        }
        free(copy);
    }
    blob_unref(blob);
    buffer_free(&b);
}

/* ---- Reads */

static struct slice text(const char *s) {
    return (struct slice){(const uint8_t *)s, strlen(s)};
}

static struct blob *make_batch(struct block_header *header) {
    struct block_builder builder;
    uint32_t n;
    uint16_t flags;
    block_begin(&builder);
    assert_int_equal(block_add(&builder, REPLOG_OP_PUT, text("k"), text("v"), &err), REPLOG_OK);
    assert_int_equal(block_add(&builder, REPLOG_OP_DELETE, text("gone"), text(""), &err),
                     REPLOG_OK);
    assert_int_equal(block_add(&builder, REPLOG_OP_PUT, text(""), text("entry"), &err), REPLOG_OK);
    block_add_marker(&builder, REPLOG_OP_COMMIT, (struct slice){0});
    struct blob *blob = block_finish(&builder, &n, &flags);
    assert_non_null(blob);
    *header = (struct block_header){.length = (uint32_t)blob->size_bytes,
                                    .n_records = n,
                                    .flags = flags,
                                    .first_seq = 300,
                                    .term = 4};
    block_seal(blob->data, header);
    return blob;
}

static Replog__V1__ReadReply *reply_of(const uint8_t *block, const struct block_header *header,
                                       bool markers, uint64_t from, uint64_t to, size_t expected) {
    struct buffer out = {0};
    struct read_request ask = {.markers = markers};
    assert_int_equal(read_encode_block(&out, block, header, &ask, from, to), expected);
    Replog__V1__ReadReply *r = replog__v1__read_reply__unpack(NULL, out.size_bytes, out.data);
    assert_non_null(r);
    assert_int_equal(r->n_records, expected);
    buffer_free(&out);
    return r;
}

static void a_batch_is_told_as_it_is(void **state) {
    (void)state;
    struct block_header header;
    struct blob *blob = make_batch(&header);
    Replog__V1__ReadReply *r = reply_of(blob->data, &header, true, 0, UINT64_MAX, 4);
    assert_int_equal(r->records[0]->seq, 300);
    assert_int_equal(r->records[0]->term, 4);
    assert_int_equal(r->records[0]->key.len, 1);
    assert_memory_equal(r->records[0]->value.data, "v", 1);
    assert_int_equal(r->records[1]->op, REPLOG__V1__OP__DELETE);
    assert_int_equal(r->records[1]->value.len, 0);
    assert_int_equal(r->records[2]->key.len, 0);
    assert_int_equal(r->records[3]->op, REPLOG__V1__OP__COMMIT);
    replog__v1__read_reply__free_unpacked(r, NULL);
    r = reply_of(blob->data, &header, false, 301, UINT64_MAX, 2); /* no COMMIT, not below from */
    assert_int_equal(r->records[0]->seq, 301);
    replog__v1__read_reply__free_unpacked(r, NULL);
    r = reply_of(blob->data, &header, true, 0, 300, 1);
    replog__v1__read_reply__free_unpacked(r, NULL);
    blob_unref(blob);
}

static struct blob *make_marker(replog_op op, struct slice value, struct block_header *header) {
    struct block_builder builder;
    uint32_t n;
    uint16_t flags;
    block_begin(&builder);
    block_add_marker(&builder, op, value);
    struct blob *blob = block_finish(&builder, &n, &flags);
    assert_non_null(blob);
    *header = (struct block_header){.length = (uint32_t)blob->size_bytes,
                                    .n_records = n,
                                    .flags = flags,
                                    .first_seq = 9,
                                    .term = 1};
    block_seal(blob->data, header);
    return blob;
}

static void markers_have_fields_of_their_own(void **state) {
    (void)state;
    struct block_header header;
    uint8_t bytes[16];
    checkpoint_encode(&(struct checkpoint_marker){77, 66}, bytes);
    struct blob *blob = make_marker(REPLOG_OP_CHECKPOINT, (struct slice){bytes, 16}, &header);
    Replog__V1__ReadReply *r = reply_of(blob->data, &header, true, 0, UINT64_MAX, 1);
    assert_int_equal(r->records[0]->safe_seq, 77);
    assert_int_equal(r->records[0]->drop_upto, 66);
    replog__v1__read_reply__free_unpacked(r, NULL);
    blob_unref(blob);

    struct buffer config_bytes = {0};
    struct config config = {.n_members = 2,
                            .members = {{.id = 1, .incarnation = 5, .address = "a:1"},
                                        {.id = 2, .role = MEMBER_LEARNER, .address = "b:2"}}};
    config_encode(&config, &config_bytes);
    blob = make_marker(REPLOG_OP_CONFIG, (struct slice){config_bytes.data, config_bytes.size_bytes},
                       &header);
    r = reply_of(blob->data, &header, true, 0, UINT64_MAX, 1);
    assert_int_equal(r->records[0]->n_members, 2);
    assert_string_equal(r->records[0]->members[0]->address, "a:1");
    assert_true(r->records[0]->members[1]->learner);
    replog__v1__read_reply__free_unpacked(r, NULL);
    blob_unref(blob);
    buffer_free(&config_bytes);

    blob = make_marker(REPLOG_OP_SESSION, (struct slice){0}, &header);
    r = reply_of(blob->data, &header, true, 0, UINT64_MAX, 1);
    assert_int_equal(r->records[0]->session, 9);
    replog__v1__read_reply__free_unpacked(r, NULL);
    blob_unref(blob);
}

static void read_requests_are_checked(void **state) {
    (void)state;
    struct read_request ask;
    assert_int_equal(read_decode_request((const uint8_t *)"\x08\x05\x10\x04", 4, &ask, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "from_seq 5 lies above to_seq 4"));
    assert_int_equal(
        read_decode_request((const uint8_t *)"\x08\x05\x18\x01\x20\x01", 6, &ask, &err), REPLOG_OK);
    assert_true(ask.follow && ask.markers && !ask.local && ask.from_seq == 5);
    assert_int_equal(read_decode_request((const uint8_t *)"\x0a\x01x", 3, &ask, &err),
                     REPLOG_INVALID_ARGUMENT);
    assert_int_equal(read_decode_request((const uint8_t *)"\x08", 1, &ask, &err),
                     REPLOG_INVALID_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_raft_message_comes_back_as_it_was),
        cmocka_unit_test(protobuf_c_reads_the_same),
        cmocka_unit_test(every_kind_makes_the_round_trip),
        cmocka_unit_test(what_is_no_message_is_refused),
        cmocka_unit_test(broken_messages_never_crash),
        cmocka_unit_test(a_batch_is_told_as_it_is),
        cmocka_unit_test(markers_have_fields_of_their_own),
        cmocka_unit_test(read_requests_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Blocks (wal/block.h), and what Read makes of them (server/read_codec.h). Byte 0 says whether the
 * hash is set right first; the rest is the block, with perhaps more behind it.
 *
 * A block that is accepted is one that the builder makes: its records, added again and sealed, are
 * the same bytes. What a Read tells of it is a ReadReply. */
#include "base/hash.h"
#include "fuzz.h"
#include "replog.pb-c.h"
#include "server/read_codec.h"
#include "wal/marker.h"

static void rebuild(const uint8_t *bytes, const struct block_header *h) {
    struct block_builder b;
    struct block_walk at = {0};
    replog_record r;
    replog_error err;
    uint32_t n = 0;
    block_begin(&b);
    while (block_next(bytes, h, &at, &r)) {
        struct slice key = {r.key, r.key_bytes}, value = {r.value, r.value_bytes};
        CHECK(r.seq == h->first_seq + n++ && r.term == h->term);
        if (r.op == REPLOG_OP_PUT || r.op == REPLOG_OP_DELETE)
            CHECK(block_add(&b, r.op, key, value, &err) == REPLOG_OK);
        else
            block_add_marker(&b, r.op, value);
    }
    CHECK(n == h->n_records && at.offset == h->length);
    struct block_header again = *h;
    struct blob *blob = block_finish(&b, &again.n_records, &again.flags);
    CHECK(blob && blob->size_bytes == h->length && again.n_records == h->n_records);
    CHECK(again.flags == h->flags && block_seal(blob->data, &again) == h->hash);
    CHECK(memcmp(blob->data, bytes, h->length) == 0);
    blob_unref(blob);
}

static void tell(const uint8_t *bytes, const struct block_header *h, uint8_t flags) {
    struct buffer out = {0};
    struct read_request ask = {.markers = flags & 2};
    uint64_t from = flags & 4 ? h->first_seq + 1 : 0;
    size_t n = read_encode_block(&out, bytes, h, &ask, from, UINT64_MAX);
    CHECK(n <= h->n_records && (!ask.markers || from || n == h->n_records));
    Replog__V1__ReadReply *reply = replog__v1__read_reply__unpack(NULL, out.size_bytes, out.data);
    CHECK(reply && reply->n_records == n);
    for (size_t i = 0; i < n; i++)
        CHECK(reply->records[i]->seq >= from && reply->records[i]->seq <= block_last_seq(h));
    replog__v1__read_reply__free_unpacked(reply, NULL);
    buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    uint8_t flags = fuzz_u8(&f);
    uint8_t *bytes = fuzz_exact(f.data, f.left);
    struct block_header h = {0}, peeked = {0};
    replog_error err;
    if (flags & 1 && f.left >= BLOCK_HEADER_BYTES) {
        uint32_t length = get_u32(bytes + 16);
        if (length > 8 && length <= f.left) put_u64(bytes, hash64(bytes + 8, length - 8));
    }
    replog_status peek = block_peek(bytes, f.left, &peeked, &err);
    replog_status status = block_check(bytes, f.left, &h, &err);
    CHECK(status == REPLOG_OK || status == REPLOG_DATA_LOSS);
    if (status == REPLOG_OK) {
        CHECK(peek == REPLOG_OK && memcmp(&h, &peeked, sizeof h) == 0 && h.length <= f.left);
        rebuild(bytes, &h);
        tell(bytes, &h, flags);
    }
    free(bytes);
    fuzz_accepted(status == REPLOG_OK);
    return 0;
}

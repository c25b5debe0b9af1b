/* Requests that replogd decodes by hand: Append (server/append.c, whose decoder is its own) and
 * Read (server/read_codec.c). Byte 0: which one. An accepted append is a valid block with the
 * records that protobuf-c reads in the same bytes. */
#include "fuzz.h"
#include "replog.pb-c.h"
#include "server/append.c"
#include "server/read_codec.h"

/* What append.c calls of the server; nothing here gets so far. */
replog_status server_ask(struct server *s, struct request *request, struct node_event *ev,
                         const struct rpc_call *call, replog_error *err) {
    (void)s;
    (void)request;
    (void)ev;
    (void)call;
    (void)err;
    abort();
}
void server_refuse(struct server *s, struct rpc_call *call, replog_status status, const char *text,
                   uint64_t leader) {
    (void)s;
    (void)call;
    (void)status;
    (void)text;
    (void)leader;
    abort();
}

static void same_records(const uint8_t *block, const struct block_header *h,
                         const Replog__V1__AppendRequest *q) {
    struct block_walk at = {0};
    replog_record r;
    for (size_t i = 0; i < q->n_records; i++) {
        const Replog__V1__WriteRecord *w = q->records[i];
        CHECK(block_next(block, h, &at, &r));
        /* an op of 0 says nothing, also behind one that does */
        CHECK((int)r.op == (int)w->op || w->op == 0);
        CHECK(r.key_bytes == w->key.len &&
              (!w->key.len || !memcmp(r.key, w->key.data, w->key.len)));
        CHECK(r.value_bytes == w->value.len &&
              (!w->value.len || !memcmp(r.value, w->value.data, w->value.len)));
    }
    bool commit = q->batch || q->n_records > 1;
    CHECK(block_next(block, h, &at, &r) == commit && (!commit || r.op == REPLOG_OP_COMMIT));
    CHECK(h->n_records == q->n_records + commit);
}

static void append_request_bytes(const uint8_t *bytes, size_t n) {
    static struct blob *spare; /* from one input to the next, as a stream's appends keep it */
    struct node_append a;
    replog_error err;
    replog_status status = decode_append(bytes, n, &spare, &a, &err);
    CHECK(spare == a.block);
    CHECK(status == REPLOG_OK || (status == REPLOG_INVALID_ARGUMENT && err.text[0]));
    if (status != REPLOG_OK) {
        CHECK(a.block == NULL);
        return;
    }
    struct block_header h = {.length = (uint32_t)a.block->size_bytes,
                             .n_records = a.n_records,
                             .flags = a.flags,
                             .first_seq = 1,
                             .term = 1},
                        checked;
    block_seal(a.block->data, &h);
    CHECK(block_check(a.block->data, a.block->size_bytes, &checked, &err) == REPLOG_OK);
    CHECK((a.session == 0) == (a.sequence == 0) && a.ack <= NODE_ACK_ALL);
    Replog__V1__AppendRequest *q = replog__v1__append_request__unpack(NULL, n, bytes);
    if (q) {
        CHECK(q->session == a.session && q->sequence == a.sequence &&
              q->acked_below == a.acked_below);
        same_records(a.block->data, &h, q);
        replog__v1__append_request__free_unpacked(q, NULL);
    }
}

static void read_request_bytes(const uint8_t *bytes, size_t n) {
    struct read_request ask;
    replog_error err;
    replog_status status = read_decode_request(bytes, n, &ask, &err);
    CHECK(status == REPLOG_OK || (status == REPLOG_INVALID_ARGUMENT && err.text[0]));
    if (status != REPLOG_OK) return;
    CHECK(ask.to_seq == 0 || ask.from_seq <= ask.to_seq);
    Replog__V1__ReadRequest *q = replog__v1__read_request__unpack(NULL, n, bytes);
    if (!q) return;
    CHECK(q->from_seq == ask.from_seq && q->to_seq == ask.to_seq && !!q->follow == ask.follow);
    CHECK(!!q->markers == ask.markers && !!q->local == ask.local);
    replog__v1__read_request__free_unpacked(q, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    bool read = fuzz_u8(&f) & 1;
    uint8_t *bytes = fuzz_exact(f.data, f.left);
    if (read)
        read_request_bytes(bytes, f.left);
    else
        append_request_bytes(bytes, f.left);
    free(bytes);
    return 0;
}

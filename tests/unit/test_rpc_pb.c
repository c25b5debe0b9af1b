/* rpc/: protobuf by hand against protobuf-c, and both against hostile bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "replog.pb-c.h"
#include "rpc/internal.h"

static struct pb_reader reader(const void *data, size_t size_bytes) {
    const uint8_t *p = data;
    return (struct pb_reader){p, p + size_bytes, false};
}

static void test_write_and_read(void **state) {
    (void)state;
    struct buffer b = {0};
    static const uint64_t values[] = {1, 127, 128, 300, UINT32_MAX, UINT64_MAX};
    for (uint32_t i = 0; i < 6; i++) {
        pb_put_varint(&b, i + 1, values[i]);
        pb_put_fixed64(&b, i + 100, values[i]);
    }
    pb_put_varint(&b, 7, 0);
    pb_put_fixed64(&b, 8, 0);
    pb_put_bytes(&b, 20, "abc", 3);
    pb_put_bytes(&b, (1u << 29) - 1, NULL, 0);
    assert_false(b.failed);
    struct pb_reader r = reader(b.data, b.size_bytes);
    struct pb_field f;
    for (uint32_t i = 0; i < 6; i++) {
        assert_true(pb_next(&r, &f));
        assert_true(f.number == i + 1 && f.wire_type == 0 && f.value == values[i]);
        assert_true(pb_next(&r, &f));
        assert_true(f.number == i + 100 && f.wire_type == 1 && f.value == values[i]);
    }
    assert_true(pb_next(&r, &f) && f.number == 20 && f.bytes.size_bytes == 3);
    assert_memory_equal(f.bytes.data, "abc", 3);
    assert_true(pb_next(&r, &f) && f.number == (1u << 29) - 1 && f.bytes.size_bytes == 0);
    assert_false(pb_next(&r, &f));
    assert_false(r.failed);
    buffer_free(&b);
}

/* What protobuf-c packs, pb_next reads, and the other way round. */
static void test_against_protobuf_c(void **state) {
    (void)state;
    struct buffer b = {0};
    pb_put_varint(&b, 1, 77);
    pb_put_varint(&b, 2, UINT64_MAX);
    pb_put_varint(&b, 5, 1);
    for (int i = 0; i < 3; i++) {
        struct buffer record = {0};
        pb_put_varint(&record, 1, 2);
        pb_put_bytes(&record, 2, "key", 3);
        pb_put_bytes_header(&b, 6, record.size_bytes);
        buffer_append(&b, record.data, record.size_bytes);
        buffer_free(&record);
    }
    ProtobufCMessage *m =
        rpc_unpack(&replog__v1__append_request__descriptor, b.data, b.size_bytes, 65536);
    assert_non_null(m);
    Replog__V1__AppendRequest *q = (Replog__V1__AppendRequest *)m;
    assert_true(q->session == 77 && q->sequence == UINT64_MAX && q->batch && q->n_records == 3);
    assert_int_equal(q->records[2]->op, REPLOG__V1__OP__DELETE);
    assert_int_equal(q->records[2]->key.len, 3);
    uint8_t packed[256];
    assert_true(protobuf_c_message_get_packed_size(m) == b.size_bytes);
    protobuf_c_message_pack(m, packed);
    assert_memory_equal(packed, b.data, b.size_bytes);
    protobuf_c_message_free_unpacked(m, NULL);
    buffer_free(&b);
}

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
    } bad[] = {{"\x08", 1},                                              /* no value */
               {"\x08\x80", 2},                                          /* unfinished varint */
               {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 11},     /* over 64 bits */
               {"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12}, /* over 10 bytes */
               {"\x09\1\2\3\4\5\6\7", 8},                                /* short fixed64 */
               {"\x0d\1\2\3", 4},                                        /* short fixed32 */
               {"\x0a\x05"
                "abcd",
                6},                                                  /* short bytes */
               {"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11}, /* a length of 2^64 - 1 */
               {"\x0b", 1},                                          /* group */
               {"\x0e", 1},                                          /* wire type 6 */
               {"\x00\x00", 2},                                      /* field 0 */
               {"\x80\x80\x80\x80\x10\x00", 6}};                     /* field 2^29 */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct pb_reader r = reader(bad[i].bytes, bad[i].size);
        struct pb_field f;
        assert_false(pb_next(&r, &f));
        assert_true(r.failed);
        assert_false(pb_next(&r, &f));
    }
}

/* Random bytes end, and never reach over the end (ASan watches: the bytes lie in their own block).
 */
static void test_random(void **state) {
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < 20000; round++) {
        size_t n = rng_next(&seed) % 64;
        uint8_t *bytes = malloc(n ? n : 1);
        for (size_t i = 0; i < n; i++)
            bytes[i] = (uint8_t)(rng_next(&seed) % (round % 2 ? 256 : 24));
        struct pb_reader r = reader(bytes, n);
        struct pb_field f;
        size_t fields = 0;
        while (pb_next(&r, &f)) {
            fields++;
            if (f.wire_type == 2)
                assert_true(f.bytes.data >= bytes &&
                            f.bytes.data + f.bytes.size_bytes <= bytes + n);
        }
        assert_true(fields <= n);
        ProtobufCMessage *m = rpc_unpack(&replog__v1__status_reply__descriptor, bytes, n, 4096);
        if (m) protobuf_c_message_free_unpacked(m, NULL);
        free(bytes);
    }
}

static void test_budget(void **state) {
    (void)state;
    /* 100,000 empty records: 200 KB on the wire, many times that in memory */
    size_t n = 200000;
    uint8_t *bytes = malloc(n);
    for (size_t i = 0; i < n; i += 2) {
        bytes[i] = 6 << 3 | 2;
        bytes[i + 1] = 0;
    }
    assert_null(rpc_unpack(&replog__v1__append_request__descriptor, bytes, n, 1024 * 1024));
    ProtobufCMessage *m =
        rpc_unpack(&replog__v1__append_request__descriptor, bytes, n, 64 * 1024 * 1024);
    assert_non_null(m);
    protobuf_c_message_free_unpacked(m, NULL);
    /* every budget up to what is needed fails cleanly */
    for (size_t budget = 0; budget < 3000; budget += 7) {
        m = rpc_unpack(&replog__v1__append_request__descriptor, bytes, 40, budget);
        if (m) protobuf_c_message_free_unpacked(m, NULL);
    }
    free(bytes);
}

static void test_timeouts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool ok;
        uint64_t ms;
    } cases[] = {{"1H", true, 3600000}, {"2M", true, 120000}, {"3S", true, 3000},
                 {"4m", true, 4},       {"1u", true, 1},      {"1500u", true, 2},
                 {"1n", true, 1},       {"0m", true, 0},      {"99999999H", true, 359999996400000},
                 {"", false, 0},        {"5", false, 0},      {"m", false, 0},
                 {"-1m", false, 0},     {"1x", false, 0},     {"123456789m", false, 0},
                 {"1 m", false, 0},     {"+1m", false, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t ms = 12345;
        assert_int_equal(timeout_parse((const uint8_t *)cases[i].text, strlen(cases[i].text), &ms),
                         cases[i].ok);
        if (cases[i].ok) assert_true(ms == cases[i].ms);
    }
    static const uint32_t values[] = {1, 999, 99999999, 100000000, UINT32_MAX};
    for (size_t i = 0; i < 5; i++) {
        char text[TIMEOUT_TEXT_BYTES];
        uint64_t ms = 0;
        timeout_format(values[i], text);
        assert_true(timeout_parse((const uint8_t *)text, strlen(text), &ms));
        assert_true(ms <= values[i] && values[i] - ms < 1000);
    }
}

static void test_messages(void **state) {
    (void)state;
    static const char *const texts[] = {"plain", "100 %", "a\nb\tc", "\xc3\xa4\xf0\x9f\x98\x80",
                                        ""};
    for (size_t i = 0; i < 5; i++) {
        char *encoded = message_encode(texts[i]);
        for (char *p = encoded; *p; p++) assert_in_range(*p, 0x20, 0x7e);
        char *decoded = message_decode((const uint8_t *)encoded, strlen(encoded));
        assert_string_equal(decoded, texts[i]);
        free(encoded);
        free(decoded);
    }
    static const char *const odd[][2] = {
        {"%", "%"}, {"%4", "%4"}, {"%zz", "%zz"}, {"%00x", "%00x"}, {"%41%", "A%"}};
    for (size_t i = 0; i < 5; i++) {
        char *decoded = message_decode((const uint8_t *)odd[i][0], strlen(odd[i][0]));
        assert_string_equal(decoded, odd[i][1]);
        free(decoded);
    }
}

static void test_addresses(void **state) {
    (void)state;
    static const char *const good[] = {"127.0.0.1:7401", "localhost:0", "node-1.example.org:65535",
                                       "[::1]:7401"};
    static const char *const bad[] = {"",      ":1",    "host",     "host:", "host:65536", "host:x",
                                      "a b:1", "a/b:1", "::1:7401", "[]:1",  "host:123456"};
    char url[300];
    for (size_t i = 0; i < 4; i++) assert_true(address_url(good[i], url, sizeof url));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(address_url(bad[i], url, sizeof url));
    assert_false(address_url(NULL, url, sizeof url));
    assert_false(address_url(good[2], url, 20));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_write_and_read), cmocka_unit_test(test_against_protobuf_c),
        cmocka_unit_test(test_malformed),      cmocka_unit_test(test_random),
        cmocka_unit_test(test_budget),         cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_messages),       cmocka_unit_test(test_addresses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

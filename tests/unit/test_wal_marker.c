/* What markers carry: round trips, and a refusal for every malformed value. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "wal/marker.h"

static struct config sample(uint32_t n_members) {
    struct config config = {.n_members = n_members};
    for (uint32_t i = 0; i < n_members; i++) {
        struct config_member *member = &config.members[i];
        member->id = 10 + i;
        member->incarnation = 0x1234567800000000u + i;
        member->role = i % 2 ? MEMBER_LEARNER : MEMBER_VOTER;
        snprintf(member->address, sizeof member->address, "127.0.0.1:%u", 7400 + i);
    }
    return config;
}

static struct slice encoded(const struct config *config, struct buffer *out) {
    buffer_clear(out);
    config_encode(config, out);
    assert_false(out->failed);
    return (struct slice){out->data, out->size_bytes};
}

static void checkpoints_go_round(void **state) {
    (void)state;
    uint8_t bytes[17] = {0};
    struct checkpoint_marker in = {.safe_seq = 0x0102030405060708u, .drop_upto = UINT64_MAX}, out;
    checkpoint_encode(&in, bytes);
    assert_int_equal(bytes[0], 8);
    assert_int_equal(checkpoint_decode((struct slice){bytes, 16}, &out, NULL), REPLOG_OK);
    assert_true(out.safe_seq == in.safe_seq && out.drop_upto == in.drop_upto);
    replog_error err;
    assert_int_equal(checkpoint_decode((struct slice){bytes, 15}, &out, &err), REPLOG_DATA_LOSS);
    assert_non_null(strstr(err.text, "15"));
    assert_int_equal(checkpoint_decode((struct slice){bytes, 17}, &out, &err), REPLOG_DATA_LOSS);
    assert_int_equal(checkpoint_decode((struct slice){NULL, 0}, &out, &err), REPLOG_DATA_LOSS);
}

static void configs_go_round(void **state) {
    (void)state;
    struct buffer bytes = {0};
    for (uint32_t n = 0; n <= CONFIG_MAX_MEMBERS; n++) {
        struct config in = sample(n), out;
        if (n) {
            memset(in.members[0].address, 'a', CONFIG_MAX_ADDRESS);
            in.members[0].address[CONFIG_MAX_ADDRESS] = '\0';
        }
        assert_int_equal(config_decode(encoded(&in, &bytes), &out, NULL), REPLOG_OK);
        assert_int_equal(out.n_members, n);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(out.members[i].id == in.members[i].id);
            assert_true(out.members[i].incarnation == in.members[i].incarnation);
            assert_int_equal(out.members[i].role, in.members[i].role);
            assert_string_equal(out.members[i].address, in.members[i].address);
        }
    }
    buffer_free(&bytes);
}

static void every_truncation_is_refused(void **state) {
    (void)state;
    struct buffer bytes = {0};
    struct config in = sample(3), out;
    struct slice all = encoded(&in, &bytes);
    for (size_t n = 0; n < all.size_bytes; n++) {
        /* An exact copy, so that a read past its end is seen. */
        uint8_t *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, all.data, n);
        uint8_t *exact = realloc(copy, n ? n : 1);
        assert_int_equal(config_decode((struct slice){exact, n}, &out, NULL), REPLOG_DATA_LOSS);
        free(exact);
    }
    buffer_u8(&bytes, 0);
    replog_error err;
    assert_int_equal(config_decode((struct slice){bytes.data, bytes.size_bytes}, &out, &err),
                     REPLOG_DATA_LOSS);
    assert_non_null(strstr(err.text, "1 bytes behind"));
    buffer_free(&bytes);
}

static void assert_refused(const struct config *config) {
    struct buffer bytes = {0};
    struct config out = sample(1);
    uint64_t before = out.members[0].id;
    assert_int_equal(config_decode(encoded(config, &bytes), &out, NULL), REPLOG_DATA_LOSS);
    assert_true(out.members[0].id == before);
    buffer_free(&bytes);
}

static void what_no_encoder_writes_is_refused(void **state) {
    (void)state;
    struct config config = sample(3);
    config.members[1].id = config.members[0].id;
    assert_refused(&config);
    config = sample(3);
    config.members[2].id = 1;
    assert_refused(&config);
    config = sample(1);
    config.members[0].id = 0;
    assert_refused(&config);
    config = sample(2);
    config.members[1].role = (enum member_role)2;
    assert_refused(&config);
    uint8_t too_many[4];
    put_u32(too_many, CONFIG_MAX_MEMBERS + 1);
    struct config out;
    assert_int_equal(config_decode((struct slice){too_many, 4}, &out, NULL), REPLOG_DATA_LOSS);
    struct buffer bytes = {0};
    config = sample(1);
    encoded(&config, &bytes);
    bytes.data[bytes.size_bytes - 3] = 0; /* inside the address */
    assert_int_equal(config_decode((struct slice){bytes.data, bytes.size_bytes}, &out, NULL),
                     REPLOG_DATA_LOSS);
    buffer_free(&bytes);
}

static void the_cluster_id_follows_ids_and_incarnations(void **state) {
    (void)state;
    struct config a = sample(3), b = sample(3);
    assert_true(config_cluster_id(&a) != 0);
    strcpy(b.members[1].address, "elsewhere:1");
    b.members[1].role = MEMBER_VOTER;
    assert_true(config_cluster_id(&a) == config_cluster_id(&b));
    b.members[1].incarnation++;
    assert_true(config_cluster_id(&a) != config_cluster_id(&b));
    b = sample(3);
    b.members[2].id++;
    assert_true(config_cluster_id(&a) != config_cluster_id(&b));
    b = sample(2);
    assert_true(config_cluster_id(&a) != config_cluster_id(&b));
    assert_ptr_equal(config_find(&a, 11), &a.members[1]);
    assert_null(config_find(&a, 13));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoints_go_round),
        cmocka_unit_test(configs_go_round),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(what_no_encoder_writes_is_refused),
        cmocka_unit_test(the_cluster_id_follows_ids_and_incarnations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

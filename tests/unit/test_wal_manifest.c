/* The identity of a directory: MANIFEST, VOTE, founding, and every way in which they can be wrong.
 */
#include "wal_world.h"

static void file_op(struct world *w, const char *from, const char *to) {
    const struct disk *disk = w->options.disk;
    replog_status status =
        to ? disk->rename(disk->ctx, from, to, &w->err) : disk->unlink(disk->ctx, from, &w->err);
    if (status) fail_msg("%s", w->err.text);
}

static struct config three_members(void) {
    struct config config = {.n_members = 3};
    for (uint64_t i = 0; i < 3; i++) {
        config.members[i].id = i + 1;
        config.members[i].incarnation = 100 + i;
        snprintf(config.members[i].address, sizeof config.members[i].address, "h%d:1", (int)i);
    }
    return config;
}

static void test_founding(void **state) {
    (void)state;
    struct world *w = world_new();
    w->options.member_id = 2;
    world_ok(w, world_open(w));
    assert_int_equal(wal_identity(w->wal).founding, WAL_EMPTY);
    assert_int_equal(wal_identity(w->wal).member_id, 2);
    struct config config = three_members(), got;
    wal_base_config(w->wal, &got);
    assert_int_equal(got.n_members, 0);
    world_ok(w, wal_found(w->wal, WAL_AGREED, 0, &config, &w->err));
    world_crash(w, DISK_LOSE_ALL, 1);
    assert_int_equal(wal_identity(w->wal).founding, WAL_AGREED);
    wal_base_config(w->wal, &got);
    assert_memory_equal(&got, &config, sizeof config);
    uint64_t cluster_id = config_cluster_id(&config);
    world_ok(w, wal_found(w->wal, WAL_FOUNDED, cluster_id, NULL, &w->err));
    world_fill(w, 1, 20, 5000);
    world_crash(w, DISK_LOSE_ALL, 1);
    world_check(w);
    assert_int_equal(wal_identity(w->wal).cluster_id, cluster_id);
    assert_int_equal(wal_identity(w->wal).incarnation, 77);
    /* A cluster id of 0 while the first segment was made does no harm; another one does. */
    world_ok(w, wal_found(w->wal, WAL_FOUNDED, cluster_id + 1, NULL, &w->err));
    wal_close(w->wal);
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    world_free(w);
}

static void test_other_member(void **state) {
    (void)state;
    struct world *w = world_new();
    w->options.member_id = 2;
    world_ok(w, world_open(w));
    wal_close(w->wal);
    w->options.member_id = 3;
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(w->err.text, "member 2"));
    assert_non_null(strstr(w->err.text, "member 3"));
    w->options.member_id = 0;
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    w->options.read_only = true; /* wal verify and wal dump */
    world_ok(w, world_open(w));
    assert_int_equal(wal_identity(w->wal).member_id, 2);
    struct wal_vote vote = {1, 1};
    assert_int_equal(wal_save_vote(w->wal, vote, &w->err), REPLOG_FAILED_PRECONDITION);
    assert_int_equal(wal_cut(w->wal, 0, &w->err), REPLOG_FAILED_PRECONDITION);
    world_free(w);
}

static void test_options(void **state) {
    (void)state;
    struct world *w = world_new();
    w->options.create = false;
    assert_int_equal(world_open(w), REPLOG_NOT_FOUND);
    w->options.create = true;
    w->options.read_only = true;
    assert_int_equal(world_open(w), REPLOG_NOT_FOUND);
    w->options.read_only = false;
    w->options.new_incarnation = 0;
    assert_int_equal(world_open(w), REPLOG_INVALID_ARGUMENT);
    w->options.new_incarnation = 5;
    w->options.segment_bytes = 65535;
    assert_int_equal(world_open(w), REPLOG_INVALID_ARGUMENT);
    w->options.segment_bytes = 65536;
    world_ok(w, world_open(w));
    world_free(w);
}

static void test_missing(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    world_fill(w, 1, 3, 10);
    wal_close(w->wal);
    file_op(w, "log/MANIFEST", "log/hidden");
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(w->err.text, "MANIFEST"));
    file_op(w, "log/hidden", "log/MANIFEST");
    file_op(w, "log/VOTE", "log/hidden");
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(w->err.text, "VOTE"));
    file_op(w, "log/hidden", "log/VOTE");
    world_ok(w, world_open(w));
    world_check(w);
    world_free(w);
}

/* A vote that was cast does not vanish because MANIFEST and segments did. */
static void test_stray_vote(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    wal_close(w->wal);
    file_op(w, "log/MANIFEST", NULL);
    world_ok(w, world_open(w)); /* as left by an interrupted making */
    struct wal_vote vote = {3, 1};
    world_ok(w, wal_save_vote(w->wal, vote, &w->err));
    wal_close(w->wal);
    file_op(w, "log/MANIFEST", NULL);
    assert_int_equal(world_open(w), REPLOG_FAILED_PRECONDITION);
    assert_non_null(strstr(w->err.text, "VOTE"));
    world_free(w);
}

static void test_making_cut_at_every_call(void **state) {
    (void)state;
    for (int loss = 0; loss < 3; loss++) {
        bool done = false;
        for (uint64_t call = 1; !done; call++) {
            struct world *w = world_new();
            disk_mem_cut_at(w->mem, call);
            done = world_open(w) == REPLOG_OK;
            wal_close(w->wal);
            disk_mem_crash(w->mem, (enum disk_mem_loss)loss, call);
            world_ok(w, world_open(w));
            world_fill(w, 1, 3, 10);
            world_crash(w, DISK_LOSE_ALL, 1);
            world_check(w);
            world_free(w);
        }
    }
}

static void test_damaged_manifest(void **state) {
    (void)state;
    struct world *w = world_new();
    w->options.member_id = 1;
    world_ok(w, world_open(w));
    struct config config = three_members();
    world_ok(w, wal_found(w->wal, WAL_AGREED, 0, &config, &w->err));
    wal_close(w->wal);
    uint64_t offset = 0;
    while (disk_mem_damage(w->mem, "log/MANIFEST", offset, 0x40) == REPLOG_OK) {
        assert_int_equal(world_open(w), REPLOG_DATA_LOSS);
        assert_non_null(strstr(w->err.text, "log/MANIFEST: offset "));
        disk_mem_damage(w->mem, "log/MANIFEST", offset++, 0x40);
    }
    assert_true(offset > 140);
    const struct disk *disk = w->options.disk;
    for (uint64_t size = 0; size <= offset + 1; size++) {
        struct disk_file *file;
        uint8_t content[512];
        size_t got;
        if (size == offset) continue;
        assert_int_equal(disk->open(disk->ctx, "log/MANIFEST", DISK_WRITE, &file, NULL), REPLOG_OK);
        assert_int_equal(disk->read(file, content, sizeof content, 0, &got, NULL), REPLOG_OK);
        assert_int_equal(disk->resize(file, size, NULL), REPLOG_OK);
        assert_int_equal(world_open(w), REPLOG_DATA_LOSS);
        assert_non_null(strstr(w->err.text, "log/MANIFEST: offset "));
        struct iovec piece = {content, got};
        assert_int_equal(disk->resize(file, got, NULL), REPLOG_OK);
        assert_int_equal(disk->write(file, &piece, 1, 0, NULL), REPLOG_OK);
        disk->close(file);
    }
    world_ok(w, world_open(w));
    world_free(w);
}

/* ---- Votes */
static void test_votes(void **state) {
    (void)state;
    struct world *w = world_new();
    w->options.member_id = 1;
    world_ok(w, world_open(w));
    assert_int_equal(wal_vote(w->wal).term, 0);
    struct wal_vote vote = {4, 0};
    world_ok(w, wal_save_vote(w->wal, vote, &w->err));
    vote.voted_for = 2;
    world_ok(w, wal_save_vote(w->wal, vote, &w->err));
    vote.voted_for = 3; /* twice in one term */
    assert_int_equal(wal_save_vote(w->wal, vote, &w->err), REPLOG_FAILED_PRECONDITION);
    vote.term = 3;
    assert_int_equal(wal_save_vote(w->wal, vote, &w->err), REPLOG_FAILED_PRECONDITION);
    world_crash(w, DISK_LOSE_ALL, 1);
    assert_int_equal(wal_vote(w->wal).term, 4);
    assert_int_equal(wal_vote(w->wal).voted_for, 2);
    world_free(w);
}

static void test_damaged_vote(void **state) {
    (void)state;
    struct world *w = world_new();
    world_ok(w, world_open(w));
    struct wal_vote vote = {7, 1};
    world_ok(w, wal_save_vote(w->wal, vote, &w->err));
    for (uint64_t offset = 0; offset < 8192; offset += offset % 4096 < 100 ? 1 : 97) {
        wal_close(w->wal);
        assert_int_equal(disk_mem_damage(w->mem, "log/VOTE", offset, 4), REPLOG_OK);
        world_ok(w, world_open(w)); /* the other slot has it, and this one is repaired */
        assert_int_equal(wal_vote(w->wal).term, 7);
        wal_close(w->wal);
        assert_int_equal(disk_mem_damage(w->mem, "log/VOTE", (offset + 4096) % 8192, 4), REPLOG_OK);
        world_ok(w, world_open(w));
        assert_int_equal(wal_vote(w->wal).term, 7);
    }
    wal_close(w->wal);
    disk_mem_damage(w->mem, "log/VOTE", 40, 4);
    disk_mem_damage(w->mem, "log/VOTE", 4096 + 40, 4);
    assert_int_equal(world_open(w), REPLOG_DATA_LOSS);
    assert_non_null(strstr(w->err.text, "log/VOTE: offset 0"));
    world_free(w);
}

/* A vote that was answered for is never forgotten, even when one slot rots after a crash. */
static void test_vote_cut_at_every_call(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        bool done = false;
        for (uint64_t call = 1; !done; call++) {
            struct world *w = world_new();
            world_ok(w, world_open(w));
            struct wal_vote vote = {1, 1};
            world_ok(w, wal_save_vote(w->wal, vote, &w->err));
            disk_mem_cut_at(w->mem, disk_mem_calls(w->mem) + call);
            vote = (struct wal_vote){2, 3};
            done = wal_save_vote(w->wal, vote, &w->err) == REPLOG_OK;
            wal_close(w->wal);
            disk_mem_crash(w->mem, seed ? DISK_LOSE_RANDOM : DISK_LOSE_ALL, seed);
            if (done) disk_mem_damage(w->mem, "log/VOTE", (seed % 2) * 4096 + 33, 1);
            world_ok(w, world_open(w));
            vote = wal_vote(w->wal);
            assert_true(vote.term == 2 || (!done && vote.term == 1));
            assert_int_equal(vote.voted_for, vote.term == 2 ? 3 : 1);
            world_crash(w, DISK_LOSE_ALL, 1);
            assert_int_equal(wal_vote(w->wal).term, vote.term);
            world_free(w);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_founding),         cmocka_unit_test(test_other_member),
        cmocka_unit_test(test_options),          cmocka_unit_test(test_missing),
        cmocka_unit_test(test_stray_vote),       cmocka_unit_test(test_making_cut_at_every_call),
        cmocka_unit_test(test_damaged_manifest), cmocka_unit_test(test_votes),
        cmocka_unit_test(test_damaged_vote),     cmocka_unit_test(test_vote_cut_at_every_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

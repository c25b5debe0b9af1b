/* Flags, the configuration file, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "server/options.h"

static replog_error err;
static char file_path[] = "/tmp/test_server_options_XXXXXX";

static enum options_outcome parse(struct options *o, ...) {
    char *argv[32] = {(char *)(uintptr_t) "replogd"};
    int argc = 1;
    va_list args;
    va_start(args, o);
    for (char *arg; (arg = va_arg(args, char *)) != NULL;) argv[argc++] = arg;
    va_end(args);
    memset(&err, 0, sizeof err);
    return options_parse(argc, argv, o, &err);
}
#define MINIMUM "--id", "2", "--cluster", "3=c:3,1=127.0.0.1:1,2=127.0.0.1:2", "--dir", "d"

static void write_file(const char *text) {
    FILE *f = fopen(file_path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    assert_int_equal(fclose(f), 0);
}

static void assert_refused(enum options_outcome outcome, const char *words) {
    assert_int_equal(outcome, OPTIONS_REFUSED);
    if (!strstr(err.text, words)) fail_msg("\"%s\" does not say \"%s\"", err.text, words);
}

static void defaults_follow_from_the_minimum(void **state) {
    (void)state;
    struct options o;
    assert_int_equal(parse(&o, MINIMUM, NULL), OPTIONS_RUN);
    assert_int_equal(o.id, 2);
    assert_string_equal(o.listen, "127.0.0.1:2");
    assert_int_equal(o.cluster.n_members, 3);
    assert_int_equal(o.cluster.members[0].id, 1); /* ascending, whatever the order given */
    assert_int_equal(o.cluster.members[2].id, 3);
    assert_string_equal(o.cluster.members[2].address, "c:3");
    assert_int_equal(o.segment_bytes, 64 << 20);
    assert_int_equal(o.reserve_bytes, 2 * (16 << 20) + 2 * (64 << 20));
    assert_int_equal(o.sync, REPLOG_SYNC_ALWAYS);
    assert_true(o.scrub);
    assert_false(o.insecure);
}

static void flags_are_taken(void **state) {
    (void)state;
    struct options o;
    assert_int_equal(parse(&o, MINIMUM, "--segment-bytes", "1M", "--sync=batch", "--http",
                           "localhost:99", "--retain-bytes", "3g", "--log-level", "debug",
                           "--scrub", "off", "--scrub-start-ms", "5", NULL),
                     OPTIONS_RUN);
    assert_int_equal(o.segment_bytes, 1 << 20);
    assert_int_equal(o.sync, REPLOG_SYNC_BATCH);
    assert_int_equal(o.retain_bytes, 3ull << 30);
    assert_int_equal(o.log_level, LOG_DEBUG);
    assert_string_equal(o.http, "localhost:99");
    assert_false(o.scrub);
    assert_int_equal(o.scrub_start_ms, 5);
}

static void the_file_gives_way_to_flags(void **state) {
    (void)state;
    struct options o;
    write_file("# a comment\n[replogd]\nid = 1\nsync = none ; told by the file\n"
               "cluster = 1=127.0.0.1:1,\n  2=127.0.0.1:2,\n  3=127.0.0.1:3\n"
               "dir = /data\nelection-ms = 700\ninsecure = yes\nlisten = 0.0.0.0:5\n");
    assert_int_equal(parse(&o, "--sync", "batch", "--config", file_path, NULL), OPTIONS_RUN);
    assert_int_equal(o.id, 1);
    assert_int_equal(o.cluster.n_members, 3);
    assert_int_equal(o.sync, REPLOG_SYNC_BATCH);
    assert_int_equal(o.election_ms, 700);
    assert_string_equal(o.dir, "/data");
    assert_string_equal(o.listen, "0.0.0.0:5");
    assert_int_equal(parse(&o, "--config", file_path, "--cluster", "1=h:1", NULL), OPTIONS_RUN);
    assert_int_equal(o.cluster.n_members, 1); /* replaced, not added to */
}

static void file_errors_name_line_and_key(void **state) {
    (void)state;
    struct options o;
    const struct {
        const char *text, *words;
    } cases[] = {
        {"[replogd]\nid = 1\nsegmnt_bytes = 1M\n", ":3: unknown key \"segmnt_bytes\""},
        {"[other]\nid = 1\n", "section [other]"},
        {"[replogd]\nid = x\n", ":2: id: \"x\" is not a number"},
        {"[replogd]\nid = 1\nid = 2\n", ":3: \"id\" is given twice"},
        {"[replogd]\nnonsense\n", ":2: neither"},
        {"[replogd]\nsegment_bytes = 12Q\n", "is not a size"},
        {"[replogd]\nsegment_bytes = 1K\n", "outside 65536"},
        {"[replogd]\ncluster = 1=127.0.0.1\n", "not of the form ID=HOST:PORT"},
        {"[replogd]\nscrub = perhaps\n", "is none of on|off"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(cases[i].text);
        assert_refused(parse(&o, "--config", file_path, NULL), cases[i].words);
    }
    char line[600] = "[replogd]\ndir = ";
    memset(line + strlen(line), 'x', 400);
    write_file(line);
    assert_refused(parse(&o, "--config", file_path, NULL), ":2: the line is longer than");
    assert_refused(parse(&o, "--config", "/nowhere/at/all", NULL), "/nowhere/at/all");
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    struct options o;
    assert_refused(parse(&o, "--id", "1", "--dir", "d", NULL), "--cluster is missing");
    assert_refused(parse(&o, "--cluster", "1=a:1", "--dir", "d", NULL), "--id is missing");
    assert_refused(parse(&o, "--id", "1", "--cluster", "1=localhost:1", NULL), "--dir is missing");
    assert_refused(parse(&o, "--id", "4", "--cluster", "1=a:1", "--dir", "d", NULL),
                   "does not name member 4");
    assert_refused(parse(&o, "--id", "1", "--cluster", "1=a:1,1=b:1", "--dir", "d", NULL), "twice");
    assert_refused(parse(&o, "--id", "1", "--cluster", "1=a:1,2=a:1", "--dir", "d", NULL), "twice");
    assert_refused(parse(&o, "--id", "1", "--cluster", "1=a:0", "--dir", "d", NULL), "HOST:PORT");
    assert_refused(parse(&o, "--id", "1", "--cluster", "1=a:70000", NULL), "HOST:PORT");
    assert_refused(parse(&o, "--id", "0", NULL), "outside 1");
    assert_refused(parse(&o, "--id", "-3", NULL), "is not a number");
    assert_refused(parse(&o, "--id", "99999999999999999999", NULL), "is not a number");
    assert_refused(parse(&o, MINIMUM, "--frob", NULL), "unknown flag --frob");
    assert_refused(parse(&o, MINIMUM, "--http", NULL), "--http needs a value");
    assert_refused(parse(&o, MINIMUM, "stray", NULL), "\"stray\" is not a flag");
    assert_refused(parse(&o, MINIMUM, "--sync", "often", NULL), "none of sync|batch|none");
    assert_refused(parse(&o, MINIMUM, "--heartbeat-ms", "400", NULL), "twice heartbeat_ms");
}

static void only_loopback_without_insecure(void **state) {
    (void)state;
    struct options o;
    const char *open[] = {"0.0.0.0:1", "10.0.0.1:1", "[::]:1", "example:1", "127.evil.example:1"};
    const char *shut[] = {"127.0.0.1:1", "localhost:1", "[::1]:1", "127.8.9.1:1"};
    for (size_t i = 0; i < 5; i++) {
        assert_refused(parse(&o, MINIMUM, "--listen", open[i], NULL), "--insecure");
        assert_refused(parse(&o, MINIMUM, "--http", open[i], NULL), "--insecure");
        assert_int_equal(parse(&o, MINIMUM, "--listen", open[i], "--insecure", NULL), OPTIONS_RUN);
    }
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(parse(&o, MINIMUM, "--listen", shut[i], NULL), OPTIONS_RUN);
    }
    assert_refused(parse(&o, MINIMUM, "--listen", "::1:1", NULL), "HOST:PORT");
}

static void sizes_do_not_overflow(void **state) {
    (void)state;
    uint64_t v;
    assert_int_equal(options_parse_size("0", &v, NULL), REPLOG_OK);
    assert_int_equal(options_parse_size("17179869183G", &v, NULL), REPLOG_OK);
    assert_int_equal(options_parse_size("17179869184G", &v, NULL), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(options_parse_size("1KB", &v, NULL), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(options_parse_size("", &v, NULL), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(options_parse_size("-1", &v, NULL), REPLOG_INVALID_ARGUMENT);
}

static void at_most_fifteen_members(void **state) {
    (void)state;
    struct config c = {0};
    char text[400] = "";
    for (int i = 1; i <= 15; i++) {
        (void)snprintf(text + strlen(text), sizeof text - strlen(text), "%s%d=h:%d",
                       i > 1 ? "," : "", i, i);
    }
    assert_int_equal(options_parse_cluster(text, &c, &err), REPLOG_OK);
    assert_int_equal(c.n_members, 15);
    assert_int_equal(options_parse_cluster("16=h:16", &c, &err), REPLOG_INVALID_ARGUMENT);
    assert_int_equal(c.n_members, 15);
}

static int make_file(void **state) {
    (void)state;
    int fd = mkstemp(file_path);
    return fd < 0 ? -1 : close(fd);
}
static int remove_file(void **state) {
    (void)state;
    return unlink(file_path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_follow_from_the_minimum),
        cmocka_unit_test(flags_are_taken),
        cmocka_unit_test(the_file_gives_way_to_flags),
        cmocka_unit_test(file_errors_name_line_and_key),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(only_loopback_without_insecure),
        cmocka_unit_test(sizes_do_not_overflow),
        cmocka_unit_test(at_most_fifteen_members),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}

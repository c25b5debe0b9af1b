/* replogd's configuration file and flags (server/options.c). Byte 0: the number of flags, which
 * come first, each ended by a NUL; the rest is the file. What is accepted keeps the limits; what is
 * not is told. */
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "server/options.h"

enum { MAX_FLAGS = 24 };

/* A file in memory, by its path. */
static int make_file(const uint8_t *data, size_t size_bytes, char path[64]) {
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    CHECK(fd >= 0 && (size_bytes == 0 || write(fd, data, size_bytes) == (ssize_t)size_bytes));
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

static void within(uint64_t v, uint64_t low, uint64_t high) {
    CHECK(v >= low && v <= high);
}

/* A number that the file may have said, or 0 where it has not. */
static void said(uint64_t v, uint64_t low, uint64_t high) {
    if (v) within(v, low, high);
}

static void check_file(const struct options *o) {
    said(o->segment_bytes, 64 << 10, 1 << 30);
    said(o->pool_segments, 1, 64);
    said(o->heartbeat_ms, 10, 10000);
    said(o->election_ms, 50, 60000);
    said(o->stall_ms, 100, 60000);
    said(o->peer_window_bytes, 64 << 10, 256 << 20);
    said(o->tail_bytes, 64 << 10, 256 << 20);
    said(o->pending_bytes, 4 << 20, 256 << 20);
    said(o->max_connections, 8, 65536);
    CHECK(memchr(o->dir, 0, sizeof o->dir) && memchr(o->listen, 0, sizeof o->listen));
    CHECK(memchr(o->http, 0, sizeof o->http) && o->cluster.n_members <= CONFIG_MAX_MEMBERS);
}

static void check_options(const struct options *o) {
    char host[OPTIONS_ADDRESS_BYTES];
    uint16_t port;
    bool self = false;
    for (uint32_t i = 0; i < o->cluster.n_members; i++) {
        self |= o->cluster.members[i].id == o->id;
        CHECK(i == 0 || o->cluster.members[i].id > o->cluster.members[i - 1].id);
    }
    CHECK(self && o->cluster.n_members <= CONFIG_MAX_MEMBERS && o->dir[0]);
    CHECK(memchr(o->dir, 0, sizeof o->dir) && memchr(o->listen, 0, sizeof o->listen));
    CHECK(options_split_address(o->listen, host, &port));
    CHECK(o->insecure || options_is_loopback(o->listen));
    CHECK(!o->http[0] || o->insecure || options_is_loopback(o->http));
    within(o->segment_bytes, 64 << 10, 1 << 30);
    within(o->pool_segments, 1, 64);
    within(o->heartbeat_ms, 10, 10000);
    within(o->election_ms, 2 * o->heartbeat_ms, 60000);
    within(o->peer_window_bytes, 64 << 10, 256 << 20);
    within(o->tail_bytes, 64 << 10, 256 << 20);
    within(o->pending_bytes, 4 << 20, 256 << 20);
    within(o->max_connections, 8, 65536);
    within((uint64_t)o->sync, 0, 2);
    within((uint64_t)o->log_level, LOG_DEBUG, LOG_ERROR);
    CHECK(o->reserve_bytes > 0);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    CHECK(freopen("/dev/null", "w", stdout) != NULL); /* --help */
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    char *argv[MAX_FLAGS + 3], path[64];
    int argc = 0, n = fuzz_u8(&f) % MAX_FLAGS;
    bool config = false;
    argv[argc++] = fuzz_text((const uint8_t *)"replogd", 7);
    for (int i = 0; i < n && f.left > 0; i++) {
        const uint8_t *end = memchr(f.data, 0, f.left);
        struct slice flag = fuzz_bytes(&f, end ? (size_t)(end - f.data) : f.left);
        fuzz_u8(&f);
        char *text = fuzz_text(flag.data, flag.size_bytes);
        /* never a file of this machine's */
        if (strncmp(text, "--co", 4) == 0 || strcmp(text, "--c") == 0) {
            config = true;
            free(text);
        } else {
            argv[argc++] = text;
        }
    }
    int fd = make_file(f.data, f.left, path);
    struct options o;
    replog_error err = {0};
    memset(&o, 0xaa, sizeof o);
    if (config) {
        char flag[80];
        snprintf(flag, sizeof flag, "--config=%s", path);
        argv[argc++] = fuzz_text((const uint8_t *)flag, strlen(flag));
    }
    argv[argc] = NULL;
    enum options_outcome outcome = options_parse(argc, argv, &o, &err);
    if (outcome == OPTIONS_RUN) check_options(&o);
    CHECK(outcome != OPTIONS_REFUSED || err.text[0]);
    struct options plain = {0};
    replog_status status = options_read_file(path, &plain, &err);
    if (status == REPLOG_OK) check_file(&plain);
    CHECK(status == REPLOG_OK || (status == REPLOG_INVALID_ARGUMENT && strstr(err.text, path)));
    close(fd);
    while (argc > 0) free(argv[--argc]);
    return 0;
}

/* The file of `replog append --file` (client/cli_append.c, whose parser is its own): byte 0 is
 * --batch, the rest the file. The records that are sent are the lines, in order, in batches of that
 * size. */
#include "client/cli_append.c"
#include "client/lib_internal.h"
#include "fuzz.h"

static struct {
    const uint8_t *data; /* of the file: what is expected next */
    size_t left, lines;
    size_t batch, batches;
    bool short_batch; /* one came: it must be the last */
} expected;

static struct slice next_line(void) {
    const uint8_t *end = expected.left ? memchr(expected.data, '\n', expected.left) : NULL;
    size_t n = end ? (size_t)(end - expected.data) : expected.left;
    struct slice line = {expected.data, n};
    n += end != NULL;
    expected.data += n;
    expected.left -= n;
    expected.lines++;
    return line;
}

static void check_record(struct slice bytes) {
    struct pb_reader r = {.data = bytes.data, .end = bytes.data + bytes.size_bytes};
    struct pb_field f;
    struct slice key = {0}, value = {0};
    while (pb_next(&r, &f)) {
        if (f.number == 2) key = f.bytes;
        if (f.number == 3) value = f.bytes;
        if (f.number == 1) CHECK(f.value == REPLOG_OP_PUT);
    }
    CHECK(!r.failed && expected.left > 0);
    struct slice line = next_line();
    const uint8_t *tab = line.size_bytes ? memchr(line.data, '\t', line.size_bytes) : NULL;
    size_t key_bytes = tab ? (size_t)(tab - line.data) : 0, skip = tab ? key_bytes + 1 : 0;
    CHECK(key.size_bytes == key_bytes && value.size_bytes == line.size_bytes - skip);
    CHECK(key_bytes == 0 || memcmp(key.data, line.data, key_bytes) == 0);
    CHECK(value.size_bytes == 0 || memcmp(value.data, line.data + skip, value.size_bytes) == 0);
}

replog_status replog_append_async(replog_client *client, const replog_batch *batch,
                                  const replog_append_options *options, replog_append_fn fn,
                                  void *user, replog_error *err) {
    (void)client;
    (void)err;
    size_t n = 0;
    struct blob *blob = client_batch_encode(batch);
    CHECK(blob && !expected.short_batch);
    struct pb_reader r = {.data = blob->data, .end = blob->data + blob->size_bytes};
    struct pb_field f;
    for (; pb_next(&r, &f); n++) check_record(f.bytes);
    CHECK(!r.failed && n > 0 && n <= expected.batch && n == replog_batch_count(batch));
    CHECK(options->single == (expected.batch == 1));
    expected.short_batch = n < expected.batch;
    expected.batches++;
    blob_unref(blob);
    replog_append_result result = {.first_seq = 1, .last_seq = n};
    fn(user, REPLOG_OK, &result, NULL);
    return REPLOG_OK;
}

/* What else the command line takes from the library. */
replog_status replog_append(replog_client *client, const replog_batch *batch,
                            const replog_append_options *options, replog_append_result *result,
                            replog_error *err) {
    (void)client;
    (void)batch;
    (void)options;
    (void)result;
    (void)err;
    abort();
}
replog_status replog_flush(replog_client *client, uint32_t timeout_ms, replog_error *err) {
    (void)client;
    (void)timeout_ms;
    (void)err;
    return REPLOG_OK;
}
replog_status replog_client_open(const char *endpoints, const replog_client_options *options,
                                 replog_client **client, replog_error *err) {
    (void)endpoints;
    (void)options;
    (void)client;
    (void)err;
    return REPLOG_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    struct cli cli = {0};
    struct append_cmd cmd = {.cli = &cli, .batch = 1 + fuzz_u8(&f) % 64u};
    if (f.left == 0) return 0; /* fmemopen wants a byte */
    expected.data = f.data;
    expected.left = f.left;
    expected.batch = cmd.batch;
    expected.lines = expected.batches = 0;
    expected.short_batch = false;
    struct transfer t = {.mu = PTHREAD_MUTEX_INITIALIZER, .cmd = &cmd, .batch = replog_batch_new()};
    FILE *in = fmemopen((void *)f.data, f.left, "r");
    CHECK(in && t.batch);
    read_lines(&t, in);
    CHECK(!t.failed && expected.left == 0);
    CHECK(t.line == expected.lines && t.records == expected.lines && t.batches == expected.batches);
    fclose(in);
    replog_batch_free(t.batch);
    buffer_free(&t.out);
    return 0;
}

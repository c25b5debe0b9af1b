/* What a node answers to the client library: append replies on a stream (client/lib_stream.c), and
 * the chunks of a Read (client/lib_reader.c, whose decoder is its own), printed as the command line
 * does. Byte 0: which.
 *
 * An answer moves the lane by one append or ends the call; records come in order of seq; every
 * printed line is one JSON object in UTF-8. */
#include "client/cli.h"
#include "client/json.h"
#include "client/lib_reader.c"
#include "fuzz.h"

enum { SLOTS = 8 };

/* ---- Append replies */

static void on_answer(void *user, replog_status status, const replog_append_result *result,
                      const replog_error *error) {
    CHECK(!user && status == REPLOG_OK && result && error);
}

static void appends(struct fuzz *f) {
    static struct client_append ring[SLOTS];
    replog_client c = {
        .capacity = SLOTS, .leader = -1, .n_endpoints = 1, .in_flight = SLOTS, .unanswered = SLOTS};
    struct client_lane *lane = &c.lanes[0];
    struct client_call call = {.client = &c, .lane = lane, .kind = CALL_STREAM};
    pthread_mutex_init(&c.mu, NULL);
    client_cond_init(&c.work);
    client_cond_init(&c.room);
    client_cond_init(&c.changed);
    memset(ring, 0, sizeof ring);
    uint8_t kind = fuzz_u8(f);
    for (uint64_t i = 0; i < SLOTS; i++) {
        ring[i].fn = on_answer;
        ring[i].numbered = kind & 1;
        ring[i].sequence = kind & 1 ? i + 1 : 0;
    }
    *lane = (struct client_lane){.client = &c,
                                 .ring = ring,
                                 .cursor = SLOTS,
                                 .tail = SLOTS,
                                 .session = 9,
                                 .base = 1,
                                 .next_sequence = SLOTS + 1,
                                 .call = &call};
    while (f->left > 0 && !call.closed) {
        struct slice bytes = fuzz_bytes(f, fuzz_u8(f));
        uint8_t *exact = fuzz_exact(bytes.data, bytes.size_bytes);
        uint64_t before = lane->reply;
        client_stream_message_locked(&call, exact, bytes.size_bytes);
        free(exact);
        CHECK(lane->reply <= lane->cursor && lane->reply <= before + 1);
        CHECK((lane->reply == before) == call.closed);
        if (call.closed) continue;
        const replog_append_result *r = &ring[before].result;
        CHECK(ring[before].done && ring[before].status == REPLOG_OK);
        CHECK(r->first_seq > 0 && r->last_seq >= r->first_seq && r->n_durable_on <= 16);
    }
    pthread_cond_destroy(&c.work);
    pthread_cond_destroy(&c.room);
    pthread_cond_destroy(&c.changed);
    pthread_mutex_destroy(&c.mu);
}

/* ---- JSON, as strict as its readers */

struct json {
    const char *at, *end;
};

static bool json_value(struct json *j, int depth);

static bool json_text(struct json *j) {
    if (j->at == j->end || *j->at++ != '"') return false;
    while (j->at < j->end && *j->at != '"') {
        if ((unsigned char)*j->at < 0x20) return false;
        if (*j->at == '\\') {
            if (++j->at == j->end || !strchr("\"\\/bfnrtu", *j->at)) return false;
            for (int i = 0; *j->at == 'u' && i < 4; i++)
                if (j->at + i + 1 >= j->end || !strchr("0123456789abcdef", j->at[i + 1]))
                    return false;
            if (*j->at == 'u') j->at += 4;
        }
        j->at++;
    }
    return j->at < j->end && *j->at++ == '"';
}

static bool json_list(struct json *j, char end, bool named, int depth) {
    j->at++;
    if (j->at < j->end && *j->at == end) return j->at++, true;
    for (;;) {
        if (named && (!json_text(j) || j->at == j->end || *j->at++ != ':')) return false;
        if (!json_value(j, depth + 1) || j->at == j->end) return false;
        char c = *j->at++;
        if (c == end) return true;
        if (c != ',') return false;
    }
}

static bool json_value(struct json *j, int depth) {
    if (j->at == j->end || depth > 4) return false;
    if (*j->at == '{') return json_list(j, '}', true, depth);
    if (*j->at == '[') return json_list(j, ']', false, depth);
    if (*j->at == '"') return json_text(j);
    const char *begin = j->at;
    while (j->at < j->end && *j->at >= '0' && *j->at <= '9') j->at++;
    return j->at > begin;
}

static void print(const replog_entry *e) {
    struct buffer line = {0};
    cli_entry(&line, e, true);
    struct json j = {(const char *)line.data, (const char *)line.data + line.size_bytes};
    bool object = !line.failed && *j.at == '{' && json_value(&j, 0) && j.at == j.end;
    if (!object) fprintf(stderr, "no JSON object: %.*s\n", (int)line.size_bytes, (char *)line.data);
    CHECK(object && json_is_utf8(line.data, line.size_bytes));
    buffer_clear(&line);
    cli_entry(&line, e, false);
    CHECK(!line.failed);
    buffer_free(&line);
}

/* ---- Read */

static void records(struct fuzz *f) {
    replog_client c = {0};
    uint8_t kind = fuzz_u8(f);
    struct replog_reader r = {.client = &c};
    r.options = (replog_read_options){.markers = kind & 1, .to_seq = kind & 2 ? 1000 : 0};
    r.next_seq = kind & 4 ? 10 : 0;
    while (f->left > 0 && !r.ended) {
        struct slice bytes = fuzz_bytes(f, fuzz_u16(f) % 1024);
        uint8_t *exact = fuzz_exact(bytes.data, bytes.size_bytes);
        replog_entry e;
        r.at = (struct pb_reader){.data = exact, .end = exact + bytes.size_bytes};
        r.chunk_next = 0;
        for (uint64_t before = r.next_seq; next_in_chunk(&r, &e); before = r.next_seq) {
            CHECK(e.seq >= before && e.seq > 0 && r.next_seq == e.seq + 1);
            CHECK(!r.options.to_seq || e.seq <= r.options.to_seq);
            CHECK(!r.options.markers || before == 0 || e.seq == before);
            print(&e);
        }
        free(exact);
    }
    CHECK(!r.ended || r.end.text[0]);
    buffer_free(&r.members);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    struct fuzz f = {data, size_bytes};
    if (fuzz_u8(&f) & 1)
        appends(&f);
    else
        records(&f);
    return 0;
}

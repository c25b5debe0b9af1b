/* malloc_serve: replogd's own handlers (append.c, log_service.c, read_service.c, status_service.c),
 * the node and rpc beneath them, under failing allocations while they serve one client:
 * tests/stage/node_stage.h. Of peers.c and peer_codec.c what decodes and refuses; members that talk
 * to each other are malloc_fail.py's test_a_member_of_three, which cannot see leaks. nng is a
 * stand-in, which says NNG_ENOMEM as nng does.
 * Scenario "services": what replog's own code asks for fails, and what it asks of protobuf-c (whose
 * messages rpc_unpack allocates). "sessions": what nghttp2 asks for in a server's session, too.
 *
 * Each run is a process of its own, for a server that has no memory for what it must not lose ends.
 * What must hold: every call ends, with an answer that is true (acknowledged: it is there, at that
 * place; refused: it is not) or a failure that memory can bring; or the process stops and says why,
 * and what it had acknowledged is in its files. Then, with memory, the same server serves; and when
 * all is closed nothing is left that an undisturbed life does not leave. */
#include <inttypes.h>
#include <nghttp2/nghttp2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "malloc_caller.h"
#include "malloc_fail.h"
#include "node_stage.h"
#include "server/peer_codec.h"
#include "wal/log.h"

enum {
    MAX_UNITS = 48,
    ATTEMPTS = 4, /* one allocation fails, and it may take the connection with it */
    LONG_BYTES = 40000,
    UNFAIR = 3 /* exit status: something was wrong, and was told */
};

/* ---- What outlives a run's process */

enum state { MAYBE, IN, NOT_IN };
struct unit {
    char value[16]; /* what its value begins with */
    enum state state;
    uint64_t seq;
    unsigned found;
};
static struct life {
    struct unit units[MAX_UNITS];
    unsigned n_units;
    uint64_t outstanding; /* at the end of an undisturbed life */
    char last_word[300];
} * life;

static void keep_last_word(enum log_level level, const char *text) {
    if (level == LOG_ERROR) (void)snprintf(life->last_word, sizeof life->last_word, "%s", text);
}

/* ---- Judging an answer */

static bool is_fair(replog_status status) {
    return status == REPLOG_OK || status == REPLOG_RESOURCE_EXHAUSTED ||
           status == REPLOG_UNAVAILABLE || status == REPLOG_DEADLINE_EXCEEDED ||
           status == REPLOG_CANCELLED;
}

/* nghttp2's sessions use this program's malloc, and fail with it. */
static bool sessions_fail;

/* The call's answer; false: it failed. It may have to be asked for again. */
static bool call(const char *path, const struct buffer *requests, struct caller_answer *a) {
    caller_call(path, requests, a);
    EXPECT(a->ended, "%s: no answer, and no end of its connection", path);
    EXPECT(is_fair(a->status), "%s: %s: %s", path, replog_status_name(a->status), a->text);
    return a->status == REPLOG_OK;
}

/* A field of a message: its number and its bytes. */
static struct slice field_bytes(struct slice message, uint32_t number) {
    struct pb_reader r = {.data = message.data, .end = message.data + message.size_bytes};
    struct pb_field f;
    struct slice found = {0};
    while (pb_next(&r, &f))
        if (f.number == number) found = f.bytes;
    return found;
}
static uint64_t field(struct slice message, uint32_t number) {
    struct pb_reader r = {.data = message.data, .end = message.data + message.size_bytes};
    struct pb_field f;
    uint64_t found = 0;
    while (pb_next(&r, &f))
        if (f.number == number) found = f.value;
    return found;
}

/* A unary call with a request without content, or with one number in field 1. Its reply, valid
 * until the answer is freed; false after ATTEMPTS. */
static bool ask(const char *path, const struct buffer *message, struct caller_answer *a,
                struct slice *reply) {
    for (int i = 0; i < ATTEMPTS; i++) {
        struct buffer requests = {0};
        size_t at = 0;
        caller_add(&requests, message);
        bool ok = call(path, &requests, a);
        buffer_free(&requests);
        if (ok) {
            bool whole = caller_next(a, &at, reply) && at == a->messages.size_bytes;
            EXPECT(whole, "%s: OK, and no reply or more than one", path);
            if (whole) return true;
        }
        buffer_free(&a->messages);
    }
    EXPECT(false, "%s: never answered", path);
    return false;
}

/* ---- Appends */

static struct unit *unit_new(void) {
    struct unit *u = &life->units[life->n_units++];
    *u = (struct unit){.state = MAYBE};
    (void)snprintf(u->value, sizeof u->value, "value-%02u", life->n_units);
    return u;
}

static void put_append(struct buffer *requests, const struct unit *u, uint64_t session,
                       uint64_t sequence, size_t value_bytes) {
    static char value[LONG_BYTES];
    struct buffer record = {0}, append = {0};
    memset(value, 'v', sizeof value);
    memcpy(value, u->value, strlen(u->value));
    pb_put_bytes(&record, 2, "key", 3);
    pb_put_bytes(&record, 3, value, value_bytes);
    pb_put_varint(&append, 1, session);
    pb_put_varint(&append, 2, sequence);
    pb_put_bytes(&append, 6, record.data, record.size_bytes);
    caller_add(requests, &append);
    buffer_free(&record);
    buffer_free(&append);
}

static void was_told(struct unit *u, replog_status status, struct slice reply) {
    if (status == REPLOG_RESOURCE_EXHAUSTED) u->state = NOT_IN;
    if (status != REPLOG_OK) return;
    uint64_t seq = field(reply, 1);
    EXPECT(u->state != IN || u->seq == seq, "%s is at %" PRIu64 " and at %" PRIu64, u->value,
           u->seq, seq);
    u->state = IN;
    u->seq = seq;
}

/* One that is tried once: what is not known of it stays so. */
static bool append_once(struct unit *u, uint64_t session, uint64_t sequence, size_t value_bytes) {
    struct buffer requests = {0};
    struct caller_answer a;
    struct slice reply = {0};
    size_t at = 0;
    put_append(&requests, u, session, sequence, value_bytes);
    bool ok = call("/replog.v1.Log/Append", &requests, &a);
    if (ok) EXPECT(caller_next(&a, &at, &reply), "%s: OK without a reply", u->value);
    was_told(u, a.status, reply);
    buffer_free(&requests);
    buffer_free(&a.messages);
    return ok;
}

/* Exactly once, however often it is asked for. */
static void append_keyed(uint64_t session, uint64_t sequence) {
    struct unit *u = unit_new();
    bool ok = false,
         maybe = false; /* an answer that was lost: a refusal of a repeat tells nothing */
    for (int i = 0; i < ATTEMPTS && !ok; i++) {
        ok = append_once(u, session, sequence, 100);
        maybe = maybe || u->state == MAYBE;
        if (maybe && !ok) u->state = MAYBE;
    }
    EXPECT(ok, "%s is never acknowledged", u->value);
    if (ok) (void)append_once(u, session, sequence, 100); /* once more: the same place */
    if (ok) u->state = IN;
}

/* Answered in order, each by its place, until one is refused; of those behind it nothing is known.
 */
static void append_stream(void) {
    struct unit *units[3];
    struct buffer requests = {0};
    struct caller_answer a;
    struct slice reply;
    size_t at = 0;
    unsigned n = 0;
    for (unsigned i = 0; i < 3; i++) {
        units[i] = unit_new();
        put_append(&requests, units[i], 0, 0, 50);
    }
    bool ok = call("/replog.v1.Log/AppendStream", &requests, &a);
    for (; caller_next(&a, &at, &reply); n++)
        if (n < 3) was_told(units[n], REPLOG_OK, reply);
    EXPECT(ok ? n == 3 : n <= 3, "%u answers to 3 appends of a stream", n);
    buffer_free(&requests);
    buffer_free(&a.messages);
}

static uint64_t open_session(void) {
    struct buffer nothing = {0};
    struct caller_answer a;
    struct slice reply;
    if (!ask("/replog.v1.Log/OpenSession", &nothing, &a, &reply)) return 0;
    uint64_t session = field(reply, 1);
    EXPECT(session != 0, "a session without an id");
    buffer_free(&a.messages);
    return session;
}

/* ---- Reads */

static void see(uint64_t seq, struct slice value) {
    for (unsigned i = 0; i < life->n_units; i++) {
        struct unit *u = &life->units[i];
        size_t n = strlen(u->value);
        if (value.size_bytes < n || memcmp(value.data, u->value, n) != 0) continue;
        EXPECT(u->state != NOT_IN, "%s was refused and is at %" PRIu64, u->value, seq);
        EXPECT(u->state != IN || u->seq == seq, "%s is at %" PRIu64 ", was said to be at %" PRIu64,
               u->value, seq, u->seq);
        u->found++;
        return;
    }
    EXPECT(false, "what is at %" PRIu64 " was never appended", seq);
}

/* What a reply's records are, from `next` on (0: any) without a gap; where it goes on. */
static uint64_t see_records(struct slice reply, uint64_t next) {
    struct pb_reader r = {.data = reply.data, .end = reply.data + reply.size_bytes};
    struct pb_field f;
    while (pb_next(&r, &f)) {
        if (f.number != 1) continue;
        uint64_t seq = field(f.bytes, 1), op = field(f.bytes, 3);
        EXPECT(next == 0 || seq == next, "read %" PRIu64 " instead of %" PRIu64, seq, next);
        next = seq + 1;
        if (op <= 2) see(seq, field_bytes(f.bytes, 5));
    }
    return next;
}

static void read_all(bool local) {
    struct buffer message = {0}, requests = {0};
    struct caller_answer a;
    struct slice reply;
    uint64_t next = 0, acknowledged = 0;
    size_t at = 0;
    pb_put_varint(&message, 4, 1);
    pb_put_varint(&message, 5, local);
    caller_add(&requests, &message);
    for (unsigned i = 0; i < life->n_units; i++)
        if (life->units[i].state == IN && life->units[i].seq > acknowledged)
            acknowledged = life->units[i].seq;
    bool ok = call("/replog.v1.Log/Read", &requests, &a);
    while (caller_next(&a, &at, &reply)) next = see_records(reply, next);
    EXPECT(!ok || next > acknowledged, "read up to %" PRIu64 ", acknowledged is %" PRIu64, next - 1,
           acknowledged);
    buffer_free(&message);
    buffer_free(&requests);
    buffer_free(&a.messages);
}

static void get(bool stale) {
    struct buffer message = {0};
    struct caller_answer a;
    struct slice reply;
    pb_put_bytes(&message, 1, "key", 3);
    pb_put_varint(&message, 2, stale);
    if (ask("/replog.v1.Log/Get", &message, &a, &reply)) {
        see(field(reply, 3), field_bytes(reply, 2));
        buffer_free(&a.messages);
    }
    buffer_free(&message);
}

/* ---- The rest */

static void ask_number(const char *path, uint64_t number, uint32_t looked_at, uint64_t least) {
    struct buffer message = {0};
    struct caller_answer a;
    struct slice reply;
    pb_put_varint(&message, 1, number);
    if (ask(path, &message, &a, &reply)) {
        EXPECT(field(reply, looked_at) >= least, "%s: field %u is %" PRIu64, path,
               (unsigned)looked_at, field(reply, looked_at));
        buffer_free(&a.messages);
    }
    buffer_free(&message);
}

/* A stranger says hello and sends blocks: what it says is decoded, and it is refused. */
static void stranger(void) {
    static uint8_t bytes[] = "no block";
    struct peer_msg hello = {.kind = PEER_HELLO,
                             .hello = {.from = 2, .to = 1, .incarnation = 7, .version = 1}};
    struct peer_msg entries = {.kind = PEER_RAFT, .raft = {.type = RAFT_APPEND, .term = 1}};
    struct buffer requests = {0}, message = {0};
    struct caller_answer a;
    peer_encode(&hello, &message);
    caller_add(&requests, &message);
    buffer_clear(&message);
    peer_encode(&entries, &message);
    pb_put_bytes(&message, 20, bytes, sizeof bytes);
    caller_add(&requests, &message);
    caller_call_open("/replog.v1.Peer/Exchange", &requests, &a);
    bool refused = a.status == REPLOG_FAILED_PRECONDITION;
    EXPECT(a.ended && a.status != REPLOG_OK && (refused || is_fair(a.status)),
           "a stranger's stream: %s: %s", replog_status_name(a.status), a.text);
    buffer_free(&message);
    buffer_free(&requests);
    buffer_free(&a.messages);
}

/* One of each kind of request, on a connection of its own. */
static void serve_all(void) {
    caller_close();
    uint64_t session = open_session();
    (void)append_once(unit_new(), 0, 0, 100);
    (void)append_once(unit_new(), 0, 0, LONG_BYTES);
    if (session) append_keyed(session, 1);
    if (session) append_keyed(session, 2);
    append_stream();
    get(false);
    get(true);
    read_all(false);
    read_all(true);
    ask_number("/replog.v1.Log/Status", 0, 10, 1);
    ask_number("/replog.v1.Peer/Inspect", 3, 1, 1);
    ask_number("/replog.v1.Log/Checkpoint", 0, 1, 1);
    ask_number("/replog.v1.Log/Truncate", 1, 1, 1);
    stranger();
}

/* ---- A life */

static void live(const char *dir) {
    char text[1500];
    log_set_hook(keep_last_word);
    fail_disarm();
    (void)node_stage_begin(dir);
    serve_all(); /* what is made once and kept is made here */
    uint64_t mark = fail_mark();
    fail_arm_again();
    serve_all();
    fail_disarm();
    bool ok = false;
    for (int i = 0; i < ATTEMPTS && !ok; i++) ok = append_once(unit_new(), 0, 0, 100);
    EXPECT(ok, "with memory again nothing can be appended");
    read_all(false);
    caller_close();
    node_stage_end();
    if (life->outstanding == 0) life->outstanding = fail_live();
    if (fail_leaks(mark, life->outstanding, 0, text, sizeof text))
        EXPECT(false, "leaked: %s", text);
}

/* What the files hold of it. */
static void judge_log(const char *dir) {
    char path[400];
    (void)snprintf(path, sizeof path, "%s/wal", dir);
    struct wal_options options = {.disk = disk_posix(), .dir = path, .read_only = true};
    struct wal *wal = NULL;
    struct wal_reader *reader = NULL;
    replog_error err = {0};
    replog_status status = wal_open(&options, &wal, &err);
    if (!status) status = wal_reader_open(wal, wal_first_seq(wal), &reader, &err);
    EXPECT(!status, "the log cannot be read: %s", err.text);
    for (unsigned i = 0; i < life->n_units; i++) life->units[i].found = 0;
    struct block_header h;
    const uint8_t *block;
    while (!status && !(status = wal_reader_next(reader, UINT64_MAX, &h, &block, &err))) {
        struct block_walk at = {0};
        replog_record r;
        while (block_next(block, &h, &at, &r))
            if (r.op == REPLOG_OP_PUT) see(r.seq, (struct slice){r.value, r.value_bytes});
    }
    EXPECT(status == REPLOG_NOT_FOUND, "the log: %s", err.text);
    for (unsigned i = 0; i < life->n_units; i++) {
        const struct unit *u = &life->units[i];
        bool cut = wal && u->seq < wal_first_seq(wal);
        EXPECT(u->found == 1 || (u->found == 0 && (u->state != IN || cut)),
               "%s, %s at %" PRIu64 ", is there %u times", u->value,
               u->state == IN ? "acknowledged" : "not acknowledged", u->seq, u->found);
    }
    wal_reader_close(reader);
    wal_close(wal);
}

static void judge_end(int status) {
    if (WIFSIGNALED(status)) EXPECT(false, "signal %d: %s", WTERMSIG(status), life->last_word);
    if (!WIFEXITED(status) || WEXITSTATUS(status) == 0) return;
    if (WEXITSTATUS(status) == 1 && strstr(life->last_word, "; stopping"))
        note_stop();
    else
        EXPECT(false, "it ended with status %d; its last word: %s", WEXITSTATUS(status),
               life->last_word);
}

static void services_run(void) {
    enum { LIFE_S = 20 };
    const char *dir = fresh_dir();
    life->n_units = 0;
    life->last_word[0] = '\0';
    fail_hold(true);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)alarm(LIFE_S); /* a standstill */
        live(dir);
        _exit(expect_held() ? 0 : UNFAIR);
    }
    int status = 0;
    EXPECT(child > 0 && waitpid(child, &status, 0) == child, "no process for it");
    judge_end(status);
    judge_log(dir);
    fail_hold(false);
}

static void services_before(void) {
    fail_share();
    life = mmap(NULL, sizeof *life, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (life == MAP_FAILED) abort();
}

static void sessions_before(void) {
    sessions_fail = true;
    services_before();
}

static const struct scenario services_scenario = {
    .name = "services", .before = services_before, .run = services_run};
static const struct scenario sessions_scenario = {
    .name = "sessions", .before = sessions_before, .run = services_run};
const struct scenario *const scenarios[] = {&services_scenario, &sessions_scenario, NULL};

/* ---- nghttp2's sessions, by the linker's --wrap */

static void *session_malloc(size_t n, void *user) {
    (void)user;
    return malloc(n);
}
static void session_free(void *p, void *user) {
    (void)user;
    free(p);
}
static void *session_calloc(size_t n, size_t size, void *user) {
    (void)user;
    return calloc(n, size);
}
static void *session_realloc(void *p, size_t n, void *user) {
    (void)user;
    return realloc(p, n);
}

int __real_nghttp2_session_server_new2(nghttp2_session **session,
                                       const nghttp2_session_callbacks *callbacks, void *user,
                                       const nghttp2_option *option);
int __wrap_nghttp2_session_server_new2(nghttp2_session **session,
                                       const nghttp2_session_callbacks *callbacks, void *user,
                                       const nghttp2_option *option);
int __wrap_nghttp2_session_server_new2(nghttp2_session **session,
                                       const nghttp2_session_callbacks *callbacks, void *user,
                                       const nghttp2_option *option) {
    static nghttp2_mem ours = {NULL, session_malloc, session_free, session_calloc, session_realloc};
    return sessions_fail ? nghttp2_session_server_new3(session, callbacks, user, option, &ours)
                         : __real_nghttp2_session_server_new2(session, callbacks, user, option);
}

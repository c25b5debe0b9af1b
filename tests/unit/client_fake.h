/* client_fake.h: a scripted cluster inside a test program: three servers on rpc's own server, over
 * one log in memory with a session table. The script says when the leader moves, loses replies,
 * forgets sessions, is full, is silent. Included once by a test program. */
#ifndef TEST_CLIENT_FAKE_H
#define TEST_CLIENT_FAKE_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "replog.pb-c.h"
#include "replog/client.h"
#include "rpc/rpc.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

enum { FAKE_NODES = 3, FAKE_LOG = 20000, FAKE_TEXT = 32, FAKE_LOST = 5 };

struct fake_record {
    uint64_t session, sequence;
    size_t n_records;
    char value[FAKE_TEXT]; /* of the append's first record */
};

static struct fake {
    pthread_mutex_t mu;
    struct rpc_server *servers[FAKE_NODES];
    char nodes[FAKE_NODES]; /* a call's user pointer is one of these, until fake_state */
    unsigned ports[FAKE_NODES];
    char endpoints[100];
    struct fake_record log[FAKE_LOG];               /* [i] has seq i + 1 */
    uint64_t last_seq, last_session, known_session; /* sessions below are forgotten */

    /* the script: counters fall to 0 */
    int leader;            /* -1: none */
    bool no_hint;          /* refusals do not name the leader */
    int move_after;        /* appends until the leader moves on; the replies of the last are lost */
    int full;              /* so many appends are refused with RESOURCE_EXHAUSTED */
    int unavailable;       /* so many unary calls are refused */
    bool behind;           /* "too much" on a stream is refused only when what comes behind is in */
    bool silent;           /* nothing is admitted, nothing answered */
    struct rpc_call *held; /* the last append that met silence, with a reference */
    int all_away;          /* so many ACK ALL: in the log, "committed, not on 3" */
    int break_after;       /* records, then a Read stream breaks; 0: never */
    replog_status read_status;       /* what Read streams of node 1 end with, at once; OK: none */
    replog_status other_read_status; /* and those of the others */
    uint64_t streams, opened, refused, reads; /* counts */
} fake;

struct fake_call {
    int node;
    bool over;
    bool late; /* see fake.behind */
};

static void fake_lock(void) {
    pthread_mutex_lock(&fake.mu);
}
static void fake_unlock(void) {
    pthread_mutex_unlock(&fake.mu);
}

static void fake_pause_ms(long ms) {
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* The state of a call, made at its first message. Freed in fake_closed. */
static struct fake_call *fake_state(struct rpc_call *call) {
    char *user = rpc_call_user(call);
    if (user < fake.nodes || user >= fake.nodes + FAKE_NODES)
        return (struct fake_call *)(void *)user;
    struct fake_call *state = calloc(1, sizeof *state);
    state->node = (int)(user - fake.nodes);
    rpc_call_set_user(call, state);
    return state;
}

static void fake_closed(struct rpc_call *call, replog_status status, const char *text) {
    (void)status;
    (void)text;
    char *user = rpc_call_user(call);
    if (user < fake.nodes || user >= fake.nodes + FAKE_NODES) free(user);
}

static const char *fake_address(int node) {
    static char text[FAKE_NODES][32];
    sprintf(text[node], "127.0.0.1:%u", fake.ports[node]);
    return text[node];
}

/* UNAVAILABLE, with the leader's address unless the script says otherwise. */
static void fake_refuse(struct rpc_call *call) {
    char hint[64];
    fake.refused++;
    if (fake.leader < 0 || fake.no_hint) {
        rpc_finish(call, REPLOG_UNAVAILABLE, "not the leader");
        return;
    }
    sprintf(hint, "%d %s", fake.leader + 1, fake_address(fake.leader));
    rpc_finish_with(call, REPLOG_UNAVAILABLE, "not the leader", "replog-leader", hint);
}

static void fake_reply(struct rpc_call *call, uint64_t seq, uint64_t sequence) {
    Replog__V1__AppendReply r = REPLOG__V1__APPEND_REPLY__INIT;
    uint64_t on[2] = {1, 200};
    r.first_seq = r.last_seq = seq;
    r.term = 7;
    r.sequence = sequence;
    r.durable_on = on;
    r.n_durable_on = 2;
    rpc_send_message(call, &r.base);
}

/* Where the append stands in the log, or 0 when the call was refused instead. */
static uint64_t fake_admit(struct rpc_call *call, const Replog__V1__AppendRequest *m) {
    uint64_t last = 0;
    for (uint64_t i = 0; m->session && i < fake.last_seq; i++) {
        if (fake.log[i].session != m->session) continue;
        last = fake.log[i].sequence;
        if (last == m->sequence) return i + 1;
    }
    const ProtobufCBinaryData *value = &m->records[0]->value;
    bool bad = value->len == 3 && memcmp(value->data, "bad", 3) == 0;
    bool too_much = value->len == 8 && memcmp(value->data, "too much", 8) == 0;
    if (m->session && (m->session < fake.known_session || m->session > fake.last_session)) {
        rpc_finish(call, REPLOG_FAILED_PRECONDITION, "session unknown");
    } else if (m->session && m->sequence != last + 1) {
        rpc_finish(call, REPLOG_FAILED_PRECONDITION, "numbers are missing");
    } else if (fake.full > 0) {
        fake.full--;
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "the disk is full");
    } else if (too_much) {
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "too much waits for its commit");
    } else if (bad) {
        rpc_finish(call, REPLOG_INVALID_ARGUMENT, "a bad record");
    } else {
        struct fake_record *r = &fake.log[fake.last_seq++];
        size_t n = value->len < FAKE_TEXT ? value->len : FAKE_TEXT - 1;
        r->session = m->session;
        r->sequence = m->sequence;
        r->n_records = m->n_records;
        memcpy(r->value, value->data, n);
        r->value[n] = '\0';
        return fake.last_seq;
    }
    return 0;
}

static void fake_append(struct rpc_call *call, const Replog__V1__AppendRequest *m, bool stream) {
    struct fake_call *state = fake_state(call);
    if (!state->over && fake.silent) {
        if (fake.held) rpc_call_unref(fake.held);
        fake.held = rpc_call_ref(call);
    }
    if (state->over || fake.silent) return;
    if (fake.behind && stream && !state->late) {
        const ProtobufCBinaryData *value = &m->records[0]->value;
        state->late = value->len == 8 && memcmp(value->data, "too much", 8) == 0;
        if (state->late) return;
    } else if (state->late) {
        state->over = true;
        (void)fake_admit(call, m);
        rpc_finish(call, REPLOG_RESOURCE_EXHAUSTED, "too much waits for its commit");
        return;
    }
    state->over = !stream;
    if (fake.leader != state->node) {
        state->over = true;
        fake_refuse(call);
        return;
    }
    uint64_t seq = fake_admit(call, m);
    if (!seq) {
        state->over = true;
        return;
    }
    if (m->ack == REPLOG__V1__ACK__ALL && fake.all_away > 0) {
        fake.all_away--;
        rpc_finish(call, REPLOG_DEADLINE_EXCEEDED, "committed, not on 3");
        return;
    }
    if (fake.move_after == 0 || fake.move_after > FAKE_LOST) {
        fake_reply(call, seq, m->sequence);
        if (!stream) rpc_finish(call, REPLOG_OK, NULL);
    }
    if (fake.move_after > 0 && --fake.move_after == 0) {
        fake.leader = (fake.leader + 1) % FAKE_NODES;
        state->over = true;
        rpc_finish(call, REPLOG_UNAVAILABLE, "stepped down, outcome unknown");
    }
}

static Replog__V1__AppendRequest *fake_unpack(const uint8_t *bytes, size_t size_bytes) {
    return (Replog__V1__AppendRequest *)rpc_unpack(&replog__v1__append_request__descriptor, bytes,
                                                   size_bytes, 64 << 20);
}

static void fake_on_stream(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    Replog__V1__AppendRequest *m = fake_unpack(bytes, size_bytes);
    fake_lock();
    char *user = rpc_call_user(call);
    if (user >= fake.nodes && user < fake.nodes + FAKE_NODES) fake.streams++;
    fake_append(call, m, true);
    fake_unlock();
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

static void fake_on_append(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    Replog__V1__AppendRequest *m = fake_unpack(bytes, size_bytes);
    fake_lock();
    fake_append(call, m, false);
    fake_unlock();
    protobuf_c_message_free_unpacked(&m->base, NULL);
}

/* Whether a unary call goes on: not refused by the script; by the leader only, if it matters. */
static bool fake_goes_on(struct rpc_call *call, bool leader_only) {
    struct fake_call *state = fake_state(call);
    if (fake.silent) return false;
    if (fake.unavailable > 0) {
        fake.unavailable--;
        rpc_finish(call, REPLOG_UNAVAILABLE, "not now");
        return false;
    }
    if (leader_only && fake.leader != state->node) {
        fake_refuse(call);
        return false;
    }
    return true;
}

static void fake_answer(struct rpc_call *call, const ProtobufCMessage *reply) {
    rpc_send_message(call, reply);
    rpc_finish(call, REPLOG_OK, NULL);
}

static void fake_on_open(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    Replog__V1__OpenSessionReply r = REPLOG__V1__OPEN_SESSION_REPLY__INIT;
    fake_lock();
    if (fake_goes_on(call, true)) {
        r.session = ++fake.last_session;
        fake.opened++;
        fake_answer(call, &r.base);
    }
    fake_unlock();
}

static void fake_on_status(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    Replog__V1__StatusReply r = REPLOG__V1__STATUS_REPLY__INIT;
    Replog__V1__MemberStatus members[FAKE_NODES], *list[FAKE_NODES];
    Replog__V1__Holder holder = REPLOG__V1__HOLDER__INIT, *held_by[1] = {&holder};
    fake_lock();
    for (int i = 0; i < FAKE_NODES; i++) {
        replog__v1__member_status__init(&members[i]);
        members[i].id = (uint64_t)i + 1;
        members[i].address = (char *)(uintptr_t)fake_address(i);
        members[i].role = (char *)(uintptr_t) "voter";
        members[i].chain = 0x0123456789abcdefull;
        list[i] = &members[i];
    }
    r.n_members = FAKE_NODES;
    r.members = list;
    r.leader = (uint64_t)(fake.leader + 1);
    r.answered_by = (uint64_t)fake_state(call)->node + 1;
    r.last_seq = fake.last_seq;
    holder.id = 3;
    r.held_by = held_by;
    r.n_held_by = 1;
    if (fake_goes_on(call, false)) fake_answer(call, &r.base);
    fake_unlock();
}

static void fake_on_get(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    Replog__V1__GetReply r = REPLOG__V1__GET_REPLY__INIT;
    uint8_t value[] = "found";
    r.value = (ProtobufCBinaryData){.len = 5, .data = value};
    r.seq = 9;
    fake_lock();
    if (fake_goes_on(call, false)) fake_answer(call, &r.base);
    fake_unlock();
}

static void fake_on_truncate(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    (void)bytes;
    (void)size_bytes;
    Replog__V1__TruncateReply r = REPLOG__V1__TRUNCATE_REPLY__INIT;
    r.requested = 5;
    r.first_seq = 3;
    fake_lock();
    if (fake_goes_on(call, true)) fake_answer(call, &r.base);
    fake_unlock();
}

/* Chunks of up to seven records: value "v<seq>"; every tenth is a marker, shown when asked for. */
static uint64_t fake_send_chunk(struct rpc_call *call, const Replog__V1__ReadRequest *q,
                                uint64_t from, uint64_t to) {
    Replog__V1__Record records[7], *list[7];
    char values[7][24];
    Replog__V1__ReadReply r = REPLOG__V1__READ_REPLY__INIT;
    uint64_t seq = from;
    for (; seq <= to && seq < from + 7; seq++) {
        bool marker = seq % 10 == 0;
        if (marker && !q->markers) continue;
        Replog__V1__Record *record = &records[r.n_records];
        replog__v1__record__init(record);
        record->seq = seq;
        record->term = 7;
        record->op = marker ? REPLOG__V1__OP__COMMIT : REPLOG__V1__OP__PUT;
        sprintf(values[r.n_records], "v%llu", (unsigned long long)seq);
        record->value.data = (uint8_t *)values[r.n_records];
        record->value.len = strlen(values[r.n_records]);
        list[r.n_records++] = record;
    }
    r.records = list;
    r.next_seq = seq;
    rpc_send_message(call, &r.base);
    return seq;
}

/* The log that readers see holds seqs 1 to 1000, or what was asked for. */
static void fake_on_read(struct rpc_call *call, const uint8_t *bytes, size_t size_bytes) {
    Replog__V1__ReadRequest *q = (Replog__V1__ReadRequest *)rpc_unpack(
        &replog__v1__read_request__descriptor, bytes, size_bytes, 1 << 20);
    fake_lock();
    fake.reads++;
    bool first_node = fake_state(call)->node == 0;
    uint64_t from = q->from_seq ? q->from_seq : 1, to = q->to_seq ? q->to_seq : 1000;
    uint64_t limit = fake.break_after ? from + (uint64_t)fake.break_after : UINT64_MAX;
    replog_status ends = first_node ? fake.read_status : fake.other_read_status;
    if (ends) {
        rpc_finish(call, ends, "below the first seq, which is 12");
    } else {
        /* one record again that the reader has, as a whole batch may bring it */
        if (from > 1) from--;
        while (from <= to && from < limit) from = fake_send_chunk(call, q, from, to);
        if (from <= to)
            rpc_finish(call, REPLOG_UNAVAILABLE, "broken");
        else if (!q->follow)
            rpc_finish(call, REPLOG_OK, NULL);
    }
    fake_unlock();
    protobuf_c_message_free_unpacked(&q->base, NULL);
}

static void fake_serve(int node) {
    static const struct rpc_method methods[] = {
        {"AppendStream", true, true, {.message = fake_on_stream, .closed = fake_closed}},
        {"Append", false, false, {.message = fake_on_append, .closed = fake_closed}},
        {"OpenSession", false, false, {.message = fake_on_open, .closed = fake_closed}},
        {"Status", false, false, {.message = fake_on_status, .closed = fake_closed}},
        {"Get", false, false, {.message = fake_on_get, .closed = fake_closed}},
        {"Truncate", false, false, {.message = fake_on_truncate, .closed = fake_closed}},
        {"Read", false, true, {.message = fake_on_read, .closed = fake_closed}},
    };
    static struct rpc_service services[FAKE_NODES];
    services[node] = (struct rpc_service){.descriptor = &replog__v1__log__descriptor,
                                          .methods = methods,
                                          .n_methods = sizeof methods / sizeof methods[0],
                                          .user = &fake.nodes[node]};
    replog_error err;
    for (int attempt = 0; attempt < 15; attempt++) { /* a port may belong to another program */
        struct rpc_server_options options = {.listen = fake_address(node)};
        if (!rpc_server_start(&options, &services[node], 1, &fake.servers[node], &err)) return;
        fake.ports[node] += 20;
    }
    fprintf(stderr, "fake node %d: %s\n", node, err.text);
    abort();
}

/* Servers live as long as the program; `offset` keeps programs that run at once apart. */
static int fake_start(unsigned offset) {
    pthread_mutex_init(&fake.mu, NULL);
    for (int i = 0; i < FAKE_NODES; i++) {
        fake.ports[i] = 7600 + offset + (unsigned)i;
        fake_serve(i);
    }
    sprintf(fake.endpoints, "%s,%s,%s", fake_address(0), fake_address(1), fake_address(2));
    return 0;
}

/* A healthy cluster with an empty log, led by the first node. */
static void fake_reset(void) {
    fake_lock();
    fake.last_seq = 0;
    fake.known_session = 0;
    fake.leader = 0;
    fake.no_hint = fake.silent = fake.behind = false;
    if (fake.held) rpc_call_unref(fake.held);
    fake.held = NULL;
    fake.move_after = fake.full = fake.unavailable = fake.all_away = fake.break_after = 0;
    fake.read_status = fake.other_read_status = REPLOG_OK;
    fake.streams = fake.opened = fake.refused = fake.reads = 0;
    fake_unlock();
}

/* Ends the program with the outcome of its tests. The servers live on, so no exit handler may run;
 * what they would have looked for is looked for here. */
_Noreturn static void fake_finish(int failed) {
#ifdef __SANITIZE_ADDRESS__
    if (__lsan_do_recoverable_leak_check()) failed++;
#endif
    fflush(stdout);
    _exit(failed ? 1 : 0);
}
#endif

#include "server_stage.h"

#include "base/clock.h"
#include "base/log.h"
#include "fake_net.h"
#include "fuzz.h"
#include "server/peers.h"

enum { MAX_HELD = 64, MEMBER = 1 };

static struct server server;
static uint64_t rng;
static struct event *held[MAX_HELD]; /* requests that the node has not answered yet */
static size_t n_held;

/* ---- The node */

static void answer(struct event *e) {
    struct node_effect fx = {.type = NODE_FX_REPLY, .token = e->ev.token};
    struct request *request;
    uint64_t how = rng ? rng_next(&rng) % 8 : 7;
    memcpy(&request, &fx.token, sizeof fx.token);
    if (how < 3) {
        static const replog_status bad[] = {REPLOG_UNAVAILABLE, REPLOG_FAILED_PRECONDITION,
                                            REPLOG_RESOURCE_EXHAUSTED};
        fx.status = bad[how];
        fx.reply.leader = rng_next(&rng) % 3;
        snprintf(fx.text, sizeof fx.text, "the node says no: 100 %% \"sure\"\n");
    } else {
        struct node_reply *r = &fx.reply;
        r->first_seq = r->seq = r->requested = wal_tail(server.wal).seq;
        r->last_seq = r->first_seq + 2;
        r->term = 3;
        r->sequence = e->ev.append.sequence;
        r->n_durable_on = r->n_held_by = (unsigned)(how == 7 ? 1 : how);
        for (unsigned i = 0; i < r->n_durable_on; i++) r->durable_on[i] = (uint64_t)1 << (9 * i);
    }
    event_free(e); /* it lies in the request, which ends with its answer */
    request->done(request, &fx);
}

static void peer_message(struct event *e) {
    if (peers_admit(&server, e)) {
        uint64_t how = rng ? rng_next(&rng) % 4 : 3;
        if (e->msg.kind == PEER_HELLO && how > 0)
            peers_welcome(&server, e->ev.stream, 1 + e->msg.hello.from % 3);
        else if (how == 0)
            peers_refuse(&server, e->ev.stream, "member 2 is not welcome: \x01\x7f");
    }
    event_free(e);
}

static void node_step_all(bool all) {
    struct event *e = (struct event *)(void *)queue_take(&server.events, 0);
    rpc_batch_begin();
    while (n_held > 0 && (all || rng_next(&rng) % 2)) answer(held[--n_held]);
    while (e) {
        struct event *next = (struct event *)(void *)e->link.next;
        if (e->ev.type == NODE_EV_PEER_MESSAGE)
            peer_message(e);
        else if (rng && !all && n_held < MAX_HELD && rng_next(&rng) % 4 == 0)
            held[n_held++] = e;
        else
            answer(e);
        e = next;
    }
    rpc_batch_end();
    peers_resume(&server);
}

void stage_step(void) {
    node_step_all(false);
    services_read(4);
    fake_net_run();
}

/* ---- Stage */

static void fill_log(struct wal *wal) {
    static const uint8_t value[3000] = {'v'};
    for (uint32_t i = 0; i < 12; i++) {
        struct block_builder b;
        struct wal_pos tail = wal_tail(wal);
        struct block_header h = {
            .first_seq = tail.seq + 1, .term = 1 + i / 5, .prev_chain = tail.chain};
        uint8_t checkpoint[16] = {1};
        block_begin(&b);
        if (i % 4 == 3) {
            block_add_marker(&b, REPLOG_OP_CHECKPOINT, (struct slice){checkpoint, 16});
        } else {
            for (uint32_t k = 0; k <= i % 3; k++)
                CHECK(!block_add(&b, REPLOG_OP_PUT, (struct slice){(const uint8_t *)"key", 3},
                                 (struct slice){value, i % 2 ? 5 : sizeof value}, NULL));
            if (i % 3) block_add_marker(&b, REPLOG_OP_COMMIT, (struct slice){0});
        }
        struct blob *blob = block_finish(&b, &h.n_records, &h.flags);
        CHECK(blob != NULL);
        h.length = (uint32_t)blob->size_bytes;
        block_seal(blob->data, &h);
        CHECK(!wal_append(wal, &(struct slice){blob->data, h.length}, 1, NULL, NULL));
        blob_unref(blob);
    }
    CHECK(!wal_sync(wal, NULL));
}

void stage_start(void) {
    replog_error err;
    struct server *s = &server;
    log_set_level(LOG_ERROR + 1);
    s->kind = USER_SERVER;
    s->options = (struct options){.id = MEMBER,
                                  .listen = "127.0.0.1:7401",
                                  .dir = "d",
                                  .pending_bytes = 4 << 20,
                                  .peer_window_bytes = 64 << 10,
                                  .max_connections = 16};
    CHECK(!options_parse_cluster("1=127.0.0.1:7401", &s->options.cluster, &err));
    s->disk = disk_mem_table(disk_mem_new(0));
    struct wal_options options = {.disk = s->disk,
                                  .dir = "d",
                                  .member_id = MEMBER,
                                  .new_incarnation = 5,
                                  .segment_bytes = 64 << 10,
                                  .create = true};
    CHECK(!wal_open(&options, &s->wal, &err));
    fill_log(s->wal);
    s->store = store_mem_new();
    struct store_op op = {STORE_PUT, 2, {(const uint8_t *)"key", 3}, {(const uint8_t *)"value", 5}};
    CHECK(!s->store->ops->write(s->store, &op, 1, 2, &err));
    (void)pthread_mutex_init(&s->view_lock, NULL);
    queue_init(&s->events, 1 << 20);
    s->view = (struct node_snapshot){.self = MEMBER,
                                     .term = 3,
                                     .leader = MEMBER,
                                     .role = RAFT_LEADER,
                                     .founding = WAL_FOUNDED,
                                     .ready = true,
                                     .first_seq = 1,
                                     .n_peers = 1};
    s->view.config = s->options.cluster;
    s->view.last_seq = s->view.commit_seq = s->view.durable_seq = wal_tail(s->wal).seq;
    atomic_store(&s->readable_seq, wal_tail(s->wal).seq);
    atomic_store(&s->first_seq, 1);
    fake_net_begin();
    CHECK(!services_start(s, &err));
    rpc_server_set_serving(s->rpc, true);
}

void stage_begin(uint64_t seed) {
    fake_net_begin();
    rng = seed;
}

void stage_end(void) {
    fake_net_end_all();
    node_step_all(true);
    services_read(UINT32_MAX);
    fake_net_run();
    node_step_all(true);
    CHECK(services_quiet(&server) && n_held == 0);
}

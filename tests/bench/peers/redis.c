/* redis PORT ...: XADD and WAIT 2 to a master with two replicas. WAIT holds up its connection, so
 * each request of the window has a connection of its own; a batch is that many XADDs and one
 * WAIT. One thread waits for whichever connection has an answer. */
#include <hiredis/hiredis.h>
#include <sys/epoll.h>

#include "bench.h"

enum { REPLICAS = 2 };

struct lane {
    redisContext *connection;
    uint64_t sent_ns;
    unsigned n_replies; /* of the request that is under way */
};

struct load {
    struct bench b;
    struct lane *lanes;
    char *xadd, *wait;
    size_t xadd_bytes, wait_bytes;
    unsigned n_busy; /* lanes that wait for an answer */
    int epoll;
};

static redisContext *dial(const char *port) {
    redisContext *c = redisConnect("127.0.0.1", atoi(port));
    if (!c || c->err) bench_die("redis: %s", c ? c->errstr : "out of memory");
    return c;
}

static redisReply *call(redisContext *c, const char *command) {
    redisReply *reply = redisCommand(c, command);
    if (!reply) bench_die("redis: %s: %s", command, c->errstr);
    if (reply->type == REDIS_REPLY_ERROR) bench_die("redis: %s: %s", command, reply->str);
    return reply;
}

static bool replicas_online(redisContext *c) {
    redisReply *reply = call(c, "INFO replication");
    unsigned online = 0;
    for (const char *at = reply->str; (at = strstr(at, "state=online")); at++) online++;
    freeReplyObject(reply);
    return online >= REPLICAS;
}

static void wait_ready(redisContext *c) {
    for (int tries = 0; !replicas_online(c); tries++) {
        if (tries >= BENCH_PATIENCE_S * 10) bench_die("redis: the replicas did not come");
        bench_sleep_ms(100);
    }
    freeReplyObject(call(c, "UNLINK log"));
}

static void send_request(struct load *l, struct lane *lane) {
    redisContext *c = lane->connection;
    lane->sent_ns = bench_now_ns();
    lane->n_replies = 0;
    for (unsigned i = 0; i < l->b.batch; i++)
        redisAppendFormattedCommand(c, l->xadd, l->xadd_bytes);
    redisAppendFormattedCommand(c, l->wait, l->wait_bytes);
    for (int done = 0; !done;) {
        if (redisBufferWrite(c, &done)) bench_die("redis: %s", c->errstr);
    }
}

/* The last reply of a request is WAIT's: how many replicas have it. */
static void take_reply(struct load *l, struct lane *lane, const redisReply *reply) {
    bool last = lane->n_replies++ == l->b.batch;
    if (reply->type == REDIS_REPLY_ERROR) bench_die("redis: %s", reply->str);
    if (!last && reply->type != REDIS_REPLY_STRING) bench_die("redis: no id from XADD");
    if (!last) return;
    if (reply->type != REDIS_REPLY_INTEGER || reply->integer < REPLICAS)
        bench_die("redis: WAIT answered %lld", reply->integer);
    if (bench_answer(&l->b, lane->sent_ns))
        send_request(l, lane);
    else
        l->n_busy--;
}

static void on_readable(struct load *l, struct lane *lane) {
    redisContext *c = lane->connection;
    if (redisBufferRead(c)) bench_die("redis: %s", c->errstr);
    for (;;) {
        void *reply = NULL;
        if (redisGetReplyFromReader(c, &reply)) bench_die("redis: %s", c->errstr);
        if (!reply) return;
        take_reply(l, lane, reply);
        freeReplyObject(reply);
    }
}

static void open_lanes(struct load *l) {
    l->lanes = calloc(l->b.inflight, sizeof *l->lanes);
    l->epoll = epoll_create1(0);
    if (!l->lanes || l->epoll < 0) bench_die("out of memory");
    for (unsigned i = 0; i < l->b.inflight; i++) {
        struct lane *lane = &l->lanes[i];
        struct epoll_event on = {.events = EPOLLIN, .data.ptr = lane};
        lane->connection = dial(l->b.target);
        if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, lane->connection->fd, &on)) bench_die("epoll");
    }
}

static void format_commands(struct load *l) {
    char *text;
    int n = redisFormatCommand(&text, "XADD log * v %b", l->b.value, l->b.size_bytes);
    if (n < 0) bench_die("out of memory");
    l->xadd = text;
    l->xadd_bytes = (size_t)n;
    n = redisFormatCommand(&text, "WAIT %d %d", REPLICAS, BENCH_PATIENCE_S * 1000);
    if (n < 0) bench_die("out of memory");
    l->wait = text;
    l->wait_bytes = (size_t)n;
}

int main(int argc, char **argv) {
    static struct load l;
    struct epoll_event events[64];
    bench_options(&l.b, argc, argv);
    redisContext *control = dial(l.b.target);
    wait_ready(control);
    open_lanes(&l);
    format_commands(&l);
    bench_begin(&l.b);
    for (l.n_busy = 0; l.n_busy < l.b.inflight; l.n_busy++) send_request(&l, &l.lanes[l.n_busy]);
    while (l.n_busy) {
        int n = epoll_wait(l.epoll, events, 64, BENCH_PATIENCE_S * 1000);
        if (n <= 0) bench_die("redis: no answer");
        for (int i = 0; i < n; i++) on_readable(&l, events[i].data.ptr);
    }
    redisReply *length = call(control, "XLEN log");
    bench_report(&l.b, (uint64_t)length->integer);
    return 0;
}

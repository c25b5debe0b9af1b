/* nats URL1,URL2,URL3 ...: publishes to a JetStream stream with three replicas in files, over a
 * connection to the stream's leader. An answer is the leader's acknowledgement (a majority has the
 * message); each request of the window has a reply subject of its own. There are no batches. */
#include <nats/nats.h>

#include "bench.h"

enum { REPLICAS = 3, SERVERS = 3, INBOX_BYTES = 128, NAME_BYTES = 64 };

static const char stream_name[] = "BENCH", subject[] = "bench";

struct load {
    struct bench b;
    natsConnection *connection;
    natsSubscription *answers;
    char inbox[INBOX_BYTES]; /* what comes before the number of a request */
    uint64_t *sent_ns;
    unsigned n_busy;
};

static void check(natsStatus status, const char *what) {
    if (status != NATS_OK) bench_die("nats: %s: %s", what, natsStatus_GetText(status));
}

/* at_once: each publish is a write of its own. Otherwise the library's own thread gathers them, for
 * up to a millisecond: better with many in flight (measured: 1.3 to 1.7 times the records), and
 * much worse with one. */
static void dial(const char *const *urls, int n_urls, bool at_once, natsConnection **connection,
                 jsCtx **js) {
    natsOptions *options = NULL;
    check(natsOptions_Create(&options), "options");
    check(natsOptions_SetServers(options, (const char **)(uintptr_t)urls, n_urls), "addresses");
    check(natsOptions_SetSendAsap(options, at_once), "send at once");
    natsStatus status = natsConnection_Connect(connection, options);
    natsOptions_Destroy(options);
    check(status, "connect");
    jsOptions o;
    jsOptions_Init(&o);
    o.Wait = 5000;
    check(natsConnection_JetStream(js, *connection, &o), "JetStream");
}

/* The servers elect a leader first, then one for the stream: until then the calls fail. */
static void make_stream(jsCtx *js, char leader[NAME_BYTES]) {
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    const char *subjects[] = {subject};
    config.Name = stream_name;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Replicas = REPLICAS;
    config.Storage = js_FileStorage;
    natsStatus status = NATS_ERR;
    js_DeleteStream(js, stream_name, NULL, NULL); /* an earlier load's */
    leader[0] = '\0';
    for (int tries = 0; !leader[0]; tries++) {
        jsStreamInfo *info = NULL;
        if (status != NATS_OK)
            status = js_AddStream(&info, js, &config, NULL, NULL);
        else if (js_GetStreamInfo(&info, js, stream_name, NULL, NULL) != NATS_OK)
            info = NULL;
        if (info && info->Cluster && info->Cluster->Leader && info->Cluster->ReplicasLen == 2)
            snprintf(leader, NAME_BYTES, "%s", info->Cluster->Leader);
        jsStreamInfo_Destroy(info);
        if (!leader[0] && tries >= BENCH_PATIENCE_S * 5)
            bench_die("nats: no stream: %s", natsStatus_GetText(status));
        if (!leader[0]) bench_sleep_ms(200);
    }
}

/* "n2" is the server at the second address. */
static int index_of(const char *name) {
    int n = name[0] == 'n' ? atoi(name + 1) : 0;
    if (n < 1 || n > SERVERS) bench_die("nats: which server is %s?", name);
    return n - 1;
}

static void publish(struct load *l, unsigned slot) {
    char reply[INBOX_BYTES + 16];
    snprintf(reply, sizeof reply, "%s.%u", l->inbox, slot);
    l->sent_ns[slot] = bench_now_ns();
    check(natsConnection_PublishRequest(l->connection, subject, reply, l->b.value,
                                        (int)l->b.size_bytes),
          "publish");
}

/* {"stream":"BENCH","seq":7}, or {"error":{...}}, or an empty message when nobody serves. */
static void take_answer(struct load *l, natsMsg *msg) {
    const char *text = natsMsg_GetData(msg);
    if (!text || strstr(text, "\"error\"") || !strstr(text, "\"seq\":"))
        bench_die("nats: refused: %s", text ? text : "no responders");
    unsigned long slot = strtoul(natsMsg_GetSubject(msg) + strlen(l->inbox) + 1, NULL, 10);
    if (slot >= l->b.inflight) bench_die("nats: an answer to nothing");
    if (bench_answer(&l->b, l->sent_ns[slot]))
        publish(l, (unsigned)slot);
    else
        l->n_busy--;
}

static void subscribe(struct load *l) {
    natsInbox *inbox = NULL;
    char wildcard[INBOX_BYTES + 16];
    check(natsInbox_Create(&inbox), "inbox");
    snprintf(l->inbox, sizeof l->inbox, "%s", inbox);
    natsInbox_Destroy(inbox);
    snprintf(wildcard, sizeof wildcard, "%s.*", l->inbox);
    check(natsConnection_SubscribeSync(&l->answers, l->connection, wildcard), "subscribe");
}

static uint64_t held(jsCtx *js) {
    jsStreamInfo *info = NULL;
    check(js_GetStreamInfo(&info, js, stream_name, NULL, NULL), "stream info");
    uint64_t n = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return n;
}

int main(int argc, char **argv) {
    static struct load l;
    natsConnection *first;
    jsCtx *js;
    char leader[NAME_BYTES], urls[SERVERS][64];
    const char *const each[SERVERS] = {urls[0], urls[1], urls[2]};
    bench_options(&l.b, argc, argv);
    if (l.b.batch != 1) bench_die("nats: JetStream has no batches");
    if (sscanf(l.b.target, "%63[^,],%63[^,],%63s", urls[0], urls[1], urls[2]) != SERVERS)
        bench_die("nats: not URL1,URL2,URL3: %s", l.b.target);
    dial(each, SERVERS, true, &first, &js);
    make_stream(js, leader);
    jsCtx_Destroy(js);
    natsConnection_Destroy(first);
    dial(&each[index_of(leader)], 1, l.b.inflight == 1, &l.connection, &js);
    subscribe(&l);
    l.sent_ns = calloc(l.b.inflight, sizeof *l.sent_ns);
    if (!l.sent_ns) bench_die("out of memory");
    bench_begin(&l.b);
    for (l.n_busy = 0; l.n_busy < l.b.inflight; l.n_busy++) publish(&l, l.n_busy);
    while (l.n_busy) {
        natsMsg *msg = NULL;
        check(natsSubscription_NextMsg(&msg, l.answers, BENCH_PATIENCE_S * 1000), "answer");
        take_answer(&l, msg);
        natsMsg_Destroy(msg);
    }
    bench_report(&l.b, held(js));
    return 0;
}

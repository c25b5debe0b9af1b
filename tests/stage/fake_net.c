#include "fake_net.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "rpc/internal.h"

enum { MAX_STREAMS = 64, FIRST_MS = 1000000 };

/* ---- Clock */

static uint64_t now_ms = FIRST_MS, random_state;

uint64_t clock_mono_ms(void) {
    return now_ms;
}
uint64_t clock_mono_ns(void) {
    return now_ms * 1000000;
}
uint64_t clock_wall_us(void) {
    return 1700000000000000 + now_ms * 1000;
}
uint64_t random_u64(void) {
    return rng_next(&random_state);
}

/* ---- nng: operations wait until the harness completes them; never within a call of theirs */

struct nng_aio {
    void (*done)(void *);
    void *arg;
    bool pending;
    int result;
    size_t count;
    nng_iov iov[8];
    unsigned n_iov;
    void *output;
    struct nng_aio **slot; /* where the pending operation is known; NULL afterwards */
};
struct nng_stream {
    struct nng_aio *recv, *send;
    struct buffer taken; /* what the socket took at once, not yet seen by the other side */
    size_t room_bytes;   /* how much of that there may be */
    bool closed, gone;
};
struct nng_stream_listener {
    struct nng_aio *accept;
};
struct nng_stream_dialer {
    struct nng_aio *dial;
};

static struct nng_stream_listener *listener;
static struct nng_stream_dialer *dialling[MAX_STREAMS];
static size_t n_dialling;
/* Streams are kept until the next input, so that a late look at one is seen for what it is. */
static struct nng_stream *streams[MAX_STREAMS];
static size_t n_streams;

static nng_stream *stream_new(void) {
    CHECK(n_streams < MAX_STREAMS);
    struct nng_stream *s = calloc(1, sizeof *s);
    if (s) streams[n_streams++] = s;
    return s;
}

static void complete(struct nng_aio *aio, int result, size_t count) {
    if (!aio || !aio->pending) return;
    aio->pending = false;
    aio->result = result;
    aio->count = count;
    if (aio->slot) *aio->slot = NULL;
    if (aio->done) aio->done(aio->arg);
}

static void begin(struct nng_aio *aio, struct nng_aio **slot) {
    CHECK(!aio->pending && !(slot && *slot)); /* one operation at a time */
    aio->pending = true;
    aio->output = NULL;
    aio->slot = slot;
    if (slot) *slot = aio;
}

int nng_aio_alloc(nng_aio **aio, void (*done)(void *), void *arg) {
    *aio = calloc(1, sizeof **aio);
    if (!*aio) return NNG_ENOMEM;
    (*aio)->done = done;
    (*aio)->arg = arg;
    return 0;
}
void nng_aio_stop(nng_aio *aio) {
    complete(aio, NNG_ECANCELED, 0);
}
void nng_aio_abort(nng_aio *aio, int error) {
    complete(aio, error, 0);
}
void nng_aio_wait(nng_aio *aio) {
    CHECK(!aio->pending); /* for ever */
}
void nng_aio_free(nng_aio *aio) {
    CHECK(!aio->pending);
    free(aio);
}
int nng_aio_result(nng_aio *aio) {
    return aio->result;
}
size_t nng_aio_count(nng_aio *aio) {
    return aio->count;
}
void nng_aio_set_timeout(nng_aio *aio, nng_duration ms) {
    (void)aio;
    (void)ms;
}
int nng_aio_set_iov(nng_aio *aio, unsigned n, const nng_iov *iov) {
    CHECK(n <= 8 && !aio->pending);
    memcpy(aio->iov, iov, n * sizeof *iov);
    aio->n_iov = n;
    return 0;
}
void *nng_aio_get_output(nng_aio *aio, unsigned index) {
    CHECK(index == 0);
    return aio->output;
}
void nng_sleep_aio(nng_duration ms, nng_aio *aio) {
    (void)ms;
    begin(aio, NULL);
}
const char *nng_strerror(int error) {
    return error == NNG_ECONNSHUT ? "Connection shutdown" : "an error of the network";
}

void nng_stream_recv(nng_stream *s, nng_aio *aio) {
    CHECK(!s->gone && aio->n_iov == 1 && aio->iov[0].iov_len > 0);
    begin(aio, &s->recv);
}
/* Copies what is to be sent; all of it is read, so that ASan looks on. */
static size_t gather(const struct nng_aio *aio, uint8_t *out, size_t max) {
    size_t n = 0;
    for (unsigned i = 0; i < aio->n_iov && n < max; i++) {
        size_t part = aio->iov[i].iov_len < max - n ? aio->iov[i].iov_len : max - n;
        if (part) memcpy(out + n, aio->iov[i].iov_buf, part);
        n += part;
    }
    return n;
}

static size_t total_bytes(const struct nng_aio *aio) {
    size_t n = 0;
    for (unsigned i = 0; i < aio->n_iov; i++) n += aio->iov[i].iov_len;
    return n;
}

/* An operation without a callback is done at once, as far as the socket has room, or not at all. */
void nng_stream_send(nng_stream *s, nng_aio *aio) {
    CHECK(!s->gone && aio->n_iov > 0 && total_bytes(aio) > 0);
    begin(aio, aio->done ? &s->send : NULL);
    if (aio->done) return;
    size_t room = s->room_bytes > s->taken.size_bytes ? s->room_bytes - s->taken.size_bytes : 0;
    size_t n = total_bytes(aio) < room ? total_bytes(aio) : room;
    if (n == 0) return;
    uint8_t *at = buffer_extend(&s->taken, n);
    if (!at) { /* as a socket that has no room now */
        s->taken.failed = false;
        return;
    }
    complete(aio, 0, gather(aio, at, n));
}
void nng_stream_close(nng_stream *s) {
    CHECK(!s->gone);
    s->closed = true;
}
void nng_stream_free(nng_stream *s) {
    CHECK(!s->gone && !s->recv && !s->send);
    s->gone = true;
}
int nng_stream_get_addr(nng_stream *s, const char *name, nng_sockaddr *sa) {
    (void)s;
    (void)name;
    memset(sa, 0, sizeof *sa);
    sa->s_in.sa_family = NNG_AF_INET;
    return 0;
}

int nng_stream_listener_alloc(nng_stream_listener **out, const char *url) {
    (void)url;
    *out = listener = calloc(1, sizeof *listener);
    return listener ? 0 : NNG_ENOMEM;
}
int nng_stream_listener_set_bool(nng_stream_listener *l, const char *name, bool value) {
    (void)l;
    (void)name;
    (void)value;
    return 0;
}
int nng_stream_listener_get_int(nng_stream_listener *l, const char *name, int *value) {
    (void)l;
    (void)name;
    *value = 7401;
    return 0;
}
int nng_stream_listener_listen(nng_stream_listener *l) {
    (void)l;
    return 0;
}
void nng_stream_listener_accept(nng_stream_listener *l, nng_aio *aio) {
    begin(aio, &l->accept);
}
void nng_stream_listener_close(nng_stream_listener *l) {
    complete(l->accept, NNG_ECLOSED, 0);
}
void nng_stream_listener_free(nng_stream_listener *l) {
    free(l);
}

int nng_stream_dialer_alloc(nng_stream_dialer **out, const char *url) {
    (void)url;
    *out = calloc(1, sizeof **out);
    return *out ? 0 : NNG_ENOMEM;
}
int nng_stream_dialer_set_bool(nng_stream_dialer *d, const char *name, bool value) {
    (void)d;
    (void)name;
    (void)value;
    return 0;
}
void nng_stream_dialer_dial(nng_stream_dialer *d, nng_aio *aio) {
    begin(aio, &d->dial);
    CHECK(n_dialling < MAX_STREAMS);
    dialling[n_dialling++] = d;
}
void nng_stream_dialer_close(nng_stream_dialer *d) {
    complete(d->dial, NNG_ECLOSED, 0);
}
void nng_stream_dialer_free(nng_stream_dialer *d) {
    CHECK(!d->dial);
    for (size_t i = 0; i < n_dialling; i++)
        if (dialling[i] == d) dialling[i--] = dialling[--n_dialling];
    free(d);
}

/* ---- rpc/loop.c */

static struct rpc_conn *conns, *kicked, *to_reap;

bool loop_start(void) {
    return true;
}
void loop_add(struct rpc_conn *conn) {
    conn_ref(conn);
    conn->loop_prev = NULL;
    conn->loop_next = conns;
    if (conns) conns->loop_prev = conn;
    conns = conn;
}
void loop_remove(struct rpc_conn *conn) {
    if (conn->loop_prev)
        conn->loop_prev->loop_next = conn->loop_next;
    else
        conns = conn->loop_next;
    if (conn->loop_next) conn->loop_next->loop_prev = conn->loop_prev;
    conn_unref(conn);
}
void loop_wake_at(uint64_t at_ms) {
    (void)at_ms; /* every connection is looked at whenever time passes */
}
void loop_kick(struct rpc_conn *conn) {
    if (conn->kicked) return;
    conn->kicked = true;
    conn_ref(conn);
    conn->kick_next = kicked;
    kicked = conn;
}
void loop_reap(struct rpc_conn *conn) {
    conn->reap_next = to_reap;
    to_reap = conn;
}

void fake_net_run(void) {
    while (kicked || to_reap) {
        struct rpc_conn *conn = kicked;
        if (conn) {
            kicked = conn->kick_next;
            pthread_mutex_lock(&conn->mu);
            conn->kicked = false;
            conn_run(conn);
            pthread_mutex_unlock(&conn->mu);
            conn_unref(conn);
        } else {
            conn = to_reap;
            to_reap = conn->reap_next;
            conn_reap(conn);
        }
    }
}

/* Each connection that is there, locked or not; what `visit` does may end any of them. */
static void each_conn(void (*visit)(struct rpc_conn *)) {
    struct rpc_conn *list[MAX_STREAMS];
    size_t n = 0;
    for (struct rpc_conn *conn = conns; conn; conn = conn->loop_next) {
        CHECK(n < MAX_STREAMS);
        conn_ref(conn);
        list[n++] = conn;
    }
    for (size_t i = 0; i < n; i++) {
        visit(list[i]);
        conn_unref(list[i]);
    }
    fake_net_run();
}

static void tick(struct rpc_conn *conn) {
    if (atomic_load(&conn->due_ms) <= now_ms) conn_tick(conn, now_ms);
}

void fake_net_pass(uint64_t ms) {
    now_ms += ms;
    each_conn(tick);
}

static void fail(struct rpc_conn *conn) {
    pthread_mutex_lock(&conn->mu);
    conn_fail(conn, REPLOG_UNAVAILABLE, "the harness ends");
    conn_run(conn);
    pthread_mutex_unlock(&conn->mu);
}

void fake_net_end_all(void) {
    fake_net_run();
    each_conn(fail);
    CHECK(conns == NULL && n_dialling == 0);
}

/* ---- The other side */

void fake_net_begin(void) {
    now_ms = FIRST_MS;
    random_state = 1;
    for (size_t i = 0; i < n_streams; i++) {
        CHECK(streams[i]->gone);
        buffer_free(&streams[i]->taken);
        free(streams[i]);
    }
    n_streams = 0;
}

nng_stream *fake_net_connect(void) {
    struct nng_aio *aio = listener->accept;
    if (!aio) return NULL;
    nng_stream *s = stream_new();
    if (!s) return NULL;
    aio->output = s;
    complete(aio, 0, 0);
    fake_net_run();
    return s;
}

nng_stream *fake_net_answer_dial(int error) {
    struct nng_aio *aio = NULL;
    while (!aio && n_dialling > 0) aio = dialling[--n_dialling]->dial; /* or it was given up */
    if (!aio) return NULL;
    nng_stream *s = error ? NULL : stream_new();
    if (!s && !error) error = NNG_ENOMEM;
    aio->output = s;
    complete(aio, error, 0);
    fake_net_run();
    return s;
}

bool fake_net_is_gone(const nng_stream *stream) {
    return stream->gone;
}

size_t fake_net_feed(nng_stream *s, const uint8_t *data, size_t size_bytes) {
    struct nng_aio *aio = s->recv;
    if (s->gone || !aio || size_bytes == 0) return 0;
    size_t n = size_bytes < aio->iov[0].iov_len ? size_bytes : aio->iov[0].iov_len;
    memcpy(aio->iov[0].iov_buf, data, n);
    complete(aio, 0, n);
    fake_net_run();
    return n;
}

void fake_net_set_room(nng_stream *s, size_t room_bytes) {
    s->room_bytes = room_bytes;
}

size_t fake_net_take(nng_stream *s, uint8_t *out, size_t max) {
    size_t n = s->taken.size_bytes < max ? s->taken.size_bytes : max;
    if (n > 0) { /* also when the connection has ended behind it */
        memcpy(out, s->taken.data, n);
        s->taken.size_bytes -= n;
        memmove(s->taken.data, s->taken.data + n, s->taken.size_bytes);
        return n;
    }
    struct nng_aio *aio = s->send;
    if (s->gone || !aio || max == 0) return 0;
    n = gather(aio, out, max);
    complete(aio, 0, n);
    fake_net_run();
    return n;
}

void fake_net_hang_up(nng_stream *s) {
    if (s->gone) return;
    complete(s->recv, NNG_ECONNSHUT, 0);
    if (!s->gone) complete(s->send, NNG_ECONNSHUT, 0);
    fake_net_run();
}

/* loop.c: the two threads of the module. One works off what users' threads left behind (kicks) and
 * looks after time: deadlines, handshakes, keepalive, redialling. The other, the reaper, ends
 * connections: it may wait for nng, which no callback may. */
#include <time.h>

#include "base/check.h"
#include "base/clock.h"
#include "rpc/internal.h"

static struct {
    pthread_mutex_t mu;
    pthread_cond_t work, reap_work;
    struct rpc_conn *conns; /* each with a reference of this list */
    struct rpc_conn *kicked, *kicked_tail;
    struct rpc_conn *to_reap;
    _Atomic uint64_t wake_ms; /* when the loop wakes by itself */
    bool started;
} loop = {.mu = PTHREAD_MUTEX_INITIALIZER};

static void wait_until(uint64_t at_ms) {
    struct timespec ts;
    ts.tv_sec = (time_t)(at_ms / 1000);
    ts.tv_nsec = (long)(at_ms % 1000) * 1000000;
    if (at_ms == UINT64_MAX)
        pthread_cond_wait(&loop.work, &loop.mu);
    else
        pthread_cond_timedwait(&loop.work, &loop.mu, &ts);
}

/* Takes the connections whose time has come, each with a reference; sets when the next is due. */
static struct rpc_conn *take_due(uint64_t now) {
    struct rpc_conn *due = NULL;
    uint64_t next = UINT64_MAX;
    /* First of all: whoever sets an earlier time from now on waits for the lock and wakes us. */
    atomic_store(&loop.wake_ms, UINT64_MAX);
    for (struct rpc_conn *conn = loop.conns; conn; conn = conn->loop_next) {
        uint64_t at = atomic_load(&conn->due_ms);
        if (at <= now) {
            conn_ref(conn);
            conn->visit = due;
            due = conn;
        } else if (at < next) {
            next = at;
        }
    }
    atomic_store(&loop.wake_ms, next);
    return due;
}

static void run_kicks(void) {
    while (loop.kicked) {
        struct rpc_conn *conn = loop.kicked;
        loop.kicked = conn->kick_next;
        pthread_mutex_unlock(&loop.mu);
        pthread_mutex_lock(&conn->mu);
        conn->kicked = false;
        conn_run(conn);
        pthread_mutex_unlock(&conn->mu);
        conn_unref(conn);
        pthread_mutex_lock(&loop.mu);
    }
}

static void *loop_main(void *unused) {
    (void)unused;
    pthread_mutex_lock(&loop.mu);
    for (;;) {
        run_kicks();
        uint64_t now = clock_mono_ms();
        if (now >= atomic_load(&loop.wake_ms)) {
            struct rpc_conn *due = take_due(now);
            pthread_mutex_unlock(&loop.mu);
            while (due) {
                struct rpc_conn *conn = due;
                due = conn->visit;
                conn_tick(conn, now);
                conn_unref(conn);
            }
            pthread_mutex_lock(&loop.mu);
            continue;
        }
        wait_until(atomic_load(&loop.wake_ms));
    }
    return NULL;
}

static void *reaper_main(void *unused) {
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&loop.mu);
        while (!loop.to_reap) pthread_cond_wait(&loop.reap_work, &loop.mu);
        struct rpc_conn *conn = loop.to_reap;
        loop.to_reap = conn->reap_next;
        pthread_mutex_unlock(&loop.mu);
        conn_reap(conn);
    }
    return NULL;
}

static bool start_locked(void) {
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&loop.work, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&loop.reap_work, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, loop_main, NULL) != 0) return false;
    pthread_detach(thread);
    /* Without a reaper nothing works, and the first thread cannot be taken back. */
    CHECK(pthread_create(&thread, NULL, reaper_main, NULL) == 0);
    pthread_detach(thread);
    return true;
}

bool loop_start(void) {
    pthread_mutex_lock(&loop.mu);
    if (!loop.started) loop.started = start_locked();
    bool ok = loop.started;
    pthread_mutex_unlock(&loop.mu);
    return ok;
}

void loop_add(struct rpc_conn *conn) {
    conn_ref(conn);
    pthread_mutex_lock(&loop.mu);
    conn->loop_prev = NULL;
    conn->loop_next = loop.conns;
    if (loop.conns) loop.conns->loop_prev = conn;
    loop.conns = conn;
    atomic_store(&loop.wake_ms, 0); /* have it counted */
    pthread_cond_signal(&loop.work);
    pthread_mutex_unlock(&loop.mu);
}

void loop_remove(struct rpc_conn *conn) {
    pthread_mutex_lock(&loop.mu);
    if (conn->loop_prev)
        conn->loop_prev->loop_next = conn->loop_next;
    else
        loop.conns = conn->loop_next;
    if (conn->loop_next) conn->loop_next->loop_prev = conn->loop_prev;
    pthread_mutex_unlock(&loop.mu);
    conn_unref(conn);
}

void loop_wake_at(uint64_t at_ms) {
    if (at_ms >= atomic_load(&loop.wake_ms)) return;
    pthread_mutex_lock(&loop.mu);
    if (at_ms < atomic_load(&loop.wake_ms)) {
        atomic_store(&loop.wake_ms, at_ms);
        pthread_cond_signal(&loop.work);
    }
    pthread_mutex_unlock(&loop.mu);
}

void loop_kick(struct rpc_conn *conn) {
    if (conn->kicked) return;
    conn->kicked = true;
    conn_ref(conn);
    pthread_mutex_lock(&loop.mu);
    conn->kick_next = NULL;
    if (loop.kicked)
        loop.kicked_tail->kick_next = conn;
    else
        loop.kicked = conn;
    loop.kicked_tail = conn;
    pthread_cond_signal(&loop.work);
    pthread_mutex_unlock(&loop.mu);
}

void loop_reap(struct rpc_conn *conn) {
    pthread_mutex_lock(&loop.mu);
    conn->reap_next = loop.to_reap;
    loop.to_reap = conn;
    pthread_cond_signal(&loop.reap_work);
    pthread_mutex_unlock(&loop.mu);
}

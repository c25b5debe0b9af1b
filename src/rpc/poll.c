/* poll.c: the threads that wait for bytes. nng's poller hands each receive that completed on to
 * one of its task threads: two wake-ups for every message, of 25 us each when the processors are
 * idle. These threads wait for a stream's socket themselves, edge-triggered, and the bytes are then
 * received through nng on the same thread (receive_now in conn.c). nng does not tell the descriptor
 * of a stream: it is found by the stream's two addresses, which no other socket of the process has.
 * When it is not found, nng's own way is taken. */
#include <dirent.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "rpc/internal.h"

enum { POLL_THREADS = 2, MAX_FDS = 65536 };

static struct {
    pthread_mutex_t mu;
    int epoll;
    bool started, off;
    /* Borrowed: each is forgotten before its stream is closed. An event that was fetched before may
     * meet the next owner of the descriptor, which then looks for bytes in vain. */
    struct rpc_conn *by_fd[MAX_FDS];
} polled = {.mu = PTHREAD_MUTEX_INITIALIZER, .epoll = -1};

static void *poll_main(void *unused) {
    (void)unused;
    for (;;) {
        struct epoll_event event;
        /* one at a time: another thread takes the next while this one is at work */
        if (epoll_wait(polled.epoll, &event, 1, -1) != 1) continue;
        pthread_mutex_lock(&polled.mu);
        struct rpc_conn *conn = polled.by_fd[event.data.fd];
        if (conn) conn_ref(conn);
        pthread_mutex_unlock(&polled.mu);
        if (!conn) continue;
        conn_readable(conn, event.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        conn_unref(conn);
    }
    return NULL;
}

static bool start_locked(void) {
    polled.epoll = epoll_create1(EPOLL_CLOEXEC);
    unsigned n = 0;
    for (; polled.epoll >= 0 && n < POLL_THREADS; n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, poll_main, NULL) != 0) break;
        pthread_detach(thread);
    }
    return n > 0;
}

/* ---- The descriptor of a stream */

static bool same(const nng_sockaddr *a, const struct sockaddr_storage *b) {
    const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)b;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)b;
    if (a->s_family == NNG_AF_INET && b->ss_family == AF_INET)
        return a->s_in.sa_addr == in->sin_addr.s_addr && a->s_in.sa_port == in->sin_port;
    if (a->s_family == NNG_AF_INET6 && b->ss_family == AF_INET6)
        return memcmp(a->s_in6.sa_addr, &in6->sin6_addr, 16) == 0 &&
               a->s_in6.sa_port == in6->sin6_port;
    return false;
}

static bool is_of(int fd, const nng_sockaddr *local, const nng_sockaddr *remote) {
    struct sockaddr_storage name = {0}, peer = {0};
    socklen_t name_bytes = sizeof name, peer_bytes = sizeof peer;
    return getpeername(fd, (struct sockaddr *)&peer, &peer_bytes) == 0 && same(remote, &peer) &&
           getsockname(fd, (struct sockaddr *)&name, &name_bytes) == 0 && same(local, &name);
}

static int find_locked(nng_stream *stream) {
    nng_sockaddr local, remote;
    int found = -1;
    if (nng_stream_get_addr(stream, NNG_OPT_LOCADDR, &local) != 0 ||
        nng_stream_get_addr(stream, NNG_OPT_REMADDR, &remote) != 0)
        return -1;
    DIR *dir = opendir("/proc/self/fd");
    for (const struct dirent *e; dir && found < 0 && (e = readdir(dir)) != NULL;) {
        long fd = strtol(e->d_name, NULL, 10);
        bool mine = fd > 0 && fd < MAX_FDS && !polled.by_fd[fd];
        if (mine && is_of((int)fd, &local, &remote)) found = (int)fd;
    }
    if (dir) closedir(dir);
    return found;
}

int poll_watch(struct rpc_conn *conn) {
    pthread_mutex_lock(&polled.mu);
    if (!polled.started) polled.started = start_locked();
    int fd = polled.started && !polled.off ? find_locked(conn->stream) : -1;
    if (fd >= 0) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
        polled.by_fd[fd] = conn;
        if (epoll_ctl(polled.epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
            polled.by_fd[fd] = NULL;
            fd = -1;
        }
    }
    pthread_mutex_unlock(&polled.mu);
    return fd;
}

void poll_again(int fd) {
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.fd = fd};
    (void)epoll_ctl(polled.epoll, EPOLL_CTL_MOD, fd, &event);
}

void poll_forget(const struct rpc_conn *conn, int fd) {
    pthread_mutex_lock(&polled.mu);
    if (polled.by_fd[fd] == conn) {
        polled.by_fd[fd] = NULL;
        (void)epoll_ctl(polled.epoll, EPOLL_CTL_DEL, fd, NULL);
    }
    pthread_mutex_unlock(&polled.mu);
}

void poll_off(bool off) {
    pthread_mutex_lock(&polled.mu);
    polled.off = off;
    pthread_mutex_unlock(&polled.mu);
}

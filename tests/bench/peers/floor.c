/* floor: a log of three processes that does nothing but send and sync, as a measure for what this
 * machine makes of such work. A leader, two followers and a client, one thread each, send the same
 * bytes over TCP and overwrite+fdatasync them; an answer goes out when the leader and one follower
 * have synced (replog also answers when both followers have and its own disk is late). Nothing is
 * encoded, checked, found again after a crash, or kept for a slow follower. Whatever has come in
 * meanwhile is the next group.
 *
 *   floor DIR INFLIGHT BATCH SIZE SECONDS WARMUP     (bench.h) */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "bench.h"

enum { FILE_BYTES = 16 << 20, PAGE_BYTES = 4096, FOLLOWERS = 2, BUFFER_BYTES = 8 << 20 };

/* ---- The disk: a file that is written around and around */

struct disk {
    int fd;
    off_t at;
};

static void disk_write(struct disk *d, const char *bytes, size_t n) {
    if (d->at + (off_t)n > FILE_BYTES) d->at = 0;
    if (pwrite(d->fd, bytes, n, d->at) != (ssize_t)n || fdatasync(d->fd))
        bench_die("floor: a write failed");
    d->at += (off_t)((n + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES);
}

/* ---- Connections */

static int listen_any(struct sockaddr_in *at) {
    socklen_t at_bytes = sizeof *at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    *at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || bind(fd, (struct sockaddr *)at, sizeof *at) || listen(fd, 1) ||
        getsockname(fd, (struct sockaddr *)at, &at_bytes))
        bench_die("floor: no listener");
    return fd;
}

static int no_delay(int fd) {
    if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int)))
        bench_die("floor: no connection");
    return fd;
}

static int dial(const struct sockaddr_in *at) {
    int fd = no_delay(socket(AF_INET, SOCK_STREAM, 0));
    if (connect(fd, (const struct sockaddr *)at, sizeof *at)) bench_die("floor: no connection");
    return fd;
}

static void send_all(int fd, const char *bytes, size_t n) {
    while (n) {
        ssize_t sent = send(fd, bytes, n, MSG_NOSIGNAL);
        if (sent <= 0) bench_die("floor: a connection broke");
        bytes += sent;
        n -= (size_t)sent;
    }
}

/* What is there, at least a byte; 0 at the end. */
static size_t receive(int fd, char *bytes, size_t room) {
    ssize_t n = recv(fd, bytes, room, 0);
    if (n < 0 && errno == ECONNRESET) return 0; /* it ended with something unread */
    if (n < 0) bench_die("floor: a connection broke");
    return (size_t)n;
}

/* ---- The three processes */

/* A group: its size in 8 bytes, and the bytes. Each is answered with one byte. */
static void follow(int listener, const char *dir) {
    struct disk disk = {.fd = bench_file(dir, FILE_BYTES)};
    int leader = no_delay(accept(listener, NULL, NULL));
    char *buffer = malloc(BUFFER_BYTES), acks[256] = {0};
    size_t have = 0, got;
    if (!buffer) bench_die("out of memory");
    while ((got = receive(leader, buffer + have, BUFFER_BYTES - have)) > 0) {
        size_t whole = 0, groups = 0;
        uint64_t size;
        for (have += got; have - whole >= sizeof size && groups < sizeof acks; groups++) {
            memcpy(&size, buffer + whole, sizeof size);
            if (have - whole < sizeof size + size) break;
            whole += sizeof size + size;
        }
        if (!groups) continue;
        disk_write(&disk, buffer, whole);
        send_all(leader, acks, groups);
        have -= whole;
        memmove(buffer, buffer + whole, have);
    }
}

static void wait_for_one(const int followers[FOLLOWERS], uint64_t acked[FOLLOWERS],
                         uint64_t group) {
    char acks[256];
    while (acked[0] < group && acked[1] < group) {
        struct pollfd p[FOLLOWERS] = {{.fd = followers[0], .events = POLLIN},
                                      {.fd = followers[1], .events = POLLIN}};
        if (poll(p, FOLLOWERS, -1) < 0) bench_die("floor: poll");
        for (unsigned i = 0; i < FOLLOWERS; i++) {
            if (!p[i].revents) continue;
            size_t n = receive(followers[i], acks, sizeof acks);
            if (!n) bench_die("floor: a follower left");
            acked[i] += n;
        }
    }
}

static void lead(int listener, const struct sockaddr_in followers_at[FOLLOWERS], const char *dir,
                 size_t request_bytes) {
    struct disk disk = {.fd = bench_file(dir, FILE_BYTES)};
    int client = no_delay(accept(listener, NULL, NULL)), followers[FOLLOWERS];
    for (unsigned i = 0; i < FOLLOWERS; i++) followers[i] = dial(&followers_at[i]);
    char *buffer = malloc(sizeof(uint64_t) + BUFFER_BYTES), *bytes = buffer + sizeof(uint64_t);
    char *answers = calloc(1, BUFFER_BYTES / request_bytes);
    uint64_t group = 0, acked[FOLLOWERS] = {0};
    size_t have = 0, got;
    if (!buffer || !answers) bench_die("out of memory");
    while ((got = receive(client, bytes + have, BUFFER_BYTES - have)) > 0) {
        have += got;
        uint64_t requests = have / request_bytes, size = requests * request_bytes;
        if (!requests) continue;
        memcpy(buffer, &size, sizeof size);
        for (unsigned i = 0; i < FOLLOWERS; i++) send_all(followers[i], buffer, sizeof size + size);
        disk_write(&disk, buffer, sizeof size + size);
        wait_for_one(followers, acked, ++group);
        send_all(client, answers, requests);
        have -= size;
        memmove(bytes, bytes + size, have);
    }
}

static void load(struct bench *b, int leader) {
    size_t request_bytes = b->batch * b->size_bytes;
    char *requests = malloc(b->inflight * request_bytes), *answers = malloc(b->inflight);
    uint64_t *sent_ns = malloc(b->inflight * sizeof *sent_ns), oldest = 0;
    if (!requests || !answers || !sent_ns) bench_die("out of memory");
    for (size_t i = 0; i < (size_t)b->inflight * b->batch; i++)
        memcpy(requests + i * b->size_bytes, b->value, b->size_bytes);
    bench_begin(b);
    for (unsigned i = 0; i < b->inflight; i++) sent_ns[i] = bench_now_ns();
    send_all(leader, requests, b->inflight * request_bytes);
    bool more = true;
    for (uint64_t waiting = b->inflight; waiting > 0;) {
        size_t n = receive(leader, answers, b->inflight);
        if (!n) bench_die("floor: the leader left");
        waiting -= n;
        for (size_t i = 0; i < n; i++)
            more = bench_answer(b, sent_ns[(oldest + i) % b->inflight]) && more;
        if (!more) {
            oldest += n;
            continue;
        }
        for (size_t i = 0; i < n; i++) sent_ns[oldest++ % b->inflight] = bench_now_ns();
        send_all(leader, requests, n * request_bytes);
        waiting += n;
    }
    bench_report(b, b->answered);
}

static bool is_child(void) {
    pid_t pid = fork();
    if (pid < 0) bench_die("floor: fork");
    if (pid == 0) prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid == 0;
}

int main(int argc, char **argv) {
    struct bench b = {0};
    struct sockaddr_in followers_at[FOLLOWERS], leader_at;
    bench_options(&b, argc, argv);
    if (b.inflight * b.batch * b.size_bytes > BUFFER_BYTES / 2) bench_die("floor: too much");
    for (unsigned i = 0; i < FOLLOWERS; i++) {
        int listener = listen_any(&followers_at[i]);
        if (is_child()) {
            follow(listener, b.target);
            return 0;
        }
        close(listener);
    }
    int listener = listen_any(&leader_at);
    if (is_child()) {
        lead(listener, followers_at, b.target, b.batch * b.size_bytes);
        return 0;
    }
    close(listener);
    int leader = dial(&leader_at);
    load(&b, leader);
    close(leader);
    for (unsigned i = 0; i <= FOLLOWERS; i++)
        if (wait(NULL) < 0) bench_die("floor: wait");
    return 0;
}

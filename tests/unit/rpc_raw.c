#include "rpc_raw.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"

void put(struct bytes *b, const void *data, size_t n) {
    assert_true(b->size + n <= sizeof b->data);
    memcpy(b->data + b->size, data, n);
    b->size += n;
}

void put_frame(struct bytes *b, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
               size_t n) {
    uint8_t head[9] = {(uint8_t)(n >> 16),
                       (uint8_t)(n >> 8),
                       (uint8_t)n,
                       type,
                       flags,
                       (uint8_t)(stream >> 24),
                       (uint8_t)(stream >> 16),
                       (uint8_t)(stream >> 8),
                       (uint8_t)stream};
    put(b, head, 9);
    if (n) put(b, payload, n);
}

void put_preface(struct bytes *b) {
    put(b, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
    put_frame(b, SETTINGS, 0, 0, NULL, 0);
}

void put_field(struct bytes *b, const char *name, const char *value) {
    uint8_t head[2] = {0, (uint8_t)strlen(name)}, size = (uint8_t)strlen(value);
    put(b, head, 2);
    put(b, name, head[1]);
    put(b, &size, 1);
    put(b, value, size);
}

void put_request(struct bytes *b, uint32_t stream, const char *path, uint8_t flags) {
    static struct bytes h;
    h.size = 0;
    put_field(&h, ":method", "POST");
    put_field(&h, ":scheme", "http");
    put_field(&h, ":path", path);
    put_field(&h, ":authority", "x");
    put_field(&h, "content-type", "application/grpc");
    put_field(&h, "te", "trailers");
    put_frame(b, HEADERS, flags, stream, h.data, h.size);
}

int raw_dial(uint16_t port) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_port = htons(port)};
    sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

bool send_all(int fd, const void *data, size_t n) {
    const uint8_t *p = data;
    while (n) {
        struct pollfd pfd = {.fd = fd, .events = POLLOUT};
        if (poll(&pfd, 1, 3000) <= 0) return false; /* the server does not read any more */
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0 && errno == EAGAIN) continue;
        if (k < 0) return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

bool hung_up(int fd, uint64_t wait_ms) {
    uint64_t until = clock_mono_ms() + wait_ms;
    static uint8_t sink[65536];
    for (uint64_t now; (now = clock_mono_ms()) < until;) {
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        if (poll(&pfd, 1, (int)(until - now)) > 0 && recv(fd, sink, sizeof sink, 0) <= 0)
            return true;
    }
    return false;
}

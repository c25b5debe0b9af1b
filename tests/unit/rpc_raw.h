/* rpc_raw.h: a client of raw frames, for what no proper client sends. */
#ifndef RPC_RAW_H
#define RPC_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    DATA,
    HEADERS,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    PUSH_PROMISE,
    PING,
    GOAWAY,
    WINDOW_UPDATE,
    CONTINUATION,
    UNKNOWN = 0xee
};
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };

struct bytes {
    uint8_t data[65536];
    size_t size;
};

void put(struct bytes *b, const void *data, size_t n);
void put_frame(struct bytes *b, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
               size_t n);
void put_preface(struct bytes *b); /* and SETTINGS */
void put_field(struct bytes *b, const char *name, const char *value);
/* HEADERS of a call; END_HEADERS among the flags, or not. */
void put_request(struct bytes *b, uint32_t stream, const char *path, uint8_t flags);

int raw_dial(uint16_t port);
/* False: the server does not read any more. */
bool send_all(int fd, const void *data, size_t n);
/* Reads and drops until the server hangs up; false after wait_ms. */
bool hung_up(int fd, uint64_t wait_ms);

#endif

/* fake_net.h: src/rpc without sockets, threads and clock: fake_net.c defines what it takes of nng,
 * of rpc/loop.c and of base/clock.c, so that one thread feeds bytes to real connections and takes
 * what they send, in virtual time. Where it has no memory, it says so as nng does. Link it in front
 * of replog_rpc. */
#ifndef TESTS_STAGE_FAKE_NET_H
#define TESTS_STAGE_FAKE_NET_H

#include <nng/nng.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The clock at the beginning of an input. */
void fake_net_begin(void);
/* Works off what waits for the module's threads: kicks, ends of connections. */
void fake_net_run(void);
/* Lets time pass, with everything that becomes due. */
void fake_net_pass(uint64_t ms);

/* A stranger connects to the listener; NULL: it does not accept now. Lives until the connection has
 * freed it. */
nng_stream *fake_net_connect(void);
/* The stream that a dialler asks for now: NULL when none does. With an error the dialling fails. */
nng_stream *fake_net_answer_dial(int error);

/* Bytes for the connection; how many it took (0: it is not receiving). */
size_t fake_net_feed(nng_stream *stream, const uint8_t *data, size_t size_bytes);
/* How many bytes the connection's socket takes at once, until fake_net_take has taken them; 0 (as
 * it begins): none, every send waits for fake_net_take. */
void fake_net_set_room(nng_stream *stream, size_t room_bytes);
/* Up to max bytes of what the connection is sending, which then counts as sent; 0: nothing under
 * way. */
size_t fake_net_take(nng_stream *stream, uint8_t *out, size_t max);
/* The other side is gone. */
void fake_net_hang_up(nng_stream *stream);
/* Whether the connection has freed the stream, after which the pointer must not be used any more.
 */
bool fake_net_is_gone(const nng_stream *stream);
/* Ends every connection, as if the network broke, and works off all that follows. */
void fake_net_end_all(void);

#endif

/* A whole HTTP/2 connection to replogd's services: bytes 0 to 2 say how the node answers, how large
 * the pieces are in which the rest arrives and in which answers leave, and how much time passes in
 * between; bit 7 of byte 0: the client's preface goes before it. Whatever comes, what the server
 * sends are frames, and nothing is left when the connection has ended. */
#include "fake_net.h"
#include "fuzz.h"
#include "server_stage.h"

static const uint8_t preface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                                 "\0\0\0\4\0\0\0\0\0"; /* and SETTINGS */

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    stage_start();
    return 0;
}

/* False: the connection has ended, or does not listen any more. */
static bool send_all(nng_stream *stream, const uint8_t *data, size_t n, size_t piece, size_t take,
                     uint64_t pass_ms) {
    unsigned idle = 0;
    while (n > 0) {
        size_t used =
            fake_net_is_gone(stream) ? 0 : fake_net_feed(stream, data, n < piece ? n : piece);
        data += used;
        n -= used;
        stage_step();
        if (fake_net_is_gone(stream)) return false;
        services_take(stream, take, NULL, 0);
        if (pass_ms) fake_net_pass(pass_ms);
        if (fake_net_is_gone(stream) || (used == 0 && ++idle > 8)) return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    static const uint16_t passes[] = {0, 0, 0, 1, 40, 400, 4000, 12000};
    struct fuzz f = {data, size_bytes};
    uint8_t node = fuzz_u8(&f), pieces = fuzz_u8(&f), time = fuzz_u8(&f);
    stage_begin(node & 127);
    nng_stream *stream = fake_net_connect();
    CHECK(stream != NULL);
    if (time & 32) fake_net_set_room(stream, time & 64 ? 100 : SIZE_MAX);
    size_t piece = pieces & 8 ? 1 + pieces % 8 * 5 : SIZE_MAX,
           take = pieces & 128 ? 1 + pieces / 16 * 3 : 0;
    if (!(node & 128) || send_all(stream, preface, sizeof preface - 1, SIZE_MAX, 0, 0))
        send_all(stream, f.data, f.left, piece, take, passes[time % 8]);
    for (int i = 0; i < 6 && !fake_net_is_gone(stream); i++) {
        stage_step();
        if (!fake_net_is_gone(stream)) services_take(stream, take, NULL, 0);
        if (time & 8) fake_net_pass(1000);
    }
    if (time & 16) fake_net_hang_up(stream);
    stage_end();
    return 0;
}

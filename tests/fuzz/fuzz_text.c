/* Small texts: addresses and lists of them on both sides, sizes, gRPC's timeouts and
 * percent-encoded messages. The text is given to all. */
#include "fuzz.h"
#include "client/lib_internal.h"
#include "rpc/internal.h"
#include "server/options.h"

static void endpoints(const char *text) {
    replog_client *c = calloc(1, sizeof *c);
    replog_error err;
    CHECK(c != NULL);
    c->leader = -1;
    replog_status status = client_endpoints_parse(c, text, &err);
    CHECK(status == REPLOG_OK || status == REPLOG_INVALID_ARGUMENT);
    CHECK(c->n_endpoints >= 0 && c->n_endpoints <= CLIENT_MAX_ENDPOINTS);
    for (int i = 0; i < c->n_endpoints; i++) {
        const char *address = c->endpoints[i].address;
        CHECK(strlen(address) <= CLIENT_MAX_ADDRESS && client_address_valid(address));
        CHECK(strstr(text, address) != NULL);
        for (int k = 0; k < i; k++) CHECK(strcmp(address, c->endpoints[k].address) != 0);
    }
    if (status == REPLOG_OK) {
        CHECK(c->n_endpoints > 0);
        int i = client_endpoint_pick_locked(c);
        CHECK(i >= 0 && i < c->n_endpoints);
        i = client_endpoint_find_locked(c, text);
        CHECK(i >= -1 && i < c->n_endpoints);
    }
    free(c);
}

/* A hint as a server sends it ("ID HOST:PORT") leads to an address that can be dialled, or nowhere.
 */
static void hint(const char *text) {
    replog_client *c = calloc(1, sizeof *c);
    replog_error err;
    struct client_call call = {.client = c, .status = REPLOG_UNAVAILABLE};
    CHECK(c && client_endpoints_parse(c, "127.0.0.1:7401", &err) == REPLOG_OK);
    snprintf(call.text, sizeof call.text, "%s", text);
    snprintf(call.leader, sizeof call.leader, "%s", text);
    c->leader = -1;
    bool at_once = client_endpoint_failed_locked(c, &call);
    CHECK(!at_once || (c->leader > 0 && client_address_valid(c->endpoints[c->leader].address)));
    free(c);
}

static void addresses(const char *text) {
    char url[300], host[OPTIONS_ADDRESS_BYTES];
    uint16_t port = 0;
    memset(host, 'x', sizeof host);
    if (options_split_address(text, host, &port))
        CHECK(port > 0 && memchr(host, 0, sizeof host) && host[0]);
    options_is_loopback(text);
    if (address_url(text, url, sizeof url))
        CHECK(strncmp(url, "tcp://", 6) == 0 && strcmp(url + 6, text) == 0);
    char small[24];
    if (address_url(text, small, sizeof small)) CHECK(strlen(small) == strlen(text) + 6);
}

static void clusters(const char *text) {
    struct config cluster = {0};
    replog_error err;
    uint64_t value;
    if (options_parse_cluster(text, &cluster, &err) == REPLOG_OK) {
        CHECK(cluster.n_members > 0 && cluster.n_members <= CONFIG_MAX_MEMBERS);
        uint64_t before = 0;
        for (uint32_t i = 0; i < cluster.n_members; i++) {
            char host[OPTIONS_ADDRESS_BYTES];
            uint16_t port;
            CHECK(cluster.members[i].id > before);
            before = cluster.members[i].id;
            CHECK(options_split_address(cluster.members[i].address, host, &port));
        }
    } else {
        CHECK(err.text[0] && cluster.n_members == 0);
    }
    if (options_parse_size(text, &value, &err) == REPLOG_OK)
        CHECK(text[0] >= '0' && text[0] <= '9');
}

static void grpc(const uint8_t *bytes, size_t n, const char *text) {
    uint64_t ms = 0;
    if (timeout_parse(bytes, n, &ms)) CHECK(ms <= (uint64_t)99999999 * 3600000);
    char *decoded = message_decode(bytes, n);
    CHECK(decoded && strlen(decoded) <= n);
    free(decoded);
    char *encoded = message_encode(text);
    CHECK(encoded != NULL);
    for (const char *c = encoded; *c; c++) CHECK(*c >= 0x20 && *c <= 0x7e);
    decoded = message_decode((const uint8_t *)encoded, strlen(encoded));
    size_t told = strlen(text) < STATUS_TEXT_MAX ? strlen(text) : STATUS_TEXT_MAX;
    CHECK(decoded && strlen(decoded) == told && memcmp(decoded, text, told) == 0);
    free(encoded);
    free(decoded);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes) {
    char *text = fuzz_text(data, size_bytes);
    uint8_t *bytes = fuzz_exact(data, size_bytes);
    endpoints(text);
    hint(text);
    addresses(text);
    clusters(text);
    grpc(bytes, size_bytes, text);
    free(bytes);
    free(text);
    return 0;
}

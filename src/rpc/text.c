/* text.c: the text forms of gRPC's headers (timeouts, messages, statuses) and of addresses. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>

#include "rpc/internal.h"

/* ---- grpc-timeout: up to eight digits and a unit */

bool timeout_parse(const uint8_t *text, size_t size_bytes, uint64_t *timeout_ms) {
    if (size_bytes < 2 || size_bytes > 9) return false;
    uint64_t n = 0;
    for (size_t i = 0; i + 1 < size_bytes; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        n = n * 10 + (uint64_t)(text[i] - '0');
    }
    switch (text[size_bytes - 1]) {
    case 'H':
        *timeout_ms = n * 3600000;
        break;
    case 'M':
        *timeout_ms = n * 60000;
        break;
    case 'S':
        *timeout_ms = n * 1000;
        break;
    case 'm':
        *timeout_ms = n;
        break;
    case 'u':
        *timeout_ms = (n + 999) / 1000;
        break;
    case 'n':
        *timeout_ms = (n + 999999) / 1000000;
        break;
    default:
        return false;
    }
    return true;
}

void timeout_format(uint32_t timeout_ms, char text[TIMEOUT_TEXT_BYTES]) {
    if (timeout_ms <= 99999999)
        snprintf(text, TIMEOUT_TEXT_BYTES, "%" PRIu32 "m", timeout_ms);
    else
        snprintf(text, TIMEOUT_TEXT_BYTES, "%" PRIu32 "S", timeout_ms / 1000);
}

/* ---- grpc-message */

char *message_encode(const char *text) {
    size_t n = strnlen(text, STATUS_TEXT_MAX);
    char *out = malloc(3 * n + 1);
    if (!out) return NULL;
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c <= 0x7e && c != '%') {
            *p++ = (char)c;
        } else {
            static const char hex[] = "0123456789ABCDEF";
            *p++ = '%';
            *p++ = hex[c >> 4];
            *p++ = hex[c & 15];
        }
    }
    *p = 0;
    return out;
}

static int hex_digit(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c = (uint8_t)tolower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *message_decode(const uint8_t *text, size_t size_bytes) {
    if (size_bytes > (size_t)3 * STATUS_TEXT_MAX) size_bytes = (size_t)3 * STATUS_TEXT_MAX;
    char *out = malloc(size_bytes + 1);
    if (!out) return NULL;
    char *p = out;
    for (size_t i = 0; i < size_bytes; i++) {
        int high = -1, low = -1;
        if (text[i] == '%' && i + 2 < size_bytes) {
            high = hex_digit(text[i + 1]);
            low = hex_digit(text[i + 2]);
        }
        if (high >= 0 && low >= 0 && high + low > 0) {
            *p++ = (char)(high << 4 | low);
            i += 2;
        } else {
            *p++ = (char)text[i];
        }
    }
    *p = 0;
    return out;
}

/* ---- Statuses of what is not gRPC */

replog_status status_of_http(int http_status) {
    switch (http_status) {
    case 400:
        return REPLOG_INTERNAL;
    case 401:
        return REPLOG_UNAUTHENTICATED;
    case 403:
        return REPLOG_PERMISSION_DENIED;
    case 404:
        return REPLOG_UNIMPLEMENTED;
    case 429:
    case 502:
    case 503:
    case 504:
        return REPLOG_UNAVAILABLE;
    default:
        return REPLOG_UNKNOWN;
    }
}

replog_status status_of_h2_error(uint32_t error_code) {
    switch (error_code) {
    case NGHTTP2_REFUSED_STREAM:
        return REPLOG_UNAVAILABLE;
    case NGHTTP2_CANCEL:
        return REPLOG_CANCELLED;
    case NGHTTP2_ENHANCE_YOUR_CALM:
        return REPLOG_RESOURCE_EXHAUSTED;
    case NGHTTP2_INADEQUATE_SECURITY:
        return REPLOG_PERMISSION_DENIED;
    default:
        return REPLOG_INTERNAL;
    }
}

/* ---- Addresses */

static bool port_is_valid(const char *port) {
    size_t n = strlen(port);
    if (n < 1 || n > 5) return false;
    unsigned long v = 0;
    for (size_t i = 0; i < n; i++) {
        if (port[i] < '0' || port[i] > '9') return false;
        v = v * 10 + (unsigned long)(port[i] - '0');
    }
    return v <= 65535;
}

bool address_url(const char *address, char *url, size_t url_size) {
    const char *colon = address ? strrchr(address, ':') : NULL;
    if (!colon || colon == address || !port_is_valid(colon + 1)) return false;
    size_t host = (size_t)(colon - address);
    bool bracketed = address[0] == '[' && address[host - 1] == ']' && host > 2;
    for (size_t i = 0; i < host; i++) {
        unsigned char c = (unsigned char)address[i];
        bool fits = isalnum(c) || c == '.' || c == '-' || c == '_' ||
                    (bracketed && (c == ':' || c == '[' || c == ']' || c == '%'));
        if (!fits) return false;
    }
    int n = snprintf(url, url_size, "tcp://%s", address);
    return n > 0 && (size_t)n < url_size;
}

void address_of_stream(nng_stream *stream, char *text, size_t size_bytes) {
    nng_sockaddr sa;
    char host[INET6_ADDRSTRLEN] = "?";
    if (nng_stream_get_addr(stream, NNG_OPT_REMADDR, &sa) != 0) {
        snprintf(text, size_bytes, "?");
    } else if (sa.s_family == NNG_AF_INET) {
        inet_ntop(AF_INET, &sa.s_in.sa_addr, host, sizeof host);
        snprintf(text, size_bytes, "%s:%u", host, (unsigned)ntohs(sa.s_in.sa_port));
    } else if (sa.s_family == NNG_AF_INET6) {
        inet_ntop(AF_INET6, sa.s_in6.sa_addr, host, sizeof host);
        snprintf(text, size_bytes, "[%s]:%u", host, (unsigned)ntohs(sa.s_in6.sa_port));
    } else {
        snprintf(text, size_bytes, "?");
    }
}

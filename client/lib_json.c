#include "client/json.h"

static size_t utf8_length(const uint8_t *p, size_t left) {
    uint8_t c = p[0];
    if (c < 0x80) return 1;
    size_t n = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || n > left) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) return 0;
    }
    /* overlong forms, surrogates, and what lies beyond the last code point */
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f)) return 0;
    if ((c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f)) return 0;
    return n;
}

bool json_is_utf8(const void *data, size_t size_bytes) {
    const uint8_t *p = data;
    for (size_t i = 0; i < size_bytes;) {
        size_t n = utf8_length(p + i, size_bytes - i);
        if (n == 0) return false;
        i += n;
    }
    return true;
}

static void escape(struct buffer *b, uint8_t c) {
    static const char short_forms[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (size_t i = 0; i + 1 < sizeof short_forms; i += 2) {
        if ((uint8_t)short_forms[i] != c) continue;
        buffer_u8(b, '\\');
        buffer_u8(b, (uint8_t)short_forms[i + 1]);
        return;
    }
    buffer_printf(b, "\\u%04x", c);
}

void json_string(struct buffer *b, const void *data, size_t size_bytes) {
    const uint8_t *p = data;
    size_t from = 0;
    buffer_u8(b, '"');
    for (size_t i = 0; i < size_bytes; i++) {
        if (p[i] >= 0x20 && p[i] != '"' && p[i] != '\\' && p[i] != 0x7f) continue;
        if (i > from) buffer_append(b, p + from, i - from);
        escape(b, p[i]);
        from = i + 1;
    }
    if (size_bytes > from) buffer_append(b, p + from, size_bytes - from);
    buffer_u8(b, '"');
}

void json_base64(struct buffer *b, const void *data, size_t size_bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;
    buffer_u8(b, '"');
    for (size_t i = 0; i < size_bytes; i += 3) {
        size_t left = size_bytes - i;
        uint32_t v = (uint32_t)p[i] << 16;
        if (left > 1) v |= (uint32_t)p[i + 1] << 8;
        if (left > 2) v |= p[i + 2];
        char quad[4] = {digits[v >> 18], digits[v >> 12 & 63], left > 1 ? digits[v >> 6 & 63] : '=',
                        left > 2 ? digits[v & 63] : '='};
        buffer_append(b, quad, sizeof quad);
    }
    buffer_u8(b, '"');
}

void json_member(struct buffer *b, const char *name) {
    if (b->size_bytes) {
        uint8_t last = b->data[b->size_bytes - 1];
        if (last != '{' && last != '[') buffer_u8(b, ',');
    }
    json_string(b, name, strlen(name));
    buffer_u8(b, ':');
}

void json_number(struct buffer *b, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    buffer_append(b, digits + at, sizeof digits - at);
}

void json_bytes_member(struct buffer *b, const char *name, const char *name_b64, const void *data,
                       size_t size_bytes) {
    if (json_is_utf8(data, size_bytes)) {
        json_member(b, name);
        json_string(b, data, size_bytes);
    } else {
        json_member(b, name_b64);
        json_base64(b, data, size_bytes);
    }
}

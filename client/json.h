/* json.h: writing JSON into a buffer: what replog prints is flat objects of numbers and strings,
 * and a record's bytes are escaped at the speed of a read. Hides: escapes, UTF-8's rules, base64.
 */
#ifndef CLIENT_JSON_H
#define CLIENT_JSON_H

#include "base/bytes.h"

bool json_is_utf8(const void *data, size_t size_bytes);
/* A string with its quotes. The bytes must be UTF-8. */
void json_string(struct buffer *b, const void *data, size_t size_bytes);
/* The bytes in base64 (RFC 4648, padded), with quotes. */
void json_base64(struct buffer *b, const void *data, size_t size_bytes);
void json_number(struct buffer *b, uint64_t value);
/* ,"name": (without the comma behind an opening brace or bracket) */
void json_member(struct buffer *b, const char *name);
/* "name":"..." when the bytes are UTF-8, "name_b64":"..." otherwise. */
void json_bytes_member(struct buffer *b, const char *name, const char *name_b64, const void *data,
                       size_t size_bytes);

#endif

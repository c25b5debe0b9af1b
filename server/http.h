/* http.h: /health, /metrics and a plain status page. Hides: libmicrohttpd, the texts. */
#ifndef SERVER_HTTP_H
#define SERVER_HTTP_H

#include "base/bytes.h"
#include "server/server.h"

/* Listens on options.http; nothing to do when that is empty. UNAVAILABLE names the address. */
replog_status http_start(struct server *s, replog_error *err);
void http_stop(struct server *s);

/* metrics.c: the page in Prometheus' text format. */
void metrics_render(struct server *s, struct buffer *out);

#endif

/* bench_load.h: a load of appends for `replog bench`. Closed: so many appends in flight, each
 * answer starts the next. Open (rate > 0): appends are due at fixed times, whatever the cluster
 * does; the latency of each, also of those that failed, counts from the time when it was due, so
 * that a stall shows in every append that it delayed (no coordinated omission). Hides: slots,
 * pacing, what is counted. */
#ifndef CLIENT_BENCH_LOAD_H
#define CLIENT_BENCH_LOAD_H

#include <stdbool.h>
#include <stdint.h>

#include "client/histogram.h"
#include "replog/client.h"

struct bench_load {
    replog_client *client;
    replog_append_options append;
    uint64_t size_bytes; /* of a value */
    uint64_t batch;      /* records in one append */
    uint64_t inflight;   /* appends; an open load waits when there are more */
    uint64_t rate;       /* appends due per second; 0: closed */
    uint64_t warmup_ms, count_ms;
    bool keyed; /* with keys, spread over 2^64, that no run before had */
};

struct bench_figures {
    struct histogram latency; /* ns, of appends; closed: of those that did not fail */
    uint64_t records;         /* answered while it counted; open: due while it counted */
    uint64_t late;            /* open: appends that were due and could not even be sent */
    uint64_t errors;
    uint64_t counted_ns;
    const char *ended_early;  /* why; NULL: it ran its time */
    replog_error first_error; /* status 0: none */
};

/* About how many bytes one append holds in flight, for the client's window. */
uint64_t bench_append_bytes(const struct bench_load *load);
/* Runs the load to its end, or until it is interrupted or 1,000 appends in a row failed, with a
 * progress line. Every append has its answer on return; who interrupts a second time ends the
 * process. RESOURCE_EXHAUSTED: no memory or thread. */
replog_status bench_run(const struct bench_load *load, struct bench_figures *figures,
                        replog_error *err);

#endif

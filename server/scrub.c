#include "server/scrub.h"

#include <inttypes.h>

#include "base/log.h"
#include "server/thread.h"

enum {
    NEXT_ROUND_MS = 6 * 3600 * 1000,
    SLICE_BYTES = 1 << 20,
    SLICE_WAIT_MS = 62, /* about 16 MiB a second */
    READER_SLICES = 16  /* then the reader is opened anew, so that it holds no segment for long */
};

static void found_damage(struct server *s, const char *text) {
    log_error("scrub: %s", text);
    stats_add(&s->stats.scrub_errors, 1);
    atomic_store(&s->damaged, true);
}

/* Where a round goes on that is at `seq` (0: it begins). One that truncation has overtaken goes to
 * the middle of what is left: what lies at the edge is dropped next, and could not be recycled
 * while it is read. */
static uint64_t go_on_at(uint64_t seq, uint64_t first_seq, uint64_t end_seq) {
    if (seq >= first_seq) return seq;
    if (seq == 0 || end_seq < first_seq) return first_seq;
    return first_seq + (end_seq - first_seq) / 2;
}

/* Checks up to READER_SLICES slices from *seq on. False when the round is over. */
static bool scrub_some(struct server *s, uint64_t *seq) {
    struct wal_reader *reader;
    replog_error err;
    uint64_t first_seq = wal_first_seq(s->wal), end_seq = atomic_load(&s->readable_seq);
    *seq = go_on_at(*seq, first_seq, end_seq);
    if (*seq > end_seq) return false;
    replog_status st = wal_reader_open(s->wal, *seq, &reader, &err);
    if (st != REPLOG_OK) {
        if (st == REPLOG_DATA_LOSS) found_damage(s, err.text);
        return false;
    }
    size_t bytes = 0;
    for (unsigned slices = 0; st == REPLOG_OK && slices < READER_SLICES;) {
        struct block_header header;
        const uint8_t *block;
        st = wal_reader_next(reader, end_seq, &header, &block, &err);
        if (st != REPLOG_OK) break;
        *seq = block_last_seq(&header) + 1;
        bytes += header.length;
        stats_add(&s->stats.scrubbed_bytes, header.length);
        if (bytes < SLICE_BYTES) continue;
        bytes = 0;
        slices++;
        thread_sleep_ms(SLICE_WAIT_MS);
    }
    wal_reader_close(reader);
    if (st == REPLOG_DATA_LOSS) found_damage(s, err.text);
    return st == REPLOG_OK || st == REPLOG_ABORTED;
}

/* With the priority of all others: one below would keep the log's mutexes for as long as somebody
 * else wants the processor. */
static void *scrub_main(void *arg) {
    struct server *s = arg;
    uint64_t pause_ms = s->options.scrub_start_ms;
    for (;;) {
        thread_sleep_ms(pause_ms);
        uint64_t seq = 0;
        while (scrub_some(s, &seq)) thread_sleep_ms(SLICE_WAIT_MS);
        log_debug("scrub: a round ended at seq=%" PRIu64, seq);
        pause_ms = NEXT_ROUND_MS;
    }
    return NULL;
}

replog_status scrub_start(struct server *s, replog_error *err) {
    pthread_t thread;
    replog_status st = thread_start(&thread, "scrub", scrub_main, s, err);
    if (st == REPLOG_OK) (void)pthread_detach(thread);
    return st;
}

/* /metrics in Prometheus' text format. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/http.h"
#include "server/peers.h"
#include "server/services.h"
#include "server/wal_thread.h"

static void head(struct buffer *out, const char *name, const char *type, const char *help) {
    buffer_printf(out, "# HELP replog_%s %s\n# TYPE replog_%s %s\n", name, help, name, type);
}

static void gauge(struct buffer *out, const char *name, const char *help, uint64_t value) {
    head(out, name, "gauge", help);
    buffer_printf(out, "replog_%s %" PRIu64 "\n", name, value);
}

static void counter(struct buffer *out, const char *name, const char *help, uint64_t value) {
    head(out, name, "counter", help);
    buffer_printf(out, "replog_%s %" PRIu64 "\n", name, value);
}

static uint64_t resident_bytes(void) {
    char line[200];
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file) return 0;
    char *read = fgets(line, sizeof line, file);
    (void)fclose(file);
    const char *second = read ? strchr(line, ' ') : NULL; /* pages in all, pages resident, ... */
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void put_node(struct buffer *out, const struct node_snapshot *v) {
    static const char *const roles[] = {"follower", "precandidate", "candidate", "leader"};
    gauge(out, "term", "Current term.", v->term);
    gauge(out, "leader", "Id of the leader, 0: none is known.", v->leader);
    head(out, "role", "gauge", "1 for the role that this member has.");
    for (unsigned i = 0; i < 4; i++) {
        buffer_printf(out, "replog_role{role=\"%s\"} %d\n", roles[i], v->role == (enum raft_role)i);
    }
    gauge(out, "serving", "1 while requests can be served.", server_not_serving(v) == NULL);
    gauge(out, "first_seq", "First record in the log.", v->first_seq);
    gauge(out, "last_seq", "Last record in the log.", v->last_seq);
    gauge(out, "durable_seq", "Up to here the log is durable on this member.", v->durable_seq);
    gauge(out, "commit_seq", "Up to here this member knows the log committed.", v->commit_seq);
    gauge(out, "applied_seq", "Up to here the store was built.", v->applied_seq);
    gauge(out, "checkpoint_seq", "Up to here the store is durable.", v->checkpoint_seq);
    gauge(out, "safe_seq", "Up to here every member's store is durable.", v->safe_seq);
    gauge(out, "drop_upto", "Up to here the log was asked to be dropped.", v->drop_upto);
    gauge(out, "pending_bytes", "Appended and not yet committed.", v->pending_bytes);
    gauge(out, "tail_bytes", "Recent log kept in memory for followers.", v->tail_bytes);
    gauge(out, "sessions", "Client sessions known.", v->sessions);
    gauge(out, "space_low", "1 while appends are refused for lack of disk space.", v->space_low);
    counter(out, "appends_total", "Blocks appended by this member as leader.", v->appends);
    counter(out, "appended_bytes_total", "Bytes of log appended.", v->bytes_appended);
    counter(out, "elections_total", "Elections that this member stood for.", v->elections);
}

static void put_peers(struct buffer *out, const struct node_snapshot *v) {
    static const struct {
        const char *name, *help;
    } families[] = {
        {"peer_match_seq", "Leader: durable on that member."},
        {"peer_checkpoint_seq", "Leader: durable in that member's store."},
        {"peer_lag_bytes", "Leader: bytes of log that the member lacks."},
        {"peer_silence_seconds", "Leader: since the member was last heard."},
        {"peer_online", "1 for a member that was heard lately."},
    };
    for (unsigned f = 0; f < 5; f++) {
        head(out, families[f].name, "gauge", families[f].help);
        for (unsigned i = 0; i < v->n_peers; i++) {
            const struct node_peer_view *p = &v->peers[i];
            if (p->id == v->self) continue;
            double silence_s = p->silence_ms == UINT64_MAX ? -1.0 : (double)p->silence_ms / 1000.0;
            const double values[] = {(double)p->match_seq, (double)p->checkpoint_seq,
                                     (double)p->lag_bytes, silence_s, p->online ? 1.0 : 0.0};
            buffer_printf(out, "replog_%s{peer=\"%" PRIu64 "\"} %.15g\n", families[f].name, p->id,
                          values[f]);
        }
    }
    head(out, "truncation_held_by", "gauge", "Checkpoint of each member that holds truncation.");
    for (unsigned i = 0; i < v->n_held_by; i++) {
        buffer_printf(out, "replog_truncation_held_by{peer=\"%" PRIu64 "\"} %" PRIu64 "\n",
                      v->held_by[i].id, v->held_by[i].checkpoint_seq);
    }
}

static void put_log(struct buffer *out, struct server *s) {
    const struct stats *t = &s->stats;
    head(out, "sync_seconds", "histogram", "Time of one fdatasync of the log.");
    uint64_t sum = 0;
    for (unsigned i = 0; i < STATS_SYNC_BUCKETS; i++) {
        sum += stats_get(&t->sync_bucket[i]);
        if (i < STATS_SYNC_BUCKETS - 1) {
            buffer_printf(out, "replog_sync_seconds_bucket{le=\"%g\"} %" PRIu64 "\n",
                          (double)stats_sync_bound_us[i] / 1e6, sum);
        }
    }
    buffer_printf(out, "replog_sync_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n", sum);
    buffer_printf(out, "replog_sync_seconds_sum %.9f\nreplog_sync_seconds_count %" PRIu64 "\n",
                  (double)stats_get(&t->sync_ns) / 1e9, sum);
    counter(out, "groups_total", "Group commits: what was written to the log at one time.",
            stats_get(&t->groups));
    counter(out, "group_writes_total", "Writes of the node that they gathered.",
            stats_get(&t->group_writes));
    counter(out, "group_bytes_total", "Bytes in them.", stats_get(&t->group_bytes));
    gauge(out, "log_bytes", "Size of the log's files.", wal_size_bytes(s->wal));
    gauge(out, "log_segments", "Files of the log.", wal_n_segments(s->wal));
    counter(out, "scrubbed_bytes_total", "Checked in the background.",
            stats_get(&t->scrubbed_bytes));
    counter(out, "scrub_errors_total", "Damage found by it.", stats_get(&t->scrub_errors));
    gauge(out, "damaged", "1 when damage was found in the log.", atomic_load(&s->damaged));
}

static void put_traffic(struct buffer *out, struct server *s) {
    const struct stats *t = &s->stats;
    struct rpc_stats r = {0};
    rpc_server_stats(s->rpc, &r);
    counter(out, "requests_total", "Requests taken.", stats_get(&t->requests));
    counter(out, "requests_refused_total", "Requests refused because a queue was full.",
            stats_get(&t->requests_refused));
    gauge(out, "event_queue_bytes", "Waiting for the node thread.", queue_size_bytes(&s->events));
    gauge(out, "log_queue_bytes", "Waiting for the log's thread.", wal_thread_queued_bytes(s));
    gauge(out, "append_inflight_bytes", "Of appends that are not answered.",
          appends_inflight_bytes(s));
    gauge(out, "reads_open", "Read streams.", stats_get(&t->reads_open));
    counter(out, "read_bytes_total", "Sent to them.", stats_get(&t->read_bytes));
    counter(out, "feeds_total", "Pieces of log read for followers that catch up.",
            stats_get(&t->feeds));
    counter(out, "feed_bytes_total", "Bytes of them.", stats_get(&t->feed_bytes));
    counter(out, "store_read_bytes_total",
            "Bytes of log that the store's thread read back, because it was not handed them.",
            stats_get(&t->store_read_bytes));
    counter(out, "peer_messages_in_total", "From other members.", stats_get(&t->peer_messages_in));
    counter(out, "peer_messages_out_total", "To other members.", stats_get(&t->peer_messages_out));
    counter(out, "peer_connects_total", "Streams to other members that came up.",
            stats_get(&t->peer_reconnects));
    gauge(out, "rpc_connections", "Connections open.", r.connections);
    counter(out, "rpc_connections_refused_total", "Connections over the limit.",
            r.connections_refused);
    gauge(out, "rpc_calls_open", "Calls open.", r.calls_open);
    counter(out, "rpc_calls_total", "Calls begun.", r.calls_total);
    counter(out, "rpc_received_bytes_total", "Bytes received.", r.bytes_in);
    counter(out, "rpc_sent_bytes_total", "Bytes sent.", r.bytes_out);
    gauge(out, "rpc_buffered_bytes", "Received and not yet delivered.", r.buffered_bytes);
    counter(out, "rpc_protocol_errors_total", "Connections closed for what they sent.",
            r.protocol_errors);
}

void metrics_render(struct server *s, struct buffer *out) {
    struct node_snapshot view;
    server_view(s, &view);
    put_node(out, &view);
    put_peers(out, &view);
    put_log(out, s);
    put_traffic(out, s);
    gauge(out, "store_memory_bytes", "Caches and write buffers of the store, at most.",
          s->store->ops->memory_bytes(s->store));
    gauge(out, "resident_bytes", "Memory of the process.", resident_bytes());
}

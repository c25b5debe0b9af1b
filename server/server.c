#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "peer.desc.h"
#include "peer.pb-c.h"
#include "replog.desc.h"
#include "replog.pb-c.h"
#include "server/apply_thread.h"
#include "server/fill_thread.h"
#include "server/http.h"
#include "server/peers.h"
#include "server/reader_pool.h"
#include "server/scrub.h"
#include "server/services.h"
#include "server/wal_thread.h"

enum {
    EVENTS_BYTES = 16 << 20, /* of events waiting for the node thread */
    TRANSFER_MS = 1000,
    SEND_QUEUE_BYTES = 512 << 10, /* of one call: a reader that does not read holds so much */
    DRAIN_MS = 2000,
    STOP_MS = 3000,
    FLUSH_MS = 10000
};

/* ---- What everybody may know */

void server_fatal(const char *format, ...) {
    char text[600];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    log_error("%s; stopping", text);
    _exit(1);
}

void server_view(struct server *s, struct node_snapshot *out) {
    (void)pthread_mutex_lock(&s->view_lock);
    *out = s->view;
    (void)pthread_mutex_unlock(&s->view_lock);
}

bool server_leader_text(struct server *s, uint64_t leader, char *out, size_t out_bytes) {
    const struct config_member *m = config_find(&s->options.cluster, leader);
    char address[CONFIG_MAX_ADDRESS + 1] = "";
    if (m) {
        (void)snprintf(address, sizeof address, "%s", m->address);
    } else {
        (void)pthread_mutex_lock(&s->view_lock);
        m = config_find(&s->view.config, leader);
        if (m) (void)snprintf(address, sizeof address, "%s", m->address);
        (void)pthread_mutex_unlock(&s->view_lock);
    }
    if (!m) return false;
    (void)snprintf(out, out_bytes, "%" PRIu64 " %s", leader, address);
    return true;
}

void server_refuse(struct server *s, struct rpc_call *call, replog_status status, const char *text,
                   uint64_t leader) {
    char where[CONFIG_MAX_ADDRESS + 32];
    if (leader != 0 && server_leader_text(s, leader, where, sizeof where)) {
        rpc_finish_with(call, status, text, "replog-leader", where);
    } else {
        rpc_finish(call, status, text);
    }
}

const char *server_not_serving(const struct node_snapshot *view) {
    if (view->founding == WAL_FOUNDED && view->leader != 0) return NULL;
    if (view->refused[0]) return "other members refuse this one";
    return view->founding == WAL_FOUNDED ? "no leader is known" : "the cluster is not founded yet";
}

/* ---- Starting */

static replog_status open_log(struct server *s, replog_error *err) {
    const struct options *o = &s->options;
    char path[OPTIONS_PATH_BYTES + 16];
    replog_status st = s->disk->make_dir(s->disk->ctx, o->dir, err);
    if (st == REPLOG_OK) st = disk_sync_name(s->disk, o->dir, err);
    if (st != REPLOG_OK) return st;
    (void)snprintf(path, sizeof path, "%s/wal", o->dir);
    uint64_t incarnation = random_u64();
    struct wal_options options = {.disk = s->disk,
                                  .dir = path,
                                  .member_id = o->id,
                                  .new_incarnation = incarnation ? incarnation : 1,
                                  .segment_bytes = (uint32_t)o->segment_bytes,
                                  .pool_segments = (uint32_t)o->pool_segments,
                                  .create = true,
                                  .buffered = o->sync != REPLOG_SYNC_ALWAYS};
    uint64_t start_ms = clock_mono_ms();
    st = wal_open(&options, &s->wal, err);
    if (st != REPLOG_OK) return st;
    log_info("log opened dir=%s first_seq=%" PRIu64 " last_seq=%" PRIu64 " torn_bytes=%" PRIu64
             " ms=%" PRIu64,
             path, wal_first_seq(s->wal), wal_tail(s->wal).seq, wal_torn_bytes(s->wal),
             clock_mono_ms() - start_ms);
    return REPLOG_OK;
}

static void remove_pid(const struct server *s) {
    char path[OPTIONS_PATH_BYTES + 16];
    (void)snprintf(path, sizeof path, "%s/replogd.pid", s->options.dir);
    (void)unlink(path);
}

/* Written once the log's lock is held; whoever reads it finds a process that owns the directory. */
static replog_status write_pid(const struct server *s, replog_error *err) {
    char path[OPTIONS_PATH_BYTES + 16], text[32];
    (void)snprintf(path, sizeof path, "%s/replogd.pid", s->options.dir);
    int n = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) return error_errno(err, errno, "cannot write %s", path);
    ssize_t done = write(fd, text, (size_t)n);
    int errnum = errno;
    (void)close(fd);
    if (done == n) return REPLOG_OK;
    return error_errno(err, done < 0 ? errnum : ENOSPC, "cannot write %s", path);
}

static replog_status open_store(struct server *s, replog_error *err) {
    const struct options *o = &s->options;
    char path[OPTIONS_PATH_BYTES + 16];
    (void)snprintf(path, sizeof path, "%s/store", o->dir);
    struct store_rocksdb_options options = {.dir = path,
                                            .write_buffer_bytes = o->store_write_buffer_bytes,
                                            .block_cache_bytes = o->store_block_cache_bytes};
    replog_status st = store_rocksdb_open(&options, &s->store, err);
    if (st != REPLOG_OK) return st;
    st = apply_open(s->wal, s->store, 0, &s->applier, err);
    if (st == REPLOG_OK) log_info("store opened applied_seq=%" PRIu64, apply_seq(s->applier));
    return st;
}

static replog_status open_node(struct server *s, replog_error *err) {
    const struct options *o = &s->options;
    struct node_options options = {.self = o->id,
                                   .cluster = o->cluster,
                                   .heartbeat_ms = (uint32_t)o->heartbeat_ms,
                                   .election_ms = (uint32_t)o->election_ms,
                                   .stall_ms = (uint32_t)o->stall_ms,
                                   .seed = random_u64(),
                                   .peer_window_bytes = o->peer_window_bytes,
                                   .tail_bytes = o->tail_bytes,
                                   .pending_bytes = o->pending_bytes,
                                   .checkpoint_bytes = o->checkpoint_bytes,
                                   .checkpoint_ms = o->checkpoint_ms,
                                   .retain_bytes = o->retain_bytes,
                                   .retain_ms = o->retain_ms,
                                   .acks_are_durable = o->sync != REPLOG_SYNC_NONE};
    replog_status st = node_open(&options, s->wal, s->applier, clock_mono_ms(), &s->node, err);
    if (st != REPLOG_OK) return st;
    node_snapshot(s->node, &s->view);
    atomic_store(&s->first_seq, s->view.first_seq);
    return REPLOG_OK;
}

static replog_status start_rpc(struct server *s, replog_error *err) {
    static struct rpc_method log_methods[] = {
        {"OpenSession", false, false, {0}}, {"Append", false, false, {0}},
        {"AppendStream", true, true, {0}},  {"Read", false, true, {0}},
        {"Get", false, false, {0}},         {"Checkpoint", false, false, {0}},
        {"Truncate", false, false, {0}},    {"Status", false, false, {0}},
    };
    static struct rpc_method peer_methods[] = {{"Exchange", true, true, {0}},
                                               {"Inspect", false, false, {0}}};
    static struct rpc_service services[2];
    static const struct slice files[] = {{replog_descriptor_set, sizeof replog_descriptor_set},
                                         {peer_descriptor_set, sizeof peer_descriptor_set}};
    const struct rpc_handlers *handlers[] = {
        &open_session_handlers, &append_handlers,     &append_stream_handlers, &read_handlers,
        &get_handlers,          &checkpoint_handlers, &truncate_handlers,      &status_handlers};
    for (size_t i = 0; i < 8; i++) log_methods[i].handlers = *handlers[i];
    peer_methods[0].handlers = peers_exchange_handlers;
    peer_methods[1].handlers = inspect_handlers;
    services[0] = (struct rpc_service){.descriptor = &replog__v1__log__descriptor,
                                       .methods = log_methods,
                                       .n_methods = 8,
                                       .user = s};
    services[1] = (struct rpc_service){.descriptor = &replog__v1__peer__descriptor,
                                       .methods = peer_methods,
                                       .n_methods = 2,
                                       .user = s};
    struct rpc_server_options options = {.listen = s->options.listen,
                                         .max_connections = (uint32_t)s->options.max_connections,
                                         .send_queue_bytes = SEND_QUEUE_BYTES,
                                         .delivered = node_thread_help,
                                         .user = s,
                                         .descriptor_files = files,
                                         .n_descriptor_files = 2};
    return rpc_server_start(&options, services, 2, &s->rpc, err);
}

static replog_status start_threads(struct server *s, replog_error *err) {
    replog_status st = fill_thread_start(s, err);
    if (st == REPLOG_OK) st = wal_thread_start(s, err);
    if (st == REPLOG_OK) st = apply_thread_start(s, err);
    if (st == REPLOG_OK) st = reader_pool_start(s, err);
    if (st == REPLOG_OK) st = appends_start(s, err);
    if (st == REPLOG_OK) st = reads_start(s, err);
    if (st == REPLOG_OK) st = peers_start(s, err);
    /* the node thread sets the server's health and so comes after it; calls that arrive in between
     * wait in its queue */
    if (st == REPLOG_OK) st = start_rpc(s, err);
    if (st == REPLOG_OK) st = node_thread_start(s, err);
    if (st == REPLOG_OK) st = http_start(s, err);
    if (st == REPLOG_OK && s->options.scrub) st = scrub_start(s, err);
    return st;
}

replog_status server_start(struct server *s, replog_error *err) {
    s->kind = USER_SERVER;
    s->disk = disk_posix();
    (void)pthread_mutex_init(&s->view_lock, NULL);
    queue_init(&s->events, EVENTS_BYTES);
    replog_status st = open_log(s, err);
    if (st != REPLOG_OK) return st;
    st = write_pid(s, err);
    if (st == REPLOG_OK) st = open_store(s, err);
    if (st == REPLOG_OK) st = open_node(s, err);
    if (st == REPLOG_OK) st = start_threads(s, err);
    if (st != REPLOG_OK) {
        remove_pid(s);
        return st;
    }
    log_info("serving listen=%s http=%s", s->options.listen,
             s->options.http[0] ? s->options.http : "-");
    return REPLOG_OK;
}

/* ---- Stopping */

static void sleep_ms(unsigned ms) {
    (void)nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000L}, NULL);
}

static void hand_over(struct server *s) {
    struct node_snapshot view;
    server_view(s, &view);
    if (view.role != RAFT_LEADER || view.config.n_members < 2) return;
    log_info("handing leadership over");
    server_post(s, &(struct node_event){.type = NODE_EV_TRANSFER});
    uint64_t until_ms = clock_mono_ms() + TRANSFER_MS;
    while (view.role == RAFT_LEADER && clock_mono_ms() < until_ms) {
        sleep_ms(10);
        server_view(s, &view);
    }
}

void server_stop(struct server *s) {
    rpc_server_set_serving(s->rpc, false);
    hand_over(s);
    atomic_store(&s->draining, true);
    rpc_server_set_serving(s->rpc, false); /* the node thread may have said otherwise meanwhile */
    appends_drain(s);
    reads_drain(s);
    peers_drain(s);
    rpc_server_drain(s->rpc, DRAIN_MS);
    http_stop(s);
    node_thread_stop(s, STOP_MS);
    (void)fill_thread_stop(s, STOP_MS);
    if (!wal_thread_stop(s, STOP_MS)) log_warn("the log's thread did not end; what is in is in");
    (void)reader_pool_stop(s, STOP_MS);
    if (apply_thread_stop(s, FLUSH_MS)) {
        store_close(s->store);
    } else {
        log_warn("the store was not flushed in time; the next start replays more");
    }
    remove_pid(s);
    log_info("stopped");
}

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "client/lib_internal.h"

void client_wake_locked(replog_client *c) {
    if (c->woken) return;
    c->woken = true;
    pthread_cond_signal(&c->work);
}

static void leave_call_locked(struct client_lane *lane) {
    struct client_call *call = lane->call;
    if (!call) return;
    lane->call = NULL;
    pthread_mutex_unlock(&lane->client->mu);
    rpc_cancel(call->rpc);
    pthread_mutex_lock(&lane->client->mu);
    client_call_release_locked(call);
}

static void *worker_main(void *arg) {
    replog_client *c = arg;
    pthread_mutex_lock(&c->mu);
    while (!c->stopping) {
        c->woken = false;
        bool again = client_deliver_locked(c);
        uint64_t now = client_now_ms();
        if (client_expire_locked(c, now)) again = true;
        uint64_t wake = UINT64_MAX;
        for (int i = 0; i < 2; i++) {
            uint64_t at = client_lane_step_locked(&c->lanes[i], now);
            if (at < wake) wake = at;
        }
        /* While another thread runs callbacks, deadlines wait for it: looking again at once would
         * keep the lock from it. */
        if (c->delivering)
            c->worker_held_up = true;
        else if (c->next_expiry_ms < wake)
            wake = c->next_expiry_ms;
        if (again || wake <= now) continue;
        while (!c->woken && !c->stopping && client_cond_wait(&c->work, &c->mu, wake)) continue;
    }
    for (int i = 0; i < 2; i++) leave_call_locked(&c->lanes[i]);
    client_cancel_all_locked(c);
    pthread_mutex_unlock(&c->mu);
    return NULL;
}

static void set_options(replog_client *c, const replog_client_options *o) {
    c->timeout_ms = o && o->timeout_ms ? o->timeout_ms : CLIENT_TIMEOUT_MS;
    c->window = o && o->window ? o->window : CLIENT_WINDOW;
    c->window_bytes = o && o->window_bytes ? o->window_bytes : CLIENT_WINDOW_BYTES;
    c->no_session = o && o->no_session;
    c->capacity = 1;
    while (c->capacity < c->window) c->capacity *= 2;
}

static void destroy(replog_client *c) {
    for (int i = 0; i < c->n_endpoints; i++) rpc_channel_close(c->endpoints[i].channel);
    for (int i = 0; i < 2; i++) free(c->lanes[i].ring);
    buffer_free(&c->header);
    pthread_cond_destroy(&c->work);
    pthread_cond_destroy(&c->room);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->mu);
    free(c);
}

replog_status replog_client_open(const char *endpoints, const replog_client_options *options,
                                 replog_client **client, replog_error *err) {
    if (options && options->window > REPLOG_MAX_INFLIGHT) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "a window of %u appends; at most %u",
                         options->window, REPLOG_MAX_INFLIGHT);
    }
    replog_client *c = calloc(1, sizeof *c);
    if (!c) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a client");
    pthread_mutex_init(&c->mu, NULL);
    client_cond_init(&c->work);
    client_cond_init(&c->room);
    client_cond_init(&c->changed);
    set_options(c, options);
    c->leader = -1;
    c->rng = random_u64();
    c->next_expiry_ms = UINT64_MAX;
    replog_status status = client_endpoints_parse(c, endpoints, err);
    for (int i = 0; i < 2 && !status; i++) {
        struct client_lane *lane = &c->lanes[i];
        lane->client = c;
        lane->unary = i == 1;
        lane->base = lane->next_sequence = 1;
        lane->ring = calloc(c->capacity, sizeof *lane->ring);
        if (!lane->ring) {
            status = error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for a client");
        }
    }
    if (!status) {
        c->next_endpoint = (int)(c->rng % (uint64_t)c->n_endpoints);
        int failed = pthread_create(&c->worker, NULL, worker_main, c);
        if (failed) status = error_errno(err, failed, "no thread for a client");
    }
    if (status) {
        destroy(c);
        return status;
    }
    *client = c;
    return REPLOG_OK;
}

void replog_client_close(replog_client *c) {
    if (!c) return;
    pthread_mutex_lock(&c->mu);
    c->stopping = true;
    pthread_cond_broadcast(&c->work);
    pthread_cond_broadcast(&c->room);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->mu);
    pthread_join(c->worker, NULL);
    pthread_mutex_lock(&c->mu);
    while (c->callers) pthread_cond_wait(&c->changed, &c->mu);
    pthread_mutex_unlock(&c->mu);
    destroy(c);
}

/* ---- Appending ------------------------------------------------------------------------------- */

static replog_status check_append(const replog_batch *batch, const replog_append_options *o,
                                  replog_error *err) {
    size_t count = replog_batch_count(batch);
    if (count == 0) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "an empty batch; at least one record");
    }
    if (o && o->single && count != 1) {
        return error_set(err, REPLOG_INVALID_ARGUMENT,
                         "a single append of %zu records; exactly one", count);
    }
    if (o && (o->ack < REPLOG_ACK_QUORUM || o->ack > REPLOG_ACK_ALL)) {
        return error_set(err, REPLOG_INVALID_ARGUMENT, "no such acknowledgement level: %d",
                         (int)o->ack);
    }
    return REPLOG_OK;
}

static bool has_room(const replog_client *c, size_t size_bytes) {
    return c->in_flight < c->window &&
           (c->in_flight == 0 || c->in_flight_bytes + size_bytes <= c->window_bytes);
}

/* Waits for a place in the window. */
static replog_status wait_room_locked(replog_client *c, size_t size_bytes, uint64_t deadline_ms,
                                      replog_error *err) {
    bool in_callback = client_may_wait_locked(c, "", NULL) != REPLOG_OK;
    bool in_time = true;
    while (!c->stopping && !has_room(c, size_bytes)) {
        if (in_callback || !in_time) {
            return error_set(err, REPLOG_RESOURCE_EXHAUSTED,
                             "the window is full: %u appends, %llu bytes in flight%s%s",
                             c->in_flight, (unsigned long long)c->in_flight_bytes,
                             c->last_failure[0] ? "; last failure: " : "", c->last_failure);
        }
        c->room_waiters++;
        in_time = client_cond_wait(&c->room, &c->mu, deadline_ms);
        c->room_waiters--;
    }
    if (c->stopping) return error_set(err, REPLOG_CANCELLED, "the client is being closed");
    return REPLOG_OK;
}

static void push_locked(replog_client *c, const struct client_append *model) {
    struct client_lane *lane = &c->lanes[model->ack == REPLOG_ACK_ALL];
    struct client_append *a = client_lane_push_locked(lane);
    *a = *model;
    a->numbered = !c->no_session && a->ack != REPLOG_ACK_LEADER;
    c->in_flight++;
    c->unanswered++;
    c->in_flight_bytes += a->records->size_bytes;
    if (a->deadline_ms < c->next_expiry_ms) {
        c->next_expiry_ms = a->deadline_ms;
        client_wake_locked(c);
    }
    client_pump_locked(lane);
    if (lane->cursor < lane->tail) client_wake_locked(c);
}

/* Queues an append. The caller holds no lock; on OK with a wait the lock is held on return. */
static replog_status submit(replog_client *c, const replog_batch *batch,
                            const replog_append_options *o, struct client_append *model,
                            replog_error *err) {
    replog_status status = check_append(batch, o, err);
    if (status) return status;
    model->timeout_ms = o && o->timeout_ms ? o->timeout_ms : c->timeout_ms;
    model->deadline_ms = client_now_ms() + model->timeout_ms;
    model->ack = o ? o->ack : REPLOG_ACK_QUORUM;
    model->batch = !(o && o->single);
    model->records = client_batch_encode(batch);
    if (!model->records) {
        return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "out of memory for an append");
    }
    pthread_mutex_lock(&c->mu);
    c->callers++;
    if (model->wait) status = client_may_wait_locked(c, "replog_append", err);
    if (!status) status = wait_room_locked(c, model->records->size_bytes, model->deadline_ms, err);
    if (!status) push_locked(c, model);
    if (status || !model->wait) {
        client_leave_locked(c);
        pthread_mutex_unlock(&c->mu);
    }
    if (status) blob_unref(model->records);
    return status;
}

replog_status replog_append_async(replog_client *client, const replog_batch *batch,
                                  const replog_append_options *options, replog_append_fn fn,
                                  void *user, replog_error *err) {
    struct client_append model = {.fn = fn, .user = user};
    return submit(client, batch, options, &model, err);
}

replog_status replog_append(replog_client *client, const replog_batch *batch,
                            const replog_append_options *options, replog_append_result *result,
                            replog_error *err) {
    struct client_wait wait = {.done = false};
    struct client_append model = {.wait = &wait};
    client_cond_init(&wait.cond);
    replog_status status = submit(client, batch, options, &model, err);
    if (!status) {
        /* The worker ends it at its deadline, or when the client is closed. */
        while (!wait.done) pthread_cond_wait(&wait.cond, &client->mu);
        client_leave_locked(client);
        pthread_mutex_unlock(&client->mu);
        status = wait.status;
        if (status && err) *err = wait.error;
        if (!status && result) *result = wait.result;
    }
    pthread_cond_destroy(&wait.cond);
    return status;
}

replog_status replog_flush(replog_client *c, uint32_t timeout_ms, replog_error *err) {
    uint32_t limit_ms = timeout_ms ? timeout_ms : c->timeout_ms;
    uint64_t deadline = client_now_ms() + limit_ms;
    bool in_time = true;
    pthread_mutex_lock(&c->mu);
    replog_status status = client_may_wait_locked(c, "replog_flush", err);
    if (status) {
        pthread_mutex_unlock(&c->mu);
        return status;
    }
    c->callers++;
    while (c->unanswered && in_time) in_time = client_cond_wait(&c->changed, &c->mu, deadline);
    uint32_t left = c->unanswered;
    client_leave_locked(c);
    pthread_mutex_unlock(&c->mu);
    if (left == 0) return REPLOG_OK;
    return error_set(err, REPLOG_DEADLINE_EXCEEDED, "%u appends are still in flight after %u ms",
                     left, limit_ms);
}

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "client/lib_internal.h"

enum { DELIVER_AT_ONCE = 32 };

/* What a callback is told, copied out of its slot, which is free again before the callback runs. */
struct completion {
    replog_append_fn fn;
    void *user;
    replog_status status;
    char *text;
    replog_append_result result;
};

struct client_append *client_lane_push_locked(struct client_lane *lane) {
    CHECK(lane->tail - lane->head < lane->client->capacity);
    struct client_append *a = client_slot(lane, lane->tail++);
    memset(a, 0, sizeof *a);
    return a;
}

void client_append_fail(struct client_append *a, replog_status status, const char *format, ...) {
    char text[sizeof((replog_error *)0)->text];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    free(a->text);
    a->text = strdup(text); /* NULL: the status's own words */
    a->status = status;
    a->done = true;
}

static void fill_error(replog_error *error, replog_status status, const char *text) {
    error->status = status;
    error->text[0] = '\0';
    if (status) {
        snprintf(error->text, sizeof error->text, "%s", text ? text : replog_status_text(status));
    }
}

/* Hands the outcome to a thread that waits for it, or into *out for a callback. */
static size_t hand_over_locked(replog_client *c, struct client_append *a, struct completion *out) {
    a->answered = true;
    if (a->wait) {
        struct client_wait *w = a->wait;
        w->status = a->status;
        w->result = a->result;
        fill_error(&w->error, a->status, a->text);
        w->done = true;
        free(a->text);
        a->text = NULL;
        a->wait = NULL;
        if (--c->unanswered == 0) pthread_cond_broadcast(&c->changed);
        pthread_cond_signal(&w->cond);
        return 0;
    }
    out->fn = a->fn;
    out->user = a->user;
    out->status = a->status;
    out->text = a->text;
    out->result = a->result;
    a->text = NULL;
    return 1;
}

static void run_callbacks(replog_client *c, struct completion *done, size_t n) {
    if (n == 0) return;
    c->delivering = true;
    c->deliverer = pthread_self();
    pthread_mutex_unlock(&c->mu);
    for (size_t i = 0; i < n; i++) {
        replog_error error;
        fill_error(&error, done[i].status, done[i].text);
        done[i].fn(done[i].user, done[i].status, done[i].status ? NULL : &done[i].result, &error);
        free(done[i].text);
    }
    pthread_mutex_lock(&c->mu);
    c->delivering = false;
    c->unanswered -= (uint32_t)n;
    if (c->unanswered == 0 || c->stopping) pthread_cond_broadcast(&c->changed);
}

replog_status client_may_wait_locked(replog_client *c, const char *what, replog_error *err) {
    if (!c->delivering || !pthread_equal(pthread_self(), c->deliverer)) return REPLOG_OK;
    return error_set(err, REPLOG_FAILED_PRECONDITION,
                     "%s waits and must not be called from a callback", what);
}

static void room_locked(replog_client *c) {
    if (c->room_waiters) pthread_cond_broadcast(&c->room);
}

/* Takes the head, which is settled, off the lane; 1 when it wrote a completion. */
static size_t pop_one_locked(struct client_lane *lane, struct completion *out) {
    replog_client *c = lane->client;
    struct client_append *a = client_slot(lane, lane->head);
    size_t n = a->answered ? 0 : hand_over_locked(c, a, out);
    if (a->records) {
        c->in_flight_bytes -= a->records->size_bytes;
        blob_unref(a->records);
        a->records = NULL;
    }
    free(a->text);
    a->text = NULL;
    lane->head++;
    if (lane->reply < lane->head) lane->reply = lane->head;
    if (lane->cursor < lane->head) lane->cursor = lane->head;
    c->in_flight--;
    return n;
}

static size_t pop_locked(struct client_lane *lane, struct completion *out, size_t max) {
    size_t n = 0;
    uint64_t before = lane->head;
    while (n < max && lane->head < lane->tail && client_settled(client_slot(lane, lane->head))) {
        n += pop_one_locked(lane, &out[n]);
    }
    if (lane->head != before) room_locked(lane->client);
    return n;
}

void client_lane_pop_waits_locked(struct client_lane *lane) {
    uint64_t before = lane->head;
    while (lane->head < lane->tail) {
        struct client_append *a = client_slot(lane, lane->head);
        struct completion none;
        if (!client_settled(a) || (!a->answered && !a->wait)) break;
        pop_one_locked(lane, &none);
    }
    if (lane->head != before) room_locked(lane->client);
}

static bool deliver_some_locked(replog_client *c) {
    struct completion done[DELIVER_AT_ONCE];
    size_t n = 0;
    for (int i = 0; i < 2; i++) n += pop_locked(&c->lanes[i], done + n, DELIVER_AT_ONCE - n);
    run_callbacks(c, done, n);
    return n > 0;
}

bool client_deliver_locked(replog_client *c) {
    if (c->delivering) {
        c->worker_held_up = true;
        return false;
    }
    return deliver_some_locked(c);
}

void client_deliver_here_locked(replog_client *c) {
    if (c->delivering) return; /* that thread, or the worker, looks again */
    while (deliver_some_locked(c)) continue;
    if (!c->worker_held_up) return;
    c->worker_held_up = false;
    client_wake_locked(c);
}

/* The deadline of an append has passed: tells its caller. It keeps its place while it may be in the
 * log, so that the numbers behind it stay right. */
static size_t overdue_locked(struct client_lane *lane, struct client_append *a, uint64_t position,
                             struct completion *out) {
    replog_client *c = lane->client;
    bool never_sent = !a->maybe && position >= lane->cursor;
    if (!a->done) {
        /* Full may be what the session could not be opened for. */
        bool full = never_sent && (a->full || c->last_failure_status == REPLOG_RESOURCE_EXHAUSTED);
        replog_status status = full ? REPLOG_RESOURCE_EXHAUSTED : REPLOG_DEADLINE_EXCEEDED;
        client_append_fail(a, status, "not answered within %u ms%s%s%s", a->timeout_ms,
                           never_sent ? ", nothing was appended" : ", outcome unknown",
                           c->last_failure[0] ? "; last failure: " : "", c->last_failure);
        a->done = false;
        if (never_sent) a->dropped = true;
    }
    return hand_over_locked(c, a, out);
}

bool client_expire_locked(replog_client *c, uint64_t now_ms) {
    if (now_ms < c->next_expiry_ms) return false;
    if (c->delivering) {
        c->worker_held_up = true;
        return false;
    }
    struct completion done[DELIVER_AT_ONCE];
    size_t n = 0;
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < 2; i++) {
        struct client_lane *lane = &c->lanes[i];
        for (uint64_t at = lane->head; at < lane->tail && n < DELIVER_AT_ONCE; at++) {
            struct client_append *a = client_slot(lane, at);
            /* A unary call brings its own deadline, and the server's sentence with it. */
            if (a->answered || (lane->unary && lane->call && at < lane->cursor)) continue;
            if (a->deadline_ms <= now_ms) {
                n += overdue_locked(lane, a, at, &done[n]);
            } else if (a->deadline_ms < next) {
                next = a->deadline_ms;
            }
        }
    }
    c->next_expiry_ms = n == DELIVER_AT_ONCE ? now_ms : next;
    run_callbacks(c, done, n);
    return n > 0;
}

void client_cancel_all_locked(replog_client *c) {
    for (int i = 0; i < 2; i++) {
        struct client_lane *lane = &c->lanes[i];
        for (uint64_t at = lane->head; at < lane->tail; at++) {
            struct client_append *a = client_slot(lane, at);
            if (client_settled(a)) continue;
            if (a->answered) {
                a->dropped = true;
                continue;
            }
            client_append_fail(a, REPLOG_CANCELLED, "the client was closed, %s",
                               a->maybe || at < lane->cursor ? "outcome unknown"
                                                             : "nothing was appended");
        }
    }
    while (c->lanes[0].head < c->lanes[0].tail || c->lanes[1].head < c->lanes[1].tail) {
        while (c->delivering) pthread_cond_wait(&c->changed, &c->mu);
        deliver_some_locked(c);
    }
    while (c->delivering) pthread_cond_wait(&c->changed, &c->mu);
}

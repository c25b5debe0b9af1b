#include "sim_node.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "sim_net.h"
#include "sim_watch.h"
#include "wal/vote.h"

enum {
    TICK_MS = 15, /* as server/node_thread.c */
    HELD_MS = 2,
    TURN_US = 30, /* from an event's arrival to its turn, at least; what comes meanwhile joins it */
    RESERVE_BYTES = 128 << 10,
    /* between two slices of a spare: server/fill_thread.c takes 50 ms, or less while the log grows
     */
    FILL_LOW_US = 2000,
    FILL_HIGH_US = 80000
};
enum { EXCUSES = SIM_DISK_WIPED | SIM_DISK_DAMAGED | SIM_STORE_WIPED };

struct sim_member *sim_member(const struct sim *sim, uint64_t id) {
    CHECK(id >= 1 && id <= sim->n_nodes);
    return sim->members[id];
}

struct sim_member *sim_member_new(struct sim *sim, uint64_t id) {
    struct sim_member *m = calloc(1, sizeof *m);
    CHECK(m);
    m->sim = sim;
    m->id = id;
    sim_disk_init(sim, &m->disk);
    m->rng = sim_draw(sim, 0, UINT64_MAX - 1);
    m->clock_at_us = sim->now_us;
    m->mono_us = sim_draw(sim, 1000000, UINT64_C(1000000000000));
    m->wall_us = UINT64_C(1800000000000000) + sim_draw(sim, 0, 2000000);
    m->rate_ppm = 1000000;
    return m;
}

/* ---- Clocks */

static uint64_t elapsed_us(const struct sim_member *m) {
    return (m->sim->now_us - m->clock_at_us) * m->rate_ppm / 1000000;
}

uint64_t sim_member_mono_ms(const struct sim_member *m) {
    return (m->mono_us + elapsed_us(m)) / 1000;
}

static uint64_t wall_us(const struct sim_member *m) {
    return m->wall_us + elapsed_us(m);
}

/* True time that passes while this member's clock goes so far. */
static uint64_t true_us(const struct sim_member *m, uint64_t ms) {
    return ms * 1000 * 1000000 / m->rate_ppm + 1;
}

void sim_member_clock(struct sim_member *m, uint64_t mono_ahead_us, int64_t wall_by_us,
                      uint64_t rate_ppm) {
    uint64_t gone = elapsed_us(m);
    m->mono_us += gone + mono_ahead_us;
    m->wall_us += gone + (uint64_t)wall_by_us;
    m->clock_at_us = m->sim->now_us;
    m->rate_ppm = rate_ppm;
}

/* ---- The node thread ------------------------------------------------------------------------- */

static void turn(struct sim *sim, void *arg, uint64_t gen);

static void want_turn(struct sim_member *m, uint64_t delay_us) {
    if (m->paused) return; /* resume asks for one */
    uint64_t at = m->sim->now_us + delay_us;
    if (m->turn_pending && m->turn_at_us <= at) return;
    m->turn_pending = true;
    m->turn_at_us = at;
    sim_after(m->sim, delay_us, turn, m, ++m->turn_gen);
}

static struct sim_item *inbox_add(struct sim_member *m) {
    if (m->n_inbox == m->inbox_capacity) {
        m->inbox_capacity = m->inbox_capacity ? 2 * m->inbox_capacity : 64;
        m->inbox = realloc(m->inbox, m->inbox_capacity * sizeof *m->inbox);
        CHECK(m->inbox);
    }
    struct sim_item *item = &m->inbox[m->n_inbox++];
    memset(item, 0, sizeof *item);
    return item;
}

static void item_free(struct sim_item *item) {
    blob_unref(item->ev.append.block);
    blob_unref(item->ev.blocks.blob);
    blob_unref(item->msg.blocks.blob);
    free(item->text);
}

/* FED: takes over the reference to the blocks; all other references are the caller's. */
static void post(struct sim_member *m, const struct node_event *ev) {
    struct sim_item *item = inbox_add(m);
    item->ev = *ev;
    if (ev->msg) {
        item->msg = *ev->msg;
        (void)blob_ref(item->msg.blocks.blob);
    }
    if (ev->type == NODE_EV_APPEND) (void)blob_ref(ev->append.block);
    if (ev->text) {
        item->text = strdup(ev->text);
        CHECK(item->text);
    }
    want_turn(m, TURN_US + rng_between(&m->rng, 0, 40));
}

void sim_node_post(struct sim *sim, uint64_t id, struct node_event *event) {
    struct sim_member *m = sim_member(sim, id);
    if (m->running) post(m, event);
}

static void push_log_job(struct sim_member *m, struct node_effect *fx);
static void want_apply(struct sim_member *m);
static void want_feed(struct sim_member *m, const struct node_effect *fx);

static void die(struct sim_member *m, const char *why) {
    if (m->dying) return;
    m->dying = true;
    snprintf(m->last_words, sizeof m->last_words, "%s", why);
}

static void carry_out(struct sim_member *m, struct node_effect *fx) {
    struct sim *sim = m->sim;
    sim_watch_effect(m, fx);
    switch (fx->type) {
    case NODE_FX_WRITE:
    case NODE_FX_SAVE_VOTE:
    case NODE_FX_CUT:
    case NODE_FX_SYNC:
    case NODE_FX_FOUND:
    case NODE_FX_TRUNCATE:
        push_log_job(m, fx);
        break;
    case NODE_FX_SEND:
        sim_net_send(sim, m->id, fx);
        break;
    case NODE_FX_REFUSE:
        sim_trace(sim, (unsigned)m->id, "refuses a stream: %s", fx->text);
        snprintf(sim->refused, sizeof sim->refused, "%s", fx->text);
        sim_net_refuse(sim, m->id, fx->stream, fx->text);
        break;
    case NODE_FX_WELCOME:
        sim_net_welcome(sim, m->id, fx->stream, fx->peer);
        break;
    case NODE_FX_FEED:
        want_feed(m, fx);
        break;
    case NODE_FX_APPLY:
        if (fx->seq > m->apply_target) m->apply_target = fx->seq;
        if (fx->blocks.blob) apply_give(m->apply.applier, fx->blocks);
        want_apply(m);
        break;
    case NODE_FX_FLUSH:
        m->apply_flush = true;
        want_apply(m);
        break;
    case NODE_FX_REPLY:
        if (!sim_watch_reply(sim, fx)) sim_service_reply(sim, m->id, fx);
        break;
    case NODE_FX_PUBLISH:
        break;
    case NODE_FX_FATAL:
        die(m, fx->text);
    }
}

static void step(struct sim_member *m, struct sim_item *item) {
    struct node_event *ev = &item->ev;
    ev->now_ms = sim_member_mono_ms(m);
    ev->wall_us = wall_us(m);
    if (ev->msg) {
        ev->msg = &item->msg;
        if (!sim_net_admit(m->sim, m->id, ev->stream, &ev->peer)) return;
        item->msg.raft.from = ev->peer;
        sim_watch_heard(m, ev->peer);
    }
    ev->text = item->text;
    size_t before = m->fx.n;
    node_step(m->node, ev, &m->fx);
    if (ev->type != NODE_EV_PEER_MESSAGE || item->msg.kind != PEER_HELLO) return;
    for (size_t i = before; i < m->fx.n; i++)
        if (m->fx.items[i].type == NODE_FX_WELCOME)
            sim_net_welcome(m->sim, m->id, m->fx.items[i].stream, m->fx.items[i].peer);
}

static void tick(struct sim_member *m) {
    struct node_event ev = {
        .type = NODE_EV_TICK, .now_ms = sim_member_mono_ms(m), .wall_us = wall_us(m)};
    node_step(m->node, &ev, &m->fx);
    m->ticked_ms = ev.now_ms;
}

static void drop_references(struct node_effects *fx) {
    for (size_t i = 0; i < fx->n; i++) {
        struct node_effect *e = &fx->items[i];
        if (e->type == NODE_FX_WRITE) blob_unref(e->blocks.blob);
        if (e->type == NODE_FX_SEND) blob_unref(e->msg.blocks.blob);
    }
    node_effects_clear(fx);
}

static void settle(struct sim_member *m);

static void turn(struct sim *sim, void *arg, uint64_t gen) {
    struct sim_member *m = arg;
    if (!m->running || gen != m->turn_gen || m->paused) return;
    unsigned before = sim_set_speaker((unsigned)m->id);
    m->turn_pending = false;
    m->in_turn = true;
    uint64_t now_ms = sim_member_mono_ms(m);
    size_t n = m->n_inbox;
    struct sim_item *items = m->inbox;
    m->inbox = NULL;
    m->n_inbox = m->inbox_capacity = 0;
    for (size_t i = 0; i < n; i++) step(m, &items[i]);
    for (size_t i = 0; i < n; i++) item_free(&items[i]);
    free(items);
    if (n == 0 || now_ms - m->ticked_ms >= TICK_MS) tick(m);
    node_pump(m->node, &m->fx);
    for (unsigned pass = 0; pass < NODE_PASSES; pass++)
        for (size_t i = 0; i < m->fx.n && !m->dying; i++)
            if (node_effect_pass(&m->fx.items[i]) == pass) carry_out(m, &m->fx.items[i]);
    if (m->dying)
        drop_references(&m->fx);
    else
        node_effects_clear(&m->fx);
    m->in_turn = false;
    if (!m->dying) sim_watch_turn(m);
    uint64_t since_ms = sim_member_mono_ms(m) - m->ticked_ms;
    uint64_t wait_ms = since_ms >= TICK_MS ? 0 : TICK_MS - since_ms;
    if (wait_ms > HELD_MS && node_wants_pump(m->node)) wait_ms = HELD_MS;
    if (m->n_inbox == 0) want_turn(m, true_us(m, wait_ms));
    settle(m);
    sim_set_speaker(before);
    (void)sim;
}

/* ---- The wal thread -------------------------------------------------------------------------- */

static void log_step(struct sim *sim, void *arg, uint64_t gen);

static void want_log(struct sim_member *m) {
    if (m->log_busy || m->paused) return;
    m->log_busy = true;
    sim_after(m->sim, sim_disk_latency_us(m->sim, &m->disk), log_step, m, ++m->log_gen);
}

static void log_wait_over(struct sim *sim, void *arg, uint64_t gen) {
    struct sim_member *m = arg;
    (void)sim;
    if (m->running && gen == m->log_gen) want_log(m);
}

static void log_step(struct sim *sim, void *arg, uint64_t gen) {
    struct sim_member *m = arg;
    if (!m->running || gen != m->log_gen) return;
    m->log_busy = false;
    if (m->paused) return;
    unsigned before = sim_set_speaker((unsigned)m->id);
    uint64_t pushed = m->log_pushed;
    uint64_t wait_ms = log_worker_run(m->log);
    sim_set_speaker(before);
    if (wait_ms == 0 || m->log_pushed != pushed)
        want_log(m);
    else
        sim_after(sim, true_us(m, wait_ms), log_wait_over, m, ++m->log_gen);
    settle(m);
}

static void push_log_job(struct sim_member *m, struct node_effect *fx) {
    struct log_job *job = malloc(sizeof *job);
    CHECK(job && log_job_init(job, fx));
    log_worker_push(m->log, job);
    m->log_pushed++;
    want_log(m);
}

static void worker_post(void *user, const struct node_event *ev) {
    struct sim_member *m = user;
    sim_watch_event(m, ev);
    post(m, ev);
}

static void worker_fatal(void *user, const char *text) {
    die(user, text);
}

static uint64_t worker_now_ms(void *user) {
    return sim_member_mono_ms(user);
}

static bool worker_more(void *user) {
    (void)user;
    return false; /* all jobs are pushed at once */
}

/* ---- The filling thread: spare segments beside the log, as server/fill_thread.c */

static void fill_step(struct sim *sim, void *arg, uint64_t life);

static void want_fill(struct sim_member *m) {
    uint64_t pace_us = sim_draw(m->sim, FILL_LOW_US, FILL_HIGH_US);
    sim_after(m->sim, pace_us + sim_disk_latency_us(m->sim, &m->disk), fill_step, m, m->life);
}

static bool has_room(const struct sim_member *m) {
    const struct disk *disk = disk_mem_table(m->disk.mem);
    uint64_t free_bytes = 0;
    return disk->free_bytes(disk->ctx, SIM_DIR, &free_bytes, NULL) == REPLOG_OK &&
           free_bytes > RESERVE_BYTES + RESERVE_BYTES / 2;
}

/* One slice; the process may end between two of them, or in one. */
static void fill_step(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    if (!m->running || life != m->life) return;
    if (m->paused) {
        sim_after(sim, m->resume_us - sim->now_us + 10, fill_step, m, life);
        return;
    }
    unsigned before = sim_set_speaker((unsigned)m->id);
    struct sim_filler *f = &m->filler;
    replog_error err = {.text = "the disk is nearly full"};
    bool goes_on = has_room(m) && wal_spare_fill(m->wal, &f->spare, &err) == REPLOG_OK;
    sim_note(sim, (unsigned)m->id, "fills spare, up to", f->spare.number, f->spare.size_bytes);
    if (!goes_on) sim_trace(sim, (unsigned)m->id, "no spare is filled: %s", err.text);
    f->done = !goes_on || f->spare.full;
    if (!f->done) want_fill(m);
    sim_set_speaker(before);
    settle(m);
}

static void worker_fill(void *user, const struct wal_spare *spare) {
    struct sim_member *m = user;
    CHECK(!m->filler.busy);
    m->filler = (struct sim_filler){.spare = *spare, .busy = true};
    want_fill(m);
}

static bool worker_filled(void *user, struct wal_spare *spare) {
    struct sim_filler *f = &((struct sim_member *)user)->filler;
    if (!f->done) return false;
    *spare = f->spare;
    *f = (struct sim_filler){0};
    return true;
}

/* With the process: what it has made is left for the next start to remove. */
static void drop_filler(struct sim_member *m) {
    if (m->filler.spare.file) disk_mem_table(m->disk.mem)->close(m->filler.spare.file);
    m->filler = (struct sim_filler){0};
}

/* ---- The apply thread */

static void apply_step(struct sim *sim, void *arg, uint64_t life) {
    struct sim_member *m = arg;
    if (!m->running || life != m->life) return;
    m->apply_busy = false;
    if (m->paused) return;
    unsigned before = sim_set_speaker((unsigned)m->id);
    bool flush = m->apply_flush;
    m->apply_flush = false;
    enum apply_worker_next next = apply_worker_run(&m->apply, m->apply_target, flush);
    sim_set_speaker(before);
    if (next == APPLY_WORKER_FULL) {
        m->apply_busy = true;
        sim_after(sim, true_us(m, APPLY_WORKER_SPACE_MS), apply_step, m, m->life);
    } else if (next == APPLY_WORKER_AGAIN) {
        want_apply(m);
    }
    settle(m);
}

static void want_apply(struct sim_member *m) {
    if (m->apply_busy || m->paused) return;
    m->apply_busy = true;
    sim_after(m->sim, sim_disk_latency_us(m->sim, &m->disk), apply_step, m, m->life);
}

/* ---- The reader pool */

struct feed {
    struct sim_member *member;
    uint64_t peer, ticket, seq, limit_seq, bytes;
};

static void feed_step(struct sim *sim, void *arg, uint64_t life) {
    struct feed *feed = arg;
    struct sim_member *m = feed->member;
    if (!m->running || life != m->life) {
        free(feed);
        return;
    }
    if (m->paused) {
        sim_after(sim, m->resume_us - sim->now_us + 10, feed_step, feed, life);
        return;
    }
    struct node_event ev = {.type = NODE_EV_FED, .peer = feed->peer, .ticket = feed->ticket};
    replog_error err = {.text = "nothing there yet"};
    unsigned before = sim_set_speaker((unsigned)m->id);
    replog_status st = feeder_read(&m->feeders[feed->peer], m->wal, feed->seq, feed->limit_seq,
                                   feed->bytes, &ev.blocks, &err);
    sim_set_speaker(before);
    if (st != REPLOG_OK) ev.text = err.text;
    ev.damaged = st == REPLOG_DATA_LOSS;
    sim_note(sim, (unsigned)m->id, "fed peer, from seq", feed->peer, feed->seq);
    if (st == REPLOG_DATA_LOSS) sim_node_found_rot(sim, m->id, err.text);
    post(m, &ev);
    free(feed);
    settle(m);
}

static void want_feed(struct sim_member *m, const struct node_effect *fx) {
    struct feed *feed = malloc(sizeof *feed);
    CHECK(feed);
    *feed = (struct feed){m, fx->peer, fx->ticket, fx->seq, fx->limit_seq, fx->bytes};
    sim_after(m->sim, sim_disk_latency_us(m->sim, &m->disk), feed_step, feed, m->life);
}

/* ---- Birth ----------------------------------------------------------------------------------- */

static void start_later(struct sim *sim, void *arg, uint64_t gen) {
    struct sim_member *m = arg;
    (void)sim;
    if (gen != m->start_gen) return;
    m->start_pending = false;
    if (!m->running) sim_member_start(m);
}

void sim_member_start_after(struct sim_member *m, uint64_t delay_us) {
    uint64_t at_us = m->sim->now_us + delay_us;
    if (m->start_pending && m->start_at_us <= at_us) return;
    m->start_pending = true;
    m->start_at_us = at_us;
    sim_after(m->sim, delay_us, start_later, m, ++m->start_gen);
}

static replog_status open_member(struct sim_member *m, replog_error *err) {
    static const struct apply_worker_ops apply_ops = {.post = worker_post, .fatal = worker_fatal};
    static const struct log_worker_ops beside = {.post = worker_post,
                                                 .fatal = worker_fatal,
                                                 .now_ms = worker_now_ms,
                                                 .more = worker_more,
                                                 .fill = worker_fill,
                                                 .filled = worker_filled};
    static const struct log_worker_ops alone = {
        .post = worker_post, .fatal = worker_fatal, .now_ms = worker_now_ms, .more = worker_more};
    struct sim *sim = m->sim;
    struct wal_options wo = {.disk = disk_mem_table(m->disk.mem),
                             .dir = SIM_DIR,
                             .member_id = m->id,
                             .new_incarnation = rng_next(&m->rng) | 1,
                             .segment_bytes = sim->segment_bytes,
                             .pool_segments = sim->pool_segments,
                             .create = true,
                             .buffered = sim->sync != SIM_SYNC_ALWAYS};
    replog_status st = wal_open(&wo, &m->wal, err);
    if (st == REPLOG_OK)
        st = apply_open(m->wal, m->disk.store, sim->max_sessions, &m->applier, err);
    struct node_options no = sim->node_options;
    no.self = m->id;
    no.seed = rng_next(&m->rng);
    if (st == REPLOG_OK)
        st = node_open(&no, m->wal, m->applier, sim_member_mono_ms(m), &m->node, err);
    if (st != REPLOG_OK) return st;
    static const replog_sync_mode modes[] = {REPLOG_SYNC_ALWAYS, REPLOG_SYNC_BATCH,
                                             REPLOG_SYNC_NONE};
    struct log_worker_options lo = {.wal = m->wal,
                                    .disk = wo.disk,
                                    .dir = SIM_DIR,
                                    .sync = modes[sim->sync],
                                    .reserve_bytes = RESERVE_BYTES,
                                    .ops = sim->fills_beside ? &beside : &alone,
                                    .user = m};
    m->log = log_worker_new(&lo);
    CHECK(m->log);
    m->apply = (struct apply_worker){
        .applier = m->applier, .ops = &apply_ops, .user = m, .slice_bytes = sim->slice_bytes};
    return st;
}

static void close_member(struct sim_member *m) {
    for (unsigned i = 0; i <= SIM_MAX_NODES; i++) {
        feeder_close(&m->feeders[i]);
        m->feeders[i] = (struct feeder){0};
    }
    for (size_t i = 0; i < m->n_inbox; i++) item_free(&m->inbox[i]);
    m->n_inbox = 0;
    drop_filler(m);
    log_worker_free(m->log);
    node_close(m->node);
    apply_close(m->applier);
    wal_close(m->wal);
    m->log = NULL;
    m->node = NULL;
    m->applier = NULL;
    m->wal = NULL;
}

/* One copy was damaged, and a power cut tore the other: two faults are more than VOTE bears. */
static bool has_no_vote(const struct sim_member *m) {
    if (!(m->damage & SIM_VOTE_COPY_DAMAGED)) return false;
    struct vote_file vote = {0};
    sim_member_observe(m, true);
    replog_status st = vote_load(disk_mem_table(m->disk.mem), SIM_DIR "/VOTE", true, &vote, NULL);
    sim_member_observe(m, false);
    return st == REPLOG_DATA_LOSS;
}

/* Whether something was done to its disk since the process began that may end it. */
static bool disk_failed(const struct sim_member *m) {
    return disk_mem_is_off(m->disk.mem) || disk_mem_n_failed(m->disk.mem) != m->failed_before;
}

/* A damaged or wiped directory is refused by name, and not for want of anything else; a store that
 * was wiped only when the log does not reach back to what it lacks. */
static bool may_refuse(const struct sim_member *m, replog_status st) {
    if (disk_failed(m)) return true;
    if (st == REPLOG_RESOURCE_EXHAUSTED) return m->disk.full;
    if (st != REPLOG_DATA_LOSS && st != REPLOG_FAILED_PRECONDITION) return false;
    if (m->damage & (SIM_DISK_WIPED | SIM_DISK_DAMAGED)) return true;
    uint64_t applied = m->disk.store->ops->applied(m->disk.store);
    return m->damage & SIM_STORE_WIPED && m->wal && wal_base(m->wal).seq > applied;
}

static void start_failed(struct sim_member *m, replog_status st, const replog_error *err) {
    struct sim *sim = m->sim;
    sim_trace(sim, (unsigned)m->id, "does not start: %s %s", replog_status_name(st), err->text);
    if (!disk_failed(m) && has_no_vote(m)) sim_member_damaged(m, SIM_DISK_DAMAGED);
    if (!may_refuse(m, st))
        sim_fail(sim, "[start] member %" PRIu64 " does not start, and its disk %s: %s %s", m->id,
                 m->excused ? "is no reason for it" : "is not damaged", replog_status_name(st),
                 err->text);
    close_member(m);
    bool at_call = disk_mem_is_off(m->disk.mem), power = at_call && sim_draw(sim, 0, 1);
    if (at_call && !power) disk_mem_cut_at(m->disk.mem, 0); /* killed, and the machine goes on */
    if (power) sim_watch_power_lost(m);
    sim_disk_crash(sim, &m->disk, power, DISK_LOSE_RANDOM);
    m->start_tries++;
    uint64_t wait_us = sim_draw(sim, 100000, sim->quiet ? 400000 : 2000000);
    if (m->start_tries < 20) sim_member_start_after(m, wait_us);
}

void sim_member_start(struct sim_member *m) {
    CHECK(!m->running);
    struct sim *sim = m->sim;
    unsigned before = sim_set_speaker((unsigned)m->id);
    replog_error err = {0};
    m->life++;
    m->dying = false;
    m->stopping = false;
    m->paused = false;
    m->failed_before = disk_mem_n_failed(m->disk.mem);
    replog_status st = open_member(m, &err);
    sim_set_speaker(before);
    if (st != REPLOG_OK) {
        start_failed(m, st, &err);
        return;
    }
    m->start_tries = 0;
    m->running = true;
    m->turn_pending = m->log_busy = m->apply_busy = m->apply_flush = false;
    m->apply_target = 0;
    m->ticked_ms = sim_member_mono_ms(m);
    sim_trace(sim, (unsigned)m->id,
              "starts, life %" PRIu64 ": log %" PRIu64 " to %" PRIu64 ", applied %" PRIu64
              ", torn bytes %" PRIu64,
              m->life, wal_first_seq(m->wal), wal_tail(m->wal).seq, apply_seq(m->applier),
              wal_torn_bytes(m->wal));
    sim_watch_up(m);
    want_turn(m, TURN_US);
    want_log(m);
    sim_net_node_up(sim, m->id);
    sim_service_node_up(sim, m->id);
}

/* ---- Death ----------------------------------------------------------------------------------- */

/* In order, as server_stop does. */
static void finish(struct sim_member *m) {
    while (log_worker_busy(m->log) && !log_worker_stuck(m->log) && !m->dying)
        (void)log_worker_run(m->log);
    log_worker_finish(m->log);
    (void)apply_worker_run(&m->apply, 0, true);
}

void sim_member_end(struct sim_member *m, enum sim_death how, enum disk_mem_loss loss) {
    if (!m->running) return;
    CHECK(!m->in_turn);
    struct sim *sim = m->sim;
    static const char *const names[] = {"killed", "power cut", "stopped"};
    sim_trace(sim, (unsigned)m->id, "ends: %s", names[how]);
    unsigned before = sim_set_speaker((unsigned)m->id);
    if (how == SIM_STOP) finish(m);
    sim_watch_down(m);
    sim_service_node_down(sim, m->id);
    m->running = m->paused = false;
    sim_net_node_down(sim, m->id, how == SIM_POWER);
    close_member(m);
    sim_set_speaker(before);
    bool at_call = disk_mem_is_off(m->disk.mem);
    if (how == SIM_KILL && at_call) disk_mem_cut_at(m->disk.mem, 0);
    bool power = how == SIM_POWER || (at_call && how != SIM_KILL);
    if (power) sim_watch_power_lost(m);
    sim_disk_crash(sim, &m->disk, power, loss);
}

/* A copy of VOTE that was cut off takes room anew, which a full disk does not have. */
static bool may_end(const struct sim_member *m) {
    return disk_failed(m) || m->damage & SIM_DISK_DAMAGED ||
           (m->damage & SIM_VOTE_COPY_DAMAGED && m->disk.full);
}

/* It was ended at a disk call: with the machine, or alone. Then what it wrote is in the page cache,
 * synced or not, and so it may start, and the power may go soon. */
static void end_at_call(struct sim_member *m) {
    static const enum disk_mem_loss losses[] = {DISK_LOSE_RANDOM, DISK_LOSE_ALL, DISK_LOSE_NONE};
    struct sim *sim = m->sim;
    uint64_t call = disk_mem_calls(m->disk.mem), dice = sim_draw(sim, 0, 5);
    if (dice < 3) {
        sim_trace(sim, (unsigned)m->id, "the power went with disk call %" PRIu64, call);
        sim_member_end(m, SIM_POWER, losses[dice]);
        return;
    }
    sim_trace(sim, (unsigned)m->id, "was killed in disk call %" PRIu64, call);
    sim_member_end(m, SIM_KILL, DISK_LOSE_NONE);
    if (dice > 3 && !sim->quiet) disk_mem_cut_at(m->disk.mem, call + sim_draw(sim, 1, 60));
}

/* After each call into the member: it may have ended itself, or the power may be gone. */
static void settle(struct sim_member *m) {
    struct sim *sim = m->sim;
    if (!m->running) return;
    if (disk_mem_is_off(m->disk.mem)) {
        end_at_call(m);
    } else if (m->dying) {
        sim_trace(sim, (unsigned)m->id, "ends itself: %s", m->last_words);
        if (!may_end(m))
            sim_fail(sim, "[stop] member %" PRIu64 " ended itself, and its disk is not damaged: %s",
                     m->id, m->last_words);
        sim_member_end(m, SIM_KILL, DISK_LOSE_NONE);
    } else {
        return;
    }
    sim_member_start_after(m, sim_draw(sim, 50000, sim->quiet ? 500000 : 3000000));
}

/* It may now refuse to start, or stop itself. What it has promised it must still keep, or refuse;
 * only with a log that was wiped that is gone. */
void sim_member_damaged(struct sim_member *m, enum sim_damage damage) {
    m->damage |= (unsigned)damage;
    if (damage & EXCUSES) m->excused = true;
    if (damage == SIM_DISK_WIPED) sim_watch_destroyed(m);
}

void sim_member_free(struct sim_member *m) {
    if (!m) return;
    if (m->running) close_member(m);
    node_effects_free(&m->fx);
    free(m->inbox);
    sim_disk_free(&m->disk);
    free(m);
}

/* ---- Pause */

void sim_member_pause(struct sim_member *m, uint64_t us) {
    if (!m->running || m->paused) return;
    m->paused = true;
    m->resume_us = m->sim->now_us + us;
    m->turn_pending = false;
    m->turn_gen++;
}

void sim_member_resume(struct sim_member *m) {
    if (!m->running || !m->paused) return;
    m->paused = false;
    want_turn(m, TURN_US);
    want_log(m);
    want_apply(m);
    sim_net_node_resumed(m->sim, m->id);
}

/* ---- What others ask (sim.h) */

bool sim_node_running(const struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->running;
}
bool sim_node_paused(const struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->paused;
}
uint64_t sim_node_life(const struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->life;
}
unsigned sim_node_damage(const struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->damage & EXCUSES;
}

unsigned sim_n_destroyed(const struct sim *sim) {
    unsigned n = 0;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *m = sim_member(sim, id);
        n += m->excused || m->damage & SIM_VOTE_COPY_DAMAGED || /* the other copy may be torn yet */
             sim_watch_is_apart(m);
    }
    return n;
}

bool sim_must_progress(const struct sim *sim) {
    return sim->n_nodes - sim_n_destroyed(sim) > sim->n_nodes / 2;
}

uint64_t sim_node_clock_ms(const struct sim *sim, uint64_t id) {
    return sim_member_mono_ms(sim_member(sim, id));
}
uint64_t sim_node_wall_us(const struct sim *sim, uint64_t id) {
    return wall_us(sim_member(sim, id));
}
struct wal *sim_node_wal(struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->wal;
}
struct store *sim_node_store(struct sim *sim, uint64_t id) {
    return sim_member(sim, id)->disk.store;
}
void sim_node_snapshot(struct sim *sim, uint64_t id, struct node_snapshot *out) {
    node_snapshot(sim_member(sim, id)->node, out);
}

uint64_t sim_node_commit(struct sim *sim, uint64_t id) {
    struct node_snapshot s;
    sim_node_snapshot(sim, id, &s);
    return s.commit_seq < s.durable_seq ? s.commit_seq : s.durable_seq;
}

void sim_node_found_rot(struct sim *sim, uint64_t id, const char *text) {
    const struct sim_member *m = sim_member(sim, id);
    sim_trace(sim, (unsigned)id, "found rot: %s", text);
    if (!(m->damage & SIM_DISK_DAMAGED) && !disk_mem_is_off(m->disk.mem))
        sim_fail(sim, "[rot] member %" PRIu64 " finds rot, and its disk is not damaged: %s", id,
                 text);
}

void sim_member_observe(const struct sim_member *m, bool on) {
    disk_mem_observe(m->disk.mem, on);
}

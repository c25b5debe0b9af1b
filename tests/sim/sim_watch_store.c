/* sim_watch_store.c: what a store must hold: a model of it, kept as a sum of what each key holds,
 * and the check of a member's store against it. */
#include <inttypes.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "sim_watch_impl.h"

static uint64_t content_of(struct slice key, uint64_t seq, struct slice value) {
    uint64_t parts[3] = {hash64(key.data, key.size_bytes), seq,
                         hash64(value.data, value.size_bytes)};
    return hash64(parts, sizeof parts);
}

static void model_grow(struct sim_watch *w);

static struct slot *model_find(struct sim_watch *w, uint64_t key) {
    size_t at = key & (w->model_capacity - 1);
    while (w->model[at].key && w->model[at].key != key) at = (at + 1) & (w->model_capacity - 1);
    return &w->model[at];
}

static void model_set(struct sim_watch *w, uint64_t key, uint64_t content) {
    if (2 * (w->n_model + 1) > w->model_capacity) model_grow(w);
    struct slot *slot = model_find(w, key);
    if (!slot->key) w->n_model++;
    slot->key = key;
    w->content += content - slot->content;
    slot->content = content;
}

static void model_grow(struct sim_watch *w) {
    struct slot *old = w->model;
    size_t n = w->model_capacity;
    w->model_capacity = n ? 2 * n : 256;
    w->model = calloc(w->model_capacity, sizeof *w->model);
    CHECK(w->model);
    for (size_t i = 0; i < n; i++)
        if (old[i].key) *model_find(w, old[i].key) = old[i];
    free(old);
}

void watch_model_apply(struct sim_watch *w, const struct block_header *h, const uint8_t *bytes) {
    if (!(h->flags & BLOCK_KEYED)) return;
    struct block_walk walk = {0};
    replog_record r;
    while (block_next(bytes, h, &walk, &r)) {
        if (r.key_bytes == 0 || (r.op != REPLOG_OP_PUT && r.op != REPLOG_OP_DELETE)) continue;
        struct slice key = {r.key, r.key_bytes}, value = {r.value, r.value_bytes};
        model_set(w, hash64(key.data, key.size_bytes) | 1,
                  r.op == REPLOG_OP_PUT ? content_of(key, r.seq, value) : 0);
    }
}

struct hashing {
    uint64_t sum;
    size_t n;
};

static void add_user(struct slice key, uint64_t seq, struct slice value, void *user) {
    struct hashing *h = user;
    h->sum += content_of(key, seq, value);
    h->n++;
}

static void add_meta(struct slice key, struct slice value, void *user) {
    struct hashing *h = user;
    h->sum += content_of(key, 1, value);
}

void watch_check_store(struct sim_member *m) {
    struct sim *sim = m->sim;
    struct sim_watch *w = sim->watch;
    struct store *store = m->disk.store;
    uint64_t applied = store->ops->applied(store);
    if (applied == 0) return;
    size_t at = watch_truth_find(w, applied);
    /* its log cannot be read, and others will say it; or there is no truth any more */
    if (at == w->n_truth && (w->lost || m->damage & SIM_DISK_DAMAGED)) return;
    if (at == w->n_truth || w->truth[at].end.seq != applied)
        sim_fail(sim,
                 "[store] member %" PRIu64 " has applied up to seq %" PRIu64
                 ", which is not the end of a committed block",
                 m->id, applied);
    struct hashing user = {0}, meta = {0};
    replog_error err;
    CHECK(store->ops->each(store, add_user, &user, &err) == REPLOG_OK);
    CHECK(store->ops->meta_each(store, add_meta, &meta, &err) == REPLOG_OK);
    if (user.sum != w->truth[at].content)
        sim_fail(sim,
                 "[store] the store of member %" PRIu64 " at seq %" PRIu64
                 " (%zu keys) is not what the log makes",
                 m->id, applied, user.n);
    if (w->truth[at].meta && w->truth[at].meta != (meta.sum | 1))
        sim_fail(sim,
                 "[store] the meta entries (sessions, checkpoint) of member %" PRIu64
                 " at seq %" PRIu64 " are not those of another member",
                 m->id, applied);
    w->truth[at].meta = meta.sum | 1;
    sim->figures.log_checks++;
}

void watch_check_same_stores(struct sim *sim) {
    struct hashing sums[SIM_MAX_NODES + 1] = {{0}};
    uint64_t applied[SIM_MAX_NODES + 1] = {0};
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *m = sim_member(sim, id);
        struct store *store = m->disk.store;
        replog_error err;
        if (!m->running || watch_record(m)->apart) continue;
        applied[id] = store->ops->applied(store);
        CHECK(store->ops->each(store, add_user, &sums[id], &err) == REPLOG_OK);
        CHECK(store->ops->meta_each(store, add_meta, &sums[id], &err) == REPLOG_OK);
        for (uint64_t k = 1; k < id; k++)
            if (applied[k] && applied[k] == applied[id] && sums[k].sum != sums[id].sum)
                sim_fail(sim,
                         "[store] the stores of members %" PRIu64 " and %" PRIu64
                         " differ at seq %" PRIu64,
                         k, id, applied[id]);
    }
}

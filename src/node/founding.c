/* founding.c: how directories become a cluster, and who is welcome afterwards.
 *
 * Every stream begins with a HELLO: who the sender is, the incarnation of its directory, and how
 * far its founding has come. EMPTY    it belongs to no cluster. When all members of --cluster have
 * said hello, each of them not founded, the map {id -> incarnation} is complete: it is fsynced, and
 * then AGREED   says so with the map's id (a hash). When all members have said that they agreed on
 *            the same map, or one says that it is founded on it (so all had), then
 *   FOUNDED  is fsynced, the cluster's id is the map's, and elections may begin.
 * So two empty directories beside a silent member never form a cluster, and a directory that was
 * wiped comes back with an incarnation that the map does not know: it is refused by name.
 * An agreed member that meets another map agrees anew only while all others are known not to be
 * founded. Should members be wiped in the very moment of founding, the rest may refuse each other:
 * no record can have been written by then, and the directories have to be emptied. */
#include <inttypes.h>
#include <stdio.h>

#include "base/check.h"
#include "base/log.h"
#include "node/node_impl.h"

static void send_hello(struct node *n, struct node_peer *p, struct node_effects *fx) {
    struct peer_msg msg = {.kind = PEER_HELLO};
    msg.hello = (struct peer_hello){.from = n->self,
                                    .to = p->id,
                                    .incarnation = n->incarnation,
                                    .cluster_id = n->cluster_id,
                                    .map_id = n->map_id,
                                    .founding = (uint32_t)n->founding,
                                    .version = PEER_VERSION};
    fx_send(n, fx, p, &msg);
}

static void hello_to_all(struct node *n, struct node_effects *fx) {
    for (unsigned i = 0; i < n->n_peers; i++) send_hello(n, &n->peers[i], fx);
}

void founding_peer_up(struct node *n, struct node_peer *p, struct node_effects *fx) {
    send_hello(n, p, fx);
}

void founding_refuse(struct node *n, uint64_t stream, const char *text, struct node_effects *fx) {
    for (unsigned i = 0; i < n->n_peers; i++)
        if (n->peers[i].in_stream == stream) n->peers[i].in_stream = 0;
    struct node_effect *e = fx_add(fx, NODE_FX_REFUSE);
    e->stream = stream;
    snprintf(e->text, sizeof e->text, "%s", text);
}

/* Why the sender is not welcome; false: it is. */
static bool unwelcome(const struct node *n, const struct peer_hello *h, char *text, size_t size) {
    const struct config_member *m = config_find(&n->config, h->from);
    if (h->version != PEER_VERSION)
        snprintf(text, size, "member %" PRIu64 " speaks peer protocol %u, this node speaks %d",
                 h->from, h->version, PEER_VERSION);
    else if (h->to != n->self)
        snprintf(text, size,
                 "this is member %" PRIu64 ", not member %" PRIu64
                 ": check the addresses in --cluster",
                 n->self, h->to);
    else if (!m || h->from == n->self)
        snprintf(text, size, "member %" PRIu64 " does not belong to this cluster", h->from);
    else if (h->founding < WAL_EMPTY || h->founding > WAL_FOUNDED)
        snprintf(text, size, "member %" PRIu64 " says founding state %u, which there is not",
                 h->from, h->founding);
    else if (n->founding != WAL_FOUNDED || MUTANT(WELCOME_WIPED))
        return false;
    else if (h->founding == WAL_FOUNDED && h->cluster_id != n->cluster_id)
        snprintf(text, size,
                 "the directory of member %" PRIu64 " belongs to cluster %016" PRIx64
                 ", this is cluster %016" PRIx64,
                 h->from, h->cluster_id, n->cluster_id);
    else if (h->incarnation != m->incarnation)
        snprintf(text, size,
                 "member %" PRIu64 " comes with incarnation %016" PRIx64
                 ", the cluster knows it as %016" PRIx64
                 ": its directory was wiped or replaced, and members cannot be replaced yet; the "
                 "others go on without it",
                 h->from, h->incarnation, m->incarnation);
    else
        return false;
    return true;
}

void founding_hello(struct node *n, const struct peer_hello *h, uint64_t stream, uint64_t bound,
                    struct node_effects *fx) {
    char text[240];
    bool renamed = bound != 0 && h->from != bound;
    if (renamed)
        snprintf(text, sizeof text, "member %" PRIu64 " says hello as member %" PRIu64, bound,
                 h->from);
    if (renamed || unwelcome(n, h, text, sizeof text)) {
        founding_refuse(n, stream, text, fx);
        return;
    }
    struct node_peer *p = node_find_peer(n, h->from);
    CHECK(p != NULL);
    if (p->in_stream != stream) {
        p->in_stream = stream;
        struct node_effect *e = fx_add(fx, NODE_FX_WELCOME);
        e->stream = stream;
        e->peer = p->id;
    }
    p->hello = *h;
    p->heard = true;
    p->heard_ms = n->now_ms;
    founding_advance(n, fx);
}

static void save(struct node *n, enum wal_founding founding, const struct config *config,
                 struct node_effects *fx) {
    struct node_effect *e = fx_add(fx, NODE_FX_FOUND);
    if (config != &n->config) n->config = *config;
    e->founding = founding;
    e->config = &n->config;
    e->cluster_id = founding == WAL_FOUNDED ? config_cluster_id(config) : 0;
    n->map_id = config_cluster_id(config);
    n->founding_save_pending = true;
}

/* The map of all members as they have said hello; false while one is silent or founded. */
static bool complete_map(const struct node *n, struct config *map) {
    *map = n->config;
    for (unsigned i = 0; i < map->n_members; i++) {
        struct config_member *m = &map->members[i];
        m->incarnation = n->incarnation;
        for (unsigned k = 0; k < n->n_peers; k++) {
            const struct node_peer *p = &n->peers[k];
            if (p->id != m->id) continue;
            bool missing = !p->heard || p->in_stream == 0 || p->hello.founding == WAL_FOUNDED;
            if (MUTANT(FOUND_BESIDE_SILENT) && !p->heard && k + 1 == n->n_peers) missing = false;
            if (MUTANT(WELCOME_WIPED) && p->hello.founding == WAL_FOUNDED) missing = false;
            if (missing) return false;
            m->incarnation = p->hello.incarnation;
        }
    }
    return true;
}

static bool all_agreed(const struct node *n) {
    for (unsigned k = 0; k < n->n_peers; k++) {
        const struct node_peer *p = &n->peers[k];
        if (!p->heard && !MUTANT(FOUND_BESIDE_SILENT)) return false;
        if (p->hello.founding == WAL_FOUNDED && p->hello.cluster_id == n->map_id) return true;
    }
    for (unsigned k = 0; k < n->n_peers; k++) {
        const struct peer_hello *h = &n->peers[k].hello;
        if (MUTANT(FOUND_BESIDE_SILENT) && !n->peers[k].heard) continue;
        if (h->founding != WAL_AGREED || h->map_id != n->map_id) return false;
    }
    return true;
}

static bool one_founded(const struct node *n) {
    for (unsigned k = 0; k < n->n_peers; k++) {
        const struct node_peer *p = &n->peers[k];
        if (p->heard && p->hello.founding == WAL_FOUNDED && p->hello.cluster_id == n->map_id)
            return true;
        if (p->hello.founding == WAL_FOUNDED && MUTANT(WELCOME_WIPED)) return true;
    }
    return false;
}

void founding_advance(struct node *n, struct node_effects *fx) {
    if (n->founding == WAL_FOUNDED || n->founding_save_pending) return;
    struct config map;
    if (n->founding == WAL_AGREED && (one_founded(n) || all_agreed(n))) {
        save(n, WAL_FOUNDED, &n->config, fx);
        return;
    }
    if (!complete_map(n, &map)) return;
    if (n->founding == WAL_EMPTY || config_cluster_id(&map) != n->map_id)
        save(n, WAL_AGREED, &map, fx);
}

void founding_saved(struct node *n, enum wal_founding founding, struct node_effects *fx) {
    n->founding_save_pending = false;
    n->founding = founding;
    n->publish = true;
    if (founding == WAL_FOUNDED) {
        n->cluster_id = n->map_id;
        n->refused[0] = 0;
        log_info("cluster founded cluster=%016" PRIx64 " members=%u", n->cluster_id,
                 n->config.n_members);
        replog_error err;
        if (node_start_raft(n, &err) != REPLOG_OK) fx_fatal(n, fx, "%s", err.text);
    }
    hello_to_all(n, fx);
    founding_advance(n, fx);
}

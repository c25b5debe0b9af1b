/* reads.c: read indexes (thesis, 6.4). The leader confirms that it still leads, by a round of
 * heartbeats, and takes its commit; a follower asks the leader. The caller is answered when the
 * commit here (and, if it wants, the store) has reached the index. The same proof stands before a
 * refusal that a later leader could contradict.
 *
 * A sentence from here speaks of one request only. "Nothing was appended" is the client library's
 * to say: it knows of the attempts before. */
#include <inttypes.h>
#include <stdlib.h>

#include "node/node_impl.h"

enum { LEADERLESS_ELECTIONS = 4 }; /* times election_ms; an election lasts one to two of them */

static void drop(struct node *n, size_t i) {
    n->reads[i] = n->reads[--n->n_reads];
}

static struct read_wait *add(struct node *n) {
    if (n->n_reads >= NODE_MAX_READS) return NULL;
    if (n->n_reads == n->reads_capacity) {
        size_t capacity = n->reads_capacity ? 2 * n->reads_capacity : 64;
        struct read_wait *reads = realloc(n->reads, capacity * sizeof *reads);
        if (!reads) return NULL;
        n->reads = reads;
        n->reads_capacity = capacity;
    }
    struct read_wait *r = &n->reads[n->n_reads++];
    *r = (struct read_wait){.context = ++n->next_context};
    return r;
}

/* Asks the core, or the leader. The core may answer at once: `r` may be gone afterwards. */
static void ask(struct node *n, struct read_wait *r, struct node_effects *fx) {
    r->asked_ms = n->now_ms;
    r->asked = 0;
    if (node_is_leader(n)) {
        if (!raft_ready(n->raft)) return; /* asked again by the tick */
        struct raft_event event = {.type = RAFT_EV_READ, .context = r->context};
        replicate_event(n, &event, NULL, fx);
        return;
    }
    struct node_peer *p = n->leader ? node_find_peer(n, n->leader) : NULL;
    if (!p || r->token == 0) return;
    r->asked = p->id;
    struct peer_msg msg = {.kind = PEER_READ_ASK, .context = r->context};
    fx_send(n, fx, p, &msg);
}

void reads_request(struct node *n, const struct node_event *event, struct node_effects *fx) {
    struct read_wait *r = n->raft ? add(n) : NULL;
    if (!r) {
        fx_fail(n, fx, event->token, n->raft ? REPLOG_RESOURCE_EXHAUSTED : REPLOG_UNAVAILABLE,
                n->raft ? "too many reads wait for their index: retry later"
                        : "the cluster is not founded yet: a member has not been reached");
        return;
    }
    r->token = event->token;
    r->wait_applied = event->wait_applied;
    r->deadline_ms = event->deadline_ms ? event->deadline_ms : n->now_ms + NODE_DEFAULT_DEADLINE_MS;
    ask(n, r, fx);
}

void reads_refuse(struct node *n, const struct node_event *event, const struct refusal *why,
                  struct node_effects *fx) {
    struct read_wait *r = add(n);
    if (!r) {
        fx_fail(n, fx, event->token, REPLOG_UNAVAILABLE,
                "too many requests wait for a proof that this node leads; this one was not taken, "
                "retry with the same sequence");
        return;
    }
    r->token = event->token;
    r->refusal = *why;
    r->deadline_ms = event->deadline_ms ? event->deadline_ms : n->now_ms + NODE_DEFAULT_DEADLINE_MS;
    ask(n, r, fx);
}

void reads_leader_lost(struct node *n, struct node_effects *fx) {
    for (size_t i = 0; i < n->n_reads;) {
        if (n->reads[i].refusal.verdict == SESSION_ADMIT) {
            i++;
            continue;
        }
        node_not_leader(n, fx, n->reads[i].token);
        drop(n, i);
    }
}

void reads_asked(struct node *n, struct node_peer *p, uint64_t context, struct node_effects *fx) {
    struct read_wait *r = node_is_leader(n) && raft_ready(n->raft) ? add(n) : NULL;
    if (!r) {
        struct peer_msg no = {.kind = PEER_READ_ANSWER, .context = context};
        fx_send(n, fx, p, &no);
        return;
    }
    r->peer = p->id;
    r->peer_context = context;
    r->deadline_ms = n->now_ms + NODE_DEFAULT_DEADLINE_MS;
    ask(n, r, fx);
}

/* Only the member that was asked last: another one may not lead, or lie. */
void reads_answered(struct node *n, const struct node_peer *p, const struct peer_msg *msg,
                    struct node_effects *fx) {
    for (size_t i = 0; i < n->n_reads; i++) {
        const struct read_wait *r = &n->reads[i];
        if (r->context != msg->context) continue;
        if (r->asked == p->id) reads_known(n, msg->context, msg->raft.ok, msg->raft.seq, fx);
        return;
    }
}

void reads_known(struct node *n, uint64_t context, bool ok, uint64_t seq, struct node_effects *fx) {
    size_t i = 0;
    while (i < n->n_reads && n->reads[i].context != context) i++;
    if (i == n->n_reads || n->reads[i].known) return;
    struct read_wait *r = &n->reads[i];
    if (r->token == 0) {
        struct node_peer *p = node_find_peer(n, r->peer);
        struct peer_msg msg = {.kind = PEER_READ_ANSWER, .context = r->peer_context};
        msg.raft.ok = ok;
        msg.raft.seq = seq;
        if (p) fx_send(n, fx, p, &msg);
        drop(n, i);
        return;
    }
    if (!ok) return; /* asked again by the tick */
    if (r->refusal.verdict != SESSION_ADMIT) {
        append_refuse(n, r->token, &r->refusal, fx);
        drop(n, i);
        return;
    }
    r->known = true;
    r->seq = seq;
    reads_settle(n, fx);
}

void reads_settle(struct node *n, struct node_effects *fx) {
    for (size_t i = 0; i < n->n_reads;) {
        struct read_wait *r = &n->reads[i];
        if (!r->known || r->seq > raft_commit(n->raft) ||
            (r->wait_applied && r->seq > n->applied_seq && !MUTANT(GET_BEFORE_APPLIED))) {
            i++;
            continue;
        }
        fx_reply(fx, r->token)->seq = r->seq;
        drop(n, i);
    }
}

/* A read for a caller here, not the proof behind a refusal or the question of another member. */
static bool waits_for_its_index(const struct read_wait *r) {
    return r->token != 0 && !r->known && r->refusal.verdict == SESSION_ADMIT;
}

bool reads_cut_off(const struct node *n) {
    if (!n->raft) return true;
    if (n->leader || n->leader_known_ms == 0) return false;
    return n->now_ms - n->leader_known_ms >=
           (uint64_t)LEADERLESS_ELECTIONS * n->options.election_ms;
}

/* The reader learns it now, and may ask elsewhere, rather than at its deadline. */
static void refuse_leaderless(struct node *n, struct node_effects *fx) {
    if (n->leader || n->leader_known_ms == 0) n->leader_known_ms = n->now_ms;
    uint64_t without_ms = n->now_ms - n->leader_known_ms;
    if (!reads_cut_off(n)) return;
    for (size_t i = 0; i < n->n_reads;) {
        if (!waits_for_its_index(&n->reads[i])) {
            i++;
            continue;
        }
        fx_fail(n, fx, n->reads[i].token, REPLOG_UNAVAILABLE,
                "this member has known no leader for %" PRIu64
                " ms: ask another member, or retry later",
                without_ms);
        drop(n, i);
    }
}

void reads_tick(struct node *n, struct node_effects *fx) {
    refuse_leaderless(n, fx);
    for (size_t i = 0; i < n->n_reads;) {
        struct read_wait *r = &n->reads[i];
        if (r->deadline_ms <= n->now_ms) {
            fx_fail(n, fx, r->token, REPLOG_DEADLINE_EXCEEDED, "%s",
                    r->refusal.verdict != SESSION_ADMIT
                        ? "this node could not make sure in time that it still leads; the "
                          "request was not taken, retry with the same sequence"
                    : r->known  ? "this node did not catch up in time"
                    : n->leader ? "the leader did not confirm the read in time"
                                : "no leader is known");
            drop(n, i);
            continue;
        }
        i++;
        if (!r->known && n->now_ms - r->asked_ms >= NODE_ASK_AGAIN_MS) {
            size_t before = n->n_reads;
            ask(n, r, fx);
            if (n->n_reads < before) i--;
        }
    }
}

/* sim_watch_lives.c: from one life of a member to the next: what it promised before its end must
 * be there when it starts again. A member whose disk was damaged may refuse to start; when it does
 * start, it has forgotten nothing either. */
#include <inttypes.h>
#include <string.h>

#include "sim_watch_impl.h"

static void check_tail(const struct sim_member *m, const struct record *r) {
    uint64_t tail = wal_tail(m->wal).seq;
    const char *damaged = m->damage & SIM_DISK_DAMAGED ? ", which is damaged" : "";
    if (tail < r->promised_seq)
        sim_fail(m->sim,
                 "[lost] member %" PRIu64 " comes back with a log up to seq %" PRIu64
                 "%s, and had acknowledged %" PRIu64,
                 m->id, tail, damaged, r->promised_seq);
    /* Nobody else may know of it: what a leader alone has acknowledged (LEADER). */
    if (tail < r->durable_seq)
        sim_fail(m->sim,
                 "[lost] member %" PRIu64 " comes back with a log up to seq %" PRIu64
                 "%s, and it was durable up to %" PRIu64 " when the member ended",
                 m->id, tail, damaged, r->durable_seq);
    if (tail < r->claimed_seq)
        sim_fail(m->sim,
                 "[lost] member %" PRIu64 " comes back with a log up to seq %" PRIu64
                 "%s, and had said that %" PRIu64 " is committed",
                 m->id, tail, damaged, r->claimed_seq);
}

static void check_vote(const struct sim_member *m, const struct record *r) {
    struct wal_vote vote = wal_vote(m->wal);
    uint64_t tail_term = wal_tail(m->wal).term;
    uint64_t known_term = vote.term > tail_term ? vote.term : tail_term;
    bool forgot =
        vote.term < r->promised_vote.term ||
        (vote.term == r->promised_vote.term && vote.voted_for != r->promised_vote.voted_for);
    if (forgot)
        sim_fail(m->sim,
                 "[vote] member %" PRIu64 " comes back with term %" PRIu64 ", vote %" PRIu64
                 ", and had voted in term %" PRIu64 " for %" PRIu64,
                 m->id, vote.term, vote.voted_for, r->promised_vote.term,
                 r->promised_vote.voted_for);
    if (known_term < r->promised_term)
        sim_fail(m->sim,
                 "[vote] member %" PRIu64 " comes back with term %" PRIu64
                 ", and has spoken in term %" PRIu64,
                 m->id, known_term, r->promised_term);
}

static void check_founding(const struct sim_member *m, const struct record *r) {
    enum wal_founding founding = wal_identity(m->wal).founding;
    if (founding < r->founding || wal_base(m->wal).seq < r->base_seq)
        sim_fail(m->sim,
                 "[restart-remembers] member %" PRIu64
                 " comes back with founding state %d and a log from behind seq %" PRIu64
                 ", and had saved %d and %" PRIu64,
                 m->id, (int)founding, wal_base(m->wal).seq, (int)r->founding, r->base_seq);
}

void sim_watch_up(struct sim_member *m) {
    struct record *r = watch_record(m);
    const struct sim_watch *w = m->sim->watch;
    if (m->sim->unwatched) return;
    /* it has not stored what it knew to be committed: it may follow those who lost it */
    uint64_t certain = w->n_truth ? w->truth[w->n_truth - 1].end.seq : 0;
    if (w->lost && r->claimed_seq > certain) r->claimed_seq = certain;
    r->apart = false;
    r->read_seq = 0;
    r->blind = false;
    r->changed = true;
    r->leader_term = 0;
    r->cuts = 0;
    r->flushes = false;
    memset(r->heard_ms, 0, sizeof r->heard_ms);
    check_tail(m, r);
    check_vote(m, r);
    check_founding(m, r);
    watch_check_store(m);
    watch_check_base(m);
}

void sim_watch_down(struct sim_member *m) {
    struct record *r = watch_record(m);
    wal_reader_close(r->reader);
    r->reader = NULL;
    r->durable_seq = watch_durable_of(m);
    r->synced_seq = wal_durable(m->wal).seq;
    if (r->synced_seq > r->durable_seq) r->synced_seq = r->durable_seq;
    m->leads_term = 0;
}

/* ---- --sync none: what power may take -------------------------------------------------------- */

bool sim_has_lost(const struct sim *sim) {
    return sim->watch && sim->watch->lost;
}

uint64_t sim_node_wiped_seq(const struct sim *sim, uint64_t id) {
    return sim->watch ? sim->watch->records[id].wiped_seq : 0;
}

bool sim_watch_is_apart(const struct sim_member *m) {
    return watch_record(m)->apart;
}

/* Members that have the committed block at `seq` synced. */
static unsigned n_synced(const struct sim *sim, uint64_t seq) {
    unsigned n = 0;
    for (uint64_t id = 1; id <= sim->n_nodes; id++) {
        const struct sim_member *k = sim_member(sim, id);
        const struct record *r = watch_record(k);
        uint64_t synced = k->running ? wal_durable(k->wal).seq : r->synced_seq;
        n += r->claimed_seq >= seq && synced >= seq;
    }
    return n;
}

/* The first loss. What a majority has synced stays for ever: all who lead from here on have it. */
static void begin_loss(struct sim *sim) {
    struct sim_watch *w = sim->watch;
    w->lost = true;
    while (w->n_truth > 0 && n_synced(sim, w->truth[w->n_truth - 1].end.seq) <= sim->n_nodes / 2)
        w->n_truth--;
    sim_trace(sim, 0, "what was not synced is lost; certain up to seq %" PRIu64,
              w->n_truth ? w->truth[w->n_truth - 1].end.seq : 0);
}

void sim_watch_power_lost(struct sim_member *m) {
    struct record *r = watch_record(m);
    if (m->sim->unwatched || m->sim->sync != SIM_SYNC_NONE || r->durable_seq <= r->synced_seq)
        return;
    r->durable_seq = r->synced_seq;
    if (r->promised_seq > r->synced_seq) r->promised_seq = r->synced_seq;
    if (r->claimed_seq > r->synced_seq) r->claimed_seq = r->synced_seq;
    if (!m->sim->watch->lost) begin_loss(m->sim);
}

void sim_watch_destroyed(struct sim_member *m) {
    struct record *r = watch_record(m);
    if (r->durable_seq > r->wiped_seq) r->wiped_seq = r->durable_seq;
    r->promised_seq = r->promised_term = r->claimed_seq = r->durable_seq = 0;
    r->promised_vote = (struct wal_vote){0};
    r->founding = WAL_STANDALONE;
    r->base_seq = 0;
}

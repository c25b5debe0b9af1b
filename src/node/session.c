/* session.c: sessions in an array kept sorted by id (they are born in order of seq, so a new one
 * goes to the end), each with a window of answers for consecutive numbers. */
#include "node/session.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/mutant.h"

struct session {
    uint64_t id;
    uint64_t last;                  /* the last number in the log */
    uint64_t used_seq;              /* last seq of its newest block: for eviction */
    uint64_t first_kept;            /* answers to first_kept .. last are kept */
    struct session_answer *answers; /* answers[0] is that of first_kept */
    uint32_t capacity;
};

struct session_table {
    struct session *items;
    size_t n, capacity, max;
};

/* What a stored session looks like: last, used_seq, first_kept (8 each), then per kept number
 * first_seq, last_seq, term (8 each). */
enum { STORED_HEADER_BYTES = 24, STORED_ANSWER_BYTES = 24, SESSION_HARD_MAX = 4 * SESSION_MAX };

static size_t kept(const struct session *s) {
    return (size_t)(s->last + 1 - s->first_kept);
}

struct session_table *session_table_new(size_t max_sessions) {
    struct session_table *t = calloc(1, sizeof *t);
    if (t) t->max = max_sessions ? max_sessions : SESSION_MAX;
    return t;
}

void session_table_free(struct session_table *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n; i++) free(t->items[i].answers);
    free(t->items);
    free(t);
}

size_t session_table_count(const struct session_table *t) {
    return t->n;
}

struct session_table *session_table_copy(const struct session_table *t) {
    struct session_table *copy = session_table_new(t->max);
    if (!copy) return NULL;
    copy->items = calloc(t->n ? t->n : 1, sizeof *copy->items);
    if (!copy->items) goto fail;
    copy->capacity = t->n ? t->n : 1;
    for (size_t i = 0; i < t->n; i++) {
        struct session s = t->items[i];
        s.capacity = (uint32_t)kept(&s);
        s.answers = NULL;
        if (s.capacity) {
            s.answers = malloc(s.capacity * sizeof *s.answers);
            if (!s.answers) goto fail;
            memcpy(s.answers, t->items[i].answers, s.capacity * sizeof *s.answers);
        }
        copy->items[copy->n++] = s;
    }
    return copy;
fail:
    session_table_free(copy);
    return NULL;
}

/* The index of the first session whose id is not below `id`. */
static size_t lower_bound(const struct session_table *t, uint64_t id) {
    size_t low = 0, high = t->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (t->items[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct session *find(const struct session_table *t, uint64_t id) {
    size_t i = lower_bound(t, id);
    return i < t->n && t->items[i].id == id ? &t->items[i] : NULL;
}

enum session_verdict session_check(const struct session_table *t, uint64_t session,
                                   uint64_t sequence, uint64_t acked_below,
                                   struct session_answer *answer, uint64_t *expected) {
    const struct session *s = find(t, session);
    if (!s) return SESSION_UNKNOWN;
    *expected = s->last + 1;
    if (MUTANT(SESSION_OUT_OF_ORDER) && sequence > s->last) return SESSION_ADMIT;
    if (sequence > s->last + 1 || sequence == 0) return SESSION_GAP;
    if (sequence == s->last + 1) {
        uint64_t oldest = acked_below > s->first_kept ? acked_below : s->first_kept;
        return sequence >= oldest && sequence - oldest >= SESSION_WINDOW ? SESSION_FULL
                                                                         : SESSION_ADMIT;
    }
    if (sequence < s->first_kept) return SESSION_GONE;
    *answer = s->answers[sequence - s->first_kept];
    return SESSION_REPEAT;
}

static struct session *insert(struct session_table *t, uint64_t id) {
    if (t->n == t->capacity) {
        size_t capacity = t->capacity ? 2 * t->capacity : 16;
        struct session *items = realloc(t->items, capacity * sizeof *items);
        if (!items) return NULL;
        t->items = items;
        t->capacity = capacity;
    }
    size_t i = lower_bound(t, id);
    memmove(&t->items[i + 1], &t->items[i], (t->n - i) * sizeof *t->items);
    t->items[i] = (struct session){.id = id, .used_seq = id, .first_kept = 1};
    t->n++;
    return &t->items[i];
}

static void remove_at(struct session_table *t, size_t i) {
    free(t->items[i].answers);
    memmove(&t->items[i], &t->items[i + 1], (t->n - i - 1) * sizeof *t->items);
    t->n--;
}

/* Forgets answers below `acked_below`: the client has them. */
static void forget(struct session *s, uint64_t acked_below) {
    if (acked_below > s->last + 1) acked_below = s->last + 1;
    if (acked_below <= s->first_kept) return;
    size_t drop = (size_t)(acked_below - s->first_kept);
    memmove(s->answers, s->answers + drop, (kept(s) - drop) * sizeof *s->answers);
    s->first_kept = acked_below;
}

static replog_status remember(struct session *s, const struct block_header *h) {
    forget(s, MUTANT(SESSION_FORGETS_ANSWERS) ? s->last + 1 : h->acked_below);
    if (kept(s) >= SESSION_WINDOW) forget(s, s->first_kept + 1);
    if (kept(s) == s->capacity) {
        uint32_t capacity = s->capacity ? 2 * s->capacity : 4;
        struct session_answer *answers = realloc(s->answers, capacity * sizeof *answers);
        if (!answers) return REPLOG_RESOURCE_EXHAUSTED;
        s->answers = answers;
        s->capacity = capacity;
    }
    s->answers[kept(s)] = (struct session_answer){
        .first_seq = h->first_seq, .last_seq = block_last_seq(h), .term = h->term};
    s->last = h->session_seq;
    s->used_seq = block_last_seq(h);
    return REPLOG_OK;
}

replog_status session_append(struct session_table *t, const struct block_header *h,
                             bool is_session) {
    if (is_session) {
        if (find(t, h->first_seq)) return REPLOG_OK;
        return insert(t, h->first_seq) ? REPLOG_OK : REPLOG_RESOURCE_EXHAUSTED;
    }
    if (h->session == 0) return REPLOG_OK;
    struct session *s = find(t, h->session);
    /* Unknown: evicted here, not yet at the leader that admitted it. Its client will be told. */
    if (!s || h->session_seq != s->last + 1) return REPLOG_OK;
    return remember(s, h);
}

void session_cut(struct session_table *t, uint64_t keep_seq) {
    for (size_t i = t->n; i-- > 0;) {
        struct session *s = &t->items[i];
        if (s->id > keep_seq) {
            remove_at(t, i);
            continue;
        }
        while (kept(s) && s->answers[kept(s) - 1].last_seq > keep_seq) s->last--;
        if (s->used_seq > keep_seq) s->used_seq = keep_seq;
    }
}

void session_evict(struct session_table *t, uint64_t commit_seq,
                   void (*fn)(uint64_t session, void *user), void *user) {
    size_t n = commit_seq < UINT64_MAX ? lower_bound(t, commit_seq + 1) : t->n;
    for (; n > t->max; n--) {
        size_t oldest = n;
        for (size_t i = 0; i < n; i++) {
            if (t->items[i].used_seq > commit_seq) continue;
            if (oldest == n || t->items[i].used_seq < t->items[oldest].used_seq) oldest = i;
        }
        if (oldest == n) return;
        if (fn) fn(t->items[oldest].id, user);
        remove_at(t, oldest);
    }
}

bool session_encode(const struct session_table *t, uint64_t session, struct buffer *out) {
    const struct session *s = find(t, session);
    if (!s) return false;
    buffer_u64(out, s->last);
    buffer_u64(out, s->used_seq);
    buffer_u64(out, s->first_kept);
    for (size_t i = 0; i < kept(s); i++) {
        buffer_u64(out, s->answers[i].first_seq);
        buffer_u64(out, s->answers[i].last_seq);
        buffer_u64(out, s->answers[i].term);
    }
    return true;
}

replog_status session_decode(struct session_table *t, uint64_t session, struct slice value,
                             replog_error *err) {
    struct cursor c = {.data = value.data, .size_bytes = value.size_bytes};
    uint64_t last = cursor_u64(&c), used_seq = cursor_u64(&c), first_kept = cursor_u64(&c);
    uint64_t n = last + 1 - first_kept;
    if (c.failed || first_kept == 0 || first_kept > last + 1 || n > SESSION_WINDOW ||
        value.size_bytes != STORED_HEADER_BYTES + n * STORED_ANSWER_BYTES ||
        t->n >= SESSION_HARD_MAX)
        return error_set(err, REPLOG_DATA_LOSS, "the store's entry of session %llu is malformed",
                         (unsigned long long)session);
    struct session *s = insert(t, session);
    if (!s) return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the session table");
    if (n) {
        s->answers = malloc(n * sizeof *s->answers);
        if (!s->answers) {
            remove_at(t, (size_t)(s - t->items));
            return error_set(err, REPLOG_RESOURCE_EXHAUSTED, "no memory for the session table");
        }
    }
    s->capacity = (uint32_t)n;
    s->last = last;
    s->used_seq = used_seq;
    s->first_kept = first_kept;
    for (size_t i = 0; i < n; i++) {
        s->answers[i].first_seq = cursor_u64(&c);
        s->answers[i].last_seq = cursor_u64(&c);
        s->answers[i].term = cursor_u64(&c);
    }
    return REPLOG_OK;
}

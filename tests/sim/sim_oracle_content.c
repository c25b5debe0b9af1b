/* sim_oracle_content.c: what appends hold. All of it follows from the append's number and seed, so
 * nothing is kept. The first record is a PUT whose value begins with the append's number. */
#include <stdio.h>
#include <stdlib.h>

#include "sim_oracle_impl.h"

static struct {
    uint8_t key[REPLOG_MAX_KEY_BYTES];
    uint8_t value[REPLOG_MAX_VALUE_BYTES];
} scratch;

static size_t make_key(const struct oracle *o, unsigned number) {
    size_t n = (size_t)snprintf((char *)scratch.key, 16, "k%02u", number);
    if (number % 8 != 7 || o->long_key_bytes <= n) return n;
    memset(scratch.key + n, 'x', o->long_key_bytes - n);
    return o->long_key_bytes;
}

struct slice sim_oracle_key(struct sim *sim, unsigned number) {
    return (struct slice){scratch.key, make_key(oracle_of(sim), number)};
}

unsigned sim_oracle_n_keys(struct sim *sim) {
    return oracle_of(sim)->n_keys;
}

unsigned oracle_key_number(struct oracle *o, struct slice key) {
    if (key.size_bytes < 3 || key.data[0] != 'k') return ORACLE_MAX_KEYS;
    unsigned number = (unsigned)(key.data[1] - '0') * 10 + (unsigned)(key.data[2] - '0');
    if (number >= o->n_keys || make_key(o, number) != key.size_bytes) return ORACLE_MAX_KEYS;
    return memcmp(scratch.key, key.data, key.size_bytes) == 0 ? number : ORACLE_MAX_KEYS;
}

static void make_value(uint32_t append, uint32_t index, uint32_t n_records, uint64_t r, size_t n) {
    memset(scratch.value, (int)(r & 0xff), n);
    if (n < ORACLE_ID_BYTES) return;
    put_u32(scratch.value, 0x53696d21); /* "!miS" */
    put_u32(scratch.value + 4, append);
    put_u32(scratch.value + 8, index);
    put_u32(scratch.value + 12, n_records);
    scratch.value[n - 1] = (uint8_t)(r >> 8);
}

void oracle_record(struct oracle *o, uint32_t append, uint32_t index, struct oracle_record *out) {
    const struct oracle_append *a = &o->appends[append];
    const struct sim_append *p = &a->plan;
    uint64_t state = a->seed + index * 0x9e3779b97f4a7c15ull, r = rng_next(&state);
    bool keyed = rng_between(&state, 1, 100) <= p->percent_keyed;
    bool delete = index > 0 && keyed && rng_between(&state, 1, 100) <= p->percent_deletes;
    *out = (struct oracle_record){.op = delete ? REPLOG_OP_DELETE : REPLOG_OP_PUT,
                                  .key_number = ORACLE_MAX_KEYS,
                                  .key = {scratch.key, 0},
                                  .value = {scratch.value, 0}};
    if (keyed) {
        out->key_number = (unsigned)rng_between(&state, 0, o->n_keys - 1);
        /* long keys in large batches would pass the limit of a batch */
        if (p->n_records > 16 && out->key_number % 8 == 7) out->key_number--;
        out->key.size_bytes = make_key(o, out->key_number);
    }
    if (delete) return;
    size_t n = rng_between(&state, p->value_min, p->value_max);
    if (index == 0 && n < ORACLE_ID_BYTES) n = ORACLE_ID_BYTES;
    make_value(append, index, p->n_records, r, n);
    out->value.size_bytes = n;
}

uint32_t oracle_which(struct oracle *o, const void *value, size_t value_bytes) {
    const uint8_t *bytes = value;
    static const char probe[] = ORACLE_PROBE_TEXT;
    if (value_bytes == sizeof probe && memcmp(value, probe, sizeof probe) == 0) return ORACLE_PROBE;
    if (value_bytes < ORACLE_ID_BYTES || get_u32(bytes) != 0x53696d21) return ORACLE_NO_APPEND;
    uint32_t append = get_u32(bytes + 4);
    return append < o->n_appends ? append : ORACLE_NO_APPEND;
}

bool oracle_same(struct oracle *o, uint32_t append, uint32_t index, replog_op op, struct slice key,
                 struct slice value) {
    struct oracle_record r;
    oracle_record(o, append, index, &r);
    if (op != r.op || key.size_bytes != r.key.size_bytes || value.size_bytes != r.value.size_bytes)
        return false;
    return (key.size_bytes == 0 || memcmp(key.data, r.key.data, key.size_bytes) == 0) &&
           (value.size_bytes == 0 || memcmp(value.data, r.value.data, value.size_bytes) == 0);
}

void sim_oracle_fill(struct sim *sim, uint32_t append, replog_batch *batch) {
    struct oracle *o = oracle_of(sim);
    for (uint32_t i = 0; i < o->appends[append].plan.n_records; i++) {
        struct oracle_record r;
        replog_error err = {.text = ""};
        oracle_record(o, append, i, &r);
        replog_status status = r.op == REPLOG_OP_DELETE
                                   ? replog_batch_delete(batch, r.key.data, r.key.size_bytes, &err)
                                   : replog_batch_put(batch, r.key.data, r.key.size_bytes,
                                                      r.value.data, r.value.size_bytes, &err);
        if (status) sim_fail(sim, "[client] a batch within all limits is refused: %s", err.text);
    }
}

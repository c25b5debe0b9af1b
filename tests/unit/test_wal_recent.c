/* The newest bytes in memory: against a model of the file, and under readers. */
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "wal/disk.h"
#include "wal/recent.h"

enum { PAGE = 4096, FILE_BYTES = 24 << 20 };

/* What a writer does: size_bytes at offset, first what `data` has, then zeros. */
static void put(struct recent *r, uint64_t segment, uint64_t offset, const uint8_t *data,
                size_t data_bytes, size_t size_bytes) {
    recent_begin(r, segment, offset, size_bytes);
    recent_put(r, data, data_bytes / 3);
    recent_put(r, data + data_bytes / 3, data_bytes - data_bytes / 3);
    recent_put(r, NULL, size_bytes - data_bytes);
}

/* The pieces lie on pages, and are what was put. */
static void check_pieces(const struct recent *r, uint64_t offset, const uint8_t *want,
                         size_t size_bytes) {
    struct iovec pieces[RECENT_PIECES];
    size_t n = recent_pieces(r, offset, pieces), done = 0;
    assert_in_range(n, 1, RECENT_PIECES);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal((uintptr_t)pieces[i].iov_base % PAGE, 0);
        assert_int_equal(pieces[i].iov_len % PAGE, 0);
        assert_true(done + pieces[i].iov_len <= size_bytes);
        assert_memory_equal(pieces[i].iov_base, want + done, pieces[i].iov_len);
        done += pieces[i].iov_len;
    }
    assert_int_equal(done, size_bytes);
}

static void against_a_model(void **state) {
    (void)state;
    struct recent r;
    uint64_t rng = 11, segment = 1, offset = (uint64_t)8 * PAGE, begun = offset;
    uint8_t *file = calloc(1, FILE_BYTES), *got = malloc(FILE_BYTES);
    assert_true(file && got && recent_init(&r) && recent_reserve(&r));
    assert_false(recent_read(&r, 0, 0, got, 1)); /* nothing yet, whatever is asked for */
    for (int i = 0; i < 2000; i++) {
        size_t most = rng_between(&rng, 0, 2) ? 20 : RECENT_WRITE_BYTES / PAGE;
        size_t size = rng_between(&rng, 1, most) * PAGE;
        if (offset + size > FILE_BYTES || rng_between(&rng, 0, 99) == 0) {
            segment += rng_between(&rng, 0, 1); /* the next file, or a jump in this one */
            offset = begun = rng_between(&rng, 0, 100) * PAGE;
        }
        size_t data = size - rng_between(&rng, 0, PAGE - 1);
        for (size_t k = 0; k < data; k += 64) got[k] = (uint8_t)rng_next(&rng);
        memcpy(file + offset, got, data);
        memset(file + offset + data, 0, size - data);
        put(&r, segment, offset, got, data, size);
        uint64_t end = offset + size, from = begun;
        if (end > RECENT_BYTES && from < end - RECENT_BYTES) from = end - RECENT_BYTES;
        assert_false(recent_read(&r, segment, offset, got, PAGE)); /* not written yet */
        if (from > begun) assert_false(recent_read(&r, segment, from - 1, got, 1)); /* no longer */
        check_pieces(&r, offset, file + offset, size);
        recent_end(&r);
        offset = end;
        uint64_t at = rng_between(&rng, from, offset - 1);
        size_t n = rng_between(&rng, 1, offset - at);
        assert_true(recent_read(&r, segment, at, got, n));
        assert_memory_equal(got, file + at, n);
        assert_false(recent_read(&r, segment, at, got, offset - at + 1)); /* behind the end */
        assert_false(recent_read(&r, segment + 1, at, got, n));
        if (from > 0) assert_false(recent_read(&r, segment, from - 1, got, 2));
    }
    recent_free(&r);
    free(file);
    free(got);
}

struct shared {
    struct recent r;
    atomic_uint_least64_t end; /* of what is written */
    atomic_uint_least64_t hits;
    uint64_t wrong;
};

/* The byte at an offset, for all to know: another one each time around the ring. */
static uint8_t byte_at(uint64_t offset) {
    return (uint8_t)(offset / 256 * 31 + offset / RECENT_BYTES);
}

static void *read_on(void *arg) {
    struct shared *s = arg;
    uint64_t rng = 5;
    uint8_t *got = malloc(RECENT_BYTES);
    uint64_t end;
    while (got && (end = atomic_load(&s->end)) != UINT64_MAX) {
        size_t n = rng_between(&rng, 1, 256 << 10);
        uint64_t back = rng_between(&rng, n, RECENT_BYTES + n);
        if (back > end || !recent_read(&s->r, 1, end - back, got, n)) continue;
        s->hits++;
        for (size_t i = 0; i < n; i += 1 + n / 64) s->wrong += got[i] != byte_at(end - back + i);
    }
    free(got);
    return NULL;
}

static void beside_a_reader(void **state) {
    (void)state;
    static struct shared s;
    pthread_t reader;
    uint8_t *data = malloc(RECENT_WRITE_BYTES);
    assert_true(data && recent_init(&s.r) && recent_reserve(&s.r));
    assert_int_equal(pthread_create(&reader, NULL, read_on, &s), 0);
    uint64_t rng = 9, offset = 0;
    uint64_t enough = (uint64_t)128 << 20, at_most = (uint64_t)8 << 30;
    while (offset < enough || (atomic_load(&s.hits) == 0 && offset < at_most)) {
        size_t size = rng_between(&rng, 1, 64) * PAGE;
        for (size_t i = 0; i < size; i += 256) memset(data + i, byte_at(offset + i), 256);
        put(&s.r, 1, offset, data, size, size);
        recent_end(&s.r);
        offset += size;
        atomic_store(&s.end, offset);
    }
    atomic_store(&s.end, UINT64_MAX);
    pthread_join(reader, NULL);
    assert_true(s.hits > 0);
    assert_int_equal(s.wrong, 0);
    recent_free(&s.r);
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_a_model),
        cmocka_unit_test(beside_a_reader),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

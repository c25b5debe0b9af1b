/* torture.h: what the load programs share: drawn appends whose every byte follows from a short
 * description, and the record of what was sent and answered, one line an event.
 *
 * A unit is what one call appends: a batch of records, or a single one. Record i of `count` in the
 * unit `number` of the load NAME is, by its kind:
 *   P  plain    key "",                                  value "NAME number i count FILLER"
 *   K  keyed    key "NAME:" (number * 31 + i) % 997,     value likewise
 *   D  delete   key "NAME number i count"
 * FILLER: `filler` letters, the first 'a' + (number + i) % 26, each the one after the one before.
 * common.py makes the same bytes from the record's lines and compares. */
#ifndef TORTURE_H
#define TORTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TORTURE_MAX_RECORDS = 256, TORTURE_MAX_FILLER = 65536, TORTURE_NAME_BYTES = 32 };

struct torture_unit {
    uint64_t number;
    bool batch;
    uint32_t count;
    struct {
        char kind; /* P, K or D */
        uint32_t filler;
    } records[TORTURE_MAX_RECORDS];
};

/* What units look like: records in a batch at most, bytes of filler at most, percent of keyed ones.
 */
struct torture_shape {
    uint64_t batch, filler, keyed;
};

struct torture_bytes {
    char key[TORTURE_NAME_BYTES + 64];
    size_t key_bytes;
    char value[TORTURE_NAME_BYTES + 64 + TORTURE_MAX_FILLER];
    size_t value_bytes;
};

uint64_t torture_random(uint64_t *state);
/* 0 .. below - 1; 0 for 0. */
uint64_t torture_below(uint64_t *state, uint64_t below);

void torture_draw(uint64_t *state, const struct torture_shape *shape, uint64_t number,
                  struct torture_unit *unit);
void torture_record(const char *name, const struct torture_unit *unit, uint32_t i,
                    struct torture_bytes *out);

/* CLOCK_MONOTONIC: the clock of Python's time.monotonic(), too. */
uint64_t torture_now_us(void);
void torture_sleep_until_us(uint64_t when_us);

/* One write(2) a line, appended: what was written stays when this program is killed. */
void torture_open_record(const char *path);
void torture_line(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "s P12" or "b P0,K40,D0": how a unit stands in the record; returns `out`. */
const char *torture_describe(const struct torture_unit *unit, char *out, size_t room);

/* A number of the command line; ends the program with status 2 when it is none. */
uint64_t torture_number(const char *option, const char *text, uint64_t low, uint64_t high);

#endif

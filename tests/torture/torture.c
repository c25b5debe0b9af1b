#include "torture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 8192, KEYS = 997 };

static int record_fd = -1;

/* ---- Drawing */

uint64_t torture_random(uint64_t *state) {
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64 */
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t torture_below(uint64_t *state, uint64_t below) {
    return below ? torture_random(state) % below : 0;
}

/* Half of the units are single records; most are small, some fill a page or many. */
void torture_draw(uint64_t *state, const struct torture_shape *shape, uint64_t number,
                  struct torture_unit *unit) {
    unit->number = number;
    unit->batch = shape->batch > 0 && torture_below(state, 2);
    unit->count = unit->batch ? 1 + (uint32_t)torture_below(state, shape->batch) : 1;
    uint64_t most = torture_below(state, 4) ? shape->filler / 16 : shape->filler;
    for (uint32_t i = 0; i < unit->count; i++) {
        bool keyed = torture_below(state, 100) < shape->keyed;
        char kind = 'P';
        if (keyed) kind = torture_below(state, 8) ? 'K' : 'D';
        unit->records[i].kind = kind;
        unit->records[i].filler = kind == 'D' ? 0 : (uint32_t)torture_below(state, most + 1);
    }
}

void torture_record(const char *name, const struct torture_unit *unit, uint32_t i,
                    struct torture_bytes *out) {
    char who[TORTURE_NAME_BYTES + 64];
    int n = snprintf(who, sizeof who, "%s %" PRIu64 " %" PRIu32 " %" PRIu32, name, unit->number, i,
                     unit->count);
    out->key_bytes = out->value_bytes = 0;
    if (unit->records[i].kind == 'D') {
        out->key_bytes = (size_t)n;
        memcpy(out->key, who, out->key_bytes);
        return;
    }
    if (unit->records[i].kind == 'K') {
        out->key_bytes = (size_t)snprintf(out->key, sizeof out->key, "%s:%" PRIu64, name,
                                          (unit->number * 31 + i) % KEYS);
    }
    memcpy(out->value, who, (size_t)n);
    out->value[n] = ' ';
    char *filler = out->value + n + 1;
    for (uint32_t at = 0; at < unit->records[i].filler; at++) {
        filler[at] = (char)('a' + (unit->number + i + at) % 26);
    }
    out->value_bytes = (size_t)n + 1 + unit->records[i].filler;
}

/* ---- Time */

uint64_t torture_now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void torture_sleep_until_us(uint64_t when_us) {
    struct timespec t = {.tv_sec = (time_t)(when_us / 1000000),
                         .tv_nsec = (long)(when_us % 1000000) * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL); /* a signal ends it: as wanted */
}

/* ---- The record */

void torture_open_record(const char *path) {
    record_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (record_fd >= 0) return;
    fprintf(stderr, "%s: %s\n", path, strerror(errno));
    exit(2);
}

void torture_line(const char *format, ...) {
    char line[LINE_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line - 1, format, args);
    va_end(args);
    if (n < 0 || n > LINE_BYTES - 2) n = LINE_BYTES - 2;
    /* A sentence must not make two lines of one. */
    for (char *at = line; at < line + n; at++) {
        if (*at == '\n') *at = ' ';
    }
    line[n++] = '\n';
    if (write(record_fd, line, (size_t)n) == n) return;
    perror("torture: the record cannot be written");
    _exit(3); /* without a record nothing can be judged */
}

const char *torture_describe(const struct torture_unit *unit, char *out, size_t room) {
    size_t n = (size_t)snprintf(out, room, "%c ", unit->batch ? 'b' : 's');
    for (uint32_t i = 0; i < unit->count && n < room; i++) {
        n += (size_t)snprintf(out + n, room - n, "%s%c%" PRIu32, i ? "," : "",
                              unit->records[i].kind, unit->records[i].filler);
    }
    return out;
}

uint64_t torture_number(const char *option, const char *text, uint64_t low, uint64_t high) {
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (!errno && *text >= '0' && *text <= '9' && !*end && value >= low && value <= high) {
        return value;
    }
    fprintf(stderr, "--%s: %s is no number from %" PRIu64 " to %" PRIu64 "\n", option, text, low,
            high);
    exit(2);
}

#include "base/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024 };

static _Atomic int least_level = LOG_INFO;
static _Atomic uint64_t member;
static _Atomic uint64_t current_term;

void log_set_level(enum log_level level) {
    atomic_store(&least_level, (int)level);
}

void log_set_member(uint64_t member_id) {
    atomic_store(&member, member_id);
}

void log_set_term(uint64_t term) {
    atomic_store(&current_term, term);
}

static void (*hook)(enum log_level level, const char *text);

void log_set_hook(void (*fn)(enum log_level level, const char *text)) {
    hook = fn;
}

static const char *level_name(enum log_level level) {
    switch (level) {
    case LOG_DEBUG:
        return "DEBUG";
    case LOG_INFO:
        return "INFO";
    case LOG_WARN:
        return "WARN";
    case LOG_ERROR:
        return "ERROR";
    }
    return "?";
}

/* snprintf at `used`; returns the new length, never more than a line without its newline. */
__attribute__((format(printf, 3, 0))) static size_t add_args(char *line, size_t used,
                                                             const char *format, va_list args) {
    int n = vsnprintf(line + used, LINE_BYTES - used, format, args);
    if (n < 0) return used;
    size_t end = used + (size_t)n;
    return end < LINE_BYTES - 1 ? end : LINE_BYTES - 2;
}

__attribute__((format(printf, 3, 4))) static size_t add(char *line, size_t used, const char *format,
                                                        ...) {
    va_list args;
    va_start(args, format);
    used = add_args(line, used, format, args);
    va_end(args);
    return used;
}

/* Texts may quote what a peer sent: a control character must not forge a second line. */
static void clean(char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f) text[i] = ' ';
}

void log_line(enum log_level level, const char *format, ...) {
    if ((int)level < atomic_load(&least_level)) return;
    char line[LINE_BYTES];
    if (hook) {
        va_list hook_args;
        va_start(hook_args, format);
        clean(line, add_args(line, 0, format, hook_args));
        va_end(hook_args);
        hook(level, line);
        return;
    }
    struct timespec now = {0};
    struct tm utc;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    size_t used = strftime(line, sizeof line, "%Y-%m-%dT%H:%M:%S", &utc);
    used = add(line, used, ".%03dZ %s ", (int)(now.tv_nsec / 1000000), level_name(level));
    uint64_t id = atomic_load(&member), term = atomic_load(&current_term);
    if (id) used = add(line, used, "member=%" PRIu64 " ", id);
    if (id) used = add(line, used, "term=%" PRIu64 " ", term);
    size_t text = used;
    va_list args;
    va_start(args, format);
    used = add_args(line, used, format, args);
    va_end(args);
    clean(line + text, used - text);
    line[used++] = '\n';
    /* One write, so that lines of several threads do not mix. If stderr is gone, so is the line. */
    ssize_t written = write(STDERR_FILENO, line, used);
    (void)written;
}

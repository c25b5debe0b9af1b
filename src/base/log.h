/* log.h: one line an event on stderr: time, level, member, term, text.
 *   2026-11-21T20:45:29.123Z INFO member=2 term=7 became leader last_seq=812
 * Thread-safe. Hides: the format and the destination. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Lines below `level` are dropped (default LOG_INFO). */
void log_set_level(enum log_level level);
/* The member id on every line; 0 (the default) leaves it out. */
void log_set_member(uint64_t member_id);
/* The term on every line of a member. Callable at any time. */
void log_set_term(uint64_t term);
/* From now on lines go to fn (with the line's text alone, without its newline) and not to stderr;
 * NULL: back to stderr. For a simulator; not beside other threads. */
void log_set_hook(void (*fn)(enum log_level level, const char *text));
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif

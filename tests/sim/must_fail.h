/* must_fail.h: for tests of checkers, one file each: a checker's failure is caught and its sentence
 * compared. */
#ifndef MUST_FAIL_H
#define MUST_FAIL_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Where a checker fails, the test notes what it says here and leaves by longjmp(must_fail_jump, 1).
 */
static jmp_buf must_fail_jump;
static char must_fail_text[2048];

#define MUST_FAIL(sentence, ...)                                                                   \
    do {                                                                                           \
        must_fail_text[0] = '\0';                                                                  \
        if (setjmp(must_fail_jump) == 0) {                                                         \
            __VA_ARGS__;                                                                           \
            fail_msg("not found: %s", sentence);                                                   \
        }                                                                                          \
        if (!strstr(must_fail_text, sentence))                                                     \
            fail_msg("said: %s; not: %s", must_fail_text, sentence);                               \
    } while (0)
#define MUST_PASS(...)                                                                             \
    do {                                                                                           \
        if (setjmp(must_fail_jump) == 0) {                                                         \
            __VA_ARGS__;                                                                           \
        } else {                                                                                   \
            fail_msg("false alarm: %s", must_fail_text);                                           \
        }                                                                                          \
    } while (0)

#endif

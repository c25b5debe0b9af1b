/* check.h: CHECK stops the process when an invariant is broken, in release builds too. Never for
 * input: input gets a status. CHECK_MEMORY ends it when memory is short at a point from which there
 * is no way back: no crash, but a line in the log and status 1. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

_Noreturn void check_failed(const char *expression, const char *file, int line);
_Noreturn void check_no_memory(const char *file, int line);

#define CHECK(expression)                                                                          \
    do {                                                                                           \
        if (!(expression)) check_failed(#expression, __FILE__, __LINE__);                          \
    } while (0)

#define CHECK_MEMORY(pointer)                                                                      \
    do {                                                                                           \
        if (!(pointer)) check_no_memory(__FILE__, __LINE__);                                       \
    } while (0)

#endif

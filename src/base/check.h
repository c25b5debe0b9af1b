/* check.h: CHECK stops the process when an invariant is broken, in release builds too. Never for
 * input: input gets a status. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

_Noreturn void check_failed(const char *expression, const char *file, int line);

#define CHECK(expression)                                                                          \
    do {                                                                                           \
        if (!(expression)) check_failed(#expression, __FILE__, __LINE__);                          \
    } while (0)

#endif

#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

void check_failed(const char *expression, const char *file, int line) {
    fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, expression);
    abort();
}

void check_no_memory(const char *file, int line) {
    const char *slash = strrchr(file, '/');
    log_error("memory is short (%s:%d); stopping", slash ? slash + 1 : file, line);
    _exit(1);
}

/* tmp_dir.h: a temporary directory for a test, removed with all that is in it. */
#ifndef TESTS_UNIT_TMP_DIR_H
#define TESTS_UNIT_TMP_DIR_H

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TMP_DIR_BYTES = 256, TMP_PATH_BYTES = 512 };

/* Makes a directory and writes its path into `dir`; stops the program when it cannot. */
static inline void tmp_dir_make(char dir[TMP_DIR_BYTES]) {
    const char *root = getenv("TMPDIR");
    snprintf(dir, TMP_DIR_BYTES, "%s/replog-test-XXXXXX", root && *root ? root : "/tmp");
    if (!mkdtemp(dir)) {
        perror(dir);
        abort();
    }
}

static inline int tmp_dir_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static inline void tmp_dir_remove(const char *dir) {
    nftw(dir, tmp_dir_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* "DIR/NAME" in `path`, which is also returned. */
static inline const char *tmp_dir_path(char path[TMP_PATH_BYTES], const char *dir,
                                       const char *name) {
    snprintf(path, TMP_PATH_BYTES, "%s/%s", dir, name);
    return path;
}

#endif

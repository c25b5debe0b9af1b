/* fuzz.h: what the fuzz targets share: reading an input from front to back as the choices it makes,
 * and a file in memory for what can only be read by its path. Header-only. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);
int LLVMFuzzerInitialize(int *argc, char ***argv);

/* The bytes of an input that are still to be read. Past the end everything is 0. */
struct fuzz {
    const uint8_t *data;
    size_t left;
};

static inline uint64_t fuzz_number(struct fuzz *f, size_t n_bytes) {
    uint64_t v = 0;
    for (size_t i = 0; i < n_bytes && f->left > 0; i++, f->left--)
        v |= (uint64_t)*f->data++ << (8 * i);
    return v;
}
static inline uint8_t fuzz_u8(struct fuzz *f) {
    return (uint8_t)fuzz_number(f, 1);
}
static inline uint16_t fuzz_u16(struct fuzz *f) {
    return (uint16_t)fuzz_number(f, 2);
}
static inline uint32_t fuzz_u32(struct fuzz *f) {
    return (uint32_t)fuzz_number(f, 4);
}
static inline uint64_t fuzz_u64(struct fuzz *f) {
    return fuzz_number(f, 8);
}
/* At most n bytes, fewer at the end of the input. */
static inline struct slice fuzz_bytes(struct fuzz *f, size_t n) {
    struct slice s = {f->data, n < f->left ? n : f->left};
    f->data += s.size_bytes;
    f->left -= s.size_bytes;
    return s;
}

/* Whether an input got past the door, said of each one by the targets that turn most of them away:
 * for accepted.sh, which lets in the seeds. */
static inline void fuzz_accepted(bool accepted) {
    if (!accepted && getenv("REPLOG_FUZZ_ACCEPTED")) fprintf(stderr, "turned away\n");
}

/* A copy on the heap of exactly that size, so that a read past its end is seen. The caller frees.
 */
static inline uint8_t *fuzz_exact(const uint8_t *data, size_t size_bytes) {
    uint8_t *copy = malloc(size_bytes ? size_bytes : 1);
    CHECK(copy != NULL);
    if (size_bytes) memcpy(copy, data, size_bytes);
    return copy;
}
/* The same with a NUL behind it. */
static inline char *fuzz_text(const uint8_t *data, size_t size_bytes) {
    char *copy = malloc(size_bytes + 1);
    CHECK(copy != NULL);
    if (size_bytes) memcpy(copy, data, size_bytes);
    copy[size_bytes] = '\0';
    return copy;
}

#endif

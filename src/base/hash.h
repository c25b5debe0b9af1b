/* hash.h: the one hash of the project, XXH3-64 (xxhash). Not cryptographic: it finds damage, not
 * forgery. Hides: which library computes it. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *data, size_t size_bytes);

#endif

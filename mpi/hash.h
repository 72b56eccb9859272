#ifndef T2_MPI_HASH_H
#define T2_MPI_HASH_H
/* FNV-1a (Fowler, Noll, Vo): a 64-bit value that tells texts apart, not against an adversary. The
 * splits that eval/dataset.c cuts hang on its values. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "mpi/device.h"

static const uint64_t HASH_START = 0xcbf29ce484222325u;

/* One value as a whole (a byte, in the usual form). */
static inline uint64_t hash_value(uint64_t hash, uint64_t value)
{
    return (hash ^ value) * 0x100000001b3u;
}

static inline uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t n)
{
    const unsigned char *byte = (const unsigned char *)bytes;

    for (size_t i = 0; i < n; i++)
        hash = hash_value(hash, byte[i]);
    return hash;
}

static inline uint64_t hash_text(const char *text)
{
    return hash_bytes(HASH_START, text, strlen(text));
}

/* Of bytes, with a final mix, so that the low digits are even. */
static inline uint64_t hash_mixed(const void *bytes, size_t n)
{
    uint64_t hash = hash_bytes(HASH_START, bytes, n);

    hash ^= hash >> 33;
    hash *= 0xff51afd7ed558ccdu;
    return hash ^ (hash >> 33);
}

/* The final mix of splitmix64 (Steele, Lea, Flood 2014): of start + i * HASH_STEP for i = 0, 1, ...
 * a stream of random bits. */
static const uint64_t HASH_STEP = 0x9e3779b97f4a7c15u;
static inline HOST_DEVICE uint64_t hash_splitmix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif

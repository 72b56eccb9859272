#ifndef T2_SOLVER_MEMORY_H
#define T2_SOLVER_MEMORY_H
/* Where an engine's tensors live. Everything that the operations of engine.h take as a tensor
 * comes from the engine's memory; the host may read and write it, too, while the engine is idle
 * (engine_ops.wait), so that loading, packing and checking are written once for all devices.
 *
 * Safe from several threads. */
#include <stddef.h>
#include <stdint.h>

struct memory {
    const char *name; /* "host", "cuda" */
    /* Zeros, aligned to 64 bytes or more; bytes > 0. NULL when there is no memory. */
    void *(*take)(size_t bytes);
    /* Gives back what take(bytes) gave. Accepts NULL. */
    void (*give)(void *p, size_t bytes);
};

/* Large pieces lie on 2 MiB boundaries and cost nothing where they are not touched. */
extern const struct memory memory_host;

/* Asks for huge pages, which is worth it where all of a piece is used: weights, pages of a cache.
 */
void memory_use_all(const struct memory *memory, void *p, size_t bytes);

/* n items of item_bytes; NULL where the product overflows, too. */
static inline void *memory_take(const struct memory *memory, size_t n, size_t item_bytes)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, item_bytes, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    return memory->take(bytes > 0 ? bytes : 1);
}

static inline void memory_give(const struct memory *memory, void *p, size_t n, size_t item_bytes)
{
    if (p)
        memory->give(p, n * item_bytes > 0 ? n * item_bytes : 1);
}

#endif

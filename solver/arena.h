#ifndef T2_SOLVER_ARENA_H
#define T2_SOLVER_ARENA_H
/* Memory handed out from one block, 64-byte aligned, given back all at once. The workers of a crew
 * (mpi/crew.h) make the same calls on the same block and so get the same places. Pages that are not
 * written cost nothing. */
#include <stddef.h>

struct arena {
    char *base;
    size_t size, used;
};

/* NULL (no message) when the block is full: sizes are worked out beforehand. */
static inline void *arena_take(struct arena *a, size_t n_bytes)
{
    const size_t start = (a->used + 63) / 64 * 64;

    if (start > a->size || n_bytes > a->size - start)
        return NULL;
    a->used = start + n_bytes;
    return a->base + start;
}

#endif

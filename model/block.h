#ifndef T2_MODEL_BLOCK_H
#define T2_MODEL_BLOCK_H
/* Cutting one block of memory into the arrays of a pass or an adapter. */
#include <stddef.h>

#include "solver/kernels.h"

/* The next n items of `bytes` each, 64-aligned in a block that is; without a block (NULL) they are
 * only counted. */
static inline void *block_cut(void *block, size_t *used, size_t n, size_t bytes)
{
    const size_t first = *used;

    *used += round_up(n * bytes, 64);
    return block ? (char *)block + first : NULL;
}

/* to [n_columns, n_rows] = from [n_rows, n_columns] transposed */
static inline void block_transpose(float *to, const float *from, size_t n_rows, size_t n_columns)
{
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c = 0; c < n_columns; c++)
            to[c * n_rows + r] = from[r * n_columns + c];
}

#endif

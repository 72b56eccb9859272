#ifndef T2_SOLVER_DROPOUT_H
#define T2_SOLVER_DROPOUT_H
/* What a dropout (engine_train.h) does to a column: functions of the row's key, the stream and the
 * column, the same on the host and on devices. 16 bits decide about a column, four columns share a
 * number. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpi/device.h"
#include "mpi/hash.h"

/* Where a row's numbers begin. */
static inline HOST_DEVICE uint64_t dropout_start(uint64_t key, uint64_t stream)
{
    return hash_splitmix(key ^ hash_splitmix((stream + 1) * HASH_STEP));
}

/* The number of the four columns around `column`. */
static inline HOST_DEVICE uint64_t dropout_bits(uint64_t start, size_t column)
{
    return hash_splitmix(start + column / 4 * HASH_STEP);
}

static inline HOST_DEVICE bool dropout_leaves_out(uint64_t bits, size_t column, uint32_t limit)
{
    return (bits >> 16 * (column % 4) & 0xffff) < limit;
}

/* The factor on what is not left out, which keeps the mean. */
static inline HOST_DEVICE float dropout_kept(uint32_t limit)
{
    return 65536.0f / (float)(65536 - limit);
}

#endif

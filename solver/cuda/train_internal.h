#ifndef T2_SOLVER_CUDA_TRAIN_INTERNAL_H
#define T2_SOLVER_CUDA_TRAIN_INTERNAL_H
/* What the files of the CUDA training table share: elements, rows in a grid, sums in a fixed
 * order. */
#include "solver/cuda/engine_internal.h"

typedef __nv_bfloat16 bf16;

static inline __device__ float element_get(const float *x)
{
    return *x;
}

static inline __device__ float element_get(const bf16 *x)
{
    return __bfloat162float(*x);
}

static inline __device__ void element_put(float *x, float value)
{
    *x = value;
}

static inline __device__ void element_put(bf16 *x, float value)
{
    *x = __float2bfloat16_rn(value);
}

/* ---- a thread for each column, rows along the grid's y --------------------------------------- */

static const unsigned COLUMN_THREADS = 256;
static const size_t GRID_MOST_Y = 65535;

static inline dim3 columns_grid(size_t n_columns, size_t n_rows)
{
    const size_t x = (n_columns + COLUMN_THREADS - 1) / COLUMN_THREADS;
    return dim3((unsigned)x, (unsigned)(n_rows < GRID_MOST_Y ? n_rows : GRID_MOST_Y));
}

static inline __device__ size_t column_here(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

/* ---- sums ------------------------------------------------------------------------------------ */

static const unsigned WARP = 32, ALL_LANES = 0xffffffffu;

/* The warp's sum, in every lane: lanes l and l + 16, l and l + 8, ... */
static inline __device__ float warp_sum(float x)
{
    for (int step = (int)WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

static inline __device__ double warp_sum(double x)
{
    for (int step = (int)WARP / 2; step > 0; step /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, step);
    return x;
}

/* The block's, in every thread: the warps' one after the other. `parts` has room for a number a
 * warp; all threads call. */
template <typename T> static __device__ T block_sum(T x, T *parts)
{
    x = warp_sum(x);
    __syncthreads(); /* parts may still be read */
    if (threadIdx.x % WARP == 0)
        parts[threadIdx.x / WARP] = x;
    __syncthreads();
    T sum = parts[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++)
        sum += parts[i];
    return sum;
}

/* ---- the parts of the table ------------------------------------------------------------------ */

int cuda_attention_backward(const struct engine *e, const struct attention_layer *a,
                            const struct attention_sequence *sequences, size_t n_sequences,
                            size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                            size_t ldo, float *dqkv, size_t lddqkv);

int cuda_head_backward(const struct engine *e, float *dx, size_t lddx, const void *x,
                       const void *x0, size_t ldx, size_t n, const struct matrix *m,
                       const struct matrix *m_t, const struct head_term *terms,
                       struct head_term_result *results);

#endif

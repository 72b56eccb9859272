#ifndef T2_SOLVER_CUDA_TRAIN_INTERNAL_H
#define T2_SOLVER_CUDA_TRAIN_INTERNAL_H
/* What the files of the CUDA training table share beside element.h. */
#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"

/* ---- a thread for each column, rows along the grid's y --------------------------------------- */

static const unsigned COLUMN_THREADS = GPU_BLOCK;
static const size_t GRID_MOST_Y = 65535;

static inline dim3 columns_grid(size_t n_columns, size_t n_rows)
{
    const size_t x = n_columns > 0 ? (n_columns + COLUMN_THREADS - 1) / COLUMN_THREADS : 1;
    return dim3((unsigned)x, (unsigned)(n_rows < GRID_MOST_Y ? n_rows : GRID_MOST_Y));
}

static inline __device__ size_t column_here(void)
{
    return (size_t)blockIdx.x * blockDim.x + threadIdx.x;
}

static const unsigned ALL_LANES = 0xffffffffu;

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

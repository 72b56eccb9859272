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

/* ---- sums in f64, as warp_sum and block_sum of element.h ------------------------------------- */

static inline __device__ double warp_sum_f64(double x)
{
    for (int bits = GPU_WARP / 2; bits > 0; bits /= 2)
        x += __shfl_xor_sync(ALL_LANES, x, bits);
    return x;
}

static inline __device__ double block_sum_f64(double x, double *shared)
{
    x = warp_sum_f64(x);
    if (threadIdx.x % GPU_WARP == 0)
        shared[threadIdx.x / GPU_WARP] = x;
    __syncthreads();
    double sum = 0;
    for (unsigned w = 0; w < blockDim.x / GPU_WARP; w++)
        sum += shared[w];
    return sum;
}

/* A launch of kernel<float> or kernel<bf16>, whichever the engine's elements are. */
#define LAUNCH_ELEMENTS(e, kernel, grid, block, ...)                                               \
    do {                                                                                           \
        cudaStream_t stream_ = cuda_device_of(e)->stream;                                          \
        if ((e)->element == ELEMENT_F32)                                                           \
            GPU_LAUNCH(kernel<float>, grid, block, 0, stream_, __VA_ARGS__);                       \
        else                                                                                       \
            GPU_LAUNCH(kernel<bf16>, grid, block, 0, stream_, __VA_ARGS__);                        \
    } while (0)

/* ---- the parts of the table ------------------------------------------------------------------ */

void cuda_spaces_norms(const struct engine *e, double *norms, size_t n_norms, const void *x,
                       size_t ldx, size_t n, size_t n_in);
void cuda_spaces_long(const struct engine *e, const struct spaces *s, float *h, size_t ldh,
                      const struct matrix *in, const void *x, size_t ldx, const double *norms,
                      size_t n);
void cuda_spaces_forward(const struct engine *e, const struct spaces *s, float *u, size_t ldu,
                         float *h, size_t ldh, const double *norms, size_t n);
int cuda_spaces_backward(const struct engine *e, const struct spaces *s, double *sums,
                         double *factors, float *dh, float *u, size_t ldu, const float *h,
                         size_t ldh, size_t n);
void cuda_spaces_input(const struct engine *e, float *dx, size_t lddx, const double *factors,
                       size_t n_norms, const void *x, size_t ldx, size_t n, size_t n_in);

int cuda_attention_backward(const struct engine *e, const struct attention_layer *a,
                            const struct attention_sequence *sequences, size_t n_sequences,
                            size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                            size_t ldo, float *dqkv, size_t lddqkv);

int cuda_head_backward(const struct engine *e, float *dx, size_t lddx, const void *x,
                       const void *x0, size_t ldx, size_t n, const struct matrix *m,
                       const struct matrix *m_t, const struct head_term *terms,
                       struct head_term_result *results);

#endif

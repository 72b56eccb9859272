#ifndef T2_SOLVER_CUDA_SVD_KERNELS_H
#define T2_SOLVER_CUDA_SVD_KERNELS_H
/* The kernels of svd_cuda.cu, which has the symbols. Blocks of THREADS; sums in orders of their
 * own, the same every time. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#include "solver/cuda/gpu.h"

enum { THREADS = 256 };

/* out f64 [n_lines, width] = in f32 [n_lines, ld_in] */
static __global__ void widen(const float *in, size_t ld_in, double *out, size_t width,
                             size_t n_lines)
{
    const size_t step = (size_t)gridDim.x * blockDim.x;

    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < width * n_lines; i += step)
        out[i] = (double)in[i / width * ld_in + i % width];
}

/* lambda [r]: the quotients |B q_i|^2 / |q_i|^2. */
static __global__ void divide(const double *couplings, const double *square, size_t r,
                              double *lambda)
{
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;

    if (i < r) {
        const double norm = square[i * r + i];
        lambda[i] = norm > 0 ? couplings[i * r + i] / norm : 0;
    }
}

/* A block's sum or largest value of `mine`, the same order of additions every time; NaN is the
 * largest of all. The result is thread 0's. All threads of the block call. */
static __device__ double block_sum(double mine, double *shared)
{
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned n = THREADS / 2; n > 0; n /= 2) {
        if (threadIdx.x < n)
            shared[threadIdx.x] += shared[threadIdx.x + n];
        __syncthreads();
    }
    const double sum = shared[0];
    __syncthreads();
    return sum;
}

static __device__ double worse(double a, double b)
{
    return b <= a ? a : b > a ? b : (double)INFINITY;
}

static __device__ double block_worst(double mine, double *shared)
{
    shared[threadIdx.x] = mine;
    __syncthreads();
    for (unsigned n = THREADS / 2; n > 0; n /= 2) {
        if (threadIdx.x < n)
            shared[threadIdx.x] = worse(shared[threadIdx.x], shared[threadIdx.x + n]);
        __syncthreads();
    }
    const double worst = shared[0];
    __syncthreads();
    return worst;
}

/* What a pair of approximate eigenvalues at this distance is shifted by the coupling t. */
static __device__ double pair_shift(double distance, double t)
{
    const double half = fabs(distance) / 2, root = sqrt(half * half + t * t);

    return t == 0 ? 0 : t * t / (half + root);
}

/* Of row i, one a block: rows [0, i] the sum of shifts, [1, i] the sum of squared couplings, [2, i]
 * the largest |Q Q^T - I|. */
static __global__ void measure(const double *couplings, const double *square, const double *lambda,
                               size_t r, double *rows)
{
    __shared__ double shared[THREADS];
    const size_t i = blockIdx.x;
    const double own = lambda[i];
    double shifts = 0, squares = 0, off = 0;

    for (size_t j = threadIdx.x; j < r; j += THREADS) {
        const double product = square[i * r + j], t = couplings[i * r + j] - own * product;
        off = worse(off, fabs(product - (i == j)));
        squares += t * t;
        if (i != j)
            shifts += pair_shift(own - lambda[j], t);
    }
    shifts = block_sum(shifts, shared);
    squares = block_sum(squares, shared);
    off = block_worst(off, shared);
    if (threadIdx.x == 0) {
        rows[i] = shifts;
        rows[r + i] = squares;
        rows[2 * r + i] = off;
    }
}

/* Row i of the factor, one a block: vector order[i] in f32, the first of its largest components
 * positive; and the same again in f64. */
static __global__ void gather(const double *q, const uint32_t *order, size_t r, float *factor,
                              double *wide)
{
    __shared__ float size[THREADS];
    __shared__ uint32_t place[THREADS];
    const double *from = q + (size_t)order[blockIdx.x] * r;
    const size_t at = (size_t)blockIdx.x * r;
    float largest = 0;
    uint32_t where = 0;

    for (size_t j = threadIdx.x; j < r; j += THREADS) {
        const float x = fabsf((float)from[j]);
        if (x > largest) {
            largest = x;
            where = (uint32_t)j;
        }
    }
    size[threadIdx.x] = largest;
    place[threadIdx.x] = where;
    __syncthreads();
    for (unsigned n = THREADS / 2; n > 0; n /= 2) {
        if (threadIdx.x < n) {
            const unsigned other = threadIdx.x + n;
            if (size[other] > size[threadIdx.x] ||
                (size[other] == size[threadIdx.x] && place[other] < place[threadIdx.x])) {
                size[threadIdx.x] = size[other];
                place[threadIdx.x] = place[other];
            }
        }
        __syncthreads();
    }
    const float sign = from[place[0]] < 0 ? -1.0f : 1.0f;
    for (size_t j = threadIdx.x; j < r; j += THREADS) {
        const float x = sign * (float)from[j];
        factor[at + j] = x;
        wide[at + j] = (double)x;
    }
}

/* rows[i] = the largest |a_ij - (i == j)|; a row a block. */
static __global__ void deviate(const double *a, size_t r, double *rows)
{
    __shared__ double shared[THREADS];
    const size_t i = blockIdx.x;
    double off = 0;

    for (size_t j = threadIdx.x; j < r; j += THREADS)
        off = worse(off, fabs(a[i * r + j] - (i == j)));
    off = block_worst(off, shared);
    if (threadIdx.x == 0)
        rows[i] = off;
}

/* rows[i] = |a_i - values_i f_i| / values_0; a row a block. */
static __global__ void residuals(const double *a, const double *f, const double *values, size_t r,
                                 double *rows)
{
    __shared__ double shared[THREADS];
    const size_t i = blockIdx.x;
    double sum = 0;

    for (size_t j = threadIdx.x; j < r; j += THREADS) {
        const double x = a[i * r + j] - values[i] * f[i * r + j];
        sum += x * x;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0)
        rows[i] = sqrt(sum) / values[0];
}

#endif

/* Mixtures of spaces (spaces.h) on a CUDA device: a thread for each row does what the host does
 * (spaces_rows.h); sums over rows have a thread for each sum and chunk, which goes through the
 * chunk's rows, then one for each sum, which goes through the chunks. */
#include <math.h>

#include "solver/cuda/train_internal.h"
extern "C" {
#include "solver/spaces_rows.h"
}

static const unsigned ROW_THREADS = 32; /* few, so that rows spread over the device */

/* What the backward pass of a row leaves for its sums. */
struct saved_row {
    struct spaces_row row;
    struct spaces_marks marks;
};

static unsigned row_blocks(size_t n)
{
    return (unsigned)((n + ROW_THREADS - 1) / ROW_THREADS);
}

/* ---- the tokens' norms ----------------------------------------------------------------------- */

/* A block to a row. */
template <typename T>
static __global__ void spaces_norms_kernel(double *norms, size_t n_norms, const void *x, size_t ldx,
                                           size_t n_in)
{
    __shared__ double shared[SPACES_MOST_NORMS][GPU_BLOCK / GPU_WARP];
    const T *row = (const T *)x + blockIdx.x * ldx;
    for (size_t i = 0; i < n_norms; i++) {
        size_t end;
        double sum = 0;
        for (size_t c = spaces_range(i, n_in, &end) + threadIdx.x; c < end; c += blockDim.x) {
            const double value = (double)to_float(row[c]);
            sum += value * value;
        }
        sum = block_sum_f64(sum, shared[i]);
        if (threadIdx.x == 0)
            norms[blockIdx.x * n_norms + i] = sum;
    }
}

void cuda_spaces_norms(const struct engine *e, double *norms, size_t n_norms, const void *x,
                       size_t ldx, size_t n, size_t n_in)
{
    CUDA_TENSOR(norms);
    CUDA_TENSOR(x);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, spaces_norms_kernel, (unsigned)n, gpu_row_threads(n_in), norms, n_norms, x,
                    ldx, n_in);
    cuda_launched(e, "norms of tokens");
}

/* A block to a row, a warp to an output; for rows that are too long for the product alone. */
template <typename T>
static __global__ void spaces_long_kernel(float *h, size_t ldh, const void *weights, size_t n_out,
                                          size_t k_padded, const void *x, size_t ldx, size_t n_in,
                                          const double *norms, size_t n_norms)
{
    const double norm = norms[blockIdx.x * n_norms];
    const T *row = (const T *)x + blockIdx.x * ldx;
    if (norm <= SPACES_LONG_TOKEN || !isfinite(norm))
        return;
    for (size_t i = threadIdx.x / GPU_WARP; i < n_out; i += blockDim.x / GPU_WARP) {
        const T *w = (const T *)weights + i * k_padded;
        double sum = 0;
        for (size_t c = threadIdx.x % GPU_WARP; c < n_in; c += GPU_WARP)
            sum += (double)to_float(row[c]) * (double)to_float(w[c]);
        sum = warp_sum_f64(sum);
        if (threadIdx.x % GPU_WARP == 0)
            h[blockIdx.x * ldh + i] = (float)spaces_clamp(sum, SPACES_MOST_H);
    }
}

void cuda_spaces_long(const struct engine *e, const struct spaces *s, float *h, size_t ldh,
                      const struct matrix *in, const void *x, size_t ldx, const double *norms,
                      size_t n)
{
    CUDA_TENSOR(h);
    CUDA_TENSOR(x);
    CUDA_TENSOR(norms);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, spaces_long_kernel, (unsigned)n, GPU_BLOCK, h, ldh, in->data, in->n,
                    in->k_padded, x, ldx, in->k, norms, s->n_norms);
    cuda_launched(e, "products of long tokens");
}

/* ---- forward --------------------------------------------------------------------------------- */

static __global__ void spaces_forward_kernel(const struct spaces s, float *u, size_t ldu, float *h,
                                             size_t ldh, const double *norms, size_t n)
{
    const size_t r = column_here();
    struct spaces_row row;
    if (r >= n)
        return;
    float *own = h + r * ldh;
    double *kept = (double *)(void *)(own + s.norms_at);
    for (size_t i = 0; i < s.n_norms; i++)
        kept[i] = norms[r * s.n_norms + i];
    spaces_run_row(&s, own, false, &row);
    spaces_write_u(&s, &row, own, u + r * ldu, ldu);
}

void cuda_spaces_forward(const struct engine *e, const struct spaces *s, float *u, size_t ldu,
                         float *h, size_t ldh, const double *norms, size_t n)
{
    CUDA_TENSOR(u);
    CUDA_TENSOR(h);
    CUDA_TENSOR(norms);
    CUDA_TENSOR(s->numbers);
    CUDA_TENSOR(s->w2);
    if (n == 0)
        return;
    GPU_LAUNCH(spaces_forward_kernel, row_blocks(n), ROW_THREADS, 0, cuda_device_of(e)->stream, *s,
               u, ldu, h, ldh, norms, n);
    cuda_launched(e, "a mixture of spaces");
}

/* ---- backward -------------------------------------------------------------------------------- */

static __global__ void spaces_backward_kernel(const struct spaces s, struct saved_row *saved,
                                              double *factors, float *dh, float *u, size_t ldu,
                                              const float *h, size_t ldh, size_t n)
{
    const size_t r = column_here();
    if (r < n)
        spaces_backward_row(&s, h + r * ldh, dh + r * ldh, ldh, u + r * ldu, ldu,
                            factors + r * s.n_norms, &saved[r].row, &saved[r].marks);
}

/* A term's sum at place i of its own, over rows first .. end. */
static __device__ double term_sum(const struct spaces &s, const struct saved_row *saved,
                                  const float *h, size_t ldh, size_t k, size_t i, size_t first,
                                  size_t end)
{
    const size_t r = s.r, column = s.terms[k].h;
    double sum = 0;
    if (s.terms[k].chart == CHART_FLAT)
        return 0;
    for (size_t row = first; row < end; row++) {
        const struct spaces_marks *marks = &saved[row].marks;
        const float *own = h + row * ldh + column;
        if (i < r * r)
            sum += marks->w2[k] * (double)own[i / r] * (double)own[i % r];
        else if (i < r * r + r)
            sum += marks->bw[k] * (double)own[i - r * r];
        else
            sum += i == r * r + r ? marks->kappa[k] : marks->b2[k];
    }
    return sum;
}

/* The router's sum, or the count, at place i after the terms'. */
static __device__ double router_sum(const struct spaces &s, const struct spaces_sums &at,
                                    const struct saved_row *saved, size_t i, size_t first,
                                    size_t end)
{
    double sum = 0;
    for (size_t row = first; row < end; row++) {
        const struct spaces_row *v = &saved[row].row;
        const struct spaces_marks *marks = &saved[row].marks;
        if (i < at.w2)
            sum += marks->dpre[i - at.b1];
        else if (i < at.b2)
            sum += marks->dlogit[(i - at.w2) / s.n_hidden] * v->z[(i - at.w2) % s.n_hidden];
        else if (i < at.counts)
            sum += marks->dlogit[i - at.b2];
        else if (i < at.counts + s.n_experts)
            sum += v->pi[i - at.counts];
        else if (i < at.counts + 2 * s.n_experts)
            sum += i - at.counts - s.n_experts == v->top ? 1 : 0;
        else
            sum += i == at.counts + 2 * s.n_experts ? v->entropy : 1;
    }
    return sum;
}

/* parts [n_chunks, n_all] */
static __global__ void spaces_sums_kernel(const struct spaces s, double *parts,
                                          const struct saved_row *saved, const float *h, size_t ldh,
                                          size_t n)
{
    const struct spaces_sums at = spaces_sums_of(&s);
    const size_t i = column_here(), n_chunks = (n + SPACES_CHUNK - 1) / SPACES_CHUNK;
    if (i >= at.n_all)
        return;
    for (size_t chunk = blockIdx.y; chunk < n_chunks; chunk += gridDim.y) {
        const size_t first = chunk * SPACES_CHUNK, left = n - first;
        const size_t end = left < (size_t)SPACES_CHUNK ? n : first + SPACES_CHUNK;
        parts[chunk * at.n_all + i] =
            i < at.b1 ? term_sum(s, saved, h, ldh, i / at.term, i % at.term, first, end)
                      : router_sum(s, at, saved, i, first, end);
    }
}

static __global__ void spaces_add_kernel(double *sums, const double *parts, size_t n_parts,
                                         size_t n_all)
{
    const size_t i = column_here();
    double sum = 0;
    if (i >= n_all)
        return;
    for (size_t part = 0; part < n_parts; part++)
        sum += parts[part * n_all + i];
    sums[i] = sum;
}

int cuda_spaces_backward(const struct engine *e, const struct spaces *s, double *sums,
                         double *factors, float *dh, float *u, size_t ldu, const float *h,
                         size_t ldh, size_t n)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const size_t n_all = spaces_sums_of(s).n_all, n_parts = (n + SPACES_CHUNK - 1) / SPACES_CHUNK;
    const size_t saved_bytes = round_up(n * sizeof(struct saved_row), 256);
    CUDA_TENSOR(sums);
    CUDA_TENSOR(factors);
    CUDA_TENSOR(dh);
    CUDA_TENSOR(u);
    CUDA_TENSOR(h);
    if (n == 0) {
        e->ops->zero(e, sums, n_all * sizeof *sums);
        return cuda_status(e);
    }
    char *scratch =
        (char *)cuda_scratch(e, CUDA_SLOT_SUMS, saved_bytes + n_parts * n_all * sizeof *sums);
    if (!scratch)
        return cuda_status(e);
    struct saved_row *saved = (struct saved_row *)(void *)scratch;
    double *parts = (double *)(void *)(scratch + saved_bytes);
    GPU_LAUNCH(spaces_backward_kernel, row_blocks(n), ROW_THREADS, 0, stream, *s, saved, factors,
               dh, u, ldu, h, ldh, n);
    GPU_LAUNCH(spaces_sums_kernel, columns_grid(n_all, n_parts), COLUMN_THREADS, 0, stream, *s,
               parts, saved, h, ldh, n);
    GPU_LAUNCH(spaces_add_kernel, columns_grid(n_all, 1), COLUMN_THREADS, 0, stream, sums, parts,
               n_parts, n_all);
    cuda_launched(e, "the gradient of a mixture of spaces");
    return cuda_status(e);
}

template <typename T>
static __global__ void spaces_input_kernel(float *dx, size_t lddx, const double *factors,
                                           size_t n_norms, const void *x, size_t ldx, size_t n,
                                           size_t n_in)
{
    const size_t c = column_here();
    if (c >= n_in)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y) {
        const float value = to_float(((const T *)x)[r * ldx + c]);
        float sum = dx[r * lddx + c];
        for (size_t i = 0; i < n_norms; i++) {
            size_t end;
            const size_t first = spaces_range(i, n_in, &end);
            const float by = (float)(2 * factors[r * n_norms + i]);
            if (by != 0 && c >= first && c < end)
                sum += value * by;
        }
        dx[r * lddx + c] = sum;
    }
}

void cuda_spaces_input(const struct engine *e, float *dx, size_t lddx, const double *factors,
                       size_t n_norms, const void *x, size_t ldx, size_t n, size_t n_in)
{
    CUDA_TENSOR(dx);
    CUDA_TENSOR(factors);
    CUDA_TENSOR(x);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, spaces_input_kernel, columns_grid(n_in, n), COLUMN_THREADS, dx, lddx,
                    factors, n_norms, x, ldx, n, n_in);
    cuda_launched(e, "the gradient of tokens' norms");
}

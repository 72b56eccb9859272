/* The training table on a CUDA device: operations on rows, and sums over them. A row's result
 * hangs on that row alone; sums over rows are cut at fixed places and added in row order. */
#include <stdlib.h>

#include "solver/cuda/train_internal.h"
#include "solver/dropout.h"

static const size_t SUM_ROWS = 64;     /* rows of one chain of multiply_sum, as on the CPU */
static const size_t OUTER_ROWS = 2048; /* rows of one product of outer_sum */
static const unsigned TRANSPOSE = 32;  /* a side of what a block transposes */

/* ---- between elements and f32, scaling ------------------------------------------------------- */

template <typename T>
static __global__ void elements_kernel(void *x, size_t ldx, const float *values, size_t ldv,
                                       const float *by, size_t n, size_t width)
{
    const size_t c = column_here();
    if (c >= ldx)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y) {
        float value = 0;
        if (c < width)
            value = by ? values[r * ldv + c] * by[c] : values[r * ldv + c];
        store_element((T *)x + r * ldx + c, value);
    }
}

static void cuda_scale_columns(const struct engine *e, void *u, size_t ldu, const float *h,
                               size_t ldh, const float *z, size_t n, size_t width)
{
    CUDA_TENSOR(u);
    CUDA_TENSOR(h);
    CUDA_TENSOR(z);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, elements_kernel, columns_grid(ldu, n), COLUMN_THREADS, u, ldu, h, ldh, z, n,
                    width);
    cuda_launched(e, "elements of rows");
}

static void cuda_to_elements(const struct engine *e, void *x, size_t ldx, const float *values,
                             size_t ldv, size_t n, size_t width)
{
    cuda_scale_columns(e, x, ldx, values, ldv, NULL, n, width);
}

template <typename T>
static __global__ void floats_kernel(float *values, size_t ldv, const void *x, size_t ldx, size_t n,
                                     size_t width)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y)
        values[r * ldv + c] = to_float(((const T *)x)[r * ldx + c]);
}

static void cuda_to_floats(const struct engine *e, float *values, size_t ldv, const void *x,
                           size_t ldx, size_t n, size_t width)
{
    CUDA_TENSOR(values);
    CUDA_TENSOR(x);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, floats_kernel, columns_grid(width, n), COLUMN_THREADS, values, ldv, x, ldx,
                    n, width);
    cuda_launched(e, "numbers of rows");
}

/* In the order of engine_ops.product: onto what is there, then the bias. */
static __global__ void scale_add_kernel(float *y, size_t ldy, const float *t, size_t ldt,
                                        const float *z, const float *bias, size_t n, size_t width,
                                        bool accumulate)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y) {
        float value = t[r * ldt + c] * z[c];
        if (accumulate)
            value = y[r * ldy + c] + value;
        if (bias)
            value = value + bias[c];
        y[r * ldy + c] = value;
    }
}

static void cuda_scale_add(const struct engine *e, float *y, size_t ldy, const float *t, size_t ldt,
                           const float *z, const float *bias, size_t n, size_t width,
                           bool accumulate)
{
    CUDA_TENSOR(y);
    CUDA_TENSOR(t);
    CUDA_TENSOR(z);
    CUDA_TENSOR(bias);
    if (n == 0)
        return;
    GPU_LAUNCH(scale_add_kernel, columns_grid(width, n), COLUMN_THREADS, 0,
               cuda_device_of(e)->stream, y, ldy, t, ldt, z, bias, n, width, accumulate);
    cuda_launched(e, "a scaling of columns");
}

/* ---- rows here and there --------------------------------------------------------------------- */

static __global__ void gather_kernel(float *y, size_t ldy, const float *h, size_t ldh,
                                     const int32_t *rows, size_t n, size_t width)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y)
        y[r * ldy + c] = h[(size_t)rows[r] * ldh + c];
}

static void cuda_gather_rows(const struct engine *e, float *y, size_t ldy, const float *h,
                             size_t ldh, const int32_t *rows, size_t n, size_t width)
{
    CUDA_TENSOR(y);
    CUDA_TENSOR(h);
    const int32_t *sent = n ? (const int32_t *)cuda_send(e, rows, n * sizeof *rows) : NULL;
    if (!sent)
        return;
    GPU_LAUNCH(gather_kernel, columns_grid(width, n), COLUMN_THREADS, 0, cuda_device_of(e)->stream,
               y, ldy, h, ldh, sent, n, width);
    cuda_launched(e, "a gathering of rows");
}

/* Entry i of the first n_targets: targets[i] takes rows order[starts[i]] .. order[starts[i + 1]]
 * of y, one after the other. */
static __global__ void scatter_kernel(float *h, size_t ldh, const float *y, size_t ldy,
                                      const int32_t *targets, const int32_t *starts,
                                      const int32_t *order, size_t n_targets, size_t width)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t i = blockIdx.y; i < n_targets; i += gridDim.y) {
        float *to = h + (size_t)targets[i] * ldh + c;
        float sum = *to;
        for (int32_t k = starts[i]; k < starts[i + 1]; k++)
            sum += y[(size_t)order[k] * ldy + c];
        *to = sum;
    }
}

struct scatter_pair {
    int32_t target, source;
};

static int compare_pairs(const void *a, const void *b)
{
    const struct scatter_pair *x = (const struct scatter_pair *)a;
    const struct scatter_pair *y = (const struct scatter_pair *)b;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return x->source < y->source ? -1 : 1;
}

static void cuda_scatter_add_rows(const struct engine *e, float *h, size_t ldh, const float *y,
                                  size_t ldy, const int32_t *rows, size_t n, size_t width)
{
    CUDA_TENSOR(h);
    CUDA_TENSOR(y);
    struct scatter_pair *pairs = (struct scatter_pair *)malloc((n + 1) * sizeof *pairs);
    int32_t *tables = (int32_t *)malloc((3 * n + 1) * sizeof *tables);
    int32_t *order = tables, *targets = tables + n, *starts = tables + 2 * n;
    const int32_t *sent = NULL;
    size_t n_targets = 0;

    if (n == 0)
        goto done;
    if (!pairs || !tables) {
        cuda_check(e, cudaErrorMemoryAllocation, "a scattering of rows");
        goto done;
    }
    for (size_t i = 0; i < n; i++)
        pairs[i] = {rows[i], (int32_t)i};
    qsort(pairs, n, sizeof *pairs, compare_pairs);
    for (size_t i = 0; i < n; i++) {
        order[i] = pairs[i].source;
        if (i == 0 || pairs[i].target != pairs[i - 1].target) {
            targets[n_targets] = pairs[i].target;
            starts[n_targets++] = (int32_t)i;
        }
    }
    starts[n_targets] = (int32_t)n;
    sent = (const int32_t *)cuda_send(e, tables, (3 * n + 1) * sizeof *tables);
    if (!sent)
        goto done;
    GPU_LAUNCH(scatter_kernel, columns_grid(width, n_targets), COLUMN_THREADS, 0,
               cuda_device_of(e)->stream, h, ldh, y, ldy, sent + n, sent + 2 * n, sent, n_targets,
               width);
    cuda_launched(e, "a scattering of rows");
done:
    free(pairs);
    free(tables);
}

/* ---- backward, row by row -------------------------------------------------------------------- */

/* A block to a row: its sums of h^2 and of h w dx, then dh. */
static __global__ void norm_backward_kernel(float *dh, size_t lddh, const float *dx, size_t ldx,
                                            const float *h, size_t ldh, const float *weight,
                                            size_t width, float eps)
{
    __shared__ float parts[2][GPU_BLOCK / GPU_WARP];
    const size_t row = blockIdx.x;
    float squares = 0, along = 0;
    dh += row * lddh;
    dx += row * ldx;
    h += row * ldh;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        squares += h[i] * h[i];
        along += h[i] * weight[i] * dx[i];
    }
    squares = block_sum(squares, parts[0]);
    along = block_sum(along, parts[1]);
    const float a = 1.0f / sqrtf(squares / (float)width + eps);
    const float c = a * a * (along / (float)width);
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        dh[i] += a * __fmaf_rn(-h[i], c, weight[i] * dx[i]);
}

static void cuda_norm_backward(const struct engine *e, float *dh, size_t lddh, const float *dx,
                               size_t ldx, const float *h, size_t ldh, size_t n,
                               const float *weight, size_t width, float eps)
{
    CUDA_TENSOR(dh);
    CUDA_TENSOR(dx);
    CUDA_TENSOR(h);
    CUDA_TENSOR(weight);
    if (n == 0)
        return;
    GPU_LAUNCH(norm_backward_kernel, (unsigned)n, gpu_row_threads(width), 0,
               cuda_device_of(e)->stream, dh, lddh, dx, ldx, h, ldh, weight, width, eps);
    cuda_launched(e, "the gradient of a norm");
}

/* With s = sigmoid(gate): dgate = dx up s (1 + gate (1 - s)), dup = dx gate s. */
template <typename T>
static __global__ void swiglu_backward_kernel(void *dgate_up, size_t ldd, const float *dx,
                                              size_t ldx, const float *gate_up, size_t ldg,
                                              size_t up_offset, size_t n, size_t width)
{
    const size_t c = column_here();
    if (c >= ldd)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y) {
        T *to = (T *)dgate_up + r * ldd;
        if (c < width) {
            const float gate = gate_up[r * ldg + c], up = gate_up[r * ldg + up_offset + c];
            const float d = dx[r * ldx + c], s = 1.0f / (1.0f + gpu_exp(-gate));
            store_element(to + c, d * up * (s * __fmaf_rn(gate, 1.0f - s, 1.0f)));
            store_element(to + up_offset + c, d * (gate * s));
        } else if (c < up_offset || c >= up_offset + width) {
            store_element(to + c, 0);
        }
    }
}

static void cuda_swiglu_backward(const struct engine *e, void *dgate_up, size_t ldd,
                                 const float *dx, size_t ldx, const float *gate_up, size_t ldg,
                                 size_t up_offset, size_t n, size_t width)
{
    CUDA_TENSOR(dgate_up);
    CUDA_TENSOR(dx);
    CUDA_TENSOR(gate_up);
    if (n == 0)
        return;
    LAUNCH_ELEMENTS(e, swiglu_backward_kernel, columns_grid(ldd, n), COLUMN_THREADS, dgate_up, ldd,
                    dx, ldx, gate_up, ldg, up_offset, n, width);
    cuda_launched(e, "the gradient of SwiGLU");
}

/* ---- dropout --------------------------------------------------------------------------------- */

static __device__ float dropout_factor(uint64_t key, uint64_t stream, uint32_t limit, size_t column)
{
    const uint64_t bits = dropout_bits(dropout_start(key, stream), column);
    return dropout_leaves_out(bits, column, limit) ? 0 : dropout_kept(limit);
}

template <typename T>
static __global__ void drop_kernel(void *y, size_t ldy, const void *x, size_t ldx, size_t n,
                                   size_t width, const uint64_t *keys, uint64_t stream,
                                   uint32_t limit)
{
    const size_t c = column_here();
    if (c >= ldy)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y) {
        float value = 0;
        if (c < width)
            value =
                to_float(((const T *)x)[r * ldx + c]) * dropout_factor(keys[r], stream, limit, c);
        store_element((T *)y + r * ldy + c, value);
    }
}

static void cuda_drop(const struct engine *e, void *y, size_t ldy, const void *x, size_t ldx,
                      size_t n, size_t width, const struct dropout *dropout)
{
    CUDA_TENSOR(y);
    CUDA_TENSOR(x);
    const uint64_t *keys =
        n ? (const uint64_t *)cuda_send(e, dropout->keys, n * sizeof *dropout->keys) : NULL;
    if (!keys)
        return;
    LAUNCH_ELEMENTS(e, drop_kernel, columns_grid(ldy, n), COLUMN_THREADS, y, ldy, x, ldx, n, width,
                    keys, dropout->stream, dropout->limit);
    cuda_launched(e, "dropout");
}

static __global__ void add_dropped_kernel(float *dx, size_t lddx, const float *t, size_t ldt,
                                          size_t n, size_t width, const uint64_t *keys,
                                          uint64_t stream, uint32_t limit)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t r = blockIdx.y; r < n; r += gridDim.y)
        dx[r * lddx + c] =
            __fmaf_rn(t[r * ldt + c], dropout_factor(keys[r], stream, limit, c), dx[r * lddx + c]);
}

static void cuda_add_dropped(const struct engine *e, float *dx, size_t lddx, const float *t,
                             size_t ldt, size_t n, size_t width, const struct dropout *dropout)
{
    CUDA_TENSOR(dx);
    CUDA_TENSOR(t);
    const uint64_t *keys =
        n ? (const uint64_t *)cuda_send(e, dropout->keys, n * sizeof *dropout->keys) : NULL;
    if (!keys)
        return;
    GPU_LAUNCH(add_dropped_kernel, columns_grid(width, n), COLUMN_THREADS, 0,
               cuda_device_of(e)->stream, dx, lddx, t, ldt, n, width, keys, dropout->stream,
               dropout->limit);
    cuda_launched(e, "the gradient of dropout");
}

/* ---- sums over rows -------------------------------------------------------------------------- */

/* parts [n_blocks, width]: a chain over each SUM_ROWS rows from +0 */
static __global__ void multiply_parts_kernel(float *parts, const float *h, size_t ldh,
                                             const float *q, size_t ldq, size_t n, size_t width)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t first = blockIdx.y * SUM_ROWS; first < n; first += gridDim.y * SUM_ROWS) {
        const size_t end = n - first < SUM_ROWS ? n : first + SUM_ROWS;
        float sum = 0;
        for (size_t r = first; r < end; r++)
            sum = __fmaf_rn(h[r * ldh + c], q[r * ldq + c], sum);
        parts[first / SUM_ROWS * width + c] = sum;
    }
}

/* y [n_rows, ldy] += parts [n_parts][n_rows, ldp], first to last */
static __global__ void add_parts_kernel(float *y, size_t ldy, const float *parts, size_t ldp,
                                        size_t n_parts, size_t n_rows, size_t width)
{
    const size_t c = column_here();
    if (c >= width)
        return;
    for (size_t r = blockIdx.y; r < n_rows; r += gridDim.y) {
        float sum = y[r * ldy + c];
        for (size_t i = 0; i < n_parts; i++)
            sum += parts[(i * n_rows + r) * ldp + c];
        y[r * ldy + c] = sum;
    }
}

static void cuda_multiply_sum(const struct engine *e, float *dz, const float *h, size_t ldh,
                              const float *q, size_t ldq, size_t n, size_t width)
{
    CUDA_TENSOR(dz);
    CUDA_TENSOR(h);
    CUDA_TENSOR(q);
    const size_t n_parts = (n + SUM_ROWS - 1) / SUM_ROWS;
    if (n == 0)
        return;
    float *parts = (float *)cuda_scratch(e, CUDA_SLOT_SUMS, n_parts * width * sizeof *parts);
    if (!parts)
        return;
    GPU_LAUNCH(multiply_parts_kernel, columns_grid(width, n_parts), COLUMN_THREADS, 0,
               cuda_device_of(e)->stream, parts, h, ldh, q, ldq, n, width);
    GPU_LAUNCH(add_parts_kernel, columns_grid(width, 1), COLUMN_THREADS, 0,
               cuda_device_of(e)->stream, dz, width, parts, width, n_parts, (size_t)1, width);
    cuda_launched(e, "a sum over rows");
}

/* to [n_to, ldt] = from [n, ldf]^T, of which n_columns are there; zeros beside it. A block has
 * TRANSPOSE x 8 threads. */
template <typename T>
static __global__ void transpose_kernel(void *to, size_t ldt, size_t n_to, const void *from,
                                        size_t ldf, size_t n, size_t n_columns)
{
    __shared__ float tile[TRANSPOSE][TRANSPOSE + 1];
    const size_t r0 = blockIdx.x * (size_t)TRANSPOSE, c0 = blockIdx.y * (size_t)TRANSPOSE;
    for (size_t i = threadIdx.y; i < TRANSPOSE; i += blockDim.y) {
        const size_t r = r0 + i, c = c0 + threadIdx.x;
        tile[i][threadIdx.x] =
            r < n && c < n_columns ? to_float(((const T *)from)[r * ldf + c]) : 0;
    }
    __syncthreads();
    for (size_t i = threadIdx.y; i < TRANSPOSE; i += blockDim.y) {
        const size_t c = c0 + i, r = r0 + threadIdx.x;
        if (c < n_to && r < ldt)
            store_element((T *)to + c * ldt + r, tile[threadIdx.x][i]);
    }
}

static void transpose(const struct engine *e, void *to, size_t ldt, size_t n_to, const void *from,
                      size_t ldf, size_t n, size_t n_columns)
{
    const dim3 grid((unsigned)((ldt + TRANSPOSE - 1) / TRANSPOSE),
                    (unsigned)((n_to + TRANSPOSE - 1) / TRANSPOSE));
    const dim3 block(TRANSPOSE, 8);
    LAUNCH_ELEMENTS(e, transpose_kernel, grid, block, to, ldt, n_to, from, ldf, n, n_columns);
}

/* The sums over blocks of OUTER_ROWS rows, each the engine's product of the transposes, are added
 * one after the other. A block's rows are filled up with zeros to a power of two, so that products
 * come in a few shapes. */
static int cuda_outer_sum(const struct engine *e, float *g, size_t ldg, const void *a, size_t lda,
                          size_t n_a, const void *b, size_t ldb, size_t n_b, size_t n)
{
    CUDA_TENSOR(g);
    CUDA_TENSOR(a);
    CUDA_TENSOR(b);
    const size_t size = element_size(e->element), ldc = round_up(n_b, KERNEL_COLUMNS);
    size_t most = KERNEL_K_STEP;
    if (n == 0 || n_a == 0 || n_b == 0)
        return 0;
    while (most < n && most < OUTER_ROWS)
        most *= 2;
    const size_t a_bytes = round_up(n_a * most * size, 256), b_bytes = ldc * most * size;
    char *scratch = (char *)cuda_scratch(
        e, CUDA_SLOT_SUMS, a_bytes + round_up(b_bytes, 256) + n_a * ldc * sizeof(float));
    if (!scratch)
        return cuda_status(e);
    char *a_t = scratch, *b_t = a_t + a_bytes;
    float *part = (float *)(void *)(b_t + round_up(b_bytes, 256));

    for (size_t r = 0; r < n; r += OUTER_ROWS) {
        const size_t rows = n - r < OUTER_ROWS ? n - r : OUTER_ROWS;
        size_t k = KERNEL_K_STEP;
        while (k < rows)
            k *= 2;
        struct matrix m = {};
        m.n = n_b;
        m.k = m.k_padded = k;
        m.n_panels = ldc / KERNEL_COLUMNS;
        m.element = e->element;
        m.layout = MATRIX_ROWS;
        m.memory = e->memory;
        m.data = b_t;
        transpose(e, a_t, k, n_a, (const char *)a + r * lda * size, lda, rows, n_a);
        transpose(e, b_t, k, ldc, (const char *)b + r * ldb * size, ldb, rows, n_b);
        cuda_product_run(e, part, ldc, a_t, k, n_a, &m, NULL, false);
        GPU_LAUNCH(add_parts_kernel, columns_grid(n_b, n_a), COLUMN_THREADS, 0,
                   cuda_device_of(e)->stream, g, ldg, part, ldc, (size_t)1, n_a, n_b);
    }
    cuda_launched(e, "a weight's gradient");
    return cuda_status(e);
}

const struct engine_train_ops engine_train_cuda = {
    .to_elements = cuda_to_elements,
    .gather_rows = cuda_gather_rows,
    .scatter_add_rows = cuda_scatter_add_rows,
    .norm_backward = cuda_norm_backward,
    .swiglu_backward = cuda_swiglu_backward,
    .attention_backward = cuda_attention_backward,
    .head_backward = cuda_head_backward,
    .scale_columns = cuda_scale_columns,
    .multiply_sum = cuda_multiply_sum,
    .to_floats = cuda_to_floats,
    .scale_add = cuda_scale_add,
    .drop = cuda_drop,
    .add_dropped = cuda_add_dropped,
    .outer_sum = cuda_outer_sum,
    .spaces_norms = cuda_spaces_norms,
    .spaces_long = cuda_spaces_long,
    .spaces_forward = cuda_spaces_forward,
    .spaces_backward = cuda_spaces_backward,
    .spaces_input = cuda_spaces_input,
};

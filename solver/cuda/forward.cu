/* Operations that treat each row alone: embedding, RMSNorm, SwiGLU, bias. */
#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"

enum { COLUMNS = 4 * GPU_BLOCK /* of a row that a block of threads works on */ };

static unsigned column_blocks(size_t width)
{
    return (unsigned)((width + COLUMNS - 1) / COLUMNS);
}

/* y [n, ldy] = rows ids[] of m [vocab, k_padded], `width` columns */
template <typename T>
__global__ void embed_rows(float *y, size_t ldy, const T *m, size_t k_padded, const int32_t *ids,
                           size_t width)
{
    const T *row = m + (size_t)ids[blockIdx.x] * k_padded;
    float *to = y + blockIdx.x * ldy;
    for (size_t i = (size_t)blockIdx.y * COLUMNS + threadIdx.x;
         i < width && i < (size_t)(blockIdx.y + 1) * COLUMNS; i += blockDim.x)
        to[i] = to_float(row[i]);
}

void cuda_embed(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                const int32_t *ids, size_t n)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    if (n == 0)
        return;
    CUDA_TENSOR(y);
    CUDA_TENSOR(m->data);
    const int32_t *sent = (const int32_t *)cuda_send(e, ids, n * sizeof *ids);
    if (!sent)
        return;
    const dim3 grid((unsigned)n, column_blocks(m->k));
    if (m->element == ELEMENT_F32)
        GPU_LAUNCH(embed_rows<float>, grid, GPU_BLOCK, 0, stream, y, ldy, (const float *)m->data,
                   m->k_padded, sent, m->k);
    else
        GPU_LAUNCH(embed_rows<bf16>, grid, GPU_BLOCK, 0, stream, y, ldy, (const bf16 *)m->data,
                   m->k_padded, sent, m->k);
    cuda_launched(e, "the embedding");
}

/* One block of threads a row. x [n_rows, ldx] = RMSNorm of h, and zeros from width on. */
template <typename T>
__global__ void norm_rows(T *x, size_t ldx, const float *h, size_t ldh, const int32_t *rows,
                          const float *weight, size_t width, float eps)
{
    __shared__ float sums[GPU_BLOCK / GPU_WARP];
    const float *in = h + (rows ? (size_t)rows[blockIdx.x] : blockIdx.x) * ldh;
    T *to = x + blockIdx.x * ldx;
    float squares = 0;

    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        squares += in[i] * in[i];
    const float mean = block_sum(squares, sums) / (float)width;
    const float a = 1.0f / sqrtf(mean + eps);
    for (size_t i = threadIdx.x; i < width; i += blockDim.x)
        store_element(to + i, in[i] * a * weight[i]);
    for (size_t i = width + threadIdx.x; i < ldx; i += blockDim.x)
        store_element(to + i, 0.0f);
}

void cuda_norm(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
               const int32_t *rows, size_t n_rows, const float *weight, size_t width, float eps)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const int32_t *sent = NULL;
    if (n_rows == 0)
        return;
    CUDA_TENSOR(x);
    CUDA_TENSOR(h);
    CUDA_TENSOR(weight);
    if (rows && !(sent = (const int32_t *)cuda_send(e, rows, n_rows * sizeof *rows)))
        return;
    if (e->element == ELEMENT_F32)
        GPU_LAUNCH(norm_rows<float>, (unsigned)n_rows, gpu_row_threads(width), 0, stream,
                   (float *)x, ldx, h, ldh, sent, weight, width, eps);
    else
        GPU_LAUNCH(norm_rows<bf16>, (unsigned)n_rows, gpu_row_threads(width), 0, stream, (bf16 *)x,
                   ldx, h, ldh, sent, weight, width, eps);
    cuda_launched(e, "the norm");
}

/* x [n_rows, ldx] = (gate / (1 + e^-gate)) * up, and zeros from width on */
template <typename T>
__global__ void swiglu_rows(T *x, size_t ldx, const float *gate_up, size_t ldg, size_t up_offset,
                            size_t width)
{
    const float *gate = gate_up + blockIdx.x * ldg, *up = gate + up_offset;
    T *to = x + blockIdx.x * ldx;
    for (size_t i = (size_t)blockIdx.y * COLUMNS + threadIdx.x;
         i < ldx && i < (size_t)(blockIdx.y + 1) * COLUMNS; i += blockDim.x)
        store_element(to + i, i < width ? gate[i] / (1.0f + gpu_exp(-gate[i])) * up[i] : 0.0f);
}

void cuda_swiglu(const struct engine *e, void *x, size_t ldx, const float *gate_up, size_t ldg,
                 size_t up_offset, size_t n_rows, size_t width)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    if (n_rows == 0)
        return;
    CUDA_TENSOR(x);
    CUDA_TENSOR(gate_up);
    const dim3 grid((unsigned)n_rows, column_blocks(ldx));
    if (e->element == ELEMENT_F32)
        GPU_LAUNCH(swiglu_rows<float>, grid, GPU_BLOCK, 0, stream, (float *)x, ldx, gate_up, ldg,
                   up_offset, width);
    else
        GPU_LAUNCH(swiglu_rows<bf16>, grid, GPU_BLOCK, 0, stream, (bf16 *)x, ldx, gate_up, ldg,
                   up_offset, width);
    cuda_launched(e, "SwiGLU");
}

/* y [n_rows, ldy] += bias [width] */
__global__ void add_bias_rows(float *y, size_t ldy, const float *bias, size_t width)
{
    float *to = y + blockIdx.x * ldy;
    for (size_t i = (size_t)blockIdx.y * COLUMNS + threadIdx.x;
         i < width && i < (size_t)(blockIdx.y + 1) * COLUMNS; i += blockDim.x)
        to[i] += bias[i];
}

void cuda_add_bias(const struct engine *e, float *y, size_t ldy, const float *bias, size_t n_rows,
                   size_t width)
{
    if (n_rows == 0 || width == 0)
        return;
    CUDA_TENSOR(y);
    CUDA_TENSOR(bias);
    const dim3 grid((unsigned)n_rows, column_blocks(width));
    GPU_LAUNCH(add_bias_rows, grid, GPU_BLOCK, 0, cuda_device_of(e)->stream, y, ldy, bias, width);
    cuda_launched(e, "adding a bias");
}

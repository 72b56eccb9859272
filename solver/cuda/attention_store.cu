/* Keys and values into their pages, queries beside them, and the batch's page copies. */
#include "solver/cuda/attention_internal.h"

enum { STORE_WARPS = ENGINE_MAX_HEAD_DIM / 2 / GPU_WARP };

/* One head of qkv, normalised where norm is not NULL, and rotated: elements threadIdx.x (first) and
 * threadIdx.x + dim / 2 (second). All threads of the block call. */
static __device__ __forceinline__ void rotate(const struct attention_shape &s, const float *in,
                                              const float *norm, int position, float *sums,
                                              float *first, float *second)
{
    const int half = s.dim / 2, i = (int)threadIdx.x;
    float x = i < half ? in[i] : 0.0f, y = i < half ? in[i + half] : 0.0f;
    if (norm) {
        const float mean = block_sum(x * x + y * y, sums) / (float)s.dim;
        const float a = 1.0f / sqrtf(mean + s.norm_eps);
        if (i < half) {
            x = x * a * norm[i];
            y = y * a * norm[i + half];
        }
    }
    if (i < half) {
        const float c = s.rope_cos[(size_t)position * half + i];
        const float d = s.rope_sin[(size_t)position * half + i];
        *first = x * c - y * d;
        *second = y * c + x * d;
    }
}

/* Block (row, head): a query's head goes to q [rows, n_heads, dim]; the heads after those are keys
 * and values, which go to their page (elements of type KV). */
template <typename T, typename KV>
__global__ void attention_store(struct attention_shape s, float *q, T *out, const float *qkv,
                                const struct row_place *places)
{
    __shared__ float sums[STORE_WARPS];
    const size_t row = blockIdx.x;
    const int i = (int)threadIdx.x, half = s.dim / 2, position = places[row].position;
    const float *in = qkv + row * s.ldqkv;
    float first = 0, second = 0;

    if ((int)blockIdx.y < s.n_heads) {
        const size_t head = blockIdx.y;
        rotate(s, in + s.q_offset + head * (size_t)s.dim, s.q_norm, position, sums, &first,
               &second);
        float *to = q + (row * (size_t)s.n_heads + head) * (size_t)s.dim;
        if (i < half) {
            to[i] = first;
            to[i + half] = second;
        }
        if (head == 0)
            for (size_t c = (size_t)s.n_heads * (size_t)s.dim + threadIdx.x; c < s.ldo;
                 c += blockDim.x)
                store_element(out + row * s.ldo + c, 0.0f);
        return;
    }
    const size_t head = blockIdx.y - (unsigned)s.n_heads, offset = (size_t)position % KV_PAGE;
    const float *value = in + s.v_offset + head * (size_t)s.dim;
    KV *keys = (KV *)(void *)(places[row].page + head * s.head_bytes);
    KV *values = keys + s.key_elements;
    rotate(s, in + s.k_offset + head * (size_t)s.dim, s.k_norm, position, sums, &first, &second);
    if (i < half) {
        store_element(keys + key_at<KV>(offset, (size_t)i), first);
        store_element(keys + key_at<KV>(offset, (size_t)(i + half)), second);
    }
    for (size_t c = (size_t)s.dim + threadIdx.x; c < s.key_k; c += blockDim.x)
        store_element(keys + key_at<KV>(offset, c), 0.0f);
    for (size_t c = threadIdx.x; c < (size_t)s.dim; c += blockDim.x)
        store_element(values + value_at<KV>(offset, c, s.value_width), value[c]);
}

/* Grid (head, elements). The same thread moves an element in all copies, so that one may read what
 * an earlier one wrote. */
template <typename KV>
__global__ void attention_copy_pages(struct attention_shape s, const struct page_copy *copies,
                                     size_t n_copies)
{
    const size_t at = (size_t)blockIdx.y * blockDim.x + threadIdx.x, n_keys = s.key_elements;
    const bool key = at < n_keys;
    const size_t i = key ? at / KV_PAGE : (at - n_keys) % s.value_width;
    const size_t position = key ? at % KV_PAGE : (at - n_keys) / s.value_width;
    const size_t element =
        key ? key_at<KV>(position, i) : n_keys + value_at<KV>(position, i, s.value_width);
    if (position >= KV_PAGE)
        return;
    for (size_t c = 0; c < n_copies; c++) {
        const KV *from = (const KV *)(const void *)(copies[c].from + blockIdx.x * s.head_bytes);
        KV *to = (KV *)(void *)(copies[c].to + blockIdx.x * s.head_bytes);
        if (position < (size_t)copies[c].n_positions)
            to[element] = from[element];
    }
}

template <typename T, typename KV>
static void launch(const struct engine *e, const struct attention_shape *s, float *q, T *out,
                   const float *qkv, const struct row_place *places, size_t n_rows,
                   const struct page_copy *copies, size_t n_copies)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    GPU_LAUNCH(
        (attention_store<T, KV>), dim3((unsigned)n_rows, (unsigned)(s->n_heads + s->n_kv_heads)),
        (unsigned)round_up((size_t)s->dim / 2, GPU_WARP), 0, stream, *s, q, out, qkv, places);
    if (n_copies > 0) {
        const size_t n = s->key_elements + KV_PAGE * s->value_width;
        GPU_LAUNCH(attention_copy_pages<KV>,
                   dim3((unsigned)s->n_kv_heads, (unsigned)((n + GPU_BLOCK - 1) / GPU_BLOCK)),
                   GPU_BLOCK, 0, stream, *s, copies, n_copies);
    }
}

void cuda_attention_store(const struct engine *e, const struct attention_shape *s,
                          enum kv_form form, float *q, void *out, const float *qkv,
                          const struct row_place *places, size_t n_rows,
                          const struct page_copy *copies, size_t n_copies)
{
    if (e->element == ELEMENT_F32 && form == KV_F32)
        launch<float, float>(e, s, q, (float *)out, qkv, places, n_rows, copies, n_copies);
    else if (e->element == ELEMENT_F32)
        launch<float, bf16>(e, s, q, (float *)out, qkv, places, n_rows, copies, n_copies);
    else if (form == KV_F32)
        launch<bf16, float>(e, s, q, (bf16 *)out, qkv, places, n_rows, copies, n_copies);
    else
        launch<bf16, bf16>(e, s, q, (bf16 *)out, qkv, places, n_rows, copies, n_copies);
    cuda_launched(e, "storing keys and values");
}

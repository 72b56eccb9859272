#ifndef T2_SOLVER_CUDA_ATTENTION_INTERNAL_H
#define T2_SOLVER_CUDA_ATTENTION_INTERNAL_H
/* What the two halves of attention share: attention_store.cu, which fills pages, and attention.cu,
 * which reads them. */
#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"

/* Where a row of the batch belongs. */
struct row_place {
    char *page; /* of its position: layer's first head */
    int position, padding;
};

struct page_copy {
    const char *from;
    char *to;
    int n_positions, padding;
};

/* What all kernels need to know of the layer and its pages. */
struct attention_shape {
    size_t head_bytes;   /* of a page */
    size_t key_elements; /* of a head's page; values follow */
    size_t key_k, value_width, ldqkv, ldo;
    size_t q_offset, k_offset, v_offset;
    int n_heads, n_kv_heads, dim;
    int window; /* 0: none */
    float scale, norm_eps;
    const float *q_norm, *k_norm, *rope_cos, *rope_sin;
};

/* Element (position, i) of a head's keys or values. */
template <typename T> static __device__ __forceinline__ size_t key_at(size_t position, size_t i)
{
    return sizeof(T) == 4 ? i * KV_PAGE + position : (i / 2 * KV_PAGE + position) * 2 + (i & 1);
}

template <typename T>
static __device__ __forceinline__ size_t value_at(size_t position, size_t i, size_t width)
{
    return sizeof(T) == 4 ? position * width + i : (position / 2 * width + i) * 2 + (position & 1);
}

/* Keys and values of n_rows rows go to their pages, rotated queries to q [n_rows, n_heads, dim],
 * zeros to out [n_rows, ldo] (elements) beside the heads; then the copies. Places and copies are on
 * the device. */
void cuda_attention_store(const struct engine *e, const struct attention_shape *s,
                          enum kv_form form, float *q, void *out, const float *qkv,
                          const struct row_place *places, size_t n_rows,
                          const struct page_copy *copies, size_t n_copies);

#endif

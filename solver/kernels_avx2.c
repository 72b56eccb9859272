/* The product kernels of AVX2 with FMA: f32, and bf16 by two fused multiply-adds a pair with the
 * bits of vdpbf16ps (see kernels_avx512.c). A panel is two vectors wide; there are 16 registers. */
#ifdef T2_BUILD_AVX2
#include <immintrin.h>
#include <string.h>

#include "solver/kernels.h"
#include "solver/kernels_internal.h"

typedef __m256 vec;
#define VEC_WIDTH 8
#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_add _mm256_add_ps
#define vec_zero _mm256_setzero_ps

enum { CHUNK_K = 2048, CHUNK_ROWS = 48, COLUMN_BLOCK_BYTES = 1 << 18 };
enum { PITCH_F32 = CHUNK_K + 16 };

static inline void convert_f32(float *to, const float *from, size_t k)
{
    memcpy(to, from, k * sizeof *to);
}

static inline void convert_bf16(float *to, const uint16_t *from, size_t k)
{
    for (size_t i = 0; i < k; i += 8) {
        const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(from + i)));
        _mm256_store_si256((void *)(to + i), _mm256_slli_epi32(wide, 16));
    }
}

/* Vector v of a step: half v % 2 of panel v / 2. */
#define STEP_VECTOR(v, bytes)                                                                      \
    ((const char *)(step + (size_t)((v) / 2) * stride) + (size_t)((v) % 2) * (bytes))

#define BLOCK_NAME(x) f32_##x
#define BLOCK_ELEMENT float
#define BLOCK_X float
#define BLOCK_X_STEP 1
#define BLOCK_CONVERT convert_f32
#define BLOCK_STEP_K 1
#define BLOCK_CHAIN KERNEL_F32_CHAIN
#define BLOCK_FLUSH 0
#define BLOCK_ROWS_MAX 6
#define BLOCK_PANELS(rows) ((rows) > 3 ? 1u : 2u)
#define BLOCK_STEP(n_rows, n_vectors)                                                              \
    vec wv[4];                                                                                     \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) wv[v] =                           \
        _mm256_load_ps((const float *)STEP_VECTOR(v, 32));                                         \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v += 2)                                \
        BLOCK_PREFETCH(STEP_VECTOR(v, 0), STEP_VECTOR(n_vectors + v, 0));                          \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xv = _mm256_set1_ps(xs[r * PITCH_F32]);                                          \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm256_fmadd_ps(xv, wv[v], sum[r][v]);                                                 \
    }
#include "solver/kernels_blocks.inc"

#define BLOCK_NAME(x) bf16_##x
#define BLOCK_ELEMENT uint16_t
#define BLOCK_X float
#define BLOCK_X_STEP 1
#define BLOCK_CONVERT convert_bf16
#define BLOCK_STEP_K 2
#define BLOCK_CHAIN 0
#define BLOCK_FLUSH 1
#define BLOCK_ROWS_MAX 6
#define BLOCK_PANELS(rows) ((rows) > 3 ? 1u : 2u)
#define BLOCK_STEP(n_rows, n_vectors)                                                              \
    vec half[4];                                                                                   \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) half[v] =                         \
        _mm256_castsi256_ps(_mm256_and_si256(_mm256_load_si256((const void *)STEP_VECTOR(v, 32)),  \
                                             _mm256_set1_epi32((int)0xffff0000u)));                \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v += 2)                                \
        BLOCK_PREFETCH(STEP_VECTOR(v, 0), STEP_VECTOR(n_vectors + v, 0));                          \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xo = _mm256_set1_ps(xs[r * PITCH_F32 + 1]);                                      \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm256_fmadd_ps(xo, half[v], sum[r][v]);                                               \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) half[v] = _mm256_castsi256_ps(    \
        _mm256_slli_epi32(_mm256_load_si256((const void *)STEP_VECTOR(v, 32)), 16));               \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xe = _mm256_set1_ps(xs[r * PITCH_F32]);                                          \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm256_fmadd_ps(xe, half[v], sum[r][v]);                                               \
    }
#include "solver/kernels_blocks.inc"

const struct kernels kernels_f32_avx2 = {"f32/avx2", ISA_AVX2, ELEMENT_F32, f32_product, "f32"};
const struct kernels kernels_bf16_avx2 = {"bf16/avx2", ISA_AVX2, ELEMENT_BF16, bf16_product,
                                          "dot2"};
#else
typedef int kernels_avx2_are_not_built;
#endif

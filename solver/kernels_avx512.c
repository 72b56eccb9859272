/* The product kernels of AVX-512: f32, and bf16 by two fused multiply-adds a pair.
 *
 * A bf16 is the upper half of an f32, its products are exact in f32, and with MXCSR set to flush
 * denormals a fused multiply-add rounds as vdpbf16ps does (compared over 3e8 random operands), so
 * this kernel has the bits of the instruction. On processors with two FMA ports it is also the
 * faster of the two wherever vdpbf16ps issues every second cycle (Sapphire Rapids, Emerald Rapids:
 * measured 2.1 cycles a vdpbf16ps, 0.54 a vfmadd). */
#ifdef T2_BUILD_AVX512
#include <immintrin.h>
#include <string.h>

#include "solver/kernels.h"
#include "solver/kernels_internal.h"

typedef __m512 vec;
#define VEC_WIDTH 16
#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_add _mm512_add_ps
#define vec_zero _mm512_setzero_ps

enum { CHUNK_K = 2048, CHUNK_ROWS = 48, COLUMN_BLOCK_BYTES = 1 << 20 };

static inline void convert_f32(float *to, const float *from, size_t k)
{
    memcpy(to, from, k * sizeof *to);
}

static inline void convert_bf16(float *to, const uint16_t *from, size_t k)
{
    for (size_t i = 0; i < k; i += 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(from + i)));
        _mm512_store_si512(to + i, _mm512_slli_epi32(wide, 16));
    }
}

#define BLOCK_NAME(x) f32_##x
#define BLOCK_ELEMENT float
#define BLOCK_X float
#define BLOCK_X_STEP 1
#define BLOCK_CONVERT convert_f32
#define BLOCK_STEP_K 1
#define BLOCK_CHAIN KERNEL_F32_CHAIN
#define BLOCK_FLUSH 0
#define BLOCK_ROWS_MAX 12
#define BLOCK_PANELS(rows) ((rows) > 6 ? 2u : 4u)
#define BLOCK_STEP(n_rows, n_vectors)                                                              \
    vec wv[4];                                                                                     \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++)                                   \
    {                                                                                              \
        wv[v] = _mm512_load_ps(step + (size_t)v * stride);                                         \
        BLOCK_PREFETCH(step + (size_t)v * stride, step + (size_t)(n_vectors + v) * stride);        \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xv = _mm512_set1_ps(xs[r * PITCH_F32]);                                          \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm512_fmadd_ps(xv, wv[v], sum[r][v]);                                                 \
    }
enum { PITCH_F32 = CHUNK_K + 16 };
#include "solver/kernels_blocks.inc"

#define BLOCK_NAME(x) bf16_##x
#define BLOCK_ELEMENT uint16_t
#define BLOCK_X float
#define BLOCK_X_STEP 1
#define BLOCK_CONVERT convert_bf16
#define BLOCK_STEP_K 2
#define BLOCK_CHAIN 0
#define BLOCK_FLUSH 1
#define BLOCK_ROWS_MAX 12
#define BLOCK_PANELS(rows) ((rows) > 8 ? 2u : (rows) > 4 ? 3u : 4u)
#define BLOCK_STEP(n_rows, n_vectors)                                                              \
    vec odd[4], even[4];                                                                           \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++)                                   \
    {                                                                                              \
        const __m512i pairs = _mm512_load_si512(step + (size_t)v * stride);                        \
        odd[v] =                                                                                   \
            _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32((int)0xffff0000u)));     \
        even[v] = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));                               \
        BLOCK_PREFETCH(step + (size_t)v * stride, step + (size_t)(n_vectors + v) * stride);        \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xo = _mm512_set1_ps(xs[r * PITCH_F32 + 1]);                                      \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm512_fmadd_ps(xo, odd[v], sum[r][v]);                                                \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const vec xe = _mm512_set1_ps(xs[r * PITCH_F32]);                                          \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm512_fmadd_ps(xe, even[v], sum[r][v]);                                               \
    }
#include "solver/kernels_blocks.inc"

const struct kernels kernels_f32_avx512 = {"f32/avx512", ISA_AVX512, ELEMENT_F32, f32_product,
                                           "f32"};
const struct kernels kernels_bf16_avx512 = {"bf16/avx512", ISA_AVX512, ELEMENT_BF16, bf16_product,
                                            "dot2"};
#else
typedef int kernels_avx512_are_not_built;
#endif

/* The bf16 product kernel by vdpbf16ps itself, for processors that issue it every cycle; the
 * others have the same bits faster from kernels_avx512.c. */
#ifdef T2_BUILD_AVX512BF16
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
enum { PITCH_PAIRS = (CHUNK_K + 16) / 2 };

static inline void copy_pairs(int *to, const uint16_t *from, size_t k)
{
    memcpy(to, from, k * sizeof *from);
}

#define BLOCK_NAME(x) bf16_##x
#define BLOCK_ELEMENT uint16_t
#define BLOCK_X int
#define BLOCK_X_STEP 2
#define BLOCK_CONVERT copy_pairs
#define BLOCK_STEP_K 2
#define BLOCK_CHAIN 0
#define BLOCK_FLUSH 1 /* vdpbf16ps always flushes; this is for the addition to y */
#define BLOCK_ROWS_MAX 12
#define BLOCK_PANELS(rows) ((rows) > 6 ? 2u : 4u)
#define BLOCK_STEP(n_rows, n_vectors)                                                              \
    __m512bh pairs[4];                                                                             \
    _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++)                                   \
    {                                                                                              \
        pairs[v] = (__m512bh)_mm512_load_si512(step + (size_t)v * stride);                         \
        BLOCK_PREFETCH(step + (size_t)v * stride, step + (size_t)(n_vectors + v) * stride);        \
    }                                                                                              \
    _Pragma("GCC unroll 16") for (int r = 0; r < n_rows; r++)                                      \
    {                                                                                              \
        const __m512bh xv = (__m512bh)_mm512_set1_epi32(xs[r * PITCH_PAIRS]);                      \
        _Pragma("GCC unroll 16") for (int v = 0; v < n_vectors; v++) sum[r][v] =                   \
            _mm512_dpbf16_ps(sum[r][v], xv, pairs[v]);                                             \
    }
#include "solver/kernels_blocks.inc"

const struct kernels kernels_bf16_avx512bf16 = {"bf16/avx512bf16", ISA_AVX512_BF16, ELEMENT_BF16,
                                                bf16_product, "dot2"};
#else
typedef int kernels_avx512bf16_are_not_built;
#endif

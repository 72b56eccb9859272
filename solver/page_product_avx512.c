/* page_product compiled for AVX-512; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX512
#include <immintrin.h>

#include "solver/page_product_internal.h"

typedef __m512 vec;
#define LEVEL(name) name##_avx512
#define VEC_WIDTH 16
#define ROWS_MAX 6
#define vec_load _mm512_loadu_ps
#define vec_store _mm512_storeu_ps
#define vec_zero _mm512_setzero_ps
#define vec_set1 _mm512_set1_ps
#define vec_add _mm512_add_ps
#define vec_mul _mm512_mul_ps
#define vec_fma _mm512_fmadd_ps

static inline vec pair_even(const void *from)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16));
}

static inline vec pair_odd(const void *from)
{
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32((int)0xffff0000u)));
}

#include "solver/page_product.inc"
#else
typedef int page_product_avx512_is_not_built;
#endif

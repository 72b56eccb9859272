/* page_product compiled for AVX2; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX2
#include <immintrin.h>

#include "solver/page_product_internal.h"

typedef __m256 vec;
#define LEVEL(name) name##_avx2
#define VEC_WIDTH 8
#define ROWS_MAX 2
#define vec_load _mm256_loadu_ps
#define vec_store _mm256_storeu_ps
#define vec_zero _mm256_setzero_ps
#define vec_set1 _mm256_set1_ps
#define vec_add _mm256_add_ps
#define vec_mul _mm256_mul_ps
#define vec_fma _mm256_fmadd_ps

static inline vec pair_even(const void *from)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256(from), 16));
}

static inline vec pair_odd(const void *from)
{
    return _mm256_castsi256_ps(
        _mm256_and_si256(_mm256_loadu_si256(from), _mm256_set1_epi32((int)0xffff0000u)));
}

#include "solver/page_product.inc"
#else
typedef int page_product_avx2_is_not_built;
#endif

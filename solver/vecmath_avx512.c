/* vecmath compiled for AVX-512; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX512
#define VECMATH_TABLE vecmath_avx512
#define VECMATH_ISA ISA_AVX512
#include "solver/vecmath_kernels.inc"
#else
typedef int vecmath_avx512_is_not_built;
#endif

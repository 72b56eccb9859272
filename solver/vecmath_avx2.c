/* vecmath compiled for AVX2; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX2
#define VECMATH_TABLE vecmath_avx2
#define VECMATH_ISA ISA_AVX2
#include "solver/vecmath_kernels.inc"
#else
typedef int vecmath_avx2_is_not_built;
#endif

/* axpy compiled for AVX512; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX512
#define AXPY_NAME axpy_run_avx512
#include "solver/axpy_kernel.inc"
#else
typedef int axpy_avx512_is_not_built;
#endif

/* axpy compiled for AVX2; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX2
#define AXPY_NAME axpy_run_avx2
#include "solver/axpy_kernel.inc"
#else
typedef int axpy_avx2_is_not_built;
#endif

/* eigen_kernels compiled for AVX512; kernels.cmake gives the flags. */
#ifdef T2_BUILD_AVX512
#include "solver/eigen_kernels.h"

#include <stdint.h>

#define VECTOR_BYTES 64
#define COLUMNS 4

#define REAL float
#define REAL_BYTES 4
#define INTEGER int32_t
#define KERNEL(name) name##_f32
#define REAL_TINY 1e-30f
#include "solver/eigen_kernels.inc"

#define REAL double
#define REAL_BYTES 8
#define INTEGER int64_t
#define KERNEL(name) name##_f64
#define REAL_TINY 1e-290
#include "solver/eigen_kernels.inc"

const struct eigen_kernels_f32 eigen_kernels_avx512_f32 = {
    first_f32, next_f32, weigh_f32, divide_f32, root_f32, apply_f32, panel_f32};
const struct eigen_kernels_f64 eigen_kernels_avx512_f64 = {
    first_f64, next_f64, weigh_f64, divide_f64, root_f64, apply_f64, panel_f64};
#else
typedef int eigen_kernels_avx512_is_not_built;
#endif

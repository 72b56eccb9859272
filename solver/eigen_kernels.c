/* The plain level, and the choice among the levels. */
#include "solver/eigen_kernels.h"

#include <stdint.h>

#include "solver/cpu.h"

#define VECTOR_BYTES 16
#define COLUMNS 1

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

extern const struct eigen_kernels_f32 eigen_kernels_avx2_f32, eigen_kernels_avx512_f32;
extern const struct eigen_kernels_f64 eigen_kernels_avx2_f64, eigen_kernels_avx512_f64;

static const struct eigen_kernels_f32 eigen_kernels_plain_f32 = {
    first_f32, next_f32, weigh_f32, divide_f32, root_f32, apply_f32, panel_f32};
static const struct eigen_kernels_f64 eigen_kernels_plain_f64 = {
    first_f64, next_f64, weigh_f64, divide_f64, root_f64, apply_f64, panel_f64};

const struct eigen_kernels_f32 *eigen_kernels_find_f32(void)
{
    const enum isa isa = cpu_best_isa();

    (void)isa;
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        return &eigen_kernels_avx512_f32;
#endif
#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        return &eigen_kernels_avx2_f32;
#endif
    return &eigen_kernels_plain_f32;
}

const struct eigen_kernels_f64 *eigen_kernels_find_f64(void)
{
    const enum isa isa = cpu_best_isa();

    (void)isa;
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        return &eigen_kernels_avx512_f64;
#endif
#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        return &eigen_kernels_avx2_f64;
#endif
    return &eigen_kernels_plain_f64;
}

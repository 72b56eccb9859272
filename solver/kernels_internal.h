#ifndef T2_SOLVER_KERNELS_INTERNAL_H
#define T2_SOLVER_KERNELS_INTERNAL_H
/* For kernels*.c and their tests: the tables, and the arithmetic of the bf16 instructions in C. */
#include <float.h>
#include <math.h>

#include "solver/kernels.h"

/* Each is there when its T2_BUILD_LEVEL is defined (kernels.cmake). */

extern const struct kernels kernels_f32_avx2, kernels_bf16_avx2;
extern const struct kernels kernels_f32_avx512, kernels_bf16_avx512;
extern const struct kernels kernels_bf16_avx512bf16;
extern const struct kernels kernels_bf16_amx;

/* The bf16 instructions count denormals as zero, whatever MXCSR says. */
static inline float flush_denormal(float value)
{
    return fabsf(value) < FLT_MIN ? copysignf(0.0f, value) : value;
}

static inline float f32_from_bf16_flushed(uint16_t value)
{
    return f32_from_bf16((value & 0x7f80u) ? value : value & 0x8000u);
}

/* a * b + c rounded once, a and b bf16, denormal results as zero. Whether a result is denormal is
 * decided on the value rounded to 24 bits as if the exponent had no lower end, so a value that is
 * rounded up to FLT_MIN only by the denormals' wider grid is still zero. Near FLT_MIN the double
 * below is exact: a * b has 16 bits and c is a multiple of 2^-149. */
static inline float fma_flushed(float a, float b, float c)
{
    const float sum = fmaf(a, b, c);
    if (fabsf(sum) > FLT_MIN || sum == 0 || isnan(sum))
        return sum;
    const double exact = (double)a * (double)b + (double)c;
    return fabs(exact) < 0x1p-126 * (1 - 0x1p-25) ? copysignf(0.0f, sum) : sum;
}

#endif

#ifndef T2_SOLVER_KERNELS_INTERNAL_H
#define T2_SOLVER_KERNELS_INTERNAL_H
/* The tables that the kernels_*.c files define, for kernels_find. Each is there when its
 * T2_BUILD_LEVEL is defined (kernels.cmake). */
#include "solver/kernels.h"

extern const struct kernels kernels_f32_avx2, kernels_bf16_avx2;
extern const struct kernels kernels_f32_avx512, kernels_bf16_avx512;
extern const struct kernels kernels_bf16_avx512bf16;
extern const struct kernels kernels_bf16_amx;

#endif

#include "solver/vecmath.h"

extern const struct vecmath vecmath_plain, vecmath_avx2, vecmath_avx512;

const struct vecmath *vecmath_find(enum isa isa)
{
    (void)isa;
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        return &vecmath_avx512;
#endif
#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        return &vecmath_avx2;
#endif
    return &vecmath_plain;
}

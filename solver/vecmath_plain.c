/* vecmath for any processor. */
#define VECMATH_TABLE vecmath_plain
#define VECMATH_ISA ISA_PLAIN
#include "solver/vecmath_kernels.inc"

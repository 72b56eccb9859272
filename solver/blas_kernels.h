#ifndef T2_SOLVER_BLAS_KERNELS_H
#define T2_SOLVER_BLAS_KERNELS_H
/* OpenBLAS chooses its kernels by the processor's model number when the library is loaded; a model
 * that came out after it counts as a Prescott of 2004, and products run at a quarter of their
 * speed. */

/* The first thing in main: where OpenBLAS has taken an AVX2 or AVX-512 processor for an old one,
 * and OPENBLAS_CORETYPE is not set, starts the program again (same process) with it set to SkylakeX
 * or Haswell. Returns otherwise. argv: main's own, untouched. */
void blas_choose_kernels(char **argv);

/* The kernels in use, "SkylakeX". */
const char *blas_kernels(void);

#endif

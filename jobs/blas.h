#ifndef T2_JOBS_BLAS_H
#define T2_JOBS_BLAS_H
/* An OpenBLAS older than the processor takes kernels of 2004 (SSE3), which are three times slower
 * or more. It chooses when it is loaded, so the only cure is to start again. */

/* Starts this program again with OPENBLAS_CORETYPE set where OpenBLAS has taken such kernels, the
 * processor has AVX2 or AVX-512, and the user has set nothing. Returns otherwise. Before MPI. */
void blas_choose_kernels(char **argv);

#endif

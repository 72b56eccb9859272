#ifndef T2_SOLVER_EIGEN_H
#define T2_SOLVER_EIGEN_H
/* The symmetric eigenproblem of a dense matrix, all values and vectors, by a crew of workers that
 * share memory (mpi/crew.h). f32 and f64 versions of the same code.
 *
 *   lapack     ?syevd on worker 0 (the others wait): what the others are measured against
 *   one-stage  ?sytrd on worker 0, then divide and conquer and one blocked back-transformation by
 *              all: matrices that stay in cache
 *   two-stage  dense to band by blocked Householder reflections, band to tridiagonal by bulge
 *              chasing, divide and conquer, and two blocked back-transformations, mostly matrix
 *              products. Cut into parts that depend on n alone, each computed by one worker: the
 *              same bits for a crew of any size. Bischof, Lang & Sun 2000 (SBR); Auckenthaler et
 *              al. 2011 (ELPA); Haidar, Ltaief & Dongarra 2011.
 *
 * The BLAS must run one thread (blas_single_thread), which eigen_solve sees to. */
#include <stddef.h>

#include "mpi/crew.h"
#include "solver/arena.h"

enum eigen_method { EIGEN_LAPACK, EIGEN_ONE_STAGE, EIGEN_TWO_STAGE };

/* Solves C = Q^T diag(values) Q for the symmetric matrix in the lower triangle, seen column-major
 * (the upper seen row-major), of c [n, n]; ascending values [n]; row i of c, overwritten, is the
 * i-th eigenvector. c, values and the arena's block are shared by the crew. The arena needs
 * eigen_work_bytes; it is left as it was found. All workers call. 0, or -1 on all with error_set.
 */
int eigen_solve_f32(const struct crew *crew, enum eigen_method method, struct arena *arena,
                    size_t n, float *c, float *values);
int eigen_solve_f64(const struct crew *crew, enum eigen_method method, struct arena *arena,
                    size_t n, double *c, double *values);

/* element_bytes: 4 or 8. */
size_t eigen_work_bytes(enum eigen_method method, size_t element_bytes, size_t n);

/* The method for order n, a matter of n (and element_bytes) alone. */
enum eigen_method eigen_method_for(size_t element_bytes, size_t n);

/* One thread for the calling thread's BLAS calls. An OpenBLAS with threads of its own has one
 * setting for the process; one built on OpenMP has one for each calling thread. So every thread
 * calls this before its first product, and whoever sets another number later undoes it. */
void blas_single_thread(void);

#endif

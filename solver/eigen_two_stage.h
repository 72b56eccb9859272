#ifndef T2_SOLVER_EIGEN_TWO_STAGE_H
#define T2_SOLVER_EIGEN_TWO_STAGE_H
/* The two-stage symmetric eigensolver behind eigen.h, all values and vectors:
 *
 *   band         dense to half-bandwidth b = 64 by blocked Householder QR of panels and rank-2b
 *                updates (Bischof, Lang & Sun 2000, SBR)
 *   chase        band to tridiagonal by bulge chasing in a pipeline of sweeps (Haidar, Ltaief &
 *                Dongarra 2011)
 *   tridiagonal  divide and conquer
 *   back_chase   the chase's reflections on the vectors, in groups of consecutive sweeps on strips
 *                of vectors that stay in cache (Auckenthaler et al. 2011, ELPA)
 *   back_band    the panels' reflections on the vectors, as matrix products
 *
 * All parts of all phases are cut by n alone and each is computed by one worker with
 * single-threaded BLAS: the same bits in a crew of any size. They depend on the BLAS's choice of
 * kernels and on the processor's instruction set (eigen_kernels.h). */
#include <stddef.h>

#include "mpi/crew.h"
#include "solver/arena.h"

enum eigen_phase {
    EIGEN_PHASE_BAND,
    EIGEN_PHASE_CHASE,
    EIGEN_PHASE_TRIDIAGONAL,
    EIGEN_PHASE_BACK_CHASE,
    EIGEN_PHASE_BACK_BAND,
    EIGEN_PHASE_COUNT
};

/* One stage: LAPACK's ?sytrd on worker 0 in place of band and chase (counted as band), the rest as
 * above. Faster where the matrix stays in cache. */
int eigen_one_stage_f32(const struct crew *crew, struct arena *arena, size_t n, float *c,
                        float *values);
int eigen_one_stage_f64(const struct crew *crew, struct arena *arena, size_t n, double *c,
                        double *values);

/* Two stages. As eigen_solve_* (eigen.h), for n >= 1 and any finite matrix; NaN or Inf is an error.
 */
int eigen_two_stage_f32(const struct crew *crew, struct arena *arena, size_t n, float *c,
                        float *values);
int eigen_two_stage_f64(const struct crew *crew, struct arena *arena, size_t n, double *c,
                        double *values);

/* n_stages 1 or 2; seconds [EIGEN_PHASE_COUNT] of the worker's processor time, each worker's own.
 */
int eigen_stages_timed_f32(const struct crew *crew, int n_stages, struct arena *arena, size_t n,
                           float *c, float *values, double *seconds);
int eigen_stages_timed_f64(const struct crew *crew, int n_stages, struct arena *arena, size_t n,
                           double *c, double *values, double *seconds);

/* What the arena must have, for one stage or two; element_bytes 4 or 8. */
size_t eigen_two_stage_bytes(size_t element_bytes, size_t n);

#endif

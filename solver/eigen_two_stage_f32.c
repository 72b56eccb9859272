/* eigen_two_stage.inc for float. */
#include "solver/eigen_two_stage.h"

#include <cblas.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/eigen_parts.h"

#define REAL float
#define REAL_HUGE FLT_MAX
#define NAME(x) x##_f32
#define BLAS(x) cblas_s##x
#define LAPACK(x) s##x##_
#include "solver/eigen_lapack.inc"
#include "solver/eigen_two_stage.inc"

size_t eigen_two_stage_bytes_f32(size_t n); /* for its f64 twin */

size_t eigen_two_stage_bytes_f32(size_t n)
{
    return solver_bytes_f32(n);
}

/* eigen_two_stage.inc for double. */
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

#define REAL double
#define REAL_HUGE DBL_MAX
#define NAME(x) x##_f64
#define BLAS(x) cblas_d##x
#define LAPACK(x) d##x##_
#include "solver/eigen_lapack.inc"
#include "solver/eigen_two_stage.inc"

size_t eigen_two_stage_bytes_f32(size_t n);

size_t eigen_two_stage_bytes(size_t element_bytes, size_t n)
{
    return element_bytes == sizeof(float) ? eigen_two_stage_bytes_f32(n) : solver_bytes_f64(n);
}

#ifndef T2_SOLVER_SVD_H
#define T2_SOLVER_SVD_H
/* The part of a singular value decomposition that SVF needs: all singular values of W [m, n] and
 * the small square orthogonal factor Q [r, r], r = min(m, n): V^T where W is tall (m >= n), U^T
 * where it is wide. Row i of Q is the singular vector of sigma_i, so for tall W, W = sum_i (W q_i)
 * q_i^T.
 *
 * Method (docs/decompose.md has the error analysis): the Gram matrix C of the small side by blocks
 * of rows straight from the source, its eigenvectors (eigen.h), sigma_i = |W q_i| (Rayleigh
 * quotients), sorted. Afterwards every sigma_i gets an error bound from the residuals of C against
 * the gaps of its spectrum; with precision `auto` a solve in f32 whose bounds do not meet the
 * tolerance is done again in f64, and one in f64 by LAPACK's ?gesvd on W itself. Then the contract
 * is checked; what fails it is repaired (re-orthogonalisation, one-sided Jacobi sweeps, ?gesvd),
 * and the report says which way it went.
 *
 * Everything depends on W and the options alone: the same bits in a crew of any size, on any rank.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mpi/crew.h"
#include "solver/arena.h"

/* Rows of W, as f32. read() may be called by several workers at once, for any rows; returns 0, or
 * -1 with error_set. Values are finite where read() returned 0. Rows past the matrix are not asked
 * for. */
struct svd_source {
    size_t n_rows, n_columns;                                             /* both at least 1 */
    int (*read)(const void *context, size_t first, size_t n, float *out); /* [n, n_columns] */
    const void *context;
    const char *name; /* for messages */
};

/* How the eigenproblem is solved. AUTO: one node's workers, one stage or two by size
 * (eigen_method_for); the others as asked for. The grid methods are svd_grid.h's. Numbers are only
 * this program's: files have the names. */
enum svd_method {
    SVD_AUTO,
    SVD_LAPACK,
    SVD_ONE_STAGE,
    SVD_TWO_STAGE,
    SVD_SCALAPACK, /* p?syevd on the Gram matrix */
    SVD_ELPA,      /* the same by ELPA */
    SVD_GESVD,     /* p?gesvd on W itself: the reference */
    SVD_CUSOLVER,  /* Gram matrix and syevd on options.cuda, in f64 */
    SVD_METHOD_COUNT
};
enum svd_precision { SVD_PRECISION_AUTO, SVD_F32, SVD_F64, SVD_PRECISION_COUNT };

/* "auto", "lapack", "one-stage", ...; "auto", "f32", "f64". */
const char *svd_method_name(enum svd_method method);
const char *svd_precision_name(enum svd_precision precision);
/* -1 with error_set naming the choices. */
int svd_method_parse(const char *name, enum svd_method *method);
int svd_precision_parse(const char *name, enum svd_precision *precision);

struct svd_cuda; /* svd_cuda.h */

struct svd_options {
    enum svd_method method;
    enum svd_precision precision;
    double tolerance;      /* relative error of each sigma that `auto` accepts (default 1e-5) */
    bool check;            /* check the contract in full, not by random probes */
    struct svd_cuda *cuda; /* the device of CUSOLVER, which a process's crews share */
};
static inline struct svd_options svd_defaults(void)
{
    return (struct svd_options){SVD_AUTO, SVD_PRECISION_AUTO, 1e-5, false, NULL};
}

enum svd_repair { SVD_REPAIR_NONE, SVD_REPAIR_ORTHOGONALISED, SVD_REPAIR_JACOBI, SVD_REPAIR_GESVD };
const char *svd_repair_name(enum svd_repair repair);

/* What is written beside a matrix. */
struct svd_report {
    bool wide;                    /* factor is U^T, else V^T */
    enum svd_method method;       /* what ended it: never AUTO */
    enum svd_precision precision; /* what ended it: never AUTO */
    bool tried_f32, tried_f64;    /* steps before that did not meet the tolerance */
    enum svd_repair repair;
    bool checked_in_full;
    double orthogonality; /* max |Q Q^T - I| (an estimate from probes unless in full) */
    double residual; /* max over i of |W^T (W q_i) - sigma_i^2 q_i| / sigma_1^2 (W W^T if wide), the
                        same */
    double bound;    /* largest relative error bound of a sigma_i above sigma_1 * r * 2^-52;
                        INFINITY: nothing is known of some of them (an explicit f32, mostly) */
    double seconds;  /* wall clock */
    double flops;    /* nominal count, for GFLOP/s */
};

/* Bytes of shared arena that svd_solve may use, at most (pages that are not touched cost nothing),
 * for a crew of the given size. */
size_t svd_work_bytes(size_t n_rows, size_t n_columns, const struct svd_options *options,
                      int crew_size);

/* Decomposes. sigma f64 [r], descending, and factor f32 [r, r] lie in memory that the crew shares
 * (as does the arena's block); report is each worker's own (the same on all but for nothing). All
 * workers of the crew call. Works for every finite matrix: rank-deficient, equal singular values,
 * zero, one row or column, scales of 1e-30 and 1e30. 0, or -1 on all with error_set. */
int svd_solve(const struct crew *crew, struct arena *arena, const struct svd_source *source,
              const struct svd_options *options, double *sigma, float *factor,
              struct svd_report *report);

/* Nominal floating-point operations of one decomposition (Gram, eigenproblem, quotients). */
double svd_flops(size_t n_rows, size_t n_columns);

#endif

#ifndef T2_SOLVER_EIGEN_KERNELS_H
#define T2_SOLVER_EIGEN_KERNELS_H
/* The inner loops of the two-stage eigensolver that are no matrix products of the BLAS: bulge
 * chasing on blocks of a band, and groups of short reflections on a strip of vectors. Once per
 * instruction set, from one source (eigen_kernels.inc). The wider levels fuse multiply-adds, so
 * bits depend on the level, as they do in the BLAS beside it; sums have the same order in every
 * call.
 *
 * Names: a reflection is I - tau u u^T with u[0] = 1; blocks are column-major. */
#include <stdbool.h>
#include <stddef.h>

enum {
    EIGEN_BAND = 64,         /* half-bandwidth b, and the length of the chase's reflections */
    EIGEN_GROUP = 6,         /* reflections of consecutive sweeps that are applied together */
    EIGEN_STRIP_BYTES = 256, /* a row of a strip of vectors */
    /* Rows that a group covers: each reflection begins one row below the one before. */
    EIGEN_GROUP_ROWS = EIGEN_BAND + EIGEN_GROUP - 1,
    /* A stored group: vectors [EIGEN_GROUP_ROWS, EIGEN_GROUP] with the zeros around them, then the
     * triangular factor [EIGEN_GROUP, EIGEN_GROUP]; rounded to cache lines. */
    /* Columns of a panel's reflections as stored for the strips: with zeros to whole groups. */
    EIGEN_PANEL_COLUMNS = (EIGEN_BAND + EIGEN_GROUP - 1) / EIGEN_GROUP * EIGEN_GROUP,
    EIGEN_GROUP_SIZE = (EIGEN_GROUP_ROWS * EIGEN_GROUP + EIGEN_GROUP * EIGEN_GROUP + 15) / 16 * 16
};

#define EIGEN_KERNELS_DECLARE(NAME, REAL)                                                          \
    struct NAME {                                                                                  \
        /* A sweep's begin: reflects x [b] to (beta, 0, ...), and the symmetric d [b, b] (lower    \
         * triangle) from both sides. u [b] and *tau are the reflection. */                        \
        void (*first)(REAL * x, REAL *d, size_t ld, REAL *u, REAL *tau);                           \
        /* The next step: block [b, b] times (I - tau v v^T) makes a bulge; its first column is    \
         * reflected to (beta, 0, ...), the rest with it, then d as above. */                      \
        void (*next)(REAL * block, REAL *d, size_t ld, const REAL *v, REAL tau, REAL *u,           \
                     REAL *tau_u);                                                                 \
        /* w[i] *= q[i] / (poles[i] - pole), divide and conquer's weights (Gu & Eisenstat 1994) */ \
        void (*weigh)(REAL * w, const REAL *q, const REAL *poles, REAL pole, size_t n);            \
        /* x[i] = w[i] / q[i]; returns the sum of squares */                                       \
        double (*divide)(REAL * x, const REAL *w, const REAL *q, size_t n);                        \
        /* The root right of d[j] of 1 / rho + sum of z[i]^2 / (d[i] - x), d [k] ascending, k > 2, \
         * rho > 0: delta[i] = d[i] - root, each to full relative accuracy. false: not found. */   \
        bool (*root)(size_t k, size_t j, const REAL *d, const REAL *z, REAL rho, REAL *delta,      \
                     REAL *value);                                                                 \
        /* z [EIGEN_GROUP_ROWS, EIGEN_STRIP_BYTES] row-major = (I - V T V^T) z; group as stored,   \
         * next the one that comes next, fetched meanwhile */                                      \
        void (*apply)(REAL * z, const REAL *group, const REAL *next);                              \
        /* z [rows, strip] = (I - V T V^T) z for a panel V [rows, EIGEN_PANEL_COLUMNS] and t = -T  \
         * [EIGEN_PANEL_COLUMNS, EIGEN_PANEL_COLUMNS], row-major; rows a multiple of EIGEN_GROUP.  \
         * x and y are scratch [EIGEN_PANEL_COLUMNS, strip]. */                                    \
        void (*panel)(REAL * z, size_t rows, const REAL *v, const REAL *t, REAL *x, REAL *y);      \
    }
EIGEN_KERNELS_DECLARE(eigen_kernels_f32, float);
EIGEN_KERNELS_DECLARE(eigen_kernels_f64, double);

/* The best of this processor. */
const struct eigen_kernels_f32 *eigen_kernels_find_f32(void);
const struct eigen_kernels_f64 *eigen_kernels_find_f64(void);

#endif

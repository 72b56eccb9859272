#ifndef T2_SOLVER_SVD_GRID_INTERNAL_H
#define T2_SOLVER_SVD_GRID_INTERNAL_H
/* For svd_grid*.c: one decomposition on a grid and its steps. The symbols are those of
 * svd_grid_steps.c. */
#include "solver/grid.h"
#include "solver/svd_grid.h"

struct svd_grid_job {
    struct grid grid;
    struct grid_shape shape;
    const struct svd_source *source;
    const struct svd_options *options;
    bool wide;
    size_t m, r, batch; /* of X; rows of X in a batch */
    double scale;       /* X = scale * W */
    size_t n_rows_held; /* at least a block */
    float *rows;        /* [n_rows_held, source->n_columns] */
};

/* One attempt's result; the vectors are in the order of z's columns. */
struct svd_grid_outcome {
    struct grid_matrix z;  /* f64 [r, r], a column for each singular vector */
    double *sigma, *norms; /* [r] of X; |q_i| */
    double bound, orthogonality, residual;
    bool trustworthy; /* meets the contract */
};

/* All are collective over the grid and return 0, or -1 on all ranks with error_set. */

/* The largest element of scale * W, and the sum of the squares of all. */
int svd_grid_scan(const struct svd_grid_job *job, double scale, double *largest, double *sum);

/* The rows of X [m, r] from `first` on that x has. */
int svd_grid_fill(const struct svd_grid_job *job, size_t first, struct grid_matrix *x);

/* The lower triangle of c [r, r] = X^T X. */
int svd_grid_gram(const struct svd_grid_job *job, struct grid_matrix *c);

/* Fills o->norms, the quotients (o->sigma, but those of `gesvd` stay) and the checks from o->z. `u`
 * is the unit roundoff of the solve. */
int svd_grid_judge(const struct svd_grid_job *job, bool gesvd, double u,
                   struct svd_grid_outcome *o);

static inline size_t svd_grid_least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline void svd_grid_set(struct grid_matrix *x, size_t i, double value)
{
    if (x->f64)
        ((double *)x->data)[i] = value;
    else
        ((float *)x->data)[i] = (float)value;
}

#endif

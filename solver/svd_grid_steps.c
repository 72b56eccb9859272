/* X is W where it is tall and W^T where it is wide, [m, r] with m >= r, in both cases scaled by a
 * power of two to elements of at most 1. It is never held as a whole (but for p?gesvd): it is read
 * in batches of rows of X, once for the Gram matrix C = X^T X, once for the quotients.
 *
 * The second pass makes B = X Q^T, K = B^T B and O = Q Q^T (all on the grid). For exact
 * eigenvectors K would be diagonal and O the identity. The singular values of W are the square
 * roots of the eigenvalues of K - lambda O, and its couplings t_ij = K_ij - lambda_i O_ij say how
 * far they are from lambda_i = |b_i|^2 / |q_i|^2: a pair alone shifts lambda_i by t^2 / (d/2 +
 * sqrt(d^2/4 + t^2)),  d = |lambda_i - lambda_j|, t for equal values and t^2 / d for separate ones
 * (Parlett, The Symmetric Eigenvalue Problem, chapters 10 and 11). The bound is the sum over j,
 * with the factor 1/2 of the square root given away for the interplay of three and more, and what
 * rounding does to B: 2 u sigma_1 / sigma_i + (u |W|_F / sigma_i)^2 / 2, the part along b_i and the
 * part across, errors of single products taken as independent (Higham and Mary 2019). |t_i| is also
 * the norm of the residual W^T W q_i - lambda_i q_i.
 *
 * The precision asked for is that of the Gram matrix and its eigenvectors; what judges them is f64,
 * so that eigenvectors in f32 still give sigma_i up to the square of their errors. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/svd_grid_internal.h"

/* p?gesvd's errors are below this times u sqrt(r) sigma_1; measured: up to half of it. */
static const double gesvd_constant = 4;

/* ---- reading ---- */

/* Rank k of p reads every p-th run of rows. */
int svd_grid_scan(const struct svd_grid_job *job, double scale, double *largest, double *sum)
{
    const struct svd_source *s = job->source;
    const size_t block = job->n_rows_held, p = (size_t)job->grid.comm.size;
    int rc = 0;

    *largest = *sum = 0;
    for (size_t i = block * (size_t)job->grid.comm.rank; i < s->n_rows && !rc; i += block * p) {
        const size_t n = svd_grid_least(block, s->n_rows - i);
        rc = s->read(s->context, i, n, job->rows);
        for (size_t k = 0; k < n * s->n_columns && !rc; k++) {
            const double x = fabs((double)job->rows[k]) * scale;
            *largest = x > *largest ? x : *largest;
            *sum += x * x;
        }
    }
    if ((rc = comm_agree(&job->grid.comm, rc)))
        return rc;
    MPI_Allreduce(MPI_IN_PLACE, largest, 1, MPI_DOUBLE, MPI_MAX, job->grid.comm.handle);
    grid_sum(&job->grid, sum, 1);
    return 0;
}

/* Rows [first, first + x->n_rows) of X. Not collective. */
static int fill(const struct svd_grid_job *job, size_t first, struct grid_matrix *x)
{
    const struct grid *g = &job->grid;
    const struct svd_source *s = job->source;
    const size_t rows = x->local_rows, columns = x->local_columns, width = s->n_columns;
    const size_t n_read = job->wide ? columns : rows; /* W's rows in this rank's part */

    if (rows == 0 || columns == 0)
        return 0;
    for (size_t i = 0; i < n_read; i += (size_t)g->block) {
        const size_t n = svd_grid_least((size_t)g->block, n_read - i);
        const size_t at = job->wide ? grid_global(i, g->block, g->column, g->n_columns)
                                    : first + grid_global(i, g->block, g->row, g->n_rows);
        if (s->read(s->context, at, n, job->rows) != 0)
            return -1;
        if (job->wide) {
            for (size_t l = 0; l < rows; l += (size_t)g->block) {
                const size_t run = svd_grid_least((size_t)g->block, rows - l);
                const float *from = job->rows + first + grid_global(l, g->block, g->row, g->n_rows);
                for (size_t k = 0; k < n; k++)
                    for (size_t t = 0; t < run; t++)
                        svd_grid_set(x, (i + k) * rows + l + t,
                                     job->scale * (double)from[k * width + t]);
            }
        } else {
            for (size_t l = 0; l < columns; l++) {
                const size_t column = grid_global(l, g->block, g->column, g->n_columns);
                for (size_t k = 0; k < n; k++)
                    svd_grid_set(x, l * rows + i + k,
                                 job->scale * (double)job->rows[k * width + column]);
            }
        }
    }
    return 0;
}

int svd_grid_fill(const struct svd_grid_job *job, size_t first, struct grid_matrix *x)
{
    return comm_agree(&job->grid.comm, fill(job, first, x));
}

/* ---- the steps ---- */

int svd_grid_gram(const struct svd_grid_job *job, struct grid_matrix *c)
{
    struct grid_matrix x = {0};
    int rc =
        comm_agree(&job->grid.comm, grid_matrix_create(&x, &job->grid, job->batch, job->r, c->f64));

    for (size_t i = 0; i < job->m && !rc; i += job->batch) {
        struct grid_matrix part = grid_matrix_head(&x, svd_grid_least(job->batch, job->m - i));
        if (!(rc = svd_grid_fill(job, i, &part)))
            grid_gram(&part, i > 0, c);
    }
    grid_matrix_free(&x);
    return rc;
}

/* Adds the squares of the local elements to sums [n_columns]. */
static void add_squares(const struct grid_matrix *a, double *sums)
{
    const struct grid *g = a->grid;

    for (size_t j = 0; j < a->local_columns; j++) {
        double sum = 0;
        for (size_t i = 0; i < a->local_rows; i++) {
            const double x = grid_element(a, j * a->local_rows + i);
            sum += x * x;
        }
        sums[grid_global(j, g->block, g->column, g->n_columns)] += sum;
    }
}

/* squares[i] = |X z_i|^2, and the lower triangle of couplings = (X Z)^T X Z. */
static int make_couplings(const struct svd_grid_job *job, const struct grid_matrix *z,
                          double *squares, struct grid_matrix *couplings)
{
    struct grid_matrix x = {0}, b = {0};
    int rc = grid_matrix_create(&x, &job->grid, job->batch, job->r, true);

    if (!rc)
        rc = grid_matrix_create(&b, &job->grid, job->batch, job->r, true);
    rc = comm_agree(&job->grid.comm, rc);
    memset(squares, 0, job->r * sizeof *squares);
    for (size_t i = 0; i < job->m && !rc; i += job->batch) {
        const size_t n = svd_grid_least(job->batch, job->m - i);
        struct grid_matrix x_part = grid_matrix_head(&x, n), b_part = grid_matrix_head(&b, n);
        if (!(rc = svd_grid_fill(job, i, &x_part))) {
            grid_product(&x_part, z, &b_part);
            add_squares(&b_part, squares);
            grid_gram(&b_part, i > 0, couplings);
        }
    }
    if (!rc)
        grid_sum(&job->grid, squares, job->r);
    grid_matrix_free(&x);
    grid_matrix_free(&b);
    return rc;
}

/* What a pair of approximate eigenvalues at this distance is shifted by the coupling t. */
static double pair_shift(double distance, double t)
{
    const double half = fabs(distance) / 2, root = sqrt(half * half + t * t);
    return t == 0 ? 0 : t * t / (half + root);
}

/* shifts[i], residuals[i] (squared) and deviation (largest of |O - I|) from this rank's part of the
 * lower triangles. */
static void measure(const struct grid_matrix *couplings, const struct grid_matrix *products,
                    const double *lambda, double *shifts, double *residuals, double *deviation)
{
    const struct grid *g = couplings->grid;
    const size_t rows = couplings->local_rows;

    for (size_t l = 0; l < couplings->local_columns; l++) {
        const size_t j = grid_global(l, g->block, g->column, g->n_columns);
        for (size_t k = 0; k < rows; k++) {
            const size_t i = grid_global(k, g->block, g->row, g->n_rows);
            if (i < j)
                continue;
            const double coupling = grid_element(couplings, l * rows + k);
            const double product = grid_element(products, l * rows + k);
            const double off = fabs(product - (i == j));
            const double ti = coupling - lambda[i] * product, tj = coupling - lambda[j] * product;
            *deviation = off > *deviation || isnan(off) ? off : *deviation;
            if (i == j)
                continue;
            shifts[i] += pair_shift(lambda[i] - lambda[j], ti);
            shifts[j] += pair_shift(lambda[i] - lambda[j], tj);
            residuals[i] += ti * ti;
            residuals[j] += tj * tj;
        }
    }
}

int svd_grid_judge(const struct svd_grid_job *job, bool gesvd, double u, struct svd_grid_outcome *o)
{
    const size_t r = job->r;
    struct grid_matrix couplings = {0}, products = {0};
    double *v = calloc(4 * r, sizeof *v), deviation = 0, first = 0, frobenius = 0;
    double *squares = v, *lambda = v + r, *shifts = v + 2 * r, *residuals = v + 3 * r;
    int rc = v ? 0 : error_set("no memory for %zu singular values", r);

    if (!rc)
        rc = grid_matrix_create(&couplings, &job->grid, r, r, true);
    if ((rc = comm_agree(&job->grid.comm, rc)) ||
        (rc = make_couplings(job, &o->z, squares, &couplings)))
        goto done;
    rc = grid_matrix_create(&products, &job->grid, r, r, true);
    if ((rc = comm_agree(&job->grid.comm, rc)))
        goto done;
    grid_gram(&o->z, 0, &products);
    memset(o->norms, 0, r * sizeof *o->norms);
    add_squares(&o->z, o->norms);
    grid_sum(&job->grid, o->norms, r);
    for (size_t i = 0; i < r; i++) {
        frobenius += squares[i];
        const double quotient = o->norms[i] > 0 ? squares[i] / o->norms[i] : 0;
        o->norms[i] = sqrt(o->norms[i]);
        if (!gesvd)
            o->sigma[i] = sqrt(quotient);
        lambda[i] = gesvd ? o->sigma[i] * o->sigma[i] : quotient;
        first = o->sigma[i] > first ? o->sigma[i] : first;
    }
    measure(&couplings, &products, lambda, shifts, residuals, &deviation);
    grid_sum(&job->grid, shifts, 2 * r);
    MPI_Allreduce(MPI_IN_PLACE, &deviation, 1, MPI_DOUBLE, MPI_MAX, job->grid.comm.handle);

    o->orthogonality = deviation;
    o->residual = o->bound = 0;
    const double floor = first * (double)r * 0x1p-52;
    for (size_t i = 0; i < r; i++) {
        const double diagonal = squares[i] - lambda[i] * o->norms[i] * o->norms[i];
        const double residual = sqrt(residuals[i] + diagonal * diagonal) / (first * first);
        o->residual = residual > o->residual || isnan(residual) ? residual : o->residual;
        if (o->sigma[i] <= floor)
            continue;
        const double ratio = first / o->sigma[i], across = 0x1p-107 * frobenius / lambda[i];
        const double bound = gesvd ? gesvd_constant * sqrt((double)r) * u * ratio
                                   : shifts[i] / lambda[i] + 0x1p-52 * ratio + across;
        o->bound = bound > o->bound || isnan(bound) ? bound : o->bound;
    }
    const double limit = u > 0x1p-53 ? 2e-5 : 64 * u * sqrt((double)r); /* seen: a tenth */
    o->trustworthy = o->orthogonality <= limit && o->residual <= limit && first > 0;
done:
    grid_matrix_free(&couplings);
    grid_matrix_free(&products);
    free(v);
    return rc;
}

#include "solver/svd.h"

/* Gram matrix, eigenproblem (4/3 to tridiagonal, 4/3 divide and conquer, 2 back), quotients. */
double svd_flops(size_t n_rows, size_t n_columns)
{
    const double m = (double)(n_rows > n_columns ? n_rows : n_columns);
    const double r = (double)(n_rows > n_columns ? n_columns : n_rows);

    return m * r * r + 14.0 / 3 * r * r * r + 2 * m * r * r;
}

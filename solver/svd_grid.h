#ifndef T2_SOLVER_SVD_GRID_H
#define T2_SOLVER_SVD_GRID_H
/* The same decomposition on a block-cyclic grid of ranks, for a matrix whose work no node's memory
 * holds and for reference: ScaLAPACK's p?syevd or ELPA on the Gram matrix, or p?gesvd on W itself.
 * The same bits on repeated runs of one grid; singular values within 1e-7 relative between grids.
 */
#include <mpi.h>

#include "solver/svd.h"

/* Was t2 built with ELPA? */
bool svd_grid_has_elpa(void);

/* options->method is SCALAPACK, ELPA or GESVD; precision AUTO starts in f32 and goes on in f64 by
 * the bounds of svd.h. Collective over comm; every rank reads just the rows it needs. On rank 0 of
 * comm: sigma f64 [r], and rows of the factor handed to take() in order, `n` rows f32 [n, r] at a
 * time (rows are numbered from `first`), so that no rank holds all of a large factor. On the other
 * ranks both are NULL. report is the same on all. 0, or -1 on all ranks with error_set. */
int svd_grid_solve(MPI_Comm comm, const struct svd_source *source,
                   const struct svd_options *options, double *sigma,
                   int (*take)(void *context, size_t first, size_t n, const float *rows),
                   void *context, struct svd_report *report);

/* Bytes that one rank of a grid of n_ranks needs. */
size_t svd_grid_bytes(size_t n_rows, size_t n_columns, const struct svd_options *options,
                      int n_ranks);

#endif

#ifndef T2_SOLVER_GRID_H
#define T2_SOLVER_GRID_H
/* Matrices dealt block-cyclically to a grid of ranks, and the products and decompositions that
 * ScaLAPACK and ELPA make of them, in f32 or f64. Column-major, as those libraries want it. What a
 * matrix means is its user's business (svd_grid.c). The functions that all ranks of the grid must
 * call say so: "collective".
 *
 * Block-cyclic layout: Blackford et al., ScaLAPACK Users' Guide, section 4.3. */
#include <mpi.h>
#include <stdbool.h>
#include <stddef.h>

#include "mpi/comm.h"

struct grid {
    struct comm comm; /* the ranks of the grid, in row-major order */
    int n_rows, n_columns, row, column;
    int block;           /* rows and columns of a block */
    int context, handle; /* BLACS's */
};

/* The shape that suits n_ranks and an order-n problem: ranks that would have too little to do, or
 * leave a narrow grid, are not used. */
struct grid_shape {
    int n_rows, n_columns, block;
};
struct grid_shape grid_shape_for(size_t n, int n_ranks);

/* Collective over comm, which has shape.n_rows * shape.n_columns ranks and outlives the grid. */
int grid_open(struct grid *grid, MPI_Comm comm, struct grid_shape shape);
/* Collective. Accepts a zeroed struct. */
void grid_close(struct grid *grid);

struct grid_matrix {
    const struct grid *grid;
    size_t n_rows, n_columns, local_rows, local_columns;
    bool f64;
    void *data;        /* [local_columns][local_rows] */
    int descriptor[9]; /* ScaLAPACK's */
};

/* How many of n rows (columns) place `place` of `n_places` has. */
size_t grid_local_count(size_t n, int block, int place, int n_places);
/* The row (column) that is the place's i-th. */
static inline size_t grid_global(size_t i, int block, int place, int n_places)
{
    const size_t b = (size_t)block;
    return (i / b * (size_t)n_places + (size_t)place) * b + i % b;
}

/* Zeroed. Not collective: ranks may succeed and fail separately, so agree afterwards. */
int grid_matrix_create(struct grid_matrix *m, const struct grid *grid, size_t n_rows,
                       size_t n_columns, bool f64);
/* Accepts a zeroed struct. */
void grid_matrix_free(struct grid_matrix *m);
/* The first n_rows rows of the same memory, for the last batch of rows. */
struct grid_matrix grid_matrix_head(const struct grid_matrix *m, size_t n_rows);

static inline double grid_element(const struct grid_matrix *m, size_t i)
{
    return m->f64 ? ((const double *)m->data)[i] : (double)((const float *)m->data)[i];
}

/* Collective. c's lower triangle = a^T a + beta c. */
void grid_gram(const struct grid_matrix *a, double beta, struct grid_matrix *c);
/* Collective. c = a b. */
void grid_product(const struct grid_matrix *a, const struct grid_matrix *b, struct grid_matrix *c);
/* Collective. c = a^T. */
void grid_transpose(const struct grid_matrix *a, struct grid_matrix *c);

/* Sums x[n] over the grid's ranks; the same bits on all of them. Collective. */
void grid_sum(const struct grid *grid, double *x, size_t n);

/* Collective: 0, or GRID_UNSOLVED on all where it is not 0 on one, with that rank's message. */
int grid_agree_solved(const struct grid *grid, int status);

/* The symmetric eigenproblem of the lower triangle of c (destroyed): ascending values [n], columns
 * of z the vectors. Collective. 0; -1 on all with error_set; GRID_UNSOLVED on all, with error_set
 * too, where the library gave up on this matrix and another may succeed. */
enum { GRID_UNSOLVED = 1 };
enum grid_eigen { GRID_SYEVD, GRID_SYEVR, GRID_ELPA_1STAGE, GRID_ELPA_2STAGE };
int grid_eigen_solve(enum grid_eigen solver, struct grid_matrix *c, struct grid_matrix *z,
                     double *values);

/* Singular values of a [m, n], m >= n (destroyed), descending, and vt [n, n]. Collective; returns
 * as grid_eigen_solve. */
int grid_gesvd(struct grid_matrix *a, double *values, struct grid_matrix *vt);

/* Bytes of work that a rank needs beside the matrices, at most, from the libraries' manuals. */
size_t grid_eigen_bytes(enum grid_eigen solver, size_t n, bool f64, struct grid_shape shape);
size_t grid_gesvd_bytes(size_t m, size_t n, bool f64, struct grid_shape shape);

/* grid_elpa.c. Was t2 built with ELPA; does that ELPA have f32 (Debian's does not)? */
bool grid_elpa_built(void);
bool grid_elpa_has_f32(void);
int grid_elpa_solve(int stages, struct grid_matrix *c, struct grid_matrix *z, double *values);

#endif

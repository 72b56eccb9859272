/* BLACS, PBLAS and ScaLAPACK behind grid.h. Their Fortran symbols are declared here: Debian ships
 * no header. Sizes are 32-bit integers there, so a local part is held to what they can count. */
#include "solver/grid.h"

#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/eigen.h"

int Csys2blacs_handle(MPI_Comm comm);
void Cfree_blacs_system_handle(int handle);
void Cblacs_gridinit(int *context, const char *order, int rows, int columns);
void Cblacs_gridexit(int context);
void Cblacs_set(int context, int what, const int *value);

#define MATRIX(type) type *, const int *, const int *, const int *
#define CONST_MATRIX(type) const type *, const int *, const int *, const int *
#define DECLARE(p, type)                                                                           \
    void p##syrk_(const char *, const char *, const int *, const int *, const type *,              \
                  CONST_MATRIX(type), const type *, MATRIX(type));                                 \
    void p##gemm_(const char *, const char *, const int *, const int *, const int *, const type *, \
                  CONST_MATRIX(type), CONST_MATRIX(type), const type *, MATRIX(type));             \
    void p##tran_(const int *, const int *, const type *, CONST_MATRIX(type), const type *,        \
                  MATRIX(type));                                                                   \
    void p##syevd_(const char *, const char *, const int *, MATRIX(type), type *, MATRIX(type),    \
                   type *, const int *, int *, const int *, int *);                                \
    void p##syevr_(const char *, const char *, const char *, const int *, MATRIX(type),            \
                   const type *, const type *, const int *, const int *, int *, int *, type *,     \
                   MATRIX(type), type *, const int *, int *, const int *, int *);                  \
    void p##gesvd_(const char *, const char *, const int *, const int *, MATRIX(type), type *,     \
                   MATRIX(type), MATRIX(type), type *, const int *, int *);
DECLARE(ps, float)
DECLARE(pd, double)

static const int one = 1;

/* OpenBLAS 0.3.21's ssymv, which p?syevd's reduction calls in f32, reads some elements past the
 * ends of its arguments (and uses none of them). So what is allocated here has some to spare. The
 * vectors that PBLAS allocates itself are out of reach: there the reads end in whatever malloc has
 * next to them, nearly always mapped; docs/decompose.md. */
enum { READ_PAST = 256 };

/* ---- the grid ---- */

enum { MAX_BLOCK = 64, MIN_ROWS_OF_RANK = 16, TOPOLOGY_REPEATABLE = 15 };

struct grid_shape grid_shape_for(size_t n, int n_ranks)
{
    const size_t useful = n / MIN_ROWS_OF_RANK;
    int ranks = useful < (size_t)n_ranks ? (int)useful : n_ranks;
    struct grid_shape shape = {1, 1, 1};

    /* Nearly square; a number like 7 gives up one rank for a better grid. */
    for (ranks = ranks < 1 ? 1 : ranks;; ranks--) {
        int columns = (int)sqrt((double)ranks);
        while (ranks % columns)
            columns--;
        shape.n_rows = ranks / columns;
        shape.n_columns = columns;
        if (ranks <= 4 || shape.n_rows <= 4 * shape.n_columns)
            break;
    }
    const size_t block = n / (size_t)shape.n_rows; /* every rank has a block: ELPA wants it */
    shape.block = block > MAX_BLOCK ? MAX_BLOCK : block < 1 ? 1 : (int)block;
    return shape;
}

int grid_open(struct grid *grid, MPI_Comm comm, struct grid_shape shape)
{
    memset(grid, 0, sizeof *grid);
    grid->comm.handle = comm;
    MPI_Comm_rank(comm, &grid->comm.rank);
    MPI_Comm_size(comm, &grid->comm.size);
    grid->n_rows = shape.n_rows;
    grid->n_columns = shape.n_columns;
    grid->block = shape.block;
    grid->row = grid->comm.rank / shape.n_columns;
    grid->column = grid->comm.rank % shape.n_columns;
    blas_single_thread(); /* a rank is one thread */
    grid->handle = Csys2blacs_handle(comm);
    grid->context = grid->handle;
    Cblacs_gridinit(&grid->context, "Row", shape.n_rows, shape.n_columns);
    if (grid->context < 0)
        return error_set("BLACS could not make a grid of %d x %d ranks", shape.n_rows,
                         shape.n_columns);
    Cblacs_set(grid->context, TOPOLOGY_REPEATABLE, &one);
    return 0;
}

void grid_close(struct grid *grid)
{
    if (grid->comm.size) {
        if (grid->context >= 0)
            Cblacs_gridexit(grid->context);
        Cfree_blacs_system_handle(grid->handle);
    }
    memset(grid, 0, sizeof *grid);
}

/* ---- matrices ---- */

size_t grid_local_count(size_t n, int block, int place, int n_places)
{
    const size_t b = (size_t)block, all = n / b, p = (size_t)n_places;
    const size_t extra = all % p;

    return all / p * b + ((size_t)place < extra ? b : (size_t)place == extra ? n % b : 0);
}

static void describe(struct grid_matrix *m)
{
    const struct grid *g = m->grid;
    const int d[9] = {1, g->context, (int)m->n_rows,  (int)m->n_columns, g->block, g->block,
                      0, 0,          m->descriptor[8]};
    memcpy(m->descriptor, d, sizeof d);
}

int grid_matrix_create(struct grid_matrix *m, const struct grid *grid, size_t n_rows,
                       size_t n_columns, bool f64)
{
    memset(m, 0, sizeof *m);
    m->grid = grid;
    m->n_rows = n_rows;
    m->n_columns = n_columns;
    m->f64 = f64;
    m->local_rows = grid_local_count(n_rows, grid->block, grid->row, grid->n_rows);
    m->local_columns = grid_local_count(n_columns, grid->block, grid->column, grid->n_columns);
    size_t n;
    if (n_rows > INT_MAX || n_columns > INT_MAX ||
        __builtin_mul_overflow(m->local_rows + 1, m->local_columns + 1, &n) || n > INT_MAX / 4)
        return error_set("a matrix [%zu, %zu] is too large for a grid of %d x %d ranks: "
                         "ScaLAPACK counts in 32 bits; use more ranks",
                         n_rows, n_columns, grid->n_rows, grid->n_columns);
    m->descriptor[8] = m->local_rows ? (int)m->local_rows : 1;
    describe(m);
    m->data = calloc(n + READ_PAST, f64 ? 8 : 4);
    if (!m->data)
        return error_set("no memory for this rank's %zu bytes of a matrix [%zu, %zu]",
                         n * (f64 ? 8 : 4), n_rows, n_columns);
    return 0;
}

void grid_matrix_free(struct grid_matrix *m)
{
    free(m->data);
    memset(m, 0, sizeof *m);
}

struct grid_matrix grid_matrix_head(const struct grid_matrix *m, size_t n_rows)
{
    struct grid_matrix head = *m;

    head.n_rows = n_rows;
    head.local_rows = grid_local_count(n_rows, m->grid->block, m->grid->row, m->grid->n_rows);
    describe(&head);
    return head;
}

/* ---- products ---- */

void grid_gram(const struct grid_matrix *a, double beta, struct grid_matrix *c)
{
    const int n = (int)a->n_columns, k = (int)a->n_rows;
    const float s_one = 1, s_beta = (float)beta;
    const double d_one = 1;

    if (a->f64)
        pdsyrk_("L", "T", &n, &k, &d_one, a->data, &one, &one, a->descriptor, &beta, c->data, &one,
                &one, c->descriptor);
    else
        pssyrk_("L", "T", &n, &k, &s_one, a->data, &one, &one, a->descriptor, &s_beta, c->data,
                &one, &one, c->descriptor);
}

void grid_product(const struct grid_matrix *a, const struct grid_matrix *b, struct grid_matrix *c)
{
    const int m = (int)a->n_rows, n = (int)b->n_columns, k = (int)a->n_columns;
    const float s_one = 1, s_zero = 0;
    const double d_one = 1, d_zero = 0;

    if (a->f64)
        pdgemm_("N", "N", &m, &n, &k, &d_one, a->data, &one, &one, a->descriptor, b->data, &one,
                &one, b->descriptor, &d_zero, c->data, &one, &one, c->descriptor);
    else
        psgemm_("N", "N", &m, &n, &k, &s_one, a->data, &one, &one, a->descriptor, b->data, &one,
                &one, b->descriptor, &s_zero, c->data, &one, &one, c->descriptor);
}

void grid_transpose(const struct grid_matrix *a, struct grid_matrix *c)
{
    const int m = (int)c->n_rows, n = (int)c->n_columns;
    const float s_one = 1, s_zero = 0;
    const double d_one = 1, d_zero = 0;

    if (a->f64)
        pdtran_(&m, &n, &d_one, a->data, &one, &one, a->descriptor, &d_zero, c->data, &one, &one,
                c->descriptor);
    else
        pstran_(&m, &n, &s_one, a->data, &one, &one, a->descriptor, &s_zero, c->data, &one, &one,
                c->descriptor);
}

void grid_sum(const struct grid *grid, double *x, size_t n)
{
    /* One rank adds and tells the others, so that all have the same bits. */
    for (size_t i = 0; i < n; i += 1 << 20) {
        const int part = (int)(n - i < 1 << 20 ? n - i : 1 << 20);
        MPI_Reduce(grid->comm.rank ? (void *)(x + i) : MPI_IN_PLACE, x + i, part, MPI_DOUBLE,
                   MPI_SUM, 0, grid->comm.handle);
        MPI_Bcast(x + i, part, MPI_DOUBLE, 0, grid->comm.handle);
    }
}

/* ---- decompositions ---- */

int grid_agree_solved(const struct grid *grid, int status)
{
    return comm_agree(&grid->comm, status) ? GRID_UNSOLVED : 0;
}

static size_t largest(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* p?syevd and p?syevr's LWORK and LIWORK as their manuals have them, for the fullest rank. */
static size_t eigen_work(enum grid_eigen solver, size_t n, struct grid_shape s, size_t *integers)
{
    const size_t nb = (size_t)s.block, p = (size_t)(s.n_rows * s.n_columns);
    const size_t np = grid_local_count(n, s.block, 0, s.n_rows);
    const size_t nq = grid_local_count(n, s.block, 0, s.n_columns);

    if (solver == GRID_SYEVD) {
        const size_t reduce = 3 * n + largest(nb * (np + 1), 3 * nb);
        const size_t back = (np + nq + nb) * nb; /* p?ormtr's, which p?syevd's query forgets */
        *integers = 7 * n + 8 * (size_t)s.n_columns + 2;
        return largest(1 + 6 * n + 2 * np * nq, reduce) + 2 * n + back;
    }
    const size_t nn = largest(n, largest(nb, 2));
    *integers = 12 * largest(n, largest(p + 1, 4)) + 2 * n;
    return 2 + 5 * n + largest(18 * nn, np * nq + 2 * nb * nb) + (2 + (n + p - 1) / p) * nn;
}

/* p?gesvd's, for jobu = N and jobvt = V, m >= n. */
static size_t gesvd_work(size_t m, size_t n, struct grid_shape s)
{
    const size_t nb = (size_t)s.block, p = (size_t)(s.n_rows * s.n_columns);
    const size_t mp = grid_local_count(m, s.block, 0, s.n_rows) + nb;
    const size_t nq = grid_local_count(n, s.block, 0, s.n_columns) + nb;
    const size_t np = grid_local_count(n, s.block, 0, s.n_rows) + nb;
    const size_t bidiagonal = nb * (mp + nq + 1) + nq + mp;
    const size_t vectors = n * (n / p + 2) + largest(4 * n, nb * nb + (np + nq + nb) * nb);

    return 1 + 6 * m + largest(bidiagonal, vectors);
}

size_t grid_eigen_bytes(enum grid_eigen solver, size_t n, bool f64, struct grid_shape shape)
{
    const size_t size = f64 ? 8 : 4;
    if (solver == GRID_ELPA_1STAGE || solver == GRID_ELPA_2STAGE) {
        /* Its manual has no numbers: divide and conquer holds two matrices, the reductions panels.
         */
        const size_t np = grid_local_count(n, shape.block, 0, shape.n_rows);
        const size_t nq = grid_local_count(n, shape.block, 0, shape.n_columns);
        return size * (2 * np * nq + 16 * n + 4 * (size_t)shape.block * (np + nq));
    }
    size_t integers;
    const size_t n_work = eigen_work(solver, n, shape, &integers);
    return size * (n_work + n) + sizeof(int) * integers;
}

size_t grid_gesvd_bytes(size_t m, size_t n, bool f64, struct grid_shape shape)
{
    return (f64 ? 8 : 4) * (gesvd_work(m, n, shape) + n);
}

/* A size that a library returned in an element of type f32 may have been rounded down. */
static size_t asked_for(const void *work, bool f64)
{
    const double n = f64 ? *(const double *)work : *(const float *)work * (1 + 0x1p-22);
    return n > 0 ? (size_t)n + 1 : 1;
}

struct work {
    void *elements, *values;
    int *integers;
    int n_elements, n_integers;
};

static int work_create(const struct grid *grid, struct work *w, size_t n_elements,
                       size_t n_integers, size_t n_values, bool f64)
{
    const size_t size = f64 ? 8 : 4;
    int rc = 0;

    if (n_elements > INT_MAX || n_integers > INT_MAX) {
        rc = error_set("ScaLAPACK's work of %zu elements on one rank is more than it can count; "
                       "use more ranks",
                       n_elements);
    } else {
        free(w->elements);
        free(w->integers);
        w->n_elements = (int)n_elements;
        w->n_integers = (int)n_integers;
        w->elements = calloc(n_elements + READ_PAST, size);
        w->integers = calloc(n_integers + 1, sizeof(int));
        if (!w->values)
            w->values = calloc(n_values + READ_PAST, size);
        if (!w->elements || !w->integers || !w->values)
            rc = error_set("no memory for ScaLAPACK's work of %zu bytes on one rank",
                           size * n_elements);
    }
    return comm_agree(&grid->comm, rc);
}

static void work_free(struct work *w)
{
    free(w->elements);
    free(w->integers);
    free(w->values);
}

static void take_values(const struct work *w, bool f64, size_t n, double *values)
{
    for (size_t i = 0; i < n; i++)
        values[i] = f64 ? ((const double *)w->values)[i] : (double)((const float *)w->values)[i];
}

static void call_eigen(enum grid_eigen solver, struct grid_matrix *c, struct grid_matrix *z,
                       struct work *w, int n_elements, int n_integers, int *found, int *info)
{
    const int n = (int)c->n_rows;
    const float s_unused = 0;
    const double d_unused = 0;
    int n_vectors = n;

    *found = n;
    if (solver == GRID_SYEVD && c->f64)
        pdsyevd_("V", "L", &n, c->data, &one, &one, c->descriptor, w->values, z->data, &one, &one,
                 z->descriptor, w->elements, &n_elements, w->integers, &n_integers, info);
    else if (solver == GRID_SYEVD)
        pssyevd_("V", "L", &n, c->data, &one, &one, c->descriptor, w->values, z->data, &one, &one,
                 z->descriptor, w->elements, &n_elements, w->integers, &n_integers, info);
    else if (c->f64)
        pdsyevr_("V", "A", "L", &n, c->data, &one, &one, c->descriptor, &d_unused, &d_unused, &one,
                 &n, found, &n_vectors, w->values, z->data, &one, &one, z->descriptor, w->elements,
                 &n_elements, w->integers, &n_integers, info);
    else
        pssyevr_("V", "A", "L", &n, c->data, &one, &one, c->descriptor, &s_unused, &s_unused, &one,
                 &n, found, &n_vectors, w->values, z->data, &one, &one, z->descriptor, w->elements,
                 &n_elements, w->integers, &n_integers, info);
}

int grid_eigen_solve(enum grid_eigen solver, struct grid_matrix *c, struct grid_matrix *z,
                     double *values)
{
    if (solver == GRID_ELPA_1STAGE || solver == GRID_ELPA_2STAGE)
        return grid_elpa_solve(solver == GRID_ELPA_1STAGE ? 1 : 2, c, z, values);

    const struct grid *g = c->grid;
    const struct grid_shape shape = {g->n_rows, g->n_columns, g->block};
    const char *name = solver == GRID_SYEVD ? "syevd" : "syevr";
    const size_t n = c->n_rows;
    struct work w = {0};
    int info = 0, found, rc;

    if ((rc = work_create(g, &w, 16, 16, n, c->f64)))
        goto done;
    call_eigen(solver, c, z, &w, -1, -1, &found, &info);
    size_t n_integers, n_elements = eigen_work(solver, n, shape, &n_integers);
    n_elements = largest(n_elements, asked_for(w.elements, c->f64));
    n_integers = largest(n_integers, (size_t)w.integers[0]);
    if ((rc = work_create(g, &w, n_elements, n_integers, n, c->f64)))
        goto done;
    call_eigen(solver, c, z, &w, w.n_elements, w.n_integers, &found, &info);
    if (info || found != (int)n)
        rc = error_set("ScaLAPACK's p%c%s failed on a matrix of order %zu (info %d)",
                       c->f64 ? 'd' : 's', name, n, info);
    take_values(&w, c->f64, n, values);
    rc = grid_agree_solved(g, rc);
done:
    work_free(&w);
    return rc;
}

static void call_gesvd(struct grid_matrix *a, struct grid_matrix *vt, struct work *w,
                       int n_elements, int *info)
{
    const int m = (int)a->n_rows, n = (int)a->n_columns;

    if (a->f64)
        pdgesvd_("N", "V", &m, &n, a->data, &one, &one, a->descriptor, w->values, a->data, &one,
                 &one, a->descriptor, vt->data, &one, &one, vt->descriptor, w->elements,
                 &n_elements, info);
    else
        psgesvd_("N", "V", &m, &n, a->data, &one, &one, a->descriptor, w->values, a->data, &one,
                 &one, a->descriptor, vt->data, &one, &one, vt->descriptor, w->elements,
                 &n_elements, info);
}

int grid_gesvd(struct grid_matrix *a, double *values, struct grid_matrix *vt)
{
    const struct grid *g = a->grid;
    const struct grid_shape shape = {g->n_rows, g->n_columns, g->block};
    const size_t m = a->n_rows, n = a->n_columns;
    struct work w = {0};
    int info = 0, rc;

    if ((rc = work_create(g, &w, 16, 1, n, a->f64)))
        goto done;
    call_gesvd(a, vt, &w, -1, &info);
    const size_t n_work = largest(gesvd_work(m, n, shape), asked_for(w.elements, a->f64));
    if ((rc = work_create(g, &w, n_work, 1, n, a->f64)))
        goto done;
    call_gesvd(a, vt, &w, w.n_elements, &info);
    if (info)
        rc = error_set("ScaLAPACK's p%cgesvd failed on a matrix [%zu, %zu] (info %d)",
                       a->f64 ? 'd' : 's', m, n, info);
    take_values(&w, a->f64, n, values);
    rc = grid_agree_solved(g, rc);
done:
    work_free(&w);
    return rc;
}

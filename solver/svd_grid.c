/* Which steps a matrix goes through and in what precision, and the handing out of its factor; the
 * steps themselves, with their mathematics, are in svd_grid_steps.c. */
#include "solver/svd_grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/svd_grid_internal.h"

enum { BATCH_ELEMENTS = 1 << 20 }; /* of a batch of X, at least this for each rank */

bool svd_grid_has_elpa(void)
{
    return grid_elpa_built();
}

static size_t batch_rows(size_t m, size_t r, struct grid_shape shape)
{
    const size_t p = (size_t)(shape.n_rows * shape.n_columns);
    const size_t step = (size_t)(shape.n_rows * shape.block);
    size_t rows = p * BATCH_ELEMENTS / r;

    rows = rows > r ? rows : r;
    return svd_grid_least(m, (rows + step - 1) / step * step);
}

/* Rows of W read at a time. */
static size_t rows_held(size_t n_columns, struct grid_shape shape)
{
    const size_t block = (size_t)shape.block, some = 4096 / n_columns;
    return block > some ? block : some;
}

/* Eigenvectors of the Gram matrix into z; c [r, r] is scratch. ELPA in one stage: on generic
 * kernels (Debian's) the second does not pay on few ranks. */
static int solve_gram(const struct svd_grid_job *job, enum svd_method method, struct grid_matrix *c,
                      struct grid_matrix *z, double *values)
{
    const enum grid_eigen solvers[2] = {
        method == SVD_ELPA ? GRID_ELPA_1STAGE : GRID_SYEVD,
        method == SVD_ELPA ? GRID_ELPA_2STAGE : GRID_SYEVR,
    };
    /* ScaLAPACK 2.2.1's pssyevr on OpenBLAS 0.3.21's SkylakeX kernels was seen to be 2 % off. */
    const int n = method == SVD_ELPA || c->f64 ? 2 : 1;
    int rc = GRID_UNSOLVED;

    for (int k = 0; k < n && rc == GRID_UNSOLVED; k++) {
        if ((rc = svd_grid_gram(job, c)))
            return rc;
        rc = grid_eigen_solve(solvers[k], c, z, values);
    }
    return rc;
}

static int solve_gesvd(const struct svd_grid_job *job, struct grid_matrix *vt,
                       struct grid_matrix *z, double *sigma)
{
    struct grid_matrix x = {0};
    int rc = grid_matrix_create(&x, &job->grid, job->m, job->r, z->f64);

    if (!(rc = comm_agree(&job->grid.comm, rc)) && !(rc = svd_grid_fill(job, 0, &x)) &&
        !(rc = grid_gesvd(&x, sigma, vt)))
        grid_transpose(vt, z);
    grid_matrix_free(&x);
    return rc;
}

/* z as f64; with norms, each column divided by its norm and rounded to f32. */
static int widen(const struct grid_matrix *z, const double *norms, struct grid_matrix *wide)
{
    const struct grid *g = z->grid;
    const size_t rows = z->local_rows;
    int rc = grid_matrix_create(wide, g, z->n_rows, z->n_columns, true);

    if ((rc = comm_agree(&g->comm, rc)))
        return rc;
    for (size_t j = 0; j < z->local_columns; j++) {
        const size_t column = grid_global(j, g->block, g->column, g->n_columns);
        for (size_t i = 0; i < rows; i++) {
            const double x = grid_element(z, j * rows + i);
            svd_grid_set(wide, j * rows + i, norms ? (float)(x / norms[column]) : x);
        }
    }
    return 0;
}

static int outcome_create(struct svd_grid_outcome *o, size_t r)
{
    o->sigma = calloc(r, sizeof *o->sigma);
    o->norms = calloc(r, sizeof *o->norms);
    return o->sigma && o->norms ? 0 : error_set("no memory for %zu singular values", r);
}

static void outcome_free(struct svd_grid_outcome *o)
{
    grid_matrix_free(&o->z);
    free(o->sigma);
    free(o->norms);
    memset(o, 0, sizeof *o);
}

/* 0, -1, or GRID_UNSOLVED. *o is what is left by the attempt, to be freed. */
static int attempt(const struct svd_grid_job *job, enum svd_method method, bool f64,
                   struct svd_grid_outcome *o)
{
    const bool gesvd = method == SVD_GESVD;
    struct grid_matrix c = {0}, z = {0};
    int rc = outcome_create(o, job->r);

    if (!rc)
        rc = grid_matrix_create(&z, &job->grid, job->r, job->r, f64);
    if (!rc)
        rc = grid_matrix_create(&c, &job->grid, job->r, job->r, f64);
    if ((rc = comm_agree(&job->grid.comm, rc)))
        goto done;
    rc = gesvd ? solve_gesvd(job, &c, &z, o->sigma) : solve_gram(job, method, &c, &z, o->sigma);
    grid_matrix_free(&c);
    if (rc)
        goto done;
    if (f64) {
        o->z = z;
        z.data = NULL;
    } else if ((rc = widen(&z, NULL, &o->z))) {
        goto done;
    }
    grid_matrix_free(&z);
    rc = svd_grid_judge(job, gesvd, f64 ? 0x1p-53 : 0x1p-24, o);
done:
    grid_matrix_free(&c);
    grid_matrix_free(&z);
    return rc;
}

/* Steps down the list until one meets the tolerance and the contract. */
static int solve(const struct svd_grid_job *job, struct svd_grid_outcome *o,
                 struct svd_report *report)
{
    const struct svd_options *options = job->options;
    const enum svd_method method = options->method;
    const bool automatic = options->precision == SVD_PRECISION_AUTO;
    const bool has_f32 = method != SVD_ELPA || grid_elpa_has_f32();
    struct {
        enum svd_method method;
        bool f64;
    } steps[3];
    int n = 0, rc = 0;

    if (options->precision == SVD_F32 && !has_f32)
        return error_set("this ELPA was built without f32; use precision f64 or auto, or the "
                         "method scalapack");
    if (options->precision == SVD_F32 || (automatic && has_f32))
        steps[n].method = method, steps[n++].f64 = false;
    if (options->precision != SVD_F32)
        steps[n].method = method, steps[n++].f64 = true;
    if (method != SVD_GESVD || !steps[n - 1].f64)
        steps[n].method = SVD_GESVD, steps[n++].f64 = true;
    const int n_asked = automatic ? n : 1; /* steps past it are repairs */

    for (int k = 0; k < n; k++) {
        outcome_free(o);
        rc = attempt(job, steps[k].method, steps[k].f64, o);
        if (rc < 0)
            return rc;
        report->method = steps[k].method;
        report->precision = steps[k].f64 ? SVD_F64 : SVD_F32;
        report->repair = k < n_asked ? SVD_REPAIR_NONE : SVD_REPAIR_GESVD;
        if (rc == 0 && o->trustworthy && (k >= n_asked - 1 || o->bound <= options->tolerance))
            break;
        if (k == n - 1)
            return rc ? -1
                      : error_set("%s: p?gesvd does not meet the contract: orthogonality %g, "
                                  "residual %g",
                                  job->source->name, o->orthogonality, o->residual);
        if (automatic) {
            report->tried_f32 |= !steps[k].f64;
            report->tried_f64 |= steps[k].f64;
        }
    }
    /* The factor is handed out in f32: half a unit in the last place for each vector of a pair. */
    const double rounding = report->precision == SVD_F64 ? 0x1p-24 : 0;
    report->bound = o->bound;
    report->orthogonality = o->orthogonality + rounding;
    report->residual = o->residual + rounding;
    return 0;
}

/* The factor as it is handed out, rounded to f32. */
static int check_in_full(const struct svd_grid_job *job, const struct svd_grid_outcome *o,
                         struct svd_report *report)
{
    struct svd_grid_outcome rounded = {0};
    int rc = comm_agree(&job->grid.comm, outcome_create(&rounded, job->r));

    if (rc || (rc = widen(&o->z, o->norms, &rounded.z)))
        goto done;
    memcpy(rounded.sigma, o->sigma, job->r * sizeof *o->sigma);
    if ((rc = svd_grid_judge(job, true, 0x1p-24, &rounded)))
        goto done;
    report->checked_in_full = true;
    report->orthogonality = rounded.orthogonality;
    report->residual = rounded.residual;
    if (!rounded.trustworthy)
        rc = error_set("%s: the factor does not meet the contract: orthogonality %g, residual %g",
                       job->source->name, rounded.orthogonality, rounded.residual);
done:
    outcome_free(&rounded);
    return rc;
}

/* ---- handing out ---- */

struct place {
    double sigma;
    size_t column;
};

static int by_sigma(const void *a, const void *b)
{
    const struct place *x = a, *y = b;

    if (x->sigma != y->sigma)
        return x->sigma < y->sigma ? 1 : -1;
    return x->column < y->column ? -1 : x->column > y->column;
}

typedef int take_rows(void *context, size_t first, size_t n, const float *rows);

static size_t chunk_rows(size_t r)
{
    const size_t n = ((size_t)1 << 20) / r;
    return svd_grid_least(r, n < 16 ? 16 : n > 1024 ? 1024 : n);
}

/* Rows [first, first + n) of the factor, on rank 0. packed and received hold [n, r]. */
static void gather_rows(const struct svd_grid_job *job, const struct svd_grid_outcome *o,
                        const struct place *order, size_t n, int *counts, float *packed,
                        float *received, float *rows)
{
    const struct grid *g = &job->grid;
    const int size = g->comm.size;
    int *offsets = counts + size;
    size_t n_packed = 0;

    for (size_t i = 0; i < n; i++) {
        const size_t block = order[i].column / (size_t)g->block;
        if (block % (size_t)g->n_columns != (size_t)g->column)
            continue;
        const size_t l =
            block / (size_t)g->n_columns * (size_t)g->block + order[i].column % (size_t)g->block;
        for (size_t k = 0; k < o->z.local_rows; k++)
            packed[n_packed++] =
                (float)(grid_element(&o->z, l * o->z.local_rows + k) / o->norms[order[i].column]);
    }
    for (int k = 0, at = 0; k < size; at += counts[k++]) {
        int n_held = 0;
        for (size_t i = 0; i < n; i++)
            n_held += (int)(order[i].column / (size_t)g->block % (size_t)g->n_columns) ==
                      k % g->n_columns;
        counts[k] = n_held * (int)grid_local_count(job->r, g->block, k / g->n_columns, g->n_rows);
        offsets[k] = at;
    }
    MPI_Gatherv(packed, (int)n_packed, MPI_FLOAT, received, counts, offsets, MPI_FLOAT, 0,
                g->comm.handle);
    if (g->comm.rank)
        return;
    for (int k = 0; k < size; k++) {
        const float *next = received + offsets[k];
        const size_t n_local = grid_local_count(job->r, g->block, k / g->n_columns, g->n_rows);
        for (size_t i = 0; i < n; i++)
            if ((int)(order[i].column / (size_t)g->block % (size_t)g->n_columns) ==
                k % g->n_columns)
                for (size_t l = 0; l < n_local; l++)
                    rows[i * job->r + grid_global(l, g->block, k / g->n_columns, g->n_rows)] =
                        *next++;
    }
}

static int hand_out(const struct svd_grid_job *job, const struct svd_grid_outcome *o, double *sigma,
                    take_rows *take, void *context)
{
    const size_t r = job->r, chunk = chunk_rows(r);
    const bool root = job->grid.comm.rank == 0;
    struct place *order = malloc(r * sizeof *order);
    int *counts = malloc(2 * (size_t)job->grid.comm.size * sizeof *counts);
    float *packed = malloc(chunk * r * sizeof *packed);
    float *received = malloc((root ? chunk * r : 1) * sizeof *received);
    float *rows = malloc((root ? chunk * r : 1) * sizeof *rows);
    int rc = order && counts && packed && received && rows
                 ? 0
                 : error_set("no memory for %zu rows of the factor", chunk);

    if ((rc = comm_agree(&job->grid.comm, rc)))
        goto done;
    for (size_t i = 0; i < r; i++)
        order[i] = (struct place){o->sigma[i], i};
    qsort(order, r, sizeof *order, by_sigma);
    for (size_t i = 0; i < r && root; i++)
        sigma[i] = order[i].sigma / job->scale;
    for (size_t i = 0; i < r && !rc; i += chunk) {
        const size_t n = svd_grid_least(chunk, r - i);
        gather_rows(job, o, order + i, n, counts, packed, received, rows);
        rc = comm_agree(&job->grid.comm, root ? take(context, i, n, rows) : 0);
    }
done:
    free(order);
    free(counts);
    free(packed);
    free(received);
    free(rows);
    return rc;
}

/* Zero matrices, and those of one row or column: the factor is the identity. */
static int hand_out_identity(const struct svd_grid_job *job, double norm, double *sigma,
                             take_rows *take, void *context)
{
    int rc = 0;

    if (job->grid.comm.rank == 0) {
        float *row = calloc(job->r, sizeof *row);
        if (!row)
            rc = error_set("no memory for a row of the factor");
        for (size_t i = 0; i < job->r && !rc; i++) {
            sigma[i] = norm;
            row[i] = 1;
            rc = take(context, i, 1, row);
            row[i] = 0;
        }
        free(row);
    }
    return comm_agree(&job->grid.comm, rc);
}

/* ---- the whole ---- */

/* By the ranks of the grid. */
static int decompose(struct svd_grid_job *job, double *sigma, take_rows *take, void *context,
                     struct svd_report *report)
{
    const struct svd_source *s = job->source;
    struct svd_grid_outcome o = {0};
    double largest, sum;
    int exponent = 0;
    int rc = 0;

    job->n_rows_held = rows_held(s->n_columns, job->shape);
    job->rows = malloc(job->n_rows_held * s->n_columns * sizeof *job->rows);
    if (!job->rows)
        rc = error_set("no memory for %zu rows of %s", job->n_rows_held, s->name);
    if ((rc = comm_agree(&job->grid.comm, rc)) || (rc = svd_grid_scan(job, 1, &largest, &sum)))
        goto done;
    frexp(largest, &exponent);
    job->scale = largest > 0 ? ldexp(1, -exponent) : 1;
    if (largest == 0 || job->r == 1) {
        if ((rc = svd_grid_scan(job, job->scale, &largest, &sum)))
            goto done;
        report->precision =
            job->options->precision == SVD_F32 ? SVD_F32 : SVD_F64; /* exact in both */
        report->checked_in_full = job->options->check;
        report->bound = largest > 0 ? 0x1p-50 : 0;
        rc = hand_out_identity(job, sqrt(sum) / job->scale, sigma, take, context);
        goto done;
    }
    if ((rc = solve(job, &o, report)) ||
        (job->options->check && (rc = check_in_full(job, &o, report))))
        goto done;
    rc = hand_out(job, &o, sigma, take, context);
done:
    free(job->rows);
    outcome_free(&o);
    return rc;
}

/* Rank 0's result, which all ranks of the grid share, for those beside the grid too. */
static int share_result(MPI_Comm comm, int rc, struct svd_report *report)
{
    char text[2048] = "";
    int rank;

    MPI_Comm_rank(comm, &rank);
    if (rank == 0 && rc)
        strncpy(text, error_message(), sizeof text - 1);
    MPI_Bcast(&rc, 1, MPI_INT, 0, comm);
    MPI_Bcast(report, sizeof *report, MPI_BYTE, 0, comm);
    if (rc) {
        MPI_Bcast(text, sizeof text, MPI_CHAR, 0, comm);
        return error_set("%s", text);
    }
    return 0;
}

int svd_grid_solve(MPI_Comm comm, const struct svd_source *source,
                   const struct svd_options *options, double *sigma, take_rows *take, void *context,
                   struct svd_report *report)
{
    const double start = MPI_Wtime();
    struct svd_grid_job job = {.source = source, .options = options};
    MPI_Comm active = MPI_COMM_NULL;
    int rank, size, rc = 0;

    memset(report, 0, sizeof *report);
    if (options->method != SVD_SCALAPACK && options->method != SVD_ELPA &&
        options->method != SVD_GESVD)
        return error_set("the grid solves by scalapack, elpa or gesvd");
    if (options->method == SVD_ELPA && !grid_elpa_built())
        return error_set("t2 was built without ELPA; use the method scalapack");
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    job.wide = source->n_rows < source->n_columns;
    job.m = job.wide ? source->n_columns : source->n_rows;
    job.r = job.wide ? source->n_rows : source->n_columns;
    job.shape = grid_shape_for(job.r, size);
    job.batch = batch_rows(job.m, job.r, job.shape);
    report->wide = job.wide;
    report->method = options->method;
    MPI_Comm_split(comm, rank < job.shape.n_rows * job.shape.n_columns ? 0 : MPI_UNDEFINED, rank,
                   &active);
    if (active != MPI_COMM_NULL) {
        rc = grid_open(&job.grid, active, job.shape);
        rc = comm_agree(&job.grid.comm, rc);
        if (rc == 0)
            rc = decompose(&job, sigma, take, context, report);
        grid_close(&job.grid);
        MPI_Comm_free(&active);
    }
    report->seconds = MPI_Wtime() - start;
    report->flops = svd_flops(source->n_rows, source->n_columns);
    return share_result(comm, rc, report);
}

size_t svd_grid_bytes(size_t n_rows, size_t n_columns, const struct svd_options *options,
                      int n_ranks)
{
    const bool wide = n_rows < n_columns;
    const size_t m = wide ? n_columns : n_rows, r = wide ? n_rows : n_columns;
    const struct grid_shape shape = grid_shape_for(r, n_ranks);
    const bool f64 = options->precision != SVD_F32;
    const size_t columns = grid_local_count(r, shape.block, 0, shape.n_columns);
    const size_t rows = grid_local_count(r, shape.block, 0, shape.n_rows);
    const size_t batch = grid_local_count(batch_rows(m, r, shape), shape.block, 0, shape.n_rows);
    const size_t all = grid_local_count(m, shape.block, 0, shape.n_rows);
    const enum grid_eigen solver = options->method == SVD_ELPA ? GRID_ELPA_1STAGE : GRID_SYEVD;
    const size_t size = f64 ? 8 : 4, chunk = chunk_rows(r);

    /* The judge, in f64: Z (and the rounded one to check in full), couplings, X and B (larger than
     * the products that come after them). */
    size_t peak = columns * (size_t)8 * (rows * (options->check ? 3 : 2) + 2 * batch);
    if (options->method != SVD_GESVD) { /* C, Z, and X or the eigenproblem's work */
        const size_t work = grid_eigen_bytes(solver, r, f64, shape);
        const size_t gram = columns * size * batch;
        const size_t solve = 2 * columns * size * rows + (work > gram ? work : gram);
        peak = peak > solve ? peak : solve;
    }
    if (options->method == SVD_GESVD || options->precision == SVD_PRECISION_AUTO) {
        const size_t gesvd = columns * size * (all + 2 * rows) + grid_gesvd_bytes(m, r, f64, shape);
        peak = peak > gesvd ? peak : gesvd;
    }
    /* Vectors of length r, W's rows as read, the factor's rows as handed out, PBLAS's panels. */
    const size_t vectors = 12 * r * sizeof(double) + 3 * chunk * r * sizeof(float);
    const size_t read = rows_held(n_columns, shape) * n_columns * sizeof(float);
    const size_t panels = 4 * (size_t)8 * (size_t)shape.block * (columns + rows + batch);

    return peak + vectors + read + panels;
}

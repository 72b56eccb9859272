/* How long the grid takes for one Gaussian matrix, method by method, slowest rank, best of --reps.
 *
 *   mpirun -n 2 bench_svd_grid [--reps N] [--method NAME] [--eigen 0|1] SIZE|ROWSxCOLUMNS...
 *
 * With --eigen 1 also the eigenproblem alone (of the Gram matrix, f64): p?syevd, p?syevr, ELPA in
 * one and in two stages. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "mpi/comm.h"
#include "mpi/error.h"
#include "solver/grid.h"
#include "solver/svd_grid.h"

static struct comm comm;

struct matrix {
    size_t m, n;
    float *w;
};

static int read_matrix(const void *context, size_t first, size_t n, float *out)
{
    const struct matrix *a = context;
    memcpy(out, a->w + first * a->n, n * a->n * sizeof *out);
    return 0;
}

static int drop(void *context, size_t first, size_t n, const float *rows)
{
    (void)first, (void)n;
    *(double *)context += (double)rows[0];
    return 0;
}

static void stop(void)
{
    fprintf(stderr, "bench_svd_grid: %s\n", error_message());
    comm_abort(&comm, 1);
}

/* Every rank holds the matrix: mapped files are not what is measured. */
static struct matrix make(size_t m, size_t n)
{
    struct matrix a = {m, n, malloc(m * n * sizeof(float))};
    uint64_t state = 1;

    if (!a.w) {
        error_set("no memory for the matrix");
        stop();
    }
    for (size_t i = 0; i < m * n; i++) {
        double sum = -2;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (double)(state >> 40) * 0x1p-24;
        }
        a.w[i] = (float)(sum * 0.03);
    }
    return a;
}

static void bench(const struct matrix *a, enum svd_method method, enum svd_precision precision,
                  const char *label, int reps)
{
    const struct svd_source source = {a->m, a->n, read_matrix, a, "a Gaussian matrix"};
    const struct svd_options options = {method, precision, 1e-5, false, NULL};
    const size_t r = a->m < a->n ? a->m : a->n;
    double *sigma = malloc(r * sizeof *sigma), best = 1e30, sum = 0;
    struct svd_report report;

    for (int k = 0; k < reps; k++) {
        MPI_Barrier(comm.handle);
        const double start = MPI_Wtime();
        if (svd_grid_solve(comm.handle, &source, &options, sigma, drop, &sum, &report) != 0)
            stop();
        double seconds = MPI_Wtime() - start;
        MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, comm.handle);
        best = seconds < best ? seconds : best;
    }
    if (comm.rank == 0) {
        printf("%6zu x %-6zu %-16s %7.3f s  %6.1f GFLOP/s  bound %.1e  orthogonality %.1e  "
               "residual %.1e  %.0f MiB\n",
               a->m, a->n, label, best, report.flops / best * 1e-9, report.bound,
               report.orthogonality, report.residual,
               (double)svd_grid_bytes(a->m, a->n, &options, comm.size) * 0x1p-20);
        fflush(stdout);
    }
    free(sigma);
}

static void bench_eigen(size_t n, enum grid_eigen solver, bool f64, const char *label)
{
    const struct grid_shape shape = grid_shape_for(n, comm.size);
    struct grid grid;
    struct grid_matrix g, c, z;
    double *values = malloc(n * sizeof *values);

    if (shape.n_rows * shape.n_columns != comm.size)
        return;
    if (grid_open(&grid, comm.handle, shape) || grid_matrix_create(&g, &grid, n, n, f64) ||
        grid_matrix_create(&c, &grid, n, n, f64) || grid_matrix_create(&z, &grid, n, n, f64))
        stop();
    uint64_t state = 7 + (uint64_t)comm.rank;
    for (size_t i = 0; i < g.local_rows * g.local_columns; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        const double x = (double)(state >> 40) * 0x1p-24 - 0.5;
        if (f64)
            ((double *)g.data)[i] = x;
        else
            ((float *)g.data)[i] = (float)x;
    }
    const double before = MPI_Wtime();
    grid_gram(&g, 0, &c);
    MPI_Barrier(comm.handle);
    const double start = MPI_Wtime();
    const int rc = grid_eigen_solve(solver, &c, &z, values);
    MPI_Barrier(comm.handle);
    const double end = MPI_Wtime();
    grid_product(&g, &z, &c);
    MPI_Barrier(comm.handle);
    if (comm.rank == 0) {
        printf("%6zu eigenproblem   %-16s %7.3f s%s  (p?syrk %.3f, p?gemm %.3f; grid %d x %d, "
               "block %d)\n",
               n, label, end - start, rc ? " FAILED" : "", start - before, MPI_Wtime() - end,
               shape.n_rows, shape.n_columns, shape.block);
        fflush(stdout);
    }
    grid_matrix_free(&g);
    grid_matrix_free(&c);
    grid_matrix_free(&z);
    grid_close(&grid);
    free(values);
}

int main(int argc, char **argv)
{
    static const struct {
        enum svd_method method;
        enum svd_precision precision;
        const char *label;
    } ways[] = {
        {SVD_GESVD, SVD_F64, "gesvd f64"},         {SVD_SCALAPACK, SVD_F32, "scalapack f32"},
        {SVD_SCALAPACK, SVD_F64, "scalapack f64"}, {SVD_ELPA, SVD_F32, "elpa f32"},
        {SVD_ELPA, SVD_F64, "elpa f64"},
    };
    const char *only = "";
    int reps = 1, eigen = 0;

    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    for (int i = 1; i < argc; i++) {
        size_t m, n;
        if (strcmp(argv[i], "--reps") == 0 && i + 1 < argc) {
            reps = atoi(argv[++i]);
            continue;
        }
        if (strcmp(argv[i], "--eigen") == 0 && i + 1 < argc) {
            eigen = atoi(argv[++i]);
            continue;
        }
        if (strcmp(argv[i], "--method") == 0 && i + 1 < argc) {
            only = argv[++i];
            continue;
        }
        const int n_read = sscanf(argv[i], "%zux%zu", &m, &n);
        if (n_read < 1 || m < 1 || (n_read == 2 && n < 1)) {
            error_set("%s is no size", argv[i]);
            stop();
        }
        struct matrix a = make(m, n_read == 2 ? n : m);
        for (size_t k = 0; k < sizeof ways / sizeof *ways; k++)
            if (strstr(ways[k].label, only) &&
                (ways[k].method != SVD_ELPA ||
                 (svd_grid_has_elpa() && (ways[k].precision == SVD_F64 || grid_elpa_has_f32()))))
                bench(&a, ways[k].method, ways[k].precision, ways[k].label, reps);
        const size_t r = a.m < a.n ? a.m : a.n;
        if (eigen) {
            bench_eigen(r, GRID_SYEVD, true, "pdsyevd");
            bench_eigen(r, GRID_SYEVD, false, "pssyevd");
            bench_eigen(r, GRID_SYEVR, true, "pdsyevr");
            if (svd_grid_has_elpa()) {
                bench_eigen(r, GRID_ELPA_1STAGE, true, "ELPA 1 f64");
                bench_eigen(r, GRID_ELPA_2STAGE, true, "ELPA 2 f64");
            }
        }
        free(a.w);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    if (comm.rank == 0)
        printf("rank 0 used %.0f MiB at its peak, the matrix among it\n",
               (double)usage.ru_maxrss * 0x1p-10);
    comm_finish(&comm);
    return 0;
}

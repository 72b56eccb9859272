/* ranks: 1 2 3 4 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mpi/comm.h"
#include "mpi/error.h"
#include "solver/svd_grid_internal.h"

void dgesvd_(const char *, const char *, const int *, const int *, double *, const int *, double *,
             double *, const int *, double *, const int *, double *, const int *, int *);
void openblas_set_num_threads(int n);

static struct comm comm;
static const double lapacks_own = 1e-14; /* relative error of the expected values, condition 10 */

/* ---- matrices ---- */

struct matrix {
    size_t m, n, r;
    float *w;         /* [m, n] */
    double *expected; /* [r], by LAPACK on w */
};

static double next_normal(uint64_t *state)
{
    double sum = -6;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) * 0x1p-24;
    }
    return sum;
}

/* a [m, n] row-major = u [m, r] diag(s) vt [r, n]; a is left as it is. */
static void lapack(const double *a, size_t m, size_t n, double *s, double *u, double *vt)
{
    /* Row-major a is column-major a^T = v s u^T. */
    const int rows = (int)n, columns = (int)m, r = rows < columns ? rows : columns;
    const int n_work = 20 * (rows + columns + 64);
    double *copy = malloc(m * n * sizeof *copy), *work = malloc((size_t)n_work * sizeof *work);
    int info;

    memcpy(copy, a, m * n * sizeof *copy);
    dgesvd_(u ? "S" : "N", u ? "S" : "N", &rows, &columns, copy, &rows, s, vt, &rows, u, &r, work,
            &n_work, &info);
    assert_int_equal(info, 0);
    free(copy);
    free(work);
}

/* Condition 0: Gaussian. Otherwise singular values from 1 to 1/condition, evenly in the logarithm.
 */
static struct matrix make(size_t m, size_t n, double condition, double scale)
{
    const size_t r = m < n ? m : n;
    struct matrix a = {m, n, r, malloc(m * n * sizeof(float)), malloc(r * sizeof(double))};
    double *g = calloc(m * n, sizeof *g), *u = malloc(m * r * sizeof *u);
    double *vt = malloc(r * n * sizeof *vt);
    uint64_t state = 1000 * m + n;

    for (size_t i = 0; i < m * n; i++)
        g[i] = next_normal(&state);
    if (condition > 0) {
        lapack(g, m, n, a.expected, u, vt);
        memset(g, 0, m * n * sizeof *g);
        for (size_t k = 0; k < r; k++) {
            const double s = pow(condition, -(double)k / (double)(r > 1 ? r - 1 : 1));
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++)
                    g[i * n + j] += u[i * r + k] * s * vt[k * n + j];
        }
    }
    for (size_t i = 0; i < m * n; i++)
        g[i] = a.w[i] = (float)(g[i] * scale);
    lapack(g, m, n, a.expected, NULL, NULL);
    free(g);
    free(u);
    free(vt);
    return a;
}

static void matrix_free(struct matrix *a)
{
    free(a->w);
    free(a->expected);
}

static int read_matrix(const void *context, size_t first, size_t n, float *out)
{
    const struct matrix *a = context;
    if (first + n > a->m || n == 0)
        return error_set("rows [%zu, %zu) asked for", first, first + n);
    memcpy(out, a->w + first * a->n, n * a->n * sizeof *out);
    return 0;
}

static int read_broken(const void *context, size_t first, size_t n, float *out)
{
    if (comm.rank == comm.size - 1)
        return error_set("tensor x: row %d is NaN", 3);
    return read_matrix(context, first, n, out);
}

static struct svd_source source_of(const struct matrix *a)
{
    return (struct svd_source){a->m, a->n, read_matrix, a, "a matrix"};
}

/* ---- solving ---- */

struct result {
    size_t r, next;
    double *sigma;
    float *factor;
    struct svd_report report;
};

static int keep(void *context, size_t first, size_t n, const float *rows)
{
    struct result *x = context;
    if (first != x->next || n == 0 || first + n > x->r)
        return error_set("rows out of order");
    memcpy(x->factor + first * x->r, rows, n * x->r * sizeof *rows);
    x->next = first + n;
    return 0;
}

static int refuse(void *context, size_t first, size_t n, const float *rows)
{
    (void)context, (void)first, (void)n, (void)rows;
    return error_set("the disk is full");
}

static int run(MPI_Comm on, const struct svd_source *source, struct svd_options options,
               struct result *x)
{
    int rank;

    memset(x, 0, sizeof *x);
    MPI_Comm_rank(on, &rank);
    x->r = source->n_rows < source->n_columns ? source->n_rows : source->n_columns;
    x->sigma = rank ? NULL : calloc(x->r, sizeof *x->sigma);
    x->factor = rank ? NULL : calloc(x->r * x->r, sizeof *x->factor);
    return svd_grid_solve(on, source, &options, x->sigma, rank ? NULL : keep, rank ? NULL : x,
                          &x->report);
}

static void result_free(struct result *x)
{
    free(x->sigma);
    free(x->factor);
}

static double worst_sigma(const struct matrix *a, const struct result *x)
{
    double worst = 0;
    for (size_t i = 0; i < a->r; i++)
        worst = fmax(worst, fabs(x->sigma[i] - a->expected[i]) /
                                (a->expected[i] > 0 ? a->expected[i] : 1));
    return worst;
}

/* On the root: all handed out, descending, orthogonal rows, |W q_i| (|W^T q_i|) = sigma_i up to
 * `tolerance` times sigma_1. */
static bool good_factor(const struct matrix *a, const struct result *x, double tolerance)
{
    bool good = x->next == a->r;
    for (size_t i = 0; i < a->r; i++) {
        const float *q = x->factor + i * a->r;
        good &= x->sigma[i] >= 0 && (i == 0 || x->sigma[i] <= x->sigma[i - 1]);
        for (size_t j = 0; j <= i; j++) {
            double dot = 0;
            for (size_t k = 0; k < a->r; k++)
                dot += (double)q[k] * (double)x->factor[j * a->r + k];
            good &= fabs(dot - (i == j)) < 2e-5;
        }
        double squares = 0;
        const bool wide = a->m < a->n;
        for (size_t k = 0; k < (wide ? a->n : a->m); k++) {
            double sum = 0;
            for (size_t l = 0; l < a->r; l++)
                sum += (double)q[l] * (double)(wide ? a->w[l * a->n + k] : a->w[k * a->n + l]);
            squares += sum * sum;
        }
        good &= fabs(sqrt(squares) - x->sigma[i]) <= tolerance * x->sigma[0];
    }
    return good;
}

static void assert_same_report(const struct svd_report *report)
{
    assert_true(comm_same(&comm, report, sizeof *report));
}

/* What rank 0 (or each rank for itself) found, so that a failure ends the test on all. */
static void assert_all(bool good)
{
    int all = good;
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, comm.handle);
    assert_true(all);
}

static bool available(enum svd_method method, enum svd_precision precision)
{
    return method != SVD_ELPA ||
           (svd_grid_has_elpa() && (precision != SVD_F32 || grid_elpa_has_f32()));
}

/* ---- the tests ---- */

static void every_method_agrees_with_lapack(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{150, 100}, {70, 201}, {129, 129}, {64, 64},
                                       {300, 17},  {2, 3},    {3, 2},     {33, 40}};
    for (size_t k = 0; k < sizeof shapes / sizeof *shapes; k++) {
        struct matrix a = make(shapes[k][0], shapes[k][1], 10, 1);
        const struct svd_source source = source_of(&a);
        for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method++)
            for (int precision = SVD_PRECISION_AUTO; precision <= SVD_F64; precision++) {
                struct svd_options options = {method, precision, 1e-5, k == 0, NULL};
                struct result x;
                /* auto has a test of its own, and needs few shapes here */
                if (!available(method, precision) || (precision == SVD_PRECISION_AUTO && k > 1))
                    continue;
                assert_int_equal(run(comm.handle, &source, options, &x), 0);
                assert_same_report(&x.report);
                assert_int_equal(x.report.wide, a.m < a.n);
                assert_int_equal(x.report.method, method);
                assert_int_equal(x.report.repair, SVD_REPAIR_NONE);
                assert_int_equal(x.report.checked_in_full, k == 0);
                assert_true(x.report.orthogonality < 2e-5 && x.report.residual < 1e-5);
                bool good = true;
                if (comm.rank == 0) {
                    const double error = worst_sigma(&a, &x);
                    good &= error <= (precision == SVD_F64 ? 1e-12 : 1e-5);
                    good &= error <= x.report.bound + lapacks_own;
                    good &= good_factor(&a, &x, 1e-5);
                }
                assert_all(good);
                result_free(&x);
            }
        matrix_free(&a);
    }
}

static void auto_takes_the_precision_that_the_condition_needs(void **state)
{
    (void)state;
    static const double conditions[] = {20, 1e3, 1e6, 1e10};
    for (int method = SVD_SCALAPACK; method <= SVD_ELPA; method++)
        for (int k = 0; k < 4 && available(method, SVD_PRECISION_AUTO); k++) {
            const bool wide = (k + method) % 2;
            struct matrix a = make(wide ? 90 : 160, wide ? 160 : 90, conditions[k], 1);
            const struct svd_source source = source_of(&a);
            struct svd_options options = {method, SVD_PRECISION_AUTO, 1e-5, false, NULL};
            struct result x;
            assert_int_equal(run(comm.handle, &source, options, &x), 0);
            assert_same_report(&x.report);
            const bool has_f32 = available(method, SVD_F32);
            assert_int_equal(x.report.precision, k == 0 && has_f32 ? SVD_F32 : SVD_F64);
            assert_int_equal(x.report.tried_f32, k > 0 && has_f32);
            bool good = x.report.bound <= 1e-5;
            if (comm.rank == 0) {
                const double error = worst_sigma(&a, &x);
                good &= error <= x.report.bound + lapacks_own * conditions[k];
            }
            assert_all(good);
            result_free(&x);
            matrix_free(&a);
        }
}

static void scales_are_taken_out(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        struct matrix a = make(80, 70, 10, k ? 1e30 : 1e-30);
        const struct svd_source source = source_of(&a);
        for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method += 2) {
            struct svd_options options = {method, SVD_F32, 1e-5, true, NULL};
            struct result x;
            assert_int_equal(run(comm.handle, &source, options, &x), 0);
            assert_true(x.report.residual < 1e-5);
            assert_all(comm.rank != 0 || worst_sigma(&a, &x) < 1e-5);
            result_free(&x);
        }
        matrix_free(&a);
    }
}

static void degenerate_matrices_work(void **state)
{
    (void)state;
    static const size_t shapes[][2] = {{1, 1}, {1, 70}, {70, 1}, {100, 90}, {90, 100}};
    for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method++)
        for (size_t k = 0; k < 5 && available(method, SVD_PRECISION_AUTO); k++)
            for (int kind = 0; kind < 3; kind++) { /* zero, rank 1, all singular values equal */
                struct matrix a = make(shapes[k][0], shapes[k][1], 1, 1);
                for (size_t i = 0; i < a.m * a.n && kind < 2; i++)
                    a.w[i] = (float)(kind * (1 + i / a.n % 3) * (1 + i % a.n % 5));
                const struct svd_source source = source_of(&a);
                struct svd_options options = {method, SVD_PRECISION_AUTO, 1e-5, k % 2 == 0, NULL};
                struct result x;
                assert_int_equal(run(comm.handle, &source, options, &x), 0);
                assert_same_report(&x.report);
                assert_true(x.report.bound <= 1e-5);
                bool good = true;
                if (comm.rank == 0) {
                    double norm = 0;
                    for (size_t i = 0; i < a.m * a.n; i++)
                        norm += (double)a.w[i] * (double)a.w[i];
                    norm = sqrt(kind == 2 ? norm / (double)a.r : norm);
                    good &= fabs(x.sigma[0] - norm) <= 5e-6 * norm;
                    const double last = x.sigma[a.r - 1];
                    if (kind == 2)
                        good &= fabs(last - norm) <= 5e-6 * norm;
                    else if (a.r > 1)
                        good &= last <= 1e-12 * norm;
                    good &= good_factor(&a, &x, 1e-5);
                }
                assert_all(good);
                result_free(&x);
                matrix_free(&a);
            }
}

static void a_repeated_run_gives_the_same_bits(void **state)
{
    (void)state;
    struct matrix a = make(190, 170, 100, 1);
    const struct svd_source source = source_of(&a);
    for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method++)
        for (int precision = SVD_F32; precision <= SVD_F64; precision++) {
            struct svd_options options = {method, precision, 1e-5, false, NULL};
            struct result x, y;
            if (!available(method, precision))
                continue;
            assert_int_equal(run(comm.handle, &source, options, &x), 0);
            assert_int_equal(run(comm.handle, &source, options, &y), 0);
            assert_all(comm.rank != 0 ||
                       (memcmp(x.sigma, y.sigma, a.r * sizeof(double)) == 0 &&
                        memcmp(x.factor, y.factor, a.r * a.r * sizeof(float)) == 0));
            result_free(&x);
            result_free(&y);
        }
    matrix_free(&a);
}

static void singular_values_agree_between_grids(void **state)
{
    (void)state;
    struct matrix a = make(190, 170, 20, 1);
    const struct svd_source source = source_of(&a);
    for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method++)
        for (int precision = SVD_F32; precision <= SVD_F64; precision++) {
            struct svd_options options = {method, precision, 1e-5, false, NULL};
            struct result x, alone;
            /* p?gesvd in f32 has no quotients: its own errors are larger. */
            const double limit = method == SVD_GESVD && precision == SVD_F32 ? 5e-5 : 1e-7;
            if (!available(method, precision))
                continue;
            assert_int_equal(run(comm.handle, &source, options, &x), 0);
            assert_int_equal(run(MPI_COMM_SELF, &source, options, &alone), 0);
            double worst = 0;
            for (size_t i = 0; i < a.r && comm.rank == 0; i++)
                worst = fmax(worst, fabs(x.sigma[i] / alone.sigma[i] - 1));
            assert_all(worst <= limit);
            result_free(&x);
            result_free(&alone);
        }
    matrix_free(&a);
}

static void groups_of_ranks_solve_beside_each_other(void **state)
{
    (void)state;
    MPI_Comm half;
    MPI_Comm_split(comm.handle, comm.rank % 2, comm.rank, &half);
    struct matrix a = make(comm.rank % 2 ? 140 : 90, 80, 10, 1);
    const struct svd_source source = source_of(&a);
    for (int k = 0; k < 12; k++) { /* more often than BLACS first makes room for handles */
        struct svd_options options = {SVD_SCALAPACK, SVD_F32, 1e-5, false, NULL};
        struct result x;
        assert_int_equal(run(half, &source, options, &x), 0);
        assert_all(!x.sigma || worst_sigma(&a, &x) < 1e-5);
        result_free(&x);
    }
    matrix_free(&a);
    MPI_Comm_free(&half);
}

static void every_eigensolver_diagonalises(void **state)
{
    (void)state;
    enum { N = 150 };
    const struct grid_shape shape = grid_shape_for(N, comm.size);
    struct grid grid;
    double expected[N], values[N];
    assert_int_equal(shape.n_rows * shape.n_columns, comm.size);
    assert_int_equal(grid_open(&grid, comm.handle, shape), 0);
    for (int solver = GRID_SYEVD; solver <= GRID_ELPA_2STAGE; solver++)
        for (int f64 = 1; f64 >= (solver >= GRID_ELPA_1STAGE && !grid_elpa_has_f32()); f64--) {
            struct grid_matrix g, c, z;
            if (solver >= GRID_ELPA_1STAGE && !grid_elpa_built())
                continue;
            if (solver == GRID_SYEVR && !f64)
                continue; /* not used: 2 % off on some kernels of OpenBLAS 0.3.21 */
            assert_int_equal(grid_matrix_create(&g, &grid, N, N, f64), 0);
            assert_int_equal(grid_matrix_create(&c, &grid, N, N, f64), 0);
            assert_int_equal(grid_matrix_create(&z, &grid, N, N, f64), 0);
            for (size_t j = 0; j < g.local_columns; j++)
                for (size_t i = 0; i < g.local_rows; i++) {
                    const size_t row = grid_global(i, grid.block, grid.row, grid.n_rows);
                    const size_t column = grid_global(j, grid.block, grid.column, grid.n_columns);
                    const double x = sin((double)(row * N + column) * (double)(row + 3));
                    svd_grid_set(&g, j * g.local_rows + i, x);
                }
            grid_gram(&g, 0, &c);
            assert_int_equal(grid_eigen_solve(solver, &c, &z, values), 0);
            if (solver == GRID_SYEVD && f64)
                memcpy(expected, values, sizeof values);
            const double limit = (f64 ? 1e-13 : 1e-5) * expected[N - 1];
            bool good = true;
            for (size_t i = 0; i < N; i++)
                good &= fabs(values[i] - expected[i]) <= limit;
            /* |G z_i|^2 is the eigenvalue. */
            double squares[N] = {0};
            grid_product(&g, &z, &c);
            for (size_t j = 0; j < c.local_columns; j++)
                for (size_t i = 0; i < c.local_rows; i++)
                    squares[grid_global(j, grid.block, grid.column, grid.n_columns)] +=
                        pow(grid_element(&c, j * c.local_rows + i), 2);
            grid_sum(&grid, squares, N);
            for (size_t i = 0; i < N; i++)
                good &= fabs(squares[i] - expected[i]) <= limit;
            assert_all(good);
            grid_matrix_free(&g);
            grid_matrix_free(&c);
            grid_matrix_free(&z);
        }
    grid_close(&grid);
}

static void a_failing_read_on_the_last_rank_ends_all(void **state)
{
    (void)state;
    struct matrix a = make(150, 100, 0, 1);
    struct svd_source source = source_of(&a);
    struct svd_options options = {SVD_SCALAPACK, SVD_F64, 1e-5, false, NULL};
    struct result x;
    source.read = read_broken;
    assert_int_equal(run(comm.handle, &source, options, &x), -1);
    assert_non_null(strstr(error_message(), "tensor x: row 3 is NaN"));
    result_free(&x);
    matrix_free(&a);
}

static void a_failing_take_ends_all(void **state)
{
    (void)state;
    struct matrix a = make(150, 100, 0, 1);
    struct svd_source source = source_of(&a);
    struct svd_options options = {SVD_SCALAPACK, SVD_F64, 1e-5, false, NULL};
    struct svd_report report;
    double sigma[100];
    assert_int_equal(svd_grid_solve(comm.handle, &source, &options, sigma, refuse, NULL, &report),
                     -1);
    assert_non_null(strstr(error_message(), "the disk is full"));
    matrix_free(&a);
}

static void other_methods_are_refused(void **state)
{
    (void)state;
    struct matrix a = make(4, 4, 0, 1);
    struct svd_source source = source_of(&a);
    struct svd_options options = {SVD_LAPACK, SVD_F64, 1e-5, false, NULL};
    struct result x;
    assert_int_equal(run(comm.handle, &source, options, &x), -1);
    result_free(&x);
    options.method = SVD_ELPA;
    options.precision = SVD_F32;
    if (!available(SVD_ELPA, SVD_F32)) {
        assert_int_equal(run(comm.handle, &source, options, &x), -1);
        assert_non_null(strstr(error_message(), "ELPA"));
        result_free(&x);
    }
    matrix_free(&a);
}

static void more_ranks_need_less_memory(void **state)
{
    (void)state;
    for (int method = SVD_SCALAPACK; method <= SVD_GESVD; method++) {
        const struct svd_options options = {method, SVD_F64, 1e-5, false, NULL};
        const size_t one = svd_grid_bytes(28672, 8192, &options, 1);
        const size_t many = svd_grid_bytes(28672, 8192, &options, 64);
        assert_true(one > (size_t)8192 * 8192 * 8 * 3);
        assert_true(many < one / 20);
    }
}

/* OpenBLAS 0.3.21's ssymv reads past the ends of the small vectors that PBLAS allocates. The
 * address sanitizer's allocator has nothing mapped there when the vector is the newest of its size;
 * so let it map some more first and reuse what is freed. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=0:thread_local_quarantine_size_kb=0";
}

static void map_more_memory(void)
{
    enum { N = 2000 };
    static void *block[N];
    for (size_t size = 16; size <= 8192; size += size / 4) {
        for (size_t i = 0; i < N; i++)
            block[i] = malloc(size);
        for (size_t i = 0; i < N; i++)
            free(block[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_agrees_with_lapack),
        cmocka_unit_test(auto_takes_the_precision_that_the_condition_needs),
        cmocka_unit_test(scales_are_taken_out),
        cmocka_unit_test(degenerate_matrices_work),
        cmocka_unit_test(a_repeated_run_gives_the_same_bits),
        cmocka_unit_test(singular_values_agree_between_grids),
        cmocka_unit_test(groups_of_ranks_solve_beside_each_other),
        cmocka_unit_test(every_eigensolver_diagonalises),
        cmocka_unit_test(a_failing_read_on_the_last_rank_ends_all),
        cmocka_unit_test(a_failing_take_ends_all),
        cmocka_unit_test(other_methods_are_refused),
        cmocka_unit_test(more_ranks_need_less_memory),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    openblas_set_num_threads(1);
    map_more_memory();
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&comm);
    return failed;
}

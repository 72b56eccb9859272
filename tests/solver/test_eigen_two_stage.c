/* The eigensolver of one and two stages against LAPACK's ?syevd and against the equations
 * themselves, for easy and awkward matrices, and its bits for crews of several sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

#include "mpi/error.h"
#include "solver/eigen_two_stage.h"

void dsyevd_(const char *, const char *, const int *, double *, const int *, double *, double *,
             const int *, int *, const int *, int *, size_t, size_t);

enum { MOST_WORKERS = 4 };

enum kind {
    RANDOM,
    GRADED,
    CLUSTERED,
    DIAGONAL,
    IDENTITY,
    ZERO,
    LOW_RANK,
    TRIDIAGONAL,
    BANDED,
    HUGE_SCALE,
    TINY_SCALE,
    ARROW,
    KIND_COUNT
};
static const char *const kind_names[KIND_COUNT] = {
    "random",   "graded",      "clustered", "diagonal",   "identity",   "zero",
    "low rank", "tridiagonal", "banded",    "huge scale", "tiny scale", "arrow"};

static uint64_t random_state = 7;
static int n_stages = 2; /* that work() takes */

static double random_value(void) /* in [-1, 1) */
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 40) / (1 << 23) - 1;
}

static double *doubles(size_t n)
{
    double *x = calloc(n ? n : 1, sizeof *x);
    assert_non_null(x);
    return x;
}

/* a = H a H for a random reflection H */
static void reflect(size_t n, double *a)
{
    double *u = doubles(n), *w = doubles(n), squares = 0, dot = 0;
    for (size_t i = 0; i < n; i++) {
        u[i] = random_value();
        squares += u[i] * u[i];
    }
    for (size_t i = 0; i < n; i++)
        u[i] /= sqrt(squares);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            w[i] += a[i * n + j] * u[j];
    for (size_t i = 0; i < n; i++)
        dot += w[i] * u[i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            a[i * n + j] += -2 * (u[i] * w[j] + w[i] * u[j]) + 4 * dot * u[i] * u[j];
    free(u);
    free(w);
}

/* [n, n], symmetric in full */
static double *matrix_make(size_t n, enum kind kind, bool wide)
{
    double *a = doubles(n * n);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j <= i; j++) {
            double x = random_value();
            if (kind == GRADED)
                x *= pow(10, -(double)(i + j) * 8 / (double)n);
            if (kind == DIAGONAL || kind == CLUSTERED || kind == IDENTITY)
                x = i == j ? x : 0;
            if (kind == CLUSTERED && i == j)
                x = (double)(i % 3) + (i % 2 ? 1e-9 * x : 0);
            if (kind == IDENTITY && i == j)
                x = 1;
            if (kind == ZERO)
                x = 0;
            if (kind == TRIDIAGONAL && i > j + 1)
                x = 0;
            if (kind == BANDED && i > j + 30)
                x = 0;
            if (kind == ARROW && j > 0 && i != j)
                x = 0;
            if (kind == HUGE_SCALE)
                x *= wide ? 1e250 : 1e30;
            if (kind == TINY_SCALE)
                x *= wide ? 1e-250 : 1e-30;
            a[i * n + j] = a[j * n + i] = x;
        }
    if (kind == LOW_RANK) {
        double *g = doubles(3 * n);
        for (size_t i = 0; i < 3 * n; i++)
            g[i] = random_value();
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                a[i * n + j] =
                    g[i] * g[j] + g[n + i] * g[n + j] + 1e-3 * g[2 * n + i] * g[2 * n + j];
        free(g);
    }
    if (kind == CLUSTERED)
        for (int i = 0; i < 3; i++)
            reflect(n, a);
    if (!wide)
        for (size_t i = 0; i < n * n; i++)
            a[i] = (float)a[i];
    return a;
}

struct job {
    pthread_t thread;
    struct crew crew;
    struct arena arena;
    size_t n;
    bool wide;
    void *c, *values;
    int status;
    char message[200];
};

static void *work(void *argument)
{
    struct job *j = argument;
    openblas_set_num_threads(1); /* a setting of the thread, with OpenMP */
    if (n_stages == 1)
        j->status = j->wide ? eigen_one_stage_f64(&j->crew, &j->arena, j->n, j->c, j->values)
                            : eigen_one_stage_f32(&j->crew, &j->arena, j->n, j->c, j->values);
    else
        j->status = j->wide ? eigen_two_stage_f64(&j->crew, &j->arena, j->n, j->c, j->values)
                            : eigen_two_stage_f32(&j->crew, &j->arena, j->n, j->c, j->values);
    snprintf(j->message, sizeof j->message, "%s", j->status ? error_message() : "");
    return NULL;
}

/* c [n, n] and values [n] of the element type, in place, by a crew of threads. Everyone's status.
 */
static int solve(int workers, size_t n, bool wide, void *c, void *values, size_t arena_bytes,
                 struct job jobs[MOST_WORKERS])
{
    const size_t bytes = (arena_bytes + 63) / 64 * 64;
    struct crew_state state;
    char *memory = aligned_alloc(64, bytes);
    int status = 0;

    assert_non_null(memory);
    memset(&state, 0, sizeof state);
    memset(memory, 0xa5 + 31 * workers, bytes); /* what was there must not matter */
    for (int i = 0; i < workers; i++) {
        jobs[i] = (struct job){.crew = {i, workers, workers > 1 ? &state : NULL},
                               .arena = {memory, bytes, 0},
                               .n = n,
                               .wide = wide,
                               .c = c,
                               .values = values};
        if (i)
            assert_int_equal(pthread_create(&jobs[i].thread, NULL, work, &jobs[i]), 0);
    }
    work(&jobs[0]);
    for (int i = 1; i < workers; i++)
        pthread_join(jobs[i].thread, NULL);
    for (int i = 0; i < workers; i++) {
        assert_int_equal(jobs[i].status, jobs[0].status);
        assert_int_equal(jobs[i].arena.used, 0);
        status = jobs[i].status;
    }
    free(memory);
    return status;
}

/* The lower triangle seen column-major, NaN in the other one, in the element type. */
static void *matrix_narrow(size_t n, bool wide, const double *a)
{
    void *c = malloc(n * n * (wide ? 8 : 4));
    assert_non_null(c);
    for (size_t i = 0; i < n * n; i++) {
        const double x = i % n >= i / n ? a[i] : NAN;
        if (wide)
            ((double *)c)[i] = x;
        else
            ((float *)c)[i] = (float)x;
    }
    return c;
}

static double *widen(size_t n, bool wide, const void *x)
{
    double *y = doubles(n);
    for (size_t i = 0; i < n; i++)
        y[i] = wide ? ((const double *)x)[i] : (double)((const float *)x)[i];
    return y;
}

/* largest |C q_i - values_i q_i| / |C| and |Q Q^T - I| */
static void errors(size_t n, const double *a, const double *q, const double *values, double norm,
                   double *residual, double *orthogonality)
{
    double *product = doubles(n * n);
    const int ni = (int)n;

    *residual = *orthogonality = 0;
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, ni, ni, ni, 1, q, ni, a, ni, 0, product,
                ni);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            *residual = fmax(*residual, fabs(product[i * n + j] - values[i] * q[i * n + j]) / norm);
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, ni, ni, ni, 1, q, ni, q, ni, 0, product,
                ni);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            *orthogonality = fmax(*orthogonality, fabs(product[i * n + j] - (i == j)));
    free(product);
}

static void check(size_t n, enum kind kind, bool wide, int workers)
{
    const double eps = wide ? DBL_EPSILON : FLT_EPSILON, bound = eps * (16 + sqrt((double)n));
    const int order = (int)n, lwork = (int)(1 + 6 * n + 2 * n * n), liwork = (int)(3 + 5 * n);
    struct job jobs[MOST_WORKERS];
    double *a = matrix_make(n, kind, wide), *reference = doubles(n), *copy = doubles(n * n);
    double *buffer = doubles((size_t)lwork), residual, orthogonality, norm = 0;
    int *integers = calloc((size_t)liwork, sizeof *integers), info;
    void *c = matrix_narrow(n, wide, a), *values = calloc(n, 8);

    assert_non_null(integers);
    assert_non_null(values);
    memcpy(copy, a, n * n * sizeof *copy);
    dsyevd_("N", "L", &order, copy, &order, reference, buffer, &lwork, integers, &liwork, &info, 1,
            1);
    assert_int_equal(info, 0);
    for (size_t i = 0; i < n; i++)
        norm = fmax(norm, fabs(reference[i]));
    norm = norm > 0 ? norm : 1;

    assert_int_equal(
        solve(workers, n, wide, c, values, eigen_two_stage_bytes(wide ? 8 : 4, n), jobs), 0);
    double *q = widen(n * n, wide, c), *lambda = widen(n, wide, values);
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs(lambda[i] - reference[i]) / norm);
        if (i && lambda[i - 1] > lambda[i])
            fail_msg("n %zu, %s, f%d: value %zu is %.17g, before it %.17g", n, kind_names[kind],
                     wide ? 64 : 32, i, lambda[i], lambda[i - 1]);
    }
    errors(n, a, q, lambda, norm, &residual, &orthogonality);
    /* dsterf's own error is in the values */
    if (!(worst < 2 * bound && residual < bound && orthogonality < bound))
        fail_msg("n %zu, %s, f%d: values %.2g, residual %.2g, orthogonality %.2g, bound %.2g", n,
                 kind_names[kind], wide ? 64 : 32, worst, residual, orthogonality, bound);
    free(a);
    free(reference);
    free(copy);
    free(buffer);
    free(integers);
    free(c);
    free(values);
    free(q);
    free(lambda);
}

static void vectors_and_values_meet_the_equations(void **state)
{
    static const size_t orders[] = {1, 2, 3, 17, 64, 65, 66, 130, 300, 515};
    (void)state;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        for (int kind = 0; kind < KIND_COUNT; kind++)
            for (int wide = 0; wide < 2; wide++)
                check(orders[i], (enum kind)kind, wide, 1);
}

static void crews_of_any_size_give_the_same_bits(void **state)
{
    static const size_t orders[] = {1, 2, 65, 130, 431, 700};
    static const enum kind kinds[] = {RANDOM, CLUSTERED};
    struct job jobs[MOST_WORKERS];
    (void)state;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++)
        for (int run = 0; run < 4; run++) {
            const size_t n = orders[i], element = run % 2 ? 8 : 4;
            double *a = matrix_make(n, kinds[run / 2], element == 8);
            void *c[2], *values[2];
            for (int workers = 1; workers <= MOST_WORKERS; workers++) {
                const int k = workers > 1;
                c[k] = matrix_narrow(n, element == 8, a);
                values[k] = calloc(n, element);
                assert_int_equal(solve(workers, n, element == 8, c[k], values[k],
                                       eigen_two_stage_bytes(element, n), jobs),
                                 0);
                if (k) {
                    assert_memory_equal(values[0], values[1], n * element);
                    assert_memory_equal(c[0], c[1], n * n * element);
                    free(c[1]);
                    free(values[1]);
                }
            }
            free(c[0]);
            free(values[0]);
            free(a);
        }
}

static void larger_crews_solve_awkward_matrices(void **state)
{
    (void)state;
    for (int kind = 0; kind < KIND_COUNT; kind++)
        check(200, (enum kind)kind, kind % 2, 3);
}

static void not_a_number_is_an_error_of_every_worker(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int bad = 0; bad < 2; bad++) {
            const size_t n = 100;
            struct job jobs[MOST_WORKERS];
            double *a = matrix_make(n, RANDOM, wide);
            a[37 * n + 60] = bad ? NAN : INFINITY;
            void *c = matrix_narrow(n, wide, a), *values = calloc(n, 8);
            assert_int_equal(
                solve(3, n, wide, c, values, eigen_two_stage_bytes(wide ? 8 : 4, n), jobs), -1);
            for (int i = 0; i < 3; i++)
                assert_non_null(strstr(jobs[i].message, "NaN"));
            free(a);
            free(c);
            free(values);
        }
}

static void small_arena_is_an_error_that_names_the_size(void **state)
{
    struct job jobs[MOST_WORKERS];
    double *a = matrix_make(50, RANDOM, true), values[50];
    (void)state;
    assert_int_equal(solve(2, 50, true, a, values, 1000, jobs), -1);
    assert_non_null(strstr(jobs[1].message, "bytes of arena"));
    free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_and_values_meet_the_equations),
        cmocka_unit_test(crews_of_any_size_give_the_same_bits),
        cmocka_unit_test(larger_crews_solve_awkward_matrices),
        cmocka_unit_test(not_a_number_is_an_error_of_every_worker),
        cmocka_unit_test(small_arena_is_an_error_that_names_the_size),
    };
    openblas_set_num_threads(1);
    const int failed = cmocka_run_group_tests_name("two stages", tests, NULL, NULL);
    n_stages = 1;
    return failed + cmocka_run_group_tests_name("one stage", tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/eigen.h"

enum { N = 200, THREADS = 3, REPEATS = 12 };

static double random_number(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(*seed >> 8) / 8388608.0 - 1;
}

/* The lower triangle as LAPACK sees it, junk in the other. */
static void make_symmetric(double *full, double *half)
{
    unsigned seed = 5;
    for (size_t i = 0; i < N; i++)
        for (size_t j = i; j < N; j++) {
            full[i * N + j] = full[j * N + i] = half[i * N + j] = random_number(&seed);
            if (j > i)
                half[j * N + i] = NAN;
        }
}

static void check_solution(const double *full, const double *q, const double *values,
                           double tolerance)
{
    for (size_t k = 0; k < N; k++) {
        if (k > 0)
            assert_true(values[k] >= values[k - 1]);
        double error = 0;
        for (size_t i = 0; i < N; i++) {
            double sum = -values[k] * q[k * N + i];
            for (size_t j = 0; j < N; j++)
                sum += full[i * N + j] * q[k * N + j];
            error += sum * sum;
        }
        assert_true(sqrt(error) < tolerance);
        for (size_t l = 0; l <= k; l++) {
            double dot = 0;
            for (size_t i = 0; i < N; i++)
                dot += q[k * N + i] * q[l * N + i];
            assert_true(fabs(dot - (k == l)) < tolerance);
        }
    }
}

static void lapack_finds_eigenvectors_as_rows(void **state)
{
    (void)state;
    static double full[N * N], c[N * N], values[N];
    static float c32[N * N], values32[N];
    const struct crew crew = crew_alone();
    const size_t size = eigen_work_bytes(EIGEN_LAPACK, sizeof(double), N);
    struct arena arena = {malloc(size), size, 0};

    assert_non_null(arena.base);
    make_symmetric(full, c);
    for (size_t i = 0; i < N * N; i++)
        c32[i] = (float)c[i];
    assert_int_equal(eigen_solve_f64(&crew, EIGEN_LAPACK, &arena, N, c, values), 0);
    assert_int_equal(arena.used, 0);
    check_solution(full, c, values, 1e-12);
    assert_true(eigen_work_bytes(EIGEN_LAPACK, sizeof(float), N) <= size);
    arena.size = eigen_work_bytes(EIGEN_LAPACK, sizeof(float), N);
    assert_int_equal(eigen_solve_f32(&crew, EIGEN_LAPACK, &arena, N, c32, values32), 0);
    for (size_t i = 0; i < N * N; i++)
        c[i] = (double)c32[i];
    for (size_t i = 0; i < N; i++)
        values[i] = (double)values32[i];
    check_solution(full, c, values, 1e-4);
    free(arena.base);
}

static void a_work_array_that_is_too_small_is_an_error(void **state)
{
    (void)state;
    static double c[N * N], values[N];
    const struct crew crew = crew_alone();
    char block[4096];
    struct arena arena = {block, sizeof block, 0};

    assert_int_equal(eigen_solve_f64(&crew, EIGEN_LAPACK, &arena, N, c, values), -1);
    assert_non_null(strstr(error_message(), "too small"));
}

static void an_order_that_overflows_lapack_is_refused(void **state)
{
    (void)state;
    const struct crew crew = crew_alone();
    struct arena arena = {NULL, 0, 0};

    assert_int_equal(eigen_solve_f32(&crew, EIGEN_LAPACK, &arena, 40000, NULL, NULL), -1);
    assert_non_null(strstr(error_message(), "up to order"));
}

/* ---- BLAS from several threads ----------------------------------------------------------------
 */

struct job {
    const float *a;
    float *product;  /* [N, N] */
    double *vectors; /* [N, N] */
    int different;
};

static void *multiply_and_solve(void *argument)
{
    struct job *job = argument;
    const struct crew crew = crew_alone();
    const size_t n = N * N;
    float *product = malloc(n * sizeof *product);
    double *c = malloc(n * sizeof *c), values[N];
    const size_t size = eigen_work_bytes(EIGEN_LAPACK, sizeof(double), N);
    struct arena arena = {malloc(size), size, 0};

    blas_single_thread();
    for (int i = 0; i < REPEATS && product && c && arena.base; i++) {
        blas_gemm(sizeof *product, false, true, N, N, N, job->a, N, job->a, N, 0, product, N);
        for (size_t j = 0; j < n; j++)
            c[j] = (double)product[j];
        job->different += eigen_solve_f64(&crew, EIGEN_LAPACK, &arena, N, c, values) != 0;
        if (i == 0) {
            memcpy(job->product, product, n * sizeof *product);
            memcpy(job->vectors, c, n * sizeof *c);
        }
        job->different += memcmp(job->product, product, n * sizeof *product) != 0;
        job->different += memcmp(job->vectors, c, n * sizeof *c) != 0;
    }
    free(arena.base);
    free(c);
    free(product);
    return NULL;
}

static void threads_that_call_the_blas_at_once_get_the_same_bits(void **state)
{
    (void)state;
    static float a[N * N], products[THREADS + 1][N * N];
    static double vectors[THREADS + 1][N * N];
    struct job jobs[THREADS + 1];
    pthread_t threads[THREADS];
    unsigned seed = 3;

    for (size_t i = 0; i < N * N; i++)
        a[i] = (float)random_number(&seed);
    for (int i = 0; i <= THREADS; i++)
        jobs[i] = (struct job){a, products[i], vectors[i], 0};
    multiply_and_solve(&jobs[THREADS]); /* alone */
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, multiply_and_solve, &jobs[i]), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(jobs[i].different, 0);
        assert_memory_equal(products[i], products[THREADS], sizeof products[i]);
        assert_memory_equal(vectors[i], vectors[THREADS], sizeof vectors[i]);
    }
    for (size_t i = 0; i < N; i += 37) { /* and the right ones */
        double dot = 0;
        for (size_t k = 0; k < N; k++)
            dot += (double)a[i * N + k] * (double)a[5 * N + k];
        assert_true(fabs(dot - (double)products[0][i * N + 5]) < 1e-4);
    }
}

int main(void)
{
    blas_single_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lapack_finds_eigenvectors_as_rows),
        cmocka_unit_test(a_work_array_that_is_too_small_is_an_error),
        cmocka_unit_test(an_order_that_overflows_lapack_is_refused),
        cmocka_unit_test(threads_that_call_the_blas_at_once_get_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

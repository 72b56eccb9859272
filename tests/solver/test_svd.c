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
#include "solver/svd.h"
#include "solver/svd_internal.h"
#include "tests/solver/svd_fixture.h"

/* ---- tests ------------------------------------------------------------------------------------
 */

static const size_t shapes[][2] = {{150, 150}, {700, 90}, {90, 700}, {130, 129}, {64, 65}, {7, 3}};

static void values_and_vectors_agree_with_lapack_in_every_shape(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
            struct matrix x = matrix_of_condition(shapes[i][0], shapes[i][1], 20, LINEAR);
            double *truth = true_values(&x);
            struct solution s = solve(&x, (enum svd_precision)p);
            assert_contract(&x, &s, p == SVD_F64 ? 1e-6 : 1e-5);
            assert_int_equal(s.report.wide, x.m < x.n);
            assert_true(largest_error(&s, truth, 0) < (p == SVD_F64 ? 1e-13 : 1e-6));
            assert_int_equal(s.report.precision, p == SVD_F64 ? SVD_F64 : SVD_F32);
            assert_int_equal(s.report.method, SVD_ONE_STAGE);
            assert_int_equal(s.report.repair, SVD_REPAIR_NONE);
            solution_free(&s);
            free(truth);
            free(x.w);
        }
}

static void bounds_hold_for_every_condition(void **state)
{
    (void)state;
    static const double conditions[] = {1, 20, 100, 1e3, 1e4, 1e5, 1e6};
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++)
        for (int fall = 0; fall < 2; fall++)
            for (int p = SVD_F32; p <= SVD_F64; p++) {
                struct matrix x =
                    matrix_of_condition(200, i % 2 ? 260 : 160, conditions[i], (enum fall)fall);
                double *truth = true_values(&x);
                struct solution s = solve(&x, (enum svd_precision)p);
                const double error = largest_error(&s, truth, 200 * 0x1p-52);
                if (error > s.report.bound + 1e-14)
                    fail_msg("condition %g, %s: error %.2e, bound %.2e", conditions[i],
                             svd_precision_name((enum svd_precision)p), error, s.report.bound);
                solution_free(&s);
                free(truth);
                free(x.w);
            }
}

static void bounds_hold_for_gaussian_matrices(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 6; seed++)
        for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
            struct matrix x = matrix_make(140, seed % 2 ? 140 : 200);
            random_matrix(&x, seed);
            double *truth = true_values(&x);
            struct solution s = solve(&x, (enum svd_precision)p);
            const double error = largest_error(&s, truth, 0);
            assert_true(error <= s.report.bound + 1e-14);
            if (p == SVD_PRECISION_AUTO)
                assert_true(error <= 1e-5);
            solution_free(&s);
            free(truth);
            free(x.w);
        }
}

static void auto_keeps_f32_at_condition_20(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{300, 300}, {200, 1100}, {1100, 1100}};
    for (size_t i = 0; i < 3; i++) {
        struct matrix x = matrix_of_condition(sizes[i][0], sizes[i][1], 20, LINEAR);
        struct solution s = solve(&x, SVD_PRECISION_AUTO);
        assert_int_equal(s.report.precision, SVD_F32);
        assert_false(s.report.tried_f32);
        assert_true(s.report.bound < 1e-5);
        solution_free(&s);
        free(x.w);
    }
}

static void auto_goes_to_f64_where_f32_is_not_enough(void **state)
{
    (void)state;
    static const double conditions[] = {1e3, 1e4, 1e6};
    for (size_t i = 0; i < 3; i++)
        for (int fall = 0; fall < 2; fall++) {
            struct matrix x = matrix_of_condition(300, 250, conditions[i], (enum fall)fall);
            double *truth = true_values(&x);
            struct solution s = solve(&x, SVD_PRECISION_AUTO);
            assert_true(s.report.tried_f32 && !s.report.tried_f64);
            assert_int_equal(s.report.precision, SVD_F64);
            assert_int_equal(s.report.method, SVD_ONE_STAGE);
            assert_true(largest_error(&s, truth, 0) < 1e-8);
            solution_free(&s);
            free(truth);
            free(x.w);
        }
}

/* Columns of very different size keep their condition when rounded to f32. */
static struct matrix graded_matrix(size_t m, size_t n, double condition)
{
    struct matrix x = matrix_of_condition(m, n, 2, LINEAR);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            x.w[i * n + j] *=
                (float)pow(condition, m >= n ? -(double)j / (double)n : -(double)i / (double)m);
    return x;
}

static void condition_1e12_ends_with_gesvd(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        struct matrix x = graded_matrix(wide ? 60 : 200, wide ? 200 : 60, 1e12);
        double *truth = true_values(&x);
        struct solution s = solve(&x, SVD_PRECISION_AUTO);
        assert_true(s.report.tried_f32 && s.report.tried_f64);
        assert_int_equal(s.report.method, SVD_GESVD);
        assert_contract(&x, &s, 1e-6);
        assert_true(largest_error(&s, truth, 60 * 0x1p-52) <= s.report.bound);
        solution_free(&s);
        s = solve(&x, SVD_F64); /* as asked for, and it says what it is worth */
        assert_int_equal(s.report.method, SVD_ONE_STAGE);
        assert_true(s.report.bound > 1e-5);
        assert_contract(&x, &s, 1e-6);
        solution_free(&s);
        free(truth);
        free(x.w);
    }
}

static void gesvd_can_be_asked_for(void **state)
{
    (void)state;
    struct svd_options options = svd_defaults();
    options.method = SVD_GESVD;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct matrix x = matrix_of_condition(shapes[i][0], shapes[i][1], 50, GEOMETRIC);
        double *truth = true_values(&x);
        struct solution s = solve_in(&x, options, 1, NULL, 0);
        assert_int_equal(s.status, 0);
        assert_int_equal(s.report.method, SVD_GESVD);
        assert_contract(&x, &s, 1e-6);
        assert_true(largest_error(&s, truth, 0) < 1e-12);
        solution_free(&s);
        free(truth);
        free(x.w);
    }
}

static void a_rank_deficient_matrix_has_zeros_at_the_end(void **state)
{
    (void)state;
    enum { RANK = 20 };
    for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
        struct matrix x = matrix_make(150, 120);
        static int a[150][RANK], b[RANK][120]; /* small integers: the product is exact in f32 */
        unsigned seed = 9;
        for (size_t k = 0; k < RANK; k++) {
            for (size_t i = 0; i < 150; i++)
                a[i][k] = (int)(3 * gaussian(&seed));
            for (size_t j = 0; j < 120; j++)
                b[k][j] = (int)(3 * gaussian(&seed));
        }
        for (size_t i = 0; i < 150; i++)
            for (size_t j = 0; j < 120; j++) {
                int sum = 0;
                for (size_t k = 0; k < RANK; k++)
                    sum += a[i][k] * b[k][j];
                x.w[i * 120 + j] = (float)sum;
            }
        struct solution s = solve(&x, (enum svd_precision)p);
        assert_contract(&x, &s, p == SVD_F32 ? 1e-5 : 1e-6);
        assert_true(s.sigma[RANK - 1] > 0.01 * s.sigma[0]);
        assert_true(s.sigma[RANK] < (p == SVD_F32 ? 1e-4 : 1e-12) * s.sigma[0]);
        if (p == SVD_PRECISION_AUTO)
            assert_true(s.report.bound <= 1e-5);
        solution_free(&s);
        free(x.w);
    }
}

static void equal_singular_values_are_no_trouble(void **state)
{
    (void)state;
    double s2[150];
    for (size_t i = 0; i < 150; i++)
        s2[i] = 2;
    struct matrix x = matrix_of_spectrum(150, 180, s2, 4);
    struct solution s = solve(&x, SVD_PRECISION_AUTO);
    assert_int_equal(s.report.precision, SVD_F32);
    for (size_t i = 0; i < 150; i++)
        assert_true(fabs(s.sigma[i] / 2 - 1) < 1e-6);
    assert_contract(&x, &s, 1e-4);
    solution_free(&s);
    free(x.w);
    for (size_t i = 0; i < 150; i++)
        s2[i] = 1 + (double)(i % 3); /* three clusters */
    x = matrix_of_spectrum(150, 150, s2, 4);
    for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
        s = solve(&x, (enum svd_precision)p);
        for (size_t i = 0; i < 150; i++)
            assert_true(fabs(s.sigma[i] / (double)(3 - i / 50) - 1) < 1e-6);
        assert_contract(&x, &s, 1e-5);
        solution_free(&s);
    }
    free(x.w);
}

static void a_zero_matrix_has_the_identity(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{20, 20}, {600, 5}, {5, 600}, {1, 1}};
    for (size_t k = 0; k < 4; k++)
        for (int method = SVD_AUTO; method <= SVD_GESVD; method += SVD_GESVD) {
            struct matrix x = matrix_make(sizes[k][0], sizes[k][1]);
            struct svd_options options = svd_defaults();
            options.method = (enum svd_method)method;
            struct solution s = solve_in(&x, options, 2, NULL, 0);
            assert_int_equal(s.status, 0);
            for (size_t i = 0; i < x.r; i++) {
                assert_true(s.sigma[i] == 0);
                for (size_t j = 0; j < x.r; j++)
                    assert_true(s.factor[i * x.r + j] == (float)(i == j));
            }
            assert_int_not_equal(s.report.method, SVD_AUTO);
            assert_int_not_equal(s.report.precision, SVD_PRECISION_AUTO);
            solution_free(&s);
            free(x.w);
        }
}

static void one_row_or_column_has_its_norm(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{1, 1}, {1, 2}, {1, 1000}, {1000, 1}, {2, 1}};
    for (size_t k = 0; k < 5; k++)
        for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
            struct matrix x = matrix_make(sizes[k][0], sizes[k][1]);
            double sum = 0;
            random_matrix(&x, 8);
            x.w[0] = -3;
            for (size_t i = 0; i < x.m * x.n; i++)
                sum += (double)x.w[i] * (double)x.w[i];
            struct solution s = solve(&x, (enum svd_precision)p);
            assert_true(fabs(s.sigma[0] / sqrt(sum) - 1) < 1e-6);
            assert_true(s.factor[0] == 1);
            solution_free(&s);
            free(x.w);
        }
}

static void scales_of_1e30_and_1e_minus_30_change_nothing(void **state)
{
    (void)state;
    static const float scales[] = {1, 0x1p100f, 0x1p-100f, 1e30f, 1e-30f};
    for (int wide = 0; wide < 2; wide++)
        for (int p = 0; p < SVD_PRECISION_COUNT; p++) {
            struct solution first = {0};
            for (size_t k = 0; k < 5; k++) {
                struct matrix x = matrix_of_condition(wide ? 80 : 120, wide ? 120 : 80, 20, LINEAR);
                matrix_scale(&x, scales[k]);
                struct solution s = solve(&x, (enum svd_precision)p);
                if (k == 0) {
                    first = s;
                } else {
                    for (size_t i = 0; i < x.r; i++)
                        assert_true(fabs(s.sigma[i] / (double)scales[k] / first.sigma[i] - 1) <
                                    1e-6);
                    assert_int_equal(s.report.precision, first.report.precision);
                    solution_free(&s);
                }
                free(x.w);
            }
            solution_free(&first);
        }
}

static void the_smallest_f32_numbers_are_decomposed(void **state)
{
    (void)state;
    struct matrix x = matrix_make(3, 2);
    x.w[0] = 0x1p-149f;
    x.w[3] = 0x1p-148f;
    struct solution s = solve(&x, SVD_PRECISION_AUTO);
    assert_true(s.sigma[0] == 0x1p-148 && s.sigma[1] == 0x1p-149);
    solution_free(&s);
    free(x.w);
}

static void the_bits_do_not_depend_on_the_crew(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{300, 220}, {130, 1200}, {1200, 130}, {600, 600}};
    for (size_t k = 0; k < 4; k++)
        for (int p = SVD_F32; p <= SVD_F64; p++)
            for (int full = 0; full < 2; full++) {
                struct matrix x = matrix_of_condition(sizes[k][0], sizes[k][1], 30, GEOMETRIC);
                struct svd_options options = options_of((enum svd_precision)p);
                options.check = full;
                struct solution one = solve_in(&x, options, 1, NULL, 0);
                assert_int_equal(one.status, 0);
                for (int size = 2; size <= LARGEST_CREW; size++) {
                    struct solution s = solve_in(&x, options, size, NULL, 0);
                    assert_int_equal(s.status, 0);
                    assert_memory_equal(s.sigma, one.sigma, x.r * sizeof *s.sigma);
                    assert_memory_equal(s.factor, one.factor, x.r * x.r * sizeof *s.factor);
                    assert_true(s.report.bound == one.report.bound);
                    assert_true(s.report.residual == one.report.residual);
                    assert_true(s.report.orthogonality == one.report.orthogonality);
                    solution_free(&s);
                }
                solution_free(&one);
                free(x.w);
            }
}

static void the_full_check_agrees_with_the_probes(void **state)
{
    (void)state;
    for (int p = SVD_F32; p <= SVD_F64; p++) {
        struct matrix x = matrix_of_condition(300, 260, 20, LINEAR);
        struct svd_options options = options_of((enum svd_precision)p);
        struct solution probed = solve_in(&x, options, 1, NULL, 0);
        options.check = true;
        struct solution full = solve_in(&x, options, 1, NULL, 0);
        assert_true(full.report.checked_in_full && !probed.report.checked_in_full);
        assert_true(full.report.orthogonality > 0 && full.report.residual > 0);
        assert_true(probed.report.residual > full.report.residual / 2);
        assert_true(probed.report.residual < full.report.residual * 30);
        assert_true(probed.report.orthogonality < full.report.orthogonality * 100);
        assert_true(full.report.orthogonality < probed.report.orthogonality * 3);
        solution_free(&full);
        solution_free(&probed);
        free(x.w);
    }
}

static void a_read_error_reaches_all_workers(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++)
        for (int size = 1; size <= LARGEST_CREW; size++) {
            struct matrix x = matrix_make(wide ? 200 : 1400, wide ? 300 : 40);
            random_matrix(&x, 1);
            x.failing_row = 150;
            struct solution s = solve_in(&x, svd_defaults(), size, NULL, 0);
            assert_int_equal(s.status, -1);
            assert_string_equal(s.message, "row 150 cannot be read");
            solution_free(&s);
            x.failing_row = SIZE_MAX;
            x.w[x.n * 33 + 5] = size == 1 ? NAN : -INFINITY;
            s = solve_in(&x, svd_defaults(), size, NULL, 0);
            assert_int_equal(s.status, -1);
            assert_non_null(strstr(s.message, "layer 3: an element of rows 32 to 47 is NaN"));
            solution_free(&s);
            free(x.w);
        }
}

static void less_memory_than_announced_is_an_error(void **state)
{
    (void)state;
    struct matrix x = matrix_make(100, 80);
    random_matrix(&x, 1);
    const struct svd_options options = svd_defaults();
    const size_t size = svd_work_bytes(x.m, x.n, &options, 2);
    for (int i = 1; i < 40; i++) {
        struct solution s = solve_in(&x, options, 2, NULL, size - size / 40 * (size_t)i);
        if (s.status != 0)
            assert_non_null(strstr(s.message, "too small"));
        solution_free(&s);
    }
    free(x.w);
}

static void grid_methods_are_not_for_one_node(void **state)
{
    (void)state;
    struct matrix x = matrix_make(2, 2);
    struct svd_options options = svd_defaults();
    options.method = SVD_SCALAPACK;
    struct solution s = solve_in(&x, options, 1, NULL, 0);
    assert_int_equal(s.status, -1);
    assert_string_equal(s.message,
                        "layer 3: method scalapack works on a grid of ranks, not by one node's "
                        "workers");
    solution_free(&s);
    free(x.w);
}

static void names_are_read_back(void **state)
{
    (void)state;
    for (int i = 0; i < SVD_METHOD_COUNT; i++) {
        enum svd_method method;
        assert_int_equal(svd_method_parse(svd_method_name((enum svd_method)i), &method), 0);
        assert_int_equal(method, i);
    }
    for (int i = 0; i < SVD_PRECISION_COUNT; i++) {
        enum svd_precision precision;
        assert_int_equal(svd_precision_parse(svd_precision_name((enum svd_precision)i), &precision),
                         0);
        assert_int_equal(precision, i);
    }
    enum svd_method method;
    assert_int_equal(svd_method_parse("magic", &method), -1);
    assert_string_equal(error_message(), "there is no decomposition method 'magic': choose auto, "
                                         "lapack, one-stage, two-stage, scalapack, elpa, gesvd or "
                                         "cusolver");
    assert_string_equal(svd_repair_name(SVD_REPAIR_JACOBI), "jacobi");
}

/* ---- repairs ----------------------------------------------------------------------------------
 */

enum damage { LENGTHEN, ROTATE, ROTATE_TWICE, SPOIL, SPOIL_ALWAYS, DROP };

static void damage(void *context, enum svd_repair after, size_t r, float *factor)
{
    const enum damage kind = *(const enum damage *)context;

    if (after != SVD_REPAIR_NONE && kind != SPOIL_ALWAYS && kind != ROTATE_TWICE)
        return;
    switch (kind) {
    case LENGTHEN:
        for (size_t i = 0; i < r; i++)
            factor[2 * r + i] *= 1.01f;
        break;
    case ROTATE_TWICE:
        if (after >= SVD_REPAIR_JACOBI)
            break;
        /* fall through */
    case ROTATE:
        for (size_t i = 0; i < r; i++) {
            const float a = factor[i], b = factor[(r - 1) * r + i];
            factor[i] = 0.8f * a + 0.6f * b;
            factor[(r - 1) * r + i] = 0.8f * b - 0.6f * a;
        }
        break;
    case SPOIL:
    case SPOIL_ALWAYS:
        factor[r + 1] = NAN;
        break;
    case DROP:
        memset(factor + 3 * r, 0, r * sizeof *factor);
        break;
    }
}

static void a_damaged_factor_is_repaired(void **state)
{
    (void)state;
    static const struct {
        enum damage damage;
        enum svd_repair repair;
    } cases[] = {{LENGTHEN, SVD_REPAIR_ORTHOGONALISED},
                 {ROTATE, SVD_REPAIR_JACOBI},
                 {ROTATE_TWICE, SVD_REPAIR_JACOBI},
                 {SPOIL, SVD_REPAIR_GESVD},
                 {DROP, SVD_REPAIR_JACOBI}};
    static const size_t sizes[][2] = {{150, 120}, {120, 150}, {130, 130}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int full = 0; full < 2; full++)
            for (int size = 1; size <= 2; size++) {
                enum damage kind = cases[i].damage;
                const struct svd_hook hook = {damage, &kind};
                struct matrix x = matrix_of_condition(sizes[i % 3][0], sizes[i % 3][1], 20, LINEAR);
                double *truth = true_values(&x);
                struct svd_options options = svd_defaults();
                options.check = full;
                struct solution s = solve_in(&x, options, size, &hook, 0);
                if (s.status != 0)
                    fail_msg("%s", s.message);
                assert_int_equal(s.report.repair, cases[i].repair);
                assert_int_equal(s.report.precision, SVD_F64);
                assert_int_equal(s.report.method,
                                 cases[i].repair == SVD_REPAIR_GESVD ? SVD_GESVD : SVD_ONE_STAGE);
                assert_contract(&x, &s, 1e-5);
                assert_true(largest_error(&s, truth, 0) < 1e-6);
                solution_free(&s);
                free(truth);
                free(x.w);
            }
}

static void a_factor_that_no_repair_helps_is_an_error(void **state)
{
    (void)state;
    enum damage kind = SPOIL_ALWAYS;
    const struct svd_hook hook = {damage, &kind};
    struct matrix x = matrix_of_condition(60, 50, 20, LINEAR);
    for (int size = 1; size <= 2; size++) {
        struct solution s = solve_in(&x, svd_defaults(), size, &hook, 0);
        assert_int_equal(s.status, -1);
        assert_non_null(strstr(s.message, "layer 3: its decomposition fails the contract"));
        solution_free(&s);
    }
    free(x.w);
}

int main(void)
{
    blas_single_thread();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_vectors_agree_with_lapack_in_every_shape),
        cmocka_unit_test(bounds_hold_for_every_condition),
        cmocka_unit_test(bounds_hold_for_gaussian_matrices),
        cmocka_unit_test(auto_keeps_f32_at_condition_20),
        cmocka_unit_test(auto_goes_to_f64_where_f32_is_not_enough),
        cmocka_unit_test(condition_1e12_ends_with_gesvd),
        cmocka_unit_test(gesvd_can_be_asked_for),
        cmocka_unit_test(a_rank_deficient_matrix_has_zeros_at_the_end),
        cmocka_unit_test(equal_singular_values_are_no_trouble),
        cmocka_unit_test(a_zero_matrix_has_the_identity),
        cmocka_unit_test(one_row_or_column_has_its_norm),
        cmocka_unit_test(scales_of_1e30_and_1e_minus_30_change_nothing),
        cmocka_unit_test(the_smallest_f32_numbers_are_decomposed),
        cmocka_unit_test(the_bits_do_not_depend_on_the_crew),
        cmocka_unit_test(the_full_check_agrees_with_the_probes),
        cmocka_unit_test(a_read_error_reaches_all_workers),
        cmocka_unit_test(less_memory_than_announced_is_an_error),
        cmocka_unit_test(grid_methods_are_not_for_one_node),
        cmocka_unit_test(names_are_read_back),
        cmocka_unit_test(a_damaged_factor_is_repaired),
        cmocka_unit_test(a_factor_that_no_repair_helps_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Decomposition on a CUDA device (or the stand-in for one), with the matrices that the processor's
 * tests use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>

#include "solver/device.h"
#include "solver/svd_cuda.h"
#include "tests/solver/svd_fixture.h"
#ifdef T2_STANDIN
#include "tests/standin/standin.h"
#endif

static struct svd_cuda *cuda;

static struct svd_options on_device(void)
{
    struct svd_options options = svd_defaults();
    options.method = SVD_CUSOLVER;
    options.cuda = cuda;
    return options;
}

static struct solution decompose(const struct matrix *x)
{
    struct solution s = solve_in(x, on_device(), 1, NULL, 0);
    if (s.status != 0)
        fail_msg("%s", s.message);
    return s;
}

static void assert_by_device(const struct solution *s)
{
    assert_int_equal(s->report.method, SVD_CUSOLVER);
    assert_int_equal(s->report.precision, SVD_F64);
    assert_int_equal(s->report.repair, SVD_REPAIR_NONE);
    assert_true(s->report.checked_in_full && !s->report.tried_f32 && !s->report.tried_f64);
    assert_true(s->report.orthogonality < 1e-6 && s->report.residual < 1e-6);
}

static const size_t shapes[][2] = {{150, 150}, {700, 90}, {90, 700},  {130, 129},
                                   {64, 65},   {7, 3},    {2500, 40}, {40, 5000}};

static void values_and_vectors_agree_with_lapack_in_every_shape(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct matrix x = matrix_of_condition(shapes[i][0], shapes[i][1], 20, LINEAR);
        double *truth = true_values(&x);
        struct solution s = decompose(&x);
        assert_by_device(&s);
        assert_contract(&x, &s, 1e-6);
        assert_int_equal(s.report.wide, x.m < x.n);
        assert_true(largest_error(&s, truth, 0) < 1e-13);
        solution_free(&s);
        free(truth);
        free(x.w);
    }
}

static void vectors_are_those_of_the_processor(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(260, 200, 10, LINEAR);
    struct solution s = decompose(&x), cpu = solve(&x, SVD_F64);
    for (size_t i = 0; i < x.r * x.r; i++)
        assert_true(fabsf(s.factor[i] - cpu.factor[i]) < 1e-6f);
    solution_free(&s);
    solution_free(&cpu);
    free(x.w);
}

static void bounds_hold_for_every_condition(void **state)
{
    (void)state;
    static const double conditions[] = {1, 20, 1e3, 1e5, 1e6};
    for (size_t i = 0; i < sizeof conditions / sizeof *conditions; i++)
        for (int fall = 0; fall < 2; fall++) {
            struct matrix x =
                matrix_of_condition(200, i % 2 ? 260 : 160, conditions[i], (enum fall)fall);
            double *truth = true_values(&x);
            struct solution s = decompose(&x);
            const double error = largest_error(&s, truth, 200 * 0x1p-52);
            assert_by_device(&s);
            if (error > s.report.bound + 1e-14)
                fail_msg("condition %g: error %.2e, bound %.2e", conditions[i], error,
                         s.report.bound);
            solution_free(&s);
            free(truth);
            free(x.w);
        }
}

static void condition_1e12_ends_with_gesvd(void **state)
{
    (void)state;
    for (int wide = 0; wide < 2; wide++) {
        struct matrix x = matrix_of_condition(wide ? 60 : 200, wide ? 200 : 60, 2, LINEAR);
        for (size_t i = 0; i < x.m; i++)
            for (size_t j = 0; j < x.n; j++)
                x.w[i * x.n + j] *= (float)pow(1e12, wide ? -(double)i / 60 : -(double)j / 60);
        double *truth = true_values(&x);
        struct solution s = decompose(&x);
        assert_true(s.report.tried_f64);
        assert_int_equal(s.report.method, SVD_GESVD);
        assert_contract(&x, &s, 1e-6);
        assert_true(largest_error(&s, truth, 60 * 0x1p-52) <= s.report.bound);
        solution_free(&s);
        free(truth);
        free(x.w);
    }
}

static void a_rank_deficient_matrix_has_zeros_at_the_end(void **state)
{
    (void)state;
    enum { RANK = 20 };
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
        for (size_t j = 0; j < 120; j++)
            for (size_t k = 0; k < RANK; k++)
                x.w[i * 120 + j] += (float)(a[i][k] * b[k][j]);
    struct solution s = decompose(&x);
    assert_contract(&x, &s, 1e-6);
    assert_true(s.sigma[RANK - 1] > 0.01 * s.sigma[0]);
    assert_true(s.sigma[RANK] < 1e-12 * s.sigma[0]);
    assert_true(s.report.bound <= 1e-5);
    solution_free(&s);
    free(x.w);
}

static void equal_singular_values_are_no_trouble(void **state)
{
    (void)state;
    double values[150];
    for (size_t i = 0; i < 150; i++)
        values[i] = 1 + (double)(i % 3); /* three clusters */
    struct matrix x = matrix_of_spectrum(150, 180, values, 4);
    struct solution s = decompose(&x);
    assert_by_device(&s);
    for (size_t i = 0; i < 150; i++)
        assert_true(fabs(s.sigma[i] / (double)(3 - i / 50) - 1) < 1e-6);
    assert_contract(&x, &s, 1e-6);
    solution_free(&s);
    free(x.w);
}

static void duplicate_rows_and_columns_are_no_trouble(void **state)
{
    (void)state;
    struct matrix x = matrix_make(200, 96), half = matrix_make(100, 48);
    random_matrix(&half, 3);
    for (size_t i = 0; i < x.m; i++)
        for (size_t j = 0; j < x.n; j++)
            x.w[i * x.n + j] = half.w[i / 2 * 48 + j % 48];
    free(half.w);
    struct solution s = decompose(&x);
    assert_contract(&x, &s, 1e-6);
    assert_true(s.sigma[47] > 0.01 * s.sigma[0] && s.sigma[48] < 1e-12 * s.sigma[0]);
    solution_free(&s);
    free(x.w);
}

static void a_zero_matrix_has_the_identity(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{20, 20}, {600, 5}, {5, 600}, {1, 1}};
    for (size_t k = 0; k < 4; k++) {
        struct matrix x = matrix_make(sizes[k][0], sizes[k][1]);
        struct solution s = decompose(&x);
        for (size_t i = 0; i < x.r; i++) {
            assert_true(s.sigma[i] == 0);
            for (size_t j = 0; j < x.r; j++)
                assert_true(s.factor[i * x.r + j] == (float)(i == j));
        }
        solution_free(&s);
        free(x.w);
    }
}

static void one_row_or_column_has_its_norm(void **state)
{
    (void)state;
    static const size_t sizes[][2] = {{1, 1}, {1, 2}, {1, 3000}, {3000, 1}, {2, 1}};
    for (size_t k = 0; k < 5; k++) {
        struct matrix x = matrix_make(sizes[k][0], sizes[k][1]);
        double sum = 0;
        random_matrix(&x, 8);
        x.w[0] = -3;
        for (size_t i = 0; i < x.m * x.n; i++)
            sum += (double)x.w[i] * (double)x.w[i];
        struct solution s = decompose(&x);
        assert_true(fabs(s.sigma[0] / sqrt(sum) - 1) < 1e-14);
        assert_true(s.factor[0] == 1);
        solution_free(&s);
        free(x.w);
    }
}

static void scales_of_1e30_and_1e_minus_30_change_nothing(void **state)
{
    (void)state;
    static const float scales[] = {1, 0x1p100f, 0x1p-100f, 1e30f, 1e-30f};
    struct solution first = {0};
    for (size_t k = 0; k < 5; k++) {
        struct matrix x = matrix_of_condition(80, 120, 20, LINEAR);
        matrix_scale(&x, scales[k]);
        struct solution s = decompose(&x);
        assert_by_device(&s);
        for (size_t i = 0; k > 0 && i < x.r; i++)
            assert_true(fabs(s.sigma[i] / (double)scales[k] / first.sigma[i] - 1) < 1e-6);
        free(x.w);
        if (k == 0)
            first = s;
        else
            solution_free(&s);
    }
    solution_free(&first);
}

static void the_smallest_f32_numbers_are_decomposed(void **state)
{
    (void)state;
    struct matrix x = matrix_make(3, 2);
    x.w[0] = 0x1p-149f;
    x.w[3] = 0x1p-148f;
    struct solution s = decompose(&x);
    assert_true(s.sigma[0] == 0x1p-148 && s.sigma[1] == 0x1p-149);
    solution_free(&s);
    free(x.w);
}

static void the_bits_do_not_depend_on_the_crew_or_on_what_came_before(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(300, 220, 30, GEOMETRIC);
    struct solution one = solve_in(&x, on_device(), 1, NULL, 0);
    assert_int_equal(one.status, 0);
    for (int size = 1; size <= LARGEST_CREW; size++) {
        struct matrix other = matrix_of_condition(100, 90, 5, LINEAR);
        struct solution between = decompose(&other), s = solve_in(&x, on_device(), size, NULL, 0);
        assert_int_equal(s.status, 0);
        assert_memory_equal(s.sigma, one.sigma, x.r * sizeof *s.sigma);
        assert_memory_equal(s.factor, one.factor, x.r * x.r * sizeof *s.factor);
        assert_true(s.report.bound == one.report.bound);
        assert_true(s.report.residual == one.report.residual);
        solution_free(&between);
        solution_free(&s);
        free(other.w);
    }
    solution_free(&one);
    free(x.w);
}

struct turn {
    pthread_t thread;
    struct matrix x;
    struct solution solution;
};

static void *take_turn(void *argument)
{
    struct turn *t = argument;
    t->solution = solve_in(&t->x, on_device(), 1, NULL, 0);
    return NULL;
}

static void threads_take_turns(void **state)
{
    (void)state;
    struct turn turns[3];
    for (size_t i = 0; i < 3; i++) {
        turns[i].x = matrix_of_condition(150 + 40 * i, 120, 30, GEOMETRIC);
        assert_int_equal(pthread_create(&turns[i].thread, NULL, take_turn, &turns[i]), 0);
    }
    for (size_t i = 0; i < 3; i++) {
        pthread_join(turns[i].thread, NULL);
        assert_int_equal(turns[i].solution.status, 0);
        struct solution alone = decompose(&turns[i].x);
        assert_memory_equal(alone.factor, turns[i].solution.factor,
                            120 * 120 * sizeof *alone.factor);
        solution_free(&alone);
        solution_free(&turns[i].solution);
        free(turns[i].x.w);
    }
}

static void a_read_error_leaves_the_device_to_others(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(100, 60, 5, LINEAR);
    x.failing_row = 50;
    for (int size = 1; size <= 2; size++) {
        struct solution s = solve_in(&x, on_device(), size, NULL, 0);
        assert_int_equal(s.status, -1);
        assert_string_equal(s.message, "row 50 cannot be read");
        solution_free(&s);
    }
    x.failing_row = SIZE_MAX;
    struct solution s = decompose(&x);
    assert_by_device(&s);
    solution_free(&s);
    free(x.w);
}

static void less_memory_than_announced_is_an_error(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(100, 60, 5, LINEAR);
    const struct svd_options options = on_device();
    const size_t all = svd_work_bytes(x.m, x.n, &options, 1);
    for (size_t missing = 64; missing < all; missing += all / 40) {
        struct solution s = solve_in(&x, options, 1 + missing / 64 % 2, NULL, missing);
        if (s.status != 0)
            assert_non_null(strstr(s.message, "too small"));
        solution_free(&s);
    }
    struct solution s = decompose(&x);
    assert_by_device(&s);
    solution_free(&s);
    free(x.w);
}

static void f32_is_refused(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(10, 10, 5, LINEAR);
    struct svd_options options = on_device();
    options.precision = SVD_F32;
    struct solution s = solve_in(&x, options, 1, NULL, 0);
    assert_int_equal(s.status, -1);
    assert_string_equal(s.message,
                        "layer 3: method cusolver needs a CUDA device, and works in f64");
    solution_free(&s);
    free(x.w);
}

static void damage(void *context, enum svd_repair after, size_t r, float *factor)
{
    (void)context, (void)r;
    if (after == SVD_REPAIR_NONE)
        factor[3] += 0.1f;
}

static void a_damaged_factor_is_repaired_by_the_processor(void **state)
{
    (void)state;
    struct matrix x = matrix_of_condition(130, 80, 5, LINEAR);
    const struct svd_hook hook = {damage, NULL};
    double *truth = true_values(&x);
    struct solution s = solve_in(&x, on_device(), 2, &hook, 0);
    assert_int_equal(s.status, 0);
    assert_int_not_equal(s.report.repair, SVD_REPAIR_NONE);
    assert_true(largest_error(&s, truth, 0) < 1e-10);
    assert_contract(&x, &s, 1e-5);
    solution_free(&s);
    free(truth);
    free(x.w);
}

static void every_failure_of_the_device_is_told(void **state)
{
    (void)state;
#ifdef T2_STANDIN
    struct matrix x = matrix_of_condition(40, 30, 5, LINEAR);
    struct solution s = decompose(&x);
    bool failed = true;
    solution_free(&s);
    for (long n = 1; failed; n++) {
        assert_true(n < 100);
        standin_fail_after(n);
        s = solve_in(&x, on_device(), 1 + (int)(n % 2), NULL, 0);
        failed = s.status != 0;
        if (failed && !strstr(s.message, "CUDA device 0"))
            fail_msg("failure %ld: '%s'", n, s.message);
        solution_free(&s);
    }
    standin_fail_after(0);
    s = decompose(&x);
    assert_by_device(&s);
    solution_free(&s);
    free(x.w);
    const size_t allocated = standin_allocated();
    for (long n = 1; n <= 2; n++) {
        standin_fail_after(n);
        assert_null(svd_cuda_create(0));
        assert_non_null(strstr(error_message(), "CUDA device 0"));
    }
    standin_fail_after(0);
    assert_true(standin_allocated() == allocated);
#endif
}

static void a_device_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    assert_null(svd_cuda_create(1000));
    assert_non_null(strstr(error_message(), "CUDA device 1000"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_vectors_agree_with_lapack_in_every_shape),
        cmocka_unit_test(vectors_are_those_of_the_processor),
        cmocka_unit_test(bounds_hold_for_every_condition),
        cmocka_unit_test(condition_1e12_ends_with_gesvd),
        cmocka_unit_test(a_rank_deficient_matrix_has_zeros_at_the_end),
        cmocka_unit_test(equal_singular_values_are_no_trouble),
        cmocka_unit_test(duplicate_rows_and_columns_are_no_trouble),
        cmocka_unit_test(a_zero_matrix_has_the_identity),
        cmocka_unit_test(one_row_or_column_has_its_norm),
        cmocka_unit_test(scales_of_1e30_and_1e_minus_30_change_nothing),
        cmocka_unit_test(the_smallest_f32_numbers_are_decomposed),
        cmocka_unit_test(the_bits_do_not_depend_on_the_crew_or_on_what_came_before),
        cmocka_unit_test(threads_take_turns),
        cmocka_unit_test(a_read_error_leaves_the_device_to_others),
        cmocka_unit_test(less_memory_than_announced_is_an_error),
        cmocka_unit_test(f32_is_refused),
        cmocka_unit_test(a_damaged_factor_is_repaired_by_the_processor),
        cmocka_unit_test(every_failure_of_the_device_is_told),
        cmocka_unit_test(a_device_that_is_not_there_is_an_error),
    };

    if (device_check(&(struct device){DEVICE_CUDA, 0}) != 0) {
        printf("SKIPPED: %s\n", error_message());
        return 77;
    }
    cuda = svd_cuda_create(0);
    if (!cuda) {
        fprintf(stderr, "%s\n", error_message());
        return 1;
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    svd_cuda_free(cuda);
    return failed;
}

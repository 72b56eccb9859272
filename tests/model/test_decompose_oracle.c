/* The matrices of data/mini against numpy's f64 SVD (tests/oracle/svd_fixture.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <stdlib.h>

#include "model/checkpoint.h"
#include "mpi/error.h"
#include "solver/svd.h"

static struct checkpoint *mini;
static json_t *expected; /* {tensor: [values]} */

static int read_tensor(const void *context, size_t first, size_t n, float *out)
{
    tensor_read_rows(context, first, n, out);
    return 0;
}

/* One matrix by one worker; sigma [r], factor [r, r], malloc'ed by the caller. */
static void solve(const struct tensor *t, enum svd_precision precision, double *sigma,
                  float *factor, struct svd_report *report)
{
    const struct svd_source source = {tensor_n_rows(t), tensor_row_elements(t), read_tensor, t,
                                      t->name};
    const struct crew crew = crew_alone();
    struct svd_options options = svd_defaults();
    options.precision = precision;
    options.check = true;
    struct arena arena = {.size =
                              svd_work_bytes(source.n_rows, source.n_columns, &options, crew.size)};

    arena.base = aligned_alloc(64, (arena.size + 63) / 64 * 64);
    assert_non_null(arena.base);
    if (svd_solve(&crew, &arena, &source, &options, sigma, factor, report) != 0)
        fail_msg("%s: %s", t->name, error_message());
    free(arena.base);
}

static size_t order(const struct tensor *t)
{
    const size_t m = tensor_n_rows(t), n = tensor_row_elements(t);
    return m < n ? m : n;
}

/* Every value of every matrix within `tolerance`, relative. */
static void check_values(enum svd_precision precision, double tolerance)
{
    const char *name;
    json_t *values;

    json_object_foreach(expected, name, values)
    {
        const struct tensor *t = checkpoint_find(mini, name);
        assert_non_null(t);
        const size_t r = order(t);
        double *sigma = malloc(r * sizeof *sigma);
        float *factor = malloc(r * r * sizeof *factor);
        struct svd_report report;

        assert_non_null(sigma);
        assert_non_null(factor);
        assert_int_equal(json_array_size(values), r);
        solve(t, precision, sigma, factor, &report);
        assert_true(report.method != SVD_AUTO && report.precision != SVD_PRECISION_AUTO);
        for (size_t i = 0; i < r; i++) {
            const double s = json_real_value(json_array_get(values, i));
            if (!(fabs(sigma[i] - s) <= tolerance * s))
                fail_msg("%s: singular value %zu is %.17g, expected %.17g", name, i, sigma[i], s);
        }
        free(sigma);
        free(factor);
    }
}

static void auto_agrees_with_numpy_to_1e_5(void **state)
{
    (void)state;
    check_values(SVD_PRECISION_AUTO, 1e-5);
}

static void f64_agrees_with_numpy_to_1e_8(void **state)
{
    (void)state;
    check_values(SVD_F64, 1e-8);
}

/* |W q_i| = sigma_i and q_i . q_j = 0 from the factor as it is stored: it belongs to these values,
 * is V^T of a tall and U^T of a wide matrix, and has singular vectors as rows. */
static void rows_of_the_factor_are_the_vectors_of_the_values(void **state)
{
    (void)state;
    static const char *const names[] = {
        "model.layers.2.mlp.gate_proj.weight",    /* tall */
        "model.layers.2.mlp.down_proj.weight",    /* wide */
        "model.layers.2.self_attn.q_proj.weight", /* square */
    };

    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        const struct tensor *t = checkpoint_find(mini, names[k]);
        assert_non_null(t);
        const size_t m = tensor_n_rows(t), n = tensor_row_elements(t), r = order(t);
        double *sigma = malloc(r * sizeof *sigma);
        float *factor = malloc(r * r * sizeof *factor), *w = malloc(m * n * sizeof *w);
        struct svd_report report;

        assert_true(sigma && factor && w);
        solve(t, SVD_PRECISION_AUTO, sigma, factor, &report);
        assert_int_equal(report.wide, m < n);
        tensor_read_rows(t, 0, m, w);
        for (size_t i = 0; i < r; i++) {
            const float *q = factor + i * r;
            double square = 0;
            for (size_t a = 0; a < (report.wide ? n : m); a++) {
                double product = 0;
                for (size_t b = 0; b < r; b++)
                    product += (double)q[b] * (double)(report.wide ? w[b * n + a] : w[a * n + b]);
                square += product * product;
            }
            assert_true(fabs(sqrt(square) - sigma[i]) <= 1e-5 * sigma[0]);
            for (size_t j = 0; j <= i; j++) {
                double product = 0;
                for (size_t b = 0; b < r; b++)
                    product += (double)q[b] * (double)factor[j * r + b];
                assert_true(fabs(product - (i == j)) <= 2e-5);
            }
        }
        free(sigma);
        free(factor);
        free(w);
    }
}

static int open_files(void **state)
{
    json_error_t error;

    (void)state;
    mini = checkpoint_open(T2_DATA_DIR "/mini");
    expected = json_load_file(T2_FIXTURES "/svd_mini.json", 0, &error);
    return mini && json_object_size(expected) == 35 ? 0 : -1;
}

static int close_files(void **state)
{
    (void)state;
    checkpoint_free(mini);
    json_decref(expected);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_agrees_with_numpy_to_1e_5),
        cmocka_unit_test(f64_agrees_with_numpy_to_1e_8),
        cmocka_unit_test(rows_of_the_factor_are_the_vectors_of_the_values),
    };
    return cmocka_run_group_tests(tests, open_files, close_files);
}

/* Experts side by side: names, checks, the union of their matrices, and mixtures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "model/expert_set.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "tests/model/factors_files.h"

static char folder[] = "/tmp/t2-experts-XXXXXX";
static char text[1024];
static struct factors *factors;
static char identity[65], fingerprint[65];

static const char *at(const char *name)
{
    static char paths[4][128];
    static int turn;
    char *path = paths[turn++ % 4];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* An expert of down_proj in `layers` (a mask) with p_i = base + i / 10 and z = 2 sigmoid(p). */
static void put_expert(const char *name, unsigned layers, float base, bool sigmoid,
                       const char *of_factors)
{
    struct expert_matrix matrices[3];
    struct expert_parameter parameters[3][2];
    float z[3][3], p[3][3];
    struct expert e = {.kind = "svf",
                       .parametrisation = sigmoid ? "sigmoid" : "direct",
                       .model = "m",
                       .factors_identity = (char *)(uintptr_t)of_factors,
                       .matrices = matrices};
    memcpy(e.identity, identity, sizeof identity);
    for (size_t layer = 0; layer < 3; layer++) {
        if (!(layers >> layer & 1))
            continue;
        for (size_t i = 0; i < 3; i++) {
            p[layer][i] = base + (float)i / 10;
            z[layer][i] = 2 / (1 + expf(-p[layer][i]));
        }
        parameters[layer][0] = (struct expert_parameter){"z", 3, 0, z[layer]};
        parameters[layer][1] = (struct expert_parameter){"p", 3, 0, p[layer]};
        matrices[e.n_matrices++] = (struct expert_matrix){made_module(layer, "mlp.down_proj", 3, 5),
                                                          parameters[layer], sigmoid ? 2 : 1};
    }
    const char *path = at(name);
    hid_t file = h5_create(path);
    assert_int_equal(expert_put(file, &e), 0);
    assert_int_equal(h5_write(file, path), 0);
    h5_close(file);
}

static int make_files(void **state)
{
    struct factors_origin origin = made_origin();
    struct module modules[3];
    (void)state;

    assert_non_null(mkdtemp(folder));
    snprintf(identity, sizeof identity, "%s", origin.identity);
    for (size_t i = 0; i < 3; i++) {
        modules[i] = made_module(i, "mlp.down_proj", 3, 5);
        struct factors_matrix m = made_matrix(&modules[i]);
        assert_int_equal(factors_write_part(at("f.h5"), &origin, FACTORS_F32, &m), 0);
        free((void *)(uintptr_t)m.sigma);
        free((void *)(uintptr_t)m.factor);
    }
    assert_int_equal(factors_merge(at("f.h5"), &origin, FACTORS_F32, modules, 3), 0);
    factors = factors_open(at("f.h5"));
    assert_non_null(factors);
    assert_int_equal(factors_fingerprint(factors, fingerprint), 0);
    put_expert("a.h5", 3, 0.2f, true, fingerprint);
    put_expert("b.h5", 3, -0.4f, true, fingerprint);
    put_expert("c.h5", 6, 0.8f, false, NULL);
    put_expert("other.h5", 3, 0.8f, false, identity);
    return 0;
}

static int remove_files(void **state)
{
    static const char *const names[] = {"a.h5", "b.h5", "c.h5", "other.h5", "f.h5"};
    (void)state;

    factors_close(factors);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(at(names[i]));
    return rmdir(folder);
}

static struct expert_set opened(const char *format)
{
    struct expert_set set;

    snprintf(text, sizeof text, format, folder, folder, folder);
    if (expert_set_open(&set, text, identity, "m") != 0)
        fail_msg("%s", error_message());
    return set;
}

static void refused(const char *format, const char *part)
{
    struct expert_set set;

    snprintf(text, sizeof text, format, folder, folder, folder);
    assert_int_equal(expert_set_open(&set, text, identity, "m"), -1);
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in '%s'", part, error_message());
    expert_set_free(&set);
}

static void names_are_file_stems_or_given(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,maths=%s/b.h5");

    assert_int_equal(set.n, 2);
    assert_string_equal(set.names[0], "a");
    assert_string_equal(set.names[1], "maths");
    assert_int_equal(expert_set_find(&set, "maths"), 1);
    assert_int_equal(expert_set_find(&set, "b"), 2);
    expert_set_free(&set);
}

static void lists_that_make_no_sense_are_refused(void **state)
{
    struct expert_set set;
    (void)state;

    refused("%s/a.h5,%s/a.h5", "two experts are called a");
    refused("%s/a.h5,", "missing");
    refused("", "missing");
    refused("x=,%s/a.h5", "empty file name");
    refused("=%s/a.h5", "empty name");
    refused("%s/absent.h5", "absent.h5");
    refused("%s/a.h5,%s/other.h5", "different factors");
    refused("%s/f.h5", "not an expert file");
    snprintf(text, sizeof text, "%s/a.h5", folder);
    assert_int_equal(expert_set_open(&set, text, fingerprint, "m"), -1);
    assert_non_null(strstr(error_message(), "another model"));
    expert_set_free(&set);
}

static void the_union_has_ones_where_an_expert_lacks_a_matrix(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,%s/c.h5");

    assert_int_equal(set.n_modules, 3);
    assert_int_equal(set.n_layers, 3);
    assert_int_equal(set.n_parameters, 9);
    for (size_t i = 0; i < 3; i++) {
        assert_true(set.z[0][6 + i] == 1 && set.z[1][i] == 1);
        assert_true(set.z[0][i] != 1 && set.z[1][6 + i] != 1);
    }
    assert_null(set.p);
    assert_int_equal(expert_set_take_factors(&set, factors), 0);
    assert_true(set.sigma[0] == factors_get(factors, 0)->sigma[0]);
    expert_set_free(&set);
}

static void one_expert_alone_is_itself_in_every_reading(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,%s/b.h5");
    const double alpha[] = {0, 1};
    float out[6];

    for (int reading = EXPERT_MIX_Z; reading <= EXPERT_MIX_DELTA; reading++) {
        assert_int_equal(
            expert_set_mix(&set, (enum expert_mix)reading, alpha, EXPERT_PER_EXPERT, out), 0);
        assert_memory_equal(out, set.z[1], sizeof out);
    }
    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_P, alpha, EXPERT_PER_EXPERT, out), -1);
    assert_int_equal(expert_set_take_factors(&set, factors), 0);
    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_P, alpha, EXPERT_PER_EXPERT, out), 0);
    /* c sigmoid(p), whose sum with sigma is sigma's. */
    double sum = 0, sum_e = 0;
    for (size_t i = 0; i < 3; i++) {
        sum += set.sigma[i];
        sum_e += set.sigma[i] * (double)out[i];
        assert_true(fabs((double)out[i] / (double)out[0] -
                         (double)set.z[1][i] / (double)set.z[1][0]) < 1e-6);
    }
    assert_true(fabs(sum - sum_e) < 1e-6 * sum);
    expert_set_free(&set);
}

static void the_readings_agree_where_coefficients_sum_to_one(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,%s/b.h5");
    double alpha[] = {0.25, 0.75}, zero[] = {0, 0};
    float z[6], delta[6];

    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_Z, alpha, EXPERT_PER_EXPERT, z), 0);
    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_DELTA, alpha, EXPERT_PER_EXPERT, delta), 0);
    for (size_t i = 0; i < 6; i++)
        assert_true(fabsf(z[i] - delta[i]) < 1e-6f);
    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_DELTA, zero, EXPERT_PER_EXPERT, delta), 0);
    for (size_t i = 0; i < 6; i++)
        assert_true(delta[i] == 1);
    alpha[0] = INFINITY;
    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_Z, alpha, EXPERT_PER_EXPERT, z), -1);
    assert_non_null(strstr(error_message(), "not finite"));
    expert_set_free(&set);
}

static void coefficients_of_a_layer_or_matrix_touch_it_alone(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,%s/c.h5");
    const double alpha[] = {0, 0, 1, 0, 0, 0.5};
    float out[9];
    char name[64];

    for (int g = EXPERT_PER_LAYER; g <= EXPERT_PER_MATRIX; g++) {
        const enum expert_granularity granularity = (enum expert_granularity)g;
        assert_int_equal(expert_set_n_groups(&set, granularity), 3);
        assert_int_equal(expert_set_mix(&set, EXPERT_MIX_DELTA, alpha, granularity, out), 0);
        for (size_t i = 0; i < 3; i++) {
            assert_true(out[i] == 1 && out[3 + i] == set.z[0][3 + i]);
            assert_true(fabsf(out[6 + i] - (1 + (set.z[1][6 + i] - 1) / 2)) < 1e-7f);
        }
    }
    expert_set_group_name(&set, EXPERT_PER_MATRIX, 1, name, sizeof name);
    assert_string_equal(name, "layers.1.mlp.down_proj");
    expert_set_group_name(&set, EXPERT_PER_LAYER, 2, name, sizeof name);
    assert_string_equal(name, "layer 2");
    expert_set_free(&set);
}

static void normalised_rows_sum_to_one(void **state)
{
    (void)state;
    double alpha[] = {1, 3, 0, 0};

    expert_set_normalise(alpha, 2, 2);
    assert_true(alpha[0] == 0.25 && alpha[1] == 0.75 && alpha[2] == 0.5 && alpha[3] == 0.5);
}

static void a_mixture_makes_an_expert_of_its_own(void **state)
{
    (void)state;
    struct expert_set set = opened("%s/a.h5,%s/c.h5"), again;
    const double alpha[] = {0.5, 0.5};
    float out[9];
    struct expert made = {0};

    assert_int_equal(expert_set_mix(&set, EXPERT_MIX_Z, alpha, EXPERT_PER_EXPERT, out), 0);
    assert_int_equal(expert_set_make_expert(&set, out, &made), 0);
    const char *path = at("b.h5");
    hid_t file = h5_create(path);
    assert_int_equal(expert_put(file, &made), 0);
    assert_int_equal(h5_write(file, path), 0);
    h5_close(file);
    expert_free(&made);
    again = opened("%s/b.h5");
    assert_int_equal(again.n_parameters, 9);
    assert_memory_equal(again.z[0], out, sizeof out);
    assert_string_equal(again.identity, fingerprint);
    expert_set_free(&again);
    expert_set_free(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_file_stems_or_given),
        cmocka_unit_test(lists_that_make_no_sense_are_refused),
        cmocka_unit_test(the_union_has_ones_where_an_expert_lacks_a_matrix),
        cmocka_unit_test(one_expert_alone_is_itself_in_every_reading),
        cmocka_unit_test(the_readings_agree_where_coefficients_sum_to_one),
        cmocka_unit_test(coefficients_of_a_layer_or_matrix_touch_it_alone),
        cmocka_unit_test(normalised_rows_sum_to_one),
        cmocka_unit_test(a_mixture_makes_an_expert_of_its_own),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}

/* An expert of one model on another: identity, truncation, interpolation, the shuffled control. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "model/transfer.h"
#include "mpi/error.h"
#include "tests/model/factors_files.h"

static const char down[] = "mlp.down_proj", query[] = "self_attn.q_proj";
static char folder[] = "/tmp/t2-transfer-XXXXXX";

/* ---- two models -------------------------------------------------------------------------------
 */

/* A factor file with `name` of rank r in each of n_layers layers, and another module or none. */
static struct factors *made_factors(const char *name, size_t r, size_t first, size_t n_layers,
                                    const char *beside)
{
    struct factors_origin origin = made_origin();
    struct module modules[16];
    char path[128];
    size_t n = 0;

    memset(origin.identity, 'b', 64);
    snprintf(path, sizeof path, "%s/f.h5", folder);
    for (size_t layer = first; layer < first + n_layers; layer++) {
        if (beside)
            modules[n++] = made_module(layer, beside, r, r);
        modules[n++] = made_module(layer, name, r, r + 2);
    }
    for (size_t i = 0; i < n; i++) {
        struct factors_matrix m = made_matrix(&modules[i]);
        assert_int_equal(factors_write_part(path, &origin, FACTORS_F32, &m), 0);
        made_free(&m);
    }
    assert_int_equal(factors_merge(path, &origin, FACTORS_F32, modules, n), 0);
    struct factors *factors = factors_open(path);
    if (!factors)
        fail_msg("%s", error_message());
    unlink(path);
    return factors;
}

/* The number of component i in a layer, different for all. */
static float number(size_t layer, size_t i)
{
    return 1 + 0.125f * (float)(layer + 1) + 0.0078125f * (float)i;
}

enum { MOST = 8 };

/* An expert of down_proj in the layers of a mask, all of one rank. */
struct made_expert {
    struct expert e;
    struct expert_matrix matrices[MOST];
    struct expert_parameter parameters[MOST][2];
    float z[MOST][64], p[MOST][64];
};

static struct made_expert *made_expert(unsigned layers, size_t r, bool sigmoid)
{
    struct made_expert *m = calloc(1, sizeof *m);

    assert_non_null(m);
    m->e = (struct expert){
        .kind = "svf", .parametrisation = sigmoid ? "sigmoid" : "direct", .matrices = m->matrices};
    memset(m->e.identity, 'a', 64);
    for (size_t layer = 0; layer < MOST; layer++) {
        const size_t k = m->e.n_matrices;
        if (!(layers >> layer & 1))
            continue;
        for (size_t i = 0; i < r; i++) {
            m->z[k][i] = number(layer, i);
            m->p[k][i] = number(layer, i) - 1;
        }
        m->parameters[k][0] = (struct expert_parameter){"z", r, 0, m->z[k]};
        m->parameters[k][1] = (struct expert_parameter){"p", r, 0, m->p[k]};
        m->matrices[k] = (struct expert_matrix){made_module(layer, down, r, r + 4),
                                                m->parameters[k], sigmoid ? 2 : 1};
        m->e.n_matrices++;
    }
    return m;
}

/* ---- moving -----------------------------------------------------------------------------------
 */

struct moved {
    struct expert e;
    size_t n_moved;
};

static struct moved move_with(const struct made_expert *from, struct factors *factors,
                              enum transfer_order order, enum transfer_shape shape, uint64_t seed)
{
    const struct transfer_options options = {order, shape, seed};
    struct moved moved = {0};

    if (transfer_expert(&from->e, factors, &options, &moved.e, &moved.n_moved) != 0)
        fail_msg("%s", error_message());
    return moved;
}

static struct moved move(const struct made_expert *from, struct factors *factors,
                         enum transfer_shape shape)
{
    return move_with(from, factors, TRANSFER_ORDERED, shape, 0);
}

static void refused(const struct made_expert *from, struct factors *factors,
                    enum transfer_shape shape, const char *part)
{
    const struct transfer_options options = {TRANSFER_ORDERED, shape, 0};
    struct expert to = {0};
    size_t n_moved = 7;

    assert_int_equal(transfer_expert(&from->e, factors, &options, &to, &n_moved), -1);
    if (!strstr(error_message(), part))
        fail_msg("'%s' is not in '%s'", part, error_message());
    expert_free(&to);
}

static const float *vector_of(const struct expert *e, size_t layer, const char *name)
{
    for (size_t i = 0; i < e->n_matrices; i++)
        if (e->matrices[i].module.layer == layer)
            return expert_vector(&e->matrices[i], name);
    return NULL;
}

/* ---- statements -------------------------------------------------------------------------------
 */

static void equal_shapes_keep_every_number_whatever_the_shape_option(void **state)
{
    struct factors *factors = made_factors(down, 5, 0, 3, query);
    struct made_expert *from = made_expert(7, 5, false);
    (void)state;

    for (int shape = TRANSFER_SAME; shape <= TRANSFER_INTERPOLATE; shape++) {
        struct moved to = move(from, factors, (enum transfer_shape)shape);
        assert_int_equal(to.n_moved, 3);
        assert_int_equal(to.e.n_matrices, 3); /* what the expert leaves alone is not there */
        for (size_t layer = 0; layer < 3; layer++)
            assert_memory_equal(vector_of(&to.e, layer, "z"), from->z[layer], 5 * sizeof(float));
        expert_free(&to.e);
    }
    free(from);
    factors_close(factors);
}

static void the_result_belongs_to_the_other_model(void **state)
{
    struct factors *factors = made_factors(down, 5, 0, 2, NULL);
    struct made_expert *from = made_expert(3, 5, false);
    struct moved to = move(from, factors, TRANSFER_SAME);
    char fingerprint[65];
    (void)state;

    assert_int_equal(factors_fingerprint(factors, fingerprint), 0);
    assert_string_equal(to.e.factors_identity, fingerprint);
    assert_string_equal(to.e.identity, factors_identity(factors));
    assert_string_equal(to.e.kind, "svf");
    /* The shape is the other model's (5 x 7), not the expert's (5 x 9). */
    assert_int_equal(to.e.matrices[0].module.n_columns, 7);
    expert_free(&to.e);
    free(from);
    factors_close(factors);
}

static void other_shapes_need_a_decision(void **state)
{
    struct factors *same = made_factors(down, 5, 0, 3, NULL);
    struct factors *without = made_factors(query, 5, 0, 3, NULL);
    struct factors *later = made_factors(down, 5, 1, 2, NULL);
    struct made_expert *small = made_expert(7, 4, false), *flat = made_expert(3, 5, false);
    struct made_expert *all = made_expert(7, 5, false);
    (void)state;

    refused(small, same, TRANSFER_SAME, "4 singular values in the expert's model and 5");
    refused(small, same, TRANSFER_SAME, "--shape truncate or --shape interpolate");
    refused(flat, same, TRANSFER_SAME, "in 2 layers, the factors have it in 3");
    refused(all, later, TRANSFER_SAME, "no mlp.down_proj of layer 0");
    for (int shape = TRANSFER_SAME; shape <= TRANSFER_INTERPOLATE; shape++)
        refused(all, without, (enum transfer_shape)shape, "no mlp.down_proj, which the expert");
    free(small);
    free(flat);
    free(all);
    factors_close(same);
    factors_close(without);
    factors_close(later);
}

static void truncation_takes_the_largest_components_and_the_first_layers(void **state)
{
    struct factors *small = made_factors(down, 3, 0, 2, NULL);
    struct factors *large = made_factors(down, 6, 0, 4, NULL);
    struct made_expert *from = made_expert(7, 5, false);
    (void)state;

    struct moved to = move(from, small, TRANSFER_TRUNCATE);
    assert_int_equal(to.n_moved, 2);
    for (size_t layer = 0; layer < 2; layer++)
        assert_memory_equal(vector_of(&to.e, layer, "z"), from->z[layer], 3 * sizeof(float));
    expert_free(&to.e);

    to = move(from, large, TRANSFER_TRUNCATE);
    assert_int_equal(to.e.n_matrices, 3);
    assert_null(vector_of(&to.e, 3, "z")); /* the base model's */
    for (size_t layer = 0; layer < 3; layer++) {
        const float *z = vector_of(&to.e, layer, "z");
        assert_memory_equal(z, from->z[layer], 5 * sizeof(float));
        assert_true(z[5] == 1);
    }
    expert_free(&to.e);
    free(from);
    factors_close(small);
    factors_close(large);
}

static void interpolation_keeps_both_ends_and_straight_lines(void **state)
{
    static const size_t ranks[] = {1, 2, 3, 5, 7, 64};
    struct made_expert *from = made_expert(1, 5, false);
    (void)state;

    for (size_t t = 0; t < sizeof ranks / sizeof *ranks; t++) {
        const size_t r = ranks[t];
        struct factors *factors = made_factors(down, r, 0, 1, NULL);
        struct moved to = move(from, factors, TRANSFER_INTERPOLATE);
        const float *z = vector_of(&to.e, 0, "z"), *own = from->z[0];
        assert_true(z[0] == own[0]);
        assert_true(r == 1 || z[r - 1] == own[4]);
        for (size_t i = 1; i < r; i++) {
            const float line = own[0] + (own[4] - own[0]) * (float)i / (float)(r - 1);
            assert_true(fabsf(z[i] - line) < 1e-6f);
        }
        expert_free(&to.e);
        factors_close(factors);
    }
    free(from);
}

static void one_component_is_interpolated_to_all(void **state)
{
    struct factors *factors = made_factors(down, 4, 0, 1, NULL);
    struct made_expert *from = made_expert(1, 1, false);
    struct moved to = move(from, factors, TRANSFER_INTERPOLATE);
    (void)state;

    for (size_t i = 0; i < 4; i++)
        assert_true(vector_of(&to.e, 0, "z")[i] == from->z[0][0]);
    expert_free(&to.e);
    free(from);
    factors_close(factors);
}

static void layers_take_the_nearest_one(void **state)
{
    struct factors *deep = made_factors(down, 3, 0, 6, NULL);
    struct factors *flat = made_factors(down, 3, 0, 1, NULL);
    struct made_expert *from = made_expert(7, 3, false);
    static const size_t nearest[] = {0, 0, 1, 1, 2, 2};
    (void)state;

    struct moved to = move(from, deep, TRANSFER_INTERPOLATE);
    assert_int_equal(to.n_moved, 3);
    for (size_t layer = 0; layer < 6; layer++)
        assert_memory_equal(vector_of(&to.e, layer, "z"), from->z[nearest[layer]],
                            3 * sizeof(float));
    expert_free(&to.e);

    to = move(from, flat, TRANSFER_INTERPOLATE);
    assert_int_equal(to.n_moved, 1);
    assert_memory_equal(vector_of(&to.e, 0, "z"), from->z[0], 3 * sizeof(float));
    expert_free(&to.e);
    free(from);
    factors_close(deep);
    factors_close(flat);
}

static void a_layer_that_the_expert_leaves_out_stays_the_bases(void **state)
{
    struct factors *factors = made_factors(down, 3, 0, 3, NULL);
    struct made_expert *from = made_expert(1 | 4, 3, false); /* layers 0 and 2 */
    struct moved to = move(from, factors, TRANSFER_SAME);
    (void)state;

    assert_int_equal(to.n_moved, 2);
    assert_null(vector_of(&to.e, 1, "z"));
    assert_memory_equal(vector_of(&to.e, 2, "z"), from->z[1], 3 * sizeof(float));
    expert_free(&to.e);
    free(from);
    factors_close(factors);
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void shuffling_keeps_the_numbers_and_loses_their_order(void **state)
{
    enum { RANK = 48 };
    struct factors *factors = made_factors(down, RANK, 0, 2, NULL);
    struct factors *beside = made_factors(down, RANK, 0, 2, query);
    struct made_expert *from = made_expert(3, RANK, false);
    struct moved one = move_with(from, factors, TRANSFER_SHUFFLED, TRANSFER_SAME, 5);
    struct moved again = move_with(from, beside, TRANSFER_SHUFFLED, TRANSFER_SAME, 5);
    struct moved other = move_with(from, factors, TRANSFER_SHUFFLED, TRANSFER_SAME, 6);
    float sorted[2][RANK];
    (void)state;

    for (size_t layer = 0; layer < 2; layer++) {
        const float *z = vector_of(&one.e, layer, "z");
        memcpy(sorted[layer], z, sizeof sorted[layer]);
        assert_memory_not_equal(z, from->z[layer], sizeof sorted[layer]);
        /* The same seed, whatever else the file holds; another seed, another order. */
        assert_memory_equal(z, vector_of(&again.e, layer, "z"), sizeof sorted[layer]);
        assert_memory_not_equal(z, vector_of(&other.e, layer, "z"), sizeof sorted[layer]);
        qsort(sorted[layer], RANK, sizeof(float), compare_floats);
        assert_memory_equal(sorted[layer], from->z[layer], sizeof sorted[layer]);
    }
    /* Each matrix has its own order. */
    size_t n_same = 0;
    for (size_t i = 0; i < RANK; i++)
        n_same += vector_of(&one.e, 0, "z")[i] - number(0, 0) ==
                  vector_of(&one.e, 1, "z")[i] - number(1, 0);
    assert_true(n_same < RANK / 2);
    expert_free(&one.e);
    expert_free(&again.e);
    expert_free(&other.e);
    free(from);
    factors_close(factors);
    factors_close(beside);
}

static void a_sigmoid_expert_gives_its_p_and_keeps_the_nuclear_norm(void **state)
{
    struct factors *factors = made_factors(down, 6, 0, 1, NULL);
    struct made_expert *from = made_expert(1, 4, true);
    const double *sigma = factors_get(factors, 0)->sigma;
    (void)state;

    for (int shape = TRANSFER_TRUNCATE; shape <= TRANSFER_INTERPOLATE; shape++) {
        struct moved to = move(from, factors, (enum transfer_shape)shape);
        const float *z = vector_of(&to.e, 0, "z"), *p = vector_of(&to.e, 0, "p");
        double before = 0, after = 0, mean = 0;
        assert_string_equal(to.e.parametrisation, "sigmoid");
        assert_true(p[0] == from->p[0][0]);
        for (size_t i = 0; i < 4; i++)
            mean += (double)from->p[0][i] / 4;
        if (shape == TRANSFER_TRUNCATE) /* what has no source is as large as the others */
            assert_true(p[4] == (float)mean && p[5] == (float)mean);
        for (size_t i = 0; i < 6; i++) {
            before += sigma[i];
            after += sigma[i] * (double)z[i];
            assert_true(fabsf(z[i] / z[0] - (1 + expf(-p[0])) / (1 + expf(-p[i]))) < 1e-5f);
        }
        assert_true(fabs(after - before) < 1e-5 * before);
        expert_free(&to.e);
    }
    free(from);
    factors_close(factors);
}

static void what_is_no_svf_expert_is_refused(void **state)
{
    struct factors *factors = made_factors(down, 5, 0, 1, NULL);
    struct made_expert *from = made_expert(1, 5, false);
    (void)state;

    from->e.kind = "lora";
    refused(from, factors, TRANSFER_SAME, "of the kind lora");
    from->e.kind = "svf";
    from->parameters[0][0].n_rows = 3; /* a vector of another length than the matrix's rank */
    refused(from, factors, TRANSFER_SAME, "no vector z of 5 numbers");
    from->matrices[0].n_parameters = 0;
    refused(from, factors, TRANSFER_TRUNCATE, "no vector z of 5 numbers");
    from->e.n_matrices = 0;
    refused(from, factors, TRANSFER_SAME, "none of its matrices");
    free(from);
    factors_close(factors);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_shapes_keep_every_number_whatever_the_shape_option),
        cmocka_unit_test(the_result_belongs_to_the_other_model),
        cmocka_unit_test(other_shapes_need_a_decision),
        cmocka_unit_test(truncation_takes_the_largest_components_and_the_first_layers),
        cmocka_unit_test(interpolation_keeps_both_ends_and_straight_lines),
        cmocka_unit_test(one_component_is_interpolated_to_all),
        cmocka_unit_test(layers_take_the_nearest_one),
        cmocka_unit_test(a_layer_that_the_expert_leaves_out_stays_the_bases),
        cmocka_unit_test(shuffling_keeps_the_numbers_and_loses_their_order),
        cmocka_unit_test(a_sigmoid_expert_gives_its_p_and_keeps_the_nuclear_norm),
        cmocka_unit_test(what_is_no_svf_expert_is_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}

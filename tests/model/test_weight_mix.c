/* Weights of a mixture by AXPY: exact where nothing changes, the merged weights where one expert
 * has all the weight, and the same bits whatever was worn before, for any threads and processor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <unistd.h>

#include "model/merge.h"
#include "model/weight_mix.h"
#include "mpi/h5.h"
#include "tests/model/factors_files.h"
#include "tests/model/svf_fixture.h"

static char folder[] = "/tmp/t2-mix-XXXXXX";
static struct svf_fixture svf;
static struct factors *factors;
static struct expert_set set; /* one: z = 1; a, b: two experts, b of the first layer alone */
static char identity[65], fingerprint[65];

enum { ONE, A, B, N };

/* ---- files ------------------------------------------------------------------------------------
 */

static const char *at(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put_factors(void)
{
    struct factors_origin origin = made_origin();
    memcpy(identity, origin.identity, sizeof identity);
    for (size_t i = 0; i < svf.n_modules; i++) {
        const struct module *m = &svf.modules[i];
        const struct factors_matrix f = {.module = *m,
                                         .source_type = TENSOR_F32,
                                         .report = {.wide = m->n_rows < m->n_columns},
                                         .sigma = svf.sigma[i],
                                         .factor = svf.factors[i]};
        if (factors_write_part(at("f.h5"), &origin, FACTORS_F32, &f) != 0)
            fail_msg("%s", error_message());
    }
    if (factors_merge(at("f.h5"), &origin, FACTORS_F32, svf.modules, svf.n_modules) != 0 ||
        !(factors = factors_open(at("f.h5"))) || factors_fingerprint(factors, fingerprint) != 0)
        fail_msg("%s", error_message());
}

static void put_expert(const char *name, float amplitude, size_t n_modules)
{
    struct expert_matrix *matrices = calloc(n_modules, sizeof *matrices);
    struct expert_parameter *parameters = calloc(n_modules, sizeof *parameters);
    struct expert e = {.kind = "svf",
                       .parametrisation = "direct",
                       .model = "m",
                       .factors_identity = fingerprint,
                       .matrices = matrices,
                       .n_matrices = n_modules};
    uint32_t seed = 77 + (uint32_t)n_modules;

    memcpy(e.identity, identity, sizeof identity);
    for (size_t i = 0; i < n_modules; i++) {
        const size_t r = svf_rank(&svf.modules[i]);
        parameters[i] = (struct expert_parameter){"z", r, 0, malloc(r * sizeof(float))};
        for (size_t j = 0; j < r; j++)
            parameters[i].values[j] = 1 + amplitude * svf_noise(&seed);
        matrices[i] = (struct expert_matrix){svf.modules[i], &parameters[i], 1};
    }
    hid_t file = h5_create(name);
    assert_int_equal(expert_put(file, &e), 0);
    assert_int_equal(h5_write(file, at(name)), 0);
    h5_close(file);
    for (size_t i = 0; i < n_modules; i++)
        free(parameters[i].values);
    free(parameters);
    free(matrices);
}

static int open_all(void **state)
{
    char list[512];
    (void)state;

    assert_non_null(mkdtemp(folder));
    svf = svf_fixture_open("llama", SVF_ALL, 0);
    put_factors();
    put_expert("one.h5", 0, svf.n_modules);
    put_expert("a.h5", 0.05f, svf.n_modules);
    put_expert("b.h5", 0.03f, PROJECTION_COUNT); /* the first layer */
    snprintf(list, sizeof list, "%s/one.h5,%s/a.h5,%s/b.h5", folder, folder, folder);
    if (expert_set_open(&set, list, identity, "m") != 0 ||
        expert_set_take_factors(&set, factors) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(set.n, N);
    return 0;
}

static int close_all(void **state)
{
    static const char *const names[] = {"one.h5", "a.h5", "b.h5", "f.h5"};
    (void)state;

    expert_set_free(&set);
    factors_close(factors);
    svf_fixture_close(&svf);
    for (size_t i = 0; i < 4; i++)
        unlink(at(names[i]));
    return rmdir(folder);
}

/* ---- a model that wears mixtures --------------------------------------------------------------
 */

struct wearer {
    struct model *model;
    struct weight_mix *mix;
};

static struct wearer wearer_open(enum element element, enum isa isa, int n_threads, uint64_t seed)
{
    struct wearer w = {.model = svf_fixture_load(&svf, element, isa, n_threads)};
    w.mix = weight_mix_create(w.model, svf.ck, &set, factors, seed);
    if (!w.mix)
        fail_msg("%s", error_message());
    return w;
}

static void wearer_close(struct wearer *w)
{
    weight_mix_free(w->mix);
    model_free(w->model);
}

static void wear(const struct wearer *w, enum expert_mix reading, const double *alpha)
{
    if (weight_mix_wear(w->mix, reading, alpha, EXPERT_PER_EXPERT) != 0)
        fail_msg("%s", error_message());
}

/* All packed weights of the model's layers. Malloc'ed. */
static unsigned char *weights_of(const struct model *model, size_t *n_bytes)
{
    unsigned char *bytes = NULL;

    *n_bytes = 0;
    for (size_t layer = 0; layer < model->config.n_layers; layer++)
        for (int g = 0; g < GROUP_COUNT; g++) {
            const struct group *group = &model->layers[layer].groups[g];
            for (size_t s = 0; s < group->n_spans; s++) {
                const struct matrix *m = &group->spans[s].m;
                const size_t n =
                    m->n_panels * KERNEL_COLUMNS * m->k_padded * element_size(m->element);
                bytes = realloc(bytes, *n_bytes + n);
                assert_non_null(bytes);
                memcpy(bytes + *n_bytes, m->data, n);
                *n_bytes += n;
            }
        }
    return bytes;
}

/* Does the model have these weights? */
static bool wears(const struct model *model, const unsigned char *bytes, size_t n_bytes)
{
    size_t n;
    unsigned char *own = weights_of(model, &n);
    const bool same = n == n_bytes && memcmp(own, bytes, n) == 0;

    free(own);
    return same;
}

/* ---- statements -------------------------------------------------------------------------------
 */

static const enum element elements[] = {ELEMENT_F32, ELEMENT_BF16};

static void unit_multipliers_leave_every_bit_of_the_base(void **state)
{
    static const double alone[] = {1, 0, 0}, none[] = {0, 0, 0}, four[] = {4, 0, 0};
    (void)state;

    for (size_t e = 0; e < 2; e++) {
        struct wearer w = wearer_open(elements[e], cpu_best_isa(), 1, 3);
        size_t n;
        unsigned char *base = weights_of(w.model, &n);
        wear(&w, EXPERT_MIX_Z, alone);
        assert_true(wears(w.model, base, n));
        wear(&w, EXPERT_MIX_DELTA, none);
        assert_true(wears(w.model, base, n));
        wear(&w, EXPERT_MIX_DELTA, four); /* steps of no length */
        assert_true(wears(w.model, base, n));
        wear(&w, EXPERT_MIX_Z, four); /* 4 W */
        assert_false(wears(w.model, base, n));
        free(base);
        wearer_close(&w);
    }
}

static void what_was_worn_before_leaves_no_trace(void **state)
{
    static const double first[] = {0.2, 0.7, 0.4}, second[] = {0, -0.5, 1.5}, none[] = {0, 0, 0};
    (void)state;

    for (size_t e = 0; e < 2; e++) {
        struct wearer w = wearer_open(elements[e], cpu_best_isa(), 1, 3);
        size_t n, n_first;
        unsigned char *base = weights_of(w.model, &n);
        wear(&w, EXPERT_MIX_Z, first);
        unsigned char *worn = weights_of(w.model, &n_first);
        assert_false(wears(w.model, base, n));
        for (int i = 0; i < 3; i++) {
            wear(&w, EXPERT_MIX_DELTA, second);
            assert_false(wears(w.model, worn, n_first));
        }
        wear(&w, EXPERT_MIX_Z, first);
        assert_true(wears(w.model, worn, n_first));
        wear(&w, EXPERT_MIX_DELTA, none);
        assert_true(wears(w.model, base, n));
        free(base);
        free(worn);
        wearer_close(&w);
    }
}

static void threads_and_instruction_sets_give_the_same_bits(void **state)
{
    static const double alpha[] = {0.3, 0.6, -0.2};
    (void)state;

    for (size_t e = 0; e < 2; e++) {
        struct wearer w = wearer_open(elements[e], cpu_best_isa(), 1, 3);
        size_t n;
        wear(&w, EXPERT_MIX_Z, alpha);
        unsigned char *worn = weights_of(w.model, &n);
        wearer_close(&w);
        for (int isa = 0; isa <= (int)cpu_best_isa(); isa++) {
            if (!kernels_find(elements[e], (enum isa)isa))
                continue;
            for (int n_threads = 1; n_threads <= 3; n_threads += 2) {
                w = wearer_open(elements[e], (enum isa)isa, n_threads, 3);
                wear(&w, EXPERT_MIX_Z, alpha);
                assert_true(wears(w.model, worn, n));
                wearer_close(&w);
            }
        }
        free(worn);
    }
}

/* The element of a packed matrix that W [row, column] is. */
static float packed(const struct model *model, const struct module *m, size_t row, size_t column)
{
    const enum projection p = projection_find(m->name);
    const struct span *span = model_base(model, m->layer, p);
    float values[512];

    assert_true(span->m.k <= sizeof values / sizeof *values);
    matrix_unpack_row(&span->m, model_column(model, p) - span->column + row, values);
    return values[column];
}

static void one_expert_alone_has_its_merged_weights(void **state)
{
    static const double alone[] = {0, 1, 0};
    struct wearer w = wearer_open(ELEMENT_F32, cpu_best_isa(), 1, 0);
    struct merge *merge = merge_create(&set.experts[A], factors, cpu_best_isa(), 0);
    struct team *team = team_create(1);
    (void)state;

    assert_non_null(merge);
    for (int reading = EXPERT_MIX_Z; reading <= EXPERT_MIX_DELTA; reading++) {
        wear(&w, (enum expert_mix)reading, alone);
        for (size_t i = 0; i < svf.n_modules; i += 3) {
            const struct module *m = &svf.modules[i];
            const size_t n = m->n_rows * m->n_columns;
            float *rows = malloc(n * sizeof *rows);
            double largest = 0;
            memcpy(rows, svf.weights[i], n * sizeof *rows);
            assert_int_equal(
                merge_apply(merge, checkpoint_find(svf.ck, m->tensor), rows, ELEMENT_F32, team), 0);
            for (size_t j = 0; j < n; j++)
                largest = fmax(largest, fabs((double)rows[j]));
            for (size_t j = 0; j < n; j += 1 + n / 7)
                assert_true(fabsf(packed(w.model, m, j / m->n_columns, j % m->n_columns) -
                                  rows[j]) < 1e-6 * largest);
            free(rows);
        }
    }
    merge_free(merge);
    team_free(team);
    wearer_close(&w);
}

static void the_coefficients_of_a_layer_touch_it_alone(void **state)
{
    struct wearer w = wearer_open(ELEMENT_BF16, cpu_best_isa(), 1, 3);
    struct model *base = svf_fixture_load(&svf, ELEMENT_BF16, cpu_best_isa(), 1);
    double alpha[16 * N] = {0};
    (void)state;

    assert_true(set.n_layers >= 2 && set.n_layers <= 16);
    alpha[1 * N + A] = 0.8; /* layer 1 */
    assert_int_equal(weight_mix_wear(w.mix, EXPERT_MIX_DELTA, alpha, EXPERT_PER_LAYER), 0);
    for (size_t layer = 0; layer < base->config.n_layers; layer++)
        for (int p = 0; p < PROJECTION_COUNT; p++) {
            const struct matrix *m = &model_base(w.model, layer, (enum projection)p)->m;
            const struct matrix *b = &model_base(base, layer, (enum projection)p)->m;
            const size_t n = m->n_panels * KERNEL_COLUMNS * m->k_padded * sizeof(uint16_t);
            assert_int_equal(memcmp(m->data, b->data, n) == 0, layer != 1);
        }
    model_free(base);
    wearer_close(&w);
}

/* The weights of a bf16 model that wears `alpha` steps of expert a, as f32 [*n]. Malloc'ed. */
static float *rounded(double alpha, uint64_t seed, size_t *n)
{
    const double coefficients[] = {0, alpha, 0};
    struct wearer w = wearer_open(ELEMENT_BF16, cpu_best_isa(), 1, seed);
    size_t n_bytes;

    wear(&w, EXPERT_MIX_DELTA, coefficients);
    unsigned char *bytes = weights_of(w.model, &n_bytes);
    float *values = malloc((n_bytes / 2 + 1) * sizeof *values);
    assert_non_null(values);
    *n = n_bytes / 2;
    for (size_t i = 0; i < *n; i++) {
        const uint32_t bits = (uint32_t)((const uint16_t *)(void *)bytes)[i] << 16;
        memcpy(&values[i], &bits, sizeof bits);
    }
    free(bytes);
    wearer_close(&w);
    return values;
}

/* A fiftieth of the expert is smaller than bf16's grid: rounded to nearest it would be gone. */
static void small_steps_survive_the_rounding_to_bf16_on_average(void **state)
{
    enum { SEEDS = 64 };
    const double part = 0.02;
    size_t n;
    float *base = rounded(0, 0, &n), *whole = rounded(1, SEEDS, &n);
    double moved = 0, squares = 0;
    (void)state;

    for (size_t i = 0; i < n; i++) {
        const double d = (double)whole[i] - (double)base[i];
        squares += d * d;
    }
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        float *own = rounded(part, seed, &n), *again = rounded(part, seed, &n);
        assert_memory_equal(own, again, n * sizeof *own);
        for (size_t i = 0; i < n; i++)
            moved += ((double)own[i] - (double)base[i]) * ((double)whole[i] - (double)base[i]);
        free(own);
        free(again);
    }
    assert_true(fabs(moved / SEEDS / squares - part) < part / 20);
    free(base);
    free(whole);
}

static void what_cannot_be_worn_is_refused_and_changes_nothing(void **state)
{
    struct wearer w = wearer_open(ELEMENT_F32, cpu_best_isa(), 1, 0);
    static const double odd[] = {NAN, INFINITY, -INFINITY, 1e9};
    static const double usual[] = {0, 1, 0};
    size_t n;
    unsigned char *base = weights_of(w.model, &n);
    (void)state;

    assert_int_equal(weight_mix_wear(w.mix, EXPERT_MIX_P, usual, EXPERT_PER_EXPERT), -1);
    assert_non_null(strstr(error_message(), "factored form"));
    for (size_t i = 0; i < 4; i++) {
        const double alpha[] = {0, odd[i], 0};
        assert_int_equal(weight_mix_wear(w.mix, EXPERT_MIX_Z, alpha, EXPERT_PER_EXPERT), -1);
        assert_non_null(strstr(error_message(), "not finite"));
    }
    assert_true(wears(w.model, base, n));
    free(base);
    wearer_close(&w);
}

static void its_memory_is_told_beforehand(void **state)
{
    size_t elements_of_all = 0;
    (void)state;

    for (size_t i = 0; i < set.n_modules; i++)
        elements_of_all += set.modules[i].n_rows * set.modules[i].n_columns;
    for (size_t e = 0; e < 2; e++) {
        const size_t bytes = weight_mix_bytes(&set, elements[e]);
        assert_true(bytes >= (N + 1) * elements_of_all * element_size(elements[e]));
    }
    assert_int_equal(weight_mix_bytes(&set, ELEMENT_F32), 2 * weight_mix_bytes(&set, ELEMENT_BF16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_multipliers_leave_every_bit_of_the_base),
        cmocka_unit_test(what_was_worn_before_leaves_no_trace),
        cmocka_unit_test(threads_and_instruction_sets_give_the_same_bits),
        cmocka_unit_test(one_expert_alone_has_its_merged_weights),
        cmocka_unit_test(the_coefficients_of_a_layer_touch_it_alone),
        cmocka_unit_test(small_steps_survive_the_rounding_to_bf16_on_average),
        cmocka_unit_test(what_cannot_be_worn_is_refused_and_changes_nothing),
        cmocka_unit_test(its_memory_is_told_beforehand),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}

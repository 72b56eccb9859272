/* MoSLoRA's gradient against differences of the loss, through a whole model in f32 and without a
 * reference: every kind of parameter at every site (A, B, bias points, curvatures, router), in
 * every chart. (Against automatic differentiation: test_adapter_moslora.c.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/adapter_moslora.h"
#include "model/pass.h"
#include "tests/model/svf_fixture.h"

enum {
    N_TOKENS = 12,
    N_TERMS = N_TOKENS - 1,
    MODULES = 1 << PROJECTION_Q | 1 << PROJECTION_V | 1 << PROJECTION_DOWN,
};

struct setting {
    struct svf_fixture f;
    struct model *model;
    struct adapter *adapter;
    struct pass *pass;
    float *parameters, *gradient;
};

static struct setting setting_create(const struct moslora_options *options)
{
    struct setting t = {.f = svf_fixture_open("llama", MODULES, 0)};
    const struct pass_options pass = {64, false, false};
    uint32_t noise = 11;

    t.model = svf_fixture_load(&t.f, ELEMENT_F32, cpu_best_isa(), 1);
    t.adapter = adapter_moslora_create(t.model, t.f.modules, t.f.n_modules, options, true, 3);
    if (!t.adapter || !(t.pass = pass_create(t.model, t.adapter, &pass)))
        fail_msg("%s", error_message());
    /* B and the points away from 0, curvatures away from their start. */
    t.parameters = calloc(t.adapter->n_parameters, sizeof *t.parameters);
    for (size_t i = 0; i < t.adapter->n_parameters; i++)
        t.parameters[i] = t.adapter->parameters[i] + 0.25f * svf_noise(&noise);
    for (size_t i = t.adapter->first_own; i < t.adapter->n_parameters; i++)
        t.parameters[i] *= 0.2f; /* points: well inside their limit */
    t.gradient = calloc(t.adapter->n_parameters + t.adapter->n_sums, sizeof *t.gradient);
    return t;
}

static void setting_free(struct setting *t)
{
    pass_free(t->pass);
    adapter_free(t->adapter);
    model_free(t->model);
    svf_fixture_close(&t->f);
    free(t->parameters);
    free(t->gradient);
}

/* The loss; its gradient too if asked for. */
static double loss_of(struct setting *t, float *gradient)
{
    struct pass_place places[N_TERMS];
    struct head_term terms[N_TERMS];
    struct head_term_result results[N_TERMS];
    int32_t ids[N_TOKENS];
    size_t sequence;
    double loss = 0;

    for (size_t i = 0; i < N_TOKENS; i++)
        ids[i] = (int32_t)(7 * i + 3);
    pass_reset(t->pass, t->parameters);
    if (pass_add(t->pass, ids, N_TOKENS, &sequence) != 0 || pass_run(t->pass) != 0)
        fail_msg("%s", error_message());
    for (size_t i = 0; i < N_TERMS; i++) {
        places[i] = (struct pass_place){sequence, i};
        terms[i] = (struct head_term){.target = ids[i + 1] + 1, .weight = 1};
    }
    if (pass_backward(t->pass, NULL, places, terms, N_TERMS, gradient, results) != 0)
        fail_msg("%s", error_message());
    for (size_t i = 0; i < N_TERMS; i++)
        loss -= (double)results[i].logprob;
    return loss;
}

/* dL along `direction` [n] of the parameters from `first` on, by differences of fourth order. */
static double difference(struct setting *t, size_t first, size_t n, const double *direction,
                         double step)
{
    static const double at[] = {-2, -1, 1, 2}, weight[] = {1, -8, 8, -1};
    float *p = t->parameters + first, *kept = malloc(n * sizeof *kept);
    double sum = 0;

    memcpy(kept, p, n * sizeof *p);
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < n; i++)
            p[i] = (float)((double)kept[i] + at[k] * step * direction[i]);
        sum += weight[k] * loss_of(t, NULL);
    }
    memcpy(p, kept, n * sizeof *p);
    free(kept);
    return sum / (12 * step);
}

/* A piece of a site, along its gradient (an error in any direction that is not at right angles to
 * the true one shows) and along its largest element. Returns the larger error relative to the
 * derivative; -1: both are too small. */
static double check_piece(struct setting *t, const struct adapter_piece *p)
{
    const size_t n = p->n_rows * (p->n_columns ? p->n_columns : 1);
    const float *g = t->gradient + p->first;
    double *direction = calloc(n, sizeof *direction), square = 0, worst = -1;
    size_t largest = 0;

    for (size_t i = 0; i < n; i++) {
        square += (double)g[i] * (double)g[i];
        largest = fabsf(g[i]) > fabsf(g[largest]) ? i : largest;
    }
    for (int one = 0; one <= 1; one++) {
        const double slope = one ? fabs((double)g[largest]) : sqrt(square);
        double best = INFINITY;
        if (slope < (n > 1 ? 0.04 : 0.02)) /* too small to be seen in f32 */
            continue;
        for (size_t i = 0; i < n; i++)
            direction[i] =
                one ? (i == largest ? copysign(1, (double)g[i]) : 0) : (double)g[i] / slope;
        /* Short steps suffer from rounding (the loss is known to some 2e-6), long ones from the
         * fifth derivative: one in between must do. */
        for (double step = 0.32; slope * step > 2.5e-3 && best > 5e-4; step /= 2)
            if (slope * step < 0.1)
                best =
                    fmin(best, fabs(difference(t, p->first, n, direction, step) - slope) / slope);
        if (isfinite(best))
            worst = fmax(worst, best);
    }
    free(direction);
    return worst;
}

struct count {
    const char *name;
    size_t n;
    double worst;
};

static void check(struct moslora_options options)
{
    static const char *const parts[] = {"_A",         "_B_t",           "_point",
                                        "_curvature", "router_in",      "router_in_bias",
                                        "router_out", "router_out_bias"};
    enum { N_PARTS = sizeof parts / sizeof *parts };
    struct count counts[N_PARTS] = {{0}};
    struct setting t = setting_create(&options);
    /* A device's f32 sums may be one chain each, and the loss is then known less well. */
    const double most = strcmp(model_engine(t.model)->ops->device, "cpu") == 0 ? 1e-3 : 2e-3;

    loss_of(&t, t.gradient);
    for (size_t i = 0; i < t.adapter->n_sites; i++) {
        struct adapter_piece p;
        for (size_t k = 0; t.adapter->ops->piece(t.adapter, i, k, &p); k++) {
            const double off = check_piece(&t, &p);
            size_t part = 0;
            while (part < N_PARTS - 1 &&
                   (part < 4 ? strncmp(p.name, "router", 6) == 0 || !strstr(p.name, parts[part])
                             : strcmp(p.name, parts[part]) != 0))
                part++;
            if (off < 0)
                continue;
            counts[part].n++;
            counts[part].worst = fmax(counts[part].worst, off);
            if (!(off < most))
                fail_msg("%s of %s: off by %.1e", p.name, t.adapter->sites[i].module.path, off);
        }
    }
    for (size_t part = 0; part < N_PARTS; part++) {
        print_message("  %-16s %3zu, off by %.1e at most\n", parts[part], counts[part].n,
                      counts[part].worst);
        assert_true(counts[part].n > 0);
    }
    setting_free(&t);
}

static struct moslora_options options_of(unsigned experts, enum chart hyperbolic)
{
    struct moslora_options o = moslora_defaults();
    o.experts = experts;
    o.hyperbolic = hyperbolic;
    o.rank = 2;
    o.alpha = 4;
    o.dropout = 0;
    o.router_hidden = 3;
    return o;
}

static void the_ball_has_the_gradient_of_its_loss(void **state)
{
    (void)state;
    check(options_of(MOSLORA_EUCLIDEAN | MOSLORA_HYPERBOLIC, CHART_BALL));
}

static void the_hyperboloid_has_the_gradient_of_its_loss(void **state)
{
    (void)state;
    check(options_of(MOSLORA_EUCLIDEAN | MOSLORA_HYPERBOLIC, CHART_LORENTZ));
}

static void the_sphere_has_the_gradient_of_its_loss(void **state)
{
    (void)state;
    check(options_of(MOSLORA_EUCLIDEAN | MOSLORA_SPHERICAL, CHART_BALL));
}

static void products_beside_all_charts_have_the_gradient_of_their_loss(void **state)
{
    (void)state;
    check(options_of(MOSLORA_EUCLIDEAN | MOSLORA_HYPERBOLIC | MOSLORA_SPHERICAL | MOSLORA_PRODUCT,
                     CHART_BALL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ball_has_the_gradient_of_its_loss),
        cmocka_unit_test(the_hyperboloid_has_the_gradient_of_its_loss),
        cmocka_unit_test(the_sphere_has_the_gradient_of_its_loss),
        cmocka_unit_test(products_beside_all_charts_have_the_gradient_of_their_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

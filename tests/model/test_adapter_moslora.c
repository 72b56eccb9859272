/* MoSLoRA against the reference that tests/oracle/moslora_oracle.py writes from the equations, and
 * what it must do without one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "model/adapter_kinds.h"
#include "model/adapter_moslora.h"
#include "model/pass.h"
#include "tests/model/svf_fixture.h"

/* ---- the fixture ----------------------------------------------------------------------------- */

struct reader {
    uint32_t *words;
    size_t n, at;
};

static struct reader open_fixture(void)
{
    FILE *file = fopen(T2_FIXTURES "/gradient/moslora.bin", "rb");
    struct reader r = {0};
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    r.n = (size_t)ftell(file) / 4;
    rewind(file);
    r.words = malloc(r.n * 4);
    assert_int_equal(fread(r.words, 4, r.n, file), r.n);
    fclose(file);
    assert_memory_equal(r.words, "T2MOSL01", 8);
    r.at = 2;
    return r;
}

static size_t read_size(struct reader *r)
{
    assert_true(r->at < r->n);
    return r->words[r->at++];
}

static const float *read_floats(struct reader *r, size_t n)
{
    const float *values = (const float *)(r->words + r->at);
    assert_true(n <= r->n - r->at);
    r->at += n;
    return values;
}

static struct moslora_options read_options(struct reader *r)
{
    struct moslora_options o = moslora_defaults();
    o.dropout = 0;
    o.experts = (unsigned)read_size(r);
    o.hyperbolic = read_size(r) == 2 ? CHART_LORENTZ : CHART_BALL;
    const size_t flags = read_size(r);
    o.top1 = flags & 1;
    o.shared_a = flags & 2;
    o.fixed_curvature = flags & 4;
    o.router_per_layer = flags & 8;
    o.rank = read_size(r);
    o.router_hidden = read_size(r);
    o.alpha = (double)*read_floats(r, 1);
    o.curvature = (double)*read_floats(r, 1);
    o.most_curved = (double)*read_floats(r, 1);
    return o;
}

/* ---- one site -------------------------------------------------------------------------------- */

/* A site of 40 inputs and 20 outputs, and what its calls work in. */
struct setting {
    struct svf_fixture f;
    struct model *model;
    struct adapter *adapter;
    size_t n_rows, n_in, n_out, ldx, ldy;
    void *x, *g; /* elements [n_rows, ldx], [n_rows, ldy] */
    float *y, *dx, *gradient;
    void *saved, *scratch;
    struct adapter_call call;
    void *tensors[6];
    size_t bytes[6], n_tensors;
};

/* Zeros in the engine's memory. */
static void *tensor(struct setting *t, size_t bytes)
{
    void *p = memory_take(t->model->engine.memory, bytes, 1);
    assert_non_null(p);
    t->tensors[t->n_tensors] = p;
    t->bytes[t->n_tensors++] = bytes;
    return p;
}

static struct setting setting_create(const struct moslora_options *options, enum element element,
                                     int n_threads, size_t n_rows)
{
    struct setting t = {.f = svf_fixture_open("llama-odd", 1 << PROJECTION_V, 1), .n_rows = n_rows};
    t.model = svf_fixture_load(&t.f, element, cpu_best_isa(), n_threads);
    t.adapter = adapter_moslora_create(t.model, t.f.modules, t.f.n_modules, options, true, 7);
    if (!t.adapter)
        fail_msg("%s", error_message());
    t.n_in = t.f.modules[0].n_columns;
    t.n_out = t.f.modules[0].n_rows;
    t.ldx = round_up(t.n_in, KERNEL_K_STEP);
    t.ldy = round_up(t.n_out, KERNEL_K_STEP);
    t.x = tensor(&t, n_rows * t.ldx * sizeof(float));
    t.g = tensor(&t, n_rows * t.ldy * sizeof(float));
    t.y = tensor(&t, n_rows * t.ldy * sizeof *t.y);
    t.dx = tensor(&t, n_rows * t.ldx * sizeof *t.dx);
    t.gradient = calloc(t.adapter->n_parameters + t.adapter->n_sums, sizeof *t.gradient);
    t.saved = tensor(&t, t.adapter->ops->saved_bytes(t.adapter, 0, n_rows));
    t.scratch = tensor(&t, t.adapter->ops->scratch_bytes(t.adapter, 0, n_rows));
    t.call = (struct adapter_call){.model = t.model,
                                   .parameters = t.adapter->parameters,
                                   .x = t.x,
                                   .ldx = t.ldx,
                                   .n_rows = n_rows,
                                   .saved = t.saved,
                                   .scratch = t.scratch};
    return t;
}

static void setting_free(struct setting *t)
{
    t->model->engine.ops->wait(&t->model->engine);
    for (size_t i = 0; i < t->n_tensors; i++)
        memory_give(t->model->engine.memory, t->tensors[i], t->bytes[i], 1);
    adapter_free(t->adapter);
    model_free(t->model);
    svf_fixture_close(&t->f);
    free(t->gradient);
}

/* Puts values f32 [n_rows, width] into rows of elements. */
static void put_rows(const struct setting *t, void *rows, size_t ld, const float *values,
                     size_t width)
{
    const struct engine *e = &t->model->engine;
    float *x = memory_take(e->memory, t->n_rows * width, sizeof *x);
    assert_non_null(x);
    memcpy(x, values, t->n_rows * width * sizeof *x);
    engine_train(e)->to_elements(e, rows, ld, x, width, t->n_rows, width);
    e->ops->wait(e);
    memory_give(e->memory, x, t->n_rows * width, sizeof *x);
}

static void forward(struct setting *t)
{
    adapter_prepare(t->adapter, t->model, t->call.parameters);
    memset(t->y, 0, t->n_rows * t->ldy * sizeof *t->y);
    t->adapter->ops->forward(t->adapter, 0, &t->call, t->y, t->ldy, true);
    t->model->engine.ops->wait(&t->model->engine);
}

static void backward(struct setting *t)
{
    memset(t->dx, 0, t->n_rows * t->ldx * sizeof *t->dx);
    memset(t->gradient, 0, (t->adapter->n_parameters + t->adapter->n_sums) * sizeof *t->gradient);
    if (t->adapter->ops->backward(t->adapter, 0, &t->call, t->dx, t->ldx, t->g, t->ldy,
                                  t->gradient) != 0)
        fail_msg("%s", error_message());
    t->model->engine.ops->wait(&t->model->engine);
}

static float *copy_of(const float *x, size_t n)
{
    float *copy = malloc(n * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, x, n * sizeof *copy);
    return copy;
}

static void some_parameters(struct adapter *adapter, float size)
{
    uint32_t noise = 77;
    for (size_t i = 0; i < adapter->n_parameters; i++)
        adapter->parameters[i] += size * svf_noise(&noise);
}

static void some_rows(struct setting *t, uint32_t seed)
{
    float *x = malloc(t->n_rows * t->n_in * sizeof *x),
          *g = malloc(t->n_rows * t->n_out * sizeof *g);
    for (size_t i = 0; i < t->n_rows * t->n_in; i++)
        x[i] = svf_noise(&seed);
    for (size_t i = 0; i < t->n_rows * t->n_out; i++)
        g[i] = svf_noise(&seed);
    put_rows(t, t->x, t->ldx, x, t->n_in);
    put_rows(t, t->g, t->ldy, g, t->n_out);
    free(x);
    free(g);
}

static double largest(const float *x, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

static double difference(const float *a, const float *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

/* Each piece's gradient within `bound` of its largest element. */
static double check_pieces(const struct adapter *adapter, const float *gradient,
                           const float *expected, double bound, size_t which)
{
    struct adapter_piece p;
    double worst = 0;
    for (size_t site = 0; site < adapter->n_sites; site++)
        for (size_t i = 0; adapter->ops->piece(adapter, site, i, &p); i++) {
            const size_t n = p.n_rows * (p.n_columns ? p.n_columns : 1);
            const double most = largest(expected + p.first, n);
            const double off = difference(gradient + p.first, expected + p.first, n);
            if (most > 0) /* top-1: an expert may have had no token */
                worst = fmax(worst, off / most);
            if (!(off <= bound * most))
                fail_msg("case %zu, site %zu, %s: off by %g of %g", which, site, p.name, off, most);
        }
    return worst;
}

static void a_site_is_its_equations(void **state)
{
    (void)state;
    struct reader r = open_fixture();
    const size_t n_cases = read_size(&r);
    double worst_y = 0, worst_dx = 0, worst = 0;
    for (size_t k = 0; k < n_cases; k++) {
        const struct moslora_options options = read_options(&r);
        const size_t n_in = read_size(&r), n_out = read_size(&r), n_rows = read_size(&r);
        const size_t n = read_size(&r);
        struct setting t = setting_create(&options, ELEMENT_F32, 1, n_rows);
        assert_int_equal(t.n_in, n_in);
        assert_int_equal(t.n_out, n_out);
        assert_int_equal(t.adapter->n_parameters, n);
        t.call.parameters = read_floats(&r, n);
        put_rows(&t, t.x, t.ldx, read_floats(&r, n_rows * n_in), n_in);
        put_rows(&t, t.g, t.ldy, read_floats(&r, n_rows * n_out), n_out);
        const float *y = read_floats(&r, n_rows * n_out), *dx = read_floats(&r, n_rows * n_in);
        const float *gradient = read_floats(&r, n);
        forward(&t);
        backward(&t);
        for (size_t i = 0; i < n_rows; i++) {
            const double off_y =
                difference(t.y + i * t.ldy, y + i * n_out, n_out) / largest(y + i * n_out, n_out);
            const double off_dx =
                difference(t.dx + i * t.ldx, dx + i * n_in, n_in) / largest(dx + i * n_in, n_in);
            worst_y = fmax(worst_y, off_y);
            worst_dx = fmax(worst_dx, off_dx);
            if (!(off_y < 1e-5) || !(off_dx < 1e-4))
                fail_msg("case %zu, row %zu: y off by %g, dx by %g", k, i, off_y, off_dx);
        }
        worst = fmax(worst, check_pieces(t.adapter, t.gradient, gradient, 1e-4, k));
        setting_free(&t);
    }
    print_message("y %.1e, dx %.1e, parameters %.1e\n", worst_y, worst_dx, worst);
    free(r.words);
}

static struct moslora_options skip_sites(struct reader *r)
{
    const size_t n_cases = read_size(r);
    for (size_t k = 0; k < n_cases; k++) {
        read_options(r);
        const size_t n_in = read_size(r), n_out = read_size(r), n_rows = read_size(r);
        read_floats(r, 2 * read_size(r) + 2 * n_rows * (n_in + n_out));
    }
    return moslora_defaults();
}

static void models_have_the_references_gradient(void **state)
{
    (void)state;
    static const char *const names[] = {"llama-odd", "qwen2", "qwen3"};
    struct reader r = open_fixture();
    skip_sites(&r);
    const size_t n_cases = read_size(&r);
    for (size_t k = 0; k < n_cases; k++) {
        const char *name = names[read_size(&r)];
        const struct moslora_options options = read_options(&r);
        const size_t n_tokens = read_size(&r), n_terms = read_size(&r), n_modules = read_size(&r);
        const size_t n = read_size(&r);
        const double loss = (double)*read_floats(&r, 1);
        const int32_t *ids = (const int32_t *)read_floats(&r, n_tokens);
        struct pass_place places[8];
        struct head_term terms[8];
        struct head_term_result results[8];
        for (size_t i = 0; i < n_terms; i++) {
            places[i] = (struct pass_place){0, read_size(&r)};
            terms[i] = (struct head_term){.target = (int32_t)read_size(&r)};
            terms[i].weight = *read_floats(&r, 1);
        }
        struct svf_fixture f = svf_fixture_open(name, SVF_ALL, 0);
        struct module modules[16];
        for (size_t i = 0; i < n_modules; i++) {
            const size_t layer = read_size(&r), projection = read_size(&r);
            modules[i] = f.modules[layer * PROJECTION_COUNT + projection];
        }
        const float *parameters = read_floats(&r, n), *expected = read_floats(&r, n);
        for (int recompute = 0; recompute <= 1; recompute++) {
            struct model *model = svf_fixture_load(&f, ELEMENT_F32, cpu_best_isa(), 2);
            struct adapter *adapter =
                adapter_moslora_create(model, modules, n_modules, &options, true, 1);
            const struct pass_options o = {64, recompute, false};
            struct pass *pass = pass_create(model, adapter, &o);
            float *gradient = calloc(n + adapter->n_sums, sizeof *gradient);
            size_t sequence;
            double own = 0;
            assert_int_equal(adapter->n_parameters, n);
            assert_non_null(pass);
            pass_reset(pass, parameters);
            assert_int_equal(pass_add(pass, ids, n_tokens, &sequence), 0);
            assert_int_equal(pass_run(pass), 0);
            if (pass_backward(pass, NULL, places, terms, n_terms, gradient, results) != 0)
                fail_msg("%s", error_message());
            for (size_t i = 0; i < n_terms; i++)
                own -= (double)terms[i].weight * (double)results[i].logprob;
            assert_true(fabs(own - loss) < 1e-4 * fabs(loss));
            print_message("%s: parameters %.1e\n", name,
                          check_pieces(adapter, gradient, expected, 1e-3, k));
            /* every row of every site was counted */
            assert_true(gradient[n + adapter->n_sums - 1] == (float)(n_tokens * n_modules) ||
                        gradient[n + adapter->n_sums - 1] > 0);
            free(gradient);
            pass_free(pass);
            adapter_free(adapter);
            model_free(model);
        }
        svf_fixture_close(&f);
    }
    free(r.words);
}

/* ---- without a reference --------------------------------------------------------------------- */

static void every_parameter_is_in_one_piece(void **state)
{
    (void)state;
    for (unsigned experts = 3; experts < 16; experts++)
        for (int flags = 0; flags < 8; flags++) {
            struct moslora_options o = moslora_defaults();
            struct svf_fixture f = svf_fixture_open("llama", SVF_ALL, 0);
            struct model *model = svf_fixture_load(&f, ELEMENT_F32, cpu_best_isa(), 1);
            o.experts = experts;
            o.shared_a = flags & 1;
            o.fixed_curvature = flags & 2;
            o.router_per_layer = flags & 4;
            if (__builtin_popcount(experts) < 2) {
                assert_null(adapter_moslora_create(model, f.modules, f.n_modules, &o, true, 1));
                goto next;
            }
            struct adapter *a = adapter_moslora_create(model, f.modules, f.n_modules, &o, true, 1);
            unsigned char *seen = calloc(a->n_parameters, 1);
            size_t n = 0;
            for (size_t i = 0; i < a->n_sites; i++) {
                struct adapter_piece p;
                for (size_t k = 0; a->ops->piece(a, i, k, &p); k++) {
                    assert_true(strlen(p.name) + strlen("_last") < 32);
                    for (size_t j = 0; j < p.n_rows * (p.n_columns ? p.n_columns : 1); j++)
                        assert_int_equal(seen[p.first + j]++, 0);
                }
                n += adapter_moslora_count(&f.modules[i], &o, !o.router_per_layer);
            }
            assert_null(memchr(seen, 0, a->n_parameters));
            if (!o.router_per_layer)
                assert_int_equal(n, a->n_parameters);
            free(seen);
            adapter_free(a);
        next:
            model_free(model);
            svf_fixture_close(&f);
        }
}

/* Also where the projection whose router is shared is not the layer's first. */
static void plans_count_the_routers_that_there_are(void **state)
{
    (void)state;
    static const char *const left_out[] = {"-", "q_proj", "gate_proj"};
    for (size_t choice = 0; choice < 3; choice++)
        for (int per_layer = 0; per_layer < 2; per_layer++) {
            const struct adapter_kind *kind = &adapter_kind_moslora;
            struct adapter_settings s = kind->defaults;
            struct moslora_options o = moslora_defaults();
            struct svf_fixture f = svf_fixture_open("llama", SVF_ALL, 0);
            struct model *model = svf_fixture_load(&f, ELEMENT_F32, cpu_best_isa(), 1);
            struct module *modules = calloc(f.n_modules, sizeof *modules);
            size_t n_modules = 0, n = 0;
            for (size_t i = 0; i < f.n_modules; i++)
                if (!strstr(f.modules[i].name, left_out[choice]))
                    modules[n_modules++] = f.modules[i];
            o.router_per_layer = per_layer;
            strcpy(s.router, per_layer ? "layer" : "matrix");
            struct adapter *a = adapter_moslora_create(model, modules, n_modules, &o, true, 1);
            assert_non_null(a);
            for (size_t i = 0; i < n_modules; i++)
                n += adapter_kind_count(kind, &s, modules, n_modules, i);
            assert_int_equal(n, a->n_parameters);
            adapter_free(a);
            free(modules);
            model_free(model);
            svf_fixture_close(&f);
        }
}

static void the_start_is_the_base_model(void **state)
{
    (void)state;
    const struct moslora_options o = moslora_defaults();
    struct setting t = setting_create(&o, ELEMENT_F32, 1, 9);
    some_rows(&t, 3);
    forward(&t);
    assert_true(largest(t.y, t.n_rows * t.ldy) == 0);
    setting_free(&t);
}

/* With equal A and B in all experts the weights do not matter. */
static void without_curvature_every_chart_is_lora(void **state)
{
    (void)state;
    for (int chart = CHART_BALL; chart <= CHART_LORENTZ; chart++)
        for (int flat = 0; flat <= 1; flat++) {
            struct moslora_options o = moslora_defaults();
            struct adapter_piece a[3], b[3], p;
            size_t n_a = 0, n_b = 0;
            o.dropout = 0;
            o.hyperbolic = (enum chart)chart;
            o.fixed_curvature = true;
            o.curvature = flat ? 0 : 1e-7;
            struct setting t = setting_create(&o, ELEMENT_F32, 1, 64);
            float *values = t.adapter->parameters;
            some_parameters(t.adapter, 0.5f);
            some_rows(&t, 5);
            for (size_t i = 0; t.adapter->ops->piece(t.adapter, 0, i, &p); i++) {
                const size_t n = strlen(p.name);
                if (n > 2 && strcmp(p.name + n - 2, "_A") == 0)
                    a[n_a++] = p;
                else if (n > 4 && strcmp(p.name + n - 4, "_B_t") == 0)
                    b[n_b++] = p;
                else if (n > 6 && strcmp(p.name + n - 6, "_point") == 0)
                    memset(values + p.first, 0, p.n_rows * sizeof *values);
            }
            assert_int_equal(n_a, 3);
            assert_int_equal(n_b, 3);
            for (size_t e = 1; e < 3; e++) {
                memcpy(values + a[e].first, values + a[0].first, o.rank * t.n_in * sizeof *values);
                memcpy(values + b[e].first, values + b[0].first, o.rank * t.n_out * sizeof *values);
            }
            forward(&t);
            double worst = 0;
            for (size_t i = 0; i < t.n_rows; i++) {
                const float *x = (const float *)t.x + i * t.ldx;
                double most = 0, off = 0;
                for (size_t c = 0; c < t.n_out; c++) {
                    double y = 0;
                    for (size_t k = 0; k < o.rank; k++) {
                        double h = 0;
                        for (size_t j = 0; j < t.n_in; j++)
                            h += (double)values[a[0].first + k * t.n_in + j] * (double)x[j];
                        y += h * (double)values[b[0].first + k * t.n_out + c];
                    }
                    y *= o.alpha / (double)o.rank;
                    most = fmax(most, fabs(y));
                    off = fmax(off, fabs(y - (double)t.y[i * t.ldy + c]));
                }
                worst = fmax(worst, off / most);
            }
            if (!(worst < 1e-5))
                fail_msg("chart %d, flat %d: off by %g", chart, flat, worst);
            setting_free(&t);
        }
}

/* Directions of every size from 1e-6 to 1e4 in length, and a few rows of all kinds. */
static void fill_tokens(struct setting *t, uint32_t *seed, bool extreme)
{
    static const float odd[] = {0, 1e-45f, 1e-38f, 1e-30f, 1e18f, 1e30f, 1e38f, 3.4e38f};
    float *x = malloc(t->n_rows * t->n_in * sizeof *x);
    for (size_t r = 0; r < t->n_rows; r++) {
        float *row = x + r * t->n_in;
        double length = 0;
        for (size_t i = 0; i < t->n_in; i++) {
            row[i] = svf_noise(seed);
            length += (double)row[i] * (double)row[i];
        }
        const double to = pow(10, 5 * (double)svf_noise(seed) - 1) / sqrt(length);
        for (size_t i = 0; i < t->n_in; i++)
            row[i] = extreme ? copysignf(odd[r % 8], row[i]) : (float)(to * (double)row[i]);
        if (extreme && r % 16 > 7)
            for (size_t i = 1; i < t->n_in; i++)
                row[i] = 0;
    }
    put_rows(t, t->x, t->ldx, x, t->n_in);
    /* bf16's largest is 3.39e38: what rounds to infinity is no finite token */
    if (t->model->options.element == ELEMENT_BF16)
        for (size_t i = 0; i < t->n_rows * t->ldx; i++)
            if ((((uint16_t *)t->x)[i] & 0x7fff) == 0x7f80)
                ((uint16_t *)t->x)[i]--;
    free(x);
}

static void a_million_tokens_give_no_nan(void **state)
{
    (void)state;
#ifdef T2_STANDIN
    enum { ROWS = 256, TIMES = 2 }; /* its threads are slow */
#else
    enum { ROWS = 4096, TIMES = 82 }; /* by 3 settings: a million in each type */
#endif
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
        for (int kind = 0; kind < 3; kind++) {
            struct moslora_options o = moslora_defaults();
            uint32_t seed = 11;
            o.dropout = 0;
            o.hyperbolic = kind == 1 ? CHART_LORENTZ : CHART_BALL;
            o.top1 = kind == 1;
            o.experts |= kind == 2 ? MOSLORA_PRODUCT : 0;
            struct setting t = setting_create(&o, (enum element)element, 2, ROWS);
            some_parameters(t.adapter, 1);
            /* coordinates far outside of the ball's edge */
            for (size_t i = 0; kind == 0 && i < t.adapter->first_own; i++)
                t.adapter->parameters[i] *= 3;
            for (size_t i = t.adapter->first_own; i < t.adapter->n_parameters; i++)
                t.adapter->parameters[i] *= 0.1f;
            some_rows(&t, 2);
            for (size_t k = 0; k <= TIMES; k++) {
                fill_tokens(&t, &seed, k == TIMES);
                forward(&t);
                for (size_t i = 0; i < ROWS * t.ldy; i++)
                    if (!isfinite(t.y[i]))
                        fail_msg("element %d, kind %d: %g at row %zu", element, kind,
                                 (double)t.y[i], i / t.ldy);
                if (k % 20 != 0 || k == TIMES)
                    continue;
                backward(&t);
                for (size_t i = 0; i < ROWS * t.ldx; i++)
                    assert_true(isfinite(t.dx[i]));
                for (size_t i = 0; i < t.adapter->n_parameters; i++)
                    assert_true(isfinite(t.gradient[i]));
            }
            setting_free(&t);
        }
}

static void bits_do_not_depend_on_threads_or_cuts(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct moslora_options o = moslora_defaults();
        float *y = NULL, *dx = NULL, *gradient = NULL;
        uint64_t keys[301];
        for (size_t i = 0; i < 301; i++)
            keys[i] = i * i + 5;
        o.dropout = 0.2;
        o.experts |= MOSLORA_PRODUCT;
        for (int threads = 1; threads <= 3; threads++) {
            struct setting t = setting_create(&o, (enum element)element, threads, 301);
            some_parameters(t.adapter, 0.3f);
            some_rows(&t, 8);
            t.call.row_keys = keys;
            adapter_prepare(t.adapter, t.model, t.call.parameters);
            /* in two calls of forward, as rows come in training */
            const struct adapter_ops *ops = t.adapter->ops;
            const size_t first = (size_t)threads * 50;
            struct adapter_call call = t.call;
            call.n_rows = first;
            ops->forward(t.adapter, 0, &call, t.y, t.ldy, true);
            call.n_rows = 301 - first;
            call.x = (char *)t.x + first * t.ldx * element_size((enum element)element);
            call.saved = (char *)t.saved + ops->saved_bytes(t.adapter, 0, first);
            call.row_keys = keys + first;
            ops->forward(t.adapter, 0, &call, t.y + first * t.ldy, t.ldy, true);
            backward(&t);
            const size_t n = t.adapter->n_parameters + t.adapter->n_sums;
            if (threads == 1) {
                y = copy_of(t.y, 301 * t.ldy);
                dx = copy_of(t.dx, 301 * t.ldx);
                gradient = copy_of(t.gradient, n);
            } else {
                assert_memory_equal(t.y, y, 301 * t.ldy * sizeof *y);
                assert_memory_equal(t.dx, dx, 301 * t.ldx * sizeof *dx);
                assert_memory_equal(t.gradient, gradient, n * sizeof *gradient);
            }
            setting_free(&t);
        }
        free(y);
        free(dx);
        free(gradient);
    }
}

/* With dropout, loss and gradient see the same mask: a step along dx changes the loss as dx says.
 */
static void dropout_is_the_same_forward_and_backward(void **state)
{
    (void)state;
    struct moslora_options o = moslora_defaults();
    o.dropout = 0.5;
    struct setting t = setting_create(&o, ELEMENT_F32, 2, 40);
    uint64_t keys[40];
    uint32_t seed = 4;
    double loss[2] = {0}, expected = 0;
    size_t n_dropped = 0;
    for (size_t i = 0; i < 40; i++)
        keys[i] = 1000 + i;
    t.call.row_keys = keys;
    some_parameters(t.adapter, 0.5f);
    some_rows(&t, 6);
    forward(&t);
    backward(&t);
    float *x = t.x, *way = calloc(40 * t.ldx, sizeof *way);
    for (size_t r = 0; r < 40; r++)
        for (size_t i = 0; i < t.n_in; i++) {
            way[r * t.ldx + i] = 1e-2f * svf_noise(&seed);
            expected += (double)way[r * t.ldx + i] * (double)t.dx[r * t.ldx + i];
            n_dropped += t.dx[r * t.ldx + i] == 0;
        }
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; i < 40 * t.ldx; i++)
            x[i] += side ? -2 * way[i] : way[i];
        forward(&t);
        for (size_t r = 0; r < 40; r++)
            for (size_t i = 0; i < t.n_out; i++)
                loss[side] += (double)t.y[r * t.ldy + i] * (double)((float *)t.g)[r * t.ldy + i];
    }
    assert_true(fabs((loss[0] - loss[1]) / 2 - expected) < 1e-3 * fabs(expected) + 1e-4);
    assert_true(fabs((double)n_dropped / (40.0 * (double)t.n_in) - 0.5) < 0.05);
    free(way);
    setting_free(&t);
}

/* bf16 rounds what goes into products; nothing else is lost. */
static void bf16_is_near_f32(void **state)
{
    (void)state;
    struct moslora_options o = moslora_defaults();
    float *y = NULL, *dx = NULL, *gradient = NULL;
    o.dropout = 0;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct setting t = setting_create(&o, (enum element)element, 1, 400);
        some_parameters(t.adapter, 0.4f);
        some_rows(&t, 9);
        forward(&t);
        backward(&t);
        if (element == ELEMENT_F32) {
            y = copy_of(t.y, 400 * t.ldy);
            dx = copy_of(t.dx, 400 * t.ldx);
            gradient = copy_of(t.gradient, t.adapter->n_parameters);
        } else {
            const size_t n = 400 * t.ldy, n_x = 400 * t.ldx;
            assert_true(difference(t.y, y, n) < 2e-2 * largest(y, n));
            assert_true(difference(t.dx, dx, n_x) < 2e-2 * largest(dx, n_x));
            check_pieces(t.adapter, t.gradient, gradient, 5e-2, 0);
        }
        setting_free(&t);
    }
    free(y);
    free(dx);
    free(gradient);
}

static void penalty_and_statistics_say_where_curvatures_are(void **state)
{
    (void)state;
    struct moslora_options o = moslora_defaults();
    o.penalty = 0.1;
    o.dropout = 0;
    struct setting t = setting_create(&o, ELEMENT_F32, 1, 20);
    struct adapter_piece p;
    double sums[16], values[16];
    some_rows(&t, 3);
    forward(&t);
    backward(&t);
    for (size_t i = 0; i < t.adapter->n_sums; i++)
        sums[i] = (double)t.gradient[t.adapter->n_parameters + i];
    assert_int_equal(t.adapter->n_statistics, 9);
    for (size_t i = 0; t.adapter->ops->piece(t.adapter, 0, i, &p); i++)
        if (strcmp(p.name, "spherical_curvature") == 0)
            t.adapter->parameters[p.first] = 2;
    memset(t.gradient, 0, t.adapter->n_parameters * sizeof *t.gradient);
    assert_true(fabs(t.adapter->ops->penalty(t.adapter, t.adapter->parameters, t.gradient) - 0.2) <
                1e-6);
    assert_true(fabs(largest(t.gradient, t.adapter->n_parameters) - 0.2) < 1e-6);
    t.adapter->ops->statistics(t.adapter, t.adapter->parameters, sums, values);
    for (size_t i = 0; i < 3; i++) /* the router begins nearly even */
        assert_true(fabs(values[i] - 1.0 / 3) < 0.25);
    assert_true(fabs(values[0] + values[1] + values[2] - 1) < 1e-6);
    assert_true(fabs(values[3] + values[4] + values[5] - 1) < 1e-6);
    assert_true(values[6] > 0.5 && values[6] < log(3));
    assert_true(fabs(values[7] + 0.5) < 1e-6);
    assert_true(fabs(values[8] - 1 / (1 + exp(-2))) < 1e-6);
    setting_free(&t);
}

/* Of a file that was not written by t2: training keeps points within their limit. */
static void points_and_curvatures_out_of_bounds_give_no_nan(void **state)
{
    (void)state;
    const struct moslora_options o = moslora_defaults();
    for (float size = 1; size < 1e37f; size *= 1e6f) {
        struct setting t = setting_create(&o, ELEMENT_F32, 1, 8);
        some_rows(&t, 3);
        some_parameters(t.adapter, 0.5f);
        for (size_t i = t.adapter->first_own; i < t.adapter->n_parameters; i++)
            t.adapter->parameters[i] *= size;
        struct adapter_piece p;
        for (size_t i = 0; t.adapter->ops->piece(t.adapter, 0, i, &p); i++)
            if (strstr(p.name, "_curvature"))
                t.adapter->parameters[p.first] = i % 2 ? size : -size;
        forward(&t);
        for (size_t i = 0; i < t.n_rows * t.ldy; i++)
            assert_true(isfinite(t.y[i]));
        setting_free(&t);
    }
}

static void bad_options_are_named(void **state)
{
    (void)state;
    struct moslora_options o = moslora_defaults();
    assert_int_equal(moslora_check(&o), 0);
    o.most_curved = 3;
    assert_int_equal(moslora_check(&o), -1);
    assert_non_null(strstr(error_message(), "largest curvature of 3"));
    o = moslora_defaults();
    o.curvature = 1;
    assert_int_equal(moslora_check(&o), -1);
    o.fixed_curvature = true;
    assert_int_equal(moslora_check(&o), 0);
    o = moslora_defaults();
    o.experts = MOSLORA_SPHERICAL;
    assert_int_equal(moslora_check(&o), -1);
    assert_non_null(strstr(error_message(), "two or more experts"));
    o = moslora_defaults();
    o.router_hidden = 1000;
    assert_int_equal(moslora_check(&o), -1);
    o = moslora_defaults();
    o.rank = 0;
    assert_int_equal(moslora_check(&o), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_site_is_its_equations),
        cmocka_unit_test(models_have_the_references_gradient),
        cmocka_unit_test(every_parameter_is_in_one_piece),
        cmocka_unit_test(plans_count_the_routers_that_there_are),
        cmocka_unit_test(the_start_is_the_base_model),
        cmocka_unit_test(without_curvature_every_chart_is_lora),
        cmocka_unit_test(a_million_tokens_give_no_nan),
        cmocka_unit_test(bits_do_not_depend_on_threads_or_cuts),
        cmocka_unit_test(dropout_is_the_same_forward_and_backward),
        cmocka_unit_test(bf16_is_near_f32),
        cmocka_unit_test(penalty_and_statistics_say_where_curvatures_are),
        cmocka_unit_test(points_and_curvatures_out_of_bounds_give_no_nan),
        cmocka_unit_test(bad_options_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What MoSLoRA is made of: where its parameters lie, how they start, packing them for products, the
 * penalty, statistics and steps of bias points. */
#include "model/adapter_moslora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_internal.h"
#include "model/block.h"
#include "model/rng.h"
#include "mpi/error.h"

struct moslora_options moslora_defaults(void)
{
    return (struct moslora_options){
        .rank = 4,
        .alpha = 8,
        .dropout = 0.05,
        .experts = MOSLORA_EUCLIDEAN | MOSLORA_HYPERBOLIC | MOSLORA_SPHERICAL,
        .hyperbolic = CHART_BALL,
        .router_hidden = 5,
        .curvature = 0.5,
        .most_curved = 1,
        .penalty = 1e-5,
        .curvature_rate = 20,
    };
}

int moslora_check(const struct moslora_options *o)
{
    if (o->rank < 1 || o->rank > MOSLORA_MOST_RANK)
        return error_set("MoSLoRA experts of rank %zu: 1 to %d are possible", o->rank,
                         MOSLORA_MOST_RANK);
    if (!isfinite(o->alpha))
        return error_set("MoSLoRA's alpha must be a number");
    if (!(o->dropout >= 0 && o->dropout < 1))
        return error_set("a dropout of %g: it must be 0 or more and below 1", o->dropout);
    if (__builtin_popcount(o->experts) < 2 || o->experts >> SPACES_MOST_EXPERTS)
        return error_set("MoSLoRA needs two or more experts of euclidean, hyperbolic, spherical "
                         "and product");
    if (o->hyperbolic != CHART_BALL && o->hyperbolic != CHART_LORENTZ)
        return error_set("the chart of MoSLoRA's hyperbolic expert is ball or lorentz");
    if (o->router_hidden < 1 || o->router_hidden > SPACES_MOST_HIDDEN)
        return error_set("a MoSLoRA router of %zu hidden units: 1 to %d are possible",
                         o->router_hidden, SPACES_MOST_HIDDEN);
    if (!(o->most_curved > 0 && o->most_curved <= MANIFOLD_MOST_CURVED))
        return error_set("a largest curvature of %g: it must be above 0 and at most %g",
                         o->most_curved, MANIFOLD_MOST_CURVED);
    if (!(o->curvature >= 0 && o->curvature <= o->most_curved) ||
        (!o->fixed_curvature && (o->curvature == 0 || o->curvature == o->most_curved)))
        return error_set("a curvature of %g must lie between 0 and the largest, %g", o->curvature,
                         o->most_curved);
    if (!(o->curvature_rate >= 0 && isfinite(o->curvature_rate)))
        return error_set("a curvature rate of %g times the others': it must be 0 or more",
                         o->curvature_rate);
    if (!(o->penalty >= 0 && isfinite(o->penalty)))
        return error_set("a curvature penalty of %g: it must be 0 or more", o->penalty);
    return 0;
}

/* ---- where parameters lie -------------------------------------------------------------------- */

static void add_term(struct moslora_site *s, const struct moslora *m, const char *name,
                     enum chart chart, size_t expert, size_t part)
{
    const bool product = part > 0;
    const size_t i = part - 1;
    struct moslora_term *t = &s->terms[s->n_terms++];
    *t = (struct moslora_term){.expert = expert,
                               .chart = chart,
                               .name = name,
                               .n_in = s->n_in,
                               .n_out = s->n_out,
                               .norm = part};
    if (product) {
        t->first_in = s->n_in * i / 3;
        t->n_in = s->n_in * part / 3 - t->first_in;
        t->first_out = s->n_out * i / 3;
        t->n_out = s->n_out * part / 3 - t->first_out;
    }
    if (m->options.shared_a && !product && s->n_terms > 1) {
        t->h = s->terms[0].h;
    } else {
        t->h = s->n_low;
        s->n_low += s->r;
    }
}

/* Terms, and columns of h and u. */
static void site_shape(struct moslora_site *s, const struct moslora *m, const struct module *module)
{
    const unsigned experts = m->options.experts;
    size_t e = 0;

    *s = (struct moslora_site){
        .n_in = module->n_columns, .n_out = module->n_rows, .r = m->options.rank};
    if (experts & MOSLORA_EUCLIDEAN)
        add_term(s, m, "euclidean", CHART_FLAT, e++, 0);
    if (experts & MOSLORA_HYPERBOLIC)
        add_term(s, m, "hyperbolic", m->options.hyperbolic, e++, 0);
    if (experts & MOSLORA_SPHERICAL)
        add_term(s, m, "spherical", CHART_SPHERE, e++, 0);
    if (experts & MOSLORA_PRODUCT) {
        add_term(s, m, "product_h", m->options.hyperbolic, e, 1);
        add_term(s, m, "product_s", CHART_SPHERE, e, 2);
        add_term(s, m, "product_e", CHART_FLAT, e++, 3);
    }
    s->n_experts = e;
    s->n_hidden = m->options.router_hidden;
    s->n_h = s->n_low + s->n_hidden;
    for (size_t i = 0; i < s->n_terms; i++, s->n_u += s->r)
        s->terms[i].u = s->n_u;
    for (size_t i = 0; i < s->n_terms; i++)
        if (s->terms[i].chart != CHART_FLAT)
            s->terms[i].u_point = s->n_u++;
}

static size_t take(size_t *at, size_t n)
{
    const size_t first = *at;
    *at += n;
    return first;
}

/* All of a site's parameters but the bias points. */
static void place_site(struct moslora_site *s, const struct moslora *m, bool own_router, size_t *at)
{
    s->own_router = own_router;
    for (size_t i = 0; i < s->n_terms; i++) {
        struct moslora_term *t = &s->terms[i];
        t->a = i > 0 && t->h == s->terms[0].h ? s->terms[0].a : take(at, s->r * t->n_in);
    }
    for (size_t i = 0; i < s->n_terms; i++)
        s->terms[i].b_t = take(at, s->r * s->terms[i].n_out);
    for (size_t i = 0; i < s->n_terms; i++)
        if (moslora_learns_curvature(m, &s->terms[i]))
            s->terms[i].curvature = take(at, 1);
    if (!own_router)
        return;
    s->w1 = take(at, s->n_hidden * s->n_in);
    s->b1 = take(at, s->n_hidden);
    s->w2 = take(at, s->n_experts * s->n_hidden);
    s->b2 = take(at, s->n_experts);
}

/* The site whose router this one uses: its own, or that of the first projection of the adapter that
 * reads the same input, in whatever order a file lists them. */
static size_t router_site(const struct adapter *adapter, const struct moslora *m, size_t site)
{
    enum projection members[GROUP_MEMBERS];
    const struct adapter_site *s = &adapter->sites[site];
    const size_t n = group_members(projection_group(s->projection), members);

    for (size_t i = 0; m->options.router_per_layer && i < n; i++) {
        const int32_t at = adapter_site_at(adapter, s->module.layer, members[i]);
        if (at >= 0)
            return (size_t)at;
    }
    return site;
}

static void place_points(struct moslora_site *s, size_t *at)
{
    for (size_t i = 0; i < s->n_terms; i++)
        if (s->terms[i].chart != CHART_FLAT)
            s->terms[i].point = take(at, s->terms[i].n_out);
}

size_t adapter_moslora_count(const struct module *module, const struct moslora_options *options,
                             bool with_router)
{
    const struct moslora m = {.options = *options};
    struct moslora_site s;
    size_t n = 0;

    site_shape(&s, &m, module);
    place_site(&s, &m, with_router, &n);
    place_points(&s, &n);
    return n;
}

/* Pieces in the order of the vector; the bias points lie behind all sites. */
static bool moslora_piece(const struct adapter *adapter, size_t site, size_t i,
                          struct adapter_piece *piece)
{
    static const char *const names[][4] = {
        {"euclidean", "euclidean_A", "euclidean_B_t", ""},
        {"hyperbolic", "hyperbolic_A", "hyperbolic_B_t", "hyperbolic_curvature"},
        {"spherical", "spherical_A", "spherical_B_t", "spherical_curvature"},
        {"product_h", "product_h_A", "product_h_B_t", "product_h_curvature"},
        {"product_s", "product_s_A", "product_s_B_t", "product_s_curvature"},
        {"product_e", "product_e_A", "product_e_B_t", ""},
    };
    static const char *const points[][2] = {
        {"hyperbolic", "hyperbolic_point"},
        {"spherical", "spherical_point"},
        {"product_h", "product_h_point"},
        {"product_s", "product_s_point"},
    };
    const struct moslora *m = adapter->data;
    const struct moslora_site *s = moslora_site(adapter, site);

    for (size_t k = 0; k < s->n_terms; k++) {
        const struct moslora_term *t = &s->terms[k];
        size_t row = 0, point = 0;
        while (strcmp(names[row][0], t->name) != 0)
            row++;
        const bool shares = m->options.shared_a && t->norm == 0;
        if (!(shares && k > 0) && i-- == 0) {
            *piece =
                (struct adapter_piece){shares ? "shared_A" : names[row][1], t->a, s->r, t->n_in};
            return true;
        }
        if (i-- == 0) {
            *piece = (struct adapter_piece){names[row][2], t->b_t, s->r, t->n_out};
            return true;
        }
        if (t->chart == CHART_FLAT)
            continue;
        while (strcmp(points[point][0], t->name) != 0)
            point++;
        if (i-- == 0) {
            *piece = (struct adapter_piece){points[point][1], t->point, t->n_out, 0};
            return true;
        }
        if (moslora_learns_curvature(m, t) && i-- == 0) {
            *piece = (struct adapter_piece){names[row][3], t->curvature, 1, 0};
            return true;
        }
    }
    if (!s->own_router || i > 3)
        return false;
    const struct adapter_piece router[] = {
        {"router_in", s->w1, s->n_hidden, s->n_in},
        {"router_in_bias", s->b1, s->n_hidden, 0},
        {"router_out", s->w2, s->n_experts, s->n_hidden},
        {"router_out_bias", s->b2, s->n_experts, 0},
    };
    *piece = router[i];
    return true;
}

/* ---- preparing ------------------------------------------------------------------------------- */

static double dot(const float *x, const float *y, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)y[i];
    return sum;
}

/* The factor that brings a bias point within its limit: 1 but for a file that t2 has not written.
 */
static double shorten(const struct moslora *m, const float *point, size_t n)
{
    const double length = sqrt(dot(point, point, n));
    const double limit = manifold_point_limit(m->options.most_curved);
    return length > limit * (1 + 1e-6) ? limit / length : 1;
}

static void prepare_term(const struct moslora *m, struct moslora_site *s, size_t k,
                         const float *parameters)
{
    struct moslora_term *t = &s->terms[k];
    struct spaces_term *row = &s->spaces.terms[k];
    const float *b_t = parameters + t->b_t, *point = parameters + t->point;
    double *gram = s->numbers + row->gram, *b_point = s->numbers + row->b_point;

    t->kappa = row->kappa = moslora_curvature(m, t, parameters);
    if (t->chart == CHART_FLAT)
        return;
    const double by = shorten(m, point, t->n_out);
    for (size_t i = 0; i < s->r; i++) {
        for (size_t j = 0; j <= i; j++)
            gram[i * s->r + j] = gram[j * s->r + i] =
                dot(b_t + i * t->n_out, b_t + j * t->n_out, t->n_out);
        b_point[i] = by * dot(b_t + i * t->n_out, point, t->n_out);
    }
    row->b2 = by * by * dot(point, point, t->n_out);
}

static void prepare_router(struct moslora_site *s, const float *parameters)
{
    float *b1 = s->router, *w2 = b1 + s->n_hidden, *b2 = w2 + s->n_experts * s->n_hidden;
    memcpy(b1, parameters + s->b1, s->n_hidden * sizeof *b1);
    memcpy(w2, parameters + s->w2, s->n_experts * s->n_hidden * sizeof *w2);
    memcpy(b2, parameters + s->b2, s->n_experts * sizeof *b2);
}

static void prepare_site(const struct adapter *adapter, struct moslora_site *s,
                         const float *parameters)
{
    const struct moslora *m = adapter->data;
    float *rows = m->pack, largest = 0;

    memset(rows, 0, s->n_h * s->n_in * sizeof *rows);
    for (size_t i = 0; i < s->n_terms; i++) {
        const struct moslora_term *t = &s->terms[i];
        for (size_t k = 0; k < s->r; k++)
            memcpy(rows + (t->h + k) * s->n_in + t->first_in, parameters + t->a + k * t->n_in,
                   t->n_in * sizeof *rows);
    }
    memcpy(rows + s->n_low * s->n_in, parameters + s->w1, s->n_hidden * s->n_in * sizeof *rows);
    matrix_pack_rows(&s->in, 0, s->n_h, rows);
    if (adapter->with_backward) {
        block_transpose(m->pack_t, rows, s->n_h, s->n_in);
        matrix_pack_rows(&s->in_t, 0, s->n_in, m->pack_t);
    }

    memset(rows, 0, s->n_u * s->n_out * sizeof *rows);
    for (size_t i = 0; i < s->n_terms; i++) {
        struct moslora_term *t = &s->terms[i];
        prepare_term(m, s, i, parameters);
        for (size_t k = 0; k < s->r; k++)
            memcpy(rows + (t->u + k) * s->n_out + t->first_out, parameters + t->b_t + k * t->n_out,
                   t->n_out * sizeof *rows);
        const float *point = parameters + t->point;
        const float by = t->chart == CHART_FLAT ? 0 : (float)shorten(m, point, t->n_out);
        for (size_t c = 0; t->chart != CHART_FLAT && c < t->n_out; c++)
            rows[t->u_point * s->n_out + t->first_out + c] = by * point[c];
    }
    for (size_t i = 0; i < s->n_u * s->n_out; i++)
        largest = fmaxf(largest, fabsf(rows[i]));
    /* |u| up to which a product with `out` cannot overflow */
    s->spaces.most_u = (double)(1e37f / ((1 + largest) * (float)s->n_u));
    prepare_router(s, parameters);
    if (adapter->with_backward)
        matrix_pack_rows(&s->out_t, 0, s->n_u, rows);
    block_transpose(m->pack_t, rows, s->n_u, s->n_out);
    matrix_pack_rows(&s->out, 0, s->n_out, m->pack_t);
}

static void moslora_prepare(const struct adapter *adapter, const struct model *model,
                            const float *parameters)
{
    (void)model;
    for (size_t i = 0; i < adapter->n_sites; i++)
        prepare_site(adapter, adapter->sites[i].data, parameters);
}

/* ---- making one ------------------------------------------------------------------------------ */

static void moslora_free(struct adapter *adapter)
{
    struct moslora *m = adapter->data;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct moslora_site *s = adapter->sites[i].data;
        if (!s)
            continue;
        matrix_free(&s->in);
        matrix_free(&s->in_t);
        matrix_free(&s->out);
        matrix_free(&s->out_t);
        memory_give(m->memory, s->numbers, s->n_numbers, sizeof *s->numbers);
        memory_give(m->memory, s->router, s->n_router, sizeof *s->router);
        free(s);
    }
    if (m) {
        free(m->pack);
        free(m->pack_t);
        free(m->point_scratch);
        free(m);
    }
}

static const struct adapter_ops moslora_ops = {
    .kind = "moslora",
    .needs_input = true,
    .prepare = moslora_prepare,
    .saved_bytes = moslora_saved_bytes,
    .scratch_bytes = moslora_scratch_bytes,
    .forward = moslora_forward,
    .backward = moslora_backward,
    .penalty = moslora_penalty,
    .statistics = moslora_statistics,
    .update = moslora_update,
    .piece = moslora_piece,
    .free = moslora_free,
};

/* What rows need of a site that does not change with the parameters. */
static void describe_rows(struct moslora_site *s, const struct moslora *m)
{
    const size_t each = s->r * s->r + s->r;
    s->spaces = (struct spaces){.r = s->r,
                                .n_in = s->n_in,
                                .n_terms = s->n_terms,
                                .n_experts = s->n_experts,
                                .n_low = s->n_low,
                                .n_hidden = s->n_hidden,
                                .n_norms = m->n_norms,
                                .norms_at = round_up(s->n_h, KERNEL_COLUMNS),
                                .scale = m->scale,
                                .top1 = m->options.top1,
                                .numbers = s->numbers,
                                .b1 = s->router,
                                .w2 = s->router + s->n_hidden,
                                .b2 = s->router + (1 + s->n_experts) * s->n_hidden};
    for (size_t i = 0; i < s->n_terms; i++) {
        const struct moslora_term *t = &s->terms[i];
        s->spaces.terms[i] = (struct spaces_term){.chart = t->chart,
                                                  .expert = (uint32_t)t->expert,
                                                  .norm = (uint32_t)t->norm,
                                                  .h = (uint32_t)t->h,
                                                  .u = (uint32_t)t->u,
                                                  .u_point = (uint32_t)t->u_point,
                                                  .gram = (uint32_t)(i * each),
                                                  .b_point = (uint32_t)(i * each + s->r * s->r),
                                                  .n_in = (double)t->n_in};
    }
}

static int make_site(struct moslora_site *s, const struct moslora *m, bool with_backward,
                     const struct engine *e)
{
    s->n_numbers = s->n_terms * (s->r * s->r + s->r);
    s->n_router = s->n_hidden + s->n_experts * (s->n_hidden + 1);
    s->numbers = memory_take(m->memory, s->n_numbers, sizeof *s->numbers);
    s->router = memory_take(m->memory, s->n_router, sizeof *s->router);
    if (!s->numbers || !s->router)
        return error_set("no memory for an adapter of rank %zu", s->r);
    describe_rows(s, m);
    if (engine_matrix_create(e, &s->in, s->n_h, s->n_in) != 0 ||
        engine_matrix_create(e, &s->out, s->n_out, s->n_u) != 0)
        return -1;
    if (with_backward && (engine_matrix_create(e, &s->in_t, s->n_in, s->n_h) != 0 ||
                          engine_matrix_create(e, &s->out_t, s->n_u, s->n_out) != 0))
        return -1;
    return 0;
}

/* Sites, places of parameters, the memory that prepare works in. */
static int make_sites(struct adapter *adapter, struct moslora *m, const struct model *model)
{
    size_t most = 1, most_out = 1;

    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct adapter_site *site = &adapter->sites[i];
        struct moslora_site *s = site->data = calloc(1, sizeof *s);
        if (!s)
            return error_set("no memory for an adapter");
        site_shape(s, m, &site->module);
        if (m->options.experts & MOSLORA_PRODUCT && (s->n_in < 3 || s->n_out < 3))
            return error_set("%s is %zu x %zu: too small for a product of three spaces",
                             site->module.path, s->n_out, s->n_in);
        site->first_parameter = adapter->n_parameters;
        place_site(s, m, router_site(adapter, m, i) == i, &adapter->n_parameters);
        site->n_parameters = adapter->n_parameters - site->first_parameter;
        if (make_site(s, m, adapter->with_backward, &model->engine) != 0)
            return -1;
        m->n_experts = s->n_experts;
        const size_t in = s->n_h * s->n_in, out = s->n_u * s->n_out;
        most = in > most ? in : most;
        most = out > most ? out : most;
        most_out = s->n_out > most_out ? s->n_out : most_out;
    }
    adapter->first_own = adapter->n_parameters;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct moslora_site *s = adapter->sites[i].data;
        const struct moslora_site *router = moslora_site(adapter, router_site(adapter, m, i));
        s->w1 = router->w1;
        s->b1 = router->b1;
        s->w2 = router->w2;
        s->b2 = router->b2;
        place_points(s, &adapter->n_parameters);
    }
    adapter->n_own = adapter->n_parameters - adapter->first_own;
    m->pack = malloc(most * sizeof *m->pack);
    m->pack_t = malloc(most * sizeof *m->pack_t);
    m->point_scratch = malloc(4 * most_out * sizeof *m->point_scratch);
    if (!m->pack || !m->pack_t || !m->point_scratch)
        return error_set("no memory for an adapter of %zu matrices", adapter->n_sites);
    return 0;
}

static void name_statistics(struct adapter *adapter, struct moslora *m)
{
    static const char *const weight[] = {"weight_euclidean", "weight_hyperbolic",
                                         "weight_spherical", "weight_product"};
    static const char *const top[] = {"top_euclidean", "top_hyperbolic", "top_spherical",
                                      "top_product"};
    size_t n = 0;
    for (size_t e = 0; e < SPACES_MOST_EXPERTS; e++)
        if (m->options.experts >> e & 1)
            m->names[n++] = weight[e];
    for (size_t e = 0; e < SPACES_MOST_EXPERTS; e++)
        if (m->options.experts >> e & 1)
            m->names[n++] = top[e];
    m->names[n++] = "router_entropy";
    adapter->n_sums = n + 1;
    if (m->options.experts & MOSLORA_HYPERBOLIC)
        m->names[n++] = "curvature_hyperbolic";
    if (m->options.experts & MOSLORA_SPHERICAL)
        m->names[n++] = "curvature_spherical";
    if (m->options.experts & MOSLORA_PRODUCT) {
        m->names[n++] = "curvature_product_h";
        m->names[n++] = "curvature_product_s";
    }
    adapter->n_statistics = n;
    adapter->statistic_names = m->names;
}

/* U(-1, 1) / sqrt(n_columns), as torch.nn.Linear and LoRA's A start; keyed by the place in the
 * model and what it is for, so a choice of modules or experts does not change it. */
static void start_uniform(float *values, size_t n, size_t n_columns, uint64_t seed, uint64_t stream)
{
    const float by = (float)(1 / sqrt((double)n_columns));
    for (size_t i = 0; i < n; i++)
        values[i] = by * (2 * rng_uniform(seed, stream, i) - 1);
}

static void start(struct adapter *adapter, const struct moslora *m, uint64_t seed)
{
    enum { STREAMS = 16 };
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct adapter_site *site = &adapter->sites[i];
        const struct moslora_site *s = site->data;
        const uint64_t stream = STREAMS * adapter_site_stream(site);
        float *p = adapter->parameters;
        for (size_t k = 0; k < s->n_terms; k++) {
            const struct moslora_term *t = &s->terms[k];
            const uint64_t chart = t->chart == CHART_FLAT ? 0 : t->chart == CHART_SPHERE ? 2 : 1;
            if (k == 0 || t->a != s->terms[0].a)
                start_uniform(p + t->a, s->r * t->n_in, t->n_in, seed,
                              stream + (t->norm > 0 ? 4 : 0) + chart);
            if (moslora_learns_curvature(m, t))
                p[t->curvature] = (float)moslora_curvature_start(&m->options);
        }
        if (!s->own_router)
            continue;
        start_uniform(p + s->w1, s->n_hidden * s->n_in, s->n_in, seed, stream + STREAMS - 1);
        /* Not even: top-1 would send all tokens to one expert, and the others would never learn. */
        start_uniform(p + s->w2, s->n_experts * s->n_hidden, s->n_hidden, seed,
                      stream + STREAMS - 2);
    }
}

struct adapter *adapter_moslora_create(struct model *model, const struct module *modules,
                                       size_t n_modules, const struct moslora_options *options,
                                       bool with_backward, uint64_t seed)
{
    struct adapter *adapter = NULL;
    struct moslora *m = NULL;
    int status = -1;

    if (moslora_check(options) != 0)
        return NULL;
    adapter = adapter_create(&moslora_ops, model, modules, n_modules, with_backward);
    if (!adapter)
        goto done;
    m = adapter->data = calloc(1, sizeof *m);
    if (!m) {
        error_set("no memory for an adapter");
        goto done;
    }
    m->options = *options;
    m->memory = model->engine.memory;
    m->scale = options->alpha / (double)options->rank;
    m->n_norms = options->experts & MOSLORA_PRODUCT ? SPACES_MOST_NORMS : 1;
    if (make_sites(adapter, m, model) != 0 || adapter_make_parameters(adapter) != 0)
        goto done;
    name_statistics(adapter, m);
    start(adapter, m, seed);
    status = 0;
done:
    if (status != 0) {
        adapter_free(adapter);
        return NULL;
    }
    return adapter;
}

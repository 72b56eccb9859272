/* What LoRA and DoRA are made of: where their parameters lie, how they start, packing them for
 * products.
 *
 * The norms come from |W_i|^2 + 2 s (W A^T)_i B_i + s^2 B_i (A A^T) B_i^T, so the product B A is
 * never formed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_lora_internal.h"
#include "model/block.h"
#include "model/rng.h"
#include "mpi/error.h"

/* ---- parameters ------------------------------------------------------------------------------ */

/* norms, c and c - 1 of a site. */
static void prepare_norms(const struct adapter *adapter, size_t site, const struct model *model,
                          const float *a, const float *b, const float *m)
{
    const struct engine *e = model_engine(model);
    const struct low_rank *l = adapter->data;
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const struct adapter_site *place = &adapter->sites[site];
    const struct span *base = model_base(model, place->module.layer, place->projection);
    const size_t ldx = round_up(s->n_in, KERNEL_K_STEP), ldw = round_up(s->n_out, KERNEL_COLUMNS);
    double *aa = l->aa;

    for (size_t i = 0; i < s->r; i++)
        memcpy(l->a_floats + i * ldx, a + i * s->n_in, s->n_in * sizeof *a);
    engine_train(e)->to_elements(e, l->a, ldx, l->a_floats, ldx, s->r, s->n_in);
    e->ops->product(e, l->wa, ldw, l->a, ldx, s->r, &base->m, NULL, false);
    e->ops->wait(e);
    for (size_t i = 0; i < s->r; i++)
        for (size_t k = 0; k <= i; k++) {
            double sum = 0;
            for (size_t j = 0; j < s->n_in; j++)
                sum += (double)a[i * s->n_in + j] * (double)a[k * s->n_in + j];
            aa[i * s->r + k] = aa[k * s->r + i] = sum;
        }
    for (size_t o = 0; o < s->n_out; o++) {
        const float *row = b + o * s->r;
        double cross = 0, own = 0;
        for (size_t i = 0; i < s->r; i++) {
            double sum = 0;
            for (size_t k = 0; k < s->r; k++)
                sum += aa[i * s->r + k] * (double)row[k];
            own += sum * (double)row[i];
            cross += (double)l->wa[i * ldw + o] * (double)row[i];
        }
        const double square = s->squares[o] + 2 * l->scale * cross + l->scale * l->scale * own;
        /* A row of zeros has no direction: its magnitude changes nothing. */
        s->norms[o] = square > 0 ? (float)sqrt(square) : 1;
        s->c[o] = m[o] / s->norms[o];
        s->c_less[o] = s->c[o] - 1;
    }
}

/* The group's A of the parameters below each other, packed both ways. */
static void prepare_group(const struct adapter *adapter, struct low_rank_group *group,
                          const float *parameters)
{
    const struct low_rank *l = low_rank_of(adapter);

    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct low_rank_site *s = low_rank_site(adapter, i);
        if (s->group == group)
            memcpy(l->rows + s->column * s->n_in, parameters + adapter->sites[i].first_parameter,
                   s->r * s->n_in * sizeof *l->rows);
    }
    matrix_pack_rows(&group->a, 0, group->width, l->rows);
    if (adapter->with_backward) {
        block_transpose(l->transposed, l->rows, group->width, group->a.k);
        matrix_pack_rows(&group->a_t, 0, group->a.k, l->transposed);
    }
}

static void prepare(const struct adapter *adapter, const struct model *model,
                    const float *parameters)
{
    const struct low_rank *l = low_rank_of(adapter);

    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct low_rank_site *s = low_rank_site(adapter, i);
        const float *a = parameters + adapter->sites[i].first_parameter, *b = a + s->r * s->n_in;
        if (s->column == 0)
            prepare_group(adapter, s->group, parameters);
        matrix_pack_rows(&s->b, 0, s->n_out, b);
        if (adapter->with_backward) {
            block_transpose(l->transposed, b, s->n_out, s->r);
            matrix_pack_rows(&s->b_t, 0, s->r, l->transposed);
        }
        if (l->dora)
            prepare_norms(adapter, i, model, a, b, b + s->n_out * s->r);
    }
}

static bool piece(const struct adapter *adapter, size_t site, size_t i, struct adapter_piece *p)
{
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const size_t first = adapter->sites[site].first_parameter, b = first + s->r * s->n_in;

    if (i == 0)
        *p = (struct adapter_piece){"lora_A", first, s->r, s->n_in};
    else if (i == 1)
        *p = (struct adapter_piece){"lora_B", b, s->n_out, s->r};
    else
        *p = (struct adapter_piece){"lora_magnitude_vector", b + s->n_out * s->r, s->n_out, 0};
    return i < (low_rank_of(adapter)->dora ? 3 : 2);
}

static void low_rank_free(struct adapter *adapter)
{
    struct low_rank *l = adapter->data;

    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct low_rank_site *s = adapter->sites[i].data;
        if (!s)
            continue;
        if (s->group && s->column == 0) {
            matrix_free(&s->group->a);
            matrix_free(&s->group->a_t);
            memory_give(l->memory, s->group->scales, s->group->width, sizeof(float));
            free(s->group);
        }
        matrix_free(&s->b);
        matrix_free(&s->b_t);
        memory_give(l->memory, s->c, s->n_c, sizeof *s->c);
        free(s->squares);
        free(s->norms);
        free(s);
    }
    if (l) {
        free(l->rows);
        free(l->transposed);
        memory_give(l->memory, l->a_floats, l->n_a, sizeof *l->a_floats);
        memory_give(l->memory, l->a, l->n_a, sizeof(float));
        memory_give(l->memory, l->wa, l->n_wa, sizeof *l->wa);
        free(l->aa);
    }
    free(l);
}

/* ---- building -------------------------------------------------------------------------------- */

#define LOW_RANK_OPS                                                                               \
    .needs_input = true, .prepare = prepare, .saved_bytes = low_rank_saved_bytes,                  \
    .scratch_bytes = low_rank_scratch_bytes, .forward = low_rank_forward,                          \
    .backward = low_rank_backward, .piece = piece, .free = low_rank_free

static const struct adapter_ops lora_ops = {.kind = "lora", LOW_RANK_OPS};
static const struct adapter_ops dora_ops = {.kind = "dora", .runs_base = true, LOW_RANK_OPS};

/* |W_i|^2 of the weights as the engine has them. */
static int make_squares(const struct model *model, const struct adapter_site *place,
                        struct low_rank_site *s)
{
    const struct matrix *w = &model_base(model, place->module.layer, place->projection)->m;
    float *row = malloc(s->n_in * sizeof *row);

    s->squares = calloc(s->n_out, sizeof *s->squares);
    s->norms = calloc(s->n_out, sizeof *s->norms);
    const size_t ldo = round_up(s->n_out, KERNEL_COLUMNS);
    s->n_c = 3 * ldo;
    s->c = memory_take(model_memory(model), s->n_c, sizeof *s->c);
    if (!row || !s->squares || !s->norms || !s->c) {
        free(row);
        return error_set("no memory for the magnitudes of %s", place->module.path);
    }
    s->c_less = s->c + ldo;
    s->minus = s->c_less + ldo;
    for (size_t i = 0; i < s->n_out; i++) {
        matrix_unpack_row(w, i, row);
        for (size_t k = 0; k < s->n_in; k++)
            s->squares[i] += (double)row[k] * (double)row[k];
        s->minus[i] = -1;
    }
    free(row);
    return 0;
}

static int build_group(const struct adapter *adapter, struct low_rank_group *group, size_t n_in,
                       const struct engine *e)
{
    group->scales = memory_take(e->memory, group->width, sizeof *group->scales);
    if (!group->scales)
        return error_set("no memory for an adapter");
    for (size_t k = 0; k < group->width; k++)
        group->scales[k] = (float)low_rank_of(adapter)->scale;
    if (engine_matrix_create(e, &group->a, group->width, n_in) != 0 ||
        (adapter->with_backward && engine_matrix_create(e, &group->a_t, n_in, group->width) != 0))
        return -1;
    return 0;
}

/* The places of a site's columns in its group, which the first of the projections in the model's
 * order makes; it exists already, in whatever order a file lists them. */
static int join_group(const struct adapter *adapter, size_t site, const struct engine *e)
{
    enum projection members[GROUP_MEMBERS];
    const struct adapter_site *place = &adapter->sites[site];
    const size_t n = group_members(projection_group(place->projection), members);
    struct low_rank_site *s = low_rank_site(adapter, site), *first = NULL;
    size_t n_before = 0, n_sites = 0;

    for (size_t i = 0; i < n; i++) {
        const int32_t at = adapter_site_at(adapter, place->module.layer, members[i]);
        if (at < 0)
            continue;
        if (!first)
            first = low_rank_site(adapter, (size_t)at);
        n_before += members[i] < place->projection;
        n_sites++;
    }
    s->column = n_before * s->r;
    s->last = n_before + 1 == n_sites;
    if (!first->group) {
        if (!(first->group = calloc(1, sizeof *first->group)))
            return error_set("no memory for an adapter");
        first->group->width = n_sites * s->r;
        if (build_group(adapter, first->group, s->n_in, e) != 0)
            return -1;
    }
    s->group = first->group;
    return 0;
}

static int build_site(const struct adapter_source *source, struct adapter *adapter, size_t i)
{
    const struct low_rank *l = adapter->data;
    const struct adapter_site *place = &adapter->sites[i];
    const struct module *m = &place->module;
    const struct engine *e = model_engine(source->model);
    struct low_rank_site *s = low_rank_site(adapter, i);

    if (join_group(adapter, i, e) != 0 || engine_matrix_create(e, &s->b, s->n_out, s->r) != 0 ||
        (adapter->with_backward && engine_matrix_create(e, &s->b_t, s->r, s->n_out) != 0))
        return -1;
    if (!l->dora)
        return 0;
    return model_set_apart(source->model, m->layer, 1u << place->projection) != 0
               ? -1
               : make_squares(source->model, place, s);
}

/* A, B, m at the start. */
static void start(const struct adapter *adapter, size_t site, uint64_t seed)
{
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const uint64_t stream = adapter_site_stream(&adapter->sites[site]);
    float *p = adapter->parameters + adapter->sites[site].first_parameter;
    const double bound = 1 / sqrt((double)s->n_in);

    for (size_t i = 0; i < s->r * s->n_in; i++)
        p[i] = (float)(bound * (2 * (double)rng_uniform(seed, stream, i) - 1));
    p += s->r * (s->n_in + s->n_out);
    for (size_t i = 0; s->squares && i < s->n_out; i++)
        p[i] = s->squares[i] > 0 ? (float)sqrt(s->squares[i]) : 1;
}

static size_t count(const struct module *module, const struct adapter_settings *settings,
                    bool first)
{
    (void)first;
    return settings->rank * (module->n_rows + module->n_columns);
}

static size_t count_dora(const struct module *module, const struct adapter_settings *settings,
                         bool first)
{
    return count(module, settings, first) + module->n_rows;
}

static struct adapter *create(const struct adapter_source *source, bool dora)
{
    const struct adapter_settings *settings = &source->settings;
    struct adapter *adapter =
        adapter_create(dora ? &dora_ops : &lora_ops, source->model, source->modules,
                       source->n_modules, source->with_backward);
    struct low_rank *l = calloc(1, sizeof *l);
    size_t widest_in = 0, widest_out = 0;
    int status = -1;

    if (!adapter)
        goto done;
    adapter->data = l;
    if (!l) {
        error_set("no memory for an adapter");
        goto done;
    }
    l->memory = model_memory(source->model);
    l->dora = dora;
    l->scale = settings->alpha / (double)settings->rank;
    l->drop_limit = (uint32_t)lround(settings->dropout * 65536);
    for (size_t i = 0; i < source->n_modules; i++) {
        const struct module *m = &source->modules[i];
        struct low_rank_site *s = adapter->sites[i].data = calloc(1, sizeof *s);
        if (!s) {
            error_set("no memory for an adapter");
            goto done;
        }
        s->r = settings->rank;
        s->n_in = m->n_columns;
        s->n_out = m->n_rows;
        adapter->sites[i].first_parameter = adapter->n_parameters;
        adapter->sites[i].n_parameters =
            dora ? count_dora(m, settings, true) : count(m, settings, true);
        adapter->n_parameters += adapter->sites[i].n_parameters;
        widest_in = m->n_columns > widest_in ? m->n_columns : widest_in;
        widest_out = m->n_rows > widest_out ? m->n_rows : widest_out;
    }
    const size_t group_in = GROUP_MEMBERS * widest_in;
    const size_t most = settings->rank * (group_in > widest_out ? group_in : widest_out);
    l->n_a = settings->rank * round_up(widest_in, KERNEL_K_STEP);
    l->n_wa = settings->rank * round_up(widest_out, KERNEL_COLUMNS);
    l->rows = malloc(most * sizeof *l->rows);
    l->transposed = malloc(most * sizeof *l->transposed);
    l->a_floats = memory_take(l->memory, l->n_a, sizeof *l->a_floats);
    l->a = memory_take(l->memory, l->n_a, sizeof(float));
    l->wa = memory_take(l->memory, l->n_wa, sizeof *l->wa);
    l->aa = malloc(settings->rank * settings->rank * sizeof *l->aa);
    if (!l->rows || !l->transposed || !l->a_floats || !l->a || !l->wa || !l->aa) {
        error_set("no memory for an adapter");
        goto done;
    }
    if (adapter_make_parameters(adapter) != 0)
        goto done;
    for (size_t i = 0; i < source->n_modules; i++) {
        if (build_site(source, adapter, i) != 0)
            goto done;
        start(adapter, i, source->seed);
    }
    status = 0;
done:
    if (!adapter)
        free(l);
    if (status != 0) {
        adapter_free(adapter);
        return NULL;
    }
    return adapter;
}

static struct adapter *create_lora(const struct adapter_source *source)
{
    return create(source, false);
}

static struct adapter *create_dora(const struct adapter_source *source)
{
    return create(source, true);
}

/* Defaults: the Transformer-Squared paper's table 6. */
#define LOW_RANK_KIND                                                                              \
    .settings = "rank alpha dropout", .can_merge = true,                                           \
    .defaults = {.rank = 16, .alpha = 32, .dropout = 0.05}, .modules = "qv",                       \
    .objective = "next-token", .rate = 5e-5, .clip_norm = 1, .steps = 200

const struct adapter_kind adapter_kind_lora = {.name = "lora",
                                               .title = "low-rank matrices (LoRA)",
                                               LOW_RANK_KIND,
                                               .create = create_lora,
                                               .count = count};
const struct adapter_kind adapter_kind_dora = {.name = "dora",
                                               .title = "low-rank directions and magnitudes (DoRA)",
                                               LOW_RANK_KIND,
                                               .create = create_dora,
                                               .count = count_dora};

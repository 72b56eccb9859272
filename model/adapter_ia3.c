#include "model/adapter_ia3.h"

#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/error.h"

bool adapter_ia3_scales_input(enum projection projection)
{
    return projection == PROJECTION_DOWN;
}

static bool scales_input(const struct adapter *adapter, size_t site)
{
    return adapter_ia3_scales_input(adapter->sites[site].projection);
}

static const struct span *base_of(const struct adapter *adapter, size_t site,
                                  const struct adapter_call *call)
{
    const struct adapter_site *s = &adapter->sites[site];
    return model_base(call->model, s->module.layer, s->projection);
}

/* ---- running --------------------------------------------------------------------------------- */

/* What scales outputs keeps them as they are without l. */
static size_t saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    if (scales_input(adapter, site))
        return 0;
    return n_rows * round_up(adapter->sites[site].module.n_rows, KERNEL_K_STEP) * sizeof(float);
}

/* Three arrays of rows: two f32, one in elements; and a vector. */
struct scratch {
    float *floats, *other;
    void *elements;
    float *sum;
    size_t ld, bytes;
};

static struct scratch cut_scratch(const struct adapter *adapter, size_t site, size_t n,
                                  char *memory)
{
    const struct module *m = &adapter->sites[site].module;
    const size_t width = m->n_rows > m->n_columns ? m->n_rows : m->n_columns;
    struct scratch w = {.ld = round_up(width, KERNEL_K_STEP)};
    const size_t rows = round_up(n * w.ld * sizeof(float), 64);

    w.bytes = 3 * rows + w.ld * sizeof(float);
    if (!memory)
        return w;
    w.floats = (float *)(void *)memory;
    w.other = (float *)(void *)(memory + rows);
    w.elements = memory + 2 * rows;
    w.sum = (float *)(void *)(memory + 3 * rows);
    return w;
}

static size_t scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_scratch(adapter, site, n_rows, NULL).bytes;
}

/* elements = l * x, with x in f32 in w->other. */
static void scale_input(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                        const struct scratch *w)
{
    const struct engine *e = model_engine(call->model);
    const struct adapter_site *s = &adapter->sites[site];

    engine_train(e)->to_floats(e, w->other, w->ld, call->x, call->ldx, call->n_rows,
                               s->module.n_columns);
    engine_train(e)->scale_columns(e, w->elements, w->ld, w->other, w->ld,
                                   call->parameters + s->first_parameter, call->n_rows,
                                   s->module.n_columns);
}

static void forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *y, size_t ldy, bool accumulate)
{
    const struct engine *e = model_engine(call->model);
    const struct adapter_site *s = &adapter->sites[site];
    const struct span *base = base_of(adapter, site, call);
    const float *bias = model_bias(call->model, s->module.layer, s->projection);
    const size_t n = call->n_rows;

    if (!call->parameters) {
        e->ops->product(e, y, ldy, call->x, call->ldx, n, &base->m, bias, accumulate);
        return;
    }
    const struct scratch w = cut_scratch(adapter, site, n, call->scratch);
    if (scales_input(adapter, site)) {
        scale_input(adapter, site, call, &w);
        e->ops->product(e, y, ldy, w.elements, w.ld, n, &base->m, bias, accumulate);
        return;
    }
    const size_t ldt = call->saved ? round_up(s->module.n_rows, KERNEL_K_STEP) : w.ld;
    float *t = call->saved ? call->saved : w.floats;
    e->ops->product(e, t, ldt, call->x, call->ldx, n, &base->m, bias, false);
    engine_train(e)->scale_add(e, y, ldy, t, ldt, call->parameters + s->first_parameter, NULL, n,
                               s->module.n_rows, accumulate);
}

static int backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    const struct engine *e = model_engine(call->model);
    const struct engine_train_ops *ops = engine_train(e);
    const struct adapter_site *s = &adapter->sites[site];
    const struct span *base = base_of(adapter, site, call);
    const struct scratch w = cut_scratch(adapter, site, call->n_rows, call->scratch);
    const float *l = call->parameters + s->first_parameter;
    const size_t n = call->n_rows;

    memset(w.sum, 0, s->n_parameters * sizeof *w.sum);
    if (scales_input(adapter, site)) {
        scale_input(adapter, site, call, &w); /* for x in f32 */
        e->ops->product(e, w.floats, w.ld, g, ldg, n, &base->t, NULL, false);
        ops->multiply_sum(e, w.sum, w.other, w.ld, w.floats, w.ld, n, s->module.n_columns);
        if (dx)
            ops->scale_add(e, dx, lddx, w.floats, w.ld, l, NULL, n, s->module.n_columns, true);
    } else {
        ops->to_floats(e, w.floats, w.ld, g, ldg, n, s->module.n_rows);
        ops->multiply_sum(e, w.sum, call->saved, round_up(s->module.n_rows, KERNEL_K_STEP),
                          w.floats, w.ld, n, s->module.n_rows);
        ops->scale_columns(e, w.elements, w.ld, w.floats, w.ld, l, n, s->module.n_rows);
        if (dx)
            e->ops->product(e, dx, lddx, w.elements, w.ld, n, &base->t, NULL, true);
    }
    for (size_t i = 0; i < s->n_parameters; i++)
        gradient[s->first_parameter + i] += w.sum[i];
    return 0;
}

/* ---- building -------------------------------------------------------------------------------- */

static bool piece(const struct adapter *adapter, size_t site, size_t i, struct adapter_piece *p)
{
    const struct adapter_site *s = &adapter->sites[site];
    *p = (struct adapter_piece){"ia3_l", s->first_parameter, s->n_parameters, 0};
    return i == 0;
}

static void ia3_free(struct adapter *adapter)
{
    (void)adapter;
}

static const struct adapter_ops ia3_ops = {
    .kind = "ia3",
    .runs_base = true,
    .needs_input = true,
    .saved_bytes = saved_bytes,
    .scratch_bytes = scratch_bytes,
    .forward = forward,
    .backward = backward,
    .piece = piece,
    .free = ia3_free,
};

static size_t count(const struct module *module, const struct adapter_settings *settings,
                    bool first)
{
    (void)settings;
    (void)first;
    return adapter_ia3_scales_input(projection_find(module->name)) ? module->n_columns
                                                                   : module->n_rows;
}

static struct adapter *create(const struct adapter_source *source)
{
    struct adapter *adapter = adapter_create(&ia3_ops, source->model, source->modules,
                                             source->n_modules, source->with_backward);

    if (!adapter)
        return NULL;
    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct adapter_site *s = &adapter->sites[i];
        s->first_parameter = adapter->n_parameters;
        s->n_parameters = count(&s->module, &source->settings, true);
        adapter->n_parameters += s->n_parameters;
        if (model_set_apart(source->model, s->module.layer, 1u << s->projection) != 0)
            goto failed;
    }
    if (adapter_make_parameters(adapter) != 0)
        goto failed;
    for (size_t i = 0; i < adapter->n_parameters; i++)
        adapter->parameters[i] = 1;
    return adapter;
failed:
    adapter_free(adapter);
    return NULL;
}

/* The rate of the (IA)^3 paper, section 3.5. */
const struct adapter_kind adapter_kind_ia3 = {
    .name = "ia3",
    .title = "vectors that scale keys, values and the FFN's inner values ((IA)^3)",
    .settings = "",
    .can_merge = true,
    .modules = "k_proj+v_proj+down_proj",
    .objective = "next-token",
    .rate = 3e-3,
    .clip_norm = 1,
    .steps = 200,
    .create = create,
    .count = count,
};

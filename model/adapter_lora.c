/* With h = A x' kept as u = s h in elements (a row's u and, for DoRA, t = W x' + B u lie side by
 * side in `saved`):
 *
 *   forward   y += B u                          backward  q = s B^T g,  dA += q x'^T,  dB += g u^T,
 *                                                         dx' += A^T q
 *   DoRA      y = c t (+ W x - W x' with dropout), backward with c g in place of g, and
 *             dm_i += sum of g t / |W_i + s B_i A|,  dx' += W^T (c g)
 *
 * The norms come from |W_i|^2 + 2 s (W A^T)_i B_i + s^2 B_i (A A^T) B_i^T, so the product B A is
 * never formed. */
#include "model/adapter_lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/block.h"
#include "model/model_internal.h"
#include "model/rng.h"
#include "mpi/error.h"

struct low_rank {
    bool dora;
    double scale;
    uint32_t drop_limit; /* of 65536 */
    float *transposed;   /* [the largest of A and B] */
    /* DoRA's norms: tensors A f32 and in elements [r, ld], W A^T f32 [r, ld]; and A A^T */
    const struct memory *memory;
    size_t n_a, n_wa; /* elements of these */
    float *a_floats, *wa;
    void *a;
    double *aa; /* [r, r] */
};

struct low_rank_site {
    size_t r, n_in, n_out;
    struct matrix a, b, a_t, b_t; /* [r, in], [out, r]; the transposes empty without backward */
    float *scales;                /* tensor [r] of s; the next three lie behind it */
    /* DoRA, [out]: tensors c, c - 1, and -1; |W_i|^2 and |W_i + s B_i A| */
    float *c, *c_less, *minus;
    size_t n_vectors; /* elements of the tensors together */
    double *squares;
    float *norms;
};

static struct low_rank_site *site_of(const struct adapter *adapter, size_t site)
{
    return adapter->sites[site].data;
}

static const struct low_rank *low_rank_of(const struct adapter *adapter)
{
    return adapter->data;
}

/* ---- running --------------------------------------------------------------------------------- */

/* A row of what forward keeps: t [ldt] (DoRA), then u [ldu] elements. */
static size_t saved_row(const struct adapter *adapter, const struct low_rank_site *s)
{
    const size_t u = round_up(s->r, KERNEL_K_STEP) * element_size(s->a.element);
    return u + (low_rank_of(adapter)->dora ? round_up(s->n_out, KERNEL_K_STEP) * sizeof(float) : 0);
}

static size_t saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return n_rows * saved_row(adapter, site_of(adapter, site));
}

/* What a call cuts its scratch into. */
struct scratch {
    size_t ldh, ldu, ldx, ldo;
    void *x;     /* elements [n, ldx]: x' */
    void *u;     /* elements [n, ldu] */
    float *h;    /* [n, ldh] */
    float *dx;   /* [n, ldx]: the gradient of x' */
    float *g;    /* DoRA: g in f32 [n, ldo] */
    void *cg;    /* DoRA: elements [n, ldo] */
    float *sum;  /* DoRA: [ldo] */
    void *saved; /* where forward keeps nothing */
    size_t bytes;
};

static struct scratch cut_scratch(const struct adapter *adapter, const struct low_rank_site *s,
                                  size_t n, void *memory)
{
    const struct low_rank *l = low_rank_of(adapter);
    const size_t size = element_size(s->a.element);
    struct scratch w = {.ldh = round_up(s->r, KERNEL_COLUMNS),
                        .ldu = round_up(s->r, KERNEL_K_STEP),
                        .ldx = round_up(s->n_in, KERNEL_K_STEP),
                        .ldo = round_up(s->n_out, KERNEL_K_STEP)};

    w.h = block_cut(memory, &w.bytes, n * w.ldh, sizeof(float));
    w.u = block_cut(memory, &w.bytes, n * w.ldu, size);
    w.saved = block_cut(memory, &w.bytes, n, saved_row(adapter, s));
    if (l->drop_limit > 0) {
        w.x = block_cut(memory, &w.bytes, n * w.ldx, size);
        w.dx = block_cut(memory, &w.bytes, n * w.ldx, sizeof(float));
    }
    if (l->dora) {
        w.g = block_cut(memory, &w.bytes, n * w.ldo, sizeof(float));
        w.cg = block_cut(memory, &w.bytes, n * w.ldo, size);
        w.sum = block_cut(memory, &w.bytes, w.ldo, sizeof(float));
    }
    return w;
}

static size_t scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_scratch(adapter, site_of(adapter, site), n_rows, NULL).bytes;
}

static bool drops(const struct adapter *adapter, const struct adapter_call *call)
{
    return call->row_keys && low_rank_of(adapter)->drop_limit > 0;
}

static struct dropout dropout_of(const struct adapter *adapter, size_t site,
                                 const struct adapter_call *call)
{
    return (struct dropout){call->row_keys, adapter_site_stream(&adapter->sites[site]),
                            low_rank_of(adapter)->drop_limit};
}

/* x' and its row stride, in the call's scratch where it is not x. */
static const void *dropped_input(const struct adapter *adapter, size_t site,
                                 const struct adapter_call *call, const struct scratch *w,
                                 size_t *ldx)
{
    const struct engine *e = model_engine(call->model);

    *ldx = call->ldx;
    if (!drops(adapter, call))
        return call->x;
    const struct dropout dropout = dropout_of(adapter, site, call);
    *ldx = w->ldx;
    engine_train(e)->drop(e, w->x, w->ldx, call->x, call->ldx, call->n_rows,
                          site_of(adapter, site)->n_in, &dropout);
    return w->x;
}

static void forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *y, size_t ldy, bool accumulate)
{
    const struct engine *e = model_engine(call->model);
    const struct low_rank_site *s = site_of(adapter, site);
    const struct adapter_site *place = &adapter->sites[site];
    const bool dora = low_rank_of(adapter)->dora;
    const struct span *base =
        dora ? model_base(call->model, place->module.layer, place->projection) : NULL;
    const float *bias =
        dora ? model_bias(call->model, place->module.layer, place->projection) : NULL;
    const size_t n = call->n_rows;

    if (dora && (!call->parameters || drops(adapter, call))) {
        e->ops->product(e, y, ldy, call->x, call->ldx, n, &base->m, bias, accumulate);
        accumulate = true;
        bias = NULL;
    }
    if (!call->parameters)
        return;
    const struct scratch w = cut_scratch(adapter, s, n, call->scratch);
    const size_t row = saved_row(adapter, s), size = element_size(s->a.element);
    char *saved = call->saved ? call->saved : w.saved;
    const size_t ldt = row / sizeof(float), ldu = row / size;
    float *t = (float *)(void *)saved;
    void *u = dora ? saved + w.ldo * sizeof(float) : saved;
    size_t ldx;
    const void *x = dropped_input(adapter, site, call, &w, &ldx);

    e->ops->product(e, w.h, w.ldh, x, ldx, n, &s->a, NULL, false);
    if (!dora) {
        engine_train(e)->scale_columns(e, u, ldu, w.h, w.ldh, s->scales, n, s->r);
        e->ops->product(e, y, ldy, u, ldu, n, &s->b, NULL, accumulate);
        return;
    }
    engine_train(e)->scale_columns(e, w.u, w.ldu, w.h, w.ldh, s->scales, n, s->r);
    e->ops->copy_rows(e, u, ldu * size, w.u, w.ldu * size, n, w.ldu * size);
    e->ops->product(e, t, ldt, x, ldx, n, &base->m, NULL, false);
    if (drops(adapter, call)) /* - W x', which is in t */
        engine_train(e)->scale_add(e, y, ldy, t, ldt, s->minus, NULL, n, s->n_out, true);
    e->ops->product(e, t, ldt, u, ldu, n, &s->b, NULL, true);
    engine_train(e)->scale_add(e, y, ldy, t, ldt, s->c, bias, n, s->n_out, accumulate);
}

/* dx' from q in w->u and, for DoRA, c g: straight into dx, or through the dropout's mask. */
static void input_backward(const struct adapter *adapter, size_t site,
                           const struct adapter_call *call, const struct scratch *w, float *dx,
                           size_t lddx, const void *g, size_t ldg)
{
    const struct engine *e = model_engine(call->model);
    const struct low_rank_site *s = site_of(adapter, site);
    const struct adapter_site *place = &adapter->sites[site];
    const bool masked = drops(adapter, call), dora = low_rank_of(adapter)->dora;
    const struct span *base =
        dora ? model_base(call->model, place->module.layer, place->projection) : NULL;
    float *to = masked ? w->dx : dx;
    const size_t ld = masked ? w->ldx : lddx, n = call->n_rows;

    if (dora && !masked)
        e->ops->product(e, dx, lddx, w->cg, w->ldo, n, &base->t, NULL, true);
    e->ops->product(e, to, ld, w->u, w->ldu, n, &s->a_t, NULL, !masked);
    if (!masked)
        return;
    if (dora) {
        e->ops->product(e, dx, lddx, g, ldg, n, &base->t, NULL, true);
        engine_train(e)->scale_columns(e, w->cg, w->ldo, w->g, w->ldo, s->c_less, n, s->n_out);
        e->ops->product(e, to, ld, w->cg, w->ldo, n, &base->t, NULL, true);
    }
    const struct dropout dropout = dropout_of(adapter, site, call);
    engine_train(e)->add_dropped(e, dx, lddx, to, ld, n, s->n_in, &dropout);
}

static int backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                    float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    const struct engine *e = model_engine(call->model);
    const struct engine_train_ops *ops = engine_train(e);
    const struct low_rank_site *s = site_of(adapter, site);
    const struct scratch w = cut_scratch(adapter, s, call->n_rows, call->scratch);
    const bool dora = low_rank_of(adapter)->dora;
    const size_t n = call->n_rows, row = saved_row(adapter, s), size = element_size(s->a.element);
    const char *saved = call->saved;
    const void *u = dora ? saved + w.ldo * sizeof(float) : saved;
    float *da = gradient + adapter->sites[site].first_parameter, *db = da + s->r * s->n_in;
    float *dm = db + s->n_out * s->r;
    const void *outer = dora ? w.cg : g; /* c g, or g */
    const size_t ldo = dora ? w.ldo : ldg;
    size_t ldx;

    if (dora) {
        ops->to_floats(e, w.g, w.ldo, g, ldg, n, s->n_out);
        e->ops->zero(e, w.sum, s->n_out * sizeof *w.sum);
        ops->multiply_sum(e, w.sum, (const float *)(const void *)saved, row / sizeof(float), w.g,
                          w.ldo, n, s->n_out);
        e->ops->wait(e);
        for (size_t i = 0; i < s->n_out; i++)
            dm[i] += w.sum[i] / s->norms[i];
        ops->scale_columns(e, w.cg, w.ldo, w.g, w.ldo, s->c, n, s->n_out);
    }
    e->ops->product(e, w.h, w.ldh, outer, ldo, n, &s->b_t, NULL, false);
    ops->scale_columns(e, w.u, w.ldu, w.h, w.ldh, s->scales, n, s->r);
    const void *x = dropped_input(adapter, site, call, &w, &ldx);
    if (ops->outer_sum(e, db, s->r, outer, ldo, s->n_out, u, row / size, s->r, n) != 0 ||
        ops->outer_sum(e, da, s->n_in, w.u, w.ldu, s->r, x, ldx, s->n_in, n) != 0)
        return -1;
    if (dx)
        input_backward(adapter, site, call, &w, dx, lddx, g, ldg);
    return 0;
}

/* ---- parameters ------------------------------------------------------------------------------ */

/* norms, c and c - 1 of a site. */
static void prepare_norms(const struct adapter *adapter, size_t site, const struct model *model,
                          const float *a, const float *b, const float *m)
{
    const struct engine *e = model_engine(model);
    const struct low_rank *l = adapter->data;
    const struct low_rank_site *s = site_of(adapter, site);
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

static void prepare(const struct adapter *adapter, const struct model *model,
                    const float *parameters)
{
    const struct low_rank *l = adapter->data;

    for (size_t i = 0; i < adapter->n_sites; i++) {
        struct low_rank_site *s = site_of(adapter, i);
        const float *a = parameters + adapter->sites[i].first_parameter, *b = a + s->r * s->n_in;
        matrix_pack_rows(&s->a, 0, s->r, a);
        matrix_pack_rows(&s->b, 0, s->n_out, b);
        if (adapter->with_backward) {
            block_transpose(l->transposed, a, s->r, s->n_in);
            matrix_pack_rows(&s->a_t, 0, s->n_in, l->transposed);
            block_transpose(l->transposed, b, s->n_out, s->r);
            matrix_pack_rows(&s->b_t, 0, s->r, l->transposed);
        }
        if (l->dora)
            prepare_norms(adapter, i, model, a, b, b + s->n_out * s->r);
    }
}

static bool piece(const struct adapter *adapter, size_t site, size_t i, struct adapter_piece *p)
{
    const struct low_rank_site *s = site_of(adapter, site);
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
        matrix_free(&s->a);
        matrix_free(&s->b);
        matrix_free(&s->a_t);
        matrix_free(&s->b_t);
        memory_give(l->memory, s->scales, s->n_vectors, sizeof *s->scales);
        free(s->squares);
        free(s->norms);
        free(s);
    }
    if (l) {
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
    .needs_input = true, .prepare = prepare, .saved_bytes = saved_bytes,                           \
    .scratch_bytes = scratch_bytes, .forward = forward, .backward = backward, .piece = piece,      \
    .free = low_rank_free

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
    if (!row || !s->squares || !s->norms) {
        free(row);
        return error_set("no memory for the magnitudes of %s", place->module.path);
    }
    for (size_t i = 0; i < s->n_out; i++) {
        matrix_unpack_row(w, i, row);
        for (size_t k = 0; k < s->n_in; k++)
            s->squares[i] += (double)row[k] * (double)row[k];
        s->minus[i] = -1;
    }
    free(row);
    return 0;
}

static int build_site(const struct adapter_source *source, struct adapter *adapter, size_t i)
{
    const struct low_rank *l = adapter->data;
    const struct adapter_site *place = &adapter->sites[i];
    const struct module *m = &place->module;
    const struct engine *e = model_engine(source->model);
    struct low_rank_site *s = adapter->sites[i].data = calloc(1, sizeof *s);

    if (!s)
        return error_set("no memory for an adapter");
    s->r = source->settings.rank;
    s->n_in = m->n_columns;
    s->n_out = m->n_rows;
    const size_t ldr = round_up(s->r, KERNEL_COLUMNS), ldo = round_up(s->n_out, KERNEL_COLUMNS);
    s->n_vectors = ldr + (l->dora ? 3 * ldo : 0);
    s->scales = memory_take(l->memory, s->n_vectors, sizeof *s->scales);
    if (!s->scales)
        return error_set("no memory for an adapter");
    if (l->dora) {
        s->c = s->scales + ldr;
        s->c_less = s->c + ldo;
        s->minus = s->c_less + ldo;
    }
    for (size_t k = 0; k < s->r; k++)
        s->scales[k] = (float)l->scale;
    if (engine_matrix_create(e, &s->a, s->r, s->n_in) != 0 ||
        engine_matrix_create(e, &s->b, s->n_out, s->r) != 0 ||
        (adapter->with_backward && (engine_matrix_create(e, &s->a_t, s->n_in, s->r) != 0 ||
                                    engine_matrix_create(e, &s->b_t, s->r, s->n_out) != 0)))
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
    const struct low_rank_site *s = site_of(adapter, site);
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
    l->dora = dora;
    l->scale = settings->alpha / (double)settings->rank;
    l->drop_limit = (uint32_t)lround(settings->dropout * 65536);
    for (size_t i = 0; i < source->n_modules; i++) {
        const struct module *m = &source->modules[i];
        adapter->sites[i].first_parameter = adapter->n_parameters;
        adapter->sites[i].n_parameters =
            dora ? count_dora(m, settings, true) : count(m, settings, true);
        adapter->n_parameters += adapter->sites[i].n_parameters;
        widest_in = m->n_columns > widest_in ? m->n_columns : widest_in;
        widest_out = m->n_rows > widest_out ? m->n_rows : widest_out;
    }
    const size_t widest = widest_in > widest_out ? widest_in : widest_out;
    l->transposed = malloc(settings->rank * widest * sizeof *l->transposed);
    l->memory = model_memory(source->model);
    l->n_a = settings->rank * round_up(widest_in, KERNEL_K_STEP);
    l->n_wa = settings->rank * round_up(widest_out, KERNEL_COLUMNS);
    l->a_floats = memory_take(l->memory, l->n_a, sizeof *l->a_floats);
    l->a = memory_take(l->memory, l->n_a, sizeof(float));
    l->wa = memory_take(l->memory, l->n_wa, sizeof *l->wa);
    l->aa = malloc(settings->rank * settings->rank * sizeof *l->aa);
    if (!l->transposed || !l->a_floats || !l->a || !l->wa || !l->aa) {
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

/* With h = A x' kept as u = s h in elements (for DoRA, a row's u and t = W x' + B u lie side by
 * side in `saved`):
 *
 *   forward   y += B u                          backward  q = s B^T g,  dA += q x'^T,  dB += g u^T,
 *                                                         dx' += A^T q
 *   DoRA      y = c t (+ W x - W x' with dropout), backward with c g in place of g, and
 *             dm_i += sum of g t / |W_i + s B_i A|,  dx' += W^T (c g)
 *
 * Sites that read the same input are one group: they share x', their A lie below each other in one
 * matrix, so h of all is one product, made by the first; the q of all lie side by side, and the
 * last brings them to dx and dA. */
#include "model/adapter_lora_internal.h"
#include "model/block.h"

/* A row of what forward keeps: u [ldu] elements, then t [ldo] (DoRA). */
static size_t saved_row(const struct adapter *adapter, const struct low_rank_site *s)
{
    const size_t u = round_up(s->r, KERNEL_K_STEP) * element_size(s->b.element);
    return u + (low_rank_of(adapter)->dora ? round_up(s->n_out, KERNEL_K_STEP) * sizeof(float) : 0);
}

size_t low_rank_saved_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return n_rows * saved_row(adapter, low_rank_site(adapter, site));
}

/* What a call cuts its scratch into; up to dx it is one for all sites of a group. */
struct scratch {
    size_t ldh, ldq, ldx, ldo;
    void *x;     /* elements [n, ldx]: x' */
    float *h;    /* [n, ldh]: h of the group, backward B^T g */
    void *q;     /* elements [n, ldq] of the group */
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
    const size_t size = element_size(s->b.element);
    struct scratch w = {.ldh = round_up(s->group->width, KERNEL_COLUMNS),
                        .ldq = round_up(s->group->width, KERNEL_K_STEP),
                        .ldx = round_up(s->n_in, KERNEL_K_STEP),
                        .ldo = round_up(s->n_out, KERNEL_K_STEP)};

    w.h = block_cut(memory, &w.bytes, n * w.ldh, sizeof(float));
    w.q = block_cut(memory, &w.bytes, n * w.ldq, size);
    if (l->drop_limit > 0) {
        w.x = block_cut(memory, &w.bytes, n * w.ldx, size);
        w.dx = block_cut(memory, &w.bytes, n * w.ldx, sizeof(float));
    }
    w.saved = block_cut(memory, &w.bytes, n, saved_row(adapter, s));
    if (l->dora) {
        w.g = block_cut(memory, &w.bytes, n * w.ldo, sizeof(float));
        w.cg = block_cut(memory, &w.bytes, n * w.ldo, size);
        w.sum = block_cut(memory, &w.bytes, w.ldo, sizeof(float));
    }
    return w;
}

size_t low_rank_scratch_bytes(const struct adapter *adapter, size_t site, size_t n_rows)
{
    return cut_scratch(adapter, low_rank_site(adapter, site), n_rows, NULL).bytes;
}

static bool drops(const struct adapter *adapter, const struct adapter_call *call)
{
    return call->row_keys && low_rank_of(adapter)->drop_limit > 0;
}

/* Sites that read the same input drop the same elements of it. */
static struct dropout dropout_of(const struct adapter *adapter, size_t site,
                                 const struct adapter_call *call)
{
    const struct adapter_site *place = &adapter->sites[site];
    const uint64_t group = (uint64_t)projection_group(place->projection);
    return (struct dropout){call->row_keys, place->module.layer * GROUP_COUNT + group,
                            low_rank_of(adapter)->drop_limit};
}

/* x' and its row stride; where it is not x it is in the scratch, put there if `make`. */
static const void *dropped_input(const struct adapter *adapter, size_t site,
                                 const struct adapter_call *call, const struct scratch *w,
                                 bool make, size_t *ldx)
{
    const struct engine *e = model_engine(call->model);

    *ldx = call->ldx;
    if (!drops(adapter, call))
        return call->x;
    const struct dropout dropout = dropout_of(adapter, site, call);
    *ldx = w->ldx;
    if (make)
        engine_train(e)->drop(e, w->x, w->ldx, call->x, call->ldx, call->n_rows,
                              low_rank_site(adapter, site)->n_in, &dropout);
    return w->x;
}

void low_rank_forward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                      float *y, size_t ldy, bool accumulate)
{
    const struct engine *e = model_engine(call->model);
    const struct low_rank_site *s = low_rank_site(adapter, site);
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
    const size_t row = saved_row(adapter, s), size = element_size(s->b.element);
    const size_t ldt = row / sizeof(float), ldu = row / size;
    void *u = call->saved ? call->saved : w.saved;
    size_t ldx;
    const void *x = dropped_input(adapter, site, call, &w, !call->same_input, &ldx);

    if (!call->same_input)
        e->ops->product(e, w.h, w.ldh, x, ldx, n, &s->group->a, NULL, false);
    engine_train(e)->scale_columns(e, u, ldu, w.h + s->column, w.ldh, s->group->scales, n, s->r);
    if (!dora) {
        e->ops->product(e, y, ldy, u, ldu, n, &s->b, NULL, accumulate);
        return;
    }
    float *t = (float *)u + (ldt - w.ldo);
    e->ops->product(e, t, ldt, x, ldx, n, &base->m, NULL, false);
    if (drops(adapter, call)) /* - W x', which is in t */
        engine_train(e)->scale_add(e, y, ldy, t, ldt, s->minus, NULL, n, s->n_out, true);
    e->ops->product(e, t, ldt, u, ldu, n, &s->b, NULL, true);
    engine_train(e)->scale_add(e, y, ldy, t, ldt, s->c, bias, n, s->n_out, accumulate);
}

/* DoRA's base products on the way back: W^T (c g) into dx or, with dropout, W^T g into dx and
 * W^T (c - 1) g to dx'. */
static void base_backward(const struct adapter *adapter, size_t site,
                          const struct adapter_call *call, const struct scratch *w, float *dx,
                          size_t lddx, const void *g, size_t ldg)
{
    const struct engine *e = model_engine(call->model);
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const struct adapter_site *place = &adapter->sites[site];
    const struct span *base = model_base(call->model, place->module.layer, place->projection);
    const size_t n = call->n_rows;

    if (!drops(adapter, call)) {
        e->ops->product(e, dx, lddx, w->cg, w->ldo, n, &base->t, NULL, true);
        return;
    }
    e->ops->product(e, dx, lddx, g, ldg, n, &base->t, NULL, true);
    engine_train(e)->scale_columns(e, w->cg, w->ldo, w->g, w->ldo, s->c_less, n, s->n_out);
    e->ops->product(e, w->dx, w->ldx, w->cg, w->ldo, n, &base->t, NULL, call->same_input);
}

/* The group's dA and A^T q: straight into dx, or through the dropout's mask. */
static int group_backward(const struct adapter *adapter, size_t site,
                          const struct adapter_call *call, const struct scratch *w, float *dx,
                          size_t lddx, float *gradient)
{
    const struct engine *e = model_engine(call->model);
    const struct engine_train_ops *ops = engine_train(e);
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const struct low_rank_group *group = s->group;
    const bool masked = drops(adapter, call), dora = low_rank_of(adapter)->dora;
    const size_t n = call->n_rows, size = element_size(s->b.element);
    size_t ldx;
    const void *x = dropped_input(adapter, site, call, w, true, &ldx);

    ops->scale_columns(e, w->q, w->ldq, w->h, w->ldh, group->scales, n, group->width);
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct low_rank_site *member = low_rank_site(adapter, i);
        if (member->group == group &&
            ops->outer_sum(e, gradient + adapter->sites[i].first_parameter, s->n_in,
                           (const char *)w->q + member->column * size, w->ldq, s->r, x, ldx,
                           s->n_in, n) != 0)
            return -1;
    }
    if (!dx)
        return 0;
    e->ops->product(e, masked ? w->dx : dx, masked ? w->ldx : lddx, w->q, w->ldq, n, &group->a_t,
                    NULL, dora || !masked);
    if (masked) {
        const struct dropout dropout = dropout_of(adapter, site, call);
        ops->add_dropped(e, dx, lddx, w->dx, w->ldx, n, s->n_in, &dropout);
    }
    return 0;
}

int low_rank_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                      float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    const struct engine *e = model_engine(call->model);
    const struct engine_train_ops *ops = engine_train(e);
    const struct low_rank_site *s = low_rank_site(adapter, site);
    const struct scratch w = cut_scratch(adapter, s, call->n_rows, call->scratch);
    const bool dora = low_rank_of(adapter)->dora;
    const size_t n = call->n_rows, row = saved_row(adapter, s), size = element_size(s->b.element);
    const void *u = call->saved;
    float *db = gradient + adapter->sites[site].first_parameter + s->r * s->n_in;
    float *dm = db + s->n_out * s->r;
    const void *outer = dora ? w.cg : g; /* c g, or g */
    const size_t ldo = dora ? w.ldo : ldg, ldt = row / sizeof(float);

    if (dora) {
        ops->to_floats(e, w.g, w.ldo, g, ldg, n, s->n_out);
        e->ops->zero(e, w.sum, s->n_out * sizeof *w.sum);
        ops->multiply_sum(e, w.sum, (const float *)u + (ldt - w.ldo), ldt, w.g, w.ldo, n, s->n_out);
        e->ops->wait(e);
        for (size_t i = 0; i < s->n_out; i++)
            dm[i] += w.sum[i] / s->norms[i];
        ops->scale_columns(e, w.cg, w.ldo, w.g, w.ldo, s->c, n, s->n_out);
    }
    e->ops->product(e, w.h + s->column, w.ldh, outer, ldo, n, &s->b_t, NULL, false);
    if (ops->outer_sum(e, db, s->r, outer, ldo, s->n_out, u, row / size, s->r, n) != 0)
        return -1;
    if (dora && dx)
        base_backward(adapter, site, call, &w, dx, lddx, g, ldg);
    return s->last ? group_backward(adapter, site, call, &w, dx, lddx, gradient) : 0;
}

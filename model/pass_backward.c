/* The backward half of a pass: from terms of a loss to the gradient of an adapter's parameters
 * (docs/training.md). Per layer, in reverse, with dh the gradient of the residual stream:
 *
 *   g = dh            du = g Wd            (dg, dv) = swiglu'(du)    dh += norm'((dg, dv) [Wg Wu])
 *   g = dh            da = g Wo            dqkv = attention'(da)     dh += norm'(dqkv Wqkv)
 *
 * Work on single rows goes in blocks of PASS_BLOCK, first to last, so that parameters' gradients
 * are summed in the order of rows. Nothing is computed below the adapter's first site. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/pass_internal.h"
#include "mpi/error.h"

/* dx f32 [n, lddx] = d/dx of a group from g elements [n, pass_ld_group]; NULL: the parameters'
 * gradient alone. */
static int group_backward(struct pass *pass, size_t layer, int group, float *dx, size_t lddx,
                          const void *g, const void *x, size_t ldx, size_t first, size_t n,
                          void *const saved[PROJECTION_COUNT], float *gradient)
{
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct group *parts = &model->layers[layer].groups[group];
    const size_t size = element_size(model->options.element), ldg = pass_ld_group(model, group);
    enum projection members[GROUP_MEMBERS];
    const size_t n_members = group_members(group, members);
    bool begun = false;

    for (size_t i = 0; dx && i < parts->n_spans; i++) {
        const struct span *s = &parts->spans[i];
        if (model_is_run_by(pass->adapter, layer, group, model, s))
            continue;
        e->ops->product(e, dx, lddx, (const char *)g + s->column * size, ldg, n, &s->t, NULL,
                        begun);
        begun = true;
    }
    if (dx && !begun)
        e->ops->zero(e, dx, n * lddx * sizeof *dx);
    struct adapter_call call = {.model = model,
                                .parameters = pass->parameters,
                                .x = x,
                                .ldx = ldx,
                                .n_rows = n,
                                .row_keys = pass->dropout ? pass->row_keys + first : NULL,
                                .scratch = pass->f.scratch};
    for (size_t i = 0; i < n_members; i++) {
        const int32_t site = adapter_site_at(pass->adapter, layer, members[i]);
        if (site < 0)
            continue;
        call.saved = saved[members[i]];
        if (pass->adapter->ops->backward(pass->adapter, (size_t)site, &call, dx, lddx,
                                         (const char *)g + model_column(model, members[i]) * size,
                                         ldg, gradient) != 0)
            return -1;
        call.same_input = true;
    }
    return 0;
}

/* Does a gradient go through this group to what lies before it? */
static bool flows_past(const struct pass *pass, size_t layer, int group)
{
    return layer * GROUP_COUNT + (size_t)group > pass->lowest;
}

static int ffn_backward(struct pass *pass, size_t layer, size_t first, size_t n, float *gradient)
{
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct engine_train_ops *ops = engine_train(e);
    const struct forward *f = &pass->f;
    const struct model_config *c = &model->config;
    const struct pass_work *w = &pass->work;
    const struct layer_buffers b = pass_kept_at(pass, layer, first);
    float *dh = w->dh + first * f->ld_hidden;

    ops->to_elements(e, w->g, pass_ld_group(model, GROUP_DOWN), dh, f->ld_hidden, n,
                     c->hidden_size);
    const bool before_down = flows_past(pass, layer, GROUP_DOWN);
    if (group_backward(pass, layer, GROUP_DOWN, before_down ? w->dffn : NULL, f->ld_ffn, w->g,
                       b.ffn_hidden, f->ld_ffn, first, n, b.saved, gradient) != 0)
        return -1;
    if (!before_down)
        return 0;
    ops->swiglu_backward(e, w->dgate_up, pass_ld_group(model, GROUP_GATE_UP), w->dffn, f->ld_ffn,
                         b.gate_up, f->ld_gate_up, model->up_offset, n, c->ffn_size);
    const bool before_gate = flows_past(pass, layer, GROUP_GATE_UP);
    if (group_backward(pass, layer, GROUP_GATE_UP, before_gate ? w->dx : NULL, f->ld_hidden,
                       w->dgate_up, b.ffn_input, f->ld_hidden, first, n, b.saved, gradient) != 0)
        return -1;
    if (before_gate)
        ops->norm_backward(e, dh, f->ld_hidden, w->dx, f->ld_hidden, b.h_ffn, f->ld_hidden, n,
                           model->layers[layer].ffn_norm, c->hidden_size, (float)c->rms_norm_eps);
    return 0;
}

/* The output projection of a block: dattention from dh. */
static int output_backward(struct pass *pass, size_t layer, size_t first, size_t n, float *gradient)
{
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct forward *f = &pass->f;
    const struct pass_work *w = &pass->work;
    const struct layer_buffers b = pass_kept_at(pass, layer, first);

    engine_train(e)->to_elements(e, w->g, pass_ld_group(model, GROUP_OUTPUT),
                                 w->dh + first * f->ld_hidden, f->ld_hidden, n,
                                 model->config.hidden_size);
    return group_backward(
        pass, layer, GROUP_OUTPUT,
        flows_past(pass, layer, GROUP_OUTPUT) ? w->dattention + first * f->ld_heads : NULL,
        f->ld_heads, w->g, b.attention_output, f->ld_heads, first, n, b.saved, gradient);
}

static int qkv_backward(struct pass *pass, size_t layer, size_t first, size_t n, float *gradient)
{
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct engine_train_ops *ops = engine_train(e);
    const struct forward *f = &pass->f;
    const struct model_config *c = &model->config;
    const struct pass_work *w = &pass->work;
    const struct layer_buffers b = pass_kept_at(pass, layer, first);
    const bool before = flows_past(pass, layer, GROUP_QKV);

    ops->to_elements(e, w->g, pass_ld_group(model, GROUP_QKV), w->dqkv + first * f->ld_qkv,
                     f->ld_qkv, n, model->qkv_width);
    if (group_backward(pass, layer, GROUP_QKV, before ? w->dx : NULL, f->ld_hidden, w->g,
                       b.attention_input, f->ld_hidden, first, n, b.saved, gradient) != 0)
        return -1;
    if (before)
        ops->norm_backward(e, w->dh + first * f->ld_hidden, f->ld_hidden, w->dx, f->ld_hidden,
                           b.h_attention, f->ld_hidden, n, model->layers[layer].attention_norm,
                           c->hidden_size, (float)c->rms_norm_eps);
    return 0;
}

/* Runs a layer again from its input, in the batches of the first time: the same bits. */
static int run_again(struct pass *pass, size_t layer)
{
    struct forward *f = &pass->f;

    const struct engine *e = &pass->model->engine;
    e->ops->copy(e, pass->work.h, pass->layers[layer].h_attention,
                 pass->n_run * f->ld_hidden * sizeof *pass->work.h);
    for (size_t i = 0; i < pass->n_batches; i++) {
        const struct pass_batch *b = &pass->batches[i];
        struct layer_buffers buffers = pass_kept_at(pass, layer, b->first_row);
        struct batch batch;
        if (pass_batch_describe(pass, b, &batch) != 0)
            return -1;
        f->h = pass->work.h + b->first_row * f->ld_hidden;
        f->row_keys = pass->dropout ? pass->row_keys + b->first_row : NULL;
        buffers.h_attention = NULL; /* there it comes from */
        if (forward_layer(f, &pass->cache, &batch, layer, &buffers) != 0)
            return -1;
    }
    return 0;
}

typedef int block_backward(struct pass *pass, size_t layer, size_t first, size_t n,
                           float *gradient);

static int in_blocks(struct pass *pass, block_backward *work, size_t layer, float *gradient)
{
    for (size_t first = 0; first < pass->n_run; first += PASS_BLOCK) {
        const size_t left = pass->n_run - first;
        if (work(pass, layer, first, left < PASS_BLOCK ? left : PASS_BLOCK, gradient) != 0)
            return -1;
    }
    return 0;
}

static int layer_backward(struct pass *pass, size_t layer,
                          const struct attention_sequence *sequences, size_t n_sequences,
                          float *gradient)
{
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct forward *f = &pass->f;
    const struct pass_work *w = &pass->work;
    const struct attention_layer a = model_attention_layer(model, layer);
    const struct layer_buffers b = pass_kept_at(pass, layer, 0);

    if (layer * GROUP_COUNT + GROUP_DOWN >= pass->lowest &&
        in_blocks(pass, ffn_backward, layer, gradient) != 0)
        return -1;
    if (layer * GROUP_COUNT + GROUP_OUTPUT < pass->lowest)
        return 0;
    if (in_blocks(pass, output_backward, layer, gradient) != 0)
        return -1;
    if (!flows_past(pass, layer, GROUP_OUTPUT))
        return 0;
    if (engine_train(e)->attention_backward(e, &a, sequences, n_sequences, pass->n_run, b.qkv,
                                            f->ld_qkv, w->dattention, f->ld_heads, w->dqkv,
                                            f->ld_qkv) != 0)
        return -1;
    return in_blocks(pass, qkv_backward, layer, gradient);
}

static int layers_backward(struct pass *pass, float *gradient)
{
    struct attention_sequence *sequences = malloc((pass->n_sequences + 1) * sizeof *sequences);
    size_t n = 0;
    int status = -1;

    if (!sequences)
        return error_set("no memory for %zu sequences", pass->n_sequences);
    for (size_t i = 0; i < pass->n_sequences; i++) {
        const struct pass_sequence *q = &pass->sequences[i];
        if (q->own < q->n) /* the others ask nothing of their own */
            sequences[n++] = (struct attention_sequence){q->rows, q->n, q->own};
    }
    for (size_t layer = pass->model->config.n_layers; layer-- > pass->lowest / GROUP_COUNT;) {
        if (pass->options.recompute && run_again(pass, layer) != 0)
            goto done;
        if (layer_backward(pass, layer, sequences, n, gradient) != 0)
            goto done;
    }
    status = 0;
done:
    free(sequences);
    return status;
}

/* These rows of the residual stream, side by side unless h is NULL, and their final norm in x. */
static void gather(const struct pass *pass, const int32_t *rows, size_t n, float *h, void *x)
{
    const struct forward *f = &pass->f;
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;

    if (h)
        engine_train(e)->gather_rows(e, h, f->ld_hidden, pass->stream, f->ld_hidden, rows, n,
                                     f->ld_hidden);
    e->ops->norm(e, x, f->ld_hidden, pass->stream, f->ld_hidden, rows, n, model->final_norm,
                 model->config.hidden_size, (float)model->config.rms_norm_eps);
}

/* Terms, results and, if wanted, what they add to dh, for at most PASS_BLOCK places. */
static int head_block(struct pass *pass, struct pass *base, const struct pass_place *places,
                      const struct head_term *terms, size_t n, bool with_gradient,
                      struct head_term_result *results)
{
    struct forward *f = &pass->f;
    const struct model *model = pass->model;
    const struct engine *e = &model->engine;
    const struct engine_train_ops *ops = engine_train(e);
    const struct model_config *c = &model->config;
    struct pass_work *w = &pass->work;
    int32_t rows[PASS_BLOCK], base_rows[PASS_BLOCK];

    memset(results, 0, n * sizeof *results);
    if (pass_rows_of(pass, places, n, rows) != 0 ||
        (base && pass_rows_of(base, places, n, base_rows) != 0))
        return -1;
    gather(pass, rows, n, with_gradient ? w->head_h : NULL, f->x);
    if (base)
        gather(base, base_rows, n, NULL, w->head_x0);
    if (ops->head_backward(e, with_gradient ? w->dx : NULL, f->ld_hidden, f->x,
                           base ? w->head_x0 : NULL, f->ld_hidden, n, &model->head,
                           with_gradient ? &model->head_t : NULL, terms, results) != 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(results[i].logprob) || !isfinite(results[i].kl) ||
            !isfinite(results[i].kl0) || !isfinite(results[i].entropy))
            return error_set("the loss is not a number at position %zu of sequence %zu: the "
                             "training has diverged, or bf16 is too coarse for the model (try "
                             "--dtype f32)",
                             places[i].position, places[i].sequence);
    if (!with_gradient)
        return 0;
    e->ops->zero(e, w->head_dh, n * f->ld_hidden * sizeof *w->head_dh);
    ops->norm_backward(e, w->head_dh, f->ld_hidden, w->dx, f->ld_hidden, w->head_h, f->ld_hidden, n,
                       model->final_norm, c->hidden_size, (float)c->rms_norm_eps);
    ops->scatter_add_rows(e, w->dh, f->ld_hidden, w->head_dh, f->ld_hidden, rows, n,
                          c->hidden_size);
    return 0;
}

static int check_gradient(const struct pass *pass, const float *gradient)
{
    const struct adapter *a = pass->adapter;

    for (size_t i = 0; i < a->n_parameters; i++) {
        if (isfinite(gradient[i]))
            continue;
        for (size_t k = 0; k < a->n_sites; k++) {
            const struct adapter_site *s = &a->sites[k];
            if (i >= s->first_parameter && i - s->first_parameter < s->n_parameters)
                return error_set("the gradient of %s, element %zu, is not a number", s->module.path,
                                 i - s->first_parameter);
        }
        return error_set("the gradient of parameter %zu is not a number", i);
    }
    return 0;
}

int pass_backward(struct pass *pass, struct pass *base, const struct pass_place *places,
                  const struct head_term *terms, size_t n, float *gradient,
                  struct head_term_result *results)
{
    const size_t most = pass->options.max_rows < PASS_BLOCK ? pass->options.max_rows : PASS_BLOCK;

    if (pass->n_run < pass->n_rows)
        return error_set("%zu tokens of a pass have not been run yet", pass->n_rows - pass->n_run);
    if (gradient && !pass->with_backward)
        return error_set("a pass without an adapter, or made for inference, has no gradient");
    if (gradient && !pass->parameters)
        return error_set("a pass that runs the base model has no parameters to differentiate");
    /* Rows may be fewer there: answers that grew here side by side share their beginnings there. */
    if (base && base->n_run < base->n_rows)
        return error_set("%zu tokens of the base model's pass have not been run yet",
                         base->n_rows - base->n_run);
    const struct engine *e = &pass->model->engine;
    if (gradient)
        e->ops->zero(e, pass->work.dh, pass->n_run * pass->f.ld_hidden * sizeof *pass->work.dh);
    for (size_t first = 0; first < n; first += most)
        if (head_block(pass, base, places + first, terms + first,
                       n - first < most ? n - first : most, gradient != NULL, results + first) != 0)
            return -1;
    if (!gradient)
        return 0;
    const size_t bytes = (pass->adapter->n_parameters + pass->adapter->n_sums) * sizeof *gradient;
    float *sums = pass->work.gradient ? pass->work.gradient : gradient;
    if (sums != gradient) {
        e->ops->wait(e);
        memcpy(sums, gradient, bytes);
    }
    if (layers_backward(pass, sums) != 0)
        return -1;
    e->ops->wait(e);
    if (sums != gradient)
        memcpy(gradient, sums, bytes);
    return check_gradient(pass, gradient);
}

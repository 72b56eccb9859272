#include "model/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/error.h"

void forward_strides(struct forward *f, struct model *model)
{
    const struct model_config *c = &model->config;
    f->model = model;
    f->ld_hidden = round_up(c->hidden_size, KERNEL_K_STEP);
    f->ld_qkv = round_up(model->qkv_width, KERNEL_COLUMNS);
    f->ld_heads = round_up(c->n_heads * c->head_dim, KERNEL_K_STEP);
    f->ld_gate_up = round_up(model->gate_up_width, KERNEL_COLUMNS);
    f->ld_ffn = round_up(c->ffn_size, KERNEL_K_STEP);
    f->ld_logits = round_up(c->vocab_size, KERNEL_COLUMNS);
}

int forward_create(struct forward *f, struct model *model, size_t max_rows)
{
    const size_t size = element_size(model->options.element);
    const struct memory *memory = model->engine.memory;
    struct layer_buffers *b = &f->buffers;

    *f = (struct forward){.max_rows = max_rows};
    forward_strides(f, model);
    f->adapter = model->adapter;
    f->parameters = model->adapter_parameters;
    f->h = memory_take(memory, max_rows, f->ld_hidden * sizeof(float));
    f->x = memory_take(memory, max_rows, f->ld_hidden * size);
    b->attention_input = memory_take(memory, max_rows, f->ld_hidden * size);
    b->qkv = memory_take(memory, max_rows, f->ld_qkv * sizeof(float));
    b->attention_output = memory_take(memory, max_rows, f->ld_heads * size);
    b->ffn_input = b->attention_input;
    b->gate_up = memory_take(memory, max_rows, f->ld_gate_up * sizeof(float));
    b->ffn_hidden = memory_take(memory, max_rows, f->ld_ffn * size);
    if (!f->h || !f->x || !b->attention_input || !b->qkv || !b->attention_output || !b->gate_up ||
        !b->ffn_hidden) {
        forward_free(f);
        return error_set("no memory for the activations of %zu tokens: use a smaller --chunk",
                         max_rows);
    }
    return 0;
}

void forward_give_scratch(struct forward *f)
{
    if (f->model)
        memory_give(f->model->engine.memory, f->scratch, f->scratch_bytes, 1);
    f->scratch = NULL;
    f->scratch_bytes = 0;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    if (f->model) {
        const struct engine *e = &f->model->engine;
        const size_t n = f->max_rows, size = element_size(e->element);
        const struct layer_buffers *b = &f->buffers;
        e->ops->wait(e);
        memory_give(e->memory, f->h, n, f->ld_hidden * sizeof(float));
        memory_give(e->memory, f->x, n, f->ld_hidden * size);
        memory_give(e->memory, b->attention_input, n, f->ld_hidden * size);
        memory_give(e->memory, b->qkv, n, f->ld_qkv * sizeof(float));
        memory_give(e->memory, b->attention_output, n, f->ld_heads * size);
        memory_give(e->memory, b->gate_up, n, f->ld_gate_up * sizeof(float));
        memory_give(e->memory, b->ffn_hidden, n, f->ld_ffn * size);
        forward_give_scratch(f);
    }
    memset(f, 0, sizeof *f);
}

int forward_cache_create(struct kv_cache *cache, const struct model *model)
{
    return kv_cache_create(cache, model->engine.memory, model->engine.kv_form,
                           model->config.n_layers, model->config.n_kv_heads,
                           model->config.head_dim);
}

/* y (+)= the group's projections of x, columns of y as in the packed group: base products of what
 * the adapter leaves, then the adapter's sites, then the biases of those that stand alone. */
static void run_group(struct forward *f, size_t layer, int group, float *y, size_t ldy,
                      const void *x, size_t ldx, size_t n_rows, bool accumulate,
                      void *const saved[PROJECTION_COUNT])
{
    const struct model *model = f->model;
    const struct engine *e = &model->engine;
    const struct group *g = &model->layers[layer].groups[group];
    enum projection members[GROUP_MEMBERS];
    const size_t n_members = group_members(group, members);

    for (size_t i = 0; i < g->n_spans; i++) {
        const struct span *s = &g->spans[i];
        if (!model_is_run_by(f->adapter, layer, group, model, s))
            e->ops->product(e, y + s->column, ldy, x, ldx, n_rows, &s->m,
                            g->bias ? g->bias + s->column : NULL, accumulate);
    }
    struct adapter_call call = {.model = model,
                                .parameters = f->parameters,
                                .x = x,
                                .ldx = ldx,
                                .n_rows = n_rows,
                                .row_keys = f->row_keys,
                                .scratch = f->scratch};
    for (size_t i = 0; f->adapter && i < n_members; i++) {
        const int32_t site = adapter_site_at(f->adapter, layer, members[i]);
        if (site < 0)
            continue;
        const struct adapter_ops *ops = f->adapter->ops;
        const size_t column = model_column(model, members[i]);
        call.saved = saved[members[i]];
        ops->forward(f->adapter, (size_t)site, &call, y + column, ldy,
                     accumulate || !(ops->replaces_base || ops->runs_base));
        call.same_input = true;
        if (!ops->replaces_base || !g->bias)
            continue;
        e->ops->add_bias(e, y + column, ldy, g->bias + column, n_rows,
                         model_outputs(model, members[i]));
    }
}

int forward_layer(struct forward *f, struct kv_cache *cache, const struct batch *batch,
                  size_t index, const struct layer_buffers *b)
{
    const struct model *model = f->model;
    const struct model_config *c = &model->config;
    const struct layer *l = &model->layers[index];
    const struct engine *e = &model->engine;
    const struct engine_ops *ops = e->ops;
    const struct attention_layer a = model_attention_layer(model, index);
    const float eps = (float)c->rms_norm_eps;
    const size_t n = batch->n_rows, h_bytes = n * f->ld_hidden * sizeof(float);

    if (b->h_attention)
        ops->copy(e, b->h_attention, f->h, h_bytes);
    ops->norm(e, b->attention_input, f->ld_hidden, f->h, f->ld_hidden, NULL, n, l->attention_norm,
              c->hidden_size, eps);
    run_group(f, index, GROUP_QKV, b->qkv, f->ld_qkv, b->attention_input, f->ld_hidden, n, false,
              b->saved);
    if (ops->attention(e, &a, cache, batch, b->qkv, f->ld_qkv, b->attention_output, f->ld_heads) !=
        0)
        return -1;
    run_group(f, index, GROUP_OUTPUT, f->h, f->ld_hidden, b->attention_output, f->ld_heads, n, true,
              b->saved);
    if (b->h_ffn)
        ops->copy(e, b->h_ffn, f->h, h_bytes);
    ops->norm(e, b->ffn_input, f->ld_hidden, f->h, f->ld_hidden, NULL, n, l->ffn_norm,
              c->hidden_size, eps);
    run_group(f, index, GROUP_GATE_UP, b->gate_up, f->ld_gate_up, b->ffn_input, f->ld_hidden, n,
              false, b->saved);
    ops->swiglu(e, b->ffn_hidden, f->ld_ffn, b->gate_up, f->ld_gate_up, model->up_offset, n,
                c->ffn_size);
    run_group(f, index, GROUP_DOWN, f->h, f->ld_hidden, b->ffn_hidden, f->ld_ffn, n, true,
              b->saved);
    return 0;
}

/* Every projection must have its base weights or a site that stands in for them, but not both. */
static int check_adapter(const struct forward *f)
{
    const struct model *model = f->model;
    const struct adapter *a = f->adapter;

    if (a && a->n_layers != model->config.n_layers)
        return error_set("the adapter has %zu layers, the model %zu: it is another model's",
                         a->n_layers, model->config.n_layers);
    for (size_t layer = 0; layer < model->config.n_layers; layer++)
        for (int p = 0; p < PROJECTION_COUNT; p++) {
            const bool has_site = adapter_site_at(a, layer, (enum projection)p) >= 0;
            const bool replaced = has_site && a->ops->replaces_base;
            if (replaced == model_has_weights(model, layer, (enum projection)p))
                return error_set(
                    replaced ? "layer %zu: %s has its base weights and an adapter in their place"
                             : "layer %zu: the weights of %s were given up to an adapter, which "
                               "must be attached: load the model anew to run without it",
                    layer, projection_name((enum projection)p));
        }
    return 0;
}

int forward_begin(struct forward *f, const struct batch *batch)
{
    struct model *model = f->model;
    size_t n_positions = 0;

    if (check_adapter(f) != 0)
        return -1;
    const size_t scratch_bytes = round_up(adapter_scratch_bytes(f->adapter, f->max_rows), 64);
    if (scratch_bytes > f->scratch_bytes) {
        model->engine.ops->wait(&model->engine);
        forward_give_scratch(f);
        f->scratch = memory_take(model->engine.memory, scratch_bytes, 1);
        if (!f->scratch)
            return error_set("no memory for an adapter's work on %zu tokens", f->max_rows);
        f->scratch_bytes = scratch_bytes;
    }
    for (size_t i = 0; i < batch->n_runs; i++) {
        const size_t end = batch->runs[i].first_position + batch->runs[i].n_rows;
        n_positions = end > n_positions ? end : n_positions;
    }
    if (model_extend_rope(model, n_positions) != 0)
        return -1;
    model->engine.ops->embed(&model->engine, f->h, f->ld_hidden,
                             model->config.tied_embeddings ? &model->head : &model->embedding,
                             batch->ids, batch->n_rows);
    return 0;
}

int forward_run(struct forward *f, struct kv_cache *cache, const struct batch *batch)
{
    if (forward_begin(f, batch) != 0)
        return -1;
    for (size_t i = 0; i < f->model->config.n_layers; i++)
        if (forward_layer(f, cache, batch, i, &f->buffers) != 0)
            return -1;
    return 0;
}

int forward_head(struct forward *f, const int32_t *rows, size_t n, const int32_t *targets,
                 struct head_result *results, float *logits)
{
    const struct model *model = f->model;
    const struct engine *e = &model->engine;

    if (n == 0)
        return 0;
    e->ops->norm(e, f->x, f->ld_hidden, f->h, f->ld_hidden, rows, n, model->final_norm,
                 model->config.hidden_size, (float)model->config.rms_norm_eps);
    if (e->ops->head(e, results, logits, f->ld_logits, f->x, f->ld_hidden, n, &model->head,
                     targets) != 0)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(results[i].log_sum))
            return error_set("the model's output is not a number: its weights or an adapter are "
                             "damaged, or bf16 is too coarse for it (try --dtype f32)");
    return 0;
}

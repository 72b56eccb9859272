#include "model/forward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/error.h"

/* Zeroed and aligned for vector loads; NULL when out of memory. */
static void *buffer(size_t n_rows, size_t row_bytes)
{
    const size_t bytes = round_up(n_rows * row_bytes, 64);
    void *p = aligned_alloc(64, bytes);
    if (p)
        memset(p, 0, bytes);
    return p;
}

int forward_create(struct forward *f, struct model *model, size_t max_rows)
{
    const struct model_config *c = &model->config;
    const size_t size = element_size(model->options.element);
    struct layer_buffers *b = &f->buffers;

    *f = (struct forward){.model = model, .max_rows = max_rows};
    f->ld_hidden = round_up(c->hidden_size, KERNEL_K_STEP);
    f->ld_qkv = round_up(model->qkv_width, KERNEL_COLUMNS);
    f->ld_heads = round_up(c->n_heads * c->head_dim, KERNEL_K_STEP);
    f->ld_gate_up = round_up(model->gate_up_width, KERNEL_COLUMNS);
    f->ld_ffn = round_up(c->ffn_size, KERNEL_K_STEP);
    f->ld_logits = round_up(c->vocab_size, KERNEL_COLUMNS);
    f->h = buffer(max_rows, f->ld_hidden * sizeof(float));
    f->x = buffer(max_rows, f->ld_hidden * size);
    b->attention_input = buffer(max_rows, f->ld_hidden * size);
    b->qkv = buffer(max_rows, f->ld_qkv * sizeof(float));
    b->q = buffer(max_rows, c->n_heads * round_up(c->head_dim, KERNEL_K_STEP) * sizeof(float));
    b->attention_output = buffer(max_rows, f->ld_heads * size);
    b->ffn_input = b->attention_input;
    b->gate_up = buffer(max_rows, f->ld_gate_up * sizeof(float));
    b->ffn_hidden = buffer(max_rows, f->ld_ffn * size);
    if (!f->h || !f->x || !b->attention_input || !b->qkv || !b->q || !b->attention_output ||
        !b->gate_up || !b->ffn_hidden) {
        forward_free(f);
        return error_set("no memory for the activations of %zu tokens: use a smaller --chunk",
                         max_rows);
    }
    return 0;
}

void forward_free(struct forward *f)
{
    if (!f)
        return;
    free(f->h);
    free(f->x);
    free(f->buffers.attention_input);
    free(f->buffers.qkv);
    free(f->buffers.q);
    free(f->buffers.attention_output);
    free(f->buffers.gate_up);
    free(f->buffers.ffn_hidden);
    memset(f, 0, sizeof *f);
}

int forward_cache_create(struct kv_cache *cache, const struct model *model)
{
    return kv_cache_create(cache, model->engine.kv_element, model->config.n_layers,
                           model->config.n_kv_heads, model->config.head_dim);
}

static struct attention_layer attention_of(const struct model *model, size_t index)
{
    const struct model_config *c = &model->config;
    const struct layer *l = &model->layers[index];
    return (struct attention_layer){
        .layer = index,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .q_offset = 0,
        .k_offset = model->k_offset,
        .v_offset = model->v_offset,
        .window = index >= c->window_first_layer ? c->sliding_window : 0,
        .scale = 1.0f / sqrtf((float)c->head_dim),
        .q_norm = l->q_norm,
        .k_norm = l->k_norm,
        .norm_eps = (float)c->rms_norm_eps,
        .rope_cos = model->rope.cos,
        .rope_sin = model->rope.sin,
    };
}

static int forward_layer(struct forward *f, struct kv_cache *cache, const struct batch *batch,
                         size_t index, struct layer_buffers *b)
{
    const struct model *model = f->model;
    const struct model_config *c = &model->config;
    const struct layer *l = &model->layers[index];
    const struct engine *e = &model->engine;
    const struct engine_ops *ops = e->ops;
    const struct attention_layer a = attention_of(model, index);
    const float eps = (float)c->rms_norm_eps;
    const size_t n = batch->n_rows;

    ops->norm(e, b->attention_input, f->ld_hidden, f->h, f->ld_hidden, NULL, n, l->attention_norm,
              c->hidden_size, eps);
    ops->product(e, b->qkv, f->ld_qkv, b->attention_input, f->ld_hidden, n, &l->qkv, l->qkv_bias,
                 false);
    ops->store(e, &a, cache, batch, b->qkv, f->ld_qkv, b->q);
    if (ops->attention(e, &a, cache, batch, b->q, b->attention_output, f->ld_heads) != 0)
        return -1;
    ops->product(e, f->h, f->ld_hidden, b->attention_output, f->ld_heads, n, &l->output,
                 l->output_bias, true);
    ops->norm(e, b->ffn_input, f->ld_hidden, f->h, f->ld_hidden, NULL, n, l->ffn_norm,
              c->hidden_size, eps);
    ops->product(e, b->gate_up, f->ld_gate_up, b->ffn_input, f->ld_hidden, n, &l->gate_up,
                 l->gate_up_bias, false);
    ops->swiglu(e, b->ffn_hidden, f->ld_ffn, b->gate_up, f->ld_gate_up, model->up_offset, n,
                c->ffn_size);
    ops->product(e, f->h, f->ld_hidden, b->ffn_hidden, f->ld_ffn, n, &l->down, l->down_bias, true);
    return 0;
}

int forward_run(struct forward *f, struct kv_cache *cache, const struct batch *batch)
{
    struct model *model = f->model;
    size_t n_positions = 0;

    for (size_t i = 0; i < batch->n_runs; i++) {
        const size_t end = batch->runs[i].first_position + batch->runs[i].n_rows;
        n_positions = end > n_positions ? end : n_positions;
    }
    if (rope_extend(&model->rope, n_positions) != 0)
        return -1;
    const struct engine *e = &model->engine;
    e->ops->embed(e, f->h, f->ld_hidden,
                  model->config.tied_embeddings ? &model->head : &model->embedding, batch->ids,
                  batch->n_rows);
    for (size_t i = 0; i < model->config.n_layers; i++)
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

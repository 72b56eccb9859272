#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/merge.h"
#include "model/model_internal.h"
#include "mpi/error.h"

enum { LOAD_ROWS = 64 }; /* rows dequantised at a time; a multiple of KERNEL_COLUMNS */

static const struct tensor *find(const struct checkpoint *ck, size_t layer, const char *suffix)
{
    char name[160];
    snprintf(name, sizeof name, "model.layers.%zu.%s", layer, suffix);
    return checkpoint_find(ck, name);
}

static int missing(const struct checkpoint *ck, const char *what)
{
    return error_set("%s has no tensor %s: the file is incomplete", checkpoint_path(ck), what);
}

/* Index of the first NaN or Inf in x [n], or n. */
static size_t first_not_finite(const float *x, size_t n)
{
    float zero = 0; /* stays 0 as long as all are finite; vectorises */
    for (size_t i = 0; i < n; i++)
        zero += x[i] * 0.0f;
    if (zero == 0)
        return n;
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return i;
    return n;
}

static int not_finite(const struct tensor *t, size_t element, float value)
{
    return error_set("%s: tensor %s, element %zu is %s: the file is damaged or the model was saved "
                     "while it diverged",
                     t->file, t->name, element, isnan(value) ? "NaN" : "infinite");
}

struct load_job {
    struct matrix *m;
    size_t first;
    const struct tensor *t;
    size_t n_rows, width;
    float *scratch; /* [threads, LOAD_ROWS, width] */
    float *whole;   /* [n_rows, width] where the weights are changed before they are packed */
    /* [parts]: element index of the first bad value, and the value */
    size_t *bad;
    float *bad_values;
};

static void load_rows(void *arg, size_t part, int thread)
{
    const struct load_job *j = arg;
    const size_t r = part * LOAD_ROWS;
    const size_t n = j->n_rows - r < LOAD_ROWS ? j->n_rows - r : LOAD_ROWS;
    float *rows =
        j->whole ? j->whole + r * j->width : j->scratch + (size_t)thread * LOAD_ROWS * j->width;

    tensor_read_rows(j->t, r, n, rows);
    const size_t at = first_not_finite(rows, n * j->width);
    j->bad[part] = at < n * j->width ? r * j->width + at : SIZE_MAX;
    j->bad_values[part] = at < n * j->width ? rows[at] : 0;
    if (!j->whole)
        matrix_pack_rows(j->m, j->first + r, n, rows);
}

static void pack_rows(void *arg, size_t part, int thread)
{
    const struct load_job *j = arg;
    const size_t r = part * LOAD_ROWS;
    const size_t n = j->n_rows - r < LOAD_ROWS ? j->n_rows - r : LOAD_ROWS;
    (void)thread;

    matrix_pack_rows(j->m, j->first + r, n, j->whole + r * j->width);
}

/* Packs all rows of tensor t as outputs first ... of m. */
static int load_matrix(const struct model *model, const struct checkpoint *ck, struct matrix *m,
                       size_t first, const struct tensor *t)
{
    struct team *team = model->engine.team;
    struct load_job job = {.m = m,
                           .first = first,
                           .t = t,
                           .n_rows = tensor_n_rows(t),
                           .width = tensor_row_elements(t)};
    const size_t n_parts = (job.n_rows + LOAD_ROWS - 1) / LOAD_ROWS;
    const bool changed = model->merge && merge_wants(model->merge, t);
    int status = -1;

    if (changed)
        job.whole = malloc(job.n_rows * job.width * sizeof *job.whole);
    job.scratch = malloc((size_t)team_size(team) * LOAD_ROWS * job.width * sizeof *job.scratch);
    job.bad = malloc(n_parts * sizeof *job.bad);
    job.bad_values = malloc(n_parts * sizeof *job.bad_values);
    if (!job.scratch || !job.bad || !job.bad_values || (changed && !job.whole)) {
        error_set("no memory to load tensor %s of %s", t->name, t->file);
        goto done;
    }
    team_run(team, load_rows, &job, n_parts);
    checkpoint_release(ck, t);
    for (size_t i = 0; i < n_parts; i++)
        if (job.bad[i] != SIZE_MAX) {
            not_finite(t, job.bad[i], job.bad_values[i]);
            goto done;
        }
    if (changed) {
        if (merge_apply(model->merge, t, job.whole, model->options.element, team) != 0)
            goto done;
        team_run(team, pack_rows, &job, n_parts);
    }
    status = 0;
done:
    free(job.scratch);
    free(job.whole);
    free(job.bad);
    free(job.bad_values);
    return status;
}

/* A vector of `width` floats, of which t's elements fill those from `at`; *v is created if NULL. */
static int load_vector(const struct model *model, const struct checkpoint *ck, float **v,
                       size_t width, size_t at, const struct tensor *t)
{
    const size_t n = tensor_row_elements(t) * tensor_n_rows(t);
    if (!*v)
        *v = memory_take(model->engine.memory, round_up(width, KERNEL_COLUMNS), sizeof **v);
    if (!*v || at + n > width)
        return error_set("%s: tensor %s does not fit (%zu elements, room for %zu)", t->file,
                         t->name, n, width - at);
    tensor_read_rows(t, 0, tensor_n_rows(t), *v + at);
    checkpoint_release(ck, t);
    const size_t bad = first_not_finite(*v + at, n);
    return bad == n ? 0 : not_finite(t, bad, (*v)[at + bad]);
}

/* The projections that read the same input, side by side. */
static int load_group(const struct model *model, const struct checkpoint *ck, size_t layer,
                      int group)
{
    struct group *g = &model->layers[layer].groups[group];
    enum projection members[GROUP_MEMBERS];
    const size_t n = group_members(group, members), width = model_group_outputs(model, group);

    g->n_spans = 1;
    if (engine_matrix_create(&model->engine, &g->spans[0].m, width,
                             model_group_inputs(model, group)) != 0)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const size_t column = model_column(model, members[i]);
        char name[96];
        snprintf(name, sizeof name, "%s.weight", projection_name(members[i]));
        const struct tensor *t = find(ck, layer, name);
        if (!t)
            return missing(ck, name);
        if (load_matrix(model, ck, &g->spans[0].m, column, t) != 0)
            return -1;
        snprintf(name, sizeof name, "%s.bias", projection_name(members[i]));
        t = find(ck, layer, name);
        if (t && load_vector(model, ck, &g->bias, width, column, t) != 0)
            return -1;
        if (t && model->merge && merge_wants(model->merge, t) &&
            merge_apply(model->merge, t, g->bias + column, ELEMENT_F32, model->engine.team) != 0)
            return -1;
    }
    return 0;
}

static int load_layer(struct model *model, const struct checkpoint *ck, size_t index)
{
    const struct model_config *c = &model->config;
    struct layer *l = &model->layers[index];
    const struct {
        const char *name;
        float **vector;
        size_t width;
        bool wanted;
    } norms[] = {
        {"input_layernorm.weight", &l->attention_norm, c->hidden_size, true},
        {"post_attention_layernorm.weight", &l->ffn_norm, c->hidden_size, true},
        {"self_attn.q_norm.weight", &l->q_norm, c->head_dim, c->qk_norm},
        {"self_attn.k_norm.weight", &l->k_norm, c->head_dim, c->qk_norm},
    };

    for (int group = 0; group < GROUP_COUNT; group++)
        if (load_group(model, ck, index, group) != 0)
            return -1;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++) {
        if (!norms[i].wanted)
            continue;
        const struct tensor *t = find(ck, index, norms[i].name);
        if (!t)
            return missing(ck, norms[i].name);
        if (load_vector(model, ck, norms[i].vector, norms[i].width, 0, t) != 0)
            return -1;
    }
    return 0;
}

static int load_table(struct model *model, const struct checkpoint *ck, struct matrix *m,
                      const char *name)
{
    const struct tensor *t = checkpoint_find(ck, name);
    if (!t)
        return missing(ck, name);
    if (engine_matrix_create(&model->engine, m, model->config.vocab_size,
                             model->config.hidden_size) != 0)
        return -1;
    return load_matrix(model, ck, m, 0, t);
}

static int load_all(struct model *model, const struct checkpoint *ck)
{
    const struct model_config *c = &model->config;
    const char *const embedding = "model.embed_tokens.weight";
    const struct tensor *norm = checkpoint_find(ck, "model.norm.weight");

    model->layers = calloc(c->n_layers, sizeof *model->layers);
    if (!model->layers)
        return error_set("no memory for %zu layers", c->n_layers);
    for (size_t i = 0; i < c->n_layers; i++)
        if (load_layer(model, ck, i) != 0)
            return -1;
    if (!norm)
        return missing(ck, "model.norm.weight");
    if (load_vector(model, ck, &model->final_norm, c->hidden_size, 0, norm) != 0)
        return -1;
    if (!c->tied_embeddings && load_table(model, ck, &model->embedding, embedding) != 0)
        return -1;
    return load_table(model, ck, &model->head, c->tied_embeddings ? embedding : "lm_head.weight");
}

static int copy_config(struct model_config *to, const struct model_config *from)
{
    *to = *from;
    if (!from->rope.frequency_factors)
        return 0;
    const size_t bytes = from->head_dim / 2 * sizeof(float);
    to->rope.frequency_factors = malloc(bytes);
    if (!to->rope.frequency_factors)
        return error_set("no memory for rotary frequencies");
    memcpy(to->rope.frequency_factors, from->rope.frequency_factors, bytes);
    return 0;
}

struct model *model_load(const struct checkpoint *ck, const struct model_options *options)
{
    return model_load_merged(ck, options, NULL);
}

struct model *model_load_merged(const struct checkpoint *ck, const struct model_options *options,
                                const struct merge *merge)
{
    struct model *model = calloc(1, sizeof *model);
    int status = -1;

    if (!model) {
        error_set("no memory for a model");
        return NULL;
    }
    if (options->isa > cpu_best_isa()) {
        error_set("this processor has no %s: the best that it has is %s", isa_name(options->isa),
                  isa_name(cpu_best_isa()));
        goto done;
    }
    if (copy_config(&model->config, checkpoint_config(ck)) != 0)
        goto done;
    model->options = *options;
    model->merge = merge;
    if (model->options.n_threads < 1)
        model->options.n_threads = 1;
    const struct model_config *c = &model->config;
    if (c->head_dim > ENGINE_MAX_HEAD_DIM || c->head_dim % 2 != 0) {
        error_set("%s: heads of %zu dimensions are not supported (even sizes up to %d are)",
                  checkpoint_path(ck), c->head_dim, ENGINE_MAX_HEAD_DIM);
        goto done;
    }
    if (device_resolve(&model->options.device) != 0 ||
        engine_create(&model->engine, &model->options.device, options->element, options->isa,
                      model->options.n_threads) != 0)
        goto done;
    model->k_offset = round_up(c->n_heads * c->head_dim, KERNEL_COLUMNS);
    model->v_offset = model->k_offset + round_up(c->n_kv_heads * c->head_dim, KERNEL_COLUMNS);
    model->qkv_width = model->v_offset + c->n_kv_heads * c->head_dim;
    model->up_offset = round_up(c->ffn_size, KERNEL_COLUMNS);
    model->gate_up_width = model->up_offset + c->ffn_size;
    if (rope_create(&model->rope, c, model->engine.memory) != 0 || load_all(model, ck) != 0)
        goto done;
    for (size_t i = 0; i < checkpoint_n_tensors(ck); i++) {
        const struct tensor *t = checkpoint_tensor(ck, i);
        model->n_parameters += tensor_n_rows(t) * tensor_row_elements(t);
    }
    model->merge = NULL;
    status = 0;
done:
    if (status != 0) {
        model_free(model);
        return NULL;
    }
    return model;
}

static void give_vector(const struct model *model, float *v, size_t width)
{
    memory_give(model->engine.memory, v, round_up(width, KERNEL_COLUMNS), sizeof *v);
}

void model_free(struct model *model)
{
    if (!model)
        return;
    if (model->engine.ops)
        model->engine.ops->wait(&model->engine);
    for (size_t i = 0; model->layers && i < model->config.n_layers; i++) {
        struct layer *l = &model->layers[i];
        for (int g = 0; g < GROUP_COUNT; g++) {
            for (size_t j = 0; j < l->groups[g].n_spans; j++) {
                matrix_free(&l->groups[g].spans[j].m);
                matrix_free(&l->groups[g].spans[j].t);
            }
            give_vector(model, l->groups[g].bias, model_group_outputs(model, g));
        }
        give_vector(model, l->attention_norm, model->config.hidden_size);
        give_vector(model, l->ffn_norm, model->config.hidden_size);
        give_vector(model, l->q_norm, model->config.head_dim);
        give_vector(model, l->k_norm, model->config.head_dim);
    }
    free(model->layers);
    matrix_free(&model->embedding);
    matrix_free(&model->head);
    matrix_free(&model->head_t);
    give_vector(model, model->final_norm, model->config.hidden_size);
    engine_free(&model->engine);
    rope_free(&model->rope);
    config_free(&model->config);
    free(model);
}

const struct model_config *model_get_config(const struct model *model)
{
    return &model->config;
}

const struct model_options *model_get_options(const struct model *model)
{
    return &model->options;
}

const struct memory *model_memory(const struct model *model)
{
    return model->engine.memory;
}

size_t model_n_parameters(const struct model *model)
{
    return model->n_parameters;
}

const char *model_order(const struct model *model)
{
    return model->engine.order;
}

void model_attach(struct model *model, const struct adapter *adapter, const float *parameters)
{
    model->adapter = adapter;
    model->adapter_parameters = parameters;
    adapter_prepare(adapter, model, parameters);
}

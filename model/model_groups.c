#include <math.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/error.h"

size_t group_members(int group, enum projection members[GROUP_MEMBERS])
{
    static const enum projection all[GROUP_COUNT][GROUP_MEMBERS] = {
        [GROUP_QKV] = {PROJECTION_Q, PROJECTION_K, PROJECTION_V},
        [GROUP_OUTPUT] = {PROJECTION_O},
        [GROUP_GATE_UP] = {PROJECTION_GATE, PROJECTION_UP},
        [GROUP_DOWN] = {PROJECTION_DOWN},
    };
    static const size_t n[GROUP_COUNT] = {3, 1, 2, 1};

    memcpy(members, all[group], n[group] * sizeof *members);
    return n[group];
}

int projection_group(enum projection projection)
{
    static const int groups[PROJECTION_COUNT] = {
        [PROJECTION_Q] = GROUP_QKV,        [PROJECTION_K] = GROUP_QKV,
        [PROJECTION_V] = GROUP_QKV,        [PROJECTION_O] = GROUP_OUTPUT,
        [PROJECTION_GATE] = GROUP_GATE_UP, [PROJECTION_UP] = GROUP_GATE_UP,
        [PROJECTION_DOWN] = GROUP_DOWN,
    };
    return groups[projection];
}

size_t model_group_outputs(const struct model *model, int group)
{
    return group == GROUP_QKV       ? model->qkv_width
           : group == GROUP_GATE_UP ? model->gate_up_width
                                    : model->config.hidden_size;
}

size_t model_group_inputs(const struct model *model, int group)
{
    const struct model_config *c = &model->config;
    return group == GROUP_OUTPUT ? c->n_heads * c->head_dim
           : group == GROUP_DOWN ? c->ffn_size
                                 : c->hidden_size;
}

size_t model_outputs(const struct model *model, enum projection projection)
{
    const struct model_config *c = &model->config;
    switch (projection) {
    case PROJECTION_Q:
        return c->n_heads * c->head_dim;
    case PROJECTION_K:
    case PROJECTION_V:
        return c->n_kv_heads * c->head_dim;
    case PROJECTION_GATE:
    case PROJECTION_UP:
        return c->ffn_size;
    default:
        return c->hidden_size;
    }
}

size_t model_column(const struct model *model, enum projection projection)
{
    return projection == PROJECTION_K    ? model->k_offset
           : projection == PROJECTION_V  ? model->v_offset
           : projection == PROJECTION_UP ? model->up_offset
                                         : 0;
}

static const struct span *span_of(const struct model *model, size_t layer,
                                  enum projection projection)
{
    const struct group *g = &model->layers[layer].groups[projection_group(projection)];
    const size_t column = model_column(model, projection);

    for (size_t i = 0; i < g->n_spans; i++)
        if (column >= g->spans[i].column && column < g->spans[i].column + g->spans[i].m.n)
            return &g->spans[i];
    return NULL;
}

bool model_has_weights(const struct model *model, size_t layer, enum projection projection)
{
    return span_of(model, layer, projection) != NULL;
}

/* The span of columns first .. end of the group, whose panels are copied from the old span. */
static int cut_span(struct span *to, const struct span *from, size_t first, size_t end)
{
    const struct matrix *m = &from->m;
    const size_t panel_bytes = m->k_padded * KERNEL_COLUMNS * element_size(m->element);

    *to = (struct span){.column = first};
    if (matrix_create_in(&to->m, m->memory, m->layout, m->element, end - first, m->k) != 0)
        return -1;
    memcpy(to->m.data,
           (const char *)m->data + (first - from->column) / KERNEL_COLUMNS * panel_bytes,
           to->m.n_panels * panel_bytes);
    return 0;
}

/* Cuts a group's spans anew: what is in `gone` is left out, what is in `apart` stands alone, the
 * rest stays as far together as it was. */
static int cut_group(struct model *model, size_t layer, int group, unsigned gone, unsigned apart)
{
    struct group *g = &model->layers[layer].groups[group];
    struct group left = {.bias = g->bias};
    enum projection members[GROUP_MEMBERS];
    const size_t n_members = group_members(group, members);
    bool any = false;

    for (size_t i = 0; i < n_members; i++) {
        const struct span *from = span_of(model, layer, members[i]);
        any = any ||
              (from && (gone >> members[i] & 1 || (apart >> members[i] & 1 &&
                                                   from->m.n != model_outputs(model, members[i]))));
    }
    if (!any)
        return 0;
    for (size_t i = 0; i < n_members; i++) {
        const struct span *from = span_of(model, layer, members[i]);
        if (gone >> members[i] & 1 || !from)
            continue;
        /* As many neighbours of the same span as stay. */
        size_t last = i;
        while (!(apart >> members[i] & 1) && last + 1 < n_members &&
               !((gone | apart) >> members[last + 1] & 1) &&
               span_of(model, layer, members[last + 1]) == from)
            last++;
        if (cut_span(&left.spans[left.n_spans], from, model_column(model, members[i]),
                     model_column(model, members[last]) + model_outputs(model, members[last])) != 0)
            goto failed;
        left.n_spans++;
        i = last;
    }
    for (size_t i = 0; i < g->n_spans; i++) {
        matrix_free(&g->spans[i].m);
        matrix_free(&g->spans[i].t);
    }
    *g = left;
    return 0;
failed:
    for (size_t i = 0; i < left.n_spans; i++)
        matrix_free(&left.spans[i].m);
    return -1;
}

int model_give_up(struct model *model, size_t layer, unsigned mask)
{
    model->engine.ops->wait(&model->engine);
    for (int group = 0; group < GROUP_COUNT; group++)
        if (cut_group(model, layer, group, mask, 0) != 0)
            return -1;
    return 0;
}

int model_set_apart(struct model *model, size_t layer, unsigned mask)
{
    model->engine.ops->wait(&model->engine);
    for (int group = 0; group < GROUP_COUNT; group++)
        if (cut_group(model, layer, group, 0, mask) != 0)
            return -1;
    return 0;
}

const struct span *model_base(const struct model *model, size_t layer, enum projection projection)
{
    return span_of(model, layer, projection);
}

bool model_is_run_by(const struct adapter *adapter, size_t layer, int group,
                     const struct model *model, const struct span *span)
{
    enum projection members[GROUP_MEMBERS];
    const size_t n = group_members(group, members);

    for (size_t i = 0; adapter && adapter->ops->runs_base && i < n; i++)
        if (model_column(model, members[i]) == span->column &&
            adapter_site_at(adapter, layer, members[i]) >= 0)
            return true;
    return false;
}

const float *model_bias(const struct model *model, size_t layer, enum projection projection)
{
    const float *bias = model->layers[layer].groups[projection_group(projection)].bias;
    return bias ? bias + model_column(model, projection) : NULL;
}

int model_transpose(struct model *model, size_t layer, int group)
{
    struct group *g = &model->layers[layer].groups[group];
    for (size_t i = 0; i < g->n_spans; i++)
        if (!g->spans[i].t.data &&
            matrix_transpose(&g->spans[i].t, &g->spans[i].m, model->engine.team) != 0)
            return -1;
    return 0;
}

int model_transpose_head(struct model *model)
{
    return model->head_t.data ? 0
                              : matrix_transpose(&model->head_t, &model->head, model->engine.team);
}

int model_extend_rope(struct model *model, size_t n)
{
    if (n > model->rope.n_positions)
        model->engine.ops->wait(&model->engine);
    return rope_extend(&model->rope, n);
}

struct attention_layer model_attention_layer(const struct model *model, size_t index)
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

#ifndef T2_MODEL_MODEL_INTERNAL_H
#define T2_MODEL_MODEL_INTERNAL_H
/* What struct model holds; for the files of model/ that run a decoder. */
#include "model/adapter.h"
#include "model/model.h"
#include "model/rope.h"
#include "solver/engine.h"
#include "solver/engine_train.h"

/* Projections that read the same input are one group: their outputs stand side by side in one
 * buffer, each at a column that is a multiple of 16. */
enum { GROUP_QKV, GROUP_OUTPUT, GROUP_GATE_UP, GROUP_DOWN, GROUP_COUNT };
enum { GROUP_MEMBERS = 3 }; /* at most */

/* A base product: the weights of neighbouring projections of a group, packed as one matrix. */
struct span {
    struct matrix m;
    struct matrix t; /* its transpose, for the backward pass; empty until model_transpose() */
    size_t column;   /* where its outputs begin in the group's buffer */
};

/* As loaded, one span holds the whole group. Where an adapter replaces projections, their weights
 * are given up and the spans are what is left between them; where it runs base products itself,
 * those projections have spans of their own. */
struct group {
    struct span spans[GROUP_MEMBERS];
    size_t n_spans;
    float *bias; /* [width padded to 16], zero in the gaps; NULL: none */
};

/* Vectors are in the engine's memory, padded to a multiple of 16. */
struct layer {
    struct group groups[GROUP_COUNT];
    float *attention_norm, *ffn_norm; /* [hidden] */
    float *q_norm, *k_norm;           /* [head_dim] or NULL */
};

struct model {
    struct model_config config;
    struct model_options options;
    struct engine engine;
    size_t k_offset, v_offset, qkv_width; /* columns of qkv */
    size_t up_offset, gate_up_width;
    struct layer *layers;
    struct matrix embedding; /* tied: empty, the head serves */
    struct matrix head;      /* [vocab, hidden] */
    struct matrix head_t;    /* its transpose; empty until model_transpose_head() */
    float *final_norm;
    struct rope_table rope;
    size_t n_parameters;
    const struct merge *merge;     /* while it is loaded */
    const struct adapter *adapter; /* model_attach(); not owned */
    const float *adapter_parameters;
};

/* ---- model_groups.c ------------------------------------------------------------------------- */

/* Members of a group, in the order of their columns; the number of them. */
size_t group_members(int group, enum projection members[GROUP_MEMBERS]);
int projection_group(enum projection projection);
/* A group's outputs (gaps included) and inputs; a projection's outputs and first column. */
size_t model_group_outputs(const struct model *model, int group);
size_t model_group_inputs(const struct model *model, int group);
size_t model_outputs(const struct model *model, enum projection projection);
size_t model_column(const struct model *model, enum projection projection);

/* Gives up the weights of the layer's projections in `mask` (bit p: projection p): what is left of
 * each group is repacked, transposes are dropped. 0, or -1 with error_set. */
int model_give_up(struct model *model, size_t layer, unsigned mask);
/* Are the projection's weights still there? */
bool model_has_weights(const struct model *model, size_t layer, enum projection projection);

/* Cuts the layer's groups so that each projection in `mask` has a span of its own: the same
 * numbers, packed apart. 0, or -1 with error_set. */
int model_set_apart(struct model *model, size_t layer, unsigned mask);

/* For kinds that run base products themselves (adapter_ops.runs_base), which set their sites apart
 * when they are made: the projection's weights m (y = x m^T) and, once a pass with a backward has
 * been made, their transpose t; and its bias, [outputs], or NULL. */
const struct span *model_base(const struct model *model, size_t layer, enum projection projection);
/* Does the adapter (or NULL) make this span's product itself? */
bool model_is_run_by(const struct adapter *adapter, size_t layer, int group,
                     const struct model *model, const struct span *span);
const float *model_bias(const struct model *model, size_t layer, enum projection projection);

/* Makes the transposes of what is left of a group, or of the head, unless they are there. */
int model_transpose(struct model *model, size_t layer, int group);
int model_transpose_head(struct model *model);

/* Makes sure that the rope table holds positions 0 .. n - 1. 0, or -1 with error_set. */
int model_extend_rope(struct model *model, size_t n);

/* What attention needs to know of a layer; the rope table must hold the positions already. */
struct attention_layer model_attention_layer(const struct model *model, size_t index);

static inline const struct engine *model_engine(const struct model *model)
{
    return &model->engine;
}

/* The engine's second table. */
static inline const struct engine_train_ops *engine_train(const struct engine *e)
{
    return e->train;
}

#endif

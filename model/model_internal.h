#ifndef T2_MODEL_MODEL_INTERNAL_H
#define T2_MODEL_MODEL_INTERNAL_H
/* What struct model holds; for model.c and forward.c. */
#include "model/model.h"
#include "model/rope.h"
#include "solver/engine.h"

/* Matrices that read the same input are packed as one: their outputs stand side by side, each at an
 * offset that is a multiple of 16. Biases have the packed matrix's width, zero in the gaps. */
struct layer {
    struct matrix qkv, output, gate_up, down;
    float *qkv_bias, *output_bias, *gate_up_bias, *down_bias; /* NULL: none */
    float *attention_norm, *ffn_norm;                         /* [hidden] */
    float *q_norm, *k_norm;                                   /* [head_dim] or NULL */
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
    float *final_norm;
    struct rope_table rope;
    size_t n_parameters;
};

#endif

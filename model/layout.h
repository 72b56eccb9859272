#ifndef T2_MODEL_LAYOUT_H
#define T2_MODEL_LAYOUT_H
/* Which tensors a model of a given configuration consists of: names in Hugging Face and in GGUF
 * files, and shapes. */
#include <stddef.h>

#include "model/config.h"

struct layout_tensor {
    char name[80];      /* model.layers.0.self_attn.q_proj.weight */
    char gguf_name[80]; /* blk.0.attn_q.weight */
    size_t n_dims, shape[2];
    /* Heads that a GGUF file of the architecture "llama" interleaves (see tensor.h), else 0. */
    size_t interleaved_heads;
};

/* How many tensors the model has. */
size_t layout_size(const struct model_config *config);

/* The i-th of them: the embedding, layer by layer, the last norm, the head if it is not tied. */
void layout_get(const struct model_config *config, size_t i, struct layout_tensor *tensor);

#endif

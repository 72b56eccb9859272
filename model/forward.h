#ifndef T2_MODEL_FORWARD_H
#define T2_MODEL_FORWARD_H
/* The decoder's forward pass, written once over the engine's table of operations.
 *
 * Per layer (pre-norm Llama; Touvron et al. 2023):
 *   x  = RMSNorm(h) ; qkv = x Wqkv^T ; a = attention(qkv) ; h += a Wo^T
 *   x' = RMSNorm(h) ; u = silu(x' Wg^T) * (x' Wu^T)       ; h += u Wd^T
 *
 * A projection that the model's adapter changes goes through the adapter (adapter.h), in its place
 * or beside it.
 *
 * A layer reads and writes its intermediate results through struct layer_buffers: inference lends
 * every layer the same set; training (pass.h) gives each layer its own, and finds there what a
 * backward pass needs. */
#include <stddef.h>
#include <stdint.h>

#include "model/adapter.h"
#include "model/model.h"
#include "solver/engine.h"

/* Tensors (engine.h), f32 unless said otherwise; row strides in struct forward. */
struct layer_buffers {
    void *attention_input;  /* elements [rows, ld_hidden]: RMSNorm(h) */
    float *qkv;             /* [rows, ld_qkv] */
    void *attention_output; /* elements [rows, ld_heads] */
    void *ffn_input;        /* elements [rows, ld_hidden] */
    float *gate_up;         /* [rows, ld_gate_up] */
    void *ffn_hidden;       /* elements [rows, ld_ffn] */
    /* For a backward pass, NULL otherwise: */
    float *h_attention, *h_ffn;    /* [rows, ld_hidden]: copies of h before the two norms */
    void *saved[PROJECTION_COUNT]; /* what the adapter's sites keep */
};

/* Scratch for batches of up to max_rows tokens. */
struct forward {
    struct model *model;
    size_t max_rows;
    size_t ld_hidden, ld_qkv, ld_heads, ld_gate_up, ld_ffn, ld_logits;
    float *h; /* [max_rows, ld_hidden]: the residual stream */
    void *x;  /* elements [max_rows, ld_hidden]: the head's input */
    struct layer_buffers buffers;
    /* The model's own (model_attach) in forward_create; passes set theirs. */
    const struct adapter *adapter;
    const float *parameters;
    const uint64_t *row_keys; /* of the batch's rows, for dropout (adapter.h); NULL: none */
    void *scratch;            /* the adapter's */
    size_t scratch_bytes;
};

/* 0, or -1 with error_set. The caller frees. */
int forward_create(struct forward *f, struct model *model, size_t max_rows);
void forward_free(struct forward *f);

/* Gives back the adapter's scratch alone (for who has no other buffers of forward_create's). */
void forward_give_scratch(struct forward *f);

/* A cache of the model's shape. */
int forward_cache_create(struct kv_cache *cache, const struct model *model);

/* The strides of a model's buffers, alone. */
void forward_strides(struct forward *f, struct model *model);

/* One layer on the rows of f->h, in place; the rope table must hold the batch's positions. -1 with
 * error_set when out of memory. */
int forward_layer(struct forward *f, struct kv_cache *cache, const struct batch *batch,
                  size_t index, const struct layer_buffers *buffers);
/* What comes before the first layer: checks the adapter, makes room, embeds the tokens into f->h.
 */
int forward_begin(struct forward *f, const struct batch *batch);

/* Runs the batch's tokens through all layers: keys and values are in the cache afterwards, and f->h
 * holds the residual stream. batch->n_rows <= max_rows; positions < max_positions. -1 with
 * error_set when out of memory, or when weights were given up to an adapter that is not attached.
 */
int forward_run(struct forward *f, struct kv_cache *cache, const struct batch *batch);

/* The head on some rows of the last batch: rows [n] indices, n <= max_rows. See engine.h for
 * results, targets and logits (row stride f->ld_logits). NaN in the output is an error. */
int forward_head(struct forward *f, const int32_t *rows, size_t n, const int32_t *targets,
                 struct head_result *results, float *logits);

#endif

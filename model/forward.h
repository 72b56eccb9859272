#ifndef T2_MODEL_FORWARD_H
#define T2_MODEL_FORWARD_H
/* The decoder's forward pass, written once over the engine's table of operations.
 *
 * Per layer (pre-norm Llama; Touvron et al. 2023):
 *   x  = RMSNorm(h) ; qkv = x Wqkv^T ; a = attention(qkv) ; h += a Wo^T
 *   x' = RMSNorm(h) ; u = silu(x' Wg^T) * (x' Wu^T)       ; h += u Wd^T
 *
 * A layer reads and writes its intermediate results through struct layer_buffers: inference lends
 * every layer the same set; training will give each layer its own, and finds there what a backward
 * pass needs. */
#include <stddef.h>
#include <stdint.h>

#include "model/model.h"
#include "solver/engine.h"

/* f32 unless said otherwise; row strides in struct forward. */
struct layer_buffers {
    void *attention_input;  /* elements [rows, ld_hidden]: RMSNorm(h) */
    float *qkv;             /* [rows, ld_qkv] */
    void *q;                /* [kv heads, rows, group, key_k] rotated, 4 bytes each (engine.h) */
    void *attention_output; /* elements [rows, ld_heads] */
    void *ffn_input;        /* elements [rows, ld_hidden] */
    float *gate_up;         /* [rows, ld_gate_up] */
    void *ffn_hidden;       /* elements [rows, ld_ffn] */
};

/* Scratch for batches of up to max_rows tokens. */
struct forward {
    struct model *model;
    size_t max_rows;
    size_t ld_hidden, ld_qkv, ld_heads, ld_gate_up, ld_ffn, ld_logits;
    float *h; /* [max_rows, ld_hidden]: the residual stream */
    void *x;  /* elements [max_rows, ld_hidden]: the head's input */
    struct layer_buffers buffers;
};

/* 0, or -1 with error_set. The caller frees. */
int forward_create(struct forward *f, struct model *model, size_t max_rows);
void forward_free(struct forward *f);

/* A cache of the model's shape. */
int forward_cache_create(struct kv_cache *cache, const struct model *model);

/* Runs the batch's tokens through all layers: keys and values are in the cache afterwards, and f->h
 * holds the residual stream. batch->n_rows <= max_rows; positions < max_positions. -1 with
 * error_set when out of memory. */
int forward_run(struct forward *f, struct kv_cache *cache, const struct batch *batch);

/* The head on some rows of the last batch: rows [n] indices, n <= max_rows. See engine.h for
 * results, targets and logits (row stride f->ld_logits). NaN in the output is an error. */
int forward_head(struct forward *f, const int32_t *rows, size_t n, const int32_t *targets,
                 struct head_result *results, float *logits);

#endif

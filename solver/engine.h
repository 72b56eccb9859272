#ifndef T2_SOLVER_ENGINE_H
#define T2_SOLVER_ENGINE_H
/* The matrix engine: the table of operations that a decoder's forward pass is written in, so that a
 * second device is a second table and not a second model.
 *
 * Every operation treats rows (tokens) alone and blocks sums by absolute index: a row's result has
 * the same bits whatever rows are beside it, however prompts are cut, and on any number of threads.
 * On the CPU, operations are called from one thread and use the engine's team inside.
 *
 * "elements" below are the engine's element type (f32 or bf16); the residual stream, sums and
 * everything that is not a product's input are f32. Buffers that feed products have rows of
 * k_padded elements whose tail is zero.
 *
 * Tensors (activations, weights, vectors of a layer, cache pages) lie in the engine's
 * memory (memory.h). Operations on them may still be under way when the call has returned; they
 * run in the order of the calls. Whoever touches a tensor on the host calls wait() first. What an
 * operation takes to be in the host's memory says "host" below: it is read before the call
 * returns, and what is written there is complete. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "solver/device.h"
#include "solver/engine_product.h"
#include "solver/kernels.h"
#include "solver/kv_cache.h"
#include "solver/memory.h"
#include "solver/page_product.h"
#include "solver/team.h"
#include "solver/vecmath.h"

struct engine;

/* A run of consecutive rows of a batch that are consecutive tokens of one sequence. */
struct batch_run {
    size_t first_row, n_rows;
    size_t first_position;
    const int32_t *pages; /* the sequence's pages, by position / KV_PAGE */
};

/* The first n_positions of page `from` are copied to page `to` (a shared prefix that ends inside a
 * page), in every layer after this batch's rows are stored, in order: so the source may be
 * filled by this very batch, and `to` by an earlier copy. */
struct batch_copy {
    int32_t from, to;
    size_t n_positions; /* 1 .. KV_PAGE - 1 */
};

/* The tokens of one forward pass; all of it in the host's memory. */
struct batch {
    size_t n_rows;
    const int32_t *ids; /* [n_rows] */
    const struct batch_run *runs;
    size_t n_runs;
    const struct batch_copy *copies;
    size_t n_copies;
};

/* What attention needs to know of a layer. */
struct attention_layer {
    size_t layer;
    size_t n_heads, n_kv_heads, head_dim;
    size_t q_offset, k_offset, v_offset; /* columns in a qkv row */
    size_t window;                       /* 0: none */
    float scale;                         /* on the scores */
    const float *q_norm, *k_norm;        /* [head_dim] or NULL */
    float norm_eps;
    const float *rope_cos, *rope_sin; /* [positions, head_dim / 2] */
};

/* Per row: what a language model's head says. */
struct head_result {
    int32_t argmax; /* lowest id among equals */
    float max;      /* its logit */
    float log_sum;  /* log of the sum of exp(logit) */
    float target;   /* the target's logit (0 when there is no target) */
};

struct engine_ops {
    const char *device; /* "cpu", "cuda" */

    /* Returns when all that was called before has been done. */
    void (*wait)(const struct engine *e);
    /* Bytes at p become 0. */
    void (*zero)(const struct engine *e, void *p, size_t n_bytes);
    /* to = from, both tensors, which do not overlap. */
    void (*copy)(const struct engine *e, void *to, const void *from, size_t n_bytes);
    /* y f32 [n_rows, ldy] += bias [width] in columns 0 .. width. */
    void (*add_bias)(const struct engine *e, float *y, size_t ldy, const float *bias, size_t n_rows,
                     size_t width);

    /* y f32 [n, ldy] = rows ids[] (host) of the packed embedding m [vocab, width]. */
    void (*embed)(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                  const int32_t *ids, size_t n);

    /* x elements [n_rows, ldx] = RMSNorm of h f32 [n_rows, ldh] over `width`, times weight [width].
     * rows (host): indices into h, or NULL for 0 .. n_rows - 1. Columns width .. ldx become 0. */
    void (*norm)(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
                 const int32_t *rows, size_t n_rows, const float *weight, size_t width, float eps);

    /* y f32 [n_rows, ldy >= n padded to 16] (+)= x [n_rows, ldx] m^T + bias [n padded to 16] or
     * NULL. */
    void (*product)(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                    size_t n_rows, const struct matrix *m, const float *bias, bool accumulate);

    /* Takes a batch's qkv f32 [n_rows, ldqkv]: normalises (optional) and rotates queries and keys,
     * stores keys and values in the cache and carries out the batch's page copies. Then out
     * elements [n_rows, ldo]: each head's softmax(scale q k^T) v, heads side by side, columns
     * after n_heads * head_dim zero. Online softmax over pages, first to last. -1 when out of
     * memory. */
    int (*attention)(const struct engine *e, const struct attention_layer *a,
                     struct kv_cache *cache, const struct batch *batch, const float *qkv,
                     size_t ldqkv, void *out, size_t ldo);

    /* x elements [n_rows, ldx] = silu(gate) * up, from gate_up f32 [n_rows, ldg] with gate in
     * columns 0 .. width and up from up_offset on. Columns width .. ldx become 0. */
    void (*swiglu)(const struct engine *e, void *x, size_t ldx, const float *gate_up, size_t ldg,
                   size_t up_offset, size_t n_rows, size_t width);

    /* The head m [vocab, width] on x [n_rows, ldx]: results [n_rows] (host); targets [n_rows]
     * (host) ids or -1, or NULL; logits f32 [n_rows, ldl >= vocab padded to 16] (host: sampling
     * is the host's), or NULL when only results are wanted. -1 when out of memory. */
    int (*head)(const struct engine *e, struct head_result *results, float *logits, size_t ldl,
                const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
                const int32_t *targets);
};

struct engine_train_ops; /* engine_train.h */

struct engine {
    const struct engine_ops *ops;
    const struct engine_train_ops *train;
    const struct memory *memory;
    enum matrix_layout layout; /* of the matrices that `product` takes */
    void *device;              /* the table's own, or NULL */
    void (*free_device)(struct engine *e);
    const char *order; /* what the bits of its sums depend on, to be recorded with results */
    enum element element;
    enum isa isa;
    struct team *team; /* owned; NULL: one thread; for work on the host */
    const struct kernels *kernels;
    /* How keys and values are held, and what multiplies them: page_product with f32 rows, or
     * kv_kernels (KV_TILES) with bf16 rows in two parts. */
    enum kv_form kv_form;
    const struct kernels *kv_kernels;
    page_product *page_product;
    const struct vecmath *math;
};

/* The CPU engine. isa must be available (cpu_best_isa). -1 with error_set when threads cannot be
 * started. */
int engine_create_cpu(struct engine *e, enum element element, enum isa isa, int n_threads);
void engine_free(struct engine *e);

/* The engine of a device (device_resolve). -1 with error_set. */
int engine_create(struct engine *e, const struct device *wish, enum element element, enum isa isa,
                  int n_threads);

/* A matrix [n, k] of zeros for the engine's products. 0, or -1 with error_set. */
static inline int engine_matrix_create(const struct engine *e, struct matrix *m, size_t n, size_t k)
{
    return matrix_create_in(m, e->memory, e->layout, e->element, n, k);
}

/* How an engine of these holds keys and values unless told otherwise. */
enum kv_form engine_kv_form(enum element element, enum isa isa);
/* Chooses how keys and values are held, before a cache is made (for tests of each). */
void engine_set_kv_form(struct engine *e, enum kv_form form);

/* What the bits of this engine's sums depend on, to be recorded with results: the products' order
 * (kernels.h), and "/kv16" where bf16 keys and values meet f32 rows. */
const char *engine_order(enum element element, enum isa isa);

enum { ENGINE_MAX_HEAD_DIM = 256 };

/* The CPU table's attention (attention_cpu.c). */
int attention_cpu_run(const struct engine *e, const struct attention_layer *a,
                      struct kv_cache *cache, const struct batch *batch, const float *qkv,
                      size_t ldqkv, void *out, size_t ldo);

#endif

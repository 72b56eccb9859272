#ifndef T2_SOLVER_ENGINE_TRAIN_H
#define T2_SOLVER_ENGINE_TRAIN_H
/* The engine's second table: what a backward pass needs beside the operations of engine.h, which it
 * stands on. Products backward are products with transposed matrices (matrix_transpose). A CUDA
 * back end brings its own table.
 *
 * Rows are tokens, as in engine.h. Unlike a forward row, a parameter's gradient sums over the rows
 * of a pass: always in row order, so its bits depend on the pass (a shard of the batch) and not on
 * the number of threads or ranks. All gradients that travel between layers are f32; what feeds a
 * product is in elements. What is not said to be host memory is a tensor (engine.h). */
#include <stddef.h>
#include <stdint.h>

#include "solver/engine.h"

/* One sequence of a pass, in host memory: rows[p] is the row of its token at position p, 0 <= p <
 * n. Sequences share rows (a common prefix); positions own .. n - 1 are this sequence's alone as
 * queries: each row is the query of exactly one sequence, while its key and value serve all whose
 * rows[] name it.
 */
struct attention_sequence {
    const int32_t *rows;
    size_t n, own;
};

/* A row of the head's loss:
 *   - weight * log p(target) + kl_weight * KL(p || p0) + kl0_weight * KL(p0 || p)
 * where p is the softmax of this row's logits and p0 that of x0's (the base model's). The second
 * form is the published code's. d/dlogits: weight * (p - onehot), kl_weight * p (log p - log p0 -
 * KL), kl0_weight * (p - p0). A target of -1 is none: its weight does not
 * count, and its log-probabilities are 0. */
struct head_term {
    int32_t target;
    float weight, kl_weight, kl0_weight;
};

struct head_term_result {
    float logprob;      /* log p(target) */
    float base_logprob; /* log p0(target), 0 without x0 */
    float kl, kl0;      /* KL(p || p0), KL(p0 || p) in nats, over the vocabulary; 0 without x0 */
    float entropy;      /* of p, nats */
    int32_t argmax;
};

/* Which elements of rows of `width` a dropout leaves out, and the factor on the others.
 * Counter-based: a function of the row's key, the place's stream and the column. */
struct dropout {
    const uint64_t *keys; /* [n], host */
    uint64_t stream;
    uint32_t limit; /* of 65536: the share that is left out */
};

struct spaces; /* spaces.h */

struct engine_train_ops {
    /* x elements [n, ldx] = values f32 [n, ldv]; columns width .. ldx become 0. */
    void (*to_elements)(const struct engine *e, void *x, size_t ldx, const float *values,
                        size_t ldv, size_t n, size_t width);

    /* y f32 [n, ldy] = rows rows[] (host) of h f32 [.., ldh], `width` columns. */
    void (*gather_rows)(const struct engine *e, float *y, size_t ldy, const float *h, size_t ldh,
                        const int32_t *rows, size_t n, size_t width);
    /* h f32 [.., ldh], rows rows[] (host; one may stand there several times) += y f32 [n, ldy], in
     * order. */
    void (*scatter_add_rows)(const struct engine *e, float *h, size_t ldh, const float *y,
                             size_t ldy, const int32_t *rows, size_t n, size_t width);

    /* Backward of norm: dh f32 [n, ldh] += d RMSNorm(h) * weight / dh applied to dx f32 [n, ldx].
     * With y = h a w, a = (mean h^2 + eps)^-1/2: dh += a (w dx - h a^2 mean(h w dx)). */
    void (*norm_backward)(const struct engine *e, float *dh, size_t lddh, const float *dx,
                          size_t ldx, const float *h, size_t ldh, size_t n, const float *weight,
                          size_t width, float eps);

    /* Backward of swiglu: dgate_up elements [n, ldd], gate and up in the columns of gate_up f32
     * [n, ldg]; columns beside them become 0. dx f32 [n, ldx]. */
    void (*swiglu_backward)(const struct engine *e, void *dgate_up, size_t ldd, const float *dx,
                            size_t ldx, const float *gate_up, size_t ldg, size_t up_offset,
                            size_t n, size_t width);

    /* Backward of store + attention together. qkv f32 [n_rows, ldqkv] are the products' results
     * (before the query/key norm and the rotation), dout f32 [n_rows, ldo] the gradient of the
     * attention's output; dqkv f32 [n_rows, lddqkv] is overwritten, in qkv's columns, zero beside
     * them. Scores are recomputed in f32, block by block (Dao 2023, FlashAttention-2, section 3.2,
     * without its stored statistics). Gradients of a shared row's key and value are added in the
     * order of sequences. -1 when out of memory. */
    int (*attention_backward)(const struct engine *e, const struct attention_layer *a,
                              const struct attention_sequence *sequences, size_t n_sequences,
                              size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                              size_t ldo, float *dqkv, size_t lddqkv);

    /* The head's loss and its gradient to its input: dx f32 [n, lddx] from x elements [n, ldx]
     * (after the final norm), and x0, the base model's, or NULL. m is the head [vocab, width], m_t
     * its transpose [width, vocab]; terms and results [n] are host memory. Logits live for a block
     * of rows only. Returns -1 when out of memory. dx may be NULL (results alone). */
    int (*head_backward)(const struct engine *e, float *dx, size_t lddx, const void *x,
                         const void *x0, size_t ldx, size_t n, const struct matrix *m,
                         const struct matrix *m_t, const struct head_term *terms,
                         struct head_term_result *results);

    /* u elements [n, ldu] = z * h, h f32 [n, ldh], z [width] (SVF; z NULL: 1). Columns to ldu
     * become 0. */
    void (*scale_columns)(const struct engine *e, void *u, size_t ldu, const float *h, size_t ldh,
                          const float *z, size_t n, size_t width);

    /* dz [width] += sum over rows of h * q, in row order, from h, q f32 [n, ld*]. */
    void (*multiply_sum)(const struct engine *e, float *dz, const float *h, size_t ldh,
                         const float *q, size_t ldq, size_t n, size_t width);

    /* values f32 [n, ldv] = x elements [n, ldx], `width` columns. */
    void (*to_floats)(const struct engine *e, float *values, size_t ldv, const void *x, size_t ldx,
                      size_t n, size_t width);

    /* y f32 [n, ldy] (+)= z * t + bias for t f32 [n, ldt], z [width], bias [width] or NULL. */
    void (*scale_add)(const struct engine *e, float *y, size_t ldy, const float *t, size_t ldt,
                      const float *z, const float *bias, size_t n, size_t width, bool accumulate);

    /* y elements [n, ldy] = x elements [n, ldx] after dropout; columns width .. ldy become 0. */
    void (*drop)(const struct engine *e, void *y, size_t ldy, const void *x, size_t ldx, size_t n,
                 size_t width, const struct dropout *dropout);
    /* dx f32 [n, lddx] += t f32 [n, ldt] after the same dropout. */
    void (*add_dropped)(const struct engine *e, float *dx, size_t lddx, const float *t, size_t ldt,
                        size_t n, size_t width, const struct dropout *dropout);

    /* G f32 [n_a, ldg] += a^T b for a elements [n, lda], b elements [n, ldb] (n_a and n_b columns):
     * the gradient of a weight matrix, for adapters that train one. In row order. -1 when out of
     * memory. */
    int (*outer_sum)(const struct engine *e, float *g, size_t ldg, const void *a, size_t lda,
                     size_t n_a, const void *b, size_t ldb, size_t n_b, size_t n);

    /* Mixtures of spaces (spaces.h), in the order of a call.
     *
     * norms f64 [n, n_norms] = |x|^2 of the n_in elements of each row of x [n, ldx], and with
     * n_norms 4 of their thirds. */
    void (*spaces_norms)(const struct engine *e, double *norms, size_t n_norms, const void *x,
                         size_t ldx, size_t n, size_t n_in);
    /* h f32 [n, ldh] = x in^T has overflowed, or could have, where |x|^2 > 1e32: again, in f64 and
     * cut to 1e37; NaN when out of memory. */
    void (*spaces_long)(const struct engine *e, const struct spaces *s, float *h, size_t ldh,
                        const struct matrix *in, const void *x, size_t ldx, const double *norms,
                        size_t n);
    /* u f32 [n, ldu] from h f32 [n, ldh], behind which the norms are put (s->norms_at). */
    void (*spaces_forward)(const struct engine *e, const struct spaces *s, float *u, size_t ldu,
                           float *h, size_t ldh, const double *norms, size_t n);
    /* From h as the forward left it and u = out^T g, f32 [n, ldu]: dh f32 [n, ldh], zeros beside
     * its columns; factors f64 [n, n_norms], dL/d|x|^2; sums f64 [n_all] over the rows; and u as
     * forward, in u's place. -1 when out of memory. */
    int (*spaces_backward)(const struct engine *e, const struct spaces *s, double *sums,
                           double *factors, float *dh, float *u, size_t ldu, const float *h,
                           size_t ldh, size_t n);
    /* dx f32 [n, lddx] += 2 factor x, each factor on its norm's elements. */
    void (*spaces_input)(const struct engine *e, float *dx, size_t lddx, const double *factors,
                         size_t n_norms, const void *x, size_t ldx, size_t n, size_t n_in);
};

/* The CPU's table. */
extern const struct engine_train_ops engine_train_cpu;

/* t becomes the transpose of m: outputs are inputs; rounding, layout and memory are m's own. For
 * the host, while the engine is idle. 0, or -1 with error_set. */
int matrix_transpose(struct matrix *t, const struct matrix *m, struct team *team);

#endif

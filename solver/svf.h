#ifndef T2_SOLVER_SVF_H
#define T2_SOLVER_SVF_H
/* Singular value fine-tuning (SVF), the merged form: W' = U diag(s z) V^T for an expert z (Sun,
 * Cetin & Tang, "Transformer-Squared: Self-adaptive LLMs", section 3.1: W' = U S' V^T with
 * S' = S diag(z)), from W and the small square factor alone:
 *
 *   tall (m >= n)   W' = W + (W V) diag(z - 1) V^T
 *   wide (m < n)    W' = W + U diag(z - 1) (U^T W)
 *
 * With W = sum_i s_i u_i v_i^T, W v_i = s_i u_i, so the correction is sum_i s_i (z_i - 1) u_i
 * v_i^T. Where z_i = 1 nothing is added, whatever the factor's rounding: z = 1 gives W's very bits.
 * A component costs nothing until its z_i leaves 1: only those columns of Q take part.
 *
 * In f32 with OpenBLAS; serial beyond what OpenBLAS does. For checks, evaluation and export;
 * training uses another form (docs). */
#include <stddef.h>

struct svf_matrix {
    size_t n_rows, n_columns;
    const float *factor; /* Q f32 [r, r], r = min(n_rows, n_columns): V^T if n_rows >= n_columns,
                            else U^T; rows are singular vectors, as solver/svd.h makes them */
};

/* w f32 [n_rows, n_columns] becomes W'. z f32 [r]. multiplier scales the whole of W' (the `sigmoid`
 * parametrisation's c; 1 otherwise). Not finite z or multiplier is an error. 0, or -1 with
 * error_set, and w as it was. */
int svf_compose(const struct svf_matrix *matrix, const float *z, float multiplier, float *w);

#endif

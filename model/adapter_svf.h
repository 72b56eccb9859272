#ifndef T2_MODEL_ADAPTER_SVF_H
#define T2_MODEL_ADAPTER_SVF_H
/* Singular value fine-tuning (Transformer-Squared, arXiv 2501.06252, section 3.1) in the form that
 * needs no weight gradients (DESIGN.md section 4; docs/training.md): W' = U diag(s z) V^T is run as
 *
 *   forward   h = A x,   y = B (z * h)
 *   backward  q = B^T g, dz += sum over tokens of h * q, dx = A^T (z * q)
 *
 * with A = V^T, B = W V where W is tall, and A = U^T W, B = U where it is wide. A and B are made
 * once from the weights and the small factor and packed in the engine's element type, in both
 * orientations.
 *
 * Parametrisations. direct: the parameters are z, starting at 1. sigmoid (the published code): z =
 * sigmoid(p), the whole scaled by c = sum(s) / sum(s z), so the multiplier is e = c z; p from
 * N(0.1, 1e-3) (table 6) by counter-based numbers; dL/dz_i = c d_i - (s_i / sum(s z)) sum_j e_j d_j
 * with d = dL/de, dL/dp = z (1 - z) dL/dz. */
#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/factors.h"
#include "model/model.h"

enum svf_parametrisation { SVF_DIRECT, SVF_SIGMOID };

/* Builds the adapter for these modules of the model, whose base weights there are given up as their
 * factored form appears, and attaches it with parameters NULL (the base model). factors: opened,
 * checked to be the model's. with_backward: make the transposes too. seed: for sigmoid's start.
 * The adapter's own parameters start as the parametrisation says. NULL with error_set (a module
 * without factors is named); the model is then good for model_free alone. */
struct adapter *adapter_svf_create(struct model *model, const struct checkpoint *ck,
                                   struct factors *factors, const struct module *modules,
                                   size_t n_modules, enum svf_parametrisation parametrisation,
                                   bool with_backward, uint64_t seed);

/* Where the numbers come from, for module i of those chosen. Calls return 0, or -1 with error_set.
 */
struct svf_source {
    void *context;
    /* Rows first .. first + n - 1 of W, f32 [n, n_columns]. Called by several threads at once. */
    int (*weights)(void *context, size_t i, size_t first, size_t n, float *rows);
    /* Rows of the small factor Q, f32 [n, r] (solver/svd.h): right singular vectors where W is tall
     * (n_rows >= n_columns), left ones where it is wide. */
    int (*factor)(void *context, size_t i, size_t first, size_t n, float *rows);
    int (*sigma)(void *context, size_t i, double *sigma); /* [r] */
    /* Nothing more is asked of module i; or NULL. */
    void (*done)(void *context, size_t i);
};

/* The same from any source. Beside the adapter it needs the factor of one matrix in f32 and, for a
 * wide one, the matrix. Bits do not depend on the number of threads. */
struct adapter *adapter_svf_build(struct model *model, const struct svf_source *source,
                                  const struct module *modules, size_t n_modules,
                                  enum svf_parametrisation parametrisation, bool with_backward,
                                  uint64_t seed);

/* Bytes of packed matrices that it takes at these modules, in the element type. */
size_t adapter_svf_bytes(const struct module *modules, size_t n_modules, enum element element,
                         bool with_backward);

enum svf_parametrisation adapter_svf_parametrisation(const struct adapter *adapter);

/* The effective multipliers e of a site (z, or c sigmoid(p)), [r], from a parameter vector. */
void adapter_svf_multipliers(const struct adapter *adapter, size_t site, const float *parameters,
                             float *multipliers);

/* e = c sigmoid(p) [r], c = sum(s) / sum(s sigmoid(p)), of a matrix with these singular values. e
 * may be p. */
void adapter_svf_sigmoid(const double *sigma, const float *p, size_t r, float *e);

#endif

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

/* Builds the adapter for these modules of the model, whose base matrices at the sites are given up
 * where a whole packed group is replaced. factors: opened, checked to be the model's.
 * with_backward: make the transposes too. seed: for sigmoid's start. NULL with error_set (a module
 * without factors is named). */
struct adapter *adapter_svf_create(struct model *model, const struct checkpoint *ck,
                                   struct factors *factors, const struct module *modules,
                                   size_t n_modules, enum svf_parametrisation parametrisation,
                                   bool with_backward, uint64_t seed);

/* The effective multipliers e of a site (z, or c sigmoid(p)), [r], from a parameter vector. */
void adapter_svf_multipliers(const struct adapter *adapter, size_t site, const float *parameters,
                             float *multipliers);

#endif

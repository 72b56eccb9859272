#ifndef T2_MODEL_WEIGHT_MIX_H
#define T2_MODEL_WEIGHT_MIX_H
/* A model whose weights become any mixture of experts at the price of an AXPY over their merged
 * changes (solver/axpy.h), written straight into the packed weights: no factors and no composing.
 * W' is linear in z: with D_k = W_k - W, the change that expert k makes,
 *
 *   sum_k a_k z_k             W' = (sum_k a_k) W + sum_k a_k D_k
 *   1 + sum_k a_k (z_k - 1)   W' = W + sum_k a_k D_k
 *
 * Changes are kept in the model's element type: they are some hundred times smaller than the
 * weights, so in bf16 they are exact to a few 1e-5 of a weight, finer than bf16's grid. The sum is
 * made in f32; in bf16 it is rounded stochastically, by the same numbers for every mixture.
 *
 * Against the factored form (adapter_svf.h) a token costs less and a candidate more; memory is K +
 * 1 copies of the weights that experts change. */
#include "model/expert_set.h"

struct weight_mix;

/* The model's weights must all be there (no adapter that replaces them). Computes every expert's
 * changes. factors: those of the set. NULL with error_set. Freed before the model. */
struct weight_mix *weight_mix_create(struct model *model, const struct checkpoint *ck,
                                     const struct expert_set *set, struct factors *factors,
                                     uint64_t seed);
void weight_mix_free(struct weight_mix *mix);

/* Makes the model the mixture; alpha as for expert_set_mix, whose readings z and delta it knows.
 * -1 with error_set for p, and where coefficients are not finite. */
int weight_mix_wear(struct weight_mix *mix, enum expert_mix reading, const double *alpha,
                    enum expert_granularity granularity);

/* Bytes that it takes beside the model. */
size_t weight_mix_bytes(const struct expert_set *set, enum element element);

#endif

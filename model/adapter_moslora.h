#ifndef T2_MODEL_ADAPTER_MOSLORA_H
#define T2_MODEL_ADAPTER_MOSLORA_H
/* Mixture of Space (MoSLoRA, arXiv 2602.14490): per token a small router weighs low-rank experts
 * that act in spaces of different curvature,
 *
 *   y = W x + (alpha / rank) sum_e pi_e(x) E_e(x),
 *   pi = softmax(C tanh(R x' + r) + d),   x' = x / sqrt(1 + |x|^2 / n)
 *
 * Euclidean: E(x) = B A x. Hyperbolic and spherical: the same on coordinates of the manifold, with
 * a bias point (solver/manifold.h). Product: E acts apart on thirds of the token, of which the
 * first is hyperbolic, the second spherical, the third flat, with outputs split likewise.
 *
 * As E_e(x) = p_e B_e A_e x + q_e b_e with scalars p and q, a site is two products whatever the
 * number of experts: one with all A and R below each other, one with all B and b side by side
 * (docs/moslora.md has forward, backward and costs).
 *
 * Curvature is +-most_curved sigmoid(t), t learned with the penalty (penalty / 2) (t - t0)^2. Bias
 * points take steps of Riemannian Adam; everything else is AdamW's. Does not merge into weights. */
#include "model/adapter.h"
#include "model/model.h"
#include "solver/manifold.h"

enum moslora_experts {
    MOSLORA_EUCLIDEAN = 1,
    MOSLORA_HYPERBOLIC = 2,
    MOSLORA_SPHERICAL = 4,
    MOSLORA_PRODUCT = 8,
};

struct adapter_kind;

struct moslora_options {
    size_t rank; /* of each expert */
    double alpha;
    double dropout;        /* of what the experts and the router read, in training */
    unsigned experts;      /* enum moslora_experts, two or more */
    enum chart hyperbolic; /* CHART_BALL or CHART_LORENTZ */
    size_t router_hidden;  /* R's rows */
    bool router_per_layer; /* projections that read one input share a router */
    bool top1;             /* the likeliest expert alone, with weight 1 (straight-through) */
    bool shared_a;         /* one A for the experts (but not the product's) */
    bool fixed_curvature;  /* `curvature` stays as it is */
    double curvature;      /* |kappa| at the start; below most_curved unless fixed */
    double most_curved;    /* at most MANIFOLD_MOST_CURVED */
    double penalty;        /* on the curvatures' parameters */
    double curvature_rate; /* their learning rate, in multiples of the others' */
};

struct moslora_options moslora_defaults(void);

/* 0, or -1 with a sentence that names the option and what it may be. */
int moslora_check(const struct moslora_options *options);

/* The adapter with its own parameters at the start: A and R uniform as LoRA's, B, C and points 0,
 * so the model is the base model. Not attached. NULL with error_set. */
struct adapter *adapter_moslora_create(struct model *model, const struct module *modules,
                                       size_t n_modules, const struct moslora_options *options,
                                       bool with_backward, uint64_t seed);

extern const struct adapter_kind adapter_kind_moslora; /* adapter_kinds.h */

/* Parameters of a module; `with_router`: those of a router of its own included. */
size_t adapter_moslora_count(const struct module *module, const struct moslora_options *options,
                             bool with_router);

#endif

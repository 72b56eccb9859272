#ifndef T2_MODEL_EXPERT_SET_H
#define T2_MODEL_EXPERT_SET_H
/* Several SVF experts of one model side by side: their effective multipliers over the union of
 * their matrices (1 where an expert leaves a matrix alone), mixtures of them, and one adapter whose
 * parameter vector can be any expert or mixture. What t2 adapt searches, and what evaluation per
 * prompt chooses from. Local to a rank; stands on expert.h, factors.h and adapter_svf.h.
 *
 *     expert_set_open(&set, "add.h5,math=m.h5", identity, path);
 *     expert_set_take_factors(&set, factors);
 *     adapter = expert_set_adapter(&set, model, checkpoint, factors);
 *     expert_set_mix(&set, EXPERT_MIX_Z, alpha, EXPERT_PER_EXPERT, mixture);
 *     model_attach(model, adapter, mixture);                or set.z[k], or NULL: the base model
 *
 * Readings of a mixture with coefficients a_k (DESIGN.md section 4; docs/adaptation.md):
 *
 *   z      z' = sum_k a_k z_k                the paper's equation; leaves the base model unless the
 *                                            coefficients sum to 1
 *   delta  z' = 1 + sum_k a_k (z_k - 1)      the same where they do; a = 0 is the base model
 *   p      p' = sum_k a_k p_k before the sigmoid, z' = c sigmoid(p'), c = sum(s) / sum(s
 *          sigmoid(p')): the published code, for experts of its parametrisation
 *
 * Coefficients lie as alpha [n_groups, n]: a row of one number an expert for the whole model, for
 * each layer that has a matrix, or for each matrix. */
#include <stddef.h>

#include "model/adapter.h"
#include "model/checkpoint.h"
#include "model/expert.h"
#include "model/factors.h"
#include "model/model.h"

enum expert_mix { EXPERT_MIX_Z, EXPERT_MIX_DELTA, EXPERT_MIX_P };
enum expert_granularity { EXPERT_PER_EXPERT, EXPERT_PER_LAYER, EXPERT_PER_MATRIX };

enum { EXPERT_SET_MAX = 64 };

struct expert_set {
    size_t n;
    char **names;           /* [n] distinct */
    struct expert *experts; /* [n] as read */
    struct module *modules; /* the union, by layer and q k v o gate up down */
    size_t n_modules;
    size_t *first; /* [n_modules + 1]: where a module's vector begins */
    size_t *layer; /* [n_modules]: its layer's number among those that have modules */
    size_t n_layers;
    size_t n_parameters;
    float **z;      /* [n] [n_parameters] effective multipliers */
    float **p;      /* [n] [n_parameters]; NULL unless all are sigmoid and have all matrices */
    double *sigma;  /* [n_parameters], NULL before expert_set_take_factors */
    char *identity; /* the factors' fingerprint that the experts name; NULL: none names one */
};

/* list: "FILE,NAME=FILE,...": a name is the file's without folder and ".h5", unless given; names
 * must differ. identity: of the model, model_path for messages. Every expert must be SVF, of this
 * model, of one set of factors, and matrices of the same name of the same shape. 0, or -1 with
 * error_set; expert_set_free in any case. */
int expert_set_open(struct expert_set *set, const char *list, const char identity[65],
                    const char *model_path);
/* Accepts a zeroed set. */
void expert_set_free(struct expert_set *set);
/* By name; set->n (no message) when there is none. */
size_t expert_set_find(const struct expert_set *set, const char *name);

/* Checks that these are the factors of the experts and hold all their matrices, and keeps the
 * singular values, which the reading `p` needs. */
int expert_set_take_factors(struct expert_set *set, struct factors *factors);

/* An inference adapter over the union (adapter_svf_create: direct; it gives up the model's weights
 * there), whose parameter vector [n_parameters] is laid out as z. NULL with error_set. */
struct adapter *expert_set_adapter(const struct expert_set *set, struct model *model,
                                   const struct checkpoint *ck, struct factors *factors);

/* Rows of alpha: 1, the layers, or the matrices. */
size_t expert_set_n_groups(const struct expert_set *set, enum expert_granularity granularity);
/* The group of module i. */
size_t expert_set_group(const struct expert_set *set, enum expert_granularity granularity,
                        size_t module);
/* Group g for people: "all", "layer 3", "layers.3.mlp.up_proj". Returns text. */
char *expert_set_group_name(const struct expert_set *set, enum expert_granularity granularity,
                            size_t group, char *text, size_t size);

/* out f32 [n_parameters] from alpha [n_groups, n]. Sums run over the experts in order, in f64, so
 * bits depend on alpha alone. -1 with error_set where the reading does not fit the experts, or the
 * result is not finite. */
int expert_set_mix(const struct expert_set *set, enum expert_mix reading, const double *alpha,
                   enum expert_granularity granularity, float *out);

/* Divides each row of alpha [n_groups, n] by its sum, as the published code does; a row whose sum
 * is not above 1e-6 becomes 1/n each. */
void expert_set_normalise(double *alpha, size_t n_groups, size_t n);

/* The vector z [n_parameters] as the matrices of a new expert: fills kind, parametrisation
 * ("direct"), identity, model, factors, factors_identity and the matrices of *expert (zeroed
 * before). The caller fills in the task and frees it. */
int expert_set_make_expert(const struct expert_set *set, const float *z, struct expert *expert);

#endif

#ifndef T2_EVAL_FEWSHOT_H
#define T2_EVAL_FEWSHOT_H
/* Few-shot adaptation (Transformer-Squared, section 3.2, strategy C): the mixture of experts that
 * does best on a few shots of a task, found by a search over its coefficients. One step is one
 * iteration of the search: points asked for, made into weights, run on the shots over all ranks,
 * told.
 *
 * Beside the paper's objective, against its noise (docs/adaptation.md): likelihood instead of right
 * and wrong; a price of the distance from the base model; a fresh sample of the shots in every
 * iteration, the same for all its candidates, with the best of them run again on all shots before
 * one may become the result.
 *
 * Stands on population.h, search.h and model/expert_set.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/population.h"
#include "eval/search.h"
#include "model/expert_set.h"
#include "model/weight_mix.h"

struct fewshot_options {
    struct search_options search; /* n, simplex and offered are set by fewshot_create */
    enum expert_mix mix;
    enum expert_granularity per;
    bool normalise; /* rows of coefficients are divided by their sums before they are used */
    size_t sample;  /* shots of an iteration, drawn afresh; 0: all */
    double shrink;  /* price of the distance from the base model: of its square, in units of the
                       experts' mean square distance */
    bool abandon;   /* see population_evaluate */
};

/* One finished iteration, all doubles: a row of a file. */
struct fewshot_point {
    double best, best_tie;    /* the best so far */
    double mean, least, most; /* of the iteration's scores, without abandoned ones */
    double n_candidates, n_abandoned, n_evaluated, seconds;
};

struct fewshot {
    struct fewshot_options options;
    const struct expert_set *set;
    size_t n_groups, n; /* n = n_groups * set->n coefficients */
    struct search search;
    struct fewshot_point *curve; /* [search.iteration] */
    double *means, *deviations;  /* [search.iteration, n]: the distribution after each iteration */
    double *bests;               /* [search.iteration, n]: the best so far */
    double distance;             /* mean over the experts of sum (z_k - 1)^2 */
    float *worn;                 /* [set->n_parameters] the candidate under evaluation */
    double *alpha;               /* [n] room for its coefficients */
};

/* The search starts at the uniform mixture, 1/K each. 0, or -1 with error_set; fewshot_free in any
 * case. */
int fewshot_create(struct fewshot *f, const struct expert_set *set,
                   const struct fewshot_options *options);
void fewshot_free(struct fewshot *f);

/* The mixture z [n_parameters] of search coordinates [n], normalised if so chosen. */
int fewshot_mixture(const struct fewshot *f, const double *point, float *z);
/* The coefficients themselves, [n_groups, K], as they are used. */
void fewshot_coefficients(const struct fewshot *f, const double *point, double *alpha);

/* How a model becomes a mixture: by another vector of an adapter (expert_set_adapter), or by other
 * weights. One of the two. */
struct fewshot_form {
    struct model *model;
    const struct adapter *adapter;
    struct weight_mix *weights;
};

/* Makes form->model the mixture alpha [n_groups of `per`, K] in this reading, as it is used. What
 * it wears lies in f, or in form->weights. 0, or -1 with error_set. */
int fewshot_wear(struct fewshot *f, const struct fewshot_form *form, enum expert_mix mix,
                 enum expert_granularity per, const double *alpha);

/* One iteration. population: its comm, shots, run, objective, progress and context; run.model is
 * form->model, on which a candidate is left. *interrupted: a signal came, and nothing has changed.
 * Collective. 0 on all ranks, or -1 on all with error_set. */
int fewshot_step(struct fewshot *f, const struct population *population,
                 const struct fewshot_form *form, bool *interrupted);

/* Room for the curves of one more iteration; used by fewshot_step and by readers of states. */
int fewshot_reserve(struct fewshot *f, size_t n_iterations);

#endif

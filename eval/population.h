#ifndef T2_EVAL_POPULATION_H
#define T2_EVAL_POPULATION_H
/* Evaluates candidates (weights of a model) on shots, over all ranks: pairs of a candidate and a
 * part of the shots are drawn from a shared queue, and every rank gets all outcomes. What a pair
 * gives depends on it alone, so results have the same bits on any number of ranks. Makes and
 * compares scores; where candidates come from is search.h's business, what makes the model one of
 * them the caller's.
 *
 * Stands on shots.h, search.h and mpi/comm.h. */
#include <float.h>
#include <stdbool.h>
#include <stddef.h>

#include "eval/search.h"
#include "eval/shots.h"
#include "mpi/comm.h"

enum population_objective {
    /* Share of right answers, ties broken by the mean log-likelihood per token of the right answers
     * generated (Transformer-Squared, appendix): the paper's. */
    POPULATION_ACCURACY,
    /* Mean log-likelihood of the right answers (struct shot_outcome), ties by nothing: smooth. */
    POPULATION_LIKELIHOOD,
};

struct population {
    const struct comm *comm;
    const struct shots *shots;
    struct shots_run run; /* `what` is set from the objective */
    enum population_objective objective;
    /* Makes the model candidate number `candidate` of those under evaluation, on this rank. 0, or
     * -1 with error_set. */
    int (*wear)(void *context, size_t candidate);
    /* What a candidate's score loses: a price of its distance from the base model (0: nothing), or
     * NULL. The same on all ranks. */
    double (*price)(void *context, size_t candidate);
    /* Called on every rank after a pair; may be NULL. */
    void (*progress)(void *context, size_t n_done, size_t n_all);
    void *context;
};

/* The value of candidates whose outcomes are no numbers: finite, so that it can be ranked and kept.
 */
#define POPULATION_WORST (-DBL_MAX)

struct population_result {
    struct shot_outcome *outcomes; /* [n_candidates, n_which]; zero where not evaluated */
    struct search_score *scores;   /* [n_candidates] POPULATION_WORST where not finite */
    bool *abandoned;               /* [n_candidates] */
    size_t n_evaluated;            /* pairs of a candidate and a shot */
    bool interrupted;              /* a signal came: the rest means nothing */
};

/* Evaluates candidates 0 .. n_candidates - 1 on the shots which[0 .. n_which - 1]. n_elite > 0:
 * early abandonment: shots come in parts, and a candidate that cannot become one of the n_elite
 * best any more, were it right in all that is left, is left there (POPULATION_ACCURACY without a
 * price; its score is then that of all the rest wrong); who the n_elite best are, and their scores,
 * stay the same. Collective; allocates the result on every rank. 0 on all, or -1 on all with
 * error_set. */
int population_evaluate(const struct population *population, size_t n_candidates,
                        const size_t *which, size_t n_which, size_t n_elite,
                        struct population_result *result);
void population_result_free(struct population_result *result);

/* The score of outcomes [n] under an objective, before the price. */
struct search_score population_score(enum population_objective objective,
                                     const struct shot_outcome *outcomes, size_t n);

#endif

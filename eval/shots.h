#ifndef T2_EVAL_SHOTS_H
#define T2_EVAL_SHOTS_H
/* A handful of a task's items, chosen by seed, made and encoded once, and run again and again on a
 * model whose weights change: what few-shot adaptation looks at. Prompts, grading and
 * log-likelihoods are those of evaluate.h. Local to a rank; stands on items.h and
 * model/scheduler.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/evaluate.h"
#include "eval/items.h"
#include "model/config.h"

struct shot {
    struct task_item item;
    struct tokens prompt;   /* tasks that generate */
    struct tokens *choices; /* [item.n_choices] prompt and choice; tasks that choose */
    size_t *n_scored;       /* [item.n_choices] */
    struct tokens target;   /* prompt and right answer, when asked for */
    size_t n_target;
};

struct shots {
    struct items items; /* the split that they come from */
    struct shot *all;   /* [n] */
    size_t n;
};

struct shots_options {
    struct items_options
        items; /* split: what the shots are drawn from; limit: from its first rows */
    size_t n;
    uint64_t seed;
    bool targets; /* encode right answers too (SHOTS_TARGETS of tasks that generate) */
};

/* Draws n different items (fewer than there are, or an error) by counter-based numbers. config: of
 * the model, for the length of what is encoded. 0, or -1 with error_set; shots_free in any case. */
int shots_open(struct shots *shots, const struct task *task, const struct chat_format *chat,
               const struct tokenizer *tokenizer, const struct model_config *config,
               const struct shots_options *options);
void shots_free(struct shots *shots);
/* Is this row of the split one of the shots? */
bool shots_has_row(const struct shots *shots, size_t row);

struct shot_outcome {
    double right; /* share of the answers that are right */
    /* Mean log-likelihood per token of the right answers that were generated (the paper's
     * tie-break), of the right choice where it was chosen; 0: none was right. */
    double confidence;
    /* Of the right answer: mean log-likelihood per token; for choices the logarithm of its share of
     * the choices' probability. 0 if not asked for. */
    double likelihood;
};

enum {
    SHOTS_ANSWERS = 1, /* answers are generated (or chosen) and graded */
    SHOTS_TARGETS = 2, /* the right answer's likelihood; alone, nothing is generated */
};

struct shots_run {
    struct model *model;
    const struct tokenizer *tokenizer;
    scheduler_run_function *run; /* scheduler_run */
    struct scheduler_options scheduler;
    struct sampling sampling; /* of answers; its streams are keyed by the item: the same numbers for
                                 every candidate */
    size_t samples;           /* answers of an item, >= 1 */
    struct sandbox *sandbox;  /* code tasks */
    unsigned what;            /* SHOTS_... */
};

/* Runs the shots which[0 .. n - 1] on the model as it is: outcomes [n]. 0, or -1 with error_set. */
int shots_run(const struct shots *shots, const struct shots_run *run, const size_t *which, size_t n,
              struct shot_outcome *outcomes);

#endif

#ifndef T2_JOBS_ADAPT_SCORES_H
#define T2_JOBS_ADAPT_SCORES_H
/* The table at the end of an adaptation: base model, experts, uniform mixture and the mixture
 * found, on the shots and on the test items. */
#include "eval/evaluate.h"
#include "jobs/adapt_result.h"

struct adapt_scoring {
    const struct comm *comm;
    struct fewshot *f; /* its search is finished */
    const struct fewshot_form *form;
    struct population population; /* what the shots are run with */
    const struct task *task;
    const struct chat_format *chat;
    struct evaluate_options evaluate; /* of the test items */
    bool test;                        /* is there a test? */
    /* Made by adapt_score_all, the same on all ranks: */
    struct adapt_score *scores; /* [n_rows] the caller's to free */
    size_t n_rows, n_test;
};

/* Fills the table. *interrupted: a signal came, and it is not whole. Collective. 0 on all ranks, or
 * -1 on all with error_set. */
int adapt_score_all(struct adapt_scoring *scoring, bool *interrupted);

#endif

#ifndef T2_EVAL_GIVEN_H
#define T2_EVAL_GIVEN_H
/* Grades answers that somebody else has generated, without a model. A JSON Lines file with an
 * answer a line: "id" or "task_id" as the data set's rows have it (or the row's line number where
 * they have none), and "answer" or "completion". Several lines with one id are samples of that
 * item. Choice tasks take a choice's label or text as the answer. Local to a process: no MPI. */
#include "eval/evaluate.h"

struct given_options {
    const char *data_root, *split;
    size_t limit;   /* first items only; 0: all. Answers to others are then passed over */
    size_t pass_at; /* k of pass@k, 0: none; every item then needs k samples */
    struct sandbox *sandbox;
};

/* The result covers the items that have answers; *n_missing are without. What does not apply
 * (tokens, log-likelihoods) is zero or NaN. 0, or -1 with error_set that names file and line. */
int given_grade(const struct task *task, const char *path, const struct given_options *options,
                struct task_result *result, size_t *n_missing);

#endif

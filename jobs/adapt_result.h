#ifndef T2_JOBS_ADAPT_RESULT_H
#define T2_JOBS_ADAPT_RESULT_H
/* What a finished adaptation leaves: an expert file (model/expert.h) with the mixture's z, the
 * coefficients, the search's curves, the shots, and the scores of base, experts and mixtures on
 * shots and test (docs/formats.md). Serial: rank 0's. */
#include <stdio.h>

#include "eval/fewshot.h"

/* One row of the table: the base model, an expert, the uniform mixture, the mixture found. */
struct adapt_score {
    const char *name;
    double shots, shots_error; /* accuracy and its standard error */
    double test, test_error;   /* NaN: not made */
};

struct adapt_result {
    const struct fewshot *f;
    const struct shots *shots;
    const struct adapt_score *scores; /* [n_scores] */
    size_t n_scores, n_test;
    const char *task, *task_text, *test_split;
    const char *settings, *options, *command_line;
    const char *per, *mix, *objective; /* as the options name them */
    const char *weights;               /* the form of candidates: "factored" or "merged" */
    const char *cpu, *isa, *dtype, *started;
    int64_t seed;
    int n_ranks, n_threads;
    double seconds;
};

/* 0, or -1 with error_set; an earlier file stays then. */
int adapt_result_write(const struct adapt_result *result, const char *path);

/* For t2 inspect: what is beside an expert's matrices where t2 adapt made it, nothing elsewhere. 0,
 * or -1 with error_set. */
int adapt_result_describe(const char *path, FILE *file);

#endif

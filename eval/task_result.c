/* What a task's items come to: metrics from the records, on rank 0. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/adapt.h"
#include "eval/evaluate.h"
#include "eval/gather.h"
#include "eval/metrics.h"
#include "mpi/hash.h"

/* The shares of right samples, and pass@k. */
static void compute_samples(struct task_result *result)
{
    const size_t n = result->n_items;
    double *values = malloc(n * sizeof *values);

    if (!values || result->items[0].n_samples == 0) {
        free(values);
        return;
    }
    for (size_t i = 0; i < n; i++)
        values[i] = (double)result->items[i].n_right / (double)result->items[i].n_samples;
    result->accuracy = metrics_mean(values, n, &result->accuracy_error);
    if (result->pass_at) {
        for (size_t i = 0; i < n; i++)
            values[i] = metrics_pass_at((size_t)result->items[i].n_samples,
                                        (size_t)result->items[i].n_right, result->pass_at);
        result->pass_at_k = metrics_mean(values, n, &result->pass_at_k_error);
    }
    free(values);
}

static int compare_hashes(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Of choices where there are any: words behind an answer would tell equal ones apart. NaN when out
 * of memory. */
static double one_answer_share(const struct item_record *items, size_t n)
{
    uint64_t *hashes = malloc(n * sizeof *hashes);
    size_t most = 0;

    if (!hashes)
        return NAN;
    for (size_t i = 0; i < n; i++)
        hashes[i] = items[i].predicted >= 0 ? (uint64_t)items[i].predicted
                    : items[i].answer       ? hash_text(items[i].answer)
                                            : 0;
    qsort(hashes, n, sizeof *hashes, compare_hashes);
    for (size_t i = 0, first = 0; i < n; i++) {
        if (hashes[i] != hashes[first])
            first = i;
        most = i - first + 1 > most ? i - first + 1 : most;
    }
    free(hashes);
    return (double)most / (double)n;
}

void evaluate_metrics(const struct task *task, struct task_result *result)
{
    size_t n = result->n_items, n_correct = 0, n_normalised = 0, n_scored = 0;
    const struct item_record *items = result->items;
    double probability = 0;

    for (size_t i = 0; i < n; i++) {
        n_correct += items[i].correct;
        n_normalised += items[i].correct_normalised;
        if (items[i].n_choices) {
            probability += metrics_softmax_at(items[i].logprobs, items[i].n_choices,
                                              (size_t)items[i].gold_index);
            n_scored++;
        }
    }
    result->accuracy = (double)n_correct / (double)n;
    result->one_answer_share = one_answer_share(items, n);
    result->accuracy_error = metrics_standard_error(n_correct, n);
    if (result->samples > 1 || result->pass_at)
        compute_samples(result);
    if ((task->score == TASK_CHOICE && task->normalise != NORMALISE_NONE) ||
        (task->score == TASK_GENERATE && task->grader == GRADE_SQL)) {
        result->accuracy_normalised = (double)n_normalised / (double)n;
        result->accuracy_normalised_error = metrics_standard_error(n_normalised, n);
    }
    if (n_scored == n)
        result->gold_probability = probability / (double)n;
    if (!task->positive || n_scored < n)
        return;
    int32_t positive = strcmp(task->positive, task->choices.items[1]) == 0;
    double *scores = malloc(n * sizeof *scores);
    unsigned char *classes = malloc(n);
    for (size_t i = 0; scores && classes && i < n; i++) {
        scores[i] = items[i].logprobs[positive] - items[i].logprobs[!positive];
        classes[i] = items[i].gold_index == positive;
    }
    if (scores && classes)
        result->auc = metrics_auc(scores, classes, n);
    free(scores);
    free(classes);
}

struct task_result evaluate_no_result(void)
{
    return (struct task_result){.accuracy = NAN,
                                .accuracy_error = NAN,
                                .accuracy_normalised = NAN,
                                .accuracy_normalised_error = NAN,
                                .auc = NAN,
                                .gold_probability = NAN,
                                .pass_at_k = NAN,
                                .one_answer_share = NAN,
                                .pass_at_k_error = NAN};
}

void task_result_free(struct task_result *result)
{
    if (!result)
        return;
    for (size_t i = 0; result->items && i < result->n_items; i++)
        item_record_free(&result->items[i]);
    free(result->items);
    free(result->name);
    free(result->dataset);
    free(result->split);
    free(result->scoring);
    free(result->task_text);
    adapt_record_free(result->adapt);
    memset(result, 0, sizeof *result);
}

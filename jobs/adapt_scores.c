#include "jobs/adapt_scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/gather.h"
#include "eval/metrics.h"
#include "mpi/error.h"
#include "mpi/signals.h"

/* Beside the experts. */
enum { ROW_BASE, ROW_FIRST_EXPERT, EXTRA_ROWS = 3 };

static int make_rows(struct adapt_scoring *s)
{
    const struct expert_set *set = s->f->set;

    s->n_rows = set->n + EXTRA_ROWS;
    s->scores = calloc(s->n_rows, sizeof *s->scores);
    if (!s->scores)
        return error_set("out of memory");
    s->scores[ROW_BASE].name = "base";
    for (size_t k = 0; k < set->n; k++)
        s->scores[ROW_FIRST_EXPERT + k].name = set->names[k];
    s->scores[s->n_rows - 2].name = "uniform";
    s->scores[s->n_rows - 1].name = "mixture";
    return 0;
}

/* The base model and single experts are mixtures too. */
static int wear_row(void *context, size_t row)
{
    struct adapt_scoring *s = context;
    struct fewshot *f = s->f;
    const struct fewshot_options *o = &f->options;
    const size_t n = f->set->n;
    double alpha[EXPERT_SET_MAX] = {0};

    if (row < ROW_FIRST_EXPERT + n) {
        if (row >= ROW_FIRST_EXPERT)
            alpha[row - ROW_FIRST_EXPERT] = 1;
        return fewshot_wear(f, s->form, EXPERT_MIX_DELTA, EXPERT_PER_EXPERT, alpha);
    }
    if (row == s->n_rows - 1) {
        fewshot_coefficients(f, f->search.best, f->alpha);
        return fewshot_wear(f, s->form, o->mix, o->per, f->alpha);
    }
    for (size_t k = 0; k < n; k++)
        alpha[k] = 1 / (double)n;
    return fewshot_wear(f, s->form, o->mix, EXPERT_PER_EXPERT, alpha);
}

static int score_on_shots(struct adapt_scoring *s, bool *interrupted)
{
    struct population population = s->population;
    struct population_result result;
    const size_t n = population.shots->n;
    size_t *which = malloc((n + 1) * sizeof *which);
    double *right = malloc((n + 1) * sizeof *right);
    int status = comm_agree(s->comm, which && right ? 0 : error_set("no memory for %zu shots", n));

    if (status != 0)
        goto done;
    for (size_t i = 0; i < n; i++)
        which[i] = i;
    population.objective = POPULATION_ACCURACY;
    population.wear = wear_row;
    population.progress = NULL;
    population.context = s;
    status = population_evaluate(&population, s->n_rows, which, n, 0, &result);
    if (status != 0)
        goto done;
    *interrupted = result.interrupted;
    for (size_t r = 0; r < s->n_rows; r++) {
        for (size_t i = 0; i < n; i++)
            right[i] = result.outcomes[r * n + i].right;
        s->scores[r].shots = metrics_mean(right, n, &s->scores[r].shots_error);
        if (n < 2)
            s->scores[r].shots_error = NAN;
    }
    population_result_free(&result);
done:
    free(which);
    free(right);
    return status;
}

/* Takes the shots out of a result, on rank 0. */
static int drop_shots(const struct adapt_scoring *s, struct task_result *result)
{
    size_t n = 0;

    for (size_t i = 0; i < result->n_items; i++) {
        if (shots_has_row(s->population.shots, result->items[i].index))
            item_record_free(&result->items[i]);
        else
            result->items[n++] = result->items[i];
    }
    result->n_items = n;
    if (n == 0)
        return error_set("task %s: all items of the split \"%s\" that are tested are shots",
                         s->task->name, result->split);
    evaluate_metrics(s->task, result);
    return 0;
}

static int score_on_test(struct adapt_scoring *s, size_t row)
{
    const struct shots_run *run = &s->population.run;
    const char *shot_split = s->population.shots->items.task.split;
    struct task_result result;
    double numbers[3];
    int status = 0;

    if (comm_agree(s->comm, wear_row(s, row)) != 0 ||
        evaluate_task(s->comm, run->model, run->tokenizer, s->chat, s->task, &s->evaluate,
                      &result) != 0)
        return -1;
    if (s->comm->rank == 0 && strcmp(s->evaluate.split, shot_split) == 0)
        status = drop_shots(s, &result);
    numbers[0] = result.accuracy;
    numbers[1] = result.accuracy_error;
    numbers[2] = (double)result.n_items;
    task_result_free(&result);
    if (s->comm->size > 1)
        MPI_Bcast(numbers, 3, MPI_DOUBLE, 0, s->comm->handle);
    s->scores[row].test = numbers[0];
    s->scores[row].test_error = numbers[2] < 2 ? (double)NAN : numbers[1];
    s->n_test = (size_t)numbers[2];
    return comm_agree(s->comm, status);
}

int adapt_score_all(struct adapt_scoring *s, bool *interrupted)
{
    *interrupted = false;
    if (comm_agree(s->comm, make_rows(s)) != 0 || score_on_shots(s, interrupted) != 0)
        return -1;
    for (size_t r = 0; r < s->n_rows; r++) {
        s->scores[r].test = s->scores[r].test_error = NAN;
        int stop = signals_pending();
        if (s->comm->size > 1)
            MPI_Allreduce(MPI_IN_PLACE, &stop, 1, MPI_INT, MPI_MAX, s->comm->handle);
        *interrupted = *interrupted || stop;
        if (!*interrupted && s->test && score_on_test(s, r) != 0)
            return -1;
    }
    return 0;
}

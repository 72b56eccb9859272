#include "eval/given.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/gather.h"
#include "eval/items.h"
#include "eval/jsonl.h"
#include "mpi/clock.h"
#include "mpi/error.h"

struct given {
    const struct given_options *options;
    struct items items;
    struct task_item *all;       /* [items.n] */
    size_t *by_id;               /* [items.n] places in all, sorted by id */
    struct item_record *records; /* [items.n], n_samples 0: no answer yet */
};

static int compare_ids(const void *a, const void *b, void *context)
{
    const struct task_item *items = context;
    return strcmp(items[*(const size_t *)a].id, items[*(const size_t *)b].id);
}

static int open_items(struct given *g, const struct task *task)
{
    const struct items_options options = {.data_root = g->options->data_root,
                                          .split = g->options->split,
                                          .limit = g->options->limit,
                                          .max_new = -1};
    /* chat 0 and fewshot 0: prompts are for the record alone */

    if (items_open(&g->items, task, NULL, &options))
        return -1;
    const size_t n = g->items.n;
    g->all = calloc(n, sizeof *g->all);
    g->by_id = calloc(n, sizeof *g->by_id);
    g->records = calloc(n, sizeof *g->records);
    if (!g->all || !g->by_id || !g->records)
        return error_set("out of memory");
    for (size_t i = 0; i < n; i++) {
        if (task_item_make(&g->items.task, &g->items.context, &g->items.data, i, &g->all[i]))
            return -1;
        g->by_id[i] = i;
    }
    qsort_r(g->by_id, n, sizeof *g->by_id, compare_ids, g->all);
    for (size_t i = 0; i + 1 < n; i++)
        if (strcmp(g->all[g->by_id[i]].id, g->all[g->by_id[i + 1]].id) == 0)
            return error_set("%s: the id \"%s\" is there twice", g->items.data.path,
                             g->all[g->by_id[i]].id);
    return 0;
}

/* SIZE_MAX: none. */
static size_t find_item(const struct given *g, const char *id)
{
    size_t low = 0, high = g->items.n;

    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = strcmp(g->all[g->by_id[middle]].id, id);
        if (order == 0)
            return g->by_id[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return SIZE_MAX;
}

static int begin_record(struct given *g, size_t place, const char *answer)
{
    const struct task_item *item = &g->all[place];
    struct item_record *record = &g->records[place];

    record->index = place;
    record->id = strdup(item->id);
    record->prompt = strdup(item->prompt);
    record->gold = strdup(item->gold);
    record->answer = strdup(answer);
    record->predicted = -1;
    record->gold_index = item->n_choices ? (int32_t)item->gold_index : -1;
    record->finish = FINISH_EOS;
    if (!record->id || !record->prompt || !record->gold || !record->answer)
        return error_set("out of memory");
    return 0;
}

/* "B" or the choice's text. */
static bool grade_choice(const struct task_item *item, const char *answer, int *predicted)
{
    *predicted = -1;
    for (size_t i = 0; i < item->n_choices && *predicted < 0; i++)
        if (grade_exact(answer, item->labels[i]) || grade_exact(answer, item->plain[i]))
            *predicted = (int)i;
    return *predicted >= 0 && (size_t)*predicted == item->gold_index;
}

/* second: the score beside it, where the grader has one; else the same. */
static void note(struct given *g, size_t place, bool first, bool correct, bool second)
{
    struct item_record *record = &g->records[place];

    record->n_right += correct;
    if (first) {
        record->correct = correct;
        record->correct_normalised = second;
    }
}

static int take(struct given *g, bool wait)
{
    struct sandbox_result result;

    while (g->options->sandbox && sandbox_next(g->options->sandbox, wait, &result)) {
        const bool broken = result.outcome == SANDBOX_BROKEN;
        if (broken)
            error_set("%s", result.output ? result.output : "out of memory");
        else
            note(g, result.id / 2, result.id % 2, result.outcome == SANDBOX_PASSED,
                 result.outcome == SANDBOX_PASSED);
        sandbox_result_free(&result);
        if (broken)
            return -1;
    }
    return 0;
}

static int grade_answer(struct given *g, const json_t *row)
{
    const struct task *task = &g->items.task;
    const json_t *name = json_object_get(row, "task_id"),
                 *text = json_object_get(row, "completion");
    int predicted, status = -1;

    if (!name)
        name = json_object_get(row, "id");
    if (!text)
        text = json_object_get(row, "answer");
    if (!json_is_string(name) && !json_is_integer(name))
        return error_set("\"id\" or \"task_id\" is missing");
    if (!json_is_string(text))
        return error_set("\"answer\" or \"completion\" is missing or no text");
    const char *answer = json_string_value(text);
    char *id = jsonl_scalar_text(name, "id");
    if (!id)
        return -1;
    const size_t place = find_item(g, id);
    if (place == SIZE_MAX) {
        status = g->options->limit ? 0
                                   : error_set("no item of task %s (split %s) has the id \"%.80s\"",
                                               task->name, task->split, id);
        goto done;
    }
    struct item_record *record = &g->records[place];
    const bool first = record->n_samples == 0;
    if (first && begin_record(g, place, answer))
        goto done;
    record->n_samples++;
    if (task->score == TASK_GENERATE && task->grader == GRADE_PYTHON_TESTS) {
        char *program = task_program(&g->all[place], answer);
        if (program && sandbox_submit(g->options->sandbox, program, 2 * place + first) == 0)
            status = take(g, false);
        free(program);
        goto done;
    }
    const bool correct = task->score == TASK_CHOICE
                             ? grade_choice(&g->all[place], answer, &predicted)
                             : task_grade(task, &g->all[place], answer, &predicted);
    /* Of SQL the second score is the logical form. */
    const bool sql = task->score == TASK_GENERATE && task->grader == GRADE_SQL;
    if (first)
        record->predicted = sql ? -1 : predicted;
    note(g, place, first, correct, sql ? predicted == 1 : correct);
    status = 0;
done:
    free(id);
    return status;
}

static int grade_row(void *context, const struct jsonl *reader, json_t *row)
{
    struct given *g = context;

    return grade_answer(g, row) ? error_prefix("%s:%zu", jsonl_name(reader), jsonl_line(reader))
                                : 0;
}

static int grade_rows(struct given *g, const char *path)
{
    int status = jsonl_each(jsonl_open(path), grade_row, g);

    if (status == 0)
        status = take(g, true);
    /* After a failure, nothing may be left in the sandbox for the next task. */
    for (struct sandbox_result left;
         status && g->options->sandbox && sandbox_next(g->options->sandbox, true, &left);)
        sandbox_result_free(&left);
    return status;
}

/* Moves the records that have answers into the result. */
static int make_result(struct given *g, const char *path, struct task_result *result,
                       size_t *n_missing)
{
    const struct task *task = &g->items.task;
    size_t n = 0, most = 0;

    for (size_t i = 0; i < g->items.n; i++) {
        struct item_record *record = &g->records[i];
        const size_t n_samples = (size_t)record->n_samples;
        if (n_samples && n_samples < g->options->pass_at)
            return error_set("%s: pass@%zu needs as many answers to each item, but \"%s\" has %zu",
                             path, g->options->pass_at, record->id, n_samples);
        most = n_samples > most ? n_samples : most;
        n += n_samples > 0;
    }
    if (n == 0)
        return error_set("%s: holds no answers to task %s", path, task->name);
    result->items = calloc(n, sizeof *result->items);
    if (!result->items)
        return error_set("out of memory");
    for (size_t i = 0; i < g->items.n; i++)
        if (g->records[i].n_samples) {
            result->items[result->n_items++] = g->records[i];
            memset(&g->records[i], 0, sizeof g->records[i]);
        }
    *n_missing = g->items.n - n;
    result->samples = most;
    result->pass_at = g->options->pass_at;
    result->name = strdup(task->name);
    result->dataset = strdup(task->dataset);
    result->split = strdup(task->split);
    result->scoring = strdup("given");
    if (asprintf(&result->task_text, "%s\n[run]\nsplit = %s\nlimit = %zu\ngrade = %s\n", task->text,
                 task->split, g->options->limit, path) < 0)
        result->task_text = NULL;
    if (!result->name || !result->dataset || !result->split || !result->scoring ||
        !result->task_text)
        return error_set("out of memory");
    evaluate_metrics(task, result);
    return 0;
}

int given_grade(const struct task *task, const char *path, const struct given_options *options,
                struct task_result *result, size_t *n_missing)
{
    struct given g = {.options = options};
    const double start = clock_seconds();
    int status = -1;

    *result = evaluate_no_result();
    if (task->score == TASK_GENERATE && task->grader == GRADE_PYTHON_TESTS && !options->sandbox)
        return error_set(
            "task %s: its answers are programs, and there is no sandbox to run them in",
            task->name);
    if (open_items(&g, task) || grade_rows(&g, path) || make_result(&g, path, result, n_missing))
        goto done;
    result->seconds = clock_seconds() - start;
    result->tokens_per_second = 0;
    status = 0;
done:
    for (size_t i = 0; i < g.items.n; i++) {
        if (g.all)
            task_item_free(&g.all[i]);
        if (g.records)
            item_record_free(&g.records[i]);
    }
    free(g.all);
    free(g.by_id);
    free(g.records);
    items_close(&g.items);
    if (status)
        task_result_free(result);
    return status;
}

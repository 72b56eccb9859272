#include "eval/shots.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/metrics.h"
#include "model/rng.h"
#include "mpi/error.h"

enum { STREAM_SHOTS = (1 << 30) + 1 }; /* apart from items' and few-shot examples' */

/* ---- encoding ---------------------------------------------------------------------
 */

static int encode_target(struct shot *shot, const struct items *items,
                         const struct tokenizer *tokenizer, int flags)
{
    char *target =
        task_target(&items->task, &items->context, &items->data, shot->item.index, &shot->item);
    const int status = target ? items_encode_pair(tokenizer, shot->item.prompt, target, flags,
                                                  &shot->target, &shot->n_target)
                              : -1;
    free(target);
    return status;
}

static int make_shot(struct shot *shot, const struct items *items,
                     const struct tokenizer *tokenizer, const struct model_config *config,
                     size_t row, bool targets)
{
    struct task_item *item = &shot->item;

    if (task_item_make(&items->task, &items->context, &items->data, row, item) != 0)
        return -1;
    const int flags = item->chat ? TOKENIZER_SPECIAL : TOKENIZER_SPECIAL | TOKENIZER_ADD_BOS;
    if (items->task.score == TASK_GENERATE) {
        if (items_encode(tokenizer, item, &shot->prompt) != 0 ||
            items_check_fit(&shot->prompt, config, &items->task, true) != 0)
            return -1;
        return targets && (encode_target(shot, items, tokenizer, flags) != 0 ||
                           items_check_fit(&shot->target, config, &items->task, false) != 0)
                   ? -1
                   : 0;
    }
    shot->choices = calloc(item->n_choices, sizeof *shot->choices);
    shot->n_scored = calloc(item->n_choices, sizeof *shot->n_scored);
    if (!shot->choices || !shot->n_scored)
        return error_set("out of memory");
    for (size_t i = 0; i < item->n_choices; i++)
        if (items_encode_choice(tokenizer, &items->task, item, i, &shot->choices[i],
                                &shot->n_scored[i]) != 0 ||
            items_check_fit(&shot->choices[i], config, &items->task, false) != 0)
            return -1;
    return 0;
}

int shots_open(struct shots *shots, const struct task *task, const struct chat_format *chat,
               const struct tokenizer *tokenizer, const struct model_config *config,
               const struct shots_options *options)
{
    size_t *rows = NULL;
    int status = -1;

    *shots = (struct shots){0};
    if (items_open(&shots->items, task, chat, &options->items) != 0)
        return -1;
    const struct items *items = &shots->items;
    if (options->n == 0 || options->n > items->n) {
        error_set("task %s: %zu shots are asked for, but the split \"%s\" has %zu items",
                  task->name, options->n, items->task.split, items->n);
        goto done;
    }
    rows = malloc(items->n * sizeof *rows);
    shots->all = calloc(options->n, sizeof *shots->all);
    if (!rows || !shots->all) {
        error_set("out of memory");
        goto done;
    }
    rng_order(options->seed, STREAM_SHOTS, rows, items->n, options->n);
    for (size_t i = 0; i < options->n; i++) {
        shots->n = i + 1;
        if (make_shot(&shots->all[i], items, tokenizer, config, rows[i], options->targets) != 0) {
            error_prefix("task %s: %s:%zu", task->name, items->data.path,
                         items->data.lines[rows[i]]);
            goto done;
        }
    }
    status = 0;
done:
    free(rows);
    return status;
}

void shots_free(struct shots *shots)
{
    for (size_t i = 0; i < shots->n; i++) {
        struct shot *shot = &shots->all[i];
        for (size_t j = 0; shot->choices && j < shot->item.n_choices; j++)
            tokens_free(&shot->choices[j]);
        free(shot->choices);
        free(shot->n_scored);
        tokens_free(&shot->prompt);
        tokens_free(&shot->target);
        task_item_free(&shot->item);
    }
    free(shots->all);
    items_close(&shots->items);
    *shots = (struct shots){0};
}

bool shots_has_row(const struct shots *shots, size_t row)
{
    for (size_t i = 0; i < shots->n; i++)
        if (shots->all[i].item.index == row)
            return true;
    return false;
}

/* ---- running -----------------------------------------------------------------------------------
 */

enum part { PART_ANSWER, PART_CHOICE, PART_TARGET };

/* One request. */
struct part_of {
    size_t shot; /* index into which[] */
    enum part part;
    size_t number; /* of the answer or choice */
    bool right;    /* an answer's grade */
    double confidence;
};

struct work {
    const struct shots *shots;
    const struct shots_run *run;
    const size_t *which;
    struct part_of *parts;
    size_t n_parts, next;
    double *choice_sums; /* [n, TASK_MAX_LIST] */
    struct shot_outcome *outcomes;
};

static const struct shot *shot_at(const struct work *work, size_t i)
{
    return &work->shots->all[work->which[i]];
}

static int list_parts(struct work *work, size_t n)
{
    const bool generates = work->shots->items.task.score == TASK_GENERATE;
    size_t most = 0;

    for (size_t i = 0; i < n; i++)
        most += generates ? work->run->samples + 1 : shot_at(work, i)->item.n_choices;
    work->parts = malloc((most + 1) * sizeof *work->parts);
    work->choice_sums = calloc(n * TASK_MAX_LIST + 1, sizeof *work->choice_sums);
    if (!work->parts || !work->choice_sums)
        return error_set("out of memory");
    for (size_t i = 0; i < n; i++) {
        const size_t n_answers =
            generates && work->run->what & SHOTS_ANSWERS ? work->run->samples : 0;
        for (size_t j = 0; !generates && j < shot_at(work, i)->item.n_choices; j++)
            work->parts[work->n_parts++] =
                (struct part_of){.shot = i, .part = PART_CHOICE, .number = j};
        for (size_t j = 0; j < n_answers; j++)
            work->parts[work->n_parts++] =
                (struct part_of){.shot = i, .part = PART_ANSWER, .number = j};
        if (generates && work->run->what & SHOTS_TARGETS)
            work->parts[work->n_parts++] =
                (struct part_of){.shot = i, .part = PART_TARGET, .number = 0};
    }
    return 0;
}

static bool next_request(void *context, struct request *request)
{
    struct work *work = context;

    if (work->next == work->n_parts)
        return false;
    struct part_of *part = &work->parts[work->next++];
    const struct shot *shot = shot_at(work, part->shot);
    const struct task *task = &work->shots->items.task;
    const struct tokens *tokens = part->part == PART_CHOICE   ? &shot->choices[part->number]
                                  : part->part == PART_TARGET ? &shot->target
                                                              : &shot->prompt;
    *request = (struct request){.tokens = tokens->ids, .n_tokens = tokens->n, .user = part};
    if (part->part != PART_ANSWER) {
        request->n_scored =
            part->part == PART_CHOICE ? shot->n_scored[part->number] : shot->n_target;
        return true;
    }
    request->max_new = task->max_new;
    request->sampling = work->run->sampling;
    request->stream = shot->item.index + ((uint64_t)part->number << 40);
    request->stops = (const char *const *)task->stops.items;
    request->n_stops = task->stops.n_items;
    return true;
}

static int take_grades(struct work *work)
{
    struct sandbox_result result;
    int status = 0;

    while (work->run->sandbox && sandbox_next(work->run->sandbox, true, &result)) {
        if (result.outcome == SANDBOX_BROKEN)
            status = error_set("%s", result.output ? result.output : "out of memory");
        else if (result.outcome == SANDBOX_PASSED)
            work->parts[result.id].right = true;
        sandbox_result_free(&result);
    }
    return status;
}

static int grade(struct work *work, struct part_of *part, const struct response *response)
{
    const struct task *task = &work->shots->items.task;
    const struct task_item *item = &shot_at(work, part->shot)->item;
    char *answer = strndup(response->text ? response->text : "", response->n_text);
    int predicted, status = 0;

    part->confidence = response->mean_logprob;
    if (!answer)
        return error_set("out of memory");
    if (task->grader == GRADE_PYTHON_TESTS) {
        const size_t id = (size_t)(part - work->parts);
        char *program = task_program(item, answer);
        status = program ? sandbox_submit(work->run->sandbox, program, id) : -1;
        free(program);
    } else if (task_grade(task, item, answer, &predicted)) {
        part->right = true;
    }
    free(answer);
    return status;
}

static int request_done(void *context, const struct request *request,
                        const struct response *response)
{
    struct work *work = context;
    struct part_of *part = request->user;
    double sum = 0;

    if (part->part == PART_ANSWER)
        return grade(work, part, response);
    for (size_t i = 0; i < request->n_scored; i++)
        sum += (double)response->logprobs[i];
    if (part->part == PART_TARGET)
        work->outcomes[part->shot].likelihood = sum / (double)request->n_scored;
    else
        work->choice_sums[part->shot * TASK_MAX_LIST + part->number] = sum;
    return 0;
}

/* Of tasks that choose: what evaluate.h's accuracy counts. Choices without numbers are all wrong.
 */
static void judge_choices(struct work *work, size_t i)
{
    const struct shot *shot = shot_at(work, i);
    const double *sums = work->choice_sums + i * TASK_MAX_LIST;
    const size_t gold = shot->item.gold_index;
    struct shot_outcome *o = &work->outcomes[i];

    bool finite = true;

    for (size_t c = 0; c < shot->item.n_choices; c++)
        finite = finite && isfinite(sums[c]);
    o->right = finite && metrics_argmax(sums, NULL, shot->item.n_choices) == gold;
    o->confidence = o->right > 0 ? sums[gold] / (double)shot->n_scored[gold] : 0;
    if (work->run->what & SHOTS_TARGETS) {
        double most = sums[0], total = 0;
        for (size_t c = 1; c < shot->item.n_choices; c++)
            most = fmax(most, sums[c]);
        for (size_t c = 0; c < shot->item.n_choices; c++)
            total += exp(sums[c] - most);
        o->likelihood = sums[gold] - most - log(total);
    }
}

/* In the order of parts, however the sandbox has finished them. */
static void sum_up(struct work *work, size_t n)
{
    for (size_t p = 0; p < work->n_parts; p++)
        if (work->parts[p].right && isfinite(work->parts[p].confidence)) {
            struct shot_outcome *o = &work->outcomes[work->parts[p].shot];
            o->right += 1;
            o->confidence += work->parts[p].confidence;
        }
    for (size_t i = 0; i < n; i++) {
        struct shot_outcome *o = &work->outcomes[i];
        if (work->shots->items.task.score != TASK_GENERATE) {
            judge_choices(work, i);
            continue;
        }
        o->confidence /= o->right > 0 ? o->right : 1;
        o->right /= (double)work->run->samples;
    }
}

int shots_run(const struct shots *shots, const struct shots_run *run, const size_t *which, size_t n,
              struct shot_outcome *outcomes)
{
    struct work work = {.shots = shots, .run = run, .which = which, .outcomes = outcomes};
    const struct scheduler_client client = {
        .next = next_request, .done = request_done, .context = &work};
    struct scheduler_stats stats;
    int status = -1;

    memset(outcomes, 0, n * sizeof *outcomes);
    if (list_parts(&work, n) != 0)
        goto done;
    status = run->run(run->model, run->tokenizer, &run->scheduler, &client, &stats);
    /* Also after a failure: nothing may be left in the sandbox. */
    if (take_grades(&work) != 0)
        status = -1;
    if (status == 0)
        sum_up(&work, n);
done:
    free(work.parts);
    free(work.choice_sums);
    return status;
}

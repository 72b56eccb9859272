#include "eval/evaluate_work.h"

#include <stdlib.h>
#include <string.h>

#include "eval/gather.h"
#include "eval/metrics.h"
#include "mpi/clock.h"
#include "mpi/error.h"

/* One request of an item. */
struct slot {
    struct evaluate_job *job;
    size_t choice; /* SIZE_MAX: a generated answer, number `sample` */
    size_t sample;
    struct tokens tokens;
    size_t n_scored;
};

/* An item under way. */
struct evaluate_job {
    struct evaluate_job *next, *previous;
    struct task_item item;
    struct item_record record;
    size_t n_slots, n_emitted, n_left;
    struct slot *slots;
    char **answers; /* [n_samples] */
};

/* ---- items to requests -------------------------------------------------------------------------
 */

static void job_free(struct evaluate_work *work, struct evaluate_job *job)
{
    if (!job)
        return;
    if (job->previous)
        job->previous->next = job->next;
    else if (work->jobs == job)
        work->jobs = job->next;
    if (job->next)
        job->next->previous = job->previous;
    if (work->current == job)
        work->current = NULL;
    for (size_t i = 0; i < job->n_slots; i++)
        tokens_free(&job->slots[i].tokens);
    for (size_t i = 0; job->answers && i < work->n_samples; i++)
        free(job->answers[i]);
    free(job->answers);
    free(job->slots);
    task_item_free(&job->item);
    item_record_free(&job->record);
    free(job);
}

static int encode_job(struct evaluate_work *work, struct evaluate_job *job)
{
    const struct task *task = work->task;
    struct task_item *item = &job->item;
    struct item_record *record = &job->record;

    for (size_t i = 0; i < record->n_choices; i++) {
        struct slot *slot = &job->slots[job->n_slots++];
        slot->job = job;
        slot->choice = i;
        if (items_encode_choice(work->tokenizer, task, item, i, &slot->tokens, &slot->n_scored) ||
            items_check_fit(&slot->tokens, work->config, task, false))
            return -1;
        record->choice_tokens[i] = (int64_t)slot->n_scored;
        if (i == 0)
            record->n_prompt_tokens = (int64_t)(slot->tokens.n - slot->n_scored);
    }
    for (size_t i = 0; task->score == TASK_GENERATE && i < work->n_samples; i++) {
        struct slot *slot = &job->slots[job->n_slots++];
        slot->job = job;
        slot->choice = SIZE_MAX;
        slot->sample = i;
        if (items_encode(work->tokenizer, item, &slot->tokens) ||
            items_check_fit(&slot->tokens, work->config, task, true))
            return -1;
        record->n_prompt_tokens = (int64_t)slot->tokens.n;
    }
    return 0;
}

static struct evaluate_job *job_make(struct evaluate_work *work, size_t index)
{
    struct evaluate_job *job = calloc(1, sizeof *job);

    if (!job) {
        error_set("out of memory");
        return NULL;
    }
    job->next = work->jobs;
    if (work->jobs)
        work->jobs->previous = job;
    work->jobs = job;
    struct task_item *item = &job->item;
    struct item_record *record = &job->record;
    if (task_item_make(work->task, &work->items.context, &work->items.data, index, item))
        goto fail;
    job->slots = calloc(item->n_choices + work->n_samples, sizeof *job->slots);
    job->answers = calloc(work->n_samples, sizeof *job->answers);
    if (!job->slots || !job->answers) {
        error_set("out of memory");
        goto fail;
    }
    record->index = index;
    if (work->task->score == TASK_CHOICE || !work->options->answers_only)
        record->n_choices = item->n_choices;
    record->predicted = -1;
    record->gold_index = item->n_choices ? (int32_t)item->gold_index : -1;
    record->finish = FINISH_SCORED;
    record->domain = record->expert = -1;
    if (record->n_choices) {
        record->logprobs = calloc(item->n_choices, sizeof *record->logprobs);
        record->greedy = calloc(item->n_choices, sizeof *record->greedy);
        record->choice_tokens = calloc(item->n_choices, sizeof *record->choice_tokens);
        if (!record->logprobs || !record->greedy || !record->choice_tokens) {
            error_set("out of memory");
            goto fail;
        }
    }
    if (encode_job(work, job)) {
        error_prefix("task %s: %s:%zu", work->task->name, work->items.data.path,
                     work->items.data.lines[index]);
        goto fail;
    }
    job->n_left = job->n_slots;
    return job;
fail:
    job_free(work, job);
    return NULL;
}

/* The next item of this rank; false when the group has no more. */
static bool draw_item(struct evaluate_work *work, size_t *index)
{
    if (work->next_item == work->end_item) {
        int64_t block = comm_queue_next(&work->queue);
        size_t n_blocks = (work->n_here + work->block - 1) / work->block;
        if (block < 0 || (uint64_t)block >= n_blocks) {
            work->n_started = work->first + work->n_here;
            return false;
        }
        work->next_item = (size_t)block * work->block;
        work->end_item = work->next_item + work->block;
        if (work->end_item > work->n_here)
            work->end_item = work->n_here;
        work->n_started = work->first + work->end_item;
    }
    const size_t place = work->first + work->next_item++;
    *index = work->order ? work->order[place] : place;
    return true;
}

/* Before hours of work: can this rank's part of the items be made? Encoding is left out where the
 * text is too short for too many tokens (a token takes a byte at least; a few stand at the ends).
 */
int evaluate_work_check(struct evaluate_work *work)
{
    enum { SPARE = 64 };
    const size_t step = (size_t)work->comm->size, first = (size_t)work->comm->rank;

    for (size_t i = first; i < work->n_items; i += step) {
        struct task_item item = {0};
        if (task_item_make(work->task, &work->items.context, &work->items.data, i, &item))
            return -1;
        size_t n_prompt = strlen(item.prompt), longest = 0;
        for (size_t j = 0; j < item.n_choices; j++)
            if (strlen(item.choices[j]) > longest)
                longest = strlen(item.choices[j]);
        task_item_free(&item);
        if (i != first &&
            (!work->config || n_prompt + longest + SPARE < work->config->max_positions))
            continue;
        struct evaluate_job *job = job_make(work, i);
        if (!job)
            return -1;
        job_free(work, job);
    }
    return 0;
}

bool evaluate_work_next(void *context, struct request *request)
{
    struct evaluate_work *work = context;
    size_t index;

    if (work->failure)
        return false;
    if (!work->current) {
        if (!draw_item(work, &index))
            return false;
        work->current = job_make(work, index);
        if (!work->current) {
            work->failure = strdup(error_message());
            return false;
        }
    }
    struct evaluate_job *job = work->current;
    struct slot *slot = &job->slots[job->n_emitted++];
    if (job->n_emitted == job->n_slots)
        work->current = NULL;
    memset(request, 0, sizeof *request);
    request->tokens = slot->tokens.ids;
    request->n_tokens = slot->tokens.n;
    request->n_scored = slot->n_scored;
    request->user = slot;
    /* The first sample's numbers are the same for any number of samples. */
    request->stream = job->item.index + ((uint64_t)slot->sample << 40);
    request->sampling = work->options->sampling;
    request->sampling.seed = work->options->seed;
    if (slot->choice == SIZE_MAX) {
        request->max_new = work->task->max_new;
        request->stops = (const char *const *)work->task->stops.items;
        request->n_stops = work->task->stops.n_items;
    }
    return true;
}

/* ---- answers to records ------------------------------------------------------------------------
 */

static double n_characters(const char *text)
{
    size_t n = 0;
    for (; *text; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return (double)n;
}

static void grade_choices(const struct task *task, const struct task_item *item,
                          struct item_record *record)
{
    double lengths[TASK_MAX_LIST];

    for (size_t i = 0; i < item->n_choices; i++)
        lengths[i] = task->normalise == NORMALISE_CHARS    ? n_characters(item->plain[i])
                     : task->normalise == NORMALISE_BYTES  ? (double)strlen(item->plain[i])
                     : task->normalise == NORMALISE_TOKENS ? (double)record->choice_tokens[i]
                                                           : 1;
    size_t best = metrics_argmax(record->logprobs, NULL, item->n_choices);
    record->predicted = (int32_t)best;
    record->correct = best == item->gold_index;
    record->correct_normalised =
        metrics_argmax(record->logprobs, lengths, item->n_choices) == item->gold_index;
}

/* ---- grades, which programs give later ----------------------------------------------------------
 */

/* second: the score beside it, where the grader has one; else the same. */
static void note_grade(struct evaluate_work *work, struct item_record *record, size_t sample,
                       bool correct, bool second)
{
    record->n_right += correct;
    if (sample == 0) {
        record->correct = correct;
        record->correct_normalised = second;
        work->n_correct += correct;
    }
}

int evaluate_work_grade(struct evaluate_work *work, bool wait)
{
    struct sandbox_result result;

    while (work->options->sandbox && sandbox_next(work->options->sandbox, wait, &result)) {
        const bool broken = result.outcome == SANDBOX_BROKEN;
        if (broken)
            error_set("%s", result.output ? result.output : "out of memory");
        else
            note_grade(work, &work->records[result.id / work->n_samples],
                       result.id % work->n_samples, result.outcome == SANDBOX_PASSED,
                       result.outcome == SANDBOX_PASSED);
        sandbox_result_free(&result);
        if (broken)
            return -1;
    }
    return 0;
}

void evaluate_work_drop(const struct evaluate_work *work)
{
    struct sandbox_result result;

    while (work->options->sandbox && sandbox_next(work->options->sandbox, true, &result))
        sandbox_result_free(&result);
}

/* Grades the answers of a record that stands at its final place. */
static int grade_answers(struct evaluate_work *work, const struct evaluate_job *job, size_t place)
{
    struct item_record *record = &work->records[place];
    const bool sql = work->task->grader == GRADE_SQL;
    int predicted;

    for (size_t i = 0; i < work->n_samples; i++) {
        if (work->task->grader == GRADE_PYTHON_TESTS) {
            char *program = task_program(&job->item, job->answers[i]);
            const int rc = program ? sandbox_submit(work->options->sandbox, program,
                                                    place * work->n_samples + i)
                                   : -1;
            free(program);
            if (rc)
                return -1;
            continue;
        }
        const bool correct = task_grade(work->task, &job->item, job->answers[i], &predicted);
        if (i == 0)
            record->predicted = sql ? -1 : predicted;
        /* Of SQL the second score is the logical form. */
        note_grade(work, record, i, correct, sql ? predicted == 1 : correct);
    }
    return evaluate_work_grade(work, false);
}

static int finish_job(struct evaluate_work *work, struct evaluate_job *job)
{
    struct item_record *record = &job->record;

    if (work->task->score == TASK_CHOICE) {
        grade_choices(work->task, &job->item, record);
        record->answer = strdup(job->item.plain[record->predicted]);
        work->n_correct += record->correct;
    } else {
        record->n_samples = (int32_t)work->n_samples;
        record->answer = strdup(job->answers[0]);
    }
    if (work->n_records == work->capacity) {
        size_t capacity = work->capacity ? 2 * work->capacity : 64;
        struct item_record *records = realloc(work->records, capacity * sizeof *records);
        if (!records)
            return error_set("out of memory");
        work->records = records;
        work->capacity = capacity;
    }
    if (!record->answer)
        return error_set("out of memory");
    const size_t place = work->n_records++;
    work->records[place] = *record;
    memset(record, 0, sizeof *record);
    if (work->task->score == TASK_GENERATE && grade_answers(work, job, place))
        return -1;
    record = &work->records[place]; /* graders read the item: it gives its texts away last */
    record->id = job->item.id;
    record->prompt = job->item.prompt;
    record->gold = job->item.gold;
    job->item.id = job->item.prompt = job->item.gold = NULL;
    job_free(work, job);
    if (work->options->progress) {
        struct evaluate_progress progress = {work->task->name, work->n_started,
                                             work->n_items,    work->n_records,
                                             work->n_correct,  clock_seconds() - work->start};
        work->options->progress(work->options->progress_context, &progress);
    }
    return 0;
}

int evaluate_work_done(void *context, const struct request *request,
                       const struct response *response)
{
    struct evaluate_work *work = context;
    struct slot *slot = request->user;
    struct evaluate_job *job = slot->job;
    struct item_record *record = &job->record;

    if (slot->choice == SIZE_MAX) {
        char *answer = strndup(response->text ? response->text : "", response->n_text);
        if (!answer)
            return error_set("out of memory");
        job->answers[slot->sample] = answer;
        if (slot->sample == 0) {
            record->n_generated = (int64_t)response->n_ids;
            record->finish = (int32_t)response->finish;
        }
    } else {
        double sum = 0;
        bool greedy = true;
        for (size_t i = 0; i < slot->n_scored; i++) {
            sum += (double)response->logprobs[i];
            greedy = greedy && response->greedy[i];
        }
        record->logprobs[slot->choice] = sum;
        record->greedy[slot->choice] = greedy;
    }
    tokens_free(&slot->tokens);
    memset(&slot->tokens, 0, sizeof slot->tokens);
    return --job->n_left == 0 ? finish_job(work, job) : 0;
}

void evaluate_work_free(struct evaluate_work *work)
{
    while (work->jobs)
        job_free(work, work->jobs);
    for (size_t i = 0; i < work->n_records; i++)
        item_record_free(&work->records[i]);
    free(work->records);
    free(work->failure);
    free(work->order);
    items_close(&work->items);
}

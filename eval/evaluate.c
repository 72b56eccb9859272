#include "eval/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/gather.h"
#include "eval/items.h"
#include "eval/metrics.h"
#include "model/model.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum {
    MAX_BLOCK = 16,      /* items drawn from the queue at once, at most */
    BLOCKS_PER_RANK = 8, /* wanted, so that stealing evens out */
};

/* One request of an item. */
struct slot {
    struct job *job;
    size_t choice; /* SIZE_MAX: a generated answer, number `sample` */
    size_t sample;
    struct tokens tokens;
    size_t n_scored;
};

/* An item under way. */
struct job {
    struct job *next, *previous;
    struct task_item item;
    struct item_record record;
    size_t n_slots, n_emitted, n_left;
    struct slot *slots;
    char **answers; /* [n_samples] */
};

/* What the scheduler's callbacks share on this rank. */
struct work {
    const struct comm *comm;
    const struct task *task; /* items.task */
    const struct evaluate_options *options;
    const struct tokenizer *tokenizer;
    const struct model_config *config; /* NULL: sequences are not checked */
    struct items items;
    size_t n_samples;
    size_t n_items, block, n_started;
    size_t *order;              /* [n_items]: rows, group by group; NULL: as they come */
    size_t first, n_here;       /* of `order`: the group that is run */
    size_t next_item, end_item; /* of the group: this rank's block */
    struct comm_queue queue;
    struct job *jobs;    /* all under way */
    struct job *current; /* the one whose requests are being handed out */
    struct item_record *records;
    size_t n_records, capacity, n_correct;
    char *failure; /* what made next() give up */
    double start;
};

struct evaluate_options evaluate_defaults(void)
{
    return (struct evaluate_options){
        .scheduler = {.batch = 64, .chunk = 512, .share_prefix = true},
        .sampling = {.top_p = 1},
        .chat = -1,
        .fewshot = -1,
        .max_new = -1,
    };
}

/* ---- items to requests -------------------------------------------------------------------------
 */

static void job_free(struct work *work, struct job *job)
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

static int encode_job(struct work *work, struct job *job)
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

static struct job *job_make(struct work *work, size_t index)
{
    struct job *job = calloc(1, sizeof *job);

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
static bool draw_item(struct work *work, size_t *index)
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
static int check_items(struct work *work)
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
        struct job *job = job_make(work, i);
        if (!job)
            return -1;
        job_free(work, job);
    }
    return 0;
}

static bool next_request(void *context, struct request *request)
{
    struct work *work = context;
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
    struct job *job = work->current;
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
static void note_grade(struct work *work, struct item_record *record, size_t sample, bool correct,
                       bool second)
{
    record->n_right += correct;
    if (sample == 0) {
        record->correct = correct;
        record->correct_normalised = second;
        work->n_correct += correct;
    }
}

/* Takes what the sandbox has finished; with wait, until nothing is left there. */
static int take_grades(struct work *work, bool wait)
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

/* After a failure: nothing may be left for the next task. */
static void drop_grades(const struct work *work)
{
    struct sandbox_result result;

    while (work->options->sandbox && sandbox_next(work->options->sandbox, true, &result))
        sandbox_result_free(&result);
}

/* Grades the answers of a record that stands at its final place. */
static int grade_answers(struct work *work, const struct job *job, size_t place)
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
    return take_grades(work, false);
}

static int finish_job(struct work *work, struct job *job)
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

static int request_done(void *context, const struct request *request,
                        const struct response *response)
{
    struct work *work = context;
    struct slot *slot = request->user;
    struct job *job = slot->job;
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

/* ---- a run -------------------------------------------------------------------------------------
 */

static int prepare(struct work *work, const struct task *task, const struct chat_format *chat)
{
    const struct evaluate_options *options = work->options;
    const struct items_options items = {.data_root = options->data_root,
                                        .split = options->split,
                                        .system = options->system,
                                        .chat = options->chat,
                                        .fewshot = options->fewshot,
                                        .max_new = options->max_new,
                                        .limit = options->limit,
                                        .seed = options->seed,
                                        .data = options->data};

    work->n_samples = options->samples ? options->samples : 1;
    if (options->pass_at > work->n_samples)
        return error_set("pass@%zu needs as many samples, not %zu", options->pass_at,
                         work->n_samples);
    if (task->grader == GRADE_PYTHON_TESTS && task->score == TASK_GENERATE && !options->sandbox)
        return error_set(
            "task %s: its answers are programs, and there is no sandbox to run them in",
            task->name);
    if (items_open(&work->items, task, chat, &items))
        return -1;
    work->n_items = work->items.n;
    return 0;
}

static void work_free(struct work *work)
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

static int run_items(struct work *work, struct model *model, struct scheduler_stats *stats)
{
    struct scheduler_options scheduler = work->options->scheduler;
    struct scheduler_client client = {.next = next_request, .done = request_done, .context = work};
    size_t per_item = work->task->choices.n_items ? work->task->choices.n_items
                      : work->task->choices.field ? 4
                                                  : 0;

    per_item += work->task->score == TASK_GENERATE ? work->n_samples : 0;
    /* No rank fills its batch with what the others could begin at once. */
    size_t n_ranks = (size_t)work->comm->size;
    size_t share = (work->n_here + n_ranks - 1) / n_ranks * per_item;
    if (n_ranks > 1 && share < scheduler.batch)
        scheduler.batch = share;
    int status = work->options->run(model, work->tokenizer, &scheduler, &client, stats);
    if (work->failure)
        status = error_set("%s", work->failure);
    if (status == 0)
        status = take_grades(work, true);
    else
        drop_grades(work);
    if (status == 0 && work->jobs)
        status = error_set("task %s: the scheduler left an item unfinished", work->task->name);
    if (status) /* let the others find nothing more to do */
        comm_queue_stop(&work->queue);
    return status;
}

/* The items of [first, first + n) of the order. Collective. */
static int run_group(struct work *work, struct model *model, size_t first, size_t n,
                     struct scheduler_stats *stats)
{
    struct scheduler_stats mine = {0};
    int status = comm_agree(work->comm, comm_queue_create(work->comm, &work->queue));

    work->first = first;
    work->n_here = n;
    work->next_item = work->end_item = 0;
    work->block = n / ((size_t)work->comm->size * BLOCKS_PER_RANK);
    work->block = work->block < 1 ? 1 : work->block > MAX_BLOCK ? MAX_BLOCK : work->block;
    if (status == 0)
        status = comm_agree(work->comm, run_items(work, model, &mine));
    comm_queue_free(&work->queue);
    stats->prompt_tokens += mine.prompt_tokens;
    stats->computed_tokens += mine.computed_tokens;
    stats->generated_tokens += mine.generated_tokens;
    return status;
}

/* One group after the other, each behind its begin(). Collective. */
static int run_groups(struct work *work, struct model *model, struct scheduler_stats *stats)
{
    const struct evaluate_groups *groups = work->options->groups;
    size_t n = 0;
    int status = 0;

    if (!groups)
        return run_group(work, model, 0, work->n_items, stats);
    work->order = malloc(work->n_items * sizeof *work->order);
    if (comm_agree(work->comm, work->order ? 0 : error_set("out of memory")) != 0)
        return -1;
    for (size_t g = 0; status == 0 && g < groups->n; g++) {
        const size_t first = n;
        for (size_t i = 0; i < work->n_items; i++)
            if ((size_t)groups->of_row[i] == g)
                work->order[n++] = i;
        if (n == first)
            continue;
        status = comm_agree(work->comm, groups->begin(groups->context, g));
        if (status == 0)
            status = run_group(work, model, first, n - first, stats);
    }
    if (status == 0 && n < work->n_items)
        status =
            error_set("task %s: an item is in none of the %zu groups", work->task->name, groups->n);
    return status;
}

/* Sums costs over the ranks and gives every rank the metrics. Collective. */
static void share_metrics(const struct comm *comm, const struct scheduler_stats *stats,
                          double seconds, struct task_result *result)
{
    double metrics[8] = {result->accuracy,
                         result->accuracy_error,
                         result->accuracy_normalised,
                         result->accuracy_normalised_error,
                         result->auc,
                         result->gold_probability,
                         result->pass_at_k,
                         result->pass_at_k_error};
    uint64_t counts[3] = {stats->prompt_tokens, stats->computed_tokens, stats->generated_tokens};

    if (comm->size > 1) {
        MPI_Bcast(metrics, 8, MPI_DOUBLE, 0, comm->handle);
        MPI_Allreduce(MPI_IN_PLACE, counts, 3, MPI_UINT64_T, MPI_SUM, comm->handle);
        MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, comm->handle);
    }
    result->accuracy = metrics[0];
    result->accuracy_error = metrics[1];
    result->accuracy_normalised = metrics[2];
    result->accuracy_normalised_error = metrics[3];
    result->auc = metrics[4];
    result->gold_probability = metrics[5];
    result->pass_at_k = metrics[6];
    result->pass_at_k_error = metrics[7];
    result->prompt_tokens = counts[0];
    result->computed_tokens = counts[1];
    result->generated_tokens = counts[2];
    result->seconds = seconds;
    result->tokens_per_second = seconds > 0 ? (double)(counts[0] + counts[2]) / seconds : 0;
}

static int describe_run(const struct work *work, struct task_result *result)
{
    const struct task *task = work->task;
    size_t size = 0;
    FILE *out = open_memstream(&result->task_text, &size);

    if (out) {
        fprintf(out,
                "%s\n[run]\nsplit = %s\nlimit = %zu\nchat = %s\nfewshot = %zu\nmax_new = %zu\n"
                "seed = %llu\n",
                task->text, task->split, work->options->limit, task->chat ? "yes" : "no",
                task->fewshot, task->max_new, (unsigned long long)work->options->seed);
        if (work->n_samples > 1)
            fprintf(out, "samples = %zu\ntemperature = %g\n", work->n_samples,
                    (double)work->options->sampling.temperature);
        if (work->options->system)
            fprintf(out, "system = \"%s\"\n", work->options->system);
    }
    result->name = strdup(task->name);
    result->dataset = strdup(task->dataset);
    result->split = strdup(task->split);
    result->scoring = strdup(task->score == TASK_CHOICE ? "choice" : "generate");
    if (!out || fclose(out) || !result->name || !result->dataset || !result->split ||
        !result->scoring)
        return error_set("out of memory");
    return 0;
}

int evaluate_task(const struct comm *comm, struct model *model, const struct tokenizer *tokenizer,
                  const struct chat_format *chat, const struct task *task,
                  const struct evaluate_options *options, struct task_result *result)
{
    struct work work = {.comm = comm,
                        .options = options,
                        .tokenizer = tokenizer,
                        .config = model ? model_get_config(model) : NULL};
    struct scheduler_stats stats = {0};

    *result = evaluate_no_result();
    work.task = &work.items.task;
    int status = comm_agree(comm, prepare(&work, task, chat));
    if (status == 0)
        status = items_compare_ranks(comm, &work.items);
    if (status == 0)
        status = comm_agree(comm, check_items(&work));
    if (status || options->check_only)
        goto done;
    work.start = clock_seconds();
    status = run_groups(&work, model, &stats);
    double seconds = clock_seconds() - work.start;
    if (status)
        goto done;
    result->n_items = work.n_items;
    result->samples = work.n_samples;
    result->pass_at = work.task->score == TASK_GENERATE ? options->pass_at : 0;
    status = gather_records(comm, work.records, work.n_records, work.n_items, &result->items);
    work.n_records = 0;
    if (status)
        goto done;
    if (comm->rank == 0)
        evaluate_metrics(work.task, result);
    share_metrics(comm, &stats, seconds, result);
    status = comm_agree(comm, describe_run(&work, result));
done:
    work_free(&work);
    if (status)
        task_result_free(result);
    return status;
}

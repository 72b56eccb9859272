#include "eval/evaluate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/evaluate_work.h"
#include "eval/gather.h"
#include "model/model.h"
#include "mpi/clock.h"
#include "mpi/error.h"

enum {
    MAX_BLOCK = 16,      /* items drawn from the queue at once, at most */
    BLOCKS_PER_RANK = 8, /* wanted, so that stealing evens out */
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

static int prepare(struct evaluate_work *work, const struct task *task,
                   const struct chat_format *chat)
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

static int run_items(struct evaluate_work *work, struct model *model, struct scheduler_stats *stats)
{
    struct scheduler_options scheduler = work->options->scheduler;
    struct scheduler_client client = {
        .next = evaluate_work_next, .done = evaluate_work_done, .context = work};
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
        status = evaluate_work_grade(work, true);
    else
        evaluate_work_drop(work);
    if (status == 0 && work->jobs)
        status = error_set("task %s: the scheduler left an item unfinished", work->task->name);
    if (status) /* let the others find nothing more to do */
        comm_queue_stop(&work->queue);
    return status;
}

/* The items of [first, first + n) of the order. Collective. */
static int run_group(struct evaluate_work *work, struct model *model, size_t first, size_t n,
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
static int run_groups(struct evaluate_work *work, struct model *model,
                      struct scheduler_stats *stats)
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
    double metrics[9] = {result->accuracy,
                         result->accuracy_error,
                         result->accuracy_normalised,
                         result->accuracy_normalised_error,
                         result->auc,
                         result->gold_probability,
                         result->pass_at_k,
                         result->pass_at_k_error,
                         result->one_answer_share};
    uint64_t counts[3] = {stats->prompt_tokens, stats->computed_tokens, stats->generated_tokens};

    if (comm->size > 1) {
        MPI_Bcast(metrics, 9, MPI_DOUBLE, 0, comm->handle);
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
    result->one_answer_share = metrics[8];
    result->prompt_tokens = counts[0];
    result->computed_tokens = counts[1];
    result->generated_tokens = counts[2];
    result->seconds = seconds;
    result->tokens_per_second = seconds > 0 ? (double)(counts[0] + counts[2]) / seconds : 0;
}

static int describe_run(const struct evaluate_work *work, struct task_result *result)
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
    struct evaluate_work work = {.comm = comm,
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
        status = comm_agree(comm, evaluate_work_check(&work));
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
    evaluate_work_free(&work);
    if (status)
        task_result_free(result);
    return status;
}

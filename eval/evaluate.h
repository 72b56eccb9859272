#ifndef T2_EVAL_EVALUATE_H
#define T2_EVAL_EVALUATE_H
/* Runs a task on a model over all ranks: items are handed out in blocks from a shared queue (work
 * stealing), scored or generated through the scheduler, graded, and gathered on rank 0 in item
 * order. An item's record depends on the item and the settings alone, never on the batch, the rank
 * that ran it or what ran beside it.
 *
 * Log-likelihoods follow lm-eval's `hf` model (items_encode_pair). Stands on task.h,
 * model/scheduler.h, mpi/comm.h. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "eval/sandbox.h"
#include "eval/task.h"
#include "model/chat.h"
#include "model/scheduler.h"
#include "model/tokenizer.h"
#include "mpi/comm.h"

/* The type of scheduler_run(). */
typedef int scheduler_run_function(struct model *model, const struct tokenizer *tokenizer,
                                   const struct scheduler_options *options,
                                   const struct scheduler_client *client,
                                   struct scheduler_stats *stats);

struct evaluate_progress {
    const char *task;
    size_t n_started; /* items handed out, all ranks */
    size_t n_items;
    size_t n_done, n_correct; /* this rank's finished items */
    double seconds;
};

/* Items that are run one group after the other, so that the model may change between them. The
 * records are those of one run, in item order. */
struct evaluate_groups {
    size_t n;
    const int32_t *of_row; /* [items]: 0 .. n - 1 */
    /* Before a group's items, on every rank: sets the model up (model_attach). 0, or -1 with
     * error_set. A group without items is passed over. */
    int (*begin)(void *context, size_t group);
    void *context;
};

struct evaluate_options {
    scheduler_run_function *run; /* scheduler_run */
    struct scheduler_options scheduler;
    struct sampling sampling; /* of generated answers; zeroed: greedy */
    uint64_t seed;            /* few-shot choice and sampling streams */
    size_t limit;             /* first items only; 0: all */
    const char *split;        /* NULL: the task's */
    /* Folder of the data sets (dataset_root). A data set that is not there is looked for in ../data
     * beside the task file. */
    const char *data_root;
    int chat;                   /* 1 chat, 0 raw, -1 as the task says */
    const char *system;         /* NULL: as the task or template says */
    int64_t fewshot, max_new;   /* -1: as the task says */
    size_t samples;             /* answers per item; 0: one */
    size_t pass_at;             /* k of pass@k, at most samples; 0: none */
    struct sandbox *sandbox;    /* for tasks with GRADE_PYTHON_TESTS; may be NULL for all others */
    const struct dataset *data; /* in place of the task's rows; NULL: those */
    const struct evaluate_groups *groups; /* NULL: all items in one */
    bool answers_only; /* generated answers alone, without log-likelihoods of choices beside them */
    bool check_only;   /* Can the task be run on this model? Makes every item, computes none. */
    /* Called on every rank now and then (after a finished item); may be NULL. */
    void (*progress)(void *context, const struct evaluate_progress *progress);
    void *progress_context;
};
struct evaluate_options evaluate_defaults(void);

/* One item's outcome: nothing here depends on timing or ranks. */
struct item_record {
    size_t index;
    char *id, *prompt, *answer, *gold; /* answer: generated text, or the chosen choice */
    bool correct, correct_normalised;  /* of the first sample */
    int32_t n_samples, n_right;        /* generated answers; 0: the item is about choices */
    int32_t predicted, gold_index;     /* choices; -1: none */
    size_t n_choices;
    double *logprobs;       /* [n_choices] sums over the continuation's tokens, or NULL */
    bool *greedy;           /* [n_choices] continuation would come out of greedy decoding */
    int64_t *choice_tokens; /* [n_choices] tokens in each continuation */
    int64_t n_prompt_tokens, n_generated;
    int32_t finish;         /* enum finish of the generated answer; FINISH_SCORED otherwise */
    int32_t domain, expert; /* of adaptation (eval/adapt.h); -1: none, the base model */
};

struct adapt_record;

struct task_result {
    char *name, *dataset, *split, *scoring; /* scoring: "choice" or "generate" */
    char *task_text;           /* what the task file and the options made of it, as INI text */
    struct item_record *items; /* rank 0 only: [n_items] */
    size_t n_items;
    /* Metrics, the same on all ranks. NaN: does not apply. */
    double accuracy, accuracy_error;
    double accuracy_normalised, accuracy_normalised_error;
    double auc, gold_probability;
    size_t samples, pass_at; /* as the options; accuracy is the mean over samples */
    double pass_at_k, pass_at_k_error;
    double
        one_answer_share; /* items with the most frequent answer; near 1: it says the same always */
    /* Cost, summed over ranks; seconds is the longest rank's. */
    size_t prompt_tokens, computed_tokens, generated_tokens;
    double seconds, tokens_per_second;
    struct adapt_record *adapt; /* eval/adapt.h; NULL: one model for all items */
};

/* Collective. `tokenizer` and `chat` (CHAT_NONE: raw) belong to the model. 0 on all ranks, or -1 on
 * all with error_set. */
int evaluate_task(const struct comm *comm, struct model *model, const struct tokenizer *tokenizer,
                  const struct chat_format *chat, const struct task *task,
                  const struct evaluate_options *options, struct task_result *result);
/* Fills the metrics of a result with items [n_items >= 1]; what does not apply must be NaN. */
void evaluate_metrics(const struct task *task, struct task_result *result);
/* A result without items, its metrics NaN. */
struct task_result evaluate_no_result(void);
void task_result_free(struct task_result *result);

#endif

#ifndef T2_EVAL_ITEMS_H
#define T2_EVAL_ITEMS_H
/* A task's items as one run sees them: the rows of the split, the few-shot examples, the folder
 * where the data lie, and what the run's options change in the task. What evaluation and training
 * make their prompts from. Stands on task.h and dataset.h. */
#include <stddef.h>
#include <stdint.h>

#include "eval/dataset.h"
#include "eval/task.h"
#include "model/chat.h"
#include "model/config.h"
#include "model/tokenizer.h"
#include "mpi/comm.h"

/* What a run may change; zeros and -1 mean: as the task says. */
struct items_options {
    const char *data_root; /* folder of the data sets (dataset_root). A data set that is not there
                              is looked for in ../data beside the task file */
    const char *split;     /* NULL: the task's */
    const char *system;    /* NULL: as the task or template says */
    int chat;              /* 1 chat, 0 raw, -1 */
    int64_t fewshot, max_new;   /* -1; max_new 0 as well */
    size_t limit;               /* first items only; 0: all */
    uint64_t seed;              /* chooses the few-shot examples */
    const struct dataset *data; /* in place of the split's rows (must outlive items), or NULL */
};

struct items {
    struct task task; /* with the options applied; borrows the task's texts, not to be freed */
    struct dataset data, examples;
    bool borrowed; /* data is the options' */
    size_t *example_rows;
    char *data_root;
    struct task_context context;
    size_t n;
};

/* task, chat and options' texts must outlive items. 0, or -1 with error_set; items_close in any
 * case. */
int items_open(struct items *items, const struct task *task, const struct chat_format *chat,
               const struct items_options *options);
void items_close(struct items *items);

/* Have all ranks read the same task and rows? Collective. 0, or -1 on all with error_set. */
int items_compare_ranks(const struct comm *comm, const struct items *items);

/* A digest of the rows that the run can see: the first n of the split, and those that its few-shot
 * examples come from. Data files that were changed there have another. */
uint64_t items_digest(const struct items *items);

/* The item's prompt as tokens, appended to *out (BOS as the tokenizer has it, unless the text is a
 * rendered chat). */
int items_encode(const struct tokenizer *tokenizer, const struct task_item *item,
                 struct tokens *out);

/* context and continuation to one token sequence in *out (empty); *n_scored is the continuation's
 * part. As lm-eval's `hf` model does it: blanks at the context's end move to the continuation, both
 * are encoded together and cut at the length of the encoded context. */
int items_encode_pair(const struct tokenizer *tokenizer, const char *context,
                      const char *continuation, int flags, struct tokens *out, size_t *n_scored);

/* The item's prompt and its choice number `choice` as such a pair, or, of a task that scores the
 * prompt, the choice and the prompt. */
int items_encode_choice(const struct tokenizer *tokenizer, const struct task *task,
                        const struct task_item *item, size_t choice, struct tokens *out,
                        size_t *n_scored);

/* Can the model (NULL: any) take these tokens, with an answer behind them if it generates? -1 with
 * error_set, while the item's place in the data is known. */
int items_check_fit(const struct tokens *tokens, const struct model_config *config,
                    const struct task *task, bool generates);

#endif

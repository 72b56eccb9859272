#ifndef T2_EVAL_CLS_H
#define T2_EVAL_CLS_H
/* The task `cls`: which domain does a prompt belong to? Its items are the training prompts of other
 * tasks, one of five for `test` (so 4:1, as in the paper), one of ten of the others for `valid`,
 * the rest for `train`: a cut by the prompt's hash, whatever the seed. Each domain has as many
 * items as the smallest, drawn and shuffled by the domains' seed. Stands on domains.h, items.h. */
#include <jansson.h>

#include "eval/dataset.h"
#include "eval/domains.h"
#include "eval/task.h"

enum { CLS_MAX_TASKS = 32, CLS_MAX_ITEMS = 2000 /* of a domain in a split */ };

struct cls; /* of a task: what its rows are made from */

/* Makes the task, which takes over sources [n] (also on failure). chat: ask in chat form. A task
 * that is in no domain is an error. 0, or -1 with error_set. */
int cls_task(const struct domains *domains, struct task *sources, size_t n, bool chat,
             struct task *task);
/* Accepts NULL. */
void cls_free(struct cls *cls);

/* The rows of a split. data_root: as items_options'. 0, or -1 with error_set; dataset_free in any
 * case. */
int cls_load(struct dataset *data, const struct cls *cls, const char *data_root, const char *split);

/* Appends a row {"id", "prompt", "domain"} to data (zeroed before the first; capacity: 0 then). 0,
 * or -1 with error_set. */
int cls_add_row(struct dataset *data, size_t *capacity, const char *id, const char *prompt,
                const char *domain);
/* Appends the items of a task's split, first `limit` only (0: all), in their order: the prompts as
 * a user would type them, without chat format, system message and examples. 0, or -1. */
int cls_add_items(struct dataset *data, size_t *capacity, const struct task *task,
                  const char *data_root, const char *split, size_t limit, const char *domain);

#endif

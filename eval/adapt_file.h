#ifndef T2_EVAL_ADAPT_FILE_H
#define T2_EVAL_ADAPT_FILE_H
/* What adaptation did, in a results file (docs/formats.md) and for people. */
#include <hdf5.h>
#include <stdio.h>

#include "eval/adapt.h"

/* The group `adapt` of a task's group, and the columns `domain` and `expert` of its items (names;
 * "base": no expert). 0, or -1 with error_set. */
int adapt_file_put(hid_t task, hid_t items, const struct task_result *result);

/* The confusion matrix of all tasks, rows: what is right, columns: what was chosen, as the group
 * `adapt` of the file. Nothing where no task had a pass one. */
int adapt_file_put_confusion(hid_t file, const struct task_result *results, size_t n_results);

/* The share of prompts that were sorted into the task's own domain; NaN where that
 * is not known. */
double adapt_share_right(const struct adapt_record *record);

/* Prints one line on a task: what was chosen, how much of it is right, the passes' times. */
void adapt_print(const struct adapt_record *record, FILE *out);
/* The confusion matrix; nothing where no task had a pass one. */
void adapt_print_confusion(const struct task_result *results, size_t n_results, FILE *out);
/* The same from a file, for t2 inspect. */
void adapt_file_describe(hid_t file, FILE *out);

#endif

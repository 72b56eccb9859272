#ifndef T2_JOBS_EVAL_TABLE_H
#define T2_JOBS_EVAL_TABLE_H
/* t2 eval with several adapters: which they are, and the one table that compares them: what each
 * scores, what it cost to train (as its file says), and its speed both ways. Local to a rank. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "eval/evaluate.h"

enum { EVAL_TABLE_MOST = 64 };

/* "a.h5,base,dir": the names in order; "base" is the model without an adapter. */
struct eval_table {
    char *text; /* the names lie in it */
    const char *names[EVAL_TABLE_MOST];
    size_t n_names;
    struct eval_table_row {
        const char *name;
        size_t n_parameters; /* trained */
        double *scores;      /* [n_tasks] */
        /* Of training: seconds a step, resident memory of a rank; NAN where the file does not
         * say. */
        double step_seconds, peak_bytes;
        double speeds[2]; /* tokens/s on the first task: merged, unmerged; NAN: not possible */
    } rows[EVAL_TABLE_MOST];
    size_t n_rows, n_tasks;
    char **tasks; /* [n_tasks] */
};

/* with_out: eval_table_out will be asked, so names that give one path are refused. 0, or -1 with
 * error_set. free in any case. */
int eval_table_begin(struct eval_table *table, const char *adapters, bool with_out);
void eval_table_free(struct eval_table *table);
/* The path that --adapter means for names[i]: NULL for the base model. */
const char *eval_table_adapter(const struct eval_table *table, size_t i);
/* "out.h5" and "dir/lora.h5" or "lora/" -> "out.lora.h5"; malloc'ed, NULL with error_set. */
char *eval_table_out(const struct eval_table *table, size_t i, const char *out);

/* The results of names[i], the same tasks each time, and the way they came about. 0, or -1 when out
 * of memory. */
int eval_table_add(struct eval_table *table, size_t i, size_t n_parameters,
                   const struct task_result *results, size_t n_results, bool unmerged);
/* The speed of the adapter that was added last, the other way, on the first task. */
void eval_table_add_speed(struct eval_table *table, const struct task_result *result,
                          bool unmerged);
/* Adapter, parameters trained, MB of them in f32, score a task, cost of training, speeds. */
void eval_table_print(const struct eval_table *table, FILE *file);

#endif

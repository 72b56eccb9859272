#ifndef T2_EVAL_RESULTS_H
#define T2_EVAL_RESULTS_H
/* The results file of `t2 eval`: HDF5, one group a task, readable with h5py and h5dump. Written
 * under a temporary name beside the target, synced, renamed: a failure leaves an earlier file as it
 * was.
 *
 *   /                    attributes: what made the file (struct run_info)
 *   /tasks/NAME          attributes: metrics and settings
 *   /mixture             of runs with a mixture of t2 adapt: its coefficients (mixture_file.h)
 *   /tasks/NAME/items    one dataset a column, one row an item, in item order: id, prompt, answer,
 *                        gold (UTF-8 strings), correct, correct_normalised, n_samples, n_right (of
 * all samples; answer, correct and finish are the first one's), predicted, gold_index, logprobs
 * [items, choices] (NaN where an item has fewer), choice_tokens, greedy, n_prompt_tokens,
 * n_generated, finish, index
 *
 * Columns hold nothing that depends on timing or ranks. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "eval/evaluate.h"
#include "eval/mixture_file.h"

enum { RESULTS_FORMAT_VERSION = 1 };

struct run_info {
    const char *version;      /* of t2 */
    const char *command_line; /* */
    const char *options;      /* INI text from options_record() */
    const char *model_path, *architecture;
    int64_t n_parameters;
    const char *model_sha256; /* over the tensors; "" if not computed */
    const char *dtype, *device, *isa, *kernel_order, *cpu;
    const char *chat_format;
    int ranks, threads;
    uint64_t seed;
    const char *started; /* ISO 8601, UTC */
    double seconds;
    const struct mixture *mixture; /* of the adapter, where it is one (mixture_file.h); or NULL */
};

/* Rank 0 alone calls it. 0, or -1 with error_set. */
int results_write(const char *path, const struct run_info *info, const struct task_result *results,
                  size_t n_results);

/* Prints for people what a results file holds (t2 inspect). -1 with error_set if it is not one or
 * is newer than this program. */
int results_describe(const char *path, FILE *out);

/* True if the file is an HDF5 file (by its signature). */
int results_is_hdf5(const char *path);

#endif

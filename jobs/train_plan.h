#ifndef T2_JOBS_TRAIN_PLAN_H
#define T2_JOBS_TRAIN_PLAN_H
/* What a training takes, for t2 train --plan: parameters, memory of a rank, bytes of gradient, and
 * a model of a step's time on many ranks. Plain arithmetic on a model's shape, but for the rate of
 * this machine's products, which is measured in half a second. Memory is what a rank takes at most;
 * the data set comes on top (tests/bench/train_memory.sh). */
#include <stddef.h>
#include <stdio.h>

#include "model/adapter_kinds.h"
#include "model/config.h"
#include "model/modules.h"
#include "solver/cpu.h"
#include "solver/kernels.h"
#include "train/trainer.h"

struct train_plan {
    size_t n_parameters, gradient_bytes;
    size_t weight_bytes;     /* of the whole model in its element type, for comparison */
    size_t base_bytes;       /* matrices that stay as they are, transposes and head included */
    size_t factored_bytes;   /* the adapter's matrices, both orientations */
    size_t activation_bytes; /* of max_rows tokens, their keys and values included */
    size_t other_bytes;      /* logits, the cache of rollouts, optimizer, program */
    double flops_per_token;  /* forward and backward */
};
/* What is trained. */
struct train_plan_adapter {
    const struct adapter_kind *kind;
    const struct adapter_settings *settings;
    const struct module *modules;
    size_t n_modules;
};
/* tokens: of a prompt and its answers. */
void train_plan_make(struct train_plan *plan, const struct model_config *config,
                     const struct train_plan_adapter *adapter, const struct train_options *options,
                     enum element element, size_t tokens);

/* Seconds of a step on n_ranks ranks of `flops` per second each; tokens: of a prompt and its
 * answers. *reduce gets the seconds of the reduction over a network of `bytes` per second. */
double train_plan_step(const struct train_plan *plan, const struct train_options *options,
                       size_t tokens, double flops, double bytes, size_t n_ranks, double *reduce);

/* flop/s of this machine's products on so many threads. 0 when it cannot be measured. */
double train_plan_measure(enum element element, enum isa isa, int n_threads);

/* For --plan. tokens: of a prompt and its answers. */
int train_plan_print(const struct model_config *config, const struct train_plan_adapter *adapter,
                     const struct train_options *options, enum element element, int n_threads,
                     size_t tokens, FILE *file);

#endif

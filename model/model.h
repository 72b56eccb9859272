#ifndef T2_MODEL_MODEL_H
#define T2_MODEL_MODEL_H
/* A loaded decoder: packed weights and constants, ready for forward.h. */
#include <stdbool.h>
#include <stddef.h>

#include "model/checkpoint.h"
#include "solver/cpu.h"
#include "solver/device.h"
#include "solver/kernels.h"
#include "solver/memory.h"

struct model_options {
    enum element element; /* weights and product inputs: f32 (the exact mode) or bf16 */
    enum isa isa;         /* checked to be available; of what the host does */
    int n_threads;
    struct device device; /* a wish; of a model that is there: what it came to */
};

struct model;

/* Packs all weights for the matrix engine, giving the file's pages back as it goes. NaN or Inf in a
 * weight is an error that names file, tensor and element. The checkpoint may be freed afterwards.
 * NULL with error_set. The caller frees. */
struct model *model_load(const struct checkpoint *ck, const struct model_options *options);
void model_free(struct model *model);

struct merge;
/* The same with the merged weights of an expert (merge.h; NULL: as they are). */
struct model *model_load_merged(const struct checkpoint *ck, const struct model_options *options,
                                const struct merge *merge);

const struct model_config *model_get_config(const struct model *model);
const struct model_options *model_get_options(const struct model *model);
/* The memory of its engine (engine.h). */
const struct memory *model_memory(const struct model *model);
size_t model_n_parameters(const struct model *model);
/* What the bits of its sums depend on (struct engine's `order`). */
const char *model_order(const struct model *model);

struct adapter;

/* From now on forward_run, and with it the scheduler, runs the model with this adapter and these
 * parameters (adapter.h; NULL parameters: the base model). Nothing is copied: both must outlive
 * their use; when the values have changed, attach again. adapter NULL: none. Where an adapter
 * has taken the place of base weights (SVF), the model runs with it alone; without it, forward_run
 * fails with a sentence. Call between passes, not while a scheduler runs. */
void model_attach(struct model *model, const struct adapter *adapter, const float *parameters);

#endif

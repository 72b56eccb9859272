#ifndef T2_MODEL_MODEL_H
#define T2_MODEL_MODEL_H
/* A loaded decoder: packed weights and constants, ready for forward.h. */
#include <stdbool.h>
#include <stddef.h>

#include "model/checkpoint.h"
#include "solver/cpu.h"
#include "solver/kernels.h"

struct model_options {
    enum element element; /* weights and product inputs: f32 (the exact mode) or bf16 */
    enum isa isa;         /* checked to be available */
    int n_threads;
};

struct model;

/* Packs all weights for the matrix engine, giving the file's pages back as it goes. NaN or Inf in a
 * weight is an error that names file, tensor and element. The checkpoint may be freed afterwards.
 * NULL with error_set. The caller frees. */
struct model *model_load(const struct checkpoint *ck, const struct model_options *options);
void model_free(struct model *model);

const struct model_config *model_get_config(const struct model *model);
const struct model_options *model_get_options(const struct model *model);
size_t model_n_parameters(const struct model *model);

#endif

#ifndef T2_MODEL_MERGE_H
#define T2_MODEL_MERGE_H
/* An adapter's merged weights. SVF: W' = U diag(s z) V^T, made from W, the small factor and z
 * (DESIGN.md section 4; solver/svf.h has the formula), by the f32 product kernels, whose bits
 * depend neither on the instruction set nor on the threads; where z = 1, W' is W. LoRA, DoRA,
 * (IA)^3: merge_rows.c.
 *
 * In bf16 the correction is smaller than the grid, so to the rounded weight it is added with
 * stochastic rounding: unbiased, and a weight whose correction is 0 keeps its bits. The random
 * numbers are keyed by (seed, tensor's name, element): the same on all ranks. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/adapter_kinds.h"
#include "model/factors.h"
#include "model/tensor.h"
#include "solver/cpu.h"
#include "solver/kernels.h"
#include "solver/team.h"

/* Are the pieces of a matrix of an expert of LoRA, DoRA or (IA)^3 there, in their shapes? 0, or -1
 * with error_set. */
int merge_rows_check(const struct expert *expert, const struct adapter_kind *kind,
                     const struct adapter_settings *settings, const struct expert_matrix *m);

struct merge;

/* expert: of a kind that can be merged; it and the factors (for kinds that need them, else NULL)
 * belong to the model and outlive the merge. NULL with error_set (an unknown kind; a matrix without
 * factors or of another shape). */
struct merge *merge_create(const struct expert *expert, struct factors *factors, enum isa isa,
                           uint64_t seed);
void merge_free(struct merge *merge);

/* Does the expert change this tensor (a projection's weights; for (IA)^3 its bias)? */
bool merge_wants(const struct merge *merge, const struct tensor *t);

/* weights f32 [n_rows, n_columns], all of the tensor's, become W'; with bf16 every changed one is a
 * bf16 number. 0, or -1 with error_set. One call at a time. */
int merge_apply(const struct merge *merge, const struct tensor *t, float *weights,
                enum element element, struct team *team);

#endif

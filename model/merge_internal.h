#ifndef T2_MODEL_MERGE_INTERNAL_H
#define T2_MODEL_MERGE_INTERNAL_H
/* Between merge.c (SVF, and what all kinds share) and merge_rows.c (kinds whose W' comes row by
 * row). */
#include <math.h>

#include "model/adapter_kinds.h"
#include "model/merge.h"
#include "model/rng.h"

struct merge {
    const struct expert *expert;
    struct factors *factors;
    const struct kernels *kernels;
    uint64_t seed;
    const struct adapter_kind *kind;
    struct adapter_settings settings;
};

/* How corrections are added to a tensor's weights. */
struct merge_rounding {
    bool round; /* to bf16's grid */
    uint64_t seed, stream;
};

/* 16 random bits for an element. */
static inline uint32_t merge_random(const struct merge_rounding *r, size_t element)
{
    const philox4x32_ctr_t out = rng_block(r->seed, r->stream, element / 8);
    return out.v[element % 8 / 2] >> 16 * (element % 2) & 0xffffu;
}

/* The weight plus its correction; where it is rounded, up with the probability that makes the mean
 * right. */
static inline float merge_sum(const struct merge_rounding *r, float weight, float correction,
                              size_t element)
{
    union {
        float f;
        uint32_t u;
    } v;

    if (!r->round)
        return weight + correction;
    if (correction == 0)
        return weight; /* rounded when it is packed, as the base model's */
    v.f = f32_from_bf16(bf16_from_f32(weight)) + correction;
    v.u = (v.u + merge_random(r, element)) & 0xffff0000u;
    return isfinite(v.f) ? v.f : weight;
}

/* ---- merge_rows.c: LoRA, DoRA, (IA)^3 ---- */

/* weights f32 [n_rows, n_columns] become W'. */
int merge_rows_apply(const struct merge *merge, const struct expert_matrix *m, float *weights,
                     const struct merge_rounding *rounding, struct team *team);
/* Does the kind change the projection's bias too? [n_rows] becomes that of W'. */
bool merge_changes_bias(const struct merge *merge, const struct expert_matrix *m);
void merge_bias(const struct merge *merge, const struct expert_matrix *m, float *bias,
                const struct merge_rounding *rounding);

#endif

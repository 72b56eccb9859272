#ifndef T2_SOLVER_ENGINE_CPU_INTERNAL_H
#define T2_SOLVER_ENGINE_CPU_INTERNAL_H
/* What the CPU engine's forward and backward halves share, so that a value that is made again
 * backward has the bits it had forward. For solver/ *_cpu.c alone. */
#include <math.h>
#include <string.h>

#include "solver/engine.h"

enum {
    /* Elements that are worth waking a thread for in operations of a few steps an element. */
    ENGINE_GRAIN = 1 << 13,
    /* Elements converted at a time, so that the f32 values stay in the first-level cache. */
    ENGINE_PART = 512,
    /* The head works through its columns in chunks of a fixed size, so that sums over the
     * vocabulary are cut in the same places on any number of threads. */
    HEAD_CHUNK = 1024,
};

/* Rows of this width that make a part of a job. */
static inline size_t rows_of(size_t width)
{
    return 1 + ENGINE_GRAIN / (width + 1);
}

/* x [at ..] = values [n], as elements */
static inline void to_elements(const struct engine *e, void *x, size_t at, const float *values,
                               size_t n)
{
    if (e->element == ELEMENT_F32)
        memcpy((float *)x + at, values, n * sizeof(float));
    else
        e->math->to_bf16((uint16_t *)x + at, values, n);
}

static inline void clear_elements(const struct engine *e, void *x, size_t at, size_t n)
{
    const size_t size = element_size(e->element);
    memset((char *)x + at * size, 0, n * size);
}

/* 1 / sqrt(mean x^2 + eps), RMSNorm's factor */
static inline float norm_factor(const struct engine *e, const float *x, size_t width, float eps)
{
    const float mean = e->math->sum_squares(x, width) / (float)width;
    return 1.0f / sqrtf(mean + eps);
}

/* x [head_dim] = a query or key `in`, normalised (norm not NULL) and rotated. */
static inline void rotate_head(const struct engine *e, const struct attention_layer *a, float *x,
                               const float *in, const float *norm, size_t position)
{
    const size_t d = a->head_dim, half = d / 2;
    if (norm)
        e->math->norm_scale(x, in, norm, norm_factor(e, in, d, a->norm_eps), d);
    else
        memcpy(x, in, d * sizeof *x);
    e->math->rope(x, a->rope_cos + position * half, a->rope_sin + position * half, half);
}

/* x [n <= ENGINE_MAX_HEAD_DIM], a key or value, as the cache holds it. */
static inline void round_as_cached(const struct engine *e, float *x, size_t n)
{
    uint16_t rounded[ENGINE_MAX_HEAD_DIM];
    if (e->kv_form == KV_F32)
        return;
    e->math->to_bf16(rounded, x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = f32_from_bf16(rounded[i]);
}

/* One chunk's part of a row's result: its largest logit, where, and the sum of exp(logit - max). */
struct head_part {
    float max, sum;
    int32_t argmax;
};

/* exps [n] = exp(logit - max) of the chunk at column `first` */
static inline void head_part_make(const struct engine *e, struct head_part *part, float *exps,
                                  const float *logits, size_t first, size_t n)
{
    part->max = e->math->max(logits, n);
    part->argmax = (int32_t)first;
    for (size_t i = 0; i < n; i++)
        if (logits[i] == part->max) {
            part->argmax = (int32_t)(first + i);
            break;
        }
    part->sum = e->math->exp_sum(exps, logits, part->max, n);
}

/* The row's largest logit, where, and the sum over the chunks of exp(logit - max). */
static inline double head_parts_sum(const struct head_part *parts, size_t n, float *max,
                                    int32_t *argmax)
{
    double sum = 0;
    *max = parts[0].max;
    *argmax = parts[0].argmax;
    for (size_t i = 1; i < n; i++)
        if (parts[i].max > *max) {
            *max = parts[i].max;
            *argmax = parts[i].argmax;
        }
    for (size_t i = 0; i < n; i++)
        sum += parts[i].sum * exp((double)parts[i].max - *max);
    return sum;
}

#endif

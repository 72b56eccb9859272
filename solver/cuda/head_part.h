#ifndef T2_SOLVER_CUDA_HEAD_PART_H
#define T2_SOLVER_CUDA_HEAD_PART_H
/* What head.cu and train_head.cu say of a row of logits, in the same bits, so that a token's
 * log-probability in training is the one that it was drawn with: parts of HEAD_CHUNK columns, by
 * blocks of gpu_row_threads(vocabulary), then all parts of a row. The chunks are the CPU's. */
#include "solver/cuda/element.h"

static const size_t HEAD_CHUNK = 1024;

/* One chunk's part of a row's result: its largest logit, where, and with e = exp(logit - max) the
 * sums of e and, for an entropy, of e (logit - max). */
struct head_part {
    float max, sum, moment;
    int32_t argmax;
};

/* A block's shared memory for one head_part_make at a time. */
struct head_shared {
    float values[GPU_BLOCK / GPU_WARP], sums[GPU_BLOCK / GPU_WARP], moments[GPU_BLOCK / GPU_WARP];
    int ats[GPU_BLOCK / GPU_WARP];
};

/* The larger value, and of equal ones the lower column. */
static __device__ __forceinline__ void take_larger(float *value, int *at, float other, int other_at)
{
    if (other > *value || (other == *value && other_at < *at)) {
        *value = other;
        *at = other_at;
    }
}

/* Of all threads of the block; free for another use after the next barrier. */
static __device__ __forceinline__ void block_largest(float *value, int *at, float *values, int *ats)
{
    const int warp = (int)(threadIdx.x / GPU_WARP), n_warps = (int)(blockDim.x / GPU_WARP);
    for (int bits = GPU_WARP / 2; bits > 0; bits /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, *value, bits);
        const int other_at = __shfl_xor_sync(0xffffffffu, *at, bits);
        take_larger(value, at, other, other_at);
    }
    if (threadIdx.x % GPU_WARP == 0) {
        values[warp] = *value;
        ats[warp] = *at;
    }
    __syncthreads();
    *value = values[0];
    *at = ats[0];
    for (int w = 1; w < n_warps; w++)
        take_larger(value, at, values[w], ats[w]);
}

/* The part of the chunk that begins at column `first` of a row of logits [vocab], in all threads.
 */
static __device__ __forceinline__ struct head_part head_part_make(const float *logits, size_t first,
                                                                  size_t vocab,
                                                                  struct head_shared *shared)
{
    const int n = vocab - first < HEAD_CHUNK ? (int)(vocab - first) : (int)HEAD_CHUNK;
    const float *row = logits + first;
    struct head_part part = {-INFINITY, 0, 0, 0x7fffffff};

    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        take_larger(&part.max, &part.argmax, row[i], (int)first + i);
    block_largest(&part.max, &part.argmax, shared->values, shared->ats);
    if (part.argmax >= (int)vocab)
        part.argmax = (int)first; /* all NaN: some column */
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        const float below = row[i] - part.max, e = gpu_exp(below);
        part.sum += e;
        part.moment += e * below;
    }
    part.sum = block_sum(part.sum, shared->sums);
    part.moment = block_sum(part.moment, shared->moments);
    return part;
}

/* The row's largest logit, where, and the sum over the chunks of exp(logit - max). */
static __device__ __forceinline__ double head_parts_sum(const struct head_part *parts, size_t n,
                                                        float *max, int32_t *argmax)
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
        sum += (double)parts[i].sum * (double)gpu_exp(parts[i].max - *max);
    return sum;
}

#endif

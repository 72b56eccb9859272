#ifndef T2_MODEL_RNG_H
#define T2_MODEL_RNG_H
/* Counter-based random numbers (Philox 4x32-10, Random123): a number is a function of its key and
 * counter, so the same on any rank, thread and batch. Salmon et al., SC'11. */
#include <Random123/philox.h>
#include <stddef.h>
#include <stdint.h>

/* 128 random bits for (seed; stream, index). */
static inline philox4x32_ctr_t rng_block(uint64_t seed, uint64_t stream, uint64_t index)
{
    const philox4x32_ctr_t counter = {
        {(uint32_t)stream, (uint32_t)(stream >> 32), (uint32_t)index, (uint32_t)(index >> 32)}};
    const philox4x32_key_t key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
    return philox4x32(counter, key);
}

/* A uniform number in [0, 1) with 24 bits, for (seed; stream, index). */
static inline float rng_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    return (float)(rng_block(seed, stream, index).v[0] >> 8) * 0x1p-24f;
}

/* A key for stream `index` of another key. */
static inline uint64_t rng_key(uint64_t key, uint64_t index)
{
    const philox4x32_ctr_t out = rng_block(key, index, 0x6b6579);
    return (uint64_t)out.v[0] | (uint64_t)out.v[1] << 32;
}

/* order [n] becomes 0 .. n - 1 of which the first n_first are drawn at random without replacement
 * (Fisher and Yates), for (seed; stream). n_first n: a random permutation. */
static inline void rng_order(uint64_t seed, uint64_t stream, size_t *order, size_t n,
                             size_t n_first)
{
    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = 0; i < n_first; i++) {
        const double u = (double)rng_uniform(seed, stream, i);
        const size_t j = i + (size_t)(u * (double)(n - i)), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

#endif

#ifndef T2_SOLVER_VECMATH_H
#define T2_SOLVER_VECMATH_H
/* The elementwise functions and reductions of a forward and backward pass over f32 vectors, once
 * per instruction set.
 *
 * All levels are compiled from one source (vecmath_kernels.inc), with fused multiply-adds only
 * where fmaf is written and with reductions in a stated order, so they give the same bits. Unlike
 * the product kernels they keep denormals. Not for anything that runs over a whole matrix.
 *
 * The order of a reduction over x[0..n): 64 partial sums from +0, sum l taking the elements
 * l, l + 64, l + 128, ..., first to last; then halves are added: l and l + 32, l and l + 16, ...,
 * 0 and 1. It depends on n alone.
 *
 * Inputs and outputs are the same array or do not overlap. Any alignment, any n. */
#include <stddef.h>
#include <stdint.h>

#include "solver/cpu.h"

struct vecmath {
    enum isa isa;

    /* y = e^x, within 1.5 units in the last place. 0 where e^x is below the smallest normal
     * number (x < -87.3365), +inf above 88.7228, NaN for NaN. */
    void (*exp)(float *y, const float *x, size_t n);
    /* The largest element; NaNs are passed over; -inf when there is none. */
    float (*max)(const float *x, size_t n);
    float (*sum)(const float *x, size_t n);
    /* sum of x * x, each square rounded before it is added */
    float (*sum_squares)(const float *x, size_t n);
    /* y = e^(x - shift); returns the sum of y */
    float (*exp_sum)(float *y, const float *x, float shift, size_t n);
    /* One step of an online softmax over 64 scores (Milakov and Gimelshein 2018): those at from ..
     * to - 1 times scale are x, the others masked. m' = max(m, x), s = e^(x - m'), masked 0, and
     * *l = *l c + sum of s with c = e^(m - m'), in the order above; *m = m'. Returns c, exactly 1
     * where m' = m or all are masked. */
    float (*softmax_step)(float *s, float scale, size_t from, size_t to, float *m, float *l);
    /* y = gate * sigmoid(gate) * up, as (gate / (1 + e^-gate)) * up */
    void (*silu_mul)(float *y, const float *gate, const float *up, size_t n);
    /* y = bf16(x), as bf16_from_f32 */
    void (*to_bf16)(uint16_t *y, const float *x, size_t n);
    /* y = y * a */
    void (*scale)(float *y, float a, size_t n);
    /* y = (x * a) * w, the last step of RMSNorm */
    void (*norm_scale)(float *y, const float *x, const float *w, float a, size_t n);
    /* Rotary embedding of one head in place: x [2 * half], cos and sin [half];
     * x[i] = x[i] cos[i] - x[i + half] sin[i],  x[i + half] = x[i + half] cos[i] + x[i] sin[i] */
    void (*rope)(float *x, const float *cos, const float *sin, size_t half);

    /* y = y + x */
    void (*add)(float *y, const float *x, size_t n);
    /* y = x - z */
    void (*subtract)(float *y, const float *x, const float *z, size_t n);
    /* y = x * z */
    void (*multiply)(float *y, const float *x, const float *z, size_t n);
    /* y = fma(x, z, y) */
    void (*multiply_add)(float *y, const float *x, const float *z, size_t n);
    /* sum of x * y, each product rounded before it is added */
    float (*dot)(const float *x, const float *y, size_t n);
    /* sum of (x * y) * z, rounded likewise */
    float (*dot3)(const float *x, const float *y, const float *z, size_t n);
    /* sum of y * (x - shift), rounded likewise: with y from exp_sum, an entropy's numerator */
    float (*moment)(const float *y, const float *x, float shift, size_t n);
    /* Backward of silu_mul: with s = sigmoid(gate),
     * dgate = dx * up * s (1 + gate (1 - s)),  dup = dx * gate * s */
    void (*silu_backward)(float *dgate, float *dup, const float *dx, const float *gate,
                          const float *up, size_t n);
    /* Backward of norm_scale and what made its a: dh += a (w dx - h c) */
    void (*norm_backward)(float *dh, const float *dx, const float *h, const float *w, float a,
                          float c, size_t n);
    /* y = (y - mean) * p * a: from the gradient of softmax's output to that of its input */
    void (*softmax_backward)(float *y, const float *p, float mean, float a, size_t n);
    /* For weights y and log ratios d = x - shift: sums[0] = sum of y d, sums[1] = sum of
     * y (d - 1 + e^-d), which has no cancellation near d = 0 (and takes d as -80 below it). */
    void (*ratio_sums)(float sums[2], const float *y, const float *x, float shift, size_t n);
    /* y = y * (a + b (x - shift)) */
    void (*ratio_scale)(float *y, const float *x, float shift, float a, float b, size_t n);
    /* y[i] = 0 or kept, by 16 random bits each: number i / 4 of hash.h's stream from `start`, its
     * bits 16 (i mod 4) and up; 0 where they are below limit */
    void (*drop_factors)(float *y, uint64_t start, uint32_t limit, float kept, size_t n);
    /* y = bf16(a) | bf16(b) << 16 */
    void (*pack_pairs)(uint32_t *y, const float *a, const float *b, size_t n);
    /* y[c * ldy + r] = x[r * ldx + c] for x [n_rows, n_columns]; no overlap */
    void (*transpose)(uint32_t *y, size_t ldy, const uint32_t *x, size_t ldx, size_t n_rows,
                      size_t n_columns);
};

/* The functions built for this level or, where it has none of its own, the nearest level below.
 * Never NULL. The caller has checked that the processor has the level. */
const struct vecmath *vecmath_find(enum isa isa);

#endif

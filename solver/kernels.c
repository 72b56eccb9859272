#include "solver/kernels.h"

#include <math.h>
#include <string.h>

/* The f32 order in plain C: one chain of fused multiply-adds. */
static void product_f32_plain(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                              const void *panels, size_t stride, size_t n_panels, size_t k,
                              bool accumulate)
{
    const float *rows = x, *w = panels;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t p = 0; p < n_panels; p++) {
            float sum[KERNEL_COLUMNS] = {0};
            for (size_t i = 0; i < k; i++)
                for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                    sum[c] =
                        fmaf(rows[r * ldx + i], w[p * stride + i * KERNEL_COLUMNS + c], sum[c]);
            float *out = y + r * ldy + p * KERNEL_COLUMNS;
            for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                out[c] = accumulate ? out[c] + sum[c] : sum[c];
        }
}

/* vdpbf16ps's order in plain C (denormals are not flushed here: inputs of this size do not occur).
 */
static void product_bf16_plain(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                               const void *panels, size_t stride, size_t n_panels, size_t k,
                               bool accumulate)
{
    const uint16_t *rows = x, *w = panels;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t p = 0; p < n_panels; p++) {
            float sum[KERNEL_COLUMNS] = {0};
            for (size_t i = 0; i < k; i += 2) {
                const float even = f32_from_bf16(rows[r * ldx + i]);
                const float odd = f32_from_bf16(rows[r * ldx + i + 1]);
                const uint16_t *pair = w + p * stride + i * KERNEL_COLUMNS;
                for (size_t c = 0; c < KERNEL_COLUMNS; c++) {
                    sum[c] = sum[c] + odd * f32_from_bf16(pair[2 * c + 1]);
                    sum[c] = sum[c] + even * f32_from_bf16(pair[2 * c]);
                }
            }
            float *out = y + r * ldy + p * KERNEL_COLUMNS;
            for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                out[c] = accumulate ? out[c] + sum[c] : sum[c];
        }
}

static const struct kernels f32_plain = {"f32/plain", ISA_PLAIN, ELEMENT_F32, product_f32_plain,
                                         "f32"};
static const struct kernels bf16_plain = {"bf16/plain", ISA_PLAIN, ELEMENT_BF16, product_bf16_plain,
                                          "dot2"};

const struct kernels *kernels_find(enum element element, enum isa isa)
{
    (void)isa;
    return element == ELEMENT_F32 ? &f32_plain : &bf16_plain;
}

const struct kernels *kernels_reference(const char *order)
{
    return strcmp(order, "f32") == 0 ? &f32_plain : &bf16_plain;
}

#include "solver/page_product.h"

#include <math.h>

#include "solver/page_product_internal.h"

static void product_f32_plain(float *y, size_t ldy, const float *x, size_t ldx, size_t n_rows,
                              const void *w, size_t pitch, size_t n_columns, size_t k,
                              const float *scales, const void *next, size_t next_bytes)
{
    const float *elements = w;
    (void)next;
    (void)next_bytes;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c0 = 0; c0 < n_columns; c0 += KERNEL_COLUMNS) {
            float sum[KERNEL_COLUMNS] = {0}, *out = y + r * ldy + c0;
            for (size_t i = 0; i < k; i++)
                for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                    sum[c] = fmaf(x[r * ldx + i], elements[i * pitch + c0 + c], sum[c]);
            for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                out[c] = scales ? out[c] * scales[r] + sum[c] : sum[c];
        }
}

static void product_bf16_plain(float *y, size_t ldy, const float *x, size_t ldx, size_t n_rows,
                               const void *w, size_t pitch, size_t n_columns, size_t k,
                               const float *scales, const void *next, size_t next_bytes)
{
    const uint16_t *elements = w;
    (void)next;
    (void)next_bytes;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t c0 = 0; c0 < n_columns; c0 += KERNEL_COLUMNS) {
            float sum[KERNEL_COLUMNS] = {0}, *out = y + r * ldy + c0;
            for (size_t i = 0; i < k; i++) {
                const uint16_t *row = elements + i / 2 * 2 * pitch + c0 * 2 + (i & 1);
                for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                    sum[c] = fmaf(x[r * ldx + i], f32_from_bf16(row[2 * c]), sum[c]);
            }
            for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                out[c] = scales ? out[c] * scales[r] + sum[c] : sum[c];
        }
}

page_product *page_product_find(enum element element, enum isa isa)
{
    const bool f32 = element == ELEMENT_F32;
    (void)isa;
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        return f32 ? page_product_f32_avx512 : page_product_bf16_avx512;
#endif
#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        return f32 ? page_product_f32_avx2 : page_product_bf16_avx2;
#endif
    return f32 ? product_f32_plain : product_bf16_plain;
}

#include "solver/kernels.h"

#include <math.h>
#include <string.h>
#ifdef T2_BUILD_AVX512BF16
#include <cpuid.h>
#endif

#include "solver/kernels_internal.h"

/* The f32 order in plain C: chains of fused multiply-adds. */
static void product_f32_plain(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                              const void *panels, size_t stride, size_t n_panels, size_t k,
                              bool accumulate)
{
    const float *rows = x, *w = panels;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t p = 0; p < n_panels; p++) {
            float *out = y + r * ldy + p * KERNEL_COLUMNS;
            for (size_t i0 = 0; i0 < k; i0 += KERNEL_F32_CHAIN) {
                const size_t i1 = k - i0 < KERNEL_F32_CHAIN ? k : i0 + KERNEL_F32_CHAIN;
                float sum[KERNEL_COLUMNS] = {0};
                for (size_t i = i0; i < i1; i++)
                    for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                        sum[c] =
                            fmaf(rows[r * ldx + i], w[p * stride + i * KERNEL_COLUMNS + c], sum[c]);
                for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                    out[c] = accumulate || i0 > 0 ? out[c] + sum[c] : sum[c];
            }
        }
}

static void finish_bf16(float *out, const float *sum, bool accumulate)
{
    for (size_t c = 0; c < KERNEL_COLUMNS; c++)
        out[c] = accumulate ? flush_denormal(flush_denormal(out[c]) + sum[c]) : sum[c];
}

/* vdpbf16ps's order in plain C: odd, then even, into one chain. */
static void product_dot2_plain(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                               const void *panels, size_t stride, size_t n_panels, size_t k,
                               bool accumulate)
{
    const uint16_t *rows = x, *w = panels;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t p = 0; p < n_panels; p++) {
            float sum[KERNEL_COLUMNS] = {0};
            for (size_t i = 0; i < k; i += 2) {
                const float even = f32_from_bf16_flushed(rows[r * ldx + i]);
                const float odd = f32_from_bf16_flushed(rows[r * ldx + i + 1]);
                const uint16_t *pair = w + p * stride + i * KERNEL_COLUMNS;
                for (size_t c = 0; c < KERNEL_COLUMNS; c++) {
                    sum[c] = fma_flushed(odd, f32_from_bf16_flushed(pair[2 * c + 1]), sum[c]);
                    sum[c] = fma_flushed(even, f32_from_bf16_flushed(pair[2 * c]), sum[c]);
                }
            }
            finish_bf16(y + r * ldy + p * KERNEL_COLUMNS, sum, accumulate);
        }
}

/* tdpbf16ps's order in plain C: for each tile of 32 along k two chains from zero, their sum added
 * to the accumulator (Intel SDM, TDPBF16PS). */
static void product_tile32_plain(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                                 const void *panels, size_t stride, size_t n_panels, size_t k,
                                 bool accumulate)
{
    const uint16_t *rows = x, *w = panels;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t p = 0; p < n_panels; p++) {
            float sum[KERNEL_COLUMNS] = {0};
            for (size_t tile = 0; tile < k; tile += 32) {
                float chain[KERNEL_COLUMNS][2] = {{0}};
                for (size_t i = tile; i < tile + 32; i++) {
                    const float value = f32_from_bf16_flushed(rows[r * ldx + i]);
                    const uint16_t *pair = w + p * stride + i / 2 * 2 * KERNEL_COLUMNS + i % 2;
                    for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                        chain[c][i % 2] =
                            fma_flushed(value, f32_from_bf16_flushed(pair[2 * c]), chain[c][i % 2]);
                }
                for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                    sum[c] = flush_denormal(sum[c] + flush_denormal(chain[c][0] + chain[c][1]));
            }
            finish_bf16(y + r * ldy + p * KERNEL_COLUMNS, sum, accumulate);
        }
}

static const struct kernels f32_plain = {"f32/plain", ISA_PLAIN, ELEMENT_F32, product_f32_plain,
                                         "f32"};
static const struct kernels dot2_plain = {"bf16/plain", ISA_PLAIN, ELEMENT_BF16, product_dot2_plain,
                                          "dot2"};
static const struct kernels tile32_plain = {"bf16/plain-tile32", ISA_PLAIN, ELEMENT_BF16,
                                            product_tile32_plain, "tile32"};

#ifdef T2_BUILD_AVX512BF16
/* True where a vdpbf16ps does more than the two fused multiply-adds that have its bits: not on
 * Intel's cores, which issue it every second cycle (measured, kernels_avx512.c); the others have
 * not been measured. */
static bool dot_instruction_is_fast(void)
{
    unsigned a, b, c, d;
    return !(__get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx);
}
#endif

const struct kernels *kernels_find(enum element element, enum isa isa)
{
    const bool f32 = element == ELEMENT_F32;
    (void)isa;
#ifdef T2_BUILD_AMX
    if (isa >= ISA_AMX && !f32)
        return &kernels_bf16_amx;
#endif
#ifdef T2_BUILD_AVX512BF16
    if (isa >= ISA_AVX512_BF16 && !f32 && dot_instruction_is_fast())
        return &kernels_bf16_avx512bf16;
#endif
#ifdef T2_BUILD_AVX512
    if (isa >= ISA_AVX512)
        return f32 ? &kernels_f32_avx512 : &kernels_bf16_avx512;
#endif
#ifdef T2_BUILD_AVX2
    if (isa >= ISA_AVX2)
        return f32 ? &kernels_f32_avx2 : &kernels_bf16_avx2;
#endif
    return f32 ? &f32_plain : &dot2_plain;
}

const struct kernels *kernels_listed(size_t i)
{
    static const struct kernels *const list[] = {
        &f32_plain,
        &dot2_plain,
        &tile32_plain,
#ifdef T2_BUILD_AVX2
        &kernels_f32_avx2,
        &kernels_bf16_avx2,
#endif
#ifdef T2_BUILD_AVX512
        &kernels_f32_avx512,
        &kernels_bf16_avx512,
#endif
#ifdef T2_BUILD_AVX512BF16
        &kernels_bf16_avx512bf16,
#endif
#ifdef T2_BUILD_AMX
        &kernels_bf16_amx,
#endif
    };
    return i < sizeof list / sizeof *list ? list[i] : NULL;
}

const struct kernels *kernels_reference(const char *order)
{
    if (strcmp(order, "f32") == 0)
        return &f32_plain;
    return strcmp(order, "tile32") == 0 ? &tile32_plain : &dot2_plain;
}

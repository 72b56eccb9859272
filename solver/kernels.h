#ifndef T2_SOLVER_KERNELS_H
#define T2_SOLVER_KERNELS_H
/* The single-threaded product kernels behind the matrix engine, one table an instruction set and
 * element type, each with a stated order of additions.
 *
 * A kernel multiplies rows by *panels*. A panel holds 16 outputs (columns) of a weight matrix over
 * all of K, packed so that one vector register holds 16 columns:
 *
 *   f32:   panel[k][16]            element (k, c)   at k * 16 + c
 *   bf16:  panel[k/2][16][2]       element (k, c)   at (k/2) * 32 + c * 2 + (k & 1)
 *
 * which for bf16 is also the layout of an AMX tile (16 k-pairs x 16 columns x 2). k is always a
 * multiple of KERNEL_K_STEP, padded with zeros.
 *
 * The order of additions along K is fixed, from first to last, so a row's result has the same bits
 * whatever rows stand beside it:
 *
 *   f32, every ISA      chains of fused multiply-adds from +0 over KERNEL_F32_CHAIN elements each,
 *                       their sums added up in y one after the other: short chains round less
 *                       (docs/training.md; one chain over a vocabulary was off by 1e-4)
 *   bf16 below AMX      the order of vdpbf16ps: per pair, the product of the odd element is added,
 *                       then the even one (products are exact in f32; denormal inputs and results
 *                       count as zero), one chain from +0
 *   bf16 on AMX         the order of tdpbf16ps: per 32 elements, two chains from +0 over the even
 *                       and the odd k, their sum added to the accumulator, denormals as zero
 *
 * The finished sum (f32: the first chain's) is stored, or added to what y holds (accumulate; for
 * bf16 denormals count as zero there too). The plain C kernels follow the same orders and are the
 * reference twins that tests compare bits with. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "solver/cpu.h"

enum { KERNEL_COLUMNS = 16, KERNEL_K_STEP = 32, KERNEL_F32_CHAIN = 128 };

/* The smallest multiple of step that holds n: sizes padded to KERNEL_COLUMNS or KERNEL_K_STEP. */
static inline size_t round_up(size_t n, size_t step)
{
    return (n + step - 1) / step * step;
}

enum element { ELEMENT_F32, ELEMENT_BF16 };

/* Bytes of one element: 4 or 2. */
static inline size_t element_size(enum element e)
{
    return e == ELEMENT_F32 ? 4 : 2;
}

/* y[r][p*16 + c] = (accumulate ? y : 0) + sum_k x[r][k] * panel_p(k, c)
 *
 * y       f32 [n_rows, >= n_panels*16], row stride ldy elements
 * x       elements [n_rows, k], row stride ldx elements
 * panels  n_panels panels, `stride` elements apart (k * 16 when contiguous)
 * Any alignment of x and y; panels 64-byte aligned. No allocation, no threads, up to 0.5 MB of
 * stack. */
typedef void kernel_product(float *y, size_t ldy, const void *x, size_t ldx, size_t n_rows,
                            const void *panels, size_t stride, size_t n_panels, size_t k,
                            bool accumulate);

struct kernels {
    const char *name; /* "bf16/amx" */
    enum isa isa;
    enum element element;
    kernel_product *product;
    /* How a sum's bits are ordered: kernels with equal `order` give equal bits. */
    const char *order; /* "f32", "dot2", "tile32" */
};

/* The kernels of this element type at this level, or, where the level has none of its own, at the
 * nearest level below. Never NULL. The caller has checked that the processor has the level. */
const struct kernels *kernels_find(enum element element, enum isa isa);

/* Every kernel that was built, one after the other, then NULL; some need a better processor. */
const struct kernels *kernels_listed(size_t i);

/* The plain C kernels that follow a given order ("f32", "dot2", "tile32"). */
const struct kernels *kernels_reference(const char *order);

/* Rounds f32 to bf16, to nearest even; NaN stays NaN. Denormals are kept. */
static inline uint16_t bf16_from_f32(float value)
{
    union {
        float f;
        uint32_t u;
    } v = {value};
    if ((v.u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}

static inline float f32_from_bf16(uint16_t value)
{
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)value << 16};
    return v.f;
}

#endif

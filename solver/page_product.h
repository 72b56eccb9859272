#ifndef T2_SOLVER_PAGE_PRODUCT_H
#define T2_SOLVER_PAGE_PRODUCT_H
/* The product of a few f32 rows with one head's keys or values of a cache page (solver/kv_cache.h),
 * single-threaded, once an instruction set. Attention below AMX is made of it: a decoding sequence
 * brings one to eight query rows to each page, and what costs is reading the page.
 *
 * A page's keys or values are a matrix w [k, pitch] that lies in memory in the order in which it is
 * used:
 *
 *   f32    w[k][pitch]           element (i, c)  at i * pitch + c
 *   bf16   w[k/2][pitch][2]      element (i, c)  at i / 2 * 2 * pitch + c * 2 + (i & 1)
 *
 * The order of additions is that of the f32 kernels (solver/kernels.h) on the widened elements: one
 * chain of fused multiply-adds from +0 over i = 0, 1, ..., denormals kept. Every level gives the
 * bits of the plain one. */
#include <stddef.h>

#include "solver/cpu.h"
#include "solver/kernels.h"

/* y[r][c] = (scales ? y[r][c] * scales[r] : 0) + sum over i < k of x[r][i] * w(i, c)
 *
 * y       f32 [n_rows, >= n_columns], row stride ldy
 * x       f32 [n_rows, >= k], row stride ldx
 * w       elements, 64-byte aligned; n_columns <= pitch, both multiples of 16; k even for bf16
 * scales  [n_rows] or NULL
 * next    next_bytes of memory that are read after this, fetched on the way: prefetchers start
 *         anew at every 4 KiB, and a head's page is a few of them. 0 bytes: none
 *
 * k * n_columns is at most PAGE_PRODUCT_MOST. */
typedef void page_product(float *y, size_t ldy, const float *x, size_t ldx, size_t n_rows,
                          const void *w, size_t pitch, size_t n_columns, size_t k,
                          const float *scales, const void *next, size_t next_bytes);

enum { PAGE_PRODUCT_MOST = 64 * 256 };

/* The function built for this level or, where it has none of its own, the nearest level below.
 * Never NULL. The caller has checked that the processor has the level. */
page_product *page_product_find(enum element element, enum isa isa);

#endif

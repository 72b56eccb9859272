#ifndef T2_SOLVER_ENGINE_PRODUCT_H
#define T2_SOLVER_ENGINE_PRODUCT_H
/* A weight matrix packed for the product kernels, and its product with rows of activations on the
 * threads of one rank. Stands on kernels.h, which has the layout of a panel and the order of
 * additions; adds packing, memory and threads, and nothing that could change a bit.
 *
 * y = x W^T, with W [n, k] as checkpoints store it: n outputs, k inputs. */
#include <stdbool.h>
#include <stddef.h>

#include "solver/kernels.h"
#include "solver/memory.h"
#include "solver/team.h"

/* How the weights lie in memory, `n_panels * 16` outputs by `k_padded` inputs in either:
 *
 *   MATRIX_PANELS   [n_panels][k_padded][16], see kernels.h: what the CPU's kernels read
 *   MATRIX_ROWS     [n_panels * 16][k_padded]: what cuBLAS reads
 *
 * 16 outputs that begin at a multiple of 16 are the same bytes from data on in both. */
enum matrix_layout { MATRIX_PANELS, MATRIX_ROWS };

struct matrix {
    size_t n, k;
    size_t n_panels; /* of KERNEL_COLUMNS outputs; the last is filled with zeros */
    size_t k_padded; /* k up to a multiple of KERNEL_K_STEP, filled with zeros */
    enum element element;
    enum matrix_layout layout;
    const struct memory *memory;
    void *data;
};

/* Makes a matrix of zeros. 0, or -1 with error_set when there is no memory for it. */
int matrix_create_in(struct matrix *m, const struct memory *memory, enum matrix_layout layout,
                     enum element element, size_t n, size_t k);
/* In panels, in the host's memory. */
int matrix_create(struct matrix *m, enum element element, size_t n, size_t k);
void matrix_free(struct matrix *m);

/* Bytes of the packed weights. */
size_t matrix_bytes(const struct matrix *m);

/* Packs rows first..first+n_rows of W, f32 [n_rows, k], rounded to the matrix's element type.
 * first is a multiple of 16, n_rows too unless the rows end at n. Threads may pack different rows
 * at the same time. */
void matrix_pack_rows(struct matrix *m, size_t first, size_t n_rows, const float *rows);

/* Row `row` of W as it was rounded, f32 [k]: the embedding out of a tied head. */
void matrix_unpack_row(const struct matrix *m, size_t row, float *out);

/* For matrices in panels, in the host's memory:
 *
 * y[r][j] = (accumulate ? y : 0) + sum over k of x[r][k] W[first_panel * 16 + j][k]
 *
 * y   f32 [n_rows, n_panels * 16], row stride ldy; columns at or past n are not touched.
 * x   elements of the matrix's type [n_rows, k_padded], row stride ldx; elements past k must be
 *     finite (zeros, say).
 * The result does not depend on the team (NULL: the calling thread alone), on how rows are split
 * over calls, or on how panels are. */
void matrix_product(const struct kernels *kernels, float *y, size_t ldy, const void *x, size_t ldx,
                    size_t n_rows, const struct matrix *m, size_t first_panel, size_t n_panels,
                    bool accumulate, struct team *team);

#endif

#ifndef T2_SOLVER_SVD_CUDA_H
#define T2_SOLVER_SVD_CUDA_H
/* The parts of a decomposition (svd.h) that a CUDA device does, all in f64: Gram matrix, its
 * eigenvectors by cuSOLVER's syevd, Rayleigh quotients with all couplings (docs/decompose.md), the
 * factor in f32 and the contract in full. svd_device.c puts them in their order. Without the CUDA
 * Toolkit at build time svd_cuda_create says so.
 *
 * Bits depend on the matrix and on the kind of device. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct svd_cuda;

/* Opens device number `device` for decompositions; several threads may use it, one matrix at a
 * time. NULL with error_set. */
struct svd_cuda *svd_cuda_create(int device);
void svd_cuda_free(struct svd_cuda *cuda);

struct svd_cuda_found {
    bool solved;  /* else cuSOLVER has found no solution, and nothing else is said */
    double bound; /* largest relative error bound of a sigma_i that counts */
};

/* Takes the device for a matrix W f32 [n_rows, n_columns], waiting for other threads, and finds
 * the squares of its singular values: values [r], in the order of the vectors that are now on the
 * device. Until svd_cuda_end the device is the caller's, also after a failure. 0, or -1 with
 * error_set. name: for messages. */
int svd_cuda_solve(struct svd_cuda *cuda, const char *name, const float *w, size_t n_rows,
                   size_t n_columns, double *values, struct svd_cuda_found *found);

/* factor f32 [r, r]: row i is vector order[i] with the first of its largest components positive.
 * values [r], descending, are those rows'. Then the contract of svd.h of what is in `factor`, in
 * full. 0, or -1 with error_set. */
int svd_cuda_deliver(struct svd_cuda *cuda, const uint32_t *order, const double *values,
                     float *factor, double *orthogonality, double *residual);

void svd_cuda_end(struct svd_cuda *cuda);

#ifdef __cplusplus
}
#endif

#endif

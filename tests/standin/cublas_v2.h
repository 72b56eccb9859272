#ifndef T2_STANDIN_CUBLAS_V2_H
#define T2_STANDIN_CUBLAS_V2_H
/* Stand-in for the part of cublas_v2.h that solver/cuda uses, over the BLAS; see standin.h. */
#include "cublasLt.h"

typedef struct standin_blas *cublasHandle_t;

cublasStatus_t cublasCreate(cublasHandle_t *handle);
cublasStatus_t cublasDestroy(cublasHandle_t handle);
cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream);
cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t transa,
                           cublasOperation_t transb, int m, int n, int k, const double *alpha,
                           const double *A, int lda, const double *B, int ldb, const double *beta,
                           double *C, int ldc);

#endif

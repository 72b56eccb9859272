/* cuBLAS on the CPU. See standin.h. */
#include "cublas_v2.h"
#include "standin.h"

extern "C" void dgemm_(const char *transa, const char *transb, const int *m, const int *n,
                       const int *k, const double *alpha, const double *a, const int *lda,
                       const double *b, const int *ldb, const double *beta, double *c,
                       const int *ldc);

struct standin_blas {
    cudaStream_t stream;
};

cublasStatus_t cublasCreate(cublasHandle_t *handle)
{
    if (!standin_count("cublasCreate"))
        return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = new standin_blas{nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDgemm(cublasHandle_t handle, cublasOperation_t transa,
                           cublasOperation_t transb, int m, int n, int k, const double *alpha,
                           const double *A, int lda, const double *B, int ldb, const double *beta,
                           double *C, int ldc)
{
    const double a = *alpha, b = *beta;

    if (!standin_count("cublasDgemm"))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (lda < (transa == CUBLAS_OP_N ? m : k) || ldb < (transb == CUBLAS_OP_N ? k : n) || ldc < m)
        return CUBLAS_STATUS_INVALID_VALUE;
    standin_expect_tensor(A, "A", "cublasDgemm");
    standin_expect_tensor(B, "B", "cublasDgemm");
    standin_expect_tensor(C, "C", "cublasDgemm");
    standin_enqueue(handle->stream, [=] {
        dgemm_(transa == CUBLAS_OP_N ? "N" : "T", transb == CUBLAS_OP_N ? "N" : "T", &m, &n, &k, &a,
               A, &lda, B, &ldb, &b, C, &ldc);
    });
    return CUBLAS_STATUS_SUCCESS;
}

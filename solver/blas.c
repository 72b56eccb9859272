#include "solver/blas.h"

#include <cblas.h>

void blas_gemm(size_t bytes, bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
               const void *a, size_t lda, const void *b, size_t ldb, double beta, void *c,
               size_t ldc)
{
    const enum CBLAS_TRANSPOSE ta = transpose_a ? CblasTrans : CblasNoTrans;
    const enum CBLAS_TRANSPOSE tb = transpose_b ? CblasTrans : CblasNoTrans;

    if (bytes == sizeof(float))
        cblas_sgemm(CblasRowMajor, ta, tb, (int)m, (int)n, (int)k, 1.0f, a, (int)lda, b, (int)ldb,
                    (float)beta, c, (int)ldc);
    else
        cblas_dgemm(CblasRowMajor, ta, tb, (int)m, (int)n, (int)k, 1.0, a, (int)lda, b, (int)ldb,
                    beta, c, (int)ldc);
}

void blas_syrk(size_t bytes, bool transpose_a, size_t n, size_t k, const void *a, size_t lda,
               double beta, void *c, size_t ldc)
{
    const enum CBLAS_TRANSPOSE ta = transpose_a ? CblasTrans : CblasNoTrans;

    if (bytes == sizeof(float))
        cblas_ssyrk(CblasRowMajor, CblasUpper, ta, (int)n, (int)k, 1.0f, a, (int)lda, (float)beta,
                    c, (int)ldc);
    else
        cblas_dsyrk(CblasRowMajor, CblasUpper, ta, (int)n, (int)k, 1.0, a, (int)lda, beta, c,
                    (int)ldc);
}

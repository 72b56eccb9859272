#ifndef T2_SOLVER_BLAS_H
#define T2_SOLVER_BLAS_H
/* The few BLAS and LAPACK calls of the decomposition, once for both precisions: `bytes` says
 * whether the elements are float (4) or double (8). Row-major; sizes below 2^31. LAPACK is called
 * by its Fortran names, LAPACKE is not needed. */
#include <stdbool.h>
#include <stddef.h>

/* c [m, n] = op(a) op(b) + beta c, where op(a) is [m, k] and op(b) [k, n]; a transposed operand is
 * stored [k, m], or [n, k]. */
void blas_gemm(size_t bytes, bool transpose_a, bool transpose_b, size_t m, size_t n, size_t k,
               const void *a, size_t lda, const void *b, size_t ldb, double beta, void *c,
               size_t ldc);

/* The upper triangle of c [n, n] = op(a) op(a)^T + beta c; a is [n, k], or [k, n] if transposed. */
void blas_syrk(size_t bytes, bool transpose_a, size_t n, size_t k, const void *a, size_t lda,
               double beta, void *c, size_t ldc);

/* Element `index` of an array of either type. */
static inline void *blas_at(void *array, size_t bytes, size_t index)
{
    return (char *)array + bytes * index;
}
static inline const void *blas_at_const(const void *array, size_t bytes, size_t index)
{
    return (const char *)array + bytes * index;
}

/* LAPACK, column-major. */
void ssyevd_(const char *job, const char *uplo, const int *n, float *a, const int *lda, float *w,
             float *work, const int *lwork, int *iwork, const int *liwork, int *info);
void dsyevd_(const char *job, const char *uplo, const int *n, double *a, const int *lda, double *w,
             double *work, const int *lwork, int *iwork, const int *liwork, int *info);
void dgesdd_(const char *job, const int *m, const int *n, double *a, const int *lda, double *s,
             double *u, const int *ldu, double *vt, const int *ldvt, double *work, const int *lwork,
             int *iwork, int *info);
void dgesvj_(const char *joba, const char *jobu, const char *jobv, const int *m, const int *n,
             double *a, const int *lda, double *sva, const int *mv, double *v, const int *ldv,
             double *work, const int *lwork, int *info);
void dgeqrf_(const int *m, const int *n, double *a, const int *lda, double *tau, double *work,
             const int *lwork, int *info);
void dorgqr_(const int *m, const int *n, const int *k, double *a, const int *lda, const double *tau,
             double *work, const int *lwork, int *info);

#endif

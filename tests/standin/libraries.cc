/* cuBLASLt and cuSOLVER on the CPU. See standin.h. */
#include <cstdlib>
#include <vector>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "cusolverDn.h"
#include "standin.h"

extern "C" void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda,
                        double *w, double *work, const int *lwork, int *iwork, const int *liwork,
                        int *info);

struct standin_lt {
    int unused;
};
struct standin_matmul {
    cublasComputeType_t compute;
    int32_t trans_a, trans_b;
};
struct standin_layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t ld;
};
struct standin_preference {
    int unused;
};

namespace
{

bool vary_algorithms;
enum { VARY_FROM = 64, BACKWARDS = 1 };

size_t bytes_of(cudaDataType type)
{
    return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

/* Column `index` of op(M)'s outer side, first..end of the summed side, as T. */
template <typename T>
void unpack(std::vector<T> &to, const void *data, const standin_layout &l, bool summed_is_row,
            size_t n_outer, size_t n_summed)
{
    const size_t outer_step = summed_is_row ? (size_t)l.ld : 1;
    const size_t step = summed_is_row ? 1 : (size_t)l.ld;
    to.resize(n_outer * n_summed);
    for (size_t i = 0; i < n_outer; i++) {
        T *row = to.data() + i * n_summed;
        const size_t at = i * outer_step;
        if (l.type == CUDA_R_64F)
            for (size_t k = 0; k < n_summed; k++)
                row[k] = (T)((const double *)data)[at + k * step];
        else if (l.type == CUDA_R_32F)
            for (size_t k = 0; k < n_summed; k++)
                row[k] = (T)((const float *)data)[at + k * step];
        else
            for (size_t k = 0; k < n_summed; k++)
                row[k] =
                    (T)__uint_as_float((unsigned)((const uint16_t *)data)[at + k * step] << 16);
    }
}

/* 16 chains, then halves: an order of its own, of k alone. */
template <typename T> T dot(const T *x, const T *y, size_t n, bool backwards)
{
    T lanes[16] = {0};
    size_t k = 0;
    if (backwards) {
        T sum = 0;
        for (size_t i = n; i-- > 0;)
            sum += x[i] * y[i];
        return sum;
    }
    for (; k + 16 <= n; k += 16)
        for (int l = 0; l < 16; l++)
            lanes[l] += x[k + l] * y[k + l];
    for (int l = 0; k + l < n; l++)
        lanes[l] += x[k + l] * y[k + l];
    for (int width = 8; width > 0; width /= 2)
        for (int l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

struct matmul_call {
    standin_matmul desc;
    standin_layout a, b, c, d;
    const void *A, *B, *C;
    void *D;
    double alpha, beta;
    bool backwards;
};

template <typename T> void matmul_run(const matmul_call &m)
{
    const size_t n_k = m.desc.trans_a ? m.a.rows : m.a.columns;
    std::vector<T> a, b;
    unpack(a, m.A, m.a, m.desc.trans_a, m.d.rows, n_k);
    unpack(b, m.B, m.b, !m.desc.trans_b, m.d.columns, n_k);
    for (size_t i0 = 0; i0 < m.d.rows; i0 += 32)
        for (size_t j = 0; j < m.d.columns; j++)
            for (size_t i = i0; i < i0 + 32 && i < m.d.rows; i++) {
                const size_t at = j * (size_t)m.d.ld + i, from = j * (size_t)m.c.ld + i;
                T sum = (T)m.alpha * dot(&a[i * n_k], &b[j * n_k], n_k, m.backwards);
                if (m.d.type == CUDA_R_64F)
                    ((double *)m.D)[at] =
                        m.beta != 0 ? sum + m.beta * ((const double *)m.C)[from] : sum;
                else if (m.d.type == CUDA_R_32F)
                    ((float *)m.D)[at] =
                        (float)(m.beta != 0 ? sum + (T)m.beta * (T)((const float *)m.C)[from]
                                            : sum);
                else
                    ((__nv_bfloat16 *)m.D)[at] = __float2bfloat16_rn(
                        (float)(m.beta != 0
                                    ? sum + (T)m.beta * (T)__bfloat162float(
                                                            ((const __nv_bfloat16 *)m.C)[from])
                                    : sum));
            }
}

} // namespace

void standin_vary_algorithms(int on)
{
    vary_algorithms = on != 0;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS            ? "success"
           : status == CUBLAS_STATUS_ALLOC_FAILED     ? "the allocation failed"
           : status == CUBLAS_STATUS_EXECUTION_FAILED ? "the execution failed"
                                                      : "not supported";
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    if (!standin_count("cublasLtCreate"))
        return CUBLAS_STATUS_ALLOC_FAILED;
    *handle = new standin_lt{0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t)
{
    *desc = new standin_matmul{compute, CUBLAS_OP_N, CUBLAS_OP_N};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    int32_t *to = attribute == CUBLASLT_MATMUL_DESC_TRANSA ? &desc->trans_a : &desc->trans_b;
    if (bytes != sizeof *to)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type,
                                          uint64_t rows, uint64_t columns, int64_t ld)
{
    *layout = new standin_layout{type, rows, columns, ld};
    return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    *preference = new standin_preference{0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int asked,
                                              cublasLtMatmulHeuristicResult_t results[],
                                              int *n_results)
{
    *n_results = 0;
    if (asked < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    results[0] = cublasLtMatmulHeuristicResult_t{};
    results[0].algo.data[0] = vary_algorithms && d->columns > VARY_FROM ? BACKWARDS : 0;
    *n_results = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute,
                                                    void *value, size_t bytes, size_t *written)
{
    const int32_t number = attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? 1 : 0;
    if (bytes < sizeof number)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(value, &number, sizeof number);
    if (written)
        *written = sizeof number;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha,
                              const void *A, cublasLtMatrixLayout_t a, const void *B,
                              cublasLtMatrixLayout_t b, const void *beta, const void *C,
                              cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                              const cublasLtMatmulAlgo_t *algo, void *, size_t, cudaStream_t stream)
{
    matmul_call m = {*desc, *a, *b, *c, *d, A, B, C, D, 0, 0, algo && algo->data[0] == BACKWARDS};
    const bool f64 = desc->compute == CUBLAS_COMPUTE_64F;
    const size_t n_k = desc->trans_a ? a->rows : a->columns;

    m.alpha = f64 ? *(const double *)alpha : (double)*(const float *)alpha;
    m.beta = f64 ? *(const double *)beta : (double)*(const float *)beta;
    if (!standin_count("cublasLtMatmul"))
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if ((desc->trans_b ? b->columns : b->rows) != n_k ||
        (desc->trans_a ? a->columns : a->rows) != d->rows ||
        (desc->trans_b ? b->rows : b->columns) != d->columns || c->rows != d->rows ||
        c->columns != d->columns || a->type != b->type || c->type != d->type ||
        (uintptr_t)A % bytes_of(a->type) || (uintptr_t)D % bytes_of(d->type))
        return CUBLAS_STATUS_INVALID_VALUE;
    standin_expect_tensor(A, "A", "cublasLtMatmul");
    standin_expect_tensor(B, "B", "cublasLtMatmul");
    standin_expect_tensor(D, "D", "cublasLtMatmul");
    standin_enqueue(stream, [=] { f64 ? matmul_run<double>(m) : matmul_run<float>(m); });
    return CUBLAS_STATUS_SUCCESS;
}

/* ---- cuSOLVER -------------------------------------------------------------------------------- */

struct standin_solver {
    cudaStream_t stream;
};
struct standin_solver_params {
    int unused;
};

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t *handle)
{
    if (!standin_count("cusolverDnCreate"))
        return CUSOLVER_STATUS_ALLOC_FAILED;
    *handle = new standin_solver{nullptr};
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle)
{
    delete handle;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream)
{
    handle->stream = stream;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t *params)
{
    *params = new standin_solver_params{0};
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t params)
{
    delete params;
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t, cusolverDnParams_t,
                                             cusolverEigMode_t, cublasFillMode_t, int64_t n,
                                             cudaDataType type_a, const void *, int64_t,
                                             cudaDataType, const void *, cudaDataType,
                                             size_t *device_bytes, size_t *host_bytes)
{
    if (type_a != CUDA_R_64F || n < 1 || n > 46340)
        return CUSOLVER_STATUS_INVALID_VALUE;
    *device_bytes = (size_t)(1 + 6 * n + 2 * n * n) * sizeof(double);
    *host_bytes = (size_t)(3 + 5 * n) * sizeof(int);
    return CUSOLVER_STATUS_SUCCESS;
}

cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t params,
                                  cusolverEigMode_t jobz, cublasFillMode_t uplo, int64_t n,
                                  cudaDataType type_a, void *A, int64_t lda, cudaDataType type_w,
                                  void *W, cudaDataType compute, void *device_buffer,
                                  size_t device_bytes, void *host_buffer, size_t host_bytes,
                                  int *info)
{
    size_t device_needed, host_needed;
    cusolverStatus_t status =
        cusolverDnXsyevd_bufferSize(handle, params, jobz, uplo, n, type_a, A, lda, type_w, W,
                                    compute, &device_needed, &host_needed);
    if (status != CUSOLVER_STATUS_SUCCESS || device_bytes < device_needed ||
        host_bytes < host_needed || lda < n)
        return CUSOLVER_STATUS_INVALID_VALUE;
    if (!standin_count("cusolverDnXsyevd"))
        return CUSOLVER_STATUS_EXECUTION_FAILED;
    standin_expect_tensor(A, "A", "cusolverDnXsyevd");
    standin_expect_tensor(W, "W", "cusolverDnXsyevd");
    standin_expect_tensor(info, "info", "cusolverDnXsyevd");
    standin_enqueue(handle->stream, [=] {
        const int size = (int)n, ld = (int)lda, lwork = (int)(device_needed / sizeof(double)),
                  liwork = (int)(host_needed / sizeof(int));
        dsyevd_(jobz == CUSOLVER_EIG_MODE_VECTOR ? "V" : "N",
                uplo == CUBLAS_FILL_MODE_UPPER ? "U" : "L", &size, (double *)A, &ld, (double *)W,
                (double *)device_buffer, &lwork, (int *)host_buffer, &liwork, info);
    });
    return CUSOLVER_STATUS_SUCCESS;
}

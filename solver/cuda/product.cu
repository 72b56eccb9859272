/* Products with cuBLASLt.
 *
 * Rows of activations and weights lie as columns of length k in cuBLAS's eyes, so that
 * y^T [n, rows] = W^T-transposed [n, k] x^T [k, rows]: operand A is W (transposed), B is x.
 *
 * A row's bits must not depend on the rows beside it (engine.h). That rests on the following, and
 * tests/solver/test_engine_cuda.c checks it on a device:
 *
 *   - one algorithm (tile, stages, instruction) serves every number of rows of a range, chosen once
 *     for a shape and kept, instead of what the heuristics find best for each call;
 *   - split-K and all reductions between tiles are excluded, and no workspace is given, so that one
 *     thread block adds up all of k, in the order of its main loop;
 *   - within a tile the place of a row decides nothing: matrix instructions treat columns alike.
 *
 * More rows want larger tiles. The algorithms of the larger ranges are used only where they gave
 * the same bits as the smallest range's on CHECK_ROWS rows of this matrix, and otherwise that one
 * serves all: tiles differ, but the order along k usually does not.
 *
 * Where cuBLASLt has nothing, or tensors are not aligned (which does not depend on the number of
 * rows), a plain kernel computes. A bias is added afterwards: the epilogue's rounding would depend
 * on the algorithm. */
#include <stdlib.h>
#include <string.h>

#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"

enum {
    N_RANGES = 3,
    CHECK_ROWS = 16,
    ALIGNMENT = 16, /* bytes, of tensors and their rows */
    CANDIDATES = 16,
};

/* The numbers of rows up to which, and for which, a range's algorithm is chosen. */
static const size_t range_end[N_RANGES] = {64, 512, SIZE_MAX};
static const size_t range_rows[N_RANGES] = {64, 256, 2048};

enum plan_state { PLAN_UNKNOWN, PLAN_CUBLAS, PLAN_PLAIN };

struct cuda_product {
    size_t n, k; /* k padded */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t weights;
    enum plan_state states[N_RANGES];
    cublasLtMatmulAlgo_t algorithms[N_RANGES];
};

/* ---- the plain kernel ------------------------------------------------------------------------ */

/* y [gridDim.x rows, n] (+)= x m^T: one thread an output, one chain over k. */
template <typename T>
__global__ void product_plain(float *y, size_t ldy, const T *x, size_t ldx, const T *m, size_t n,
                              size_t k, bool accumulate)
{
    const size_t j = (size_t)blockIdx.y * blockDim.x + threadIdx.x;
    const T *row = x + blockIdx.x * ldx, *weights = m + j * k;
    float sum = 0;
    if (j >= n)
        return;
    for (size_t i = 0; i < k; i++)
        sum = __fmaf_rn(to_float(row[i]), to_float(weights[i]), sum);
    float *to = y + blockIdx.x * ldy + j;
    *to = accumulate ? *to + sum : sum;
}

static void run_plain(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                      size_t n_rows, const void *weights, size_t n, size_t k, bool accumulate)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const dim3 grid((unsigned)n_rows, (unsigned)((n + GPU_BLOCK - 1) / GPU_BLOCK));
    if (e->element == ELEMENT_F32)
        GPU_LAUNCH(product_plain<float>, grid, GPU_BLOCK, 0, stream, y, ldy, (const float *)x, ldx,
                   (const float *)weights, n, k, accumulate);
    else
        GPU_LAUNCH(product_plain<bf16>, grid, GPU_BLOCK, 0, stream, y, ldy, (const bf16 *)x, ldx,
                   (const bf16 *)weights, n, k, accumulate);
    cuda_launched(e, "a matrix product");
}

/* ---- algorithms ------------------------------------------------------------------------------ */

/* Numbers of either sign with all bits of the mantissa in use, without a state. */
template <typename T> __global__ void product_check_fill(T *x, size_t n)
{
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    unsigned u = (unsigned)i * 2654435761u + 12345u;
    if (i >= n)
        return;
    u ^= u >> 15;
    u *= 2246822519u;
    u ^= u >> 13;
    store_element(x + i, (float)(int)u * (1.0f / 2147483648.0f));
}

__global__ void product_check_compare(unsigned *differ, const float *x, const float *y, size_t n)
{
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n && __float_as_uint(x[i]) != __float_as_uint(y[i]))
        *differ = 1;
}

static cudaDataType type_of(const struct engine *e)
{
    return e->element == ELEMENT_F32 ? CUDA_R_32F : CUDA_R_16BF;
}

/* cuBLASLt has no reason of its own for most failures. */
static cudaError_t lt_error(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS        ? cudaSuccess
           : status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation
                                                  : cudaErrorUnknown;
}

static cublasStatus_t run_cublas(const struct engine *e, const struct cuda_product *plan,
                                 const cublasLtMatmulAlgo_t *algorithm, float *y, size_t ldy,
                                 const void *x, size_t ldx, size_t n_rows, const void *weights,
                                 bool accumulate)
{
    const struct cuda_device *device = cuda_device_of(e);
    const float one = 1, beta = accumulate ? 1.0f : 0.0f;
    cublasLtMatrixLayout_t rows = NULL, results = NULL;
    cublasStatus_t status =
        cublasLtMatrixLayoutCreate(&rows, type_of(e), plan->k, n_rows, (int64_t)ldx);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatrixLayoutCreate(&results, CUDA_R_32F, plan->n, n_rows, (int64_t)ldy);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmul(device->lt, plan->desc, &one, weights, plan->weights, x, rows,
                                &beta, y, results, y, results, algorithm, NULL, 0, device->stream);
    if (rows)
        cublasLtMatrixLayoutDestroy(rows);
    if (results)
        cublasLtMatrixLayoutDestroy(results);
    return status;
}

/* Whether one thread block adds up all of k. */
static bool sums_alone(const cublasLtMatmulHeuristicResult_t *result)
{
    uint32_t splits = 0, scheme = 0;
    size_t written;
    return result->state == CUBLAS_STATUS_SUCCESS && result->workspaceSize == 0 &&
           cublasLtMatmulAlgoConfigGetAttribute(&result->algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM,
                                                &splits, sizeof splits,
                                                &written) == CUBLAS_STATUS_SUCCESS &&
           cublasLtMatmulAlgoConfigGetAttribute(&result->algo,
                                                CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                                sizeof scheme, &written) == CUBLAS_STATUS_SUCCESS &&
           splits <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* The heuristics' first algorithm for n_rows that sums alone. */
static bool find_algorithm(const struct engine *e, const struct cuda_product *plan, size_t n_rows,
                           cublasLtMatmulAlgo_t *algorithm)
{
    const uint64_t no_workspace = 0;
    const uint32_t no_reduction = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = ALIGNMENT;
    const cublasLtMatmulPreferenceAttributes_t alignments[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatrixLayout_t rows = NULL, results = NULL;
    int n_found = 0;
    bool ok = false;

    if (cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &no_workspace,
                                             sizeof no_workspace) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                             &no_reduction,
                                             sizeof no_reduction) != CUBLAS_STATUS_SUCCESS)
        goto done;
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++)
        if (cublasLtMatmulPreferenceSetAttribute(preference, alignments[i], &alignment,
                                                 sizeof alignment) != CUBLAS_STATUS_SUCCESS)
            goto done;
    if (cublasLtMatrixLayoutCreate(&rows, type_of(e), plan->k, n_rows, (int64_t)plan->k) !=
            CUBLAS_STATUS_SUCCESS ||
        cublasLtMatrixLayoutCreate(&results, CUDA_R_32F, plan->n, n_rows,
                                   (int64_t)round_up(plan->n, KERNEL_COLUMNS)) !=
            CUBLAS_STATUS_SUCCESS ||
        cublasLtMatmulAlgoGetHeuristic(cuda_device_of(e)->lt, plan->desc, plan->weights, rows,
                                       results, results, preference, CANDIDATES, found,
                                       &n_found) != CUBLAS_STATUS_SUCCESS)
        goto done;
    for (int i = 0; i < n_found && !ok; i++)
        if (sums_alone(&found[i])) {
            *algorithm = found[i].algo;
            ok = true;
        }
done:
    if (rows)
        cublasLtMatrixLayoutDestroy(rows);
    if (results)
        cublasLtMatrixLayoutDestroy(results);
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    return ok;
}

/* Whether an algorithm gives the bits of the first range's on rows of noise. */
static bool same_bits(const struct engine *e, const struct cuda_product *plan,
                      const cublasLtMatmulAlgo_t *algorithm, const void *weights)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const size_t ldy = round_up(plan->n, KERNEL_COLUMNS), n_y = CHECK_ROWS * ldy;
    const size_t n_x = CHECK_ROWS * plan->k;
    char *scratch = (char *)cuda_scratch(e, CUDA_SLOT_PRODUCT,
                                         256 + 2 * n_y * sizeof(float) + n_x * sizeof(float));
    if (!scratch)
        return false;
    unsigned *differ = (unsigned *)(void *)scratch, result = 1;
    float *y = (float *)(void *)(scratch + 256);
    void *x = y + 2 * n_y;
    const unsigned blocks = (unsigned)((n_x + GPU_BLOCK - 1) / GPU_BLOCK);

    cuda_check(e, cudaMemsetAsync(scratch, 0, 256 + 2 * n_y * sizeof(float), stream),
               "clearing a tensor");
    if (e->element == ELEMENT_F32)
        GPU_LAUNCH(product_check_fill<float>, blocks, GPU_BLOCK, 0, stream, (float *)x, n_x);
    else
        GPU_LAUNCH(product_check_fill<bf16>, blocks, GPU_BLOCK, 0, stream, (bf16 *)x, n_x);
    if (run_cublas(e, plan, &plan->algorithms[0], y, ldy, x, plan->k, CHECK_ROWS, weights, false) !=
            CUBLAS_STATUS_SUCCESS ||
        run_cublas(e, plan, algorithm, y + n_y, ldy, x, plan->k, CHECK_ROWS, weights, false) !=
            CUBLAS_STATUS_SUCCESS)
        return false;
    GPU_LAUNCH(product_check_compare, (unsigned)((n_y + GPU_BLOCK - 1) / GPU_BLOCK), GPU_BLOCK, 0,
               stream, differ, y, y + n_y, n_y);
    cuda_launched(e, "the check of a matrix product");
    return cuda_fetch(e, &result, differ, sizeof result) == 0 && result == 0;
}

static void choose(const struct engine *e, struct cuda_product *plan, int range,
                   const void *weights)
{
    cublasLtMatmulAlgo_t algorithm;
    if (range == 0) {
        plan->states[0] =
            find_algorithm(e, plan, range_rows[0], &plan->algorithms[0]) ? PLAN_CUBLAS : PLAN_PLAIN;
        return;
    }
    if (plan->states[0] == PLAN_UNKNOWN)
        choose(e, plan, 0, weights);
    plan->states[range] = plan->states[0];
    plan->algorithms[range] = plan->algorithms[0];
    if (plan->states[0] == PLAN_CUBLAS && find_algorithm(e, plan, range_rows[range], &algorithm) &&
        memcmp(&algorithm, &plan->algorithms[0], sizeof algorithm) != 0 &&
        same_bits(e, plan, &algorithm, weights))
        plan->algorithms[range] = algorithm;
}

/* ---- plans ----------------------------------------------------------------------------------- */

static void plan_free(struct cuda_product *plan)
{
    if (plan->desc)
        cublasLtMatmulDescDestroy(plan->desc);
    if (plan->weights)
        cublasLtMatrixLayoutDestroy(plan->weights);
}

void cuda_products_free(struct cuda_device *device)
{
    for (size_t i = 0; i < device->n_products; i++)
        plan_free(&device->products[i]);
    free(device->products);
    device->products = NULL;
    device->n_products = 0;
}

/* NULL with a failure recorded. Valid until the next call. */
static struct cuda_product *plan_of(const struct engine *e, size_t n, size_t k)
{
    struct cuda_device *device = cuda_device_of(e);
    const int32_t transposed = CUBLAS_OP_T;
    struct cuda_product plan = {};

    for (size_t i = 0; i < device->n_products; i++)
        if (device->products[i].n == n && device->products[i].k == k)
            return &device->products[i];
    struct cuda_product *products = (struct cuda_product *)realloc(
        device->products, (device->n_products + 1) * sizeof *products);
    if (!products) {
        cuda_check(e, cudaErrorMemoryAllocation, "planning a matrix product");
        return NULL;
    }
    device->products = products;
    plan.n = n;
    plan.k = k;
    cublasStatus_t status = cublasLtMatmulDescCreate(&plan.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatmulDescSetAttribute(plan.desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                                sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = cublasLtMatrixLayoutCreate(&plan.weights, type_of(e), k, n, (int64_t)k);
    if (status != CUBLAS_STATUS_SUCCESS) {
        plan_free(&plan);
        cuda_check(e, lt_error(status), "planning a matrix product");
        return NULL;
    }
    products[device->n_products] = plan;
    return &products[device->n_products++];
}

static bool aligned(const struct engine *e, const float *y, size_t ldy, const void *x, size_t ldx,
                    const void *weights)
{
    return ((uintptr_t)y | (uintptr_t)x | (uintptr_t)weights | ldy * sizeof *y |
            ldx * element_size(e->element)) %
               ALIGNMENT ==
           0;
}

void cuda_product_part(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                       size_t n_rows, const struct matrix *m, size_t first, size_t n,
                       bool accumulate)
{
    const void *weights = (const char *)m->data + first * m->k_padded * element_size(m->element);
    int range = 0;

    if (n_rows == 0 || n == 0)
        return;
    CUDA_TENSOR(y);
    CUDA_TENSOR(x);
    CUDA_TENSOR(m->data);
    if (!aligned(e, y, ldy, x, ldx, weights)) {
        run_plain(e, y, ldy, x, ldx, n_rows, weights, n, m->k_padded, accumulate);
        return;
    }
    struct cuda_product *plan = plan_of(e, n, m->k_padded);
    if (!plan)
        return;
    while (n_rows > range_end[range])
        range++;
    if (plan->states[range] == PLAN_UNKNOWN)
        choose(e, plan, range, weights);
    if (plan->states[range] == PLAN_PLAIN)
        run_plain(e, y, ldy, x, ldx, n_rows, weights, n, m->k_padded, accumulate);
    else
        cuda_check(e,
                   lt_error(run_cublas(e, plan, &plan->algorithms[range], y, ldy, x, ldx, n_rows,
                                       weights, accumulate)),
                   "a matrix product");
}

void cuda_product_run(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                      size_t n_rows, const struct matrix *m, const float *bias, bool accumulate)
{
    cuda_product_part(e, y, ldy, x, ldx, n_rows, m, 0, m->n, accumulate);
    if (bias)
        cuda_add_bias(e, y, ldy, bias, n_rows, m->n);
}

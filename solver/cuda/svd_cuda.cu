/* svd_cuda.h on a device. Symbols as in docs/decompose.md: B [length, r] is W where it is tall,
 * W^T where it is wide; C = B^T B; q_i is row i of Q. Arrays here are row-major, the libraries are
 * column-major: what is Q [r, r] here has q_i in its column i there. */
#include <cublas_v2.h>
#include <cusolverDn.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "solver/cuda/svd_kernels.h"
#include "solver/svd_cuda.h"

extern "C" {
#include "mpi/error.h"
}

/* Rows of B at a time: a part of the sums' definition. */
enum { BLOCK = 2048 };

struct svd_cuda {
    int number;
    pthread_mutex_t busy;
    cudaStream_t stream;
    cublasHandle_t blas;
    cusolverDnHandle_t solver;
    cusolverDnParams_t params;
    char *memory; /* of the largest matrix so far */
    size_t n_bytes;
    void *host; /* cuSOLVER's scratch on the host */
    size_t n_host_bytes;

    /* The matrix at work, in `memory`: */
    const char *name;
    size_t n_rows, n_columns, r, length;
    float *w;                   /* [n_rows, n_columns] */
    double *c;                  /* C [r, r] */
    double *q;                  /* Q [r, r] */
    double *couplings, *square; /* (B Q^T)^T B Q^T and Q Q^T [r, r]; the contract's later */
    double *block, *product;    /* a block of B (or, wide, of its transpose) and of B Q^T */
    float *factor;              /* [r, r] */
    double *values;             /* [r] */
    double *rows;               /* [3, r] what the host reads of each row */
    uint32_t *order;            /* [r] */
    int *info;
    void *scratch;
    size_t scratch_bytes;
};

/* ---- errors ---------------------------------------------------------------------------------- */

static int fail(const struct svd_cuda *s, const char *what, const char *why)
{
    return error_set("%s: %s failed on CUDA device %d: %s; t2 decompose --device cpu does without "
                     "it",
                     s->name ? s->name : "decomposition", what, s->number, why);
}

static int check(const struct svd_cuda *s, cudaError_t error, const char *what)
{
    return error == cudaSuccess ? 0 : fail(s, what, cudaGetErrorString(error));
}

static int check_blas(const struct svd_cuda *s, cublasStatus_t status, const char *what)
{
    char why[32];

    snprintf(why, sizeof why, "cuBLAS status %d", (int)status);
    return status == CUBLAS_STATUS_SUCCESS ? 0 : fail(s, what, why);
}

static int check_solver(const struct svd_cuda *s, cusolverStatus_t status, const char *what)
{
    char why[32];

    snprintf(why, sizeof why, "cuSOLVER status %d", (int)status);
    return status == CUSOLVER_STATUS_SUCCESS ? 0 : fail(s, what, why);
}

/* After launches. */
static int check_launch(const struct svd_cuda *s, const char *what)
{
    return check(s, cudaGetLastError(), what);
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* The place of the next n_bytes; base NULL: only counts. */
static void *place(char *base, size_t *used, size_t n_bytes)
{
    char *at = base ? base + *used : NULL;

    *used += (n_bytes + 255) / 256 * 256;
    return at;
}

static size_t lay_out(struct svd_cuda *s, char *base)
{
    const size_t square = s->r * s->r;
    size_t used = 0;

    s->w = (float *)place(base, &used, s->n_rows * s->n_columns * sizeof *s->w);
    s->c = (double *)place(base, &used, square * sizeof *s->c);
    s->q = (double *)place(base, &used, square * sizeof *s->q);
    s->couplings = (double *)place(base, &used, square * sizeof *s->couplings);
    s->square = (double *)place(base, &used, square * sizeof *s->square);
    s->block = (double *)place(base, &used, BLOCK * s->r * sizeof *s->block);
    s->product = (double *)place(base, &used, BLOCK * s->r * sizeof *s->product);
    s->factor = (float *)place(base, &used, square * sizeof *s->factor);
    s->values = (double *)place(base, &used, s->r * sizeof *s->values);
    s->rows = (double *)place(base, &used, 3 * s->r * sizeof *s->rows);
    s->order = (uint32_t *)place(base, &used, s->r * sizeof *s->order);
    s->info = (int *)place(base, &used, sizeof *s->info);
    s->scratch = place(base, &used, s->scratch_bytes);
    return used;
}

static int take_memory(struct svd_cuda *s)
{
    size_t free_bytes = 0, all_bytes = 0, n_host = 0;

    /* The sizes do not depend on where the arrays are. */
    if (check_solver(s,
                     cusolverDnXsyevd_bufferSize(s->solver, s->params, CUSOLVER_EIG_MODE_VECTOR,
                                                 CUBLAS_FILL_MODE_LOWER, (int64_t)s->r, CUDA_R_64F,
                                                 s->q, (int64_t)s->r, CUDA_R_64F, s->values,
                                                 CUDA_R_64F, &s->scratch_bytes, &n_host),
                     "the eigensolver") != 0)
        return -1;
    const size_t n_bytes = lay_out(s, NULL);
    if (n_bytes > s->n_bytes) {
        cudaFree(s->memory);
        s->memory = NULL;
        s->n_bytes = 0;
        if (cudaMalloc((void **)&s->memory, n_bytes) != cudaSuccess) {
            cudaGetLastError(); /* is no later call's */
            cudaMemGetInfo(&free_bytes, &all_bytes);
            return error_set("%s [%zu, %zu] needs %.1f GiB on CUDA device %d, which has %.1f free: "
                             "use --device cpu, or a device that nothing else is at work on",
                             s->name, s->n_rows, s->n_columns, (double)n_bytes / 0x1p30, s->number,
                             (double)free_bytes / 0x1p30);
        }
        s->n_bytes = n_bytes;
    }
    if (n_host > s->n_host_bytes) {
        free(s->host);
        s->n_host_bytes = 0;
        s->host = malloc(n_host);
        if (!s->host)
            return error_set("%s: out of memory", s->name);
        s->n_host_bytes = n_host;
    }
    lay_out(s, s->memory);
    return 0;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static bool is_wide(const struct svd_cuda *s)
{
    return s->n_rows < s->n_columns;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* c [m, n] (column-major) = a^(T) b^(T) + beta c */
static int multiply(struct svd_cuda *s, bool transpose_a, bool transpose_b, size_t m, size_t n,
                    size_t k, const double *a, size_t lda, const double *b, size_t ldb, double beta,
                    double *c, size_t ldc)
{
    const double one = 1;

    return check_blas(s,
                      cublasDgemm(s->blas, transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N,
                                  transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N, (int)m, (int)n, (int)k,
                                  &one, a, (int)lda, b, (int)ldb, &beta, c, (int)ldc),
                      "a product");
}

/* Rows first .. first + n of B in f64: tall [n, r], wide their transpose [r, n]. */
static int widen_block(struct svd_cuda *s, size_t first, size_t n)
{
    const size_t width = is_wide(s) ? n : s->r, n_lines = is_wide(s) ? s->r : n;
    const float *from = s->w + (is_wide(s) ? first : first * s->n_columns);
    const size_t blocks = least((width * n_lines + THREADS - 1) / THREADS, 1 << 16);

    GPU_LAUNCH(widen, dim3((unsigned)blocks), dim3(THREADS), 0, s->stream, from, s->n_columns,
               s->block, width, n_lines);
    return check_launch(s, "the reading of a block");
}

static int find_gram(struct svd_cuda *s)
{
    const size_t r = s->r;

    for (size_t first = 0; first < s->length; first += BLOCK) {
        const size_t n = least(BLOCK, s->length - first), ld = is_wide(s) ? n : r;
        if (widen_block(s, first, n) != 0 || multiply(s, is_wide(s), !is_wide(s), r, r, n, s->block,
                                                      ld, s->block, ld, first > 0, s->c, r) != 0)
            return -1;
    }
    return 0;
}

static int find_vectors(struct svd_cuda *s, bool *solved)
{
    int info = 0;

    if (check(s,
              cudaMemcpyAsync(s->q, s->c, s->r * s->r * sizeof *s->q, cudaMemcpyDeviceToDevice,
                              s->stream),
              "a copy") != 0 ||
        check_solver(s,
                     cusolverDnXsyevd(s->solver, s->params, CUSOLVER_EIG_MODE_VECTOR,
                                      CUBLAS_FILL_MODE_LOWER, (int64_t)s->r, CUDA_R_64F, s->q,
                                      (int64_t)s->r, CUDA_R_64F, s->values, CUDA_R_64F, s->scratch,
                                      s->scratch_bytes, s->host, s->n_host_bytes, s->info),
                     "the eigensolver") != 0 ||
        check(s, cudaMemcpyAsync(&info, s->info, sizeof info, cudaMemcpyDeviceToHost, s->stream),
              "the eigensolver") != 0 ||
        check(s, cudaStreamSynchronize(s->stream), "the eigensolver") != 0)
        return -1;
    *solved = info == 0;
    return 0;
}

/* couplings = (B Q^T)^T B Q^T and square = Q Q^T. */
static int find_couplings(struct svd_cuda *s)
{
    const size_t r = s->r;

    for (size_t first = 0; first < s->length; first += BLOCK) {
        const size_t n = least(BLOCK, s->length - first), ld = is_wide(s) ? n : r;
        if (widen_block(s, first, n) != 0 ||
            multiply(s, true, is_wide(s), r, n, r, s->q, r, s->block, ld, 0, s->product, r) != 0 ||
            multiply(s, false, true, r, r, n, s->product, r, s->product, r, first > 0, s->couplings,
                     r) != 0)
            return -1;
    }
    return multiply(s, true, false, r, r, r, s->q, r, s->q, r, 0, s->square, r);
}

static int fetch(struct svd_cuda *s, void *to, const void *from, size_t n_bytes)
{
    if (check(s, cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, s->stream), "a copy") !=
        0)
        return -1;
    return check(s, cudaStreamSynchronize(s->stream), "a step");
}

/* The bound of svd_grid_judge (svd_grid_steps.c): every pair's coupling is measured, only the
 * rounding of B q_i is estimated. rows [3, r] as `measure` has them. INFINITY where the vectors are
 * not to be trusted. */
static double bound_of(const double *lambda, const double *rows, size_t r)
{
    double top = 0, frobenius = 0, off = 0, residual = 0, bound = 0;

    for (size_t i = 0; i < r; i++) {
        top = lambda[i] > top ? lambda[i] : top;
        frobenius += lambda[i];
        off = rows[2 * r + i] <= off ? off : rows[2 * r + i];
        residual = rows[r + i] <= residual ? residual : rows[r + i];
    }
    const double limit = 64 * 0x1p-53 * sqrt((double)r);
    if (!(off <= limit) || !(sqrt(residual) <= limit * top))
        return INFINITY;
    const double floor = (double)r * 0x1p-52;
    for (size_t i = 0; i < r; i++) {
        const double ratio = lambda[i] > 0 ? sqrt(top / lambda[i]) : INFINITY;
        if (!(ratio * floor < 1))
            continue;
        const double across = 0x1p-107 * frobenius / lambda[i];
        const double one = rows[i] / lambda[i] + 0x1p-52 * ratio + across;
        bound = one <= bound ? bound : one;
    }
    return bound;
}

static int find_values(struct svd_cuda *s, double *values, double *bound)
{
    const size_t r = s->r;
    double *rows = (double *)malloc(3 * r * sizeof *rows);
    int status = rows ? find_couplings(s) : error_set("%s: out of memory", s->name);

    if (status == 0) {
        GPU_LAUNCH(divide, dim3((unsigned)((r + THREADS - 1) / THREADS)), dim3(THREADS), 0,
                   s->stream, s->couplings, s->square, r, s->values);
        GPU_LAUNCH(measure, dim3((unsigned)r), dim3(THREADS), 0, s->stream, s->couplings, s->square,
                   s->values, r, s->rows);
        status = check_launch(s, "the quotients");
    }
    if (status == 0)
        status = fetch(s, values, s->values, r * sizeof *values);
    if (status == 0)
        status = fetch(s, rows, s->rows, 3 * r * sizeof *rows);
    if (status == 0)
        *bound = bound_of(values, rows, r);
    free(rows);
    return status;
}

int svd_cuda_solve(struct svd_cuda *s, const char *name, const float *w, size_t n_rows,
                   size_t n_columns, double *values, struct svd_cuda_found *found)
{
    pthread_mutex_lock(&s->busy);
    s->name = name;
    s->n_rows = n_rows;
    s->n_columns = n_columns;
    s->r = least(n_rows, n_columns);
    s->length = n_rows + n_columns - s->r;
    *found = svd_cuda_found{false, 0};
    /* Which device is current is a thread's own matter. */
    if (check(s, cudaSetDevice(s->number), "its choice") != 0 || take_memory(s) != 0 ||
        check(s,
              cudaMemcpyAsync(s->w, w, n_rows * n_columns * sizeof *w, cudaMemcpyHostToDevice,
                              s->stream),
              "a copy") != 0 ||
        find_gram(s) != 0 || find_vectors(s, &found->solved) != 0)
        return -1;
    return found->solved ? find_values(s, values, &found->bound) : 0;
}

/* The largest of s->rows [r]. */
static int fetch_worst(struct svd_cuda *s, double *host, double *worst)
{
    if (fetch(s, host, s->rows, s->r * sizeof *host) != 0)
        return -1;
    *worst = 0;
    for (size_t i = 0; i < s->r; i++)
        *worst = host[i] <= *worst ? *worst : host[i] > *worst ? host[i] : INFINITY;
    return 0;
}

/* order and values to the device; the factor there, and the same in f64. */
static int make_factor(struct svd_cuda *s, const uint32_t *order, const double *values,
                       double *wide)
{
    const size_t r = s->r;

    if (check(
            s,
            cudaMemcpyAsync(s->order, order, r * sizeof *order, cudaMemcpyHostToDevice, s->stream),
            "a copy") != 0 ||
        check(s,
              cudaMemcpyAsync(s->values, values, r * sizeof *values, cudaMemcpyHostToDevice,
                              s->stream),
              "a copy") != 0)
        return -1;
    GPU_LAUNCH(gather, dim3((unsigned)r), dim3(THREADS), 0, s->stream, s->q, s->order, r, s->factor,
               wide);
    return check_launch(s, "the factor");
}

/* The contract of the factor `wide`; product [r, r] is scratch, host [r], too. */
static int check_factor(struct svd_cuda *s, const double *wide, double *product, double *host,
                        double *orthogonality, double *residual)
{
    const size_t r = s->r;
    const dim3 grid((unsigned)r), block(THREADS);

    if (multiply(s, true, false, r, r, r, wide, r, wide, r, 0, product, r) != 0)
        return -1;
    GPU_LAUNCH(deviate, grid, block, 0, s->stream, product, r, s->rows);
    if (check_launch(s, "the check") != 0 || fetch_worst(s, host, orthogonality) != 0 ||
        multiply(s, false, false, r, r, r, s->c, r, wide, r, 0, product, r) != 0)
        return -1;
    GPU_LAUNCH(residuals, grid, block, 0, s->stream, product, wide, s->values, r, s->rows);
    return check_launch(s, "the check") != 0 ? -1 : fetch_worst(s, host, residual);
}

int svd_cuda_deliver(struct svd_cuda *s, const uint32_t *order, const double *values, float *factor,
                     double *orthogonality, double *residual)
{
    double *wide = s->couplings; /* which has served, as has `square` */
    double *host = (double *)malloc(s->r * sizeof *host);
    int status = host ? 0 : error_set("%s: out of memory", s->name);

    if (status == 0)
        status = make_factor(s, order, values, wide);
    if (status == 0)
        status = check_factor(s, wide, s->square, host, orthogonality, residual);
    if (status == 0)
        status = fetch(s, factor, s->factor, s->r * s->r * sizeof *factor);
    free(host);
    return status;
}

void svd_cuda_end(struct svd_cuda *s)
{
    cudaStreamSynchronize(s->stream); /* after a failure, copies of the caller's may be under way */
    s->name = NULL;
    pthread_mutex_unlock(&s->busy);
}

/* ---- the device ------------------------------------------------------------------------------ */

struct svd_cuda *svd_cuda_create(int device)
{
    struct svd_cuda *s = (struct svd_cuda *)calloc(1, sizeof *s);

    if (!s) {
        error_set("out of memory");
        return NULL;
    }
    s->number = device;
    pthread_mutex_init(&s->busy, NULL);
    if (check(s, cudaSetDevice(device), "its start") != 0 ||
        check(s, cudaStreamCreate(&s->stream), "its start") != 0 ||
        check_blas(s, cublasCreate(&s->blas), "its start") != 0 ||
        check_blas(s, cublasSetStream(s->blas, s->stream), "its start") != 0 ||
        check_solver(s, cusolverDnCreate(&s->solver), "its start") != 0 ||
        check_solver(s, cusolverDnSetStream(s->solver, s->stream), "its start") != 0 ||
        check_solver(s, cusolverDnCreateParams(&s->params), "its start") != 0) {
        svd_cuda_free(s);
        return NULL;
    }
    return s;
}

void svd_cuda_free(struct svd_cuda *s)
{
    if (!s)
        return;
    cudaSetDevice(s->number);
    if (s->params)
        cusolverDnDestroyParams(s->params);
    if (s->solver)
        cusolverDnDestroy(s->solver);
    if (s->blas)
        cublasDestroy(s->blas);
    if (s->stream)
        cudaStreamDestroy(s->stream);
    cudaFree(s->memory);
    free(s->host);
    pthread_mutex_destroy(&s->busy);
    free(s);
}

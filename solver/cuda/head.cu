/* The language model's head: logits by cuBLASLt in blocks of rows, and of each row what
 * struct head_result says, in two steps: parts of HEAD_CHUNK columns, then all parts of a row. The
 * chunks are the CPU's, so sums over the vocabulary are cut in the same places. */
#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"

enum {
    HEAD_CHUNK = 1024,
    LOGITS_BYTES = 64 << 20, /* of a block of rows */
};

/* One chunk's part of a row's result: its largest logit, where, and the sum of exp(logit - max). */
struct head_part {
    float max, sum;
    int32_t argmax;
};

/* The larger value, and of equal ones the lower column. */
static __device__ __forceinline__ void take_larger(float *value, int *at, float other, int other_at)
{
    if (other > *value || (other == *value && other_at < *at)) {
        *value = other;
        *at = other_at;
    }
}

/* Of all threads of the block; free for another use after the next barrier. */
static __device__ __forceinline__ void block_largest(float *value, int *at, float *values, int *ats)
{
    const int warp = (int)(threadIdx.x / GPU_WARP), n_warps = (int)(blockDim.x / GPU_WARP);
    for (int bits = GPU_WARP / 2; bits > 0; bits /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, *value, bits);
        const int other_at = __shfl_xor_sync(0xffffffffu, *at, bits);
        take_larger(value, at, other, other_at);
    }
    if (threadIdx.x % GPU_WARP == 0) {
        values[warp] = *value;
        ats[warp] = *at;
    }
    __syncthreads();
    *value = values[0];
    *at = ats[0];
    for (int w = 1; w < n_warps; w++)
        take_larger(value, at, values[w], ats[w]);
}

/* Block (row, chunk) of logits [rows, ldl] -> parts [rows, n_chunks] */
__global__ void head_make_parts(struct head_part *parts, const float *logits, size_t ldl,
                                size_t vocab)
{
    __shared__ float values[GPU_BLOCK / GPU_WARP], sums[GPU_BLOCK / GPU_WARP];
    __shared__ int ats[GPU_BLOCK / GPU_WARP];
    const size_t first = (size_t)blockIdx.y * HEAD_CHUNK;
    const int n = vocab - first < HEAD_CHUNK ? (int)(vocab - first) : (int)HEAD_CHUNK;
    const float *row = logits + blockIdx.x * ldl + first;
    float max = -INFINITY, sum = 0;
    int at = 0x7fffffff;

    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        take_larger(&max, &at, row[i], (int)first + i);
    block_largest(&max, &at, values, ats);
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        sum += gpu_exp(row[i] - max);
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) {
        struct head_part *part = &parts[(size_t)blockIdx.x * gridDim.y + blockIdx.y];
        part->max = max;
        part->sum = sum;
        part->argmax = at < (int)vocab ? at : (int)first; /* all NaN: some column */
    }
}

/* One thread a row: parts are few, and their order is the sum's. */
__global__ void head_add_parts(struct head_result *results, const struct head_part *parts,
                               size_t n_parts, const float *logits, size_t ldl,
                               const int32_t *targets, size_t n_rows)
{
    const size_t r = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n_rows)
        return;
    const struct head_part *row = parts + r * n_parts;
    float max = row[0].max;
    int32_t argmax = row[0].argmax;
    double sum = 0;
    for (size_t i = 1; i < n_parts; i++)
        if (row[i].max > max) {
            max = row[i].max;
            argmax = row[i].argmax;
        }
    for (size_t i = 0; i < n_parts; i++)
        sum += (double)row[i].sum * (double)gpu_exp(row[i].max - max);
    struct head_result *to = &results[r];
    to->argmax = argmax;
    to->max = max;
    to->log_sum = (float)((double)max + log(sum));
    to->target = targets && targets[r] >= 0 ? logits[r * ldl + (size_t)targets[r]] : 0.0f;
}

/* Results (on the device) of n_rows rows whose logits are there. */
static void add_up(const struct engine *e, struct head_result *results, struct head_part *parts,
                   const float *logits, size_t ldl, const int32_t *targets, size_t n_rows,
                   size_t vocab)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const size_t n_chunks = (vocab + HEAD_CHUNK - 1) / HEAD_CHUNK;
    const dim3 grid((unsigned)n_rows, (unsigned)n_chunks);
    GPU_LAUNCH(head_make_parts, grid, gpu_row_threads(vocab), 0, stream, parts, logits, ldl, vocab);
    GPU_LAUNCH(head_add_parts, (unsigned)((n_rows + GPU_WARP - 1) / GPU_WARP), GPU_WARP, 0, stream,
               results, parts, n_chunks, logits, ldl, targets, n_rows);
    cuda_launched(e, "the head");
}

int cuda_head(const struct engine *e, struct head_result *results, float *logits, size_t ldl,
              const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
              const int32_t *targets)
{
    const size_t vocab = m->n, n_chunks = (vocab + HEAD_CHUNK - 1) / HEAD_CHUNK;
    const size_t own_ldl = round_up(vocab, KERNEL_COLUMNS), row_bytes = own_ldl * sizeof *logits;
    const size_t most = row_bytes * n_rows <= LOGITS_BYTES ? n_rows
                        : LOGITS_BYTES > row_bytes         ? LOGITS_BYTES / row_bytes
                                                           : 1;
    const size_t result_bytes = round_up(n_rows * sizeof *results, 256);
    const size_t part_bytes = round_up(most * n_chunks * sizeof(struct head_part), 256);
    const int32_t *sent = NULL;

    if (n_rows == 0)
        return 0;
    CUDA_TENSOR(x);
    char *scratch =
        (char *)cuda_scratch(e, CUDA_SLOT_HEAD, result_bytes + part_bytes + most * row_bytes);
    if (targets)
        sent = (const int32_t *)cuda_send(e, targets, n_rows * sizeof *targets);
    if (!scratch || (targets && !sent))
        return cuda_status(e);
    struct head_result *on_device = (struct head_result *)(void *)scratch;
    struct head_part *parts = (struct head_part *)(void *)(scratch + result_bytes);
    float *y = (float *)(void *)(scratch + result_bytes + part_bytes);

    for (size_t r = 0; r < n_rows; r += most) {
        const size_t n = n_rows - r < most ? n_rows - r : most;
        cuda_product_run(e, y, own_ldl, (const char *)x + r * ldx * element_size(e->element), ldx,
                         n, m, NULL, false);
        add_up(e, on_device + r, parts, y, own_ldl, sent ? sent + r : NULL, n, vocab);
        if (logits)
            cuda_check(e,
                       cudaMemcpy2DAsync(logits + r * ldl, ldl * sizeof *y, y, row_bytes, row_bytes,
                                         n, cudaMemcpyDeviceToHost, cuda_device_of(e)->stream),
                       "fetching logits");
    }
    return cuda_fetch(e, results, on_device, n_rows * sizeof *results);
}

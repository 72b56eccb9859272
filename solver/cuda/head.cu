/* The language model's head: logits by cuBLASLt in blocks of rows, and of each row what
 * struct head_result says, in the two steps of head_part.h. */
#include "solver/cuda/element.h"
#include "solver/cuda/engine_internal.h"
#include "solver/cuda/head_part.h"

enum {
    LOGITS_BYTES = 64 << 20, /* of a block of rows */
};

/* Block (row, chunk) of logits [rows, ldl] -> parts [rows, n_chunks] */
__global__ void head_make_parts(struct head_part *parts, const float *logits, size_t ldl,
                                size_t vocab)
{
    __shared__ struct head_shared shared;
    const struct head_part part =
        head_part_make(logits + blockIdx.x * ldl, blockIdx.y * HEAD_CHUNK, vocab, &shared);
    if (threadIdx.x == 0)
        parts[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = part;
}

/* One thread a row: parts are few, and their order is the sum's. */
__global__ void head_add_parts(struct head_result *results, const struct head_part *parts,
                               size_t n_parts, const float *logits, size_t ldl,
                               const int32_t *targets, size_t n_rows)
{
    const size_t r = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= n_rows)
        return;
    struct head_result *to = &results[r];
    const double sum = head_parts_sum(parts + r * n_parts, n_parts, &to->max, &to->argmax);
    to->log_sum = (float)((double)to->max + log(sum));
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

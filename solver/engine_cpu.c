#include "solver/engine.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

/* Rows below this are not worth waking threads for in the cheap element-wise operations. */
enum { FEW_ROWS = 4 };

/* The head works through its columns in chunks of a fixed size, so that sums over the vocabulary
 * are cut in the same places on any number of threads, and through rows in blocks whose logits stay
 * in cache. */
enum { HEAD_CHUNK = 1024, HEAD_ROWS = 128 };

static void to_elements(const struct engine *e, void *x, size_t at, const float *values, size_t n)
{
    if (e->element == ELEMENT_F32)
        memcpy((float *)x + at, values, n * sizeof(float));
    else
        e->math->to_bf16((uint16_t *)x + at, values, n);
}

static void clear_elements(const struct engine *e, void *x, size_t at, size_t n)
{
    const size_t size = element_size(e->element);
    memset((char *)x + at * size, 0, n * size);
}

static void cpu_embed(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                      const int32_t *ids, size_t n)
{
#pragma omp parallel for num_threads(e->n_threads) if (n >= FEW_ROWS)
    for (size_t r = 0; r < n; r++)
        matrix_unpack_row(m, (size_t)ids[r], y + r * ldy);
}

static void cpu_norm(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
                     const int32_t *rows, size_t n_rows, const float *weight, size_t width,
                     float eps)
{
#pragma omp parallel for num_threads(e->n_threads) if (n_rows >= FEW_ROWS)
    for (size_t r = 0; r < n_rows; r++) {
        const float *in = h + (rows ? (size_t)rows[r] : r) * ldh;
        const float mean = e->math->sum_squares(in, width) / (float)width;
        const float a = 1.0f / sqrtf(mean + eps);
        enum { PART = 512 };
        float part[PART];
        for (size_t i = 0; i < width; i += PART) {
            const size_t n = width - i < PART ? width - i : PART;
            e->math->norm_scale(part, in + i, weight + i, a, n);
            to_elements(e, x, r * ldx + i, part, n);
        }
        clear_elements(e, x, r * ldx + width, ldx - width);
    }
}

static void cpu_product(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                        size_t n_rows, const struct matrix *m, const float *bias, bool accumulate)
{
    matrix_product(e->kernels, y, ldy, x, ldx, n_rows, m, 0, m->n_panels, accumulate, e->n_threads);
    if (!bias)
        return;
    const size_t width = m->n_panels * KERNEL_COLUMNS;
#pragma omp parallel for num_threads(e->n_threads) if (n_rows >= FEW_ROWS)
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < width; i++)
            y[r * ldy + i] += bias[i];
}

static void cpu_swiglu(const struct engine *e, void *x, size_t ldx, const float *gate_up,
                       size_t ldg, size_t up_offset, size_t n_rows, size_t width)
{
#pragma omp parallel for num_threads(e->n_threads) if (n_rows >= FEW_ROWS)
    for (size_t r = 0; r < n_rows; r++) {
        const float *gate = gate_up + r * ldg, *up = gate + up_offset;
        enum { PART = 512 };
        float part[PART];
        for (size_t i = 0; i < width; i += PART) {
            const size_t n = width - i < PART ? width - i : PART;
            e->math->silu_mul(part, gate + i, up + i, n);
            to_elements(e, x, r * ldx + i, part, n);
        }
        clear_elements(e, x, r * ldx + width, ldx - width);
    }
}

/* One chunk's part of a row's result: its largest logit, where, and the sum of exp(logit - max). */
struct head_part {
    float max, sum;
    int32_t argmax;
};

static void head_chunk_row(const struct engine *e, struct head_part *part, const float *logits,
                           size_t first, size_t n)
{
    float scratch[HEAD_CHUNK];
    part->max = e->math->max(logits, n);
    part->argmax = (int32_t)first;
    for (size_t i = 0; i < n; i++)
        if (logits[i] == part->max) {
            part->argmax = (int32_t)(first + i);
            break;
        }
    part->sum = e->math->exp_sum(scratch, logits, part->max, n);
}

static void head_combine(struct head_result *result, const struct head_part *parts, size_t n)
{
    result->max = parts[0].max;
    result->argmax = parts[0].argmax;
    for (size_t i = 1; i < n; i++)
        if (parts[i].max > result->max) {
            result->max = parts[i].max;
            result->argmax = parts[i].argmax;
        }
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += parts[i].sum * exp((double)parts[i].max - result->max);
    result->log_sum = (float)(result->max + log(sum));
}

static int cpu_head(const struct engine *e, struct head_result *results, float *logits, size_t ldl,
                    const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
                    const int32_t *targets)
{
    const size_t n_chunks = (m->n + HEAD_CHUNK - 1) / HEAD_CHUNK;
    const size_t x_bytes = ldx * element_size(e->element);
    struct head_part *parts = malloc(n_rows * n_chunks * sizeof *parts);
    float *scratch =
        logits ? NULL
               : aligned_alloc(64, (size_t)e->n_threads * HEAD_ROWS * HEAD_CHUNK * sizeof *scratch);
    int status = 0;
    if (!parts || (!logits && !scratch)) {
        status = error_set("no memory for the logits of %zu tokens", n_rows);
        goto done;
    }
    for (size_t r = 0; r < n_rows; r++)
        results[r].target = 0;

#pragma omp parallel for num_threads(e->n_threads) schedule(dynamic)
    for (size_t chunk = 0; chunk < n_chunks; chunk++) {
        const size_t first = chunk * HEAD_CHUNK;
        const size_t n = m->n - first < HEAD_CHUNK ? m->n - first : HEAD_CHUNK;
        const size_t n_panels = (n + KERNEL_COLUMNS - 1) / KERNEL_COLUMNS;
        for (size_t r0 = 0; r0 < n_rows; r0 += HEAD_ROWS) {
            const size_t n_block = n_rows - r0 < HEAD_ROWS ? n_rows - r0 : HEAD_ROWS;
            float *y = logits ? logits + r0 * ldl + first
                              : scratch + (size_t)omp_get_thread_num() * HEAD_ROWS * HEAD_CHUNK;
            const size_t ldy = logits ? ldl : HEAD_CHUNK;
            matrix_product(e->kernels, y, ldy, (const char *)x + r0 * x_bytes, ldx, n_block, m,
                           first / KERNEL_COLUMNS, n_panels, false, 1);
            for (size_t r = 0; r < n_block; r++) {
                head_chunk_row(e, &parts[(r0 + r) * n_chunks + chunk], y + r * ldy, first, n);
                const int32_t target = targets ? targets[r0 + r] : -1;
                if (target >= 0 && (size_t)target >= first && (size_t)target < first + n)
                    results[r0 + r].target = y[r * ldy + (size_t)target - first];
            }
        }
    }
    for (size_t r = 0; r < n_rows; r++)
        head_combine(&results[r], parts + r * n_chunks, n_chunks);
done:
    free(parts);
    free(scratch);
    return status;
}

static const struct engine_ops cpu_ops = {
    .device = "cpu",
    .embed = cpu_embed,
    .norm = cpu_norm,
    .product = cpu_product,
    .store = attention_cpu_store,
    .attention = attention_cpu_run,
    .swiglu = cpu_swiglu,
    .head = cpu_head,
};

void engine_cpu(struct engine *e, enum element element, enum isa isa, int n_threads)
{
    *e = (struct engine){.ops = &cpu_ops,
                         .element = element,
                         .isa = isa,
                         .n_threads = n_threads,
                         .kernels = kernels_find(element, isa),
                         .math = vecmath_find(isa)};
}

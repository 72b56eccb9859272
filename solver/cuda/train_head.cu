/* The head's loss and its gradient on a CUDA device, for a block of rows at a time. With l a row's
 * logits and l0 the base model's, S = sum of exp(l - max), s = log_sum - log_sum0,
 *
 *   p = exp(l - max) / S,  d = log p - log p0 = l - l0 - s,  p0 = exp(l - max - d) / S
 *   entropy = log S - sum p (l - max)
 *   KL = sum p d = sum p (d - 1 + e^-d)                 (sum p = sum p0 = 1)
 *   KL0 = - sum p0 d = sum p (1 - e^-d (1 + d))
 *   dlogits = weight (p - onehot) + kl_weight p (d - KL) + kl0_weight (p - p0)
 *
 * The second form of KL and KL0 has no negative terms and does not feel an error in s; it is used
 * where KL is small (a policy near its base), the first one elsewhere. Sums over the vocabulary
 * are cut into chunks of HEAD_CHUNK columns, a block each; a thread for each row adds up the
 * chunks' in order. */
#include <math.h>

#include "solver/cuda/head_part.h"
#include "solver/cuda/train_internal.h"

static const size_t HEAD_ROWS = 512;
/* f32 sums over the vocabulary are cut into chains: one alone rounds too much
 * (docs/training.md). */
static const size_t CHAIN = 1024;
static const unsigned ROWS_THREADS = 32;
/* Above this, KL is the plain sum of p d. */
static const double KL_PLAIN = 0.01;

/* sum of e d and of its second form, and those of KL0, with e = exp(l - the row's max) */
struct ratio_part {
    double kl, kl_excess, kl0, kl0_excess;
};

/* What is known of a row after all its chunks. */
struct head_row {
    float max, shift; /* shift: log_sum - log_sum0 */
    double sum, kl;   /* of exp(l - max); KL */
    double logprob;   /* of the target */
    /* factors of e, e d and e - e0 in the gradient, with e = exp(l - max) */
    float by_p, by_ratio, by_apart;
};

/* A block of rows, by value to the kernels. */
struct head_block {
    size_t n_rows, n, ldl, n_chunks;  /* n: the vocabulary */
    const float *logits;              /* [n_rows, ldl] */
    float *base;                      /* [n_rows, ldl] l0, then l - l0; or NULL */
    struct head_part *parts, *parts0; /* [n_rows, n_chunks] */
    struct ratio_part *ratios;        /* [n_rows, n_chunks] */
    float *base_targets;              /* [n_rows] */
    struct head_row *rows;            /* [n_rows] */
    const struct head_term *terms;
    struct head_term_result *results;
};

/* ---- a chunk --------------------------------------------------------------------------------- */

/* Block (chunk, row). */
static __global__ void parts_kernel(const struct head_block b)
{
    __shared__ struct head_shared shared;
    const size_t row = blockIdx.y, at = row * b.n_chunks + blockIdx.x;
    const size_t first = blockIdx.x * HEAD_CHUNK;
    const size_t end = b.n - first < HEAD_CHUNK ? b.n : first + HEAD_CHUNK;
    const float *logits = b.logits + row * b.ldl;
    const struct head_part part = head_part_make(logits, first, b.n, &shared);
    if (threadIdx.x == 0)
        b.parts[at] = part;
    if (!b.base)
        return;
    float *base = b.base + row * b.ldl;
    const struct head_part part0 = head_part_make(base, first, b.n, &shared);
    if (threadIdx.x == 0)
        b.parts0[at] = part0;
    __syncthreads();
    for (size_t c = first + threadIdx.x; c < end; c += blockDim.x) {
        if ((long long)c == b.terms[row].target)
            b.base_targets[row] = base[c];
        base[c] = logits[c] - base[c];
    }
}

/* ---- a row ----------------------------------------------------------------------------------- */

/* A thread to a row: everything but the divergences. */
static __global__ void rows_kernel(const struct head_block b)
{
    const size_t r = column_here();
    if (r >= b.n_rows)
        return;
    const struct head_part *parts = b.parts + r * b.n_chunks;
    const int32_t target = b.terms[r].target;
    struct head_term_result result = {};
    struct head_row row = {};
    double moment = 0;

    row.sum = head_parts_sum(parts, b.n_chunks, &row.max, &result.argmax);
    for (size_t c = 0; c < b.n_chunks; c++) {
        const double below = (double)parts[c].max - (double)row.max;
        moment += exp(below) * ((double)parts[c].moment + below * (double)parts[c].sum);
    }
    const double log_sum = (double)row.max + log(row.sum);
    result.entropy = (float)(log(row.sum) - moment / row.sum);
    if (target >= 0) {
        const float logit = b.logits[r * b.ldl + (size_t)target];
        row.logprob = ((double)logit - (double)row.max) - log(row.sum);
        result.logprob = logit - (float)log_sum;
    }
    if (b.base) {
        float max0;
        int32_t argmax0;
        const double sum0 = head_parts_sum(b.parts0 + r * b.n_chunks, b.n_chunks, &max0, &argmax0);
        const double log_sum0 = (double)max0 + log(sum0);
        row.shift = (float)(log_sum - log_sum0);
        if (target >= 0)
            result.base_logprob = b.base_targets[r] - (float)log_sum0;
    }
    row.by_p = target >= 0 ? (float)((double)b.terms[r].weight / row.sum) : 0;
    b.rows[r] = row;
    b.results[r] = result;
}

/* A thread to a row: the divergences, and what follows for the gradient. */
static __global__ void divergences_kernel(const struct head_block b)
{
    const size_t r = column_here();
    if (r >= b.n_rows)
        return;
    const struct ratio_part *parts = b.ratios + r * b.n_chunks;
    struct ratio_part sum = {0, 0, 0, 0};
    for (size_t c = 0; c < b.n_chunks; c++) {
        sum.kl += parts[c].kl;
        sum.kl_excess += parts[c].kl_excess;
        sum.kl0 += parts[c].kl0;
        sum.kl0_excess += parts[c].kl0_excess;
    }
    struct head_row *row = &b.rows[r];
    const struct head_term *term = &b.terms[r];
    const double kl = sum.kl / row->sum, kl0 = sum.kl0 / row->sum;
    row->kl = kl > KL_PLAIN ? kl : sum.kl_excess / row->sum;
    b.results[r].kl = (float)row->kl;
    b.results[r].kl0 = (float)(kl0 > KL_PLAIN ? kl0 : sum.kl0_excess / row->sum);
    const double weight = term->target >= 0 ? (double)term->weight : 0;
    row->by_p = (float)((weight - (double)term->kl_weight * row->kl) / row->sum);
    row->by_ratio = (float)((double)term->kl_weight / row->sum);
    row->by_apart = (float)((double)term->kl0_weight / row->sum);
}

/* ---- an element ------------------------------------------------------------------------------ */

/* d^2 (1/2! - d/3! + ... + d^6/8!) = d - 1 + e^-d for |d| < 1/2: the first term left out is 4e-8
 * of the sum. */
static __device__ double excess_near(double d)
{
    double p = 1.0 / 40320;
    p = p * d - 1.0 / 5040;
    p = p * d + 1.0 / 720;
    p = p * d - 1.0 / 120;
    p = p * d + 1.0 / 24;
    p = p * d - 1.0 / 6;
    p = p * d + 1.0 / 2;
    return d * d * p;
}

/* 1 - e^-d (1 + d) for |d| < 1/20, by its series */
static __device__ double excess0_near(double d)
{
    return d * d * (1.0 / 2 - d * (1.0 / 3 - d * (1.0 / 8 - d * (1.0 / 30 - d / 144))));
}

/* Block (chunk, row): its sums of ratios. */
static __global__ void ratios_kernel(const struct head_block b)
{
    __shared__ double shared[4][GPU_BLOCK / GPU_WARP];
    const size_t row = blockIdx.y, first = blockIdx.x * HEAD_CHUNK;
    const size_t end = b.n - first < HEAD_CHUNK ? b.n : first + HEAD_CHUNK;
    const float *logits = b.logits + row * b.ldl, *base = b.base + row * b.ldl;
    const float max = b.rows[row].max, shift = b.rows[row].shift;
    struct ratio_part sum = {0, 0, 0, 0};

    for (size_t c = first + threadIdx.x; c < end; c += blockDim.x) {
        const float below = logits[c] - max, ratio = base[c] - shift;
        const double e = (double)gpu_exp(below), e0 = (double)gpu_exp(below - ratio),
                     d = (double)ratio;
        sum.kl += e * d;
        sum.kl_excess += fabs(d) < 0.5 ? e * excess_near(d) : e * (d - 1) + e0;
        sum.kl0 -= e0 * d;
        sum.kl0_excess += fabs(d) < 0.05 ? e * excess0_near(d) : e - e0 * (1 + d);
    }
    sum.kl = block_sum_f64(sum.kl, shared[0]);
    sum.kl_excess = block_sum_f64(sum.kl_excess, shared[1]);
    sum.kl0 = block_sum_f64(sum.kl0, shared[2]);
    sum.kl0_excess = block_sum_f64(sum.kl0_excess, shared[3]);
    if (threadIdx.x == 0)
        b.ratios[row * b.n_chunks + blockIdx.x] = sum;
}

/* e - e0, for small d without cancellation */
static __device__ float difference(float e, float below, float d)
{
    return fabsf(d) < 0.5f ? -e * expm1f(-d) : e - gpu_exp(below - d);
}

static __device__ float target_gradient(const struct head_term *term, const struct head_row *row,
                                        bool base, float difference, float d)
{
    double value = (double)term->weight * expm1(row->logprob); /* p - 1 without cancellation */
    if (base)
        value += (double)term->kl_weight * exp(row->logprob) * ((double)d - row->kl) +
                 (double)term->kl0_weight * (double)difference / row->sum;
    return (float)value;
}

/* gradient elements [n_rows, ldg], zero after the vocabulary */
template <typename T>
static __global__ void gradient_kernel(const struct head_block b, void *gradient, size_t ldg)
{
    const size_t c = column_here(), r = blockIdx.y;
    if (c >= ldg)
        return;
    float value = 0;
    if (c < b.n) {
        const struct head_row *row = &b.rows[r];
        const float below = b.logits[r * b.ldl + c] - row->max, e = gpu_exp(below);
        float d = 0, apart = 0;
        if (b.base) {
            d = b.base[r * b.ldl + c] - row->shift;
            apart = difference(e, below, d);
            value = e * __fmaf_rn(row->by_ratio, d, row->by_p) + row->by_apart * apart;
        } else {
            value = e * row->by_p;
        }
        if ((long long)c == b.terms[r].target)
            value = target_gradient(&b.terms[r], row, b.base != nullptr, apart, d);
    }
    store_element((T *)gradient + r * ldg + c, value);
}

/* ---- the call -------------------------------------------------------------------------------- */

/* What a call needs on the device. */
struct room {
    float *logits, *base;
    void *gradient, *slice;
    struct head_part *parts, *parts0;
    struct ratio_part *ratios;
    float *base_targets;
    struct head_row *rows;
    struct head_term_result *results; /* [n] of the call */
};

/* n bytes at *at of memory, 256-byte aligned; NULL memory only counts */
static void *cut(char *memory, size_t *at, size_t n)
{
    char *p = memory ? memory + *at : NULL;
    *at += round_up(n, 256);
    return p;
}

static struct room cut_room(const struct head_block *b, bool base, size_t gradient_bytes,
                            size_t slice_bytes, size_t n, char *memory, size_t *bytes)
{
    const size_t n_parts = b->n_rows * b->n_chunks, logits = b->n_rows * b->ldl * sizeof(float);
    struct room room = {};
    *bytes = 0;
    room.logits = (float *)cut(memory, bytes, logits);
    room.base = base ? (float *)cut(memory, bytes, logits) : NULL;
    room.gradient = gradient_bytes ? cut(memory, bytes, gradient_bytes) : NULL;
    room.slice = slice_bytes ? cut(memory, bytes, slice_bytes) : NULL;
    room.parts = (struct head_part *)cut(memory, bytes, n_parts * sizeof *room.parts);
    room.parts0 = (struct head_part *)cut(memory, bytes, n_parts * sizeof *room.parts0);
    room.ratios = (struct ratio_part *)cut(memory, bytes, n_parts * sizeof *room.ratios);
    room.base_targets = (float *)cut(memory, bytes, b->n_rows * sizeof *room.base_targets);
    room.rows = (struct head_row *)cut(memory, bytes, b->n_rows * sizeof *room.rows);
    room.results = (struct head_term_result *)cut(memory, bytes, n * sizeof *room.results);
    return room;
}

/* Logits to results, and to the gradient's elements [n_rows, ldg] where there is a place. */
static void run_block(const struct engine *e, const struct head_block &b, void *gradient,
                      size_t ldg)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const dim3 chunks((unsigned)b.n_chunks, (unsigned)b.n_rows);
    const unsigned rows = (unsigned)((b.n_rows + ROWS_THREADS - 1) / ROWS_THREADS);

    GPU_LAUNCH(parts_kernel, chunks, gpu_row_threads(b.n), 0, stream, b);
    GPU_LAUNCH(rows_kernel, rows, ROWS_THREADS, 0, stream, b);
    if (b.base) {
        GPU_LAUNCH(ratios_kernel, chunks, gpu_row_threads(b.n), 0, stream, b);
        GPU_LAUNCH(divergences_kernel, rows, ROWS_THREADS, 0, stream, b);
    }
    if (gradient && e->element == ELEMENT_F32)
        GPU_LAUNCH(gradient_kernel<float>, columns_grid(ldg, b.n_rows), COLUMN_THREADS, 0, stream,
                   b, gradient, ldg);
    else if (gradient)
        GPU_LAUNCH(gradient_kernel<bf16>, columns_grid(ldg, b.n_rows), COLUMN_THREADS, 0, stream, b,
                   gradient, ldg);
    cuda_launched(e, "the head's gradient");
}

/* dx [n_rows, lddx] = gradient [n_rows, k_padded] m_t^T. In f32 a chain is copied out of m_t to
 * `slice` and its sums are added to those before. */
static void multiply_back(const struct engine *e, float *dx, size_t lddx, const void *gradient,
                          size_t n_rows, const struct matrix *m_t, void *slice)
{
    const size_t ldg = m_t->k_padded;
    if (!slice) {
        cuda_product_run(e, dx, lddx, gradient, ldg, n_rows, m_t, NULL, false);
        return;
    }
    for (size_t k = 0; k < ldg; k += CHAIN) {
        struct matrix part = *m_t;
        part.k = part.k_padded = ldg - k < CHAIN ? ldg - k : CHAIN;
        part.data = slice;
        cuda_check(e,
                   cudaMemcpy2DAsync(slice, part.k * sizeof *dx, (const float *)m_t->data + k,
                                     ldg * sizeof *dx, part.k * sizeof *dx,
                                     m_t->n_panels * KERNEL_COLUMNS, cudaMemcpyDeviceToDevice,
                                     cuda_device_of(e)->stream),
                   "the head's gradient");
        cuda_product_run(e, dx, lddx, (const float *)gradient + k, ldg, n_rows, &part, NULL, k > 0);
    }
}

int cuda_head_backward(const struct engine *e, float *dx, size_t lddx, const void *x,
                       const void *x0, size_t ldx, size_t n, const struct matrix *m,
                       const struct matrix *m_t, const struct head_term *terms,
                       struct head_term_result *results)
{
    const size_t size = element_size(e->element), ldg = dx ? m_t->k_padded : 0;
    const bool chains = dx && e->element == ELEMENT_F32 && ldg > CHAIN;
    const size_t slice_bytes = chains ? m_t->n_panels * KERNEL_COLUMNS * CHAIN * sizeof(float) : 0;
    struct head_block b = {};
    size_t bytes;

    if (n == 0)
        return 0;
    CUDA_TENSOR(x);
    CUDA_TENSOR(dx);
    b.n_rows = n < HEAD_ROWS ? n : HEAD_ROWS;
    b.n = m->n;
    b.ldl = round_up(m->n, KERNEL_K_STEP);
    b.n_chunks = (m->n + HEAD_CHUNK - 1) / HEAD_CHUNK;
    cut_room(&b, x0 != NULL, b.n_rows * ldg * size, slice_bytes, n, NULL, &bytes);
    char *memory = (char *)cuda_scratch(e, CUDA_SLOT_BACKWARD, bytes);
    if (!memory)
        return cuda_status(e);
    const struct room room =
        cut_room(&b, x0 != NULL, b.n_rows * ldg * size, slice_bytes, n, memory, &bytes);
    b.logits = room.logits;
    b.base = room.base;
    b.parts = room.parts;
    b.parts0 = room.parts0;
    b.ratios = room.ratios;
    b.base_targets = room.base_targets;
    b.rows = room.rows;
    for (size_t r = 0; r < n; r += HEAD_ROWS) {
        b.n_rows = n - r < HEAD_ROWS ? n - r : HEAD_ROWS;
        b.results = room.results + r;
        b.terms = (const struct head_term *)cuda_send(e, terms + r, b.n_rows * sizeof *terms);
        if (!b.terms)
            break;
        cuda_product_run(e, room.logits, b.ldl, (const char *)x + r * ldx * size, ldx, b.n_rows, m,
                         NULL, false);
        if (x0)
            cuda_product_run(e, b.base, b.ldl, (const char *)x0 + r * ldx * size, ldx, b.n_rows, m,
                             NULL, false);
        run_block(e, b, room.gradient, ldg);
        if (dx)
            multiply_back(e, dx + r * lddx, lddx, room.gradient, b.n_rows, m_t, room.slice);
    }
    if (cuda_status(e) != 0)
        return -1;
    return cuda_fetch(e, results, room.results, n * sizeof *results);
}

#include "solver/engine_train.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train_internal.h"

enum {
    SUM_ROWS = 64,     /* rows of one chain of multiply_sum */
    SUM_COLUMNS = 256, /* columns that it goes through the rows with */
    OUTER_ROWS = 512,  /* rows that outer_sum packs at a time */
};

/* ---- row by row ------------------------------------------------------------------------------ */

struct rows_job {
    const struct engine *e;
    void *x;
    size_t ldx;
    const float *values, *by;
    size_t ld, width;
};

static void elements_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct rows_job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const float *values = j->values + r * j->ld;
        float part[ENGINE_PART];
        if (!j->by)
            to_elements(j->e, j->x, r * j->ldx, values, j->width);
        for (size_t i = 0; j->by && i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            j->e->math->multiply(part, values + i, j->by + i, n);
            to_elements(j->e, j->x, r * j->ldx + i, part, n);
        }
        clear_elements(j->e, j->x, r * j->ldx + j->width, j->ldx - j->width);
    }
}

static void cpu_to_elements(const struct engine *e, void *x, size_t ldx, const float *values,
                            size_t ldv, size_t n, size_t width)
{
    struct rows_job job = {e, x, ldx, values, NULL, ldv, width};
    team_ranges(e->team, elements_rows, &job, n, rows_of(width));
}

static void cpu_gather_rows(const struct engine *e, float *y, size_t ldy, const float *h,
                            size_t ldh, const int32_t *rows, size_t n, size_t width)
{
    (void)e;
    for (size_t r = 0; r < n; r++)
        memcpy(y + r * ldy, h + (size_t)rows[r] * ldh, width * sizeof *y);
}

static void cpu_scatter_add_rows(const struct engine *e, float *h, size_t ldh, const float *y,
                                 size_t ldy, const int32_t *rows, size_t n, size_t width)
{
    (void)e;
    for (size_t r = 0; r < n; r++) {
        float *to = h + (size_t)rows[r] * ldh;
        for (size_t i = 0; i < width; i++)
            to[i] += y[r * ldy + i];
    }
}

static void cpu_scale_columns(const struct engine *e, void *u, size_t ldu, const float *h,
                              size_t ldh, const float *z, size_t n, size_t width)
{
    struct rows_job job = {e, u, ldu, h, z, ldh, width};
    team_ranges(e->team, elements_rows, &job, n, rows_of(width));
}

struct norm_backward_job {
    const struct engine *e;
    float *dh;
    size_t lddh;
    const float *dx;
    size_t ldx;
    const float *h;
    size_t ldh;
    const float *weight;
    size_t width;
    float eps;
};

void engine_norm_backward_row(const struct engine *e, float *dh, const float *dx, const float *h,
                              const float *weight, size_t width, float eps)
{
    const float a = norm_factor(e, h, width, eps);
    const float mean = e->math->dot3(h, weight, dx, width) / (float)width;
    e->math->norm_backward(dh, dx, h, weight, a, a * a * mean, width);
}

static void norm_backward_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct norm_backward_job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++)
        engine_norm_backward_row(j->e, j->dh + r * j->lddh, j->dx + r * j->ldx, j->h + r * j->ldh,
                                 j->weight, j->width, j->eps);
}

static void cpu_norm_backward(const struct engine *e, float *dh, size_t lddh, const float *dx,
                              size_t ldx, const float *h, size_t ldh, size_t n, const float *weight,
                              size_t width, float eps)
{
    struct norm_backward_job job = {e, dh, lddh, dx, ldx, h, ldh, weight, width, eps};
    team_ranges(e->team, norm_backward_rows, &job, n, rows_of(width));
}

struct swiglu_backward_job {
    const struct engine *e;
    void *dgate_up;
    size_t ldd;
    const float *dx;
    size_t ldx;
    const float *gate_up;
    size_t ldg, up_offset, width;
};

static void swiglu_backward_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct swiglu_backward_job *j = arg;
    const struct engine *e = j->e;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const float *gate = j->gate_up + r * j->ldg, *up = gate + j->up_offset;
        const size_t row = r * j->ldd, after = j->up_offset + j->width;
        float dgate[ENGINE_PART], dup[ENGINE_PART];
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            e->math->silu_backward(dgate, dup, j->dx + r * j->ldx + i, gate + i, up + i, n);
            to_elements(e, j->dgate_up, row + i, dgate, n);
            to_elements(e, j->dgate_up, row + j->up_offset + i, dup, n);
        }
        clear_elements(e, j->dgate_up, row + j->width, j->up_offset - j->width);
        clear_elements(e, j->dgate_up, row + after, j->ldd - after);
    }
}

static void cpu_swiglu_backward(const struct engine *e, void *dgate_up, size_t ldd, const float *dx,
                                size_t ldx, const float *gate_up, size_t ldg, size_t up_offset,
                                size_t n, size_t width)
{
    struct swiglu_backward_job job = {e, dgate_up, ldd, dx, ldx, gate_up, ldg, up_offset, width};
    team_ranges(e->team, swiglu_backward_rows, &job, n, rows_of(2 * width));
}

/* ---- sums over rows -------------------------------------------------------------------------- */

struct multiply_sum_job {
    const struct engine *e;
    float *dz;
    const float *h, *q;
    size_t ldh, ldq, n;
};

/* Chains over SUM_ROWS rows from +0, added to dz one after the other: shorter chains round less
 * than one over all rows. */
static void multiply_sum_columns(void *arg, size_t first, size_t end, int thread)
{
    const struct multiply_sum_job *j = arg;
    (void)thread;
    for (size_t c = first; c < end; c += SUM_COLUMNS) {
        const size_t n = end - c < SUM_COLUMNS ? end - c : SUM_COLUMNS;
        for (size_t r0 = 0; r0 < j->n; r0 += SUM_ROWS) {
            const size_t r1 = j->n - r0 < SUM_ROWS ? j->n : r0 + SUM_ROWS;
            float sum[SUM_COLUMNS] = {0};
            for (size_t r = r0; r < r1; r++)
                j->e->math->multiply_add(sum, j->h + r * j->ldh + c, j->q + r * j->ldq + c, n);
            j->e->math->add(j->dz + c, sum, n);
        }
    }
}

static void cpu_multiply_sum(const struct engine *e, float *dz, const float *h, size_t ldh,
                             const float *q, size_t ldq, size_t n, size_t width)
{
    struct multiply_sum_job job = {e, dz, h, q, ldh, ldq, n};
    /* whole cache lines, so that threads do not share one */
    team_ranges(e->team, multiply_sum_columns, &job, width, 32 + ENGINE_GRAIN / (n + 1));
}

struct outer_job {
    const struct engine *e;
    const char *a, *b; /* of this block of rows */
    size_t lda, n_a, ldb, n_b, n;
    uint32_t *a_t; /* [n_a, k] elements */
    struct matrix panels;
};

/* Elements as 32-bit words: f32 numbers, or pairs of bf16 of neighbouring rows. to [n_words, ld]
 * takes columns c .. c + n_columns of the block's rows. */
static void outer_words(const struct outer_job *j, uint32_t *to, size_t ld, const char *from,
                        size_t ldf, size_t c, size_t n_columns)
{
    const size_t k = j->panels.k_padded;
    if (j->e->element == ELEMENT_F32) {
        for (size_t r = 0; r < k; r++)
            if (r < j->n)
                memcpy(to + r * ld, (const float *)(const void *)from + r * ldf + c,
                       n_columns * sizeof *to);
            else
                memset(to + r * ld, 0, n_columns * sizeof *to);
        return;
    }
    const uint16_t *rows = (const uint16_t *)(const void *)from + c;
    for (size_t r = 0; r < k; r += 2)
        for (size_t i = 0; i < n_columns; i++) {
            const uint32_t low = r < j->n ? rows[r * ldf + i] : 0;
            const uint32_t high = r + 1 < j->n ? rows[(r + 1) * ldf + i] : 0;
            to[r / 2 * ld + i] = low | high << 16;
        }
}

static void outer_pack_a(void *arg, size_t part, int thread)
{
    const struct outer_job *j = arg;
    const size_t n_words = j->panels.k_padded * element_size(j->e->element) / 4;
    const size_t c = part * KERNEL_COLUMNS;
    const size_t n = j->n_a - c < KERNEL_COLUMNS ? j->n_a - c : KERNEL_COLUMNS;
    uint32_t words[OUTER_ROWS * KERNEL_COLUMNS];
    (void)thread;
    outer_words(j, words, KERNEL_COLUMNS, j->a, j->lda, c, n);
    j->e->math->transpose(j->a_t + c * n_words, n_words, words, KERNEL_COLUMNS, n_words, n);
}

static void outer_pack_b(void *arg, size_t part, int thread)
{
    const struct outer_job *j = arg;
    const size_t n_words = j->panels.k_padded * element_size(j->e->element) / 4;
    const size_t c = part * KERNEL_COLUMNS;
    const size_t n = j->n_b - c < KERNEL_COLUMNS ? j->n_b - c : KERNEL_COLUMNS;
    uint32_t *panel = (uint32_t *)j->panels.data + part * n_words * KERNEL_COLUMNS;
    (void)thread;
    if (n < KERNEL_COLUMNS)
        memset(panel, 0, n_words * KERNEL_COLUMNS * sizeof *panel);
    outer_words(j, panel, KERNEL_COLUMNS, j->b, j->ldb, c, n);
}

static int cpu_outer_sum(const struct engine *e, float *g, size_t ldg, const void *a, size_t lda,
                         size_t n_a, const void *b, size_t ldb, size_t n_b, size_t n)
{
    const size_t size = element_size(e->element), most = n < OUTER_ROWS ? n : OUTER_ROWS;
    struct outer_job job = {.e = e, .lda = lda, .n_a = n_a, .ldb = ldb, .n_b = n_b};
    int status = 0;

    if (n == 0 || n_a == 0 || n_b == 0)
        return 0;
    job.a_t = aligned_alloc(64, round_up(n_a * round_up(most, KERNEL_K_STEP) * size, 64));
    if (!job.a_t || matrix_create(&job.panels, e->element, n_b, most) != 0) {
        status = error_set("no memory for a weight's gradient of %zu x %zu", n_a, n_b);
        goto done;
    }
    for (size_t r = 0; r < n; r += OUTER_ROWS) {
        job.n = n - r < OUTER_ROWS ? n - r : OUTER_ROWS;
        job.a = (const char *)a + r * lda * size;
        job.b = (const char *)b + r * ldb * size;
        struct matrix *m = &job.panels; /* its memory holds the largest block */
        m->k = job.n;
        m->k_padded = round_up(job.n, KERNEL_K_STEP);
        team_run(e->team, outer_pack_a, &job, round_up(n_a, KERNEL_COLUMNS) / KERNEL_COLUMNS);
        team_run(e->team, outer_pack_b, &job, m->n_panels);
        matrix_product(e->kernels, g, ldg, job.a_t, m->k_padded, n_a, m, 0, m->n_panels, true,
                       e->team);
    }
done:
    free(job.a_t);
    job.panels.k_padded = round_up(most, KERNEL_K_STEP); /* as it was made */
    matrix_free(&job.panels);
    return status;
}

const struct engine_train_ops engine_train_cpu = {
    .to_elements = cpu_to_elements,
    .gather_rows = cpu_gather_rows,
    .scatter_add_rows = cpu_scatter_add_rows,
    .norm_backward = cpu_norm_backward,
    .swiglu_backward = cpu_swiglu_backward,
    .attention_backward = attention_cpu_backward,
    .head_backward = head_cpu_backward,
    .scale_columns = cpu_scale_columns,
    .multiply_sum = cpu_multiply_sum,
    .to_floats = adapters_cpu_to_floats,
    .scale_add = adapters_cpu_scale_add,
    .drop = adapters_cpu_drop,
    .add_dropped = adapters_cpu_add_dropped,
    .outer_sum = cpu_outer_sum,
    .spaces_norms = spaces_cpu_norms,
    .spaces_long = spaces_cpu_long,
    .spaces_forward = spaces_cpu_forward,
    .spaces_backward = spaces_cpu_backward,
    .spaces_input = spaces_cpu_input,
};

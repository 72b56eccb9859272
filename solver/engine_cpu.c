#include "solver/engine.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train.h"

enum {
    HEAD_ROWS = 128, /* whose logits stay in cache */
};

static void cpu_wait(const struct engine *e)
{
    (void)e;
}

static void cpu_zero(const struct engine *e, void *p, size_t n_bytes)
{
    (void)e;
    memset(p, 0, n_bytes);
}

static void cpu_copy(const struct engine *e, void *to, const void *from, size_t n_bytes)
{
    (void)e;
    memcpy(to, from, n_bytes);
}

static void cpu_add_bias(const struct engine *e, float *y, size_t ldy, const float *bias,
                         size_t n_rows, size_t width)
{
    (void)e;
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < width; i++)
            y[r * ldy + i] += bias[i];
}

struct embed_job {
    float *y;
    size_t ldy;
    const struct matrix *m;
    const int32_t *ids;
};

static void embed_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct embed_job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++)
        matrix_unpack_row(j->m, (size_t)j->ids[r], j->y + r * j->ldy);
}

static void cpu_embed(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                      const int32_t *ids, size_t n)
{
    struct embed_job job = {y, ldy, m, ids};
    team_ranges(e->team, embed_rows, &job, n, rows_of(m->k));
}

struct norm_job {
    const struct engine *e;
    void *x;
    size_t ldx;
    const float *h;
    size_t ldh;
    const int32_t *rows;
    const float *weight;
    size_t width;
    float eps;
};

static void norm_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct norm_job *j = arg;
    const struct engine *e = j->e;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const float *in = j->h + (j->rows ? (size_t)j->rows[r] : r) * j->ldh;
        const float a = norm_factor(e, in, j->width, j->eps);
        float part[ENGINE_PART];
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            e->math->norm_scale(part, in + i, j->weight + i, a, n);
            to_elements(e, j->x, r * j->ldx + i, part, n);
        }
        clear_elements(e, j->x, r * j->ldx + j->width, j->ldx - j->width);
    }
}

static void cpu_norm(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
                     const int32_t *rows, size_t n_rows, const float *weight, size_t width,
                     float eps)
{
    struct norm_job job = {e, x, ldx, h, ldh, rows, weight, width, eps};
    team_ranges(e->team, norm_rows, &job, n_rows, rows_of(width));
}

static void cpu_product(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                        size_t n_rows, const struct matrix *m, const float *bias, bool accumulate)
{
    matrix_product(e->kernels, y, ldy, x, ldx, n_rows, m, 0, m->n_panels, accumulate, e->team);
    if (bias)
        cpu_add_bias(e, y, ldy, bias, n_rows, m->n);
}

struct swiglu_job {
    const struct engine *e;
    void *x;
    size_t ldx;
    const float *gate_up;
    size_t ldg, up_offset, width;
};

static void swiglu_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct swiglu_job *j = arg;
    const struct engine *e = j->e;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const float *gate = j->gate_up + r * j->ldg, *up = gate + j->up_offset;
        float part[ENGINE_PART];
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            e->math->silu_mul(part, gate + i, up + i, n);
            to_elements(e, j->x, r * j->ldx + i, part, n);
        }
        clear_elements(e, j->x, r * j->ldx + j->width, j->ldx - j->width);
    }
}

static void cpu_swiglu(const struct engine *e, void *x, size_t ldx, const float *gate_up,
                       size_t ldg, size_t up_offset, size_t n_rows, size_t width)
{
    struct swiglu_job job = {e, x, ldx, gate_up, ldg, up_offset, width};
    team_ranges(e->team, swiglu_rows, &job, n_rows, rows_of(2 * width));
}

/* ---- the head ------------------------------------------------------------------------------- */

struct head_job {
    const struct engine *e;
    struct head_result *results;
    float *logits;
    size_t ldl;
    const void *x;
    size_t ldx, n_rows;
    const struct matrix *m;
    const int32_t *targets;
    struct head_part *parts; /* [n_rows, n_chunks] */
    size_t n_chunks;
    float *scratch; /* [threads, HEAD_ROWS, HEAD_CHUNK], without logits */
};

static void head_chunk(void *arg, size_t chunk, int thread)
{
    const struct head_job *j = arg;
    const struct matrix *m = j->m;
    const size_t first = chunk * HEAD_CHUNK;
    const size_t n = m->n - first < HEAD_CHUNK ? m->n - first : HEAD_CHUNK;
    const size_t n_panels = (n + KERNEL_COLUMNS - 1) / KERNEL_COLUMNS;
    const size_t x_bytes = j->ldx * element_size(j->e->element);

    for (size_t r0 = 0; r0 < j->n_rows; r0 += HEAD_ROWS) {
        const size_t n_block = j->n_rows - r0 < HEAD_ROWS ? j->n_rows - r0 : HEAD_ROWS;
        float *y = j->logits ? j->logits + r0 * j->ldl + first
                             : j->scratch + (size_t)thread * HEAD_ROWS * HEAD_CHUNK;
        const size_t ldy = j->logits ? j->ldl : HEAD_CHUNK;
        matrix_product(j->e->kernels, y, ldy, (const char *)j->x + r0 * x_bytes, j->ldx, n_block, m,
                       first / KERNEL_COLUMNS, n_panels, false, NULL);
        for (size_t r = 0; r < n_block; r++) {
            float exps[HEAD_CHUNK];
            head_part_make(j->e, &j->parts[(r0 + r) * j->n_chunks + chunk], exps, y + r * ldy,
                           first, n);
            const int32_t target = j->targets ? j->targets[r0 + r] : -1;
            if (target >= 0 && (size_t)target >= first && (size_t)target < first + n)
                j->results[r0 + r].target = y[r * ldy + (size_t)target - first];
        }
    }
}

static void head_combine(struct head_result *result, const struct head_part *parts, size_t n)
{
    const double sum = head_parts_sum(parts, n, &result->max, &result->argmax);
    result->log_sum = (float)(result->max + log(sum));
}

static int cpu_head(const struct engine *e, struct head_result *results, float *logits, size_t ldl,
                    const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
                    const int32_t *targets)
{
    const size_t n_threads = (size_t)team_size(e->team);
    struct head_job job = {.e = e,
                           .results = results,
                           .logits = logits,
                           .ldl = ldl,
                           .x = x,
                           .ldx = ldx,
                           .n_rows = n_rows,
                           .m = m,
                           .targets = targets,
                           .n_chunks = (m->n + HEAD_CHUNK - 1) / HEAD_CHUNK};
    int status = 0;

    job.parts = malloc(n_rows * job.n_chunks * sizeof *job.parts);
    if (!logits)
        job.scratch = aligned_alloc(64, n_threads * HEAD_ROWS * HEAD_CHUNK * sizeof(float));
    if (!job.parts || (!logits && !job.scratch)) {
        status = error_set("no memory for the logits of %zu tokens", n_rows);
        goto done;
    }
    for (size_t r = 0; r < n_rows; r++)
        results[r].target = 0;
    team_run(e->team, head_chunk, &job, job.n_chunks);
    for (size_t r = 0; r < n_rows; r++)
        head_combine(&results[r], job.parts + r * job.n_chunks, job.n_chunks);
done:
    free(job.parts);
    free(job.scratch);
    return status;
}

static const struct engine_ops cpu_ops = {
    .device = "cpu",
    .wait = cpu_wait,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .add_bias = cpu_add_bias,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .product = cpu_product,
    .attention = attention_cpu_run,
    .swiglu = cpu_swiglu,
    .head = cpu_head,
};

/* Tiles multiply bf16 alone; elsewhere f32 rows cost no more than bf16 ones, and bf16 pages are
 * read in half the time of f32 ones. */
enum kv_form engine_kv_form(enum element element, enum isa isa)
{
    return element == ELEMENT_F32 ? KV_F32 : isa >= ISA_AMX ? KV_TILES : KV_BF16;
}

int engine_create_cpu(struct engine *e, enum element element, enum isa isa, int n_threads)
{
    *e = (struct engine){.ops = &cpu_ops,
                         .train = &engine_train_cpu,
                         .memory = &memory_host,
                         .layout = MATRIX_PANELS,
                         .order = engine_order(element, isa),
                         .element = element,
                         .isa = isa,
                         .kernels = kernels_find(element, isa),
                         .math = vecmath_find(isa)};
    engine_set_kv_form(e, engine_kv_form(element, isa));
    if (n_threads > 1 && !(e->team = team_create(n_threads)))
        return -1;
    return 0;
}

void engine_set_kv_form(struct engine *e, enum kv_form form)
{
    e->kv_form = form;
    e->kv_kernels = kernels_find(kv_form_element(form), e->isa);
    e->page_product = page_product_find(kv_form_element(form), e->isa);
}

const char *engine_order(enum element element, enum isa isa)
{
    const char *order = kernels_find(element, isa)->order;
    return engine_kv_form(element, isa) == KV_BF16 && strcmp(order, "dot2") == 0 ? "dot2/kv16"
                                                                                 : order;
}

void engine_free(struct engine *e)
{
    if (!e)
        return;
    team_free(e->team);
    if (e->free_device)
        e->free_device(e);
    memset(e, 0, sizeof *e);
}

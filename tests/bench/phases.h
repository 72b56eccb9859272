#ifndef T2_TESTS_BENCH_PHASES_H
#define T2_TESTS_BENCH_PHASES_H
/* Where a decoding step's time goes: stands between a model and its engine's table of operations
 * and times each. Before each step of exactly `batch` rows it runs all products of a step alone.
 * For one model at a time, in benchmarks only. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_internal.h"
#include "mpi/clock.h"

enum phase {
    PHASE_ALONE, /* the products of the step before it, run alone */
    PHASE_EMBED,
    PHASE_NORM,
    PHASE_PRODUCT,
    PHASE_ATTENTION,
    PHASE_SWIGLU,
    PHASE_HEAD,
    PHASE_STEP, /* the whole of it, but for PHASE_ALONE */
    PHASE_COUNT
};

static struct phases {
    const struct model *model;
    const struct engine_ops *ops; /* the engine's own */
    struct engine_ops timed;
    size_t batch, n_steps, most; /* steps: begun; that fit below */
    double begun;                /* the step in hand */
    double (*steps)[PHASE_COUNT];
    double unused[PHASE_COUNT];
    void *x;
    float *y;
} phases;

static double *phases_now(void)
{
    return phases.n_steps > 0 ? phases.steps[phases.n_steps - 1] : phases.unused;
}

static void phases_products_alone(const struct engine *e)
{
    const struct model *m = phases.model;
    for (size_t i = 0; i < m->config.n_layers; i++)
        for (int g = 0; g < GROUP_COUNT; g++)
            for (size_t k = 0; k < m->layers[i].groups[g].n_spans; k++) {
                const struct matrix *w = &m->layers[i].groups[g].spans[k].m;
                matrix_product(e->kernels, phases.y, w->n_panels * KERNEL_COLUMNS, phases.x,
                               w->k_padded, phases.batch, w, 0, w->n_panels, false, e->team);
            }
    const struct matrix *w = &m->head;
    matrix_product(e->kernels, phases.y, w->n_panels * KERNEL_COLUMNS, phases.x, w->k_padded,
                   phases.batch, w, 0, w->n_panels, false, e->team);
}

static void phases_embed(const struct engine *e, float *y, size_t ldy, const struct matrix *m,
                         const int32_t *ids, size_t n)
{
    double start = clock_seconds();
    if (phases.n_steps > 0)
        phases_now()[PHASE_STEP] = start - phases.begun;
    if (n == phases.batch && phases.n_steps < phases.most) {
        phases.n_steps++;
        phases_products_alone(e);
        phases_now()[PHASE_ALONE] = clock_seconds() - start;
        phases.begun = start = clock_seconds();
    }
    phases.ops->embed(e, y, ldy, m, ids, n);
    phases_now()[PHASE_EMBED] += clock_seconds() - start;
}

static void phases_norm(const struct engine *e, void *x, size_t ldx, const float *h, size_t ldh,
                        const int32_t *rows, size_t n_rows, const float *weight, size_t width,
                        float eps)
{
    const double start = clock_seconds();
    phases.ops->norm(e, x, ldx, h, ldh, rows, n_rows, weight, width, eps);
    phases_now()[PHASE_NORM] += clock_seconds() - start;
}

static void phases_product(const struct engine *e, float *y, size_t ldy, const void *x, size_t ldx,
                           size_t n_rows, const struct matrix *m, const float *bias,
                           bool accumulate)
{
    const double start = clock_seconds();
    phases.ops->product(e, y, ldy, x, ldx, n_rows, m, bias, accumulate);
    phases_now()[PHASE_PRODUCT] += clock_seconds() - start;
}

static int phases_attention(const struct engine *e, const struct attention_layer *a,
                            struct kv_cache *cache, const struct batch *batch, const float *qkv,
                            size_t ldqkv, void *out, size_t ldo)
{
    const double start = clock_seconds();
    const int status = phases.ops->attention(e, a, cache, batch, qkv, ldqkv, out, ldo);
    phases_now()[PHASE_ATTENTION] += clock_seconds() - start;
    return status;
}

static void phases_swiglu(const struct engine *e, void *x, size_t ldx, const float *gate_up,
                          size_t ldg, size_t up_offset, size_t n_rows, size_t width)
{
    const double start = clock_seconds();
    phases.ops->swiglu(e, x, ldx, gate_up, ldg, up_offset, n_rows, width);
    phases_now()[PHASE_SWIGLU] += clock_seconds() - start;
}

static int phases_head(const struct engine *e, struct head_result *results, float *logits,
                       size_t ldl, const void *x, size_t ldx, size_t n_rows, const struct matrix *m,
                       const int32_t *targets)
{
    const double start = clock_seconds();
    const int status = phases.ops->head(e, results, logits, ldl, x, ldx, n_rows, m, targets);
    phases_now()[PHASE_HEAD] += clock_seconds() - start;
    return status;
}

/* -1: no memory */
static int phases_begin(struct model *model, size_t batch, size_t n_steps)
{
    size_t widest_y = model->head.n_panels * KERNEL_COLUMNS, widest_x = model->head.k_padded;
    for (int g = 0; g < GROUP_COUNT; g++) {
        const struct matrix *m = &model->layers[0].groups[g].spans[0].m;
        if (m->n_panels * KERNEL_COLUMNS > widest_y)
            widest_y = m->n_panels * KERNEL_COLUMNS;
        if (m->k_padded > widest_x)
            widest_x = m->k_padded;
    }
    const size_t x_bytes = round_up(batch * widest_x * sizeof(float), 64);
    phases =
        (struct phases){.model = model,
                        .ops = model->engine.ops,
                        .timed = *model->engine.ops,
                        .batch = batch,
                        .most = n_steps,
                        .steps = calloc(n_steps, sizeof *phases.steps),
                        .x = aligned_alloc(64, x_bytes),
                        .y = aligned_alloc(64, round_up(batch * widest_y * sizeof(float), 64))};
    if (!phases.steps || !phases.x || !phases.y)
        return -1;
    phases.timed.embed = phases_embed;
    phases.timed.norm = phases_norm;
    phases.timed.product = phases_product;
    phases.timed.attention = phases_attention;
    phases.timed.swiglu = phases_swiglu;
    phases.timed.head = phases_head;
    memset(phases.x, 0x3c, x_bytes); /* 0.0115 in either type */
    model->engine.ops = &phases.timed;
    return 0;
}

static int phases_compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double phases_median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, phases_compare);
    return values[n / 2];
}

/* Prints milliseconds a step and gives the model its table back. */
static void phases_end(struct model *model)
{
    static const char *const names[] = {"products alone", "embed",  "norm", "products",
                                        "attention",      "swiglu", "head", "step"};
    model->engine.ops = phases.ops;
    const size_t n = phases.n_steps > 0 ? phases.n_steps - 1 : 0; /* the last has no end */
    double *values = malloc((n + 1) * sizeof *values);
    for (int p = 0; values && n > 0 && p < PHASE_COUNT; p++) {
        for (size_t i = 0; i < n; i++)
            values[i] = 1e3 * phases.steps[i][p];
        const double median = phases_median(values, n);
        printf("phase %-14s ms %8.3f least %8.3f\n", names[p], median, values[0]);
    }
    for (size_t i = 0; values && i < n; i++)
        values[i] = phases.steps[i][PHASE_ALONE] / phases.steps[i][PHASE_STEP];
    if (values && n > 0) {
        const double median = phases_median(values, n);
        printf("share of the products alone %.3f (a quarter of the steps above %.3f)\n", median,
               values[n - 1 - n / 4]);
    }
    free(values);
    free(phases.steps);
    free(phases.x);
    free(phases.y);
}

#endif

/* The CPU's operations for adapters beside base weights: scaling of columns, and dropout. */
#include "solver/dropout.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train_internal.h"

struct job {
    const struct engine *e;
    float *y;
    void *elements;
    const void *x;
    const float *t, *z, *bias;
    const struct dropout *dropout;
    size_t ldy, ldx, width;
    bool accumulate;
};

/* values [n] = elements x [n] */
static void floats_of(const struct engine *e, float *values, const void *x, size_t n)
{
    const uint16_t *narrow = x;
    if (e->element == ELEMENT_F32)
        memcpy(values, x, n * sizeof *values);
    else
        for (size_t i = 0; i < n; i++)
            values[i] = f32_from_bf16(narrow[i]);
}

/* ---- between elements and f32, scaling ------------------------------------------------------- */

static void floats_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++)
        floats_of(j->e, j->y + r * j->ldy,
                  (const char *)j->x + r * j->ldx * element_size(j->e->element), j->width);
}

void adapters_cpu_to_floats(const struct engine *e, float *values, size_t ldv, const void *x,
                            size_t ldx, size_t n, size_t width)
{
    struct job job = {.e = e, .y = values, .ldy = ldv, .x = x, .ldx = ldx, .width = width};
    team_ranges(e->team, floats_rows, &job, n, rows_of(width));
}

static void scale_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        float *y = j->y + r * j->ldy;
        const float *t = j->t + r * j->ldx;
        float part[ENGINE_PART];
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            j->e->math->multiply(part, t + i, j->z + i, n);
            /* in the order of engine_ops.product */
            if (j->accumulate)
                j->e->math->add(y + i, part, n);
            else
                memcpy(y + i, part, n * sizeof *part);
            if (j->bias)
                j->e->math->add(y + i, j->bias + i, n);
        }
    }
}

void adapters_cpu_scale_add(const struct engine *e, float *y, size_t ldy, const float *t,
                            size_t ldt, const float *z, const float *bias, size_t n, size_t width,
                            bool accumulate)
{
    struct job job = {.e = e,
                      .y = y,
                      .ldy = ldy,
                      .t = t,
                      .ldx = ldt,
                      .z = z,
                      .bias = bias,
                      .width = width,
                      .accumulate = accumulate};
    team_ranges(e->team, scale_rows, &job, n, rows_of(width));
}

/* ---- dropout --------------------------------------------------------------------------------- */

/* factors [n] of columns first .. first + n - 1, first a multiple of 4: 0, or what keeps the mean
 * (dropout.h). */
static void factors_of(const struct job *j, size_t row, size_t first, size_t n, float *factors)
{
    const struct dropout *d = j->dropout;
    const uint64_t start = dropout_start(d->keys[row], d->stream);

    j->e->math->drop_factors(factors, start + first / 4 * HASH_STEP, d->limit,
                             dropout_kept(d->limit), n);
}

static void drop_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    const size_t size = element_size(j->e->element);
    float factors[ENGINE_PART], values[ENGINE_PART];
    (void)thread;

    for (size_t r = first; r < end; r++) {
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            const char *x = (const char *)j->x + (r * j->ldx + i) * size;
            factors_of(j, r, i, n, factors);
            floats_of(j->e, values, x, n);
            j->e->math->multiply(values, values, factors, n);
            to_elements(j->e, j->elements, r * j->ldy + i, values, n);
        }
        clear_elements(j->e, j->elements, r * j->ldy + j->width, j->ldy - j->width);
    }
}

void adapters_cpu_drop(const struct engine *e, void *y, size_t ldy, const void *x, size_t ldx,
                       size_t n, size_t width, const struct dropout *dropout)
{
    struct job job = {
        .e = e, .elements = y, .ldy = ldy, .x = x, .ldx = ldx, .width = width, .dropout = dropout};
    team_ranges(e->team, drop_rows, &job, n, rows_of(width));
}

static void add_dropped_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    float factors[ENGINE_PART];
    (void)thread;

    for (size_t r = first; r < end; r++)
        for (size_t i = 0; i < j->width; i += ENGINE_PART) {
            const size_t n = j->width - i < ENGINE_PART ? j->width - i : ENGINE_PART;
            factors_of(j, r, i, n, factors);
            j->e->math->multiply_add(j->y + r * j->ldy + i, j->t + r * j->ldx + i, factors, n);
        }
}

void adapters_cpu_add_dropped(const struct engine *e, float *dx, size_t lddx, const float *t,
                              size_t ldt, size_t n, size_t width, const struct dropout *dropout)
{
    struct job job = {
        .e = e, .y = dx, .ldy = lddx, .t = t, .ldx = ldt, .width = width, .dropout = dropout};
    team_ranges(e->team, add_dropped_rows, &job, n, rows_of(width));
}

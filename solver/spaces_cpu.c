/* The CPU's operations on mixtures of spaces (spaces.h). */
#include <stdlib.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train_internal.h"
#include "solver/spaces_rows.h"

enum { GRAIN_ROWS = 8 };

struct job {
    const struct engine *e;
    const struct spaces *s;
    const char *x;
    size_t ldx, n_norms, n_in, n;
    double *norms, *factors, *sums;
    float *h, *dh, *u, *dx;
    size_t ldh, ldu, lddx;
};

/* n <= ENGINE_PART elements of x from `at` on, as f32, in `values` or where they lie. */
static const float *read_elements(const struct job *j, size_t at, size_t n, float *values)
{
    if (j->e->element == ELEMENT_F32)
        return (const float *)(const void *)j->x + at;
    const uint16_t *from = (const uint16_t *)(const void *)j->x + at;
    for (size_t i = 0; i < n; i++)
        values[i] = f32_from_bf16(from[i]);
    return values;
}

/* ---- the tokens' norms ----------------------------------------------------------------------- */

static double norm2(const struct job *j, size_t row, size_t first, size_t end)
{
    float values[ENGINE_PART];
    double sum = 0;
    for (size_t i = first; i < end; i += ENGINE_PART) {
        const size_t n = end - i < ENGINE_PART ? end - i : ENGINE_PART;
        sum += (double)j->e->math->sum_squares(read_elements(j, row * j->ldx + i, n, values), n);
    }
    if (sum > 1e-25 && sum < 1e30)
        return sum;
    sum = 0; /* squares may have left f32 */
    for (size_t i = first; i < end; i += ENGINE_PART) {
        const size_t n = end - i < ENGINE_PART ? end - i : ENGINE_PART;
        const float *v = read_elements(j, row * j->ldx + i, n, values);
        for (size_t c = 0; c < n; c++)
            sum += (double)v[c] * (double)v[c];
    }
    return sum;
}

static void norm_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    (void)thread;
    for (size_t r = first; r < end; r++)
        for (size_t i = 0; i < j->n_norms; i++) {
            size_t last;
            const size_t begin = spaces_range(i, j->n_in, &last);
            j->norms[r * j->n_norms + i] = norm2(j, r, begin, last);
        }
}

void spaces_cpu_norms(const struct engine *e, double *norms, size_t n_norms, const void *x,
                      size_t ldx, size_t n, size_t n_in)
{
    struct job job = {
        .e = e, .norms = norms, .n_norms = n_norms, .x = x, .ldx = ldx, .n = n, .n_in = n_in};
    team_ranges(e->team, norm_rows, &job, n, GRAIN_ROWS);
}

/* ---- long tokens ----------------------------------------------------------------------------- */

static double dot_row(const struct job *j, size_t row, const float *weights)
{
    float values[ENGINE_PART];
    double sum = 0;
    for (size_t i = 0; i < j->n_in; i += ENGINE_PART) {
        const size_t n = j->n_in - i < ENGINE_PART ? j->n_in - i : ENGINE_PART;
        const float *v = read_elements(j, row * j->ldx + i, n, values);
        for (size_t c = 0; c < n; c++)
            sum += (double)v[c] * (double)weights[i + c];
    }
    return sum;
}

void spaces_cpu_long(const struct engine *e, const struct spaces *s, float *h, size_t ldh,
                     const struct matrix *in, const void *x, size_t ldx, const double *norms,
                     size_t n)
{
    const struct job job = {.e = e, .x = x, .ldx = ldx, .n_in = in->k};
    float *weights = NULL;
    for (size_t r = 0; r < n; r++) {
        const double norm = norms[r * s->n_norms];
        if (norm <= SPACES_LONG_TOKEN || !isfinite(norm))
            continue;
        if (!weights)
            weights = malloc((in->k + 1) * sizeof *weights);
        for (size_t i = 0; i < in->n; i++) {
            h[r * ldh + i] = NAN;
            if (!weights)
                continue;
            matrix_unpack_row(in, i, weights);
            h[r * ldh + i] = (float)spaces_clamp(dot_row(&job, r, weights), SPACES_MOST_H);
        }
    }
    free(weights);
}

/* ---- forward --------------------------------------------------------------------------------- */

static void forward_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    struct spaces_row row;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        float *h = j->h + r * j->ldh;
        memcpy(h + j->s->norms_at, j->norms + r * j->s->n_norms, j->s->n_norms * sizeof(double));
        spaces_run_row(j->s, h, false, &row);
        spaces_write_u(j->s, &row, h, j->u + r * j->ldu, j->ldu);
    }
}

void spaces_cpu_forward(const struct engine *e, const struct spaces *s, float *u, size_t ldu,
                        float *h, size_t ldh, const double *norms, size_t n)
{
    struct job job = {
        .e = e, .s = s, .u = u, .ldu = ldu, .h = h, .ldh = ldh, .norms = (double *)norms, .n = n};
    team_ranges(e->team, forward_rows, &job, n, GRAIN_ROWS);
}

/* ---- backward -------------------------------------------------------------------------------- */

static void add_sums(const struct spaces *s, const float *h, const struct spaces_row *row,
                     const struct spaces_marks *marks, double *sums)
{
    const struct spaces_sums at = spaces_sums_of(s);
    const size_t r = s->r;
    double *counts = sums + at.counts;

    for (size_t k = 0; k < s->n_terms; k++) {
        const float *own = h + s->terms[k].h;
        double *to = sums + k * at.term;
        if (s->terms[k].chart == CHART_FLAT)
            continue;
        for (size_t i = 0; i < r; i++) {
            const double by = marks->w2[k] * (double)own[i];
            for (size_t c = 0; c < r; c++)
                to[i * r + c] += by * (double)own[c];
            to[r * r + i] += marks->bw[k] * (double)own[i];
        }
        to[r * r + r] += marks->kappa[k];
        to[r * r + r + 1] += marks->b2[k];
    }
    for (size_t i = 0; i < s->n_hidden; i++)
        sums[at.b1 + i] += marks->dpre[i];
    for (size_t e = 0; e < s->n_experts; e++) {
        for (size_t i = 0; i < s->n_hidden; i++)
            sums[at.w2 + e * s->n_hidden + i] += marks->dlogit[e] * row->z[i];
        sums[at.b2 + e] += marks->dlogit[e];
        counts[e] += row->pi[e];
    }
    counts[s->n_experts + row->top] += 1;
    counts[2 * s->n_experts] += row->entropy;
    counts[2 * s->n_experts + 1] += 1;
}

static void backward_chunk(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const struct spaces *s = j->s;
    const size_t first = part * SPACES_CHUNK, n_all = spaces_sums_of(s).n_all;
    const size_t end = j->n - first < SPACES_CHUNK ? j->n : first + SPACES_CHUNK;
    double *sums = j->sums + part * n_all;
    struct spaces_row row;
    struct spaces_marks marks;
    (void)thread;

    memset(sums, 0, n_all * sizeof *sums);
    for (size_t r = first; r < end; r++) {
        const float *h = j->h + r * j->ldh;
        spaces_backward_row(s, h, j->dh + r * j->ldh, j->ldh, j->u + r * j->ldu, j->ldu,
                            j->factors + r * s->n_norms, &row, &marks);
        add_sums(s, h, &row, &marks, sums);
    }
}

int spaces_cpu_backward(const struct engine *e, const struct spaces *s, double *sums,
                        double *factors, float *dh, float *u, size_t ldu, const float *h,
                        size_t ldh, size_t n)
{
    const size_t n_all = spaces_sums_of(s).n_all, n_chunks = (n + SPACES_CHUNK - 1) / SPACES_CHUNK;
    struct job job = {.e = e,
                      .s = s,
                      .factors = factors,
                      .dh = dh,
                      .u = u,
                      .ldu = ldu,
                      .h = (float *)h,
                      .ldh = ldh,
                      .n = n};
    job.sums = malloc((n_chunks * n_all + 1) * sizeof *job.sums);
    if (!job.sums)
        return error_set("no memory for the sums of %zu tokens", n);
    team_run(e->team, backward_chunk, &job, n_chunks);
    memset(sums, 0, n_all * sizeof *sums);
    for (size_t i = 0; i < n_chunks; i++)
        for (size_t k = 0; k < n_all; k++)
            sums[k] += job.sums[i * n_all + k];
    free(job.sums);
    return 0;
}

static void input_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    float values[ENGINE_PART], part[ENGINE_PART];
    (void)thread;
    for (size_t r = first; r < end; r++)
        for (size_t range = 0; range < j->n_norms; range++) {
            const float by = (float)(2 * j->factors[r * j->n_norms + range]);
            size_t last, n;
            for (size_t i = spaces_range(range, j->n_in, &last); by != 0 && i < last; i += n) {
                n = last - i < ENGINE_PART ? last - i : ENGINE_PART;
                const float *x = read_elements(j, r * j->ldx + i, n, values);
                memcpy(part, x, n * sizeof *part);
                j->e->math->scale(part, by, n);
                j->e->math->add(j->dx + r * j->lddx + i, part, n);
            }
        }
}

void spaces_cpu_input(const struct engine *e, float *dx, size_t lddx, const double *factors,
                      size_t n_norms, const void *x, size_t ldx, size_t n, size_t n_in)
{
    struct job job = {.e = e,
                      .dx = dx,
                      .lddx = lddx,
                      .factors = (double *)factors,
                      .n_norms = n_norms,
                      .x = x,
                      .ldx = ldx,
                      .n = n,
                      .n_in = n_in};
    team_ranges(e->team, input_rows, &job, n, GRAIN_ROWS);
}

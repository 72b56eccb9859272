/* The head's loss and its gradient, for a block of rows at a time.
 *
 * A row's logits l become e = exp(l - m_c), with m_c the largest of their chunk, and the base
 * model's l0 become D = l - l0, in place. With S = sum of exp(l - max) over the vocabulary and
 * s = log_sum - log_sum0,
 *
 *   p = e exp(m_c - max) / S,  d = log p - log p0 = D - s
 *   entropy = log S - sum p (l - max)
 *   KL = sum p d = sum p (d - 1 + e^-d)                 (sum p = sum p0 = 1)
 *   KL0 = - sum p0 d = sum p (1 - e^-d (1 + d)),  p0 = p e^-d
 *   dlogits = weight (p - onehot) + kl_weight p (d - KL) + kl0_weight (p - p0)
 *
 * The second form of KL and KL0 has no negative terms and does not feel an error in s; it is used
 * where KL is small (a policy near its base), the first one elsewhere. */
#include <stdlib.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train_internal.h"

enum { HEAD_ROWS = 64 };

/* Above this, KL is the plain sum of p d. */
static const double KL_PLAIN = 0.01;

struct head_job {
    const struct engine *e;
    const char *x, *x0; /* of this block */
    size_t ldx, n_rows;
    const struct matrix *m;
    const struct head_term *terms;
    struct head_term_result *results;
    bool gradient;

    size_t ldl, n_chunks;
    float *logits, *base;             /* [HEAD_ROWS, ldl] */
    struct head_part *parts, *parts0; /* [HEAD_ROWS, n_chunks] */
    float *moments;                   /* [HEAD_ROWS, n_chunks] */
    float targets[HEAD_ROWS], targets0[HEAD_ROWS];
};

static size_t chunk_size(const struct head_job *j, size_t chunk)
{
    const size_t left = j->m->n - chunk * HEAD_CHUNK;
    return left < HEAD_CHUNK ? left : HEAD_CHUNK;
}

/* One chunk's logits of all rows of the block, and their sums. */
static void head_logits(void *arg, size_t chunk, int thread)
{
    struct head_job *j = arg;
    const struct vecmath *math = j->e->math;
    const size_t first = chunk * HEAD_CHUNK, n = chunk_size(j, chunk);
    const size_t panel = first / KERNEL_COLUMNS;
    const size_t n_panels = round_up(n, KERNEL_COLUMNS) / KERNEL_COLUMNS;
    (void)thread;

    matrix_product(j->e->kernels, j->logits + first, j->ldl, j->x, j->ldx, j->n_rows, j->m, panel,
                   n_panels, false, NULL);
    if (j->x0)
        matrix_product(j->e->kernels, j->base + first, j->ldl, j->x0, j->ldx, j->n_rows, j->m,
                       panel, n_panels, false, NULL);
    for (size_t r = 0; r < j->n_rows; r++) {
        float exps[HEAD_CHUNK];
        float *l = j->logits + r * j->ldl + first;
        float *l0 = j->x0 ? j->base + r * j->ldl + first : NULL;
        const size_t at = r * j->n_chunks + chunk;
        const int32_t target = j->terms[r].target;
        const bool here = target >= 0 && (size_t)target >= first && (size_t)target < first + n;
        if (here)
            j->targets[r] = l[(size_t)target - first];
        if (j->x0) {
            if (here)
                j->targets0[r] = l0[(size_t)target - first];
            head_part_make(j->e, &j->parts0[at], exps, l0, first, n);
            math->subtract(l0, l, l0, n);
        }
        head_part_make(j->e, &j->parts[at], exps, l, first, n);
        j->moments[at] = math->moment(exps, l, j->parts[at].max, n);
        memcpy(l, exps, n * sizeof *l);
    }
}

/* What is known of a row after all its chunks. */
struct head_sums {
    float max;
    double sum, log_sum, kl;
    float shift; /* log_sum - log_sum0 */
};

static double head_kl(const struct head_job *j, size_t r, const struct head_sums *s)
{
    const struct head_part *parts = j->parts + r * j->n_chunks;
    double plain = 0, excess = 0;
    for (size_t c = 0; c < j->n_chunks; c++) {
        const size_t at = r * j->ldl + c * HEAD_CHUNK;
        const double factor = exp((double)parts[c].max - s->max) / s->sum;
        float sums[2];
        j->e->math->ratio_sums(sums, j->logits + at, j->base + at, s->shift, chunk_size(j, c));
        plain += factor * sums[0];
        excess += factor * sums[1];
    }
    return plain > KL_PLAIN ? plain : excess;
}

/* p0 S exp(max - m_c) of one row's chunk: e^-d times what its logits have become. */
static void head_base(const struct head_job *j, size_t r, size_t chunk, float shift, float *p0)
{
    const size_t at = r * j->ldl + chunk * HEAD_CHUNK, n = chunk_size(j, chunk);

    for (size_t i = 0; i < n; i++)
        p0[i] = shift - j->base[at + i];
    j->e->math->exp(p0, p0, n);
    for (size_t i = 0; i < n; i++)
        p0[i] *= j->logits[at + i];
}

static double head_kl0(const struct head_job *j, size_t r, const struct head_sums *s)
{
    const struct head_part *parts = j->parts + r * j->n_chunks;
    double plain = 0, excess = 0;
    for (size_t c = 0; c < j->n_chunks; c++) {
        const size_t at = r * j->ldl + c * HEAD_CHUNK, n = chunk_size(j, c);
        const double factor = exp((double)parts[c].max - s->max) / s->sum;
        float p0[HEAD_CHUNK];
        double sums[2] = {0};
        head_base(j, r, c, s->shift, p0);
        for (size_t i = 0; i < n; i++) {
            const double d = (double)j->base[at + i] - s->shift;
            const double p = j->logits[at + i];
            /* 1 - e^-d (1 + d), where that cancels by its series */
            const double series =
                d * d * (1.0 / 2 - d * (1.0 / 3 - d * (1.0 / 8 - d * (1.0 / 30 - d / 144))));
            sums[0] -= p0[i] * d;
            sums[1] += fabs(d) < 0.05 ? p * series : p - p0[i] * (1 + d);
        }
        plain += factor * sums[0];
        excess += factor * sums[1];
    }
    return plain > KL_PLAIN ? plain : excess;
}

static struct head_sums head_summary(struct head_job *j, size_t r)
{
    const struct head_part *parts = j->parts + r * j->n_chunks;
    struct head_term_result *result = &j->results[r];
    const bool has_target = j->terms[r].target >= 0;
    struct head_sums s = {0};
    double moment = 0;

    s.sum = head_parts_sum(parts, j->n_chunks, &s.max, &result->argmax);
    s.log_sum = s.max + log(s.sum);
    for (size_t c = 0; c < j->n_chunks; c++) {
        const double below = (double)parts[c].max - s.max;
        moment += exp(below) * (j->moments[r * j->n_chunks + c] + below * parts[c].sum);
    }
    result->entropy = (float)(log(s.sum) - moment / s.sum);
    result->logprob = has_target ? j->targets[r] - (float)s.log_sum : 0;
    result->base_logprob = result->kl = result->kl0 = 0;
    if (j->x0) {
        float max0;
        int32_t argmax0;
        const double sum0 =
            head_parts_sum(j->parts0 + r * j->n_chunks, j->n_chunks, &max0, &argmax0);
        const double log_sum0 = max0 + log(sum0);
        if (has_target)
            result->base_logprob = j->targets0[r] - (float)log_sum0;
        s.shift = (float)(s.log_sum - log_sum0);
        s.kl = head_kl(j, r, &s);
        result->kl = (float)s.kl;
        result->kl0 = (float)head_kl0(j, r, &s);
    }
    return s;
}

/* Results of one row, and its gradient's elements in the logits' place: narrowing from the front
 * never overtakes what is still to be read. */
static void head_row(void *arg, size_t r, int thread)
{
    struct head_job *j = arg;
    const struct vecmath *math = j->e->math;
    const struct head_term *term = &j->terms[r];
    const struct head_part *parts = j->parts + r * j->n_chunks;
    float *row = j->logits + r * j->ldl;
    (void)thread;

    const struct head_sums s = head_summary(j, r);
    if (!j->gradient)
        return;
    const double weight = term->target >= 0 ? term->weight : 0;
    const double a = weight - term->kl_weight * s.kl;
    for (size_t c = 0; c < j->n_chunks; c++) {
        const size_t first = c * HEAD_CHUNK, n = chunk_size(j, c);
        const double factor = exp((double)parts[c].max - s.max) / s.sum;
        float values[HEAD_CHUNK];
        memcpy(values, row + first, n * sizeof *values);
        if (j->x0 && term->kl_weight != 0)
            math->ratio_scale(values, j->base + r * j->ldl + first, s.shift, (float)(factor * a),
                              (float)(factor * term->kl_weight), n);
        else
            math->scale(values, (float)(factor * weight), n);
        float p0[HEAD_CHUNK];
        if (j->x0 && term->kl0_weight != 0) {
            const float scale = (float)(factor * term->kl0_weight);
            head_base(j, r, c, s.shift, p0);
            for (size_t i = 0; i < n; i++)
                values[i] += scale * (row[first + i] - p0[i]);
        }
        if (term->target >= 0 && (size_t)term->target >= first &&
            (size_t)term->target < first + n) {
            /* p - 1 without cancellation */
            const double logprob = (j->targets[r] - (double)s.max) - log(s.sum);
            double value = weight * expm1(logprob);
            if (j->x0)
                value += term->kl_weight * exp(logprob) *
                         ((double)j->base[r * j->ldl + (size_t)term->target] - s.shift - s.kl);
            if (j->x0 && term->kl0_weight != 0)
                value += factor * term->kl0_weight *
                         ((double)row[term->target] - p0[(size_t)term->target - first]);
            values[(size_t)term->target - first] = (float)value;
        }
        to_elements(j->e, row, first, values, n);
    }
    clear_elements(j->e, row, j->m->n, j->ldl - j->m->n);
}

int head_cpu_backward(const struct engine *e, float *dx, size_t lddx, const void *x, const void *x0,
                      size_t ldx, size_t n, const struct matrix *m, const struct matrix *m_t,
                      const struct head_term *terms, struct head_term_result *results)
{
    const size_t size = element_size(e->element), rows = n < HEAD_ROWS ? n : HEAD_ROWS;
    struct head_job job = {.e = e,
                           .ldx = ldx,
                           .m = m,
                           .gradient = dx != NULL,
                           .ldl = round_up(m->n, KERNEL_K_STEP),
                           .n_chunks = (m->n + HEAD_CHUNK - 1) / HEAD_CHUNK};
    int status = 0;

    if (n == 0)
        return 0;
    const size_t bytes = round_up(rows * job.ldl * sizeof(float), 64);
    job.logits = aligned_alloc(64, bytes);
    job.base = x0 ? aligned_alloc(64, bytes) : NULL;
    job.parts = malloc(2 * rows * job.n_chunks * sizeof *job.parts);
    job.moments = malloc(rows * job.n_chunks * sizeof *job.moments);
    if (!job.logits || (x0 && !job.base) || !job.parts || !job.moments) {
        status = error_set("no memory for the logits of %zu tokens", rows);
        goto done;
    }
    job.parts0 = job.parts + rows * job.n_chunks;
    for (size_t r = 0; r < n; r += HEAD_ROWS) {
        job.n_rows = n - r < HEAD_ROWS ? n - r : HEAD_ROWS;
        job.x = (const char *)x + r * ldx * size;
        job.x0 = x0 ? (const char *)x0 + r * ldx * size : NULL;
        job.terms = terms + r;
        job.results = results + r;
        team_run(e->team, head_logits, &job, job.n_chunks);
        team_run(e->team, head_row, &job, job.n_rows);
        if (dx)
            matrix_product(e->kernels, dx + r * lddx, lddx, job.logits,
                           job.ldl * sizeof(float) / size, job.n_rows, m_t, 0, m_t->n_panels, false,
                           e->team);
    }
done:
    free(job.logits);
    free(job.base);
    free(job.parts);
    free(job.moments);
    return status;
}

/* The contract of a finished factor: its rows are orthonormal and singular vectors. By default from
 * random probes, which cost O(n^2); in full by two products of the order's cube. */
#include <math.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/blas.h"
#include "solver/svd_internal.h"

/* Limits. f32 solves of order 64 to 8192 were seen to give probes' estimates up to 1e-6 sqrt(r)
 * for both and a tenth of that in full; a wrong vector gives an error near 1. */
static double limit(size_t r, bool full)
{
    return full ? 2e-5 : 2e-5 + 4e-6 * sqrt((double)r);
}

enum { LINES = 64 };

static double dot(const float *x, const double *y, size_t n)
{
    double lane[8] = {0}, sum = 0;
    size_t i = 0;

    for (; i + 8 <= n; i += 8)
        for (size_t l = 0; l < 8; l++)
            lane[l] += (double)x[i + l] * y[i + l];
    for (; i < n; i++)
        sum += (double)x[i] * y[i];
    for (size_t l = 0; l < 8; l++)
        sum += lane[l];
    return sum;
}

/* Both maxima over all workers. */
static struct svd_contract combine(const struct svd_work *w, struct svd_contract own,
                                   struct svd_contract *shared)
{
    struct svd_contract all = {0, 0, false};

    shared[w->crew->index] = own;
    crew_wait(w->crew);
    for (int i = 0; i < w->crew->size; i++) {
        all.orthogonality = svd_worse(all.orthogonality, shared[i].orthogonality);
        all.residual = svd_worse(all.residual, shared[i].residual);
    }
    crew_wait(w->crew);
    return all;
}

/* max_i |q_i . t - x_i| where t = sum_i x_i q_i for a few random x: the entries of row i of
 * Q Q^T - I, added with random signs. */
static double probe_orthogonality(struct svd_work *w, const float *factor, const double *zt,
                                  double *t)
{
    const size_t r = w->r;
    double worst = 0;

    while (svd_part(w, SVD_SIGN_PROBES)) {
        const size_t p = w->parts.next;
        memset(t + p * r, 0, r * sizeof *t);
        for (size_t g = 0; g < SVD_GROUPS; g++)
            for (size_t i = 0; i < r; i++)
                t[p * r + i] += svd_probe_sign(1 + p, g) * zt[g * r + i];
    }
    while (svd_part(w, svd_cuts(r, LINES))) {
        const size_t first = w->parts.next * (size_t)LINES;
        for (size_t i = first; i < svd_at_most(first + LINES, r); i++) {
            const double sign = svd_probe_sign(0, i);
            const size_t g = svd_group_of(r, i);
            for (size_t p = 0; p < SVD_SIGN_PROBES; p++)
                worst = svd_worse(worst, fabs(dot(factor + i * r, t + p * r, r) -
                                              sign * svd_probe_sign(1 + p, g)));
        }
    }
    return worst;
}

static int check_by_probes(struct svd_work *w, const float *factor, const double *values,
                           double known_residual, struct svd_contract *own)
{
    const size_t r = w->r;
    double *zt = arena_take(w->arena, SVD_PROBES * r * sizeof *zt);
    double *t = arena_take(w->arena, SVD_SIGN_PROBES * r * sizeof *t);
    double *st = arena_take(w->arena, SVD_PROBES * r * sizeof *st);
    double *squares = arena_take(w->arena, SVD_PROBES * sizeof *squares);
    double rms[SVD_GROUPS], worst[SVD_GROUPS];

    if (!zt || !t || !st || !squares)
        return error_set("%s: the memory given for its decomposition is too small",
                         w->source->name);
    svd_probes_make(w, sizeof *factor, factor, zt);
    own->orthogonality = probe_orthogonality(w, factor, zt, t);
    own->residual = known_residual;
    if (known_residual >= 0)
        return 0;
    if (svd_apply(w, zt, st, squares) != 0)
        return -1;
    svd_residuals(w, sizeof *factor, factor, values, st, rms, worst);
    own->residual = 0;
    for (size_t g = 0; g < SVD_GROUPS; g++)
        own->residual = svd_worse(own->residual, worst[g] / values[0]);
    return 0;
}

static int check_in_full(struct svd_work *w, const float *factor, const double *values,
                         struct svd_contract *own)
{
    const size_t r = w->r;
    double *c = arena_take(w->arena, r * r * sizeof *c);
    double *q = arena_take(w->arena, r * r * sizeof *q);
    double *scratch = arena_take(w->arena, (size_t)w->crew->size * LINES * r * sizeof *scratch);

    if (!c || !q || !scratch)
        return error_set("%s: the memory given for its full check is too small", w->source->name);
    if (svd_gram(w, sizeof *c, c) != 0)
        return -1;
    while (svd_part(w, svd_cuts(r, LINES))) {
        const size_t first = w->parts.next * (size_t)LINES;
        for (size_t i = first; i < svd_at_most(first + LINES, r); i++)
            for (size_t j = 0; j < r; j++) {
                q[i * r + j] = (double)factor[i * r + j];
                if (j < i)
                    c[i * r + j] = c[j * r + i];
            }
    }
    double *product = scratch + (size_t)w->crew->index * LINES * r;
    while (svd_part(w, svd_cuts(r, LINES))) {
        const size_t first = w->parts.next * (size_t)LINES, n = svd_at_most(LINES, r - first);
        blas_gemm(sizeof *q, false, true, n, r, r, q + first * r, r, q, r, 0, product, r);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < r; j++)
                own->orthogonality =
                    svd_worse(own->orthogonality, fabs(product[i * r + j] - (first + i == j)));
        blas_gemm(sizeof *q, false, false, n, r, r, q + first * r, r, c, r, 0, product, r);
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (size_t j = 0; j < r; j++) {
                const double x = product[i * r + j] - values[first + i] * q[(first + i) * r + j];
                sum += x * x;
            }
            own->residual = svd_worse(own->residual, sqrt(sum) / values[0]);
        }
    }
    return 0;
}

size_t svd_contract_bytes(size_t r, bool full, int crew_size)
{
    const size_t probes =
        (2 * SVD_PROBES + SVD_SIGN_PROBES) * r * 8 + SVD_PROBES * 8 + 4 * 64 + svd_apply_bytes(r);
    const size_t products = 2 * r * r * 8 + (size_t)crew_size * LINES * r * 8 + 3 * 64;

    return (full ? products : probes) + (size_t)crew_size * sizeof(struct svd_contract) + 64;
}

void svd_contract_judge(const struct svd_work *w, const double *values, bool full,
                        struct svd_contract *contract)
{
    contract->holds =
        contract->orthogonality <= limit(w->r, full) && contract->residual <= limit(w->r, full);
    for (size_t i = 1; i < w->r; i++)
        contract->holds = contract->holds && values[i] <= values[i - 1];
}

int svd_contract(struct svd_work *w, const float *factor, const double *values,
                 double known_residual, struct svd_contract *contract)
{
    const size_t used = w->arena->used;
    const bool full = w->options->check;
    struct svd_contract *shared = arena_take(w->arena, (size_t)w->crew->size * sizeof *shared);
    struct svd_contract own = {0, 0, false};
    int status;

    if (!shared)
        status = error_set("%s: the memory given for its check is too small", w->source->name);
    else if (full)
        status = check_in_full(w, factor, values, &own);
    else
        status = check_by_probes(w, factor, values, known_residual, &own);
    if (status == 0) {
        *contract = combine(w, own, shared);
        svd_contract_judge(w, values, full, contract);
    }
    w->arena->used = used;
    return status;
}

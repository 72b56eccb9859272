#ifndef T2_SOLVER_SPACES_ROWS_H
#define T2_SOLVER_SPACES_ROWS_H
/* One row of spaces.h, forward and backward, for the host and for devices. */
#include <math.h>

#include "solver/manifold_charts.h"
#include "solver/spaces.h"

/* A token this long (squared) could overflow its product with `in`. */
#define SPACES_LONG_TOKEN 1e32
/* What such a product is cut to. */
#define SPACES_MOST_H 1e37

enum { SPACES_PART = 8 }; /* numbers of G h that are made at a time */

struct spaces_row {
    double to_router; /* 1 / sqrt(1 + |x|^2 / n) */
    double z[SPACES_MOST_HIDDEN];
    double pi[SPACES_MOST_EXPERTS], weight[SPACES_MOST_EXPERTS]; /* softmax; what is used */
    double entropy;
    uint32_t top;
    struct chart_input in[SPACES_MOST_TERMS];
    struct chart_output out[SPACES_MOST_TERMS];
};

/* What a row adds to the sums, beside its h, z and pi. */
struct spaces_marks {
    double w2[SPACES_MOST_TERMS], bw[SPACES_MOST_TERMS]; /* dL/d|w|^2, dL/d<b, w> */
    double kappa[SPACES_MOST_TERMS], b2[SPACES_MOST_TERMS];
    double dlogit[SPACES_MOST_EXPERTS], dpre[SPACES_MOST_HIDDEN];
};

static inline HOST_DEVICE double spaces_clamp(double x, double most)
{
    return fmax(-most, fmin(most, x));
}

/* The norms behind a row of h. */
static inline HOST_DEVICE const double *spaces_norms_of(const struct spaces *s, const float *h)
{
    return (const double *)(const void *)(h + s->norms_at);
}

static inline HOST_DEVICE void spaces_route(const struct spaces *s, const float *h,
                                            struct spaces_row *row)
{
    const float *pre = h + s->n_low;
    double sum = 0, most = -INFINITY;

    row->to_router = 1 / sqrt(1 + spaces_norms_of(s, h)[0] / (double)s->n_in);
    for (size_t i = 0; i < s->n_hidden; i++)
        row->z[i] = tanh(row->to_router * (double)pre[i] + (double)s->b1[i]);
    row->top = 0;
    for (size_t e = 0; e < s->n_experts; e++) {
        double logit = (double)s->b2[e];
        for (size_t i = 0; i < s->n_hidden; i++)
            logit += (double)s->w2[e * s->n_hidden + i] * row->z[i];
        row->pi[e] = logit;
        if (logit > most) {
            most = logit;
            row->top = (uint32_t)e;
        }
    }
    for (size_t e = 0; e < s->n_experts; e++)
        sum += row->pi[e] = exp(row->pi[e] - most);
    row->entropy = 0;
    for (size_t e = 0; e < s->n_experts; e++) {
        row->pi[e] /= sum;
        row->entropy -= row->pi[e] > 0 ? row->pi[e] * log(row->pi[e]) : 0;
        row->weight[e] = !s->top1 ? row->pi[e] : e == row->top ? 1 : 0;
    }
}

/* part [n <= SPACES_PART] = (G h)[i .. i + n], each a sum over k, first to last */
static inline HOST_DEVICE void spaces_gram_part(const double *gram, const float *h, size_t r,
                                                size_t i, size_t n, double part[SPACES_PART])
{
    for (size_t c = 0; c < n; c++)
        part[c] = 0;
    for (size_t k = 0; k < r; k++)
        for (size_t c = 0; c < n; c++)
            part[c] += gram[k * r + i + c] * (double)h[k];
}

static inline HOST_DEVICE void spaces_run_term(const struct spaces *s, size_t k, const float *row_h,
                                               struct spaces_row *row)
{
    const struct spaces_term *t = &s->terms[k];
    const double *gram = s->numbers + t->gram, *b_point = s->numbers + t->b_point;
    const float *h = row_h + t->h;
    struct chart_input *in = &row->in[k];
    double w2 = 0, bw = 0, part[SPACES_PART];

    row->out[k].p = 1;
    row->out[k].q = 0;
    if (t->chart == CHART_FLAT)
        return;
    for (size_t i = 0; i < s->r; i += SPACES_PART) {
        const size_t n = s->r - i < (size_t)SPACES_PART ? s->r - i : (size_t)SPACES_PART;
        spaces_gram_part(gram, h, s->r, i, n, part);
        for (size_t c = 0; c < n; c++) {
            w2 += (double)h[i + c] * part[c];
            bw += (double)h[i + c] * b_point[i + c];
        }
    }
    in->n = t->n_in;
    in->x2 = spaces_norms_of(s, row_h)[t->norm];
    in->w2 = w2 > 0 ? w2 : 0;
    in->bw = bw;
    in->b2 = t->b2;
    in->kappa = t->kappa;
    row->out[k] = chart_apply(t->chart, in);
}

/* Everything about a row from its h; all: terms without weight too (for their gradient). */
static inline HOST_DEVICE void spaces_run_row(const struct spaces *s, const float *h, bool all,
                                              struct spaces_row *row)
{
    spaces_route(s, h, row);
    for (size_t k = 0; k < s->n_terms; k++)
        if (all || row->weight[s->terms[k].expert] > 0)
            spaces_run_term(s, k, h, row);
}

/* u [ldu], finite and short enough for the product */
static inline HOST_DEVICE void spaces_write_u(const struct spaces *s, const struct spaces_row *row,
                                              const float *h, float *u, size_t ldu)
{
    for (size_t i = 0; i < ldu; i++)
        u[i] = 0;
    for (size_t k = 0; k < s->n_terms; k++) {
        const struct spaces_term *t = &s->terms[k];
        const double weight = s->scale * row->weight[t->expert];
        if (weight == 0)
            continue;
        for (size_t i = 0; i < s->r; i++)
            u[t->u + i] =
                (float)spaces_clamp(weight * row->out[k].p * (double)h[t->h + i], s->most_u);
        if (t->chart != CHART_FLAT)
            u[t->u_point] = (float)spaces_clamp(weight * row->out[k].q, s->most_u);
    }
}

/* ---- backward -------------------------------------------------------------------------------- */

/* A term's part of dh, of dL/d|x|^2 and of the marks; su: the row of out^T g. Returns what it adds
 * to dL/dpi of its expert. */
static inline HOST_DEVICE double spaces_term_backward(const struct spaces *s, size_t k,
                                                      const struct spaces_row *row,
                                                      const float *row_h, const float *su,
                                                      float *row_dh, double *factors,
                                                      struct spaces_marks *marks)
{
    const struct spaces_term *t = &s->terms[k];
    const double *gram = s->numbers + t->gram, *b_point = s->numbers + t->b_point;
    const double c = s->scale, weight = row->weight[t->expert];
    const double along = t->chart == CHART_FLAT ? 0 : (double)su[t->u_point];
    const double p = c * weight * row->out[k].p;
    const float *h = row_h + t->h;
    float *dh = row_dh + t->h;
    double inner = 0, part[SPACES_PART];

    marks->w2[k] = marks->bw[k] = marks->kappa[k] = marks->b2[k] = 0;
    for (size_t i = 0; i < s->r; i++) {
        inner += (double)su[t->u + i] * (double)h[i];
        dh[i] += (float)(p * (double)su[t->u + i]);
    }
    const double dpi = c * (row->out[k].p * inner + row->out[k].q * along);
    if (t->chart == CHART_FLAT || weight == 0)
        return dpi;
    const struct chart_gradient g =
        chart_apply_backward(t->chart, &row->in[k], c * weight * inner, c * weight * along);
    factors[t->norm] += g.x2;
    for (size_t i = 0; i < s->r; i += SPACES_PART) {
        const size_t n = s->r - i < (size_t)SPACES_PART ? s->r - i : (size_t)SPACES_PART;
        spaces_gram_part(gram, h, s->r, i, n, part);
        for (size_t j = 0; j < n; j++)
            dh[i + j] += (float)(2 * g.w2 * part[j] + g.bw * b_point[i + j]);
    }
    marks->w2[k] = g.w2;
    marks->bw[k] = g.bw;
    marks->kappa[k] = g.kappa;
    marks->b2[k] = g.b2;
    return dpi;
}

/* dL/dlogits, through the softmax in both modes (top-1 straight through), to the router's part of
 * dh; returns dL/d|x|^2 of it. */
static inline HOST_DEVICE double spaces_route_backward(const struct spaces *s,
                                                       const struct spaces_row *row, const float *h,
                                                       const double *dpi, float *dh,
                                                       struct spaces_marks *marks)
{
    double mean = 0, dscale = 0;

    for (size_t e = 0; e < s->n_experts; e++)
        mean += row->pi[e] * dpi[e];
    for (size_t e = 0; e < s->n_experts; e++)
        marks->dlogit[e] = row->pi[e] * (dpi[e] - mean);
    for (size_t i = 0; i < s->n_hidden; i++) {
        double dz = 0;
        for (size_t e = 0; e < s->n_experts; e++)
            dz += marks->dlogit[e] * (double)s->w2[e * s->n_hidden + i];
        marks->dpre[i] = dz * (1 - row->z[i] * row->z[i]);
        dh[s->n_low + i] = (float)(row->to_router * marks->dpre[i]);
        dscale += marks->dpre[i] * (double)h[s->n_low + i];
    }
    return -dscale * row->to_router * row->to_router * row->to_router / (2 * (double)s->n_in);
}

/* dh [ldh], factors [n_norms] (dL/d|x|^2) and marks from u = out^T g, which becomes u. */
static inline HOST_DEVICE void spaces_backward_row(const struct spaces *s, const float *h,
                                                   float *dh, size_t ldh, float *u, size_t ldu,
                                                   double *factors, struct spaces_row *row,
                                                   struct spaces_marks *marks)
{
    double dpi[SPACES_MOST_EXPERTS];

    for (size_t i = 0; i < ldh; i++)
        dh[i] = 0;
    for (size_t i = 0; i < s->n_norms; i++)
        factors[i] = 0;
    for (size_t e = 0; e < s->n_experts; e++)
        dpi[e] = 0;
    spaces_run_row(s, h, true, row);
    for (size_t k = 0; k < s->n_terms; k++)
        dpi[s->terms[k].expert] += spaces_term_backward(s, k, row, h, u, dh, factors, marks);
    factors[0] += spaces_route_backward(s, row, h, dpi, dh, marks);
    spaces_write_u(s, row, h, u, ldu);
}

#endif

/* MoSLoRA's backward half (adapter_moslora_run.h has the equations). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_run.h"

/* dL/dlogits, through the softmax in both modes (top-1 straight through), to the router's part of
 * dh and its sums; returns dL/d|x|^2 of it. */
static double router_backward(const struct moslora_job *j, const float *h,
                              const struct moslora_row *row, const double *dpi, float *dh,
                              double *sums)
{
    const struct moslora_site *s = j->s;
    const struct moslora_sums at = moslora_sums_of(s);
    const float *w2 = j->parameters + s->w2;
    double mean = 0, dscale = 0, dlogit[MOSLORA_MOST_EXPERTS];

    for (size_t e = 0; e < s->n_experts; e++)
        mean += row->pi[e] * dpi[e];
    for (size_t e = 0; e < s->n_experts; e++) {
        dlogit[e] = row->pi[e] * (dpi[e] - mean);
        sums[at.b2 + e] += dlogit[e];
        for (size_t i = 0; i < s->n_hidden; i++)
            sums[at.w2 + e * s->n_hidden + i] += dlogit[e] * row->z[i];
    }
    for (size_t i = 0; i < s->n_hidden; i++) {
        double dz = 0;
        for (size_t e = 0; e < s->n_experts; e++)
            dz += dlogit[e] * (double)w2[e * s->n_hidden + i];
        const double dpre = dz * (1 - row->z[i] * row->z[i]);
        sums[at.b1 + i] += dpre;
        dh[s->n_low + i] = (float)(row->to_router * dpre);
        dscale += dpre * (double)h[s->n_low + i];
    }
    return -dscale * row->to_router * row->to_router * row->to_router / (2 * (double)s->n_in);
}

/* A term's part of dh, of dL/d|x|^2 and of the sums; s_t: the row of out^T g. Returns what it adds
 * to dL/dpi of its expert. */
static double term_backward(const struct moslora_job *j, const struct moslora_term *t,
                            const struct moslora_row_term *v, double weight, const float *s_t,
                            float *dh, double *factors, double *sums)
{
    const size_t r = j->s->r;
    const double c = j->m->scale, along = t->chart == CHART_FLAT ? 0 : (double)s_t[t->u_point];
    const double p = c * weight * v->out.p;
    double inner = 0;

    for (size_t i = 0; i < r; i++) {
        inner += (double)s_t[t->u + i] * v->h[i];
        dh[t->h + i] += (float)(p * (double)s_t[t->u + i]);
    }
    const double dpi = c * (v->out.p * inner + v->out.q * along);
    if (t->chart == CHART_FLAT || weight == 0)
        return dpi;
    const struct chart_gradient g =
        chart_backward(t->chart, &v->in, c * weight * inner, c * weight * along);
    factors[t->norm] += g.x2;
    for (size_t i = 0; i < r; i++) {
        const double by = g.w2 * v->h[i];
        dh[t->h + i] += (float)(2 * g.w2 * v->gram_h[i] + g.bw * t->b_point[i]);
        for (size_t k = 0; k < r; k++)
            sums[i * r + k] += by * v->h[k];
        sums[r * r + i] += g.bw * v->h[i];
    }
    sums[r * r + r] += g.kappa;
    sums[r * r + r + 1] += g.b2;
    return dpi;
}

static void backward_chunk(void *arg, size_t part, int thread)
{
    const struct moslora_job *j = arg;
    const struct moslora_site *s = j->s;
    const struct moslora_sums at = moslora_sums_of(s);
    const size_t first = part * MOSLORA_CHUNK, left = j->n_rows - first;
    double *sums = j->w.sums + part * at.n_all;
    struct moslora_row row;
    (void)thread;

    memset(sums, 0, at.n_all * sizeof *sums);
    for (size_t i = first; i < first + (left < MOSLORA_CHUNK ? left : MOSLORA_CHUNK); i++) {
        const float *h = j->h + i * moslora_ld_h(s);
        float *dh = j->w.h + i * moslora_ld_h(s), *u = j->w.u + i * j->w.ldu;
        double *factors = j->w.factors + i * j->m->n_norms, *counts = sums + at.counts;
        double dpi[MOSLORA_MOST_EXPERTS] = {0};

        memset(dh, 0, moslora_ld_h(s) * sizeof *dh);
        memset(factors, 0, j->m->n_norms * sizeof *factors);
        moslora_run_row(j, h, true, &row);
        for (size_t k = 0; k < s->n_terms; k++) {
            const struct moslora_term *t = &s->terms[k];
            dpi[t->expert] += term_backward(j, t, &row.terms[k], row.weight[t->expert], u, dh,
                                            factors, sums + k * at.term);
        }
        factors[0] += router_backward(j, h, &row, dpi, dh, sums);
        moslora_write_u(j, &row, u); /* in the place of out^T g */
        for (size_t e = 0; e < s->n_experts; e++)
            counts[e] += row.pi[e];
        counts[s->n_experts + row.top] += 1;
        counts[2 * s->n_experts] += row.entropy;
        counts[2 * s->n_experts + 1] += 1;
    }
}

/* to += 2 factor x, to being dx or, with dropout, what goes through its mask. */
static void input_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct moslora_job *j = arg;
    const size_t n_in = j->s->n_in;
    (void)thread;
    for (size_t r = first; r < end; r++) {
        const double *factors = j->w.factors + r * j->m->n_norms;
        float *to = j->dx + r * j->lddx;
        for (size_t range = 0; range < j->m->n_norms; range++) {
            const size_t from = range ? n_in * (range - 1) / 3 : 0;
            const size_t end_in = range ? n_in * range / 3 : n_in;
            const float by = (float)(2 * factors[range]);
            for (size_t i = from; by != 0 && i < end_in; i += MOSLORA_PART) {
                const size_t n = end_in - i < MOSLORA_PART ? end_in - i : MOSLORA_PART;
                float part[MOSLORA_PART];
                const float *x = moslora_read(j, j->x, r * j->ldx + i, n, part);
                if (x != part)
                    memcpy(part, x, n * sizeof *part);
                j->e->math->scale(part, by, n);
                j->e->math->add(to + i, part, n);
            }
        }
    }
}

static void input_backward(struct moslora_job *j, float *dx, size_t lddx)
{
    const bool apart = j->dropout.keys != NULL;

    j->dx = apart ? j->w.dx : dx;
    j->lddx = apart ? j->w.ldx : lddx;
    j->e->ops->product(j->e, j->dx, j->lddx, j->w.dh_e, j->w.ld_dh, j->n_rows, &j->s->in_t, NULL,
                       !apart);
    j->e->ops->wait(j->e);
    team_ranges(j->e->team, input_rows, j, j->n_rows, 8);
    if (apart)
        engine_train(j->e)->add_dropped(j->e, dx, lddx, j->dx, j->lddx, j->n_rows, j->s->n_in,
                                        &j->dropout);
}

/* What reaches B and b through |B h|^2 and <b, B h>, from the sums of all rows. */
static void add_through_norms(const struct moslora_job *j, const struct moslora_term *t,
                              const double *sums, float *gradient)
{
    const size_t r = j->s->r, n = t->n_out;
    const float *b_t = j->parameters + t->b_t, *point = j->parameters + t->point;
    const double *d = sums + r * r, db2 = sums[r * r + r + 1];
    float *g = gradient + t->b_t, *g_point = gradient + t->point;

    for (size_t i = 0; i < r; i++) {
        for (size_t k = 0; k < r; k++) {
            const float by = (float)(2 * sums[i * r + k]);
            for (size_t c = 0; c < n && by != 0; c++)
                g[i * n + c] += by * b_t[k * n + c];
        }
        const float by = (float)d[i];
        for (size_t c = 0; c < n; c++) {
            g[i * n + c] += by * point[c];
            g_point[c] += by * b_t[i * n + c];
        }
    }
    for (size_t c = 0; c < n; c++)
        g_point[c] += (float)(2 * db2) * point[c];
}

static void add(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += from[i];
}

static void add_f64(float *to, const double *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] += (float)from[i];
}

/* From dL/din, dL/dout and the sums to the parameters' gradient. */
static void add_gradient(const struct moslora_job *j, float *gradient)
{
    const struct moslora_site *s = j->s;
    const struct moslora_sums at = moslora_sums_of(s);
    const size_t n_chunks = (j->n_rows + MOSLORA_CHUNK - 1) / MOSLORA_CHUNK;
    double *sums = j->w.sums;

    for (size_t i = 1; i < n_chunks; i++)
        for (size_t k = 0; k < at.n_all; k++)
            sums[k] += sums[i * at.n_all + k];
    for (size_t k = 0; k < s->n_terms; k++) {
        const struct moslora_term *t = &s->terms[k];
        const double *own = sums + k * at.term;
        for (size_t i = 0; i < s->r; i++) {
            if (k == 0 || t->h != s->terms[0].h)
                add(gradient + t->a + i * t->n_in, j->w.g_in + (t->h + i) * s->n_in + t->first_in,
                    t->n_in);
            add(gradient + t->b_t + i * t->n_out, j->w.g_out + (t->u + i) * s->n_out + t->first_out,
                t->n_out);
        }
        if (t->chart == CHART_FLAT)
            continue;
        add(gradient + t->point, j->w.g_out + t->u_point * s->n_out + t->first_out, t->n_out);
        add_through_norms(j, t, own, gradient);
        if (moslora_learns_curvature(j->m, t)) /* kappa = +-most sigmoid(t) */
            gradient[t->curvature] += (float)(own[s->r * s->r + s->r] * t->kappa *
                                              (1 - fabs(t->kappa) / j->m->options.most_curved));
    }
    add(gradient + s->w1, j->w.g_in + s->n_low * s->n_in, s->n_hidden * s->n_in);
    add_f64(gradient + s->b1, sums + at.b1, s->n_hidden);
    add_f64(gradient + s->w2, sums + at.w2, s->n_experts * s->n_hidden);
    add_f64(gradient + s->b2, sums + at.b2, s->n_experts);
    add_f64(gradient + j->adapter->n_parameters, sums + at.counts, j->adapter->n_sums);
}

int moslora_backward(const struct adapter *adapter, size_t site, const struct adapter_call *call,
                     float *dx, size_t lddx, const void *g, size_t ldg, float *gradient)
{
    struct moslora_job j = moslora_new_job(adapter, site, call);
    const struct moslora_site *s = j.s;
    const size_t n = call->n_rows;
    const struct engine_train_ops *train = engine_train(j.e);

    if (!call->parameters || n == 0)
        return 0;
    moslora_take_tokens(&j, call);
    j.h = call->saved;
    j.e->ops->product(j.e, j.w.u, j.w.ldu, g, ldg, n, &s->out_t, NULL, false);
    j.e->ops->wait(j.e);
    team_run(j.e->team, backward_chunk, &j, (n + MOSLORA_CHUNK - 1) / MOSLORA_CHUNK);
    train->to_elements(j.e, j.w.dh_e, j.w.ld_dh, j.w.h, moslora_ld_h(s), n, s->n_h);
    if (gradient) {
        train->to_elements(j.e, j.w.u_e, j.w.ldu, j.w.u, j.w.ldu, n, s->n_u);
        j.e->ops->zero(j.e, j.w.g_in, s->n_h * s->n_in * sizeof *j.w.g_in);
        j.e->ops->zero(j.e, j.w.g_out, s->n_u * s->n_out * sizeof *j.w.g_out);
        if (train->outer_sum(j.e, j.w.g_in, s->n_in, j.w.dh_e, j.w.ld_dh, s->n_h, j.x, j.ldx,
                             s->n_in, n) != 0 ||
            train->outer_sum(j.e, j.w.g_out, s->n_out, j.w.u_e, j.w.ldu, s->n_u, g, ldg, s->n_out,
                             n) != 0)
            return -1;
        j.e->ops->wait(j.e);
        add_gradient(&j, gradient);
    }
    if (dx)
        input_backward(&j, dx, lddx);
    return 0;
}

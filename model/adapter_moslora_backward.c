/* MoSLoRA's backward half (adapter_moslora_run.h has the equations). */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/adapter_moslora_run.h"

static void input_backward(struct moslora_job *j, float *dx, size_t lddx)
{
    const bool apart = j->dropout.keys != NULL;

    j->dx = apart ? j->w.dx : dx;
    j->lddx = apart ? j->w.ldx : lddx;
    j->e->ops->product(j->e, j->dx, j->lddx, j->w.dh_e, j->w.ld_dh, j->n_rows, &j->s->in_t, NULL,
                       !apart);
    engine_train(j->e)->spaces_input(j->e, j->dx, j->lddx, j->w.factors, j->m->n_norms, j->x,
                                     j->ldx, j->n_rows, j->s->n_in);
    if (apart)
        engine_train(j->e)->add_dropped(j->e, dx, lddx, j->dx, j->lddx, j->n_rows, j->s->n_in,
                                        &j->dropout);
}

/* What reaches B and b through |B h|^2 and <b, B h>, from the sums of all rows. */
static void add_through_norms(const struct moslora_job *j, const struct moslora_term *t,
                              const float *parameters, const double *sums, float *gradient)
{
    const size_t r = j->s->r, n = t->n_out;
    const float *b_t = parameters + t->b_t, *point = parameters + t->point;
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
static void add_gradient(const struct moslora_job *j, const float *parameters, float *gradient)
{
    const struct moslora_site *s = j->s;
    const struct spaces_sums at = spaces_sums_of(&s->spaces);
    const double *sums = j->w.sums;

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
        add_through_norms(j, t, parameters, own, gradient);
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
    if (train->spaces_backward(j.e, &s->spaces, j.w.sums, j.w.factors, j.w.h, j.w.u, j.w.ldu, j.h,
                               moslora_ld_h(s), n) != 0)
        return -1;
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
        add_gradient(&j, call->parameters, gradient);
    }
    if (dx)
        input_backward(&j, dx, lddx);
    return 0;
}

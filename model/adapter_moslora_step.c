/* What MoSLoRA does once a step: its curvatures' penalty, figures for the curve, and the steps of
 * bias points. */
#include <math.h>

#include "model/adapter_moslora_internal.h"

static double sigmoid(double t)
{
    return 1 / (1 + exp(-t));
}

double moslora_curvature(const struct moslora *m, const struct moslora_term *t,
                         const float *parameters)
{
    const double sign = t->chart == CHART_SPHERE ? 1 : -1;
    if (t->chart == CHART_FLAT)
        return 0;
    if (m->options.fixed_curvature)
        return sign * m->options.curvature;
    return sign * m->options.most_curved * sigmoid((double)parameters[t->curvature]);
}

double moslora_curvature_start(const struct moslora_options *o)
{
    return log(o->curvature / (o->most_curved - o->curvature));
}

double moslora_penalty(const struct adapter *adapter, const float *parameters, float *gradient)
{
    const struct moslora *m = adapter->data;
    double sum = 0;

    if (m->options.fixed_curvature || m->options.penalty == 0)
        return 0;
    const double start = (double)(float)moslora_curvature_start(&m->options);
    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct moslora_site *s = moslora_site(adapter, i);
        for (size_t k = 0; k < s->n_terms; k++) {
            const struct moslora_term *t = &s->terms[k];
            if (t->chart == CHART_FLAT)
                continue;
            const double far = (double)parameters[t->curvature] - start;
            sum += m->options.penalty / 2 * far * far;
            gradient[t->curvature] += (float)(m->options.penalty * far);
        }
    }
    return sum;
}

/* Sums of a step, over all sites' rows: the weights of experts, how often each was the likeliest,
 * the entropy of the weights, rows. Then the mean curvature of each kind of term. */
void moslora_statistics(const struct adapter *adapter, const float *parameters, const double *sums,
                        double *values)
{
    const struct moslora *m = adapter->data;
    const size_t n = 2 * m->n_experts + 1;
    const struct moslora_site *first = moslora_site(adapter, 0);

    for (size_t i = 0; i < n; i++)
        values[i] = sums[n] > 0 ? sums[i] / sums[n] : 0;
    values += n;
    for (size_t k = 0; k < first->n_terms; k++) {
        double sum = 0;
        if (first->terms[k].chart == CHART_FLAT)
            continue;
        for (size_t i = 0; i < adapter->n_sites; i++)
            sum += moslora_curvature(m, &moslora_site(adapter, i)->terms[k], parameters);
        *values++ = sum / (double)adapter->n_sites;
    }
}

/* AdamW has taken the step of a curvature's parameter at the common rate; here comes what is left
 * of one at `times` that rate, with the same moments. */
static void curvature_step(const struct adapter_step *step, double times, float *parameter,
                           float moment, float second)
{
    const double correction1 = 1 - pow(step->beta1, (double)step->step);
    const double correction2 = 1 - pow(step->beta2, (double)step->step);
    const double by =
        (double)moment / correction1 / (sqrt((double)second / correction2) + step->epsilon);

    *parameter -= (float)((times - 1) * step->rate * by);
}

void moslora_update(const struct adapter *adapter, float *parameters, const float *gradient,
                    float *moment, float *second, const struct adapter_step *step)
{
    const struct moslora *m = adapter->data;
    const struct point_step options = {step->rate, step->beta1, step->beta2, step->epsilon,
                                       step->step};
    const double limit = manifold_point_limit(m->options.most_curved);

    for (size_t i = 0; i < adapter->n_sites; i++) {
        const struct moslora_site *s = moslora_site(adapter, i);
        for (size_t k = 0; k < s->n_terms; k++) {
            const struct moslora_term *t = &s->terms[k];
            if (t->chart == CHART_FLAT)
                continue;
            manifold_point_step(t->chart, moslora_curvature(m, t, parameters), limit, t->n_out,
                                &options, parameters + t->point, gradient + t->point,
                                moment + t->point, second + t->point, m->point_scratch);
            if (moslora_learns_curvature(m, t) && m->options.curvature_rate != 1)
                curvature_step(step, m->options.curvature_rate, parameters + t->curvature,
                               moment[t->curvature], second[t->curvature]);
        }
    }
}

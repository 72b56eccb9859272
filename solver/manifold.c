#include "solver/manifold.h"

#include <math.h>

#include "solver/manifold_charts.h"

struct chart_output chart_forward(enum chart chart, const struct chart_input *in)
{
    return chart_apply(chart, in);
}

struct chart_gradient chart_backward(enum chart chart, const struct chart_input *in, double dp,
                                     double dq)
{
    return chart_apply_backward(chart, in, dp, dq);
}

/* ---- bias points ----------------------------------------------------------------------------- */

double manifold_point_limit(double most_curved)
{
    /* On the sphere 44 degrees, so a result stays 44 degrees or more from the origin's antipode. */
    return 0.7 / sqrt(most_curved > 0 ? most_curved : 1);
}

static double dot(const double *x, const double *y, unsigned long n)
{
    double sum = 0;
    for (unsigned long i = 0; i < n; i++)
        sum += x[i] * y[i];
    return sum;
}

/* In the coordinates of hyperboloid and sphere, p and the gradient of a ball's point p:
 * h = 2 p / (1 - c|p|^2), p = h / (1 + g) with g = sqrt(1 + c|h|^2). */
static void leave_ball(double kappa, unsigned long n, double *p, double *gradient)
{
    const double to = 2 / (1 + kappa * dot(p, p, n));
    for (unsigned long i = 0; i < n; i++)
        p[i] *= to;
    const double g = sqrt(1 - kappa * dot(p, p, n)), pg = dot(p, gradient, n);
    for (unsigned long i = 0; i < n; i++)
        gradient[i] = gradient[i] / (1 + g) + kappa * pg / (g * (1 + g) * (1 + g)) * p[i];
}

/* p <- exp_p(u), u tangent at p */
static void move(double kappa, unsigned long n, double *p, const double *u)
{
    const double pu = dot(p, u, n);
    double length2 = fmax(dot(u, u, n) + kappa * pu * pu / (1 - kappa * dot(p, p, n)), 0), by = 1;
    if (length2 > 1) { /* farther than any rate asks for: cosh stays in range */
        by = 1 / sqrt(length2);
        length2 = 1;
    }
    const double a = fabs(kappa) * length2;
    const double c = kappa > 0 ? cos(sqrt(a)) : cosh(sqrt(a));
    const double s = by * (kappa > 0 ? sin_ratio(a).f : sinh_ratio(a).f);
    for (unsigned long i = 0; i < n; i++)
        p[i] = c * p[i] + s * u[i];
}

/* m, tangent at p, becomes its parallel transport to q:
 * m - kappa <q, m> / (1 + kappa <p, q>) (p + q), in the ambient space's products. */
static void transport(double kappa, unsigned long n, const double *p, const double *q, double *m)
{
    const double tp = 1 - kappa * dot(p, p, n), tq = 1 - kappa * dot(q, q, n);
    const double qm = dot(q, m, n) - dot(p, m, n) * sqrt(tq / tp);
    const double by = kappa * qm / (1 + kappa * dot(p, q, n) + sqrt(tp * tq));
    for (unsigned long i = 0; i < n; i++)
        m[i] -= by * (p[i] + q[i]);
}

void manifold_point_step(enum chart chart, double kappa, double limit, unsigned long n,
                         const struct point_step *options, float *point, const float *gradient,
                         float *m, float *v, double *scratch)
{
    double *p = scratch, *g = p + n, *first = g + n, *q = first + n;
    const double correct1 = 1 - pow(options->beta1, (double)options->step);
    const double correct2 = 1 - pow(options->beta2, (double)options->step);

    if (n == 0)
        return;
    for (unsigned long i = 0; i < n; i++) {
        p[i] = (double)point[i];
        g[i] = (double)gradient[i];
        first[i] = (double)m[i];
    }
    if (chart == CHART_BALL)
        leave_ball(kappa, n, p, g);
    /* the metric's inverse is 1 - kappa p p^T */
    const double pg = dot(p, g, n), length2 = fmax(dot(g, g, n) - kappa * pg * pg, 0);
    const double second =
        options->beta2 * (double)v[0] + (1 - options->beta2) * length2 / (double)n;
    const double by = -options->rate / correct1 / (sqrt(second / correct2) + options->epsilon);
    for (unsigned long i = 0; i < n; i++) {
        first[i] = options->beta1 * first[i] + (1 - options->beta1) * (g[i] - kappa * pg * p[i]);
        q[i] = p[i];
        g[i] = by * first[i];
    }
    move(kappa, n, q, g);
    /* In the ball's coordinates h lies at h / (1 + g). */
    const double to = chart == CHART_BALL ? 1 / (1 + sqrt(1 - kappa * dot(q, q, n))) : 1;
    const double length = to * sqrt(dot(q, q, n)), clip = length > limit ? limit / length : 1;
    for (unsigned long i = 0; i < n; i++) {
        point[i] = (float)(q[i] * to * clip);
        q[i] *= clip;
    }
    if (chart == CHART_BALL && clip < 1) /* clipped in the ball's coordinates */
        for (unsigned long i = 0; i < n; i++)
            q[i] *= 2 * to / (1 + kappa * limit * limit);
    transport(kappa, n, p, q, first);
    for (unsigned long i = 0; i < n; i++) {
        m[i] = (float)first[i];
        v[i] = (float)second;
    }
}

#ifndef T2_SOLVER_MANIFOLD_CHARTS_H
#define T2_SOLVER_MANIFOLD_CHARTS_H
/* manifold.h's functions of a token's scalars, for the host and for devices (mpi/device.h). */
#include <math.h>

#include "mpi/device.h"
#include "solver/manifold.h"

/* Below this the closed forms of derivatives lose digits (1e-16 / a) and five terms of a series
 * have them all. */
#define MANIFOLD_SERIES_BELOW 1e-3
#define MANIFOLD_BALL_EDGE (1 - 1e-5)

struct chart_value {
    double f, d; /* a function of a, and its derivative */
};

static inline HOST_DEVICE struct chart_value chart_pair(double f, double d)
{
    struct chart_value v;
    v.f = f;
    v.d = d;
    return v;
}

/* sum of t[i] a^i, i < 6 */
static inline HOST_DEVICE struct chart_value series(const double t[6], double a)
{
    struct chart_value v = {t[5], 0};
    for (int i = 4; i >= 0; i--) {
        v.d = v.d * a + v.f;
        v.f = v.f * a + t[i];
    }
    return v;
}

/* tanh(sqrt a) / sqrt a; the following likewise */
static inline HOST_DEVICE struct chart_value tanh_ratio(double a)
{
    const double t[6] = {1, -1.0 / 3, 2.0 / 15, -17.0 / 315, 62.0 / 2835.0, -1382.0 / 155925};
    if (a < MANIFOLD_SERIES_BELOW)
        return series(t, a);
    const double r = sqrt(a), f = tanh(r);
    return chart_pair(f / r, (1 - f * f - f / r) / (2 * a));
}

static inline HOST_DEVICE struct chart_value artanh_ratio(double a)
{
    const double t[6] = {1, 1.0 / 3, 1.0 / 5, 1.0 / 7, 1.0 / 9, 1.0 / 11};
    if (a < MANIFOLD_SERIES_BELOW)
        return series(t, a);
    const double f = atanh(sqrt(a)) / sqrt(a);
    return chart_pair(f, (1 / (1 - a) - f) / (2 * a));
}

static inline HOST_DEVICE struct chart_value sinh_ratio(double a)
{
    const double t[6] = {1, 1.0 / 6, 1.0 / 120, 1.0 / 5040, 1.0 / 362880, 1.0 / 39916800};
    if (a < MANIFOLD_SERIES_BELOW)
        return series(t, a);
    const double r = sqrt(a), f = sinh(r) / r;
    return chart_pair(f, (cosh(r) - f) / (2 * a));
}

static inline HOST_DEVICE struct chart_value arsinh_ratio(double a)
{
    const double t[6] = {1, -1.0 / 6, 3.0 / 40, -15.0 / 336, 105.0 / 3456, -945.0 / 42240};
    if (a < MANIFOLD_SERIES_BELOW)
        return series(t, a);
    const double f = asinh(sqrt(a)) / sqrt(a);
    return chart_pair(f, (1 / sqrt(1 + a) - f) / (2 * a));
}

static inline HOST_DEVICE struct chart_value sin_ratio(double a)
{
    const double t[6] = {1, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800};
    if (a < MANIFOLD_SERIES_BELOW)
        return series(t, a);
    const double r = sqrt(a), f = sin(r) / r;
    return chart_pair(f, (cos(r) - f) / (2 * a));
}

/* atan2(sqrt a, t) / sqrt a, with both derivatives; a and t not both 0 */
struct chart_angle {
    double f, da, dt;
};

static inline HOST_DEVICE struct chart_angle angle_ratio(double a, double t)
{
    const double length2 = a + t * t;
    struct chart_angle r;
    if (t > 0 && a < MANIFOLD_SERIES_BELOW * t * t) {
        const double terms[6] = {1, -1.0 / 3, 1.0 / 5, -1.0 / 7, 1.0 / 9, -1.0 / 11};
        const struct chart_value v = series(terms, a / (t * t));
        r.f = v.f / t;
        r.da = v.d / (t * t * t);
    } else {
        r.f = atan2(sqrt(a), t) / sqrt(a);
        r.da = (t / length2 - r.f) / (2 * a);
    }
    r.dt = -1 / length2;
    return r;
}

/* ---- the token's scale ----------------------------------------------------------------------- */

struct chart_scale {
    double s, inverse; /* 1 / sqrt(n + |x|^2) and the root */
    double sigma2;     /* |s x|^2 */
};

static inline HOST_DEVICE struct chart_scale scale_of(const struct chart_input *in)
{
    struct chart_scale r;
    r.inverse = sqrt(in->n + in->x2);
    r.s = 1 / r.inverse;
    r.sigma2 = in->x2 * r.s * r.s;
    return r;
}

/* dL/d|x|^2 from those of s, 1 / s and sigma^2 */
static inline HOST_DEVICE double scale_backward(const struct chart_scale *r, double n, double ds,
                                                double dinverse, double dsigma2)
{
    const double s2 = r->s * r->s;
    return dsigma2 * n * s2 * s2 - ds * r->s * s2 / 2 + dinverse * r->s / 2;
}

/* ---- the ball -------------------------------------------------------------------------------- */

struct chart_ball {
    struct chart_scale scale;
    double c;
    struct chart_value lambda, l; /* of the lift, of the logarithm */
    int clipped;
    double mu;             /* Y = mu w */
    double y2, yb;         /* |Y|^2, <b, Y> */
    double ab, ay, d;      /* Z = (ab b + ay Y) / d */
    double sum2, z2;       /* |b + Y|^2, |Z|^2 */
    struct chart_output e; /* what comes of it */
};

static inline HOST_DEVICE struct chart_ball ball_run(const struct chart_input *in)
{
    struct chart_ball r;
    r.scale = scale_of(in);
    r.c = -in->kappa;
    const double c = r.c;
    r.lambda = tanh_ratio(c * r.scale.sigma2);
    r.mu = r.lambda.f * r.scale.s;
    r.clipped = c * r.mu * r.mu * in->w2 > MANIFOLD_BALL_EDGE * MANIFOLD_BALL_EDGE;
    if (r.clipped)
        r.mu = MANIFOLD_BALL_EDGE / sqrt(c * in->w2);
    r.y2 = r.mu * r.mu * in->w2;
    r.yb = r.mu * in->bw;
    r.ab = 1 + 2 * c * r.yb + c * r.y2;
    r.ay = 1 - c * in->b2;
    r.d = 1 + 2 * c * r.yb + c * c * in->b2 * r.y2;
    r.sum2 = fmax(in->b2 + 2 * r.yb + r.y2, 0.0);
    r.z2 = r.sum2 / r.d;
    r.l = artanh_ratio(fmin(c * r.z2, 1 - 1e-12));
    r.e.p = r.l.f * r.ay * (r.mu * r.scale.inverse) / r.d;
    r.e.q = r.l.f * r.ab * r.scale.inverse / r.d;
    return r;
}

static inline HOST_DEVICE struct chart_gradient ball_backward(const struct chart_input *in,
                                                              double dp, double dq)
{
    const struct chart_ball r = ball_run(in);
    const double c = r.c, ratio = r.l.f / r.d, stretch = r.mu * r.scale.inverse;
    struct chart_gradient g = {0, 0, 0, 0, 0};
    double dc = 0, ds = 0, dsigma2 = 0;

    /* p = ratio ay mu / s, q = ratio ab / s */
    const double dratio = dp * r.ay * stretch + dq * r.ab * r.scale.inverse;
    const double day = dp * ratio * stretch, dab = dq * ratio * r.scale.inverse;
    const double dstretch = dp * ratio * r.ay;
    const double dinverse = dq * ratio * r.ab + dstretch * r.mu;
    double dmu = dstretch * r.scale.inverse;
    /* ratio = l(c z2) / d, z2 = sum2 / d */
    const double dcz2 = dratio / r.d * r.l.d;
    const double dsum2 = dcz2 * c / r.d;
    const double dd = -dratio * ratio / r.d - dsum2 * r.z2;
    dc += dcz2 * r.z2;
    /* sum2, d, ab, ay */
    const double dy2 = dsum2 + dd * c * c * in->b2 + dab * c;
    const double dyb = 2 * dsum2 + 2 * c * dd + 2 * c * dab;
    g.b2 = dsum2 + dd * c * c * r.y2 - day * c;
    dc += dd * (2 * r.yb + 2 * c * in->b2 * r.y2) + dab * (2 * r.yb + r.y2) - day * in->b2;
    /* y2 = mu^2 |w|^2, yb = mu <b, w> */
    dmu += 2 * r.mu * in->w2 * dy2 + in->bw * dyb;
    g.w2 = r.mu * r.mu * dy2;
    g.bw = r.mu * dyb;
    if (r.clipped) {
        g.w2 -= dmu * r.mu / (2 * in->w2);
        dc -= dmu * r.mu / (2 * c);
    } else {
        const double da = dmu * r.scale.s * r.lambda.d;
        ds = dmu * r.lambda.f;
        dc += da * r.scale.sigma2;
        dsigma2 = da * c;
    }
    g.x2 = scale_backward(&r.scale, in->n, ds, dinverse, dsigma2);
    g.kappa = -dc;
    return g;
}

/* ---- hyperboloid and sphere ------------------------------------------------------------------ */

struct chart_quadric {
    struct chart_scale scale;
    struct chart_value lambda;
    double mu, y2, yb;
    double t;        /* k t of (t, Y) */
    double gamma, j; /* Z = Y + j b */
    double z2;
    double l, dl_da, dl_dt; /* the logarithm's factor and its derivatives by |kappa| z2 and k t' */
    struct chart_output e;
};

static inline HOST_DEVICE struct chart_quadric quadric_run(int sphere, const struct chart_input *in)
{
    const double kappa = in->kappa;
    struct chart_quadric r;
    r.scale = scale_of(in);
    const double a = fabs(kappa) * r.scale.sigma2;
    r.lambda = sphere ? sin_ratio(a) : sinh_ratio(a);
    r.mu = r.lambda.f * r.scale.s;
    r.y2 = r.mu * r.mu * in->w2;
    r.yb = r.mu * in->bw;
    r.t = sphere ? cos(sqrt(a)) : sqrt(1 - kappa * r.y2);
    r.gamma = sqrt(1 - kappa * in->b2);
    r.j = r.t - kappa * r.yb / (1 + r.gamma);
    r.z2 = fmax(r.y2 + 2 * r.j * r.yb + r.j * r.j * in->b2, 0.0);
    if (sphere) {
        const struct chart_angle angle = angle_ratio(kappa * r.z2, r.gamma * r.t - kappa * r.yb);
        r.l = angle.f;
        r.dl_da = angle.da;
        r.dl_dt = angle.dt;
    } else {
        const struct chart_value v = arsinh_ratio(-kappa * r.z2);
        r.l = v.f;
        r.dl_da = v.d;
        r.dl_dt = 0;
    }
    r.e.p = r.l * (r.mu * r.scale.inverse);
    r.e.q = r.l * r.j * r.scale.inverse;
    return r;
}

static inline HOST_DEVICE struct chart_gradient quadric_backward(int sphere,
                                                                 const struct chart_input *in,
                                                                 double dp, double dq)
{
    const struct chart_quadric r = quadric_run(sphere, in);
    const double kappa = in->kappa, sign = sphere ? 1 : -1;
    struct chart_gradient g = {0, 0, 0, 0, 0};

    /* p = l mu / s, q = l j / s */
    const double dl = dp * r.mu * r.scale.inverse + dq * r.j * r.scale.inverse;
    double dj = dq * r.l * r.scale.inverse;
    double dmu = dp * r.l * r.scale.inverse;
    const double dinverse = dq * r.l * r.j + dp * r.l * r.mu;
    /* l(|kappa| z2, t' = gamma t - kappa yb), dl_dt 0 on the hyperboloid */
    const double da = dl * r.dl_da, dt1 = dl * r.dl_dt, dz2 = sign * kappa * da;
    g.kappa = sign * r.z2 * da - r.yb * dt1;
    double dyb = -kappa * dt1, dgamma = r.t * dt1, dt = r.gamma * dt1;
    /* z2 = y2 + 2 j yb + j^2 b2 */
    double dy2 = dz2;
    dyb += 2 * r.j * dz2;
    dj += 2 * (r.yb + r.j * in->b2) * dz2;
    g.b2 = r.j * r.j * dz2;
    /* j = t - kappa yb / (1 + gamma) */
    const double by = 1 / (1 + r.gamma);
    dt += dj;
    g.kappa -= r.yb * by * dj;
    dyb -= kappa * by * dj;
    dgamma += kappa * r.yb * by * by * dj;
    /* gamma = sqrt(1 - kappa b2) */
    g.b2 -= kappa / (2 * r.gamma) * dgamma;
    g.kappa -= in->b2 / (2 * r.gamma) * dgamma;
    /* t = cos(sqrt a), whose derivative by a is -sin(sqrt a) / (2 sqrt a), or sqrt(1 - kappa y2) */
    double dlift = 0;
    if (sphere) {
        dlift = -r.lambda.f / 2 * dt;
    } else {
        dy2 -= kappa / (2 * r.t) * dt;
        g.kappa -= r.y2 / (2 * r.t) * dt;
    }
    dmu += 2 * r.mu * in->w2 * dy2 + in->bw * dyb;
    g.w2 = r.mu * r.mu * dy2;
    g.bw = r.mu * dyb;
    /* mu = lambda(a) s, a = |kappa| sigma^2 */
    dlift += dmu * r.scale.s * r.lambda.d;
    g.kappa += sign * r.scale.sigma2 * dlift;
    g.x2 = scale_backward(&r.scale, in->n, dmu * r.lambda.f, dinverse, sign * kappa * dlift);
    return g;
}

/* ---- any chart ------------------------------------------------------------------------------- */

/* chart_forward */
static inline HOST_DEVICE struct chart_output chart_apply(enum chart chart,
                                                          const struct chart_input *in)
{
    struct chart_output flat = {1, 0};
    if (chart == CHART_BALL)
        return ball_run(in).e;
    if (chart == CHART_LORENTZ || chart == CHART_SPHERE)
        return quadric_run(chart == CHART_SPHERE, in).e;
    return flat;
}

/* chart_backward */
static inline HOST_DEVICE struct chart_gradient chart_apply_backward(enum chart chart,
                                                                     const struct chart_input *in,
                                                                     double dp, double dq)
{
    struct chart_gradient none = {0, 0, 0, 0, 0};
    if (chart == CHART_BALL)
        return ball_backward(in, dp, dq);
    if (chart == CHART_LORENTZ || chart == CHART_SPHERE)
        return quadric_backward(chart == CHART_SPHERE, in, dp, dq);
    return none;
}

#endif

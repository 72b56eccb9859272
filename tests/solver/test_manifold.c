/* The charts against their definitions on whole vectors, finite differences, and Riemannian Adam.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "solver/manifold.h"

enum { N = 7, M = 5 };

static const enum chart charts[] = {CHART_BALL, CHART_LORENTZ, CHART_SPHERE};

static double noise(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (double)(*state >> 11) * 0x1p-52 - 1;
}

static double dot(const double *a, const double *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* A token, a matrix W = B A and a bias point. */
struct setting {
    double x[N], w[M][N], b[M], kappa;
};

static struct setting some_setting(uint64_t seed, enum chart chart, double size)
{
    struct setting t;
    for (size_t i = 0; i < N; i++)
        t.x[i] = size * noise(&seed);
    for (size_t i = 0; i < M; i++) {
        t.b[i] = 0.2 * noise(&seed);
        for (size_t j = 0; j < N; j++)
            t.w[i][j] = 0.6 * noise(&seed);
    }
    t.kappa = (chart == CHART_SPHERE ? 1 : -1) * (0.5 + 0.45 * noise(&seed));
    return t;
}

static struct chart_input input_of(const struct setting *t, double w[M])
{
    for (size_t i = 0; i < M; i++)
        w[i] = dot(t->w[i], t->x, N);
    return (struct chart_input){.n = N,
                                .x2 = dot(t->x, t->x, N),
                                .w2 = dot(w, w, M),
                                .bw = dot(t->b, w, M),
                                .b2 = dot(t->b, t->b, M),
                                .kappa = t->kappa};
}

static void fast(const struct setting *t, enum chart chart, double y[M])
{
    double w[M];
    const struct chart_input in = input_of(t, w);
    const struct chart_output out = chart_forward(chart, &in);
    for (size_t i = 0; i < M; i++)
        y[i] = out.p * w[i] + out.q * t->b[i];
}

/* Step by step on vectors: lift, multiply, put back, translate, logarithm. */
static void defined(const struct setting *t, enum chart chart, double y[M])
{
    const double c = fabs(t->kappa), k = sqrt(c);
    const double s = 1 / sqrt(N + dot(t->x, t->x, N));
    const double length = k * s * sqrt(dot(t->x, t->x, N));
    const double lift = chart == CHART_BALL      ? tanh(length) / length
                        : chart == CHART_LORENTZ ? sinh(length) / length
                                                 : sin(length) / length;
    double point[N], z[M], time = 0;
    for (size_t i = 0; i < N; i++)
        point[i] = lift * s * t->x[i];
    for (size_t i = 0; i < M; i++)
        z[i] = dot(t->w[i], point, N);
    const double bb = dot(t->b, t->b, M);
    if (chart == CHART_BALL) {
        const double most = (1 - 1e-5) / k, norm = sqrt(dot(z, z, M));
        for (size_t i = 0; i < M && norm > most; i++)
            z[i] *= most / norm;
        const double bz = dot(t->b, z, M), zz = dot(z, z, M);
        for (size_t i = 0; i < M; i++)
            z[i] = ((1 + 2 * c * bz + c * zz) * t->b[i] + (1 - c * bb) * z[i]) /
                   (1 + 2 * c * bz + c * c * bb * zz);
    } else {
        const double sign = chart == CHART_SPHERE ? 1 : -1;
        /* in units of 1 / k: (time, k z), a point of the sphere or hyperboloid of radius 1 */
        time = chart == CHART_SPHERE ? cos(length) : sqrt(1 + c * dot(z, z, M));
        if (chart == CHART_SPHERE) {
            const double norm = sqrt(time * time + c * dot(z, z, M));
            time /= norm;
            for (size_t i = 0; i < M; i++)
                z[i] /= norm;
        }
        /* the rotation or boost in the plane of the origin and the bias point (g, k b) */
        const double g = sqrt(1 - sign * c * bb), bz = dot(t->b, z, M);
        const double along = k * bz / sqrt(bb); /* k z along b / |b| */
        const double sine = k * sqrt(bb);
        const double along1 = g * along + sine * time;
        const double time1 = g * time - sign * sine * along;
        for (size_t i = 0; i < M; i++)
            z[i] += (along1 - along) / k * t->b[i] / sqrt(bb);
        time = time1;
    }
    const double r = k * sqrt(dot(z, z, M));
    const double angle = chart == CHART_BALL      ? atanh(r)
                         : chart == CHART_LORENTZ ? asinh(r)
                                                  : atan2(r, time);
    for (size_t i = 0; i < M; i++)
        y[i] = angle / r * z[i] / s;
}

static void two_scalars_give_what_whole_vectors_give(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++)
        for (uint64_t seed = 1; seed < 200; seed++) {
            const double size = pow(10, (double)(seed % 9) - 4);
            const struct setting t = some_setting(seed, charts[c], size);
            double y[M], expected[M];
            fast(&t, charts[c], y);
            defined(&t, charts[c], expected);
            const double scale = sqrt(dot(expected, expected, M));
            for (size_t i = 0; i < M; i++)
                if (fabs(y[i] - expected[i]) > 1e-9 * scale)
                    fail_msg("chart %zu, seed %d: %.12g, expected %.12g", c, (int)seed, y[i],
                             expected[i]);
        }
}

/* dL/din for L = 0.3 p - 0.7 q by central differences. */
static void check_derivatives(enum chart chart, const struct chart_input *in, const char *what)
{
    const double dp = 0.3, dq = -0.7;
    const struct chart_gradient g = chart_backward(chart, in, dp, dq);
    const double got[] = {g.x2, g.w2, g.bw, g.b2, g.kappa};
    for (size_t i = 0; i < 5; i++) {
        struct chart_input at[2] = {*in, *in};
        double *value[2], loss[2];
        for (size_t k = 0; k < 2; k++) {
            double *const fields[] = {&at[k].x2, &at[k].w2, &at[k].bw, &at[k].b2, &at[k].kappa};
            value[k] = fields[i];
        }
        const double usual = i == 2 ? sqrt(in->w2 * in->b2) : i == 3 ? 0.1 : 1e-3;
        const double step = 1e-5 * fmax(fabs(*value[0]), usual);
        *value[0] += step;
        *value[1] -= step;
        for (size_t k = 0; k < 2; k++) {
            const struct chart_output out = chart_forward(chart, &at[k]);
            loss[k] = dp * out.p + dq * out.q;
        }
        const double expected = (loss[0] - loss[1]) / (2 * step);
        const double size = fmax(fabs(loss[0]) / fmax(fabs(*value[0]), 1), fabs(expected));
        const double rounding = 1e-14 * fabs(loss[0]) / step;
        if (!(fabs(got[i] - expected) <= 1e-5 * size + 1e-9 + rounding))
            fail_msg("%s, chart %d, input %zu: %.10g, by differences %.10g", what, (int)chart, i,
                     got[i], expected);
    }
}

static void derivatives_are_those_of_differences(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++)
        for (uint64_t seed = 1; seed < 100; seed++) {
            double w[M];
            struct setting t = some_setting(seed, charts[c], pow(10, (double)(seed % 5) - 2));
            struct chart_input in = input_of(&t, w);
            check_derivatives(charts[c], &in, "anywhere");
            in.kappa *= 3e-4 / fabs(in.kappa);
            check_derivatives(charts[c], &in, "nearly flat");
            in.b2 = 1e-3;
            in.bw = 0;
            in.kappa *= 1e3;
            check_derivatives(charts[c], &in, "little bias");
            in.w2 *= 1e4;
            check_derivatives(charts[c], &in, "long");
        }
}

static void without_curvature_or_bias_a_chart_is_the_low_rank_product(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++)
        for (uint64_t seed = 1; seed < 100; seed++)
            for (int power = -12; power <= -6; power += 2) {
                struct setting t = some_setting(seed, charts[c], pow(10, (double)(seed % 9) - 4));
                double w[M], y[M];
                t.kappa *= pow(10, power) / fabs(t.kappa);
                t.kappa = power == -12 ? 0 : t.kappa;
                memset(t.b, 0, sizeof t.b);
                input_of(&t, w);
                fast(&t, charts[c], y);
                for (size_t i = 0; i < M; i++)
                    assert_true(fabs(y[i] - w[i]) <= 1e-5 * sqrt(dot(w, w, M)));
            }
}

static void on_the_sphere_a_longer_token_has_a_longer_result(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        double before = 0;
        for (double size = 1e-6; size < 1e30; size *= 3) {
            struct setting t = some_setting(seed, CHART_SPHERE, size);
            double y[M];
            memset(t.b, 0, sizeof t.b);
            fast(&t, CHART_SPHERE, y);
            const double length = sqrt(dot(y, y, M));
            assert_true(length > before);
            before = length;
        }
    }
}

static void no_input_gives_a_nan(void **state)
{
    (void)state;
    static const double sizes[] = {0, 5e-324, 1e-300, 1e-90, 1e-30, 1e-12, 1e-6, 1e-3,
                                   1, 1e3,    1e12,   1e40,  1e76,  1e90,  1e150};
    static const double curvatures[] = {0, 1e-300, 1e-12, 1e-3, 1, 2};
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    for (size_t c = 0; c < 3; c++)
        for (size_t i = 0; i < N_SIZES; i++)
            for (size_t j = 0; j < N_SIZES; j++)
                for (size_t k = 0; k < 6; k++)
                    for (int bias = -2; bias <= 2; bias++) {
                        const double limit = manifold_point_limit(2), b2 = bias ? limit * limit : 0;
                        const struct chart_input in = {
                            .n = 100,
                            .x2 = sizes[i],
                            .w2 = sizes[j],
                            .bw = bias / 2.0 * sqrt(b2) * sqrt(sizes[j]),
                            .b2 = b2,
                            .kappa = charts[c] == CHART_SPHERE ? curvatures[k] : -curvatures[k]};
                        const struct chart_output out = chart_forward(charts[c], &in);
                        const struct chart_gradient g = chart_backward(charts[c], &in, 0.5, 0.5);
                        if (!isfinite(out.p) || !isfinite(out.q) || isnan(g.x2) || isnan(g.w2) ||
                            isnan(g.bw) || isnan(g.b2) || isnan(g.kappa))
                            fail_msg("chart %zu, |x|^2 %g, |w|^2 %g, kappa %g, bias %d: %g %g, "
                                     "%g %g %g %g %g",
                                     c, sizes[i], sizes[j], in.kappa, bias, out.p, out.q, g.x2,
                                     g.w2, g.bw, g.b2, g.kappa);
                    }
}

/* ---- Riemannian Adam ------------------------------------------------------------------------- */

static double distance(enum chart chart, double kappa, const float *p, const float *q, size_t n)
{
    double pp = 0, qq = 0, pq = 0, dd = 0;
    const double c = fabs(kappa), k = sqrt(c);
    for (size_t i = 0; i < n; i++) {
        pp += (double)p[i] * (double)p[i];
        qq += (double)q[i] * (double)q[i];
        pq += (double)p[i] * (double)q[i];
        dd += ((double)p[i] - (double)q[i]) * ((double)p[i] - (double)q[i]);
    }
    if (chart == CHART_BALL)
        return 2 / k * asinh(sqrt(c * dd / ((1 - c * pp) * (1 - c * qq))));
    if (chart == CHART_LORENTZ)
        return acosh(fmax(1, sqrt((1 + c * pp) * (1 + c * qq)) - c * pq)) / k;
    return acos(fmin(1, sqrt((1 - c * pp) * (1 - c * qq)) + c * pq)) / k;
}

/* The first step has the length of the rate (times sqrt n: the second moment is a mean), whichever
 * the chart and the gradient's size. */
static void the_first_step_is_as_long_as_the_rate_on_the_manifold(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++) {
        float p[M] = {0.3f, -0.2f, 0.1f, 0.25f, 0}, before[M], m[M] = {0}, v[M] = {0};
        const float g[M] = {3, -1, 2, 0.5f, 7};
        const double kappa = charts[c] == CHART_SPHERE ? 0.8 : -0.8;
        const struct point_step options = {1e-2, 0.9, 0.999, 1e-12, 1};
        double scratch[4 * M];
        memcpy(before, p, sizeof p);
        manifold_point_step(charts[c], kappa, manifold_point_limit(1), M, &options, p, g, m, v,
                            scratch);
        const double length = distance(charts[c], kappa, before, p, M);
        /* the length of a tangent vector of unit mean square is sqrt M */
        if (fabs(length - 1e-2 * sqrt(M)) > 1e-5)
            fail_msg("chart %zu: a step of %g", c, length);
    }
}

/* Minimises the squared distance to a point of the chart by differences. */
static void riemannian_adam_finds_a_point(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++) {
        const double kappa = charts[c] == CHART_SPHERE ? 1 : -1, limit = manifold_point_limit(1);
        const float target[M] = {0.3f, -0.2f, 0.1f, 0.25f, -0.3f};
        float p[M] = {0}, m[M] = {0}, v[M] = {0}, g[M];
        double scratch[4 * M];
        for (unsigned long step = 1; step <= 600; step++) {
            const struct point_step options = {step < 400 ? 1e-2 : 1e-3, 0.9, 0.99, 1e-12, step};
            for (size_t i = 0; i < M; i++) {
                float above[M], below[M];
                memcpy(above, p, sizeof p);
                memcpy(below, p, sizeof p);
                above[i] += 1e-3f;
                below[i] -= 1e-3f;
                const double a = distance(charts[c], kappa, above, target, M);
                const double b = distance(charts[c], kappa, below, target, M);
                g[i] = (float)((a * a - b * b) / 2e-3);
            }
            manifold_point_step(charts[c], kappa, limit, M, &options, p, g, m, v, scratch);
        }
        if (distance(charts[c], kappa, p, target, M) > 2e-3)
            fail_msg("chart %zu ends %g away", c, distance(charts[c], kappa, p, target, M));
    }
}

static void a_point_never_leaves_its_limit(void **state)
{
    (void)state;
    for (size_t c = 0; c < 3; c++) {
        const double limit = manifold_point_limit(1);
        float p[M] = {0}, m[M] = {0}, v[M] = {0};
        const float g[M] = {-1e15f, 1, 1e10f, 0, -3};
        double scratch[4 * M];
        for (unsigned long step = 1; step <= 300; step++) {
            const struct point_step options = {0.5, 0.9, 0.999, 1e-8, step};
            double length2 = 0;
            manifold_point_step(charts[c], charts[c] == CHART_SPHERE ? 1 : -1, limit, M, &options,
                                p, g, m, v, scratch);
            for (size_t i = 0; i < M; i++) {
                assert_true(isfinite(p[i]) && isfinite(m[i]) && isfinite(v[i]));
                length2 += (double)p[i] * (double)p[i];
            }
            assert_true(sqrt(length2) <= limit * (1 + 1e-6));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_scalars_give_what_whole_vectors_give),
        cmocka_unit_test(derivatives_are_those_of_differences),
        cmocka_unit_test(without_curvature_or_bias_a_chart_is_the_low_rank_product),
        cmocka_unit_test(on_the_sphere_a_longer_token_has_a_longer_result),
        cmocka_unit_test(no_input_gives_a_nan),
        cmocka_unit_test(the_first_step_is_as_long_as_the_rate_on_the_manifold),
        cmocka_unit_test(riemannian_adam_finds_a_point),
        cmocka_unit_test(a_point_never_leaves_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

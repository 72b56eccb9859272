/* A mixture of spaces between its products: gradients against central differences, operations
 * against the row functions, and a CUDA device, where there is one, against the CPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "solver/spaces_rows.h"
#include "tests/solver/engine_runs.h"

/* Four experts, the last one split into thirds. */
enum { R = 5, N_IN = 50, TERMS = 6, EXPERTS = 4, HIDDEN = 7, NUMBERS = R * R + R };
enum { N_LOW = TERMS * R, N_H = N_LOW + HIDDEN, NORMS_AT = 48, LDH = NORMS_AT + SPACES_KEPT_NORMS };
enum { N_U = TERMS * (R + 1), LDU = 64 };

struct spaces_case {
    struct spaces s;
    double numbers[TERMS * NUMBERS];
    float b1[HIDDEN], w2[EXPERTS * HIDDEN], b2[EXPERTS];
};

static void fill(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = random_value();
}

static void make_term(struct spaces_case *c, size_t k, enum chart chart)
{
    struct spaces_term *t = &c->s.terms[k];
    double *gram = c->numbers + k * NUMBERS, b[R][R + 1];
    for (size_t i = 0; i < R; i++)
        for (size_t j = 0; j <= R; j++) /* the last column: the point */
            b[i][j] = 0.4 * (double)random_value() * (j == R ? 0.3 : 1);
    *t = (struct spaces_term){.chart = chart,
                              .expert = (uint32_t)(k < 3 ? k : 3),
                              .norm = (uint32_t)(k < 3 ? 0 : k - 2),
                              .h = (uint32_t)(k * R),
                              .u = (uint32_t)(k * (R + 1)),
                              .u_point = (uint32_t)(k * (R + 1) + R),
                              .gram = (uint32_t)(k * NUMBERS),
                              .b_point = (uint32_t)(k * NUMBERS + R * R),
                              .n_in = k < 3 ? N_IN : N_IN / 3,
                              .kappa = chart == CHART_FLAT     ? 0
                                       : chart == CHART_SPHERE ? 0.8
                                                               : -0.6};
    for (size_t i = 0; i < R; i++) {
        for (size_t j = 0; j < R; j++)
            for (size_t l = 0; l < R; l++)
                gram[i * R + j] += b[l][i] * b[l][j];
        for (size_t l = 0; l < R; l++)
            gram[R * R + i] += b[l][i] * b[l][R];
        t->b2 += b[i][R] * b[i][R];
    }
}

static void make_spaces(struct spaces_case *c, bool top1)
{
    static const enum chart charts[TERMS] = {CHART_FLAT,    CHART_BALL,   CHART_SPHERE,
                                             CHART_LORENTZ, CHART_SPHERE, CHART_FLAT};
    memset(c, 0, sizeof *c);
    c->s = (struct spaces){.r = R,
                           .n_in = N_IN,
                           .n_terms = TERMS,
                           .n_experts = EXPERTS,
                           .n_low = N_LOW,
                           .n_hidden = HIDDEN,
                           .n_norms = SPACES_MOST_NORMS,
                           .norms_at = NORMS_AT,
                           .scale = 1.5,
                           .most_u = 1e30,
                           .top1 = top1,
                           .numbers = c->numbers,
                           .b1 = c->b1,
                           .w2 = c->w2,
                           .b2 = c->b2};
    for (size_t k = 0; k < TERMS; k++)
        make_term(c, k, charts[k]);
    fill(c->b1, HIDDEN);
    fill(c->w2, EXPERTS * HIDDEN);
    fill(c->b2, EXPERTS);
}

/* A row of h with its norms behind it */
static void make_row(float h[LDH])
{
    double norms[SPACES_MOST_NORMS] = {40, 10, 12, 18};
    fill(h, LDH);
    for (size_t i = 0; i < SPACES_MOST_NORMS; i++)
        norms[i] *= 1.5 + (double)random_value();
    memcpy(h + NORMS_AT, norms, sizeof norms);
}

/* ---- one row --------------------------------------------------------------------------------- */

/* sum of g u, in f64 */
static double loss_of(const struct spaces *s, const float *h, const float *g)
{
    struct spaces_row row;
    double loss = 0;
    spaces_run_row(s, h, true, &row);
    for (size_t k = 0; k < TERMS; k++) {
        const struct spaces_term *t = &s->terms[k];
        const double weight = s->scale * row.weight[t->expert];
        for (size_t i = 0; i < R; i++)
            loss += weight * row.out[k].p * (double)h[t->h + i] * (double)g[t->u + i];
        if (t->chart != CHART_FLAT)
            loss += weight * row.out[k].q * (double)g[t->u_point];
    }
    return loss;
}

static void check_f64(const struct spaces_case *c, const float *h, const float *g, double *at,
                      double step, double got, const char *what, size_t i)
{
    const double value = *at;
    *at = value + step;
    const double up = loss_of(&c->s, h, g);
    *at = value - step;
    const double down = loss_of(&c->s, h, g);
    *at = value;
    assert_near(got, (up - down) / (2 * step), 1e-5 * (1 + fabs(got)), what, i);
}

static void check_f32(const struct spaces_case *c, const float *h, const float *g, float *at,
                      double got, const char *what, size_t i)
{
    const float value = *at, step = 0x1p-9f;
    *at = value + step;
    const double above = (double)*at, up = loss_of(&c->s, h, g);
    *at = value - step;
    const double below = (double)*at, down = loss_of(&c->s, h, g);
    *at = value;
    assert_near(got, (up - down) / (above - below), 2e-4 * (1 + fabs(got)), what, i);
}

static void gradients_are_the_derivatives(void **state)
{
    (void)state;
    struct engine e;
    struct spaces_case c;
    assert_int_equal(engine_create_cpu(&e, ELEMENT_F32, cpu_best_isa(), 1), 0);
    make_spaces(&c, false);
    const struct spaces_sums at = spaces_sums_of(&c.s);
    double *sums = filled(at.n_all * sizeof *sums, 0x7f);
    for (int repeat = 0; repeat < 5; repeat++) {
        float h[LDH], dh[LDH], u[LDU], g[LDU];
        double factors[SPACES_MOST_NORMS], *norms = (double *)(void *)(h + NORMS_AT);
        make_row(h);
        fill(g, LDU);
        memcpy(u, g, sizeof u);
        assert_int_equal(e.train->spaces_backward(&e, &c.s, sums, factors, dh, u, LDU, h, LDH, 1),
                         0);
        for (size_t i = 0; i < N_H; i++)
            check_f32(&c, h, g, &h[i], (double)dh[i], "dh", i);
        for (size_t i = 0; i < SPACES_MOST_NORMS; i++)
            check_f64(&c, h, g, &norms[i], 1e-4, factors[i], "factor", i);
        for (size_t k = 0; k < TERMS; k++) {
            const double *own = sums + k * at.term;
            if (c.s.terms[k].chart == CHART_FLAT)
                continue;
            for (size_t i = 0; i < R * R + R; i++)
                check_f64(&c, h, g, &c.numbers[k * NUMBERS + i], 1e-5, own[i], "gram", i);
            check_f64(&c, h, g, &c.s.terms[k].kappa, 1e-5, own[R * R + R], "kappa", k);
            check_f64(&c, h, g, &c.s.terms[k].b2, 1e-6, own[R * R + R + 1], "|b|^2", k);
        }
        for (size_t i = 0; i < HIDDEN; i++)
            check_f32(&c, h, g, &c.b1[i], sums[at.b1 + i], "b1", i);
        for (size_t i = 0; i < EXPERTS * HIDDEN; i++)
            check_f32(&c, h, g, &c.w2[i], sums[at.w2 + i], "w2", i);
        for (size_t i = 0; i < EXPERTS; i++)
            check_f32(&c, h, g, &c.b2[i], sums[at.b2 + i], "b2", i);
        assert_true(sums[at.n_all - 1] == 1);
    }
    free(sums);
    engine_free(&e);
}

/* ---- all operations -------------------------------------------------------------------------- */

/* The tensors of a case on a run's engine. */
static struct spaces place(struct run *run, const struct spaces_case *c)
{
    struct spaces s = c->s;
    s.numbers = tensor(run, c->numbers, sizeof c->numbers);
    s.b1 = tensor(run, c->b1, sizeof c->b1);
    s.w2 = tensor(run, c->w2, sizeof c->w2);
    s.b2 = tensor(run, c->b2, sizeof c->b2);
    return s;
}

static void keep_f64(struct run *run, const double *values, size_t n)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    run->e.ops->wait(&run->e);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)values[i];
    keep(run, x, n);
    free(x);
}

/* Tokens, their products and back; which 1: top-1. One token is long. */
static void run_spaces(struct run *run, size_t which)
{
    enum { N = 70, LDX = 64 };
    const size_t size = element_size(run->e.element);
    struct spaces_case c;
    struct matrix in;
    float *w = random_values(N_H * N_IN, 0), *values = random_values(N * LDX, 0);

    make_spaces(&c, which == 1);
    const struct spaces s = place(run, &c);
    const size_t n_all = spaces_sums_of(&s).n_all;
    for (size_t i = 0; i < N_IN; i++)
        values[3 * LDX + i] *= 1e18f;
    void *host = elements_of(run->e.element, values, N * LDX);
    void *x = tensor(run, host, N * LDX * size);
    float *h = tensor(run, NULL, N * LDH * sizeof *h), *dh = tensor(run, NULL, N * LDH * sizeof *h);
    float *u = tensor(run, NULL, N * LDU * sizeof *u), *dx = floats(run, N * LDX, 0);
    double *norms = tensor(run, NULL, N * s.n_norms * sizeof *norms);
    double *factors = tensor(run, NULL, N * s.n_norms * sizeof *factors);
    double *sums = tensor(run, NULL, n_all * sizeof *sums);
    assert_int_equal(engine_matrix_create(&run->e, &in, N_H, N_IN), 0);
    matrix_pack_rows(&in, 0, N_H, w);

    run->ops->spaces_norms(&run->e, norms, s.n_norms, x, LDX, N, N_IN);
    keep_f64(run, norms, N * s.n_norms);
    run->e.ops->product(&run->e, h, LDH, x, LDX, N, &in, NULL, false);
    run->ops->spaces_long(&run->e, &s, h, LDH, &in, x, LDX, norms, N);
    run->ops->spaces_forward(&run->e, &s, u, LDU, h, LDH, norms, N);
    run->e.ops->wait(&run->e);
    for (size_t r = 0; r < N; r++) {
        assert_memory_equal(h + r * LDH + NORMS_AT, norms + r * s.n_norms, 4 * sizeof *norms);
        keep(run, u + r * LDU, LDU);
        for (size_t i = 0; i < LDU; i++)
            u[r * LDU + i] = random_value();
    }
    assert_int_equal(run->ops->spaces_backward(&run->e, &s, sums, factors, dh, u, LDU, h, LDH, N),
                     0);
    run->ops->spaces_input(&run->e, dx, LDX, factors, s.n_norms, x, LDX, N, N_IN);
    run->e.ops->wait(&run->e);
    for (size_t r = 0; r < N; r += 4) {
        keep(run, u + r * LDU, LDU);
        keep(run, dh + r * LDH, LDH);
        keep(run, dx + r * LDX, LDX);
    }
    keep_f64(run, sums + spaces_sums_of(&s).b1, n_all - spaces_sums_of(&s).b1);
    run->e.ops->wait(&run->e);
    matrix_free(&in);
    free(host);
    free(values);
    free(w);
}

static void a_device_does_what_the_cpu_does(void **state)
{
    (void)state;
    if (engine_cuda_count() == 0) {
        printf("skipped: no CUDA device\n");
        skip();
    }
    compare_both(run_spaces, 2, 1e-5, 1e-5, "spaces");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_the_derivatives),
        cmocka_unit_test(a_device_does_what_the_cpu_does),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

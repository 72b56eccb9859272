#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "solver/kernels.h"
#include "solver/vecmath.h"

enum { LARGEST = 700 };

/* Arrays of exactly n elements on the heap, so that the sanitizers see a step outside. */
static float *random_array(size_t n, float spread, unsigned *seed)
{
    float *x = malloc((n ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        *seed = *seed * 1664525u + 1013904223u;
        x[i] = ((float)(*seed >> 8) / 8388608.0f - 1.0f) * spread;
    }
    return x;
}

static void assert_same_bits(const void *a, const void *b, size_t bytes)
{
    if (bytes > 0)
        assert_memory_equal(a, b, bytes);
}

/* Calls f for every level that this processor has, with the level below as the twin. */
static void for_each_level(void (*f)(const struct vecmath *v, const struct vecmath *twin))
{
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++)
        f(vecmath_find((enum isa)isa), vecmath_find(ISA_PLAIN));
}

static void check_exp(const struct vecmath *v, const struct vecmath *twin)
{
    enum { N = 4099 };
    static float x[N], y[N];
    (void)twin;
    for (float start = -87.3f; start < 88.7f; start += 1.37f) {
        for (size_t i = 0; i < N; i++)
            x[i] = fminf(start + 1.4f * (float)i / N, 88.72f);
        v->exp(y, x, N);
        for (size_t i = 0; i < N; i++) {
            const double want = exp((double)x[i]);
            int exponent;
            frexp(want, &exponent);
            assert_true(fabs((double)y[i] - want) <= 1.5 * ldexp(1, exponent - 24));
        }
    }
    const float ends[8] = {-INFINITY, -1e30f, -88.0f, -0.0f, 0.0f, 89.0f, INFINITY, NAN};
    v->exp(y, ends, 8);
    for (size_t i = 0; i < 3; i++)
        assert_true(y[i] == 0 && !signbit(y[i]));
    assert_true(y[3] == 1 && y[4] == 1);
    assert_true(isinf(y[5]) && isinf(y[6]) && isnan(y[7]));
}

static void exp_is_within_1_5_ulp_and_right_at_the_ends(void **state)
{
    (void)state;
    for_each_level(check_exp);
}

static void check_elementwise(const struct vecmath *v, const struct vecmath *twin)
{
    unsigned seed = 1;
    for (size_t n = 0; n < LARGEST; n += n < 70 ? 1 : 97) {
        float *x = random_array(n, 90, &seed), *w = random_array(n, 2, &seed);
        float *a = random_array(n, 1, &seed), *b = random_array(n, 1, &seed);
        if (n > 3) {
            x[0] = -INFINITY;
            x[1] = 1e-41f;
            x[2] = NAN;
        }
        v->exp(a, x, n);
        twin->exp(b, x, n);
        assert_same_bits(a, b, n * sizeof *a);
        v->silu_mul(a, x, w, n);
        twin->silu_mul(b, x, w, n);
        for (size_t i = 0; i < n; i++) /* the payload of a NaN is nobody's business */
            assert_true(memcmp(a + i, b + i, sizeof *a) == 0 || (isnan(a[i]) && isnan(b[i])));
        if (n > 3)
            x[2] = 3;
        v->norm_scale(a, x, w, 0.37f, n);
        twin->norm_scale(b, x, w, 0.37f, n);
        assert_same_bits(a, b, n * sizeof *a);
        v->scale(a, 1.7f, n);
        twin->scale(b, 1.7f, n);
        assert_same_bits(a, b, n * sizeof *a);
        v->rope(a, x, w, n / 2);
        twin->rope(b, x, w, n / 2);
        assert_same_bits(a, b, n * sizeof *a);
        v->drop_factors(a, 12345, 20000, 1.5f, n);
        twin->drop_factors(b, 12345, 20000, 1.5f, n);
        assert_same_bits(a, b, n * sizeof *a);
        memcpy(a, x, n * sizeof *a); /* in place */
        v->exp(a, a, n);
        twin->exp(b, x, n);
        assert_same_bits(a, b, n * sizeof *a);
        v->to_bf16((uint16_t *)a, x, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(((uint16_t *)a)[i], bf16_from_f32(x[i]));
        free(x);
        free(w);
        free(a);
        free(b);
    }
}

static void elementwise_functions_have_the_same_bits_at_every_level(void **state)
{
    (void)state;
    for_each_level(check_elementwise);
}

/* The order that vecmath.h states. */
static float ordered_sum(const float *x, size_t n)
{
    float lanes[64] = {0};
    for (size_t i = 0; i < n; i++)
        lanes[i % 64] += x[i];
    for (size_t width = 32; width > 0; width /= 2)
        for (size_t l = 0; l < width; l++)
            lanes[l] += lanes[l + width];
    return lanes[0];
}

static void check_reductions(const struct vecmath *v, const struct vecmath *twin)
{
    unsigned seed = 2;
    (void)twin;
    for (size_t n = 0; n < LARGEST; n++) {
        float *x = random_array(n, 5, &seed), *y = random_array(n, 1, &seed);
        float largest = -INFINITY;
        for (size_t i = 0; i < n; i++)
            largest = x[i] > largest ? x[i] : largest;
        assert_true(v->max(x, n) == largest);
        const float sum = v->sum(x, n), want = ordered_sum(x, n);
        assert_same_bits(&sum, &want, sizeof sum);

        for (size_t i = 0; i < n; i++)
            y[i] = x[i] * x[i];
        const float squares = v->sum_squares(x, n), want_squares = ordered_sum(y, n);
        assert_same_bits(&squares, &want_squares, sizeof squares);

        float *e = random_array(n, 1, &seed);
        const float total = v->exp_sum(e, x, 1.5f, n);
        for (size_t i = 0; i < n; i++)
            y[i] = x[i] - 1.5f;
        v->exp(y, y, n);
        assert_same_bits(e, y, n * sizeof *e);
        const float want_total = ordered_sum(y, n);
        assert_same_bits(&total, &want_total, sizeof total);
        const float in_place = v->exp_sum(x, x, 1.5f, n);
        assert_same_bits(x, y, n * sizeof *x);
        assert_same_bits(&in_place, &total, sizeof total);
        free(x);
        free(y);
        free(e);
    }
}

static void reductions_follow_the_stated_order_at_every_level(void **state)
{
    (void)state;
    for_each_level(check_reductions);
}

static void check_silu_and_rope(const struct vecmath *v, const struct vecmath *twin)
{
    enum { N = 128 };
    unsigned seed = 3;
    float *gate = random_array(N, 30, &seed), *up = random_array(N, 3, &seed);
    float *cosines = random_array(N / 2, 1, &seed), *sines = random_array(N / 2, 1, &seed);
    float *x = random_array(N, 2, &seed), y[N];
    (void)twin;
    v->silu_mul(y, gate, up, N);
    for (size_t i = 0; i < N; i++) {
        const double want = (double)gate[i] / (1 + exp(-(double)gate[i])) * (double)up[i];
        assert_true(fabs((double)y[i] - want) <= 4e-7 * fabs(want));
    }
    memcpy(y, x, sizeof y);
    v->rope(y, cosines, sines, N / 2);
    for (size_t i = 0; i < N / 2; i++) {
        const double c = (double)cosines[i], s = (double)sines[i];
        const double a = (double)x[i], b = (double)x[i + N / 2];
        assert_true(fabs((double)y[i] - (a * c - b * s)) < 1e-6);
        assert_true(fabs((double)y[i + N / 2] - (b * c + a * s)) < 1e-6);
    }
    const float saturated[2] = {-200.0f, 200.0f}, ones[2] = {1, 1};
    v->silu_mul(y, saturated, ones, 2);
    assert_true(y[0] == 0 && y[1] == 200);
    free(gate);
    free(up);
    free(cosines);
    free(sines);
    free(x);
}

static void silu_and_rope_agree_with_double_arithmetic(void **state)
{
    (void)state;
    for_each_level(check_silu_and_rope);
}

/* The functions of a backward pass, on the same arrays. */
static void check_backward(const struct vecmath *v, const struct vecmath *twin)
{
    unsigned seed = 4;
    for (size_t n = 0; n < LARGEST; n += n < 70 ? 1 : 97) {
        float *x = random_array(n, 3, &seed), *y = random_array(n, 3, &seed);
        float *z = random_array(n, 3, &seed), *products = random_array(n, 1, &seed);
        float *a = random_array(n, 1, &seed), *b = random_array(n, 1, &seed);
        float *c = random_array(n, 1, &seed), *d = random_array(n, 1, &seed);
        float sums[2], want[2];

        memcpy(b, a, n * sizeof *a);
        v->add(a, x, n);
        twin->add(b, x, n);
        v->multiply_add(a, x, y, n);
        twin->multiply_add(b, x, y, n);
        v->norm_backward(a, x, y, z, 0.3f, 0.7f, n);
        twin->norm_backward(b, x, y, z, 0.3f, 0.7f, n);
        v->softmax_backward(a, x, 0.1f, 1.3f, n);
        twin->softmax_backward(b, x, 0.1f, 1.3f, n);
        v->ratio_scale(a, y, 0.2f, 0.9f, -0.4f, n);
        twin->ratio_scale(b, y, 0.2f, 0.9f, -0.4f, n);
        assert_same_bits(a, b, n * sizeof *a);
        v->silu_backward(a, c, x, y, z, n);
        twin->silu_backward(b, d, x, y, z, n);
        assert_same_bits(a, b, n * sizeof *a);
        assert_same_bits(c, d, n * sizeof *c);
        v->pack_pairs((uint32_t *)a, x, y, n);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(((uint32_t *)a)[i],
                             (uint32_t)bf16_from_f32(x[i]) | (uint32_t)bf16_from_f32(y[i]) << 16);
        v->subtract(a, x, y, n);
        v->multiply(b, x, y, n);
        for (size_t i = 0; i < n; i++)
            assert_true(a[i] == x[i] - y[i] && b[i] == x[i] * y[i]);

        assert_true(v->dot(x, y, n) == ordered_sum(b, n));
        for (size_t i = 0; i < n; i++)
            products[i] = x[i] * y[i] * z[i];
        assert_true(v->dot3(x, y, z, n) == ordered_sum(products, n));
        for (size_t i = 0; i < n; i++)
            products[i] = x[i] * (y[i] - 0.4f);
        assert_true(v->moment(x, y, 0.4f, n) == ordered_sum(products, n));
        v->ratio_sums(sums, x, y, 0.4f, n);
        twin->ratio_sums(want, x, y, 0.4f, n);
        assert_true(sums[0] == ordered_sum(products, n));
        assert_same_bits(sums, want, sizeof sums);
        free(x);
        free(y);
        free(z);
        free(products);
        free(a);
        free(b);
        free(c);
        free(d);
    }
}

static void backward_functions_have_the_same_bits_at_every_level(void **state)
{
    (void)state;
    for_each_level(check_backward);
}

static void check_ratio(const struct vecmath *v, const struct vecmath *twin)
{
    (void)twin;
    const float one = 1;
    for (double d = -60; d < 60; d = d < -1 || d > 1 ? d + 0.37 : d + 0.0013) {
        const float x = (float)d;
        const double want = (double)x + expm1(-(double)x);
        float sums[2];
        v->ratio_sums(sums, &one, &x, 0, 1);
        assert_true(fabs((double)sums[1] - want) <= 2e-6 * want);
    }
}

static void the_excess_of_a_ratio_keeps_its_digits(void **state)
{
    (void)state;
    for_each_level(check_ratio);
}

static void check_transpose(const struct vecmath *v, const struct vecmath *twin)
{
    enum { LD_X = 41, LD_Y = 39, MOST = 37 };
    static const size_t sizes[] = {1, 7, 16, 17, 32, MOST};
    uint32_t x[MOST * LD_X], y[MOST * LD_Y];
    (void)twin;
    for (size_t i = 0; i < MOST * LD_X; i++)
        x[i] = (uint32_t)i;
    for (size_t i = 0; i < 36; i++) {
        const size_t n_rows = sizes[i / 6], n_columns = sizes[i % 6];
        memset(y, 0xff, sizeof y);
        v->transpose(y, LD_Y, x, LD_X, n_rows, n_columns);
        for (size_t c = 0; c < MOST; c++)
            for (size_t r = 0; r < LD_Y; r++)
                assert_int_equal(y[c * LD_Y + r],
                                 r < n_rows && c < n_columns ? x[r * LD_X + c] : UINT32_MAX);
    }
}

static void transpose_touches_its_block_alone(void **state)
{
    (void)state;
    for_each_level(check_transpose);
}

static void maximum_passes_over_nan(void **state)
{
    (void)state;
    const float x[3] = {NAN, -2, -3};
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++) {
        const struct vecmath *v = vecmath_find((enum isa)isa);
        assert_true(v->max(x, 3) == -2);
        assert_true(v->max(x, 0) == -INFINITY);
    }
}

/* Over pages of 64: weights and sums that are exp and sum in the stated order. */
static void check_softmax_step(const struct vecmath *v, const struct vecmath *twin)
{
    unsigned seed = 9;
    for (size_t from = 0; from <= 64; from += 3)
        for (size_t to = 0; to <= 64; to += 4) {
            float *s = random_array(64, 20, &seed), *t = random_array(64, 1, &seed);
            float m = from % 2 ? -INFINITY : 1.5f, l = 0.25f, m_twin = m, l_twin = l, exact[64];
            if (from > 0)
                s[from - 1] = NAN; /* masked */
            memcpy(t, s, 64 * sizeof *t);
            for (size_t i = 0; i < 64; i++)
                exact[i] = i >= from && i < to ? s[i] * 0.3f : -INFINITY;
            const float before = m, largest = fmaxf(m, v->max(exact, 64));
            const float c = v->softmax_step(s, 0.3f, from, to, &m, &l);
            assert_true(c == twin->softmax_step(t, 0.3f, from, to, &m_twin, &l_twin));
            assert_memory_equal(s, t, 64 * sizeof *s);
            assert_true(m == m_twin && l == l_twin && m == (from < to ? largest : before));
            if (from < to) {
                float shift = before - largest, factor = 1;
                if (largest > before)
                    v->exp(&factor, &shift, 1);
                assert_true(c == factor);
                assert_true(l == 0.25f * c + v->exp_sum(exact, exact, largest, 64));
                assert_memory_equal(s, exact, sizeof exact);
            } else {
                assert_true(c == 1 && l == 0.25f && s[0] == 0 && s[63] == 0);
            }
            free(s);
            free(t);
        }
}

static void a_softmax_step_is_made_of_max_exp_and_sum(void **state)
{
    (void)state;
    for_each_level(check_softmax_step);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_1_5_ulp_and_right_at_the_ends),
        cmocka_unit_test(elementwise_functions_have_the_same_bits_at_every_level),
        cmocka_unit_test(reductions_follow_the_stated_order_at_every_level),
        cmocka_unit_test(silu_and_rope_agree_with_double_arithmetic),
        cmocka_unit_test(backward_functions_have_the_same_bits_at_every_level),
        cmocka_unit_test(the_excess_of_a_ratio_keeps_its_digits),
        cmocka_unit_test(transpose_touches_its_block_alone),
        cmocka_unit_test(maximum_passes_over_nan),
        cmocka_unit_test(a_softmax_step_is_made_of_max_exp_and_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Weights of mixtures: the same bits everywhere, unbiased rounding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "solver/axpy.h"

enum { N = 70001, K = 3 };

struct arrays {
    void *base, *changes[K], *out, *expected;
};

static float number(size_t i, size_t k)
{
    uint32_t x = (uint32_t)(i * 2654435761u + k * 40503u + 1);
    x ^= x >> 15;
    x *= 0x2c1b3c6du;
    x ^= x >> 12;
    return (float)(x >> 8) * 0x1p-24f - 0.5f;
}

static void *made(enum element element, size_t k, float scale)
{
    void *x = malloc(N * sizeof(float));

    assert_non_null(x);
    for (size_t i = 0; i < N; i++) {
        if (element == ELEMENT_F32)
            ((float *)x)[i] = scale * number(i, k);
        else
            ((uint16_t *)x)[i] = bf16_from_f32(scale * number(i, k));
    }
    return x;
}

static struct axpy problem(enum element element, struct arrays *a)
{
    struct axpy axpy = {.element = element, .n = K, .scale = 1.25f, .key = 77};

    axpy.base = a->base = made(element, 9, 1);
    for (size_t k = 0; k < K; k++) {
        axpy.changes[k] = a->changes[k] = made(element, k, 0.01f);
        axpy.a[k] = 0.3f * (float)(k + 1);
    }
    a->out = calloc(N, sizeof(float));
    a->expected = calloc(N, sizeof(float));
    return axpy;
}

static void release(struct arrays *a)
{
    free(a->base);
    for (size_t k = 0; k < K; k++)
        free(a->changes[k]);
    free(a->out);
    free(a->expected);
}

static void bits_are_the_same_on_every_instruction_set_and_team(void **state)
{
    (void)state;
    for (int e = ELEMENT_F32; e <= ELEMENT_BF16; e++) {
        const size_t n_bytes = N * element_size((enum element)e);
        struct arrays a;
        const struct axpy axpy = problem((enum element)e, &a);
        axpy_mix(&axpy, a.expected, N, ISA_PLAIN, NULL);
        for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++)
            for (int threads = 1; threads <= 3; threads++) {
                struct team *team = team_create(threads);
                memset(a.out, 0, n_bytes);
                axpy_mix(&axpy, a.out, N, (enum isa)isa, team);
                assert_memory_equal(a.out, a.expected, n_bytes);
                team_free(team);
            }
        release(&a);
    }
}

static void f32_is_the_sum(void **state)
{
    (void)state;
    struct arrays a;
    const struct axpy axpy = problem(ELEMENT_F32, &a);
    axpy_mix(&axpy, a.out, N, cpu_best_isa(), NULL);
    for (size_t i = 0; i < N; i++) {
        double sum = 1.25 * (double)((float *)a.base)[i];
        for (size_t k = 0; k < K; k++)
            sum += (double)axpy.a[k] * (double)((float *)a.changes[k])[i];
        assert_true(fabs(sum - (double)((float *)a.out)[i]) < 1e-6);
    }
    release(&a);
}

static void without_changes_the_base_keeps_its_bits(void **state)
{
    (void)state;
    struct arrays a;
    struct axpy axpy = problem(ELEMENT_BF16, &a);
    axpy.scale = 1;
    for (size_t k = 0; k < K; k++)
        axpy.a[k] = 0;
    axpy_mix(&axpy, a.out, N, cpu_best_isa(), NULL);
    assert_memory_equal(a.out, a.base, N * sizeof(uint16_t));
    axpy.n = 0;
    axpy_mix(&axpy, a.out, N, cpu_best_isa(), NULL);
    assert_memory_equal(a.out, a.base, N * sizeof(uint16_t));
    release(&a);
}

/* Rounding to nearest would lose most of corrections below half a step of the grid. */
static void small_changes_survive_bf16_on_average(void **state)
{
    (void)state;
    struct arrays a;
    struct axpy axpy = problem(ELEMENT_BF16, &a);
    double mean = 0, worst = 0;

    axpy.scale = 1;
    axpy.n = 1;
    for (size_t i = 0; i < N; i++) {
        ((uint16_t *)a.base)[i] = bf16_from_f32(1);
        ((uint16_t *)a.changes[0])[i] = bf16_from_f32(1);
    }
    axpy.a[0] = 1e-3f; /* the grid's step above 1 is 2^-7 */
    axpy_mix(&axpy, a.out, N, cpu_best_isa(), NULL);
    for (size_t i = 0; i < N; i++) {
        const double d = (double)f32_from_bf16(((uint16_t *)a.out)[i]) - 1;
        mean += d / N;
        worst = fmax(worst, fabs(d));
    }
    /* 5 standard deviations of the mean: sqrt(p (1 - p) / N) steps with p = 0.128. */
    assert_true(fabs(mean - 1e-3) < 5 * 0x1p-7 * sqrt(0.128 * 0.872 / N));
    assert_true(worst <= 0x1p-7);
    release(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_are_the_same_on_every_instruction_set_and_team),
        cmocka_unit_test(f32_is_the_sum),
        cmocka_unit_test(without_changes_the_base_keeps_its_bits),
        cmocka_unit_test(small_changes_survive_bf16_on_average),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "solver/kernels.h"

/* One product: x [n_rows, k] and n_panels panels, in both element types' bytes. */
struct product {
    enum element element;
    size_t n_rows, k, n_panels, ldx, ldy, stride;
    void *x, *panels;
    float *y0; /* what y holds before */
};

static uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 16;
}

static float random_uniform(uint64_t *state)
{
    return (float)(random_next(state) & 0xffffff) / 8388608.0f - 1.0f;
}

/* Zeros, denormals, numbers whose products are denormal or next to the smallest normal number,
 * huge ones, and ordinary ones. Infinities only where asked for: they end as NaN everywhere. */
static float random_extreme(uint64_t *state)
{
    const float u = random_uniform(state);
    switch (random_next(state) % 8) {
    case 0:
        return u < 0 ? -0.0f : 0.0f;
    case 1:
        return u * 0x1p-127f;
    case 2:
        return u * 0x1p-63f;
    case 3:
        return u * 0x1p-75f;
    case 4:
        return u * 0x1p-50f;
    case 5:
        return u * 0x1p62f;
    default:
        return u;
    }
}

static void store_element(void *array, enum element element, size_t i, float value)
{
    if (element == ELEMENT_F32)
        ((float *)array)[i] = value;
    else
        ((uint16_t *)array)[i] = bf16_from_f32(value);
}

static float load_element(const void *array, enum element element, size_t i)
{
    return element == ELEMENT_F32 ? ((const float *)array)[i]
                                  : f32_from_bf16(((const uint16_t *)array)[i]);
}

/* Where element (k, c) of a panel lies, see kernels.h. */
static size_t panel_index(enum element element, size_t k, size_t c)
{
    return element == ELEMENT_F32 ? k * 16 + c : k / 2 * 32 + c * 2 + k % 2;
}

static struct product product_random(enum element element, size_t n_rows, size_t k, size_t n_panels,
                                     size_t pad, bool extreme, uint64_t seed)
{
    struct product p = {
        element, n_rows, k,   n_panels, k + pad, n_panels * 16 + pad, k * 16 + (pad ? 64 : 0),
        NULL,    NULL,   NULL};
    const size_t size = element_size(element);
    float (*random_value)(uint64_t *) = extreme ? random_extreme : random_uniform;
    p.x = malloc(((n_rows - 1) * p.ldx + k) * size);
    /* the last panel ends where the allocation does, so that sanitizers see a step outside */
    p.panels = aligned_alloc(64, ((n_panels - 1) * p.stride + k * 16) * size);
    p.y0 = malloc(n_rows * p.ldy * sizeof *p.y0);
    assert_true(p.x && p.panels && p.y0);
    for (size_t i = 0; i < (n_rows - 1) * p.ldx + k; i++)
        store_element(p.x, element, i, random_value(&seed));
    for (size_t i = 0; i < (n_panels - 1) * p.stride + k * 16; i++)
        store_element(p.panels, element, i, random_value(&seed));
    for (size_t i = 0; i < n_rows * p.ldy; i++)
        p.y0[i] = random_value(&seed);
    return p;
}

static void product_free(struct product *p)
{
    free(p->x);
    free(p->panels);
    free(p->y0);
}

static float *product_run(const struct product *p, const struct kernels *kernels, bool accumulate)
{
    float *y = malloc(p->n_rows * p->ldy * sizeof *y);
    assert_non_null(y);
    memcpy(y, p->y0, p->n_rows * p->ldy * sizeof *y);
    kernels->product(y, p->ldy, p->x, p->ldx, p->n_rows, p->panels, p->stride, p->n_panels, p->k,
                     accumulate);
    return y;
}

/* Equal bits; NaNs of any payload are equal. */
static void assert_same_floats(const float *a, const float *b, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(a + i, b + i, sizeof *a) != 0 && !(isnan(a[i]) && isnan(b[i])))
            fail_msg("%s: element %zu is %a, expected %a", name, i, (double)a[i], (double)b[i]);
}

static void check_against_twin(const struct kernels *kernels, const struct product *p)
{
    const struct kernels *twin = kernels_reference(kernels->order);
    for (int accumulate = 0; accumulate < 2; accumulate++) {
        float *y = product_run(p, kernels, accumulate), *want = product_run(p, twin, accumulate);
        assert_same_floats(y, want, p->n_rows * p->ldy, kernels->name);
        free(y);
        free(want);
    }
}

/* Calls f once with every kernel that this processor has. */
static void for_each_kernel(void (*f)(const struct kernels *kernels))
{
    const struct kernels *done[2 * ISA_COUNT];
    size_t n_done = 0;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
        for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++) {
            const struct kernels *kernels = kernels_find((enum element)element, (enum isa)isa);
            bool known = false;
            for (size_t i = 0; i < n_done; i++)
                known = known || done[i] == kernels;
            if (known)
                continue;
            done[n_done++] = kernels;
            f(kernels);
        }
    for (size_t i = 0; kernels_listed(i); i++) { /* those that kernels_find passes over */
        bool known = kernels_listed(i)->isa > cpu_best_isa();
        for (size_t d = 0; d < n_done; d++)
            known = known || done[d] == kernels_listed(i);
        if (!known)
            f(kernels_listed(i));
    }
}

static void check_shapes(const struct kernels *kernels)
{
    static const size_t shapes[][4] = {
        /* rows, k, panels, padding of the strides */
        {1, 32, 1, 0},   {1, 576, 5, 3},  {2, 96, 4, 5},    {3, 2048, 3, 0}, {4, 64, 9, 1},
        {5, 160, 4, 0},  {6, 96, 7, 2},   {7, 64, 3, 0},    {8, 32, 4, 7},   {9, 96, 2, 0},
        {11, 64, 5, 9},  {12, 128, 3, 0}, {13, 32, 2, 1},   {16, 576, 2, 0}, {23, 64, 3, 4},
        {33, 96, 2, 0},  {47, 32, 3, 0},  {49, 64, 2, 11},  {64, 32, 3, 0},  {70, 64, 5, 1},
        {97, 32, 17, 0}, {3, 2080, 2, 1}, {5, 4128, 19, 0}, {50, 2112, 2, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int extreme = 0; extreme < 2; extreme++) {
            const size_t *s = shapes[i];
            struct product p = product_random(kernels->element, s[0], s[1], s[2], s[3], extreme,
                                              1000 + 2 * i + (size_t)extreme);
            check_against_twin(kernels, &p);
            product_free(&p);
        }
}

static void kernels_have_the_bits_of_their_reference_twin(void **state)
{
    (void)state;
    for_each_kernel(check_shapes);
}

static void check_every_row_count(const struct kernels *kernels)
{
    enum { MOST = 70, K = 96, PANELS = 7 };
    struct product p = product_random(kernels->element, MOST, K, PANELS, 3, false, 5);
    float *want = product_run(&p, kernels_reference(kernels->order), true);
    const size_t size = element_size(kernels->element);
    for (size_t n = 1; n <= MOST; n++) {
        /* rows first..first+n alone, wherever they stand */
        struct product part = p;
        const size_t first = (n * 7) % (MOST - n + 1);
        part.n_rows = n;
        part.x = (char *)p.x + first * p.ldx * size;
        part.y0 = p.y0 + first * p.ldy;
        float *y = product_run(&part, kernels, true);
        assert_same_floats(y, want + first * p.ldy, n * p.ldy, kernels->name);
        free(y);
        /* panels before and after a cut */
        memcpy(part.y0 = malloc(n * p.ldy * sizeof *y), p.y0 + first * p.ldy,
               n * p.ldy * sizeof *y);
        const size_t cut = n % PANELS;
        kernels->product(part.y0, p.ldy, part.x, p.ldx, n, p.panels, p.stride, cut, K, true);
        kernels->product(part.y0 + cut * 16, p.ldy, part.x, p.ldx, n,
                         (char *)p.panels + cut * p.stride * size, p.stride, PANELS - cut, K, true);
        assert_same_floats(part.y0, want + first * p.ldy, n * p.ldy, kernels->name);
        free(part.y0);
    }
    free(want);
    product_free(&p);
}

static void a_row_has_the_same_bits_whatever_stands_beside_it(void **state)
{
    (void)state;
    for_each_kernel(check_every_row_count);
}

static void check_against_double(const struct kernels *kernels)
{
    struct product p = product_random(kernels->element, 5, 576, 3, 2, false, 77);
    float *y = product_run(&p, kernels, true);
    for (size_t r = 0; r < p.n_rows; r++)
        for (size_t c = 0; c < p.n_panels * 16; c++) {
            double sum = (double)p.y0[r * p.ldy + c], size = fabs(sum);
            for (size_t k = 0; k < p.k; k++) {
                const size_t at = c / 16 * p.stride + panel_index(p.element, k, c % 16);
                const double term = (double)load_element(p.x, p.element, r * p.ldx + k) *
                                    (double)load_element(p.panels, p.element, at);
                sum += term;
                size += fabs(term);
            }
            assert_true(fabs((double)y[r * p.ldy + c] - sum) < 1e-6 * size);
        }
    free(y);
    product_free(&p);
}

static void kernels_agree_with_double_arithmetic(void **state)
{
    (void)state;
    for_each_kernel(check_against_double);
}

static void check_infinities(const struct kernels *kernels)
{
    struct product p = product_random(kernels->element, 4, 64, 2, 0, false, 9);
    store_element(p.x, p.element, 3, INFINITY);
    store_element(p.x, p.element, 64 + 5, NAN);
    store_element(p.x, p.element, 128 + 7, 3e38f); /* sums that overflow */
    store_element(p.x, p.element, 128 + 8, 3e38f);
    store_element(p.x, p.element, 128 + 9, -3e38f);
    store_element(p.panels, p.element, panel_index(p.element, 3, 0), 0);
    for (size_t k = 7; k < 10; k++)
        store_element(p.panels, p.element, panel_index(p.element, k, 4), 2);
    check_against_twin(kernels, &p);
    product_free(&p);
}

static void infinities_and_overflow_go_as_in_the_twin(void **state)
{
    (void)state;
    for_each_kernel(check_infinities);
}

/* 2^-126 - m 2^-155 for m from 1 to 255: whether such a result is denormal is decided after
 * rounding to 24 bits (up to m = 16 it is 2^-126), not on the denormals' grid, where m = 32 still
 * is. */
static void check_edge_of_denormals(const struct kernels *kernels)
{
    if (kernels->element != ELEMENT_BF16)
        return;
    for (int m = 1; m < 256; m++) {
        struct product p = product_random(ELEMENT_BF16, 1, 32, 1, 0, false, 3);
        uint16_t *x = p.x, *w = p.panels;
        memset(x, 0, 32 * sizeof *x);
        x[1] = bf16_from_f32(0x1p-63f);
        x[3] = bf16_from_f32((float)m * 0x1p-80f);
        for (size_t c = 0; c < 16; c++) {
            const float sign = c % 2 ? 1 : -1;
            w[panel_index(ELEMENT_BF16, 1, c)] = bf16_from_f32(sign * 0x1p-63f);
            w[panel_index(ELEMENT_BF16, 3, c)] = bf16_from_f32(-sign * 0x1p-75f);
        }
        check_against_twin(kernels, &p);
        float *y = product_run(&p, kernels, false);
        assert_true(m <= 16 ? y[1] == 0x1p-126f : y[1] == 0);
        free(y);
        product_free(&p);
    }
}

static void results_next_to_the_smallest_normal_are_flushed_as_in_the_twin(void **state)
{
    (void)state;
    for_each_kernel(check_edge_of_denormals);
}

static void bf16_products_leave_the_callers_rounding_mode_alone(void **state)
{
    (void)state;
    struct product p = product_random(ELEMENT_BF16, 2, 32, 1, 0, false, 3);
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++) {
        volatile float tiny = FLT_MIN;
        free(product_run(&p, kernels_find(ELEMENT_BF16, (enum isa)isa), false));
        tiny /= 2;
        assert_true(tiny > 0);
    }
    product_free(&p);
}

/* One rank may be without AMX or AVX-512: below AMX the level changes nothing. */
static void all_levels_of_one_order_have_the_same_bits(void **state)
{
    (void)state;
    assert_string_equal(kernels_find(ELEMENT_F32, ISA_PLAIN)->order, "f32");
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++) {
        assert_string_equal(kernels_find(ELEMENT_F32, (enum isa)isa)->order, "f32");
        if (isa < ISA_AMX)
            assert_string_equal(kernels_find(ELEMENT_BF16, (enum isa)isa)->order, "dot2");
        assert_true(kernels_find(ELEMENT_BF16, (enum isa)isa)->isa <= (enum isa)isa);
    }
    assert_string_equal(kernels_reference("f32")->order, "f32");
    assert_string_equal(kernels_reference("dot2")->order, "dot2");
    assert_string_equal(kernels_reference("tile32")->order, "tile32");
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(1.0f), 0x3f80);
    assert_int_equal(bf16_from_f32(1.00390625f), 0x3f80); /* halfway, even below */
    assert_int_equal(bf16_from_f32(1.01171875f), 0x3f82); /* halfway, even above */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(kernels_have_the_bits_of_their_reference_twin),
        cmocka_unit_test(a_row_has_the_same_bits_whatever_stands_beside_it),
        cmocka_unit_test(kernels_agree_with_double_arithmetic),
        cmocka_unit_test(infinities_and_overflow_go_as_in_the_twin),
        cmocka_unit_test(results_next_to_the_smallest_normal_are_flushed_as_in_the_twin),
        cmocka_unit_test(bf16_products_leave_the_callers_rounding_mode_alone),
        cmocka_unit_test(all_levels_of_one_order_have_the_same_bits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Rows times a page's keys or values: every level has the bits of the plain one, whatever rows
 * stand beside a row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "solver/page_product.h"

enum { MOST_ROWS = 13, LD = 256 + 3 };

struct problem {
    enum element element;
    size_t n_rows, pitch, n_columns, k;
    float *x, *y; /* [MOST_ROWS, LD] */
    float *w;     /* [256, 256] elements of either type */
    float scales[MOST_ROWS];
};

static unsigned seed = 3;

static float random_value(void)
{
    seed = seed * 1664525u + 1013904223u;
    return (float)(seed >> 8) / 8388608.0f - 1.0f;
}

static struct problem problem_make(enum element element)
{
    struct problem p = {.element = element,
                        .x = malloc(MOST_ROWS * LD * sizeof(float)),
                        .y = malloc(MOST_ROWS * LD * sizeof(float)),
                        .w = aligned_alloc(64, 256 * 256 * sizeof(float))};
    assert_true(p.x && p.y && p.w);
    for (size_t i = 0; i < MOST_ROWS * LD; i++) {
        p.x[i] = random_value();
        p.y[i] = random_value();
    }
    for (size_t i = 0; i < 256 * 256; i++)
        if (element == ELEMENT_F32)
            p.w[i] = i % 11 == 0 ? 1e-40f : random_value();
        else
            ((uint16_t *)p.w)[i] = i % 11 == 0 ? 3 : bf16_from_f32(random_value());
    for (size_t r = 0; r < MOST_ROWS; r++)
        p.scales[r] = random_value();
    return p;
}

static void problem_free(struct problem *p)
{
    free(p->x);
    free(p->y);
    free(p->w);
}

/* [n_rows, LD] */
static float *run(const struct problem *p, enum isa isa, size_t first, size_t n_rows, bool scaled)
{
    float *y = malloc(MOST_ROWS * LD * sizeof *y);
    assert_non_null(y);
    memcpy(y, p->y + first * LD, n_rows * LD * sizeof *y);
    page_product_find(p->element, isa)(y, LD, p->x + first * LD, LD, n_rows, p->w, p->pitch,
                                       p->n_columns, p->k, scaled ? p->scales + first : NULL, p->w,
                                       p->k * 64);
    return y;
}

static void check(const struct problem *p, bool scaled)
{
    float *want = run(p, ISA_PLAIN, 0, p->n_rows, scaled);
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++) {
        float *got = run(p, (enum isa)isa, 0, p->n_rows, scaled);
        assert_memory_equal(got, want, p->n_rows * LD * sizeof *got);
        free(got);
        for (size_t r = 0; r < p->n_rows; r++) {
            got = run(p, (enum isa)isa, r, 1, scaled);
            assert_memory_equal(got, want + r * LD, LD * sizeof *got);
            free(got);
        }
    }
    free(want);
}

static void every_level_and_any_neighbours_give_the_same_bits(void **state)
{
    static const size_t shapes[][3] = {/* pitch, columns, k */
                                       {64, 64, 64},   {64, 16, 80},   {64, 48, 2},
                                       {16, 16, 64},   {80, 80, 6},    {64, 64, 256},
                                       {256, 256, 64}, {128, 128, 34}, {64, 32, 10}};
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct problem p = problem_make((enum element)element);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            p.pitch = shapes[i][0];
            p.n_columns = shapes[i][1];
            p.k = shapes[i][2];
            for (p.n_rows = 1; p.n_rows <= MOST_ROWS; p.n_rows++)
                check(&p, p.n_rows % 2);
        }
        problem_free(&p);
    }
}

static void it_is_the_sum_of_products(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct problem p = problem_make((enum element)element);
        p.pitch = 64;
        p.n_columns = 48;
        p.k = 34;
        float *y = run(&p, cpu_best_isa(), 0, MOST_ROWS, true);
        for (size_t r = 0; r < MOST_ROWS; r++)
            for (size_t c = 0; c < p.n_columns; c++) {
                double sum = (double)p.y[r * LD + c] * p.scales[r];
                for (size_t i = 0; i < p.k; i++)
                    sum += (double)p.x[r * LD + i] *
                           (element == ELEMENT_F32
                                ? (double)p.w[i * 64 + c]
                                : (double)f32_from_bf16(
                                      ((uint16_t *)p.w)[i / 2 * 128 + 2 * c + i % 2]));
                assert_true(fabs(sum - (double)y[r * LD + c]) < 1e-5);
            }
        for (size_t c = p.n_columns; c < LD; c++) /* nothing beside its columns */
            assert_true(y[c] == p.y[c]);
        free(y);
        problem_free(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_and_any_neighbours_give_the_same_bits),
        cmocka_unit_test(it_is_the_sum_of_products),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

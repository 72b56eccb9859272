#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/engine_product.h"

static float *random_floats(size_t n, uint32_t seed)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

static float rounded(enum element element, float value)
{
    return element == ELEMENT_F32 ? value : f32_from_bf16(bf16_from_f32(value));
}

/* x as a kernel reads it: [n_rows, k_padded] elements, zeros past k. */
static void *elements_of(const struct matrix *m, const float *x, size_t n_rows)
{
    void *elements = calloc(n_rows * m->k_padded, element_size(m->element));
    assert_non_null(elements);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < m->k; i++)
            if (m->element == ELEMENT_F32)
                ((float *)elements)[r * m->k_padded + i] = x[r * m->k + i];
            else
                ((uint16_t *)elements)[r * m->k_padded + i] = bf16_from_f32(x[r * m->k + i]);
    return elements;
}

static const size_t shapes[][2] = {{16, 32}, {1, 1}, {33, 45}, {200, 576}, {90, 300}, {4096, 600}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

static void unpacking_returns_the_rounded_rows(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
        for (size_t s = 0; s < N_SHAPES; s++) {
            const size_t n = shapes[s][0], k = shapes[s][1];
            struct matrix m;
            float *w = random_floats(n * k, 3), *row = malloc(k * sizeof *row);
            assert_int_equal(matrix_create(&m, (enum element)element, n, k), 0);
            assert_int_equal((uintptr_t)m.data % 64, 0);
            const size_t cut = n / 2 / 16 * 16; /* two calls, the later rows first */
            matrix_pack_rows(&m, cut, n - cut, w + cut * k);
            matrix_pack_rows(&m, 0, cut, w);
            for (size_t r = 0; r < n; r++) {
                matrix_unpack_row(&m, r, row);
                for (size_t i = 0; i < k; i++)
                    assert_true(row[i] == rounded((enum element)element, w[r * k + i]));
            }
            free(w);
            free(row);
            matrix_free(&m);
        }
}

static void the_product_is_x_times_w_transposed(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
        for (size_t s = 0; s < N_SHAPES - 1; s++) {
            const size_t n = shapes[s][0], k = shapes[s][1], n_rows = 5, ldy = n;
            const struct kernels *kernels = kernels_find((enum element)element, cpu_best_isa());
            struct matrix m;
            float *w = random_floats(n * k, 3), *x = random_floats(n_rows * k, 4);
            float *y = random_floats(n_rows * ldy, 5), *y0 = random_floats(n_rows * ldy, 5);
            assert_int_equal(matrix_create(&m, (enum element)element, n, k), 0);
            matrix_pack_rows(&m, 0, n, w);
            void *elements = elements_of(&m, x, n_rows);
            matrix_product(kernels, y, ldy, elements, m.k_padded, n_rows, &m, 0, m.n_panels, true,
                           NULL);
            for (size_t r = 0; r < n_rows; r++)
                for (size_t j = 0; j < n; j++) {
                    double sum = (double)y0[r * ldy + j], size = fabs(sum);
                    for (size_t i = 0; i < k; i++) {
                        const double term = (double)rounded(m.element, x[r * k + i]) *
                                            (double)rounded(m.element, w[j * k + i]);
                        sum += term;
                        size += fabs(term);
                    }
                    assert_true(fabs((double)y[r * ldy + j] - sum) <= 1e-6 * size);
                }
            free(elements);
            free(w);
            free(x);
            free(y);
            free(y0);
            matrix_free(&m);
        }
}

/* Threads, rows and panels cut in every way give the bits of one call on one thread. */
static void no_cut_changes_a_bit(void **state)
{
    enum { ROWS = 70, LD = 210 };
    struct team *teams[9] = {NULL};
    (void)state;
    for (int threads = 2; threads <= 8; threads++)
        teams[threads] = team_create(threads);
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
        for (size_t s = 2; s < 5; s++)
            for (int accumulate = 0; accumulate < 2; accumulate++) {
                const size_t n = shapes[s][0], k = shapes[s][1];
                const struct kernels *kernels = kernels_find((enum element)element, cpu_best_isa());
                struct matrix m;
                float *w = random_floats(n * k, 3), *x = random_floats(ROWS * k, 4);
                float *want = random_floats(ROWS * LD, 5), *y = random_floats(ROWS * LD, 5);
                assert_int_equal(matrix_create(&m, (enum element)element, n, k), 0);
                matrix_pack_rows(&m, 0, n, w);
                char *elements = elements_of(&m, x, ROWS);
                const size_t row_bytes = m.k_padded * element_size(m.element);
                matrix_product(kernels, want, LD, elements, m.k_padded, ROWS, &m, 0, m.n_panels,
                               accumulate, NULL);
                for (int threads = 2; threads <= 8; threads += threads == 4 ? 4 : 1) {
                    free(y);
                    y = random_floats(ROWS * LD, 5);
                    matrix_product(kernels, y, LD, elements, m.k_padded, ROWS, &m, 0, m.n_panels,
                                   accumulate, teams[threads]);
                    assert_memory_equal(y, want, ROWS * LD * sizeof *y);
                }
                for (size_t step = 1; step < ROWS; step += 9) {
                    free(y);
                    y = random_floats(ROWS * LD, 5);
                    for (size_t r = 0; r < ROWS; r += step) {
                        const size_t rows = ROWS - r < step ? ROWS - r : step;
                        const size_t cut = step % m.n_panels;
                        matrix_product(kernels, y + r * LD, LD, elements + r * row_bytes,
                                       m.k_padded, rows, &m, 0, cut, accumulate, teams[2]);
                        matrix_product(kernels, y + r * LD + cut * 16, LD, elements + r * row_bytes,
                                       m.k_padded, rows, &m, cut, m.n_panels - cut, accumulate,
                                       NULL);
                    }
                    assert_memory_equal(y, want, ROWS * LD * sizeof *y);
                }
                free(elements);
                free(w);
                free(x);
                free(y);
                free(want);
                matrix_free(&m);
            }
    for (int threads = 2; threads <= 8; threads++)
        team_free(teams[threads]);
}

static void impossible_sizes_are_refused_in_a_sentence(void **state)
{
    struct matrix m;
    (void)state;
    assert_int_equal(matrix_create(&m, ELEMENT_F32, 0, 5), -1);
    assert_int_equal(matrix_create(&m, ELEMENT_F32, SIZE_MAX / 2, 64), -1);
    assert_int_equal(matrix_create(&m, ELEMENT_F32, (size_t)1 << 40, (size_t)1 << 18), -1);
    assert_non_null(strstr(error_message(), "1099511627776 x 262144"));
    matrix_free(&m);
    matrix_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpacking_returns_the_rounded_rows),
        cmocka_unit_test(the_product_is_x_times_w_transposed),
        cmocka_unit_test(no_cut_changes_a_bit),
        cmocka_unit_test(impossible_sizes_are_refused_in_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What a candidate's weights cost: the AXPY over K changes (solver/axpy.h) beside composing them
 * from the factors, W' = W + (T diag(z - 1)) Q with T = W Q^T kept: one product a matrix, and the
 * packing. One layer of SmolLM2-135M and one of Llama 3 8B, one thread, processor time, the least
 * of several runs.
 *
 *   bench_mix [K]
 *
 * Composing is shown in f32, as model/merge.h does it, and with the product in bf16. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "solver/axpy.h"
#include "solver/engine_product.h"

struct shape {
    size_t n_rows, n_columns, count;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *noise(size_t n)
{
    float *x = malloc(n * sizeof *x);
    uint32_t state = 1;

    if (!x)
        abort();
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 8) * 0x1p-24f - 0.5f;
    }
    return x;
}

static struct matrix packed(enum element element, size_t n, size_t k)
{
    struct matrix m;
    float *rows = noise(64 * k);

    if (matrix_create(&m, element, n, k) != 0)
        abort();
    for (size_t first = 0; first < n; first += 64)
        matrix_pack_rows(&m, first, n - first < 64 ? n - first : 64, rows);
    free(rows);
    return m;
}

static double time_axpy(const struct shape *s, enum element element, size_t n_changes, enum isa isa)
{
    struct matrix base = packed(element, s->n_rows, s->n_columns);
    struct matrix out = packed(element, s->n_rows, s->n_columns);
    struct matrix changes[8];
    struct axpy axpy = {.element = element, .base = base.data, .n = n_changes, .scale = 1};
    const size_t n = base.n_panels * KERNEL_COLUMNS * base.k_padded;
    double least = INFINITY;

    for (size_t k = 0; k < n_changes; k++) {
        changes[k] = packed(element, s->n_rows, s->n_columns);
        axpy.changes[k] = changes[k].data;
        axpy.a[k] = 0.01f * (float)(k + 1);
    }
    for (int i = 0; i < 5; i++) {
        const double begin = seconds();
        axpy_mix(&axpy, out.data, n, isa, NULL);
        least = fmin(least, seconds() - begin);
    }
    for (size_t k = 0; k < n_changes; k++)
        matrix_free(&changes[k]);
    matrix_free(&base);
    matrix_free(&out);
    return least;
}

/* Rows of T (z - 1) in blocks of 64 times Q, added to the rows of W, packed as `element`. */
static double time_compose(const struct shape *s, enum element product, enum element element,
                           enum isa isa)
{
    enum { ROWS = 64 };
    const bool wide = s->n_rows < s->n_columns;
    const size_t r = wide ? s->n_rows : s->n_columns, n = wide ? s->n_columns : s->n_rows;
    const struct kernels *kernels = kernels_find(product, isa);
    struct matrix q = packed(product, r, r), out = packed(element, n, r);
    float *w = noise(ROWS * q.k_padded), *y = noise(ROWS * r), *z = noise(q.k_padded);
    float *t = noise(ROWS * q.k_padded);
    void *x = calloc(ROWS * q.k_padded, sizeof(float));
    double least = INFINITY;

    for (int i = 0; i < (r > 2000 ? 1 : 3); i++) {
        const double begin = seconds();
        for (size_t first = 0; first < n; first += ROWS) {
            const size_t m = n - first < ROWS ? n - first : ROWS;
            for (size_t j = 0; j < m; j++)
                for (size_t k = 0; k < r; k++) {
                    const float value = t[j * q.k_padded + k] * z[k];
                    if (product == ELEMENT_F32)
                        ((float *)x)[j * q.k_padded + k] = value;
                    else
                        ((uint16_t *)x)[j * q.k_padded + k] = bf16_from_f32(value);
                }
            matrix_product(kernels, y, r, x, q.k_padded, m, &q, 0, q.n_panels, false, NULL);
            for (size_t j = 0; j < m * r; j++)
                y[j] += w[j];
            matrix_pack_rows(&out, first, m, y);
        }
        least = fmin(least, seconds() - begin);
    }
    matrix_free(&q);
    matrix_free(&out);
    free(w);
    free(y);
    free(z);
    free(t);
    free(x);
    return least;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        struct shape shapes[4];
        size_t n;
    } layers[] = {
        {"SmolLM2-135M", {{576, 576, 2}, {192, 576, 2}, {1536, 576, 2}, {576, 1536, 1}}, 4},
        {"Llama 3 8B", {{4096, 4096, 2}, {1024, 4096, 2}, {14336, 4096, 2}, {4096, 14336, 1}}, 4}};
    const size_t n_changes = argc > 1 ? (size_t)strtoul(argv[1], NULL, 10) : 3;
    const enum isa isa = cpu_best_isa();

    if (n_changes < 1 || n_changes > 8) {
        fprintf(stderr, "usage: bench_mix [K], K from 1 to 8\n");
        return 2;
    }
    printf("one layer, K = %zu, %s, one thread\n", n_changes, isa_name(isa));
    for (size_t l = 0; l < sizeof layers / sizeof *layers; l++)
        for (int e = ELEMENT_F32; e <= ELEMENT_BF16; e++) {
            const enum element element = (enum element)e;
            double axpy = 0, f32 = 0, bf16 = 0;
            for (size_t i = 0; i < layers[l].n; i++) {
                const struct shape *s = &layers[l].shapes[i];
                const double count = (double)s->count;
                axpy += count * time_axpy(s, element, n_changes, isa);
                f32 += count * time_compose(s, ELEMENT_F32, element, isa);
                if (element == ELEMENT_BF16)
                    bf16 += count * time_compose(s, ELEMENT_BF16, element, isa);
            }
            printf("%-14s %s  axpy %9.3f ms  compose f32 %10.3f ms (1/%.1f)", layers[l].name,
                   element == ELEMENT_F32 ? "f32 " : "bf16", 1e3 * axpy, 1e3 * f32, f32 / axpy);
            if (element == ELEMENT_BF16)
                printf("  compose bf16 %9.3f ms (1/%.1f)", 1e3 * bf16, bf16 / axpy);
            printf("\n");
            fflush(stdout);
        }
    return 0;
}

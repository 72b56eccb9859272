#include "solver/engine_product.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/vecmath.h"

enum {
    PACK_K = 256,   /* elements of 16 rows that are packed at a time */
    REST_ROWS = 64, /* rows of a last, incomplete panel at a time */
};

size_t matrix_bytes(const struct matrix *m)
{
    return m->n_panels * KERNEL_COLUMNS * m->k_padded * element_size(m->element);
}

int matrix_create_in(struct matrix *m, const struct memory *memory, enum matrix_layout layout,
                     enum element element, size_t n, size_t k)
{
    size_t values, bytes;

    memset(m, 0, sizeof *m);
    if (n == 0 || k == 0 || n > SIZE_MAX / 2 || k > SIZE_MAX / 2)
        return error_set("cannot make a weight matrix of %zu x %zu", n, k);
    m->n = n;
    m->k = k;
    m->element = element;
    m->layout = layout;
    m->memory = memory;
    m->n_panels = (n + KERNEL_COLUMNS - 1) / KERNEL_COLUMNS;
    m->k_padded = (k + KERNEL_K_STEP - 1) / KERNEL_K_STEP * KERNEL_K_STEP;
    if (__builtin_mul_overflow(m->n_panels * KERNEL_COLUMNS, m->k_padded, &values) ||
        __builtin_mul_overflow(values, element_size(element), &bytes) || bytes > SIZE_MAX / 2)
        return error_set("a weight matrix of %zu x %zu is too large for the address space", n, k);
    m->data = memory->take(bytes);
    if (!m->data)
        return error_set("no memory for a weight matrix of %zu x %zu (%zu bytes)", n, k, bytes);
    memory_use_all(memory, m->data, bytes);
    return 0;
}

int matrix_create(struct matrix *m, enum element element, size_t n, size_t k)
{
    return matrix_create_in(m, &memory_host, MATRIX_PANELS, element, n, k);
}

void matrix_free(struct matrix *m)
{
    if (!m)
        return;
    if (m->data)
        m->memory->give(m->data, matrix_bytes(m));
    memset(m, 0, sizeof *m);
}

/* to[j][c] = from[c][j], 16 x n words */
static void transpose_words(uint32_t *restrict to, const uint32_t *restrict from, size_t ld,
                            size_t n)
{
    for (size_t j = 0; j < n; j++)
        for (size_t c = 0; c < KERNEL_COLUMNS; c++)
            to[j * KERNEL_COLUMNS + c] = from[c * ld + j];
}

static void pack_panels(struct matrix *m, size_t first, size_t n_rows, const float *rows)
{
    const struct vecmath *v = vecmath_find(cpu_best_isa());
    const size_t panel_bytes = m->k_padded * KERNEL_COLUMNS * element_size(m->element);

    for (size_t r0 = 0; r0 < n_rows; r0 += KERNEL_COLUMNS) {
        char *panel = (char *)m->data + (first + r0) / KERNEL_COLUMNS * panel_bytes;
        const size_t n = n_rows - r0 < KERNEL_COLUMNS ? n_rows - r0 : KERNEL_COLUMNS;
        for (size_t k0 = 0; k0 < m->k; k0 += PACK_K) {
            /* words of the packed form: one f32, or a pair of bf16 */
            uint32_t words[KERNEL_COLUMNS][PACK_K + 4];
            const size_t kc = m->k - k0 < PACK_K ? m->k - k0 : PACK_K;
            const size_t per_word = m->element == ELEMENT_F32 ? 1 : 2;
            const size_t n_words = (kc + per_word - 1) / per_word;
            for (size_t c = 0; c < KERNEL_COLUMNS; c++) {
                words[c][n_words - 1] = 0; /* an odd k */
                if (c >= n)
                    memset(words[c], 0, n_words * sizeof **words);
                else if (m->element == ELEMENT_F32)
                    memcpy(words[c], rows + (r0 + c) * m->k + k0, kc * sizeof(float));
                else
                    v->to_bf16((uint16_t *)words[c], rows + (r0 + c) * m->k + k0, kc);
            }
            transpose_words((uint32_t *)(void *)panel + k0 / per_word * KERNEL_COLUMNS, words[0],
                            PACK_K + 4, n_words);
        }
    }
}

void matrix_pack_rows(struct matrix *m, size_t first, size_t n_rows, const float *rows)
{
    const struct vecmath *v = vecmath_find(cpu_best_isa());
    const size_t row_bytes = m->k_padded * element_size(m->element);

    if (m->layout == MATRIX_PANELS) {
        pack_panels(m, first, n_rows, rows);
        return;
    }
    for (size_t r = 0; r < n_rows; r++) {
        char *to = (char *)m->data + (first + r) * row_bytes;
        if (m->element == ELEMENT_F32)
            memcpy(to, rows + r * m->k, m->k * sizeof *rows);
        else
            v->to_bf16((uint16_t *)(void *)to, rows + r * m->k, m->k);
    }
}

void matrix_unpack_row(const struct matrix *m, size_t row, float *out)
{
    if (m->layout == MATRIX_ROWS) {
        const size_t first = row * m->k_padded;
        if (m->element == ELEMENT_F32)
            memcpy(out, (const float *)m->data + first, m->k * sizeof *out);
        for (size_t i = 0; m->element == ELEMENT_BF16 && i < m->k; i++)
            out[i] = f32_from_bf16(((const uint16_t *)m->data)[first + i]);
        return;
    }
    const size_t start = row / KERNEL_COLUMNS * m->k_padded * KERNEL_COLUMNS;
    const size_t c = row % KERNEL_COLUMNS;

    if (m->element == ELEMENT_F32) {
        const float *panel = (const float *)m->data + start;
        for (size_t i = 0; i < m->k; i++)
            out[i] = panel[i * KERNEL_COLUMNS + c];
    } else {
        const uint16_t *panel = (const uint16_t *)m->data + start;
        for (size_t i = 0; i < m->k; i++)
            out[i] = f32_from_bf16(panel[i / 2 * 2 * KERNEL_COLUMNS + 2 * c + i % 2]);
    }
}

/* The product of one thread: all of its panels, the last one aside if it is incomplete. */
static void product_part(const struct kernels *kernels, float *y, size_t ldy, const void *x,
                         size_t ldx, size_t n_rows, const struct matrix *m, size_t first_panel,
                         size_t n_panels, bool accumulate)
{
    const size_t stride = m->k_padded * KERNEL_COLUMNS, size = element_size(m->element);
    const char *panels = (const char *)m->data + first_panel * stride * size;
    const size_t rest = m->n % KERNEL_COLUMNS;
    const bool incomplete = rest > 0 && n_panels > 0 && first_panel + n_panels == m->n_panels;
    const size_t whole = n_panels - incomplete;

    if (n_rows == 0)
        return;
    if (whole > 0)
        kernels->product(y, ldy, x, ldx, n_rows, panels, stride, whole, m->k_padded, accumulate);
    if (!incomplete)
        return;
    for (size_t r0 = 0; r0 < n_rows; r0 += REST_ROWS) {
        float block[REST_ROWS][KERNEL_COLUMNS] = {{0}};
        const size_t n = n_rows - r0 < REST_ROWS ? n_rows - r0 : REST_ROWS;
        float *out = y + r0 * ldy + whole * KERNEL_COLUMNS;
        for (size_t r = 0; accumulate && r < n; r++)
            memcpy(block[r], out + r * ldy, rest * sizeof **block);
        kernels->product(block[0], KERNEL_COLUMNS, (const char *)x + r0 * ldx * size, ldx, n,
                         panels + whole * stride * size, stride, 1, m->k_padded, accumulate);
        for (size_t r = 0; r < n; r++)
            memcpy(out + r * ldy, block[r], rest * sizeof **block);
    }
}

struct product_job {
    const struct kernels *kernels;
    float *y;
    size_t ldy;
    const void *x;
    size_t ldx, n_rows;
    const struct matrix *m;
    size_t first_panel, n_panels;
    bool accumulate;
    size_t across, down; /* parts along columns and rows */
};

static void product_job_part(void *arg, size_t part, int thread)
{
    const struct product_job *j = arg;
    const size_t a = part % j->across, d = part / j->across;
    /* Cut at even panels, since kernels take panels in pairs. */
    const size_t pairs = (j->n_panels + 1) / 2, p0 = pairs * a / j->across * 2;
    const size_t end = pairs * (a + 1) / j->across * 2, p1 = end < j->n_panels ? end : j->n_panels;
    const size_t r0 = j->n_rows * d / j->down, r1 = j->n_rows * (d + 1) / j->down;
    (void)thread;
    product_part(j->kernels, j->y + r0 * j->ldy + p0 * KERNEL_COLUMNS, j->ldy,
                 (const char *)j->x + r0 * j->ldx * element_size(j->m->element), j->ldx, r1 - r0,
                 j->m, j->first_panel + p0, p1 - p0, j->accumulate);
}

void matrix_product(const struct kernels *kernels, float *y, size_t ldy, const void *x, size_t ldx,
                    size_t n_rows, const struct matrix *m, size_t first_panel, size_t n_panels,
                    bool accumulate, struct team *team)
{
    /* What is worth waking a thread for: multiply-adds, panels (a few at once feed the registers),
     * and rows where there are not enough panels. Two parts a thread even out disturbances. */
    enum { FEWEST_PRODUCTS = 1 << 16, FEWEST_PANELS = 4, FEWEST_ROWS = 12, PARTS = 2 };
    const size_t n_threads = (size_t)team_size(team);
    const size_t products = n_rows * n_panels * KERNEL_COLUMNS * m->k_padded;
    struct product_job job = {kernels, y,           ldy,      x,          ldx, n_rows,
                              m,       first_panel, n_panels, accumulate, 1,   1};

    if (n_threads > 1 && products / n_threads >= FEWEST_PRODUCTS) {
        const size_t wanted = n_threads * PARTS;
        job.across = n_panels / FEWEST_PANELS < wanted ? n_panels / FEWEST_PANELS : wanted;
        job.across = job.across > 0 ? job.across : 1;
        if (job.across < n_threads) {
            job.down = wanted / job.across;
            if (job.down > n_rows / FEWEST_ROWS)
                job.down = n_rows / FEWEST_ROWS > 0 ? n_rows / FEWEST_ROWS : 1;
        }
    }
    team_run(team, product_job_part, &job, job.across * job.down);
}

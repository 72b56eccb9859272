#include "solver/engine_train.h"
#include "solver/vecmath.h"

enum { SIDE = KERNEL_COLUMNS };

struct transpose_job {
    struct matrix *t;
    const struct matrix *m;
    const struct vecmath *math;
};

/* 32 inputs and 16 outputs of m, in words of pairs along its inputs, become pairs along its
 * outputs: left [8, 16] takes the first 16 inputs, right the others unless it is NULL. */
static void transpose_pairs(const struct vecmath *math, uint32_t *left, uint32_t *right,
                            const uint32_t *from)
{
    uint32_t turned[SIDE * SIDE];
    math->transpose(turned, SIDE, from, SIDE, SIDE, SIDE);
    for (size_t n = 0; n < SIDE; n += 2) {
        const uint32_t *a = turned + n * SIDE, *b = a + SIDE;
        uint32_t *to = left + n / 2 * SIDE;
        for (size_t i = 0; i < SIDE / 2; i++) {
            to[2 * i] = (a[i] & 0xffffu) | b[i] << 16;
            to[2 * i + 1] = a[i] >> 16 | (b[i] & 0xffff0000u);
        }
        if (!right)
            continue;
        to = right + n / 2 * SIDE;
        for (size_t i = 0; i < SIDE / 2; i++) {
            to[2 * i] = (a[i + SIDE / 2] & 0xffffu) | b[i + SIDE / 2] << 16;
            to[2 * i + 1] = a[i + SIDE / 2] >> 16 | (b[i + SIDE / 2] & 0xffff0000u);
        }
    }
}

/* One panel of the transpose (16 of m's inputs, over all its outputs), or two in bf16, where 32
 * inputs are 16 words. */
static void transpose_panels(void *arg, size_t part, int thread)
{
    const struct transpose_job *j = arg;
    const struct matrix *m = j->m, *t = j->t;
    const size_t per_word = 4 / element_size(m->element), panel = part * per_word;
    const size_t step = m->k_padded / per_word * SIDE; /* words of a panel of m, and of t */
    const size_t t_step = t->k_padded / per_word * SIDE;
    const uint32_t *from = (const uint32_t *)m->data + part * SIDE * SIDE;
    uint32_t *to = (uint32_t *)t->data + panel * t_step;
    (void)thread;

    for (size_t p = 0; p < m->n_panels; p++, from += step, to += SIDE / per_word * SIDE)
        if (m->element == ELEMENT_F32)
            j->math->transpose(to, SIDE, from, SIDE, SIDE, SIDE);
        else
            transpose_pairs(j->math, to, panel + 1 < t->n_panels ? to + t_step : NULL, from);
}

/* 16 outputs of t in rows: columns of m. */
static void transpose_rows(void *arg, size_t part, int thread)
{
    const struct transpose_job *j = arg;
    const struct matrix *m = j->m, *t = j->t;
    const size_t first = part * SIDE, n = t->n - first < SIDE ? t->n - first : SIDE;
    (void)thread;

    for (size_t k0 = 0; k0 < t->k; k0 += SIDE) {
        const size_t end = t->k - k0 < SIDE ? t->k : k0 + SIDE;
        for (size_t i = first; i < first + n; i++)
            for (size_t k = k0; k < end; k++)
                if (m->element == ELEMENT_F32)
                    ((float *)t->data)[i * t->k_padded + k] =
                        ((const float *)m->data)[k * m->k_padded + i];
                else
                    ((uint16_t *)t->data)[i * t->k_padded + k] =
                        ((const uint16_t *)m->data)[k * m->k_padded + i];
    }
}

int matrix_transpose(struct matrix *t, const struct matrix *m, struct team *team)
{
    struct transpose_job job = {t, m, vecmath_find(cpu_best_isa())};
    const size_t per_word = 4 / element_size(m->element);
    if (matrix_create_in(t, m->memory, m->layout, m->element, m->k, m->n) != 0)
        return -1;
    if (m->layout == MATRIX_ROWS)
        team_run(team, transpose_rows, &job, t->n_panels);
    else
        team_run(team, transpose_panels, &job, (t->n_panels + per_word - 1) / per_word);
    return 0;
}

#include <string.h>

#include "solver/engine_train.h"
#include "solver/vecmath.h"

enum { SIDE = KERNEL_COLUMNS };

struct transpose_job {
    struct matrix *t;
    const struct matrix *m;
    const struct vecmath *math;
};

/* to [8 or 16 words a line, 16] takes 16 x 16 elements of a panel, lines of 16 columns. In bf16 a
 * line holds pairs along k: the pairs are taken apart, transposed, and made anew. */
static void transpose_block(const struct transpose_job *j, uint32_t *to, const uint32_t *from)
{
    if (j->m->element == ELEMENT_F32) {
        j->math->transpose(to, SIDE, from, SIDE, SIDE, SIDE);
        return;
    }
    uint32_t wide[SIDE * SIDE], turned[SIDE * SIDE]; /* one element a word */
    for (size_t k = 0; k < SIDE; k += 2)
        for (size_t c = 0; c < SIDE; c++) {
            const uint32_t pair = from[k / 2 * SIDE + c];
            wide[k * SIDE + c] = pair & 0xffffu;
            wide[(k + 1) * SIDE + c] = pair >> 16;
        }
    j->math->transpose(turned, SIDE, wide, SIDE, SIDE, SIDE);
    for (size_t k = 0; k < SIDE; k += 2)
        for (size_t c = 0; c < SIDE; c++)
            to[k / 2 * SIDE + c] = turned[k * SIDE + c] | turned[(k + 1) * SIDE + c] << 16;
}

/* One panel of the transpose: 16 of m's inputs, over all its outputs. */
static void transpose_panel(void *arg, size_t part, int thread)
{
    const struct transpose_job *j = arg;
    const size_t size = element_size(j->m->element);
    const size_t line = SIDE * size / 4; /* words of one k */
    const uint32_t *from = (const uint32_t *)j->m->data + part * SIDE * line;
    uint32_t *to = (uint32_t *)j->t->data + part * j->t->k_padded * line;
    (void)thread;
    for (size_t p = 0; p < j->m->n_panels; p++)
        transpose_block(j, to + p * SIDE * line, from + p * j->m->k_padded * line);
}

int matrix_transpose(struct matrix *t, const struct matrix *m, struct team *team)
{
    struct transpose_job job = {t, m, vecmath_find(cpu_best_isa())};
    if (matrix_create(t, m->element, m->k, m->n) != 0)
        return -1;
    team_run(team, transpose_panel, &job, t->n_panels);
    return 0;
}

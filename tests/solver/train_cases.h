#ifndef T2_TESTS_TRAIN_CASES_H
#define T2_TESTS_TRAIN_CASES_H
/* Random input for tests of the training tables: numbers, sequences that share rows, a head. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "solver/engine_train.h"

static uint32_t random_state = 7;

static inline uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static inline float random_value(void)
{
    return (float)random_below(1 << 20) / (1 << 19) - 1;
}

static inline float *random_values(size_t n, float offset)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_value() + offset;
    return x;
}

static inline void *filled(size_t bytes, int with)
{
    void *p = aligned_alloc(64, round_up(bytes + 1, 64));
    assert_non_null(p);
    memset(p, with, bytes);
    return p;
}

static inline float element_at(enum element element, const void *x, size_t i)
{
    return element == ELEMENT_F32 ? ((const float *)x)[i] : f32_from_bf16(((const uint16_t *)x)[i]);
}

static inline float rounded(enum element element, float value)
{
    return element == ELEMENT_F32 ? value : f32_from_bf16(bf16_from_f32(value));
}

/* Elements [n, ld] of values [n, ld]. */
static inline void *elements_of(enum element element, const float *values, size_t n)
{
    void *x = filled(n * element_size(element), 0);
    for (size_t i = 0; i < n; i++)
        if (element == ELEMENT_F32)
            ((float *)x)[i] = values[i];
        else
            ((uint16_t *)x)[i] = bf16_from_f32(values[i]);
    return x;
}

static inline void assert_near(double got, double expected, double tolerance, const char *what,
                               size_t at)
{
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%s [%zu] is %.9g, not %.9g", what, at, got, expected);
}

/* ---- attention ------------------------------------------------------------------------------- */

struct attention_case {
    struct attention_layer a;
    struct attention_sequence sequences[8];
    size_t n_sequences, n_rows, ld, ldo;
    int32_t *rows[8];
    float *qkv, *dout;
    size_t n_positions;
    float *tables[4]; /* cos, sin [n_positions, head_dim / 2]; norms [head_dim] */
};

/* A prefix of `prefix` tokens owned by sequence `owner`, the others on top of it; every sequence
 * has between 1 and `most` tokens of its own. */
static inline void make_case(struct attention_case *t, size_t n_heads, size_t n_kv_heads,
                             size_t head_dim, size_t window, size_t n_sequences, size_t prefix,
                             size_t most, bool norm)
{
    memset(t, 0, sizeof *t);
    t->n_sequences = n_sequences;
    const size_t owner = random_below((uint32_t)n_sequences);
    int32_t shared[256];
    for (size_t p = 0; p < prefix; p++)
        shared[p] = (int32_t)t->n_rows++;
    for (size_t s = 0; s < n_sequences; s++) {
        const size_t n = prefix + 1 + random_below((uint32_t)most);
        t->rows[s] = malloc(n * sizeof *t->rows[s]);
        assert_non_null(t->rows[s]);
        for (size_t p = 0; p < n; p++)
            t->rows[s][p] = p < prefix ? shared[p] : (int32_t)t->n_rows++;
        t->sequences[s] = (struct attention_sequence){t->rows[s], n, s == owner ? 0 : prefix};
    }
    struct attention_layer *a = &t->a;
    a->n_heads = n_heads;
    a->n_kv_heads = n_kv_heads;
    a->head_dim = head_dim;
    a->window = window;
    a->scale = 1.5f / sqrtf((float)head_dim);
    a->norm_eps = 1e-3f;
    a->q_offset = 2;
    a->k_offset = a->q_offset + n_heads * head_dim + 3;
    a->v_offset = a->k_offset + n_kv_heads * head_dim;
    t->ld = a->v_offset + n_kv_heads * head_dim + 5;
    t->ldo = n_heads * head_dim + 7;
    t->qkv = random_values(t->n_rows * t->ld, 0);
    t->dout = random_values(t->n_rows * t->ldo, 0);
    t->n_positions = prefix + most + 1;
    const size_t n_table = t->n_positions * head_dim / 2;
    t->tables[0] = random_values(n_table, 0);
    t->tables[1] = random_values(n_table, 0);
    for (size_t i = 0; i < n_table; i++) {
        const float angle = 3 * t->tables[0][i];
        t->tables[0][i] = cosf(angle);
        t->tables[1][i] = sinf(angle);
    }
    a->rope_cos = t->tables[0];
    a->rope_sin = t->tables[1];
    t->tables[2] = random_values(head_dim, 1);
    t->tables[3] = random_values(head_dim, 1);
    if (norm) {
        a->q_norm = t->tables[2];
        a->k_norm = t->tables[3];
    }
}

static inline void free_case(struct attention_case *t)
{
    for (size_t i = 0; i < t->n_sequences; i++)
        free(t->rows[i]);
    for (size_t i = 0; i < 4; i++)
        free(t->tables[i]);
    free(t->qkv);
    free(t->dout);
}

/* ---- the head -------------------------------------------------------------------------------- */

enum { HEAD_VOCAB = 2061, HEAD_WIDTH = 40, HEAD_LD = 64, HEAD_TOKENS = 69 };

struct head_case {
    struct matrix m, m_t;
    float *w, *x, *x0;
    void *elements, *elements0;
    struct head_term terms[HEAD_TOKENS];
};

static inline void make_head(struct head_case *t, enum element element, float distance)
{
    t->w = random_values(HEAD_VOCAB * HEAD_WIDTH, 0);
    for (size_t i = 0; i < HEAD_VOCAB * HEAD_WIDTH; i++)
        t->w[i] = rounded(element, t->w[i]);
    t->x = filled(HEAD_TOKENS * HEAD_LD * sizeof(float), 0);
    t->x0 = filled(HEAD_TOKENS * HEAD_LD * sizeof(float), 0);
    for (size_t r = 0; r < HEAD_TOKENS; r++) {
        for (size_t i = 0; i < HEAD_WIDTH; i++) {
            const float value = random_value() * (r % 3 == 0 ? 8.0f : 1.0f);
            t->x[r * HEAD_LD + i] = rounded(element, value);
            t->x0[r * HEAD_LD + i] = rounded(element, value + distance * random_value());
        }
        t->terms[r] =
            (struct head_term){r % 7 == 3 ? -1 : (int32_t)random_below(HEAD_VOCAB), random_value(),
                               r % 4 == 0 ? 0 : random_value(), r % 2 ? 0.2f : 0};
    }
    t->elements = elements_of(element, t->x, HEAD_TOKENS * HEAD_LD);
    t->elements0 = elements_of(element, t->x0, HEAD_TOKENS * HEAD_LD);
    assert_int_equal(matrix_create(&t->m, element, HEAD_VOCAB, HEAD_WIDTH), 0);
    matrix_pack_rows(&t->m, 0, HEAD_VOCAB, t->w);
    assert_int_equal(matrix_transpose(&t->m_t, &t->m, NULL), 0);
}

static inline void free_head(struct head_case *t)
{
    matrix_free(&t->m);
    matrix_free(&t->m_t);
    free(t->w);
    free(t->x);
    free(t->x0);
    free(t->elements);
    free(t->elements0);
}

#endif

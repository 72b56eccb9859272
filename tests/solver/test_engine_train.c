/* The training table's operations against double precision: directly where the gradient is a
 * line, else against central differences of the forward formula in double; and their bits on any
 * number of threads and at every instruction set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/engine_train.h"
#include "tests/solver/train_cases.h"

static const struct engine_train_ops *const ops = &engine_train_cpu;

static void start(struct engine *e, enum element element, enum isa isa, int n_threads)
{
    assert_int_equal(engine_create_cpu(e, element, isa, n_threads), 0);
}

/* Calls f for both element types at every level this processor has. */
static void for_each_engine(void (*f)(const struct engine *e))
{
    for (int isa = ISA_PLAIN; isa <= (int)cpu_best_isa(); isa++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
            struct engine e;
            start(&e, (enum element)element, (enum isa)isa, 1 + isa % 3);
            f(&e);
            engine_free(&e);
        }
}

/* ---- transposes ------------------------------------------------------------------------------ */

static void check_transpose(enum element element, size_t n, size_t k, struct team *team)
{
    struct matrix m, t, back;
    float *w = random_values(n * k, 0), *row = filled(n * sizeof *row, 0);
    assert_int_equal(matrix_create(&m, element, n, k), 0);
    matrix_pack_rows(&m, 0, n, w);
    assert_int_equal(matrix_transpose(&t, &m, team), 0);
    assert_int_equal(t.n, k);
    assert_int_equal(t.k, n);
    for (size_t i = 0; i < k; i++) {
        matrix_unpack_row(&t, i, row);
        for (size_t c = 0; c < n; c++)
            if (row[c] != rounded(element, w[c * k + i]))
                fail_msg("%zu x %zu: element %zu, %zu", n, k, c, i);
    }
    assert_int_equal(matrix_transpose(&back, &t, team), 0);
    assert_memory_equal(back.data, m.data, matrix_bytes(&m)); /* padding too */
    matrix_free(&m);
    matrix_free(&t);
    matrix_free(&back);
    free(w);
    free(row);
}

static void a_transpose_has_the_same_numbers_and_zero_padding(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 15, 16, 17, 31, 33, 48, 100, 161};
    enum { N = sizeof sizes / sizeof *sizes };
    struct team *team = team_create(2);
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
                check_transpose((enum element)element, sizes[i], sizes[j],
                                (i + j) % 2 ? team : NULL);
    team_free(team);
}

/* ---- row by row ------------------------------------------------------------------------------ */

static void check_rows(const struct engine *e)
{
    enum { ROWS = 5, WIDTH = 531, LD = 540, LDX = 544 };
    float *h = random_values(ROWS * LD, 0), *z = random_values(WIDTH, 1);
    void *x = filled(ROWS * LDX * sizeof(float), 0x7f);

    for (int which = 0; which < 3; which++) {
        if (which == 0)
            ops->to_elements(e, x, LDX, h, LD, ROWS, WIDTH);
        else
            ops->scale_columns(e, x, LDX, h, LD, which == 1 ? NULL : z, ROWS, WIDTH);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t i = 0; i < LDX; i++) {
                const float factor = which == 2 && i < WIDTH ? z[i] : 1;
                const float value = i < WIDTH ? h[r * LD + i] * factor : 0;
                assert_true(element_at(e->element, x, r * LDX + i) == rounded(e->element, value));
            }
    }
    free(h);
    free(z);
    free(x);
}

static void rows_become_elements(void **state)
{
    (void)state;
    for_each_engine(check_rows);
}

/* sum of dx * RMSNorm(h) w */
static double norm_loss(const double *h, const float *w, const float *dx, size_t n, double eps)
{
    double squares = 0, loss = 0;
    for (size_t i = 0; i < n; i++)
        squares += h[i] * h[i];
    for (size_t i = 0; i < n; i++)
        loss += dx[i] * w[i] * h[i] / sqrt(squares / (double)n + eps);
    return loss;
}

static void check_norm_backward(const struct engine *e)
{
    enum { ROWS = 3, WIDTH = 83, LD = 90 };
    const double step = 1e-5, eps = 1e-2;
    float *h = random_values(ROWS * LD, 0.1f), *dx = random_values(ROWS * LD, 0);
    float *w = random_values(WIDTH, 1), *dh = random_values(ROWS * LD, 0);
    float *before = filled(ROWS * LD * sizeof *before, 0);
    memcpy(before, dh, ROWS * LD * sizeof *before);
    ops->norm_backward(e, dh, LD, dx, LD, h, LD, ROWS, w, WIDTH, (float)eps);
    for (size_t r = 0; r < ROWS; r++) {
        double row[WIDTH];
        for (size_t i = 0; i < WIDTH; i++)
            row[i] = h[r * LD + i];
        for (size_t i = 0; i < WIDTH; i++) {
            row[i] = h[r * LD + i] + step;
            const double up = norm_loss(row, w, dx + r * LD, WIDTH, eps);
            row[i] = h[r * LD + i] - step;
            const double down = norm_loss(row, w, dx + r * LD, WIDTH, eps);
            row[i] = h[r * LD + i];
            assert_near((double)dh[r * LD + i], before[r * LD + i] + (up - down) / (2 * step), 2e-6,
                        "dh", i);
        }
        assert_memory_equal(dh + r * LD + WIDTH, before + r * LD + WIDTH,
                            (LD - WIDTH) * sizeof *dh);
    }
    free(h);
    free(dx);
    free(w);
    free(dh);
    free(before);
}

static void norm_backward_is_the_derivative_of_norm(void **state)
{
    (void)state;
    for_each_engine(check_norm_backward);
}

static double silu(double gate)
{
    return gate / (1 + exp(-gate));
}

static void check_swiglu_backward(const struct engine *e)
{
    enum { ROWS = 3, WIDTH = 530, UP = 544, LD = 1088, LDX = 532 };
    const double step = 1e-5, near = e->element == ELEMENT_F32 ? 1e-6 : 1.0 / 256;
    float *gate_up = random_values(ROWS * LD, 0), *dx = random_values(ROWS * LDX, 0);
    void *d = filled(ROWS * LD * sizeof(float), 0x7f);
    for (size_t i = 0; i < ROWS * LD; i++)
        gate_up[i] *= 8;
    gate_up[0] = 200;
    gate_up[1] = -200;
    ops->swiglu_backward(e, d, LD, dx, LDX, gate_up, LD, UP, ROWS, WIDTH);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < LD; i++) {
            const float *row = gate_up + r * LD;
            const double got = (double)element_at(e->element, d, r * LD + i);
            double expected = 0;
            if (i < WIDTH)
                expected = (silu(row[i] + step) - silu(row[i] - step)) / (2 * step) *
                           (double)row[UP + i] * (double)dx[r * LDX + i];
            else if (i >= UP && i < UP + WIDTH)
                expected = silu((double)row[i - UP]) * (double)dx[r * LDX + i - UP];
            assert_near(got, expected, near * (1 + fabs(expected)), "dgate_up", i);
        }
    free(gate_up);
    free(dx);
    free(d);
}

static void swiglu_backward_is_the_derivative_of_swiglu(void **state)
{
    (void)state;
    for_each_engine(check_swiglu_backward);
}

/* ---- sums over rows -------------------------------------------------------------------------- */

static void check_sums(const struct engine *e)
{
    enum { ROWS = 517, WIDTH = 70, NA = 37, NB = 21, LD = 72, LDG = 23 };
    float *h = random_values(ROWS * LD, 0), *q = random_values(ROWS * LD, 0);
    float *dz = random_values(WIDTH, 0), *g = random_values(NA * LDG, 0);
    void *a = elements_of(e->element, h, ROWS * LD), *b = elements_of(e->element, q, ROWS * LD);
    double z_expected[WIDTH], g_expected[NA * LDG];

    for (size_t i = 0; i < WIDTH; i++) {
        z_expected[i] = dz[i];
        for (size_t r = 0; r < ROWS; r++)
            z_expected[i] += (double)h[r * LD + i] * q[r * LD + i];
    }
    for (size_t i = 0; i < NA; i++)
        for (size_t c = 0; c < LDG; c++) {
            g_expected[i * LDG + c] = g[i * LDG + c];
            for (size_t r = 0; c < NB && r < ROWS; r++)
                g_expected[i * LDG + c] += (double)element_at(e->element, a, r * LD + i) *
                                           element_at(e->element, b, r * LD + c);
        }
    ops->multiply_sum(e, dz, h, LD, q, LD, ROWS, WIDTH);
    assert_int_equal(ops->outer_sum(e, g, LDG, a, LD, NA, b, LD, NB, ROWS), 0);
    for (size_t i = 0; i < WIDTH; i++)
        assert_near((double)dz[i], z_expected[i], 1e-5, "dz", i);
    for (size_t i = 0; i < NA * LDG; i++)
        assert_near((double)g[i], g_expected[i], 5e-5, "g", i);
    assert_int_equal(ops->outer_sum(e, g, LDG, a, LD, NA, b, LD, NB, 0), 0);
    free(h);
    free(q);
    free(dz);
    free(g);
    free(a);
    free(b);
}

static void sums_over_rows_add_to_what_is_there(void **state)
{
    (void)state;
    for_each_engine(check_sums);
}

/* ---- attention ------------------------------------------------------------------------------- */

static void naive_rotate(const struct attention_layer *a, double *x, const double *in,
                         const float *norm, size_t position)
{
    const size_t d = a->head_dim, half = d / 2;
    double squares = 0;
    for (size_t i = 0; i < d; i++)
        squares += in[i] * in[i];
    const double factor = norm ? 1 / sqrt(squares / (double)d + a->norm_eps) : 1;
    for (size_t i = 0; i < half; i++) {
        const double c = a->rope_cos[position * half + i], s = a->rope_sin[position * half + i];
        const double x1 = in[i] * factor * (norm ? norm[i] : 1);
        const double x2 = in[i + half] * factor * (norm ? norm[i + half] : 1);
        x[i] = x1 * c - x2 * s;
        x[i + half] = x2 * c + x1 * s;
    }
}

/* sum over own queries of dout * attention(qkv), of one query head */
static double naive_head_loss(const struct attention_case *t, const double *qkv, size_t head)
{
    const struct attention_layer *a = &t->a;
    const size_t d = a->head_dim, kv = head / (a->n_heads / a->n_kv_heads);
    double loss = 0;
    for (size_t s = 0; s < t->n_sequences; s++) {
        const struct attention_sequence *q = &t->sequences[s];
        double *keys = malloc(q->n * d * sizeof *keys), *scores = malloc(q->n * sizeof *scores);
        assert_true(keys && scores);
        for (size_t p = 0; p < q->n; p++)
            naive_rotate(a, keys + p * d, qkv + (size_t)q->rows[p] * t->ld + a->k_offset + kv * d,
                         a->k_norm, p);
        for (size_t p = q->own; p < q->n; p++) {
            const size_t row = (size_t)q->rows[p];
            const size_t low = a->window && p + 1 > a->window ? p + 1 - a->window : 0;
            double query[ENGINE_MAX_HEAD_DIM], max = -INFINITY, sum = 0, weighted = 0;
            naive_rotate(a, query, qkv + row * t->ld + a->q_offset + head * d, a->q_norm, p);
            for (size_t k = low; k <= p; k++) {
                scores[k] = 0;
                for (size_t i = 0; i < d; i++)
                    scores[k] += query[i] * keys[k * d + i] * a->scale;
                max = fmax(max, scores[k]);
            }
            for (size_t k = low; k <= p; k++) {
                const double *value = qkv + (size_t)q->rows[k] * t->ld + a->v_offset + kv * d;
                const double weight = exp(scores[k] - max);
                sum += weight;
                for (size_t i = 0; i < d; i++)
                    weighted += weight * value[i] * t->dout[row * t->ldo + head * d + i];
            }
            loss += weighted / sum;
        }
        free(keys);
        free(scores);
    }
    return loss;
}

/* The loss's change along an element or a direction touches these heads only. */
static double naive_loss(const struct attention_case *t, const double *qkv, size_t first_head,
                         size_t n_heads)
{
    double loss = 0;
    for (size_t h = first_head; h < first_head + n_heads; h++)
        loss += naive_head_loss(t, qkv, h);
    return loss;
}

static void check_attention(const struct engine *e, const struct attention_case *t)
{
    const struct attention_layer *a = &t->a;
    const size_t n = t->n_rows * t->ld, d = a->head_dim, group = a->n_heads / a->n_kv_heads;
    /* products with bf16 operands, where the engine has them */
    const double near = e->element == ELEMENT_F32 ? 1e-5 : 2e-2;
    float *dqkv = filled(n * sizeof *dqkv, 0x7f), *direction = random_values(n, 0);
    double *x = filled(n * sizeof *x, 0), along = 0, norm = 0;
    enum { SAMPLES = 12 };

    assert_int_equal(ops->attention_backward(e, a, t->sequences, t->n_sequences, t->n_rows, t->qkv,
                                             t->ld, t->dout, t->ldo, dqkv, t->ld),
                     0);
    for (size_t i = 0; i < n; i++) {
        x[i] = t->qkv[i];
        along += (double)direction[i] * dqkv[i];
        norm += (double)dqkv[i] * dqkv[i];
    }
    double step = 1e-6;
    for (size_t i = 0; i < n; i++)
        x[i] = t->qkv[i] + step * direction[i];
    const double up = naive_loss(t, x, 0, a->n_heads);
    for (size_t i = 0; i < n; i++)
        x[i] = t->qkv[i] - step * direction[i];
    const double down = naive_loss(t, x, 0, a->n_heads);
    assert_near(along, (up - down) / (2 * step), near * (1 + sqrt(norm)), "along a direction", 0);

    step = 1e-5;
    for (size_t i = 0; i < n; i++)
        x[i] = t->qkv[i];
    const double size = sqrt(norm / (double)n);
    for (int sample = 0; sample < SAMPLES; sample++) {
        const size_t row = random_below((uint32_t)t->n_rows), i = random_below((uint32_t)d);
        const size_t kv = random_below((uint32_t)a->n_kv_heads);
        const size_t head = kv * group + random_below((uint32_t)group);
        const size_t kind = random_below(3);
        const size_t at = row * t->ld + i +
                          (kind == 0   ? a->q_offset + head * d
                           : kind == 1 ? a->k_offset + kv * d
                                       : a->v_offset + kv * d);
        const double value = x[at];
        x[at] = value + step;
        const double above = naive_loss(t, x, kv * group, group);
        x[at] = value - step;
        const double below = naive_loss(t, x, kv * group, group);
        x[at] = value;
        assert_near((double)dqkv[at], (above - below) / (2 * step),
                    near * (fabs((double)dqkv[at]) + 3 * size + 1e-4), "dqkv", at);
    }
    for (size_t r = 0; r < t->n_rows; r++)
        for (size_t i = 0; i < t->ld; i++)
            if (i < a->q_offset || (i >= a->q_offset + a->n_heads * d && i < a->k_offset) ||
                i >= a->v_offset + a->n_kv_heads * d)
                assert_true(dqkv[r * t->ld + i] == 0);
    free(dqkv);
    free(direction);
    free(x);
}

static void attention_backward_is_the_derivative_of_attention(void **state)
{
    (void)state;
    static const struct {
        size_t n_heads, n_kv_heads, head_dim, window, n_sequences, prefix, most;
        bool norm;
    } cases[] = {
        {1, 1, 8, 0, 1, 0, 1, false},    {3, 1, 16, 0, 1, 0, 40, false},
        {6, 2, 16, 0, 4, 13, 30, false}, {4, 4, 24, 7, 3, 20, 30, true},
        {6, 2, 10, 0, 8, 5, 6, true},    {9, 3, 64, 0, 3, 40, 30, false},
        {2, 1, 40, 33, 2, 70, 90, true}, {50, 1, 8, 0, 2, 11, 30, false},
        {2, 1, 250, 1, 2, 3, 9, false},  {4, 2, 128, 0, 2, 0, 60, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
            struct attention_case t;
            struct engine e;
            make_case(&t, cases[i].n_heads, cases[i].n_kv_heads, cases[i].head_dim, cases[i].window,
                      cases[i].n_sequences, cases[i].prefix, cases[i].most, cases[i].norm);
            start(&e, (enum element)element, cpu_best_isa(), 1 + (int)i % 3);
            check_attention(&e, &t);
            engine_free(&e);
            free_case(&t);
        }
}

/* Enough query rows for several items, and several blocks in each. */
static void attention_backward_of_a_long_sequence(void **state)
{
    (void)state;
    struct attention_case t;
    struct engine e;
    make_case(&t, 8, 1, 16, 100, 1, 200, 1, false);
    start(&e, ELEMENT_F32, cpu_best_isa(), 2);
    check_attention(&e, &t);
    engine_free(&e);
    free_case(&t);
}

/* ---- the head -------------------------------------------------------------------------------- */

/* log p [HEAD_VOCAB] of one row */
static void naive_logprobs(const struct head_case *t, const float *x, double *logp)
{
    double max = -INFINITY, sum = 0;
    for (size_t v = 0; v < HEAD_VOCAB; v++) {
        logp[v] = 0;
        for (size_t i = 0; i < HEAD_WIDTH; i++)
            logp[v] += (double)t->w[v * HEAD_WIDTH + i] * x[i];
        max = fmax(max, logp[v]);
    }
    for (size_t v = 0; v < HEAD_VOCAB; v++)
        sum += exp(logp[v] - max);
    for (size_t v = 0; v < HEAD_VOCAB; v++)
        logp[v] -= max + log(sum);
}

static void check_head_row(const struct head_case *t, size_t r, bool base, const float *dx,
                           const struct head_term_result *result, double near)
{
    static double logp[HEAD_VOCAB], logp0[HEAD_VOCAB];
    const struct head_term *term = &t->terms[r];
    double expected[HEAD_WIDTH] = {0}, kl = 0, kl0 = 0, entropy = 0, size = 0;
    size_t best = 0;

    naive_logprobs(t, t->x + r * HEAD_LD, logp);
    naive_logprobs(t, t->x0 + r * HEAD_LD, logp0);
    for (size_t v = 0; v < HEAD_VOCAB; v++) {
        kl += base ? exp(logp[v]) * (logp[v] - logp0[v]) : 0;
        kl0 += base ? exp(logp0[v]) * (logp0[v] - logp[v]) : 0;
        entropy -= exp(logp[v]) * logp[v];
        best = logp[v] > logp[best] ? v : best;
    }
    for (size_t v = 0; v < HEAD_VOCAB; v++) {
        const double p = exp(logp[v]), hot = (size_t)term->target == v;
        double d = term->target < 0 ? 0 : term->weight * (p - hot);
        if (base)
            d += term->kl_weight * p * (logp[v] - logp0[v] - kl) +
                 term->kl0_weight * (p - exp(logp0[v]));
        for (size_t i = 0; i < HEAD_WIDTH; i++)
            expected[i] += d * t->w[v * HEAD_WIDTH + i];
    }
    const double want = term->target < 0 ? 0 : logp[term->target];
    const double want0 = term->target < 0 || !base ? 0 : logp0[term->target];
    assert_near((double)result->logprob, want, 5e-6 * (1 - want), "logprob", r);
    assert_near((double)result->base_logprob, want0, 5e-6 * (1 - want0), "base logprob", r);
    assert_near((double)result->kl, kl, 2e-8 + 1e-3 * kl, "kl", r);
    assert_near((double)result->kl0, kl0, 2e-8 + 1e-3 * kl0, "kl0", r);
    assert_near((double)result->entropy, entropy, 1e-4 * entropy + 1e-6, "entropy", r);
    assert_int_equal(result->argmax, best);
    for (size_t i = 0; i < HEAD_WIDTH; i++)
        size += expected[i] * expected[i];
    for (size_t i = 0; dx && i < HEAD_WIDTH; i++)
        assert_near((double)dx[r * HEAD_LD + i], expected[i], near * sqrt(size) + 2e-6, "dx", i);
}

static void check_head(enum element element, float distance, bool base)
{
    const double near = element == ELEMENT_F32 ? 2e-5 : 1e-2;
    struct head_case t;
    struct engine e;
    struct head_term_result results[HEAD_TOKENS], alone[HEAD_TOKENS];
    struct head_result forward[HEAD_TOKENS];
    int32_t targets[HEAD_TOKENS];
    float *dx = filled(HEAD_TOKENS * HEAD_LD * sizeof *dx, 0x7f);

    make_head(&t, element, distance);
    start(&e, element, cpu_best_isa(), 2);
    const void *x0 = base ? t.elements0 : NULL;
    assert_int_equal(ops->head_backward(&e, dx, HEAD_LD, t.elements, x0, HEAD_LD, HEAD_TOKENS, &t.m,
                                        &t.m_t, t.terms, results),
                     0);
    for (size_t r = 0; r < HEAD_TOKENS; r++)
        check_head_row(&t, r, base, dx, &results[r], near);

    for (size_t r = 0; r < HEAD_TOKENS; r++)
        targets[r] = t.terms[r].target;
    assert_int_equal(
        e.ops->head(&e, forward, NULL, 0, t.elements, HEAD_LD, HEAD_TOKENS, &t.m, targets), 0);
    for (size_t r = 0; r < HEAD_TOKENS; r++) {
        assert_true(results[r].logprob ==
                    (targets[r] < 0 ? 0 : forward[r].target - forward[r].log_sum));
        assert_int_equal(results[r].argmax, forward[r].argmax);
    }
    assert_int_equal(ops->head_backward(&e, NULL, 0, t.elements, x0, HEAD_LD, HEAD_TOKENS, &t.m,
                                        NULL, t.terms, alone),
                     0);
    assert_memory_equal(alone, results, sizeof results);
    free(dx);
    engine_free(&e);
    free_head(&t);
}

static void head_backward_is_the_derivative_of_the_loss(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        check_head((enum element)element, 0, false);
        check_head((enum element)element, 0.3f, true);
    }
}

/* 1e-3 away, KL is about 1e-6: lost if logarithms were subtracted in f32. */
static void a_small_kl_keeps_its_digits(void **state)
{
    (void)state;
    check_head(ELEMENT_F32, 1e-3f, true);
    check_head(ELEMENT_F32, 0, true);
}

/* ---- bits ------------------------------------------------------------------------------------ */

/* Everything that the operations make of one input, as bytes one after the other. */
struct outcome {
    char *bytes;
    size_t n;
};

static void keep(struct outcome *o, const void *data, size_t bytes)
{
    o->bytes = realloc(o->bytes, o->n + bytes);
    assert_non_null(o->bytes);
    memcpy(o->bytes + o->n, data, bytes);
    o->n += bytes;
}

static void run_everything(struct outcome *o, const struct engine *e,
                           const struct attention_case *t, const struct head_case *head,
                           const float *h, const float *q)
{
    enum { ROWS = 197, COLUMNS = 300, HALF = 144 };
    float *dqkv = filled(t->n_rows * t->ld * sizeof *dqkv, 0);
    float *dx = filled(ROWS * COLUMNS * sizeof *dx, 0);
    struct head_term_result results[HEAD_TOKENS];

    assert_int_equal(ops->attention_backward(e, &t->a, t->sequences, t->n_sequences, t->n_rows,
                                             t->qkv, t->ld, t->dout, t->ldo, dqkv, t->ld),
                     0);
    keep(o, dqkv, t->n_rows * t->ld * sizeof *dqkv);
    assert_int_equal(ops->head_backward(e, dx, HEAD_LD, head->elements, head->elements0, HEAD_LD,
                                        HEAD_TOKENS, &head->m, &head->m_t, head->terms, results),
                     0);
    keep(o, dx, HEAD_TOKENS * HEAD_LD * sizeof *dx);
    keep(o, results, sizeof results);
    memset(dx, 0, ROWS * COLUMNS * sizeof *dx);
    ops->norm_backward(e, dx, COLUMNS, h, COLUMNS, q, COLUMNS, ROWS, h, COLUMNS, 1e-5f);
    keep(o, dx, ROWS * COLUMNS * sizeof *dx);
    ops->swiglu_backward(e, dx, COLUMNS, q, COLUMNS, h, COLUMNS, HALF, ROWS, HALF);
    keep(o, dx, ROWS * COLUMNS * element_size(e->element));
    memset(dx, 0, COLUMNS * sizeof *dx);
    ops->multiply_sum(e, dx, h, COLUMNS, q, COLUMNS, ROWS, COLUMNS);
    keep(o, dx, COLUMNS * sizeof *dx);
    void *a = elements_of(e->element, h, ROWS * COLUMNS);
    memset(dx, 0, ROWS * COLUMNS * sizeof *dx);
    assert_int_equal(ops->outer_sum(e, dx, COLUMNS, a, COLUMNS, 100, a, COLUMNS, COLUMNS, ROWS), 0);
    keep(o, dx, 100 * COLUMNS * sizeof *dx);
    free(a);
    free(dqkv);
    free(dx);
}

static void results_have_the_same_bits_on_any_threads_and_levels(void **state)
{
    (void)state;
    float *h = random_values(197 * 300, 0), *q = random_values(197 * 300, 0);
    struct attention_case t;
    make_case(&t, 6, 2, 24, 0, 5, 40, 70, true);

    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct outcome first = {NULL, 0};
        struct head_case head;
        make_head(&head, (enum element)element, 0.1f);
        for (int isa = (int)cpu_best_isa(); isa >= ISA_PLAIN; isa--)
            for (int n_threads = 1; n_threads <= 3; n_threads++) {
                struct engine e;
                struct outcome o = {NULL, 0};
                if (n_threads > 1 && isa < (int)cpu_best_isa())
                    continue;
                start(&e, (enum element)element, (enum isa)isa, n_threads);
                run_everything(&o, &e, &t, &head, h, q);
                if (!first.bytes) {
                    first = o;
                } else {
                    assert_int_equal(o.n, first.n);
                    if (element == ELEMENT_F32 || isa == (int)cpu_best_isa())
                        assert_memory_equal(o.bytes, first.bytes, o.n);
                    free(o.bytes);
                }
                engine_free(&e);
            }
        free(first.bytes);
        free_head(&head);
    }
    free_case(&t);
    free(h);
    free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_transpose_has_the_same_numbers_and_zero_padding),
        cmocka_unit_test(rows_become_elements),
        cmocka_unit_test(norm_backward_is_the_derivative_of_norm),
        cmocka_unit_test(swiglu_backward_is_the_derivative_of_swiglu),
        cmocka_unit_test(sums_over_rows_add_to_what_is_there),
        cmocka_unit_test(attention_backward_is_the_derivative_of_attention),
        cmocka_unit_test(attention_backward_of_a_long_sequence),
        cmocka_unit_test(head_backward_is_the_derivative_of_the_loss),
        cmocka_unit_test(a_small_kl_keeps_its_digits),
        cmocka_unit_test(results_have_the_same_bits_on_any_threads_and_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

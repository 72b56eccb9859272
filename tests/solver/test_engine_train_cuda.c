/* The training table on a CUDA device against the CPU's, on the same random numbers: bit for bit
 * where both do the same steps in the same order, else within rounding; and the bits that may not
 * hang on what is beside a row. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/solver/engine_runs.h"
#ifdef T2_STANDIN
#include "tests/standin/standin.h"
#endif

/* ---- row by row ------------------------------------------------------------------------------ */

static const struct {
    size_t n, width, ld;
} shapes[] = {{1, 1, 3}, {5, 531, 544}, {67, 32, 32}, {130, 257, 260}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void convert(struct run *run, size_t which)
{
    const size_t n = shapes[which].n, width = shapes[which].width, ld = shapes[which].ld;
    const size_t size = element_size(run->e.element), ldx = round_up(width, 32);
    float *h = floats(run, n * ld, 0), *z = floats(run, width, 1), *bias = floats(run, width, 0);
    float *y = floats(run, n * ld, 0);
    void *x = tensor(run, NULL, n * ldx * size);

    run->ops->to_elements(&run->e, x, ldx, h, ld, n, width);
    keep_elements(run, x, n * ldx);
    run->ops->to_floats(&run->e, y, ld, x, ldx, n, width);
    keep(run, y, n * ld);
    for (int scaled = 0; scaled < 2; scaled++) {
        run->ops->scale_columns(&run->e, x, ldx, h, ld, scaled ? z : NULL, n, width);
        keep_elements(run, x, n * ldx);
    }
    run->ops->scale_add(&run->e, y, ld, h, ld, z, NULL, n, width, false);
    keep(run, y, n * ld);
    run->ops->scale_add(&run->e, y, ld, h, ld, z, bias, n, width, true);
    keep(run, y, n * ld);
}

static void conversions_and_scalings_are_the_cpus(void **state)
{
    (void)state;
    compare_both(convert, SHAPES, 0, 0, "converted");
}

static void move_rows(struct run *run, size_t which)
{
    const size_t n = shapes[which].n, width = shapes[which].width, ld = shapes[which].ld;
    const size_t n_from = n / 3 + 1;
    float *h = floats(run, n_from * ld, 0), *y = floats(run, n * ld, 0);
    int32_t *rows = malloc(n * sizeof *rows);

    assert_non_null(rows);
    for (size_t i = 0; i < n; i++)
        rows[i] = (int32_t)random_below((uint32_t)n_from);
    run->ops->scatter_add_rows(&run->e, h, ld, y, ld, rows, n, width);
    run->ops->gather_rows(&run->e, y, ld, h, ld, rows, n, width);
    run->ops->scatter_add_rows(&run->e, h, ld, y, ld, rows, 0, width);
    run->ops->gather_rows(&run->e, y, ld, h, ld, rows, 0, width);
    free(rows);
    keep(run, h, n_from * ld);
    keep(run, y, n * ld);
}

static void rows_are_gathered_and_scattered_in_order(void **state)
{
    (void)state;
    compare_both(move_rows, SHAPES, 0, 0, "moved");
}

static void norm_backward(struct run *run, size_t which)
{
    const size_t n = shapes[which].n, width = shapes[which].width, ld = shapes[which].ld;
    float *dh = floats(run, n * ld, 0), *dx = floats(run, n * ld, 0);
    float *h = floats(run, n * ld, 0.1f), *w = floats(run, width, 1);
    run->ops->norm_backward(&run->e, dh, ld, dx, ld, h, ld, n, w, width, 1e-3f);
    keep(run, dh, n * ld);
}

static void norm_backward_is_near_the_cpus(void **state)
{
    (void)state;
    compare_both(norm_backward, SHAPES, 2e-6, 2e-6, "dh");
}

static void swiglu_backward(struct run *run, size_t which)
{
    const size_t n = shapes[which].n, width = shapes[which].width;
    const size_t up = round_up(width, 32), ld = 2 * up;
    float *gate_up = floats(run, n * ld, 0), *dx = floats(run, n * width, 0);
    void *d = tensor(run, NULL, n * ld * element_size(run->e.element));

    run->e.ops->wait(&run->e);
    for (size_t i = 0; i < n * ld; i++)
        gate_up[i] *= 8;
    gate_up[0] = 200;
    gate_up[n * ld - up] = -200;
    run->ops->swiglu_backward(&run->e, d, ld, dx, width, gate_up, ld, up, n, width);
    keep_elements(run, d, n * ld);
}

static void swiglu_backward_is_the_cpus(void **state)
{
    (void)state;
    compare_both(swiglu_backward, SHAPES, 0, 0, "dgate_up");
}

static void drop(struct run *run, size_t which)
{
    const size_t n = shapes[which].n, width = shapes[which].width, ld = shapes[which].ld;
    const size_t ldx = round_up(width, 32);
    uint64_t *keys = malloc(n * sizeof *keys);
    assert_non_null(keys);
    for (size_t i = 0; i < n; i++)
        keys[i] = (uint64_t)random_below(1u << 20) << 40 | random_below(1u << 20);
    const struct dropout dropout = {keys, which, 9000 * (uint32_t)(which + 1)};
    void *x = elements(run, n * ldx);
    void *y = tensor(run, NULL, n * ldx * element_size(run->e.element));
    float *dx = floats(run, n * ld, 0), *t = floats(run, n * ld, 0);

    run->ops->drop(&run->e, y, ldx, x, ldx, n, width, &dropout);
    run->ops->add_dropped(&run->e, dx, ld, t, ld, n, width, &dropout);
    free(keys);
    keep_elements(run, y, n * ldx);
    keep(run, dx, n * ld);
}

static void dropout_leaves_out_what_the_cpu_does(void **state)
{
    (void)state;
    compare_both(drop, SHAPES, 0, 0, "dropped");
}

/* ---- sums over rows -------------------------------------------------------------------------- */

static void multiply_sum(struct run *run, size_t which)
{
    static const size_t rows[] = {1, 64, 65, 517};
    const size_t n = rows[which], width = 300, ld = 301;
    float *h = floats(run, n * ld, 0), *q = floats(run, n * ld, 0), *dz = floats(run, width, 0);
    run->ops->multiply_sum(&run->e, dz, h, ld, q, ld, n, width);
    keep(run, dz, width);
}

static void outer_sum(struct run *run, size_t which)
{
    static const struct {
        size_t n, n_a, n_b;
    } sizes[] = {{1, 5, 3}, {517, 37, 21}, {2100, 16, 48}, {33, 1, 130}};
    const size_t n = sizes[which].n, n_a = sizes[which].n_a, n_b = sizes[which].n_b;
    const size_t lda = round_up(n_a, 32), ldb = round_up(n_b, 32), ldg = n_b + 2;
    void *a = elements(run, n * lda), *b = elements(run, n * ldb);
    float *g = floats(run, n_a * ldg, 0);
    assert_int_equal(run->ops->outer_sum(&run->e, g, ldg, a, lda, n_a, b, ldb, n_b, n), 0);
    assert_int_equal(run->ops->outer_sum(&run->e, g, ldg, a, lda, n_a, b, ldb, n_b, 0), 0);
    keep(run, g, n_a * ldg);
}

static void sums_over_rows_are_the_cpus(void **state)
{
    (void)state;
    compare_both(multiply_sum, 4, 0, 0, "dz");
    compare_both(outer_sum, 4, 1e-5, 1e-5, "g");
}

/* ---- attention ------------------------------------------------------------------------------- */

static const struct {
    size_t n_heads, n_kv_heads, head_dim, window, n_sequences, prefix, most;
    bool norm;
} attention_cases[] = {
    {1, 1, 8, 0, 1, 0, 1, false},       {3, 1, 16, 0, 1, 0, 40, false},
    {6, 2, 16, 0, 4, 13, 30, false},    {4, 4, 24, 7, 3, 20, 30, true},
    {6, 2, 10, 0, 8, 5, 6, true},       {2, 1, 40, 33, 2, 70, 90, true},
    {10, 1, 8, 100, 2, 150, 40, false}, {2, 1, 250, 1, 2, 3, 9, false},
    {4, 2, 128, 0, 3, 64, 60, true},    {2, 2, 192, 0, 2, 10, 70, true},
    {8, 1, 64, 0, 3, 130, 40, false},
};
enum { ATTENTION_CASES = sizeof attention_cases / sizeof *attention_cases };

static void make_numbered_case(struct attention_case *t, size_t which)
{
    make_case(t, attention_cases[which].n_heads, attention_cases[which].n_kv_heads,
              attention_cases[which].head_dim, attention_cases[which].window,
              attention_cases[which].n_sequences, attention_cases[which].prefix,
              attention_cases[which].most, attention_cases[which].norm);
}

/* The status of the call, and dqkv [n_rows, ld] of some sequences of a case. */
static int call_attention(struct run *run, const struct attention_case *t,
                          const struct attention_sequence *sequences, size_t n_sequences,
                          float **gradient)
{
    const size_t n = t->n_rows * t->ld * sizeof(float), d = t->a.head_dim;
    const size_t table = t->n_positions * (d / 2) * sizeof(float);
    struct attention_layer a = t->a;
    const float *qkv = tensor(run, t->qkv, n);
    const float *dout = tensor(run, t->dout, t->n_rows * t->ldo * sizeof(float));
    float *dqkv = tensor(run, NULL, n);

    a.rope_cos = tensor(run, t->tables[0], table);
    a.rope_sin = tensor(run, t->tables[1], table);
    if (a.q_norm) {
        a.q_norm = tensor(run, t->tables[2], d * sizeof(float));
        a.k_norm = tensor(run, t->tables[3], d * sizeof(float));
    }
    *gradient = dqkv;
#ifdef T2_STANDIN
    standin_fail_after(run->fail_after);
#endif
    return run->ops->attention_backward(&run->e, &a, sequences, n_sequences, t->n_rows, qkv, t->ld,
                                        dout, t->ldo, dqkv, t->ld);
}

static float *run_attention(struct run *run, const struct attention_case *t,
                            const struct attention_sequence *sequences, size_t n_sequences)
{
    float *dqkv;
    if (call_attention(run, t, sequences, n_sequences, &dqkv) != 0)
        fail_msg("%s", error_message());
    run->e.ops->wait(&run->e);
    return dqkv;
}

static void attention_backward(struct run *run, size_t which)
{
    struct attention_case t;
    make_numbered_case(&t, which);
    /* one rounding of keys and values for both */
    if (run->e.element == ELEMENT_BF16)
        engine_set_kv_form(&run->e, KV_BF16);
    keep(run, run_attention(run, &t, t.sequences, t.n_sequences), t.n_rows * t.ld);
    free_case(&t);
}

static void attention_backward_is_near_the_cpus(void **state)
{
    (void)state;
    compare_both(attention_backward, ATTENTION_CASES, 1e-5, 1e-5, "dqkv");
}

/* Sequences on their own rows: what each gets does not hang on the others. */
static void a_sequences_gradient_has_the_same_bits_alone(void **state)
{
    (void)state;
    struct attention_case t;
    struct run run;
    make_case(&t, 6, 2, 24, 50, 4, 0, 90, true);
    for (size_t s = 0; s < t.n_sequences; s++)
        t.sequences[s].own = 0;
    start(&run, true, ELEMENT_F32);
    float *together = run_attention(&run, &t, t.sequences, t.n_sequences);
    for (size_t s = 0; s < t.n_sequences; s++) {
        float *alone = run_attention(&run, &t, &t.sequences[s], 1);
        for (size_t p = 0; p < t.sequences[s].n; p++) {
            const size_t at = (size_t)t.sequences[s].rows[p] * t.ld;
            assert_memory_equal(alone + at, together + at, t.ld * sizeof *alone);
        }
    }
    finish(&run);
    free_case(&t);
}

/* A prefix's rows once for all sequences, or one copy for each: queries' gradients are the same
 * bits, and so are the keys' and values' that no other sequence sees. */
static void a_shared_prefix_changes_no_other_bits(void **state)
{
    (void)state;
    enum { PREFIX = 70 };
    struct attention_case t;
    struct run run;
    make_case(&t, 4, 2, 32, 0, 3, PREFIX, 50, false);
    start(&run, true, ELEMENT_BF16);
    float *shared = run_attention(&run, &t, t.sequences, t.n_sequences);
    for (size_t s = 0; s < t.n_sequences; s++) {
        struct attention_sequence own = t.sequences[s];
        own.own = 0;
        float *alone = run_attention(&run, &t, &own, 1);
        for (size_t p = t.sequences[s].own; p < own.n; p++) {
            const size_t at = (size_t)own.rows[p] * t.ld;
            const size_t n = p < PREFIX ? t.a.k_offset : t.ld;
            assert_memory_equal(alone + at, shared + at, n * sizeof *alone);
        }
    }
    finish(&run);
    free_case(&t);
}

/* ---- the head -------------------------------------------------------------------------------- */

/* Rows first .. first + n of a head's case; dx [n, HEAD_LD] or NULL. */
static int call_head(struct run *run, const struct head_case *t, bool base, size_t first, size_t n,
                     float *dx, struct head_term_result *results)
{
    int status;
    const size_t size = element_size(run->e.element), bytes = n * HEAD_LD * size;
    struct matrix m, m_t;
    const char *from = (const char *)t->elements + first * HEAD_LD * size;
    const char *from0 = (const char *)t->elements0 + first * HEAD_LD * size;
    void *x = tensor(run, from, bytes), *x0 = base ? tensor(run, from0, bytes) : NULL;

    assert_int_equal(engine_matrix_create(&run->e, &m, HEAD_VOCAB, HEAD_WIDTH), 0);
    matrix_pack_rows(&m, 0, HEAD_VOCAB, t->w);
    assert_int_equal(matrix_transpose(&m_t, &m, NULL), 0);
#ifdef T2_STANDIN
    standin_fail_after(run->fail_after);
#endif
    status = run->ops->head_backward(&run->e, dx, HEAD_LD, x, x0, HEAD_LD, n, &m, &m_t,
                                     t->terms + first, results);
    run->e.ops->wait(&run->e);
    matrix_free(&m);
    matrix_free(&m_t);
    return status;
}

static void run_head(struct run *run, const struct head_case *t, bool base, size_t first, size_t n,
                     float *dx, struct head_term_result *results)
{
    if (call_head(run, t, base, first, n, dx, results) != 0)
        fail_msg("%s", error_message());
}

static void head_backward(struct run *run, size_t which)
{
    static const float distances[] = {0, 0.3f, 1e-3f, 0};
    struct head_case t;
    struct head_term_result results[HEAD_TOKENS], alone[HEAD_TOKENS];
    float kept[6][HEAD_TOKENS], rows[HEAD_TOKENS][HEAD_WIDTH];
    float *dx = tensor(run, NULL, HEAD_TOKENS * HEAD_LD * sizeof *dx);

    make_head(&t, run->e.element, distances[which]);
    run_head(run, &t, which > 0, 0, HEAD_TOKENS, dx, results);
    for (size_t r = 0; r < HEAD_TOKENS; r++) {
        memcpy(rows[r], dx + r * HEAD_LD, sizeof rows[r]);
        /* the divergences' gradient alone, a difference of nearly equal numbers */
        if (t.terms[r].target < 0 && distances[which] > 0)
            keep_loosely(run, rows[r], HEAD_WIDTH, 1000);
        kept[0][r] = results[r].logprob;
        kept[1][r] = results[r].base_logprob;
        kept[2][r] = results[r].entropy;
        kept[3][r] = results[r].kl;
        kept[4][r] = results[r].kl0;
        kept[5][r] = (float)results[r].argmax;
    }
    keep(run, rows[0], sizeof rows / sizeof(float));
    for (size_t i = 0; i < 6; i++)
        keep_loosely(run, kept[i], HEAD_TOKENS, i == 5 ? 0 : i >= 3 ? 200 : 1);
    run_head(run, &t, which > 0, 0, HEAD_TOKENS, NULL, alone);
    assert_memory_equal(alone, results, sizeof results);
    free_head(&t);
}

static void head_backward_is_near_the_cpus(void **state)
{
    (void)state;
    compare_both(head_backward, 4, 2e-5, 2e-5, "dx");
}

static void a_rows_loss_has_the_same_bits_alone(void **state)
{
    (void)state;
    for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++) {
        struct head_case t;
        struct head_term_result results[HEAD_TOKENS], alone;
        struct run run;
        start(&run, true, (enum element)element);
        float *dx = tensor(&run, NULL, HEAD_TOKENS * HEAD_LD * sizeof *dx);
        float *one = tensor(&run, NULL, HEAD_LD * sizeof *one);
        make_head(&t, (enum element)element, 0.1f);
        run_head(&run, &t, true, 0, HEAD_TOKENS, dx, results);
        for (size_t r = 0; r < HEAD_TOKENS; r += 17) {
            run_head(&run, &t, true, r, 1, one, &alone);
            assert_memory_equal(one, dx + r * HEAD_LD, HEAD_WIDTH * sizeof *one);
            assert_memory_equal(&alone, &results[r], sizeof alone);
        }
        finish(&run);
        free_head(&t);
    }
}

/* What a token was drawn with is what its gradient begins with. */
static void log_probabilities_are_the_forward_heads(void **state)
{
    (void)state;
    struct head_case t;
    struct head_term_result results[HEAD_TOKENS];
    struct head_result forward[HEAD_TOKENS];
    int32_t targets[HEAD_TOKENS];
    struct matrix m;
    struct run run;

    start(&run, true, ELEMENT_BF16);
    make_head(&t, ELEMENT_BF16, 0.1f);
    run_head(&run, &t, true, 0, HEAD_TOKENS, NULL, results);
    for (size_t r = 0; r < HEAD_TOKENS; r++)
        targets[r] = t.terms[r].target;
    void *x = tensor(&run, t.elements, HEAD_TOKENS * HEAD_LD * element_size(ELEMENT_BF16));
    assert_int_equal(engine_matrix_create(&run.e, &m, HEAD_VOCAB, HEAD_WIDTH), 0);
    matrix_pack_rows(&m, 0, HEAD_VOCAB, t.w);
    assert_int_equal(
        run.e.ops->head(&run.e, forward, NULL, 0, x, HEAD_LD, HEAD_TOKENS, &m, targets), 0);
    for (size_t r = 0; r < HEAD_TOKENS; r++) {
        const float expected = targets[r] < 0 ? 0 : forward[r].target - forward[r].log_sum;
        assert_true(results[r].logprob == expected);
        assert_int_equal(results[r].argmax, forward[r].argmax);
    }
    matrix_free(&m);
    finish(&run);
    free_head(&t);
}

/* ---- failures -------------------------------------------------------------------------------- */

#ifdef T2_STANDIN
typedef int failing_operation(struct run *run);

static int failing_attention(struct run *run)
{
    struct attention_case t;
    float *dqkv;
    make_case(&t, 4, 2, 16, 0, 2, 5, 6, true);
    const int status = call_attention(run, &t, t.sequences, t.n_sequences, &dqkv);
    free_case(&t);
    return status;
}

static int failing_head(struct run *run)
{
    struct head_case t;
    struct head_term_result results[HEAD_TOKENS];
    float *dx = tensor(run, NULL, HEAD_TOKENS * HEAD_LD * sizeof *dx);
    make_head(&t, run->e.element, 0.1f);
    const int status = call_head(run, &t, true, 0, 2, dx, results);
    free_head(&t);
    return status;
}

/* What returns nothing, and at last something that says whether all that went well. */
static int failing_rest(struct run *run)
{
    enum { N = 3, COLUMNS = 32 };
    static const int32_t rows[N] = {1, 0, 1};
    static const uint64_t keys[N] = {3, 4, 5};
    const struct dropout dropout = {keys, 1, 1000};
    const struct engine *e = &run->e;
    float *h = floats(run, N * COLUMNS, 0), *y = floats(run, N * COLUMNS, 0);
    void *x = elements(run, N * COLUMNS), *z = elements(run, N * COLUMNS);

    standin_fail_after(run->fail_after);
    run->ops->to_elements(e, x, COLUMNS, h, COLUMNS, N, COLUMNS);
    run->ops->scale_columns(e, x, COLUMNS, h, COLUMNS, y, N, COLUMNS);
    run->ops->to_floats(e, h, COLUMNS, x, COLUMNS, N, COLUMNS);
    run->ops->scale_add(e, h, COLUMNS, y, COLUMNS, y, NULL, N, COLUMNS, true);
    run->ops->gather_rows(e, y, COLUMNS, h, COLUMNS, rows, N, COLUMNS);
    run->ops->scatter_add_rows(e, y, COLUMNS, h, COLUMNS, rows, N, COLUMNS);
    run->ops->norm_backward(e, y, COLUMNS, h, COLUMNS, h, COLUMNS, N, h, COLUMNS, 1e-5f);
    run->ops->swiglu_backward(e, x, COLUMNS, h, COLUMNS, y, COLUMNS, COLUMNS / 2, N, COLUMNS / 2);
    run->ops->multiply_sum(e, y, h, COLUMNS, h, COLUMNS, N, COLUMNS);
    run->ops->drop(e, z, COLUMNS, x, COLUMNS, N, COLUMNS, &dropout);
    run->ops->add_dropped(e, h, COLUMNS, y, COLUMNS, N, COLUMNS, &dropout);
    return run->ops->outer_sum(e, h, COLUMNS, x, COLUMNS, N, z, COLUMNS, COLUMNS, N);
}

static void check_failures(failing_operation *f, long least)
{
    const size_t before = standin_allocated();
    long n = 1;
    for (int status = -1; status != 0; n++) {
        struct run run;
        start(&run, true, ELEMENT_BF16);
        run.fail_after = n;
        error_clear();
        status = f(&run);
        standin_fail_after(0);
        assert_true((status == 0) == (error_message()[0] == '\0'));
        finish(&run);
        assert_true(standin_allocated() == before);
        assert_true(n < 1000);
    }
    assert_true(n > least);
}

static void any_failure_is_a_sentence_and_leaves_nothing(void **state)
{
    (void)state;
    check_failures(failing_attention, 6);
    check_failures(failing_head, 10);
    check_failures(failing_rest, 15);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversions_and_scalings_are_the_cpus),
        cmocka_unit_test(rows_are_gathered_and_scattered_in_order),
        cmocka_unit_test(norm_backward_is_near_the_cpus),
        cmocka_unit_test(swiglu_backward_is_the_cpus),
        cmocka_unit_test(dropout_leaves_out_what_the_cpu_does),
        cmocka_unit_test(sums_over_rows_are_the_cpus),
        cmocka_unit_test(attention_backward_is_near_the_cpus),
        cmocka_unit_test(a_sequences_gradient_has_the_same_bits_alone),
        cmocka_unit_test(a_shared_prefix_changes_no_other_bits),
        cmocka_unit_test(head_backward_is_near_the_cpus),
        cmocka_unit_test(a_rows_loss_has_the_same_bits_alone),
        cmocka_unit_test(log_probabilities_are_the_forward_heads),
#ifdef T2_STANDIN
        cmocka_unit_test(any_failure_is_a_sentence_and_leaves_nothing),
#endif
    };
    if (engine_cuda_count() == 0) {
        printf("skipped: no CUDA device\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

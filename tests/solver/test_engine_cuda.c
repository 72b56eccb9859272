/* The CUDA engine's operations against the CPU's, and what they promise of their own: bits of a row
 * that do not depend on the rows beside it, and a sentence after any failure. On a device, or on
 * the stand-in (tests/standin) with failures made to order. */
#include "tests/solver/engine_cuda_pair.h"
#ifdef T2_STANDIN
#include "tests/standin/standin.h"
#endif

/* ---- devices --------------------------------------------------------------------------------- */

static void a_device_says_what_it_is(void **state)
{
    char text[300];
    (void)state;
    assert_int_equal(engine_cuda_describe(0, text, sizeof text), 0);
    assert_non_null(strstr(text, "compute"));
}

static void a_missing_device_is_a_sentence(void **state)
{
    struct engine e;
    char text[10];
    (void)state;
    assert_int_equal(engine_create_cuda(&e, ELEMENT_F32, ISA_PLAIN, 1, 1000), -1);
    assert_non_null(strstr(error_message(), "no CUDA device 1000"));
    assert_int_equal(engine_cuda_describe(-1, text, sizeof text), -1);
    engine_free(&e);
}

static void new_memory_is_zero(void **state)
{
    struct engine e;
    (void)state;
    start_cuda(&e, ELEMENT_F32);
    for (size_t n = 1; n < (1 << 19); n = n * 7 + 1) {
        float *t = tensor(&e, NULL, n);
        for (size_t i = 0; i < n; i++)
            assert_true(t[i] == 0);
        give(&e, t);
    }
    engine_free(&e);
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void zero_copy_and_bias(void **state)
{
    struct engine e;
    float *bias_values = random_values(37), *values = random_values(5 * 48);
    (void)state;
    start_cuda(&e, ELEMENT_F32);
    float *y = tensor(&e, values, 5 * 48), *to = tensor(&e, values, 5 * 48);
    float *bias = tensor(&e, bias_values, 37);
    e.ops->add_bias(&e, y, 48, bias, 5, 37);
    e.ops->copy(&e, to, y, 5 * 48 * sizeof *y);
    e.ops->zero(&e, y, 48 * sizeof *y);
    e.ops->wait(&e);
    for (size_t i = 0; i < 5 * 48; i++) {
        assert_true(to[i] == values[i] + (i % 48 < 37 ? bias_values[i % 48] : 0));
        assert_true(y[i] == (i < 48 ? 0 : to[i]));
    }
    give(&e, y), give(&e, to), give(&e, bias);
    free(bias_values), free(values);
    engine_free(&e);
}

static void embedding_is_the_cpus(void **state)
{
    enum { VOCAB = 70, WIDTH = 1100, N = 9 };
    float *values = random_values(VOCAB * WIDTH);
    (void)state;
    for (int el = 0; el < 2; el++) {
        struct pair p;
        start(&p, elements[el]);
        struct matrix m[2];
        int32_t ids[N];
        for (int i = 0; i < N; i++)
            ids[i] = (int32_t)random_below(VOCAB);
        pack(&m[0], &p.cpu, values, VOCAB, WIDTH);
        pack(&m[1], &p.cuda, values, VOCAB, WIDTH);
        float *x = tensor(&p.cpu, NULL, N * WIDTH), *y = tensor(&p.cuda, NULL, N * WIDTH);
        p.cpu.ops->embed(&p.cpu, x, WIDTH, &m[0], ids, N);
        p.cuda.ops->embed(&p.cuda, y, WIDTH, &m[1], ids, N);
        memset(ids, 0x7f, sizeof ids); /* read before the call returned */
        p.cuda.ops->wait(&p.cuda);
        assert_memory_equal(x, y, N * WIDTH * sizeof *x);
        give_n(&p.cpu, x, N * WIDTH, sizeof *x), give(&p.cuda, y);
        matrix_free(&m[0]), matrix_free(&m[1]);
        finish(&p);
    }
    free(values);
}

static void norm_is_close_to_the_cpus(void **state)
{
    enum { ROWS = 7, WIDTH = 300, LDH = 304, LDX = 320 };
    float *h = random_values(ROWS * LDX), *w = random_values(WIDTH);
    const int32_t rows[] = {6, 0, 0, 3};
    (void)state;
    for (int el = 0; el < 2; el++)
        for (int chosen = 0; chosen < 2; chosen++) {
            struct pair p;
            start(&p, elements[el]);
            const size_t n = chosen ? 4 : ROWS;
            void *x[2];
            for (int side = 0; side < 2; side++) {
                const struct engine *e = side ? &p.cuda : &p.cpu;
                float *in = tensor(e, h, ROWS * LDH), *weight = tensor(e, w, WIDTH);
                x[side] = element_rows(e, h, n, LDX, LDX); /* to be overwritten */
                e->ops->norm(e, x[side], LDX, in, LDH, chosen ? rows : NULL, n, weight, WIDTH,
                             1e-5f);
                e->ops->wait(e);
                give(e, in), give(e, weight);
            }
            for (size_t i = 0; i < n * LDX; i++) {
                assert_close(element_at(&p.cuda, x[1], i), element_at(&p.cpu, x[0], i),
                             rounding(&p.cpu));
                if (i % LDX >= WIDTH)
                    assert_true(element_at(&p.cuda, x[1], i) == 0);
            }
            give(&p.cpu, x[0]), give(&p.cuda, x[1]);
            finish(&p);
        }
    free(h), free(w);
}

static void swiglu_is_close_to_the_cpus(void **state)
{
    enum { ROWS = 5, WIDTH = 1030, UP = 1040, LDG = 2080, LDX = 1056 };
    float *values = random_values(ROWS * LDG);
    (void)state;
    for (size_t i = 0; i < ROWS * LDG; i += 3)
        values[i] *= 100; /* e^-gate under- and overflows */
    for (int el = 0; el < 2; el++) {
        struct pair p;
        start(&p, elements[el]);
        void *x[2];
        for (int side = 0; side < 2; side++) {
            const struct engine *e = side ? &p.cuda : &p.cpu;
            float *in = tensor(e, values, ROWS * LDG);
            x[side] = element_rows(e, values, ROWS, LDX, LDX);
            e->ops->swiglu(e, x[side], LDX, in, LDG, UP, ROWS, WIDTH);
            e->ops->wait(e);
            give(e, in);
        }
        for (size_t i = 0; i < ROWS * LDX; i++)
            assert_close(element_at(&p.cuda, x[1], i), element_at(&p.cpu, x[0], i),
                         rounding(&p.cpu));
        give(&p.cpu, x[0]), give(&p.cuda, x[1]);
        finish(&p);
    }
    free(values);
}

/* ---- products -------------------------------------------------------------------------------- */

static void compare_product(enum element element, size_t n, size_t k, size_t n_rows, size_t ldy,
                            bool accumulate, bool with_bias)
{
    struct pair p;
    start(&p, element);
    float *w = random_values(n * k), *values = random_values(n_rows * k);
    float *before = random_values(n_rows * ldy), *b = random_values(round_up(n, 16));
    float *y[2];
    for (int side = 0; side < 2; side++) {
        const struct engine *e = side ? &p.cuda : &p.cpu;
        struct matrix m;
        pack(&m, e, w, n, k);
        void *x = element_rows(e, values, n_rows, k, m.k_padded);
        float *bias = tensor(e, b, round_up(n, 16));
        y[side] = tensor(e, before, n_rows * ldy);
        e->ops->product(e, y[side], ldy, x, m.k_padded, n_rows, &m, with_bias ? bias : NULL,
                        accumulate);
        e->ops->wait(e);
        matrix_free(&m);
        give_n(e, x, n_rows * m.k_padded, element_size(element)), give(e, bias);
    }
    for (size_t i = 0; i < n_rows * ldy; i++)
        if (i % ldy < n)
            assert_close(y[1][i], y[0][i], 2e-5 * sqrt((double)k));
    give_n(&p.cpu, y[0], n_rows * ldy, sizeof **y), give(&p.cuda, y[1]);
    free(w), free(values), free(before), free(b);
    finish(&p);
}

static void products_are_close_to_the_cpus(void **state)
{
    (void)state;
    for (int el = 0; el < 2; el++) {
        compare_product(elements[el], 37, 50, 1, 48, false, false);
        compare_product(elements[el], 37, 50, 3, 48, true, true);
        compare_product(elements[el], 16, 32, 70, 16, false, true);
        compare_product(elements[el], 300, 129, 5, 304, true, false);
        compare_product(elements[el], 1, 1, 2, 16, false, false);
        compare_product(elements[el], 48, 64, 530, 64, false, false);
        compare_product(elements[el], 300, 70, 5, 307, true, true); /* not aligned */
    }
}

/* Rows in one call, alone, and in calls of some. */
static void check_product_rows(enum element element, size_t n, size_t k, size_t ldy)
{
    enum { ROWS = 600 };
    const size_t sizes[] = {1, 3, 64, 65, 250};
    struct engine e;
    struct matrix m;
    float *w = random_values(n * k), *values = random_values(ROWS * k);
    start_cuda(&e, element);
    pack(&m, &e, w, n, k);
    const size_t row_bytes = m.k_padded * element_size(element);
    char *x = element_rows(&e, values, ROWS, k, m.k_padded);
    float *all = tensor(&e, NULL, ROWS * ldy), *some = tensor(&e, NULL, ROWS * ldy);
    e.ops->product(&e, all, ldy, x, m.k_padded, ROWS, &m, NULL, false);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        e.ops->zero(&e, some, ROWS * ldy * sizeof *some);
        for (size_t r = 0; r < ROWS; r += sizes[i])
            e.ops->product(&e, some + r * ldy, ldy, x + r * row_bytes, m.k_padded,
                           sizes[i] < ROWS - r ? sizes[i] : ROWS - r, &m, NULL, false);
        e.ops->wait(&e);
        for (size_t r = 0; r < ROWS; r++)
            assert_memory_equal(all + r * ldy, some + r * ldy, n * sizeof *all);
    }
    matrix_free(&m);
    give(&e, x), give(&e, all), give(&e, some);
    free(w), free(values);
    engine_free(&e);
}

static void a_products_row_has_its_bits_alone_and_in_a_batch(void **state)
{
    (void)state;
    for (int el = 0; el < 2; el++) {
        check_product_rows(elements[el], 40, 100, 48);
        check_product_rows(elements[el], 40, 100, 49);
        check_product_rows(elements[el], 144, 576, 144);
    }
}

#ifdef T2_STANDIN
static void algorithms_with_other_bits_are_not_taken(void **state)
{
    standin_vary_algorithms(1);
    a_products_row_has_its_bits_alone_and_in_a_batch(state);
    standin_vary_algorithms(0);
}

static void nothing_is_there_before_wait(void **state)
{
    const float one = 1;
    struct engine e;
    (void)state;
    start_cuda(&e, ELEMENT_F32);
    float *x = tensor(&e, &one, 1), *y = tensor(&e, NULL, 1);
    e.ops->copy(&e, y, x, sizeof *y);
    assert_true(y[0] == 0);
    e.ops->wait(&e);
    assert_true(y[0] == 1);
    give(&e, x), give(&e, y);
    engine_free(&e);
}
#endif

/* ---- what is sent ---------------------------------------------------------------------------- */

static void sends_go_round_the_ring(void **state)
{
    enum { VOCAB = 50, WIDTH = 16, CALLS = 10000 };
    float *values = random_values(VOCAB * WIDTH);
    struct engine e;
    struct matrix m;
    (void)state;
    start_cuda(&e, ELEMENT_F32);
    pack(&m, &e, values, VOCAB, WIDTH);
    float *y = tensor(&e, NULL, CALLS * WIDTH);
    for (int32_t i = 0; i < CALLS; i++) {
        int32_t id = i % VOCAB;
        e.ops->embed(&e, y + i * WIDTH, WIDTH, &m, &id, 1);
    }
    e.ops->wait(&e);
    for (size_t i = 0; i < CALLS; i++)
        assert_memory_equal(y + i * WIDTH, values + i % VOCAB * WIDTH, WIDTH * sizeof *y);
    give(&e, y);

    const size_t n = 270000; /* more than the ring */
    int32_t *ids = malloc(n * sizeof *ids);
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)(i % VOCAB);
    y = tensor(&e, NULL, n * WIDTH);
    e.ops->embed(&e, y, WIDTH, &m, ids, n);
    e.ops->wait(&e);
    for (size_t i = 0; i < n; i++)
        assert_memory_equal(y + i * WIDTH, values + i % VOCAB * WIDTH, WIDTH * sizeof *y);
    give(&e, y);
    free(ids), free(values);
    matrix_free(&m);
    engine_free(&e);
}

/* ---- the head -------------------------------------------------------------------------------- */

static void assert_close_result(const struct head_result *x, const struct head_result *y,
                                double tolerance)
{
    assert_int_equal(x->argmax, y->argmax);
    assert_close(x->max, y->max, tolerance);
    assert_close(x->log_sum, y->log_sum, tolerance);
    assert_close(x->target, y->target, tolerance);
}

static void the_head_is_close_to_the_cpus(void **state)
{
    enum { VOCAB = 2500, WIDTH = 48, ROWS = 70, LDL = 2512 };
    float *w = random_values(VOCAB * WIDTH), *values = random_values(ROWS * WIDTH);
    int32_t targets[ROWS];
    (void)state;
    for (size_t i = 0; i < WIDTH; i++) /* equal logits: the lowest id counts */
        w[2400 * WIDTH + i] = w[1100 * WIDTH + i] = w[300 * WIDTH + i] = values[i];
    for (int i = 0; i < ROWS; i++)
        targets[i] = (int32_t)random_below(VOCAB + 1) - 1;
    for (int el = 0; el < 2; el++) {
        struct pair p;
        struct head_result results[3][ROWS], one;
        struct matrix m;
        start(&p, elements[el]);
        pack(&m, &p.cpu, w, VOCAB, WIDTH);
        void *x = element_rows(&p.cpu, values, ROWS, WIDTH, m.k_padded);
        assert_int_equal(
            p.cpu.ops->head(&p.cpu, results[0], NULL, 0, x, m.k_padded, ROWS, &m, targets), 0);
        matrix_free(&m);
        give(&p.cpu, x);
        const struct engine *e = &p.cuda;
        pack(&m, e, w, VOCAB, WIDTH);
        x = element_rows(e, values, ROWS, WIDTH, m.k_padded);
        float *logits = tensor(e, NULL, ROWS * LDL);
        assert_int_equal(e->ops->head(e, results[1], NULL, 0, x, m.k_padded, ROWS, &m, targets), 0);
        assert_int_equal(e->ops->head(e, results[2], logits, LDL, x, m.k_padded, ROWS, &m, NULL),
                         0);
        e->ops->wait(e);
        assert_int_equal(results[1][0].argmax, 300);
        for (size_t r = 0; r < ROWS; r++) {
            const int32_t t = targets[r];
            assert_close_result(&results[1][r], &results[0][r], 1e-4);
            assert_true(results[1][r].target == (t < 0 ? 0 : logits[r * LDL + (size_t)t]));
            assert_true(results[2][r].target == 0);
            results[2][r].target = results[1][r].target;
            assert_memory_equal(&results[1][r], &results[2][r], sizeof one);
            assert_int_equal(e->ops->head(e, &one, NULL, 0,
                                          (char *)x + r * m.k_padded * element_size(e->element),
                                          m.k_padded, 1, &m, &t),
                             0);
            assert_memory_equal(&one, &results[1][r], sizeof one);
        }
        matrix_free(&m);
        give(e, x), give(e, logits);
        finish(&p);
    }
    free(w), free(values);
}

/* ---- failures -------------------------------------------------------------------------------- */

#ifdef T2_STANDIN
/* Everything once, on one small problem; -1 as soon as something says so. */
static int run_all(void)
{
    enum { WIDTH = 32, ROWS = 70, VOCAB = 48 };
    struct engine e = {0};
    struct matrix m = {0};
    struct kv_cache cache = {0};
    int32_t pages[2] = {-1, -1}, ids[ROWS] = {0};
    struct head_result results[ROWS];
    float *values = random_values(VOCAB * WIDTH), *h = NULL, *y = NULL, *rope = NULL;
    void *x = NULL;
    int status = -1;

    if (engine_create_cuda(&e, ELEMENT_BF16, ISA_PLAIN, 1, 0) != 0 ||
        engine_matrix_create(&e, &m, VOCAB, WIDTH) != 0 ||
        kv_cache_create(&cache, e.memory, e.kv_form, 1, 1, 16) != 0)
        goto done;
    matrix_pack_rows(&m, 0, VOCAB, values);
    error_set("no memory for a tensor");
    if (!(h = memory_take(e.memory, ROWS * WIDTH, sizeof *h)) ||
        !(y = memory_take(e.memory, ROWS * VOCAB, sizeof *y)) ||
        !(x = memory_take(e.memory, ROWS * WIDTH, 2)) ||
        !(rope = memory_take(e.memory, ROWS * 8, sizeof *rope)))
        goto done;
    error_clear();
    for (int i = 0; i < 2; i++)
        if ((pages[i] = kv_page_take(&cache)) < 0)
            goto done;
    const struct batch_run run = {0, ROWS, 0, pages};
    const struct batch batch = {ROWS, ids, &run, 1, NULL, 0};
    const struct attention_layer layer = {.n_heads = 1,
                                          .n_kv_heads = 1,
                                          .head_dim = 16,
                                          .k_offset = 16,
                                          .v_offset = 32,
                                          .scale = 0.25f,
                                          .rope_cos = rope,
                                          .rope_sin = rope};
    e.ops->zero(&e, x, ROWS * WIDTH * 2);
    e.ops->embed(&e, h, WIDTH, &m, ids, ROWS);
    e.ops->norm(&e, x, WIDTH, h, WIDTH, ids, ROWS, h, WIDTH, 1e-5f);
    e.ops->product(&e, y, VOCAB, x, WIDTH, ROWS, &m, h, false);
    if (e.ops->attention(&e, &layer, &cache, &batch, y, VOCAB, x, WIDTH) != 0)
        goto done;
    e.ops->swiglu(&e, x, WIDTH, y, VOCAB, 24, ROWS, 24);
    e.ops->copy(&e, h, x, ROWS * WIDTH * 2);
    status = e.ops->head(&e, results, y, VOCAB, x, WIDTH, ROWS, &m, ids);
done:
    free(values);
    matrix_free(&m);
    kv_cache_free(&cache);
    if (e.memory)
        give(&e, h), give(&e, y), give(&e, x), give(&e, rope);
    engine_free(&e);
    return status;
}

static void any_failure_is_a_sentence_and_leaves_nothing(void **state)
{
    const size_t before = standin_allocated();
    long n = 1;
    (void)state;
    for (int status = -1; status != 0; n++) {
        error_clear();
        standin_fail_after(n);
        status = run_all();
        standin_fail_after(0);
        assert_true((status == 0) == (error_message()[0] == '\0'));
        assert_true(standin_allocated() == before);
        assert_true(n < 1000);
    }
    assert_true(n > 30);
    assert_int_equal(run_all(), 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_says_what_it_is),
        cmocka_unit_test(a_missing_device_is_a_sentence),
        cmocka_unit_test(new_memory_is_zero),
        cmocka_unit_test(zero_copy_and_bias),
        cmocka_unit_test(embedding_is_the_cpus),
        cmocka_unit_test(norm_is_close_to_the_cpus),
        cmocka_unit_test(swiglu_is_close_to_the_cpus),
        cmocka_unit_test(products_are_close_to_the_cpus),
        cmocka_unit_test(a_products_row_has_its_bits_alone_and_in_a_batch),
        cmocka_unit_test(sends_go_round_the_ring),
        cmocka_unit_test(the_head_is_close_to_the_cpus),
#ifdef T2_STANDIN
        cmocka_unit_test(algorithms_with_other_bits_are_not_taken),
        cmocka_unit_test(nothing_is_there_before_wait),
        cmocka_unit_test(any_failure_is_a_sentence_and_leaves_nothing),
#endif
    };
    if (engine_cuda_count() == 0) {
        printf("skipped: no CUDA device\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

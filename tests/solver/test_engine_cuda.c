/* The CUDA engine's operations against the CPU's, and what they promise of their own: bits of a row
 * that do not depend on the rows beside it, and a sentence after any failure. On a device, or on
 * the stand-in (tests/standin) with failures made to order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/engine_cuda.h"
#ifdef T2_STANDIN
#include "tests/standin/standin.h"
#endif

enum { SKIPPED = 77 };

static const enum element elements[] = {ELEMENT_F32, ELEMENT_BF16};
static uint32_t random_state = 11;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static float *random_values(size_t n)
{
    float *x = malloc((n + 1) * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = (float)random_below(1 << 20) / (1 << 19) - 1;
    return x;
}

static void start_cuda(struct engine *e, enum element element)
{
    assert_int_equal(engine_create_cuda(e, element, cpu_best_isa(), 1, 0), 0);
}

/* The two engines of one element type. */
struct pair {
    struct engine cpu, cuda;
};

static void start(struct pair *p, enum element element)
{
    assert_int_equal(engine_create_cpu(&p->cpu, element, cpu_best_isa(), 1), 0);
    engine_set_kv_form(&p->cpu, element == ELEMENT_F32 ? KV_F32 : KV_BF16);
    start_cuda(&p->cuda, element);
}

static void finish(struct pair *p)
{
    engine_free(&p->cpu);
    engine_free(&p->cuda);
}

static float *tensor(const struct engine *e, const float *values, size_t n)
{
    float *t = memory_take(e->memory, n, sizeof *t);
    assert_non_null(t);
    if (values)
        memcpy(t, values, n * sizeof *t);
    return t;
}

/* values as elements [n_rows, ld], zeros from width on */
static void *element_rows(const struct engine *e, const float *values, size_t n_rows, size_t width,
                          size_t ld)
{
    void *t = memory_take(e->memory, n_rows * ld, element_size(e->element));
    assert_non_null(t);
    for (size_t r = 0; r < n_rows; r++)
        for (size_t i = 0; i < width; i++)
            if (e->element == ELEMENT_F32)
                ((float *)t)[r * ld + i] = values[r * width + i];
            else
                ((uint16_t *)t)[r * ld + i] = bf16_from_f32(values[r * width + i]);
    return t;
}

static float element_at(const struct engine *e, const void *x, size_t i)
{
    return e->element == ELEMENT_F32 ? ((const float *)x)[i]
                                     : f32_from_bf16(((const uint16_t *)x)[i]);
}

static void give(const struct engine *e, void *t)
{
    e->memory->give(t, 1);
}

/* The CPU's give() wants the size, for what is mapped. */
static void give_n(const struct engine *e, void *t, size_t n, size_t size)
{
    memory_give(e->memory, t, n, size);
}

static void assert_close(float x, float y, double tolerance)
{
    if (!(fabs((double)x - y) <= tolerance * (1 + fabs((double)y))))
        fail_msg("%.9g is not %.9g within %g", (double)x, (double)y, tolerance);
}

static double rounding(const struct engine *e)
{
    return e->element == ELEMENT_F32 ? 2e-5 : 1.0 / 100;
}

static void pack(struct matrix *m, const struct engine *e, const float *values, size_t n, size_t k)
{
    assert_int_equal(engine_matrix_create(e, m, n, k), 0);
    matrix_pack_rows(m, 0, n, values);
}

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

/* ---- attention ------------------------------------------------------------------------------- */

enum { SEQUENCES = 4, POSITIONS = 700, PAGES = POSITIONS / KV_PAGE + 1 };

struct attention_case {
    struct attention_layer layer; /* vectors on the host */
    size_t ldqkv, ldo, width;
    size_t lengths[SEQUENCES];
    float *qkv[SEQUENCES]; /* [length, ldqkv] */
};

/* An engine's side of a case: the layer with its vectors as tensors, pages and results so far. */
struct attention_side {
    const struct engine *e;
    const struct attention_case *c;
    struct attention_layer layer;
    struct kv_cache cache;
    int32_t pages[SEQUENCES][PAGES];
    float *out[SEQUENCES]; /* host [length, width] */
};

static void case_make(struct attention_case *c, size_t n_heads, size_t n_kv_heads, size_t dim,
                      size_t window, bool norms)
{
    const size_t lengths[SEQUENCES] = {300, 77, 1, 530};
    float *cosines = malloc(POSITIONS * dim / 2 * sizeof *cosines);
    float *sines = malloc(POSITIONS * dim / 2 * sizeof *sines);
    assert_non_null(cosines);
    assert_non_null(sines);
    for (size_t p = 0; p < POSITIONS; p++)
        for (size_t i = 0; i < dim / 2; i++) {
            cosines[p * dim / 2 + i] = cosf((float)p / (float)(i + 1));
            sines[p * dim / 2 + i] = sinf((float)p / (float)(i + 1));
        }
    memset(c, 0, sizeof *c);
    c->layer = (struct attention_layer){.layer = 1,
                                        .n_heads = n_heads,
                                        .n_kv_heads = n_kv_heads,
                                        .head_dim = dim,
                                        .q_offset = 0,
                                        .k_offset = n_heads * dim,
                                        .v_offset = (n_heads + n_kv_heads) * dim,
                                        .window = window,
                                        .scale = 3.0f / sqrtf((float)dim),
                                        .norm_eps = 1e-6f,
                                        .q_norm = norms ? random_values(dim) : NULL,
                                        .k_norm = norms ? random_values(dim) : NULL,
                                        .rope_cos = cosines,
                                        .rope_sin = sines};
    c->width = n_heads * dim;
    c->ldqkv = round_up((n_heads + 2 * n_kv_heads) * dim, 16) + 16;
    c->ldo = round_up(c->width, 32) + 32;
    for (size_t s = 0; s < SEQUENCES; s++) {
        c->lengths[s] = lengths[s];
        c->qkv[s] = random_values(lengths[s] * c->ldqkv);
    }
}

static void case_free(struct attention_case *c)
{
    free((float *)c->layer.q_norm), free((float *)c->layer.k_norm);
    free((float *)c->layer.rope_cos), free((float *)c->layer.rope_sin);
    for (size_t s = 0; s < SEQUENCES; s++)
        free(c->qkv[s]);
}

static void side_make(struct attention_side *side, const struct engine *e,
                      const struct attention_case *c)
{
    const size_t dim = c->layer.head_dim;
    memset(side, 0, sizeof *side);
    side->e = e;
    side->c = c;
    side->layer = c->layer;
    if (c->layer.q_norm) {
        side->layer.q_norm = tensor(e, c->layer.q_norm, dim);
        side->layer.k_norm = tensor(e, c->layer.k_norm, dim);
    }
    side->layer.rope_cos = tensor(e, c->layer.rope_cos, POSITIONS * dim / 2);
    side->layer.rope_sin = tensor(e, c->layer.rope_sin, POSITIONS * dim / 2);
    assert_int_equal(
        kv_cache_create(&side->cache, e->memory, e->kv_form, 2, c->layer.n_kv_heads, dim), 0);
    for (size_t s = 0; s < SEQUENCES; s++) {
        side->out[s] = calloc(c->lengths[s] * c->width, sizeof **side->out);
        assert_non_null(side->out[s]);
        for (size_t b = 0; b < PAGES; b++)
            side->pages[s][b] = kv_page_take(&side->cache);
    }
}

static void side_free(struct attention_side *side)
{
    give(side->e, (float *)side->layer.q_norm), give(side->e, (float *)side->layer.k_norm);
    give(side->e, (float *)side->layer.rope_cos), give(side->e, (float *)side->layer.rope_sin);
    kv_cache_free(&side->cache);
    for (size_t s = 0; s < SEQUENCES; s++)
        free(side->out[s]);
}

/* One batch: of sequence s the tokens first[s] .. end[s]. */
static void side_run(struct attention_side *side, const size_t *first, const size_t *end,
                     const struct batch_copy *copies, size_t n_copies)
{
    const struct attention_case *c = side->c;
    const struct engine *e = side->e;
    struct batch_run runs[SEQUENCES];
    struct batch batch = {.runs = runs, .copies = copies, .n_copies = n_copies};
    for (size_t s = 0; s < SEQUENCES; s++)
        if (end[s] > first[s]) {
            runs[batch.n_runs++] =
                (struct batch_run){batch.n_rows, end[s] - first[s], first[s], side->pages[s]};
            batch.n_rows += end[s] - first[s];
        }
    float *qkv = tensor(e, NULL, batch.n_rows * c->ldqkv);
    const size_t size = element_size(e->element);
    char *out = memory_take(e->memory, batch.n_rows * c->ldo, size);
    assert_non_null(out);
    memset(out, 0x7b, batch.n_rows * c->ldo * size);
    for (size_t s = 0, row = 0; s < SEQUENCES; s++)
        if (end[s] > first[s]) {
            memcpy(qkv + row * c->ldqkv, c->qkv[s] + first[s] * c->ldqkv,
                   (end[s] - first[s]) * c->ldqkv * sizeof *qkv);
            row += end[s] - first[s];
        }
    assert_int_equal(
        e->ops->attention(e, &side->layer, &side->cache, &batch, qkv, c->ldqkv, out, c->ldo), 0);
    e->ops->wait(e);
    for (size_t s = 0, row = 0; s < SEQUENCES; s++)
        for (size_t t = first[s]; t < end[s]; t++, row++)
            for (size_t i = 0; i < c->ldo; i++) {
                const float value = element_at(e, out, row * c->ldo + i);
                if (i < c->width)
                    side->out[s][t * c->width + i] = value;
                else
                    assert_true(value == 0);
            }
    give_n(e, qkv, batch.n_rows * c->ldqkv, sizeof *qkv);
    give_n(e, out, batch.n_rows * c->ldo, size);
}

static const size_t none[SEQUENCES];

static void assert_same_outputs(const struct attention_side *a, const struct attention_side *b)
{
    for (size_t s = 0; s < SEQUENCES; s++)
        assert_memory_equal(a->out[s], b->out[s], a->c->lengths[s] * a->c->width * sizeof(float));
}

/* In random chunks. */
static void side_run_chunks(struct attention_side *side, size_t most)
{
    size_t first[SEQUENCES] = {0}, end[SEQUENCES];
    for (bool more = true; more;) {
        more = false;
        for (size_t s = 0; s < SEQUENCES; s++) {
            const size_t left = side->c->lengths[s] - first[s];
            const size_t n = random_below((uint32_t)most + 1);
            end[s] = first[s] + (n < left ? n : left);
        }
        if (memcmp(first, end, sizeof end) == 0)
            for (size_t s = 0; s < SEQUENCES; s++)
                end[s] += first[s] < side->c->lengths[s];
        if (memcmp(first, end, sizeof end) != 0)
            side_run(side, first, end, NULL, 0);
        memcpy(first, end, sizeof end);
        for (size_t s = 0; s < SEQUENCES; s++)
            more |= first[s] < side->c->lengths[s];
    }
}

static void check_attention(enum element element, size_t n_heads, size_t n_kv_heads, size_t dim,
                            size_t window, bool norms)
{
    struct pair p;
    struct attention_case c;
    struct attention_side cpu, all, chunks, alone;
    start(&p, element);
    case_make(&c, n_heads, n_kv_heads, dim, window, norms);
    side_make(&cpu, &p.cpu, &c);
    side_make(&all, &p.cuda, &c);
    side_make(&chunks, &p.cuda, &c);
    side_make(&alone, &p.cuda, &c);
    side_run(&cpu, none, c.lengths, NULL, 0);
    side_run(&all, none, c.lengths, NULL, 0);
    side_run_chunks(&chunks, 130);
    for (size_t s = 0; s < SEQUENCES; s++) { /* a prompt, then tokens of their own */
        size_t first[SEQUENCES] = {0}, end[SEQUENCES] = {0};
        end[s] = c.lengths[s] - c.lengths[s] / 100;
        side_run(&alone, first, end, NULL, 0);
        for (first[s] = end[s]; first[s] < c.lengths[s]; first[s]++) {
            end[s] = first[s] + 1;
            side_run(&alone, first, end, NULL, 0);
        }
    }
    for (size_t s = 0; s < SEQUENCES; s++)
        for (size_t i = 0; i < c.lengths[s] * c.width; i++)
            assert_close(all.out[s][i], cpu.out[s][i], rounding(&p.cpu));
    assert_same_outputs(&all, &chunks);
    assert_same_outputs(&all, &alone);
    side_free(&cpu), side_free(&all), side_free(&chunks), side_free(&alone);
    case_free(&c);
    finish(&p);
}

static void attention_is_close_to_the_cpus_and_knows_no_chunks(void **state)
{
    (void)state;
    for (int el = 0; el < 2; el++) {
        check_attention(elements[el], 6, 2, 16, 0, true);
        check_attention(elements[el], 3, 3, 80, 0, false);
        check_attention(elements[el], 9, 1, 6, 100, false);
        check_attention(elements[el], 4, 2, 128, 1, true);
    }
    check_attention(ELEMENT_BF16, 2, 1, 256, 0, false);
}

/* Sequence 1 shares the first 70 tokens of sequence 0, which are in the same batch: a whole page
 * and six positions of the next; sequence 3 shares as many of 1's. */
static void copies_follow_the_batchs_stores_in_order(void **state)
{
    enum { SHARED = 70, LEFT = SHARED % KV_PAGE };
    (void)state;
    for (int el = 0; el < 2; el++)
        for (int odd = 0; odd < 2; odd++) {
            const size_t shared = SHARED + (size_t)odd;
            struct pair p;
            struct attention_case c;
            struct attention_side plain, copied;
            start(&p, elements[el]);
            case_make(&c, 4, 2, 32, 0, false);
            memcpy(c.qkv[1], c.qkv[0], shared * c.ldqkv * sizeof(float));
            memcpy(c.qkv[3], c.qkv[0], shared * c.ldqkv * sizeof(float));
            side_make(&plain, &p.cuda, &c);
            side_make(&copied, &p.cuda, &c);
            side_run(&plain, none, c.lengths, NULL, 0);

            const struct batch_copy copies[] = {
                {copied.pages[0][1], copied.pages[1][1], shared % KV_PAGE},
                {copied.pages[1][1], copied.pages[3][1], shared % KV_PAGE}};
            const size_t first[SEQUENCES] = {0, shared, 0, shared};
            copied.pages[1][0] = copied.pages[3][0] = copied.pages[0][0];
            side_run(&copied, first, c.lengths, copies, 2);
            for (size_t s = 0; s < SEQUENCES; s++)
                assert_memory_equal(plain.out[s] + first[s] * c.width,
                                    copied.out[s] + first[s] * c.width,
                                    (c.lengths[s] - first[s]) * c.width * sizeof(float));
            side_free(&plain), side_free(&copied);
            case_free(&c);
            finish(&p);
        }
}

/* Tests choose how keys and values are held: all pairs of element types meet. */
static void keys_and_values_in_the_other_element_type(void **state)
{
    (void)state;
    for (int el = 0; el < 2; el++) {
        struct pair p;
        struct attention_case c;
        struct attention_side cpu, cuda;
        const enum kv_form form = elements[el] == ELEMENT_F32 ? KV_BF16 : KV_F32;
        start(&p, elements[el]);
        engine_set_kv_form(&p.cpu, form);
        engine_set_kv_form(&p.cuda, form);
        case_make(&c, 4, 2, 32, 0, false);
        side_make(&cpu, &p.cpu, &c);
        side_make(&cuda, &p.cuda, &c);
        side_run(&cpu, none, c.lengths, NULL, 0);
        side_run(&cuda, none, c.lengths, NULL, 0);
        for (size_t s = 0; s < SEQUENCES; s++)
            for (size_t i = 0; i < c.lengths[s] * c.width; i++)
                assert_close(cuda.out[s][i], cpu.out[s][i], rounding(&p.cpu));
        size_t first[SEQUENCES], end[SEQUENCES]; /* one more token: splits of their own */
        for (size_t s = 0; s < SEQUENCES; s++) {
            first[s] = c.lengths[s] - (s == 3);
            end[s] = c.lengths[s];
        }
        float *before = malloc(c.width * sizeof *before);
        assert_non_null(before);
        memcpy(before, cuda.out[3] + first[3] * c.width, c.width * sizeof *before);
        side_run(&cuda, first, end, NULL, 0);
        assert_memory_equal(before, cuda.out[3] + first[3] * c.width, c.width * sizeof *before);
        free(before);
        side_free(&cpu), side_free(&cuda);
        case_free(&c);
        finish(&p);
    }
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
        cmocka_unit_test(attention_is_close_to_the_cpus_and_knows_no_chunks),
        cmocka_unit_test(copies_follow_the_batchs_stores_in_order),
        cmocka_unit_test(keys_and_values_in_the_other_element_type),
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

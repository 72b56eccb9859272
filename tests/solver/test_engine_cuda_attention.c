/* The CUDA engine's attention against the CPU's, and the bits of a row whatever chunks, neighbours
 * and shared pages it is computed with. */
#include "tests/solver/engine_cuda_pair.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_close_to_the_cpus_and_knows_no_chunks),
        cmocka_unit_test(copies_follow_the_batchs_stores_in_order),
        cmocka_unit_test(keys_and_values_in_the_other_element_type),
    };
    if (engine_cuda_count() == 0) {
        printf("skipped: no CUDA device\n");
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Keys and values into pages, page copies and attention, against sums in double precision that know
 * no pages, for random shapes, chunks and shared prefixes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mpi/error.h"
#include "solver/engine.h"

enum { SEQUENCES = 4, MOST_TOKENS = 210, MOST_PAGES = 4 };

struct sequence {
    size_t n, n_planned, n_pages;
    size_t n_shared; /* tokens that are the sequence's before */
    int32_t pages[MOST_PAGES];
    float *qkv; /* [n, ld] */
};

struct shape {
    struct attention_layer layer;
    enum element element;
    enum kv_form form;
    enum isa isa;
    int n_threads;
    size_t ld; /* of qkv */
};

static const char *const form_names[] = {"f32", "bf16", "tiles"};
static uint32_t random_state = 5;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % n;
}

static float random_value(void)
{
    return (float)random_below(1 << 20) / (1 << 19) - 1;
}

static float *random_values(size_t n, float offset)
{
    float *x = malloc(n * sizeof *x);
    assert_non_null(x);
    for (size_t i = 0; i < n; i++)
        x[i] = random_value() + offset;
    return x;
}

static double rounded(const struct shape *s, double x)
{
    return s->form == KV_F32 ? x : (double)f32_from_bf16(bf16_from_f32((float)x));
}

/* x [head_dim] = a query or key, normalised and rotated */
static void naive_rotate(const struct attention_layer *a, double *x, const float *in,
                         const float *norm, size_t position)
{
    const size_t d = a->head_dim, half = d / 2;
    double v[ENGINE_MAX_HEAD_DIM], squares = 0;
    for (size_t i = 0; i < d; i++)
        squares += (double)in[i] * in[i];
    for (size_t i = 0; i < d; i++)
        v[i] = norm ? in[i] / sqrt(squares / (double)d + a->norm_eps) * norm[i] : in[i];
    for (size_t i = 0; i < half; i++) {
        const double c = a->rope_cos[position * half + i], s = a->rope_sin[position * half + i];
        x[i] = v[i] * c - v[i + half] * s;
        x[i + half] = v[i + half] * c + v[i] * s;
    }
}

/* keys [n_kv_heads, n, head_dim] of a sequence */
static double *naive_keys(const struct shape *s, const struct sequence *q)
{
    const struct attention_layer *a = &s->layer;
    const size_t d = a->head_dim;
    double *keys = malloc(a->n_kv_heads * q->n * d * sizeof *keys);
    assert_non_null(keys);
    for (size_t h = 0; h < a->n_kv_heads; h++)
        for (size_t p = 0; p < q->n; p++) {
            double *key = keys + (h * q->n + p) * d;
            naive_rotate(a, key, q->qkv + p * s->ld + a->k_offset + h * d, a->k_norm, p);
            for (size_t i = 0; i < d; i++)
                key[i] = rounded(s, key[i]);
        }
    return keys;
}

/* out [head_dim] of one head of one token */
static void naive_attention(const struct shape *s, const struct sequence *q, const double *keys,
                            size_t position, size_t head, double *out)
{
    const struct attention_layer *a = &s->layer;
    const size_t d = a->head_dim, kv = head / (a->n_heads / a->n_kv_heads);
    const size_t first = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
    double query[ENGINE_MAX_HEAD_DIM], score[MOST_TOKENS], max = -INFINITY, sum = 0;
    naive_rotate(a, query, q->qkv + position * s->ld + a->q_offset + head * d, a->q_norm, position);
    for (size_t p = first; p <= position; p++) {
        score[p] = 0;
        for (size_t i = 0; i < d; i++)
            score[p] += query[i] * keys[(kv * q->n + p) * d + i];
        score[p] *= (double)a->scale;
        max = score[p] > max ? score[p] : max;
    }
    memset(out, 0, d * sizeof *out);
    for (size_t p = first; p <= position; p++) {
        const double weight = exp(score[p] - max);
        sum += weight;
        for (size_t i = 0; i < d; i++)
            out[i] += weight * rounded(s, (double)q->qkv[p * s->ld + a->v_offset + kv * d + i]);
    }
    for (size_t i = 0; i < d; i++)
        out[i] /= sum;
}

static void check_run(const struct shape *s, const struct sequence *q, const struct batch_run *run,
                      const void *out, size_t ldo)
{
    const struct attention_layer *a = &s->layer;
    const size_t d = a->head_dim;
    /* A product in bf16 of high and low parts has 16 bits of q and p; a bf16 output has 8. */
    const double tolerance = s->element == ELEMENT_BF16 ? 1.0 / 256
                             : s->form != KV_F32        ? 1e-3
                                                        : 2e-5;
    double *keys = naive_keys(s, q);
    for (size_t r = 0; r < run->n_rows; r++) {
        const size_t at = (run->first_row + r) * ldo;
        for (size_t h = 0; h < a->n_heads; h++) {
            double expected[ENGINE_MAX_HEAD_DIM];
            naive_attention(s, q, keys, run->first_position + r, h, expected);
            for (size_t i = 0; i < d; i++) {
                const size_t k = at + h * d + i;
                const double got = s->element == ELEMENT_F32
                                       ? (double)((const float *)out)[k]
                                       : (double)f32_from_bf16(((const uint16_t *)out)[k]);
                if (!(fabs(got - expected[i]) <= tolerance * (1 + fabs(expected[i]))))
                    fail_msg("heads %zu/%zu of %zu, window %zu, %s, isa %s: position %zu, head "
                             "%zu, element %zu is %g, not %g",
                             a->n_heads, a->n_kv_heads, d, a->window, form_names[s->form],
                             isa_name(s->isa), run->first_position + r, h, i, got, expected[i]);
            }
        }
        for (size_t i = a->n_heads * d; i < ldo; i++)
            assert_true(s->element == ELEMENT_F32 ? ((const float *)out)[at + i] == 0
                                                  : ((const uint16_t *)out)[at + i] == 0);
    }
    free(keys);
}

/* Takes over what the sequence before has by now, as the scheduler does. */
static void share(struct kv_cache *cache, struct sequence *q, const struct sequence *other,
                  struct batch_copy *copies, size_t *n_copies)
{
    size_t n = q->n_shared < other->n_planned ? q->n_shared : other->n_planned;
    n = n < q->n ? n : q->n - 1;
    for (; (q->n_pages + 1) * KV_PAGE <= n; q->n_pages++) {
        q->pages[q->n_pages] = other->pages[q->n_pages];
        kv_page_hold(cache, q->pages[q->n_pages]);
    }
    if (n % KV_PAGE > 0) {
        const int32_t page = kv_page_take(cache);
        assert_true(page >= 0);
        copies[(*n_copies)++] = (struct batch_copy){other->pages[q->n_pages], page, n % KV_PAGE};
        q->pages[q->n_pages++] = page;
    }
    q->n_planned = n;
}

/* One batch of random runs; 0 when all sequences are through. */
static size_t run_batch(const struct shape *s, const struct engine *e, struct kv_cache *cache,
                        struct sequence *sequences, bool tokens_one_by_one)
{
    const size_t width = s->layer.n_heads * s->layer.head_dim;
    const size_t ldo = (width + KERNEL_K_STEP - 1) / KERNEL_K_STEP * KERNEL_K_STEP;
    struct batch_run runs[SEQUENCES];
    struct batch_copy copies[SEQUENCES];
    const struct sequence *owners[SEQUENCES];
    size_t n_rows = 0, n_runs = 0, n_copies = 0;

    for (size_t i = 0; i < SEQUENCES; i++) {
        struct sequence *q = &sequences[i];
        if (q->n_planned == q->n)
            continue;
        if (q->n_planned == 0 && i > 0)
            share(cache, q, &sequences[i - 1], copies, &n_copies);
        const size_t left = q->n - q->n_planned;
        const size_t n = tokens_one_by_one ? 1 : 1 + random_below((uint32_t)left);
        while (q->n_pages * KV_PAGE < q->n_planned + n)
            q->pages[q->n_pages++] = kv_page_take(cache);
        owners[n_runs] = q;
        runs[n_runs++] = (struct batch_run){n_rows, n, q->n_planned, q->pages};
        n_rows += n;
        q->n_planned += n;
    }
    if (n_rows == 0)
        return 0;
    float *qkv = malloc(n_rows * s->ld * sizeof *qkv);
    void *out = malloc(n_rows * ldo * sizeof(float));
    assert_true(qkv && out);
    memset(out, 0x7f, n_rows * ldo * sizeof(float));
    for (size_t i = 0; i < n_runs; i++)
        memcpy(qkv + runs[i].first_row * s->ld, owners[i]->qkv + runs[i].first_position * s->ld,
               runs[i].n_rows * s->ld * sizeof *qkv);
    const struct batch batch = {
        .n_rows = n_rows, .runs = runs, .n_runs = n_runs, .copies = copies, .n_copies = n_copies};
    assert_int_equal(e->ops->attention(e, &s->layer, cache, &batch, qkv, s->ld, out, ldo), 0);
    for (size_t i = 0; i < n_runs; i++)
        check_run(s, owners[i], &runs[i], out, ldo);
    free(qkv);
    free(out);
    return n_rows;
}

static void check_shape(const struct shape *s)
{
    struct engine e;
    struct kv_cache cache;
    struct sequence sequences[SEQUENCES] = {{0}};

    assert_int_equal(engine_create_cpu(&e, s->element, s->isa, s->n_threads), 0);
    engine_set_kv_form(&e, s->form);
    kv_cache_create(&cache, &memory_host, s->form, s->layer.layer + 1, s->layer.n_kv_heads,
                    s->layer.head_dim);
    /* What was in a page before must not matter: fill one slab with NaN. */
    int32_t pages[KV_SLAB_PAGES];
    for (size_t i = 0; i < KV_SLAB_PAGES; i++)
        pages[i] = kv_page_take(&cache);
    memset(cache.slabs[0], 0xff,
           KV_SLAB_PAGES * (s->layer.layer + 1) * s->layer.n_kv_heads * cache.head_elements *
               element_size(cache.element));
    for (size_t i = 0; i < KV_SLAB_PAGES; i++)
        kv_page_drop(&cache, pages[i]);

    for (size_t i = 0; i < SEQUENCES; i++) {
        struct sequence *q = &sequences[i];
        q->n = 1 + random_below(MOST_TOKENS);
        q->qkv = random_values(q->n * s->ld, 0);
        if (i > 0) {
            const struct sequence *before = &sequences[i - 1];
            q->n_shared = random_below((uint32_t)(before->n < q->n ? before->n : q->n) + 1);
            memcpy(q->qkv, before->qkv, q->n_shared * s->ld * sizeof *q->qkv);
        }
    }
    /* a few large batches, then some with one token of each */
    for (size_t i = 0; i < 3; i++)
        run_batch(s, &e, &cache, sequences, false);
    for (size_t i = 0; i < 3; i++)
        run_batch(s, &e, &cache, sequences, true);
    while (run_batch(s, &e, &cache, sequences, false) > 0)
        ;
    for (size_t i = 0; i < SEQUENCES; i++) {
        for (size_t p = 0; p < sequences[i].n_pages; p++)
            kv_page_drop(&cache, sequences[i].pages[p]);
        free(sequences[i].qkv);
    }
    assert_int_equal(cache.n_free, cache.n_slabs * KV_SLAB_PAGES);
    kv_cache_free(&cache);
    engine_free(&e);
}

static void attention_is_softmax_of_scores_times_values(void **state)
{
    (void)state;
    static const size_t groups[] = {1, 3, 7, 50}, sizes[] = {8, 10, 16, 24, 40, 64, 128, 250, 256};
    static const size_t windows[] = {0, 1, 7, 64, 100};
    enum { TRIES = 24 };

    for (int i = 0; i < TRIES; i++) {
        struct shape s = {.element = i % 3 == 0 ? ELEMENT_BF16 : ELEMENT_F32,
                          .form = (enum kv_form)(i / 2 % 3),
                          .isa = (enum isa)random_below((uint32_t)cpu_best_isa() + 1),
                          .n_threads = 1 + (int)random_below(3)};
        struct attention_layer *a = &s.layer;
        a->layer = random_below(2);
        a->head_dim = sizes[random_below(sizeof sizes / sizeof *sizes)];
        const size_t group = groups[random_below(a->head_dim > 100 ? 3 : 4)];
        a->n_kv_heads = 1 + random_below(group > 7 ? 1 : 3);
        a->n_heads = group * a->n_kv_heads;
        a->q_offset = random_below(3);
        a->k_offset = a->q_offset + a->n_heads * a->head_dim + random_below(20);
        a->v_offset = a->k_offset + a->n_kv_heads * a->head_dim + random_below(20);
        s.ld = a->v_offset + a->n_kv_heads * a->head_dim + random_below(20);
        a->window = windows[random_below(sizeof windows / sizeof *windows)];
        a->scale = 1.5f / sqrtf((float)a->head_dim);
        a->norm_eps = 1e-5f;
        const size_t half = a->head_dim / 2;
        float *cosines = random_values(MOST_TOKENS * half, 0);
        float *sines = random_values(MOST_TOKENS * half, 0);
        float *q_norm = random_values(a->head_dim, 1), *k_norm = random_values(a->head_dim, 1);
        a->rope_cos = cosines;
        a->rope_sin = sines;
        if (random_below(2)) {
            a->q_norm = q_norm;
            a->k_norm = k_norm;
        }
        check_shape(&s);
        free(cosines);
        free(sines);
        free(q_norm);
        free(k_norm);
    }
}

/* The 70 tokens of qkv as one batch of runs that end at ends[]; `shared`: beside them a sequence
 * that takes over their first page and brings the tokens after it again. */
static void run_at_once(const struct engine *e, const struct attention_layer *a, const float *qkv,
                        size_t ld, const size_t *ends, size_t n_runs, bool shared, float *out)
{
    enum { TOKENS = 70 };
    struct kv_cache cache;
    struct batch_run runs[8];
    size_t n_rows = 0;

    kv_cache_create(&cache, &memory_host, e->kv_form, 1, a->n_kv_heads, a->head_dim);
    int32_t pages[2] = {kv_page_take(&cache), kv_page_take(&cache)};
    int32_t other[2] = {pages[0], kv_page_take(&cache)};
    float *rows = malloc(2 * TOKENS * ld * sizeof *rows);
    assert_non_null(rows);
    for (size_t i = 0; i < n_runs; n_rows = ends[i++]) {
        runs[i] = (struct batch_run){n_rows, ends[i] - n_rows, n_rows, pages};
        memcpy(rows + n_rows * ld, qkv + n_rows * ld, (ends[i] - n_rows) * ld * sizeof *rows);
    }
    if (shared) { /* the same tokens from position 64 on */
        memcpy(rows + n_rows * ld, qkv + KV_PAGE * ld, (TOKENS - KV_PAGE) * ld * sizeof *rows);
        runs[n_runs++] = (struct batch_run){n_rows, TOKENS - KV_PAGE, KV_PAGE, other};
        n_rows += TOKENS - KV_PAGE;
    }
    const struct batch batch = {.n_rows = n_rows, .runs = runs, .n_runs = n_runs};
    const size_t width = a->n_heads * a->head_dim;
    assert_int_equal(e->ops->attention(e, a, &cache, &batch, rows, ld, out, width), 0);
    free(rows);
    kv_cache_free(&cache);
}

static void runs_of_a_batch_may_read_what_others_of_it_store(void **state)
{
    enum { TOKENS = 70, WIDTH = 9 * 16, LD = 15 * 16, ROWS = 2 * TOKENS };
    static const size_t whole[] = {TOKENS}, cut[] = {10, 30, 64, 66, TOKENS};
    (void)state;
    float *cosines = random_values(TOKENS * 8, 0), *sines = random_values(TOKENS * 8, 0);
    float *qkv = random_values(TOKENS * LD, 0);
    const struct attention_layer a = {.n_heads = 9,
                                      .n_kv_heads = 3,
                                      .head_dim = 16,
                                      .k_offset = WIDTH,
                                      .v_offset = WIDTH + 48,
                                      .scale = 0.25f,
                                      .rope_cos = cosines,
                                      .rope_sin = sines};
    for (int form = KV_F32; form <= KV_TILES; form++)
        for (int n_threads = 1; n_threads <= 2; n_threads++) {
            struct engine e;
            static float want[ROWS * WIDTH], got[ROWS * WIDTH];
            assert_int_equal(engine_create_cpu(&e, ELEMENT_F32, cpu_best_isa(), n_threads), 0);
            engine_set_kv_form(&e, (enum kv_form)form);
            run_at_once(&e, &a, qkv, LD, whole, 1, false, want);
            run_at_once(&e, &a, qkv, LD, cut, 5, false, got);
            assert_memory_equal(got, want, TOKENS * WIDTH * sizeof *got);
            run_at_once(&e, &a, qkv, LD, cut, 5, true, got);
            assert_memory_equal(got, want, TOKENS * WIDTH * sizeof *got);
            assert_memory_equal(got + TOKENS * WIDTH, want + KV_PAGE * WIDTH,
                                (TOKENS - KV_PAGE) * WIDTH * sizeof *got);
            engine_free(&e);
        }
    free(cosines);
    free(sines);
    free(qkv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_softmax_of_scores_times_values),
        cmocka_unit_test(runs_of_a_batch_may_read_what_others_of_it_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

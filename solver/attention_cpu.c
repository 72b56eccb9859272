/* Causal attention on the CPU over paged keys and values, with online softmax.
 *
 * For one query row with pages b = 0, 1, ... of 64 positions (Milakov and Gimelshein 2018; the
 * blocking of FlashAttention, Dao et al. 2022):
 *
 *   s_j = scale * q . k_j                     masked: -inf
 *   m'  = max(m, max_j s_j),  c = exp(m - m')
 *   p_j = exp(s_j - m')
 *   l   = c l + sum_j p_j,   o = c o + sum_j p_j v_j,   m = m'
 *
 * and o / l at the end. Where the products are made in bf16, rows go in as a high and a low part
 * (split_rows): rounding q and p to bf16 costs more of a model's accuracy than rounding its
 * weights' inputs. Pages begin at absolute positions, and a page that is masked altogether changes
 * nothing (m' = m, c = 1, p = 0), so a row's bits depend on its sequence alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"

enum {
    MAX_QUERIES = 48, /* query rows (tokens x heads of a group) worked on together */
    ROPE_PART = ENGINE_MAX_HEAD_DIM + KERNEL_K_STEP,
    STORE_GRAIN = 1 << 14,     /* qkv elements, and */
    ATTENTION_GRAIN = 1 << 16, /* multiply-adds, below which other threads are not woken */
};

/* ---- keys and values into their pages ------------------------------------------------------- */

/* x [n] as high = bf16(x) and low = bf16(x - high), which together hold 16 bits of each number. */
static void split_rows(const struct engine *e, uint16_t *high, uint16_t *low, float *x, size_t n)
{
    e->math->to_bf16(high, x, n);
    for (size_t i = 0; i < n; i++)
        x[i] -= f32_from_bf16(high[i]);
    e->math->to_bf16(low, x, n);
}

/* Key of one position: column `offset` of the page's key panels; the padding up to key_k is zero.
 */
static void store_key(const struct kv_cache *cache, void *page, size_t offset, const float *key)
{
    const size_t panel = offset / KERNEL_COLUMNS * cache->key_k * KERNEL_COLUMNS;
    const size_t column = offset % KERNEL_COLUMNS;
    if (cache->element == ELEMENT_F32) {
        float *to = (float *)page + panel + column;
        for (size_t i = 0; i < cache->key_k; i++)
            to[i * KERNEL_COLUMNS] = i < cache->head_dim ? key[i] : 0;
    } else {
        uint16_t *to = (uint16_t *)page + panel + column * 2;
        for (size_t i = 0; i < cache->key_k; i++)
            to[i / 2 * 2 * KERNEL_COLUMNS + (i & 1)] =
                i < cache->head_dim ? bf16_from_f32(key[i]) : 0;
    }
}

/* Value of one position: row `offset` (the K index) of the page's value panels. */
static void store_value(const struct kv_cache *cache, void *page, size_t offset, const float *value)
{
    const size_t stride = KV_PAGE * KERNEL_COLUMNS;
    if (cache->element == ELEMENT_F32) {
        float *to = (float *)page + cache->key_elements + offset * KERNEL_COLUMNS;
        for (size_t i = 0; i < cache->head_dim; i++)
            to[i / KERNEL_COLUMNS * stride + i % KERNEL_COLUMNS] = value[i];
    } else {
        uint16_t *to =
            (uint16_t *)page + cache->key_elements + offset / 2 * 2 * KERNEL_COLUMNS + (offset & 1);
        for (size_t i = 0; i < cache->head_dim; i++)
            to[i / KERNEL_COLUMNS * stride + i % KERNEL_COLUMNS * 2] = bf16_from_f32(value[i]);
    }
}

/* A product with a page's values runs over all 64 positions, with weight zero where nothing is
 * stored yet: those must hold numbers. */
static void clear_values(const struct kv_cache *cache, void *page)
{
    const size_t size = element_size(cache->element);
    memset((char *)page + cache->key_elements * size, 0,
           (cache->head_elements - cache->key_elements) * size);
}

static void store_row(const struct engine *e, const struct attention_layer *a,
                      const struct kv_cache *cache, const struct batch *batch, size_t row,
                      const float *qkv, void *q)
{
    const struct batch_run *run = &batch->runs[batch->row_runs[row]];
    const size_t position = run->first_position + (row - run->first_row);
    const size_t offset = position % KV_PAGE, d = a->head_dim;
    const size_t group = a->n_heads / a->n_kv_heads;
    const size_t low = a->n_heads * batch->n_rows * cache->key_k; /* from high parts to low ones */
    float x[ROPE_PART];

    for (size_t h = 0; h < a->n_kv_heads; h++) {
        void *page = kv_head_page(cache, run->pages[position / KV_PAGE], a->layer, h);
        if (offset == 0)
            clear_values(cache, page);
        rotate_head(e, a, x, qkv + a->k_offset + h * d, a->k_norm, position);
        store_key(cache, page, offset, x);
        store_value(cache, page, offset, qkv + a->v_offset + h * d);
        for (size_t j = 0; j < group; j++) {
            rotate_head(e, a, x, qkv + a->q_offset + (h * group + j) * d, a->q_norm, position);
            memset(x + d, 0, (cache->key_k - d) * sizeof *x);
            const size_t to = ((h * batch->n_rows + row) * group + j) * cache->key_k;
            if (cache->element == ELEMENT_F32)
                memcpy((float *)q + to, x, cache->key_k * sizeof *x);
            else
                split_rows(e, (uint16_t *)q + to, (uint16_t *)q + low + to, x, cache->key_k);
        }
    }
}

static void copy_positions(const struct kv_cache *cache, const char *from, char *to, size_t n)
{
    const size_t size = element_size(cache->element);
    /* Elements of neighbouring k that lie together: pairs in bf16. */
    const size_t pair = cache->element == ELEMENT_F32 ? 1 : 2;
    const size_t key_panel = cache->key_k * KERNEL_COLUMNS * size;
    const size_t line = KERNEL_COLUMNS * pair * size;
    const size_t n_whole = n / KERNEL_COLUMNS, rest = n % KERNEL_COLUMNS;

    memcpy(to, from, n_whole * key_panel);
    for (size_t k = 0; rest > 0 && k < cache->key_k / pair; k++)
        memcpy(to + n_whole * key_panel + k * line, from + n_whole * key_panel + k * line,
               rest * pair * size);
    for (size_t p = 0; p < cache->value_panels; p++) {
        const size_t at = (cache->key_elements + p * KV_PAGE * KERNEL_COLUMNS) * size;
        memcpy(to + at, from + at, n / pair * line);
        if (n % pair)
            for (size_t c = 0; c < KERNEL_COLUMNS; c++)
                memcpy(to + at + n / pair * line + c * pair * size,
                       from + at + n / pair * line + c * pair * size, size);
    }
}

struct store_job {
    const struct engine *e;
    const struct attention_layer *a;
    const struct kv_cache *cache;
    const struct batch *batch;
    const float *qkv;
    size_t ldqkv;
    void *q;
};

/* A page's first row clears its values before the rows after it are stored, so one thread takes all
 * rows of a run. */
static void store_run(void *arg, size_t index, int thread)
{
    const struct store_job *j = arg;
    const struct batch_run *run = &j->batch->runs[index];
    (void)thread;
    for (size_t r = run->first_row; r < run->first_row + run->n_rows; r++)
        store_row(j->e, j->a, j->cache, j->batch, r, j->qkv + r * j->ldqkv, j->q);
}

void attention_cpu_store(const struct engine *e, const struct attention_layer *a,
                         struct kv_cache *cache, const struct batch *batch, const float *qkv,
                         size_t ldqkv, void *q)
{
    for (size_t i = 0; i < batch->n_copies; i++)
        for (size_t h = 0; h < a->n_kv_heads; h++)
            clear_values(cache, kv_head_page(cache, batch->copies[i].to, a->layer, h));
    struct store_job job = {e, a, cache, batch, qkv, ldqkv, q};
    if (batch->n_rows * ldqkv < STORE_GRAIN)
        for (size_t i = 0; i < batch->n_runs; i++)
            store_run(&job, i, 0);
    else
        team_run(e->team, store_run, &job, batch->n_runs);
    for (size_t i = 0; i < batch->n_copies; i++) {
        const struct batch_copy *copy = &batch->copies[i];
        for (size_t h = 0; h < a->n_kv_heads; h++)
            copy_positions(cache, kv_head_page(cache, copy->from, a->layer, h),
                           kv_head_page(cache, copy->to, a->layer, h), copy->n_positions);
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Some query rows of one run and one key/value head. Row i is head i % group of token
 * first_row + i / group. */
struct attention_item {
    const struct batch_run *run;
    size_t head, first, n;
};

/* Scores of one row against one page become weights: masks, scales, exponentiates, and rescales
 * what was summed before. Returns the factor on the earlier sums. */
static float softmax_step(const struct engine *e, const struct attention_layer *a, float *s,
                          size_t first_key, size_t position, float *m, float *l)
{
    const size_t low = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
    size_t from = low > first_key ? low - first_key : 0;
    size_t to = position + 1 > first_key ? position + 1 - first_key : 0;
    if (from > KV_PAGE)
        from = KV_PAGE;
    if (to > KV_PAGE)
        to = KV_PAGE;
    if (from >= to) {
        memset(s, 0, KV_PAGE * sizeof *s);
        return 1.0f;
    }
    e->math->scale(s, a->scale, KV_PAGE);
    for (size_t i = 0; i < from; i++)
        s[i] = -INFINITY;
    for (size_t i = to; i < KV_PAGE; i++)
        s[i] = -INFINITY;
    const float largest = fmaxf(*m, e->math->max(s, KV_PAGE));
    float correction = 1.0f;
    if (largest > *m) {
        const float shift = *m - largest;
        e->math->exp(&correction, &shift, 1);
        *m = largest;
    }
    *l = *l * correction + e->math->exp_sum(s, s, largest, KV_PAGE);
    return correction;
}

static void attend(const struct engine *e, const struct attention_layer *a,
                   const struct kv_cache *cache, const struct batch *batch, const void *q,
                   void *out, size_t ldo, const struct attention_item *item)
{
    const struct batch_run *run = item->run;
    const size_t group = a->n_heads / a->n_kv_heads, size = element_size(cache->element);
    const size_t ldv = cache->value_panels * KERNEL_COLUMNS, n = item->n;
    const size_t first_token = item->first / group, last_token = (item->first + n - 1) / group;
    const char *rows =
        (const char *)q +
        ((item->head * batch->n_rows + run->first_row) * group + item->first) * cache->key_k * size;
    const char *low_rows = rows + a->n_heads * batch->n_rows * cache->key_k * size;
    const bool split = cache->element == ELEMENT_BF16;
    kernel_product *const product = e->kv_kernels->product;
    _Alignas(64) float s[MAX_QUERIES * KV_PAGE];
    _Alignas(64) float o[MAX_QUERIES * ENGINE_MAX_HEAD_DIM];
    _Alignas(64) uint16_t p_high[MAX_QUERIES * KV_PAGE], p_low[MAX_QUERIES * KV_PAGE];
    float m[MAX_QUERIES], l[MAX_QUERIES];

    for (size_t i = 0; i < n; i++) {
        m[i] = -INFINITY;
        l[i] = 0;
    }
    memset(o, 0, n * ldv * sizeof *o);
    const size_t earliest = run->first_position + first_token;
    const size_t latest = run->first_position + last_token;
    const size_t low = a->window && earliest + 1 > a->window ? earliest + 1 - a->window : 0;
    for (size_t b = low / KV_PAGE; b <= latest / KV_PAGE; b++) {
        const char *page = kv_head_page(cache, run->pages[b], a->layer, item->head);
        const size_t first_key = b * KV_PAGE;
        /* Panels and positions past the last row's own are left out: zero weights add nothing. */
        const size_t n_keys = latest + 1 - first_key < KV_PAGE ? latest + 1 - first_key : KV_PAGE;
        const size_t n_panels = (n_keys + KERNEL_COLUMNS - 1) / KERNEL_COLUMNS;
        const size_t k = (n_keys + KERNEL_K_STEP - 1) / KERNEL_K_STEP * KERNEL_K_STEP;
        const size_t key_stride = cache->key_k * KERNEL_COLUMNS;
        const size_t value_stride = KV_PAGE * KERNEL_COLUMNS;
        const void *values = page + cache->key_elements * size;
        product(s, KV_PAGE, rows, cache->key_k, n, page, key_stride, n_panels, cache->key_k, false);
        if (split)
            product(s, KV_PAGE, low_rows, cache->key_k, n, page, key_stride, n_panels, cache->key_k,
                    true);
        for (size_t i = 0; i < n; i++) {
            const size_t position = run->first_position + (item->first + i) / group;
            const float c = softmax_step(e, a, s + i * KV_PAGE, first_key, position, &m[i], &l[i]);
            if (c != 1.0f)
                e->math->scale(o + i * ldv, c, ldv);
        }
        if (split) {
            split_rows(e, p_high, p_low, s, n * KV_PAGE);
            product(o, ldv, p_high, KV_PAGE, n, values, value_stride, cache->value_panels, k, true);
            product(o, ldv, p_low, KV_PAGE, n, values, value_stride, cache->value_panels, k, true);
        } else {
            product(o, ldv, s, KV_PAGE, n, values, value_stride, cache->value_panels, k, true);
        }
    }
    for (size_t i = 0; i < n; i++) {
        const size_t token = run->first_row + (item->first + i) / group;
        const size_t head = item->head * group + (item->first + i) % group;
        const size_t at = token * ldo + head * a->head_dim;
        e->math->scale(o + i * ldv, 1.0f / l[i], a->head_dim);
        if (e->element == ELEMENT_F32)
            memcpy((float *)out + at, o + i * ldv, a->head_dim * sizeof(float));
        else
            e->math->to_bf16((uint16_t *)out + at, o + i * ldv, a->head_dim);
    }
}

struct attention_job {
    const struct engine *e;
    const struct attention_layer *a;
    const struct kv_cache *cache;
    const struct batch *batch;
    const void *q;
    void *out;
    size_t ldo;
    size_t *first_items; /* [n_runs + 1]: items before each run */
};

/* Items of a run: blocks of query rows, by key/value heads. */
static size_t blocks_of(const struct attention_layer *a, const struct batch_run *run)
{
    const size_t n_queries = run->n_rows * (a->n_heads / a->n_kv_heads);
    return (n_queries + MAX_QUERIES - 1) / MAX_QUERIES;
}

static void run_items(void *arg, size_t first, size_t end, int thread)
{
    const struct attention_job *j = arg;
    const size_t group = j->a->n_heads / j->a->n_kv_heads;
    size_t low = 0, high = j->batch->n_runs;
    (void)thread;

    while (high - low > 1) { /* the run that item `first` is in */
        const size_t middle = (low + high) / 2;
        if (j->first_items[middle] <= first)
            low = middle;
        else
            high = middle;
    }
    for (size_t i = first; i < end; i++) {
        while (i >= j->first_items[low + 1])
            low++;
        const struct batch_run *run = &j->batch->runs[low];
        const size_t index = i - j->first_items[low], n_queries = run->n_rows * group;
        const size_t at = index / j->a->n_kv_heads * MAX_QUERIES;
        const struct attention_item item = {run, index % j->a->n_kv_heads, at,
                                            n_queries - at < MAX_QUERIES ? n_queries - at
                                                                         : MAX_QUERIES};
        attend(j->e, j->a, j->cache, j->batch, j->q, j->out, j->ldo, &item);
    }
}

int attention_cpu_run(const struct engine *e, const struct attention_layer *a,
                      const struct kv_cache *cache, const struct batch *batch, const void *q,
                      void *out, size_t ldo)
{
    const size_t size = element_size(e->element), width = a->n_heads * a->head_dim;
    struct attention_job job = {e, a, cache, batch, q, out, ldo, NULL};

    job.first_items = malloc((batch->n_runs + 1) * sizeof *job.first_items);
    if (!job.first_items)
        return error_set("no memory for the attention of %zu sequences", batch->n_runs);
    if (ldo > width)
        for (size_t r = 0; r < batch->n_rows; r++)
            memset((char *)out + (r * ldo + width) * size, 0, (ldo - width) * size);
    size_t n = 0, work = 0; /* query rows times keys, about */
    for (size_t i = 0; i < batch->n_runs; i++) {
        const struct batch_run *run = &batch->runs[i];
        job.first_items[i] = n;
        n += blocks_of(a, run) * a->n_kv_heads;
        work += run->n_rows * a->n_heads * (run->first_position + run->n_rows);
    }
    job.first_items[batch->n_runs] = n;
    if (work * a->head_dim < ATTENTION_GRAIN)
        run_items(&job, 0, n, 0);
    else
        team_ranges(e->team, run_items, &job, n, 1);
    free(job.first_items);
    return 0;
}

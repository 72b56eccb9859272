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
 * and o / l at the end. Rows are f32 whatever the pages hold; tiles, which multiply bf16 alone,
 * take them as a high and a low part (split_rows): rounding q and p to bf16 costs more of a model's
 * accuracy than rounding its weights' inputs. Pages begin at absolute positions, and a page that is
 * masked altogether changes nothing (m' = m, c = 1, p = 0), so a row's bits depend on its sequence
 * alone.
 *
 * A run whose pages no other run of the batch looks at stores its keys and values where it attends
 * (attention_internal.h): the lines it writes are the ones it reads next. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "solver/attention_internal.h"

enum {
    MAX_QUERIES = 48, /* query rows (tokens x heads of a group) worked on together */
    PARTS = 8,        /* of the work, for each thread: what it costs is known only roughly */
    ATTENTION_GRAIN = 1 << 16, /* multiply-adds below which other threads are not woken */
};

/* A head's page that will be read next and how many of its positions, 0: none. */
struct page_ahead {
    const char *page;
    size_t n_keys;
};

/* Some query rows of one run and one key/value head. Row i is head i % group of token
 * first_row + i / group. */
struct item {
    const struct batch_run *run;
    size_t head, first, n;
    bool stores;             /* the run's keys and values, page by page */
    struct page_ahead after; /* what will be read after these */
};

/* What an item works in. */
struct scratch {
    _Alignas(64) float q[MAX_QUERIES * ENGINE_MAX_HEAD_DIM]; /* [n, key_k] */
    _Alignas(64) float s[MAX_QUERIES * KV_PAGE];
    _Alignas(64) float o[MAX_QUERIES * ENGINE_MAX_HEAD_DIM]; /* [n, head_dim padded to 16] */
    float m[MAX_QUERIES], l[MAX_QUERIES], c[MAX_QUERIES];
    /* high and low parts, for tiles */
    _Alignas(64) uint16_t q_high[MAX_QUERIES * ENGINE_MAX_HEAD_DIM];
    _Alignas(64) uint16_t q_low[MAX_QUERIES * ENGINE_MAX_HEAD_DIM];
    _Alignas(64) uint16_t p_high[MAX_QUERIES * KV_PAGE], p_low[MAX_QUERIES * KV_PAGE];
};

/* x [n] as high = bf16(x) and low = bf16(x - high), which together hold 16 bits of each number. */
static void split_rows(const struct engine *e, uint16_t *high, uint16_t *low, float *x, size_t n)
{
    e->math->to_bf16(high, x, n);
    for (size_t i = 0; i < n; i++)
        x[i] -= f32_from_bf16(high[i]);
    e->math->to_bf16(low, x, n);
}

static struct page_ahead page_at(const struct attention_call *call, const struct batch_run *run,
                                 size_t b, size_t head)
{
    const size_t left = run->first_position + run->n_rows - b * KV_PAGE;
    return (struct page_ahead){kv_head_page(call->cache, run->pages[b], call->a->layer, head),
                               left < KV_PAGE ? left : KV_PAGE};
}

static void gather_queries(const struct attention_call *call, const struct item *item,
                           struct scratch *w)
{
    const struct attention_layer *a = call->a;
    const size_t d = a->head_dim, key_k = call->cache->key_k, group = a->n_heads / a->n_kv_heads;

    for (size_t i = 0; i < item->n; i++) {
        const size_t token = (item->first + i) / group, head = (item->first + i) % group;
        const float *qkv = call->qkv + (item->run->first_row + token) * call->ldqkv;
        rotate_head(call->e, a, w->q + i * key_k,
                    qkv + a->q_offset + (item->head * group + head) * d, a->q_norm,
                    item->run->first_position + token);
        memset(w->q + i * key_k + d, 0, (key_k - d) * sizeof *w->q);
    }
    if (call->cache->form == KV_TILES)
        split_rows(call->e, w->q_high, w->q_low, w->q, item->n * key_k);
}

/* Scores against a page become weights: masked, scaled, exponentiated; c, the factors on what was
 * summed before. */
static void softmax_page(const struct attention_call *call, const struct item *item,
                         struct scratch *w, size_t first_key)
{
    const struct attention_layer *a = call->a;
    const size_t group = a->n_heads / a->n_kv_heads;

    for (size_t i = 0; i < item->n; i++) {
        const size_t position = item->run->first_position + (item->first + i) / group;
        const size_t low = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
        const size_t from = low > first_key ? low - first_key : 0;
        const size_t to = position + 1 > first_key ? position + 1 - first_key : 0;
        w->c[i] = call->e->math->softmax_step(w->s + i * KV_PAGE, a->scale,
                                              from < KV_PAGE ? from : KV_PAGE,
                                              to < KV_PAGE ? to : KV_PAGE, &w->m[i], &w->l[i]);
    }
}

/* One page by page_product, with f32 rows. */
static void attend_page(const struct attention_call *call, const struct item *item,
                        struct scratch *w, const char *page, size_t first_key, size_t n_keys,
                        struct page_ahead next)
{
    const struct kv_cache *cache = call->cache;
    const size_t size = element_size(cache->element), values = cache->key_elements * size;
    const size_t k = round_up(call->a->head_dim, 2), width = cache->value_columns;

    call->e->page_product(w->s, KV_PAGE, w->q, cache->key_k, item->n, page, KV_PAGE,
                          round_up(n_keys, KERNEL_COLUMNS), k, NULL, next.page,
                          next.n_keys > 0 ? values : 0);
    softmax_page(call, item, w, first_key);
    call->e->page_product(w->o, width, w->s, KV_PAGE, item->n, page + values, width, width,
                          round_up(n_keys, 2), w->c, next.n_keys > 0 ? next.page + values : NULL,
                          next.n_keys * width * size);
}

/* One page by the tile kernels, with rows in two parts. */
static void attend_page_tiles(const struct attention_call *call, const struct item *item,
                              struct scratch *w, const char *page, size_t first_key, size_t n_keys)
{
    const struct kv_cache *cache = call->cache;
    kernel_product *const product = call->e->kv_kernels->product;
    const size_t n = item->n, key_k = cache->key_k, ldo = cache->value_panels * KERNEL_COLUMNS;
    const size_t key_stride = key_k * KERNEL_COLUMNS, value_stride = KV_PAGE * KERNEL_COLUMNS;
    const size_t n_panels = (n_keys + KERNEL_COLUMNS - 1) / KERNEL_COLUMNS;
    const size_t k = round_up(n_keys, KERNEL_K_STEP);
    const void *values = page + cache->key_elements * sizeof(uint16_t);

    product(w->s, KV_PAGE, w->q_high, key_k, n, page, key_stride, n_panels, key_k, false);
    product(w->s, KV_PAGE, w->q_low, key_k, n, page, key_stride, n_panels, key_k, true);
    softmax_page(call, item, w, first_key);
    for (size_t i = 0; i < n; i++)
        if (w->c[i] != 1.0f)
            call->e->math->scale(w->o + i * ldo, w->c[i], ldo);
    split_rows(call->e, w->p_high, w->p_low, w->s, n * KV_PAGE);
    product(w->o, ldo, w->p_high, KV_PAGE, n, values, value_stride, cache->value_panels, k, true);
    product(w->o, ldo, w->p_low, KV_PAGE, n, values, value_stride, cache->value_panels, k, true);
}

/* Stores the run's rows that belong to the page at first_key: now, when it is on its way. */
static void store_page(const struct attention_call *call, const struct item *item, size_t first_key)
{
    const struct batch_run *run = item->run;
    const size_t before = first_key > run->first_position ? first_key - run->first_position : 0;
    const size_t end = first_key + KV_PAGE - run->first_position;
    attention_store_rows(call, run, item->head, before, end < run->n_rows ? end : run->n_rows);
}

static void attend(const struct attention_call *call, const struct item *item)
{
    const struct attention_layer *a = call->a;
    const struct kv_cache *cache = call->cache;
    const struct batch_run *run = item->run;
    const size_t group = a->n_heads / a->n_kv_heads,
                 ldo = cache->value_panels * cache->value_columns;
    struct scratch w;

    gather_queries(call, item, &w);
    for (size_t i = 0; i < item->n; i++) {
        w.m[i] = -INFINITY;
        w.l[i] = 0;
    }
    memset(w.o, 0, item->n * ldo * sizeof *w.o);
    const size_t earliest = run->first_position + item->first / group;
    const size_t latest = run->first_position + (item->first + item->n - 1) / group;
    const size_t low = a->window && earliest + 1 > a->window ? earliest + 1 - a->window : 0;
    for (size_t b = low / KV_PAGE; b <= latest / KV_PAGE; b++) {
        const char *page = kv_head_page(cache, run->pages[b], a->layer, item->head);
        const size_t first_key = b * KV_PAGE;
        /* Positions past the last row's own are left out: zero weights add nothing. */
        const size_t n_keys = latest + 1 - first_key < KV_PAGE ? latest + 1 - first_key : KV_PAGE;
        if (item->stores && first_key + KV_PAGE > run->first_position)
            store_page(call, item, first_key);
        if (cache->form == KV_TILES)
            attend_page_tiles(call, item, &w, page, first_key, n_keys);
        else
            attend_page(call, item, &w, page, first_key, n_keys,
                        b < latest / KV_PAGE ? page_at(call, run, b + 1, item->head) : item->after);
    }
    for (size_t i = 0; i < item->n; i++) {
        const size_t token = run->first_row + (item->first + i) / group;
        const size_t head = item->head * group + (item->first + i) % group;
        call->e->math->scale(w.o + i * ldo, 1.0f / w.l[i], a->head_dim);
        to_elements(call->e, call->out, token * call->ldo + head * a->head_dim, w.o + i * ldo,
                    a->head_dim);
    }
}

/* ---- items and threads ----------------------------------------------------------------------- */

struct job {
    const struct attention_call *call;
    const bool *early;   /* [n_runs] */
    size_t *first_items; /* [n_runs + 1]: items before each run */
    size_t *work;        /* [n_runs + 1]: query rows times keys before each run, about */
    size_t n_parts;
};

/* Items of a run: blocks of query rows, by key/value heads. */
static size_t items_of(const struct attention_layer *a, const struct batch_run *run)
{
    const size_t n_queries = run->n_rows * (a->n_heads / a->n_kv_heads);
    return (n_queries + MAX_QUERIES - 1) / MAX_QUERIES * a->n_kv_heads;
}

/* The run whose [starts[run], starts[run + 1]) holds `value`, which is below starts[n]. */
static size_t run_at(const size_t *starts, size_t n, size_t value)
{
    size_t low = 0, high = n;
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if (starts[middle] <= value)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Items before part `part`, by work. */
static size_t part_start(const struct job *j, size_t part)
{
    const size_t n_runs = j->call->batch->n_runs, total = j->work[n_runs];
    const size_t target = total / j->n_parts * part + total % j->n_parts * part / j->n_parts;

    if (part == j->n_parts || total == 0)
        return part == 0 ? 0 : j->first_items[n_runs];
    const size_t run = run_at(j->work, n_runs, target);
    const size_t n_items = j->first_items[run + 1] - j->first_items[run];
    const size_t run_work = j->work[run + 1] - j->work[run];
    return j->first_items[run] + n_items * (target - j->work[run]) / run_work;
}

static void run_part(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const struct attention_call *call = j->call;
    const struct attention_layer *a = call->a;
    const struct batch *batch = call->batch;
    const size_t group = a->n_heads / a->n_kv_heads, end = part_start(j, part + 1);
    size_t i = part_start(j, part), r = run_at(j->first_items, batch->n_runs, i);
    (void)thread;

    for (; i < end; i++) {
        while (i >= j->first_items[r + 1])
            r++;
        const struct batch_run *run = &batch->runs[r];
        const size_t index = i - j->first_items[r], n_queries = run->n_rows * group;
        const size_t first = index / a->n_kv_heads * MAX_QUERIES, left = n_queries - first;
        const size_t head = index % a->n_kv_heads;
        struct item item = {run,
                            head,
                            first,
                            left < MAX_QUERIES ? left : MAX_QUERIES,
                            !j->early[r] && first == 0,
                            {NULL, 0}};
        if (head + 1 < a->n_kv_heads)
            item.after = page_at(call, run, 0, head + 1);
        else if (r + 1 < batch->n_runs)
            item.after = page_at(call, run + 1, 0, 0);
        attend(call, &item);
    }
}

int attention_cpu_run(const struct engine *e, const struct attention_layer *a,
                      struct kv_cache *cache, const struct batch *batch, const float *qkv,
                      size_t ldqkv, void *out, size_t ldo)
{
    const struct attention_call call = {e, a, cache, batch, qkv, ldqkv, out, ldo};
    const size_t size = element_size(e->element), width = a->n_heads * a->head_dim;
    const size_t n_runs = batch->n_runs;
    size_t *counts = malloc(2 * (n_runs + 1) * sizeof *counts);
    bool *early = malloc((n_runs + 1) * sizeof *early);
    int status = -1;

    if (!counts || !early) {
        error_set("no memory for the attention of %zu sequences", n_runs);
        goto done;
    }
    struct job job = {&call, early, counts, counts + n_runs + 1, 1};
    size_t n_items = 0, work = 0, n_early = attention_mark_early(&call, early);
    for (size_t i = 0; i < n_runs; i++) {
        const struct batch_run *run = &batch->runs[i];
        const size_t n = items_of(a, run);
        job.first_items[i] = n_items;
        job.work[i] = work;
        n_items += n;
        work += run->n_rows * a->n_heads * (run->first_position + run->n_rows);
        if (n > a->n_kv_heads && !early[i]) { /* later blocks need what the first would store */
            early[i] = true;
            n_early++;
        }
    }
    job.first_items[n_runs] = n_items;
    job.work[n_runs] = work;
    if (n_early > 0)
        attention_store_early(&call, early);
    if (ldo > width)
        for (size_t r = 0; r < batch->n_rows; r++)
            memset((char *)out + (r * ldo + width) * size, 0, (ldo - width) * size);
    const size_t most = PARTS * (size_t)team_size(e->team);
    if (work * a->head_dim >= ATTENTION_GRAIN && team_size(e->team) > 1)
        job.n_parts = n_items < most ? n_items : most;
    team_run(e->team, run_part, &job, job.n_parts);
    status = 0;
done:
    free(counts);
    free(early);
    return status;
}

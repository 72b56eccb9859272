/* Keys and values into their pages. */
#include <string.h>

#include "solver/attention_internal.h"

enum { STORE_GRAIN = 1 << 14 /* qkv elements below which other threads are not woken */ };

/* Key of one position: column `offset` of the page's keys; the padding up to key_k is zero. */
static void store_key(const struct engine *e, const struct kv_cache *cache, void *page,
                      size_t offset, float *key)
{
    const size_t columns = cache->key_columns, column = offset % columns;
    const size_t panel = offset / columns * cache->key_k * columns;

    memset(key + cache->head_dim, 0, (cache->key_k - cache->head_dim) * sizeof *key);
    if (cache->element == ELEMENT_F32) {
        float *to = (float *)page + panel + column;
        for (size_t i = 0; i < cache->key_k; i++)
            to[i * columns] = key[i];
    } else {
        uint32_t pairs[ENGINE_MAX_HEAD_DIM / 2];
        uint32_t *to = (uint32_t *)page + panel / 2 + column;
        e->math->to_bf16((uint16_t *)pairs, key, cache->key_k);
        for (size_t i = 0; i < cache->key_k / 2; i++)
            to[i * columns] = pairs[i];
    }
}

/* One half, even or odd, of n pairs. */
static void store_halves(uint32_t *pairs, const uint16_t *values, size_t n, bool odd)
{
    if (odd)
        for (size_t c = 0; c < n; c++)
            pairs[c] = (pairs[c] & 0xffffu) | (uint32_t)values[c] << 16;
    else
        for (size_t c = 0; c < n; c++)
            pairs[c] = (pairs[c] & 0xffff0000u) | values[c];
}

/* Value of one position: row `offset` (the K index) of the page's values. */
static void store_value(const struct engine *e, const struct kv_cache *cache, void *page,
                        size_t offset, const float *value)
{
    const size_t columns = cache->value_columns, stride = KV_PAGE * columns;
    uint16_t rounded[ENGINE_MAX_HEAD_DIM];

    if (cache->element == ELEMENT_BF16)
        e->math->to_bf16(rounded, value, cache->head_dim);
    for (size_t p = 0, i = 0; i < cache->head_dim; p++, i += columns) {
        const size_t n = cache->head_dim - i < columns ? cache->head_dim - i : columns;
        if (cache->element == ELEMENT_F32) {
            float *to = (float *)page + cache->key_elements + p * stride + offset * columns;
            memcpy(to, value + i, n * sizeof *to);
        } else {
            uint32_t *to =
                (uint32_t *)page + (cache->key_elements + p * stride) / 2 + offset / 2 * columns;
            store_halves(to, rounded + i, n, offset & 1);
        }
    }
}

/* A product with a page's values runs over more positions than are stored, with weight zero: those
 * must hold numbers. */
static void clear_values(const struct kv_cache *cache, void *page)
{
    const size_t size = element_size(cache->element);
    memset((char *)page + cache->key_elements * size, 0,
           (cache->head_elements - cache->key_elements) * size);
}

void attention_store_rows(const struct attention_call *call, const struct batch_run *run,
                          size_t head, size_t first, size_t end)
{
    const struct attention_layer *a = call->a;
    const size_t d = a->head_dim;
    float key[ENGINE_MAX_HEAD_DIM];

    for (size_t r = first; r < end; r++) {
        const size_t position = run->first_position + r, offset = position % KV_PAGE;
        const float *qkv = call->qkv + (run->first_row + r) * call->ldqkv;
        void *page = kv_head_page(call->cache, run->pages[position / KV_PAGE], a->layer, head);
        if (offset == 0)
            clear_values(call->cache, page);
        rotate_head(call->e, a, key, qkv + a->k_offset + head * d, a->k_norm, position);
        store_key(call->e, call->cache, page, offset, key);
        store_value(call->e, call->cache, page, offset, qkv + a->v_offset + head * d);
    }
}

/* ---- what must be stored first --------------------------------------------------------------- */

static size_t first_page(const struct batch_run *run)
{
    return run->first_position / KV_PAGE;
}

static size_t end_page(const struct batch_run *run)
{
    return (run->first_position + run->n_rows - 1) / KV_PAGE + 1;
}

size_t attention_mark_early(const struct attention_call *call, bool *early)
{
    const struct batch *batch = call->batch;
    int32_t *writers = call->cache->writers; /* -1 but for the pages of this batch */
    size_t n = 0;

    memset(early, batch->n_copies > 0, batch->n_runs * sizeof *early);
    if (batch->n_copies > 0)
        return batch->n_runs;
    for (size_t i = 0; i < batch->n_runs; i++)
        for (size_t b = first_page(&batch->runs[i]); b < end_page(&batch->runs[i]); b++) {
            int32_t *writer = &writers[batch->runs[i].pages[b]];
            if (*writer >= 0)
                early[*writer] = early[i] = true;
            *writer = (int32_t)i;
        }
    for (size_t i = 0; i < batch->n_runs; i++)
        for (size_t b = 0; b < first_page(&batch->runs[i]); b++) {
            const int32_t writer = writers[batch->runs[i].pages[b]];
            if (writer >= 0)
                early[writer] = true;
        }
    for (size_t i = 0; i < batch->n_runs; i++) {
        for (size_t b = first_page(&batch->runs[i]); b < end_page(&batch->runs[i]); b++)
            writers[batch->runs[i].pages[b]] = -1;
        n += early[i];
    }
    return n;
}

struct store_job {
    const struct attention_call *call;
    const bool *early;
};

static void store_part(void *arg, size_t part, int thread)
{
    const struct store_job *j = arg;
    const size_t n_heads = j->call->a->n_kv_heads, run = part / n_heads;
    (void)thread;
    if (j->early[run])
        attention_store_rows(j->call, &j->call->batch->runs[run], part % n_heads, 0,
                             j->call->batch->runs[run].n_rows);
}

static void copy_positions(const struct kv_cache *cache, const char *from, char *to, size_t n)
{
    const size_t size = element_size(cache->element);
    /* Elements of neighbouring k that lie together: pairs in bf16. */
    const size_t pair = cache->element == ELEMENT_F32 ? 1 : 2;
    const size_t columns = cache->key_columns, width = cache->value_columns;
    const size_t n_whole = n / columns, rest = n % columns;
    const size_t key_panel = cache->key_k * columns * size;

    memcpy(to, from, n_whole * key_panel);
    for (size_t k = 0; rest > 0 && k < cache->key_k / pair; k++) {
        const size_t at = n_whole * key_panel + k * columns * pair * size;
        memcpy(to + at, from + at, rest * pair * size);
    }
    for (size_t p = 0; p < cache->value_panels; p++) {
        const size_t at = (cache->key_elements + p * KV_PAGE * width) * size;
        const size_t paired = n / pair * pair * width * size;
        memcpy(to + at, from + at, paired);
        for (size_t c = 0; n % pair && c < width; c++)
            memcpy(to + at + paired + c * pair * size, from + at + paired + c * pair * size, size);
    }
}

void attention_store_early(const struct attention_call *call, const bool *early)
{
    const struct batch *batch = call->batch;
    const size_t layer = call->a->layer, n_heads = call->a->n_kv_heads;
    struct store_job job = {call, early};

    for (size_t i = 0; i < batch->n_copies; i++)
        for (size_t h = 0; h < n_heads; h++)
            clear_values(call->cache, kv_head_page(call->cache, batch->copies[i].to, layer, h));
    struct team *team = batch->n_rows * call->ldqkv < STORE_GRAIN ? NULL : call->e->team;
    team_run(team, store_part, &job, batch->n_runs * n_heads);
    for (size_t i = 0; i < batch->n_copies; i++) {
        const struct batch_copy *copy = &batch->copies[i];
        for (size_t h = 0; h < n_heads; h++)
            copy_positions(call->cache, kv_head_page(call->cache, copy->from, layer, h),
                           kv_head_page(call->cache, copy->to, layer, h), copy->n_positions);
    }
}

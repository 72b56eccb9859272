/* Causal attention over paged keys and values.
 *
 * Three steps, each one launch: keys and values of all rows go to their pages and rotated queries
 * to a scratch; the batch's page copies; attention. So every run sees all that the batch stores.
 *
 * A query row's keys are cut at absolute positions into splits of SPLIT. Each split is a softmax of
 * its own,
 *
 *   m = max_j s_j,   p_j = exp(s_j - m),   l = sum_j p_j,   o = sum_j p_j v_j     (page by page)
 *
 * and splits are merged first to last (Milakov and Gimelshein 2018):
 *
 *   M' = max(M, m),  L' = L exp(M - M') + l exp(m - M'),  O' = O exp(M - M') + o exp(m - M')
 *
 * Either one block of threads goes through a row's splits (many rows), or each split has a block
 * and a second kernel merges what they leave (a few rows with long pasts: flash-decoding, Dao et
 * al. 2023). Both compute the same expressions, so bits do not depend on the choice, nor on chunks
 * or neighbours: a masked key adds p = 0 to sums, a masked split has m = -inf and changes nothing.
 *
 * A block works on up to QUERIES rows of one key/value head, rows of a group first, so that they
 * share a page's reads. Threads are keys for the scores and dimensions for the values: both read
 * pages in the order in which these lie (kv_cache.h). How many threads there are changes no sum. */
#include <stdlib.h>
#include <string.h>

#include "solver/cuda/attention_internal.h"

enum {
    SPLIT = 256, /* keys */
    SPLIT_PAGES = SPLIT / KV_PAGE,
    QUERIES = 8, /* query rows of a block */
    MAX_DIM = ENGINE_MAX_HEAD_DIM,
    OWN_VALUES = QUERIES, /* of the output, a thread's: there are as many threads as dimensions */
    PARTIAL_BYTES = 256 << 20,
    BLOCKS_PER_PROCESSOR = 4, /* below which splits get blocks of their own */
};

/* Query rows first .. first + n of a run: row i is head i % group of token i / group. */
struct attention_item {
    int first_row, first_position; /* the run's */
    int first, n;
    int first_page; /* of the run, in the list of pages */
    int first_split, n_splits;
};

/* ---- one split ------------------------------------------------------------------------------- */

/* What a block shares. */
struct split_memory {
    union {
        float q[MAX_DIM * QUERIES]; /* [dim, QUERIES] */
        float o[SPLIT_PAGES * QUERIES * MAX_DIM];
    };
    float p[QUERIES * SPLIT];
    /* A split's result, with the sum over pages of o; all splits' so far; and what merging
     * multiplies o by. */
    float m[QUERIES], l[QUERIES];
    float all_m[QUERIES], all_l[QUERIES];
    float before[QUERIES], further[QUERIES];
};

/* The positions that query row i of an item sees: first .. last. */
static __device__ __forceinline__ int last_seen(const struct attention_item &item, int group, int i)
{
    return item.first_position + (item.first + i) / group;
}

static __device__ __forceinline__ int first_seen(int last, int window)
{
    return window > 0 && last >= window ? last + 1 - window : 0;
}

/* Keys of a split that some row may see, in whole warps. */
static __device__ __forceinline__ int split_keys(const struct attention_shape &s,
                                                 const struct attention_item &item, int split)
{
    const int latest = last_seen(item, s.n_heads / s.n_kv_heads, item.n - 1);
    const int n = (latest - split * SPLIT + GPU_WARP) / GPU_WARP * GPU_WARP;
    return n < SPLIT ? n : (int)SPLIT;
}

/* scores p [n, SPLIT], -inf where they are masked: a thread is a key */
template <typename KV>
static __device__ __forceinline__ void split_scores(struct split_memory &w,
                                                    const struct attention_shape &s,
                                                    const struct attention_item &item,
                                                    const char *const *pages, int head, int split,
                                                    int n_keys)
{
    const int group = s.n_heads / s.n_kv_heads;
    const int earliest = first_seen(last_seen(item, group, 0), s.window);
    const int latest = last_seen(item, group, item.n - 1);

    for (int j = (int)threadIdx.x; j < n_keys; j += (int)blockDim.x) {
        const int key = split * SPLIT + j;
        float sums[QUERIES];

        for (int i = 0; i < QUERIES; i++)
            sums[i] = 0;
        if (key >= earliest && key <= latest) {
            const KV *keys = (const KV *)(const void *)(pages[item.first_page + key / KV_PAGE] +
                                                        (size_t)head * s.head_bytes);
            const size_t offset = (size_t)key % KV_PAGE;
            for (int k = 0; k < s.dim; k++) {
                const float x = to_float(keys[key_at<KV>(offset, (size_t)k)]);
#pragma unroll
                for (int i = 0; i < QUERIES; i++)
                    if (i < item.n)
                        sums[i] = __fmaf_rn(w.q[k * QUERIES + i], x, sums[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; i++)
            if (i < item.n) {
                const int last = last_seen(item, group, i);
                const bool seen = key <= last && key >= first_seen(last, s.window);
                w.p[i * SPLIT + j] = seen ? sums[i] * s.scale : -INFINITY;
            }
    }
}

/* What merging a further split changes: M becomes m, and sums are before and further times theirs.
 */
struct merge_factors {
    float m, before, further;
};

static __device__ __forceinline__ struct merge_factors merge_with(float M, float m)
{
    struct merge_factors f;
    f.m = m > M ? m : M;
    f.before = f.m > -INFINITY ? gpu_exp(M - f.m) : 1.0f;
    f.further = f.m > -INFINITY ? gpu_exp(m - f.m) : 0.0f;
    return f;
}

static __device__ __forceinline__ float merged(float before_factor, float further_factor,
                                               float before, float further)
{
    return before * before_factor + further * further_factor;
}

/* Warps make rows' scores weights, and merge m and l. */
static __device__ __forceinline__ void split_softmax(struct split_memory &w, int n, int n_keys)
{
    const int lane = (int)threadIdx.x % GPU_WARP, n_warps = (int)blockDim.x / GPU_WARP;

    for (int i = (int)threadIdx.x / GPU_WARP; i < n; i += n_warps) {
        float *p = w.p + i * SPLIT, m = -INFINITY, l = 0;
        for (int j = lane; j < n_keys; j += GPU_WARP)
            m = p[j] > m ? p[j] : m;
        m = warp_max(m);
        for (int j = lane; j < n_keys; j += GPU_WARP) {
            p[j] = p[j] > -INFINITY ? gpu_exp(p[j] - m) : 0.0f;
            l += p[j];
        }
        l = warp_sum(l);
        if (lane == 0) {
            const struct merge_factors f = merge_with(w.all_m[i], m);
            w.m[i] = m;
            w.l[i] = l;
            w.all_m[i] = f.m;
            w.all_l[i] = merged(f.before, f.further, w.all_l[i], l);
            w.before[i] = f.before;
            w.further[i] = f.further;
        }
    }
}

/* o [page, n, dim] = the weights' sum of a page's values: a thread is a dimension, on some pages */
template <typename KV>
static __device__ __forceinline__ void split_values(struct split_memory &w,
                                                    const struct attention_shape &s,
                                                    const struct attention_item &item,
                                                    const char *const *pages, int head, int split)
{
    const int group = s.n_heads / s.n_kv_heads;
    const int earliest = first_seen(last_seen(item, group, 0), s.window);
    const int latest = last_seen(item, group, item.n - 1);
    const int lanes = s.dim <= MAX_DIM / 4   ? MAX_DIM / 4
                      : s.dim <= MAX_DIM / 2 ? MAX_DIM / 2
                                             : MAX_DIM;
    const int c = (int)threadIdx.x % lanes, n_lanes = (int)blockDim.x / lanes;

    if (c >= s.dim)
        return;
    for (int page = (int)threadIdx.x / lanes; page < SPLIT_PAGES; page += n_lanes) {
        const int start = split * SPLIT + page * KV_PAGE;
        const int from = earliest > start ? earliest : start;
        const int to = latest + 1 < start + KV_PAGE ? latest + 1 : start + KV_PAGE;
        float sums[QUERIES];

        for (int i = 0; i < QUERIES; i++)
            sums[i] = 0;
        if (from < to) {
            const KV *values = (const KV *)(const void *)(pages[item.first_page + start / KV_PAGE] +
                                                          (size_t)head * s.head_bytes) +
                               s.key_elements;
            for (int key = from; key < to; key++) {
                const float x =
                    to_float(values[value_at<KV>((size_t)(key - start), (size_t)c, s.value_width)]);
                const float *p = w.p + key - split * SPLIT;
#pragma unroll
                for (int i = 0; i < QUERIES; i++)
                    if (i < item.n)
                        sums[i] = __fmaf_rn(p[i * SPLIT], x, sums[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < QUERIES; i++)
            if (i < item.n)
                w.o[(page * QUERIES + i) * s.dim + c] = sums[i];
    }
}

/* Leaves a split's result in w, for all threads to read. The caller's barrier comes before the
 * next. */
template <typename KV>
static __device__ __forceinline__ void split_run(struct split_memory &w,
                                                 const struct attention_shape &s,
                                                 const struct attention_item &item,
                                                 const char *const *pages, const float *q, int head,
                                                 int split)
{
    const int group = s.n_heads / s.n_kv_heads, n_keys = split_keys(s, item, split);
    for (int at = (int)threadIdx.x; at < QUERIES * s.dim; at += (int)blockDim.x) {
        const int i = at / s.dim, k = at % s.dim;
        const size_t row = (size_t)(item.first_row + (item.first + i) / group);
        const size_t query = (size_t)(head * group + (item.first + i) % group);
        w.q[k * QUERIES + i] =
            i < item.n ? q[(row * (size_t)s.n_heads + query) * (size_t)s.dim + (size_t)k] : 0.0f;
    }
    __syncthreads();
    split_scores<KV>(w, s, item, pages, head, split, n_keys);
    __syncthreads();
    split_softmax(w, item.n, n_keys);
    __syncthreads();
    split_values<KV>(w, s, item, pages, head, split);
    __syncthreads();
}

static __device__ __forceinline__ void splits_begin(struct split_memory &w)
{
    if (threadIdx.x < QUERIES) {
        w.all_m[threadIdx.x] = -INFINITY;
        w.all_l[threadIdx.x] = 0;
    }
}

/* Value at = i * dim + c of a split's output. */
static __device__ __forceinline__ float split_value(const struct split_memory &w, int dim, int at)
{
    const int i = at / dim, c = at % dim;
    float sum = w.o[i * dim + c];
    for (int page = 1; page < SPLIT_PAGES; page++)
        sum += w.o[(page * QUERIES + i) * dim + c];
    return sum;
}

/* ---- merging splits -------------------------------------------------------------------------- */

template <typename T>
static __device__ __forceinline__ void store_output(const struct attention_shape &s,
                                                    const struct attention_item &item, T *out,
                                                    int head, int at, float o, float l)
{
    const int group = s.n_heads / s.n_kv_heads, i = at / s.dim;
    const size_t row = (size_t)(item.first_row + (item.first + i) / group);
    const size_t column =
        (size_t)(head * group + (item.first + i) % group) * (size_t)s.dim + (size_t)(at % s.dim);
    store_element(out + row * s.ldo + column, o / l);
}

/* Block (item, head): all splits, one after the other. */
template <typename T, typename KV>
__global__ void attention_through_splits(struct attention_shape s,
                                         const struct attention_item *items,
                                         const char *const *pages, const float *q, T *out)
{
    __shared__ struct split_memory w;
    const struct attention_item item = items[blockIdx.x];
    const int head = (int)blockIdx.y, n_values = item.n * s.dim;
    float o[OWN_VALUES];

    for (int v = 0; v < OWN_VALUES; v++)
        o[v] = 0;
    splits_begin(w);
    for (int split = item.first_split; split < item.first_split + item.n_splits; split++) {
        split_run<KV>(w, s, item, pages, q, head, split);
#pragma unroll
        for (int v = 0; v < OWN_VALUES; v++) {
            const int at = v * (int)blockDim.x + (int)threadIdx.x, i = at / s.dim;
            if (at < n_values)
                o[v] = merged(w.before[i], w.further[i], o[v], split_value(w, s.dim, at));
        }
        __syncthreads();
    }
#pragma unroll
    for (int v = 0; v < OWN_VALUES; v++) {
        const int at = v * (int)blockDim.x + (int)threadIdx.x;
        if (at < n_values)
            store_output(s, item, out, head, at, o[v], w.all_l[at / s.dim]);
    }
}

/* Floats of a split's result: o [QUERIES, dim], m and l [QUERIES] */
static __host__ __device__ __forceinline__ size_t partial_floats(int dim)
{
    return (size_t)QUERIES * (size_t)(dim + 2);
}

static __device__ __forceinline__ size_t partial_at(const struct attention_shape &s, size_t item,
                                                    int head, int split, int max_splits)
{
    return ((item * (size_t)s.n_kv_heads + (size_t)head) * (size_t)max_splits + (size_t)split) *
           partial_floats(s.dim);
}

/* Block (item, head, split): partials [items, kv heads, max_splits] */
template <typename KV>
__global__ void attention_one_split(struct attention_shape s, const struct attention_item *items,
                                    const char *const *pages, const float *q, float *partials)
{
    __shared__ struct split_memory w;
    const struct attention_item item = items[blockIdx.x];
    const int head = (int)blockIdx.y, split = (int)blockIdx.z;

    if (split >= item.n_splits)
        return;
    splits_begin(w);
    split_run<KV>(w, s, item, pages, q, head, item.first_split + split);
    float *to = partials + partial_at(s, blockIdx.x, head, split, (int)gridDim.z);
    float *ms = to + QUERIES * s.dim, *ls = ms + QUERIES;
    for (int at = (int)threadIdx.x; at < item.n * s.dim; at += (int)blockDim.x)
        to[at] = split_value(w, s.dim, at);
    if ((int)threadIdx.x < item.n) {
        ms[threadIdx.x] = w.m[threadIdx.x];
        ls[threadIdx.x] = w.l[threadIdx.x];
    }
}

/* Block (item, head) */
template <typename T>
__global__ void attention_merge_splits(struct attention_shape s, const struct attention_item *items,
                                       const float *partials, int max_splits, T *out)
{
    const struct attention_item item = items[blockIdx.x];
    const int head = (int)blockIdx.y;

    for (int at = (int)threadIdx.x; at < item.n * s.dim; at += (int)blockDim.x) {
        const int i = at / s.dim;
        float o = 0, l = 0, m = -INFINITY;
        for (int split = 0; split < item.n_splits; split++) {
            const float *from = partials + partial_at(s, blockIdx.x, head, split, max_splits);
            const float *ms = from + QUERIES * s.dim, *ls = ms + QUERIES;
            const struct merge_factors f = merge_with(m, ms[i]);
            m = f.m;
            l = merged(f.before, f.further, l, ls[i]);
            o = merged(f.before, f.further, o, from[at]);
        }
        store_output(s, item, out, head, at, o, l);
    }
}

/* ---- the host's side ------------------------------------------------------------------------- */

/* A batch as the kernels see it: on the host, and where it was sent. */
struct attention_plan {
    struct row_place *places;     /* [n_rows] */
    struct page_copy *copies;     /* [n_copies] */
    struct attention_item *items; /* [n_items] */
    const char **pages;           /* of the runs, one after the other */
    size_t n_rows, n_copies, n_items, n_pages;
    int max_splits;
    size_t most_keys; /* of a row */
    void *bytes;      /* of all of these */
    size_t n_bytes;
};

static size_t pages_of(const struct batch_run *run)
{
    return (run->first_position + run->n_rows - 1) / KV_PAGE + 1;
}

static void plan_run(struct attention_plan *plan, const struct attention_layer *a,
                     const struct kv_cache *cache, const struct batch_run *run)
{
    const size_t group = a->n_heads / a->n_kv_heads, n_queries = run->n_rows * group;
    const size_t window = a->window, first = run->first_position;
    const size_t low = window && first + 1 > window ? first + 1 - window : 0;
    const size_t first_page = plan->n_pages;

    if (first + run->n_rows > plan->most_keys)
        plan->most_keys = first + run->n_rows;
    /* Pages before the window may be gone. */
    for (size_t b = 0; b < pages_of(run); b++)
        plan->pages[plan->n_pages++] =
            b < low / KV_PAGE ? NULL
                              : (const char *)kv_head_page(cache, run->pages[b], a->layer, 0);
    for (size_t r = 0; r < run->n_rows; r++) {
        struct row_place *place = &plan->places[run->first_row + r];
        place->position = (int)(first + r);
        place->page = (char *)kv_head_page(cache, run->pages[(first + r) / KV_PAGE], a->layer, 0);
    }
    for (size_t q = 0; q < n_queries; q += QUERIES) {
        struct attention_item *item = &plan->items[plan->n_items++];
        const size_t left = n_queries - q, n = left < QUERIES ? left : (size_t)QUERIES;
        const size_t earliest = first + q / group, latest = first + (q + n - 1) / group;
        const size_t from = window && earliest + 1 > window ? earliest + 1 - window : 0;
        item->first_row = (int)run->first_row;
        item->first_position = (int)first;
        item->first = (int)q;
        item->n = (int)n;
        item->first_page = (int)first_page;
        item->first_split = (int)(from / SPLIT);
        item->n_splits = (int)(latest / SPLIT - from / SPLIT + 1);
        if (item->n_splits > plan->max_splits)
            plan->max_splits = item->n_splits;
    }
}

/* 0, or -1 with error_set (by way of cuda_status) when there is no memory. */
static int plan_make(struct attention_plan *plan, const struct attention_layer *a,
                     const struct kv_cache *cache, const struct batch *batch)
{
    const size_t group = a->n_heads / a->n_kv_heads;
    size_t n_items = 0, n_pages = 0;

    memset(plan, 0, sizeof *plan);
    for (size_t i = 0; i < batch->n_runs; i++) {
        n_items += (batch->runs[i].n_rows * group + QUERIES - 1) / QUERIES;
        n_pages += pages_of(&batch->runs[i]);
    }
    plan->n_rows = batch->n_rows;
    plan->n_copies = batch->n_copies;
    plan->n_bytes = batch->n_rows * sizeof *plan->places + n_pages * sizeof *plan->pages +
                    batch->n_copies * sizeof *plan->copies + n_items * sizeof *plan->items;
    plan->bytes = calloc(1, plan->n_bytes + 1);
    if (!plan->bytes)
        return -1;
    plan->places = (struct row_place *)plan->bytes;
    plan->copies = (struct page_copy *)(void *)(plan->places + batch->n_rows);
    plan->pages = (const char **)(void *)(plan->copies + batch->n_copies);
    plan->items = (struct attention_item *)(void *)(plan->pages + n_pages);
    for (size_t i = 0; i < batch->n_runs; i++)
        plan_run(plan, a, cache, &batch->runs[i]);
    for (size_t i = 0; i < batch->n_copies; i++) {
        plan->copies[i].from =
            (const char *)kv_head_page(cache, batch->copies[i].from, a->layer, 0);
        plan->copies[i].to = (char *)kv_head_page(cache, batch->copies[i].to, a->layer, 0);
        plan->copies[i].n_positions = (int)batch->copies[i].n_positions;
    }
    return 0;
}

/* Makes the plan's arrays those that were sent. */
static void plan_sent(struct attention_plan *plan, const void *sent)
{
    const char *host = (const char *)plan->bytes;
    char *device = (char *)sent;
    plan->places = (struct row_place *)(void *)(device + ((char *)plan->places - host));
    plan->copies = (struct page_copy *)(void *)(device + ((char *)plan->copies - host));
    plan->pages = (const char **)(void *)(device + ((char *)plan->pages - host));
    plan->items = (struct attention_item *)(void *)(device + ((char *)plan->items - host));
}

static struct attention_shape shape_of(const struct attention_layer *a,
                                       const struct kv_cache *cache, size_t ldqkv, size_t ldo)
{
    struct attention_shape s = {};
    s.head_bytes = cache->head_elements * element_size(cache->element);
    s.key_elements = cache->key_elements;
    s.key_k = cache->key_k;
    s.value_width = cache->value_columns;
    s.ldqkv = ldqkv;
    s.ldo = ldo;
    s.q_offset = a->q_offset;
    s.k_offset = a->k_offset;
    s.v_offset = a->v_offset;
    s.n_heads = (int)a->n_heads;
    s.n_kv_heads = (int)a->n_kv_heads;
    s.dim = (int)a->head_dim;
    s.window = (int)(a->window < INT32_MAX ? a->window : 0);
    s.scale = a->scale;
    s.norm_eps = a->norm_eps;
    s.q_norm = a->q_norm;
    s.k_norm = a->k_norm;
    s.rope_cos = a->rope_cos;
    s.rope_sin = a->rope_sin;
    return s;
}

/* As many as dimensions, and as keys if these are few. */
static unsigned attention_threads(const struct attention_plan *plan, size_t dim)
{
    const size_t wanted = dim > plan->most_keys ? dim : plan->most_keys;
    return wanted <= SPLIT / 4 ? SPLIT / 4 : wanted <= SPLIT / 2 ? SPLIT / 2 : SPLIT;
}

template <typename T, typename KV>
static void launch(const struct engine *e, const struct attention_plan *plan,
                   const struct attention_shape &s, T *out, const float *q, float *partials)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const unsigned n_kv_heads = (unsigned)s.n_kv_heads, n_items = (unsigned)plan->n_items;
    const unsigned threads = attention_threads(plan, (size_t)s.dim);

    if (!partials) {
        GPU_LAUNCH((attention_through_splits<T, KV>), dim3(n_items, n_kv_heads), threads, 0, stream,
                   s, plan->items, plan->pages, q, out);
    } else {
        GPU_LAUNCH(attention_one_split<KV>, dim3(n_items, n_kv_heads, (unsigned)plan->max_splits),
                   threads, 0, stream, s, plan->items, plan->pages, q, partials);
        GPU_LAUNCH(attention_merge_splits<T>, dim3(n_items, n_kv_heads), threads, 0, stream, s,
                   plan->items, partials, plan->max_splits, out);
    }
    cuda_launched(e, "attention");
}

/* Whether splits get blocks of their own: few rows on many processors. */
static bool by_splits(const struct engine *e, const struct attention_plan *plan, size_t n_kv_heads,
                      size_t partial_bytes)
{
    const size_t n_blocks = plan->n_items * n_kv_heads;
    const size_t enough = (size_t)cuda_device_of(e)->n_processors * BLOCKS_PER_PROCESSOR;
    return plan->max_splits > 1 && n_blocks < enough && partial_bytes <= PARTIAL_BYTES;
}

int cuda_attention(const struct engine *e, const struct attention_layer *a, struct kv_cache *cache,
                   const struct batch *batch, const float *qkv, size_t ldqkv, void *out, size_t ldo)
{
    const struct attention_shape s = shape_of(a, cache, ldqkv, ldo);
    const size_t q_bytes = round_up(batch->n_rows * a->n_heads * a->head_dim * sizeof(float), 256);
    struct attention_plan plan;

    if (batch->n_rows == 0)
        return 0;
    CUDA_TENSOR(qkv);
    CUDA_TENSOR(out);
    CUDA_TENSOR(a->q_norm);
    CUDA_TENSOR(a->k_norm);
    CUDA_TENSOR(a->rope_cos);
    CUDA_TENSOR(a->rope_sin);
    if (plan_make(&plan, a, cache, batch) != 0) {
        cuda_check(e, cudaErrorMemoryAllocation, "planning the attention");
        return cuda_status(e);
    }
    CUDA_TENSOR(plan.places[0].page);
    const size_t partial_bytes = plan.n_items * a->n_kv_heads * (size_t)plan.max_splits *
                                 partial_floats(s.dim) * sizeof(float);
    const bool splits = by_splits(e, &plan, a->n_kv_heads, partial_bytes);
    char *scratch =
        (char *)cuda_scratch(e, CUDA_SLOT_ATTENTION, q_bytes + (splits ? partial_bytes : 0));
    const void *sent = cuda_send(e, plan.bytes, plan.n_bytes);
    if (scratch && sent) {
        float *q = (float *)(void *)scratch;
        float *partials = splits ? (float *)(void *)(scratch + q_bytes) : NULL;
        plan_sent(&plan, sent);
        cuda_attention_store(e, &s, cache->form, q, out, qkv, plan.places, plan.n_rows, plan.copies,
                             plan.n_copies);
        if (e->element == ELEMENT_F32 && cache->form == KV_F32)
            launch<float, float>(e, &plan, s, (float *)out, q, partials);
        else if (e->element == ELEMENT_F32)
            launch<float, bf16>(e, &plan, s, (float *)out, q, partials);
        else if (cache->form == KV_F32)
            launch<bf16, float>(e, &plan, s, (bf16 *)out, q, partials);
        else
            launch<bf16, bf16>(e, &plan, s, (bf16 *)out, q, partials);
    }
    free(plan.bytes);
    return cuda_status(e);
}

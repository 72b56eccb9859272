/* Backward of attention on a CUDA device, with scores made again (Dao 2023, FlashAttention-2,
 * section 3.2). For one head, with P the weights and O = P V,
 *
 *   dV = P^T dO,  dP = dO V^T,  dS = scale P (dP - mean),  mean_i = sum_j P_ij dP_ij
 *   dQ = dS K,    dK = dS^T Q
 *
 * in four steps: queries, keys and values as attention saw them are laid side by side (`pack`);
 * a block for each tile of queries and key/value head goes through their keys twice, for the
 * softmax's sums and for dQ (`queries`); a block for each tile of keys and key/value head goes
 * through the sequences that see them, in order, and through each one's queries, in order, and
 * adds one sequence's share to dqkv after the other (`keys`); the gradients go back through the
 * rotation and the norm (`unrotate`). Tiles are those of attention_plan.h.
 *
 * Products of tiles are f32: a chain of fused multiply-adds along head_dim for a score, along a
 * tile's keys or queries for a gradient. Tiles of keys begin at multiples of PLAN_TILE, so what a
 * query adds up does not hang on what is beside it. */
#include <math.h>
#include <stdlib.h>

#include "solver/cuda/train_internal.h"
extern "C" {
#include "solver/attention_plan.h"
}

/* 256 threads as 16 x 16, each with 4 x 4 numbers of a tile of 64 x 64. Threads read rows of four:
 * LD keeps them apart in shared memory's banks. */
static const int TILE = PLAN_TILE, SIDE = 16, MINE = 4, THREADS = SIDE * SIDE;
static const int SLICE = 32; /* of head_dim, for scores */
static const int LD = TILE + MINE;
static const int PACK_THREADS = 128;

struct alignas(16) four {
    float v[4];
};

/* Everything of a call, by value to the kernels. Packed rows are `width` long, a multiple of TILE,
 * zeros after head_dim. */
struct pass {
    struct attention_layer a;
    bool round; /* keys and values, as the cache holds them */
    size_t n_rows, group, width;
    const float *qkv, *dout;
    float *dqkv;
    size_t ldqkv, ldo, lddqkv;
    float *q, *g;      /* [n_rows, n_heads, width]: queries, gradients of the outputs */
    float *k, *v;      /* [n_rows, n_kv_heads, width] */
    struct sums *sums; /* [n_rows, n_heads] */
    /* of the plan, on the device */
    const struct plan_span *spans;
    const int32_t *rows, *positions, *visitors;
    const struct plan_queries *query_tiles;
    const struct plan_keys *key_tiles;
};

/* A query's softmax: P = exp(score - max) * inverse, mean = sum of P dP. */
struct sums {
    float max, inverse, mean;
};

/* ---- rotation, by a warp for each head ------------------------------------------------------- */

/* sum of x x / d and its RMSNorm factor */
static __device__ float norm_factor(const float *x, size_t d, float eps)
{
    float squares = 0;
    for (size_t i = threadIdx.x % GPU_WARP; i < d; i += GPU_WARP)
        squares += x[i] * x[i];
    return 1.0f / sqrtf(warp_sum(squares) / (float)d + eps);
}

static __device__ float as_cached(const struct pass &p, float x)
{
    return p.round ? __bfloat162float(__float2bfloat16_rn(x)) : x;
}

/* to [width] = a query or key `in`, normalised and rotated */
static __device__ void rotate(const struct pass &p, float *to, const float *in, const float *norm,
                              size_t position, bool key)
{
    const size_t d = p.a.head_dim, half = d / 2;
    const float *cosines = p.a.rope_cos + position * half, *sines = p.a.rope_sin + position * half;
    const float a = norm ? norm_factor(in, d, p.a.norm_eps) : 1;
    for (size_t i = threadIdx.x % GPU_WARP; i < half; i += GPU_WARP) {
        const float x1 = norm ? in[i] * a * norm[i] : in[i];
        const float x2 = norm ? in[i + half] * a * norm[i + half] : in[i + half];
        const float y1 = x1 * cosines[i] - x2 * sines[i], y2 = x2 * cosines[i] + x1 * sines[i];
        to[i] = key ? as_cached(p, y1) : y1;
        to[i + half] = key ? as_cached(p, y2) : y2;
    }
    for (size_t i = d + threadIdx.x % GPU_WARP; i < p.width; i += GPU_WARP)
        to[i] = 0;
}

static __device__ void copy_head(const struct pass &p, float *to, const float *in, bool value)
{
    for (size_t i = threadIdx.x % GPU_WARP; i < p.width; i += GPU_WARP)
        to[i] = i >= p.a.head_dim ? 0 : value ? as_cached(p, in[i]) : in[i];
}

/* A block to a row, a warp to a head: queries, gradients of outputs, keys, values. */
static __global__ void pack_kernel(const struct pass p)
{
    const size_t row = blockIdx.x, nq = p.a.n_heads, nk = p.a.n_kv_heads, d = p.a.head_dim;
    const size_t position = (size_t)p.positions[row];
    const float *in = p.qkv + row * p.ldqkv;
    for (size_t h = threadIdx.x / GPU_WARP; h < 2 * (nq + nk); h += blockDim.x / GPU_WARP) {
        if (h < nq)
            rotate(p, p.q + (row * nq + h) * p.width, in + p.a.q_offset + h * d, p.a.q_norm,
                   position, false);
        else if (h < 2 * nq)
            copy_head(p, p.g + (row * nq + h - nq) * p.width, p.dout + row * p.ldo + (h - nq) * d,
                      false);
        else if (h < 2 * nq + nk)
            rotate(p, p.k + (row * nk + h - 2 * nq) * p.width, in + p.a.k_offset + (h - 2 * nq) * d,
                   p.a.k_norm, position, true);
        else
            copy_head(p, p.v + (row * nk + h - 2 * nq - nk) * p.width,
                      in + p.a.v_offset + (h - 2 * nq - nk) * d, true);
    }
}

/* One head's gradient back through the rotation and the norm, in place. */
static __device__ void unrotate(const struct pass &p, float *dx, const float *in, const float *norm,
                                size_t position)
{
    const size_t d = p.a.head_dim, half = d / 2;
    const float *cosines = p.a.rope_cos + position * half, *sines = p.a.rope_sin + position * half;
    float along = 0;
    for (size_t i = threadIdx.x % GPU_WARP; i < half; i += GPU_WARP) {
        const float y1 = dx[i], y2 = dx[i + half];
        dx[i] = y1 * cosines[i] + y2 * sines[i];
        dx[i + half] = y2 * cosines[i] - y1 * sines[i];
        if (norm)
            along += in[i] * norm[i] * dx[i] + in[i + half] * norm[i + half] * dx[i + half];
    }
    if (!norm)
        return;
    const float a = norm_factor(in, d, p.a.norm_eps), c = a * a * (warp_sum(along) / (float)d);
    for (size_t i = threadIdx.x % GPU_WARP; i < half; i += GPU_WARP) {
        dx[i] = a * __fmaf_rn(-in[i], c, norm[i] * dx[i]);
        dx[i + half] = a * __fmaf_rn(-in[i + half], c, norm[i + half] * dx[i + half]);
    }
}

static __global__ void unrotate_kernel(const struct pass p)
{
    const size_t row = blockIdx.x, nq = p.a.n_heads, nk = p.a.n_kv_heads, d = p.a.head_dim;
    const size_t position = (size_t)p.positions[row];
    const float *in = p.qkv + row * p.ldqkv;
    float *dx = p.dqkv + row * p.lddqkv;
    for (size_t h = threadIdx.x / GPU_WARP; h < nq + nk; h += blockDim.x / GPU_WARP) {
        const bool query = h < nq;
        const size_t at = query ? p.a.q_offset + h * d : p.a.k_offset + (h - nq) * d;
        unrotate(p, dx + at, in + at, query ? p.a.q_norm : p.a.k_norm, position);
    }
}

/* ---- tiles in shared memory ------------------------------------------------------------------ */

/* What a block knows of its tiles. Rows that are not there are -1, and zeros in what is loaded. */
struct tiles {
    int query_row[TILE]; /* row * n_heads + head */
    int query_position[TILE];
    int key_row[TILE]; /* row * n_kv_heads + head */
    int first_key;     /* the position of key 0 */
    /* Four slices [SLICE, LD] of head_dim with rows as columns, or two tiles [TILE, LD]. */
    alignas(16) float memory[2 * TILE * LD];
};

/* slice [SLICE, LD] = columns first .. first + SLICE of TILE packed rows, transposed */
static __device__ void load_slice(float *slice, const float *packed, size_t width, const int *rows,
                                  size_t first)
{
    for (int i = (int)threadIdx.x; i < TILE * SLICE / MINE; i += THREADS) {
        const int r = i % TILE, c = i / TILE * MINE;
        struct four x = {{0, 0, 0, 0}};
        if (rows[r] >= 0)
            x = *(const struct four *)(packed + (size_t)rows[r] * width + first + (size_t)c);
        for (int j = 0; j < MINE; j++)
            slice[(c + j) * LD + r] = x.v[j];
    }
}

/* tile [TILE, LD] = columns first .. first + TILE of TILE packed rows */
static __device__ void load_tile(float *tile, const float *packed, size_t width, const int *rows,
                                 size_t first)
{
    for (int i = (int)threadIdx.x; i < TILE * TILE / MINE; i += THREADS) {
        const int r = i / SIDE, c = i % SIDE * MINE;
        struct four x = {{0, 0, 0, 0}};
        if (rows[r] >= 0)
            x = *(const struct four *)(packed + (size_t)rows[r] * width + first + (size_t)c);
        *(struct four *)(tile + r * LD + c) = x;
    }
}

/* c [4, 4] += a^T b, for n rows of a and b, of which this thread's columns begin at a and b */
static __device__ void multiply_tile(float c[MINE][MINE], const float *a, const float *b, int n)
{
    for (int k = 0; k < n; k++) {
        const struct four x = *(const struct four *)(a + k * LD);
        const struct four y = *(const struct four *)(b + k * LD);
        for (int i = 0; i < MINE; i++)
            for (int j = 0; j < MINE; j++)
                c[i][j] = __fmaf_rn(x.v[i], y.v[j], c[i][j]);
    }
}

static __device__ void clear(float c[MINE][MINE])
{
    for (int i = 0; i < MINE; i++)
        for (int j = 0; j < MINE; j++)
            c[i][j] = 0;
}

/* This thread's part of s = queries times keys and dp = gradients times values. */
static __device__ void multiply_scores(const struct pass &p, struct tiles &t, float s[MINE][MINE],
                                       float dp[MINE][MINE])
{
    const int y = (int)threadIdx.x / SIDE * MINE, x = (int)threadIdx.x % SIDE * MINE;
    float *q = t.memory, *k = q + SLICE * LD, *g = k + SLICE * LD, *v = g + SLICE * LD;
    clear(s);
    clear(dp);
    for (size_t c = 0; c < p.width; c += (size_t)SLICE) {
        __syncthreads();
        load_slice(q, p.q, p.width, t.query_row, c);
        load_slice(k, p.k, p.width, t.key_row, c);
        load_slice(g, p.g, p.width, t.query_row, c);
        load_slice(v, p.v, p.width, t.key_row, c);
        __syncthreads();
        multiply_tile(s, q + y, k + x, SLICE);
        multiply_tile(dp, g + y, v + x, SLICE);
    }
}

/* Does query i of the tile see key j? */
static __device__ bool sees(const struct pass &p, const struct tiles &t, int i, int j)
{
    const int query = t.query_position[i], key = t.first_key + j;
    return t.query_row[i] >= 0 && t.key_row[j] >= 0 && key <= query &&
           (p.a.window == 0 || (size_t)key + p.a.window > (size_t)query);
}

/* Queries first .. first + TILE of a sequence's own, with one key/value head's query heads. */
static __device__ void name_queries(const struct pass &p, struct tiles &t,
                                    const struct plan_span &span, size_t first)
{
    const size_t head = blockIdx.y, own = (size_t)span.own;
    for (int i = (int)threadIdx.x; i < TILE; i += THREADS) {
        const size_t position = own + (first + (size_t)i) / p.group;
        const bool there = position < (size_t)span.n;
        t.query_position[i] = (int)position;
        t.query_row[i] = -1;
        if (there)
            t.query_row[i] = (int)((size_t)p.rows[(size_t)span.rows_at + position] * p.a.n_heads +
                                   head * p.group + (first + (size_t)i) % p.group);
    }
}

/* ---- a tile of queries ----------------------------------------------------------------------- */

/* The softmax of some scores of a row, as it grows: sum of exp(score - max), and that times dP. */
struct running {
    float max, sum, weighted;
};

static __device__ void add_score(struct running *r, float score, float dp)
{
    if (score > r->max) {
        const float c = gpu_exp(r->max - score);
        r->sum = __fmaf_rn(r->sum, c, 1.0f);
        r->weighted = __fmaf_rn(r->weighted, c, dp);
        r->max = score;
    } else {
        const float w = gpu_exp(score - r->max);
        r->sum += w;
        r->weighted = __fmaf_rn(w, dp, r->weighted);
    }
}

/* The sums of the SIDE threads that have parts of one row, in each of them. */
static __device__ struct sums whole_row(struct running r)
{
    float max = r.max;
    for (int step = SIDE / 2; step > 0; step /= 2)
        max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, step));
    const float c = r.max > -INFINITY ? gpu_exp(r.max - max) : 0;
    float sum = r.sum * c, weighted = r.weighted * c;
    for (int step = SIDE / 2; step > 0; step /= 2) {
        sum += __shfl_xor_sync(ALL_LANES, sum, step);
        weighted += __shfl_xor_sync(ALL_LANES, weighted, step);
    }
    struct sums whole = {max, 0, 0};
    if (sum > 0) { /* not a row beyond the tile's last */
        whole.inverse = 1.0f / sum;
        whole.mean = weighted * whole.inverse;
    }
    return whole;
}

/* The keys from position `first` on of the sequence, up to `end`. */
static __device__ void name_keys(const struct pass &p, struct tiles &t,
                                 const struct plan_span &span, size_t first, size_t end)
{
    if (threadIdx.x == 0)
        t.first_key = (int)first;
    for (int i = (int)threadIdx.x; i < TILE; i += THREADS) {
        const size_t position = first + (size_t)i;
        t.key_row[i] = -1;
        if (position < end)
            t.key_row[i] = (int)((size_t)p.rows[(size_t)span.rows_at + position] * p.a.n_kv_heads +
                                 blockIdx.y);
    }
}

/* N: tiles of head_dim. */
template <int N>
static __global__ void __launch_bounds__(THREADS, N <= 2 ? 2 : 1)
    queries_kernel(const struct pass p)
{
    __shared__ struct tiles t;
    const struct plan_queries tile = p.query_tiles[blockIdx.x];
    const struct plan_span span = p.spans[tile.sequence];
    const int y = (int)threadIdx.x / SIDE * MINE, x = (int)threadIdx.x % SIDE * MINE;
    const size_t first = (size_t)tile.first, n_own = (size_t)(span.n - span.own) * p.group;
    const size_t last = n_own - first < (size_t)TILE ? n_own - 1 : first + (size_t)TILE - 1;
    const size_t earliest = (size_t)span.own + first / p.group;
    const size_t end = (size_t)span.own + last / p.group + 1;
    const size_t low = p.a.window && earliest + 1 > p.a.window ? earliest + 1 - p.a.window : 0;
    const size_t begin = low / (size_t)TILE * (size_t)TILE;
    float s[MINE][MINE], dp[MINE][MINE], dq[N][MINE][MINE];
    struct running running[MINE];
    struct sums sums[MINE];

    name_queries(p, t, span, first);
    for (int i = 0; i < MINE; i++)
        running[i] = {-INFINITY, 0, 0};
    for (size_t key = begin; key < end; key += (size_t)TILE) {
        __syncthreads();
        name_keys(p, t, span, key, end);
        multiply_scores(p, t, s, dp);
        for (int i = 0; i < MINE; i++)
            for (int j = 0; j < MINE; j++)
                if (sees(p, t, y + i, x + j))
                    add_score(&running[i], p.a.scale * s[i][j], dp[i][j]);
    }
    for (int i = 0; i < MINE; i++) {
        sums[i] = whole_row(running[i]);
        if (x == 0 && t.query_row[y + i] >= 0)
            p.sums[t.query_row[y + i]] = sums[i];
    }
    for (int n = 0; n < N; n++)
        clear(dq[n]);
    for (size_t key = begin; key < end; key += (size_t)TILE) {
        float *ds = t.memory, *k = ds + TILE * LD;
        __syncthreads();
        name_keys(p, t, span, key, end);
        multiply_scores(p, t, s, dp);
        __syncthreads();
        for (int i = 0; i < MINE; i++)
            for (int j = 0; j < MINE; j++) {
                const float w = gpu_exp(p.a.scale * s[i][j] - sums[i].max) * sums[i].inverse;
                ds[(x + j) * LD + y + i] =
                    sees(p, t, y + i, x + j) ? w * (dp[i][j] - sums[i].mean) * p.a.scale : 0;
            }
        for (int n = 0; n < N; n++) {
            __syncthreads();
            load_tile(k, p.k, p.width, t.key_row, (size_t)(n * TILE));
            __syncthreads();
            multiply_tile(dq[n], ds + y, k + x, TILE);
        }
    }
    for (int i = 0; i < MINE; i++) {
        const int at = t.query_row[y + i];
        if (at < 0)
            continue;
        const size_t row = (size_t)at / p.a.n_heads, head = (size_t)at % p.a.n_heads;
        float *to = p.dqkv + row * p.lddqkv + p.a.q_offset + head * p.a.head_dim;
        for (int n = 0; n < N; n++)
            for (int j = 0; j < MINE; j++)
                if ((size_t)(n * TILE + x + j) < p.a.head_dim)
                    to[n * TILE + x + j] = dq[n][i][j];
    }
}

/* ---- a tile of keys -------------------------------------------------------------------------- */

/* The tile's own keys that this visitor sees, too. */
static __device__ void name_shared_keys(const struct pass &p, struct tiles &t,
                                        const struct plan_keys &tile, const struct plan_span &own,
                                        const struct plan_span &visitor)
{
    if (threadIdx.x == 0)
        t.first_key = tile.first_position;
    for (int i = (int)threadIdx.x; i < TILE; i += THREADS) {
        const int position = tile.first_position + i;
        t.key_row[i] = -1;
        if (!(tile.mask[i / 32] >> i % 32 & 1) || position >= visitor.n)
            continue;
        const int32_t row = p.rows[own.rows_at + position];
        if (row == p.rows[visitor.rows_at + position])
            t.key_row[i] = (int)((size_t)row * p.a.n_kv_heads + blockIdx.y);
    }
}

/* A thread's share of one visitor's dK or dV, into dqkv's columns from `offset` on. */
template <int N>
static __device__ void add_share(const struct pass &p, const struct tiles &t, size_t offset,
                                 const float share[N][MINE][MINE])
{
    const int y = (int)threadIdx.x / SIDE * MINE, x = (int)threadIdx.x % SIDE * MINE;
    for (int i = 0; i < MINE; i++) {
        const int at = t.key_row[y + i];
        if (at < 0)
            continue;
        const size_t row = (size_t)at / p.a.n_kv_heads;
        float *to = p.dqkv + row * p.lddqkv + offset + blockIdx.y * p.a.head_dim;
        for (int n = 0; n < N; n++)
            for (int j = 0; j < MINE; j++)
                if ((size_t)(n * TILE + x + j) < p.a.head_dim)
                    to[n * TILE + x + j] += share[n][i][j];
    }
}

/* share [keys, width] += w^T rows, where w [queries, keys] is what the threads hold. */
template <int N>
static __device__ void multiply_share(const struct pass &p, struct tiles &t,
                                      const float w[MINE][MINE], const float *packed,
                                      float share[N][MINE][MINE])
{
    const int y = (int)threadIdx.x / SIDE * MINE, x = (int)threadIdx.x % SIDE * MINE;
    float *weights = t.memory, *rows = weights + TILE * LD;
    __syncthreads();
    for (int i = 0; i < MINE; i++)
        for (int j = 0; j < MINE; j++)
            weights[(y + i) * LD + x + j] = w[i][j];
    for (int n = 0; n < N; n++) {
        __syncthreads();
        load_tile(rows, packed, p.width, t.query_row, (size_t)(n * TILE));
        __syncthreads();
        multiply_tile(share[n], weights + y, rows + x, TILE);
    }
}

template <int N>
static __global__ void __launch_bounds__(THREADS, N <= 2 ? 2 : 1) keys_kernel(const struct pass p)
{
    __shared__ struct tiles t;
    const struct plan_keys tile = p.key_tiles[blockIdx.x];
    const struct plan_span own = p.spans[tile.sequence];
    const int y = (int)threadIdx.x / SIDE * MINE, x = (int)threadIdx.x % SIDE * MINE;
    float s[MINE][MINE], dp[MINE][MINE], dk[N][MINE][MINE], dv[N][MINE][MINE];

    for (int visit = 0; visit < tile.n_visitors; visit++) {
        const struct plan_span span = p.spans[p.visitors[tile.visitors_at + visit]];
        const size_t first_key = (size_t)tile.first_position;
        size_t end = (size_t)span.n; /* of the queries that see some key */
        if (p.a.window && first_key + (size_t)TILE - 1 + p.a.window < end)
            end = first_key + (size_t)TILE - 1 + p.a.window;
        const size_t skipped =
            first_key > (size_t)span.own ? (first_key - (size_t)span.own) * p.group : 0;
        const size_t end_row = (end - (size_t)span.own) * p.group;

        __syncthreads();
        name_shared_keys(p, t, tile, own, span);
        for (int n = 0; n < N; n++) {
            clear(dk[n]);
            clear(dv[n]);
        }
        for (size_t q = skipped / (size_t)TILE * (size_t)TILE; q < end_row; q += (size_t)TILE) {
            __syncthreads();
            name_queries(p, t, span, q);
            multiply_scores(p, t, s, dp);
            for (int i = 0; i < MINE; i++) {
                struct sums sums = {0, 0, 0};
                if (t.query_row[y + i] >= 0)
                    sums = p.sums[t.query_row[y + i]];
                for (int j = 0; j < MINE; j++) {
                    const bool seen = sees(p, t, y + i, x + j);
                    const float w = gpu_exp(p.a.scale * s[i][j] - sums.max) * sums.inverse;
                    s[i][j] = seen ? w : 0;
                    dp[i][j] = seen ? w * (dp[i][j] - sums.mean) * p.a.scale : 0;
                }
            }
            multiply_share<N>(p, t, s, p.g, dv);
            multiply_share<N>(p, t, dp, p.q, dk);
        }
        add_share<N>(p, t, p.a.k_offset, dk);
        add_share<N>(p, t, p.a.v_offset, dv);
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

template <int N>
static void run_tiles(const struct engine *e, const struct pass &p,
                      const struct attention_plan &plan)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    const unsigned heads = (unsigned)p.a.n_kv_heads;
    GPU_LAUNCH(queries_kernel<N>, dim3((unsigned)plan.n_query_tiles, heads), THREADS, 0, stream, p);
    GPU_LAUNCH(keys_kernel<N>, dim3((unsigned)plan.n_key_tiles, heads), THREADS, 0, stream, p);
}

static void run_pass(const struct engine *e, const struct pass &p,
                     const struct attention_plan &plan)
{
    const cudaStream_t stream = cuda_device_of(e)->stream;
    GPU_LAUNCH(pack_kernel, (unsigned)p.n_rows, PACK_THREADS, 0, stream, p);
    switch (p.width / (size_t)TILE) {
    case 1:
        run_tiles<1>(e, p, plan);
        break;
    case 2:
        run_tiles<2>(e, p, plan);
        break;
    case 3:
        run_tiles<3>(e, p, plan);
        break;
    default: /* ENGINE_MAX_HEAD_DIM */
        run_tiles<4>(e, p, plan);
    }
    GPU_LAUNCH(unrotate_kernel, (unsigned)p.n_rows, PACK_THREADS, 0, stream, p);
    cuda_launched(e, "the attention gradient");
}

/* Room for what the kernels share. -1 with the failure recorded. */
static int take_room(const struct engine *e, struct pass *p)
{
    const size_t n_q = p->n_rows * p->a.n_heads, n_kv = p->n_rows * p->a.n_kv_heads;
    const size_t floats = 2 * (n_q + n_kv) * p->width;
    float *room =
        (float *)cuda_scratch(e, CUDA_SLOT_BACKWARD, floats * sizeof *room + n_q * sizeof *p->sums);
    if (!room)
        return -1;
    p->q = room;
    p->g = p->q + n_q * p->width;
    p->k = p->g + n_q * p->width;
    p->v = p->k + n_kv * p->width;
    p->sums = (struct sums *)(void *)(p->v + n_kv * p->width);
    return 0;
}

static void name_parts(struct pass *p, const struct attention_plan &plan, const int32_t *sent)
{
    p->spans = (const struct plan_span *)(sent + plan.spans);
    p->rows = sent + plan.rows;
    p->positions = sent + plan.positions;
    p->query_tiles = (const struct plan_queries *)(sent + plan.query_tiles);
    p->key_tiles = (const struct plan_keys *)(sent + plan.key_tiles);
    p->visitors = sent + plan.visitors;
}

int cuda_attention_backward(const struct engine *e, const struct attention_layer *a,
                            const struct attention_sequence *sequences, size_t n_sequences,
                            size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                            size_t ldo, float *dqkv, size_t lddqkv)
{
    struct attention_plan plan = {};
    struct pass p = {};
    const int32_t *sent;
    int status = 0;

    if (n_rows == 0)
        return 0;
    CUDA_TENSOR(qkv);
    CUDA_TENSOR(dout);
    CUDA_TENSOR(a->rope_cos);
    p.a = *a;
    p.round = e->kv_form != KV_F32;
    p.n_rows = n_rows;
    p.group = a->n_heads / a->n_kv_heads;
    p.width = round_up(a->head_dim, (size_t)TILE);
    p.qkv = qkv;
    p.ldqkv = ldqkv;
    p.dout = dout;
    p.ldo = ldo;
    p.dqkv = dqkv;
    p.lddqkv = lddqkv;
    if (attention_plan_create(&plan, sequences, n_sequences, n_rows, p.group, a->window) != 0) {
        status = -1;
        goto done;
    }
    e->ops->zero(e, dqkv, n_rows * lddqkv * sizeof *dqkv);
    sent = (const int32_t *)cuda_send(e, plan.words, plan.n_words * sizeof *plan.words);
    if (sent && plan.n_key_tiles > 0 && take_room(e, &p) == 0) {
        name_parts(&p, plan, sent);
        run_pass(e, p, plan);
    }
    status = cuda_status(e);
done:
    attention_plan_free(&plan);
    return status;
}

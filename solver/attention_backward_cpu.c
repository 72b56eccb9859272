/* Backward of attention on the CPU, with scores made again (Dao 2023, FlashAttention-2, section
 * 3.2). For one head, with P the weights and O = P V,
 *
 *   dV = P^T dO,  dP = dO V^T,  dS = scale P (dP - mean),  mean_i = sum_j P_ij dP_ij
 *   dQ = dS K,    dK = dS^T Q
 *
 * An *item* is some query tokens of one sequence with the heads of one key/value group: it packs
 * the keys and values that they see, goes through the query rows block by block against all of
 * them (so that softmax needs no second pass), and leaves its share of dK and dV, transposed, in a
 * buffer of its own. Items of a *wave* run on all threads; then their shares are added to dqkv in
 * the order of sequences, position by position. Items are cut by the sequences alone and waves do
 * not change the order of additions, so neither threads nor memory change a bit. */
#include <stdlib.h>

#include "mpi/error.h"
#include "solver/engine_cpu_internal.h"
#include "solver/engine_train_internal.h"

enum {
    BLOCK = 64,            /* query rows of a block */
    ITEM_ROWS = 1024,      /* query rows of an item, about */
    CHUNK = KERNEL_K_STEP, /* keys packed at a time */
    ADD_POSITIONS = 64,    /* positions of an adding task */
    WAVE_BYTES = 2 << 20,  /* of shares, for each thread */
    MOST_D = ENGINE_MAX_HEAD_DIM,
};

struct item {
    const struct attention_sequence *sequence;
    size_t head;                  /* key/value head */
    size_t first_token, n_tokens; /* queries' positions */
    size_t first_key, n_keys;     /* keys' positions */
    size_t share;                 /* offset of its dK and dV: 2 [d16, ld_share] */
};

/* A thread's memory. Lengths along keys are of the longest item, padded to CHUNK. */
struct scratch {
    float *key_columns, *value_columns; /* panels of 16 keys over dk: K^T, V^T */
    float *key_rows;                    /* panels of 16 dimensions over keys: K */
    float *p, *ds;                      /* [BLOCK, keys] */
    float *panels;                      /* p or ds as panels of 16 keys over BLOCK rows */
    float *q, *dout;                    /* [BLOCK, dk] */
    float *q_t, *dout_t;                /* [dk, BLOCK] */
    float *dq;                          /* [BLOCK, dk] */
};

struct job {
    const struct engine *e;
    const struct kernels *kernels; /* f32 */
    const struct attention_layer *a;
    const float *qkv, *dout;
    float *dqkv;
    size_t ldqkv, ldo, lddqkv, n_rows;
    size_t group, dk, d16; /* heads of a group; head_dim padded to K_STEP, to COLUMNS */
    size_t most_keys;
    const struct item *items; /* of the wave */
    size_t n_items;
    const size_t *positions; /* [n_rows] */
    size_t n_positions;
    float *shares;
    struct scratch *scratch; /* [threads] */
};

static size_t share_ld(const struct item *item)
{
    return round_up(item->n_keys, CHUNK);
}

/* ---- one item -------------------------------------------------------------------------------- */

/* Keys and values of the item's sequence, rounded as they were forward (the gradient goes straight
 * through), into panels; what pads the last chunk is zero. */
static void pack_keys(const struct job *j, const struct item *item, const struct scratch *s)
{
    const struct attention_layer *a = j->a;
    const struct vecmath *math = j->e->math;
    const size_t d = a->head_dim, dk = j->dk, stride = share_ld(item) * KERNEL_COLUMNS;
    float keys[CHUNK * MOST_D], values[CHUNK * MOST_D];

    memset(keys, 0, CHUNK * dk * sizeof *keys);
    memset(values, 0, CHUNK * dk * sizeof *values);
    for (size_t k = 0; k < item->n_keys; k += CHUNK) {
        for (size_t i = 0; i < CHUNK; i++) {
            float *key = keys + i * dk, *value = values + i * dk;
            if (k + i >= item->n_keys) {
                memset(key, 0, d * sizeof *key);
                memset(value, 0, d * sizeof *value);
                continue;
            }
            const size_t position = item->first_key + k + i;
            const float *row = j->qkv + (size_t)item->sequence->rows[position] * j->ldqkv;
            rotate_head(j->e, a, key, row + a->k_offset + item->head * d, a->k_norm, position);
            memcpy(value, row + a->v_offset + item->head * d, d * sizeof *value);
            round_as_cached(j->e, key, d);
            round_as_cached(j->e, value, d);
        }
        for (size_t i = 0; i < CHUNK; i += KERNEL_COLUMNS) {
            math->transpose((uint32_t *)s->key_columns + (k + i) * dk, KERNEL_COLUMNS,
                            (uint32_t *)keys + i * dk, dk, KERNEL_COLUMNS, dk);
            math->transpose((uint32_t *)s->value_columns + (k + i) * dk, KERNEL_COLUMNS,
                            (uint32_t *)values + i * dk, dk, KERNEL_COLUMNS, dk);
        }
        for (size_t c = 0; c < j->d16; c += KERNEL_COLUMNS)
            for (size_t i = 0; i < CHUNK; i++)
                memcpy(s->key_rows + c / KERNEL_COLUMNS * stride + (k + i) * KERNEL_COLUMNS,
                       keys + i * dk + c, KERNEL_COLUMNS * sizeof(float));
    }
}

/* Query rows first .. first + n of the item and their gradients, as rows and as columns; row i is
 * head i % group of token i / group. */
static void gather_queries(const struct job *j, const struct item *item, const struct scratch *s,
                           size_t first, size_t n)
{
    const struct attention_layer *a = j->a;
    const size_t d = a->head_dim, dk = j->dk, n_padded = round_up(n, CHUNK);

    for (size_t i = 0; i < n; i++) {
        const size_t position = item->first_token + (first + i) / j->group;
        const size_t head = item->head * j->group + (first + i) % j->group;
        const size_t row = (size_t)item->sequence->rows[position];
        rotate_head(j->e, a, s->q + i * dk, j->qkv + row * j->ldqkv + a->q_offset + head * d,
                    a->q_norm, position);
        memcpy(s->dout + i * dk, j->dout + row * j->ldo + head * d, d * sizeof(float));
    }
    for (size_t i = n; i < n_padded; i++) {
        memset(s->q + i * dk, 0, d * sizeof(float));
        memset(s->dout + i * dk, 0, d * sizeof(float));
    }
    j->e->math->transpose((uint32_t *)s->q_t, BLOCK, (uint32_t *)s->q, dk, n_padded, dk);
    j->e->math->transpose((uint32_t *)s->dout_t, BLOCK, (uint32_t *)s->dout, dk, n_padded, dk);
}

/* Scores in p and dP in ds, rows of n keys from position first_key on, become P and dS. */
static void softmax_rows(const struct job *j, const struct item *item, const struct scratch *s,
                         size_t first, size_t n, size_t first_key, size_t n_keys)
{
    const struct attention_layer *a = j->a;
    const struct vecmath *math = j->e->math;

    for (size_t i = 0; i < n; i++) {
        const size_t position = item->first_token + (first + i) / j->group;
        const size_t low = a->window && position + 1 > a->window ? position + 1 - a->window : 0;
        const size_t from = low > first_key ? low - first_key : 0, to = position + 1 - first_key;
        float *p = s->p + i * j->most_keys, *ds = s->ds + i * j->most_keys;
        math->scale(p + from, a->scale, to - from);
        const float max = math->max(p + from, to - from);
        const float sum = math->exp_sum(p + from, p + from, max, to - from);
        math->scale(p + from, 1.0f / sum, to - from);
        const float mean = math->dot(p + from, ds + from, to - from);
        math->softmax_backward(ds + from, p + from, mean, a->scale, to - from);
        memset(p, 0, from * sizeof *p);
        memset(ds, 0, from * sizeof *ds);
        memset(p + to, 0, (n_keys - to) * sizeof *p);
        memset(ds + to, 0, (n_keys - to) * sizeof *ds);
    }
}

/* share [d16, keys] += x_t [d, BLOCK] w, with w [n, n_panels * 16] as panels */
static void add_share(const struct job *j, const struct scratch *s, float *share, size_t ld,
                      const float *x_t, const float *w, size_t n, size_t n_panels)
{
    const size_t k = round_up(n, CHUNK), stride = k * KERNEL_COLUMNS;
    for (size_t p = 0; p < n_panels; p++) {
        float *panel = s->panels + p * stride;
        for (size_t i = 0; i < n; i++)
            memcpy(panel + i * KERNEL_COLUMNS, w + i * j->most_keys + p * KERNEL_COLUMNS,
                   KERNEL_COLUMNS * sizeof *panel);
        memset(panel + n * KERNEL_COLUMNS, 0, (k - n) * KERNEL_COLUMNS * sizeof *panel);
    }
    j->kernels->product(share, ld, x_t, BLOCK, j->a->head_dim, s->panels, stride, n_panels, k,
                        true);
}

static void run_block(const struct job *j, const struct item *item, const struct scratch *s,
                      size_t first, size_t n)
{
    const struct attention_layer *a = j->a;
    const size_t d = a->head_dim, dk = j->dk, ld = share_ld(item);
    const size_t earliest = item->first_token + first / j->group;
    const size_t latest = item->first_token + (first + n - 1) / j->group;
    const size_t low = a->window && earliest + 1 > a->window ? earliest + 1 - a->window : 0;
    /* keys' part [k0, k0 + n_keys) of the item's, in whole chunks */
    const size_t k0 = (low > item->first_key ? low - item->first_key : 0) / CHUNK * CHUNK;
    const size_t seen = latest + 1 - item->first_key - k0, n_keys = round_up(seen, CHUNK);
    const size_t n_panels = round_up(seen, KERNEL_COLUMNS) / KERNEL_COLUMNS;
    float *dk_share = j->shares + item->share + k0, *dv_share = dk_share + j->d16 * ld;
    kernel_product *const product = j->kernels->product;

    gather_queries(j, item, s, first, n);
    product(s->p, j->most_keys, s->q, dk, n, s->key_columns + k0 * dk, dk * KERNEL_COLUMNS,
            n_panels, dk, false);
    product(s->ds, j->most_keys, s->dout, dk, n, s->value_columns + k0 * dk, dk * KERNEL_COLUMNS,
            n_panels, dk, false);
    softmax_rows(j, item, s, first, n, item->first_key + k0, n_keys);
    add_share(j, s, dv_share, ld, s->dout_t, s->p, n, n_panels);
    add_share(j, s, dk_share, ld, s->q_t, s->ds, n, n_panels);
    product(s->dq, dk, s->ds, j->most_keys, n, s->key_rows + k0 * KERNEL_COLUMNS,
            ld * KERNEL_COLUMNS, j->d16 / KERNEL_COLUMNS, n_keys, false);
    for (size_t i = 0; i < n; i++) {
        const size_t position = item->first_token + (first + i) / j->group;
        const size_t head = item->head * j->group + (first + i) % j->group;
        const size_t row = (size_t)item->sequence->rows[position];
        memcpy(j->dqkv + row * j->lddqkv + a->q_offset + head * d, s->dq + i * dk,
               d * sizeof(float));
    }
}

static void run_item(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const struct item *item = &j->items[part];
    const struct scratch *s = &j->scratch[thread];
    const size_t n = item->n_tokens * j->group;

    memset(j->shares + item->share, 0, 2 * j->d16 * share_ld(item) * sizeof(float));
    pack_keys(j, item, s);
    for (size_t i = 0; i < n; i += BLOCK)
        run_block(j, item, s, i, n - i < BLOCK ? n - i : BLOCK);
}

/* ---- shares into dqkv ------------------------------------------------------------------------ */

/* All shares of one key/value head and ADD_POSITIONS positions. A row has the same position in all
 * sequences that share it, so no other task writes to it. */
static void add_shares(void *arg, size_t part, int thread)
{
    const struct job *j = arg;
    const struct attention_layer *a = j->a;
    const size_t d = a->head_dim, head = part % a->n_kv_heads;
    const size_t begin = part / a->n_kv_heads * ADD_POSITIONS, end = begin + ADD_POSITIONS;
    (void)thread;

    for (size_t i = 0; i < j->n_items; i++) {
        const struct item *item = &j->items[i];
        const size_t last = item->first_key + item->n_keys;
        const size_t first = item->first_key > begin ? item->first_key : begin;
        if (item->head != head || first >= last)
            continue;
        for (size_t p = first; p < end && p < last; p += KERNEL_COLUMNS) {
            float rows[2][KERNEL_COLUMNS * MOST_D];
            const size_t most = (end < last ? end : last) - p, ld = share_ld(item);
            const size_t n = most < KERNEL_COLUMNS ? most : KERNEL_COLUMNS;
            const float *share = j->shares + item->share + (p - item->first_key);
            for (size_t w = 0; w < 2; w++)
                j->e->math->transpose((uint32_t *)rows[w], MOST_D,
                                      (const uint32_t *)share + w * j->d16 * ld, ld, d, n);
            for (size_t r = 0; r < n; r++) {
                float *to = j->dqkv + (size_t)item->sequence->rows[p + r] * j->lddqkv + head * d;
                j->e->math->add(to + a->k_offset, rows[0] + r * MOST_D, d);
                j->e->math->add(to + a->v_offset, rows[1] + r * MOST_D, d);
            }
        }
    }
}

static void clear_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    (void)thread;
    memset(j->dqkv + first * j->lddqkv, 0, (end - first) * j->lddqkv * sizeof(float));
}

/* One head's gradient back through the rotation and the norm, in place. */
static void unrotate_head(const struct job *j, float *dx, const float *in, const float *norm,
                          const float *cosines, const float *minus_sines)
{
    const size_t d = j->a->head_dim;
    float turned[MOST_D];

    j->e->math->rope(dx, cosines, minus_sines, d / 2);
    if (!norm)
        return;
    memcpy(turned, dx, d * sizeof *turned);
    memset(dx, 0, d * sizeof *dx);
    engine_norm_backward_row(j->e, dx, turned, in, norm, d, j->a->norm_eps);
}

static void unrotate_rows(void *arg, size_t first, size_t end, int thread)
{
    const struct job *j = arg;
    const struct attention_layer *a = j->a;
    const size_t d = a->head_dim, half = d / 2;
    float minus_sines[MOST_D / 2];
    (void)thread;

    for (size_t r = first; r < end; r++) {
        const float *cosines = a->rope_cos + j->positions[r] * half;
        const float *in = j->qkv + r * j->ldqkv;
        float *dx = j->dqkv + r * j->lddqkv;
        for (size_t i = 0; i < half; i++)
            minus_sines[i] = -a->rope_sin[j->positions[r] * half + i];
        for (size_t h = 0; h < a->n_heads; h++)
            unrotate_head(j, dx + a->q_offset + h * d, in + a->q_offset + h * d, a->q_norm, cosines,
                          minus_sines);
        for (size_t h = 0; h < a->n_kv_heads; h++)
            unrotate_head(j, dx + a->k_offset + h * d, in + a->k_offset + h * d, a->k_norm, cosines,
                          minus_sines);
    }
}

/* ---- items, waves, memory -------------------------------------------------------------------- */

static size_t item_tokens(const struct job *j)
{
    return ITEM_ROWS / j->group > 0 ? ITEM_ROWS / j->group : 1;
}

/* All items in the order their shares are added in; `items` NULL only counts them. */
static size_t cut_items(const struct job *j, const struct attention_sequence *sequences,
                        size_t n_sequences, struct item *items)
{
    const size_t step = item_tokens(j);
    size_t n = 0;
    for (size_t s = 0; s < n_sequences; s++)
        for (size_t t = sequences[s].own; t < sequences[s].n; t += step)
            for (size_t h = 0; h < j->a->n_kv_heads; h++, n++) {
                if (!items)
                    continue;
                const size_t left = sequences[s].n - t, n_tokens = left < step ? left : step;
                const size_t window = j->a->window;
                const size_t first_key = window && t + 1 > window ? t + 1 - window : 0;
                items[n] = (struct item){
                    &sequences[s], h, t, n_tokens, first_key, t + n_tokens - first_key, 0};
            }
    return n;
}

/* A thread's scratch out of one piece; with s NULL only its size in floats. */
static size_t lay_out(const struct job *j, float *memory, struct scratch *s)
{
    const size_t keys = j->most_keys;
    const size_t sizes[] = {keys * j->dk,  keys * j->dk,  keys * j->d16, BLOCK * keys,
                            BLOCK * keys,  BLOCK * keys,  BLOCK * j->dk, BLOCK * j->dk,
                            BLOCK * j->dk, BLOCK * j->dk, BLOCK * j->dk};
    float *parts[sizeof sizes / sizeof *sizes];
    size_t total = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        parts[i] = memory ? memory + total : NULL;
        total += sizes[i];
    }
    if (s)
        *s = (struct scratch){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5],
                              parts[6], parts[7], parts[8], parts[9], parts[10]};
    return total;
}

/* Runs all items wave by wave. `most_floats` of shares fit; each item alone does. */
static void run_waves(struct job *j, struct item *items, size_t n_items, size_t most_floats)
{
    const size_t n_tasks = (j->n_positions + ADD_POSITIONS - 1) / ADD_POSITIONS * j->a->n_kv_heads;
    for (size_t i = 0; i < n_items;) {
        size_t used = 0, n = 0;
        for (; i + n < n_items; n++) {
            const size_t size = 2 * j->d16 * share_ld(&items[i + n]);
            if (n > 0 && used + size > most_floats)
                break;
            items[i + n].share = used;
            used += size;
        }
        j->items = items + i;
        j->n_items = n;
        team_run(j->e->team, run_item, j, n);
        team_run(j->e->team, add_shares, j, n_tasks);
        i += n;
    }
}

int attention_cpu_backward(const struct engine *e, const struct attention_layer *a,
                           const struct attention_sequence *sequences, size_t n_sequences,
                           size_t n_rows, const float *qkv, size_t ldqkv, const float *dout,
                           size_t ldo, float *dqkv, size_t lddqkv)
{
    const size_t n_threads = (size_t)team_size(e->team);
    struct job job = {.e = e,
                      .kernels = kernels_find(ELEMENT_F32, e->isa),
                      .a = a,
                      .qkv = qkv,
                      .dout = dout,
                      .dqkv = dqkv,
                      .ldqkv = ldqkv,
                      .ldo = ldo,
                      .lddqkv = lddqkv,
                      .n_rows = n_rows,
                      .group = a->n_heads / a->n_kv_heads,
                      .dk = round_up(a->head_dim, KERNEL_K_STEP),
                      .d16 = round_up(a->head_dim, KERNEL_COLUMNS)};
    struct item *items = NULL;
    size_t *positions = NULL, most_share = 0, all_shares = 0;
    float *memory = NULL;
    int status = 0;

    const size_t n_items = cut_items(&job, sequences, n_sequences, NULL);
    items = malloc((n_items + 1) * sizeof *items);
    positions = calloc(n_rows + 1, sizeof *positions);
    job.scratch = calloc(n_threads, sizeof *job.scratch);
    if (!items || !positions || !job.scratch) {
        status = error_set("no memory for the attention gradient of %zu tokens", n_rows);
        goto done;
    }
    cut_items(&job, sequences, n_sequences, items);
    for (size_t i = 0; i < n_items; i++) {
        const size_t share = 2 * job.d16 * share_ld(&items[i]);
        job.most_keys = share_ld(&items[i]) > job.most_keys ? share_ld(&items[i]) : job.most_keys;
        most_share = share > most_share ? share : most_share;
        all_shares += share;
    }
    for (size_t s = 0; s < n_sequences; s++) {
        job.n_positions = sequences[s].n > job.n_positions ? sequences[s].n : job.n_positions;
        for (size_t p = sequences[s].own; p < sequences[s].n; p++)
            positions[sequences[s].rows[p]] = p;
    }
    job.positions = positions;
    /* room for a wave: so much a thread, but no more than there is and no less than one item */
    size_t most_floats = n_threads * (WAVE_BYTES / sizeof(float));
    most_floats = most_floats < all_shares ? most_floats : all_shares;
    most_floats = most_floats > most_share ? most_floats : most_share;
    const size_t scratch = lay_out(&job, NULL, NULL);
    memory =
        aligned_alloc(64, round_up((most_floats + n_threads * scratch + 1) * sizeof(float), 64));
    if (!memory) {
        status = error_set("no memory for the attention gradient of %zu tokens", n_rows);
        goto done;
    }
    job.shares = memory;
    for (size_t t = 0; t < n_threads; t++) {
        lay_out(&job, memory + most_floats + t * scratch, &job.scratch[t]);
        /* what pads a head up to dk stays zero */
        memset(job.scratch[t].q, 0, BLOCK * job.dk * sizeof(float));
        memset(job.scratch[t].dout, 0, BLOCK * job.dk * sizeof(float));
    }
    team_ranges(e->team, clear_rows, &job, n_rows, rows_of(lddqkv));
    run_waves(&job, items, n_items, most_floats);
    team_ranges(e->team, unrotate_rows, &job, n_rows, rows_of(lddqkv));
done:
    free(items);
    free(positions);
    free(job.scratch);
    free(memory);
    return status;
}

#include "solver/attention_plan.h"

#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

struct cutter {
    const struct attention_sequence *sequences;
    size_t n_sequences, window;
    int32_t *first, *count; /* [n_rows]: the first sequence that names a row, and how many do */
};

static void name_rows(const struct cutter *c, size_t n_rows)
{
    memset(c->count, 0, n_rows * sizeof *c->count);
    for (size_t s = 0; s < c->n_sequences; s++)
        for (size_t p = 0; p < c->sequences[s].n; p++) {
            const int32_t row = c->sequences[s].rows[p];
            if (c->count[row]++ == 0)
                c->first[row] = (int32_t)s;
        }
}

/* Has sequence s queries that see keys of this tile? */
static int visits(const struct cutter *c, size_t s, const struct plan_keys *tile)
{
    const struct attention_sequence *q = &c->sequences[s];
    const struct attention_sequence *own = &c->sequences[tile->sequence];
    const size_t p0 = (size_t)tile->first_position, begin = q->own > p0 ? q->own : p0;
    if (begin >= q->n || (c->window && begin >= p0 + PLAN_TILE + c->window - 1))
        return 0;
    for (size_t j = 0; j < PLAN_TILE && p0 + j < q->n && p0 + j < own->n; j++)
        if ((tile->mask[j / 32] >> j % 32 & 1) && q->rows[p0 + j] == own->rows[p0 + j])
            return 1;
    return 0;
}

/* The tile of sequence s at position p0, and the sequences that visit it; `visitors` NULL only
 * counts them. -1 when it has no keys. */
static int cut_keys(const struct cutter *c, size_t s, size_t p0, struct plan_keys *tile,
                    int32_t *visitors)
{
    const struct attention_sequence *own = &c->sequences[s];
    int shared = 0;
    *tile = (struct plan_keys){.sequence = (int32_t)s, .first_position = (int32_t)p0};
    for (size_t j = 0; j < PLAN_TILE && p0 + j < own->n; j++) {
        const int32_t row = own->rows[p0 + j];
        if (c->first[row] != (int32_t)s)
            continue;
        tile->mask[j / 32] |= (uint32_t)1 << j % 32;
        shared |= c->count[row] > 1;
    }
    if (!(tile->mask[0] | tile->mask[1]))
        return -1;
    for (size_t v = s; v < (shared ? c->n_sequences : s + 1); v++)
        if (visits(c, v, tile)) {
            if (visitors)
                visitors[tile->n_visitors] = (int32_t)v;
            tile->n_visitors++;
        }
    return 0;
}

/* All tiles of keys; with words NULL only their number and that of their visitors. */
static void cut_all_keys(const struct cutter *c, struct attention_plan *plan, size_t *n_visitors)
{
    struct plan_keys tile, *tiles = NULL;
    int32_t *visitors = NULL;
    if (plan->words) {
        tiles = (struct plan_keys *)(plan->words + plan->key_tiles);
        visitors = plan->words + plan->visitors;
    }
    plan->n_key_tiles = *n_visitors = 0;
    for (size_t s = 0; s < c->n_sequences; s++)
        for (size_t p0 = 0; p0 < c->sequences[s].n; p0 += PLAN_TILE) {
            if (cut_keys(c, s, p0, &tile, visitors ? visitors + *n_visitors : NULL) != 0)
                continue;
            tile.visitors_at = (int32_t)*n_visitors;
            if (tiles)
                tiles[plan->n_key_tiles] = tile;
            plan->n_key_tiles++;
            *n_visitors += (size_t)tile.n_visitors;
        }
}

static size_t query_rows(const struct attention_sequence *s, size_t group)
{
    return s->own < s->n ? (s->n - s->own) * group : 0;
}

static void fill_sequences(const struct cutter *c, const struct attention_plan *plan, size_t group)
{
    struct plan_span *spans = (struct plan_span *)(plan->words + plan->spans);
    struct plan_queries *tile = (struct plan_queries *)(plan->words + plan->query_tiles);
    int32_t *rows = plan->words + plan->rows, *positions = plan->words + plan->positions;
    size_t at = 0;

    for (size_t s = 0; s < c->n_sequences; s++) {
        const struct attention_sequence *q = &c->sequences[s];
        spans[s] = (struct plan_span){(int32_t)at, (int32_t)q->n, (int32_t)q->own};
        memcpy(rows + at, q->rows, q->n * sizeof *rows);
        at += q->n;
        for (size_t p = 0; p < q->n; p++)
            positions[q->rows[p]] = (int32_t)p;
        for (size_t i = 0; i < query_rows(q, group); i += PLAN_TILE)
            *tile++ = (struct plan_queries){(int32_t)s, (int32_t)i};
    }
}

static size_t words_of(size_t n, size_t bytes)
{
    return n * bytes / sizeof(int32_t);
}

int attention_plan_create(struct attention_plan *plan, const struct attention_sequence *sequences,
                          size_t n_sequences, size_t n_rows, size_t group, size_t window)
{
    struct cutter c = {.sequences = sequences, .n_sequences = n_sequences, .window = window};
    size_t n_all = 0, n_visitors;
    int status = 0;

    memset(plan, 0, sizeof *plan);
    c.first = malloc(2 * (n_rows + 1) * sizeof *c.first);
    if (!c.first) {
        status = error_set("no memory for the attention gradient of %zu tokens", n_rows);
        goto done;
    }
    c.count = c.first + n_rows;
    name_rows(&c, n_rows);
    for (size_t s = 0; s < n_sequences; s++) {
        n_all += sequences[s].n;
        plan->n_query_tiles += (query_rows(&sequences[s], group) + PLAN_TILE - 1) / PLAN_TILE;
    }
    cut_all_keys(&c, plan, &n_visitors);
    plan->rows = plan->spans + words_of(n_sequences, sizeof(struct plan_span));
    plan->positions = plan->rows + n_all;
    plan->query_tiles = plan->positions + n_rows;
    plan->key_tiles =
        plan->query_tiles + words_of(plan->n_query_tiles, sizeof(struct plan_queries));
    plan->visitors = plan->key_tiles + words_of(plan->n_key_tiles, sizeof(struct plan_keys));
    plan->n_words = plan->visitors + n_visitors;
    plan->words = calloc(plan->n_words + 1, sizeof *plan->words);
    if (!plan->words) {
        status = error_set("no memory for the attention gradient of %zu tokens", n_rows);
        goto done;
    }
    fill_sequences(&c, plan, group);
    cut_all_keys(&c, plan, &n_visitors);
done:
    free(c.first);
    if (status != 0)
        attention_plan_free(plan);
    return status;
}

void attention_plan_free(struct attention_plan *plan)
{
    free(plan->words);
    memset(plan, 0, sizeof *plan);
}

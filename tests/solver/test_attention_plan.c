/* How the gradient of attention is cut: every query row and every key in exactly one tile, and
 * every pair of a query and a key that it sees met exactly once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "solver/attention_plan.h"
#include "tests/solver/train_cases.h"

static void check_queries(const struct attention_plan *plan, const struct attention_case *t,
                          size_t group)
{
    const struct plan_queries *tiles = (const void *)(plan->words + plan->query_tiles);
    size_t n = 0;
    for (size_t s = 0; s < t->n_sequences; s++)
        for (size_t i = 0; i < (t->sequences[s].n - t->sequences[s].own) * group; i += PLAN_TILE) {
            assert_int_equal(tiles[n].sequence, s);
            assert_int_equal(tiles[n].first, i);
            n++;
        }
    assert_int_equal(plan->n_query_tiles, n);
}

/* seen [n_rows, n_rows] += the pairs (query, key) that a tile's visitor meets */
static void visit(const struct attention_plan *plan, const struct attention_case *t,
                  const struct plan_keys *tile, size_t visitor, unsigned char *seen)
{
    const struct plan_span *spans = (const void *)(plan->words + plan->spans);
    const int32_t *own = plan->words + plan->rows + spans[tile->sequence].rows_at;
    const int32_t *rows = plan->words + plan->rows + spans[visitor].rows_at;
    for (int32_t q = spans[visitor].own; q < spans[visitor].n; q++)
        for (int32_t j = 0; j < PLAN_TILE; j++) {
            const int32_t key = tile->first_position + j;
            if (!(tile->mask[j / 32] >> j % 32 & 1) || key > q || rows[key] != own[key] ||
                (t->a.window && (size_t)(q - key) >= t->a.window))
                continue;
            seen[(size_t)rows[q] * t->n_rows + (size_t)rows[key]]++;
        }
}

static void check_pairs(const struct attention_plan *plan, const struct attention_case *t)
{
    const struct plan_keys *tiles = (const void *)(plan->words + plan->key_tiles);
    const int32_t *visitors = plan->words + plan->visitors;
    unsigned char *seen = filled(t->n_rows * t->n_rows, 0);

    for (size_t i = 0; i < plan->n_key_tiles; i++)
        for (int32_t v = 0; v < tiles[i].n_visitors; v++) {
            const int32_t visitor = visitors[tiles[i].visitors_at + v];
            if (v > 0)
                assert_true(visitor > visitors[tiles[i].visitors_at + v - 1]);
            visit(plan, t, &tiles[i], (size_t)visitor, seen);
        }
    for (size_t s = 0; s < t->n_sequences; s++)
        for (size_t q = t->sequences[s].own; q < t->sequences[s].n; q++)
            for (size_t k = 0; k <= q; k++) {
                const int32_t *rows = t->sequences[s].rows;
                unsigned char *pair = &seen[(size_t)rows[q] * t->n_rows + (size_t)rows[k]];
                assert_int_equal(*pair, !t->a.window || q - k < t->a.window);
                *pair = 0;
            }
    for (size_t i = 0; i < t->n_rows * t->n_rows; i++)
        assert_int_equal(seen[i], 0);
    free(seen);
}

static void every_pair_is_met_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < 60; i++) {
        struct attention_case t;
        struct attention_plan plan;
        const size_t group = 1 + i % 5, prefix = random_below(200), n = 1 + random_below(8);
        make_case(&t, group, 1, 2, i % 3 ? 0 : 1 + random_below(150), n, prefix, 150, false);
        assert_int_equal(
            attention_plan_create(&plan, t.sequences, t.n_sequences, t.n_rows, group, t.a.window),
            0);
        check_queries(&plan, &t, group);
        check_pairs(&plan, &t);
        for (size_t s = 0; s < t.n_sequences; s++)
            for (size_t p = 0; p < t.sequences[s].n; p++)
                assert_int_equal(plan.words[plan.positions + (size_t)t.rows[s][p]], p);
        attention_plan_free(&plan);
        free_case(&t);
    }
}

/* Not what a batch of today looks like: prefixes of prefixes. */
static void sequences_may_share_in_a_tree(void **state)
{
    (void)state;
    enum { N = 3 };
    int32_t rows[N][150];
    struct attention_case t = {.n_sequences = N};
    struct attention_plan plan;
    for (int32_t p = 0; p < 150; p++) {
        rows[0][p] = p;
        rows[1][p] = p < 70 ? p : 100 + p; /* from 170 */
        rows[2][p] = p < 90 ? rows[1][p] : 200 + p;
    }
    t.sequences[0] = (struct attention_sequence){rows[0], 150, 0};
    t.sequences[1] = (struct attention_sequence){rows[1], 150, 70};
    t.sequences[2] = (struct attention_sequence){rows[2], 150, 90};
    t.n_rows = 350;
    assert_int_equal(attention_plan_create(&plan, t.sequences, N, t.n_rows, 2, 0), 0);
    check_queries(&plan, &t, 2);
    check_pairs(&plan, &t);
    attention_plan_free(&plan);
}

static void no_sequences_make_no_tiles(void **state)
{
    (void)state;
    struct attention_plan plan;
    assert_int_equal(attention_plan_create(&plan, NULL, 0, 5, 1, 0), 0);
    assert_int_equal(plan.n_query_tiles, 0);
    assert_int_equal(plan.n_key_tiles, 0);
    attention_plan_free(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_is_met_once),
        cmocka_unit_test(sequences_may_share_in_a_tree),
        cmocka_unit_test(no_sequences_make_no_tiles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "train/objective.h"
#include "train/optimizer.h"
#include "train/rollout_order.h"

/* Values of torch.optim.AdamW(lr=2e-3, weight_decay=0.1) after each of three steps on these
 * gradients, in f64 (tests/oracle/adam_oracle.py). */
static const float gradients[3][3] = {
    {0.5f, -2e-4f, 0}, {-0.25f, 3e-4f, 1e-9f}, {0.125f, 1e-4f, -1}};
static const double expected[3][3] = {
#include "adam_expected.inc"
};

static void adam_is_pytorchs(void **state)
{
    (void)state;
    struct adam adam;
    struct adam_options options = adam_defaults();
    float parameters[3] = {1, 1, -0.5f}, gradient[3];
    options.weight_decay = 0.1;
    assert_int_equal(adam_create(&adam, 3), 0);
    for (int step = 0; step < 3; step++) {
        memcpy(gradient, gradients[step], sizeof gradient);
        adam_step(&adam, &options, options.rate, parameters, gradient, NULL);
        for (int i = 0; i < 3; i++)
            assert_true(fabs(parameters[i] - expected[step][i]) < 2e-7);
    }
    adam_free(&adam);
}

static void clipping_leaves_small_gradients_alone(void **state)
{
    (void)state;
    float g[2] = {3, 4};
    assert_true(fabs(clip_by_norm(g, 2, 10) - 5) < 1e-12);
    assert_true(g[0] == 3 && g[1] == 4);
    assert_true(fabs(clip_by_norm(g, 2, 1e-3) - 5) < 1e-12);
    assert_true(fabs(sqrt(g[0] * g[0] + g[1] * g[1]) - 1e-3) < 1e-9);
    float h[2] = {-8, 4};
    assert_true(clip_by_max(h, 2, 2) == 8);
    assert_true(h[0] == -2 && h[1] == 1);
}

static void schedules_start_warm_and_end_at_nothing(void **state)
{
    (void)state;
    assert_true(schedule_factor(SCHEDULE_CONSTANT, 70, 75, 0) == 1);
    assert_true(schedule_factor(SCHEDULE_COSINE, 0, 10, 0) == 1);
    assert_true(fabs(schedule_factor(SCHEDULE_COSINE, 5, 10, 0) - 0.5) < 1e-12);
    assert_true(fabs(schedule_factor(SCHEDULE_LINEAR, 9, 10, 0) - 0.1) < 1e-12);
    for (size_t i = 1; i < 4; i++)
        assert_true(schedule_factor(SCHEDULE_COSINE, i, 10, 4) >
                    schedule_factor(SCHEDULE_COSINE, i - 1, 10, 4));
    assert_true(schedule_factor(SCHEDULE_COSINE, 4, 10, 4) == 1);
}

static void baselines_centre_the_rewards(void **state)
{
    (void)state;
    const double r[4] = {1, -1, 1, 1};
    double a[4];
    objective_advantages(BASELINE_NONE, r, 2, 2, a);
    assert_memory_equal(a, r, sizeof a);
    objective_advantages(BASELINE_MEAN, r, 2, 2, a);
    assert_true(a[0] == 0.5 && a[1] == -1.5);
    objective_advantages(BASELINE_RLOO, r, 2, 2, a);
    assert_true(a[0] == 2 && a[1] == -2 && a[2] == 0 && a[3] == 0);
    objective_advantages(BASELINE_GRPO, r, 2, 2, a);
    assert_true(fabs(a[0] - 1 / (sqrt(2) + 1e-4)) < 1e-12 && a[0] == -a[1] && a[2] == 0);
}

static void clipped_ratios_carry_no_gradient(void **state)
{
    (void)state;
    assert_true(objective_token_weight(2, -1, -1, 0) == 2);
    assert_true(objective_token_weight(2, -1, -1, 0.2) == 2);
    assert_true(objective_token_weight(2, 0, -1, 0.2) == 0);
    assert_true(objective_token_weight(-2, 0, -1, 0.2) < -2);
    assert_true(objective_token_weight(-2, -1, 0, 0.2) == 0);
}

/* k3's weight is minus the derivative of its value. */
static void k3_weight_is_its_derivative(void **state)
{
    (void)state;
    double low, high, value;
    const double step = 1e-6;
    objective_kl_weight(KL_K3, 1, -1 - step, -1.5, &low);
    objective_kl_weight(KL_K3, 1, -1 + step, -1.5, &high);
    const double weight = objective_kl_weight(KL_K3, 0.3, -1, -1.5, &value);
    assert_true(fabs(weight + 0.3 * (high - low) / (2 * step)) < 1e-8);
    assert_true(value > 0);
}

static void an_epoch_is_a_permutation(void **state)
{
    (void)state;
    enum { ITEMS = 103, BATCH = 10 };
    int seen[ITEMS] = {0};
    size_t items[BATCH], again[BATCH];
    for (uint64_t step = 0; step < ITEMS / BATCH; step++) {
        assert_int_equal(rollout_order(7, step, ITEMS, BATCH, items), 0);
        assert_int_equal(rollout_order(7, step, ITEMS, BATCH, again), 0);
        assert_memory_equal(items, again, sizeof items);
        for (size_t i = 0; i < BATCH; i++) {
            assert_true(items[i] < ITEMS);
            assert_int_equal(seen[items[i]]++, 0);
        }
    }
    assert_int_equal(rollout_order(7, ITEMS / BATCH, ITEMS, BATCH, again), 0);
    assert_memory_not_equal(items, again, sizeof items);
}

static void a_batch_larger_than_the_data_repeats_it(void **state)
{
    (void)state;
    int seen[3] = {0};
    size_t items[7];
    for (uint64_t step = 0; step < 3; step++) {
        assert_int_equal(rollout_order(1, step, 3, 7, items), 0);
        for (size_t i = 0; i < 7; i++)
            seen[items[i]]++;
    }
    assert_true(seen[0] == 7 && seen[1] == 7 && seen[2] == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adam_is_pytorchs),
        cmocka_unit_test(clipping_leaves_small_gradients_alone),
        cmocka_unit_test(schedules_start_warm_and_end_at_nothing),
        cmocka_unit_test(baselines_centre_the_rewards),
        cmocka_unit_test(clipped_ratios_carry_no_gradient),
        cmocka_unit_test(k3_weight_is_its_derivative),
        cmocka_unit_test(an_epoch_is_a_permutation),
        cmocka_unit_test(a_batch_larger_than_the_data_repeats_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

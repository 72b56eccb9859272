#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "train/guard.h"

enum { STEPS = 30 };

static void a_healthy_run_raises_no_alarm(void **state)
{
    (void)state;
    struct train_point curve[STEPS];
    for (size_t i = 0; i < STEPS; i++) /* one answer nearly always, but it still tries the other */
        curve[i] = (struct train_point){.one_answer_share = 0.98, .entropy = 0.3};
    assert_false(guard_looks_collapsed(curve, 0, STEPS, 3));
    for (size_t i = 0; i < STEPS; i++) /* sure of itself, with two answers */
        curve[i] = (struct train_point){.one_answer_share = 0.6, .entropy = 0.01};
    assert_false(guard_looks_collapsed(curve, 0, STEPS, 3));
}

static void one_answer_to_everything_is_a_collapse(void **state)
{
    (void)state;
    struct train_point curve[STEPS] = {{0}};
    for (size_t i = 20; i < STEPS; i++)
        curve[i] = (struct train_point){.one_answer_share = 1, .entropy = 1e-3};
    assert_false(guard_looks_collapsed(curve, 0, 22, 12));
    assert_true(guard_looks_collapsed(curve, 0, STEPS, 10));
    assert_false(guard_looks_collapsed(curve, 25, STEPS, 10)); /* an alarm was raised at 25 */
}

static void a_roll_back_restores_the_best_state(void **state)
{
    (void)state;
    struct comm comm = {.size = 1};
    struct trainer trainer = {.comm = &comm, .options = train_defaults(), .quiet = true};
    struct train_state s;
    const float origin[2] = {1, 1};
    trainer.options.guard = GUARD_ROLLBACK;
    assert_int_equal(train_state_create(&s, 2, 0), 0);
    s.parameters[0] = 7;
    s.adam.m[1] = 3;
    s.adam.step = 40;
    for (int i = 0; i < 5; i++) {
        const struct train_point point = {.one_answer_share = 1};
        assert_int_equal(train_state_add_point(&s, &point, NULL), 0);
    }
    guard_check(&trainer, &s, origin);
    assert_true(s.parameters[0] == 1 && s.adam.m[1] == 0 && s.adam.step == 0);
    assert_true(s.rate_scale == 0.5 && s.n_rollbacks == 1 && s.last_alarm == 5);
    guard_check(&trainer, &s, origin);
    assert_int_equal(s.n_rollbacks, 1);
    train_state_free(&s);
}

static void validation_below_base_counts_beyond_chance(void **state)
{
    (void)state;
    struct train_state s;
    assert_int_equal(train_state_create(&s, 1, 0), 0);
    const struct train_validation base = {0, 200, 0.56, 0, 0.6}, near = {5, 200, 0.53, 0, 0.6};
    const struct train_validation far = {10, 200, 0.4, 0, 0.6};
    assert_int_equal(train_state_add_validation(&s, &base), 0);
    assert_int_equal(train_state_add_validation(&s, &near), 0);
    assert_false(guard_is_below_base(&s));
    assert_int_equal(train_state_add_validation(&s, &far), 0);
    assert_true(guard_is_below_base(&s));
    train_state_free(&s);
}

static void one_answer_in_validation_is_a_collapse_unless_the_base_had_it(void **state)
{
    (void)state;
    const struct train_validation varied = {0, 200, 0.59, 0, 0.7}, same = {10, 200, 0.57, 0, 1};
    struct train_state s;
    assert_int_equal(train_state_create(&s, 1, 0), 0);
    assert_int_equal(train_state_add_validation(&s, &varied), 0);
    assert_false(guard_answers_one_thing(&s));
    assert_int_equal(train_state_add_validation(&s, &same), 0);
    assert_true(guard_answers_one_thing(&s));
    s.validations[0].one_answer_share = 0.99;
    assert_false(guard_answers_one_thing(&s));
    train_state_free(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_healthy_run_raises_no_alarm),
        cmocka_unit_test(one_answer_to_everything_is_a_collapse),
        cmocka_unit_test(a_roll_back_restores_the_best_state),
        cmocka_unit_test(validation_below_base_counts_beyond_chance),
        cmocka_unit_test(one_answer_in_validation_is_a_collapse_unless_the_base_had_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mpi/error.h"
#include "train/state.h"

enum { N = 37 };
static char path[64];

static void make(struct train_state *s)
{
    assert_int_equal(train_state_create(s, N, 0), 0);
    for (size_t i = 0; i < N; i++) {
        s->parameters[i] = 1.0f / (float)(i + 3);
        s->adam.m[i] = 1e-30f * (float)i;
        s->adam.v[i] = 3e-40f * (float)i; /* denormal */
    }
    s->adam.step = 5;
    for (int i = 0; i < 4; i++) {
        struct train_point point = {.reward = i, .seconds_other = 0.5 * i};
        assert_int_equal(train_state_add_point(s, &point, NULL), 0);
    }
    struct train_validation validation = {4, 100, 0.75, 0.7, 0.6};
    assert_int_equal(train_state_add_validation(s, &validation), 0);
    s->best_parameters = malloc(N * sizeof(float));
    memcpy(s->best_parameters, s->parameters, N * sizeof(float));
    s->best_score = 0.75;
    s->best_step = 4;
    s->rate_scale = 0.5;
    s->n_rollbacks = 1;
}

static void a_state_comes_back_bit_by_bit(void **state)
{
    (void)state;
    struct train_state a, b;
    make(&a);
    assert_int_equal(train_state_write(&a, "seed = 1\nrate = 2\n", path), 0);
    assert_int_equal(train_state_create(&b, N, 0), 0);
    assert_int_equal(train_state_read(&b, "seed = 1\nrate = 2\n", path), 0);
    assert_int_equal(b.step, 4);
    assert_int_equal(b.adam.step, 5);
    assert_int_equal(b.n_validations, 1);
    assert_true(b.best_score == 0.75 && b.rate_scale == 0.5 && b.n_rollbacks == 1 &&
                b.best_step == 4);
    assert_memory_equal(a.parameters, b.parameters, N * sizeof(float));
    assert_memory_equal(a.best_parameters, b.best_parameters, N * sizeof(float));
    assert_memory_equal(a.adam.m, b.adam.m, N * sizeof(float));
    assert_memory_equal(a.adam.v, b.adam.v, N * sizeof(float));
    assert_memory_equal(a.curve, b.curve, 4 * sizeof *a.curve);
    train_state_free(&a);
    train_state_free(&b);
}

static void another_runs_state_is_refused_with_the_line(void **state)
{
    (void)state;
    struct train_state a;
    make(&a);
    assert_int_equal(train_state_write(&a, "seed = 1\nrate = 2\n", path), 0);
    assert_int_equal(train_state_read(&a, "seed = 1\nrate = 3\n", path), -1);
    assert_non_null(strstr(error_message(), "it has 'rate = 2', this run has 'rate = 3'"));
    train_state_free(&a);
    assert_int_equal(train_state_create(&a, N + 1, 0), 0);
    assert_int_equal(train_state_read(&a, "seed = 1\nrate = 2\n", path), -1);
    assert_non_null(strstr(error_message(), "shape"));
    train_state_free(&a);
}

static void truncated_states_are_refused(void **state)
{
    (void)state;
    struct train_state a;
    make(&a);
    assert_int_equal(train_state_write(&a, "s", path), 0);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char bytes[1 << 16];
    const size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    for (size_t cut = 0; cut + 1 < n; cut += 1 + n / 40) {
        file = fopen(path, "wb");
        fwrite(bytes, 1, cut, file);
        fclose(file);
        assert_int_equal(train_state_read(&a, "s", path), -1);
        assert_int_equal(a.step, 4); /* what was there stays */
    }
    train_state_free(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_state_comes_back_bit_by_bit),
        cmocka_unit_test(another_runs_state_is_refused_with_the_line),
        cmocka_unit_test(truncated_states_are_refused),
    };
    snprintf(path, sizeof path, "/tmp/t2-test-state-%d.h5", (int)getpid());
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}

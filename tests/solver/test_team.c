#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "solver/team.h"

enum { MOST = 1000 };

struct tally {
    _Atomic int times[MOST];
    int n_threads;
};

static void count_part(void *arg, size_t part, int thread)
{
    struct tally *t = arg;
    assert_true(thread >= 0 && thread < t->n_threads);
    atomic_fetch_add(&t->times[part], 1);
}

static void count_range(void *arg, size_t first, size_t end, int thread)
{
    for (size_t i = first; i < end; i++)
        count_part(arg, i, thread);
}

static void every_part_runs_once(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 7; n_threads += 2) {
        struct team *team = team_create(n_threads);
        struct tally t = {.n_threads = n_threads};
        for (int job = 0; job < 2000; job++) {
            const size_t n = (size_t)(job % 40);
            for (size_t i = 0; i < MOST; i++)
                atomic_store(&t.times[i], 0);
            team_run(team, count_part, &t, n);
            for (size_t i = 0; i < 50; i++)
                assert_int_equal(atomic_load(&t.times[i]), i < n);
        }
        for (size_t n = 0; n < MOST; n += 37) {
            for (size_t i = 0; i < MOST; i++)
                atomic_store(&t.times[i], 0);
            team_ranges(team, count_range, &t, n, 1 + n % 9);
            for (size_t i = 0; i < MOST; i++)
                assert_int_equal(atomic_load(&t.times[i]), i < n);
        }
        team_free(team);
    }
}

static void no_team_is_one_thread(void **state)
{
    (void)state;
    struct tally t = {.n_threads = 1};
    team_run(NULL, count_part, &t, 3);
    assert_int_equal(atomic_load(&t.times[2]), 1);
    assert_int_equal(team_size(NULL), 1);
    team_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_runs_once),
        cmocka_unit_test(no_team_is_one_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ranks: 1 2 3 4 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mpi/error.h"
#include "mpi/ordered_sum.h"

enum { PARTS = 7, SHORT = 1003, LONG = 700001 }; /* LONG: several pieces on 2 and more ranks */

static struct comm comm;

static float value(size_t part, size_t i)
{
    return (float)((double)(i * 7919 % 104729) * (part % 2 ? -1e-3 : 1e3)) +
           1.0f / (float)(part + 1);
}

static void sum_and_check(size_t n)
{
    for (int rule = 0; rule < 3; rule++) {
        float *mine[PARTS];
        size_t numbers[PARTS], n_mine = 0;
        double *total = malloc(n * sizeof *total);
        for (size_t p = 0; p < PARTS; p++) {
            const int owner = rule == 0   ? (int)p % comm.size
                              : rule == 1 ? 0
                                          : (int)(p * p) % comm.size;
            if (owner != comm.rank)
                continue;
            mine[n_mine] = malloc(n * sizeof(float));
            for (size_t i = 0; i < n; i++)
                mine[n_mine][i] = value(p, i);
            numbers[n_mine++] = p;
        }
        assert_int_equal(
            ordered_sum(&comm, PARTS, numbers, (const float *const *)mine, n_mine, n, total), 0);
        for (size_t i = 0; i < n; i++) {
            double sum = 0;
            for (size_t p = 0; p < PARTS; p++)
                sum += value(p, i);
            assert_true(sum == total[i]);
        }
        while (n_mine > 0)
            free(mine[--n_mine]);
        free(total);
    }
}

static void sums_are_in_part_order_whoever_holds_the_parts(void **state)
{
    (void)state;
    sum_and_check(SHORT);
    sum_and_check(1); /* less than an element a rank */
}

static void long_vectors_travel_in_pieces(void **state)
{
    (void)state;
    sum_and_check(LONG);
}

static void a_part_without_a_rank_is_an_error_on_all(void **state)
{
    (void)state;
    double total[2];
    assert_int_equal(ordered_sum(&comm, 1, NULL, NULL, 0, 2, total), -1);
    assert_non_null(strstr(error_message(), "held by no rank"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_in_part_order_whoever_holds_the_parts),
        cmocka_unit_test(long_vectors_travel_in_pieces),
        cmocka_unit_test(a_part_without_a_rank_is_an_error_on_all),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&comm);
    return failed;
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "solver/kernels.h"

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(bf16_from_f32(1.0f), 0x3f80);
    assert_int_equal(bf16_from_f32(1.00390625f), 0x3f80); /* halfway, even below */
    assert_int_equal(bf16_from_f32(1.01171875f), 0x3f82); /* halfway, even above */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(bf16_rounds_to_nearest_even)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The expected logits themselves are in order: every file of tests/fixtures/tiny reads to its end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/model/tiny_fixture.h"

static void every_expected_file_reads(void **state)
{
    (void)state;
    for (size_t i = 0; i < TINY_FIXTURE_COUNT; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/tiny/%s/expected.bin", T2_FIXTURES, tiny_fixture_names[i]);
        struct tiny_fixture fixture = tiny_fixture_read(path);
        assert_int_equal(fixture.n_sequences, 3);
        for (size_t s = 0; s < fixture.n_sequences; s++) {
            const struct tiny_sequence *sequence = &fixture.sequences[s];
            assert_int_equal(sequence->rows[sequence->n_rows - 1], sequence->n_tokens - 1);
            for (size_t t = 0; t < sequence->n_tokens; t++)
                assert_in_range(sequence->ids[t], 0, fixture.vocab_size - 1);
        }
        tiny_fixture_free(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_expected_file_reads)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

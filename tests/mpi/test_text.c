#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "mpi/text.h"

static void swapped_letters_count_as_one_edit(void **state)
{
    (void)state;
    assert_int_equal(text_distance("genreate", "generate", 3), 1);
    assert_int_equal(text_distance("Eval", "eval", 3), 0);
    assert_int_equal(text_distance("abc", "xyz", 2), 3);
    assert_int_equal(text_distance("", "ab", 5), 2);
}

static void the_nearest_name_is_one_that_may_be_meant(void **state)
{
    (void)state;
    static const char *const names[] = {"generate", "eval", "inspect", "data"};
    assert_string_equal(text_nearest("evla", names, 4), "eval");
    assert_string_equal(text_nearest("gen", names, 4), "generate");
    assert_null(text_nearest("zebra", names, 4));
    assert_null(text_nearest("", names, 4));
}

static void sizes_durations_and_counts_read_well(void **state)
{
    (void)state;
    char t[32];
    assert_string_equal(text_bytes(t, sizeof t, 12), "12 bytes");
    assert_string_equal(text_bytes(t, sizeof t, 1023.7), "1.0 KiB");
    assert_string_equal(text_bytes(t, sizeof t, 258.4 * 1048576), "258 MiB");
    assert_string_equal(text_bytes(t, sizeof t, 1.94 * 1073741824.0), "1.9 GiB");
    assert_string_equal(text_duration(t, sizeof t, 0.42), "0.42 s");
    assert_string_equal(text_duration(t, sizeof t, 12.34), "12.3 s");
    assert_string_equal(text_duration(t, sizeof t, 245), "4 min 05 s");
    assert_string_equal(text_duration(t, sizeof t, 3599.9), "1 h 00 min");
    assert_string_equal(text_duration(t, sizeof t, 8000), "2 h 13 min");
    assert_string_equal(text_duration(t, sizeof t, 100 * 3600), "4 d 04 h");
    assert_string_equal(text_duration(t, sizeof t, -1), "0.00 s");
    assert_string_equal(text_duration(t, sizeof t, (double)INFINITY), "11574074074 d 02 h");
    assert_string_equal(text_count(t, sizeof t, 12), "12");
    assert_string_equal(text_count(t, sizeof t, 123456), "123 456");
    assert_string_equal(text_count(t, sizeof t, 134515008), "134.5 M");
}

static void wide_and_combining_characters_count_as_a_terminal_shows_them(void **state)
{
    (void)state;
    assert_int_equal(text_width("abc"), 3);
    assert_int_equal(text_width("\xe4\xbd\xa0\xe5\xa5\xbd"), 4);
    assert_int_equal(text_width("e\xcc\x81"), 1);
    assert_int_equal(text_width("\xff\xc3"), 2);
}

static void tables_align_their_columns(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    struct text_table table;
    FILE *file = open_memstream(&text, &size);
    text_table_begin(&table, "lr");
    text_table_cell(&table, "task");
    text_table_cell(&table, "n");
    text_table_cell(&table, "a");
    text_table_cell(&table, "%d", 100);
    text_table_print(&table, file, 2);
    fclose(file);
    assert_string_equal(text, "  task    n\n  a     100\n");
    free(text);
}

static void wrapping_breaks_at_spaces_and_indents(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    text_wrap(file, "one two three four five six\nseven", 2, 20);
    fclose(file);
    assert_string_equal(text, "one two three four\n  five six\n  seven\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(swapped_letters_count_as_one_edit),
        cmocka_unit_test(the_nearest_name_is_one_that_may_be_meant),
        cmocka_unit_test(sizes_durations_and_counts_read_well),
        cmocka_unit_test(wide_and_combining_characters_count_as_a_terminal_shows_them),
        cmocka_unit_test(tables_align_their_columns),
        cmocka_unit_test(wrapping_breaks_at_spaces_and_indents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

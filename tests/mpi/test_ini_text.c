/* INI lines and values, as tasks, recipes and domains have them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"
#include "mpi/ini_text.h"

struct seen {
    struct ini_value value;
    char section[32];
    int n;
};

static int take(void *context, const struct ini_line *line)
{
    struct seen *seen = context;

    if (strcmp(line->name, "bad") == 0)
        return ini_fail(line->path, line->number, "no %s here", line->name);
    seen->n++;
    strcpy(seen->section, line->section);
    return ini_value_take(&seen->value, line, line->indented && seen->n > 1);
}

static int read_text(struct seen *seen, const char *text)
{
    *seen = (struct seen){0};
    return ini_read(text, "x.ini", "'key = value'", take, seen);
}

static void a_value_goes_on_in_lines_that_begin_with_a_blank(void **state)
{
    (void)state;
    struct seen seen;

    assert_int_equal(0, read_text(&seen, "[a]\n; nothing\nk = one\n  two\n  \"three \"\n  four\n"));
    assert_string_equal("a", seen.section);
    assert_int_equal(3, seen.value.line);
    char *text = ini_value_text(&seen.value, "x.ini");
    assert_string_equal("one twothree four", text);
    free(text);
    free(seen.value.raw);
}

static void quotes_keep_blanks_and_escapes_are_undone(void **state)
{
    (void)state;
    struct seen seen;

    assert_int_equal(0, read_text(&seen, "k = \" a\\n\\\"b\\\" \\\\ \\; \"\n"));
    char *text = ini_value_text(&seen.value, "x.ini");
    assert_string_equal(" a\n\"b\" \\ ; ", text);
    free(text);
    free(seen.value.raw);
    assert_int_equal(0, read_text(&seen, "k = \"open\n"));
    assert_null(ini_value_text(&seen.value, "x.ini"));
    assert_non_null(strstr(error_message(), "x.ini:1: a quoted text must end with a quote"));
    free(seen.value.raw);
}

static void lists_are_parted_by_bars_and_lines(void **state)
{
    (void)state;
    struct seen seen;
    char *items[3] = {0};
    size_t n;
    bool quoted;

    assert_int_equal(0, read_text(&seen, "k = one | \"two | 2\"\n  three\n"));
    assert_int_equal(0, ini_value_list(&seen.value, "x.ini", items, 3, &n, &quoted));
    assert_int_equal(3, n);
    assert_string_equal("two | 2", items[1]);
    assert_string_equal("three", items[2]);
    for (size_t i = 0; i < n; i++)
        free(items[i]);
    assert_int_equal(-1, ini_value_list(&seen.value, "x.ini", items, 2, &n, &quoted));
    assert_non_null(strstr(error_message(), "at most 2 items"));
    for (size_t i = 0; i < n; i++)
        free(items[i]);
    free(seen.value.raw);
}

static void mistakes_name_file_and_line(void **state)
{
    (void)state;
    struct seen seen;
    char text[512];

    assert_int_equal(-1, read_text(&seen, "k = 1\nnothing\n"));
    assert_string_equal("x.ini:2: expected 'key = value'", error_message());
    free(seen.value.raw);
    assert_int_equal(-1, read_text(&seen, "k = 1\n\nbad = 2\n"));
    assert_string_equal("x.ini:3: no bad here", error_message());
    free(seen.value.raw);
    assert_int_equal(-1, read_text(&seen, "k = 1\nk = 2\n"));
    assert_string_equal("x.ini:2: 'k' is set twice (first on line 1)", error_message());
    free(seen.value.raw);
    memset(text, 'x', sizeof text);
    memcpy(text, "k = ", 4);
    text[sizeof text - 1] = '\0';
    assert_int_equal(-1, read_text(&seen, text));
    assert_non_null(strstr(error_message(), "x.ini:1: the line is longer than"));
    free(seen.value.raw);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_goes_on_in_lines_that_begin_with_a_blank),
        cmocka_unit_test(quotes_keep_blanks_and_escapes_are_undone),
        cmocka_unit_test(lists_are_parted_by_bars_and_lines),
        cmocka_unit_test(mistakes_name_file_and_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mpi/progress.h"
#include "mpi/text.h"

static void a_line_has_title_share_rate_time_left_and_note(void **state)
{
    (void)state;
    const struct progress p = {
        .title = "sst2", .note = "accuracy 0.56", .done = 50, .total = 200, .start = 10};
    char text[256];
    progress_line(&p, 15, false, 100, text, sizeof text);
    assert_string_equal(text, "sst2   25%  50/200  10/s  15.0 s left  accuracy 0.56");
    progress_line(&p, 15, true, 100, text, sizeof text);
    assert_string_equal(
        text, "sst2  ######..................  25%  50/200  10/s  15.0 s left  accuracy 0.56");
}

static void an_unknown_total_shows_the_count_alone(void **state)
{
    (void)state;
    const struct progress p = {.title = "tokens", .done = 1234, .start = 0};
    char text[256];
    progress_line(&p, 1000, true, 80, text, sizeof text);
    assert_string_equal(text, "tokens  1 234  1.23/s");
}

static void a_narrow_terminal_cuts_whole_characters(void **state)
{
    (void)state;
    const struct progress p = {
        .title = "\xe4\xbd\xa0\xe5\xa5\xbd", .done = 1, .total = 2, .unicode = true};
    char text[256];
    for (size_t width = 0; width < 90; width++) {
        progress_line(&p, 1, true, width, text, sizeof text);
        assert_true(text_width(text) <= width);
        assert_true(width < 4 || strncmp(text, p.title, 6) == 0);
    }
}

static void a_quiet_progress_prints_nothing(void **state)
{
    (void)state;
    const struct comm comm = {.size = 1};
    struct progress p;
    progress_begin(&p, &comm, "quiet", 10, true);
    progress_update(&p, 5, "score %d", 1);
    assert_null(p.file);
    progress_end(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_line_has_title_share_rate_time_left_and_note),
        cmocka_unit_test(an_unknown_total_shows_the_count_alone),
        cmocka_unit_test(a_narrow_terminal_cuts_whole_characters),
        cmocka_unit_test(a_quiet_progress_prints_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "jobs/stream.h"

/* What is shown after each piece, pieces and answers separated by '|'. */
static void assert_shows(const char *const *stops, size_t n_stops, const char *const *pieces,
                         const char *const *shown)
{
    struct stream s;
    stream_begin(&s, stops, n_stops);
    for (; *pieces; pieces++, shown++) {
        size_t n;
        assert_int_equal(stream_push(&s, *pieces, strlen(*pieces), &n), 0);
        assert_int_equal(n, strlen(*shown));
        if (n > 0)
            assert_memory_equal(s.held, *shown, n);
        stream_take(&s, n);
    }
    stream_free(&s);
}

static void characters_are_shown_whole(void **state)
{
    (void)state;
    assert_shows(NULL, 0, (const char *[]){"a\xf0\x9f", "\x98", "\x80z", NULL},
                 (const char *[]){"a", "", "\xf0\x9f\x98\x80z"});
    assert_shows(NULL, 0, (const char *[]){"\xff", "\x80\x80", "b", NULL},
                 (const char *[]){"\xff", "\x80\x80", "b"});
}

static void what_may_become_a_stop_string_is_held_back(void **state)
{
    (void)state;
    const char *stops[] = {"\n\nQ:", "END"};
    assert_shows(stops, 2, (const char *[]){"one\n", "two\n\n", "x", "E", "N", "t", NULL},
                 (const char *[]){"one", "\ntwo", "\n\nx", "", "", "ENt"});
}

static void nothing_is_shown_from_a_stop_string_on(void **state)
{
    (void)state;
    const char *stops[] = {"STOP", "TOP"};
    assert_shows(stops, 2, (const char *[]){"aS", "T", "OPb", "more", NULL},
                 (const char *[]){"a", "", "", ""});
    assert_shows(stops, 1, (const char *[]){"abSTOPc", "d", NULL}, (const char *[]){"ab", ""});
    assert_shows((const char *[]){""}, 1, (const char *[]){"abc", NULL}, (const char *[]){"abc"});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_are_shown_whole),
        cmocka_unit_test(what_may_become_a_stop_string_is_held_back),
        cmocka_unit_test(nothing_is_shown_from_a_stop_string_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* ranks: 1 2 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobs/options.h"
#include "jobs/recipe.h"
#include "mpi/error.h"

static struct comm comm;

static int run_nothing(const struct comm *c, int argc, char **argv)
{
    (void)c, (void)argc, (void)argv;
    return 0;
}

static const struct command cook = {"cook", "Cooks a MODEL.", "MODEL [PROMPT]", "Details.",
                                    run_nothing};

/* Values and table of one test; the defaults are set anew each time. */
static struct {
    int64_t max_new;
    double temperature;
    bool chat, quiet;
    const char *dtype, *out;
    struct option_list stop;
    const char *args[2];
    size_t n_args;
    bool done;
} v;
static struct option_spec table[8];

static int parse(const char *first, ...)
{
    char *argv[16] = {"cook"};
    int argc = 1;
    va_list list;

    va_start(list, first);
    for (const char *a = first; a; a = va_arg(list, const char *))
        argv[argc++] = (char *)(uintptr_t)a;
    va_end(list);
    memset(&v, 0, sizeof v);
    v.max_new = 128;
    v.temperature = 0.5;
    v.chat = true;
    v.dtype = "bf16";
    const struct option_spec fresh[8] = {
        {"max-new", 'n', OPTION_INT, &v.max_new, "N", .max = 1000, .help = "tokens"},
        {"temperature", 't', OPTION_DOUBLE, &v.temperature, "X", .max = INFINITY, .help = "heat"},
        {"chat", 0, OPTION_FLAG, &v.chat, .help = "chat"},
        {"quiet", 'q', OPTION_FLAG, &v.quiet, .help = "say less"},
        {"dtype", 0, OPTION_CHOICE, &v.dtype, .choices = "f32|bf16", .help = "numbers"},
        {"out", 'o', OPTION_STRING, &v.out, "FILE", .help = "where to"},
        {"stop", 0, OPTION_LIST, &v.stop, "TEXT", .help = "end at TEXT"},
        {0}};
    memcpy(table, fresh, sizeof table);
    error_clear();
    return options_parse(&cook, table, &comm, argc, argv, v.args, 2, &v.n_args, &v.done);
}

static int clean(void **state)
{
    (void)state;
    options_free(table);
    return 0;
}

#define assert_fails(call, sentence)                                                               \
    do {                                                                                           \
        assert_int_equal(call, -1);                                                                \
        assert_string_equal(error_message(), sentence);                                            \
        options_free(table);                                                                       \
    } while (0)

static void values_may_follow_a_space_an_equals_sign_or_the_letter(void **state)
{
    (void)state;
    assert_int_equal(parse("m", "--max-new", "7", "--temperature=1.5", "-ofile", NULL), 0);
    assert_int_equal(v.max_new, 7);
    assert_true(v.temperature == 1.5);
    assert_string_equal(v.out, "file");
    options_free(table);
    assert_int_equal(parse("-n", "8", "m", "-t=2", "-qo", "f", NULL), 0);
    assert_int_equal(v.max_new, 8);
    assert_true(v.temperature == 2 && v.quiet);
    assert_string_equal(v.out, "f");
}

static void positional_arguments_mix_with_options_and_two_dashes_end_options(void **state)
{
    (void)state;
    assert_int_equal(parse("model", "-q", "--", "--max-new", NULL), 0);
    assert_int_equal(v.n_args, 2);
    assert_string_equal(v.args[0], "model");
    assert_string_equal(v.args[1], "--max-new");
    options_free(table);
    assert_int_equal(parse("model", "-", NULL), 0);
    assert_string_equal(v.args[1], "-");
    options_free(table);
    assert_fails(parse("a", "b", "c", NULL),
                 "unexpected argument 'c' (usage: t2 cook MODEL [PROMPT])");
    assert_fails(parse("-q", NULL), "MODEL is missing (usage: t2 cook MODEL [PROMPT])");
}

static void flags_can_be_taken_back(void **state)
{
    (void)state;
    assert_int_equal(parse("m", "--no-chat", "--quiet", NULL), 0);
    assert_false(v.chat);
    assert_true(v.quiet);
    options_free(table);
    assert_int_equal(parse("m", "--no-chat", "--chat", "--quiet=off", NULL), 0);
    assert_true(v.chat);
    assert_false(v.quiet);
    options_free(table);
    assert_fails(parse("m", "--no-chat=yes", NULL), "--no-chat takes no value");
    assert_fails(parse("m", "--chat=maybe", NULL), "--chat is yes or no, not 'maybe'");
    assert_fails(parse("m", "--no-max-new", NULL),
                 "unknown option --no-max-new, did you mean --max-new?");
}

static void numbers_are_checked_with_their_range(void **state)
{
    (void)state;
    assert_fails(parse("m", "-n", "1001", NULL),
                 "-n needs a whole number from 0 to 1000, not '1001'");
    assert_fails(parse("m", "-n", "-1", NULL), "-n needs a whole number from 0 to 1000, not '-1'");
    assert_fails(parse("m", "--max-new", "12x", NULL),
                 "--max-new needs a whole number from 0 to 1000, not '12x'");
    assert_fails(parse("m", "-n", "99999999999999999999", NULL),
                 "-n needs a whole number from 0 to 1000, not '99999999999999999999'");
    assert_fails(parse("m", "--max-new=", NULL),
                 "--max-new needs a whole number from 0 to 1000, not ''");
    assert_fails(parse("m", "--temperature", "nan", NULL),
                 "--temperature needs a number of at least 0, not 'nan'");
    assert_fails(parse("m", "--temperature", "-0.5", NULL),
                 "--temperature needs a number of at least 0, not '-0.5'");
}

static void choices_are_listed(void **state)
{
    (void)state;
    assert_int_equal(parse("m", "--dtype", "f32", NULL), 0);
    assert_string_equal(v.dtype, "f32");
    options_free(table);
    assert_fails(parse("m", "--dtype", "f3", NULL), "--dtype is f32 or bf16, not 'f3'");
    assert_fails(parse("m", "--dtype=", NULL), "--dtype is f32 or bf16, not ''");
}

static void unknown_options_suggest_the_nearest(void **state)
{
    (void)state;
    assert_fails(parse("m", "--max-nwe", "3", NULL),
                 "unknown option --max-nwe, did you mean --max-new?");
    assert_fails(parse("m", "--temp", "3", NULL),
                 "unknown option --temp, did you mean --temperature?");
    assert_fails(parse("m", "--zebra", NULL), "unknown option --zebra");
    assert_fails(parse("m", "-x", NULL), "unknown option -x");
}

static void a_forgotten_value_is_noticed(void **state)
{
    (void)state;
    assert_fails(parse("m", "--out", "--quiet", NULL), "--out needs a value: --out FILE");
    assert_fails(parse("m", "-n", NULL), "-n needs a value: -n N");
    assert_int_equal(parse("m", "--out", "--strange-name", NULL), 0);
    assert_string_equal(v.out, "--strange-name");
}

static void lists_keep_every_value(void **state)
{
    (void)state;
    assert_int_equal(parse("m", "--stop", "a", "--stop=\n", NULL), 0);
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.items[0], "a");
    assert_string_equal(v.stop.items[1], "\n");
}

static void help_is_done_without_a_model(void **state)
{
    (void)state;
    FILE *null = freopen("/dev/null", "w", stdout);
    assert_non_null(null);
    assert_int_equal(parse("--help", NULL), 0);
    assert_true(v.done);
}

static void help_aligns_options_with_their_defaults(void **state)
{
    (void)state;
    char *text = NULL;
    size_t size;
    assert_int_equal(parse("m", NULL), 0);
    FILE *file = open_memstream(&text, &size);
    options_help(&cook, table, file, 80);
    fclose(file);
    assert_non_null(strstr(text, "usage: t2 cook [options] MODEL [PROMPT]\n"));
    assert_non_null(strstr(text, "\n  -n, --max-new N           tokens (default: 128)\n"));
    assert_non_null(strstr(text, "\n      --[no-]chat           chat (default: on)\n"));
    assert_non_null(strstr(text, "\n      --dtype f32|bf16      numbers (default: bf16)\n"));
    free(text);
}

/* ---- recipes --------------------------------------------------------------------------------- */

static const char *write_recipe(const char *text)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/t2_recipe_%d_%d.ini", (int)getppid(), 0);
    if (comm.rank == 0) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fputs(text, file);
        fclose(file);
    }
    MPI_Bcast(path, sizeof path, MPI_CHAR, 0, comm.handle);
    return path;
}

static void the_command_line_goes_over_the_recipe_over_the_default(void **state)
{
    (void)state;
    const char *path = write_recipe("max-new = 7\ndtype = f32 ; exact\n[cook]\nquiet = yes\n"
                                    "stop = a\nstop = b\nout = two\n  lines\n");
    assert_int_equal(parse("m", "-n", "9", "--recipe", path, NULL), 0);
    assert_int_equal(v.max_new, 9);
    assert_string_equal(v.dtype, "f32");
    assert_true(v.quiet);
    assert_true(v.temperature == 0.5);
    assert_string_equal(v.out, "two lines");
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.items[1], "b");
    options_free(table);
    assert_int_equal(parse("m", "--stop", "c", "--recipe", path, NULL), 0);
    assert_int_equal(v.stop.n, 1);
    assert_string_equal(v.stop.items[0], "c");
    if (comm.rank == 0)
        unlink(path);
}

static void recipe_errors_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"\nmax-nwe = 3\n", "r.ini:2: unknown key 'max-nwe', did you mean 'max-new'?"},
        {"max-new = many\n", "r.ini:1: max-new needs a whole number from 0 to 1000, not 'many'"},
        {"[coko]\nmax-new = 3\n", "r.ini:2: section [coko] names no command, did you mean [cook]?"},
        {"max-new = 3\n\nmax-new = 4\n",
         "r.ini:3: 'max-new' is set twice (first by recipe r.ini:1)"},
        {"max-new = 3\nnonsense\n", "r.ini:2: expected 'name = value', a [section] or a comment"},
        {"max-new = 3\n  4\n", "r.ini:2: max-new: only texts go on over several lines: take away "
                               "the space at the line's beginning"},
        {"out = \"a\n",
         "r.ini:1: a value in double quotes ends with one, and knows \\n \\t \\\" \\\\ "
         "\\; only"},
        {"out = \"a\\q\"\n", "r.ini:1: a value in double quotes ends with one, and knows \\n \\t "
                             "\\\" \\\\ \\; only"},
        {"out = " /* 250 letters */
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
         "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
         "r.ini:1: the line is longer than 198 characters: go on with the value on a new line that "
         "starts with a space"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(parse("m", NULL), 0);
        assert_fails(recipe_apply_text(cases[i].text, "r.ini", &cook, table), cases[i].sentence);
    }
    assert_fails(parse("m", "--recipe", "/nowhere/r.ini", NULL),
                 "/nowhere/r.ini: cannot read the recipe: No such file or directory");
    assert_fails(parse("m", "--recipe", "/", NULL), "/: the recipe is not a file");
}

static void quotes_keep_blanks_and_know_escapes(void **state)
{
    (void)state;
    assert_int_equal(parse("m", NULL), 0);
    assert_int_equal(
        recipe_apply_text("stop = \"\\n\\n\"\nstop = \" a\\\"\\\\n \\; b \"\nout = \"\"\n", "r.ini",
                          &cook, table),
        0);
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.items[0], "\n\n");
    assert_string_equal(v.stop.items[1], " a\"\\n ; b ");
    assert_string_equal(v.out, "");
}

static void the_record_names_sources_and_is_a_recipe_again(void **state)
{
    (void)state;
    static const char hard[] =
        " a long text ; with \"quotes\", a \\ and\n\n\tline ends, # and [brackets] "
        "\xc3\xa9\xc3\xa9\xc3\xa9 "
        "that goes over more than one line of the file and ends with a blank ";
    const char *path = write_recipe("temperature = 0.1\nout = a\n b\n");
    assert_int_equal(parse("m", "-n", "9", "--stop", hard, "--stop", "y", "--recipe", path, NULL),
                     0);
    char *record = options_record(&cook, table);
    assert_non_null(record);
    assert_non_null(strstr(record, "[cook]\n; command line\nmax-new = 9\n"));
    assert_non_null(strstr(record, ":1\ntemperature = 0.1\n"));
    assert_non_null(strstr(record, "; default\nchat = yes\n"));
    options_free(table);
    assert_int_equal(parse("m", NULL), 0);
    assert_int_equal(recipe_apply_text(record, "record", &cook, table), 0);
    free(record);
    assert_int_equal(v.max_new, 9);
    assert_true(v.temperature == 0.1);
    assert_string_equal(v.out, "a b");
    assert_int_equal(v.stop.n, 2);
    assert_string_equal(v.stop.items[0], hard);
    assert_string_equal(v.stop.items[1], "y");
    if (comm.rank == 0)
        unlink(path);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(values_may_follow_a_space_an_equals_sign_or_the_letter, clean),
        cmocka_unit_test_teardown(positional_arguments_mix_with_options_and_two_dashes_end_options,
                                  clean),
        cmocka_unit_test_teardown(flags_can_be_taken_back, clean),
        cmocka_unit_test_teardown(numbers_are_checked_with_their_range, clean),
        cmocka_unit_test_teardown(choices_are_listed, clean),
        cmocka_unit_test_teardown(unknown_options_suggest_the_nearest, clean),
        cmocka_unit_test_teardown(a_forgotten_value_is_noticed, clean),
        cmocka_unit_test_teardown(lists_keep_every_value, clean),
        cmocka_unit_test_teardown(help_aligns_options_with_their_defaults, clean),
        cmocka_unit_test_teardown(the_command_line_goes_over_the_recipe_over_the_default, clean),
        cmocka_unit_test_teardown(recipe_errors_name_the_line, clean),
        cmocka_unit_test_teardown(quotes_keep_blanks_and_know_escapes, clean),
        cmocka_unit_test_teardown(the_record_names_sources_and_is_a_recipe_again, clean),
        cmocka_unit_test_teardown(help_is_done_without_a_model, clean),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_finish(&comm);
    return failed;
}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "eval/grade.h"
#include "eval/jsonl.h"
#include "eval/latex.h"
#include "mpi/error.h"

static void pairs_of_answers_are_told_apart_both_ways(void **state)
{
    (void)state;
    struct jsonl *reader = jsonl_open(T2_FIXTURES "/math_pairs.jsonl");
    size_t n = 0, n_wrong = 0;

    assert_non_null(reader);
    for (;;) {
        json_t *row = NULL;
        if (jsonl_next(reader, &row))
            fail_msg("%s", error_message());
        if (!row)
            break;
        const char *answer = json_string_value(jsonl_field(row, "answer")),
                   *gold = json_string_value(jsonl_field(row, "gold"));
        const bool equal = json_is_true(jsonl_field(row, "equal"));
        if (latex_equal(answer, gold) != equal || latex_equal(gold, answer) != equal) {
            printf("%s and %s should%s be equal\n", answer, gold, equal ? "" : " not");
            n_wrong++;
        }
        assert_true(latex_equal(answer, answer));
        n++;
        json_decref(row);
    }
    jsonl_close(reader);
    assert_int_equal(0, n_wrong);
    assert_true(n >= 300);
}

static void the_last_box_is_the_answer(void **state)
{
    (void)state;
    static const struct {
        const char *text, *answer;
    } cases[] = {
        {"So $x = \\boxed{5}$.", "5"},
        {"First \\boxed{3}, then \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"},
        {"\\boxed{\\left\\{ 1, \\frac{2}{3} \\right\\}} it is",
         "\\left\\{ 1, \\frac{2}{3} \\right\\}"},
        {"\\boxed {7}", "7"},
        {"\\boxed 7$", "7"},
        {"\\fbox{12}", "12"},
        {"\\boxed{4} and then \\boxed{un", "4"},
        {"Final Answer: The final answer is $[2,5)$. I hope it is correct.", "[2,5)"},
        {"The final answer is 42.\n\nBye", "42."},
        {"the answer is $\\frac{3}{4}$", "\\frac{3}{4}"},
        {"The answer is 5. This is because 2 + 3 = 5.", "5"},
        {"**Answer:** 17", "17"},
        {"Hence $a = 1$ and so $b = 2$.", "b = 2"},
        {"42", "42"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *answer = latex_extract(cases[i].text);
        if (!answer || strcmp(answer, cases[i].answer) != 0)
            fail_msg("\"%s\" read as \"%s\"", cases[i].text, answer ? answer : "(none)");
        free(answer);
    }
    assert_null(latex_extract(""));
    assert_null(latex_extract("  \n"));
}

static void whole_solutions_are_graded(void **state)
{
    (void)state;
    assert_true(grade_math("We add: \\boxed{\\dfrac{2}{4}}.", "\\frac{1}{2}"));
    assert_true(grade_math("I get $\\boxed{0.5}$", "It is easy to see: \\boxed{\\frac12}"));
    assert_false(grade_math("I get $\\boxed{0.6}$ but perhaps 1/2", "\\frac{1}{2}"));
    assert_false(grade_math("", "\\frac{1}{2}"));
    assert_true(grade_math("Answer: 1,234", "1234"));
}

static char *repeat(const char *text, size_t n)
{
    const size_t length = strlen(text);
    char *all = malloc(n * length + 1);

    assert_non_null(all);
    for (size_t i = 0; i < n; i++)
        memcpy(all + i * length, text, length);
    all[n * length] = '\0';
    return all;
}

static void hostile_answers_cost_little(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "{",
        "(",
        "\\{",
        "[",
        "-",
        "\\frac{1}{",
        "1\\frac{1",
        "\\sqrt{",
        "\\sqrt[",
        "x^",
        "x^{",
        "9^9^",
        "!",
        "5!",
        "|",
        "\\pm",
        "1\\pm",
        "\\text{",
        "\\text",
        "\\left(",
        "\\sin",
        "\\sin^",
        "\\log_",
        "\\boxed{",
        "\\begin{pmatrix}",
        "\\begin{pmatrix}1&",
        "1,",
        "\\pm1,",
        "\\cup",
        "(1,2)\\cup",
        "=",
        "x=",
        "<",
        "x<",
        "\\overline",
        "0.\\overline{3}",
        "_",
        "1_",
        "x_{",
        "\\%",
        "^\\circ",
        "\\\\",
        "$",
        "\\",
        "\xff",
        "\xe2\x88\x9a",
        "1 ",
        "a",
        "\\binom{9",
        "\\lfloor",
        "x'",
        "{{1}",
        "\\mathbb",
        "10^{10^{",
        "9999999999999999999999!",
        "\\operatorname{",
        "\\{\\pm 1\\},",
        "{1,{2,",
    };
    struct timespec start, end;

    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
        for (size_t n = 1; n <= 100000; n *= n < 10 ? 3 : 17) {
            char *text = repeat(pieces[i], n);
            clock_gettime(CLOCK_MONOTONIC, &start);
            latex_equal(text, "\\{1\\pm\\sqrt{2}, x!\\}");
            latex_equal("\\{1\\pm\\sqrt{2}, x!\\}", text);
            free(latex_extract(text));
            clock_gettime(CLOCK_MONOTONIC, &end);
            if (end.tv_sec - start.tv_sec > 20)
                fail_msg("%zu times \"%s\" takes %ld s", n, pieces[i],
                         (long)(end.tv_sec - start.tv_sec));
            free(text);
        }
    /* Long sets against each other, no two elements the same. */
    char *a = NULL, *b = NULL;
    size_t size;
    FILE *out = open_memstream(&a, &size);
    for (int i = 0; i < 190; i++)
        fprintf(out, "%ssin%dx", i ? "," : "", i);
    fclose(out);
    out = open_memstream(&b, &size);
    for (int i = 0; i < 190; i++)
        fprintf(out, "%scos%dx", i ? "," : "", i);
    fclose(out);
    assert_false(latex_equal(a, b));
    free(a);
    free(b);
}

static void huge_numbers_are_compared_exactly(void **state)
{
    (void)state;
    assert_true(latex_equal("2^{10000}", "4^{5000}"));
    assert_false(latex_equal("2^{10000}", "4^{5000} + 1"));
    assert_true(latex_equal("1000! / 999!", "1000"));
    assert_false(latex_equal("100!", "100! + 1"));
    assert_false(latex_equal("9^{9^{9^9}}", "9^{9^{9^8}}"));
    assert_true(latex_equal("\\binom{100}{50}", "\\frac{100!}{50!50!}"));
    assert_false(latex_equal("123456789012345678901234567890", "123456789012345678901234567891"));
    assert_false(latex_equal("0.1000000000000000000001", "0.1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_of_answers_are_told_apart_both_ways),
        cmocka_unit_test(the_last_box_is_the_answer),
        cmocka_unit_test(whole_solutions_are_graded),
        cmocka_unit_test(hostile_answers_cost_little),
        cmocka_unit_test(huge_numbers_are_compared_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

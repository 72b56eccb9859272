#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/dataset.h"
#include "eval/grade.h"
#include "eval/jsonl.h"
#include "eval/metrics.h"
#include "mpi/error.h"

static void numbers_are_read_as_people_write_them(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"72", 72},
        {"1,234.50", 1234.5},
        {"1,234,567", 1234567},
        {"$5", 5},
        {"$ 5.25", 5.25},
        {"-3", -3},
        {"-$3", -3},
        {"$-3", -3},
        {"\xe2\x88\x92"
         "3",
         -3},
        {"12%", 12},
        {"3/4", 0.75},
        {"-3/4", -0.75},
        {"1 1/2", 1.5},
        {"18.", 18},
        {".5", 0.5},
        {"1e3", 1000},
        {"2.5E-2", 0.025},
        {"\xe2\x82\xac"
         "20",
         20},
        {"\xc2\xa3"
         "20",
         20},
        {"5,000 dollars", 5000},
        {"007", 7},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = -1e99;
        assert_true(grade_read_number(cases[i].text, &value, NULL));
        if (!grade_numbers_equal(value, cases[i].value))
            fail_msg("\"%s\" read as %g", cases[i].text, value);
    }
    assert_false(grade_read_number("", &(double){0}, NULL));
    assert_false(grade_read_number("none", &(double){0}, NULL));
    assert_false(grade_read_number("-", &(double){0}, NULL));
    assert_false(grade_read_number(".", &(double){0}, NULL));
}

static void the_last_number_is_the_answer(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"She has 16 - 3 - 4 = 9 eggs, so 9 * 2 = $18.", 18},
        {"16-3", 3},
        {"16 -3", 3},
        {"- 5 apples", 5},
        {"x=-5", -5},
        {"The answer is -5.", -5},
        {"It falls to -5 degrees", -5},
        {"#### 72", 72},
        {"#### 72 (not 73)", 72},
        {"####72\nThat took 3 steps.", 72},
        {"#### $1,200.00", 1200},
        {"The total is 1,200.", 1200},
        {"The total is $1,200.50!", 1200.5},
        {"Answer: 3/4", 0.75},
        {"Answer: **42**", 42},
        {"\\boxed{42}", 42},
        {"50% of them", 50},
        {"10, 20 and 30", 30},
        {"1,2 and 3,4", 4},
        {"x = 3.", 3},
        {"the 2 boxes hold 5 each, 10 in all (see note a)", 10},
        {"Answer: 12 apples", 12},
        {"#### no idea, perhaps 4", 4},
        {"about .75", 0.75},
        {"2019-12-25", 25},
        {"3 x 4 = 12\n\n", 12},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = -1e99;
        assert_true(grade_last_number(cases[i].text, &value));
        if (!grade_numbers_equal(value, cases[i].value))
            fail_msg("\"%s\" read as %g", cases[i].text, value);
    }
    assert_false(grade_last_number("", &(double){0}));
    assert_false(grade_last_number("no number here ... - $", &(double){0}));
}

static void numbers_are_equal_within_a_millionth(void **state)
{
    (void)state;
    assert_true(grade_numbers_equal(1.8333333, 1.8333333333333335));
    assert_false(grade_numbers_equal(1.8333, 1.8333333333333335));
    assert_true(grade_numbers_equal(1000000, 1000000.5));
    assert_true(grade_numbers_equal(0, 0));
    assert_true(grade_numbers_equal(-0.0, 0));
    assert_false(grade_numbers_equal(1e-3, 0));
    assert_false(grade_numbers_equal(-5, 5));
}

static void every_gsm8k_gold_answer_is_a_number(void **state)
{
    (void)state;
    static const char *const splits[] = {"train", "valid", "test"};
    char *root = dataset_root(NULL);
    size_t n_rows = 0;

    if (!root || !dataset_present(dataset_find("gsm8k"), root)) {
        printf("skipped: gsm8k is not in T2_DATA\n");
        free(root);
        skip();
    }
    for (size_t s = 0; s < 3; s++) {
        struct dataset data;
        assert_int_equal(0, dataset_load(&data, root, "gsm8k", splits[s]));
        for (size_t i = 0; i < data.n_rows; i++) {
            const char *answer = json_string_value(jsonl_field(data.rows[i], "answer"));
            const char *gold = strstr(answer, "####");
            double from_marker, from_text;
            const char *end;
            assert_non_null(gold);
            assert_true(grade_read_number(gold + 4, &from_marker, &end));
            assert_int_equal('\0', *end); /* the number and nothing else */
            assert_true(grade_last_number(answer, &from_text));
            assert_true(grade_numbers_equal(from_text, from_marker));
        }
        n_rows += data.n_rows;
        dataset_free(&data);
    }
    assert_int_equal(7473 + 1319, n_rows);
    free(root);
}

static void the_first_word_is_the_label(void **state)
{
    (void)state;
    static const char *const labels[] = {"negative", "positive", "very positive"};

    assert_int_equal(1, grade_first_label("positive", labels, 3));
    assert_int_equal(1, grade_first_label("Positive.", labels, 3));
    assert_int_equal(0, grade_first_label("  **NEGATIVE** because", labels, 3));
    assert_int_equal(1, grade_first_label("\"positive\"", labels, 3));
    assert_int_equal(2, grade_first_label("Very positive!", labels, 3));
    assert_int_equal(-1, grade_first_label("positively", labels, 3));
    assert_int_equal(-1, grade_first_label("The review is positive", labels, 3));
    assert_int_equal(-1, grade_first_label("", labels, 3));
}

static void the_letter_is_found_where_models_put_it(void **state)
{
    (void)state;
    static const char *const letters[] = {"A", "B", "C", "D"};
    static const char *const digits[] = {"1", "2", "3", "4"};
    static const struct {
        const char *text;
        int label;
    } cases[] = {
        {"B", 1},
        {"(B)", 1},
        {"B.", 1},
        {"b) the second", 1},
        {"**C**", 2},
        {"C: because", 2},
        {"The answer is D.", 3},
        {"The correct answer is (A).", 0},
        {"Answer: B", 1},
        {"A and B are wrong, so the answer is C", 2},
        {"The answer is option D", 3},
        {"A plant needs light, so D", 3},
        {"It must be B", 1},
        {"\\boxed{B}", 1},
        {"None of them", -1},
        {"", -1},
        {"The answer is a plant", -1},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (grade_letter(cases[i].text, letters, 4) != cases[i].label)
            fail_msg("\"%s\" read as %d", cases[i].text, grade_letter(cases[i].text, letters, 4));
    assert_int_equal(2, grade_letter("The answer is 3.", digits, 4));
}

static void exact_ignores_blanks_at_the_ends(void **state)
{
    (void)state;
    assert_true(grade_exact(" yes\n", "yes"));
    assert_false(grade_exact("Yes", "yes"));
    assert_true(grade_exact("", "  "));
}

static void auc_counts_pairs(void **state)
{
    (void)state;
    const double scores[] = {0.1, 0.4, 0.35, 0.8};
    const unsigned char classes[] = {0, 0, 1, 1};
    const double equal[] = {1, 1, 1, 1};

    assert_float_equal(0.75, metrics_auc(scores, classes, 4), 1e-12);
    assert_float_equal(0.5, metrics_auc(equal, classes, 4), 1e-12);
    double nothing = metrics_auc(scores, (const unsigned char[]){1, 1, 1, 1}, 4);
    assert_true(nothing != nothing);
}

static void standard_error_is_the_sample_form(void **state)
{
    (void)state;
    /* lm-eval: stddev of the 0/1 values with n - 1, over sqrt(n) */
    assert_float_equal(0.16329931618554522, metrics_standard_error(4, 10), 1e-12);
    assert_float_equal(0, metrics_standard_error(1, 1), 0);
}

static void softmax_and_argmax_take_the_first_on_ties(void **state)
{
    (void)state;
    const double logprobs[] = {-1000, -1000, -2000};
    const double lengths[] = {2, 1, 10};

    assert_float_equal(0.5, metrics_softmax_at(logprobs, 3, 1), 1e-12);
    assert_int_equal(0, metrics_argmax(logprobs, NULL, 3));
    assert_int_equal(2, metrics_argmax(logprobs, lengths, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_read_as_people_write_them),
        cmocka_unit_test(the_last_number_is_the_answer),
        cmocka_unit_test(numbers_are_equal_within_a_millionth),
        cmocka_unit_test(every_gsm8k_gold_answer_is_a_number),
        cmocka_unit_test(the_first_word_is_the_label),
        cmocka_unit_test(the_letter_is_found_where_models_put_it),
        cmocka_unit_test(exact_ignores_blanks_at_the_ends),
        cmocka_unit_test(auc_counts_pairs),
        cmocka_unit_test(standard_error_is_the_sample_form),
        cmocka_unit_test(softmax_and_argmax_take_the_first_on_ties),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

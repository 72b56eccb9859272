/* Code tasks: what is taken from answers, the programs made of it, and, where the data sets and the
 * sandbox are there, that all published solutions pass and wrong ones fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/code.h"
#include "eval/items.h"
#include "eval/jsonl.h"
#include "eval/metrics.h"
#include "eval/sandbox.h"
#include "mpi/error.h"

static const char *const folders[] = {T2_DATA_DIR "/tasks", NULL};

/* ---- text --------------------------------------------------------------------------------------
 */

static void assert_extracts(const char *answer, const char *entry, const char *expected)
{
    char *code = code_extract(answer, entry, NULL);
    assert_string_equal(code, expected);
    free(code);
}

static void assert_completes(const char *prompt, const char *answer, const char *expected)
{
    char *code = code_complete(prompt, answer, "f");
    assert_string_equal(code, expected);
    free(code);
}

static void code_is_found_in_a_chat_answer(void **state)
{
    (void)state;
    assert_extracts("Sure:\n```python\nx = 1\n```\nDone.", NULL, "x = 1\n");
    assert_extracts("```\nx = 1\n```", "", "x = 1\n");
    assert_extracts("```py\nx = 1\n", "", "x = 1\n");
    assert_extracts("```bash\npip\n```\n```python\nx = 1\n```", NULL, "x = 1\n");
    assert_extracts("```bash\npip\n```", NULL, "pip\n");
    assert_extracts("```python\nprint(f(1))\n```\nor\n```python\ndef f(x): pass\n```", "f",
                    "def f(x): pass\n");
    assert_extracts("    return x\n", "f", "    return x\n");
    assert_extracts("", "f", "");
    assert_extracts("```", "f", "");
}

static void definitions_are_seen_at_the_margin(void **state)
{
    (void)state;
    assert_true(code_defines("import x\ndef f(a):\n", "f"));
    assert_true(code_defines("async def f (a):\n", "f"));
    assert_true(code_defines("f = lambda x: x\n", "f"));
    assert_true(code_defines("class f:\n", "f"));
    assert_false(code_defines("def ff(a):\n", "f"));
    assert_false(code_defines("    def f(a):\n", "f"));
    assert_false(code_defines("f == 2\n", "f"));
}

static void an_answer_goes_on_or_begins_anew(void **state)
{
    (void)state;
    assert_completes("def f(x):\n", "    return x\n", "def f(x):\n    return x\n");
    assert_completes("def f(x):\n", "```python\n    return x\n```", "def f(x):\n    return x\n");
    assert_completes("def f(x):\n", "```python\nreturn x\n```", "def f(x):\n    return x\n");
    assert_completes("import m\ndef f(x):\n", "```python\ndef f(x):\n    return 1\n```",
                     "import m\ndef f(x):\n    pass\n\ndef f(x):\n    return 1\n");
    assert_completes("def f(x):\n", "    return x\n\ndef f(y):\n",
                     "def f(x):\n    return x\n\ndef f(y):\n");
    assert_completes(NULL, "```python\nx = 1\n```", "x = 1\n");
}

static void pass_at_k_is_the_unbiased_estimate(void **state)
{
    (void)state;
    /* 1 - C(n - c, k) / C(n, k) by hand */
    assert_float_equal(metrics_pass_at(10, 0, 5), 0, 0);
    assert_float_equal(metrics_pass_at(10, 10, 1), 1, 0);
    assert_float_equal(metrics_pass_at(10, 3, 1), 0.3, 1e-12);
    assert_float_equal(metrics_pass_at(10, 3, 5), 1 - 21.0 / 252, 1e-12);
    assert_float_equal(metrics_pass_at(5, 1, 5), 1, 0);
}

static void a_list_is_lines_in_a_template(void **state)
{
    static const char ini[] = "[task]\ndataset = d\nprompt = {tests}\ngold = code\n"
                              "score = generate\ngrader = python_tests\n"
                              "program = \"{@code}\\n{tests}\\n\"\n";
    struct task task;
    json_t *row = json_pack("{s:s, s:[s, s]}", "code", "x = 1", "tests", "assert x", "assert 1");
    size_t line = 1;
    struct dataset data = {.path = "d", .rows = &row, .lines = &line, .n_rows = 1};
    struct task_context context = {0};
    struct task_item item;
    (void)state;

    assert_int_equal(task_from_text(&task, ini, "t.ini"), 0);
    assert_int_equal(task_item_make(&task, &context, &data, 0, &item), 0);
    assert_string_equal(item.prompt, "assert x\nassert 1");
    char *program = task_program(&item, "```\nx = 2\n```");
    assert_string_equal(program, "x = 2\n\nassert x\nassert 1\n");
    free(program);
    task_item_free(&item);
    task_free(&task);
    json_decref(row);
    assert_int_equal(task_from_text(&task,
                                    "[task]\ndataset = d\nprompt = p\ngold = g\n"
                                    "score = generate\ngrader = python_tests\n",
                                    "t.ini"),
                     -1);
    assert_non_null(strstr(error_message(), "'program'"));
}

/* ---- the published data ------------------------------------------------------------------------
 */

struct published {
    struct task task;
    struct items items;
    struct sandbox *sandbox;
};

/* False: cannot be had here, and said so. */
static bool open_published(struct published *p, const char *name, const char *split)
{
    struct sandbox_options options = sandbox_defaults();
    char *root = dataset_root(NULL);

    memset(p, 0, sizeof *p);
    assert_int_equal(task_load(&p->task, name, folders), 0);
    const struct items_options wanted = {.data_root = root, .split = split};
    options.limits.seconds = 60; /* the machine may have much else to do */
    options.limits.cpu_seconds = 20;
    const bool good = root && items_open(&p->items, &p->task, NULL, &wanted) == 0 &&
                      (p->sandbox = sandbox_open(&options)) != NULL;
    free(root);
    if (!good)
        printf("SKIPPED, %s IS NOT TESTED: %s\n", name, error_message());
    return good;
}

static void close_published(struct published *p)
{
    sandbox_close(p->sandbox);
    items_close(&p->items);
    task_free(&p->task);
}

static void submit(struct published *p, size_t row, const char *answer)
{
    struct task_item item;

    assert_int_equal(task_item_make(&p->items.task, &p->items.context, &p->items.data, row, &item),
                     0);
    char *program = task_program(&item, answer);
    assert_non_null(program);
    assert_int_equal(sandbox_submit(p->sandbox, program, row), 0);
    free(program);
    task_item_free(&item);
}

static const char *field(const struct published *p, size_t row, const char *name)
{
    return json_string_value(jsonl_field(p->items.data.rows[row], name));
}

/* Collects all; the number that passed. Names those that did otherwise than expected. */
static size_t collect(struct published *p, bool expected)
{
    struct sandbox_result result;
    size_t n = 0;

    while (sandbox_next(p->sandbox, true, &result)) {
        const bool passed = result.outcome == SANDBOX_PASSED;
        n += passed;
        if (passed != expected)
            printf("%s, row %zu: %s (%.1f s) %s\n", p->task.name, result.id,
                   sandbox_outcome_name(result.outcome), result.seconds, result.output);
        sandbox_result_free(&result);
    }
    return n;
}

static void all_humaneval_solutions_pass(void **state)
{
    struct published p;
    char *answer;
    (void)state;

    if (open_published(&p, "humaneval", NULL)) {
        assert_int_equal(p.items.n, 164);
        for (size_t i = 0; i < p.items.n; i++)
            submit(&p, i, field(&p, i, "canonical_solution"));
        assert_int_equal(collect(&p, true), 164);
        /* as a chat model would write them */
        for (size_t i = 0; i < p.items.n; i++) {
            assert_true(asprintf(&answer, "Here it is:\n\n```python\n%s%s```\nIt works.",
                                 field(&p, i, "prompt"), field(&p, i, "canonical_solution")) > 0);
            submit(&p, i, answer);
            free(answer);
        }
        assert_int_equal(collect(&p, true), 164);
    }
    close_published(&p);
}

static void fifty_wrong_humaneval_answers_fail(void **state)
{
    static const char *const bodies[] = {
        "    return None\n",
        "    import sys\n    sys.exit(0)\n",
        "    import os\n    os._exit(0)\n",
        "    return object()\n",
        "    return 'x' * 3 + str(__import__('random').random())\n",
        "    raise ValueError\n",
        "    return (\n",
        "    return float('nan')\n",
        "I cannot answer that.\n",
        "",
    };
    struct published p;
    (void)state;

    if (open_published(&p, "humaneval", NULL)) {
        for (size_t i = 0; i < 50; i++)
            submit(&p, 3 * i, bodies[i % (sizeof bodies / sizeof *bodies)]);
        assert_int_equal(collect(&p, false), 0);
    }
    close_published(&p);
}

static void all_mbpp_solutions_pass(void **state)
{
    static const struct {
        const char *split;
        size_t n;
    } splits[] = {{"prompts", 10}, {"test", 500}, {"valid", 90}, {"train", 374}};
    struct published p;
    (void)state;

    for (size_t s = 0; s < sizeof splits / sizeof *splits; s++) {
        const bool there = open_published(&p, s % 2 ? "mbpp" : "mbpp_hidden", splits[s].split);
        if (there) {
            assert_int_equal(p.items.n, splits[s].n);
            for (size_t i = 0; i < p.items.n; i++)
                submit(&p, i, field(&p, i, "code"));
            assert_int_equal(collect(&p, true), p.items.n);
        }
        close_published(&p);
        if (!there)
            break;
    }
}

static void the_hidden_test_is_not_shown(void **state)
{
    struct published p;
    struct task_item item;
    (void)state;

    if (open_published(&p, "mbpp_hidden", NULL))
        for (size_t i = 0; i < p.items.n; i++) {
            assert_int_equal(
                task_item_make(&p.items.task, &p.items.context, &p.items.data, i, &item), 0);
            const char *hidden = field(&p, i, "test_list.2");
            /* Some rows have the same test twice. */
            if (strcmp(hidden, field(&p, i, "test_list.0")) != 0 &&
                strcmp(hidden, field(&p, i, "test_list.1")) != 0)
                assert_null(strstr(item.prompt, hidden));
            assert_non_null(strstr(item.program, hidden));
            task_item_free(&item);
        }
    close_published(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(code_is_found_in_a_chat_answer),
        cmocka_unit_test(definitions_are_seen_at_the_margin),
        cmocka_unit_test(an_answer_goes_on_or_begins_anew),
        cmocka_unit_test(pass_at_k_is_the_unbiased_estimate),
        cmocka_unit_test(a_list_is_lines_in_a_template),
        cmocka_unit_test(all_humaneval_solutions_pass),
        cmocka_unit_test(fifty_wrong_humaneval_answers_fail),
        cmocka_unit_test(all_mbpp_solutions_pass),
        cmocka_unit_test(the_hidden_test_is_not_shown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

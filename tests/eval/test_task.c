#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/task.h"
#include "mpi/error.h"
#include "tests/eval/folder.h"

static const char head[] = "[task]\ndataset = d\ngold = g\n";

/* Parses head + text; expects an error that holds `piece`. */
static void assert_rejected(const char *text, const char *piece)
{
    struct task task;
    char all[2048];

    snprintf(all, sizeof all, "%s%s", head, text);
    assert_int_equal(-1, task_from_text(&task, all, "t.ini"));
    if (!strstr(error_message(), piece))
        fail_msg("\"%s\" does not hold \"%s\"", error_message(), piece);
}

static void unknown_keys_name_line_and_nearest(void **state)
{
    (void)state;
    assert_rejected("promt = x\n", "t.ini:4: unknown key 'promt', did you mean 'prompt'?");
    assert_rejected("[other]\na = 1\n", "the only section");
    assert_rejected("prompt = a\nprompt = b\n", "t.ini:5: 'prompt' is set twice (first on line 4)");
    assert_rejected("rubbish\n", "t.ini:4: expected 'key = value'");
}

static void bad_values_name_line_and_choices(void **state)
{
    (void)state;
    assert_rejected("prompt = x\nscore = guess\n", "t.ini:5: score is 'guess'");
    assert_rejected("prompt = x\nmax_new = -1\n", "t.ini:5:");
    assert_rejected("prompt = x\nchat = maybe\n", "yes or no");
    assert_rejected("prompt = \"x\n", "quote");
    assert_rejected("prompt = \"x ; y\"\n", "comment");
    assert_rejected("prompt = x\nscore = choice\n", "needs the key 'choices'");
    assert_rejected("prompt = x\nscore = generate\n", "needs the key 'grader'");
    assert_rejected("prompt = x\nchoices = a | b\npositive = c\n", "none of the choices");
    assert_rejected("score = choice\n", "'prompt' is missing");
    char longer[600];
    memset(longer, 'x', sizeof longer);
    memcpy(longer, "prompt = ", 9);
    strcpy(longer + 400, "\n");
    assert_rejected(longer, "longer than");
}

static void values_go_on_and_keep_quoted_blanks(void **state)
{
    (void)state;
    struct task task;
    char text[1024];

    snprintf(text, sizeof text,
             "%sprompt = \"a: \"\n  \"{x}\\n\"\nsystem = one\n  two\nchoices = a | \" b\"\n"
             "gold_form = index\nstop = \"\\n\\n\"\n",
             head);
    assert_int_equal(0, task_from_text(&task, text, "some/name.ini"));
    assert_string_equal("a: {x}\n", task.prompt);
    assert_string_equal("one two", task.system);
    assert_string_equal("name", task.name);
    assert_int_equal(2, task.choices.n_items);
    assert_string_equal(" b", task.choices.items[1]);
    assert_int_equal(1, task.stops.n_items);
    assert_string_equal("\n\n", task.stops.items[0]);
    task_free(&task);
}

static int load_row(const char *row, struct dataset *data)
{
    folder_file("d/test.jsonl", row);
    return dataset_load(data, folder_path, "d", "test");
}

static void templates_take_fields_and_braces(void **state)
{
    (void)state;
    struct task task;
    struct dataset data;
    struct task_item item;
    struct task_context context = {0};
    char text[1024];

    snprintf(text, sizeof text,
             "%sprompt = \"{{{a.b}}} {n}\\n{@choices}\"\nchoices = c\nchoice = \" {choice}\"\n"
             "gold_form = label\n",
             head);
    assert_int_equal(0, task_from_text(&task, text, "t.ini"));
    assert_int_equal(0, load_row("{\"id\":7,\"a\":{\"b\":\"x\"},\"n\":3,\"c\":[\"one\",\"two\"],"
                                 "\"g\":\"B\"}\n",
                                 &data));
    assert_int_equal(0, task_item_make(&task, &context, &data, 0, &item));
    assert_string_equal("{x} 3\nA. one\nB. two", item.prompt);
    assert_string_equal("7", item.id);
    assert_string_equal(" two", item.choices[1]);
    assert_string_equal("two", item.gold);
    assert_int_equal(1, item.gold_index);
    assert_false(item.chat);
    task_item_free(&item);
    dataset_free(&data);
    task_free(&task);
}

static void bad_rows_name_the_data_file_and_line(void **state)
{
    (void)state;
    struct task task;
    struct dataset data;
    struct task_item item;
    struct task_context context = {0};
    char text[1024];

    snprintf(text, sizeof text, "%sprompt = {q}\nchoices = a | b\ngold_form = index\n", head);
    assert_int_equal(0, task_from_text(&task, text, "t.ini"));
    assert_int_equal(0, load_row("{\"q\":\"?\",\"g\":2}\n{\"g\":1}\n{\"q\":[],\"g\":1}\n", &data));
    assert_int_equal(-1, task_item_make(&task, &context, &data, 0, &item));
    assert_non_null(strstr(error_message(), "test.jsonl:1: the gold answer \"2\""));
    assert_int_equal(-1, task_item_make(&task, &context, &data, 1, &item));
    assert_non_null(strstr(error_message(), "test.jsonl:2: the field \"q\" is absent"));
    assert_int_equal(-1, task_item_make(&task, &context, &data, 2, &item));
    dataset_free(&data);
    task_free(&task);
}

static void few_shot_examples_stand_before_the_question(void **state)
{
    (void)state;
    struct task task;
    struct dataset data;
    struct task_item item;
    const size_t rows[] = {1, 0};
    char text[1024];

    snprintf(text, sizeof text,
             "%sprompt = Q {q} A\nchoices = no | yes\nchoice = \" {choice}\"\n"
             "gold_form = index\n",
             head);
    assert_int_equal(0, task_from_text(&task, text, "t.ini"));
    assert_int_equal(0, load_row("{\"q\":\"a\",\"g\":0}\n{\"q\":\"b\",\"g\":1}\n", &data));
    struct task_context context = {
        .examples = &data, .example_rows = rows, .n_examples = 2, .n_shots = 1, .same_split = true};
    /* An item is never its own example. */
    assert_int_equal(0, task_item_make(&task, &context, &data, 0, &item));
    assert_string_equal("Q b A yes\n\nQ a A", item.prompt);
    task_item_free(&item);
    assert_int_equal(0, task_item_make(&task, &context, &data, 1, &item));
    assert_string_equal("Q a A no\n\nQ b A", item.prompt);
    task_item_free(&item);

    struct chat_format chat;
    assert_int_equal(0, chat_recognise(&chat, NULL, "plain", "", ""));
    context.chat = &chat;
    context.system = "S";
    assert_int_equal(0, task_item_make(&task, &context, &data, 0, &item));
    assert_string_equal("system: S\nuser: Q b A\nassistant:  yes\nuser: Q a A\nassistant:",
                        item.prompt);
    assert_true(item.chat);
    task_item_free(&item);
    chat_free(&chat);
    dataset_free(&data);
    task_free(&task);
}

static const char *const shipped[] = {
    "arc_easy",      "arc_challenge", "arc_easy_letter", "arc_challenge_letter",
    "sst2",          "mawps",         "gsm8k",           "gsm8k_cot",
    "gsm8k_fewshot", "math",          "math_fewshot",    "wikisql",
};
enum { N_SHIPPED = sizeof shipped / sizeof *shipped };

static void a_prompt_file_is_taken_to_the_letter(void **state)
{
    (void)state;
    struct task task;
    char text[512], prompt[1024];

    snprintf(text, sizeof text, "%schoices = a | b\ngold_form = index\n", head);
    folder_file("mine.txt", "; one \"quoted\" line\n\n  {q} = \\boxed{{}} \\n \n");
    snprintf(prompt, sizeof prompt, "%sprompt_file = mine.txt\n", text);
    assert_int_equal(0, task_from_text(&task, prompt, folder_file("t.ini", prompt)));
    assert_string_equal("; one \"quoted\" line\n\n  {q} = \\boxed{{}} \\n ", task.prompt);
    assert_non_null(strstr(task.text, "{q} = ")); /* a run's record holds it */
    folder_file("other.txt", "{q}?\n");
    snprintf(prompt, sizeof prompt, "%s/other.txt", folder_path);
    assert_int_equal(0, task_set_prompt_file(&task, prompt));
    assert_string_equal("{q}?", task.prompt);
    snprintf(prompt, sizeof prompt, "%s/absent.txt", folder_path);
    assert_int_equal(-1, task_set_prompt_file(&task, prompt));
    assert_non_null(strstr(error_message(), "absent.txt: cannot read the prompt file"));
    task_free(&task);
    assert_rejected("prompt = x\nprompt_file = mine.txt\n", "exclude each other");
    assert_rejected("prompt_file = absent.txt\n", "absent.txt: cannot read the prompt file");
}

static void the_shipped_tasks_load(void **state)
{
    (void)state;
    static const char *const folders[] = {T2_DATA_DIR "/tasks", NULL};
    struct task task;

    for (size_t i = 0; i < N_SHIPPED; i++) {
        assert_int_equal(0, task_load(&task, shipped[i], folders));
        assert_string_equal(shipped[i], task.name);
        /* Variants are named after their data set. */
        assert_memory_equal(shipped[i], task.dataset, 4);
        assert_non_null(task.description);
        task_free(&task);
    }
    assert_int_equal(0, task_load(&task, T2_DATA_DIR "/tasks/sst2.ini", NULL));
    assert_string_equal("Classify the sentiment of the review as positive or negative. Reply with "
                        "only one word: positive or negative.\n\nReview: {sentence}",
                        task.prompt);
    assert_true(task.chat);
    task_free(&task);
    assert_int_equal(-1, task_load(&task, "arc_eazy", folders));
    assert_non_null(strstr(error_message(), "did you mean arc_easy?"));
    assert_int_equal(-1, task_load(&task, "nothing.ini", folders));
    assert_non_null(strstr(error_message(), "nothing.ini"));
}

static void shipped_tasks_make_items_of_every_row(void **state)
{
    (void)state;
    static const char *const folders[] = {T2_DATA_DIR "/tasks", NULL};
    char *root = dataset_root(NULL);
    struct chat_format chat;

    assert_int_equal(0, chat_recognise(&chat, NULL, "chatml", "", ""));
    for (size_t t = 0; t < N_SHIPPED; t++) {
        struct task task;
        struct dataset data;
        struct task_item item;
        assert_int_equal(0, task_load(&task, shipped[t], folders));
        if (!root || !dataset_present(dataset_find(task.dataset), root)) {
            printf("skipped: %s is not in T2_DATA\n", shipped[t]);
            task_free(&task);
            continue;
        }
        struct task_context context = {.chat = task.chat ? &chat : NULL};
        assert_int_equal(0, dataset_load(&data, root, task.dataset, task.split));
        for (size_t i = 0; i < data.n_rows; i++) {
            int predicted;
            if (task_item_make(&task, &context, &data, i, &item))
                fail_msg("%s", error_message());
            if (task.score == TASK_GENERATE) { /* the right answer is graded as right */
                char *target = task_target(&task, &context, &data, i, &item);
                assert_non_null(target);
                if (!task_grade(&task, &item, target, &predicted))
                    fail_msg("%s: \"%s\" is graded wrong", shipped[t], target);
                free(target);
            }
            task_item_free(&item);
        }
        dataset_free(&data);
        task_free(&task);
    }
    chat_free(&chat);
    free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_keys_name_line_and_nearest),
        cmocka_unit_test(bad_values_name_line_and_choices),
        cmocka_unit_test(values_go_on_and_keep_quoted_blanks),
        cmocka_unit_test(templates_take_fields_and_braces),
        cmocka_unit_test(bad_rows_name_the_data_file_and_line),
        cmocka_unit_test(few_shot_examples_stand_before_the_question),
        cmocka_unit_test(a_prompt_file_is_taken_to_the_letter),
        cmocka_unit_test(the_shipped_tasks_load),
        cmocka_unit_test(shipped_tasks_make_items_of_every_row),
    };
    return cmocka_run_group_tests(tests, folder_setup, folder_teardown);
}

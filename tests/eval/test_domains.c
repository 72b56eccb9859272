/* Files of domains, the tasks that they make, and the task cls. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "eval/cls.h"
#include "eval/domains.h"
#include "eval/items.h"
#include "mpi/error.h"
#include "tests/eval/folder.h"

static const char good[] = "[adapt]\nprompt = \"{@domains}\\n{@names}? {prompt}\"\nway = rank\n"
                           "cls_tasks = sums | words\n"
                           "[math]\ndescription = with {numbers}\ntasks = sums | less\n"
                           "examples = \"1 + 1\\n\"\n"
                           "[text]\ntasks = words\nexamples = \"be\\n\"\n"
                           "[code]\ntasks = c\nexamples = \"int\\n\"\n";

static void refused(const char *text, const char *part)
{
    struct domains d;

    assert_int_equal(-1, domains_from_text(&d, text, "d.ini"));
    if (!strstr(error_message(), part))
        fail_msg("%s", error_message());
    domains_free(&d);
}

static void a_file_says_what_it_says(void **state)
{
    (void)state;
    struct domains d;

    assert_int_equal(0, domains_from_text(&d, good, "d.ini"));
    assert_int_equal(4, d.n);
    assert_string_equal("others", d.items[d.others].name);
    assert_int_equal(DOMAINS_RANK, d.way);
    assert_int_equal(0, domains_of(&d, "less"));
    assert_int_equal(1, domains_of(&d, "text"));
    assert_int_equal(d.others, domains_of(&d, "nothing"));
    assert_int_equal(2, d.n_cls_tasks);
    domains_free(&d);
}

static void mistakes_are_named(void **state)
{
    (void)state;
    refused("prompt = x\n", "d.ini:1: keys stand under [adapt]");
    refused("[adapt]\nprompts = x\n", "d.ini:2: unknown key 'prompts' of [adapt], did you mean "
                                      "'prompt'?");
    refused("[adapt]\nprompt = x\n[a]\ntasks = t\n", "needs the key 'prompt', with {prompt}");
    refused("[adapt]\nprompt = \"{prompt}\"\n", "no domain");
    refused("[adapt]\nprompt = \"{prompt}\"\nway = guess\n[a]\ntasks = t\n",
            "d.ini:3: way is 'guess', but must be generate, rank or channel");
    refused("[adapt]\nprompt = \"{prompt}\"\nchat = maybe\n[a]\ntasks = t\n",
            "d.ini:3: chat is 'maybe', but must be no or yes");
    refused("[adapt]\nprompt = \"{prompt}\"\n[a]\n[b]\n", "a section needs at least one key");
    refused("[adapt]\nprompt = \"{prompt}\"\nmax_new = many\n[a]\ntasks = t\n",
            "d.ini:3: max_new must be a whole number");
    refused("[adapt]\nprompt = \"{prompt}\"\n[a]\ntasks = t\n[b]\ntasks = s | t\n",
            "d.ini:6: the task t is in [a] and in [b]");
    refused("[adapt]\nprompt = \"{prompt}\"\nway = channel\n[a]\ntasks = t\n",
            "d.ini:5: way = channel needs the key 'examples' of [a]");
    refused("[adapt]\nprompt = \"{prompt}\"\n[a]\nexample = t\n",
            "unknown key 'example' of [a], did you mean 'examples'?");
    struct domains d;
    assert_int_equal(-1, domains_read(&d, "/no/such.ini"));
    assert_non_null(strstr(error_message(), "file of domains"));
    domains_free(&d);
}

static void the_shipped_files_are_right(void **state)
{
    (void)state;
    static const char *const paths[] = {T2_DATA_DIR "/adapt.ini", T2_DATA_DIR "/mini/adapt.ini"};

    for (size_t i = 0; i < 2; i++) {
        struct domains d;
        bool used[DOMAINS_MAX];
        struct task task;
        if (domains_read(&d, paths[i]) != 0)
            fail_msg("%s", error_message());
        memset(used, 1, sizeof used);
        for (int way = DOMAINS_GENERATE; way <= DOMAINS_CHANNEL; way++) {
            assert_int_equal(0, domains_task(&d, used, (enum domains_way)way, true, &task));
            assert_int_equal(d.n, task.choices.n_items);
            task_free(&task);
        }
        domains_free(&d);
    }
}

/* One row through the task. */
static void make_item(const struct task *task, const char *prompt, const char *domain,
                      struct task_item *item)
{
    struct dataset data = {.path = (char *)(uintptr_t) "rows"};
    const struct task_context context = {0};
    size_t capacity = 0;

    assert_int_equal(0, cls_add_row(&data, &capacity, "1", prompt, domain));
    if (task_item_make(task, &context, &data, 0, item) != 0)
        fail_msg("%s", error_message());
    data.path = NULL;
    dataset_free(&data);
}

static void only_the_domains_in_use_are_asked_for(void **state)
{
    (void)state;
    const bool used[DOMAINS_MAX] = {true, true, false, true};
    struct domains d;
    struct task task;
    struct task_item item;

    assert_int_equal(0, domains_from_text(&d, good, "d.ini"));
    assert_int_equal(0, domains_task(&d, used, DOMAINS_RANK, false, &task));
    make_item(&task, "2 {x} + 3?", "text", &item);
    assert_string_equal("math: with {numbers}\ntext\nothers\nmath, text or others? 2 {x} + 3?",
                        item.prompt);
    assert_int_equal(3, item.n_choices);
    assert_string_equal("others", item.choices[2]);
    assert_int_equal(1, item.gold_index);
    task_item_free(&item);
    task_free(&task);

    assert_int_equal(0, domains_task(&d, used, DOMAINS_CHANNEL, true, &task));
    assert_true(task.score_prompt);
    make_item(&task, "2 + 3?", "math", &item);
    assert_string_equal("2 + 3?", item.prompt);
    assert_int_equal(2, item.n_choices); /* others has no examples */
    assert_string_equal("be\n", item.choices[1]);
    assert_string_equal("text", item.plain[1]);
    task_item_free(&item);
    task_free(&task);
    const bool one[DOMAINS_MAX] = {true, false, false, true};
    assert_int_equal(-1, domains_task(&d, one, DOMAINS_CHANNEL, true, &task));
    assert_non_null(strstr(error_message(), "examples of two domains"));
    domains_free(&d);
}

/* ---- cls ---------------------------------------------------------------------------------------
 */

static void write_rows(const char *name, const char *what, int n)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (int i = 0; i < n; i++)
        fprintf(out, "{\"q\":\"%s %d\",\"a\":%d}\n", what, i, i);
    fclose(out);
    folder_file(name, text);
    free(text);
}

static void make_cls(const struct domains *d, struct task *task)
{
    static const char *const texts[] = {
        "[task]\nname = sums\ndataset = sums\nprompt = \"{q}=\"\nsystem = \"count!\"\n"
        "chat = yes\nfewshot = 2\nscore = generate\ngrader = last_number\ngold = a\n"
        "gold_form = number\n",
        "[task]\nname = words\ndataset = words\nprompt = \"say {q}\"\nscore = generate\n"
        "grader = exact\ngold = a\n"};
    struct task sources[2];

    for (size_t i = 0; i < 2; i++)
        assert_int_equal(0, task_from_text(&sources[i], texts[i], "t.ini"));
    if (cls_task(d, sources, 2, false, task) != 0)
        fail_msg("%s", error_message());
}

static size_t count(const struct dataset *data, const char *domain)
{
    size_t n = 0;

    for (size_t i = 0; i < data->n_rows; i++)
        n += strcmp(json_string_value(json_object_get(data->rows[i], "domain")), domain) == 0;
    return n;
}

static void cls_is_cut_four_to_one_and_balanced(void **state)
{
    (void)state;
    struct domains d;
    struct task task;
    struct dataset parts[3], again;
    static const char *const splits[] = {"train", "valid", "test"};
    size_t n = 0;

    write_rows("sums/train.jsonl", "sum", 1000);
    write_rows("words/train.jsonl", "word", 600);
    write_rows("sums/test.jsonl", "unseen", 3);
    write_rows("words/test.jsonl", "unseen", 3);
    write_rows("sums/valid.jsonl", "unseen", 3);
    write_rows("words/valid.jsonl", "unseen", 3);
    assert_int_equal(0, domains_from_text(&d, good, "d.ini"));
    make_cls(&d, &task);
    assert_int_equal(3, task.choices.n_items); /* math, text, others */
    for (size_t i = 0; i < 3; i++) {
        if (cls_load(&parts[i], task.cls, folder_path, splits[i]) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(count(&parts[i], "math"), count(&parts[i], "text"));
        assert_int_equal(0, count(&parts[i], "others"));
        for (size_t j = 0; j < parts[i].n_rows; j++)
            assert_null(
                strstr(json_string_value(json_object_get(parts[i].rows[j], "prompt")), "unseen"));
        n += parts[i].n_rows;
    }
    assert_in_range(n, 1050, 1200);
    assert_in_range(parts[2].n_rows, n / 6, n / 4);
    /* The prompt alone: no examples, no system message, no chat. */
    const char *prompt = json_string_value(json_object_get(parts[0].rows[0], "prompt"));
    assert_true(strncmp(prompt, "sum ", 4) == 0 || strncmp(prompt, "say ", 4) == 0);
    /* The same rows again; others for another seed, but of the same cut. */
    assert_int_equal(0, cls_load(&again, task.cls, folder_path, "test"));
    assert_int_equal(parts[2].n_rows, again.n_rows);
    for (size_t j = 0; j < again.n_rows; j++)
        assert_true(json_equal(parts[2].rows[j], again.rows[j]));
    dataset_free(&again);
    assert_int_equal(-1, cls_load(&again, task.cls, folder_path, "dev"));
    assert_non_null(strstr(error_message(), "train, valid and test"));
    dataset_free(&again);
    for (size_t i = 0; i < 3; i++)
        dataset_free(&parts[i]);
    task_free(&task);
    domains_free(&d);
}

static void a_task_of_no_domain_is_refused(void **state)
{
    (void)state;
    struct domains d;
    struct task task, source;

    assert_int_equal(0, domains_from_text(&d, good, "d.ini"));
    assert_int_equal(0, task_from_text(&source,
                                       "[task]\nname = strange\ndataset = s\nprompt = \"{q}\"\n"
                                       "score = generate\ngrader = exact\ngold = a\n",
                                       "t.ini"));
    assert_int_equal(-1, cls_task(&d, &source, 1, false, &task));
    assert_non_null(strstr(error_message(), "the task strange is in none of the domains"));
    domains_free(&d);
}

static int begin(void **state)
{
    (void)state;
    return folder_create();
}

static int end(void **state)
{
    (void)state;
    folder_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_says_what_it_says),
        cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(the_shipped_files_are_right),
        cmocka_unit_test(only_the_domains_in_use_are_asked_for),
        cmocka_unit_test(cls_is_cut_four_to_one_and_balanced),
        cmocka_unit_test(a_task_of_no_domain_is_refused),
    };
    return cmocka_run_group_tests(tests, begin, end);
}

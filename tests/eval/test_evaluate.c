/* ranks: 1 2 3 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "eval/evaluate.h"
#include "eval/items.h"
#include "eval/results.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "tests/eval/byte_tokenizer.h"
#include "tests/eval/folder.h"

static struct comm world;
static const struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};
static struct tokenizer *tokenizer;

/* ---- a scheduler without a model: what it answers is a hash of the request's tokens -------------
 */

static uint64_t hash_tokens(const int32_t *tokens, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < n; i++)
        h = (h ^ (uint64_t)tokens[i]) * 0x100000001b3u;
    return h ^ (h >> 29);
}

static int answer(const struct scheduler_client *client, const struct request *request)
{
    float logprobs[512];
    bool greedy[512];
    char text[64] = "";
    struct response response = {.logprobs = logprobs, .greedy = greedy, .text = text};

    assert_true(request->n_scored < request->n_tokens && request->n_scored <= 512);
    for (size_t i = 0; i < request->n_scored; i++) {
        uint64_t h = hash_tokens(request->tokens, request->n_tokens - request->n_scored + i + 1);
        logprobs[i] = -(float)(h % 100003) / 9973.0f;
        greedy[i] = h % 3 == 0;
    }
    if (request->max_new) {
        uint64_t h = hash_tokens(request->tokens, request->n_tokens) + request->stream;
        snprintf(text, sizeof text, "The answer is %d.", (int)(h % 3));
        response.n_ids = 5;
        response.finish = FINISH_EOS;
    }
    response.n_text = strlen(text);
    return client->done(client->context, request, &response);
}

/* Takes `batch` requests at a time and answers the last first. */
static int fake_run(struct model *model, const struct tokenizer *t,
                    const struct scheduler_options *options, const struct scheduler_client *client,
                    struct scheduler_stats *stats)
{
    struct request *held = calloc(options->batch, sizeof *held);
    bool more = true;
    int status = 0;
    (void)model;
    (void)t;

    memset(stats, 0, sizeof *stats);
    while (more && status == 0) {
        size_t n = 0;
        while (n < options->batch && (more = client->next(client->context, &held[n]))) {
            stats->prompt_tokens += held[n].n_tokens;
            n++;
        }
        while (n > 0 && status == 0)
            status = answer(client, &held[--n]);
    }
    free(held);
    return status;
}

static int failing_run(struct model *model, const struct tokenizer *t,
                       const struct scheduler_options *options,
                       const struct scheduler_client *client, struct scheduler_stats *stats)
{
    struct request request;
    (void)model;
    (void)t;
    (void)options;
    (void)stats;
    client->next(client->context, &request);
    client->next(client->context, &request);
    return world.rank == world.size - 1 ? error_set("no memory for the cache") : 0;
}

/* ---- tasks -------------------------------------------------------------------------------------
 */

static const char choice_task[] =
    "[task]\nname = choice\ndataset = quiz\nprompt = \"Q: {q}\\nA:\"\nchoices = c\n"
    "choice = \" {choice}\"\ngold = g\ngold_form = index\nnormalise = chars\n";
static const char number_task[] =
    "[task]\nname = number\ndataset = quiz\nprompt = \"Q: {q}\\nA:\"\nscore = generate\n"
    "gold = n\ngold_form = number\ngrader = last_number\nfewshot = 2\nfewshot_split = test\n";
static const char label_task[] =
    "[task]\nname = label\ndataset = quiz\nprompt = \"{q}\"\nchat = yes\nscore = generate\n"
    "choices = no | yes\ngold = b\ngold_form = index\ngrader = label\npositive = yes\n";

enum { N_ITEMS = 101 };

static void write_quiz(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (int i = 0; i < N_ITEMS; i++) {
        fprintf(out,
                "{\"id\":\"item-%d\",\"q\":\"%d?\",\"c\":[\"one\",\"\xc3\xa4h\"%s],\"g\":%d,"
                "\"n\":%d,\"b\":%d}\n",
                i, i * i, i % 3 ? "" : ",\"three or so\"", i % 2, i % 3, i % 2);
    }
    fclose(out);
    folder_file("quiz/test.jsonl", text);
    free(text);
}

/* FOLDER/tasks/own.ini's data lie in FOLDER/data/own, not in the run's data folder. */
static void write_own_data(void)
{
    char path[256];

    folder_file("tasks/own.ini", "");
    folder_file("data/README", "");
    snprintf(path, sizeof path, "%s/data/own", folder_path);
    mkdir(path, 0700);
    folder_file("data/own/train.jsonl", "{\"q\":\"5?\",\"n\":5}\n");
    folder_file("data/own/test.jsonl", "{\"q\":\"6?\",\"n\":6}\n");
}

static struct evaluate_options options_for(size_t batch)
{
    struct evaluate_options options = evaluate_defaults();

    options.run = fake_run;
    options.scheduler.batch = batch;
    options.data_root = folder_path;
    options.seed = 7;
    return options;
}

static int evaluate_at(const struct comm *comm, const char *text, const char *path,
                       const struct evaluate_options *options, struct task_result *result)
{
    struct task task;
    struct chat_format chat;

    assert_int_equal(0, task_from_text(&task, text, path));
    assert_int_equal(0, chat_recognise(&chat, NULL, "chatml", "", ""));
    int status = evaluate_task(comm, NULL, tokenizer, &chat, &task, options, result);
    chat_free(&chat);
    task_free(&task);
    return status;
}

static int evaluate_text(const struct comm *comm, const char *text,
                         const struct evaluate_options *options, struct task_result *result)
{
    return evaluate_at(comm, text, "t.ini", options, result);
}

static void assert_same_records(const struct task_result *a, const struct task_result *b)
{
    assert_int_equal(a->n_items, b->n_items);
    assert_memory_equal(&a->accuracy, &b->accuracy, sizeof(double));
    for (size_t i = 0; i < a->n_items; i++) {
        const struct item_record *x = &a->items[i], *y = &b->items[i];
        assert_int_equal(i, x->index);
        assert_int_equal(i, y->index);
        assert_string_equal(x->id, y->id);
        assert_string_equal(x->prompt, y->prompt);
        assert_string_equal(x->answer, y->answer);
        assert_string_equal(x->gold, y->gold);
        assert_int_equal(x->correct, y->correct);
        assert_int_equal(x->correct_normalised, y->correct_normalised);
        assert_int_equal(x->predicted, y->predicted);
        assert_int_equal(x->n_choices, y->n_choices);
        assert_int_equal(x->n_prompt_tokens, y->n_prompt_tokens);
        if (x->n_choices) {
            assert_memory_equal(x->logprobs, y->logprobs, x->n_choices * sizeof(double));
            assert_memory_equal(x->greedy, y->greedy, x->n_choices * sizeof(bool));
            assert_memory_equal(x->choice_tokens, y->choice_tokens, x->n_choices * sizeof(int64_t));
        }
    }
}

static void records_are_the_same_for_any_batch_and_rank_count(void **state)
{
    (void)state;
    static const char *const tasks[] = {choice_task, number_task, label_task};
    static const size_t batches[] = {1, 7, 64};

    for (size_t t = 0; t < 3; t++) {
        struct task_result reference, result;
        struct evaluate_options options = options_for(3);
        if (evaluate_text(&alone, tasks[t], &options, &reference))
            fail_msg("%s", error_message());
        for (size_t b = 0; b < 3; b++) {
            options = options_for(batches[b]);
            assert_int_equal(0, evaluate_text(&world, tasks[t], &options, &result));
            assert_int_equal(N_ITEMS, result.n_items);
            if (world.rank == 0)
                assert_same_records(&reference, &result);
            /* Metrics are known everywhere. */
            assert_memory_equal(&reference.accuracy, &result.accuracy, sizeof(double));
            assert_int_equal(reference.prompt_tokens, result.prompt_tokens);
            task_result_free(&result);
        }
        task_result_free(&reference);
    }
}

static void metrics_apply_where_they_should(void **state)
{
    (void)state;
    struct task_result result;
    struct evaluate_options options = options_for(8);

    assert_int_equal(0, evaluate_text(&world, choice_task, &options, &result));
    assert_false(isnan(result.accuracy_normalised));
    assert_false(isnan(result.gold_probability));
    assert_true(isnan(result.auc));
    if (world.rank == 0) {
        size_t n_correct = 0;
        for (size_t i = 0; i < result.n_items; i++) {
            const struct item_record *r = &result.items[i];
            size_t best = 0;
            for (size_t j = 1; j < r->n_choices; j++)
                if (r->logprobs[j] > r->logprobs[best])
                    best = j;
            assert_int_equal(i % 3 ? 2 : 3, r->n_choices);
            assert_int_equal(best, r->predicted);
            assert_int_equal(best == i % 2, r->correct);
            /* " one" is four bytes, scored each */
            assert_int_equal(4, r->choice_tokens[0]);
            n_correct += r->correct;
        }
        assert_float_equal((double)n_correct / N_ITEMS, result.accuracy, 1e-15);
    }
    task_result_free(&result);
    assert_int_equal(0, evaluate_text(&world, label_task, &options, &result));
    assert_false(isnan(result.auc));
    assert_true(isnan(result.accuracy_normalised));
    task_result_free(&result);
    assert_int_equal(0, evaluate_text(&world, number_task, &options, &result));
    assert_true(isnan(result.auc));
    assert_true(isnan(result.gold_probability));
    if (world.rank == 0)
        for (size_t i = 0; i < result.n_items; i++)
            assert_non_null(strstr(result.items[i].prompt, "A: ")); /* examples stand first */
    task_result_free(&result);
}

static void a_tasks_own_data_have_its_examples_too(void **state)
{
    (void)state;
    static const char text[] =
        "[task]\nname = own\ndataset = own\nprompt = \"Q: {q}\\nA:\"\nscore = generate\n"
        "gold = n\ngold_form = number\ngrader = last_number\nfewshot = 1\n"
        "fewshot_split = train\n";
    struct task_result result;
    struct evaluate_options options = options_for(8);
    char path[256];

    snprintf(path, sizeof path, "%s/tasks/own.ini", folder_path);
    if (evaluate_at(&world, text, path, &options, &result) != 0)
        fail_msg("%s", error_message());
    if (world.rank == 0)
        assert_non_null(strstr(result.items[0].prompt, "Q: 5?\nA: 5"));
    task_result_free(&result);
}

struct groups_seen {
    size_t order[32], n;
};

static int see_group(void *context, size_t group)
{
    struct groups_seen *seen = context;

    seen->order[seen->n++] = group;
    return group == 5 ? error_set("no expert for group 5") : 0;
}

static void groups_leave_the_records_of_one_run(void **state)
{
    (void)state;
    static const char *const tasks[] = {choice_task, number_task, label_task};
    int32_t of_row[N_ITEMS];
    struct groups_seen seen = {0};
    struct evaluate_groups groups = {4, of_row, see_group, &seen};
    struct evaluate_options options = options_for(8);
    struct task_result whole, parts;

    for (int i = 0; i < N_ITEMS; i++)
        of_row[i] = i % 7 == 0 ? 3 : i % 2 ? 0 : 1; /* none in group 2 */
    for (size_t t = 0; t < 3; t++) {
        options.groups = NULL;
        assert_int_equal(0, evaluate_text(&world, tasks[t], &options, &whole));
        options.groups = &groups;
        seen.n = 0;
        assert_int_equal(0, evaluate_text(&world, tasks[t], &options, &parts));
        assert_int_equal(3, seen.n);
        assert_int_equal(3, seen.order[2]);
        if (world.rank == 0)
            assert_same_records(&whole, &parts);
        assert_int_equal(whole.prompt_tokens, parts.prompt_tokens);
        task_result_free(&whole);
        task_result_free(&parts);
    }
    groups.n = 6;
    of_row[50] = 5;
    assert_int_equal(-1, evaluate_text(&world, choice_task, &options, &parts));
    assert_non_null(strstr(error_message(), "group 5"));
    of_row[50] = 6;
    assert_int_equal(-1, evaluate_text(&world, choice_task, &options, &parts));
    assert_non_null(strstr(error_message(), "none of the 6 groups"));
}

static void answers_only_leaves_choices_unscored(void **state)
{
    (void)state;
    struct evaluate_options options = options_for(8);
    struct task_result result;

    options.answers_only = true;
    assert_int_equal(0, evaluate_text(&world, label_task, &options, &result));
    assert_true(isnan(result.gold_probability));
    if (world.rank == 0)
        assert_int_equal(0, result.items[0].n_choices);
    task_result_free(&result);
}

static void a_limit_takes_the_first_items(void **state)
{
    (void)state;
    struct task_result result;
    struct evaluate_options options = options_for(8);

    options.limit = 2; /* fewer items than ranks */
    assert_int_equal(0, evaluate_text(&world, choice_task, &options, &result));
    assert_int_equal(2, result.n_items);
    if (world.rank == 0)
        assert_string_equal("item-1", result.items[1].id);
    task_result_free(&result);
}

static void results_of_different_runs_hold_the_same_columns(void **state)
{
    (void)state;
    static const char *const names[] = {"logprobs", "choice_tokens"};
    struct task_result results[2];
    struct evaluate_options options = options_for(5);
    struct run_info info = {"v",   "c",   "o",    "m", "a", 1, "s", "f32", "cpu", "plain",
                            "f32", "cpu", "none", 1,   1,   7, "t", 1,     NULL};

    assert_int_equal(0, evaluate_text(&alone, choice_task, &options, &results[0]));
    options = options_for(64);
    assert_int_equal(0, evaluate_text(&world, choice_task, &options, &results[1]));
    if (world.rank == 0) {
        char path[128], *texts[2];
        double cells[2][N_ITEMS * 3];
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/r%d.h5", folder_path, k);
            assert_int_equal(0, results_write(path, &info, &results[k], 1));
            hid_t file = h5_open(path);
            hid_t items = H5Gopen2(file, "tasks/choice/items", H5P_DEFAULT);
            for (size_t c = 0; c < 2; c++) {
                hid_t column = H5Dopen2(items, names[c], H5P_DEFAULT);
                assert_true(H5Dread(column, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                                    cells[k]) >= 0);
                H5Dclose(column);
            }
            texts[k] = h5_text_at(items, "answer", N_ITEMS - 1);
            H5Gclose(items);
            h5_close(file);
        }
        assert_memory_equal(cells[0], cells[1], sizeof cells[0]);
        assert_string_equal(texts[0], texts[1]);
        free(texts[0]);
        free(texts[1]);
    }
    task_result_free(&results[0]);
    task_result_free(&results[1]);
}

static void a_failing_rank_fails_all_with_its_sentence(void **state)
{
    (void)state;
    struct task_result result;
    struct evaluate_options options = options_for(8);

    options.run = failing_run;
    assert_int_equal(-1, evaluate_text(&world, choice_task, &options, &result));
    assert_non_null(strstr(error_message(), world.size > 1 ? "rank" : "no memory for the cache"));
}

static void a_bad_row_fails_the_run_and_names_it(void **state)
{
    (void)state;
    static const char task[] = "[task]\ndataset = quiz\nprompt = {c.2}\nchoices = a | b\n"
                               "gold = g\ngold_form = index\n";
    struct task_result result;
    struct evaluate_options options = options_for(8);

    assert_int_equal(-1, evaluate_text(&world, task, &options, &result));
    assert_non_null(strstr(error_message(), "test.jsonl:"));
    assert_non_null(strstr(error_message(), "\"c.2\" is absent"));
}

static void chat_tasks_need_a_chat_template(void **state)
{
    (void)state;
    struct task task;
    struct task_result result;
    struct chat_format none = {0};
    struct evaluate_options options = options_for(8);

    assert_int_equal(0, task_from_text(&task, label_task, "t.ini"));
    assert_int_equal(-1, evaluate_task(&world, NULL, tokenizer, &none, &task, &options, &result));
    assert_non_null(strstr(error_message(), "--chat-format"));
    options.chat = 0;
    assert_int_equal(0, evaluate_task(&world, NULL, tokenizer, &none, &task, &options, &result));
    if (world.rank == 0)
        assert_string_equal("0?", result.items[0].prompt);
    task_result_free(&result);
    task_free(&task);
}

static void blanks_at_the_contexts_end_move_to_the_continuation(void **state)
{
    (void)state;
    static const struct {
        const char *context, *continuation;
        size_t n_tokens, n_scored;
    } cases[] = {
        {"ab", " c", 4, 2},
        {"ab \n", "c", 5, 3},
        {"ab\xc2\xa0", "c", 5, 3},
        {"ab\xe3\x80\x80", "c", 6, 4},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tokens tokens = {0};
        size_t n_scored;
        assert_int_equal(0, items_encode_pair(tokenizer, cases[i].context, cases[i].continuation, 0,
                                              &tokens, &n_scored));
        assert_int_equal(cases[i].n_tokens, tokens.n);
        assert_int_equal(cases[i].n_scored, n_scored);
        tokens_free(&tokens);
    }
    struct tokens tokens = {0};
    size_t n_scored;
    assert_int_equal(-1, items_encode_pair(tokenizer, " ", "c", 0, &tokens, &n_scored));
    tokens_free(&tokens);
}

static int make_folder(void **state)
{
    (void)state;
    if (world.rank == 0 && folder_create() == 0) {
        write_quiz();
        write_own_data();
    }
    MPI_Bcast(folder_path, sizeof folder_path, MPI_CHAR, 0, world.handle);
    tokenizer = make_byte_tokenizer();
    return tokenizer ? 0 : -1;
}

static int remove_folder(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    MPI_Barrier(world.handle);
    if (world.rank == 0)
        folder_remove();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_are_the_same_for_any_batch_and_rank_count),
        cmocka_unit_test(metrics_apply_where_they_should),
        cmocka_unit_test(a_tasks_own_data_have_its_examples_too),
        cmocka_unit_test(groups_leave_the_records_of_one_run),
        cmocka_unit_test(answers_only_leaves_choices_unscored),
        cmocka_unit_test(a_limit_takes_the_first_items),
        cmocka_unit_test(results_of_different_runs_hold_the_same_columns),
        cmocka_unit_test(a_failing_rank_fails_all_with_its_sentence),
        cmocka_unit_test(a_bad_row_fails_the_run_and_names_it),
        cmocka_unit_test(chat_tasks_need_a_chat_template),
        cmocka_unit_test(blanks_at_the_contexts_end_move_to_the_continuation),
    };

    if (comm_init(&world, &argc, &argv))
        return 1;
    int failed = cmocka_run_group_tests(tests, make_folder, remove_folder);
    if (failed && world.size > 1)
        comm_abort(&world, 1); /* the other ranks may wait for this one */
    comm_finish(&world);
    return failed;
}

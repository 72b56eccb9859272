/* ranks: 1 2 3 */
/* Two passes over a stream: which expert answers what, and that nothing else decides it. The model
 * is made up: it ranks the domain highest whose letter the prompt holds most of, and answers with
 * the first number of the parameters that are attached. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "eval/adapt_file.h"
#include "eval/cls.h"
#include "model/model_internal.h"
#include "mpi/error.h"
#include "tests/eval/byte_tokenizer.h"
#include "tests/eval/folder.h"

static struct comm world;
static const struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};
static struct tokenizer *tokenizer;
static struct model model;
static const struct adapter_ops no_ops = {.kind = "svf"};
static struct adapter adapter = {.ops = &no_ops};
static const float expert_a[] = {1}, expert_b[] = {2}, classifier[] = {9};
static const float *const vectors[] = {expert_a, expert_b};
static char *names[] = {"ea", "eb"};
static size_t n_classified_by[10];

static const char domain_text[] =
    "[adapt]\nprompt = \"{prompt}\"\nchat = no\nway = rank\nchoice = \"{choice}\"\nempty = bb\n"
    "[a]\ntasks = stream\nexamples = \"aaa\"\n[b]\ntasks = tb\nexamples = \"bbb\"\n"
    "[c]\ntasks = tc\nexamples = \"ccc\"\n";
static const char stream_task[] =
    "[task]\nname = stream\ndataset = stream\nprompt = \"{q}\"\nscore = generate\ngold = n\n"
    "gold_form = number\ngrader = last_number\n";

enum { N_ITEMS = 60 };

/* Rows 0, 3, ... are a's, 1, 4, ... b's, the others nobody's; half of the right answers 1. */
static void write_stream(void)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);

    for (int i = 0; i < N_ITEMS; i++)
        fprintf(out, "{\"id\":\"%d\",\"q\":\"%s %d?\",\"n\":%d}\n", i,
                i % 3 == 0   ? "aaaa"
                : i % 3 == 1 ? "bbbb"
                             : "oooo",
                i, i % 2);
    fclose(out);
    folder_file("stream/test.jsonl", text);
    free(text);
}

static size_t letters(const struct request *request, size_t first, size_t end, char letter)
{
    size_t n = 0;

    for (size_t i = first; i < end; i++)
        n += request->tokens[i] == letter;
    return n;
}

/* The names are "a", "b" and "others": the scored part's first letter. */
static int answer(const struct scheduler_client *client, const struct request *request,
                  const struct model *m)
{
    const size_t split = request->n_tokens - request->n_scored;
    const float *parameters = m->adapter_parameters;
    float logprobs[512];
    bool greedy[512] = {false};
    char text[32] = "";
    struct response response = {.logprobs = logprobs, .greedy = greedy, .text = text};

    assert_ptr_equal(&adapter, m->adapter);
    assert_true(request->n_scored <= 512);
    for (size_t i = 0; i < request->n_scored; i++)
        logprobs[i] = 0;
    if (request->n_scored) {
        const char letter = (char)request->tokens[split];
        logprobs[0] = (float)letters(request, 0, split, letter) - 5 + (letter == 'b' ? 1.5f : 0);
        n_classified_by[parameters ? (int)parameters[0] : 0]++;
    } else {
        snprintf(text, sizeof text, "%d", parameters ? (int)parameters[0] : 0);
        response.n_ids = 1;
        response.finish = FINISH_EOS;
    }
    response.n_text = strlen(text);
    return client->done(client->context, request, &response);
}

static int fake_run(struct model *m, const struct tokenizer *t,
                    const struct scheduler_options *options, const struct scheduler_client *client,
                    struct scheduler_stats *stats)
{
    struct request *held = calloc(options->batch, sizeof *held);
    bool more = true;
    int status = 0;
    (void)t;

    memset(stats, 0, sizeof *stats);
    while (more && status == 0) {
        size_t n = 0;
        while (n < options->batch && (more = client->next(client->context, &held[n])))
            stats->prompt_tokens += held[n++].n_tokens;
        while (n > 0 && status == 0)
            status = answer(client, &held[--n], m);
    }
    free(held);
    return status;
}

static void make_adapt(struct adapt *a, struct domains *d, const char *const *tasks)
{
    assert_int_equal(0, domains_from_text(d, domain_text, "d.ini"));
    *a = (struct adapt){.strategy = "prompt",
                        .domains = d,
                        .way = d->way,
                        .fixed = -1,
                        .adapter = &adapter,
                        .n_experts = 2,
                        .names = names,
                        .vectors = vectors};
    if (adapt_match(a, tasks) != 0)
        fail_msg("%s", error_message());
}

static const char *const trained_on[] = {"stream", "tb"};

static struct evaluate_options options_for(size_t batch)
{
    struct evaluate_options options = evaluate_defaults();

    options.run = fake_run;
    options.scheduler.batch = batch;
    options.data_root = folder_path;
    return options;
}

static int run(const struct comm *comm, const struct adapt *a,
               const struct evaluate_options *options, struct task_result *result)
{
    const struct chat_format raw = {.family = CHAT_NONE};
    struct task task;

    assert_int_equal(0, task_from_text(&task, stream_task, "t.ini"));
    const int status = adapt_evaluate(a, comm, &model, tokenizer, &raw, &task, options, result);
    task_free(&task);
    return status;
}

static void every_prompt_is_answered_by_its_expert(void **state)
{
    (void)state;
    struct domains d;
    struct adapt a;
    static const size_t batches[] = {1, 7, 64};

    make_adapt(&a, &d, trained_on);
    for (size_t i = 0; i < 3; i++) {
        struct evaluate_options options = options_for(batches[i]);
        struct task_result result;
        if (run(&world, &a, &options, &result) != 0)
            fail_msg("%s", error_message());
        const struct adapt_record *r = result.adapt;
        assert_string_equal("a", r->truth);
        assert_int_equal(3, r->n_domains);
        assert_int_equal(20, r->chosen[0]);
        assert_int_equal(20, r->used[0]); /* the base model */
        assert_int_equal(20, r->used[2]);
        assert_float_equal(1.0 / 3, adapt_share_right(r), 1e-15);
        assert_float_equal(10.0 / 60 + 10.0 / 60, result.accuracy, 1e-15);
        for (size_t j = 0; world.rank == 0 && j < N_ITEMS; j++) {
            static const char *const answers[] = {"1", "2", "0"};
            assert_int_equal(j, result.items[j].index);
            assert_string_equal(answers[j % 3], result.items[j].answer);
            assert_int_equal(j % 3 == 2 ? -1 : (int)(j % 3), result.items[j].expert);
            assert_int_equal((int)(j % 3), result.items[j].domain);
        }
        assert_null(model.adapter_parameters); /* the base model is left attached */
        task_result_free(&result);
    }
    domains_free(&d);
}

static void the_classifier_sorts_with_its_own_parameters(void **state)
{
    (void)state;
    struct domains d;
    struct adapt a;
    struct evaluate_options options = options_for(8);
    struct task_result result;

    make_adapt(&a, &d, trained_on);
    a.classifier = classifier;
    memset(n_classified_by, 0, sizeof n_classified_by);
    assert_int_equal(0, run(&alone, &a, &options, &result));
    assert_int_equal(0, n_classified_by[0]);
    assert_int_equal(3 * N_ITEMS, n_classified_by[9]);
    task_result_free(&result);
    domains_free(&d);
}

static void calibration_takes_off_what_an_empty_prompt_has(void **state)
{
    (void)state;
    struct domains d;
    struct adapt a;
    struct evaluate_options options = options_for(8);
    struct task_result result;

    make_adapt(&a, &d, trained_on);
    a.calibrate = true; /* "bb" speaks for b: two letters less */
    assert_int_equal(0, run(&world, &a, &options, &result));
    assert_int_equal(20, result.adapt->chosen[0]);
    assert_int_equal(20, result.adapt->chosen[1]);
    assert_int_equal(N_ITEMS, result.n_items);
    task_result_free(&result);
    domains_free(&d);
}

static void a_fixed_expert_needs_no_pass_one(void **state)
{
    (void)state;
    struct adapt a = {.strategy = "eb",
                      .fixed = 1,
                      .adapter = &adapter,
                      .n_experts = 2,
                      .names = names,
                      .vectors = vectors};
    struct evaluate_options options = options_for(8);
    struct task_result result;

    options.limit = 5;
    if (run(&world, &a, &options, &result) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(5, result.adapt->used[2]);
    assert_int_equal(0, result.adapt->n_domains);
    assert_true(isnan(adapt_share_right(result.adapt)));
    if (world.rank == 0)
        assert_string_equal("2", result.items[4].answer);
    task_result_free(&result);
}

static void checking_runs_nothing(void **state)
{
    (void)state;
    struct domains d;
    struct adapt a;
    struct evaluate_options options = options_for(8);
    struct task_result result;

    make_adapt(&a, &d, trained_on);
    options.check_only = true;
    memset(n_classified_by, 0, sizeof n_classified_by);
    assert_int_equal(0, run(&world, &a, &options, &result));
    assert_int_equal(0, n_classified_by[0]);
    options.split = "nowhere";
    assert_int_equal(-1, run(&world, &a, &options, &result));
    domains_free(&d);
}

static void experts_are_matched_by_name_or_task(void **state)
{
    (void)state;
    static const char *const unknown[] = {"stream", "nothing"}, *const same[] = {"a", "stream"};
    static char *by_name[] = {"c", "b"};
    struct domains d;
    struct adapt a;

    make_adapt(&a, &d, trained_on);
    assert_int_equal(0, a.expert_of[0]);
    assert_int_equal(1, a.expert_of[1]);
    assert_int_equal(-1, a.expert_of[2]);
    assert_true(a.used[d.others] && !a.used[2]);
    assert_int_equal(-1, adapt_match(&a, unknown));
    assert_non_null(strstr(error_message(), "the expert eb, trained on nothing belongs to none"));
    assert_int_equal(-1, adapt_match(&a, same));
    assert_non_null(strstr(error_message(), "both of the domain a"));
    a.names = by_name;
    assert_int_equal(0, adapt_match(&a, unknown));
    assert_int_equal(0, a.expert_of[2]);
    domains_free(&d);
}

static int begin(void **state)
{
    (void)state;
    model.config.vocab_size = 256;
    model.config.max_positions = 4096;
    tokenizer = make_byte_tokenizer();
    if (!tokenizer || folder_create() != 0)
        return -1;
    write_stream();
    return 0;
}

static int end(void **state)
{
    (void)state;
    tokenizer_free(tokenizer);
    folder_remove();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_prompt_is_answered_by_its_expert),
        cmocka_unit_test(the_classifier_sorts_with_its_own_parameters),
        cmocka_unit_test(calibration_takes_off_what_an_empty_prompt_has),
        cmocka_unit_test(a_fixed_expert_needs_no_pass_one),
        cmocka_unit_test(checking_runs_nothing),
        cmocka_unit_test(experts_are_matched_by_name_or_task),
    };
    if (comm_init(&world, &argc, &argv))
        return 1;
    const int failed = cmocka_run_group_tests(tests, begin, end);
    if (failed && world.size > 1)
        comm_abort(&world, 1); /* the other ranks may wait for this one */
    comm_finish(&world);
    return failed;
}

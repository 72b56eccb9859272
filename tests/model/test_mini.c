/* data/mini answers as transformers does (tests/oracle/mini_expected.py): tokens, greedy answers
 * and the log-likelihoods of choices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/model.h"
#include "model/scheduler.h"
#include "model/tokenizer.h"
#include "mpi/error.h"

/* One request and what came back. */
struct one {
    struct request request;
    bool taken;
    char text[512];
    double logprob;
};

static bool take(void *context, struct request *request)
{
    struct one *one = context;
    *request = one->request;
    return !one->taken && (one->taken = true);
}

static int done(void *context, const struct request *request, const struct response *response)
{
    struct one *one = context;
    for (size_t i = 0; i < request->n_scored; i++)
        one->logprob += (double)response->logprobs[i];
    snprintf(one->text, sizeof one->text, "%s", response->text);
    return 0;
}

static void run(struct model *model, const struct tokenizer *tokenizer, struct one *one)
{
    const struct scheduler_options options = scheduler_defaults();
    const struct scheduler_client client = {take, done, NULL, one};
    if (scheduler_run(model, tokenizer, &options, &client, NULL) != 0)
        fail_msg("%s", error_message());
}

static void encode(const struct tokenizer *tokenizer, const char *text, struct tokens *tokens)
{
    if (tokenizer_encode(tokenizer, text, strlen(text), TOKENIZER_SPECIAL, tokens) != 0)
        fail_msg("%s", error_message());
}

static void check_answer(struct model *model, const struct tokenizer *tokenizer, json_t *item)
{
    struct tokens tokens = {0};
    json_t *ids = json_object_get(item, "ids");
    encode(tokenizer, json_string_value(json_object_get(item, "prompt")), &tokens);
    assert_int_equal(tokens.n, json_array_size(ids));
    for (size_t i = 0; i < tokens.n; i++)
        assert_int_equal(tokens.ids[i], json_integer_value(json_array_get(ids, i)));
    struct one one = {.request = {.tokens = tokens.ids, .n_tokens = tokens.n, .max_new = 48}};
    run(model, tokenizer, &one);
    assert_string_equal(one.text, json_string_value(json_object_get(item, "answer")));
    tokens_free(&tokens);
}

static void check_choices(struct model *model, const struct tokenizer *tokenizer, json_t *item)
{
    const char *prompt = json_string_value(json_object_get(item, "prompt"));
    json_t *choices = json_object_get(item, "choices"),
           *logprobs = json_object_get(item, "logprobs");
    for (size_t c = 0; c < json_array_size(choices); c++) {
        struct tokens context = {0}, whole = {0};
        char text[1024];
        snprintf(text, sizeof text, "%s %s", prompt, json_string_value(json_array_get(choices, c)));
        encode(tokenizer, prompt, &context);
        encode(tokenizer, text, &whole);
        struct one one = {
            .request = {.tokens = whole.ids, .n_tokens = whole.n, .n_scored = whole.n - context.n}};
        run(model, tokenizer, &one);
        const double expected = json_number_value(json_array_get(logprobs, c));
        assert_true(fabs(one.logprob - expected) <= 1e-3);
        tokens_free(&context);
        tokens_free(&whole);
    }
}

static void mini_answers_as_the_reference_does(void **state)
{
    (void)state;
    json_t *expected = json_load_file(T2_FIXTURES "/mini_expected.json", 0, NULL);
    assert_non_null(expected);
    struct checkpoint *ck = checkpoint_open(T2_DATA_DIR "/mini");
    if (!ck)
        fail_msg("%s", error_message());
    struct tokenizer *tokenizer = tokenizer_load_hf(T2_DATA_DIR "/mini");
    const struct model_options options = {ELEMENT_F32, cpu_best_isa(), 1, {0}};
    struct model *model = model_load(ck, &options);
    assert_true(tokenizer && model);
    const char *name;
    json_t *task, *item;
    size_t i;
    json_object_foreach(json_object_get(expected, "tasks"), name, task)
    {
        json_array_foreach(json_object_get(task, "items"), i, item)
        {
            if (json_object_get(item, "choices"))
                check_choices(model, tokenizer, item);
            else
                check_answer(model, tokenizer, item);
        }
    }
    model_free(model);
    tokenizer_free(tokenizer);
    checkpoint_free(ck);
    json_decref(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(mini_answers_as_the_reference_does)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

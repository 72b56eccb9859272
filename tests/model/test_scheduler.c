#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/model_internal.h"
#include "model/sample.h"
#include "model/scheduler.h"
#include "mpi/error.h"

enum { N_REQUESTS = 40, MAX_TOKENS = 160, MAX_NEW = 12 };

/* Requests of many lengths that share prefixes of many lengths, some to score and some to answer.
 */
struct work {
    int32_t tokens[N_REQUESTS][MAX_TOKENS];
    struct request requests[N_REQUESTS];
    size_t n_next, n_done;
    float logprobs[N_REQUESTS][MAX_TOKENS];
    bool greedy[N_REQUESTS][MAX_TOKENS];
    int32_t answers[N_REQUESTS][MAX_NEW];
    size_t n_answer[N_REQUESTS];
};

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static struct work *work_create(size_t vocab)
{
    struct work *w = calloc(1, sizeof *w);
    uint32_t random = 7;
    for (size_t i = 0; i < N_REQUESTS; i++) {
        const size_t n = 2 + next_random(&random) % (MAX_TOKENS - 2);
        size_t shared = 0;
        if (i > 0 && next_random(&random) % 4 > 0) {
            const size_t other = next_random(&random) % i;
            shared = next_random(&random) % w->requests[other].n_tokens;
            shared = shared < n ? shared : n;
            memcpy(w->tokens[i], w->tokens[other], shared * sizeof(int32_t));
        }
        for (size_t k = shared; k < n; k++)
            w->tokens[i][k] = (int32_t)(next_random(&random) % vocab);
        struct request *r = &w->requests[i];
        *r = (struct request){.tokens = w->tokens[i],
                              .n_tokens = n,
                              .stream = i,
                              .ignore_eos = true,
                              .user = (void *)(uintptr_t)i};
        switch (i % 4) {
        case 0:
            r->n_scored = 1 + next_random(&random) % (n - 1);
            break;
        case 1:
            r->max_new = MAX_NEW;
            break;
        case 2:
            r->max_new = 1 + next_random(&random) % MAX_NEW;
            r->sampling = (struct sampling){.temperature = 0.8f, .top_p = 0.9f, .seed = 11};
            break;
        case 3:
            r->n_scored = n / 2;
            r->max_new = 3;
            r->sampling =
                (struct sampling){.temperature = 1.3f, .top_k = 20, .top_p = 1, .seed = 5};
            break;
        }
    }
    return w;
}

static bool take_next(void *context, struct request *request)
{
    struct work *w = context;
    if (w->n_next == N_REQUESTS)
        return false;
    *request = w->requests[w->n_next++];
    return true;
}

static int take_done(void *context, const struct request *request, const struct response *response)
{
    struct work *w = context;
    const size_t i = (uintptr_t)request->user;
    memcpy(w->logprobs[i], response->logprobs, request->n_scored * sizeof(float));
    memcpy(w->greedy[i], response->greedy, request->n_scored * sizeof(bool));
    memcpy(w->answers[i], response->ids, response->n_ids * sizeof(int32_t));
    w->n_answer[i] = response->n_ids;
    w->n_done++;
    return 0;
}

static struct model *load(const char *name, enum element element, enum isa isa, int n_threads)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tiny/%s", T2_FIXTURES, name);
    struct checkpoint *ck = checkpoint_open(path);
    if (!ck)
        fail_msg("%s", error_message());
    const struct model_options options = {element, isa, n_threads, {0}};
    struct model *model = model_load(ck, &options);
    if (!model)
        fail_msg("%s", error_message());
    checkpoint_free(ck);
    return model;
}

static struct work *run(struct model *model, size_t batch, size_t chunk, bool share,
                        struct scheduler_stats *stats)
{
    struct work *w = work_create(model->config.vocab_size);
    struct scheduler_options options = scheduler_defaults();
    options.batch = batch;
    options.chunk = chunk;
    options.share_prefix = share;
    const struct scheduler_client client = {take_next, take_done, NULL, w};
    if (scheduler_run(model, NULL, &options, &client, stats) != 0)
        fail_msg("%s", error_message());
    assert_int_equal(w->n_done, N_REQUESTS);
    return w;
}

static void answers_do_not_depend_on_batch_chunk_sharing_or_threads(void **state)
{
    (void)state;
    static const char *const names[] = {"llama", "mistral-window", "qwen3", "llama-head-dim-24"};
    static const size_t batches[] = {1, 7, 64}, chunks[] = {1, 17, 512};
    /* Without optimisation (sanitizers), and on the stand-in for a device, one model an instruction
     * set. */
#if defined(__OPTIMIZE__) && !defined(T2_STANDIN)
    const size_t n_names = 1;
#else
    const size_t n_names = 4;
#endif
    for (size_t name = 0; name < sizeof names / sizeof *names; name++)
        for (int element = ELEMENT_F32; element <= ELEMENT_BF16; element++)
            for (int isa = cpu_best_isa(); isa >= ISA_AVX2; isa--) {
                struct work *first = NULL;
                if ((size_t)isa % n_names != name % n_names)
                    continue;
                for (int n_threads = 1; n_threads <= 2; n_threads++) {
                    struct model *model =
                        load(names[name], (enum element)element, (enum isa)isa, n_threads);
                    /* all ways on one thread of the best level, every fifth elsewhere */
                    const bool all = n_threads == 1 && isa == (int)cpu_best_isa();
                    for (size_t i = all ? 0 : (size_t)(isa + n_threads) % 5; i < 18;
                         i += all ? 1 : 5) {
                        struct work *w = run(model, batches[i % 3], chunks[i / 3 % 3], i < 9, NULL);
                        if (!first)
                            first = w;
                        assert_memory_equal(first->logprobs, w->logprobs, sizeof w->logprobs);
                        assert_memory_equal(first->greedy, w->greedy, sizeof w->greedy);
                        assert_memory_equal(first->answers, w->answers, sizeof w->answers);
                        assert_memory_equal(first->n_answer, w->n_answer, sizeof w->n_answer);
                        if (w != first)
                            free(w);
                    }
                    model_free(model);
                }
                free(first);
            }
}

/* Four continuations of 5 tokens after one prompt of 100: the prompt's last token is fed again for
 * each, because its hidden state predicts the first of the five; the last token is never fed. */
static void a_shared_prefix_is_computed_once(void **state)
{
    (void)state;
    struct model *model = load("llama", ELEMENT_F32, cpu_best_isa(), 1);
    for (int share = 0; share <= 1; share++)
        for (size_t chunk = 30; chunk <= 512; chunk += 482) {
            struct work *w = work_create(model->config.vocab_size);
            w->n_next = N_REQUESTS - 4;
            for (size_t i = N_REQUESTS - 4; i < N_REQUESTS; i++) {
                for (size_t k = 0; k < 105; k++)
                    w->tokens[i][k] = (int32_t)(k < 100 ? 1 + k : 80 + i);
                w->requests[i].n_tokens = 105;
                w->requests[i].n_scored = 5;
                w->requests[i].max_new = 0;
            }
            struct scheduler_options options = scheduler_defaults();
            options.chunk = chunk;
            options.share_prefix = share;
            const struct scheduler_client client = {take_next, take_done, NULL, w};
            struct scheduler_stats stats;
            if (scheduler_run(model, NULL, &options, &client, &stats) != 0)
                fail_msg("%s", error_message());
            assert_int_equal(stats.prompt_tokens, 4 * 105);
            assert_int_equal(stats.computed_tokens, share ? 104 + 3 * 5 : 4 * 104);
            free(w);
        }
    model_free(model);
}

/* ---- generation through a tokenizer -------------------------------------------------------------
 */

enum { N_STOPS = 40, N_FREE = 40 };

struct answer {
    char text[1024];
    int32_t ids[N_FREE];
    size_t n_ids;
    enum finish finish;
};

/* Requests that differ in their stop strings alone. */
struct generation {
    struct request requests[N_STOPS];
    struct answer answers[N_STOPS];
    size_t n, n_next, n_done, fails_at;
};

static bool generation_next(void *context, struct request *request)
{
    struct generation *g = context;
    if (g->n_next == g->n)
        return false;
    *request = g->requests[g->n_next];
    request->user = &g->answers[g->n_next++];
    return true;
}

static int generation_done(void *context, const struct request *request,
                           const struct response *response)
{
    struct generation *g = context;
    struct answer *a = request->user;
    assert_int_equal(strlen(response->text), response->n_text);
    assert_true(response->n_text < sizeof a->text && response->n_ids <= N_FREE);
    memcpy(a->text, response->text, response->n_text + 1);
    memcpy(a->ids, response->ids, response->n_ids * sizeof *a->ids);
    a->n_ids = response->n_ids;
    a->finish = response->finish;
    return ++g->n_done == g->fails_at ? error_set("the disk is full") : 0;
}

static struct model *load_mini(struct tokenizer **tokenizer)
{
    struct checkpoint *ck = checkpoint_open(T2_DATA_DIR "/mini");
    const struct model_options options = {ELEMENT_F32, cpu_best_isa(), 1, {0}};
    struct model *model = ck ? model_load(ck, &options) : NULL;
    *tokenizer = tokenizer_load_hf(T2_DATA_DIR "/mini");
    if (!model || !*tokenizer)
        fail_msg("%s", error_message());
    checkpoint_free(ck);
    return model;
}

static const int32_t start[] = {1, 40, 41, 42};

static struct request hot_request(uint64_t seed)
{
    return (struct request){.tokens = start,
                            .n_tokens = 4,
                            .max_new = N_FREE,
                            .ignore_eos = true,
                            .sampling = {.temperature = 1.5f, .top_p = 1, .seed = seed}};
}

static int generate(struct model *model, const struct tokenizer *tokenizer, struct generation *g,
                    size_t batch, size_t chunk)
{
    struct scheduler_options options = scheduler_defaults();
    options.batch = batch;
    options.chunk = chunk;
    const struct scheduler_client client = {generation_next, generation_done, NULL, g};
    return scheduler_run(model, tokenizer, &options, &client, NULL);
}

static void stop_strings_cut_answers_wherever_tokens_end(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct model *model = load_mini(&tokenizer);
    struct generation *g = calloc(1, sizeof *g);
    struct answer *free_answer = calloc(1, sizeof *free_answer);
    char stops[N_STOPS][8] = {{0}};
    const char *lists[N_STOPS][3];
    uint32_t random = 3;

    for (uint64_t seed = 0; seed < 2; seed++) {
        *g = (struct generation){.requests = {hot_request(seed)}, .n = 1};
        assert_int_equal(generate(model, tokenizer, g, 1, 512), 0);
        *free_answer = g->answers[0];
        assert_int_equal(free_answer->finish, FINISH_LENGTH);
        const size_t n_text = strlen(free_answer->text);
        assert_true(n_text > 20);
        *g = (struct generation){.n = N_STOPS};
        for (size_t i = 0; i < N_STOPS; i++) {
            const size_t n = 1 + next_random(&random) % 6;
            const size_t at = next_random(&random) % (n_text - n);
            memcpy(stops[i], free_answer->text + at, n);
            stops[i][n] = '\0';
            lists[i][0] = "";
            lists[i][1] = "never to be found, and longer than the others";
            lists[i][2] = stops[i];
            g->requests[i] = hot_request(seed);
            g->requests[i].stops = lists[i];
            g->requests[i].n_stops = i == 0 ? 2 : 3;
        }
        assert_int_equal(generate(model, tokenizer, g, seed % 2 ? N_STOPS : 7, 5), 0);
        assert_string_equal(g->answers[0].text, free_answer->text);
        for (size_t i = 1; i < N_STOPS; i++) {
            const struct answer *a = &g->answers[i];
            const char *stop = strstr(free_answer->text, stops[i]);
            const size_t n = (size_t)(stop - free_answer->text);
            size_t n_whole;
            if (strpbrk(stops[i], "\xef\xbf\xbd"))
                continue; /* U+FFFD stands for bytes that the tokens do not have */
            assert_int_equal(a->finish, FINISH_STOP);
            assert_int_equal(strlen(a->text), n);
            assert_memory_equal(a->text, free_answer->text, n);
            assert_memory_equal(a->ids, free_answer->ids, a->n_ids * sizeof *a->ids);
            /* no token more than the stop string needs */
            char *whole = tokenizer_decode(tokenizer, a->ids, a->n_ids - 1, true, &n_whole);
            assert_null(strstr(whole, stops[i]));
            free(whole);
        }
    }
    free(g);
    free(free_answer);
    model_free(model);
    tokenizer_free(tokenizer);
}

static void a_failing_client_ends_the_run(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct model *model = load_mini(&tokenizer);
    for (size_t fails_at = 1; fails_at <= 9; fails_at += 4) {
        struct generation *g = calloc(1, sizeof *g);
        g->n = 9;
        g->fails_at = fails_at;
        for (size_t i = 0; i < g->n; i++) {
            g->requests[i] = hot_request(i);
            g->requests[i].max_new = i % 3 == 2 ? 0 : 1 + i; /* scored ones finish in the sweep */
        }
        assert_int_equal(generate(model, tokenizer, g, 4, 16), -1);
        assert_string_equal(error_message(), "the disk is full");
        assert_int_equal(g->n_done, fails_at);
        free(g);
    }
    model_free(model);
    tokenizer_free(tokenizer);
}

static void answers_end_at_the_models_last_position(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct model *model = load_mini(&tokenizer);
    const size_t n = model->config.max_positions;
    int32_t *tokens = malloc(n * sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(3 + i % 400);
    for (size_t room = 1; room <= 3; room++) {
        struct generation *g = calloc(1, sizeof *g);
        g->n = 2;
        g->requests[0] = hot_request(1);
        g->requests[0].tokens = tokens;
        g->requests[0].n_tokens = n - room;
        g->requests[0].max_new = SIZE_MAX;
        g->requests[0].n_scored = 5;
        g->requests[1] = g->requests[0];
        g->requests[1].n_tokens = n; /* no room to answer, but to score */
        g->requests[1].max_new = 0;
        if (generate(model, tokenizer, g, 2, 100) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(g->answers[0].n_ids, room);
        assert_int_equal(g->answers[0].finish, FINISH_LENGTH);
        assert_int_equal(g->answers[1].finish, FINISH_SCORED);
        free(g);
    }
    free(tokens);
    model_free(model);
    tokenizer_free(tokenizer);
}

/* ---- the cap -----------------------------------------------------------------------------------
 */

/* A client that counts what is in flight. The newest request may still be waiting outside. */
struct capped {
    struct work *work;
    size_t cap, held, n_flying;
};

static size_t need(const struct request *r)
{
    return r->n_tokens + r->max_new;
}

static bool capped_next(void *context, struct request *request)
{
    struct capped *c = context;
    if (!take_next(c->work, request))
        return false;
    /* Whatever came before it is in flight or done. */
    assert_true(c->n_flying <= 1 || c->held <= c->cap);
    c->held += need(request);
    c->n_flying++;
    return true;
}

static int capped_done(void *context, const struct request *request,
                       const struct response *response)
{
    struct capped *c = context;
    c->held -= need(request);
    c->n_flying--;
    return take_done(c->work, request, response);
}

static void a_cap_changes_no_answer(void **state)
{
    (void)state;
    struct model *model = load("mistral-window", ELEMENT_F32, cpu_best_isa(), 1);
    struct work *first = run(model, 64, 64, true, NULL);
    static const size_t caps[] = {1, 180, 500, 5000};
    for (size_t i = 0; i < sizeof caps / sizeof *caps; i++) {
        struct capped c = {.work = work_create(model->config.vocab_size), .cap = caps[i]};
        struct scheduler_options options = scheduler_defaults();
        options.chunk = 32;
        options.max_tokens = caps[i];
        const struct scheduler_client client = {capped_next, capped_done, NULL, &c};
        if (scheduler_run(model, NULL, &options, &client, NULL) != 0)
            fail_msg("%s", error_message());
        assert_int_equal(c.work->n_done, N_REQUESTS);
        assert_memory_equal(first->logprobs, c.work->logprobs, sizeof first->logprobs);
        assert_memory_equal(first->answers, c.work->answers, sizeof first->answers);
        free(c.work);
    }
    free(first);
    model_free(model);
}

static void scores_are_the_logits_softmax(void **state)
{
    (void)state;
    struct model *model = load("llama", ELEMENT_F32, cpu_best_isa(), 1);
    struct work *w = run(model, 8, 64, true, NULL);
    for (size_t i = 0; i < N_REQUESTS; i++)
        for (size_t k = 0; k < w->requests[i].n_scored; k++)
            assert_true(w->logprobs[i][k] < 0 && w->logprobs[i][k] > -100);
    free(w);
    model_free(model);
}

static void a_prompt_that_does_not_fit_is_a_sentence(void **state)
{
    (void)state;
    struct model *model = load("llama", ELEMENT_F32, cpu_best_isa(), 1);
    struct work *w = work_create(model->config.vocab_size);
    const size_t n = model->config.max_positions + 1;
    int32_t *tokens = calloc(n, sizeof *tokens);
    w->n_next = N_REQUESTS - 1;
    w->requests[N_REQUESTS - 1] = (struct request){.tokens = tokens, .n_tokens = n, .max_new = 1};
    const struct scheduler_options options = scheduler_defaults();
    const struct scheduler_client client = {take_next, take_done, NULL, w};
    assert_int_equal(scheduler_run(model, NULL, &options, &client, NULL), -1);
    assert_non_null(strstr(error_message(), "does not fit the model's"));
    w->n_next = N_REQUESTS - 1;
    w->requests[N_REQUESTS - 1].n_tokens = 2;
    tokens[1] = 1 << 20;
    assert_int_equal(scheduler_run(model, NULL, &options, &client, NULL), -1);
    assert_non_null(strstr(error_message(), "outside the model's vocabulary"));
    free(tokens);
    free(w);
    model_free(model);
}

static void sampling_follows_the_distribution(void **state)
{
    (void)state;
    /* probabilities 0.5, 0.25, 0.125, 0.125 */
    const float logits[] = {-1.38629436f, -0.69314718f, -2.07944154f, -2.07944154f};
    int32_t scratch[4];
    struct sampling s = {.temperature = 1, .top_p = 1};
    assert_int_equal(sample_token(&s, logits, 4, 0.2f, scratch), 0);
    assert_int_equal(sample_token(&s, logits, 4, 0.3f, scratch), 1);
    assert_int_equal(sample_token(&s, logits, 4, 0.8f, scratch), 2);
    assert_int_equal(sample_token(&s, logits, 4, 0.99f, scratch), 3);
    s.top_k = 2; /* {1, 0} with 2/3, 1/3 */
    assert_int_equal(sample_token(&s, logits, 4, 0.66f, scratch), 1);
    assert_int_equal(sample_token(&s, logits, 4, 0.67f, scratch), 0);
    s.top_k = 0;
    s.top_p = 0.8f; /* {1, 0, 2} */
    assert_int_equal(sample_token(&s, logits, 4, 0.99f, scratch), 2);
    s.top_k = 3;
    s.top_p = 0.5f; /* of {1, 0, 2}: 1 alone holds 4/7 */
    assert_int_equal(sample_token(&s, logits, 4, 0.99f, scratch), 1);
    s.temperature = 0;
    assert_int_equal(sample_token(&s, logits, 4, 0.99f, scratch), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_do_not_depend_on_batch_chunk_sharing_or_threads),
        cmocka_unit_test(a_shared_prefix_is_computed_once),
        cmocka_unit_test(stop_strings_cut_answers_wherever_tokens_end),
        cmocka_unit_test(a_failing_client_ends_the_run),
        cmocka_unit_test(answers_end_at_the_models_last_position),
        cmocka_unit_test(a_cap_changes_no_answer),
        cmocka_unit_test(scores_are_the_logits_softmax),
        cmocka_unit_test(a_prompt_that_does_not_fit_is_a_sentence),
        cmocka_unit_test(sampling_follows_the_distribution),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

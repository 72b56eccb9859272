/* ranks: 1 2 3 */
/* Candidates on shots, without a model: what one answers is a hash of itself and the shot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <unistd.h>

#include "eval/population.h"
#include "model/rng.h"
#include "mpi/error.h"
#include "mpi/signals.h"
#include "tests/eval/byte_tokenizer.h"
#include "tests/eval/folder.h"

static struct comm world;
static const struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};
static struct tokenizer *tokenizer;
static struct task task;
static struct chat_format chat;
static struct shots shots;

enum { N_SHOTS = 11, MOST = 24 };

/* ---- candidates without a model ---------------------------------------------------------------
 */

struct crowd {
    const struct comm *comm;
    uint64_t seed;       /* of what they answer */
    uint64_t worn;       /* the one that the model is */
    const size_t *order; /* [candidates] who stands at a place, or NULL: 0, 1, 2, ... */
    unsigned easy;       /* every candidate is right in `worn` of `easy` of the shots, about */
    double odd;          /* what candidate 3 gives as log-likelihood, unless 0 */
    int fails_on;        /* the rank on which wearing candidate 2 fails; -1: none */
    int stops_on;        /* the rank that is asked to stop there; -1: none */
    size_t n_worn;
};

static struct crowd *crowd; /* of fake_run, which has no context of its own */

static uint64_t hash_request(const struct request *request)
{
    uint64_t h = rng_key(crowd->seed, crowd->worn + 1);
    for (size_t i = 0; i < request->n_tokens; i++)
        h = rng_key(h, (uint64_t)request->tokens[i] + (request->n_scored > 0));
    return rng_key(h, request->stream);
}

static int fake_run(struct model *model, const struct tokenizer *t,
                    const struct scheduler_options *options, const struct scheduler_client *client,
                    struct scheduler_stats *stats)
{
    struct request request = {0};
    (void)model;
    (void)t;
    (void)options;

    memset(stats, 0, sizeof *stats);
    while (client->next(client->context, &request)) {
        const uint64_t h = hash_request(&request);
        const double likelihood =
            crowd->worn == 3 && crowd->odd != 0 ? crowd->odd : -(double)(h % 1000003) / 99991;
        float logprobs[256];
        /* Ranks take turns in being slow, so that pairs go to others in other runs. */
        if (h % 5 == (uint64_t)crowd->comm->rank)
            usleep((unsigned)(h % 1500));
        for (size_t i = 0; i < request.n_scored; i++)
            logprobs[i] = (float)(likelihood / (double)(i + 1));
        const bool right = h % (crowd->easy ? crowd->easy : 2) <= (crowd->easy ? crowd->worn : 0);
        struct response response = {.logprobs = logprobs,
                                    .text = right ? "yes" : "no",
                                    .n_text = right ? 3 : 2,
                                    .finish = FINISH_EOS,
                                    .mean_logprob = likelihood};
        if (client->done(client->context, &request, &response) != 0)
            return -1;
        memset(&request, 0, sizeof request);
    }
    return 0;
}

static int wear(void *context, size_t candidate)
{
    struct crowd *c = context;

    c->worn = c->order ? c->order[candidate] : candidate;
    c->n_worn++;
    if (c->worn == 2 && c->fails_on == c->comm->rank)
        return error_set("candidate 2 breaks the model");
    if (c->worn == 2 && c->stops_on == c->comm->rank)
        raise(SIGUSR1);
    return 0;
}

static double price(void *context, size_t candidate)
{
    const struct crowd *c = context;
    return 0.25 * (double)(c->order ? c->order[candidate] : candidate);
}

static struct crowd made_crowd(const struct comm *comm, uint64_t seed)
{
    return (struct crowd){.comm = comm, .seed = seed, .fails_on = -1, .stops_on = -1};
}

static int evaluate_with(struct crowd *c, enum population_objective objective, bool with_price,
                         size_t n_candidates, const size_t *which, size_t n_which, size_t n_elite,
                         struct population_result *result)
{
    const struct population population = {
        .comm = c->comm,
        .shots = &shots,
        .run = {.tokenizer = tokenizer, .run = fake_run, .samples = 1},
        .objective = objective,
        .wear = wear,
        .price = with_price ? price : NULL,
        .context = c};

    crowd = c;
    return population_evaluate(&population, n_candidates, which, n_which, n_elite, result);
}

static const size_t all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};

static struct population_result evaluate(struct crowd *c, enum population_objective objective,
                                         size_t n_candidates, size_t n_which, size_t n_elite)
{
    struct population_result result;

    if (evaluate_with(c, objective, false, n_candidates, all, n_which, n_elite, &result) != 0)
        fail_msg("%s", error_message());
    return result;
}

static void assert_same(const struct population_result *a, const struct population_result *b,
                        size_t n_candidates, size_t n_which)
{
    assert_memory_equal(a->outcomes, b->outcomes, n_candidates * n_which * sizeof *a->outcomes);
    assert_memory_equal(a->scores, b->scores, n_candidates * sizeof *a->scores);
    assert_memory_equal(a->abandoned, b->abandoned, n_candidates * sizeof *a->abandoned);
    assert_int_equal(a->n_evaluated, b->n_evaluated);
}

/* ---- statements -------------------------------------------------------------------------------
 */

static void all_ranks_together_get_what_one_gets_alone(void **state)
{
    static const size_t candidates[] = {1, 2, 3, 7, MOST}, counts[] = {1, 2, N_SHOTS};
    (void)state;

    for (int objective = POPULATION_ACCURACY; objective <= POPULATION_LIKELIHOOD; objective++)
        for (size_t i = 0; i < 5; i++)
            for (size_t k = 0; k < 3; k++) {
                struct crowd many = made_crowd(&world, 1), one = made_crowd(&alone, 1);
                const enum population_objective o = (enum population_objective)objective;
                struct population_result a = evaluate(&many, o, candidates[i], counts[k], 0);
                struct population_result b = evaluate(&one, o, candidates[i], counts[k], 0);
                assert_same(&a, &b, candidates[i], counts[k]);
                assert_int_equal(a.n_evaluated, candidates[i] * counts[k]);
                population_result_free(&a);
                population_result_free(&b);
            }
}

static void no_candidates_are_no_work(void **state)
{
    struct crowd c = made_crowd(&world, 1);
    struct population_result result = evaluate(&c, POPULATION_ACCURACY, 0, N_SHOTS, 0);
    (void)state;

    assert_int_equal(result.n_evaluated, 0);
    assert_int_equal(c.n_worn, 0);
    population_result_free(&result);
}

static void a_candidates_score_does_not_depend_on_its_place(void **state)
{
    struct crowd straight = made_crowd(&world, 2), mixed = straight;
    size_t order[MOST];
    (void)state;

    rng_order(9, 1, order, MOST, MOST);
    mixed.order = order;
    struct population_result a = evaluate(&straight, POPULATION_ACCURACY, MOST, N_SHOTS, 0);
    struct population_result b = evaluate(&mixed, POPULATION_ACCURACY, MOST, N_SHOTS, 0);
    for (size_t c = 0; c < MOST; c++) {
        assert_memory_equal(&a.scores[order[c]], &b.scores[c], sizeof *a.scores);
        assert_memory_equal(a.outcomes + order[c] * N_SHOTS, b.outcomes + c * N_SHOTS,
                            N_SHOTS * sizeof *a.outcomes);
    }
    population_result_free(&a);
    population_result_free(&b);
}

static void some_of_the_shots_are_those_of_all(void **state)
{
    static const size_t some[] = {8, 0, 5};
    struct crowd c = made_crowd(&world, 3);
    struct population_result whole = evaluate(&c, POPULATION_LIKELIHOOD, 5, N_SHOTS, 0), part;
    (void)state;

    assert_int_equal(evaluate_with(&c, POPULATION_LIKELIHOOD, false, 5, some, 3, 0, &part), 0);
    for (size_t k = 0; k < 5; k++)
        for (size_t i = 0; i < 3; i++)
            assert_memory_equal(&part.outcomes[k * 3 + i], &whole.outcomes[k * N_SHOTS + some[i]],
                                sizeof *part.outcomes);
    population_result_free(&whole);
    population_result_free(&part);
}

static void accuracy_counts_right_answers_and_breaks_ties_by_their_likelihood(void **state)
{
    const struct shot_outcome two[] = {{1, -0.5, 0}, {0, 0, 0}, {1, -1.5, 0}, {0, 0, 0}};
    const struct shot_outcome none[] = {{0, 0, -3}, {0, 0, -1}};
    (void)state;

    struct search_score score = population_score(POPULATION_ACCURACY, two, 4);
    assert_true(score.value == 0.5 && score.tie == -1);
    score = population_score(POPULATION_ACCURACY, none, 2);
    assert_true(score.value == 0 && score.tie == 0);
    score = population_score(POPULATION_LIKELIHOOD, none, 2);
    assert_true(score.value == -2 && score.tie == 0);
}

static void a_price_is_taken_from_the_score_alone(void **state)
{
    struct crowd c = made_crowd(&world, 4);
    struct population_result free_of = evaluate(&c, POPULATION_ACCURACY, 5, N_SHOTS, 0), priced;
    (void)state;

    /* Abandonment counts right answers alone, so with a price there is none. */
    assert_int_equal(evaluate_with(&c, POPULATION_ACCURACY, true, 5, all, N_SHOTS, 2, &priced), 0);
    for (size_t k = 0; k < 5; k++) {
        assert_true(priced.scores[k].value == free_of.scores[k].value - 0.25 * (double)k);
        assert_true(priced.scores[k].tie == free_of.scores[k].tie);
        assert_false(priced.abandoned[k]);
    }
    population_result_free(&free_of);
    population_result_free(&priced);
}

static void a_candidate_without_numbers_is_the_worst_and_harms_nobody(void **state)
{
    static const double odd[] = {NAN, INFINITY, -INFINITY};
    struct crowd usual = made_crowd(&world, 5);
    struct population_result good = evaluate(&usual, POPULATION_LIKELIHOOD, 5, N_SHOTS, 0);
    (void)state;

    for (size_t i = 0; i < 3; i++) {
        struct crowd c = made_crowd(&world, 5);
        c.odd = odd[i];
        struct population_result result = evaluate(&c, POPULATION_LIKELIHOOD, 5, N_SHOTS, 0);
        for (size_t k = 0; k < 5; k++)
            if (k == 3)
                assert_true(result.scores[k].value == POPULATION_WORST);
            else
                assert_memory_equal(&result.scores[k], &good.scores[k], sizeof *good.scores);
        population_result_free(&result);
        result = evaluate(&c, POPULATION_ACCURACY, 5, N_SHOTS, 0);
        for (size_t k = 0; k < 5; k++)
            assert_true(isfinite(result.scores[k].value) && isfinite(result.scores[k].tie));
        population_result_free(&result);
    }
    population_result_free(&good);
}

/* ---- early abandonment ------------------------------------------------------------------------
 */

static bool better(const struct population_result *r, size_t a, size_t b)
{
    const struct search_score x = r->scores[a], y = r->scores[b];
    return x.value > y.value ||
           (x.value == y.value && (x.tie > y.tie || (x.tie == y.tie && a < b)));
}

/* The number of candidates before this one. */
static size_t place_of(const struct population_result *r, size_t n, size_t candidate)
{
    size_t place = 0;
    for (size_t k = 0; k < n; k++)
        place += k != candidate && better(r, k, candidate);
    return place;
}

static void abandonment_never_changes_the_elites_or_their_scores(void **state)
{
    size_t n_saved = 0, n_abandoned = 0;
    (void)state;

    for (uint64_t seed = 10; seed < 40; seed++) {
        const size_t n = 2 + seed % 9, n_which = 1 + seed % N_SHOTS, n_elite = 1 + seed % 3;
        struct crowd c = made_crowd(&world, seed), d;
        c.easy = (unsigned)(n + 1); /* some are far better than others */
        d = c;
        struct population_result full = evaluate(&c, POPULATION_ACCURACY, n, n_which, 0);
        struct population_result fast = evaluate(&d, POPULATION_ACCURACY, n, n_which, n_elite);
        for (size_t k = 0; k < n; k++) {
            const size_t place = place_of(&full, n, k);
            assert_int_equal(place < n_elite, place_of(&fast, n, k) < n_elite);
            if (fast.abandoned[k]) {
                assert_true(place >= n_elite);
                assert_true(fast.scores[k].value <= full.scores[k].value);
                n_abandoned++;
            } else {
                assert_memory_equal(&fast.scores[k], &full.scores[k], sizeof *full.scores);
            }
        }
        assert_int_equal(place_of(&full, n, 0) == 0, place_of(&fast, n, 0) == 0);
        assert_true(fast.n_evaluated <= full.n_evaluated);
        n_saved += full.n_evaluated - fast.n_evaluated;
        population_result_free(&full);
        population_result_free(&fast);
    }
    assert_true(n_abandoned > 0 && n_saved > 0);
}

static void abandonment_is_the_same_on_any_ranks(void **state)
{
    (void)state;

    for (uint64_t seed = 50; seed < 60; seed++) {
        struct crowd many = made_crowd(&world, seed), one = made_crowd(&alone, seed);
        many.easy = one.easy = 12;
        struct population_result a = evaluate(&many, POPULATION_ACCURACY, 10, N_SHOTS, 2);
        struct population_result b = evaluate(&one, POPULATION_ACCURACY, 10, N_SHOTS, 2);
        assert_same(&a, &b, 10, N_SHOTS);
        population_result_free(&a);
        population_result_free(&b);
    }
}

static void as_many_elites_as_candidates_abandon_nobody(void **state)
{
    struct crowd c = made_crowd(&world, 61);
    struct population_result result = evaluate(&c, POPULATION_ACCURACY, 6, N_SHOTS, 6);
    (void)state;

    assert_int_equal(result.n_evaluated, 6 * N_SHOTS);
    for (size_t k = 0; k < 6; k++)
        assert_false(result.abandoned[k]);
    population_result_free(&result);
}

/* ---- what goes wrong --------------------------------------------------------------------------
 */

static void a_failure_on_one_rank_is_everybodys(void **state)
{
    struct crowd c = made_crowd(&world, 7);
    struct population_result result;
    (void)state;

    /* Whoever gets the candidate: every rank would fail at it. */
    c.fails_on = world.rank;
    assert_int_equal(evaluate_with(&c, POPULATION_ACCURACY, false, 6, all, N_SHOTS, 0, &result),
                     -1);
    assert_non_null(strstr(error_message(), "candidate 2 breaks the model"));
    assert_null(result.outcomes);
    c.fails_on = -1;
    struct population_result after = evaluate(&c, POPULATION_ACCURACY, 6, N_SHOTS, 0);
    assert_int_equal(after.n_evaluated, 6 * N_SHOTS);
    population_result_free(&after);
}

/* The last one: a signal stays pending. */
static void a_signal_to_any_rank_interrupts_all(void **state)
{
    struct crowd c = made_crowd(&world, 8);
    (void)state;

    signals_watch();
    c.stops_on = world.rank;
    struct population_result result = evaluate(&c, POPULATION_ACCURACY, MOST, N_SHOTS, 0);
    assert_true(result.interrupted);
    population_result_free(&result);
}

/* ---- */

static int open_all(void **state)
{
    static const char text[] =
        "[task]\nname = quiz\ndataset = quiz\nprompt = \"{q}\"\nscore = generate\ngold = a\n"
        "gold_form = text\ngrader = exact\nmax_new = 4\n";
    static const struct model_config config = {.vocab_size = 256, .max_positions = 4096};
    char *rows = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&rows, &size);
    (void)state;

    for (int i = 0; i < 3 * N_SHOTS; i++)
        fprintf(out, "{\"q\":\"Is %d odd?\",\"a\":\"yes\"}\n", 2 * i + 1);
    fclose(out);
    assert_int_equal(folder_create(), 0);
    folder_file("quiz/test.jsonl", rows);
    free(rows);
    const struct shots_options options = {.items = {.data_root = folder_path,
                                                    .split = "test",
                                                    .chat = -1,
                                                    .fewshot = -1,
                                                    .max_new = -1},
                                          .n = N_SHOTS,
                                          .seed = 3,
                                          .targets = true};
    tokenizer = make_byte_tokenizer();
    if (!tokenizer || chat_recognise(&chat, NULL, "chatml", "", "") != 0 ||
        task_from_text(&task, text, "quiz.ini") != 0 ||
        shots_open(&shots, &task, &chat, tokenizer, &config, &options) != 0)
        fail_msg("%s", error_message());
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    shots_free(&shots);
    task_free(&task);
    chat_free(&chat);
    tokenizer_free(tokenizer);
    folder_remove();
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_ranks_together_get_what_one_gets_alone),
        cmocka_unit_test(no_candidates_are_no_work),
        cmocka_unit_test(a_candidates_score_does_not_depend_on_its_place),
        cmocka_unit_test(some_of_the_shots_are_those_of_all),
        cmocka_unit_test(accuracy_counts_right_answers_and_breaks_ties_by_their_likelihood),
        cmocka_unit_test(a_price_is_taken_from_the_score_alone),
        cmocka_unit_test(a_candidate_without_numbers_is_the_worst_and_harms_nobody),
        cmocka_unit_test(abandonment_never_changes_the_elites_or_their_scores),
        cmocka_unit_test(abandonment_is_the_same_on_any_ranks),
        cmocka_unit_test(as_many_elites_as_candidates_abandon_nobody),
        cmocka_unit_test(a_failure_on_one_rank_is_everybodys),
        cmocka_unit_test(a_signal_to_any_rank_interrupts_all),
    };
    if (comm_init(&world, &argc, &argv))
        return 1;
    const int failed = cmocka_run_group_tests(tests, open_all, close_all);
    if (failed && world.size > 1)
        comm_abort(&world, 1); /* the other ranks may wait for this one */
    comm_finish(&world);
    return failed;
}

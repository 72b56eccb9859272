/* ranks: 1 2 3 */
/* The training loop through its header, on data/mini with a few matrices of its last two layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobs/load.h"
#include "mpi/error.h"
#include "tests/model/svf_fixture.h"
#include "train/trainer.h"

static struct comm comm;
static char state_path[64];

/* ---- a model, an adapter and tasks ------------------------------------------------------------
 */

struct setting {
    struct loaded loaded;
    struct svf_fixture svf;
    struct adapter *adapter;
    struct task sentiment, choice, add;
};
static struct setting f32, bf16;

static void load_task(struct task *task, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/mini/tasks/%s.ini", T2_DATA_DIR, name);
    if (task_load(task, path, NULL) != 0)
        fail_msg("%s", error_message());
}

static void setting_open(struct setting *s, const char *dtype)
{
    struct load_options options = load_defaults();
    options.dtype = dtype;
    options.threads = 1;
    s->svf = svf_fixture_at(T2_DATA_DIR "/mini", 1 << PROJECTION_DOWN | 1 << PROJECTION_Q, 3);
    if (load_open(&comm, T2_DATA_DIR "/mini", &options, false, &s->loaded) != 0)
        fail_msg("%s", error_message());
    s->adapter = svf_fixture_adapter(&s->svf, s->loaded.model, SVF_DIRECT, true);
    load_task(&s->sentiment, "sentiment");
    load_task(&s->choice, "choice");
    load_task(&s->add, "add");
}

static void setting_close(struct setting *s)
{
    task_free(&s->sentiment);
    task_free(&s->choice);
    task_free(&s->add);
    model_attach(s->loaded.model, NULL, NULL);
    adapter_free(s->adapter);
    load_free(&s->loaded);
    svf_fixture_close(&s->svf);
}

static int open_all(void **state)
{
    (void)state;
    setting_open(&f32, "f32");
    setting_open(&bf16, "bf16");
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    setting_close(&f32);
    setting_close(&bf16);
    return 0;
}

/* ---- runs -------------------------------------------------------------------------------------
 */

static struct train_options small(void)
{
    struct train_options o = train_defaults();
    o.batch = 6;
    o.shard = 2;
    o.steps = 3;
    o.seed = 11;
    o.max_new = 4;
    o.clip_norm = 0;
    o.adam.rate = 5e-3;
    o.n_valid = 12;
    o.guard = GUARD_OFF;
    return o;
}

static const struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};

static struct trainer trainer_of(const struct setting *s, const struct comm *c,
                                 const struct task *task, const struct train_options *o)
{
    struct trainer t = {.comm = c,
                        .model = s->loaded.model,
                        .adapter = s->adapter,
                        .tokenizer = s->loaded.tokenizer,
                        .chat = &s->loaded.chat,
                        .task = task,
                        .evaluate = evaluate_defaults(),
                        .options = *o,
                        .settings = "seed = 11\n",
                        .quiet = true};
    t.evaluate.data_root = "/nowhere";
    return t;
}

static enum train_end run(const struct trainer *t, struct train_state *state)
{
    enum train_end end;
    if (trainer_run(t, state, &end) != 0)
        fail_msg("%s", error_message());
    return end;
}

static void train(const struct setting *s, const struct comm *c, const struct task *task,
                  const struct train_options *o, struct train_state *state)
{
    const struct trainer t = trainer_of(s, c, task, o);
    assert_int_equal(run(&t, state), TRAIN_FINISHED);
    assert_int_equal(state->step, o->steps);
}

static void assert_same_state(const struct train_state *a, const struct train_state *b)
{
    assert_int_equal(a->step, b->step);
    assert_memory_equal(a->parameters, b->parameters, a->n * sizeof *a->parameters);
    assert_memory_equal(a->adam.m, b->adam.m, a->n * sizeof *a->adam.m);
    assert_memory_equal(a->adam.v, b->adam.v, a->n * sizeof *a->adam.v);
    assert_int_equal(a->n_validations, b->n_validations);
    for (size_t i = 0; i < a->step; i++) {
        const struct train_point *p = &a->curve[i], *q = &b->curve[i];
        assert_true(p->reward == q->reward && p->accuracy == q->accuracy && p->loss == q->loss &&
                    p->kl == q->kl && p->gradient_norm == q->gradient_norm &&
                    p->entropy == q->entropy && p->length == q->length);
    }
    for (size_t i = 0; i < a->n_validations; i++)
        assert_true(a->validations[i].score == b->validations[i].score);
}

static bool has_moved(const struct setting *s, const float *parameters)
{
    return memcmp(parameters, s->adapter->parameters,
                  s->adapter->n_parameters * sizeof *parameters) != 0;
}

/* All ranks together leave what rank 0 leaves alone. */
static void check_ranks(const struct setting *s, const struct task *task,
                        const struct train_options *o)
{
    struct train_state together, single;
    train(s, &comm, task, o, &together);
    assert_true(has_moved(s, together.parameters));
    if (comm.rank == 0) {
        train(s, &alone, task, o, &single);
        assert_same_state(&together, &single);
        train_state_free(&single);
    }
    train_state_free(&together);
}

/* ---- the same bits ----------------------------------------------------------------------------
 */

static void sampled_answers_train_the_same_bits_on_any_ranks(void **state)
{
    (void)state;
    struct train_options o = small();
    o.validate_every = 2;
    check_ranks(&f32, &f32.sentiment, &o);
    check_ranks(&bf16, &bf16.sentiment, &o);
    o.sampling.temperature = 0;
    check_ranks(&bf16, &bf16.add, &o);
    o = small();
    o.shard = 4; /* an uneven cut */
    o.n_answers = 2;
    o.max_rows = 96; /* several groups a shard */
    o.baseline = BASELINE_RLOO;
    o.kl = 0.1;
    check_ranks(&bf16, &bf16.sentiment, &o);
}

static void every_objective_has_the_same_bits_on_any_ranks(void **state)
{
    (void)state;
    struct train_options o = small();
    o.objective = TRAIN_NEXT_TOKEN;
    check_ranks(&f32, &f32.add, &o);
    check_ranks(&bf16, &bf16.choice, &o);
    o = small();
    o.baseline = BASELINE_MEAN;
    o.inner_steps = 2;
    o.clip_ratio = 0.2;
    check_ranks(&f32, &f32.choice, &o);
    o = small();
    o.pass_max_new = 2; /* answers go through the scheduler */
    o.n_answers = 2;
    o.baseline = BASELINE_GRPO;
    o.kl = 0.1;
    o.kl_form = KL_K3;
    check_ranks(&f32, &f32.sentiment, &o);
}

static void ways_of_computing_leave_the_same_bits(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state kept, again;
    train(&bf16, &comm, &bf16.sentiment, &o, &kept);
    o.recompute = true;
    train(&bf16, &comm, &bf16.sentiment, &o, &again);
    assert_same_state(&kept, &again);
    train_state_free(&again);
    o.recompute = false;
    o.pass_max_new = 0; /* the scheduler's rollouts are the pass's */
    train(&bf16, &comm, &bf16.sentiment, &o, &again);
    assert_true(kept.curve[0].reward == again.curve[0].reward &&
                kept.curve[0].length == again.curve[0].length);
    train_state_free(&kept);
    train_state_free(&again);
}

static void a_resumed_run_has_the_bits_of_a_whole_one(void **state)
{
    (void)state;
    const struct setting *settings[] = {&f32, &bf16};
    for (size_t i = 0; i < 2; i++) {
        struct train_options o = small();
        struct train_state whole, part;
        o.steps = 5;
        o.validate_every = 2;
        train(settings[i], &comm, &settings[i]->sentiment, &o, &whole);
        o.steps = 3;
        struct trainer t = trainer_of(settings[i], &comm, &settings[i]->sentiment, &o);
        t.state_path = state_path;
        o.validate_every = 2;
        run(&t, &part);
        train_state_free(&part);
        t.options.steps = 5;
        t.resume = true;
        run(&t, &part);
        /* The end of the first part was validated as well. */
        assert_int_equal(part.n_validations, whole.n_validations + 1);
        part.n_validations = whole.n_validations = 0;
        assert_same_state(&whole, &part);
        train_state_free(&part);
        train_state_free(&whole);
        MPI_Barrier(comm.handle);
        if (comm.rank == 0)
            unlink(state_path);
    }
}

static void a_state_of_other_settings_is_refused(void **state)
{
    (void)state;
    const struct train_options o = small();
    struct trainer t = trainer_of(&f32, &comm, &f32.sentiment, &o);
    struct train_state s;
    enum train_end end;
    t.state_path = state_path;
    run(&t, &s);
    train_state_free(&s);
    t.settings = "seed = 12\n";
    t.resume = true;
    assert_int_equal(trainer_run(&t, &s, &end), -1);
    assert_non_null(strstr(error_message(), "it has 'seed = 11', this run has 'seed = 12'"));
    train_state_free(&s);
    MPI_Barrier(comm.handle);
    if (comm.rank == 0)
        unlink(state_path);
}

/* ---- what a step does -------------------------------------------------------------------------
 */

static void equal_rewards_leave_no_gradient_with_a_baseline(void **state)
{
    (void)state;
    static const enum baseline baselines[] = {BASELINE_MEAN, BASELINE_RLOO, BASELINE_GRPO};
    struct train_options o = small();
    struct train_state s;
    o.steps = 1;
    o.n_answers = 2;
    o.reward_wrong = o.reward_right;
    for (size_t i = 0; i < 3; i++) {
        o.baseline = baselines[i];
        train(&f32, &comm, &f32.sentiment, &o, &s);
        assert_true(s.curve[0].reward == 1 && s.curve[0].gradient_norm == 0);
        assert_false(has_moved(&f32, s.parameters));
        train_state_free(&s);
    }
    o.baseline = BASELINE_NONE;
    train(&f32, &comm, &f32.sentiment, &o, &s);
    assert_true(s.curve[0].gradient_norm > 0);
    assert_true(has_moved(&f32, s.parameters));
    train_state_free(&s);
}

static void inner_steps_are_steps_of_the_optimizer(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state once, twice, clipped;
    o.steps = 1;
    o.clip_ratio = 0.2;
    train(&f32, &comm, &f32.sentiment, &o, &once);
    o.inner_steps = 2;
    train(&f32, &comm, &f32.sentiment, &o, &twice);
    assert_int_equal(once.adam.step, 1);
    assert_int_equal(twice.adam.step, 2);
    /* Both rolled out once, with the same parameters. */
    assert_true(once.curve[0].reward == twice.curve[0].reward);
    assert_true(memcmp(once.parameters, twice.parameters, once.n * sizeof(float)) != 0);
    train_state_free(&once);
    train_state_free(&twice);
    /* After a long first step every ratio is out of a narrow range: those terms are cut. */
    o.adam.rate = 0.2;
    o.clip_ratio = 1e9;
    train(&f32, &comm, &f32.sentiment, &o, &once);
    o.clip_ratio = 1e-6;
    train(&f32, &comm, &f32.sentiment, &o, &clipped);
    assert_true(clipped.curve[0].gradient_norm < once.curve[0].gradient_norm);
    train_state_free(&once);
    train_state_free(&clipped);
}

static void next_token_prediction_learns_the_answers(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state s;
    o.objective = TRAIN_NEXT_TOKEN;
    o.steps = 8;
    o.train_limit = 6; /* the same answers each step */
    o.adam.rate = 1e-2;
    train(&f32, &comm, &f32.add, &o, &s);
    assert_true(s.curve[7].loss < s.curve[0].loss);
    train_state_free(&s);
}

static void a_kl_term_holds_the_model_near_its_base(void **state)
{
    (void)state;
    static const enum kl_form forms[] = {KL_FORWARD, KL_REVERSE};
    for (size_t i = 0; i < 2; i++) {
        struct train_options o = small();
        struct train_state loose, tight;
        o.steps = 5;
        o.kl_form = forms[i];
        o.kl = 1e-6;
        train(&f32, &comm, &f32.sentiment, &o, &loose);
        o.kl = 100;
        train(&f32, &comm, &f32.sentiment, &o, &tight);
        assert_true(fabs(loose.curve[0].kl) < 1e-6); /* z = 1 is the base model */
        assert_true(loose.curve[4].kl > 1e-6);
        assert_true(tight.curve[4].kl < loose.curve[4].kl);
        train_state_free(&loose);
        train_state_free(&tight);
    }
}

/* ---- validation, guard ------------------------------------------------------------------------
 */

static void the_best_validated_step_is_kept_and_patience_ends_a_run(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state s;
    o.steps = 10;
    o.validate_every = 1;
    o.patience = 2;
    o.adam.rate = 0; /* never better than the start */
    const struct trainer t = trainer_of(&f32, &comm, &f32.sentiment, &o);
    assert_int_equal(run(&t, &s), TRAIN_STOPPED_EARLY);
    assert_int_equal(s.step, 2);
    assert_int_equal(s.n_validations, 3);
    assert_int_equal(s.best_step, 0);
    assert_false(has_moved(&f32, s.best_parameters));
    train_state_free(&s);
}

static void the_guard_goes_back_when_validation_falls(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state s;
    o.validate_every = 1;
    o.n_valid = 60;
    o.max_new = 8;
    o.adam.rate = 50; /* Adam's first step: every z becomes -49 or 51 */
    o.guard = GUARD_ROLLBACK;
    o.steps = 2;
    train(&f32, &comm, &f32.sentiment, &o, &s);
    assert_true(s.n_rollbacks >= 1 && s.last_alarm >= 1);
    assert_true(s.rate_scale == pow(0.5, (double)s.n_rollbacks));
    assert_int_equal(s.best_step, 0);
    assert_false(has_moved(&f32, s.best_parameters));
    train_state_free(&s);
    o.guard = GUARD_WARN;
    train(&f32, &comm, &f32.sentiment, &o, &s);
    assert_true(s.n_rollbacks == 0 && s.last_alarm >= 1 && s.rate_scale == 1);
    assert_true(has_moved(&f32, s.parameters));
    assert_false(has_moved(&f32, s.best_parameters));
    train_state_free(&s);
}

/* ---- an adapter that is slow, or wrong --------------------------------------------------------
 */

static const struct adapter_ops *inner;
static size_t n_calls;

static void sleepy_forward(const struct adapter *adapter, size_t site,
                           const struct adapter_call *call, float *y, size_t ldy, bool accumulate)
{
    const struct timespec a_while = {0, 100 * 1000 * 1000};
    if (comm.rank == 0 && site == 0)
        nanosleep(&a_while, NULL);
    inner->forward(adapter, site, call, y, ldy, accumulate);
}

static int counted_backward(const struct adapter *adapter, size_t site,
                            const struct adapter_call *call, float *dx, size_t lddx, const void *g,
                            size_t ldg, float *gradient)
{
    n_calls += site == 0;
    return inner->backward(adapter, site, call, dx, lddx, g, ldg, gradient);
}

static int poisoned_backward(const struct adapter *adapter, size_t site,
                             const struct adapter_call *call, float *dx, size_t lddx, const void *g,
                             size_t ldg, float *gradient)
{
    const int status = inner->backward(adapter, site, call, dx, lddx, g, ldg, gradient);
    /* from the second step on */
    if (site == 1 && call->parameters[0] != 1)
        gradient[adapter->sites[site].first_parameter + 2] = NAN;
    return status;
}

static void a_slow_rank_gets_fewer_shards_and_the_bits_stay(void **state)
{
    (void)state;
    struct train_options o = small();
    struct train_state quick, slow;
    o.batch = 10;
    o.shard = 1;
    o.steps = 1;
    train(&f32, &comm, &f32.sentiment, &o, &quick);
    inner = f32.adapter->ops;
    struct adapter_ops ops = *inner;
    ops.forward = sleepy_forward;
    ops.backward = counted_backward;
    f32.adapter->ops = &ops;
    n_calls = 0;
    train(&f32, &comm, &f32.sentiment, &o, &slow);
    f32.adapter->ops = inner;
    assert_same_state(&quick, &slow);
    unsigned long mine = n_calls, all = 0;
    MPI_Allreduce(&mine, &all, 1, MPI_UNSIGNED_LONG, MPI_SUM, comm.handle);
    assert_int_equal(all, o.batch); /* each shard was made once */
    if (comm.rank == 0 && comm.size > 1)
        assert_true(mine * (unsigned long)comm.size < all);
    train_state_free(&quick);
    train_state_free(&slow);
}

static void a_gradient_that_is_no_number_names_step_shard_and_prompts(void **state)
{
    (void)state;
    struct train_options o = small();
    struct trainer t = trainer_of(&f32, &comm, &f32.sentiment, &o);
    struct train_state s, one;
    enum train_end end;
    t.state_path = state_path;
    inner = f32.adapter->ops;
    struct adapter_ops ops = *inner;
    ops.backward = poisoned_backward;
    f32.adapter->ops = &ops;
    assert_int_equal(trainer_run(&t, &s, &end), -1);
    f32.adapter->ops = inner;
    const char *message = error_message();
    assert_non_null(strstr(message, "step 2, shard "));
    assert_non_null(strstr(message, "sentiment/train.jsonl: prompts of lines "));
    assert_non_null(strstr(message, f32.svf.modules[1].path));
    assert_non_null(strstr(message, "element 2, is not a number"));
    train_state_free(&s);
    /* What was good is kept: one step. */
    MPI_Barrier(comm.handle);
    if (comm.rank == 0) {
        assert_int_equal(train_state_create(&s, f32.adapter->n_parameters, 0), 0);
        assert_int_equal(train_state_read(&s, t.settings, state_path), 0);
        o.steps = 1;
        train(&f32, &alone, &f32.sentiment, &o, &one);
        assert_same_state(&s, &one);
        train_state_free(&s);
        train_state_free(&one);
        unlink(state_path);
    }
    MPI_Barrier(comm.handle);
}

/* tests/jobs/test_train_code.sh trains on programs. */
static void programs_without_a_sandbox_are_refused(void **state)
{
    (void)state;
    const struct train_options o = small();
    struct task task = f32.add;
    task.grader = GRADE_PYTHON_TESTS;
    const struct trainer t = trainer_of(&f32, &comm, &task, &o);
    struct train_state s;
    enum train_end end;
    assert_int_equal(trainer_run(&t, &s, &end), -1);
    assert_non_null(strstr(error_message(), "there is no sandbox to run them in"));
    train_state_free(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sampled_answers_train_the_same_bits_on_any_ranks),
        cmocka_unit_test(every_objective_has_the_same_bits_on_any_ranks),
        cmocka_unit_test(ways_of_computing_leave_the_same_bits),
        cmocka_unit_test(a_resumed_run_has_the_bits_of_a_whole_one),
        cmocka_unit_test(a_state_of_other_settings_is_refused),
        cmocka_unit_test(equal_rewards_leave_no_gradient_with_a_baseline),
        cmocka_unit_test(inner_steps_are_steps_of_the_optimizer),
        cmocka_unit_test(next_token_prediction_learns_the_answers),
        cmocka_unit_test(a_kl_term_holds_the_model_near_its_base),
        cmocka_unit_test(the_best_validated_step_is_kept_and_patience_ends_a_run),
        cmocka_unit_test(the_guard_goes_back_when_validation_falls),
        cmocka_unit_test(a_slow_rank_gets_fewer_shards_and_the_bits_stay),
        cmocka_unit_test(a_gradient_that_is_no_number_names_step_shard_and_prompts),
        cmocka_unit_test(programs_without_a_sandbox_are_refused),
    };
    if (comm_init(&comm, &argc, &argv) != 0)
        return 1;
    int pid = (int)getpid();
    MPI_Bcast(&pid, 1, MPI_INT, 0, comm.handle);
    snprintf(state_path, sizeof state_path, "/tmp/t2-trainer-%d.state", pid);
    const int failed = cmocka_run_group_tests(tests, open_all, close_all);
    comm_finish(&comm);
    return failed;
}

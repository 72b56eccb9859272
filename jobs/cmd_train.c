/* t2 train: expert vectors trained on a task, over all ranks. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/evaluate.h"
#include "eval/items.h"
#include "jobs/commands.h"
#include "jobs/decompose_device.h"
#include "jobs/output.h"
#include "jobs/resume.h"
#include "jobs/task_list.h"
#include "jobs/train_options.h"
#include "jobs/train_plan.h"
#include "model/decompose.h"
#include "model/identity.h"
#include "model/shapes.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "mpi/signals.h"
#include "mpi/text.h"
#include "mpi/threads.h"
#include "solver/cpu.h"
#include "solver/svd_cuda.h"
#include "train/train_result.h"

struct run {
    const struct comm *comm;
    const struct train_settings *settings;
    const struct adapter_kind *kind;
    struct adapter_settings adapter_settings;
    const char *path; /* the model's */
    bool chat_asked;
    struct train_options options;
    struct task task;
    size_t n_tasks;
    struct loaded loaded;
    struct sandbox *sandbox; /* where the task's answers are programs */
    struct module *modules;
    size_t n_modules;
    struct factors *factors;
    struct adapter *adapter;
    char *data_root, *command_line, *record, *deciding, *train_settings, *adapter_text;
    char *factors_path, *state_path, *live_path;
    struct live_curve live;
    uint64_t train_digest, valid_digest; /* of the data's rows */
    char identity[65], fingerprint[65], cpu[256], started[32];
    struct train_state state;
    enum train_end end;
    struct train_score test;
    struct resume resume;
    double start;
};

/* ---- files -------------------------------------------------------------------------------------
 */

/* On rank 0: may the run begin, with what lies there? */
static int check_files(const struct run *run)
{
    const struct train_settings *s = run->settings;

    if (resume_check(&run->resume) != 0)
        return -1;
    if (s->factors && !output_is_there(s->factors))
        return error_set("--factors %s: %s", s->factors, strerror(errno));
    if (s->live && strcmp(s->live, s->out) == 0)
        return error_set("--live %s is --out's file; without --live it lies beside it", s->live);
    return 0;
}

/* ---- factors -----------------------------------------------------------------------------------
 */

static int choose_modules(struct run *run, const struct model_config *config)
{
    return modules_select(config, run->settings->modules, run->settings->layers, &run->modules,
                          &run->n_modules);
}

/* Without --factors: t2 decompose's work, with its defaults. Goes on with what is there. */
static int decompose(struct run *run, const struct checkpoint *ck)
{
    const struct train_settings *s = run->settings;
    char options_text[256];
    struct decompose_options options = {.svd = svd_defaults(),
                                        .type = FACTORS_F32,
                                        .n_threads = run->loaded.model_options.n_threads,
                                        .grid_from = 32768,
                                        .resume = true,
                                        .quiet = s->quiet};
    const struct decompose_costs costs = decompose_cost_defaults();
    const struct device *device = &run->loaded.model_options.device;
    struct decompose_summary summary;
    struct factors_origin origin = {.model = run->path,
                                    .options = options_text,
                                    .command_line = run->command_line,
                                    .cpu = run->cpu,
                                    .device = run->loaded.device,
                                    .n_ranks = run->comm->size};

    if (device->kind == DEVICE_CUDA) {
        options.svd.method = SVD_CUSOLVER;
        options.n_threads = DECOMPOSE_DEVICE_WORKERS;
    }
    if (decompose_open_device(run->comm, device, &options.svd) != 0)
        return -1;
    strcpy(origin.identity, run->identity);
    snprintf(origin.architecture, sizeof origin.architecture, "%s",
             checkpoint_config(ck)->architecture);
    decompose_options_text(&options, options_text, sizeof options_text);
    const int status = decompose_run(run->comm, ck, run->modules, run->n_modules, &options, &costs,
                                     &origin, run->factors_path, &summary);
    svd_cuda_free(options.svd.cuda);
    return status;
}

static int open_factors(struct run *run)
{
    run->factors = factors_open(run->factors_path);
    if (!run->factors)
        return -1;
    if (factors_check_model(run->factors, run->identity, run->path) != 0)
        return -1;
    return factors_fingerprint(run->factors, run->fingerprint);
}

/* ---- what decides the run ----------------------------------------------------------------------
 */

static struct evaluate_options evaluation(const struct run *run)
{
    const struct train_settings *s = run->settings;
    struct evaluate_options options = evaluate_defaults();

    options.run = scheduler_run;
    options.data_root = run->data_root;
    options.chat = s->load.raw || !s->load.chat ? 0 : run->chat_asked ? 1 : -1;
    options.system = s->load.system;
    options.fewshot = s->fewshot;
    options.max_new = s->max_new > 0 ? s->max_new : -1;
    options.sandbox = run->sandbox;
    return options;
}

static int digest_of(const struct run *run, const char *split, size_t limit, uint64_t *digest)
{
    const struct evaluate_options e = evaluation(run);
    const struct items_options options = {.data_root = e.data_root,
                                          .split = split,
                                          .system = e.system,
                                          .chat = e.chat,
                                          .fewshot = e.fewshot,
                                          .max_new = e.max_new,
                                          .limit = limit,
                                          .seed = e.seed};
    struct items items;
    const int status = items_open(&items, &run->task, &run->loaded.chat, &options);

    if (status == 0)
        *digest = items_digest(&items);
    items_close(&items);
    return status;
}

/* A run that goes on after its data were changed would be neither the old one nor a new one. Rank 0
 * reads, all get it. Collective. */
static int digest_data(struct run *run)
{
    const struct train_options *o = &run->options;
    uint64_t digests[2] = {0, 0};
    int status = 0;

    if (run->comm->rank == 0) {
        status = digest_of(run, o->train_split, o->train_limit, &digests[0]);
        if (status == 0 && o->validate_every > 0)
            status = digest_of(run, o->valid_split, o->n_valid, &digests[1]);
    }
    if (comm_agree(run->comm, status) != 0)
        return -1;
    if (run->comm->size > 1)
        MPI_Bcast(digests, 2, MPI_UINT64_T, 0, run->comm->handle);
    run->train_digest = digests[0];
    run->valid_digest = digests[1];
    return 0;
}

static char *settings_text(const struct run *run)
{
    const struct model_options *o = &run->loaded.model_options;
    char device[128], *text = NULL;

    if (asprintf(&text,
                 "model = %s\nfactors = %s\nn_parameters = %zu\ntask = %s\n"
                 "task_text = %016llx\nisa = %s\n%s"
                 "training_data = rows with the digest %016llx\n"
                 "validation_data = rows with the digest %016llx\n%s",
                 run->identity, run->fingerprint, run->adapter->n_parameters, run->task.name,
                 (unsigned long long)hash_text(run->task.text), isa_name(o->isa),
                 load_device_settings(&run->loaded, device, sizeof device),
                 (unsigned long long)run->train_digest, (unsigned long long)run->valid_digest,
                 run->deciding) < 0)
        return NULL;
    return text;
}

/* ---- showing -----------------------------------------------------------------------------------
 */

static const char *score_text(char *text, size_t size, double score, bool there)
{
    if (there)
        snprintf(text, size, "%.4f", score);
    return there ? text : "-";
}

static void print_phases(const struct run *run)
{
    const struct train_state *s = &run->state;
    double rollout = 0, gradient = 0, reduce = 0, other = 0, tokens = 0;

    for (uint64_t i = 0; i < s->step; i++) {
        const struct train_point *p = &s->curve[i];
        const double seconds =
            p->seconds_rollout + p->seconds_gradient + p->seconds_reduce + p->seconds_other;
        rollout += p->seconds_rollout;
        gradient += p->seconds_gradient;
        reduce += p->seconds_reduce;
        other += p->seconds_other;
        tokens += p->tokens_per_second * seconds;
    }
    const double all = rollout + gradient + reduce + other, n = (double)s->step;
    if (s->step > 0 && all > 0)
        fprintf(stderr,
                "  a step: %.3f s (rollout %.3f, gradient %.3f, reduction %.4f, other %.3f), %.0f "
                "tokens/s\n",
                all / n, rollout / n, gradient / n, reduce / n, other / n, tokens / all);
}

static void print_result(const struct run *run, double seconds)
{
    const struct train_state *s = &run->state;
    const bool valid = s->n_validations > 0, test = run->test.n > 0;
    const int width = strlen(run->task.name) > 4 ? (int)strlen(run->task.name) : 4;
    char texts[4][16], took[32];

    if (run->comm->rank != 0)
        return;
    if (!run->settings->quiet) {
        fprintf(stderr, "%s: %s after %llu steps in %s, %zu parameters\n", run->settings->out,
                run->end == TRAIN_STOPPED_EARLY ? "stopped early" : "finished",
                (unsigned long long)s->step, text_duration(took, sizeof took, seconds), s->n);
        print_phases(run);
        if (valid)
            fprintf(stderr, "  validation: %.4f before, best %.4f at step %llu (%llu items)\n",
                    s->validations[0].score, s->best_score, (unsigned long long)s->best_step,
                    (unsigned long long)s->validations[0].n_items);
        if (test)
            fprintf(stderr, "  test: %.4f before, %.4f after (+- %.4f, %zu items)\n",
                    run->test.before, run->test.after, run->test.error_after, run->test.n);
        if (s->n_rollbacks)
            fprintf(stderr, "  the guard went back %llu time%s\n",
                    (unsigned long long)s->n_rollbacks, s->n_rollbacks == 1 ? "" : "s");
        fprintf(stderr, "%-*s  %6s  %12s  %10s  %11s  %10s  %8s\n", width, "task", "steps",
                "valid_before", "valid_best", "test_before", "test_after", "seconds");
    }
    printf("%-*s  %6llu  %12s  %10s  %11s  %10s  %8.1f\n", width, run->task.name,
           (unsigned long long)s->step,
           score_text(texts[0], 16, valid ? s->validations[0].score : 0, valid),
           score_text(texts[1], 16, s->best_score, valid),
           score_text(texts[2], 16, run->test.before, test),
           score_text(texts[3], 16, run->test.after, test), seconds);
    fflush(stdout);
}

/* ---- the run -----------------------------------------------------------------------------------
 */

static int prepare(struct run *run)
{
    const struct train_settings *s = run->settings;

    output_time(run->started);
    cpu_describe(run->cpu, sizeof run->cpu);
    run->factors_path = s->factors ? strdup(s->factors) : output_beside(s->out, ".factors.h5");
    if (!run->factors_path || asprintf(&run->state_path, "%s.state", s->out) < 0) {
        run->state_path = NULL;
        return error_set("out of memory");
    }
    if (!s->live || strcmp(s->live, "off") != 0)
        run->live_path = s->live ? strdup(s->live) : output_beside(s->out, ".live.h5");
    run->data_root = dataset_root(s->data);
    if (!run->data_root || task_list_load_with(s->task, "--task", run->path, s->domains, &run->task,
                                               1, &run->n_tasks) != 0)
        return -1;
    run->resume = (struct resume){
        .out = s->out, .state_path = run->state_path, .what = "a training", .asked = s->resume};
    return run->comm->rank == 0 ? check_files(run) : 0;
}

/* Identity and factors, before the model takes its memory. */
static int prepare_factors(struct run *run)
{
    const struct train_settings *s = run->settings;
    const struct comm *comm = run->comm;
    struct checkpoint *ck = checkpoint_open(run->path);
    const int n_threads = s->load.threads > 0 ? (int)s->load.threads : threads_default(comm);
    int status = comm_agree(comm, ck && choose_modules(run, checkpoint_config(ck)) == 0 &&
                                          adapter_kind_check(run->kind, &run->adapter_settings,
                                                             run->modules, run->n_modules) == 0
                                      ? 0
                                      : -1);

    run->loaded.model_options.n_threads = n_threads;
    if (status == 0)
        status = identity_compute(comm, ck, n_threads, run->identity);
    if (status == 0 && run->kind->needs_factors && !s->factors)
        status = decompose(run, ck);
    if (status == 0 && run->kind->needs_factors)
        status = comm_agree(comm, open_factors(run));
    checkpoint_free(ck);
    return status;
}

/* Where answers will be graded: those of the training, of validations, of the test. */
static int open_sandbox(struct run *run)
{
    const bool grades = run->options.objective == TRAIN_REINFORCE ||
                        run->options.validate_every > 0 || run->settings->test_limit != 0;

    return load_sandbox(run->comm, &command_train, &run->settings->sandbox, &run->task,
                        grades ? 1 : 0, (size_t)run->loaded.model_options.n_threads, &run->sandbox);
}

static int make_adapter(struct run *run)
{
    const struct adapter_source source = {.model = run->loaded.model,
                                          .ck = run->loaded.checkpoint,
                                          .factors = run->factors,
                                          .modules = run->modules,
                                          .n_modules = run->n_modules,
                                          .settings = run->adapter_settings,
                                          .seed = run->options.seed,
                                          .with_backward = true};

    run->adapter = adapter_kind_create(run->kind, &source);
    if (!run->adapter)
        return run->kind->needs_factors ? error_prefix("%s", run->factors_path) : -1;
    if (!(run->adapter_text = adapter_settings_text(run->kind, &run->adapter_settings)))
        return error_set("out of memory");
    run->train_settings = settings_text(run);
    return run->train_settings ? 0 : error_set("out of memory");
}

static int score(struct run *run, const float *parameters, struct task_result *result)
{
    struct evaluate_options options = evaluation(run);
    const int64_t limit = run->settings->test_limit;

    options.split = run->settings->test_split;
    options.limit = limit > 0 ? (size_t)limit : 0;
    model_attach(run->loaded.model, run->adapter, parameters);
    return evaluate_task(run->comm, run->loaded.model, run->loaded.tokenizer, &run->loaded.chat,
                         &run->task, &options, result);
}

static int test(struct run *run)
{
    struct task_result before, after;

    if (run->settings->test_limit == 0)
        return 0;
    if (score(run, NULL, &before) != 0)
        return -1;
    run->test.before = before.accuracy;
    task_result_free(&before);
    if (score(run, train_result_parameters(&run->state), &after) != 0)
        return -1;
    run->test.after = after.accuracy;
    run->test.error_after = after.accuracy_error;
    run->test.n = after.n_items;
    task_result_free(&after);
    return 0;
}

static int write_result(const struct run *run, const struct trainer *trainer)
{
    const struct train_settings *s = run->settings;
    const struct model_options *o = &run->loaded.model_options;
    const bool svf = run->kind->needs_factors;
    char *factors = svf ? realpath(run->factors_path, NULL) : NULL;
    const struct train_origin origin = {
        .identity = run->identity,
        .model = checkpoint_path(run->loaded.checkpoint),
        .architecture = checkpoint_config(run->loaded.checkpoint)->architecture,
        .kind = run->kind,
        .factors = !svf      ? NULL
                   : factors ? factors
                             : run->factors_path,
        .factors_identity = svf ? run->fingerprint : NULL,
        .parametrisation = svf ? s->parametrisation : NULL,
        .adapter_settings = svf ? NULL : run->adapter_text,
        .options = run->record,
        .command_line = run->command_line,
        .version = T2_VERSION,
        .cpu = run->cpu,
        .device = run->loaded.device,
        .isa = isa_name(o->isa),
        .kernel_order = model_order(run->loaded.model),
        .dtype = s->load.dtype,
        .chat_format = chat_family_name(run->loaded.chat.family),
        .started = run->started,
        .n_ranks = run->comm->size,
        .n_threads = o->n_threads,
        .seconds = MPI_Wtime() - run->start,
    };
    const struct train_result result = {.trainer = trainer,
                                        .state = &run->state,
                                        .end = run->end,
                                        .origin = &origin,
                                        .test_split = s->test_split,
                                        .test = run->test};
    const int status = train_result_write(&result, s->out);

    free(factors);
    if (status == 0)
        unlink(run->state_path);
    return status;
}

static void prepare_live(struct run *run)
{
    run->live = (struct live_curve){.path = run->live_path,
                                    .task = run->task.name,
                                    .adapter = run->kind->name,
                                    .model = run->path,
                                    .command_line = run->command_line,
                                    .version = T2_VERSION,
                                    .started = run->started,
                                    .n_steps = run->options.steps,
                                    .validate_every = run->options.validate_every,
                                    .n_ranks = run->comm->size,
                                    .quiet = run->settings->quiet};
}

static int train(struct run *run)
{
    const struct trainer trainer = {.comm = run->comm,
                                    .model = run->loaded.model,
                                    .adapter = run->adapter,
                                    .tokenizer = run->loaded.tokenizer,
                                    .chat = &run->loaded.chat,
                                    .task = &run->task,
                                    .evaluate = evaluation(run),
                                    .options = run->options,
                                    .settings = run->train_settings,
                                    .state_path = run->state_path,
                                    .live = &run->live,
                                    .resume = run->resume.has_state,
                                    .quiet = run->settings->quiet};

    if (trainer_run(&trainer, &run->state, &run->end) != 0)
        return -1;
    if (run->end == TRAIN_INTERRUPTED)
        return 0;
    if (test(run) != 0)
        return -1;
    return comm_agree(run->comm, run->comm->rank == 0 ? write_result(run, &trainer) : 0);
}

static int run_all(struct run *run)
{
    run->start = MPI_Wtime();
    if (comm_agree(run->comm, prepare(run)) != 0 || prepare_factors(run) != 0 ||
        load_open(run->comm, run->path, &run->settings->load, run->chat_asked, &run->loaded) != 0 ||
        digest_data(run) != 0 || comm_agree(run->comm, make_adapter(run)) != 0 ||
        resume_look(run->comm, &run->resume, run->train_settings) != 0)
        return -1;
    if (run->resume.done_before)
        return 0;
    if (comm_agree(run->comm, open_sandbox(run)) != 0)
        return -1;
    prepare_live(run);
    const int status = train(run);
    live_curve_end(&run->live, status != 0                     ? "failed"
                               : run->end == TRAIN_INTERRUPTED ? "stopped"
                                                               : "finished");
    return status;
}

static void print_interrupted(const struct run *run)
{
    if (run->comm->rank != 0)
        return;
    fprintf(stderr,
            "t2 train: stopped by %s after step %llu of %zu; the same command with --resume goes on"
            "%s%s\n",
            signals_name(signals_pending()), (unsigned long long)run->state.step,
            run->options.steps, run->state.step > 0 ? " from " : " from the start",
            run->state.step > 0 ? run->state_path : "");
}

static int plan(struct run *run)
{
    const struct train_settings *s = run->settings;
    struct checkpoint *ck = NULL;
    struct model_config shape;
    const struct model_config *config = &shape;
    const int n_threads = s->load.threads > 0 ? (int)s->load.threads : threads_default(run->comm);
    struct device wish;
    int status = -1;

    if (device_wish(s->load.device, &wish, NULL) != 0)
        return -1;
    if (s->shape) {
        if (shapes_find(s->shape, &shape) != 0)
            return error_prefix("--model-shape");
    } else {
        if (!(ck = checkpoint_open(run->path)))
            return -1;
        config = checkpoint_config(ck);
    }
    if (choose_modules(run, config) == 0 &&
        adapter_kind_check(run->kind, &run->adapter_settings, run->modules, run->n_modules) == 0) {
        const struct train_plan_adapter adapter = {run->kind, &run->adapter_settings, run->modules,
                                                   run->n_modules};
        status =
            run->comm->rank == 0
                ? train_plan_print(config, &adapter, &run->options,
                                   strcmp(s->load.dtype, "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16,
                                   n_threads, (size_t)s->plan_tokens, stdout)
                : 0;
    }
    if (status == 0 && run->comm->rank == 0 && wish.kind == DEVICE_CUDA)
        puts("The times are the processor's: what a device takes is not predicted.");
    checkpoint_free(ck);
    return status;
}

static void run_free(struct run *run)
{
    train_state_free(&run->state);
    adapter_free(run->adapter);
    factors_close(run->factors);
    load_free(&run->loaded);
    sandbox_close(run->sandbox);
    if (run->n_tasks)
        task_free(&run->task);
    free(run->modules);
    free(run->data_root);
    free(run->command_line);
    free(run->record);
    free(run->deciding);
    free(run->train_settings);
    free(run->adapter_text);
    free(run->factors_path);
    free(run->state_path);
    free(run->live_path);
    free(run);
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct train_settings s = train_settings_defaults();
    struct option_spec table[TRAIN_OPTIONS];
    const char *path = NULL;
    size_t n_args;
    bool done;
    int code = COMMAND_OK;
    struct run *run = calloc(1, sizeof *run);

    train_settings_table(&s, table);
    if (!run) {
        error_set("out of memory");
        return command_fail(&command_train, comm, COMMAND_FAILED);
    }
    if (options_parse(&command_train, table, comm, argc, argv, &path, 1, &n_args, &done) != 0 ||
        (!done &&
         (load_check_options(&s.load, table) != 0 ||
          train_settings_read(&s, table, path, &run->options, &run->kind, &run->adapter_settings))))
        code = command_fail(&command_train, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;
    run->comm = comm;
    run->settings = &s;
    run->path = path;
    run->chat_asked = option_find(table, "chat")->source && s.load.chat;
    run->command_line = output_command_line(argc, argv);
    run->record = options_record(&command_train, table);
    run->deciding = train_settings_text(table);
    int rc = run->command_line && run->record && run->deciding ? 0 : error_set("out of memory");
    rc = comm_agree(comm, rc);
    if (rc == 0)
        rc = s.plan ? comm_agree(comm, plan(run)) : run_all(run);
    if (rc != 0) {
        code = command_fail(&command_train, comm, COMMAND_FAILED);
    } else if (s.plan) {
        ;
    } else if (run->resume.done_before) {
        resume_say_done(comm, &run->resume, s.quiet);
    } else if (run->end == TRAIN_INTERRUPTED) {
        print_interrupted(run);
        code = COMMAND_INTERRUPTED;
    } else {
        print_result(run, MPI_Wtime() - run->start);
    }
finish:
    run_free(run);
    options_free(table);
    return code;
}

const struct command command_train = {
    .name = "train",
    .summary = "Trains an adapter on a task: SVF's expert vectors, or another kind.",
    .arguments = "[MODEL]",
    .details =
        "MODEL is a Hugging Face folder or a GGUF file, its factors those of t2 decompose. The "
        "expert has the same bits on any number of ranks and threads. Stopped by SIGTERM, SIGINT "
        "or SIGUSR1 the run leaves OUT.state and ends with the exit code 75; with --resume it goes "
        "on to the same bits. A job script can always give --resume: without OUT.state the run "
        "begins at the start, and when OUT is there, made by the same settings, nothing is done. "
        "Stdout has one row: task, steps, validation before and best, test before and after, "
        "seconds.\n\n"
        "examples\n"
        "  t2 train MODEL --factors f.h5 --task sst2 --out e.h5 --validate-every 15 --resume\n"
        "  mpirun -n 4 t2 train MODEL -f f.h5 -T gsm8k -o e.h5 --batch 256 --kl 0.1 -t 2\n"
        "  t2 train MODEL -f f.h5 -T mbpp -o code.h5 --answers 4 --baseline rloo\n"
        "  t2 train --plan --model-shape llama3-8b --modules mlp --batch 256",
    .run = command_run,
};

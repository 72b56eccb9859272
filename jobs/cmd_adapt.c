/* t2 adapt: the mixture of experts that does best on a few shots of a task, over all ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "jobs/adapt_options.h"
#include "jobs/adapt_result.h"
#include "jobs/adapt_scores.h"
#include "jobs/adapt_state.h"
#include "jobs/commands.h"
#include "jobs/load_experts.h"
#include "jobs/output.h"
#include "jobs/resume.h"
#include "jobs/task_list.h"
#include "model/rng.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "mpi/progress.h"
#include "mpi/signals.h"
#include "mpi/text.h"
#include "solver/cpu.h"

enum { WRITE_EVERY_SECONDS = 2 };

struct run {
    const struct comm *comm;
    const struct adapt_settings *settings;
    const char *path; /* the model's */
    bool chat_asked;
    struct fewshot_options options;
    enum population_objective objective;
    struct task task;
    size_t n_tasks;
    struct loaded loaded;
    struct expert_set set;
    struct sandbox *sandbox;
    struct shots shots;
    struct fewshot f;
    struct progress progress;
    char *data_root, *command_line, *record, *deciding, *own_settings, *state_path;
    struct factors *factors; /* until the model is ready */
    struct fewshot_form form;
    struct adapt_scoring scoring;
    char cpu[256], started[32];
    struct resume resume;
    bool interrupted;
    double start, written;
};

/* ---- before the work ---------------------------------------------------------------------------
 */

static int prepare(struct run *run)
{
    const struct adapt_settings *s = run->settings;

    output_time(run->started);
    cpu_describe(run->cpu, sizeof run->cpu);
    if (asprintf(&run->state_path, "%s.state", s->out) < 0) {
        run->state_path = NULL;
        return error_set("out of memory");
    }
    run->data_root = dataset_root(s->data);
    if (!run->data_root ||
        task_list_load(s->task, "--task", run->path, &run->task, 1, &run->n_tasks) != 0)
        return -1;
    run->resume = (struct resume){
        .out = s->out, .state_path = run->state_path, .what = "an adaptation", .asked = s->resume};
    return run->comm->rank == 0 ? resume_check(&run->resume) : 0;
}

static int chat_setting(const struct run *run)
{
    const struct adapt_settings *s = run->settings;
    return s->load.raw || !s->load.chat ? 0 : run->chat_asked ? 1 : -1;
}

static int open_shots(struct run *run)
{
    const struct adapt_settings *s = run->settings;
    const struct shots_options options = {.items = {.data_root = run->data_root,
                                                    .split = s->shot_split,
                                                    .system = s->load.system,
                                                    .chat = chat_setting(run),
                                                    .fewshot = s->fewshot,
                                                    .max_new = s->max_new > 0 ? s->max_new : -1,
                                                    .seed = (uint64_t)s->seed},
                                          .n = (size_t)s->shots,
                                          .seed = (uint64_t)s->seed,
                                          .targets = run->objective == POPULATION_LIKELIHOOD};

    return shots_open(&run->shots, &run->task, &run->loaded.chat, run->loaded.tokenizer,
                      model_get_config(run->loaded.model), &options);
}

/* Everything that decides the search's numbers. NULL with error_set. */
static char *settings_text(const struct run *run)
{
    const struct expert_set *set = &run->set;
    uint64_t experts = HASH_START, shots = HASH_START;
    char fingerprint[65], *text = NULL;

    if (factors_fingerprint(run->factors, fingerprint) != 0)
        return NULL;
    for (size_t k = 0; k < set->n; k++) {
        experts = hash_bytes(experts, set->names[k], strlen(set->names[k]) + 1);
        experts = hash_bytes(experts, set->z[k], set->n_parameters * sizeof **set->z);
    }
    for (size_t i = 0; i < run->shots.n; i++) {
        const struct task_item *item = &run->shots.all[i].item;
        shots = hash_value(shots, item->index);
        shots = hash_bytes(shots, item->prompt, strlen(item->prompt));
    }
    if (asprintf(&text,
                 "model = %s\nfactors = %s\nn_experts = %zu\nn_parameters = %zu\ntask = %s\n"
                 "isa = %s\n%sexperts = %016llx\ntask_text = %016llx\nshot_texts = %016llx\n"
                 "shot_data = rows with the digest %016llx\n",
                 run->loaded.identity, fingerprint, set->n, set->n_parameters, run->task.name,
                 isa_name(run->loaded.model_options.isa), run->deciding,
                 (unsigned long long)experts, (unsigned long long)hash_text(run->task.text),
                 (unsigned long long)shots,
                 (unsigned long long)items_digest(&run->shots.items)) < 0) {
        error_set("out of memory");
        return NULL;
    }
    return text;
}

/* All ranks take up the state: rank 0 reads it, the numbers travel. */
static int take_up(struct run *run)
{
    struct fewshot *f = &run->f;
    const struct comm *comm = run->comm;
    double *numbers = malloc(f->search.n_state * sizeof *numbers);
    int status = numbers ? 0 : error_set("out of memory");

    if (status == 0 && comm->rank == 0)
        status = adapt_state_read(f, run->own_settings, run->state_path);
    status = comm_agree(comm, status);
    if (status == 0 && comm->size > 1) {
        search_pack(&f->search, numbers);
        MPI_Bcast(numbers, (int)f->search.n_state, MPI_DOUBLE, 0, comm->handle);
        /* Curves are rank 0's business; the others keep room for them. */
        if (comm->rank != 0)
            status = search_unpack(&f->search, numbers) != 0 ||
                             fewshot_reserve(f, f->search.iteration) != 0
                         ? -1
                         : 0;
        status = comm_agree(comm, status);
    }
    free(numbers);
    return status;
}

/* The model in the form that candidates take. */
static int make_form(struct run *run)
{
    const bool merge = adapt_settings_merge(run->settings, &run->task, &run->set,
                                            run->loaded.model_options.element);
    struct loaded *l = &run->loaded;

    run->form.model = l->model;
    if (merge)
        run->form.weights = weight_mix_create(l->model, l->checkpoint, &run->set, run->factors,
                                              (uint64_t)run->settings->seed);
    else
        run->form.adapter = l->adapter =
            expert_set_adapter(&run->set, l->model, l->checkpoint, run->factors);
    factors_close(run->factors);
    run->factors = NULL;
    return run->form.weights || run->form.adapter ? 0 : -1;
}

static int open_all(struct run *run)
{
    const struct comm *comm = run->comm;
    const struct adapt_settings *s = run->settings;

    if (comm_agree(comm, prepare(run)) != 0 ||
        load_experts_plain(comm, run->path, s->experts, s->factors, &s->load, run->chat_asked,
                           &run->loaded, &run->set, &run->factors) != 0)
        return -1;
    if (comm_agree(comm,
                   load_sandbox(comm, &command_adapt, &s->sandbox, &run->task, 1,
                                (size_t)run->loaded.model_options.n_threads, &run->sandbox)) != 0 ||
        comm_agree(comm, adapt_settings_suit(s, &run->set)) != 0 ||
        comm_agree(comm, open_shots(run)) != 0 ||
        items_compare_ranks(comm, &run->shots.items) != 0 ||
        comm_agree(comm, fewshot_create(&run->f, &run->set, &run->options)) != 0)
        return -1;
    run->own_settings = settings_text(run);
    if (comm_agree(comm, run->own_settings ? 0 : -1) != 0 ||
        resume_look(comm, &run->resume, run->own_settings) != 0)
        return -1;
    if (run->resume.done_before)
        return 0;
    if (comm_agree(comm, make_form(run)) != 0)
        return -1;
    return run->resume.has_state ? take_up(run) : 0;
}

/* ---- the search --------------------------------------------------------------------------------
 */

static void show_progress(void *context, size_t n_done, size_t n_all)
{
    struct run *run = context;
    const struct search *search = &run->f.search;

    run->progress.total = search_most(search);
    progress_update(&run->progress, search->iteration, "candidate %zu of %zu, best %.3f", n_done,
                    n_all, search->has_best ? search->best_score.value : 0);
}

static struct population population_of(struct run *run)
{
    const struct adapt_settings *s = run->settings;
    /* The search's own streams have the plain seed. */
    struct shots_run shots = {.model = run->loaded.model,
                              .tokenizer = run->loaded.tokenizer,
                              .run = scheduler_run,
                              .scheduler = scheduler_defaults(),
                              .sampling = {.temperature = (float)s->temperature,
                                           .top_p = (float)s->top_p,
                                           .seed = rng_key((uint64_t)s->seed, 1)},
                              .samples = (size_t)s->samples,
                              .sandbox = run->sandbox};

    shots.scheduler.batch = (size_t)s->batch;
    shots.scheduler.chunk = (size_t)s->chunk;
    return (struct population){.comm = run->comm,
                               .shots = &run->shots,
                               .run = shots,
                               .objective = run->objective,
                               .progress = show_progress,
                               .context = run};
}

/* The state is small, but many iterations may pass in a second. */
static int keep_state(struct run *run, bool at_once)
{
    if (run->comm->rank != 0 || run->f.search.iteration == 0 ||
        (!at_once && clock_seconds() - run->written < WRITE_EVERY_SECONDS))
        return 0;
    run->written = clock_seconds();
    return adapt_state_write(&run->f, run->own_settings, run->state_path);
}

static int search(struct run *run)
{
    const struct population population = population_of(run);
    int status = 0;

    progress_begin(&run->progress, run->comm, run->task.name, 0, run->settings->quiet);
    while (status == 0 && !run->interrupted && !search_finished(&run->f.search)) {
        status = fewshot_step(&run->f, &population, &run->form, &run->interrupted);
        if (status == 0)
            status = comm_agree(run->comm, keep_state(run, run->interrupted));
    }
    if (status == 0 && !run->interrupted)
        status = comm_agree(run->comm, keep_state(run, true));
    progress_end(&run->progress);
    if (status == 0 && !run->interrupted && run->f.search.best_score.value <= POPULATION_WORST)
        status = error_set("no mixture of the search gives numbers: narrow --lower and --upper, or "
                           "leave out the expert that breaks the model");
    return status;
}

static int score(struct run *run)
{
    const struct adapt_settings *s = run->settings;
    struct adapt_scoring *scoring = &run->scoring;
    struct evaluate_options *options = &scoring->evaluate;

    *scoring = (struct adapt_scoring){.comm = run->comm,
                                      .f = &run->f,
                                      .form = &run->form,
                                      .population = population_of(run),
                                      .task = &run->task,
                                      .chat = &run->loaded.chat,
                                      .evaluate = evaluate_defaults(),
                                      .test = s->test_limit != 0};
    options->run = scheduler_run;
    options->scheduler.batch = (size_t)s->batch;
    options->scheduler.chunk = (size_t)s->chunk;
    options->seed = (uint64_t)s->seed;
    /* As the shots: the gap compares the two. */
    options->sampling.temperature = (float)s->temperature;
    options->sampling.top_p = (float)s->top_p;
    options->samples = (size_t)s->samples;
    options->sandbox = run->sandbox;
    options->limit = s->test_limit > 0 ? (size_t)s->test_limit : 0;
    options->split = s->test_split;
    options->data_root = run->data_root;
    options->chat = chat_setting(run);
    options->system = s->load.system;
    options->fewshot = s->fewshot;
    options->max_new = s->max_new > 0 ? s->max_new : -1;
    return adapt_score_all(scoring, &run->interrupted);
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static int write_result(const struct run *run)
{
    const struct adapt_settings *s = run->settings;
    const struct model_options *o = &run->loaded.model_options;
    const struct adapt_result result = {.f = &run->f,
                                        .shots = &run->shots,
                                        .scores = run->scoring.scores,
                                        .n_scores = run->scoring.n_rows,
                                        .n_test = run->scoring.n_test,
                                        .task = run->task.name,
                                        .task_text = run->task.text,
                                        .test_split = s->test_split,
                                        .settings = run->own_settings,
                                        .options = run->record,
                                        .command_line = run->command_line,
                                        .per = s->per,
                                        .mix = s->mix,
                                        .objective = s->objective,
                                        .weights = run->form.weights ? "merged" : "factored",
                                        .cpu = run->cpu,
                                        .isa = isa_name(o->isa),
                                        .dtype = s->load.dtype,
                                        .started = run->started,
                                        .seed = s->seed,
                                        .n_ranks = run->comm->size,
                                        .n_threads = o->n_threads,
                                        .seconds = MPI_Wtime() - run->start};
    const int status = adapt_result_write(&result, s->out);

    if (status == 0)
        unlink(run->state_path);
    return status;
}

static void print_result(const struct run *run)
{
    const struct fewshot *f = &run->f;
    char took[32];
    int width = 7;

    if (run->comm->rank != 0)
        return;
    for (size_t r = 0; r < run->scoring.n_rows; r++)
        width = (int)strlen(run->scoring.scores[r].name) > width
                    ? (int)strlen(run->scoring.scores[r].name)
                    : width;
    if (!run->settings->quiet) {
        fprintf(stderr, "%s: %zu iterations in %s, best %.4f on %zu shots\n", run->settings->out,
                f->search.iteration, text_duration(took, sizeof took, MPI_Wtime() - run->start),
                f->search.best_score.value, run->shots.n);
        if (run->f.n_groups == 1) {
            double alpha[EXPERT_SET_MAX];
            fewshot_coefficients(f, f->search.best, alpha);
            fprintf(stderr, "  coefficients:");
            for (size_t k = 0; k < run->set.n; k++)
                fprintf(stderr, " %s %.4f", run->set.names[k], alpha[k]);
            fputc('\n', stderr);
        }
        fprintf(stderr, "%-*s   shots  stderr    test  stderr      gap  stderr\n", width,
                "weights");
    }
    for (size_t r = 0; r < run->scoring.n_rows; r++) {
        const struct adapt_score *s = &run->scoring.scores[r];
        const double numbers[] = {
            s->shots,      s->shots_error,     s->test,
            s->test_error, s->shots - s->test, hypot(s->shots_error, s->test_error)};
        printf("%-*s", width, s->name);
        for (int i = 0; i < 6; i++) {
            if (isnan(numbers[i]))
                printf("  %*s", i == 4 ? 7 : 6, "-");
            else
                printf("  %*.4f", i == 4 ? 7 : 6, numbers[i]);
        }
        putchar('\n');
    }
    fflush(stdout);
}

static void print_interrupted(const struct run *run)
{
    if (run->comm->rank != 0)
        return;
    const size_t n = run->f.search.iteration;
    fprintf(stderr,
            "t2 adapt: stopped by %s after iteration %zu; the same command with --resume goes on "
            "from %s\n",
            signals_name(signals_pending()), n, n > 0 ? run->state_path : "the start");
}

static int run_all(struct run *run)
{
    run->start = MPI_Wtime();
    if (open_all(run) != 0)
        return -1;
    if (run->resume.done_before)
        return 0;
    if (search(run) != 0)
        return -1;
    if (run->interrupted || score(run) != 0)
        return run->interrupted ? 0 : -1;
    return run->interrupted ? 0
                            : comm_agree(run->comm, run->comm->rank == 0 ? write_result(run) : 0);
}

static void run_free(struct run *run)
{
    free(run->scoring.scores);
    weight_mix_free(run->form.weights);
    factors_close(run->factors);
    fewshot_free(&run->f);
    shots_free(&run->shots);
    load_free(&run->loaded);
    expert_set_free(&run->set);
    sandbox_close(run->sandbox);
    if (run->n_tasks)
        task_free(&run->task);
    free(run->data_root);
    free(run->command_line);
    free(run->record);
    free(run->deciding);
    free(run->own_settings);
    free(run->state_path);
    free(run);
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct adapt_settings s = adapt_settings_defaults();
    struct option_spec table[ADAPT_OPTIONS];
    const char *path = NULL;
    size_t n_args;
    bool done;
    int code = COMMAND_OK;
    struct run *run = calloc(1, sizeof *run);

    adapt_settings_table(&s, table);
    if (comm_agree(comm, run ? 0 : error_set("out of memory")) != 0) {
        free(run);
        return command_fail(&command_adapt, comm, COMMAND_FAILED);
    }
    if (options_parse(&command_adapt, table, comm, argc, argv, &path, 1, &n_args, &done) != 0 ||
        (!done && (load_check_options(&s.load, table) != 0 ||
                   adapt_settings_read(&s, table, &run->options, &run->objective) != 0)))
        code = command_fail(&command_adapt, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;
    signals_watch();
    run->comm = comm;
    run->settings = &s;
    run->path = path;
    run->chat_asked = option_find(table, "chat")->source && s.load.chat;
    run->command_line = output_command_line(argc, argv);
    run->record = options_record(&command_adapt, table);
    run->deciding = adapt_settings_text(table);
    int rc = run->command_line && run->record && run->deciding ? 0 : error_set("out of memory");
    rc = comm_agree(comm, rc);
    if (rc == 0)
        rc = run_all(run);
    if (rc != 0) {
        code = command_fail(&command_adapt, comm, COMMAND_FAILED);
    } else if (run->resume.done_before) {
        resume_say_done(comm, &run->resume, s.quiet);
    } else if (run->interrupted) {
        print_interrupted(run);
        code = COMMAND_INTERRUPTED;
    } else {
        print_result(run);
    }
finish:
    run_free(run);
    options_free(table);
    return code;
}

const struct command command_adapt = {
    .name = "adapt",
    .summary = "Finds the mixture of experts that suits a task, from a few shots.",
    .arguments = "MODEL",
    .details =
        "Searches the coefficients of a mixture of experts for the one that does best on a few "
        "items of a task (Transformer-Squared's few-shot adaptation), and leaves it as an expert "
        "file that eval, generate and export take by --adapter. The same bits on any number of "
        "ranks. Stopped by SIGTERM, SIGINT or SIGUSR1 the run leaves OUT.state and ends with the "
        "exit code 75; with --resume it goes on to the same bits. Stdout has a row for the base "
        "model, each expert, the uniform mixture and the mixture found: name, accuracy on the "
        "shots and its standard error, accuracy on the test items and its standard error, the gap "
        "between the two and its standard error (a dash: of fewer than two items).\n\n"
        "examples\n"
        "  t2 adapt MODEL --experts maths.h5,code.h5,reasoning.h5 --task arc_challenge --out m.h5\n"
        "  mpirun -n 4 t2 adapt MODEL -e a.h5,b.h5 -T gsm8k -o m.h5 --per layer --no-normalise\n"
        "  t2 adapt MODEL -e a.h5,b.h5 -T gsm8k -o m.h5 --recipe jobs/recipes/cem-light.ini",
    .run = command_run,
};

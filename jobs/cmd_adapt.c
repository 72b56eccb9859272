/* t2 adapt: the mixture of experts that does best on a few shots of a task, over all ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "eval/gather.h"
#include "eval/metrics.h"
#include "jobs/adapt_options.h"
#include "jobs/adapt_result.h"
#include "jobs/adapt_state.h"
#include "jobs/commands.h"
#include "jobs/load_experts.h"
#include "jobs/output.h"
#include "jobs/task_list.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "mpi/hash.h"
#include "mpi/progress.h"
#include "mpi/signals.h"
#include "mpi/text.h"
#include "solver/cpu.h"
#include "train/train_result.h"

/* What the scores table holds beside the experts. */
enum { ROW_BASE, ROW_FIRST_EXPERT };
enum { EXTRA_ROWS = 3, WRITE_EVERY_SECONDS = 2 };

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
    struct adapt_score *scores;
    size_t n_rows, n_test;
    char cpu[256], started[32];
    bool has_state, done_before, interrupted;
    double start, written;
};

static bool is_there(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

/* ---- before the work ---------------------------------------------------------------------------
 */

static int prepare(struct run *run)
{
    const struct adapt_settings *s = run->settings;
    time_t now = time(NULL);
    struct tm utc;

    gmtime_r(&now, &utc);
    strftime(run->started, sizeof run->started, "%Y-%m-%dT%H:%M:%SZ", &utc);
    cpu_describe(run->cpu, sizeof run->cpu);
    if (asprintf(&run->state_path, "%s.state", s->out) < 0) {
        run->state_path = NULL;
        return error_set("out of memory");
    }
    run->data_root = dataset_root(s->data);
    if (!run->data_root ||
        task_list_load(s->task, "--task", run->path, &run->task, 1, &run->n_tasks) != 0)
        return -1;
    if (run->comm->rank != 0)
        return 0;
    if (output_check(s->out) != 0)
        return -1;
    if (!s->resume && is_there(run->state_path))
        return error_set("%s holds an adaptation that is not finished: go on with --resume, or "
                         "remove it",
                         run->state_path);
    return 0;
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

/* Everything that decides the search's numbers. */
static char *settings_text(const struct run *run)
{
    const struct expert_set *set = &run->set;
    uint64_t experts = HASH_START, shots = HASH_START;
    char *text = NULL;

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
                 "isa = %s\n%sexperts = %016llx\ntask_text = %016llx\nshot_texts = %016llx\n",
                 run->loaded.identity, set->identity ? set->identity : "", set->n,
                 set->n_parameters, run->task.name, isa_name(run->loaded.model_options.isa),
                 run->deciding, (unsigned long long)experts,
                 (unsigned long long)hash_text(run->task.text), (unsigned long long)shots) < 0)
        return NULL;
    return text;
}

/* With --resume, on rank 0: the state, or, where a requeued job had finished, its result. */
static int look_for_result(struct run *run, int there[2])
{
    if (!run->settings->resume)
        return 0;
    there[0] = is_there(run->state_path);
    there[1] = there[0] ? 0 : train_result_is_there(run->settings->out, run->own_settings);
    return there[1] < 0 ? -1 : 0;
}

/* All ranks take up the state: rank 0 reads it, the numbers travel. */
static int resume(struct run *run)
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
    int there[2] = {0, 0};

    if (comm_agree(comm, prepare(run)) != 0 ||
        load_experts_plain(comm, run->path, s->experts, s->factors, &s->load, run->chat_asked,
                           &run->loaded, &run->set, &run->factors) != 0)
        return -1;
    if (comm_agree(comm,
                   load_sandbox(comm, &command_adapt, &s->sandbox, &run->task, 1,
                                (size_t)run->loaded.model_options.n_threads, &run->sandbox)) != 0 ||
        comm_agree(comm, open_shots(run)) != 0 ||
        items_compare_ranks(comm, &run->shots.items) != 0 ||
        comm_agree(comm, fewshot_create(&run->f, &run->set, &run->options)) != 0)
        return -1;
    run->own_settings = settings_text(run);
    if (comm_agree(comm, run->own_settings ? 0 : error_set("out of memory")) != 0 ||
        comm_agree(comm, comm->rank == 0 ? look_for_result(run, there) : 0) != 0)
        return -1;
    if (comm->size > 1)
        MPI_Bcast(there, 2, MPI_INT, 0, comm->handle);
    run->has_state = there[0] > 0;
    run->done_before = there[1] > 0;
    if (run->done_before)
        return 0;
    if (comm_agree(comm, make_form(run)) != 0)
        return -1;
    return run->has_state ? resume(run) : 0;
}

/* ---- the search --------------------------------------------------------------------------------
 */

static void show_progress(void *context, size_t n_done, size_t n_all)
{
    struct run *run = context;
    const struct search *search = &run->f.search;
    const size_t most = search->options.method == SEARCH_GRID
                            ? (search->n_points - 1) / search->options.population + 1
                            : search->options.iterations;

    run->progress.total = most;
    progress_update(&run->progress, search->iteration, "candidate %zu of %zu, best %.3f", n_done,
                    n_all, search->has_best ? search->best_score.value : 0);
}

static struct population population_of(struct run *run)
{
    const struct adapt_settings *s = run->settings;
    struct shots_run shots = {.model = run->loaded.model,
                              .tokenizer = run->loaded.tokenizer,
                              .run = scheduler_run,
                              .scheduler = scheduler_defaults(),
                              .sampling = {.temperature = (float)s->temperature,
                                           .top_p = (float)s->top_p,
                                           .seed = (uint64_t)s->seed},
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
    return status;
}

/* ---- scores of base, experts and mixtures -------------------------------------------------------
 */

static int make_rows(struct run *run)
{
    const struct expert_set *set = &run->set;

    run->n_rows = set->n + EXTRA_ROWS;
    run->scores = calloc(run->n_rows, sizeof *run->scores);
    if (!run->scores)
        return error_set("out of memory");
    run->scores[ROW_BASE].name = "base";
    for (size_t k = 0; k < set->n; k++)
        run->scores[ROW_FIRST_EXPERT + k].name = set->names[k];
    run->scores[run->n_rows - 2].name = "uniform";
    run->scores[run->n_rows - 1].name = "mixture";
    return 0;
}

/* The base model and single experts are mixtures too. */
static int wear_row(void *context, size_t row)
{
    struct run *run = context;
    struct fewshot *f = &run->f;
    const struct fewshot_options *o = &f->options;
    double alpha[EXPERT_SET_MAX] = {0};

    if (row < ROW_FIRST_EXPERT + run->set.n) {
        if (row >= ROW_FIRST_EXPERT)
            alpha[row - ROW_FIRST_EXPERT] = 1;
        return fewshot_wear(f, &run->form, EXPERT_MIX_DELTA, EXPERT_PER_EXPERT, alpha);
    }
    if (row == run->n_rows - 1) {
        fewshot_coefficients(f, f->search.best, f->alpha);
        return fewshot_wear(f, &run->form, o->mix, o->per, f->alpha);
    }
    for (size_t k = 0; k < run->set.n; k++)
        alpha[k] = 1 / (double)run->set.n;
    return fewshot_wear(f, &run->form, o->mix, EXPERT_PER_EXPERT, alpha);
}

static int score_on_shots(struct run *run)
{
    struct population population = population_of(run);
    struct population_result result;
    const size_t n = run->shots.n;
    size_t *which = malloc((n + 1) * sizeof *which);
    double *right = malloc((n + 1) * sizeof *right);
    int status =
        comm_agree(run->comm, which && right ? 0 : error_set("no memory for %zu shots", n));

    if (status != 0)
        goto done;
    for (size_t i = 0; i < n; i++)
        which[i] = i;
    population.objective = POPULATION_ACCURACY;
    population.wear = wear_row;
    population.progress = NULL;
    status = population_evaluate(&population, run->n_rows, which, n, 0, &result);
    if (status != 0)
        goto done;
    run->interrupted = result.interrupted;
    for (size_t r = 0; r < run->n_rows; r++) {
        for (size_t i = 0; i < n; i++)
            right[i] = result.outcomes[r * n + i].right;
        run->scores[r].shots = metrics_mean(right, n, &run->scores[r].shots_error);
    }
    population_result_free(&result);
done:
    free(which);
    free(right);
    return status;
}

/* Takes the shots out of a result, on rank 0. */
static int drop_shots(struct run *run, struct task_result *result)
{
    size_t n = 0;

    for (size_t i = 0; i < result->n_items; i++) {
        if (shots_has_row(&run->shots, result->items[i].index))
            item_record_free(&result->items[i]);
        else
            result->items[n++] = result->items[i];
    }
    result->n_items = n;
    if (n == 0)
        return error_set("task %s: all items of the split \"%s\" that are tested are shots",
                         run->task.name, result->split);
    evaluate_metrics(&run->task, result);
    return 0;
}

static int score_on_test(struct run *run, size_t row)
{
    const struct adapt_settings *s = run->settings;
    struct evaluate_options options = evaluate_defaults();
    struct task_result result;
    double numbers[3];

    options.run = scheduler_run;
    options.scheduler.batch = (size_t)s->batch;
    options.scheduler.chunk = (size_t)s->chunk;
    options.seed = (uint64_t)s->seed;
    options.sandbox = run->sandbox;
    options.limit = s->test_limit > 0 ? (size_t)s->test_limit : 0;
    options.split = s->test_split;
    options.data_root = run->data_root;
    options.chat = chat_setting(run);
    options.system = s->load.system;
    options.fewshot = s->fewshot;
    options.max_new = s->max_new > 0 ? s->max_new : -1;
    if (comm_agree(run->comm, wear_row(run, row)) != 0 ||
        evaluate_task(run->comm, run->loaded.model, run->loaded.tokenizer, &run->loaded.chat,
                      &run->task, &options, &result) != 0)
        return -1;
    int status = 0;
    if (run->comm->rank == 0 && strcmp(s->test_split, s->shot_split) == 0)
        status = drop_shots(run, &result);
    numbers[0] = result.accuracy;
    numbers[1] = result.accuracy_error;
    numbers[2] = (double)result.n_items;
    task_result_free(&result);
    if (run->comm->size > 1)
        MPI_Bcast(numbers, 3, MPI_DOUBLE, 0, run->comm->handle);
    run->scores[row].test = numbers[0];
    run->scores[row].test_error = numbers[1];
    run->n_test = (size_t)numbers[2];
    return comm_agree(run->comm, status);
}

static int score_all(struct run *run)
{
    if (comm_agree(run->comm, make_rows(run)) != 0 || score_on_shots(run) != 0)
        return -1;
    for (size_t r = 0; r < run->n_rows; r++) {
        run->scores[r].test = run->scores[r].test_error = NAN;
        int stop = signals_pending();
        if (run->comm->size > 1)
            MPI_Allreduce(MPI_IN_PLACE, &stop, 1, MPI_INT, MPI_MAX, run->comm->handle);
        run->interrupted = run->interrupted || stop;
        if (!run->interrupted && run->settings->test_limit != 0 && score_on_test(run, r) != 0)
            return -1;
    }
    return 0;
}

/* ---- the end -----------------------------------------------------------------------------------
 */

static int write_result(const struct run *run)
{
    const struct adapt_settings *s = run->settings;
    const struct model_options *o = &run->loaded.model_options;
    const struct adapt_result result = {.f = &run->f,
                                        .shots = &run->shots,
                                        .scores = run->scores,
                                        .n_scores = run->n_rows,
                                        .n_test = run->n_test,
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
    for (size_t r = 0; r < run->n_rows; r++)
        width = (int)strlen(run->scores[r].name) > width ? (int)strlen(run->scores[r].name) : width;
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
        fprintf(stderr, "%-*s   shots  stderr    test  stderr      gap\n", width, "weights");
    }
    for (size_t r = 0; r < run->n_rows; r++) {
        const struct adapt_score *s = &run->scores[r];
        printf("%-*s  %.4f  %.4f  ", width, s->name, s->shots, s->shots_error);
        if (isnan(s->test))
            printf("%6s  %6s  %7s\n", "-", "-", "-");
        else
            printf("%.4f  %.4f  %7.4f\n", s->test, s->test_error, s->shots - s->test);
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
    if (run->done_before)
        return 0;
    if (search(run) != 0)
        return -1;
    if (run->interrupted || score_all(run) != 0)
        return run->interrupted ? 0 : -1;
    return run->interrupted ? 0
                            : comm_agree(run->comm, run->comm->rank == 0 ? write_result(run) : 0);
}

static void run_free(struct run *run)
{
    free(run->scores);
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
    if (!run) {
        error_set("out of memory");
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
    } else if (run->done_before) {
        if (comm->rank == 0 && !s.quiet)
            fprintf(stderr, "%s: finished already by a run of these settings; nothing to do\n",
                    s.out);
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
        "shots and its standard error, accuracy on the test items and its standard error, and the "
        "gap between the two.\n\n"
        "examples\n"
        "  t2 adapt MODEL --experts maths.h5,code.h5,reasoning.h5 --task arc_challenge --out m.h5\n"
        "  mpirun -n 4 t2 adapt MODEL -e a.h5,b.h5 -T gsm8k -o m.h5 --per layer --no-normalise\n"
        "  t2 adapt MODEL -e a.h5,b.h5 -T gsm8k -o m.h5 --recipe jobs/recipes/cem-light.ini",
    .run = command_run,
};

/* t2 eval: scores a model on tasks, over all ranks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/adapt_file.h"
#include "eval/evaluate.h"
#include "eval/given.h"
#include "eval/results.h"
#include "jobs/commands.h"
#include "jobs/eval_table.h"
#include "jobs/load.h"
#include "jobs/load_adapt.h"
#include "jobs/load_sandbox.h"
#include "jobs/output.h"
#include "jobs/task_list.h"
#include "mpi/error.h"
#include "mpi/progress.h"
#include "mpi/text.h"
#include "solver/cpu.h"
#include "solver/engine.h"

enum { MAX_TASKS = 64 };

struct settings {
    struct load_options load;
    struct sandbox_settings sandbox;
    struct adapt_options adapt;
    const char *tasks, *split, *out, *data, *prompt_file, *grade;
    int64_t limit, batch, chunk, seed, fewshot, max_new, samples, pass_at;
    double temperature, top_p;
    bool share_prefix, quiet;
};

struct run {
    const struct comm *comm;
    const struct settings *settings;
    int chat;      /* as evaluate_options.chat */
    bool in_table; /* one of several adapters: the scores come in one table */
    struct task tasks[MAX_TASKS];
    struct task_result results[MAX_TASKS];
    size_t n_tasks, n_results;
    struct loaded loaded;
    struct adapt_setup adapt;
    struct sandbox *sandbox; /* where a task needs one */
    struct mixture mixture;  /* of the adapter; rank 0 with --out */
    struct progress progress;
    char *data_root, *command_line, *options;
    char identity[65], cpu[256], started[32];
    double start;
};

/* ---- what is recorded -------------------------------------------------------------------------
 */

static int write_results(struct run *run)
{
    const struct settings *s = run->settings;
    const struct model_options *options = &run->loaded.model_options;

    if (s->grade) {
        const struct run_info given = {.version = T2_VERSION,
                                       .command_line = run->command_line,
                                       .options = run->options,
                                       .model_path = "",
                                       .architecture = "",
                                       .model_sha256 = "",
                                       .dtype = "",
                                       .device = "",
                                       .isa = "",
                                       .kernel_order = "",
                                       .cpu = run->cpu,
                                       .chat_format = "",
                                       .ranks = run->comm->size,
                                       .threads = 1,
                                       .seed = (uint64_t)s->seed,
                                       .started = run->started,
                                       .seconds = MPI_Wtime() - run->start};
        return results_write(s->out, &given, run->results, run->n_results);
    }
    if (run->loaded.identity[0])
        strcpy(run->identity, run->loaded.identity);
    if (!run->identity[0] && checkpoint_identity(run->loaded.checkpoint, run->identity))
        return -1;
    struct run_info info = {
        .version = T2_VERSION,
        .command_line = run->command_line,
        .options = run->options,
        .model_path = checkpoint_path(run->loaded.checkpoint),
        .architecture = checkpoint_config(run->loaded.checkpoint)->architecture,
        .n_parameters = (int64_t)model_n_parameters(run->loaded.model),
        .model_sha256 = run->identity,
        .dtype = s->load.dtype,
        .device = run->loaded.device,
        .isa = isa_name(options->isa),
        .kernel_order = model_order(run->loaded.model),
        .cpu = run->cpu,
        .chat_format = chat_family_name(run->loaded.chat.family),
        .ranks = run->comm->size,
        .threads = options->n_threads,
        .seed = (uint64_t)s->seed,
        .started = run->started,
        .seconds = MPI_Wtime() - run->start,
        .mixture = &run->mixture,
    };
    return results_write(s->out, &info, run->results, run->n_results);
}

/* ---- showing ----------------------------------------------------------------------------------
 */

static void show_progress(void *context, const struct evaluate_progress *p)
{
    struct run *run = context;
    /* Of the other ranks' work this one knows what the queue has handed out. */
    size_t done = run->comm->size == 1 ? p->n_done : p->n_started;

    run->progress.total = p->n_items;
    progress_update(&run->progress, done, "score %.3f",
                    (double)p->n_correct / (double)(p->n_done ? p->n_done : 1));
}

static int name_width(const struct run *run)
{
    size_t width = 4;

    for (size_t i = 0; i < run->n_tasks; i++)
        if (strlen(run->tasks[i].name) > width)
            width = strlen(run->tasks[i].name);
    return (int)width;
}

static void print_head(const struct run *run)
{
    if (run->comm->rank == 0 && !run->settings->quiet && !run->in_table)
        fprintf(stderr, "%-*s   score  stderr    items  tokens/s\n", name_width(run), "task");
}

/* Stdout: five columns and nothing else. */
static void print_row(const struct run *run, const struct task_result *r)
{
    char prompts[32], answers[32], computed[32], took[32];

    if (run->comm->rank != 0 || run->in_table)
        return;
    printf("%-*s  %.4f  %.4f  %7zu  %8.1f\n", name_width(run), r->name, r->accuracy,
           r->accuracy_error, r->n_items, r->tokens_per_second);
    fflush(stdout);
    if (run->settings->quiet)
        return;
    fprintf(stderr, "  %s:", r->name);
    if (!isnan(r->accuracy_normalised))
        fprintf(stderr, " acc_norm %.4f (+- %.4f),", r->accuracy_normalised,
                r->accuracy_normalised_error);
    if (!isnan(r->auc))
        fprintf(stderr, " AUC %.4f,", r->auc);
    if (r->pass_at)
        fprintf(stderr, " pass@%zu %.4f (+- %.4f) of %zu samples,", r->pass_at, r->pass_at_k,
                r->pass_at_k_error, r->samples);
    if (!isnan(r->gold_probability))
        fprintf(stderr, " p(gold) %.4f,", r->gold_probability);
    if (run->settings->grade) {
        fprintf(stderr, " graded in %s\n", text_duration(took, sizeof took, r->seconds));
        return;
    }
    text_count(prompts, sizeof prompts, (double)r->prompt_tokens);
    text_count(answers, sizeof answers, (double)r->generated_tokens);
    text_count(computed, sizeof computed, (double)r->computed_tokens);
    text_duration(took, sizeof took, r->seconds);
    fprintf(stderr, " %s prompt and %s new tokens (%s computed) in %s\n", prompts, answers,
            computed, took);
    if (r->adapt) {
        fprintf(stderr, "  %s: ", r->name);
        adapt_print(r->adapt, stderr);
    }
}

/* ---- the run ----------------------------------------------------------------------------------
 */

static int run_task(struct run *run, const struct task *task, bool check_only)
{
    const struct settings *s = run->settings;
    struct evaluate_options options = evaluate_defaults();
    struct task_result *result = &run->results[run->n_results];

    options.run = scheduler_run;
    options.scheduler = scheduler_defaults();
    options.scheduler.batch = (size_t)s->batch;
    options.scheduler.chunk = (size_t)s->chunk;
    options.scheduler.share_prefix = s->share_prefix;
    options.seed = (uint64_t)s->seed;
    options.sampling.temperature = (float)s->temperature;
    options.sampling.top_p = (float)s->top_p;
    options.samples = (size_t)s->samples;
    options.pass_at = (size_t)s->pass_at;
    options.sandbox = run->sandbox;
    options.limit = (size_t)s->limit;
    options.split = s->split;
    options.data_root = run->data_root;
    options.chat = run->chat;
    options.system = s->load.system;
    options.fewshot = s->fewshot;
    options.max_new = s->max_new;
    options.check_only = check_only;
    options.progress = show_progress;
    options.progress_context = run;
    progress_begin(&run->progress, run->comm, task->name, 0, s->quiet);
    int rc = run->adapt.on
                 ? adapt_evaluate(&run->adapt.adapt, run->comm, run->loaded.model,
                                  run->loaded.tokenizer, &run->loaded.chat, task, &options, result)
                 : evaluate_task(run->comm, run->loaded.model, run->loaded.tokenizer,
                                 &run->loaded.chat, task, &options, result);
    progress_end(&run->progress);
    if (rc || check_only)
        return rc;
    run->n_results++;
    print_row(run, result);
    /* Written after every task: a run that is killed keeps what it has. */
    return comm_agree(run->comm, s->out && run->comm->rank == 0 ? write_results(run) : 0);
}

/* Model-written programs are run for some tasks; says so before any work is done. */
static int open_sandbox(struct run *run, size_t workers)
{
    return load_sandbox(run->comm, &command_eval, &run->settings->sandbox, run->tasks, run->n_tasks,
                        workers, &run->sandbox);
}

/* Grades a file's answers to a task; rank 0 does it, the others wait. */
static int grade_task(struct run *run, const struct task *task)
{
    const struct settings *s = run->settings;
    const struct given_options options = {.data_root = run->data_root,
                                          .split = s->split,
                                          .limit = (size_t)s->limit,
                                          .pass_at = (size_t)s->pass_at,
                                          .sandbox = run->sandbox};
    struct task_result *result = &run->results[run->n_results];
    size_t n_missing = 0;

    if (run->comm->rank != 0)
        return 0;
    if (given_grade(task, s->grade, &options, result, &n_missing))
        return -1;
    run->n_results++;
    print_row(run, result);
    if (n_missing && !s->quiet)
        fprintf(stderr, "  %s: %zu of the %zu items have no answer and do not count\n", task->name,
                n_missing, n_missing + result->n_items);
    return s->out ? write_results(run) : 0;
}

static int prepare(struct run *run, const char *model)
{
    run->start = MPI_Wtime();
    output_time(run->started);
    cpu_describe(run->cpu, sizeof run->cpu);
    run->data_root = dataset_root(run->settings->data);
    if (!run->data_root ||
        task_list_load_with(run->settings->tasks, "--tasks", model, run->settings->adapt.domains,
                            run->tasks, MAX_TASKS, &run->n_tasks))
        return -1;
    if (run->settings->prompt_file)
        for (size_t i = 0; i < run->n_tasks; i++)
            if (task_set_prompt_file(&run->tasks[i], run->settings->prompt_file))
                return -1;
    if (run->settings->out && run->comm->rank == 0)
        return output_check(run->settings->out);
    return 0;
}

/* The coefficients of the file that all prompts run with, for the results. */
static int read_mixture(struct run *run)
{
    const struct adapt *a = &run->adapt.adapt;
    const char *path = run->adapt.on && a->fixed >= 0 ? run->adapt.set.experts[a->fixed].path
                                                      : run->settings->load.adapter;

    return path && run->settings->out && run->comm->rank == 0 ? mixture_read(&run->mixture, path)
                                                              : 0;
}

static int evaluate(struct run *run, const char *path, bool chat_asked)
{
    int rc = comm_agree(run->comm, prepare(run, path));

    if (run->settings->grade) {
        if (rc == 0)
            rc = comm_agree(run->comm, run->comm->rank == 0 ? open_sandbox(run, 0) : 0);
        if (rc == 0)
            print_head(run);
        for (size_t i = 0; rc == 0 && i < run->n_tasks; i++)
            rc = comm_agree(run->comm, grade_task(run, &run->tasks[i]));
        return rc;
    }
    if (rc == 0)
        rc = load_adapt(run->comm, path, &run->settings->adapt, &run->settings->load, chat_asked,
                        &run->loaded, &run->adapt);
    if (rc)
        return rc;
    /* A rank has as many programs under way as threads: they share its processors. */
    rc =
        comm_agree(run->comm, read_mixture(run) != 0
                                  ? -1
                                  : open_sandbox(run, (size_t)run->loaded.model_options.n_threads));
    /* What is wrong with the last task is told before the first has run. */
    for (size_t i = 0; rc == 0 && run->n_tasks > 1 && i < run->n_tasks; i++)
        rc = run_task(run, &run->tasks[i], true);
    if (rc == 0)
        print_head(run);
    for (size_t i = 0; rc == 0 && i < run->n_tasks; i++)
        rc = run_task(run, &run->tasks[i], false);
    if (rc == 0 && run->comm->rank == 0 && !run->settings->quiet)
        adapt_print_confusion(run->results, run->n_results, stderr);
    return rc;
}

static void run_free(struct run *run)
{
    for (size_t i = 0; i < run->n_tasks; i++)
        task_free(&run->tasks[i]);
    for (size_t i = 0; i < run->n_results; i++)
        task_result_free(&run->results[i]);
    load_free(&run->loaded);
    load_adapt_free(&run->adapt);
    mixture_free(&run->mixture);
    sandbox_close(run->sandbox);
    free(run->data_root);
    free(run->command_line);
    free(run->options);
    free(run);
}

static int check_settings(const struct settings *s, size_t n_args)
{
    if (!s->grade && n_args < 1)
        return error_set("MODEL is missing");
    if (s->grade && n_args > 0)
        return error_set("--grade needs no MODEL: the answers are there already");
    if (!s->grade && s->pass_at > s->samples)
        return error_set("--pass-at %lld needs --samples %lld or more", (long long)s->pass_at,
                         (long long)s->pass_at);
    if (s->samples > 1 && s->temperature == 0)
        return error_set("--samples %lld needs a --temperature above 0: all would be the same",
                         (long long)s->samples);
    return 0;
}

/* How the command was given. */
struct invocation {
    const struct comm *comm;
    int argc;
    char **argv;
    const char *path, *options;
    bool chat_given;
};

/* One adapter, or none; its figures go into the table where there are several. */
static int evaluate_one(const struct invocation *v, const struct settings *s,
                        struct eval_table *table, size_t i)
{
    struct run *run = calloc(1, sizeof *run);
    int rc = -1;

    if (run) {
        run->comm = v->comm;
        run->settings = s;
        run->in_table = table->n_names > 1;
        run->chat = s->load.raw || !s->load.chat ? 0 : v->chat_given ? 1 : -1;
        run->command_line = output_command_line(v->argc, v->argv);
        run->options = strdup(v->options);
    }
    rc = comm_agree(v->comm,
                    run && run->command_line && run->options ? 0 : error_set("out of memory"));
    if (rc == 0)
        rc = evaluate(run, v->path, v->chat_given);
    if (rc == 0 && run->in_table)
        rc = comm_agree(
            v->comm, eval_table_add(table, i, run->loaded.n_trained, run->results, run->n_results));
    if (run)
        run_free(run);
    return rc;
}

static int evaluate_adapters(const struct invocation *v, struct settings *s)
{
    struct eval_table table;
    const char *out = s->out;
    int rc = comm_agree(v->comm, eval_table_begin(&table, s->load.adapter, out));

    for (size_t i = 0; rc == 0 && i < table.n_names; i++) {
        const bool has_own = out && table.n_names > 1;
        char *own = has_own ? eval_table_out(&table, i, out) : NULL;
        rc = comm_agree(v->comm, has_own && !own ? -1 : 0);
        s->load.adapter = eval_table_adapter(&table, i);
        s->out = own ? own : out;
        if (rc == 0 && table.n_names > 1 && v->comm->rank == 0 && !s->quiet)
            fprintf(stderr, "%s\n", table.names[i]);
        if (rc == 0)
            rc = evaluate_one(v, s, &table, i);
        free(own);
    }
    s->out = out;
    if (rc == 0 && table.n_names > 1 && v->comm->rank == 0)
        eval_table_print(&table, stdout);
    eval_table_free(&table);
    return rc;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.load = load_defaults(),
                         .batch = (int64_t)scheduler_defaults().batch,
                         .chunk = (int64_t)scheduler_defaults().chunk,
                         .share_prefix = true,
                         .fewshot = -1,
                         .samples = 1,
                         .top_p = 1};
    struct option_spec table[] = {
        {"tasks", 'T', OPTION_STRING, &s.tasks, "A,B",
         .help = "names of tasks, or paths of .ini files"},
        {"limit", 'l', OPTION_INT, &s.limit, "N", .min = 0, .max = 1e9,
         .help = "the first N items of each task; 0: all"},
        {"split", 0, OPTION_STRING, &s.split, "NAME",
         .help = "train, valid or test (default: as the task says)"},
        {"prompt-file", 0, OPTION_STRING, &s.prompt_file, "FILE",
         .help = "the prompt of all tasks, with {fields}, in place of their own"},
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5",
         .help = "scores, settings and a record of every item, in HDF5"},
        {"data", 0, OPTION_STRING, &s.data, "DIR",
         .help = "folder of the data sets (default: T2_DATA, else t2 in the user's data folder)"},
        LOAD_OPTION_SPECS(s.load),
        LOAD_ADAPTER_SPECS(s.load),
        ADAPT_OPTION_SPECS(s.adapt),
        {"fewshot", 0, OPTION_INT, &s.fewshot, "N", .min = -1, .max = 1000,
         .help = "examples before each question (default: -1, as the task says)"},
        {"max-new", 'n', OPTION_INT, &s.max_new, "N", .min = 0, .max = 1e6,
         .help = "new tokens of an answer at most (default: 0, as the task says)"},
        {"seed", 's', OPTION_INT, &s.seed, "N", .min = 0, .max = 0x1p53,
         .help = "chooses the few-shot examples"},
        {"samples", 0, OPTION_INT, &s.samples, "N", .min = 1, .max = 10000,
         .help = "answers generated for each item; the score is the share that is right"},
        {"pass-at", 0, OPTION_INT, &s.pass_at, "K", .min = 0, .max = 10000,
         .help = "report pass@K, the chance that one of K samples is right (unbiased); 0: no"},
        {"temperature", 0, OPTION_DOUBLE, &s.temperature, "T", .min = 0, .max = 100,
         .help = "of sampled answers; 0: the most likely token"},
        {"top-p", 0, OPTION_DOUBLE, &s.top_p, "P", .min = 0, .max = 1,
         .help = "sample from the most likely tokens with this total probability"},
        {"grade", 0, OPTION_STRING, &s.grade, "FILE.jsonl",
         .help = "grade the answers of this file; no MODEL. Lines have task_id or id, and "
                 "completion or answer"},
        SANDBOX_OPTION_SPECS(s.sandbox),
        {"batch", 'b', OPTION_INT, &s.batch, "N", .min = 1, .max = 1 << 20,
         .help = "requests under way at once on a rank; never changes a score"},
        {"chunk", 0, OPTION_INT, &s.chunk, "N", .min = 1, .max = 1 << 20,
         .help = "tokens in one pass through the model; never changes a score"},
        {"share-prefix", 0, OPTION_FLAG, &s.share_prefix,
         .help = "compute what prompts begin with in common once; never changes a score"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "the rows alone, nothing on stderr"},
        {0}};
    const char *path = NULL;
    size_t n_args;
    bool done;
    int code = COMMAND_OK;

    if (options_parse(&command_eval, table, comm, argc, argv, &path, 1, &n_args, &done) != 0 ||
        (!done &&
         (load_check_options(&s.load, table) != 0 ||
          adapt_check_options(&s.adapt, &s.load, s.tasks) != 0 || check_settings(&s, n_args) != 0)))
        code = command_fail(&command_eval, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;

    const bool chat_given = option_find(table, "chat")->source && s.load.chat;
    char *options = options_record(&command_eval, table);
    const struct invocation invocation = {comm, argc, argv, path, options, chat_given};
    int rc = comm_agree(comm, options ? 0 : error_set("out of memory"));
    if (rc == 0)
        rc = evaluate_adapters(&invocation, &s);
    free(options);
    if (rc != 0)
        code = command_fail(&command_eval, comm, COMMAND_FAILED);
finish:
    options_free(table);
    return code;
}

const struct command command_eval = {
    .name = "eval",
    .summary = "Scores a model on tasks.",
    .arguments = "[MODEL]",
    .details =
        "MODEL is a Hugging Face folder or a GGUF file. Stdout has one row a task: name, score "
        "(a fraction), standard error, items, tokens/s (prompt and new tokens, as if nothing were "
        "shared); the rest goes to stderr. Tasks are INI files, looked for in T2_TASKS, "
        "beside the program and in MODEL/tasks; their data sets lie in T2_DATA (see 't2 data "
        "list'). An item's record is the same for any batch, chunk, thread and rank count. Several "
        "adapters, joined by ',' ('base': none), give one table: adapter, parameters trained, MB, "
        "a score a task, tokens/s; --out FILE.h5 becomes FILE.NAME.h5 for each.\n\n"
        "examples\n"
        "  t2 eval MODEL --tasks arc_easy,sst2 --limit 200\n"
        "  t2 eval MODEL --tasks sst2,mawps --adapter base,svf.h5,lora.h5,peft-folder\n"
        "  mpirun -n 4 t2 eval MODEL --tasks gsm8k --out gsm8k.h5 && t2 inspect gsm8k.h5\n"
        "  t2 eval MODEL --tasks humaneval --samples 10 --temperature 0.8 --pass-at 5\n"
        "  t2 eval --tasks humaneval --grade answers.jsonl",
    .run = command_run,
};

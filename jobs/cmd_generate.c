/* t2 generate: a prompt in, text out; or a file of prompts, spread over the ranks. */
#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/choose_experts.h"
#include "jobs/commands.h"
#include "jobs/load.h"
#include "jobs/load_adapt.h"
#include "jobs/prompts.h"
#include "jobs/stream.h"
#include "model/scheduler.h"
#include "mpi/error.h"
#include "mpi/progress.h"
#include "mpi/share.h"
#include "mpi/text.h"

struct settings {
    struct load_options load;
    struct adapt_options adapt;
    int64_t max_new, top_k, seed, batch, chunk;
    double temperature, top_p;
    const char *batch_file;
    struct option_list stop;
    bool ignore_eos, share_prefix, quiet;
};

/* One answer; text is NULL until it is there. */
struct answer {
    char *text;
    size_t n_prompt, n_generated;
    enum finish finish;
    double mean_logprob;
};

static const char *const finish_names[] = {"scored", "eos", "stop", "length"};

struct run {
    const struct comm *comm; /* the ranks that generate */
    const struct settings *settings;
    const struct loaded *loaded;
    const struct prompts *prompts;
    struct answer *answers;    /* [prompts->n]; this rank's, after gathering all on rank 0 */
    struct tokens *tokens;     /* [prompts->n] */
    const struct adapt *adapt; /* NULL: one model for all prompts */
    int32_t *experts;          /* [prompts->n]: who answers; -1: the base model */
    size_t *order, n_here;     /* the prompts under way: numbers, first to last */
    struct comm_queue queue;   /* of places in `order` */
    struct progress progress;
    size_t n_printed, n_done, n_taken;
    bool streaming; /* one prompt: text is shown as it comes */
    /* The stream decodes a window of the last tokens: ids[from .. seen) are shown already. */
    struct stream stream;
    struct tokens ids;
    size_t from, seen;
    int status; /* of the callbacks that cannot return one */
};

/* ---- requests -------------------------------------------------------------------------------- */

static int encode_prompt(const struct run *run, size_t i, struct tokens *tokens)
{
    const size_t positions = model_get_config(run->loaded->model)->max_positions;
    int rc = load_encode(run->loaded, run->settings->load.system, run->prompts->texts[i], tokens);

    if (rc == 0 && tokens->n == 0)
        rc = error_set("the prompt is empty");
    else if (rc == 0 && tokens->n >= positions)
        rc = error_set("the prompt has %zu tokens, the model takes %zu with the answer: shorten it",
                       tokens->n, positions);
    if (rc != 0 && run->settings->batch_file)
        error_prefix("%s: prompt %zu", run->settings->batch_file, i + 1);
    return rc;
}

/* Before hours of work: can all prompts be taken? Each rank looks at its part. */
static int check_prompts(const struct run *run)
{
    int rc = 0;

    for (size_t i = (size_t)run->comm->rank; rc == 0 && i < run->prompts->n;
         i += (size_t)run->comm->size) {
        struct tokens tokens = {0};
        rc = encode_prompt(run, i, &tokens);
        tokens_free(&tokens);
    }
    return comm_agree(run->comm, rc);
}

static bool fill_request(struct run *run, size_t i, struct request *request)
{
    const struct settings *s = run->settings;
    const size_t positions = model_get_config(run->loaded->model)->max_positions;
    struct tokens *tokens = &run->tokens[i];

    run->status = encode_prompt(run, i, tokens);
    if (run->status != 0)
        return false;
    const size_t room = positions - tokens->n;
    *request = (struct request){
        .tokens = tokens->ids,
        .n_tokens = tokens->n,
        .max_new = s->max_new > 0 && (size_t)s->max_new < room ? (size_t)s->max_new : room,
        .ignore_eos = s->ignore_eos,
        .sampling = {.temperature = (float)s->temperature,
                     .top_k = (int)s->top_k,
                     .top_p = (float)s->top_p,
                     .seed = (uint64_t)s->seed},
        .stream = i,
        .stops = s->stop.items,
        .n_stops = s->stop.n,
        .user = &run->answers[i],
    };
    return true;
}

static bool next_request(void *context, struct request *request)
{
    struct run *run = context;

    if (run->status != 0)
        return false;
    const int64_t i = comm_queue_next(&run->queue);
    if (i >= (int64_t)run->n_here)
        return false;
    return fill_request(run, run->order[i], request);
}

/* ---- showing --------------------------------------------------------------------------------- */

/* Nothing more is computed for an output that takes nothing more. */
static int flush_output(void)
{
    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout))
        return 0;
    return error_set("the standard output cannot be written: %s",
                     errno ? strerror(errno) : "is the disk full?");
}

static void show(struct run *run, const char *bytes, size_t n_bytes)
{
    size_t n_ready;

    if (stream_push(&run->stream, bytes, n_bytes, &n_ready) != 0) {
        run->status = -1;
        return;
    }
    if (n_ready > 0) {
        fwrite(run->stream.held, 1, n_ready, stdout);
        run->status = flush_output();
        stream_take(&run->stream, n_ready);
    }
}

/* What the newest token adds to the text: the decoded window with it less the one without. A
 * window that ends in U+FFFD may end inside a character and waits for more. */
static void take_token(void *context, const struct request *request, int32_t id)
{
    struct run *run = context;
    static const char replacement[] = "\xef\xbf\xbd";
    size_t n_old = 0, n_new = 0;

    (void)request;
    if (run->status != 0)
        return;
    if (tokens_push(&run->ids, id) != 0) {
        run->status = error_set("out of memory");
        return;
    }
    const struct tokenizer *t = run->loaded->tokenizer;
    char *old = tokenizer_decode(t, run->ids.ids + run->from, run->seen - run->from, true, &n_old);
    char *new = tokenizer_decode(t, run->ids.ids + run->from, run->ids.n - run->from, true, &n_new);
    if (!old || !new) {
        run->status = -1;
    } else if (n_new > n_old && (n_new < 3 || memcmp(new + n_new - 3, replacement, 3) != 0)) {
        show(run, new + n_old, n_new - n_old);
        run->from = run->seen;
        run->seen = run->ids.n;
    }
    free(old);
    free(new);
}

/* {"prompt": ..., "text": ...} a line, or the texts with an empty line between them. */
static int print_answer(const struct run *run, size_t i, const struct answer *a)
{
    const struct prompts *prompts = run->prompts;

    if (!prompts->jsonl) {
        printf("%s%s\n", i > 0 ? "\n" : "", a->text);
        return 0;
    }
    json_t *row =
        json_pack("{s:s, s:s, s:s, s:I, s:I, s:f}", "prompt", prompts->texts[i], "text", a->text,
                  "finish", finish_names[a->finish], "prompt_tokens", (json_int_t)a->n_prompt,
                  "new_tokens", (json_int_t)a->n_generated, "mean_logprob", a->mean_logprob);
    if (row && run->adapt)
        json_object_set_new(
            row, "expert",
            json_string(run->experts[i] < 0 ? "base" : run->adapt->names[run->experts[i]]));
    char *text = row ? json_dumps(row, JSON_COMPACT) : NULL;
    json_decref(row);
    if (!text)
        return error_set("answer %zu cannot be written as JSON (its text is no UTF-8)", i + 1);
    puts(text);
    free(text);
    return 0;
}

/* All answers from the first on that are there and not printed. */
static int print_ready(struct run *run)
{
    while (run->n_printed < run->prompts->n && run->answers[run->n_printed].text) {
        if (print_answer(run, run->n_printed, &run->answers[run->n_printed]) != 0)
            return -1;
        run->n_printed++;
    }
    return flush_output();
}

static int take_answer(void *context, const struct request *request,
                       const struct response *response)
{
    struct run *run = context;
    struct answer *a = request->user;
    const size_t i = (size_t)(a - run->answers);

    if (run->status != 0)
        return -1;
    a->text = malloc(response->n_text + 1);
    if (!a->text)
        return error_set("out of memory");
    memcpy(a->text, response->text, response->n_text);
    a->text[response->n_text] = '\0';
    a->n_prompt = request->n_tokens;
    a->n_generated = response->n_ids;
    a->finish = response->finish;
    a->mean_logprob = response->mean_logprob;
    tokens_free(&run->tokens[i]);
    run->n_done++;
    if (run->streaming) {
        const size_t shown =
            run->stream.n_shown < response->n_text ? run->stream.n_shown : response->n_text;
        printf("%s\n", a->text + shown);
        return flush_output();
    }
    /* Of the other ranks' work this one knows what the queue has handed out. */
    if (run->comm->size == 1)
        run->n_taken = run->n_done;
    else if (request->stream + 1 > run->n_taken)
        run->n_taken = request->stream + 1;
    progress_update(&run->progress, run->n_taken, NULL);
    return run->comm->size == 1 ? print_ready(run) : 0;
}

/* ---- gathering ------------------------------------------------------------------------------- */

/* A rank's answers as bytes: index, numbers, text with its NUL, one after another. */
struct packed_answer {
    uint64_t index, n_prompt, n_generated, finish, n_text;
    double mean_logprob;
};

static int pack_answers(const struct run *run, char **bytes, size_t *n_bytes)
{
    FILE *file = open_memstream(bytes, n_bytes);

    if (!file)
        return error_set("out of memory");
    for (size_t i = 0; i < run->prompts->n; i++) {
        const struct answer *a = &run->answers[i];
        if (!a->text)
            continue;
        const struct packed_answer head = {i,         a->n_prompt,     a->n_generated,
                                           a->finish, strlen(a->text), a->mean_logprob};
        fwrite(&head, sizeof head, 1, file);
        fwrite(a->text, 1, head.n_text, file);
    }
    if (fclose(file) != 0 || !*bytes)
        return error_set("out of memory");
    return 0;
}

static int unpack_answers(void *context, const void *data, size_t n_bytes)
{
    struct run *run = context;
    const char *bytes = data;

    for (size_t at = 0; at < n_bytes;) {
        struct packed_answer head;
        memcpy(&head, bytes + at, sizeof head);
        at += sizeof head;
        struct answer *a = &run->answers[head.index];
        free(a->text);
        *a = (struct answer){.text = strndup(bytes + at, head.n_text),
                             .n_prompt = head.n_prompt,
                             .n_generated = head.n_generated,
                             .finish = (enum finish)head.finish,
                             .mean_logprob = head.mean_logprob};
        if (!a->text)
            return error_set("out of memory");
        at += head.n_text;
    }
    return 0;
}

/* Brings all answers to rank 0, which prints them in order. */
static int gather_answers(struct run *run)
{
    char *bytes = NULL;
    size_t n_bytes = 0;
    int rc = comm_agree(run->comm, pack_answers(run, &bytes, &n_bytes));

    if (rc == 0)
        rc = share_collect(run->comm, bytes, n_bytes, unpack_answers, run);
    free(bytes);
    if (rc == 0 && run->comm->rank == 0)
        rc = print_ready(run);
    return rc;
}

/* ---- the run --------------------------------------------------------------------------------- */

static void print_summary(const struct run *run, const struct scheduler_stats *mine)
{
    double sums[3] = {(double)mine->prompt_tokens, (double)mine->generated_tokens, 0};
    double longest[2] = {mine->seconds, mine->first_token_seconds};
    char load[32], total[32], first[32];

    if (run->comm->size > 1) {
        const bool root = run->comm->rank == 0;
        MPI_Reduce(root ? MPI_IN_PLACE : sums, sums, 3, MPI_DOUBLE, MPI_SUM, 0, run->comm->handle);
        MPI_Reduce(root ? MPI_IN_PLACE : longest, longest, 2, MPI_DOUBLE, MPI_MAX, 0,
                   run->comm->handle);
    }
    if (run->comm->rank != 0 || run->settings->quiet)
        return;
    const struct model_options *o = &run->loaded->model_options;
    text_duration(load, sizeof load, run->loaded->seconds);
    text_duration(total, sizeof total, longest[0]);
    text_duration(first, sizeof first, longest[1]);
    if (run->streaming) {
        const double decode = longest[0] - longest[1];
        fprintf(stderr, "prompt: %.0f tokens, %.0f tokens/s", sums[0],
                longest[1] > 0 ? sums[0] / longest[1] : 0);
        if (sums[1] > 1 && decode > 0)
            fprintf(stderr, "; answer: %.0f tokens, %.1f tokens/s", sums[1],
                    (sums[1] - 1) / decode);
        fprintf(stderr, "; loaded in %s, first token after %s more", load, first);
    } else {
        fprintf(stderr, "%zu prompts, %.0f + %.0f tokens in %s, %.1f new tokens/s; loaded in %s",
                run->prompts->n, sums[0], sums[1], total, longest[0] > 0 ? sums[1] / longest[0] : 0,
                load);
    }
    fprintf(stderr, " (%s, %s, %d thread%s%s)\n", run->settings->load.dtype,
            o->device.kind == DEVICE_CUDA ? run->loaded->device : isa_name(o->isa), o->n_threads,
            o->n_threads == 1 ? "" : "s", run->comm->size > 1 ? " a rank" : "");
}

/* Generates for the prompts in run->order. Collective. */
static int run_order(struct run *run, const struct scheduler_options *asked,
                     struct scheduler_stats *stats)
{
    const size_t ranks = (size_t)run->comm->size;
    const size_t share = (run->n_here + ranks - 1) / ranks; /* no rank takes more than its part */
    struct scheduler_options options = *asked;
    struct scheduler_stats mine = {0};
    struct scheduler_client client = {.next = next_request,
                                      .done = take_answer,
                                      .token = run->streaming ? take_token : NULL,
                                      .context = run};

    if (share < options.batch)
        options.batch = share;
    if (comm_queue_create(run->comm, &run->queue) != 0)
        return -1;
    int rc = scheduler_run(run->loaded->model, run->loaded->tokenizer, &options, &client, &mine);
    if (rc == 0)
        rc = run->status;
    rc = comm_agree(run->comm, rc);
    comm_queue_free(&run->queue);
    stats->prompt_tokens += mine.prompt_tokens;
    stats->generated_tokens += mine.generated_tokens;
    if (stats->first_token_seconds == 0)
        stats->first_token_seconds = mine.first_token_seconds;
    stats->seconds += mine.seconds;
    return rc;
}

/* The prompts of one expert after those of another, the base model's first. Collective. */
static int run_by_expert(struct run *run, const struct scheduler_options *options,
                         struct scheduler_stats *stats)
{
    int rc = 0;

    for (int32_t k = -1; rc == 0 && k < (int32_t)run->adapt->n_experts; k++) {
        run->n_here = 0;
        for (size_t i = 0; i < run->prompts->n; i++)
            if (run->experts[i] == k)
                run->order[run->n_here++] = i;
        if (run->n_here == 0)
            continue;
        adapt_attach(run->adapt, run->loaded->model, k);
        rc = run_order(run, options, stats);
    }
    return rc;
}

static int run_generate(struct run *run)
{
    const struct settings *s = run->settings;
    const size_t n = run->prompts->n, ranks = (size_t)run->comm->size;
    struct scheduler_options options = scheduler_defaults();
    struct scheduler_stats stats = {0};
    int rc = 0;

    options.batch = (size_t)s->batch;
    options.chunk = (size_t)s->chunk;
    options.share_prefix = s->share_prefix;
    run->answers = calloc(n, sizeof *run->answers);
    run->tokens = calloc(n, sizeof *run->tokens);
    run->experts = calloc(n, sizeof *run->experts);
    run->order = calloc(n, sizeof *run->order);
    if (!run->answers || !run->tokens || !run->experts || !run->order)
        rc = error_set("out of memory for %zu prompts", n);
    for (size_t i = 0; run->order && i < n; i++)
        run->order[i] = i;
    run->n_here = n;
    if (comm_agree(run->comm, rc) != 0 || check_prompts(run) != 0)
        return -1;
    if (run->adapt && choose_experts(run->comm, run->adapt, run->loaded, run->prompts, &options,
                                     !s->quiet, run->experts) != 0)
        return -1;
    stream_begin(&run->stream, s->stop.items, s->stop.n);
    progress_begin(&run->progress, run->comm, "generate", n, s->quiet || run->streaming);
    rc = run->adapt ? run_by_expert(run, &options, &stats) : run_order(run, &options, &stats);
    progress_end(&run->progress);
    if (rc == 0 && ranks > 1)
        rc = comm_agree(run->comm, gather_answers(run));
    if (rc == 0)
        print_summary(run, &stats);
    return rc;
}

static void free_run(struct run *run)
{
    for (size_t i = 0; i < run->prompts->n; i++) {
        if (run->answers)
            free(run->answers[i].text);
        if (run->tokens)
            tokens_free(&run->tokens[i]);
    }
    free(run->answers);
    free(run->tokens);
    free(run->experts);
    free(run->order);
    tokens_free(&run->ids);
    stream_free(&run->stream);
}

/* Loads and generates on the ranks of `comm`. */
static int generate(const struct comm *comm, const char *path, const struct settings *s,
                    bool chat_asked, const struct prompts *prompts)
{
    struct loaded loaded;
    struct adapt_setup setup;
    struct run run = {.comm = comm,
                      .settings = s,
                      .loaded = &loaded,
                      .prompts = prompts,
                      .streaming = !s->batch_file};
    int rc = load_adapt(comm, path, &s->adapt, &s->load, chat_asked, &loaded, &setup);

    if (rc != 0)
        goto done;
    run.adapt = setup.on ? &setup.adapt : NULL;
    /* A reader that has seen enough (t2 generate ... | head) ends the work. */
    if (comm->size == 1)
        signal(SIGPIPE, SIG_DFL);
    rc = run_generate(&run);
    free_run(&run);
    load_free(&loaded);
done:
    load_adapt_free(&setup);
    return rc;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.load = load_defaults(),
                         .max_new = 128,
                         .top_p = 1,
                         .batch = (int64_t)scheduler_defaults().batch,
                         .chunk = (int64_t)scheduler_defaults().chunk,
                         .share_prefix = true};
    struct option_spec table[] = {
        {"max-new", 'n', OPTION_INT, &s.max_new, "N", .min = 0, .max = 1e9,
         .help = "new tokens at most; 0: until the model ends its answer"},
        {"batch-file", 'f', OPTION_STRING, &s.batch_file, "FILE",
         .help = "one prompt a line, or a .jsonl with a field \"prompt\"; answers in its order, "
                 "ranks share the work"},
        LOAD_OPTION_SPECS(s.load),
        LOAD_ADAPTER_SPECS(s.load),
        ADAPT_OPTION_SPECS(s.adapt),
        {"temperature", 0, OPTION_DOUBLE, &s.temperature, "X", .min = 0, .max = 1e3,
         .help = "sampling temperature; 0: the likeliest token"},
        {"top-k", 0, OPTION_INT, &s.top_k, "K", .min = 0, .max = 1e9,
         .help = "sample among the K likeliest tokens; 0: all"},
        {"top-p", 0, OPTION_DOUBLE, &s.top_p, "P", .min = 0, .max = 1,
         .help = "sample among the likeliest tokens that make up P"},
        {"seed", 's', OPTION_INT, &s.seed, "N", .min = 0, .max = 0x1p53,
         .help = "of the random numbers: the same seed gives the same text, whatever the batch "
                 "and the ranks"},
        {"stop", 0, OPTION_LIST, &s.stop, "TEXT",
         .help = "end before this text; may be given several times"},
        {"ignore-eos", 0, OPTION_FLAG, &s.ignore_eos,
         .help = "go on after the model has ended its answer"},
        {"batch", 'b', OPTION_INT, &s.batch, "N", .min = 1, .max = 1 << 20,
         .help = "answers generated at once by a rank"},
        {"chunk", 0, OPTION_INT, &s.chunk, "N", .min = 1, .max = 1 << 20,
         .help = "tokens in one pass through the model"},
        {"share-prefix", 0, OPTION_FLAG, &s.share_prefix,
         .help = "compute what prompts begin with in common once"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "no progress and no rates on stderr"},
        {0}};
    const char *args[2] = {0};
    struct prompts prompts = {0};
    size_t n_args;
    bool done;
    int code = COMMAND_OK;

    if (options_parse(&command_generate, table, comm, argc, argv, args, 2, &n_args, &done) != 0 ||
        (!done && load_check_options(&s.load, table) != 0) ||
        (!done && adapt_check_options(&s.adapt, &s.load, NULL) != 0) ||
        (!done && (n_args == 2) == (s.batch_file != NULL) &&
         error_set(s.batch_file ? "give a PROMPT or --batch-file, not both"
                                : "PROMPT is missing (\"-\" reads it from the standard input)")))
        code = command_fail(&command_generate, comm, COMMAND_USAGE);
    if (done || code != COMMAND_OK)
        goto finish;

    const bool chat_asked = option_find(table, "chat")->source && s.load.chat;
    int rc;
    if (s.batch_file) {
        rc = prompts_file(comm, s.batch_file, &prompts);
        if (rc == 0)
            rc = generate(comm, args[0], &s, chat_asked, &prompts);
    } else {
        /* One prompt is one rank's work. */
        const struct comm alone = {.handle = MPI_COMM_SELF, .size = 1, .node_size = 1};
        rc = comm->rank == 0 ? prompts_single(&alone, args[1], &prompts) : 0;
        if (rc == 0 && comm->rank == 0)
            rc = generate(&alone, args[0], &s, chat_asked, &prompts);
        rc = comm_agree(comm, rc);
    }
    if (rc != 0)
        code = command_fail(&command_generate, comm, COMMAND_FAILED);
finish:
    prompts_free(&prompts);
    options_free(table);
    return code;
}

const struct command command_generate = {
    .name = "generate",
    .summary = "Answers a prompt, or a file of prompts, with a model's text.",
    .arguments = "MODEL [PROMPT]",
    .details =
        "MODEL is a Hugging Face folder or a GGUF file. The text alone goes to stdout, the rest "
        "to stderr. A .jsonl batch file gives JSON lines with prompt, text, finish (eos, stop or "
        "length), prompt_tokens, new_tokens and mean_logprob.\n\n"
        "examples\n"
        "  t2 generate MODEL \"Why is the sky blue?\" -n 0\n"
        "  t2 generate MODEL \"Once upon a time\" --raw --temperature 0.8 --seed 1\n"
        "  mpirun -n 4 t2 generate MODEL --batch-file prompts.jsonl > answers.jsonl",
    .run = command_run,
};

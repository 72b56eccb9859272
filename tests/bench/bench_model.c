/* bench_model MODEL [--dtype D] [--device D] [--isa LEVEL] [--threads N] [--chunk N]
 *             [--prompt P --decode N --batch B] [--phases 1] [--score SxT] [--load]
 *
 * Times the model alone, on random tokens:
 *   decode   B sequences, P prompt tokens each, N new ones: tokens/s of the new ones, of the
 *            prompts, and the bytes of weights and of keys and values that the steps read, a second
 *   phases   where the steps of that decoding spend their time, and what share of a step the matrix
 *            products alone would take: before every step the products of a whole step are run
 *            alone, so that both sides see the same machine. Medians over the steps.
 *   score    S sequences of T tokens, log-probabilities of all: tokens/s
 *   load     seconds from opening the file to the first token */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "model/model.h"
#include "model/model_internal.h"
#include "model/scheduler.h"
#include "mpi/clock.h"
#include "mpi/error.h"
#include "tests/bench/phases.h"

struct work {
    int32_t *tokens;
    size_t n, length, max_new, n_next;
    bool score;
    double begin, first, last; /* the start, when the first tokens were there, and the last */
    size_t n_tokens;
};

static bool next(void *context, struct request *r)
{
    struct work *w = context;
    if (w->n_next == w->n)
        return false;
    *r = (struct request){.tokens = w->tokens + w->n_next++ * w->length,
                          .n_tokens = w->length,
                          .n_scored = w->score ? w->length - 1 : 0,
                          .max_new = w->max_new,
                          .ignore_eos = true};
    return true;
}

static void token(void *context, const struct request *r, int32_t id)
{
    struct work *w = context;
    (void)r;
    (void)id;
    w->last = clock_seconds();
    if (++w->n_tokens == w->n) /* each sequence has its first: from here on, only decoding */
        w->first = w->last;
}

static int done(void *context, const struct request *r, const struct response *response)
{
    (void)context;
    (void)r;
    (void)response;
    return 0;
}

static int run(struct model *model, struct work *w, const struct scheduler_options *options,
               struct scheduler_stats *stats)
{
    const size_t vocab = model_get_config(model)->vocab_size;
    w->tokens = malloc(w->n * w->length * sizeof *w->tokens);
    srand(1);
    for (size_t i = 0; i < w->n * w->length; i++)
        w->tokens[i] = (int32_t)((size_t)rand() % vocab);
    const struct scheduler_client client = {next, done, token, w};
    w->begin = clock_seconds();
    const int status = scheduler_run(model, NULL, options, &client, stats);
    free(w->tokens);
    return status;
}

/* Of a decoding step, on average: all weights but the embedding's rows that are not used, and the
 * keys and values so far. */
static double step_bytes(const struct model *model, const struct work *w)
{
    const struct model_config *c = model_get_config(model);
    const bool bf16 = model_get_options(model)->element == ELEMENT_BF16;
    const double table = c->tied_embeddings ? 0 : (double)c->vocab_size * (double)c->hidden_size;
    const double weights = (double)model_n_parameters(model) - table;
    const double kv = 2.0 * (double)(c->n_layers * c->n_kv_heads * c->head_dim);

    return (bf16 ? 2 : 4) *
           (weights + (double)w->n * ((double)w->length + 0.5 * (double)w->max_new) * kv);
}

int main(int argc, char **argv)
{
    struct model_options options = {ELEMENT_BF16, cpu_best_isa(), 2, {0}};
    struct scheduler_options scheduling = scheduler_defaults();
    size_t prompt = 64, decode = 0, batch = 1, n_score = 0, score_length = 0;
    bool with_phases = false;

    if (argc < 2) {
        fprintf(stderr, "usage: bench_model MODEL [options]; see the source's head\n");
        return 2;
    }
    for (int i = 2; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--dtype") == 0)
            options.element = strcmp(value, "f32") == 0 ? ELEMENT_F32 : ELEMENT_BF16;
        else if (strcmp(name, "--isa") == 0 && isa_parse(value, &options.isa) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(name, "--device") == 0 && device_parse(value, &options.device) != 0)
            return fprintf(stderr, "%s\n", error_message()), 2;
        else if (strcmp(name, "--threads") == 0)
            options.n_threads = atoi(value);
        else if (strcmp(name, "--chunk") == 0)
            scheduling.chunk = (size_t)atol(value);
        else if (strcmp(name, "--prompt") == 0)
            prompt = (size_t)atol(value);
        else if (strcmp(name, "--decode") == 0)
            decode = (size_t)atol(value);
        else if (strcmp(name, "--batch") == 0)
            batch = (size_t)atol(value);
        else if (strcmp(name, "--phases") == 0)
            with_phases = atoi(value) != 0;
        else if (strcmp(name, "--score") == 0 &&
                 sscanf(value, "%zux%zu", &n_score, &score_length) != 2)
            return 2;
    }
    const double start = clock_seconds();
    struct checkpoint *ck = checkpoint_open(argv[1]);
    struct model *model = ck ? model_load(ck, &options) : NULL;
    checkpoint_free(ck);
    if (!model)
        return fprintf(stderr, "bench_model: %s\n", error_message()), 1;
    printf("load seconds %.3f\n", clock_seconds() - start);
    struct scheduler_stats stats;
    int status = 0;
    if (decode > 0) {
        struct work w = {.n = batch, .length = prompt, .max_new = decode};
        scheduling.batch = batch;
        if (with_phases && phases_begin(model, batch, decode) != 0)
            return fprintf(stderr, "bench_model: no memory\n"), 1;
        status = run(model, &w, &scheduling, &stats);
        if (with_phases)
            phases_end(model);
        printf("decode batch %zu tokens/s %.1f\n", batch,
               (double)(w.n_tokens - w.n) / (w.last - w.first));
        printf("decode batch %zu GB/s %.1f\n", batch,
               step_bytes(model, &w) * (double)(w.n_tokens - w.n) / (double)w.n /
                   (w.last - w.first) / 1e9);
        printf("prompt batch %zu tokens/s %.1f\n", batch,
               (double)(w.n * w.length) / (w.first - w.begin));
        printf("generate batch %zu tokens/s %.1f\n", batch,
               (double)stats.generated_tokens / stats.seconds);
    }
    if (status == 0 && n_score > 0) {
        struct work w = {.n = n_score, .length = score_length, .score = true};
        status = run(model, &w, &scheduling, &stats);
        printf("score %zux%zu tokens/s %.1f\n", n_score, score_length,
               (double)(n_score * score_length) / stats.seconds);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("peak MiB %.0f\n", (double)usage.ru_maxrss / 1024);
    if (status != 0)
        fprintf(stderr, "bench_model: %s\n", error_message());
    model_free(model);
    return status != 0;
}

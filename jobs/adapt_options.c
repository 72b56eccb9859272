#include "jobs/adapt_options.h"

#include <math.h>
#include <string.h>

#include "mpi/error.h"

struct adapt_settings adapt_settings_defaults(void)
{
    const struct search_options o = search_defaults();

    return (struct adapt_settings){
        .load = load_defaults(),
        .method = "cem",
        .per = "expert",
        .mix = "z",
        .objective = "accuracy",
        .weights = "auto",
        .shot_split = "train",
        .test_split = "test",
        .shots = 10,
        .population = (int64_t)o.population,
        .iterations = (int64_t)o.iterations,
        .grid = (int64_t)o.grid,
        .samples = 1,
        .fewshot = -1,
        .test_limit = -1,
        .batch = (int64_t)scheduler_defaults().batch,
        .chunk = (int64_t)scheduler_defaults().chunk,
        .elite = o.elite_ratio,
        .lower = o.lower,
        .upper = o.upper,
        .spread = o.spread,
        .top_p = 1,
        .normalise = true,
        .keep_best = o.keep_best,
    };
}

void adapt_settings_table(struct adapt_settings *settings, struct option_spec table[ADAPT_OPTIONS])
{
#define s (*settings)
    const struct option_spec rows[] = {
        {"experts", 'e', OPTION_STRING, &s.experts, "A.h5,B.h5",
         .help = "experts of t2 train for this model; NAME=FILE gives one another name"},
        {"task", 'T', OPTION_STRING, &s.task, "NAME", .help = "a task's name, or an .ini file"},
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5",
         .help =
             "the mixture, an expert file; FILE.h5.state holds the search until it is finished"},
        {"factors", 'f', OPTION_STRING, &s.factors, "FILE.h5",
         .help = "of t2 decompose (default: those that the experts were trained with)"},
        {"resume", 'r', OPTION_FLAG, &s.resume,
         .help = "go on where an earlier run has stopped; from the start if there was none"},
        {"method", 'm', OPTION_CHOICE, &s.method, .choices = "cem|cmaes|grid|uniform",
         .help =
             "cross-entropy method (the paper's), CMA-ES, all points of a grid (two experts), or "
             "the uniform mixture without a search"},
        {"per", 0, OPTION_CHOICE, &s.per, .choices = "expert|layer|matrix",
         .help = "coefficients: one an expert, or one an expert for each layer or matrix"},
        {"mix", 0, OPTION_CHOICE, &s.mix, .choices = "z|delta|p",
         .help =
             "z' = sum a z (the paper); z' = 1 + sum a (z - 1); p: mixed before the sigmoid (the "
             "published code)"},
        {"normalise", 0, OPTION_FLAG, &s.normalise,
         .help = "divide the coefficients by their sum before they are used"},
        {"shots", 'k', OPTION_INT, &s.shots, "N", .min = 1, .max = 1e6,
         .help = "items that are looked at, drawn by --seed"},
        {"shot-split", 0, OPTION_STRING, &s.shot_split, "NAME",
         .help = "what they are drawn from; items that are shots are no test items"},
        {"objective", 0, OPTION_CHOICE, &s.objective, .choices = "accuracy|likelihood",
         .help =
             "right answers, ties broken by their mean log-likelihood per token (the paper), or "
             "the mean log-likelihood of the right answer, which is smooth and generates "
             "nothing"},
        {"weights", 0, OPTION_CHOICE, &s.weights, .choices = "auto|factored|merged",
         .help =
             "a candidate is another z of the factored form, or merged weights, made by an AXPY "
             "over K + 1 copies: fewer operations a token, more memory; auto: merged where "
             "answers are long and the copies take 4 GiB at most"},
        {"population", 'p', OPTION_INT, &s.population, "N", .min = 1, .max = 4096,
         .help = "candidates of an iteration"},
        {"iterations", 'n', OPTION_INT, &s.iterations, "N", .min = 1, .max = 1e6,
         .help = "iterations at most"},
        {"elite", 0, OPTION_DOUBLE, &s.elite, "X", .min = 0, .max = 1,
         .help = "cem: share of the candidates that the next ones are drawn after"},
        {"lower", 0, OPTION_DOUBLE, &s.lower, "X", .min = -1e3, .max = 1e3,
         .help = "smallest coefficient, before --normalise"},
        {"upper", 0, OPTION_DOUBLE, &s.upper, "X", .min = -1e3, .max = 1e3,
         .help = "largest coefficient, before --normalise"},
        {"spread", 0, OPTION_DOUBLE, &s.spread, "X", .min = 1e-6, .max = 100,
         .help = "first standard deviation, as a share of upper - lower"},
        {"floor", 0, OPTION_DOUBLE, &s.floor, "X", .min = 0, .max = 100,
         .help = "smallest standard deviation"},
        {"smoothing", 0, OPTION_DOUBLE, &s.smoothing, "X", .min = 0, .max = 0.999999,
         .help = "cem: share of the old mean and deviation in the new ones"},
        {"keep-best", 0, OPTION_FLAG, &s.keep_best,
         .help = "the best mixture so far is one of the next candidates"},
        {"grid", 0, OPTION_INT, &s.grid, "N", .min = 2, .max = 1 << 16,
         .help = "grid: points along a side"},
        {"sample", 0, OPTION_INT, &s.sample, "N", .min = 0, .max = 1e6,
         .help = "shots of an iteration, drawn afresh; its best candidates are then run on all; 0: "
                 "all"},
        {"shrink", 0, OPTION_DOUBLE, &s.shrink, "X", .min = 0, .max = 1e6,
         .help = "price of the distance from the base model; 0: none"},
        {"abandon", 0, OPTION_FLAG, &s.abandon,
         .help = "run shots in parts and leave candidates that can no longer be among the best; "
                 "never changes the result"},
        {"samples", 0, OPTION_INT, &s.samples, "N", .min = 1, .max = 10000,
         .help = "answers sampled for a shot, with the same random numbers for every candidate"},
        {"temperature", 0, OPTION_DOUBLE, &s.temperature, "T", .min = 0, .max = 100,
         .help = "of sampled answers; 0: the most likely token"},
        {"top-p", 0, OPTION_DOUBLE, &s.top_p, "P", .min = 0, .max = 1,
         .help = "sample from the most likely tokens with this total probability"},
        {"seed", 's', OPTION_INT, &s.seed, "N", .min = 0, .max = 0x1p53,
         .help = "of the choice of shots, the search, sampled answers"},
        {"fewshot", 0, OPTION_INT, &s.fewshot, "N", .min = -1, .max = 1000,
         .help = "examples before each question (default: -1, as the task says)"},
        {"max-new", 0, OPTION_INT, &s.max_new, "N", .min = 0, .max = 1e6,
         .help = "new tokens of an answer at most (default: 0, as the task says)"},
        {"test-split", 0, OPTION_STRING, &s.test_split, "NAME",
         .help = "what base, experts and mixtures are scored on at the end"},
        {"test-limit", 0, OPTION_INT, &s.test_limit, "N", .min = -1, .max = 1e9,
         .help = "its first N items; -1: all; 0: no test"},
        {"data", 0, OPTION_STRING, &s.data, "DIR",
         .help = "folder of the data sets (default: T2_DATA, else t2 in the user's data folder)"},
        LOAD_OPTION_SPECS(s.load),
        SANDBOX_OPTION_SPECS(s.sandbox),
        {"batch", 'b', OPTION_INT, &s.batch, "N", .min = 1, .max = 1 << 20,
         .help = "requests under way at once on a rank; never changes a score"},
        {"chunk", 0, OPTION_INT, &s.chunk, "N", .min = 1, .max = 1 << 20,
         .help = "tokens in one pass through the model; never changes a score"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "the rows alone, nothing on stderr"},
        {0}};
#undef s
    _Static_assert(sizeof rows / sizeof *rows <= ADAPT_OPTIONS, "the table has room");

    memcpy(table, rows, sizeof rows);
}

static bool given(struct option_spec *table, const char *name)
{
    return option_find(table, name)->source != NULL;
}

static int check_settings(const struct adapt_settings *s, struct option_spec *table)
{
    const bool likelihood = strcmp(s->objective, "likelihood") == 0;
    const bool points = strcmp(s->method, "grid") == 0 || strcmp(s->method, "uniform") == 0;

    if (!s->experts)
        return error_set("--experts is missing: the files to mix, joined by commas");
    if (!s->out)
        return error_set("--out is missing: the file of the mixture to make");
    if (!(s->lower < s->upper))
        return error_set("--lower %g is not below --upper %g", s->lower, s->upper);
    if (s->normalise && s->lower < 0)
        return error_set(
            "--normalise divides by the coefficients' sum, which may be 0 with --lower "
            "%g: use --no-normalise",
            s->lower);
    if (strcmp(s->method, "grid") == 0 && s->normalise &&
        (given(table, "lower") || given(table, "upper")))
        return error_set("a grid of normalised coefficients goes from 0 to 1: --lower and --upper "
                         "have no meaning");
    if (s->samples > 1 && s->temperature == 0)
        return error_set("--samples %lld needs a --temperature above 0: all would be the same",
                         (long long)s->samples);
    if (likelihood && (given(table, "samples") || given(table, "temperature")))
        return error_set("--objective likelihood generates no answers: --samples and --temperature "
                         "have no meaning");
    if (s->abandon && (likelihood || s->shrink > 0))
        return error_set("--abandon counts right answers: it has no meaning with --objective "
                         "likelihood or --shrink");
    if (strcmp(s->mix, "p") == 0 && strcmp(s->weights, "merged") == 0)
        return error_set("--mix p is not linear in the weights: it needs --weights factored");
    if (s->sample >= s->shots && s->sample > 0)
        return error_set("--sample %lld takes all of --shots %lld: leave it out",
                         (long long)s->sample, (long long)s->shots);
    if (points && (s->sample > 0 || s->abandon))
        return error_set("--%s saves work where the best candidates make the next ones: it has no "
                         "meaning with --method %s",
                         s->sample > 0 ? "sample" : "abandon", s->method);
    if (s->top_p == 0)
        return error_set("--top-p 0 leaves no token to sample");
    return 0;
}

int adapt_settings_read(const struct adapt_settings *s, struct option_spec *table,
                        struct fewshot_options *o, enum population_objective *objective)
{
    static const char *const methods[] = {"cem", "cmaes", "grid"};
    size_t method = 0;

    if (check_settings(s, table) != 0)
        return -1;
    while (method < 3 && strcmp(s->method, methods[method]) != 0)
        method++;
    *objective =
        strcmp(s->objective, "likelihood") == 0 ? POPULATION_LIKELIHOOD : POPULATION_ACCURACY;
    *o = (struct fewshot_options){
        .search = {.method = (enum search_method)method,
                   .population = (size_t)s->population,
                   .iterations = (size_t)s->iterations,
                   .lower = s->lower,
                   .upper = s->upper,
                   .elite_ratio = s->elite,
                   .spread = s->spread,
                   .floor = s->floor,
                   .smoothing = s->smoothing,
                   .keep_best = s->keep_best,
                   .grid = (size_t)s->grid,
                   .seed = (uint64_t)s->seed},
        .mix = strcmp(s->mix, "z") == 0       ? EXPERT_MIX_Z
               : strcmp(s->mix, "delta") == 0 ? EXPERT_MIX_DELTA
                                              : EXPERT_MIX_P,
        .per = strcmp(s->per, "expert") == 0  ? EXPERT_PER_EXPERT
               : strcmp(s->per, "layer") == 0 ? EXPERT_PER_LAYER
                                              : EXPERT_PER_MATRIX,
        .normalise = s->normalise,
        .sample = (size_t)s->sample,
        .shrink = s->shrink,
        .abandon = s->abandon,
    };
    return 0;
}

int adapt_settings_suit(const struct adapt_settings *s, const struct expert_set *set)
{
    if (set->n == 1 && s->normalise && strcmp(s->method, "uniform") != 0)
        return error_set("one expert normalised is that expert, and there is nothing to search: "
                         "give several, or --no-normalise");
    return 0;
}

bool adapt_settings_merge(const struct adapt_settings *s, const struct task *task,
                          const struct expert_set *set, enum element element)
{
    enum { LONG_ANSWER = 16 };
    const size_t max_new = s->max_new > 0 ? (size_t)s->max_new : task->max_new;

    if (strcmp(s->weights, "auto") != 0)
        return strcmp(s->weights, "merged") == 0;
    return task->score == TASK_GENERATE && strcmp(s->objective, "accuracy") == 0 &&
           max_new >= LONG_ANSWER && strcmp(s->mix, "p") != 0 &&
           weight_mix_bytes(set, element) <= (size_t)4 << 30;
}

char *adapt_settings_text(const struct option_spec *table)
{
    /* Not these: where things lie, what is shown, how the work is shared, and what comes after the
     * search. isa and device stand in the text as what was chosen. */
    static const char *const others[] = {
        "experts",    "task",    "out",        "factors", "resume", "data",           "isa",
        "device",     "threads", "test-split", "python",  "batch",  "unsafe-sandbox", "chunk",
        "test-limit", "quiet",   "abandon",    NULL};

    return options_settings(table, others);
}

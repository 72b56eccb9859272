#include "jobs/train_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/commands.h"
#include "mpi/error.h"

struct train_settings train_settings_defaults(void)
{
    const struct train_options o = train_defaults();

    return (struct train_settings){
        .load = load_defaults(),
        .modules = "mlp",
        .adapter = "svf",
        .parametrisation = "direct",
        .experts = "ehs",
        .chart = "ball",
        .router = "matrix",
        .router_hidden = 5,
        .routing = "soft",
        .curvature = 0.5,
        .most_curved = 1,
        .curvature_penalty = 1e-3,
        .objective = "reinforce",
        .baseline = "none",
        .kl_form = "forward",
        .schedule = "constant",
        .guard = "warn",
        .train_split = o.train_split,
        .valid_split = o.valid_split,
        .test_split = "test",
        .batch = (int64_t)o.batch,
        .steps = (int64_t)o.steps,
        .answers = (int64_t)o.n_answers,
        .shard = (int64_t)o.shard,
        .fewshot = -1,
        .inner_steps = (int64_t)o.inner_steps,
        .valid_limit = (int64_t)o.n_valid,
        .max_rows = (int64_t)o.max_rows,
        .plan_tokens = 64,
        .temperature = o.sampling.temperature,
        .top_p = o.sampling.top_p,
        .reward_right = o.reward_right,
        .reward_wrong = o.reward_wrong,
        .rate = o.adam.rate,
        .beta1 = o.adam.beta1,
        .beta2 = o.adam.beta2,
        .epsilon = o.adam.epsilon,
        .clip_norm = o.clip_norm,
        .loss_eos = o.eos_in_loss,
    };
}

void train_settings_table(struct train_settings *settings, struct option_spec table[TRAIN_OPTIONS])
{
#define s (*settings)
    const struct option_spec rows[] = {
        {"task", 'T', OPTION_STRING, &s.task, "NAME", .help = "a task's name, or an .ini file"},
        {"domains", 0, OPTION_STRING, &s.domains, "FILE.ini",
         .help = "of the task cls (default: adapt.ini in MODEL, else t2's)"},
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5",
         .help = "the expert; FILE.h5.state holds the training until it is finished"},
        {"adapter", 'a', OPTION_CHOICE, &s.adapter, .choices = "svf|lora|dora|ia3|moslora",
         .help = "what is trained; sets the defaults of --modules, --objective, --rate, "
                 "--clip-norm and --steps"},
        {"factors", 'f', OPTION_STRING, &s.factors, "FILE.h5",
         .help = "svf: of t2 decompose (default: made first, as OUT with .factors.h5)"},
        {"resume", 'r', OPTION_FLAG, &s.resume,
         .help = "go on where an earlier run has stopped; from the start if there was none"},
        {"modules", 'm', OPTION_STRING, &s.modules, "WHAT",
         .help =
             "mlp, attention, qv, all, a projection (down_proj), several joined by '+', or "
             "re:PATTERN, searched in 'layers.7.mlp.down_proj' (default: as the adapter has it)"},
        {"layers", 0, OPTION_STRING, &s.layers, "LIST",
         .help = "such as 0-15 or 3,5,7 or 0-31/2 (default: all)"},
        {"rank", 0, OPTION_INT, &s.rank, "N", .min = 0, .max = 1 << 20,
         .help = "of low-rank matrices (default: as the adapter has it)"},
        {"alpha", 0, OPTION_DOUBLE, &s.alpha, "X", .min = 0, .max = 1e6,
         .help = "low-rank parts count alpha / rank (default: as the adapter has it)"},
        {"dropout", 0, OPTION_DOUBLE, &s.dropout, "P", .min = 0, .max = 0.99,
         .help = "of the inputs of low-rank parts, where answers are given (default: as the "
                 "adapter has it)"},
        {"experts", 0, OPTION_STRING, &s.experts, "LETTERS",
         .help = "moslora: two or more of e (euclidean), h (hyperbolic), s (spherical) and p "
                 "(product of the three)"},
        {"chart", 0, OPTION_CHOICE, &s.chart, .choices = "ball|lorentz",
         .help = "moslora: of the hyperbolic expert: the Poincare ball or the hyperboloid"},
        {"router", 0, OPTION_CHOICE, &s.router, .choices = "matrix|layer",
         .help = "moslora: one for each matrix, or one for those that read the same input"},
        {"router-hidden", 0, OPTION_INT, &s.router_hidden, "N", .min = 1, .max = 64,
         .help = "moslora: hidden units of a router"},
        {"routing", 0, OPTION_CHOICE, &s.routing, .choices = "soft|top1",
         .help = "moslora: all experts weighted, or the likeliest alone"},
        {"shared-a", 0, OPTION_FLAG, &s.shared_a, .help = "moslora: one A for all experts"},
        {"curvature", 0, OPTION_DOUBLE, &s.curvature, "X", .min = 0, .max = 2,
         .help = "moslora: of the curved experts at the start (the hyperbolic one's is -X)"},
        {"fixed-curvature", 0, OPTION_FLAG, &s.fixed_curvature,
         .help = "moslora: curvatures stay as they start"},
        {"most-curved", 0, OPTION_DOUBLE, &s.most_curved, "X", .min = 0, .max = 2,
         .help = "moslora: learned curvatures stay below X"},
        {"curvature-penalty", 0, OPTION_DOUBLE, &s.curvature_penalty, "X", .min = 0, .max = 1e6,
         .help = "moslora: weight of the penalty that holds curvatures near their start"},
        {"parametrisation", 0, OPTION_CHOICE, &s.parametrisation, .choices = "direct|sigmoid",
         .help = "svf: direct: z itself, from 1 (the paper); sigmoid: the published code's"},
        {"objective", 0, OPTION_CHOICE, &s.objective, .choices = "reinforce|next-token",
         .help = "reward of the model's own answers, or likelihood of the right ones (default: as "
                 "the adapter has it)"},
        {"batch", 'b', OPTION_INT, &s.batch, "N", .min = 1, .max = 1 << 20,
         .help = "prompts of a step"},
        {"steps", 'n', OPTION_INT, &s.steps, "N", .min = 1, .max = 1e9,
         .help = "steps (default: as the adapter has it)"},
        {"answers", 'g', OPTION_INT, &s.answers, "G", .min = 1, .max = 1024,
         .help = "answers sampled for a prompt"},
        {"seed", 's', OPTION_INT, &s.seed, "N", .min = 0, .max = 0x1p53,
         .help = "of the order of examples, of sampling, of sigmoid's start"},
        {"rate", 0, OPTION_DOUBLE, &s.rate, "X", .min = 0, .max = 1e3,
         .help = "AdamW's learning rate (default: as the adapter has it)"},
        {"beta1", 0, OPTION_DOUBLE, &s.beta1, "X", .min = 0, .max = 0.9999999,
         .help = "AdamW's decay of the first moment"},
        {"beta2", 0, OPTION_DOUBLE, &s.beta2, "X", .min = 0, .max = 0.9999999,
         .help = "AdamW's decay of the second moment"},
        {"epsilon", 0, OPTION_DOUBLE, &s.epsilon, "X", .min = 1e-30, .max = 1,
         .help = "AdamW's epsilon"},
        {"weight-decay", 0, OPTION_DOUBLE, &s.weight_decay, "X", .min = 0, .max = 1e3,
         .help = "AdamW's, towards the start (svf: z = 1)"},
        {"schedule", 0, OPTION_CHOICE, &s.schedule, .choices = "constant|linear|cosine",
         .help = "of the learning rate; the last two end at 0"},
        {"warmup", 0, OPTION_INT, &s.warmup, "N", .min = 0, .max = 1e9,
         .help = "steps in which the rate grows from 0"},
        {"clip-norm", 0, OPTION_DOUBLE, &s.clip_norm, "X", .min = 0, .max = INFINITY,
         .help = "longest gradient, as the paper's clip max norm; 0: none (default: as the adapter "
                 "has it)"},
        {"clip-max", 0, OPTION_DOUBLE, &s.clip_max, "X", .min = 0, .max = INFINITY,
         .help = "largest element of the gradient, which is scaled; 0: none"},
        {"kl", 0, OPTION_DOUBLE, &s.kl, "X", .min = 0, .max = 1e6,
         .help = "weight of the KL divergence from the base model"},
        {"kl-form", 0, OPTION_CHOICE, &s.kl_form, .choices = "forward|reverse|k1|k3",
         .help =
             "forward: KL(base || model), the published code's; reverse: KL(model || base), both "
             "exact over the vocabulary; k1, k3: reverse, estimated on the sampled tokens"},
        {"reward-right", 0, OPTION_DOUBLE, &s.reward_right, "X", .min = -1e6, .max = 1e6,
         .help = "reward of a right answer"},
        {"reward-wrong", 0, OPTION_DOUBLE, &s.reward_wrong, "X", .min = -1e6, .max = 1e6,
         .help = "reward of a wrong answer"},
        {"baseline", 0, OPTION_CHOICE, &s.baseline, .choices = "none|mean|rloo|grpo",
         .help = "what is taken from the reward: nothing, the batch's mean, the mean of the "
                 "prompt's other answers; grpo: the prompt's mean, divided by its deviation"},
        {"clip-ratio", 0, OPTION_DOUBLE, &s.clip_ratio, "X", .min = 0, .max = 100,
         .help = "PPO's clip range of p/p_old; 0: none"},
        {"inner-steps", 0, OPTION_INT, &s.inner_steps, "N", .min = 1, .max = 1000,
         .help = "optimizer steps on the answers of one step"},
        {"temperature", 0, OPTION_DOUBLE, &s.temperature, "X", .min = 0, .max = 1e3,
         .help = "of the sampled answers; 0: greedy"},
        {"top-k", 0, OPTION_INT, &s.top_k, "K", .min = 0, .max = 1e9,
         .help = "sample among the K likeliest tokens; 0: all"},
        {"top-p", 0, OPTION_DOUBLE, &s.top_p, "P", .min = 0, .max = 1,
         .help = "sample among the likeliest tokens that make up P"},
        {"greedy", 0, OPTION_FLAG, &s.greedy, .help = "the same as --temperature 0"},
        {"max-new", 0, OPTION_INT, &s.max_new, "N", .min = 0, .max = 1e6,
         .help = "new tokens of an answer at most (default: 0, as the task says)"},
        {"loss-eos", 0, OPTION_FLAG, &s.loss_eos,
         .help = "the end-of-text token that ends an answer is part of the loss"},
        {"train-split", 0, OPTION_STRING, &s.train_split, "NAME", .help = "what is trained on"},
        {"train-limit", 0, OPTION_INT, &s.train_limit, "N", .min = 0, .max = 1e9,
         .help = "its first N items; 0: all"},
        {"valid-split", 0, OPTION_STRING, &s.valid_split, "NAME",
         .help = "what the best step is chosen on"},
        {"valid-limit", 0, OPTION_INT, &s.valid_limit, "N", .min = 0, .max = 1e9,
         .help = "its first N items; 0: all"},
        {"validate-every", 0, OPTION_INT, &s.validate_every, "N", .min = 0, .max = 1e9,
         .help = "steps between validations; 0: none, and the last step is the result"},
        {"patience", 0, OPTION_INT, &s.patience, "N", .min = 0, .max = 1e9,
         .help = "stop after N validations without a better score; 0: never"},
        {"test-split", 0, OPTION_STRING, &s.test_split, "NAME",
         .help = "what is scored at the end, before and after the training"},
        {"test-limit", 0, OPTION_INT, &s.test_limit, "N", .min = -1, .max = 1e9,
         .help = "its first N items; -1: all; 0: no test"},
        {"guard", 0, OPTION_CHOICE, &s.guard, .choices = "off|warn|rollback",
         .help = "when the answers collapse into one or validation falls below the base model: "
                 "warn, or go back to the best state with half the rate"},
        {"fewshot", 0, OPTION_INT, &s.fewshot, "N", .min = -1, .max = 1000,
         .help = "examples before each question (default: -1, as the task says)"},
        {"checkpoint-every", 0, OPTION_INT, &s.checkpoint_every, "N", .min = 0, .max = 1e9,
         .help = "steps between checkpoints; 0: as often as costs no more than 2 % of the time"},
        {"shard", 0, OPTION_INT, &s.shard, "N", .min = 1, .max = 1 << 20,
         .help = "prompts that a rank takes at once; part of what decides the bits"},
        {"max-rows", 0, OPTION_INT, &s.max_rows, "N", .min = 16, .max = 1 << 24,
         .help = "tokens that go forward and backward together; more take more memory"},
        {"recompute", 0, OPTION_FLAG, &s.recompute,
         .help = "keep each layer's input alone and compute layers again on the way back"},
        {"data", 0, OPTION_STRING, &s.data, "DIR",
         .help = "folder of the data sets (default: T2_DATA, else t2 in the user's data folder)"},
        {"live", 0, OPTION_STRING, &s.live, "FILE|off",
         .help = "the curve for t2 watch and h5py while it runs (default: OUT with .live.h5)"},
        {"rollout-log", 0, OPTION_STRING, &s.rollout_log, "FILE",
         .help = "every answer with its reward, as JSON lines"},
        LOAD_OPTION_SPECS(s.load),
        SANDBOX_OPTION_SPECS(s.sandbox),
        {"plan", 'p', OPTION_FLAG, &s.plan,
         .help =
             "show parameters, memory and the time of a step on 1 to 512 ranks; trains nothing"},
        {"model-shape", 0, OPTION_STRING, &s.shape, "NAME",
         .help = "plan for a known model, such as llama3-8b, without its files"},
        {"plan-tokens", 0, OPTION_INT, &s.plan_tokens, "N", .min = 1, .max = 1e6,
         .help = "tokens of a prompt and its answers that a plan counts with"},
        {"quiet", 'q', OPTION_FLAG, &s.quiet, .help = "the row alone, nothing on stderr"},
        {0}};
#undef s
    _Static_assert(sizeof rows / sizeof *rows <= TRAIN_OPTIONS, "the table has room");

    memcpy(table, rows, sizeof rows);
}

static enum train_guard guard_parse(const char *name)
{
    return strcmp(name, "off") == 0    ? GUARD_OFF
           : strcmp(name, "warn") == 0 ? GUARD_WARN
                                       : GUARD_ROLLBACK;
}

static bool given(struct option_spec *table, const char *name)
{
    return option_find(table, name)->source != NULL;
}

/* Options that only REINFORCE knows. */
static int check_next_token(struct option_spec *table)
{
    static const char *const names[] = {"answers",    "baseline",    "reward-right", "reward-wrong",
                                        "clip-ratio", "inner-steps", "temperature",  "top-k",
                                        "top-p",      "greedy",      "rollout-log"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (given(table, names[i]))
            return error_set("--%s has no meaning with --objective next-token, which samples no "
                             "answers",
                             names[i]);
    return 0;
}

static int check_settings(const struct train_settings *s, struct option_spec *table,
                          const char *model)
{
    const bool grouped = strcmp(s->baseline, "rloo") == 0 || strcmp(s->baseline, "grpo") == 0;

    if (s->shape && !s->plan)
        return error_set("--model-shape is for --plan; a run needs MODEL");
    if (s->shape && model)
        return error_set("give MODEL or --model-shape, not both");
    if (!s->shape && !model)
        return error_set("MODEL is missing (usage: t2 train MODEL --task NAME --out FILE.h5)");
    if (!s->plan && !s->out)
        return error_set("--out is missing: the expert file to make");
    if (strcmp(s->objective, "next-token") == 0 && check_next_token(table) != 0)
        return -1;
    if (grouped && s->answers < 2)
        return error_set("--baseline %s compares a prompt's answers: it needs --answers 2 or more",
                         s->baseline);
    if (s->greedy && given(table, "temperature") && s->temperature != 0)
        return error_set("--greedy and --temperature %g exclude each other", s->temperature);
    if ((s->greedy || s->temperature == 0) && s->answers > 1)
        return error_set("greedy answers to a prompt are all the same: --answers %lld needs a "
                         "--temperature",
                         (long long)s->answers);
    if (s->inner_steps > 1 && s->clip_ratio == 0 && given(table, "clip-ratio"))
        return 0; /* asked for: unclipped inner steps */
    if (s->clip_ratio > 0 && s->inner_steps == 1)
        return error_set("--clip-ratio bounds what --inner-steps after the first may do: it needs "
                         "--inner-steps 2 or more");
    if (s->kl == 0 && given(table, "kl-form"))
        return error_set("--kl-form has no meaning without --kl");
    if (s->patience > 0 && s->validate_every == 0)
        return error_set("--patience counts validations: it needs --validate-every");
    if (s->warmup > s->steps)
        return error_set("--warmup %lld is longer than the run's %lld steps", (long long)s->warmup,
                         (long long)s->steps);
    if (s->top_p == 0)
        return error_set("--top-p 0 leaves no token to sample");
    return 0;
}

/* A setting that the kind does not use must be as if it had not been given; a recorded recipe names
 * them all. */
static int check_adapter_options(const struct train_settings *s, struct option_spec *table,
                                 const struct adapter_kind *kind)
{
    const struct {
        const char *name;
        bool is_set;
    } options[] = {{"rank", s->rank != 0},
                   {"alpha", s->alpha != 0},
                   {"dropout", s->dropout != 0},
                   {"parametrisation", strcmp(s->parametrisation, "direct") != 0},
                   {"experts", strcmp(s->experts, "ehs") != 0},
                   {"chart", strcmp(s->chart, "ball") != 0},
                   {"router", strcmp(s->router, "matrix") != 0},
                   {"router-hidden", s->router_hidden != 5},
                   {"routing", strcmp(s->routing, "soft") != 0},
                   {"shared-a", s->shared_a},
                   {"curvature", s->curvature != 0.5},
                   {"fixed-curvature", s->fixed_curvature},
                   {"most-curved", s->most_curved != 1},
                   {"curvature-penalty", s->curvature_penalty != 1e-3}};

    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        if (options[i].is_set && given(table, options[i].name) &&
            !adapter_kind_uses(kind, options[i].name))
            return error_set("--%s has no meaning with --adapter %s", options[i].name, kind->name);
    if (given(table, "factors") && !kind->needs_factors)
        return error_set("--factors has no meaning with --adapter %s", kind->name);
    return 0;
}

static void read_moslora(const struct train_settings *s, struct adapter_settings *a)
{
    snprintf(a->experts, sizeof a->experts, "%s", s->experts);
    snprintf(a->chart, sizeof a->chart, "%s", s->chart);
    snprintf(a->router, sizeof a->router, "%s", s->router);
    snprintf(a->routing, sizeof a->routing, "%s", s->routing);
    a->router_hidden = (size_t)s->router_hidden;
    a->shared_a = s->shared_a;
    a->fixed_curvature = s->fixed_curvature;
    a->curvature = s->curvature;
    a->most_curved = s->most_curved;
    a->curvature_penalty = s->curvature_penalty;
}

static void set_defaults(struct train_settings *s, struct option_spec *table,
                         const struct adapter_kind *kind)
{
    if (!given(table, "modules"))
        s->modules = kind->modules;
    if (!given(table, "objective"))
        s->objective = kind->objective;
    if (!given(table, "steps"))
        s->steps = (int64_t)kind->steps;
    if (!given(table, "rate"))
        s->rate = kind->rate;
    if (!given(table, "clip-norm"))
        s->clip_norm = kind->clip_norm;
    if (!given(table, "rank"))
        s->rank = (int64_t)kind->defaults.rank;
    if (!given(table, "alpha"))
        s->alpha = kind->defaults.alpha;
    if (!given(table, "dropout"))
        s->dropout = kind->defaults.dropout;
}

int train_settings_read(struct train_settings *s, struct option_spec *table, const char *model,
                        struct train_options *o, const struct adapter_kind **kind,
                        struct adapter_settings *adapter)
{
    if (!(*kind = adapter_kind_find(s->adapter)) || check_adapter_options(s, table, *kind) != 0)
        return -1;
    set_defaults(s, table, *kind);
    if (check_settings(s, table, model) != 0)
        return -1;
    *adapter = (*kind)->defaults;
    adapter->rank = (size_t)s->rank;
    adapter->alpha = s->alpha;
    adapter->dropout = s->dropout;
    snprintf(adapter->parametrisation, sizeof adapter->parametrisation, "%s", s->parametrisation);
    read_moslora(s, adapter);
    if (adapter_kind_check(*kind, adapter, NULL, 0) != 0) /* before a model is loaded */
        return -1;
    *o = train_defaults();
    o->objective = strcmp(s->objective, "next-token") == 0 ? TRAIN_NEXT_TOKEN : TRAIN_REINFORCE;
    o->batch = (size_t)s->batch;
    o->steps = (size_t)s->steps;
    o->n_answers = (size_t)s->answers;
    o->shard = (size_t)s->shard;
    o->seed = (uint64_t)s->seed;
    o->sampling.temperature = s->greedy ? 0 : (float)s->temperature;
    o->sampling.top_k = (int)s->top_k;
    o->sampling.top_p = (float)s->top_p;
    o->max_new = (size_t)s->max_new;
    o->reward_right = s->reward_right;
    o->reward_wrong = s->reward_wrong;
    o->kl = s->kl;
    o->clip_ratio = s->clip_ratio;
    o->inner_steps = (size_t)s->inner_steps;
    o->eos_in_loss = s->loss_eos;
    o->adam = (struct adam_options){s->rate, s->beta1, s->beta2, s->epsilon, s->weight_decay};
    o->warmup = (size_t)s->warmup;
    o->clip_norm = s->clip_norm;
    o->clip_max = s->clip_max;
    o->train_split = s->train_split;
    o->valid_split = s->valid_split;
    o->train_limit = (size_t)s->train_limit;
    o->validate_every = (size_t)s->validate_every;
    o->n_valid = (size_t)s->valid_limit;
    o->patience = (size_t)s->patience;
    o->guard = guard_parse(s->guard);
    o->checkpoint_every = (size_t)s->checkpoint_every;
    o->max_rows = (size_t)s->max_rows;
    o->recompute = s->recompute;
    o->rollout_log = s->rollout_log;
    if (baseline_parse(s->baseline, &o->baseline) != 0 ||
        kl_form_parse(s->kl_form, &o->kl_form) != 0 ||
        schedule_parse(s->schedule, &o->schedule) != 0)
        return -1;
    return 0;
}

char *train_settings_text(const struct option_spec *table)
{
    /* Not these: where things lie, what is shown, how the work is shared, and what comes after the
     * training. `recompute` gives the same bits; isa and device stand in the text as what was
     * chosen. */
    static const char *const others[] = {"task",      "domains",     "out",
                                         "factors",   "resume",      "checkpoint-every",
                                         "data",      "rollout-log", "live",
                                         "isa",       "device",      "threads",
                                         "plan",      "model-shape", "plan-tokens",
                                         "quiet",     "test-split",  "test-limit",
                                         "recompute", "python",      "unsafe-sandbox",
                                         NULL};

    return options_settings(table, others);
}

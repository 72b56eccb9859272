#ifndef T2_JOBS_TRAIN_OPTIONS_H
#define T2_JOBS_TRAIN_OPTIONS_H
/* The options of t2 train: the table's variables, what they mean for the trainer, and the text that
 * says which of them decide a run's numbers. */
#include "jobs/load.h"
#include "jobs/load_sandbox.h"
#include "jobs/options.h"
#include "model/adapter_kinds.h"
#include "train/trainer.h"

struct train_settings {
    struct load_options load;
    struct sandbox_settings sandbox;
    const char *factors, *task, *domains, *out, *data, *modules, *layers, *adapter,
        *parametrisation;
    const char *objective, *baseline, *kl_form, *schedule, *guard, *shape;
    const char *train_split, *valid_split, *test_split, *rollout_log, *live;
    int64_t batch, steps, answers, shard, seed, max_new, fewshot, top_k, inner_steps, warmup;
    int64_t train_limit, valid_limit, test_limit, validate_every, patience, checkpoint_every;
    int64_t max_rows, plan_tokens, rank;
    int64_t router_hidden;
    const char *experts, *chart, *router, *routing;
    double alpha, dropout, curvature, most_curved, curvature_penalty;
    double temperature, top_p, reward_right, reward_wrong, kl, clip_ratio;
    double rate, beta1, beta2, epsilon, weight_decay, clip_norm, clip_max;
    bool shared_a, fixed_curvature;
    bool greedy, loss_eos, recompute, resume, plan, quiet;
};
struct train_settings train_settings_defaults(void);

/* The table for these settings, ending in {0}; room for TRAIN_OPTIONS rows. */
enum { TRAIN_OPTIONS = 112 };
void train_settings_table(struct train_settings *settings, struct option_spec table[TRAIN_OPTIONS]);

/* Checks that go over single values, and the trainer's options and the adapter's. What was not
 * given gets its adapter's default first, so that the table is what is recorded. model: NULL with
 * --model-shape. 0, or -1 with error_set (a mistake in the command line). */
int train_settings_read(struct train_settings *settings, struct option_spec *table,
                        const char *model, struct train_options *options,
                        const struct adapter_kind **kind, struct adapter_settings *adapter);

/* One "name = value" line for each option that decides the numbers, as chosen (no paths, nothing
 * about ranks, threads or what is shown). Malloc'ed; NULL when out of memory. */
char *train_settings_text(const struct option_spec *table);

#endif

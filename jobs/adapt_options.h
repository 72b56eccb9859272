#ifndef T2_JOBS_ADAPT_OPTIONS_H
#define T2_JOBS_ADAPT_OPTIONS_H
/* The options of t2 adapt: the table's variables, what they mean for the search, and the text that
 * says which of them decide a run's numbers. */
#include "eval/fewshot.h"
#include "jobs/load.h"
#include "jobs/load_sandbox.h"
#include "jobs/options.h"

struct adapt_settings {
    struct load_options load;
    struct sandbox_settings sandbox;
    const char *experts, *factors, *task, *out, *data;
    const char *method, *per, *mix, *objective, *weights, *shot_split, *test_split;
    int64_t shots, sample, population, iterations, grid, samples, seed;
    int64_t fewshot, max_new, test_limit, batch, chunk;
    double elite, lower, upper, spread, floor, smoothing, shrink, temperature, top_p;
    bool normalise, keep_best, abandon, resume, quiet;
};
struct adapt_settings adapt_settings_defaults(void);

/* The table for these settings, ending in {0}; room for ADAPT_OPTIONS rows. */
enum { ADAPT_OPTIONS = 56 };
void adapt_settings_table(struct adapt_settings *settings, struct option_spec table[ADAPT_OPTIONS]);

/* Checks that go over single values, and the search's options. 0, or -1 with error_set (a mistake
 * in the command line). */
int adapt_settings_read(const struct adapt_settings *settings, struct option_spec *table,
                        struct fewshot_options *options, enum population_objective *objective);

/* Does the search have anything to find with these experts? 0, or -1 with error_set. */
int adapt_settings_suit(const struct adapt_settings *settings, const struct expert_set *set);

/* Are candidates merged weights (model/weight_mix.h), or the factored form with another z? As
 * --weights says; auto: merged where answers of 16 tokens or more may be generated and the copies
 * take at most 4 GiB. A token costs less then and a candidate more. Depends on the options, the
 * task and the model alone, so it is the same on any machine. */
bool adapt_settings_merge(const struct adapt_settings *settings, const struct task *task,
                          const struct expert_set *set, enum element element);

/* One "name = value" line for each option that decides the numbers. Malloc'ed; NULL when out of
 * memory. */
char *adapt_settings_text(const struct option_spec *table);

#endif

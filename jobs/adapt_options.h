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
    const char *method, *per, *mix, *objective, *shot_split, *test_split;
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

/* One "name = value" line for each option that decides the numbers. Malloc'ed; NULL when out of
 * memory. */
char *adapt_settings_text(const struct option_spec *table);

#endif

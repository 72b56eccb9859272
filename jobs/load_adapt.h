#ifndef T2_JOBS_LOAD_ADAPT_H
#define T2_JOBS_LOAD_ADAPT_H
/* A model with its experts and the domains that choose among them, from the options that t2 eval
 * and t2 generate share. */
#include "eval/adapt.h"
#include "jobs/load.h"
#include "model/expert_set.h"

struct adapt_options {
    const char *experts, *adapt, *cls_expert, *domains, *way;
};

/* clang-format off */
/* The rows of the option table for a struct adapt_options o. */
#define ADAPT_OPTION_SPECS(o)                                                                      \
    {"experts", 0, OPTION_STRING, &(o).experts, "A.h5,B.h5",                                       \
     .help = "experts to choose from for each prompt; DOMAIN=FILE says what one is for (default: " \
             "the domain of the task that it was trained on)"},                                    \
    {"adapt", 0, OPTION_STRING, &(o).adapt, "HOW",                                                 \
     .help = "how an expert is chosen: prompt (the model is asked), cls (by --cls-expert), the "   \
             "name of one of them, or a further FILE.h5 (a mixture of t2 adapt)"},                 \
    {"cls-expert", 0, OPTION_STRING, &(o).cls_expert, "FILE.h5",                                   \
     .help = "an expert of the task cls, for --adapt cls"},                                        \
    {"domains", 0, OPTION_STRING, &(o).domains, "FILE.ini",                                        \
     .help = "domains and how a model is asked for them (default: adapt.ini in MODEL, else t2's)"},\
    {"adapt-way", 0, OPTION_CHOICE, &(o).way, .choices = "generate|rank|channel",                  \
     .help = "how the model is asked, for --adapt prompt (default: as the domains say)"}
/* clang-format on */

struct adapt_setup {
    struct domains domains;
    struct expert_set set;
    struct adapt adapt; /* points into both */
    bool on;
};

/* After options_parse: refuses what contradicts itself. tasks: those of the run, or NULL; the task
 * cls takes --domains too. 0, or -1 with error_set. */
int adapt_check_options(const struct adapt_options *options, const struct load_options *load,
                        const char *tasks);

/* load_open with the experts and domains of the options; plain load_open (and on = false) where
 * there are none. Collective; as load_open, and load_adapt_free in any case. */
int load_adapt(const struct comm *comm, const char *path, const struct adapt_options *options,
               const struct load_options *load, bool chat_asked, struct loaded *loaded,
               struct adapt_setup *setup);
void load_adapt_free(struct adapt_setup *setup);

#endif

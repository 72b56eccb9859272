#ifndef T2_JOBS_CHOOSE_EXPERTS_H
#define T2_JOBS_CHOOSE_EXPERTS_H
/* Pass one for prompts of the user's: which expert answers each? */
#include "eval/adapt.h"
#include "jobs/load.h"
#include "jobs/prompts.h"

/* experts [prompts->n] gets each prompt's expert, -1 for the base model, the same on all ranks.
 * With `show` rank 0 says on stderr what was chosen. Collective. 0, or -1 on all with error_set. */
int choose_experts(const struct comm *comm, const struct adapt *adapt, const struct loaded *loaded,
                   const struct prompts *prompts, const struct scheduler_options *scheduler,
                   bool show, int32_t *experts);

#endif

#ifndef T2_MODEL_DECOMPOSE_WORK_H
#define T2_MODEL_DECOMPOSE_WORK_H
/* The part of decompose_run in which matrices are solved: a plan's grid jobs, its crews, its queue.
 */
#include "model/decompose.h"
#include "mpi/progress.h"

struct decompose_work {
    const struct comm *comm;
    const struct checkpoint *ck;
    const struct module *modules; /* the plan's */
    const struct decompose_options *options;
    const struct decompose_plan *plan;
    const struct factors_origin *origin;
    const char *out;
    struct factors_merge *merge; /* finished factors go there as well; NULL: not from here */
    const size_t *places;        /* [modules] of the plan's modules in the merge */
    size_t n_before;             /* matrices finished by earlier runs, for the progress line */
    struct progress *progress;
};

/* Each finished matrix is a part file, and then in its place in the merge (filled[] is this
 * rank's). A worker that fails stops all: matrices being solved are finished, then -1 on all ranks
 * with error_set. summary: counts and worst checks over all ranks. Collective. */
int decompose_work(const struct decompose_work *work, struct decompose_summary *summary);

#endif

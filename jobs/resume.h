#ifndef T2_JOBS_RESUME_H
#define T2_JOBS_RESUME_H
/* What lies there when a run begins that can be stopped and taken up: its state, or the result of a
 * requeued job that had finished. */
#include <stdbool.h>

#include "mpi/comm.h"

struct resume {
    const char *out, *state_path;
    const char *what; /* "an adaptation" */
    bool asked;       /* --resume */
    /* Found by resume_look: */
    bool has_state;   /* there is something to go on with */
    bool done_before; /* the finished file was there already */
};

/* Rank 0, before the work: can the result be written, and is there no state that would be lost? 0,
 * or -1 with error_set. */
int resume_check(const struct resume *resume);

/* What there is to go on with, of a run of these settings. Rank 0 looks, all ranks know.
 * Collective. 0 on all ranks, or -1 on all with error_set. */
int resume_look(const struct comm *comm, struct resume *resume, const char *settings);

/* When done_before: says so on rank 0, unless quiet. */
void resume_say_done(const struct comm *comm, const struct resume *resume, bool quiet);

#endif

#include "jobs/resume.h"

#include <stdio.h>

#include "jobs/output.h"
#include "mpi/error.h"
#include "train/train_result.h"

int resume_check(const struct resume *r)
{
    if (output_check(r->out) != 0)
        return -1;
    if (!r->asked && output_is_there(r->state_path))
        return error_set("%s holds %s that is not finished: go on with --resume, or remove it",
                         r->state_path, r->what);
    return 0;
}

int resume_look(const struct comm *comm, struct resume *r, const char *settings)
{
    int there[2] = {0, 0};

    if (!r->asked)
        return 0;
    if (comm->rank == 0) {
        there[0] = output_is_there(r->state_path);
        there[1] = there[0] ? 0 : train_result_is_there(r->out, settings);
    }
    if (comm_agree(comm, there[1] < 0 ? -1 : 0) != 0)
        return -1;
    if (comm->size > 1)
        MPI_Bcast(there, 2, MPI_INT, 0, comm->handle);
    r->has_state = there[0] > 0;
    r->done_before = there[1] > 0;
    return 0;
}

void resume_say_done(const struct comm *comm, const struct resume *r, bool quiet)
{
    if (comm->rank == 0 && !quiet)
        fprintf(stderr, "%s: finished already by a run of these settings; nothing to do\n", r->out);
}

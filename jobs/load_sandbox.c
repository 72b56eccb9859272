#include "jobs/load_sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mpi/error.h"

int load_sandbox(const struct comm *comm, const struct command *command,
                 const struct sandbox_settings *settings, const struct task *tasks, size_t n_tasks,
                 size_t workers, struct sandbox **sandbox)
{
    struct sandbox_options options = sandbox_defaults();
    bool needed = false;

    *sandbox = NULL;
    for (size_t i = 0; i < n_tasks; i++)
        needed =
            needed || (tasks[i].score == TASK_GENERATE && tasks[i].grader == GRADE_PYTHON_TESTS);
    if (!needed)
        return 0;
    options.workers = workers;
    options.unsafe = settings->unsafe;
    options.python = settings->python;
    *sandbox = sandbox_open(&options);
    if (*sandbox) {
        if (options.unsafe && comm->rank == 0)
            fprintf(stderr,
                    "t2 %s: --unsafe-sandbox: model-written programs run with all your rights; "
                    "this is not safe\n",
                    command->name);
        return 0;
    }
    char *reason = strdup(error_message());
    error_set("%s; --unsafe-sandbox runs them with all your rights", reason ? reason : "");
    free(reason);
    return -1;
}

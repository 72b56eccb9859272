#ifndef T2_JOBS_LOAD_SANDBOX_H
#define T2_JOBS_LOAD_SANDBOX_H
/* The sandbox for tasks whose answers are programs, from the options that commands share. */
#include "eval/sandbox.h"
#include "eval/task.h"
#include "jobs/options.h"

struct sandbox_settings {
    const char *python;
    bool unsafe;
};

/* clang-format off */
/* The rows of the option table for a struct sandbox_settings o. */
#define SANDBOX_OPTION_SPECS(o)                                                                    \
    {"python", 0, OPTION_STRING, &(o).python, "PATH",                                              \
     .help = "interpreter for code tasks (default: /usr/bin/python3)"},                            \
    {"unsafe-sandbox", 0, OPTION_FLAG, &(o).unsafe,                                                \
     .help = "run model-written programs without a sandbox, with all your rights"}
/* clang-format on */

/* Opens a pool of `workers` (0: as many as processors) where one of the tasks needs it; else
 * *sandbox is NULL. Local to a rank. 0, or -1 with error_set. */
int load_sandbox(const struct comm *comm, const struct command *command,
                 const struct sandbox_settings *settings, const struct task *tasks, size_t n_tasks,
                 size_t workers, struct sandbox **sandbox);

#endif

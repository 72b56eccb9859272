#ifndef T2_JOBS_TASK_LIST_H
#define T2_JOBS_TASK_LIST_H
/* The tasks that a command line names, looked for where every command looks: T2_TASKS, beside the
 * program, in the source tree and in MODEL/tasks (tasks/ where
 * there is no model: NULL). */
#include <stddef.h>

#include "eval/task.h"

/* Loads the tasks of `names` ("a,b": names or paths of .ini files) into tasks [at most max];
 * *n_tasks counts those that task_free is due for, also after a failure. option: what names came
 * from, for messages ("--tasks"). 0, or -1 with error_set (a missing or unknown name lists what
 * there is). */
int task_list_load(const char *names, const char *option, const char *model, struct task *tasks,
                   size_t max, size_t *n_tasks);

/* The same with the file of domains for `cls` (eval/cls.h); NULL: task_list_domains looks for one.
 * "cls:a,b,c" is the task made of a, b and c, and takes all names to the list's end; "cls" is made
 * of the tasks that the file names. */
int task_list_load_with(const char *names, const char *option, const char *model,
                        const char *domains, struct task *tasks, size_t max, size_t *n_tasks);

/* The file of domains: `given`, else MODEL/adapt.ini, else adapt.ini beside the folders of tasks.
 * Malloc'ed; NULL with error_set. */
char *task_list_domains(const char *given, const char *model);

#endif

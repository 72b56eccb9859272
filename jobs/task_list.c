#include "jobs/task_list.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mpi/error.h"

/* PREFIX/share/t2/tasks for a binary at PREFIX/bin/t2. */
static void installed_tasks(char *folder, size_t size)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    folder[0] = '\0';
    for (int up = 0; n > 0 && up < 2; up++) {
        path[n] = '\0';
        char *slash = strrchr(path, '/');
        n = slash ? slash - path : 0;
    }
    if (n > 0 && (size_t)n + sizeof "/share/t2/tasks" <= size)
        snprintf(folder, size, "%.*s/share/t2/tasks", (int)n, path);
}

int task_list_load(const char *names, const char *option, const char *model, struct task *tasks,
                   size_t max, size_t *n_tasks)
{
    char installed[PATH_MAX], own[PATH_MAX + sizeof "/tasks"], name[PATH_MAX];
    const char *const folders[] = {installed, T2_SOURCE_DATA "/tasks", T2_INSTALL_DATA "/tasks",
                                   own, NULL};

    *n_tasks = 0;
    installed_tasks(installed, sizeof installed);
    snprintf(own, sizeof own, "%s/tasks", model ? model : "."); /* data/mini brings its own */
    if (!names || !*names) {
        char *known = task_names(folders);
        error_set("%s is missing; tasks: %s, or the path of an .ini file", option,
                  known ? known : "none found");
        free(known);
        return -1;
    }
    for (const char *p = names; *p; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n == 0)
            continue;
        if (n >= sizeof name)
            return error_set("%s: a name of %zu characters is no task", option, n);
        memcpy(name, p, n);
        name[n] = '\0';
        p += n;
        if (*n_tasks == max)
            return error_set("%s: at most %zu task%s in one run", option, max, max == 1 ? "" : "s");
        struct task *task = &tasks[*n_tasks];
        if (task_load(task, name, folders))
            return -1;
        ++*n_tasks;
        for (size_t i = 0; i + 1 < *n_tasks; i++)
            if (strcmp(tasks[i].name, task->name) == 0)
                return error_set("%s: %s is there twice", option, task->name);
    }
    return *n_tasks ? 0 : error_set("%s names no task", option);
}

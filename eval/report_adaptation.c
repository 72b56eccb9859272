/* Adaptation: what pass one chose, the time of both passes, mixtures found by a search, and their
 * scores. From results of t2 eval --adapt, mixtures of t2 adapt, and results made with those. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_internal.h"

enum { MAX_EXPERTS = 64 };

/* A table that is made when its first row comes. */
struct late_table {
    struct page_section *section;
    struct page_table *table;
    const char *title, *align, *heads;
};

static struct page_table *late(struct late_table *t)
{
    if (!t->table)
        t->table = page_table(t->section, t->title, t->align, t->heads);
    return t->table;
}

/* ---- passes ------------------------------------------------------------------------------------
 */

static void strategy_row(struct report *r, const struct report_file *f, const char *name,
                         hid_t group, void *data)
{
    hid_t adapt = report_open(group, "adapt");
    double value, error;

    if (adapt < 0)
        return;
    struct page_table *table = late(data);
    report_main_score(group, &value, &error);
    page_cell(table, "%s", f->name);
    page_cell(table, "%s", name);
    page_cell(table, "%s", report_get(r, adapt, "strategy"));
    page_score(table, value, error);
    page_number(table, 3, report_real(adapt, "share_right"));
    page_number(table, 0, report_real(group, "n_items"));
    H5Gclose(adapt);
}

/* Rows of a mixture's own scores: the base model, each expert, the uniform mixture, the one found.
 */
static void mixture_rows(struct report *r, const struct report_file *f, struct late_table *late_one)
{
    hid_t group = report_open(f->file, "scores");
    size_t n = 0, n_shots = 0;
    const double *test = group >= 0 ? report_column(r, group, "test", &n) : NULL;
    const double *error = test ? report_column(r, group, "test_error", &n) : NULL;
    const double *shots = error ? report_column(r, group, "shots", &n_shots) : NULL;

    for (size_t i = 0; shots && n_shots == n && i < n; i++) {
        struct page_table *table = late(late_one);
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", report_get(r, f->file, "task"));
        page_cell(table, "%s", report_text(r, group, "name", i));
        page_number(table, 3, shots[i]);
        page_score(table, test[i], error[i]);
        page_number(table, 0, report_real(f->file, "test_items"));
    }
    if (group >= 0)
        H5Gclose(group);
}

void report_strategies(struct report *r, struct page_section *section)
{
    struct late_table chosen = {section, NULL, "an expert chosen for each prompt", "lllrrr",
                                "run|task|strategy|score|right expert|items"};
    struct late_table mixed = {section, NULL, "a mixture searched on a few shots", "lllrrr",
                               "mixture|task|model|on the shots|test|items"};

    report_each_task(r, strategy_row, &chosen);
    for (size_t i = 0; i < r->n_files; i++)
        if (r->files[i].kind == REPORT_MIXTURE)
            mixture_rows(r, &r->files[i], &mixed);
}

static double pass_seconds(hid_t adapt, const char *name)
{
    hid_t pass = report_open(adapt, name);
    const double seconds = pass >= 0 ? report_real(pass, "seconds") : (double)NAN;

    if (pass >= 0)
        H5Gclose(pass);
    return seconds;
}

static void pass_row(struct report *r, const struct report_file *f, const char *name, hid_t group,
                     void *data)
{
    hid_t adapt = report_open(group, "adapt");
    const double first = adapt >= 0 ? pass_seconds(adapt, "pass_one") : (double)NAN;
    const double second = adapt >= 0 ? pass_seconds(adapt, "pass_two") : (double)NAN;

    if (!isnan(first) && !isnan(second)) {
        struct page_table *table = late(data);
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", name);
        page_cell(table, "%s", report_get(r, adapt, "strategy"));
        page_number(table, 2, first);
        page_number(table, 2, second);
        page_cell(table, "%.1f %%", 100 * first / (first + second));
    }
    if (adapt >= 0)
        H5Gclose(adapt);
}

void report_passes(struct report *r, struct page_section *section)
{
    struct late_table times = {section, NULL, "seconds", "lllrrr",
                               "run|task|strategy|pass one|pass two|pass one's share"};

    report_each_task(r, pass_row, &times);
}

void report_confusion(struct report *r, struct page_section *section)
{
    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        hid_t group = f->kind == REPORT_RESULTS ? report_open(f->file, "adapt") : (hid_t)-1;
        const char *names[MAX_EXPERTS];
        size_t n = 0, n_columns = 0;
        double *counts = group >= 0 ? report_grid(r, group, "confusion", &n, &n_columns) : NULL;
        char title[160];

        if (counts && n == n_columns && n > 0 && n <= MAX_EXPERTS) {
            for (size_t a = 0; a < n; a++) {
                double all = 0;
                names[a] = report_text(r, group, "domains", a);
                for (size_t b = 0; b < n; b++)
                    all += counts[a * n + b];
                for (size_t b = 0; b < n; b++)
                    counts[a * n + b] = all > 0 ? counts[a * n + b] / all : (double)NAN;
            }
            snprintf(title, sizeof title,
                     "%.80s: part of a row's prompts that pass one took for the column's domain",
                     f->name);
            report_matrix(section, title, names, counts, n);
        }
        if (group >= 0)
            H5Gclose(group);
    }
}

/* ---- mixtures ----------------------------------------------------------------------------------
 */

/* One table a mixture: a row a group of matrices that has its own coefficients. */
static void mixture_table(struct report *r, struct page_section *section,
                          const struct report_file *f, hid_t group, const double *alpha,
                          size_t n_groups, size_t n)
{
    char align[MAX_EXPERTS + 2] = "l", *heads = NULL;
    size_t size;
    FILE *out = open_memstream(&heads, &size);

    if (!out)
        return;
    fputs("matrices", out);
    for (size_t k = 0; k < n; k++) {
        putc('|', out);
        for (const char *c = report_text(r, group, "experts", k); *c; c++)
            putc(*c == '|' ? '/' : *c, out); /* which parts the heads */
    }
    memset(align + 1, 'r', n);
    struct page_table *table = fclose(out) == 0 ? page_table(section, f->name, align, heads) : NULL;
    for (size_t g = 0; table && g < n_groups; g++) {
        page_cell(table, "%s", report_text(r, group, "groups", g));
        for (size_t k = 0; k < n; k++) {
            page_number(table, 3, alpha[g * n + k]);
            page_cell_shade(table, fabs(alpha[g * n + k]));
        }
    }
    free(heads);
}

static void mixture_figure(struct report *r, struct page_section *section,
                           const struct report_file *f, hid_t group, const double *alpha,
                           size_t n_groups, size_t n)
{
    struct plot_series series[MAX_EXPERTS] = {0};
    char title[160];

    for (size_t k = 0; k < n; k++) {
        double *y = report_keep(r, malloc((n_groups + 1) * sizeof *y));
        if (!y)
            return;
        for (size_t g = 0; g < n_groups; g++)
            y[g] = alpha[g * n + k];
        series[k] =
            (struct plot_series){.style = PLOT_LINES_POINTS, .colour = k, .y = y, .n = n_groups};
        snprintf(series[k].label, sizeof series[k].label, "%s",
                 report_text(r, group, "experts", k));
    }
    const struct plot plot = {
        .x_label = "group of matrices", .y_label = "weight", .series = series, .n_series = n};
    snprintf(title, sizeof title, "%.100s: mixing weights", f->name);
    report_figure(r, section, title, &plot);
}

/* The coefficients of a mixture, or of results that were made with one. */
static double *coefficients(struct report *r, const struct report_file *f, hid_t *group,
                            size_t *n_groups, size_t *n)
{
    const bool may = f->kind == REPORT_MIXTURE || f->kind == REPORT_RESULTS;
    double *alpha = NULL;

    *group = may ? report_open(f->file, "mixture") : (hid_t)-1;
    if (*group >= 0)
        alpha = report_grid(r, *group, "alpha", n_groups, n);
    return alpha && *n > 0 && *n <= MAX_EXPERTS && *n_groups > 0 ? alpha : NULL;
}

/* Has a mixture, or results before this one, the same coefficients? */
static bool is_shown(struct report *r, size_t index, const double *alpha, size_t n_groups, size_t n)
{
    bool shown = false;

    for (size_t i = 0; i < r->n_files && !shown; i++) {
        size_t other_groups = 0, other_n = 0;
        hid_t group;
        if (i == index || (r->files[i].kind == REPORT_RESULTS && i > index))
            continue;
        const double *other = coefficients(r, &r->files[i], &group, &other_groups, &other_n);
        shown = other && other_groups == n_groups && other_n == n &&
                memcmp(other, alpha, n_groups * n * sizeof *alpha) == 0;
        if (group >= 0)
            H5Gclose(group);
    }
    return shown;
}

void report_mixtures(struct report *r, struct page_section *section)
{
    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        size_t n_groups = 0, n = 0;
        hid_t group;
        const double *alpha = coefficients(r, f, &group, &n_groups, &n);

        if (alpha && (f->kind == REPORT_MIXTURE || !is_shown(r, i, alpha, n_groups, n))) {
            mixture_table(r, section, f, group, alpha, n_groups, n);
            if (n_groups > 1)
                mixture_figure(r, section, f, group, alpha, n_groups, n);
        }
        if (group >= 0)
            H5Gclose(group);
    }
}

void report_searches(struct report *r, struct page_section *section)
{
    struct late_table searches = {section, NULL, "", "lllrrrr",
                                  "mixture|task|search|shots|generations|seconds|test"};

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        hid_t scores = f->kind == REPORT_MIXTURE ? report_open(f->file, "scores") : (hid_t)-1;
        size_t n = 0;
        const double *test = scores >= 0 ? report_column(r, scores, "test", &n) : NULL;
        const double *error = test ? report_column(r, scores, "test_error", &n) : NULL;

        if (error && n > 0) {
            struct page_table *table = late(&searches);
            page_cell(table, "%s", f->name);
            page_cell(table, "%s", report_get(r, f->file, "task"));
            page_cell(table, "%s", report_get(r, f->file, "adaptation"));
            page_number(table, 0, report_real(f->file, "shots"));
            page_number(table, 0, report_real(f->file, "iterations"));
            page_number(table, 1, report_real(f->file, "seconds"));
            page_score(table, test[n - 1], error[n - 1]);
        }
        if (scores >= 0)
            H5Gclose(scores);
    }
}

void report_adaptation(struct report *r)
{
    struct page_section *section = page_section(r->page, 1, "adaptation", "Adaptation");

    report_strategies(r, section);
    report_passes(r, section);
    report_confusion(r, section);
    report_mixtures(r, section);
    if (page_section_is_empty(section))
        page_hint(section,
                  "Filled by results of t2 eval --experts ... --adapt and mixtures of t2 "
                  "adapt: confusion of the first pass, time of both passes, mixing weights.");
}

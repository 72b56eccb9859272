/* Learning curves, time and scaling of trainings. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report_internal.h"
#include "mpi/h5.h"

enum { SMOOTH = 7, MAX_LINES = 16 };

static const char *task_of(struct report *r, const struct report_file *f)
{
    return report_get(r, f->file, "task");
}

static bool is_expert(const struct report_file *f)
{
    return f->kind == REPORT_EXPERT;
}

/* Not one that t2 transfer has made. */
static bool was_trained(const struct report_file *f)
{
    return is_expert(f) && !isnan(report_real(f->file, "steps"));
}

/* Has no earlier expert this task? */
static bool first_of_task(struct report *r, size_t index)
{
    for (size_t i = 0; i < index; i++)
        if (was_trained(&r->files[i]) &&
            strcmp(task_of(r, &r->files[i]), task_of(r, &r->files[index])) == 0)
            return false;
    return true;
}

/* The mean over SMOOTH steps around each one. */
static double *smoothed(struct report *r, const double *x, size_t n)
{
    double *mean = report_keep(r, malloc((n + 1) * sizeof *mean));

    for (size_t i = 0; mean && i < n; i++) {
        const size_t first = i > SMOOTH / 2 ? i - SMOOTH / 2 : 0;
        const size_t end = i + SMOOTH / 2 + 1 < n ? i + SMOOTH / 2 + 1 : n;
        double sum = 0;
        for (size_t k = first; k < end; k++)
            sum += x[k];
        mean[i] = sum / (double)(end - first);
    }
    return mean;
}

/* ---- curves ------------------------------------------------------------------------------------
 */

/* Figure 9 of the paper is about these. */
static bool is_lora_by_reward(struct report *r, const struct report_file *f)
{
    const char *settings = report_get(r, f->file, "settings");

    return was_trained(f) && strcmp(report_get(r, f->file, "adapter"), "lora") == 0 &&
           strcmp(report_setting(r, settings, "objective"), "reinforce") == 0;
}

static bool any_expert(struct report *r, const struct report_file *f)
{
    (void)r;
    return is_expert(f);
}

/* One column of a task's experts; with `validation` their validations beside it. */
static void curve_figure(struct report *r, struct page_section *section, const char *task,
                         bool (*wanted)(struct report *, const struct report_file *),
                         const char *column, const char *label, bool validation)
{
    struct plot_series *series = calloc(2 * MAX_LINES, sizeof *series);
    char path[64], title[200];
    size_t n = 0, n_lines = 0;

    for (size_t i = 0; series && i < r->n_files && n_lines < MAX_LINES; i++) {
        const struct report_file *f = &r->files[i];
        size_t length, rows;
        if (!wanted(r, f) || strcmp(task_of(r, f), task) != 0)
            continue;
        snprintf(path, sizeof path, "curve/%s", column);
        if (H5Lexists(f->file, "curve", H5P_DEFAULT) <= 0)
            continue;
        double *y = report_column(r, f->file, path, &length);
        if (!y || length < 2 || !(y = smoothed(r, y, length)))
            continue;
        struct plot_series *s = &series[n++];
        *s = (struct plot_series){.colour = n_lines++, .y = y, .n = length};
        snprintf(s->label, sizeof s->label, "%s", f->name);
        if (!validation || H5Lexists(f->file, "validation", H5P_DEFAULT) <= 0)
            continue;
        double *step = report_column(r, f->file, "validation/step", &length);
        double *score = report_column(r, f->file, "validation/score", &rows);
        if (step && score && rows == length) {
            struct plot_series *v = &series[n++];
            *v = (struct plot_series){
                .style = PLOT_DASHED, .colour = s->colour, .x = step, .y = score, .n = rows};
            snprintf(v->label, sizeof v->label, "%.60s, validation", f->name);
        }
    }
    const struct plot plot = {.x_label = "step", .y_label = label, .series = series, .n_series = n};
    snprintf(title, sizeof title, "%.120s: %s", task, label);
    report_figure(r, section, title, &plot);
    free(series);
}

static void experts_table(struct report *r, struct page_section *section)
{
    struct page_table *table =
        page_table(section, "", "llllrrrrrrr",
                   "expert|task|objective|matrices|parameters|steps|validation before|best|at "
                   "step|test before|after");

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        if (!was_trained(f))
            continue;
        const char *settings = report_get(r, f->file, "settings");
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", task_of(r, f));
        page_cell(table, "%s, %s", report_setting(r, settings, "objective"),
                  report_get(r, f->file, "adapter"));
        page_cell(table, "%s", report_setting(r, settings, "modules"));
        page_number(table, 0, report_real(f->file, "n_parameters"));
        page_number(table, 0, report_real(f->file, "steps"));
        page_number(table, 3, report_real(f->file, "valid_before"));
        page_number(table, 3, report_real(f->file, "valid_best"));
        page_number(table, 0, report_real(f->file, "best_step"));
        page_number(table, 3, report_real(f->file, "test_before"));
        page_score(table, report_real(f->file, "test_after"), report_real(f->file, "test_error"));
    }
}

void report_curves(struct report *r)
{
    struct page_section *section = NULL;

    for (size_t i = 0; i < r->n_files; i++) {
        if (!was_trained(&r->files[i]))
            continue;
        if (!section) {
            section = page_section(r->page, 1, "curves", "Learning curves");
            experts_table(r, section);
            page_text(section,
                      "Curves are means over %d steps; scores of a test have a standard error.",
                      SMOOTH);
        }
        if (!first_of_task(r, i))
            continue;
        const char *task = task_of(r, &r->files[i]);
        curve_figure(r, section, task, any_expert, "accuracy", "accuracy of answers in training",
                     true);
        curve_figure(r, section, task, any_expert, "entropy", "entropy of a token, nats", false);
    }
}

void report_lora_curves(struct report *r, struct page_section *section)
{
    struct page_table *table = NULL;

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        if (!is_lora_by_reward(r, f))
            continue;
        const char *settings = report_get(r, f->file, "settings");
        if (!table)
            table = page_table(section, "", "lllrrrr",
                               "expert|task|rate|clip norm|steps|validation before|best");
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", task_of(r, f));
        page_cell(table, "%s", report_setting(r, settings, "rate"));
        page_cell(table, "%s", report_setting(r, settings, "clip-norm"));
        page_number(table, 0, report_real(f->file, "steps"));
        page_number(table, 3, report_real(f->file, "valid_before"));
        page_number(table, 3, report_real(f->file, "valid_best"));
    }
    for (size_t i = 0; i < r->n_files; i++) {
        bool first = is_lora_by_reward(r, &r->files[i]);
        for (size_t k = 0; first && k < i; k++)
            first = !is_lora_by_reward(r, &r->files[k]) ||
                    strcmp(task_of(r, &r->files[k]), task_of(r, &r->files[i])) != 0;
        if (first)
            curve_figure(r, section, task_of(r, &r->files[i]), is_lora_by_reward, "accuracy",
                         "accuracy of answers in training, LoRA by policy gradient", true);
    }
}

/* ---- time --------------------------------------------------------------------------------------
 */

static double sum_of(struct report *r, hid_t file, const char *name)
{
    size_t n;
    const double *x = report_column(r, file, name, &n);
    double sum = 0;

    for (size_t i = 0; x && i < n; i++)
        sum += x[i];
    return x ? sum : (double)NAN;
}

void report_phases(struct report *r)
{
    static const char *const phases[] = {"curve/seconds_rollout", "curve/seconds_gradient",
                                         "curve/seconds_reduce", "curve/seconds_other"};
    struct page_table *table = NULL;

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        double seconds[4], all = 0;
        size_t n = 0;
        if (!is_expert(f) || H5Lexists(f->file, "curve", H5P_DEFAULT) <= 0)
            continue;
        for (size_t p = 0; p < 4; p++) {
            seconds[p] = sum_of(r, f->file, phases[p]);
            all += seconds[p];
        }
        const double *rate = report_column(r, f->file, "curve/tokens_per_second", &n);
        const double *mean = rate ? smoothed(r, rate, n) : NULL;
        if (!(all > 0))
            continue;
        if (!table)
            table = page_table(
                page_section(r->page, 1, "phases", "Time per phase"),
                "of the steps of each training; validation and loading come on top", "lrrrrrrr",
                "expert|steps|seconds a step|rollout|gradient|reduction|other|tokens/s");
        page_cell(table, "%s", f->name);
        page_cell(table, "%zu", n);
        page_number(table, 3, n ? all / (double)n : (double)NAN);
        for (size_t p = 0; p < 4; p++) {
            page_cell(table, "%.1f %%", 100 * seconds[p] / all);
            page_cell_shade(table, seconds[p] / all);
        }
        page_number(table, 0, mean && n ? mean[n / 2] : (double)NAN);
    }
}

/* ---- scaling -----------------------------------------------------------------------------------
 */

static double step_seconds(struct report *r, const struct report_file *f)
{
    static const char *const phases[] = {"curve/seconds_rollout", "curve/seconds_gradient",
                                         "curve/seconds_reduce", "curve/seconds_other"};
    double all = 0;

    if (H5Lexists(f->file, "curve", H5P_DEFAULT) <= 0)
        return (double)NAN;
    for (size_t p = 0; p < 4; p++)
        all += sum_of(r, f->file, phases[p]);
    return all / report_real(f->file, "steps");
}

/* The same settings on other numbers of ranks or threads: a table a set of trainings. */
void report_scaling(struct report *r)
{
    struct page_section *section = NULL;

    for (size_t i = 0; i < r->n_files; i++) {
        const char *settings =
            is_expert(&r->files[i]) ? report_get(r, r->files[i].file, "settings") : "";
        struct page_table *table = NULL;
        bool seen = !*settings;
        for (size_t k = 0; k < i && !seen; k++)
            seen = is_expert(&r->files[k]) &&
                   strcmp(report_get(r, r->files[k].file, "settings"), settings) == 0;
        for (size_t k = i + 1; k < r->n_files && !seen; k++) {
            const struct report_file *f = &r->files[k], *first = &r->files[i];
            if (!is_expert(f) || strcmp(report_get(r, f->file, "settings"), settings) != 0)
                continue;
            if (!section)
                section = page_section(r->page, 1, "scaling", "Scaling");
            const double base = step_seconds(r, first);
            if (!table) {
                table = page_table(section, task_of(r, first), "lrrrr",
                                   "expert|ranks|threads|seconds a step|speed");
                page_cell(table, "%s", first->name);
                page_number(table, 0, report_real(first->file, "ranks"));
                page_number(table, 0, report_real(first->file, "threads"));
                page_number(table, 3, base);
                page_number(table, 2, 1);
            }
            page_cell(table, "%s", f->name);
            page_number(table, 0, report_real(f->file, "ranks"));
            page_number(table, 0, report_real(f->file, "threads"));
            page_number(table, 3, step_seconds(r, f));
            page_number(table, 2, base / step_seconds(r, f));
        }
    }
}

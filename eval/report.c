#include "eval/report.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/report_internal.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"

/* ---- values ------------------------------------------------------------------------------------
 */

void *report_keep(struct report *r, void *memory)
{
    void **kept = memory ? realloc(r->kept, (r->n_kept + 1) * sizeof *kept) : NULL;

    if (!kept) {
        r->failed = true;
        free(memory);
        return NULL;
    }
    r->kept = kept;
    return kept[r->n_kept++] = memory;
}

const char *report_get(struct report *r, hid_t object, const char *name)
{
    char *text = NULL;

    if (!h5_get_text(object, name, &text))
        return "";
    const char *kept = report_keep(r, text);
    return kept ? kept : "";
}

double report_real(hid_t object, const char *name)
{
    double value;
    int64_t integer;

    if (h5_get_real(object, name, &value))
        return value;
    return h5_get_int(object, name, &integer) ? (double)integer : (double)NAN;
}

double *report_column(struct report *r, hid_t group, const char *name, size_t *n)
{
    size_t n_columns;
    double *values = report_grid(r, group, name, n, &n_columns);

    return n_columns == 0 ? values : NULL;
}

double *report_grid(struct report *r, hid_t group, const char *name, size_t *n_rows,
                    size_t *n_columns)
{
    double *values = h5_numbers(group, name, n_rows, n_columns);

    return values ? report_keep(r, values) : NULL;
}

const char *report_text(struct report *r, hid_t group, const char *name, size_t index)
{
    char *text = h5_text_at(group, name, index);
    const char *kept = text ? report_keep(r, text) : NULL;

    return kept ? kept : "";
}

hid_t report_open(hid_t parent, const char *name)
{
    struct h5_quiet quiet;

    h5_quiet_begin(&quiet);
    hid_t group =
        H5Lexists(parent, name, H5P_DEFAULT) > 0 ? H5Gopen2(parent, name, H5P_DEFAULT) : (hid_t)-1;
    h5_quiet_end(&quiet);
    return group;
}

const char *report_base(const char *path)
{
    size_t n = strlen(path);

    while (n > 0 && path[n - 1] == '/')
        n--;
    while (n > 0 && path[n - 1] != '/')
        n--;
    return path + n;
}

const char *report_setting(struct report *r, const char *settings, const char *key)
{
    const size_t n = strlen(key);

    for (const char *line = settings; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (strncmp(line, key, n) == 0 && strncmp(line + n, " = ", 3) == 0) {
            const char *value = report_keep(r, strndup(line + n + 3, strcspn(line + n + 3, "\n")));
            return value ? value : "";
        }
    return "";
}

/* ---- figures -----------------------------------------------------------------------------------
 */

void report_figure(struct report *r, struct page_section *section, const char *title,
                   const struct plot *plot)
{
    if (!r->options->figures || r->notice || plot->n_series == 0)
        return;
    char *svg = plot_svg(plot, ++r->n_figures);
    if (svg)
        page_figure(section, title, svg);
    else if (asprintf(&r->notice, "the report has no figures: %s", error_message()) < 0) {
        r->notice = NULL;
        r->failed = true;
    }
}

void report_matrix(struct page_section *section, const char *title, const char *const *names,
                   const double *values, size_t n)
{
    char *align = malloc(n + 2), *heads = NULL;
    size_t size;
    FILE *out = open_memstream(&heads, &size);

    if (align && out) {
        memset(align, 'r', n + 1);
        align[0] = 'l';
        align[n + 1] = '\0';
        for (size_t i = 0; i < n; i++)
            fprintf(out, "|%s", names[i]);
    }
    const bool whole = out && fclose(out) == 0;
    struct page_table *table = align && whole ? page_table(section, title, align, heads) : NULL;
    for (size_t i = 0; table && i < n; i++) {
        page_cell(table, "%s", names[i]);
        for (size_t k = 0; k < n; k++) {
            page_number(table, 3, values[i * n + k]);
            page_cell_shade(table, values[i * n + k]);
        }
    }
    free(align);
    free(heads);
}

/* ---- files -------------------------------------------------------------------------------------
 */

static char *name_of(const char *path)
{
    const char *base = report_base(path);
    const size_t n = strlen(base);

    return strndup(base, n > 3 && strcmp(base + n - 3, ".h5") == 0 ? n - 3 : n);
}

static int add_file(struct report *r, const char *path)
{
    struct report_file *all = realloc(r->files, (r->n_files + 1) * sizeof *all);

    if (!all)
        return error_set("out of memory");
    r->files = all;
    if (access(path, R_OK) != 0)
        return error_set("%s: %s", path, strerror(errno));
    if (h5_is_kind(path, "t2 live curve"))
        return 0; /* beside an expert, which has the same curve: for t2 watch */
    struct report_file *f = &all[r->n_files];
    *f = (struct report_file){.path = path, .file = h5_open(path)};
    if (f->file < 0)
        return -1;
    r->n_files++;
    f->name = report_keep(r, name_of(path));
    const char *kind = report_get(r, f->file, "kind");
    if (strcmp(kind, "t2 results") == 0)
        f->kind = REPORT_RESULTS;
    else if (strcmp(kind, "t2 expert") == 0)
        f->kind = *report_get(r, f->file, "adaptation") ? REPORT_MIXTURE : REPORT_EXPERT;
    else if (strcmp(kind, "t2 factors") == 0)
        f->kind = REPORT_FACTORS;
    else
        return error_set("%s: neither results of t2 eval, an expert of t2 train nor factors of t2 "
                         "decompose%s%s",
                         path, *kind ? ", but " : "", kind);
    if (!f->name)
        return error_set("out of memory");
    if (f->kind == REPORT_FACTORS ||
        (f->kind != REPORT_RESULTS && strcmp(report_get(r, f->file, "adapter"), "svf") == 0))
        return analysis_add(&r->analysis, path);
    return 0;
}

/* Files of one name in several folders keep their folder. */
static void tell_apart(struct report *r)
{
    for (size_t i = 0; i < r->n_files; i++)
        for (size_t k = 0; k < r->n_files; k++)
            if (i != k && strcmp(r->files[i].name, r->files[k].name) == 0 &&
                r->files[i].kind == r->files[k].kind) {
                r->files[i].name = r->files[i].path;
                r->files[k].name = r->files[k].path;
            }
}

static void overview(struct report *r)
{
    static const char *const kinds[] = {"results", "expert", "mixture", "factors"};
    struct page_section *section = page_section(r->page, 1, "runs", "Runs");
    struct page_table *table =
        page_table(section, "", "lllrrlr", "file|holds|model|ranks|threads|started (UTC)|took");
    char took[32];

    for (size_t i = 0; i < r->n_files; i++) {
        const struct report_file *f = &r->files[i];
        const double seconds = report_real(f->file, "seconds");
        const char *started = report_get(r, f->file, "started");
        page_cell(table, "%s", f->name);
        page_cell(table, "%s", kinds[f->kind]);
        page_cell(table, "%s", report_base(report_get(r, f->file, "model")));
        page_number(table, 0, report_real(f->file, "ranks"));
        page_number(table, 0, report_real(f->file, "threads"));
        page_cell(table, "%s", *started ? started : report_get(r, f->file, "created"));
        page_cell(table, "%s",
                  isnan(seconds) || seconds < 0 || seconds > 1e12
                      ? "-"
                      : text_duration(took, sizeof took, seconds));
    }
    table = page_table(section, "how each was made", "ll", "file|command");
    for (size_t i = 0; i < r->n_files; i++) {
        page_cell(table, "%s", r->files[i].name);
        page_cell(table, "%s", report_get(r, r->files[i].file, "command_line"));
    }
}

/* ---- the report --------------------------------------------------------------------------------
 */

static void report_close(struct report *r)
{
    for (size_t i = 0; i < r->n_files; i++)
        h5_close(r->files[i].file);
    for (size_t i = 0; i < r->n_kept; i++)
        free(r->kept[i]);
    free(r->kept);
    free(r->files);
    analysis_free(&r->analysis);
    history_free(&r->history);
}

struct page *report_build(const char *const *paths, size_t n_paths,
                          const struct report_options *options, char **notice)
{
    struct report r = {.options = options, .page = page_create(options->title)};
    bool good = r.page != NULL;

    *notice = NULL;
    for (size_t i = 0; good && i < n_paths; i++)
        good = add_file(&r, paths[i]) == 0;
    if (good && n_paths > 0 && r.n_files == 0)
        good = error_set("%s: the live curve of a training, which t2 watch shows; a report takes "
                         "the expert",
                         paths[0]) == 0;
    if (good && options->history)
        good = history_read(&r.history, options->history) == 0;
    if (good)
        good = analysis_join(&r.analysis) == 0;
    if (good) {
        tell_apart(&r);
        if (r.n_files > 0)
            overview(&r);
        report_scores(&r);
        report_curves(&r);
        report_phases(&r);
        report_spectra(&r);
        report_similarity(&r);
        report_adaptation(&r);
        report_scaling(&r);
        report_history(&r);
        report_paper(&r);
        report_items(&r);
        if (r.failed)
            good = error_set("out of memory") == 0;
    }
    if (good)
        *notice = r.notice;
    else {
        free(r.notice);
        page_free(r.page);
        r.page = NULL;
    }
    report_close(&r);
    return r.page;
}

/* Expert files for people: t2 inspect. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/expert.h"
#include "model/expert_curve.h"
#include "mpi/error.h"
#include "mpi/h5.h"
#include "mpi/h5_array.h"
#include "mpi/text.h"

enum { LABEL_WIDTH = 13 };

/* Names and texts out of a file may hold anything; a terminal gets printable characters only. */
static void put_text(FILE *out, const char *label, const char *text)
{
    if (!text || !*text)
        return;
    fprintf(out, "%-*s ", LABEL_WIDTH, label);
    for (; *text; text++)
        putc(text_printable(*text, '?'), out);
    putc('\n', out);
}

static void put_attribute(FILE *out, hid_t file, const char *label, const char *name)
{
    char *text = NULL;

    if (h5_get_text(file, name, &text))
        put_text(out, label, text);
    free(text);
}

/* ---- how far parameters lie from their start ---------------------------------------------------
 */

struct spread {
    const char *module, *piece;
    size_t n_matrices, n;
    double sum, squares, least, most;
};

/* Multipliers start at 1. */
static double start_of(const char *piece)
{
    return strcmp(piece, "z") == 0 || strcmp(piece, "ia3_l") == 0 ? 1 : 0;
}

static void spread_add(struct spread *s, const struct expert_parameter *p)
{
    const size_t n = p->n_rows * (p->n_columns ? p->n_columns : 1);
    const double start = start_of(p->name);

    for (size_t i = 0; i < n; i++) {
        const double x = (double)p->values[i];
        s->least = s->n + i == 0 || x < s->least ? x : s->least;
        s->most = s->n + i == 0 || x > s->most ? x : s->most;
        s->sum += x;
        s->squares += (x - start) * (x - start);
    }
    s->n += n;
    s->n_matrices++;
}

static void put_row(struct text_table *table, const char *name, const struct spread *s)
{
    text_table_cell(table, "%s", name);
    text_table_cell(table, "%s", s->piece);
    text_table_cell(table, "%zu", s->n_matrices);
    text_table_cell(table, "%zu", s->n);
    text_table_cell(table, "%.5f", s->n ? s->sum / (double)s->n : 0);
    text_table_cell(table, "%.2e", s->n ? sqrt(s->squares / (double)s->n) : 0);
    text_table_cell(table, "%.4f", s->least);
    text_table_cell(table, "%.4f", s->most);
}

static void put_spreads(const struct expert *e, FILE *out, bool verbose)
{
    static const char *const heads[] = {"parameters", "",    "matrices", "numbers",
                                        "mean",       "rms", "least",    "most"};
    struct spread kinds[64] = {{0}}, all = {.piece = "all"};
    size_t n_kinds = 0;
    struct text_table table;

    text_table_begin(&table, "llrrrrrr");
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (strcmp(heads[i], "rms") == 0 && start_of(e->matrices[0].parameters[0].name) == 1)
            text_table_cell(&table, "rms of %s-1", e->matrices[0].parameters[0].name);
        else
            text_table_cell(&table, "%s", heads[i]);
    for (size_t i = 0; i < e->n_matrices; i++) {
        const struct expert_matrix *m = &e->matrices[i];
        for (size_t j = 0; j < m->n_parameters; j++) {
            const struct expert_parameter *p = &m->parameters[j];
            size_t k = 0;
            if (!expert_parameter_is_used(e, p))
                continue;
            while (k < n_kinds && (strcmp(kinds[k].module, m->module.name) != 0 ||
                                   strcmp(kinds[k].piece, p->name) != 0))
                k++;
            if (k == n_kinds && n_kinds < sizeof kinds / sizeof *kinds)
                kinds[n_kinds++] = (struct spread){m->module.name, p->name, 0, 0, 0, 0, 0, 0};
            if (k < n_kinds)
                spread_add(&kinds[k], p);
            spread_add(&all, p);
            if (verbose) {
                struct spread one = {.piece = p->name};
                spread_add(&one, p);
                put_row(&table, m->module.path, &one);
            }
        }
    }
    for (size_t k = 0; k < n_kinds; k++)
        put_row(&table, kinds[k].module, &kinds[k]);
    if (all.n > 0) {
        text_table_cell(&table, "all");
        text_table_cell(&table, "%s", "");
        text_table_cell(&table, "%zu", e->n_matrices);
        text_table_cell(&table, "%zu", all.n);
        for (size_t i = 0; i < 4; i++)
            text_table_cell(&table, "%s", "");
    }
    text_table_print(&table, out, 2);
}

/* "rank = 16\nalpha = 32\n" in a line. */
static void put_settings(FILE *out, const char *settings)
{
    char line[512];
    size_t n = 0;

    if (!settings)
        return;
    for (; *settings && n + 3 < sizeof line; settings++) {
        if (*settings == '\n' && !settings[1])
            break;
        line[n++] = *settings == '\n' ? ',' : *settings;
        if (*settings == '\n')
            line[n++] = ' ';
    }
    line[n] = '\0';
    put_text(out, "settings", line);
}

/* ---- the training -------------------------------------------------------------------------------
 */

static double *read_column(hid_t file, const char *name, size_t *n)
{
    size_t columns;
    double *values = h5_numbers(file, name, n, &columns);

    if (values && columns == 0 && *n > 0)
        return values;
    free(values);
    return NULL;
}

static double mean(const double *x, size_t first, size_t end)
{
    double sum = 0;
    for (size_t i = first; i < end; i++)
        sum += x[i];
    return sum / (double)(end - first);
}

/* The curve in eight rows at most, each the mean of its steps. */
static void put_curve(hid_t file, FILE *out)
{
    static const char *const names[] = {"curve/reward", "curve/accuracy", "curve/entropy",
                                        "curve/kl", "curve/gradient_norm"};
    enum { COLUMNS = sizeof names / sizeof *names, ROWS = 8 };
    double *columns[COLUMNS] = {NULL};
    size_t n = 0, n_first = 0;
    struct text_table table;
    bool whole = true;

    if (H5Lexists(file, "curve", H5P_DEFAULT) <= 0)
        return;
    for (size_t c = 0; c < COLUMNS; c++) {
        columns[c] = read_column(file, names[c], &n);
        n_first = c == 0 ? n : n_first;
        whole = whole && columns[c] && n == n_first;
    }
    if (whole) {
        const size_t rows = n < ROWS ? n : ROWS;
        text_table_begin(&table, "lrrrrr");
        text_table_cell(&table, "steps");
        for (size_t c = 0; c < COLUMNS; c++)
            text_table_cell(&table, "%s", strchr(names[c], '/') + 1);
        for (size_t r = 0; r < rows; r++) {
            const size_t first = r * n / rows, end = (r + 1) * n / rows;
            text_table_cell(&table, "%zu-%zu", first + 1, end);
            for (size_t c = 0; c < COLUMNS; c++)
                text_table_cell(&table, "%.3g", mean(columns[c], first, end));
        }
        fputc('\n', out);
        text_table_print(&table, out, 2);
    }
    for (size_t c = 0; c < COLUMNS; c++)
        free(columns[c]);
}

/* MoSLoRA's router and curvatures (adapter_moslora_step.c): at the first step, half-way, at the
 * end.
 */
static void put_mixture(hid_t file, FILE *out)
{
    static const char *const names[] = {
        "weight_euclidean",   "weight_hyperbolic",    "weight_spherical",    "weight_product",
        "top_euclidean",      "top_hyperbolic",       "top_spherical",       "top_product",
        "router_entropy",     "curvature_hyperbolic", "curvature_spherical", "curvature_product_h",
        "curvature_product_s"};
    struct text_table table;
    bool any = false;

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        double *values = NULL;
        size_t n = 0;
        snprintf(path, sizeof path, "curve/%s", names[i]);
        if (H5Lexists(file, "curve", H5P_DEFAULT) > 0 && H5Lexists(file, path, H5P_DEFAULT) > 0)
            values = read_column(file, path, &n);
        if (!values)
            continue;
        if (!any) {
            text_table_begin(&table, "lrrr");
            text_table_cell(&table, "mean of all routers");
            text_table_cell(&table, "first");
            text_table_cell(&table, "half-way");
            text_table_cell(&table, "last");
        }
        any = true;
        text_table_cell(&table, "%s", names[i]);
        text_table_cell(&table, "%.4f", values[0]);
        text_table_cell(&table, "%.4f", values[n / 2]);
        text_table_cell(&table, "%.4f", values[n - 1]);
        free(values);
    }
    if (any) {
        fputc('\n', out);
        text_table_print(&table, out, 2);
    }
}

/* Both over the steps: accuracy of the answers trained on, and of the validations. */
static void put_drawings(hid_t file, FILE *out)
{
    static const char *const names[][3] = {
        {"curve/accuracy", NULL, "accuracy of the answers, by step"},
        {"validation/score", "validation/step", "validation, by step"}};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = 0, n_steps = 0;
        char group[16];
        snprintf(group, sizeof group, "%.*s", (int)strcspn(names[i][0], "/"), names[i][0]);
        if (H5Lexists(file, group, H5P_DEFAULT) <= 0)
            continue;
        double *values = read_column(file, names[i][0], &n);
        double *steps = names[i][1] ? read_column(file, names[i][1], &n_steps) : NULL;
        if (values && n > 2)
            expert_curve_draw(out, names[i][2], values, n_steps == n ? steps : NULL, n,
                              expert_curve_utf8());
        free(values);
        free(steps);
    }
}

static void put_scores(hid_t file, FILE *out)
{
    double before, after, error;
    int64_t step, items;

    if (h5_get_real(file, "valid_before", &before) && h5_get_real(file, "valid_best", &after) &&
        h5_get_int(file, "best_step", &step) && h5_get_int(file, "valid_items", &items))
        fprintf(out, "%-*s %.4f before, best %.4f at step %lld (%lld items)\n", LABEL_WIDTH,
                "validation", before, after, (long long)step, (long long)items);
    if (h5_get_real(file, "test_before", &before) && h5_get_real(file, "test_after", &after) &&
        h5_get_real(file, "test_error", &error) && h5_get_int(file, "test_items", &items))
        fprintf(out, "%-*s %.4f before, %.4f after (+- %.4f, %lld items)\n", LABEL_WIDTH, "test",
                before, after, error, (long long)items);
}

static void put_run(hid_t file, FILE *out)
{
    static const char *const names[][2] = {
        {"transfer", "transfer"},    {"shape", "transfer_shape"}, {"source", "source"},
        {"command", "command_line"}, {"ended", "ended"},          {"numbers", "dtype"},
        {"device", "device"},        {"instructions", "isa"},     {"processor", "cpu"},
        {"started", "started"},      {"t2 version", "t2_version"}};
    int64_t steps, seed, ranks, threads;
    double seconds;
    char took[32];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        put_attribute(out, file, names[i][0], names[i][1]);
    if (h5_get_int(file, "steps", &steps) && h5_get_int(file, "seed", &seed))
        fprintf(out, "%-*s %lld, seed %lld\n", LABEL_WIDTH, "steps", (long long)steps,
                (long long)seed);
    if (h5_get_int(file, "ranks", &ranks) && h5_get_int(file, "threads", &threads) &&
        h5_get_real(file, "seconds", &seconds) && seconds >= 0 && seconds < 1e12)
        fprintf(out, "%-*s %lld of %lld threads, %s\n", LABEL_WIDTH, "ranks", (long long)ranks,
                (long long)threads, text_duration(took, sizeof took, seconds));
}

int expert_describe(const char *path, FILE *out, bool verbose)
{
    struct expert e;

    if (expert_read(&e, path) != 0)
        return -1;
    hid_t file = h5_open(path);
    if (file < 0) {
        expert_free(&e);
        return -1;
    }
    fprintf(out, "%s: %s\n\n", path,
            H5Aexists(file, "adaptation") > 0 ? "a mixture of experts, of t2 adapt"
            : H5Aexists(file, "transfer") > 0 ? "an expert of another model, of t2 transfer"
                                              : "an expert of t2 train");
    put_text(out, "model", e.model);
    put_text(out, "SHA-256", e.identity);
    put_text(out, "task", e.task);
    put_text(out, "adapter", e.kind);
    put_settings(out, e.settings);
    put_text(out, "z", e.parametrisation);
    put_text(out, "factors", e.factors);
    put_run(file, out);
    put_scores(file, out);
    fputc('\n', out);
    put_spreads(&e, out, verbose);
    put_curve(file, out);
    put_mixture(file, out);
    put_drawings(file, out);
    h5_close(file);
    expert_free(&e);
    return 0;
}

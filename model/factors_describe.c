/* Factor files for people: t2 inspect. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/factors_internal.h"
#include "mpi/error.h"
#include "mpi/text.h"

enum { N_MODULES = 7, N_TOPS = 3, LABEL_WIDTH = 13 };
static const size_t tops[N_TOPS] = {1, 10, 100};

/* ---- one matrix's spectrum ---------------------------------------------------------------------
 */

struct spectrum {
    double largest, median, smallest, condition; /* infinite where the smallest is 0 */
    double share[N_TOPS];                        /* of the sum, held by the first; NaN: zero */
};

static struct spectrum spectrum_of(const struct factors_matrix *m)
{
    size_t r = module_rank(&m->module);
    struct spectrum s = {.largest = m->sigma[0], .smallest = m->sigma[r - 1]};
    double sum = 0, partial = 0;

    s.median = r % 2 ? m->sigma[r / 2] : (m->sigma[r / 2 - 1] + m->sigma[r / 2]) / 2;
    s.condition = s.largest / s.smallest; /* 0 / 0 of a zero matrix: NaN */
    for (size_t i = 0; i < r; i++)
        sum += m->sigma[i];
    for (size_t i = 0, t = 0; t < N_TOPS; t++) {
        for (; i < r && i < tops[t]; i++)
            partial += m->sigma[i];
        s.share[t] = partial / sum;
    }
    return s;
}

static double larger(double a, double b)
{
    return b > a || isnan(a) ? b : a;
}

/* The layers' spectra of one kind of module in one: extremes, and means of medians and shares. */
struct summary {
    size_t n, n_condition, n_share;
    struct spectrum all;
    double orthogonality, residual, bound, seconds, flops;
};

static void summary_add(struct summary *sum, const struct factors_matrix *m)
{
    struct spectrum s = spectrum_of(m);

    sum->all.largest = sum->n ? fmax(sum->all.largest, s.largest) : s.largest;
    sum->all.smallest = sum->n ? fmin(sum->all.smallest, s.smallest) : s.smallest;
    sum->all.condition = sum->n ? larger(sum->all.condition, s.condition) : s.condition;
    sum->all.median += s.median;
    if (!isnan(s.share[0])) {
        sum->n_share++;
        for (int t = 0; t < N_TOPS; t++)
            sum->all.share[t] += s.share[t];
    }
    sum->orthogonality = larger(sum->orthogonality, m->report.orthogonality);
    sum->residual = larger(sum->residual, m->report.residual);
    sum->bound = larger(sum->bound, m->report.bound);
    sum->seconds += m->report.seconds;
    sum->flops += m->report.flops;
    sum->n++;
}

static void summary_finish(struct summary *sum)
{
    sum->all.median /= (double)sum->n;
    for (int t = 0; t < N_TOPS; t++)
        sum->all.share[t] /= (double)sum->n_share; /* NaN if there is none */
}

/* ---- cells -------------------------------------------------------------------------------------
 */

static void cell_number(struct text_table *table, double x, const char *format)
{
    char text[32];

    snprintf(text, sizeof text, format, x);
    text_table_cell(table, "%s", isnan(x) ? "-" : text);
}

static void cells_of_spectrum(struct text_table *table, const struct module *module,
                              const struct spectrum *s)
{
    text_table_cell(table, "%zu x %zu", module->n_rows, module->n_columns);
    cell_number(table, s->largest, "%.4g");
    cell_number(table, s->median, "%.3g");
    cell_number(table, s->smallest, "%.3g");
    cell_number(table, s->condition, "%.3g");
    for (int t = 0; t < N_TOPS; t++)
        cell_number(table, 100 * s->share[t], "%.1f");
}

static void heads(struct text_table *table, const char *const *names)
{
    for (; *names; names++)
        text_table_cell(table, "%s", *names);
}

/* Names and texts out of a file may hold anything; a terminal gets printable characters only. */
static void put_text(FILE *file, const char *label, const char *text)
{
    if (!text || !*text)
        return;
    fprintf(file, "%-*s ", LABEL_WIDTH, label);
    for (; *text; text++)
        putc(text_printable(*text, '?'), file);
    putc('\n', file);
}

/* ---- the parts ---------------------------------------------------------------------------------
 */

static void put_about(const struct factors *f, FILE *file)
{
    const struct factors_about *a = factors_about(f);
    double seconds = 0;
    char text[64];
    size_t n = factors_n_matrices(f);

    put_text(file, "command", a->command_line);
    put_text(file, "model", a->model);
    put_text(file, "architecture", a->architecture);
    put_text(file, "SHA-256", a->identity);
    put_text(file, "options", a->options);
    put_text(file, "processor", a->cpu);
    put_text(file, "device", a->device);
    if (a->n_ranks > 0)
        fprintf(file, "%-*s %lld\n", LABEL_WIDTH, "ranks", (long long)a->n_ranks);
    put_text(file, "created", a->created);
    put_text(file, "t2 version", a->version);
    for (size_t i = 0; i < n; i++)
        seconds += factors_get(f, i)->report.seconds;
    fprintf(file, "%-*s %zu, factors in %s", LABEL_WIDTH, "matrices", n,
            factors_type_name(a->type));
    fprintf(file, "; solving them took %s, added up\n", text_duration(text, sizeof text, seconds));
}

/* "lapack f32 28, lapack f64 2": the ways in which the matrices of a kind (-1: all) ended. */
static void ways_text(const struct factors *f, int kind, char *text, size_t size)
{
    size_t at = 0;

    *text = '\0';
    for (int i = 0; i < SVD_METHOD_COUNT * SVD_PRECISION_COUNT; i++) {
        size_t n = 0;
        enum svd_method method = (enum svd_method)(i / SVD_PRECISION_COUNT);
        enum svd_precision precision = (enum svd_precision)(i % SVD_PRECISION_COUNT);
        for (size_t j = 0; j < factors_n_matrices(f); j++) {
            const struct factors_matrix *m = factors_get(f, j);
            n += m->report.method == method && m->report.precision == precision &&
                 (kind < 0 || module_order(m->module.name) == kind);
        }
        if (n > 0 && at < size)
            at += (size_t)snprintf(text + at, size - at, "%s%s %s %zu", at ? ", " : "",
                                   svd_method_name(method), svd_precision_name(precision), n);
    }
}

/* What went another way than straight. */
static void put_detours(const struct factors *f, FILE *file)
{
    size_t tried = 0, repaired = 0, in_full = 0, n = factors_n_matrices(f);

    for (size_t i = 0; i < n; i++) {
        const struct svd_report *r = &factors_get(f, i)->report;
        tried += r->tried_f32 || r->tried_f64;
        repaired += r->repair != SVD_REPAIR_NONE;
        in_full += r->checked_in_full;
    }
    if (in_full == n)
        fputs("Checked in full", file);
    else if (in_full == 0)
        fputs("Checked by random probes", file);
    else
        fprintf(file, "%zu checked in full, the others by random probes", in_full);
    fprintf(file, "; %zu solved again in a higher precision, %zu repaired.\n", tried, repaired);
}

/* By kind of module: the spectra, then the ways and checks. */
static void put_summary(const struct factors *f, FILE *file)
{
    static const char *const spectra[] = {"spectra", "layers",   "shape",     "largest",
                                          "median",  "smallest", "condition", "top 1",
                                          "top 10",  "top 100",  NULL};
    static const char *const checks[] = {
        "solved", "orthogonality", "residual", "bound", "GFLOP/s", "by", NULL};
    struct summary sums[N_MODULES] = {{0}};
    const struct module *modules[N_MODULES] = {NULL};
    struct text_table table;
    char ways[160];

    for (size_t i = 0; i < factors_n_matrices(f); i++) {
        const struct factors_matrix *m = factors_get(f, i);
        int kind = module_order(m->module.name);
        modules[kind] = &m->module;
        summary_add(&sums[kind], m);
    }
    text_table_begin(&table, "lrrrrrrrrr");
    heads(&table, spectra);
    for (int kind = 0; kind < N_MODULES; kind++) {
        if (!modules[kind])
            continue;
        summary_finish(&sums[kind]);
        text_table_cell(&table, "%s", modules[kind]->name);
        text_table_cell(&table, "%zu", sums[kind].n);
        cells_of_spectrum(&table, modules[kind], &sums[kind].all);
    }
    text_table_print(&table, file, 2);
    fputs("  (largest, smallest and condition: of all layers; median and the share in % of the sum "
          "of\n  singular values that the top r hold: means over layers)\n\n",
          file);
    text_table_begin(&table, "lrrrrl");
    heads(&table, checks);
    for (int kind = 0; kind < N_MODULES; kind++) {
        if (!modules[kind])
            continue;
        text_table_cell(&table, "%s", modules[kind]->name);
        cell_number(&table, sums[kind].orthogonality, "%.1e");
        cell_number(&table, sums[kind].residual, "%.1e");
        cell_number(&table, sums[kind].bound, "%.1e");
        cell_number(&table, sums[kind].flops / sums[kind].seconds / 1e9, "%.1f");
        ways_text(f, kind, ways, sizeof ways);
        text_table_cell(&table, "%s", ways);
    }
    text_table_print(&table, file, 2);
    fputs("  (the worst of all layers; bound: of the relative error of a singular value)\n\n",
          file);
    put_detours(f, file);
}

static void put_each(const struct factors *f, FILE *file)
{
    static const char *const names[] = {"matrix",   "shape",     "largest", "median",
                                        "smallest", "cond.",     "top 1",   "top 10",
                                        "top 100",  "solved by", "bound",   NULL};
    struct text_table table;

    text_table_begin(&table, "lrrrrrrrrlr");
    heads(&table, names);
    for (size_t i = 0; i < factors_n_matrices(f); i++) {
        const struct factors_matrix *m = factors_get(f, i);
        struct spectrum s = spectrum_of(m);
        text_table_cell(&table, "%02zu %s", m->module.layer, m->module.name);
        cells_of_spectrum(&table, &m->module, &s);
        text_table_cell(&table, "%s %s%s", svd_method_name(m->report.method),
                        svd_precision_name(m->report.precision),
                        m->report.repair != SVD_REPAIR_NONE ? " *" : "");
        cell_number(&table, m->report.bound, "%.0e");
    }
    text_table_print(&table, file, 2);
    fputs("  (top r: share in % of the sum of singular values; *: repaired)\n\n", file);
}

int factors_describe(const char *path, FILE *file, bool verbose)
{
    struct factors *f = factors_open(path);

    if (!f)
        return -1;
    fprintf(file, "%s: factors of t2 decompose\n\n", path);
    put_about(f, file);
    fputc('\n', file);
    if (verbose)
        put_each(f, file);
    put_summary(f, file);
    factors_close(f);
    return 0;
}

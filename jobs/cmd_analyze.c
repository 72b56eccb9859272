/* t2 analyze: how alike experts are, which singular values they move, and how spectra fall off. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "eval/analysis.h"
#include "eval/spectrum.h"
#include "jobs/commands.h"
#include "jobs/output.h"
#include "mpi/error.h"
#include "mpi/text.h"

enum { MAX_FILES = 4096, MAX_NAMES = 16, MAX_TOP = 60000 };

struct settings {
    const char *out, *mismatch;
    int64_t top;
    bool verbose;
};

static void cell_cosine(struct text_table *table, double cosine)
{
    if (isnan(cosine))
        text_table_cell(table, "-");
    else
        text_table_cell(table, "%.3f", cosine);
}

/* ---- similarity --------------------------------------------------------------------------------
 */

/* Every pair, over all matrices. */
static void print_pairs(const struct analysis *a, const struct similarity *s)
{
    char align[2 + 64] = "l";
    struct text_table table;
    const size_t n = a->n_experts < 64 ? a->n_experts : 64;

    memset(align + 1, 'r', n);
    align[1 + n] = '\0';
    printf("cosine between experts (z - 1, all matrices)\n");
    text_table_begin(&table, align);
    text_table_cell(&table, "%s", "");
    for (size_t i = 0; i < n; i++)
        text_table_cell(&table, "%s", a->experts[i].name);
    for (size_t i = 0; i < n; i++) {
        text_table_cell(&table, "%s", a->experts[i].name);
        for (size_t k = 0; k < n; k++)
            cell_cosine(&table, similarity_cosine(s, i, k, -1, NULL));
    }
    text_table_print(&table, stdout, 2);
}

/* The mean over all pairs, a row a layer and a column a kind of matrix. */
static double mean_cosine(const struct similarity *s, long layer, const char *name)
{
    double sum = 0;
    size_t n = 0;

    for (size_t a = 0; a < s->n_experts; a++)
        for (size_t b = 0; b < a; b++) {
            const double cosine = similarity_cosine(s, a, b, layer, name);
            if (!isnan(cosine)) {
                sum += cosine;
                n++;
            }
        }
    return n ? sum / (double)n : (double)NAN;
}

static void print_layers(const struct similarity *s)
{
    const char *names[MAX_NAMES];
    const size_t n = analysis_names(s->modules, s->n_matrices, names, MAX_NAMES);
    char align[3 + MAX_NAMES] = "rr";
    struct text_table table;

    memset(align + 2, 'r', n);
    printf("\nthe same by layer and kind of matrix%s\n",
           s->n_experts > 2 ? ", mean over all pairs" : "");
    text_table_begin(&table, align);
    text_table_cell(&table, "layer");
    for (size_t k = 0; k < n; k++)
        text_table_cell(&table, "%s", strchr(names[k], '.') ? strchr(names[k], '.') + 1 : names[k]);
    text_table_cell(&table, "all");
    for (size_t m = 0; m < s->n_matrices; m++) {
        const long layer = (long)s->modules[m].layer;
        if (m > 0 && s->modules[m - 1].layer == s->modules[m].layer)
            continue;
        text_table_cell(&table, "%ld", layer);
        for (size_t k = 0; k < n; k++)
            cell_cosine(&table, mean_cosine(s, layer, names[k]));
        cell_cosine(&table, mean_cosine(s, layer, NULL));
    }
    text_table_cell(&table, "all");
    for (size_t k = 0; k < n; k++)
        cell_cosine(&table, mean_cosine(s, -1, names[k]));
    cell_cosine(&table, mean_cosine(s, -1, NULL));
    text_table_print(&table, stdout, 2);
}

/* ---- one expert --------------------------------------------------------------------------------
 */

static int print_moved(const struct analysis_expert *e, size_t n)
{
    struct spectrum_moved *moved = calloc(n + 1, sizeof *moved);
    struct text_table table;

    if (!moved)
        return error_set("out of memory");
    n = spectrum_most_moved(&e->file, e->factors, n, moved);
    printf("\n%s: singular values most moved\n", e->name);
    text_table_begin(&table, "lrrrr");
    text_table_cell(&table, "matrix");
    text_table_cell(&table, "index");
    text_table_cell(&table, "sigma");
    text_table_cell(&table, "z");
    text_table_cell(&table, "sigma z");
    for (size_t i = 0; i < n; i++) {
        const struct spectrum_moved *m = &moved[i];
        text_table_cell(&table, "%s", m->module->path);
        text_table_cell(&table, "%zu", m->index);
        text_table_cell(&table, isnan(m->sigma) ? "-" : "%.4g", m->sigma);
        text_table_cell(&table, "%.4f", m->z);
        text_table_cell(&table, isnan(m->sigma) ? "-" : "%.4g", m->sigma * m->z);
    }
    text_table_print(&table, stdout, 2);
    free(moved);
    return 0;
}

static int print_truncation(const struct analysis_expert *e)
{
    static const double parts[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1};
    enum { N = sizeof parts / sizeof *parts };
    struct spectrum_kept kept[N];
    struct text_table table;

    if (spectrum_truncate(&e->file, e->factors, parts, N, kept) != 0)
        return -1;
    printf("\n%s: part of %s left when a matrix keeps some components only\n", e->name,
           e->factors ? "|W' - W|^2" : "|z - 1|^2 (the factor file is not among the files)");
    text_table_begin(&table, "lrrrrrrr");
    text_table_cell(&table, "components kept");
    for (size_t p = 0; p < N; p++)
        text_table_cell(&table, "%.0f %%", 100 * parts[p]);
    text_table_cell(&table, "those of the largest singular values");
    for (size_t p = 0; p < N; p++)
        text_table_cell(&table, "%.3f", kept[p].first);
    text_table_cell(&table, "those that change the weights most");
    for (size_t p = 0; p < N; p++)
        text_table_cell(&table, "%.3f", kept[p].largest);
    text_table_print(&table, stdout, 2);
    return 0;
}

static void print_tenths(const struct analysis_expert *e, const struct similarity *s)
{
    const char *names[MAX_NAMES];
    const size_t n = analysis_names(s->modules, s->n_matrices, names, MAX_NAMES);
    struct text_table table;

    printf("\n%s: rms of z - 1 by tenths of the spectrum, largest singular values first\n",
           e->name);
    text_table_begin(&table, "lrrrrrrrrrr");
    text_table_cell(&table, "matrices");
    for (int t = 0; t < SPECTRUM_TENTHS; t++)
        text_table_cell(&table, "%d", t + 1);
    for (size_t k = 0; k < n; k++) {
        double rms[SPECTRUM_TENTHS];
        spectrum_tenths(&e->file, names[k], rms);
        if (isnan(rms[0]) && isnan(rms[SPECTRUM_TENTHS - 1]))
            continue;
        text_table_cell(&table, "%s", names[k]);
        for (int t = 0; t < SPECTRUM_TENTHS; t++)
            text_table_cell(&table, isnan(rms[t]) ? "-" : "%.1e", rms[t]);
    }
    text_table_print(&table, stdout, 2);
}

/* ---- spectra -----------------------------------------------------------------------------------
 */

static void shares_row(struct text_table *table, const char *name, const double *share, size_t r)
{
    static const double parts[] = {0.5, 0.9, 0.99};

    text_table_cell(table, "%s", name);
    text_table_cell(table, "%zu", r);
    for (int p = 1; p <= 5; p++)
        text_table_cell(table, "%.3f", share[(r * (size_t)p + 9) / 10 - 1]);
    for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
        text_table_cell(table, "%zu", spectrum_count_for(share, r, parts[p]));
}

/* By kind of matrix the mean over the layers whose matrices have the first one's size. */
static int print_spectra(const struct analysis_factors *f, bool verbose)
{
    static const char *const heads[] = {"matrices", "r",    "10 %", "20 %", "30 %",
                                        "40 %",     "50 %", "50 %", "90 %", "99 %"};
    const size_t n = factors_n_matrices(f->file);
    struct text_table table;
    double *mean = NULL, *share = NULL;
    int status = -1;

    printf(
        "\n%s: share of the sum of the singular values held by the largest 10 ... 50 %% of them, "
        "and how many hold 50, 90, 99 %%\n",
        f->name);
    text_table_begin(&table, "lrrrrrrrrr");
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        text_table_cell(&table, "%s", heads[i]);
    for (size_t i = 0; i < n; i++) {
        const struct factors_matrix *first = factors_get(f->file, i);
        const size_t r = module_rank(&first->module);
        size_t count = 0;
        bool seen = false;
        for (size_t k = 0; k < i && !verbose; k++)
            seen = seen || strcmp(factors_get(f->file, k)->module.name, first->module.name) == 0;
        if (seen)
            continue;
        free(mean);
        free(share);
        mean = calloc(r, sizeof *mean);
        share = calloc(r, sizeof *share);
        if (!mean || !share) {
            error_set("out of memory");
            goto done;
        }
        for (size_t k = i; k < (verbose ? i + 1 : n); k++) {
            const struct factors_matrix *m = factors_get(f->file, k);
            if (strcmp(m->module.name, first->module.name) != 0 || module_rank(&m->module) != r)
                continue;
            spectrum_shares(m->sigma, r, share, NULL);
            for (size_t j = 0; j < r; j++)
                mean[j] += share[j];
            count++;
        }
        for (size_t j = 0; j < r; j++)
            mean[j] /= (double)count;
        shares_row(&table, verbose ? first->module.path : first->module.name, mean, r);
    }
    status = 0;
done:
    text_table_print(&table, stdout, 2);
    free(mean);
    free(share);
    return status;
}

/* ---- the command -------------------------------------------------------------------------------
 */

static enum similarity_mismatch mismatch_of(const char *text)
{
    return strcmp(text, "truncate") == 0      ? MISMATCH_TRUNCATE
           : strcmp(text, "interpolate") == 0 ? MISMATCH_INTERPOLATE
                                              : MISMATCH_REFUSE;
}

static int print_all(const struct settings *s, const struct analysis *a,
                     const struct similarity *similarity)
{
    if (a->n_experts > 1) {
        print_pairs(a, similarity);
        print_layers(similarity);
    }
    for (size_t i = 0; i < a->n_experts; i++) {
        if (s->top > 0 && print_moved(&a->experts[i], (size_t)s->top) != 0)
            return -1;
        print_tenths(&a->experts[i], similarity);
        if (print_truncation(&a->experts[i]) != 0)
            return -1;
    }
    for (size_t i = 0; i < a->n_factors; i++)
        if (print_spectra(&a->factors[i], s->verbose) != 0)
            return -1;
    return 0;
}

static int analyze(const struct settings *s, const char *const *paths, size_t n_paths,
                   const char *command_line)
{
    struct analysis a = {0};
    struct similarity similarity = {0};
    int status = -1;

    if (s->out && output_check(s->out) != 0)
        return -1;
    for (size_t i = 0; i < n_paths; i++)
        if (analysis_add(&a, paths[i]) != 0)
            goto done;
    if (analysis_join(&a) != 0 ||
        analysis_similarity(&a, mismatch_of(s->mismatch), &similarity) != 0 ||
        print_all(s, &a, &similarity) != 0)
        goto done;
    const size_t n_moved = s->top > 1000 ? (size_t)s->top : 1000;
    status = s->out ? analysis_write(&a, &similarity, n_moved, command_line, s->out) : 0;
done:
    similarity_free(&similarity);
    analysis_free(&a);
    return status;
}

static int command_run(const struct comm *comm, int argc, char **argv)
{
    struct settings s = {.mismatch = "refuse", .top = 5};
    struct option_spec table[] = {
        {"out", 'o', OPTION_STRING, &s.out, "FILE.h5",
         .help = "everything as HDF5: each matrix's cosines and shares, the 1000 components most "
                 "moved"},
        {"top", 0, OPTION_INT, &s.top, "N", .min = 0, .max = MAX_TOP,
         .help = "components most moved that are listed of each expert"},
        {"mismatch", 0, OPTION_CHOICE, &s.mismatch, .choices = "refuse|truncate|interpolate",
         .help = "where experts of different models have spectra of different lengths: leave out "
                 "the longer one's end, or read it at the shorter one's places"},
        {"verbose", 'v', OPTION_FLAG, &s.verbose, .help = "the spectrum of every matrix"},
        {0}};
    const char **paths = calloc(MAX_FILES, sizeof *paths);
    char *command_line = output_command_line(argc, argv);
    size_t n_paths;
    bool done = false;
    int code = COMMAND_OK, status = 0;

    if (!paths || !command_line) {
        error_set("out of memory");
        code = command_fail(&command_analyze, comm, COMMAND_FAILED);
    } else if (options_parse(&command_analyze, table, comm, argc, argv, paths, MAX_FILES, &n_paths,
                             &done) != 0) {
        code = command_fail(&command_analyze, comm, COMMAND_USAGE);
    } else if (!done) {
        if (comm->rank == 0)
            status = analyze(&s, paths, n_paths, command_line);
        if (comm_agree(comm, status) != 0)
            code = command_fail(&command_analyze, comm, COMMAND_FAILED);
    }
    free(paths);
    free(command_line);
    options_free(table);
    return code;
}

const struct command command_analyze = {
    .name = "analyze",
    .summary = "Compares experts, and shows singular spectra and what experts do to them.",
    .arguments = "FILES...",
    .details =
        "FILES are experts of t2 train and factor files of t2 decompose, in any order. An expert "
        "whose own factor file is among them is shown with its singular values. Similarity is the "
        "cosine of z - 1, the way from the base model.\n\n"
        "examples\n"
        "  t2 analyze gsm8k.h5 mbpp.h5 arc.h5 factors.h5 --out analysis.h5\n"
        "  t2 analyze factors.h5 --verbose\n"
        "  t2 analyze llama/gsm8k.h5 mistral/gsm8k.h5 --mismatch truncate",
    .run = command_run,
};
